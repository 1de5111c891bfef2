"""Figures of importance weights: how far a policy is from the one that was logged, on how few rows it rests, and how
heavy the fitted tail is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from arena10k.estimation.diagnostics import top_shares
from arena10k.estimation.pareto import audit_weights, tail_fit
from arena10k.estimation.thresholds import MAX_KHAT, MEAN_WEIGHT_RANGE, MIN_ESS_FRACTION
from arena10k.plots.style import (
    BAND,
    INK,
    MANY,
    SOFT,
    drawn,
    folded,
    gallery,
    key,
    looks,
    name_rows,
    note,
    panels,
    styled,
)
from arena10k.report.display import Drawn
from arena10k.wording import listed, number, percent

#: Per policy the log-weights (n,), in nats: NaN where missing, -inf for a weight of zero.
LogWeights = Mapping[str, np.ndarray]
#: How many of the heaviest rows are told apart.
TOP = 10
#: Points of a curve, at most: more cannot be seen and make a page large.
_POINTS = 400
_NONE = "No policy has a usable log-weight"


def _summary(log_weight: LogWeights) -> pd.DataFrame:
    """By policy: `n` measured rows, their `mean_weight` and `ess`, and the rows `missing` and `of weight 0`."""
    rows = {}
    for policy, values in log_weight.items():
        missing = np.isnan(values)
        audit = audit_weights(values[~missing])
        rows[policy] = (audit.n, audit.mean_weight, audit.ess, missing.sum(), np.isneginf(values).sum())
    return pd.DataFrame.from_dict(rows, "index", columns=["n", "mean_weight", "ess", "missing", "of weight 0"])


@styled
def log_weights(log_weight: LogWeights) -> Drawn:
    """Histogram of log-weights per policy, with E[w] and ESS beside each; missing rows and zero weights are counted."""
    summary = _summary(log_weight)
    near = summary.mean_weight.between(*MEAN_WEIGHT_RANGE)
    off = summary[(summary.n > 0) & ~near].sort_values("mean_weight", kind="stable").mean_weight.map(number)
    if not (summary.n > 0).any():
        finding = _NONE
    elif off.empty:
        finding = "The mean weight of every policy is near one ({} to {})".format(*map(number, MEAN_WEIGHT_RANGE))
    elif len(off) == 1:
        finding = f"The mean weight of {off.index[0]} is {off.iloc[0]}, far from one: "
        finding += "logged responses do not represent it"
    else:
        means = listed([f"{policy} ({mean})" for policy, mean in off.items()])
        finding = f"Mean weights far from one: {means}. Logged responses do not represent these policies"
    finite = {policy: values[np.isfinite(values)] for policy, values in log_weight.items()}
    everything = np.concatenate([*finite.values(), [0.0]])
    low, high = np.floor(everything.min()), np.ceil(everything.max())
    bins, across = list(np.linspace(low, max(high, low + 1), 41)), "log-weight (nats); dashed: weight one"
    figure, shown = gallery(finite, 3, 2.0, across, "rows", sharex=True)
    for axis, policy, values, look in shown:
        if values.size:
            axis.hist(values, bins, color=look.colour, hatch=look.hatch, linewidth=0.2)
        axis.axvline(0, color=INK, linewidth=1, linestyle="--")
        of = summary.loc[policy]
        lines = [f"E[w] {number(of.mean_weight)}, ESS {number(of.ess)} of {of.n:,.0f}"] if of.n else []
        lines += [f"{of[what]:,.0f} rows {what}" for what in ("missing", "of weight 0") if of[what]]
        note(axis, "\n".join(lines))
        axis.tick_params(labelbottom=True)
    return drawn(figure, finding, "Histogram of log-weights for each policy")


@styled
def reward_by_weight(log_weight: LogWeights, reward: Mapping[str, np.ndarray]) -> Drawn:
    """Reward against log-weight, one panel per policy; the `TOP` heaviest rows are circled.

    Rewards with few distinct values are spread a little, always in the same way, so that rows do not hide each other.
    Arrays are aligned by row; a row with either missing is left out.
    """
    pairs, held, some_spread = {}, {}, False
    for policy, values in log_weight.items():
        y = np.asarray(reward[policy], float)
        known = np.isfinite(values) & np.isfinite(y)
        x, y = values[known], y[known]
        if x.size > TOP:
            held[policy] = top_shares(x)["top_10"]
        distinct = np.unique(y)
        if 0 < distinct.size <= y.size / 4:
            gap = np.diff(distinct).min() if distinct.size > 1 else 0.1
            # The golden ratio fills an interval evenly without random numbers.
            y, some_spread = y + (np.arange(y.size) * 0.6180339887498949 % 1 - 0.5) * 0.35 * min(gap, 0.25), True
        pairs[policy] = x, y
    finding = f"No policy has more than {TOP} weighted rows"
    if held:
        worst = max(held, key=held.__getitem__)
        most = ", the most of any policy" if len(held) > 1 else ""
        finding = f"The {TOP} heaviest rows hold {percent(held[worst])} of the weight of {worst}{most}"
    words = f"log-weight (nats); circled: the {TOP} heaviest rows", "reward" + " (spread a little)" * some_spread
    figure, shown = gallery(pairs, 3, 2.1, *words, sharey=True)
    for axis, policy, (x, y), look in shown:
        heavy = np.argsort(x, kind="stable")[::-1][:TOP]
        axis.scatter(x, y, s=11, color=look.colour, marker=look.marker, alpha=0.45, linewidth=0)
        axis.scatter(x[heavy], y[heavy], s=74, facecolors="none", edgecolors=INK, linewidth=1)
        note(axis, f"top {TOP} hold {percent(held.get(policy, 1))}" if x.size else "no rows")
        axis.grid(axis="y")
        axis.margins(x=0.06)
        axis.locator_params(axis="x", nbins=4)
    kind = "png" if max((x.size for x, _ in pairs.values()), default=0) > MANY else "svg"
    return drawn(figure, finding, "Judge score against log-weight", kind=kind)


@styled
def overlap(log_weight: LogWeights) -> Drawn:
    """ESS / n and E[w] per policy; E[w] on a logarithmic axis, bars starting at one, shaded where it is healthy."""
    summary = _summary(log_weight)
    usable = summary[summary.n > 0]
    good = usable[usable.mean_weight.between(*MEAN_WEIGHT_RANGE) & (usable.ess >= MIN_ESS_FRACTION * usable.n)]
    checks = f"both checks, an ESS of {MIN_ESS_FRACTION:.0%} of the rows and a mean weight near one"
    if usable.empty:
        finding = _NONE
    elif len(good) in (0, len(usable)):
        finding = f"{'Every' if len(good) else 'No'} policy passes {checks}"
    else:
        finding = f"Only {listed(list(good.index))} {'passes' if len(good) == 1 else 'pass'} {checks}"
    figure, (left, right) = panels(2, 2, 0.75 + 0.36 * len(summary), sharey=True)
    rows, shown = np.arange(len(summary))[::-1], looks(summary.index)
    text: dict[str, Any] = {"textcoords": "offset points", "va": "center"}
    for row, (name, n, mean, ess, *_) in zip(rows, summary.itertuples(), strict=True):
        if not n:
            left.annotate("no weights", (0, row), (4, 0), **text)
            continue
        bar: dict[str, Any] = {"color": shown[name].colour, "hatch": shown[name].hatch, "height": 0.62}
        left.barh(row, ess / n, **bar)
        plate = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        left.annotate(f"{ess / n:.1%}", (ess / n, row), (5, 0), bbox=plate, zorder=5, **text)
        weight = min(max(mean, 1e-300), 1e300)
        right.barh(row, weight - 1, left=1, **bar)
        offset, side = ((5, 0), "left") if weight >= 1 else ((-5, 0), "right")
        right.annotate(number(mean), (weight, row), offset, ha=side, **text)
    left.axvline(MIN_ESS_FRACTION, color=INK, linewidth=1, linestyle="--")
    left.set(xlim=(0, 1.18), xlabel=f"ESS / n (dashed: {MIN_ESS_FRACTION:.0%})", yticks=rows, yticklabels=summary.index)
    left.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
    right.set_xscale("log")
    ends = [w for w in summary.mean_weight if 0 < w < np.inf]
    right.set_xlim(min(0.4, *ends, 0.4) / 6, max(2.5, *ends, 2.5) * 6)
    right.xaxis.set_major_formatter("{x:g}")
    right.axvspan(*MEAN_WEIGHT_RANGE, color=BAND, zorder=0)
    right.axvline(1, color=INK, linewidth=1)
    right.set_xlabel("E[w], logarithmic (shaded: {:g} to {:g})".format(*MEAN_WEIGHT_RANGE))
    for axis in (left, right):
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
    return drawn(figure, finding, "Bars of ESS and mean weight")


@styled
def ccdf(log_weight: LogWeights) -> Drawn:
    """Share of rows whose weight exceeds w, both axes logarithmic, with the fitted Pareto tail as a broad line.

    A policy whose tail cannot be fitted (too few rows, or rows tied at the top) has no broad line.
    """
    usable = {p: values[~np.isnan(values)] for p, values in log_weight.items() if np.isfinite(values).any()}
    shown, finding = looks(log_weight), _NONE
    if usable:
        single = {policy: top_shares(values)["top_1"] for policy, values in usable.items()}
        worst = max(single, key=single.__getitem__)
        finding = f"One row alone holds {percent(single[worst])} of the weight of {worst}"
    fits = {p: fit for p, v in usable.items() if (fit := tail_fit(v[np.isfinite(v)])) is not None}
    if fits:
        heavy = max(fits, key=lambda p: fits[p].shape)
        shape = fits[heavy].shape
        limit = "above" if shape >= MAX_KHAT else "below"
        finding += f"; the heaviest fitted tail is that of {heavy}, k-hat {shape:.2f}, {limit} {MAX_KHAT:g}"
    figure, (axis,) = panels(1, 1, 3.3)
    for policy, values in usable.items():
        look, x = shown[policy], np.sort(values[np.isfinite(values)])
        # All of the heaviest rows and fewer of the others.
        rank = np.unique(np.geomspace(1, x.size, min(x.size, _POINTS)).round().astype(int))[::-1]
        rank = rank if x.size > _POINTS else np.arange(x.size, 0, -1)
        axis.step(x[x.size - rank] / np.log(10), rank / values.size, where="post", color=look.colour,
                  linestyle=look.line, linewidth=1.8, label=policy)  # fmt: skip
        axis.plot(x[-1] / np.log(10), 1 / values.size, marker=look.marker, color=look.colour, markersize=6)
        fit = tail_fit(values)
        if fit is not None and np.isfinite(fit.cut):
            grid = np.linspace(fit.cut, x[-1], 60)
            share = fit.exceedance(grid)
            grid, share = grid[share > 0] / np.log(10), share[share > 0]
            axis.plot(grid, share, color=look.colour, linewidth=4.5, alpha=0.35, solid_capstyle="butt")
    axis.axvline(0, color=SOFT, linewidth=1)
    axis.set(xlabel="log10 of the weight w", ylabel=folded("share of rows above w (logarithmic)", 24))
    axis.grid()
    if usable:
        axis.plot([], [], color=SOFT, linewidth=4, alpha=0.35, label="fitted tail")
        axis.set_yscale("log")
        key(axis)
    return drawn(figure, finding, "Tail of the weights on logarithmic axes, with fitted tails")


@styled
def ceiling(audit: pd.DataFrame) -> Drawn:
    """Effective sample size and total weight / largest weight (`weights.ceiling_audit`), a row for each policy.

    Filled marks: more than one row tied at the largest weight and ESS within 10 % of their number.
    """
    bound = [f"{r.policy} ({r.tied:,} rows)" for r in audit[audit.clip_dominated].itertuples()]
    if bound:
        finding = "The effective sample size is the number of rows at the ceiling for "
        finding += f"{listed(bound)}: the value is their mean"
    else:
        # Equal weights are all at the ceiling, and nothing is wrong with them.
        equal = list(audit.policy[(audit.tied > 1) & ((audit.ess / audit.tied - 1).abs() <= 0.1)])
        finding = "No policy's effective sample size is the number of rows tied at its largest weight"
        finding += f", but for {listed(equal)}, whose weights are all equal" if equal else ""
    known, shown = audit[audit.rows > 0].reset_index(drop=True), looks(audit.policy)
    figure, (axis,) = panels(1, 1, 1.0 + 0.3 * max(len(known), 1))
    # A row for each policy: marks in one field would hide each other.
    for y, r in enumerate(known.itertuples()):
        look = shown[r.policy]
        axis.plot([r.ess, r.ceiling], [y, y], color=look.colour, linewidth=1.4)
        axis.plot(r.ceiling, y, linestyle="", color=look.colour, marker="|", markersize=15, markeredgewidth=2)
        axis.plot(r.ess, y, linestyle="", color=look.colour, marker=look.marker, markersize=7, markeredgewidth=1.6,
                  markerfacecolor=look.colour if r.clip_dominated else "white")  # fmt: skip
    name_rows(axis, known.policy)
    if len(known):
        axis.set(xscale="log", xlim=(0.8, 1.6 * max(known.ess.max(), known.ceiling.max())))
        axis.xaxis.set_major_formatter("{x:g}")
    words = "rows (logarithmic); mark: effective sample size, upright: total weight / largest weight"
    axis.set_xlabel(folded(words, 34))
    axis.grid(axis="x")
    facts = [(r.policy, number(r.ess), number(r.ceiling), r.tied) for r in audit.itertuples()]
    details = "; ".join("{} ESS {}, ceiling count {}, tied {}".format(*fact) for fact in facts)
    return drawn(figure, finding, "Effective sample size against rows at the ceiling, on log axes", details)
