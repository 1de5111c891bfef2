"""Figures of the weights' tails: how few rows hold the weight, and how heavy the fitted tail is."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arena10k.attribution.words import share_words
from arena10k.estimators.pareto import tail_fit
from arena10k.plots.style import SOFT, looks, panels, styled
from arena10k.plots.weights import LogWeights, measured_weights
from arena10k.statistics.diagnostics import top_shares
from arena10k.statistics.intervals import MAX_KHAT

#: Points of a curve, at most: more cannot be seen and make a page large.
_POINTS = 400


def ccdf_finding(log_weight: LogWeights) -> str:
    """The heaviest single row of all policies, as a share of that policy's weight, and the heaviest fitted tail."""
    usable = measured_weights(log_weight)
    single = {p: top_shares(v)["top_1"] for p, v in usable.items()}
    if not single:
        return "No policy has a usable log-weight"
    worst = max(single, key=single.__getitem__)
    told = f"One row alone holds {share_words(single[worst])} of the weight of {worst}"
    shapes = {p: fit.shape for p, v in usable.items() if (fit := tail_fit(v[np.isfinite(v)])) is not None}
    if not shapes:
        return told
    heavy = max(shapes, key=shapes.__getitem__)
    limit = "above" if shapes[heavy] >= MAX_KHAT else "below"
    return f"{told}; the heaviest fitted tail is that of {heavy}, k-hat {shapes[heavy]:.2f}, {limit} {MAX_KHAT:g}"


@styled
def ccdf(log_weight: LogWeights) -> Figure:
    """Share of rows whose weight exceeds w, both axes logarithmic, with the fitted Pareto tail as a thin line.

    A policy whose tail cannot be fitted (too few rows, or rows tied at the top) has no thin line.
    """
    shown = looks(log_weight)
    figure, (axis,) = panels(1, 1, ccdf_finding(log_weight), 3.3)
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
