"""Data with a known policy value: bias, coverage, width and verdicts of every estimator and of the headline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy import special, stats

from arena10k.analysis import DEFAULT, Analysis
from arena10k.estimation import ESTIMATORS, N_FOLDS, PolicyData, Prepared, Rows, deviations
from arena10k.estimation.context import context
from arena10k.estimation.headline import headline_row
from arena10k.estimation.verdicts import CAUTION, REFUSE, REPORT, estimate_row

CLIP = 20.0
#: What a judge that overrates responses may take from their chance of a good outcome, at most.
MAX_LOSS = 0.5
#: The headline among the estimators asked for, and SNIPS with the interval usually printed.
HEADLINE, PLAIN = "headline", "plain_snips"


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


class Population(Protocol):
    """A pair of policies whose weights are right, and what is known of their responses."""

    def truth(self) -> float:
        """V(target), exact."""
        ...

    def logged(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Log-weight, score, outcome and length of n responses of P0."""
        ...

    def fresh(self, m: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Score, outcome and length of m responses of the target."""
        ...


def _loss(shift: float, favoured: float) -> float:
    """What responses that the target favours lose of their chance of a good outcome, for the judge to overrate the
    target by `shift` more than P0: `favoured` is how much more of its mean score comes from such responses."""
    return min(MAX_LOSS, shift / favoured) if favoured > 0 else 0.0


@dataclass(frozen=True)
class LogNormal:
    """Log-normal weights. A response has a latent z, N(0, 1) under P0 and N(sigma, 1) under the target, so
    log w = sigma z - sigma^2 / 2 and E[w] = 1. The judge's score is Phi(level + slope z + noise e) on a grid of 1/20.

    P(Y = 1) = S, less a part of it for z > sigma / 2, so that the judge overrates the target by `shift` more than P0
    (`MAX_LOSS` of that chance at most).
    """

    sigma: float
    shift: float = 0.0
    level: float = 0.3
    slope: float = 0.3
    noise: float = 0.6

    def _score(self, z: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        u = self.level + self.slope * z + self.noise * rng.standard_normal(len(z))
        return np.asarray(np.round(20 * stats.norm.cdf(u)) / 20)

    def _outcome(self, z: np.ndarray, s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        p = s * np.where(z > self.sigma / 2, 1 - self._lost, 1.0)
        return (rng.random(len(z)) < p).astype(np.float64)

    def _means(self, centre: float) -> tuple[float, float]:
        """Mean score where z is N(`centre`, 1), and what of it comes from z > sigma / 2: quadrature over z of the
        closed-form mean of the rounded score."""
        z = np.linspace(-8, 8, 4001) + centre
        density = stats.norm.pdf(z - centre)
        edges = stats.norm.ppf((np.arange(20) + 0.5) / 20)
        above = stats.norm.sf((edges[None, :] - self.level - self.slope * z[:, None]) / self.noise)
        mean = density / density.sum() * above.sum(axis=1) / 20
        return float(mean.sum()), float(mean[z > self.sigma / 2].sum())

    @cached_property
    def _lost(self) -> float:
        return _loss(self.shift, self._means(self.sigma)[1] - self._means(0.0)[1])

    def truth(self) -> float:
        mean, favoured = self._means(self.sigma)
        return mean - self._lost * favoured

    def logged(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        z = rng.standard_normal(n)
        s = self._score(z, rng)
        return self.sigma * z - self.sigma**2 / 2, s, self._outcome(z, s, rng), np.ones(n)

    def fresh(self, m: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        z = self.sigma + rng.standard_normal(m)
        s = self._score(z, rng)
        return s, self._outcome(z, s, rng), np.ones(m)


@dataclass(frozen=True, eq=False)
class Resampled:
    """Weights shaped like a run's own: P0 is uniform over its logged rows, the target proportional to their weights.

    `log_weight`, `score` (rows,) without NaN, `length` where it is known; weights are scaled to mean one, the identity
    a true pair of policies obeys. Y ~ Bernoulli(`chance`), the score itself where it is None, less a part of it on the
    rows of the heavier half of the target, so that the judge overrates the target by `shift` more than P0 (`MAX_LOSS`
    of that chance at most: the responses of a clone are P0's).
    """

    log_weight: np.ndarray
    score: np.ndarray
    shift: float = 0.0
    chance: np.ndarray | None = None
    length: np.ndarray | None = None

    @cached_property
    def _share(self) -> np.ndarray:
        w = np.exp(self.log_weight - self.log_weight.max())
        return np.asarray(w / w.sum())

    @cached_property
    def _probability(self) -> np.ndarray:
        chance = self.score if self.chance is None else self.chance
        if not self.shift:
            return chance
        order = np.argsort(self.log_weight, kind="stable")  # a clone's weights are all equal
        heavy = np.empty(len(order), dtype=bool)
        heavy[order] = np.cumsum(self._share[order]) > 0.5
        lost = _loss(self.shift, float(self._share @ (chance * heavy) - (chance * heavy).mean()))
        return chance * np.where(heavy, 1 - lost, 1.0)

    @cached_property
    def _cumulative(self) -> np.ndarray:
        total = np.cumsum(self._share)
        return np.asarray(total / total[-1])

    def truth(self) -> float:
        """The target's shares times outcome probabilities."""
        return float(self._share @ self._probability)

    def logged(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        rows = rng.integers(0, len(self.score), n)
        with np.errstate(divide="ignore"):
            lw = np.log(self._share[rows] * len(self.score))
        return lw, *self._drawn(rows, rng)

    def fresh(self, m: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        return self._drawn(np.searchsorted(self._cumulative, rng.random(m), side="right"), rng)

    def _drawn(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        length = np.full(len(rows), np.nan) if self.length is None else self.length[rows]
        return self.score[rows], (rng.random(len(rows)) < self._probability[rows]).astype(np.float64), length


@dataclass(frozen=True)
class Unseen:
    """With a chance of `mass` the target says what P0 never says, judged .9 and worth nothing; else as `seen`."""

    seen: Population
    mass: float

    def truth(self) -> float:
        return (1 - self.mass) * self.seen.truth()

    def logged(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        lw, *rest = self.seen.logged(n, rng)
        return lw + np.log1p(-self.mass), *rest

    def fresh(self, m: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        s, y, length = self.seen.fresh(m, rng)
        unlike = rng.random(m) < self.mass
        return np.where(unlike, 0.9, s), np.where(unlike, 0.0, y), length


@dataclass(frozen=True)
class RareFailures:
    """P0 fails (Y = 0) with chance `p0`, the target with chance `target`, and weights are the ratio of these chances,
    times a log-normal one (sigma `style`) of what does not matter. The judge sees failures dimly."""

    p0: float
    target: float
    style: float = 0.2

    def truth(self) -> float:
        return 1 - self.target

    def _drawn(self, chance: float, n: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        fails = rng.random(n) < chance
        s = np.round(20 * special.expit(1.5 * (0.5 - fails) + 0.8 * rng.standard_normal(n))) / 20
        return s, 1.0 - fails, np.ones(n)

    def logged(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        s, y, length = self._drawn(self.p0, n, rng)
        ratio = np.where(y == 0, self.target / self.p0, (1 - self.target) / (1 - self.p0))
        return np.log(ratio) + self.style * rng.standard_normal(n) - self.style**2 / 2, s, y, length

    def fresh(self, m: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        return self._drawn(self.target, m, rng)


def draw(population: Population, design: Design, rng: np.random.Generator) -> PolicyData:
    """One data set of a population: labels on a random slice of logged rows and on the first target draws."""
    lw, s, y, length = population.logged(design.n, rng)
    s_fresh, y_fresh, fresh_length = population.fresh(design.m, rng)
    if design.corrupted:
        lw = np.where(rng.random(design.n) < design.corrupted, CLIP, lw)
    label = np.where(rng.random(design.n) < design.label_share, y, np.nan)
    fresh_label = np.where(np.arange(design.m) < design.target_labels, y_fresh, np.nan)
    fold, fresh_fold = (np.arange(rows) % design.folds for rows in (design.n, design.m))
    return PolicyData(
        Rows(s, label=label, fold=fold, length=length, log_weight=lw),
        Rows(s_fresh, label=fresh_label, fold=fresh_fold, length=fresh_length),
    )


@dataclass(frozen=True)
class Performance:
    """One estimator over replicates.

    `coverage`: the interval shown holds V, refused or not; `report`, `caution`, `refused`: the share of each verdict
    (what there was nothing to compute from is refused and enters nothing else); `held_report`, `held_caution`: the
    share of its intervals that hold V, NaN without any. `width` mean over all, `width_accepted` over those not refused;
    `best_width` 2 z times the standard deviation of the value: the width of an interval that is told its own spread.
    """

    estimator: str
    replicates: int
    truth: float
    bias: float
    rmse: float
    coverage: float
    width: float
    width_accepted: float
    best_width: float
    report: float
    held_report: float
    caution: float
    held_caution: float
    refused: float


def plain_interval(prep: Prepared, name: str = "snips", confidence: float = 0.95) -> tuple[float, float]:
    """The interval usually printed: value +- z sqrt(sum psi^2) / n, without correction, calibration or gate."""
    score = prep.once(name, ESTIMATORS[name].score)
    bare = type(score)(score.terms)
    dev = deviations(prep, bare, "influence")[0]
    half = stats.norm.isf((1 - confidence) / 2) * np.sqrt(dev @ dev)
    return score.value - half, score.value + half


def _judged(data: PolicyData, names: list[str], analysis: Analysis) -> list[tuple[float, float, float, str]]:
    """Value, low, high and verdict of every estimate, as the pages have them."""
    ctx = context(data, analysis)
    rows = {name: estimate_row(ctx, ESTIMATORS[name], plan=False) for name in names if name in ESTIMATORS}
    if HEADLINE in names:
        rows[HEADLINE] = headline_row(rows.values(), analysis.belief, ctx.prep.is_logging) or {"verdict": REFUSE}
    if PLAIN in names:
        low, high = plain_interval(ctx.prep, "snips", analysis.confidence)
        rows[PLAIN] = {"value": (low + high) / 2, "ci_low": low, "ci_high": high, "verdict": REPORT}
    nan = float("nan")
    found = [[rows[name].get(key) for key in ("value", "ci_low", "ci_high")] for name in names]
    return [
        (*(nan if x is None else x for x in numbers), rows[name]["verdict"])
        for name, numbers in zip(names, found, strict=True)
    ]


def replicate(
    population: Population,
    design: Design,
    estimators: Iterable[str],
    replicates: int,
    seed: int = 0,
    analysis: Analysis = DEFAULT,
) -> list[Performance]:
    """Draw data sets and summarise each estimator, `HEADLINE` and `PLAIN` among them."""
    names = list(estimators)
    rng = np.random.default_rng(seed)
    drawn = [_judged(draw(population, design, rng), names, analysis) for _ in range(replicates)]
    truth, z = population.truth(), float(stats.norm.isf((1 - analysis.confidence) / 2))
    return [_summary(name, truth, z, rows) for name, rows in zip(names, zip(*drawn, strict=True), strict=True)]


def _mean(x: np.ndarray) -> float:
    return float(x.mean()) if len(x) else float("nan")


def _summary(name: str, truth: float, z: float, rows: Iterable[tuple[float, float, float, str]]) -> Performance:
    *numbers, verdicts = map(np.array, zip(*rows, strict=True))
    made = ~np.isnan(numbers).any(axis=0)
    value, low, high = (x[made] for x in numbers)
    covers, width, verdict = (low <= truth) & (truth <= high), high - low, verdicts[made]
    report, caution = verdict == REPORT, verdict == CAUTION
    return Performance(
        estimator=name,
        replicates=len(verdicts),
        truth=truth,
        bias=_mean(value) - truth,
        rmse=float(np.sqrt(_mean((value - truth) ** 2))),
        coverage=_mean(covers),
        width=_mean(width),
        width_accepted=_mean(width[report | caution]),
        best_width=float(2 * z * value.std()) if len(value) else float("nan"),
        report=float((verdicts == REPORT).mean()),
        held_report=_mean(covers[report]),
        caution=float((verdicts == CAUTION).mean()),
        held_caution=_mean(covers[caution]),
        refused=float((~np.isin(verdicts, (REPORT, CAUTION))).mean()),
    )
