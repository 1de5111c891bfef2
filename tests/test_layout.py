"""The library's rooms: each module is in one that `docs/library.md` lists, and imports point to rooms above its own."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from arena10k import paths

LIBRARY = paths.source_root() / "lib" / "arena10k"
#: Rooms in the order of the table: the first column, a folder or the modules of the top level.
ROOMS = [
    re.findall(r"`([\w/]+)`", row)
    for row in re.findall(r"^\| (`.*?) \|", (paths.source_root() / "docs" / "library.md").read_text(), re.MULTILINE)
]
PLACE = {name.rstrip("/"): number for number, names in enumerate(ROOMS) for name in names}


def imported(path: Path) -> set[str]:
    """The rooms a module imports from, within functions too; not what type checkers alone read."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING":
            node.body = []
    rooms = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "arena10k":
            rooms |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("arena10k."):
            rooms.add(node.module.split(".")[1])
    return rooms


DOORS = {LIBRARY / "__init__.py", LIBRARY / "__main__.py"}
#: By module its room and the rooms it imports from.
MODULES = {
    str(path.relative_to(LIBRARY)): (path.relative_to(LIBRARY).with_suffix("").parts[0], imported(path))
    for path in sorted(LIBRARY.rglob("*.py"))
    if path not in DOORS
}


def test_every_module_is_in_a_room_of_the_table_and_every_room_is_there():
    assert {room for room, _ in MODULES.values()} == set(PLACE)


def test_imports_point_upwards():
    below = {(name, other) for name, (room, others) in MODULES.items() for other in others
             if PLACE.get(other, -1) > PLACE[room]}  # fmt: skip
    assert below == set()


def test_statistics_know_no_endpoint_and_no_store_and_collection_no_estimator():
    for name, (room, others) in MODULES.items():
        if room in ("estimation", "simulation"):
            assert others <= {"analysis", "errors", "estimation", "simulation", "wording"}, name
        if room == "collection":
            assert "estimation" not in others, name
