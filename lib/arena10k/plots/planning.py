"""Figures of plans and rehearsals: what a wanted width takes, and how often intervals would have held the truth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from arena10k.plots.style import BAND, INK, SOFT, listed, looks, panels, sentences, styled
from arena10k.simulation.rehearsal import short_of
from arena10k.statistics.planning import Pilot, labels_needed, ppi_width


def planning_finding(pilots: Mapping[str, Pilot], width: float, confidence: float = 0.95) -> str:
    """How many labels each policy's PPI++ interval takes at the wanted width."""
    need = {policy: labels_needed(p, width, confidence) for policy, p in pilots.items()}
    if not need:
        return "There is no policy to plan for"
    low, high = min(need.values()), max(need.values())
    most = max(need, key=need.__getitem__)
    if low == high:
        return f"A PPI++ interval of width {width:g} takes {low:,} labels of the policy's own draws"
    return f"A PPI++ interval of width {width:g} takes {low:,} to {high:,} labels, most for {most}"


def planning_alt(pilots: Mapping[str, Pilot], width: float, confidence: float = 0.95) -> str:
    """The curves in words."""
    told = [f"{policy} {labels_needed(p, width, confidence):,}" for policy, p in pilots.items()]
    finding = planning_finding(pilots, width, confidence)
    return sentences("Width of the PPI++ interval against labels", finding, "; ".join(told))


@styled
def planning(
    pilots: Mapping[str, Pilot],
    width: float,
    confidence: float = 0.95,
    direct: pd.DataFrame | None = None,
) -> Figure:
    """Width of the PPI++ interval against the number of labels, both axes logarithmic; the wanted width is dashed.

    `direct` are rows of `planning.direct_plan` with `policy`, drawn as marks of the direct method.
    """
    figure, (axis,) = panels(1, 1, planning_finding(pilots, width, confidence), 3.3)
    shown = looks(pilots)
    most = max((labels_needed(p, width / 4, confidence) for p in pilots.values()), default=10_000)
    grid = np.unique(np.geomspace(5, max(most, 50), 120).round())
    for policy, pilot in pilots.items():
        look = shown[policy]
        widths = [ppi_width(pilot, int(n), confidence) for n in grid]
        axis.plot(grid, widths, color=look.colour, linestyle=look.line, linewidth=1.8, label=policy)
        if direct is not None:
            mine = direct[(direct.policy == policy) & direct.labels.between(grid[0], grid[-1])]
            axis.plot(mine.labels, mine.width, color=look.colour, marker=look.marker, markersize=6, linestyle="")
    axis.axhline(width, color=INK, linewidth=1, linestyle="--")
    if direct is not None and len(direct):
        axis.plot([], [], color=SOFT, marker="o", linestyle="", label="direct")
    marks = "; marks: direct method, labels and draws growing together" if direct is not None and len(direct) else ""
    axis.set(xscale="log", yscale="log", xlabel=f"oracle labels (lines: PPI++{marks})", ylabel="width of the interval")
    ticks = [t for t in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if axis.get_ylim()[0] <= t <= axis.get_ylim()[1]]
    axis.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axis.minorticks_off()
    axis.grid()
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=3)
    return figure


_CASES = {"transports": "judge transports", "fooled": "judge is fooled", "corrupted": "log-probs corrupted"}


def coverage_finding(table: pd.DataFrame, confidence: float = 0.95) -> str:
    """In how many cells the usual interval, and any other that stands, holds the truth too seldom to be chance."""
    low = short_of(table, confidence)
    usual, ours = low[low.estimator == "plain_snips"], low[low.estimator != "plain_snips"]
    cells = len(table[["population", "case"]].drop_duplicates())
    first = f"The usual SNIPS interval holds the truth too seldom in {len(usual)} of {cells} cells"
    if ours.empty:
        return f"{first}; no interval that stands does so in any"
    worst = ours.loc[ours.coverage_reported.idxmin()]
    return (
        f"{first}; of those that stand {listed(list(dict.fromkeys(ours.estimator)))} in {len(ours)}, worst "
        f"{worst.estimator}: {worst.coverage_reported:.0%} ({worst.population}, {_CASES[worst.case]})"
    )


def coverage_alt(table: pd.DataFrame, confidence: float = 0.95) -> str:
    """The panels in words."""
    finding = coverage_finding(table, confidence)
    return f"Share of replicates whose interval holds the truth, by estimator and population. {finding}."


@styled
def coverage(table: pd.DataFrame, confidence: float = 0.95) -> Figure:
    """Coverage of intervals that stand, one panel per case, one mark per population; hollow where over half is refused.

    A population whose every interval is refused has no mark. `table` as from `rehearsal.rehearse`.
    """
    cases = list(dict.fromkeys(table.case))
    names = list(dict.fromkeys(table.estimator))
    shown = looks(dict.fromkeys(table.population))
    figure, axes = panels(len(cases), 3, coverage_finding(table, confidence), 0.27 * len(names) + 1.0, sharey=True)
    replicates = int(table.replicates.max())
    spread = 2 * np.sqrt(confidence * (1 - confidence) / replicates)
    for axis, case in zip(axes, cases, strict=True):
        axis.set_title(_CASES[case], loc="left", fontweight="bold")
        axis.axvspan(confidence - spread, 1.0, color=BAND, zorder=0)
        axis.axvline(confidence, color=INK, linewidth=1, linestyle="--")
        for i, (population, look) in enumerate(shown.items()):
            rows = table[(table.case == case) & (table.population == population) & table.coverage_reported.notna()]
            shift = (i + 0.5) / len(shown) * 0.7 - 0.35
            for refused in (False, True):
                some = rows[(rows.refused > 0.5) == refused]
                face = "white" if refused else look.colour
                axis.plot(some.coverage_reported, [names.index(e) + shift for e in some.estimator], linestyle="",
                          marker=look.marker, markersize=5, color=look.colour, markerfacecolor=face)  # fmt: skip
        axis.set(xlim=(-0.03, 1.03), xticks=[0, 0.5, 1], ylim=(len(names) - 0.4, -0.6))
        axis.set_yticks(range(len(names)), names)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x")
    for population, look in shown.items():
        axes[0].plot([], [], linestyle="", marker=look.marker, color=look.colour, label=population)
    figure.legend(loc="outside lower center", ncols=min(len(shown), 5), handletextpad=0.3, columnspacing=1.2)
    note = f"intervals that hold the truth, of those not refused among {replicates} (hollow: over half is refused)"
    axes[len(axes) // 2].set_xlabel(note)
    return figure
