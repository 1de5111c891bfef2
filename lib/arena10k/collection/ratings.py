"""The rating in a judge's text: in whatever wrapping, as long as it can mean one number only."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

from arena10k.params.judge import ChatGrader

_NUMBER = r"[-+]?[0-9]+(?:\.[0-9]+)?"
_OBJECT = re.compile(r"\{[^{}]*\}")
_LABEL = re.compile(r"\b(?:rat(?:ing|e|ed)|scored?|grade)\b", re.IGNORECASE)
#: What judges call a rating beside its name.
_SYNONYMS = {"score": "rating", "grade": "rating"}
#: Ranges ("7-8", "7 to 8") are two numbers.
_PARTS = re.compile(rf"(?<![\w.])(?P<number>{_NUMBER})(?:\s*(?:/|out of)\s*(?P<of>{_NUMBER}))?(?!\w)", re.IGNORECASE)
_MARKUP = re.compile(r"[*_`#>]+")


def numbers(text: str, keys: tuple[str, ...], grader: ChatGrader, cut: bool) -> dict[str, float] | None:
    """A number for each of `keys` ("rating" first): from a JSON object with whatever further keys, alone, fenced or in
    prose, else, of a rating alone, from "7", "7/10" or "Rating: 7", bold or not.

    None where the text has none, several that differ, or a bare number that may be `cut` off.
    """
    objects = [found for block in _OBJECT.findall(text) if (found := _of_object(block, keys)) is not None]
    if objects:
        return objects[0] if all(found == objects[0] for found in objects) else None
    return None if keys != ("rating",) or cut or "{" in text else _of_prose(text, grader)


def _of_object(block: str, keys: Sequence[str]) -> dict[str, float] | None:
    """The numbers under `keys`, in any case; None where one is missing or has two values."""
    try:
        pairs: Any = json.loads(block, object_pairs_hook=list)
    except (ValueError, RecursionError):
        try:
            literal = ast.literal_eval(block)  # single quotes, a comma too many
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
        pairs = list(literal.items()) if isinstance(literal, dict) else []
    out: dict[str, float] = {}
    for key, value in pairs:
        name = str(key).strip().lower()
        name = _SYNONYMS.get(name, name)
        if name not in keys:
            continue
        if isinstance(value, str) and re.fullmatch(rf"\s*{_NUMBER}\s*", value):
            value = float(value)
        if type(value) not in (int, float) or out.setdefault(name, value) != value:
            return None
    return out if len(out) == len(keys) else None


def _of_prose(text: str, grader: ChatGrader) -> dict[str, float] | None:
    plain = _MARKUP.sub("", text).strip()
    found = [(m["number"], m["of"]) for m in _PARTS.finditer(plain)]
    if len({float(number) for number, _ in found}) != 1 or any(of and float(of) != grader.scale[1] for _, of in found):
        return None
    # Words beside the number must say that it is the rating.
    bare = re.fullmatch(rf"{_PARTS.pattern}\.?", plain, re.IGNORECASE)
    return {"rating": float(found[0][0])} if bare or _LABEL.search(plain) else None
