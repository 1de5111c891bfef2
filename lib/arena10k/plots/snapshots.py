"""The dumbbell of two states of a run: every estimate then and now."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from arena10k.plots.style import GRID, INK, SOFT, VERDICT_FILL, by_policy, panels, styled
from arena10k.wording import listed


def then_and_now_finding(both: pd.DataFrame) -> str:
    """How many values left their earlier interval and which policies' verdicts changed."""
    outside, changed = both[both.outside], both[both.verdict_changed]
    first = f"{len(outside)} of {len(both)} values left their earlier interval"
    first += f" ({listed(list(dict.fromkeys(outside.policy)))})" if len(outside) else ""
    if changed.empty:
        return f"{first}; every verdict is the same"
    return f"{first}; {len(changed)} verdicts changed ({listed(list(dict.fromkeys(changed.policy)))})"


@styled
def then_and_now(both: pd.DataFrame, title: str | None = None) -> Figure:
    """Estimates of two states, grouped by policy: the earlier value with its interval, the present one, and the way
    between them.

    Parameters
    ----------
    both : rows of `changes.estimates`, of one judge mode.

    Notes
    -----
    The present mark is filled as its verdict says; a changed verdict is written beside it. A missing value is said in
    words.
    """
    policies = list(dict.fromkeys(both.policy))
    height = 0.235 * (len(both) + 1.2 * len(policies)) + 1.0
    figure, (axis,) = panels(1, 1, title or then_and_now_finding(both), height)
    at, ticks = 0.0, []
    for policy in policies:
        axis.text(0, at, policy, transform=axis.get_yaxis_transform(), fontweight="bold", va="center", fontsize=10)
        axis.axhline(at - 0.62, color=GRID, linewidth=0.8)
        for row in both[both.policy == policy].itertuples():
            at += 1
            ticks.append((at, row.estimator))
            _pair(axis, at, row)
        at += 1.2
    by_policy(axis, ticks, at - 0.4, 0.1)
    _legend(figure, set(both.verdict_after.dropna()))
    return figure


def _pair(axis: Axes, at: float, row: Any) -> None:
    if np.isfinite(row.ci_low_before) and np.isfinite(row.ci_high_before):
        axis.plot([row.ci_low_before, row.ci_high_before], [at, at], color=GRID, linewidth=5, zorder=1)
    if np.isfinite(row.value_before) and np.isfinite(row.value_after):
        axis.plot([row.value_before, row.value_after], [at, at], color=INK, linewidth=1.4, zorder=2)
    if np.isfinite(row.value_before):
        axis.plot(row.value_before, at, marker="|", markersize=9, markeredgewidth=1.8, color=SOFT, zorder=3)
    if np.isfinite(row.value_after):
        refused = row.verdict_after == "REFUSE"
        colour = SOFT if refused else INK
        axis.plot(row.value_after, at, marker="o", markersize=6.5, color=colour, markeredgecolor=colour, zorder=4,
                  fillstyle=VERDICT_FILL.get(row.verdict_after, "full"), markerfacecoloralt="white",
                  markerfacecolor="white" if refused else colour)  # fmt: skip
    else:
        axis.text(0.01, at, "no value now", transform=axis.get_yaxis_transform(), va="center", fontsize=8.5, color=SOFT)
    if row.verdict_changed:
        then, now = (v if isinstance(v, str) else "none" for v in (row.verdict_before, row.verdict_after))
        axis.text(
            1, at, f"{then} to {now}", transform=axis.get_yaxis_transform(), va="center", ha="right", fontsize=8.5
        )


def _legend(figure: Figure, verdicts: set[str]) -> None:
    marks = [
        Line2D([], [], color=SOFT, marker="|", markersize=9, markeredgewidth=1.8, linestyle="", label="then"),
        Line2D([], [], color=GRID, linewidth=5, label="interval then"),
    ]
    marks += [
        Line2D([], [], color=INK, marker="o", markersize=6.5, linestyle="", fillstyle=VERDICT_FILL[v],
               markerfacecoloralt="white", label=f"now, {v}")
        for v in VERDICT_FILL if v in verdicts
    ]  # fmt: skip
    figure.legend(handles=marks, loc="outside lower right", ncols=len(marks), handlelength=2.0, columnspacing=1.4)
