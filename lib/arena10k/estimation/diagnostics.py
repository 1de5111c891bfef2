"""Diagnostics beside every estimate. Weights are always the raw ones: calibrated or clipped weights measure nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special, stats
from scipy.optimize import nnls

from arena10k.estimation import quantiles
from arena10k.estimation.beliefs import residual_score, weighted_residual_limits
from arena10k.estimation.calibration import LevelFit, level_codes, pava
from arena10k.estimation.intervals import (
    ByCluster,
    WeightAudit,
    audit_weights,
    bounded_mean_radii,
    standard_error,
)
from arena10k.estimation.pareto import ceiling_count, hill, khat
from arena10k.estimation.prepare import Prepared
from arena10k.estimation.resampling import permute_ratio
from arena10k.estimation.thresholds import MIN_LABELS, WRONG

__all__ = ["WeightAudit", "audit_weights", "ceiling_count", "hill", "khat"]

#: Scores, at most, at which a response absent from the log is imagined.
_GRID = 32
#: Independent rows on each side that a comparison of weights with draws takes.
MIN_MATCHED = 10
_BETS = np.linspace(0.05, 0.95, 10)


def top_shares(log_weight: np.ndarray) -> dict[str, float]:
    """Share of the total weight in the largest 1 row, 10 rows and 1 % of rows (at least one row)."""
    n = len(log_weight)
    if n == 0:
        return {"top_1": float("nan"), "top_10": float("nan"), "top_1_percent": float("nan")}
    w = np.exp(log_weight - log_weight.max())
    percent = max(1, n // 100)
    size = min(n, max(10, percent))
    top = np.sort(np.partition(w, n - size)[n - size :])[::-1]
    total = w.sum()
    sizes = {"top_1": 1, "top_10": 10, "top_1_percent": percent}
    return {name: float(top[:k].sum() / total) for name, k in sizes.items()}


def missing_mass(mean_weight: float) -> float:
    """1 - min(1, E[w]): at least this share of the target's probability is on responses the logs do not show."""
    return 1 - min(1.0, mean_weight)


def mean_weight_p_value(log_weight: np.ndarray, by_cluster: ByCluster | None = None) -> float:
    """p-value for E[w] <= 1 against a larger mean, valid for any non-negative weights and any n (independent, or made
    so by `by_cluster`).

    e-value = half the mean weight (Markov) plus half a mixture over bets b of prod_i (1 + b (w_i - 1)) (Waudby-Smith &
    Ramdas 2024); p = min(1, 1/e). The lower side has no test: an unseen row may carry any weight. NaN without rows.
    """
    lw = log_weight if by_cluster is None else _log_cluster_means(log_weight, by_cluster)
    if len(lw) == 0:
        return float("nan")
    markov = np.logaddexp.reduce(lw) - np.log(len(lw))
    small = lw.max() < 300
    excess = np.expm1(lw) if small else lw
    wealth = [
        np.log1p(b * excess).sum() if small else np.logaddexp(np.log1p(-b), np.log(b) + excess).sum() for b in _BETS
    ]
    log_e = np.logaddexp(markov, np.logaddexp.reduce(wealth) - np.log(len(_BETS))) - np.log(2)
    return float(np.exp(-max(0.0, log_e)))


def _log_cluster_means(log_weight: np.ndarray, by_cluster: ByCluster) -> np.ndarray:
    top = log_weight.max() if len(log_weight) else 0.0
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.maximum(by_cluster(np.exp(log_weight - top)), 0.0)) + top)


def mean_weight_limits(prep: Prepared, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence limits of E[w], the part of the target that the log represents; an unseen row has a weight between 0
    and the largest there is. (0, inf) without weights."""
    keep = prep.has_weight > 0
    with np.errstate(over="ignore", invalid="ignore"):
        w = np.exp(prep.log_weight[keep])
        if not len(w) or not np.isfinite(w @ w):
            return 0.0, float("inf")
    w = prep.logged.by_cluster(w, keep)
    down, up = bounded_mean_radii(w, 0.0, float(w.max()), confidence)
    return max(0.0, float(w.mean()) - down), float(w.mean()) + up


def match_p_value(prep: Prepared) -> float:
    """p-value that weights and fresh draws are of one policy; NaN where there is one without the other.

    For g = 1, S, S^2 the difference E_target[g(S')] - E_P0[w g(S)] is what responses absent from the log explain: a
    non-negative combination of g at scores a response can have. The distance to that cone (non-negative least squares
    in whitened space) is at most chi^2_3. Over-identification with a slack: unseen mass alone is no rejection, and a
    judge that gives both policies the same scores sees nothing.
    """
    keep = prep.has_weight > 0
    if prep.is_logging or not keep.any() or not len(prep.fresh):
        return float("nan")
    with np.errstate(over="ignore", invalid="ignore"):
        w = np.exp(prep.log_weight[keep])
        if not np.isfinite(w @ w):
            return float("nan")
    logged, fresh = prep.logged.judge[keep], prep.fresh.judge
    seen = prep.fit.levels if isinstance(prep.fit, LevelFit) else level_codes(logged, fresh)[0]
    scores = seen if len(seen) <= _GRID else np.quantile(seen, np.linspace(0, 1, _GRID))
    powers = range(3)
    a = np.stack([prep.logged.by_cluster(w * logged**k, keep) for k in powers], 1)
    b = np.stack([prep.fresh.by_cluster(fresh**k) for k in powers], 1)
    if min(len(a), len(b)) < MIN_MATCHED:
        return float("nan")
    covariance = np.cov(a.T) / len(a) + np.cov(b.T) / len(b)
    values, vectors = np.linalg.eigh(covariance)
    kept = values > 1e-8 * values[-1]
    if not kept.any():
        return float("nan")
    whiten = (vectors[:, kept] / np.sqrt(values[kept])).T
    cone = whiten @ np.stack([scores**k for k in powers])
    distance = nnls(cone, whiten @ (b.mean(0) - a.mean(0)))[1]
    return float(special.chdtrc(3, distance**2))


def overlap(log_weight: np.ndarray) -> dict[str, float]:
    """E[sqrt w], the Hellinger affinity of the two policies: `raw` (true scale) and `hajek` (weights scaled to mean
    one).

    1 for equal policies. With E[w] off its identity the raw one shows it and the scaled one hides it.
    """
    if len(log_weight) == 0:
        return {"raw": float("nan"), "hajek": float("nan")}
    log_root = np.logaddexp.reduce(log_weight / 2) - np.log(len(log_weight))
    log_mean = np.logaddexp.reduce(log_weight) - np.log(len(log_weight))
    with np.errstate(over="ignore"):
        return {"raw": float(np.exp(log_root)), "hajek": float(np.exp(log_root - log_mean / 2))}


def target_typicality(logp_target: np.ndarray, log_weight: np.ndarray, length: np.ndarray, q: float = 0.9) -> float:
    """Share of logged responses that are typical for the target (target-typicality coverage, CJE 2025).

    Typical: surprisal per character under the target at most the weighted q-quantile. Below .7 the logs rarely show
    what the target would say. All (n,), no NaN; NaN without rows.
    """
    if len(log_weight) == 0:
        return float("nan")
    surprisal = -logp_target / np.maximum(length, 1)
    order = np.argsort(surprisal)
    mass = np.cumsum(np.exp(log_weight - log_weight.max())[order])
    cut = surprisal[order][min(np.searchsorted(mass, q * mass[-1]), len(mass) - 1)]
    return float((surprisal <= cut).mean())


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
    """Two-sided permutation test that weights and rewards are unrelated; statistic |SNIPS - mean reward|."""
    nan = float("nan")
    if len(log_weight) == 0 or not np.isfinite(log_weight.max()):
        return PermutationNull(nan, nan, nan, np.empty(0))
    w = np.exp(log_weight - log_weight.max())
    value, mean = float(w @ reward / w.sum()), float(reward.mean())
    null = permute_ratio(w, reward, np.random.default_rng(seed), replicates)
    # Equal up to rounding counts as "as extreme": all-equal rewards or weights have p = 1.
    extreme = np.abs(null - mean) >= abs(value - mean) - 1e-12
    return PermutationNull(value, mean, float((1 + extreme.sum()) / (1 + replicates)), null)


@dataclass(frozen=True)
class Transport:
    """Does f hold under the target? Mean of Y - f(S) there, with its interval.

    `evidence`: "target_labels" (labels on the target's own draws), "weights" (labelled logged rows, re-weighted), or
    "none". `status`: "failed" (0 outside beyond chance, level `WRONG`), "passed" (the interval within the margin),
    "weak" (beyond it), "own" (f was trained on the target's labels), "none". No verdict takes "passed" for a proof.
    `n_labels` counts clusters with a label on the target's draws.
    """

    status: str
    n_labels: int
    evidence: str = "none"
    residual: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")


def label_clusters(prep: Prepared) -> int:
    """How many independent labels the target's draws have; where their chances differ, Kish's size of them."""
    has = prep.fresh.labelled > 0
    n = prep.fresh.clusters(has)
    weight = prep.fresh.label_weight[has]
    return n if prep.fresh.labelling.kind == "random" else min(n, int(weight.sum() ** 2 / (weight @ weight)))


def residual_limits(prep: Prepared, confidence: float) -> tuple[float, float, float]:
    """Mean of Y - f(S') over the target's labelled draws, and its limits: clustered jackknife with what training f
    adds, t quantile, never narrower than a bounded mean."""
    has, f, score = prep.fresh.labelled > 0, prep.fresh_oof, residual_score(prep)
    residual = prep.fresh.label_or_zero - f
    se, df = standard_error(prep, score)
    half = quantiles.student(confidence, df) * se
    middle = float(f[has].mean())
    down, up = bounded_mean_radii(prep.fresh.by_cluster(residual[has], has), -middle, 1 - middle, confidence)
    return score.value, score.value - max(half, down), score.value + max(half, up)


def transport(
    prep: Prepared, margin: float, confidence: float = 0.95, weights_hold: bool = True, w_max: float = float("inf")
) -> Transport:
    """Transport test: from the target's labels where there are enough, else from weights that are not called wrong
    (`weights_hold`), else none."""
    n = label_clusters(prep)
    if prep.source is None:
        return Transport("none", n)
    # Of labels not at random f carries the choice, so that its residual has to be looked at.
    own = (prep.is_logging or prep.source == "fresh") and prep.sample(prep.source).labelling.kind == "random"
    limits: Callable[[float], tuple[float, float, float]]
    if n >= MIN_LABELS:
        evidence, limits = "target_labels", lambda level: residual_limits(prep, level)
    elif prep.source == "logged" and weights_hold and len(prep.fresh) and prep.n_weighted and not own:
        evidence, limits = "weights", lambda level: weighted_residual_limits(prep, level, w_max)
    else:
        return Transport("own" if own else "none", n)
    residual, low, high = limits(confidence)
    _, strict_low, strict_high = limits(1 - WRONG)
    status = "failed" if strict_low > 0 or strict_high < 0 else "passed" if max(-low, high) <= margin else "weak"
    status = "own" if own else status
    return Transport(status, n, evidence, residual, low, high)


def effective_labels(prep: Prepared) -> float:
    """How many of the labels that trained f speak where the target's draws score.

    1 / sum_b p_b^2 / n_b over the blocks b of the isotonic fit (scores that share one fitted value), with p_b the share
    of the target's draws and n_b the number of labels in b: the effective sample size (Kish 1965) of labels re-weighted
    to the target's scores. About all of them where the target scores as the logging policy does; a handful where f is
    extrapolated, however many there are elsewhere. NaN where f was not trained on logged labels or nothing was drawn.
    """
    if prep.source != "logged" or not len(prep.fresh):
        return float("nan")
    if isinstance(prep.fit, LevelFit):
        levels, code = prep.fit.levels, prep.fit.code
    else:
        levels, split = level_codes(prep.logged.judge, prep.fresh.judge)
        code = dict(zip(("logged", "fresh"), split, strict=True))
    count = np.bincount(code["logged"], weights=prep.logged.labelled, minlength=len(levels))
    total = np.bincount(code["logged"], weights=prep.logged.labelled * prep.logged.label_or_zero, minlength=len(levels))
    seen = count > 0
    fitted = pava(levels[seen], total[seen], count[seen])
    block = np.cumsum(np.append(False, np.diff(fitted) != 0))
    # A score without a label of its own borrows from the nearest one that has some.
    nearest = np.searchsorted((levels[seen][1:] + levels[seen][:-1]) / 2, levels)
    drawn = np.bincount(block[nearest], weights=np.bincount(code["fresh"], minlength=len(levels)))
    share = drawn / len(prep.fresh)
    return float(1 / (share**2 / np.bincount(block, weights=count[seen])).sum())


def judge_auc(judge: np.ndarray, label: np.ndarray) -> float:
    """Probability that of two labelled responses with different labels the judge scores the better one higher, ties
    half.

    For 0/1 labels this is the area under the ROC curve; for graded labels Somers' D, rescaled to [0, 1]. NaN when all
    labels are equal.
    """
    has = ~np.isnan(label) & ~np.isnan(judge)
    s, y = judge[has], label[has]
    untied_y, untied_s = _untied_pairs(y), _untied_pairs(s)
    if untied_y == 0:
        return float("nan")
    if untied_s == 0:
        return 0.5
    tau = stats.kendalltau(y, s, method="asymptotic").statistic
    return float((1 + tau * np.sqrt(untied_s / untied_y)) / 2)


def _untied_pairs(x: np.ndarray) -> float:
    count = np.unique(x, return_counts=True)[1].astype(np.float64)
    return float((len(x) ** 2 - (count**2).sum()) / 2)


def reliability_curve(judge: np.ndarray, label: np.ndarray, bins: int = 10) -> list[dict[str, float]]:
    """Mean label against mean judge score in up to `bins` groups of about equal size; equal scores share a group."""
    has = ~np.isnan(label) & ~np.isnan(judge)
    s, y = judge[has], label[has]
    if len(s) == 0:
        return []
    edges = np.unique(np.quantile(s, np.linspace(0, 1, bins + 1)))
    group = np.clip(np.searchsorted(edges, s, side="right") - 1, 0, max(len(edges) - 2, 0))
    out = []
    for g in np.unique(group):
        rows = group == g
        k = int(rows.sum())
        se = float(y[rows].std(ddof=1) / np.sqrt(k)) if k > 1 else float("nan")
        out.append({"judge": float(s[rows].mean()), "label": float(y[rows].mean()), "se": se, "n": k})
    return out


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
    size = np.abs(log_weight)
    return NoiseFloor(
        len(size),
        bool((size == 0).all()),
        float(np.median(size)),
        float(np.quantile(size, 0.99)),
        float(size.max()),
        audit_weights(log_weight).mean_weight,
    )
