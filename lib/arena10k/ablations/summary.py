"""Estimators and judges beside each other: against the truth, with a part of the data, and in all cells of the
ablation matrix."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from arena10k.ablations import matrix
from arena10k.ablations.scores import MARGIN, MEASURES, Truth, summary
from arena10k.collection import costs
from arena10k.errors import section
from arena10k.estimation.verdicts import NO_VERDICT
from arena10k.run import Run
from arena10k.wording import listed

CELL = ["judge", "estimator", "calibration", "treatment"]
#: The columns of `per_cell` about values and intervals, and those about order and cost.
VALUES = [*CELL, "rmse", "bias", "coverage", "refused", "interval_score", "rmse_accepted", "coverage_accepted"]
ORDER = [*CELL, "pairwise", "misranked", "dollars", "seconds", "kendall", "misranked_accepted", "labels"]


def _contents(run: Run) -> list[dict[str, Any]]:
    files = [matrix.folder(run.name, cell.name) / "estimates.json" for cell in matrix.cells(run.params)]
    return [json.loads(path.read_text(encoding="utf-8")) for path in files if path.is_file()]


def joined(run: Run, name: str) -> pd.DataFrame:
    """`rows` (estimates on all of the data) or `scores` (of the sweep) of every cell that has been run, one frame,
    with the columns of `CELL` and `cell`."""
    frames = []
    for content in _contents(run):
        frame = pd.DataFrame(content[name])
        # Not as objects, which no mean is taken of: levels that are all of the data, scores of which nothing is known.
        numbers = [c for c in frame if c in section(run.params.ablations, "ablations").sweep or frame[c].isna().all()]
        frame = frame.astype(dict.fromkeys(numbers, float))
        frames.append(frame.assign(**{key: content[key] for key in (*CELL, "cell")}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["cell", *CELL])


def cells_sentence(run: Run) -> str:
    """How many cells the params name and how many have been run."""
    cells = matrix.cells(run.params)
    if not cells:
        return "These params name no ablations: what follows compares the estimators and judges of the run itself."
    return f"{len(_contents(run)):,} of {len(cells):,} ablation cells have results."


def per_cell(run: Run) -> pd.DataFrame:
    """One row per cell over all of its sweep: the scores, `labels` (oracle labels its estimates rest on), `dollars`
    (what those cost at most at the prices of the params, missing where the oracle is not priced) and `seconds` (what
    its estimates took on one core)."""
    means = joined(run, "scores").groupby(["cell", *CELL], sort=False).mean(numeric_only=True).reset_index()
    price = costs.unit_costs(run.params, run.prompts, run.params.logging_policy)["label"]
    timings = {cell: matrix.folder(run.name, cell) / "timing.json" for cell in means.cell}
    labels = means.cell.map({content["cell"]: content["labels"] for content in _contents(run)})
    seconds = {cell: json.loads(path.read_text())["seconds"] for cell, path in timings.items() if path.is_file()}
    dollars = None if price is None else price * labels
    return means.assign(labels=labels, dollars=dollars, seconds=means.cell.map(seconds))[[*VALUES, *ORDER[len(CELL) :]]]


def misranking_sentence(scores: pd.DataFrame) -> str:
    """Which estimators would have put a worse policy first, how often, and whether they were refused there."""
    by = scores.groupby("estimator", sort=False)[["misranked", "misranked_accepted"]].mean()
    alone, by = list(by.index[by.misranked.isna()]), by.dropna(subset=["misranked"])
    if by.empty:
        return "No order of policies is known beyond chance: nothing can be said about ranking."
    wrong = by[by.misranked > 0].sort_values("misranked", ascending=False, kind="stable")
    right = [name for name in by.index if name not in wrong.index]
    never = f" Never with {listed(right)}." if right else ""
    never += f" With {listed(alone)} there are no two policies of known order to compare." if alone else ""
    if wrong.empty:
        return f"No worse policy comes first on any part of the data.{never}"
    shares, still = (
        listed([f"{name} ({share:.0%})" for name, share in wrong[column].items() if share > 0])
        for column in ("misranked", "misranked_accepted")
    )
    after = f"after refusals it still does with {still}" if still else "refusals prevent all of that"
    return (
        f"A policy that is truly worse (by more than {MARGIN:g}, or by construction) comes first with {shares} of "
        f"replicates; {after}.{never}"
    )


def refusal_sentence(scores: pd.DataFrame) -> str:
    """How often each estimator is refused, over all cells, policies and parts of the data."""
    by = scores.groupby("estimator", sort=False).refused.mean().dropna().sort_values(ascending=False, kind="stable")
    return "Refused: " + ", ".join(f"{name} {share:.0%}" for name, share in by.items()) + " of the estimates."


def complete_and_partial(scores: pd.DataFrame, factors: Sequence[str]) -> pd.DataFrame:
    """Per estimator, calibration and treatment: scores on all of the data beside those on the least, over judges.

    All is the largest level of each factor (NaN: everything), least the smallest.
    """
    sizes, parts = scores[[*factors]].fillna(float("inf")), []
    for level in (sizes.min(), sizes.max()):
        rows = scores[(sizes == level).all(axis=1)]
        values = ["refused", "rmse", "coverage", "interval_score", "pairwise", "misranked"]
        parts.append(rows.groupby(CELL[1:], sort=False)[values].mean())
    least, whole = parts
    return least.merge(whole, "left", left_index=True, right_index=True, suffixes=("_least", "_all")).reset_index()


def complete_sentence(table: pd.DataFrame) -> str:
    """What more data changed."""
    eased = int((table.refused_all < table.refused_least).sum())
    both = table.dropna(subset=["rmse_least", "rmse_all"])
    better = int((both.rmse_all < both.rmse_least).sum())
    text = f"With all of the data {eased} of {len(table)} combinations are refused less often than with the least"
    return text + (f"; {better} of {len(both)} have a smaller RMSE." if len(both) else ".")


def accuracy(rows: Sequence[dict[str, Any]], truth: Sequence[Truth], confidence: float = 0.95) -> pd.DataFrame:
    """Scores of `scores.summary` by estimator and judge over the policies of known value, the closest first."""
    by, policies = ["estimator", "judge"], {t.policy for t in truth}
    asked = [row for row in rows if row["policy"] in policies and row["verdict"] not in NO_VERDICT]
    if not asked:
        return pd.DataFrame(columns=by)
    shown = ["rmse", "bias", "coverage", "refused", "pairwise", "misranked", "misranked_accepted", "interval_score"]
    table = summary(pd.DataFrame(asked, columns=[*by, "policy", *MEASURES]), truth, by, confidence)
    return table[[*by, *shown, "kendall"]].sort_values("rmse", kind="stable").reset_index(drop=True)


def accuracy_sentence(table: pd.DataFrame) -> str:
    """Which estimator comes closest and which would have put a worse policy first."""
    if table.empty:
        return "The true values are not known on this run: estimators can be compared with each other only."
    best = table.iloc[0]
    start = f"{best.estimator} ({best.judge}) comes closest, RMSE {best.rmse:.3f}"
    if table.misranked.isna().all():
        return f"{start}; no order of policies is known beyond chance."
    wrong, still = (list(dict.fromkeys(table.estimator[table[c] > 0])) for c in ("misranked", "misranked_accepted"))
    if not wrong:
        return f"{start}; no estimator would have put a worse policy first."
    after = f"{listed(still)} even after refusals" if still else "are refused there"
    return f"{start}; {listed(wrong)} would have put a worse policy first, and {after}."
