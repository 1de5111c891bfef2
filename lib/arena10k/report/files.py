"""Result files: strict JSON, written in one step so that no reader ever sees half a file."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from arena10k.wording import is_missing


def plain(value: Any) -> Any:
    """`value` in JSON's own types: numpy and pandas values unwrapped, NaN, infinities and missing values as None.
    TypeError for a type without an obvious JSON form: a guess would become part of a stable format."""
    if is_missing(value):
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        for key in value:
            if isinstance(key, bool) or not isinstance(key, str | Integral):
                raise TypeError(f"JSON object keys are strings or integers, not {type(key).__name__}")
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(plain, value))
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


def write_json(path: str | os.PathLike[str], obj: Any) -> Path:
    """Replace the file by `plain(obj)` as strict JSON, keys sorted; returns the path. The same object gives the same
    bytes: a time such as `created` is the caller's to put in."""
    return write_text(
        path, json.dumps(plain(obj), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    )


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Replace `path` by `text` (UTF-8) in one step; parent folders are made. Returns the path."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            # Model text may hold lone surrogates, which have no UTF-8 form.
            stream.write(text.encode("utf-8", errors="replace"))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
