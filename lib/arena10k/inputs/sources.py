"""Where prompts come from: the built-in set, JSONL, and the Chatbot Arena conversations as JSON or Parquet.

A row that cannot be used ends in one line: file, row, field, what to do. What can be used is handed on whole; leaving
prompts out is the business of the filters in `prompts`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from arena10k import paths
from arena10k.errors import ArenaError, one_line, section
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
_BATCH = 500
_SPACE = re.compile(r"[ \t\r\n]*")

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
    key = "question_id" if is_arena else "prompt_id"
    rows: dict[str, tuple[str, Row]] = {}
    try:
        for where, raw in _raw_rows(path, name, is_arena):
            at = f"{name}: {where}"
            if not isinstance(raw, dict):
                raise _fault(at, f"{raw!r:.60} is not an object with {key}")
            prompt_id = _text(at, raw, key)
            if not prompt_id.strip():
                raise _fault(f"{at}: {key}", "is empty", "give the row an id of its own")
            row = dict.fromkeys(COLUMNS) | {"prompt_id": prompt_id} | (_arena(at, raw) if is_arena else _plain(at, raw))
            first, _ = rows.setdefault(prompt_id, (where, row))
            if first != where:
                raise _fault(f"{at}: {key}", f"{prompt_id!r:.60} is also that of {first}", "ids must be unique")
    except OSError as error:
        why = f"cannot be read ({error.strerror or error})"
        raise _fault(name, why, "check the file and its permissions") from error
    if not rows:
        raise _fault(name, "has no rows", "give a file with at least one prompt")
    return [row for _, row in rows.values()]


def _fault(where: str, what: str, do: str = "fix the row or take it out") -> ArenaError:
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


# Files as rows: (where in the file, what stands there)


def _raw_rows(path: Any, name: str, is_arena: bool) -> Iterator[tuple[str, Any]]:
    if name.lower().endswith(".parquet"):
        for number, row in parquet_rows(path, name, lambda columns: _columns(name, columns)):
            yield f"row {number}", row
        return
    # Bytes that are not UTF-8 become lone surrogates: the field they stand in is refused by name, if it is needed.
    with path.open("r", encoding="utf-8-sig", errors="surrogateescape") as stream:
        if is_arena and stream.read(1000).lstrip().startswith("["):
            yield from _array_rows(path, name)
            return
        stream.seek(0)
        for number, line in enumerate(stream, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise _not_json(f"{name}: line {number}", error, line) from error
                yield f"line {number}", row


def _array_rows(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    """The objects of one JSON array, parsed one at a time: parsed whole they take many times the memory of the file.
    Its bytes are taken for characters to find where an object ends, and read as UTF-8 then."""
    text, decode = path.read_bytes().decode("latin-1"), json.JSONDecoder().raw_decode
    at = _past_space(text, text.index("[") + 1)
    mark, number = text[at : at + 1] if text.startswith("]", at) else ",", 0
    at += mark == "]"
    while mark == ",":
        number, at, where = number + 1, _past_space(text, at), f"{name}: row {number + 1}"
        if text[at : at + 1] not in ("{", ""):
            raise _fault(where, f"{_utf8(text[at : at + 20])!r} is not the start of an object")
        try:
            _, end = decode(text, at)
        except (ValueError, RecursionError) as error:
            raise _not_json(where, error, text, at) from error
        yield f"row {number}", json.loads(_utf8(text[at:end]))
        end = _past_space(text, end)
        mark, at = text[end : end + 1], end + 1
        if not mark:
            raise _fault(name, f"ends after row {number} without the closing ]", "download or export it again")
        if mark not in ",]":
            raise _fault(where, f"is followed by {mark!r}, not by a comma or ]", "export it again")
    if _past_space(text, at) < len(text):
        raise _fault(name, f"goes on after the closing ] of row {number}", "give a file with one array")


def _utf8(text: str) -> str:
    return text.encode("latin-1").decode("utf-8", "surrogateescape")


def _past_space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]  # it matches everywhere, if nothing


def _not_json(where: str, error: Exception, text: str, start: int = 0) -> ArenaError:
    message, at = getattr(error, "msg", str(error)), getattr(error, "pos", start)
    if message.startswith("Unterminated string") or not text[at:].strip():
        return _fault(where, "not valid JSON: ends within a value", "the file is cut off, download or export it again")
    what = f"not valid JSON: {message} at character {at - start + 1} of the row"
    return _fault(where, what, "fix it or export it again")


def parquet_rows(path: Path, name: str, choose: Callable[[list[str]], list[str]]) -> Iterator[tuple[int, Row]]:
    """Rows of a Parquet file, counted from 1, of which only the columns are read that `choose` takes from its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            columns = choose(file.schema_arrow.names)
            for batch in file.iter_batches(_BATCH, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        what = "cannot be read as Parquet" + (f" after row {number}" if number else "")
        detail = one_line(error)
        raise _fault(name, f"{what} ({detail:.120})", "download or export it again") from error


def _columns(name: str, columns: list[str]) -> list[str]:
    for column in _NEEDED:
        if columns.count(column) != 1:
            what = "is there more than once" if column in columns else "is not a column"
            raise _fault(f"{name}: {column}", what, f"a conversations export has {', '.join(_NEEDED)}")
    return [c for c in (*_NEEDED, "language") if c in columns]
