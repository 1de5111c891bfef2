"""The audit of rescoring, `rescore.json`: who asked for what and when, every row before and after, and the estimates.

An entry is written before anything is asked, and closed afterwards; one that was left open by a kill is closed by the
next call, from the store.
"""

from __future__ import annotations

import datetime
import getpass
import json
import os
from typing import Any

import pandas as pd

from arena10k import paths
from arena10k.audit import quality
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
    kept = [
        {k: row[k] for k in ("job", "policy", "prompt_id", "draw", "request_hash")} | {"before": _state(row)}
        for row in rows
    ]
    now = contexts(run.params)
    entry = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "by": _user(),
        "asked": asked,
        "definitions": {f"{job} {policy}": now[job, policy] for job, policy in {(r["job"], r["policy"]) for r in rows}},
        "rows": kept,
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
    quality.quarantine(run.store, quality.scan(run.params, run.store))
    there = {key_of(r): r for r in run.store.rows()}
    for row in entry["rows"]:
        after = there.get(key_of(row))
        row["after"] = _state(after) if after else None
        row["outcome"] = _outcome(row["before"], row["after"])
        row["difference"] = _difference(row["before"], row["after"])
    if all(row["outcome"] == "not asked" for row in entry["rows"]):
        _write(run, entries[:-1])
        return None
    entry["models"] = sorted({r["after"]["model"] for r in entry["rows"] if _measured(r) and r["after"]["model"]})
    entry["estimates_after"] = run.estimates(run.table())["rows"]
    entry |= {"finished": True, "stopped": stopped}
    _write(run, entries)
    return entry


def _write(run: Run, entries: list[dict[str, Any]]) -> None:
    if not entries:
        paths.result_file(run.name, FILE).unlink(missing_ok=True)
        return
    run.write_result(FILE, {"run": run.name, "entries": entries})


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return str(os.getuid())


def _state(row: dict[str, Any]) -> dict[str, Any]:
    value = row["value"][:TEXT] if isinstance(row["value"], str) else row["value"]
    kept = ("status", "code", "quarantine", "model", "attempts", "created")
    return {"value": value} | {k: row[k] for k in kept}


def _outcome(before: dict[str, Any], after: dict[str, Any] | None) -> str:
    if after is None:
        return "replaced"
    clean = after["status"] == "ok" and after["quarantine"] is None
    if after["attempts"] == before["attempts"]:
        return "released" if clean else "not asked"
    if clean:
        return "restored"
    if after["status"] != "ok":
        return "failed again"
    return "still quarantined" if after["created"] == before["created"] else "quarantined again"


def _measured(row: dict[str, Any]) -> bool:
    return row["outcome"] in ("restored", "quarantined again")


def _difference(before: dict[str, Any], after: dict[str, Any] | None) -> float | None:
    """After minus before, where both have a number."""
    values = before["value"], (after or {}).get("value")
    return values[1] - values[0] if all(isinstance(v, int | float) for v in values) else None


def rows(entry: dict[str, Any]) -> pd.DataFrame:
    """The merge, row by row: what was there and what is there now, value or code."""
    out = [
        {"job": r["job"], "policy": r["policy"], "prompt_id": r["prompt_id"], "draw": r["draw"]}
        | {"reason": r["before"]["code"] or r["before"]["quarantine"], "before": _shown(r["before"])}
        | {"after": _shown(r["after"]), "difference": r["difference"], "outcome": r["outcome"]}
        for r in entry["rows"]
    ]
    columns = ["job", "policy", "prompt_id", "draw", "reason", "before", "after", "difference", "outcome"]
    return pd.DataFrame(out, columns=columns)


def _shown(state: dict[str, Any] | None) -> Any:
    if state is None:
        return None
    return state["value"] if state["value"] is not None else state["code"]


def merged(entries: list[dict[str, Any]]) -> pd.DataFrame:
    """Per entry, job, policy and reason: how many rows, and what came of them (columns of outcomes that occur)."""
    frames = [rows(entry).assign(at=entry["at"], by=entry["by"]) for entry in entries]
    keys = ["at", "by", "job", "policy", "reason"]
    if not frames:
        return pd.DataFrame(columns=[*keys, "rows"])
    every = pd.concat(frames, ignore_index=True)
    counts = every.groupby([*keys, "outcome"], sort=False).size().unstack(fill_value=0)
    counts.insert(0, "rows", counts.sum(axis=1))
    shown = ["rows", *(name for name in OUTCOMES if name in counts)]
    return counts[shown].rename_axis(columns=None).reset_index()


def estimates(entries: list[dict[str, Any]]) -> pd.DataFrame:
    """What the estimates were before the first entry and are after the last: see `changes.estimates`."""
    if not entries:
        return changes.estimates([], [])
    return changes.estimates(entries[0]["estimates_before"], entries[-1]["estimates_after"])


def sentence(entries: list[dict[str, Any]]) -> str:
    """What came of measuring again, over all entries."""
    if not entries:
        return "No row has been measured again."
    outcomes = pd.Series([row["outcome"] for entry in entries for row in entry["rows"]])
    counts = outcomes.value_counts()
    told = ", ".join(f"{counts[name]:,} {name}" for name in OUTCOMES if name in counts)
    models = sorted({model for entry in entries for model in entry["models"]})
    by = f" by {', '.join(models)}" if models else ""
    return f"Of {len(outcomes):,} rows to measure again{by}: {told}. {changes.sentence(estimates(entries))}"


def lines(entry: dict[str, Any], most: int = 12) -> list[str]:
    """An entry in brief: the merge by job, policy and reason, the estimates that changed most, and a sentence."""
    table = merged([entry]).drop(columns=["at", "by"])
    both = estimates([entry])
    moved = both[both.differs].sort_values("change", key=abs, ascending=False, na_position="last", kind="stable")
    columns = [
        "policy",
        "estimator",
        "judge",
        "value_before",
        "verdict_before",
        "value_after",
        "verdict_after",
        "change",
    ]
    out = [table.to_string(index=False)]
    if len(moved):
        shown = moved[columns].head(most).to_string(index=False, na_rep="-", float_format="{:.4f}".format)
        out += ["", shown, *([f"... and {len(moved) - most:,} more"] if len(moved) > most else [])]
    return [*out, "", sentence([entry])]
