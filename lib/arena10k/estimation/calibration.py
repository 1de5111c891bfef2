"""Judge-to-oracle calibration: f(S), monotone in the judge's score, cross-fitted by fold.

Judge scores have few distinct values, so everything happens on a *level table*: labels are summed per (fold, level),
and pool-adjacent-violators on the level means, weighted by their counts, is exactly isotonic regression on the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import BSpline
from scipy.optimize import isotonic_regression

MIN_LABELS = 10


def level_codes(*scores: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Distinct values (L,), ascending, over all `scores`, and for each array the index of its values; NaN is not
    allowed."""
    import pandas as pd

    codes, levels = pd.factorize(np.concatenate(scores))
    order = np.argsort(levels)
    rank = np.empty(len(levels), dtype=np.intp)
    rank[order] = np.arange(len(levels))
    cuts = np.cumsum([len(s) for s in scores])[:-1]
    return levels[order], np.split(rank[codes], cuts)


def pava(levels: np.ndarray, total: np.ndarray, count: np.ndarray, increasing: bool = True) -> np.ndarray:
    """Isotonic fit at every level from weighted sums of the labels and sums of weights per level; shapes (L,).

    Levels without data are interpolated linearly between their neighbours and held constant outside (the rule of
    scikit-learn's IsotonicRegression with out_of_bounds="clip"). NaN everywhere when no level has data.
    """
    seen = count > 0
    if not seen.any():
        return np.full(len(levels), np.nan)
    fit = isotonic_regression(total[seen] / count[seen], weights=count[seen], increasing=increasing).x
    return np.asarray(np.interp(levels, levels[seen], fit))


@dataclass(frozen=True)
class LevelFit:
    """A calibration on levels: `values[k]` (K+1, L) is trained without fold k, the last row on all labels."""

    levels: np.ndarray
    values: np.ndarray
    code: dict[str, np.ndarray]
    fold: dict[str, np.ndarray]
    score: dict[str, np.ndarray]

    @property
    def n_folds(self) -> int:
        return len(self.values) - 1

    def pooled(self, sample: str) -> np.ndarray:
        """f(S) trained on all labels, for the rows of `sample` ("logged" or "fresh")."""
        return np.asarray(self.values[-1].take(self.code[sample]))

    def out_of_fold(self, sample: str) -> np.ndarray:
        """f(S) trained without the row's own fold."""
        return self.values.ravel().take(self.cell(sample))

    def cell(self, sample: str) -> np.ndarray:
        """Index of each row into the flattened (fold, level) table."""
        return np.asarray(self.fold[sample] * len(self.levels) + self.code[sample])

    def fold_sums(self, sample: str, slope: np.ndarray) -> np.ndarray:
        """sum_i slope_i f^(-k)(S_i) for every fold k: shape (K,)."""
        per_level = np.bincount(self.code[sample], weights=slope, minlength=len(self.levels))
        return self.values[:-1] @ per_level

    def noise_variance(self, sample: str, judge_var: np.ndarray) -> np.ndarray:
        """Variance of f(S) when S has variance `judge_var`: ((f(S + sd) - f(S - sd)) / 2)^2."""
        sd = np.sqrt(judge_var)
        up, down = (np.interp(self.score[sample] + s * sd, self.levels, self.values[-1]) for s in (1, -1))
        return np.asarray(((up - down) / 2) ** 2)


@dataclass(frozen=True)
class RowFit:
    """A calibration without levels (covariates): predictions per row, (K+1, n) per sample."""

    rows: dict[str, np.ndarray]
    fold: dict[str, np.ndarray]
    noise: Callable[[str, np.ndarray], np.ndarray]

    @property
    def n_folds(self) -> int:
        return len(self.rows["logged"]) - 1

    def pooled(self, sample: str) -> np.ndarray:
        return np.asarray(self.rows[sample][-1])

    def out_of_fold(self, sample: str) -> np.ndarray:
        return np.asarray(self.rows[sample][self.fold[sample], np.arange(self.rows[sample].shape[1])])

    def fold_sums(self, sample: str, slope: np.ndarray) -> np.ndarray:
        return np.asarray(self.rows[sample][:-1] @ slope)

    def noise_variance(self, sample: str, judge_var: np.ndarray) -> np.ndarray:
        return self.noise(sample, judge_var)


Fit = LevelFit | RowFit


def fit_levels(
    scores: dict[str, np.ndarray],
    folds: dict[str, np.ndarray],
    source: str,
    labels: np.ndarray,
    n_folds: int,
    weights: np.ndarray | None = None,
    table: tuple[np.ndarray, dict[str, np.ndarray]] | None = None,
) -> LevelFit:
    """Cross-fitted isotonic calibration.

    Parameters
    ----------
    scores, folds : judge scores and fold numbers by sample; no NaN.
    source : the sample that `labels` (its length, NaN = unlabelled) belongs to.
    weights : non-negative row weights of the labelled rows, in the length of `labels`; one when None.
    table : (levels, codes by sample) from an earlier call on the same scores.
    """
    if table is None:
        levels, split = level_codes(*scores.values())
        table = levels, dict(zip(scores, split, strict=True))
    levels, code = table
    rows = np.flatnonzero(~np.isnan(labels))
    weight = np.ones(len(rows)) if weights is None else weights[rows]
    flat = folds[source][rows] * len(levels) + code[source][rows]
    size = n_folds * len(levels)
    total = np.bincount(flat, weights=weight * labels[rows], minlength=size).reshape(n_folds, -1)
    count = np.bincount(flat, weights=weight, minlength=size).reshape(n_folds, -1)
    # Sums over the other folds, never "all minus own": a dominating weight would leave only rounding noise.
    keep = np.vstack([1.0 - np.eye(n_folds), np.ones(n_folds)])
    values = np.vstack([pava(levels, t, c) for t, c in zip(keep @ total, keep @ count, strict=True)])
    return LevelFit(levels, np.where(np.isnan(values), values[-1], values), code, folds, scores)


def identity_fit(scores: dict[str, np.ndarray], folds: dict[str, np.ndarray], n_folds: int) -> LevelFit:
    """f(S) = S: the judge's own scale, for data without labels."""
    levels, split = level_codes(*scores.values())
    return LevelFit(levels, np.tile(levels, (n_folds + 1, 1)), dict(zip(scores, split, strict=True)), folds, scores)


def _basis(x: np.ndarray, knots: np.ndarray) -> np.ndarray:
    inside = np.clip(x, knots[0], knots[-1])
    padded = np.concatenate([[knots[0]] * 3, knots, [knots[-1]] * 3])
    return np.asarray(BSpline.design_matrix(inside, padded, 3).toarray())


def _knots(x: np.ndarray) -> np.ndarray:
    knots = np.unique(np.quantile(x, [0, 0.25, 0.5, 0.75, 1]))
    return knots if len(knots) > 1 else np.array([knots[0], knots[0] + 1.0])


def _two_stage(
    s: np.ndarray, x: np.ndarray, y: np.ndarray, ridge: float
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Ridge on cubic splines of score and covariate gives an index; isotonic regression maps the index to labels."""
    ks, kx = _knots(s), _knots(x)

    def design(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.hstack([_basis(a, ks), _basis(b, kx)])

    d = design(s, x)
    center = y.mean()
    coef = np.linalg.solve(d.T @ d + ridge * np.eye(d.shape[1]), d.T @ (y - center))
    index, where = np.unique(d @ coef, return_inverse=True)
    fit = pava(index, np.bincount(where, weights=y), np.bincount(where).astype(float))
    return lambda a, b: np.interp(design(a, b) @ coef, index, fit)


def fit_two_stage(
    scores: dict[str, np.ndarray],
    covariate: dict[str, np.ndarray],
    folds: dict[str, np.ndarray],
    source: str,
    labels: np.ndarray,
    n_folds: int,
    ridge: float = 1.0,
) -> RowFit:
    """Cross-fitted two-stage calibration f(S, length): spline index, then isotonic. Lengths enter as log(1 + length).

    Raises
    ------
    ValueError
        A covariate is missing (NaN): a length is never guessed.
    """
    x = {k: np.log1p(v) for k, v in covariate.items()}
    if any(np.isnan(v).any() for v in x.values()):
        raise ValueError("two-stage calibration needs the response length of every row")
    labelled = ~np.isnan(labels)
    models = []
    for k in range(n_folds + 1):
        train = labelled & (folds[source] != k)
        train = train if train.sum() >= 2 else labelled
        models.append(_two_stage(scores[source][train], x[source][train], labels[train], ridge))

    def noise(sample: str, judge_var: np.ndarray) -> np.ndarray:
        sd = np.sqrt(judge_var)
        up, down = (models[-1](scores[sample] + s * sd, x[sample]) for s in (1, -1))
        return np.asarray(((up - down) / 2) ** 2)

    return RowFit({k: np.vstack([m(scores[k], x[k]) for m in models]) for k in scores}, folds, noise)


def enough_labels(labels: np.ndarray, folds: np.ndarray) -> bool:
    """Whether a calibration can be cross-fitted: at least `MIN_LABELS` labels in at least two folds."""
    labelled = ~np.isnan(labels)
    return bool(labelled.sum() >= MIN_LABELS and len(np.unique(folds[labelled])) >= 2)
