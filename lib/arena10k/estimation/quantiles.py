"""Two-sided quantiles by confidence level; scipy's special functions, a hundredth of the time of its distributions."""

from __future__ import annotations

import numpy as np
from scipy import special


def normal(confidence: float) -> float:
    """z with P(|N(0, 1)| <= z) = `confidence`."""
    return float(special.ndtri((1 + confidence) / 2))


def student(confidence: float, df: float) -> float:
    """The same for Student's t with `df` degrees of freedom, infinite ones included."""
    return normal(confidence) if np.isinf(df) else float(special.stdtrit(df, (1 + confidence) / 2))


def fisher(confidence: float, n: float) -> float:
    """q with P(F(1, n) <= q) = `confidence`: the square of Student's t."""
    return float(special.stdtrit(n, (1 + confidence) / 2)) ** 2
