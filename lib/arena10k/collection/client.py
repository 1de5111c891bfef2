"""Requests to one OpenAI-compatible endpoint: the `openai` SDK in, a decoded JSON answer or a typed error out."""

from __future__ import annotations

import asyncio
import email.utils
import functools
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import httpx2
import openai
import orjson
import tenacity

from arena10k import options, paths
from arena10k.collection import answers, echo
from arena10k.collection.answers import check_model, checked, classify_status
from arena10k.collection.jobs import LOGPROBS, RESPONSES, SHUFFLED
from arena10k.collection.limits import Limits, pause
from arena10k.collection.tasks import Request
from arena10k.errors import CallError, invalid, one_line
from arena10k.params.config import Params
from arena10k.params.sections import OMITTABLE, Provider

T = TypeVar("T")
#: What a connection that cannot be made or breaks off raises, by the layer that notices.
_BROKEN = (openai.APIConnectionError, httpx2.RequestError, aiohttp.ClientError, ConnectionError, TimeoutError)
_OVERLOAD = {"http_429", "http_503", "timeout"}
#: Seconds: more is not waited at once, and of more than a minute the user is told.
_LONGEST_WAIT, _SHORT_WAIT = 86_400.0, 60.0
#: The longest message of a provider that is kept, in characters.
_LONGEST = 300
#: What is said of the value of a field that the endpoint takes.
_OUT_OF_RANGE = re.compile(r"too (large|high|big|many|small|low)|at (most|least)|exceed|range|(er|less) than|must|<|>")
_GOES_ON = "nothing was spent by that refusal, and the same command goes on from here"
#: Fields that are sent because a capability is declared.
_CAPABILITY = {"return_token_ids": "token_ids", "response_format": "json_schema", "echo": "echo_logprobs"}
#: Fields of a request that an endpoint may refuse, as their names stand in what it says.
_FIELD = re.compile(rf"\b({'|'.join((*OMITTABLE, 'max_completion_tokens', *_CAPABILITY))})\b", re.IGNORECASE)


def classify(error: Exception) -> CallError:
    """Turn an exception of the SDK or its transport into a typed outcome; what is one already stays."""
    if isinstance(error, openai.APIStatusError):
        return _refused(error.response)
    cause = error.__cause__ or error if isinstance(error, openai.APIConnectionError) else error
    # The aiohttp transport reports a refused connection as a connect time-out.
    if isinstance(cause, httpx2.TimeoutException) and not isinstance(cause, httpx2.ConnectTimeout):
        return CallError("retry", "timeout", "no answer within the time limit")
    if isinstance(cause, _BROKEN):
        return CallError("retry", "connection", one_line(cause))
    if isinstance(error, orjson.JSONDecodeError):
        return CallError("retry", "malformed_json", one_line(error))
    if isinstance(error, CallError):
        return error
    raise error


def _refused(answer: httpx2.Response) -> CallError:
    try:
        body = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        body = None
    return classify_status(answer.status_code, body, answer.text, _retry_after(answer.headers.get("retry-after", "")))


def _retry_after(header: str) -> float | None:
    """Seconds to wait: the header holds them, or a date (RFC 9110, section 10.2.3)."""
    for seconds in (float, lambda date: email.utils.parsedate_to_datetime(date).timestamp() - time.time()):
        with suppress(ValueError):
            return min(max(seconds(header), 0.0), _LONGEST_WAIT)
    return None


def _wait(state: tenacity.RetryCallState) -> float:
    """Exponential back-off with jitter, but never sooner than the server's Retry-After."""
    error = state.outcome.exception() if state.outcome else None
    backoff = tenacity.wait_random_exponential(multiplier=0.5, max=60)(state)
    return max(backoff, getattr(error, "retry_after", None) or 0.0)


class Endpoint:
    """One provider: shared connections, pace, retries, decoded answers.

    Methods return the answer as a plain dict and raise `CallError`; kinds ``permanent``, ``invalid`` and an exhausted
    ``retry`` become error rows. Measurements go through the SDK's transport: building its request and answer objects
    costs most of the time of a scoring call.
    """

    def __init__(self, name: str, provider: Provider, base_url: str, stopped: asyncio.Event):
        self.name, self.provider, self.base_url = name, provider, base_url
        self.limits, self._stopped = Limits(provider, stopped), stopped
        # Endpoints that declare no key get a placeholder.
        key = options.secret(f"providers.{name}", provider.api_key_env) if provider.api_key_env else "none"
        variables = {header: value[1:] for header, value in provider.headers.items() if value.startswith("$")}
        hidden = {h: options.secret(f"providers.{name}.headers.{h}", variable) for h, variable in variables.items()}
        #: What nobody may read, by the variable that holds it.
        self._secrets = {variables[header]: value for header, value in hidden.items()}
        self._secrets |= {provider.api_key_env: key} if provider.api_key_env else {}
        host = urlsplit(base_url).hostname or ""
        loopback = host == "localhost" or host.startswith("127.") or host == "::1"
        # A proxy of the environment does not know this machine.
        self.http = openai.DefaultAioHttpClient(timeout=provider.timeout_seconds, trust_env=not loopback)
        self.client = openai.AsyncOpenAI(
            api_key=key,
            base_url=base_url,
            max_retries=0,
            timeout=provider.timeout_seconds,
            default_headers=provider.headers | hidden,
            http_client=self.http,
        )
        # The SDK takes them from its own environment variables: they go to whom the params name.
        self.client.organization = self.client.project = None
        self._headers = httpx2.Headers({**self.http.headers, "Authorization": f"Bearer {key}"})
        own = {key: said for key, said in self.client.default_headers.items() if isinstance(said, str)}
        # What the SDK would tell of this machine concerns nobody.
        self._headers.update({key: said for key, said in own.items() if not key.startswith("X-Stainless-")})
        self._timeout = {"timeout": httpx2.Timeout(provider.timeout_seconds).as_dict()}
        self._url = functools.cache(lambda path: httpx2.URL(base_url.rstrip("/") + path))

    async def send(self, request: Request) -> dict[str, Any]:
        """The checked answer to a request: an object, from the model that was asked."""

        async def post() -> dict[str, Any]:
            await self.limits.pace(request)
            # Headers that are given to it would be encoded anew for every request.
            url, stream = self._url(request.path), httpx2.ByteStream(content := orjson.dumps(request.body))
            asked = httpx2.Request("POST", url, stream=stream, extensions=self._timeout)
            asked.headers = self._headers.copy()
            asked.headers["Content-Length"] = str(len(content))
            asked.read()
            answer = await self.http.send(asked)
            if not answer.is_success:
                raise _refused(answer)
            return checked(orjson.loads(answer.content))

        answer = await self.retrying(post)
        check_model(request.answering, answer)
        return answer

    async def models(self) -> list[str]:
        """Ids of the models the endpoint says that it serves, a list or an object that holds one; gives up sooner than
        a measurement would."""

        async def get() -> Any:
            return orjson.loads((await self.client.get("/models", cast_to=httpx2.Response)).content)

        answer = await self.retrying(get, attempts=2)
        listed = answer.get("data", answer.get("models")) if isinstance(answer, dict) else answer
        if not isinstance(listed, list):
            raise invalid("malformed_answer", "what it gives as its models is no list")
        named = (entry.get("id", entry.get("name")) if isinstance(entry, dict) else entry for entry in listed)
        return [str(name).removeprefix("models/") for name in named if name]

    async def retrying(self, call: Callable[..., Awaitable[T]], *args: Any, attempts: int = 20) -> T:
        """What `call(*args)` returns, a coroutine function that uses the SDK's `client`; transient failures are tried
        again. Raises CallError."""
        most = min(attempts, self.provider.max_attempts)
        try:
            return await self._typed(call, *args)
        except CallError as error:
            if error.kind != "retry" or most == 1:
                raise
            failed = error
        # Most requests never need the machinery, which takes time: it begins with the failure that is behind us.
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(lambda e: isinstance(e, CallError) and e.kind == "retry"),
            stop=tenacity.stop_after_attempt(most),
            wait=_wait,
            sleep=lambda seconds: pause(seconds, self._stopped),
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                if attempt.retry_state.attempt_number == 1:
                    raise failed
                return await self._typed(call, *args)
        raise failed

    async def _typed(self, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        try:
            result = await call(*args)
        except (openai.APIError, orjson.JSONDecodeError, CallError, *_BROKEN) as problem:
            error = self.without_key(classify(problem))
            if error.code in _OVERLOAD:
                self.limits.overloaded(error.retry_after)
                if (error.retry_after or 0) > _SHORT_WAIT:
                    print(f"\nproviders.{self.name} says to wait {error.retry_after:,.0f} s: {error}", file=sys.stderr)
            raise error from None
        self.limits.succeeded()
        return result

    def redacted(self, message: str) -> str:
        """What a provider says, without the key that some quote, so that it comes neither into the store nor into a
        message; shortened after that, for a part of a key is still a secret."""
        for variable, secret in self._secrets.items():
            message = message.replace(secret, f"<{variable}>")
        return message[:_LONGEST]

    def without_key(self, error: CallError) -> CallError:
        """The same error, its detail `redacted`."""
        return CallError(error.kind, self.redacted(error.code), self.redacted(error.detail), error.retry_after)

    def _without(self, field: str, said: str) -> str:
        """The key of the params that changes or leaves out a field of the request."""
        where = f"providers.{self.name}"
        if field in ("max_tokens", "max_completion_tokens") and _OUT_OF_RANGE.search(said) and "instead" not in said:
            return "change `max_tokens`, to what the endpoint takes, at the policy, judge or grader that asks"
        if field in ("max_tokens", "max_completion_tokens"):
            other = "max_completion_tokens" if self.provider.max_tokens_field == "max_tokens" else "max_tokens"
            return f"say `max_tokens_field: {other}` at {where}, or at the policy, judge or grader that asks"
        if field in _CAPABILITY:
            return f"say `{_CAPABILITY[field]}: false` in {where}.capabilities"
        more = f"; `top_logprobs: 5` (or 0) in {where}.capabilities asks for fewer" if field == "top_logprobs" else ""
        return f"say `leave_out: [{field}]` at {where}, or at the policy, judge or grader that asks{more}"

    def advice(self, error: CallError, job: str = "") -> str:
        """What to do about an error of a job that every request would share, to put behind it; empty where nothing is
        known."""
        env, where = self.provider.api_key_env, f"providers.{self.name}"
        cannot_score = f"where it cannot score, leave echo_logprobs out of {where}.capabilities"
        scoring = job in (LOGPROBS, SHUFFLED)
        if (error.kind == "permanent" or error.code == "http_403") and (refused := _FIELD.search(error.detail)):
            field = refused[0].lower()
            needed = scoring and field in ("logprobs", "echo")  # a score is made of log-probs
            return f"; {cannot_score if needed else self._without(field, error.detail)}"
        match error.code:
            case "http_401" | "http_403" if not env:
                return f"; {where} names no api_key_env, and the endpoint wants a key: {_GOES_ON}"
            case "http_401":
                return f"; the endpoint does not accept the key in {env}: put another into that variable; {_GOES_ON}"
            case "http_403":
                return f"; the endpoint does not allow this to the key in {env}: fix that; {_GOES_ON}"
            case "http_402" | "insufficient_quota" | "billing_hard_limit_reached":
                return f"; the account of {where} has no credit left: {_GOES_ON}"
            case "http_404":
                more = f"; {cannot_score}" if scoring else ""
                return f" ({self.base_url}: is that the whole base_url? most end in /v1{more})"
            case "connection" | "timeout":
                return f"; is {self.base_url} its base_url, and at work? The same command goes on from here"
            case answers.WRONG_MODEL:
                return "; where that is the model behind the name, say so as its policy's or grader's `model_alias`"
            case "no_token_ids":
                return f"; say `token_ids: false` in {where}.capabilities, and give a chat_template to score text"
            case "context_length":
                return "; lower `max_tokens` at the policy, judge or grader that asks, or `prompts.max_chars`"
            case "reasoning_only":
                return "; raise max_tokens, or switch the reasoning off (`extra_body`, say reasoning_effort)"
            case echo.IGNORED:
                return f"; {cannot_score}: estimates then rest on fresh responses, judge and labels"
        if error.kind == "invalid" and error.code in answers.OF_LOGPROBS and job == RESPONSES:
            return f"; {self._without('logprobs', '')}" if not self.provider.capabilities.echo_logprobs else ""
        unusable = error.kind == "invalid" or error.code in ("http_500", "malformed_json")
        by_text = "where it takes no token ids, say `token_ids: false` there and give a chat_template to score text"
        also = f"; {by_text}" if error.code == "http_500" and self.provider.capabilities.token_ids else ""
        return f"; {cannot_score}{also}" if scoring and unusable else ""


@contextmanager
def serving(params: Params, names: set[str]) -> Iterator[dict[str, str]]:
    """Base URLs by name of the named providers for the length of the block; the embedded model's server is started and
    stopped."""
    urls = {name: url for name in names if (url := params.providers[name].base_url)}
    embedded = [name for name in names if params.providers[name].kind == "embedded" and name not in urls]
    if not embedded:
        yield urls
        return
    from arena10k.local_server import running

    with running(log=paths.server_log(params.run)) as base_url:
        yield urls | dict.fromkeys(embedded, f"{base_url}/v1")
