"""Figures and sentences in a notebook, the same bytes on every run."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any

from arena10k.wording import format_value, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: CSS pixels per inch; PNGs have twice as many, for screens of high resolution.
CSS_DPI = 96
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_COMMENT = re.compile(r"\s*<!--.*?-->", re.DOTALL)
_REFERENCE = re.compile(r'(href="#|url\(#)([^")]+)')
#: Scales of glyphs multiply thousands and are left as they are.
_FLOAT = re.compile(r"scale\([^)]*\)|-?\d+\.\d{2,}")
#: In a data address that is text, which compresses better than base64 and shows what changed.
_QUOTED = str.maketrans({'"': "'"} | {char: f"%{ord(char):X}" for char in "%#&<>"})


@dataclass(frozen=True)
class Drawn:
    """A figure of matplotlib that displays itself.

    `finding` is its title, the sentence, without its full stop, that the data bear out; `alt` says in words what it
    shows, for those who cannot see it (ValueError where it is empty); `kind` is ``svg`` for lines and bars or ``png``
    for thousands of points (ValueError for another); `caption` is plain text under it.
    """

    figure: Figure
    finding: str
    alt: str
    kind: str = "svg"
    caption: str = ""

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
        if self.kind == "svg":
            source = f"data:image/svg+xml,{svg_text(self.figure).translate(_QUOTED)}"
        else:
            stream = io.BytesIO()
            self.figure.savefig(stream, format="png", dpi=2 * CSS_DPI, metadata={"Software": None}, facecolor="white")
            source = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
        width, height = (round(inches * CSS_DPI) for inches in self.figure.get_size_inches())
        words = escape(visible(" ".join(self.alt.split())))
        image = f'<img src="{source}" alt="{words}" width="{width}" height="{height}">'
        legend = f"<figcaption>{escape(visible(self.caption))}</figcaption>" if self.caption else ""
        # White behind the figure: its ink is dark in every theme of Jupyter and of the report.
        return f'<figure><div class="plate" style="background:#fff">{image}</div>{legend}</figure>'


def svg_text(fig: Figure) -> str:
    """A figure as SVG in few characters, in which nothing depends on the last digit of its layout or on chance:
    coordinates to 0.1 pt, ids by the order in which they are used, and none that nothing uses."""
    import matplotlib as mpl

    def shortened(match: re.Match[str]) -> str:
        return match[0] if match[0].startswith("scale") else f"{round(float(match[0]), 1) + 0.0:g}"

    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "path"}):
        fig.savefig(stream, format="svg", metadata=_NO_METADATA, facecolor="white")
    svg = stream.getvalue()
    svg = _FLOAT.sub(shortened, _COMMENT.sub("", svg[svg.index("<svg") :]).replace("xlink:href", "href"))
    ids = {name: f"i{n:x}" for n, name in enumerate(dict.fromkeys(name for _, name in _REFERENCE.findall(svg)))}
    svg = _REFERENCE.sub(lambda match: match[1] + ids[match[2]], svg)
    svg = re.sub(r' id="([^"]+)"', lambda match: f' id="{ids[match[1]]}"' if match[1] in ids else "", svg)
    svg = re.sub(r'(<use [^>]*)transform="translate\((\S+) 0\)"', r'\1x="\2"', svg)
    return re.sub(r"\s+", " ", svg).replace("> <", "><").strip()


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
