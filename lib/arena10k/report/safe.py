"""HTML from a notebook, made fit for a page: known tags and attributes pass, everything else becomes visible text."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from html import escape, unescape
from html.parser import HTMLParser

from arena10k.wording import visible

_VOID = {"br", "hr", "img", "col"}
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_TAGS = frozenset(_VOID | _HEADINGS | {
    "a", "abbr", "b", "bdi", "blockquote", "caption", "cite", "code", "colgroup", "dd", "del", "details", "div", "dl",
    "dt", "em", "figcaption", "figure", "i", "ins", "kbd", "li", "mark", "ol", "p", "pre", "q", "s", "samp", "section",
    "small", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "u",
    "ul", "var",
})  # fmt: skip
_ATTRIBUTES = {
    "abbr", "alt", "class", "colspan", "datetime", "dir", "height", "href", "lang", "open", "rowspan", "scope", "span",
    "src", "start", "title", "width",
}  # fmt: skip
_LINK = re.compile(r"(https?://|mailto:|#|(?![a-z][a-z0-9+.-]*:|//))", re.IGNORECASE)
_IMAGE = re.compile(r"data:image/(?:(?:png|jpeg|gif|webp|svg\+xml);base64,[A-Za-z0-9+/=\s]*|svg\+xml,%3Csvg[^<>\"]*)")
_NO_ALT = "Figure without a description"


@dataclass
class Headings:
    """Collects the headings of a page: the first is the page's title, the others get ids and gapless levels."""

    title: str = ""
    entries: list[tuple[int, str, str]] = field(default_factory=list)

    def level(self, wanted: int) -> int:
        """The level a heading gets: below the title, and at most one deeper than the heading before it."""
        before = self.entries[-1][0] if self.entries else 1
        return min(max(wanted, 2), before + 1, 6)

    def add(self, level: int, text: str) -> str:
        """Note a heading and return its id, unique on the page."""
        base = re.sub(r"\W+", "-", text.lower()).strip("-") or "section"
        taken = {anchor for _, anchor, _ in self.entries}
        anchor = next(a for a in (base, *(f"{base}-{n}" for n in range(2, len(taken) + 3))) if a not in taken)
        self.entries.append((level, anchor, text))
        return anchor


def clean(html: str, headings: Headings | None = None, regions: Counter[str] | None = None) -> str:
    """`html` with known tags and attributes only, properly nested, wide content inside scroll boxes.

    A tag that is not known (`<script>`, `<im_end>`) is shown as the text it is. Images must be inside the page
    and have a text alternative; tables and figures get a scroll box that the keyboard reaches. `regions` counts them
    over a page, so that each has a name of its own ("Table 2").
    """
    cleaner = _Cleaner(headings, Counter() if regions is None else regions)
    cleaner.feed(_PANDAS_STYLE.sub("", html))
    cleaner.close()
    return cleaner.result()


#: pandas puts one such block before each table it displays.
_PANDAS_STYLE = re.compile(r"<style scoped>\s*\.dataframe\b[^<]*</style>")


class _Cleaner(HTMLParser):
    def __init__(self, headings: Headings | None, regions: Counter[str]):
        super().__init__(convert_charrefs=True)
        self._out: list[str] = []
        self._open: list[str] = []
        self._headings, self._regions = headings, regions
        self._heading_from: int | None = None

    def result(self) -> str:
        while self._open:
            self._close()
        return "".join(self._out)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _TAGS:
            self._out.append(escape(self.get_starttag_text() or f"<{tag}>"))
            return
        if tag in _HEADINGS and self._heading_from is None:
            self._heading_from = len(self._out)
        if tag == "table" and "table" not in self._open:
            self._out.append(f'<div class="scroll"{_written(self._region("Table"))}>')
        known = {name: value or "" for name, value in attrs if _allowed(tag, name, value or "")}
        if tag == "img":
            if "src" not in known:
                self._out.append(escape(f"[image left out: {dict(attrs).get('alt') or 'not part of this page'}]"))
                return
            known["alt"] = known.get("alt", "").strip() or _NO_ALT
        if _is_plate(tag, known):
            known |= self._region("Figure")
        self._out.append(f"<{tag}{_written(known)}>")
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag in _TAGS and tag not in _VOID:
            self._close()

    def handle_endtag(self, tag: str) -> None:
        if tag not in _TAGS:
            self._out.append(escape(f"</{tag}>"))
        elif tag in self._open:
            while self._close() != tag:
                pass

    def handle_data(self, data: str) -> None:
        self._out.append(escape(visible(data), quote=False))

    def handle_comment(self, data: str) -> None:
        self._out.append(escape(f"<!--{data}-->"))

    def handle_decl(self, decl: str) -> None:
        self._out.append(escape(f"<!{decl}>"))

    def handle_pi(self, data: str) -> None:
        self._out.append(escape(f"<?{data}>"))

    def unknown_decl(self, data: str) -> None:
        self._out.append(escape(f"<![{data}]>"))

    def _region(self, kind: str) -> dict[str, str]:
        """The attributes of the page's next scroll box of a kind."""
        self._regions[kind] += 1
        return {"role": "region", "aria-label": f"{kind} {self._regions[kind]}", "tabindex": "0"}

    def _close(self) -> str:
        tag = self._open.pop()
        self._out.append(f"</{tag}>")
        if tag == "table" and "table" not in self._open:
            self._out.append("</div>")
        if tag in _HEADINGS and self._heading_from is not None:
            self._finish_heading(tag)
        return tag

    def _finish_heading(self, tag: str) -> None:
        """Replace the heading just written: the first of the page moves into the page's header."""
        parts, self._heading_from = self._out[self._heading_from :], None
        inner = "".join(parts[1:-1])
        text = " ".join(unescape(re.sub(r"<[^>]*>", "", inner)).split())
        del self._out[len(self._out) - len(parts) :]
        if self._headings is None:
            self._out.append(f"<p><strong>{inner}</strong></p>")
        elif not self._headings.title:
            self._headings.title = text
        else:
            level = self._headings.level(int(tag[1]))
            self._out.append(f'<h{level} id="{escape(self._headings.add(level, text))}">{inner}</h{level}>')


def _written(attributes: dict[str, str]) -> str:
    quoted = {name: escape(visible(value), quote=False).replace('"', "&quot;") for name, value in attributes.items()}
    return "".join(f' {name}="{value}"' for name, value in quoted.items())


def _allowed(tag: str, name: str, value: str) -> bool:
    if name == "src":
        return tag == "img" and bool(_IMAGE.fullmatch(value))
    if name == "href":
        return tag == "a" and bool(_LINK.match(value.strip()))
    return name in _ATTRIBUTES


def _is_plate(tag: str, attributes: dict[str, str]) -> bool:
    return tag == "div" and attributes.get("class") == "plate"
