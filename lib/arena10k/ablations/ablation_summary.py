"""Estimators and judge modes beside each other: against the truth, with a part of the data, and in all cells of the
ablation matrix."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from arena10k.ablations import matrix
from arena10k.ablations.sweeps import MARGIN, MEASURES, Truth, summary
from arena10k.collection import costs
from arena10k.errors import section
from arena10k.estimation.verdicts import NOT_ASKED
from arena10k.frames.table import Table
from arena10k.run import Run
from arena10k.wording import listed

CELL = ["judge", "estimator", "calibration", "treatment"]
#: The columns of `per_cell` about values and intervals, and those about order and cost.
VALUES = [*CELL, "rmse", "bias", "coverage", "refused", "interval_score", "rmse_standing", "coverage_standing"]
ORDER = [*CELL, "pairwise", "misranked", "dollars", "seconds", "kendall", "misranked_standing", "labels"]


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
    columns = ["cell", *CELL]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _contents(run: Run) -> list[dict[str, Any]]:
    files = [matrix.folder(run.name, cell.name) / "estimates.json" for cell in matrix.cells(run.params)]
    return [json.loads(path.read_text(encoding="utf-8")) for path in files if path.is_file()]


def truth_of(run: Run) -> list[Truth]:
    """What is known of the targets' values, as the cells have it."""
    ablations = run.params.ablations
    return matrix.held_out(run.table(), ablations.worst if ablations else ())[1]


def cells_sentence(run: Run) -> str:
    """How many cells the params name and how many have been run."""
    cells, done = matrix.cells(run.params), len(_contents(run))
    if not cells:
        return "These params name no ablations: what follows compares the estimators and judge modes of the run itself."
    return f"{done:,} of {len(cells):,} ablation cells have results."


def per_cell(run: Run) -> pd.DataFrame:
    """One row per cell over all of its sweep: the scores, `labels` (oracle labels its estimates rest on), `dollars`
    (what those cost at most at the prices of the params, None where the oracle is not priced) and `seconds` (what its
    estimates took on one core)."""
    scores = joined(run, "scores")
    if scores.empty:
        return pd.DataFrame(columns=CELL)
    means = scores.groupby(["cell", *CELL], sort=False).mean(numeric_only=True).reset_index()
    price = costs.unit_costs(run.params, run.prompts, run.params.logging_policy)["label"]
    facts = []
    for content in _contents(run):
        timing = matrix.folder(run.name, content["cell"]) / "timing.json"
        seconds = json.loads(timing.read_text(encoding="utf-8"))["seconds"] if timing.is_file() else None
        dollars = None if price is None else price * content["labels"]
        facts.append({"cell": content["cell"], "labels": content["labels"], "dollars": dollars, "seconds": seconds})
    every = means.merge(pd.DataFrame(facts), on="cell", suffixes=("_swept", ""))
    return every[[*VALUES, *ORDER[len(CELL) :]]]


def misranking_sentence(scores: pd.DataFrame) -> str:
    """Which estimators would have put a worse policy first, how often, and whether they were refused there."""
    known = scores.dropna(subset=["misranked"]) if "misranked" in scores else scores
    if known.empty:
        return "No order of policies is known beyond chance: nothing can be said about ranking."
    by = known.groupby("estimator", sort=False)[["misranked", "misranked_standing"]].mean()
    wrong = by[by.misranked > 0].sort_values("misranked", ascending=False, kind="stable")
    right = [name for name in by.index if name not in wrong.index]
    alone = [name for name in dict.fromkeys(scores.estimator) if name not in by.index]
    never = f" Never with {listed(right)}." if right else ""
    never += f" With {listed(alone)} there are no two policies of known order to compare." if alone else ""
    if wrong.empty:
        return "No worse policy comes first on any part of the data." + never
    told = f"A policy that is truly worse (by more than {MARGIN:g}, or by construction) comes first with "
    told += listed([f"{name} ({row.misranked:.0%})" for name, row in wrong.iterrows()]) + " of replicates"
    held = [f"{name} ({row.misranked_standing:.0%})" for name, row in wrong.iterrows() if row.misranked_standing > 0]
    told += f"; after refusals it still does with {listed(held)}" if held else "; refusals prevent all of that"
    return f"{told}.{never}"


def refusal_sentence(scores: pd.DataFrame) -> str:
    """How often each estimator is refused, over all cells, policies and parts of the data."""
    if "refused" not in scores or scores.empty:
        return "No cell has been run."
    by = scores.groupby("estimator", sort=False).refused.mean().dropna().sort_values(ascending=False, kind="stable")
    return "Refused: " + ", ".join(f"{name} {share:.0%}" for name, share in by.items()) + " of the estimates."


def complete_and_partial(scores: pd.DataFrame, factors: Sequence[str]) -> pd.DataFrame:
    """Per estimator, calibration and treatment: scores on all of the data beside those on the least, over judge modes.

    All is the largest level of each factor (NaN: everything), least the smallest.
    """
    if scores.empty:
        return pd.DataFrame()
    sizes = {name: scores[name].fillna(float("inf")) for name in factors}
    all_of_it, least = (
        pd.concat([size == pick(size) for size in sizes.values()], axis=1).all(axis=1) if sizes else scores.index >= 0
        for pick in (max, min)
    )
    keys, values = CELL[1:], ["refused", "rmse", "coverage", "interval_score", "pairwise", "misranked"]
    parts = [scores[rows].groupby(keys, sort=False)[values].mean() for rows in (least, all_of_it)]
    return parts[0].join(parts[1], lsuffix="_least", rsuffix="_all").reset_index()


def complete_sentence(table: pd.DataFrame) -> str:
    """What more data changed."""
    if table.empty:
        return "No cell has been run."
    eased = table[table.refused_all < table.refused_least]
    known = table.dropna(subset=["rmse_least", "rmse_all"])
    better = known[known.rmse_all < known.rmse_least]
    told = f"With all of the data {len(eased)} of {len(table)} combinations are refused less often than with the least"
    return told + (f"; {len(better)} of {len(known)} have a smaller RMSE." if len(known) else ".")


def measured(table: Table) -> list[Truth]:
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
