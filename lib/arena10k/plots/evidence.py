"""Figures of the evidence beside the attribution: the permutation null, and how each policy talks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from arena10k.plots.style import INK, SOFT, looks, panels, sentences, styled
from arena10k.wording import listed, number

#: Per policy: `value`, `logging_mean`, `p_value`, `null` (b,), as in `diagnostics.PermutationNull`.
Nulls = Mapping[str, Any]


def permutation_finding(nulls: Nulls) -> str:
    """For which policies shuffled weights give values as far from the logging policy's mean as their own do."""
    usable = {p: n for p, n in nulls.items() if np.isfinite(n.value)}
    blind = [p for p, n in usable.items() if n.p_value > 0.05]
    if not usable:
        return "No policy has weights to shuffle"
    if not blind:
        return "No policy's value is one that shuffled weights give: every policy's weights add information"
    names = "every policy" if len(blind) == len(usable) else listed(blind)
    return f"Shuffled weights give values as far off for {names}: the weights add no visible information"


def permutation_alt(nulls: Nulls) -> str:
    """The permutation null in words."""
    told = [f"{p}: value {n.value:.3f}, p {number(n.p_value)}" for p, n in nulls.items() if np.isfinite(n.value)]
    return sentences("Histograms of the value under shuffled weights", permutation_finding(nulls), "; ".join(told))


@styled
def permutation(nulls: Nulls) -> Figure:
    """Values under shuffled weights, with the observed value and the logged mean, one panel per policy."""
    figure, axes = panels(len(nulls), 3, permutation_finding(nulls), 1.9)
    shown = looks(nulls)
    for axis, (policy, n) in zip(axes, nulls.items(), strict=True):
        axis.set_title(policy, loc="left", fontweight="bold")
        axis.set(yticks=[], xlabel="", ylabel="")
        axis.spines["left"].set_visible(False)
        if not np.isfinite(n.value):
            axis.text(0.5, 0.5, "no weights", ha="center", transform=axis.transAxes, color=SOFT)
            continue
        if np.ptp(n.null) > 1e-9:
            sns.histplot(x=n.null, bins=30, ax=axis, color=shown[policy].colour, alpha=0.5, linewidth=0.2)
        axis.axvline(n.logging_mean, color=SOFT, linewidth=1.2, linestyle="--")
        axis.axvline(n.value, color=INK, linewidth=2.2)
        axis.set(ylabel="")
        axis.margins(x=0.15, y=0.3)
        axis.text(0.02, 0.98, f"p = {number(n.p_value)}", transform=axis.transAxes, va="top", fontsize=9)
    figure.supxlabel("self-normalised value; solid: observed, dashed: mean of the logged rewards", fontsize=10)
    return figure


#: Per policy: `chars` lengths of its own responses, `nats` log-prob per `unit` of the logged ones, as in
#: `attribution.Profile`; the logging policy first.
Profiles = Mapping[str, Any]


def profiles_finding(profiles: Profiles) -> str:
    """Which policies' own responses have other lengths than the logged ones, by their medians."""
    middle = {p: np.median(known) for p, own in profiles.items() if len(known := _finite(own.chars))}
    base = next(iter(profiles))
    if base not in middle or len(middle) < 2:
        return "No target has responses of its own to compare with the logged ones"
    off = {p: m for p, m in middle.items() if max(m, middle[base]) > 1.5 * min(m, middle[base])}
    if not off:
        span = f"{min(middle.values()):,.0f} to {max(middle.values()):,.0f} characters, {base} {middle[base]:,.0f}"
        return f"No policy's responses are more than half as long again as those of {base}, or the reverse ({span})"
    told = [f"{p} ({m:,.0f} characters)" for p, m in off.items()]
    return f"Unlike {base} ({middle[base]:,.0f} characters) in length: {listed(told)}"


def profiles_alt(profiles: Profiles) -> str:
    """Lengths and log-probs in words."""
    told = [f"{p} {_middle(own.chars)} characters, {_middle(own.nats)} nats" for p, own in profiles.items()]
    unit = next(iter(profiles.values())).unit
    return (
        f"Length of each policy's own responses, and its log-prob per {unit} of the logged responses. "
        f"{profiles_finding(profiles)}. Medians: {'; '.join(told)}."
    )


def _finite(values: np.ndarray) -> np.ndarray:
    return np.asarray(values[np.isfinite(values)])


def _middle(values: np.ndarray) -> str:
    known = _finite(values)
    return number(float(np.median(known))) if len(known) else "no"


@styled
def profiles(profiles: Profiles) -> Figure:
    """Length of own responses (left) and log-prob of the logged responses (right) by policy: median, half of the
    responses (thick), four fifths (thin)."""
    figure, axes = panels(2, 2, profiles_finding(profiles), 0.8 + 0.33 * len(profiles), sharey=True)
    shown = looks(profiles)
    for axis, name in zip(axes, ("chars", "nats"), strict=True):
        for y, (policy, own) in enumerate(profiles.items()):
            known = _finite(getattr(own, name))
            if not len(known):
                axis.text(
                    0.02, y, "not known", transform=axis.get_yaxis_transform(), va="center", fontsize=9, color=SOFT
                )
                continue
            low, first, middle, third, high = np.quantile(known, [0.1, 0.25, 0.5, 0.75, 0.9])
            look = shown[policy]
            axis.plot([low, high], [y, y], color=look.colour, linewidth=1.4)
            axis.plot([first, third], [y, y], color=look.colour, linewidth=5, alpha=0.55, solid_capstyle="butt")
            axis.plot(middle, y, color=look.colour, marker=look.marker, markersize=7, markeredgecolor="white")
        axis.grid(axis="x")
        axis.tick_params(axis="y", length=0)
    unit = next(iter(profiles.values())).unit
    axes[0].set(xlabel="own responses: characters", ylim=(len(profiles) - 0.5, -0.5))
    axes[0].set_yticks(range(len(profiles)), list(profiles))
    axes[1].set_xlabel(f"logged responses: nats per {unit}")
    return figure
