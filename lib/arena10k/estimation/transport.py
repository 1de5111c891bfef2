"""Does the calibration hold on a policy's own draws, and how many labels speak there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from arena10k.estimation.beliefs import extrapolation, residual_score, weighted_residual_limits
from arena10k.estimation.calibration import pava
from arena10k.estimation.intervals import label_radii, standard_error, student
from arena10k.estimation.prepare import Prepared
from arena10k.estimation.thresholds import MIN_LABELS, WRONG


@dataclass(frozen=True)
class Transport:
    """Does f hold under the target? Mean of Y - f(S) there, with its interval.

    `evidence`: "target_labels" (labels on the target's own draws), "weights" (labelled logged rows, re-weighted), or
    "none". `status`: "failed" (0 outside beyond chance, level `WRONG`), "passed" (the interval within the margin),
    "weak" (beyond it), "own" (f was trained on the target's labels), "none". No verdict takes "passed" for a proof.
    `n_labels` counts clusters with a label on the target's draws.
    """

    status: str
    n_labels: int
    evidence: str = "none"
    residual: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")


def label_clusters(prep: Prepared) -> int:
    """How many independent labels the target's draws have; where their chances differ, Kish's size of them."""
    has = prep.fresh.labelled > 0
    n = prep.fresh.clusters(has)
    weight = prep.fresh.label_weight[has]
    return n if prep.fresh.labelling.at_random else min(n, int(weight.sum() ** 2 / (weight @ weight)))


def residual_limits(prep: Prepared, confidence: float) -> tuple[float, float, float]:
    """Mean of Y - f(S') over the target's labelled draws, and its limits: clustered jackknife with what training f
    adds, t quantile, never narrower than a bounded mean."""
    score = residual_score(prep)
    se, df = standard_error(prep, score)
    half = student(confidence, df) * se
    (down, up), (below, above) = label_radii(prep, "fresh", confidence), extrapolation(prep, "fresh")
    return score.value, score.value - max(half, down) - below, score.value + max(half, up) + above


def transport(prep: Prepared, margin: float, confidence: float = 0.95, weights_hold: bool = True) -> Transport:
    """Transport test: from the target's labels where there are enough, else from weights that are not called wrong
    (`weights_hold`), else none."""
    n = label_clusters(prep)
    if prep.source is None:
        return Transport("none", n)
    # Of labels not at random f carries the choice, so that its residual has to be looked at.
    own = (prep.is_logging or prep.source == "fresh") and prep.sample(prep.source).labelling.at_random
    limits: Callable[[float], tuple[float, float, float]]
    if n >= MIN_LABELS:
        evidence, limits = "target_labels", lambda level: residual_limits(prep, level)
    elif prep.source == "logged" and weights_hold and len(prep.fresh) and prep.n_weighted and not own:
        evidence, limits = "weights", lambda level: weighted_residual_limits(prep, level)
    else:
        return Transport("own" if own else "none", n)
    residual, low, high = limits(confidence)
    _, strict_low, strict_high = limits(1 - WRONG)
    status = "failed" if strict_low > 0 or strict_high < 0 else "passed" if max(-low, high) <= margin else "weak"
    status = "own" if own else status
    return Transport(status, n, evidence, residual, low, high)


def effective_labels(prep: Prepared) -> float:
    """How many of the labels that trained f speak where the target's draws score.

    1 / sum_b p_b^2 / n_b over the blocks b of the isotonic fit (scores that share one fitted value), with p_b the share
    of the target's draws and n_b the number of labels in b: the effective sample size (Kish 1965) of labels re-weighted
    to the target's scores. About all of them where the target scores as the logging policy does; a handful where f is
    extrapolated, however many there are elsewhere. NaN where f was not trained on logged labels or nothing was drawn.
    """
    if prep.source != "logged" or not len(prep.fresh):
        return float("nan")
    levels, code = prep.levels
    count = np.bincount(code["logged"], weights=prep.logged.labelled, minlength=len(levels))
    total = np.bincount(code["logged"], weights=prep.logged.labelled * prep.logged.label_or_zero, minlength=len(levels))
    seen = count > 0
    fitted = pava(levels[seen], total[seen], count[seen])
    block = np.cumsum(np.append(False, np.diff(fitted) != 0))
    # A score without a label of its own borrows from the nearest one that has some.
    nearest = np.searchsorted((levels[seen][1:] + levels[seen][:-1]) / 2, levels)
    drawn = np.bincount(block[nearest], weights=np.bincount(code["fresh"], minlength=len(levels)))
    share = drawn / len(prep.fresh)
    return float(1 / (share**2 / np.bincount(block, weights=count[seen])).sum())
