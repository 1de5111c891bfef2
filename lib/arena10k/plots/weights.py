"""Figures of importance weights: how far a policy is from the one that was logged, on how few rows it rests, and how
heavy the fitted tail is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arena10k.estimation.diagnostics import top_shares
from arena10k.estimation.pareto import audit_weights, tail_fit
from arena10k.estimation.thresholds import MAX_KHAT, MEAN_WEIGHT_RANGE, MIN_ESS_FRACTION
from arena10k.plots.style import BAND, INK, SOFT, head, looks, panels, styled
from arena10k.wording import listed, number, percent

#: Per policy the log-weights (n,), in nats: NaN where missing, -inf for a weight of zero.
LogWeights = Mapping[str, np.ndarray]
#: How many of the heaviest rows are told apart.
TOP = 10
#: Points of a curve, at most: more cannot be seen and make a page large.
_POINTS = 400


def _measured(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, float)
    return np.asarray(values[~np.isnan(values)])


def measured_weights(log_weight: LogWeights) -> dict[str, np.ndarray]:
    """The measured log-weights of policies that have a row of weight above zero."""
    measured = {policy: _measured(values) for policy, values in log_weight.items()}
    return {policy: values for policy, values in measured.items() if np.isfinite(values).any()}


def _summary(log_weight: LogWeights) -> pd.DataFrame:
    """`n`, `mean_weight` and `ess` by policy, for policies with rows."""
    audits = {policy: audit_weights(_measured(values)) for policy, values in log_weight.items()}
    rows = [(policy, a.n, a.mean_weight, a.ess) for policy, a in audits.items() if a.n]
    return pd.DataFrame(rows, columns=["policy", "n", "mean_weight", "ess"]).set_index("policy")


def log_weights_finding(log_weight: LogWeights) -> str:
    """Which policies have a mean weight far from one, and thus are not represented by the logged responses."""
    low, high = MEAN_WEIGHT_RANGE
    summary = _summary(log_weight)
    off = summary[~summary.mean_weight.between(low, high)].sort_values("mean_weight", kind="stable")
    if summary.empty:
        return "No policy has a usable log-weight"
    if off.empty:
        return f"The mean weight of every policy is near one ({number(low)} to {number(high)})"
    if len(off) == 1:
        policy, mean = off.index[0], number(off.mean_weight.iloc[0])
        return f"The mean weight of {policy} is {mean}, far from one: logged responses do not represent it"
    told = [f"{r.Index} ({number(r.mean_weight)})" for r in off.itertuples()]
    return f"Mean weights far from one: {listed(told)}. Logged responses do not represent these policies"


@styled
def log_weights(log_weight: LogWeights) -> Figure:
    """Histogram of log-weights per policy, with E[w] and ESS beside each; missing rows and zero weights are counted."""
    finite = {policy: v[np.isfinite(v)] for policy, values in log_weight.items() for v in [_measured(values)]}
    everything = np.concatenate([*finite.values(), [0.0]])
    low, high = np.floor(everything.min()), np.ceil(everything.max())
    bins = np.linspace(low, max(high, low + 1), 41)
    shown = looks(log_weight)
    figure, axes = panels(len(finite), 3, log_weights_finding(log_weight), 2.0, sharex=True)
    for axis, (policy, values) in zip(axes, finite.items(), strict=True):
        look = shown[policy]
        if values.size:
            sns.histplot(x=values, bins=bins, ax=axis, color=look.colour, hatch=look.hatch, alpha=1, linewidth=0.2)
        axis.axvline(0, color=INK, linewidth=1, linestyle="--")
        head(axis, policy, _note(log_weight[policy]))
        axis.set(xlabel="", ylabel="")
        axis.tick_params(labelbottom=True)
    figure.supxlabel("log-weight (nats); dashed: weight one", fontsize=10)
    figure.supylabel("rows", fontsize=10)
    return figure


def _note(values: np.ndarray) -> str:
    values = np.asarray(values, float)
    audit = audit_weights(_measured(values))
    counts = {"missing": np.isnan(values).sum(), "of weight 0": np.isneginf(values).sum()}
    lines = [f"{count:,} rows {what}" for what, count in counts.items() if count]
    first = [f"E[w] {number(audit.mean_weight)}, ESS {number(audit.ess)} of {audit.n:,}"] if audit.n else []
    return "\n".join(first + lines)


def reward_by_weight_finding(log_weight: LogWeights, reward: Mapping[str, np.ndarray]) -> str:
    """How much of the weight the heaviest rows hold, for the policy where it is most; rows with both, aligned."""
    both = {p: np.where(np.isfinite(np.asarray(reward[p], float)), v, np.nan) for p, v in log_weight.items()}
    held = {p: _held(v) for p, v in measured_weights(both).items() if v.size > TOP}
    if not held:
        return f"No policy has more than {TOP} weighted rows"
    worst = max(held, key=held.__getitem__)
    if len(held) == 1:
        return f"The {TOP} heaviest rows hold {held[worst]:.0%} of the weight of {worst}"
    return f"The {TOP} heaviest rows hold {held[worst]:.0%} of the weight of {worst}, the most of any policy"


@styled
def reward_by_weight(log_weight: LogWeights, reward: Mapping[str, np.ndarray]) -> Figure:
    """Reward against log-weight, one panel per policy; the `TOP` heaviest rows are circled.

    Rewards with few distinct values are spread a little, always in the same way, so that rows do not hide each other.
    Arrays are aligned by row; a row with either missing is left out.
    """
    shown = looks(log_weight)
    figure, axes = panels(len(log_weight), 3, reward_by_weight_finding(log_weight, reward), 2.1, sharey=True)
    spread = False
    for axis, policy in zip(axes, log_weight, strict=True):
        x, y = np.asarray(log_weight[policy], float), np.asarray(reward[policy], float)
        both = np.isfinite(x) & np.isfinite(y)
        x, y = x[both], y[both]
        look = shown[policy]
        steps = _spread(y)
        spread |= bool(np.any(steps))
        heavy = np.argsort(x, kind="stable")[::-1][:TOP]
        axis.scatter(x, y + steps, s=11, color=look.colour, marker=look.marker, alpha=0.45, linewidth=0)
        axis.scatter(x[heavy], (y + steps)[heavy], s=74, facecolors="none", edgecolors=INK, linewidth=1)
        head(axis, policy, f"top {TOP} hold {_held(x):.0%}" if x.size else "no rows")
        axis.grid(axis="y")
        axis.margins(x=0.06)
        axis.locator_params(axis="x", nbins=4)
    figure.supxlabel(f"log-weight (nats); circled: the {TOP} heaviest rows", fontsize=10)
    figure.supylabel("reward" + (" (spread a little)" if spread else ""), fontsize=10)
    return figure


def _held(log_weight: np.ndarray) -> float:
    """Share of the total weight in the `TOP` heaviest rows."""
    known = np.sort(_measured(log_weight))
    weights = np.exp(known - known[-1])
    return float(weights[-TOP:].sum() / weights.sum())


def _spread(values: np.ndarray) -> np.ndarray:
    """Small fixed offsets for values that repeat; the golden ratio fills an interval evenly without random numbers."""
    distinct = np.unique(values)
    if not values.size or distinct.size > values.size / 4:
        return np.zeros(values.size)
    gap = np.diff(distinct).min() if distinct.size > 1 else 0.1
    return (np.arange(values.size) * 0.6180339887498949 % 1 - 0.5) * 0.35 * min(gap, 0.25)


def overlap_finding(log_weight: LogWeights) -> str:
    """Which policies the logged data can answer for."""
    summary = _summary(log_weight)
    good = summary[summary.mean_weight.between(*MEAN_WEIGHT_RANGE) & (summary.ess >= MIN_ESS_FRACTION * summary.n)]
    checks = f"an ESS of {MIN_ESS_FRACTION:.0%} of the rows and a mean weight near one"
    if summary.empty:
        return "No policy has a usable log-weight"
    if good.empty:
        return f"No policy passes both checks, {checks}"
    if len(good) == len(summary):
        return f"Every policy passes both checks, {checks}"
    verb = "passes" if len(good) == 1 else "pass"
    return f"Only {listed(list(good.index))} {verb} both checks, {checks}"


@styled
def overlap(log_weight: LogWeights) -> Figure:
    """ESS / n and E[w] per policy; E[w] on a logarithmic axis, bars starting at one, shaded where it is healthy."""
    names = list(log_weight)
    summary = _summary(log_weight).reindex(names)
    height = 0.75 + 0.36 * len(names)
    figure, (left, right) = panels(2, 2, overlap_finding(log_weight), height, sharey=True)
    rows, shown = np.arange(len(names))[::-1], looks(names)
    for row, name, fact in zip(rows, names, summary.itertuples(), strict=True):
        bar: dict[str, Any] = {"color": shown[name].colour, "hatch": shown[name].hatch, "height": 0.62}
        text: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 9}
        if np.isnan(fact.mean_weight):
            left.annotate("no weights", (0, row), (4, 0), **text)
            continue
        left.barh(row, fact.ess / fact.n, **bar)
        plate = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        left.annotate(f"{fact.ess / fact.n:.1%}", (fact.ess / fact.n, row), (5, 0), bbox=plate, zorder=5, **text)
        weight = min(max(fact.mean_weight, 1e-300), 1e300)
        right.barh(row, weight - 1, left=1, **bar)
        above = weight >= 1
        place: dict[str, Any] = {"xytext": (5 if above else -5, 0), "ha": "left" if above else "right"}
        right.annotate(number(fact.mean_weight), (weight, row), **place, **text)
    left.axvline(MIN_ESS_FRACTION, color=INK, linewidth=1, linestyle="--")
    left.set(xlim=(0, 1.18), xlabel=f"ESS / n (dashed: {MIN_ESS_FRACTION:.0%})", yticks=rows, yticklabels=names)
    left.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
    right.set_xscale("log")
    ends = [w for w in summary.mean_weight if 0 < w < np.inf]
    right.set_xlim(min(0.4, *ends, 0.4) / 6, max(2.5, *ends, 2.5) * 6)
    right.axvspan(*MEAN_WEIGHT_RANGE, color=BAND, zorder=0)
    right.axvline(1, color=INK, linewidth=1)
    right.set_xlabel("E[w], logarithmic (shaded: {:g} to {:g})".format(*MEAN_WEIGHT_RANGE))
    for axis in (left, right):
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
    return figure


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
