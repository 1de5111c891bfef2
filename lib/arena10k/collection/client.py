"""Requests to one OpenAI-compatible endpoint: the `openai` SDK in, a decoded JSON answer or a typed error out."""

from __future__ import annotations

import asyncio
import email.utils
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx2
import openai
import orjson
import tenacity

from arena10k import paths
from arena10k.collection import echo
from arena10k.collection.jobs import LOGPROBS, SHUFFLED
from arena10k.collection.limits import Limits, happens_within
from arena10k.collection.tasks import Request
from arena10k.errors import ArenaError, CallError, Stopped, invalid, one_line
from arena10k.params.config import Params
from arena10k.params.provider import Provider

T = TypeVar("T")
_RETRY_STATUS = {408, 409, 429}
_FATAL_STATUS = {401, 402, 403, 404}
_OVERLOAD = {"http_429", "http_503", "timeout"}
#: The code of an answer by another model than the one that was asked.
WRONG_MODEL = "wrong_model"
#: What providers add to the name of a model to say which version or deployment of it answered.
_VERSION = re.compile(r"-(\d{4}-\d\d-\d\d|\d{3,8})(-preview)?|[@:].+")
#: The longest message of a provider that is kept, in characters.
_LONGEST = 300
_NEVER_FREE = {"insufficient_quota", "billing_hard_limit_reached"}
_GOES_ON = "nothing was spent by that refusal, and the same command goes on from here"


def api_key(name: str, provider: Provider) -> str:
    """The provider's key from its environment variable; endpoints that declare none get a placeholder.

    Raises
    ------
    ArenaError
        Where the variable is not set: it names the variable, never a value.
    """
    if not provider.api_key_env:
        return "none"
    key = os.environ.get(provider.api_key_env, "").strip()
    if not key:
        raise ArenaError(f"providers.{name}: environment variable {provider.api_key_env} is not set")
    return key


def classify(error: Exception) -> CallError:
    """Turn an SDK exception into a typed outcome."""
    # The aiohttp transport reports a refused connection as a connect time-out.
    if isinstance(error, openai.APITimeoutError) and type(error.__cause__).__name__ == "ConnectTimeout":
        return CallError("retry", "connection", one_line(error.__cause__))
    if isinstance(error, openai.APITimeoutError):
        return CallError("retry", "timeout", "no answer within the time limit")
    if isinstance(error, openai.APIConnectionError):
        return CallError("retry", "connection", one_line(error.__cause__ or error))
    if isinstance(error, openai.APIStatusError):
        return classify_status(error.status_code, error.body, error.message, _retry_after(error))
    if isinstance(error, httpx2.TransportError):  # a download that breaks off is not wrapped by the SDK
        return CallError("retry", "connection", one_line(error))
    if isinstance(error, orjson.JSONDecodeError):
        return CallError("retry", "malformed_json", one_line(error))
    raise error


def classify_status(status: int, body: object, message: str = "", retry_after: float | None = None) -> CallError:
    """Turn a refusal into a typed outcome. `body` is the answer's ``error`` object; `message` stands in for its own."""
    body = body if isinstance(body, dict) else {}
    codes = [str(body[key]) for key in ("code", "type") if body.get(key)]
    message = one_line(body.get("message") or message)
    for code in _NEVER_FREE.intersection(codes):
        return CallError("fatal", code, message)
    if status in _RETRY_STATUS or status >= 500:
        return CallError("retry", f"http_{status}", message, retry_after)
    if status in _FATAL_STATUS:
        return CallError("fatal", f"http_{status}", message)
    return CallError("permanent", codes[0] if codes else f"http_{status}", message)


def _retry_after(error: openai.APIStatusError) -> float | None:
    """Seconds to wait: the header holds them, or a date (RFC 9110, section 10.2.3)."""
    told = error.response.headers.get("retry-after", "")
    try:
        return max(float(told), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(told).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _wait(state: tenacity.RetryCallState) -> float:
    """Exponential back-off with jitter, but never sooner than the server's Retry-After."""
    error = state.outcome.exception() if state.outcome else None
    backoff = tenacity.wait_random_exponential(multiplier=0.5, max=60)(state)
    return max(backoff, getattr(error, "retry_after", None) or 0.0)


_JSON = openai.RequestOptions(headers={"Content-Type": "application/json"})


class Endpoint:
    """One provider: shared connections, pace, retries, decoded answers.

    Methods return the answer as a plain dict (building the SDK's request and answer objects costs most of the time of
    a scoring call) and raise `CallError`; kinds ``permanent``, ``invalid`` and an exhausted ``retry`` become error
    rows.
    """

    def __init__(self, name: str, provider: Provider, base_url: str, stopped: asyncio.Event | None = None):
        self.name, self.provider, self.base_url = name, provider, base_url
        self._stopped = stopped or asyncio.Event()
        self.limits = Limits(provider, self._stopped)
        self._key = api_key(name, provider)
        self.client = openai.AsyncOpenAI(
            api_key=self._key,
            base_url=base_url,
            max_retries=0,
            timeout=provider.timeout_seconds,
            http_client=openai.DefaultAioHttpClient(timeout=provider.timeout_seconds),
        )

    async def close(self) -> None:
        await self.client.close()

    async def send(self, request: Request) -> dict[str, Any]:
        """The checked answer to a request: an object, from the model that was asked."""
        answer = await self.retrying(self._decoded, self._post, request)
        check_model(request.body["model"], answer)
        return answer

    async def models(self) -> list[str]:
        """Ids of the models the endpoint serves; gives up sooner than a measurement would."""
        answer = await self.retrying(self._decoded, self._models, attempts=2)
        try:
            return [str(entry["id"]) for entry in answer["data"]]
        except (KeyError, TypeError) as error:
            raise invalid("malformed_answer", "the list of models has no ids") from error

    async def _post(self, request: Request) -> httpx2.Response:
        await self.limits.pace(request)
        content = orjson.dumps(request.body)
        return await self.client.post(request.path, cast_to=httpx2.Response, content=content, options=_JSON)

    async def _models(self) -> httpx2.Response:
        return await self.client.get("/models", cast_to=httpx2.Response)

    async def retrying(self, call: Callable[..., Awaitable[T]], *args: Any, attempts: int | None = None) -> T:
        """What `call(*args)` returns, a coroutine function that uses the SDK's `client`; transient failures are tried
        again. Raises CallError."""
        most = min(attempts or self.provider.max_attempts, self.provider.max_attempts)
        failed: list[CallError] = []
        try:
            return await self._typed(call, *args)
        except CallError as error:
            if error.kind != "retry" or most == 1:
                raise
            failed.append(error)

        async def attempt() -> T:
            """The first attempt is behind us: most requests never need the retry machinery, which takes time."""
            if failed:
                raise failed.pop()
            return await self._typed(call, *args)

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(lambda e: isinstance(e, CallError) and e.kind == "retry"),
            stop=tenacity.stop_after_attempt(most),
            wait=_wait,
            sleep=self._pause,
            reraise=True,
        )
        return await retrying(attempt)

    async def _pause(self, seconds: float) -> None:
        """Wait before another attempt. Raises Stopped where the collection stops meanwhile."""
        if await happens_within(self._stopped, seconds):
            raise Stopped

    def redacted(self, message: str) -> str:
        """What a provider says, without the key that some quote, so that it comes neither into the store nor into a
        message; shortened after that, for a part of a key is still a secret."""
        if self.provider.api_key_env:
            message = message.replace(self._key, f"<{self.provider.api_key_env}>")
        return message[:_LONGEST]

    def without_key(self, error: CallError) -> CallError:
        """The same error, its detail `redacted`."""
        return CallError(error.kind, self.redacted(error.code), self.redacted(error.detail), error.retry_after)

    def advice(self, error: CallError, job: str = "") -> str:
        """What to do about an error of a job that every request would share, to put behind it; empty where nothing is
        known."""
        env, where = self.provider.api_key_env, f"providers.{self.name}"
        cannot_score = f"where it cannot score, leave echo_logprobs out of {where}.capabilities"
        match error.code:
            case "http_401" | "http_403" if not env:
                return f"; {where} names no api_key_env, and the endpoint wants a key: {_GOES_ON}"
            case "http_401":
                return f"; the endpoint does not accept the key in {env}: put another into that variable; {_GOES_ON}"
            case "http_403":
                return f"; the endpoint does not allow this to the key in {env}: mend that; {_GOES_ON}"
            case "http_402" | "insufficient_quota" | "billing_hard_limit_reached":
                return f"; the account of {where} has no credit left: {_GOES_ON}"
            case "http_404":
                scoring = f"; {cannot_score}" if job in (LOGPROBS, SHUFFLED) else ""
                return f" ({self.base_url}: is that the whole base_url? most end in /v1{scoring})"
            case "connection" | "timeout":
                return (
                    f"; is the endpoint at work, and {self.base_url} its base_url? The same command goes on from here"
                )
            case echo.IGNORED:
                return f"; {cannot_score}: estimates then rest on fresh responses, judge and labels"
        return ""

    async def _typed(self, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        try:
            result = await call(*args)
        except (openai.APIError, orjson.JSONDecodeError, httpx2.TransportError) as problem:
            error = self.without_key(classify(problem))
            if error.code in _OVERLOAD:
                self.limits.overloaded(error.retry_after)
            raise error from None
        self.limits.succeeded()
        return result

    @staticmethod
    async def _decoded(call: Callable[..., Awaitable[httpx2.Response]], *args: Any) -> dict[str, Any]:
        return checked(orjson.loads((await call(*args)).content))


def checked(answer: Any) -> dict[str, Any]:
    """An answer whose frame is what every caller relies on: an object, not an error, its model a name, its usage
    counts.

    Raises CallError: as `classify_status` for an error that comes as an answer (some gateways do), else ``invalid``.
    """
    if not isinstance(answer, dict):
        raise invalid("not_an_object", f"the answer is a JSON {type(answer).__name__}, not an object")
    error = answer.get("error")
    if isinstance(error, dict) and not answer.get("choices"):
        code = error.get("code")
        raise classify_status(code if isinstance(code, int) and 400 <= code < 600 else 400, error)
    for key in ("model", "system_fingerprint"):
        if not isinstance(answer.get(key), str | None):
            raise invalid("malformed_answer", f"{key} is a JSON {type(answer[key]).__name__}, not text")
    usage = answer.get("usage")
    counts = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else [usage]
    if any(type(count) not in (int, type(None)) for count in counts):
        raise invalid("malformed_answer", "usage does not count tokens")
    return answer


def check_model(asked: str, answer: dict[str, Any]) -> None:
    """Refuse an answer by another model. Providers may add a version to the name (`gpt-x` as `gpt-x-2026-01-31`, also
    in place of `-latest`) or leave out the owner's path; `gpt-x-mini` is another model.

    Raises CallError with code ``wrong_model``.
    """
    told = answer.get("model")
    if not told:
        return
    name, wanted = (full.lower().rsplit("/", 1)[-1] for full in (told, asked))
    stem = wanted.removesuffix("-latest")
    if name != wanted and not (name.startswith(stem) and _VERSION.fullmatch(name[len(stem) :])):
        raise invalid(WRONG_MODEL, f"asked {asked}, the answer is from {told}")


def answered_by(answers: list[dict[str, Any]]) -> str | None:
    """Who answered: the model's name with the provider's fingerprint of its deployment, where it gives one."""
    names = [" ".join(filter(None, (a.get("model"), a.get("system_fingerprint")))) for a in answers]
    return next(filter(None, names), None)


@contextmanager
def serving(params: Params, names: set[str]) -> Iterator[dict[str, str]]:
    """Addresses of the named providers for the length of the block; the embedded model's server is started and stopped.

    Yields a dict provider name -> base URL.
    """
    urls = {name: url for name in names if (url := params.providers[name].base_url)}
    embedded = [name for name in names if params.providers[name].kind == "embedded" and name not in urls]
    if not embedded:
        yield urls
        return
    from arena10k.local_server import running

    with running(log=paths.server_log(params.run)) as base_url:
        yield urls | dict.fromkeys(embedded, f"{base_url}/v1")
