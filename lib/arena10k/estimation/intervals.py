"""Standard errors and confidence intervals: made here and nowhere else.

Rewards lie in [0, 1]; every interval is for the policy value on that scale and is clipped to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

from arena10k.estimation.data import Rows
from arena10k.estimation.prepare import Prepared, shared
from arena10k.estimation.score import Score, Term, calibration_variance, deviations, judge_variance

EMPIRICAL_LIKELIHOOD = "empirical_likelihood"
#: Below and above: the ends of an interval, or how far from its estimate a value may lie.
Sides = tuple[float, float]
#: The same at every confidence: what the data say is worked out once.
ByConfidence = Callable[[float], Sides]


@lru_cache(maxsize=1024)
def normal(confidence: float) -> float:
    """z with P(|N(0, 1)| <= z) = `confidence`. This and the next are scipy's special functions, a hundredth of the
    time of its distributions."""
    return float(special.ndtri((1 + confidence) / 2))


@lru_cache(maxsize=1024)
def student(confidence: float, df: float) -> float:
    """The same for Student's t with `df` degrees of freedom, infinite ones included."""
    return normal(confidence) if math.isinf(df) else float(special.stdtrit(df, (1 + confidence) / 2))


@dataclass(frozen=True)
class Interval:
    """A confidence interval. `method`: "jackknife", "exact" (0/1 labels), `EMPIRICAL_LIKELIHOOD`, `beliefs.BY_LABELS`
    or `beliefs.ASSUMED`; `df` of the t quantile (NaN for empirical likelihood); `bias` how much of its radii below
    and above a value is not chance but what a belief leaves open, the same at any confidence."""

    low: float
    high: float
    se: float
    method: str
    df: float = float("nan")
    bias: Sides = (0.0, 0.0)

    @property
    def width(self) -> float:
        return self.high - self.low


NO_INTERVAL = Interval(float("nan"), float("nan"), float("nan"), "none")


def _el_regression(w: np.ndarray, wr: np.ndarray, unseen: float, reward: float) -> tuple[float, float, float] | None:
    """Of E[w r] beside one unseen row of weight `unseen`: regression of w r on w, read at w = 1; the variance that it
    leaves; what E[w] = 1 takes of the radius (Karampatziakis et al. 2020, appendix B). None where E[w] = 1 is out of
    reach. From residuals, not from raw moments: beside one weight of e^20 the difference of moments is all rounding."""
    n = len(w)
    if np.isinf(unseen):
        slope, taken = reward, 1 / (2 * n)
    else:
        w, wr = np.append(w, unseen), np.append(wr, unseen * reward)
        mean = w.sum() / (n + 1)
        apart = w - mean
        square = apart @ apart
        if square / (n + 1) <= (1e-15 * mean) ** 2:
            return None
        slope, taken = apart @ wr / square, (1 - mean) ** 2 / (2 * (square / (n + 1)))
    rest = wr - slope * w
    middle = rest.sum() / len(rest)
    rest -= middle
    return float(slope + middle), float(rest @ rest) / (n + 1), float(taken)


def el_interval(
    log_weight: np.ndarray,
    reward: np.ndarray,
    w_max: float = float("inf"),
    by_cluster: Callable[[np.ndarray], np.ndarray] = lambda values: values,
    ends: Sides = (0.0, 1.0),
) -> ByConfidence:
    """Empirical-likelihood interval of the policy value that uses E[w] = 1, by confidence.

    The values of E[w r] over distributions on the observed rows and one unseen row, weight in [0, `w_max`] and reward
    within `ends`, with E[w] = 1 and Cressie-Read (Euclidean) divergence within the F(1, n) radius, the square of
    Student's t. Closed form, O(n). Karampatziakis, Langford & Mineiro 2020, "Empirical likelihood for contextual
    bandits". `by_cluster` makes values independent first (see `Rows.by_cluster`). Weights beyond 1e15, beside which
    float64 cannot tell an ordinary one, give `ends`: nothing is known.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        w = np.exp(log_weight)
        w, wr = by_cluster(w), by_cluster(w * reward)
        n = len(w)
        if n == 0:
            return lambda _: ends
        sw, sww, top = w.sum(), w @ w, float(w.max())
        if not np.isfinite(sww) or top > 1e15 or not np.isfinite(wr).all():
            return lambda _: ends
        top = max(w_max, top)
        free = top if sw < n else 0.0
        best = 1 + 1 / n
        if np.isfinite(free):
            mean_w = (free + sw) / (n + 1)
            var_w = (free**2 + sww) / (n + 1) - mean_w**2
            best = float((n + 1) * (mean_w - 1) ** 2 / var_w) if var_w > 0 else 0.0
    light = _el_regression(w, wr, 0.0, 0.0)  # whatever its reward
    sides = [(end, sign, (light, _el_regression(w, wr, top, end))) for end, sign in zip(ends, (1, -1), strict=True)]

    def at(confidence: float) -> Sides:
        radius, bounds = (best + student(confidence, n) ** 2) / (2 * (n + 1)), []
        for end, sign, found in sides:
            reached = [r for r in found if r is not None and r[2] - radius <= 1e-12]
            least = [sign * x - math.sqrt(2 * spread * max(radius - taken, 0.0)) for x, spread, taken in reached]
            bounds.append(min(max(sign * min(least), ends[0]), ends[1]) if least else end)
        return bounds[0], bounds[1]

    return at


def missing_mass_interval(mean_weight: float, v_on: float) -> tuple[float, float]:
    """[c V_on, c V_on + 1 - c] with c = min(1, E[w]) (Manski 1990): the part of the target that the logs never show may
    be worth 0 or 1."""
    c = min(1.0, mean_weight)
    return c * v_on, c * v_on + 1 - c


def bounded_mean_radii(values: np.ndarray, low: float, high: float) -> ByConfidence:
    """How far below and above its average the mean of a variable in [low, high] may lie, by confidence; `values` (n,)
    independent.

    The empirical-likelihood interval with one unseen row at either end (the w = 1 case of `el_interval`). A sample
    without any variation still gets a radius of about 3 / n times the distance to the end, as the rule of three says
    (Hanley & Lippman-Hand 1983).
    """
    n = len(values)
    if n == 0:
        return lambda _: (high - low, high - low)
    total, square = float(values.sum()), float(values @ values)

    def radius(end: float, f: float) -> float:
        mean = (total + end) / (n + 1)
        var = max((square + end * end) / (n + 1) - mean * mean, 0.0)
        return abs(mean - total / n) + math.sqrt(f * var / (n + 1))

    def at(confidence: float) -> Sides:
        f = student(confidence, n) ** 2
        return radius(low, f), radius(high, f)

    return at


def mean_interval(values: np.ndarray, confidence: float) -> tuple[float, float, float]:
    """Mean of independent values in [-1, 1] with the ends of its interval: t, no narrower than the bounded-mean guard;
    NaN of none."""
    n = len(values)
    if n == 0:
        return float("nan"), float("nan"), float("nan")
    mean, (down, up) = float(values.mean()), bounded_mean_radii(values, -1.0, 1.0)(confidence)
    spread = float(student(confidence, n - 1) * values.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    return mean, max(-1.0, mean - max(down, spread)), min(1.0, mean + max(up, spread))


def label_term(prep: Prepared, score: Score) -> Term | None:
    """The term that takes the calibration away again: the mean over labelled draws of the estimate's own; None where
    there is none."""
    own = [t for t in score.terms if t.sample == "fresh" and "f" in t.slopes and (t.slopes["f"] <= 0).all()]
    return next((t for t in reversed(own) if prep.fresh.labelled[t.den > 0].all()), None)


@shared
def label_radii(prep: Prepared, source: str) -> ByConfidence:
    """Radii of the mean residual, out of fold, of the labels of a sample."""
    rows, f = prep.sample(source), prep.reward_oof if source == "logged" else prep.fresh_oof
    has = rows.labelled > 0
    return _radii(rows, has, rows.label[has] - f[has], float(f[has].mean()))


def _radii(rows: Rows, has: np.ndarray, values: np.ndarray, middle: float) -> ByConfidence:
    """Labels of declared chances count by their weight, and an unseen one may have the largest."""
    top = 1.0
    if rows.labelling.kind == "declared" and rows.labelled[has].all():
        weight = rows.label_weight[has]
        values, top = weight * values, float(weight.max(initial=1.0))
    return bounded_mean_radii(rows.by_cluster(values, has), -top * middle, top * (1 - middle))


def variance_of(prep: Prepared, score: Score) -> tuple[float, float, int]:
    """Sampling and calibration variance of a score (the judge's own is in the former), and the prompts it rests on."""
    dev, groups = deviations(prep, score)
    return float(dev @ dev) + judge_variance(prep, score), calibration_variance(prep, score), groups


def standard_error(prep: Prepared, score: Score) -> tuple[float, float]:
    """Standard error of a score, calibration and judge included, and the degrees of freedom of its t quantile
    (Satterthwaite); infinite and 1 where there is no telling."""
    sampling, cal, groups = variance_of(prep, score)
    if groups < 2 or not math.isfinite(sampling + cal + score.centre):
        return float("inf"), 1.0
    parts = sampling**2 / (groups - 1) + cal**2 / (prep.fit.n_folds - 1)
    df = min((sampling + cal) ** 2 / parts, 1e9) if parts > 0 else float(groups - 1)
    return math.sqrt(sampling + cal), df


def score_interval(prep: Prepared, score: Score, confidence: float = 0.95) -> Interval:
    """Interval of a score: clustered jackknife, calibration and judge variance, t quantile (Satterthwaite); centred on
    the value plus the score's correction, always around the value, and never narrower than the bounded mean of the
    labels (or scores) that the estimate rests on."""
    if not score.memo:  # at every confidence the same
        error = standard_error(prep, score)
        score.memo["error"] = *error, _guard(prep, score) if math.isfinite(error[0]) else None
    se, df, guard = score.memo["error"]
    if guard is None:
        return Interval(0.0, 1.0, se, "jackknife")
    centre, t = score.centre, student(confidence, df)
    down, up = (max(t * se, radius) for radius in guard(confidence))
    low, high = (min(max(end, 0.0), 1.0) for end in (min(centre - down, score.value), max(centre + up, score.value)))
    return Interval(low, high, max(se, max(down, up) / t), "jackknife", df)


def _guard(prep: Prepared, score: Score) -> ByConfidence:
    """What no interval of a score is narrower than."""
    term = label_term(prep, score)
    if term is not None:
        has = term.den > 0
        residual = term.num[has] / term.den[has]
        middle = float((prep.fresh.label[has] - residual).mean()) if has.any() else 0.0
        return _radii(prep.fresh, has, residual, middle)
    if prep.source is not None and any("f" in t.slopes or "q" in t.slopes for t in score.terms):
        return label_radii(prep, prep.source)
    rows = prep.sample(score.terms[0].sample)
    return _radii(rows, np.ones(len(rows), dtype=bool), rows.judge, 0.0)
