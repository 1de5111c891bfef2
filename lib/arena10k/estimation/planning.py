"""How many oracle labels or prompts an interval of a wanted width would take."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from arena10k.estimation import ESTIMATORS
from arena10k.estimation.estimators import power_tuning
from arena10k.estimation.intervals import score_interval, student
from arena10k.estimation.prepare import Prepared

MAX_LABELS = 10_000_000
#: Chance with which a planned number of labels gives the wanted width.
ASSURANCE = 0.8


@dataclass(frozen=True)
class Pilot:
    """What planning knows: variances of the label residual, of the label and of the calibrated score (after the power
    of PPI++), and how much the squares they average vary. `source`: "target" labels, or "worst_case" (a bounded
    label's variance of 1/4: labels of another policy say nothing of the target's). `n_labels` of the target's draws."""

    residual_var: float
    residual_spread: float
    label_var: float
    label_spread: float
    score_var: float
    label_mean: float
    source: str
    n_fresh: int
    n_labels: int = 0


def pilot(prep: Prepared, min_labels: int = 10) -> Pilot:
    """Planning values from the target's labels where there are `min_labels`, else the worst case."""
    m, has = len(prep.fresh), prep.fresh.labelled > 0
    own = int(has.sum())
    if own < min_labels or prep.source is None:
        return Pilot(0.25, 0.0, 0.25, 0.0, 0.0, 0.5, "worst_case", m, own)
    y, f = prep.fresh.label[has], prep.fresh_oof[has]
    power, ends = power_tuning(y, f), np.array([0.0, 1.0])
    # Two pseudo-labels at the ends keep a pilot without variation from promising certainty.
    residual, pseudo = y - power * f, ends - power * f.mean()
    squares = [(np.append(x, at) - x.mean()) ** 2 for x, at in ((residual, pseudo), (y, ends))]
    (residual_var, residual_spread), (label_var, label_spread) = ((float(x.mean()), float(x.std())) for x in squares)
    score = power**2 * float(prep.fresh_oof.var())
    return Pilot(residual_var, residual_spread, label_var, label_spread, score, float(y.mean()), "target", m, own)


def ppi_width(p: Pilot, labels: int, confidence: float = 0.95) -> float:
    """Total width that the PPI++ interval with `labels` labelled draws of the target, among at least as many fresh
    draws, has with chance `ASSURANCE`.

    t interval, but no narrower than the bounded-mean guard of `intervals`: one unseen label at either end of [0, 1].
    """
    n = max(int(labels), 2)

    def limit(variance: float, spread: float) -> float:
        """What the variance of the labels will not exceed with that chance: two samples apart, at most 1/4."""
        if p.source == "worst_case":
            return variance
        apart = np.sqrt(1 / max(p.n_labels, 1) + 1 / n)
        return float(min(variance + special.ndtri(ASSURANCE) * spread * apart, max(0.25, variance)))

    residual, label = limit(p.residual_var, p.residual_spread), limit(p.label_var, p.label_spread)
    variance = min(residual / n + p.score_var / max(p.n_fresh, n), label / n)
    f, mean = student(confidence, n) ** 2, p.label_mean
    guard = sum(
        end / (n + 1) + np.sqrt(f * (n * min(residual, label) + end**2 * n / (n + 1))) / (n + 1)
        for end in (mean, 1 - mean)
    )
    return float(max(2 * student(confidence, n - 1) * np.sqrt(variance), guard))


def labels_needed(p: Pilot, width: float, confidence: float = 0.95) -> int:
    """Smallest number of labelled target draws (in total) whose PPI++ interval is, with chance `ASSURANCE`, at most
    `width` wide."""
    numbers = range(2, MAX_LABELS)
    return 2 + bisect_left(numbers, True, key=lambda n: ppi_width(p, n, confidence) <= width)


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


def _plan_row(
    estimator: str, width: float, labels: int, draws: int, there: tuple[int, int], cost: UnitCosts, source: str
) -> dict[str, Any]:
    """The row of a plan of so many labels and draws in all, of which as many are `there`."""
    more = max(0, labels - there[0])
    price = cost.of(more, max(0, draws - there[1]))
    row = {"estimator": estimator, "width": float(width), "labels": labels, "more": more, "draws": draws}
    return row | {"cost": price, "pilot": source}


def plan(p: Pilot, widths: Iterable[float], cost: UnitCosts = _FREE, confidence: float = 0.95) -> list[dict[str, Any]]:
    """PPI++, one row per wanted width: `labels` of the target's own draws (in total; MAX_LABELS is out of reach), how
    many `more` that is, `draws` that must exist, and the cost in US dollars of what is not there yet, None where a
    price is not known."""
    needed, there = {width: labels_needed(p, width, confidence) for width in widths}, (p.n_labels, p.n_fresh)
    return [_plan_row("ppi_pp", w, n, max(n, p.n_fresh), there, cost, p.source) for w, n in needed.items()]


def direct_plan(
    prep: Prepared, widths: Iterable[float], cost: UnitCosts = _FREE, confidence: float = 0.95
) -> list[dict[str, Any]]:
    """The direct method, one row per wanted width: both fresh draws and the labels that train f grow by one factor, and
    the present interval (t quantile included) narrows with its root. Empty without fresh draws or labels."""
    if prep.source is None or len(prep.fresh) == 0:
        return []
    there = int(prep.sample(prep.source).labelled.sum()), len(prep.fresh)
    present = score_interval(prep, ESTIMATORS["direct"].score(prep), confidence)
    rows = []
    for width in widths:
        factor = (2 * present.se * student(confidence, present.df) / float(width)) ** 2
        labels, draws = (int(min(np.ceil(max(2, factor * k)), MAX_LABELS)) for k in there)
        rows.append(_plan_row("direct", width, labels, draws, there, cost, prep.source))
    return rows
