"""Oracle labels by exact checkers: which responses get one is decided in `jobs`, what is right in `oracle`."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from arena10k import oracle
from arena10k.config import Params
from arena10k.jobs import RESPONSES, contexts, labels_wanted
from arena10k.policies import digest
from arena10k.store import Record, Store


def label(params: Params, store: Store, prompts: pd.DataFrame) -> int:
    """Label every wanted response that has none yet; returns how many were added."""
    if params.recording:
        return 0
    wanted, current = labels_wanted(params, prompts.prompt_id), contexts(params)
    checks = prompts.set_index("prompt_id")["check"].dropna()
    specs = {prompt_id: json.loads(check) for prompt_id, check in checks.items()}
    added = 0
    for row in [r for r in store.rows(RESPONSES) if r["status"] == "ok" and r["prompt_id"] in specs]:
        for job, cells in wanted.items():
            if (row["policy"], row["prompt_id"], row["draw"]) in cells:
                record = _record(job, current[job, row["policy"]], row, specs[row["prompt_id"]])
                added += store.put(record)
    return added


def _record(job: str, context: str, row: dict[str, Any], spec: dict[str, Any]) -> Record:
    key = [context, row["policy"], row["draw"], spec, row["value"]]
    value = oracle.check(spec, row["value"], prompt_id=row["prompt_id"])
    return Record(
        job, row["prompt_id"], digest(key), row["policy"], row["draw"], row["fingerprint"], context, "ok",
        value=value, model="exact",
    )  # fmt: skip
