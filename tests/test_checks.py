"""Controls with a known answer: they hold where the server is right and fail, plainly, where it is not."""

from __future__ import annotations

import math
import re
from functools import partial

import numpy as np
import pandas as pd
import pytest

from arena10k.audit import checks
from arena10k.audit.status import progress
from arena10k.collection import teacher_forcing
from arena10k.collection.collect import collect
from arena10k.collection.jobs import SHUFFLED, contexts, expected
from arena10k.estimation.diagnostics import mean_weight_p_value
from arena10k.estimation.thresholds import MEAN_WEIGHT_RANGE, WRONG
from arena10k.frames import table
from arena10k.inputs import prompts
from arena10k.run import Run
from stub_run import make_params, opened, run_responses
from stub_server import Stub, chat_answer, echo_answer
from test_text_scoring import TEXT

NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture(scope="module")
def sample():
    """The committed recording and its checks."""
    run = Run("sample")
    return run, checks.measure(run.params, run.table(), run.store)


def collected(params):
    """A run with responses, scores and the control; its store, the control's outcome, and checks by name and policy."""
    store, _ = run_responses(params)
    store.using(contexts(params).values())
    collect(params, store, partial(teacher_forcing.tasks, params, store), "teacher forcing")
    outcome = collect(params, store, partial(teacher_forcing.control_tasks, params, store), "control")
    found = checks.measure(params, table.build(params, prompts.read(params.run), store), store)
    # The stub shows no candidates: its sampler cannot be audited.
    assert all(c["outcome"] == checks.NOT_MEASURED for c in found if c["check"] == "sampler")
    return store, outcome, {(c["check"], c["policy"]): c for c in found if c["check"] != "sampler"}


def minding_the_question():
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
    with Stub(minding_the_question()) as stub:
        params = make_params(home, stub.url, n_prompts=30, draws=1)
        store, outcome, found = collected(params)
        again = collect(params, store, partial(teacher_forcing.control_tasks, params, store), "control")
    assert outcome.ok == again.stored == 30 == expected(params, 30)[SHUFFLED, "p0"]
    assert all(check["ok"] for check in found.values())
    values = [
        found[key]["value"] for key in (("shuffled_prompt", "p0"), ("clone", "pi_clone"), ("mean_weight", "pi_clone"))
    ]
    assert values == [1, 0, 1]
    assert re.findall(r"\d+", checks.sentence(list(found.values()))) == ["6"]
    tokens = [len(r["payload"]["token_logprobs"]) for r in store.rows(SHUFFLED)]
    assert checks.shuffled(params, store).to_numpy() == pytest.approx(tokens), "1 nat per token, as the server has it"
    assert checks.shuffled_sentence(params, store).startswith("30 of 30 responses")
    assert progress(params, store)["rows_with_all_logprobs"] == 30


def test_a_server_that_ignores_the_question_fails_the_control_and_nothing_else(home):
    with Stub() as stub:
        params = make_params(home, stub.url, draws=1)
        store, _, found = collected(params)
    assert [key for key, check in found.items() if not check["ok"]] == [("shuffled_prompt", "p0")]
    assert found["shuffled_prompt", "p0"]["value"] == 0
    assert found["shuffled_prompt", "p0"]["p_value"] == 2 * 0.5**12, "no row moves: a fair coin's chance"
    counts = checks.counts(list(found.values()))
    assert [counts[f"controls_{what}"] for what in ("failed", "hold", "not_settled", "not_measured")] == [1, 5, 0, 0]
    assert checks.shuffled_sentence(params, store).startswith("FAILED: 0 of 12 responses")


def test_text_policies_have_the_control_too(home):
    with Stub() as stub:
        store, outcome, found = collected(make_params(home, stub.url, n_prompts=12, draws=1, **TEXT))
    assert (outcome.ok, found["self_consistency_median", "p0"]["ok"]) == (12, True)
    assert len({r["payload"]["prompt_text"] for r in store.rows("responses")}) == 12


def measured(home, **columns):
    """The checks of a table with these columns, of a run without the control, by name."""
    logged = pd.DataFrame(columns)
    logged["prompt_id"] = [f"p{i}" for i in range(len(logged))]
    params = make_params(home, NOWHERE, n_prompts=2)
    made = table.Table(logged, logged, logged, {}, {}, "p0", ["pi_clone"])
    return {c["check"]: c for c in checks.measure(params, made, opened(params)[1])}


FAR_APART = {"self_consistency_median", "self_consistency_mean"}
ROWS = np.arange(60)


@pytest.mark.parametrize(
    ("delta", "failed", "unsettled"),
    [
        (np.random.default_rng(1).normal(0, 0.01, 60), set(), set()),
        (np.full(60, 0.2), FAR_APART | {"clone"}, set()),
        # Every weight of the clone is e to the 0.2, which chance cannot do to weights of mean 1.
        (np.full(60, -0.2), FAR_APART | {"clone", "mean_weight"}, set()),
        # Six of 60 rows, where one in twenty may: by chance in one run of 13. Twelve: in one of 20,000.
        (np.where(ROWS < 6, 1.5, 0.0), {"clone"}, {"self_consistency_mean", "self_consistency_tail"}),
        (np.where(ROWS < 12, 1.5, 0.0), {"self_consistency_mean", "self_consistency_tail", "clone"}, set()),
        (np.repeat([-9.0, 9.0], 30), {"self_consistency_median", "self_consistency_tail"}, set()),
    ],
)
def test_differences_are_judged_by_median_mean_and_tail(home, delta, failed, unsettled):
    generated, forced = np.full(60, -5.0), -5.0 + delta
    clone = generated if "clone" in failed else forced
    found = measured(home, generation_logp=generated, generation_forced=forced, logp_p0=forced, logp_pi_clone=clone)
    assert {name for name, check in found.items() if check["ok"] is False} == failed
    assert {name for name, check in found.items() if check["outcome"] == checks.NOT_SETTLED} == unsettled
    assert ("Not settled" in checks.summary(list(found.values()))) == bool(unsettled)
    assert ("mean_weight" in failed) == (mean_weight_p_value(clone - forced) < WRONG), "the rule of the verdicts"
    assert found["self_consistency_mean"]["value"] == pytest.approx(abs(delta.mean()))


def test_weights_far_above_one_fail_without_overflow(home):
    none = [math.nan] * 2
    logps = {"logp_p0": [-900.0, -1.0], "logp_pi_clone": [-1.0, -1.0]}
    found = measured(home, generation_logp=none, generation_forced=none, **logps)
    assert found["mean_weight"]["ok"] is False
    assert math.isfinite(found["mean_weight"]["value"])
    row = {"check": "self_consistency_median", "policy": "p0", "value": None, "limit": checks.CONSISTENT}
    unknown = row | {"p_value": None, "outcome": checks.NOT_MEASURED, "ok": None}
    assert found["self_consistency_median"] == unknown


def test_a_recording_is_not_asked_and_says_what_it_lacks(sample):
    run, found = sample
    assert list(teacher_forcing.control_tasks(run.params, run.store)) == []
    assert (SHUFFLED, "p0") not in expected(run.params, len(run.prompts))
    shuffled = next(c for c in found if c["check"] == "shuffled_prompt")
    assert (shuffled["ok"] is None) == (not list(run.store.rows(SHUFFLED)))
    assert all(c["ok"] for c in found if c["check"] != "shuffled_prompt")


def test_a_mean_weight_that_holds_is_no_approval_of_a_policy_the_log_does_not_represent(sample):
    run, found = sample
    outcomes = checks.frame(found)
    says = outcomes[outcomes.what.str.startswith("mean weight, 120 logged rows")].set_index("policy").outcome
    means = {policy: np.exp(log_weight).mean() for policy, log_weight in run.table().log_weights().items()}
    low, high = MEAN_WEIGHT_RANGE
    far = {policy for policy, mean in means.items() if not low <= mean <= high}
    assert "pi_bad" in far
    assert {policy for policy, outcome in says.items() if outcome != "holds"} == far
    own = {c["policy"]: c for c in found if c["check"] == "mean_weight"}
    assert {policy: c["value"] for policy, c in own.items()} == pytest.approx(means)
    assert {c["n"] for c in own.values()} == {120}
    assert "120 logged rows outside of 0.8 to 1.25" in checks.sentence(found)
    assert {policy for policy, mean in means.items() if f"{policy} {mean:.3g}" in checks.sentence(found)} == far


def test_what_was_not_measured_neither_holds_nor_fails():
    def check(name, policy, value, ok, limit=None):
        outcome = {True: checks.HOLDS, False: checks.FAILED, None: checks.NOT_MEASURED}[ok]
        row = {"check": name, "policy": policy, "value": value, "limit": limit, "p_value": None}
        return row | {"outcome": outcome, "ok": ok}

    unknown = [check(f"self_consistency_{kind}", "base", None, None, 0.1) for kind in ("median", "mean", "tail")]
    unknown.append(check("shuffled_prompt", "base", None, None, 0.5))
    heavy = [check("mean_weight", "copy", 1.28, False), check("mean_weight", "a", 21.4, False)]
    light = check("mean_weight", "b", 1.0, True)
    found = [*unknown, check("clone", "copy", 4.00665, False, 1e-3), *heavy, light]
    assert list(checks.counts(found).values()) == [3, 1, 0, 4]
    numbers = ["3", "4", "4.01", "0.001", "1.28", "1", "21.4", "1", "1", "100", "4"]
    assert re.findall(r"\d[\d.]*\d|\d", checks.summary(found)) == numbers
    assert {"copy", "base", "a"} <= set(re.findall(r"\w+", checks.summary(found)))
    assert re.findall(r"\d+|base", checks.sentence(unknown)) == ["4", "base", "3", "base"]
    assert "only" in checks.summary([light])
    assert checks.frame(found).outcome.tolist() == ["not measured"] * 4 + ["FAILED"] * 3 + ["holds"]


@pytest.fixture(scope="module")
def outcomes():
    """The shares of the outcomes of the shuffled control over drops that are drawn anew."""
    params = Run("sample").params

    def shares(draw, runs=60):
        found = [checks.shuffled_control(params, pd.Series(draw()))["outcome"] for _ in range(runs)]
        return {outcome: found.count(outcome) / runs for outcome in (checks.HOLDS, checks.NOT_SETTLED, checks.FAILED)}

    return shares


@pytest.mark.parametrize("n", [20, 100])
def test_sound_log_probs_do_not_fail_the_shuffled_control_and_unrelated_ones_do_not_hold(outcomes, n):
    """exp(-drop) has a mean of exactly 1 where drop is normal (s^2/2, s): log-probs of two real policies, 65 % of them
    lower at s = .77. Symmetric about 0: the question has nothing to do with them."""
    rng = np.random.default_rng(n)
    for s in (0.3, 0.77, 5):
        sound = outcomes(lambda s=s: s**2 / 2 + s * rng.normal(size=n))
        assert sound[checks.FAILED] <= 0.02
    assert sound[checks.HOLDS] > 0.98
    for scale in (0, 1e-5, 0.05, 0.3, 1, 8):
        unrelated = outcomes(lambda scale=scale: scale * rng.laplace(size=n))
        assert unrelated[checks.HOLDS] <= 0.04
        assert scale in (0.05, 0.3, 1) or unrelated[checks.FAILED] > 0.95


def test_thirteen_of_twenty_lower_is_no_failure_and_more_rows_settle_it(outcomes):
    rng = np.random.default_rng(1)

    def some(n):
        minds = np.where(rng.random(n) < 0.35, 5.0, 0.15)
        return minds**2 / 2 + minds * rng.normal(size=n)

    assert outcomes(lambda: [-0.5] * 7 + [0.5] * 13, runs=1)[checks.NOT_SETTLED] == 1
    assert outcomes(lambda: some(100))[checks.HOLDS] > 0.98


def test_controls_of_more_rows_keep_the_pairs_of_fewer(home, monkeypatch):
    with Stub() as stub:
        params = make_params(home, stub.url, n_prompts=41, draws=1)
        store, _ = run_responses(params)
        keys = {}
        for rows in (20, 40, 100):
            monkeypatch.setattr(teacher_forcing, "SHUFFLED_ROWS", rows)
            keys[rows] = [task.request_hash for task in teacher_forcing.control_tasks(params, store)]
    assert [len(found) for found in keys.values()] == [20, 40, 41]
    assert keys[100][:40] == keys[40]
    assert keys[40][:20] == keys[20]
