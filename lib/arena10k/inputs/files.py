"""Files as rows, one at a time and whatever they hold: JSON lines, JSON, CSV, TSV, Parquet, zip files of JSON; each of
them gzipped too.

What is no row is a `Fault` of its place, and reading goes on; a file that cannot be read on is an ArenaError.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import json
import re
import shlex
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import IO, Any

from arena10k.errors import ArenaError, meant, one_line
from arena10k.inputs import forms
from arena10k.inputs.faults import Fault, shown

#: No row is longer than this many bytes; a longer line is passed over without being held. Nor is a member of a zip file
#: longer than the second number, unpacked.
LINE_LIMIT, MEMBER_LIMIT = 1 << 24, 1 << 28
#: Rows of Parquet that are in memory at once.
_BATCH = 500
_SPACE = re.compile(r"[ \t\r\n]*")
_UTF16 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
#: How a member of a zip file is packed that only newer Pythons unpack.
_ZSTD = 93
_CUT_OFF = "the file is cut off, download or export it again"

#: Of the columns of a file that has them in its head (and whether they hold numbers only) those that are read.
Choose = Callable[[dict[str, bool]], list[str]]


@dataclass(frozen=True)
class File:
    """A file of rows, called `name` in messages. `rows`: of a JSON object the key that holds them (`a.b` is within
    `a`), of a zip file the folder; `delimiter` of the cells of a CSV file; `by_command` says that a command line
    describes it, not a params file."""

    path: Any
    name: str
    rows: str | None = None
    delimiter: str | None = None
    by_command: bool = False

    @cached_property
    def form(self) -> str:
        """An ending of `forms.ENDINGS`; of JSON files "lines", "array" or "object". Raises ArenaError for others."""
        ending = self._ending
        with self._opened() as stream:
            start = stream.read(1000)
        if fault := forms.fault(ending, start):
            raise ArenaError(f"{self.name}: {fault}")
        if ending != "json":
            return "lines" if ending in forms.LINES else ending
        start = start.lstrip()
        if start[:1] in (b"[", b"{") and (start[:1] == b"[" or self.rows):
            return "array" if start[:1] == b"[" else "object"
        return "lines" if start[:1] != b"{" or self._starts_with_a_row() else "object"

    def _starts_with_a_row(self) -> bool:
        """Whether the first line is a row, or nothing in the file is."""
        with self._opened() as stream:
            _, line = next(self._lines(stream))
            if isinstance(line, Fault) or isinstance(_parsed(line), dict):
                return True
            return not isinstance(_parsed(line + stream.read()), dict)

    @property
    def is_json(self) -> bool:
        """Whether it may be one object that holds the rows."""
        return self._ending == "json"

    def to_say(self, in_params: str, *settings: str) -> str:
        """How something is said of the file where its import was described: as it stands in a params file, or as
        `KEY=VALUE` on a command line."""
        options = (("--column" if key.startswith("columns.") else "--set", key) for key in settings)
        on_command = " ".join(f"{option} {shlex.quote(key.removeprefix('columns.'))}" for option, key in options)
        return on_command if self.by_command else in_params

    @property
    def unit(self) -> str:
        """What a number of `read` counts."""
        return "line" if self.form == "lines" or self.form in forms.CSV else "row"

    def digest(self) -> str:
        """SHA-256 of the file as it is. Raises ArenaError where it cannot be read."""
        with self._opened(unpacked=False) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]

    def read(self, choose: Choose | None = None) -> Iterator[tuple[int, Any]]:
        """(number, object or Fault), counted from 1; a blank line is counted and not given. Of Parquet only the columns
        are read that `choose` says, and of CSV they must be there. Raises ArenaError."""
        if self.form == forms.PARQUET:
            yield from self._parquet(choose)
            return
        with self._opened() as stream:
            if self.form in forms.CSV:
                yield from self._cells(stream, choose)
            elif self.form in forms.ZIP:
                yield from self._members(stream)
            elif self.form == "lines":
                for number, line in self._lines(stream):
                    yield number, line if isinstance(line, Fault) else _row(_parsed(line))
            else:
                yield from self._within(stream) if self.form == "object" else self._array(stream.read())

    @contextmanager
    def _opened(self, unpacked: bool = True) -> Iterator[IO[bytes]]:
        """The bytes of the file, from behind a mark that they are UTF-8."""
        try:
            with self.path.open("rb") as packed:
                is_packed = unpacked and packed.read(2) == b"\x1f\x8b"
                packed.seek(0)
                stream: IO[bytes] = gzip.GzipFile(fileobj=packed) if is_packed else packed  # type: ignore[assignment]
                if unpacked and self._ending not in (forms.PARQUET, *forms.ZIP):
                    start = stream.read(4)
                    if start.startswith(_UTF16):
                        raise ArenaError(f"{self.name}: is UTF-16 or UTF-32: save it as UTF-8")
                    stream.seek(len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0)
                yield stream
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ArenaError(f"{self.name}: cannot be unpacked ({one_line(error):.80}): {_CUT_OFF}") from error
        except OSError as error:
            why = f"cannot be read ({error.strerror or error})"
            raise ArenaError(f"{self.name}: {why}: check the file and its permissions") from error

    @property
    def _ending(self) -> str:
        return PurePath(self.path.name.lower().removesuffix(".gz")).suffix.removeprefix(".")

    def _lines(self, stream: IO[bytes]) -> Iterator[tuple[int, bytes | Fault]]:
        """The lines that are not blank."""
        number = 0
        while line := stream.readline(LINE_LIMIT):
            number += 1
            if len(line) == LINE_LIMIT and not line.endswith(b"\n"):
                while (rest := stream.readline(LINE_LIMIT)) and not rest.endswith(b"\n"):
                    pass
                yield number, Fault("", f"longer than {LINE_LIMIT:,} bytes: that is no row")
            elif line.strip():
                yield number, line

    # JSON

    def _array(self, content: bytes) -> Iterator[tuple[int, Any]]:
        """The objects of one JSON array, parsed one at a time: parsed whole they take many times the memory of the
        file. Its bytes are taken for characters to find where an object ends, and read as UTF-8 then. `ijson` would
        refuse a file for one NaN or one byte of another encoding, and write "?" for half a character."""
        text, number = content.decode("latin-1"), 0
        at = _past_space(text, text.index("[") + 1)
        mark = text[at : at + 1] if text.startswith("]", at) else ","
        at += mark == "]"
        while mark == ",":
            number, at = number + 1, _past_space(text, at)
            try:
                _, end = _decode(text, at)
            except (ValueError, RecursionError) as error:
                fault = _not_json(error, text, at)
                raise ArenaError(f"{self.name}: row {number}: {fault.what}: {fault.do}") from error
            yield number, _row(_parsed(content[at:end]))
            end = _past_space(text, end)
            mark, at = text[end : end + 1], end + 1
            if not mark:
                raise ArenaError(f"{self.name}: ends after row {number} without the closing ]: {_CUT_OFF}")
            if mark not in ",]":
                what = f"is followed by {mark!r}, not by a comma or ]"
                raise ArenaError(f"{self.name}: row {number}: {what}: export it again")
        if _past_space(text, at) < len(text):
            raise ArenaError(f"{self.name}: goes on after the closing ] of row {number}: give a file with one array")

    def _within(self, stream: IO[bytes]) -> Iterator[tuple[int, Any]]:
        """The rows of the array that an object holds."""
        whole = _parsed(stream.read())
        if isinstance(whole, Fault):
            raise ArenaError(f"{self.name}: {whole.what}: {whole.do}")
        found = whole
        for key in self.rows.split(".") if self.rows else ():
            found = found.get(key) if isinstance(found, dict) else None
        if not isinstance(found, list):
            what = f"{self.rows} holds no array" if self.rows else "is one object"
            has, key = ", ".join(map(str, whole))[:200], self.to_say("rows: KEY", "rows=KEY")
            raise ArenaError(f"{self.name}: {what}: name the key that holds its rows ({key}); it has {has}")
        yield from enumerate(map(_row, found), start=1)

    def _members(self, stream: IO[bytes]) -> Iterator[tuple[int, Any]]:
        """The objects of a zip file, one of each of its files."""
        try:
            with zipfile.ZipFile(stream) as archive:
                within = f"{self.rows}/" if self.rows else ""
                names = [
                    i for i in archive.infolist() if i.filename.startswith(within) and i.filename.endswith(".json")
                ]
                for number, info in enumerate(names, start=1):
                    if info.file_size > MEMBER_LIMIT:
                        yield number, Fault("", f"longer than {MEMBER_LIMIT:,} bytes: that is no row")
                    else:
                        yield number, _row(_parsed(_unpacked(archive, info, stream)))
        except (zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError) as error:
            raise ArenaError(f"{self.name}: cannot be read as zip ({one_line(error):.80}): {_CUT_OFF}") from error

    # Tables

    def _cells(self, stream: IO[bytes], choose: Choose | None) -> Iterator[tuple[int, Any]]:
        """The rows of CSV as objects of texts; a cell with nothing in it is not there."""
        csv.field_size_limit(LINE_LIMIT)
        mark = self.delimiter or forms.CSV[self.form]
        lines = iter(lambda: stream.readline(LINE_LIMIT), b"")
        reader = csv.reader(map(_utf8, lines), delimiter=mark, strict=True)
        head: list[str] = []
        while True:
            number = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                what = f"not valid CSV: {error}"
                do = "put texts with quotes or line breaks in quotes, and double the quotes within them"
                if "new-line" in str(error):
                    what, do = "holds a CR alone, which ends no line", "save the file with lines that end in LF"
                if not head:
                    raise ArenaError(f"{self.name}: line {number}: {what}: {do}") from error
                yield number, Fault("", what, do=do)
                continue
            if not cells:
                continue
            if not head:
                head = cells
                if len(head) == 1 and (other := next((m for m in ";\t|" if m in head[0]), "")):
                    what = f"line {number}: {shown(head[0])} is one column, its cells are divided by {other!r}"
                    mark = json.dumps(other)
                    do = self.to_say(f"delimiter: {mark}", f"delimiter={mark[1:-1]}")
                    raise ArenaError(f"{self.name}: {what}: write {do}")
                self._chosen(head, choose, dict.fromkeys(head, False))
            elif len(cells) == len(head):
                yield number, {name: cell or None for name, cell in zip(head, cells, strict=True)}
            else:
                do = f"put texts that hold {mark!r} or line breaks in quotes"
                yield number, Fault("", f"has {len(cells)} cells, the head has {len(head)}", do=do)

    def _parquet(self, choose: Choose | None) -> Iterator[tuple[int, Any]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        number = 0
        try:
            with tempfile.TemporaryFile() as unpacked:
                if self.path.name.lower().endswith(".gz"):
                    with self._opened() as stream:
                        shutil.copyfileobj(stream, unpacked)
                with pq.ParquetFile(unpacked if unpacked.tell() else self.path) as file:
                    types = zip(file.schema_arrow.names, file.schema_arrow.types, strict=True)
                    numbers = {n: pa.types.is_primitive(t) for n, t in types}
                    columns = self._chosen(file.schema_arrow.names, choose, numbers)
                    for batch in file.iter_batches(_BATCH, columns=columns) if columns else ():
                        for row in batch.to_pylist():
                            number += 1
                            yield number, row
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            what = "cannot be read as Parquet" + (f" after row {number}" if number else "")
            raise ArenaError(f"{self.name}: {what} ({one_line(error):.120}): {_CUT_OFF}") from error

    def _chosen(self, names: list[str], choose: Choose | None, numbers: dict[str, bool]) -> list[str]:
        columns = choose(numbers) if choose else list(numbers)
        for column in columns:
            if names.count(column) != 1:
                what = "is there more than once" if column in names else f"is not a column{meant(column, names)}"
                raise ArenaError(f"{self.name}: {column}: {what}: it has {', '.join(names)[:200]}")
        return columns


def _utf8(content: bytes) -> str:
    """The text; bytes that are not UTF-8 become lone surrogates: the field they stand in is refused by name, if it is
    needed."""
    return content.decode("utf-8", "surrogateescape")


_decode = json.JSONDecoder().raw_decode


def _past_space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]  # it matches everywhere, if nothing


def _parsed(line: bytes) -> Any:
    text = _utf8(line)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return _not_json(error, text)


def _not_json(error: Exception, text: str, start: int = 0) -> Fault:
    if isinstance(error, RecursionError):
        return Fault("", "not usable: nested too deeply")
    message, at = getattr(error, "msg", str(error)), getattr(error, "pos", start)
    if message.startswith("Unterminated string") or not text[at:].strip():
        return Fault("", "not valid JSON: ends within a value", do=_CUT_OFF)
    return Fault("", f"not valid JSON: {message:.80} at character {at - start + 1} of the row", do="export it again")


def _row(value: Any) -> Any:
    if isinstance(value, dict | Fault):
        return value
    do = "a file of one array ends in .json" if isinstance(value, list) else "write an object with a key per column"
    return Fault("", f"{shown(value)} is not an object", do=do)


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo, stream: IO[bytes]) -> bytes:
    if info.compress_type != _ZSTD:
        return archive.read(info)
    import pyarrow as pa

    stream.seek(info.header_offset + 26)
    lengths = stream.read(4)
    stream.seek(int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), 1)
    try:
        content = pa.decompress(stream.read(info.compress_size), info.file_size, codec="zstd", asbytes=True)
    except (pa.ArrowException, OSError) as error:
        raise zipfile.BadZipFile(one_line(error)) from error
    if zlib.crc32(content) != info.CRC:
        raise zipfile.BadZipFile(f"{info.filename}: bad CRC-32")
    return bytes(content)
