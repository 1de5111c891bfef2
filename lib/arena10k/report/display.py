"""Figures, sentences and tables in a notebook, the same bytes on every run. Whatever a model wrote is shown, never
interpreted."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from arena10k.estimation.verdicts import NOT_ASKED
from arena10k.wording import MISSING, VERDICT_WORDS, VERDICTS, format_number, format_value, is_missing, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Of policies: those of Okabe and Ito, then two of Tol; what had under 3:1 against white (WCAG 1.4.11) is darkened.
COLOURS = ("#0173b2", "#ca8205", "#029e73", "#cb74ba", "#d55e00", "#882255", "#332288", "#1d99e0")
#: CSS pixels per inch; PNGs have twice as many, for screens of high resolution.
CSS_DPI = 96
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_COMMENT = re.compile(r"<!--.*?--> ?")
_REFERENCE = re.compile(r'(href="#|url\(#)([^")]+)')
#: Scales of glyphs multiply thousands and are left as they are.
_FLOAT = re.compile(r"scale\([^)]*\)|-?\d+\.\d{2,}")
#: In a data address that is text, which compresses better than base64 and shows what changed.
_QUOTED = {"%": "%25", '"': "'", **{char: f"%{ord(char):X}" for char in "#&<>"}}


@dataclass(frozen=True)
class Drawn:
    """A figure of matplotlib that displays itself.

    `finding` is its title, the sentence, without its full stop, that the data bear out; `alt` says in words what it
    shows, for those who cannot see it (ValueError where it is empty); `kind` is ``svg`` for lines and bars or ``png``
    for thousands of points (ValueError for another); `caption` is plain text under it; `narrow` the same for phones.
    """

    figure: Figure
    finding: str
    alt: str
    kind: str = "svg"
    caption: str = ""
    narrow: Figure | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.alt, str) or not self.alt.strip():
            raise ValueError("alt: say in words what the figure shows")
        if self.kind not in ("svg", "png"):
            raise ValueError(f"kind {self.kind!r}: use 'svg' or 'png'")

    def with_caption(self, caption: str) -> Drawn:
        """The same with a sentence under it."""
        return replace(self, caption=caption)

    def __repr__(self) -> str:
        return "\n".join(map(visible, filter(None, (f"[Figure: {self.alt.strip()}]", self.caption))))

    def _repr_html_(self) -> str:
        # The page's style chooses between the two; Jupyter shows the first.
        images = self._image(self.figure, "wide" if self.narrow else "")
        if self.narrow:
            images += self._image(self.narrow, "narrow").replace("<img", '<img style="display:none"', 1)
        title = f"<figcaption><strong>{escape(visible(self.finding))}</strong></figcaption>" if self.finding else ""
        note = f'<p class="note">{escape(visible(self.caption))}</p>' if self.caption else ""
        # White behind the figure: its ink is dark in every theme of Jupyter and of the report.
        return f'<figure>{title}<div class="plate" style="background:#fff">{images}</div>{note}</figure>'

    def _image(self, figure: Figure, name: str) -> str:
        if self.kind == "svg":
            source = f"data:image/svg+xml,{svg_text(figure)}"
            for char, quoted in _QUOTED.items():  # many times as fast as `translate`
                source = source.replace(char, quoted)
        else:
            source = f"data:image/png;base64,{base64.b64encode(_png(figure)).decode('ascii')}"
        width, height = (round(inches * CSS_DPI) for inches in figure.get_size_inches())
        words = escape(visible(" ".join(self.alt.split())))
        return f'<img{_class(name)} src="{source}" alt="{words}" width="{width}" height="{height}">'


def _png(fig: Figure) -> bytes:
    """A figure as PNG for screens of twice the density, in 128 colours: a quarter of the size of all of them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas, reduced, dpi = FigureCanvasAgg(fig), io.BytesIO(), fig.dpi
    fig.set_facecolor("white")
    fig.dpi = 2 * CSS_DPI
    canvas.draw()
    fig.dpi = dpi
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    pixels.quantize(128, Image.Quantize.FASTOCTREE).save(reduced, format="png", optimize=True)
    return reduced.getvalue()


@lru_cache(4096)
def _shortened(number: str) -> str:
    return number if number.startswith("scale") else f"{round(float(number), 1) + 0.0:g}"


def svg_text(fig: Figure) -> str:
    """A figure as SVG in few characters, in which nothing depends on the last digit of its layout or on chance:
    coordinates to 0.1 pt, ids by the order in which they are used, and none that nothing uses."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    canvas, stream, dpi = FigureCanvasSVG(fig), io.StringIO(), fig.dpi
    fig.set_facecolor("white")
    with rc_context({"svg.fonttype": "path"}):
        if layout := fig.get_layout_engine():
            layout.execute(fig)
            fig.set_layout_engine("none")
        fig.dpi = dpi  # of images in it; layout and canvas leave their own
        canvas.print_svg(stream, metadata=_NO_METADATA)  # `savefig` draws everything twice
        fig.dpi = dpi
    svg = _COMMENT.sub("", " ".join(stream.getvalue().split()))
    svg = _FLOAT.sub(lambda match: _shortened(match[0]), svg[svg.index("<svg") :].replace("xlink:href", "href"))
    ids = {name: f"i{n:x}" for n, name in enumerate(dict.fromkeys(name for _, name in _REFERENCE.findall(svg)))}
    svg = _REFERENCE.sub(lambda match: match[1] + ids[match[2]], svg)
    svg = re.sub(r' id="([^"]+)"', lambda match: f' id="{ids[match[1]]}"' if match[1] in ids else "", svg)
    svg = re.sub(r'(<use [^>]*)transform="translate\((\S+) 0\)"', r'\1x="\2"', svg)
    # Between a letter of a path and a number no space is needed.
    svg = re.sub(r' d="[^"]*"', lambda match: ' d="' + re.sub(" ?([A-Za-z]) ?", r"\1", match[0][4:]), svg)
    return svg.replace("> <", "><")


_NUMBER = re.compile(r"-?[\d,]+(\.\d+)?(e[-+]\d+)?%?")
#: What Markdown reads as markup anywhere in a line, or at its beginning. Underscores inside words are left alone, so
#: that policy names stay as they are in code spans.
_ANYWHERE = re.compile(r"[\\`*\[\]()|~$^]|(?<!\w)_|_(?!\w)|(?<=\w):(?=//)|@|#")
_AT_START = re.compile(r"^(?=[-+=])|^(\d+)(?=[.)])")


def say(sentence: str, **values: Any) -> None:
    """Display a computed sentence as Markdown in which HTML is inert.

    With `values`, the sentence is a template (`say("**{policy}** ranks {rank} of {n}.", policy=..., rank=2, n=5)`):
    numbers are written as in tables, and whatever is put in, such as text a model wrote, stays plain text.
    Without `values` the sentence is taken as it stands: its Markdown counts, its HTML does not.
    """
    from IPython.display import display

    markdown, text = escape(visible(sentence), quote=False), sentence
    if values:
        written = {name: format_value(value) for name, value in values.items()}
        markdown = markdown.format(**{name: _literal(value) for name, value in written.items()})
        text = sentence.format(**written)
    display({"text/markdown": markdown, "text/plain": visible(text)}, raw=True)


def _literal(value: str) -> str:
    """The text as Markdown that shows it as it is."""
    text = " ".join(value.split())
    if _NUMBER.fullmatch(text):
        return text
    text = _ANYWHERE.sub(lambda match: "\\" + match[0], escape(text, quote=False))
    return _AT_START.sub(lambda match: match[0] + "\\", text)


#: Columns that hold the number a verdict is about; struck through where the verdict is REFUSE.
STRUCK = ("value", "se", "ci_low", "ci_high", "interval")
#: The classes of a table that a page lets its reader search.
SEARCHABLE = "dataframe arena searchable"
_NO_ROWS = "No rows."
#: Characters of a long text that a cell shows.
_LIMIT = 400
Format = str | Callable[[Any], str]


def badge(verdict: str) -> str:
    """The HTML of a verdict mark: its word, never colour alone."""
    word = VERDICT_WORDS.get(verdict, str(verdict))
    return f'<span class="badge {word.lower() if word in VERDICTS else "other"}">{escape(visible(word))}</span>'


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


_UNASKED = f"<td>{badge(NOT_ASKED)}</td>"


@dataclass(frozen=True)
class _Column:
    """The cells of a column as text, and which are struck through; `kind` is `num`, `text`, `verdict` or empty."""

    label: str
    kind: str
    cells: list[str]
    struck: list[bool]

    def plain(self) -> list[str]:
        """Label and cells as aligned text."""
        cells = [f"~~{cell}~~" if struck else cell for cell, struck in zip(self.cells, self.struck, strict=True)]
        lines = [self.label, *(" ".join(cell.split()) for cell in cells)]
        width = max(map(len, lines))
        return [line.rjust(width) if self.kind == "num" else line.ljust(width) for line in lines]

    def html(self) -> list[str]:
        if self.kind == "verdict":
            return ["<td>—</td>" if cell == MISSING else f"<td>{badge(cell)}</td>" for cell in self.cells]
        direction = ' dir="auto"' if self.kind == "text" else ""
        inner = [f"<s>{escape(c)}</s>" if s else escape(c) for c, s in zip(self.cells, self.struck, strict=True)]
        return [f"<td{_class(self.kind)}{direction}>{cell}</td>" for cell in inner]


@dataclass(frozen=True)
class Table:
    """A frame that displays itself: escaped HTML in Jupyter and in reports, aligned plain text elsewhere."""

    columns: list[_Column]
    caption: str = ""
    note: str = ""
    searchable: bool = False

    def __repr__(self) -> str:
        lines = ["  ".join(line).rstrip() for line in zip(*(c.plain() for c in self.columns), strict=True)]
        return "\n".join(filter(None, [self.caption, *lines, _NO_ROWS if len(lines) < 2 else "", self.note]))

    def _repr_html_(self) -> str:
        head = "".join(
            f'<th scope="col"{_class("num" if c.kind == "num" else "")}>{escape(c.label)}</th>' for c in self.columns
        )
        rows = zip(*(column.html() for column in self.columns), strict=True)
        body = "\n".join(f"<tr{_class('unasked' if _UNASKED in row else '')}>{''.join(row)}</tr>" for row in rows)
        body = body or f'<tr><td colspan="{len(self.columns)}">{_NO_ROWS}</td></tr>'
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        note = f'<p class="note">{escape(self.note)}</p>' if self.note else ""
        return (
            f'<table class="{SEARCHABLE if self.searchable else "dataframe arena"}">{caption}\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>{note}"
        )


@dataclass(frozen=True)
class Folded:
    """Tables and figures behind a summary line, which opens them on a page; plain text has only the line."""

    summary: str
    content: Sequence[Table | Drawn]

    def __init__(self, summary: str, *content: Table | Drawn):
        object.__setattr__(self, "summary", summary)
        object.__setattr__(self, "content", content)

    def __repr__(self) -> str:
        return self.summary

    def _repr_html_(self) -> str:
        inner = "\n".join(part._repr_html_() for part in self.content)
        return f"<details><summary>{escape(visible(self.summary))}</summary>{inner}</details>"


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
    """A table of a frame, whose index is not shown, or of a list of rows.

    `columns` says which columns in which order; a mapping also renames them for the reader. `formats` has per column a
    format spec such as ``".1%"`` or a function of the value; otherwise integers (and float columns that hold only whole
    numbers) get thousands separators, other numbers three decimals, missing values a dash. Columns of long `text` keep
    their line breaks and are cut; those of `strike` are struck through on a row whose `verdict` is REFUSE. Of more than
    `max_rows` it says how many are left out. On a page, a `searchable` table has a search field.
    """
    frame = frame if isinstance(frame, pd.DataFrame) else pd.DataFrame(list(frame))
    if not isinstance(columns, Mapping):
        columns = {c: str(c).replace("_", " ") for c in columns or frame.columns}
    if frame.empty:
        frame = frame.reindex(columns=list(columns))
    rows = frame if max_rows is None else frame.head(max_rows)
    refused = rows.verdict.eq("REFUSE").to_numpy(bool) if "verdict" in rows else np.zeros(len(rows), bool)
    long, strike, made = set(text), set(strike), []
    for name, label in columns.items():
        kind, write = _writer(name, rows[name], (formats or {}).get(name), name in long)
        struck = refused & rows[name].notna().to_numpy() if name in strike else np.zeros(len(rows), bool)
        made.append(_Column(visible(label), kind, [write(value) for value in rows[name]], struck.tolist()))
    left = len(frame) - len(rows)
    return Table(made, caption, f"{left:,} more rows." if left else "", searchable)


def text_table(frame: pd.DataFrame | Iterable[Mapping[str, Any]], **options: Any) -> Table:
    """As `table`, for frames that hold prompts and responses: those columns are laid out as long text."""
    frame = frame if isinstance(frame, pd.DataFrame) else pd.DataFrame(list(frame))
    texts = [c for c in frame.columns if str(c).split("_")[0] in ("prompt", "response", "answer", "text")]
    texts = [c for c in texts if c != "prompt_id" and pd.api.types.is_string_dtype(frame[c])]
    return table(frame, text=texts, **options)


def _writer(name: str, column: pd.Series, spec: Format | None, is_text: bool) -> tuple[str, Callable[[Any], str]]:
    """The kind of a column and the function from value to text."""
    if "verdict" in str(name):
        return "verdict" if name == "verdict" else "", lambda value: VERDICT_WORDS.get(value, format_value(value))
    if is_text:
        return "text", lambda value: _cut(format_value(value))
    # Also of an object column in which None stands for missing; booleans are words.
    numeric = pd.api.types.infer_dtype(column, skipna=True) in ("integer", "floating", "mixed-integer-float")
    kind = "num" if numeric and len(column) else ""
    if callable(spec):
        return kind, lambda value: format_value(None if is_missing(value) else spec(value))
    if not numeric:
        return kind, format_value
    # Counts that became floats beside a missing value are whole; zeros and ones stay a measurement.
    finite = column.dropna().to_numpy(float)
    finite = finite[np.isfinite(finite)]
    whole = spec is None and (finite == np.floor(finite)).all() and np.abs(finite).max(initial=0.0) > 1
    return kind, lambda value: format_number(value, ",.0f" if whole else spec)


def _cut(text: str) -> str:
    return text if len(text) <= _LIMIT else f"{text[:_LIMIT].rstrip()} … ({len(text) - _LIMIT:,} more characters)"
