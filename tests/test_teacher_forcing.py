"""Every record check of teacher forcing refuses exactly its own fault, and lets honest extremes pass."""

from __future__ import annotations

import math

import pytest

from arena10k.collection.echo import read_ids as read_answer
from arena10k.errors import CallError

PROMPT, RESPONSE = [1, 2, 3], [4, 5, 6, 7]
TOKENS = [-0.5, -1.25, -0.01, -2.0]


def answer(logprobs=None, counted=7, **extra):
    values = [None, -3.0, -2.0, *TOKENS] if logprobs is None else logprobs
    choice = {"text": "", "logprobs": {"token_logprobs": values}, "finish_reason": "length"} | extra
    return {"model": "m", "choices": [choice], "usage": {"prompt_tokens": counted, "completion_tokens": 1}}


@pytest.mark.parametrize("extra_token", [[], [-9.0]])
def test_the_value_is_the_sum_over_the_response_only(extra_token):
    good = answer([None, -3.0, -2.0, *TOKENS, *extra_token], prompt_token_ids=PROMPT + RESPONSE)
    measured = read_answer([good], PROMPT, RESPONSE)
    assert measured.value == math.fsum(TOKENS)
    assert measured.payload["token_logprobs"] == TOKENS


FAULTS = {
    "echo ignored": ("echo_ignored", answer([-0.1])),
    "no log-probs": ("echo_ignored", answer() | {"choices": [{"text": "", "logprobs": None}]}),
    "no choice": ("no_choice", {"choices": []}),
    "truncated": ("length_mismatch", answer([None, -3.0, -2.0, -0.5, -1.25])),
    "BOS counted": ("length_mismatch", answer([None, -9.0, -3.0, -2.0, *TOKENS], counted=8)),
    "other ids": ("ids_mismatch", answer(prompt_token_ids=[1, 2, 3, 4, 5, 6, 8])),
    "null": ("null_in_response", answer([None, -3.0, -2.0, -0.5, None, -0.1, -2.0])),
    "NaN": ("not_finite", answer([None, -3.0, -2.0, -0.5, math.nan, -0.1, -2.0])),
    "text": ("not_finite", answer([None, -3.0, -2.0, -0.5, "NaN", -0.1, -2.0])),
    "infinite": ("not_finite", answer([None, -3.0, -2.0, -0.5, -math.inf, -0.1, -2.0])),
    "positive": ("positive", answer([None, -3.0, -2.0, -0.5, 0.3, -0.1, -2.0])),
    "all zero": ("constant", answer([None, -3.0, -2.0, 0.0, 0.0, 0.0, 0.0])),
    "one value": ("constant", answer([None, -3.0, -2.0, -1.0, -1.0, -1.0, -1.0])),
    "below floor": ("below_floor", answer([None, -3.0, -2.0, -0.5, -75.0, -0.1, -2.0])),
    "sentinel": ("below_floor", answer([None, -3.0, -2.0, -20.0, -10.0, -15.0, -5.0])),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_code_and_no_value(fault):
    code, wrong = FAULTS[fault]
    with pytest.raises(CallError) as caught:
        read_answer([wrong], PROMPT, RESPONSE)
    assert (caught.value.kind, caught.value.code) == ("invalid", code)


@pytest.mark.parametrize("tokens", [[0.0], [0.0, -1e-7], [-0.0, 5e-5], [-49.0], [-30.0, -25.0]])
def test_certain_and_unlikely_answers_are_measurements(tokens):
    response = RESPONSE[: len(tokens)]
    good = answer([None, -3.0, -2.0, *tokens], counted=3 + len(tokens))
    assert read_answer([good], PROMPT, response).value == pytest.approx(math.fsum(tokens), abs=0)
