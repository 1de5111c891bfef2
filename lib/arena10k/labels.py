"""Oracle labels: which responses get one, and the labelling by exact checkers.

Two jobs with two purposes. ``oracle`` labels a slice: a share of the logged responses and a few fresh draws of each
target; this is all that estimators may see. ``truth`` labels every draw of every policy, where labels cost nothing;
it is only ever compared with, never estimated from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pandas as pd

from arena10k import oracle
from arena10k.config import Params
from arena10k.generate import JOB as RESPONSES
from arena10k.policies import digest, unit_hash
from arena10k.store import Record, Store

ORACLE, TRUTH = "oracle", "truth"


def slice_of(params: Params, policy: str, prompt_ids: Iterable[str]) -> set[str]:
    """The prompts whose response by `policy` (draw 0; all logged draws for P0) is labelled; stable under reordering."""
    order = sorted(prompt_ids, key=lambda p: unit_hash(params.seed, ORACLE, policy == params.logging_policy, p))
    if policy == params.logging_policy:
        return set(order[: round(params.oracle.p0_fraction * len(order))])
    return set(order[: params.oracle.target_labels])


def wanted(params: Params, prompt_ids: Iterable[str]) -> dict[str, set[tuple[str, str, int]]]:
    """The (policy, prompt_id, draw) to label, by job."""
    ids = list(prompt_ids)
    out: dict[str, set[tuple[str, str, int]]] = {ORACLE: set(), TRUTH: set()}
    for policy in params.policies:
        draws = range(params.responses.logged_draws if policy == params.logging_policy else 1)
        out[ORACLE] |= {(policy, p, d) for p in slice_of(params, policy, ids) for d in draws}
        if params.oracle.truth:
            out[TRUTH] |= {(policy, p, d) for p in ids for d in range(params.responses.draws)}
    return out


def label(params: Params, store: Store, prompts: pd.DataFrame, responses: Iterable[dict[str, Any]]) -> int:
    """Label every wanted response that has none yet; returns how many were added."""
    todo = wanted(params, prompts.prompt_id)
    checks = prompts.set_index("prompt_id")["check"]
    known = {job: store.statuses(job) for job in todo}
    added = 0
    for row in responses:
        if row["job"] != RESPONSES or row["status"] != "ok":
            continue
        for job, cells in todo.items():
            if (row["policy"], row["prompt_id"], row["draw"]) not in cells or pd.isna(checks[row["prompt_id"]]):
                continue
            record = _record(job, row, checks[row["prompt_id"]])
            if (record.prompt_id, record.request_hash) not in known[job] and not params.recording:
                added += store.put(record)
    return added


def _record(job: str, row: dict[str, Any], check: str) -> Record:
    spec = json.loads(check)
    key = {"job": job, "check": spec, "policy": row["policy"], "draw": row["draw"], "response": row["value"]}
    return Record(
        job, row["prompt_id"], digest(key), row["policy"], row["draw"], row["fingerprint"], "ok",
        value=oracle.check(spec, row["value"], prompt_id=row["prompt_id"]), model="exact",
    )  # fmt: skip
