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
from arena10k.estimation.calibration import LevelFit, pava

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
#: Resamples times rows that are computed at once.
_CHUNK = 2_000_000


def gap_parts(values: np.ndarray, missing: np.ndarray | float) -> np.ndarray:
    """Parts (..., 6) of the gap by `CAUSES` from `values` (..., 2, 5), see `state_values`, and the `missing` mass
    (...); they sum to values[..., 0, 0] - values[..., 1, 4]. A repair that changes nothing has part exactly 0."""
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
    the published number used, NaN where it used no number; None when nothing was corrupted. `clip` bounds the published
    log-weights at +-clip nats; None when they were not clipped.
    """

    data: PolicyData
    raw_log_weight: np.ndarray | None = None
    clip: float | None = None

    def clipped(self, log_weight: np.ndarray) -> np.ndarray:
        return log_weight if self.clip is None else np.clip(log_weight, -self.clip, self.clip)

    @property
    def published_log_weight(self) -> np.ndarray:
        """What the published number used (n,): raw, and clipped."""
        return self.clipped(self.data.logged.log_weight if self.raw_log_weight is None else self.raw_log_weight)

    @property
    def corrupted(self) -> np.ndarray:
        """Rows (n,) whose published log-weight is not the repaired one."""
        clean = self.data.logged.log_weight
        raw = clean if self.raw_log_weight is None else self.raw_log_weight
        with np.errstate(invalid="ignore"):
            return np.asarray(~(np.isnan(raw) | (np.abs(raw - clean) <= _SAME) | (raw == clean)))


@dataclass(frozen=True, eq=False)
class Game:
    """A case ready to be valued: prepared arrays of the rows with a judge score; their log-weights (4, n) as published,
    after S, C and T, -inf for rows not in use; which of them are `corrupted` (n,); and the score of the trusted
    estimator (None: no such value, so that all stays on the judge's scale). `mismatch`: the weights are known not to be
    those of the draws, so that they tell of no missing mass."""

    case: Case
    prep: Prepared
    log_weight: np.ndarray
    corrupted: np.ndarray
    trusted: Score | None
    mismatch: bool = False

    @property
    def published_log_weight(self) -> np.ndarray:
        """Log-weights (n,) of the published number, -inf for rows it did not use."""
        return np.asarray(self.log_weight[0])


def make_game(case: Case, prep: Prepared, trusted: Score | None = None, mismatch: bool = False) -> Game:
    """The game of a case; `prep` is that of its data."""
    judged = ~np.isnan(case.data.logged.judge)
    clean, bad = case.data.logged.log_weight[judged], case.corrupted[judged]
    clipped = case.clipped(clean)
    states = np.stack([np.where(bad, case.published_log_weight[judged], clipped), clipped, clean, clean])
    states = np.where(np.isnan(states), -np.inf, states)
    used = np.isfinite(states[3])
    # Where k-hat is undefined nothing is smoothed: the state stays the same to the last digit.
    if used.any() and (tail := pareto.tail_fit(states[3, used])) is not None:
        top = states[3, used].max()
        with np.errstate(divide="ignore"):
            states[3] = np.where(used, -np.inf, states[3])
            states[3, used] = np.log(pareto.smooth(states[2, used], tail)) + top
    return Game(case, prep, states, bad, trusted, mismatch)


def normalised(counts: np.ndarray, log_weight: np.ndarray) -> np.ndarray:
    """Self-normalised weights (b, n) of b resamples in which row i occurs `counts[b, i]` times; NaN without any weight.

    Each resample is divided by its own maximum where the common one would underflow.
    """
    top = log_weight.max(initial=-np.inf)
    if not np.isfinite(top):
        return np.full(counts.shape, np.nan)
    mass = counts * np.exp(log_weight - top)
    total = mass.sum(axis=1)
    low = np.flatnonzero(total < 1e-200)
    if len(low):
        inside = np.where(counts[low] > 0, log_weight, -np.inf)
        own = inside.max(axis=1, keepdims=True)
        mass[low] = counts[low] * np.exp(inside - np.where(np.isfinite(own), own, 0.0))
        total[low] = mass[low].sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(mass / total[:, None])


def self_normalised(log_weight: np.ndarray) -> np.ndarray:
    """Weights (n,) that sum to one from log-weights (n,), -inf for rows not in use; NaN when no row is in use."""
    return np.asarray(normalised(np.ones((1, len(log_weight))), log_weight)[0])


# Resamples: prompts are drawn with replacement, with all their logged and fresh rows; `counts` (b, n_clusters) says how
# often each prompt occurs in each, and all ones are the data as they are.


def missing_mass(game: Game, counts: np.ndarray) -> np.ndarray:
    """1 - E[w] (b,) over the rows with a clean weight in b resamples, at least 0; 0 where weights are known not to be
    those of the draws."""
    if game.mismatch:
        return np.zeros(len(counts))
    weights, times = np.exp(np.minimum(game.prep.log_weight, 700)), counts[:, game.prep.logged.cluster]
    with np.errstate(all="ignore"):
        return np.asarray(np.clip(1 - times @ weights / (times @ game.prep.has_weight), 0, 1))


def calibration_change(prep: Prepared, counts: np.ndarray) -> np.ndarray:
    """f of every resample minus f of the data, at each place of f: (b, P).

    f is refitted by isotonic regression on the resampled labels. It stays where it is no function of the score trained
    on labels, and in a resample that holds no label.
    """
    change = np.zeros((len(counts), prep.fit.values.shape[1]))
    if prep.source is None or not isinstance(prep.fit, LevelFit):
        return change
    rows = prep.sample(prep.source)
    labelled = np.flatnonzero(rows.labelled)
    code, label, cluster = prep.fit.code[prep.source][labelled], rows.label[labelled], rows.cluster[labelled]
    for b, drawn in enumerate(counts):
        weight = drawn[cluster]
        total, count = (np.bincount(code, weights=w, minlength=change.shape[1]) for w in (weight * label, weight))
        change[b] = np.nan_to_num(pava(prep.fit.levels, total, count) - prep.fit.values[-1], nan=0.0)
    return change


def state_values(game: Game, counts: np.ndarray) -> np.ndarray:
    """The values (b, 2, 5) of b resamples on the judge's and on the oracle's scale, by `STATES`.

    Everything is recomputed but two things: Pareto smoothing is a function of the row fixed by the data (a resample
    repeats its largest weight, and a tail with ties cannot be fitted), and the power of PPI++ stays.
    """
    prep, values = game.prep, np.empty((len(counts), 2, len(STATES)))
    logged, drawn = counts[:, prep.logged.cluster], counts[:, prep.fresh.cluster]
    calibrated = prep.logged.judge
    with np.errstate(all="ignore"):
        trusted = own_draws = drawn @ prep.fresh.judge / drawn.sum(axis=1)
    if game.trusted is not None:
        change = calibration_change(prep, counts)
        calibrated, trusted = prep.reward + change[:, prep.fit.code["logged"]], np.zeros(len(counts))
        for term in game.trusted.terms:
            times = logged if term.sample == "logged" else drawn
            total = times @ term.num
            if "f" in term.slopes:
                total = total + (times * change[:, prep.fit.code[term.sample]]) @ term.slopes["f"]
            with np.errstate(all="ignore"):
                trusted = trusted + total / (times @ term.den)
    for k, log_weight in enumerate(game.log_weight):
        mass = normalised(logged, log_weight)
        values[:, 0, k], values[:, 1, k] = mass @ prep.logged.judge, (mass * calibrated).sum(axis=1)
    # Without draws nothing takes the place of the logged rows.
    values[:, 0, -1] = np.where(np.isnan(own_draws), values[:, 0, -2], own_draws)
    values[:, 1, -1] = trusted
    return values


def bootstrap(game: Game, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The published number (b,) and the parts (b, 6) of the gap in every resample; without a trusted value, of the gap
    to the judge's mean of the target's own draws, and NaN without draws."""
    step = max(1, _CHUNK // max(len(game.prep.logged), len(game.prep.fresh), 1))
    chunks = [counts[i : i + step] for i in range(0, len(counts), step)]
    values = np.concatenate([state_values(game, chunk) for chunk in chunks])
    missing = np.concatenate([missing_mass(game, chunk) for chunk in chunks])
    return values[:, 0, 0], gap_parts(values, missing)
