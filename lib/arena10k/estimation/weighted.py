"""Estimators that re-weight the logged rows by w = exp(log_weight)."""

from __future__ import annotations

import numpy as np

from arena10k.estimation import pareto
from arena10k.estimation.calibration import pava
from arena10k.estimation.prepare import Prepared
from arena10k.estimation.score import Score, Term, register


def label_correction(prep: Prepared, weight: np.ndarray, normaliser: np.ndarray) -> tuple[Term, ...]:
    """Weighted mean residual Y - f(S) of the labelled logged rows: what f(S) leaves out of the outcome under the
    target.

    With correct weights its expectation is the bias of f on the target, so an interval that carries it covers the
    policy value for any judge. `weight` and `normaliser` are 0 on rows without a label. Empty when f was not trained on
    logged labels.
    """
    if prep.source != "logged" or not weight.any():
        return ()
    return (Term("logged", weight * prep.label_residual, normaliser, {"f": -weight}),)


def ratio_score(prep: Prepared, weight: np.ndarray) -> Score:
    """sum(w R) / sum(w): psi = n w (R - theta) / sum(w)."""
    labelled = weight * prep.logged.label_weight
    return Score(
        (Term("logged", weight * prep.reward, weight, {"f": weight}),), label_correction(prep, labelled, labelled)
    )


@register("ips", uses_weights=True)
def ips(prep: Prepared) -> Score:
    """mean(w R), on the true scale of the weights: not normalised, may be infinite."""
    w = prep.weight
    has = prep.has_weight * prep.logged.label_weight
    return Score(
        (Term("logged", w * prep.reward, prep.unit(prep.has_weight), {"f": w}),),
        label_correction(prep, w * has, prep.unit(has)),
    )


@register("snips", uses_weights=True)
def snips(prep: Prepared) -> Score:
    """sum(w R) / sum(w), Swaminathan & Joachims 2015."""
    return ratio_score(prep, prep.weight)


@register("psis", uses_weights=True)
def psis(prep: Prepared) -> Score:
    """Self-normalised with Pareto-smoothed weights, Vehtari et al. 2024."""
    weight = np.zeros(len(prep.logged))
    weight[prep.weighted] = pareto.smooth(prep.raw_log_weight)
    return ratio_score(prep, weight)


def _monotone_weights(prep: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """Projections of the weights on increasing and on decreasing functions of S, each with mean one; two (n,)
    arrays."""
    levels, code = prep.levels[0], prep.levels[1]["logged"]
    total = np.bincount(code, weights=prep.weight, minlength=len(levels))
    count = np.bincount(code, weights=prep.has_weight, minlength=len(levels))
    up, down = (pava(levels, total, count, increasing=way).take(code) * prep.has_weight for way in (True, False))
    return up / (up.sum() / prep.n_weighted), down / (down.sum() / prep.n_weighted)


@register("calibrated_ips", uses_weights=True, biased=True)
def calibrated_ips(prep: Prepared) -> Score:
    """SIMCal-W (Calibrated causal judge evaluation, 2025): weights projected to mean one and monotone in S; the mix
    of the increasing and the decreasing projection that minimises the variance of the influence function.

    Its effective sample size measures the projection, not the overlap: verdicts use the raw weights. So does the label
    residual in its interval: weights that are a function of S cannot see what f(S) leaves out.
    """
    if not prep.weight.any():
        return ratio_score(prep, prep.weight)
    up, down = _monotone_weights(prep)
    r = prep.reward
    a, b = (w * (r - (w * r).sum() / w.sum()) for w in (up, down))
    spread = ((a - b) ** 2).sum()
    mix = float(np.clip(-(b * (a - b)).sum() / spread, 0, 1)) if spread > 0 else 0.5
    weight, labelled = mix * up + (1 - mix) * down, prep.weight * prep.logged.label_weight
    return Score(
        (Term("logged", weight * prep.reward, weight, {"f": weight}),), label_correction(prep, labelled, labelled)
    )
