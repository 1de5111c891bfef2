"""Standard errors and confidence intervals: made here and nowhere else.

Rewards lie in [0, 1]; every interval is for the policy value on that scale and is clipped to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from arena10k.estimators import pareto
from arena10k.estimators.prepare import Prepared
from arena10k.estimators.score import Score, calibration_variance, deviations, judge_variance
from arena10k.estimators.weighted import snips

MEAN_WEIGHT_RANGE = (0.8, 1.25)
MIN_ESS_FRACTION = 0.1
MAX_KHAT = 0.5
MAX_WIDTH = 0.5
#: Nats. An endpoint rounds, by what shares a batch: log-probs within this of each other are one measurement,
#: log-weights one weight without a tail, and the weights of a copy of P0 are 1 to within this.
NOISE = 1e-3

EMPIRICAL_LIKELIHOOD = "empirical_likelihood"


@dataclass(frozen=True)
class Interval:
    """A confidence interval. `method`: "jackknife" or `EMPIRICAL_LIKELIHOOD`; `df` of the t quantile (NaN for the
    latter)."""

    low: float
    high: float
    se: float
    method: str
    df: float = float("nan")

    @property
    def width(self) -> float:
        return self.high - self.low


NO_INTERVAL = Interval(float("nan"), float("nan"), float("nan"), "none")


@dataclass(frozen=True)
class WeightAudit:
    """Health of *raw* weights: E[w] (an identity: 1), effective sample size (rows), k-hat (NaN = undefined)."""

    n: int
    mean_weight: float
    log_mean_weight: float
    ess: float
    khat: float
    constant: bool
    ceiling: int

    @property
    def clip_dominated(self) -> bool:
        """ESS within 10 % of the number of rows tied at the largest weight: the estimate is the mean of those rows."""
        return not self.constant and self.ceiling > 1 and abs(self.ess / self.ceiling - 1) <= 0.1

    @property
    def failures(self) -> list[str]:
        """Machine-readable reasons why the jackknife interval cannot be used; empty when the weights are healthy."""
        if self.n == 0:
            return ["no_log_weights"]
        low, high = MEAN_WEIGHT_RANGE
        checks = {
            "mean_weight_out_of_range": not low <= self.mean_weight <= high,
            "off_support": self.mean_weight < 0.5,
            "low_ess": self.ess < MIN_ESS_FRACTION * self.n,
            "khat_high": self.khat >= MAX_KHAT,
            "khat_undefined": bool(np.isnan(self.khat)) and not self.constant,
            "clip_dominated": self.clip_dominated,
        }
        return [reason for reason, failed in checks.items() if failed]

    @property
    def healthy(self) -> bool:
        return not self.failures


def audit_weights(log_weight: np.ndarray) -> WeightAudit:
    """The weight audit of `log_weight` (n,), finite or -inf; never exponentiates before shifting by the maximum."""
    n = len(log_weight)
    nan = float("nan")
    if n == 0:
        return WeightAudit(0, nan, nan, 0.0, nan, False, 0)
    top = float(log_weight.max())
    if not np.isfinite(top):
        return WeightAudit(n, 0.0, -np.inf, 0.0, nan, True, n)
    w = np.exp(log_weight - top)
    total = float(w.sum())
    log_mean = top + float(np.log(total / n))
    with np.errstate(over="ignore"):
        mean = float(np.exp(log_mean))
    constant = bool(top - log_weight.min() < NOISE)
    ess = total**2 / float(w @ w)
    return WeightAudit(n, mean, log_mean, ess, pareto.khat(log_weight), constant, pareto.ceiling_count(log_weight))


def prompt_means(values: np.ndarray, cluster: np.ndarray | None) -> np.ndarray:
    """Mean of `values` within each prompt; `values` itself without `cluster` (every row its own prompt)."""
    if cluster is None:
        return values
    count = np.bincount(cluster)
    sums = np.bincount(cluster, weights=values)
    return sums[count > 0] / count[count > 0]


def _el_bound(w: np.ndarray, wr: np.ndarray, unseen: float, reward: float, sign: int, phi: float) -> float:
    """Smallest sign * E[w r] over the likelihood-ratio ball with one unseen row of weight `unseen`; NaN when E[w] = 1
    is out of reach. Regression of w r on w, read at w = 1, minus the radius left (Karampatziakis et al. 2020,
    appendix B).

    From residuals, not from raw moments: beside one weight of e^20 the difference of moments is all rounding.
    """
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
    cluster: np.ndarray | None = None,
) -> tuple[float, float]:
    """Empirical-likelihood interval of the policy value that uses E[w] = 1.

    The values of E[w r] over distributions on the observed rows and one unseen row, weight in [0, `w_max`] and reward
    in [0, 1], with E[w] = 1 and Cressie-Read (Euclidean) divergence within the F(1, n) radius. Closed form, O(n).
    Karampatziakis, Langford & Mineiro 2020, "Empirical likelihood for contextual bandits". Rows of one prompt are
    averaged first. Weights beyond 1e15, beside which float64 cannot tell an ordinary one, give (0, 1): nothing is
    known.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        w = np.exp(log_weight)
        w, wr = prompt_means(w, cluster), prompt_means(w * reward, cluster)
        n = len(w)
        if n == 0:
            return 0.0, 1.0
        sw, sww = w.sum(), w @ w
        if not np.isfinite(sww) or w.max() > 1e15 or not np.isfinite(wr).all():
            return 0.0, 1.0
        top = max(w_max, float(w.max()))
        free = top if sw < n else 0.0
        if np.isinf(free):
            best = 1 + 1 / n
        else:
            mean_w = (free + sw) / (n + 1)
            var_w = (free**2 + sww) / (n + 1) - mean_w**2
            best = (n + 1) * (mean_w - 1) ** 2 / var_w if var_w > 0 else 0.0
    phi = (-best - stats.f.isf(1 - confidence, 1, n)) / (2 * (n + 1))
    bounds = []
    for reward_end, sign in ((0.0, 1), (1.0, -1)):
        found = [_el_bound(w, wr, unseen, reward_end, sign, phi) for unseen in (0.0, top)]
        found = [b for b in found if not np.isnan(b)]
        bounds.append(float(np.clip(sign * min(found), 0.0, 1.0)) if found else reward_end)
    return bounds[0], bounds[1]


def missing_mass_interval(mean_weight: float, v_on: float) -> tuple[float, float]:
    """[c V_on, c V_on + 1 - c] with c = min(1, E[w]): the part of the target that the logs never show may be worth 0
    or 1."""
    c = min(1.0, mean_weight)
    return c * v_on, c * v_on + 1 - c


def bounded_mean_radii(
    values: np.ndarray, low: float, high: float, confidence: float = 0.95, cluster: np.ndarray | None = None
) -> tuple[float, float]:
    """How far below and above its average the mean of a variable in [low, high] may lie.

    The empirical-likelihood interval with one unseen row at either end (the w = 1 case of `el_interval`). A sample
    without any variation still gets a radius of about 3 / n times the distance to the end, as the rule of three says.
    """
    x = prompt_means(values, cluster)
    n = len(x)
    if n == 0:
        return high - low, high - low
    f = stats.f.isf(1 - confidence, 1, n)
    total, square = x.sum(), x @ x
    radii = []
    for end in (low, high):
        mean = (total + end) / (n + 1)
        var = max((square + end**2) / (n + 1) - mean**2, 0.0)
        radii.append(abs(mean - total / n) + np.sqrt(f * var / (n + 1)))
    return float(radii[0]), float(radii[1])


def _guard(prep: Prepared, score: Score, confidence: float) -> tuple[float, float]:
    """Radii no interval may undercut: those of the bounded mean of the labels (or scores) the estimate rests on."""
    partial = [t for t in score.terms if t.sample == "fresh" and not t.den.all()]
    if partial:
        has = partial[0].den > 0
        residual = partial[0].num[has]
        middle = float((prep.fresh.label[has] - residual).mean()) if has.any() else 0.0
        return _radii(prep, "fresh", has, residual, middle, confidence)
    if prep.source is not None and any("f" in t.slopes or "q" in t.slopes for t in score.terms):
        source = prep.source
        return prep.once(("label guard", confidence), lambda p: _label_guard(p, source, confidence))
    name = score.terms[0].sample
    judge = prep.sample(name).judge
    return prep.once(
        ("score guard", name, confidence), lambda p: _radii(p, name, np.ones(len(judge), bool), judge, 0.0, confidence)
    )


def _label_guard(prep: Prepared, source: str, confidence: float) -> tuple[float, float]:
    rows, f = prep.sample(source), prep.reward_oof if source == "logged" else prep.fresh_oof
    has = rows.labelled > 0
    return _radii(prep, source, has, rows.label[has] - f[has], float(f[has].mean()), confidence)


def _radii(
    prep: Prepared, sample: str, has: np.ndarray, values: np.ndarray, middle: float, confidence: float
) -> tuple[float, float]:
    cluster = None if prep.unique[sample] else prep.sample(sample).cluster[has]
    return bounded_mean_radii(values, -middle, 1 - middle, confidence, cluster)


def score_interval(prep: Prepared, score: Score, confidence: float = 0.95, method: str = "jackknife") -> Interval:
    """Interval of a score: clustered jackknife, calibration and judge variance, t quantile (Satterthwaite), label
    guard.

    It is centred on the value plus the score's correction and always contains the value. `method="influence"` uses the
    linearised deviations.
    """
    dev, groups = deviations(prep, score, method)
    sampling, cal = float(dev @ dev), calibration_variance(prep, score)
    variance = sampling + cal + judge_variance(prep, score)
    centre = score.value + score.shift
    if groups < 2 or not np.isfinite(variance) or not np.isfinite(centre):
        return Interval(0.0, 1.0, float("inf"), method)
    parts = sampling**2 / (groups - 1) + cal**2 / (prep.fit.n_folds - 1)
    df = min(variance**2 / parts, 1e9) if parts > 0 else float(groups - 1)
    t = float(stats.t.isf((1 - confidence) / 2, df))
    down, up = (max(t * np.sqrt(variance), g) for g in _guard(prep, score, confidence))
    se = max(float(np.sqrt(variance)), max(down, up) / t)
    low, high = min(centre - down, score.value), max(centre + up, score.value)
    return Interval(float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1)), se, method, df)


def el_score_interval(prep: Prepared, confidence: float = 0.95, w_max: float = float("inf")) -> Interval:
    """The EL interval of a policy: the same for every estimator that re-weights logged rows.

    Where logged labels trained f, the outcome of a row is f(S) plus its label residual divided by the labelled share,
    so the interval is for the policy value even when f does not carry over. Calibration variance is added in
    quadrature. Never narrower than the interval of the unweighted mean of f(S): on one or two rows empirical
    likelihood, which holds for many, would have nothing left to vary.
    """
    keep = prep.has_weight > 0
    reward = prep.reward
    if prep.source == "logged":
        has = prep.logged.labelled * prep.has_weight
        share = has.sum() / max(prep.n_weighted, 1)
        if share > 0:
            reward = prep.reward_oof + has * (prep.logged.label_or_zero - prep.reward_oof) / share
    cluster = None if prep.unique["logged"] else prep.logged.cluster[keep]
    low, high = el_interval(prep.log_weight[keep], reward[keep], confidence, w_max, cluster)
    base = prep.once("snips", snips)
    if np.isfinite(base.value):
        down, up = bounded_mean_radii(prep.reward[keep], 0.0, 1.0, confidence, cluster)
        low, high = max(0.0, min(low, base.value - down)), min(1.0, max(high, base.value + up))
    cal = calibration_variance(prep, base) + judge_variance(prep, base)
    extra = float(stats.norm.isf((1 - confidence) / 2) * np.sqrt(cal)) if np.isfinite(cal) else 1.0
    middle = (low + high) / 2
    reach = float(np.hypot((high - low) / 2, extra))
    se = reach / float(stats.norm.isf((1 - confidence) / 2))
    return Interval(max(0.0, middle - reach), min(1.0, middle + reach), se, EMPIRICAL_LIKELIHOOD)
