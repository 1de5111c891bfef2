"""The estimators. Those of the logged rows re-weight them by w = exp(log_weight); those of fresh draws average f(S');
doubly robust ones add a weighted residual of the logged rows to that average.

The weight of a *fresh* response is never known (P0 does not score it), so nothing here needs it: fresh draws enter
through their own judge scores only, and targeting uses the weights as observation weights.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls
from scipy.special import expit, logit

from arena10k.estimation import pareto
from arena10k.estimation.calibration import fit_levels, pava
from arena10k.estimation.prepare import Prepared
from arena10k.estimation.score import ESTIMATORS, Score, Term, deviations, register

#: How far outcomes stay from 0 and 1 before they are targeted.
_EDGE = 1e-3


@register("naive", belief="judge", judge_scale=True)
def naive(prep: Prepared) -> Score:
    """Mean judge score of the fresh draws; of the logging policy without any, of the logged rows, which are its own. On
    the judge's scale."""
    name = "logged" if prep.is_logging and not len(prep.fresh) else "fresh"
    rows = prep.sample(name)
    return Score((Term(name, rows.has_score * rows.judge, rows.has_score, {"judge": rows.has_score}),))


@register("direct", belief="judge")
def direct(prep: Prepared) -> Score:
    """Mean of f(S') over fresh draws: the direct method (Dudik, Langford & Li 2011)."""
    one = np.ones(len(prep.fresh))
    return Score((Term("fresh", prep.fresh_reward, one, {"f": one}),))


def power_tuning(label: np.ndarray, prediction: np.ndarray) -> float:
    """lambda of PPI++ (Angelopoulos, Duchi & Zrnic 2023, eq. 6) when the labelled draws are among all draws: the
    regression slope of label on prediction, kept in [0, 1]; 0 when the predictions do not vary."""
    apart = prediction - prediction.sum() / max(len(label), 1)
    if len(label) < 2 or not (square := apart @ apart):
        return 0.0
    return min(max(float((label - label.sum() / len(label)) @ apart / square), 0.0), 1.0)


def ppi_score(prep: Prepared, power: float) -> Score:
    """lambda mean f(S') + mean over labelled target draws of (Y - lambda f(S')), f out of fold."""
    rows, f = prep.fresh, prep.fresh_oof
    has = rows.label_weight
    mean = Term("fresh", power * f, np.ones(len(rows)), {"f": np.full(len(rows), power)})
    return Score((mean, Term("fresh", has * (rows.label_or_zero - power * f), has, {"f": -power * has})))


@register("ppi_pp", belief="labels", uses_target_labels=True)
def ppi_pp(prep: Prepared) -> Score:
    """PPI++ on the target's own labelled draws: valid whether or not the judge transports.

    Where labels are not at random it is AIPW, lambda = 1 and label residuals weighted by 1 / chance of a label: what f
    does not leave in the residual needs no correction.
    """
    labelled = prep.fresh.labelled > 0
    if labelled.any() and prep.fresh.labelling.kind != "random":
        return ppi_score(prep, 1.0)
    return ppi_score(prep, power_tuning(prep.fresh.label[labelled], prep.fresh_oof[labelled]))


def doubly_robust(
    prep: Prepared, outcome: np.ndarray, fresh_outcome: np.ndarray, *, fresh_model: str = "f", **slopes: np.ndarray
) -> Score:
    """mean q(S') + sum w~ (R - q(S)), w~ normalised, for an outcome model q on logged rows and fresh draws.
    `fresh_model` is what q is called among the models; `slopes` are those of the logged term."""
    one = np.ones(len(prep.fresh))
    logged = Term("logged", prep.weight * (prep.reward - outcome), prep.weight, slopes)
    return Score((Term("fresh", fresh_outcome, one, {fresh_model: one}), logged))


@register("dr_cpo", belief="judge", uses_weights=True, doubly_robust=True)
def dr_cpo(prep: Prepared) -> Score:
    """mean f(S') + sum w~ (R - f(S)), doubly robust (Dudik, Langford & Li 2011) and cross-fitted (Chernozhukov et al.
    2018): R = f(S) trained on all labels, the outcome model without the row's fold.

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
        eps = min(max(eps + min(max(float(step), -2.0), 2.0), -10.0), 10.0)
        if abs(step) < 1e-10:
            break
    return eps


@register("tmle", belief="judge", uses_weights=True, doubly_robust=True)
def tmle(prep: Prepared) -> Score:
    """Targeted maximum likelihood: q shifted on the logit scale until sum w (R - q*) = 0, then averaged over fresh
    draws.

    The weights are observation weights rather than a covariate (van der Laan & Rose 2011, section 9.2): both solve the
    same equation, and the covariate form would need the unknown weight of each fresh response.
    """
    fit = prep.fit  # q and R live on its table of folds and levels
    q = np.clip(fit.values[:-1].ravel(), _EDGE, 1 - _EDGE)
    weight = np.bincount(fit.cell("logged"), weights=prep.weight, minlength=len(q))
    table = expit(logit(q) + targeting_step(weight, np.tile(fit.values[-1], fit.n_folds), q))
    return doubly_robust(prep, table.take(fit.cell("logged")), table.take(fit.cell("fresh")))


@register("dr_oracle", uses_weights=True, doubly_robust=True, label_residual=True)
def dr_oracle(prep: Prepared) -> Score:
    """mean f(S') + mean over labelled logged rows of w (Y - f(S)), f out of fold, w on its true scale: AIPW
    (Robins, Rotnitzky & Zhao 1994) with f for the outcome model."""
    has = prep.logged.label_weight * prep.has_weight
    weight, one = prep.weight * has, np.ones(len(prep.fresh))
    residual = Term("logged", weight * prep.label_residual, prep.unit(has), {"f": -weight})
    return Score((Term("fresh", prep.fresh_oof, one, {"f": one}), residual))


def stacking_weights(influence: np.ndarray) -> np.ndarray:
    """Convex weights (p,) that minimise the variance of sum_j a_j psi_j, `influence` (p, n)."""
    p, cov = len(influence), influence @ influence.T
    if not (trace := cov.trace()):
        return np.full(p, 1 / p)
    # Without the condition on their sum, the minimum of a'Ca / 2 - sum(a) over a >= 0 is a multiple of them.
    root = np.linalg.cholesky(cov / trace + 1e-6 * np.eye(p))
    a = nnls(root.T, np.linalg.solve(root, np.ones(p)))[0]
    return np.asarray(a / a.sum())


@register("stacked_dr", belief="judge", uses_weights=True, doubly_robust=True)
def stacked_dr(prep: Prepared) -> Score:
    """Convex combination of dr_cpo, mrdr and tmle with the smallest influence-function variance, as of CJE (2025)."""
    members = {name: ESTIMATORS[name].score(prep) for name in ("dr_cpo", "mrdr", "tmle")}
    influence = np.vstack([deviations(prep, s, "influence")[0] for s in members.values()])
    if not np.isfinite(influence).all():
        return members["dr_cpo"]
    shares = stacking_weights(influence)
    used = (score.terms for score, share in zip(members.values(), shares, strict=True) if share > 0)
    fresh, logged = (Term.mixed(terms, shares[shares > 0]) for terms in zip(*used, strict=True))
    return Score((fresh, logged), models=members["mrdr"].models, per_prompt=True)


def _reweighted(
    prep: Prepared, weight: np.ndarray, normaliser: np.ndarray, labelled: np.ndarray, of_labels: np.ndarray
) -> Score:
    """sum(weight R) / sum(normaliser); its correction, where logged labels trained f, is the mean label residual
    Y - f(S) by the weights `labelled`, 0 on rows without a label, over `of_labels`. With correct weights its
    expectation is the bias of f on the target, so an interval that carries it covers the policy value for any judge."""
    correction: tuple[Term, ...] = ()
    if prep.source == "logged" and labelled.any():
        correction = (Term("logged", labelled * prep.label_residual, of_labels, {"f": -labelled}),)
    return Score((Term("logged", weight * prep.reward, normaliser, {"f": weight}),), correction)


def _self_normalised(prep: Prepared, weight: np.ndarray) -> Score:
    """sum(w R) / sum(w): psi = n w (R - theta) / sum(w)."""
    labelled = weight * prep.logged.label_weight
    return _reweighted(prep, weight, weight, labelled, labelled)


@register("ips", uses_weights=True)
def ips(prep: Prepared) -> Score:
    """mean(w R), Horvitz & Thompson 1952, on the true scale of the weights: not normalised, may be infinite."""
    has = prep.has_weight * prep.logged.label_weight
    return _reweighted(prep, prep.weight, prep.unit(prep.has_weight), prep.weight * has, prep.unit(has))


@register("snips", uses_weights=True)
def snips(prep: Prepared) -> Score:
    """sum(w R) / sum(w), Swaminathan & Joachims 2015."""
    return _self_normalised(prep, prep.weight)


@register("psis", uses_weights=True)
def psis(prep: Prepared) -> Score:
    """Self-normalised with Pareto-smoothed weights, Vehtari et al. 2024."""
    weight = np.zeros(len(prep.logged))
    weight[prep.weighted] = pareto.smooth(prep.raw_log_weight, prep.audit.tail)
    return _self_normalised(prep, weight)


def monotone_weights(prep: Prepared) -> list[np.ndarray]:
    """Projections of the weights on increasing and on decreasing functions of S, each with mean one; two (n,)
    arrays."""
    levels, code = prep.levels[0], prep.levels[1]["logged"]
    total = np.bincount(code, weights=prep.weight, minlength=len(levels))
    count = np.bincount(code, weights=prep.has_weight, minlength=len(levels))
    both = [pava(levels, total, count, increasing=way).take(code) * prep.has_weight for way in (True, False)]
    return [w / (w.sum() / prep.n_weighted) for w in both]


@register("calibrated_ips", uses_weights=True, biased=True)
def calibrated_ips(prep: Prepared) -> Score:
    """SIMCal-W (Calibrated causal judge evaluation, 2025): weights projected to mean one and monotone in S; the mix
    of the increasing and the decreasing projection that minimises the variance of the influence function.

    Its effective sample size measures the projection, not the overlap: verdicts use the raw weights. So does the label
    residual in its interval: weights that are a function of S cannot see what f(S) leaves out.
    """
    if not prep.weight.any():
        return snips(prep)
    up, down = monotone_weights(prep)
    r = prep.reward
    a, b = (w * (r - w @ r / w.sum()) for w in (up, down))
    spread = (a - b) @ (a - b)
    mix = min(max(float(-(b @ (a - b)) / spread), 0.0), 1.0) if spread > 0 else 0.5
    weight, labelled = mix * up + (1 - mix) * down, prep.weight * prep.logged.label_weight
    return _reweighted(prep, weight, weight, labelled, labelled)
