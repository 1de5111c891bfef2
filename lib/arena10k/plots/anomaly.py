"""Figures of the anomaly: what the gap is made of, why no re-weighting of the log reaches the truth, and how each
policy talks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from arena10k.attribution.game import CAUSE_WORDS
from arena10k.plots.style import BAND, INK, SOFT, across, drawn, empty, looks, panels, styled
from arena10k.report.display import Drawn
from arena10k.wording import JUDGE_SNIPS, level, listed, number, percent

METHOD_NAMES = {"clip": "clipping", "power": "power", "dros": "optimistic shrinkage"}
_TAKES, _GIVES = "#d55e00", "#0173b2"

Row = Mapping[str, Any]
#: Per policy: `value`, `logging_mean`, `p_value`, `null` (b,), as in `diagnostics.PermutationNull`.
Nulls = Mapping[str, Any]
#: Per policy: `chars` lengths of its own responses, `nats` log-prob per `unit` of the logged ones, as in
#: `attribution.Profile`; the logging policy first.
Profiles = Mapping[str, Any]


def _clear(part: Row) -> bool:
    return part["ci_low"] is not None and (part["ci_low"] > 0 or part["ci_high"] < 0)


def _known(parts: Sequence[Row]) -> list[Row]:
    return [p for p in parts if p["value"] is not None]


def _waterfall_finding(row: Row) -> str:
    """Which cause makes up most of the gap between SNIPS on judge scores and the trusted value."""
    if row["gap"] is None:
        return f"{row['policy']} has neither a trusted value nor draws: its {JUDGE_SNIPS} cannot be taken apart"
    parts = _known(row["parts"])
    named = [p for p in parts if p["cause"] == row.get("main_cause")] or [p for p in parts if _clear(p)]
    end, value, _ = _end(row)
    start = f"{row['policy']}: {JUDGE_SNIPS} {row['published']:.2f}, {end} {value:.2f}"
    if not named:
        return f"{start}; no cause is clear from its noise"
    main = max(named, key=lambda p: abs(p["value"]))
    if row.get("main_cause") == "corrupted_logprobs" and (why := _corrupted(row, main)):
        return f"{start}; {why}"
    name = CAUSE_WORDS[main["cause"]]
    verb = "account" if name.endswith(("log-probs", "draws")) else "accounts"
    return f"{start}; {name} {verb} for {main['value']:+.2f} of the gap of {row['gap']:+.2f}"


def _end(row: Row) -> tuple[str, float, list[float] | None]:
    """What the gap leads to, its value and its interval: the trusted value, else the judge's mean of the own draws."""
    if row["trusted"] is None:
        return "own draws by the judge", row["on_own_draws"], None
    return "trusted", row["trusted"], row["trusted_ci"]


def _corrupted(row: Row, main: Row) -> str:
    """Why corrupted log-probs are the main cause where the size of their part does not say so."""
    largest = max(_known(row["parts"]), key=lambda p: abs(p["value"]))
    held = f"corrupted log-probs hold {percent(row['corrupted_weight_share'])} of the weight"
    if largest["cause"] != main["cause"]:
        of = f"{largest['value']:+.2f} of the gap of {row['gap']:+.2f}"
        return f"{held} and come first, whatever else is wrong: {CAUSE_WORDS[largest['cause']]} is {of}"
    return "" if _clear(main) else f"{held}; that this moves the number by {main['value']:+.2f} could be chance"


@styled
def waterfall(row: Row) -> Drawn:
    """From SNIPS on judge scores to the trusted value, or, without one, to what the judge gives the policy's own draws,
    one step per cause; `row` is a row of anomaly.json.

    A bar that goes left is overvaluation that the repair takes away; the whisker is the interval of the part,
    drawn around the end of its bar.
    """
    finding, parts = _waterfall_finding(row), _known(row["parts"])
    figure, (axis,) = panels(1, 1, finding, 3.2)
    told = [f"{CAUSE_WORDS[p['cause']]} {p['value']:+.3f} ({p['ci_low']:+.3f} to {p['ci_high']:+.3f})" for p in parts]
    details = f"Parts with {level(row['confidence'])} intervals: {'; '.join(told) or 'none'}"
    result = drawn(figure, finding, f"Waterfall from {JUDGE_SNIPS} to what is trusted", details)
    if row["gap"] is None or not parts:
        empty(axis, "nothing to compare with")
        return result
    end, value, ci = _end(row)
    names = [JUDGE_SNIPS, *(CAUSE_WORDS[p["cause"]] for p in parts), end]
    last = len(names) - 1
    _level_bar(axis, 0, row["published"], INK, f"{row['published']:.3f}")
    at = row["published"]
    for y, part in enumerate(parts, 1):
        at = _step(axis, y, at, part)
    _level_bar(axis, last, value, SOFT, f"{value:.3f}" + ("  ({:.3f} to {:.3f})".format(*ci) if ci else ""))
    if ci is not None:
        axis.plot(ci, [last, last], color="white", linewidth=4.2, solid_capstyle="butt")
        axis.plot(ci, [last, last], color=INK, linewidth=1.6, marker="|", markersize=9)
    axis.set_yticks(range(len(names)), names)
    axis.set(ylim=(last + 0.6, -0.6), xlabel="policy value")
    low, high = axis.get_xlim()
    low = min(low, 0.0)
    axis.set_xlim(low, high + 0.55 * (high - low))
    axis.set_xticks([t for t in axis.get_xticks() if low <= t <= max(1.0, high)])
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x")
    return result


def _level_bar(axis: Axes, y: int, value: float, colour: str, words: str) -> None:
    axis.barh(y, value, height=0.62, color=colour)
    axis.text(1.0, y, words, ha="right", fontsize=9, fontweight="bold", **across(axis))


def _step(axis: Axes, y: int, at: float, part: Row) -> float:
    """One bar of the waterfall, from `at` to what is left; returns that."""
    value, end = part["value"], at - part["value"]
    takes = value > 0
    axis.barh(y, end - at, left=at, height=0.62, color=_TAKES if takes else _GIVES, hatch="" if takes else "///")
    axis.plot([end, end], [y + 0.31, y + 0.69], color=SOFT, linewidth=0.8)
    words = f"{value:+.3f}" if value else "0, nothing to repair"
    if part["ci_low"] is not None:
        span = [at - part["ci_high"], at - part["ci_low"]]
        axis.plot(span, [y, y], color=INK, linewidth=1.4, marker="|", markersize=8)
        words += f"  ({part['ci_low']:+.3f} to {part['ci_high']:+.3f})" if value else ""
    axis.text(1.0, y, words, ha="right", fontsize=9, **across(axis))
    return float(end)


def _shrinkage_finding(policy: str, paths: pd.DataFrame, band: tuple[float, float] | None) -> str:
    """Whether any way of shrinking the weights reaches the trusted or measured value."""
    if paths.empty:
        return f"{policy} has no usable log-weight to shrink"
    span = f"{paths.value.min():.2f} to {paths.value.max():.2f}"
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


@styled
def shrinkage(policy: str, paths: pd.DataFrame, band: tuple[float, float] | None = None) -> Drawn:
    """Value along shrinkage paths (`attribution.shrinkage_paths`) against the `band` that holds the trusted value."""
    finding = _shrinkage_finding(policy, paths, band)
    figure, (axis,) = panels(1, 1, finding, 3.0)
    what = f"Self-normalised value of {policy} against effective sample size as the weights are shrunk towards equal"
    if paths.empty:
        empty(axis, "no usable log-weight")
        return drawn(figure, finding, what)
    shown = looks(METHOD_NAMES)
    if band is not None:
        axis.axhspan(*band, color=BAND, zorder=0)
        axis.text(0.99, float(np.mean(band)), "trusted", ha="right", fontsize=9, **across(axis))
    for method, path in paths.groupby("method", sort=False):
        look = shown.get(method, shown["clip"])
        axis.plot(path.ess_share, path.value, color=look.colour, linestyle=look.line, linewidth=2, marker=look.marker,
                  markevery=max(1, len(path) // 8), markersize=5, label=METHOD_NAMES.get(method, method))  # fmt: skip
    raw, equal = paths.loc[paths.ess_share.idxmin()], paths.loc[paths.ess_share.idxmax()]
    apart = equal.ess_share > 2 * raw.ess_share
    words: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9}
    first = "raw weights" if apart else "raw and equal weights"
    axis.annotate(first, (raw.ess_share, raw.value), xytext=(4, 9), **words)
    if apart:
        axis.annotate("equal weights", (equal.ess_share, equal.value), xytext=(0, 9), ha="right", **words)
    axis.set(xlabel="effective sample size, share of rows", ylabel="self-normalised value", xscale="log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.4g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_ylim(min(0.0, paths.value.min()), max(1.0, paths.value.max()))
    axis.grid(axis="y")
    axis.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, handlelength=3)
    ranges = [
        f"{METHOD_NAMES.get(m, m)} {g.value.min():.3f} to {g.value.max():.3f}" for m, g in paths.groupby("method")
    ]
    return drawn(figure, finding, what, f"Ranges: {'; '.join(ranges)}")


def _length_finding(strata: Mapping[str, pd.DataFrame]) -> str:
    """Where the weight sits by response length, for the policy where it departs most from where the rows are."""
    apart = {
        p: (s.weight_share - s.row_share).abs() for p, s in strata.items() if len(s) and s.weight_share.notna().all()
    }
    if not apart:
        return "No policy has weights by response length"
    worst = max(apart, key=lambda p: apart[p].max())
    s, k = strata[worst], apart[worst].idxmax()
    if apart[worst][k] < 0.1:
        return "The weight of every policy is spread over response lengths as the rows are"
    return (
        f"Responses of {_span(s, k)} characters are {percent(s.row_share[k])} of the rows and hold "
        f"{percent(s.weight_share[k])} of the weight of {worst}"
    )


def _span(s: pd.DataFrame, k: int) -> str:
    return f"{s.low[k]:,.0f} to {s.high[k]:,.0f}"


@styled
def length_weights(strata: Mapping[str, pd.DataFrame]) -> Drawn:
    """Share of rows and of weight by response length (`attribution.length_strata`), one panel per policy."""
    finding, shown = _length_finding(strata), looks(strata)
    columns = 3 if max(map(len, strata), default=0) <= 18 else 2
    figure, axes = panels(len(strata), columns, finding, 2.2, sharex=True)
    shares = []
    for axis, (policy, s) in zip(axes, strata.items(), strict=True):
        axis.set_title(policy, loc="left", fontweight="bold")
        if not len(s):
            empty(axis, "no lengths or weights")
            continue
        shares.append(f"{policy}: " + ", ".join(f"{_span(s, k)} {percent(s.weight_share[k])}" for k in s.index))
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
    return drawn(figure, finding, "Share of weight by response length in characters", "; ".join(shares))


def _permutation_finding(nulls: Nulls) -> str:
    """For which policies shuffled weights give values as far from the logging policy's mean as their own do."""
    usable = {p: n for p, n in nulls.items() if np.isfinite(n.value)}
    blind = [p for p, n in usable.items() if n.p_value > 0.05]
    if not usable:
        return "No policy has weights to shuffle"
    if not blind:
        return "No policy's value is one that shuffled weights give: every policy's weights add information"
    names = "every policy" if len(blind) == len(usable) else listed(blind)
    return f"Shuffled weights give values as far off for {names}: the weights add no visible information"


@styled
def permutation(nulls: Nulls) -> Drawn:
    """Values under shuffled weights, with the observed value and the logged mean, one panel per policy."""
    finding, shown = _permutation_finding(nulls), looks(nulls)
    figure, axes = panels(len(nulls), 3, finding, 1.9)
    facts = []
    for axis, (policy, n) in zip(axes, nulls.items(), strict=True):
        axis.set_title(policy, loc="left", fontweight="bold")
        axis.set(yticks=[], xlabel="", ylabel="")
        axis.spines["left"].set_visible(False)
        if not np.isfinite(n.value):
            axis.text(0.5, 0.5, "no weights", ha="center", transform=axis.transAxes, color=SOFT)
            continue
        facts.append(f"{policy}: value {n.value:.3f}, p {number(n.p_value)}")
        if np.ptp(n.null) > 1e-9:
            sns.histplot(x=n.null, bins=30, ax=axis, color=shown[policy].colour, alpha=0.5, linewidth=0.2)
        axis.axvline(n.logging_mean, color=SOFT, linewidth=1.2, linestyle="--")
        axis.axvline(n.value, color=INK, linewidth=2.2)
        axis.set(ylabel="")
        axis.margins(x=0.15, y=0.3)
        axis.text(0.02, 0.98, f"p = {number(n.p_value)}", transform=axis.transAxes, va="top", fontsize=9)
    figure.supxlabel("self-normalised value; solid: observed, dashed: mean of the logged rewards", fontsize=10)
    return drawn(figure, finding, "Histograms of the value under shuffled weights", "; ".join(facts))


def _profiles_finding(profiles: Profiles) -> str:
    """Which policies' own responses have other lengths than the logged ones, by their medians."""
    middle = {p: np.median(known) for p, own in profiles.items() if len(known := _finite(own.chars))}
    base = next(iter(profiles))
    if base not in middle or len(middle) < 2:
        return "No target has responses of its own to compare with the logged ones"
    off = {p: m for p, m in middle.items() if max(m, middle[base]) > 1.5 * min(m, middle[base])}
    if not off:
        span = f"{min(middle.values()):,.0f} to {max(middle.values()):,.0f} characters, {base} {middle[base]:,.0f}"
        return f"No policy's responses are more than half as long again as those of {base}, or the reverse ({span})"
    lengths = [f"{p} ({m:,.0f} characters)" for p, m in off.items()]
    return f"Unlike {base} ({middle[base]:,.0f} characters) in length: {listed(lengths)}"


def _finite(values: np.ndarray) -> np.ndarray:
    return np.asarray(values[np.isfinite(values)])


def _median(values: np.ndarray) -> str:
    known = _finite(values)
    return number(float(np.median(known))) if len(known) else "no"


@styled
def profiles(profiles: Profiles) -> Drawn:
    """Length of own responses (left) and log-prob of the logged responses (right) by policy: median, half of the
    responses (thick), four fifths (thin)."""
    finding, shown, unit = _profiles_finding(profiles), looks(profiles), next(iter(profiles.values())).unit
    figure, axes = panels(2, 2, finding, 0.8 + 0.33 * len(profiles), sharey=True)
    for axis, name in zip(axes, ("chars", "nats"), strict=True):
        for y, (policy, own) in enumerate(profiles.items()):
            known = _finite(getattr(own, name))
            if not len(known):
                axis.text(0.02, y, "not known", fontsize=9, color=SOFT, **across(axis))
                continue
            low, first, middle, third, high = np.quantile(known, [0.1, 0.25, 0.5, 0.75, 0.9])
            look = shown[policy]
            axis.plot([low, high], [y, y], color=look.colour, linewidth=1.4)
            axis.plot([first, third], [y, y], color=look.colour, linewidth=5, alpha=0.55, solid_capstyle="butt")
            axis.plot(middle, y, color=look.colour, marker=look.marker, markersize=7, markeredgecolor="white")
        axis.grid(axis="x")
        axis.tick_params(axis="y", length=0)
    axes[0].set(xlabel="own responses: characters", ylim=(len(profiles) - 0.5, -0.5))
    axes[0].set_yticks(range(len(profiles)), list(profiles))
    axes[1].set_xlabel(f"logged responses: nats per {unit}")
    medians = [f"{p} {_median(own.chars)} characters, {_median(own.nats)} nats" for p, own in profiles.items()]
    what = f"Length of each policy's own responses, and its log-prob per {unit} of the logged responses"
    return drawn(figure, finding, what, f"Medians: {'; '.join(medians)}")
