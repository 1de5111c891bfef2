"""A real HTTP server that answers like an OpenAI-compatible endpoint, and misbehaves exactly as a test asks.

Answers are a function of the request alone (a hash of it), so any stored value can be checked against what the
functions here say.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import accumulate

from aiohttp import web

from stub_batches import Batches

MODEL, JUDGE_MODEL = "stub", "stub-judge"
Fault = Callable[[dict, int], "web.StreamResponse | dict | None"]


def unit(*parts: object) -> float:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big") / 2**48


def token_logprob(position: int, token: int | str) -> float:
    """The stub's log-prob of a token at a position: between -4 and -0.01 nats."""
    return -0.01 - 3.99 * unit("logprob", position, token)


def answer(body: dict, sent: int, received: int, *, finish_reason="stop", prompt_token_ids=None, **choice) -> dict:
    """One choice, from the model that was asked, with usage."""
    ids = {"prompt_token_ids": prompt_token_ids} if prompt_token_ids else {}
    usage = {"prompt_tokens": sent, "completion_tokens": received, "total_tokens": sent + received}
    choices = [{"index": 0, "finish_reason": finish_reason, **choice}]
    return {"id": "a", "model": body["model"], "choices": choices, "usage": usage, **ids}


def chat_answer(body: dict) -> dict:
    if body["model"] == JUDGE_MODEL:
        return judge_answer(body)
    text = body["messages"][-1]["content"]
    n = 3 + int(unit("n", text, body.get("seed")) * 6)
    ids = [10 + int(unit("id", text, body.get("seed"), i) * 90) for i in range(n)]
    prompt_ids = [100 + int(unit("prompt", json.dumps(body["messages"]), i) * 900) for i in range(8)]
    content = [{"token": f"t{t}", "logprob": token_logprob(8 + i, t)} for i, t in enumerate(ids)]
    message = {"role": "assistant", "content": " ".join(f"t{t}" for t in ids)}
    return answer(
        body, 8, n, message=message, logprobs={"content": content}, token_ids=ids, prompt_token_ids=prompt_ids
    )


def rated(user: str, *parts: object) -> tuple[float, float, int]:
    """What the stub's judge thinks of a case: low and high end of the scale it is asked for, and its rating.

    `parts` (temperature and seed of a sample) shift the rating by up to one.
    """
    low, high = map(float, re.search(r"number from (\S+) to ([0-9]+(?:\.[0-9]+)?)", user).groups())
    case = user.rsplit("\n\n", 1)[0]
    rating = low + round((high - low) * unit("quality", case))
    shift = int(unit("shift", case, *parts) * 3) - 1 if parts else 0
    return low, high, int(min(max(rating + shift, low), high))


def judge_answer(body: dict) -> dict:
    """The rating in the form that the last line asks for."""
    user = body["messages"][-1]["content"]
    low, high, rating = rated(user, *((body["temperature"], body.get("seed")) if body["temperature"] else ()))
    text, logprobs = f'{{"rating": {rating}}}', {}
    if '"low"' in user:
        text = json.dumps({"rating": rating, "low": max(rating - 1, low), "high": min(rating + 1, high)})
    if body.get("logprobs"):
        text = str(rating)
        other = str(int(rating + 1 if rating < high else rating - 1))
        top = [{"token": t, "logprob": math.log(p)} for t, p in ((text, 0.75), (other, 0.2), ("The", 0.05))]
        logprobs = {"logprobs": {"content": [{**top[0], "top_logprobs": top}]}}
    return answer(body, len(user) // 4, 5, message={"role": "assistant", "content": text}, **logprobs)


def echo_answer(body: dict) -> dict:
    ids = body["prompt"]
    if isinstance(ids, str):
        return text_answer(body)
    logprobs = [None, *(token_logprob(i, t) for i, t in enumerate(ids) if i)]
    extra = [] if body.get("max_tokens") == 0 else [-1.0]
    said = {"token_logprobs": logprobs + extra, "tokens": [], "top_logprobs": None}
    made = answer(body, len(ids), len(extra), text="", finish_reason="length", logprobs=said)
    made["choices"][0]["prompt_token_ids"] = ids
    return made


def text_tokens(text: str) -> list[str]:
    """The stub's tokenizer: control tokens, words with the space before them, runs of line ends, single characters."""
    return re.findall(r"<\|\w+\|>|\n+| ?\w+|\W", text)


def text_logprobs(tokens: list[str], start: int = 0) -> list[float]:
    """Log-probs of tokens of a text that begins `start` characters after the beginning of what was sent."""
    offsets = accumulate(map(len, tokens[:-1]), initial=start)
    return [token_logprob(offset, token) for offset, token in zip(offsets, tokens, strict=True)] if tokens else []


def text_answer(body: dict) -> dict:
    """A completion of text (which ends by itself, its end not shown), or the echo of it with one more token."""
    prompt, echo = body["prompt"], body.get("echo")
    size = 3 + int(unit("size", prompt, body.get("seed")) * 6)
    said = "".join(f" w{int(unit('word', prompt, body.get('seed'), i) * 90)}" for i in range(size))
    generated = [" next"] if echo else text_tokens(said)
    tokens, start = (text_tokens(prompt) + generated, 0) if echo else (generated, len(prompt))
    values = text_logprobs(tokens, start)
    logprobs = {"tokens": tokens, "token_logprobs": [None, *values[1:]] if echo else values}
    logprobs["text_offset"] = list(accumulate(map(len, tokens[:-1]), initial=start))
    finish, counts = "length" if echo else "stop", (len(text_tokens(prompt)), len(generated))
    return answer(body, *counts, text="".join(tokens), finish_reason=finish, logprobs=logprobs)


def error(status: int, message: str, code: str | None = None, **headers: str) -> web.Response:
    body = {"error": {"message": message, "type": "stub", "param": None, "code": code}}
    return web.json_response(body, status=status, headers=headers)


class Stub:
    """The server, in a thread of its own. `fault(body, n)` sees the n-th request (from 1) and may answer in its place.

    `ledger` counts answered requests by body, `requests` counts all of them; `models` is what GET /models says,
    or its response.
    """

    def __init__(self, fault: Fault | None = None, delay: float = 0.0):
        self.answers = {"/v1/chat/completions": chat_answer, "/v1/completions": echo_answer}
        self.behave()
        self.fault, self.delay = fault, delay

    def behave(self) -> Stub:
        """No fault, and nothing counted."""
        self.fault, self.delay, self.requests = None, 0.0, 0
        self.ledger: Counter[str] = Counter()
        self.keys: set[str] = set()
        self.models: object = {"object": "list", "data": [{"id": m, "object": "model"} for m in (MODEL, JUDGE_MODEL)]}
        self.batches = Batches(self)
        return self

    def __enter__(self) -> Stub:
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _serve(self, started: threading.Event) -> None:
        async def main() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            app = web.Application(client_max_size=2**28)
            app.router.add_get("/v1/models", self._models)
            for path, good in self.answers.items():
                app.router.add_post(path, self._answer(good))
            for method, path, name in Batches.ROUTES:
                app.router.add_route(method, path, partial(self._batch, name))
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"
            started.set()
            await self._stop.wait()
            await runner.cleanup()

        asyncio.run(main())

    async def _batch(self, name: str, request: web.Request) -> web.StreamResponse:
        return await self.batches.handle(name, request)

    async def _models(self, _: web.Request) -> web.Response:
        return self.models if isinstance(self.models, web.Response) else web.json_response(self.models)

    def _answer(self, good: Callable[[dict], dict]) -> Callable:
        async def handle(request: web.Request) -> web.StreamResponse:
            body = await request.json()
            self.requests += 1
            self.keys.add(request.headers.get("Authorization", ""))
            if self.delay:
                await asyncio.sleep(self.delay)
            bad = self.fault(body, self.requests) if self.fault else None
            if asyncio.iscoroutine(bad):
                bad = await bad
            if isinstance(bad, web.StreamResponse):
                return bad
            if bad == "disconnect":
                request.transport.close()
                return web.Response()
            self.ledger[json.dumps(body, sort_keys=True)] += 1
            return web.json_response(good(body) if bad is None else bad)

        return handle
