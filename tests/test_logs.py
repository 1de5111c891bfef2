"""Logs of the tools people use, as the tools wrote them (tests/logs): which map is taken, and what is imported."""

from __future__ import annotations

import contextlib
import gzip
import json
from pathlib import Path

import pytest

from arena10k import paths
from arena10k.collection.jobs import DETERMINISTIC, ORACLE, RESPONSES
from arena10k.errors import ArenaError, NothingToShow
from arena10k.inputs.files import File
from arena10k.interchange import maps
from arena10k.pipeline import stages
from arena10k.run import Run
from in_process import arena, run_cells
from test_votes import PUBLIC

LOGS = Path(__file__).parent / "logs"
#: By file what is said beside it, the map, the policies, a prompt with its answer, and the scores, sorted.
FILES = {
    "lm_eval.jsonl": (["--set", "where.filter=strict-match"], "lm_eval", {"lm_eval"},
                      ("question: What is 1 + 1?\nanswer: 2", " The answer is 2."), [0, 1, 1, 1]),
    "lm_eval_choice.jsonl": (["--column", "judge=acc"], "lm_eval_choice", {"lm_eval_choice"},
                             ("question: Is 1 even?\nlabel: 1", None), [0, 1, 1, 1]),
    "inspect.eval": ([], "inspect", {"mockllm_model"}, ("system: Be brief.\n\nuser: What is 4 + 4?", "8"),
                     [0, 0, 1, 1, 1, 1, 1, 1]),
    "inspect.json.gz": ([], "inspect", {"mockllm_model"}, ("What is 1 + 1?", "2"), [0, 1, 1, 1]),
    "openai_batch.jsonl": ([], "openai_batch", {"gpt_4o_mini_2024_07_18"}, (None, "It is 2."), []),
    "openai_batch_responses.jsonl": ([], "openai_batch_responses", {"gpt_4o_mini_2024_07_18"}, (None, "It is 2."), []),
    "openai_evals.jsonl": ([], "openai_evals", {"gpt_4o_mini_2024_07_18"},
                           ("developer: Be brief.\n\nuser: What is 2 + 2?", "5"), [0, 1, 1, 1]),
    "langfuse.json": ([], "langfuse", {"langfuse"}, ("What is 2 + 2?", "5"), [0, 1, 1, 1]),
    "promptfoo.json.gz": ([], "promptfoo", {"echo_0", "echo_1"},
                          ("What is 2 + 2?", "Answer at length: What is 2 + 2?"), [0, 1, 1, 1]),
    "promptfoo.jsonl": ([], "promptfoo", {"echo_0", "echo_1"},
                        ("Name a colour, please.", "Answer briefly: Name a colour, please."), [0, 1, 1, 1]),
    "hf_messages.parquet": (["--column", "judge=score"], "hf_messages", {"hf_messages"},
                            ("What is 2 + 2?", "It is 5."), [0, 1, 1, 1]),
    "cje.jsonl": ([], "cje", {"cje"}, (None, None), None),
}  # fmt: skip


def imported(*words, run="mine"):
    """The run of an import, and what the command said."""
    done = arena("import", *map(str, words), "--run", run)
    assert done.returncode == 0, done.stderr
    return Run(run), done.stdout


def scores(run, job=DETERMINISTIC):
    return [r["value"] for r in run.store.rows(job) if r["status"] == "ok"]


@pytest.mark.parametrize("name", FILES)
def test_a_log_is_read_by_the_map_that_is_found_out(home, name):
    words, taken, policies, (prompt, answer), judged = FILES[name]
    run, said = imported(LOGS / name, *words)
    assert f"{name} is read as {taken}" in said
    assert set(run.params.policies) == policies
    asked = dict(zip(run.prompts.prompt_id, run.prompts.prompt.astype(object).where(run.prompts.prompt.notna(), None),
                     strict=True))  # fmt: skip
    answers = {(asked[r["prompt_id"]], r["value"]) for r in run.store.rows(RESPONSES)}
    assert (prompt, answer) in answers
    if judged is not None:
        assert sorted(scores(run)) == judged
    # What compares with known answers is a label too where the map says so.
    assert bool(scores(run, ORACLE)) == (taken in ("lm_eval", "lm_eval_choice", "cje"))


def test_records_of_cje_need_no_text_no_prompt_and_no_number_of_the_draw(home):
    lines = [json.loads(line) for line in (LOGS / "cje.jsonl").read_text().splitlines()]
    assert {"response", "prompt", "draw_idx"}.isdisjoint({key for line in lines for key in line})
    run, _ = imported(f"base={LOGS / 'cje.jsonl'}")
    frame = run.table().logged
    assert [(r.prompt_id, r.draw) for r in frame.sort_values(["prompt_id", "draw"]).itertuples()] == [
        (f"q{n}", draw) for n in range(3) for draw in range(2)
    ]
    by_prompt = {p: list(part.judge_deterministic) for p, part in frame.groupby("prompt_id")}
    assert by_prompt == {f"q{n}": [r["judge_score"] for r in lines if r["prompt_id"] == f"q{n}"] for n in range(3)}
    assert frame.response.isna().all()
    assert frame.label.notna().sum() == sum("oracle_label" in r for r in lines)


def test_scores_of_another_file_join_the_answers_they_are_of(home):
    """The output of a batch holds no scores: they come from a table with the same ids."""
    (home / "scores.csv").write_text("custom_id,score,model\n" + "".join(f"q{n},{n / 4},m\n" for n in range(3)))
    (home / "t.yaml").write_text(f"""run: mine
imported:
  tables:
    - {{path: {LOGS / "openai_batch.jsonl"}, map: openai_batch, policy: m}}
    - {{path: scores.csv, policy: m, columns: {{prompt_id: custom_id, judge: score}}}}
""")
    assert arena("import", "table", home / "t.yaml").returncode == 0
    rows = {r["prompt_id"]: r["value"] for r in Run(home / "t.yaml").store.rows(DETERMINISTIC)}
    assert rows == {"q0": 0.0, "q1": 0.25, "q2": 0.5}
    assert {r["value"] for r in Run(home / "t.yaml").store.rows(RESPONSES)} == {"It is 0.", "It is 2.", "It is 4."}


def test_files_are_policies_the_first_is_the_one_they_are_compared_with_and_the_score_may_be_the_truth(home):
    good, bad = home / "good.jsonl", home / "bad.jsonl.gz"
    rows = [{"question": f"Question {n}?", "answer": f"Answer {n}", "right": n % 4 > 0} for n in range(200)]
    good.write_text("".join(json.dumps(r) + "\n" for r in rows))
    with gzip.open(bad, "wt") as stream:
        stream.writelines(json.dumps(r | {"right": n % 2 > 0}) + "\n" for n, r in enumerate(rows))
    columns = ["--column", "prompt=question", "--column", "response=answer", "--column", "judge=right"]
    run, said = imported(bad, f"better={good}", *columns, "--set", "exact=true")
    assert (run.params.logging_policy, run.params.targets) == ("bad", ["better"])
    headline = {r["policy"]: r for r in run.estimates(run.table())["rows"] if r["estimator"] == "ppi_pp"}
    assert {p: r["value"] for p, r in headline.items()} == pytest.approx({"bad": 0.5, "better": 0.75})
    assert {r["verdict"] for r in headline.values()} == {"REPORT"}
    assert "exact" not in said
    _, said = imported(bad, f"better={good}", *columns, run="other")
    assert "exact=true" in said


# What is not clear


def fails(*words):
    done = arena("import", *map(str, words))
    assert done.returncode == 2
    return done.stderr


def test_several_views_of_the_same_answers_are_not_counted_twice(home):
    said = fails(LOGS / "lm_eval.jsonl")
    assert {"filter", "'strict-match',", "'none'", "where.filter=strict-match"} <= set(said.replace(":", "").split())
    said = fails(LOGS / "lm_eval_choice.jsonl")
    assert "'acc_norm'" in said


def test_a_file_that_no_map_fits_says_what_is_in_it_and_what_to_write(home):
    (home / "own.csv").write_text("question,reply,stars\nIs it?,Yes.,4\n")
    said = fails(home / "own.csv")
    assert {"question", "reply", "stars", "--column"} <= set(said.split())
    assert not (home / "data").exists()
    assert "many.xlsx" in fails("many.xlsx")
    (home / "many.xlsx").write_text("")
    assert "xlsx" in fails(home / "many.xlsx")
    assert "map 'nosuch'" in fails(home / "own.csv", "--map", "nosuch")
    assert "KEY=VALUE" in fails(home / "own.csv", "--set", "exact")
    assert "is no path" in fails(home / "own.csv", "--column", "prompt=a[", "--column", "judge=stars")


def test_where_two_maps_fit_both_are_named(tmp_path):
    row = json.loads((LOGS / "promptfoo.jsonl").read_text().splitlines()[0])
    row |= {"prompt_id": "a", "judge_score": 1}
    (tmp_path / "both.jsonl").write_text(json.dumps(row))
    with pytest.raises(ArenaError, match=r"maps cje, promptfoo fit.*--map"):
        maps.guess(File(tmp_path / "both.jsonl", "both.jsonl"))


def test_every_map_is_listed_and_tells_its_files_from_the_others_but_for_general_ones():
    listed = arena("import", "--list").stdout
    assert [line.split()[0] for line in listed.splitlines()] == list(maps.shipped())
    assert {taken for _, taken, *_ in FILES.values()} | {taken for taken, *_ in PUBLIC.values()} == set(maps.shipped())
    for name, (_, taken, *_) in FILES.items():
        assert maps.guess(File(LOGS / name, name)) == taken


@pytest.mark.parametrize("name", ["inspect.eval", "inspect.json.gz", "hf_messages.parquet", "promptfoo.json.gz"])
def test_a_log_that_is_cut_off_is_named(home, name):
    whole = (LOGS / name).read_bytes()
    for share in (0.2, 0.5, 0.9):
        (home / name).write_bytes(whole[: int(len(whole) * share)])
        assert name in fails(home / name, "--map", FILES[name][1])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_stage_runs_on_scores_alone(home, capsys):
    rows = [
        {"prompt_id": f"q{n}", "judge_score": n / 40} | ({"oracle_label": n / 40} if n % 2 else {}) for n in range(40)
    ]
    for policy in ("base", "terse"):
        (home / f"{policy}_responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert arena("import", "cje", home, "--run", "mine").returncode == 0
    assert "no failed measurement" in arena("status", "mine").stdout
    for stage in stages.STAGES:
        with contextlib.suppress(NothingToShow):
            run_cells(stage, "imported", "mine")
    assert " nan " not in capsys.readouterr().out
    quality = json.loads(paths.result_file("mine", "quality.json").read_text())
    assert all(job["ok"] == job["total"] for job in quality["jobs"])
