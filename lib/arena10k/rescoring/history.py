"""What measuring again has changed: the entries that `rescore` writes, as tables and sentences."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pandas as pd

from arena10k import paths
from arena10k.rescoring.snapshots import changes, changes_sentence

FILE = "rescore.json"
#: What may come of a row.
OUTCOMES = ("restored", "failed again", "quarantined again", "still quarantined", "released", "not asked", "replaced")


def read(run: str) -> list[dict[str, Any]]:
    """The entries of a run's audit, oldest first; none where nothing was ever measured again."""
    path = paths.result_file(run, FILE)
    return json.loads(path.read_text(encoding="utf-8"))["entries"] if path.is_file() else []


def rows(entry: dict[str, Any]) -> pd.DataFrame:
    """The merge, row by row: what was there and what is there now, value or code."""
    merge = pd.DataFrame(entry["rows"])
    merge["reason"] = [before["code"] or before["quarantine"] for before in merge.before]
    for side in ("before", "after"):
        merge[side] = [s and (s["code"] if s["value"] is None else s["value"]) for s in merge[side]]
    return merge[["job", "policy", "prompt_id", "draw", "reason", "before", "after", "difference", "outcome"]]


def merged(entries: list[dict[str, Any]]) -> pd.DataFrame:
    """Per entry, job, policy and reason: how many rows, and what came of them (columns of outcomes that occur)."""
    every = pd.concat([rows(entry).assign(at=entry["at"], by=entry["by"]) for entry in entries], ignore_index=True)
    keys = ["at", "by", "job", "policy", "reason"]
    counts = every.groupby([*keys, "outcome"], sort=False).size().unstack(fill_value=0)
    counts = counts[[name for name in OUTCOMES if name in counts]].rename_axis(columns=None)
    counts.insert(0, "rows", counts.sum(axis=1))
    return counts.reset_index()


def estimates(entries: list[dict[str, Any]]) -> pd.DataFrame:
    """What the estimates were before the first entry and are after the last: see `snapshots.changes`."""
    return changes(entries[0]["estimates_before"], entries[-1]["estimates_after"])


def sentence(entries: list[dict[str, Any]]) -> str:
    """What came of measuring again, over all entries."""
    if not entries:
        return "No row has been measured again."
    counts = Counter(row["outcome"] for entry in entries for row in entry["rows"])
    outcomes = ", ".join(f"{counts[name]:,} {name}" for name in OUTCOMES if counts[name])
    models = sorted({model for entry in entries for model in entry["models"]})
    by = f" by {', '.join(models)}" if models else ""
    return f"Of {counts.total():,} rows to measure again{by}: {outcomes}. {changes_sentence(estimates(entries))}"


def lines(entry: dict[str, Any]) -> list[str]:
    """An entry in brief: the merge by job, policy and reason, the estimates that changed most, and a sentence."""
    both = estimates([entry])
    moved = both[both.differs].sort_values("change", key=abs, ascending=False, na_position="last", kind="stable")
    sides = [f"{what}_{side}" for side in ("before", "after") for what in ("value", "verdict")]
    largest = moved[["policy", "estimator", "judge", *sides, "change"]].head(12)
    tables = [merged([entry]).drop(columns=["at", "by"]), *([largest] if len(largest) else [])]
    texts = [table.to_string(index=False, na_rep="-", float_format="{:.4f}".format) for table in tables]
    return "\n\n".join([*texts, sentence([entry])]).splitlines()
