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
        self.parts.append(escape(visible(data), quote=False))

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
