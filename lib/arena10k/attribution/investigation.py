"""The investigation of a run: published number (SNIPS on judge scores), trusted value, whether one contradicts the
other, and what the gap between them is made of.

A published number is an anomaly when it contradicts (1) the mean judge score of the policy's own draws, or (2) its
trusted value, or when (3) the order of two policies by it is the reverse of their trusted order and the policy is the
one further from the truth. The false alarm rate of a run is split between the tests and, within each, over policies and
pairs (Bonferroni). In all, a difference must exceed `TOLERANCE`; and where the published weights are healthy, also the
noise of the published number: unhealthy weights have no noise estimate that deserves the name, and do not excuse a
wrong number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from arena10k.analysis import DEFAULT, Analysis
from arena10k.attribution import weights
from arena10k.attribution.game import CAUSES, Case, Game, bootstrap, make_game, missing_mass, self_normalised
from arena10k.estimation import ESTIMATORS, Score, Term, deviations, policies_data
from arena10k.estimation.compare import aligned
from arena10k.estimation.context import context
from arena10k.estimation.data import numbers
from arena10k.estimation.headline import headline
from arena10k.estimation.intervals import score_interval
from arena10k.estimation.pareto import WeightAudit, audit_weights
from arena10k.estimation.scale import UNIT, Scale
from arena10k.estimation.verdicts import estimate_row
from arena10k.frames.table import Table

#: Of a run; and the smallest difference that counts.
FALSE_ALARM_RATE = 0.05
TOLERANCE = 0.1
#: Pairs in the wrong order: `above` is published above `below`, and its trusted value is lower beyond the simultaneous
#: half-width `radius`. Differences are positive. `beyond_noise`: the published order is off by more than the tolerance
#: and its own noise; `wrong` names the policy further from the truth.
INVERSION = ["above", "below", "published_difference", "trusted_difference", "radius", "beyond_noise", "wrong"]


@dataclass(frozen=True, eq=False)
class Published:
    """A published number: `value`, the effect of each prompt on it (n_clusters,), and the audit of its weights."""

    value: float
    deviation: np.ndarray
    audit: WeightAudit


def published(game: Game) -> Published:
    """SNIPS on judge scores with the published log-weights, with its closed-form jackknife over prompts."""
    lw, judge = game.published_log_weight, game.prep.logged.judge
    audit, top = audit_weights(lw[np.isfinite(lw)]), lw.max(initial=-np.inf)
    if not audit.n:
        return Published(float("nan"), np.zeros(game.prep.n_clusters), audit)
    w = np.exp(lw - top)
    score = Score((Term("logged", w * judge, w),))
    return Published(score.value, deviations(game.prep, score)[0], audit)


def _margin(deviation: np.ndarray, level: float, *audits: WeightAudit) -> float:
    """By how much a published number or difference must be off to count: `TOLERANCE`, or its own noise at a one-sided
    `level` where that is more and weights are healthy."""
    noise = stats.norm.isf(level) * np.sqrt(deviation @ deviation) if all(a.healthy for a in audits) else 0.0
    return max(TOLERANCE, float(noise)) if np.isfinite(noise) else TOLERANCE


def detect(
    games: Mapping[str, Game], pub: Mapping[str, Published], logging_policy: str
) -> tuple[dict[str, bool | None], pd.DataFrame]:
    """All tests on the published numbers `pub` of a run: by policy whether it is an anomaly, None where nothing can be
    tested; and every pair in the wrong order, see `INVERSION`, whether beyond noise or not."""
    inverted = _inversions(games, pub, logging_policy)
    wrong = set(inverted.wrong[inverted.beyond_noise.astype(bool)])
    level = FALSE_ALARM_RATE / 3 / max(len(games), 1)
    anomaly: dict[str, bool | None] = {}
    for p, game in games.items():
        scores = [ESTIMATORS["naive"].score(game.prep)] if len(game.prep.fresh) else []
        scores += [] if game.trusted is None else [game.trusted]
        tests = [p in wrong]
        for score in scores:
            interval = score_interval(game.prep, score, 1 - level)
            margin = _margin(pub[p].deviation, level / 2, pub[p].audit)
            tests.append(bool(pub[p].value > interval.high + margin or pub[p].value < interval.low - margin))
        anomaly[p] = any(tests) if scores and np.isfinite(pub[p].value) else None
    return anomaly, inverted


def _inversions(games: Mapping[str, Game], pub: Mapping[str, Published], logging_policy: str) -> pd.DataFrame:
    """Test (3) over all pairs with trusted values, at a third of the family-wise rate."""
    scores = {p: g.trusted for p, g in games.items() if g.trusted is not None and np.isfinite(pub[p].value)}
    pairs = list(combinations(scores, 2))
    level = FALSE_ALARM_RATE / 3 / max(len(pairs), 1)
    trusted = {p: score.value for p, score in scores.items()}
    interval = {p: score_interval(games[p].prep, score, 1 - 2 * level) for p, score in scores.items()}
    excess = {p: pub[p].value - trusted[p] for p in scores}
    base, rows = excess.get(logging_policy, float("nan")), []
    for pair in pairs:
        above, below = sorted(pair, key=lambda p: -pub[p].value)
        first, second = pub[above], pub[below]
        ahead, fall = first.value - second.value, trusted[below] - trusted[above]
        radius = float(np.hypot(interval[above].high - trusted[above], trusted[below] - interval[below].low))
        if ahead <= 1e-12 or fall <= radius:
            continue
        spread = np.subtract(*aligned(first.deviation, second.deviation))
        beyond = ahead + fall > _margin(spread, level, first.audit, second.audit)
        wrong = below if base - excess[below] > excess[above] - base else above
        rows.append((above, below, ahead, fall, radius, beyond, wrong))
    return pd.DataFrame(rows, columns=INVERSION)


@dataclass(frozen=True, eq=False)
class Attribution:
    """One policy.

    `parts`, `part_low`, `part_high` (6,) follow `CAUSES` and are contributions to `gap`. `trusted` is a row of
    estimates.json or None. `anomaly` is None where it cannot be tested. `corrupted_share` is the share of the
    `corrupted` logged rows of the published weight; `mass` as from `weights.mass_identity`. `estimate` is the row of
    SNIPS (calibrated) on repaired data; `labels_needed` are labels on the target's own draws for the requested width.
    Values are on the label's `scale`.
    """

    policy: str
    game: Game
    published: Published
    rank: int
    rank_first: float
    trusted: dict[str, Any] | None
    parts: np.ndarray
    part_low: np.ndarray
    part_high: np.ndarray
    anomaly: bool | None
    corrupted_share: float
    mass: dict[str, float]
    estimate: dict[str, Any]
    labels_needed: int | None
    confidence: float
    scale: Scale = UNIT

    @property
    def log_weight(self) -> np.ndarray:
        """Published log-weights of the logged rows with a judge score (n,), NaN for rows that were not used."""
        lw = self.game.published_log_weight
        return np.where(np.isfinite(lw), lw, np.nan)

    @property
    def corrupted(self) -> int:
        """Logged rows whose published log-weight was corrupted."""
        return int(self.game.corrupted.sum())

    @property
    def own_draws(self) -> float:
        """The judge's mean score of the policy's own draws; NaN where there is none."""
        fresh = self.game.prep.fresh
        return self.scale.at(float(fresh.judge.mean())) if len(fresh) else float("nan")

    @property
    def gap(self) -> float:
        """Published minus trusted, or, without a trusted value, minus `own_draws`; NaN without either."""
        return self.published.value - (self.own_draws if self.trusted is None else self.trusted["value"])

    @property
    def unsettled(self) -> bool:
        """No anomaly is shown, and the gap to the trusted value is larger than what counts."""
        return self.anomaly is False and self.trusted is not None and abs(self.gap) > TOLERANCE * self.scale.size

    @property
    def main_cause(self) -> str | None:
        """Name of the main cause, None without an anomaly.

        Where corrupted rows hold more than half of the published weight the number is their mean, and that comes first
        whatever else is wrong. Otherwise the largest part among those that go the way of the gap and whose interval
        excludes 0. Where that is what no other cause explains, weights that do not match the draws are named only if a
        test says so: chance leaves a rest as well.
        """
        if not self.anomaly:
            return None
        if self.corrupted_share > 0.5:
            return "corrupted_logprobs"
        clear = ((self.part_low > 0) | (self.part_high < 0)) & (self.parts * self.parts.sum() > 0)
        if not clear.any():
            return None
        largest = CAUSES[int(np.argmax(np.where(clear, np.abs(self.parts), -1)))]
        return largest if self.game.mismatch or largest != "weights_do_not_match_draws" else None


@dataclass(frozen=True, eq=False)
class Investigation:
    """All policies of a run; `inversions` as in `INVERSION`, `flip` as from `weights.rows_to_flip`, `truth` maps
    policies to (value, standard error) where the true value was measured."""

    policies: dict[str, Attribution]
    inversions: pd.DataFrame
    flip: weights.Flip | None
    logging_policy: str
    truth: dict[str, tuple[float, float]]
    judge: str

    @property
    def order(self) -> list[Attribution]:
        """Policies by published number, best first, those without one last."""
        return sorted(self.policies.values(), key=lambda f: -np.nan_to_num(f.published.value, nan=-1))

    @property
    def anomalies(self) -> list[Attribution]:
        """Policies with an anomaly, the highest published number first."""
        return [f for f in self.order if f.anomaly]

    @property
    def focus(self) -> Attribution:
        """The policy to look at closely: the target with an anomaly and the highest published number, else the one
        whose published number is furthest from its trusted value."""
        wrong = [f for f in self.anomalies if f.policy != self.logging_policy] or self.anomalies
        targets = [f for f in self.policies.values() if f.policy != self.logging_policy]
        return wrong[0] if wrong else max(targets, key=lambda f: abs(np.nan_to_num(f.gap)))


def investigate(
    cases: Mapping[str, Case],
    logging_policy: str,
    truth: Mapping[str, tuple[float, float]] | None = None,
    facts: Mapping[str, Iterable[str]] | None = None,
    judge: str = "deterministic",
    analysis: Analysis = DEFAULT,
    replicates: int = 500,
    mismatch: Mapping[str, bool] | None = None,
    scale: Scale = UNIT,
) -> Investigation:
    """Investigate the policies of a run; prompt codes (`cluster`) must mean the same prompt in every case.

    `truth` are measured values, stated but never used; `facts` as for `evaluation.study`; `replicates` bootstrap
    resamples, the same prompts for every policy; `mismatch` by policy whether weights and draws are of different
    policies, by its own test where left out; `scale` the label's, on which values come back.
    """
    contexts = {p: context(c.data, analysis, (facts or {}).get(p, ())) for p, c in cases.items()}
    trusted = {p: headline(ctx) for p, ctx in contexts.items()}
    games = {}
    for p, ctx in contexts.items():
        row, rejected = trusted[p], "weights_do_not_match_draws" in ctx.wrong_weights
        score = None if row is None else ESTIMATORS[row["estimator"]].score(ctx.prep)
        games[p] = make_game(cases[p], ctx.prep, score, (mismatch or {}).get(p, rejected))
    pub = {p: published(game) for p, game in games.items()}
    anomaly, inversions = detect(games, pub, logging_policy)
    rng, n = np.random.default_rng(0), max(g.prep.n_clusters for g in games.values())
    counts = np.array([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(replicates)], dtype=float)
    drawn = {p: bootstrap(g, counts) for p, g in games.items()}
    usable = [p for p in games if np.isfinite(pub[p].value)]
    first = dict(zip(usable, weights.rank_first(np.column_stack([drawn[p][0] for p in usable])), strict=True))
    found = {}
    for p, game in games.items():
        row, as_is = trusted[p], np.ones((1, game.prep.n_clusters))
        low, high = _percentile_interval(drawn[p][1], analysis.confidence)
        on = float(self_normalised(game.log_weight[2]) @ game.prep.reward)
        covered = 1 - float(missing_mass(game, as_is)[0])
        mass = weights.mass_identity(covered, on, float("nan") if row is None else row["value"])
        found[p] = Attribution(
            policy=p,
            game=game,
            published=replace(pub[p], value=scale.at(pub[p].value)),
            rank=weights.rank(pub[p].value, (pub[q].value for q in usable)),
            rank_first=first.get(p, float("nan")),
            trusted=row and scale.row(row),
            parts=scale.size * bootstrap(game, as_is)[1][0],
            part_low=scale.size * low,
            part_high=scale.size * high,
            anomaly=anomaly[p],
            corrupted_share=float(self_normalised(game.published_log_weight)[game.corrupted].sum()),
            mass={k: v if k == "covered" else scale.at(v) for k, v in mass.items()},
            estimate=scale.row(estimate_row(contexts[p], ESTIMATORS["snips"])),
            labels_needed=estimate_row(contexts[p], ESTIMATORS["ppi_pp"])["labels_needed"],
            confidence=analysis.confidence,
            scale=scale,
        )
    # Rows can be taken out of all policies only where these share their logged rows.
    rewards = [games[p].prep.logged.judge for p in usable]
    shared = len(usable) > 1 and all(np.array_equal(rewards[0], r) for r in rewards[1:])
    flip = weights.rows_to_flip({p: games[p].published_log_weight for p in usable}, rewards[0]) if shared else None
    inversions[INVERSION[2:5]] *= scale.size
    return Investigation(found, inversions, flip, logging_policy, dict(truth or {}), judge)


def _percentile_interval(draws: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval over axis 0, resamples without a value left out; NaN where none has one."""
    complete = draws[~np.isnan(draws).any(axis=1)]
    if not len(complete):
        return np.full(draws.shape[1], np.nan), np.full(draws.shape[1], np.nan)
    low, high = np.quantile(complete, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


def investigate_table(
    table: Table,
    judge: str = "deterministic",
    raw_logp: pd.DataFrame | None = None,
    clip: float | None = None,
    analysis: Analysis = DEFAULT,
    **options: Any,
) -> Investigation:
    """`investigate`, with its options, on a table.

    The published number used the log-probs as they were stored: the table's columns `raw_logp_<policy>`, where it has
    them. `raw_logp` has the rows of `table.logged` and columns `logp_<policy>` with other values to take instead;
    columns that are not there were never different. `clip` bounds the published log-weights at +-clip nats.
    """
    base, policies = table.logging_policy, [table.logging_policy, *table.targets]
    stored = {c.removeprefix("raw_"): table.logged[c] for c in table.logged if c.startswith("raw_logp_")}
    if raw_logp is not None:
        stored |= {c: raw_logp[c].array for c in (f"logp_{p}" for p in policies) if c in raw_logp}
    as_stored = table.logged.assign(**stored)
    arrays = policies_data(table.logged, table.fresh, policies, [judge], base, analysis.folds)
    cases = {}
    for policy in policies:
        differs = policy != base and stored.keys() & {f"logp_{policy}", f"logp_{base}"}
        raw = numbers(as_stored, f"logp_{policy}") - numbers(as_stored, f"logp_{base}") if differs else None
        cases[policy] = Case(arrays[policy][judge], raw, clip)
    truth = {r.policy: (float(r.value), float(r.se)) for r in table.truth.itertuples()}
    return investigate(cases, base, truth, judge=judge, analysis=analysis, **options)
