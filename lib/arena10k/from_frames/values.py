"""The value of policies from one or two data frames."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from arena10k.analysis import Analysis
from arena10k.errors import DataError
from arena10k.estimation.checked import (
    Column,
    arrays,
    check_arguments,
    check_one_scale,
    judged_logprobs,
    tables_of,
    targets_of,
)
from arena10k.estimation.context import LOGPROBS_ASKED
from arena10k.estimation.data import log_weights
from arena10k.estimation.evaluation import Evaluation, study
from arena10k.estimation.headline import BELIEFS
from arena10k.estimation.scale import Scale

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Evaluated(Evaluation):
    """What `evaluate` answers. `judge_scale` is None where there is no judge; `as_given` are by target the log-weights
    (n,) before what is no measurement was taken out of them."""

    judge_scale: Scale | None = None
    as_given: Mapping[str, np.ndarray] = field(default_factory=dict)

    def prompts(self, policy: str | None = None) -> int:
        """How many prompts there are answers to: a policy's own, or any."""
        contexts = self.of_judge(self.judge)
        own = [ctx.data.fresh for name, ctx in contexts.items() if policy in (None, name)]
        logged = [ctx.data.logged for ctx in list(contexts.values())[:1] if policy is None]
        return len(np.unique(np.concatenate([rows.prompt for rows in own + logged])))

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write one self-contained HTML file: values with intervals and verdicts, differences, what was measured, every
        estimate, and, where there are log-probs, what the weights say and whether SNIPS may be believed. Folders are
        made. Returns the path."""
        from arena10k.from_frames import page

        return page.write(self, path)


def evaluate(
    logged: pd.DataFrame | None = None,
    fresh: pd.DataFrame | None = None,
    *,
    logging_policy: str = "p0",
    judge: str = "judge",
    label: str = "label",
    judge_variance: str | None = None,
    cluster: str | None = None,
    label_propensity: str | None = None,
    judge_scale: tuple[float, float] = (0.0, 1.0),
    label_scale: tuple[float, float] = (0.0, 1.0),
    width: float | None = None,
    confidence: float = Analysis.confidence,
    judge_shift: float | None = None,
    belief: str = Analysis.belief,
) -> Evaluated:
    """How good each policy is, from its fresh draws, the logging policy's responses, or both.

    Parameters
    ----------
    logged : one row per response of the logging policy: `prompt_id`, the columns `judge` and `label`, and log-probs
        of the same response in nats, `logp_<policy>` (the logging policy's included) or `log_weight_<policy>`: nothing
        in the numbers tells bits and log10, which are to be multiplied by ln 2 and ln 10. With
        `response` or `response_chars` log-probs are tested against lengths. A missing weight is lost, and counts as
        unseen: leave out rows that were not asked for one.
    fresh : one row per response of a policy: `policy`, `prompt_id`, `judge`, `label`.
    judge, label : column names in both frames; NaN is "not there", and a column may be missing. Labels are outcomes by
        the oracle, on a random part of the rows unless `label_propensity` names a column with each row's chance.
    judge_variance : column with the variance of the judge's score, on the judge's scale.
    cluster : column that names groups of prompts that are not independent; the prompt where None.
    judge_scale, label_scale : the ends of both scales; declared, never guessed. Values are on the label's scale.
    width : wanted total width of an interval, on the label's scale; a fifth of it where None.
    judge_shift : how far the judge may be off on a policy of which nothing says how far it is, on the label's scale; a
        tenth of it where None.
    belief : the most a headline takes to be believed: "labels", "weights" or "judge".

    A DataError names frame, row and column of a value that is outside its scale or is no log-prob, and policies whose
    values are on two scales. Rows are counted from 0, with their index beside it where that is another.
    """
    if belief not in BELIEFS:
        raise DataError(f"belief: {belief!r} is none of {', '.join(BELIEFS)}")
    given = {name: frame for name, frame in (("logged", logged), ("fresh", fresh)) if frame is not None}
    if not given:
        raise DataError("evaluate: neither `logged` nor `fresh` was given")
    scales = {"judge_scale": judge_scale, "label_scale": label_scale}
    check_arguments(given, logging_policy, width=width, confidence=confidence, judge_shift=judge_shift, **scales)
    columns = [Column("judge", judge, *judge_scale), Column("label", label, *label_scale)]
    columns += [Column("judge_variance", judge_variance, *judge_scale), Column("label_propensity", label_propensity)]
    tables, scale = tables_of(given, columns, cluster, logging_policy), Scale(*label_scale)
    for column in columns[:2]:
        check_one_scale(tables, column, logging_policy)
    analysis = Analysis(
        width=Analysis.width if width is None else width / scale.size,
        confidence=confidence,
        judge_shift=Analysis.judge_shift if judge_shift is None else judge_shift / scale.size,
        belief=belief,
    )
    targets = targets_of(tables.get("logged"), logging_policy)
    as_given = {target: log_weights(tables["logged"], target, logging_policy) for target in targets}
    facts = judged_logprobs(tables["logged"], targets, logging_policy) if targets else {}
    flags = {target: [LOGPROBS_ASKED, *facts.get(target, [])] for target in targets}
    found = study(arrays(tables, targets, logging_policy), analysis, facts=flags)
    judged = Scale(*judge_scale) if any(judge in frame for frame in given.values()) else None
    return Evaluated(found.rows, found.contexts, analysis, scale=scale, judge_scale=judged, as_given=as_given)
