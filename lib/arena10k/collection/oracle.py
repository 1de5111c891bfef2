"""Exact answer checkers: the oracle of the built-in prompt set.

A prompt carries a declarative check such as ``{"kind": "number", "value": 5, "given": [2, 3]}``; `check` turns it and a
response into a label. Pure functions, no model, linear in the length of the response, deterministic.

Rules shared by every kind:

* Text is compared after Unicode NFKC, case folding, removal of accents and straightening of apostrophes.
* Only whole words match: "romeo" does not mention "rome".
* A mention preceded in its clause by a negation ("it is not Rome") does not count, neither as right nor as wrong.
* A response that declines ("I do not know", "I cannot answer") is wrong whatever else it mentions.
* A response that mentions a wrong alternative beside the right one, or lists everything, is wrong.
* An empty response is a response, and wrong.

| kind | keys (defaults) | right when the response |
|---|---|---|
| `contains_any` | `values`, `exclude` ([]) | affirms one of `values` and none of `exclude` |
| `contains_all_words` | `words`, `min_words` (1) | has every word, or its plural in s/es, and `min_words` words |
| `one_of` | `values`, `max_named` (1) | names at least one and at most `max_named` of `values` |
| `number` | `value`, `given` ([]) | ends on `value`; numbers of the question (`given`) are ignored |
| `yes_no` | `value` "yes" or "no" | says that answer and not the other one |
| `copy` | `value`, `max_words` (5) | has the word and at most `max_words` words |
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from itertools import takewhile
from typing import Any

Spec = Mapping[str, Any]

#: More distinct numbers than this, those of the question aside, is a list of guesses and not an answer.
MAX_DISTINCT_NUMBERS = 3
_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_NUMBER_WORDS = dict(zip((*_UNITS, *_TENS), (*range(20), *range(20, 100, 10)), strict=True))

# [^\W_] is a letter or digit of any script; inside a number a comma groups thousands and a point starts decimals.
_TOKEN = re.compile(r"\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:\.\d+)?(?![^\W_])|[^\W_]+(?:'[^\W_]+)*|[.,;:!?\n]")
_CLAUSE_END = frozenset(".,;:!?\n")
_NEGATIONS = frozenset(["not", "never", "neither", "nor", "cannot", "without", "isnt"])
_NEGATION_REACH = 4
_HEDGES = frozenset({"or", "either", "maybe", "perhaps"})
_DECLINES = re.compile(
    r"\b(?:(?:do|did|does|would|could|can) not|don't|dont|didn't|doesn't|wouldn't|couldn't|cannot|can't|never|not) "
    r"(?:really |actually )?(?:know|answer|say|tell|help|assist|respond|be sure|decide|determine)\b"
    r"|\b(?:unable|refuse|not able|unwilling) to (?:answer|say|tell|help|assist|respond|provide|determine)\b"
    r"|\b(?:not|un)\s?(?:sure|certain)\b|\bno (?:idea|clue|answer)\b"
)


def check(spec: Spec, response: str, *, prompt_id: str = "") -> float:
    """Label one response: 1.0 when it is right by `spec` (see the table above), else 0.0. Raises ValueError as
    `validate` does."""
    validate(spec, prompt_id=prompt_id)
    if declines(response):
        return 0.0
    rule, _, _ = _KINDS[spec["kind"]]
    return float(rule(spec, _tokens(response)))


def declines(response: str) -> bool:
    """Whether the response says that it does not know or will not answer."""
    return _DECLINES.search(" ".join(_normalised(response).split())) is not None


def validate(spec: Spec, *, prompt_id: str = "") -> None:
    """Raise ValueError, naming the prompt, unless `spec` is a check this module can run: of a known kind, with no
    missing, unknown or invalid keys."""
    where = f"prompt {prompt_id!r}: "
    if not isinstance(spec, Mapping):
        raise ValueError(f"{where}check must be a mapping, not {type(spec).__name__}")
    kind = spec.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"{where}unknown check kind {kind!r}; known kinds: {', '.join(sorted(_KINDS))}")
    _, required, optional = _KINDS[kind]
    keys = set(spec) - {"kind"}
    if missing := required - keys:
        raise ValueError(f"{where}check {kind!r} lacks {', '.join(sorted(missing))}")
    if unknown := keys - required - optional:
        raise ValueError(f"{where}check {kind!r} does not know {', '.join(sorted(map(str, unknown)))}")
    if problem := _value_problem(spec):
        raise ValueError(f"{where}check {kind!r}: {problem}")


def _value_problem(spec: Spec) -> str | None:
    """What is wrong with the values of a spec whose keys are right, or None."""
    for key in ("values", "words", "exclude"):
        items = spec.get(key, ["-"])
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            return f"{key} must be a list of text"
        if key != "exclude" and not items:
            return f"{key} is empty"
        if key in spec and not all(_words(_tokens(item)) for item in items):
            return f"{key} holds an item without a word"
    for key in ("max_named", "max_words", "min_words"):
        if key in spec and (type(spec[key]) is not int or spec[key] < 1):
            return f"{key} must be a positive whole number"
    if spec["kind"] == "number":
        given = spec.get("given", [])
        if not isinstance(given, list) or any(type(number) not in (int, float) for number in [spec["value"], *given]):
            return "value and given must be numbers"
        return "value is among given, so the question could pass for an answer" if spec["value"] in given else None
    if spec["kind"] == "yes_no" and spec["value"] not in ("yes", "no"):
        return "value must be the text 'yes' or 'no'"
    if spec["kind"] == "copy" and not (isinstance(spec["value"], str) and _words(_tokens(spec["value"]))):
        return "value must be a word"
    return None


def _normalised(text: str) -> str:
    """`text` in the form every comparison uses: NFKC, case-folded, accents removed, straight apostrophes."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    bare = "".join(char for char in folded if not unicodedata.combining(char))
    return bare.replace("\u2019", "'").replace("\u2018", "'").replace("\u02bc", "'")


def _tokens(text: str) -> list[str]:
    """The words, numbers and clause marks of `text`, normalised and in order."""
    return [token.removesuffix("'s") for token in _TOKEN.findall(_normalised(text))]


def _words(tokens: list[str]) -> list[str]:
    return [token for token in tokens if token not in _CLAUSE_END]


def _denied(tokens: list[str], position: int) -> bool:
    """Whether a negation stands within a few words before `position`, in the same clause."""
    before = reversed(tokens[max(0, position - _NEGATION_REACH) : position])
    clause = takewhile(lambda token: token not in _CLAUSE_END, before)
    return any(token in _NEGATIONS or token.endswith("n't") for token in clause)


def _mentions(tokens: list[str], phrases: list[str]) -> set[str]:
    """The phrases that `tokens` affirm; where two overlap ("bell pepper", "pepper") the longer one counts."""
    by_first: dict[str, list[list[str]]] = {}
    for parts in sorted(map(_tokens, phrases), key=len, reverse=True):
        by_first.setdefault(parts[0], []).append(parts)
    affirmed, position = set(), 0
    while position < len(tokens):
        candidates = by_first.get(tokens[position], [])
        parts = next((c for c in candidates if tokens[position : position + len(c)] == c), [])
        if parts and not _denied(tokens, position):
            affirmed.add(" ".join(parts))
        position += max(1, len(parts))
    return affirmed


def _contains_any(spec: Spec, tokens: list[str]) -> bool:
    return bool(_mentions(tokens, spec["values"])) and not _mentions(tokens, spec.get("exclude", []))


def _contains_all_words(spec: Spec, tokens: list[str]) -> bool:
    enough = len(_words(tokens)) >= spec.get("min_words", 1)
    return enough and all(_mentions(tokens, [word, word + "s", word + "es"]) for word in spec["words"])


def _one_of(spec: Spec, tokens: list[str]) -> bool:
    return bool(1 <= len(_mentions(tokens, spec["values"])) <= spec.get("max_named", 1))


def _number(spec: Spec, tokens: list[str]) -> bool:
    """The last number counts, in digits or words up to ninety-nine ("twenty-one" is one number)."""
    numbers: list[tuple[int, float]] = []
    for position, token in enumerate(tokens):
        if re.fullmatch(r"\d[\d,]*(?:\.\d+)?", token):
            numbers.append((position, float(token.replace(",", ""))))
        elif token in _NUMBER_WORDS:
            value = float(_NUMBER_WORDS[token])
            if numbers and numbers[-1][0] == position - 1 and tokens[position - 1] in _TENS and 1 <= value <= 9:
                value += numbers.pop()[1]
            numbers.append((position, value))
    answers = [(position, value) for position, value in numbers if value not in spec.get("given", [])]
    if not answers or len({value for _, value in answers}) > MAX_DISTINCT_NUMBERS:
        return False
    position, value = answers[-1]
    hedged = len({value for _, value in answers}) > 1 and not _HEDGES.isdisjoint(tokens)
    return bool(value == spec["value"]) and not hedged and not _denied(tokens, position)


def _yes_no(spec: Spec, tokens: list[str]) -> bool:
    """Only an answer counts: "no" before a word ("there is no water") is a determiner unless it opens the response."""
    answers = set()
    for position, token in enumerate(tokens):
        stands_alone = position + 1 == len(tokens) or tokens[position + 1] in _CLAUSE_END
        if token == "yes" or (token == "no" and (position == 0 or stands_alone)):
            answers.add("denied" if _denied(tokens, position) else token)
    return answers == {spec["value"]}


def _copy(spec: Spec, tokens: list[str]) -> bool:
    return len(_words(tokens)) <= spec.get("max_words", 5) and bool(_mentions(tokens, [spec["value"]]))


_Rule = Callable[[Spec, list[str]], bool]
#: Per kind its rule, the keys that it needs and those that it may have.
_KINDS: dict[str, tuple[_Rule, set[str], set[str]]] = {
    "contains_any": (_contains_any, {"values"}, {"exclude"}),
    "contains_all_words": (_contains_all_words, {"words"}, {"min_words"}),
    "one_of": (_one_of, {"values"}, {"max_named"}),
    "number": (_number, {"value"}, {"given"}),
    "yes_no": (_yes_no, {"value"}, set()),
    "copy": (_copy, {"value"}, {"max_words"}),
}
