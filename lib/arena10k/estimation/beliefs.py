"""The interval that carries what each belief leaves open: labels alone, right weights, or a judge that transports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import special

from arena10k.estimation.data import Rows
from arena10k.estimation.intervals import (
    EMPIRICAL_LIKELIHOOD,
    Interval,
    bounded_mean_radii,
    el_interval,
    label_radii,
    normal,
    score_interval,
    variance_of,
)
from arena10k.estimation.prepare import Prepared
from arena10k.estimation.score import ESTIMATORS, Score, Term, calibration_variance, judge_variance
from arena10k.estimation.thresholds import NOISE


def unseen_label_radii(prep: Prepared, confidence: float) -> tuple[float, float]:
    """How far below and above its average the weighted label residual E[w (Y - f)] may lie because of an outcome that
    no labelled row shows: such a one has a chance of at most -log(1 - confidence) / k under P0, k clusters, and at most
    the weight of the heaviest such share of the logged rows (all of them, labelled or not): the rule of three with
    weights."""
    k, w = prep.logged.clusters(prep.weighted_labels), prep.counted_weight
    if k == 0:
        return 1.0, 1.0
    size = max(1, int(np.ceil(min(1.0, -np.log(1 - confidence) / k) * len(w))))
    with np.errstate(over="ignore", invalid="ignore"):
        heavy = float(np.partition(w, len(w) - size)[len(w) - size :].sum()) / len(w)
    f = prep.reward_oof[prep.weighted_labels]
    return min(1.0, heavy * float(f.max())), min(1.0, heavy * float(1 - f.min()))


def success_interval(rows: Rows, confidence: float) -> tuple[float, float] | None:
    """Exact interval (Clopper & Pearson 1934) of the mean of 0/1 labels, where they are at random and one to a cluster;
    else None."""
    has = rows.labelled > 0
    label = rows.label[has]
    if not len(label) or rows.labelling.kind != "random" or not np.isin(label, (0.0, 1.0)).all():
        return None
    if rows.share is not None or rows.clusters(has) < len(label):
        return None
    k, hits, tail = len(label), float(label.sum()), (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(special.betaincinv(hits, k - hits + 1, tail))
    return low, 1.0 if hits == k else float(special.betaincinv(hits + 1, k - hits, 1 - tail))


def residual_score(prep: Prepared) -> Score:
    """Mean of Y - f(S') over the labelled draws of the target, f out of fold."""
    rows, weight = prep.fresh, prep.fresh.label_weight
    residual = rows.labelled * (rows.label_or_zero - prep.fresh_oof)
    return Score((Term("fresh", weight * residual, weight, {"f": -weight}),)).by_prompt(prep)


#: Labels in a tail of scores that are none to speak of.
_FEW_IN_TAIL = 3


def extrapolation(prep: Prepared, sample: str) -> tuple[float, float]:
    """How far below and above its estimate the value may lie because labels of `sample`, not at random, hardly reach
    the ends of the policy's scores or the rows of the smallest chances. Beyond the ends the outcome is between 0 and f
    below, between f and 1 above; of rows that hardly had a chance it may be either."""
    rows = prep.sample(sample)
    if rows.labelling.at_random:
        return 0.0, 0.0
    scores = np.sort(rows.judge[rows.labelled > 0])
    few = min(_FEW_IN_TAIL, len(scores)) - 1
    drawn, f = (prep.fresh, prep.fresh_oof) if len(prep.fresh) else (prep.logged, prep.reward_oof)
    below, above = drawn.judge < scores[few], drawn.judge > scores[-1 - few]
    rarely = _hardly_labelled(rows) if rows.labelling.kind == "declared" else np.zeros(len(rows))
    if drawn is rows:
        return float((np.maximum(below, rarely) * f).mean()), float((np.maximum(above, rarely) * (1 - f)).mean())
    low, high = _of_residuals(prep, min(1.0, float((np.exp(np.minimum(prep.log_weight, 700)) * rarely).mean())))
    return float((below * f).mean()) + low, float((above * (1 - f)).mean()) + high


def _hardly_labelled(rows: Rows) -> np.ndarray:
    """1.0 for rows (rows,) whose declared chance of a label is less than half of that of all but a few labelled ones.
    Where chances are known of labelled rows only, for all alike the share by which they fall short of standing for all
    rows, beyond chance."""
    has, chance = rows.labelled > 0, rows.label_propensity
    if np.isnan(chance).any():
        stand_for = (1 / chance[has]).sum()
        error = np.sqrt(((1 - chance[has]) / chance[has] ** 2).sum())
        return np.full(len(rows), max(0.0, 1 - (stand_for + 2 * error) / len(rows)))
    labelled = np.sort(chance[has])
    return np.asarray((chance < labelled[min(_FEW_IN_TAIL, len(labelled)) - 1] / 2).astype(np.float64))


def _stretched(interval: Interval, *by: tuple[float, float]) -> Interval:
    """The interval with all of `by` below and above added."""
    below, above = (sum(side) for side in zip(*by, strict=True))
    if below == above == 0:
        return interval
    low, high = max(0.0, interval.low - below), min(1.0, interval.high + above)
    se = interval.se * (high - low) / max(interval.width, 1e-300)
    return replace(interval, low=low, high=high, se=se, bias=(interval.bias[0] + below, interval.bias[1] + above))


def labelled_interval(prep: Prepared, score: Score, confidence: float) -> Interval:
    """Under the belief in labels alone: `score_interval`, or the exact one of 0/1 labels where that is narrower."""
    interval, exact = score_interval(prep, score, confidence), success_interval(prep.fresh, confidence)
    interval = _stretched(interval, extrapolation(prep, "fresh"))
    if exact is None or exact[1] - exact[0] >= interval.width:
        return interval
    low, high = max(0.0, min(exact[0], score.value)), min(1.0, max(exact[1], score.value))
    return Interval(low, high, (exact[1] - exact[0]) / (2 * normal(confidence)), "exact", interval.df)


def _spanning(low: float, high: float, confidence: float, method: str, **more: Any) -> Interval:
    """The interval from `low` to `high`, cut at the ends of the scale; its standard error is what a normal one of that
    width has."""
    low, high = max(0.0, low), min(1.0, high)
    return Interval(low, high, (high - low) / (2 * normal(confidence)), method, **more)


def _weighted(
    bounds: tuple[float, float],
    extra: float,
    value: float,
    unseen: tuple[float, float],
    radii: list[tuple[float, float]],
    confidence: float,
) -> Interval:
    """EL `bounds` widened by the variance `extra` in quadrature, and never inside of `value` with what the log does not
    show, `unseen` below and above it, and any of `radii`."""
    middle, half = sum(bounds) / 2, (bounds[1] - bounds[0]) / 2
    reach = float(np.hypot(half, normal(confidence) * np.sqrt(extra))) if np.isfinite(extra) else 1.0
    low, high = middle - reach, middle + reach
    if np.isfinite(value):
        low = min([low, *(value - unseen[0] - down for down, _ in radii)])
        high = max([high, *(value + unseen[1] + up for _, up in radii)])
    return _spanning(low, high, confidence, EMPIRICAL_LIKELIHOOD, bias=unseen)


def _unseen_mass(prep: Prepared) -> float:
    """1 - min(1, E[w]), E[w] the mean over prompts; 1 where the mean is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(prep.by_cluster(prep.counted_weight).mean()) if prep.n_weighted else 0.0
    return 1 - min(1.0, mean) if np.isfinite(mean) else 1.0


def el_score_interval(prep: Prepared, confidence: float = 0.95) -> Interval:
    """Under the belief in weights, the EL interval of a policy: the same for every estimator that only re-weights
    logged rows.

    Where logged labels trained f, the outcome of a row is f(S) plus its label residual divided by the labelled share,
    so the interval is for the policy value even when f does not carry over. Calibration variance is added in
    quadrature. Never narrower than the interval of the unweighted mean of f(S), for on one or two rows empirical
    likelihood, which holds for many, would have nothing left to vary; nor than an unseen label allows: both beyond
    what unseen mass leaves open.
    """
    reward, base = prep.reward, prep.once("snips", ESTIMATORS["snips"].score)
    radii = [bounded_mean_radii(prep.by_cluster(prep.reward[prep.counted]), 0.0, 1.0, confidence)]
    if prep.source == "logged":
        reward = prep.reward_oof + _spread_residual(prep)
        radii.append(unseen_label_radii(prep, confidence))
        radii += _success_radii(prep, confidence)
    bounds = el_interval(prep.counted_log_weight, reward[prep.counted], confidence, by_cluster=prep.by_cluster)
    extra, shift = calibration_variance(prep, base) + judge_variance(prep, base), base.shift
    if prep.source == "fresh":
        # The target's own labels trained f: what f leaves out is their residual.
        residual = residual_score(prep)
        radii.append(label_radii(prep, "fresh", confidence))
        extra, shift = extra + variance_of(prep, residual)[0], residual.value
        bounds = bounds[0] + shift, bounds[1] + shift
    share, value = _unseen_mass(prep), base.value + shift
    unseen = share * min(max(value, 0.0), 1.0), share * (1 - min(max(value, 0.0), 1.0))
    interval = _weighted(bounds, extra, value, unseen, radii, confidence)
    if prep.source is None:
        return interval
    left_open = [extrapolation(prep, prep.source)]
    left_open += [_unlabelled(prep, confidence) if prep.source == "logged" else _unscored(prep)]
    return _stretched(interval, *left_open)


def _success_radii(prep: Prepared, confidence: float) -> list[tuple[float, float]]:
    """Those of `success_interval` of the logged labels where the value is their mean: all weights 1, f the same
    everywhere. There empirical likelihood of 0/1 outcomes covers .93 to .95."""
    exact = success_interval(prep.logged, confidence)
    equal = np.abs(prep.counted_log_weight).max(initial=0.0) < NOISE and np.ptp(prep.reward) < NOISE
    if exact is None or not equal:
        return []
    mean = float(np.nanmean(prep.logged.label))
    return [(mean - exact[0], exact[1] - mean)]


def _spread_residual(prep: Prepared) -> np.ndarray:
    """The label residual of the labelled counted rows over their share of the counted rows, 0 elsewhere."""
    has = prep.logged.label_weight * prep.counted
    share = has.sum() / max(prep.counted.sum(), 1)
    return has * prep.label_residual / share if share > 0 else np.zeros(len(has))


def _unlabelled(prep: Prepared, confidence: float) -> tuple[float, float]:
    """How far below and above its estimate the value may lie because the mean weight of the labelled logged rows falls
    short of that of all of them, beyond chance: no label says what that part of the target is worth, though the log
    shows it."""
    has = prep.logged.labelled * prep.counted > 0
    if has.sum() < 2 or not np.isfinite(prep.counted_weight).all():
        return 0.0, 0.0
    chance = prep.logged.label_weight[has]
    w = prep.logged.by_cluster(chance / chance.mean() * np.exp(prep.log_weight[has]), has)
    error = float(w.std(ddof=1) / np.sqrt(len(w))) if len(w) > 1 else float("inf")
    short = float(prep.by_cluster(prep.counted_weight).mean() - w.mean()) - normal(confidence) * error
    return _of_residuals(prep, max(0.0, short))


def _unscored(prep: Prepared) -> tuple[float, float]:
    """How far below and above its estimate the value may lie where f on the draws meets f on logged rows, because the
    judge gave some no score, and need not have failed on both for the same reason."""
    logged, fresh = 1 - prep.logged.scored[prep.counted], 1 - prep.fresh.scored
    if not (logged.any() or fresh.any()):
        return 0.0, 0.0
    f = np.concatenate([prep.fresh_oof, prep.reward_oof[prep.counted]])
    share = min(1.0, float(prep.by_cluster(prep.counted_weight * logged).mean() + prep.fresh.by_cluster(fresh).mean()))
    return (share * float(np.ptp(f)),) * 2


def _residual_ends(prep: Prepared) -> tuple[float, float]:
    """Between which Y - f(S) lies on any row."""
    f = np.concatenate([prep.fresh_oof, prep.reward_oof[prep.weighted]])
    return -float(f.max()), 1 - float(f.min())


def _of_residuals(prep: Prepared, share: float) -> tuple[float, float]:
    """How far below and above its estimate the value may lie because Y - f(S) is unknown on a share of the target."""
    low, high = _residual_ends(prep)
    return -share * low, share * high


def weighted_residual_limits(prep: Prepared, confidence: float) -> tuple[float, float, float]:
    """Mean of Y - f(S) under the target by the weights of the labelled logged rows, and its EL limits; what the log
    does not show may be anything within [-max f, 1 - min f]."""

    def make(p: Prepared) -> tuple[float, float, float]:
        residual, ends = _spread_residual(p)[p.counted], _residual_ends(p)
        low, high = el_interval(p.counted_log_weight, residual, confidence, by_cluster=p.by_cluster, ends=ends)
        with np.errstate(over="ignore", invalid="ignore"):
            return float(p.by_cluster(p.counted_weight * residual).mean()), low, high

    return prep.once(("weighted residual", confidence), make)


def el_residual_interval(prep: Prepared, score: Score, confidence: float = 0.95) -> Interval:
    """Under the belief in weights, the interval of a mean of f(S') plus a weighted label residual (`dr_oracle`).

    EL on the residual; what the fresh draws and the training of f add to its variance in quadrature (with the
    covariance of prompts that both share).
    """
    _, low, high = weighted_residual_limits(prep, confidence)
    logged, fresh = (Score(tuple(t for t in score.terms if t.sample == name)) for name in ("logged", "fresh"))
    sampling, cal, _ = variance_of(prep, score)
    extra = max(sampling - variance_of(prep, logged)[0], variance_of(prep, fresh)[0]) + cal
    bounds = low + fresh.value, high + fresh.value
    unseen = _of_residuals(prep, _unseen_mass(prep))
    interval = _weighted(bounds, extra, score.value, unseen, [unseen_label_radii(prep, confidence)], confidence)
    return _stretched(interval, extrapolation(prep, "logged"), _unlabelled(prep, confidence), _unscored(prep))


#: Methods of intervals by what may be left open under the belief in the judge: limits of labels, or a stated budget.
BY_LABELS, ASSUMED = "labels_limit_bias", "bias_assumed"


@dataclass(frozen=True)
class Reach:
    """What the belief in the judge leaves open for a policy: `low`, `high` how far Y - f(S) may be from zero on average
    there, and `unseen`, the share of the policy the log may not show, of which nothing is believed. `labels`: the
    limits are those of labels, at half the level."""

    low: float
    high: float
    unseen: float = 0.0
    labels: bool = False


def transported_interval(prep: Prepared, score: Score, reaches: Iterable[Reach], confidence: float) -> Interval:
    """Under the belief that the judge transports: the interval of the score, widened by what may be left open, the
    narrowest of `reaches` (bias-aware, Armstrong & Kolesar 2018; a limit that is itself uncertain takes half of the
    level)."""
    f = prep.fresh_oof if len(prep.fresh) else prep.reward_oof
    top, bottom = float(f.max()), float(f.min())
    intervals = []
    for reach in reaches:
        base = score_interval(prep, score, (1 + confidence) / 2 if reach.labels else confidence)
        below = reach.unseen * top - min(reach.low, 0.0)
        above = reach.unseen * (1 - bottom) + max(reach.high, 0.0)
        low, high, bias = base.low - below, base.high + above, (below, above)
        method = BY_LABELS if reach.labels else ASSUMED
        intervals.append(_spanning(low, high, confidence, method, df=base.df, bias=bias))
    return min(intervals, key=lambda i: i.width)
