"""The rating in a judge's text: in whatever wrapping, as long as it can mean one number only."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

from arena10k.params.judge import ChatGrader

_NUMBER = r"[-+]?[0-9]+(?:\.[0-9]+)?"
#: What judges call a rating beside its name.
_SYNONYMS = {"score": "rating", "grade": "rating"}
_PARTS = re.compile(
    rf"(?<![\w.])(?P<number>{_NUMBER})(?:\s*(?:points?|stars?)?\s*(?:/|(?:out )?of)\s*(?P<of>{_NUMBER}))?"
    r"(?!\w|[.,]?[0-9]|%|\s*(?:/|out of)\s*[0-9])",
    re.IGNORECASE,
)
#: A number that the words before it call the rating, and of which no more is said.
_LABELLED = re.compile(
    r"\b(?:rat(?:ing|e|ed)|scored?|grade)\b(?:\s+(?:is|of|as|at|it|a|this|the|response|answer))*\s*[:=]?\s*"
    rf"{_PARTS.pattern}\s*(?:points?|stars?)?\s*(?:$|[.;!)\n])",
    re.IGNORECASE,
)
#: What numbers the entries of a list.
_ENTRY = re.compile(r"^\s*[0-9]+[.)][^\S\n]+(?=\S)", re.MULTILINE)
_WINNERS = {"a": "A", "b": "B", "tie": "tie"}
_WINNER = re.compile(r"(?:(?:the )?winner(?: is|:) ?)?(?:answer )?[\"']?(?P<winner>a|b|tie)[\"']?\.?", re.IGNORECASE)
_OBJECT = re.compile(r"\{[^{}]*\}")
_MARKUP = re.compile(r"(?<!\w)[*_]+|[*_]+(?!\w)|[`#]+|^>", re.MULTILINE)
_DECODER = json.JSONDecoder(object_pairs_hook=list)

Pairs = list[tuple[Any, Any]]


def numbers(text: str, keys: tuple[str, ...], grader: ChatGrader, cut: bool) -> dict[str, float] | None:
    """A number for each of `keys` ("rating" first): from a JSON object with whatever further keys, alone, fenced or in
    prose, else, of a rating alone, from "7", "7/10" or "Rating: 7", bold or not.

    None where the text has none, several that differ, or a bare number that may be `cut` off.
    """
    if "{" not in text:
        return None if keys != ("rating",) or cut else _of_prose(text, grader)
    objects, beside = _objects(text)
    found = [values for pairs in objects if (values := _of_pairs(pairs, keys)) is not None]
    if not found or any(values != found[0] for values in found):
        return None
    return None if _contradicts(beside, found[0], grader) else found[0]


def _contradicts(beside: str, said: dict[str, float], grader: ChatGrader) -> bool:
    """Whether the text beside objects (each of them `{}`) has another rating: behind the first a number on the scale,
    but that of a list's entry, or before it one that is called the rating."""
    low, high = grader.scale
    plain = _MARKUP.sub("", _ENTRY.sub("", beside).replace("{}", f"{{}} {said['rating']}"))
    first = plain.find("{}")
    behind = [m for m in _PARTS.finditer(plain) if m.start() > first]
    before = [m for m in _LABELLED.finditer(plain, 0, first) if m[0].lower().startswith("rat")]
    others = [m for m in (*before, *behind) if low <= float(m["number"]) <= high]
    return any(float(m["number"]) not in said.values() or (m["of"] and float(m["of"]) != high) for m in others)


def winner(text: str, cut: bool) -> str | None:
    """Which of two answers wins, "A", "B" or "tie": under the key "winner" as by `numbers`, else alone, as "A" or
    "Winner: A"; None where the text has none, several that differ, or a bare one that may be `cut` off."""
    if "{" in text:
        pairs = [pair for pairs in _objects(text)[0] for pair in pairs]
        found = {str(value).strip().lower() for key, value in pairs if str(key).strip().lower() == "winner"}
    else:
        said = None if cut else _WINNER.fullmatch(_MARKUP.sub("", text).strip())
        found = {said["winner"].lower()} if said else set()
    return _WINNERS.get(found.pop()) if len(found) == 1 else None


def _objects(text: str) -> tuple[list[Pairs], str]:
    """The objects of a text, as pairs, without those within others (none where one cannot be read), and the text with
    `{}` for each."""
    out, beside, at = [], "", 0
    while (start := text.find("{", at)) >= 0:
        beside, at = f"{beside}{text[at:start]}{{}}", start
        try:
            pairs, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            block = _OBJECT.match(text, at)  # single quotes, a comma too many
            if block is None or (pairs := _literal(block[0])) is None:
                return [], text
            at = block.end()
        out.append(pairs)
    return out, beside + text[at:]


def _literal(block: str) -> Pairs | None:
    try:
        tree = ast.parse(block, mode="eval").body
        if not isinstance(tree, ast.Dict):
            return None
        return [(ast.literal_eval(k), ast.literal_eval(v)) for k, v in zip(tree.keys, tree.values, strict=True) if k]
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _of_pairs(pairs: Pairs, keys: Sequence[str]) -> dict[str, float] | None:
    """The numbers under `keys`, in any case; None where one is missing or has two values."""
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
    given = {float(number) for number, _ in found}
    if len(given) != 1 or any(of and float(of) != grader.scale[1] for _, of in found):
        return None
    if len(re.findall(r"[0-9]+(?:\.[0-9]+)?", plain)) != sum(2 if of else 1 for _, of in found):
        return None  # digits that are no number of their own
    bare = re.fullmatch(rf"{_PARTS.pattern}\.?", plain, re.IGNORECASE)
    return {"rating": given.pop()} if bare or _LABELLED.search(plain) else None
