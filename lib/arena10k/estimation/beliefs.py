"""The interval that carries what each belief leaves open: labels alone, right weights, or a judge that transports."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from arena10k.estimation.data import Rows
from arena10k.estimation.intervals import (
    EMPIRICAL_LIKELIHOOD,
    ByConfidence,
    Interval,
    Sides,
    bounded_mean_radii,
    el_interval,
    label_radii,
    normal,
    score_interval,
    standard_error,
    student,
    variance_of,
)
from arena10k.estimation.prepare import Prepared, shared
from arena10k.estimation.score import ESTIMATORS, Score, Term, calibration_variance, deviations, judge_variance
from arena10k.estimation.thresholds import NOISE

#: Labels in a tail of scores that are none to speak of.
_FEW_IN_TAIL = 3
#: Methods of intervals by what may be left open under the belief in the judge: limits of labels, or a stated budget.
BY_LABELS, ASSUMED = "labels_limit_bias", "bias_assumed"


@shared
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
    if not len(label) or rows.labelling.kind != "random" or not ((label == 0) | (label == 1)).all():
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
    radius = math.hypot(half, normal(confidence) * math.sqrt(extra)) if math.isfinite(extra) else 1.0
    low, high = middle - radius, middle + radius
    unseen, *more = left_open
    if math.isfinite(value):
        low = min([low, *(value - unseen[0] - down for down, _ in radii)])
        high = max([high, *(value + unseen[1] + up for _, up in radii)])
    below, above = (sum(side) for side in zip((0.0, 0.0), *more, strict=True))
    bias = (unseen[0] + below, unseen[1] + above)
    return _spanning(low - below, high + above, confidence, EMPIRICAL_LIKELIHOOD, bias=bias)


@shared
def _mean_weight(prep: Prepared) -> float:
    """E[w], the mean over prompts; 0 without weights."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(prep.by_cluster(prep.counted_weight).mean()) if prep.n_weighted else 0.0


def _unseen_mass(prep: Prepared) -> float:
    """1 - min(1, E[w]); 1 where the mean is not finite."""
    mean = _mean_weight(prep)
    return 1 - min(1.0, mean) if math.isfinite(mean) else 1.0


def el_score_interval(prep: Prepared, confidence: float = 0.95) -> Interval:
    """Under the belief in weights, the EL interval of a policy: the same for every estimator that only re-weights
    logged rows.

    Where logged labels trained f, the outcome of a row is f(S) plus its label residual divided by the labelled share,
    so the interval is for the policy value even when f does not carry over. Calibration variance is added in
    quadrature. Never narrower than the interval of the unweighted mean of f(S), for on one or two rows empirical
    likelihood, which holds for many, would have nothing left to vary; nor than an unseen label allows: both beyond
    what unseen mass leaves open.
    """
    reward, base = prep.reward, ESTIMATORS["snips"].score(prep)
    radii = [bounded_mean_radii(prep.by_cluster(prep.reward[prep.counted]), 0.0, 1.0)(confidence)]
    if prep.source == "logged":
        reward = prep.reward_oof + _spread_residual(prep)
        radii.append(unseen_label_radii(prep, confidence))
        equal = np.abs(prep.counted_log_weight).max(initial=0.0) < NOISE and np.ptp(prep.reward) < NOISE
        if equal and (exact := success_interval(prep.logged, confidence)) is not None:
            # The value is the mean label, and empirical likelihood of 0/1 outcomes covers .93 to .95.
            mean = float(np.nanmean(prep.logged.label))
            radii.append((mean - exact[0], exact[1] - mean))
    low, high = el_interval(prep.counted_log_weight, reward[prep.counted], by_cluster=prep.by_cluster)(confidence)
    extra, centre = calibration_variance(prep, base) + judge_variance(prep, base), base.centre
    if prep.source == "fresh":
        # The target's own labels trained f: what f leaves out is their residual.
        residual = residual_score(prep)
        radii.append(label_radii(prep, "fresh")(confidence))
        extra, centre = extra + variance_of(prep, residual)[0], base.value + residual.value
        low, high = low + residual.value, high + residual.value
    share, inside = _unseen_mass(prep), min(max(centre, 0.0), 1.0)
    left_open = [(share * inside, share * (1 - inside))]
    if prep.source is not None:
        more = _unlabelled(prep, confidence) if prep.source == "logged" else _unscored(prep)
        left_open += [extrapolation(prep, prep.source), more]
    return _weighted((low, high), extra, centre, radii, left_open, confidence)


@shared
def _spread_residual(prep: Prepared) -> np.ndarray:
    """The label residual of the labelled counted rows over their share of the counted rows, 0 elsewhere."""
    has = prep.logged.label_weight * prep.counted
    share = has.sum() / max(prep.counted.sum(), 1)
    return has * prep.label_residual / share if share > 0 else np.zeros(len(has))


@shared
def _unlabelled(prep: Prepared, confidence: float) -> Sides:
    """Bias left open because the mean weight of the labelled logged rows falls short of that of all of them, beyond
    chance: no label says what that part of the target is worth, though the log shows it."""
    has = prep.logged.labelled * prep.counted > 0
    if has.sum() < 2 or not np.isfinite(prep.counted_weight).all():
        return 0.0, 0.0
    inverse_chance = prep.logged.label_weight[has]
    w = prep.logged.by_cluster(inverse_chance / inverse_chance.mean() * np.exp(prep.log_weight[has]), has)
    apart = w - (mean := float(w.mean()))
    error = math.sqrt(apart @ apart / (len(w) - 1) / len(w)) if len(w) > 1 else float("inf")
    short = _mean_weight(prep) - mean - normal(confidence) * error
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
    if share == 0:
        return 0.0, 0.0
    f = np.concatenate([prep.fresh_oof, prep.reward_oof[prep.weighted]])
    return share * float(f.max()), share * (1 - float(f.min()))


@shared
def weighted_residual(prep: Prepared) -> tuple[float, ByConfidence]:
    """Mean of Y - f(S) under the target by the weights of the labelled logged rows, and its EL limits; what the log
    does not show may be anything within [-max f, 1 - min f]."""
    residual, (below, above) = _spread_residual(prep)[prep.counted], _of_residuals(prep, 1.0)
    limits = el_interval(prep.counted_log_weight, residual, by_cluster=prep.by_cluster, ends=(-below, above))
    with np.errstate(over="ignore", invalid="ignore"):
        return float(prep.by_cluster(prep.counted_weight * residual).mean()), limits


def el_residual_interval(prep: Prepared, score: Score, confidence: float = 0.95) -> Interval:
    """Under the belief in weights, the interval of a mean of f(S') plus a weighted label residual (`dr_oracle`): EL on
    the residual; what the fresh draws and the training of f add to its variance in quadrature (with the covariance of
    prompts that both share)."""
    low, high = weighted_residual(prep)[1](confidence)
    logged, fresh = (Score(tuple(t for t in score.terms if t.sample == name)) for name in ("logged", "fresh"))
    own, drawn = deviations(prep, logged)[0], deviations(prep, fresh)[0]
    both = own + drawn
    extra = max(float(both @ both) - float(own @ own), float(drawn @ drawn))
    extra += judge_variance(prep, fresh) + calibration_variance(prep, score)
    left_open = [_of_residuals(prep, _unseen_mass(prep)), extrapolation(prep, "logged")]
    left_open += [_unlabelled(prep, confidence), _unscored(prep)]
    bounds, radii = (low + fresh.value, high + fresh.value), [unseen_label_radii(prep, confidence)]
    return _weighted(bounds, extra, score.value, radii, left_open, confidence)


@dataclass(frozen=True)
class BiasLimits:
    """What the belief in the judge leaves open for a policy, below and above its value. `labels`: the limits are those
    of labels, at half the level."""

    below: float
    above: float
    labels: bool = False


def transported_interval(prep: Prepared, score: Score, limits: Iterable[BiasLimits], confidence: float) -> Interval:
    """Under the belief that the judge transports: the interval of the score, widened by what may be left open, the
    narrowest of `limits` (bias-aware, Armstrong & Kolesar 2018; a limit that is itself uncertain takes half of the
    level)."""
    intervals = []
    for limit in limits:
        base = score_interval(prep, score, (1 + confidence) / 2 if limit.labels else confidence)
        low, high, method = base.low - limit.below, base.high + limit.above, BY_LABELS if limit.labels else ASSUMED
        bias = limit.below, limit.above
        intervals.append(_spanning(low, high, confidence, method, df=base.df, bias=bias))
    return min(intervals, key=lambda i: i.width)


def residual_score(prep: Prepared) -> Score:
    """Mean of Y - f(S') over the labelled draws of the target, f out of fold."""
    rows, weight = prep.fresh, prep.fresh.label_weight
    residual = rows.labelled * (rows.label_or_zero - prep.fresh_oof)
    return Score((Term("fresh", weight * residual, weight, {"f": -weight}),)).by_prompt(prep)


@shared
def label_residual(prep: Prepared) -> tuple[float, ByConfidence]:
    """Mean of Y - f(S') over the target's labelled draws, and its limits: clustered jackknife with what training f
    adds, t quantile, never narrower than a bounded mean."""
    score = residual_score(prep)
    value, (se, df), radii = score.value, standard_error(prep, score), label_radii(prep, "fresh")
    below, above = extrapolation(prep, "fresh")

    def limits(confidence: float) -> Sides:
        half, (down, up) = student(confidence, df) * se, radii(confidence)
        return value - max(half, down) - below, value + max(half, up) + above

    return value, limits


@shared
def label_clusters(prep: Prepared) -> int:
    """How many independent labels the target's draws have; where their chances differ, Kish's size of them."""
    has = prep.fresh.labelled > 0
    n = prep.fresh.clusters(has)
    weight = prep.fresh.label_weight[has]
    return n if prep.fresh.labelling.at_random else min(n, int(weight.sum() ** 2 / (weight @ weight)))
