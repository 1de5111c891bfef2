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
    target = frame.policy.map({t.policy: t.value for t in truth if t.value is not None}).astype(float)
    value, low, high = (frame[name].astype(float) for name in ("value", "ci_low", "ci_high"))
    missed = (low - target).clip(lower=0) + (target - high).clip(lower=0)
    return frame.assign(
        truth=target,
        error=value - target,
        covers=(missed == 0).astype(float).where(missed.notna()),
        interval_score=high - low + 2 / (1 - confidence) * missed,
        refused=(frame.verdict == REFUSE).astype(float).where(frame.verdict != NOT_ASKED),
    )


def summary(frame: pd.DataFrame, truth: Sequence[Truth], by: Sequence[str], confidence: float = 0.95) -> pd.DataFrame:
    """Scores per group of a sweep, over its seeds and policies.

    Parameters
    ----------
    by : the columns that make a group, such as estimator, calibration and factors.

    Returns
    -------
    One row per group: `cells`, `refused` (share, all policies), `rmse`, `bias`, `coverage` and `interval_score` (over
    policies of known value, intervals counted where there are any; `..._accepted` over those of them that are not
    refused), and over the replicates the means of `kendall` (tau) and `pairwise` (share of the policy pairs of known
    order that are in it), `misranked` (the share of replicates that put a truly worse policy first) and
    `misranked_accepted` (the share of the same replicates that still do when what is refused is left out; one that has
    too little left to compare does not). NaN where nothing is known.
    """
    scored = score(frame, truth, confidence)
    # What is neither a group nor a measure tells one replicate from another.
    replicate = [c for c in frame.columns if c not in {*by, "policy", *MEASURES}]
    rows = []
    for key, group in scored.groupby(list(by), sort=False, dropna=False):
        order = _order(group, replicate, truth)
        accepted = group[group.refused == 0]
        values = {
            "refused": group.refused.mean(),
            "rmse": np.sqrt((group.error**2).mean()),
            "bias": group.error.mean(),
            "coverage": group.covers[group.error.notna()].mean(),
            "interval_score": group.interval_score[group.error.notna()].mean(),
            "rmse_accepted": np.sqrt((accepted.error**2).mean()),
            "coverage_accepted": accepted.covers[accepted.error.notna()].mean(),
        }
        rows.append(dict(zip(by, key, strict=True)) | {"cells": len(order)} | values | order.mean().to_dict())
    return pd.DataFrame(rows)


def known_order(truth: Sequence[Truth]) -> np.ndarray:
    """(policies, policies): +1 where the first is truly better, -1 where worse, NaN where it is not known.

    Known is what is so by construction, and a difference beyond `CHANCE` standard errors of the truth itself.
    """
    value, se, worst = _arrays(truth)
    apart = value[:, None] - value
    sign = np.where(np.abs(apart) > CHANCE * np.hypot(se[:, None], se), np.sign(apart), np.nan)
    return np.where(worst[:, None] != worst, np.where(worst, 1.0, -1.0), sign)


def _arrays(truth: Sequence[Truth]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    value = np.array([np.nan if t.value is None else t.value for t in truth])
    return value, np.array([t.se or 0.0 for t in truth]), np.array([t.worst for t in truth], dtype=bool)


def order_sentence(truth: Sequence[Truth]) -> str:
    """How many pairs of policies have a known order."""
    ordered = int(np.isfinite(known_order(truth)[np.triu_indices(len(truth), 1)]).sum())
    pairs = len(truth) * (len(truth) - 1) // 2
    worst = [t.policy for t in truth if t.worst]
    count = f"The true order of {ordered} of the {pairs} pairs of policies is known beyond chance"
    return count + (f" ({', '.join(worst)} is the worst by construction)." if worst else ".")


def _order(group: pd.DataFrame, replicate: Sequence[str], truth: Sequence[Truth]) -> pd.DataFrame:
    """Scores of the order of policies in each replicate; refused numbers count, but for `misranked_accepted`."""
    sign = known_order(truth)
    rows = np.zeros(len(group), dtype=int)
    if replicate:
        rows = group.groupby(list(replicate), sort=False, dropna=False).ngroup().to_numpy()
    column = group.policy.map({t.policy: k for k, t in enumerate(truth)})
    has_truth = column.notna().to_numpy()
    at = rows[has_truth], column[has_truth].to_numpy(int)
    every = np.full((rows.max(initial=-1) + 1, len(truth)), np.nan)
    accepted = every.copy()
    every[at] = group.value.to_numpy(float)[has_truth]
    accepted[at] = np.where(group.refused == 1, np.nan, group.value.to_numpy(float))[has_truth]
    i, j = np.triu_indices(len(truth), 1)
    right = pd.DataFrame(np.sign(every[:, i] - every[:, j]) * sign[i, j])
    misranked = _misranked(every, truth, sign)
    return pd.DataFrame(
        {
            "kendall": right.mean(axis=1),
            "pairwise": (right > 0).astype(float).where(right.notna()).mean(axis=1),
            "misranked": misranked,
            "misranked_accepted": np.where(
                np.isnan(misranked), np.nan, np.nan_to_num(_misranked(accepted, truth, sign), nan=0.0)
            ),
        }
    )


def _misranked(estimate: np.ndarray, truth: Sequence[Truth], sign: np.ndarray) -> np.ndarray:
    """Per replicate 1 where the policy with the highest estimate is truly below another one that has an estimate,
    beyond chance and by more than `MARGIN` (or by construction); NaN where fewer than two policies of known order have
    an estimate."""
    value, _, worst = _arrays(truth)
    below = (sign < 0) & ((worst[:, None] & ~worst) | ((worst[:, None] == worst) & (value - value[:, None] > MARGIN)))
    has = np.isfinite(estimate)
    first = np.where(has, estimate, -np.inf).argmax(axis=1)
    wrong = (below[first] & has).any(axis=1).astype(float)
    comparable = (np.isfinite(sign)[first] & has).any(axis=1) & (has.sum(axis=1) > 1)
    return np.where(comparable, wrong, np.nan)
