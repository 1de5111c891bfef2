"""The frames that `evaluate` takes, checked, as the arrays of every policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from arena10k.errors import DataError
from arena10k.estimation import logprobs
from arena10k.estimation.data import PolicyData, log_weights, numbers, policies_data

if TYPE_CHECKING:
    import pandas as pd

#: The chance of a label of a row that had none.
NEVER = 1e-300
#: The judge mode of data that has one alone.
MODE = "judge"


@dataclass(frozen=True)
class Column:
    """An argument of `evaluate` that names a column, and the ends of its scale."""

    key: str
    name: str | None
    low: float
    high: float

    def of(self, which: str, frame: pd.DataFrame) -> np.ndarray:
        """The values on [0, 1], checked."""
        values, (low, high), hint = _numbers(which, frame, str(self.name)), (self.low, self.high), ""
        if self.key == "judge_variance":
            low, high = 0.0, float("inf")
        elif self.key != "label_propensity":
            hint = f"; declare the scale, {self.key}_scale=(low, high)"
        outside = np.flatnonzero((values < low) | (values > high))
        if len(outside):
            raise DataError(
                f"{which}: column {self.name!r}, row {outside[0]}: {values[outside[0]]:g} is outside of {low:g} to "
                f"{high:g} ({len(outside)} of {len(values)} rows){hint}"
            )
        size = self.high - self.low
        return np.asarray(np.sqrt(values) / size if self.key == "judge_variance" else (values - self.low) / size)


def table(
    which: str, frame: pd.DataFrame, columns: Iterable[Column], cluster: str | None, logging_policy: str
) -> pd.DataFrame:
    """One frame in the columns of the analysis table (see `policies_data`), checked."""
    import pandas as pd

    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise DataError(f"{which}: there are several columns {twice[0]!r}: keep one")
    logps = [c for c in map(str, frame.columns) if c.startswith("logp_")] if which == "logged" else []
    base = [f"logp_{logging_policy}"] if set(logps) - {f"logp_{logging_policy}"} else []
    for column in ("prompt_id", *["policy"] * (which == "fresh"), *[cluster] * bool(cluster), *base):
        if column not in frame:
            raise DataError(f"{which}: no column {column!r}; there are: {', '.join(map(str, frame.columns))}")
    names = {"judge": f"judge_{MODE}", "judge_variance": f"judge_{MODE}_sd"}
    made = {"prompt_id": _names(which, frame, "prompt_id")}
    made |= {names.get(c.key, c.key): c.of(which, frame) for c in columns if c.name}
    if cluster:
        made["cluster"] = _names(which, frame, cluster)
    _check_chances(which, made)
    if which == "fresh":
        return pd.DataFrame(made | {"policy": _names(which, frame, "policy")})
    for column in logps:
        made[column] = _numbers(which, frame, column)
        above = np.flatnonzero(made[column] > 1e-4)
        if len(above):
            raise DataError(
                f"logged: column {column!r}, row {above[0]}: {made[column][above[0]]:g} is no log-prob, which is at "
                f"most 0 ({len(above)} of {len(frame)} rows); log-probs are natural logarithms, summed over a response"
            )
    made["response_chars"] = _lengths(frame)
    weights = [c for c in map(str, frame.columns) if c.startswith("log_weight_")]
    for column, other in [(c, f"logp_{c.removeprefix('log_weight_')}") for c in weights]:
        if other in logps or other in ("logp_", f"logp_{logging_policy}"):
            why = f"{other!r} says it too" if other in logps else "that is no target"
            raise DataError(f"logged: column {column!r}: {why}; leave it out")
    made |= {column: _numbers(which, frame, column) for column in weights}
    return pd.DataFrame(made | {f"log_weight_{logging_policy}": 0.0})


def _lengths(frame: pd.DataFrame) -> np.ndarray:
    """Characters of the responses, NaN where neither they nor their texts are there."""
    if "response_chars" not in frame and "response" in frame:
        return np.asarray(frame["response"].astype("string").str.len().to_numpy(dtype=np.float64, na_value=np.nan))
    return _numbers("logged", frame, "response_chars")


def _names(which: str, frame: pd.DataFrame, column: str) -> pd.Series[str]:
    """A column of names as text, whole numbers alike however they are stored; none may be missing."""
    values = frame[column]
    missing = np.flatnonzero(values.isna())
    if len(missing):
        raise DataError(
            f"{which}: column {column!r}, row {missing[0]}: missing ({len(missing)} of {len(values)} rows); name it or "
            "leave the row out"
        )
    if values.dtype.kind == "f" and (values % 1 == 0).all():
        values = values.astype(np.int64)
    return values.astype(str)


def _check_chances(which: str, made: dict[str, Any]) -> None:
    """Labelled rows have a chance above 0; that of the others may be missing, or 0, which is made `NEVER`."""
    chance, has = made.get("label_propensity"), ~np.isnan(made["label"])
    if chance is None:
        return
    made["label_propensity"] = np.where(~has & (chance == 0), NEVER, chance)
    bad = np.flatnonzero(has & ~(chance > 0))
    if len(bad) and not np.isnan(chance).all():
        raise DataError(
            f"{which}: label_propensity, row {bad[0]}: a row with a label has a chance above 0, not {chance[bad[0]]:g} "
            f"({len(bad)} of {int(has.sum())} labelled rows)"
        )


def _numbers(which: str, frame: pd.DataFrame, column: str) -> np.ndarray:
    if frame[column].dtype.kind == "c" if column in frame else False:
        raise DataError(f"{which}: column {column!r} holds complex numbers: give real ones")
    try:
        return numbers(frame, column)
    except (TypeError, ValueError):
        row = next(i for i, v in enumerate(frame[column]) if not _is_number(v))
        raise DataError(f"{which}: column {column!r}, row {row}: {frame[column][row]!r} is no number") from None


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return value is None
    return True


def check_named(
    given: Mapping[str, pd.DataFrame], tables: Mapping[str, pd.DataFrame], columns: Iterable[Column]
) -> None:
    """Every column that was named is in a frame. Without any judge's scores labels and weights speak alone: a score
    that is the same everywhere says nothing."""
    for column in columns:
        if column.name is None or any(column.name in frame for frame in given.values()):
            continue
        if column.name != column.key:
            raise DataError(f"{column.key}: there is no column {column.name!r} in {' or '.join(given)}")
        if column.key == "judge":
            for table in tables.values():
                table[f"judge_{MODE}"] = 0.5


def check_arguments(given: Mapping[str, Any], logging_policy: str, **numbers: Any) -> None:
    """What is no column: frames, names and scales.

    Raises
    ------
    DataError
        For the first that is wrong, by its name.
    """
    import pandas as pd

    for name, frame in given.items():
        if not isinstance(frame, pd.DataFrame):
            raise DataError(f"{name}: {type(frame).__name__} is no DataFrame; give pandas.DataFrame(...)")
    if not any(len(frame) for frame in given.values()):
        raise DataError(f"{' and '.join(given)}: no row to evaluate")
    if not isinstance(logging_policy, str) or not logging_policy:
        raise DataError(f"logging_policy: {logging_policy!r} is no name of a policy")
    for name in ("judge_scale", "label_scale"):
        ends = _finite(numbers[name])
        if np.shape(ends) != (2,) or not ends[0] < ends[1]:
            raise DataError(f"{name}: {numbers[name]!r} is no pair (low, high) of numbers with low < high")
    size = np.diff(_finite(numbers["label_scale"]))[0]
    limits = {"confidence": (0.0, 1.0, False), "width": (0.0, size, True), "judge_shift": (0.0, size, True)}
    for name, (low, high, ends_allowed) in limits.items():
        value = numbers[name]
        if value is None:
            continue
        number = _finite(value)
        inside = number.shape == () and (low < number < high or (ends_allowed and number == high))
        if not inside and not (name == "judge_shift" and number.shape == () and number == 0):
            most = f"{'up to' if ends_allowed else 'below'} {high:g}"
            raise DataError(f"{name}: {value!r} is no number above {low:g} and {most}")


def _finite(value: Any) -> np.ndarray:
    """As float64, NaN where it is no finite number."""
    try:
        number = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return np.asarray(np.nan)
    return np.where(np.isfinite(number), number, np.nan)


def targets_of(logged: pd.DataFrame | None, logging_policy: str) -> list[str]:
    """The policies of which there are log-probs or weights, which are finite where they are there."""
    columns = [] if logged is None else [c for c in logged if c.startswith(("logp_", "log_weight_"))]
    names = dict.fromkeys(c.removeprefix("logp_").removeprefix("log_weight_") for c in columns)
    targets = [name for name in names if name != logging_policy]
    for policy in targets:
        values = log_weights(logged, policy, logging_policy)
        if np.isposinf(values).any():
            raise DataError(f"logged: the log-weight of {policy}, row {int(values.argmax())}, is infinite")
    return targets


def judged_logprobs(logged: pd.DataFrame, targets: list[str], logging_policy: str) -> dict[str, list[str]]:
    """Log-probs that are no measurements become NaN in `logged`; by target what the rest says against its weights."""
    names = [logging_policy, *(name for name in targets if f"logp_{name}" in logged)]
    if len(names) == 1:
        return {}
    columns, chars = [f"logp_{name}" for name in names], logged["response_chars"].to_numpy()
    values = logprobs.measured(logged[columns].to_numpy(), chars, 0)
    logged[columns] = values
    facts = logprobs.weight_facts(values, chars, names, 0)
    doubtful = [name for k, name in enumerate(names) if k and logprobs.may_be_means(values[:, [0, k]], chars)]
    return facts | {name: [*facts.get(name, []), "logprobs_may_be_means"] for name in doubtful}


def arrays(
    tables: Mapping[str, pd.DataFrame], targets: list[str], logging_policy: str
) -> dict[str, dict[str, PolicyData]]:
    """The arrays of every policy, the logging policy first where there are responses of it as such."""
    logged, fresh = (tables.get(name) for name in ("logged", "fresh"))
    names = [*([] if logged is None else [logging_policy]), *targets]
    names += [] if fresh is None else [str(name) for name in fresh["policy"].unique()]
    if fresh is None:
        fresh = tables["logged"].head(0).assign(policy="")
    if logged is None:
        logged, logging_policy = fresh.head(0), ""
    return policies_data(logged, fresh, dict.fromkeys(names), [MODE], logging_policy, complete=True)
