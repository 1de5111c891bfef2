"""Estimators that add a weighted residual of the logged rows to the calibrated mean of the fresh draws.

The weight of a *fresh* response is never known (P0 does not score it), so nothing here needs it: fresh draws enter
through their own judge scores only, and targeting uses the weights as observation weights.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit

from arena10k.estimation.calibration import fit_levels
from arena10k.estimation.prepare import Prepared
from arena10k.estimation.score import ESTIMATORS, Score, Term, deviations, register

_EDGE = 1e-3


def doubly_robust(
    prep: Prepared, outcome: np.ndarray, fresh_outcome: np.ndarray, *, fresh_model: str = "f", **slopes: np.ndarray
) -> Score:
    """mean q(S') + sum w~ (R - q(S)), w~ normalised, for an outcome model q on logged rows and fresh draws.
    `fresh_model` is what q is called among the models; `slopes` are those of the logged term."""
    one = np.ones(len(prep.fresh))
    terms = (
        Term("fresh", fresh_outcome, one, {fresh_model: one}),
        Term("logged", prep.weight * (prep.reward - outcome), prep.weight, slopes),
    )
    return Score(terms)


@register("dr_cpo", belief="judge", uses_weights=True, doubly_robust=True)
def dr_cpo(prep: Prepared) -> Score:
    """mean f(S') + sum w~ (R - f(S)), cross-fitted: R = f(S) trained on all labels, the outcome model without the
    row's fold.

    The two differ only by cross-fitting, so the augmentation is small: with judged fresh draws the published form is
    nearly the direct method. `dr_oracle` is the one that uses label residuals.
    """
    return doubly_robust(prep, prep.reward_oof, prep.fresh_oof)


@register("mrdr", belief="judge", uses_weights=True, doubly_robust=True)
def mrdr(prep: Prepared) -> Score:
    """As dr_cpo with an outcome model trained with weights w^2 (more robust DR, Farajtabar, Chow & Ghavamzadeh
    2018)."""
    weight = prep.weight**2
    if prep.source != "logged" or not (weight * prep.logged.labelled).any():
        return dr_cpo(prep)
    model = fit_levels(prep.samples, "logged", weight, prep.levels)
    outcome, fresh_outcome = model.out_of_fold("logged"), model.out_of_fold("fresh")
    score = doubly_robust(prep, outcome, fresh_outcome, fresh_model="q", f=prep.weight, q=-prep.weight)
    return Score(score.terms, models={"q": model})


def targeting_step(weight: np.ndarray, reward: np.ndarray, outcome: np.ndarray) -> float:
    """epsilon with sum w (R - expit(logit q + epsilon)) = 0: weighted logistic fluctuation, Newton's method.

    `outcome` must lie inside (0, 1). When the rewards of all weighted rows sit at an end, epsilon stops at +-10.
    """
    rows = np.flatnonzero(weight > 0)
    w, r, base, eps = weight[rows], reward[rows], logit(outcome[rows]), 0.0
    for _ in range(25):
        p = expit(base + eps)
        slope = (w * p * (1 - p)).sum()
        step = (w * (r - p)).sum() / slope if slope > 0 else 0.0
        eps = float(np.clip(eps + np.clip(step, -2, 2), -10, 10))
        if abs(step) < 1e-10:
            break
    return eps


def _targeted(prep: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """q* on the logged and on the fresh rows, by way of the calibration's table of folds and levels: q and R live on
    it."""
    fit = prep.fit
    q = np.clip(fit.values[:-1].ravel(), _EDGE, 1 - _EDGE)
    weight = np.bincount(fit.cell("logged"), weights=prep.weight, minlength=len(q))
    table = expit(logit(q) + targeting_step(weight, np.tile(fit.values[-1], fit.n_folds), q))
    return table.take(fit.cell("logged")), table.take(fit.cell("fresh"))


@register("tmle", belief="judge", uses_weights=True, doubly_robust=True)
def tmle(prep: Prepared) -> Score:
    """Targeted maximum likelihood: q shifted on the logit scale until sum w (R - q*) = 0, then averaged over fresh
    draws.

    The weights are observation weights rather than a covariate (van der Laan & Rose 2011, section 9.2): both solve the
    same equation, and the covariate form would need the unknown weight of each fresh response.
    """
    return doubly_robust(prep, *_targeted(prep))


@register("dr_oracle", uses_weights=True, doubly_robust=True, label_residual=True)
def dr_oracle(prep: Prepared) -> Score:
    """mean f(S') + mean over labelled logged rows of w (Y - f(S)), f out of fold, w on its true scale."""
    has = prep.logged.label_weight * prep.has_weight
    weight, one = prep.weight * has, np.ones(len(prep.fresh))
    residual = Term("logged", weight * prep.label_residual, prep.unit(has), {"f": -weight})
    return Score((Term("fresh", prep.fresh_oof, one, {"f": one}), residual))


def stacking_weights(influence: np.ndarray) -> np.ndarray:
    """Convex weights (p,) that minimise the variance of sum_j a_j psi_j, `influence` (p, n); exact over all active
    sets."""
    p, cov = len(influence), influence @ influence.T
    if np.trace(cov) == 0:
        return np.full(p, 1 / p)
    cov = cov / np.trace(cov) + 1e-6 * np.eye(p)
    best, best_value = np.full(p, 1 / p), np.inf
    for mask in range(1, 2**p):
        active = [j for j in range(p) if mask >> j & 1]
        a = np.linalg.solve(cov[np.ix_(active, active)], np.ones(len(active)))
        a = a / a.sum()
        value = a @ cov[np.ix_(active, active)] @ a
        if (a >= 0).all() and value < best_value:
            best, best_value = np.zeros(p), value
            best[active] = a
    return best


@register("stacked_dr", belief="judge", uses_weights=True, doubly_robust=True)
def stacked_dr(prep: Prepared) -> Score:
    """Convex combination of dr_cpo, mrdr and tmle with the smallest influence-function variance."""
    members = {name: prep.once(name, ESTIMATORS[name].score) for name in ("dr_cpo", "mrdr", "tmle")}
    influence = np.vstack([deviations(prep, s, "influence")[0] for s in members.values()])
    if not np.isfinite(influence).all():
        return members["dr_cpo"]
    shares = stacking_weights(influence)
    terms = tuple(t.scaled(a) for a, s in zip(shares, members.values(), strict=True) for t in s.terms if a > 0)
    return Score(terms, models=members["mrdr"].models, per_prompt=True)
