"""Oracle labels: which responses get one is decided in `jobs`; what is right, by exact checkers or by a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import pandas as pd

from arena10k.collection import judge, oracle
from arena10k.collection.collect import collect
from arena10k.collection.jobs import ORACLE, RESPONSES, contexts, labels_wanted
from arena10k.collection.records import Record
from arena10k.collection.store import Store
from arena10k.collection.tasks import Task
from arena10k.errors import ArenaError
from arena10k.inputs.policies import digest
from arena10k.params.config import Params


def check_prompts(params: Params, prompts: pd.DataFrame) -> None:
    """Whether the exact oracle that the params ask for can label these prompts; before anything is asked. Raises
    ArenaError where no prompt has a `check`, and for the first one that cannot be run."""
    wanted = params.oracle.p0_fraction > 0 or params.oracle.target_labels > 0 or params.oracle.truth
    if params.oracle.kind != "exact" or not wanted or "oracle" not in params.model_fields_set:
        return
    name = params.prompts.path or "the built-in set"
    checks = prompts.set_index("prompt_id")["check"].dropna()
    if checks.empty:
        raise ArenaError(
            f"{name}: none of the {len(prompts):,} prompts has a `check`, by which the oracle of the params "
            "(oracle.kind: exact) labels (`answer` is for the judge alone): give the rows such as "
            '"check": {"kind": "contains_any", "values": ["Paris"]}, or the params an oracle of kind: model, or no '
            "labels (oracle: {p0_fraction: 0, target_labels: 0, truth: false})"
        )
    for prompt_id, check in checks.items():
        try:
            oracle.validate(json.loads(check), prompt_id=str(prompt_id))
        except ValueError as error:
            raise ArenaError(f"{name}: {error}: fix its `check` or take it out") from error


def label(params: Params, store: Store, prompts: pd.DataFrame) -> int:
    """Label every wanted response that has none yet, by the oracle of the params; returns how many were added. Raises
    ArenaError: see `check_prompts` and, where a model is the oracle, `collect.collect`."""
    if params.oracle.grader is not None:
        return collect(params, store, partial(tasks, params, prompts, store), "oracle", watch=judge.watch(params)).ok
    if params.recording:
        return 0
    check_prompts(params, prompts)
    wanted, current = labels_wanted(params, prompts.prompt_id), contexts(params)
    specs = prompts.set_index("prompt_id")["check"].dropna().map(json.loads).to_dict()
    added = 0
    for row in [r for r in store.rows(RESPONSES) if r["status"] == "ok" and r["prompt_id"] in specs]:
        policy, prompt_id, draw = cell = row["policy"], row["prompt_id"], row["draw"]
        for job in (job for job, cells in wanted.items() if cell in cells):
            context, spec = current[job, policy], specs[prompt_id]
            key = digest([context, policy, draw, spec, row["value"]])
            value = oracle.check(spec, row["value"], prompt_id=prompt_id)
            shared = (job, prompt_id, key, policy, draw, row["fingerprint"], context)
            added += store.put(Record(*shared, "ok", value=value, model="exact"))
    return added


def tasks(params: Params, prompts: pd.DataFrame, store: Store) -> Iterator[Task]:
    """One task per response of the slice, for a model that is the oracle: one label at temperature 0."""
    if (grader := params.oracle.grader) is None:
        return
    wanted, current = labels_wanted(params, prompts.prompt_id)[ORACLE], contexts(params)
    by_id = prompts.set_index("prompt_id").to_dict("index")
    for row in judge.responses(params, store, ORACLE):
        if (row["policy"], row["prompt_id"], row["draw"]) in wanted and judge.can_grade(params, grader, row):
            yield judge.task(params, grader, ORACLE, current[ORACLE, row["policy"]], row, by_id[row["prompt_id"]])
