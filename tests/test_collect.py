"""The engine: every outcome is a measurement or a typed error, and a stopped run goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import yaml

from arena10k import paths
from arena10k.collection import generate, teacher_forcing
from arena10k.collection.collect import collect
from arena10k.collection.store import Store
from arena10k.errors import ArenaError
from arena10k.inputs import prompts
from arena10k.params.config import load
from stub_server import MODEL, Stub, chat_answer, error


def make_params(folder, url, n_prompts=12, draws=2, **provider):
    """A params file of two policies on the stub, with a prompts file of its own."""
    lines = [f'{{"prompt_id": "p{i:04d}", "prompt": "question {i}"}}' for i in range(n_prompts)]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    can = {"token_ids": True, "echo_logprobs": True}
    params = {
        "run": "stub",
        "providers": {"stub": {"base_url": url, "capabilities": can, "timeout_seconds": 5.0, **provider}},
        "policies": {name: {"provider": "stub", "model": MODEL} for name in ("p0", "pi_clone")},
        "prompts": {"source": "jsonl", "path": str(folder / "prompts.jsonl")},
        "responses": {"draws": draws},
    }
    path = folder / "stub.yaml"
    path.write_text(yaml.safe_dump(params))
    return load(path)


def run_responses(params, **options):
    frame, _ = prompts.load(params)
    prompts.write(params, frame)
    store = Store.open(paths.store_file(params.run))
    return store, collect(params, store, partial(generate.tasks, params, frame), "responses", **options)


def test_every_record_is_what_the_server_said(home):
    with Stub() as stub:
        params = make_params(home, stub.url)
        store, outcome = run_responses(params)
        responses = list(store.rows("responses"))
        assert (outcome.total, outcome.ok, outcome.errors) == (48, 48, {})
        collect(params, store, partial(teacher_forcing.tasks, params, store), "teacher forcing")
    policies = generate.policies(params)
    texts = prompts.read("stub").set_index("prompt_id").prompt
    for row in responses:
        seed = policies[row["policy"]].seed(params.seed, row["prompt_id"], row["draw"])
        said = chat_answer({"model": MODEL, "messages": policies["p0"].messages(texts[row["prompt_id"]]), "seed": seed})
        assert row["value"] == said["choices"][0]["message"]["content"]
    forced = {(r["policy"], r["prompt_id"]): r["value"] for r in store.rows("logprobs")}
    assert len(forced) == 24
    for row in responses:
        if row["policy"] == "p0" and row["draw"] == 0:
            assert forced["p0", row["prompt_id"]] == pytest.approx(sum(row["payload"]["token_logprobs"]), abs=1e-12)
            assert forced["p0", row["prompt_id"]] == forced["pi_clone", row["prompt_id"]]


def test_a_second_run_asks_nothing(home):
    with Stub() as stub:
        params = make_params(home, stub.url)
        run_responses(params)
        asked = stub.requests
        _, outcome = run_responses(params)
        assert (outcome.stored, outcome.ok, stub.requests) == (48, 0, asked)


def test_transient_faults_are_retried(home):
    seen = set()

    def flaky(body, n):
        key = str(body)
        if key in seen:
            return None
        seen.add(key)
        return [error(429, "slow down", **{"Retry-After": "0"}), error(500, "oops"), "disconnect"][n % 3]

    with Stub(flaky) as stub:
        store, outcome = run_responses(make_params(home, stub.url, n_prompts=4))
    assert (outcome.ok, outcome.errors) == (16, {})
    assert {r["status"] for r in store.rows()} == {"ok"}


def test_lasting_faults_become_error_rows_and_are_asked_again_only_on_request(home):
    def refuse(body, n):
        return error(400, "blocked", "content_filter") if "question 3" in body["messages"][-1]["content"] else None

    with Stub(refuse) as stub:
        params = make_params(home, stub.url)
        store, outcome = run_responses(params)
        assert (outcome.ok, outcome.errors) == (44, {"content_filter": 4})
        bad = [r for r in store.rows() if r["status"] == "error"]
        assert {(r["prompt_id"], r["value"], r["code"]) for r in bad} == {("p0003", None, "content_filter")}
        asked = stub.requests
        _, again = run_responses(params)
        assert (stub.requests, again.errors) == (asked, {"content_filter": 4})
        stub.fault = None
        _, retried = run_responses(params, retry_errors=True)
        assert (retried.ok, retried.errors) == (4, {})
    assert {(r["status"], r["attempts"]) for r in store.rows() if r["prompt_id"] == "p0003"} == {("ok", 2)}


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (lambda body, n: error(401, "bad key", "invalid_api_key"), "http_401: bad key"),
        (lambda body, n: error(429, "you ran out", "insufficient_quota"), "insufficient_quota"),
        (lambda body, n: {"choices": []}, "none of the first 5 of responses by stub stub can be used: no_choice"),
    ],
)
def test_faults_that_all_share_stop_the_run_within_a_window(home, fault, says):
    with Stub(fault) as stub:
        params = make_params(home, stub.url, n_prompts=200, concurrency=8)
        with pytest.raises(ArenaError, match=says):
            run_responses(params)
        assert stub.requests <= 64
    assert all(r["value"] is None for r in Store.open(paths.store_file("stub")).rows())


def test_unreachable_server_and_unserved_model_are_said_before_any_work(home):
    params = make_params(home, "http://127.0.0.1:9/v1", max_attempts=1)
    with pytest.raises(ArenaError, match=r"providers\.stub: http://127\.0\.0\.1:9/v1: connection"):
        run_responses(params)
    with Stub() as stub:
        other = make_params(home, stub.url)
        policy = other.policies["p0"].model_copy(update={"model": "nowhere"})
        other = other.model_copy(update={"policies": dict(other.policies) | {"p0": policy}})
        with pytest.raises(ArenaError, match="does not serve nowhere; it serves stub"):
            run_responses(other)
        assert stub.requests == 0


def test_a_missing_key_names_the_variable_and_a_present_one_leaves_no_trace(home, monkeypatch, capfd):
    canary = "sk-canary-5f1d"
    with Stub() as stub:
        params = make_params(home, stub.url, api_key_env="ARENA_TEST_KEY")
        with pytest.raises(ArenaError, match=r"providers\.stub: environment variable ARENA_TEST_KEY is not set"):
            run_responses(params)
        monkeypatch.setenv("ARENA_TEST_KEY", canary)
        run_responses(params)
        assert stub.keys == {f"Bearer {canary}"}
    written = b"".join(p.read_bytes() for p in home.rglob("*") if p.is_file())
    assert canary.encode() not in written
    assert canary not in "".join(capfd.readouterr())


RESUMABLE = """
import sys
from functools import partial
from arena10k import paths
from arena10k.collection import generate
from arena10k.inputs import prompts
from arena10k.collection.collect import collect
from arena10k.params.config import load
from arena10k.collection.store import Store
params = load(sys.argv[1])
frame, _ = prompts.load(params)
prompts.write(params, frame)
collect(params, Store.open(paths.store_file(params.run)), partial(generate.tasks, params, frame), "responses")
"""


def test_kill_9_and_resume_gives_the_records_of_an_uninterrupted_run(home, tmp_path_factory, monkeypatch):
    with Stub(delay=0.02) as stub:
        params = make_params(home, stub.url, n_prompts=150, concurrency=4)
        command = [sys.executable, "-c", RESUMABLE, str(home / "stub.yaml")]
        kills = 0
        for _ in range(3):
            with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
                before = stub.requests
                while stub.requests < before + 60 and child.poll() is None:
                    time.sleep(0.01)
                os.kill(child.pid, signal.SIGKILL)
                kills += 1
        store, outcome = run_responses(params)
        assert kills == 3
        assert outcome.stored > 0
        assert outcome.stored + outcome.ok == 600
        # Only what was in flight at a kill is asked twice.
        assert sum(stub.ledger.values()) <= 600 + 3 * 4
        elsewhere = tmp_path_factory.mktemp("uninterrupted")
        monkeypatch.setenv("ARENA10K_HOME", str(elsewhere))
        whole, _ = run_responses(make_params(elsewhere, stub.url, n_prompts=150))
    assert store.content_digest("responses") == whole.content_digest("responses")
