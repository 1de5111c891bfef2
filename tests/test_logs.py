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
PROMPTFOO = {"echo_0_Answer_briefly_question_", "echo_1_Answer_at_length_question_"}
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
    "promptfoo.json.gz": ([], "promptfoo", PROMPTFOO,
                          ("What is 2 + 2?", "Answer at length: What is 2 + 2?"), [0, 1, 1, 1]),
    "promptfoo.jsonl": ([], "promptfoo", PROMPTFOO,
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
    assert list(Run(home / "t.yaml").params.policies) == [Run(home / "t.yaml").params.logging_policy] == ["m"]
    (home / "other.yaml").write_text((home / "t.yaml").read_text().replace("run: mine", "run: o\nlogging_policy: base"))
    said = arena("import", "table", home / "other.yaml").stderr
    assert "'m' in 3" in said
    assert "logging_policy: NAME" in said


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


ROWS = [{"q": f"Q{n}", "a": f"A {n}", "s": n / 4, "who": "m x" if n else "n"} for n in range(4)]
OWN = ["--column", "prompt=q", "--column", "response=a", "--column", "judge=s"]
SIDES = [{"q": f"Q{n}", "said_v1": f"A {n}", "said_v2": f"B {n}", "s_v1": 3, "s_v2": 5, "l_v1": 4} for n in range(4)]
VOTES = {"id": 0, "model_a": "x", "model_b": "y", "prompt": "Q?", "response_a": "A", "response_b": "B"}
BESIDE = ["--old", "said_v1", "--new", "said_v2", "--column", "prompt=q"]


def in_file(path, rows):
    """Rows in the form of the file's name; bytes as they are."""
    content = rows
    if not isinstance(rows, bytes):
        cells = ",".join(rows[0]) + "\n" + "".join(",".join(map(str, row.values())) + "\n" for row in rows)
        content = (cells if ".csv" in path.name else "".join(json.dumps(row) + "\n" for row in rows)).encode()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "rows", "words", "says"),
    [
        ("t.csv", ROWS, [*OWN, "--logging-policy", "base"], ["'t' in 4", "--logging-policy"]),
        ("t.csv", ROWS, [*OWN, "--column", "policy=who", "--logging-policy", "x"], ["'m_x' in 3", "'n' in 1"]),
        ("t.csv", ROWS, [*OWN, "--set", "where.who=m"], ["where.who", "'m x' in 3", "'n' in 1"]),
        ("t.csv", ROWS, [*OWN[:4], "--column", "judge=who"], ["'values.judge.m x=NUMBER'", "allow_missing=[judge]"]),
        ("t.csv", b"q;a;s\nQ;A;1\n", OWN, ["--set 'delimiter=;'"]),
        ("t.csv", b"q\ta\ts\nQ\tA\t1\n", OWN, [r"--set 'delimiter=\t'"]),
        ("t.json", b'{"rows": [{"q": 1}],\n"b": 1}', OWN, ["--set rows=KEY"]),
        ("t.jsonl", [row | {"s": {"v": row["s"]}} for row in ROWS], OWN, ["--column judge=s.v"]),
        ("t.jsonl", [row | {"s": True} for row in ROWS], [*OWN, "--judge-scale", "0", "5"], ["values.judge.true=5"]),
        ("t.csv", [row | {"l_v2": 4} for row in SIDES], [*BESIDE, "--column", "judge=s", "--column", "label=l"],
         ["--judge-scale", "--oracle-scale"]),
        ("t.csv", SIDES, [*BESIDE, "--column", "judge=s_v1"], ["judge=s:"]),
        ("t.csv", SIDES, [], ["--old said_v1 --new said_v2"]),
        ("t.jsonl", [VOTES | {"winner_model_a": 1, "winner_model_b": 0}], [], ["preferences", "winner_tie is missing"]),
        ("t.json", b'[{"q": 1}, {"q": ', [], ["cut off"]),
        ("t.jsonl", b'{"q": 1, "a": ', [], ["cut off"]),
        ("t.csv", b"", [], ["has no rows"]),
        ("t.parquet", b"", [], ["is empty"]),
    ],
)  # fmt: skip
def test_what_stops_an_import_of_files_is_said_as_the_command_line_has_it(home, name, rows, words, says):
    said = fails(in_file(home / name, rows), *words)
    assert [part for part in says if part not in said] == []
    assert said.count("\n") == 1
    assert sum(part in said for part in ("cut off", "has no rows", "say which column")) < 2


def test_members_that_stand_alone_no_more_are_named_in_the_form_that_works(home):
    assert "--column judge=acc" in fails(LOGS / "lm_eval_choice.jsonl")
    assert imported(LOGS / "lm_eval_choice.jsonl", "--column", "judge=acc")
    rows = [{"q": f"Q{n}", "a": "A", "s": {"m": {"v": 1}, "k": {"v": 0}}} for n in range(3)]
    said = fails(in_file(home / "t.jsonl", rows), *OWN[:4], "--column", "judge=s.*.v")
    assert "--column judge=s.m.v" in said


def test_policies_are_kept_apart_and_named(home):
    """Two prompts of a provider are two policies, two files of one name are refused, the rest is said."""
    log = LOGS / "promptfoo.jsonl"
    said = fails(f"brief={log}")
    assert "'echo 0 Answer briefly: {{question}}'" in said
    one = "where.provider.id + promptIdx + prompt.label=echo 0 Answer briefly: {{question}}"
    run, said = imported(f"brief={log}", "--set", one, run="brief")
    assert (list(run.params.policies), len(scores(run))) == (["brief"], 2)
    assert "of 1 policy (brief)" in said
    run, _ = imported(f"long={log}", "--set", "where.promptIdx=1", run="long")
    assert {r["value"] for r in run.store.rows(RESPONSES)} == {
        "Answer at length: What is 2 + 2?", "Answer at length: Name a colour, please."
    }  # fmt: skip
    run, _ = imported(log, "--column", "policy=provider.id + promptIdx", "--logging-policy", "echo_0", run="spelled")
    assert (run.params.logging_policy, run.params.targets) == ("echo_0", ["echo_1"])
    for folder, first in (("one", 0), ("two", 10)):
        (home / folder).mkdir()
        in_file(home / folder / "t.csv", [row | {"q": f"Q{n}"} for n, row in enumerate(ROWS, first)])
    files = [home / folder / "t.csv" for folder in ("one", "two")]
    assert "POLICY=FILE" in fails(*files, *OWN)
    _, said = imported(f"a={files[0]}", f"b={files[1]}", *OWN, run="apart")
    assert "no prompt of b is one of a" in said
    _, said = imported(f"a={files[0]}", f"a={files[1]}", *OWN, run="joined")
    assert "a is that of t.csv, t.csv (table 2)" in said
    _, said = imported(LOGS / "openai_batch.jsonl", run="bare")
    assert "exact=true" not in said
    assert "--column judge=" in said
    assert "is a folder" in fails(home / "one")


def test_a_tab_divides_cells_and_plain_texts_are_prompts(home):
    tabs = in_file(home / "t.csv", b"q\ta\ts\nQ\tA, B\t1\n")
    run, _ = imported(tabs, *OWN, "--set", r"delimiter=\t")
    assert scores(run) == [1]
    words = {"A": 0.25, "4/5": 0.8, "4.5/5": 0.9, "a=b": 0.5}
    rows = in_file(home / "w.csv", [{"q": f"Q{n}", "a": "A", "s": word} for n, word in enumerate(words)])
    said = [word for key, value in words.items() for word in ("--set", f"values.judge.{key}={value}")]
    run, _ = imported(rows, *OWN, *said, run="words")
    assert sorted(scores(run)) == sorted(words.values())
    row = VOTES | {"winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0}
    run, _ = imported(in_file(home / "v.csv", [row]), "--logging-policy", "x", run="votes")
    assert run.prompts.prompt.tolist() == ["Q?"]
    assert {r["value"] for r in run.store.rows(RESPONSES)} == {"A", "B"}


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
@pytest.mark.parametrize(("prompts", "labelled"), [(40, 2), (2, 1), (1, 1)])
def test_every_stage_runs_on_scores_alone(home, capsys, prompts, labelled):
    rows = [
        {"prompt_id": f"q{n}", "judge_score": n / prompts} | ({} if n % labelled else {"oracle_label": n / prompts})
        for n in range(prompts)
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
