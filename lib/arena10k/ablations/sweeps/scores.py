"""How good estimates are where the truth is known, in whole or in part: value, order, interval and refusal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from arena10k.estimation.verdicts import NOT_ASKED, REFUSE

#: A policy that is put first and truly below the best by more than this misranks (on the oracle's scale).
MARGIN = 0.05
#: Standard errors of the truth beyond which two policies are truly apart.
CHANCE = 1.96
#: What a cell measures of one policy.
MEASURES = ("value", "ci_low", "ci_high", "verdict", "reasons", "n_used")


@dataclass(frozen=True)
class Truth:
    """What is known of one policy: its `value` with standard error `se` and where it comes from; or only its place.

    `value` None: unknown. `worst`: below all others by construction, whatever its value.
    """

    policy: str
    value: float | None
    se: float | None
    source: str
    worst: bool = False


def score(frame: pd.DataFrame, truth: Sequence[Truth], confidence: float = 0.95) -> pd.DataFrame:
    """The rows of a sweep with `truth`, `error`, `covers` and `interval_score` (NaN where the truth is not known) and
    `refused` (NaN where nothing was asked for).

    The interval score (Gneiting & Raftery 2007, eq. 43) is the width plus 2 / alpha times the distance by which the
    interval misses; smaller is better.
    """
    known = {t.policy: t.value for t in truth if t.value is not None}
    out = frame.copy()
    target = out.policy.map(known).astype(float)
    low, high = out.ci_low.astype(float), out.ci_high.astype(float)
    seen = target.notna() & low.notna() & high.notna()
    out["truth"], out["error"] = target, out.value.astype(float) - target
    out["covers"] = ((low <= target) & (target <= high)).astype(float).where(seen)
    missed = (low - target).clip(lower=0) + (target - high).clip(lower=0)
    out["interval_score"] = (high - low) + 2 / (1 - confidence) * missed
    out["refused"] = (out.verdict == REFUSE).astype(float).where(out.verdict != NOT_ASKED)
    return out


def summary(frame: pd.DataFrame, truth: Sequence[Truth], by: Sequence[str], confidence: float = 0.95) -> pd.DataFrame:
    """Scores per group of a sweep, over its seeds and policies.

    Parameters
    ----------
    by : the columns that make a group, such as estimator, calibration and factors.

    Returns
    -------
    One row per group: `cells`, `refused` (share, all policies), `rmse`, `bias`, `coverage` and `interval_score` (over
    policies of known value, intervals counted where there are any; `..._standing` over those of them that are not
    refused), and over the replicates the means of `kendall` (tau) and `pairwise` (share of the policy pairs of known
    order that are in it), `misranked` (the share of replicates that put a truly worse policy first) and
    `misranked_standing` (the share of the same replicates that still do when what is refused is left out; one that has
    too little left to compare does not). NaN where nothing is known.
    """
    scored = score(frame, truth, confidence)
    # What is neither a group nor a measure tells one replicate from another.
    replicate = [c for c in frame.columns if c not in {*by, "policy", *MEASURES}]
    rows = []
    for key, group in scored.groupby(list(by), sort=False, dropna=False):
        order = _order(group, replicate, truth)
        means = {name: _mean(pd.Series(values).dropna()) for name, values in order.items()}
        head = dict(zip(by, key, strict=True)) | {"cells": len(order["kendall"])}
        rows.append(head | _values(group) | means)
    return pd.DataFrame(rows)


def _values(group: pd.DataFrame) -> dict[str, float]:
    known = group.dropna(subset=["error"])
    standing = known[known.refused == 0]
    return {
        "refused": _mean(group.refused.dropna()),
        "rmse": _rms(known.error),
        "bias": _mean(known.error),
        "coverage": _mean(known.covers),
        "interval_score": _mean(known.interval_score),
        "rmse_standing": _rms(standing.error),
        "coverage_standing": _mean(standing.covers),
    }


def _rms(error: pd.Series) -> float:
    return float(np.sqrt((error**2).mean())) if len(error) else float("nan")


def _mean(values: pd.Series) -> float:
    return float(values.mean()) if len(values) else float("nan")


def known_order(truth: Sequence[Truth]) -> np.ndarray:
    """(policies, policies): +1 where the first is truly better, -1 where worse, NaN where it is not known.

    Known is what is so by construction, and a difference beyond `CHANCE` standard errors of the truth itself.
    """
    sign = np.full((len(truth), len(truth)), np.nan)
    for i, a in enumerate(truth):
        for j, b in enumerate(truth):
            if a.worst != b.worst:
                sign[i, j] = -1.0 if a.worst else 1.0
            elif a.value is not None and b.value is not None:
                apart = a.value - b.value
                if abs(apart) > CHANCE * np.hypot(a.se or 0.0, b.se or 0.0):
                    sign[i, j] = np.sign(apart)
    return sign


def order_sentence(truth: Sequence[Truth]) -> str:
    """How many pairs of policies have a known order."""
    known = int(np.isfinite(known_order(truth)[np.triu_indices(len(truth), 1)]).sum())
    pairs = len(truth) * (len(truth) - 1) // 2
    worst = [t.policy for t in truth if t.worst]
    told = f"The true order of {known} of the {pairs} pairs of policies is known beyond chance"
    return told + (f" ({', '.join(worst)} is the worst by construction)." if worst else ".")


def _order(group: pd.DataFrame, replicate: Sequence[str], truth: Sequence[Truth]) -> dict[str, np.ndarray]:
    """Scores of the order of policies in each replicate; refused numbers count, but for `misranked_standing`."""
    sign = known_order(truth)
    rows = np.zeros(len(group), dtype=int)
    if replicate:
        rows = group.groupby(list(replicate), sort=False, dropna=False).ngroup().to_numpy()
    column = group.policy.map({t.policy: k for k, t in enumerate(truth)})
    known = column.notna().to_numpy()
    value = np.full((rows.max(initial=-1) + 1, len(truth)), np.nan)
    stands = value.copy()
    at = rows[known], column[known].to_numpy(int)
    value[at] = group.value.to_numpy(float)[known]
    stands[at] = np.where(group.refused == 1, np.nan, group.value.to_numpy(float))[known]
    i, j = np.triu_indices(len(truth), 1)
    right = np.sign(value[:, i] - value[:, j]) * sign[i, j]
    pairs = np.isfinite(right).sum(axis=1)
    with np.errstate(invalid="ignore"):
        kendall = np.nansum(right, axis=1) / np.where(pairs, pairs, np.nan)
        pairwise = (right > 0).sum(axis=1) / np.where(pairs, pairs, np.nan)
    misranked = _misranked(value, truth, sign)
    standing = np.where(np.isnan(misranked), np.nan, np.nan_to_num(_misranked(stands, truth, sign), nan=0.0))
    return {"kendall": kendall, "pairwise": pairwise, "misranked": misranked, "misranked_standing": standing}


def _misranked(value: np.ndarray, truth: Sequence[Truth], sign: np.ndarray) -> np.ndarray:
    """Per replicate 1 where the policy with the highest estimate is truly below another one that has an estimate,
    beyond chance and by more than `MARGIN` (or by construction); NaN where fewer than two policies of known order have
    an estimate."""
    below = np.array([[_below(a, b) and sign[i, j] < 0 for j, b in enumerate(truth)] for i, a in enumerate(truth)])
    ordered = np.isfinite(sign)
    has = np.isfinite(value)
    first = np.where(has, value, -np.inf).argmax(axis=1)
    wrong = (below[first] & has).any(axis=1).astype(float)
    comparable = (ordered[first] & has).any(axis=1) & (has.sum(axis=1) > 1)
    return np.where(comparable, wrong, np.nan)


def _below(a: Truth, b: Truth) -> bool:
    if a.worst != b.worst:
        return a.worst
    return a.value is not None and b.value is not None and b.value - a.value > MARGIN
