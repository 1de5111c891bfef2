"""The diagnostics beside the estimates, as frames and as sentences computed from them. Weights are always raw."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from arena10k.estimation import diagnostics, pareto
from arena10k.estimation.calibration import LevelFit
from arena10k.estimation.context import PolicyContext
from arena10k.estimation.thresholds import WRONG
from arena10k.wording import listed, number, percent

Contexts = Iterable[PolicyContext]


def _targets(contexts: Contexts, judge: str) -> list[PolicyContext]:
    return [r for r in contexts if r.judge == judge and not r.is_logging]


def audit_frame(contexts: Contexts, judge: str) -> pd.DataFrame:
    """E[w] = 1 is an identity: rows, missing rows, E[w], p-value against E[w] <= 1, whether weights match the draws,
    missing mass, and what the missing mass and empirical likelihood leave of the value."""

    def match(p: float) -> str:
        return "not testable" if np.isnan(p) else "no, " * (p < WRONG) + (f"{p:.2g}" if p >= 0.001 else "under 0.001")

    return pd.DataFrame(
        [
            {
                "policy": r.policy,
                "rows": r.audit.n,
                "missing": r.n_missing_weight,
                "mean_weight": r.audit.mean_weight,
                "p_value": r.mean_weight_p,
                "match": match(r.match_p),
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
    weighted = [r for r in _targets(contexts, judge) if r.audit.n]
    if not weighted:
        return "No judged row has a log-weight: there is nothing to audit."
    impossible = [r.policy for r in weighted if r.mean_weight_p < WRONG]
    text = "No mean weight is above 1 by more than chance."
    if impossible:
        text = f"The mean weight of {listed(impossible)} is above 1 by more than chance: log-probs are wrong."
    most = max(weighted, key=lambda r: r.missing_mass)
    if most.missing_mass >= 0.001:
        # 1 - E[w] rounds to 1 for tiny weights; that all is missing is never known.
        share = percent(min(most.missing_mass, float(np.nextafter(1, 0))))
        text += (
            f" The mean weight of {most.policy} ({number(most.audit.mean_weight)}, {most.audit.n:,} judged rows) "
            f"implies that {share} of its probability, by estimate, lies on responses absent from the log."
        )
    return text


def match_sentence(contexts: Contexts, judge: str) -> str:
    """Whose weights are not those of the policy that was drawn from, by the judge's scores of both."""
    targets = _targets(contexts, judge)
    wrong = [r.policy for r in targets if r.match_p < WRONG]
    untested = [r.policy for r in targets if np.isnan(r.match_p)]
    if len(untested) == len(targets):
        return "Whether weights and draws are of the same policy cannot be tested: it takes both, of ten prompts each."
    text = "By the judge's scores, no policy's weights contradict its draws"
    if wrong:
        whose = "its" if len(wrong) == 1 else "their"
        text = f"The weights of {listed(wrong)} do not match {whose} draws: policy, temperature or text is another"
    text += f"; not testable: {listed(untested)}" if untested else ""
    return f"{text}. A judge that scores two policies alike cannot tell them apart."


def concentration_frame(contexts: Contexts, judge: str) -> pd.DataFrame:
    """On how few rows the weights rest: ESS, k-hat, Hill index, top shares, rows tied at the ceiling, overlap."""
    return pd.DataFrame(
        [
            {
                "policy": r.policy,
                "ess": r.audit.ess if r.audit.n else None,
                "ess_share": r.audit.ess / r.audit.n if r.audit.n else np.nan,
                "khat": r.audit.khat,
                "hill": pareto.hill(r.prep.raw_log_weight),
                **diagnostics.top_shares(r.prep.raw_log_weight),
                "at_ceiling": r.audit.ceiling if r.audit.n else None,
                "clip_dominated": ("yes" if r.audit.clip_dominated else "no") if r.audit.n else None,
                "sqrt_overlap": diagnostics.overlap(r.prep.raw_log_weight),
                "typicality": r.typicality,
            }
            for r in _targets(contexts, judge)
        ]
    )


def judging_frame(contexts: Contexts) -> pd.DataFrame:
    """Per policy and judge: the transport test with its evidence, and AUC of judge against oracle."""
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


_TRANSPORT = {
    "passed": "the calibration carries over to {}",
    "own": "the calibration is trained on the policy's own labels for {}",
    "failed": "the calibration does not carry over to {}",
    "weak": "the labels are too few to say whether the calibration carries over to {}",
    "none": "nothing tests whether the calibration carries over to {}",
}


def transport_sentence(contexts: Contexts, judge: str) -> str:
    """For whom the calibration carries over to the target's own draws."""
    targets = _targets(contexts, judge)
    by = {status: [r.policy for r in targets if r.transport.status == status] for status in _TRANSPORT}
    text = "; ".join(_TRANSPORT[status].format(listed(names)) for status, names in by.items() if names)
    return f"{text[0].upper()}{text[1:]}." if text else "There is nothing to test."


def noise_sentence(contexts: Contexts, judge: str) -> str:
    """What the clones say about the noise of the log-probs."""
    floors = {r.policy: r.noise_floor for r in _targets(contexts, judge) if r.noise_floor is not None}
    parts = [
        f"all {f.n:,} log-weights of {policy} are exactly 0"
        if f.exact
        else f"the log-weights of {policy} differ from 0 by {number(f.median_abs)} (median), {number(f.q99_abs)} (99th "
        f"percentile) and {number(f.max_abs)} nats (largest), its mean weight is {number(f.mean_weight)}"
        for policy, f in floors.items()
        if f.n
    ]
    if not parts:
        which = "log-weight of a copy" if floors else "copy"
        return f"No {which} of the logging policy is known: the noise of the log-probs is not measured."
    return f"Noise of the log-probs, measured on copies of the logging policy: {'; '.join(parts)}."


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
    f, where = prep.fresh_oof, "of the target's own draws"
    if prep.source == "logged":
        f, where = prep.reward_oof, "logged responses"
    label, score, f = (column[rows.labelled > 0] for column in (rows.label, rows.judge, f))
    judge, calibrated = float(((label - score) ** 2).mean()), float(((label - f) ** 2).mean())
    remark = ""
    if calibrated >= judge:
        closer = abs(label.mean() - f.mean()) < abs(label.mean() - score.mean())
        mean = "but its mean is closer" if closer else "and its mean is no closer: on these labels it brings nothing"
        remark = f" The calibration predicts single labels no better than the score, {mean}."
    return (
        f"On {len(label):,} labelled {where} the mean label is {label.mean():.3f}, the judge's mean score "
        f"{score.mean():.3f} and that of its calibration, trained on other folds, {f.mean():.3f}; the mean squared "
        f"error is {judge:.3f} for the judge and {calibrated:.3f} for the calibration.{remark}"
    )


def plan_frame(plans: pd.DataFrame) -> pd.DataFrame:
    """Labels that PPI++ takes in all, by policy and width of the interval."""
    own = plans[plans.estimator == "ppi_pp"]
    labels = own.pivot_table("labels", "policy", "width", sort=False).reindex(columns=sorted(set(own.width))[::-1])
    return labels.rename(columns=lambda width: f"width {width:g}").reset_index()


def plan_sentence(plans: pd.DataFrame, width: float, priced: bool, prompts: int, narrow: Iterable[str] = ()) -> str:
    """What the wanted width takes, and what it costs; `prompts` that the run has, and the policies whose intervals are
    as `narrow` as that already."""
    wanted = plans[(plans.estimator == "ppi_pp") & np.isclose(plans.width, width)]
    if wanted.empty:
        return "There is no policy to plan for."
    short = wanted[(wanted.more > 0) & ~wanted.policy.isin(list(narrow))]
    enough = len(wanted) - len(short)
    have = "has" if enough == 1 else "have"
    text = f"For an interval of width {width:g} by PPI++, {enough} of {len(wanted)} policies {have} enough labels"
    if len(short):
        who = f"; the other {len(short)} need" if enough else ": together they need"
        text += f"{who} {int(short.more.sum()):,} more"
        if priced and short.cost.notna().all():
            text += f", at most ${short.cost.sum():,.2f} with the draws they are of"
    if plans.draws.max() > prompts:
        text += (
            f". Plans of more than {prompts:,} draws, one for each prompt of this run, take more prompts or several "
        )
        text += "draws of each"
    return f"{text}." + ("" if priced else " The params name no price, so no cost is shown.")
