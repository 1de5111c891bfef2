"""What one analysis asks of the statistics: the only place where its defaults are written."""

from __future__ import annotations

from dataclasses import dataclass

#: Of a scale's width: what is no further beyond an end is that end, and rounding.
NOISE = 1e-9


@dataclass(frozen=True)
class Analysis:
    """One analysis, passed whole.

    `width` wanted of an interval in total, at `confidence`; `calibration` by name; `judge_shift` how far the judge may
    be off on a policy of which nothing says how far it is; `belief` the most that a headline takes to be believed
    ("labels", "weights", "judge"); `folds` of cross-fitting.
    """

    width: float = 0.2
    confidence: float = 0.95
    calibration: str = "isotonic"
    judge_shift: float = 0.1
    belief: str = "weights"
    folds: int = 5


DEFAULT = Analysis()
