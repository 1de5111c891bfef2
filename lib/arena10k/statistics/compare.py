"""Differences between policies, and a ranking that shows ties as ties."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from arena10k.estimators.prepare import Prepared
from arena10k.estimators.score import ESTIMATORS, Score, calibration_folds, deviations, fold_variance, judge_variance
from arena10k.statistics.evaluate import estimate_row
from arena10k.statistics.verdicts import REPORT, PolicyContext

#: Which estimate speaks for a policy, by how much it needs to assume: labels of its own draws, then label residuals
#: with weights, then doubly robust ones, then weights alone, then the judge alone.
HEADLINE = (
    "ppi_pp",
    "dr_oracle",
    "stacked_dr",
    "dr_cpo",
    "mrdr",
    "tmle",
    "calibrated_ips",
    "psis",
    "snips",
    "ips",
    "direct",
)


@dataclass(frozen=True)
class Contrast:
    """Value of policy a minus value of policy b, prompts paired; `significant` at the adjusted confidence level."""

    a: str
    b: str
    difference: float
    se: float
    low: float
    high: float
    significant: bool


@dataclass(frozen=True)
class Ranked:
    """A policy in the ranking. `rank` 1 + number of policies significantly better: equal ranks are ties; `worst_rank`
    number of policies not significantly worse (itself included)."""

    policy: str
    estimator: str
    value: float
    ci_low: float
    ci_high: float
    rank: int
    worst_rank: int


def _padded(x: np.ndarray, size: int) -> np.ndarray:
    return np.pad(x, (0, size - len(x)))


def contrast(a: tuple[str, Prepared, Score], b: tuple[str, Prepared, Score], confidence: float = 0.95) -> Contrast:
    """Difference of two scores: deviations and fold estimates are subtracted prompt by prompt and fold by fold, so
    what the policies share (prompts, P0 labels) cancels. Prompt codes must mean the same in both."""
    (name_a, prep_a, score_a), (name_b, prep_b, score_b) = a, b
    (dev_a, groups_a), (dev_b, groups_b) = deviations(prep_a, score_a), deviations(prep_b, score_b)
    size = max(len(dev_a), len(dev_b))
    dev = _padded(dev_a, size) - _padded(dev_b, size)
    folds_a, folds_b = calibration_folds(prep_a, score_a), calibration_folds(prep_b, score_b)
    if len(folds_a) == len(folds_b):
        cal = fold_variance(folds_a - folds_b)
    else:
        cal = fold_variance(folds_a) + fold_variance(folds_b)
    variance = float(dev @ dev) + cal + judge_variance(prep_a, score_a) + judge_variance(prep_b, score_b)
    groups = min(groups_a, groups_b)
    value = score_a.value - score_b.value
    centre = value + score_a.shift - score_b.shift
    if groups < 2 or not np.isfinite(variance) or not np.isfinite(centre):
        return Contrast(name_a, name_b, value, float("inf"), -1.0, 1.0, False)
    half = float(stats.t.isf((1 - confidence) / 2, groups - 1) * np.sqrt(variance))
    low, high = min(centre - half, value), max(centre + half, value)
    return Contrast(name_a, name_b, value, float(np.sqrt(variance)), low, high, low > 0 or high < 0)


def headline(ctx: PolicyContext, order: Iterable[str] = HEADLINE) -> dict[str, Any] | None:
    """The first estimate of `order` whose verdict is REPORT, as a row of estimates.json; None when there is none."""
    for name in order:
        row = estimate_row(ctx, ESTIMATORS[name], plan=False)
        if row["verdict"] == REPORT:
            return row
    return None


def contrasts(
    contexts: Mapping[str, PolicyContext], estimator: str | None = None, confidence: float = 0.95
) -> list[Contrast]:
    """Every pair of policies with a reportable estimate (of `estimator`, or their headline), Bonferroni-adjusted."""
    order = HEADLINE if estimator is None else (estimator,)
    scores = []
    for policy, ctx in contexts.items():
        row = headline(ctx, order)
        if row:
            name = row["estimator"]
            scores.append((policy, ctx.prep, ctx.prep.once(name, ESTIMATORS[name].score)))
    pairs = list(combinations(scores, 2))
    level = 1 - (1 - confidence) / max(len(pairs), 1)
    return [contrast(a, b, level) for a, b in pairs]


def ranking(contexts: Mapping[str, PolicyContext], confidence: float = 0.95) -> list[Ranked]:
    """Reportable policies, best first. A refused or merely cautioned policy has no rank."""
    rows = {policy: row for policy, ctx in contexts.items() if (row := headline(ctx))}
    better = dict.fromkeys(rows, 0)
    worse = dict.fromkeys(rows, 0)
    for c in contrasts(contexts, confidence=confidence):
        if c.significant:
            winner, loser = (c.a, c.b) if c.difference > 0 else (c.b, c.a)
            better[loser] += 1
            worse[winner] += 1
    ranked = [
        Ranked(p, r["estimator"], r["value"], r["ci_low"], r["ci_high"], 1 + better[p], len(rows) - worse[p])
        for p, r in rows.items()
    ]
    return sorted(ranked, key=lambda r: (r.rank, -r.value))
