"""Figures of what has been measured: progress by job, and where measurements are missing, by job and by length."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from arena10k.plots.style import INK, SOFT, ink_on, looks, panels, sentences, styled
from arena10k.wording import listed


def _counted(jobs: pd.DataFrame) -> pd.DataFrame:
    """`job`, `policy`, `total`, `ok`, `bad` (failed or quarantined) and `open` as numbers.

    `errors` and `quarantined` may be numbers or, as in `status.json` and `quality.json`, numbers by code.
    """
    out = jobs[["job", "policy", "total", "ok"]].copy()
    out["bad"] = sum(jobs[c].map(_total) for c in ("errors", "quarantined") if c in jobs)
    out["open"] = (out.total - out.ok - out.bad).clip(lower=0)
    return out


def _total(value: int | Mapping[str, int]) -> int:
    return int(sum(value.values())) if isinstance(value, Mapping) else int(value)


def missing_heatmap_finding(jobs: pd.DataFrame) -> str:
    """How many measurements are missing, and where more than half of them are, else where more than anywhere else."""
    counts = _counted(jobs)
    lost = counts.total - counts.ok
    missing, total = int(lost.sum()), int(counts.total.sum())
    if not missing:
        return f"Nothing is missing: all {total:,} measurements are there"
    told = f"{missing:,} of {total:,} measurements are missing"
    worst = counts[lost == lost.max()]
    where = listed([f"{r.job} of {r.policy}" for r in worst.itertuples()])
    most = int(lost.max())
    if 2 * most > missing:
        return f"{told}, most of them in {where} ({most / worst.total.iloc[0]:.0%} of its rows)"
    return f"{told}; the largest number in one job and policy is {most:,}, in {where}"


@styled
def missing_heatmap(jobs: pd.DataFrame) -> Figure:
    """Share of measurements that are missing, by job and policy; the numbers are counts of missing of due.

    Parameters
    ----------
    jobs : one row per job and policy with `job`, `policy`, `total`, `ok`, `errors` and optionally `quarantined`.
        A job that a policy does not have stays blank.
    """
    counts = _counted(jobs)
    order = {"index": list(dict.fromkeys(jobs.job)), "columns": list(dict.fromkeys(jobs.policy))}
    total = counts.pivot_table(index="job", columns="policy", values="total", aggfunc="sum").reindex(**order)
    ok = counts.pivot_table(index="job", columns="policy", values="ok", aggfunc="sum").reindex(**order)
    share = ((total - ok) / total.where(total > 0)).astype(float)
    words = [
        ["" if pd.isna(t) else f"{int(t - k):,}\nof {int(t):,}" for t, k in zip(*line, strict=True)]
        for line in zip(total.to_numpy(), ok.to_numpy(), strict=True)
    ]
    figure, (axis,) = panels(1, 1, missing_heatmap_finding(jobs), 0.9 + 0.5 * len(total))
    top = max(0.1, np.nanmax(share))
    sns.heatmap(share, ax=axis, annot=np.array(words), fmt="", cmap="cividis_r", vmin=0, vmax=top, linewidths=2,
                linecolor="white", annot_kws={"fontsize": 8.5},
                cbar_kws={"label": "share missing", "format": lambda v, _: f"{v:.0%}"})  # fmt: skip
    colours = axis.collections[0]
    for cell in axis.texts:
        x, y = (int(at) for at in cell.get_position())
        cell.set_color(ink_on(colours, share.iloc[y, x]))
    axis.set(xlabel="", ylabel="")
    axis.tick_params(length=0)
    axis.tick_params(axis="y", rotation=0)
    return figure


def progress_finding(jobs: pd.DataFrame) -> str:
    """Which jobs are complete."""
    by_job = _counted(jobs).groupby("job", sort=False)[["total", "ok", "bad"]].sum()
    behind = by_job[by_job.ok < by_job.total]
    if behind.empty:
        return f"All {len(by_job)} jobs are complete"
    told = [f"{r.Index} {r.ok / r.total:.0%}" for r in behind.itertuples()]
    return f"{len(by_job) - len(behind)} of {len(by_job)} jobs are complete; {listed(told)}"


@styled
def progress(jobs: pd.DataFrame) -> Figure:
    """One bar per job: done, failed or quarantined, to do, as shares of what is due; columns as `missing_heatmap`."""
    by_job = _counted(jobs).groupby("job", sort=False)[["total", "ok", "bad", "open"]].sum()
    figure, (axis,) = panels(1, 1, progress_finding(jobs), 0.9 + 0.34 * len(by_job))
    look = looks(["done", "failed or quarantined"])
    rows, start = np.arange(len(by_job))[::-1], np.zeros(len(by_job))
    due = by_job.total.clip(lower=1)
    for name, column in (("done", "ok"), ("failed or quarantined", "bad"), ("to do", "open")):
        fill = {"color": look[name].colour, "hatch": look[name].hatch} if name in look else {"color": "#eceeee"}
        part = (by_job[column] / due).to_numpy(float)
        axis.barh(rows, part, left=start, height=0.62, label=name, color=fill["color"], hatch=fill.get("hatch"))
        start += part
    for row, job in zip(rows, by_job.itertuples(), strict=True):
        bad = f", {job.bad:,} failed" if job.bad else ""
        axis.annotate(f"{job.ok:,} / {job.total:,}{bad}", (1, row), (6, 0), textcoords="offset points", va="center",
                      fontsize=9, color=INK, annotation_clip=False)  # fmt: skip
    axis.set(xlim=(0, 1.0), yticks=rows, yticklabels=list(by_job.index))
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"], color=SOFT)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    figure.legend(loc="outside lower left", ncols=3)
    return figure


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
def missing_by_length(strata: pd.DataFrame) -> Figure:
    """Share of measurements that failed or were quarantined, by length of the response.

    Parameters
    ----------
    strata : `missingness.strata`: `lowest`, `highest` (characters), `rows`, `bad`, `share`.
    """
    figure, (axis,) = panels(1, 1, missing_by_length_finding(strata), 2.2)
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
