"""What an answer says, read strictly: the frame that all answers share, and a response in each shape that gives one.

There is one reader per shape: of chats and completions here, of echoes in `echo`, of ratings in `judge`. All raise
CallError; of kind ``invalid``, with the code of the check that failed, where an answer is no measurement.
"""

from __future__ import annotations

import re
from typing import Any

from arena10k.collection.echo import check_logprobs, only_choice, token_bytes
from arena10k.collection.tasks import Measurement
from arena10k.errors import CallError, invalid, one_line
from arena10k.inputs.chat_templates import ChatTemplate

#: What endpoints say of an answer that ended by itself; one that was cut off says ``length``.
ENDED = ("stop", "eos")
#: The code of an answer by another model than the one that was asked.
WRONG_MODEL = "wrong_model"
_RETRY_STATUS = {408, 409, 429}
_FATAL_STATUS = {401, 402, 403, 404}
_NEVER_FREE = {"insufficient_quota", "billing_hard_limit_reached"}
#: What providers add to the name of a model to say which version or deployment of it answered.
_VERSION = re.compile(r"-(\d{4}-\d\d-\d\d|\d{3,8})(-preview)?|[@:].+")


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


def checked(answer: Any) -> dict[str, Any]:
    """An answer whose frame is what every reader relies on: an object, not an error (some gateways send one as an
    answer: it is taken as `classify_status` does), its model a name, its usage counts."""
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
    text, reason = _ended(choice, (choice.get("message") or {}).get("content"))
    payload: dict[str, Any] = {"finish_reason": reason}
    entries = (choice.get("logprobs") or {}).get("content") or None  # an empty list says nothing of a text
    if entries is not None:
        payload["token_logprobs"] = check_logprobs([e.get("logprob") for e in entries])
    if not token_ids:
        return Measurement(text, payload)
    prompt_ids, ids = answer.get("prompt_token_ids"), choice.get("token_ids")
    counted = (answer.get("usage") or {}).get("prompt_tokens")
    if not prompt_ids or ids is None:
        raise invalid("no_token_ids", "the endpoint is declared to return token ids and did not")
    if any(type(i) is not int for i in (*prompt_ids, *ids)):
        raise invalid("no_token_ids", "what stands for token ids are not whole numbers")
    if entries is not None and len(ids) != len(entries):
        raise invalid("length_mismatch", f"{len(ids)} token ids with {len(entries)} log-probs")
    if counted != len(prompt_ids):
        raise invalid("length_mismatch", f"usage counts {counted} prompt tokens, got {len(prompt_ids)} ids")
    return Measurement(text, payload | {"prompt_token_ids": prompt_ids, "token_ids": ids})


def text_response(answers: list[dict[str, Any]], rendered: str, template: ChatTemplate) -> Measurement:
    """The response in an answer (the only one) to text that was rendered here, as it came.

    The rendered prompt is stored with it: it is what the response is scored after. `end_scored` says whether the
    log-probs include that of the end of the turn.
    """
    (answer,) = answers
    choice = only_choice(answer)
    text, reason = _ended(choice, choice.get("text"))
    if token := template.control_token(text):
        raise invalid("control_token_in_text", f"the response holds {token}: in text it cannot be scored as what it is")
    payload: dict[str, Any] = {"finish_reason": reason, "prompt_text": rendered}
    logprobs = choice.get("logprobs") or {}
    values, tokens = logprobs.get("token_logprobs"), logprobs.get("tokens")
    if values is None or tokens is None or any("\ufffd" in token for token in tokens):
        return Measurement(text, payload)
    if len(values) != len(tokens):
        raise invalid("length_mismatch", f"{len(tokens)} tokens with {len(values)} log-probs")
    spelled = b"".join(token_bytes(tokens))
    if spelled not in (text.encode(), (text + template.end_of_turn).encode()):
        raise invalid("ids_mismatch", "the generated tokens do not spell the response: its text was changed")
    # An end of turn that is not shown is a last token without text.
    ended = spelled != text.encode() or (bool(tokens) and not tokens[-1])
    return Measurement(text, payload | {"token_logprobs": check_logprobs(values), "end_scored": ended})


def _ended(choice: dict[str, Any], content: Any) -> tuple[str, str]:
    """The text, and how it ended: by itself or at its length; a filter, for one, leaves a text that nobody said."""
    if not isinstance(content, str):
        raise invalid("no_text", "the answer has no text content")
    reason = choice.get("finish_reason")
    if reason not in (*ENDED, "length"):
        detail = f"finish_reason {reason!r} does not say whether the response ended or was cut off"
        raise invalid("finish_reason", detail)
    return content, str(reason)
