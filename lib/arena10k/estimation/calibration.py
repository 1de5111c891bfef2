"""Judge-to-oracle calibration: f(S), monotone in the judge's score, cross-fitted by fold.

Judge scores have few distinct values, so everything happens on a *level table*: labels are summed per (fold, level),
and pool-adjacent-violators on the level means, weighted by their counts, is exactly isotonic regression on the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.interpolate import BSpline
from scipy.optimize import isotonic_regression

if TYPE_CHECKING:
    from arena10k.estimation.data import Rows

MIN_TRAINING_LABELS = 10
#: Scores that are sorted in less time than a hash table takes to be made.
_FEW = 1000
#: Distinct scores (L,) of all samples, and by sample the index of each row's score.
Levels = tuple[np.ndarray, dict[str, np.ndarray]]


def level_codes(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values (L,), ascending, and for each of `scores` the index of its value; NaN is not allowed."""
    if len(scores) < _FEW:
        return np.unique(scores, return_inverse=True)
    import pandas as pd

    codes, levels = pd.factorize(scores, sort=True)
    return levels, codes


def levels_of(samples: Mapping[str, Rows]) -> Levels:
    """The levels of judge scores that carry no NaN."""
    own = {name: rows.levels for name, rows in samples.items()}
    levels = np.unique(np.concatenate([values for values, _ in own.values()]))
    return levels, {name: levels.searchsorted(values)[code] for name, (values, code) in own.items()}


def pava(levels: np.ndarray, total: np.ndarray, count: np.ndarray, increasing: bool = True) -> np.ndarray:
    """Isotonic fit at every level from weighted sums of the labels and sums of weights per level; shapes (L,).

    Levels without data are interpolated linearly between their neighbours and held constant outside (the rule of
    scikit-learn's IsotonicRegression with out_of_bounds="clip"). NaN everywhere when no level has data.
    """
    seen = count > 0
    weight = count[seen]
    if not len(weight):
        return np.full(len(levels), np.nan)
    fit = isotonic_regression(total[seen] / weight, weights=weight, increasing=increasing).x
    return np.asarray(np.interp(levels, levels[seen], fit))


@dataclass(frozen=True, eq=False)
class Fit:
    """A calibration of `samples` ("logged", "fresh"). `values[k]` (K+1, P) is trained without fold k, the last row on
    all labels, at P places; `code[sample]` the place of each row; `predict(sample, scores)` the last one where the rows
    of a sample have other scores."""

    samples: Mapping[str, Rows]
    values: np.ndarray
    code: dict[str, np.ndarray]
    predict: Callable[[str, np.ndarray], np.ndarray]

    @property
    def n_folds(self) -> int:
        return len(self.values) - 1

    def pooled(self, sample: str) -> np.ndarray:
        """f(S) trained on all labels."""
        return np.asarray(self.values[-1].take(self.code[sample]))

    def cell(self, sample: str) -> np.ndarray:
        """Index of each row, its own fold left out, into the flattened `values`."""
        return np.asarray(self.samples[sample].fold * self.values.shape[1] + self.code[sample])

    def out_of_fold(self, sample: str) -> np.ndarray:
        """f(S) trained without the row's own fold."""
        return self.values.ravel().take(self.cell(sample))

    def fold_sums(self, sample: str, slope: np.ndarray) -> np.ndarray:
        """sum_i slope_i f^(-k)(S_i) for every fold k: shape (K,)."""
        return self.values[:-1] @ np.bincount(self.code[sample], weights=slope, minlength=self.values.shape[1])

    def noise_variance(self, sample: str) -> np.ndarray:
        """Variance of f(S) that the variance of S causes: ((f(S + sd) - f(S - sd)) / 2)^2."""
        rows = self.samples[sample]
        sd = np.sqrt(rows.judge_var)
        up, down = (self.predict(sample, rows.judge + sign * sd) for sign in (1, -1))
        return np.asarray(((up - down) / 2) ** 2)


@dataclass(frozen=True, eq=False)
class LevelFit(Fit):
    """A calibration that is a function of the score alone: its places are the `levels` of the score."""

    levels: np.ndarray


def _level_fit(samples: Mapping[str, Rows], values: np.ndarray, levels: Levels) -> LevelFit:
    return LevelFit(samples, values, levels[1], lambda _, scores: np.interp(scores, levels[0], values[-1]), levels[0])


def _n_folds(samples: Mapping[str, Rows]) -> int:
    return 1 + max((int(rows.fold.max()) for rows in samples.values() if len(rows)), default=0)


def fit_levels(
    samples: Mapping[str, Rows], source: str, weights: np.ndarray | None = None, levels: Levels | None = None
) -> LevelFit:
    """Cross-fitted isotonic calibration of rows without a missing score. `source` is the sample whose labels train f,
    `weights` non-negative ones of its rows (one when None), `levels` `levels_of(samples)` where it is at hand."""
    levels = levels_of(samples) if levels is None else levels
    n_levels, n_folds, own = len(levels[0]), _n_folds(samples), samples[source]
    rows = np.flatnonzero(own.labelled)
    weight = np.ones(len(rows)) if weights is None else weights[rows]
    flat, size = own.fold[rows] * n_levels + levels[1][source][rows], n_folds * n_levels
    total = np.bincount(flat, weights=weight * own.label[rows], minlength=size).reshape(n_folds, -1)
    count = np.bincount(flat, weights=weight, minlength=size).reshape(n_folds, -1)
    # Sums over the other folds, never "all minus own": a dominating weight would leave only rounding noise.
    keep = 1.0 - np.eye(n_folds + 1, n_folds)
    values = np.stack([pava(levels[0], t, c) for t, c in zip(keep @ total, keep @ count, strict=True)])
    return _level_fit(samples, np.where(np.isnan(values), values[-1], values), levels)


def identity_fit(samples: Mapping[str, Rows]) -> LevelFit:
    """f(S) = S: the judge's own scale, for data without labels."""
    levels = levels_of(samples)
    return _level_fit(samples, np.tile(levels[0], (_n_folds(samples) + 1, 1)), levels)


def _splines(x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Cubic splines with knots at the quartiles of `x`, constant beyond its ends."""
    knots = np.unique(np.quantile(x, [0, 0.25, 0.5, 0.75, 1]))
    knots = knots if len(knots) > 1 else np.array([knots[0], knots[0] + 1.0])
    padded = np.concatenate([[knots[0]] * 3, knots, [knots[-1]] * 3])
    return lambda at: np.asarray(BSpline.design_matrix(np.clip(at, knots[0], knots[-1]), padded, 3).toarray())


def _two_stage(s: np.ndarray, x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Ridge on cubic splines of score and covariate gives an index; isotonic regression maps the index to labels."""
    of_score, of_covariate = _splines(s), _splines(x)

    def design(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.hstack([of_score(a), of_covariate(b)])

    d = design(s, x)
    coef = np.linalg.solve(d.T @ d + np.eye(d.shape[1]), d.T @ (y - y.mean()))
    index, where = np.unique(d @ coef, return_inverse=True)
    fit = pava(index, np.bincount(where, weights=y), np.bincount(where).astype(float))
    return lambda a, b: np.interp(design(a, b) @ coef, index, fit)


def fit_two_stage(samples: Mapping[str, Rows], source: str) -> Fit:
    """Cross-fitted two-stage calibration f(S, length): spline index, then isotonic. Lengths enter as log(1 + length);
    ValueError where one is missing: it is never guessed."""
    x = {name: np.log1p(rows.length) for name, rows in samples.items()}
    if any(np.isnan(v).any() for v in x.values()):
        raise ValueError("two-stage calibration needs the response length of every row")
    own, models = samples[source], []
    labelled = own.labelled > 0
    for k in range(_n_folds(samples) + 1):
        train = labelled & (own.fold != k)
        train = train if train.sum() >= 2 else labelled
        models.append(_two_stage(own.judge[train], x[source][train], own.label[train]))
    # Every row is a place of its own.
    values = np.hstack([np.vstack([m(rows.judge, x[name]) for m in models]) for name, rows in samples.items()])
    cuts = np.cumsum([len(rows) for rows in samples.values()])[:-1]
    code = dict(zip(samples, np.split(np.arange(values.shape[1]), cuts), strict=True))
    return Fit(samples, values, code, lambda sample, scores: models[-1](scores, x[sample]))


def enough_labels(rows: Rows) -> bool:
    """Whether a calibration can be cross-fitted: at least `MIN_TRAINING_LABELS` labels in at least two folds."""
    folds = rows.fold[rows.labelled > 0]
    return bool(len(folds) >= MIN_TRAINING_LABELS and folds.min() < folds.max())


#: A calibration variant: (samples by name, the one whose labels train it) -> fit. None leaves f(S) = S.
Calibration = Callable[["Mapping[str, Rows]", str], Fit]
CALIBRATIONS: dict[str, Calibration | None] = {"none": None, "isotonic": fit_levels, "two_stage": fit_two_stage}


def adder(registry: dict[str, Any], name: str, kind: str) -> Callable[[Any], Any]:
    """A decorator that adds a function to a registry. ValueError for a name that is taken."""

    def add(function: Any) -> Any:
        if name in registry:
            raise ValueError(f"{kind} {name!r} is already registered")
        registry[name] = function
        return function

    return add


def register_calibration(name: str) -> Callable[[Calibration], Calibration]:
    """Add a calibration variant to `CALIBRATIONS` under `name`."""
    return adder(CALIBRATIONS, name, "calibration")
