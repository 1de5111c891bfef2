"""What makes a stage out of date: the files its notebook reaches."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path

from arena10k import paths

_PACKAGE = Path(__file__).parents[1]


def sources(notebook: str) -> list[str]:
    """The files a notebook's outcome depends on: itself, the library modules it reaches, templates and built-ins."""
    path = paths.notebook(notebook)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.is_file() else []
    # A cell's magics are not Python; only its import lines matter here.
    code = "\n".join(
        line
        for cell in cells
        if cell["cell_type"] == "code"
        for line in "".join(cell["source"]).splitlines()
        if re.match(r"(from|import) ", line)
    )
    # Data files a module opens by name, which no import shows.
    data = [p for folder in ("builtin", "templates") for p in (_PACKAGE / folder).rglob("*") if p.is_file()]
    return sorted({str(p) for p in (path, *_reach(code), *data)})


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _reach(code: str) -> set[Path]:
    found: set[Path] = set()
    waiting = _imported(ast.parse(code)) | {_PACKAGE / "run.py"}
    while waiting:
        module = waiting.pop()
        found.add(module)
        waiting |= _module_imports(module) - found
    return found


@cache
def _module_imports(module: Path) -> frozenset[Path]:
    return frozenset(_imported(_tree(module)))


def _imported(tree: ast.Module) -> set[Path]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    out = set()
    for name in names:
        if name.split(".")[0] == "arena10k" and name != "arena10k":
            base = _PACKAGE.parent.joinpath(*name.split("."))
            out |= {p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()}
    return out
