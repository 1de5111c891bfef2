"""Shipped maps (`maps.yaml`): which column of a tool's log holds what, and which map a file fits."""

from __future__ import annotations

import shlex
from dataclasses import replace
from functools import cache
from importlib import resources
from itertools import combinations, islice
from typing import Any

import yaml
from pydantic import Field

from arena10k.errors import ArenaError, unknown
from arena10k.inputs.faults import Fault
from arena10k.inputs.files import File
from arena10k.interchange import columns
from arena10k.params import config
from arena10k.params.imported import Reading, TableParams
from arena10k.wording import listed, told_apart

#: Rows at the beginning of a file that are looked at, and columns that a file may lack that is told to be like a map.
_FIRST, _FEW = 20, 2


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


def merged(params: TableParams) -> tuple[Reading, dict[str, str], tuple[str, ...]]:
    """How the rows of a table are read, what goes before its map's; the columns of the view to be chosen and why, and
    what rows may lack. A column that is named "" is none. Raises ArenaError."""
    keys = set(Reading.model_fields)
    given = params.model_dump(exclude_unset=True, include=keys)
    base: dict[str, Any] = {}
    choose, optional = dict[str, str](), tuple[str, ...]()
    if params.map:
        own = read(params.map)
        base = own.model_dump(exclude_unset=True, include=keys)
        optional = own.optional
        choose = {own.choose: "of the same responses"} if own.choose and own.choose not in params.where else {}
    for key, value in given.items():
        base[key] = base.get(key, {}) | value if isinstance(value, dict) else value
    base["columns"] = {name: path for name, path in base.get("columns", {}).items() if path not in ("", None)}
    if params.policy and (whose := base["columns"].pop("policy", None)):
        why = f"and is not of {params.policy!r} alone"
        choose |= dict.fromkeys([whose] if isinstance(whose, str) else whose, why)
    return config.validated(Reading, params.path, base), choose, optional


def guess(file: File) -> str:
    """The one map that a file fits. Raises ArenaError where none does or several do, with what is in the file and what
    to write."""
    found: dict[str | None, list[Any]] = {}
    failed: dict[str | None, ArenaError] = {}
    for key in dict.fromkeys([file.rows, *(file.rows or own.rows for own in shipped().values())]):
        try:
            found[key] = list(islice(replace(file, rows=key).read(), _FIRST))
        except ArenaError as error:
            failed[key] = error
    rows = {key: [row for _, row in some if isinstance(row, dict)] for key, some in found.items()}
    lacks = {name: _lacks(own, rows.get(file.rows or own.rows, [])) for name, own in shipped().items()}
    fits = [name for name, missing in lacks.items() if not missing]
    fits = [name for name in fits if not shipped()[name].general] or fits
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise ArenaError(f"{file.name}: the maps {', '.join(fits)} fit: name one with --map")
    if file.rows in failed:
        raise failed[file.rows]
    if not (some := rows[file.rows]):
        number, fault = next(iter(found[file.rows]), (1, Fault("", "has no rows", do="export it again")))
        where = f"{file.unit} {number}: " if found[file.rows] else ""
        raise ArenaError(f"{file.name}: {where}{fault}: {fault.do}")
    # Of votes the winner alone may be called otherwise.
    votes = any("winner" in " ".join(missing) for missing in lacks.values() if len(missing) <= _FEW)
    near = [
        f" (like {name}, but {listed(missing)} {'is' if len(missing) == 1 else 'are'} missing)"
        for name, missing in lacks.items()
        if 2 * len(missing) < len(shipped()[name].has) and len(missing) <= _FEW
    ]
    has = columns.shape(some[0]) + file.is_json * columns.rows_within(some[0])
    do = "say which column holds what: --column prompt=A --column response=B --column judge=C (or a params file)"
    do = f"of votes, --column winner=A says which column has them; else {do}" if votes else do
    raise ArenaError(f"{file.name}: no map fits{''.join(near)}; its rows have {has}: {do}{_two_answers(some)}")


def _lacks(own: Map, rows: list[dict[str, Any]]) -> list[str]:
    """Of what a map's rows have, what is missing in the row that has the most of it."""
    return min(([path for path in own.has if not _has(row, path)] for row in rows), key=len, default=list(own.has))


def _two_answers(rows: list[dict[str, Any]]) -> str:
    """What to write where two columns of texts are named alike up to their ends; empty where none are."""
    texts = [n for n in rows[0] if any(isinstance(row[n], str) and " " in row[n] for row in rows if n in row)]
    for old, new in combinations(texts, 2):
        if told_apart(old, new)[0]:
            return f"; where both are answers, --old {shlex.quote(old)} --new {shlex.quote(new)} in place of response"
    return ""


def _has(row: dict[str, Any], path: str) -> bool:
    try:
        return columns.at(row, path)[1] is not None
    except Fault:
        return True
