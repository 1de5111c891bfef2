"""What a `Run` answers when it is to estimate, diagnose or explain: sentences, tables, figures drawn when asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from arena10k import attribution, plots, report
from arena10k.attribution import Investigation
from arena10k.estimation import compare, diagnostics
from arena10k.estimation.context import PolicyContext
from arena10k.estimation.evaluation import Evaluation
from arena10k.estimation.verdicts import accepted
from arena10k.explore.rows import heavy_table
from arena10k.explore.selection import Slice
from arena10k.explore.view import Figures, Rows, View
from arena10k.report import findings, reasons
from arena10k.wording import level, listed

_COLUMNS = ["estimator", "value", "ci_low", "ci_high", "verdict", "reasons", "labels_needed"]
#: Up to so many estimates are shown at once; of more, each policy's most trusted one.
_ALL_SHOWN = 12


class Estimates(Rows):
    """What `run.estimate()` answers.

    `frame`: one row per policy, judge mode and estimator with the fields of `estimates.json`, reasons as one text.
    `rows`: the same as lists and numbers. `ranking`: who may be reported, best first; equal ranks are ties.
    `contrasts`: the difference of every two of them. `study`: everything computed, for the library's functions.
    `n`: prompts used.
    """

    def __init__(self, study: Evaluation, part: Slice, judges: Sequence[str]):
        self.study, self.rows, self.n = study, study.rows, part.n
        contexts = study.of_judge(judges[0])
        contrasts = [dataclasses.asdict(pair) for pair in compare.contrasts(contexts)]
        ranking = [dataclasses.asdict(place) for place in compare.ranking(contexts)]
        self.ranking = pd.DataFrame(ranking, columns=[f.name for f in dataclasses.fields(compare.Ranked)])
        self.contrasts = findings.contrasts_frame(contrasts)
        frame = findings.estimates_frame(self.rows)
        truth = dict(zip(part.table.truth.policy, part.table.truth.value, strict=True))
        sentences = [*part.sentences, findings.estimates_sentence(self.rows, judges[0])]
        if max((row["labels_needed"] or 0 for row in self.rows), default=0) > part.n:
            limit = f"the {part.n:,} prompts asked about"
            sentences.append(f"Where more labels are needed than {limit}, it takes more prompts.")
        if len(contexts) > 1:
            sentences.append(findings.contrasts_sentence(contrasts, ranking))
        head = {"judge": judges[0], "belief": study.analysis.belief, "logging_policy": part.table.logging_policy}
        tables = _tables(frame, findings.headline_frame(head | {"rows": self.rows}), judges)
        super().__init__(frame, sentences, *tables, figures={"forest": lambda: plots.forest(frame, truth)})


def _tables(frame: pd.DataFrame, headline: pd.DataFrame, judges: Sequence[str]) -> list[report.Table | report.Folded]:
    columns = ["judge"] * (len(judges) > 1) + ["policy", *_COLUMNS]
    modes = f"judge mode{'s' * (len(judges) > 1)} {' and '.join(judges)}"
    every = report.table(frame, columns=columns, caption=f"Every estimate ({modes})")
    if len(frame) <= _ALL_SHOWN or headline.empty:
        return [every]
    caption = f"The headline estimate of each policy (judge mode {judges[0]})"
    first = report.table(headline, columns=["policy", *_COLUMNS], caption=caption)
    return [first, report.Folded(f"All {len(frame):,} estimates are in .frame", every)]


class Diagnosis(View):
    """What `run.diagnose(policy)` answers.

    `verdicts`: the policy's rows of `run.estimate()`. `problems`: what speaks against them, one row per reason, in
    words, with the estimators it concerns. `facts`: the measures behind them by name. `context`: the
    diagnostics as the library's functions take them.
    """

    def __init__(self, policy: str, judge: str, study: Evaluation, part: Slice):
        self.policy, self.judge = policy, judge
        self.context: PolicyContext = study.contexts[policy, judge]
        self.verdicts = findings.estimates_frame(study.rows)
        rows = findings.counted(study.rows)
        self.problems = _problems(rows, self.context)
        self.facts = _facts(self.context, rows)
        super().__init__(
            [*part.sentences, _verdicts(policy, rows), *_missing(policy, part)],
            *([report.table(self.problems, text=["what is wrong"])] if len(self.problems) else []),
            report.table([{"measure": name, "value": report.format_value(fact)} for name, fact in self.facts.items()]),
            report.Folded("The estimates are in .verdicts", report.table(self.verdicts, columns=_COLUMNS)),
            figures=_figures(part, self),
        )


def _verdicts(policy: str, rows: list[dict[str, Any]]) -> str:
    """Which estimates are accepted, and whether weights alone may be used."""
    by = {v: [r["estimator"] for r in rows if r["verdict"] == v] for v in report.VERDICTS}
    by["CAUTION"] = [r["estimator"] for r in rows if r["verdict"] == "CAUTION" and accepted(r)]
    raw = [r["estimator"] for r in rows if r["verdict"] != "REFUSE" and not accepted(r)]
    parts = [f"{listed(by['REPORT'])} may be reported" if by["REPORT"] else "none may be reported as it is"]
    if by["CAUTION"]:
        parts.append(f"{listed(by['CAUTION'])} with caution")
    if raw:
        parts.append(f"{listed(raw)} only on the judge's scale")
    if by["REFUSE"]:
        parts.append(f"{listed(by['REFUSE'])} {'is' if len(by['REFUSE']) == 1 else 'are'} refused")
    return f"Of {len(rows)} estimates of {policy}, {'; '.join(parts)}."


def _missing(policy: str, part: Slice) -> list[str]:
    """How many logged rows have no weight."""
    missing, quarantined = part.table.missing.get(policy, 0), part.table.quarantined.get(policy, 0)
    if policy == part.table.logging_policy:
        return [f"{policy} is the logging policy: its weights are 1 by definition."]
    if not missing:
        return []
    why = f", {quarantined:,} of them because a value is quarantined" if quarantined else ""
    return [f"{missing:,} logged rows have no usable weight{why}."]


def _problems(rows: list[dict[str, Any]], ctx: PolicyContext) -> pd.DataFrame:
    concerned: dict[str, list[str]] = {}
    for row in rows:
        for reason in row["reasons"]:
            concerned.setdefault(reason, []).append(row["estimator"])
    problems = [(r, reasons.sentence(r, ctx), ", ".join(names)) for r, names in concerned.items()]
    return pd.DataFrame(problems, columns=["reason", "what is wrong", "concerns"])


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


def _figures(part: Slice, diagnosis: Diagnosis) -> Figures:
    # The rows that the measures beside the figures are of.
    policy, column = diagnosis.policy, f"judge_{diagnosis.judge}"
    judged = dataclasses.replace(part.table, logged=part.table.logged.dropna(subset=[column]))
    score, label = judged.logged[column].to_numpy(float), judged.logged.label.to_numpy(float)
    figures: dict[str, Any] = {"forest": lambda: plots.forest(diagnosis.verdicts)}
    if np.isfinite(score + label).any():
        figures["reliability"] = lambda: plots.reliability(score, label)
    weights = {p: w for p, w in judged.log_weights().items() if p == policy and np.isfinite(w).any()}
    if not weights:
        return figures
    return figures | {
        "log_weights": lambda: plots.log_weights(weights),
        "overlap": lambda: plots.overlap(weights),
        "ccdf": lambda: plots.ccdf(weights),
        "reward_by_weight": lambda: plots.reward_by_weight(weights, {policy: score}),
        "permutation": lambda: plots.permutation({policy: diagnosis.context.permutation}),
    }


class Explanation(View):
    """What `run.explain(policy)` answers.

    `row`: the policy's row of `anomaly.json`, with `published`, `trusted`, `gap`, `main_cause` and `anomaly` (None: not
    testable). `parts`: what the gap is made of, by cause, with intervals. `heavy`: the logged rows that carry most of
    the published weight. `sentence`: the verdict. `investigation`: of all policies, for the library's functions.
    """

    def __init__(self, policy: str, inv: Investigation, part: Slice, top: int = 10):
        finding = inv.findings[policy]
        self.policy, self.investigation = policy, inv
        self.row: dict[str, Any] = attribution.anomaly_row(finding, inv)
        self.sentence: str = self.row["sentence"]
        self.parts = attribution.parts_frame(self.row)
        score = f"judge_{inv.judge_mode}"
        judged = part.table.logged.dropna(subset=[score])
        self.heavy = attribution.heavy_rows(judged, finding.log_weight, judged[score].to_numpy(float), top)
        sentences = [*part.sentences, self.sentence]
        if inv.flip is not None and policy in (inv.flip.winner, inv.flip.rival):
            sentences.append(attribution.flip_sentence(inv))
        if policy == inv.focus.policy:
            sentences.append(attribution.mass_sentence(inv))
        shown: list[report.Table | report.Drawn] = []
        figures: dict[str, Any] = {}
        if finding.trusted is not None:
            intervals = f"{level(finding.confidence)} intervals"
            caption = f"What the gap between published and trusted value is made of (Shapley values, {intervals})"
            figures["waterfall"] = lambda: plots.waterfall(self.row)
            shown += [report.table(self.parts, caption=caption), *([figures["waterfall"]()] * bool(finding.anomaly))]
        if len(self.heavy):
            figures["overlap"] = lambda: plots.overlap({policy: finding.log_weight})
            figures["shrinkage"] = self._shrinkage
        if len(self.heavy) and policy != inv.logging_policy:
            shown.append(heavy_table(self.heavy, f"The heaviest of {len(judged):,} judged responses for {policy}"))
        super().__init__(sentences, *shown, figures=figures)

    def _shrinkage(self) -> report.Drawn:
        game = self.investigation.findings[self.policy].game
        paths = attribution.shrinkage_paths(game.published_log_weight, game.prep.logged.judge)
        return plots.shrinkage(self.policy, paths, self.row["trusted_ci"])
