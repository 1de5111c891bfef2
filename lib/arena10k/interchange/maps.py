"""Shipped maps (`maps.yaml`): which column of a tool's log holds what, and which map a file fits."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import yaml
from pydantic import Field

from arena10k.errors import ArenaError, unknown
from arena10k.inputs.faults import Fault
from arena10k.inputs.files import File
from arena10k.interchange import columns
from arena10k.params import config
from arena10k.params.imported import Reading, TableParams

#: Rows at the beginning of a file that are looked at.
_FIRST = 20


class Map(Reading):
    """What a tool writes; see `maps.yaml`."""

    about: str
    has: tuple[str, ...] = Field(strict=False)
    optional: tuple[str, ...] = Field((), strict=False)
    choose: str | None = None
    general: bool = False


@cache
def shipped() -> dict[str, Map]:
    """All maps by name."""
    text = resources.files("arena10k").joinpath("interchange", "maps.yaml").read_text(encoding="utf-8")
    return {name: Map.model_validate(content) for name, content in yaml.safe_load(text).items()}


def read(name: str) -> Map:
    """Raises ArenaError for a map that is not there."""
    if name not in shipped():
        raise unknown("map", name, shipped())
    return shipped()[name]


def merged(params: TableParams) -> tuple[Reading, str | None, tuple[str, ...]]:
    """How the rows of a table are read, what goes before its map's; the view to be chosen, and what rows may lack.
    A column that is named "" is none. Raises ArenaError."""
    keys = set(Reading.model_fields)
    given = params.model_dump(exclude_unset=True, include=keys)
    base: dict[str, Any] = {}
    choose, optional = None, tuple[str, ...]()
    if params.map:
        own = read(params.map)
        base = own.model_dump(exclude_unset=True, include=keys)
        optional, choose = own.optional, own.choose if own.choose not in params.where else None
    for key, value in given.items():
        base[key] = base.get(key, {}) | value if isinstance(value, dict) else value
    base["columns"] = {name: path for name, path in base.get("columns", {}).items() if path not in ("", None)}
    if params.policy:
        base["columns"].pop("policy", None)
    return config.validated(Reading, params.path, base), choose, optional


def guess(file: File) -> str:
    """The one map that a file fits. Raises ArenaError where none does or several do, with what is in the file and what
    to write."""
    fits, seen = [], ""
    for name, own in shipped().items():
        tried = File(file.path, file.name, file.rows or own.rows, file.delimiter)
        try:
            some = [row for _, (_, row) in zip(range(_FIRST), tried.read(), strict=False) if isinstance(row, dict)]
        except ArenaError as error:
            seen = seen or ("" if own.rows else str(error).removeprefix(f"{file.name}: "))
            continue
        seen = (
            "its rows have " + columns.shape(some[0]) + file.is_json * columns.rows_within(some[0])
            if some and not own.rows
            else seen
        )
        if any(all(_has(row, path) for path in own.has) for row in some):
            fits.append(name)
    fits = [name for name in fits if not shipped()[name].general] or fits
    if len(fits) == 1:
        return fits[0]
    which = f"the maps {', '.join(fits)} fit" if fits else "no map fits"
    do = "say which column holds what: --column prompt=A --column response=B --column judge=C (or a params file)"
    do = "name one with --map" if fits else do
    raise ArenaError(f"{file.name}: {which}; {seen or 'it has no rows'}: {do}")


def _has(row: dict[str, Any], path: str) -> bool:
    try:
        return columns.at(row, path)[1] is not None
    except Fault:
        return True
