"""What an answer says, read strictly: the frame that all answers share, and a response in each shape that gives one.

There is one reader per shape: of chats and completions here, of echoes in `echo`, of ratings in `judge`. All raise
CallError; of kind ``invalid``, with the code of the check that failed, where an answer is no measurement.
"""

from __future__ import annotations

import re
from typing import Any

from arena10k.collection.echo import FLOOR_PER_TOKEN, FULL, check_logprobs, generated, mass, only_choice, token_bytes
from arena10k.collection.tasks import Measurement
from arena10k.errors import CallError, invalid, one_line
from arena10k.inputs.chat_templates import ChatTemplate

#: What is kept of an answer that ended by itself; of one that was cut off it is ``length``.
ENDED = ("stop", "eos")
#: What endpoints say, in lower case, of the one and the other.
_SAYS_ENDED = {*ENDED, "eos_token", "end_turn", "stop_sequence", "stop_token", "end_of_text", "complete", "completed"}
_SAYS_CUT = {"length", "max_tokens", "max_output_tokens", "token_limit", "max_length"}
_CONTEXT = re.compile(
    r"context[ _](length|window|size)|exceed_context_size|max_model_len|(maximum model|input) length"
    r"|too many (input|prompt) tokens|reduce the length of"
    r"|(?<![\w-])(inputs?|prompt|tokens?)\b(?! log)[^.]{0,60}\b(too (long|large|many)|exceeds?|(longer|less) than)\b"
    r"|(?<![\w-])(inputs?|prompt)\b[^.]{0,20}tokens\b[^.]{0,60}<=",
    re.IGNORECASE,
)
_FILTER = re.compile(
    r"content[ _](filter|management)|ResponsibleAI|requires moderation|(input|prompt) was flagged", re.IGNORECASE
)
_THINKING = re.compile(r"\s*<think(?:ing)?>(.*?)</think(?:ing)?>\s*", re.DOTALL)
_UNFINISHED = re.compile(r"\s*<think(?:ing)?>(?!.*</think)", re.DOTALL)
#: The kinds of parts of a message that are its text.
_TEXT_PARTS = ("text", "output_text")
#: An empty text may have taken so many tokens: an end, blanks.
FEW_UNSEEN = 4
#: Of so many tokens of a response the candidates are kept.
AUDITED = 64
#: Codes of responses that would do without the log-probs of what was generated.
OF_LOGPROBS = ("ids_mismatch", "null_in_response", "not_finite", "positive", "below_floor")
#: The code of an answer by another model than the one that was asked.
WRONG_MODEL = "wrong_model"
_RETRY_STATUS = {408, 409, 429}
#: What an error that passes is called where its status is not given.
_PASSING = re.compile("rate.?limit|overload|unavailable|server.error|timeout", re.IGNORECASE)
_FATAL_STATUS = {401, 402, 403, 404}
_NEVER_FREE = {"insufficient_quota", "billing_hard_limit_reached"}
#: What providers add to the name of a model to say which version or deployment of it answered.
_VERSION = re.compile(r"-(\d{4}-\d\d-\d\d|\d{3,8})(-preview)?|[@:].+")


def classify_status(status: int, body: object, message: str = "", retry_after: float | None = None) -> CallError:
    """Turn a refusal into a typed outcome. `body` is the answer's ``error`` object, also in a list (Gemini), or what
    stands in its place; `message` stands in for its own."""
    body = body[0] if isinstance(body, list) and body else body
    body = {"message": body} if isinstance(body, str) and not body.startswith("<") else body
    body = body.get("error", body) if isinstance(body, dict) else {}
    body = body if isinstance(body, dict) else {"message": body}
    # Gateways write the status, or None, where a code belongs.
    codes = [str(body[key]) for key in ("code", "type") if body.get(key)]
    codes = [code for code in codes if not code.isdigit() and code != "None"]
    message = one_line(body.get("message") or body.get("detail") or body.get("errors") or message)
    if (field := body.get("param")) and str(field) not in (message, "None") and str(field) not in message:
        message = f"{message} (param: {field})"
    for code in _NEVER_FREE.intersection(codes):
        return CallError("fatal", code, message)
    if status in _RETRY_STATUS or status >= 500:
        return CallError("retry", f"http_{status}", message, retry_after)
    said = " ".join([*codes, message])
    # A 403 may be about the one prompt (OpenRouter's moderation) and not about the key.
    if status in _FATAL_STATUS and not (status == 403 and _FILTER.search(said)):
        return CallError("fatal", f"http_{status}", message)
    for code, pattern in (("context_length", _CONTEXT), ("content_filter", _FILTER)):
        if pattern.search(said):
            return CallError("permanent", code, message)
    return CallError("permanent", codes[0] if codes else f"http_{status}", message)


def checked(answer: Any) -> dict[str, Any]:
    """An answer whose frame is what every reader relies on: an object, not an error (some gateways send one as an
    answer: it is taken as `classify_status` does), its model a name, its usage counts."""
    if not isinstance(answer, dict):
        raise invalid("not_an_object", f"the answer is a JSON {type(answer).__name__}, not an object")
    choices = answer.get("choices")
    # Of an answer that broke off the error stands within the choice (OpenRouter).
    within = choices[0] if isinstance(choices, list) and choices else {}
    error = answer if answer.get("object") == "error" else answer.get("error")
    error = error or (within.get("error") if isinstance(within, dict) else None)
    body = error if isinstance(error, dict) else {"message": error}
    if any(body.values()):
        said = f"{body.get('code')} {body.get('type')}"
        status = re.match("[45][0-9][0-9]\\b", said) or ("503" if _PASSING.search(said) else "400",)
        raise classify_status(int(status[0]), body)
    for key in ("model", "system_fingerprint"):
        if not isinstance(answer.get(key), str | None):
            raise invalid("malformed_answer", f"{key} is a JSON {type(answer[key]).__name__}, not text")
    usage = answer.get("usage")
    counts = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else [usage]
    if any(type(count) not in (int, type(None)) for count in counts):
        raise invalid("malformed_answer", "usage does not count tokens")
    return answer


def check_model(asked: str, answer: dict[str, Any]) -> None:
    """Refuse an answer by another model (`WRONG_MODEL`). Providers may add a version to the name (`gpt-x` as
    `gpt-x-2026-01-31`, also in place of `-latest`) or leave out the owner's path; `gpt-x-mini` is another model."""
    answering = answer.get("model")
    if answering:
        name, wanted = (full.lower().rsplit("/", 1)[-1] for full in (answering, asked))
        stem = wanted.removesuffix("-latest")
        if name != wanted and not (name.startswith(stem) and _VERSION.fullmatch(name[len(stem) :])):
            raise invalid(WRONG_MODEL, f"asked {asked}, the answer is from {answering}")


def answered_by(answers: list[dict[str, Any]]) -> str | None:
    """Who answered: the model's name with the provider's fingerprint of its deployment, where it gives one."""
    names = [" ".join(filter(None, (a.get("model"), a.get("system_fingerprint")))) for a in answers]
    return next(filter(None, names), None)


def chat_response(answers: list[dict[str, Any]], token_ids: bool) -> Measurement:
    """The response in a chat answer (the only one): its text is never stripped and may be empty. Of an endpoint that
    is declared to return `token_ids`, they are checked and kept."""
    (answer,) = answers
    choice = only_choice(answer)
    text, reasoning = _spoken(answer, choice)
    payload: dict[str, Any] = {"finish_reason": _finish_reason(choice)}
    payload |= {"reasoning": reasoning} if reasoning else {}
    tokens, values, tops = generated(choice)
    if values:  # an empty list says nothing of a text
        payload["token_logprobs"] = _drawn(values)
        payload |= _candidates(tokens or [], payload["token_logprobs"], tops)
    if not token_ids:
        return Measurement(text, payload)
    prompt_ids = answer.get("prompt_token_ids") or choice.get("prompt_token_ids")
    # vLLM and others; SGLang; LiteLLM in front of either.
    more = choice.get("provider_specific_fields") or {}
    places = (choice.get("token_ids"), choice.get("response_token_ids"), more.get("token_ids"))
    ids = next(filter(None, places), places[0])
    counted = (answer.get("usage") or {}).get("prompt_tokens")
    if not prompt_ids or ids is None:
        raise invalid("no_token_ids", "the endpoint is declared to return token ids and did not")
    if {*map(type, prompt_ids), *map(type, ids)} != {int} or min((*prompt_ids, *ids)) < 0:
        raise invalid("no_token_ids", "what stands for token ids are not whole numbers")
    if values and len(ids) != len(values):
        raise invalid("length_mismatch", f"{len(ids)} token ids with {len(values)} log-probs")
    if counted not in (None, len(prompt_ids)):
        raise invalid("length_mismatch", f"usage counts {counted} prompt tokens, got {len(prompt_ids)} ids")
    return Measurement(text, payload | {"prompt_token_ids": prompt_ids, "token_ids": ids})


def text_response(answers: list[dict[str, Any]], rendered: str, template: ChatTemplate) -> Measurement:
    """The response in an answer (the only one) to text that was rendered here, as it came.

    The rendered prompt is stored with it: it is what the response is scored after. `end_scored` says whether the
    log-probs include that of the end of the turn.
    """
    (answer,) = answers
    choice = only_choice(answer)
    text, reason = choice.get("text"), _finish_reason(choice)
    if not isinstance(text, str):
        raise invalid("no_text", "the answer has no text")
    if token := template.control_token(text):
        raise invalid("control_token_in_text", f"the response holds {token}: in text it cannot be scored as what it is")
    payload: dict[str, Any] = {"finish_reason": reason, "prompt_text": rendered}
    tokens, values, tops = generated(choice)
    if not values or not tokens or any("\ufffd" in token for token in tokens):
        return Measurement(text, payload)
    spelled = b"".join(token_bytes(tokens))
    if spelled not in (text.encode(), (text + template.end_of_turn).encode()):
        raise invalid("ids_mismatch", "the generated tokens do not spell the response: its text was changed")
    # An end of turn that is not shown is a last token without text.
    ended = reason != "length" and (spelled != text.encode() or (bool(tokens) and not tokens[-1]))
    payload |= {"token_logprobs": _drawn(values), "end_scored": ended}
    return Measurement(text, payload | _candidates(tokens, payload["token_logprobs"], tops))


def _drawn(values: list[Any]) -> list[float]:
    """Log-probs of tokens that were drawn: what is as good as impossible is none."""
    nats = check_logprobs(values)
    if min(nats) < FLOOR_PER_TOKEN:
        raise invalid("below_floor", f"a token that was drawn has log-prob {min(nats):g}")
    return nats


def _spoken(answer: dict[str, Any], choice: dict[str, Any]) -> tuple[str, str]:
    """What the message says, and what it says of its reasoning, which is not part of the response. An empty text is a
    response only where nothing else was said (see `_why_empty`)."""
    message, usage = choice.get("message") or {}, answer.get("usage") or {}
    content = message.get("content")
    if tools := message.get("tool_calls") or message.get("function_call"):
        raise invalid("no_text", f"the model called a tool: the text is not all that it said: {tools!r:.80}")
    elsewhere = [message.get(key) for key in ("reasoning_content", "reasoning", "thinking", "reasoning_details")]
    if isinstance(content, list) and content:
        kinds = [(str(part.get("type", "text")), part) for part in content]
        elsewhere += [part.get(kind) or part for kind, part in kinds if kind not in _TEXT_PARTS]
        content = "".join(part["text"] for kind, part in kinds if kind in _TEXT_PARTS)
    reasoning = "\n".join(said if isinstance(said, str) else repr(said) for said in elsewhere if said)
    if isinstance(content, str):
        if tagged := _THINKING.match(content):
            reasoning, content = reasoning or tagged[1].strip(), content[tagged.end() :]
        elif _UNFINISHED.match(content):
            reasoning, content = reasoning or content, ""
        elif "</think>" in content and "<think" not in content:
            detail = "start the server with its reasoning parser, or switch reasoning off (`extra_body`)"
            raise invalid("reasoning_unmarked", f"reasoning without its beginning: {detail}")
    details = usage.get("completion_tokens_details")
    counted = details if isinstance(details, dict) else usage  # SGLang counts them in usage itself
    if not reasoning and (thought := counted.get("reasoning_tokens")):
        reasoning = f"({thought} tokens that are not shown)"
    if not isinstance(content, str) or not content.strip():
        reason = _why_empty(choice, content, reasoning, usage.get("completion_tokens") or 0)
        if reason:
            raise reason
    return str(content), reasoning


def _why_empty(choice: dict[str, Any], content: Any, reasoning: str, generated_tokens: int) -> CallError | None:
    """Why an answer without a text is no response; None of one that is: blanks, or an end at once."""
    message, says = choice.get("message") or {}, _says(choice)
    if message.get("refusal"):
        return invalid("refused", one_line(message["refusal"]))
    shown = bool(choice.get("token_ids"))
    if reasoning or (says in _SAYS_CUT and not content and not shown):
        what = "the answer is not in its place"
        if says in _SAYS_CUT:
            what = "all of max_tokens went into it: raise max_tokens"
        detail = f"the text is empty, the model reasoned only; {what}: {reasoning[:80]!r}"
        return invalid("reasoning_only", detail)
    if not isinstance(content, str):
        return invalid("no_text", "the answer has no text content")
    if generated_tokens > FEW_UNSEEN and not (shown or choice.get("logprobs")):
        return invalid("no_text", f"the text is empty, of {generated_tokens} tokens that were generated")
    return None


def _says(choice: dict[str, Any]) -> str:
    """How the endpoint says that the answer ended, in lower case; a filter leaves a text that nobody said."""
    reason = choice.get("finish_reason")
    says = reason.lower() if isinstance(reason, str) else ""
    if says == "content_filter":
        raise invalid("content_filter", "the answer was filtered by the provider")
    return says


def _finish_reason(choice: dict[str, Any]) -> str:
    """By itself (`ENDED`) or at its length; whatever else it may say, nobody can tell what the text is."""
    says = _says(choice)
    if says in _SAYS_CUT:
        return "length"
    if says in _SAYS_ENDED:
        return says if says in ENDED else "stop"
    detail = f"finish_reason {choice.get('finish_reason')!r} does not say whether the response ended or was cut off"
    raise invalid("finish_reason", detail)


def _candidates(tokens: list[str], values: list[float], tops: list[dict[str, float]]) -> dict[str, Any]:
    """What an audit of the sampler needs, of the first `AUDITED` tokens: log-probs of the likeliest candidates, the
    place of the token that came (-1: none of them), and the places of those that the response held before.

    The least likely is left out: some servers (vLLM) put the token that came in its place where it is none of the
    likeliest, so that the list would depend on the draw.
    """
    rows, said = [], set[str]()
    for token, value, top in zip(tokens[:AUDITED], values, tops, strict=False):
        if not top or len(top) < 2 or not 0 < mass(top) <= FULL:
            return {}  # no distribution: nothing can be said of how it is drawn from
        likeliest = sorted(top.items(), key=lambda pair: -pair[1])[:-1]
        place = next((i for i, (name, nats) in enumerate(likeliest) if name == token and abs(nats - value) < 1e-3), -1)
        seen = [i for i, (name, _) in enumerate(likeliest) if name in said]
        rows.append([place, [round(nats, 4) for _, nats in likeliest], seen])
        said.add(token)
    return {"candidates": rows} if rows else {}


def batch_line(line: dict[str, Any]) -> dict[str, Any]:
    """The answer in a line of a batch's files, as a single request would have given it. Raises CallError."""
    response, error = line.get("response"), line.get("error")
    filled = {key: value for key, value in error.items() if value} if isinstance(error, dict) else {}
    if not isinstance(response, dict):
        raise classify_status(400, {"code": "batch_error"} | filled, str(error))
    body, status = response.get("body"), response.get("status_code", 200)
    if type(status) is not int:
        raise invalid("malformed_answer", f"status_code is {status!r}")
    if status != 200 or filled:
        raise classify_status(400 if status == 200 else status, filled if status == 200 else body or error, str(error))
    return checked(body)
