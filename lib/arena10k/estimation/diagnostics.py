"""Diagnostics beside every estimate. Weights are always the raw ones: calibrated or clipped weights measure nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special, stats
from scipy.optimize import nnls

from arena10k.estimation.intervals import bounded_mean_radii
from arena10k.estimation.pareto import audit_weights, heaviest
from arena10k.estimation.prepare import Prepared, shared

#: Scores, at most, at which a response absent from the log is imagined.
_GRID = 32
#: Variance of a mean below which it is not chance but rounding, and weight of what has to hold exactly in least
#: squares.
_ROUNDING, _LARGE = 1e-12, 1e4
#: Independent rows on each side that a comparison of weights with draws takes.
MIN_MATCHED = 10
_BETS = np.linspace(0.05, 0.95, 10)
#: Largest weights that are dealt row by row.
_HEAD = 200


def top_shares(log_weight: np.ndarray) -> dict[str, float]:
    """Share of the total weight in the largest 1 row, 10 rows and 1 % of rows (at least one row)."""
    n = len(log_weight)
    sizes = {"top_1": 1, "top_10": 10, "top_1_percent": max(1, n // 100)}
    if n == 0:
        return dict.fromkeys(sizes, float("nan"))
    w = np.exp(log_weight - log_weight.max())
    size = min(n, max(sizes.values()))
    top = np.sort(np.partition(w, n - size)[n - size :])[::-1]
    return {name: float(top[:k].sum() / w.sum()) for name, k in sizes.items()}


def mean_weight_p_value(log_weight: np.ndarray, by_cluster: Callable[[np.ndarray], np.ndarray] | None = None) -> float:
    """p-value for E[w] <= 1 against a larger mean, valid for any non-negative weights and any n (independent, or made
    so by `by_cluster`).

    e-value = half the mean weight (Markov) plus half a mixture over bets b of prod_i (1 + b (w_i - 1)) (Waudby-Smith &
    Ramdas 2024); p = min(1, 1/e). The lower side has no test: an unseen row may carry any weight. NaN without rows.
    """
    if len(log_weight) == 0:
        return float("nan")
    lw = log_weight
    if by_cluster is not None:
        top = lw.max()
        with np.errstate(divide="ignore"):
            lw = np.log(np.maximum(by_cluster(np.exp(lw - top)), 0.0)) + top
    markov = np.logaddexp.reduce(lw) - np.log(len(lw))
    if lw.max() < 300:
        excess = np.expm1(lw)
        wealth = [np.log1p(b * excess).sum() for b in _BETS]
    else:
        wealth = [np.logaddexp(np.log1p(-b), np.log(b) + lw).sum() for b in _BETS]
    log_e = np.logaddexp(markov, np.logaddexp.reduce(wealth) - np.log(len(_BETS))) - np.log(2)
    return float(np.exp(-max(0.0, log_e)))


@shared
def _summable(prep: Prepared) -> bool:
    """Whether there are weights, and their squares have a sum."""
    w = prep.counted_weight
    with np.errstate(over="ignore", invalid="ignore"):
        return len(w) > 0 and bool(np.isfinite(w @ w))


def mean_weight_limits(prep: Prepared, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence limits of E[w], the part of the target that the log represents; an unseen row has a weight between 0
    and the largest there is. (0, inf) without weights."""
    if not _summable(prep):
        return 0.0, float("inf")
    w = prep.by_cluster(prep.counted_weight)
    mean, (down, up) = float(w.mean()), bounded_mean_radii(w, 0.0, float(w.max()))(confidence)
    return max(0.0, mean - down), mean + up


def _moments(
    by_cluster: Callable[[np.ndarray], np.ndarray], weight: np.ndarray, score: np.ndarray
) -> tuple[int, np.ndarray, np.ndarray]:
    """How many independent rows there are, the weighted means of 1, S and S^2, and their covariance."""
    values = np.array([by_cluster(x) for x in (weight, weight * score, weight * score**2)])
    n, mean = values.shape[1], values.mean(axis=1)
    apart = values - mean[:, None]
    return n, mean, apart @ apart.T / max(n - 1, 1) / n


def match_p_value(prep: Prepared) -> float:
    """p-value that weights and fresh draws are of one policy; NaN where there is one without the other.

    For g = 1, S, S^2 the difference E_target[g(S')] - E_P0[w g(S)] is what responses absent from the log explain: a
    non-negative combination of g at scores a response can have. The distance to that cone (non-negative least squares
    in whitened space) is at most chi^2_3. Over-identification with a slack: unseen mass alone is no rejection, and a
    judge that gives both policies the same scores sees nothing. What has no score is like what the log does not show;
    draws without one may have any.
    """
    if prep.is_logging or not len(prep.fresh) or not _summable(prep):
        return float("nan")
    scores = prep.levels[0]
    if len(scores) > _GRID:  # quantiles
        scores = np.interp(np.linspace(0, len(scores) - 1, _GRID), np.arange(len(scores)), scores)
    weight = prep.counted_weight * prep.logged.has_score[prep.counted]
    n, mean_a, cov_a = _moments(prep.by_cluster, weight, prep.logged.judge[prep.counted])
    m, mean_b, cov_b = _moments(prep.fresh.by_cluster, prep.fresh.has_score, prep.fresh.judge)
    if min(n, m) < MIN_MATCHED:
        return float("nan")
    values, vectors = np.linalg.eigh(cov_a + cov_b)
    whiten = (vectors / np.sqrt(np.maximum(values, _ROUNDING))).T
    cone, apart = whiten @ np.vander(scores, 3, increasing=True).T, whiten @ (mean_b - mean_a)
    unscored = 1 - mean_b[0]
    if unscored > 0:
        # So much of the draws lies somewhere among the scores: a convex combination, by a row of large weight.
        ones = np.repeat([0.0, 1.0], len(scores))[None] * _LARGE
        cone, apart = np.vstack([np.hstack([cone, -unscored * cone]), ones]), np.append(apart, _LARGE)
    return float(special.chdtrc(3, nnls(cone, apart)[1] ** 2))


def overlap(log_weight: np.ndarray) -> float:
    """E[sqrt w], the Hellinger affinity (Bhattacharyya 1943) of the two policies, on the true scale of the weights: 1
    for equal policies; scaled to mean one it would hide that E[w] is off its identity."""
    if len(log_weight) == 0:
        return float("nan")
    with np.errstate(over="ignore"):
        return float(np.exp(np.logaddexp.reduce(log_weight / 2) - np.log(len(log_weight))))


def target_typicality(logp_target: np.ndarray, log_weight: np.ndarray, length: np.ndarray, q: float = 0.9) -> float:
    """Share of logged responses that are typical for the target (target-typicality coverage, CJE 2025): surprisal per
    character under the target at most the weighted q-quantile. Below .7 the logs rarely show what the target would say.
    All (n,), no NaN; NaN without rows."""
    if len(log_weight) == 0:
        return float("nan")
    surprisal = -logp_target / np.maximum(length, 1)
    order = np.argsort(surprisal)
    mass = np.cumsum(np.exp(log_weight - log_weight.max())[order])
    cut = surprisal[order][min(np.searchsorted(mass, q * mass[-1]), len(mass) - 1)]
    return float((surprisal <= cut).mean())


def permute_ratio(
    weight: np.ndarray, reward: np.ndarray, rng: np.random.Generator, replicates: int = 999
) -> np.ndarray:
    """Values (B,) of sum(w R) / sum(w) when weights are dealt to rows at random.

    The head's rewards are dealt row by row, without replacement; the bulk of k rows follows the normal limit of dealing
    out what the head left, with mean (n mean(R) - head's rewards) / k and variance
    sigma_R^2 (sum w^2 - (sum w)^2 / k) k / (k - 1).
    """
    n = len(weight)
    if n <= 4 * _HEAD:
        order = rng.permuted(np.tile(reward, (replicates, 1)), axis=1)
        return np.asarray(order @ weight / weight.sum())
    top, per_deal = heaviest(weight, _HEAD), n // _HEAD
    deals = [rng.permutation(reward)[: per_deal * _HEAD] for _ in range(-(-replicates // per_deal))]
    draws = np.concatenate(deals).reshape(-1, _HEAD)[:replicates]
    w = np.delete(weight, top)
    k = len(w)
    spread = reward.var() * max(w @ w - w.sum() ** 2 / k, 0.0) * k / (k - 1)
    left = (n * reward.mean() - draws.sum(axis=1)) / k
    rest = w.sum() * left + np.sqrt(spread) * rng.standard_normal(replicates)
    return np.asarray((draws @ weight[top] + rest) / weight.sum())


@dataclass(frozen=True)
class PermutationNull:
    """SNIPS against weights dealt at random. A large p-value: shuffled weights give values as far off."""

    value: float
    logging_mean: float
    p_value: float
    null: np.ndarray


def permutation_null(
    log_weight: np.ndarray, reward: np.ndarray, seed: int = 0, replicates: int = 999
) -> PermutationNull:
    """Two-sided permutation test that weights and rewards are unrelated; statistic |SNIPS - mean reward|, p-value never
    0 (Phipson & Smyth 2010)."""
    if len(log_weight) == 0 or not np.isfinite(log_weight.max()):
        return PermutationNull(float("nan"), float("nan"), float("nan"), np.empty(0))
    w = np.exp(log_weight - log_weight.max())
    value, mean = float(w @ reward / w.sum()), float(reward.mean())
    null = permute_ratio(w, reward, np.random.default_rng(seed), replicates)
    # Equal up to rounding counts as "as extreme": all-equal rewards or weights have p = 1.
    extreme = np.abs(null - mean) >= abs(value - mean) - 1e-12
    return PermutationNull(value, mean, float((1 + extreme.sum()) / (1 + replicates)), null)


def judge_auc(judge: np.ndarray, label: np.ndarray) -> float:
    """Probability that of two labelled responses with different labels the judge scores the better one higher, ties
    half: for 0/1 labels the area under the ROC curve, for graded labels Somers' D (1962), rescaled to [0, 1]. NaN when
    all labels are equal."""
    has = ~np.isnan(label) & ~np.isnan(judge)
    s, y = judge[has], label[has]
    counts = [np.unique(x, return_counts=True)[1].astype(np.float64) for x in (y, s)]
    untied_y, untied_s = (float((len(s) ** 2 - (count**2).sum()) / 2) for count in counts)
    if untied_y == 0 or untied_s == 0:
        return float("nan") if untied_y == 0 else 0.5
    tau = stats.kendalltau(y, s).statistic
    return float((1 + tau * np.sqrt(untied_s / untied_y)) / 2)


def reliability_curve(judge: np.ndarray, label: np.ndarray, bins: int = 10) -> list[dict[str, float]]:
    """Mean label against mean judge score in up to `bins` groups of about equal size; equal scores share a group."""
    has = ~np.isnan(label) & ~np.isnan(judge)
    s, y = judge[has], label[has]
    if len(s) == 0:
        return []
    edges = np.unique(np.quantile(s, np.linspace(0, 1, bins + 1)))
    group = np.clip(np.searchsorted(edges, s, side="right") - 1, 0, max(len(edges) - 2, 0))
    return [
        {"judge": float(s[rows].mean()), "label": float(y[rows].mean()), "n": int(rows.sum())}
        | {"se": float(y[rows].std(ddof=1) / np.sqrt(rows.sum())) if rows.sum() > 1 else float("nan")}
        for rows in (group == g for g in np.unique(group))
    ]


@dataclass(frozen=True)
class NoiseFloor:
    """Log-weights of a policy identical to P0: anything but 0 is noise of the log-probs. nats; `exact`: all exactly
    0."""

    n: int
    exact: bool
    median_abs: float
    q99_abs: float
    max_abs: float
    mean_weight: float


def clone_noise_floor(log_weight: np.ndarray) -> NoiseFloor:
    """Noise floor from a clone's log-weights (n,); -inf counts as infinite noise."""
    if len(log_weight) == 0:
        return NoiseFloor(0, False, *[float("nan")] * 4)
    size, mean = np.abs(log_weight), audit_weights(log_weight).mean_weight
    levels = (float(np.median(size)), float(np.quantile(size, 0.99)), float(size.max()))
    return NoiseFloor(len(size), bool((size == 0).all()), *levels, mean)
