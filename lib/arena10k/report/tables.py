"""Tables as HTML in which every cell is text: whatever a model wrote is shown, never interpreted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from arena10k.estimation.verdicts import NOT_ASKED
from arena10k.wording import VERDICT_WORDS, VERDICTS, format_number, format_value, is_missing, visible

#: Columns that hold the number a verdict is about; struck through where the verdict is REFUSE.
STRUCK = ("value", "se", "ci_low", "ci_high", "interval")

#: The classes of a table that a page lets its reader search.
SEARCHABLE = "dataframe arena searchable"

#: Characters of a long text that a cell shows.
_LIMIT = 400

#: What stands in place of rows where there is none.
_NO_ROWS = "No rows."

Format = str | Callable[[Any], str]


def badge(verdict: str) -> str:
    """The HTML of a verdict mark: its word, never colour alone."""
    word = VERDICT_WORDS.get(verdict, str(verdict))
    kind = word.lower() if word in VERDICTS else "other"
    return f'<span class="badge {kind}">{escape(visible(word))}</span>'


@dataclass(frozen=True)
class _Cell:
    """One formatted cell: `kind` is `num`, `text`, `verdict` or empty."""

    text: str
    kind: str = ""
    struck: bool = False

    def plain(self) -> str:
        return " ".join((f"~~{self.text}~~" if self.struck else self.text).split())

    def html(self) -> str:
        if self.kind == "verdict":
            return f"<td>{badge(self.text)}</td>"
        inner = escape(self.text)
        direction = ' dir="auto"' if self.kind == "text" else ""
        return f"<td{_class(self.kind)}{direction}>{f'<s>{inner}</s>' if self.struck else inner}</td>"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


@dataclass(frozen=True)
class Table:
    """A frame that displays itself: escaped HTML in Jupyter and in reports, aligned plain text elsewhere."""

    header: list[str]
    rows: list[list[_Cell]]
    caption: str = ""
    note: str = ""
    searchable: bool = False

    def __repr__(self) -> str:
        lines = [self.header, *([cell.plain() for cell in row] for row in self.rows)]
        aligned = []
        for i, column in enumerate(zip(*lines, strict=True)):
            width = max(map(len, column))
            aligned.append([t.rjust(width) if self._numeric(i) else t.ljust(width) for t in column])
        text = ["  ".join(line).rstrip() for line in zip(*aligned, strict=True)]
        return "\n".join(filter(None, [self.caption, *text, "" if self.rows else _NO_ROWS, self.note]))

    def _repr_html_(self) -> str:
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        head = "".join(
            f'<th scope="col"{_class("num" if self._numeric(i) else "")}>{escape(name)}</th>'
            for i, name in enumerate(self.header)
        )
        body = "\n".join(f"<tr{_unasked(row)}>" + "".join(cell.html() for cell in row) + "</tr>" for row in self.rows)
        body = body or f'<tr><td colspan="{len(self.header)}">{_NO_ROWS}</td></tr>'
        note = f'<p class="note">{escape(self.note)}</p>' if self.note else ""
        return (
            f'<table class="{SEARCHABLE if self.searchable else "dataframe arena"}">{caption}\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>{note}"
        )

    def _numeric(self, column: int) -> bool:
        return any(row[column].kind == "num" for row in self.rows)


def _unasked(row: list[_Cell]) -> str:
    """The class of a row of what was not collected."""
    return _class("unasked" if any(c.kind == "verdict" and c.text == VERDICT_WORDS[NOT_ASKED] for c in row) else "")


@dataclass(frozen=True)
class Folded:
    """A table behind a summary line, which opens it on a page; plain text has only the line."""

    summary: str
    content: Table

    def __repr__(self) -> str:
        return self.summary

    def _repr_html_(self) -> str:
        return f"<details><summary>{escape(visible(self.summary))}</summary>{self.content._repr_html_()}</details>"


def table(
    frame: pd.DataFrame | Iterable[Mapping[str, Any]],
    *,
    caption: str = "",
    columns: Mapping[str, str] | Iterable[str] | None = None,
    formats: Mapping[str, Format] | None = None,
    text: Iterable[str] = (),
    strike: Iterable[str] = STRUCK,
    max_rows: int | None = None,
    searchable: bool = False,
) -> Table:
    """A table for notebooks and reports.

    Parameters
    ----------
    frame : a frame or a list of rows. The index is not shown: `reset_index()` what matters.
    columns : which columns, in which order; a mapping also renames them for the reader.
    formats : per column a format spec such as ``".1%"`` or a function of the value; otherwise integers (and float
        columns that hold only whole numbers) get thousands separators, other numbers three decimals, missing values a
        dash.
    text : columns of long text, such as responses: shown with their line breaks, cut after `_LIMIT` characters.
    strike : columns that are struck through on a row whose `verdict` is REFUSE.
    max_rows : show so many rows and say how many are left out.
    searchable : on a page, a search field above the table; where no script runs it is a table like any other.
    """
    frame = frame if isinstance(frame, pd.DataFrame) else pd.DataFrame(list(frame))
    labels = (
        dict(columns)
        if isinstance(columns, Mapping)
        else {c: str(c).replace("_", " ") for c in columns or frame.columns}
    )
    if frame.empty:
        frame = frame.reindex(columns=list(labels))
    shown = frame if max_rows is None else frame.head(max_rows)
    refused = shown.verdict.eq("REFUSE").to_numpy(bool) if "verdict" in shown else np.zeros(len(shown), bool)
    writers = {c: _writer(c, shown[c], (formats or {}).get(c), c in set(text)) for c in labels}
    struck = set(strike)
    rows = [
        [_cell(writers[c], frame_row[i], refused[n] and c in struck) for i, c in enumerate(labels)]
        for n, frame_row in enumerate(zip(*(shown[c] for c in labels), strict=True))
    ]
    left = len(frame) - len(shown)
    note = f"{left:,} more rows." if left else ""
    return Table([visible(label) for label in labels.values()], rows, caption, note, searchable)


def text_table(frame: pd.DataFrame | Iterable[Mapping[str, Any]], **options: Any) -> Table:
    """As `table`, for frames that hold prompts and responses: those columns are laid out as long text."""
    frame = frame if isinstance(frame, pd.DataFrame) else pd.DataFrame(list(frame))
    known = [
        c
        for c in frame.columns
        if str(c).split("_")[0] in ("prompt", "response", "answer", "text") and c != "prompt_id"
    ]
    return table(frame, text=[c for c in known if pd.api.types.is_string_dtype(frame[c])], **options)


Writer = tuple[str, Callable[[Any], str]]


def _writer(name: str, column: pd.Series, spec: Format | None, is_text: bool) -> Writer:
    """How the cells of a column are written: their kind and the function from value to text."""
    if "verdict" in str(name):
        return "verdict" if name == "verdict" else "", lambda value: VERDICT_WORDS.get(value, format_value(value))
    if is_text:
        return "text", lambda value: _cut(format_value(value))
    numeric = _is_numeric(column)
    kind = "num" if numeric else ""
    if callable(spec):
        return kind, lambda value: format_value(None if is_missing(value) else spec(value))
    if numeric:
        whole = spec is None and _is_whole(column)
        return kind, lambda value: format_number(value, spec or (",.0f" if whole else None))
    return kind, format_value


def _cell(writer: Writer, value: Any, struck: bool) -> _Cell:
    kind, write = writer
    absent = is_missing(value)
    return _Cell(write(value), "" if kind == "verdict" and absent else kind, struck and not absent)


def _cut(text: str) -> str:
    return text if len(text) <= _LIMIT else f"{text[:_LIMIT].rstrip()} … ({len(text) - _LIMIT:,} more characters)"


def _is_numeric(column: pd.Series) -> bool:
    """Numbers, also in an object column where None stands for missing; booleans are words."""
    if pd.api.types.is_bool_dtype(column):
        return False
    if pd.api.types.is_numeric_dtype(column):
        return True
    known = [v for v in column if not is_missing(v)]
    return bool(known) and all(
        isinstance(v, int | float | np.integer | np.floating) and not isinstance(v, bool) for v in known
    )


def _is_whole(column: pd.Series) -> bool:
    """Counts that became floats beside a missing value; a column of zeros and ones stays a measurement."""
    known = np.array([float(v) for v in column if not is_missing(v)])
    known = known[np.isfinite(known)]
    if pd.api.types.is_integer_dtype(column):
        return True
    return bool(known.size) and bool((known == np.floor(known)).all()) and bool(np.abs(known).max() > 1)
