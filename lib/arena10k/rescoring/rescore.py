"""Rows that failed or were quarantined, measured again under the same definition and by the same model, with an audit.

What is measured takes the place of an error or of a quarantined value; both are kept as attempts. A row that fails
again stays failed, and a quarantined value whose new measurement fails stays quarantined. A clean value is never asked
for again.

The audit, `rescore.json`, says who asked for what and when, every row before and after, and the estimates. An entry is
written before anything is asked, and closed afterwards; one that was left open by a kill is closed by the next call,
from the store.
"""

from __future__ import annotations

import datetime
import getpass
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from arena10k import paths
from arena10k.audit import screening
from arena10k.collection import labels, pilot
from arena10k.collection.answers import answered_by
from arena10k.collection.collect import collect
from arena10k.collection.jobs import LOGPROBS, ORACLE, RESPONSES, SHUFFLED, TRUTH, Key, compares, contexts, judging
from arena10k.collection.records import Row, key_of
from arena10k.collection.store import Store
from arena10k.collection.tasks import Reader, Task, Tasks
from arena10k.errors import ArenaError, CallError
from arena10k.inputs.policies import policies
from arena10k.params.config import Params
from arena10k.rescoring.history import FILE, read
from arena10k.run import Run

#: Where a quarantine reason would stand: the response that this row measured has been replaced.
REPLACED = "response_replaced"
#: Texts in the audit end here; the store keeps them whole.
TEXT = 200


def rescore(run: Run, policy: str | None = None, code: str | None = None) -> dict[str, Any] | None:
    """Measure again the rows that failed or are quarantined, only those of `policy` and with the error code or
    quarantine reason `code` where these are given, and write down what came of it: the new entry of the audit, or None
    where no such row exists, when nothing changes.

    Raises ArenaError where nothing can be asked (a recording, imported data without the requests behind it), the
    definition is no longer the one of the records, another model answers, or spending is not confirmed. What was
    measured before that is stored and in the audit; the same command goes on from there.
    """
    params = run.params
    if params.recording:
        raise ArenaError(f"run {run.name!r} is a recording: nothing can be asked again; rescore the run it was made of")
    if not paths.store_file(run.name).is_file():
        raise ArenaError(f"run {run.name!r} has no records: nothing has been collected yet")
    if policy is not None and policy not in params.policies:
        raise ArenaError(f"no policy {policy!r} in run {run.name!r}: {', '.join(params.policies)}")
    # What a killed call left: its responses may have replaced others, and its entry is still open.
    _retire_replaced(run)
    _close(run)
    screening.quarantine(run.store, screening.scan(params, run.store))
    every = (row for job in asked(run.params) for row in run.store.rows(job))
    bad = (row for row in every if row["status"] != "ok" or row["quarantine"])
    chosen = [r for r in bad if policy in (None, r["policy"]) and code in (None, r["code"], r["quarantine"])]
    _check_definition(run, policy, chosen)
    if not chosen:
        return None
    steps, rows = pilot.steps(params, run.store, run.prompts), {key_of(row) for row in chosen}
    due = (step for step in steps if any(row[0] in step.jobs for row in rows))
    if not any(task.row in rows and task.requests for step in due for task in step.tasks()):
        why = "the responses they belong to are missing, or the params no longer ask for them"
        if paths.import_file(run.name).is_file():
            why = "it was imported, and what was asked for these rows is not known"
        raise ArenaError(f"run {run.name!r}: none of the {len(rows):,} rows can be measured again: {why}")
    _begin(run, chosen, {"policy": policy, "code": code})
    stopped = None
    try:
        _measure(run, steps, rows)
    except ArenaError as error:
        stopped = str(error)
        raise
    finally:
        entry = _close(run, stopped)
    return entry


def _check_definition(run: Run, policy: str | None, rows: Iterable[dict[str, Any]]) -> None:
    """Refuse where records that would be asked for were made under another definition: among `rows`, whose context may
    be that of another policy now, and where every record of a job and policy is in a context of before."""
    now = contexts(run.params)
    current = {(row["job"], row["policy"]) for row in run.store.counts()}
    gone = (row for row in run.store.other_contexts() if (row["job"], row["policy"]) not in current)
    other = [row for row in rows if row["context"] != now.get((row["job"], row["policy"]))]
    for row in (*other, *gone):
        job, name = row["job"], row["policy"]
        if job not in asked(run.params) or (job, name) not in now or policy not in (None, name):
            continue
        new = policies(run.params)[name].fingerprint
        what = f"its fingerprint was {row['fingerprint'][:8]}, now {new[:8]}"
        if row["fingerprint"] == new:
            what = "what it is scored with, by or against has changed"
        raise ArenaError(
            f"run {run.name!r}: {job} of {name} were measured under another definition ({what}): rescoring keeps to "
            "the same one; put the params back, or collect anew with `make report`"
        )


def asked(params: Params) -> list[str]:
    """The jobs that ask models; exact labels are computed, not asked for."""
    return [RESPONSES, LOGPROBS, SHUFFLED, *judging(params), ORACLE]


def _measure(run: Run, steps: list[pilot.Step], rows: set[Row]) -> None:
    models = _models(run.store)
    renewed: set[str] = set()
    for step in steps:
        chosen = {row for row in rows if row[0] in step.jobs}
        if chosen or (renewed and SHUFFLED not in step.jobs):
            tasks = partial(_wanted, run.store, step.tasks, chosen, renewed, models)
            collect(run.params, run.store, tasks, step.label, retry_errors=True, watch=step.watch, quarantined=True)
        if RESPONSES in step.jobs and chosen:
            renewed = {row[1] for row in chosen if run.store.outcome(*row) == "ok"}
            _retire_replaced(run)
    if renewed and run.params.oracle.grader is None:
        labels.label(run.params, run.store, run.prompts)


def _models(store: Store) -> Mapping[Key, set[str]]:
    """Who answered for the usable rows of each (job, policy); where none is usable, for the others and for what they
    superseded."""
    usable, others = defaultdict[Key, set[str]](set), defaultdict[Key, set[str]](set)
    for row in store.counts():
        if row["model"]:
            clean = row["status"] == "ok" and row["quarantine"] is None
            (usable if clean else others)[row["job"], row["policy"]].add(row["model"])
    for attempt in store.attempts():
        # Attempts are of the records' keys, which alone say whose they are.
        record = store.get(*key_of(attempt)) if attempt["model"] else None
        if record:
            others[record["job"], record["policy"]].add(attempt["model"])
    return others | usable


def _wanted(
    store: Store, tasks: Tasks, rows: set[Row], renewed: set[str], models: Mapping[Key, set[str]]
) -> Iterator[Task]:
    """The tasks of the chosen rows, and those never tried of prompts that have a new response."""

    def by_same_model(names: set[str], read: Reader) -> Reader:
        def checked(answers: list[dict[str, Any]]) -> Any:
            model = answered_by(answers)
            if model and names and model not in names:
                wanted = " or ".join(sorted(names))
                detail = f"the other rows were measured by {wanted}, now {model} answers"
                raise CallError("fatal", "another_model", detail)
            return read(answers)

        return checked

    for task in tasks():
        chosen = task.row in rows and task.requests
        if chosen or (task.prompt_id in renewed and store.outcome(*task.row) is None):
            yield replace(task, read=by_same_model(models.get((task.job, task.policy), set()), task.read))


def _retire_replaced(run: Run) -> None:
    """Move what was measured of responses that are no longer the run's to the attempts: the scores of a replaced text
    are not those of the new one."""

    def text(row: dict[str, Any]) -> tuple[Any, Any]:
        return row["value"], (row["payload"] or {}).get("token_ids")

    store = run.store
    before = {key_of(a): text(a) for a in store.attempts(RESPONSES) if a["status"] == "ok"}
    since = {
        (row["policy"], row["prompt_id"], row["draw"]): row["created"]
        for row in (store.rows(RESPONSES) if before else ())
        if key_of(row) in before and row["status"] == "ok" and before[key_of(row)] != text(row)
    }
    stale = []
    for job in (*asked(run.params)[1:], TRUTH) if since else ():
        for row in store.rows(job):
            p0 = run.params.logging_policy
            of = [(p0 if job in (LOGPROBS, SHUFFLED) else row["policy"], row["prompt_id"], row["draw"])]
            of += [(p0, row["prompt_id"], 0)] * compares(run.params, job)
            if any(row["created"] < since.get(cell, 0.0) for cell in of):
                stale.append(key_of(row))
    store.retire(stale, REPLACED)


# The audit


def _begin(run: Run, chosen: list[dict[str, Any]], asked: dict[str, Any]) -> None:
    """Open an entry: the rows as they are, and the estimates without them."""
    key, now = ("job", "policy", "prompt_id", "draw", "request_hash"), contexts(run.params)
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        user = str(os.getuid())
    entry = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "by": user,
        "asked": asked,
        "definitions": {f"{r['job']} {r['policy']}": now[r["job"], r["policy"]] for r in chosen},
        "rows": [{k: row[k] for k in key} | {"before": _state(row)} for row in chosen],
        "estimates_before": run.estimates(run.table())["rows"],
        "finished": False,
    }
    run.write_result(FILE, {"run": run.name, "entries": [*read(run.name), entry]})


def _state(row: dict[str, Any]) -> dict[str, Any]:
    value = row["value"][:TEXT] if isinstance(row["value"], str) else row["value"]
    return {"value": value} | {k: row[k] for k in ("status", "code", "quarantine", "model", "attempts", "created")}


def _close(run: Run, stopped: str | None = None) -> dict[str, Any] | None:
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
        before, after, difference = row["before"], _state(record) if record else None, None
        if after and all(isinstance(state["value"], int | float) for state in (before, after)):
            difference = after["value"] - before["value"]
        row |= {"after": after, "outcome": _outcome(before, after), "difference": difference}
    asked = any(row["outcome"] != "not asked" for row in entry["rows"])
    if asked:
        answered = [row["after"] for row in entry["rows"] if row["outcome"] in ("restored", "quarantined again")]
        models = sorted({state["model"] for state in answered} - {None})
        entry |= {"models": models, "estimates_after": run.estimates(run.table())["rows"]}
        entry |= {"finished": True, "stopped": stopped}
    if asked or len(entries) > 1:
        run.write_result(FILE, {"run": run.name, "entries": entries if asked else entries[:-1]})
    else:
        paths.result_file(run.name, FILE).unlink(missing_ok=True)
    return entry if asked else None


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
