"""The collection engine: a fixed pool of workers takes pending tasks, measures them, and stores every outcome.

What is asked and how an answer is checked belongs to the callers (`generate`, `teacher_forcing`, `judge`); this module
knows only tasks, outcomes and errors. A task that gives no measurement becomes a typed error row, never a number.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from arena10k import options
from arena10k.collection import costs
from arena10k.collection.answers import WRONG_MODEL, answered_by
from arena10k.collection.batch import Batches, Send
from arena10k.collection.client import Endpoint, serving
from arena10k.collection.records import Record, Row
from arena10k.collection.store import Store
from arena10k.collection.tasks import Again, Measurement, Outcome, Survey, Task, Tasks, Watch, pending, survey
from arena10k.errors import ArenaError, CallError, FatalCallError, Stopped, invalid
from arena10k.params.config import Params

#: The circuit breaker: more than this share of the last fresh requests of one job, policy and model failing for good
#: stops the run.
BREAKER_WINDOW, BREAKER_SHARE = 50, 0.5
#: Objects made, beyond those freed, before the garbage collector looks for cycles.
_GARBAGE = 50_000
#: What reading an answer of another shape than the API's raises.
_MALFORMED = (AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError)

Result = Measurement | CallError


def collect(
    params: Params, store: Store, tasks: Tasks, label: str, retry_errors: bool | None = None,
    watch: Watch | None = None, quarantined: bool = False, pilot: bool = False,
) -> Outcome:  # fmt: skip
    """Measure every task that has no record yet.

    With `retry_errors` (None: as `arena10k report --retry-errors` was told) also ask again for rows that ended in an
    error; never-tried rows go first. With `quarantined` also for rows whose value is quarantined; a new measurement
    takes its place. `watch` sees every new measurement; where it stops the run, the measurement is stored. A `pilot`
    is only the preflight, the first tasks of every kind.

    Raises ArenaError when a recording lacks records, a needed model is not served, spending is not confirmed, or a
    fatal error, the circuit breaker or Ctrl-C stops the run; everything measured until then is stored and a later call
    goes on from there.
    """
    again = Again(options.is_on("retry_errors") if retry_errors is None else retry_errors, quarantined)
    if not params.recording:
        store.batches.release()
    todo = survey(store, tasks(), again)
    if not todo.pending.total():
        return todo.outcome
    if params.recording:
        lacks = Counter(task.policy for task in tasks() if again.asks(store.outcome(*task.row)))
        raise ArenaError(
            f"run {params.run!r} is a recording, of which nothing is asked, and lacks {lacks.total():,} of "
            f"{todo.outcome.total:,} records of {label} as its params define them: "
            f"{', '.join(f'{policy} ({n:,})' for policy, n in lacks.items())}. Put back in the params what was "
            "recorded; another policy, judge or oracle needs a run of its own, with a params file without "
            "`recording: true`"
        )
    costs.check_confirmed(params, todo, label)
    with serving(params, set(todo.models)) as urls:
        Engine(params, store, urls, label, todo, tasks, again, watch).run(pilot)
    return todo.outcome


class Engine:
    """One collection at work. `run` blocks until everything is measured, or raises why it stopped."""

    def __init__(
        self, params: Params, store: Store, urls: dict[str, str], label: str, todo: Survey, tasks: Tasks, again: Again,
        watch: Watch | None,
    ):  # fmt: skip
        self.params, self.store, self.urls, self.label, self.todo = params, store, urls, label, todo
        self.tasks, self.again, self.watch = tasks, again, watch
        self.endpoints: dict[str, Endpoint] = {}
        self._recent: dict[tuple[str, ...], deque[bool]] = {}
        self._probed: set[Row] = set()
        self._ready: list[Record] = []
        self._failure: ArenaError | None = None
        self.stopped = asyncio.Event()

    def run(self, pilot: bool = False) -> None:
        """Run to the end, also inside Jupyter, whose own event loop is already running in this thread."""
        # Answers are many small objects without cycles, and what is loaded stays: the collector has little to find.
        before = gc.get_threshold()
        gc.freeze()
        gc.set_threshold(_GARBAGE)
        try:
            self._run(pilot)
        finally:
            gc.set_threshold(*before)
            gc.unfreeze()

    def _run(self, pilot: bool) -> None:
        running = False
        with contextlib.suppress(RuntimeError):
            running = asyncio.get_running_loop() is not None
        if threading.current_thread() is threading.main_thread() and not running:
            asyncio.run(self._main(pilot, signals=True))
            return
        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(asyncio.run, self._main(pilot, signals=False))
            while not work.done():
                try:
                    wait([work])
                except KeyboardInterrupt:
                    with contextlib.suppress(RuntimeError):  # it has just ended
                        self._loop.call_soon_threadsafe(self._interrupt)
            work.result()

    async def _main(self, pilot: bool, signals: bool) -> None:
        from tqdm import tqdm

        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM) if signals else ():
            self._loop.add_signal_handler(number, self._interrupt)
        providers, left = self.params.providers, self.todo.pending.total()
        self.endpoints = {n: Endpoint(n, providers[n], url, self.stopped) for n, url in self.urls.items()}
        try:
            await self._check_models()
            with tqdm(total=left, desc=self.label, mininterval=1.0, file=sys.stderr, ascii=True) as self._bar:
                await self._preflight()
                async with asyncio.TaskGroup() as group:
                    for endpoint in self.endpoints.values() if not pilot else ():
                        group.create_task(self._drain(endpoint))
        except asyncio.CancelledError:  # the second Ctrl-C
            if not self._failure:
                raise
        finally:
            self._flush()
            for endpoint in self.endpoints.values():
                await endpoint.client.close()
        if self._failure:
            raise self._failure

    async def _check_models(self) -> None:
        """One cheap request per endpoint before any bulk work: is it there. What it says of its models is advice: lists
        are left out, cut, of other names; the preflight asks the model itself."""
        for name, endpoint in self.endpoints.items():
            where = f"providers.{name}: {endpoint.base_url}"
            try:
                served = await endpoint.models()
            except CallError as error:
                if error.code in ("connection", "timeout"):
                    raise ArenaError(f"{where}: {error}{endpoint.advice(error)}") from error
                if error.code != "http_404":  # many do not list models
                    print(
                        f"{where}: its models cannot be listed ({error}); they are asked all the same", file=sys.stderr
                    )
                continue
            except Stopped:
                return
            missing = [] if "*" in served else sorted(self.todo.models[name] - set(served))
            if missing:
                listed = f"it lists {', '.join(sorted(served)[:8])}" if served else "it lists no model at all"
                asked = f"{', '.join(missing)} not among its models ({listed}); asked all the same"
                print(f"{where}: {asked}", file=sys.stderr)

    async def _preflight(self) -> None:
        """Measure the first tasks of every kind: where none of them can be used, the rest is not asked."""
        # A few rows asked again may well fail again, all of them: then there is no rest.
        rest = self.todo.pending.total() > sum(map(len, self.todo.probes.values())) or not self.again.errors
        for (job, served), probes in self.todo.probes.items():
            send = self.endpoints[probes[0].provider].send
            before = [self.store.outcome(*task.row) for task in probes]
            self._probed |= {task.row for task in probes}
            results = await asyncio.gather(*(self.measure(task, send) for task in probes))
            bad = [result for result, outcome in zip(results, before, strict=True) if _is_news(result, outcome)]
            if rest and len(bad) == len(results) > 1:
                why = f"none of the first {len(bad)} of {job} by {served} can be used: {bad[0]}"
                self._stop(why, probes[0], bad[0])
            if self._failure:
                return

    async def _drain(self, endpoint: Endpoint) -> None:
        batches = Batches(self, endpoint)
        await batches.pick_up()
        tasks = self._left(endpoint)
        if endpoint.provider.mode == "batch":
            for task in (task for task in tasks if not task.requests):
                await self.measure(task, endpoint.send)
            await batches.ask(lambda: (task for task in self._left(endpoint) if task.requests))
            return

        async def work(worker: int) -> None:
            while not self._failure:
                await endpoint.limits.turn(worker)
                task = next(tasks, None)
                if task is None or self._failure:
                    break
                await self.measure(task, endpoint.send)
            endpoint.limits.release()

        async with asyncio.TaskGroup() as group:
            for worker in range(min(endpoint.provider.concurrency, self.todo.pending[endpoint.name])):
                group.create_task(work(worker))

    def _left(self, endpoint: Endpoint) -> Iterator[Task]:
        """What the preflight has not asked: a row is asked once in a collection."""
        tasks = pending(self.store, self.tasks, endpoint.name, self.again)
        return (task for task in tasks if task.row not in self._probed)

    async def measure(self, task: Task, send: Send, timed: bool = True) -> Result | None:
        """Get a task's answers by `send`, read and keep them. None, and nothing kept, where the run has to stop."""
        started = time.monotonic()
        answers: list[dict[str, Any]] = []
        try:
            for request in task.requests:
                answers.append(await send(request))  # noqa: PERF401 (keeps what came before an error)
            result: Result = task.read(answers)
        except Stopped:
            return None
        except _MALFORMED as error:
            # One answer of a shape that no reader expects is a bad answer and not the end of the run; where all are,
            # the preflight or the breaker ends it.
            result = invalid("malformed_answer", f"{type(error).__name__}: {error}")
        except CallError as error:
            # What is to take the place of a value has to come from the model that gave it.
            if error.kind == "fatal" or (self.again.quarantined and error.code == WRONG_MODEL):
                self._stop(f"{task.policy} on {task.prompt_id}: {error}", task, error)
                return None
            result = error
        self._keep(task, result, answers, time.monotonic() - started if timed else None)
        return result

    def _keep(self, task: Task, result: Result, answers: list[dict[str, Any]], seconds: float | None) -> None:
        """Store an outcome. Records that become ready in one turn of the event loop share a commit."""
        news = isinstance(result, CallError) and _is_news(result, self.store.outcome(*task.row))
        counts = {
            key: sum((answer.get("usage") or {}).get(key) or 0 for answer in answers) if answers else None
            for key in ("prompt_tokens", "completion_tokens")  # `answers.checked`: an object of counts
        }
        shared: dict[str, Any] = task.key | counts | {"model": answered_by(answers) or task.model, "seconds": seconds}
        if isinstance(result, CallError):
            self._ready.append(Record(**shared, status="error", code=result.code, detail=result.detail))
            self.todo.outcome.errors[result.code] += 1
        else:
            self._ready.append(Record(**shared, status="ok", value=result.value, payload=result.payload))
            self.todo.outcome.ok += 1
            try:
                if self.watch:
                    self.watch(task, result)
            except ArenaError as error:
                self._stop(str(error))
        if len(self._ready) == 1:
            self._loop.call_soon(self._flush)
        cell = task.job, task.policy, task.provider, task.model
        recent = self._recent.setdefault(cell, deque(maxlen=BREAKER_WINDOW))
        recent.append(news)
        if len(recent) == BREAKER_WINDOW and sum(recent) > BREAKER_SHARE * BREAKER_WINDOW:
            of_all = f"{sum(recent)} of the last {BREAKER_WINDOW} requests"
            self._stop(f"{task.policy}: {of_all} gave no measurement, most recently {result}", task, result)

    def _flush(self) -> None:
        records, self._ready = self._ready, []
        if not records:
            return
        try:
            self.store.put_all(records)
        except sqlite3.Error as error:
            self.fail(ArenaError(f"{self.label}: stopped: records cannot be stored: {error}"))
        else:
            self._bar.update(len(records))

    def _stop(self, why: str, task: Task | None = None, result: object = None) -> None:
        """Fail for what further requests would share, with what to do about it."""
        advice = ""
        if task and isinstance(result, CallError):
            advice = self.endpoints[task.provider].advice(result, task.job)
        self.fail(FatalCallError(f"{self.label}: stopped: {why}{advice}"))

    def fail(self, error: ArenaError) -> None:
        """Take no further task; those in flight are finished and stored."""
        self._failure = self._failure or error
        self.stopped.set()

    def _interrupt(self) -> None:
        """Ctrl-C: once to finish what is in flight, twice to leave it."""
        if self._failure is None:
            self.fail(ArenaError(f"{self.label}: stopped on request; the same command goes on from here"))
            print("\nfinishing the requests in flight (Ctrl-C again to drop them) ...", file=sys.stderr)
            return
        for task in asyncio.all_tasks(self._loop):
            task.cancel()


def _is_news(result: Result | None, outcome: str | None) -> bool:
    """Whether a result is a failure that tells of the endpoint. A row that failed before (as its `outcome` says) and
    fails again in the same way tells of the row, unless the fault is one that passes."""
    return isinstance(result, CallError) and (result.kind == "retry" or result.code != outcome)
