"""Cluster bootstrap of the repair game: prompts are drawn with replacement, with all their logged and fresh rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from arena10k.attribution.game import Game, game_values, gap_parts, missing_mass
from arena10k.estimation import Prepared, Score
from arena10k.estimation.calibration import LevelFit, pava

_CHUNK = 2_000_000


def prompt_counts(n_clusters: int, replicates: int, seed: int) -> np.ndarray:
    """How often each prompt occurs in each resample: (replicates, n_clusters) float64, rows sum to `n_clusters`."""
    rng = np.random.default_rng(seed)
    draws = (rng.integers(0, n_clusters, n_clusters) for _ in range(replicates))
    return np.array([np.bincount(drawn, minlength=n_clusters) for drawn in draws], dtype=float)


@dataclass(frozen=True, eq=False)
class Replicates:
    """Bootstrap values of one policy: the `published` number (b,) and the `parts` (b, 6) of the gap."""

    published: np.ndarray
    parts: np.ndarray


def calibration_shift(prep: Prepared, counts: np.ndarray) -> np.ndarray | None:
    """f of every resample minus f of the data, at each judge level: (b, L); None where f is not trained on labels.

    f is refitted by isotonic regression on the resampled labels. A resample that holds no label keeps f.
    """
    if prep.source is None or not isinstance(prep.fit, LevelFit):
        return None
    rows = prep.sample(prep.source)
    labelled = np.flatnonzero(rows.labelled)
    code = prep.fit.code[prep.source][labelled]
    label, cluster = rows.label[labelled], rows.cluster[labelled]
    size, base = len(prep.fit.levels), prep.fit.values[-1]
    shift = np.zeros((len(counts), size))
    for b, drawn in enumerate(counts):
        weight = drawn[cluster]
        total = np.bincount(code, weights=weight * label, minlength=size)
        fitted = pava(prep.fit.levels, total, np.bincount(code, weights=weight, minlength=size))
        shift[b] = np.nan_to_num(fitted - base, nan=0.0)
    return shift


def resampled_score(prep: Prepared, score: Score, counts: np.ndarray, shift: np.ndarray | None) -> np.ndarray:
    """Value (b,) of a score in every resample; `shift` (b, L) moves f through the score's own slopes."""
    total = np.zeros(len(counts))
    for term in score.terms:
        times = counts[:, prep.sample(term.sample).cluster]
        num = times @ term.num
        if shift is not None and isinstance(prep.fit, LevelFit) and "f" in term.slopes:
            moved = shift[:, prep.fit.code[term.sample]]
            num = num + (times * moved) @ term.slopes["f"]
        with np.errstate(all="ignore"):
            total += num / (times @ term.den)
    return total


def _chunk(game: Game, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    prep = game.prep
    shift = calibration_shift(prep, counts)
    fresh = np.full(len(counts), np.nan)
    if len(prep.fresh):
        times = counts[:, prep.fresh.cluster]
        with np.errstate(invalid="ignore"):
            fresh = times @ prep.fresh.judge / times.sum(axis=1)
    if game.trusted is None:
        trusted, calibrated = fresh, prep.logged.judge
    else:
        trusted, calibrated = resampled_score(prep, game.trusted, counts, shift), prep.reward
        if shift is not None and isinstance(prep.fit, LevelFit):
            calibrated = prep.reward + shift[:, prep.fit.code["logged"]]
    logged = counts[:, prep.logged.cluster]
    values = game_values(game, logged, calibrated, fresh, trusted)
    return values[:, 0, 0], gap_parts(values, missing_mass(game, logged))


def bootstrap(game: Game, counts: np.ndarray) -> Replicates:
    """The game in every resample of `counts` (b, n_clusters), see `prompt_counts`.

    Everything is recomputed but two things: Pareto smoothing is a function of the row fixed by the data (a resample
    repeats its largest weight, and a tail with ties cannot be fitted), and the power of PPI++ stays.
    """
    step = max(1, _CHUNK // max(len(game.prep.logged), len(game.prep.fresh), 1))
    parts = [_chunk(game, counts[i : i + step]) for i in range(0, len(counts), step)]
    return Replicates(*(np.concatenate(p) for p in zip(*parts, strict=True)))


def percentile_interval(draws: np.ndarray, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval over axis 0, resamples without a value left out; NaN where none has one."""
    tail = (1 - confidence) / 2
    complete = draws[~np.isnan(draws).reshape(len(draws), -1).any(axis=1)]
    if len(complete) == 0:
        nan = np.full(draws.shape[1:], np.nan)
        return nan, nan
    low, high = np.quantile(complete, [tail, 1 - tail], axis=0)
    return low, high
