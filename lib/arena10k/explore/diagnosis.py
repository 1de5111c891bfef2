"""What is wrong with a policy's weights or its judge: the reasons of its verdicts in words with its own numbers, and
the figures behind them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from arena10k import plots, report
from arena10k.attribution.words import figure, listed, share_words
from arena10k.evidence import findings
from arena10k.explore.selection import Slice
from arena10k.explore.view import Figures, View
from arena10k.statistics.evaluate import PolicyContext, PolicyReport, Study
from arena10k.statistics.intervals import MAX_KHAT, MAX_WIDTH, MEAN_WEIGHT_RANGE, MIN_ESS_FRACTION
from arena10k.statistics.verdicts import FEW_LABELS, stands

#: By reason, a sentence that may name: `mean` (of the raw weights), `p`, `ess` and `n` (rows), `share` (ESS of rows),
#: `khat`, `tied`, `labels` (on the policy's own draws), `evidence` (of transport), `residual`, `low`,
#: `high` (transport), `trained` (labels that train the calibration), `effective` (of those, where its own draws score).
WORDS = {
    "no_log_weights": "No logged response has log-probs under the policy and the logging policy: there is no weight.",
    "mean_weight_out_of_range": "The raw weights average {mean}; a log that represents the policy gives 1 "
    "({range_low:g} to {range_high:g} is accepted).",
    "mean_weight_impossible": "The raw weights average {mean}, above 1 by more than chance (p {p}): two real policies "
    "cannot do that, so log-probs are wrong.",
    "off_support": "By its {n:,} weights the log does not show {missing} of what the policy says; no weighting brings "
    "it back.",
    "low_ess": "The weights rest on {ess} of {n:,} rows' worth of evidence ({share}; {min_ess:.0%} is wanted).",
    "khat_high": "The tail of the weights is too heavy for a mean to settle (k-hat {khat}, at least {max_khat:g}).",
    "khat_undefined": "How heavy the tail of the weights is cannot be said: {tied:,} of {n:,} rows share the largest "
    "weight.",
    "clip_dominated": "{tied:,} rows are tied at the largest weight and decide the number: it is their mean.",
    "temperature_mismatch": "Responses were drawn at another temperature than their log-probs were measured at: the "
    "weights are of another distribution.",
    "value_outside_interval": "The value lies outside of its own interval: outside of [0, 1], or of what the "
    "weights allow.",
    "no_judge_scores": "No response has a judge score.",
    "no_fresh_draws": "The policy has no responses of its own with a judge score.",
    "no_labels": "There are no oracle labels where they are needed.",
    "not_on_oracle_scale": "The number is on the judge's scale; what that is worth to the oracle is not known.",
    "few_labels": "Labels are few: {labels} on the policy's own draws, {trained} to train the calibration on ({few} "
    "are wanted of each).",
    "transport_failed": "The calibration learned on logged responses is off by {residual} ({low} to {high}) on "
    "{evidence}: the judge errs differently there.",
    "weak_transport_evidence": "Whether the calibration carries over is not settled by {evidence}: it may be off by "
    "{low} to {high}.",
    "no_transport_evidence": "Nothing tests whether the calibration carries over to the policy's own draws.",
    "calibration_extrapolates": "Where the policy's own draws score, the calibration rests on {effective} labels' "
    "worth of evidence: it is extrapolated.",
    "not_finite": "The estimate is not a finite number.",
    "interval_too_wide": "The interval is wider than {max_width:g}: it says nothing.",
}

#: What a transport test was made on.
EVIDENCE = {"target_labels": "the policy's own draws", "weights": "labelled logged responses, re-weighted"}


def reason_words(reason: str, ctx: PolicyContext, report: PolicyReport) -> str:
    """The words for one reason; its name where there are none."""
    audit, transport, prep = report.audit, report.transport, ctx.prep
    trained = int(prep.sample(prep.source or "logged").labelled.sum())
    return WORDS.get(reason, reason.replace("_", " ") + ".").format(
        mean=figure(audit.mean_weight),
        range_low=MEAN_WEIGHT_RANGE[0],
        range_high=MEAN_WEIGHT_RANGE[1],
        p=figure(report.mean_weight_p),
        missing=share_words(min(report.missing_mass, 1 - 1e-15)),
        ess=figure(audit.ess),
        n=audit.n,
        share=share_words(audit.ess / audit.n) if audit.n else "none",
        min_ess=MIN_ESS_FRACTION,
        khat=figure(audit.khat),
        max_khat=MAX_KHAT,
        tied=audit.ceiling,
        labels=transport.n_labels,
        evidence=EVIDENCE.get(transport.evidence, transport.evidence),
        few=FEW_LABELS,
        effective=figure(report.effective_labels),
        trained=trained,
        residual=f"{transport.residual:+.3f}",
        low=f"{transport.low:+.3f}",
        high=f"{transport.high:+.3f}",
        max_width=MAX_WIDTH,
    )


class Diagnosis(View):
    """What `run.diagnose(policy)` answers.

    `verdicts`: the policy's rows of `run.estimate()`. `problems`: what speaks against them, one row per reason, in
    words, with the estimators it concerns. `facts`: the measures behind them by name. `report` and `context`: the
    diagnostics as the library's functions take them.
    """

    def __init__(self, policy: str, judge: str, study: Study, part: Slice):
        self.policy, self.judge = policy, judge
        self.report: PolicyReport = study.reports[policy, judge]
        self.context: PolicyContext = study.contexts[policy, judge]
        self.verdicts = findings.estimates_frame(study.rows)
        counted = findings.counted(study.rows)
        self.problems = _problems(counted, self.context, self.report)
        self.facts = _facts(self.report, self.context, counted)
        columns = ["estimator", "value", "ci_low", "ci_high", "verdict", "reasons", "labels_needed"]
        super().__init__(
            [*part.sentences, _verdicts(policy, counted), *_missing(policy, part)],
            *([report.table(self.problems, text=["what is wrong"])] if len(self.problems) else []),
            report.table([{"measure": name, "value": report.format_value(fact)} for name, fact in self.facts.items()]),
            report.Folded("The estimates are in .verdicts", report.table(self.verdicts, columns=columns)),
            figures=_figures(policy, judge, part, self),
        )


def _verdicts(policy: str, rows: list[dict[str, Any]]) -> str:
    """Which estimates stand, and whether weights alone may be used."""
    by = {v: [r["estimator"] for r in rows if r["verdict"] == v] for v in report.VERDICTS}
    by["CAUTION"] = [r["estimator"] for r in rows if r["verdict"] == "CAUTION" and stands(r)]
    raw = [r["estimator"] for r in rows if r["verdict"] != "REFUSE" and not stands(r)]
    told = [f"{listed(by['REPORT'])} may be reported" if by["REPORT"] else "none may be reported as it is"]
    if by["CAUTION"]:
        told.append(f"{listed(by['CAUTION'])} with caution")
    if raw:
        told.append(f"{listed(raw)} only on the judge's scale")
    if by["REFUSE"]:
        told.append(f"{listed(by['REFUSE'])} {'is' if len(by['REFUSE']) == 1 else 'are'} refused")
    return f"Of {len(rows)} estimates of {policy}, {'; '.join(told)}."


def _missing(policy: str, part: Slice) -> list[str]:
    """How many logged rows have no weight."""
    gone, aside = part.table.missing.get(policy, 0), part.table.quarantined.get(policy, 0)
    if policy == part.table.logging_policy:
        return [f"{policy} is the logging policy: its weights are 1 by definition."]
    if not gone:
        return []
    set_aside = f", {aside:,} of them because a value is set aside" if aside else ""
    return [f"{gone:,} of {len(part.table.logged):,} logged rows have no usable weight{set_aside}."]


def _problems(rows: list[dict[str, Any]], ctx: PolicyContext, found: PolicyReport) -> pd.DataFrame:
    concerned: dict[str, list[str]] = {}
    for row in rows:
        for reason in row["reasons"]:
            concerned.setdefault(reason, []).append(row["estimator"])
    told = [
        {"reason": reason, "what is wrong": reason_words(reason, ctx, found), "concerns": ", ".join(names)}
        for reason, names in concerned.items()
    ]
    return pd.DataFrame(told, columns=["reason", "what is wrong", "concerns"])


def _facts(r: PolicyReport, ctx: PolicyContext, rows: list[dict[str, Any]]) -> dict[str, Any]:
    needed = next((row["labels_needed"] for row in rows if row["labels_needed"] is not None), None)
    weights = {
        "judged rows with a weight": r.audit.n,
        "mean weight (1 where the log represents the policy)": r.audit.mean_weight,
        "effective sample size": r.audit.ess,
        "weight of the ten heaviest rows": r.top_shares["top_10"],
        "k-hat of the tail": r.audit.khat,
        "share of the policy that by them is not in the log": r.missing_mass,
    }
    judging = {
        "AUC of the judge on logged labels (0.5 is guessing)": r.auc_logged,
        "AUC on the policy's own draws": r.auc_target,
        "transport of the calibration": r.transport.status,
        f"its error on {EVIDENCE.get(r.transport.evidence, 'nothing')}": r.transport.residual,
        "labels' worth of calibration where its draws score": r.effective_labels,
        "labels on the policy's own draws": r.transport.n_labels,
        f"labels there that a width of {ctx.width:g} takes (PPI++)": needed,
    }
    return judging if r.is_logging else weights | judging


def _figures(policy: str, judge: str, part: Slice, found: Diagnosis) -> Figures:
    # The rows that the measures beside the figures are of.
    judged = replace(part.table, logged=part.table.logged.dropna(subset=[f"judge_{judge}"]))
    logged = judged.logged
    score, label = logged[f"judge_{judge}"].to_numpy(float), logged.label.to_numpy(float)
    alt = "Logged labels against judge scores"
    figures: dict[str, Any] = {
        "forest": lambda: (plots.forest(found.verdicts), f"Estimates. {plots.forest_finding(found.verdicts)}.")
    }
    if np.isfinite(score + label).any():
        figures["reliability"] = lambda: (
            plots.reliability(score, label), f"{alt}. {plots.reliability_finding(score, label)}."
        )  # fmt: skip
    weights = {p: w for p, w in judged.log_weights().items() if p == policy}
    if not any(np.isfinite(w).any() for w in weights.values()):
        return figures
    nulls = {policy: found.report.permutation}
    return figures | {
        "log_weights": lambda: (plots.log_weights(weights), f"Log-weights. {plots.log_weights_finding(weights)}."),
        "overlap": lambda: (plots.overlap(weights), f"ESS and mean weight. {plots.overlap_finding(weights)}."),
        "ccdf": lambda: (plots.ccdf(weights), f"Tail of the weights. {plots.ccdf_finding(weights)}."),
        "reward_by_weight": lambda: (
            plots.reward_by_weight(weights, {policy: score}),
            f"Judge score against log-weight. {plots.reward_by_weight_finding(weights, {policy: score})}.",
        ),
        "permutation": lambda: (plots.permutation(nulls), plots.permutation_alt(nulls)),
    }
