"""The one style of all figures: colours that survive colour blindness, shapes that survive a grey printer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import text_to_path

from arena10k.report.display import Drawn

#: Inches; at 96 pixels per inch the width of a report's text column.
WIDTH = 7.6
INK, SOFT, GRID, BAND = "#1b2126", "#56616b", "#dfe3e4", "#dceee6"

#: seaborn's colour-blind palette; what had under 3:1 against white (WCAG 1.4.11) is darkened, its hue kept.
COLOURS = ("#0173b2", "#ca8205", "#029e73", "#cb74ba", "#d55e00", "#c4844e", "#919191", "#1d99e0")
_MARKERS = "osD^vPX*"
#: Lines only: dots and circles make an SVG ten times as large.
_HATCHES = ("", "///", "\\\\\\", "xxx", "|||", "---", "+++", "//")
_LINES: tuple[LineStyleType, ...] = (
    "-",
    "--",
    "-.",
    ":",
    (0, (5, 1)),
    (0, (3, 1, 1, 1)),
    (0, (1, 1)),
    (0, (7, 2, 1, 2)),
)

_TITLE_SIZE = 11.5

#: How a verdict looks: filled, half filled, hollow; the words are in the legend.
VERDICT_FILL: dict[str, FillStyleType] = {"REPORT": "full", "CAUTION": "left", "REFUSE": "none"}
VERDICT_LINE: dict[str, LineStyleType] = {"REPORT": "-", "CAUTION": "-", "REFUSE": ":"}

if TYPE_CHECKING:
    from matplotlib.cm import ScalarMappable
    from matplotlib.typing import ColorType, FillStyleType, LineStyleType, RcKeyType

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Look:
    """How one series is drawn, told apart by colour and by one of marker, hatch or line."""

    colour: str
    marker: str
    hatch: str
    line: LineStyleType


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look per name, by order; after eight the looks repeat with shifted shapes."""
    return {
        name: Look(COLOURS[i % 8], _MARKERS[(i + i // 8) % 8], _HATCHES[(i + i // 8) % 8], _LINES[(i + i // 8) % 8])
        for i, name in enumerate(names)
    }


def contrast(one: ColorType, other: ColorType) -> float:
    """Contrast of two colours, 1 to 21 (WCAG 2.1)."""
    dark, light = sorted(map(_luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: ColorType) -> float:
    parts = np.array(to_rgb(colour))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def ink_on(colours: ScalarMappable, value: float) -> str:
    """Black or white, whichever is read better on the colour of a value: at least 4.5 on any."""
    red, green, blue, _ = colours.to_rgba(np.array([value]))[0]
    ground = (red, green, blue)
    return max(("black", "white"), key=lambda ink: contrast(ink, ground))


def styled(plot: Callable[P, R]) -> Callable[P, R]:
    """Draw with the project's style, and leave matplotlib's settings as they were."""

    @wraps(plot)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        with rc_context(_settings()):
            return plot(*args, **kwargs)

    return inner


def _settings() -> dict[RcKeyType, Any]:
    return {
        **sns.axes_style("ticks"),
        **sns.plotting_context("notebook"),
        "font.family": ["DejaVu Sans"],
        "font.size": 10,
        "axes.titlesize": 10.5,
        "axes.labelsize": 10,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "axes.edgecolor": SOFT,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.8,
        "text.color": INK,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "xtick.major.width": 0.8,
        "ytick.major.width": 0.8,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "hatch.linewidth": 0.6,
        "hatch.color": "white",
        "patch.edgecolor": "white",
        "figure.facecolor": "white",
        "axes.facecolor": "white",
        # Model names may hold a dollar sign; text is never mathematics here.
        "text.parse_math": False,
    }


def panels(n: int, columns: int, title: str, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure with `n` axes in rows of `columns`, and its finding as a left-aligned title.

    Parameters
    ----------
    height : inches per row of panels; the title's lines come on top.
    """
    columns = min(columns, max(n, 1))
    rows = -(-max(n, 1) // columns)
    lines = _wrapped(title, WIDTH - 0.24)
    band = 0.24 * len(lines) + 0.14
    # Not through pyplot: no global list of open figures, and no second display in a notebook.
    tall = round(rows * height + band, 2)
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06, rect=(0, 0, 1, 1 - band / tall))
    figure = Figure(figsize=(WIDTH, tall), layout=layout)
    figure.text(0.012, 1 - 0.09 / tall, "\n".join(lines), va="top", ha="left", fontsize=_TITLE_SIZE,
                fontweight="bold", linespacing=1.25)  # fmt: skip
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    axes = list(grid.flat)
    for spare in axes[n:]:
        spare.remove()
    return figure, axes[:n]


def _wrapped(title: str, width: float) -> list[str]:
    """The title in lines of at most `width` inches, measured in its own font; a single word is never broken."""
    font = FontProperties(family="DejaVu Sans", weight="bold", size=_TITLE_SIZE)
    lines = [""]
    for word in title.split():
        longer = f"{lines[-1]} {word}".strip()
        points, _, _ = text_to_path.get_text_width_height_descent(longer, font, ismath=False)
        if points / 72 <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def head(axis: Axes, name: str, note: str) -> None:
    """A panel's name with a note of one or more lines between it and the axes."""
    lines = note.count("\n") + 1
    axis.set_title(name, loc="left", fontweight="bold", pad=6 + 12.5 * lines)
    axis.annotate(note, (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", fontsize=9, color=SOFT,
                  va="bottom", linespacing=1.25)  # fmt: skip


def empty(axis: Axes, why: str) -> None:
    """A panel that says why there is nothing in it."""
    axis.text(0.5, 0.5, why, ha="center", va="center", color=SOFT, transform=axis.transAxes)
    axis.set_axis_off()


def across(axis: Axes) -> dict[str, Any]:
    """Options for text placed by a share of the axis's width and by a value of its upright axis."""
    return {"transform": axis.get_yaxis_transform(), "va": "center"}


def drawn(figure: Figure, finding: str, what: str, *details: str, kind: str = "svg") -> Drawn:
    """The figure with its alt text: `what` it is, the finding, and details that say something, each a sentence."""
    return Drawn(figure, finding, " ".join(f"{part}." for part in (what, finding, *details) if part), kind)
