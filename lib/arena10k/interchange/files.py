"""Files as rows: JSON lines and Parquet, one row at a time, whatever the file holds.

A line that is no row is a `Fault` of that line and reading goes on; a file that cannot be read at all is an ArenaError.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from arena10k.errors import ArenaError
from arena10k.inputs.sources import parquet_rows

#: No row is longer than this many bytes; a longer line is passed over without being held.
LINE_LIMIT = 1 << 24
_UTF16 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

Choose = Callable[[list[str]], list[str]]


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row (`field` empty) or with one of its fields, and the code of a value that is no number."""

    field: str
    what: str
    code: str = "malformed"


class RowFault(Exception):
    """A row that cannot be taken."""

    def __init__(self, field: str, what: str):
        super().__init__(f"{field}: {what}" if field else what)
        self.fault = Fault(field, what)


def digest_of(path: Path) -> str:
    """SHA-256 of a file's content. Raises ArenaError where it cannot be read."""
    if not path.is_file():
        raise ArenaError(f"{path.name}: is not a regular file: take it out or replace it")
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path.name, error) from error


def rows(path: Path, name: str, choose: Choose | None = None) -> Iterator[tuple[int, Any]]:
    """(line, object or Fault) of a file; lines (rows of Parquet) count from 1, blank lines are counted and not given.

    Parameters
    ----------
    choose : which of a Parquet file's columns are read (all of them where None).

    Raises
    ------
    ArenaError
        For a file that cannot be read, is not Parquet, or is UTF-16 or UTF-32.
    """
    if name.lower().endswith(".parquet"):
        yield from parquet_rows(path, name, choose or (lambda names: names))
        return
    try:
        with path.open("rb") as stream:
            yield from _lines(stream, name)
    except OSError as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: OSError) -> ArenaError:
    return ArenaError(f"{name}: cannot be read ({error.strerror or error}): check the file and its permissions")


def _lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, Any]]:
    start = stream.read(4)
    if start.startswith(_UTF16):
        raise ArenaError(f"{name}: is UTF-16 or UTF-32: save it as UTF-8")
    stream.seek(len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0)
    number = 0
    while line := stream.readline(LINE_LIMIT):
        number += 1
        if len(line) == LINE_LIMIT and not line.endswith(b"\n"):
            _pass_over(stream)
            yield number, Fault("", f"longer than {LINE_LIMIT:,} bytes: that is no row")
        elif line.strip():
            yield number, _row(line)


def _pass_over(stream: BinaryIO) -> None:
    while (part := stream.readline(LINE_LIMIT)) and not part.endswith(b"\n"):
        pass


def _row(line: bytes) -> Any:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return Fault("", f"not UTF-8 at byte {error.start + 1}")
    except RecursionError:
        return Fault("", "not usable: nested too deeply")
    except ValueError as error:
        return Fault("", f"not valid JSON: {getattr(error, 'msg', str(error)):.80}")
    return row if isinstance(row, dict) else Fault("", f"{shown(row)} is not an object")


def shown(value: Any) -> str:
    """A value of a source in a message: short, whatever it is."""
    if isinstance(value, str):
        return repr(value[:60])
    if isinstance(value, dict | list | tuple | bytes):
        return {dict: "an object", bytes: "bytes"}.get(type(value), "a list")
    text = repr(value) if not isinstance(value, int) or value.bit_length() < 200 else "a huge number"
    return text[:60]
