"""The command and the notebooks of stages in this process: a start of Python and of a kernel takes seconds each."""

from __future__ import annotations

import json
from types import SimpleNamespace

from click.testing import CliRunner
from IPython.display import display

from arena10k import paths
from arena10k.cli import main


def arena(*words, answer=None):
    """`arena10k` with these words, its question answered: its exit code, and what it said on both ways out."""
    done = CliRunner().invoke(main, list(map(str, words)), input=answer, prog_name="python -m arena10k")
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return SimpleNamespace(returncode=done.exit_code, stdout=done.stdout, stderr=done.stderr)


def run_cells(stage, params_file, run_name="", before=None, **told):
    """The code of a stage's notebook, cell by cell, with these parameters; `before` is run after them."""
    names = {"display": display}
    for cell in (c for c in json.loads(paths.notebook(stage).read_text())["cells"] if c["cell_type"] == "code"):
        exec("".join(cell["source"]), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            names |= {"params_file": str(params_file), "run_name": run_name, **told}
            if before:
                before()
