"""The engine's pace, its manners towards the provider and the user's purse, what stops it, and Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from email.utils import formatdate

import pytest
from aiohttp import web

from arena10k import options, paths
from arena10k.collection import costs, pilot
from arena10k.collection.answers import check_model
from arena10k.collection.store import Store
from arena10k.collection.tasks import Request
from arena10k.errors import ArenaError, CallError, ParamsError
from stub_run import make_params, prepared, run_responses, run_scores
from stub_server import chat_answer, error
from test_batch import BATCH

SECRET = "sk-CANARY" + "x" * 40
NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture
def stub(server, monkeypatch):
    """The module's server, well behaved again and all counts at zero; a key for endpoints that want one."""
    monkeypatch.setenv("ARENA_CANARY", SECRET)
    return server.behave()


# Pace


def test_without_declared_limits_concurrency_follows_what_the_provider_bears(home, stub):
    now, peak, refused = 0, 0, 0

    async def crowd(body, n):
        nonlocal now, peak, refused
        now += 1
        peak = max(peak, now)
        await asyncio.sleep(0.02)
        too_many = now > 12
        refused += too_many
        now -= 1
        return error(429, "too many at once") if too_many else None

    stub.fault = crowd
    _, outcome = run_responses(make_params(home, stub.url, n_prompts=60, concurrency=128, max_attempts=20))
    assert (outcome.ok, outcome.errors) == (240, {})
    assert 12 <= peak < 64
    assert refused < 0.2 * stub.requests


#: Of a request of the stub's policies.
TOKENS = Request("/chat/completions", {"model": "stub", "messages": [], "max_tokens": 256}).max_tokens


@pytest.mark.parametrize(("limit", "amount"), [("requests_per_minute", 1), ("tokens_per_minute", TOKENS)])
def test_a_declared_limit_is_not_exceeded(home, stub, limit, amount):
    params = make_params(home, stub.url, n_prompts=15, concurrency=64, **{limit: 60 * 40 * amount})
    start = time.monotonic()
    _, outcome = run_responses(params)
    assert outcome.ok == 60
    assert time.monotonic() - start >= (60 - 40) / 40  # after a first second's worth


@pytest.mark.parametrize(
    ("limits", "form"),
    [({"concurrency": 4}, "seconds"), ({"concurrency": 16, "requests_per_minute": 1200}, "date")],
)
def test_a_retry_after_holds_back_every_request(home, stub, limits, form):
    arrivals = []

    def fault(body, n):
        arrivals.append(time.monotonic())
        until = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)  # whole seconds, cut off
        return error(429, "later", **{"Retry-After": until}) if n == 10 else None

    stub.fault = fault
    _, outcome = run_responses(make_params(home, stub.url, n_prompts=8, **limits))
    assert outcome.ok == 32
    # Those that were sent with the refused one may arrive; nothing else does while all hold back.
    assert sum(arrivals[9] < a < arrivals[9] + 0.9 for a in arrivals) <= limits["concurrency"]


# Who answers

SAME = [("gpt-x", "gpt-x"), ("gpt-x", "gpt-x-2026-01-31"), ("accounts/a/models/llama-8b", "llama-8b"), ("m", "m@v2")]
SAME += [("llama-8b", "accounts/a/models/Llama-8B"), ("a/gpt-4", "gpt-4-0613"), ("x-latest", "x-20241022")]
SAME += [("qwen", "qwen:latest")]
OTHER = [("llama-70b", "llama-8b"), ("gpt-x-large", "gpt-x"), ("gpt-4", "gpt-4o"), ("gpt-4o", "gpt-4o-mini")]
OTHER += [("smollm2-135m", "smollm2-135m-t0.6"), ("llama-3", "llama-3-8b")]


@pytest.mark.parametrize(("asked", "answering"), SAME + OTHER)
def test_the_answer_must_come_from_the_model_that_was_asked(asked, answering):
    same = (asked, answering) in SAME
    with contextlib.nullcontext() if same else pytest.raises(CallError, match="wrong_model"):
        check_model(asked, {"model": answering})


def test_an_endpoint_that_is_not_there_is_said_before_any_work(home):
    with pytest.raises(ArenaError, match=rf"^providers\.stub: {NOWHERE}: connection"):
        run_responses(make_params(home, NOWHERE, max_attempts=1))


LISTS = {
    "another model": ({"data": [{"id": "other"}]}, "it lists other"),
    "no model": ({"data": []}, "it lists no model at all"),
    "no list": ({"data": None}, "cannot be listed"),
    "an error": (405, "not allowed"),
    "an array": ([{"id": "stub"}], ""),
    "names with a prefix": ({"models": [{"name": "models/stub"}]}, ""),
    "a wildcard": ({"data": [{"id": "*"}]}, ""),
}


@pytest.mark.parametrize("kind", LISTS)
def test_what_an_endpoint_says_of_its_models_is_advice(home, stub, capsys, kind):
    listed, says = LISTS[kind]
    stub.models = error(listed, "not allowed") if isinstance(listed, int) else listed
    run_responses(make_params(home, stub.url))
    warned = capsys.readouterr().err
    assert says in warned
    assert ("asked all the same" in warned) == bool(says)


# Keys and money


@pytest.mark.parametrize("mode", [{}, BATCH], ids=["requests", "batch"])
def test_a_missing_key_names_the_variable_and_a_present_one_leaves_no_trace(home, stub, monkeypatch, capfd, mode):
    """Also where it is quoted at the end of what is kept of a message: a part of a key is still a secret."""
    params = make_params(home, stub.url, api_key_env="ARENA_CANARY", **mode)
    monkeypatch.delenv("ARENA_CANARY")
    with pytest.raises(ArenaError, match=r"providers\.stub: .*ARENA_CANARY"):
        run_responses(params)
    monkeypatch.setenv("ARENA_CANARY", SECRET)
    said = "y" * 280 + f" {SECRET} is blocked"
    stub.fault = lambda body, n: error(400, said, "content_filter") if n == 20 else None
    store, outcome = run_responses(params)
    assert outcome.errors == {"content_filter": 1}
    (detail,) = [r["detail"] for r in store.rows() if r["status"] == "error"]
    assert len(detail) <= 300
    assert stub.keys == {f"Bearer {SECRET}"}
    written = b"".join(p.read_bytes() for p in home.rglob("*") if p.is_file())
    written += f"{stub.batches.batches}{stub.batches.files.get('file-0')}{capfd.readouterr()}".encode()
    assert b"sk-CAN" not in written


def test_a_key_in_the_refusal_of_a_batch_is_not_repeated(home, stub):
    stub.batches.refuse = (f"the key {SECRET} may not", 1)
    with pytest.raises(ArenaError, match="line 1: the key <ARENA_CANARY> may not"):
        run_responses(make_params(home, stub.url, api_key_env="ARENA_CANARY", **BATCH))


def test_money_is_spent_only_on_agreement(home, stub, monkeypatch):
    params = make_params(home, stub.url, prices={"stub": {"prompt": 1.0, "completion": 2.0}})
    with pytest.raises(ArenaError, match=r"48 measurements .* \$0\.0\d"):
        run_responses(params)
    assert stub.requests == 0
    monkeypatch.setenv(options.VARIABLES["yes"], "1")
    _, outcome = run_responses(params)
    assert outcome.ok == 48
    # Two dollars per million of 2 policies x 12 prompts x 2 draws x 256 tokens, and what is sent.
    (row,) = [r for r in costs.forecast(params).rows if r["job"] == "responses"]
    assert row["received at most"] == 48 * 256
    assert row["dollars"] == pytest.approx((row["tokens sent"] + 2 * 48 * 256) / 1e6, rel=1e-3)


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"prices": {"stub": {"prompt": "cheap", "completion": 2.0}}}, r"providers\.stub\.prices\.stub\.prompt"),
        ({"prices": {"stob": {"prompt": 1.0, "completion": 1.0}}}, r"providers\.stub\.prices .*'stub'.*policies\.p0"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
    ],
)
def test_a_bad_limit_or_price_names_its_key(home, wrong, key):
    with pytest.raises(ParamsError, match=key):
        make_params(home, NOWHERE, **wrong)


# What stops a run


def quota(status=429, **said):
    return web.json_response({"error": said}, status=status)


REFUSALS = {
    "key": (error(401, f"Incorrect API key: {SECRET}", "invalid_api_key"), "http_401: .*<ARENA_CANARY>.*ARENA_CANARY"),
    "402": (error(402, "payment required"), r"http_402.*providers\.stub"),
    "429": (error(429, "you ran out", "insufficient_quota"), r"insufficient_quota.*providers\.stub"),
    "type of a 429": (quota(code="rate_limit_exceeded", type="insufficient_quota"), r"insufficient_quota.*\.stub"),
    "number as code": (quota(code=429, type="insufficient_quota"), r"insufficient_quota.*providers\.stub"),
    "200 with an error": (quota(200, code="insufficient_quota", message=f"no {SECRET}"), "insufficient_quota"),
    "404": (error(404, "no such url"), "http_404.*base_url"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_that_all_requests_share_stops_the_run_and_the_same_command_goes_on(home, stub, refusal):
    made, says = REFUSALS[refusal]
    how = {"body": made.body, "status": made.status, "content_type": "application/json"}
    stub.fault = lambda _, n: web.Response(**how) if n > 20 else None
    params = make_params(home, stub.url, n_prompts=20, draws=1, concurrency=8, api_key_env="ARENA_CANARY")
    with pytest.raises(ArenaError, match=f"^responses: stopped: .*{says}") as caught:
        run_responses(params)
    assert "sk-" not in str(caught.value)
    paid = sum(stub.ledger.values())
    assert 20 <= stub.requests <= 20 + 2 * 8
    assert {r["status"] for r in Store.read(paths.store_file("stub")).rows()} == {"ok"}
    stub.fault = None
    _, outcome = run_responses(params)
    assert (outcome.stored, outcome.ok) == (paid, 40 - paid)
    assert set(stub.ledger.values()) == {1}, "what was answered before is not asked again"


@pytest.mark.parametrize(
    ("kind", "answer", "says"),
    [
        ("messages", lambda: error(401, "who are you"), r"http_401: .*providers\.stub .*api_key_env"),
        ("messages", lambda: {"choices": []}, r"first 5 of responses by stub stub .*: no_choice"),
        ("prompt", lambda: error(404, "no such url"), r"http_404: .*echo_logprobs .*providers\.stub\.capabilities"),
        ("prompt", lambda: {"choices": [{"logprobs": {"token_logprobs": [-1.0]}}]}, r"first 5 .*echo_ignored"),
    ],
)
def test_what_no_answer_can_be_used_of_stops_within_a_window_with_what_to_do(home, stub, kind, answer, says):
    """By the pilot too, before the bulk is paid."""
    stub.fault = lambda body, n: answer() if kind in body else None
    params = make_params(home, stub.url, n_prompts=20, concurrency=8)
    frame, store = prepared(params)
    with pytest.raises(ArenaError, match=f"^pilot: .*{says}"):
        pilot.run(params, store, frame)
    assert stub.requests <= 10
    with pytest.raises(ArenaError, match=says):
        run_scores(params, run_responses(params)[0])
    assert {r["value"] is None for r in store.rows("logprobs" if kind == "prompt" else "responses")} <= {True}


def test_what_the_pilot_measured_is_not_asked_again(home, stub):
    params = make_params(home, stub.url)
    frame, store = prepared(params)
    pilot.run(params, store, frame)
    assert stub.requests == 10
    pilot.run(params, store, frame)  # goes on from there
    run_responses(params)
    run_scores(params, store)
    pilot.run(params, store, frame)
    assert stub.requests == 48 + 24
    assert set(stub.ledger.values()) == {1, 2}, "scores of p0 and its clone are the same request"


def test_the_breaker_sees_one_failing_policy_among_good_ones(home, stub):
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

    stub.fault = fault
    changed = make_params(home, stub.url, n_prompts=80, draws=1, concurrency=4).model_dump()
    changed["policies"]["pi_clone"]["suffix"] = " please"
    params = type(make_params(home, stub.url, n_prompts=80)).model_validate(changed)
    store, _ = run_responses(params)
    with pytest.raises(ArenaError, match="pi_clone: 40 of the last 50 "):
        run_scores(params, store)
    assert len(failed) <= 50 + 4


# Ctrl-C


@contextlib.contextmanager
def interrupted(stub, after, times=1):
    """Ctrl-C to this process when the server has had so many requests, and again; the seconds since then."""
    sent = []

    def strike():
        while stub.requests < after:
            time.sleep(0.01)
        for _ in range(times):
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    striking = threading.Thread(target=strike, daemon=True)
    striking.start()
    with pytest.raises(ArenaError, match=r"^responses: stopped on request"):
        yield
    striking.join()
    assert time.monotonic() - sent[0] < 15


def in_a_notebook(work, *args):
    """As a cell of Jupyter does it: an event loop is running in this thread, and Ctrl-C is a KeyboardInterrupt."""

    async def cell():
        return work(*args)

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        return loop.run_until_complete(cell())


@pytest.mark.parametrize("where", [lambda work, *args: work(*args), in_a_notebook], ids=["command", "notebook"])
def test_ctrl_c_stores_what_is_in_flight_and_the_same_command_goes_on(home, stub, where):
    stub.delay = 0.3
    params = make_params(home, stub.url, n_prompts=15, concurrency=8)
    with interrupted(stub, after=16):
        where(run_responses, params)
    rows = list(Store.open(paths.store_file(params.run)).rows())
    assert {r["status"] for r in rows} == {"ok"}
    assert len(rows) == sum(stub.ledger.values()) < 60
    stub.delay = 0.0
    _, outcome = where(run_responses, params)
    assert outcome.stored + outcome.ok == 60
    assert set(stub.ledger.values()) == {1}


def test_what_waits_for_its_turn_is_not_sent_any_more(home, stub):
    """64 requests at two per second would take 32 seconds."""
    params = make_params(home, stub.url, n_prompts=50, concurrency=64, requests_per_minute=120)
    with interrupted(stub, after=4):
        run_responses(params)
    assert stub.requests <= 4 + 6


def test_what_waits_for_a_retry_is_not_sent_any_more(home, stub):
    stub.fault = lambda body, n: error(429, "later", **{"Retry-After": "60"}) if n == 5 else None
    stub.delay = 0.2
    with interrupted(stub, after=5):
        run_responses(make_params(home, stub.url, n_prompts=50, concurrency=4))


def test_a_second_ctrl_c_drops_what_is_in_flight(home, stub):
    stub.delay = 60.0
    with interrupted(stub, after=4, times=2):
        run_responses(make_params(home, stub.url, n_prompts=50, concurrency=4, timeout_seconds=90))
