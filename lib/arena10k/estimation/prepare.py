"""What estimators share, computed once per policy and judge: usable rows, shifted weights, the calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from arena10k.analysis import Analysis
from arena10k.estimation import calibration
from arena10k.estimation.calibration import CALIBRATIONS, LevelFit
from arena10k.estimation.data import PolicyData, Rows
from arena10k.estimation.pareto import WeightAudit, audit_weights

T = TypeVar("T")
P = ParamSpec("P")
Of = TypeVar("Of", bound=Any)


def shared(function: Callable[Concatenate[Of, P], T]) -> Callable[Concatenate[Of, P], T]:
    """A function that is computed once per `Prepared`, or context, and arguments: what several estimators share."""

    @wraps(function)
    def once(of: Of, /, *args: P.args, **more: P.kwargs) -> T:
        if (key := (function, args, *more.items())) not in of.memo:
            of.memo[key] = function(of, *args, **more)
        made: T = of.memo[key]
        return made

    return once


@dataclass(frozen=True, eq=False)
class Prepared:
    """Input of every estimator.

    `samples` are the "logged" and "fresh" rows with a judge score, or with one that stands in for it; `fit` is the
    calibration, `source` the sample whose labels trained it (None when f(S) = S for lack of labels). A row without a
    log-weight has `has_weight` 0 and `weight` 0: it can teach the calibration and enters no value. `complete` as in
    `PolicyData`.
    """

    samples: Mapping[str, Rows]
    fit: calibration.Fit
    source: str | None
    is_logging: bool
    complete: bool = False
    memo: dict[Any, Any] = field(default_factory=dict, init=False)

    def forget(self) -> None:
        """Free what was derived: asked for again, it is computed again."""
        parts: list[Any] = [self, *self.samples.values()]
        for part in parts:
            for name in vars(part).keys() - {column.name for column in fields(part)}:
                del vars(part)[name]

    def sample(self, name: str) -> Rows:
        return self.samples[name]

    @cached_property
    def logged(self) -> Rows:
        return self.samples["logged"]

    @cached_property
    def fresh(self) -> Rows:
        return self.samples["fresh"]

    @cached_property
    def levels(self) -> calibration.Levels:
        """The distinct judge scores, and by sample the index of each row's."""
        fit = self.fit
        return (fit.levels, fit.code) if isinstance(fit, LevelFit) else calibration.levels_of(self.samples)

    @cached_property
    def n_clusters(self) -> int:
        return 1 + max((int(rows.cluster.max()) for rows in self.samples.values() if len(rows)), default=-1)

    @cached_property
    def in_order(self) -> dict[str, bool]:
        """By sample, whether row i is cluster i of all `n_clusters`."""
        every = np.arange(self.n_clusters)
        return {name: len(s) == len(every) and bool((s.cluster == every).all()) for name, s in self.samples.items()}

    @cached_property
    def weighted(self) -> np.ndarray:
        """Mask (n,) of the logged rows that have a log-weight."""
        return np.asarray(~np.isnan(self.logged.log_weight))

    @cached_property
    def has_weight(self) -> np.ndarray:
        """The same as 1.0 and 0.0."""
        return self.weighted.astype(np.float64)

    @cached_property
    def n_weighted(self) -> int:
        """Logged rows with both a judge score and a log-weight."""
        return int(self.weighted.sum())

    @cached_property
    def log_weight(self) -> np.ndarray:
        """Log-weights (n,) of the logged rows, -inf where missing."""
        values = self.logged.log_weight
        return values if self.weighted.all() else np.where(self.weighted, values, -np.inf)

    @cached_property
    def raw_log_weight(self) -> np.ndarray:
        """The log-weights of the rows that have one."""
        return self.log_weight if self.weighted.all() else self.log_weight[self.weighted]

    @cached_property
    def audit(self) -> WeightAudit:
        return audit_weights(self.raw_log_weight)

    @cached_property
    def noisy(self) -> dict[str, Rows]:
        """The samples in which a score has a variance."""
        return {name: rows for name, rows in self.samples.items() if rows.judge_var.any()}

    @cached_property
    def top(self) -> float:
        """The largest log-weight, 0 where none is finite."""
        largest = float(self.log_weight.max(initial=-np.inf))
        return largest if np.isfinite(largest) else 0.0

    @cached_property
    def weight(self) -> np.ndarray:
        """exp(log_weight - top) (n,)."""
        return np.asarray(np.exp(self.log_weight - self.top))

    def unit(self, rows: np.ndarray) -> np.ndarray:
        """`rows` on the scale of `weight`: times exp(-top), 0 where 0; infinite on overflow."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.where(rows > 0, rows * np.exp(-self.top), 0.0)

    @cached_property
    def counted(self) -> np.ndarray:
        """Mask (n,) of the logged rows over which E[w] = 1: with lost weights all, so that what they carried is unseen
        mass; else those that have one. None of P0's own is lost, for they are 1."""
        every = self.complete and not self.is_logging and self.weighted.any()
        return np.ones(len(self.logged), dtype=bool) if every else self.weighted

    @cached_property
    def counted_log_weight(self) -> np.ndarray:
        """The log-weights of the counted rows, -inf where lost."""
        return self.log_weight if self.counted.all() else self.log_weight[self.counted]

    @cached_property
    def counted_weight(self) -> np.ndarray:
        """exp(counted_log_weight), on its true scale; infinite on overflow."""
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(self.counted_log_weight))

    def by_cluster(self, values: np.ndarray) -> np.ndarray:
        """`Rows.by_cluster` of values of the counted rows."""
        return self.logged.by_cluster(values, self.counted)

    @cached_property
    def weighted_labels(self) -> np.ndarray:
        """Mask (n,) of the logged rows with a log-weight and a label."""
        return np.asarray(self.weighted & (self.logged.labelled > 0))

    @cached_property
    def reward(self) -> np.ndarray:
        """R = f(S) on the logged rows, f trained on all labels; the next on the fresh draws, the `oof` two on either,
        f trained without the row's fold."""
        return self.fit.pooled("logged")

    @cached_property
    def fresh_reward(self) -> np.ndarray:
        return self.fit.pooled("fresh")

    @cached_property
    def reward_oof(self) -> np.ndarray:
        return self.fit.out_of_fold("logged")

    @cached_property
    def fresh_oof(self) -> np.ndarray:
        return self.fit.out_of_fold("fresh")

    @cached_property
    def label_residual(self) -> np.ndarray:
        """Y - f(S) out of fold on the labelled logged rows, 0 on the others."""
        return np.asarray(self.logged.labelled * (self.logged.label_or_zero - self.reward_oof))

    @shared
    def noise_variance(self, name: str) -> np.ndarray:
        """Variance of f(S) that the judge's variance causes, for the rows of sample `name`."""
        return self.fit.noise_variance(name)


def prepare(data: PolicyData, kind: str = Analysis.calibration) -> Prepared:
    """Select the usable rows and fit the calibration; ValueError for a `kind` that is not in `CALIBRATIONS`.

    Labels of logged rows train f where there are enough; otherwise labels on the target's own draws do; otherwise, or
    with `kind` "none", f(S) = S. Rows without a judge score are left out, or, of complete data, get one that stands in
    for it: under beliefs that hold for any f, what they are worth is then in the value.
    """
    if kind not in CALIBRATIONS:
        raise ValueError(f"unknown calibration {kind!r}: {', '.join(CALIBRATIONS)}")
    samples = _usable({"logged": data.logged, "fresh": data.fresh}, data.complete)
    source = next((name for name, rows in samples.items() if calibration.enough_labels(rows)), None)
    variant = CALIBRATIONS[kind]
    if variant is None or source is None:
        return Prepared(samples, calibration.identity_fit(samples), None, data.is_logging, data.complete)
    return Prepared(samples, variant(samples, source), source, data.is_logging, data.complete)


def _usable(samples: dict[str, Rows], complete: bool) -> dict[str, Rows]:
    """The rows with a score; of complete data also those without, unless nothing is known of any row of their kind.
    The score that stands in for theirs is the one whose labels are most like theirs, a middle one where labels do not
    tell."""
    judged = {name: ~np.isnan(rows.judge) for name, rows in samples.items()}
    if all(mask.all() for mask in judged.values()):
        return samples
    judge, label = (np.concatenate([getattr(rows, name) for rows in samples.values()]) for name in ("judge", "label"))
    missing, labelled = np.isnan(judge), ~np.isnan(label)
    stand_in = 0.5 if missing.all() else float(np.median(judge[~missing]))
    if (missing & labelled).any() and (~missing & labelled).any():
        levels, code = calibration.level_codes(judge[~missing & labelled])
        count, total = np.bincount(code), np.bincount(code, weights=label[~missing & labelled])
        off = np.abs(calibration.pava(levels, total, count) - label[missing & labelled].mean())
        near = np.flatnonzero(off <= off.min() + 1e-12)
        stand_in = float(levels[near[len(near) // 2]])

    def usable(name: str, rows: Rows) -> Rows:
        if not complete or not (judged[name].any() or rows.labelled.any()):
            return rows.take(judged[name])
        return replace(rows, judge=np.where(judged[name], rows.judge, stand_in), has_score=judged[name])

    return {name: usable(name, rows) for name, rows in samples.items()}
