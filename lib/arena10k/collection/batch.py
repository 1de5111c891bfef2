"""Tasks asked through the Batch API (files and batches of OpenAI): the same records as by single requests, but later.

A batch is written down before it exists. A run that is stopped at any moment finds it again: by its id or, where that
was not written down any more, by the token that the batch carries as metadata. Nothing is paid for twice.
https://platform.openai.com/docs/guides/batch
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from itertools import takewhile
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar

from openai.types import Batch

from arena10k.collection.batch_files import TURN, Answers, Chunk, chunks, custom_ids
from arena10k.collection.client import Endpoint
from arena10k.collection.ledger import CREATING, PREPARED, Entry
from arena10k.collection.limits import happens_within
from arena10k.collection.tasks import CHAT, COMPLETIONS, Task, batched
from arena10k.errors import ArenaError, CallError, Stopped

if TYPE_CHECKING:
    from arena10k.collection.collect import Engine

T = TypeVar("T")
#: The key of our token in a batch's metadata.
TOKEN = "arena10k"
BatchPath = Literal["/v1/chat/completions", "/v1/completions"]
#: What the Batch API calls the paths of requests.
_BATCHED: dict[str, BatchPath] = {CHAT: "/v1/chat/completions", COMPLETIONS: "/v1/completions"}
_ENDED = {"completed", "failed", "expired", "cancelled"}
#: Clocks may differ by this many seconds.
_SKEW = 86_400


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
                token = None if stopped() else await self._hand_over(chunk)
            if token is None:
                return
            await self._finish(token)

    def _batched(self, token: str | None = None) -> Iterator[tuple[str, Task]]:
        pairs = batched(self.engine.store, self.engine.tasks, self.endpoint.name)
        return ((held, task) for held, task in pairs if token in (None, held))

    # Handing over

    async def _hand_over(self, chunk: Chunk) -> str | None:
        """The token of the new batch; None where the collection was stopped before it was made."""
        token = uuid.uuid4().hex
        self.ledger.prepare(token, self.endpoint.name, self.engine.label, chunk.requests, chunk.rows)
        try:
            uploaded = await self.endpoint.retrying(self._upload, chunk, token)
            if self.engine.stopped.is_set():
                self.ledger.drop(token)
                return None
            self.ledger.note(token, input_file_id=uploaded, state=CREATING, created=time.time())
            await self._create(token, uploaded, _BATCHED[chunk.path])
        except CallError as error:
            if self.ledger.entry(token).state == PREPARED:
                self.ledger.drop(token)
            hint = "; `mode: requests` needs no Batch API" if error.code == "http_404" else self.endpoint.advice(error)
            raise ArenaError(f"{self._where}: the batch cannot be handed over: {error}{hint}") from error
        return token

    async def _upload(self, chunk: Chunk, token: str) -> str:
        chunk.file.seek(0)
        made = await self.client.files.create(file=(f"{token}.jsonl", chunk.file), purpose="batch")
        return _identified(made)

    async def _create(self, token: str, file_id: str, path: BatchPath) -> None:
        attempts = 0

        async def create() -> Batch:
            nonlocal attempts
            attempts += 1
            # An attempt without an answer may have been heard all the same.
            earlier = await self._search(token) if attempts > 1 else None
            return earlier or await self.client.batches.create(
                input_file_id=file_id, endpoint=path, completion_window="24h", metadata={TOKEN: token},
            )  # fmt: skip

        try:
            batch = await self.endpoint.retrying(create)
        except CallError as error:
            if attempts == 1 and error.kind != "retry":  # refused when first asked: surely nothing was created
                self.ledger.note(token, state=PREPARED)
            raise
        self.ledger.note(token, batch_id=_identified(batch), state=str(batch.status))

    async def _search(self, token: str) -> Batch | None:
        """The batch that carries our token, or was made from our file where the provider keeps no metadata."""
        entry = self.ledger.entry(token)
        try:
            async for batch in self.client.batches.list(limit=100):  # newest first
                if (batch.metadata or {}).get(TOKEN) == token or batch.input_file_id == entry.input_file_id:
                    return batch
                if batch.created_at and batch.created_at < entry.created - _SKEW:
                    return None
        except (AttributeError, TypeError) as error:  # the SDK does not check what it pages through
            raise CallError("retry", "malformed_json", "the list of batches is not one") from error
        return None

    # Waiting

    async def _pick_up(self, token: str) -> None:
        entry = self.ledger.entry(token)
        if entry.batch_id is None and not await self._found_again(entry):
            self.ledger.drop(token)
            return
        await self._finish(token)

    async def _found_again(self, entry: Entry) -> bool:
        """Look for a batch whose creation was not acknowledged, until a request under way then must have arrived."""
        while entry.state == CREATING:
            denied = f"cannot tell whether {entry.requests:,} requests are in a batch"
            batch = await self._known(entry, denied, self._search, entry.token)
            if batch:
                self.ledger.note(entry.token, batch_id=batch.id, state=str(batch.status))
                return True
            left = entry.created + self.endpoint.provider.timeout_seconds - time.time()
            if left <= 0:
                return False
            if await happens_within(self.engine.stopped, min(left, self.endpoint.provider.batch_poll_seconds)):
                raise ArenaError(f"{self._where}: stopped while looking for a batch that may have been created")
        return False

    async def _finish(self, token: str) -> None:
        entry = self.ledger.entry(token)
        batch = await self._ended(entry)
        if batch is None:
            self._say(f"batch {entry.batch_id} goes on at the provider; the same command picks it up")
            return
        if batch.status == "failed":
            self.ledger.drop(token)
            why = self.endpoint.redacted(_faults(batch))
            raise ArenaError(f"{self._where}: batch {batch.id} was refused: {why}")
        with tempfile.TemporaryFile() as file:
            answers = await self._download(batch, file)
            await self._read(entry, batch, answers)

    async def _ended(self, entry: Entry) -> Batch | None:
        """Poll until the batch has ended; None where the collection is stopped before."""
        from tqdm import tqdm

        label = f"{self.engine.label}: batch {entry.batch_id}"
        with tqdm(total=entry.requests, desc=label, leave=False, file=sys.stderr, ascii=True) as bar:
            while True:
                batch = await self._retrieved(entry)
                if batch.status != entry.state:
                    self.ledger.note(entry.token, state=str(batch.status))
                    entry = self.ledger.entry(entry.token)
                if batch.request_counts:
                    bar.update((batch.request_counts.completed or 0) + (batch.request_counts.failed or 0) - bar.n)
                bar.set_postfix_str(str(batch.status))
                if batch.status in _ENDED:
                    return batch
                if await happens_within(self.engine.stopped, self.endpoint.provider.batch_poll_seconds):
                    return None

    async def _retrieved(self, entry: Entry) -> Batch:
        async def retrieve() -> Batch:
            batch = await self.client.batches.retrieve(str(entry.batch_id))
            _identified(batch)
            return batch

        denied = f"does not know batch {entry.batch_id} of {entry.requests:,} requests"
        return await self._known(entry, denied, retrieve)

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

    async def _download(self, batch: Batch, file: IO[bytes]) -> Answers:
        """Both files of a batch into one of ours, and where in it each request's answer is."""
        answers = Answers(file, self.endpoint.without_key)
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            start = file.seek(0, 2)
            await self.endpoint.retrying(self._fetch, file_id, file, start)
            await answers.index(start)
        return answers

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
        for n, (_, task) in enumerate(self._batched(entry.token)):
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


def _faults(batch: Batch) -> str:
    """What the provider says is wrong with the input file, in one line."""
    faults = (batch.errors.data if batch.errors else None) or []
    parts = [f"line {fault.line}: {fault.message}" if fault.line else str(fault.message) for fault in faults[:3]]
    return "; ".join(parts + ([f"and {len(faults) - 3} more"] if len(faults) > 3 else [])) or "no reason is given"


def _identified(made: Any) -> str:
    """The id of what the provider made; the SDK gives text where the answer was not JSON."""
    if (name := getattr(made, "id", None)) and isinstance(name, str):
        return name
    raise CallError("retry", "malformed_json", "the answer is not a JSON object with an id")
