"""The collection engine: a fixed pool of workers takes pending tasks, measures them, and stores every outcome.

What is asked and how an answer is checked belongs to the callers (`generate`, `teacher_forcing`, `judge`); this module
knows only tasks, outcomes and errors. A task that raises becomes a typed error row, never a number.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from arena10k.client import Endpoint, serving
from arena10k.config import Params
from arena10k.errors import ArenaError, CallError, FatalCallError
from arena10k.jobs import Key
from arena10k.store import Record, Store

#: The circuit breaker: more than this share of the last fresh requests failing for good stops the run.
BREAKER_WINDOW, BREAKER_SHARE = 50, 0.5


@dataclass(frozen=True)
class Task:
    """One measurement to make. `ask` gets the endpoint and returns a `Measurement` or raises `CallError`."""

    job: str
    prompt_id: str
    request_hash: str
    policy: str
    draw: int
    fingerprint: str
    context: str
    provider: str
    model: str
    ask: Callable[[Endpoint], Awaitable[Measurement]] = field(repr=False)


@dataclass(frozen=True)
class Measurement:
    """A checked value with what it was read from."""

    value: str | float
    payload: dict[str, Any]
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass
class Outcome:
    """What one collection did: tasks in all, already ok, newly ok, and failed by code."""

    total: int = 0
    stored: int = 0
    ok: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    def sentence(self) -> str:
        """What is there now, in words; the same whether it was measured just now or on an earlier run."""
        told = f"{self.stored + self.ok:,} of {self.total:,} records are there"
        if self.failed:
            return f"{told}; {self.failed:,} failed: {', '.join(f'{c} {n:,}' for c, n in sorted(self.errors.items()))}."
        return f"{told}; none failed."


def collect(
    params: Params, store: Store, tasks: Callable[[], Iterable[Task]], label: str, retry_errors: bool = False
) -> Outcome:
    """Measure every task that has no record yet.

    Parameters
    ----------
    tasks : gives the tasks anew at each call, so that a hundred thousand of them are never held at once.
    retry_errors : also ask again for rows that ended in an error; never-tried rows go first.

    Raises
    ------
    ArenaError
        When a recording lacks records, a needed model is not served, or a fatal error or the circuit breaker stops
        the run; everything measured until then is stored and a later call goes on from there.
    """
    outcome, needed = _survey(store, tasks(), retry_errors)
    pending = outcome.total - outcome.stored - outcome.failed
    if not pending:
        return outcome
    if params.recording:
        raise ArenaError(
            f"run {params.run!r} is a recording and lacks {pending} of {outcome.total} records of {label}: "
            "its params no longer describe what was recorded"
        )
    with serving(params, set(needed)) as urls:
        engine = _Engine(params, store, urls, label, outcome)
        _run(engine.run(_pending(store, tasks, retry_errors), pending, needed))
    return outcome


def _survey(store: Store, tasks: Iterable[Task], retry_errors: bool) -> tuple[Outcome, dict[str, set[str]]]:
    """What is there already, and the models that the rest needs, by provider."""
    outcome, needed = Outcome(), {}
    for task in tasks:
        outcome.total += 1
        known = store.outcome(task.job, task.prompt_id, task.request_hash)
        if known == "ok":
            outcome.stored += 1
        elif known and not retry_errors:
            outcome.errors[known] = outcome.errors.get(known, 0) + 1
        else:
            needed.setdefault(task.provider, set()).add(task.model)
    return outcome, needed


def _pending(store: Store, tasks: Callable[[], Iterable[Task]], retry_errors: bool) -> Iterator[Task]:
    """Tasks without a measurement: never-tried ones first, then, where asked for, those that ended in an error."""
    tried: set[Key] = set()
    for task in tasks():
        known = store.outcome(task.job, task.prompt_id, task.request_hash)
        if known is None:
            yield task
        elif known != "ok":
            tried.add((task.prompt_id, task.request_hash))
    if retry_errors and tried:
        yield from (task for task in tasks() if (task.prompt_id, task.request_hash) in tried)


def _run(work: Awaitable[None]) -> None:
    """Run to the end, also inside Jupyter, whose own event loop is already running in this thread."""
    if not _loop_is_running():
        asyncio.run(work)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Engine:
    def __init__(self, params: Params, store: Store, urls: dict[str, str], label: str, outcome: Outcome):
        self.params, self.store, self.urls, self.label, self.outcome = params, store, urls, label, outcome
        self.recent: deque[bool] = deque(maxlen=BREAKER_WINDOW)

    async def run(self, pending: Iterator[Task], total: int, needed: dict[str, set[str]]) -> None:
        from tqdm import tqdm

        endpoints = {n: Endpoint(n, self.params.providers[n], url) for n, url in self.urls.items()}
        try:
            await self._check_models(endpoints, needed)
            with tqdm(total=total, desc=self.label, mininterval=1.0, file=sys.stderr, ascii=True) as bar:
                await self._drain(endpoints, pending, bar)
        finally:
            for endpoint in endpoints.values():
                await endpoint.close()

    async def _check_models(self, endpoints: dict[str, Endpoint], needed: dict[str, set[str]]) -> None:
        """One cheap request per endpoint before any bulk work: is it there, does it serve the models."""
        for name, endpoint in endpoints.items():
            try:
                served = await endpoint.models()
            except CallError as error:
                raise ArenaError(f"providers.{name}: {endpoint.base_url}: {error}") from error
            missing = sorted(needed[name] - set(served))
            if missing:
                raise ArenaError(
                    f"providers.{name}: {endpoint.base_url} does not serve {', '.join(missing)}; "
                    f"it serves {', '.join(sorted(served)[:8])}"
                )

    async def _drain(self, endpoints: dict[str, Endpoint], pending: Iterator[Task], bar: Any) -> None:
        failures: list[ArenaError] = []

        async def work() -> None:
            for task in pending:
                if failures:
                    return
                try:
                    self._store(task, *await self._measure(task, endpoints[task.provider]))
                except ArenaError as error:
                    failures.append(error)
                bar.update()

        workers = sum(e.provider.concurrency for e in endpoints.values())
        async with asyncio.TaskGroup() as group:
            for _ in range(min(workers, bar.total)):
                group.create_task(work())
        if failures:
            raise failures[0]

    async def _measure(self, task: Task, endpoint: Endpoint) -> tuple[Measurement | CallError, float]:
        started = time.monotonic()
        try:
            result: Measurement | CallError = await task.ask(endpoint)
        except CallError as error:
            if error.kind == "fatal":
                raise FatalCallError(f"{self.label}: stopped: {task.policy} on {task.prompt_id}: {error}") from error
            result = error
        return result, time.monotonic() - started

    def _store(self, task: Task, result: Measurement | CallError, seconds: float) -> None:
        key = {
            k: getattr(task, k)
            for k in ("job", "prompt_id", "request_hash", "policy", "draw", "fingerprint", "context")
        }
        if isinstance(result, CallError):
            record = Record(
                **key, status="error", code=result.code, detail=result.detail, model=task.model, seconds=seconds
            )
            self.outcome.errors[result.code] = self.outcome.errors.get(result.code, 0) + 1
        else:
            rest = {k: getattr(result, k) for k in ("value", "payload", "prompt_tokens", "completion_tokens")}
            record = Record(**key, **rest, status="ok", model=result.model or task.model, seconds=seconds)
            self.outcome.ok += 1
        self.store.put(record)
        self._watch(result)

    def _watch(self, result: Measurement | CallError) -> None:
        bad = isinstance(result, CallError)
        self.recent.append(bad)
        if len(self.recent) == BREAKER_WINDOW and sum(self.recent) > BREAKER_SHARE * BREAKER_WINDOW:
            raise FatalCallError(
                f"{self.label}: stopped: {sum(self.recent)} of the last {BREAKER_WINDOW} requests gave no measurement, "
                f"most recently {result}"
            )
