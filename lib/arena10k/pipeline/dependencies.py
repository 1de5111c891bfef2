"""The files that a stage's outcome depends on; Snakemake compares their content with that of the run before."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path

from arena10k import paths

_PACKAGE = Path(__file__).parents[1]


def sources(notebook: str) -> list[str]:
    """A notebook, the modules of the library that it reaches, and the data files that modules open by name."""
    path = paths.notebook(notebook)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.is_file() else []
    lines = "".join("".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "code")
    # A cell's magics are not Python; only its import lines matter here.
    imports = "\n".join(re.findall(r"^(?:from|import) .*", lines, re.MULTILINE))
    reached: set[Path] = set()
    waiting = _imported(imports) | {_PACKAGE / "run.py"}
    while waiting:
        reached.add(module := waiting.pop())
        waiting |= _module_imports(module) - reached
    data = (file for folder in ("builtin", "templates") for file in (_PACKAGE / folder).rglob("*") if file.is_file())
    return sorted({str(file) for file in (path, *reached, *data)})


@cache
def _module_imports(module: Path) -> set[Path]:
    return _imported(module.read_text(encoding="utf-8"))


def _imported(code: str) -> set[Path]:
    """The modules of the library that a code imports, within functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    bases = (_PACKAGE.parent.joinpath(*name.split(".")) for name in names if name.startswith("arena10k."))
    return {file for base in bases for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()}
