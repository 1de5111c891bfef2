"""The answers, in the shapes of the OpenAI API, with vLLM's token ids where `return_token_ids` asks for them."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from arena10k.local_server.engine import Sequence as Tokens
from arena10k.local_server.requests import ChatRequest, CompletionRequest
from arena10k.local_server.template import Vocabulary


def error(message: str, kind: str, status: int, param: str | None = None, code: str | None = None) -> web.Response:
    """An error in OpenAI's shape."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return web.json_response(body, status=status)


def model_list(names: Sequence[str], context_length: int) -> dict[str, Any]:
    """The answer of /v1/models."""
    card = {"object": "model", "created": 0, "owned_by": "arena10k", "max_model_len": context_length}
    return {"object": "list", "data": [{"id": name, **card} for name in names]}


def chat(vocabulary: Vocabulary, body: ChatRequest, prompt: list[int], choices: list[list[Tokens]]) -> dict[str, Any]:
    """A chat completion; each choice is one sequence, or the alternatives of one next token, most probable first."""
    answers = []
    for index, alternatives in enumerate(choices):
        chosen = alternatives[0]
        answer = {
            "index": index,
            "message": {"role": "assistant", "content": vocabulary.text(chosen.ids)},
            "finish_reason": _finish_reason(vocabulary, chosen.ids),
            "logprobs": None,
        }
        if body.logprobs:
            content = [_chat_entry(vocabulary, *pair) for pair in zip(chosen.ids, chosen.logprobs, strict=True)]
            for entry in content:
                entry["top_logprobs"] = _chat_top(vocabulary, alternatives) if body.top_logprobs else []
            answer["logprobs"] = {"content": content, "refusal": None}
        if body.return_token_ids:
            answer["token_ids"] = chosen.ids
        answers.append(answer)
    ids = {"prompt_token_ids": prompt} if body.return_token_ids else {}
    generated = sum(len(alternatives[0].ids) for alternatives in choices)
    return _envelope("chat.completion", "chatcmpl", body.model, answers, len(prompt), generated) | ids


def completion(
    vocabulary: Vocabulary, body: CompletionRequest, prompt: list[int], choices: list[list[Tokens]]
) -> dict[str, Any]:
    """A text completion; with `echo`, sequences begin with the prompt, whose first position has no log-prob (null)."""
    echoed = len(prompt) if body.echo else 0
    answers = []
    for index, alternatives in enumerate(choices):
        shown = alternatives[0]
        answer = {
            "index": index,
            "text": vocabulary.text(shown.ids),
            "finish_reason": _finish_reason(vocabulary, shown.ids[echoed:]),
            "logprobs": None,
        }
        if body.logprobs is not None:
            top = {vocabulary.name(one.ids[0]): one.logprobs[0] for one in alternatives}
            answer["logprobs"] = {
                "tokens": [vocabulary.name(token) for token in shown.ids],
                "token_logprobs": [None, *shown.logprobs[1:]] if body.echo else shown.logprobs,
                "top_logprobs": [top] if len(alternatives) > 1 else None,
                "text_offset": vocabulary.offsets(shown.ids),
            }
        if body.return_token_ids:
            answer |= {"prompt_token_ids": prompt, "token_ids": shown.ids[echoed:]}
        answers.append(answer)
    generated = sum(len(alternatives[0].ids) - echoed for alternatives in choices)
    return _envelope("text_completion", "cmpl", body.model, answers, len(prompt), generated)


def _finish_reason(vocabulary: Vocabulary, generated: list[int]) -> str:
    return "stop" if generated and generated[-1] == vocabulary.eos else "length"


def _chat_entry(vocabulary: Vocabulary, token: int, logprob: float | None) -> dict[str, Any]:
    return {"token": vocabulary.name(token), "logprob": logprob, "bytes": list(vocabulary.bytes_of([token]))}


def _chat_top(vocabulary: Vocabulary, alternatives: list[Tokens]) -> list[dict[str, Any]]:
    return [_chat_entry(vocabulary, one.ids[0], one.logprobs[0]) for one in alternatives]


def _envelope(
    kind: str, prefix: str, model: str, choices: list[dict[str, Any]], prompt: int, generated: int
) -> dict[str, Any]:
    usage = {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "choices": choices,
        "usage": usage,
    }
