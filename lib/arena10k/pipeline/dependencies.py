"""What makes a stage out of date: the files its notebook reaches, and, where files are too coarse, functions."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path

from arena10k import paths

_PACKAGE = Path(__file__).parents[1]


def sources(notebook: str, estimators: bool = True) -> list[str]:
    """The files a notebook's outcome depends on: itself, the library modules it reaches, templates and built-ins.

    `estimators` False leaves out the modules in which estimators are registered: see `estimator_code`.
    """
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
    reached = _reach(code)
    reached = reached | estimator_modules() if estimators else reached - estimator_modules()
    return sorted({str(p) for p in (path, *reached, *data)})


@cache
def estimator_modules() -> frozenset[Path]:
    """The modules in which estimators are registered."""
    from arena10k.estimation import ESTIMATORS

    homes = {Path(e.function.__code__.co_filename).resolve() for e in ESTIMATORS.values()}
    return frozenset(home for home in homes if home.is_relative_to(_PACKAGE))


@cache
def estimator_code(*names: str) -> str:
    """Digest of the `shared_functions` and of the registered estimators `names`: what a stage depends on that uses no
    other estimator."""
    from arena10k.ablations import fingerprint
    from arena10k.estimation import ESTIMATORS

    shared = [fingerprint.function(module, name) for module, name in sorted(shared_functions())]
    return fingerprint.code_digest(*shared, *(ESTIMATORS[name].function for name in names))


def shared_functions() -> set[tuple[str, str]]:
    """Module and name of the functions that the rest of the library imports from the modules of the estimators."""
    used = set()
    modules = {f"arena10k.{'.'.join(p.relative_to(_PACKAGE).with_suffix('').parts)}" for p in estimator_modules()}
    for path in _PACKAGE.rglob("*.py"):
        if path in estimator_modules() or not any(name in path.read_text(encoding="utf-8") for name in modules):
            continue
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.ImportFrom) and node.module in modules:
                used |= {(node.module, alias.name) for alias in node.names}
    return used


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
