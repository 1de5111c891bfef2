"""Requests to one OpenAI-compatible endpoint: the `openai` SDK in, a decoded JSON answer or a typed error out."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from typing import Any

import openai
import orjson
import tenacity

from arena10k import paths
from arena10k.config import Params, Provider
from arena10k.errors import ArenaError, CallError, invalid

_RETRY_STATUS = {408, 409, 429}
_FATAL_STATUS = {401, 403, 404}
_NEVER_FREE = {"insufficient_quota", "billing_hard_limit_reached"}


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
    """Turn an SDK exception into a typed outcome (COLLECTION section 3)."""
    # The aiohttp transport reports a refused connection as a connect time-out.
    if isinstance(error, openai.APITimeoutError) and type(error.__cause__).__name__ == "ConnectTimeout":
        return CallError("retry", "connection", _one_line(error.__cause__))
    if isinstance(error, openai.APITimeoutError):
        return CallError("retry", "timeout", "no answer within the time limit")
    if isinstance(error, openai.APIConnectionError):
        return CallError("retry", "connection", _one_line(error.__cause__ or error))
    if isinstance(error, openai.APIStatusError):
        return _classify_status(error)
    if isinstance(error, orjson.JSONDecodeError):
        return CallError("retry", "malformed_json", _one_line(error))
    raise error


def _classify_status(error: openai.APIStatusError) -> CallError:
    status, body = error.status_code, error.body if isinstance(error.body, dict) else {}
    code, message = str(body.get("code") or body.get("type") or ""), _one_line(body.get("message") or error.message)
    if code in _NEVER_FREE:
        return CallError("fatal", code, message)
    if status in _RETRY_STATUS or status >= 500:
        return CallError("retry", f"http_{status}", message, _retry_after(error))
    if status in _FATAL_STATUS:
        return CallError("fatal", f"http_{status}", message)
    return CallError("permanent", code or f"http_{status}", message)


def _retry_after(error: openai.APIStatusError) -> float | None:
    try:
        return min(max(float(error.response.headers.get("retry-after", "")), 0.0), 600.0)
    except ValueError:
        return None


def _one_line(message: object) -> str:
    return " ".join(str(message).split())[:300]


def _wait(state: tenacity.RetryCallState) -> float:
    """Exponential back-off with jitter, but never sooner than the server's Retry-After."""
    error = state.outcome.exception()
    backoff = tenacity.wait_random_exponential(multiplier=0.5, max=60)(state)
    return max(backoff, getattr(error, "retry_after", None) or 0.0)


class Endpoint:
    """One provider: shared connections, retries, decoded answers.

    Methods return the answer as a plain dict (the SDK's typed objects cost most of the time of a scoring call)
    and raise `CallError`; kinds ``permanent``, ``invalid`` and an exhausted ``retry`` become error rows.
    """

    def __init__(self, name: str, provider: Provider, base_url: str):
        self.name, self.provider, self.base_url = name, provider, base_url
        self._client = openai.AsyncOpenAI(
            api_key=api_key(name, provider),
            base_url=base_url,
            max_retries=0,
            timeout=provider.timeout_seconds,
            http_client=openai.DefaultAioHttpClient(timeout=provider.timeout_seconds),
        )

    async def close(self) -> None:
        await self._client.close()

    async def chat(self, **request: Any) -> dict[str, Any]:
        """POST /chat/completions; unknown fields go in `extra_body`."""
        return await self._send(self._client.chat.completions.with_raw_response.create, request)

    async def complete(self, **request: Any) -> dict[str, Any]:
        """POST /completions; `prompt` may be text or token ids."""
        return await self._send(self._client.completions.with_raw_response.create, request)

    async def models(self) -> list[str]:
        """Ids of the models the endpoint serves; gives up sooner than a measurement would."""
        answer = await self._send(self._client.models.with_raw_response.list, {}, attempts=2)
        return [entry["id"] for entry in answer.get("data", [])]

    async def _send(
        self, call: Callable[..., Awaitable[Any]], request: dict[str, Any], attempts: int | None = None
    ) -> dict[str, Any]:
        async def once() -> dict[str, Any]:
            try:
                raw = await call(**request)
                answer = orjson.loads(raw.http_response.content)
            except (openai.APIError, orjson.JSONDecodeError) as error:
                raise classify(error) from error
            if not isinstance(answer, dict):
                raise invalid("not_an_object", f"the answer is a JSON {type(answer).__name__}, not an object")
            return answer

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(lambda e: isinstance(e, CallError) and e.kind == "retry"),
            stop=tenacity.stop_after_attempt(min(attempts or self.provider.max_attempts, self.provider.max_attempts)),
            wait=_wait,
            reraise=True,
        )
        return await retrying(once)


@contextmanager
def serving(params: Params, names: set[str]):
    """Addresses of the named providers for the length of the block; the embedded model's server is started and stopped.

    Yields a dict provider name -> base URL.
    """
    urls = {name: params.providers[name].base_url for name in names}
    embedded = [name for name in names if params.providers[name].kind == "embedded" and not urls[name]]
    if not embedded:
        yield urls
        return
    from arena10k.local_server import running

    with running(log=paths.server_log(params.run)) as base_url:
        yield urls | dict.fromkeys(embedded, f"{base_url}/v1")
