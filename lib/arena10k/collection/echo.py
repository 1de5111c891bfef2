"""Reading log-probs from answers: which entries are the response's, and whether they can be measurements.

What is ambiguous is refused: no slice is ever guessed. All readers raise CallError (kind ``invalid``) with the code of
the first check that fails.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
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
#: Nats. Tokens that are certain were drawn with more than this, in all and each on average: rounding takes less.
SURE, SURE_PER_TOKEN = -0.1, -0.02
#: Candidates of one token may hold this much probability by rounding.
FULL = 1.01
_RAW_BYTES = re.compile(r"bytes:((?:\\x[0-9a-f]{2})+)")
_UNSHOWN = "\ufffd".encode()


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


def mass(top: dict[str, Any]) -> float:
    """The probability that candidates (token -> nats) hold together; NaN where one of them has no log-prob."""
    known = all(type(nats) in (int, float) and nats <= CEILING for nats in top.values())
    return math.fsum(map(math.exp, top.values())) if known else math.nan


def _of_echo(answer: dict[str, Any]) -> tuple[dict[str, Any], list[Any], int | None]:
    """The log-probs of an echo (the only choice), those of its tokens, and how many tokens were generated that are
    among them (None: nobody says). Where those of the prompt stand in a block of their own (Together) it is none."""
    logprobs, block = only_choice(answer).get("logprobs"), answer.get("prompt")
    parts = [part.get("logprobs") for part in block if isinstance(part, dict)] if isinstance(block, list) else []
    generated = (answer.get("usage") or {}).get("completion_tokens")
    if len(parts) == 1 and isinstance(parts[0], dict):
        logprobs, generated = parts[0], 0
    values = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    if not isinstance(logprobs, dict) or not isinstance(values, list):
        raise invalid(IGNORED, "the answer has no log-probs")
    if len(values) <= 1:
        raise invalid(IGNORED, f"{len(values)} log-prob where prompt and response were expected")
    return logprobs, values, generated


def check_logprobs(values: list[Any]) -> list[float]:
    """Token log-probs as floats (nats): each present (``null_in_response``), finite (``not_finite``) and at most
    `CEILING` (``positive``)."""
    if None in values:
        raise invalid("null_in_response", f"token {values.index(None)} of {len(values)} has no log-prob")
    if not {*map(type, values)} <= {int, float} or not all(map(math.isfinite, values)):
        raise invalid("not_finite", "a token's log-prob is not a finite number")
    if max(values, default=0.0) > CEILING:
        raise invalid("positive", f"a token's log-prob is {max(values):.4g}, above 0")
    return list(map(float, values))


def check_structure(tokens: list[float], total: float) -> None:
    """Refuse values that are finite but cannot be measurements: one value for every token, sentinels, impossible lows.

    A single certain token (0.0) is legitimate, several that are all exactly 0.0 are not: the decision is by structure,
    never by one value alone.
    """
    if len(set(tokens)) == 1 and (len(tokens) >= 4 or (len(tokens) >= 2 and tokens[0] == 0)):
        raise invalid("constant", f"all {len(tokens)} tokens have log-prob {tokens[0]:g}")
    if total in SENTINELS or (tokens and min(tokens) < FLOOR_PER_TOKEN):
        raise invalid("below_floor", f"sequence log-prob {total:g}, lowest token {min(tokens):g}")


def read_ids(
    answers: list[dict[str, Any]], prompt_ids: list[int], response_ids: list[int], drawn: list[float] | None = None
) -> Measurement:
    """Check an echo answer (the only one) to token ids and sum the response's token log-probs (nats). `drawn` are those
    of the same tokens when they were drawn from the same policy after the same prompt, where they are known."""
    n, m = len(prompt_ids), len(response_ids)
    if not m:
        raise invalid("empty_response", "no token to score: the response's end-of-sequence token was not recorded")
    (answer,) = answers
    logprobs, values, generated = _of_echo(answer)
    echoed = answer["choices"][0].get("prompt_token_ids") or answer.get("prompt_token_ids")
    places = _Places(logprobs, prompt_ids + response_ids, len(values))
    if generated is None and echoed is not None:
        generated = 1  # nothing stands in front of the ids: one entry more is that of the token that was asked for
    counted = _check_counts(answer, values, n + m, generated, places.told)
    if echoed is None and counted is None and not places.told():
        raise invalid("length_mismatch", "neither usage nor echoed ids say which entries are the prompt's")
    if echoed is not None and list(echoed) != prompt_ids + response_ids:
        raise invalid("ids_mismatch", "the echoed token ids are not the ones that were sent")
    if places.off():
        raise invalid("ids_mismatch", "the tokens of the log-probs are not those that were sent, one for one")
    measured = _measured(logprobs, n, n + m)
    # Exactly 0 may be certainty or a buffer that nothing was written to: what was drawn tells them apart.
    pairs = zip(measured.payload["token_logprobs"], drawn or (), strict=False)
    certain = [before for now, before in pairs if now == 0]
    if certain and math.fsum(certain) < min(SURE, SURE_PER_TOKEN * len(certain)):
        before = f"had {math.fsum(certain):.3g} together when they were drawn"
        raise invalid("constant", f"{len(certain)} tokens have log-prob 0, and {before}")
    return measured


class _Places:
    """Where entries of an echo stand to what was sent: as their ids say or, as one id has one text, their tokens."""

    def __init__(self, logprobs: dict[str, Any], sent: list[int], entries: int):
        self.ids, tokens = logprobs.get("token_ids"), logprobs.get("tokens")
        said = (own for own in (self.ids, tokens) if isinstance(own, list) and len(own) == entries)
        self.own, self.sent, self.entries = next(said, None), sent, entries

    def fit(self, shift: int) -> bool:
        """Whether they may stand off by so many places (-1: the first is missing, 1: one is in front)."""
        first, last = max(0, -shift), min(len(self.sent), self.entries - shift)
        sent, there = self.sent[first:last], (self.own or [])[first + shift : last + shift]
        if self.own is self.ids:
            return there == sent
        pairs = set(zip(sent, there, strict=True))
        if len(dict(pairs)) < len(pairs):
            # The text of a part of a character may depend on what stands before it (vLLM).
            pairs = {(i, token) for i, token in pairs if token and token.isascii()}
        return len(dict(pairs)) == len(pairs)

    def told(self) -> bool:
        """Whether they can stand in no other place than theirs."""
        return self.own is not None and self.fit(0) and not (self.fit(-1) or self.fit(1))

    def off(self) -> bool:
        """Whether they stand somewhere else."""
        return self.own is not None and not self.fit(0) and (self.own is self.ids or self.fit(-1) or self.fit(1))


def read_text(answers: list[dict[str, Any]], prompt: str, response: str, end: str) -> Measurement:
    """Check an echo answer (the only one) to `prompt + response + end` and sum what follows the prompt (nats).

    The boundaries must fall between two tokens: one that straddles them has a log-prob that is neither side's.
    """
    if not response + end:
        raise invalid("empty_response", "no token to score: the response is empty and has no end")
    (answer,) = answers
    logprobs, values, generated = _of_echo(answer)
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
    sent = (prompt + response + end).encode()
    spelled = _whole(token_bytes(tokens[first:]), sent, [len(part.encode()) for part in (prompt, prompt + response)])
    stops = list(accumulate(map(len, spelled), initial=0))
    if not b"".join(spelled).startswith(sent):
        if sent.startswith(b"".join(spelled)):
            raise invalid("length_mismatch", f"the echo ends after {stops[-1]} of {len(sent)} bytes sent")
        raise invalid("ids_mismatch", "the echoed tokens do not spell the text that was sent")
    if len(sent) not in stops:
        raise invalid("ids_mismatch", "the last token that was sent reaches into what was generated")
    count = stops.index(len(sent))
    _check_counts(answer, values, first + count, generated, lambda: True)
    behind = None if offsets is None else offsets[first:]
    edges = [_edge(text, stops[: count + 1], behind) for text in (prompt, prompt + response)]
    end_tokens = count - edges[1] if end else 0
    return _measured(logprobs, first + edges[0], first + count, end_tokens=end_tokens)


def _whole(spelled: list[bytes], sent: bytes, edges: list[int]) -> list[bytes]:
    """The bytes of tokens, of which some write parts of a character as U+FFFD (SGLang): then what is not ASCII is taken
    from what was `sent`. Where a character ends within them nobody can tell, so that none of the `edges` may be there.
    """
    within = any(0 < edge < len(sent) and min(sent[edge - 1 : edge + 1]) > 127 for edge in edges)
    if within or _UNSHOWN in sent or not any(_UNSHOWN in token for token in spelled):
        return spelled
    parts = [re.sub(rb"[\x80-\xff]+", lambda _: rb"[\x80-\xff]+", re.escape(token)) for token in spelled]
    for i, token in enumerate(spelled[1:]):  # one byte for each that goes on: nothing is left to try out
        if spelled[i][-1:] > b"\x7f" and token[:1] > b"\x7f":
            parts[i] = parts[i][:-1]
    found = [re.fullmatch(b"(%s)" % b")(".join(parts[:count]), sent) for count in (len(parts) - 1, len(parts))]
    if all(found) and _UNSHOWN in spelled[-1]:  # sent or generated?
        return spelled
    return next(([*one.groups(), *spelled[len(one.groups()) :]] for one in found if one), spelled)


def _check_counts(
    answer: dict[str, Any], values: list[Any], sent: int, generated: int | None, placed: Callable[[], bool]
) -> Any:
    """How many tokens of the prompt the endpoint counted (None: it does not say). One entry more than was sent is the
    generated token, or a BOS in front that shifts all others; as many may lack the first and hold the generated one,
    unless the entries are `placed` by their tokens."""
    counted, more = (answer.get("usage") or {}).get("prompt_tokens"), len(values) - sent
    if more not in (0, 1):
        raise invalid("length_mismatch", f"{len(values)} log-probs where {sent} were expected")
    if counted not in (None, sent):
        raise invalid("length_mismatch", f"the endpoint counted {counted} prompt tokens where {sent} were sent")
    if generated != more and (more or values[0] is not None) and not placed():
        said = "an unknown number" if generated is None else generated
        raise invalid("length_mismatch", f"{len(values)} log-probs for {sent} tokens sent and {said} generated")
    return counted


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


def _measured(logprobs: dict[str, Any], n: int, stop: int, **more: int) -> Measurement:
    tokens, tops = check_logprobs(logprobs["token_logprobs"][n:stop]), logprobs.get("top_logprobs") or []
    # One alone is within `FULL`, as it is at most `CEILING`.
    if any(isinstance(top, dict) and len(top) > 1 and mass(top) > FULL for top in tops[n:stop]):
        raise invalid("positive", "the candidates of one token hold more than all of the probability")
    total = math.fsum(tokens)
    check_structure(tokens, total)
    return Measurement(total, {"token_logprobs": tokens, "prompt_tokens": n, "response_tokens": len(tokens), **more})


def token_bytes(tokens: Sequence[str]) -> list[bytes]:
    """The bytes each token stands for; parts of a character are written `bytes:\\xf0\\x9f` (as OpenAI does)."""
    parts = [(_RAW_BYTES.fullmatch(token), token) for token in tokens]
    return [bytes.fromhex(raw[1].replace("\\x", "")) if raw else token.encode() for raw, token in parts]
