"""Where prompts come from: the built-in set, JSONL, and the Chatbot Arena conversations as JSON or Parquet.

A row that cannot be used ends in one line: file, row, field, what to do. What can be used is handed on whole; leaving
prompts out is the business of the filters in `prompts`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, TextIO

from arena10k import paths
from arena10k.errors import ArenaError, one_line, section
from arena10k.params.sections import PromptsParams

COLUMNS = ("prompt_id", "prompt", "category", "language", "answer", "check")
#: What is read of a conversations export; answers of models, votes and moderation tags are not.
_NEEDED = ("question_id", "conversation_a", "conversation_b")
_OPTIONAL = ("language",)

#: What to do where the file of a source is not there.
_SAVE = {
    "arena": "save the Parquet or JSON of lmsys/chatbot_arena_conversations there (it is on Hugging Face, where its "
    "conditions have to be accepted), or name a file of your own; relative paths start at the folder that holds data/",
    "jsonl": "save a file with prompt_id and prompt per line there, or mend the path; relative paths start at the "
    "folder that holds data/",
}

#: Characters read at a time from a JSON array, and the size at which one row is taken to be broken.
CHUNK, ROW_LIMIT = 1 << 16, 1 << 26
_BATCH = 500

Row = dict[str, Any]


def read(params: PromptsParams) -> list[Row]:
    """Every row of the source, checked, in the order of the file.

    Returns
    -------
    per row a dict of `COLUMNS` (text, or None where the source has none; `check` is JSON) and ``differs``: whether
    the two conversations of an arena row begin with different prompts (then ``prompt`` is that of `conversation_a`).

    Raises
    ------
    ArenaError
        Naming file, row and field of the first fault, and what to do. Line numbers count blank lines; rows of a JSON
        array and of Parquet count from 1.
    """
    path, name = _file(params)
    record, key = (_arena, "question_id") if params.source == "arena" else (_plain, "prompt_id")
    rows: list[Row] = []
    place: dict[str, str] = {}
    try:
        for where, raw in _raw_rows(path, name, params.source):
            at = f"{name}: {where}"
            if not isinstance(raw, dict):
                raise _fault(at, f"{raw!r:.60} is not an object with {key}")
            row = record(at, raw)
            if row["prompt_id"] in place:
                first = place[row["prompt_id"]]
                raise _fault(f"{at}: {key}", f"{row['prompt_id']!r:.60} is also that of {first}", "ids must be unique")
            place[row["prompt_id"]] = where
            rows.append(row)
    except OSError as error:
        raise _fault(
            name, f"cannot be read ({error.strerror or error})", "check the file and its permissions"
        ) from error
    if not rows:
        raise _fault(name, "has no rows", "give a file with at least one prompt")
    return rows


def _file(params: PromptsParams) -> tuple[Any, str]:
    """The source's file, and its name for messages."""
    if params.source == "builtin":
        return resources.files("arena10k") / "builtin" / "prompts.jsonl", "builtin/prompts.jsonl"
    path = paths.home() / section(params.path, "prompts.path")
    if not path.is_file():
        raise _fault("prompts.path", f"no file {str(path)!r}", _SAVE[params.source])
    return path, path.name


def _fault(where: str, what: str, do: str = "mend the row or take it out") -> ArenaError:
    return ArenaError(f"{where}: {what}: {do}")


# Rows as records


def _plain(where: str, row: Row) -> Row:
    """A row of JSONL: `prompt_id` and `prompt`, the other columns where it has them."""
    check = row.get("check")
    return {
        "prompt_id": _id(where, row, "prompt_id"),
        "prompt": _text(where, row, "prompt"),
        "category": _text_or_none(where, row, "category"),
        "language": _text_or_none(where, row, "language"),
        "answer": _text_or_none(where, row, "answer"),
        "check": None if check is None else json.dumps(check, sort_keys=True),
        "differs": False,
    }


def _arena(where: str, row: Row) -> Row:
    """A row of the conversations export: the first user turn, which both conversations share."""
    prompt_id = _id(where, row, "question_id")
    prompt, other = _first_turn(where, row, "conversation_a"), _first_turn(where, row, "conversation_b")
    language = _text_or_none(where, row, "language")
    known = {"prompt_id": prompt_id, "prompt": prompt, "language": language, "differs": prompt != other}
    return dict.fromkeys(COLUMNS) | known


def _id(where: str, row: Row, field: str) -> str:
    value = _text(where, row, field)
    if not value.strip():
        raise _fault(f"{where}: {field}", "is empty", "give the row an id of its own")
    return value


def _text_or_none(where: str, row: Row, field: str) -> str | None:
    return None if row.get(field) is None else _text(where, row, field)


def _text(where: str, row: Row, field: str) -> str:
    value, at = row.get(field), f"{where}: {field}"
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
            return _text(f"{at}: turn {number}", turn, "content")
    raise _fault(at, "has no turn of the role 'user'")


# Files as rows: (where in the file, what stands there)


def _raw_rows(path: Any, name: str, source: str) -> Iterator[tuple[str, Any]]:
    if name.lower().endswith(".parquet"):
        return ((f"row {number}", row) for number, row in parquet_rows(path, name, partial(_columns, name)))
    if source == "arena" and _holds_array(path):
        return _array_rows(path, name)
    return _line_rows(path, name)


def _open(path: Any) -> TextIO:
    # Bytes that are not UTF-8 become lone surrogates: the field they stand in is refused by name, if it is needed.
    stream: TextIO = path.open("r", encoding="utf-8-sig", errors="surrogateescape")
    return stream


def _holds_array(path: Path) -> bool:
    with _open(path) as stream:
        return _Window(stream).peek() == "["


def _line_rows(path: Any, name: str) -> Iterator[tuple[str, Any]]:
    with _open(path) as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise _not_json(f"{name}: line {number}", error, line) from error
                yield f"line {number}", row


def _array_rows(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    """The objects of one JSON array, one at a time: an export is larger than what is needed of it by far."""
    with _open(path) as stream:
        window = _Window(stream)
        window.take()
        mark, number = window.take() if window.peek() == "]" else ",", 0
        while mark == ",":
            number += 1
            yield f"row {number}", window.object(f"{name}: row {number}")
            mark = window.take()
            if not mark:
                raise _fault(name, f"ends after row {number} without the closing ]", "download or export it again")
            if mark not in ",]":
                raise _fault(
                    f"{name}: row {number}", f"is followed by {mark!r}, not by a comma or ]", "export it again"
                )
        if window.peek():
            raise _fault(name, f"goes on after the closing ] of row {number}", "give a file with one array")


class _Window:
    """The unread part of a stream: as much of it as the next value needs."""

    def __init__(self, stream: TextIO):
        self._stream, self._text, self._decoder = stream, "", json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            self._text = self._text.lstrip(" \t\r\n")
            if self._text or not self._grow():
                return self._text[:1]

    def take(self) -> str:
        mark = self.peek()
        self._text = self._text[1:]
        return mark

    def object(self, where: str) -> Row:
        if self.peek() not in ("{", ""):
            raise _fault(where, f"{self._text[:20]!r} is not the start of an object")
        while True:
            try:
                value: Row
                value, end = self._decoder.raw_decode(self._text)
            except (ValueError, RecursionError) as error:
                # The window may end within the row: look at more of it, up to where no row can be that long.
                if len(self._text) > ROW_LIMIT or not self._grow():
                    raise _not_json(where, error, self._text) from error
            else:
                self._text = self._text[end:]
                return value

    def _grow(self) -> bool:
        more = self._stream.read(max(CHUNK, len(self._text)))
        self._text += more
        return bool(more)


def _not_json(where: str, error: Exception, text: str) -> ArenaError:
    message, at = getattr(error, "msg", str(error)), getattr(error, "pos", 0)
    if message.startswith("Unterminated string") or at >= len(text.rstrip()):
        return _fault(where, "not valid JSON: ends within a value", "the file is cut off, download or export it again")
    return _fault(where, f"not valid JSON: {message} at character {at + 1} of the row", "mend it or export it again")


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


def _columns(name: str, found: list[str]) -> list[str]:
    for column in _NEEDED:
        if found.count(column) != 1:
            what = "is there more than once" if column in found else "is not a column"
            raise _fault(f"{name}: {column}", what, f"a conversations export has {', '.join(_NEEDED)}")
    return [c for c in (*_NEEDED, *_OPTIONAL) if c in found]
