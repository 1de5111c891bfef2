"""Every path of the project, spelled once.

Notebooks run with different working directories (Jupyter and nbval: `notebooks/`, papermill: the caller's), so
nothing else builds a path by hand. `ARENA10K_HOME` points elsewhere, for tests and for data on another disk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from arena10k.errors import ArenaError, unknown

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
#: Runs that are read from the repository wherever `home` points.
RESERVED = {"sample"}


def source_root() -> Path:
    """The repository: where notebooks, params and the library stand."""
    return Path(__file__).resolve().parents[2]


def home() -> Path:
    """The folder that holds `data/` and `reports/`: `ARENA10K_HOME`, else the repository."""
    return Path(os.environ.get("ARENA10K_HOME") or source_root()).resolve()


def check_run_name(name: str, what: str = "run name") -> str:
    """Return `name`; raises ArenaError, saying `what` it names, for one with separators, a leading dot, or over 64
    characters: a run never writes outside its folder."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name:
        raise ArenaError(
            f"{what} {str(name)[:80]!r}: use 1-64 letters, digits, '_', '-' or '.', starting with a letter or digit"
        )
    return name


def params_file(name: str | Path) -> Path:
    """The params file for a name (`local`), a file name (`local.yaml`) or a path (`params/local.yaml`).

    A path starts at the working directory, else at the folder with `data/`, else at the repository; a name is looked
    for in the folder `params` of each as well. Raises ArenaError with the path as it was given, and the folders in
    which it was looked for.
    """
    file = Path(name) if Path(name).suffix else Path(name).with_suffix(".yaml")
    roots = list(dict.fromkeys([Path.cwd(), home(), source_root()]))
    for candidate in [*(root / file for root in roots), *(root / "params" / file.name for root in roots)]:
        if candidate.is_file():
            return candidate.resolve()
    stems = dict.fromkeys(p.stem for root in roots for p in sorted((root / "params").glob("*.yaml")))
    error = unknown("params file", name, stems, most=len(str(name)))
    if str(name) in made_runs():
        error = ArenaError(f"{error}; data/{name} is there: name the params it was made with, and {name!r} as the run")
    elif not file.is_absolute():
        looked = ", ".join(map(str, roots))
        error = ArenaError(f"{error}; looked for {file} in {looked}, and for {file.name} in their folders params")
    raise error


def shown(path: Path) -> str:
    """A path as pages and stages name it: from the folder with `data/` or the repository where it is in one of them."""
    root = next((root for root in (home(), source_root()) if path.is_relative_to(root)), None)
    return str(path.relative_to(root) if root else path)


def data_dir(run: str) -> Path:
    """`data/<run>`; the committed sample is read from the repository wherever `home` points."""
    root = source_root() if run in RESERVED else home()
    return root / "data" / check_run_name(run)


def reports_dir(run: str) -> Path:
    return home() / "reports" / check_run_name(run)


def _in_data_dir(name: str) -> Callable[[str], Path]:
    return lambda run: data_dir(run) / name


store_file = _in_data_dir("store.sqlite")
#: The Parquet export of the store; for a recording such as the sample, the only form there is.
records_file = _in_data_dir("records.parquet")
prompts_file = _in_data_dir("prompts.parquet")
#: What an import took and what it did not, for a run whose records others made.
import_file = _in_data_dir("import.json")
snapshots_dir = _in_data_dir("snapshots")
server_log = _in_data_dir("local_server.log")


def recorded_file(run: str) -> Path:
    """The records of a recording. Raises ArenaError where they are not there."""
    if not records_file(run).is_file():
        raise ArenaError(f"run {run!r} is a recording without records.parquet")
    return records_file(run)


def made_runs() -> list[str]:
    """The runs that are there: names of the data folders with prompts, the sample first."""
    made = {path.parent.name for path in (home() / "data").glob("*/prompts.parquet")}
    return [*sorted(RESERVED), *sorted(made - RESERVED)]


def notebook(stage: str) -> Path:
    return source_root() / "notebooks" / f"{stage}.ipynb"


def result_file(run: str, name: str) -> Path:
    """A machine-readable result such as `estimates.json`."""
    return reports_dir(run) / name
