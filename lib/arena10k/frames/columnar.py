"""The analysis table straight from Parquet: a million logged rows come in, and stay, as columns.

`logged.parquet`, one row per logged response of the logging policy:

| column | type | meaning |
|---|---|---|
| `prompt_id` | text or integer | rows of one prompt form a cluster |
| `logp_<policy>` | number or null | log-prob of the response under each policy, also the logging one, nats |
| `judge_deterministic`, `judge_uncertainty` | number or null | judge score in [0, 1]; at least one of the two |
| `judge_<mode>_sd` | number or null | standard deviation of that score, where the judge has one |
| `label` | number or null | oracle label in [0, 1]; null where there is none |
| `response_chars` | number or null | characters of the response |
| `draw` | integer | which of several responses to the prompt |
| `prompt`, `response`, `category` | text | kept where they are; only shown |

`fresh.parquet`, one row per fresh draw of a target: `policy`, `prompt_id`, and the judge's columns, `label`,
`response_chars` and texts as above. Every column but `prompt_id`, the log-probs, one judge score and `policy` may be
absent. Other columns are not read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from arena10k.collection.echo import CEILING, SENTINELS
from arena10k.errors import ArenaError, one_line
from arena10k.estimation import outliers
from arena10k.frames.records import JUDGE_MODES
from arena10k.frames.table import Table

_SCORES = tuple(f"judge_{mode}" for mode in JUDGE_MODES)
_NUMBERS = ("label", *_SCORES, *(f"{score}_sd" for score in _SCORES), "response_chars")
_TEXTS = ("prompt", "response", "category")
_LOGP = "logp_"

Columns = dict[str, pa.ChunkedArray]


def read(logged: str | Path, fresh: str | Path | None = None, logging_policy: str = "p0") -> Table:
    """Read the analysis table; targets are the `logp_<policy>` columns, in the order of the file.

    A log-prob that cannot be a measurement (above `echo.CEILING` or infinite, a sentinel, a 0.0 that is no certain
    answer, a value that unrelated rows share) is quarantined and counted in `quarantined`; a null or NaN is missing.
    What `outliers` asks of the texts is asked where they are there.

    Raises
    ------
    ArenaError
        For a file that is absent or no Parquet, a column that is absent or of another type, a score or label outside
        [0, 1] (with its row), a fresh draw of a policy without log-probs.
    """
    logged = Path(logged)
    names = [c.removeprefix(_LOGP) for c in _schema(logged) if c.startswith(_LOGP)]
    if logging_policy not in names:
        raise ArenaError(f"{logged.name}: no column {_LOGP}{logging_policy}: the logging policy's own log-probs")
    columns = _load(logged, [_LOGP + name for name in names])
    quarantined = _quarantined(columns, names)
    rows = _frame(columns)
    base = rows[_LOGP + logging_policy]
    targets = [name for name in names if name != logging_policy]
    missing = {name: int((rows[_LOGP + name].isna() | base.isna()).sum()) for name in names}
    truth = pd.DataFrame(columns=["policy", "value", "se", "prompts", "draws"])
    return Table(rows, _fresh(fresh, targets), truth, missing, quarantined, logging_policy, targets)


def _fresh(path: str | Path | None, targets: list[str]) -> pd.DataFrame:
    if path is None:
        empty = {"policy": "string", "prompt_id": "string"} | dict.fromkeys(_NUMBERS, float)
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in empty.items()})
    path = Path(path)
    if "policy" not in _schema(path):
        raise ArenaError(f"{path.name}: no column policy: it says whose draw a row is")
    columns = _load(path, ["policy"])
    strange = sorted(set(pc.unique(columns["policy"]).to_pylist()) - set(targets), key=str)
    if strange:
        raise ArenaError(f"{path.name}: policy {strange[0]!r} has no column {_LOGP}{strange[0]} among the logged rows")
    return _frame(columns)


def _schema(path: Path) -> list[str]:
    try:
        return list(pq.read_schema(path).names)
    except FileNotFoundError:
        raise ArenaError(f"{path}: no such file") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise ArenaError(f"{path.name}: not a Parquet file: {one_line(error)[:200]}") from error


def _load(path: Path, own: list[str]) -> Columns:
    """The columns of one file that are used, as Arrow arrays: numbers as float64, texts as text; checked."""
    there = _schema(path)
    if "prompt_id" not in there:
        raise ArenaError(f"{path.name}: no column prompt_id")
    if not set(_SCORES) & set(there):
        raise ArenaError(f"{path.name}: no column {' and none '.join(_SCORES)}: one is needed")
    table = pq.read_table(path, columns=["prompt_id", *own, *(c for c in ("draw", *_NUMBERS, *_TEXTS) if c in there)])
    columns = {}
    for name in table.column_names:
        column = table[name]
        if name in _NUMBERS or name.startswith(_LOGP):
            kind = column.type
            if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
                raise ArenaError(f"{path.name}: column {name} holds {kind}, not numbers")
            columns[name] = column.cast(pa.float64())
        else:
            columns[name] = column if name == "draw" else column.cast(pa.string())
    missing = pc.is_null(table["prompt_id"], nan_is_null=True).to_numpy()
    _refuse(path, missing, "prompt_id is missing", "every row needs one")
    for name in ("label", *_SCORES):
        if name in columns:
            values = columns[name].to_numpy()
            outside = (values < 0) | (values > 1)
            first = f"{values[outside.argmax()]:g}" if outside.any() else ""
            _refuse(path, outside, f"{name} is {first}, outside [0, 1]", "divide by the scale's end")
    columns |= {n: pa.chunked_array([pa.nulls(len(table), pa.float64())]) for n in _NUMBERS if n not in columns}
    return columns | {n: pa.chunked_array([pa.nulls(len(table), pa.string())]) for n in _TEXTS if n not in columns}


def _refuse(path: Path, rows: np.ndarray, what: str, advice: str) -> None:
    """Raise ArenaError where any of `rows` (rows,) is True, naming the first of them."""
    if n := int(rows.sum()):
        raise ArenaError(f"{path.name}: row {rows.argmax() + 1}: {what} ({n:,} such rows): {advice}")


def _quarantined(columns: Columns, names: list[str]) -> dict[str, int]:
    """Make log-probs null that cannot be measurements; how many there were of each policy. What one check finds, the
    next leaves out."""
    values = np.column_stack([columns[_LOGP + name].to_numpy() for name in names])
    chars, copied = _lengths(columns), _copied(columns, (values == 0).any(axis=1))
    unusable = np.zeros(values.shape, dtype=bool)
    for check in (
        lambda v: (v > CEILING) | np.isinf(v),
        lambda v: outliers.sentinels(v, SENTINELS),
        lambda v: outliers.zeros(v, chars, copied),
        lambda v: outliers.repeated(v, _codes(columns, v)),
    ):
        hit = check(values)
        unusable |= hit
        values[hit] = np.nan
    for k in np.flatnonzero(unusable.any(axis=0)):
        columns[_LOGP + names[k]] = pa.chunked_array([pa.array(values[:, k])])
    return {name: int(n) for name, n in zip(names, unusable.sum(axis=0), strict=True)}


def _lengths(columns: Columns) -> np.ndarray:
    """Characters of each response (rows,); 0 where nothing tells, so that no zero is taken for one of a long text."""
    chars = pc.coalesce(columns["response_chars"], pc.utf8_length(columns["response"]).cast(pa.float64()))
    return np.asarray(np.nan_to_num(pc.fill_null(chars, 0.0).to_numpy()))


def _copied(columns: Columns, rows: np.ndarray) -> np.ndarray:
    """Whether a response is part of its prompt (rows,), looked up only where `rows` is True."""
    out = np.zeros(len(rows), dtype=bool)
    asked, answers = (columns[name].filter(pa.array(rows)).to_pylist() for name in ("prompt", "response"))
    out[rows] = [bool(p and r and r.strip()) and r.strip() in p for p, r in zip(asked, answers, strict=True)]
    return out


def _codes(columns: Columns, values: np.ndarray) -> np.ndarray:
    """A code for each response's text (rows,); a response without a text is only told from those of other prompts.

    Texts are compared only where rows share a value: elsewhere nothing hangs on the code.
    """
    codes = np.arange(len(values))
    shared = np.column_stack([pd.Series(v).duplicated(keep=False) & np.isfinite(v) for v in values.T]).any(axis=1)
    rows = pa.array(shared)
    text, prompt = (
        pc.dictionary_encode(columns[name].filter(rows)).combine_chunks() for name in ("response", "prompt_id")
    )
    of_text = pc.fill_null(text.indices, -1).to_numpy(zero_copy_only=False)
    of_prompt = len(text.dictionary) + prompt.indices.to_numpy()
    codes[shared] = len(values) + np.where(of_text >= 0, of_text, of_prompt)
    return codes


def _frame(columns: Columns) -> pd.DataFrame:
    """A frame whose numbers are NumPy columns and whose texts stay in Arrow."""
    texts = pd.StringDtype("pyarrow", na_value=np.nan)
    data = {}
    for name in list(columns):
        column = columns.pop(name)
        is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        data[name] = pd.array(column, dtype=texts) if is_text else column.to_numpy()
    return pd.DataFrame(data, copy=False)
