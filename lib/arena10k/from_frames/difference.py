"""The usual case: are the new answers better than the old ones, by how much, and may that be believed?"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from arena10k.errors import DataError, unknown
from arena10k.estimation import planning
from arena10k.estimation.checked import Column, check_frame, check_scale
from arena10k.estimation.intervals import normal
from arena10k.estimation.thresholds import FEW_LABELS
from arena10k.estimation.verdicts import CAUTION, REFUSE, REPORT, accepted
from arena10k.explore.view import View
from arena10k.from_frames.frame import Named, check_votes, groups, sides_of, voted
from arena10k.from_frames.values import Evaluated, evaluate
from arena10k.report import headline, reasons, table
from arena10k.wording import level, percent, rounded

#: Those of `evaluate` that have a sense for a comparison.
OPTIONS = ("width", "confidence", "judge_shift", "belief")


class Comparison(View):
    """What `compare` answers: `difference` (*new - old*, on the label's scale) with `ci_low` and `ci_high`, NaN where
    it is refused; `verdict` and `reasons`; `sentence` and `notes` in words; `evaluation` of both, `old` and `new`. Of
    `votes` the value of each side is its win rate."""

    def __init__(self, evaluation: Evaluated, old: str, new: str, votes: bool = False, note: str = ""):
        self.evaluation, self.old, self.new, self.votes = evaluation, old, new, votes
        self._pair: dict[str, Any] = next(iter(evaluation.result["contrasts"]), {})
        ends = (self._pair.get(name, np.nan) for name in ("difference", "low", "high"))
        self.difference, self.ci_low, self.ci_high = ends
        rows = headline(evaluation.result)
        refused, doubted = ([r for r in rows if not sound(r)] for sound in (accepted, lambda r: r["verdict"] == REPORT))
        self.verdict = REFUSE if refused else CAUTION if doubted else REPORT
        why = [(reason, row["policy"]) for row in refused or doubted for reason in row["reasons"]]
        self.reasons, scale, mode = list(dict(why)), evaluation.scale, evaluation.judge
        said = dict.fromkeys(reasons.sentence(reason, evaluation.contexts[p, mode], scale) for reason, p in why)
        self.sentence = self._refusal([row["policy"] for row in refused]) if refused else self._finding()
        self.notes = [" ".join([f"Verdict: {self.verdict}.", *said]), *[note] * bool(note)]
        n = evaluation.prompts()
        for side in (old, new):
            if lost := n - evaluation.prompts(side):
                self.notes.append(f"{lost:,} of {n:,} prompts have no {side} answer: the value is that of the others.")
        columns = ["policy", "value", "ci_low", "ci_high", "verdict", "estimator"]
        super().__init__([self.sentence, *self.notes], table(rows, columns=columns))

    def _finding(self) -> str:
        ends, scale, level_ = (self.ci_low, self.ci_high), self.evaluation.scale, self.evaluation.analysis.confidence
        apart = self._pair["significant"]
        # Of answers that are worse by so much the interval is turned, like the difference.
        shown = [self.difference, *ends] if not apart else [abs(self.difference), *sorted(map(abs, ends))]
        size, low, high = (rounded(x, *ends) for x in shown)
        by = f"{size} points on a scale of {scale.low:g} to {scale.high:g} ({level(level_)} interval {low} to {high})"
        by = f" by {by}" if apart else f"the difference is {by}"
        if self.votes:
            rate, low, high = (percent((1 + x) / 2) for x in (self.difference, *ends))
            wins = f"win {rate} of the votes, a tie being a half ({level(level_)} interval {low} to {high})"
            by = f": they {wins}" if apart else f"the {self.new} ones {wins}"
        if apart:
            way = "better" if self.difference > 0 else "worse"
            return f"The {self.new} answers are {way} than the {self.old} answers{by}."
        # Two intervals of this width tell a difference of that size with the chance that plans have; what one side wins
        # of votes the other loses.
        several = 1.0 if self.votes else np.sqrt(2)
        width = several * abs(self.difference) / (1 + special.ndtri(planning.ASSURANCE) / normal(level_))
        more = self._labels(width, (self.old, self.new), "would settle it, if it is as large as it looks")
        text = f"The {self.new} and the {self.old} answers cannot be told apart from these"
        return f"{text} {self.evaluation.prompts():,} prompts: {by}.{more}"

    def _refusal(self, refused: Sequence[str]) -> str:
        width = self.evaluation.analysis.width * self.evaluation.scale.size
        whom = "each" if len(refused) == 2 else "them"
        more = self._labels(width, refused, f"would give {whom} a value with an interval of width {width:g}")
        text = f"Whether the {self.new} answers are better than the {self.old} answers cannot be said from these"
        return f"{text} {self.evaluation.prompts():,} prompts.{more}"

    def _labels(self, width: float, sides: Sequence[str], what: str) -> str:
        """How many more labels of those sides would do what; nothing where that is none, or more than can be. Without
        labels to plan from it is the most that it can take."""
        plan, n = self.evaluation.plan([width]).set_index("policy").loc[list(sides)], self.evaluation.prompts()
        more, labels = int(plan["more"].max()), int(plan["labels"].max())
        if more <= 0 or labels >= planning.MAX_LABELS:
            return ""
        where = f", on more prompts than these {n:,}," if labels > n else ""
        kind = "votes" if self.votes else "labels per side" if len(sides) == 2 else f"labels of {sides[0]} answers"
        blind = (plan["pilot"] == "worst_case").any()
        less = f", or fewer if the first {FEW_LABELS} of them vary less," if blind and more > FEW_LABELS else ""
        about = "At most" if blind else "About"
        return f" {about} {float(f'{more:.2g}'):,.0f} more {kind}{where or less} {what}."

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write one self-contained HTML file: the answer, and behind it what `Evaluated.report` has."""
        from arena10k.from_frames import page  # draws figures

        title = f"Are the {self.new} answers better than the {self.old} answers?"
        notes = " ".join(note for note in self.notes if note != f"Verdict: {REPORT}.")
        return page.write(self.evaluation, path, title, self.sentence, notes, self.verdict == REFUSE)


def compare(
    df: pd.DataFrame,
    old: str = "answer_old",
    new: str = "answer_new",
    *,
    judge: Named | None = None,
    label: Named | None = None,
    winner: str | None = None,
    scale: tuple[float, float] = (0.0, 1.0),
    judge_scale: tuple[float, float] | None = None,
    label_scale: tuple[float, float] | None = None,
    policy: str = "policy",
    prompt: str | None = None,
    cluster: str | None = None,
    **options: Any,
) -> Comparison:
    """Whether new answers are better than old ones: *new - old* with interval, verdict and a sentence.

    Parameters
    ----------
    df : wide, a row per prompt with columns `old` and `new` of answers; or long, a row per answer with a column
        `policy`, in which `old` and `new` are names. Where a wide frame has neither answer, score nor label of a side,
        there is none.
    prompt : column that says which prompt a row is of; `prompt_id` or `prompt` where None. A wide frame without them
        has one prompt for all rows whose texts beside the answers are the same; without such texts one for each row.
    judge, label : columns of the judge's scores and of the oracle's labels (True and False are 1 and 0); NaN is "not
        there". One of both may be left out. In a wide frame `judge="judge"` is `judge_old` and `judge_new`, by the
        ends in which `old` and `new` differ; or give a pair of names.
    winner : in place of `label` the column of a wide frame with votes on which answer is better: the end of its column
        ("old", "new"), the column, or "tie", which is a half for both. NaN is no vote.
    scale : the ends of both scales; `judge_scale` and `label_scale` where they differ. Declared, never guessed.
    cluster : as of `evaluate`; so are `options`: `width`, `confidence`, `judge_shift`, `belief`.

    A DataError names a column that is not there, and frame, row and column of a value that is outside its scale.
    """
    check_frame("df", df)
    for name in options.keys() - set(OPTIONS):
        known = [key for key in inspect.signature(compare).parameters if key != "options"]
        raise DataError(f"compare: {unknown('argument', name, [*known, *OPTIONS])}")
    scales = {
        "judge": check_scale("judge_scale", scale if judge_scale is None else judge_scale),
        "label": check_scale("label_scale", scale if label_scale is None else label_scale),
    }
    measures = {key: given for key, given in (("judge", judge), ("label", label)) if given is not None}
    check_votes(df)
    if winner is not None:
        if label is not None:
            raise DataError("compare: give `winner` or `label`: a vote is the label of both answers")
        df, measures["label"] = voted(df, winner, old, new)
        scales["label"] = check_scale("label_scale", (0, 1))
    if not measures or old == new:
        lacks = f"`old` and `new` are both {old!r}" if measures else "give `judge`, `label` or both (or `winner`)"
        raise DataError(f"compare: {lacks}")
    sides, parts = sides_of(df, (old, new), measures, policy), []
    same, note = groups(df, (old, new), prompt, cluster, [winner, *(c for side in sides for c in side[2].values())])
    # The new ones first: a difference is the first minus the second.
    for side, rows, columns in reversed(sides):
        if not rows.any():
            raise DataError(f"df: no row has an answer, a score or a label of {side!r}")
        for key, name in columns.items():
            Column(key, name, *scales[key]).of("df", df)
        own = pd.DataFrame({"policy": side, **same, **{key: df[name] for key, name in columns.items()}})
        parts.append(own[rows])
    options |= {f"{key}_scale": ends for key, ends in scales.items()}
    options["cluster"] = "cluster" if cluster else None
    found = evaluate(fresh=pd.concat(parts, ignore_index=True), **options)
    (first, *_), (second, *_) = sides
    return Comparison(found, first, second, winner is not None, note)
