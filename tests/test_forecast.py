"""The bill before anything is asked: the tokens of the requests that will be made, at the prices of the params."""

from __future__ import annotations

import json

import pytest
import yaml

from arena10k import paths
from arena10k.collection import costs, judge, labels
from arena10k.collection.jobs import DETERMINISTIC, ORACLE, RESPONSES, UNCERTAINTY, contexts
from arena10k.collection.records import Record
from arena10k.collection.store import Store
from arena10k.collection.tasks import Again, survey
from arena10k.inputs import prompts
from arena10k.inputs.policies import policies
from arena10k.params.config import load

CASE = "Q: {prompt} A: {response} ({reference})"
GRADER = {"provider": "shop", "model": "grader", "case": CASE}
CHAT = {"form": "chat", "max_tokens": 16} | GRADER
COMPLETION = {"examples": ["a: Yes", "b: No"], "ratings": {" Yes": 1, " No": 0}} | GRADER
ORACLE_MODEL = {"kind": "model", "grader": GRADER | {"model": "oracle", "max_tokens": 8}, "p0_fraction": 0.5}
PRICES = {"m": (1, 2), "grader": (3, 5), "oracle": (7, 11)}
PROMPTS, TOKENS = 8, 20


def make_params(folder, **sections):
    """Two policies of 20-token answers on 8 prompts of 12 characters, with 4-character reference answers."""
    lines = [
        json.dumps({"prompt_id": f"p{i}", "prompt": f"question {i:03d}", "answer": "four"}) for i in range(PROMPTS)
    ]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    prices = {model: {"prompt": sent, "completion": received} for model, (sent, received) in PRICES.items()}
    params = {
        "run": "bill",
        "providers": {"shop": {"base_url": "http://127.0.0.1:9/v1", "prices": prices}},
        "policies": {name: {"provider": "shop", "model": "m", "max_tokens": TOKENS} for name in ("p0", "pi_a")},
        "prompts": {"source": "jsonl", "path": str(folder / "prompts.jsonl")},
        "judge": CHAT,
        **sections,
    }
    (folder / "bill.yaml").write_text(yaml.safe_dump(params))
    return load(folder / "bill.yaml")


def answered(params):
    """The run's prompts and a store in which every response is as long as it may be."""
    frame, _ = prompts.load(params)
    store, current = Store.open(paths.store_file(params.run)), contexts(params)
    for name, policy in policies(params).items():
        for prompt_id in frame.prompt_id:
            key = (RESPONSES, prompt_id, f"{name} {prompt_id}", name, 0, policy.fingerprint, current[RESPONSES, name])
            store.put(Record(*key, "ok", value="y" * (TOKENS * costs.CHARACTERS_PER_TOKEN)))
    return frame, store


def rows(params):
    return {row["job"]: row for row in costs.forecast(params).rows}


@pytest.mark.parametrize(
    ("grader", "requests", "received"),
    [
        (CHAT | {"samples": 3}, 3, 16),
        (CHAT | {"uncertainty": "interval", "system": "Grade it."}, 1, 16),
        (CHAT | {"uncertainty": "logprobs", "scale": [1, 5]}, 1, 1),
        (COMPLETION | {"orders": [[0, 1], [1, 0]]}, 2, 1),
        (COMPLETION | {"intro": "Grade:", "case": "{response}:"}, 1, 1),
    ],
)
def test_the_forecast_of_a_judge_is_what_its_tasks_ask(home, grader, requests, received):
    params = make_params(home, judge=grader)
    frame, store = answered(params)
    tasks = list(judge.tasks(params, frame, store))
    foretold = rows(params)
    for job in (DETERMINISTIC, UNCERTAINTY):
        mine = [t for t in tasks if t.job == job]
        found = survey(store, mine, Again())
        assert len(mine) == foretold[job]["measurements"] == 2 * PROMPTS
        assert found.tokens == {("shop", "grader"): [foretold[job]["tokens sent"], foretold[job]["received at most"]]}
        assert foretold[job]["dollars"] == pytest.approx(costs.at_most(params, found))
    assert {len(t.requests) for t in tasks if t.job == UNCERTAINTY} == {requests}
    assert foretold[UNCERTAINTY]["received at most"] == 2 * PROMPTS * requests * received


def test_the_forecast_of_a_model_oracle_is_what_its_tasks_ask(home):
    params = make_params(home, oracle=ORACLE_MODEL | {"target_labels": 3})
    frame, store = answered(params)
    found = survey(store, labels.tasks(params, frame, store), Again())
    row = rows(params)[ORACLE]
    assert (row["model"], row["measurements"], row["received at most"]) == ("oracle", 4 + 3, (4 + 3) * 8)
    assert found.tokens == {("shop", "oracle"): [row["tokens sent"], row["received at most"]]}
    assert row["dollars"] == pytest.approx((7 * row["tokens sent"] + 11 * row["received at most"]) / 1e6)


def test_exact_checkers_cost_nothing_and_longer_text_costs_its_tokens(home):
    short = rows(make_params(home))
    assert ORACLE not in short
    assert UNCERTAINTY in short
    longer = rows(make_params(home, judge=CHAT | {"case": CASE + " " + "z" * 400}))
    added = longer[DETERMINISTIC]["tokens sent"] - short[DETERMINISTIC]["tokens sent"]
    assert added == pytest.approx(2 * PROMPTS * 401 / 4, abs=2 * PROMPTS)


def test_one_more_label_and_one_more_draw_cost_what_the_bill_says(tmp_path):
    """A draw is its response and its scores in both modes; the bill of all draws divided by their number."""
    params = make_params(tmp_path, oracle=ORACLE_MODEL)
    frame, _ = prompts.load(params)
    bill = rows(params)
    each = {job: row["dollars"] / row["measurements"] for job, row in bill.items()}
    got = costs.unit_costs(params, frame, "pi_a")
    assert got["label"] == pytest.approx(each[ORACLE])
    assert got["draw"] == pytest.approx(each[RESPONSES] + each[DETERMINISTIC] + each[UNCERTAINTY])


def test_a_price_that_is_not_known_is_not_free(tmp_path):
    params = make_params(tmp_path, oracle=ORACLE_MODEL, estimation={"label_cost": 2.5})
    frame, _ = prompts.load(params)
    assert costs.unit_costs(params, frame, "pi_a")["label"] == 2.5
    del params.providers["shop"].prices["m"]
    assert costs.unit_costs(params, frame, "pi_a")["draw"] is None
    params.providers["shop"].prices.clear()
    assert costs.unit_costs(params, frame, "pi_a") == {"label": 2.5, "draw": 0.0}
