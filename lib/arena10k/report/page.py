"""From an executed notebook to one self-contained page: no request, no script but the search of a long table, readable
on a phone and on paper. Known tags and attributes of its HTML pass, everything else becomes visible text."""

from __future__ import annotations

import ast
import base64
import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from arena10k import __version__
from arena10k.report.display import SEARCHABLE, badge
from arena10k.report.files import write_text
from arena10k.report.glossary import explained
from arena10k.wording import MISSING, format_value, is_missing, rounded, signed, visible

if TYPE_CHECKING:
    import jinja2
    from nbformat import NotebookNode

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"
#: Names for the keys of `provenance`, and for the notebooks' parameters; any other is shown as it is.
_LABELS = {"run": "Run", "stage": "Stage", "created": "Data as of", "revision": "Revision", "version": "Version"}
_CHIPS = {"params_file": "params", "run_name": "run", "snapshot_name": "snapshot", "cell": "ablation"}
_PROGRESS = re.compile(r"\d+%\||\d+it \[|\d+(\.\d+)?\s?(it/s|s/it)|\?it/s")
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def render(
    notebook_path: str | os.PathLike[str],
    html_path: str | os.PathLike[str],
    provenance: Mapping[str, Any] | None = None,
    home: str = "index.html",
    neighbours: Sequence[tuple[str, str] | None] = (None, None),
) -> Path:
    """Write the page of an executed notebook. OSError or nbformat.reader.NotJSONError where it cannot be read.

    `provenance` is shown in the footer: `run` (which also names the way back to the run's index, `home` as seen from
    the page), `stage`, `created`, `revision` or whatever else the caller knows; empty values are left out. `neighbours`
    are address and name of the previous and the next page, where there is one.
    """
    import nbformat

    cells = nbformat.read(notebook_path, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    errors = [f"{output.ename}: {output.evalue}" for output in outputs if output.output_type == "error"]
    html = (
        environment()
        .get_template("page.html.j2")
        .render(
            cells=cells,
            outline=Outline(),
            fallback_title=Path(notebook_path).stem,
            parameters=_parameters(cells),
            provenance=footer_facts(provenance or {}),
            run=(provenance or {}).get("run"),
            number=page_number((provenance or {}).get("stage")),
            home=home,
            neighbours=neighbours,
            error=visible(_ANSI.sub("", errors[0])) if errors else None,
        )
    )
    return write_text(html_path, html)


def page_number(stage: str | None) -> str:
    """By which other pages name the page of a stage; of an ablation, one of many, empty."""
    return "" if stage is None or "@" in stage else stage.split("_")[0]


def _parameters(cells: list[NotebookNode]) -> list[tuple[str, str]]:
    """Name and value of each parameter in effect: the notebook's defaults, overridden by what papermill injected; an
    empty text sets nothing."""
    values: dict[str, str] = {}
    for cell in cells:
        if not {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", ())):
            continue
        try:
            body = ast.parse(cell.source).body
        except SyntaxError:
            continue
        for node in body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                # A text as what it says, a number as it was written: 0.05 is a setting, not a measurement.
                text = getattr(node.value, "value", None)
                value = text if isinstance(text, str) else ast.unparse(node.value)
                values[ast.unparse(target)] = "none" if value == "None" else visible(value)
    return [(_CHIPS.get(name, name), value) for name, value in values.items() if value]


def footer_facts(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Labels and values of what a page says of where it comes from; without what is not known."""
    facts: dict[str, Any] = {"run": None, "version": f"arena10k {__version__}"} | dict(given)
    return [(_LABELS.get(k, k), format_value(v)) for k, v in facts.items() if v not in (None, "")]


@cache
def environment() -> jinja2.Environment:
    """What fills the templates, with what every page carries inside: the style sheet; the icon, so that no browser asks
    a server for one; and the only script that a page may run, by its hash, if it has a table with the marker."""
    import jinja2

    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "search.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    made = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True)
    made.globals["style"] = style
    made.globals["icon"] = _address("image/svg+xml", (TEMPLATES / "icon.svg").read_bytes())
    made.globals["search"] = {
        "script": script,
        "hash": f"sha256-{digest}",
        "marker": f'<table class="{SEARCHABLE}">',
    }
    made.filters["visible"] = visible
    made.filters["badge"] = lambda verdict: Markup(badge(verdict))
    made.filters["signed"] = signed
    made.filters["two"] = lambda x: MISSING if is_missing(x) else rounded(x)
    made.filters["as_code"] = _code
    made.filters["as_image"] = _image
    made.filters["as_log"] = _log
    made.filters["as_text"] = lambda text: visible(_ANSI.sub("", text))
    made.filters["as_markdown"] = _markdown
    made.filters["as_safe_html"] = lambda html, outline: Markup(clean(html, outline))
    return made


def _log(text: str) -> str:
    """Printed text without progress bars; of a line that was overwritten in place, its last state."""
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in _ANSI.sub("", text).split("\n")]
    return visible("\n".join(line for line in lines if not _PROGRESS.search(line)).strip("\n"))


def _markdown(source: str, outline: Outline) -> Markup:
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    renderer = IPythonRenderer(escape=False, exclude_anchor_links=True)
    return Markup(clean(MarkdownWithMath(renderer=renderer).render(source), outline, headings=True))


def _code(source: str) -> Markup:
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return Markup(highlight(source, PythonLexer(), HtmlFormatter(nowrap=True)))


def _image(data: str, mime: str, alt: str, outline: Outline) -> Markup:
    """An image output of any other origin than `Drawn`."""
    address = _address(mime, data.encode() if mime == "image/svg+xml" else base64.b64decode(data))
    image = f'<div class="plate"><img src="{address}" alt="{escape(alt)}"></div>'
    return Markup(clean(f"<figure>{image}</figure>", outline))


def _address(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


_VOID = {"br", "hr", "img", "col"}
#: Where the words of the glossary are explained, and where not, inside these.
_PROSE, _NOT_PROSE = {"p", "li", "figcaption"}, {"a", "code", "pre", "summary", "table", "h1", "h2", "h3", "h4", "abbr"}
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_TAGS = frozenset(_VOID | _HEADINGS | {
    "a", "abbr", "b", "bdi", "blockquote", "caption", "cite", "code", "colgroup", "dd", "del", "details", "div", "dl",
    "dt", "em", "figcaption", "figure", "i", "ins", "kbd", "li", "mark", "ol", "p", "pre", "q", "s", "samp", "section",
    "small", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "u",
    "ul", "var",
})  # fmt: skip
_ATTRIBUTES = {
    "abbr", "alt", "class", "colspan", "datetime", "dir", "height", "lang", "open", "rowspan", "scope", "span", "start",
    "title", "width",
}  # fmt: skip
#: The only attributes that hold addresses, and what they may be: pages of the report and of others, images inside.
_ADDRESSES = {
    ("a", "href"): re.compile(r"(https?://|mailto:|#|(?![a-z][a-z0-9+.-]*:|//)).*", re.IGNORECASE),
    ("img", "src"): re.compile(
        r"data:image/(?:(?:png|jpeg|gif|webp|svg\+xml);base64,[A-Za-z0-9+/=]*|svg\+xml,%3Csvg[^<>\"]*)"
    ),
}
#: pandas puts one such block before each table it displays.
_PANDAS_STYLE = re.compile(r"<style scoped>\s*\.dataframe\b[^<]*</style>")
_COMMENT = re.compile(r"<!--.*?-->|<[!?][^>]*>?", re.DOTALL)


@dataclass
class Outline:
    """What a page has so far: its title (its first heading), level, id and text of its other headings, and how many
    scroll boxes of a kind."""

    title: str = ""
    headings: list[tuple[int, str, str]] = field(default_factory=list)
    regions: Counter[str] = field(default_factory=Counter)
    explained: set[str] = field(default_factory=set)

    def add(self, level: int, text: str) -> tuple[int, str]:
        """Note a heading. Its level, below the title and at most one deeper than the heading before it, and its id."""
        level = min(max(level, 2), (self.headings[-1][0] if self.headings else 1) + 1, 6)
        base = re.sub(r"\W+", "-", text.lower()).strip("-") or "section"
        taken = {anchor for _, anchor, _ in self.headings}
        anchor = next(a for a in (base, *(f"{base}-{n}" for n in range(2, len(taken) + 3))) if a not in taken)
        self.headings.append((level, anchor, text))
        return level, anchor

    def region(self, kind: str) -> str:
        """The attributes of the next scroll box of a kind, which the keyboard reaches by a name of its own."""
        self.regions[kind] += 1
        return f' role="region" aria-label="{kind} {self.regions[kind]}" tabindex="0"'


def clean(html: str, outline: Outline | None = None, headings: bool = False) -> str:
    """`html` with known tags and attributes only, properly nested, tables and figures inside scroll boxes.

    A tag that is not known (`<script>`, `<im_end>`) is shown as the text it is. Images must be inside the page
    and have a text alternative. `headings` enter the `outline` of the page; otherwise they become bold text.
    """
    cleaner = _Cleaner(outline or Outline(), headings)
    cleaner.feed(_COMMENT.sub(lambda match: escape(match[0]), _PANDAS_STYLE.sub("", html)))
    cleaner.close()
    while cleaner.open:
        cleaner.close_tag()
    return "".join(cleaner.parts)


class _Cleaner(HTMLParser):
    def __init__(self, outline: Outline, headings: bool):
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.open: list[str] = []
        self._outline, self._headings = outline, headings
        self._heading_from: int | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _TAGS:
            self.parts.append(escape(self.get_starttag_text() or f"<{tag}>"))
            return
        safe = {name: value or "" for name, value in attrs if _allowed(tag, name, value or "")}
        if tag == "img":
            if "src" not in safe:
                self.parts.append(escape(f"[image left out: {dict(attrs).get('alt') or 'not part of this page'}]"))
                return
            safe["alt"] = safe.get("alt", "").strip() or "Figure without a description"
        if tag in _HEADINGS and self._heading_from is None:
            self._heading_from = len(self.parts)
        if tag == "table" and "table" not in self.open:
            self.parts.append(f'<div class="scroll"{self._outline.region("Table")}>')
        quoted = {k: escape(visible(value), quote=False).replace('"', "&quot;") for k, value in safe.items()}
        written = "".join(f' {name}="{value}"' for name, value in quoted.items())
        region = self._outline.region("Figure") if tag == "div" and safe.get("class") == "plate" else ""
        self.parts.append(f"<{tag}{written}{region}>")
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open[-1:] == [tag]:
            self.close_tag()

    def handle_endtag(self, tag: str) -> None:
        if tag not in _TAGS:
            self.parts.append(escape(f"</{tag}>"))
        elif tag in self.open:
            while self.close_tag() != tag:
                pass

    def handle_data(self, data: str) -> None:
        text = visible(data)
        plain = self.open and _PROSE.intersection(self.open) and not _NOT_PROSE.intersection(self.open)
        self.parts.append(explained(text, self._outline.explained) if plain else escape(text, quote=False))

    def close_tag(self) -> str:
        tag = self.open.pop()
        self.parts.append(f"</{tag}>")
        if tag == "table" and "table" not in self.open:
            self.parts.append("</div>")
        if tag in _HEADINGS and self._heading_from is not None:
            self._finish_heading(tag)
        return tag

    def _finish_heading(self, tag: str) -> None:
        """Replace the heading just written: the first of the page moves into the page's header."""
        inner = "".join(self.parts[self._heading_from :][1:-1])
        text = " ".join(unescape(re.sub(r"<[^>]*>", "", inner)).split())
        del self.parts[self._heading_from :]
        self._heading_from = None
        if not self._headings:
            self.parts.append(f"<p><strong>{inner}</strong></p>")
        elif not self._outline.title:
            self._outline.title = text
        else:
            level, anchor = self._outline.add(int(tag[1]), text)
            self.parts.append(f'<h{level} id="{escape(anchor)}">{inner}</h{level}>')


def _allowed(tag: str, name: str, value: str) -> bool:
    address = _ADDRESSES.get((tag, name))
    # Browsers take white space out of an address before they read its scheme.
    return bool(address.fullmatch("".join(value.split()))) if address else name in _ATTRIBUTES
