"""Data with a known policy value: bias, coverage, width and refusals of every estimator, on data like the user's
own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

from arena10k.analysis import Analysis
from arena10k.estimators import ESTIMATORS, N_FOLDS, PolicyData, Prepared, deviations
from arena10k.statistics.context import PolicyContext, context
from arena10k.statistics.verdicts import REFUSE, REPORT, interval_of, missing_inputs, verdict

CLIP = 20.0


@dataclass(frozen=True)
class Design:
    """What is observed of a population: logged rows, fresh draws, labels. `corrupted`: share of logged rows whose
    target log-prob was lost and replaced, so that the log-weight sits at the clip of 20 nats; `folds` of the
    calibration."""

    n: int = 1000
    m: int = 1000
    label_share: float = 0.5
    target_labels: int = 0
    corrupted: float = 0.0
    folds: int = N_FOLDS


@dataclass(frozen=True)
class LogNormal:
    """Log-normal weights. A response has a latent z, N(0, 1) under P0 and N(sigma, 1) under the target, so
    log w = sigma z - sigma^2 / 2 and E[w] = 1. The judge's score is Phi(level + slope z + noise e) on a grid of 1/20.

    Transporting judge: Y ~ Bernoulli(S). Otherwise P(Y = 1) = S (1 - loss) for z > sigma / 2: the responses that the
    target favours deserve less than the judge gives.
    """

    sigma: float
    transports: bool = True
    level: float = 0.3
    slope: float = 0.3
    noise: float = 0.6
    loss: float = 0.5

    def _score(self, z: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        u = self.level + self.slope * z + self.noise * rng.standard_normal(len(z))
        return np.asarray(np.round(20 * stats.norm.cdf(u)) / 20)

    def _outcome(self, z: np.ndarray, s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        p = s if self.transports else s * np.where(z > self.sigma / 2, 1 - self.loss, 1.0)
        return (rng.random(len(z)) < p).astype(np.float64)

    def truth(self) -> float:
        """V(target), by quadrature over z of the closed-form mean of the rounded score."""
        z = np.linspace(-8, 8, 4001) + self.sigma
        density = stats.norm.pdf(z - self.sigma)
        edges = stats.norm.ppf((np.arange(20) + 0.5) / 20)
        above = stats.norm.sf((edges[None, :] - self.level - self.slope * z[:, None]) / self.noise)
        mean = above.sum(axis=1) / 20
        if not self.transports:
            mean = mean * np.where(z > self.sigma / 2, 1 - self.loss, 1.0)
        return float((density * mean).sum() / density.sum())

    def logged(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Log-weight, score, outcome and length of n responses of P0; all are of one length."""
        z = rng.standard_normal(n)
        s = self._score(z, rng)
        return self.sigma * z - self.sigma**2 / 2, s, self._outcome(z, s, rng), np.ones(n)

    def fresh(self, m: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Score, outcome and length of m responses of the target."""
        z = self.sigma + rng.standard_normal(m)
        s = self._score(z, rng)
        return s, self._outcome(z, s, rng), np.ones(m)


@dataclass(frozen=True, eq=False)
class Resampled:
    """Weights shaped like a run's own: P0 is uniform over its logged rows, the target proportional to their weights.

    `log_weight`, `score` (rows,) without NaN, `length` where it is known; weights are scaled to mean one, the identity
    a true pair of policies obeys. Y ~ Bernoulli(`chance`), the score itself where it is None, less `loss` on the rows
    of the heavier half of the target when the judge does not transport.
    """

    log_weight: np.ndarray
    score: np.ndarray
    transports: bool = True
    loss: float = 0.5
    chance: np.ndarray | None = None
    length: np.ndarray | None = None

    @cached_property
    def _share(self) -> np.ndarray:
        w = np.exp(self.log_weight - self.log_weight.max())
        return np.asarray(w / w.sum())

    @cached_property
    def _probability(self) -> np.ndarray:
        chance = self.score if self.chance is None else self.chance
        if self.transports:
            return chance
        order = np.argsort(self.log_weight, kind="stable")  # a clone's weights are all equal
        heavy = np.empty(len(order), dtype=bool)
        heavy[order] = np.cumsum(self._share[order]) > 0.5
        return chance * np.where(heavy, 1 - self.loss, 1.0)

    @cached_property
    def _cumulative(self) -> np.ndarray:
        total = np.cumsum(self._share)
        return np.asarray(total / total[-1])

    def truth(self) -> float:
        """V(target) = sum of the target's shares times outcome probabilities; exact."""
        return float(self._share @ self._probability)

    def logged(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Log-weight, score, outcome and length of n responses of P0."""
        rows = rng.integers(0, len(self.score), n)
        with np.errstate(divide="ignore"):
            lw = np.log(self._share[rows] * len(self.score))
        return lw, *self._drawn(rows, rng)

    def fresh(self, m: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Score, outcome and length of m responses of the target."""
        return self._drawn(np.searchsorted(self._cumulative, rng.random(m), side="right"), rng)

    def _drawn(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        length = np.full(len(rows), np.nan) if self.length is None else self.length[rows]
        return self.score[rows], (rng.random(len(rows)) < self._probability[rows]).astype(np.float64), length


Population = LogNormal | Resampled


def draw(population: Population, design: Design, rng: np.random.Generator) -> PolicyData:
    """One data set of a population: labels on a random slice of logged rows and on the first target draws."""
    lw, s, y, length = population.logged(design.n, rng)
    s_fresh, y_fresh, fresh_length = population.fresh(design.m, rng)
    if design.corrupted:
        lw = np.where(rng.random(design.n) < design.corrupted, CLIP, lw)
    return PolicyData(
        log_weight=lw,
        judge=s,
        length=length,
        label=np.where(rng.random(design.n) < design.label_share, y, np.nan),
        cluster=np.arange(design.n),
        fold=np.arange(design.n) % design.folds,
        fresh_judge=s_fresh,
        fresh_length=fresh_length,
        fresh_label=np.where(np.arange(design.m) < design.target_labels, y_fresh, np.nan),
        fresh_cluster=np.arange(design.m),
        fresh_fold=np.arange(design.m) % design.folds,
    )


@dataclass(frozen=True)
class Performance:
    """One estimator over replicates.

    `coverage`: the interval shown holds V, refused or not; `coverage_reported`: among replicates whose verdict is not
    REFUSE (NaN without any). `width` mean over all, `width_reported` over those not refused; `best_width` 2 z times the
    true standard deviation of the interval's centre: the width of an interval that is told its own spread. Replicates
    in which there was nothing to compute from (no fresh draw, no label) are refused and enter nothing else.
    """

    estimator: str
    replicates: int
    truth: float
    bias: float
    rmse: float
    coverage: float
    coverage_reported: float
    width: float
    width_reported: float
    best_width: float
    refused: float
    reported: float


def plain_interval(prep: Prepared, name: str = "snips", confidence: float = 0.95) -> tuple[float, float]:
    """The interval usually printed: value +- z sqrt(sum psi^2) / n, without correction, calibration or gate."""
    score = prep.once(name, ESTIMATORS[name].score)
    bare = type(score)(score.terms)
    dev = deviations(prep, bare, "influence")[0]
    half = stats.norm.isf((1 - confidence) / 2) * np.sqrt(dev @ dev)
    return score.value - half, score.value + half


def _one(ctx: PolicyContext, name: str) -> tuple[float, float, float, float, str]:
    """Value, centre, low, high and verdict of one estimate."""
    if name == "plain_snips":
        low, high = plain_interval(ctx.prep, "snips", ctx.analysis.confidence)
        value = ctx.prep.once("snips", ESTIMATORS["snips"].score).value
        return value, value, low, high, REPORT
    estimator = ESTIMATORS[name]
    if missing_inputs(ctx, estimator):
        nan = float("nan")
        return nan, nan, nan, nan, REFUSE
    score = ctx.prep.once(name, estimator.score)
    interval = interval_of(ctx, estimator, score)
    centre = score.value + score.shift
    return score.value, centre, interval.low, interval.high, verdict(ctx, estimator, score.value, interval)[0]


def replicate(
    population: Population,
    design: Design,
    estimators: Iterable[str],
    replicates: int,
    seed: int = 0,
    width: float = 0.2,
    confidence: float = 0.95,
    calibration: str = "isotonic",
) -> list[Performance]:
    """Draw data sets and summarise each estimator; "plain_snips" is SNIPS with the interval usually printed."""
    names = list(estimators)
    rng = np.random.default_rng(seed)
    values = np.empty((len(names), replicates, 4))
    verdicts = np.empty((len(names), replicates), dtype="<U8")
    for r in range(replicates):
        ctx = context(draw(population, design, rng), Analysis(width, confidence, calibration))
        for j, name in enumerate(names):
            *values[j, r], verdicts[j, r] = _one(ctx, name)
    truth = population.truth()
    return [_summary(name, truth, values[j], verdicts[j], confidence) for j, name in enumerate(names)]


def _summary(name: str, truth: float, rows: np.ndarray, verdicts: np.ndarray, confidence: float) -> Performance:
    shown = verdicts != REFUSE
    nan = float("nan")
    refused, reported = float((~shown).mean()), float((verdicts == REPORT).mean())
    made = ~np.isnan(rows).any(axis=1)
    if not made.any():
        return Performance(name, len(rows), truth, nan, nan, nan, nan, nan, nan, nan, refused, reported)
    (value, centre, low, high), shown = rows[made].T, shown[made]
    covers = (low <= truth) & (truth <= high)
    return Performance(
        estimator=name,
        replicates=len(rows),
        truth=truth,
        bias=float(value.mean() - truth),
        rmse=float(np.sqrt(((value - truth) ** 2).mean())),
        coverage=float(covers.mean()),
        coverage_reported=float(covers[shown].mean()) if shown.any() else nan,
        width=float((high - low).mean()),
        width_reported=float((high - low)[shown].mean()) if shown.any() else nan,
        best_width=float(2 * stats.norm.isf((1 - confidence) / 2) * centre.std()),
        refused=refused,
        reported=reported,
    )
