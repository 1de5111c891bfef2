"""Estimates of a run or of a part of it with what they say, and why a published number is what it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pandas as pd

from arena10k import attribution, plots, report
from arena10k.attribution import Investigation
from arena10k.attribution.words import level
from arena10k.evidence import findings
from arena10k.explore.looking import heavy_table
from arena10k.explore.selection import Slice
from arena10k.explore.view import Picture, Rows, View
from arena10k.statistics import compare
from arena10k.statistics.evaluate import Study

_COLUMNS = ["policy", "estimator", "value", "ci_low", "ci_high", "verdict", "reasons", "labels_needed"]
#: Up to so many estimates are shown at once; of more, each policy's most trusted one.
_ALL_SHOWN = 12


class Estimates(Rows):
    """What `run.estimate()` answers.

    `frame`: one row per policy, judge mode and estimator with the fields of `estimates.json`, reasons as one text.
    `rows`: the same as lists and numbers. `ranking`: who may be reported, best first; equal ranks are ties.
    `contrasts`: the difference of every two of them. `study`: everything computed, for the library's functions.
    `n`: prompts used.
    """

    def __init__(self, study: Study, part: Slice, judges: Sequence[str], confidence: float):
        self.study, self.rows, self.n = study, study.rows, part.n
        contexts = study.of_judge(judges[0])
        ranking = [dataclasses.asdict(place) for place in compare.ranking(contexts, confidence)]
        contrasts = [dataclasses.asdict(c) for c in compare.contrasts(contexts, confidence=confidence)]
        self.ranking = pd.DataFrame(ranking, columns=[f.name for f in dataclasses.fields(compare.Ranked)])
        self.contrasts = findings.contrasts_frame(contrasts)
        frame = findings.estimates_frame(self.rows)
        truth = dict(zip(part.table.truth.policy, part.table.truth.value, strict=True))
        said = [*part.sentences, findings.estimates_sentence(self.rows, judges[0])]
        needed = max((row["labels_needed"] or 0 for row in self.rows), default=0)
        if needed > part.n:
            said.append(f"Where more labels are needed than the {part.n:,} prompts asked about, it takes more prompts.")
        if len(contexts) > 1:
            said.append(findings.contrasts_sentence(contrasts, ranking))
        super().__init__(
            frame, said, *_tables(frame, self.rows, judges),
            figures={
                "forest": lambda: (
                    plots.forest(frame, truth),
                    f"Estimates and intervals by policy. {plots.forest_finding(frame, truth)}.",
                )
            },
        )  # fmt: skip


def _tables(
    frame: pd.DataFrame, rows: list[dict[str, Any]], judges: Sequence[str]
) -> list[report.Table | report.Folded]:
    columns = _COLUMNS if len(judges) == 1 else ["judge", *_COLUMNS]
    told = f"judge mode {judges[0]}" if len(judges) == 1 else f"judge modes {' and '.join(judges)}"
    every = report.table(frame, columns=columns, caption=f"Every estimate ({told})")
    best = findings.headline_frame(rows, judges[0])
    if len(frame) <= _ALL_SHOWN or best.empty:
        return [every]
    caption = f"The headline estimate of each policy (judge mode {judges[0]})"
    first = report.table(best, columns=_COLUMNS, caption=caption)
    return [first, report.Folded(f"All {len(frame):,} estimates are in .frame", every)]


class Explanation(View):
    """What `run.explain(policy)` answers.

    `row`: the policy's row of `anomaly.json`, with `published`, `trusted`, `gap`, `main_cause` and `anomaly` (None: not
    testable). `parts`: what the gap is made of, by cause, with intervals. `heavy`: the logged rows that carry most of
    the published weight. `sentence`: the verdict. `investigation`: of all policies, for the library's functions.
    """

    def __init__(self, policy: str, inv: Investigation, part: Slice, top: int = 10):
        found = inv.findings[policy]
        self.policy, self.investigation = policy, inv
        self.row: dict[str, Any] = attribution.anomaly_row(found, inv)
        self.sentence: str = self.row["sentence"]
        self.parts = attribution.parts_frame(self.row)
        score = f"judge_{inv.judge_mode}"
        judged = part.table.logged.dropna(subset=[score])
        self.heavy = attribution.heavy_rows(judged, found.log_weight, judged[score].to_numpy(float), top)
        said = [*part.sentences, self.sentence]
        if inv.flip is not None and policy in (inv.flip.winner, inv.flip.rival):
            said.append(attribution.flip_sentence(inv))
        if policy == inv.focus.policy:
            said.append(attribution.mass_sentence(inv))
        known = found.trusted is not None
        tables: list[report.Table | Picture] = []
        if known:
            intervals = f"{level(found.confidence)} intervals"
            caption = f"What the gap between published and trusted value is made of (Shapley values, {intervals})"
            tables.append(report.table(self.parts, caption=caption))
        if known and found.anomaly:
            tables.append(Picture(plots.waterfall(self.row), plots.waterfall_alt(self.row)))
        if len(self.heavy) and policy != inv.logging_policy:
            tables.append(heavy_table(self.heavy, f"The heaviest of {len(judged):,} judged responses for {policy}"))
        super().__init__(said, *tables, figures=self._drawn(known))

    def _drawn(self, known: bool) -> dict[str, Any]:
        weights = {self.policy: self.investigation.findings[self.policy].log_weight}
        figures: dict[str, Any] = {}
        if known:
            figures["waterfall"] = lambda: (plots.waterfall(self.row), plots.waterfall_alt(self.row))
        if len(self.heavy):
            figures["overlap"] = lambda: (plots.overlap(weights), f"Weights. {plots.overlap_finding(weights)}.")
            game = self.investigation.findings[self.policy].game
            band = self.row["trusted_ci"]
            paths = attribution.shrinkage_paths(game.published_log_weight, game.prep.logged.judge)
            figures["shrinkage"] = lambda: (
                plots.shrinkage(self.policy, paths, band),
                plots.shrinkage_alt(self.policy, paths, band),
            )
        return figures
