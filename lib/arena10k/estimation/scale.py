"""The label's scale: statistics are on [0, 1], and what is shown is on the scale that was declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

Number = TypeVar("Number", float, np.ndarray)
#: Of a row of estimates.json, and of those of contrasts and breakdowns: what is a value, what a difference of two.
_VALUES, _SIZES = ("value", "ci_low", "ci_high"), ("se", "difference", "low", "high", "judge_error")
NUMBERS = (*_VALUES, *_SIZES)


class Scale(NamedTuple):
    """The ends of a scale."""

    low: float = 0.0
    high: float = 1.0

    @property
    def size(self) -> float:
        return self.high - self.low

    def at(self, value: Number) -> Number:
        """Where on the scale a value of [0, 1] is."""
        return self.low + self.size * value

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row with its values and differences on the scale; None stays None."""
        values = {name: self.at(row[name]) for name in _VALUES if row.get(name) is not None}
        return {**row, **values, **{name: self.size * row[name] for name in _SIZES if row.get(name) is not None}}


UNIT = Scale()
