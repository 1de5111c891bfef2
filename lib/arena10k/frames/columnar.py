"""The analysis table straight from Parquet: a million logged rows come in, and stay, as columns.

`logged.parquet`, one row per logged response of the logging policy:

| column | type | meaning |
|---|---|---|
| `prompt_id` | text or integer | rows of one prompt form a cluster |
| `logp_<policy>` | number or null | log-prob of the response under each policy, also the logging one, nats |
| `judge_<name>` | number or null | score of a judge in [0, 1], such as `judge_deterministic`; at least one |
| `judge_<name>_sd` | number or null | standard deviation of that score, where the judge has one |
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

from arena10k.analysis import NOISE
from arena10k.collection.echo import CEILING, SENTINELS
from arena10k.collection.jobs import DETERMINISTIC, JUDGE
from arena10k.errors import ArenaError, one_line
from arena10k.estimation import outliers
from arena10k.frames.table import Table, without_log_ratio
from arena10k.params.judge import MODES

_NUMBERS = ("label", *(f"judge_{mode}{end}" for end in ("", "_sd") for mode in MODES), "response_chars")
_TEXTS = ("prompt", "response", "category")
_LOGP = "logp_"

Columns = dict[str, pa.ChunkedArray]


def read(logged: str | Path, fresh: str | Path | None = None, logging_policy: str = "p0") -> Table:
    """Read the analysis table; targets are the `logp_<policy>` columns, in the order of the file.

    A log-prob that cannot be a measurement (above `echo.CEILING` or infinite, a sentinel, a 0.0 that is no certain
    answer, a value that unrelated rows share) is quarantined and counted in `quarantined`; a null or NaN is missing.
    What `outliers` asks of the texts is asked where they are there. Raises ArenaError for a file that is absent or no
    Parquet, a column that is absent or of another type, a score or label outside [0, 1] (with its row), a fresh draw of
    a policy without log-probs.
    """
    columns = _load(Path(logged), _LOGP + logging_policy, "the logging policy's own log-probs")
    names = [c.removeprefix(_LOGP) for c in columns if c.startswith(_LOGP)]
    targets = [name for name in names if name != logging_policy]
    quarantined, rows = _quarantined(columns, names), _frame(columns)
    if fresh is None:
        kinds = {"policy": "string", "prompt_id": "string"} | dict.fromkeys(_NUMBERS, float)
        draws = pd.DataFrame(columns=list(kinds)).astype(kinds)
    else:
        columns = _load(Path(fresh), "policy", "it says whose draw a row is")
        if strange := sorted(set(pc.unique(columns["policy"]).to_pylist()) - set(targets), key=str):
            none = f"policy {strange[0]!r} has no column {_LOGP}{strange[0]} among the logged rows"
            raise ArenaError(f"{Path(fresh).name}: {none}")
        draws = _frame(columns)
    missing = without_log_ratio(rows, names, logging_policy)
    truth = pd.DataFrame(columns=["policy", "value", "se", "prompts", "draws"])
    return Table(rows, draws, truth, missing, quarantined, logging_policy, targets)


def _load(path: Path, needed: str, why: str) -> Columns:
    """The columns of one file that are used, as Arrow arrays: numbers as float64, texts as text; checked."""
    try:
        names = list(pq.read_schema(path).names)
    except FileNotFoundError:
        raise ArenaError(f"{path}: no such file") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise ArenaError(f"{path.name}: not a Parquet file: {one_line(error)[:200]}") from error
    for column, reason in ((needed, f": {why}"), ("prompt_id", "")):
        if column not in names:
            raise ArenaError(f"{path.name}: no column {column}{reason}")
    judged = [name for name in names if name.startswith(JUDGE)]
    scores = [name for name in judged if not name.endswith("_sd")]
    if not scores:
        raise ArenaError(f"{path.name}: no column {JUDGE}<name>, such as {DETERMINISTIC}: one is needed")
    own = [name for name in names if name.startswith(_LOGP)] if needed.startswith(_LOGP) else [needed]
    used = {"prompt_id", "draw", *own, *judged, *_NUMBERS, *_TEXTS}
    table = pq.read_table(path, columns=[name for name in names if name in used])
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type
        if name in _NUMBERS or name.startswith((_LOGP, JUDGE)):
            if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
                raise ArenaError(f"{path.name}: column {name} holds {kind}, not numbers")
            kind = pa.float64()
        elif name != "draw":
            kind = pa.string()
        columns[name] = column.cast(kind)
    unnamed = pc.is_null(table["prompt_id"], nan_is_null=True).to_numpy()
    _refuse(path, unnamed, "prompt_id is missing", "every row needs one")
    for name in [name for name in ("label", *scores) if name in columns]:
        values = columns[name].to_numpy()
        near = np.clip(values, 0, 1)
        outside = np.abs(values - near) > NOISE
        first = f"{values[outside.argmax()]:.15g}" if outside.any() else ""
        _refuse(path, outside, f"{name} is {first}, outside [0, 1]", "divide by the scale's end")
        columns[name] = pa.chunked_array([near])
    kinds = dict.fromkeys(_NUMBERS, pa.float64()) | dict.fromkeys(_TEXTS, pa.string())
    return {n: pa.chunked_array([pa.nulls(len(table), kind)]) for n, kind in kinds.items()} | columns


def _refuse(path: Path, rows: np.ndarray, what: str, advice: str) -> None:
    """Raise ArenaError where any of `rows` (rows,) is True, naming the first of them."""
    if n := int(rows.sum()):
        raise ArenaError(f"{path.name}: row {rows.argmax() + 1}: {what} ({n:,} such rows): {advice}")


def _quarantined(columns: Columns, names: list[str]) -> dict[str, int]:
    """Make log-probs null that cannot be measurements; how many there were of each policy. What one check finds, the
    next leaves out."""
    values = np.column_stack([columns[_LOGP + name].to_numpy() for name in names])
    # 0 where nothing tells, so that no zero is taken for one of a long text.
    chars = pc.coalesce(columns["response_chars"], pc.utf8_length(columns["response"]).cast(pa.float64()), 0.0)
    copied = (values == 0).any(axis=1)  # of other rows nobody asks it
    texts = [columns[name].filter(pa.array(copied)).to_pylist() for name in ("prompt", "response")]
    copied[copied] = [bool(p and r and r.strip()) and r.strip() in p for p, r in zip(*texts, strict=True)]
    unusable = np.zeros(values.shape, dtype=bool)
    for check in (
        lambda v: (v > CEILING) | np.isinf(v),
        lambda v: outliers.sentinels(v, SENTINELS),
        lambda v: outliers.zeros(v, np.nan_to_num(chars.to_numpy()), copied),
        lambda v: outliers.repeated(v, _texts(columns, v)),
    ):
        hit = check(values)
        unusable |= hit
        values[hit] = np.nan
    for k in np.flatnonzero(unusable.any(axis=0)):
        columns[_LOGP + names[k]] = pa.chunked_array([pa.array(values[:, k])])
    return {name: int(n) for name, n in zip(names, unusable.sum(axis=0), strict=True)}


def _texts(columns: Columns, values: np.ndarray) -> np.ndarray:
    """A code for each response's text (rows,); a response without a text is only told from those of other prompts.

    Texts are compared only where rows share a value: elsewhere nothing hangs on the code.
    """
    shared = np.column_stack([pd.Series(v).duplicated(keep=False) & np.isfinite(v) for v in values.T]).any(axis=1)
    rows, codes = pa.array(shared), np.arange(len(values))
    text, prompt = (pc.dictionary_encode(columns[c].filter(rows)).combine_chunks() for c in ("response", "prompt_id"))
    of_text = pc.fill_null(text.indices, -1).to_numpy(zero_copy_only=False)
    of_prompt = len(text.dictionary) + prompt.indices.to_numpy()
    codes[shared] = len(values) + np.where(of_text >= 0, of_text, of_prompt)
    return codes


def _frame(columns: Columns) -> pd.DataFrame:
    """A frame whose numbers are NumPy columns and whose texts stay in Arrow."""
    texts = pd.StringDtype("pyarrow", na_value=np.nan)
    data = {}
    for name in list(columns):
        column = columns.pop(name)  # freed before the next is made
        data[name] = pd.array(column, dtype=texts) if pa.types.is_string(column.type) else column.to_numpy()
    return pd.DataFrame(data, copy=False)
