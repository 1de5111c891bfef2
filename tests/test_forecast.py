"""The bill before anything is asked: the tokens of the requests that will be made, at the prices of the params."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import yaml

from arena10k import paths
from arena10k.collection import costs, generate, judge, labels, teacher_forcing
from arena10k.collection.jobs import DETERMINISTIC, LOGPROBS, ORACLE, RESPONSES, SHUFFLED, UNCERTAINTY, contexts
from arena10k.collection.records import Record
from arena10k.collection.store import Store
from arena10k.collection.tasks import Again, survey
from arena10k.inputs import prompts
from arena10k.inputs.policies import policies
from arena10k.params.config import load
from arena10k.params.sections import Capabilities
from in_process import arena
from stub_server import Stub

CASE = "Q: {prompt} A: {response} ({reference})"
GRADER = {"provider": "shop", "model": "grader", "case": CASE}
CHAT = {"form": "chat", "max_tokens": 16} | GRADER
COMPLETION = {"examples": ["a: Yes", "b: No"], "ratings": {" Yes": 1, " No": 0}} | GRADER
ORACLE_MODEL = {"kind": "model", "grader": GRADER | {"model": "oracle", "max_tokens": 8}, "p0_fraction": 0.5}
PRICES = {"m": (1, 2), "grader": (3, 5), "oracle": (7, 11)}
PROMPTS, TOKENS = 8, 20
#: How pages call the jobs of a bill.
NAMES = {DETERMINISTIC: "judge", UNCERTAINTY: "judge", RESPONSES: "responses"}
NAMES |= {LOGPROBS: "log-probs", SHUFFLED: "log-probs", ORACLE: "oracle"}


def make_params(folder, **sections):
    """Two policies of 20-token answers on 8 prompts of 12 characters, with 4-character reference answers."""
    lines = ({"prompt_id": f"p{i}", "prompt": f"question {i:03d}", "answer": "four"} for i in range(PROMPTS))
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
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


def test_the_forecast_of_scoring_is_a_prompt_with_its_response_sent_and_one_token_received(home):
    """What is sent is counted at four characters per token there, and is as many token ids here."""
    params = make_params(home)
    can = {"token_ids": True, "echo_logprobs": True}
    shop = params.providers["shop"].model_copy(update={"capabilities": Capabilities(**can)})
    params = params.model_copy(update={"providers": {"shop": shop}})
    foretold = rows(params)
    each = foretold[SHUFFLED]["tokens sent"] / PROMPTS
    store = Store.open(paths.store_file(params.run))
    for task in generate.tasks(params, prompts.load(params)[0]):
        ids = {"prompt_token_ids": [7] * (round(each) - TOKENS), "token_ids": [7] * TOKENS}
        store.put(Record(**task.key, status="ok", value="y" * TOKENS, payload=ids))
    scored = list(teacher_forcing.tasks(params, store))
    control = list(teacher_forcing.control_tasks(params, store))
    for job, tasks in ((LOGPROBS, scored), (SHUFFLED, control)):
        ((sent, received),) = survey(store, tasks, Again()).tokens.values()
        row = foretold[job]
        assert (row["measurements"], row["received at most"]) == (len(tasks), received) == (received, len(tasks))
        assert row["tokens sent"] == pytest.approx(sent, abs=len(tasks) / 2 + 1)
        assert row["dollars"] == pytest.approx((row["tokens sent"] * 1 + received * 2) / 1e6, rel=1e-2)
    assert len(control) == PROMPTS


def test_the_cost_is_told_without_a_key_and_without_asking(home, monkeypatch):
    monkeypatch.delenv("SHOP_KEY", raising=False)
    params = make_params(home)
    raw = yaml.safe_load((home / "bill.yaml").read_text())
    with Stub() as stub:
        raw["providers"]["shop"] |= {"api_key_env": "SHOP_KEY", "base_url": stub.url}
        (home / "bill.yaml").write_text(yaml.safe_dump(raw))
        told = arena("report", "--params", home / "bill.yaml", "--cost")
        assert stub.requests == 0
        assert stub.keys == set()
    assert told.returncode == 0, told.stderr
    bill = costs.forecast(params)
    assert told.stdout == f"{bill.table()}\nWhat is left of bill costs up to ${bill.dollars:,.2f}. Nothing was asked.\n"
    assert not (home / "data").exists()
    assert not (home / "reports").exists()
    refused = arena("report", "--params", home / "bill.yaml")
    assert "SHOP_KEY is not set" in refused.stderr


def test_the_cost_of_what_cannot_be_read_says_which_file_to_put_where(home):
    told = arena("report", "--params", "arena10k", "--cost")
    file = home / "data" / "arena" / "chatbot_arena_conversations.parquet"
    assert told.returncode == 2
    assert told.stderr.startswith(f"error: prompts.path: no file '{file}': save the Parquet or JSON of lmsys/")
    assert "Traceback" not in told.stderr


def test_the_cost_that_pages_tell_of_the_full_experiment_is_its_forecast(home, shared_data):
    lines = (shared_data / "arena_prompts.jsonl").read_text(encoding="utf-8").splitlines()
    given = [json.loads(line) for line in lines]
    # Twice as many of the same lengths, as another prompt may differ from the first by its last character.
    given += [row | {"prompt_id": f"{row['prompt_id']}+", "prompt": f"{row['prompt'][:-1]}\u2021"} for row in given]
    given += [row | {"prompt_id": f"{row['prompt_id']}x", "prompt": f"{row['prompt'][:-1]}\u2020"} for row in given]
    (home / "prompts.jsonl").write_text("\n".join(map(json.dumps, given)), encoding="utf-8")
    params = load("arena10k")
    source = params.prompts.model_copy(update={"source": "jsonl", "path": str(home / "prompts.jsonl")})
    bill = costs.forecast(params.model_copy(update={"prompts": source}))
    assert sum(row["measurements"] for row in bill.rows if row["job"] == RESPONSES) == 5 * 10_000
    parts = Counter()
    for row in bill.rows:
        parts[NAMES[row["job"]]] += row["dollars"]
    told = f"${bill.dollars:.0f} ({', '.join(f'{name} ${parts[name]:.0f}' for name in dict.fromkeys(NAMES.values()))})"
    for page in ("docs/provider.md", "params/arena10k.yaml"):
        assert told in " ".join((paths.source_root() / page).read_text(encoding="utf-8").split()), told
    assert f"up to ${bill.dollars:.0f}" in (paths.source_root() / "params" / "arena10k_t05.yaml").read_text()


def test_what_is_not_asked_costs_nothing_and_longer_text_costs_its_tokens(home):
    """No grader is asked where checkers are exact, and no endpoint to score that cannot."""
    short = rows(make_params(home))
    assert {ORACLE, LOGPROBS, SHUFFLED}.isdisjoint(short)
    assert UNCERTAINTY in short
    longer = rows(make_params(home, judge=CHAT | {"case": CASE + " " + "z" * 400}))
    added = longer[DETERMINISTIC]["tokens sent"] - short[DETERMINISTIC]["tokens sent"]
    assert added == pytest.approx(2 * PROMPTS * 401 / 4, abs=2 * PROMPTS)


def test_one_more_label_and_one_more_draw_cost_what_the_bill_says_and_a_price_not_known_is_not_free(tmp_path):
    """A draw is its response and its scores in both modes; the bill of all draws divided by their number."""
    params = make_params(tmp_path, oracle=ORACLE_MODEL)
    frame, _ = prompts.load(params)
    each = {job: row["dollars"] / row["measurements"] for job, row in rows(params).items()}
    got = costs.unit_costs(params, frame, "pi_a")
    assert got["label"] == pytest.approx(each[ORACLE])
    assert got["draw"] == pytest.approx(each[RESPONSES] + each[DETERMINISTIC] + each[UNCERTAINTY])
    params = make_params(tmp_path, oracle=ORACLE_MODEL, estimation={"label_cost": 2.5})
    assert costs.unit_costs(params, frame, "pi_a")["label"] == 2.5
    del params.providers["shop"].prices["m"]
    assert costs.unit_costs(params, frame, "pi_a")["draw"] is None
    params.providers["shop"].prices.clear()
    assert costs.unit_costs(params, frame, "pi_a") == {"label": 2.5, "draw": 0.0}
