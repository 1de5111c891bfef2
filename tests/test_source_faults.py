"""Prompt files that cannot be used: every fault is one line with file, row and field."""

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
ONE = json.dumps([row("a", "x")])


@pytest.mark.parametrize("write", [as_json, as_lines, json.dumps])
def test_a_file_cut_off_anywhere_is_refused_with_its_name(home, write):
    whole = write([row("a", "first \u00e9"), row("b", "second")]).rstrip().encode()
    params = put(home, "arena.json", whole)
    assert len(sources.read(params)) == 2
    lines_end = whole.find(b"\n") if write is as_lines else -1
    for end in range(0, len(whole), 3):
        params = put(home, "arena.json", whole[:end])
        # JSON lines that end with a line are whole: nothing in the file says that there were more.
        if lines_end <= end <= lines_end + 1 and lines_end > 0:
            assert len(sources.read(params)) == 1
        else:
            assert fault(params).startswith("arena.json: ")


WHOLE = as_json(ROWS)


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.json", WHOLE[: WHOLE.index("second")], "row 2: "),
        ("a.json", WHOLE[: WHOLE.rindex('"turn"')], "row 2: "),
        ("a.json", WHOLE[:-2], ""),  # behind row 2
        ("a.jsonl", as_lines(ROWS[:1])[:-20], "line 1: "),
        ("a.json", "", ""),
        ("a.json", " \n\n", ""),
        ("a.json", "[]", ""),
        ("a.json", "question_id,prompt", "line 1: "),
        ("a.json", "\ufeff{}".encode("utf-16"), "line 1: "),
        ("a.json", '"text"', "line 1: "),
        ("a.json", json.dumps({"rows": ROWS}), "line 1: question_id: "),
        ("a.json", "[1, 2]", "row 1: "),
        ("a.json", "[[1]]", "row 1: "),
        ("a.json", '[{"a": }]', "row 1: "),
        ("a.json", '[{"a": "\\x"}]', "row 1: "),
        ("a.json", '[{"a": ' + "1" * 5000 + "}]", "row 1: "),
        ("a.json", '[{"a": ' + "[" * 200_000 + "}]", "row 1: "),
        ("a.json", ONE[:-1] + ",]", "row 2: "),
        ("a.json", ONE[:-1] + "{}]", "row 1: "),
        ("a.json", ONE * 2, ""),  # goes on behind its end
        ("a.parquet", "", ""),
        ("a.parquet", "PAR1", ""),
        ("a.parquet", WHOLE, ""),
    ],
)
def test_files_that_are_not_an_export_are_named_with_the_place(home, name, content, place):
    said = fault(put(home, name, content))
    assert said.startswith(f"{name}: {place}")
    assert place or not said.startswith((f"{name}: row", f"{name}: line"))


TURN = {"role": "user", "content": "x"}
#: Changes of a second row, the field they are told of, and the value or word that is told.
CHANGED = [
    ({"question_id": None}, "question_id", "missing"),
    ({"question_id": "a"}, "question_id", "'a'"),
    ({"conversation_a": None}, "conversation_a", "missing"),
    ({"conversation_a": [None]}, "conversation_a: turn 1", ""),
    ({"conversation_b": []}, "conversation_b", "'user'"),
    ({"conversation_b": [TURN | {"content": None}]}, "conversation_b: turn 1: content", "missing"),
]
#: Those that the types of Parquet do not allow.
IN_JSON = [
    ({"question_id": 81}, "question_id", "81"),
    ({"question_id": " "}, "question_id", "empty"),
    ({"conversation_b": None}, "conversation_b", "missing"),
    ({"conversation_a": "Hello"}, "conversation_a", "'Hello'"),
    ({"conversation_b": TURN}, "conversation_b", "{'role'"),
    ({"conversation_a": ["Hello"]}, "conversation_a: turn 1", ""),
    ({"conversation_a": [{"content": "x"}]}, "conversation_a: turn 1", "role"),
    ({"conversation_b": [TURN | {"role": "assistant"}]}, "conversation_b", "'user'"),
    ({"conversation_b": [TURN | {"content": ["x"]}]}, "conversation_b: turn 1: content", "['x']"),
    ({"conversation_a": [TURN | {"content": "a\ud83d"}]}, "conversation_a: turn 1: content", "Unicode"),
    ({"language": 7}, "language", "7"),
    *(({field: ...}, field, "missing") for field in ("conversation_a", "conversation_b", "question_id")),
]


@pytest.mark.parametrize(
    ("kind", "changed", "field", "word"),
    [(kind, *case) for kind in ("json", "jsonl", "parquet") for case in (CHANGED if kind == "parquet" else
     CHANGED + IN_JSON)],
)  # fmt: skip
def test_rows_of_an_export_that_cannot_be_used_are_named(home, kind, changed, field, word):
    second = {k: v for k, v in row("b", "second", **changed).items() if v is not ...}
    rows = [row("a", "first"), second]
    content = {"json": json.dumps(rows), "jsonl": "\n\n".join(map(json.dumps, rows)) if kind == "jsonl" else ""}
    said = fault(put(home, f"a.{kind}", content.get(kind, rows)))
    place = f"a.{kind}: {'line 3' if kind == 'jsonl' else 'row 2'}: {field}"
    assert said.startswith(place)
    assert word in said[len(place) :]


@pytest.mark.parametrize(
    ("column", "values", "field", "word"),
    [
        ("question_id", pa.array([1]), "question_id", "1"),
        ("conversation_a", pa.array(["Hello"]), "conversation_a", "'Hello'"),
        ("conversation_a", pa.array([["Hello"]]), "conversation_a: turn 1", ""),
        ("conversation_b", pa.array([[{"from": "user"}]]), "conversation_b: turn 1", ""),
        ("language", pa.array([0.5]), "language", "0.5"),
    ],
)
def test_parquet_columns_of_another_type_are_named(home, column, values, field, word):
    table = pa.Table.from_pylist([row("a", "x")], schema=SCHEMA)
    table = table.set_column(table.schema.get_field_index(column), column, values)
    pq.write_table(table, home / "a.parquet")
    said = fault(PromptsParams(source="arena", path=str(home / "a.parquet")))
    assert said.startswith(f"a.parquet: row 1: {field}")
    assert word in said


def test_parquet_without_the_columns_is_named(home):
    table = pa.Table.from_pylist([row("a", "x")], schema=SCHEMA)
    params = PromptsParams(source="arena", path=str(home / "a.parquet"))
    twice = table.append_column("question_id", table["question_id"])
    for wrong, column in ((table.drop_columns(["conversation_b"]), "conversation_b: "), (twice, "question_id: ")):
        pq.write_table(wrong, home / "a.parquet")
        assert fault(params).startswith(f"a.parquet: {column}")
    pq.write_table(table[:0], home / "a.parquet")
    assert fault(params).startswith("a.parquet: ")


def test_parquet_cut_off_anywhere_is_named(home):
    whole = (home / put(home, "a.parquet", ROWS).path).read_bytes()
    for end in range(0, len(whole), 301):
        assert fault(put(home, "a.parquet", whole[:end])).startswith("a.parquet: ")


def test_bytes_that_are_not_utf8_matter_where_the_prompt_is(home):
    latin = as_json([row("a", "Tsch\u00fcss", model_a="x")]).encode("latin-1", errors="replace")
    said = fault(put(home, "a.json", latin))
    assert said.startswith("a.json: row 1: conversation_a: turn 1: content: ")
    assert "character 5" in said
    elsewhere = as_json([row("a", "hello", model_a="m\u00fcller")]).encode("latin-1", errors="replace")
    assert sources.read(put(home, "a.json", elsewhere))[0]["prompt"] == "hello"


def test_a_row_without_end_is_given_up_before_the_file_ends(home, monkeypatch):
    monkeypatch.setattr(sources, "CHUNK", 1 << 10)
    monkeypatch.setattr(sources, "ROW_LIMIT", 1 << 14)
    params = put(home, "a.json", '[{"a" 1,' + " " * (1 << 22) + "}]")
    tracemalloc.start()
    try:
        assert fault(params).startswith("a.json: row 1: ")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_missing_and_unreadable_files_are_named(home):
    (home / "folder.json").mkdir()
    for source, path in (("arena", "nowhere/arena.json"), ("jsonl", "mine.jsonl"), ("arena", "folder.json")):
        said = fault(PromptsParams(source=source, path=path))
        assert said.startswith("prompts.path: ")
        assert f"'{home}/{path}'" in said
    if Path("/proc/self/mem").is_file():  # a file whose reading fails
        (home / "a.json").symlink_to("/proc/self/mem")
        assert fault(PromptsParams(source="arena", path="a.json")).startswith("a.json: ")
