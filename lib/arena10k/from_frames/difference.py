"""The usual case: are the new answers better than the old ones, by how much, and may that be believed?"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from arena10k.errors import DataError, unknown
from arena10k.estimation import planning
from arena10k.estimation.checked import Column, check_columns, check_frame, check_scale, names
from arena10k.estimation.intervals import normal
from arena10k.estimation.verdicts import CAUTION, REFUSE, REPORT, accepted
from arena10k.explore.view import View
from arena10k.from_frames.values import Evaluated, evaluate
from arena10k.report import findings, headline, reasons
from arena10k.report import table as table_of
from arena10k.wording import VERDICT_WORDS, level, rounded

#: A column in both forms of a frame, or one per side.
Named = str | Sequence[str]
#: By argument of `evaluate` the column, and the ends of its scale.
Measures = Mapping[str, tuple[Named, tuple[float, float]]]


class Comparison(View):
    """What `compare` answers.

    `difference` (*new - old*, on the label's scale) with `ci_low` and `ci_high`, NaN where it is refused; `verdict` and
    `reasons`; `sentence` says it in words. `evaluation` has everything behind it: both policies' estimates, plans.
    """

    def __init__(self, evaluation: Evaluated, old: str, new: str):
        self.evaluation, self.old, self.new = evaluation, old, new
        pair = next(iter(findings.against(evaluation.result["contrasts"], old)), {})
        self.difference, self.ci_low, self.ci_high = (
            float(pair.get(name, "nan")) for name in ("difference", "low", "high")
        )
        self.rows = headline(evaluation.result)
        doubted = [row for row in self.rows if row["verdict"] != REPORT]
        self.verdict = CAUTION if doubted else REPORT
        if not all(map(accepted, self.rows)):
            self.verdict, doubted = REFUSE, [row for row in self.rows if not accepted(row)]
        self.reasons = list(dict.fromkeys(reason for row in doubted for reason in row["reasons"]))
        said = {
            reasons.sentence(reason, evaluation.contexts[row["policy"], evaluation.judge], evaluation.scale): None
            for row in doubted
            for reason in row["reasons"]
        }
        self.sentence = self._refusal() if self.verdict == REFUSE else self._finding(bool(pair["significant"]))
        self.notes = [" ".join([f"Verdict: {VERDICT_WORDS.get(self.verdict, self.verdict)}.", *said]), *self._absent()]
        columns = ["policy", "value", "ci_low", "ci_high", "verdict", "estimator"]
        super().__init__([self.sentence, *self.notes], table_of(self.rows, columns=columns))

    def _finding(self, significant: bool) -> str:
        ends, scale = (self.ci_low, self.ci_high), self.evaluation.scale
        size = abs(self.difference) if significant else self.difference
        # Of answers that are worse by so much the interval is turned, like the difference.
        low, high = sorted(map(abs, ends)) if significant else ends
        by, low_, high_ = (rounded(x, *ends) for x in (size, low, high))
        points = f"{by} points on a scale of {scale.low:g} to {scale.high:g}"
        interval = f"({level(self.evaluation.analysis.confidence)} interval {low_} to {high_})"
        if significant:
            way = "better" if self.difference > 0 else "worse"
            return f"{_start(self.new)} answers are {way} than {self.old} answers by {points} {interval}."
        text = f"{_start(self.new)} and {self.old} answers cannot be told apart from these "
        text += f"{self.evaluation.prompts():,} prompts: the difference is {points} {interval}."
        # Two intervals of this width would tell a difference of that size with the chance that plans have.
        z = normal(self.evaluation.analysis.confidence)
        width = np.sqrt(2) * size * z / (z + special.ndtri(planning.ASSURANCE))
        return text + self._labels(abs(width), "would settle it, if it is as large as it looks")

    def _refusal(self) -> str:
        text = f"Whether {self.new} answers are better than {self.old} answers cannot be said from these "
        text += f"{self.evaluation.prompts():,} prompts."
        width = self.evaluation.analysis.width * self.evaluation.scale.size
        return text + self._labels(width, f"would give each a value with an interval of width {width:g}")

    def _labels(self, width: float, what: str) -> str:
        """How many more labels would do what; nothing where none would, or labels are not what is lacking."""
        if not width > 0:
            return ""
        plan, prompts = self.evaluation.plan([width]), self.evaluation.prompts()
        if plan["labels"].max() >= planning.MAX_LABELS:
            return " It is too small for labels to settle it."
        more = int(plan["more"].max())
        where = f", on more prompts than these {prompts:,}," if plan["labels"].max() > prompts else ""
        return f" About {float(f'{more:.2g}'):,.0f} more labels per side{where} {what}." if more else ""

    def _absent(self) -> list[str]:
        every = self.evaluation.prompts()
        absent = {side: every - self.evaluation.prompts(side) for side in (self.old, self.new)}
        return [
            f"{n:,} of {every:,} prompts have no {side} answer: the value of {side} is that of the others."
            for side, n in absent.items()
            if n
        ]

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write one self-contained HTML file: the answer, and behind it what `Evaluation.report` has. Returns the
        path."""
        from arena10k.from_frames import page  # draws figures

        title, notes = f"{_start(self.new)} answers against {self.old} answers", " ".join(self.notes)
        return page.write(self.evaluation, path, title, self.sentence, notes, self.verdict == REFUSE)


def compare(
    df: pd.DataFrame,
    old: str = "answer_old",
    new: str = "answer_new",
    *,
    judge: Named | None = None,
    label: Named | None = None,
    scale: tuple[float, float] = (0.0, 1.0),
    judge_scale: tuple[float, float] | None = None,
    label_scale: tuple[float, float] | None = None,
    policy: str = "policy",
    cluster: str | None = None,
    **options: Any,
) -> Comparison:
    """Whether new answers are better than old ones: *new - old* with interval, verdict and a sentence.

    Parameters
    ----------
    df : wide, a row per prompt with columns `old` and `new` of answers; or long, a row per answer with a column
        `policy`, in which `old` and `new` are names. `prompt_id` (or `prompt`) says which prompt a row is of; without
        it each row of a wide frame is a prompt. A row of a wide frame without an answer, score and label of one side
        has none of that side.
    judge, label : columns of the judge's scores and of the oracle's labels (True and False are 1 and 0); NaN is "not
        there". One of both may be left out. In a wide frame `judge="judge"` is `judge_old` and `judge_new`, by the
        ends in which `old` and `new` differ; or give a pair of names.
    scale : the ends of both scales; `judge_scale` and `label_scale` where they differ. Declared, never guessed.
    cluster : as of `evaluate`; so are `options`: `width`, `confidence`, `judge_shift`, `belief`.

    A DataError names a column that is not there, and frame, row and column of a value that is outside its scale.
    """
    check_frame("df", df)
    measures: dict[str, tuple[Named, tuple[float, float]]] = {}
    scales = {"judge": judge_scale, "label": label_scale}
    for key, given in (("judge", judge), ("label", label)):
        ends = check_scale("scale", scale) if scales[key] is None else check_scale(f"{key}_scale", scales[key])
        scales[key] = ends
        if given is not None:
            measures[key] = given, ends
    if not measures:
        raise DataError("compare: give `judge`, `label` or both: without scores and labels answers have no value")
    if old == new:
        raise DataError(f"compare: `old` and `new` are both {old!r}")
    frame, take = df.reset_index(drop=True), _wide if old in df or new in df else _long
    if take is _long and policy not in frame:
        check_columns("df", frame, [old], f"; of a long frame name the column that has {old!r} and {new!r}, policy=...")
    check_columns("df", frame, [cluster] if cluster else [])
    fresh, sides = take(frame, (old, new), measures, policy)
    for side in sides:
        if side not in set(fresh["policy"]):
            raise DataError(f"df: no row has an answer, a score or a label of {side!r}")
    if cluster:
        fresh["cluster"] = frame[cluster].to_numpy()[fresh["row"]]
    found = evaluate(
        fresh=fresh,
        judge_scale=scales["judge"] or scale,
        label_scale=scales["label"] or scale,
        cluster="cluster" if cluster else None,
        **options,
    )
    return Comparison(found, *sides)


def _start(name: str) -> str:
    """At the start of a sentence, a word with a capital; any other name as it is."""
    return name.capitalize() if name.isalpha() and name.islower() else name


def _wide(frame: pd.DataFrame, pair: tuple[str, str], measures: Measures, _: str) -> tuple[pd.DataFrame, list[str]]:
    """The answers of both sides one below the other, and what the sides are called."""
    # What both begin with, up to a sign that separates words.
    shared = re.match(r"(.*[\W_]|)[^\0]*\0\1", "\0".join(pair))
    start = shared[1] if shared else ""
    sides = [name[len(start) :] or name for name in pair]
    check_columns("df", frame, pair)
    prompts, parts = _prompts(frame), []
    for k, (answer, side) in enumerate(zip(pair, sides, strict=True)):
        part: dict[str, Any] = {"policy": side, "prompt_id": prompts, "row": frame.index}
        for key, (given, ends) in measures.items():
            if not isinstance(given, str) and len(given) != 2:
                raise DataError(f"{key}: {given!r} is no pair of columns, old and new")
            name = f"{given}{start[-1:] or '_'}{side}" if isinstance(given, str) else given[k]
            part[key] = _measure(frame, key, name, ends, f"; or give a pair, {key}=(old, new)")
        own = pd.DataFrame(part)
        parts.append(own[frame[answer].notna() | own[list(measures)].notna().any(axis=1)])
    return pd.concat(parts, ignore_index=True), sides


def _long(
    frame: pd.DataFrame, pair: tuple[str, str], measures: Measures, policy: str
) -> tuple[pd.DataFrame, list[str]]:
    prompts, which = _prompts(frame, needed=True), names("df", frame, policy)
    for name in pair:
        if name not in set(which):
            raise DataError(f"df: column {policy!r}: {unknown('policy', name, which.unique())}")
    made: dict[str, Any] = {"policy": which, "prompt_id": prompts, "row": frame.index}
    for key, (given, ends) in measures.items():
        if not isinstance(given, str):
            raise DataError(f"{key}: {given!r} is a pair; of a long frame name one column")
        made[key] = _measure(frame, key, given, ends)
    every = pd.DataFrame(made)
    return pd.concat([every[which == name] for name in pair], ignore_index=True), list(pair)


def _measure(frame: pd.DataFrame, key: str, name: str, ends: tuple[float, float], hint: str = "") -> pd.Series[Any]:
    check_columns("df", frame, [name], hint)
    Column(key, name, *ends).of("df", frame)
    return frame[name]


def _prompts(frame: pd.DataFrame, needed: bool = False) -> Any:
    column = next((name for name in ("prompt_id", "prompt") if name in frame), None)
    if column is None and needed:
        check_columns("df", frame, ["prompt_id"])
    return frame.index if column is None else names("df", frame, column)
