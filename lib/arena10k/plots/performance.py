"""Figures of how well estimators do and what that takes: scores by what was varied, labels by width, coverage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from arena10k.estimation.planning import ASSURANCE, Pilot, labels_needed, ppi_width
from arena10k.estimation.verdicts import CAUTION, REPORT
from arena10k.plots.style import (
    ACCENT,
    INK,
    SHADES,
    SOFT,
    cells,
    drawn,
    folded,
    key,
    looks,
    name_rows,
    panels,
    styled,
    verdict_mark,
)  # fmt: skip
from arena10k.report.display import Drawn
from arena10k.simulation.coverage import exact_interval, judged
from arena10k.simulation.simulate import HEADLINE, PLAIN
from arena10k.wording import listed, number, percent

_BETWEEN = " · "

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
#: Scores that are shares: their colours stand for the same in every map.
_SHARES = {"coverage", "pairwise", "refused", "misranked"}
_CASES = {
    "transports": "judge transports",
    "fooled": "judge overrates target",
    "unseen": "target partly unseen",
    "rare": "rare failures",
    "corrupted": "log-probs corrupted",
}


def with_levels(scores: pd.DataFrame, factors: Sequence[str]) -> pd.DataFrame:
    """`scores` with the levels of the factors in words, as a table shows them."""

    def words(level: str | float | None) -> str:
        if isinstance(level, str):
            return level
        return "all" if level is None or np.isnan(level) else f"{level:g}"

    return scores.assign(**{name: scores[name].map(words) for name in factors})


@styled
def heat(scores: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], value: str) -> Drawn:
    """The score `value`, a key of `SCORES`, by colour and in figures; empty where it is not known.

    `scores` are rows of `ablations.scores.summary` (or several cells'), of which the columns `rows` make a row of the
    map and `columns` a column; a level that is missing is all data.
    """
    levels, (name, high) = with_levels(scores, [*rows, *columns]), SCORES[value]
    places = [[_BETWEEN.join(line) for line in levels[list(by)].itertuples(index=False)] for by in (rows, columns)]
    long = pd.DataFrame({"row": places[0], "column": places[1], "value": scores[value].to_numpy(float)})
    grid = long.groupby(["row", "column"], sort=False).value.mean().unstack()
    grid = grid.reindex(index=long.row.unique(), columns=long.column.unique())
    known = grid.stack().dropna()
    if known.empty:
        finding = f"The {name} is not known: there is no truth to compare with"
    elif known.round(9).nunique() == 1:
        finding = f"The {name} is {number(known.iloc[0])} everywhere"
    else:
        size, ends = known.abs() if value == "bias" else known, []
        for row, column in (size.idxmax(), size.idxmin()) if high else (size.idxmin(), size.idxmax()):
            parts = zip([*rows, *columns], f"{row}{_BETWEEN}{column}".split(_BETWEEN), strict=True)
            words = [f"{factor} {level}" if is_numeric_dtype(scores[factor]) else level for factor, level in parts]
            at = f"{', '.join(words[: len(rows)])}; {', '.join(words[len(rows) :])}"
            ends.append(f"{number(known[row, column])} ({at})")
        finding = f"The {name} goes from {' to '.join(ends)}"
    figure, (axis,) = panels(1, 1, 0.26 * len(grid) + 1.1)
    shown, (low, top) = grid.abs() if value == "bias" else grid, (0.0, 1.0)
    if value not in _SHARES and len(known):
        # Outliers would leave all other cells in one colour.
        top = max(1e-9, min(np.nanmax(shown), 3 * np.nanmedian(np.abs(shown))))
        low = min(0.0, np.nanmin(shown))
    cells(axis, shown, grid.map(number), cmap=SHADES, vmin=low, vmax=top)
    axis.set_xlabel(" by ".join(columns))
    axis.set_ylabel(" by ".join(factor for factor in rows if is_numeric_dtype(scores[factor])))
    return drawn(figure, finding, f"Heat map of {name} by {listed([*rows, *columns])}")


@styled
def planning(
    pilots: Mapping[str, Pilot], width: float, confidence: float = 0.95, direct: pd.DataFrame | None = None
) -> Drawn:
    """Width of the PPI++ interval against the number of labels, both axes logarithmic; the wanted width is dashed.

    `direct` are rows of `planning.direct_plan` with `policy`, drawn as marks of the direct method.
    """
    need = {policy: labels_needed(p, width, confidence) for policy, p in pilots.items()}
    finding = "There is no policy to plan for"
    if need:
        low, high = min(need.values()), max(need.values())
        labels = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        most = "" if low == high else f", most for {max(need, key=need.__getitem__)}"
        finding = f"A PPI++ interval of width {width:g} takes {labels} labels (assurance {ASSURANCE:.0%}){most}"
    figure, (axis,) = panels(1, 1, 3.3)
    widest = max((labels_needed(p, width / 4, confidence) for p in pilots.values()), default=10_000)
    grid = np.unique(np.geomspace(5, max(widest, 50), 120).round())
    marked = direct is not None and len(direct) > 0
    for policy, look in looks(pilots).items():
        widths = [ppi_width(pilots[policy], int(n), confidence) for n in grid]
        axis.plot(grid, widths, color=look.colour, linestyle=look.line, linewidth=1.8, label=policy)
        if direct is not None:
            marks = direct[(direct.policy == policy) & direct.labels.between(grid[0], grid[-1])]
            axis.plot(marks.labels, marks.width, color=look.colour, marker=look.marker, markersize=6, linestyle="")
    axis.axhline(width, color=INK, linewidth=1, linestyle="--")
    if marked:
        axis.plot([], [], color=SOFT, marker="o", linestyle="", label="direct")
    also = ", marks: direct" if marked else ""
    labels = folded(f"oracle labels, logarithmic (lines: PPI++{also})", 36)
    axis.set(xscale="log", yscale="log", xlabel=labels, ylabel=folded("width of the interval (logarithmic)", 24))
    ticks = [t for t in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if axis.get_ylim()[0] <= t <= axis.get_ylim()[1]]
    axis.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axis.minorticks_off()
    axis.grid()
    if pilots:
        key(axis)
    counts = "; ".join(f"{policy} {n:,}" for policy, n in need.items())
    return drawn(figure, finding, "Width of the PPI++ interval against labels", counts)


def _coverage_finding(claims: pd.DataFrame, settings: int) -> str:
    """In how many settings the usual interval, and any other that is accepted, under-covers by more than chance."""
    under = claims[claims.under]
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
    """Coverage of accepted intervals over all populations and cases, with its exact 95% binomial interval, one mark per
    estimator and verdict: filled for REPORT, half filled for CAUTION, of which less is wanted (dotted line). What is
    always refused has no mark. `table` as from `coverage.simulated`; the finding is of its settings one by one.
    """
    cells = judged(table, confidence)
    finding = _coverage_finding(cells, len(table[["population", "case"]].drop_duplicates()))
    names = list(dict.fromkeys(table.estimator))
    pooled = cells.groupby(["estimator", "verdict"], sort=False)[["held", "n"]].sum().reset_index()
    figure, (axis,) = panels(1, 1, 0.34 * len(names) + 0.9)
    axis.axvline(confidence, color=INK, linewidth=1, linestyle="--")
    axis.axvline(2 * confidence - 1, color=SOFT, linewidth=1, linestyle=":")
    facts = []
    for r, low, high in zip(pooled.itertuples(), *exact_interval(pooled.held, pooled.n, 0.025), strict=True):
        y = names.index(r.estimator) + (0.15 if r.verdict == CAUTION else -0.15)
        colour = ACCENT if r.estimator == HEADLINE else SOFT
        axis.plot([low, high], [y, y], color=colour, linewidth=1.4)
        axis.plot(r.held / r.n, y, linestyle="", color=colour, **verdict_mark(r.verdict, size=6))
        facts.append(f"{r.estimator} {r.verdict} {r.held / r.n:.1%} of {r.n:,.0f}")
    for verdict in (REPORT, CAUTION):
        axis.plot([], [], color=SOFT, linestyle="", label=verdict, **verdict_mark(verdict, size=6))
    axis.set(xlim=(0, 1.02), xlabel=folded("share of accepted intervals that hold the truth, with its interval", 34))
    axis.xaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    name_rows(axis, names)
    axis.grid(axis="x")
    figure.legend(loc="outside lower left", ncols=2)
    return drawn(figure, finding, "Share of accepted intervals that hold the truth, by estimator", "; ".join(facts))


@styled
def accuracy(table: pd.DataFrame) -> Drawn:
    """Error against refusals: the share of estimates that are refused and the root mean squared error of all of them,
    per estimator, a mark for each judge; `table` as from `ablations.summary.accuracy`."""
    best, names = table.iloc[0], list(dict.fromkeys(table.estimator))
    finding = f"{best.estimator} is closest to the truth (RMSE {best.rmse:.2f}, {percent(best.refused)} refused)"
    figure, axes = panels(2, 2, 0.33 * len(names) + 0.95, sharey=True)
    judges = list(dict.fromkeys(table.judge))
    for i, judge in enumerate(judges):
        part = table[table.judge == judge]
        y = part.estimator.map(names.index) + 0.56 * ((i + 0.5) / len(judges) - 0.5)
        colours = [ACCENT if name == best.estimator else SOFT for name in part.estimator]
        for axis, values in zip(axes, (part.refused, part.rmse), strict=True):
            axis.hlines(y, 0, values, colors=colours, linewidth=1)
            axis.scatter(values, y, s=26, c=colours if i == 0 else "white", edgecolors=colours, marker="osD^v"[i % 5])
    for i, judge in enumerate(judges):
        fill = SOFT if i == 0 else "white"
        axes[0].plot([], [], linestyle="", color=SOFT, label=judge, marker="osD^v"[i % 5], markerfacecolor=fill)
    for axis in axes:
        axis.set_xlim(left=0)
        axis.grid(axis="x")
        name_rows(axis, names)
    axes[0].set(xlabel="refused", xlim=(-0.03, 1.03))
    axes[0].xaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    axes[1].set_xlabel("root mean squared error")
    figure.legend(loc="outside lower left", ncols=2)
    facts = [f"{r.estimator} by {r.judge} {percent(r.refused)} refused, error {r.rmse:.2f}" for r in table.itertuples()]
    return drawn(figure, finding, "Refusals and errors by estimator and judge", "; ".join(facts))
