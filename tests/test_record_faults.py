"""A server that misbehaves on one of many requests: that row is an error with its code, all others are right."""

from __future__ import annotations

import copy
import json
import math
from functools import partial

import pytest
from aiohttp import web

from arena10k.audit import quality
from arena10k.collection import teacher_forcing
from arena10k.collection.collect import collect
from arena10k.collection.jobs import contexts
from stub_server import Stub, chat_answer, echo_answer, token_logprob
from test_collect import make_params, run_responses

#: The request that goes wrong: well after the five that are tried first.
WHICH = 12


def as_python_writes_it(answer):
    return web.Response(text=json.dumps(answer), content_type="application/json")


def values(change, keep=("usage", "ids")):
    """An echo whose log-probs are changed; what else would tell their order may be left out."""

    def answer(body):
        good = echo_answer(body)
        choice = good["choices"][0]
        choice["logprobs"]["token_logprobs"] = change(choice["logprobs"]["token_logprobs"])
        if "usage" not in keep:
            del good["usage"]
        if "ids" not in keep:
            del choice["prompt_token_ids"]
        return good

    return answer


def told(**usage):
    return lambda good: good | {"usage": good["usage"] | usage}


def of_other_ids(body):
    return echo_answer(body | {"prompt": [*body["prompt"][:-1], 9999]})


def first(tokens, *head):
    """Other values at the beginning of the response, which follows eight prompt tokens."""
    return [*tokens[:8], *head, *tokens[8 + len(head) :]]


FAULTS = {
    "echo ignored": ("echo_ignored", values(lambda v: v[-1:])),
    "no log-probs": ("echo_ignored", lambda body: echo_answer(body) | {"choices": [{"text": "", "logprobs": None}]}),
    "cut": ("length_mismatch", values(lambda v: v[:-3])),
    "BOS in front": ("length_mismatch", values(lambda v: [None, -9.0, *v[1:]])),
    "BOS counted": (
        "length_mismatch",
        lambda body: told(prompt_tokens=len(body["prompt"]) + 1)(values(lambda v: [None, -9.0, *v[1:-1]])(body)),
    ),
    "BOS and nothing generated": (
        "length_mismatch",
        lambda body: told(completion_tokens=0)(values(lambda v: [None, -9.0, *v[1:-1]], keep=["usage"])(body)),
    ),
    "BOS or generated, not told": ("length_mismatch", values(lambda v: v, keep=[])),
    "of other ids": ("ids_mismatch", of_other_ids),
    "null": ("null_in_response", values(lambda v: first(v, -0.1, None))),
    "NaN as text": ("not_finite", values(lambda v: first(v, "NaN"))),
    "positive": ("positive", values(lambda v: first(v, 0.3))),
    "all zero": ("constant", values(lambda v: [None, *[0.0] * (len(v) - 1)])),
    "one value": ("constant", values(lambda v: [None, *[-1.5] * (len(v) - 1)])),
    "impossible": ("below_floor", values(lambda v: first(v, -75.0))),
    "sentinel": ("below_floor", values(lambda v: [*v[:8], -100.0, *[-0.0] * (len(v) - 10), -1.0])),
    "NaN in JSON": ("malformed_json", lambda b: as_python_writes_it(values(lambda v: first(v, math.nan))(b))),
    "infinity in JSON": ("malformed_json", lambda b: as_python_writes_it(values(lambda v: first(v, -math.inf))(b))),
    "half an answer": ("malformed_json", lambda b: web.Response(text='{"choices": [', content_type="application/json")),
    "another model": ("wrong_model", lambda body: echo_answer(body) | {"model": "other"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_bad_score_is_one_error_row(home, fault):
    code, bad = FAULTS[fault]
    echoes = []

    def once(body, n):
        if "messages" in body:
            return None
        echoes.append(body)
        return bad(copy.deepcopy(body)) if len(echoes) == WHICH else None

    with Stub(once) as stub:
        params = make_params(home, stub.url, max_attempts=1)
        store, _ = run_responses(params)
        outcome = collect(params, store, partial(teacher_forcing.tasks, params, store), "teacher forcing")
    assert (outcome.ok, outcome.errors) == (23, {code: 1})
    said = {r["prompt_id"]: r for r in store.rows("responses") if r["policy"] == "p0" and r["draw"] == 0}
    for row in store.rows("logprobs"):
        right = math.fsum(token_logprob(8 + i, t) for i, t in enumerate(said[row["prompt_id"]]["payload"]["token_ids"]))
        assert (row["status"], row["value"], row["code"]) in [("ok", right, None), ("error", None, code)]


def test_a_replayed_score_is_known_by_its_ids(home):
    earlier = {}

    def replay(body, n):
        if "messages" in body:
            return None
        old = next((b for b in earlier.values() if b != body and len(b["prompt"]) == len(body["prompt"])), None)
        if old and len(earlier) >= 6 and "done" not in earlier:
            return echo_answer(earlier.setdefault("done", old))
        earlier[n] = body
        return None

    with Stub(replay) as stub:
        params = make_params(home, stub.url)
        store, _ = run_responses(params)
        outcome = collect(params, store, partial(teacher_forcing.tasks, params, store), "teacher forcing")
    assert (outcome.ok, outcome.errors) == (23, {"ids_mismatch": 1})


def saying(change):
    """A server whose answer to question 3 is changed."""
    return lambda body, n: change(chat_answer(body)) if "question 3" in str(body.get("messages")) else None


def shortened(ids, text="", finish="stop"):
    def change(answer):
        content = [{"token": f"t{t}", "logprob": token_logprob(8 + i, t)} for i, t in enumerate(ids)]
        choice = {"message": {"content": text}, "token_ids": ids, "logprobs": {"content": content}}
        answer["choices"][0] |= choice | {"finish_reason": finish}
        return answer

    return change


@pytest.mark.parametrize(
    ("ids", "finish", "outcome"),
    [
        ([2], "stop", ("ok", token_logprob(8, 2), None)),  # empty: nothing but the end of the sequence
        ([5, 6], "length", ("ok", token_logprob(8, 5) + token_logprob(9, 6), None)),
        ([], "stop", ("error", None, "empty_response")),
    ],
)
def test_empty_and_cut_responses_are_responses(home, ids, finish, outcome):
    with Stub(saying(shortened(ids, finish=finish))) as stub:
        params = make_params(home, stub.url)
        store, responses = run_responses(params)
        collect(params, store, partial(teacher_forcing.tasks, params, store), "teacher forcing")
    assert responses.ok == 48
    own = [r for r in store.rows() if r["prompt_id"] == "p0003"]
    assert {(r["value"], r["payload"]["finish_reason"]) for r in own if r["job"] == "responses"} == {("", finish)}
    assert {(r["status"], r["value"], r["code"]) for r in own if r["job"] == "logprobs"} == {outcome}


def with_nan(body):
    answer = chat_answer(body)
    answer["choices"][0]["logprobs"]["content"][0]["logprob"] = math.nan
    return as_python_writes_it(answer)


@pytest.mark.parametrize(
    ("code", "bad"),
    [
        ("malformed_json", with_nan),
        ("wrong_model", lambda body: chat_answer(body) | {"model": "other"}),
        ("not_an_object", lambda body: web.json_response([1])),
        ("no_choice", lambda body: chat_answer(body) | {"choices": []}),
    ],
)
def test_one_bad_response_is_one_error_row(home, code, bad):
    with Stub(lambda body, n: bad(body) if n == WHICH else None) as stub:
        store, outcome = run_responses(make_params(home, stub.url, max_attempts=1))
    assert (outcome.ok, outcome.errors) == (47, {code: 1})
    assert [r["value"] for r in store.rows() if r["code"]] == [None]


def long(body):
    return len(chat_answer(body)["choices"][0]["token_ids"]) >= 4


def test_a_replayed_response_is_refused_and_the_one_it_repeats_set_aside(home):
    kept = []

    def replay(body, n):
        if n > 6 and not kept and long(body):
            kept.append(body)
        elif kept and len(kept) == 1 and body["messages"] != kept[0]["messages"]:
            kept.append(body)
            return chat_answer(kept[0])
        return None

    with Stub(replay) as stub:
        params = make_params(home, stub.url, concurrency=1)
        store, outcome = run_responses(params)
    store.using(contexts(params).values())
    assert (outcome.ok, outcome.errors) == (47, {"duplicate_answer": 1})
    (flag,) = quality.scan(params, store)
    original = next(r for r in store.rows() if r["request_hash"] == flag.request_hash)
    assert original["value"] == chat_answer(kept[0])["choices"][0]["message"]["content"]
    assert (flag.job, flag.code) == ("responses", "duplicate_answer")


def test_replays_between_two_sessions_are_found_among_the_stored_rows(home):
    old = {}

    def replay(body, n):
        asked = str(body["messages"])
        if "question 3" in asked and "old" in old:
            return chat_answer(old["old"])
        if "question 5" in asked and long(body):
            old["old"] = body
        return error_once(asked)

    def error_once(asked):
        if "question 3" in asked and "old" not in old:
            return web.json_response({"error": {"message": "blocked", "code": "content_filter"}}, status=400)
        return None

    with Stub(replay) as stub:
        params = make_params(home, stub.url, draws=1, concurrency=1)
        run_responses(params)
        store, outcome = run_responses(params, retry_errors=True)
    store.using(contexts(params).values())
    assert outcome.errors == {}
    flags = quality.scan(params, store)
    assert {f.code for f in flags} == {"duplicate_answer"}
    assert {f.prompt_id for f in flags} == {"p0003", "p0005"}


def test_the_same_answer_to_the_same_prompt_is_no_replay(home):
    def seedless(body, n):
        return chat_answer({k: v for k, v in body.items() if k != "seed"})

    with Stub(seedless) as stub:
        params = make_params(home, stub.url)
        store, outcome = run_responses(params)
    store.using(contexts(params).values())
    assert (outcome.ok, outcome.errors) == (48, {})
    assert quality.scan(params, store) == []
