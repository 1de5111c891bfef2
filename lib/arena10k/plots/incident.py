"""The figure of a reproduced incident: SNIPS on judge scores before, during and after."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from arena10k.plots.style import BAND, looks, panels, sentences, styled
from arena10k.wording import JUDGE_SNIPS, listed

#: Rows of `incident.frame` of one geometry, by the words for it.
Paths = Mapping[str, pd.DataFrame]


def _table(rows: pd.DataFrame) -> pd.DataFrame:
    """SNIPS on judge scores: policies (rows, in the order of the first step) by steps (columns, in order)."""
    steps, policies = list(dict.fromkeys(rows.step)), list(dict.fromkeys(rows.policy))
    return rows.pivot(index="policy", columns="step", values="published").loc[policies, steps]


def incident_steps_finding(paths: Paths) -> str:
    """Which targets rank first at each step with injected values, and where they all tie."""
    firsts: dict[str, list[str]] = {}
    for rows in paths.values():
        for step, hit in rows[rows.injected > 0].groupby("step", sort=False):
            shown = hit.published.round(3)
            best = list(hit.policy[shown == shown.max()])
            firsts.setdefault(step, []).append("all" if 1 < len(best) == len(hit) else " = ".join(best))
    told = [f"{listed(list(dict.fromkeys(names)))} ({step})" for step, names in firsts.items()]
    return f"First among the targets: {', then '.join(told)}" if told else "No injected value reaches a ranking"


def incident_steps_alt(paths: Paths) -> str:
    """The highest and the lowest number of each step in words; all of them are too many for a text alternative."""
    told = []
    for name, rows in paths.items():
        steps = [
            f"{step} {ranked.index[-1]} {ranked.iloc[-1]:.3f} to {ranked.index[0]} {ranked.iloc[0]:.3f}"
            for step, ranked in ((step, values.sort_values()) for step, values in _table(rows).items())
        ]
        told.append(f"{name}, highest to lowest: {', '.join(steps)}")
    return f"{JUDGE_SNIPS} of every policy at every step. {sentences(incident_steps_finding(paths), *told)}"


@styled
def incident_steps(paths: Paths, title: str | None = None) -> Figure:
    """SNIPS on judge scores by step, one line per policy, one panel per geometry; shaded: injected values in place."""
    figure, axes = panels(len(paths), 1, title or incident_steps_finding(paths), 2.9, sharey=True)
    for axis, (name, rows) in zip(axes, paths.items(), strict=True):
        table = _table(rows)
        shown, at = looks(sorted(table.index)), np.arange(table.shape[1])
        axis.axvspan(0.5, table.shape[1] - 1.5, color=BAND, zorder=0)
        for policy, values in table.iterrows():
            look = shown[policy]
            axis.plot(at, values, color=look.colour, linestyle=look.line, marker=look.marker, markersize=6.5,
                      linewidth=1.6, label=policy)  # fmt: skip
        axis.set_title(name, loc="left", fontweight="bold")
        axis.set_xticks(at, list(table.columns))
        axis.set_xlim(-0.25, table.shape[1] - 0.75)
        axis.grid(axis="y")
        axis.text(0.55, 0.98, "injected values in place", transform=axis.get_xaxis_transform(), va="top", fontsize=9)
        axis.margins(y=0.14)
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=3)
    figure.supylabel(JUDGE_SNIPS, fontsize=10)
    return figure
