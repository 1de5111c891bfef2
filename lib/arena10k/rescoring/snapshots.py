"""Snapshots: the estimates of a run as they are now, kept under a name, and what has changed since."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from arena10k import paths
from arena10k.audit import quality, screening, status
from arena10k.errors import ArenaError
from arena10k.report.files import plain, write_json
from arena10k.rescoring import changes
from arena10k.run import Run

_FILE = "snapshot.json"
_SIDE = ("value", "ci_low", "ci_high", "verdict", "rank")
#: What a table of the comparison shows.
COLUMNS = ["policy", "estimator", "judge", *(f"{x}_{side}" for side in ("before", "after") for x in _SIDE), "change"]


def present(run: Run) -> dict[str, Any]:
    """What a snapshot keeps: the content of `estimates.json`, the counts of `quality.json`, and the coverage."""
    jobs = quality.jobs(run.params, run.store, len(run.prompts))
    coverage = status.coverage(run.params, run.store)
    state: dict[str, Any] = plain(run.estimates(run.table()) | {"quality": {"jobs": jobs}, "coverage": coverage})
    return state


def take(run: Run, name: str) -> tuple[Path, bool]:
    """Keep the present state under `data/<run>/snapshots/<name>`, after a new look for bad values.

    Returns the file, and whether it is new: a snapshot of the same content is left as it is.

    Raises
    ------
    ArenaError
        For a name that is no folder name, for a recording, which is not written to, and where another snapshot has the
        name.
    """
    path = paths.snapshots_dir(run.name) / paths.check_run_name(name, "snapshot name") / _FILE
    if run.params.recording:
        raise ArenaError(f"run {run.name!r} is a recording, which is not written to: no snapshot is taken")
    status.open_store(run.params).close()  # an answer for runs that have not begun
    screening.quarantine(run.store, screening.scan(run.params, run.store))
    state = present(run) | {"name": name}
    if path.is_file():
        if _read(path) | {"taken": None} != state | {"taken": None}:
            raise ArenaError(f"snapshot {name!r} of run {run.name!r} is there and is another: choose a new name")
        return path, False
    write_json(path, state | {"taken": datetime.datetime.now(datetime.UTC).isoformat()})
    return path, True


def _read(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return state


def names(run: str) -> list[str]:
    """The snapshots of a run, oldest first."""
    states = [_read(path) for path in paths.snapshots_dir(run).glob(f"*/{_FILE}")]
    return [state["name"] for state in sorted(states, key=lambda state: state["taken"])]


def load(run: str, name: str = "") -> dict[str, Any] | None:
    """A snapshot by name, or the newest; None where the run has none.

    Raises
    ------
    ArenaError
        For a name that is not there; it says which are.
    """
    there = names(run)
    if name and name not in there:
        raise ArenaError(f"run {run!r} has no snapshot {name!r}: {', '.join(there) or 'none has been taken'}")
    return _read(paths.snapshots_dir(run) / (name or there[-1]) / _FILE) if there else None


def compare(earlier: Mapping[str, Any] | None, now: Mapping[str, Any]) -> pd.DataFrame | None:
    """Every estimate then and now (see `changes.estimates`), with the policy's rank then and now; `now` is the content
    of `estimates.json`. None without a snapshot."""
    if earlier is None:
        return None
    both = changes.estimates(earlier["rows"], now["rows"])
    return both.merge(changes.ranks(earlier["ranking"], now["ranking"]), on="policy", how="left")


def sentence(earlier: Mapping[str, Any] | None, both: pd.DataFrame | None) -> str:
    """What moved since the snapshot: rows of data, estimates outside their earlier interval, verdicts, ranks."""
    if earlier is None or both is None:
        return (
            "No snapshot of this run has been taken (`arena10k snapshot RUN NAME`): there is nothing to compare with."
        )
    outside = both[both.outside]
    text = f"Since snapshot {earlier['name']} ({earlier['coverage']['sentence'].rstrip('.')}): "
    text += f"{len(outside):,} of {len(both):,} values have left their earlier interval"
    if len(outside):
        most = outside.loc[outside.change.abs().idxmax()]
        text += f" (most, {most.change:+.3f}: {most.estimator} for {most.policy}, {most.judge})"
    ranked = both.drop_duplicates("policy")[["policy", "rank_before", "rank_after"]].astype(object)
    ranked = ranked.where(ranked.notna(), "unranked")
    moved = ranked[ranked.rank_before != ranked.rank_after]
    places = ", ".join(f"{row.policy} {row.rank_before} to {row.rank_after}" for row in moved.itertuples())
    return f"{text}; {changes.verdicts_sentence(both)}; {f'ranks changed: {places}' if places else 'no rank changed'}."
