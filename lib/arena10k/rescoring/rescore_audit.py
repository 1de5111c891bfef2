"""The audit of rescoring, `rescore.json`: who asked for what and when, every row before and after, and the estimates.

An entry is written before anything is asked, and closed afterwards; one that was left open by a kill is closed by the
next call, from the store.
"""

from __future__ import annotations

import datetime
import getpass
import json
import os
from collections import Counter
from typing import Any

import pandas as pd

from arena10k import paths
from arena10k.audit import screening
from arena10k.collection.jobs import contexts
from arena10k.collection.records import key_of
from arena10k.rescoring import changes
from arena10k.run import Run

FILE = "rescore.json"
#: Texts in the audit end here; the store keeps them whole.
TEXT = 200
#: What may come of a row, as `outcome` says it.
OUTCOMES = ("restored", "failed again", "quarantined again", "still quarantined", "released", "not asked", "replaced")


def read(run: str) -> list[dict[str, Any]]:
    """The entries of a run's audit, oldest first; none where nothing was ever measured again."""
    path = paths.result_file(run, FILE)
    return json.loads(path.read_text(encoding="utf-8"))["entries"] if path.is_file() else []


def begin(run: Run, rows: list[dict[str, Any]], asked: dict[str, Any]) -> None:
    """Open an entry: the rows as they are, and the estimates without them."""
    key, now = ("job", "policy", "prompt_id", "draw", "request_hash"), contexts(run.params)
    entry = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "by": _user(),
        "asked": asked,
        "definitions": {f"{job} {policy}": now[job, policy] for job, policy in {(r["job"], r["policy"]) for r in rows}},
        "rows": [{k: row[k] for k in key} | {"before": _state(row)} for row in rows],
        "estimates_before": run.estimates(run.table())["rows"],
        "finished": False,
    }
    _write(run, [*read(run.name), entry])


def close(run: Run, stopped: str | None = None) -> dict[str, Any] | None:
    """Look for bad values anew, and complete the open entry from the store. None where no entry is open.

    `stopped` is the error that ended the call early; a call that ended before anything was asked leaves no entry.
    """
    entries = read(run.name)
    if not entries or entries[-1]["finished"]:
        return None
    entry = entries[-1]
    screening.quarantine(run.store, screening.scan(run.params, run.store))
    for row in entry["rows"]:
        record = run.store.get(*key_of(row))
        before, after = row["before"], _state(record) if record else None
        numbers = [state["value"] for state in (before, after) if state and isinstance(state["value"], int | float)]
        difference = numbers[1] - numbers[0] if len(numbers) == 2 else None
        row |= {"after": after, "outcome": _outcome(before, after), "difference": difference}
    if all(row["outcome"] == "not asked" for row in entry["rows"]):
        _write(run, entries[:-1])
        return None
    measured = [row["after"]["model"] for row in entry["rows"] if row["outcome"] in ("restored", "quarantined again")]
    entry |= {"models": sorted({*measured} - {None}), "estimates_after": run.estimates(run.table())["rows"]}
    entry |= {"finished": True, "stopped": stopped}
    _write(run, entries)
    return entry


def _write(run: Run, entries: list[dict[str, Any]]) -> None:
    if entries:
        run.write_result(FILE, {"run": run.name, "entries": entries})
    else:
        paths.result_file(run.name, FILE).unlink(missing_ok=True)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return str(os.getuid())


def _state(row: dict[str, Any]) -> dict[str, Any]:
    value = row["value"][:TEXT] if isinstance(row["value"], str) else row["value"]
    return {"value": value} | {k: row[k] for k in ("status", "code", "quarantine", "model", "attempts", "created")}


def _outcome(before: dict[str, Any], after: dict[str, Any] | None) -> str:
    if after is None:
        return "replaced"
    usable = after["status"] == "ok" and after["quarantine"] is None
    if after["attempts"] == before["attempts"]:
        return "released" if usable else "not asked"
    if usable:
        return "restored"
    if after["status"] != "ok":
        return "failed again"
    return "still quarantined" if after["created"] == before["created"] else "quarantined again"


def rows(entry: dict[str, Any]) -> pd.DataFrame:
    """The merge, row by row: what was there and what is there now, value or code."""

    def shown(state: dict[str, Any] | None) -> Any:
        return state and (state["code"] if state["value"] is None else state["value"])

    columns = ["job", "policy", "prompt_id", "draw", "reason", "before", "after", "difference", "outcome"]
    merge = [
        row | {"reason": row["before"]["code"] or row["before"]["quarantine"]}
        | {"before": shown(row["before"]), "after": shown(row["after"])}
        for row in entry["rows"]
    ]  # fmt: skip
    return pd.DataFrame(merge, columns=columns)


def merged(entries: list[dict[str, Any]]) -> pd.DataFrame:
    """Per entry, job, policy and reason: how many rows, and what came of them (columns of outcomes that occur)."""
    keys = ["at", "by", "job", "policy", "reason"]
    if not entries:
        return pd.DataFrame(columns=[*keys, "rows"])
    every = pd.concat([rows(entry).assign(at=entry["at"], by=entry["by"]) for entry in entries], ignore_index=True)
    counts = every.groupby([*keys, "outcome"], sort=False).size().unstack(fill_value=0)
    counts.insert(0, "rows", counts.sum(axis=1))
    columns = ["rows", *(name for name in OUTCOMES if name in counts)]
    return counts[columns].rename_axis(columns=None).reset_index()


def estimates(entries: list[dict[str, Any]]) -> pd.DataFrame:
    """What the estimates were before the first entry and are after the last: see `changes.estimates`."""
    if not entries:
        return changes.estimates([], [])
    return changes.estimates(entries[0]["estimates_before"], entries[-1]["estimates_after"])


def sentence(entries: list[dict[str, Any]]) -> str:
    """What came of measuring again, over all entries."""
    if not entries:
        return "No row has been measured again."
    counts = Counter(row["outcome"] for entry in entries for row in entry["rows"])
    outcomes = ", ".join(f"{counts[name]:,} {name}" for name in OUTCOMES if counts[name])
    models = sorted({model for entry in entries for model in entry["models"]})
    by = f" by {', '.join(models)}" if models else ""
    return f"Of {counts.total():,} rows to measure again{by}: {outcomes}. {changes.sentence(estimates(entries))}"


def lines(entry: dict[str, Any], most: int = 12) -> list[str]:
    """An entry in brief: the merge by job, policy and reason, the estimates that changed most, and a sentence."""
    both = estimates([entry])
    moved = both[both.differs].sort_values("change", key=abs, ascending=False, na_position="last", kind="stable")
    sides = [f"{what}_{side}" for side in ("before", "after") for what in ("value", "verdict")]
    columns = ["policy", "estimator", "judge", *sides, "change"]
    out = [merged([entry]).drop(columns=["at", "by"]).to_string(index=False)]
    if len(moved):
        largest = moved[columns].head(most).to_string(index=False, na_rep="-", float_format="{:.4f}".format)
        out += ["", largest, *([f"... and {len(moved) - most:,} more"] if len(moved) > most else [])]
    return [*out, "", sentence([entry])]
