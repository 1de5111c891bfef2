"""Comparisons across the estimators and judge modes of a run: with the truth, and with a part of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from arena10k.ablations.sweeps import MEASURES, Truth, summary
from arena10k.run import Run
from arena10k.statistics.verdicts import NOT_ASKED
from arena10k.tables.table import Table
from arena10k.wording import listed


def truth_of(table: Table) -> list[Truth]:
    """The values of policies all of whose draws are labelled; empty where the run's oracle labels a slice only."""
    rows = table.truth.itertuples()
    return [Truth(r.policy, float(r.value), float(r.se), f"labels of all {r.draws:,} draws") for r in rows]


def accuracy(rows: Sequence[dict[str, Any]], truth: Sequence[Truth], confidence: float = 0.95) -> pd.DataFrame:
    """Scores of `sweeps.summary` per estimator and judge mode over the policies of known value, the closest first."""
    by = ["estimator", "judge"]
    known = {t.policy for t in truth}
    asked = [row for row in rows if row["policy"] in known and row["verdict"] != NOT_ASKED]
    frame = pd.DataFrame(asked, columns=[*by, "policy", *MEASURES])
    if frame.empty:
        return frame[by]
    shown = ["rmse", "bias", "coverage", "refused", "pairwise", "misranked", "misranked_standing", "interval_score"]
    table = summary(frame, truth, by, confidence)[[*by, *shown, "kendall"]]
    return table.sort_values("rmse", kind="stable").reset_index(drop=True)


def accuracy_sentence(table: pd.DataFrame) -> str:
    """Which estimator comes closest and which would have put a worse policy first."""
    if table.empty:
        return "The true values are not known on this run: estimators can be compared with each other only."
    best = table.iloc[0]
    told = f"{best.estimator} ({best.judge}) comes closest, RMSE {best.rmse:.3f}"
    if table.misranked.isna().all():
        return f"{told}; no order of policies is known beyond chance."
    wrong, held = (list(dict.fromkeys(table[table[c] > 0].estimator)) for c in ("misranked", "misranked_standing"))
    if not wrong:
        return f"{told}; no estimator would have put a worse policy first."
    told += f"; {listed(wrong)} would have put a worse policy first"
    return f"{told}, and {listed(held)} even after refusals." if held else f"{told}, and are refused there."


def first_prompts(run: Run, table: Table, share: float) -> Table:
    """The rows of the first `share` of the prompts, in the run's own order."""
    ids = run.prompts.prompt_id[: round(share * len(run.prompts))]
    fresh, logged = table.fresh, table.logged
    return replace(table, logged=logged[logged.prompt_id.isin(ids)], fresh=fresh[fresh.prompt_id.isin(ids)])


def partial_sentence(both: pd.DataFrame) -> str:
    """Where more data changed a verdict and where it moved a value most; `both` as of `changes.estimates`, a part of
    the data before and all of it after."""
    changed = both[both.verdict_changed]
    eased = changed[changed.verdict_before == "REFUSE"]
    known = both.dropna(subset=["change"])
    if known.empty:
        return "No estimate has a value both on the part of the data and on all of it."
    most = known.loc[known.change.abs().idxmax()]
    return (
        f"With all of the data {len(changed)} of {len(both)} verdicts differ from those on the part ({len(eased)} are "
        f"no longer refused); the largest change of a value is {most.change:+.3f} ({most.estimator} for {most.policy})."
    )
