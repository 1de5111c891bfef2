"""Raw importance weights and their tail: the audit of weights, k-hat and Pareto smoothing. Log-weights are (n,), finite
or -inf, and shifted by their maximum before anything is exponentiated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from arena10k.estimation.thresholds import AMPLE_ESS, MAX_KHAT, MEAN_WEIGHT_RANGE, MIN_ESS_FRACTION, NOISE


def fit_generalised_pareto(excess: np.ndarray) -> tuple[float, float]:
    """Shape k and scale sigma of exceedances (M,), ascending and positive.

    Zhang & Stephens (2009), with the weakly informative prior of Vehtari et al. (2024, appendix C) that pulls k towards
    1/2 with the weight of ten observations. k > 0 is a heavy tail.
    """
    m = len(excess)
    grid = 30 + int(np.sqrt(m))
    b = 1 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))
    b = b / (3 * excess[(m + 2) // 4 - 1]) + 1 / excess[-1]
    k = np.log1p(-b[:, None] * excess).mean(axis=1)
    profile = m * (np.log(-(b / k)) - k - 1)
    weights = np.exp(profile - np.logaddexp.reduce(profile))
    b_post = float((b * weights).sum())
    shape = float(np.log1p(-b_post * excess).mean())
    return (m * shape + 5.0) / (m + 10.0), -shape / b_post


def tail_size(n: int) -> int:
    """Rows in the fitted tail: min(n/5, 3 sqrt(n)), Vehtari et al. (2024)."""
    return int(np.ceil(min(0.2 * n, 3 * np.sqrt(n))))


def ceiling_count(log_weight: np.ndarray) -> int:
    """Rows whose log-weight equals the maximum: more than one means a clip, a sentinel, or a constant."""
    return int((log_weight >= log_weight.max(initial=-np.inf) - 1e-9).sum())


def heaviest(values: np.ndarray, size: int) -> np.ndarray:
    """Row numbers of the `size` largest values, ascending by value, ties in the order of the rows; as a stable sort
    gives them, in linear time."""
    if size >= len(values):
        return np.argsort(values, kind="stable")
    cut = np.partition(values, len(values) - size)[len(values) - size]
    above, tied = np.flatnonzero(values > cut), np.flatnonzero(values == cut)
    return np.append(tied[len(tied) - (size - len(above)) :], above[np.argsort(values[above], kind="stable")])


@dataclass(frozen=True, eq=False)
class TailFit:
    """The fitted tail: log-weight where it begins, shape k (k-hat), scale (weights relative to the maximum, whose
    log-weight is `top`), the share of rows in it, and these `rows`, ascending by weight."""

    cut: float
    shape: float
    scale: float
    top: float
    share: float
    rows: np.ndarray

    def exceedance(self, log_weight: np.ndarray) -> np.ndarray:
        """Share of rows whose log-weight is at least each of `log_weight`, under the fit; meant for values above the
        cut."""
        excess = np.maximum(np.exp(log_weight - self.top) - np.exp(self.cut - self.top), 0) / self.scale
        if abs(self.shape) < 1e-12:
            return np.asarray(self.share * np.exp(-excess))
        return np.asarray(self.share * np.maximum(1 + self.shape * excess, 0) ** (-1 / self.shape))


def tail_fit(log_weight: np.ndarray) -> TailFit | None:
    """The generalised Pareto fit of the weights' tail; None where it says nothing: fewer than five rows in the tail, or
    ties at the maximum (a clip or sentinel cuts the tail off, and a fit to what is left looks healthy)."""
    size = tail_size(len(log_weight))
    if size < 5 or ceiling_count(log_weight) > 1:
        return None
    rows = heaviest(log_weight, size + 1)
    top = float(log_weight[rows[-1]])
    weight = np.exp(log_weight[rows] - top)
    excess = weight[1:] - weight[0]
    positive = excess > 0
    if positive.sum() < 5:
        return None
    rows, cut = rows[1:][positive], float(np.log(weight[0])) + top if weight[0] > 0 else -np.inf
    return TailFit(cut, *fit_generalised_pareto(excess[positive]), top, len(rows) / len(log_weight), rows)


def khat(log_weight: np.ndarray) -> float:
    """Pareto shape of the weights' tail (PSIS k-hat), NaN without a `tail_fit`; invariant to a shift."""
    tail = tail_fit(log_weight)
    return float("nan") if tail is None else tail.shape


def smooth(log_weight: np.ndarray, tail: TailFit | None) -> np.ndarray:
    """Pareto-smoothed weights relative to the maximum (n,): their `tail` is replaced by expected order statistics of
    the fit, never above the largest raw weight. Weights come back unchanged where there is none."""
    top = log_weight.max()
    weight = np.exp(log_weight - (top if np.isfinite(top) else 0.0))
    if tail is None:
        return weight
    k, p = tail.shape, (np.arange(1, len(tail.rows) + 1) - 0.5) / len(tail.rows)
    quantile = -tail.scale * np.log1p(-p) if abs(k) < 1e-12 else tail.scale * np.expm1(-k * np.log1p(-p)) / k
    weight[tail.rows] = np.minimum(np.exp(tail.cut - top) + quantile, 1.0)
    return weight


def hill(log_weight: np.ndarray, size: int = 50) -> float:
    """Hill's (1975) tail index alpha from the top `size` weights; E[w^2] is infinite for alpha <= 2, E[w] for alpha <=
    1.

    NaN with fewer than `size` + 1 positive weights or when the top weights are all equal.
    """
    finite = log_weight[np.isfinite(log_weight)]
    if len(finite) <= size:
        return float("nan")
    top = np.sort(np.partition(finite, len(finite) - size - 1)[-size - 1 :])
    mean_excess = (top[1:] - top[0]).mean()
    return float(1 / mean_excess) if mean_excess > 0 else float("nan")


@dataclass(frozen=True)
class WeightAudit:
    """Health of *raw* weights: E[w] (an identity: 1), effective sample size (Kish 1965; rows), their `tail`, rows at
    the `ceiling`, the largest weight."""

    n: int
    mean_weight: float
    ess: float
    tail: TailFit | None
    constant: bool
    ceiling: int

    @property
    def khat(self) -> float:
        """NaN where it is undefined."""
        return float("nan") if self.tail is None else self.tail.shape

    @property
    def clip_dominated(self) -> bool:
        """ESS within 10 % of the number of rows tied at the largest weight, which are not most rows: the estimate is
        the mean of these few."""
        return not self.constant and 1 < self.ceiling < AMPLE_ESS * self.n and abs(self.ess / self.ceiling - 1) <= 0.1

    @property
    def healthy(self) -> bool:
        """Whether the jackknife interval of a weighted mean may be used."""
        low, high = MEAN_WEIGHT_RANGE
        tail = self.khat < MAX_KHAT or (self.constant and np.isnan(self.khat))
        many = self.ess >= MIN_ESS_FRACTION * self.n
        return self.n > 0 and low <= self.mean_weight <= high and many and tail and not self.clip_dominated


def audit_weights(log_weight: np.ndarray) -> WeightAudit:
    """The weight audit of `log_weight`."""
    n = len(log_weight)
    if n == 0:
        return WeightAudit(0, float("nan"), 0.0, None, False, 0)
    top = float(log_weight.max())
    if not np.isfinite(top):
        return WeightAudit(n, 0.0, 0.0, None, True, n)
    w = np.exp(log_weight - top)
    total = float(w.sum())
    with np.errstate(over="ignore"):
        mean = float(np.exp(top + float(np.log(total / n))))
    constant = bool(top - log_weight.min() < NOISE)
    return WeightAudit(n, mean, total**2 / float(w @ w), tail_fit(log_weight), constant, ceiling_count(log_weight))
