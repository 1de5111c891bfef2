"""`evaluate`: from two data frames to estimates, headlines, a ranking and plans, with no file, folder or server."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from arena10k.analysis import Analysis
from arena10k.errors import DataError
from arena10k.estimation import PolicyData, compare, planning, prompt_fold
from arena10k.estimation.context import LOGPROBS_ASKED
from arena10k.estimation.evaluate import Study, study
from arena10k.estimation.headline import BELIEFS, headline

if TYPE_CHECKING:
    import pandas as pd

_WEIGHT, _LOGP = "log_weight_", "logp_"
_MODE = "judge"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` answers; frames, values on the label's scale.

    `estimates`: policy, estimator, value, se, ci_low, ci_high, verdict, reasons and the diagnostics beside them.
    """

    study: Study
    scale: tuple[float, float]
    _frames: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def estimates(self) -> pd.DataFrame:
        import pandas as pd

        return self._scaled(pd.DataFrame([{k: v for k, v in r.items() if k != "judge"} for r in self.study.rows]))

    @cached_property
    def headline(self) -> pd.DataFrame:
        """The estimate that speaks for each policy that has one; index policy."""
        contexts = self.study.of_judge(_MODE)
        rows = [{"policy": policy} | row for policy, ctx in contexts.items() if (row := headline(ctx))]
        return self._scaled(_frame(rows, ["policy", *_COLUMNS])).set_index("policy")

    @cached_property
    def contrasts(self) -> pd.DataFrame:
        """a, b, difference (a - b), ci_low, ci_high, significant: every pair of policies with a headline."""
        pairs = [dataclasses.asdict(pair) for pair in self._pairs]
        frame = _frame(pairs, [f.name for f in dataclasses.fields(compare.Contrast)])
        size = self.scale[1] - self.scale[0]
        for name in ("difference", "se", "low", "high"):
            frame[name] = frame[name] * size
        return frame.rename(columns={"low": "ci_low", "high": "ci_high"})

    @cached_property
    def ranking(self) -> pd.DataFrame:
        """policy, rank, worst_rank and the headline's value and interval, best first; equal ranks are ties."""
        places = compare.ranking(self.study.of_judge(_MODE), self._pairs)
        rows = [dataclasses.asdict(place) for place in places]
        return self._scaled(_frame(rows, [f.name for f in dataclasses.fields(compare.Ranked)]))

    @cached_property
    def breakdown(self) -> pd.DataFrame:
        """better, worse, difference; judge_error and unseen_mass that would turn their order round."""
        rows = [dataclasses.asdict(row) for row in compare.breakdowns(self.study.of_judge(_MODE))]
        frame = _frame(rows, [f.name for f in dataclasses.fields(compare.Breakdown)])
        for name in ("difference", "judge_error"):
            frame[name] = frame[name].astype(float) * (self.scale[1] - self.scale[0])
        return frame

    def plan(self, widths: Iterable[float] | None = None) -> pd.DataFrame:
        """How many oracle labels of each policy's own draws an interval of each width takes, those that are there
        included; with assurance (see `planning.labels_needed`). `widths` on the label's scale."""
        import pandas as pd

        size, rows = self.scale[1] - self.scale[0], []
        for policy, ctx in self.study.of_judge(_MODE).items():
            wanted = [self.study.analysis.width] if widths is None else [w / size for w in widths]
            found = planning.plan(ctx.pilot, wanted, confidence=self.study.analysis.confidence)
            rows += [{"policy": policy} | row for row in found]
        frame = pd.DataFrame(rows).drop(columns="cost")
        frame["width"] *= size
        return frame

    @cached_property
    def _pairs(self) -> list[compare.Contrast]:
        return compare.contrasts(self.study.of_judge(_MODE))

    def _scaled(self, frame: pd.DataFrame) -> pd.DataFrame:
        low, high = self.scale
        for name in ("value", "ci_low", "ci_high", "se"):
            if name in frame:
                frame[name] = frame[name].astype(float) * (high - low) + (0 if name == "se" else low)
        return frame

    def __repr__(self) -> str:
        shown = self.headline.reindex(dict.fromkeys(self.estimates["policy"]))
        lines = []
        for policy, row in shown.iterrows():
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


_COLUMNS = ("estimator", "value", "se", "ci_low", "ci_high", "verdict", "reasons")


def _frame(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=list(columns))


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
    seed: int = 0,
) -> Evaluation:
    """How good each policy is, from its fresh draws, the logging policy's responses, or both.

    Parameters
    ----------
    logged : one row per response of the logging policy: `prompt_id`, the columns `judge` and `label`, and log-probs
        of the same response in nats, `logp_<policy>` (the logging policy's included) or `log_weight_<policy>`.
    fresh : one row per response of a policy: `policy`, `prompt_id`, `judge`, `label`, optionally `draw`.
    judge, label : column names in both frames; NaN is "not there", and a column may be missing. Labels are outcomes by
        the oracle, on a random part of the rows unless `label_propensity` names a column with each row's chance.
    judge_variance : column with the variance of the judge's score, on the judge's scale.
    cluster : column that names groups of prompts that are not independent; the prompt where None.
    judge_scale, label_scale : the ends of both scales; declared, never guessed. Values are on the label's scale.
    width : wanted total width of an interval, on the label's scale; a fifth of it where None.
    judge_shift : how far the judge may be off on a policy of which nothing says how far it is, on the label's scale; a
        tenth of it where None.
    belief : the most a headline takes to be believed: "labels", "weights" or "judge".
    seed : of whatever is drawn at random; no estimate is.

    Raises
    ------
    DataError
        A frame lacks a column, or a value is outside its scale or is no log-prob; names frame, row and column.
    """
    if belief not in BELIEFS:
        raise DataError(f"belief: {belief!r} is none of {', '.join(BELIEFS)}")
    size = label_scale[1] - label_scale[0]
    names = {"judge": judge, "label": label, "judge_var": judge_variance, "label_propensity": label_propensity}
    scales = {"judge": judge_scale, "label": label_scale}
    frames = {
        which: _Rows(which, frame, names, scales, cluster) for which, frame in (("logged", logged), ("fresh", fresh))
        if frame is not None
    }  # fmt: skip
    if not frames:
        raise DataError("evaluate: neither `logged` nor `fresh` was given")
    _check_named(frames, names)
    data = _arrays(frames, logging_policy)
    flags = {policy: [LOGPROBS_ASKED] for policy, arrays in data.items() if arrays[1]}
    analysis = Analysis(
        width=Analysis.width if width is None else width / size,
        confidence=confidence,
        judge_shift=Analysis.judge_shift if judge_shift is None else judge_shift / size,
        belief=belief,
    )
    policies = {policy: {_MODE: arrays} for policy, (arrays, _) in data.items()}
    found = study(policies, analysis, flags=flags, reports=False, contexts=[_MODE])
    return Evaluation(found, label_scale)


def _check_named(frames: dict[str, _Rows], names: dict[str, str | None]) -> None:
    """Every column that was named is in a frame. Without any judge's scores labels and weights speak alone: a score
    that is the same everywhere says nothing."""
    for key, name in names.items():
        if name is None or any(name in rows.frame for rows in frames.values()):
            continue
        if name != key:
            raise DataError(f"{key}: there is no column {name!r} in {' or '.join(frames)}")
        if key == "judge":
            for rows in frames.values():
                rows.columns["judge"] = np.full(len(rows.frame), 0.5)


class _Rows:
    """One frame's columns as arrays on [0, 1], checked."""

    def __init__(
        self,
        which: str,
        frame: pd.DataFrame,
        names: dict[str, str | None],
        scales: dict[str, tuple[float, float]],
        cluster: str | None,
    ):
        self.which, self.frame = which, frame.reset_index(drop=True)
        self._require("prompt_id", *([] if which == "logged" else ["policy"]), *([cluster] if cluster else []))
        self.prompts = self.frame["prompt_id"].astype(str)
        self.clusters = self.prompts if cluster is None else self.frame[cluster].astype(str)
        self.columns = {key: self._scaled(key, name, scales.get(key)) for key, name in names.items() if name}
        if names["judge_var"]:
            low, high = scales["judge"]
            self.columns["judge_var"] /= (high - low) ** 2

    def _require(self, *columns: str) -> None:
        for column in columns:
            if column not in self.frame:
                have = ", ".join(map(str, self.frame.columns))
                raise DataError(f"{self.which}: no column {column!r}; there are: {have}")

    def numbers(self, column: str) -> np.ndarray:
        """A column as float64, NaN where missing or where there is no such column."""
        if column not in self.frame:
            return np.full(len(self.frame), np.nan)
        try:
            return np.asarray(self.frame[column].to_numpy(dtype=np.float64, na_value=np.nan))
        except (TypeError, ValueError):
            bad = next(i for i, v in enumerate(self.frame[column]) if not _is_number(v))
            raise DataError(
                f"{self.which}: column {column!r}, row {bad}: {self.frame[column][bad]!r} is no number"
            ) from None

    def _scaled(self, key: str, column: str, scale: tuple[float, float] | None) -> np.ndarray:
        values = self.numbers(column)
        low, high = scale or ((0.0, 1.0) if key == "label_propensity" else (0.0, float("inf")))
        bad = np.flatnonzero((values < low) | (values > high))
        if len(bad):
            hint = f"declare the scale, {key}_scale=(low, high)" if scale else f"expected {low:g} to {high:g}"
            raise DataError(
                f"{self.which}: column {column!r}, row {bad[0]}: {values[bad[0]]:g} is outside of {low:g} to {high:g} "
                f"({len(bad)} of {len(values)} rows); {hint}"
            )
        return values if scale is None else np.asarray((values - low) / (high - low))

    def log_weights(self, logging_policy: str) -> dict[str, np.ndarray]:
        """By target its log-weights in nats, from `log_weight_` or from both log-probs."""
        found = {}
        for column in map(str, self.frame.columns):
            if column.startswith(_WEIGHT):
                found[column.removeprefix(_WEIGHT)] = self.numbers(column)
            elif column.startswith(_LOGP) and (policy := column.removeprefix(_LOGP)) != logging_policy:
                self._require(_LOGP + logging_policy)
                found[policy] = self._logprobs(column) - self._logprobs(_LOGP + logging_policy)
        for policy, values in found.items():
            if np.isposinf(values).any():
                raise DataError(f"logged: the log-weight of {policy}, row {int(values.argmax())}, is infinite")
        return found

    def _logprobs(self, column: str) -> np.ndarray:
        values = self.numbers(column)
        bad = np.flatnonzero(values > 1e-4)
        if len(bad):
            raise DataError(
                f"logged: column {column!r}, row {bad[0]}: {values[bad[0]]:g} is no log-prob, which is at most 0 "
                f"({len(bad)} of {len(values)} rows); log-probs are natural logarithms, summed over the response"
            )
        return values


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return value is None
    return True


def _coded(frames: Iterable[_Rows]) -> dict[str, dict[str, np.ndarray]]:
    """By frame its columns, with prompts, clusters and folds in one numbering of both."""
    import pandas as pd

    order = list(frames)
    cuts = np.cumsum([len(rows.frame) for rows in order])[:-1]
    prompt, _ = pd.factorize(pd.concat([rows.prompts for rows in order], ignore_index=True))
    cluster, ids = pd.factorize(pd.concat([rows.clusters for rows in order], ignore_index=True))
    fold = np.array([prompt_fold(name) for name in ids], dtype=np.int64)[cluster]
    codes = {"prompt": np.split(prompt, cuts), "cluster": np.split(cluster, cuts), "fold": np.split(fold, cuts)}
    return {rows.which: rows.columns | {k: part[i] for k, part in codes.items()} for i, rows in enumerate(order)}


def _arrays(frames: dict[str, _Rows], logging_policy: str) -> dict[str, tuple[PolicyData, bool]]:
    """The arrays of every policy (the logging policy first), and whether log-probs were given for it."""
    columns = _coded(frames.values())
    weights = frames["logged"].log_weights(logging_policy) if "logged" in frames else {}
    base, draws = columns.get("logged"), columns.get("fresh")
    nothing = {k: v[:0] for k, v in (base or draws or {}).items()}
    fresh: dict[str, dict[str, np.ndarray]] = {}
    if draws:
        policy = frames["fresh"].frame["policy"].astype(str).to_numpy()
        fresh = {name: {k: v[policy == name] for k, v in draws.items()} for name in dict.fromkeys(policy)}
    data = {}
    if base:
        own = fresh.pop(logging_policy, nothing)
        both = {k: np.concatenate([base[k], own[k]]) for k in base}
        data[logging_policy] = (_one(np.zeros(len(base["judge"])), base, both, is_logging=True), False)
    n = len((base or nothing)["judge"])
    for name in dict.fromkeys([*weights, *fresh]):
        lw = weights.get(name, np.full(n, np.nan))
        data[name] = (_one(lw, base or nothing, fresh.get(name, nothing)), name in weights)
    return data


def _one(
    log_weight: np.ndarray, logged: dict[str, np.ndarray], fresh: dict[str, np.ndarray], is_logging: bool = False
) -> PolicyData:
    return PolicyData(
        log_weight=log_weight, **logged, **{f"fresh_{k}": v for k, v in fresh.items()}, is_logging=is_logging
    )
