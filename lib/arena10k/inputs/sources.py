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
from arena10k.inputs.files import Fault, File
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
            raise _fault("prompts.path", f"no file {str(path)!r}", _SAVE[params.source])
    is_arena = params.source == "arena"
    file = File(path, name)
    key = "question_id" if is_arena else "prompt_id"
    rows: dict[str, tuple[str, Row]] = {}
    for number, raw in file.read(_arena_columns if is_arena else None):
        where = f"{file.unit} {number}"
        at = f"{name}: {where}"
        if isinstance(raw, Fault):
            raise _fault(at, raw.what, raw.do or _MEND)
        prompt_id = _text(at, raw, key)
        if not prompt_id.strip():
            raise _fault(f"{at}: {key}", "is empty", "give the row an id of its own")
        row = dict.fromkeys(COLUMNS) | {"prompt_id": prompt_id} | (_arena(at, raw) if is_arena else _plain(at, raw))
        first, _ = rows.setdefault(prompt_id, (where, row))
        if first != where:
            raise _fault(f"{at}: {key}", f"{prompt_id!r:.60} is also that of {first}", "ids must be unique")
    if not rows:
        raise _fault(name, "has no rows", "give a file with at least one prompt")
    return [row for _, row in rows.values()]


_MEND = "fix the row or take it out"


def _fault(where: str, what: str, do: str = _MEND) -> ArenaError:
    return ArenaError(f"{where}: {what}: {do}")


# Rows as records


def _plain(where: str, row: Row) -> Row:
    """A row of JSONL: `prompt`, and the other columns where it has them."""
    optional = {field: _text(where, row, field, optional=True) for field in ("category", "language", "answer")}
    check = None if row.get("check") is None else json.dumps(row["check"], sort_keys=True)
    return {"prompt": _text(where, row, "prompt"), "differs": False, "check": check} | optional


def _arena(where: str, row: Row) -> Row:
    """A row of the conversations export: the first user turn, which both conversations share."""
    first, other = (_first_turn(where, row, field) for field in ("conversation_a", "conversation_b"))
    return {"prompt": first, "language": _text(where, row, "language", optional=True), "differs": first != other}


def _arena_columns(columns: dict[str, bool]) -> list[str]:
    return [*_NEEDED, *({"language"} & columns.keys())]


def _text(where: str, row: Row, field: str, optional: bool = False) -> Any:
    value, at = row.get(field), f"{where}: {field}"
    if value is None and optional:
        return None
    if value is None:
        raise _fault(at, "is missing")
    if not isinstance(value, str):
        raise _fault(at, f"{value!r:.60} is not a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _fault(at, f"is not Unicode text at character {error.start + 1}", "save the file as UTF-8") from error
    return value


def _first_turn(where: str, row: Row, field: str) -> str:
    turns, at = row.get(field), f"{where}: {field}"
    if turns is None:
        raise _fault(at, "is missing")
    if not isinstance(turns, list):
        raise _fault(at, f"{turns!r:.60} is not a list of turns")
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
            raise _fault(at, f"turn {number} is not an object with role and content")
        if turn["role"] == "user":
            return str(_text(f"{at}: turn {number}", turn, "content"))
    raise _fault(at, "has no turn of the role 'user'")
