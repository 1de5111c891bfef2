"""What a computation depends on, function by function: a digest of the code that it reaches in this library.

Files are too coarse where many functions stand in one of them: a changed estimator must not make the results of the
others out of date.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterable, Mapping
from functools import cache, partial
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

from arena10k.estimation import ESTIMATORS

_PACKAGE = "arena10k"


def digest_of(*values: Any) -> str:
    """SHA-256 (16 hex digits) of nested arrays, dataclasses, mappings, sequences and plain values."""
    state = hashlib.sha256()
    for value in values:
        _feed(state, value)
    return state.hexdigest()[:16]


def _feed(state: Any, value: Any) -> None:
    if isinstance(value, np.ndarray):
        state.update(f"array {value.dtype.str} {value.shape}".encode())
        state.update(np.ascontiguousarray(value).tobytes())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _feed(state, {f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    elif isinstance(value, Mapping):
        state.update(f"mapping {len(value)}".encode())
        for key, item in value.items():
            _feed(state, key)
            _feed(state, item)
    elif isinstance(value, set | frozenset):
        _feed(state, sorted(value, key=repr))
    elif isinstance(value, list | tuple):
        state.update(f"sequence {len(value)}".encode())
        for item in value:
            _feed(state, item)
    else:
        state.update(f"{type(value).__name__} {value!r}\0".encode())


def code_digest(*functions: Any) -> str:
    """Digest of the functions, and of what they reach: functions, classes, constants and registered estimators.

    Comments, blank lines and docstrings do not count. What lies outside the library is taken to be fixed, unless it is
    among `functions` itself or in the module of one of them.
    """
    homes = {_PACKAGE} | {function.__module__.split(".")[0] for function in functions}
    found: dict[str, str] = {}
    waiting = list(functions)
    while waiting:
        thing = waiting.pop()
        key = f"{thing.__module__}.{thing.__qualname__}"
        if key not in found:
            found[key] = _source(thing)
            waiting += _reached(thing, homes, found, key)
    return digest_of(dict(sorted(found.items())))


def function(module: str, name: str) -> Any:
    """The function or class `name` of a module."""
    return getattr(importlib.import_module(module), name)


@cache
def _source(thing: Any) -> str:
    """The syntax tree of a function or class as text, without what a reader alone needs."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    nodes: Iterable[Any] = ast.walk(tree)
    for node in nodes:
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            first = body[0].value
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                node.body = body[1:] or [ast.Pass()]
    return ast.dump(tree)


def _reached(thing: Any, homes: set[str], found: dict[str, str], key: str) -> Iterable[Any]:
    out = []
    for function in _functions(thing):
        names, texts = _mentions(function.__code__)
        if "ESTIMATORS" in names:
            out += [ESTIMATORS[text].function for text in sorted(texts) if text in ESTIMATORS]
        known = function.__globals__ | {name: sys.modules.get(name) for name in names if name.startswith(_PACKAGE)}
        for name in sorted(names & set(known)):
            for item in _members(name, known[name], names):
                _sort(*item, homes, out, found, key)
        held = [cell.cell_contents for cell in function.__closure__ or ()]
        held += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        for i, value in enumerate(held):
            _sort(f"{function.__name__} holds {i}", value, homes, out, found, key)
    if isinstance(thing, type):
        out += [base for base in thing.__mro__[1:] if _own(base, homes)]
    return out


def _members(name: str, value: Any, names: set[str]) -> list[tuple[str, Any]]:
    """A value under its name; of a module of this library the attributes that the code may mean, those of modules in
    it too."""
    if not isinstance(value, ModuleType):
        return [(name, value)]
    if value.__name__.split(".")[0] != _PACKAGE:
        return []
    return [
        item
        for own in sorted(names & set(vars(value)) - {name})
        for item in _members(own, vars(value)[own], names - {name})
    ]


def _sort(name: str, value: Any, homes: set[str], out: list[Any], found: dict[str, str], key: str) -> None:
    """Put what is code among what is looked at next, and a constant among what counts."""
    value = inspect.unwrap(value.func if isinstance(value, partial) else value) if callable(value) else value
    if isinstance(value, FunctionType | type):
        if _own(value, homes):
            out.append(value)
    elif _is_constant(value):
        found[f"{key}:{name}"] = digest_of(value)


def _is_constant(value: Any) -> bool:
    """Whether a value is data alone; registries are not: what is taken from them is named."""
    if isinstance(value, Mapping):
        return all(map(_is_constant, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_constant, value))
    return isinstance(value, bool | int | float | str | np.ndarray | None) or (
        dataclasses.is_dataclass(value)
        and not isinstance(value, type)
        and all(_is_constant(getattr(value, f.name)) for f in dataclasses.fields(value))
    )


def _own(thing: Any, homes: set[str]) -> bool:
    return getattr(thing, "__module__", "").split(".")[0] in homes


def _functions(thing: Any) -> list[FunctionType]:
    if isinstance(thing, FunctionType):
        return [thing]
    parts = [
        part
        for value in vars(thing).values()
        for part in (value, *(getattr(value, name, None) for name in ("func", "fget", "__func__")))
    ]
    # What dataclasses generate has no source; the class's own covers it.
    return [inspect.unwrap(p) for p in parts if isinstance(p, FunctionType) and p.__code__.co_filename != "<string>"]


def _mentions(code: CodeType) -> tuple[set[str], set[str]]:
    """Names a code object uses, and texts among its constants; nested functions included."""
    names, texts = set(code.co_names), set()
    waiting = list(code.co_consts)
    while waiting:
        constant = waiting.pop()
        if isinstance(constant, CodeType):
            inner_names, inner_texts = _mentions(constant)
            names |= inner_names
            texts |= inner_texts
        elif isinstance(constant, tuple):
            waiting += constant
        elif isinstance(constant, str):
            texts.add(constant)
    return names, texts
