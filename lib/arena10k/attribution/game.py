"""The repair game: what the estimate is as its faults are repaired, and what each repair takes from the gap.

Repairs, in this order: S quarantines corrupted log-probs, C removes clipping, T smooths the tail (PSIS); then M puts
the target's own draws in the place of the logged rows, and J the oracle's scale in the place of the judge's. S, C and T
fix the weights as they stand, so they come first, on the scale that was published: M would repair whatever is wrong
with a weight, and be credited with it. M and J act on each other, so both orders are averaged: asymmetric Shapley
values (Frye et al. 2020). Parts are contributions to *published minus trusted*; a positive part is overvaluation.

M is credited with what the missing mass 1 - E[w] can explain: that mass is worth something between 0 and 1. What is
beyond it on the judge's own scale is no matter of calibration: weights and draws are not of the same policy, or it is
chance. What is beyond it on the oracle's scale alone is the judge's: its calibration does not carry over to the draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from arena10k.estimation import PolicyData, Prepared, Score, pareto
from arena10k.estimation.data import LEFT_OUT

#: The parts of a gap, in words.
CAUSE_WORDS = {
    "corrupted_logprobs": "corrupted log-probs",
    "clipping": "clipping",
    "tail": "heavy tail",
    "judge_bias": "judge bias",
    "off_support": "off-support mass",
    "weights_do_not_match_draws": "weights that do not match the draws",
}
CAUSES = tuple(CAUSE_WORDS)
#: The states a number goes through: as published, after S, C and T, and the target's own draws.
STATES = ("published", "S", "C", "T", "M")
_SAME = 1e-9


def gap_parts(values: np.ndarray, missing: np.ndarray | float) -> np.ndarray:
    """Parts (..., 6) of the gap by `CAUSES` from `values` (..., 2, 5), see `game_values`, and the `missing` mass (...).

    They sum to values[..., 0, 0] - values[..., 1, 4]. A repair that changes nothing has part exactly 0.
    """
    judge, oracle = values[..., 0, :], values[..., 1, :]

    def off_support(on: np.ndarray, fall: np.ndarray) -> np.ndarray:
        return np.asarray(np.clip(fall, -missing * (1 - on), missing * on))

    fall = judge[..., 3] - judge[..., 4]
    first = off_support(judge[..., 3], fall)
    beyond = fall - first
    fall = oracle[..., 3] - oracle[..., 4] - beyond
    last = off_support(oracle[..., 3], fall)
    judged = (judge[..., 4] - oracle[..., 4] + judge[..., 3] - oracle[..., 3] + fall - last) / 2
    weights = judge[..., :3] - judge[..., 1:4]
    parts = np.stack([*np.moveaxis(weights, -1, 0), judged, (first + last) / 2, beyond], axis=-1)
    return np.where(np.isnan(oracle[..., 4, None]), np.nan, parts)


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
        if self.raw_log_weight is None:
            object.__setattr__(self, "raw_log_weight", self.data.logged.log_weight)

    @property
    def published_log_weight(self) -> np.ndarray:
        """What the published number used (n,): raw, and clipped."""
        return _clipped(self.raw_log_weight, self.clip)


def corrupted_rows(case: Case) -> np.ndarray:
    """Rows (n,) whose published log-weight is not the repaired one."""
    raw, clean = case.raw_log_weight, case.data.logged.log_weight
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


def weightings(case: Case, keep: np.ndarray) -> np.ndarray:
    """Log-weights (4, rows) of the rows `keep` (n,), a mask: as published, after S, C and T; -inf for rows not in
    use."""
    clean = case.data.logged.log_weight[keep]
    published = np.where(corrupted_rows(case)[keep], case.raw_log_weight[keep], clean)
    states = np.stack([_clipped(published, case.clip), _clipped(clean, case.clip), clean, clean])
    states = np.where(np.isnan(states), -np.inf, states)
    states[3] = _smoothed(states[2])
    return states


@dataclass(frozen=True, eq=False)
class Game:
    """A case ready to be valued: prepared arrays, weightings, and the score of the trusted estimator (None: no such
    value, so that all stays on the judge's scale). `mismatch`: the weights are known not to be those of the draws, so
    that they tell of no missing mass."""

    prep: Prepared
    log_weight: np.ndarray
    trusted: Score | None
    mismatch: bool = False

    @property
    def published_log_weight(self) -> np.ndarray:
        """Log-weights (n,) of the published number, -inf for rows it did not use."""
        return np.asarray(self.log_weight[0])

    @property
    def clean_log_weight(self) -> np.ndarray:
        """Log-weights (n,) with corrupted values quarantined and no clipping, -inf for rows without one."""
        return np.asarray(self.log_weight[2])


def make_game(case: Case, prep: Prepared, trusted: Score | None = None, mismatch: bool = False) -> Game:
    """The game of a case; `prep` is that of its data."""
    return Game(prep, weightings(case, ~np.isnan(case.data.logged.judge)), trusted, mismatch)


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
    """The values (b, 2, 5) of b resamples on the judge's and on the oracle's scale, by `STATES`.

    Parameters
    ----------
    counts : (b, n) times each logged row occurs.
    calibrated : (b, n) or (n,) f(S) of the logged rows.
    fresh_judge, trusted : (b,) mean judge score of the target's draws; trusted value.
    """
    values = np.empty((len(counts), 2, len(STATES)))
    for k, log_weight in enumerate(game.log_weight):
        mass = normalised(counts, log_weight)
        values[:, 0, k], values[:, 1, k] = mass @ game.prep.logged.judge, (mass * calibrated).sum(axis=1)
    # Without draws nothing takes the place of the logged rows.
    values[:, 0, -1] = np.where(np.isnan(fresh_judge), values[:, 0, -2], fresh_judge)
    values[:, 1, -1] = trusted
    return values


def missing_mass(game: Game, counts: np.ndarray) -> np.ndarray:
    """1 - E[w] (b,) over the rows with a clean weight in b resamples, at least 0; 0 where weights are known not to be
    those of the draws."""
    if game.mismatch:
        return np.zeros(len(counts))
    weights = np.exp(np.minimum(game.prep.log_weight, 700))
    with np.errstate(all="ignore"):
        mean = counts @ weights / (counts @ game.prep.has_weight)
    return np.asarray(np.clip(1 - mean, 0, 1))


def point_parts(game: Game) -> np.ndarray:
    """The parts (6,) of the gap on the data as they are, by `CAUSES`; where there is no trusted value, of the gap to
    the judge's mean of the target's own draws, on the judge's scale. NaN where there is no draw either."""
    prep, nan = game.prep, np.full(1, np.nan)
    fresh = np.array([prep.fresh.judge.mean()]) if len(prep.fresh) else nan
    trusted, calibrated = fresh, prep.logged.judge
    if game.trusted is not None:
        trusted, calibrated = np.array([game.trusted.value]), prep.reward
    ones = np.ones((1, len(prep.logged)))
    values = game_values(game, ones, calibrated, fresh, trusted)
    return np.asarray(gap_parts(values, missing_mass(game, ones))[0])
