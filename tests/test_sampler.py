"""Is what was drawn drawn from what is scored? On draws of real servers, with and without sampling of their own."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from arena10k.audit import checks
from arena10k.collection import pilot, sampler
from arena10k.errors import ArenaError
from arena10k.frames.table import build
from stub_run import make_params, prepared, run_responses
from stub_server import Stub, chat_answer

DRAWS = json.loads((Path(__file__).parent / "answers" / "draws.json").read_text())


def audited(responses):
    return sampler.of_responses({"candidates": tokens} for tokens in responses)


@pytest.mark.parametrize(("server", "within"), [("vllm, generation_config", "top_k"), ("llama.cpp, defaults", "_")])
def test_a_servers_own_sampling_is_found_in_ten_answers_and_in_five(server, within):
    for responses in (DRAWS[server], DRAWS[server][:5]):
        found = audited(responses)
        assert found.mismatch
        assert found.log10_evidence > 3
    assert within in audited(DRAWS[server]).best


@pytest.mark.parametrize("server", ["vllm, sampling off", "llama.cpp, sampling off"])
def test_a_server_whose_sampling_is_off_is_not_suspected(server):
    assert not audited(DRAWS[server]).mismatch


def test_honest_runs_raise_at_most_one_alarm_in_a_hundred():
    """Draws from the very distributions that the servers reported."""
    tokens = [token for responses in DRAWS.values() for tokens in responses for token in tokens if len(token[1]) == 19]
    known, seen = np.array([nats for _, nats, _ in tokens]), np.zeros((len(tokens), 19), dtype=bool)
    for row, (_, _, said) in enumerate(tokens):
        seen[row, said] = True
    p = np.exp(known)
    chances = np.column_stack([p, np.clip(1 - p.sum(axis=1), 0, None)])
    chances /= chances.sum(axis=1, keepdims=True)
    rng, found = np.random.default_rng(0), []
    for _ in range(200):
        drawn = (chances.cumsum(axis=1) < rng.random((len(p), 1))).sum(axis=1)
        found.append(sampler.audit(known, drawn, seen))
    assert sum(one.mismatch for one in found) <= 2
    assert np.mean([one.settled for one in found]) > 0.8, "and most say so"


def test_too_few_tokens_settle_nothing_and_none_are_no_audit():
    few = audited([DRAWS["vllm, sampling off"][0][:3]])
    assert (few.mismatch, few.settled) == (False, False)
    assert audited([]) is None


def candidates(body, n):
    """An answer whose every token is the likelier of two, of chance 0.6 each."""
    answer = chat_answer(body)
    for entry in answer["choices"][0]["logprobs"]["content"]:
        tokens = {entry["token"]: 0.6, "another": 0.3, "a third": 0.1}
        entry["logprob"] = math.log(0.6)
        entry["top_logprobs"] = [{"token": token, "logprob": math.log(chance)} for token, chance in tokens.items()]
    return answer


def test_the_pilot_stops_where_an_endpoint_draws_otherwise_than_it_reports_unless_the_params_say_so(home):
    with Stub(lambda body, n: candidates(body, n) if "messages" in body else None) as stub:
        params = make_params(home, stub.url, n_prompts=30, draws=1)
        frame, store = prepared(params)
        with pytest.raises(ArenaError, match=r"p0 is not drawn from the distribution .* as by top_k 1 .*`server`"):
            pilot.run(params, store, frame)
        store, _ = run_responses(params)
        found = [c for c in checks.measure(params, build(params, frame, store), store) if c["check"] == "sampler"]
        assert {check["outcome"] for check in found} == {checks.FAILED}
        flags = sampler.facts(sampler.audits(params, store), "p0")
        assert set(flags) == set(params.policies)
        assert set(map(tuple, flags.values())) == {("sampler_mismatch",)}
        declared = make_params(home, stub.url, n_prompts=30, draws=1, extra_body={"top_k": 1})
        assert sampler.audits(declared, store) == {}
