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
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from io import BufferedReader
from pathlib import Path
from typing import Any

from arena10k.errors import ArenaError
from arena10k.inputs.sources import parquet_rows

#: No row is longer than this many bytes; a longer line is passed over without being held.
LINE_LIMIT = 1 << 24
_UTF16 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
#: More draws of one prompt, or more policies, than this are taken for a mistake in the column or the keys.
MAX_DRAWS, MAX_POLICIES = 1000, 64
MISSING, NOT_FINITE, NOT_A_NUMBER, OUT_OF_RANGE = "missing", "not_finite", "not_a_number", "out_of_range"

Range = tuple[float, float]


class Fault(Exception):
    """What is wrong with a row (`field` empty) or with one of its fields. Raised where the row cannot be taken; in the
    place of a value, with the code of its record, where the row can be taken without it."""

    def __init__(self, field: str, what: str, code: str = "malformed"):
        super().__init__(f"{field}: {what}" if field else what)
        self.field, self.what, self.code = field, what, code


#: A number, what is wrong with it, or None where the source has none.
Value = float | Fault | None


@dataclass(frozen=True)
class Row:
    """One response of a source: `draw` counts from 0; `logprobs` (nats) by policy as the source names it; `judge`,
    `judge_variance` and `label` are on the scale of the source."""

    prompt_id: str
    response: str
    logprobs: dict[str, Value]
    prompt: str | None = None
    draw: int = 0
    policy: str | None = None
    judge: Value = None
    judge_variance: Value = None
    label: Value = None
    category: str | None = None
    language: str | None = None


@contextmanager
def _opened(path: Path, name: str) -> Iterator[BufferedReader]:
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        why = f"cannot be read ({error.strerror or error})"
        raise ArenaError(f"{name}: {why}: check the file and its permissions") from error


def digest_of(path: Path, name: str) -> str:
    """SHA-256 of a file's content. Raises ArenaError where it cannot be read."""
    with _opened(path, name) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read(path: Path, name: str, choose: Callable[[list[str]], list[str]]) -> Iterator[tuple[int, Any]]:
    """(line, object or Fault) of a file; lines (rows of Parquet) count from 1, blank lines are counted and not given.

    `choose` says which of a Parquet file's columns are read. Raises ArenaError for a file that cannot be read, is not
    Parquet, or is UTF-16 or UTF-32.
    """
    if name.lower().endswith(".parquet"):
        yield from parquet_rows(path, name, choose)
        return
    with _opened(path, name) as stream:
        start, number = stream.read(4), 0
        if start.startswith(_UTF16):
            raise ArenaError(f"{name}: is UTF-16 or UTF-32: save it as UTF-8")
        stream.seek(len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0)
        while line := stream.readline(LINE_LIMIT):
            number += 1
            if len(line) == LINE_LIMIT and not line.endswith(b"\n"):
                while (rest := stream.readline(LINE_LIMIT)) and not rest.endswith(b"\n"):
                    pass
                yield number, Fault("", f"longer than {LINE_LIMIT:,} bytes: that is no row")
            elif line.strip():
                yield number, _object(line)


def _object(line: bytes) -> Any:
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
    return "a huge number" if isinstance(value, int) and value.bit_length() >= 200 else repr(value)[:60]


# The values of a row: what cannot be used is raised, and a number that cannot be used is given as a Fault


def text(field: str, value: Any) -> str:
    """A text that can be stored."""
    if value is None:
        raise Fault(field, "is missing")
    if not isinstance(value, str):
        raise Fault(field, f"{shown(value)} is not a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Fault(field, f"is not Unicode text at character {error.start + 1}") from error
    return value


def text_or_none(field: str, value: Any) -> str | None:
    return None if value is None else text(field, value)


def prompt_id(field: str, value: Any) -> str:
    """A text that is not blank, or a whole number."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
        return str(value)
    if not text(field, value).strip():
        raise Fault(field, "is empty")
    return str(value)


def draw(field: str, value: Any) -> int:
    """The number of a draw, 0 where there is none."""
    if value is None:
        return 0
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_DRAWS:
        raise Fault(field, f"{shown(value)} is not a whole number from 0 to {MAX_DRAWS - 1}")
    return value


def number(field: str, value: Any) -> Value:
    """A finite number as it stands, None where there is none, else what is wrong with it."""
    if value is None:
        return None
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    finite = True
    try:
        if is_number or isinstance(value, str):
            finite = math.isfinite(float(value))  # texts such as "NaN" too
    except OverflowError:
        finite = False
    except ValueError:
        pass
    if is_number and finite:
        return float(value)
    what = f"{shown(value)} is not a {'' if finite else 'finite '}number"
    return Fault(field, what, NOT_A_NUMBER if finite else NOT_FINITE)


def on_scale(field: str, value: Value, scale: Range) -> Value:
    """A number of a declared scale as a share of it, in [0, 1]."""
    low, high = scale
    if not isinstance(value, float):
        return value
    if not low <= value <= high:
        return Fault(field, f"{value:g} is outside of the declared scale {low:g} to {high:g}", OUT_OF_RANGE)
    return (value - low) / (high - low)


def variance_on_scale(field: str, value: Value, scale: Range) -> Value:
    """A variance on the same terms: no two scores within [0, 1] have a sample variance above 0.5."""
    low, high = scale
    if not isinstance(value, float):
        return value
    share = value / (high - low) ** 2
    if not 0 <= share <= 0.5:
        return Fault(field, f"{value:g} is no variance on the scale {low:g} to {high:g}", OUT_OF_RANGE)
    return share


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Policies by the name they have in the source, as params, results and columns can hold it: letters, digits and
    underscores. Raises ArenaError where two become one, or there are too many to be policies."""
    out: dict[str, str] = {}
    for name in dict.fromkeys(names):
        plain = re.sub(r"[^A-Za-z0-9_]", "_", name)[:41]
        plain = plain if plain[:1].isalpha() else f"p_{plain}"[:41]
        if plain in out.values():
            other = next(n for n, p in out.items() if p == plain)
            raise ArenaError(f"policies {other[:60]!r} and {name[:60]!r} would both be named {plain!r}: rename one")
        out[name] = plain
    if len(out) > MAX_POLICIES:
        first = ", ".join(map(repr, list(out)[:3]))[:120]
        raise ArenaError(f"{len(out):,} policies, beginning with {first}: at most {MAX_POLICIES} are possible")
    return out
