"""The door: from arrays (`study`) or two data frames (`evaluate`) to estimates, headlines, a ranking and plans."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from arena10k.analysis import DEFAULT, Analysis
from arena10k.errors import DataError
from arena10k.estimation import compare, planning
from arena10k.estimation.checked import MODE, Column, arrays, check_arguments, judged_logprobs, tables_of, targets_of
from arena10k.estimation.context import LOGPROBS_ASKED, PolicyContext, context
from arena10k.estimation.data import PolicyData
from arena10k.estimation.headline import BELIEFS, headline, headline_row
from arena10k.estimation.score import ESTIMATORS
from arena10k.estimation.verdicts import estimate_row

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was found of all policies. `rows` of estimates.json; `contexts`, with the diagnostics, by (policy,
    judge). Its frames are of the judge `judge`, values on the label's `scale`."""

    rows: list[dict[str, Any]]
    contexts: dict[tuple[str, str], PolicyContext]
    analysis: Analysis = DEFAULT
    judge: str = MODE
    scale: tuple[float, float] = (0.0, 1.0)

    def of_judge(self, judge: str) -> dict[str, PolicyContext]:
        """By policy the contexts of one judge, as `compare.ranking` and `compare.contrasts` take them."""
        return {policy: ctx for (policy, mode), ctx in self.contexts.items() if mode == judge}

    @cached_property
    def estimates(self) -> pd.DataFrame:
        """policy, estimator, value, se, ci_low, ci_high, verdict, reasons and the diagnostics beside them."""
        import pandas as pd

        rows = [{k: v for k, v in r.items() if k != "judge"} for r in self.rows if r["judge"] == self.judge]
        return self._scaled(pd.DataFrame(rows))

    @cached_property
    def headline(self) -> pd.DataFrame:
        """The estimate that speaks for each policy that has one; index policy."""
        columns = ("policy", "estimator", "value", "se", "ci_low", "ci_high", "verdict", "reasons")
        rows = [{"policy": p} | row for p, ctx in self.of_judge(self.judge).items() if (row := headline(ctx))]
        return self._scaled(_frame(rows, columns)).set_index("policy")

    @cached_property
    def contrasts(self) -> pd.DataFrame:
        """a, b, difference (a - b), ci_low, ci_high, significant: every pair of policies with a headline."""
        frame = _frame(self._pairs, compare.Contrast).rename(columns={"low": "ci_low", "high": "ci_high"})
        return self._stretched(frame, "difference", "se", "ci_low", "ci_high")

    @cached_property
    def ranking(self) -> pd.DataFrame:
        """policy, rank, worst_rank and the headline's value and interval, best first; equal ranks are ties."""
        return self._scaled(_frame(compare.ranking(self.of_judge(self.judge), self._pairs), compare.Ranked))

    @cached_property
    def breakdown(self) -> pd.DataFrame:
        """better, worse, difference; judge_error and unseen_mass that would turn their order round."""
        frame = _frame(compare.breakdowns(self.of_judge(self.judge)), compare.Breakdown)
        return self._stretched(frame, "difference", "judge_error")

    def plan(self, widths: Iterable[float] | None = None) -> pd.DataFrame:
        """How many oracle labels of each policy's own draws an interval of each width takes, those that are there
        included; with assurance (see `planning.labels_needed`). `widths` on the label's scale."""
        import pandas as pd

        size = self.scale[1] - self.scale[0]
        wanted = [self.analysis.width] if widths is None else [width / size for width in widths]
        plans = {
            policy: planning.plan(ctx.pilot, wanted, confidence=self.analysis.confidence)
            for policy, ctx in self.of_judge(self.judge).items()
        }
        frame = pd.DataFrame([{"policy": policy} | row for policy, rows in plans.items() for row in rows])
        return self._stretched(frame.drop(columns="cost"), "width")

    @cached_property
    def _pairs(self) -> list[compare.Contrast]:
        return compare.contrasts(self.of_judge(self.judge))

    def _stretched(self, frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
        for name in columns:
            frame[name] = frame[name].astype(float) * (self.scale[1] - self.scale[0])
        return frame

    def _scaled(self, frame: pd.DataFrame) -> pd.DataFrame:
        frame = self._stretched(frame, *(name for name in ("value", "ci_low", "ci_high", "se") if name in frame))
        for name in ("value", "ci_low", "ci_high"):
            frame[name] += self.scale[0]
        return frame

    def __repr__(self) -> str:
        lines = []
        for policy, row in self.headline.reindex(dict.fromkeys(self.estimates["policy"])).iterrows():
            if not isinstance(row["estimator"], str):
                lines.append(f"{policy}: no accepted estimate")
                continue
            why = f" ({', '.join(row['reasons'])})" if row["reasons"] else ""
            lines.append(
                f"{policy}: {row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}] "
                f"{row['verdict']}{why}, by {row['estimator']}"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        columns = ["value", "ci_low", "ci_high", "verdict", "estimator", "reasons"]
        return str(self.headline[columns].to_html(float_format="{:.3f}".format))


def _frame(rows: Iterable[Any], columns: Any) -> pd.DataFrame:
    """A frame of dictionaries or of dataclasses, with its columns where there are no rows."""
    import pandas as pd

    if dataclasses.is_dataclass(columns):
        columns, rows = [f.name for f in dataclasses.fields(columns)], [dataclasses.asdict(row) for row in rows]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=list(columns))


def study(
    policies: Mapping[str, Mapping[str, PolicyData]],
    analysis: Analysis = DEFAULT,
    n_quarantined: Mapping[str, int] | None = None,
    flags: Mapping[str, Iterable[str]] | None = None,
    estimators: Iterable[str] | None = None,
    clones: Iterable[str] = (),
    judge: str = MODE,
) -> Evaluation:
    """All `estimators` for every policy and judge, `{policy: {judge_mode: PolicyData}}`, among them the logging
    policy (log-weights 0); numbers in rows are floats, ints or None, never NaN.

    `n_quarantined`: logged rows quarantined per policy; `flags`: facts per policy that arrays do not show
    (`context.WRONG_WEIGHTS`); `clones`: policies identical to the logging policy, which measure the noise floor of the
    log-probs; `judge`: the mode of headlines.
    """
    names, clones = list(ESTIMATORS if estimators is None else estimators), set(clones)
    rows, contexts = [], {}
    for policy, modes in policies.items():
        quarantined = int((n_quarantined or {}).get(policy, 0))
        facts = [*(flags or {}).get(policy, ()), *[LOGPROBS_ASKED] * (quarantined > 0)]
        for mode, data in modes.items():
            ctx = context(data, analysis, facts, policy=policy, judge=mode, clone=policy in clones)
            own = []
            for name in names:
                own.append(estimate_row(ctx, ESTIMATORS[name]))
                if ESTIMATORS[name].belief == "weights":  # no other estimator is made of these
                    ctx.prep.memo.pop(name, None)
            rows += [{"policy": policy, "judge": mode, "n_quarantined": quarantined, **row} for row in own]
            # What estimators shared takes more memory than all that is asked for later.
            ctx.prep.memo.clear()
            if estimators is None:
                ctx.prep.memo["headline"] = headline_row(own, analysis.belief, ctx.is_logging)
            if mode != judge:
                ctx.prep.forget()
            contexts[policy, mode] = ctx
    return Evaluation(rows, contexts, analysis, judge)


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
) -> Evaluation:
    """How good each policy is, from its fresh draws, the logging policy's responses, or both.

    Parameters
    ----------
    logged : one row per response of the logging policy: `prompt_id`, the columns `judge` and `label`, and log-probs
        of the same response in nats, `logp_<policy>` (the logging policy's included) or `log_weight_<policy>`. With
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

    A DataError names frame, row and column of a value that is outside its scale or is no log-prob.
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
    tables = tables_of(given, columns, cluster, logging_policy)
    size = label_scale[1] - label_scale[0]
    analysis = Analysis(
        width=Analysis.width if width is None else width / size,
        confidence=confidence,
        judge_shift=Analysis.judge_shift if judge_shift is None else judge_shift / size,
        belief=belief,
    )
    targets = targets_of(tables.get("logged"), logging_policy)
    facts = judged_logprobs(tables["logged"], targets, logging_policy) if targets else {}
    flags = {target: [LOGPROBS_ASKED, *facts.get(target, [])] for target in targets}
    evaluation = study(arrays(tables, targets, logging_policy), analysis, flags=flags)
    return dataclasses.replace(evaluation, scale=label_scale)
