"""Snapshots: the estimates of a run as they are now, kept under a name, and what has changed since."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from arena10k import paths
from arena10k.audit import quality, status
from arena10k.collection.jobs import expected
from arena10k.errors import ArenaError
from arena10k.report.files import plain, write_json
from arena10k.rescoring import changes
from arena10k.run import Run

_FILE = "snapshot.json"
#: What a table of the comparison shows.
COLUMNS = [
    "policy", "estimator", "judge", "value_before", "ci_low_before", "ci_high_before", "verdict_before", "rank_before",
    "value_after", "ci_low_after", "ci_high_after", "verdict_after", "rank_after", "change",
]  # fmt: skip


def present(run: Run) -> dict[str, Any]:
    """What a snapshot keeps: the content of `estimates.json`, the counts of `quality.json`, and the coverage."""
    jobs = quality.jobs(run.store, expected(run.params, len(run.prompts)))
    coverage = status.coverage(run.params, run.store)
    kept: dict[str, Any] = plain(run.estimates(run.table()) | {"quality": {"jobs": jobs}, "coverage": coverage})
    return kept


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
    quality.quarantine(run.store, quality.scan(run.params, run.store))
    state = present(run) | {"name": name}
    if path.is_file():
        if _content(_read(path)) != _content(state):
            raise ArenaError(f"snapshot {name!r} of run {run.name!r} is there and is another: choose a new name")
        return path, False
    write_json(path, state | {"taken": datetime.datetime.now(datetime.UTC).isoformat()})
    return path, True


def _read(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return state


def _content(state: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in state.items() if k != "taken"}


def names(run: str) -> list[str]:
    """The snapshots of a run, oldest first."""
    found = [_read(path) for path in paths.snapshots_dir(run).glob(f"*/{_FILE}")]
    return [state["name"] for state in sorted(found, key=lambda state: state["taken"])]


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
    if not there:
        return None
    return _read(paths.snapshots_dir(run) / (name or there[-1]) / _FILE)


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
    told = f"Since snapshot {earlier['name']} ({earlier['coverage']['sentence'].rstrip('.')}): "
    told += f"{len(outside):,} of {len(both):,} values have left their earlier interval"
    if len(outside):
        most = outside.loc[outside.change.abs().idxmax()]
        told += f" (most, {most.change:+.3f}: {most.estimator} for {most.policy}, {most.judge})"
    ranked = both.drop_duplicates("policy")
    moved = ranked[ranked.rank_before.fillna(0) != ranked.rank_after.fillna(0)]
    places = ", ".join(f"{r.policy} {_place(r.rank_before)} to {_place(r.rank_after)}" for r in moved.itertuples())
    return f"{told}; {changes.verdicts_sentence(both)}; {f'ranks changed: {places}' if places else 'no rank changed'}."


def _place(rank: Any) -> str:
    return "unranked" if pd.isna(rank) else str(int(rank))
