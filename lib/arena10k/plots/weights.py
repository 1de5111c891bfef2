"""Figures of importance weights: how far a policy is from the one that was logged, on how few rows it rests, and how
heavy the fitted tail is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from arena10k.estimation.diagnostics import top_shares
from arena10k.estimation.pareto import audit_weights, tail_fit
from arena10k.estimation.thresholds import MAX_KHAT, MEAN_WEIGHT_RANGE, MIN_ESS_FRACTION
from arena10k.plots.style import BAND, INK, SOFT, drawn, empty, head, looks, panels, styled
from arena10k.report.display import Drawn
from arena10k.wording import listed, number, percent

#: Per policy the log-weights (n,), in nats: NaN where missing, -inf for a weight of zero.
LogWeights = Mapping[str, np.ndarray]
#: How many of the heaviest rows are told apart.
TOP = 10
#: Points of a curve, at most: more cannot be seen and make a page large. Of a panel, beyond which PNG is smaller.
_POINTS, _MANY = 400, 2000
_NONE = "No policy has a usable log-weight"


def _measured(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, float)
    return np.asarray(values[~np.isnan(values)])


def _usable(log_weight: LogWeights) -> dict[str, np.ndarray]:
    """The measured log-weights of policies that have a row of weight above zero."""
    measured = {policy: _measured(values) for policy, values in log_weight.items()}
    return {policy: values for policy, values in measured.items() if np.isfinite(values).any()}


def _summary(log_weight: LogWeights) -> pd.DataFrame:
    """`n`, `mean_weight` and `ess` by policy, for policies with rows."""
    audits = {policy: audit_weights(_measured(values)) for policy, values in log_weight.items()}
    rows = [(policy, a.n, a.mean_weight, a.ess) for policy, a in audits.items() if a.n]
    return pd.DataFrame(rows, columns=["policy", "n", "mean_weight", "ess"]).set_index("policy")


def _log_weights_finding(log_weight: LogWeights) -> str:
    low, high = MEAN_WEIGHT_RANGE
    summary = _summary(log_weight)
    off = summary[~summary.mean_weight.between(low, high)].sort_values("mean_weight", kind="stable")
    if summary.empty:
        return _NONE
    if off.empty:
        return f"The mean weight of every policy is near one ({number(low)} to {number(high)})"
    if len(off) == 1:
        policy, mean = off.index[0], number(off.mean_weight.iloc[0])
        return f"The mean weight of {policy} is {mean}, far from one: logged responses do not represent it"
    means = [f"{r.Index} ({number(r.mean_weight)})" for r in off.itertuples()]
    return f"Mean weights far from one: {listed(means)}. Logged responses do not represent these policies"


@styled
def log_weights(log_weight: LogWeights) -> Drawn:
    """Histogram of log-weights per policy, with E[w] and ESS beside each; missing rows and zero weights are counted."""
    finite = {policy: v[np.isfinite(v)] for policy, values in log_weight.items() for v in [_measured(values)]}
    everything = np.concatenate([*finite.values(), [0.0]])
    low, high = np.floor(everything.min()), np.ceil(everything.max())
    bins = np.linspace(low, max(high, low + 1), 41)
    finding, shown = _log_weights_finding(log_weight), looks(log_weight)
    figure, axes = panels(len(finite), 3, finding, 2.0, sharex=True)
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
    return drawn(figure, finding, "Histogram of log-weights for each policy")


def _note(values: np.ndarray) -> str:
    values = np.asarray(values, float)
    audit = audit_weights(_measured(values))
    counts = {"missing": np.isnan(values).sum(), "of weight 0": np.isneginf(values).sum()}
    lines = [f"{count:,} rows {what}" for what, count in counts.items() if count]
    first = [f"E[w] {number(audit.mean_weight)}, ESS {number(audit.ess)} of {audit.n:,}"] if audit.n else []
    return "\n".join(first + lines)


def _reward_finding(held: Mapping[str, float]) -> str:
    if not held:
        return f"No policy has more than {TOP} weighted rows"
    worst = max(held, key=held.__getitem__)
    most = ", the most of any policy" if len(held) > 1 else ""
    return f"The {TOP} heaviest rows hold {percent(held[worst])} of the weight of {worst}{most}"


@styled
def reward_by_weight(log_weight: LogWeights, reward: Mapping[str, np.ndarray]) -> Drawn:
    """Reward against log-weight, one panel per policy; the `TOP` heaviest rows are circled.

    Rewards with few distinct values are spread a little, always in the same way, so that rows do not hide each other.
    Arrays are aligned by row; a row with either missing is left out.
    """
    both = {p: np.where(np.isfinite(np.asarray(reward[p], float)), v, np.nan) for p, v in log_weight.items()}
    finding = _reward_finding({p: _held(v) for p, v in _usable(both).items() if v.size > TOP})
    figure, axes = panels(len(log_weight), 3, finding, 2.1, sharey=True)
    shown, spread, most = looks(log_weight), False, 0
    for axis, policy in zip(axes, log_weight, strict=True):
        x, y = np.asarray(log_weight[policy], float), np.asarray(reward[policy], float)
        known = np.isfinite(x) & np.isfinite(y)
        x, y = x[known], y[known]
        steps = _spread(y)
        spread, most = spread or bool(np.any(steps)), max(most, x.size)
        heavy = np.argsort(x, kind="stable")[::-1][:TOP]
        look = shown[policy]
        axis.scatter(x, y + steps, s=11, color=look.colour, marker=look.marker, alpha=0.45, linewidth=0)
        axis.scatter(x[heavy], (y + steps)[heavy], s=74, facecolors="none", edgecolors=INK, linewidth=1)
        head(axis, policy, f"top {TOP} hold {percent(_held(x))}" if x.size else "no rows")
        axis.grid(axis="y")
        axis.margins(x=0.06)
        axis.locator_params(axis="x", nbins=4)
    figure.supxlabel(f"log-weight (nats); circled: the {TOP} heaviest rows", fontsize=10)
    figure.supylabel("reward" + (" (spread a little)" if spread else ""), fontsize=10)
    kind = "png" if most > _MANY else "svg"
    return drawn(figure, finding, "Judge score against log-weight", kind=kind)


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


def _overlap_finding(summary: pd.DataFrame) -> str:
    good = summary[summary.mean_weight.between(*MEAN_WEIGHT_RANGE) & (summary.ess >= MIN_ESS_FRACTION * summary.n)]
    both = f"both checks, an ESS of {MIN_ESS_FRACTION:.0%} of the rows and a mean weight near one"
    if summary.empty:
        return _NONE
    if good.empty:
        return f"No policy passes {both}"
    if len(good) == len(summary):
        return f"Every policy passes {both}"
    return f"Only {listed(list(good.index))} {'passes' if len(good) == 1 else 'pass'} {both}"


@styled
def overlap(log_weight: LogWeights) -> Drawn:
    """ESS / n and E[w] per policy; E[w] on a logarithmic axis, bars starting at one, shaded where it is healthy."""
    names, summary = list(log_weight), _summary(log_weight)
    finding = _overlap_finding(summary)
    figure, (left, right) = panels(2, 2, finding, 0.75 + 0.36 * len(names), sharey=True)
    rows, shown = np.arange(len(names))[::-1], looks(names)
    text: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 9}
    for row, name, fact in zip(rows, names, summary.reindex(names).itertuples(), strict=True):
        if np.isnan(fact.mean_weight):
            left.annotate("no weights", (0, row), (4, 0), **text)
            continue
        bar: dict[str, Any] = {"color": shown[name].colour, "hatch": shown[name].hatch, "height": 0.62}
        left.barh(row, fact.ess / fact.n, **bar)
        plate = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        left.annotate(f"{fact.ess / fact.n:.1%}", (fact.ess / fact.n, row), (5, 0), bbox=plate, zorder=5, **text)
        weight = min(max(fact.mean_weight, 1e-300), 1e300)
        right.barh(row, weight - 1, left=1, **bar)
        offset, side = ((5, 0), "left") if weight >= 1 else ((-5, 0), "right")
        right.annotate(number(fact.mean_weight), (weight, row), offset, ha=side, **text)
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
    return drawn(figure, finding, "Bars of ESS and mean weight")


def _ccdf_finding(usable: Mapping[str, np.ndarray]) -> str:
    if not usable:
        return _NONE
    single = {p: top_shares(v)["top_1"] for p, v in usable.items()}
    worst = max(single, key=single.__getitem__)
    first = f"One row alone holds {percent(single[worst])} of the weight of {worst}"
    shapes = {p: fit.shape for p, v in usable.items() if (fit := tail_fit(v[np.isfinite(v)])) is not None}
    if not shapes:
        return first
    heavy = max(shapes, key=shapes.__getitem__)
    limit = "above" if shapes[heavy] >= MAX_KHAT else "below"
    return f"{first}; the heaviest fitted tail is that of {heavy}, k-hat {shapes[heavy]:.2f}, {limit} {MAX_KHAT:g}"


@styled
def ccdf(log_weight: LogWeights) -> Drawn:
    """Share of rows whose weight exceeds w, both axes logarithmic, with the fitted Pareto tail as a broad line.

    A policy whose tail cannot be fitted (too few rows, or rows tied at the top) has no broad line.
    """
    usable, shown = _usable(log_weight), looks(log_weight)
    finding = _ccdf_finding(usable)
    figure, (axis,) = panels(1, 1, finding, 3.3)
    for policy, values in usable.items():
        look = shown[policy]
        x = np.sort(values[np.isfinite(values)])
        rank = _ranks(x.size)
        axis.step(x[x.size - rank] / np.log(10), rank / values.size, where="post", color=look.colour,
                  linestyle=look.line, linewidth=1.8, label=policy)  # fmt: skip
        axis.plot(x[-1] / np.log(10), 1 / values.size, marker=look.marker, color=look.colour, markersize=6)
        _draw_tail(axis, values, x[-1], look.colour)
    axis.axvline(0, color=SOFT, linewidth=1)
    axis.set(xlabel="log10 of the weight w", ylabel="share of rows of weight w or more")
    axis.grid()
    if usable:
        axis.plot([], [], color=SOFT, linewidth=4, alpha=0.35, label="fitted tail")
        axis.set_yscale("log")
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=3)
    return drawn(figure, finding, "Tail of the weights on logarithmic axes, with fitted tails")


def _draw_tail(axis: Axes, values: np.ndarray, heaviest: float, colour: str) -> None:
    fit = tail_fit(values)
    if fit is None or not np.isfinite(fit.cut):
        return
    grid = np.linspace(fit.cut, heaviest, 60)
    share = fit.exceedance(grid)
    keep = share > 0
    axis.plot(grid[keep] / np.log(10), share[keep], color=colour, linewidth=4.5, alpha=0.35, solid_capstyle="butt")


def _ranks(n: int) -> np.ndarray:
    """Ranks from the lightest row (n) to the heaviest (1), all of the heaviest and fewer of the others."""
    if n <= _POINTS:
        return np.arange(n, 0, -1)
    return np.unique(np.geomspace(1, n, _POINTS).round().astype(int))[::-1]


def _ceiling_finding(audit: pd.DataFrame) -> str:
    bound = audit[audit.clip_dominated]
    if bound.empty:
        # Equal weights are all at the ceiling, and nothing is wrong with them.
        equal = audit[(audit.tied > 1) & ((audit.ess / audit.tied - 1).abs() <= 0.1)].policy
        but = f", but for {listed(list(equal))}, whose weights are all equal" if len(equal) else ""
        return f"No policy's effective sample size is the number of rows tied at its largest weight{but}"
    rows = [f"{r.policy} ({r.tied:,} rows)" for r in bound.itertuples()]
    return f"The effective sample size is the number of rows at the ceiling for {listed(rows)}: the value is their mean"


@styled
def ceiling(audit: pd.DataFrame) -> Drawn:
    """Effective sample size against total weight / largest weight (`attribution.ceiling_audit`): equal on the diagonal.

    Filled marks: more than one row tied at the largest weight and ESS within 10 % of their number.
    """
    finding = _ceiling_finding(audit)
    figure, (axis,) = panels(1, 1, finding, 3.4)
    known, shown = audit[audit.rows > 0], looks(audit.policy)
    if known.empty:
        empty(axis, "no usable log-weight")
        return drawn(figure, finding, "Effective sample size: nothing to show")
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
    facts = [
        f"{r.policy} ESS {number(r.ess)}, ceiling count {number(r.ceiling)}, tied {r.tied}" for r in audit.itertuples()
    ]
    return drawn(figure, finding, "Effective sample size against rows at the ceiling, on log axes", "; ".join(facts))
