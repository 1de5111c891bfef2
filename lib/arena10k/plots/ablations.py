"""Heat maps of scores over what was varied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from arena10k.plots.style import SOFT, drawn, ink_on, panels, styled
from arena10k.report.display import Drawn
from arena10k.wording import listed, number

_BETWEEN = " · "

#: Scores that are shares: their colours stand for the same in every map.
_SHARES = {"coverage", "pairwise", "refused", "misranked"}
#: What each score is called, and whether a large one is good.
SCORES: Mapping[str, tuple[str, bool]] = {
    "rmse": ("RMSE", False),
    "bias": ("bias", False),
    "coverage": ("coverage", True),
    "interval_score": ("interval score", False),
    "kendall": ("Kendall tau", True),
    "pairwise": ("pairwise accuracy", True),
    "refused": ("refusal rate", False),
    "misranked": ("share that puts a worse policy first", False),
}


def with_levels(scores: pd.DataFrame, factors: Sequence[str]) -> pd.DataFrame:
    """`scores` with the levels of the factors in words, as a table shows them."""
    return scores.assign(**{name: scores[name].map(_level) for name in factors})


def _level(value: str | float | None) -> str:
    if isinstance(value, str):
        return value
    return "all" if value is None or np.isnan(value) else f"{value:g}"


def _grid(scores: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], value: str) -> pd.DataFrame:
    """`scores` with one row per combination of `rows` and one column per combination of `columns`; NaN where there is
    none."""
    labels = [
        [_BETWEEN.join(map(_level, levels)) for levels in scores[list(names)].itertuples(index=False)]
        for names in (rows, columns)
    ]
    grid = pd.DataFrame({"row": labels[0], "column": labels[1], "value": scores[value].to_numpy(float)})
    table = grid.groupby(["row", "column"], sort=False).value.mean().unstack()
    return table.reindex(index=dict.fromkeys(labels[0]), columns=dict.fromkeys(labels[1]))


def _heat_finding(grid: pd.DataFrame, row_factors: pd.DataFrame, column_factors: pd.DataFrame, value: str) -> str:
    name, high = SCORES[value]
    cells = grid.stack().dropna()
    if cells.empty:
        return f"The {name} is not known: there is no truth to compare with"
    if cells.round(9).nunique() == 1:
        return f"The {name} is {number(cells.iloc[0])} everywhere"
    size = cells.abs() if value == "bias" else cells
    ends = (size.idxmax(), size.idxmin()) if high else (size.idxmin(), size.idxmax())
    at = (f"{number(cells[k])} ({_place(row_factors, k[0])}; {_place(column_factors, k[1])})" for k in ends)
    return f"The {name} goes from {' to '.join(at)}"


def _place(factors: pd.DataFrame, label: str) -> str:
    """A row or column of the map in words: levels with the name of their factor, other names by themselves."""
    parts = zip(factors, label.split(_BETWEEN), strict=True)
    return ", ".join(f"{name} {part}" if is_numeric_dtype(factors[name]) else part for name, part in parts)


@styled
def heat(scores: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], value: str) -> Drawn:
    """A score by colour and in figures, one cell for each row and column; empty where it is not known.

    Parameters
    ----------
    scores : rows of `ablations.scores.summary` (or several cells'); a level that is missing is all data.
    rows, columns : the columns of `scores` that make a row and a column of the map.
    value : the score shown, a key of `SCORES`.
    """
    grid = _grid(scores, rows, columns, value)
    finding = _heat_finding(grid, scores[list(rows)], scores[list(columns)], value)
    figure, (axis,) = panels(1, 1, finding, 0.26 * len(grid) + 1.1)
    known = grid.to_numpy(float)
    shown = np.abs(known) if value == "bias" else known
    low, top = _range(shown, value)
    colours = "cividis" if SCORES[value][1] else "cividis_r"
    image = axis.imshow(shown, aspect="auto", cmap=colours, vmin=low, vmax=max(top, 1e-9))
    for (i, j), cell in np.ndenumerate(known):
        colour = ink_on(image, shown[i, j]) if np.isfinite(cell) else SOFT
        axis.text(j, i, number(cell), ha="center", va="center", fontsize=8, color=colour)
    tilt: dict[str, Any] = {"rotation": 45, "ha": "right"} if grid.shape[1] > 6 else {}
    axis.set_xticks(range(grid.shape[1]), list(grid.columns), **tilt)
    axis.set_yticks(range(grid.shape[0]), list(grid.index))
    axis.set_xlabel(" by ".join(columns))
    axis.set_ylabel(" by ".join(name for name in rows if is_numeric_dtype(scores[name])))
    axis.tick_params(length=0)
    return drawn(figure, finding, f"Heat map of {SCORES[value][0]} by {listed([*rows, *columns])}")


def _range(shown: np.ndarray, value: str) -> tuple[float, float]:
    """The values of the first and the last colour."""
    if value in _SHARES or not np.isfinite(shown).any():
        return 0.0, 1.0
    # Outliers would leave all other cells in one colour.
    top = min(float(np.nanmax(shown)), 3 * float(np.nanmedian(np.abs(shown))))
    return min(0.0, float(np.nanmin(shown))), top
