"""Votes on which of two answers is better, and rows that hold the answers of two sides: win rates of known truth.

The files are written here in the layouts of public sets of votes, column by column: LMSYS's
chatbot_arena_conversations, mt_bench_human_judgments and lmsys-arena-human-preference-55k.
"""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from arena10k import DataError, compare, interchange, paths
from arena10k.collection.jobs import ORACLE, RESPONSES
from arena10k.errors import ArenaError
from arena10k.estimation.compare import breakdowns, contrasts, ranking
from arena10k.estimation.context import context
from arena10k.estimation.data import PolicyData, Rows
from arena10k.estimation.evaluation import study
from arena10k.params import config
from arena10k.params.imported import ImportedParams
from arena10k.pipeline import first_page
from arena10k.report import differences, headline
from arena10k.report.summary import verdict
from arena10k.run import Run
from in_process import arena, run_cells

MODELS = ("gpt-4", "claude-1", "koala-13b")
SHARES = {"a": 1.0, "b": 0.0, "tie": 0.5}
OWN = ["--column", "prompt=question", "--old", "answer_old", "--new", "answer_new", "--column", "winner=winner"]


def turns(*texts):
    return [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(texts)]


def drawn(n=90, seed=0):
    """Votes: a number, the models on both sides and who wins, a, b or tie."""
    rng = np.random.default_rng(seed)
    for number in range(n):
        first, second = rng.choice(MODELS, 2, replace=False)
        yield number, str(first), str(second), str(rng.choice(["a", "b", "tie"], p=[0.5, 0.3, 0.2]))


def conversations(number, a, b, winner):
    question = f"Question {number}?"
    said = {"a": "model_a", "b": "model_b", "tie": "tie (bothbad)" if number % 2 else "tie"}[winner]
    own = {f"conversation_{side}": turns(question, f"{model} {number}") for side, model in (("a", a), ("b", b))}
    row = {"question_id": f"id{number}", "model_a": a, "model_b": b, "winner": said, "judge": "u", "turn": 1} | own
    return row | {"anony": True, "language": "English", "tstamp": 1682351591.1}


def mt_bench(number, a, b, winner):
    """80 questions of two turns; both turns of each pair are judged, the second one always for the first model."""
    own = {f"conversation_{side}": turns(f"Q {number % 10}", "x", "and?", m) for side, m in (("a", a), ("b", b))}
    said = {"a": "model_a", "b": "model_b", "tie": "tie"}[winner]
    row = {"question_id": number % 10, "model_a": a, "model_b": b, "winner": said, "judge": f"expert_{number % 3}"}
    return [row | own | {"turn": 1}, row | own | {"turn": 2, "winner": "model_a"}]


def preferences(number, a, b, winner):
    own = {f"response_{side}": json.dumps([f"{model} {number}", "More."]) for side, model in (("a", a), ("b", b))}
    hot = {f"winner_{name}": int(winner == key) for name, key in (("model_a", "a"), ("model_b", "b"), ("tie", "tie"))}
    return (
        {"id": number, "model_a": a, "model_b": b, "prompt": json.dumps([f"Question {number}?", "More?"])} | own | hot
    )


def written(path, rows):
    frame = pd.DataFrame(rows)
    write = {".parquet": frame.to_parquet, ".csv": lambda p: frame.to_csv(p, index=False)}
    write.get(path.suffix, lambda p: p.write_text("".join(json.dumps(row) + "\n" for row in rows)))(path)
    return path


#: By file the map, how a row is made, what is said beside it, and how a prompt and an answer read.
PUBLIC = {
    "arena.parquet": ("conversations", conversations, [], "Question {0}?", "{1} {0}"),
    "arena.jsonl": ("conversations", conversations, [], "Question {0}?", "{1} {0}"),
    "mt.parquet": ("conversations", mt_bench, ["--set", "where.turn=1"], "Q {2}",
                   "assistant: x\n\nuser: and?\n\nassistant: {1}"),
    "kaggle.csv": ("preferences", preferences, [], "Question {0}?\n\nMore?", "{1} {0}\n\nMore."),
}  # fmt: skip


def imported(*words, run="mine"):
    done = arena("import", *map(str, words), "--run", run)
    assert done.returncode == 0, done.stderr
    return Run(run), json.loads(paths.import_file(run).read_text()), done.stdout


def refused(*words):
    done = arena("import", *map(str, words), "--run", "refused")
    assert (done.returncode, paths.data_dir("refused").exists()) == (2, False)
    return done.stderr


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_set_of_votes_is_read_as_it_is(home, name):
    taken, make, words, prompt, answer = PUBLIC[name]
    votes = list(drawn())
    rows = [row for made in (make(*vote) for vote in votes) for row in (made if isinstance(made, list) else [made])]
    run, account, said = imported(written(home / name, rows), "--logging-policy", "gpt-4", *words)
    assert f"{name} is read as {taken}" in said
    asked = dict(zip(run.prompts.prompt_id, run.prompts.prompt, strict=True))
    found = sorted((r["policy"], asked[r["prompt_id"]], r["value"]) for r in run.store.rows(ORACLE))
    plain = {model: account["policies"].get(model) for model in MODELS}
    own = [(n, b if a == "gpt-4" else a, SHARES[w] if b == "gpt-4" else 1 - SHARES[w])
           for n, a, b, w in votes if "gpt-4" in (a, b)]  # fmt: skip
    assert found == sorted((plain[model], prompt.format(n, model, n % 10), share) for n, model, share in own)
    texts = {(r["policy"], r["value"]) for r in run.store.rows(RESPONSES)}
    every = [(n, model) for n, a, b, _ in votes if "gpt-4" in (a, b) for model in (a, b)]
    assert texts == {(plain[model], answer.format(n, model, n % 10)) for n, model in every}
    (file,) = account["files"]
    others = len(votes) - len(own)
    assert (file["taken"], file["left_out"]) == (len(own), 0)
    assert others in file["beside"].values()
    assert f"{others} votes" in said
    assert run.params.logging_policy == "gpt_4"
    # The run's name of the logging policy does as well.
    again, _, _ = imported(home / name, "--logging-policy", "gpt_4", *words, run="again")
    values = [sorted(r["value"] for r in one.store.rows(ORACLE)) for one in (run, again)]
    assert values[0] == values[1]


def test_both_turns_of_a_prompt_are_votes_of_one_cluster(home):
    path = written(home / "mt.parquet", [row for vote in drawn() for row in mt_bench(*vote)])
    run, _, _ = imported(path, "--logging-policy", "gpt-4")
    votes = [vote for vote in drawn() if "gpt-4" in vote]
    assert len(list(run.store.rows(ORACLE))) == 2 * len(votes)
    assert len(run.prompts) == 10
    arrays = run.arrays(run.table())["claude_1"]["deterministic"].fresh
    assert len(np.unique(arrays.cluster)) <= 10 < len(arrays)


@pytest.mark.parametrize("policy", [None, "gpt-5"])
def test_without_the_policy_that_others_are_compared_with_the_models_and_their_rows_are_told(home, policy):
    votes = list(drawn())
    path = written(home / "arena.parquet", [conversations(*vote) for vote in votes])
    said = refused(path, *(["--logging-policy", policy] if policy else []))
    for model in MODELS:
        assert f"{model!r} in {sum(model in vote for vote in votes)}" in said
    assert {"arena.parquet:", "--logging-policy"} <= set(said.split())
    (home / "mine.yaml").write_text("run: mine\nimported: {tables: [{path: arena.parquet, map: conversations}]}\n")
    assert "logging_policy" in arena("import", "table", home / "mine.yaml").stderr
    (home / "mine.yaml").write_text(
        "run: mine\nlogging_policy: gpt_4\nimported: {tables: [{path: arena.parquet, map: conversations}]}\n"
    )
    assert arena("import", "table", home / "mine.yaml").returncode == 0
    assert Run(home / "mine.yaml").params.logging_policy == "gpt_4"


# One's own


def own(n=400, prompts=300, seed=0, chances=(0.3, 0.5, 0.2), judged=False):
    """Rows with two answers and a vote: old, new, tie; a judge that sees a part of what people do."""
    rng = np.random.default_rng(seed)
    winner = rng.choice(["old", "new", "tie"], n, p=chances)
    rows = {"question": [f"Q{k % prompts}" for k in range(n)], "answer_old": "It is.", "answer_new": "Yes."}
    frame = pd.DataFrame(rows | {"winner": winner})
    if judged:
        frame["score_new"] = np.clip(0.5 * (winner == "new") + 0.25 * (winner == "tie") + 0.5 * rng.random(n), 0, 1)
        frame["score_old"] = 1 - frame.score_new
    return frame


def rows_of(run):
    return {row["estimator"]: row for row in run.estimates(run.table())["rows"] if row["policy"] == "new"}


def test_the_value_is_the_win_rate_and_that_of_the_logging_policy_is_a_half_by_definition(home):
    frame = own(2000, 1500)
    frame.to_csv(home / "v.csv", index=False)
    run, account, _ = imported(home / "v.csv", *OWN)
    row = rows_of(run)["ppi_pp"]
    assert row["ci_low"] <= 0.6 <= row["ci_high"]
    assert 0.03 < row["ci_high"] - row["ci_low"] < 0.05
    assert row["verdict"] == "REPORT"
    estimates = run.estimates(run.table())
    (known,) = (r for r in estimates["rows"] if r["policy"] == "old")
    assert (known["verdict"], known["value"], known["ci_low"], known["se"]) == ("BY_DEFINITION", 0.5, None, None)
    assert [(place["policy"], place["rank"]) for place in estimates["ranking"]] == [("new", 1), ("old", 2)]
    (pair,) = estimates["contrasts"]
    assert (pair["a"], pair["b"], pair["significant"]) == ("new", "old", True)
    apart = [row["value"] - 0.5, row["ci_low"] - 0.5, row["ci_high"] - 0.5]
    assert [pair["difference"], pair["low"], pair["high"]] == pytest.approx(apart, abs=1e-9)
    assert rows_of(run)["direct"]["verdict"] == "NOT_ASKED", "there is no judge"
    told = run.estimate()
    assert [tuple(place) for place in told.ranking[["policy", "value"]].itertuples(index=False)][1] == ("old", 0.5)
    share = frame.winner.map({"new": 1.0, "tie": 0.5, "old": 0.0})
    assert row["value"] == pytest.approx(share.groupby(frame.question).mean().mean(), abs=1e-9)
    assert account["records"][RESPONSES] == {"new": {"ok": 2000}, "old": {"ok": 1500}}
    found = compare(frame.rename(columns={"question": "prompt"}), winner="winner")
    new = found.evaluation.headline.loc["new"]
    ends = [row["value"], row["ci_low"], row["ci_high"]]
    assert [new.value, new.ci_low, new.ci_high] == pytest.approx(ends, abs=0.002)
    assert found.difference == pytest.approx(2 * new.value - 1)
    assert "60% of the votes" in found.sentence


def test_intervals_hold_the_true_win_rate():
    """One to three votes on each of 60 prompts, which has a chance of its own: they are not independent."""
    runs, hits = 100, 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        chance, prompt = rng.beta(3, 2, 60), np.repeat(np.arange(60), rng.integers(1, 4, 60))
        winner = np.where(rng.random(len(prompt)) < chance[prompt], "new", "old")
        winner[rng.random(len(prompt)) < 0.2] = "tie"
        frame = pd.DataFrame({"prompt_id": prompt, "answer_old": "a", "answer_new": "b", "winner": winner})
        found = compare(frame, winner="winner")
        hits += found.ci_low <= 2 * (0.8 * 0.6 + 0.1) - 1 <= found.ci_high
    assert binom.cdf(hits, runs, 0.95) >= 0.001
    assert hits < runs


#: Win rates against the baseline, a fifth of the votes being ties.
RATES = {"good": 0.65, "same": 0.5, "bad": 0.3}


def contexts_of(rng, rates, n=60):
    """Votes on n prompts, of which each has its own luck and of each policy seven in ten a vote."""
    luck, none = rng.beta(4, 4, n) - 0.5, Rows(np.empty(0))
    made = {"base": PolicyData(none, is_logging=True, known=0.5)}
    for name, rate in rates.items():
        chance = (rate - 0.1) / 0.8
        wins = rng.random(n) < chance + 1.2 * luck * min(chance, 1 - chance)
        label = np.where(rng.random(n) < 0.2, 0.5, wins)
        own = np.flatnonzero(rng.random(n) < 0.7)
        rows = Rows(np.full(len(own), 0.5), label=label[own], cluster=own, has_score=np.zeros(len(own)))
        made[name] = PolicyData(none, rows)
    return {name: context(data, policy=name) for name, data in made.items()}


@pytest.mark.parametrize("rates", [RATES, dict.fromkeys(RATES, 0.5)])
def test_differences_to_the_baseline_hold_together_with_those_of_the_others(rates):
    runs, hold, wrong, truth = 100, 0, 0, {"base": 0.5} | rates
    for seed in range(runs):
        pairs = contrasts(contexts_of(np.random.default_rng(seed), rates))
        assert len(pairs) == 6
        apart = [(c, truth[c.a] - truth[c.b]) for c in pairs]
        hold += all(c.low <= true <= c.high for c, true in apart)
        wrong += any(c.significant and c.difference * true <= 0 for c, true in apart)
    assert binom.cdf(hold, runs, 0.95) >= 0.001
    assert binom.sf(wrong - 1, runs, 0.05) >= 0.001


def test_the_baseline_is_in_its_place_in_the_ranking_and_in_the_verdict():
    contexts = contexts_of(np.random.default_rng(0), RATES, 2000)
    pairs = contrasts(contexts)
    places = {place.policy: place for place in ranking(contexts, pairs)}
    ranks = {policy: (place.rank, place.worst_rank) for policy, place in places.items()}
    assert ranks == {"good": (1, 1), "same": (2, 3), "base": (2, 3), "bad": (4, 4)}
    assert (places["base"].value, places["base"].ci_low) == (0.5, None)
    turns = {(b.better, b.worse): b for b in breakdowns(contexts)}
    assert turns["good", "base"].unseen_of == "good"
    assert turns["base", "bad"].unseen_of == "bad"
    assert {b.judge_error for b in turns.values()} == {None}
    result = study({policy: {"d": ctx.data} for policy, ctx in contexts.items()}, judge="d").result
    said = verdict(result)
    good = places["good"]
    assert said.startswith(f"good wins most against base: {good.value:.3f} ")
    assert said.endswith("same is not distinguishable from base.")
    assert len(said.split()) <= 25
    baseline, rows = differences(result)
    assert (baseline, [row["policy"] for row in rows]) == ("base", ["good", "same", "bad"])
    assert [row["value"] for row in rows] == pytest.approx([places[r["policy"]].value - 0.5 for r in rows])
    worst = study({p: {"d": contexts[p].data} for p in ("base", "bad")}, judge="d").result
    assert "bad" in verdict(worst)
    assert not verdict(worst).startswith("bad")
    alone = verdict(study({"base": {"d": contexts["base"].data}}, judge="d").result)
    assert "base" not in alone, "what is known by definition is no finding"


def test_scores_of_a_judge_are_calibrated_by_votes_and_stand_for_those_that_are_lacking(home):
    frame = own(600, 600, judged=True)
    frame["winner"] = frame.winner.where(frame.index % 4 == 0)
    frame.to_csv(home / "v.csv", index=False)
    judged, account, said = imported(home / "v.csv", *OWN, "--column", "judge=score")
    assert account["files"][0]["beside"]["without a vote"] == 450
    assert "450 without a vote" in said
    assert {policy for policy, *_ in judged.judgments[["policy"]].itertuples(index=False)} == {"new"}
    alone, account, _ = imported(home / "v.csv", *OWN, run="alone")
    assert account["files"][0]["faults"] == {"winner: malformed": 450}
    wide, narrow = (rows_of(run)["ppi_pp"] for run in (alone, judged))
    assert narrow["ci_low"] <= 0.6 <= narrow["ci_high"]
    assert narrow["ci_high"] - narrow["ci_low"] < 0.8 * (wide["ci_high"] - wide["ci_low"])


def test_words_are_declared_and_those_that_are_not_stop_the_import(home):
    frame = own()
    named = frame.assign(winner=frame.winner.map({"old": "A", "new": "B", "tie": "C"}))
    named.loc[7, "winner"] = "?"
    named.to_csv(home / "v.csv", index=False)
    said = refused(home / "v.csv", *OWN)
    assert {"v.csv:", "winner:", "line", "2:"} <= set(said.split())
    assert f"values.winner.{named.winner[0]}" in said
    words = [word for key in ("A=1", "B=0", "C=0.5") for word in ("--set", f"values.winner.{key}")]
    assert {"9:", "'?'"} <= set(refused(home / "v.csv", *OWN, *words).split())
    (home / "mine.yaml").write_text(yaml.safe_dump({"run": "mine", "logging_policy": "old", "imported": {"tables": [{
        "path": "v.csv", "sides": ["old", "new"],
        "columns": {"prompt": "question", "response": "answer_{side}", "winner": "winner"},
        "values": {"winner": {"A": 1, "B": 0, "C": 0.5, "?": None}},
    }]}}))  # fmt: skip
    done = arena("import", "table", home / "mine.yaml")
    assert done.returncode == 0, done.stderr
    assert "1 without a vote" in done.stdout
    found = sorted(r["value"] for r in Run(home / "mine.yaml").store.rows(ORACLE))
    assert found == sorted(frame.winner.map({"new": 1.0, "tie": 0.5, "old": 0.0}).drop(7))


def test_a_wide_file_is_the_two_tables_it_stands_for(home):
    own(50, 50, judged=True).assign(label_old=0.25, label_new=lambda d: (d.winner == "new") * 1.0).to_csv(
        home / "v.csv", index=False
    )
    words = [word for word in OWN if "winner" not in word][:-1]
    wide, account, _ = imported(home / "v.csv", *words, "--column", "judge=score", "--column", "label=label")
    sides = [{"path": "v.csv", "policy": side, "columns": {"prompt": "question", "response": f"answer_{side}",
              "judge": f"score_{side}", "label": f"label_{side}"}} for side in ("old", "new")]  # fmt: skip
    (home / "two.yaml").write_text(
        yaml.safe_dump({"run": "two", "logging_policy": "old", "imported": {"tables": sides}})
    )
    assert arena("import", "table", home / "two.yaml").returncode == 0
    keys = ("job", "policy", "prompt_id", "draw", "value")
    both = [{tuple(r[key] for key in keys) for r in run.store.rows()} for run in (wide, Run(home / "two.yaml"))]
    assert both[0] == both[1]
    assert (account["files"][0]["rows"], len(both[0])) == (50, 300)
    frame = pd.read_csv(home / "v.csv")
    frame.loc[3, ["answer_old", "score_old", "label_old"]] = np.nan
    frame.loc[4, ["answer_old", "score_old", "label_old", "answer_new", "score_new", "label_new"]] = np.nan
    frame.to_csv(home / "some.csv", index=False)
    judged = [*words, "--column", "judge=score", "--column", "label=label"]
    _, account, _ = imported(home / "some.csv", *judged, run="some")
    assert account["records"][RESPONSES] == {"old": {"ok": 48}, "new": {"ok": 49}}
    assert [(f["line"], f["field"]) for f in account["malformed"]] == [(6, "answer_old")]


def test_every_page_is_made_of_votes(home):
    own(60, 60).to_csv(home / "v.csv", index=False)
    imported(home / "v.csv", *OWN)
    for stage in ("00_status", "02_responses", "04_judge", "05_data_quality", "06_estimates", "09_ablation_summary"):
        run_cells(stage, "imported", "mine")
    first_page.write_index(config.load("imported", "mine"))
    page = (paths.reports_dir("mine") / "index.html").read_text()
    assert "the win rate against old" in page
    assert '<span class="badge other">by definition</span>' in page
    assert "Difference from old" in page
    for absent in ("PPI++", "judge)", "Log-probs", "controls of the log-probs", "Log alone", " 0 labels", "all pairs"):
        assert absent not in page.split("The answer</h2>")[0]


def test_ratings_are_shown_on_their_own_scale(home):
    rng = np.random.default_rng(0)
    stars = {f"{what}_{side}": rng.integers(1, 6, 60) for what in ("score", "label") for side in ("old", "new")}
    stars["label_new"] = np.minimum(5, stars["label_new"] + 1)
    own(60, 60).assign(**stars).to_csv(home / "v.csv", index=False)
    columns = ["--column", "judge=score", "--column", "label=label", "--judge-scale", 1, 5, "--oracle-scale", 1, 5]
    run, *_ = imported(home / "v.csv", *OWN[:-2], *columns)
    found = run.estimates(run.table())
    run.write_result("estimates.json", found)
    run.write_result("examples.json", run.examples().result)
    first_page.write_index(run.params)
    page = (paths.reports_dir("mine") / "index.html").read_text()
    shown = re.findall(r'data-of="Value">([0-9.]+)<', page)
    assert shown == [f"{1 + 4 * row['value']:.2f}" for row in headline(found)]
    (pair,) = found["contrasts"]
    (apart,) = re.findall(r'data-of="Difference">[+\u2212]?([0-9.]+)<', page)
    assert apart == f"{4 * abs(pair['difference']):.2f}"
    assert f"{4 * run.examples().result['apart']:.2f}" in page[page.index("Answers side by side") :]


# What is wrong

PAIR = {"model_a": "x", "model_b": "y", "q": "Q", "a": "A.", "b": "B.", "wa": 1, "wb": 0, "tie": 0}
#: What is changed of a row, and the field that its fault names.
BROKEN = [
    ({"model_b": "x"}, "model_a"), ({"model_a": None}, "model_a"), ({"model_b": 5}, "model_b"),
    ({"wa": 0}, "wa"), ({"wb": 1}, "wa"), ({"tie": 1}, "wa"), ({"wa": 0.5, "tie": 0.5}, "wa"), ({"wa": "yes"}, "wa"),
    ({"wa": None}, "wa"), ({"wb": None}, "wa"), ({"wa": None, "wb": None, "tie": None}, "wa"),
    ({"wa": 2, "wb": -1}, "wa"), ({"b": None}, "b"), ({"q": None}, "prompt_id"), ({"b": {"a": 1}}, "b"),
]  # fmt: skip
HOT = {"sides": ["a", "b"], "columns": {"prompt": "q", "response": "{side}", "policy": "model_{side}",
                                        "winner": ["wa", "wb", "tie"]}}  # fmt: skip
WORDS = HOT | {"columns": HOT["columns"] | {"winner": "w"}}


def taken(home, rows, table, run="mine"):
    path = written(home / "t.jsonl", rows)
    params = ImportedParams.model_validate({"tables": [table | {"path": str(path)}]})
    return interchange.import_tables(run, params, "x")


def test_a_row_that_is_no_vote_is_named_by_file_line_and_field(home):
    good = [PAIR | {"q": f"Q{k}"} for k in range(2 * len(BROKEN))]
    rows = [row | changes for row, (changes, _) in zip(good, BROKEN, strict=False)]
    account = taken(home, [*rows, *good[len(BROKEN) :]], HOT)
    assert [(f["file"], f["line"], f["field"]) for f in account["malformed"]] == [
        ("t.jsonl", line, field) for line, (_, field) in enumerate(BROKEN, start=1)
    ]
    assert all(f["do"] or f["field"] in ("model_a", "model_b", "b", "prompt_id") for f in account["malformed"])
    assert account["records"][ORACLE] == {"y": {"ok": len(BROKEN)}}


TABLES = {
    "sides: both are 'a'": {"sides": ["a", "a"]},
    "label goes not with columns.winner": {"columns": HOT["columns"] | {"label": "wa"}},
    "exact goes not with columns.winner": {"exact": True},
    "or three of 1 and 0": {"columns": HOT["columns"] | {"winner": ["wa", "wb"]}},
    "1 of 1 values are outside of": {"columns": WORDS["columns"], "values": {"winner": {"first": 2}}},
    "go with sides": {"sides": None},
    "without a policy": {"columns": HOT["columns"] | {"policy": None}, "policy": "x"},
    "gone: is not a column|gone: no row": {"columns": HOT["columns"] | {"winner": "gone"}},
}


@pytest.mark.parametrize("says", TABLES)
def test_tables_of_votes_that_cannot_be_meant_are_refused(home, says):
    with pytest.raises((ArenaError, ValueError), match=says):
        taken(home, [PAIR | {"w": "first"}], HOT | TABLES[says])
    assert not paths.data_dir("mine").exists()


def test_votes_and_other_labels_are_not_mixed(home):
    frame = own(20, 20, judged=True)
    frame.to_csv(home / "v.csv", index=False)
    assert "from 0 to 1" in refused(home / "v.csv", *OWN, "--oracle-scale", 0, 5)
    assert "columns.winner" in refused(home / "v.csv", *OWN, "--column", "label=score")
    assert "--old and --new" in refused(home / "v.csv", *OWN[:4], "--column", "judge=score")
    assert "two sides" in refused(f"x={home / 'v.csv'}", *OWN)
    written(home / "arena.parquet", [conversations(*vote) for vote in drawn(9)])
    assert "label" in refused(home / "arena.parquet", "--logging-policy", "gpt-4", "--column", "label=turn")


@pytest.mark.parametrize(
    ("says", "call"),
    [
        ("'winner', row 2: 'B' is none of 'old', 'new', 'tie'", {"winner": "winner"}),
        ("`winner` or `label`", {"winner": "winner", "label": "score"}),
        ("no column 'wining'", {"winner": "wining"}),
        ("both answers", {"winner": "winner", "old": "answer"}),
    ],
)
def test_frames_of_votes_without_sense_are_named(says, call):
    frame = own(20, 20, judged=True)
    frame.loc[2, "winner"] = "B"
    with pytest.raises(DataError, match=says):
        compare(frame, **call)


SCALARS = (
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.sampled_from(["x", "y", "z", "tie", "1", ""])
)
ANY = SCALARS | st.lists(SCALARS, max_size=2) | st.text(max_size=3)
VOTES = st.lists(
    st.fixed_dictionaries(
        {key: st.just(PAIR[key]) | ANY for key in ("model_a", "model_b", "wa", "wb", "tie")} | {"w": SCALARS}
    ), min_size=1, max_size=6,
)  # fmt: skip


@given(VOTES, st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_is_a_vote_as_it_stands_or_named(tmp_path_factory, monkeypatch, rows, hot):
    """A row is a vote for what it says, one between others, or named by file, line and field; or all are refused."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("ARENA10K_HOME", str(home))
    rows = [{"q": f"Q{k}", "a": "A.", "b": "B."} | row for k, row in enumerate(rows)]
    error = ""
    try:
        account = taken(home, rows, HOT if hot else WORDS)
    except ArenaError as refusal:
        error = str(refusal)
    if error:
        assert error.startswith(("t.jsonl: ", "nothing can be imported: t.jsonl: "))
        assert "\n" not in error
        return
    run = Run("imported", "mine")
    with_vote = {int(r["payload"]["line"]): None for r in run.store.rows(RESPONSES) if r["policy"] != "x"}
    labels = {r["prompt_id"]: r["value"] for r in run.store.rows(ORACLE)}
    run.store.close()
    named = {f["line"] for f in account["malformed"] if f["field"]}
    for line, row in enumerate(rows, start=1):
        models = [row["model_a"], row["model_b"]]
        if line in with_vote:
            shares = {"x": 1.0, "y": 0.0, "tie": 0.5} if hot else {models[0]: 1.0, models[1]: 0.0, "tie": 0.5}
            share = (1.0, 0.0, 0.5)[[float(row[k]) for k in ("wa", "wb", "tie")].index(1)] if hot else shares[row["w"]]
            assert labels[f"Q{line - 1}"] == (share if models[1] == "x" else 1 - share)
            assert models.count("x") == 1
        else:
            assert line in named or "x" not in models
