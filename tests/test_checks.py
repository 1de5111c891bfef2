"""Controls with a known answer: they hold where the server is right and fail, plainly, where it is not."""

from __future__ import annotations

import math
import re
from functools import partial

import numpy as np
import pandas as pd
import pytest

from arena10k import paths
from arena10k.audit import checks
from arena10k.audit.status import progress
from arena10k.collection import teacher_forcing
from arena10k.collection.collect import collect
from arena10k.collection.jobs import SHUFFLED, contexts, expected
from arena10k.collection.store import Store
from arena10k.inputs import prompts
from arena10k.run import Run
from arena10k.statistics.diagnostics import audit_weights, mean_weight_p_value
from arena10k.statistics.verdicts import IMPOSSIBLE
from arena10k.tables import table
from stub_run import make_params, run_responses
from stub_server import Stub, chat_answer, echo_answer
from test_text_scoring import TEXT


def collected(params):
    """A run with responses, scores and the control; its store, table and checks by name and policy."""
    store, _ = run_responses(params)
    store.using(contexts(params).values())
    collect(params, store, partial(teacher_forcing.tasks, params, store), "teacher forcing")
    outcome = collect(params, store, partial(teacher_forcing.control_tasks, params, store), "control")
    made = table.build(params, prompts.read(params.run), store)
    found = checks.measure(params, made, store)
    return store, outcome, {(c["check"], c["policy"]): c for c in found}, checks.sentence(found)


def minding_the_question(questions):
    """A server whose log-probs fall by 1 nat per token where the response is another question's."""
    own = set()

    def answer(body, n):
        if "messages" in body:
            said = chat_answer(body)
            own.add((*said["prompt_token_ids"], *said["choices"][0]["token_ids"]))
            return None
        good = echo_answer(body)
        if tuple(body["prompt"]) not in own:
            values = good["choices"][0]["logprobs"]["token_logprobs"]
            values[8:] = [v - 1 for v in values[8:]]
        return good

    return answer


def test_every_check_holds_where_the_server_is_right(home):
    with Stub(minding_the_question(30)) as stub:
        params = make_params(home, stub.url, n_prompts=30)
        store, outcome, found, told = collected(params)
        again = collect(params, store, partial(teacher_forcing.control_tasks, params, store), "control")
    assert outcome.ok == again.stored == 20 == expected(params, 30)[SHUFFLED, "p0"]
    assert all(check["ok"] for check in found.values())
    assert found["shuffled_prompt", "p0"]["value"] == 1
    assert found["clone", "pi_clone"]["value"] == 0
    assert found["mean_weight", "pi_clone"]["value"] == 1
    assert re.findall(r"\d+", told) == ["6"]
    tokens = [len(r["payload"]["token_logprobs"]) for r in store.rows(SHUFFLED)]
    assert checks.shuffled(params, store).to_numpy() == pytest.approx(tokens), "1 nat per token, as the server has it"
    assert progress(params, store)["rows_with_all_logprobs"] == 30


def test_a_server_that_ignores_the_question_fails_the_control_and_nothing_else(home):
    with Stub() as stub:
        _, _, found, told = collected(make_params(home, stub.url))
    assert [key for key, check in found.items() if not check["ok"]] == [("shuffled_prompt", "p0")]
    assert found["shuffled_prompt", "p0"]["value"] == 0
    assert re.findall(r"\bp0\b|[\d.]*\d", told) == ["1", "6", "p0", "0", "0.75"]


def test_text_policies_have_the_control_too(home):
    with Stub() as stub:
        params = make_params(home, stub.url, n_prompts=12, **TEXT)
        store, outcome, found, _ = collected(params)
    assert (outcome.ok, found["self_consistency_median", "p0"]["ok"]) == (12, True)
    rendered = {r["prompt_id"]: r["payload"]["prompt_text"] for r in store.rows("responses")}
    assert len(set(rendered.values())) == 12


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        (lambda rng: rng.normal(0, 0.01, 60), set()),
        (lambda rng: np.full(60, 0.2), {"self_consistency_median", "self_consistency_mean", "clone"}),
        # Every weight of the clone is e to the 0.2, which chance cannot do to weights of mean 1.
        (lambda rng: np.full(60, -0.2), {"self_consistency_median", "self_consistency_mean", "clone", "mean_weight"}),
        (
            lambda rng: np.where(np.arange(60) < 6, 1.5, 0.0),
            {"self_consistency_mean", "self_consistency_tail", "clone"},
        ),
        (lambda rng: np.repeat([-9.0, 9.0], 30), {"self_consistency_median", "self_consistency_tail"}),
    ],
)
def test_differences_are_judged_by_median_mean_and_tail(home, change, failed):
    params = make_params(home, "http://127.0.0.1:9/v1", n_prompts=60)
    store = empty(params)
    delta = change(np.random.default_rng(1))
    generated = pd.Series(np.full(60, -5.0))
    logged = pd.DataFrame({"generation_logp": generated, "generation_forced": generated + delta})
    logged["prompt_id"] = [f"p{i}" for i in range(60)]
    logged["logp_p0"] = logged["logp_pi_clone"] = logged.generation_forced
    if "clone" in failed:
        logged["logp_pi_clone"] = generated
    made = table.Table(logged, logged, logged, {}, {}, "p0", ["pi_clone"])
    found = {c["check"]: c for c in checks.measure(params, made, store)}
    assert {name for name, check in found.items() if check["ok"] is False} == failed
    impossible = mean_weight_p_value((logged.logp_pi_clone - logged.logp_p0).to_numpy()) < IMPOSSIBLE
    assert ("mean_weight" in failed) == impossible, "the rule of the verdicts"
    assert found["self_consistency_mean"]["value"] == pytest.approx(abs(delta.mean()))


def empty(params):
    return Store.open(paths.store_file(params.run)).using(contexts(params).values())


def test_weights_far_above_one_fail_without_overflow(home):
    params = make_params(home, "http://127.0.0.1:9/v1", n_prompts=2)
    logged = pd.DataFrame({"generation_logp": [math.nan] * 2, "generation_forced": [math.nan] * 2})
    logged = logged.assign(prompt_id=["a", "b"], logp_p0=[-900.0, -1.0], logp_pi_clone=[-1.0, -1.0])
    made = table.Table(logged, logged, logged, {}, {}, "p0", ["pi_clone"])
    found = {c["check"]: c for c in checks.measure(params, made, empty(params))}
    assert found["mean_weight"]["ok"] is False
    assert math.isfinite(found["mean_weight"]["value"])
    assert found["self_consistency_median"] == {
        "check": "self_consistency_median", "policy": "p0", "value": None, "limit": checks.CONSISTENT, "p_value": None,
        "ok": None,
    }  # fmt: skip


def test_a_recording_is_not_asked_and_says_what_it_lacks():
    run = Run("sample")
    assert list(teacher_forcing.control_tasks(run.params, run.store)) == []
    assert (SHUFFLED, "p0") not in expected(run.params, len(run.prompts))
    found = checks.measure(run.params, run.table(), run.store)
    measured = len(list(run.store.rows(SHUFFLED)))
    shuffled = next(c for c in found if c["check"] == "shuffled_prompt")
    assert (shuffled["ok"] is None) == (not measured)
    assert all(c["ok"] for c in found if c["check"] != "shuffled_prompt")


def test_a_mean_weight_that_holds_is_no_approval_of_a_policy_the_log_does_not_represent():
    run = Run("sample")
    found = checks.measure(run.params, run.table(), run.store)
    says = checks.frame(found).set_index(["what", "policy"]).outcome
    verdicts = {p: audit_weights(lw[np.isfinite(lw)]).failures for p, lw in run.table().log_weights().items()}
    for policy, failures in verdicts.items():
        assert (says["mean weight", policy] == "holds") == ("mean_weight_out_of_range" not in failures)
    assert "mean_weight_out_of_range" in verdicts["pi_bad"]
    assert "(pi_cot 0.471, pi_more_shots 1.42, pi_terse 0.568, pi_bad 0.208)" in checks.sentence(found)


def test_what_was_not_measured_neither_holds_nor_fails():
    def check(name, policy, value, ok, limit=None):
        return {"check": name, "policy": policy, "value": value, "limit": limit, "p_value": None, "ok": ok}

    unknown = [check(f"self_consistency_{kind}", "base", None, None, 0.1) for kind in ("median", "mean", "tail")]
    unknown.append(check("shuffled_prompt", "base", None, None, 0.75))
    copy = check("clone", "copy", 4.00665, False, 1e-3)
    heavy = [check("mean_weight", "copy", 1.28, False), check("mean_weight", "a", 21.4, False)]
    found = [*unknown, copy, *heavy, check("mean_weight", "b", 1.0, True)]
    assert checks.counts(found) == {"controls_failed": 3, "controls_hold": 1, "controls_not_measured": 4}
    assert re.findall(r"\d[\d.]*\d|\d", checks.summary(found)) == ["3", "4", "4.01", "0.001", "1", "1.28", "21.4", "4"]
    assert {"copy", "base", "a"} <= set(re.findall(r"\w+", checks.summary(found)))
    assert re.findall(r"\d+|base", checks.sentence(unknown)) == ["4", "base", "3", "base"]
    assert checks.frame(found).outcome.tolist() == ["not measured"] * 4 + ["FAILED"] * 3 + ["holds"]
