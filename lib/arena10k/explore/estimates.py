"""Estimates of a run or of a part of it, with what they say."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pandas as pd

from arena10k import plots, report
from arena10k.estimation import compare
from arena10k.estimation.evaluate import Study
from arena10k.evidence import findings
from arena10k.explore.selection import Slice
from arena10k.explore.view import Rows

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

    def __init__(self, study: Study, part: Slice, judges: Sequence[str]):
        self.study, self.rows, self.n = study, study.rows, part.n
        contexts = study.of_judge(judges[0])
        ranking = [dataclasses.asdict(place) for place in compare.ranking(contexts)]
        contrasts = [dataclasses.asdict(c) for c in compare.contrasts(contexts)]
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
        told = {"judge": judges[0], "belief": study.analysis.belief, "logging_policy": part.table.logging_policy}
        best = findings.headline_frame(told | {"rows": self.rows})
        figures = {"forest": lambda: plots.forest(frame, truth)}
        super().__init__(frame, said, *_tables(frame, best, judges), figures=figures)


def _tables(frame: pd.DataFrame, best: pd.DataFrame, judges: Sequence[str]) -> list[report.Table | report.Folded]:
    columns = _COLUMNS if len(judges) == 1 else ["judge", *_COLUMNS]
    told = f"judge mode {judges[0]}" if len(judges) == 1 else f"judge modes {' and '.join(judges)}"
    every = report.table(frame, columns=columns, caption=f"Every estimate ({told})")
    if len(frame) <= _ALL_SHOWN or best.empty:
        return [every]
    caption = f"The headline estimate of each policy (judge mode {judges[0]})"
    first = report.table(best, columns=_COLUMNS, caption=caption)
    return [first, report.Folded(f"All {len(frame):,} estimates are in .frame", every)]
