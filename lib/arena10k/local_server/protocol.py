"""What the endpoint accepts and answers: the OpenAI API, with vLLM's token ids where `return_token_ids` asks for them.

Requests are models that refuse everything else by name.
"""

import json
import time
import uuid
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError, model_validator

from arena10k.local_server.engine import Sequence
from arena10k.local_server.model import Vocabulary

MAX_CHOICES = 128
MAX_TOP = 20  # next-token alternatives, as in the OpenAI API

# Parameters clients send by default, in the only value that changes nothing here.
NEUTRAL = {
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "best_of": (1,),
    "stream": (False,),
    "store": (False,),
    "skip_special_tokens": (True,),
    "add_special_tokens": (False,),
    "response_format": ({"type": "text"},),
}
IGNORED = ("user", "metadata")  # neither changes an answer

Request = TypeVar("Request", bound=BaseModel)


class BadRequest(Exception):
    """A request the server cannot answer exactly: message, parameter at fault, OpenAI error code, HTTP status."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400):
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Message(_Strict):
    role: Literal["system", "user", "assistant"]
    content: StrictStr


Messages = Annotated[tuple[Message, ...], Field(min_length=1)]
TokenIds = tuple[Annotated[StrictInt, Field(ge=0)], ...]


class _Sampling(_Strict):
    model: StrictStr
    temperature: Literal[0, 1] = 1
    seed: Annotated[StrictInt, Field(ge=0, lt=2**32)] | None = None
    n: Annotated[StrictInt, Field(ge=1, le=MAX_CHOICES)] = 1
    return_token_ids: StrictBool = False

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, data: dict[str, Any]) -> dict[str, Any]:
        for name, allowed in NEUTRAL.items():
            if data.get(name) is not None and data[name] not in allowed:
                values = " or ".join(map(json.dumps, allowed))
                raise BadRequest(f"{name} must be {values}: nothing but the model's own distribution is sampled", name)
        if data.get("temperature") not in (None, 0, 1):
            raise BadRequest(
                "temperature must be 1 (sample) or 0 (greedy); the temperature is part of the weights: "
                "use a model such as smollm2-135m-t0.6",
                "temperature",
            )
        dropped = {*NEUTRAL, *IGNORED}
        cleaned = {name: value for name, value in data.items() if value is not None and name not in dropped}
        if "temperature" in cleaned:
            cleaned["temperature"] = int(cleaned["temperature"])
        return cleaned


class ChatRequest(_Sampling):
    messages: Messages
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    logprobs: StrictBool = False
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_TOP)] = 0
    add_generation_prompt: StrictBool = True


class CompletionRequest(_Sampling):
    prompt: StrictStr | TokenIds
    max_tokens: Annotated[StrictInt, Field(ge=0)] = 16
    echo: StrictBool = False
    # Ours: log-probs before this position are not needed, so that a prefix shared with other requests is computed once.
    echo_from: Annotated[StrictInt, Field(ge=0)] = 0
    logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_TOP)] | None = None


class TokenizeRequest(_Strict):
    model: StrictStr
    prompt: StrictStr | None = None
    messages: Messages | None = None
    add_generation_prompt: StrictBool = True
    add_special_tokens: Literal[False] = False


def parse(body: bytes, schema: type[Request]) -> Request:
    """Read a JSON body. Raises BadRequest naming the parameter at fault."""
    try:
        data = json.loads(body)
    except ValueError as error:  # json.JSONDecodeError, UnicodeDecodeError
        raise BadRequest(f"the body is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise BadRequest("the body must be a JSON object")
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        param = str(first["loc"][0]) if first["loc"] else None
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            raise BadRequest(f"{param} is not supported", param) from error
        where = ".".join(map(str, first["loc"]))
        raise BadRequest(f"{where}: {first['msg']}", param) from error


def answer(
    vocabulary: Vocabulary, body: ChatRequest | CompletionRequest, prompt: list[int], choices: list[list[Sequence]]
) -> dict[str, Any]:
    """A chat or text completion; each choice is one sequence, or the alternatives of one next token, most probable
    first. With `echo`, sequences begin with the prompt, whose first position has no log-prob (null)."""
    chat = isinstance(body, ChatRequest)
    echoed = len(prompt) if isinstance(body, CompletionRequest) and body.echo else 0
    answers: list[dict[str, Any]] = []
    for index, alternatives in enumerate(choices):
        chosen, text = alternatives[0], vocabulary.text(alternatives[0].ids)
        new = chosen.ids[echoed:]
        made: dict[str, Any] = {
            "index": index,
            **({"message": {"role": "assistant", "content": text}} if chat else {"text": text}),
            "finish_reason": "stop" if new and new[-1] == vocabulary.eos else "length",
            "logprobs": (_chat_logprobs if chat else _text_logprobs)(vocabulary, body, alternatives),
        }
        if body.return_token_ids:
            made |= {"token_ids": new} if chat else {"prompt_token_ids": prompt, "token_ids": new}
        answers.append(made)
    generated = sum(len(alternatives[0].ids) - echoed for alternatives in choices)
    return {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
        "object": "chat.completion" if chat else "text_completion",
        "created": int(time.time()),
        "model": body.model,
        "choices": answers,
        "usage": {
            "prompt_tokens": len(prompt),
            "completion_tokens": generated,
            "total_tokens": len(prompt) + generated,
        },
        **({"prompt_token_ids": prompt} if chat and body.return_token_ids else {}),
    }


def _chat_logprobs(vocabulary: Vocabulary, body: Any, alternatives: list[Sequence]) -> dict[str, Any] | None:
    def entry(token: int, logprob: float | None) -> dict[str, Any]:
        return {"token": vocabulary.name(token), "logprob": logprob, "bytes": list(vocabulary.bytes_of([token]))}

    if not body.logprobs:
        return None
    top = [entry(a.ids[0], a.logprobs[0]) for a in alternatives] if body.top_logprobs else []
    pairs = zip(alternatives[0].ids, alternatives[0].logprobs, strict=True)
    return {"content": [entry(*pair) | {"top_logprobs": top} for pair in pairs], "refusal": None}


def _text_logprobs(vocabulary: Vocabulary, body: Any, alternatives: list[Sequence]) -> dict[str, Any] | None:
    if body.logprobs is None:
        return None
    chosen, top = alternatives[0], {vocabulary.name(a.ids[0]): a.logprobs[0] for a in alternatives}
    return {
        "tokens": [vocabulary.name(token) for token in chosen.ids],
        "token_logprobs": [None, *chosen.logprobs[1:]] if body.echo else chosen.logprobs,
        "top_logprobs": [top] if len(alternatives) > 1 else None,
        "text_offset": vocabulary.offsets(chosen.ids),
    }
