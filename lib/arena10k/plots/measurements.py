"""Figures of what has been measured: progress by job, where measurements are missing, the judge against the oracle, and
the logging policy against itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from arena10k.estimation.diagnostics import reliability_curve
from arena10k.plots.style import (
    ACCENT,
    BAD,
    BAND,
    INK,
    MANY,
    SHADES,
    SOFT,
    cells,
    drawn,
    is_narrow,
    name_rows,
    panels,
    styled,
)
from arena10k.report.display import Drawn
from arena10k.wording import listed, number, percent

#: Groups of judge scores, at most; nats by which scoring may depart from generation.
_BINS, _TOLERANCE = 8, 1e-3


def _counted(jobs: pd.DataFrame) -> pd.DataFrame:
    """`job`, `policy`, `total`, `ok`, `bad` (failed or quarantined) and `open` as numbers.

    `errors` and `quarantined` may be numbers or, as in `status.json` and `quality.json`, numbers by code.
    """

    def total(value: int | Mapping[str, int]) -> int:
        return int(sum(value.values())) if isinstance(value, Mapping) else int(value)

    bad = sum(jobs[column].map(total) for column in ("errors", "quarantined") if column in jobs)
    out = jobs[["job", "policy", "total", "ok"]].assign(bad=bad)
    return out.assign(open=(out.total - out.ok - out.bad).clip(lower=0))


@styled
def missing_heatmap(jobs: pd.DataFrame) -> Drawn:
    """Share of measurements that are missing, by job and policy; the numbers are counts of missing of due.

    `jobs` has one row per job and policy with `job`, `policy`, `total`, `ok`, `errors` and optionally `quarantined`.
    A job that a policy does not have stays blank. The finding names where more than half of what is missing is, else
    where more is than anywhere else.
    """
    counts = _counted(jobs)
    lost, due = counts.total - counts.ok, int(counts.total.sum())
    missing, most = int(lost.sum()), int(lost.max())
    worst = counts[lost == most]
    where = listed([f"{r.job} of {r.policy}" for r in worst.itertuples()])
    finding = f"{missing:,} of {due:,} measurements are missing"
    if not missing:
        finding = f"Nothing is missing: all {due:,} measurements are there"
    elif 2 * most > missing:
        finding += f", most of them in {where} ({percent(most / worst.total.iloc[0])} of its rows)"
    else:
        finding += f"; the most in one place are {most:,} ({where})"
    words = [f"{k:,}" if is_narrow() else f"{k:,}\nof {n:,}" for k, n in zip(lost, counts.total, strict=True)]
    grid = counts.assign(share=lost / counts.total, words=words).pivot(index="job", columns="policy")
    grid = grid.reindex(counts.job.unique())
    figure, (axis,) = panels(1, 1, 0.9 + 0.5 * len(grid))
    share, words = (grid[name][counts.policy.unique()] for name in ("share", "words"))
    cells(axis, share, words.fillna(""), cmap=SHADES, vmin=0, vmax=max(0.1, np.nanmax(share)))
    return drawn(figure, finding, "Share of missing measurements by job and policy")


@styled
def progress(jobs: pd.DataFrame) -> Drawn:
    """One bar per job: done, failed or quarantined, to do, as shares of what is due; columns as `missing_heatmap`."""
    by_job = _counted(jobs).groupby("job", sort=False)[["total", "ok", "bad", "open"]].sum()
    behind = by_job[by_job.ok < by_job.total]
    finding = f"All {len(by_job)} jobs are complete"
    if len(behind):
        shares = [f"{r.Index} {percent(r.ok / r.total)}" for r in behind.itertuples()]
        finding = f"{len(by_job) - len(behind)} of {len(by_job)} jobs are complete; {listed(shares)}"
    figure, (axis,) = panels(1, 1, 0.9 + 0.34 * len(by_job))
    rows, start, due = np.arange(len(by_job))[::-1], np.zeros(len(by_job)), by_job.total.clip(lower=1)
    names = ("done", "failed or quarantined", "to do")
    fills = [(ACCENT, ""), (BAD, "///"), ("#eceeee", None)]
    for name, column, (colour, hatch) in zip(names, ("ok", "bad", "open"), fills, strict=True):
        part = (by_job[column] / due).to_numpy(float)
        axis.barh(rows, part, left=start, height=0.62, label=name, color=colour, hatch=hatch)
        start += part
    for row, job in zip(rows, by_job.itertuples(), strict=True):
        failed = f", {job.bad:,} failed" if job.bad else ""
        axis.annotate(f"{job.ok:,} / {job.total:,}{failed}", (1, row), (6, 0), textcoords="offset points", va="center",
                      annotation_clip=False)  # fmt: skip
    axis.set(xlim=(0, 1.0), yticks=rows, yticklabels=list(by_job.index))
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"], color=SOFT)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    figure.legend(loc="outside lower left", ncols=2 if is_narrow() else 3)
    return drawn(figure, finding, "Bars of finished records by job")


@styled
def missing_by_length(strata: pd.DataFrame) -> Drawn:
    """Share of measurements that failed or were quarantined, by length of the response; `strata` as from
    `effect.by_length`: `lowest`, `highest` (characters), `rows`, `bad`, `share`."""
    spans = [f"{r.lowest:,.0f} to {r.highest:,.0f}" for r in strata.itertuples()]
    counts = [f"{r.bad:,.0f} of {r.rows:,.0f}" for r in strata.itertuples()]
    finding = "No measurement of a response failed or was quarantined, whatever its length"
    if strata.bad.sum():
        worst, best = (int(k) for k in (strata.share.argmax(), strata.share.argmin()))
        finding = (
            f"{percent(strata.share.iloc[worst])} of measurements of responses of {spans[worst]} characters are "
            f"missing, {percent(strata.share.iloc[best])} at {spans[best]}"
        )
    figure, (axis,) = panels(1, 1, 2.2)
    axis.barh(range(len(strata)), strata.share.astype(float), color=ACCENT, height=0.62)
    for y, (share, words) in enumerate(zip(strata.share, counts, strict=True)):
        axis.annotate(words, (share, y), (4, 0), textcoords="offset points", va="center")
    name_rows(axis, spans)
    axis.set(xlabel="missing measurements", ylabel="characters", xlim=(0, max([0.05, *1.3 * strata.share])))
    axis.xaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    details = "; ".join(f"{span}: {words}" for span, words in zip(spans, counts, strict=True))
    return drawn(figure, finding, "Missing measurements by length of the response in characters", details)


def _pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    both = np.array([first, second], float)
    return both[:, np.isfinite(both).all(axis=0)]


@styled
def reliability(score: np.ndarray, label: np.ndarray, curve: tuple[np.ndarray, np.ndarray] | None = None) -> Drawn:
    """Mean oracle label by judge score on logged responses, with 95% intervals and the number of labels in each group.

    `score`, `label` (n,), in [0, 1]; rows with either missing are left out. `curve`, the fitted calibration as grid and
    values, is drawn as a line. For the intervals, which may not be zero where all labels of a group agree, two labels
    of each kind are added (Agresti and Coull 1998); an upper bound for graded labels.
    """
    x, y = _pairs(score, label)
    groups = pd.DataFrame(reliability_curve(x, y, _BINS))
    if groups.empty:
        finding = "None of the logged responses has both a judge score and an oracle label"
    else:
        gap = groups.label - groups.judge
        worst, way = gap.abs().idxmax(), "low" if gap[gap.abs().idxmax()] > 0 else "high"
        at = f"is furthest off, {abs(gap[worst]):.2f} too {way} at scores near {groups.judge[worst]:.2f}"
        at = at if abs(gap[worst]) >= 0.05 else "agrees with the oracle within 0.05 at every score"
        finding = f"On {x.size:,} labelled logged responses the judge {at}"
    figure, (axis, below) = panels(2, 1, 2.35, sharex=True, height_ratios=[3.4, 1])
    axis.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle="--", label="judge = oracle")
    if curve is not None:
        axis.plot(*curve, color=ACCENT, linewidth=2.2, drawstyle="steps-mid", label="calibration")
    if x.size:
        near = (groups.label * groups.n + 2) / (groups.n + 4)
        radius = 1.96 * np.sqrt(near * (1 - near) / (groups.n + 4))
        ends = (near - radius).clip(lower=0), (near + radius).clip(upper=1)
        reach = pd.DataFrame({"below": groups.label - ends[0], "above": ends[1] - groups.label})
        axis.errorbar(groups.judge, groups.label, reach.clip(lower=0).T.to_numpy(), color=INK, marker="o",
                      linestyle="", capsize=3, linewidth=1.6, label="mean label, 95% interval")  # fmt: skip
        below.hist(x, list(np.linspace(0, 1, 41)), color=SOFT, linewidth=0.2)
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.04, 1.04), ylabel="oracle label")
    below.set(xlabel="judge score", ylabel="labels")
    axis.grid()
    below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    close: dict[str, Any] = {"columnspacing": 1, "handlelength": 1.5} if is_narrow() else {}
    columns = 2 if is_narrow() else 3
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left", ncols=columns, **close)
    return drawn(figure, finding, "Logged labels against judge scores")


@styled
def self_consistency(generation: np.ndarray, teacher_forced: np.ndarray) -> Drawn:
    """Teacher-forced against generation log-prob of the same responses, and their difference. (n,), in nats."""
    x, y = _pairs(generation, teacher_forced)
    largest, beyond = np.abs(y - x).max(initial=0.0), (np.abs(y - x) > _TOLERANCE).sum()
    finding = (
        f"Teacher forcing reproduces generation on all {x.size:,} rows (largest difference {number(largest)} nats)"
    )
    if not x.size:
        finding = "No response has both a generation and a teacher-forced log-prob"
    elif beyond:
        finding = f"Teacher forcing departs from generation by more than {number(_TOLERANCE)} nats on {beyond:,} of "
        finding += f"{x.size:,} rows (largest difference {number(largest)})"
    figure, (left, right) = panels(2, 2, 2.9)
    if x.size:
        ends = [min(x.min(), y.min()), max(x.max(), y.max())]
        left.plot(ends, ends, color=SOFT, linewidth=1, linestyle="--")
    dots: dict[str, Any] = {"s": 14, "color": ACCENT, "alpha": 0.5, "linewidth": 0}
    left.scatter(x, y, **dots)
    left.set(xlabel="generation log-prob (nats)", ylabel="teacher-forced log-prob (nats)")
    right.axhspan(-_TOLERANCE, _TOLERANCE, color=BAND, zorder=0)
    right.axhline(0, color=SOFT, linewidth=1)
    right.scatter(x, y - x, **dots)
    reach = 1.35 * max(largest, _TOLERANCE)
    right.set(ylim=(-reach, reach), xlabel="generation log-prob (nats)")
    right.set_ylabel(f"difference (nats; shaded: {number(_TOLERANCE)})")
    right.yaxis.set_major_formatter("{x:g}")
    for axis in (left, right):
        axis.grid()
    kind = "png" if x.size > MANY else "svg"
    return drawn(figure, finding, "Teacher-forced against generation log-probs", kind=kind)
