"""The Chatbot Arena conversations export, small: rows in the published shape, written as the published files are."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arena10k.errors import ArenaError
from arena10k.inputs import sources
from arena10k.params.sections import PromptsParams


def conversation(prompt, *more, answer="An answer."):
    """Turns of one model: `prompt` and any further questions, each answered."""
    asked = [[{"content": q, "role": "user"}, {"content": answer, "role": "assistant"}] for q in (prompt, *more)]
    return [turn for pair in asked for turn in pair]


def row(question_id, prompt, /, *more, language="English", **changed):
    """One row; `changed` replaces fields."""
    tag = {"flagged": False, "probability": 0.0125}
    return {
        "question_id": question_id,
        "model_a": "chatglm-6b",
        "model_b": "koala-13b",
        "winner": "model_b",
        "judge": "arena_user_973",
        "conversation_a": conversation(prompt, *more, answer="One \u201canswer\u201d, 4 \\ 2."),
        "conversation_b": conversation(prompt, *more, answer="\u041e\u0442\u0432\u0435\u0442\n\t \U0001f600"),
        "turn": 1 + len(more),
        "anony": True,
        "language": language,
        "tstamp": 1682351591.1322,
        "openai_moderation": {
            "categories": {"harassment": False, "self-harm/intent": False},
            "category_scores": {"harassment": 1.2e-05, "self-harm/intent": 2.0e-08},
            "flagged": False,
        },
        "toxic_chat_tag": {"roberta-large": tag, "t5-large": tag},
    } | changed


SCHEMA = pa.Table.from_pylist([row("a", "b")]).schema


def as_json(rows):
    """One array, indented, not escaped: as published."""
    return json.dumps(rows, indent=2, ensure_ascii=False)


def as_lines(rows):
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)


def write_parquet(path, rows, schema=SCHEMA, **options):
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, **options)


def put(folder, name, content):
    """Write `content` (text, bytes, or rows for Parquet) and say which source reads it."""
    path = folder / name
    if isinstance(content, list):
        write_parquet(path, content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return PromptsParams(source="arena", path=str(path))


def fault(params):
    """The one line a file that cannot be used ends in."""
    with pytest.raises(ArenaError) as caught:
        sources.read(params)
    assert "\n" not in str(caught.value)
    return str(caught.value)
