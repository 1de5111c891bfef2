"""Result files: strict JSON, written in one step so that no reader ever sees half a file."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def plain(value: Any) -> Any:
    """`value` in JSON's own types: numpy and pandas values unwrapped, NaN, infinities and missing values as None.

    Raises
    ------
    TypeError
        For a type without an obvious JSON form: a guess would become part of a stable format.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.bool_ | np.integer):
        return value.item()
    if value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, list | tuple | np.ndarray | pd.Series | pd.Index):
        return [plain(item) for item in value]
    if isinstance(value, pd.DataFrame):
        return plain(value.to_dict("records"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"no JSON form for {type(value).__name__}")


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, bool | np.bool_) or not isinstance(key, int | np.integer):
        raise TypeError(f"JSON object keys are strings or integers, not {type(key).__name__}")
    return str(key)


def write_json(path: str | os.PathLike[str], obj: Any) -> Path:
    """Write `obj` as strict JSON: keys sorted, NaN and infinities null, numpy and pandas types unwrapped.

    The same object gives the same bytes; a time such as `created` is the caller's to put in. The file is replaced in
    one step. Returns the path.

    Raises
    ------
    TypeError
        For a type without an obvious JSON form.
    """
    text = json.dumps(plain(obj), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return write_text(path, text + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Replace `path` by `text` (UTF-8) in one step; parent folders are made. Returns the path."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Model text may hold lone surrogates, which have no UTF-8 form.
    data = text.encode("utf-8", errors="replace")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
