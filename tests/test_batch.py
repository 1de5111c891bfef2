"""The Batch API: the same records as by single requests, whatever goes wrong, and nothing paid for twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import threading
import time
from dataclasses import replace
from functools import partial

import pytest

from arena10k import paths
from arena10k.collection import batch, client, generate
from arena10k.collection.collect import collect
from arena10k.collection.store import Store
from arena10k.collection.tasks import PREFLIGHT, Measurement
from arena10k.errors import ArenaError
from arena10k.inputs import prompts
from stub_run import forked, make_params, run_responses, run_scores
from stub_server import Stub, chat_answer, error

BATCH = {"mode": "batch", "batch_poll_seconds": 0.02, "timeout_seconds": 1.0}


@pytest.fixture
def elsewhere(tmp_path_factory):
    """Runs a function in a home of its own."""

    def run(function):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ARENA10K_HOME", str(other := tmp_path_factory.mktemp("elsewhere")))
            return function(other)

    return run


@pytest.fixture
def stub():
    """The stub, which a test tells how to misbehave."""
    with Stub() as made:
        yield made


def goes_on(stub, params, of, **options):
    """A run that asks for what is left of so many tasks, each paid for once; its store and what it had and measured."""
    store, outcome = run_responses(params, **options)
    assert outcome.stored + outcome.ok == of
    assert outcome.errors == {}
    assert set(stub.ledger.values()) == {1}
    assert owed(store) == 0
    return store, (outcome.stored, outcome.ok)


def owed(store):
    return store._db.execute("SELECT COUNT(*) FROM batch_tasks").fetchone()[0]


def test_the_same_records_and_payments_as_by_single_requests(home, stub, elsewhere, capfd):
    def both_jobs(folder, **provider):
        params = make_params(folder, stub.url, n_prompts=15, **provider)
        store, outcome = run_responses(params)
        return store, outcome, run_scores(params, store)

    store, outcome, forced = both_jobs(home, **BATCH)
    assert (outcome.ok, forced.ok, outcome.errors, forced.errors) == (60, 30, {}, {})
    by_batch = stub.ledger.copy()
    assert len(stub.batches.batches) == 2  # one per job: two policies, one model
    stub.ledger.clear()
    single, *_ = elsewhere(both_jobs)
    assert by_batch == stub.ledger
    jobs = ("responses", "logprobs")
    assert store.content_digest(*jobs) == single.content_digest(*jobs)
    ours, theirs = ([(r["payload"], r["prompt_tokens"], r["model"]) for r in s.rows()] for s in (store, single))
    assert ours == theirs
    assert owed(store) == 0
    assert "batch batch_0:" in capfd.readouterr().err
    # What an answer in a batch took is not known; that of the preflight is.
    assert sum(r["seconds"] is not None for r in store.rows()) == 2 * PREFLIGHT


def test_an_answer_in_a_batch_may_carry_the_alias_of_its_model(home, stub):
    stub.fault = lambda body, n: chat_answer(body) | {"model": "behind-it"}
    params = make_params(home, stub.url, n_prompts=10, draws=1, **BATCH)
    aliased = {name: p.model_copy(update={"model_alias": "behind-it"}) for name, p in params.policies.items()}
    _, outcome = run_responses(params.model_copy(update={"policies": aliased}))
    assert (outcome.ok, outcome.errors) == (20, {})


def test_faults_of_lines_become_the_rows_that_single_requests_give(home, stub, elsewhere):
    faults = {
        11: lambda: error(400, "blocked", "content_filter"),
        13: lambda: error(500, "oops"),
        15: lambda: {"choices": []},
        17: lambda: {"model": "another", "choices": []},
        19: lambda: error(422, "no code"),
    }
    stub.fault = lambda body, n: faults.get(int(body["messages"][-1]["content"].split()[-1]), lambda: None)()
    make = partial(make_params, url=stub.url, n_prompts=30)
    store, outcome = run_responses(make(home, **BATCH))
    assert outcome.errors == dict.fromkeys(["content_filter", "http_500", "no_choice", "wrong_model", "stub"], 4)
    single, _ = elsewhere(lambda other: run_responses(make(other, max_attempts=1)))
    assert store.content_digest("responses") == single.content_digest("responses")
    stub.fault = None
    _, again = run_responses(make(home, **BATCH), retry_errors=True)
    assert (again.ok, again.errors) == (20, {})


def test_a_request_in_neither_file_is_an_error(home, stub):
    stub.fault = lambda body, n: "disconnect" if body["messages"][-1]["content"].endswith(" 11") else None
    store, outcome = run_responses(make_params(home, stub.url, **BATCH))
    assert (outcome.ok, outcome.errors) == (44, {"missing_in_batch": 4})
    assert {r["prompt_id"] for r in store.rows() if r["status"] == "error"} == {"p0011"}


def test_a_line_that_all_others_would_share_stops_the_run_and_the_paid_answers_are_kept(home, stub):
    stub.fault = lambda body, n: error(429, "you ran out", "insufficient_quota") if n > 30 else None
    params = make_params(home, stub.url, **BATCH)
    with pytest.raises(ArenaError, match="insufficient_quota"):
        run_responses(params)
    assert [r["status"] for r in Store.open(paths.store_file("stub")).rows()] == ["ok"] * 30
    stub.fault = None
    assert goes_on(stub, params, of=48)[1] == (30, 18)


def test_the_breaker_stops_before_the_next_batch(home, stub):
    stub.fault = lambda body, n: {"choices": []} if n > PREFLIGHT else None
    params = make_params(home, stub.url, n_prompts=60, batch_max_requests=60, **BATCH)
    with pytest.raises(ArenaError, match=r"45 of the last 50 requests gave no measurement, most recently no_choice"):
        run_responses(params)
    assert len(stub.batches.batches) == 1
    store = Store.open(paths.store_file("stub"))
    assert len(list(store.rows())) == PREFLIGHT + 60
    assert owed(store) == 0


@pytest.mark.parametrize("ending", ["expired", "cancelled"])
def test_what_an_ended_batch_did_not_come_to_is_never_tried(home, stub, capfd, ending):
    stub.batches.stop_after = (ending, 20)
    params = make_params(home, stub.url, **BATCH)
    store, outcome = run_responses(params)
    assert (outcome.ok, outcome.failed, len(list(store.rows()))) == (PREFLIGHT + 20, 0, PREFLIGHT + 20)
    says = f"responses: providers.stub: batch batch_0 {ending} with 23 measurements not made; the same command asks"
    assert says in capfd.readouterr().err
    stub.batches.stop_after = None
    assert goes_on(stub, params, of=48)[1] == (25, 23)


def test_a_refused_file_is_told_with_message_and_line_and_asked_anew(home, stub):
    stub.batches.refuse = ("This line is too long.", 7)
    params = make_params(home, stub.url, **BATCH)
    with pytest.raises(ArenaError, match=r"providers\.stub: batch batch_0 was refused: line 7: This line is too long"):
        run_responses(params)
    stub.batches.refuse = None
    assert goes_on(stub, params, of=48)[1] == (PREFLIGHT, 43)


def test_faults_of_the_api_are_retried_and_a_batch_is_created_once(home, stub, monkeypatch):
    monkeypatch.setattr(client, "_wait", lambda state: 0.01)
    seen = []

    async def flaky(name):
        seen.append(name)
        if seen.count(name) <= 2 and name != "list":
            return [error(500, "oops"), "disconnect"][seen.count(name) % 2]
        return None

    stub.batches.moment = flaky
    goes_on(stub, make_params(home, stub.url, **BATCH), of=48)
    assert len(stub.batches.batches) == 1
    assert {"upload", "uploaded", "create", "created", "list", "retrieve", "content"} == set(seen)


def test_a_provider_without_batches_is_told(home, stub):
    async def absent(name):
        return error(404, "unknown url")

    stub.batches.moment = absent
    with pytest.raises(ArenaError, match=r"cannot be handed over: http_404: unknown url; `mode: requests`"):
        run_responses(make_params(home, stub.url, **BATCH))
    assert owed(Store.open(paths.store_file("stub"))) == 0


def test_chunks_hold_what_they_may_and_every_task_whole(home, monkeypatch):
    params = make_params(home, "http://127.0.0.1:9/v1", n_prompts=10)
    tasks = list(generate.tasks(params, prompts.load(params)[0]))

    async def packed(max_requests):
        return [(c.requests, c.size, c.file.tell(), c.rows) async for c in batch.chunks(iter(tasks), max_requests)]

    by_requests = asyncio.run(packed(max_requests=12))
    assert [c[0] for c in by_requests] == [12, 12, 12, 4]
    monkeypatch.setattr(batch, "MAX_BYTES", 3000)
    by_bytes = asyncio.run(packed(max_requests=1000))
    assert all(size == written <= 3000 and requests == len(rows) for requests, size, written, rows in by_bytes)
    for parts in (by_requests, by_bytes):
        assert [row for part in parts for row in part[3]] == [task.row for task in tasks]
    monkeypatch.setattr(batch, "MAX_BYTES", 50)
    with pytest.raises(ArenaError, match=r"takes 1 requests of \d+ bytes together; a batch holds"):
        asyncio.run(packed(max_requests=9))
    monkeypatch.undo()
    tasks = [replace(task, requests=task.requests * 3) for task in tasks]
    assert [c[0] for c in asyncio.run(packed(max_requests=100))] == [99, 21]
    tasks += [replace(task, prompt_id="another") for task in tasks[:1]]  # the same request hash
    names = [name for task in tasks for name in batch.custom_ids(task)]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 64


def test_a_task_of_several_requests_reads_its_answers_in_their_order(home, stub, elsewhere):
    def tasks(params):
        for task in generate.tasks(params, prompts.load(params)[0]):
            (request,) = task.requests
            several = tuple(replace(request, body=request.body | {"seed": seed}) for seed in (3, 1, 2))
            yield replace(task, requests=several, read=joined)

    def joined(answers):
        return Measurement(" | ".join(answer["choices"][0]["message"]["content"] for answer in answers), {})

    def run(folder, **provider):
        params = make_params(folder, stub.url, **provider)
        store = Store.open(paths.store_file("stub"))
        return store, collect(params, store, partial(tasks, params), "several")

    store, outcome = run(home, batch_max_requests=31, **BATCH)
    assert (outcome.ok, len(stub.batches.batches)) == (48, 5)
    single, _ = elsewhere(run)
    assert store.content_digest("responses") == single.content_digest("responses")


# "lost": the request to create a batch dies with the run; "late": it is heard after the next run looked for its batch.
KILLS = int(os.environ.get("ARENA10K_FAULT_KILLS", "1"))
MOMENTS = ["upload", "uploaded", "lost", "late", "create", "created", "retrieve", "content"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_9_at_any_moment_pays_nothing_twice_and_loses_nothing(home, stub, moment):
    patience = {"timeout_seconds": 60.0 if moment == "late" else 1.0}
    params = make_params(home, stub.url, n_prompts=20, batch_max_requests=50, **BATCH | patience)
    children, struck, looked = [], [], asyncio.Event()

    async def strike(name):
        if name == "list":
            looked.set()
        if name == {"lost": "create", "late": "create"}.get(moment, moment) and not struck:
            struck.append(name)
            children[-1].kill()
            if moment == "late":
                looked.clear()
                await looked.wait()
            return error(500, "never heard") if moment == "lost" else None
        return None

    stub.batches.moment = strike
    for _ in range(KILLS):
        struck.clear()
        with forked(run_responses, params) as child:
            children.append(child)
        if not struck:  # there was no such moment left
            break
        assert child.exitcode == -signal.SIGKILL
    assert children[0].exitcode == -signal.SIGKILL
    goes_on(stub, params, of=80)
    assert len(stub.ledger) == 80


def test_kill_9_while_answers_are_stored_reads_the_rest_and_counts_no_attempt_twice(home, stub):
    def stored():
        try:
            with sqlite3.connect(f"file:{paths.store_file('stub')}?mode=ro", uri=True) as db:
                return db.execute("SELECT COUNT(*) FROM records").fetchone()[0]
        except sqlite3.OperationalError:
            return 0

    stub.fault = lambda body, n: {"choices": []} if n % 3 == 0 and n > PREFLIGHT else None
    params = make_params(home, stub.url, n_prompts=150, **BATCH)
    with forked(run_responses, params) as child:
        while child.is_alive() and stored() <= PREFLIGHT:
            time.sleep(0.001)
        child.kill()
    assert PREFLIGHT < stored() < 600
    store, outcome = run_responses(params)
    assert outcome.stored + outcome.ok + outcome.failed == 600
    assert stub.requests == 600
    assert {r["attempts"] for r in store.rows()} == {1}


def test_ctrl_c_while_waiting_stops_and_the_same_command_picks_the_batch_up(home, stub, capfd):
    stub.batches.hold = True
    params = make_params(home, stub.url, **BATCH | {"batch_poll_seconds": 3600.0})
    waiting = threading.Event()

    async def note(name):
        if name == "retrieve":
            waiting.set()

    def strike():
        waiting.wait(60)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    stub.batches.moment = note
    (striking := threading.Thread(target=strike)).start()
    begun = time.monotonic()
    with pytest.raises(ArenaError, match="stopped on request"):
        run_responses(params)
    striking.join()
    assert time.monotonic() - begun < 60, "an hour before the next look"
    assert "batch batch_0 " in capfd.readouterr().err
    stub.batches.hold = False
    # Also where the provider is asked by single requests from now on.
    single = params.model_copy(update={"providers": make_params(home, stub.url).providers})
    assert goes_on(stub, single, of=48)[1] == (PREFLIGHT, 43)


def test_a_batch_that_the_provider_denies_is_kept_until_it_is_given_up(home, stub):
    stub.batches.deny = True
    params = make_params(home, stub.url, **BATCH)
    for _ in range(2):
        with pytest.raises(ArenaError, match=r"does not know batch batch_0 of 43 .*--retry-errors gives it up"):
            run_responses(params)
    with pytest.raises(ArenaError, match="given up: the same command asks anew"):
        run_responses(params, retry_errors=True)
    stub.batches.deny = False
    _, outcome = run_responses(params)
    assert (outcome.stored, outcome.ok, len(stub.batches.batches)) == (PREFLIGHT, 43, 2)


def test_two_models_of_one_provider_are_asked_in_batches_of_their_own(home, stub):
    stub.models = {"data": [{"id": "stub"}, {"id": "stub-2"}]}
    params = make_params(home, stub.url, **BATCH)
    changed = params.model_dump()
    changed["policies"]["pi_clone"]["model"] = "stub-2"
    store, _ = goes_on(stub, type(params).model_validate(changed), of=48)
    assert len(stub.batches.batches) == 2
    assert {(r["policy"], r["model"]) for r in store.rows()} == {("p0", "stub"), ("pi_clone", "stub-2")}


@pytest.mark.parametrize("status", [403, 404])
def test_a_batch_that_may_have_been_created_is_not_forgotten_when_the_list_is_refused(home, stub, status):
    """The provider hears the first request for a batch, the answer is lost, and it will not list batches for now."""
    deny = True

    async def moment(name):
        if name == "created" and deny:
            return "disconnect"
        return error(status, "no") if name == "list" and deny else None

    stub.batches.moment = moment
    params = make_params(home, stub.url, max_attempts=2, **BATCH)
    with pytest.raises(ArenaError):
        run_responses(params)
    deny = False
    goes_on(stub, params, of=48)
    assert len(stub.batches.batches) == 1


def test_tasks_that_need_no_request_are_settled_beside_the_batches(home, stub):
    params = make_params(home, stub.url, **BATCH)
    store, _ = run_responses(params)
    row = next(r for r in store.rows() if r["policy"] == "p0" and r["draw"] == 0)
    emptied = json.dumps(row["payload"] | {"token_ids": []})
    store._db.execute("UPDATE records SET payload = ? WHERE request_hash = ?", (emptied, row["request_hash"]))
    outcome = run_scores(params, store)
    assert (outcome.ok, outcome.errors) == (22, {"empty_response": 2})
