"""Prompts: where they come from, and the one file of a run that fixes which they are and in what order."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from arena10k import paths
from arena10k.config import Params
from arena10k.errors import ArenaError
from arena10k.policies import unit_hash

COLUMNS = ("prompt_id", "prompt", "category", "language", "answer", "check")


def read_jsonl(path: Path | Any, name: str) -> list[dict[str, Any]]:
    """Rows of a JSONL file of prompts; each needs `prompt_id` and `prompt`.

    Raises
    ------
    ArenaError
        Naming file and line of the first row that cannot be used.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ArenaError(f"{name}:{number}: not valid JSON: {error}") from error
        for field in ("prompt_id", "prompt"):
            if not isinstance(row, dict) or not isinstance(row.get(field), str) or not row[field].strip():
                raise ArenaError(f"{name}:{number}: {field!r} is missing or not a text")
        rows.append(row)
    return rows


def _source(params: Params) -> list[dict[str, Any]]:
    if params.prompts.source == "builtin":
        return read_jsonl(resources.files("arena10k") / "builtin" / "prompts.jsonl", "builtin/prompts.jsonl")
    path = Path(params.prompts.path)
    path = path if path.is_absolute() else paths.home() / path
    if not path.is_file():
        raise ArenaError(f"prompts.path: no file {params.prompts.path!r}")
    return read_jsonl(path, path.name)


def _frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    table = [{c: row.get(c) for c in COLUMNS} for row in rows]
    for row in table:
        row["check"] = None if row["check"] is None else json.dumps(row["check"], sort_keys=True)
    return pd.DataFrame(table, columns=list(COLUMNS)).astype("string")


def load(params: Params) -> tuple[pd.DataFrame, dict[str, int]]:
    """The experiment's prompts in the order fixed by its seed, and how many each filter removed.

    Returns
    -------
    frame with columns `COLUMNS` (text; missing where the source has none; `check` is JSON), and the counts
    ``read``, ``duplicate_text``, ``not_sampled``, ``kept``.

    Raises
    ------
    ArenaError
        For unreadable sources and for one `prompt_id` that stands for two prompts.
    """
    frame = _frame(_source(params))
    counts = {"read": len(frame)}
    clash = frame.prompt_id[frame.prompt_id.duplicated()]
    if len(clash):
        raise ArenaError(f"prompt_id {clash.iloc[0]!r} occurs more than once: ids must be unique")
    unique = frame[~frame.prompt.str.split().str.join(" ").str.lower().duplicated()]
    counts["duplicate_text"] = len(frame) - len(unique)
    order = unique.prompt_id.map(lambda p: unit_hash(params.seed, "order", p))
    kept = unique.loc[order.sort_values(kind="stable").index][: params.prompts.max_prompts].reset_index(drop=True)
    counts |= {"not_sampled": len(unique) - len(kept), "kept": len(kept)}
    if kept.empty:
        raise ArenaError("no prompt is left after the filters")
    return kept, counts


def write(params: Params, frame: pd.DataFrame) -> None:
    """Fix the run's prompts. A run that has others already is refused: its records belong to those."""
    path = paths.prompts_file(params.run)
    if path.is_file():
        if not read(params.run).equals(frame):
            raise ArenaError(
                f"run {params.run!r} already has other prompts: use another run name, or remove data/{params.run}"
            )
        return
    if params.recording:
        raise ArenaError(f"run {params.run!r} is a recording without prompts.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    frame.to_parquet(temporary, index=False)
    temporary.replace(path)


def read(run: str) -> pd.DataFrame:
    """The run's prompts, in order. Raises ArenaError where stage 01 has not run."""
    path = paths.prompts_file(run)
    if not path.is_file():
        raise ArenaError(f"run {run!r} has no prompts yet: run 01_prompts first")
    return pd.read_parquet(path)


def sentence(counts: dict[str, int]) -> str:
    """What the filters left, in words."""
    removed = {name: n for name, n in counts.items() if name not in ("read", "kept") and n}
    why = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in removed.items()) or "none"
    return f"{counts['kept']:,} of {counts['read']:,} prompts are kept; left out: {why}."
