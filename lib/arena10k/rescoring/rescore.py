"""Rows that failed or were quarantined, measured again under the same definition and by the same model, with an audit.

What is measured takes the place of an error or of a quarantined value; both are kept as attempts. A row that fails
again stays failed, and a quarantined value whose new measurement fails stays quarantined. A clean value is never asked
for again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from arena10k import paths
from arena10k.audit import screening
from arena10k.collection import generate, judge, labels, teacher_forcing
from arena10k.collection.answers import answered_by
from arena10k.collection.collect import collect
from arena10k.collection.jobs import JUDGE, LOGPROBS, ORACLE, RESPONSES, SHUFFLED, TRUTH, Key, contexts
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


class _Step(NamedTuple):
    """The tasks of one kind."""

    label: str
    jobs: tuple[str, ...]
    tasks: Callable[[], Iterable[Task]]
    watch: Watch | None = None


def _steps(run: Run) -> list[_Step]:
    """All tasks, in the order in which they depend on each other."""
    params, store, prompts = run.params, run.store, run.prompts
    steps = [
        _Step("responses", (RESPONSES,), partial(generate.tasks, params, prompts)),
        _Step("teacher forcing", (LOGPROBS,), partial(teacher_forcing.tasks, params, store)),
        _Step("shuffled-prompt control", (SHUFFLED,), partial(teacher_forcing.control_tasks, params, store)),
        _Step("judge", JUDGE, partial(judge.tasks, params, prompts, store), judge.watch(params)),
    ]
    oracle = _Step("oracle", (ORACLE,), partial(labels.tasks, params, prompts, store), judge.watch(params))
    return [*steps, oracle] if params.oracle.grader else steps


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
        _measure(run, steps, rows.keys())
    except ArenaError as error:
        stopped = str(error)
        raise
    finally:
        entry = rescore_audit.close(run, stopped)
    return entry


def _chosen(run: Run, policy: str | None, code: str | None) -> list[dict[str, Any]]:
    """The rows that failed or are quarantined by a scan made now."""
    screening.quarantine(run.store, screening.scan(run.params, run.store))
    return [
        row
        for job in ASKED
        for row in run.store.rows(job)
        if (row["status"] != "ok" or row["quarantine"])
        and policy in (None, row["policy"])
        and code in (None, row["code"], row["quarantine"])
    ]


def _measure(run: Run, steps: list[_Step], rows: Iterable[Row]) -> None:
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


def _wanted(
    store: Store, tasks: Callable[[], Iterable[Task]], rows: set[Row], renewed: set[str], models: dict[Key, set[str]]
) -> Iterator[Task]:
    """The tasks of the chosen rows, and those never tried of prompts that have a new response."""
    for task in tasks():
        chosen = task.row in rows and task.requests
        if chosen or (task.prompt_id in renewed and store.outcome(*task.row) is None):
            yield replace(task, read=partial(_by_same_model, models.get((task.job, task.policy), set()), task.read))


def _models(store: Store) -> dict[Key, set[str]]:
    """Who answered for the usable rows of each (job, policy); where none is usable, for the others and for what they
    superseded."""
    usable: dict[Key, set[str]] = {}
    others: dict[Key, set[str]] = {}
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
    models: set[str], read: Callable[[list[dict[str, Any]]], Measurement], answers: list[dict[str, Any]]
) -> Measurement:
    model = answered_by(answers)
    if model and models and model not in models:
        wanted = " or ".join(sorted(models))
        raise CallError("fatal", "another_model", f"the other rows were measured by {wanted}, now {model} answers")
    return read(answers)


def _retire_replaced(run: Run) -> None:
    """Move what was measured of responses that are no longer the run's to the attempts: the scores of a replaced text
    are not those of the new one."""
    store = run.store
    before = {key_of(a): a for a in store.attempts(RESPONSES) if a["status"] == "ok"}
    since = {
        (row["policy"], row["prompt_id"], row["draw"]): row["created"]
        for row in (store.rows(RESPONSES) if before else ())
        if key_of(row) in before and row["status"] == "ok" and _text(before[key_of(row)]) != _text(row)
    }
    stale = []
    for job in (LOGPROBS, SHUFFLED, *JUDGE, ORACLE, TRUTH) if since else ():
        for row in store.rows(job):
            whose = run.params.logging_policy if job in (LOGPROBS, SHUFFLED) else row["policy"]
            if row["created"] < since.get((whose, row["prompt_id"], row["draw"]), 0.0):
                stale.append(key_of(row))
    store.retire(stale, REPLACED)


def _text(row: dict[str, Any]) -> tuple[Any, Any]:
    return row["value"], (row["payload"] or {}).get("token_ids")


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
    current = {(row["job"], row["policy"]) for row in run.store.counts()}
    gone = (row for row in run.store.other_contexts() if (row["job"], row["policy"]) not in current)
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
    if any(task.row in rows and task.requests for step in steps if jobs & set(step.jobs) for task in step.tasks()):
        return
    why = "the responses they belong to are missing, or the params no longer ask for them"
    if paths.import_file(run.name).is_file():
        why = "it was imported, and what was asked for these rows is not known"
    raise ArenaError(f"run {run.name!r}: none of the {len(rows):,} rows can be measured again: {why}")
