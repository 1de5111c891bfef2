"""Data with a known policy value: bias, coverage, width and verdicts of every estimator and of the headline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from arena10k.analysis import DEFAULT, Analysis
from arena10k.estimation import ESTIMATORS, N_FOLDS, PolicyData, Rows, Score, deviations
from arena10k.estimation.context import context
from arena10k.estimation.headline import headline_row
from arena10k.estimation.intervals import normal
from arena10k.estimation.verdicts import CAUTION, REFUSE, REPORT, estimate_row

CLIP = 20.0
#: What a judge that overrates responses may take from their chance of a good outcome, at most.
MAX_LOSS = 0.5
#: The score of log-normal weights by their latent z: Phi(level + slope z + noise e); the spread of `RareFailures`.
_LEVEL, _SLOPE, _NOISE, _STYLE = 0.3, 0.3, 0.6, 0.2
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


#: Score, outcome and length (m,) of responses; before them the log-weight of logged ones.
Drawn = tuple[np.ndarray, ...]


def _loss(shift: float, favoured: float) -> float:
    """What responses that the target favours lose of their chance of a good outcome, for the judge to overrate the
    target by `shift` more than P0: `favoured` is how much more of its mean score comes from such responses."""
    return min(MAX_LOSS, shift / favoured) if favoured > 0 else 0.0


@dataclass(frozen=True)
class LogNormal:
    """Log-normal weights. A response has a latent z, N(0, 1) under P0 and N(sigma, 1) under the target, so
    log w = sigma z - sigma^2 / 2 and E[w] = 1. The judge's score rises with z, on a grid of 1/20.

    P(Y = 1) = S, less a part of it for z > sigma / 2, so that the judge overrates the target by `shift` more than P0
    (`MAX_LOSS` of that chance at most).
    """

    sigma: float
    shift: float = 0.0

    def _drawn(self, z: np.ndarray, rng: np.random.Generator) -> Drawn:
        u = _LEVEL + _SLOPE * z + _NOISE * rng.standard_normal(len(z))
        s = np.asarray(np.round(20 * special.ndtr(u)) / 20)
        chance = s * np.where(z > self.sigma / 2, 1 - self._lost, 1.0)
        return s, (rng.random(len(z)) < chance).astype(np.float64), np.ones(len(z))

    @cached_property
    def _lost(self) -> float:
        return _loss(self.shift, _means(self.sigma, self.sigma)[1] - _means(self.sigma, 0.0)[1])

    def truth(self) -> float:
        mean, favoured = _means(self.sigma, self.sigma)
        return mean - self._lost * favoured

    def logged(self, n: int, rng: np.random.Generator) -> Drawn:
        z = rng.standard_normal(n)
        return self.sigma * z - self.sigma**2 / 2, *self._drawn(z, rng)

    def fresh(self, m: int, rng: np.random.Generator) -> Drawn:
        return self._drawn(self.sigma + rng.standard_normal(m), rng)


@cache
def _means(sigma: float, centre: float) -> tuple[float, float]:
    """Of a `LogNormal` the mean score where z is N(`centre`, 1), and what of it comes from z > sigma / 2: quadrature
    over z of the closed-form mean of the rounded score."""
    z = np.linspace(-8, 8, 4001) + centre
    density = np.exp(-((z - centre) ** 2) / 2)
    edges = special.ndtri((np.arange(20) + 0.5) / 20)
    above = special.ndtr((_LEVEL + _SLOPE * z[:, None] - edges[None, :]) / _NOISE)
    mean = density / density.sum() * above.sum(axis=1) / 20
    return float(mean.sum()), float(mean[z > sigma / 2].sum())


class Resampled:
    """Weights shaped like a run's own: P0 is uniform over its logged rows, the target proportional to their weights.

    `log_weight`, `score` (rows,) without NaN, `length` where it is known; weights are scaled to mean one, the identity
    a true pair of policies obeys. Y ~ Bernoulli(`chance`), the score itself where it is None, less a part of it on the
    rows of the heavier half of the target, so that the judge overrates the target by `shift` more than P0 (`MAX_LOSS`
    of that chance at most: the responses of a clone are P0's).
    """

    def __init__(
        self,
        log_weight: np.ndarray,
        score: np.ndarray,
        shift: float = 0.0,
        chance: np.ndarray | None = None,
        length: np.ndarray | None = None,
    ):
        w = np.exp(log_weight - log_weight.max())
        self.score, self.length = score, np.full(len(score), np.nan) if length is None else length
        self._share, self._chance = w / w.sum(), score if chance is None else chance
        with np.errstate(divide="ignore"):
            self._log_weight, total = np.log(self._share * len(score)), np.cumsum(self._share)
        self._up_to = total / total[-1]
        if shift:
            order = np.argsort(log_weight, kind="stable")  # a clone's weights are all equal
            heavy = np.empty(len(order), dtype=bool)
            heavy[order] = np.cumsum(self._share[order]) > 0.5
            favoured = self._chance * heavy
            lost = _loss(shift, float(self._share @ favoured - favoured.mean()))
            self._chance = self._chance * np.where(heavy, 1 - lost, 1.0)

    def truth(self) -> float:
        """The target's shares times outcome probabilities."""
        return float(self._share @ self._chance)

    def logged(self, n: int, rng: np.random.Generator) -> Drawn:
        rows = rng.integers(0, len(self.score), n)
        return self._log_weight[rows], *self._drawn(rows, rng)

    def fresh(self, m: int, rng: np.random.Generator) -> Drawn:
        return self._drawn(self._up_to.searchsorted(rng.random(m), side="right"), rng)

    def _drawn(self, rows: np.ndarray, rng: np.random.Generator) -> Drawn:
        return self.score[rows], (rng.random(len(rows)) < self._chance[rows]).astype(np.float64), self.length[rows]


@dataclass(frozen=True)
class Unseen:
    """With a chance of `mass` the target says what P0 never says, judged .9 and worth nothing; else as `seen`."""

    seen: LogNormal | Resampled
    mass: float

    def truth(self) -> float:
        return (1 - self.mass) * self.seen.truth()

    def logged(self, n: int, rng: np.random.Generator) -> Drawn:
        lw, *rest = self.seen.logged(n, rng)
        return lw + np.log1p(-self.mass), *rest

    def fresh(self, m: int, rng: np.random.Generator) -> Drawn:
        s, y, length = self.seen.fresh(m, rng)
        unlike = rng.random(m) < self.mass
        return np.where(unlike, 0.9, s), np.where(unlike, 0.0, y), length


@dataclass(frozen=True)
class RareFailures:
    """P0 fails (Y = 0) with chance `p0`, the target with chance `target`, and weights are the ratio of these chances,
    times a log-normal one of what does not matter. The judge sees failures dimly."""

    p0: float
    target: float

    def truth(self) -> float:
        return 1 - self.target

    def logged(self, n: int, rng: np.random.Generator) -> Drawn:
        s, y, length = self._drawn(self.p0, n, rng)
        ratio = np.where(y == 0, self.target / self.p0, (1 - self.target) / (1 - self.p0))
        return np.log(ratio) + _STYLE * rng.standard_normal(n) - _STYLE**2 / 2, s, y, length

    def fresh(self, m: int, rng: np.random.Generator) -> Drawn:
        return self._drawn(self.target, m, rng)

    def _drawn(self, chance: float, n: int, rng: np.random.Generator) -> Drawn:
        fails = rng.random(n) < chance
        s = np.round(20 * special.expit(1.5 * (0.5 - fails) + 0.8 * rng.standard_normal(n))) / 20
        return s, 1.0 - fails, np.ones(n)


#: A pair of policies whose weights are right: `truth()` is V(target), exact, `logged(n, rng)` n responses of P0,
#: `fresh(m, rng)` m of the target.
Population = LogNormal | Resampled | Unseen | RareFailures


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


def _judged(data: PolicyData, names: Sequence[str], analysis: Analysis) -> list[list[float]]:
    """Value, low, high of every estimate, as the pages have them (NaN: none), and whether it is a REPORT, a CAUTION."""
    ctx, rows = context(data, analysis), dict[str, Any]()
    for name in (name for name in names if name in ESTIMATORS):
        rows[name] = estimate_row(ctx, ESTIMATORS[name], plan=False)
    if HEADLINE in names:
        rows[HEADLINE] = headline_row(rows.values(), analysis.belief, ctx.prep.is_logging) or {"verdict": REFUSE}
    if PLAIN in names:
        # value +- z sqrt(sum psi^2) / n, without correction, calibration or gate.
        score = ESTIMATORS["snips"].score(ctx.prep)
        psi = deviations(ctx.prep, Score(score.terms), "influence")[0]
        half = normal(analysis.confidence) * np.sqrt(psi @ psi)
        low, high = score.value - half, score.value + half
        rows[PLAIN] = {"value": (low + high) / 2, "ci_low": low, "ci_high": high, "verdict": REPORT}
    return [
        [np.nan if row.get(key) is None else row[key] for key in ("value", "ci_low", "ci_high")]
        + [row["verdict"] == REPORT, row["verdict"] == CAUTION]
        for row in (rows[name] for name in names)
    ]


def replicate(
    population: Population,
    design: Design,
    estimators: Sequence[str],
    replicates: int,
    seed: int = 0,
    analysis: Analysis = DEFAULT,
) -> pd.DataFrame:
    """Draw data sets and summarise each estimator, `HEADLINE` and `PLAIN` among them: one row each.

    Columns `estimator`, `replicates`, `truth`, `bias`, `rmse`; `coverage`: the interval shown holds V, refused or not;
    `report`, `caution`, `refused`: the share of each verdict (what there was nothing to compute from is refused and
    enters nothing else); `held_report`, `held_caution`: the share of its intervals that hold V, NaN without any.
    `width` mean over all, `width_accepted` over those not refused; `best_width` 2 z times the standard deviation of the
    value: the width of an interval that is told its own spread.
    """
    rng, truth, z = np.random.default_rng(seed), population.truth(), normal(analysis.confidence)
    drawn = np.array([_judged(draw(population, design, rng), estimators, analysis) for _ in range(replicates)])
    value, low, high, report, caution = np.moveaxis(drawn, -1, 0)
    made = ~np.isnan(value + low + high)
    covers = (low <= truth) & (truth <= high)

    def mean(values: np.ndarray, of: np.ndarray = made) -> np.ndarray:
        """By estimator over some of its data sets; NaN over none."""
        return np.asarray(values.sum(axis=0, where=of) / np.where(of.any(axis=0), of.sum(axis=0), np.nan))

    return pd.DataFrame(
        {
            "estimator": estimators,
            "replicates": replicates,
            "truth": truth,
            "bias": mean(value) - truth,
            "rmse": np.sqrt(mean((value - truth) ** 2)),
            "coverage": mean(covers),
            "width": mean(high - low),
            "width_accepted": mean(high - low, made & (report + caution > 0)),
            "best_width": 2 * z * np.sqrt(mean((value - mean(value)) ** 2)),
            "report": report.mean(axis=0),
            "held_report": mean(covers, made & (report > 0)),
            "caution": caution.mean(axis=0),
            "held_caution": mean(covers, made & (caution > 0)),
            "refused": (report + caution == 0).mean(axis=0),
        }
    )
