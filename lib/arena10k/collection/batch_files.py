"""The files of the Batch API: tasks packed into input files, and answers found in what comes back.

https://platform.openai.com/docs/api-reference/batch
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import orjson
from openai.types import Batch

from arena10k.collection.answers import check_model, checked, classify_status
from arena10k.collection.records import Row
from arena10k.collection.tasks import Request, Task
from arena10k.errors import ArenaError, CallError, invalid

#: The smallest of providers' limits on one input file.
MAX_BYTES = 100_000_000
#: So many tasks or lines are handled in one turn of the event loop, which also serves Ctrl-C.
TURN = 64
#: Requests that the provider did not come to: they cost nothing and say nothing.
_NOT_TRIED = {"batch_expired", "batch_cancelled"}

Send = Callable[[Request], Awaitable[dict[str, Any]]]


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

    def add(self, task: Task, lines: list[bytes]) -> None:
        self.rows.append(task.row)
        self.file.writelines(lines)
        self.requests += len(lines)
        self.size += sum(map(len, lines))


async def chunks(tasks: Iterator[Task], max_requests: int) -> AsyncIterator[Chunk]:
    """Pack tasks, in order, into files of at most so many requests and `MAX_BYTES`, each for one path of the API.

    All requests of a task are in one chunk. Raises ArenaError where a task alone is too large.
    """
    chunk = None
    for n, task in enumerate(tasks):
        if n % TURN == 0:
            await asyncio.sleep(0)
        lines = [_line(name, request) for name, request in zip(custom_ids(task), task.requests, strict=True)]
        size, path = sum(map(len, lines)), task.requests[0].path
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
        chunk.add(task, lines)
    if chunk:
        yield chunk


def _line(custom_id: str, request: Request) -> bytes:
    line = {"custom_id": custom_id, "method": "POST", "url": f"/v1{request.path}", "body": request.body}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


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
            if raw.strip():
                self._note(raw, at)
            at += len(raw)

    def _note(self, raw: bytes, at: int) -> None:
        try:
            line = orjson.loads(raw)
            name, code = line["custom_id"], (line.get("error") or {}).get("code")
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return  # nobody can say whose answer it is: that request counts as missing
        if code in _NOT_TRIED:
            self._not_tried.add(name)
        else:
            self._at.setdefault(name, at)

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
                answer = _answer(orjson.loads(self._file.readline()))
            except CallError as error:
                raise self._without_key(error) from None
            check_model(request.body["model"], answer)
            return answer

        return send


def _answer(line: dict[str, Any]) -> dict[str, Any]:
    """The answer in a line of a batch's files, as a single request would have given it. Raises CallError."""
    response, error = line.get("response"), line.get("error")
    if not isinstance(response, dict):
        filled = {key: value for key, value in error.items() if value} if isinstance(error, dict) else {}
        raise classify_status(400, {"code": "batch_error"} | filled, str(error))
    body, status = response.get("body"), response.get("status_code", 200)
    if not isinstance(status, int):
        raise invalid("malformed_answer", f"status_code is {status!r}")
    if status != 200:
        raise classify_status(status, body.get("error", body) if isinstance(body, dict) else error, str(body))
    return checked(body)
