"""When is a published number (SNIPS on judge scores) an anomaly? Three tests, with a stated false alarm rate.

It is one when it contradicts (1) the mean judge score of the policy's own draws, or (2) its trusted value, or when (3)
the order of two policies by it is the reverse of their trusted order and the policy is the one further from the truth.
The false alarm rate of a run is split between the tests and, within each, over policies and pairs (Bonferroni). In all,
a difference must exceed `TOLERANCE`; and where the published weights are healthy, also the noise of the published
number: unhealthy weights have no noise estimate that deserves the name, and do not excuse a wrong number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from arena10k.attribution.game import Game
from arena10k.estimation import ESTIMATORS, Score, Term, deviations
from arena10k.estimation.intervals import score_interval
from arena10k.estimation.pareto import WeightAudit, audit_weights

#: Of a run; and the smallest difference that counts.
FALSE_ALARM_RATE = 0.05
TOLERANCE = 0.1


@dataclass(frozen=True, eq=False)
class Published:
    """A published number: `value`, the effect of each prompt on it (n_clusters,), and the audit of its weights."""

    value: float
    deviation: np.ndarray
    audit: WeightAudit


@dataclass(frozen=True)
class Inversion:
    """`above` is published above `below`, and its trusted value is lower beyond the simultaneous interval.

    `trusted_difference` is below minus above (positive), `radius` its simultaneous half-width; `beyond_noise`: the
    published order is off by more than the tolerance and its own noise; `wrong` names the policy further from the
    truth.
    """

    above: str
    below: str
    published_difference: float
    trusted_difference: float
    radius: float
    beyond_noise: bool
    wrong: str


def published(game: Game) -> Published:
    """SNIPS on judge scores with the published log-weights, with its closed-form jackknife over prompts."""
    lw, judge = game.published_log_weight, game.prep.logged.judge
    top = lw.max(initial=-np.inf)
    if not np.isfinite(top):
        return Published(float("nan"), np.zeros(game.prep.n_clusters), audit_weights(np.empty(0)))
    w = np.exp(lw - top)
    score = Score((Term("logged", w * judge, w),))
    dev, _ = deviations(game.prep, score)
    return Published(score.value, dev, audit_weights(lw[np.isfinite(lw)]))


def _noise(deviation: np.ndarray, level: float, audits: tuple[WeightAudit, ...]) -> float:
    """Half-width of the published number at a one-sided `level`; 0 when weights are unhealthy."""
    half = stats.norm.isf(level) * np.sqrt(deviation @ deviation) if all(a.healthy for a in audits) else 0.0
    return float(half) if np.isfinite(half) else 0.0


def contradicted(game: Game, pub: Published, score: Score | None, level: float) -> bool | None:
    """Whether a published number lies outside of a score's interval at two-sided `level`, by more than `TOLERANCE` and
    its own noise; None where one of them is not there."""
    if score is None or not np.isfinite(pub.value):
        return None
    interval = score_interval(game.prep, score, 1 - level)
    margin = max(TOLERANCE, _noise(pub.deviation, level / 2, (pub.audit,)))
    return bool(pub.value > interval.high + margin or pub.value < interval.low - margin)


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    size = max(len(a), len(b))
    return np.asarray(np.pad(a, (0, size - len(a))) - np.pad(b, (0, size - len(b))))


def inversions(games: Mapping[str, Game], pub: Mapping[str, Published], logging_policy: str) -> list[Inversion]:
    """Test (3) over all pairs with trusted values, at a third of the family-wise rate; every inversion, whether beyond
    noise or not."""
    scores = {p: g.trusted for p, g in games.items() if g.trusted is not None and np.isfinite(pub[p].value)}
    pairs = list(combinations(scores, 2))
    level = FALSE_ALARM_RATE / 3 / max(len(pairs), 1)
    trusted = {p: score.value for p, score in scores.items()}
    interval = {p: score_interval(games[p].prep, score, 1 - 2 * level) for p, score in scores.items()}
    excess = {p: pub[p].value - trusted[p] for p in scores}
    base, inverted = excess.get(logging_policy, float("nan")), []
    for pair in pairs:
        above, below = sorted(pair, key=lambda p: -pub[p].value)
        ahead, fall = pub[above].value - pub[below].value, trusted[below] - trusted[above]
        radius = float(np.hypot(interval[above].high - trusted[above], trusted[below] - interval[below].low))
        if ahead <= 1e-12 or fall <= radius:
            continue
        spread = _difference(pub[above].deviation, pub[below].deviation)
        noise = _noise(spread, level, (pub[above].audit, pub[below].audit))
        wrong = below if base - excess[below] > excess[above] - base else above
        inverted.append(Inversion(above, below, ahead, fall, radius, ahead + fall > max(TOLERANCE, noise), wrong))
    return inverted


@dataclass(frozen=True, eq=False)
class Detection:
    """Outcome of the tests: by policy True, False, or None where nothing can be tested."""

    anomaly: dict[str, bool | None]
    inversions: list[Inversion]


def detect(games: Mapping[str, Game], pub: Mapping[str, Published], logging_policy: str) -> Detection:
    """All tests on all policies of a run."""
    level = FALSE_ALARM_RATE / 3 / max(len(games), 1)
    inverted = inversions(games, pub, logging_policy)
    wrong = {i.wrong for i in inverted if i.beyond_noise}
    anomaly: dict[str, bool | None] = {}
    for p, game in games.items():
        judged = ESTIMATORS["naive"].score(game.prep) if len(game.prep.fresh) else None
        tests = [contradicted(game, pub[p], score, level) for score in (judged, game.trusted)]
        anomaly[p] = None if tests == [None, None] else any(tests) or p in wrong
    return Detection(anomaly, inverted)
