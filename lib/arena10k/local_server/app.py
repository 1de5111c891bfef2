"""The HTTP side: routes, models by name, errors in OpenAI's shape."""

import asyncio
import dataclasses
import re
import secrets
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler

from arena10k.local_server.engine import CONTEXT_LENGTH, CachedAway, EngineError, Engines, Job, Sequence
from arena10k.local_server.model import TEMPERATURE_RANGE, Vocabulary, source, tempered
from arena10k.local_server.protocol import (
    BadRequest,
    ChatRequest,
    CompletionRequest,
    TokenizeRequest,
    answer,
    parse,
)

K = TypeVar("K")
T = TypeVar("T")
BASE_MODEL = "smollm2-135m"
#: Any temperature in the range is served; these are the ones that are listed.
LISTED_MODELS = (BASE_MODEL, *(f"{BASE_MODEL}-t{tenths / 10:g}" for tenths in range(3, 21)))
_MODEL = re.compile(rf"{re.escape(BASE_MODEL)}(?:-t(\d+(?:\.\d+)?))?")
#: Tokens of requests that are remembered.
_REMEMBERED = 2**19
_MAX_BODY = 4 * 2**20


class Server:
    """Handlers over one vocabulary and the pipelines."""

    def __init__(self, vocabulary: Vocabulary):
        self._vocabulary = vocabulary
        self._engines = Engines(vocabulary.eos)
        self._weights: dict[str, asyncio.Future[Path]] = {}
        self._settled: dict[tuple[Path, Job], asyncio.Future[list[Sequence]]] = {}

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def models(self, _: web.Request) -> web.Response:
        card = {"object": "model", "created": 0, "owned_by": "arena10k", "max_model_len": CONTEXT_LENGTH}
        return web.json_response({"object": "list", "data": [{"id": name, **card} for name in LISTED_MODELS]})

    async def tokenize(self, request: web.Request) -> web.Response:
        body = parse(await request.read(), TokenizeRequest)
        await self._model(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise BadRequest("give either prompt or messages", "prompt")
        ids = self._chat(body) if body.prompt is None else self._encode(body.prompt)
        return web.json_response({"tokens": ids, "count": len(ids), "max_model_len": CONTEXT_LENGTH})

    async def chat(self, request: web.Request) -> web.Response:
        body = parse(await request.read(), ChatRequest)
        gguf = await self._model(body.model)
        if body.top_logprobs and not body.logprobs:
            raise BadRequest("top_logprobs needs logprobs", "top_logprobs")
        prompt = self._chat(body)
        limit = body.max_completion_tokens or body.max_tokens or max(1, CONTEXT_LENGTH - len(prompt))
        _fits(prompt, limit, "messages")
        if body.top_logprobs:
            _next_token_only(body, limit, "top_logprobs")
        choices = await self._generate(gguf, body, prompt, limit, beams=body.top_logprobs or 1)
        return web.json_response(answer(self._vocabulary, body, prompt, choices))

    async def completions(self, request: web.Request) -> web.Response:
        body = parse(await request.read(), CompletionRequest)
        gguf = await self._model(body.model)
        prompt = self._encode(body.prompt) if isinstance(body.prompt, str) else list(body.prompt)
        if not prompt or any(index >= len(self._vocabulary) for index in prompt):
            raise BadRequest(f"prompt must have at least one token, ids below {len(self._vocabulary)}", "prompt")
        if body.max_tokens == 0 and not body.echo:
            raise BadRequest("max_tokens may be 0 only with echo", "max_tokens")
        _fits(prompt, body.max_tokens, "prompt")
        top = body.logprobs or 0
        if top > 1:
            _next_token_only(body, body.max_tokens, "logprobs")
        if body.echo:
            choices = await self._score(gguf, body, prompt)
        else:
            choices = await self._generate(gguf, body, prompt, body.max_tokens, beams=max(top, 1))
        return web.json_response(answer(self._vocabulary, body, prompt, choices))

    async def _generate(
        self, gguf: Path, body: ChatRequest | CompletionRequest, prompt: list[int], limit: int, beams: int
    ) -> list[list[Sequence]]:
        """One entry per choice: a single sequence, or for a next-token distribution its `beams` alternatives."""
        first = _seed(body)
        seeds = [None if body.temperature == 0 else (first + draw) % 2**32 for draw in range(body.n)]
        jobs = [Job(tuple(prompt), limit, seed=seed, beams=beams) for seed in seeds]
        return await asyncio.gather(*((self._once if job.seed is None else self._complete)(gguf, job) for job in jobs))

    async def _once(self, gguf: Path, job: Job) -> list[Sequence]:
        """An answer without chance, which depends on the request alone: the same request is not computed twice."""
        key = (gguf, job)
        if key not in self._settled:
            while self._settled and sum(len(job.prompt) for _, job in self._settled) > _REMEMBERED:
                self._settled.pop(next(iter(self._settled)))
        return await _made_once(self._settled, key, lambda: self._complete(gguf, job))

    async def _complete(self, gguf: Path, job: Job) -> list[Sequence]:
        """A sequence that is scored may have been seen before, and be cached beyond what it can do without: it is
        computed whole then, without a cache, as one of which every log-prob is asked for."""
        if job.echo_from or not job.echo:
            try:
                return await self._engines.get(gguf, job.echo).complete(job)
            except CachedAway:
                job = dataclasses.replace(job, echo_from=0)
        return await self._engines.get(gguf, job.echo, prefix_cache=False).complete(job)

    async def _score(self, gguf: Path, body: CompletionRequest, prompt: list[int]) -> list[list[Sequence]]:
        """Teacher forcing: the prompt's own log-probs, then any new tokens. Its head comes from the cache where the
        caller can do without those log-probs."""
        if body.n != 1:
            raise BadRequest("n must be 1 with echo", "n")
        seed = _seed(body) if body.temperature == 1 and body.max_tokens else None
        job = Job(tuple(prompt), max(body.max_tokens, 1), seed=seed, echo=True, echo_from=body.echo_from)
        (sequence,) = await (self._once if seed is None else self._complete)(gguf, job)
        # The engine always makes one token; with max_tokens 0 it is left out of the answer.
        keep = len(prompt) if body.max_tokens == 0 else len(sequence.ids)
        return [[Sequence(sequence.ids[:keep], sequence.logprobs[:keep])]]

    async def _model(self, name: str) -> Path:
        """The weights of a model id."""
        match = _MODEL.fullmatch(name)
        temperature = float(match[1] or 1.0) if match else 0.0
        low, high = TEMPERATURE_RANGE
        if not low <= temperature <= high:
            message = (
                f"the model {name!r} does not exist; there is {BASE_MODEL}, optionally with -t<temperature> "
                f"from {low} to {high}"
            )
            raise BadRequest(message, "model", "model_not_found", status=404)
        return await _made_once(self._weights, name, lambda: asyncio.to_thread(tempered, temperature))

    def _encode(self, text: str) -> list[int]:
        try:
            return self._vocabulary.encode(text)
        except ValueError as error:
            raise BadRequest(str(error), "prompt") from error

    def _chat(self, body: ChatRequest | TokenizeRequest) -> list[int]:
        try:
            messages = [message.model_dump() for message in body.messages or ()]
            return self._vocabulary.chat(messages, body.add_generation_prompt)
        except ValueError as error:
            raise BadRequest(str(error), "messages") from error


async def _made_once(made: dict[K, asyncio.Future[T]], key: K, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What `make` gives, the same for all who ask for the key meanwhile and later; failures are not kept."""
    if key not in made:
        made[key] = asyncio.ensure_future(make())
    try:
        return await asyncio.shield(made[key])
    except (EngineError, OSError):
        made.pop(key, None)
        raise


def _seed(body: ChatRequest | CompletionRequest) -> int:
    return secrets.randbits(32) if body.seed is None else body.seed


def _fits(prompt: list[int], new: int, param: str) -> None:
    if len(prompt) + new > CONTEXT_LENGTH:
        message = f"the context is {CONTEXT_LENGTH} tokens; asked for: {len(prompt)} in the prompt and {new} new ones"
        raise BadRequest(message, param, "context_length_exceeded")


def _next_token_only(body: ChatRequest | CompletionRequest, limit: int, param: str) -> None:
    if limit != 1 or body.temperature != 0 or body.n != 1 or getattr(body, "echo", False):
        message = f"{param} above 1 gives the next token's distribution: max_tokens 1, temperature 0, n 1 and no echo"
        raise BadRequest(message, param)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors in OpenAI's shape."""
    param = code = None
    try:
        return await handler(request)
    except BadRequest as error:
        message, status, param, code = str(error), error.status, error.param, error.code
    except EngineError as error:
        message, status = str(error), 500
    except web.HTTPException as error:
        message, status = error.reason, error.status
    kind = "server_error" if status == 500 else "invalid_request_error"
    body = {"message": message, "type": kind, "param": param, "code": code}
    return web.json_response({"error": body}, status=status)


async def application() -> web.Application:
    """The aiohttp application, with the tokenizer loaded; pipelines load when first used. Raises
    model.WeightsMissing."""
    server = Server(await asyncio.to_thread(Vocabulary, source()))
    app = web.Application(middlewares=[_errors], client_max_size=_MAX_BODY)
    gets = {"/health": server.health, "/v1/models": server.models}
    posts = {"/v1/chat/completions": server.chat, "/v1/completions": server.completions, "/tokenize": server.tokenize}
    app.add_routes(web.get(path, handler) for path, handler in gets.items())
    app.add_routes(web.post(path, handler) for path, handler in posts.items())
    return app
