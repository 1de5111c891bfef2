"""The interval that carries what each belief leaves open: labels alone, right weights, or a judge that transports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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
    standard_error,
    student,
    variance_of,
)
from arena10k.estimation.prepare import Prepared
from arena10k.estimation.score import ESTIMATORS, Score, Term, calibration_variance, judge_variance
from arena10k.estimation.thresholds import NOISE

#: How far below and above its estimate a value may lie.
Sides = tuple[float, float]
#: Labels in a tail of scores that are none to speak of.
_FEW_IN_TAIL = 3
#: Methods of intervals by what may be left open under the belief in the judge: limits of labels, or a stated budget.
BY_LABELS, ASSUMED = "labels_limit_bias", "bias_assumed"


def unseen_label_radii(prep: Prepared, confidence: float) -> Sides:
    """Radii of the weighted label residual E[w (Y - f)] because of an outcome that no labelled row shows: such a one
    has a chance of at most -log(1 - confidence) / k under P0, k clusters, and at most the weight of the heaviest such
    share of the logged rows (all of them, labelled or not): the rule of three with weights."""
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


def extrapolation(prep: Prepared, sample: str) -> Sides:
    """Bias left open because labels of `sample`, not at random, hardly reach the ends of the policy's scores or the
    rows of the smallest chances. Beyond the ends the outcome is between 0 and f below, between f and 1 above; of rows
    that hardly had a chance it may be either."""
    rows = prep.sample(sample)
    if rows.labelling.at_random:
        return 0.0, 0.0
    has = rows.labelled > 0
    scores = np.sort(rows.judge[has])
    few = min(_FEW_IN_TAIL, len(scores)) - 1
    drawn, f = (prep.fresh, prep.fresh_oof) if len(prep.fresh) else (prep.logged, prep.reward_oof)
    below, above = drawn.judge < scores[few], drawn.judge > scores[-1 - few]
    rarely, chance = np.zeros(len(rows)), rows.label_propensity
    if rows.labelling.kind == "declared" and np.isnan(chance).any():
        # Chances are known of labelled rows only: the share by which these fall short of all rows, beyond chance.
        error = np.sqrt(((1 - chance[has]) / chance[has] ** 2).sum())
        rarely += max(0.0, 1 - ((1 / chance[has]).sum() + 2 * error) / len(rows))
    elif rows.labelling.kind == "declared":
        # A chance of less than half of that of all but a few labelled rows.
        rarely += chance < np.sort(chance[has])[few] / 2
    if drawn is rows:
        return float((np.maximum(below, rarely) * f).mean()), float((np.maximum(above, rarely) * (1 - f)).mean())
    low, high = _of_residuals(prep, min(1.0, float((np.exp(np.minimum(prep.log_weight, 700)) * rarely).mean())))
    return float((below * f).mean()) + low, float((above * (1 - f)).mean()) + high


def labelled_interval(prep: Prepared, score: Score, confidence: float) -> Interval:
    """Under the belief in labels alone: `score_interval`, or the exact one of 0/1 labels where that is narrower."""
    base, exact = score_interval(prep, score, confidence), success_interval(prep.fresh, confidence)
    below, above = bias = extrapolation(prep, "fresh")
    low, high = max(0.0, base.low - below), min(1.0, base.high + above)
    if exact is not None and exact[1] - exact[0] < high - low:
        low, high = max(0.0, min(exact[0], score.value)), min(1.0, max(exact[1], score.value))
        return Interval(low, high, (exact[1] - exact[0]) / (2 * normal(confidence)), "exact", base.df)
    se = base.se * (high - low) / max(base.width, 1e-300) if below + above > 0 else base.se
    return Interval(low, high, se, base.method, base.df, bias)


def _spanning(low: float, high: float, confidence: float, method: str, **more: Any) -> Interval:
    """The interval from `low` to `high`, cut at the ends of the scale; its standard error is what a normal one of that
    width has."""
    low, high = max(0.0, low), min(1.0, high)
    return Interval(low, high, (high - low) / (2 * normal(confidence)), method, **more)


def _weighted(
    bounds: Sides, extra: float, value: float, radii: list[Sides], left_open: list[Sides], confidence: float
) -> Interval:
    """EL `bounds` widened by the variance `extra` in quadrature, and by what is `left_open`, of which the first, what
    the log does not show, is inside of EL's: there the interval is never inside of `value` with that and any of
    `radii`."""
    middle, half = sum(bounds) / 2, (bounds[1] - bounds[0]) / 2
    radius = float(np.hypot(half, normal(confidence) * np.sqrt(extra))) if np.isfinite(extra) else 1.0
    low, high = middle - radius, middle + radius
    unseen, *more = left_open
    if np.isfinite(value):
        low = min([low, *(value - unseen[0] - down for down, _ in radii)])
        high = max([high, *(value + unseen[1] + up for _, up in radii)])
    below, above = (sum(side) for side in zip((0.0, 0.0), *more, strict=True))
    bias = (unseen[0] + below, unseen[1] + above)
    return _spanning(low - below, high + above, confidence, EMPIRICAL_LIKELIHOOD, bias=bias)


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
        exact = success_interval(prep.logged, confidence)
        equal = np.abs(prep.counted_log_weight).max(initial=0.0) < NOISE and np.ptp(prep.reward) < NOISE
        if exact is not None and equal:
            # The value is the mean label, and empirical likelihood of 0/1 outcomes covers .93 to .95.
            mean = float(np.nanmean(prep.logged.label))
            radii.append((mean - exact[0], exact[1] - mean))
    low, high = el_interval(prep.counted_log_weight, reward[prep.counted], confidence, by_cluster=prep.by_cluster)
    extra, centre = calibration_variance(prep, base) + judge_variance(prep, base), base.centre
    if prep.source == "fresh":
        # The target's own labels trained f: what f leaves out is their residual.
        residual = residual_score(prep)
        radii.append(label_radii(prep, "fresh", confidence))
        extra, centre = extra + variance_of(prep, residual)[0], base.value + residual.value
        low, high = low + residual.value, high + residual.value
    share, inside = _unseen_mass(prep), min(max(centre, 0.0), 1.0)
    left_open = [(share * inside, share * (1 - inside))]
    if prep.source is not None:
        more = _unlabelled(prep, confidence) if prep.source == "logged" else _unscored(prep)
        left_open += [extrapolation(prep, prep.source), more]
    return _weighted((low, high), extra, centre, radii, left_open, confidence)


def _spread_residual(prep: Prepared) -> np.ndarray:
    """The label residual of the labelled counted rows over their share of the counted rows, 0 elsewhere."""
    has = prep.logged.label_weight * prep.counted
    share = has.sum() / max(prep.counted.sum(), 1)
    return has * prep.label_residual / share if share > 0 else np.zeros(len(has))


def _unlabelled(prep: Prepared, confidence: float) -> Sides:
    """Bias left open because the mean weight of the labelled logged rows falls short of that of all of them, beyond
    chance: no label says what that part of the target is worth, though the log shows it."""
    has = prep.logged.labelled * prep.counted > 0
    if has.sum() < 2 or not np.isfinite(prep.counted_weight).all():
        return 0.0, 0.0
    inverse_chance = prep.logged.label_weight[has]
    w = prep.logged.by_cluster(inverse_chance / inverse_chance.mean() * np.exp(prep.log_weight[has]), has)
    error = float(w.std(ddof=1) / np.sqrt(len(w))) if len(w) > 1 else float("inf")
    short = float(prep.by_cluster(prep.counted_weight).mean() - w.mean()) - normal(confidence) * error
    return _of_residuals(prep, max(0.0, short))


def _unscored(prep: Prepared) -> Sides:
    """Reach of the value where f on the draws meets f on logged rows, because the judge gave some no score, and need
    not have failed on both for the same reason."""
    logged, fresh = 1 - prep.logged.has_score[prep.counted], 1 - prep.fresh.has_score
    if not prep.n_weighted or not (logged.any() or fresh.any()):
        return 0.0, 0.0
    f = np.concatenate([prep.fresh_oof, prep.reward_oof[prep.counted]])
    share = min(1.0, float(prep.by_cluster(prep.counted_weight * logged).mean() + prep.fresh.by_cluster(fresh).mean()))
    return (share * float(np.ptp(f)),) * 2


def _of_residuals(prep: Prepared, share: float) -> Sides:
    """Bias that is left open because Y - f(S), in [-max f, 1 - min f], is unknown on a share of the target."""
    f = np.concatenate([prep.fresh_oof, prep.reward_oof[prep.weighted]])
    return share * float(f.max()), share * (1 - float(f.min()))


def weighted_residual_limits(prep: Prepared, confidence: float) -> tuple[float, float, float]:
    """Mean of Y - f(S) under the target by the weights of the labelled logged rows, and its EL limits; what the log
    does not show may be anything within [-max f, 1 - min f]."""

    def make(p: Prepared) -> tuple[float, float, float]:
        residual, (below, above) = _spread_residual(p)[p.counted], _of_residuals(p, 1.0)
        w, ends = p.counted_log_weight, (-below, above)
        low, high = el_interval(w, residual, confidence, by_cluster=p.by_cluster, ends=ends)
        with np.errstate(over="ignore", invalid="ignore"):
            return float(p.by_cluster(p.counted_weight * residual).mean()), low, high

    return prep.once(("weighted residual", confidence), make)


def el_residual_interval(prep: Prepared, score: Score, confidence: float = 0.95) -> Interval:
    """Under the belief in weights, the interval of a mean of f(S') plus a weighted label residual (`dr_oracle`): EL on
    the residual; what the fresh draws and the training of f add to its variance in quadrature (with the covariance of
    prompts that both share)."""
    _, low, high = weighted_residual_limits(prep, confidence)
    logged, fresh = (Score(tuple(t for t in score.terms if t.sample == name)) for name in ("logged", "fresh"))
    sampling, cal, _ = variance_of(prep, score)
    extra = max(sampling - variance_of(prep, logged)[0], variance_of(prep, fresh)[0]) + cal
    left_open = [_of_residuals(prep, _unseen_mass(prep)), extrapolation(prep, "logged")]
    left_open += [_unlabelled(prep, confidence), _unscored(prep)]
    bounds, radii = (low + fresh.value, high + fresh.value), [unseen_label_radii(prep, confidence)]
    return _weighted(bounds, extra, score.value, radii, left_open, confidence)


@dataclass(frozen=True)
class BiasLimits:
    """What the belief in the judge leaves open for a policy: `low`, `high` how far Y - f(S) may be from zero on average
    there, and `unseen`, the share of the policy the log may not show, of which nothing is believed. `labels`: the
    limits are those of labels, at half the level."""

    low: float
    high: float
    unseen: float = 0.0
    labels: bool = False


def transported_interval(prep: Prepared, score: Score, limits: Iterable[BiasLimits], confidence: float) -> Interval:
    """Under the belief that the judge transports: the interval of the score, widened by what may be left open, the
    narrowest of `limits` (bias-aware, Armstrong & Kolesar 2018; a limit that is itself uncertain takes half of the
    level)."""
    f = prep.fresh_oof if len(prep.fresh) else prep.reward_oof
    intervals = []
    for limit in limits:
        base = score_interval(prep, score, (1 + confidence) / 2 if limit.labels else confidence)
        below = limit.unseen * float(f.max()) - min(limit.low, 0.0)
        above = limit.unseen * (1 - float(f.min())) + max(limit.high, 0.0)
        low, high, method = base.low - below, base.high + above, BY_LABELS if limit.labels else ASSUMED
        intervals.append(_spanning(low, high, confidence, method, df=base.df, bias=(below, above)))
    return min(intervals, key=lambda i: i.width)


def residual_score(prep: Prepared) -> Score:
    """Mean of Y - f(S') over the labelled draws of the target, f out of fold."""
    rows, weight = prep.fresh, prep.fresh.label_weight
    residual = rows.labelled * (rows.label_or_zero - prep.fresh_oof)
    return Score((Term("fresh", weight * residual, weight, {"f": -weight}),)).by_prompt(prep)


def residual_limits(prep: Prepared, confidence: float) -> tuple[float, float, float]:
    """Mean of Y - f(S') over the target's labelled draws, and its limits: clustered jackknife with what training f
    adds, t quantile, never narrower than a bounded mean."""

    def make(p: Prepared) -> tuple[float, float, float]:
        score = residual_score(p)
        return score.value, *standard_error(p, score)

    value, se, df = prep.once("residual", make)
    half = student(confidence, df) * se
    (down, up), (below, above) = label_radii(prep, "fresh", confidence), extrapolation(prep, "fresh")
    return value, value - max(half, down) - below, value + max(half, up) + above


def label_clusters(prep: Prepared) -> int:
    """How many independent labels the target's draws have; where their chances differ, Kish's size of them."""
    has = prep.fresh.labelled > 0
    n = prep.fresh.clusters(has)
    weight = prep.fresh.label_weight[has]
    return n if prep.fresh.labelling.at_random else min(n, int(weight.sum() ** 2 / (weight @ weight)))
