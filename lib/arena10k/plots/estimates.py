"""Figures of policy values: the forest of all estimates, two states of a run, the steps of an incident."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from arena10k.estimation import ESTIMATORS
from arena10k.estimation.verdicts import NOT_ASKED, NOT_ON_ORACLE_SCALE
from arena10k.plots.style import (
    BAND,
    GRID,
    INK,
    SOFT,
    VERDICT_FILL,
    VERDICT_LINE,
    Look,
    across,
    drawn,
    looks,
    panels,
    styled,
)
from arena10k.report.display import Drawn
from arena10k.wording import JUDGE_SNIPS, listed, number

#: How far from [0, 1] a value is still drawn where it is: beyond, it would leave no room for the others.
EDGES = (-0.25, 1.25)

Rows: TypeAlias = pd.DataFrame | Sequence[Mapping[str, Any]]
#: Rows of `incident.frame` of one geometry, by the words for it.
Paths = Mapping[str, pd.DataFrame]


def _forest_finding(frame: pd.DataFrame, truth: Mapping[str, float] | None) -> str:
    """How many estimates are refused and, where the truth is known, how many other intervals hold it. Those on the
    judge's scale, and those that were not asked for, are drawn and not counted."""
    frame = frame[frame.verdict != NOT_ASKED]
    raw = frame.get("reasons", pd.Series("", frame.index)).map(_raw).astype(bool)
    means = frame.estimator.map(lambda name: name in ESTIMATORS and ESTIMATORS[name].judge_scale).astype(bool)
    uncounted = means | (raw & (frame.verdict != "REFUSE"))
    frame = frame[~uncounted]
    refused, kept = frame[frame.verdict == "REFUSE"], frame[frame.verdict != "REFUSE"]
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
def forest(rows: Rows, truth: Mapping[str, float] | None = None) -> Drawn:
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
    shown = looks(dict.fromkeys(frame.estimator))
    finding = _forest_finding(frame, truth)
    figure, (axis,) = panels(1, 1, finding, _height(frame))
    spans = _by_policy(axis, frame, labels, lambda at, row: _estimate(axis, at, row, shown[row.estimator]), 0.04)
    for policy, span in spans.items():
        value = (truth or {}).get(policy)
        if value is not None and np.isfinite(value):
            axis.plot([value] * 2, span, color=INK, linewidth=1.6, zorder=1)
    _legend(axis, set(frame.verdict), bool(truth))
    judge = f", judge mode {frame.judge.iloc[0]}" if len(frame) and "judge" in frame and _one_judge(frame) else ""
    return drawn(figure, finding, f"Estimates and intervals of {listed(list(spans))}{judge}")


def _height(rows: pd.DataFrame) -> float:
    """Inches that the rows of a panel take, grouped by policy."""
    return 0.235 * (len(rows) + 1.2 * len(set(rows.policy))) + 1.0


def _by_policy(
    axis: Axes, rows: pd.DataFrame, labels: pd.Series, draw: Callable[[float, Any], None], margin: float
) -> dict[str, tuple[float, float]]:
    """Draw rows from the top down, grouped under the names of their policies, values along the bottom; returns where
    the group of each policy begins and ends."""
    at, ticks, spans = 0.0, [], {}
    for policy in dict.fromkeys(rows.policy):
        axis.text(0, at, policy, fontweight="bold", fontsize=10, **across(axis))
        axis.axhline(at - 0.62, color=GRID, linewidth=0.8)
        top = at
        for row in rows[rows.policy == policy].itertuples():
            at += 1
            ticks.append((at, labels[row.Index]))
            draw(at, row)
        spans[policy] = (top + 0.45, at + 0.45)
        at += 1.2
    axis.set(ylim=(at - 0.4, -0.7), xlabel="policy value")
    axis.set_yticks([t for t, _ in ticks], [label for _, label in ticks])
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x")
    axis.margins(x=margin)
    return spans


def _raw(reasons: str | Sequence[str]) -> bool:
    """Whether nothing puts an estimate on the oracle's scale; reasons come as one text or as names."""
    told = reasons if isinstance(reasons, str) else " ".join(reasons)
    return NOT_ON_ORACLE_SCALE.replace("_", " ") in told.replace("_", " ")


def _frame(rows: Rows) -> pd.DataFrame:
    frame = rows.reset_index(drop=True) if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    return frame.astype({"value": float, "ci_low": float, "ci_high": float})


def _one_judge(rows: pd.DataFrame) -> bool:
    return "judge" not in rows or rows.judge.nunique(dropna=False) < 2


def _estimate(axis: Axes, at: float, row: Any, look: Look) -> None:
    refused = row.verdict == "REFUSE"
    colour = SOFT if refused else look.colour
    if not np.isfinite(row.value):
        why = "not collected" if row.verdict == NOT_ASKED else "no value"
        axis.text(0.01, at, why, fontsize=8.5, color=SOFT, **across(axis))
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


def _then_and_now_finding(both: pd.DataFrame) -> str:
    """How many values left their earlier interval and which policies' verdicts changed."""
    outside, changed = both[both.outside], both[both.verdict_changed]
    first = f"{len(outside)} of {len(both)} values left their earlier interval"
    first += f" ({listed(list(dict.fromkeys(outside.policy)))})" if len(outside) else ""
    if changed.empty:
        return f"{first}; every verdict is the same"
    verb = "verdict" if len(changed) == 1 else "verdicts"
    return f"{first}; {len(changed)} {verb} changed ({listed(list(dict.fromkeys(changed.policy)))})"


@styled
def then_and_now(both: pd.DataFrame) -> Drawn:
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
    finding = _then_and_now_finding(both)
    figure, (axis,) = panels(1, 1, finding, _height(both))
    _by_policy(axis, both, both.estimator, partial(_pair, axis), 0.1)
    marks = [
        Line2D([], [], color=SOFT, marker="|", markersize=9, markeredgewidth=1.8, linestyle="", label="then"),
        Line2D([], [], color=GRID, linewidth=5, label="interval then"),
    ]
    marks += [
        Line2D([], [], color=INK, marker="o", markersize=6.5, linestyle="", fillstyle=VERDICT_FILL[v],
               markerfacecoloralt="white", label=f"now, {v}")
        for v in VERDICT_FILL if v in set(both.verdict_after.dropna())
    ]  # fmt: skip
    figure.legend(handles=marks, loc="outside lower right", ncols=len(marks), handlelength=2.0, columnspacing=1.4)
    return drawn(figure, finding, "Estimates then and now, by policy")


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
        axis.text(0.01, at, "no value now", fontsize=8.5, color=SOFT, **across(axis))
    if row.verdict_changed:
        then, now = (v if isinstance(v, str) else "none" for v in (row.verdict_before, row.verdict_after))
        axis.text(1, at, f"{then} to {now}", ha="right", fontsize=8.5, **across(axis))


def _published(rows: pd.DataFrame) -> pd.DataFrame:
    """SNIPS on judge scores: policies (rows, in the order of the first step) by steps (columns, in order)."""
    steps, policies = list(dict.fromkeys(rows.step)), list(dict.fromkeys(rows.policy))
    return rows.pivot(index="policy", columns="step", values="published").loc[policies, steps]


def _steps_finding(paths: Paths) -> str:
    """Which targets rank first at each step with injected values, and where they all tie."""
    firsts: dict[str, list[str]] = {}
    for rows in paths.values():
        for step, hit in rows[rows.injected > 0].groupby("step", sort=False):
            shown = hit.published.round(3)
            best = list(hit.policy[shown == shown.max()])
            firsts.setdefault(step, []).append("all" if 1 < len(best) == len(hit) else " = ".join(best))
    steps = [f"{listed(list(dict.fromkeys(names)))} ({step})" for step, names in firsts.items()]
    return f"First among the targets: {', then '.join(steps)}" if steps else "No injected value reaches a ranking"


def _ends(name: str, rows: pd.DataFrame) -> str:
    """The highest and the lowest number of each step in words; all of them are too many for a text alternative."""
    ranked = {step: values.round(6).sort_values(kind="stable") for step, values in _published(rows).items()}
    steps = [f"{step} {v.index[-1]} {v.iloc[-1]:.3f} to {v.index[0]} {v.iloc[0]:.3f}" for step, v in ranked.items()]
    return f"{name}, highest to lowest: {', '.join(steps)}"


@styled
def incident_steps(paths: Paths) -> Drawn:
    """SNIPS on judge scores by step, one line per policy, one panel per geometry; shaded: injected values in place."""
    finding = _steps_finding(paths)
    figure, axes = panels(len(paths), 1, finding, 2.9, sharey=True)
    for axis, (name, rows) in zip(axes, paths.items(), strict=True):
        table = _published(rows)
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
    ends = [_ends(name, rows) for name, rows in paths.items()]
    return drawn(figure, finding, f"{JUDGE_SNIPS} of every policy at every step", *ends)
