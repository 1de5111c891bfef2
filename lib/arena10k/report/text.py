"""How a single value is written: numbers, missing values, verdicts, and text that a model wrote."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from arena10k.wording import settled

MISSING = "—"
VERDICTS = ("REPORT", "CAUTION", "REFUSE")

#: Format characters that writing systems and emoji need; all others (bidirectional overrides ...) are shown by number.
_JOINERS = {"\u200c", "\u200d"}


def visible(text: str) -> str:
    """`text` with control, direction-changing and unpaired characters written as `[U+202E]`.

    Escaping for HTML is another matter: this keeps what a model wrote from reordering or hiding what stands beside it.
    """
    return "".join(c if c in "\n\t" or c in _JOINERS else _named(c) for c in text.replace("\r\n", "\n"))


def _named(char: str) -> str:
    hidden = unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    return f"[U+{ord(char):04X}]" if hidden else char


def format_number(value: Any, spec: str | None = None) -> str:
    """A number for a reader: counts with thousands separators, others with three decimals, missing as a dash.

    Three decimals say nothing about an importance weight of 1e-9 or 1e12: outside [0.0005, 1e6) the form is scientific.
    """
    if is_missing(value):
        return MISSING
    if isinstance(value, float | np.floating):
        value = settled(float(value))
    if spec is not None:
        return format(value, spec)
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    number = float(value)
    if math.isinf(number):
        return "∞" if number > 0 else "-∞"
    size = abs(number)
    if number == 0 or 0.0005 <= size < 1000:
        return f"{number:.3f}"
    return f"{number:,.1f}" if 1000 <= size < 1e6 else f"{number:.1e}"


def format_value(value: Any) -> str:
    """Any cell as plain text: numbers as `format_number`, lists joined, everything else as its visible text."""
    if is_missing(value):
        return MISSING
    if isinstance(value, bool | np.bool_ | int | float | np.integer | np.floating):
        return format_number(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{visible(str(k))} {format_value(v)}" for k, v in value.items()) or MISSING
    if isinstance(value, list | tuple | np.ndarray):
        return ", ".join(format_value(item) for item in value) or MISSING
    return visible(str(value))


def is_missing(value: Any) -> bool:
    """None, NaN, NaT or NA; never an empty string, list or zero."""
    return (
        value is None
        or value is pd.NaT
        or value is pd.NA
        or (isinstance(value, float | np.floating) and value != value)
    )
