"""The library's rooms: each module is in one that `docs/library.md` lists, and imports point to rooms above its own."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from arena10k import paths

LIBRARY = paths.source_root() / "lib" / "arena10k"
#: Rooms in the order of the table: the first column, a folder or the modules of the top level.
ROOMS = [
    re.findall(r"`([\w/]+)`", row)
    for row in re.findall(r"^\| (`.*?) \|", (paths.source_root() / "docs" / "library.md").read_text(), re.MULTILINE)
]
PLACE = {name.rstrip("/"): number for number, names in enumerate(ROOMS) for name in names}


def modules() -> list[Path]:
    doors = {LIBRARY / "__init__.py", LIBRARY / "__main__.py"}
    return [path for path in sorted(LIBRARY.rglob("*.py")) if path not in doors]


def room(path: Path) -> str:
    return path.relative_to(LIBRARY).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """The rooms a module imports from, within functions too; not what type checkers alone read."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "arena10k":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("arena10k."):
            found.add(node.module.split(".")[1])
    return found


def test_every_module_is_in_a_room_of_the_table_and_every_room_is_there():
    assert {room(path) for path in modules()} == set(PLACE)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(LIBRARY)))
def test_imports_point_upwards(path):
    below = {name for name in imported(path) if PLACE.get(name, -1) > PLACE[room(path)]}
    assert below == set()


def test_statistics_know_no_endpoint_and_no_store_and_collection_no_estimator():
    for path in modules():
        if room(path) in ("estimation", "simulation"):
            assert imported(path) <= {"analysis", "errors", "estimation", "simulation", "wording"}, path
        if room(path) == "collection":
            assert "estimation" not in imported(path), path
