"""How good estimates are where the truth is known, in whole or in part: value, order, interval and refusal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from arena10k.estimation.verdicts import NO_VERDICT, REFUSE

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


def summary(frame: pd.DataFrame, truth: Sequence[Truth], by: Sequence[str], confidence: float = 0.95) -> pd.DataFrame:
    """Scores of a sweep over its seeds and policies, a row per group of the columns `by`, such as estimator,
    calibration and factors; NaN where nothing is known.

    `cells`; `refused`, the share of all that was asked for; over policies of known value `rmse`, `bias`, `coverage` and
    `interval_score`, where there are intervals, and `rmse_accepted` and `coverage_accepted` of what is not refused;
    over the replicates the means of `kendall` (tau), `pairwise` (share of the policy pairs of known order that are in
    it), `misranked` (share of replicates that put a truly worse policy first) and `misranked_accepted` (share of the
    same replicates that still do when what is refused is left out; one with too little left to compare does not).

    The interval score (Gneiting & Raftery 2007, eq. 43) is the width plus 2 / alpha times the distance by which the
    interval misses; smaller is better.
    """
    target = frame.policy.map({t.policy: t.value for t in truth if t.value is not None}).astype(float)
    value, low, high = (frame[name].astype(float) for name in ("value", "ci_low", "ci_high"))
    missed = ((low - target).clip(lower=0) + (target - high).clip(lower=0)).where(value.notna())
    scored = frame.assign(
        error=value - target,
        covers=(missed == 0).astype(float).where(missed.notna()),
        interval_score=high - low + 2 / (1 - confidence) * missed,
        refused=(frame.verdict == REFUSE).astype(float).where(~frame.verdict.isin(NO_VERDICT)),
    )
    # What is neither a group nor a measure tells one replicate from another.
    replicate = [c for c in frame.columns if c not in {*by, "policy", *MEASURES}]
    rows = []
    for key, group in scored.groupby(list(by), sort=False, dropna=False):
        order, accepted = _order(group, replicate, truth), group[group.refused == 0]
        values = {
            "cells": len(order),
            "refused": group.refused.mean(),
            "rmse": np.sqrt((group.error**2).mean()),
            "bias": group.error.mean(),
            "coverage": group.covers.mean(),
            "interval_score": group.interval_score.mean(),
            "rmse_accepted": np.sqrt((accepted.error**2).mean()),
            "coverage_accepted": accepted.covers.mean(),
        }
        rows.append(dict(zip(by, key, strict=True)) | values | order.mean().to_dict())
    return pd.DataFrame(rows)


def known_order(truth: Sequence[Truth]) -> np.ndarray:
    """(policies, policies): +1 where the first is truly better, -1 where worse, NaN where it is not known.

    Known is what is so by construction, and a difference beyond `CHANCE` standard errors of the truth itself.
    """
    value, worst = _arrays(truth)
    se, apart = np.array([t.se or 0.0 for t in truth]), value[:, None] - value
    sign = np.where(np.abs(apart) > CHANCE * np.hypot(se[:, None], se), np.sign(apart), np.nan)
    return np.where(worst[:, None] != worst, np.where(worst, 1.0, -1.0), sign)


def _arrays(truth: Sequence[Truth]) -> tuple[np.ndarray, np.ndarray]:
    value = [np.nan if t.value is None else t.value for t in truth]
    return np.array(value), np.array([t.worst for t in truth], dtype=bool)


def order_sentence(truth: Sequence[Truth]) -> str:
    """How many pairs of policies have a known order."""
    ordered = int(np.isfinite(known_order(truth)[np.triu_indices(len(truth), 1)]).sum())
    pairs = len(truth) * (len(truth) - 1) // 2
    worst = [t.policy for t in truth if t.worst]
    count = f"The true order of {ordered} of the {pairs} pairs of policies is known beyond chance"
    return count + (f" ({', '.join(worst)} is the worst by construction)." if worst else ".")


def _order(group: pd.DataFrame, replicate: Sequence[str], truth: Sequence[Truth]) -> pd.DataFrame:
    """Scores of the order of policies in each replicate; refused numbers count, but for `misranked_accepted`."""
    sign, (value, worst) = known_order(truth), _arrays(truth)
    below = (sign < 0) & ((worst[:, None] != worst) | (value - value[:, None] > MARGIN))

    def misranked(estimate: np.ndarray) -> np.ndarray:
        """1 where the policy with the highest estimate is truly `below` another one that has an estimate; NaN where
        fewer than two policies of known order have an estimate."""
        has = np.isfinite(estimate)
        first = np.where(has, estimate, -np.inf).argmax(axis=1)
        wrong = (below[first] & has).any(axis=1).astype(float)
        comparable = (np.isfinite(sign)[first] & has).any(axis=1) & (has.sum(axis=1) > 1)
        return np.where(comparable, wrong, np.nan)

    number = group.groupby(list(replicate), sort=False, dropna=False).ngroup() if replicate else 0
    accepted = group.value.where(group.refused != 1)
    wide = group.assign(replicate=number, accepted=accepted).pivot(index="replicate", columns="policy")
    policies = [t.policy for t in truth]
    every, accepted = (wide[name].reindex(columns=policies).to_numpy(float) for name in ("value", "accepted"))
    i, j = np.triu_indices(len(truth), 1)
    right = pd.DataFrame(np.sign(every[:, i] - every[:, j]) * sign[i, j])
    wrong, still = misranked(every), np.nan_to_num(misranked(accepted))
    return pd.DataFrame(
        {
            "kendall": right.mean(axis=1),
            "pairwise": (right > 0).astype(float).where(right.notna()).mean(axis=1),
            "misranked": wrong,
            "misranked_accepted": np.where(np.isnan(wrong), np.nan, still),
        }
    )
