"""Prompt files: every published form gives the same prompts, and no more is read than is needed."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arena10k.inputs import sources
from arena10k.params.sections import PromptsParams
from arena_export import SCHEMA, as_json, as_lines, conversation, fault, put, row, write_parquet

ROWS = [
    row("58210e39b3fd4441a2bd4a518bb44c2d", "What is the difference between OpenCL and CUDA?"),
    row("b5c9ecdb2f434b0e8e8e8f3a5f7e9b21", "Wer bist du?", "Und woher?", language="German"),
    row("90bfd142157948aba01931726c888e7f", "Sag \u201eja\u201c,\r\n\tdann \\n und \u2028 \U0001f600"),
]
KNOWN = [(r["question_id"], r["conversation_a"][0]["content"], r["language"]) for r in ROWS]


def found(params):
    return [(r["prompt_id"], r["prompt"], r["language"]) for r in sources.read(params)]


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
    assert found(params) == KNOWN
    assert [r["differs"] for r in sources.read(params)] == [False] * 3
    assert {tuple(r) for r in sources.read(params)} == {(*sources.COLUMNS, "differs")}


def test_parquet_that_pandas_wrote_is_read_alike(home):
    write_parquet(home / "first.parquet", ROWS)
    frame = pd.read_parquet(home / "first.parquet")
    assert isinstance(frame.conversation_a[0], np.ndarray)
    frame.to_parquet(home / "again.parquet")
    assert found(PromptsParams(source="arena", path=str(home / "again.parquet"))) == KNOWN


def test_the_prompt_is_the_first_turn_of_the_user(home):
    opening = [{"role": "system", "content": "Be brief."}, *conversation("Hello")]
    rows = [
        row("a", "Hello", conversation_a=opening),
        row("b", "Hello", conversation_b=conversation("Good day")),
        row("c", "Hello", conversation_b=conversation("Hello", "More?")),
    ]
    for name, content in (("a.json", as_json(rows)), ("a.parquet", rows)):
        read = sources.read(put(home, name, content))
        assert [(r["prompt"], r["differs"]) for r in read] == [("Hello", False), ("Hello", True), ("Hello", False)]


def test_rows_without_a_language_are_read(home):
    without = [{k: v for k, v in r.items() if k != "language"} for r in (row("a", "x"), row("b", "y"))]
    known = [("a", "x", None), ("b", "y", None)]
    assert found(put(home, "a.json", as_json(without))) == known
    assert found(put(home, "a.parquet", without)) == known
    write_parquet(home / "b.parquet", without, schema=SCHEMA.remove(SCHEMA.get_field_index("language")))
    assert found(PromptsParams(source="arena", path="b.parquet")) == known


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.text(max_size=4), JSON, max_size=4), max_size=6),
    indent=st.sampled_from([None, 0, 2]),
    escaped=st.booleans(),
    chunk=st.integers(1, 40),
)
def test_an_array_read_in_pieces_is_what_the_json_module_reads(tmp_path_factory, rows, indent, escaped, chunk):
    path = tmp_path_factory.mktemp("array") / "a.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=escaped), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "CHUNK", chunk)
        read = list(sources._array_rows(path, "a.json"))
    assert [value for _, value in read] == json.loads(path.read_text(encoding="utf-8"))
    assert [where for where, _ in read] == [f"row {n + 1}" for n in range(len(rows))]


def _spoil(path: Path, column: str) -> None:
    """Overwrite the pages of one column of the second row group."""
    group = pq.read_metadata(path).row_group(1)
    chunks = [group.column(i) for i in range(group.num_columns)]
    content = bytearray(path.read_bytes())
    for chunk in (c for c in chunks if c.path_in_schema.split(".")[0] == column):
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(bytes(content))


def test_only_the_needed_columns_of_parquet_are_read(home):
    path = home / "a.parquet"
    params = PromptsParams(source="arena", path=str(path))
    for column in SCHEMA.names:
        write_parquet(path, [row(f"p{i}", f"question {i}") for i in range(600)], row_group_size=500)
        _spoil(path, column)
        if column in ("question_id", "conversation_a", "conversation_b", "language"):
            assert fault(params).startswith("a.parquet: cannot be read as Parquet"), column
        else:
            assert len(sources.read(params)) == 600, column


def test_a_large_export_is_never_in_memory_whole(home):
    prompts = [f"question {i}" for i in range(2000)]
    rows = [row(p, p, conversation_b=conversation(p, answer="x" * 10_000)) for p in prompts]
    for name, content in (("a.json", as_json(rows)), ("a.jsonl", as_lines(rows))):
        params = put(home, name, content)
        size = (home / name).stat().st_size
        del content
        tracemalloc.start()
        try:
            assert len(sources.read(params)) == 2000
            assert tracemalloc.get_traced_memory()[1] < size / 8
        finally:
            tracemalloc.stop()
