"""What exploring answers with: sentences, tables and figures that show themselves, escaped in HTML and plain elsewhere.

>>> from arena10k.report import table
>>> print(View(["Two rows."], table([{"policy": "p0", "rows": 2}])))
Two rows.
policy  rows
p0         2
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from html import escape

import pandas as pd

from arena10k.errors import unknown
from arena10k.report import Drawn, Folded, Table, visible

#: By name, what draws a figure.
Figures = Mapping[str, Callable[[], Drawn]]
Part = str | Table | Folded | Drawn


class View:
    """An answer: sentences, each a paragraph of plain text, then `parts` (tables, figures, further sentences) one under
    the other, and figures by name that are drawn when they are asked for."""

    def __init__(self, sentences: Iterable[str], *parts: Part, figures: Figures | None = None):
        self._parts: list[Part] = [*sentences, *parts]
        self._figures = dict(figures or {})

    @property
    def figures(self) -> list[str]:
        """The names that `figure` takes."""
        return list(self._figures)

    def figure(self, name: str) -> Drawn:
        """Draw one of `figures`. Raises ArenaError for another name."""
        if name not in self._figures:
            raise unknown("figure", name, self._figures)
        return self._figures[name]()

    def __repr__(self) -> str:
        more = [f".figure(name) draws {', '.join(self._figures)}"] if self._figures else []
        return "\n".join([*(visible(p) if isinstance(p, str) else repr(p) for p in self._parts), *more])

    def _repr_html_(self) -> str:
        parts = [f"<p>{escape(visible(p))}</p>" if isinstance(p, str) else p._repr_html_() for p in self._parts]
        html = "\n".join(parts)
        # Jupyter sets every table cell flush right, words too; a page has a style of its own and takes this out.
        for cell in ("<td>", '<td class="text" dir="auto">', '<th scope="col">'):
            html = html.replace(cell, f'{cell[:-1]} style="text-align:left">')
        figures = ", ".join(f"<code>{escape(name)}</code>" for name in self._figures)
        return html + (f'<p class="note"><code>.figure(name)</code> draws {figures}</p>' if figures else "")


class Listing(View):
    """An answer that is rows: `frame` has all of them, the table shows the first."""

    def __init__(self, frame: pd.DataFrame, sentences: Iterable[str], *parts: Part, figures: Figures | None = None):
        super().__init__(sentences, *parts, figures=figures)
        self.frame = frame

    def __len__(self) -> int:
        return len(self.frame)
