"""The frames that `evaluate` takes, checked, as the arrays of every policy. Whatever is wrong is a DataError that names
frame, column and row."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from arena10k.analysis import NOISE
from arena10k.errors import DataError, unknown
from arena10k.estimation import logprobs
from arena10k.estimation.data import PolicyData, log_weights, numbers, policies_data
from arena10k.estimation.scale import UNIT, Scale

if TYPE_CHECKING:
    import pandas as pd
    from pandas.api.extensions import ExtensionArray

#: The chance of a label of a row that had none.
NEVER = 1e-300
#: The judge of data that has one alone.
ONLY_JUDGE = "judge"
#: The most a number may be that is a log-prob but for rounding.
_ROUNDED_UP = 1e-4
#: What to do where no column says which prompt a row is of.
WHICH_PROMPT = "; name the column of prompts so, df.rename(columns={...: 'prompt_id'})"
#: Values of a policy that say on which scale they are.
_ENOUGH = 10


@dataclass(frozen=True)
class Column:
    """An argument of `evaluate` that names a column, and the ends of its scale."""

    key: str
    name: str | None
    low: float = 0.0
    high: float = 1.0

    def of(self, which: str, frame: pd.DataFrame) -> np.ndarray:
        """The values on [0, 1], checked."""
        values, (low, high), hint = _numbers(which, frame, self.name), (self.low, self.high), ""
        size = high - low
        if self.key == "judge_variance":
            low, high = 0.0, size**2 / 2  # no scores have a larger one
        elif self.key != "label_propensity":
            declared = (self.low, self.high) != UNIT
            hint = "; mend it or write NaN, unless the scale is another than was declared" if declared else ""
            hint = hint or f"; declare the scale, {self.key}_scale=(low, high)"
        near = np.clip(values, low, high)
        outside = np.abs(values - near) > NOISE * size
        _refuse(which, frame, self.name, outside, values, f"{{:.15g}} is outside of {low:g} to {high:g}", hint)
        return np.asarray(np.sqrt(near) / size if self.key == "judge_variance" else (near - low) / size)


def _refuse(
    which: str, frame: pd.DataFrame, column: Any, bad: np.ndarray, values: Any, problem: str, advice: str = ""
) -> None:
    """DataError for the first of the `bad` rows (a mask), if there is one: what is the `problem` with its value."""
    rows = np.flatnonzero(bad)
    if len(rows):
        what = f"{problem.format(values[rows[0]])} ({len(rows)} of {len(bad)} rows)"
        raise DataError(f"{_place(which, frame, column, int(rows[0]))}: {what}{advice}")


def _place(which: str, frame: pd.DataFrame, column: Any, row: int) -> str:
    """Where a value stands; rows are counted from 0, and called as their index does where that says otherwise."""
    label = frame.index[row]
    return f"{which}: column {column!r}, row {row}" + ("" if label == row else f" (index {label})")


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return value is None
    return True


def _numbers(which: str, frame: pd.DataFrame, column: Any) -> np.ndarray:
    if column in frame and frame[column].dtype.kind in "cmM":
        raise DataError(f"{which}: column {column!r} holds {frame[column].dtype}: give real numbers")
    try:
        return numbers(frame, column)
    except (TypeError, ValueError):
        row = next(i for i, v in enumerate(frame[column]) if not _is_number(v))
        given = f"{frame[column].iloc[row]!r} is no number; write the number alone, NaN where there is none"
        raise DataError(f"{_place(which, frame, column, row)}: {given}") from None


def names(which: str, frame: pd.DataFrame, column: str) -> ExtensionArray:
    """A column of names as text, whole numbers alike however they are stored; none may be missing or blank."""
    values = frame[column]
    missing = (values.isna() | (values.astype(str).str.strip() == "")).to_numpy(dtype=bool)
    _refuse(which, frame, column, missing, missing, "missing", "; name it or leave the row out")
    if values.dtype.kind == "f" and (values % 1 == 0).all():
        values = values.astype(np.int64)
    return values.astype(str).array


def check_frame(which: str, frame: Any) -> None:
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"{which}: {type(frame).__name__} is no DataFrame; give pandas.DataFrame(...)")
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise DataError(f"{which}: there are several columns {twice[0]!r}: keep one")


def check_columns(which: str, frame: pd.DataFrame, columns: Iterable[Any], hint: str = "") -> None:
    for column in columns:
        if not isinstance(column, Hashable) or column not in frame:
            raise DataError(f"{which}: {unknown('column', column, map(str, frame.columns))}{hint}")


def _table(
    which: str, frame: pd.DataFrame, columns: list[Column], cluster: str | None, logging_policy: str
) -> pd.DataFrame:
    """One frame in the columns of the analysis table (see `policies_data`), checked."""
    import pandas as pd

    given = [str(c) for c in frame.columns]
    logps = [c for c in given if c.startswith("logp_")] if which == "logged" else []
    if logps and f"logp_{logging_policy}" not in logps:
        whose = " or ".join(repr(name.removeprefix("logp_")) for name in logps)
        who = f"no column 'logp_{logging_policy}': whoever wrote the responses is to be named, logging_policy={whose}"
        raise DataError(f"{which}: {who}")
    check_columns(which, frame, ["prompt_id"], WHICH_PROMPT)
    check_columns(which, frame, [*["policy"] * (which == "fresh"), *([cluster] if cluster else [])])
    if which == "logged" and "policy" in frame and frame["policy"].nunique() > 1:
        raise DataError(f"logged: column 'policy' names {frame['policy'].nunique()}: give others' rows as `fresh`")
    called = {"judge": f"judge_{ONLY_JUDGE}", "judge_variance": f"judge_{ONLY_JUDGE}_sd"}
    made: dict[str, Any] = {"prompt_id": names(which, frame, "prompt_id")}
    made |= {called.get(c.key, c.key): c.of(which, frame) for c in columns if c.name}
    if cluster:
        made["cluster"] = names(which, frame, cluster)
    chance, has = made.get("label_propensity"), ~np.isnan(made["label"])
    if chance is not None:
        made["label_propensity"] = np.where(~has & (chance == 0), NEVER, chance)
        if not np.isnan(chance).all():
            problem = "a row with a label has a chance above 0, not {:g}"
            _refuse(which, frame, "label_propensity", has & ~(chance > 0), chance, problem)
    if which == "fresh":
        return pd.DataFrame(made | {"policy": names(which, frame, "policy")})
    for column in logps:
        values = made[column] = _numbers(which, frame, column)
        advice = "; log-probs are natural logarithms, summed over a response"
        # Probabilities of whole responses are so small that they would pass for log-probs of 0.
        if chances := not (values < 0).any() and np.nanmax(values, initial=0) <= 1:
            advice += f": of probabilities they are np.log(df[{column!r}])"
        above = values > (0 if chances else _ROUNDED_UP)
        _refuse(which, frame, column, above, values, "{:g} is no log-prob, which is at most 0", advice)
    if "response_chars" in frame or "response" not in frame:
        made["response_chars"] = _numbers("logged", frame, "response_chars")
    else:
        texts = frame["response"].astype("string").str.len()
        made["response_chars"] = np.asarray(texts.to_numpy(dtype=np.float64, na_value=np.nan))
    for column in (c for c in given if c.startswith("log_weight_")):
        other = f"logp_{column.removeprefix('log_weight_')}"
        if other in logps or other in ("logp_", f"logp_{logging_policy}"):
            why = f"{other!r} says it too" if other in logps else "that is no target"
            raise DataError(f"logged: column {column!r}: {why}; leave it out")
        made[column] = _numbers(which, frame, column)
    return pd.DataFrame(made | {f"log_weight_{logging_policy}": 0.0})


def tables_of(
    frames: Mapping[str, pd.DataFrame], columns: list[Column], cluster: str | None, logging_policy: str
) -> dict[str, pd.DataFrame]:
    """The frames by name as tables; every column that was named is in one of them. Without any judge's scores labels
    and weights speak alone: a score that is the same everywhere says nothing."""
    for column in columns:
        if column.key in ("judge", "label") and (column.name is None or not isinstance(column.name, Hashable)):
            raise DataError(f"{column.key}: {column.name!r} is no name of a column")
    tables = {name: _table(name, frame, columns, cluster, logging_policy) for name, frame in frames.items()}
    for column in columns:
        if column.name is None or any(column.name in frame for frame in frames.values()):
            continue
        if column.name != column.key:
            there = dict.fromkeys(str(c) for frame in frames.values() for c in frame.columns)
            raise DataError(f"{column.key}: {unknown('column', column.name, there)}")
        if column.key == "judge":
            tables = {name: table.assign(**{f"judge_{ONLY_JUDGE}": 0.5}) for name, table in tables.items()}
    return tables


def check_one_scale(tables: Mapping[str, pd.DataFrame], column: Column, logging_policy: str) -> None:
    """DataError where values of one policy are shares of 1 and those of another whole numbers beyond it: no judge and
    no oracle answers so on one scale."""
    import pandas as pd

    name, shares, whole = f"judge_{ONLY_JUDGE}" if column.key == "judge" else column.key, "", ""
    rows = [table.assign(policy=table.get("policy", logging_policy))[["policy", name]] for table in tables.values()]
    for policy, own in pd.concat(rows).dropna().groupby("policy")[name]:
        values = column.low + (column.high - column.low) * own.to_numpy()
        is_whole = np.abs(values - values.round()) < NOISE * (column.high - column.low)
        if len(values) >= _ENOUGH and is_whole.all() and values.max() > 1:
            whole = str(policy)
        elif len(values) >= _ENOUGH and is_whole.mean() < 0.5 and values.min() >= 0 and values.max() <= 1:
            shares = str(policy)
    if shares and whole:
        what = f"of {shares!r} values are parts of 1, of {whole!r} they are whole numbers beyond 1"
        raise DataError(f"{column.name}: {what}: these are two scales, give both on one")


def check_arguments(given: Mapping[str, Any], logging_policy: str, **numbers: Any) -> None:
    """What is no column: frames, names and scales."""
    for name, frame in given.items():
        check_frame(name, frame)
    if not any(len(frame) for frame in given.values()):
        raise DataError(f"{' and '.join(given)}: no row to evaluate")
    if not isinstance(logging_policy, str) or not logging_policy:
        raise DataError(f"logging_policy: {logging_policy!r} is no name of a policy")
    check_scale("judge_scale", numbers["judge_scale"])
    size = check_scale("label_scale", numbers["label_scale"]).size
    for name, most, end in (("confidence", 1.0, False), ("width", size, True), ("judge_shift", size, True)):
        number = _finite(numbers[name])
        inside = number.shape == () and (0 < number < most or (end and number == most))
        if numbers[name] is None or inside or (name == "judge_shift" and number.shape == () and number == 0):
            continue
        limit = f"{'up to' if end else 'below'} {most:g}"
        raise DataError(f"{name}: {numbers[name]!r} is no number above 0 and {limit}")


def check_scale(name: str, given: Any) -> Scale:
    ends = _finite(given)
    if np.shape(ends) != (2,) or not ends[0] < ends[1]:
        raise DataError(f"{name}: {given!r} is no pair (low, high) of numbers with low < high")
    return Scale(*map(float, ends))


def _finite(value: Any) -> np.ndarray:
    """As float64, NaN where it is no finite number."""
    try:
        number = np.asarray(value)
    except ValueError:
        return np.asarray(np.nan)
    return np.where(np.isfinite(number), number, np.nan) if number.dtype.kind in "biuf" else np.asarray(np.nan)


def targets_of(logged: pd.DataFrame | None, logging_policy: str) -> list[str]:
    """The policies of which there are log-probs or weights, which are finite where they are there."""
    columns = [] if logged is None else [c for c in logged if c.startswith(("logp_", "log_weight_"))]
    named = dict.fromkeys(c.removeprefix("logp_").removeprefix("log_weight_") for c in columns)
    targets = [name for name in named if name != logging_policy]
    for policy in targets:
        values = log_weights(logged, policy, logging_policy)
        if np.isposinf(values).any():
            raise DataError(f"logged: the log-weight of {policy}, row {int(values.argmax())}, is infinite")
    return targets


def judged_logprobs(logged: pd.DataFrame, targets: list[str], logging_policy: str) -> dict[str, list[str]]:
    """Log-probs that are no measurements become NaN in `logged`; by target what the rest says against its weights."""
    policies = [logging_policy, *(name for name in targets if f"logp_{name}" in logged)]
    if len(policies) == 1:
        return {}
    columns, chars = [f"logp_{name}" for name in policies], logged["response_chars"].to_numpy()
    values = logprobs.measured(logged[columns].to_numpy(), chars, 0)
    logged[columns] = values
    facts = logprobs.weight_facts(values, chars, policies, 0)
    doubtful = [name for k, name in enumerate(policies) if k and logprobs.may_be_means(values[:, [0, k]], chars)]
    return facts | {name: [*facts.get(name, []), "logprobs_may_be_means"] for name in doubtful}


def arrays(
    tables: Mapping[str, pd.DataFrame], targets: list[str], logging_policy: str
) -> dict[str, dict[str, PolicyData]]:
    """The arrays of every policy, the logging policy first where there are responses of it as such."""
    logged, fresh = (tables.get(name) for name in ("logged", "fresh"))
    policies = [*([] if logged is None else [logging_policy]), *targets]
    policies += [] if fresh is None else [str(name) for name in fresh["policy"].unique()]
    if fresh is None:
        fresh = tables["logged"].head(0).assign(policy="")
    if logged is None:
        logged, logging_policy = fresh.head(0), ""
    return policies_data(logged, fresh, dict.fromkeys(policies), [ONLY_JUDGE], logging_policy, complete=True)
