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


def chat_answer(
    vocabulary: Vocabulary, body: ChatRequest, prompt: list[int], choices: list[list[Sequence]]
) -> dict[str, Any]:
    """A chat completion; each choice is one sequence, or the alternatives of one next token, most probable first."""

    def entry(token: int, logprob: float | None) -> dict[str, Any]:
        return {"token": vocabulary.name(token), "logprob": logprob, "bytes": list(vocabulary.bytes_of([token]))}

    answers = []
    for alternatives in choices:
        chosen = alternatives[0]
        answer: dict[str, Any] = {
            "message": {"role": "assistant", "content": vocabulary.text(chosen.ids)},
            "finish_reason": _finish_reason(vocabulary, chosen.ids),
            "logprobs": None,
        }
        if body.logprobs:
            top = [entry(a.ids[0], a.logprobs[0]) for a in alternatives] if body.top_logprobs else []
            pairs = zip(chosen.ids, chosen.logprobs, strict=True)
            content = [entry(*pair) | {"top_logprobs": top} for pair in pairs]
            answer["logprobs"] = {"content": content, "refusal": None}
        if body.return_token_ids:
            answer["token_ids"] = chosen.ids
        answers.append(answer)
    ids = {"prompt_token_ids": prompt} if body.return_token_ids else {}
    generated = sum(len(alternatives[0].ids) for alternatives in choices)
    return _envelope("chat.completion", body.model, answers, len(prompt), generated) | ids


def completion_answer(
    vocabulary: Vocabulary, body: CompletionRequest, prompt: list[int], choices: list[list[Sequence]]
) -> dict[str, Any]:
    """A text completion; with `echo`, sequences begin with the prompt, whose first position has no log-prob (null)."""
    echoed = len(prompt) if body.echo else 0
    answers = []
    for alternatives in choices:
        chosen = alternatives[0]
        answer: dict[str, Any] = {
            "text": vocabulary.text(chosen.ids),
            "finish_reason": _finish_reason(vocabulary, chosen.ids[echoed:]),
            "logprobs": None,
        }
        if body.logprobs is not None:
            top = {vocabulary.name(a.ids[0]): a.logprobs[0] for a in alternatives}
            answer["logprobs"] = {
                "tokens": [vocabulary.name(token) for token in chosen.ids],
                "token_logprobs": [None, *chosen.logprobs[1:]] if body.echo else chosen.logprobs,
                "top_logprobs": [top] if len(alternatives) > 1 else None,
                "text_offset": vocabulary.offsets(chosen.ids),
            }
        if body.return_token_ids:
            answer |= {"prompt_token_ids": prompt, "token_ids": chosen.ids[echoed:]}
        answers.append(answer)
    generated = sum(len(alternatives[0].ids) - echoed for alternatives in choices)
    return _envelope("text_completion", body.model, answers, len(prompt), generated)


def _finish_reason(vocabulary: Vocabulary, generated: list[int]) -> str:
    return "stop" if generated and generated[-1] == vocabulary.eos else "length"


def _envelope(kind: str, model: str, choices: list[dict[str, Any]], prompt: int, generated: int) -> dict[str, Any]:
    return {
        "id": f"{'chatcmpl' if kind == 'chat.completion' else 'cmpl'}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": index} | choice for index, choice in enumerate(choices)],
        "usage": {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated},
    }
