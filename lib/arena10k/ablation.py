"""Comparisons across estimators, judge modes and amounts of data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from arena10k import paths
from arena10k.findings import against_truth
from arena10k.run import Run
from arena10k.table import Table


def cells_sentence(run: str) -> str:
    """How many ablation cells have been run."""
    cells = sorted((paths.reports_dir(run) / "ablations").glob("*/estimates.json"))
    if not cells:
        return "No ablation cell has been run: what follows compares the estimators and judge modes of the run itself."
    return f"{len(cells):,} ablation cells have been run."


def accuracy(rows: list[dict[str, Any]], truth: Mapping[str, float]) -> pd.DataFrame:
    """Per estimator and judge mode over policies with a known value.

    ``rmse`` and ``bias`` over all its estimates, refused or not; ``covers`` the share of intervals that hold the truth;
    ``refused`` the share of refusals; ``pairwise`` the share of policy pairs in their true order, refused estimates
    included; ``misranks`` whether a worse policy comes first; ``misranks_reported`` that among estimates that stand.
    """
    frame = against_truth(rows, truth)
    out = []
    for (estimator, judge), cell in frame.groupby(["estimator", "judge"], sort=False):
        stands = cell[cell.verdict != "REFUSE"]
        out.append(
            {
                "estimator": estimator,
                "judge": judge,
                "policies": len(cell),
                "rmse": float(np.sqrt((cell.error**2).mean())),
                "bias": float(cell.error.mean()),
                "covers": float(cell.covers.mean()),
                "refused": float((cell.verdict == "REFUSE").mean()),
                "pairwise": _pairwise(cell),
                "misranks": _misranks(cell),
                "misranks_reported": _misranks(stands),
            }
        )
    columns = ["estimator", "judge", "policies", "rmse", "bias", "covers", "refused"]
    columns += ["pairwise", "misranks", "misranks_reported"]
    return pd.DataFrame(out, columns=columns).sort_values("rmse", kind="stable").reset_index(drop=True)


def _pairwise(cell: pd.DataFrame) -> float:
    value, truth = cell.value.to_numpy(float), cell.truth.to_numpy(float)
    i, j = np.triu_indices(len(cell), 1)
    apart = truth[i] != truth[j]
    right = np.sign(value[i] - value[j]) == np.sign(truth[i] - truth[j])
    return float(right[apart].mean()) if apart.any() else float("nan")


def _misranks(cell: pd.DataFrame) -> bool:
    """Whether the policy with the highest estimate is truly below the best by more than its interval's half width."""
    if len(cell) < 2:
        return False
    first = cell.loc[cell.value.astype(float).idxmax()]
    return bool(cell.truth.max() - first.truth > 0.05)


def accuracy_sentence(table: pd.DataFrame) -> str:
    """Which estimator comes closest and which would have put a worse policy first."""
    if table.empty:
        return "The true values are not known on this run: estimators can be compared with each other only."
    best = table.iloc[0]
    wrong = list(dict.fromkeys(table[table.misranks].estimator))
    told = f"{best.estimator} ({best.judge}) comes closest, RMSE {best.rmse:.3f}"
    if not wrong:
        return told + "; no estimator would have put a worse policy first."
    held = table[table.misranks_reported].estimator
    told += f"; {', '.join(wrong)} would have put a worse policy first"
    return told + (
        f", and {', '.join(dict.fromkeys(held))} even after refusals." if len(held) else ", and are refused there."
    )


def partial(run: Run, table: Table, share: float) -> pd.DataFrame:
    """Estimates from the first `share` of the prompts beside those from all, one row per policy and estimator.

    Columns ``policy``, ``estimator``, ``judge``, ``value`` and ``verdict`` for part and all, and their difference.
    """
    ids = run.prompts.prompt_id[: round(share * len(run.prompts))]
    fresh, logged = table.fresh, table.logged
    part = replace(table, logged=logged[logged.prompt_id.isin(ids)], fresh=fresh[fresh.prompt_id.isin(ids)])
    both = pd.DataFrame(run.estimates(part)["rows"]).merge(
        pd.DataFrame(run.estimates(table)["rows"]), on=["policy", "estimator", "judge"], suffixes=("_part", "_all")
    )
    both["change"] = both.value_all.astype(float) - both.value_part.astype(float)
    columns = ["policy", "estimator", "judge", "value_part", "verdict_part", "value_all", "verdict_all", "change"]
    return both[columns]


def partial_sentence(both: pd.DataFrame) -> str:
    """Where more data changed a verdict and where it moved a value most."""
    changed = both[both.verdict_part != both.verdict_all]
    eased = changed[changed.verdict_part == "REFUSE"]
    known = both.dropna(subset=["change"])
    if known.empty:
        return "Neither half nor all of the data gives an estimate."
    most = known.loc[known.change.abs().idxmax()]
    return (
        f"With all of the data {len(changed)} of {len(both)} verdicts differ from those on the part ({len(eased)} are "
        f"no longer refused); the largest change of a value is {most.change:+.3f} ({most.estimator} for {most.policy})."
    )
