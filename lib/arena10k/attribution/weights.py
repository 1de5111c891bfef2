"""What the weights of a policy rest on: missing mass, heavy rows, length strata, the clip ceiling, shrinkage; and how
few rows decide who ranks first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from arena10k.attribution.game import self_normalised
from arena10k.estimation.intervals import missing_mass_interval
from arena10k.estimation.pareto import audit_weights

_TIE = 1e-12
#: Rows that are taken out, at most, to change who ranks first; groups of response lengths; strengths of a shrinkage.
_MOST, _BINS, _POINTS = 200, 5, 60


def mass_identity(mean_weight: float, on: float, value: float) -> dict[str, float]:
    """SNIPS - V = (1 - c)(V_on - V_off), c = min(1, E[w]): the error is the mass the log misses, times how different
    it is; from a raw mean weight, SNIPS `on` of rewards in [0, 1] and a trusted `value` (NaN when unknown).

    `covered` is c, `on` SNIPS, `off` the value the missing mass must have for the identity to hold (NaN when c = 1:
    nothing is missing, and the error has another cause), `low`, `high` the bounds c V_on + (1 - c) [0, 1] that need no
    fresh draw.
    """
    covered, (low, high) = min(1.0, mean_weight), missing_mass_interval(mean_weight, on)
    off = (value - covered * on) / (1 - covered) if covered < 1 else float("nan")
    return {"covered": covered, "on": on, "off": off, "low": low, "high": high}


def heavy_rows(logged: pd.DataFrame, log_weight: np.ndarray, score: np.ndarray, top: int = 10) -> pd.DataFrame:
    """The `top` rows by weight: `prompt_id`, `prompt`, `response`, `log_weight`, `weight`, `share`, `cumulative`,
    `score`. `log_weight` and `score` (n,) are aligned with `logged`; text is as the model wrote it and must be
    escaped when shown."""
    lw = np.where(np.isnan(log_weight), -np.inf, log_weight)
    rows = [i for i in np.argsort(-lw, kind="stable")[:top] if np.isfinite(lw[i])]
    share = self_normalised(lw)[rows]
    columns = ("prompt_id", "draw", "prompt", "response", "category", "response_chars", "label")
    heaviest = logged.iloc[rows][[c for c in columns if c in logged]].reset_index(drop=True)
    with np.errstate(over="ignore"):
        numbers = {"log_weight": lw[rows], "weight": np.exp(lw[rows]), "share": share}
    return heaviest.assign(**numbers, cumulative=np.cumsum(share), score=np.asarray(score)[rows])


def length_strata(log_weight: np.ndarray, length: np.ndarray) -> pd.DataFrame:
    """Rows and weight by response length, in up to `_BINS` groups of about equal size: `low`, `high` (characters, both
    included), `rows`, `row_share`, `weight_share`. Rows without length are left out."""
    known = ~np.isnan(length) & np.isfinite(log_weight)
    rows = pd.DataFrame({"chars": length[known], "weight": self_normalised(log_weight[known])})
    edges = np.unique(np.quantile(rows.chars, np.linspace(0, 1, _BINS + 1))) if len(rows) else np.zeros(1)
    group = np.clip(np.searchsorted(edges, rows.chars, side="right") - 1, 0, max(len(edges) - 2, 0))
    groups = {"low": ("chars", "min"), "high": ("chars", "max"), "rows": ("chars", "size")}
    strata = rows.groupby(group).agg(**groups, weight_share=("weight", "sum")).reset_index(drop=True)
    return strata.assign(row_share=strata.rows / len(rows))


def ceiling_audit(log_weight: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Per policy: `rows`, `ess`, `ceiling` = sum of weights / largest weight, `tied` rows at the largest weight, and
    `clip_dominated`: more than one tied row and an ESS within 10 % of their number.

    When ESS equals the ceiling count, the number is the mean of the rows at the ceiling.
    """
    rows = []
    for policy, lw in log_weight.items():
        used = lw[np.isfinite(lw)]
        audit = audit_weights(used)
        total = float(np.exp(used - used.max()).sum()) if len(used) else float("nan")
        rows.append((policy, audit.n, audit.ess, total, audit.ceiling, audit.clip_dominated))
    return pd.DataFrame(rows, columns=["policy", "rows", "ess", "ceiling", "tied", "clip_dominated"])


def shrinkage_paths(log_weight: np.ndarray, reward: np.ndarray) -> pd.DataFrame:
    """SNIPS along three ways of shrinking weights, from the raw weights to equal ones: `method`, `strength`,
    `ess_share`, `value`.

    clip: min(w, M) (Ionides 2008); power: w^a, a from 1 to 0; dros: L w / (w^2 + L) (Su et al. 2020, optimistic
    shrinkage). `strength` is M relative to the largest weight, L relative to its square, or a; `ess_share` the
    effective sample size over n after shrinking. Optimistic shrinkage is followed while it evens weights out: beyond
    that it turns their order around.
    """
    known = np.isfinite(log_weight)
    lw, r = log_weight[known] - log_weight[known].max(initial=-np.inf), reward[known]
    levels = np.quantile(lw, np.linspace(1, 0, _POINTS)) if len(lw) else np.empty(0)
    shrunk = [("clip", float(np.exp(c)), np.minimum(lw, c)) for c in levels]
    shrunk += [("power", float(a), a * lw) for a in np.linspace(1, 0, len(levels))]
    # log(L w / (w^2 + L)) with L = exp(2 c).
    shrunk += [("dros", float(np.exp(2 * c)), 2 * c + lw - np.logaddexp(2 * lw, 2 * c)) for c in levels + 3]
    rows, evenest = [], 0.0
    for method, strength, log_shrunk in shrunk:
        w = self_normalised(log_shrunk)
        share = 1 / float(w @ w) / len(w)
        if method != "dros" or share >= evenest - 1e-9:
            evenest = max(evenest, share) if method == "dros" else 0.0
            rows.append((method, strength, share, float(w @ r)))
    return pd.DataFrame(rows, columns=["method", "strength", "ess_share", "value"])


def rank(value: float, values: Iterable[float]) -> int:
    """Place of a value among `values`, its own among them or not; those that are equal as printed share a place."""
    return 1 + sum(round(other, 3) > round(value, 3) for other in values)


def rank_first(published: np.ndarray) -> np.ndarray:
    """P(policy ranks first) from bootstrap values (b, k): (k,), ties shared; resamples without a value left out."""
    complete = published[~np.isnan(published).any(axis=1)]
    if len(complete) == 0:
        return np.full(published.shape[1], np.nan)
    best = complete >= complete.max(axis=1, keepdims=True) - _TIE
    return np.asarray((best / best.sum(axis=1, keepdims=True)).mean(axis=0))


@dataclass(frozen=True, eq=False)
class Flip:
    """Logged rows whose removal makes `rival` overtake `winner`. `exact`: no smaller set does."""

    winner: str
    rival: str
    rows: list[int]

    @property
    def exact(self) -> bool:
        return len(self.rows) == 1


def _without_each(log_weight: np.ndarray, reward: np.ndarray, left: np.ndarray) -> np.ndarray:
    """SNIPS without each row that is `left` (n,) in turn; NaN at the others and where no weight remains."""
    lw = np.where(left, log_weight, -np.inf)
    w = self_normalised(lw)
    with np.errstate(all="ignore"):
        out = ((w @ reward) - w * reward) / (1 - w)
    # The rest of a row that holds nearly everything is lost to rounding: at most one such row.
    for i in np.flatnonzero(w > 1 - 1e-6):
        out[i] = self_normalised(np.where(np.arange(len(lw)) == i, -np.inf, lw)) @ reward
    return np.where(left, out, np.nan)


def rows_to_flip(log_weight: Mapping[str, np.ndarray], reward: np.ndarray) -> Flip | None:
    """The fewest logged rows whose removal changes the policy that SNIPS ranks first; None when more than `_MOST`
    are needed.

    Against each rival, rows leave one at a time, each time the one whose removal costs the winner's lead most, all
    estimates recomputed. That set is the smallest when it holds one row; larger ones are upper bounds (choosing the
    best set of k rows is combinatorial).
    """
    values = {p: float(self_normalised(lw) @ reward) for p, lw in log_weight.items()}
    winner = max(values, key=lambda p: values[p] if np.isfinite(values[p]) else -np.inf)
    first, best, most = log_weight[winner], None, _MOST
    for rival in (p for p in log_weight if p != winner and values[p] < values[winner] - _TIE):
        left, removed = np.isfinite(first) | np.isfinite(log_weight[rival]), list[int]()
        while len(removed) < most:
            ahead = _without_each(first, reward, left) - _without_each(log_weight[rival], reward, left)
            if np.isnan(ahead).all():
                break
            removed.append(int(np.nanargmin(ahead)))
            left[removed[-1]] = False
            if ahead[removed[-1]] < -_TIE:
                best, most = Flip(winner, rival, removed), len(removed) - 1
                break
    return best
