"""The analysis table straight from Parquet: a million logged rows come in, and stay, as columns.

docs/data.md says which columns there are; others are not read.
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
_TEXTS = dict.fromkeys(("prompt", "response", "category"), pd.StringDtype("pyarrow", na_value=np.nan))
_LOGP = "logp_"


def read(logged: str | Path, fresh: str | Path | None = None, logging_policy: str = "p0") -> Table:
    """Read the analysis table; targets are the `logp_<policy>` columns, in the order of the file.

    A log-prob that cannot be a measurement (above `echo.CEILING` or infinite, a sentinel, a 0.0 that is no certain
    answer, a value that unrelated rows share) is quarantined and counted in `quarantined`; a null or NaN is missing.
    What `outliers` asks of the texts is asked where they are there. Raises ArenaError for a file that is absent or no
    Parquet, a column that is absent or of another type, a score or label outside [0, 1] (with its row), a fresh draw of
    a policy without log-probs.
    """
    rows = _load(Path(logged), _LOGP + logging_policy, "the logging policy's own log-probs")
    names = [c.removeprefix(_LOGP) for c in rows if c.startswith(_LOGP)]
    targets = [name for name in names if name != logging_policy]
    quarantined = _quarantine(rows, names)
    if fresh is None:
        draws = rows.head(0).assign(policy=lambda none: none.prompt_id)
    else:
        draws = _load(Path(fresh), "policy", "it says whose draw a row is")
        if strange := sorted(set(draws.policy.unique()) - set(targets), key=str):
            none = f"policy {strange[0]!r} has no column {_LOGP}{strange[0]} among the logged rows"
            raise ArenaError(f"{Path(fresh).name}: {none}")
    missing = without_log_ratio(rows, names, logging_policy)
    truth = pd.DataFrame(columns=["policy", "value", "se", "prompts", "draws"])
    return Table(rows, draws, truth, missing, quarantined, logging_policy, targets)


def _load(path: Path, needed: str, why: str) -> pd.DataFrame:
    """The columns of one file that are used, checked: numbers as float64, texts in Arrow."""
    try:
        schema = pq.read_schema(path)
    except FileNotFoundError:
        raise ArenaError(f"{path}: no such file") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise ArenaError(f"{path.name}: not a Parquet file: {one_line(error)[:200]}") from error
    for column, reason in ((needed, f": {why}"), ("prompt_id", "")):
        if column not in schema.names:
            raise ArenaError(f"{path.name}: no column {column}{reason}")
    scores = [name for name in schema.names if name.startswith(JUDGE) and not name.endswith("_sd")]
    if not scores:
        raise ArenaError(f"{path.name}: no column {JUDGE}<name>, such as {DETERMINISTIC}: one is needed")
    own = (_LOGP, JUDGE) if needed.startswith(_LOGP) else (JUDGE,)
    fields = []
    for name, kind in zip(schema.names, schema.types, strict=True):
        if name in _NUMBERS or name.startswith(own):
            if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
                raise ArenaError(f"{path.name}: column {name} holds {kind}, not numbers")
            fields.append(pa.field(name, pa.float64()))
        elif name in (needed, "prompt_id", "draw", *_TEXTS):
            fields.append(pa.field(name, kind if name == "draw" else pa.string()))
    table = pq.read_table(path, columns=[field.name for field in fields])
    unnamed = pc.is_null(table["prompt_id"], nan_is_null=True).to_numpy()
    _refuse(path, unnamed, "prompt_id is missing", "every row needs one")
    table = table.cast(pa.schema(fields))
    frame = table.to_pandas(ignore_metadata=True, split_blocks=True, types_mapper={pa.string(): _TEXTS["prompt"]}.get)
    for name in [name for name in ("label", *scores) if name in frame]:
        values, near = frame[name], frame[name].clip(0, 1)
        outside = ((values - near).abs() > NOISE).to_numpy()
        first = f"{values[outside.argmax()]:.15g}" if outside.any() else ""
        _refuse(path, outside, f"{name} is {first}, outside [0, 1]", "divide by the scale's end")
        frame[name] = near
    frame = frame.reindex(columns=list(dict.fromkeys([*_NUMBERS, *_TEXTS, *frame]))).astype(_TEXTS)
    frame["response_chars"] = frame.response_chars.fillna(frame.response.str.len())
    return frame


def _refuse(path: Path, rows: np.ndarray, what: str, advice: str) -> None:
    """Raise ArenaError where any of `rows` (rows,) is True, naming the first of them."""
    if n := int(rows.sum()):
        raise ArenaError(f"{path.name}: row {rows.argmax() + 1}: {what} ({n:,} such rows): {advice}")


def _quarantine(rows: pd.DataFrame, names: list[str]) -> dict[str, int]:
    """Make log-probs missing that cannot be measurements; how many there were of each policy. What one check finds, the
    next leaves out."""
    columns = [_LOGP + name for name in names]
    values = rows[columns].to_numpy(copy=True)
    # 0 where nothing tells, so that no zero is taken for one of a long text.
    chars = rows.response_chars.fillna(0.0).to_numpy()
    copied = (values == 0).any(axis=1)  # of other rows nobody asks it
    texts = (rows[name][copied].fillna("") for name in ("prompt", "response"))
    copied[copied] = [bool(r.strip()) and r.strip() in p for p, r in zip(*texts, strict=True)]
    absent = np.isnan(values)
    for check in (
        lambda v: (v > CEILING) | np.isinf(v),
        lambda v: outliers.sentinels(v, SENTINELS),
        lambda v: outliers.zeros(v, chars, copied),
        lambda v: outliers.repeated(v, _texts(rows, v)),
    ):
        values[check(values)] = np.nan
    rows[columns] = values
    return dict(zip(names, map(int, (np.isnan(values) & ~absent).sum(axis=0)), strict=True))


def _texts(rows: pd.DataFrame, values: np.ndarray) -> np.ndarray:
    """A code for each response's text (rows,); a response without a text is only told from those of other prompts.

    Texts are compared only where rows share a value: elsewhere nothing hangs on the code.
    """
    shared = np.column_stack([pd.Series(v).duplicated(keep=False) & np.isfinite(v) for v in values.T]).any(axis=1)
    codes, some = np.arange(len(values)), rows[shared]
    codes[shared] = len(values) + pd.factorize(some.response.fillna("\0" + some.prompt_id))[0]
    return codes
