"""The values of a row, checked: what can be used as it is, what is wrong with it, or that it is not there.

Nothing is guessed and nothing is filled in.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from arena10k.analysis import NOISE
from arena10k.errors import ArenaError
from arena10k.inputs.faults import Fault, shown, text

#: More draws of one prompt, or more policies, than this are taken for a mistake in the column or the keys.
MAX_DRAWS, MAX_POLICIES = 1000, 64
MISSING, NOT_FINITE, NOT_A_NUMBER, OUT_OF_RANGE = "missing", "not_finite", "not_a_number", "out_of_range"
_BOOLEANS = {"true": 1.0, "false": 0.0}

Range = tuple[float, float]
#: A number, what is wrong with it, or None where the source has none.
Value = float | Fault | None


@dataclass(frozen=True)
class Row:
    """One response of a source: `response` is None where the source has only numbers of it; `draw` counts from 0, None
    where the source does not number them; `logprobs` (nats) by policy as the source names it; `judge`,
    `judge_variance` and `label` are on the scale of the source; `label_propensity` is the chance of the label."""

    prompt_id: str
    logprobs: dict[str, Value]
    response: str | None = None
    prompt: str | None = None
    draw: int | None = None
    policy: str | None = None
    judge: Value = None
    judge_variance: Value = None
    label: Value = None
    label_propensity: Value = None
    category: str | None = None
    language: str | None = None


# The values of a row: what cannot be used is raised, and a number that cannot be used is given as a Fault


def is_unicode(value: str) -> bool:
    return value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)


def said(field: str, value: Any, alone: str = "assistant") -> str:
    """An answer: a text, or a list of texts, or of parts that are texts; the one turn of who is `alone`, or all turns
    with who takes them."""
    listed = value if isinstance(value, list) else []
    objects = all(isinstance(item, dict) for item in listed)
    if listed and objects and all({"role", "content"} <= turn.keys() for turn in listed):
        turns = [(str(turn["role"]), said(f"{field}: {turn['role']}", turn["content"])) for turn in listed]
        only = len(turns) == 1 and turns[0][0] == alone
        return turns[0][1] if only else "\n\n".join(f"{role}: {content}" for role, content in turns)
    if listed and objects and all(isinstance(part.get("text"), str) for part in listed):
        return text(field, "".join(part["text"] for part in listed))
    if listed and all(isinstance(item, str) for item in listed):
        value = "\n\n".join(listed)
    return text(field, value)


def asked(field: str, value: Any) -> str | None:
    """A prompt: as an answer, with the user's turn alone; or an object, key by key."""
    if isinstance(value, dict) and value:
        texts = {str(k): v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in value.items()}
        value = next(iter(texts.values())) if len(texts) == 1 else "\n".join(f"{k}: {v}" for k, v in texts.items())
    return None if value is None else said(field, value, "user")


def prompt_id(field: str, value: Any) -> str:
    """A text that is not blank, or a whole number."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
        return str(value)
    if not text(field, value).strip():
        raise Fault(field, "is empty")
    return str(value)


def draw(field: str, value: Any) -> int | None:
    """The number of a draw, None where there is none."""
    if value is None:
        return None
    if isinstance(value, str) and value.isdecimal():
        value = int(value[:9])
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_DRAWS:
        raise Fault(field, f"{shown(value)} is not a whole number from 0 to {MAX_DRAWS - 1}")
    return value


def number(
    field: str,
    value: Any,
    words: Mapping[str, float | None] | None = None,
    as_text: bool = False,
    booleans: bool = False,
) -> Value:
    """A finite number as it stands, None where there is none, else what is wrong with it. `words` stand for numbers (or
    for none); where all of a column's numbers are written as texts `as_text` takes them, `booleans` true and false."""
    if value is None or (type(value) is float and math.isfinite(value)):
        return value
    key = str(value).lower() if isinstance(value, bool) else value
    if words and isinstance(key, str) and (key in words or key.casefold() in words):
        return words.get(key, words.get(key.casefold()))
    if booleans and isinstance(key, str) and (as_text or key is not value) and key.casefold() in _BOOLEANS:
        return _BOOLEANS[key.casefold()]
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    finite, made = True, None
    try:
        if is_number or (isinstance(value, str) and "_" not in value):
            made = float(value)  # texts such as "NaN" too
            finite = math.isfinite(made)
    except OverflowError:
        finite = False
    except ValueError:
        pass
    if made is not None and finite and (is_number or as_text):
        return made
    what, do = f"{shown(value)} is not a {'' if finite else 'finite '}number", "write a number, or nothing"
    if isinstance(value, str) and made is not None and finite:
        do = "write it without quotes: other values of the column are no texts"
    return Fault(field, what, NOT_A_NUMBER if finite else NOT_FINITE, do)


def is_number(value: str, words: Mapping[str, float | None]) -> bool:
    """Whether a text stands for a number, in a column of such texts."""
    return not isinstance(number("", value, words, as_text=True, booleans=True), Fault)


def on_scale(field: str, value: Value, scale: Range) -> Value:
    """A number of a declared scale as a share of it, in [0, 1]."""
    low, high = scale
    if not isinstance(value, float):
        return value
    near = min(max(value, low), high)
    if abs(value - near) > NOISE * (high - low):
        what = f"{value:.15g} is outside of the declared scale {low:g} to {high:g}"
        return Fault(field, what, OUT_OF_RANGE, "mend it, or declare the scale")
    return (near - low) / (high - low)


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
        plain = re.sub(r"[^A-Za-z0-9_]+", "_", name)[:41]
        plain = plain if plain[:1].isalpha() else f"p_{plain}"[:41]
        if other := next((n for n, p in out.items() if p.casefold() == plain.casefold()), None):
            raise ArenaError(f"policies {other[:60]!r} and {name[:60]!r} would both be named {plain!r}: rename one")
        out[name] = plain
    if len(out) > MAX_POLICIES:
        first = ", ".join(map(repr, list(out)[:3]))[:120]
        raise ArenaError(f"{len(out):,} policies, beginning with {first}: at most {MAX_POLICIES} are possible")
    return out
