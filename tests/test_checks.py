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
from arena10k.estimation.diagnostics import mean_weight_p_value
from arena10k.estimation.pareto import audit_weights
from arena10k.estimation.thresholds import MEAN_WEIGHT_RANGE, WRONG
from arena10k.frames import table
from arena10k.inputs import prompts
from arena10k.run import Run
from stub_run import make_params, run_responses
from stub_server import Stub, chat_answer, echo_answer
from test_text_scoring import TEXT


@pytest.fixture(scope="module")
def sample():
    """The committed recording and its checks."""
    run = Run("sample")
    return run, checks.measure(run.params, run.table(), run.store)


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
    assert outcome.ok == again.stored == 30 == expected(params, 30)[SHUFFLED, "p0"]
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
        store, _, found, _ = collected(make_params(home, stub.url))
    stub_rows = list(store.rows(SHUFFLED))
    assert [key for key, check in found.items() if not check["ok"]] == [("shuffled_prompt", "p0")]
    assert found["shuffled_prompt", "p0"]["value"] == 0
    assert found["shuffled_prompt", "p0"]["p_value"] == 2 * 0.5 ** len(stub_rows), "no row moves: a fair coin's chance"
    assert checks.counts(list(found.values())) == {
        "controls_failed": 1, "controls_hold": 5, "controls_not_settled": 0, "controls_not_measured": 0
    }  # fmt: skip


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
        # Six of 60 rows, where one in twenty may: by chance in one run of 13. Twelve: in one of 20,000.
        (lambda rng: np.where(np.arange(60) < 6, 1.5, 0.0), {"clone"}),
        (
            lambda rng: np.where(np.arange(60) < 12, 1.5, 0.0),
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
    impossible = mean_weight_p_value((logged.logp_pi_clone - logged.logp_p0).to_numpy()) < WRONG
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
        "outcome": checks.NOT_MEASURED, "ok": None,
    }  # fmt: skip


def test_a_recording_is_not_asked_and_says_what_it_lacks(sample):
    run, found = sample
    assert list(teacher_forcing.control_tasks(run.params, run.store)) == []
    assert (SHUFFLED, "p0") not in expected(run.params, len(run.prompts))
    measured = len(list(run.store.rows(SHUFFLED)))
    shuffled = next(c for c in found if c["check"] == "shuffled_prompt")
    assert (shuffled["ok"] is None) == (not measured)
    assert all(c["ok"] for c in found if c["check"] != "shuffled_prompt")


def test_a_mean_weight_that_holds_is_no_approval_of_a_policy_the_log_does_not_represent(sample):
    run, found = sample
    outcomes = checks.frame(found)
    says = outcomes[outcomes.what.str.startswith("mean weight, 120 logged rows")].set_index("policy").outcome
    weights = {p: lw[np.isfinite(lw)] for p, lw in run.table().log_weights().items()}
    low, high = MEAN_WEIGHT_RANGE
    far = {p for p, lw in weights.items() if not low <= audit_weights(lw).mean_weight <= high}
    assert "pi_bad" in far
    assert {p for p, outcome in says.items() if outcome != "holds"} == far
    for c in (c for c in found if c["check"] == "mean_weight"):
        assert c["n"] == len(weights[c["policy"]]) == 120
        assert c["value"] == pytest.approx(np.exp(weights[c["policy"]]).mean())
    assert "120 logged rows outside of 0.8 to 1.25" in checks.sentence(found)
    assert {p for p in weights if f"{p} {np.exp(weights[p]).mean():.3g}" in checks.sentence(found)} == far


def test_what_was_not_measured_neither_holds_nor_fails():
    def check(name, policy, value, ok, limit=None):
        outcome = {True: checks.HOLDS, False: checks.FAILED, None: checks.NOT_MEASURED}[ok]
        row = {"check": name, "policy": policy, "value": value, "limit": limit, "p_value": None}
        return row | {"outcome": outcome, "ok": ok}

    unknown = [check(f"self_consistency_{kind}", "base", None, None, 0.1) for kind in ("median", "mean", "tail")]
    unknown.append(check("shuffled_prompt", "base", None, None, 0.5))
    copy = check("clone", "copy", 4.00665, False, 1e-3)
    heavy = [check("mean_weight", "copy", 1.28, False), check("mean_weight", "a", 21.4, False)]
    found = [*unknown, copy, *heavy, check("mean_weight", "b", 1.0, True)]
    assert checks.counts(found) == {
        "controls_failed": 3, "controls_hold": 1, "controls_not_settled": 0, "controls_not_measured": 4
    }  # fmt: skip
    numbers = ["3", "4", "4.01", "0.001", "1.28", "1", "21.4", "1", "1", "100", "4"]
    assert re.findall(r"\d[\d.]*\d|\d", checks.summary(found)) == numbers
    assert {"copy", "base", "a"} <= set(re.findall(r"\w+", checks.summary(found)))
    assert re.findall(r"\d+|base", checks.sentence(unknown)) == ["4", "base", "3", "base"]
    assert checks.frame(found).outcome.tolist() == ["not measured"] * 4 + ["FAILED"] * 3 + ["holds"]


def control(drop):
    return checks.shuffled_control(Run("sample").params, pd.Series(drop))


def outcomes(draw, runs=200):
    found = [control(draw())["outcome"] for _ in range(runs)]
    return {outcome: found.count(outcome) / runs for outcome in (checks.HOLDS, checks.NOT_SETTLED, checks.FAILED)}


@pytest.mark.parametrize("n", [20, 100])
def test_sound_log_probs_do_not_fail_the_shuffled_control_and_unrelated_ones_do_not_hold(n):
    """exp(-drop) has a mean of exactly 1 where drop is normal (s^2/2, s): log-probs of two real policies, 65 % of them
    lower at s = .77. Symmetric about 0: the question has nothing to do with them."""
    rng = np.random.default_rng(n)
    for s in (0.3, 0.77, 5):
        sound = outcomes(lambda s=s: s**2 / 2 + s * rng.normal(size=n))
        assert sound[checks.FAILED] <= 0.02
    assert sound[checks.HOLDS] > 0.99
    for scale in (0, 1e-5, 0.05, 0.3, 1, 8):
        unrelated = outcomes(lambda scale=scale: scale * rng.laplace(size=n))
        assert unrelated[checks.HOLDS] <= 0.025
        assert scale in (0.05, 0.3, 1) or unrelated[checks.FAILED] > 0.95


def test_thirteen_of_twenty_lower_is_no_failure_and_more_rows_settle_it():
    rng = np.random.default_rng(1)

    def some(n):
        minds = np.where(rng.random(n) < 0.35, 5.0, 0.15)
        return minds**2 / 2 + minds * rng.normal(size=n)

    lower = [-0.5] * 7 + [0.5] * 13
    assert control(lower)["outcome"] == checks.NOT_SETTLED
    assert control(lower)["value"] == 0.65
    assert outcomes(lambda: some(100))[checks.HOLDS] > 0.99


def test_controls_of_more_rows_keep_the_pairs_of_fewer(home, monkeypatch):
    with Stub() as stub:
        params = make_params(home, stub.url, n_prompts=41)
        store, _ = run_responses(params)
        keys = {}
        for rows in (20, 40, 100):
            monkeypatch.setattr(teacher_forcing, "SHUFFLED_ROWS", rows)
            keys[rows] = [task.request_hash for task in teacher_forcing.control_tasks(params, store)]
    assert [len(found) for found in keys.values()] == [20, 40, 41]
    assert keys[100][:40] == keys[40]
    assert keys[40][:20] == keys[20]
