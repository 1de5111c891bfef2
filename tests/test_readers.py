"""One reader for rows of any file, and what a column map makes of them: kinds of files, paths, words, units, and where
an import stops."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arena10k import interchange
from arena10k.collection.jobs import DETERMINISTIC, LOGPROBS, ORACLE, RESPONSES
from arena10k.errors import ArenaError, ParamsError
from arena10k.inputs.files import File
from arena10k.interchange import columns
from arena10k.params import config
from arena10k.run import Run
from test_interchange_faults import MANY

#: Rows whose texts are hard on a format.
ROWS = [
    {"id": f"q{n}", "question": question, "answer": answer, "score": n / 5, "right": n % 2 == 0, "lp": -10.5 - n}
    for n, (question, answer) in enumerate([
        ("One line", "plain"),
        ('Two "quoted"\nlines, with a comma', "a,b\r\nc\td"),
        ("\u00dcn\u00efcode \U0001f600", "semi;colon | pipe"),
        ("{braces}", "[brackets], 'single'"),
        ("trailing space ", " leading"),
        ("NULL", "nan"),
    ])
]  # fmt: skip
COLUMNS = {"prompt_id": "id", "prompt": "question", "response": "answer", "judge": "score", "label": "right",
           "logprobs": {"base": "lp"}}  # fmt: skip


def as_cells(rows, delimiter):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def written(folder, name, rows):
    """A file of rows in the form that its name says; `object.json` holds them under the key `data.rows`."""
    path, stem = folder / name, name.removesuffix(".gz")
    if stem.endswith(".parquet"):
        buffer = io.BytesIO()
        pd.DataFrame(rows).to_parquet(buffer)
        content = buffer.getvalue()
    elif stem.endswith((".csv", ".tsv")):
        content = as_cells(rows, "," if stem.endswith(".csv") else "\t")
    elif stem == "object.json":
        content = json.dumps({"version": 2, "data": {"rows": rows, "more": []}}, indent=1).encode()
    elif stem.endswith(".json"):
        content = json.dumps(rows, ensure_ascii=False, indent=2).encode()
    else:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    return path


def brought(home, table, run="mine", **scales):
    """The run of one table, and the account of its import."""
    (home / f"{run}.yaml").write_text(yaml.safe_dump({"run": run, "imported": {"tables": [table]} | scales}))
    name, _, declared = config.load_import(home / f"{run}.yaml")
    account = interchange.import_tables(name, declared)
    return Run(home / f"{run}.yaml"), account


def values(run, job):
    return {r["prompt_id"]: r["value"] for r in run.store.rows(job) if r["status"] == "ok"}


KINDS = ["t.jsonl", "t.ndjson", "t.json", "object.json", "t.csv", "t.tsv", "t.parquet"]


@pytest.mark.parametrize("name", [*KINDS, *(f"{kind}.gz" for kind in KINDS)])
def test_the_same_rows_in_any_file_are_the_same_records(home, name):
    written(home, name, ROWS)
    rows = {"rows": "data.rows"} if name.startswith("object") else {}
    run, account = brought(home, {"path": name, "columns": COLUMNS} | rows)
    assert account["malformed_count"] == 0
    for job, key in ((RESPONSES, "answer"), (DETERMINISTIC, "score"), (ORACLE, "right"), (LOGPROBS, "lp")):
        assert values(run, job) == {row["id"]: row[key] for row in ROWS}
    assert dict(zip(run.prompts.prompt_id, run.prompts.prompt, strict=True)) == {r["id"]: r["question"] for r in ROWS}


def test_line_numbers_are_those_of_the_file_also_behind_texts_of_several_lines(home):
    rows = [*ROWS, ROWS[0] | {"id": "bad", "score": "good"}, ROWS[1] | {"id": ""}]
    places = {"t.csv": [12, 13], "t.jsonl": [9, 10], "t.json": [7, 8]}
    for number, (name, lines) in enumerate(places.items()):
        path = written(home, name, rows)
        path.write_bytes(b"\n\n" + path.read_bytes())
        _, account = brought(home, {"path": name, "columns": COLUMNS}, run=f"r{number}")
        unit = "row" if name == "t.json" else "line"
        assert [(f["unit"], f["line"], f["field"]) for f in account["malformed"]] == [
            (unit, lines[0], "score"), (unit, lines[1], "id")
        ]  # fmt: skip
        content = (home / name).read_text().splitlines()
        assert name == "t.json" or '"bad"' in content[lines[0] - 1] or content[lines[0] - 1].startswith("bad,")


# Paths

NESTED = {"a": {"b.c": 1, "d": [{"e": "x"}, {"e": "y"}]}, "a.b": 2, "m": {"only": {"v": 3}}, "names": ["acc"], "acc": 4,
          "two": {"p": 1, "q": 2}, "text": '{"k": [5, 6]}', "none": None, "task": "t", "id": 7}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.b", 2), ('a["b.c"]', 1), ("a.d[-1].e", "y"), ("a.d[0]", {"e": "x"}), ("a.d[:-1]", [{"e": "x"}]),
        ("a.d[1:]", [{"e": "y"}]), ("m.*.v", 3), ("@names.*", 4), ("text.k[1]", 6), ("task + id", "t 7"),
        ("none", None),
    ],
)  # fmt: skip
def test_a_path_leads_to_its_value(path, value):
    assert columns.at(NESTED, path) == (True, value)


@pytest.mark.parametrize(
    "path", ["a.x", "a.d[2]", "a.d.e", "none.x", "task[0]", "task + none", "@none", "text.k[9]", "m[0]"]
)
def test_a_path_that_leads_nowhere_is_not_there(path):
    assert columns.at(NESTED, path) == (False, None)


def test_a_path_to_several_members_says_which_there_are():
    with pytest.raises(columns.Fault, match=r"p, q"):
        columns.at(NESTED, "two.*")


@pytest.mark.parametrize("path", ["", "a[", "a[x]", "a..b", "a]b", "[", "a[0"])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ValueError, match="is no path"):
        columns.steps(path)


# What stands in a column


@pytest.mark.parametrize(
    ("given", "said", "share"),
    [
        ([True, False, None], {}, [1, 0, None]),
        (["true", "False", None], {}, [1, 0, None]),
        (["0.25", "1e-1", "1"], {}, [0.25, 0.1, 1]),
        ([1 + 2e-16, -1e-12, 0.5], {}, [1, 0, 0.5]),
        (["C", "I", "P"], {"values": {"label": {"C": 1, "I": 0, "P": 0.5}}}, [1, 0, 0.5]),
        (["model_a", "tie", "NA"], {"values": {"label": {"model_a": 1, "tie": 0.5, "NA": None}}}, [1, 0.5, None]),
        (["yes", "No", 0.5], {"values": {"label": {True: 1, False: 0}}}, [1, 0, 0.5]),
        ([True, False, True], {"values": {"label": {True: 0, False: 1}}}, [0, 1, 0]),
    ],
)
def test_booleans_words_and_numbers_as_texts_are_numbers(home, given, said, share):
    written(home, "t.jsonl", [row | {"right": value} for row, value in zip(ROWS[1:], given, strict=False)])
    run, account = brought(home, {"path": "t.jsonl", "columns": COLUMNS} | said)
    assert values(run, ORACLE) == {f"q{n}": value for n, value in enumerate(share, 1) if value is not None}
    assert account["malformed_count"] == 0


def test_a_number_as_text_among_numbers_is_told_and_left_out(home):
    written(home, "t.jsonl", [ROWS[0] | {"score": "0.5"}, *ROWS[1:]])
    run, account = brought(home, {"path": "t.jsonl", "columns": COLUMNS})
    assert set(values(run, DETERMINISTIC)) == {row["id"] for row in ROWS[1:]}
    assert [(f["line"], f["field"]) for f in account["malformed"]] == [(1, "score")]


@pytest.mark.parametrize(
    ("unit", "tokens", "factor"), [("nats", False, 1), ("bits", False, math.log(2)), ("log10", True, math.log(10))]
)
def test_log_probs_are_stored_in_nats_of_the_whole_response(home, unit, tokens, factor):
    rows = [row | {"n": n + 2} for n, row in enumerate(ROWS)]
    said = {"logprob_unit": unit} | ({"per_token": "n"} if tokens else {})
    for run, name in (("a", "t.jsonl"), ("b", "t.csv")):
        written(home, name, rows)
        made, _ = brought(home, {"path": name, "columns": COLUMNS} | said, run=run)
        wanted = {row["id"]: row["lp"] * factor * (row["n"] if tokens else 1) for row in rows}
        assert values(made, LOGPROBS) == pytest.approx(wanted)


def test_a_mean_without_its_number_of_tokens_is_no_log_prob(home):
    rows = [row | {"n": n} for n, row in zip((0, None, "x", 2, 3, 4), ROWS, strict=True)]
    written(home, "t.jsonl", rows)
    run, account = brought(home, {"path": "t.jsonl", "columns": COLUMNS, "per_token": "n"})
    assert set(values(run, LOGPROBS)) == {"q3", "q4", "q5"}
    assert [(f["line"], f["field"]) for f in account["malformed"]] == [(1, "n"), (2, "n"), (3, "n")]


def test_the_text_of_a_prompt_is_its_id_where_no_column_is(home):
    written(home, "t.csv", ROWS)
    run, _ = brought(home, {"path": "t.csv", "columns": {k: c for k, c in COLUMNS.items() if k != "prompt_id"}})
    assert values(run, RESPONSES) == {row["question"]: row["answer"] for row in ROWS}


def test_ids_may_be_numbers_as_others_write_them(home):
    frame = pd.DataFrame(ROWS).assign(id=np.arange(len(ROWS), dtype=float))
    frame.to_parquet(home / "t.parquet")
    run, _ = brought(home, {"path": "t.parquet", "columns": COLUMNS})
    assert set(values(run, RESPONSES)) == {str(n) for n in range(len(ROWS))}


def test_draws_without_a_number_are_numbered_as_they_stand(home):
    rows = [row | {"id": "same", "question": "Q"} for row in ROWS]
    written(home, "t.jsonl", [*rows, rows[0]])
    run, _ = brought(home, {"path": "t.jsonl", "columns": COLUMNS})
    stored = {r["draw"]: r["value"] for r in run.store.rows(RESPONSES)}
    assert stored == dict(enumerate([*(row["answer"] for row in rows), rows[0]["answer"]]))
    assert len(run.table().logged) == len(rows) + 1


def test_chances_of_labels_are_those_of_the_estimates(home):
    rng = np.random.default_rng(0)
    worth = rng.random(400)
    chance = np.where(worth > 0.5, 0.8, 0.2)
    rows = [{"id": f"q{n}", "answer": f"a{n}", "score": round(w, 3), "right": round(w, 3) if rng.random() < c else None,
             "chance": c} for n, (w, c) in enumerate(zip(worth, chance, strict=True))]  # fmt: skip
    written(home, "t.jsonl", rows)
    names = {"prompt_id": "id", "response": "answer", "judge": "score", "label": "right", "label_propensity": "chance"}
    run, _ = brought(home, {"path": "t.jsonl", "label_design": "known_propensity", "columns": names})
    table = run.table()
    assert table.logged.label_propensity.notna().equals(table.logged.label.notna())
    (row,) = [r for r in run.estimates(table)["rows"] if (r["policy"], r["estimator"]) == ("base", "ppi_pp")]
    assert abs(row["value"] - worth.mean()) < 0.02, "the mean of the labels alone is 0.1 too high"


# Where an import stops


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("right", "good", ("none of 6", "'good' (text)", 'values: {label: {"good": NUMBER}}')),
        ("lp", "n/a", ("none of 6", "'n/a'", "values: {logprobs: ")),
        ("score", "0,5", ("none of 6", "'0,5'", "point")),
        ("score", "80%", ("none of 6", "'80%'", "no %")),
        ("score", '{"mean": 1}', ("none of 6", "judge: COLUMN.mean")),
        ("answer", None, ("answer: ",)),
    ],
)
def test_a_column_of_which_nothing_can_be_read_stops_the_import(home, kind, field, value, says):
    written(home, f"t.{kind}", [row | {field: value} for row in ROWS])
    with pytest.raises(ArenaError) as caught:
        brought(home, {"path": f"t.{kind}", "columns": COLUMNS})
    said = str(caught.value)
    assert said.startswith(f"t.{kind}: {field}: ")
    assert all(part in said for part in says)
    assert not (home / "data" / "mine").exists()


def test_so_does_one_that_can_hardly_be_read_unless_that_is_said(home):
    table = {"path": "t.jsonl", "columns": COLUMNS}
    written(home, "t.jsonl", [row | {"right": "good" if n else 1} for n, row in enumerate(ROWS)])
    with pytest.raises(ArenaError, match=r"t\.jsonl: right: 5 of 6 values cannot .*'good'.* allow_missing: \[label\]"):
        brought(home, table)
    run, account = brought(home, table | {"allow_missing": ["label"]})
    assert values(run, ORACLE) == {"q0": 1}
    assert account["malformed_count"] == 5


def test_values_within_an_object_are_named_by_their_path(home):
    written(home, "t.jsonl", [row | {"answer": {"text": row["answer"], "n": 1}} for row in ROWS])
    with pytest.raises(ArenaError, match=r"answer: none .*response: COLUMN\.text"):
        brought(home, {"path": "t.jsonl", "columns": COLUMNS})
    for number, form in enumerate((dict, lambda value: json.dumps(dict(value)))):
        rows = [row | {"score": form(v=row["score"]) if n and form is dict else form({"v": 1}) if n else "n/a"}
                for n, row in enumerate(ROWS)]  # fmt: skip
        written(home, "t.jsonl", rows)
        with pytest.raises(ArenaError, match=r"score: none .*'n/a'.*judge: COLUMN\.v"):
            brought(home, {"path": "t.jsonl", "columns": COLUMNS}, run=f"r{number}")
    written(home, "t.jsonl", [row | {"score": [row["score"]]} for row in ROWS])
    with pytest.raises(ArenaError, match=r"score: none .*a list"):
        brought(home, {"path": "t.jsonl", "columns": COLUMNS})


def test_true_and_false_have_no_place_on_another_scale(home):
    table = {"path": "t.jsonl", "columns": COLUMNS}
    written(home, "t.jsonl", [row | {"right": True} for row in ROWS])
    with pytest.raises(ArenaError, match=r"right: is true or false.*values: \{label: \{true: 100, false: 0\}\}"):
        brought(home, table, oracle_scale=[0, 100])
    run, _ = brought(home, table | {"values": {"label": {True: 100, False: 0}}}, oracle_scale=[0, 100])
    assert set(values(run, ORACLE).values()) == {1.0}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", b"id;question;answer\nq;a;b\n", r"line 1: .*delimiter: \";\""),
        ("t.csv", b"id,id,question,answer,score,right,lp\n", "id: is there more than once"),
        ("t.csv", b"id,question\n", "score: is not a column: it has id, question"),
        ("t.csv", b"", "t.csv has no rows|t.csv: has no rows"),
        ("t.json", json.dumps({"data": ROWS}, indent=1).encode(), r"is one object.*rows: KEY.*data"),
        ("t.json", json.dumps({"data": ROWS}).encode(), "no row has this column.*--set rows=data"),
        ("t.json", json.dumps({"a": [1], "b": {"c": ROWS}}).encode(), "--set rows=b.c"),
        ("t.csv", as_cells([row | {"answer": "@"} for row in ROWS], ",").replace(b"@", b"\xe9"), "answer: .*as UTF-8"),
        ("t.csv", b"id,question,answer\rq,a,b\r", "line 1: .*end in LF"),
        ("t.csv", b'"id"x,question\nid,question,answer,score,right,lp\n', "line 1: not valid CSV"),
        ("object.json", json.dumps({"data": {}}, indent=1).encode(), "data.rows holds no array"),
        ("t.json", b'{"a": 1', "cut off"),
        ("t.json", b"[1,", "row 2: .*cut off"),
        ("t.eval", b"PK\x05\x06 no zip", "cannot be read as zip"),
        ("t.json.gz", gzip.compress(b"[]" * 1000, mtime=0)[:-9], "cannot be unpacked"),
        ("t.csv.gz", b"\x1f\x8b no gzip", "cannot be unpacked"),
        ("t.parquet.gz", gzip.compress(b"PAR1", mtime=0), "cannot be read as Parquet"),
        ("t.xlsx", b"PK", "Excel.*CSV"),
        ("t.csv", b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml", "Excel.*CSV"),
        ("t.csv", b"PAR1" + bytes(40), "looks like Parquet.*\\.parquet"),
        ("t.parquet", b"id,question\nq,Is it?\n", "looks like CSV.*\\.csv"),
        ("t.jsonl", b"id,question\nq,Is it?\n", "looks like CSV.*\\.csv"),
        ("t.csv.gz", gzip.compress(b'{"id": "q"}\n', mtime=0), "looks like JSON.*\\.jsonl"),
        ("t.jsonl", b'[\n {"id": "q"}\n]', "looks like a JSON array.*\\.json"),
        ("t.json", b"PK\x03\x04" + bytes(60), "looks like a zip file.*\\.eval"),
        ("t.json", b"<!DOCTYPE html>\n<html>", "looks like HTML"),
        ("t.parquet", b"\x00" * 50, "does not begin as"),
        ("t.txt", b'{"id": "q"}', "looks like JSON"),
        ("t.txt", b"q", "ends in none of"),
        ("t.csv", b"PK,PAR1\nq,a\n", "is not a column: it has PK, PAR1"),
        ("t.csv", "id,question".encode("utf-16"), "UTF-16"),
    ],
)
def test_a_file_that_is_none_is_named_with_what_to_write(home, name, content, says):
    (home / name).write_bytes(content)
    rows = {"rows": "data.rows"} if name.startswith("object") else {}
    with pytest.raises(ArenaError, match=says) as caught:
        brought(home, {"path": name, "columns": COLUMNS} | rows)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"values": {"prompt": {"a": 1}}}, r"values: 'prompt' is not among"),
        ({"allow_missing": ["scroe"]}, r"allow_missing: 'scroe'"),
        ({"exact": True}, "exact .*columns.label"),
        ({"label_design": "targeted_unknown"}, "label_design"),
        ({"label_design": "known_propensity"}, "columns.label_propensity"),
        ({"logprob_unit": "percent"}, "logprob_unit"),
        ({"delimiter": "--"}, "delimiter"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_key(home, said, says):
    with pytest.raises(ParamsError, match=says):
        brought(home, {"path": "t.jsonl", "columns": COLUMNS} | said)


def test_a_path_that_is_none_and_a_map_that_is_not_there_are_named(home):
    written(home, "t.jsonl", ROWS)
    with pytest.raises(ArenaError, match=r"t\.jsonl: 'a\[' is no path"):
        brought(home, {"path": "t.jsonl", "columns": COLUMNS | {"judge": "a["}})
    with pytest.raises(ArenaError, match=r"no map 'lm_evla'.*lm_eval"):
        brought(home, {"path": "t.jsonl", "map": "lm_evla"})


# Whatever stands in the rows

CELLS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
JUNK = st.recursive(CELLS, lambda v: st.lists(v, max_size=2) | st.dictionaries(st.text(max_size=4), v, max_size=2))
NAMES = ["id", "question", "answer", "score", "right", "lp"]
BENT = st.builds(
    lambda row, changes: row | changes, st.sampled_from(ROWS), st.dictionaries(st.sampled_from(NAMES), JUNK)
)
LINES = st.lists(
    BENT.map(json.dumps) | JUNK.map(json.dumps) | st.text(max_size=30), min_size=60 if MANY else 1, max_size=100
)


def lines_of(rows):
    return "\n".join(rows).encode("utf-8", "surrogatepass")


def array_of(rows):
    return ("[" + ",".join(row for row in rows if _is_json(row)) + "]").encode("utf-8", "surrogatepass")


def cells_of(rows):
    """The rows as lines of CSV, some of them no such."""
    made = [",".join(NAMES)]
    for row in rows:
        value = json.loads(row) if _is_json(row) else row
        made.append(as_cells([value], ",").decode().split("\r\n", 1)[1].strip("\r\n")
                    if isinstance(value, dict) and set(value) == set(NAMES) else row)  # fmt: skip
    return "\n".join(made).encode("utf-8", "surrogatepass")


def _is_json(text):
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(("name", "make"), [("t.jsonl", lines_of), ("t.json", array_of), ("t.csv", cells_of)])
@given(rows=LINES)
@settings(max_examples=100 if MANY else 12, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_malformed_row_is_told_with_its_place(tmp_path_factory, monkeypatch, name, make, rows):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("ARENA10K_HOME", str(home))
    (home / name).write_bytes(make([json.dumps(row) for row in ROWS * 40] + rows))
    run, account = brought(home, {"path": name, "columns": COLUMNS})
    run.store.close()
    (file,) = account["files"]
    assert file["rows"] == file["taken"] + file["left_out"]
    assert sum(not fault["row_taken"] for fault in account["malformed"]) == file["left_out"]
    ends = 1 + (home / name).read_bytes().count(b"\n") if name != "t.json" else file["rows"]
    for fault in account["malformed"]:
        assert fault["file"] == name
        assert 1 <= fault["line"] <= ends
        assert fault["field"] in ("", "draw", *NAMES)
        assert fault["fault"]


@given(content=st.binary(max_size=200) | st.text(max_size=80).map(str.encode), name=st.sampled_from([*KINDS, "t.eval"]))
@settings(max_examples=2000 if MANY else 100, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_are_rows_faults_or_one_line(tmp_path_factory, content, name):
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(content)
    rows, refused = [], name
    try:
        rows = list(File(path, name).read())
    except ArenaError as error:
        refused = str(error)
    assert refused.startswith(name)
    assert "\n" not in refused
    assert all(number > 0 and isinstance(row, dict | columns.Fault) for number, row in rows)
