"""Columns by path: `a.b` is the key `b` within `a`, `messages[-1].content` that of the last item, `messages[:-1]` all
items but the last; `scores.*.value` is that of whatever key stands there alone, `@metrics.*` the column that such a
value names, `a + b` two texts with a space between."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from arena10k.inputs.faults import Fault, shown


class Several(Fault):
    """A path with * that leads to several members; `one` is the path to the first."""

    def __init__(self, path: str, what: str, one: str):
        super().__init__(path, what, do=f"name one of them, such as {one}")
        self.one = one


_STEP = re.compile(r'\[(-?\d*):(-?\d*)\]|\[(-?\d+)\]|\["([^"]*)"\]|(?:^|\.)([^.\[\]]+)')
#: The step to the only member, whatever its name.
_ONLY = "*"
Step = str | int | slice


@cache
def steps(path: str) -> tuple[Step, ...]:
    """The steps of one path. Raises ValueError where it is none."""
    found: list[Step] = []
    end = 0
    for step in _STEP.finditer(path):
        start, stop, index, quoted, key = step.groups()
        if step.start() != end:
            break
        end = step.end()
        if index is not None:
            found.append(int(index))
        elif start is not None:
            found.append(slice(int(start) if start else None, int(stop) if stop else None))
        else:
            found.append(str(key if quoted is None else quoted))
    if end != len(path) or not found:
        raise ValueError(f"{path!r} is no path: write keys and indices, such as messages[-1].content")
    return tuple(found)


def first_key(path: str) -> str:
    """The column of a table in which a path begins."""
    return str(steps(path.removeprefix("@"))[0])


def at(row: dict[str, Any], path: str) -> tuple[bool, Any]:
    """Whether a path is there in a row, and what stands there. Raises Fault where it does not say which member."""
    if path in row:  # a column is called `a.b`
        return True, row[path]
    if " + " in path:
        parts = [at(row, part) for part in path.split(" + ")]
        there = all(is_there and value is not None for is_there, value in parts)
        return there, " ".join(str(value) for _, value in parts) if there else None
    if path.startswith("@"):
        try:
            is_there, named = at(row, path[1:])
        except Several as several:
            raise Several(path, several.what, str(at(row, several.one)[1])) from several
        return at(row, str(named)) if is_there else (False, None)
    value: Any = row
    for step in steps(path):
        inner = opened(value)
        if step == slice(None, None) and isinstance(inner, str):
            continue  # all of a text is the text
        is_there, value = _step(inner, step, path)
        if not is_there:
            return False, None
    return True, value


def opened(value: Any) -> Any:
    """A value; of JSON within a text, as tables have it, what it says."""
    if not isinstance(value, str) or value[:1] not in ("{", "["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _step(value: Any, step: Step, path: str) -> tuple[bool, Any]:
    if step == _ONLY and isinstance(value, dict | list):
        if len(value) > 1:
            first = f".{next(iter(value))}" if isinstance(value, dict) else "[0]"
            one = path.replace(".*", first, 1) if ".*" in path else path.replace("*", first.strip("."), 1)
            raise Several(path, f"* stands for {len(value)} members ({_members(value)})", one)
        return bool(value), next(iter(value.values() if isinstance(value, dict) else value), None)
    if isinstance(step, str):
        return (step in value, value.get(step)) if isinstance(value, dict) else (False, None)
    if not isinstance(value, list):
        return False, None
    if isinstance(step, slice):
        return True, value[step]
    is_there = -len(value) <= step < len(value)
    return is_there, value[step] if is_there else None


def _members(value: dict[str, Any] | list[Any]) -> str:
    if isinstance(value, dict):
        return ", ".join(map(str, value))[:80]
    names = [item.get("name", "?") if isinstance(item, dict) else shown(item) for item in value]
    return ", ".join(f"[{number}] is {name}" for number, name in enumerate(names))[:120]


def shape(row: dict[str, Any], most: int = 12) -> str:
    """The paths to the values of a row and what these are, for a message."""
    found: list[str] = []

    def below(value: Any, path: str) -> None:
        if isinstance(value, dict) and value and path.count(".") < 3:
            for key, inner in value.items():
                below(inner, f"{path}.{key}" if path else str(key))
        elif isinstance(value, list) and value and isinstance(value[0], dict | list) and path.count("[") < 2:
            below(value[-1], f"{path}[-1]")
        else:
            found.append(f"{path} ({kind(value)})")

    below(row, "")
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most])[:600] + more


def rows_within(row: dict[str, Any]) -> str:
    """What to write where a row is one object that holds the rows; empty where it holds none."""
    found = re.search(r"(?:^|, )([^\[\], ]+)\[-1\]\.", shape(row))
    return f"; if its rows are in {found[1]}: --set rows={found[1]}" if found else ""


def kind(value: Any) -> str:
    """What a value is, in a word."""
    for types, word in ((bool, "true/false"), (str, "text"), (dict, "object"), (list, "list")):
        if isinstance(value, types):
            return word
    return "nothing" if value is None else "number" if isinstance(value, int | float) else type(value).__name__
