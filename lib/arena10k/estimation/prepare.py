"""What estimators share, computed once per policy and judge mode: usable rows, shifted weights, the calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from arena10k.analysis import Analysis
from arena10k.estimation import calibration
from arena10k.estimation.data import PolicyData
from arena10k.estimation.labelling import Labelling, labelling

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows of one kind that carry a judge score; every array (rows,)."""

    judge: np.ndarray
    judge_var: np.ndarray
    label: np.ndarray
    label_propensity: np.ndarray
    cluster: np.ndarray
    prompt: np.ndarray
    fold: np.ndarray
    length: np.ndarray

    @cached_property
    def unique(self) -> bool:
        """Whether every row is a cluster of its own."""
        return len(self.cluster) == 0 or bool(np.bincount(self.cluster).max() <= 1)

    @cached_property
    def share(self) -> np.ndarray | None:
        """1 / draws of the row's prompt, scaled to mean one, so that every prompt counts alike; None where every prompt
        has as many draws as the others."""
        draws = np.bincount(self.prompt)
        if self.unique or len(set(draws[draws > 0])) <= 1:
            return None
        share = 1 / draws[self.prompt]
        return np.asarray(share / share.mean())

    def clusters(self, rows: np.ndarray) -> int:
        """How many clusters have any of `rows` (a mask)."""
        return int(rows.sum()) if self.unique else len(np.unique(self.cluster[rows]))

    @cached_property
    def labelling(self) -> Labelling:
        """How the labelled rows were chosen."""
        return labelling(self.judge, self.labelled, self.label_propensity, None if self.unique else self.cluster)

    @property
    def label_weight(self) -> np.ndarray:
        """1 where there is a label, times 1 / its chance of having one where labels are not at random; else 0."""
        return self.labelling.weight

    def by_cluster(self, values: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Values whose plain mean is the mean of `values` over prompts, one per cluster that has any of `rows` (a mask;
        all where None): independent, so that their variance is that of the mean.

        mean + (sum of the cluster - its share of rows * mean) / average share: linearised where clusters differ in
        size. `values` is in the length of the masked rows.
        """
        if self.unique:
            return values
        cluster = self.cluster if rows is None else self.cluster[rows]
        share = np.ones(len(cluster)) if self.share is None else self.share if rows is None else self.share[rows]
        size, total = np.bincount(cluster, weights=share), np.bincount(cluster, weights=share * values)
        size, total = size[size > 0], total[size > 0]
        if not len(size):
            return values
        mean = total.sum() / size.sum()
        return np.asarray(mean + (total - mean * size) / size.mean())

    @cached_property
    def labelled(self) -> np.ndarray:
        """1.0 where there is a label, else 0.0: for counting; in means `label_weight` takes its place."""
        return np.asarray((~np.isnan(self.label)).astype(np.float64))

    @cached_property
    def label_or_zero(self) -> np.ndarray:
        """The label where there is one, 0 elsewhere; only ever used multiplied by `label_weight`."""
        return np.asarray(np.nan_to_num(self.label, nan=0.0))

    def __len__(self) -> int:
        return len(self.judge)


@dataclass(frozen=True, eq=False)
class Prepared:
    """Input of every estimator.

    `log_weight` (n,), `shift` its maximum, `weight` = exp(log_weight - shift). A row without a log-weight has
    `has_weight` 0 and weight 0: it can teach the calibration and enters nothing else. `fit` is the calibration,
    `source` the sample whose labels trained it ("logged", "fresh", or None when f(S) = S for lack of labels).
    `in_order[sample]`: row i is cluster i of all n_clusters.
    """

    log_weight: np.ndarray
    has_weight: np.ndarray
    shift: float
    weight: np.ndarray
    logged: Sample
    fresh: Sample
    fit: calibration.Fit
    source: str | None
    n_clusters: int
    in_order: dict[str, bool]
    is_logging: bool
    memo: dict[Any, Any] = field(default_factory=dict)

    def once(self, key: Any, make: Callable[[Prepared], T]) -> T:
        """`make(self)`, computed the first time `key` is asked for: what several estimators share."""
        if key not in self.memo:
            self.memo[key] = make(self)
        made: T = self.memo[key]
        return made

    @property
    def n_weighted(self) -> int:
        """Logged rows with both a judge score and a log-weight."""
        return int(self.has_weight.sum())

    @cached_property
    def raw_log_weight(self) -> np.ndarray:
        """The log-weights of the rows that have one."""
        present = self.has_weight > 0
        return self.log_weight if present.all() else self.log_weight[present]

    def sample(self, name: str) -> Sample:
        return self.logged if name == "logged" else self.fresh

    @cached_property
    def reward(self) -> np.ndarray:
        """R = f(S) on the logged rows, f trained on all labels."""
        return self.fit.pooled("logged")

    @cached_property
    def reward_oof(self) -> np.ndarray:
        """f(S) on the logged rows, f trained without the row's fold."""
        return self.fit.out_of_fold("logged")

    def unit(self, rows: np.ndarray) -> np.ndarray:
        """`rows` on the scale of `weight`: times exp(-shift), 0 where 0; infinite on overflow."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.where(rows > 0, rows * np.exp(-self.shift), 0.0)

    def noise_variance(self, name: str) -> np.ndarray:
        """Variance of f(S) that the judge's variance causes, for the rows of sample `name`."""
        return self.once(("noise", name), lambda p: p.fit.noise_variance(name, p.sample(name).judge_var))

    @cached_property
    def label_residual(self) -> np.ndarray:
        """Y - f(S) out of fold on the labelled logged rows, 0 on the others."""
        return np.asarray(self.logged.labelled * (self.logged.label_or_zero - self.reward_oof))

    @cached_property
    def fresh_reward(self) -> np.ndarray:
        """f(S') on the fresh draws, f trained on all labels."""
        return self.fit.pooled("fresh")

    @cached_property
    def fresh_oof(self) -> np.ndarray:
        """f(S') on the fresh draws, f trained without the row's fold."""
        return self.fit.out_of_fold("fresh")


def _sample(data: PolicyData, prefix: str, keep: np.ndarray) -> Sample:
    names = ("judge", "judge_var", "label", "label_propensity", "cluster", "prompt", "fold", "length")
    columns = (getattr(data, prefix + name) for name in names)
    judge, judge_var, *rest = columns if keep.all() else (c[keep] for c in columns)
    return Sample(judge, np.nan_to_num(judge_var, nan=0.0), *rest)


def _source(logged: Sample, fresh: Sample) -> str | None:
    for name, rows in (("logged", logged), ("fresh", fresh)):
        if calibration.enough_labels(rows.label, rows.fold):
            return name
    return None


def _scores_and_folds(logged: Sample, fresh: Sample) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], int]:
    folds = {"logged": logged.fold, "fresh": fresh.fold}
    n_folds = 1 + max((int(f.max()) for f in folds.values() if len(f)), default=0)
    return {"logged": logged.judge, "fresh": fresh.judge}, folds, n_folds


#: A calibration variant: (logged rows, fresh rows, source of the labels) -> fit. None leaves f(S) = S.
Calibration = Callable[[Sample, Sample, str], calibration.Fit]
CALIBRATIONS: dict[str, Calibration | None] = {"none": None}


def register_calibration(name: str) -> Callable[[Calibration], Calibration]:
    """Add a calibration variant to `CALIBRATIONS` under `name`."""
    return adder(CALIBRATIONS, name, "calibration")


def adder(registry: dict[str, Any], name: str, kind: str) -> Callable[[Any], Any]:
    """A decorator that adds a function to a registry. Raises ValueError for a name that is taken."""

    def add(function: Any) -> Any:
        if name in registry:
            raise ValueError(f"{kind} {name!r} is already registered")
        registry[name] = function
        return function

    return add


@register_calibration("isotonic")
def _isotonic(logged: Sample, fresh: Sample, source: str) -> calibration.Fit:
    scores, folds, n_folds = _scores_and_folds(logged, fresh)
    return calibration.fit_levels(scores, folds, source, (logged if source == "logged" else fresh).label, n_folds)


@register_calibration("two_stage")
def _two_stage(logged: Sample, fresh: Sample, source: str) -> calibration.Fit:
    scores, folds, n_folds = _scores_and_folds(logged, fresh)
    lengths = {"logged": logged.length, "fresh": fresh.length}
    labels = (logged if source == "logged" else fresh).label
    return calibration.fit_two_stage(scores, lengths, folds, source, labels, n_folds)


def _fit(logged: Sample, fresh: Sample, source: str | None, kind: str) -> calibration.Fit:
    variant = CALIBRATIONS[kind]
    if source is None or variant is None:
        return calibration.identity_fit(*_scores_and_folds(logged, fresh))
    return variant(logged, fresh, source)


def prepare(data: PolicyData, kind: str = Analysis.calibration) -> Prepared:
    """Select the usable rows and fit the calibration.

    Labels of logged rows train f where there are enough; otherwise labels on the target's own draws do; otherwise, or
    with `kind` "none", f(S) = S. Rows without a judge score are left out.

    Raises
    ------
    ValueError
        For a `kind` that is not in `CALIBRATIONS`.
    """
    if kind not in CALIBRATIONS:
        raise ValueError(f"unknown calibration {kind!r}: {', '.join(CALIBRATIONS)}")
    keep = ~np.isnan(data.judge)
    logged, fresh = _sample(data, "", keep), _sample(data, "fresh_", ~np.isnan(data.fresh_judge))
    log_weight = data.log_weight if keep.all() else data.log_weight[keep]
    missing = np.isnan(log_weight)
    if missing.any():
        log_weight = np.where(missing, -np.inf, log_weight)
    shift = float(log_weight.max()) if len(log_weight) else 0.0
    shift = shift if np.isfinite(shift) else 0.0
    source = _source(logged, fresh) if CALIBRATIONS[kind] else None
    n_clusters = 1 + max((int(s.cluster.max()) for s in (logged, fresh) if len(s)), default=-1)
    return Prepared(
        log_weight,
        (~missing).astype(np.float64),
        shift,
        np.exp(log_weight - shift),
        logged,
        fresh,
        _fit(logged, fresh, source, kind),
        source,
        n_clusters,
        {name: _in_order(s.cluster, n_clusters) for name, s in (("logged", logged), ("fresh", fresh))},
        data.is_logging,
    )


def _in_order(cluster: np.ndarray, size: int) -> bool:
    return len(cluster) == size and bool((cluster == np.arange(size)).all())
