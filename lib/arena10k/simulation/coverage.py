"""Would these intervals have covered on data like this run's? Every estimator on populations whose value is known:
the run's own weights and scores, and log-normal weights beside them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from arena10k.estimators import ESTIMATORS, N_FOLDS, PolicyData, prepare
from arena10k.simulation.simulate import Design, LogNormal, Population, Resampled, replicate
from arena10k.wording import percent

#: Standard deviations of the log-weights beside the run's own: little and much lost overlap.
SIGMAS = (1.0, 3.0)
#: Logged rows of a data set, at most.
MAX_ROWS = 1000
#: Share of rows whose log-prob is lost and replaced, in the corrupted cells.
CORRUPTED = 0.02
#: Everything that is on the oracle's scale, and SNIPS with the interval usually printed.
NAMES = ("plain_snips", *(name for name, e in ESTIMATORS.items() if not e.judge_scale))
CASES = {"transports": (True, 0.0), "fooled": (False, 0.0), "corrupted": (True, CORRUPTED)}
#: The judges of the cases whose log-probs are right.
JUDGES = {"transports": "a judge that transports", "fooled": "a judge that overrates the target"}


def populations(data: PolicyData, transports: bool, calibration: str = "isotonic") -> Resampled | None:
    """The population of one policy: its logged rows, with weights scaled to mean one, and f(S) as chance of a good
    outcome. None without weighted rows. What the logs never show is not in it, so it flatters weights of E[w] < 1."""
    prep = prepare(data, calibration)
    keep = (prep.has_weight > 0) & np.isfinite(prep.log_weight)
    if keep.sum() < 2:
        return None
    own = {"chance": prep.reward[keep], "length": prep.logged.length[keep]}
    return Resampled(prep.log_weight[keep], prep.logged.judge[keep], transports, **own)


def design(data: PolicyData, corrupted: float, folds: int = N_FOLDS) -> Design:
    """As many rows, draws and labels as the run has, but at most `MAX_ROWS` logged rows and as many draws. What is not
    judged is no row and no draw."""
    n = max(int((~(np.isnan(data.log_weight) | np.isnan(data.judge))).sum()), 2)
    judged = ~np.isnan(data.fresh_judge)
    m = min(int(judged.sum()), MAX_ROWS)
    share = float((~np.isnan(data.label)).sum()) / max(data.n, 1)
    labels = int((judged & ~np.isnan(data.fresh_label)).sum())
    return Design(min(n, MAX_ROWS), m, share, min(labels, m), corrupted, folds)


def simulated(
    data: Mapping[str, PolicyData],
    replicates: int,
    seed: int,
    width: float = 0.2,
    confidence: float = 0.95,
    calibration: str = "isotonic",
    folds: int = N_FOLDS,
) -> pd.DataFrame:
    """One row per population, case and estimator: the fields of `simulate.Performance`.

    `case`: "transports", "fooled" (the responses that the target favours deserve less than the judge gives) or
    "corrupted" (log-probs lost and replaced). Seeds depend on `seed` and the names alone, so a cell does not change
    when another is added.
    """
    targets = {name: d for name, d in data.items() if not d.is_logging}
    sized = next(iter(targets.values()), None)
    found = []
    for case, (transports, corrupted) in CASES.items():
        cells: list[tuple[str, Population | None, Design]] = [
            (name, populations(d, transports, calibration), design(d, corrupted, folds)) for name, d in targets.items()
        ]
        if sized is not None:
            shape = design(sized, corrupted, folds)
            cells += [(f"log-normal {s:g}", LogNormal(s, transports), shape) for s in SIGMAS]
        for name, population, wanted in cells:
            if population is None:
                continue
            own = zlib.crc32(f"{seed} {case} {name}".encode())
            results = replicate(population, wanted, NAMES, replicates, own, width, confidence, calibration)
            head = {"population": name, "case": case, "n": wanted.n, "own": isinstance(population, Resampled)}
            found += [head | asdict(result) for result in results]
    return pd.DataFrame(found)


def pooled(table: pd.DataFrame) -> pd.DataFrame:
    """Per case and estimator over all populations: mean bias, RMSE, coverage, coverage of what was not refused, width,
    refused share."""
    out = []
    for (case, estimator), cell in table.groupby(["case", "estimator"], sort=False):
        shown = cell[cell.coverage_reported.notna()]
        kept = (1 - shown.refused) * shown.replicates
        reported = float((shown.coverage_reported * kept).sum() / kept.sum()) if len(shown) else np.nan
        out.append(
            {"case": case, "estimator": estimator, "bias": cell.bias.mean()}
            | {"rmse": float(np.sqrt((cell.rmse**2).mean())), "coverage": cell.coverage.mean()}
            | {"coverage_reported": reported, "width": cell.width.mean(), "refused": cell.refused.mean()}
        )
    return pd.DataFrame(out)


def _counts(table: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Per cell the intervals that are not refused, and those of them that hold the truth."""
    accepted = ((1 - table.refused) * table.replicates).round()
    return accepted, (table.coverage_reported.fillna(0) * accepted).round()


def judged(table: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """The cells with an accepted interval, with `low` and `high`, the exact binomial interval of the share that holds
    the truth, and `under`: it is below `confidence` by more than chance, which is where `high` is.

    One-sided tests at 5 % over all cells together (Bonferroni).
    """
    accepted, held = _counts(table)
    alpha = 0.05 / max(len(table), 1)
    low = np.where(held > 0, stats.beta.ppf(alpha, held, accepted - held + 1), 0.0)
    high = np.where(held < accepted, stats.beta.isf(alpha, held + 1, accepted - held), 1.0)
    cells = table.assign(low=low, high=high, under=stats.binom.cdf(held, accepted, confidence) < alpha)
    return cells[accepted > 0]


def covered(table: pd.DataFrame, confidence: float = 0.95) -> tuple[int, int, bool]:
    """Accepted intervals that hold the truth, all that are accepted, and whether their share could be `confidence`.

    Over all cells but the usual interval; the binomial bound is one-sided at 1 %, as if replicates were independent.
    """
    accepted, held = _counts(table[table.estimator != "plain_snips"])
    n, k = int(accepted.sum()), int(held.sum())
    return k, n, bool(stats.binom.cdf(k, n, confidence) >= 0.01) if n else True


def held(table: pd.DataFrame, confidence: float = 0.95) -> dict[str, str | None]:
    """By case, the share of the intervals on this run's own data that hold the truth among those not refused, and that
    it is too low where it is; None where all are refused."""
    own, told = table[table.own], {}
    for case in JUDGES:
        k, n, fine = covered(own[own.case == case], confidence)
        told[case] = (percent(k / n) + ("" if fine else f" ({percent(confidence)} is wanted)")) if n else None
    return told


def sentence(table: pd.DataFrame, confidence: float = 0.95) -> str:
    """What the coverage simulation says of this run's own data, and of the interval usually printed."""
    own = table[table.own]
    if own.empty:
        return "No policy of this run has weights, so there is nothing to simulate."
    told = []
    for case, judge in JUDGES.items():
        k, n, fine = covered(own[own.case == case], confidence)
        share = f"{percent(k / n)} of the {n:,} accepted intervals" if n else "no interval, for all were refused,"
        told.append(f"with {judge}, {share} held the truth" + ("" if fine else f" (wanted: {percent(confidence)})"))
    usual = own[(own.estimator == "plain_snips") & (own.case != "corrupted")].coverage.mean()
    return (
        f"On data shaped like this run's own: {'; '.join(told)}. The interval usually printed beside SNIPS, never "
        f"refused, held it in {percent(usual)}."
    )


def json_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as JSON takes them: None where there is no number."""
    return list(table.astype(object).where(table.notna(), None).to_dict("records"))
