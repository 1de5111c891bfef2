"""Tasks asked through the Batch API (files and batches of OpenAI): the same records as by single requests, but later.

A batch is written down before it exists. A run that is stopped at any moment finds it again: by its id or, where that
was not written down any more, by the token that the batch carries as metadata. Nothing is paid for twice.
https://platform.openai.com/docs/guides/batch and /docs/api-reference/batch
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar, cast

import orjson
from openai.types import Batch

from arena10k.collection.answers import batch_line, check_model
from arena10k.collection.client import Endpoint
from arena10k.collection.ledger import CREATING, Entry
from arena10k.collection.limits import happens_within
from arena10k.collection.records import Row
from arena10k.collection.tasks import Request, Task, looked_up
from arena10k.errors import ArenaError, CallError, Stopped

if TYPE_CHECKING:
    from arena10k.collection.collect import Engine

T = TypeVar("T")
Send = Callable[[Request], Awaitable[dict[str, Any]]]
#: The key of our token in a batch's metadata.
TOKEN = "arena10k"
#: The paths of requests, as the Batch API calls them.
BatchPath = Literal["/v1/chat/completions", "/v1/completions"]
#: The smallest of providers' limits on one input file.
MAX_BYTES = 100_000_000
#: So many tasks or lines are handled in one turn of the event loop, which also serves Ctrl-C.
TURN = 64
_ENDED = {"completed", "failed", "expired", "cancelled"}
#: Requests that the provider did not come to: they cost nothing and say nothing.
_NOT_TRIED = {"batch_expired", "batch_cancelled"}
#: Clocks may differ by this many seconds.
_SKEW = 86_400


def custom_ids(task: Task) -> list[str]:
    """One id per request of a task: unique in a run, 43 characters and a number (providers allow 64)."""
    own = hashlib.sha256("\x1f".join(task.row).encode()).hexdigest()[:40]
    return [f"{own}-{i}" for i in range(len(task.requests))]


@dataclass
class Chunk:
    """The content of one batch, on disk."""

    path: str
    file: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    rows: list[Row] = field(default_factory=list)
    requests: int = 0
    size: int = 0


async def chunks(tasks: Iterator[Task], max_requests: int) -> AsyncIterator[Chunk]:
    """Pack tasks, in order, into files of at most so many requests and `MAX_BYTES`, each for one path of the API.

    All requests of a task are in one chunk. Raises ArenaError where a task alone is too large.
    """
    chunk = None
    for n, task in enumerate(tasks):
        if n % TURN == 0:
            await asyncio.sleep(0)
        path = task.requests[0].path
        asked = zip(custom_ids(task), task.requests, strict=True)
        posts = ({"custom_id": i, "method": "POST", "url": f"/v1{r.path}", "body": r.body} for i, r in asked)
        lines = [orjson.dumps(post, option=orjson.OPT_APPEND_NEWLINE) for post in posts]
        size = sum(map(len, lines))
        if len(lines) > max_requests or size > MAX_BYTES:
            raise ArenaError(
                f"providers.{task.provider}: {task.job} of {task.policy} on {task.prompt_id} takes {len(lines)} "
                f"requests of {size:,} bytes together; a batch holds {max_requests:,} requests and {MAX_BYTES:,} bytes"
            )
        fits = chunk and chunk.requests + len(lines) <= max_requests and chunk.size + size <= MAX_BYTES
        if chunk and not (fits and path == chunk.path):
            yield chunk
            chunk = None
        chunk = chunk or Chunk(path)
        chunk.rows.append(task.row)
        chunk.file.writelines(lines)
        chunk.requests += len(lines)
        chunk.size += size
    if chunk:
        yield chunk


class Answers:
    """Lines of a batch's output and error file, found by custom_id."""

    def __init__(self, file: IO[bytes], without_key: Callable[[CallError], CallError]):
        self._file, self._without_key = file, without_key
        self._at: dict[str, int] = {}
        self._not_tried: set[str] = set()

    async def index(self, start: int) -> None:
        """Note the lines from byte `start` to the end."""
        self._file.seek(start)
        at = start
        for n, raw in enumerate(self._file):
            if n % TURN == 0:
                await asyncio.sleep(0)
            try:
                line = orjson.loads(raw)
                name, code = line["custom_id"], (line.get("error") or {}).get("code")
                if code in _NOT_TRIED:
                    self._not_tried.add(name)
                else:
                    self._at.setdefault(name, at)
            except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
                pass  # nobody can say whose answer it is: that request counts as missing
            at += len(raw)

    def tried(self, name: str, batch: Batch) -> bool:
        """Whether the provider came to this request. Where the batch completed, a request without a line counts as
        tried: it gave no measurement."""
        return name in self._at or (batch.status == "completed" and name not in self._not_tried)

    def of(self, task: Task) -> Send:
        """Takes the place of sending the task's requests, in their order."""
        names = iter(custom_ids(task))

        async def send(request: Request) -> dict[str, Any]:
            at = self._at.get(next(names))
            if at is None:
                lost = "neither an answer nor an error is in the batch's files"
                raise CallError("permanent", "missing_in_batch", lost)
            self._file.seek(at)
            try:
                answer = batch_line(orjson.loads(self._file.readline()))
            except CallError as error:
                raise self._without_key(error) from None
            check_model(request.answering, answer)
            return answer

        return send


class Batches:
    """The batches of one provider in one collection."""

    def __init__(self, engine: Engine, endpoint: Endpoint):
        self.engine, self.endpoint = engine, endpoint
        self.client, self.ledger = endpoint.client, engine.store.batches
        self._where = f"{engine.label}: providers.{endpoint.name}"

    async def pick_up(self) -> None:
        """Wait for the batches that earlier runs left behind, and read them. Those of other definitions are left."""
        if not self.ledger.owing(self.endpoint.name):
            return
        tokens = {token for token, _ in self._batched()}
        async with asyncio.TaskGroup() as group:
            for token in sorted(tokens):
                group.create_task(self._reported(self._pick_up(token)))

    async def ask(self, tasks: Callable[[], Iterator[Task]]) -> None:
        """Ask `tasks` (generated anew at each call), model by model, one batch after the other: providers limit what
        is queued per model, and a batch that goes wrong stops the next."""
        async with asyncio.TaskGroup() as group:
            for model in sorted(self.engine.todo.models[self.endpoint.name]):
                group.create_task(self._reported(self._ask(tasks(), model)))

    async def _reported(self, work: Awaitable[None]) -> None:
        """A failure stops the collection in order: other batches say where they are."""
        try:
            await work
        except Stopped:
            pass  # the ledger says where it was
        except ArenaError as error:
            self.engine.fail(error)
        except CallError as error:
            advice = self.endpoint.advice(error) or "; the same command goes on from here"
            self.engine.fail(ArenaError(f"{self._where}: {error}{advice}"))

    async def _ask(self, tasks: Iterator[Task], model: str) -> None:
        stopped = self.engine.stopped.is_set
        going = takewhile(lambda _: not stopped(), (task for task in tasks if task.model == model))
        async for chunk in chunks(going, self.endpoint.provider.batch_max_requests):
            with chunk.file:
                entry = None if stopped() else await self._hand_over(chunk)
            if entry is None:
                return
            await self._finish(entry)

    def _batched(self) -> Iterator[tuple[str, Task]]:
        """The provider's tasks that are in a batch, each with the batch's token."""
        own = (task for task in self.engine.tasks() if task.provider == self.endpoint.name)
        return ((token, task) for task, _, token in looked_up(self.engine.store, own) if token)

    # Handing over

    async def _hand_over(self, chunk: Chunk) -> Entry | None:
        """The new batch; None where the collection was stopped before it was made."""
        token, path = uuid.uuid4().hex, cast(BatchPath, f"/v1{chunk.path}")
        self.ledger.prepare(token, self.endpoint.name, self.engine.label, chunk.requests, chunk.rows)
        attempts = 0

        async def upload() -> str:
            chunk.file.seek(0)
            return _identified(await self.client.files.create(file=(f"{token}.jsonl", chunk.file), purpose="batch"))

        async def create(entry: Entry, file: str) -> Batch:
            nonlocal attempts
            attempts += 1
            # An attempt without an answer may have been heard all the same.
            earlier = await self._search(entry) if attempts > 1 else None
            return earlier or await self.client.batches.create(
                input_file_id=file, endpoint=path, completion_window="24h", metadata={TOKEN: token}
            )

        try:
            uploaded = await self.endpoint.retrying(upload)
            if self.engine.stopped.is_set():
                self.ledger.drop(token)
                return None
            entry = self.ledger.note(token, input_file_id=uploaded, state=CREATING, created=time.time())
            batch = await self.endpoint.retrying(create, entry, uploaded)
            return self.ledger.note(token, batch_id=_identified(batch), state=str(batch.status))
        except CallError as error:
            # Refused when it was first asked for, if at all: surely nothing was created.
            if attempts == 0 or (attempts == 1 and error.kind != "retry"):
                self.ledger.drop(token)
            hint = "; `mode: requests` needs no Batch API" if error.code == "http_404" else self.endpoint.advice(error)
            raise ArenaError(f"{self._where}: the batch cannot be handed over: {error}{hint}") from error

    async def _search(self, entry: Entry) -> Batch | None:
        """The batch that carries our token, or was made from our file where the provider keeps no metadata."""
        try:
            async for batch in self.client.batches.list(limit=100):  # newest first
                if (batch.metadata or {}).get(TOKEN) == entry.token or batch.input_file_id == entry.input_file_id:
                    return batch
                if batch.created_at and batch.created_at < entry.created - _SKEW:
                    return None
        except (AttributeError, TypeError) as error:  # the SDK does not check what it pages through
            raise CallError("retry", "malformed_json", "the list of batches is not one") from error
        return None

    # Waiting

    async def _pick_up(self, token: str) -> None:
        """Read a batch; where its creation was not acknowledged, look for it until a request under way then must have
        arrived."""
        entry = self.ledger.entry(token)
        while entry.batch_id is None and entry.state == CREATING:
            denied = f"cannot tell whether {entry.requests:,} requests are in a batch"
            batch = await self._known(entry, denied, self._search, entry)
            if batch:
                entry = self.ledger.note(token, batch_id=batch.id, state=str(batch.status))
                break
            left = entry.created + self.endpoint.provider.timeout_seconds - time.time()
            if left <= 0:
                break
            if await happens_within(self.engine.stopped, min(left, self.endpoint.provider.batch_poll_seconds)):
                raise ArenaError(f"{self._where}: stopped while looking for a batch that may have been created")
        if entry.batch_id is None:
            self.ledger.drop(token)
        else:
            await self._finish(entry)

    async def _finish(self, entry: Entry) -> None:
        """Poll until the batch has ended or the collection is stopped; store what was answered."""
        from tqdm import tqdm

        label = f"{self.engine.label}: batch {entry.batch_id}"
        with tqdm(total=entry.requests, desc=label, leave=False, file=sys.stderr, ascii=True) as bar:
            denied = f"does not know batch {entry.batch_id} of {entry.requests:,} requests"
            while (batch := await self._known(entry, denied, self._retrieve, entry)).status not in _ENDED:
                if batch.request_counts:
                    bar.update((batch.request_counts.completed or 0) + (batch.request_counts.failed or 0) - bar.n)
                bar.set_postfix_str(str(batch.status))
                if await happens_within(self.engine.stopped, self.endpoint.provider.batch_poll_seconds):
                    self._say(f"batch {entry.batch_id} goes on at the provider; the same command picks it up")
                    return
        if batch.status == "failed":
            self.ledger.drop(entry.token)
            faults = (batch.errors.data if batch.errors else None) or []
            lines = [f"line {fault.line}: {fault.message}" if fault.line else str(fault.message) for fault in faults]
            more = [f"and {len(faults) - 3} more"] if len(faults) > 3 else []
            why = self.endpoint.redacted("; ".join(lines[:3] + more) or "no reason is given")
            raise ArenaError(f"{self._where}: batch {batch.id} was refused: {why}")
        with tempfile.TemporaryFile() as file:
            answers = Answers(file, self.endpoint.without_key)
            for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
                start = file.seek(0, 2)
                await self.endpoint.retrying(self._fetch, file_id, file, start)
                await answers.index(start)
            await self._read(entry, batch, answers)

    async def _retrieve(self, entry: Entry) -> Batch:
        batch = await self.client.batches.retrieve(str(entry.batch_id))
        _identified(batch)
        return batch

    async def _known(self, entry: Entry, otherwise: str, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        """What a call about a batch returns. A batch that the provider denies is kept, for another key or address may
        know it, until --retry-errors gives it up."""
        try:
            return await self.endpoint.retrying(call, *args)
        except CallError as error:
            if error.code != "http_404":
                raise
            given_up = self.engine.again.errors
            if given_up:
                self.ledger.drop(entry.token)
            then = "given up: the same command asks anew" if given_up else "--retry-errors gives it up"
            raise ArenaError(f"{self._where}: {self.endpoint.base_url} {otherwise} ({error}); {then}") from error

    # Reading

    async def _fetch(self, file_id: str, file: IO[bytes], start: int) -> None:
        file.truncate(start)
        file.seek(start)
        async with self.client.files.with_streaming_response.content(file_id) as response:
            async for part in response.iter_bytes():
                file.write(part)
        file.write(b"\n")

    async def _read(self, entry: Entry, batch: Batch, answers: Answers) -> None:
        """Store what was answered. All of it is paid for, so also when the collection is to stop."""
        unanswered = []
        for n, task in enumerate(task for token, task in self._batched() if token == entry.token):
            if n % TURN == 0:
                await asyncio.sleep(0)
            missing = not all(answers.tried(name, batch) for name in custom_ids(task))
            if missing or await self.engine.measure(task, answers.of(task), timed=False) is None:
                unanswered.append(task.row)
        await asyncio.sleep(0)
        self.ledger.set_unanswered(unanswered)
        if unanswered:
            left_out = f"batch {batch.id} {batch.status} with {len(unanswered):,} measurements not made"
            self._say(f"{left_out}; the same command asks for them")

    def _say(self, what: str) -> None:
        print(f"\n{self._where}: {what}", file=sys.stderr)


def _identified(made: Any) -> str:
    """The id of what the provider made; the SDK gives text where the answer was not JSON."""
    if (name := getattr(made, "id", None)) and isinstance(name, str):
        return name
    raise CallError("retry", "malformed_json", "the answer is not a JSON object with an id")
