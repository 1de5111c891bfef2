"""What the engine does when it is stopped, refused, told to wait, or answered in a way that nobody foresaw."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from email.utils import formatdate
from functools import partial

import pytest
from aiohttp import web

from arena10k import paths
from arena10k.collection import judge, pilot, teacher_forcing
from arena10k.collection.client import check_model
from arena10k.collection.collect import collect
from arena10k.collection.store import Store
from arena10k.errors import ArenaError, CallError, ParamsError
from arena10k.inputs import prompts
from stub_server import Stub, chat_answer, echo_answer, error
from test_batch import BATCH
from test_collect import RESUMABLE, make_params, run_responses

SECRET = "sk-CANARY" + "x" * 40


def question(body):
    """The number of the question that is asked."""
    return int(body["messages"][-1]["content"].split()[-1])


def interrupted(home, stub, after):
    """A collection that is sent one Ctrl-C after so many requests; seconds until it ended, what it said."""
    command = [sys.executable, "-c", RESUMABLE, str(home / "stub.yaml")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        while stub.requests < after:
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        start = time.monotonic()
        told = child.communicate()[1]
    return time.monotonic() - start, told


def test_what_waits_for_its_turn_is_not_sent_any_more(home):
    with Stub() as stub:
        make_params(home, stub.url, n_prompts=50, concurrency=64, requests_per_minute=120)
        took, told = interrupted(home, stub, after=4)
        assert stub.requests <= 4 + 6
    assert "stopped on request" in told
    assert took < 20, "64 requests at two per second would take 32"


def test_what_waits_for_a_retry_is_not_sent_any_more(home):
    with Stub(lambda body, n: error(429, "later", **{"Retry-After": "60"}) if n == 5 else None, delay=0.2) as stub:
        make_params(home, stub.url, n_prompts=50, concurrency=4)
        took, told = interrupted(home, stub, after=5)
    assert "stopped on request" in told
    assert took < 30


def test_a_second_ctrl_c_drops_what_is_in_flight_and_says_so(home):
    with Stub(delay=60.0) as stub:
        make_params(home, stub.url, n_prompts=50, concurrency=4)
        command = [sys.executable, "-c", RESUMABLE, str(home / "stub.yaml")]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
            while stub.requests < 4:
                time.sleep(0.01)
            for _ in range(2):
                child.send_signal(signal.SIGINT)
                time.sleep(0.5)
            told = child.communicate(timeout=40)[1]
    assert "ArenaError: responses: stopped on request" in told
    assert "CancelledError" not in told


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_retry_after_holds_back_requests_that_have_their_turn_by_the_limit(home, form):
    arrivals = []

    def fault(body, n):
        arrivals.append(time.monotonic())
        until = "3" if form == "seconds" else formatdate(time.time() + 4, usegmt=True)  # whole seconds, cut off
        return error(429, "later", **{"Retry-After": until}) if n == 30 else None

    with Stub(fault) as stub:
        params = make_params(home, stub.url, n_prompts=20, concurrency=16, requests_per_minute=1200)
        _, outcome = run_responses(params)
    assert outcome.ok == 80
    # Those that were sent with the refused one may arrive; nothing else does while all hold back.
    assert sum(arrivals[29] < a < arrivals[29] + 2.8 for a in arrivals) <= 16


@pytest.mark.parametrize(
    "refusal",
    [
        error(402, "payment required"),
        web.json_response({"error": {"code": "rate_limit_exceeded", "type": "insufficient_quota"}}, status=429),
        web.json_response({"error": {"code": 429, "type": "insufficient_quota"}}, status=429),
        web.json_response({"error": {"code": "insufficient_quota", "message": "no money"}}),
    ],
    ids=["402", "type of a 429", "number as code", "200 with an error"],
)
def test_no_money_stops_the_run_in_every_form_it_is_said(home, refusal):
    body, status = refusal.body, refusal.status

    def fault(_, n):
        return web.Response(body=body, status=status, content_type="application/json") if n > 20 else None

    with Stub(fault) as stub, pytest.raises(ArenaError, match="responses: stopped"):
        run_responses(make_params(home, stub.url, n_prompts=100, concurrency=8))
    assert stub.requests <= 20 + 2 * 8
    assert {r["status"] for r in Store.read(paths.store_file("stub")).rows()} == {"ok"}


def odd(where, value):
    """A change of an answer at a place such as `choices.0.message`."""

    def change(answer):
        *way, last = [int(step) if step.isdigit() else step for step in where.split(".")]
        part = answer
        for step in way:
            part = part[step]
        part[last] = value
        return answer

    return change


SHAPES = [
    ("choices.0.logprobs.content", [None]),
    ("choices.0.logprobs.content.0", "x"),
    ("choices.0.logprobs", ["x"]),
    ("choices.0.logprobs", 7),
    ("choices.0.message", "text"),
    ("choices.0.finish_reason", None),
    ("choices.0.finish_reason", "content_filter"),
    ("choices.0.token_ids", ["x"]),
    ("choices.0.token_ids", 3),
    ("usage", "none"),
    ("usage.prompt_tokens", "8"),
    ("model", ["stub"]),
    ("system_fingerprint", 5),
    ("prompt_token_ids", 1),
]


@pytest.mark.parametrize(("where", "value"), SHAPES, ids=[f"{where} {value}" for where, value in SHAPES])
def test_one_answer_of_another_shape_is_one_error_row(home, where, value):
    change = odd(where, value)

    def fault(body, n):
        return change(chat_answer(body)) if question(body) == 7 else None

    with Stub(fault) as stub:
        store, outcome = run_responses(make_params(home, stub.url))
    assert (outcome.ok, sum(outcome.errors.values())) == (44, 4)
    assert all(r["value"] is None for r in store.rows() if r["status"] == "error")


def test_an_empty_list_of_logprobs_is_no_logprob(home):
    def fault(body, n):
        return odd("choices.0.logprobs", {"content": []})(chat_answer(body))

    with Stub(fault) as stub:
        store, outcome = run_responses(make_params(home, stub.url))
    assert outcome.ok == 48
    assert all("token_logprobs" not in r["payload"] for r in store.rows())


def test_a_list_of_models_that_is_none_is_told_in_one_line(home):
    with Stub() as stub:
        stub.models = {"object": "list", "data": None}
        with pytest.raises(ArenaError, match=r"providers\.stub: .*: malformed_answer"):
            run_responses(make_params(home, stub.url))
        stub.models = {"object": "list", "data": []}
        with pytest.raises(ArenaError, match="does not serve stub; it lists no model at all"):
            run_responses(make_params(home, stub.url))


@pytest.mark.parametrize(
    ("asked", "told"),
    [("gpt-4", "gpt-4o"), ("gpt-4o", "gpt-4o-mini"), ("smollm2-135m", "smollm2-135m-t0.6"), ("llama-3", "llama-3-8b")],
)
def test_a_name_that_goes_on_is_another_model(asked, told):
    with pytest.raises(CallError, match="wrong_model"):
        check_model(asked, {"model": told})


@pytest.mark.parametrize(
    ("asked", "told"), [("a/gpt-4", "gpt-4-0613"), ("x-latest", "x-20241022"), ("qwen", "qwen:latest"), ("m", "m@v2")]
)
def test_a_version_is_the_same_model(asked, told):
    check_model(asked, {"model": told})


def test_retrying_goes_past_what_fails_again_and_asks_each_row_once(home):
    """Of 160 rows, those of questions 0 to 5 are refused for good, those of 6 and 7 only for now."""
    sick = True

    def fault(body, n):
        if question(body) < 6:
            return error(400, "blocked", "content_filter")
        return error(503, "busy") if sick and question(body) < 8 else None

    with Stub(fault) as stub:
        params = make_params(home, stub.url, n_prompts=40, max_attempts=1, concurrency=2)
        _, first = run_responses(params)
        sick = False
        before = stub.requests
        store, again = run_responses(params, retry_errors=True)
        asked = stub.requests - before
    assert first.errors == {"content_filter": 24, "http_503": 8}
    assert (again.ok, again.stored, again.errors) == (8, 128, {"content_filter": 24})
    assert asked == 32
    assert {r["attempts"] for r in store.rows() if r["status"] == "error"} == {2}


def test_the_breaker_sees_one_failing_policy_among_good_ones(home):
    """Every second score fails, all of them of one policy: of all requests that is not more than half."""
    asked, failed = set(), []

    def fault(body, n):
        if "messages" in body:
            if body["messages"][-1]["content"].endswith("please"):
                asked.add(tuple(chat_answer(body)["prompt_token_ids"]))
            return None
        if tuple(body["prompt"][:8]) not in asked:
            return None
        failed.append(n)
        return {"choices": []} if len(failed) > 10 else None

    with Stub(fault) as stub:
        params = make_params(home, stub.url, n_prompts=200, draws=1, concurrency=4)
        changed = params.model_dump()
        changed["policies"]["pi_clone"]["suffix"] = " please"
        params = type(params).model_validate(changed)
        store, _ = run_responses(params)
        with pytest.raises(ArenaError, match=r"pi_clone: 40 of the last 50 requests gave no measurement"):
            collect(params, store, partial(teacher_forcing.tasks, params, store), "teacher forcing")
    assert len(failed) <= 50 + 4


def test_a_key_that_is_quoted_where_the_message_is_cut_leaves_no_part_of_it(home, monkeypatch):
    monkeypatch.setenv("ARENA_CANARY", SECRET)
    told = "y" * 280 + f" {SECRET} is blocked"

    def fault(body, n):
        return error(400, told, "content_filter") if n == 20 else None

    for options in ({}, BATCH):
        folder = home / str(len(options))
        folder.mkdir()
        monkeypatch.setenv("ARENA10K_HOME", str(folder))
        with Stub(fault) as stub:
            store, outcome = run_responses(make_params(folder, stub.url, api_key_env="ARENA_CANARY", **options))
        assert outcome.errors == {"content_filter": 1}
        (detail,) = [r["detail"] for r in store.rows() if r["status"] == "error"]
        assert "sk-" not in detail
        assert len(detail) <= 300


def test_a_key_in_the_refusal_of_a_batch_is_not_repeated(home, monkeypatch):
    monkeypatch.setenv("ARENA_CANARY", SECRET)
    with Stub() as stub:
        stub.batches.refuse = (f"the key {SECRET} may not", 1)
        with pytest.raises(ArenaError, match="was refused: line 1: the key <ARENA_CANARY> may not"):
            run_responses(make_params(home, stub.url, api_key_env="ARENA_CANARY", **BATCH))


@pytest.mark.parametrize("top", [{" 1": 5.0, " 0": -1.0}, {" 1": None, " 0": -1.0}, {" 1": 1000.0}])
def test_a_rating_token_with_an_impossible_logprob_gives_no_score(home, top):
    def fault(body, n):
        choice = {"index": 0, "text": " 1", "finish_reason": "length", "logprobs": {"top_logprobs": [top]}}
        return {"model": "stub", "choices": [choice]} if isinstance(body.get("prompt"), str) else None

    with Stub(fault) as stub:
        params = make_params(home, stub.url, n_prompts=2)
        asks = {"provider": "stub", "model": "stub", "case": "{response}:", "ratings": {" 1": 1.0, " 0": 0.0}}
        judged = type(params).model_validate(params.model_dump() | {"judge": asks})
        store, _ = run_responses(judged)
        tasks = partial(judge.tasks, judged, prompts.read(judged.run), store)
        with pytest.raises(ArenaError, match=r"none of the first 4 .* can be used: (positive|null_in_response)"):
            collect(judged, store, tasks, "judge")
    assert all(r["value"] is None for job in judge.JUDGE for r in store.rows(job))


def test_the_pilot_finds_an_endpoint_that_cannot_score_before_the_bulk_is_paid(home):
    def fault(body, n):
        if "messages" in body:
            return None
        return odd("choices.0.logprobs", {"token_logprobs": [-1.0]})(echo_answer(body))

    with Stub(fault) as stub:
        params = make_params(home, stub.url, n_prompts=100)
        frame, _ = prompts.load(params)
        prompts.write(params, frame)
        store = Store.open(paths.store_file(params.run))
        with pytest.raises(ArenaError, match=r"pilot: teacher forcing: stopped: none of the first 5 .*echo_ignored"):
            pilot.run(params, store, frame)
        assert stub.requests == 10


def test_what_the_pilot_measured_is_not_asked_again(home):
    with Stub() as stub:
        params = make_params(home, stub.url)
        frame, _ = prompts.load(params)
        prompts.write(params, frame)
        store = Store.open(paths.store_file(params.run))
        pilot.run(params, store, frame)
        assert stub.requests == 10
        pilot.run(params, store, frame)
        run_responses(params)
        collect(params, store, partial(teacher_forcing.tasks, params, store), "teacher forcing")
        assert stub.requests == 48 + 24
        asked = stub.requests
        pilot.run(params, store, frame)
        assert stub.requests == asked
    assert set(stub.ledger.values()) == {1, 2}, "scores of p0 and its clone are the same request"


def test_a_model_that_a_price_list_forgets_is_an_error(home):
    with pytest.raises(ParamsError, match=r"providers\.stub\.prices has no 'stub', which policies\.p0 asks"):
        make_params(home, "http://127.0.0.1:9/v1", prices={"stob": {"prompt": 1.0, "completion": 1.0}})


def test_a_refused_key_is_told_by_its_variable_and_the_same_command_goes_on(home, monkeypatch):
    monkeypatch.setenv("ARENA_CANARY", SECRET)
    goes_on = "nothing was spent by that refusal, and the same command goes on from here"

    def fault(body, n):
        return error(401, f"Incorrect API key provided: {SECRET}", "invalid_api_key") if n > 20 else None

    with Stub(fault) as stub:
        params = make_params(home, stub.url, n_prompts=30, draws=1, concurrency=4, api_key_env="ARENA_CANARY")
        with pytest.raises(ArenaError) as stopped:
            run_responses(params)
        told = str(stopped.value)
        assert "http_401: Incorrect API key provided: <ARENA_CANARY>; the endpoint does not accept the key in" in told
        assert told.endswith(f"the key in ARENA_CANARY: put another into that variable; {goes_on}")
        assert "sk-" not in told
        paid = sum(stub.ledger.values())
        stub.fault = None
        _, outcome = run_responses(params)
        assert (outcome.stored, outcome.ok) == (paid, 60 - paid)
        assert set(stub.ledger.values()) == {1}, "what was answered before is not asked again"


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        (
            error(401, "who are you"),
            r"http_401: .*; providers\.stub names no api_key_env, and the endpoint wants a key: ",
        ),
        (error(402, "pay"), r"http_402: pay; the account of providers\.stub has no credit left: nothing was spent by"),
        (error(404, "no such url"), r"http_404: .*is that the whole base_url\? most end in /v1\)"),
    ],
)
def test_an_error_that_all_requests_share_says_what_to_do(home, refusal, says):
    body, status = refusal.body, refusal.status

    def fault(_, n):
        return web.Response(body=body, status=status, content_type="application/json")

    with Stub(fault) as stub, pytest.raises(ArenaError, match=says):
        run_responses(make_params(home, stub.url))


def test_scoring_at_an_endpoint_without_completions_says_what_to_leave_out(home):
    with Stub(lambda body, n: None if "messages" in body else error(404, "no such url")) as stub:
        params = make_params(home, stub.url, n_prompts=4)
        store, _ = run_responses(params)
        hint = r"where it cannot score, leave echo_logprobs out of providers\.stub\.capabilities\)"
        with pytest.raises(ArenaError, match=rf"http_404: .*most end in /v1; {hint}"):
            collect(params, store, partial(teacher_forcing.tasks, params, store), "teacher forcing")
