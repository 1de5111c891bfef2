"""How anything is written for readers: numbers in sentences and in tables, shares, lists, and text that a model wrote.

>>> number(54.962), number(0.0000312), number(1.28e7), number(1e-13)
('55', '0.0000312', '12.8 million', 'under 0.000001')
>>> rounded(0.12345), rounded(0.12345, 0.11, 0.14), rounded(5e13), percent(0.9996), listed(["a", "b", "c"])
('0.12', '0.123', '50 trillion', 'over 99.9%', 'a, b and c')
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd

MISSING = "—"
VERDICTS = ("REPORT", "CAUTION", "REFUSE")
#: How a verdict is written, where not by its own word: these are no verdicts on the data.
VERDICT_WORDS = {"NOT_ASKED": "not collected", "BY_DEFINITION": "by definition"}
#: How sentences name estimators. `JUDGE_SNIPS`, which no label calibrates, is another number than `snips`.
ESTIMATOR_WORDS = {
    "naive": "the judge's mean",
    "direct": "direct (judge, calibrated)",
    "ppi_pp": "PPI++ (labels + judge)",
    "snips": "SNIPS (calibrated)",
    "definition": "against itself, a tie by definition",
}
JUDGE_SNIPS = "SNIPS on judge scores"
_SCALES = ((1e12, " trillion"), (1e9, " billion"), (1e6, " million"), (0.0, ""))
#: Control, format, unpaired, private and separating characters; the joiners belong to writing systems and emoji.
_HIDDEN, _ODD = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"), re.compile(r"[^ -~\n\t\u200c\u200d]")


def settled(x: float) -> float:
    """The number to twelve digits, which processors agree on: half of a last printed digit is then half on each."""
    return float(f"{x:.12g}")


def number(x: float, apart_from: float | None = None) -> str:
    """Three significant digits, thousands separated, never in scientific notation; NaN is "unknown". As many more, up
    to nine, as it takes to tell it `apart_from` another number."""
    if apart_from is None or x == apart_from:
        return _with_digits(x, 3)
    texts = [_with_digits(x, digits) for digits in range(3, 10)]
    return next((text for text in texts if text != _with_digits(apart_from, 3)), texts[-1])


def _with_digits(x: float, digits: int) -> str:
    size = settled(abs(x))
    if math.isnan(x):
        return "unknown"
    if size < 1e-6:
        return "under 0.000001" if x else "0"
    sign = "-" if x < 0 else ""
    if size >= 1e15:
        return f"{sign}over 1,000 trillion"
    # 999.96 million is a billion.
    scale, word = next((s, w) for s, w in _SCALES if float(f"{size:.{digits}g}") >= s)
    size /= scale or 1.0
    text = f"{size:,.{max(0, digits - 1 - math.floor(math.log10(size)))}f}"
    return sign + (text.rstrip("0").rstrip(".") if "." in text else text) + word


def factor(nats: float) -> str:
    """By how much a difference of log-probs of `nats` (its size counts) moves a weight; in per cent where it is below
    a factor of 2."""
    size = min(abs(nats), 100.0)  # beyond, `number` says no more than that it is large
    return f"{number(100 * math.expm1(size))}%" if size < math.log(2) else f"a factor of {number(math.exp(size))}"


def rounded(x: float, low: float | None = None, high: float | None = None) -> str:
    """A policy value, or a difference of two: two decimals, three where it has an interval of at most 0.05."""
    if x is None or math.isnan(x):
        return "unknown"
    if abs(x) >= 1e6:  # no policy value
        return number(x)
    fine = low is not None and high is not None and high - low <= 0.05
    return f"{x:.3f}" if fine else f"{x:.2f}"


def signed(x: float, low: float | None = None, high: float | None = None) -> str:
    """A difference of two policy values as `rounded`, with its sign: `+0.12`, `\u22120.12`, `0.00`."""
    text = rounded(x, low, high)
    if not float(text):
        return text.removeprefix("-")
    return text.replace("-", "\u2212") if x < 0 else f"+{text}"


def with_interval(x: float, low: float, high: float, confidence: float) -> str:
    """`0.12 (95% interval 0.04 to 0.22)`."""
    value, first, last = (rounded(v, low, high) for v in (x, low, high))
    return f"{value} ({level(confidence)} interval {first} to {last})"


def percent(x: float) -> str:
    """A share in per cent, never rounded to all or nothing."""
    if 0 < x < 0.001:
        return "under 0.1%"
    if 0.999 < x < 1:
        return "over 99.9%"
    return f"{100 * x:.1f}".removesuffix(".0") + "%" if x < 0.1 or x > 0.9 else f"{100 * x:.0f}%"


def level(confidence: float) -> str:
    """`95%`."""
    return f"{100 * confidence:g}%"


def listed(names: Sequence[str], most: int = 12) -> str:
    """`a, b and c`; beyond `most`, the rest is counted."""
    *first, last = list(names) or [""]
    if len(first) >= most:
        return f"{', '.join(first[: most - 1])} and {len(names) - most + 1} others"
    return f"{', '.join(first)} and {last}" if first else last


def told_apart(first: str, second: str) -> tuple[str, str, tuple[str, str]]:
    """What two names begin with, up to a sign that separates words; that sign; and the rest of each."""
    shared = re.match(r"(.*[\W_]|)[^\0]*\0\1", f"{first}\0{second}")
    start = shared[1] if shared else ""
    return start, start[-1:] or "_", (first[len(start) :] or first, second[len(start) :] or second)


def visible(text: str) -> str:
    """`text` with control, direction-changing and unpaired characters written as `[U+202E]`, which keeps what a model
    wrote from reordering or hiding what stands beside it. Escaping for HTML is another matter."""
    return _ODD.sub(
        lambda found: f"[U+{ord(found[0]):04X}]" if unicodedata.category(found[0]) in _HIDDEN else found[0],
        text.replace("\r\n", "\n"),
    )


def format_number(value: Any, spec: str | None = None) -> str:
    """A number in a table: counts with thousands separators, others with three decimals, missing as a dash. Three
    decimals say nothing about a weight of 1e-9 or 1e12: outside [0.0005, 1e6) the form is scientific."""
    if is_missing(value):
        return MISSING
    x = settled(float(value)) if isinstance(value, float | np.floating) else value
    if spec is not None:
        return format(x, spec)
    if isinstance(x, bool | np.bool_):
        return "yes" if x else "no"
    if isinstance(x, Integral):
        return f"{int(x):,}"
    if math.isinf(x):
        return "∞" if x > 0 else "-∞"
    if x == 0 or 0.0005 <= abs(x) < 1000:
        return f"{x:.3f}"
    return f"{x:,.1f}" if 1000 <= abs(x) < 1e6 else f"{x:.1e}"


def format_value(value: Any) -> str:
    """Any cell as plain text: numbers as `format_number`, lists joined, everything else as its visible text."""
    if is_missing(value) or isinstance(value, Real | np.bool_):
        return format_number(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{visible(str(k))} {format_value(v)}" for k, v in value.items()) or MISSING
    if isinstance(value, list | tuple | np.ndarray):
        return ", ".join(map(format_value, value)) or MISSING
    return visible(str(value))


def is_missing(value: Any) -> bool:
    """None, NaN, NaT or NA; never an empty string, list or zero."""
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))
