"""How numbers and lists are said within a sentence; in tables a number is written by `report.format_number`.

>>> number(54.962), number(0.0000312), number(1.28e7), number(1e-13)
('55', '0.0000312', '12.8 million', 'under 0.000001')
>>> rounded(0.12345), rounded(0.12345, 0.11, 0.14), percent(0.78), percent(0.9996), listed(["a", "b", "c"])
('0.12', '0.123', '78%', 'over 99.9%', 'a, b and c')
"""

from __future__ import annotations

import math
from collections.abc import Sequence

#: How sentences name estimators. `JUDGE_SNIPS`, which no label calibrates, is another number than `snips`.
ESTIMATOR_WORDS = {
    "naive": "the judge's mean",
    "direct": "direct (judge, calibrated)",
    "ppi_pp": "PPI++ (labels + judge)",
    "snips": "SNIPS (calibrated)",
}
#: How a verdict is written, where not by its own word: what was never collected is no verdict on the data.
VERDICT_WORDS = {"NOT_ASKED": "not collected"}
JUDGE_SNIPS = "SNIPS on judge scores"
#: An interval wider than this has no use for a third decimal of its value.
_FINE = 0.05

_SCALES = ((1e12, " trillion"), (1e9, " billion"), (1e6, " million"))
#: Beyond these a size is only said to be smaller or larger.
_SMALL, _LARGE = 1e-6, 1e15


def settled(x: float) -> float:
    """The number to twelve digits, which processors agree on: half of a last printed digit is then half on each."""
    return float(f"{x:.12g}")


def number(x: float, apart_from: float | None = None) -> str:
    """Three significant digits, thousands separated, never in scientific notation; NaN is "unknown". As many more, up
    to nine, as it takes to tell it `apart_from` another number."""
    texts = (_written(x, digits) for digits in range(3, 10))
    if apart_from is None or x == apart_from:
        return next(texts)
    return next((text for text in texts if text != _written(apart_from, 3)), _written(x, 9))


def _written(x: float, digits: int) -> str:
    size = settled(abs(x))
    if math.isnan(x):
        return "unknown"
    if x == 0:
        return "0"
    if size < _SMALL:
        return "under 0.000001"
    sign = "-" if x < 0 else ""
    if size >= _LARGE:
        return f"{sign}over 1,000 trillion"
    rounded = float(f"{size:.{digits}g}")  # 999.96 million is a billion
    scale, word = next(((s, w) for s, w in _SCALES if rounded >= s), (1.0, ""))
    size /= scale
    text = f"{size:,.{max(0, digits - 1 - math.floor(math.log10(size)))}f}"
    return sign + (text.rstrip("0").rstrip(".") if "." in text else text) + word


def factor(nats: float) -> str:
    """By how much a difference of log-probs of `nats` (its size counts) moves a weight: in per cent below a factor of
    2."""
    size = abs(nats)
    if size < math.log(2):
        return f"{number(100 * math.expm1(size))}%"
    # Beyond, `number` says no more than that it is large.
    return f"a factor of {number(math.exp(min(size, 100.0)))}"


def rounded(x: float, low: float | None = None, high: float | None = None) -> str:
    """A policy value, or a difference of two: two decimals, three where it has an interval of at most 0.05."""
    if x is None or math.isnan(x):
        return "unknown"
    fine = low is not None and high is not None and high - low <= _FINE
    return f"{x:.3f}" if fine else f"{x:.2f}"


def with_interval(x: float, low: float, high: float, confidence: float) -> str:
    """`0.12 (95% interval 0.04 to 0.22)`."""
    told = [rounded(v, low, high) for v in (x, low, high)]
    return f"{told[0]} ({level(confidence)} interval {told[1]} to {told[2]})"


def percent(x: float) -> str:
    """A share in per cent, never rounded to all or nothing."""
    if x in (0, 1):
        return f"{100 * x:.0f}%"
    if 0 < x < 0.001:
        return "under 0.1%"
    if 0.999 < x < 1:
        return "over 99.9%"
    digits = f"{100 * x:.1f}".removesuffix(".0") if x < 0.1 or x > 0.9 else f"{100 * x:.0f}"
    return f"{digits}%"


def level(confidence: float) -> str:
    """`95%`."""
    return f"{100 * confidence:g}%"


def listed(names: Sequence[str], most: int = 12) -> str:
    """`a, b and c`; beyond `most`, the rest is counted."""
    names = list(names)
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} others"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1] if names else "")))
