"""A figure as SVG, laid out and drawn with one renderer, in which matplotlib measures the same thing only once."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from itertools import product
from typing import Any, TypeVar

from matplotlib import rc_context
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG, RendererSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import TextToPath

T = TypeVar("T")

_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
#: What an axis is asked again and again.
_MEASURES = ("_update_ticks", "_get_ticklabel_bboxes", "_update_label_position")
_TEXT = TextToPath()
_extent = lru_cache(4096)(_TEXT.get_text_width_height_descent)


@lru_cache(256)
def _height(font: FontProperties) -> tuple[float | None, ...]:
    """Ascent, descent and gap between lines, in points; None where the font does not say: matplotlib then measures."""
    face = get_font(findfont(font))
    table, scale = face.get_sfnt_table("OS/2"), 1 / face.units_per_EM * font.get_size_in_points()
    if table is None:
        return None, None, None
    return table["sTypoAscender"] * scale, -table["sTypoDescender"] * scale, table["sTypoLineGap"] * scale


class _Renderer(RendererSVG):
    """Measures a text once for all figures. Fonts can be changed, so that what is remembered is of a copy."""

    def get_text_width_height_descent(self, s: str, prop: FontProperties, ismath: Any) -> tuple[float, float, float]:
        return _extent(s, prop.copy(), ismath)

    def _get_font_height_metrics(self, prop: FontProperties) -> tuple[float | None, ...]:
        return _height(prop.copy())


def _once(axis: Axis, measure: Callable[..., T]) -> Callable[..., T]:
    """`measure`, called once for each place of the axes: while a figure is laid out and drawn nothing else changes its
    result, for which matplotlib asks a dozen times."""
    known: dict[tuple[float, ...], T] = {}

    def measured(*given: Any) -> T:
        place = tuple(round(points, 6) for points in axis.axes.bbox.bounds)
        if place not in known:
            known.clear()
            known[place] = measure(*given)
        return known[place]

    return measured


def drawn(fig: Figure) -> str:
    """The figure as matplotlib's SVG backend draws it, in one go; `savefig` would draw all of it twice."""
    stream, dpi, (width, height) = io.StringIO(), fig.dpi, 72 * fig.get_size_inches()
    fig.dpi = 72
    fig.set_facecolor("white")
    renderer: Any = _Renderer(width, height, stream, image_dpi=dpi, metadata=_NO_METADATA)  # type: ignore[no-untyped-call]
    renderer._text2path = _TEXT
    # The layout asks the canvas.
    FigureCanvasSVG(fig).get_renderer = lambda: renderer  # type: ignore[attr-defined]
    every = [axis for axes in fig.axes for axis in (axes.xaxis, axes.yaxis)]
    for axis, name in product(every, _MEASURES):
        setattr(axis, name, _once(axis, getattr(axis, name)))
    with rc_context({"svg.fonttype": "path"}):
        if layout := fig.get_layout_engine():
            layout.execute(fig)
            fig.set_layout_engine("none")
        fig.draw(renderer)
    for axis, name in product(every, _MEASURES):
        delattr(axis, name)
    renderer.finalize()
    fig.dpi = dpi
    return stream.getvalue()
