"""Committed notebooks were run as they stand: every cell, once, from top to bottom, without an error; nbval compares
what they say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from nbval.plugin import get_sanitize_patterns

from arena10k import paths
from arena10k.report import Drawn

NOTEBOOKS = sorted((paths.source_root() / "notebooks").glob("*.ipynb"))


def faults(path: Path) -> list[str]:
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    counts = [cell["execution_count"] for cell in cells]
    found = [] if counts == list(range(1, len(cells) + 1)) else [f"executed in the order {counts}"]
    failed = [c["execution_count"] for c in cells if any(out["output_type"] == "error" for out in c["outputs"])]
    return found + [f"cell {n} ends in an error" for n in failed]


def test_notebooks_are_executed_in_order_and_what_is_not_is_found(tmp_path):
    def code(count, *outputs):
        return {"cell_type": "code", "execution_count": count, "outputs": [{"output_type": o} for o in outputs]}

    assert {path.stem: faults(path) for path in NOTEBOOKS if faults(path)} == {}
    book = tmp_path / "book.ipynb"
    book.write_text(json.dumps({"cells": [code(1, "stream"), {"cell_type": "markdown"}, code(3, "error")]}))
    assert faults(book) == ["executed in the order [1, 3]", "cell 3 ends in an error"]


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_of_a_figure_its_words_are_compared_and_its_picture_is_not(kind):
    def compared(heights, alt):
        figure = Figure()
        figure.subplots().bar([0, 1], heights)
        html = Drawn(figure, "", alt, kind)._repr_html_()
        for pattern, constant in get_sanitize_patterns((Path(__file__).parent / "nbval.cfg").read_text()):
            html = re.sub(pattern, constant, html)
        return html

    assert compared([1, 2], "Bars") == compared([2, 1], "Bars")
    assert compared([1, 2], "Bars of 2") != compared([1, 2], "Bars of 3")
