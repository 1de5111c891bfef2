"""Where prompts come from: the built-in set, a file of rows, and the Chatbot Arena conversations.

A row that cannot be used ends in one line: file, row, field, what to do. What can be used is handed on whole; leaving
prompts out is the business of the filters in `prompts`.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from arena10k import paths
from arena10k.errors import ArenaError, section
from arena10k.inputs.faults import Fault, text, text_or_none
from arena10k.inputs.files import File
from arena10k.params.sections import PromptsParams

COLUMNS = ("prompt_id", "prompt", "category", "language", "answer", "check")
#: What is read of a conversations export, beside `language`; answers of models, votes and moderation tags are not.
_NEEDED = ("question_id", "conversation_a", "conversation_b")
#: What to do where the file of a source is not there.
_SAVE = {
    "arena": "save the Parquet or JSON of lmsys/chatbot_arena_conversations there (it is on Hugging Face, where its "
    "conditions have to be accepted), or name a file of your own; relative paths start at the folder that holds data/",
    "jsonl": "save a file with prompt_id and prompt per line there, or fix the path; relative paths start at the "
    "folder that holds data/",
}
Row = dict[str, Any]


def read(params: PromptsParams) -> list[Row]:
    """Every row of the source, checked, in the order of the file: a dict of `COLUMNS` (text, or None where the source
    has none; `check` is JSON) and ``differs``: whether the two conversations of an arena row begin with different
    prompts (then ``prompt`` is that of `conversation_a`).

    Raises ArenaError naming file, row and field of the first fault, and what to do. Line numbers count blank lines;
    rows of a JSON array and of Parquet count from 1.
    """
    path: Any = resources.files("arena10k") / "builtin" / "prompts.jsonl"
    name = "builtin/prompts.jsonl"
    if params.source != "builtin":
        path = paths.home() / section(params.path, "prompts.path")
        name = path.name
        if not path.is_file():
            raise ArenaError(f"prompts.path: no file {str(path)!r}: {_SAVE[params.source]}")
    is_arena = params.source == "arena"
    file = File(path, name)
    key = "question_id" if is_arena else "prompt_id"
    rows: dict[str, tuple[str, Row]] = {}
    for number, raw in file.read(_arena_columns if is_arena else None):
        where = f"{file.unit} {number}"
        try:
            if isinstance(raw, Fault):
                raise raw
            prompt_id = text(key, raw.get(key))
            if not prompt_id.strip():
                raise Fault(key, "is empty", do="give the row an id of its own")
            row = dict.fromkeys(COLUMNS) | {"prompt_id": prompt_id} | (_arena(raw) if is_arena else _plain(raw))
            first, _ = rows.setdefault(prompt_id, (where, row))
            if first != where:
                raise Fault(key, f"{prompt_id!r:.60} is also that of {first}", do="ids must be unique")
        except Fault as fault:
            raise ArenaError(f"{name}: {where}: {fault}: {fault.do or 'fix the row or take it out'}") from fault
    if not rows:
        raise ArenaError(f"{name}: has no rows: give a file with at least one prompt")
    return [row for _, row in rows.values()]


# Rows as records


def _plain(row: Row) -> Row:
    """A row of JSONL: `prompt`, and the other columns where it has them."""
    optional = {field: text_or_none(field, row.get(field)) for field in ("category", "language", "answer")}
    check = None if row.get("check") is None else json.dumps(row["check"], sort_keys=True)
    return {"prompt": text("prompt", row.get("prompt")), "differs": False, "check": check} | optional


def _arena(row: Row) -> Row:
    """A row of the conversations export: the first user turn, which both conversations share."""
    first, other = (_first_turn(row, field) for field in ("conversation_a", "conversation_b"))
    return {"prompt": first, "language": text_or_none("language", row.get("language")), "differs": first != other}


def _arena_columns(columns: dict[str, bool]) -> list[str]:
    return [*_NEEDED, *({"language"} & columns.keys())]


def _first_turn(row: Row, field: str) -> str:
    turns = row.get(field)
    if turns is None:
        raise Fault(field, "is missing")
    if not isinstance(turns, list):
        raise Fault(field, f"{turns!r:.60} is not a list of turns")
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
            raise Fault(field, f"turn {number} is not an object with role and content")
        if turn["role"] == "user":
            return text(f"{field}: turn {number}: content", turn.get("content"))
    raise Fault(field, "has no turn of the role 'user'")
