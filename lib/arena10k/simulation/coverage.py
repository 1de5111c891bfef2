"""Would these intervals have covered? Every estimator and the headline on populations whose value is known: the run's
own weights and scores, and populations beside them in which intervals are known to fail."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from arena10k.analysis import DEFAULT, Analysis
from arena10k.estimation import ESTIMATORS, N_FOLDS, PolicyData, prepare
from arena10k.estimation.verdicts import CAUTION, REPORT
from arena10k.simulation import simulate
from arena10k.simulation.simulate import HEADLINE, PLAIN, Design, LogNormal, Population, RareFailures, Unseen
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
    used = (prep.has_weight > 0) & np.isfinite(prep.log_weight)
    if used.sum() < 2:
        return {}
    rows = prep.log_weight[used], prep.logged.judge[used]
    fair, fooled = (
        simulate.Resampled(*rows, shift, prep.reward[used], prep.logged.length[used]) for shift in (0.0, SHIFT)
    )
    return {"transports": fair, "fooled": fooled, "unseen": Unseen(fair, UNSEEN)}


def design(data: PolicyData, folds: int = N_FOLDS, rows: int = MAX_ROWS) -> Design:
    """As many rows, draws and labels as the run has, but at most `rows` logged rows and as many draws. What is not
    judged is no row and no draw."""
    logged, fresh, judged = data.logged, data.fresh, ~np.isnan(data.fresh.judge)
    n = max(int((~(np.isnan(logged.log_weight) | np.isnan(logged.judge))).sum()), 2)
    m = min(int(judged.sum()), rows)
    share = float(logged.labelled.sum()) / max(len(logged), 1)
    labels = int((judged & (fresh.labelled > 0)).sum())
    return Design(min(n, rows), m, share, min(labels, m), folds=folds)


def beside(folds: int = N_FOLDS, rows: int = MAX_ROWS) -> list[tuple[str, str, Population, Design]]:
    """Case, name, population and design of what is simulated beside the run's own rows: few or no labels of the
    target's draws, so that estimates rest on weights or on the judge."""
    many, few = (Design(rows, rows, share, folds=folds) for share in (0.4, 0.1))
    sigma = 0.7  # standard deviation of the log-weights
    return [
        ("transports", "log-normal", LogNormal(sigma), many),
        ("fooled", "judge +0.03", LogNormal(sigma, 0.03), many),
        ("fooled", "judge +0.07, 15 labels", LogNormal(sigma, 0.07), replace(many, target_labels=15)),
        ("fooled", "judge +0.1", LogNormal(sigma, 0.1), many),
        ("unseen", "3% unseen", Unseen(LogNormal(sigma), 0.03), many),
        ("unseen", "15% unseen", Unseen(LogNormal(sigma), 0.15), many),
        ("rare", "1% fail, of the target 5%", RareFailures(0.01, 0.05), few),
        ("rare", "5% fail, of the target 15%", RareFailures(0.05, 0.15), few),
        ("corrupted", "log-normal", LogNormal(sigma), replace(many, corrupted=CORRUPTED)),
    ]


def simulated(
    data: Mapping[str, PolicyData], replicates: int, seed: int, analysis: Analysis = DEFAULT, rows: int = MAX_ROWS
) -> pd.DataFrame:
    """One row per population, case and estimator: the columns of `simulate.replicate`. `own`: the population is
    that of the run's own rows.

    Seeds depend on `seed` and the names alone, so a cell does not change when another is added.
    """
    targets = {name: policy for name, policy in data.items() if not policy.is_logging}
    cells = [
        (True, case, name, population, design(policy, analysis.folds, rows))
        for name, policy in targets.items()
        for case, population in populations(policy, analysis.calibration).items()
    ]
    cells += [(False, *cell) for cell in beside(analysis.folds, rows)] if targets else []
    frames = []
    for own, case, name, population, wanted in cells:
        stream = zlib.crc32(f"{seed} {case} {name}".encode())
        performance = simulate.replicate(population, wanted, NAMES, replicates, stream, analysis)
        frames.append(performance.assign(population=name, case=case, n=wanted.n, own=own))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def claims(table: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """One row per population, case, estimator and verdict that was given: `n` intervals, `held` of them hold the truth,
    and the share that is `wanted`: `confidence` of a REPORT, of a CAUTION less (.9 at .95)."""
    parts = []
    for verdict, wanted in ((REPORT, confidence), (CAUTION, 2 * confidence - 1)):
        n = (table[verdict.lower()] * table.replicates).round()
        held = (table[f"held_{verdict.lower()}"].fillna(0) * n).round()
        cells = table[["population", "case", "own", "estimator"]]
        parts.append(cells.assign(verdict=verdict, wanted=wanted, n=n, held=held))
    every = pd.concat(parts, ignore_index=True)
    return every[every.n > 0]


def exact_interval(held: pd.Series, n: pd.Series, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the exact binomial interval of each share `held` of `n`, with `alpha` beyond each (Clopper and Pearson
    1934)."""
    low = np.where(held > 0, stats.beta.ppf(alpha, held, n - held + 1), 0.0)
    return low, np.where(held < n, stats.beta.isf(alpha, held + 1, n - held), 1.0)


def judged(table: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """`claims` with `low` and `high`, the exact binomial interval of the share that holds the truth, and `under`: it is
    below what is wanted by more than chance, which is where `high` is.

    One-sided tests at 5 % over all together (Bonferroni).
    """
    cells = claims(table, confidence)
    n, held, alpha = cells.n, cells.held, 0.05 / max(len(cells), 1)
    low, high = exact_interval(held, n, alpha)
    return cells.assign(low=low, high=high, under=stats.binom.cdf(held, n, cells.wanted) < alpha)


def pooled(table: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Per case and estimator over all populations: the share of each verdict and of its intervals that hold the truth;
    mean bias, RMSE, and mean width of what is not refused."""
    by = ["case", "estimator"]
    square = table.assign(rmse=table.rmse**2, width=table.width_accepted)
    means = square.groupby(by, sort=False)[["report", "caution", "refused", "bias", "rmse", "width"]].mean()
    total = claims(table, confidence).groupby([*by, "verdict"])[["n", "held"]].sum()
    share = (total.held / total.n).unstack().reindex(index=means.index, columns=[REPORT, CAUTION])
    means = means.assign(rmse=np.sqrt(means.rmse), held_report=share[REPORT], held_caution=share[CAUTION])
    order = ["report", "held_report", "caution", "held_caution", "refused", "bias", "rmse", "width"]
    return means[order].reset_index()


def _covered(cells: pd.DataFrame, confidence: float) -> tuple[str, int, str]:
    """Of `claims`, but those of the usual interval: the share of intervals that hold the truth, how many there are,
    and what is wanted where REPORT or CAUTION does so too seldom (one-sided, 1 %, as if replicates were independent);
    no share without intervals."""
    ours = cells[cells.estimator != PLAIN]
    by = ours.groupby("verdict").agg(n=("n", "sum"), held=("held", "sum"), wanted=("wanted", "first"))
    fine = (stats.binom.cdf(by.held, by.n, by.wanted) >= 0.01).all()
    wanted = f" ({percent(confidence)} of REPORT and {percent(2 * confidence - 1)} of CAUTION are wanted)"
    n = int(by.n.sum())
    return percent(by.held.sum() / n) if n else "", n, "" if fine else wanted


def held(table: pd.DataFrame, confidence: float = 0.95) -> dict[str, str | None]:
    """By case, the share of the accepted intervals on this run's own data that hold the truth, and that it is too low
    where it is; None where all are refused."""
    own = claims(table[table.own], confidence)
    covered = {case: _covered(own[own.case == case], confidence) for case in CASES}
    return {case: f"{share}{wanted}" if n else None for case, (share, n, wanted) in covered.items()}


def sentence(table: pd.DataFrame, confidence: float = 0.95) -> str:
    """What the simulation says of this run's own data, of the headline, and of the interval usually printed."""
    own = table[table.own]
    if own.empty:
        return "No policy of this run has weights, so there is nothing to simulate."
    cells, parts = claims(own, confidence), []
    for case, words in CASES.items():
        share, n, wanted = _covered(cells[cells.case == case], confidence)
        parts.append(f"with {words}, {f'in {share} of {n:,}' if n else 'never, for all were refused'}{wanted}")
    share, n, _ = _covered(cells[cells.estimator == HEADLINE], confidence)
    head = f"Headlines held it in {share} of {n:,}. " if n else ""
    usual = own[own.estimator == PLAIN].coverage.mean()
    return (
        f"On data shaped like this run's own, accepted intervals held the truth: {'; '.join(parts)}. {head}The "
        f"interval usually printed beside SNIPS, never refused, held it in {percent(usual)}."
    )
