"""/v1/files and /v1/batches of the stub server: uploaded lines are answered by the same functions as single requests.

`Stub.fault(body, n)` works per line: an error response goes to the error file, an answer to the output file, and
`"disconnect"` leaves the line out of both. `moment(name)` is awaited wherever a test may want to strike.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

Moment = Callable[[str], Awaitable["web.StreamResponse | None"]]


class Batches:
    """The batches of one server. Tests set what goes wrong:

    `hold` keeps batches in progress while it is set; `refuse` (message, line) fails the validation; `stop_after`
    (status, n) ends a batch as expired or cancelled after n answers; `deny` hides all batches and files.
    """

    ROUTES = (
        ("POST", "/v1/files", "upload"), ("GET", "/v1/files/{id}/content", "content"),
        ("POST", "/v1/batches", "create"), ("GET", "/v1/batches", "list"), ("GET", "/v1/batches/{id}", "retrieve"),
    )  # fmt: skip

    def __init__(self, stub):
        self.stub = stub
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict] = {}
        self.hold = self.deny = False
        self.refuse: tuple[str, int] | None = None
        self.stop_after: tuple[str, int] | None = None
        self.moment: Moment | None = None
        self._working: set[asyncio.Task] = set()

    async def handle(self, name: str, request: web.Request) -> web.StreamResponse:
        self.stub.keys.add(request.headers.get("Authorization", ""))
        asked = await (request.post() if name == "upload" else request.read())
        for moment in (name, {"upload": "uploaded", "create": "created"}.get(name)):
            bad = await self.moment(moment) if self.moment and moment else None
            if bad == "disconnect":
                request.transport.close()
                return web.Response()
            if bad:
                return bad
            if moment == name:
                made = getattr(self, f"_{name}")(asked, request)
        if made is None or (self.deny and name in ("content", "retrieve")):
            return web.json_response({"error": {"message": "none found", "code": None}}, status=404)
        return web.Response(body=made) if isinstance(made, bytes) else web.json_response(made)

    def _upload(self, asked, request: web.Request) -> dict:
        assert asked["purpose"] == "batch"
        return {"id": self._add(asked["file"].file.read()), "object": "file", "purpose": "batch"}

    def _content(self, asked, request: web.Request) -> bytes | None:
        return self.files.get(request.match_info["id"])

    def _create(self, asked, request: web.Request) -> dict:
        batch = {"id": f"batch_{len(self.batches)}", "object": "batch", "status": "validating", **json.loads(asked)}
        assert batch["input_file_id"] in self.files
        assert batch["completion_window"] == "24h"
        self.batches[batch["id"]] = batch | {"created_at": int(time.time())}
        work = asyncio.create_task(self._work(self.batches[batch["id"]]))
        self._working.add(work)
        work.add_done_callback(self._working.discard)
        return batch

    def _list(self, asked, request: web.Request) -> dict:
        names, after = [*reversed(self.batches)], request.query.get("after")
        names = names[names.index(after) + 1 :] if after else names
        page = names[:2]  # small, so that paging is needed
        return {"object": "list", "data": [self.batches[n] for n in page], "has_more": len(names) > len(page)}

    def _retrieve(self, asked, request: web.Request) -> dict | None:
        return self.batches.get(request.match_info["id"])

    def _add(self, content: bytes) -> str:
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return name

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
        while self.hold:
            await asyncio.sleep(0.005)
        status, most = self.stop_after or ("completed", len(lines))
        made = {"completed": [], "failed": []}
        for answer in filter(None, (self._answered(batch["endpoint"], line) for line in lines[:most])):
            kind = "completed" if answer["response"]["status_code"] == 200 else "failed"
            made[kind].append(answer)
            counts[kind] += 1
            await asyncio.sleep(0)
        message = {"code": f"batch_{status}", "message": "This request could not be executed in time."}
        late = [{"custom_id": line["custom_id"], "response": None, "error": message} for line in lines[most:]]
        batch["status"] = "finalizing"
        await asyncio.sleep(0.01)
        for name, written in (("output_file_id", made["completed"]), ("error_file_id", made["failed"] + late)):
            # Real files are in no particular order.
            content = "".join(json.dumps(line) + "\n" for line in reversed(written)).encode()
            batch[name] = self._add(content) if written else None
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
