"""An estimator is its score: ratio terms over logged or fresh rows. Influence, jackknife and noise are derived here,
once.

theta = sum_t (sum_i num_ti) / (sum_i den_ti). A mean has den = 1, a self-normalised mean den = w. A row enters at
most the terms of its own sample; rows of one cluster of prompts, logged or fresh, belong together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from arena10k.errors import ArenaError
from arena10k.estimation.calibration import Fit, adder
from arena10k.estimation.prepare import Prepared, shared


@dataclass(frozen=True, eq=False)
class Term:
    """One ratio. `slopes[model]` is d num / d model-prediction per row, "f" being the calibration; all arrays
    (rows,)."""

    sample: str
    num: np.ndarray
    den: np.ndarray
    slopes: Mapping[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def total(self) -> np.float64:
        """Sum of the denominators."""
        total: np.float64 = self.den.sum()
        return total

    @cached_property
    def value(self) -> float:
        with np.errstate(all="ignore"):
            return float(self.num.sum() / self.total)

    def scaled(self, factor: np.ndarray) -> Term:
        """Every row times its `factor`."""
        return Term(self.sample, factor * self.num, factor * self.den, {k: factor * v for k, v in self.slopes.items()})

    @staticmethod
    def mixed(terms: Sequence[Term], shares: np.ndarray) -> Term:
        """The sum of terms with one denominator, each times its share."""
        slopes: dict[str, Any] = {}
        for term, share in zip(terms, shares, strict=True):
            slopes |= {k: slopes.get(k, 0.0) + share * v for k, v in term.slopes.items()}
        num = sum(share * term.num for term, share in zip(terms, shares, strict=True))
        return Term(terms[0].sample, np.asarray(num), terms[0].den, slopes)


@dataclass(frozen=True, eq=False)
class Score:
    """What an estimator declares.

    `terms` make the value. `correction` holds terms that belong to the interval but not to the value: the weighted
    label residual of estimators that plug in f(S) for the outcome. `models` are fits other than the calibration.
    `per_prompt`: the terms count every prompt alike already, as those made of other scores do.
    """

    terms: tuple[Term, ...]
    correction: tuple[Term, ...] = ()
    models: Mapping[str, Fit] = field(default_factory=dict)
    per_prompt: bool = False
    memo: dict[str, Any] = field(default_factory=dict)

    def by_prompt(self, prep: Prepared) -> Score:
        """The same for the mean over prompts of the mean over a prompt's rows, where prompts have rows in different
        numbers."""
        shares = {name: rows.share for name, rows in prep.samples.items() if rows.share is not None}
        if self.per_prompt or not shares:
            return self
        terms, correction = (
            tuple(t.scaled(shares[t.sample]) if t.sample in shares else t for t in part)
            for part in (self.terms, self.correction)
        )
        return Score(terms, correction, self.models, True)

    @cached_property
    def value(self) -> float:
        return sum(t.value for t in self.terms)

    @cached_property
    def centre(self) -> float:
        """Where the interval is centred: the value and that of the correction."""
        return self.value + sum(t.value for t in self.correction)

    @property
    def all_terms(self) -> tuple[Term, ...]:
        return self.terms + self.correction


def deviations(prep: Prepared, score: Score, method: str = "jackknife") -> tuple[np.ndarray, int]:
    """Effect of each prompt on the estimate (n_clusters,), scaled so that the variance is the sum of squares; smallest
    number of prompts behind any term.

    "jackknife": theta - theta_(-g) in closed form, theta - (N - N_g)/(D - D_g) = (N_g - theta D_g)/(D - D_g), with the
    textbook variance (G-1)/G sum (theta_(-g) - mean)^2. "influence": its linearisation, (N_g - theta D_g)/D, with the
    clustered factor G/(G-1). Terms that share prompts add up within the prompt, so their covariance is counted.
    """

    total, smallest = np.zeros(prep.n_clusters), prep.n_clusters
    with np.errstate(all="ignore"):
        for term in score.all_terms:
            num, den = term.num, term.den
            if not prep.in_order[term.sample]:
                cluster = prep.samples[term.sample].cluster
                num, den = (np.bincount(cluster, weights=x, minlength=prep.n_clusters) for x in (num, den))
            groups = int(np.count_nonzero(den))
            smallest = min(smallest, groups)
            if groups == 0:
                continue
            dev = den * -term.value
            dev += num
            dev /= term.total if method == "influence" else term.total - den
            if method == "jackknife":
                mean = dev.sum() / groups
                dev -= mean if groups == len(dev) else (den != 0) * mean
                dev *= math.sqrt((groups - 1) / groups)
            else:
                dev *= math.sqrt(groups / max(groups - 1, 1))
            total += dev
    return total, smallest


def calibration_folds(prep: Prepared, score: Score) -> np.ndarray:
    """theta^(-k) up to a constant, (K,): the estimate with f trained without fold k, f swapped in *every* place it
    occurs."""
    models = {"f": prep.fit, **score.models} if prep.source else dict(score.models)
    folds = np.zeros(prep.fit.n_folds)
    with np.errstate(all="ignore"):
        for term in score.all_terms:
            for name, slope in term.slopes.items():
                if name in models:
                    folds += models[name].fold_sums(term.sample, slope) / term.total
    return folds


def fold_variance(folds: np.ndarray) -> float:
    """(K-1)/K sum_k (theta^(-k) - mean)^2: what training f on few labels adds to the variance, by the jackknife that
    leaves out a fold at a time (Shao & Tu 1995)."""
    if not math.isfinite(folds @ folds):
        return float("inf")
    apart = folds - folds.sum() / len(folds)
    return float((len(folds) - 1) / len(folds) * (apart @ apart))


def calibration_variance(prep: Prepared, score: Score) -> float:
    """Variance of the estimate from training f; 0 when f(S) = S."""
    return fold_variance(calibration_folds(prep, score))


def judge_variance(prep: Prepared, score: Score) -> float:
    """Variance that the judge's own uncertainty adds (delta method): sum_i (d theta / d f_i)^2 Var f(S_i), prompts
    independent.

    Slopes under "judge" are with respect to the score itself, whose variance is the judge's.
    """
    total = 0.0
    for name, rows in prep.noisy.items():
        for model in ("f", "judge"):
            gradient = np.zeros(len(rows))
            for term in score.all_terms:
                if term.sample == name and model in term.slopes:
                    with np.errstate(all="ignore"):
                        gradient += term.slopes[model] / term.total
            if gradient.any():
                noise = prep.noise_variance(name) if model == "f" else rows.judge_var
                total += float((gradient**2 * noise).sum())
    return total


@dataclass(frozen=True, eq=False)
class Estimator:
    """A registered estimator: its `function`, and how it is judged.

    `belief` is what it takes to believe it: "labels" of the target's own draws, "weights" that are right, or a "judge"
    that errs on the target as it does on P0. `uses_weights`: the value rests on the log-weights; `doubly_robust`: on
    weights and fresh draws; `label_residual`: the weighted label residual is part of the value; `biased`: even with
    right weights and many rows it need not reach the policy value.
    """

    name: str
    function: Callable[[Prepared], Score]
    belief: str = "weights"
    uses_weights: bool = False
    doubly_robust: bool = False
    uses_target_labels: bool = False
    label_residual: bool = False
    judge_scale: bool = False
    biased: bool = False

    def score(self, prep: Prepared) -> Score:
        """What the function declares, asked for once; ArenaError where that is no `Score`."""
        return _declared(prep, self)


@shared
def _declared(prep: Prepared, estimator: Estimator) -> Score:
    given, function = estimator.function(prep), estimator.function
    if not isinstance(given, Score):
        raise ArenaError(
            f"estimator {estimator.name!r} ({function.__qualname__} in {function.__module__}) returned "
            f"{type(given).__name__}, not a Score: return Score((Term(sample, numerators, denominators),)), with "
            "both by row, so that an interval can be derived (docs/extend.md, An estimator)"
        )
    return given.by_prompt(prep)


ESTIMATORS: dict[str, Estimator] = {}


def register(name: str, **properties: Any) -> Callable[[Callable[[Prepared], Score]], Callable[[Prepared], Score]]:
    """Add a function Prepared -> Score to `ESTIMATORS` under `name`; properties are those of `Estimator`."""

    def add(function: Callable[[Prepared], Score]) -> Callable[[Prepared], Score]:
        adder(ESTIMATORS, name, "estimator")(Estimator(name, function, **properties))
        return function

    return add
