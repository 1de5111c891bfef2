"""Heat maps of scores over what was varied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from arena10k.plots.style import SOFT, number, panels, styled

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


def heat_grid(scores: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], value: str) -> pd.DataFrame:
    """`scores` as a grid: one row per combination of `rows`, one column per combination of `columns`; NaN where there
    is none. A level that is missing means all of the data."""
    labels = [_labels(scores, names) for names in (rows, columns)]
    grid = pd.DataFrame({"row": labels[0], "column": labels[1], "value": scores[value].to_numpy(float)})
    table = grid.groupby(["row", "column"], sort=False).value.mean().unstack()
    return table.reindex(index=dict.fromkeys(labels[0]), columns=dict.fromkeys(labels[1]))


def _labels(scores: pd.DataFrame, names: Sequence[str]) -> list[str]:
    return [" · ".join(_level(v) for v in some) for some in scores[list(names)].itertuples(index=False)]


def _level(value: str | float | None) -> str:
    if isinstance(value, str):
        return value
    return "all" if value is None or np.isnan(value) else f"{value:g}"


def heat_finding(scores: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], value: str) -> str:
    """Where the score is best and where it is worst."""
    name, high = SCORES[value]
    grid = heat_grid(scores, rows, columns, value)
    flat = grid.stack().dropna()
    if flat.empty:
        return f"The {name} is not known: there is no truth to compare with"
    size = flat.abs() if value == "bias" else flat
    best, worst = (size.idxmax(), size.idxmin()) if high else (size.idxmin(), size.idxmax())
    where = f"{' by '.join(columns)}"
    if flat.round(9).nunique() == 1:
        return f"The {name} is {number(flat.iloc[0])} everywhere"
    at = (f"{number(flat[key])} ({key[0]}; {where}: {key[1]})" for key in (best, worst))
    return f"The {name} goes from {' to '.join(at)}"


@styled
def heat(
    scores: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], value: str, title: str | None = None
) -> Figure:
    """A score by colour and in figures, one cell for each row and column; empty where it is not known.

    Parameters
    ----------
    scores : rows of `sweeps.summary`, or the join of several cells'.
    rows, columns : the columns of `scores` that make a row and a column of the map.
    value : the score shown, a key of `SCORES`.
    """
    grid = heat_grid(scores, rows, columns, value)
    figure, (axis,) = panels(1, 1, title or heat_finding(scores, rows, columns, value), 0.26 * len(grid) + 1.1)
    known = grid.to_numpy(float)
    _, high = SCORES[value]
    shown = np.abs(known) if value == "bias" else known
    # Outliers would leave all other cells in one colour.
    top = float(np.nanquantile(shown, 0.95)) if np.isfinite(shown).any() else 1.0
    low = min(0.0, float(np.nanmin(shown))) if np.isfinite(shown).any() else 0.0
    axis.imshow(shown, aspect="auto", cmap="cividis_r" if not high else "cividis", vmin=low, vmax=max(top, 1e-9))
    for (i, j), cell in np.ndenumerate(known):
        light = np.isfinite(cell) and ((shown[i, j] - low) / max(top - low, 1e-9) > 0.5) != high
        colour = "white" if light else "black"
        axis.text(j, i, number(cell), ha="center", va="center", fontsize=8, color=colour if np.isfinite(cell) else SOFT)
    many = grid.shape[1] > 6
    axis.set_xticks(
        range(grid.shape[1]), list(grid.columns), rotation=45 if many else 0, ha="right" if many else "center"
    )
    axis.set_yticks(range(grid.shape[0]), list(grid.index))
    axis.set_xlabel(" by ".join(columns))
    axis.tick_params(length=0)
    return figure
