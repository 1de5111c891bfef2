"""Bootstrap and permutation of self-normalised means at the price of their heaviest rows.

A few rows carry a heavy-tailed weighted mean; the rest is a sum of many small contributions. The `head` largest
weights are resampled row by row, the bulk through the normal limit of its sums. Random numbers dominate a bootstrap,
and Poisson(1) counts come from a 16-bit table.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from arena10k.estimation.pareto import heaviest

HEAD = 200


def poisson_table() -> np.ndarray:
    """Poisson(1) counts (65536,) at the mid-points of 16-bit uniforms: the inverse distribution function, tabulated."""
    return np.asarray(stats.poisson.ppf((np.arange(65536) + 0.5) / 65536, 1.0).astype(np.uint8))


_COUNTS = poisson_table()


def poisson_counts(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Poisson(1) bootstrap counts, exact to 2^-16 per count."""
    return _COUNTS[rng.integers(0, 65536, size=shape, dtype=np.uint16)]


def split_head(weight: np.ndarray, head: int = HEAD) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the `head` largest weights, and a boolean mask of the bulk."""
    n = len(weight)
    bulk = np.ones(n, dtype=bool)
    top = np.arange(n) if n <= head else heaviest(weight, head)
    bulk[top] = False
    return top, bulk


def bootstrap_ratio(
    weight: np.ndarray, reward: np.ndarray, rng: np.random.Generator, replicates: int = 2000, head: int = HEAD
) -> np.ndarray:
    """Poisson-bootstrap replicates (B,) of sum(w R) / sum(w); rows are independent (average prompts first).

    Rows beyond the head enter through the bivariate normal limit of (sum c w R, sum c w) with c ~ Poisson(1): mean
    (sum w R, sum w), covariance [sum (wR)^2, sum w^2 R; ., sum w^2]. A replicate without any weight is NaN.
    """
    top, bulk = split_head(weight, head)
    counts = poisson_counts((replicates, len(top)), rng).astype(np.float64)
    num, den = counts @ (weight[top] * reward[top]), counts @ weight[top]
    if bulk.any():
        w = weight[bulk]
        wr = w * reward[bulk]
        a, b, c = wr @ wr, w @ wr, w @ w
        z = rng.standard_normal((2, replicates))
        scale = np.sqrt(c) if c > 0 else 1.0
        den = np.maximum(den + w.sum() + scale * z[0], 0.0)
        num = num + wr.sum() + b / scale * z[0] + np.sqrt(max(a - (b / scale) ** 2, 0.0)) * z[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        out = num / den
    # The normal limit can leave the hull of the rewards when the bulk is small; a convex combination cannot.
    return np.asarray(np.clip(out, reward.min(), reward.max()))


def permute_ratio(
    weight: np.ndarray, reward: np.ndarray, rng: np.random.Generator, replicates: int = 999, head: int = HEAD
) -> np.ndarray:
    """Values (B,) of sum(w R) / sum(w) when weights are dealt to rows at random.

    The head's rewards are dealt row by row, without replacement; the bulk of k rows follows the normal limit of dealing
    out what the head left, with mean (n mean(R) - head's rewards) / k and variance
    sigma_R^2 (sum w^2 - (sum w)^2 / k) k / (k - 1).
    """
    n = len(weight)
    if n <= 4 * head:
        order = rng.permuted(np.tile(reward, (replicates, 1)), axis=1)
        return np.asarray(order @ weight / weight.sum())
    top, bulk = split_head(weight, head)
    per_deal = n // len(top)
    deals = [rng.permutation(reward)[: per_deal * len(top)] for _ in range(-(-replicates // per_deal))]
    draws = np.concatenate(deals).reshape(-1, len(top))[:replicates]
    w = weight[bulk]
    k = len(w)
    spread = reward.var() * max(w @ w - w.sum() ** 2 / k, 0.0) * k / (k - 1)
    left = (n * reward.mean() - draws.sum(axis=1)) / k
    rest = w.sum() * left + np.sqrt(spread) * rng.standard_normal(replicates)
    return np.asarray((draws @ weight[top] + rest) / weight.sum())
