"""Rows that failed or were quarantined, measured again under the same definition and by the same model, with an audit.

What is measured takes the place of an error or of a quarantined value; both are kept as attempts. A row that fails
again stays failed, and a quarantined value whose new measurement fails stays quarantined. A clean value is never asked
for again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from arena10k import paths
from arena10k.audit import quality
from arena10k.collection import generate, judge, labels, teacher_forcing
from arena10k.collection.answers import answered_by
from arena10k.collection.collect import collect
from arena10k.collection.jobs import JUDGE, LOGPROBS, ORACLE, RESPONSES, SHUFFLED, TRUTH, contexts
from arena10k.collection.records import Row, key_of
from arena10k.collection.store import Store
from arena10k.collection.tasks import Measurement, Task, Watch
from arena10k.errors import ArenaError, CallError
from arena10k.inputs.policies import policies
from arena10k.rescoring import rescore_audit
from arena10k.run import Run

#: The jobs that ask models; exact labels are computed, not asked for.
ASKED = (RESPONSES, LOGPROBS, SHUFFLED, *JUDGE, ORACLE)
#: Where a quarantine reason would stand: the response that this row measured has been replaced.
REPLACED = "response_replaced"


@dataclass(frozen=True)
class _Step:
    """The tasks of one kind, in the order in which they depend on each other."""

    label: str
    jobs: tuple[str, ...]
    tasks: Callable[[], Iterable[Task]]
    watch: Watch | None = None


def _steps(run: Run) -> list[_Step]:
    params, store = run.params, run.store
    steps = [
        _Step("responses", (RESPONSES,), partial(generate.tasks, params, run.prompts)),
        _Step("teacher forcing", (LOGPROBS,), partial(teacher_forcing.tasks, params, store)),
        _Step("shuffled-prompt control", (SHUFFLED,), partial(teacher_forcing.control_tasks, params, store)),
        _Step("judge", JUDGE, partial(judge.tasks, params, run.prompts, store), judge.watch(params)),
    ]
    if params.oracle.grader:
        ask = partial(labels.tasks, params, run.prompts, store)
        steps.append(_Step("oracle", (ORACLE,), ask, judge.watch(params)))
    return steps


def rescore(run: Run, policy: str | None = None, code: str | None = None) -> dict[str, Any] | None:
    """Measure again the rows that failed or are quarantined, and write down what came of it.

    Parameters
    ----------
    policy, code : only rows of this policy, and with this error code or quarantine reason.

    Returns
    -------
    The new entry of `rescore.json` (see `rescore_audit`), or None where no such row exists: then nothing changes.

    Raises
    ------
    ArenaError
        Where nothing can be asked (a recording, imported data without the requests behind it), the definition is no
        longer the one of the records, another model answers, or spending is not confirmed. What was measured before
        that is stored and in the audit; the same command goes on from there.
    """
    _check_can_ask(run, policy)
    # What a killed call left: its responses may have replaced others, and its entry is still open.
    _retire_replaced(run)
    rescore_audit.close(run)
    rows = {key_of(row): row for row in _chosen(run, policy, code)}
    _check_definition(run, policy, rows.values())
    if not rows:
        return None
    steps = _steps(run)
    _check_any_task(run, steps, rows)
    rescore_audit.begin(run, list(rows.values()), {"policy": policy, "code": code})
    stopped = None
    try:
        _measure(run, steps, rows)
    except ArenaError as error:
        stopped = str(error)
        raise
    finally:
        entry = rescore_audit.close(run, stopped)
    return entry


def _chosen(run: Run, policy: str | None, code: str | None) -> list[dict[str, Any]]:
    """The rows that failed or are quarantined by a scan made now."""
    quality.quarantine(run.store, quality.scan(run.params, run.store))
    rows = (row for job in ASKED for row in run.store.rows(job) if row["status"] != "ok" or row["quarantine"])
    return [
        row
        for row in rows
        if policy in (None, row["policy"]) and code in (None, row["code"], row["quarantine"])
    ]  # fmt: skip


def _measure(run: Run, steps: list[_Step], rows: dict[Row, dict[str, Any]]) -> None:
    known = _models(run.store)
    renewed: set[str] = set()
    for step in steps:
        mine = {key for key in rows if key[0] in step.jobs}
        if mine or (renewed and SHUFFLED not in step.jobs):
            tasks = partial(_wanted, run.store, step.tasks, mine, renewed, known)
            collect(run.params, run.store, tasks, step.label, retry_errors=True, watch=step.watch, quarantined=True)
        if RESPONSES in step.jobs and mine:
            renewed = {key[1] for key in mine if run.store.outcome(*key) == "ok"}
            _retire_replaced(run)
    if renewed and run.params.oracle.grader is None:
        labels.label(run.params, run.store, run.prompts)


def _wanted(
    store: Store, tasks: Callable[[], Iterable[Task]], rows: set[Row], renewed: set[str], known: dict[Any, set[str]]
) -> Iterator[Task]:
    """The tasks of the chosen rows, and those never tried of prompts that have a new response."""
    for task in tasks():
        chosen = task.row in rows and task.requests
        if chosen or (task.prompt_id in renewed and store.outcome(*task.row) is None):
            read = partial(_by_same_model, known.get((task.job, task.policy), set()), task.read)
            yield replace(task, read=read)


def _models(store: Store) -> dict[tuple[str, str], set[str]]:
    """Who answered for the usable rows of each (job, policy); where none is usable, for the others and for what they
    superseded."""
    usable: dict[tuple[str, str], set[str]] = {}
    others: dict[tuple[str, str], set[str]] = {}
    for row in store.counts():
        clean = row["status"] == "ok" and row["quarantine"] is None
        if row["model"]:
            (usable if clean else others).setdefault((row["job"], row["policy"]), set()).add(row["model"])
    for attempt in store.attempts():
        # Attempts are of the records' keys, which alone say whose they are.
        record = store.get(*key_of(attempt)) if attempt["model"] else None
        if record:
            others.setdefault((record["job"], record["policy"]), set()).add(attempt["model"])
    return others | usable


def _by_same_model(
    known: set[str], read: Callable[[list[dict[str, Any]]], Measurement], answers: list[dict[str, Any]]
) -> Measurement:
    told = answered_by(answers)
    if told and known and told not in known:
        wanted = " or ".join(sorted(known))
        raise CallError("fatal", "another_model", f"the other rows were measured by {wanted}, now {told} answers")
    return read(answers)


def _retire_replaced(run: Run) -> None:
    """Set apart what was measured of responses that are no longer the run's: the scores of a replaced text are not
    those of the new one."""
    store, logging = run.store, run.params.logging_policy
    old = {key_of(a): a for a in store.attempts(RESPONSES) if a["status"] == "ok"}
    if not old:
        return
    since = {
        (row["policy"], row["prompt_id"], row["draw"]): row["created"]
        for row in store.rows(RESPONSES)
        if key_of(row) in old and row["status"] == "ok" and not _same_response(old[key_of(row)], row)
    }
    stale = []
    for job in (LOGPROBS, SHUFFLED, *JUDGE, ORACLE, TRUTH):
        for row in store.rows(job):
            whose = logging if job in (LOGPROBS, SHUFFLED) else row["policy"]
            if row["created"] < since.get((whose, row["prompt_id"], row["draw"]), 0.0):
                stale.append(key_of(row))
    store.retire(stale, REPLACED)


def _same_response(old: dict[str, Any], new: dict[str, Any]) -> bool:
    ids = [(row["payload"] or {}).get("token_ids") for row in (old, new)]
    return old["value"] == new["value"] and ids[0] == ids[1]


def _check_can_ask(run: Run, policy: str | None) -> None:
    params = run.params
    if params.recording:
        raise ArenaError(f"run {run.name!r} is a recording: nothing can be asked again; rescore the run it was made of")
    if not paths.store_file(run.name).is_file():
        raise ArenaError(f"run {run.name!r} has no records: nothing has been collected yet")
    if policy is not None and policy not in params.policies:
        raise ArenaError(f"no policy {policy!r} in run {run.name!r}: {', '.join(params.policies)}")


def _check_definition(run: Run, policy: str | None, rows: Iterable[dict[str, Any]]) -> None:
    """Refuse where records that would be asked for were made under another definition: among `rows`, whose context may
    be that of another policy now, and where every record of a job and policy is in a context of before."""
    now = contexts(run.params)
    there = {(row["job"], row["policy"]) for row in run.store.counts()}
    gone = (row for row in run.store.other_contexts() if (row["job"], row["policy"]) not in there)
    other = [row for row in rows if row["context"] != now.get((row["job"], row["policy"]))]
    for row in (*other, *gone):
        job, name = row["job"], row["policy"]
        if job not in ASKED or (job, name) not in now or policy not in (None, name):
            continue
        new = policies(run.params)[name].fingerprint
        what = f"its fingerprint was {row['fingerprint'][:8]}, now {new[:8]}"
        if row["fingerprint"] == new:
            what = "what it is scored with, by or against has changed"
        raise ArenaError(
            f"run {run.name!r}: {job} of {name} were measured under another definition ({what}): rescoring keeps to "
            "the same one; put the params back, or collect anew with `make report`"
        )


def _check_any_task(run: Run, steps: list[_Step], rows: dict[Row, dict[str, Any]]) -> None:
    jobs = {key[0] for key in rows}
    asked = (task for step in steps if jobs & set(step.jobs) for task in step.tasks())
    if any(task.row in rows and task.requests for task in asked):
        return
    imported = paths.import_file(run.name).is_file()
    why = "it was imported, and what was asked for these rows is not known" if imported else (
        "the responses they belong to are missing, or the params no longer ask for them"
    )  # fmt: skip
    raise ArenaError(f"run {run.name!r}: none of the {len(rows):,} rows can be measured again: {why}")
