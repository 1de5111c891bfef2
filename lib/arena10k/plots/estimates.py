"""Figures of policy values: the forest of all estimates, two states of a run, the steps of an incident."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arena10k.estimation import ESTIMATORS
from arena10k.estimation.scale import UNIT, Scale
from arena10k.estimation.verdicts import NO_VERDICT, NOT_ASKED, NOT_ON_ORACLE_SCALE
from arena10k.plots.style import (
    ACCENT,
    BAND,
    GRID,
    INK,
    SOFT,
    beside,
    drawn,
    folded,
    gallery,
    is_narrow,
    key,
    looks,
    name_rows,
    panels,
    styled,
    verdict_mark,
)  # fmt: skip
from arena10k.report.display import Drawn
from arena10k.wording import JUDGE_SNIPS, VERDICTS, level, listed, number

#: How far from [0, 1] a value is still drawn where it is: beyond, it would leave no room for the others.
EDGES = np.array([-0.25, 1.25])
#: Words in the place of a value.
_INSTEAD: dict[str, Any] = {"x": 0.01, "ha": "left", "fontsize": 9, "color": SOFT}


def _forest_finding(frame: pd.DataFrame, truth: Mapping[str, float]) -> str:
    """How many estimates are refused and, where the truth is known, how many other intervals hold it. Those on the
    judge's scale, and those that were not asked for, are drawn and not counted."""
    frame = frame[~frame.verdict.isin(NO_VERDICT)]
    # Reasons come as one text or as names.
    reasons = frame.get("reasons", pd.Series("", frame.index)).astype(str).str.replace("_", " ")
    raw = reasons.str.contains(NOT_ON_ORACLE_SCALE.replace("_", " "), regex=False)
    means = frame.estimator.isin([name for name, estimator in ESTIMATORS.items() if estimator.judge_scale])
    uncounted = means | (raw & (frame.verdict != "REFUSE"))
    frame = frame[~uncounted]
    if frame.empty and uncounted.any():
        return "No estimate is on the oracle's scale"
    is_refused = frame.verdict == "REFUSE"
    first = f"{is_refused.sum() or 'None'} of {len(frame)} estimates are refused"
    first += f" ({listed(list(frame.policy[is_refused].unique()))})" if is_refused.any() else ""
    judged = frame[~is_refused & frame.policy.isin(list(truth)) & frame.ci_low.notna() & frame.ci_high.notna()]
    if judged.empty:
        return first
    held = judged.policy.map(truth).astype(float).between(judged.ci_low, judged.ci_high).sum()
    apart = " (those on the judge's scale are not counted)" if uncounted.any() else ""
    return (
        f"{first}; {held} of {len(judged)} {'other ' * bool(is_refused.any())}intervals hold the measured value{apart}"
    )


@styled
def forest(
    rows: pd.DataFrame | Sequence[Mapping[str, Any]],
    truth: Mapping[str, float] | None = None,
    scale: Scale = UNIT,
    headlines: Mapping[str, str] | None = None,
) -> Drawn:
    """Estimates with intervals, grouped by policy, and `truth`, measured values by policy, as an upright line through
    the policy's group. One row for each policy has the policy's colour; of more, the estimator that `headlines` names
    for the policy has the accent, others are grey.

    `rows` are rows of estimates.json: `policy`, `estimator`, `value`, `ci_low`, `ci_high`, `verdict` (and `judge`,
    shown where it varies). Filled marks are REPORT, half-filled CAUTION, hollow with a dotted interval REFUSE. A value
    far outside of the `scale`, where policy values lie, is an arrow at the edge with its number.
    """
    frame = pd.DataFrame(rows).reset_index(drop=True).astype({"value": float, "ci_low": float, "ci_high": float})
    truth, labels, judge = truth or {}, frame.estimator, ""
    if "judge" in frame and frame.judge.nunique(dropna=False) > 1:
        labels = labels + " · " + frame.judge.astype(str)
    elif "judge" in frame and len(frame):
        judge = f", judge {frame.judge.iloc[0]}"
    finding = _forest_finding(frame, truth)
    alone, chosen = len(frame) > 0 and frame.policy.is_unique, frame.policy.map(headlines or {}) == frame.estimator
    figure, axis, at = _by_policy(frame, frame.policy if alone else labels, 0.04, 0 if alone else 1.2)
    shown = looks(frame.policy if alone else [])
    for y, r in zip(at, frame.itertuples(), strict=True):
        refused = r.verdict == "REFUSE"
        colour = shown[r.policy].colour if alone else ACCENT if chosen[r.Index] else SOFT
        line, marker = ":" if refused else "-", shown[r.policy].marker if alone else "o"
        low, high, place = np.clip([r.ci_low, r.ci_high, r.value], *scale.at(EDGES))
        axis.plot([low, high], [y, y], color=colour, linewidth=1.8, linestyle=line, zorder=2)
        if np.isnan(place):
            beside(axis, y, "not collected" if r.verdict == NOT_ASKED else "no value", **_INSTEAD)
        elif place != r.value:
            marker, side = (">", "right") if r.value > place else ("<", "left")
            axis.text(place, y, f"  {number(r.value)}  ", va="center", ha=side, fontsize=9)
        axis.plot(place, y, color=colour, zorder=3, **verdict_mark(r.verdict, marker))
    for policy, own in at.groupby(frame.policy):
        span = [own.min() - 0.55, own.max() + 0.45]
        axis.plot([truth.get(policy, np.nan)] * 2, span, color=INK, linewidth=1.6, zorder=1)
    for verdict in VERDICTS:
        if verdict in set(frame.verdict):
            line = ":" if verdict == "REFUSE" else "-"
            axis.plot([], [], color=SOFT, linestyle=line, label=verdict, **verdict_mark(verdict))
    if truth:
        bar: dict[str, Any] = {"marker": "|", "markersize": 12, "markeredgewidth": 1.6, "linestyle": ""}
        axis.plot([], [], color=INK, label="measured", **bar)
    # Above the first row: below the last it would be pages away.
    corner: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2}
    axis.legend(
        *axis.get_legend_handles_labels(), ncols=2 if is_narrow() else 4, handlelength=1.6, columnspacing=0.9, **corner
    )
    return drawn(figure, finding, f"Estimates and intervals of {listed(list(frame.policy.unique()))}{judge}")


def _by_policy(rows: pd.DataFrame, labels: pd.Series, margin: float, gap: float) -> tuple[Figure, Axes, pd.Series]:
    """A figure with a line for each of the rows, from the top down, grouped under the names of their policies (which
    take a `gap`), values along the bottom; and where each row is."""
    group, policies = pd.factorize(rows.policy)
    at, tall = pd.Series(group).rank(method="first") + gap * group, len(rows) + gap * len(policies)
    tall = tall if gap else tall + 1
    figure, (axis,) = panels(1, 1, (0.235 if gap else 0.3) * tall + 0.75)
    for policy, top in zip(policies, at.groupby(group).min() - 1, strict=True):
        if not gap:
            continue
        beside(axis, top, policy, x=0, ha="left", fontweight="bold", fontsize=10)
        axis.axhline(top - 0.62, color=GRID, linewidth=0.8)
    axis.set(ylim=(tall - 0.4, -0.7), xlabel="policy value")
    axis.set_yticks(at, labels)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x")
    axis.margins(x=margin)
    return figure, axis, at


@styled
def differences(baseline: str, rows: Sequence[Mapping[str, Any]], confidence: float = 0.95) -> Drawn:
    """Each policy's value minus that of the `baseline`, with simultaneous intervals; rows of `report.differences`."""
    apart = [f"{r['policy']} is {r['result']}" for r in rows if r["result"] in ("better", "worse")]
    finding = f"No policy differs from {baseline} by more than chance"
    if apart:
        finding = f"Against {baseline}: {listed(apart)}" + ("; no other differs" * (len(apart) < len(rows)))
    figure, (axis,) = panels(1, 1, 0.3 * len(rows) + 0.75)
    shown = looks([r["policy"] for r in rows])
    for y, r in enumerate(rows):
        look = shown[r["policy"]]
        axis.plot([r["low"], r["high"]], [y, y], color=look.colour, linewidth=1.8)
        axis.plot(r["value"], y, color=look.colour, marker=look.marker, markersize=7)
    axis.axvline(0, color=INK, linewidth=1.2)
    name_rows(axis, [r["policy"] for r in rows])
    axis.set_xlabel(folded(f"value minus that of {baseline}, {level(confidence)} intervals", 32))
    axis.grid(axis="x")
    facts = [f"{r['policy']} {r['value']:+.2f} ({r['low']:+.2f} to {r['high']:+.2f})" for r in rows]
    return drawn(figure, finding, f"Differences to {baseline}", "; ".join(facts))


@styled
def then_and_now(both: pd.DataFrame) -> Drawn:
    """Estimates of two states, grouped by policy: the earlier value with its interval, the present one, filled as its
    verdict says, and the way between them. `both` are rows of `changes.estimates`, of one judge."""
    outside, changed = both[both.outside], both[both.verdict_changed]
    finding = f"{len(outside)} of {len(both)} values left their earlier interval"
    finding += f" ({listed(list(outside.policy.unique()))})" if len(outside) else ""
    if changed.empty:
        finding += "; every verdict is the same"
    else:
        verb = "verdict" if len(changed) == 1 else "verdicts"
        finding += f"; {len(changed)} {verb} changed ({listed(list(changed.policy.unique()))})"
    both = both.reset_index(drop=True)
    figure, axis, at = _by_policy(both, both.estimator, 0.1, 1.2)
    axis.hlines(at, both.ci_low_before, both.ci_high_before, color=GRID, linewidth=5, zorder=1, label="interval then")
    axis.hlines(at, both.value_before, both.value_after, color=INK, linewidth=1.4, zorder=2)
    then: dict[str, Any] = {"marker": "|", "markersize": 9, "markeredgewidth": 1.8, "linestyle": ""}
    axis.plot(both.value_before, at, color=SOFT, zorder=3, label="then", **then)
    for verdict in VERDICTS:
        given, colour = both.verdict_after == verdict, SOFT if verdict == "REFUSE" else INK
        if given.any():
            mark = verdict_mark(verdict, size=6.5) | {"linestyle": "", "label": f"now, {verdict}"}
            axis.plot(both.value_after[given], at[given], color=colour, zorder=4, **mark)
    for y in at[both.value_after.isna()]:
        beside(axis, y, "no value now", **_INSTEAD)
    verdicts = both[["verdict_before", "verdict_after"]].fillna("none").agg(" to ".join, axis=1)
    for y, words in zip(at[both.verdict_changed], verdicts[both.verdict_changed], strict=True):
        beside(axis, y, words, fontsize=9)
    figure.legend(loc="outside lower right", ncols=2 if is_narrow() else 5, handlelength=2.0, columnspacing=1.4)
    return drawn(figure, finding, "Estimates then and now, by policy")


@styled
def incident_steps(paths: Mapping[str, pd.DataFrame]) -> Drawn:
    """SNIPS on judge scores by step, one line per policy, one panel for each of the `paths`: rows of `incident.frame`
    of one geometry, by the words for it. Shaded: injected values in place.

    The finding is which targets rank first at each step with injected values, and where they all tie. In words, each
    step has its highest and its lowest number: all of them are too many for a text alternative.
    """
    firsts: dict[str, list[str]] = {}
    tables, ends = {}, []
    for name, rows in paths.items():
        for step, hit in rows[rows.injected > 0].groupby("step", sort=False):
            values = hit.published.round(3)
            best = list(hit.policy[values == values.max()])
            firsts.setdefault(step, []).append("all" if 1 < len(best) == len(hit) else " = ".join(best))
        table = rows.pivot(index="policy", columns="step", values="published")
        tables[name] = table.loc[list(dict.fromkeys(rows.policy)), list(dict.fromkeys(rows.step))]
        ranked = {step: values.round(6).sort_values(kind="stable") for step, values in tables[name].items()}
        spans = [f"{step} {v.index[-1]} {v.iloc[-1]:.3f} to {v.index[0]} {v.iloc[0]:.3f}" for step, v in ranked.items()]
        ends.append(f"{name}, highest to lowest: {', '.join(spans)}")
    steps = [f"{listed(list(dict.fromkeys(names)))} ({step})" for step, names in firsts.items()]
    finding = f"First among the targets: {', then '.join(steps)}" if steps else "No injected value reaches a ranking"
    figure, shown = gallery(tables, 1, 2.9, up=JUDGE_SNIPS, sharey=True)
    for axis, _, table, _ in shown:
        tilt: dict[str, Any] = {"rotation": 45, "ha": "right"} if is_narrow() else {}
        last, looked = table.shape[1] - 1, looks(table.index)
        axis.axvspan(0.5, last - 0.5, color=BAND, zorder=0)
        for i, (policy, values) in enumerate(table.iterrows()):
            look, shift = looked[policy], 0.05 * (i - (len(table) - 1) / 2)
            axis.plot(np.arange(last + 1) + shift, values, color=look.colour, linestyle=look.line,
                      marker=look.marker, markersize=6.5, linewidth=1.6, label=policy)  # fmt: skip
        axis.set_xticks(range(last + 1), list(table.columns), **tilt)
        axis.set_xlim(-0.25, last + 0.25)
        axis.grid(axis="y")
        axis.text(0.55, 0.98, "injected values in place", transform=axis.get_xaxis_transform(), va="top")
        # The whole scale: a part of it would make noise look large.
        axis.set_ylim(min(0.0, table.min(axis=None)), max(1.0, table.max(axis=None)))
    key(shown[0][0])
    return drawn(figure, finding, f"{JUDGE_SNIPS} of every policy at every step", *ends)
