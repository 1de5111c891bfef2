"""Committed notebooks were run as they stand: every cell, once, from top to bottom, without an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from arena10k import paths

NOTEBOOKS = sorted((paths.source_root() / "notebooks").glob("*.ipynb"))


def faults(path: Path) -> list[str]:
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    counts = [cell["execution_count"] for cell in cells]
    found = [] if counts == list(range(1, len(cells) + 1)) else [f"executed in the order {counts}"]
    failed = [c["execution_count"] for c in cells if any(out["output_type"] == "error" for out in c["outputs"])]
    return found + [f"cell {n} ends in an error" for n in failed]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_executed_in_order(path):
    assert faults(path) == []


def test_what_was_run_out_of_order_or_failed_is_found(tmp_path):
    def code(count, *outputs):
        return {"cell_type": "code", "execution_count": count, "outputs": [{"output_type": o} for o in outputs]}

    book = tmp_path / "book.ipynb"
    book.write_text(json.dumps({"cells": [code(1, "stream"), {"cell_type": "markdown"}, code(3, "error")]}))
    assert faults(book) == ["executed in the order [1, 3]", "cell 3 ends in an error"]
