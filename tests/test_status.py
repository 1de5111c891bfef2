"""How far a run is and how it looks, read while it is going on."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
from functools import partial

import numpy as np
import pytest
import yaml

from arena10k import paths
from arena10k.audit import checks, status
from arena10k.collection import generate, judge
from arena10k.collection import teacher_forcing as forced
from arena10k.collection.collect import collect
from arena10k.errors import ArenaError
from arena10k.explore.source import Recorded
from arena10k.frames import table
from arena10k.params.config import load as load_params
from arena10k.pipeline import failures, runner, stopping
from arena10k.run import Run
from in_process import arena
from stub_run import made, make_params, opened, prepared, run_responses
from stub_server import Stub, chat_answer

NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture
def begun(home):
    """A run of 240 prompts of which nothing is collected yet."""
    params = make_params(home, NOWHERE, n_prompts=240, draws=1)
    frame, store = opened(params)
    return params, store, frame


def test_a_run_of_which_nothing_is_measured_has_no_controls_and_a_dash_in_every_column(begun):
    params, store, _ = begun
    found, scores = status.controls(params, store)
    assert all(c["value"] is None for c in found)
    assert str(len(found)) in status.controls_sentence(found, scores).split()
    printed = told("status", params.run)
    assert "None" not in printed.split("controls")[0].split("\n", 1)[1].rsplit("\n", 1)[0]
    assert re.search(r"responses +p0 +240 +0 +0 +0\.0 +-\n", printed)


def test_controls_of_a_small_run_are_those_of_the_whole():
    sample = Run("sample")
    found, scores = status.controls(sample.params, sample.store)
    assert found == checks.measure(sample.params, sample.table(), sample.store)
    assert scores.equals(judge.summary(sample.params, sample.store))
    weight = np.exp(sample.table().log_weights()["pi_bad"]).mean()
    assert f"pi_bad {weight:.3g}" in status.controls_sentence(found, scores)
    assert "P0 against itself" in status.controls_sentence(found, scores)


def test_controls_look_at_the_first_prompts_only_and_leave_the_store_as_it_is(begun):
    params, store, frame = begun
    records = []
    for i, prompt_id in enumerate(frame.prompt_id):
        late = i >= status.LOOKED_AT
        for name, value in (("p0", -8.0), ("pi_clone", 30.0 if late else -8.0 + math.log(2))):
            records.append(made(params, "responses", name, prompt_id, "text", [-0.8, -7.2]))
            records.append(made(params, "logprobs", name, prompt_id, value, [value / 2, value / 2]))
    store.put_all(records)
    (mean,) = [c["value"] for c in status.controls(params, store)[0] if c["check"] == "mean_weight"]
    assert mean == pytest.approx(2)
    whole = table.build(params, frame, store).log_weights()["pi_clone"]
    assert (len(whole), whole.max()) == (240, 38)


def test_models_that_took_turns_are_all_named_and_counted_once(begun):
    params, store, frame = begun
    for i, model in enumerate(["a", "b", "c", "b", "a", "b"]):
        record = made(params, "responses", "p0", frame.prompt_id[i], "x", [])
        failed = {"status": "error", "value": None, "code": "timeout"} if i > 3 else {}
        store.put(dataclasses.replace(record, model=model, **failed))
    state = status.progress(params, store, now=record.created + 1)
    (job,) = [j for j in state["jobs"] if (j["job"], j["policy"]) == ("responses", "p0")]
    assert (job["ok"], job["errors"], job["models"]) == (4, {"timeout": 2}, ["a", "b", "c"])
    assert job["eta_seconds"] == pytest.approx((240 - 6) / job["rate"])
    assert "p0 (a and b and c)" in status.sentence(state)


def edited(home, **sections):
    raw = yaml.safe_load((home / "stub.yaml").read_text())
    (home / "stub.yaml").write_text(yaml.safe_dump(raw | sections))
    return load_params(home / "stub.yaml")


def collected(params, *kinds):
    """The params and the store of a run after these kinds of tasks were collected."""
    frame, own = prepared(params)
    own.close()
    store = Run(params).store
    tasks = {"responses": partial(generate.tasks, params, frame), "logprobs": partial(forced.tasks, params, store)}
    for kind in kinds:
        collect(params, store, tasks[kind], "asked")
    return params, store


def asked(home, url, *kinds, **provider):
    """A run of 30 prompts without an oracle."""
    make_params(home, url, n_prompts=30, draws=1, **provider)
    return collected(edited(home, oracle={"p0_fraction": 0.0, "target_labels": 0}), *kinds)


def test_what_an_endpoint_does_not_declare_is_not_missing(home):
    with Stub() as stub:
        params, store = asked(home, stub.url, "responses", "logprobs", capabilities={})
    state, found = status.progress(params, store), status.coverage(params, store)
    assert {job["job"] for job in state["jobs"]} == {"responses"}
    assert state["rows_with_all_logprobs"] is None
    assert "logprobs" not in found["jobs"]
    assert {"p0", "pi_clone", "30/30"} <= set(re.findall(r"[\w/]+", status.sentence(state)))
    for text in (status.sentence(state), found["sentence"], told("status", "stub")):
        assert "providers.stub does not declare capabilities.echo_logprobs" in text


def test_what_an_endpoint_declared_and_did_not_give_is_not_missing_either(home):
    def fault(body, n):
        if "messages" in body:
            return None
        return {"choices": [{"index": 0, "text": "", "logprobs": {"token_logprobs": [-1.0]}}]}

    with Stub(fault) as stub:
        params, store = asked(home, stub.url, "responses")
        with pytest.raises(ArenaError, match=r" 5 .*echo_ignored.*providers\.stub\.capabilities"):
            collected(params, "logprobs")
    state = status.progress(params, store)
    assert "providers.stub" in status.sentence(state)
    assert sum(job["total"] for job in state["jobs"] if job["job"] == "logprobs") == 5  # what was tried, and no more
    assert "5 failed measurements" in status.sentence(state)
    assert state["complete_rows"] == 30


def test_where_one_policy_cannot_be_scored_the_others_are_counted_and_what_is_there_always_is(home):
    with Stub() as stub:
        asked(home, stub.url, "responses", "logprobs")
        params, store = asked(home, stub.url, capabilities={})
        state, found = status.progress(params, store), status.coverage(params, store)
        scored = [(j["policy"], j["ok"]) for j in state["jobs"] if j["job"] == "logprobs"]
        assert scored == [("p0", 30), ("pi_clone", 30)]
        assert (state["not_measurable"], found["jobs"]["logprobs"]) == ({}, {"ok": 60, "total": 60})
        asked(home, stub.url)
        raw = yaml.safe_load((home / "stub.yaml").read_text())
        providers = raw["providers"] | {"chat": raw["providers"]["stub"] | {"capabilities": {}}}
        policies = raw["policies"] | {"pi_chat": raw["policies"]["p0"] | {"provider": "chat"}}
        both = collected(edited(home, providers=providers, policies=policies), "responses", "logprobs")
        sentence = status.sentence(status.progress(*both))
    assert sentence.count("30/30") == 2
    assert "pi_chat" in sentence


def test_what_stopped_a_run_is_told_until_it_goes_through(home, monkeypatch):
    def broken(*_):
        raise RuntimeError("http_401: bad key")

    def stage(run_notebook):
        monkeypatch.setattr(stopping, "run_notebook", run_notebook)
        return arena("stage", "02_responses", "--params", home / "stub.yaml").returncode

    def stopped():
        return [line for line in told("status", "stub").splitlines() if line.startswith("stopped ")]

    prepared(make_params(home, NOWHERE, n_prompts=4, draws=1))
    assert stage(broken) == 2
    (line,) = stopped()
    assert re.match(r"stopped at \d{4}-\d\d-\d\d \d\d:\d\d UTC: 02_responses: .*http_401: bad key", line)
    assert line.endswith(f"arena10k report --params {home / 'stub.yaml'}")
    with runner.only_one("stub"):
        (line,) = stopped()
    assert line.endswith("; it is at work again now")
    assert stage(lambda source, executed, *_: shutil.copy(source, executed)) == 0
    assert stopped() == []


def test_a_reason_that_says_how_to_go_on_is_told_once(home):
    (paths.reports_dir("stub") / "stages").mkdir(parents=True)
    for reason, ends in [
        ("stopped on request; the same command goes on from here", "UTC: stopped on request; this goes on: X"),
        ("its base_url? The same command goes on from here", "UTC: its base_url? This goes on: X"),
        ("the weights are missing.", "UTC: the weights are missing; once that is fixed, this goes on: X"),
    ]:
        failures.note("stub", "02_responses", reason)
        (line,) = failures.explained("stub", "X", at_work=False)
        assert line.endswith(ends)


def told(command, run):
    """What a command of the stub's run prints."""
    out = arena(command, run, "--params", paths.home() / "stub.yaml")
    assert out.returncode == 0, out.stderr
    return out.stdout


@pytest.mark.parametrize(("every", "said"), [(4, True), (30, False)])
def test_responses_that_are_lost_are_a_fact_of_the_policy(home, every, said):
    def thinking(body, n):
        if "messages" not in body or int(body["messages"][-1]["content"].split()[-1]) % every:
            return None
        answer = chat_answer(body)
        answer["choices"][0]["message"] = {"role": "assistant", "content": "", "reasoning_content": "hm"}
        return answer

    with Stub(thinking) as stub:
        params = make_params(home, stub.url, n_prompts=30, draws=1)
        store, outcome = run_responses(params)
    assert set(outcome.errors) == {"reasoning_only"}
    assert status.missing_responses(store)["p0"] == pytest.approx(len(range(0, 30, every)) / 30)
    assert ("responses_missing" in Recorded(params).facts["p0"]) is said
