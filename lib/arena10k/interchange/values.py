"""Single values of a source: texts, numbers and policy names, checked. Nothing is guessed and nothing is filled in."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from arena10k.errors import ArenaError
from arena10k.interchange.files import Fault, RowFault, shown

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
    """The same, where it may be missing."""
    return None if value is None else text(field, value)


def prompt_id(field: str, value: Any) -> str:
    """An id: a text that is not blank, or a whole number. Raises RowFault."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
        return str(value)
    found = text(field, value)
    if not found.strip():
        raise RowFault(field, "is empty")
    return found


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
    finite = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    try:
        found = float(value) if finite or isinstance(value, str) else math.nan
    except OverflowError:
        return Fault(field, f"{shown(value)} is not a finite number", NOT_FINITE)
    except ValueError:
        found = 0.0
    if finite and math.isfinite(found):
        return found
    if finite or (isinstance(value, str) and not math.isfinite(found)):
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
