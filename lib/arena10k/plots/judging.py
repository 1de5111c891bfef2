"""Figures of the judge against the oracle, and of the logging policy against itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from arena10k.estimation.diagnostics import reliability_curve
from arena10k.plots.style import BAND, SOFT, looks, panels, styled
from arena10k.wording import number

#: Groups of judge scores, at most; nats by which scoring may depart from generation.
_BINS, _TOLERANCE = 8, 1e-3
#: The rows that calibrations are trained on; what is said of a judge's errors is said of these.
LOGGED = "logged responses"


def _pairs(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(first, float), np.asarray(second, float)
    both = np.isfinite(first) & np.isfinite(second)
    return first[both], second[both]


def _groups(score: np.ndarray, label: np.ndarray) -> pd.DataFrame:
    """The reliability curve, with a standard error that is not zero where all labels of a group agree.

    Two labels of each kind are added for it (Agresti and Coull 1998); an upper bound for graded labels.
    """
    groups = pd.DataFrame(reliability_curve(score, label, _BINS))
    near = (groups.label * groups.n + 2) / (groups.n + 4)
    return groups.assign(se=np.sqrt(near * (1 - near) / (groups.n + 4)))


def reliability_finding(score: np.ndarray, label: np.ndarray, rows: str = LOGGED) -> str:
    """Where the judge departs most from the oracle, on which `rows`."""
    x, y = _pairs(score, label)
    if not x.size:
        return f"None of the {rows} has both a judge score and an oracle label"
    groups = _groups(x, y)
    gap = groups.label - groups.judge
    worst, of = gap.abs().idxmax(), f"{x.size:,} labelled {rows}"
    if abs(gap[worst]) < 0.05:
        return f"On {of} the judge agrees with the oracle within 0.05 at every score"
    way = "low" if gap[worst] > 0 else "high"
    at = f"{abs(gap[worst]):.2f} too {way} at scores near {groups.judge[worst]:.2f}"
    return f"On {of} the judge is furthest off, {at}"


@styled
def reliability(
    score: np.ndarray,
    label: np.ndarray,
    curve: tuple[np.ndarray, np.ndarray] | None = None,
) -> Figure:
    """Mean oracle label by judge score, with 95% intervals and the number of labels in each group.

    Parameters
    ----------
    score, label : (n,), in [0, 1]; rows with either missing are left out.
    curve : the fitted calibration as grid and values, drawn as a line.
    """
    x, y = _pairs(score, label)
    figure, (axis, below) = panels(2, 1, reliability_finding(score, label), 2.35, sharex=True, height_ratios=[3.4, 1])
    look = looks(["labels", "curve"])
    axis.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle="--", label="judge = oracle")
    if curve is not None:
        axis.plot(*curve, color=look["curve"].colour, linewidth=2.2, drawstyle="steps-mid", label="calibration")
    if x.size:
        groups = _groups(x, y)
        axis.errorbar(groups.judge, groups.label, 1.96 * groups.se, color=look["labels"].colour, marker="o",
                      linestyle="", capsize=3, linewidth=1.6, label="mean label, 95% interval")  # fmt: skip
        sns.histplot(x=x, bins=np.linspace(0, 1, 41), ax=below, color=look["labels"].colour, alpha=1, linewidth=0.2)
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.04, 1.04), ylabel="oracle label")
    below.set(xlabel="judge score", ylabel="labels")
    axis.grid()
    axis.legend(loc="upper left")
    return figure


def self_consistency_finding(generation: np.ndarray, teacher_forced: np.ndarray) -> str:
    """Whether scoring reproduces generation."""
    x, y = _pairs(generation, teacher_forced)
    if not x.size:
        return "No response has both a generation and a teacher-forced log-prob"
    gap = np.abs(y - x)
    inside = int((gap <= _TOLERANCE).sum())
    if inside == x.size:
        reach = f"largest difference {number(gap.max())} nats"
        return f"Teacher forcing reproduces generation on all {x.size:,} rows ({reach})"
    return (
        f"Teacher forcing departs from generation by more than {number(_TOLERANCE)} nats on {x.size - inside:,} of "
        f"{x.size:,} rows (largest difference {number(gap.max())})"
    )


@styled
def self_consistency(generation: np.ndarray, teacher_forced: np.ndarray) -> Figure:
    """Teacher-forced against generation log-prob of the same responses, and their difference. (n,), in nats."""
    x, y = _pairs(generation, teacher_forced)
    figure, (left, right) = panels(2, 2, self_consistency_finding(generation, teacher_forced), 2.9)
    look = looks(["rows"])["rows"]
    if x.size:
        ends = [min(x.min(), y.min()), max(x.max(), y.max())]
        left.plot(ends, ends, color=SOFT, linewidth=1, linestyle="--")
    left.scatter(x, y, s=14, color=look.colour, alpha=0.5, linewidth=0)
    left.set(xlabel="generation log-prob (nats)", ylabel="teacher-forced log-prob (nats)")
    right.axhspan(-_TOLERANCE, _TOLERANCE, color=BAND, zorder=0)
    right.axhline(0, color=SOFT, linewidth=1)
    right.scatter(x, y - x, s=14, color=look.colour, alpha=0.5, linewidth=0)
    reach = max(float(np.abs(y - x).max()) if x.size else 0.0, _TOLERANCE)
    right.set(ylim=(-1.35 * reach, 1.35 * reach), xlabel="generation log-prob (nats)",
              ylabel=f"difference (nats; shaded: {number(_TOLERANCE)})")  # fmt: skip
    right.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=False)
    for axis in (left, right):
        axis.grid()
    return figure
