"""How many oracle labels or prompts an interval of a wanted width would take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from arena10k.estimators import ESTIMATORS
from arena10k.estimators.fresh import power_tuning
from arena10k.estimators.prepare import Prepared
from arena10k.statistics.intervals import score_interval

MAX_LABELS = 10_000_000


@dataclass(frozen=True)
class Pilot:
    """What planning knows: standard deviations of label residual and of calibrated score, and where they come from.

    `source`: "target" labels, "logged" labels (assumes the target's residuals vary as much), or "worst_case"
    (variance of a bounded label, 1/4).
    """

    residual_sd: float
    score_sd: float
    label_sd: float
    label_mean: float
    source: str
    n_fresh: int
    n_labels: int = 0


def pilot(prep: Prepared, min_labels: int = 10) -> Pilot:
    """Planning values from the target's labels where there are `min_labels`, else from the logged ones, else worst
    case."""
    m, own = len(prep.fresh), int(prep.fresh.labelled.sum())
    for source, rows, f in (("target", prep.fresh, prep.fresh_oof), ("logged", prep.logged, prep.reward_oof)):
        has = rows.labelled > 0
        if has.sum() >= min_labels and prep.source is not None:
            y, score = rows.label[has], f[has]
            power = power_tuning(y, score)
            # Two pseudo-labels at the ends keep a pilot without variation from promising certainty.
            y_sd = float(np.append(y, [0.0, 1.0]).std())
            ends = [-power * score.mean(), 1 - power * score.mean()]
            residual_sd = min(float(np.append(y - power * score, ends).std()), y_sd)
            score_sd = power * float((prep.fresh_oof if m else f).std())
            return Pilot(residual_sd, score_sd, y_sd, float(y.mean()), source, m, own)
    return Pilot(0.5, 0.0, 0.5, 0.5, "worst_case", m, own)


def ppi_width(p: Pilot, labels: np.ndarray, confidence: float = 0.95) -> np.ndarray:
    """Total width of the PPI++ interval with `labels` labelled draws of the target, among at least as many fresh draws.

    t interval, but no narrower than the bounded-mean guard of `intervals`: one unseen label at either end of [0, 1].
    """
    n = np.maximum(np.asarray(labels, dtype=np.float64), 2)
    fresh = np.maximum(p.n_fresh, n)
    variance = np.minimum(p.residual_sd**2 / n + p.score_sd**2 / fresh, p.label_sd**2 / n)
    f = stats.f.isf(1 - confidence, 1, n)
    ends = (p.label_mean, 1 - p.label_mean)
    guard = sum(
        end / (n + 1) + np.sqrt(f * (n * p.residual_sd**2 + end**2 * n / (n + 1)) / (n + 1) ** 2) for end in ends
    )
    return np.asarray(np.maximum(2 * stats.t.isf((1 - confidence) / 2, n - 1) * np.sqrt(variance), guard))


def labels_needed(p: Pilot, width: float, confidence: float = 0.95) -> int:
    """Smallest number of labelled target draws (in total) whose PPI++ interval is at most `width` wide."""
    low, high = 2, MAX_LABELS
    if ppi_width(p, np.array([high]), confidence)[0] > width:
        return high
    while low < high:
        middle = (low + high) // 2
        if ppi_width(p, np.array([middle]), confidence)[0] <= width:
            high = middle
        else:
            low = middle + 1
    return low


@dataclass(frozen=True)
class UnitCosts:
    """US dollars of one oracle label and of one fresh draw with its judge scores; None where it is not known."""

    label: float | None = None
    draw: float | None = None

    def of(self, labels: float, draws: float) -> float | None:
        """The cost of so many labels and draws; None where a price of something bought is not known."""
        parts = ((labels, self.label), (draws, self.draw))
        if any(amount and price is None for amount, price in parts):
            return None
        return float(sum(amount * (price or 0.0) for amount, price in parts))


_FREE = UnitCosts(0.0, 0.0)


def plan(p: Pilot, widths: Iterable[float], cost: UnitCosts = _FREE, confidence: float = 0.95) -> list[dict[str, Any]]:
    """PPI++, one row per wanted width.

    `labels` of the target's own draws (in total; MAX_LABELS is out of reach), how many `more` that is, `draws` that
    must exist, and the cost in US dollars of what is not there yet, None where a price is not known.
    """
    rows = []
    for width in widths:
        n = labels_needed(p, float(width), confidence)
        more = max(0, n - p.n_labels)
        row = {"estimator": "ppi_pp", "width": float(width), "labels": n, "more": more, "draws": max(n, p.n_fresh)}
        rows.append(row | {"cost": cost.of(more, max(0, n - p.n_fresh)), "pilot": p.source})
    return rows


def direct_plan(
    prep: Prepared, widths: Iterable[float], cost: UnitCosts = _FREE, confidence: float = 0.95
) -> list[dict[str, Any]]:
    """The direct method, one row per wanted width: both fresh draws and the labels that train f grow by one factor.

    The present interval (t quantile included) narrows with the root of that factor. Empty without fresh draws or
    labels.
    """
    if prep.source is None or len(prep.fresh) == 0:
        return []
    draws, labels = len(prep.fresh), int(prep.sample(prep.source).labelled.sum())
    present = score_interval(prep, prep.once("direct", ESTIMATORS["direct"].score), confidence)
    now = 2 * present.se * float(stats.t.isf((1 - confidence) / 2, present.df))
    rows = []
    for width in widths:
        factor = (now / float(width)) ** 2 if np.isfinite(now) else float("inf")
        need, have = (min(int(np.ceil(max(2, factor * k))) if np.isfinite(factor) else MAX_LABELS, MAX_LABELS)
                      for k in (labels, draws))  # fmt: skip
        more = max(0, need - labels)
        row = {"estimator": "direct", "width": float(width), "labels": need, "more": more, "draws": have}
        rows.append(row | {"cost": cost.of(more, max(0, have - draws)), "pilot": prep.source})
    return rows
