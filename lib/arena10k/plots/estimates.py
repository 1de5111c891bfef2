"""The forest plot: every estimate of every policy with its interval and its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from arena10k.plots.style import GRID, INK, SOFT, VERDICT_FILL, VERDICT_LINE, Look, by_policy, looks, panels, styled
from arena10k.statistics.verdicts import NOT_ASKED, NOT_ON_ORACLE_SCALE
from arena10k.wording import listed, number

#: How far from [0, 1] a value is still drawn where it is: beyond, it would leave no room for the others.
EDGES = (-0.25, 1.25)

Rows: TypeAlias = pd.DataFrame | Sequence[Mapping[str, Any]]


def forest_finding(rows: Rows, truth: Mapping[str, float] | None = None) -> str:
    """How many estimates are refused and, where the truth is known, how many other intervals hold it. Those on the
    judge's scale, and those that were not asked for, are drawn and not counted."""
    frame = _frame(rows)
    frame = frame[frame.verdict != NOT_ASKED]
    refused = frame[frame.verdict == "REFUSE"]
    raw = frame.get("reasons", pd.Series("", frame.index)).map(_raw).astype(bool)
    uncounted = raw & (frame.verdict != "REFUSE")
    frame = frame[~uncounted]
    kept = frame[frame.verdict != "REFUSE"]
    policies = listed(list(dict.fromkeys(refused.policy)))
    first = f"{len(refused)} of {len(frame)} estimates are refused" + (f" ({policies})" if len(refused) else "")
    if not truth:
        return first
    judged = kept[kept.policy.isin(list(truth)) & kept.ci_low.notna() & kept.ci_high.notna()]
    if judged.empty:
        return first
    actual = judged.policy.map(truth).astype(float)
    held = int(((judged.ci_low <= actual) & (actual <= judged.ci_high)).sum())
    apart = " (those on the judge's scale are not counted)" if uncounted.any() else ""
    return f"{first}; {held} of the {len(judged)} other intervals hold the measured value{apart}"


@styled
def forest(rows: Rows, truth: Mapping[str, float] | None = None, title: str | None = None) -> Figure:
    """Estimates with intervals, grouped by policy.

    Parameters
    ----------
    rows : a frame or a list of rows of estimates.json: `policy`, `estimator`, `value`, `ci_low`, `ci_high`, `verdict`
        (and `judge`, shown where it varies).
    truth : measured values by policy, drawn as an upright line through the policy's group.

    Notes
    -----
    Filled marks are REPORT, half-filled CAUTION, hollow with a dotted interval REFUSE. A missing value is
    said in words; one far outside of [0, 1], where policy values lie, is an arrow at the edge with its number.
    """
    frame = _frame(rows)
    labels = frame.estimator if _one_judge(frame) else frame.estimator + " · " + frame.judge.astype(str)
    policies = list(dict.fromkeys(frame.policy))
    shown = looks(dict.fromkeys(frame.estimator))
    figure, (axis,) = panels(
        1, 1, title or forest_finding(frame, truth), 0.235 * (len(frame) + 1.2 * len(policies)) + 1.0
    )
    at, ticks = 0.0, []
    for policy in policies:
        axis.text(0, at, policy, transform=axis.get_yaxis_transform(), fontweight="bold", va="center", fontsize=10)
        axis.axhline(at - 0.62, color=GRID, linewidth=0.8)
        top = at
        for i in frame.index[frame.policy == policy]:
            at += 1
            ticks.append((at, labels[i]))
            _estimate(axis, at, frame.loc[i], shown[frame.estimator[i]])
        value = (truth or {}).get(policy)
        if value is not None and np.isfinite(value):
            axis.plot([value] * 2, [top + 0.45, at + 0.45], color=INK, linewidth=1.6, zorder=1)
        at += 1.2
    by_policy(axis, ticks, at - 0.4, 0.04)
    _legend(axis, set(frame.verdict), bool(truth))
    return figure


def _raw(reasons: str | Sequence[str]) -> bool:
    """Whether nothing puts an estimate on the oracle's scale; reasons come as one text or as names."""
    told = reasons if isinstance(reasons, str) else " ".join(reasons)
    return NOT_ON_ORACLE_SCALE.replace("_", " ") in told.replace("_", " ")


def _frame(rows: Rows) -> pd.DataFrame:
    frame = rows.reset_index(drop=True) if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    return frame.astype({"value": float, "ci_low": float, "ci_high": float})


def _one_judge(rows: pd.DataFrame) -> bool:
    return "judge" not in rows or rows.judge.nunique(dropna=False) < 2


def _estimate(axis: Axes, at: float, row: pd.Series, look: Look) -> None:
    refused = row.verdict == "REFUSE"
    colour = SOFT if refused else look.colour
    if not np.isfinite(row.value):
        why = "not collected" if row.verdict == NOT_ASKED else "no value"
        axis.text(0.01, at, why, transform=axis.get_yaxis_transform(), va="center", fontsize=8.5, color=SOFT)
        return
    if np.isfinite(row.ci_low) and np.isfinite(row.ci_high):
        axis.plot(np.clip([row.ci_low, row.ci_high], *EDGES), [at, at], color=colour, linewidth=1.8,
                  linestyle=VERDICT_LINE.get(row.verdict, "-"), zorder=2)  # fmt: skip
    shown, marker = np.clip(row.value, *EDGES), look.marker
    if shown != row.value:
        right = row.value > shown
        marker, words = (">", f"{number(row.value)}  ") if right else ("<", f"  {number(row.value)}")
        axis.text(shown, at, words, va="center", ha="right" if right else "left", fontsize=8.5, color=INK)
    axis.plot(shown, at, marker=marker, markersize=7, color=colour, markeredgecolor=colour, zorder=3,
              fillstyle=VERDICT_FILL.get(row.verdict, "full"), markerfacecoloralt="white",
              markerfacecolor="white" if refused else colour)  # fmt: skip


def _legend(axis: Axes, verdicts: set[str], with_truth: bool) -> None:
    marks = [
        Line2D([], [], color=SOFT, marker="o", markersize=7, linestyle=VERDICT_LINE[v], fillstyle=VERDICT_FILL[v],
               markerfacecoloralt="white", label=v)
        for v in VERDICT_FILL if v in verdicts
    ]  # fmt: skip
    if with_truth:
        marks.append(
            Line2D([], [], color=INK, marker="|", markersize=12, markeredgewidth=1.6, linestyle="", label="measured")
        )
    # Above the first row: below the last it would be pages away.
    axis.legend(handles=marks, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(marks), handlelength=2.6,
                columnspacing=1.6, borderaxespad=0.2)  # fmt: skip
