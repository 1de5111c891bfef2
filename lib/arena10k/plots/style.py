"""The one style of all figures: colours that survive colour blindness, shapes that survive a grey printer."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from arena10k.report.display import COLOURS, Drawn

if TYPE_CHECKING:
    from matplotlib.image import AxesImage
    from matplotlib.typing import LineStyleType

T = TypeVar("T")
P = ParamSpec("P")

#: Inches; at 96 pixels per inch the width of a report's text column, and of a phone's.
WIDTH, NARROW = 7.6, 3.5
#: What is a headline, and all that is no policy, has the accent or is grey.
INK, SOFT, GRID, BAND, ACCENT, BAD = "#1b2126", "#56616b", "#dfe3e4", "#dceee6", "#0b5a75", "#9c1f2e"
#: Zero is paper.
SHADES = LinearSegmentedColormap.from_list("shades", ["white", ACCENT])
_MARKERS = "osD^vPX*"
#: Lines only: dots and circles make an SVG ten times as large.
_HATCHES = ("", "///", "\\\\\\", "xxx", "|||", "---", "+++", "//")
_LINES: Sequence[LineStyleType] = "-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 2, 1, 2))
#: Points of a panel, beyond which a PNG is smaller than an SVG.
MANY = 300
_policies: list[str] = []
_width = ContextVar("width", default=WIDTH)

#: Leaves matplotlib's settings as they were.
_style = rc_context(
    {
        **sns.axes_style("ticks"),
        **sns.plotting_context("notebook"),
        **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), SOFT),
        **dict.fromkeys(("axes.labelcolor", "text.color", "xtick.labelcolor", "ytick.labelcolor"), INK),
        **dict.fromkeys(("axes.facecolor", "figure.facecolor", "patch.edgecolor", "hatch.color"), "white"),
        **dict.fromkeys(("axes.linewidth", "grid.linewidth", "xtick.major.width", "ytick.major.width"), 0.8),
        **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
        **dict.fromkeys(("axes.labelsize", "figure.labelsize", "legend.title_fontsize"), 10),
        **dict.fromkeys(("font.size", "xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 9),
        "font.family": ["DejaVu Sans"],
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.axisbelow": True,
        "grid.color": GRID,
        "hatch.linewidth": 0.6,
        # Model names may hold a dollar sign; text is never mathematics here.
        "text.parse_math": False,
    }
)


def styled(draw: Callable[P, Drawn]) -> Callable[P, Drawn]:
    """Draw in the project's style, once for a page and once for a phone; matplotlib's settings stay as they were."""

    once = _style(draw)

    @wraps(draw)
    def both(*args: P.args, **options: P.kwargs) -> Drawn:
        wide, token = once(*args, **options), _width.set(NARROW)
        try:
            return replace(wide, narrow=once(*args, **options).figure)
        finally:
            _width.reset(token)

    return both


def is_narrow() -> bool:
    """Whether what is drawn is for a phone: little room beside it, much below."""
    return _width.get() == NARROW


def colour(policies: Iterable[str]) -> None:
    """From here on each of a run's policies, the logging policy first, has the look of its place in every figure."""
    _policies[:] = policies


@dataclass(frozen=True)
class Look:
    """How one series is drawn, told apart by colour and by one of marker, hatch or line."""

    colour: str
    marker: str
    hatch: str
    line: LineStyleType


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look per name: of a policy that which `colour` gave it, else by order. After eight, the looks repeat with
    shifted shapes."""
    shown, names = {}, list(dict.fromkeys(names))
    known = _policies if set(names) & set(_policies) else []
    for name in names:
        i = [*known, *(other for other in names if other not in known)].index(name)
        shape = (i + i // 8) % 8
        shown[name] = Look(COLOURS[i % 8], _MARKERS[shape], _HATCHES[shape], _LINES[shape])
    return shown


def verdict_mark(verdict: str, marker: str = "o", size: float = 7) -> dict[str, Any]:
    """Options of a mark that is filled as its verdict says: full, half, hollow."""
    fill = {"CAUTION": "left", "REFUSE": "none"}.get(verdict, "full")
    return {"marker": marker, "markersize": size, "fillstyle": fill, "markerfacecoloralt": "white"}


def contrast(one: Any, other: Any) -> float:
    """Contrast of two of matplotlib's colours, 1 to 21 (WCAG 2.1)."""
    parts = np.array([to_rgb(one), to_rgb(other)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    dark, light = sorted(linear @ (0.2126, 0.7152, 0.0722))
    return float((light + 0.05) / (dark + 0.05))


def panels(n: int, columns: int, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure with `n` axes in rows of `columns`, on a phone below each other, each row `height` inches."""
    columns = 1 if is_narrow() else min(columns, max(n, 1))
    rows = -(-max(n, 1) // columns)
    # Not through pyplot: no global list of open figures, and no second display in a notebook.
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06)
    figure = Figure(figsize=(_width.get(), round(rows * height, 2)), layout=layout)
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for spare in axes[n:]:
        spare.remove()
    return figure, axes[:n]


def gallery(
    items: Mapping[str, T], columns: int, height: float, across: str = "", up: str = "", **options: Any
) -> tuple[Figure, list[tuple[Axes, str, T, Look]]]:
    """`panels` with one panel, its name and a look for each of the items; words for all axes `across` and `up`."""
    figure, axes = panels(len(items), columns, height, **options)
    for words, place in ((across, figure.supxlabel), (up, figure.supylabel)):
        if words:
            place(folded(words, 42))
    for axis, name in zip(axes, items, strict=True):
        axis.set_title(name)
    return figure, list(zip(axes, items, items.values(), looks(items).values(), strict=True))


def note(axis: Axes, words: str) -> None:
    """One or more lines between a panel and its name."""
    axis.set_title(axis.get_title(loc="left"), pad=18.5 + 12.5 * words.count("\n"))
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom"}
    axis.annotate(words, (0, 1), (0, 4), color=SOFT, linespacing=1.25, **place)


def empty(axis: Axes, why: str) -> None:
    """A panel that says why there is nothing in it."""
    axis.text(0.5, 0.5, why, ha="center", va="center", color=SOFT, fontsize=10, transform=axis.transAxes)
    axis.set_axis_off()


def beside(axis: Axes, at: float, words: str, x: float = 1.0, **options: Any) -> None:
    """Words at a value of the upright axis, ending (or, with `ha`, beginning) at a share of the axis's width."""
    axis.text(x, at, words, transform=axis.get_yaxis_transform(), va="center", **{"ha": "right"} | options)


def folded(words: str, width: int) -> str:
    """The words in lines of so many characters, where there is little room."""
    return "\n".join(textwrap.wrap(words, width, break_long_words=False)) if is_narrow() else words


def key(axis: Axes, columns: int = 2) -> None:
    """The legend of a figure's only axes, beside them or, on a phone, below."""
    if is_narrow():
        axis.figure.legend(*axis.get_legend_handles_labels(), loc="outside lower left", ncols=columns)
    else:
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=3)


def name_rows(axis: Axes, names: Iterable[str]) -> None:
    """Names of rows at 0, 1, ... from the top down."""
    names = [folded(name, 20) for name in names]
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)


def cells(axis: Axes, values: pd.DataFrame, words: pd.DataFrame, **colours: Any) -> AxesImage:
    """A heat map of `values` with `words` in each cell, black or white, whichever is read better on its colour: a
    contrast of at least 4.5 on any."""
    image = axis.imshow(values, aspect="auto", **colours)
    for (i, j), value in np.ndenumerate(values.to_numpy(float)):
        ground = tuple(image.to_rgba(np.array([value]))[0])
        ink = max(("black", "white"), key=lambda ink: contrast(ink, ground)) if np.isfinite(value) else SOFT
        axis.text(j, i, words.iat[i, j], ha="center", va="center", fontsize=9, color=ink)
    tilt: dict[str, Any] = {"rotation": 45, "ha": "right"} if values.shape[1] > 6 or is_narrow() else {}
    axis.set_xticks(range(values.shape[1]), list(values.columns), **tilt)
    axis.set_yticks(range(values.shape[0]), [folded(str(name), 15) for name in values.index])
    axis.tick_params(length=0)
    return image


def drawn(figure: Figure, finding: str, what: str, *details: str, kind: str = "svg") -> Drawn:
    """The figure with its alt text: `what` it is, the finding, and details that say something, each a sentence."""
    return Drawn(figure, finding, " ".join(f"{part}." for part in (what, finding, *details) if part), kind)
