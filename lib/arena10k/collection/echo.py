"""Reading log-probs from answers: which entries are the response's, and whether they can be measurements.

What is ambiguous is refused: no slice is ever guessed. All readers raise CallError (kind ``invalid``) with the code of
the first check that fails.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from arena10k.collection.tasks import Measurement
from arena10k.errors import invalid

#: Whole-sequence values that other software writes in place of a missing measurement.
SENTINELS = (-50.0, -100.0, -9999.0)
FLOOR_PER_TOKEN = -60.0
#: Nats. A certain token may come out this far above 0 by rounding.
CEILING = 1e-4
#: The code of an answer without the log-probs of what was sent.
IGNORED = "echo_ignored"
_RAW_BYTES = re.compile(r"bytes:((?:\\x[0-9a-f]{2})+)")


def only_choice(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer's choice (``no_choice`` where there is not exactly one)."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise invalid("no_choice", "the answer does not hold exactly one choice")
    return choices[0]


def generated(choice: dict[str, Any]) -> tuple[list[str] | None, list[Any] | None, list[dict[str, float]]]:
    """Tokens of what was generated, their log-probs and the candidates at each (token -> nats), each where it is there,
    of an answer in the shape of completions (in which Together gives chats too) or of chats (in which llama.cpp's
    server gives completions too)."""
    logprobs = choice.get("logprobs") or {}
    if (entries := logprobs.get("content")) is None:
        tokens, values = logprobs.get("tokens"), logprobs.get("token_logprobs")
        if tokens is not None and values is not None and len(tokens) != len(values):
            raise invalid("length_mismatch", f"{len(tokens)} tokens with {len(values)} log-probs")
        return tokens, values, logprobs.get("top_logprobs") or []
    tops = [{top["token"]: top["logprob"] for top in entry.get("top_logprobs") or ()} for entry in entries]
    return [entry.get("token") for entry in entries], [entry.get("logprob") for entry in entries], tops


def _with_prompt(answer: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    """The log-probs of an echo, where the prompt's stand in a block of their own (Together) put before the others."""
    logprobs, block = choice.get("logprobs"), answer.get("prompt")
    parts = [part.get("logprobs") for part in block if isinstance(part, dict)] if isinstance(block, list) else []
    if len(parts) != 1 or not isinstance(parts[0], dict):
        return logprobs if isinstance(logprobs, dict) else {}
    behind = logprobs if isinstance(logprobs, dict) else {}
    keys = ("tokens", "token_logprobs")
    return {key: [*(parts[0].get(key) or ()), *(behind.get(key) or ())] for key in keys}


def check_logprobs(values: list[Any]) -> list[float]:
    """Token log-probs as floats (nats): each present (``null_in_response``), finite (``not_finite``) and at most
    `CEILING` (``positive``)."""
    if any(v is None for v in values):
        raise invalid("null_in_response", f"token {values.index(None)} of {len(values)} has no log-prob")
    if any(isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v) for v in values):
        raise invalid("not_finite", "a token's log-prob is not a finite number")
    if any(v > CEILING for v in values):
        raise invalid("positive", f"a token's log-prob is {max(values):.4g}, above 0")
    return [float(v) for v in values]


def check_structure(tokens: list[float], total: float) -> None:
    """Refuse values that are finite but cannot be measurements: one value for every token, sentinels, impossible lows.

    A single certain token (0.0) is legitimate, several that are all exactly 0.0 are not: the decision is by structure,
    never by one value alone.
    """
    if len(set(tokens)) == 1 and (len(tokens) >= 4 or (len(tokens) >= 2 and tokens[0] == 0)):
        raise invalid("constant", f"all {len(tokens)} tokens have log-prob {tokens[0]:g}")
    if total in SENTINELS or (tokens and min(tokens) < FLOOR_PER_TOKEN):
        raise invalid("below_floor", f"sequence log-prob {total:g}, lowest token {min(tokens):g}")


def read_ids(answers: list[dict[str, Any]], prompt_ids: list[int], response_ids: list[int]) -> Measurement:
    """Check an echo answer (the only one) to token ids and sum the response's token log-probs (nats)."""
    n, m = len(prompt_ids), len(response_ids)
    if not m:
        raise invalid("empty_response", "no token to score: the response's end-of-sequence token was not recorded")
    (answer,) = answers
    choice = only_choice(answer)
    values = _entries(_with_prompt(answer, choice))
    echoed = choice.get("prompt_token_ids") or answer.get("prompt_token_ids")
    usage = answer.get("usage") or {}
    _check_counts(len(values), n + m, usage)
    if echoed is None and usage.get("prompt_tokens") is None:
        raise invalid("length_mismatch", "neither usage nor echoed ids say which entries are the prompt's")
    if echoed is not None and list(echoed) != prompt_ids + response_ids:
        raise invalid("ids_mismatch", "the echoed token ids are not the ones that were sent")
    return _measured(values[n : n + m], n)


def read_text(answers: list[dict[str, Any]], prompt: str, response: str, end: str) -> Measurement:
    """Check an echo answer (the only one) to `prompt + response + end` and sum what follows the prompt (nats).

    The boundaries must fall between two tokens: one that straddles them has a log-prob that is neither side's.
    """
    if not response + end:
        raise invalid("empty_response", "no token to score: the response is empty and has no end")
    (answer,) = answers
    choice = only_choice(answer)
    logprobs = _with_prompt(answer, choice)
    values = _entries(logprobs)
    tokens, offsets = logprobs.get("tokens"), logprobs.get("text_offset")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise invalid("ids_mismatch", "the answer has no tokens: the response cannot be located in it")
    # Some count no characters: nothing, or -1 throughout (SGLang). What the tokens spell locates the response.
    if not isinstance(offsets, list) or all(offset == -1 for offset in offsets):
        offsets = None
    elif not all(isinstance(offset, int) for offset in offsets):
        raise invalid("ids_mismatch", "the answer's text_offset does not count characters")
    if not len(values) == len(tokens) == len(tokens if offsets is None else offsets):
        raise invalid(
            "length_mismatch", f"{len(tokens)} tokens, {len(values)} log-probs, {len(offsets or tokens)} offsets"
        )
    # The endpoint may put a token in front of what was sent; it does so too where it generates.
    first = int(bool(tokens[0]) and values[0] is None and not prompt.startswith(tokens[0]))
    spelled, sent = token_bytes(tokens[first:]), (prompt + response + end).encode()
    stops = list(accumulate(map(len, spelled), initial=0))
    if not b"".join(spelled).startswith(sent):
        if sent.startswith(b"".join(spelled)):
            raise invalid("length_mismatch", f"the echo ends after {stops[-1]} of {len(sent)} bytes sent")
        raise invalid("ids_mismatch", "the echoed tokens do not spell the text that was sent")
    if len(sent) not in stops:
        raise invalid("ids_mismatch", "the last token that was sent reaches into what was generated")
    count = stops.index(len(sent))
    _check_counts(len(tokens), first + count, answer.get("usage") or {})
    behind = None if offsets is None else offsets[first:]
    edges = [_edge(text, stops[: count + 1], behind) for text in (prompt, prompt + response)]
    end_tokens = count - edges[1] if end else 0
    return _measured(values[first + edges[0] : first + count], first + edges[0], end_tokens=end_tokens)


def _entries(logprobs: dict[str, Any]) -> list[Any]:
    values = logprobs.get("token_logprobs")
    if not isinstance(values, list):
        raise invalid(IGNORED, "the answer has no log-probs")
    if len(values) <= 1:
        raise invalid(IGNORED, f"{len(values)} log-prob where prompt and response were expected")
    return values


def _check_counts(entries: int, sent: int, usage: dict[str, Any]) -> None:
    """One entry more than was sent is the generated token, or a BOS in front that shifts all others."""
    counted, generated = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if entries not in (sent, sent + 1):
        raise invalid("length_mismatch", f"{entries} log-probs where {sent} were expected")
    if counted not in (None, sent):
        raise invalid("length_mismatch", f"the endpoint counted {counted} prompt tokens where {sent} were sent")
    if entries > sent and generated not in (None, 1):
        raise invalid("length_mismatch", f"{entries} log-probs for {sent} tokens sent and {generated} generated")


def _edge(text: str, stops: list[int], offsets: list[int] | None) -> int:
    """The index of the token that begins where `text` ends."""
    size = len(text.encode())
    if stops.count(size) != 1:
        begins = "no token begins" if size not in stops else "several tokens begin"
        raise invalid("ids_mismatch", f"{begins} at character {len(text)}, the boundary of the response")
    edge = stops.index(size)
    if offsets is not None and edge < len(stops) - 1 and offsets[edge] - offsets[0] != len(text):
        raise invalid("ids_mismatch", f"text_offset is {offsets[edge]} where the response begins at {len(text)}")
    return edge


def _measured(values: list[Any], n: int, **more: int) -> Measurement:
    tokens = check_logprobs(values)
    total = math.fsum(tokens)
    check_structure(tokens, total)
    return Measurement(total, {"token_logprobs": tokens, "prompt_tokens": n, "response_tokens": len(tokens), **more})


def token_bytes(tokens: Sequence[str]) -> list[bytes]:
    """The bytes each token stands for; parts of a character are written `bytes:\\xf0\\x9f` (as OpenAI does)."""
    parts = [(_RAW_BYTES.fullmatch(token), token) for token in tokens]
    return [bytes.fromhex(raw[1].replace("\\x", "")) if raw else token.encode() for raw, token in parts]
