"""The collection engine: a fixed pool of workers takes pending tasks, measures them, and stores every outcome.

What is asked and how an answer is checked belongs to the callers (`generate`, `teacher_forcing`, `judge`); this module
knows only tasks, outcomes and errors. A task that raises becomes a typed error row, never a number.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from arena10k.client import Endpoint, serving
from arena10k.config import Params
from arena10k.errors import ArenaError, CallError, FatalCallError
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
    """What one collection did: tasks in all, already stored, newly ok, newly failed by code."""

    total: int = 0
    stored: int = 0
    ok: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    def sentence(self) -> str:
        """What is there now, in words; the same whether it was measured just now or on an earlier run."""
        failed = sum(self.errors.values())
        told = f"{self.stored + self.ok:,} of {self.total:,} records are there"
        if failed:
            return f"{told}; {failed:,} failed: {', '.join(f'{c} {n:,}' for c, n in sorted(self.errors.items()))}."
        return f"{told}; none failed."


def collect(params: Params, store: Store, tasks: Iterable[Task], label: str, retry_errors: bool = False) -> Outcome:
    """Measure every task that has no record yet.

    Parameters
    ----------
    retry_errors : also ask again for rows that ended in an error; never-tried rows go first.

    Raises
    ------
    ArenaError
        When a recording lacks records, a needed model is not served, or a fatal error or the circuit breaker stops
        the run; everything measured until then is stored and a later call goes on from there.
    """
    tasks = list(tasks)
    known: dict[str, dict] = {}
    for task in tasks:
        if task.job not in known:
            known[task.job] = store.statuses(task.job)
    # None: never tried, "ok": measured, otherwise the code of the error it ended in.
    status = [known[t.job].get((t.prompt_id, t.request_hash)) for t in tasks]
    fresh = [t for t, s in zip(tasks, status, strict=True) if s is None]
    again = [t for t, s in zip(tasks, status, strict=True) if s not in (None, "ok")] if retry_errors else []
    pending = fresh + again
    failed = Counter(code for code in status if code not in (None, "ok")) if not retry_errors else Counter()
    outcome = Outcome(len(tasks), len(tasks) - len(pending) - failed.total(), errors=dict(failed))
    if not pending:
        return outcome
    if params.recording:
        raise ArenaError(
            f"run {params.run!r} is a recording and lacks {len(pending)} of {len(tasks)} records of {label}: "
            "its params no longer describe what was recorded"
        )
    with serving(params, {t.provider for t in pending}) as urls:
        _run(_Engine(params, store, urls, label, outcome).run(pending))
    return outcome


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

    async def run(self, pending: list[Task]) -> None:
        from tqdm import tqdm

        endpoints = {n: Endpoint(n, self.params.providers[n], url) for n, url in self.urls.items()}
        try:
            await self._check_models(endpoints, pending)
            with tqdm(total=len(pending), desc=self.label, mininterval=1.0, file=sys.stderr, ascii=True) as bar:
                await self._drain(endpoints, pending, bar)
        finally:
            for endpoint in endpoints.values():
                await endpoint.close()

    async def _check_models(self, endpoints: dict[str, Endpoint], pending: list[Task]) -> None:
        """One cheap request per endpoint before any bulk work: is it there, does it serve the models."""
        for name, endpoint in endpoints.items():
            wanted = {t.model for t in pending if t.provider == name}
            try:
                served = await endpoint.models()
            except CallError as error:
                raise ArenaError(f"providers.{name}: {endpoint.base_url}: {error}") from error
            missing = sorted(wanted - set(served))
            if missing:
                raise ArenaError(
                    f"providers.{name}: {endpoint.base_url} does not serve {', '.join(missing)}; "
                    f"it serves {', '.join(sorted(served)[:8])}"
                )

    async def _drain(self, endpoints: dict[str, Endpoint], pending: list[Task], bar: Any) -> None:
        queue = iter(pending)
        failures: list[ArenaError] = []

        async def work() -> None:
            for task in queue:
                if failures:
                    return
                try:
                    self._store(task, *await self._measure(task, endpoints[task.provider]))
                except ArenaError as error:
                    failures.append(error)
                bar.update()

        workers = sum(e.provider.concurrency for e in endpoints.values())
        async with asyncio.TaskGroup() as group:
            for _ in range(min(workers, len(pending))):
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
        key = {k: getattr(task, k) for k in ("job", "prompt_id", "request_hash", "policy", "draw", "fingerprint")}
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
