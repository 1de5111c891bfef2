"""The size and the shape of the library, from its files alone.

    python benchmarks/house.py [FOLDER]     (default: the repository that holds this script)

Prints one JSON object: lines, files and functions of `lib/`, lines of `tests/`, mean length of a line that is not
empty, longest function, floors (the longest chain of rooms that import one another, a room being a folder or a module
of the top level), and modules that one other module alone imports.
"""

from __future__ import annotations

import ast
import json
import sys
from functools import cache
from pathlib import Path

ROOT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve()
PACKAGE = ROOT / "lib" / "arena10k"
MODULES = {
    ".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): p
    for p in sorted(PACKAGE.rglob("*.py"))
}


def imports(path: Path) -> set[str]:
    """Modules of the library that a module imports, within functions too; not what type checkers alone read."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING":
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "arena10k":
            for alias in node.names:
                # `from arena10k.report import page` names a module, `from arena10k.report import table` a function.
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in MODULES else node.module)
    return {name for name in names if name in MODULES and name != "arena10k"}


def room(module: str) -> str:
    return module.split(".")[1]


def floors(edges: dict[str, set[str]]) -> int:
    @cache
    def depth(name: str) -> int:
        return 1 + max((depth(other) for other in edges[name]), default=0)

    return max(map(depth, edges))


def main() -> None:
    doors = {"arena10k", "arena10k.__main__"}
    reached = {module: imports(path) for module, path in MODULES.items()}
    rooms: dict[str, set[str]] = {room(m): set() for m in MODULES if m not in doors}
    for module, names in reached.items():
        if module not in doors:
            rooms[room(module)] |= {room(n) for n in names} - {room(module)}
    importers = {m: [o for o, names in reached.items() if m in names and o != m] for m in MODULES}
    functions = [
        node
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lines = [line for path in MODULES.values() for line in path.read_text(encoding="utf-8").splitlines()]
    written = [line for line in lines if line.strip()]
    tests = [p.read_text(encoding="utf-8").count("\n") for p in (ROOT / "tests").glob("*.py")]
    print(
        json.dumps(
            {
                "lines": len(lines),
                "mean_line": round(sum(map(len, written)) / len(written), 1),
                "files": len(MODULES),
                "functions": len(functions),
                "longest_function": max(node.end_lineno - node.lineno + 1 for node in functions),
                "floors": floors(rooms),
                "one_importer": sum(len(names) == 1 for names in importers.values()),
                "test_lines": sum(tests),
                "test_files": len(tests),
            }
        )
    )


if __name__ == "__main__":
    main()
