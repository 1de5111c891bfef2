"""The investigation of a run: published number, trusted value, and what the gap between them is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from arena10k.analysis import DEFAULT, Analysis
from arena10k.attribution import detection, weights
from arena10k.attribution.game import CAUSES, Case, Game, corrupted_rows, make_game, missing_mass, point_parts
from arena10k.attribution.resample import Replicates, bootstrap, percentile_interval, prompt_counts
from arena10k.estimation import ESTIMATORS, N_FOLDS, policies_data
from arena10k.estimation.context import PolicyContext, context
from arena10k.estimation.data import LEFT_OUT
from arena10k.estimation.headline import headline
from arena10k.estimation.verdicts import estimate_row

if TYPE_CHECKING:
    import pandas as pd

    from arena10k.frames.table import Table


@dataclass(frozen=True, eq=False)
class Finding:
    """One policy.

    `parts`, `part_low`, `part_high` (6,) follow `CAUSES` and are contributions to `published - trusted`, NaN without
    a trusted value. `trusted` is a row of estimates.json or None. `anomaly` is None where it cannot be tested.
    `corrupted` counts logged rows whose published log-weight was corrupted, `corrupted_share` is their share of the
    published weight. `estimate` is the row of SNIPS (calibrated) on repaired data; `labels_needed` are labels on the
    target's own draws for the requested width.
    """

    policy: str
    game: Game
    published: detection.Published
    rank: int
    rank_first: float
    trusted: dict[str, Any] | None
    parts: np.ndarray
    part_low: np.ndarray
    part_high: np.ndarray
    anomaly: bool | None
    main_cause: str | None
    corrupted: int
    corrupted_share: float
    mass: weights.MassIdentity
    estimate: dict[str, Any]
    labels_needed: int | None
    clip: float | None
    confidence: float

    @property
    def log_weight(self) -> np.ndarray:
        """Published log-weights of the logged rows with a judge score (n,), NaN for rows that were not used."""
        lw = self.game.published_log_weight
        return np.where(np.isfinite(lw), lw, np.nan)

    @property
    def gap(self) -> float:
        """Published minus trusted, or, without a trusted value, minus the judge's mean of the policy's own draws; NaN
        without either."""
        return self.published.value - (self.own_draws if self.trusted is None else self.trusted["value"])

    @property
    def unsettled(self) -> bool:
        """No anomaly is shown, and the gap to the trusted value is larger than what counts."""
        return self.anomaly is False and self.trusted is not None and abs(self.gap) > detection.TOLERANCE

    @property
    def own_draws(self) -> float:
        """The judge's mean score of the policy's own draws; NaN where there is none."""
        return float(self.game.prep.fresh.judge.mean()) if len(self.game.prep.fresh) else float("nan")


@dataclass(frozen=True, eq=False)
class Investigation:
    """All policies of a run; `truth` maps policies to (value, standard error) where the true value was measured."""

    findings: dict[str, Finding]
    detection: detection.Detection
    flip: weights.Flip | None
    logging_policy: str
    truth: dict[str, tuple[float, float]]
    judge_mode: str

    @property
    def anomalies(self) -> list[Finding]:
        """Policies with an anomaly, the highest published number first."""
        return sorted((f for f in self.findings.values() if f.anomaly), key=lambda f: -f.published.value)

    @property
    def focus(self) -> Finding:
        """The policy to look at closely: the target with an anomaly and the highest published number, else the one
        whose published number is furthest from its trusted value."""
        targets = [f for f in self.findings.values() if f.policy != self.logging_policy]
        wrong = [f for f in self.anomalies if f.policy != self.logging_policy] or self.anomalies
        return wrong[0] if wrong else max(targets, key=lambda f: abs(np.nan_to_num(f.gap)))


def main_cause(
    anomaly: bool | None, parts: np.ndarray, low: np.ndarray, high: np.ndarray, corrupted_share: float, mismatch: bool
) -> str | None:
    """Name of the main cause, None without an anomaly.

    Where corrupted rows hold more than half of the published weight the number is their mean, and that comes first
    whatever else is wrong. Otherwise the largest part among those that go the way of the gap and whose interval
    excludes 0. Where that is what no other cause explains, weights that do not match the draws are named only if a
    test says so: chance leaves a rest as well.
    """
    if not anomaly:
        return None
    if corrupted_share > 0.5:
        return "corrupted_logprobs"
    clear = ((low > 0) | (high < 0)) & (parts * parts.sum() > 0)
    if not clear.any():
        return None
    largest = CAUSES[int(np.argmax(np.where(clear, np.abs(parts), -1)))]
    return largest if mismatch or largest != "weights_do_not_match_draws" else None


def cases(
    table: Table,
    judge_mode: str = "deterministic",
    raw_logp: pd.DataFrame | None = None,
    clip: float | None = None,
    folds: int = N_FOLDS,
) -> dict[str, Case]:
    """The cases of a table, logging policy first.

    The published number used the log-probs as they were stored: the table's columns `raw_logp_<policy>`, where it has
    them. `raw_logp` has the rows of `table.logged` and columns `logp_<policy>` with other values to take instead.
    Columns that are not there were never different.
    """
    names, base = [table.logging_policy, *table.targets], table.logging_policy
    stored, changed = {}, set()
    for policy in names:
        values, column = table.logged, f"logp_{policy}"
        if raw_logp is not None and column in raw_logp:
            values = raw_logp
        elif f"raw_{column}" in table.logged:
            column = f"raw_{column}"
        if values is not table.logged or column != f"logp_{policy}":
            changed.add(policy)
        stored[policy] = values[column].to_numpy(float, na_value=np.nan)
    out, arrays = {}, policies_data(table.logged, table.fresh, names, [judge_mode], base, folds)
    for policy in names:
        differs = policy != base and changed & {policy, base}
        published = stored[policy] - stored[base] if differs else LEFT_OUT
        out[policy] = Case(arrays[policy][judge_mode], published, clip)
    return out


def investigate(
    cases: Mapping[str, Case],
    logging_policy: str,
    truth: Mapping[str, tuple[float, float]] | None = None,
    flags: Mapping[str, Iterable[str]] | None = None,
    judge_mode: str = "deterministic",
    analysis: Analysis = DEFAULT,
    replicates: int = 500,
    mismatch: Mapping[str, bool] | None = None,
) -> Investigation:
    """Investigate the policies of a run; prompt codes (`cluster`) must mean the same prompt in every case.

    Parameters
    ----------
    truth : measured values, stated but never used. flags : as for `evaluation.study`.
    replicates : bootstrap resamples, the same prompts for every policy.
    mismatch : by policy, whether weights and draws are of different policies; by its own test where left out.
    """
    contexts = {p: context(c.data, analysis, (flags or {}).get(p, ())) for p, c in cases.items()}
    trusted = {p: headline(ctx) for p, ctx in contexts.items()}
    games = {}
    for p, case in cases.items():
        prep, row = contexts[p].prep, trusted[p]
        score = None if row is None else ESTIMATORS[row["estimator"]].score(prep)
        rejected = "weights_do_not_match_draws" in contexts[p].wrong_weights
        games[p] = make_game(case, prep, score, (mismatch or {}).get(p, rejected))
    published = {p: detection.published(g) for p, g in games.items()}
    detected = detection.detect(games, published, logging_policy)
    counts = prompt_counts(max(g.prep.n_clusters for g in games.values()), replicates, seed=0)
    drawn = {p: bootstrap(g, counts) for p, g in games.items()}
    usable = [p for p in games if np.isfinite(published[p].value)]
    first = dict(zip(usable, weights.rank_first(np.column_stack([drawn[p].published for p in usable])), strict=True))
    findings = {
        p: Finding(
            policy=p,
            game=games[p],
            published=published[p],
            rank=weights.rank(published[p].value, (published[q].value for q in usable)),
            rank_first=first.get(p, float("nan")),
            trusted=trusted[p],
            anomaly=detected.anomaly[p],
            **_explained(cases[p], games[p], contexts[p], trusted[p], drawn[p], detected.anomaly[p]),
        )
        for p in games
    }
    return Investigation(findings, detected, _flip(games, usable), logging_policy, dict(truth or {}), judge_mode)


def _explained(
    case: Case,
    game: Game,
    ctx: PolicyContext,
    trusted: Mapping[str, Any] | None,
    drawn: Replicates,
    anomaly: bool | None,
) -> dict[str, Any]:
    """The fields of a `Finding` that say what its number is made of."""
    parts, confidence = point_parts(game), ctx.analysis.confidence
    low, high = percentile_interval(drawn.parts, confidence)
    bad = corrupted_rows(case)[~np.isnan(case.data.logged.judge)]
    share = float(weights.self_normalised(game.published_log_weight)[bad].sum())
    covered = 1 - float(missing_mass(game, np.ones((1, len(game.prep.logged))))[0])
    on = float(weights.self_normalised(game.clean_log_weight) @ ctx.prep.reward)
    return {
        "parts": parts,
        "part_low": low,
        "part_high": high,
        "main_cause": main_cause(anomaly, parts, low, high, share, game.mismatch),
        "corrupted": int(bad.sum()),
        "corrupted_share": share,
        "mass": weights.mass_identity(covered, on, float("nan") if trusted is None else trusted["value"]),
        "estimate": estimate_row(ctx, ESTIMATORS["snips"]),
        "labels_needed": estimate_row(ctx, ESTIMATORS["ppi_pp"])["labels_needed"],
        "clip": case.clip,
        "confidence": confidence,
    }


def _flip(games: Mapping[str, Game], usable: list[str]) -> weights.Flip | None:
    """Only where all policies share their logged rows."""
    rewards = [games[p].prep.logged.judge for p in usable]
    if len(usable) < 2 or any(not np.array_equal(rewards[0], r) for r in rewards[1:]):
        return None
    return weights.rows_to_flip({p: games[p].published_log_weight for p in usable}, rewards[0])


def investigate_table(
    table: Table,
    judge_mode: str = "deterministic",
    raw_logp: pd.DataFrame | None = None,
    clip: float | None = None,
    analysis: Analysis = DEFAULT,
    **options: Any,
) -> Investigation:
    """`investigate` on a table: see `cases` for `raw_logp` and `clip`, `investigate` for the options."""
    truth = {r.policy: (float(r.value), float(r.se)) for r in table.truth.itertuples()}
    by_policy = cases(table, judge_mode, raw_logp, clip, analysis.folds)
    return investigate(by_policy, table.logging_policy, truth, judge_mode=judge_mode, analysis=analysis, **options)
