"""The repair game: what the estimate is after any subset of five repairs, and exact Shapley parts of the gap.

Repairs: S sets corrupted log-probs aside, C removes clipping, T smooths the tail (PSIS), J maps the judge to the
oracle's scale, M replaces off-support mass by the target's own draws. v(nothing repaired) is the published number,
v(all) the trusted value; parts are contributions to *published minus trusted*, so a positive part is overvaluation
that its repair removes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from arena10k.estimators import PolicyData, Prepared, Score, pareto, prepare
from arena10k.estimators.data import LEFT_OUT

#: What each repair mends, in words.
CAUSE_WORDS = {
    "corrupted_logprobs": "corrupted log-probs",
    "clipping": "clipping",
    "tail": "heavy tail",
    "judge_bias": "judge bias",
    "off_support": "off-support mass",
}
CAUSES = tuple(CAUSE_WORDS)
S, C, T, J, M = (1 << i for i in range(5))
N_SUBSETS = 32
_SAME = 1e-9


def shapley_parts(values: np.ndarray) -> np.ndarray:
    """Exact Shapley parts (..., p) of v(none) - v(all) from the values (..., 2^p) of all subsets of p repairs.

    Subsets are bit masks: entry 5 is the value after repairs 0 and 2. Part j is the average, over all orders of
    repairing, of the fall v(before) - v(after) when j is applied (Shapley 1953). A repair that never changes the
    value has part exactly 0.
    """
    p = int(values.shape[-1]).bit_length() - 1
    if values.shape[-1] != 1 << p:
        raise ValueError(f"values: last axis must be a power of two, got {values.shape[-1]}")
    subsets = np.arange(1 << p)
    parts = []
    for j in range(p):
        before = subsets[subsets >> j & 1 == 0]
        share = [1 / (p * math.comb(p - 1, int(b).bit_count())) for b in before]
        parts.append((values[..., before] - values[..., before | 1 << j]) @ np.array(share))
    return np.stack(parts, axis=-1)


@dataclass(frozen=True, eq=False)
class Case:
    """One policy as it was published and as it is known now.

    `data` holds the repaired arrays: log-weight NaN where the log-prob was quarantined. `raw_log_weight` (n,) is what
    the published number used, NaN where it used no number; left out when nothing was corrupted. `clip` bounds the
    published log-weights at +-clip nats; None when they were not clipped.
    """

    data: PolicyData
    raw_log_weight: np.ndarray = LEFT_OUT
    clip: float | None = None

    def __post_init__(self) -> None:
        raw = self.data.log_weight if self.raw_log_weight is None else np.asarray(self.raw_log_weight, np.float64)
        if raw.shape != self.data.log_weight.shape:
            raise ValueError(f"raw_log_weight: expected shape {self.data.log_weight.shape}, got {raw.shape}")
        if np.isposinf(raw).any():
            raise ValueError("raw_log_weight: +inf is not a log-weight")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip: must be positive, got {self.clip}")
        object.__setattr__(self, "raw_log_weight", raw)


@dataclass(frozen=True, eq=False)
class States:
    """The distinct weightings of the logged rows over the subsets of {S, C, T}.

    `log_weight` (k, n), -inf for rows not in use; `concealing` (k, n) marks the rows whose weight is corrupted;
    `index` (8,) maps a subset of {S, C, T} to its weighting. Subsets that give the same weights share one entry, so
    that a repair with nothing to repair contributes exactly 0.
    """

    log_weight: np.ndarray
    concealing: np.ndarray
    index: np.ndarray


def corrupted_rows(case: Case) -> np.ndarray:
    """Rows (n,) whose published log-weight is not the repaired one."""
    raw, clean = case.raw_log_weight, case.data.log_weight
    with np.errstate(invalid="ignore"):
        same = (np.abs(raw - clean) <= _SAME) | (raw == clean)
    return np.asarray(~np.isnan(raw) & ~same)


def _smoothed(log_weight: np.ndarray) -> np.ndarray:
    used = np.isfinite(log_weight)
    if not used.any() or np.isnan(pareto.khat(log_weight[used])):
        return log_weight
    out = np.full(len(log_weight), -np.inf)
    with np.errstate(divide="ignore"):
        out[used] = np.log(pareto.smooth(log_weight[used])) + log_weight[used].max()
    return out


def _clipped(log_weight: np.ndarray, clip: float | None) -> np.ndarray:
    return log_weight if clip is None else np.clip(log_weight, -clip, clip)


def states(case: Case, keep: np.ndarray) -> States:
    """All weightings of the rows `keep` (n,), a mask.

    C and T act on measured log-probs. A corrupted one has no unclipped value to go back to and no place in a tail:
    until S sets it aside its weight stays as published.
    """
    raw, clean = case.raw_log_weight[keep], case.data.log_weight[keep]
    bad = corrupted_rows(case)[keep]
    published = _clipped(raw, case.clip)
    found: list[np.ndarray] = []
    concealing: list[np.ndarray] = []
    index = np.zeros(8, dtype=int)
    for subset in range(8):
        lw = clean if subset & S else np.where(bad, np.nan, clean)
        lw = lw if subset & C else _clipped(lw, case.clip)
        lw = np.where(np.isnan(lw), -np.inf, lw)
        lw = _smoothed(lw) if subset & T else lw
        hides = np.zeros(len(lw), dtype=bool) if subset & S else bad
        lw = np.where(hides, published, lw)
        matches = [
            k for k in range(len(found)) if np.array_equal(found[k], lw) and np.array_equal(concealing[k], hides)
        ]
        if not matches:
            found.append(lw)
            concealing.append(hides)
        index[subset] = matches[0] if matches else len(found) - 1
    return States(np.vstack(found), np.vstack(concealing), index)


@dataclass(frozen=True, eq=False)
class Game:
    """A case ready to be valued: prepared arrays, weightings, and the score of the trusted estimator (None: no such
    value)."""

    prep: Prepared
    states: States
    trusted: Score | None

    @property
    def published_log_weight(self) -> np.ndarray:
        """Log-weights (n,) of the published number, -inf for rows it did not use."""
        return np.asarray(self.states.log_weight[self.states.index[0]])

    @property
    def clean_log_weight(self) -> np.ndarray:
        """Log-weights (n,) with corrupted values set aside and no clipping, -inf for rows without one."""
        return np.asarray(self.states.log_weight[self.states.index[S | C]])


def make_game(case: Case, trusted: Score | None = None, prep: Prepared | None = None) -> Game:
    """The game of a case; `prep` is `prepare(case.data)` if it is at hand already."""
    keep = ~np.isnan(case.data.judge)
    return Game(prepare(case.data) if prep is None else prep, states(case, keep), trusted)


def normalised(counts: np.ndarray, log_weight: np.ndarray) -> np.ndarray:
    """Self-normalised weights (b, n) of b resamples in which row i occurs `counts[b, i]` times; NaN without any weight.

    Each resample is shifted by its own maximum where the common one would underflow.
    """
    top = log_weight.max(initial=-np.inf)
    if not np.isfinite(top):
        return np.full(counts.shape, np.nan)
    mass = counts * np.exp(log_weight - top)
    total = mass.sum(axis=1)
    low = np.flatnonzero(total < 1e-200)
    if len(low):
        inside = np.where(counts[low] > 0, log_weight, -np.inf)
        shift = inside.max(axis=1, keepdims=True)
        mass[low] = counts[low] * np.exp(inside - np.where(np.isfinite(shift), shift, 0.0))
        total[low] = mass[low].sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(mass / total[:, None])


def game_values(
    game: Game, counts: np.ndarray, calibrated: np.ndarray, fresh_judge: np.ndarray, trusted: np.ndarray
) -> np.ndarray:
    """v of every subset of repairs for b resamples: (b, 32).

    Parameters
    ----------
    counts : (b, n) times each logged row occurs.
    calibrated : (b, n) or (n,) f(S) of the logged rows.
    fresh_judge, trusted : (b,) mean judge score of the target's draws; trusted value.

    Notes
    -----
    Without M the value is the self-normalised mean; M puts the mean of the fresh draws in its place. Repairs act on
    measured rows only: until S sets the corrupted rows aside, their weight looks like support and what they
    contribute stays as published, q times their mean, while the other repairs reach the share 1 - q. In the language
    of cooperative games S has to permit the other repairs (conjunctive permission value, Gilles, Owen & van den Brink
    1992), in proportion to q; with nothing corrupted q = 0 and the game is plain.
    """
    judge = game.prep.logged.judge
    values = np.empty((len(counts), N_SUBSETS))
    parts = []
    for lw, hides in zip(game.states.log_weight, game.states.concealing, strict=True):
        mass = normalised(counts, lw)
        plain, scaled = mass @ judge, (mass * calibrated).sum(axis=1)
        hidden = mass[:, hides]
        share, stays = hidden.sum(axis=1), hidden @ judge[hides]
        scaled = scaled - (hidden * calibrated[..., hides]).sum(axis=1) + stays
        parts.append((plain, scaled, stays + (1 - share) * fresh_judge, stays + (1 - share) * trusted))
    for subset in range(N_SUBSETS):
        state = parts[game.states.index[subset & (S | C | T)]]
        values[:, subset] = state[bool(subset & J) + 2 * bool(subset & M)]
    return values


def point_values(game: Game) -> np.ndarray:
    """v of every subset on the data as they are: (32,); NaN for subsets with M where there is no trusted value."""
    prep, nan = game.prep, float("nan")
    fresh = float(prep.fresh.judge.mean()) if len(prep.fresh) else nan
    trusted = nan if game.trusted is None else game.trusted.value
    ones = np.ones((1, len(prep.logged)))
    return np.asarray(game_values(game, ones, prep.reward, np.array([fresh]), np.array([trusted]))[0])
