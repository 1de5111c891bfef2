"""Figures of the anomaly: what the gap is made of, and why no re-weighting of the log reaches the truth.

Each figure has `<figure>_finding`, its title computed from the data, and `<figure>_alt`, the same in words for
readers who do not see it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from arena10k.attribution.game import CAUSE_WORDS
from arena10k.plots.style import BAND, INK, SOFT, looks, panels, sentences, styled
from arena10k.wording import JUDGE_SNIPS, level, listed, number, percent

METHOD_NAMES = {"clip": "clipping", "power": "power", "dros": "optimistic shrinkage"}
_TAKES, _GIVES = "#d55e00", "#0173b2"


def _clear(row: Mapping[str, Any]) -> bool:
    return row["ci_low"] is not None and (row["ci_low"] > 0 or row["ci_high"] < 0)


def _known(parts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [p for p in parts if p["value"] is not None]


def waterfall_finding(row: Mapping[str, Any]) -> str:
    """Which cause makes up most of the gap between SNIPS on judge scores and the trusted value."""
    if row["gap"] is None:
        return f"{row['policy']} has neither a trusted value nor draws: its {JUDGE_SNIPS} cannot be taken apart"
    main = [p for p in _known(row["parts"]) if p["cause"] == row.get("main_cause")]
    known = main or [p for p in _known(row["parts"]) if _clear(p)]
    end, value, _ = _end(row)
    start = f"{row['policy']}: {JUDGE_SNIPS} {row['published']:.2f}, {end} {value:.2f}"
    if not known:
        return f"{start}; no cause is clear from its noise"
    named = max(known, key=lambda p: abs(p["value"]))
    name = CAUSE_WORDS[named["cause"]]
    if row.get("main_cause") == "corrupted_logprobs" and (told := _corrupted(row, named)):
        return f"{start}; {told}"
    verb = "account" if name.endswith(("log-probs", "draws")) else "accounts"
    return f"{start}; {name} {verb} for {named['value']:+.2f} of the gap of {row['gap']:+.2f}"


def _end(row: Mapping[str, Any]) -> tuple[str, float, list[float] | None]:
    """What the gap leads to, its value and its interval: the trusted value, else the judge's mean of the own draws."""
    if row["trusted"] is None:
        return "own draws by the judge", row["on_own_draws"], None
    return "trusted", row["trusted"], row["trusted_ci"]


def _corrupted(row: Mapping[str, Any], named: Mapping[str, Any]) -> str:
    """Why corrupted log-probs are the main cause where the size of their part does not say so."""
    largest = max(_known(row["parts"]), key=lambda p: abs(p["value"]))
    held = f"corrupted log-probs hold {percent(row['corrupted_weight_share'])} of the weight"
    if largest["cause"] != named["cause"]:
        of = f"{largest['value']:+.2f} of the gap of {row['gap']:+.2f}"
        return f"{held} and come first, whatever else is wrong: {CAUSE_WORDS[largest['cause']]} is {of}"
    if not _clear(named):
        return f"{held}; that this moves the number by {named['value']:+.2f} could be chance"
    return ""


def waterfall_alt(row: Mapping[str, Any]) -> str:
    """The waterfall in words."""
    told = [
        f"{CAUSE_WORDS[p['cause']]} {p['value']:+.3f} ({p['ci_low']:+.3f} to {p['ci_high']:+.3f})"
        for p in _known(row["parts"])
    ]
    return (
        f"Waterfall from {JUDGE_SNIPS} to what is trusted. {waterfall_finding(row)}. "
        f"Parts with {level(row['confidence'])} intervals: {'; '.join(told) or 'none'}."
    )


@styled
def waterfall(row: Mapping[str, Any]) -> Figure:
    """From SNIPS on judge scores to the trusted value, or, without one, to what the judge gives the policy's own draws,
    one step per cause; `row` is a row of anomaly.json.

    A bar that goes left is overvaluation that the repair takes away; the whisker is the interval of the part,
    drawn around the end of its bar.
    """
    figure, (axis,) = panels(1, 1, waterfall_finding(row), 3.2)
    parts = _known(row["parts"])
    if row["gap"] is None or not parts:
        _empty(axis, "nothing to compare with")
        return figure
    end, last, ci = _end(row)
    ends = [("published", row["published"]), *((p["cause"], None) for p in parts), (end, last)]
    at = row["published"]
    for y, (name, value) in enumerate(ends):
        if value is not None:
            span = "" if name == "published" or ci is None else "  ({:.3f} to {:.3f})".format(*ci)
            axis.barh(y, value, height=0.62, color=INK if name == "published" else SOFT)
            _told(axis, y, f"{value:.3f}{span}", bold=True)
            continue
        at = _step(axis, y, at, parts[y - 1])
    if ci is not None:
        axis.plot(ci, [len(ends) - 1] * 2, color="white", linewidth=4.2, solid_capstyle="butt")
        axis.plot(ci, [len(ends) - 1] * 2, color=INK, linewidth=1.6, marker="|", markersize=9)
    names = CAUSE_WORDS | {"published": JUDGE_SNIPS}
    axis.set_yticks(range(len(ends)), [names.get(name, name) for name, _ in ends])
    axis.set(ylim=(len(ends) - 0.4, -0.6), xlabel="policy value")
    low, high = axis.get_xlim()
    axis.set_xlim(min(low, 0.0), high + 0.55 * (high - min(low, 0.0)))
    axis.set_xticks([t for t in axis.get_xticks() if min(low, 0.0) <= t <= max(1.0, high)])
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x")
    return figure


def _told(axis: Axes, y: int, text: str, bold: bool = False) -> None:
    axis.text(1.0, y, text, va="center", ha="right", fontsize=9, fontweight="bold" if bold else "normal",
              transform=axis.get_yaxis_transform())  # fmt: skip


def _step(axis: Axes, y: int, at: float, part: Mapping[str, Any]) -> float:
    """One bar of the waterfall, from `at` to what is left; returns that."""
    value, end = part["value"], at - part["value"]
    takes = value > 0
    axis.barh(y, end - at, left=at, height=0.62, color=_TAKES if takes else _GIVES, hatch="" if takes else "///")
    axis.plot([end, end], [y + 0.31, y + 0.69], color=SOFT, linewidth=0.8)
    span = ""
    if part["ci_low"] is not None:
        axis.plot(
            [at - part["ci_high"], at - part["ci_low"]], [y, y], color=INK, linewidth=1.4, marker="|", markersize=8
        )
        span = f"  ({part['ci_low']:+.3f} to {part['ci_high']:+.3f})"
    _told(axis, y, "0, nothing to repair" if value == 0 else f"{value:+.3f}{span}")
    return float(end)


def _empty(axis: Axes, why: str) -> None:
    axis.text(0.5, 0.5, why, ha="center", va="center", color=SOFT, transform=axis.transAxes)
    axis.set_axis_off()


def shrinkage_finding(policy: str, paths: pd.DataFrame, band: tuple[float, float] | None) -> str:
    """Whether any way of shrinking the weights reaches the trusted or measured value."""
    if paths.empty:
        return f"{policy} has no usable log-weight to shrink"
    low, high = paths.value.min(), paths.value.max()
    span = f"{low:.2f} to {high:.2f}"
    if band is None:
        return f"Shrinking the weights of {policy} moves its value over {span}; which of them is right is not known"
    inside = paths[paths.value.between(*band)]
    if inside.empty:
        lies = f"its value lies at {band[0]:.2f} to {band[1]:.2f}"
        return f"However they are shrunk, the weights of {policy} give {span}; {lies}"
    if len(inside) == len(paths):
        return f"Every shrinkage of the weights of {policy} agrees with its value ({span})"
    names = listed([METHOD_NAMES.get(m, m) for m in dict.fromkeys(inside.method)])
    return (
        f"Shrinking the weights of {policy} gives {span}; part of it, by {names}, meets {band[0]:.2f} to {band[1]:.2f}"
    )


def shrinkage_alt(policy: str, paths: pd.DataFrame, band: tuple[float, float] | None) -> str:
    """The shrinkage paths in words."""
    if paths.empty:
        return shrinkage_finding(policy, paths, band) + "."
    told = [f"{METHOD_NAMES.get(m, m)} {g.value.min():.3f} to {g.value.max():.3f}" for m, g in paths.groupby("method")]
    return (
        f"Self-normalised value of {policy} against effective sample size as the weights are shrunk towards equal. "
        f"{shrinkage_finding(policy, paths, band)}. Ranges: {'; '.join(told)}."
    )


@styled
def shrinkage(
    policy: str,
    paths: pd.DataFrame,
    band: tuple[float, float] | None = None,
) -> Figure:
    """Value along shrinkage paths (`attribution.shrinkage_paths`) against the `band` that holds the trusted value."""
    figure, (axis,) = panels(1, 1, shrinkage_finding(policy, paths, band), 3.0)
    if paths.empty:
        _empty(axis, "no usable log-weight")
        return figure
    shown = looks(METHOD_NAMES)
    if band is not None:
        axis.axhspan(*band, color=BAND, zorder=0)
        middle = float(np.mean(band))
        axis.text(0.99, middle, "trusted", transform=axis.get_yaxis_transform(), ha="right", va="center", fontsize=9)
    for method, path in paths.groupby("method", sort=False):
        look = shown.get(method, shown["clip"])
        axis.plot(path.ess_share, path.value, color=look.colour, linestyle=look.line, linewidth=2, marker=look.marker,
                  markevery=max(1, len(path) // 8), markersize=5, label=METHOD_NAMES.get(method, method))  # fmt: skip
    raw, equal = paths.loc[paths.ess_share.idxmin()], paths.loc[paths.ess_share.idxmax()]
    apart = equal.ess_share > 2 * raw.ess_share
    axis.annotate(
        "raw weights" if apart else "raw and equal weights",
        (raw.ess_share, raw.value),
        xytext=(4, 9),
        textcoords="offset points",
        fontsize=9,
    )
    if apart:
        axis.annotate("equal weights", (equal.ess_share, equal.value), xytext=(0, 9), textcoords="offset points",
                      fontsize=9, ha="right")  # fmt: skip
    axis.set(xlabel="effective sample size, share of rows", ylabel="self-normalised value", xscale="log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.4g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    low, high = min(0.0, paths.value.min()), max(1.0, paths.value.max())
    axis.set_ylim(low, high)
    axis.grid(axis="y")
    axis.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, handlelength=3)
    return figure


def length_weights_finding(strata: Mapping[str, pd.DataFrame]) -> str:
    """Where the weight sits by response length, for the policy where it departs most from where the rows are."""
    told = {
        p: (s.weight_share - s.row_share).abs().max()
        for p, s in strata.items()
        if len(s) and s.weight_share.notna().all()
    }
    if not told:
        return "No policy has weights by response length"
    worst = max(told, key=told.__getitem__)
    if told[worst] < 0.1:
        return "The weight of every policy is spread over response lengths as the rows are"
    s = strata[worst]
    k = (s.weight_share - s.row_share).abs().idxmax()
    return (
        f"Responses of {_span(s, k)} characters are {s.row_share[k]:.0%} of the rows and hold {s.weight_share[k]:.0%} "
        f"of the weight of {worst}"
    )


def length_weights_alt(strata: Mapping[str, pd.DataFrame]) -> str:
    """The strata in words."""
    told = [
        f"{p}: " + ", ".join(f"{_span(s, k)} {s.weight_share[k]:.0%}" for k in s.index)
        for p, s in strata.items()
        if len(s)
    ]
    finding = length_weights_finding(strata)
    return sentences("Share of weight by response length in characters", finding, "; ".join(told))


def _span(s: pd.DataFrame, k: int) -> str:
    return f"{s.low[k]:,.0f} to {s.high[k]:,.0f}"


@styled
def length_weights(strata: Mapping[str, pd.DataFrame]) -> Figure:
    """Share of rows and of weight by response length (`attribution.length_strata`), one panel per policy."""
    columns = 3 if max(map(len, strata), default=0) <= 18 else 2
    figure, axes = panels(len(strata), columns, length_weights_finding(strata), 2.2, sharex=True)
    shown = looks(strata)
    for axis, (policy, s) in zip(axes, strata.items(), strict=True):
        axis.set_title(policy, loc="left", fontweight="bold")
        if not len(s):
            _empty(axis, "no lengths or weights")
            continue
        look, at = shown[policy], np.arange(len(s))
        axis.barh(at, s.weight_share, height=0.72, color=look.colour, hatch=look.hatch)
        axis.plot(s.row_share, at, linestyle="", marker="|", markersize=13, markeredgewidth=2.2, color=INK)
        axis.set_yticks(at, [_span(s, k) for k in s.index])
        axis.tick_params(axis="y", length=0, labelsize=8)
        axis.set(xlim=(0, 1.02), xlabel="", ylim=(len(s) - 0.4, -0.6))
        axis.tick_params(labelbottom=True)
        axis.grid(axis="x")
    figure.supxlabel("share of weight (bar) and of rows (upright mark)", fontsize=10)
    figure.supylabel("response length in characters", fontsize=10)
    return figure


def ceiling_finding(audit: pd.DataFrame) -> str:
    """Which policies' effective sample size is just the number of rows at the largest weight."""
    bound = audit[audit.clip_dominated]
    if bound.empty:
        # Equal weights are all at the ceiling, and nothing is wrong with them.
        equal = audit[(audit.tied > 1) & ((audit.ess / audit.tied - 1).abs() <= 0.1)].policy
        but = f", but for {listed(list(equal))}, whose weights are all equal" if len(equal) else ""
        return f"No policy's effective sample size is the number of rows tied at its largest weight{but}"
    told = [f"{r.policy} ({r.tied:,} rows)" for r in bound.itertuples()]
    return f"The effective sample size is the number of rows at the ceiling for {listed(told)}: the value is their mean"


def ceiling_alt(audit: pd.DataFrame) -> str:
    """The comparison in words."""
    told = [
        f"{r.policy} ESS {number(r.ess)}, ceiling count {number(r.ceiling)}, tied {r.tied}" for r in audit.itertuples()
    ]
    finding = ceiling_finding(audit)
    return sentences("Effective sample size against rows at the ceiling, on log axes", finding, "; ".join(told))


@styled
def ceiling(audit: pd.DataFrame) -> Figure:
    """Effective sample size against total weight / largest weight (`attribution.ceiling_audit`): equal on the diagonal.

    Filled marks: more than one row tied at the largest weight and ESS within 10 % of their number.
    """
    figure, (axis,) = panels(1, 1, ceiling_finding(audit), 3.4)
    known = audit[audit.rows > 0]
    if known.empty:
        _empty(axis, "no usable log-weight")
        return figure
    shown = looks(audit.policy)
    high = 1.6 * max(known.ess.max(), known.ceiling.max())
    axis.plot([0.8, high], [0.8, high], color=SOFT, linewidth=1, linestyle="--")
    # Marks at one place are drawn inside each other.
    place = known.ess.round(3).astype(str) + known.ceiling.round(3).astype(str)
    inside = place.groupby(place).cumcount(ascending=False)
    for r, larger in zip(known.itertuples(), inside, strict=True):
        look = shown[r.policy]
        fill = look.colour if r.clip_dominated else "white"
        axis.plot(r.ceiling, r.ess, marker=look.marker, markersize=10 + 5 * larger, color=look.colour,
                  linestyle="", markeredgewidth=1.8, markerfacecolor=fill, label=r.policy)  # fmt: skip
    axis.set(xscale="log", yscale="log", xlim=(0.8, high), ylim=(0.8, high))
    axis.set(xlabel="total weight / largest weight (rows at a ceiling)", ylabel="effective sample size (rows)")
    axis.grid(True)
    line = Line2D([], [], color=SOFT, linewidth=1, linestyle="--", label="equal: only the ceiling counts")
    marks = [Line2D([], [], color=shown[p].colour, marker=shown[p].marker, linestyle="", label=p) for p in known.policy]
    axis.legend(handles=[*marks, line], loc="upper left")
    return figure
