"""Estimators on fresh draws of the target: the judge's mean, the calibrated mean, prediction-powered inference."""

from __future__ import annotations

import numpy as np

from arena10k.estimation.prepare import Prepared
from arena10k.estimation.score import Score, Term, register


@register("naive", belief="judge", judge_scale=True)
def naive(prep: Prepared) -> Score:
    """Mean judge score of the fresh draws; of the logging policy without any, of the logged rows, which are its own. On
    the judge's scale."""
    name = "logged" if prep.is_logging and not len(prep.fresh) else "fresh"
    rows = prep.sample(name)
    return Score((Term(name, rows.scored * rows.judge, rows.scored, {"judge": rows.scored}),))


@register("direct", belief="judge")
def direct(prep: Prepared) -> Score:
    """Mean of f(S') over fresh draws."""
    one = np.ones(len(prep.fresh))
    return Score((Term("fresh", prep.fresh_reward, one, {"f": one}),))


def power_tuning(label: np.ndarray, prediction: np.ndarray) -> float:
    """lambda of PPI++ (Angelopoulos, Duchi & Zrnic 2023, eq. 6) when the labelled draws are among all draws: the
    regression slope of label on prediction, kept in [0, 1]; 0 when the predictions do not vary."""
    spread = prediction.var()
    if len(label) < 2 or spread == 0:
        return 0.0
    return float(np.clip(((label - label.mean()) * (prediction - prediction.mean())).mean() / spread, 0.0, 1.0))


def ppi_score(prep: Prepared, power: float) -> Score:
    """lambda mean f(S') + mean over labelled target draws of (Y - lambda f(S')), f out of fold."""
    rows, f = prep.fresh, prep.fresh_oof
    has = rows.label_weight
    return Score(
        (
            Term("fresh", power * f, np.ones(len(rows)), {"f": np.full(len(rows), power)}),
            Term("fresh", has * (rows.label_or_zero - power * f), has, {"f": -power * has}),
        )
    )


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
