"""Snapshots: the estimates of a run kept under a name, and what changed between two sets of estimates of one run."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from arena10k import paths
from arena10k.audit import quality, screening, status
from arena10k.errors import ArenaError
from arena10k.estimation.verdicts import NO_VERDICT
from arena10k.report.files import plain, write_json
from arena10k.run import Run

_FILE = "snapshot.json"
_KEY = ["policy", "estimator", "judge"]
_NUMBERS = ["value", "ci_low", "ci_high"]
#: What a table of the comparison shows.
COLUMNS = [*_KEY, *(f"{x}_{side}" for side in ("before", "after") for x in (*_NUMBERS, "verdict", "rank")), "change"]

Estimates = Sequence[Mapping[str, Any]]


def take(run: Run, name: str) -> tuple[Path, bool]:
    """Keep the content of `estimates.json`, the counts of `quality.json` and the coverage as they are now, after a new
    look for bad values, under `data/<run>/snapshots/<name>`. Returns the file, and whether it is new: a snapshot of the
    same content is left as it is. Raises ArenaError for a name that is no folder name, for a recording, which is not
    written to, and where another snapshot has the name."""
    path = paths.snapshots_dir(run.name) / paths.check_run_name(name, "snapshot name") / _FILE
    if run.params.recording:
        raise ArenaError(f"run {run.name!r} is a recording, which is not written to: no snapshot is taken")
    status.open_store(run.params).close()  # an answer for runs that have not begun
    screening.quarantine(run.store, screening.scan(run.params, run.store))
    state = run.estimates(run.table()) | {"coverage": status.coverage(run.params, run.store), "name": name}
    state = plain(state | {"quality": {"jobs": quality.jobs(run.params, run.store, len(run.prompts))}})
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) | {"taken": None} != state | {"taken": None}:
            raise ArenaError(f"snapshot {name!r} of run {run.name!r} is there and is another: choose a new name")
        return path, False
    write_json(path, state | {"taken": datetime.datetime.now(datetime.UTC).isoformat()})
    return path, True


def load(run: str, name: str = "") -> dict[str, Any] | None:
    """A snapshot by name, or the newest; None where the run has none. Raises ArenaError for a name that is not there,
    with those that are, the oldest first."""
    states = [json.loads(path.read_text(encoding="utf-8")) for path in paths.snapshots_dir(run).glob(f"*/{_FILE}")]
    by_name: dict[str, dict[str, Any]] = {state["name"]: state for state in sorted(states, key=lambda s: s["taken"])}
    if name and name not in by_name:
        raise ArenaError(f"run {run!r} has no snapshot {name!r}: {', '.join(by_name) or 'none has been taken'}")
    return by_name[name or list(by_name)[-1]] if by_name else None


def changes(before: Estimates, after: Estimates) -> pd.DataFrame:
    """Rows of `estimates.json` then and now, one row per policy, estimator and judge that is in either, where what
    was not collected is not: `value`, `ci_low`, `ci_high` and `verdict` each with `_before` and `_after` (missing where
    there was none); `change` of the value; `differs`: value, interval or verdict is another; `verdict_changed`;
    `outside`: the value has left the interval of before (where it lay in it)."""
    sides = []
    for side, rows in (("before", before), ("after", after)):
        collected = [row for row in rows if row["verdict"] not in NO_VERDICT]
        frame = pd.DataFrame(collected, columns=[*_KEY, *_NUMBERS, "verdict"]).astype(dict.fromkeys(_NUMBERS, float))
        sides.append(frame.set_index(_KEY).add_suffix(f"_{side}"))
    order = sides[1].index.append(sides[0].index).drop_duplicates()
    both = pd.DataFrame(index=order).join(sides).reset_index()
    both["change"] = both.value_after - both.value_before
    both["verdict_changed"] = both.verdict_before.fillna("") != both.verdict_after.fillna("")
    old, new = (both[[f"{name}_{side}" for name in _NUMBERS]].to_numpy() for side in ("before", "after"))
    both["differs"] = both.verdict_changed | ~np.isclose(old, new, rtol=0, atol=0, equal_nan=True).all(axis=1)
    was, is_now = ((v < both.ci_low_before) | (v > both.ci_high_before) for v in (both.value_before, both.value_after))
    both["outside"] = is_now & ~was
    return both


def changes_sentence(both: pd.DataFrame) -> str:
    """How many estimates are others than before, which verdicts changed, and the largest change of a value."""
    differing = int(both.differs.sum())
    if not differing:
        return f"None of the {len(both):,} estimates changed."
    text = f"{differing:,} of {len(both):,} estimates changed"
    if both.change.abs().max() > 0:
        most = both.loc[both.change.abs().idxmax()]
        text += f"; the largest change of a value is {most.change:+.4f} "
        text += f"({most.estimator} for {most.policy}, {most.judge})"
    return f"{text}; {_verdicts(both)}."


def _verdicts(both: pd.DataFrame) -> str:
    """Which verdicts changed and how, in one clause."""
    changed = both[both.verdict_changed]
    if changed.empty:
        return "no verdict changed"
    kinds = (changed.verdict_before.fillna("none") + " to " + changed.verdict_after.fillna("none")).value_counts()
    ways = ", ".join(f"{n} from {kind}" for kind, n in kinds.items())
    verb = "verdict" if len(changed) == 1 else "verdicts"
    return f"{len(changed):,} {verb} changed ({ways}; {', '.join(dict.fromkeys(changed.policy))})"


def compare(earlier: Mapping[str, Any] | None, now: Mapping[str, Any]) -> pd.DataFrame | None:
    """`changes` since a snapshot, with the policy's `rank_before` and `rank_after` (missing: unranked); `now` is the
    content of `estimates.json`. None without a snapshot."""
    if earlier is None:
        return None
    both = changes(earlier["rows"], now["rows"])
    for side, state in (("before", earlier), ("after", now)):
        ranks = {place["policy"]: place["rank"] for place in state["ranking"]}
        both[f"rank_{side}"] = both.policy.map(ranks).astype("Int64")
    return both


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
    return f"{text}; {_verdicts(both)}; {f'ranks changed: {places}' if places else 'no rank changed'}."
