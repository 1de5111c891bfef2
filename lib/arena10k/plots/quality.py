"""The figure of what is missing by the length of the response."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from arena10k.plots.style import looks, panels, sentences, styled


def missing_by_length_finding(strata: pd.DataFrame) -> str:
    """Where measurements are missing most, by length of the response."""
    if strata.empty or not strata.bad.sum():
        return "No measurement of a response failed or was quarantined, whatever its length"
    worst, best = strata.loc[strata.share.idxmax()], strata.loc[strata.share.idxmin()]
    return (
        f"{worst.share:.1%} of measurements of responses of {worst.lowest:,.0f} to {worst.highest:,.0f} characters "
        f"are bad, {best.share:.1%} at {best.lowest:,.0f} to {best.highest:,.0f}"
    )


def missing_by_length_alt(strata: pd.DataFrame) -> str:
    """The figure in words."""
    told = [f"{r.lowest:,.0f} to {r.highest:,.0f}: {r.bad:,.0f} of {r.rows:,.0f}" for r in strata.itertuples()]
    finding = missing_by_length_finding(strata)
    return sentences("Bad measurements by length of the response in characters", finding, "; ".join(told))


@styled
def missing_by_length(strata: pd.DataFrame, title: str | None = None) -> Figure:
    """Share of measurements that failed or were quarantined, by length of the response.

    Parameters
    ----------
    strata : `missingness.strata`: `lowest`, `highest` (characters), `rows`, `bad`, `share`.
    """
    figure, (axis,) = panels(1, 1, title or missing_by_length_finding(strata), 2.2)
    look = looks(["bad"])["bad"]
    place = np.arange(len(strata))
    axis.bar(place, strata.share.astype(float), color=look.colour, width=0.7)
    for x, r in zip(place, strata.itertuples(), strict=True):
        axis.annotate(f"{r.bad:,.0f} of {r.rows:,.0f}", (x, r.share), (0, 3), textcoords="offset points", ha="center",
                      fontsize=9)  # fmt: skip
    axis.set_xticks(place, [f"{r.lowest:,.0f} to {r.highest:,.0f}" for r in strata.itertuples()])
    axis.set(xlabel="length of the response (characters)", ylabel="bad measurements")
    axis.set_ylim(0, max(0.05, 1.15 * float(strata.share.max() if len(strata) else 0)))
    axis.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    return figure
