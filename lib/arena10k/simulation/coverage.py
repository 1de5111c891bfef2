"""Would these intervals have covered? Every estimator and the headline on populations whose value is known: the run's
own weights and scores, and populations beside them in which intervals are known to fail."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from arena10k.analysis import DEFAULT, Analysis
from arena10k.estimation import ESTIMATORS, N_FOLDS, PolicyData, prepare
from arena10k.estimation.verdicts import CAUTION, REPORT
from arena10k.simulation.simulate import (
    HEADLINE,
    PLAIN,
    Design,
    LogNormal,
    Population,
    RareFailures,
    Resampled,
    Unseen,
    replicate,
)
from arena10k.wording import percent

#: Logged rows of a data set, at most; those of the populations beside the run's own.
MAX_ROWS = 1000
#: Share of rows whose log-prob is lost and replaced.
CORRUPTED = 0.02
#: On the run's own rows: by how much the judge overrates the target, and the share of it that the log never shows.
SHIFT, UNSEEN = 0.1, 0.1
#: Everything that is on the oracle's scale, SNIPS with the interval usually printed, and the headline.
NAMES = (PLAIN, *(name for name, e in ESTIMATORS.items() if not e.judge_scale), HEADLINE)
#: Those of which tables and figures by population are: `ips`, `psis` and `calibrated_ips` have the interval of `snips`,
#: the other doubly robust ones nearly that of `dr_cpo`.
DISTINCT = (PLAIN, "direct", "dr_cpo", "ppi_pp", "dr_oracle", "snips", HEADLINE)
#: The cases in which the run's own rows are simulated.
CASES = {
    "transports": "a judge that transports",
    "fooled": "a judge that overrates the target",
    "unseen": "a target that also says what the log never shows",
}


def populations(data: PolicyData, calibration: str = "isotonic") -> dict[str, Population]:
    """By case the population of one policy: its logged rows, with weights scaled to mean one, and f(S) as chance of a
    good outcome. Empty without weighted rows."""
    prep = prepare(data, calibration)
    keep = (prep.has_weight > 0) & np.isfinite(prep.log_weight)
    if keep.sum() < 2:
        return {}
    own = {"chance": prep.reward[keep], "length": prep.logged.length[keep]}
    fair = Resampled(prep.log_weight[keep], prep.logged.judge[keep], **own)
    return {"transports": fair, "fooled": replace(fair, shift=SHIFT), "unseen": Unseen(fair, UNSEEN)}


def design(data: PolicyData, folds: int = N_FOLDS) -> Design:
    """As many rows, draws and labels as the run has, but at most `MAX_ROWS` logged rows and as many draws. What is not
    judged is no row and no draw."""
    logged, fresh = data.logged, data.fresh
    n = max(int((~(np.isnan(logged.log_weight) | np.isnan(logged.judge))).sum()), 2)
    judged = ~np.isnan(fresh.judge)
    m = min(int(judged.sum()), MAX_ROWS)
    share = float(logged.labelled.sum()) / max(len(logged), 1)
    labels = int((judged & (fresh.labelled > 0)).sum())
    return Design(min(n, MAX_ROWS), m, share, min(labels, m), folds=folds)


def beside(folds: int = N_FOLDS) -> list[tuple[str, str, Population, Design]]:
    """Case, name, population and design of what is simulated beside the run's own rows: few or no labels of the
    target's draws, so that estimates rest on weights or on the judge."""
    many, few = (Design(MAX_ROWS, MAX_ROWS, share, folds=folds) for share in (0.4, 0.1))
    return [
        ("transports", "log-normal", LogNormal(_SIGMA), many),
        ("fooled", "judge +0.03", LogNormal(_SIGMA, 0.03), many),
        ("fooled", "judge +0.07, 15 labels", LogNormal(_SIGMA, 0.07), replace(many, target_labels=15)),
        ("fooled", "judge +0.1", LogNormal(_SIGMA, 0.1), many),
        ("unseen", "3% unseen", Unseen(LogNormal(_SIGMA), 0.03), many),
        ("unseen", "15% unseen", Unseen(LogNormal(_SIGMA), 0.15), many),
        ("rare", "1% fail, of the target 5%", RareFailures(0.01, 0.05), few),
        ("rare", "5% fail, of the target 15%", RareFailures(0.05, 0.15), few),
        ("corrupted", "log-normal", LogNormal(_SIGMA), replace(many, corrupted=CORRUPTED)),
    ]


#: Standard deviation of the log-weights beside the run's own.
_SIGMA = 0.7


def simulated(data: Mapping[str, PolicyData], replicates: int, seed: int, analysis: Analysis = DEFAULT) -> pd.DataFrame:
    """One row per population, case and estimator: the columns of `simulate.replicate`. `own`: the population is
    that of the run's own rows.

    Seeds depend on `seed` and the names alone, so a cell does not change when another is added.
    """
    cells = []
    for name, policy in data.items():
        if not policy.is_logging:
            made, wanted = populations(policy, analysis.calibration), design(policy, analysis.folds)
            cells += [(True, case, name, population, wanted) for case, population in made.items()]
    if len(data) > sum(policy.is_logging for policy in data.values()):
        cells += [(False, *cell) for cell in beside(analysis.folds)]
    frames = []
    for own, case, name, population, wanted in cells:
        stream = zlib.crc32(f"{seed} {case} {name}".encode())
        performance = replicate(population, wanted, NAMES, replicates, stream, analysis)
        performance[["population", "case", "n", "own"]] = name, case, wanted.n, own
        frames.append(performance)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def claims(table: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """One row per population, case, estimator and verdict that was given: `n` intervals, `held` of them hold the truth,
    and the share that is `wanted`: `confidence` of a REPORT, of a CAUTION less (.9 at .95)."""
    parts = []
    for verdict, wanted in ((REPORT, confidence), (CAUTION, 2 * confidence - 1)):
        column = verdict.lower()
        n = (table[column] * table.replicates).round()
        held = (table[f"held_{column}"].fillna(0) * n).round()
        parts.append(table[_CELL].assign(verdict=verdict, wanted=wanted, n=n, held=held))
    every = pd.concat(parts, ignore_index=True)
    return every[every.n > 0]


_CELL = ["population", "case", "own", "estimator"]


def judged(table: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """`claims` with `low` and `high`, the exact binomial interval of the share that holds the truth, and `under`: it is
    below what is wanted by more than chance, which is where `high` is.

    One-sided tests at 5 % over all together (Bonferroni).
    """
    cells = claims(table, confidence)
    n, held, alpha = cells.n, cells.held, 0.05 / max(len(cells), 1)
    low = np.where(held > 0, stats.beta.ppf(alpha, held, n - held + 1), 0.0)
    high = np.where(held < n, stats.beta.isf(alpha, held + 1, n - held), 1.0)
    return cells.assign(low=low, high=high, under=stats.binom.cdf(held, n, cells.wanted) < alpha)


def covered(cells: pd.DataFrame) -> tuple[int, int, bool]:
    """Of `claims`, but those of the usual interval: how many intervals hold the truth, how many there are, and whether
    REPORT and CAUTION may each do so as often as wanted (one-sided, 1 %, as if replicates were independent)."""
    ours = cells[cells.estimator != PLAIN]
    by = ours.groupby("verdict").agg(n=("n", "sum"), held=("held", "sum"), wanted=("wanted", "first"))
    fine = bool((stats.binom.cdf(by.held, by.n, by.wanted) >= 0.01).all())
    return int(by.held.sum()), int(by.n.sum()), fine


def pooled(table: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Per case and estimator over all populations: the share of each verdict and of its intervals that hold the truth;
    mean bias, RMSE, and mean width of what is not refused."""
    by = ["case", "estimator"]
    square = table.assign(rmse=table.rmse**2, width=table.width_accepted)
    means = square.groupby(by, sort=False)[["report", "caution", "refused", "bias", "rmse", "width"]].mean()
    means["rmse"] = np.sqrt(means.rmse)
    total = claims(table, confidence).groupby([*by, "verdict"])[["n", "held"]].sum()
    share = (total.held / total.n).unstack().reindex(means.index)
    for verdict in (REPORT, CAUTION):
        means[f"held_{verdict.lower()}"] = share.get(verdict, np.nan)
    order = ["report", "held_report", "caution", "held_caution", "refused", "bias", "rmse", "width"]
    return means[order].reset_index()


def held(table: pd.DataFrame, confidence: float = 0.95) -> dict[str, str | None]:
    """By case, the share of the accepted intervals on this run's own data that hold the truth, and that it is too low
    where it is; None where all are refused."""
    own, shares = claims(table[table.own], confidence), dict[str, str | None]()
    for case in CASES:
        k, n, fine = covered(own[own.case == case])
        shares[case] = (percent(k / n) + ("" if fine else f" ({_wanted(confidence)})")) if n else None
    return shares


def _wanted(confidence: float) -> str:
    return f"{percent(confidence)} of REPORT and {percent(2 * confidence - 1)} of CAUTION are wanted"


def sentence(table: pd.DataFrame, confidence: float = 0.95) -> str:
    """What the simulation says of this run's own data, of the headline, and of the interval usually printed."""
    own = table[table.own]
    if own.empty:
        return "No policy of this run has weights, so there is nothing to simulate."
    parts = []
    for case, words in CASES.items():
        k, n, fine = covered(claims(own[own.case == case], confidence))
        share = f"{percent(k / n)} of the {n:,} accepted intervals" if n else "no interval, for all were refused,"
        parts.append(f"with {words}, {share} held the truth" + ("" if fine else f" ({_wanted(confidence)})"))
    k, n, _ = covered(claims(own[own.estimator == HEADLINE], confidence))
    head = f"Headlines held it in {percent(k / n)} of {n:,}. " if n else ""
    usual = own[own.estimator == PLAIN].coverage.mean()
    return (
        f"On data shaped like this run's own: {'; '.join(parts)}. {head}The interval usually printed beside SNIPS, "
        f"never refused, held it in {percent(usual)}."
    )


def json_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as JSON takes them: None where there is no number."""
    return list(table.astype(object).where(table.notna(), None).to_dict("records"))
