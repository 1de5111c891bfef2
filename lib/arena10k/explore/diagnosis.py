"""What is wrong with a policy's weights or its judge, in words, with the figures behind them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from arena10k import plots, report
from arena10k.estimation import diagnostics
from arena10k.estimation.context import PolicyContext
from arena10k.estimation.evaluation import Evaluation
from arena10k.estimation.verdicts import accepted
from arena10k.evidence import findings
from arena10k.explore import reasons
from arena10k.explore.selection import Slice
from arena10k.explore.view import Figures, View
from arena10k.wording import listed


class Diagnosis(View):
    """What `run.diagnose(policy)` answers.

    `verdicts`: the policy's rows of `run.estimate()`. `problems`: what speaks against them, one row per reason, in
    words, with the estimators it concerns. `facts`: the measures behind them by name. `context`: the diagnostics as the
    library's functions take them.
    """

    def __init__(self, policy: str, judge: str, study: Evaluation, part: Slice):
        self.policy, self.judge = policy, judge
        self.context: PolicyContext = study.contexts[policy, judge]
        self.verdicts = findings.estimates_frame(study.rows)
        counted = findings.counted(study.rows)
        self.problems = _problems(counted, self.context)
        self.facts = _facts(self.context, counted)
        columns = ["estimator", "value", "ci_low", "ci_high", "verdict", "reasons", "labels_needed"]
        super().__init__(
            [*part.sentences, _verdicts(policy, counted), *_missing(policy, part)],
            *([report.table(self.problems, text=["what is wrong"])] if len(self.problems) else []),
            report.table([{"measure": name, "value": report.format_value(fact)} for name, fact in self.facts.items()]),
            report.Folded("The estimates are in .verdicts", report.table(self.verdicts, columns=columns)),
            figures=_figures(policy, judge, part, self),
        )


def _verdicts(policy: str, rows: list[dict[str, Any]]) -> str:
    """Which estimates are accepted, and whether weights alone may be used."""
    by = {v: [r["estimator"] for r in rows if r["verdict"] == v] for v in report.VERDICTS}
    by["CAUTION"] = [r["estimator"] for r in rows if r["verdict"] == "CAUTION" and accepted(r)]
    raw = [r["estimator"] for r in rows if r["verdict"] != "REFUSE" and not accepted(r)]
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
    quarantined = f", {aside:,} of them because a value is quarantined" if aside else ""
    return [f"{gone:,} logged rows have no usable weight{quarantined}."]


def _problems(rows: list[dict[str, Any]], ctx: PolicyContext) -> pd.DataFrame:
    concerned: dict[str, list[str]] = {}
    for row in rows:
        for reason in row["reasons"]:
            concerned.setdefault(reason, []).append(row["estimator"])
    told = [
        {"reason": reason, "what is wrong": reasons.sentence(reason, ctx), "concerns": ", ".join(names)}
        for reason, names in concerned.items()
    ]
    return pd.DataFrame(told, columns=["reason", "what is wrong", "concerns"])


def _facts(r: PolicyContext, rows: list[dict[str, Any]]) -> dict[str, Any]:
    needed = next((row["labels_needed"] for row in rows if row["labels_needed"] is not None), None)
    weights = {
        "judged rows with a weight": r.audit.n,
        "mean weight (1 where the log represents the policy)": r.audit.mean_weight,
        "effective sample size": r.audit.ess if r.audit.n else None,
        "weight of the ten heaviest rows": diagnostics.top_shares(r.prep.raw_log_weight)["top_10"],
        "k-hat of the tail": r.audit.khat,
        "share of the policy that by them is not in the log": r.missing_mass if r.audit.n else None,
    }
    auc = [diagnostics.judge_auc(rows.judge, rows.label) for rows in (r.data.logged, r.data.fresh)]
    judging = {
        "AUC of the judge on logged labels (0.5 is guessing)": auc[0],
        "AUC on the policy's own draws": auc[1],
        "transport of the calibration": r.transport.status,
        f"its error on {reasons.EVIDENCE.get(r.transport.evidence, 'nothing')}": r.transport.residual,
        "labels' worth of calibration where its draws score": r.effective_labels,
        "labels on the policy's own draws": r.transport.n_labels,
        f"labels there that a width of {r.analysis.width:g} takes (PPI++)": needed,
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
    nulls = {policy: found.context.permutation}
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
