"""Figures of plans and of the coverage simulation: what a width takes, and how often intervals hold the truth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgba

from arena10k.estimation.planning import ASSURANCE, Pilot, labels_needed, ppi_width
from arena10k.plots.style import INK, SOFT, VERDICT_FILL, drawn, looks, panels, styled
from arena10k.report.display import Drawn
from arena10k.simulation.coverage import DISTINCT, judged
from arena10k.simulation.simulate import PLAIN
from arena10k.wording import listed, percent


def _planning_finding(need: Mapping[str, int], width: float) -> str:
    if not need:
        return "There is no policy to plan for"
    low, high = min(need.values()), max(need.values())
    most = "" if low == high else f", most for {max(need, key=need.__getitem__)}"
    labels = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"A PPI++ interval of width {width:g} takes {labels} labels (assurance {ASSURANCE:.0%}){most}"


@styled
def planning(
    pilots: Mapping[str, Pilot],
    width: float,
    confidence: float = 0.95,
    direct: pd.DataFrame | None = None,
) -> Drawn:
    """Width of the PPI++ interval against the number of labels, both axes logarithmic; the wanted width is dashed.

    `direct` are rows of `planning.direct_plan` with `policy`, drawn as marks of the direct method.
    """
    need = {policy: labels_needed(p, width, confidence) for policy, p in pilots.items()}
    finding = _planning_finding(need, width)
    figure, (axis,) = panels(1, 1, finding, 3.3)
    marked = direct is not None and len(direct) > 0
    shown = looks(pilots)
    most = max((labels_needed(p, width / 4, confidence) for p in pilots.values()), default=10_000)
    grid = np.unique(np.geomspace(5, max(most, 50), 120).round())
    for policy, pilot in pilots.items():
        look = shown[policy]
        widths = [ppi_width(pilot, int(n), confidence) for n in grid]
        axis.plot(grid, widths, color=look.colour, linestyle=look.line, linewidth=1.8, label=policy)
        if direct is not None:
            marks = direct[(direct.policy == policy) & direct.labels.between(grid[0], grid[-1])]
            axis.plot(marks.labels, marks.width, color=look.colour, marker=look.marker, markersize=6, linestyle="")
    axis.axhline(width, color=INK, linewidth=1, linestyle="--")
    if marked:
        axis.plot([], [], color=SOFT, marker="o", linestyle="", label="direct")
    also = "; marks: direct method, labels and draws growing together" if marked else ""
    axis.set(xscale="log", yscale="log", xlabel=f"oracle labels (lines: PPI++{also})", ylabel="width of the interval")
    ticks = [t for t in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if axis.get_ylim()[0] <= t <= axis.get_ylim()[1]]
    axis.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axis.minorticks_off()
    axis.grid()
    if pilots:
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=3)
    counts = "; ".join(f"{policy} {n:,}" for policy, n in need.items())
    return drawn(figure, finding, "Width of the PPI++ interval against labels", counts)


_CASES = {
    "transports": "judge transports",
    "fooled": "judge overrates target",
    "unseen": "target partly unseen",
    "rare": "rare failures",
    "corrupted": "log-probs corrupted",
}


def _coverage_finding(cells: pd.DataFrame, settings: int) -> str:
    """In how many settings the usual interval, and any other that is accepted, under-covers by more than chance."""
    under = cells[cells.under]
    usual, ours = under[under.estimator == PLAIN], under[under.estimator != PLAIN]
    first = f"The usual SNIPS interval under-covers in {len(usual)} of {settings} settings"
    if ours.empty:
        return f"{first}; no REPORT and no CAUTION does in any, beyond chance"
    worst = ours.loc[(ours.held / ours.n).idxmin()]
    where = f"{percent(worst.held / worst.n)} ({worst.population}, {_CASES[worst.case]})"
    return (
        f"{first}; of the accepted ones {listed(list(dict.fromkeys(ours.estimator)))} in {len(ours)}, worst "
        f"{worst.estimator}, {worst.verdict}: {where}"
    )


@styled
def coverage(table: pd.DataFrame, confidence: float = 0.95) -> Drawn:
    """Coverage of accepted intervals with its binomial interval, one panel per case, one mark per population and
    verdict: filled for REPORT, half filled for CAUTION, of which less is wanted (dotted line). One under-covers where
    the whole of its mark's interval lies left of its line.

    Estimators are `DISTINCT` and those that under-cover. What is always refused has no mark. `table` as from
    `coverage.simulated`.
    """
    shown, cells = looks(dict.fromkeys(table.population)), judged(table, confidence)
    finding = _coverage_finding(cells, len(table[["population", "case"]].drop_duplicates()))
    rows = {*DISTINCT, *cells.estimator[cells.under]}
    cases, names = list(dict.fromkeys(table.case)), [n for n in dict.fromkeys(table.estimator) if n in rows]
    cells = cells[cells.estimator.isin(rows)]
    figure, axes = panels(len(cases), 3, finding, 0.27 * len(names) + 1.0, sharey=True)
    for axis, case in zip(axes, cases, strict=True):
        axis.set_title(_CASES[case], loc="left", fontweight="bold")
        axis.axvline(confidence, color=INK, linewidth=1, linestyle="--")
        axis.axvline(2 * confidence - 1, color=SOFT, linewidth=1, linestyle=":")
        of_case = cells[cells.case == case]
        for i, (population, part) in enumerate(of_case.groupby("population", sort=False)):
            look, shift = shown[population], (i + 0.5) / of_case.population.nunique() * 0.7 - 0.35
            y = np.array([names.index(name) for name in part.estimator]) + shift
            faint = [to_rgba(look.colour, 1 if under else 0.35) for under in part.under]
            axis.hlines(y, part.low, part.high, colors=faint, linewidth=0.9)
            for verdict in part.verdict.unique():
                given = part.verdict == verdict
                axis.plot((part.held / part.n)[given], y[given], linestyle="", marker=look.marker, markersize=5,
                          color=look.colour, fillstyle=VERDICT_FILL[verdict], markerfacecoloralt="white")  # fmt: skip
        axis.set(xlim=(-0.03, 1.03), xticks=[0, 0.5, 1], ylim=(len(names) - 0.4, -0.6))
        axis.set_yticks(range(len(names)), names)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x")
    for population, look in shown.items():
        axes[0].plot([], [], linestyle="", marker=look.marker, color=look.colour, label=population)
    note = "accepted intervals that hold the truth (half filled: CAUTION), binomial intervals over all marks"
    figure.legend(loc="outside lower center", ncols=min(len(shown), 4), handletextpad=0.3, columnspacing=1.2,
                  title=note, title_fontsize=10)  # fmt: skip
    return drawn(figure, finding, "Share of accepted intervals that hold the truth, by case, estimator and population")
