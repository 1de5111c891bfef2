"""/v1/files and /v1/batches of the stub server: uploaded lines are answered by the same functions as single requests.

`Stub.fault(body, n)` works per line: an error response goes to the error file, an answer to the output file, and
`"disconnect"` leaves the line out of both. `moment(name)` is awaited wherever a test may want to strike.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator

from aiohttp import web

Moment = Callable[[str], Awaitable["web.StreamResponse | None"]]


class Batches:
    """The batches of one server. Tests set what goes wrong:

    `hold` keeps batches in progress while it is set; `refuse` (message, line) fails the validation; `stop_after`
    (status, n) ends a batch as expired or cancelled after n answers; `deny` hides all batches and files.
    """

    def __init__(self, stub):
        self.stub = stub
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict] = {}
        self.hold = self.deny = False
        self.refuse: tuple[str, int] | None = None
        self.stop_after: tuple[str, int] | None = None
        self.moment: Moment | None = None
        self._working: set[asyncio.Task] = set()

    def routes(self) -> Iterator[web.RouteDef]:
        yield web.post("/v1/files", self._upload)
        yield web.get("/v1/files/{id}/content", self._content)
        yield web.post("/v1/batches", self._create)
        yield web.get("/v1/batches", self._list)
        yield web.get("/v1/batches/{id}", self._retrieve)

    async def _at(self, name: str, request: web.Request) -> web.StreamResponse | None:
        self.stub.keys.add(request.headers.get("Authorization", ""))
        bad = await self.moment(name) if self.moment else None
        if bad == "disconnect":
            request.transport.close()
            return web.Response()
        return bad

    def _add(self, content: bytes) -> str:
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return name

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        parts = await request.post()
        if parts["purpose"] != "batch":
            return _refused(400, f"purpose {parts['purpose']!r} is not batch")
        if bad := await self._at("upload", request):
            return bad
        content = parts["file"].file.read()
        name = self._add(content)
        if bad := await self._at("uploaded", request):
            return bad
        return web.json_response({"id": name, "object": "file", "bytes": len(content), "purpose": "batch"})

    async def _content(self, request: web.Request) -> web.StreamResponse:
        if bad := await self._at("content", request):
            return bad
        content = None if self.deny else self.files.get(request.match_info["id"])
        return _refused(404, "No such File object") if content is None else web.Response(body=content)

    async def _create(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        if bad := await self._at("create", request):
            return bad
        if asked["input_file_id"] not in self.files or asked["completion_window"] != "24h":
            return _refused(400, "no such input file or completion window")
        name = f"batch_{len(self.batches)}"
        batch = {"id": name, "object": "batch", "status": "validating", "created_at": int(time.time()), **asked}
        self.batches[name] = batch
        work = asyncio.create_task(self._work(batch))
        self._working.add(work)
        work.add_done_callback(self._working.discard)
        if bad := await self._at("created", request):
            return bad
        return web.json_response(batch)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if bad := await self._at("list", request):
            return bad
        names = list(reversed(self.batches))
        after = request.query.get("after")
        names = names[names.index(after) + 1 :] if after else names
        page = names[: min(int(request.query.get("limit", 20)), 2)]  # small, so that paging is needed
        found = {"object": "list", "data": [self.batches[n] for n in page], "has_more": len(names) > len(page)}
        return web.json_response(found)

    async def _retrieve(self, request: web.Request) -> web.StreamResponse:
        if bad := await self._at("retrieve", request):
            return bad
        batch = None if self.deny else self.batches.get(request.match_info["id"])
        return web.json_response(batch) if batch else _refused(404, "No batch found")

    def _invalid(self, batch: dict, lines: list[dict]) -> tuple[str, int] | None:
        """(message, line) of the first thing OpenAI would refuse: ids, one path and one model per file."""
        seen: set[str] = set()
        for n, line in enumerate(lines, 1):
            if line["custom_id"] in seen or len(line["custom_id"]) > 64:
                return "custom_id is not unique or too long", n
            if line["url"] != batch["endpoint"] or line["method"] != "POST":
                return "url or method differ from the batch's endpoint", n
            if line["body"]["model"] != lines[0]["body"]["model"]:
                return "more than one model", n
            seen.add(line["custom_id"])
        return self.refuse

    async def _work(self, batch: dict) -> None:
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        if fault := self._invalid(batch, lines):
            data = [{"code": "invalid_json_line", "message": fault[0], "line": fault[1], "param": None}]
            batch.update(status="failed", errors={"object": "list", "data": data})
            return
        counts = {"total": len(lines), "completed": 0, "failed": 0}
        batch.update(status="in_progress", request_counts=counts)
        while self.hold and batch["status"] == "in_progress":
            await asyncio.sleep(0.005)
        status, most = self.stop_after or ("completed", len(lines))
        good, bad = [], []
        for line in lines[:most]:
            out = self._answered(batch["endpoint"], line)
            if out is None:
                continue
            kept = good if out["response"]["status_code"] == 200 else bad
            kept.append(out)
            counts["completed" if kept is good else "failed"] += 1
            await asyncio.sleep(self.stub.delay / 50)
        message = {"code": f"batch_{status}", "message": "This request could not be executed in time."}
        bad += [{"custom_id": line["custom_id"], "response": None, "error": message} for line in lines[most:]]
        batch["status"] = "finalizing"
        await asyncio.sleep(0.01)
        for name, kept in (("output_file_id", good), ("error_file_id", bad)):
            # Real files are in no particular order.
            content = "".join(json.dumps(line) + "\n" for line in reversed(kept)).encode()
            batch[name] = self._add(content) if kept else None
        batch["status"] = status

    def _answered(self, path: str, line: dict) -> dict | None:
        body = line["body"]
        self.stub.requests += 1
        bad = self.stub.fault(body, self.stub.requests) if self.stub.fault else None
        if bad == "disconnect":
            return None
        if isinstance(bad, web.Response):
            response = {"status_code": bad.status, "request_id": "r", "body": json.loads(bad.body)}
        else:
            self.stub.ledger[json.dumps(body, sort_keys=True)] += 1
            answer = self.stub.answers[path](body) if bad is None else bad
            response = {"status_code": 200, "request_id": "r", "body": answer}
        return {"id": "l", "custom_id": line["custom_id"], "response": response, "error": None}


def _refused(status: int, message: str) -> web.Response:
    return web.json_response(
        {"error": {"message": message, "type": "stub", "param": None, "code": None}}, status=status
    )
