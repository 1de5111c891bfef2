"""Prompt files that cannot be used: every fault is one line with file, row, field and what to do."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arena10k.inputs import sources
from arena10k.params.sections import PromptsParams
from arena_export import SCHEMA, as_json, as_lines, fault, put, row

ROWS = [row("a", "first"), row("b", "second")]


@pytest.mark.parametrize("write", [as_json, as_lines, json.dumps])
def test_a_file_cut_off_anywhere_is_refused_with_its_name(home, write):
    whole = write([row("a", "first \u00e9"), row("b", "second")]).rstrip().encode()
    params = put(home, "arena.json", whole)
    assert len(sources.read(params)) == 2
    lines_end = whole.find(b"\n") if write is as_lines else -1
    for end in range(len(whole)):
        params = put(home, "arena.json", whole[:end])
        # JSON lines that end with a line are whole: nothing in the file says that there were more.
        if lines_end <= end <= lines_end + 1 and lines_end > 0:
            assert len(sources.read(params)) == 1
        else:
            assert fault(params).startswith("arena.json: ")


def test_where_a_file_is_cut_off_is_said(home):
    whole = as_json([row("a", "first"), row("b", "second")])
    cut = "not valid JSON: ends within a value: the file is cut off, download or export it again"
    assert fault(put(home, "a.json", whole[: whole.index("second")])) == f"a.json: row 2: {cut}"
    assert fault(put(home, "a.json", whole[: whole.rindex('"turn"')])) == f"a.json: row 2: {cut}"
    assert fault(put(home, "a.json", whole[:-2])) == (
        "a.json: ends after row 2 without the closing ]: download or export it again"
    )
    assert fault(put(home, "a.jsonl", as_lines([row("a", "first")])[:-20])) == f"a.jsonl: line 1: {cut}"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "a.json: has no rows: give a file with at least one prompt"),
        (" \n\n", "a.json: has no rows: "),
        ("[]", "a.json: has no rows: "),
        ("question_id,prompt", "a.json: line 1: not valid JSON: Expecting value at character 1 of the row: mend it"),
        ("\ufeff{}".encode("utf-16"), "a.json: line 1: not valid JSON: "),
        ('"text"', "a.json: line 1: 'text' is not an object with question_id: mend the row or take it out"),
        ("[1, 2]", "a.json: row 1: '1, 2]' is not the start of an object: mend the row or take it out"),
        ("[[1]]", "a.json: row 1: '[1]]' is not the start of an object"),
        ('[{"a": }]', "a.json: row 1: not valid JSON: Expecting value at character 7 of the row"),
        ('[{"a": "\\x"}]', "a.json: row 1: not valid JSON: Invalid \\escape at character 8 of the row"),
        ('[{"a": ' + "1" * 5000 + "}]", "a.json: row 1: not valid JSON: Exceeds the limit (4300 digits)"),
        ('[{"a": ' + "[" * 200_000 + "}]", "a.json: row 1: not valid JSON: maximum recursion depth"),
        (json.dumps([row("a", "x")])[:-1] + ",]", "a.json: row 2: ']' is not the start of an object"),
        (json.dumps([row("a", "x")])[:-1] + "{}]", "a.json: row 1: is followed by '{', not by a comma or ]"),
        (json.dumps([row("a", "x")]) * 2, "a.json: goes on after the closing ] of row 1: give a file with one array"),
        (json.dumps({"rows": [row("a", "x")]}), "a.json: line 1: question_id: is missing"),
    ],
)
def test_files_that_are_not_an_export_are_named(home, content, says):
    assert fault(put(home, "a.json", content)).startswith(says)


TURN = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"question_id": None}, "question_id: is missing"),
        ({"question_id": 81}, "question_id: 81 is not a text"),
        ({"question_id": " "}, "question_id: is empty: give the row an id of its own"),
        ({"question_id": "a"}, "question_id: 'a' is also that of row 1: ids must be unique"),
        ({"conversation_a": None}, "conversation_a: is missing"),
        ({"conversation_b": None}, "conversation_b: is missing"),
        ({"conversation_a": "Hello"}, "conversation_a: 'Hello' is not a list of turns"),
        ({"conversation_b": TURN}, "conversation_b: {'role': 'user', 'content': 'x'} is not a list of turns"),
        ({"conversation_a": ["Hello"]}, "conversation_a: turn 1 is not an object with role and content"),
        ({"conversation_a": [{"content": "x"}]}, "conversation_a: turn 1 is not an object with role and content"),
        ({"conversation_a": []}, "conversation_a: has no turn of the role 'user'"),
        ({"conversation_b": [TURN | {"role": "assistant"}]}, "conversation_b: has no turn of the role 'user'"),
        ({"conversation_a": [TURN | {"content": None}]}, "conversation_a: turn 1: content: is missing"),
        ({"conversation_b": [TURN | {"content": ["x"]}]}, "conversation_b: turn 1: content: ['x'] is not a text"),
        ({"conversation_a": [TURN | {"content": "a\ud83d"}]}, "conversation_a: turn 1: content: is not Unicode text"),
        ({"language": 7}, "language: 7 is not a text"),
    ],
)
def test_rows_of_an_export_that_cannot_be_used_are_named(home, changed, says):
    rows = [row("a", "first"), row("b", "second", **changed)]
    assert fault(put(home, "a.json", json.dumps(rows))).startswith(f"a.json: row 2: {says}")
    lines = "\n\n".join(json.dumps(r) for r in rows)
    assert fault(put(home, "a.jsonl", lines)).startswith(f"a.jsonl: line 3: {says.replace('row 1', 'line 1')}")


@pytest.mark.parametrize("field", ["conversation_a", "conversation_b", "question_id"])
def test_a_row_that_lacks_a_field_is_named(home, field):
    rows = [row("a", "first"), {k: v for k, v in row("b", "second").items() if k != field}]
    assert fault(put(home, "a.json", as_json(rows))).startswith(f"a.json: row 2: {field}: is missing")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"question_id": None}, "question_id: is missing"),
        ({"question_id": "a"}, "question_id: 'a' is also that of row 1: ids must be unique"),
        ({"conversation_a": None}, "conversation_a: is missing"),
        ({"conversation_a": [None]}, "conversation_a: turn 1 is not an object with role and content"),
        ({"conversation_b": []}, "conversation_b: has no turn of the role 'user'"),
        ({"conversation_b": [{"role": "user", "content": None}]}, "conversation_b: turn 1: content: is missing"),
    ],
)
def test_rows_of_parquet_that_cannot_be_used_are_named(home, changed, says):
    rows = [row("a", "first"), row("b", "second", **changed)]
    assert fault(put(home, "a.parquet", rows)).startswith(f"a.parquet: row 2: {says}")


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("question_id", pa.array([1]), "row 1: question_id: 1 is not a text"),
        ("conversation_a", pa.array(["Hello"]), "row 1: conversation_a: 'Hello' is not a list of turns"),
        ("conversation_a", pa.array([["Hello"]]), "row 1: conversation_a: turn 1 is not an object"),
        ("conversation_b", pa.array([[{"from": "user"}]]), "row 1: conversation_b: turn 1 is not an object"),
        ("language", pa.array([0.5]), "row 1: language: 0.5 is not a text"),
    ],
)
def test_parquet_columns_of_another_type_are_named(home, column, values, says):
    table = pa.Table.from_pylist([row("a", "x")], schema=SCHEMA)
    table = table.set_column(table.schema.get_field_index(column), column, values)
    pq.write_table(table, home / "a.parquet")
    assert fault(PromptsParams(source="arena", path=str(home / "a.parquet"))).startswith(f"a.parquet: {says}")


def test_parquet_without_the_columns_is_named(home):
    table = pa.Table.from_pylist([row("a", "x")], schema=SCHEMA)
    params = PromptsParams(source="arena", path=str(home / "a.parquet"))
    pq.write_table(table.drop_columns(["conversation_b"]), home / "a.parquet")
    needed = "a conversations export has question_id, conversation_a, conversation_b"
    assert fault(params) == f"a.parquet: conversation_b: is not a column: {needed}"
    pq.write_table(table.append_column("question_id", table["question_id"]), home / "a.parquet")
    assert fault(params) == f"a.parquet: question_id: is there more than once: {needed}"
    pq.write_table(table[:0], home / "a.parquet")
    assert fault(params).startswith("a.parquet: has no rows")


def test_what_is_not_parquet_is_named(home):
    for content in ("", "PAR1", as_json(ROWS)):
        said = fault(put(home, "a.parquet", content))
        assert said.startswith("a.parquet: cannot be read as Parquet (")
        assert said.endswith("): download or export it again")


def test_parquet_cut_off_anywhere_is_named(home):
    whole = (home / put(home, "a.parquet", ROWS).path).read_bytes()
    for end in range(0, len(whole), 101):
        assert fault(put(home, "a.parquet", whole[:end])).startswith("a.parquet: cannot be read as Parquet")


def test_bytes_that_are_not_utf8_matter_where_the_prompt_is(home):
    latin = as_json([row("a", "Tsch\u00fcss", model_a="x")]).encode("latin-1", errors="replace")
    assert fault(put(home, "a.json", latin)) == (
        "a.json: row 1: conversation_a: turn 1: content: is not Unicode text at character 5: save the file as UTF-8"
    )
    elsewhere = as_json([row("a", "hello", model_a="m\u00fcller")]).encode("latin-1", errors="replace")
    assert sources.read(put(home, "a.json", elsewhere))[0]["prompt"] == "hello"


def test_a_row_without_end_is_given_up_before_the_file_ends(home, monkeypatch):
    monkeypatch.setattr(sources, "CHUNK", 1 << 10)
    monkeypatch.setattr(sources, "ROW_LIMIT", 1 << 14)
    params = put(home, "a.json", '[{"a" 1,' + " " * (1 << 22) + "}]")
    tracemalloc.start()
    try:
        assert fault(params).startswith("a.json: row 1: not valid JSON: Expecting ':' delimiter")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_missing_and_unreadable_files_are_named(home):
    missing = fault(PromptsParams(source="arena", path="nowhere/arena.json"))
    assert missing.startswith(f"prompts.path: no file '{home}/nowhere/arena.json': save the Parquet or JSON of lmsys/")
    assert missing.endswith("; relative paths start at the folder that holds data/")
    missing = fault(PromptsParams(source="jsonl", path="mine.jsonl"))
    assert missing.startswith(
        f"prompts.path: no file '{home}/mine.jsonl': save a file with prompt_id and prompt per line"
    )
    (home / "folder.json").mkdir()
    assert fault(PromptsParams(source="arena", path="folder.json")).startswith(
        f"prompts.path: no file '{home}/folder.json'"
    )


@pytest.mark.skipif(not Path("/proc/self/mem").is_file(), reason="needs a file whose reading fails")
def test_a_file_that_cannot_be_read_is_named(home):
    (home / "a.json").symlink_to("/proc/self/mem")
    assert fault(PromptsParams(source="arena", path="a.json")).startswith("a.json: cannot be read (Input/output error)")
