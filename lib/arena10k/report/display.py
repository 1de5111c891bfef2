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
_REFERENCE = re.compile(r'(href="#|url\(#)([^")]+)')
_ID = re.compile(r' id="([^"]+)"')
#: Scales of glyphs multiply thousands and are left as they are.
_FLOAT = re.compile(r"scale\([^)]*\)|-?\d+\.\d{2,}")
_COMMENT = re.compile(r"\s*<!--.*?-->", re.DOTALL)


@dataclass(frozen=True)
class Drawn:
    """A figure that displays itself, with its finding (its title) and its text alternative.

    Parameters
    ----------
    figure : matplotlib's own, to save or change.
    finding : the sentence, without its full stop, that the data bear out.
    alt : what the figure shows, in words, for those who cannot see it.
    kind : ``svg`` for lines and bars, ``png`` (twice the screen's resolution) for thousands of points.
    caption : a sentence under the figure, as plain text.

    Raises
    ------
    ValueError
        For an empty `alt` or another `kind`.
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
        source = _svg_address(svg_text(self.figure)) if self.kind == "svg" else _png_address(self.figure)
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

    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "path"}):
        fig.savefig(stream, format="svg", metadata=_NO_METADATA, facecolor="white")
    svg = stream.getvalue()
    svg = _FLOAT.sub(_rounded, _COMMENT.sub("", svg[svg.index("<svg") :]).replace("xlink:href", "href"))
    names = {name: f"i{n:x}" for n, name in enumerate(dict.fromkeys(name for _, name in _REFERENCE.findall(svg)))}
    svg = _REFERENCE.sub(lambda found: found[1] + names[found[2]], svg)
    svg = _ID.sub(lambda found: f' id="{names[found[1]]}"' if found[1] in names else "", svg)
    svg = re.sub(r'(<use [^>]*)transform="translate\((\S+) 0\)"', r'\1x="\2"', svg)
    return re.sub(r"\s+", " ", svg).replace("> <", "><").strip()


def _rounded(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith("scale") else f"{round(float(found[0]), 1) + 0.0:g}"


def _svg_address(svg: str) -> str:
    """The picture as a data address: text, which compresses better than base64 and shows what changed."""
    text = svg.replace('"', "'")
    for char in "%#&<>":
        text = text.replace(char, f"%{ord(char):X}")
    return f"data:image/svg+xml,{text}"


def _png_address(fig: Figure) -> str:
    stream = io.BytesIO()
    fig.savefig(stream, format="png", dpi=2 * CSS_DPI, metadata={"Software": None}, facecolor="white")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


#: What Markdown reads as markup anywhere in a line, or at its beginning. Underscores inside words are left alone, so
#: that policy names stay as they are in code spans.
_ANYWHERE = re.compile(r"[\\`*\[\]()|~$^]|(?<!\w)_|_(?!\w)|(?<=\w):(?=//)|@|#")
_NUMBER = re.compile(r"-?[\d,]+(\.\d+)?(e[-+]\d+)?%?")
_AT_START = re.compile(r"^(?=[-+=])|^(\d+)(?=[.)])")


def say(sentence: str, **values: Any) -> None:
    """Display a computed sentence as Markdown in which HTML is inert.

    With `values`, the sentence is a template (`say("**{policy}** ranks {rank} of {n}.", policy=..., rank=2, n=5)`):
    numbers are written as in tables, and whatever is put in, such as text a model wrote, stays plain text.
    Without `values` the sentence is taken as it stands: its Markdown counts, its HTML does not.
    """
    from IPython.display import display

    markdown = sentence_markdown(sentence, **values)
    plain = sentence.format(**{k: format_value(v) for k, v in values.items()}) if values else sentence
    display({"text/markdown": markdown, "text/plain": visible(plain)}, raw=True)


def sentence_markdown(sentence: str, **values: Any) -> str:
    """The Markdown that `say` displays."""
    template = escape(visible(sentence), quote=False)
    return template.format(**{k: _literal(v) for k, v in values.items()}) if values else template


def _literal(value: Any) -> str:
    text = " ".join(format_value(value).split())
    if _NUMBER.fullmatch(text):
        return text
    text = _ANYWHERE.sub(lambda m: "\\" + m.group(), escape(text, quote=False))
    return _AT_START.sub(lambda m: f"{m.group()}\\", text)
