"""Figures of the anomaly: what the gap is made of, why no re-weighting of the log reaches the truth, and how each
policy talks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from arena10k.attribution.game import CAUSE_WORDS
from arena10k.plots.style import (
    ACCENT,
    BAND,
    INK,
    SOFT,
    beside,
    drawn,
    empty,
    folded,
    gallery,
    is_narrow,
    key,
    looks,
    name_rows,
    panels,
    styled,
)  # fmt: skip
from arena10k.report.display import Drawn
from arena10k.wording import JUDGE_SNIPS, level, listed, number, percent

METHOD_NAMES = {"clip": "clipping", "power": "power", "dros": "optimistic shrinkage"}
_TAKES, _GIVES = SOFT, ACCENT

Row = Mapping[str, Any]


def _gap_finding(row: Row, parts: Sequence[Row], end: str, value: float) -> str:
    """Which cause makes up most of the gap between SNIPS on judge scores and what it leads to, the `value` called
    `end`."""
    if row["gap"] is None:
        return f"{row['policy']} has neither a trusted value nor draws: its {JUDGE_SNIPS} cannot be taken apart"
    start = f"{row['policy']}: {JUDGE_SNIPS} {row['published']:.2f}, {end} {value:.2f}"
    clear = [p for p in parts if p["ci_low"] is not None and (p["ci_low"] > 0 or p["ci_high"] < 0)]
    named = [p for p in parts if p["cause"] == row.get("main_cause")] or clear
    if not named:
        return f"{start}; no cause is clear from its noise"
    main, largest = (max(some, key=lambda p: abs(p["value"])) for some in (named, parts))
    if row.get("main_cause") == "corrupted_logprobs":
        # They may be the main cause where the size of their part does not say so.
        held = f"{start}; corrupted log-probs hold {percent(row['corrupted_weight_share'])} of the weight"
        if largest["cause"] != main["cause"]:
            of = f"{CAUSE_WORDS[largest['cause']]} is {largest['value']:+.2f} of the gap of {row['gap']:+.2f}"
            return f"{held} and come first, whatever else is wrong: {of}"
        if main not in clear:
            return f"{held}; that this moves the number by {main['value']:+.2f} could be chance"
    name = CAUSE_WORDS[main["cause"]]
    verb = "account" if name.endswith(("log-probs", "draws")) else "accounts"
    return f"{start}; {name} {verb} for {main['value']:+.2f} of the gap of {row['gap']:+.2f}"


@styled
def waterfall(row: Row, start: float = 0.0) -> Drawn:
    """From SNIPS on judge scores to the trusted value, or, without one, to what the judge gives the policy's own draws,
    one step per cause; `row` is a row of anomaly.json. Bars stand on `start`, the low end of the scale.

    A bar that goes left is overvaluation that the repair takes away; the whisker is the interval of the part, drawn
    around the end of its bar.
    """
    end, value, ci = "trusted", row["trusted"], row["trusted_ci"]
    if value is None:
        end, value, ci = "own draws by the judge", row.get("on_own_draws"), None
    parts = [p for p in row["parts"] if p["value"] is not None]
    finding = _gap_finding(row, parts, end, value)
    figure, (axis,) = panels(1, 1, 4.2 if is_narrow() else 3.2)
    facts = [f"{CAUSE_WORDS[p['cause']]} {p['value']:+.3f} ({p['ci_low']:+.3f} to {p['ci_high']:+.3f})" for p in parts]
    details = f"Parts with {level(row['confidence'])} intervals: {'; '.join(facts) or 'none'}"
    result = drawn(figure, finding, f"Waterfall from {JUDGE_SNIPS} to what is trusted", details)
    if row["gap"] is None or not parts:
        empty(axis, "nothing to compare with")
        return result
    at, last, form = row["published"], len(parts) + 1, ".3f" if row["published"] < 10 else ".1f"
    axis.barh(0, at - start, left=start, height=0.62, color=INK)
    beside(axis, 0, f"{at:{form}}", fontweight="bold")
    for y, part in enumerate(parts, 1):
        moved, left = part["value"], at - part["value"]
        colour, hatch = (_TAKES, "") if moved > 0 else (_GIVES, "///")
        axis.barh(y, left - at, left=at, height=0.62, color=colour, hatch=hatch)
        axis.plot([left, left], [y + 0.31, y + 0.69], color=SOFT, linewidth=0.8)
        words = f"{moved:+{form}}" if moved else "0" + ", nothing to repair" * (not is_narrow())
        if part["ci_low"] is not None:
            span = [at - part["ci_high"], at - part["ci_low"]]
            axis.plot(span, [y, y], color=INK, linewidth=1.4, marker="|", markersize=8)
            words += f"  ({part['ci_low']:+{form}} to {part['ci_high']:+{form}})" if moved and not is_narrow() else ""
        beside(axis, y, words)
        at = left
    axis.barh(last, value - start, left=start, height=0.62, color=SOFT)
    beside(
        axis,
        last,
        f"{value:{form}}" + (f"  ({ci[0]:{form}} to {ci[1]:{form}})" if ci and not is_narrow() else ""),
        fontweight="bold",
    )
    if ci is not None:
        axis.plot(ci, [last, last], color="white", linewidth=4.2, solid_capstyle="butt")
        axis.plot(ci, [last, last], color=INK, linewidth=1.6, marker="|", markersize=9)
    name_rows(axis, [JUDGE_SNIPS, *(CAUSE_WORDS[p["cause"]] for p in parts), end])
    axis.set_xlabel("policy value")
    low, high = axis.get_xlim()
    low = min(low, start)
    axis.set_xlim(low, high + 0.55 * (high - low))
    axis.set_xticks([t for t in axis.get_xticks() if low <= t <= high])  # no line runs through the words
    axis.grid(axis="x")
    return result


@styled
def shrinkage(policy: str, paths: pd.DataFrame, band: tuple[float, float] | None = None) -> Drawn:
    """Value along shrinkage paths (`weights.shrinkage_paths`) against the `band` that holds the trusted value, and
    whether any way of shrinking the weights reaches it."""
    what = f"Self-normalised value of {policy} against effective sample size as the weights are shrunk towards equal"
    if paths.empty:
        finding = f"{policy} has no usable log-weight to shrink"
        figure, (axis,) = panels(1, 1, 3.0)
        empty(axis, "no usable log-weight")
        return drawn(figure, finding, what)
    span, inside = f"{paths.value.min():.2f} to {paths.value.max():.2f}", paths[paths.value.between(*band or (0, 0))]
    names = paths.method.map(lambda method: METHOD_NAMES.get(method, method))
    if band is None:
        finding = f"Shrinking the weights of {policy} moves its value over {span}; which of them is right is not known"
    elif inside.empty:
        finding = f"However they are shrunk, the weights of {policy} give {span}; its value lies at "
        finding += "{:.2f} to {:.2f}".format(*band)
    elif len(inside) == len(paths):
        finding = f"Every shrinkage of the weights of {policy} agrees with its value ({span})"
    else:
        by = f"part of it, by {listed(list(names[inside.index].unique()))}"
        finding = f"Shrinking the weights of {policy} gives {span}; {by}, meets {band[0]:.2f} to {band[1]:.2f}"
    figure, (axis,) = panels(1, 1, 3.0)
    if band is not None:
        axis.axhspan(*band, color=BAND, zorder=0)
        beside(axis, float(np.mean(band)), "trusted", x=0.99)
    shown = looks(METHOD_NAMES)
    for method, path in paths.groupby("method", sort=False):
        look = shown.get(method, shown["clip"])
        own = looks([policy])[policy].colour
        axis.plot(path.ess_share, path.value, color=own, linestyle=look.line, linewidth=2, marker=look.marker,
                  markevery=max(1, len(path) // 8), markersize=5, label=METHOD_NAMES.get(method, method))  # fmt: skip
    raw, equal = paths.loc[paths.ess_share.idxmin()], paths.loc[paths.ess_share.idxmax()]
    apart = equal.ess_share > 2 * raw.ess_share
    words: dict[str, Any] = {"textcoords": "offset points"}
    first = "raw weights" if apart else "raw and equal weights"
    axis.annotate(first, (raw.ess_share, raw.value), xytext=(4, 9), **words)
    if apart:
        axis.annotate("equal weights", (equal.ess_share, equal.value), xytext=(0, 9), ha="right", **words)
    across = folded("effective sample size, share of rows (logarithmic)", 34)
    axis.set(xlabel=across, ylabel="self-normalised value", xscale="log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.4g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_ylim(min(0.0, paths.value.min()), max(1.0, paths.value.max()))
    axis.grid(axis="y")
    key(axis)
    ranges = [f"{name} {values.min():.3f} to {values.max():.3f}" for name, values in paths.value.groupby(names)]
    return drawn(figure, finding, what, f"Ranges: {'; '.join(ranges)}")


@styled
def length_weights(strata: Mapping[str, pd.DataFrame]) -> Drawn:
    """Share of rows and of weight by response length (`weights.length_strata`), one panel per policy. The finding
    is of the policy for which they are furthest apart."""
    strata = {p: s.assign(span=[f"{r.low:,.0f} to {r.high:,.0f}" for r in s.itertuples()]) for p, s in strata.items()}
    apart = {p: (s.weight_share - s.row_share).abs() for p, s in strata.items() if len(s)}
    apart = {p: gap for p, gap in apart.items() if gap.notna().all()}
    worst = max(apart, key=lambda p: apart[p].max(), default=None)
    if worst is None:
        finding = "No policy has weights by response length"
    elif apart[worst].max() < 0.1:
        finding = "The weight of every policy is spread over response lengths as the rows are"
    else:
        most = strata[worst].loc[apart[worst].idxmax()]
        finding = f"Responses of {most.span} characters are {percent(most.row_share)} of the rows and hold "
        finding += f"{percent(most.weight_share)} of the weight of {worst}"
    columns = 3 if max(map(len, strata), default=0) <= 18 else 2
    words = "share of weight (bar) and of rows (upright mark)", "response length in characters"
    figure, shown = gallery(strata, columns, 2.2, *words, sharex=True)
    shares = []
    for axis, policy, s, look in shown:
        if s.empty:
            empty(axis, "no lengths or weights")
            continue
        shares.append(f"{policy}: " + ", ".join(f"{r.span} {percent(r.weight_share)}" for r in s.itertuples()))
        axis.barh(s.index, s.weight_share, height=0.72, color=look.colour, hatch=look.hatch)
        axis.plot(s.row_share, s.index, linestyle="", marker="|", markersize=13, markeredgewidth=2.2, color=INK)
        name_rows(axis, s.span)
        axis.tick_params(axis="y", labelsize=9)
        axis.set(xlim=(0, 1.02), xlabel="")
        axis.tick_params(labelbottom=True)
        axis.grid(axis="x")
    return drawn(figure, finding, "Share of weight by response length in characters", "; ".join(shares))


@styled
def permutation(nulls: Mapping[str, Any]) -> Drawn:
    """Values under shuffled weights, with the observed value and the logged mean, one panel per policy: by policy
    `value`, `logging_mean`, `p_value`, `null` (b,), as in `diagnostics.PermutationNull`. The finding names those for
    which shuffled weights give values as far from the logging policy's mean as their own do."""
    usable = {p: n for p, n in nulls.items() if np.isfinite(n.value)}
    blind = [p for p, n in usable.items() if n.p_value > 0.05]
    finding = "Shuffled weights move the value less than the real ones do: every policy's weights add information"
    if not usable:
        finding = "No policy has weights to shuffle"
    elif blind:
        names = "every policy" if len(blind) == len(usable) else listed(blind)
        finding = f"Shuffled weights move the value as far as the real ones do for {names}: "
        finding += "the weights add no visible information"
    across = "self-normalised value; solid: observed, dashed: mean of the logged rewards"
    figure, shown = gallery(nulls, 3, 1.9, across)
    for axis, policy, n, look in shown:
        axis.set_yticks([])
        axis.spines["left"].set_visible(False)
        if policy not in usable:
            axis.text(0.5, 0.5, "no weights", ha="center", fontsize=10, transform=axis.transAxes, color=SOFT)
            continue
        if np.ptp(n.null) > 1e-9:
            axis.hist(n.null, 30, color=look.colour, alpha=0.5, linewidth=0.2)
        axis.axvline(n.logging_mean, color=SOFT, linewidth=1.2, linestyle="--")
        axis.axvline(n.value, color=INK, linewidth=2.2)
        axis.margins(x=0.15, y=0.3)
        axis.text(0.02, 0.98, f"p = {number(n.p_value)}", transform=axis.transAxes, va="top")
    facts = [f"{policy}: value {n.value:.3f}, p {number(n.p_value)}" for policy, n in usable.items()]
    return drawn(figure, finding, "Histograms of the value under shuffled weights", "; ".join(facts))


@styled
def profiles(profiles: Mapping[str, Any]) -> Drawn:
    """Length of own responses (left) and log-prob of the logged responses (right) by policy: median, half of the
    responses (thick), four fifths (thin). By policy `chars` and `nats` per `unit`, as in `mismatch.Profile`; the
    logging policy first. The finding names those of other lengths than it, by their medians."""
    base, unit = next(iter(profiles)), next(iter(profiles.values())).unit
    spread: dict[str, dict[str, np.ndarray]] = {"chars": {}, "nats": {}}
    medians: dict[str, list[str]] = {policy: [] for policy in profiles}
    for name, word in zip(spread, ("characters", "nats"), strict=True):
        for policy, own in profiles.items():
            values = getattr(own, name)[np.isfinite(getattr(own, name))]
            if len(values):
                spread[name][policy] = np.quantile(values, [0.1, 0.25, 0.5, 0.75, 0.9])
            medians[policy].append(f"{number(np.median(values)) if len(values) else 'no'} {word}")
    middle = {policy: quantiles[2] for policy, quantiles in spread["chars"].items()}
    finding = "No target has responses of its own to compare with the logged ones"
    if base in middle and len(middle) > 1:
        usual, low, high = middle[base], min(middle.values()), max(middle.values())
        off = [f"{p} ({m:,.0f} characters)" for p, m in middle.items() if max(m, usual) > 1.5 * min(m, usual)]
        finding = f"No policy's responses are more than half as long again as those of {base}, or the reverse "
        finding += f"({low:,.0f} to {high:,.0f} characters, {base} {usual:,.0f})"
        if off:
            finding = f"Unlike {base} ({usual:,.0f} characters) in length: {listed(off)}"
    figure, axes = panels(2, 2, 0.8 + 0.33 * len(profiles), sharey=True)
    for axis, quantiles in zip(axes, spread.values(), strict=True):
        for y, (policy, look) in enumerate(looks(profiles).items()):
            if policy not in quantiles:
                beside(axis, y, "not known", x=0.02, ha="left", color=SOFT)
                continue
            low, first, median, third, high = quantiles[policy]
            axis.plot([low, high], [y, y], color=look.colour, linewidth=1.4)
            axis.plot([first, third], [y, y], color=look.colour, linewidth=5, alpha=0.55, solid_capstyle="butt")
            axis.plot(median, y, color=look.colour, marker=look.marker, markersize=7, markeredgecolor="white")
        axis.grid(axis="x")
        axis.tick_params(axis="y", length=0)
    name_rows(axes[0], profiles)
    axes[0].set_xlabel("own responses: characters")
    axes[1].set_xlabel(f"logged responses: nats per {unit}")
    words = [f"{policy} {', '.join(both)}" for policy, both in medians.items()]
    what = f"Length of each policy's own responses, and its log-prob per {unit} of the logged responses"
    return drawn(figure, finding, what, f"Medians: {'; '.join(words)}")
