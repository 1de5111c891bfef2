"""Graders at work: the recorded judge, chat judges and a model oracle on a real server, and what stops them."""

from __future__ import annotations

import json
import math
import re
import statistics
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import yaml

from arena10k import paths
from arena10k.audit import status
from arena10k.collection import generate, judge, labels, teacher_forcing
from arena10k.collection.collect import collect
from arena10k.collection.jobs import DETERMINISTIC, ORACLE, UNCERTAINTY, contexts, judging, labels_wanted
from arena10k.collection.store import Store
from arena10k.errors import ArenaError, ParamsError
from arena10k.estimation import ESTIMATORS, evaluation
from arena10k.explore.judges import Judges
from arena10k.inputs import prompts
from arena10k.params.config import load
from arena10k.params.judge import MODES
from arena10k.run import Run
from stub_run import judge_in_one_token
from stub_server import JUDGE_MODEL, MODEL, judge_answer, rated

CASE = "Question: {prompt}\nAnswer: {response}\nRate how good the answer is."
GRADER = {"provider": "stub", "model": JUDGE_MODEL, "case": CASE}
CHAT = {"form": "chat", **GRADER}
HUNDRED = {"kind": "model", "grader": GRADER | {"scale": [0, 100]}}
NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture
def stub(server):
    return server.behave()


def make_params(folder, url, n_prompts=40, **sections):
    """Two policies on the stub server with a chat judge; `sections` are added to the file."""
    lines = [json.dumps({"prompt_id": f"p{i:04d}", "prompt": f'question "{i}"'}) for i in range(n_prompts)]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    can = {"token_ids": True, "echo_logprobs": True}
    params = {
        "run": "stub",
        "providers": {"stub": {"base_url": url, "capabilities": can, "timeout_seconds": 5.0}},
        "policies": {name: {"provider": "stub", "model": MODEL} for name in ("p0", "pi_clone")},
        "prompts": {"source": "jsonl", "path": str(folder / "prompts.jsonl")},
        "judge": CHAT,
        **sections,
    }
    path = folder / "stub.yaml"
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    return load(path)


def respond(params):
    """The run with its responses collected."""
    run = Run(params)
    frame, _ = prompts.load(params)
    prompts.write(params, frame)
    collect(params, run.store, partial(generate.tasks, params, frame), "responses")
    return run


def grade(run, **options):
    tasks = partial(judge.tasks, run.params, run.prompts, run.store)
    return collect(run.params, run.store, tasks, "judge", watch=judge.watch(run.params), **options)


def test_digests_under_which_completion_judges_were_recorded_stay(tmp_path):
    """Pinned: records made before there were judges that chat carry digests of exactly these keys."""
    completion = {"provider": "local", "model": "m", "intro": "Grade.", "examples": ["a: True", "b: False"]}
    completion |= {"case": "{response} mentions {reference}:", "orders": [[0, 1], [1, 0]]}
    completion |= {"ratings": {" True": 1, " False": 0}}
    params = {"run": "try", "providers": {"local": {"kind": "embedded"}}, "judge": completion}
    params |= {"policies": {"p0": {"provider": "local", "model": "m"}}}
    (tmp_path / "try.yaml").write_text(yaml.safe_dump(params))
    current = contexts(load(tmp_path / "try.yaml"))
    assert current[DETERMINISTIC, "p0"] == "c9b4108ae4d841726ac9b241b6337575"
    assert current[UNCERTAINTY, "p0"] == "4f3bf6786768499a1848df4c470554e2"
    assert current[ORACLE, "p0"] == "9d97da8f889f11a13241e2ff398ae8dc"


def test_recorded_scores_are_what_their_readings_say_and_do_not_stop_a_run():
    params = load("sample")
    store = Store.recording(paths.records_file("sample"))
    tasks = {t.job: t for t in judge.tasks(params, prompts.read("sample"), store)}
    look = judge.watch(params)
    tokens = {score: token for token, score in params.judge.ratings.items()}
    for job in judging(params):
        for row in (r for r in store.rows(job) if r["status"] == "ok"):
            tops = [{tokens[score]: math.log(p) for score, p in reading} for reading in row["payload"]["readings"]]
            measured = tasks[job].read([{"choices": [{"logprobs": {"top_logprobs": [top]}}]} for top in tops])
            assert measured.value == pytest.approx(row["value"], abs=1e-12)
            assert measured.payload["variance"] == pytest.approx(row["payload"]["variance"], abs=1e-12)
            look(tasks[job], measured)


def shown(run, row):
    """The case that the judge was shown for a score, as the stub sees it."""
    cell = row["policy"], row["prompt_id"], row["draw"]
    said = {(r["policy"], r["prompt_id"], r["draw"]): r["value"] for r in run.store.rows("responses")}
    question = run.prompts.set_index("prompt_id").prompt[row["prompt_id"]]
    return CASE.format(prompt=json.dumps(question), response=json.dumps(said[cell]))


@pytest.mark.parametrize("mode", ["samples", "interval", "logprobs"])
def test_a_chat_judges_scores_are_what_the_server_said(home, stub, mode):
    how = {"uncertainty": mode, "samples": 3, "scale": [1, 5]}
    run = respond(make_params(home, stub.url, n_prompts=6, judge=CHAT | how))
    before = stub.requests
    outcome = grade(run)
    assert (outcome.ok, outcome.errors, stub.requests - before) == (24, {}, 12 * (4 if mode == "samples" else 2))
    assert grade(run).stored == 24
    ledger = [json.loads(body) for body in stub.ledger]
    for row in run.store.rows(DETERMINISTIC):
        _, _, rating = rated(f"{shown(run, row)}\n\n{run.params.judges['deterministic'].ask()}")
        assert row["value"] == (rating - 1) / 4
        assert row["payload"] == {"variance": 0.0, "texts": [f'{{"rating": {rating}}}']}
    for row in run.store.rows(UNCERTAINTY):
        user, payload = f"{shown(run, row)}\n\n{run.params.judges['uncertainty'].ask()}", row["payload"]
        _, _, rating = rated(user)
        if mode == "samples":
            bodies = [b for b in ledger if b["messages"][-1]["content"] == user and b["temperature"] == 1]
            assert len({b["seed"] for b in bodies}) == 3
            texts = [judge_answer(b)["choices"][0]["message"]["content"] for b in bodies]
            scores = [(json.loads(text)["rating"] - 1) / 4 for text in texts]
            assert sorted(payload["texts"]) == sorted(texts)
            assert row["value"] == pytest.approx(statistics.mean(scores))
            assert payload["variance"] == pytest.approx(statistics.variance(scores) / 3)
        elif mode == "interval":
            said = json.loads(payload["texts"][0])
            assert (said["rating"], row["value"]) == (rating, (rating - 1) / 4)
            assert payload["variance"] == pytest.approx(((said["high"] - said["low"]) / 4 / 2 / 1.644854) ** 2)
        else:
            other = rating + 1 if rating < 5 else rating - 1
            assert row["value"] == pytest.approx(((rating - 1) * 0.75 + (other - 1) * 0.2) / 4 / 0.95)
            assert (payload["mass"], payload["texts"]) == (pytest.approx(0.95), [str(rating)])
    sd = run.table().logged.judge_uncertainty_sd
    assert sd.notna().all()
    assert (sd > 0).any() == (mode != "logprobs")


def test_an_unreadable_answer_is_an_error_row_and_never_a_score(home, stub):
    def mumble(body, n):
        if body["model"] == JUDGE_MODEL and '"question \\"3\\""' in body["messages"][-1]["content"]:
            said = judge_answer(body)
            said["choices"][0]["message"]["content"] = "It is a good answer: 7 or 8."
            return said
        return None

    stub.fault = mumble
    run = respond(make_params(home, stub.url, n_prompts=6))
    outcome = grade(run)
    assert (outcome.ok, outcome.errors) == (20, {"unparsable_rating": 4})
    bad = [r for job in judging(run.params) for r in run.store.rows(job) if r["status"] == "error"]
    assert {(r["prompt_id"], r["value"]) for r in bad} == {("p0003", None)}
    assert all("7 or 8" in r["detail"] for r in bad)
    assert run.table().logged.set_index("prompt_id").judge_uncertainty.isna().sum() == 1


@pytest.mark.parametrize(
    ("numbers", "same", "stops"),
    [("continuous", 0.6, True), ("continuous", 0.4, False), ("whole", 0.9, False), ("whole", 1.0, True)],
)
def test_a_judge_of_one_score_stops_the_run(home, stub, numbers, same, stops):
    """Of ten answers `same` times ten are 5; the rest differ."""

    def stuck(body, n):
        if body["model"] != JUDGE_MODEL:
            return None
        scored = judge_answer(body)
        if int(re.search(r"question ..(\d+)", body["messages"][-1]["content"]).group(1)) % 10 < 10 * same:
            scored["choices"][0]["message"]["content"] = '{"rating": 5}'
        elif numbers == "continuous":
            scored["choices"][0]["message"]["content"] = f'{{"rating": {n / 1000}}}'
        return scored

    stub.fault = stuck
    run = respond(make_params(home, stub.url, judge=CHAT | {"numbers": numbers, "samples": 2}))
    before = stub.requests
    if not stops:
        assert grade(run).ok == 160
        return
    with pytest.raises(ArenaError, match=r"judge: stopped: \d+ of \d+ scores of judge_\w+ by stub-judge are 0\.5 "):
        grade(run)
    assert 50 < stub.requests - before < 240
    stored = [sum(1 for _ in run.store.rows(job)) for job in judging(run.params)]
    assert max(stored) >= 50
    assert sum(stored) < 160


def test_a_model_oracle_labels_the_same_slice_as_exact_checkers_would(home, stub):
    run = respond(make_params(home, stub.url, oracle=HUNDRED | {"p0_fraction": 0.25, "target_labels": 10}))
    before = stub.requests
    assert labels.label(run.params, run.store, run.prompts) == 20
    assert labels.label(run.params, run.store, run.prompts) == 0
    assert stub.requests - before == 20
    rows = list(run.store.rows(ORACLE))
    wanted = labels_wanted(run.params, run.prompts.prompt_id)[ORACLE]
    assert {(r["policy"], r["prompt_id"], r["draw"]) for r in rows} == wanted
    for row in rows:
        _, _, rating = rated(f"{shown(run, row)}\n\n{run.params.oracle.grader.ask()}")
        assert (row["value"], row["model"]) == (rating / 100, JUDGE_MODEL)
    assert run.table().logged.label.notna().sum() == 10


ELSEWHERE = GRADER | {"provider": "nowhere"}
#: A section of the params that cannot be, and what is said of it.
WRONG = [
    *(({"judge": CHAT | changed}, says) for changed, says in [
        ({"case": "no field"}, "judge.case: {response}"),
        ({"case": '{response} {"rating": 1}'}, "brace"),
        ({"case": "{response.__class__}"}, "{response.__class__}"),
        ({"scale": [5, 1]}, "judge: scale: [5, 1]"),
        ({"scale": [0.5, 1]}, "whole numbers"),
        ({"uncertainty": "logprobs"}, "[0, 10]"),
        ({"uncertainty": "orders"}, "judge.uncertainty: "),
        ({"samples": 1}, "judge.samples: "),
        ({"ratings": {"a": 1}}, "judge.ratings: unknown key"),
        ({"form": "letter"}, "judge: "),
        ({"provider": "nowhere"}, "judge.provider 'nowhere'"),
    ]),
    ({"judge": GRADER}, "judge.ratings: missing"),
    ({"judge": CHAT | {"mode": "uncertainty"}}, "judge.mode: "),
    *(({"judge": None, **changed}, says) for changed, says in [
        ({"judges": {"chat": CHAT | {"scale": [5, 1]}}}, "judges.chat: scale: [5, 1]"),
        ({"judges": {"v1": CHAT | {"sampels": 5}}}, "judges.v1.sampels: unknown key; did you mean 'samples'"),
        ({"judges": {"v1": CHAT | {"mode": "uncertain"}}}, "judges.v1.mode: "),
        ({"judges": {"v1": CHAT | {"provider": "nowhere"}}}, "judges.v1.provider 'nowhere'"),
        ({"judges": {"v_sd": CHAT}}, "judges.v_sd: "),
        ({"judges": {"v 1": CHAT}}, "judges.v 1: is no name"),
        ({"judges": {"v1": CHAT, "V1": CHAT}}, "rename one"),
        ({"judges": {"v1": "chat"}}, "judges.v1: Input should be a mapping with form"),
        ({"judges": {"v1": CHAT | {"samples": 3}}}, "judges.v1.samples: goes with mode: uncertainty"),
        ({"judges": {"v1": GRADER}}, "judges.v1.ratings: missing; form: chat or pair needs none"),
        ({"judges": {"ver1": CHAT}, "estimation": {"judge": "ver2"}}, "estimation.judge: 'ver2' is not among"),
        ({"judges": {"ver1": CHAT}, "estimation": {"judge": "ver2"}}, "did you mean 'ver1'?"),
        ({"estimation": {"judge": "determinstic"}}, "did you mean 'deterministic'?"),
        ({"judge": CHAT, "judges": {"v1": CHAT}}, "judge: it stands for two judges"),
    ]),
    ({"oracle": {"kind": "model"}}, "oracle: kind: "),
    ({"oracle": {"grader": GRADER}}, "oracle: grader "),
    ({"oracle": {"kind": "model", "grader": GRADER, "truth": True}}, "oracle: truth: "),
    ({"oracle": {"kind": "model", "grader": ELSEWHERE}}, "oracle.grader.provider 'nowhere'"),
]  # fmt: skip


@pytest.mark.parametrize(("sections", "says"), WRONG)
def test_a_grader_that_cannot_be_is_said_in_one_line(tmp_path, sections, says):
    with pytest.raises(ParamsError) as caught:
        make_params(tmp_path, NOWHERE, **sections)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_copy_that_the_params_no_longer_have_is_not_graded(home, stub):
    respond(make_params(home, stub.url, n_prompts=3))
    alone = make_params(home, stub.url, n_prompts=3, policies={"p0": {"provider": "stub", "model": MODEL}})
    assert grade(Run(alone)).ok == 3 * len(judging(alone))


COMPLETION = {"provider": "stub", "model": JUDGE_MODEL, "case": "{response}:", "ratings": {"1": 1, "0": 0}}


def test_another_judge_is_asked_alone_about_the_same_responses(home, stub):
    """Two providers, two scales, two forms; what was there under `judge` stays, and `judges` can take it over."""
    asked = CHAT | {"scale": [1, 5], "samples": 2}
    run = respond(make_params(home, stub.url, n_prompts=6, judge=asked))
    assert grade(run).ok == 24
    there = {row["request_hash"]: row["value"] for job in judging(run.params) for row in run.store.rows(job)}
    other = {"base_url": stub.url, "capabilities": {}}
    providers = {"stub": run.params.providers["stub"].model_dump(mode="json"), "other": other}
    named = {mode: asked | {"mode": mode} for mode in ("uncertainty", "deterministic")}
    named |= {"v2": CHAT | {"provider": "other", "scale": [0, 100]}, "short": COMPLETION | {"draws": 1}}
    more = Run(make_params(home, stub.url, n_prompts=6, judge=None, judges=named, providers=providers))
    assert more.params.estimation.judge == "uncertainty"
    before, stub.fault = stub.requests, judge_in_one_token
    outcome = grade(more)
    assert (outcome.stored, outcome.ok, stub.requests - before) == (24, 24, 24)
    assert grade(more).stored == 48
    for row in more.store.rows("judge_v2"):
        _, _, rating = rated(f"{shown(more, row)}\n\n{more.params.judges['v2'].ask()}")
        assert row["value"] == rating / 100
    kept = {row["request_hash"]: row["value"] for job in (DETERMINISTIC, UNCERTAINTY) for row in more.store.rows(job)}
    assert kept == there
    table = more.table()
    assert table.judges == list(named)
    assert set(more.judgments.judge) == set(named)
    assert judge.summary(more.params, more.store).set_index("judge").ok.to_dict() == dict.fromkeys(named, 12)
    assert {c["job"] for c in status.progress(more.params, more.store)["jobs"]} >= {f"judge_{name}" for name in named}
    assert {row["judge"] for row in more.estimates(table)["rows"]} == set(named)
    assert more.estimate(judge="v2").frame.judge.unique().tolist() == ["v2"]
    with pytest.raises(ArenaError, match=r"no judge 'shrot'.*did you mean 'short'"):
        more.estimate(judge="shrot")


@pytest.mark.parametrize("form", [CHAT, COMPLETION], ids=["chat", "completion"])
def test_a_judge_of_another_mode_is_another_judge_and_one_named_for_its_mode_is_that_of_the_shorthand(tmp_path, form):
    def context(name, **judge):
        return contexts(make_params(tmp_path, NOWHERE, judge=None, judges={name: form | judge}))[f"judge_{name}", "p0"]

    short = contexts(make_params(tmp_path, NOWHERE, judge=form))
    for mode in MODES:
        assert context(mode, mode=mode) == short[f"judge_{mode}", "p0"]
    assert len({context("v1", mode=mode) for mode in MODES}) == 2
    assert context("deterministic", mode="uncertainty") != short[DETERMINISTIC, "p0"]


def test_judges_against_labels_and_each_other():
    """One judge is the label with a tenth of it wrong, and 0.2 too kind to one policy; the other says the opposite."""
    run = Run("sample")
    table = run.table()
    rng = np.random.default_rng(0)

    def scored(frame, policy):
        wrong = rng.random(len(frame)) < 0.1
        right = np.where(wrong, 1 - frame.truth, frame.truth) * 0.8 + 0.2 * (policy == "pi_bad")
        return frame.assign(judge_deterministic=right, judge_uncertainty=1 - frame.truth, judge_uncertainty_sd=0.0)

    labels = run.labels[run.labels.kind == "truth"].set_index(["policy", "prompt_id", "draw"]).label
    logged, fresh = table.logged.assign(policy="p0"), table.fresh
    frames = [f.assign(truth=labels.reindex(pd.MultiIndex.from_frame(f[labels.index.names])).to_numpy())
              for f in (logged, fresh)]  # fmt: skip
    logged, fresh = (scored(f, f.policy) for f in frames)
    both = pd.concat([logged, fresh]).assign(label=lambda f: f.truth)
    arrays = run.arrays(replace(table, logged=logged.drop(columns="policy"), fresh=fresh))
    study = evaluation.study(arrays, judge="deterministic")
    found = Judges(study, run.source, both).policies.set_index(["judge", "policy"])
    good, bad = found.loc["deterministic"], found.loc["uncertainty"]
    for policy, rows in both.groupby("policy"):
        gap = rows.judge_deterministic - rows.label
        assert good.off[policy] == pytest.approx(gap.groupby(rows.prompt_id).mean().mean())
        assert good.off_low[policy] < good.off[policy] < good.off_high[policy]
    assert (good.r2 > 0.3).all()
    assert (bad.r2 < 0.1).all(), "a rising calibration makes nothing of a judge that is upside down"
    assert (good.alone > good.labels).all()
    assert ((bad.alone - bad.labels).abs() <= 3).all()
    assert (good["rank"] <= bad["rank"].max()).all()


def test_a_change_of_the_uncertainty_mode_leaves_the_deterministic_scores_in_use(tmp_path):
    def scores(**changed):
        current = contexts(make_params(tmp_path, NOWHERE, judge=CHAT | changed))
        return current[DETERMINISTIC, "p0"], current[UNCERTAINTY, "p0"]

    base = scores()
    assert scores(draws=2) == base
    for changed in ({"samples": 7}, {"uncertainty": "interval"}, {"sample_temperature": 0.5}):
        assert [new == old for new, old in zip(scores(**changed), base, strict=True)] == [True, False]
    for changed in ({"system": "Be kind."}, {"scale": [0, 9]}, {"numbers": "continuous"}, {"max_tokens": 9}):
        assert {*scores(**changed)}.isdisjoint(base)


@pytest.mark.parametrize(("hot", "target_labels"), [("pi_other", 0), ("pi_other", 30), ("p0", 0)])
def test_a_policy_sampled_at_another_temperature_has_no_weighted_estimate(home, stub, hot, target_labels):
    """Of a target its own weights are wrong, of the logging policy all are; labels of a target's own draws rank it."""
    policies = {name: {"provider": "stub", "model": MODEL} for name in ("p0", "pi_clone", "pi_other")}
    policies[hot] |= {"temperature": 0.5}
    oracle = HUNDRED | {"p0_fraction": 0.5, "target_labels": target_labels}
    run = respond(make_params(home, stub.url, judge=CHAT | {"samples": 2}, policies=policies, oracle=oracle))
    collect(run.params, run.store, partial(teacher_forcing.tasks, run.params, run.store), "teacher forcing")
    grade(run)
    labels.label(run.params, run.store, run.prompts)
    estimates = run.estimates(run.table())
    wrong = {name for name in policies if (name != "p0" if hot == "p0" else name == hot)}
    for row in estimates["rows"]:
        mismatch, weighted = "temperature_mismatch" in row["reasons"], ESTIMATORS[row["estimator"]].uses_weights
        assert mismatch == (row["policy"] in wrong) or not weighted
        assert not mismatch or not weighted or row["verdict"] == "REFUSE"
        assert not mismatch or weighted or hot == "p0" or row["policy"] == hot
    ranked = {place["policy"]: place["estimator"] for place in estimates["ranking"]}
    assert set(ranked) <= {"p0"} if hot == "p0" else "pi_clone" in ranked
    assert ("pi_other" in ranked) == (target_labels > 0)
    assert not target_labels or not ESTIMATORS[ranked["pi_other"]].uses_weights
