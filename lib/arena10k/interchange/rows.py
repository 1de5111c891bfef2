"""Files as rows, one at a time and whatever they hold: JSON lines and Parquet; and the values of a row, checked.

A line that is no row is a `Fault` of that line and reading goes on; a file that cannot be read at all is an ArenaError.
Nothing is guessed and nothing is filled in.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
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


def read(path: Path, name: str, choose: Choose | None = None) -> Iterator[tuple[int, Any]]:
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


#: More draws of one prompt than this are taken for a mistake in the column.
MAX_DRAWS = 1000
#: More policies than this are taken for a mistake in the keys.
MAX_POLICIES = 64
MISSING, NOT_FINITE, NOT_A_NUMBER, OUT_OF_RANGE = "missing", "not_finite", "not_a_number", "out_of_range"

Range = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One response of a source: `draw` counts from 0; `logprobs` (nats) by policy as the source names it; `judge`,
    `judge_variance` and `label` are as they stand in the source. A value is a number, a `Fault`, or None where the
    source has none."""

    prompt_id: str
    response: str
    prompt: str | None = None
    draw: int = 0
    policy: str | None = None
    judge: float | Fault | None = None
    judge_variance: float | Fault | None = None
    label: float | Fault | None = None
    category: str | None = None
    language: str | None = None
    logprobs: dict[str, float | Fault | None] | None = None


def text(field: str, value: Any) -> str:
    """A text that can be stored. Raises RowFault."""
    if value is None:
        raise RowFault(field, "is missing")
    if not isinstance(value, str):
        raise RowFault(field, f"{shown(value)} is not a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowFault(field, f"is not Unicode text at character {error.start + 1}") from error
    return value


def text_or_none(field: str, value: Any) -> str | None:
    return None if value is None else text(field, value)


def prompt_id(field: str, value: Any) -> str:
    """An id: a text that is not blank, or a whole number. Raises RowFault."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
        return str(value)
    if not text(field, value).strip():
        raise RowFault(field, "is empty")
    return str(value)


def draw(field: str, value: Any) -> int:
    """A number of a draw, 0 where there is none. Raises RowFault."""
    if value is None:
        return 0
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_DRAWS:
        raise RowFault(field, f"{shown(value)} is not a whole number from 0 to {MAX_DRAWS - 1}")
    return value


def number(field: str, value: Any) -> float | Fault | None:
    """A finite number as it stands, None where there is none, else what is wrong with it."""
    if value is None:
        return None
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    try:
        as_float = float(value) if is_number or isinstance(value, str) else 0.0
    except OverflowError:
        as_float = math.inf
    except ValueError:
        as_float = 0.0
    if is_number and math.isfinite(as_float):
        return as_float
    if not math.isfinite(as_float):  # texts such as "NaN" too
        return Fault(field, f"{shown(value)} is not a finite number", NOT_FINITE)
    return Fault(field, f"{shown(value)} is not a number", NOT_A_NUMBER)


def on_scale(field: str, value: float | Fault | None, scale: Range) -> float | Fault | None:
    """A number of a declared scale as a share of it, in [0, 1]."""
    if value is None or isinstance(value, Fault):
        return value
    low, high = scale
    if not low <= value <= high:
        return Fault(field, f"{value:g} is outside of the declared scale {low:g} to {high:g}", OUT_OF_RANGE)
    return (value - low) / (high - low)


def variance_on_scale(field: str, value: float | Fault | None, scale: Range) -> float | Fault | None:
    """A variance on the same terms."""
    if value is None or isinstance(value, Fault):
        return value
    share = value / (scale[1] - scale[0]) ** 2
    # No two scores within [0, 1] have a larger sample variance.
    if not 0 <= share <= 0.5:
        return Fault(field, f"{value:g} is no variance on the scale {scale[0]:g} to {scale[1]:g}", OUT_OF_RANGE)
    return share


def plain_name(name: str) -> str:
    """A policy's name as params, results and columns can hold it: letters, digits and underscores."""
    kept = re.sub(r"[^A-Za-z0-9_]", "_", name)[:41]
    return kept if kept[:1].isalpha() else f"p_{kept}"[:41]


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """`plain_name` of each. Raises ArenaError where two become one, or there are too many to be policies."""
    out: dict[str, str] = {}
    for name in dict.fromkeys(names):
        plain = plain_name(name)
        if plain in out.values():
            other = next(n for n, p in out.items() if p == plain)
            raise ArenaError(f"policies {other[:60]!r} and {name[:60]!r} would both be named {plain!r}: rename one")
        out[name] = plain
    if len(out) > MAX_POLICIES:
        raise ArenaError(f"{len(out):,} policies, beginning with {', '.join(map(repr, list(out)[:3]))[:120]}: "
                         f"at most {MAX_POLICIES} are possible")  # fmt: skip
    return out
