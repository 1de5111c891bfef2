"""Standard errors and confidence intervals: made here and nowhere else.

Rewards lie in [0, 1]; every interval is for the policy value on that scale and is clipped to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from arena10k.estimation.data import Rows
from arena10k.estimation.prepare import Prepared
from arena10k.estimation.score import Score, Term, calibration_variance, deviations, judge_variance

EMPIRICAL_LIKELIHOOD = "empirical_likelihood"


def normal(confidence: float) -> float:
    """z with P(|N(0, 1)| <= z) = `confidence`. This and the next are scipy's special functions, a hundredth of the
    time of its distributions."""
    return float(special.ndtri((1 + confidence) / 2))


def student(confidence: float, df: float) -> float:
    """The same for Student's t with `df` degrees of freedom, infinite ones included."""
    return normal(confidence) if np.isinf(df) else float(special.stdtrit(df, (1 + confidence) / 2))


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
    bias: tuple[float, float] = (0.0, 0.0)

    @property
    def width(self) -> float:
        return self.high - self.low


NO_INTERVAL = Interval(float("nan"), float("nan"), float("nan"), "none")


def _el_bound(w: np.ndarray, wr: np.ndarray, unseen: float, reward: float, sign: int, phi: float) -> float:
    """Smallest sign * E[w r] over the likelihood-ratio ball with one unseen row of weight `unseen`; NaN when E[w] = 1
    is out of reach. Regression of w r on w, read at w = 1, minus the radius left (Karampatziakis et al. 2020,
    appendix B). From residuals, not from raw moments: beside one weight of e^20 the difference of moments is all
    rounding."""
    n = len(w)
    if np.isinf(unseen):
        gain = wr - reward * w
        x = reward + gain.mean()
        spread = ((gain - gain.mean()) ** 2).sum() / (n + 1)
        z = phi + 1 / (2 * n)
    else:
        w, wr = np.append(w, unseen), np.append(wr, unseen * reward)
        mean = w.mean()
        apart = w - mean
        variance = (apart @ apart) / (n + 1)
        if variance <= (1e-15 * mean) ** 2:
            return float("nan")
        slope = (apart @ wr) / (apart @ apart)
        rest = wr - slope * w
        x = slope + rest.mean()
        spread = ((rest - rest.mean()) ** 2).mean()
        z = phi + (1 - mean) ** 2 / (2 * variance)
    if z > 1e-12:
        return float("nan")
    return float(sign * x - np.sqrt(2 * spread * max(-z, 0.0)))


def el_interval(
    log_weight: np.ndarray,
    reward: np.ndarray,
    confidence: float = 0.95,
    w_max: float = float("inf"),
    by_cluster: Callable[[np.ndarray], np.ndarray] = lambda values: values,
    ends: tuple[float, float] = (0.0, 1.0),
) -> tuple[float, float]:
    """Empirical-likelihood interval of the policy value that uses E[w] = 1.

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
            return ends
        sw, sww = w.sum(), w @ w
        if not np.isfinite(sww) or w.max() > 1e15 or not np.isfinite(wr).all():
            return ends
        top = max(w_max, float(w.max()))
        free = top if sw < n else 0.0
        best = 1 + 1 / n
        if np.isfinite(free):
            mean_w = (free + sw) / (n + 1)
            var_w = (free**2 + sww) / (n + 1) - mean_w**2
            best = (n + 1) * (mean_w - 1) ** 2 / var_w if var_w > 0 else 0.0
    phi = (-best - student(confidence, n) ** 2) / (2 * (n + 1))
    bounds = []
    for end, sign in ((ends[0], 1), (ends[1], -1)):
        extremes = [b for b in (_el_bound(w, wr, unseen, end, sign, phi) for unseen in (0.0, top)) if not np.isnan(b)]
        bounds.append(float(np.clip(sign * min(extremes), *ends)) if extremes else end)
    return bounds[0], bounds[1]


def missing_mass_interval(mean_weight: float, v_on: float) -> tuple[float, float]:
    """[c V_on, c V_on + 1 - c] with c = min(1, E[w]) (Manski 1990): the part of the target that the logs never show may
    be worth 0 or 1."""
    c = min(1.0, mean_weight)
    return c * v_on, c * v_on + 1 - c


def bounded_mean_radii(values: np.ndarray, low: float, high: float, confidence: float = 0.95) -> tuple[float, float]:
    """How far below and above its average the mean of a variable in [low, high] may lie; `values` (n,) independent.

    The empirical-likelihood interval with one unseen row at either end (the w = 1 case of `el_interval`). A sample
    without any variation still gets a radius of about 3 / n times the distance to the end, as the rule of three says
    (Hanley & Lippman-Hand 1983).
    """
    n = len(values)
    if n == 0:
        return high - low, high - low
    f = student(confidence, n) ** 2
    total, square = values.sum(), values @ values

    def radius(end: float) -> float:
        mean = (total + end) / (n + 1)
        var = max((square + end**2) / (n + 1) - mean**2, 0.0)
        return float(abs(mean - total / n) + np.sqrt(f * var / (n + 1)))

    return radius(low), radius(high)


def mean_interval(values: np.ndarray, confidence: float) -> tuple[float, float, float]:
    """Mean of independent values in [-1, 1] with the ends of its interval: t, no narrower than the bounded-mean guard;
    NaN of none."""
    n = len(values)
    if n == 0:
        return float("nan"), float("nan"), float("nan")
    mean, (down, up) = float(values.mean()), bounded_mean_radii(values, -1.0, 1.0, confidence)
    spread = float(student(confidence, n - 1) * values.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    return mean, max(-1.0, mean - max(down, spread)), min(1.0, mean + max(up, spread))


def label_term(prep: Prepared, score: Score) -> Term | None:
    """The term that takes the calibration away again: the mean over labelled draws of the estimate's own; None where
    there is none."""
    own = [t for t in score.terms if t.sample == "fresh" and "f" in t.slopes and (t.slopes["f"] <= 0).all()]
    return next((t for t in reversed(own) if prep.fresh.labelled[t.den > 0].all()), None)


def label_radii(prep: Prepared, source: str, confidence: float) -> tuple[float, float]:
    """Radii of the mean residual, out of fold, of the labels of a sample."""

    def make(p: Prepared) -> tuple[float, float]:
        rows, f = p.sample(source), p.reward_oof if source == "logged" else p.fresh_oof
        has = rows.labelled > 0
        return _radii(rows, has, rows.label[has] - f[has], float(f[has].mean()), confidence)

    return prep.once(("label guard", source, confidence), make)


def _radii(rows: Rows, has: np.ndarray, values: np.ndarray, middle: float, confidence: float) -> tuple[float, float]:
    """Labels of declared chances count by their weight, and an unseen one may have the largest."""
    declared = rows.labelled[has].all() and rows.labelling.kind == "declared"
    weight = rows.label_weight[has] if declared else np.ones(len(values))
    top = float(weight.max(initial=1.0))
    return bounded_mean_radii(rows.by_cluster(weight * values, has), -top * middle, top * (1 - middle), confidence)


def variance_of(prep: Prepared, score: Score) -> tuple[float, float, int]:
    """Sampling and calibration variance of a score (the judge's own is in the former), and the prompts it rests on."""
    dev, groups = deviations(prep, score)
    return float(dev @ dev) + judge_variance(prep, score), calibration_variance(prep, score), groups


def standard_error(prep: Prepared, score: Score) -> tuple[float, float]:
    """Standard error of a score, calibration and judge included, and the degrees of freedom of its t quantile
    (Satterthwaite); infinite and 1 where there is no telling."""
    sampling, cal, groups = variance_of(prep, score)
    if groups < 2 or not np.isfinite(sampling + cal) or not np.isfinite(score.centre):
        return float("inf"), 1.0
    parts = sampling**2 / (groups - 1) + cal**2 / (prep.fit.n_folds - 1)
    df = min((sampling + cal) ** 2 / parts, 1e9) if parts > 0 else float(groups - 1)
    return float(np.sqrt(sampling + cal)), df


def score_interval(prep: Prepared, score: Score, confidence: float = 0.95) -> Interval:
    """Interval of a score: clustered jackknife, calibration and judge variance, t quantile (Satterthwaite); centred on
    the value plus the score's correction, always around the value, and never narrower than the bounded mean of the
    labels (or scores) that the estimate rests on."""
    if not score.memo:  # at every confidence the same
        score.memo["error"] = standard_error(prep, score)
    se, df = score.memo["error"]
    if not np.isfinite(se):
        return Interval(0.0, 1.0, se, "jackknife")
    term = label_term(prep, score)
    if term is not None:
        has = term.den > 0
        residual = term.num[has] / term.den[has]
        middle = float((prep.fresh.label[has] - residual).mean()) if has.any() else 0.0
        guard = _radii(prep.fresh, has, residual, middle, confidence)
    elif prep.source is not None and any("f" in t.slopes or "q" in t.slopes for t in score.terms):
        guard = label_radii(prep, prep.source, confidence)
    else:
        rows = prep.sample(name := score.terms[0].sample)
        every = np.ones(len(rows), dtype=bool)
        guard = prep.once(("guard", name, confidence), lambda _: _radii(rows, every, rows.judge, 0.0, confidence))
    centre, t = score.centre, student(confidence, df)
    down, up = (max(t * se, g) for g in guard)
    low, high = np.clip((min(centre - down, score.value), max(centre + up, score.value)), 0, 1)
    return Interval(float(low), float(high), max(se, max(down, up) / t), "jackknife", df)
