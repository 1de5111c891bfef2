"""The diagnostics beside the estimates, as frames and as sentences computed from them. Weights are always raw."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from arena10k.estimation import diagnostics, pareto
from arena10k.estimation.calibration import LevelFit
from arena10k.estimation.context import PolicyContext
from arena10k.estimation.diagnostics import PermutationNull
from arena10k.estimation.thresholds import WRONG
from arena10k.wording import listed, number, percent

Contexts = Iterable[PolicyContext]


def _targets(contexts: Contexts, judge: str) -> list[PolicyContext]:
    return [r for r in contexts if r.judge == judge and not r.is_logging]


#: The columns of `audit_frame` as a reader sees them.
AUDIT_COLUMNS = {
    "policy": "policy",
    "rows": "rows",
    "missing": "missing",
    "mean_weight": "mean weight",
    "p_value": "p (mean above 1)",
    "match": "p (weights match the draws)",
    "missing_mass": "missing mass",
    "mass_low": "mass low",
    "mass_high": "mass high",
    "el_low": "el low",
    "el_high": "el high",
}


def audit_frame(contexts: Contexts, judge: str) -> pd.DataFrame:
    """E[w] = 1 is an identity: rows, missing rows, E[w], p-value against E[w] <= 1, whether weights match the draws,
    missing mass, and what the missing mass and empirical likelihood leave of the value."""
    return pd.DataFrame(
        [
            {
                "policy": r.policy,
                "rows": r.audit.n,
                "missing": r.n_missing_weight,
                "mean_weight": r.audit.mean_weight,
                "p_value": r.mean_weight_p,
                "match": _match(r.match_p),
                "missing_mass": r.missing_mass if r.audit.n else None,
                "mass_low": r.missing_mass_interval[0],
                "mass_high": r.missing_mass_interval[1],
                "el_low": r.el.low,
                "el_high": r.el.high,
            }
            for r in _targets(contexts, judge)
        ]
    )


def audit_sentence(contexts: Contexts, judge: str) -> str:
    """Whose mean weight cannot come from two real policies, and whose mass is missing most."""
    found = [r for r in _targets(contexts, judge) if r.audit.n]
    if not found:
        return "No judged row has a log-weight: there is nothing to audit."
    impossible = [r.policy for r in found if r.mean_weight_p < WRONG]
    most = max(found, key=lambda r: r.missing_mass)
    first = (
        f"The mean weight of {listed(impossible)} is above 1 by more than chance: log-probs are wrong."
        if impossible
        else "No mean weight is above 1 by more than chance."
    )
    if most.missing_mass < 0.001:
        return first
    # 1 - E[w] rounds to 1 for tiny weights; that all is missing is never known.
    missing = percent(min(most.missing_mass, float(np.nextafter(1, 0))))
    return (
        f"{first} The mean weight of {most.policy} ({number(most.audit.mean_weight)}, {most.audit.n:,} judged rows) "
        f"implies that {missing} of its probability, by estimate, lies on responses absent from the log."
    )


def _match(p: float) -> str:
    if np.isnan(p):
        return "not testable"
    return f"{'no, ' if p < WRONG else ''}{f'{p:.2g}' if p >= 0.001 else 'under 0.001'}"


def match_sentence(contexts: Contexts, judge: str) -> str:
    """Whose weights are not those of the policy that was drawn from, by the judge's scores of both."""
    found = _targets(contexts, judge)
    wrong = [r.policy for r in found if r.match_p < WRONG]
    unknown = [r.policy for r in found if np.isnan(r.match_p)]
    if len(unknown) == len(found):
        return "Whether weights and draws are of the same policy cannot be tested: it takes both, of ten prompts each."
    told = "For no policy do the judge's scores contradict that weights and draws are of the same policy"
    if wrong:
        whose = "its" if len(wrong) == 1 else "their"
        told = f"The weights of {listed(wrong)} do not match {whose} draws: policy, temperature or text is another"
    untested = f"; not testable: {listed(unknown)}" if unknown else ""
    return f"{told}{untested}. A judge that scores two policies alike sees no difference between them."


def concentration_frame(contexts: Contexts, judge: str) -> pd.DataFrame:
    """On how few rows the weights rest: ESS, k-hat, Hill index, top shares, rows tied at the ceiling, overlap."""
    rows = []
    for r in _targets(contexts, judge):
        a = r.audit
        row = {
            "policy": r.policy,
            "ess": a.ess if a.n else None,
            "ess_share": a.ess / a.n if a.n else np.nan,
            "khat": a.khat,
        }
        lw = r.prep.raw_log_weight
        row |= {"hill": pareto.hill(lw)} | diagnostics.top_shares(lw) | {"at_ceiling": a.ceiling if a.n else None}
        row["clip_dominated"] = ("yes" if a.clip_dominated else "no") if a.n else None
        rows.append(row | {"sqrt_overlap": diagnostics.overlap(lw), "typicality": r.typicality})
    return pd.DataFrame(rows)


def nulls(contexts: Contexts, judge: str) -> dict[str, PermutationNull]:
    """The permutation null of every target."""
    return {r.policy: r.permutation for r in _targets(contexts, judge)}


def judging_frame(contexts: Contexts) -> pd.DataFrame:
    """Per policy and judge mode: the transport test with its evidence, and AUC of judge against oracle."""
    return pd.DataFrame(
        [
            {
                "policy": r.policy,
                "judge": r.judge,
                "transport": r.transport.status,
                "evidence": r.transport.evidence.replace("_", " "),
                "labels": r.transport.n_labels,
                "residual": r.transport.residual,
                "low": r.transport.low,
                "high": r.transport.high,
                "auc_logged": diagnostics.judge_auc(r.data.logged.judge, r.data.logged.label),
                "auc_target": diagnostics.judge_auc(r.data.fresh.judge, r.data.fresh.label),
                "trained_on": r.prep.source,
                "effective_labels": r.effective_labels,
            }
            for r in contexts
            if not r.is_logging
        ]
    )


def transport_sentence(contexts: Contexts, judge: str) -> str:
    """For whom the calibration carries over to the target's own draws."""
    found = _targets(contexts, judge)
    words = {
        "passed": "the calibration carries over to {}",
        "own": "the calibration is trained on the policy's own labels for {}",
        "failed": "the calibration does not carry over to {}",
        "weak": "the labels are too few to say whether the calibration carries over to {}",
        "none": "nothing tests whether the calibration carries over to {}",
    }
    by = {s: [r.policy for r in found if r.transport.status == s] for s in words}
    told = [words[s].format(", ".join(names)) for s, names in by.items() if names]
    return ("; ".join(told)[:1].upper() + "; ".join(told)[1:] + ".") if told else "There is nothing to test."


def noise_sentence(contexts: Contexts, judge: str) -> str:
    """What the clones say about the noise of the log-probs."""
    floors = [(r.policy, r.noise_floor) for r in _targets(contexts, judge) if r.noise_floor is not None]
    if not floors:
        return "No policy is known to be a copy of the logging policy: the noise of the log-probs is not measured."
    told = [
        f"all {f.n:,} log-weights of {policy} are exactly 0"
        if f.exact
        else f"the log-weights of {policy} differ from 0 by {number(f.median_abs)} (median), {number(f.q99_abs)} (99th "
        f"percentile) and {number(f.max_abs)} nats (largest), its mean weight is {number(f.mean_weight)}"
        for policy, f in floors
        if f.n
    ]
    if not told:
        return "No log-weight of a copy of the logging policy is known: the noise of the log-probs is not measured."
    return f"Noise of the log-probs, from policies meant as copies of the logging policy: {'; '.join(told)}."


def calibration_curve(ctx: PolicyContext) -> tuple[np.ndarray, np.ndarray] | None:
    """The fitted calibration as grid and values; None where it is not a function of the score alone, or not fitted."""
    fit = ctx.prep.fit
    return (fit.levels, fit.values[-1]) if isinstance(fit, LevelFit) and ctx.prep.source else None


def calibration_sentence(ctx: PolicyContext) -> str:
    """How far the judge, and f(S) out of fold, are from the labels that trained f, by groups of equal size."""
    prep = ctx.prep
    if prep.source is None:
        return "There are too few labels to calibrate the judge: values stay on its own scale."
    rows = prep.sample(prep.source)
    has = rows.labelled > 0
    label, score = rows.label[has], rows.judge[has]
    f = (prep.reward_oof if prep.source == "logged" else prep.fresh_oof)[has]
    where = "logged responses" if prep.source == "logged" else "of the target's own draws"
    judge, calibrated = float(((label - score) ** 2).mean()), float(((label - f) ** 2).mean())
    closer = abs(label.mean() - f.mean()) < abs(label.mean() - score.mean())
    remark = (
        ""
        if calibrated < judge
        else (
            ", which predicts single labels no better than the score; "
            + ("what it fixes is the mean" if closer else "nor is its mean closer: on these labels it brings nothing")
        )
    )
    return (
        f"On {len(label):,} labelled {where} the mean label is {label.mean():.3f}, the judge's mean score "
        f"{score.mean():.3f} and its calibration's, trained on other folds, {f.mean():.3f}; the mean squared error is "
        f"{judge:.3f} for the judge and {calibrated:.3f} for the calibration{remark}."
    )


def plan_sentence(plans: pd.DataFrame, width: float, priced: bool, prompts: int) -> str:
    """What the wanted width takes, and what it costs; `prompts` that the run has."""
    wanted = plans[(plans.estimator == "ppi_pp") & np.isclose(plans.width, width)]
    if wanted.empty:
        return "There is no policy to plan for."
    there = wanted[wanted.more == 0]
    have = "has" if len(there) == 1 else "have"
    told = f"For an interval of width {width:g} by PPI++, {len(there)} of {len(wanted)} policies {have} enough labels"
    short = wanted[wanted.more > 0]
    if len(short):
        told += (
            f"; the other {len(short)} need {int(short.more.sum()):,} more"
            if len(there)
            else (f": together they need {int(short.more.sum()):,} more")
        )
        if priced and short.cost.notna().all():
            told += f", at most ${short.cost.sum():,.2f} with the draws they are of"
    more = (
        f" Plans of more than {prompts:,} draws, the prompts of this run, take more prompts or several draws of each."
        if plans.draws.max() > prompts
        else ""
    )
    return f"{told}.{more}" if priced else f"{told}.{more} The params name no price, so no cost is shown."


def plan_frame(plans: pd.DataFrame, priced: bool) -> pd.DataFrame:
    """The plans for a table; without prices their costs are no information."""
    return plans if priced else plans.drop(columns="cost")


def plan_caption(priced: bool) -> str:
    """What the columns of `plan_frame` are."""
    told = (
        "Labels (PPI++: of the policy's own draws; direct: those that train f) and draws in all, how many labels more "
    )
    cost = ", and the cost in US dollars of what is not there yet, if answers are as long as they may be"
    return f"{told}that is{cost if priced else ''}"
