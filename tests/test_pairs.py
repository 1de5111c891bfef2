"""A judge that compares two answers, with a known position bias, on policies of known win rates."""

from __future__ import annotations

import json
import re
import sqlite3
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import yaml

from arena10k import paths
from arena10k.collection import judge, labels, ratings, teacher_forcing
from arena10k.collection.collect import collect
from arena10k.collection.jobs import ORACLE, contexts, expected
from arena10k.errors import CallError, NothingToShow, ParamsError
from arena10k.estimation import ESTIMATORS
from arena10k.params.config import load
from arena10k.params.judge import PairJudge
from arena10k.params.sections import Capabilities
from arena10k.rescoring import rescore
from arena10k.run import Run
from in_process import run_cells
from stub_server import JUDGE_MODEL, MODEL, answer, chat_answer, unit
from test_judge import GRADER, grade, make_params, respond

CASE = "Question: {prompt}\nFirst: {response}\nSecond: {other}"
PAIR = {"form": "pair", "provider": "stub", "model": JUDGE_MODEL, "case": CASE}
#: How often the judge says "A" whatever it is shown, and how much better answers are than the logging policy's.
BIASED, KINDER = 0.3, {"pi_good": 0.3, "pi_same": 0.0}
ORACLE_MODEL = "stub-oracle"


def quality(policy, question):
    return round(unit("quality", policy, question) + KINDER.get(policy, 0.0), 4)


def answers(body, _):
    """Responses that tell their quality; the better wins, by the oracle always, by the judge unless it says "A"."""
    if "messages" not in body:
        return None
    user = body["messages"][-1]["content"]
    if body["model"] == MODEL:
        policy = body["messages"][0]["content"] if len(body["messages"]) > 1 else "p0"
        made = chat_answer(body)
        made["choices"][0]["message"]["content"] = f"Quality {quality(policy, user)}."
        return made
    first, second = map(float, re.findall(r"Quality ([0-9.]+)\.", user))
    says_first = body["model"] == JUDGE_MODEL and unit("bias", user) < BIASED
    said = json.dumps({"winner": "A" if says_first or first > second else "B" if second > first else "tie"})
    return answer(body, 8, 8, message={"role": "assistant", "content": said})


def pair_params(home, url, n_prompts=150, **sections):
    systems = {"p0": {}, **{name: {"system": name} for name in KINDER}}
    said = {"judge": None, "judges": {"wins": PAIR}}
    said |= {"policies": {name: {"provider": "stub", "model": MODEL} | own for name, own in systems.items()}}
    said |= {"oracle": {"kind": "model", "target_labels": 80, "grader": PAIR | {"model": ORACLE_MODEL}}}
    return make_params(home, url, n_prompts, **said | sections)


@pytest.fixture(scope="module")
def compared(server, tmp_path_factory):
    """A run of pairs with its scores and labels, and how often each policy wins over all prompts."""
    home = tmp_path_factory.mktemp("pairs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARENA10K_HOME", str(home))
        stub = server.behave()
        stub.fault = answers
        run = respond(pair_params(home, stub.url))
        collect(run.params, run.store, partial(teacher_forcing.tasks, run.params, run.store), "teacher forcing")
        before = stub.requests
        outcome = grade(run)
        assert (outcome.ok, outcome.errors, stub.requests - before) == (300, {}, 600)
        assert labels.label(run.params, run.store, run.prompts) == 160
        assert grade(run).stored == 300
        asked = list(run.prompts.prompt)
        truth = {name: np.mean([quality(name, q) > quality("p0", q) for q in asked]) for name in KINDER}
        yield run, truth


def test_the_value_is_the_win_rate_and_the_bias_of_the_first_place_is_found_and_not_in_it(compared):
    run, truth = compared
    estimates = run.estimates(run.table())
    ranked = {place["policy"]: place for place in estimates["ranking"]}
    known = ranked.pop("p0")
    assert (known["value"], known["verdict"]) == (0.5, "BY_DEFINITION")
    assert {(c["a"], c["b"]) for c in estimates["contrasts"]} == {("pi_good", "pi_same"), *((p, "p0") for p in KINDER)}
    assert (ranked["pi_good"]["rank"], known["rank"], ranked["pi_same"]["rank"]) == (1, 2, 2)
    for policy, place in ranked.items():
        assert place["ci_low"] <= truth[policy] <= place["ci_high"]
        assert place["ci_high"] - place["ci_low"] < 0.25
    scores = run.judgments.groupby("policy").score.mean()
    for policy, rate in truth.items():  # it is shrunk by what is said blindly, and to no side
        assert scores[policy] == pytest.approx(BIASED / 2 + (1 - BIASED) * rate, abs=0.08)
    places = run.compare_judges().positions.set_index(["judge", "policy"])
    for policy in KINDER:
        row = places.loc["wins", policy]
        assert row.low <= BIASED <= row.high
        assert row.low > 0
        assert places["first - second"][ORACLE, policy] == 0


def test_weights_are_not_asked_for_and_not_refused(compared):
    run, _ = compared
    table = run.table()
    assert all(np.isfinite(table.log_weights()[policy]).all() for policy in KINDER)
    rows = run.estimates(replace(table, quarantined={"pi_good": 3}))["rows"]
    weighted = [name for name, estimator in ESTIMATORS.items() if estimator.uses_weights]
    assert {r["verdict"] for r in rows if r["estimator"] in weighted} == {"NOT_ASKED"}
    assert [r["verdict"] for r in rows if r["policy"] == "p0" and r["judge"] == "wins"] == ["BY_DEFINITION"]


def test_both_orders_are_kept_and_the_logging_policy_is_not_asked(compared):
    run, _ = compared
    said = {(r["policy"], r["prompt_id"]): r["value"] for r in run.store.rows("responses")}
    points = {"A": 1.0, "tie": 0.5, "B": 0.0}
    for row in run.store.rows("judge_wins"):
        assert row["policy"] != "p0"
        first, second = (points[w] for w in row["payload"]["winners"])
        assert row["value"] == (first + 1 - second) / 2
        assert [json.loads(text)["winner"] for text in row["payload"]["texts"]] == row["payload"]["winners"]
        better = said[row["policy"], row["prompt_id"]] > said["p0", row["prompt_id"]]
        assert row["value"] in ((1.0, 0.5) if better else (0.0, 0.5))
    due = expected(run.params, len(run.prompts))
    assert {policy for job, policy in due if job in ("judge_wins", ORACLE)} == set(KINDER)
    assert "judge" not in run.coverage(), "nothing of it is missing"


PAGES = ("00_status", "04_judge", "05_data_quality", "06_estimates", "09_ablation_summary")


@pytest.mark.usefixtures("compared")
@pytest.mark.parametrize("page", [*PAGES, "07_pi_bad_anomaly", "10_simulation"])
def test_pages_of_pairs_are_made_or_have_nothing_to_show(page):
    try:
        run_cells(page, paths.home() / "stub.yaml")
    except NothingToShow:
        assert page not in PAGES


def test_a_win_over_a_quarantined_answer_is_none(compared):
    run, _ = compared
    row = next(r for r in run.store.rows("responses") if r["policy"] == "p0")
    run.store.set_quarantine([("responses", row["prompt_id"], row["request_hash"], "planted")])
    unscored = run.table().fresh.set_index("prompt_id").judge_wins.isna()
    run.store.set_quarantine([])
    assert set(unscored.index[unscored]) == {row["prompt_id"]}


def test_another_answer_of_the_logging_policy_is_another_pair(home, server):
    stub = server.behave()
    stub.fault = answers
    params = pair_params(home, stub.url, n_prompts=4)
    raw = yaml.safe_load((home / "stub.yaml").read_text())
    raw["policies"]["p0"]["system"] = "Be brief."
    (home / "stub.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    old, new = contexts(params), contexts(load(home / "stub.yaml"))
    assert old["responses", "pi_good"] == new["responses", "pi_good"]
    for job in ("judge_wins", ORACLE):
        assert old[job, "pi_good"] != new[job, "pi_good"]


def test_scores_go_with_either_of_the_two_answers_that_is_replaced(home, server):
    """What stands for the logging policy's answer to one prompt is that to another: asked again, its pairs are new."""
    stub = server.behave()
    stub.fault = answers
    run = respond(pair_params(home, stub.url, n_prompts=6, oracle={"target_labels": 0, "p0_fraction": 0}))
    assert grade(run).ok == 12
    right = {(r["policy"], r["prompt_id"]): r["value"] for r in run.store.rows("judge_wins")}
    said = {r["prompt_id"]: r for r in run.store.rows("responses") if r["policy"] == "p0"}
    other = [json.dumps(said["p0003"]["payload"][name]) for name in ("token_ids", "token_logprobs")]
    with sqlite3.connect(paths.store_file("stub")) as db:
        db.execute(
            "UPDATE records SET value = ?, payload = json_set(payload, '$.token_ids', json(?), '$.token_logprobs', "
            "json(?)) WHERE job = 'responses' AND policy = 'p0' AND prompt_id = 'p0002'",
            (said["p0003"]["value"], *other),
        )
        db.execute("UPDATE records SET request_hash = 'of the replay ' || policy, created = created - 60 "
                   "WHERE job = 'judge_wins' AND prompt_id = 'p0002'")  # fmt: skip
    rescore.rescore(Run(run.params))
    rows = list(Run(run.params).store.rows("judge_wins"))
    assert {(r["policy"], r["prompt_id"]): r["value"] for r in rows} == right
    assert not any(r["request_hash"].startswith("of the replay") for r in rows)
    assert len(rows) == 12


def pair(**changed):
    return PairJudge.model_validate(PAIR | changed)


def said(*texts):
    return [answer({"model": "m"}, 1, 1, message={"role": "assistant", "content": text}) for text in texts]


READ = [('{"winner": "A"}', "A"), ('```json\n{"winner": "b", "why": "x"}\n```', "B"), ("{'winner': 'tie',}", "tie")]
READ += [("**A**", "A"), ("B.", "B"), ("Winner: tie", "tie"), ("The winner is B", "B"), ('"A"', "A")]
NONE = ["", "A or B", "A good answer", '{"winner": "C"}', '{"winner": null}', '{"winner": "A"} {"winner": "B"}', "both"]
NONE += ['{"better": "A"}', '{"winner": "A", "winner": "B"}', "Answer A is better than B", '{"winner": "A']


def test_a_winner_is_read_in_any_clear_wrapping_and_else_it_is_an_error():
    assert [ratings.winner(text, False) for text, _ in READ] == [winner for _, winner in READ]
    assert ratings.winner("A", True) is None, "it may be cut off"
    for text in NONE:
        with pytest.raises(CallError, match="unparsable_rating"):
            judge.read_pair(pair(), said('{"winner": "A"}', text))
    for winners, score in ((("A", "B"), 1.0), (("A", "A"), 0.5), (("tie", "B"), 0.75), (("B", "A"), 0.0)):
        measured = judge.read_pair(pair(), said(*winners))
        assert (measured.value, measured.payload["winners"]) == (score, list(winners))
    leads = [judge.read_pair(pair(), said(*w)).payload["first_leads"] for w in (("A", "A"), ("A", "B"), ("tie", "B"))]
    assert leads == [1.0, 0.0, -0.5]


def test_what_is_asked_shows_both_answers_in_both_orders():
    texts = {"prompt": "q", "response": "mine", "other": "theirs", "reference": ""}
    first, second = (r.body for r in judge.requests(pair(), texts, Capabilities(json_schema=True)))
    lines = [body["messages"][0]["content"].split("\n")[1:3] for body in (first, second)]
    assert lines == [['First: "mine"', 'Second: "theirs"'], ['First: "theirs"', 'Second: "mine"']]
    assert first["response_format"]["json_schema"]["schema"]["properties"]["winner"]["enum"] == ["A", "B", "tie"]


WRONG = [
    ({"judges": {"v": PAIR | {"case": "{response}"}}}, "judges.v.case: {other} is not in it"),
    ({"judges": {"v": PAIR | {"case": "{other} {response}"}}}, "judges.v.case: {response} has to stand before {other}"),
    ({"judges": {"v": PAIR | {"mode": "uncertainty"}}}, "judges.v.mode: "),
    ({"judges": {"v": PAIR | {"scale": [0, 1]}}}, "judges.v.scale: unknown key; it goes with form: chat"),
    ({"judges": {"v": PAIR | {"form": "pairs"}}}, "did you mean 'pair'?"),
    ({"judges": {"v": PAIR | {"form": "completion", "ratings": {"1": 1}}}}, "{other} goes with form: pair"),
    ({"judges": {"v": PAIR | {"case": "{response} {other}"}}}, "judges.v.case: {prompt} is not in it"),
    ({"policies": {"p0": {"provider": "stub", "model": "m"}}}, "judges.wins: form: pair compares policies with p0"),
    ({"judges": {"v": GRADER | {"form": "chat", "case": CASE}}}, "{other} is not among"),
    ({"judges": None, "judge": PAIR}, "judge: Input should be"),
    ({"oracle": {"kind": "model", "grader": PAIR | {"case": "{response}"}}}, "oracle.grader.case: {other}"),
    ({"oracle": {"kind": "model", "grader": PAIR | {"draws": 2}}}, "oracle.grader.draws: unknown key"),
]


@pytest.mark.parametrize(("sections", "says"), WRONG)
def test_a_pair_that_cannot_be_is_said_in_one_line(tmp_path, sections, says):
    with pytest.raises(ParamsError) as caught:
        pair_params(tmp_path, "http://127.0.0.1:9/v1", **sections)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
