"""Prompt files: every published form gives the same prompts, no more is read than is needed, and what cannot be used is
one line with file, row and field."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arena10k.inputs import sources
from arena10k.inputs.files import File
from arena10k.params.sections import PromptsParams
from arena_export import SCHEMA, as_json, as_lines, conversation, fault, put, row, write_parquet

ROWS = [
    row("58210e39b3fd4441a2bd4a518bb44c2d", "What is the difference between OpenCL and CUDA?"),
    row("b5c9ecdb2f434b0e8e8e8f3a5f7e9b21", "Wer bist du?", "Und woher?", language="German"),
    row("90bfd142157948aba01931726c888e7f", "Sag \u201eja\u201c,\r\n\tdann \\n und \u2028 \U0001f600"),
]
CONTENT = [(r["question_id"], r["conversation_a"][0]["content"], r["language"]) for r in ROWS]
TWO = [row("a", "first"), row("b", "second")]
TURN = {"role": "user", "content": "x"}
WHOLE, ONE = as_json(TWO), json.dumps([row("a", "x")])


def read(params):
    return [(r["prompt_id"], r["prompt"], r["language"]) for r in sources.read(params)]


# What is read


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("arena.json", as_json(ROWS)),
        ("arena.json", json.dumps(ROWS)),
        ("arena.json", "\ufeff \r\n" + as_json(ROWS).replace("\n", "\r\n") + "\n"),
        ("arena.json", as_lines(ROWS)),
        ("arena.JSONL", "\n" + as_lines(ROWS) + "\n"),
        ("arena.parquet", ROWS),
    ],
)
def test_every_published_form_gives_the_first_user_turns(home, name, content):
    params = put(home, name, content)
    assert read(params) == CONTENT
    assert [r["differs"] for r in sources.read(params)] == [False] * 3
    assert {tuple(r) for r in sources.read(params)} == {(*sources.COLUMNS, "differs")}
    if name == "arena.parquet":  # as pandas writes it
        frame = pd.read_parquet(home / name)
        assert isinstance(frame.conversation_a[0], np.ndarray)
        frame.to_parquet(home / name)
        assert read(params) == CONTENT


def test_the_prompt_is_the_first_turn_of_the_user_and_a_language_need_not_be_there(home):
    opening = [{"role": "system", "content": "Be brief."}, *conversation("Hello")]
    rows = [
        row("a", "Hello", conversation_a=opening),
        row("b", "Hello", conversation_b=conversation("Good day")),
        row("c", "Hello", conversation_b=conversation("Hello", "More?")),
    ]
    rows = [{k: v for k, v in r.items() if k != "language"} for r in rows]
    write_parquet(home / "c.parquet", rows, schema=SCHEMA.remove(SCHEMA.get_field_index("language")))
    absent = PromptsParams(source="arena", path="c.parquet")
    for params in (put(home, "a.json", as_json(rows)), put(home, "b.parquet", rows), absent):
        fields = [(r["prompt"], r["differs"], r["language"]) for r in sources.read(params)]
        assert fields == [("Hello", differs, None) for differs in (False, True, False)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=20, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.text(max_size=4), JSON, max_size=4), max_size=6),
    indent=st.sampled_from([None, 0, 2]),
    escaped=st.booleans(),
)
def test_an_array_read_row_by_row_is_what_the_json_module_reads(tmp_path_factory, rows, indent, escaped):
    path = tmp_path_factory.mktemp("array") / "a.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=escaped), encoding="utf-8")
    pairs = list(File(path, "a.json").read())
    assert pairs == list(enumerate(json.loads(path.read_text(encoding="utf-8")), 1))


def test_only_the_needed_columns_of_parquet_are_read(home):
    path = home / "a.parquet"
    write_parquet(path, [row(f"p{i}", f"question {i}") for i in range(600)], row_group_size=500)
    whole, group = path.read_bytes(), pq.read_metadata(path).row_group(1)
    chunks = [group.column(i) for i in range(group.num_columns)]
    for column in SCHEMA.names:
        content = bytearray(whole)
        for chunk in (c for c in chunks if c.path_in_schema.split(".")[0] == column):
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
        params = put(home, "a.parquet", bytes(content))
        if column in ("question_id", "conversation_a", "conversation_b", "language"):
            assert fault(params).startswith("a.parquet: cannot be read as Parquet"), column
        else:
            assert len(sources.read(params)) == 600, column


@pytest.mark.parametrize(("name", "write", "times"), [("a.json", as_json, 3), ("a.jsonl", as_lines, 1 / 4)])
def test_of_a_large_export_the_parsed_rows_are_never_in_memory_at_once(home, name, write, times):
    rows = [row(p, p, conversation_b=[*conversation(p), *[TURN] * 300]) for p in map(str, range(150))]
    params = put(home, name, write(rows))
    tracemalloc.start()
    try:
        assert len(sources.read(params)) == 150
        assert tracemalloc.get_traced_memory()[1] < (home / name).stat().st_size * times
    finally:
        tracemalloc.stop()


# What cannot be used


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet"])
def test_a_file_cut_off_anywhere_is_refused_with_its_name(home, name):
    content = {"a.json": as_json(TWO), "a.jsonl": as_lines(TWO), "a.parquet": TWO}[name]
    whole = (home / put(home, name, content).path).read_bytes().rstrip(b"\n")
    lines_end = whole.find(b"\n") if name == "a.jsonl" else -9
    for end in range(0, len(whole), 301 if name == "a.parquet" else 7):
        params = put(home, name, whole[:end])
        # JSON lines that end with a line are whole: nothing in the file says that there were more.
        if lines_end <= end <= lines_end + 1:
            assert len(sources.read(params)) == 1
        else:
            assert fault(params).startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.json", WHOLE[: WHOLE.index("second")], "row 2: "),
        ("a.json", " \n\n", ""),
        ("a.json", "[]", ""),
        ("a.json", "question_id,prompt", "line 1: "),
        ("a.json", "\ufeff{}".encode("utf-16"), "is UTF-16"),
        ("a.json", '"text"', "line 1: "),
        ("a.json", json.dumps({"rows": TWO}), "line 1: question_id: "),
        ("a.json", "[1, 2]", "row 1: "),
        ("a.json", "[[1]]", "row 1: "),
        ("a.json", '[{"a": }]', "row 1: "),
        ("a.json", '[{"a": "\\x"}]', "row 1: "),
        ("a.json", '[{"a": ' + "1" * 5000 + "}]", "row 1: "),
        ("a.json", '[{"a": ' + "[" * 200_000 + "}]", "row 1: "),
        ("a.json", ONE[:-1] + ",]", "row 2: "),
        ("a.json", ONE[:-1] + "{}]", "row 1: "),
        ("a.json", ONE * 2, ""),  # goes on behind its end
        ("a.parquet", WHOLE, ""),
    ],
)
def test_files_that_are_not_an_export_are_named_with_the_place(home, name, content, place):
    line = fault(put(home, name, content))
    assert line.startswith(f"{name}: {place}")
    assert place or not line.startswith((f"{name}: row", f"{name}: line"))


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
    ({"conversation_b": [TURN | {"content": ["x"]}]}, "conversation_b: turn 1: content", "list"),
    ({"conversation_a": [TURN | {"content": "a\ud83d"}]}, "conversation_a: turn 1: content", "Unicode"),
    ({"language": 7}, "language", "7"),
    *(({field: ...}, field, "missing") for field in ("conversation_a", "conversation_b", "question_id")),
]
#: The same of JSON lines of the user's own.
PLAIN = [
    ({"prompt": ...}, "prompt", "missing"),
    ({"prompt": None}, "prompt", "missing"),
    ({"prompt": ["x"]}, "prompt", "list"),
    ({"prompt": "x\udc00"}, "prompt", "Unicode"),
    ({"prompt_id": 7}, "prompt_id", "7"),
    ({"prompt_id": " "}, "prompt_id", "empty"),
    ({"prompt_id": "a"}, "prompt_id", "'a'"),
    ({"language": 1}, "language", "1"),
    ({"category": ["c"]}, "category", "list"),
    ({"answer": 10}, "answer", "10"),
]
TABLE = [("json", *case) for case in CHANGED + IN_JSON] + [("parquet", *case) for case in CHANGED]
TABLE += [("jsonl", *case) for case in CHANGED[:2] + IN_JSON[:2]] + [("plain", *case) for case in PLAIN]


@pytest.mark.parametrize(("kind", "changed", "field", "word"), TABLE)
def test_rows_that_cannot_be_used_are_named(home, kind, changed, field, word):
    first, second = [{"prompt_id": "a", "prompt": "x"}, {"prompt_id": "b", "prompt": "y"}] if kind == "plain" else TWO
    rows = [first, {k: v for k, v in (second | changed).items() if v is not ...}]
    lines, name = "\n\n".join(map(json.dumps, rows)), "a.jsonl" if kind == "plain" else f"a.{kind}"
    params = put(home, name, {"json": json.dumps(rows), "parquet": rows}.get(kind, lines))
    line = fault(params.model_copy(update={"source": "jsonl"}) if kind == "plain" else params)
    place = f"{name}: {'row 2' if kind in ('json', 'parquet') else 'line 3'}: {field}"
    assert line.startswith(place)
    assert word in line[len(place) :]


#: Parquet whose columns are of another type or not there, and what is told of it.
COLUMNS = [
    ("question_id", pa.array([1]), "row 1: question_id: 1"),
    ("conversation_a", pa.array(["Hello"]), "row 1: conversation_a: 'Hello'"),
    ("conversation_a", pa.array([["Hello"]]), "row 1: conversation_a: turn 1"),
    ("conversation_b", pa.array([[{"from": "user"}]]), "row 1: conversation_b: turn 1"),
    ("language", pa.array([0.5]), "row 1: language: 0.5"),
    ("conversation_b", None, "conversation_b: "),
    ("question_id", "twice", "question_id: "),
    (None, None, ""),  # no rows
]


@pytest.mark.parametrize(("column", "values", "says"), COLUMNS)
def test_parquet_columns_that_cannot_be_used_are_named(home, column, values, says):
    table = pa.Table.from_pylist([row("a", "x")], schema=SCHEMA)
    if column is None:
        table = table[:0]
    elif values is None:
        table = table.drop_columns([column])
    elif isinstance(values, str):
        table = table.append_column(column, table[column])
    else:
        table = table.set_column(table.schema.get_field_index(column), column, values)
    pq.write_table(table, home / "a.parquet")
    line = fault(PromptsParams(source="arena", path=str(home / "a.parquet")))
    assert line.startswith(f"a.parquet: {says}")


def test_bytes_that_are_not_utf8_matter_where_the_prompt_is(home):
    latin = as_json([row("a", "Tsch\u00fcss", model_a="x")]).encode("latin-1", errors="replace")
    line = fault(put(home, "a.json", latin))
    assert line.startswith("a.json: row 1: conversation_a: turn 1: content: ")
    assert "character 5" in line
    elsewhere = as_json([row("a", "hello", model_a="m\u00fcller")]).encode("latin-1", errors="replace")
    assert sources.read(put(home, "a.json", elsewhere))[0]["prompt"] == "hello"


def test_missing_and_unreadable_files_are_named(home):
    (home / "folder.json").mkdir()
    for source, path in (("arena", "nowhere/arena.json"), ("jsonl", "mine.jsonl"), ("arena", "folder.json")):
        line = fault(PromptsParams(source=source, path=path))
        assert line.startswith("prompts.path: ")
        assert f"'{home}/{path}'" in line
    if Path("/proc/self/mem").is_file():  # a file whose reading fails
        (home / "a.json").symlink_to("/proc/self/mem")
        assert fault(PromptsParams(source="arena", path="a.json")).startswith("a.json: ")
