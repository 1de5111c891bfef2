"""How a number is said within a sentence; in tables it is written by `report.format_number`.

>>> number(54.962), number(0.0000312), number(1.28e7), number(1e-13)
('55', '0.0000312', '12.8 million', 'under 0.000001')
"""

from __future__ import annotations

import math

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
