"""Figures of the weights' tails: how few rows hold the weight, and how heavy the fitted tail is."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arena10k.estimators.pareto import tail_fit
from arena10k.plots.style import INK, SOFT, looks, panels, sentences, styled
from arena10k.plots.weights import LogWeights, measured_weights
from arena10k.statistics.diagnostics import top_shares
from arena10k.statistics.intervals import MAX_KHAT
from arena10k.wording import number, percent

#: Points of a curve, at most: more cannot be seen and make a page large.
_POINTS = 400


def ccdf_finding(log_weight: LogWeights) -> str:
    """The heaviest single row of all policies, as a share of that policy's weight, and the heaviest fitted tail."""
    usable = measured_weights(log_weight)
    single = {p: top_shares(v)["top_1"] for p, v in usable.items()}
    if not single:
        return "No policy has a usable log-weight"
    worst = max(single, key=single.__getitem__)
    told = f"One row alone holds {percent(single[worst])} of the weight of {worst}"
    shapes = {p: fit.shape for p, v in usable.items() if (fit := tail_fit(v[np.isfinite(v)])) is not None}
    if not shapes:
        return told
    heavy = max(shapes, key=shapes.__getitem__)
    limit = "above" if shapes[heavy] >= MAX_KHAT else "below"
    return f"{told}; the heaviest fitted tail is that of {heavy}, k-hat {shapes[heavy]:.2f}, {limit} {MAX_KHAT:g}"


@styled
def ccdf(log_weight: LogWeights, title: str | None = None) -> Figure:
    """Share of rows whose weight exceeds w, both axes logarithmic, with the fitted Pareto tail as a thin line.

    A policy whose tail cannot be fitted (too few rows, or rows tied at the top) has no thin line.
    """
    shown = looks(log_weight)
    figure, (axis,) = panels(1, 1, title or ccdf_finding(log_weight), 3.3)
    for policy, values in measured_weights(log_weight).items():
        look = shown[policy]
        x = np.sort(values[np.isfinite(values)])
        rank = _ranks(x.size)
        axis.step(x[x.size - rank] / np.log(10), rank / values.size, where="post", color=look.colour,
                  linestyle=look.line, linewidth=1.8, label=policy)  # fmt: skip
        axis.plot(x[-1] / np.log(10), 1 / values.size, marker=look.marker, color=look.colour, markersize=6)
        _tail(axis, values, x, look.colour)
    axis.axvline(0, color=SOFT, linewidth=1)
    axis.set(xlabel="log10 of the weight w", ylabel="share of rows of weight w or more")
    axis.grid()
    if axis.get_legend_handles_labels()[0]:
        axis.plot([], [], color=SOFT, linewidth=4, alpha=0.35, label="fitted tail")
        axis.set_yscale("log")
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=3)
    return figure


def _tail(axis: Axes, values: np.ndarray, finite: np.ndarray, colour: str) -> None:
    fit = tail_fit(values)
    if fit is None or not np.isfinite(fit.cut):
        return
    grid = np.linspace(fit.cut, finite[-1], 60)
    share = fit.exceedance(grid)
    keep = share > 0
    axis.plot(grid[keep] / np.log(10), share[keep], color=colour, linewidth=4.5, alpha=0.35, solid_capstyle="butt")


def _ranks(n: int) -> np.ndarray:
    """Ranks from the lightest row (n) to the heaviest (1), all of the heaviest and fewer of the others."""
    if n <= _POINTS:
        return np.arange(n, 0, -1)
    return np.unique(np.geomspace(1, n, _POINTS).round().astype(int))[::-1]


def _lorenz(log_weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of the rows, heaviest first, and the share of the weight they hold; both start at 0."""
    x = np.sort(log_weight)[::-1]
    held = np.cumsum(np.exp(x - x[0]))
    return np.arange(x.size + 1) / x.size, np.concatenate([[0.0], held / held[-1]])


def _half(log_weight: np.ndarray) -> float:
    """The smallest share of the rows that holds half of the weight."""
    rows, held = _lorenz(log_weight)
    return float(rows[np.searchsorted(held, 0.5)])


def lorenz_finding(log_weight: LogWeights) -> str:
    """On how few rows half of the weight rests, for the policy where they are fewest."""
    half = {p: _half(v) for p, v in measured_weights(log_weight).items()}
    if not half:
        return "No policy has a usable log-weight"
    worst = min(half, key=half.__getitem__)
    return f"Half of the weight of {worst} is in {half[worst]:.1%} of its rows" + (
        ", the most uneven of all policies" if len(half) > 1 else ""
    )


def lorenz_alt(log_weight: LogWeights) -> str:
    """The Lorenz curves in words."""
    told = [f"{p} {number(100 * _half(v))}%" for p, v in measured_weights(log_weight).items()]
    rows = f"Rows with half of the weight: {', '.join(told)}" if told else ""
    return sentences("Lorenz curves of the weights", lorenz_finding(log_weight), rows)


@styled
def lorenz(log_weight: LogWeights, title: str | None = None) -> Figure:
    """Share of the total weight in the heaviest rows; the straight line is equal weights."""
    shown = looks(log_weight)
    figure, (axis,) = panels(1, 1, title or lorenz_finding(log_weight), 3.3)
    axis.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle="--", label="equal weights")
    axis.axhline(0.5, color=INK, linewidth=0.8)
    for policy, values in measured_weights(log_weight).items():
        rows, held = _lorenz(values)
        keep = np.concatenate([[0], _ranks(rows.size - 1)[::-1]])
        look = shown[policy]
        axis.plot(rows[keep], held[keep], color=look.colour, linestyle=look.line, linewidth=1.8, label=policy)
    axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="share of the rows, heaviest first", ylabel="share of the weight")
    axis.grid()
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=3)
    return figure
