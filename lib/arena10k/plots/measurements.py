"""Figures of what has been measured: progress by job, where measurements are missing, the judge against the oracle, and
the logging policy against itself."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns

from arena10k.estimation.diagnostics import reliability_curve
from arena10k.plots.style import BAND, INK, SOFT, drawn, ink_on, looks, panels, styled
from arena10k.report.display import Drawn
from arena10k.wording import listed, number, percent

#: Groups of judge scores, at most; nats by which scoring may depart from generation.
_BINS, _TOLERANCE = 8, 1e-3


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


def _missing_finding(counts: pd.DataFrame) -> str:
    """How many measurements are missing, and where more than half of them are, else where more than anywhere else."""
    lost = counts.total - counts.ok
    missing, total, most = int(lost.sum()), int(counts.total.sum()), int(lost.max())
    if not missing:
        return f"Nothing is missing: all {total:,} measurements are there"
    worst = counts[lost == most]
    where = listed([f"{r.job} of {r.policy}" for r in worst.itertuples()])
    first = f"{missing:,} of {total:,} measurements are missing"
    if 2 * most > missing:
        return f"{first}, most of them in {where} ({percent(most / worst.total.iloc[0])} of its rows)"
    return f"{first}; the largest number in one job and policy is {most:,}, in {where}"


@styled
def missing_heatmap(jobs: pd.DataFrame) -> Drawn:
    """Share of measurements that are missing, by job and policy; the numbers are counts of missing of due.

    Parameters
    ----------
    jobs : one row per job and policy with `job`, `policy`, `total`, `ok`, `errors` and optionally `quarantined`.
        A job that a policy does not have stays blank.
    """
    counts = _counted(jobs)
    finding = _missing_finding(counts)
    order = {"index": list(dict.fromkeys(jobs.job)), "columns": list(dict.fromkeys(jobs.policy))}
    total, ok = (
        counts.pivot_table(index="job", columns="policy", values=name, aggfunc="sum").reindex(**order)
        for name in ("total", "ok")
    )
    share = ((total - ok) / total.where(total > 0)).astype(float)
    words = [
        ["" if pd.isna(t) else f"{int(t - k):,}\nof {int(t):,}" for t, k in zip(*line, strict=True)]
        for line in zip(total.to_numpy(), ok.to_numpy(), strict=True)
    ]
    figure, (axis,) = panels(1, 1, finding, 0.9 + 0.5 * len(total))
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
    figure, (axis,) = panels(1, 1, finding, 0.9 + 0.34 * len(by_job))
    done, bad = looks("ab").values()
    rows, start, due = np.arange(len(by_job))[::-1], np.zeros(len(by_job)), by_job.total.clip(lower=1)
    for name, column, colour, hatch in (
        ("done", "ok", done.colour, done.hatch),
        ("failed or quarantined", "bad", bad.colour, bad.hatch),
        ("to do", "open", "#eceeee", None),
    ):
        part = (by_job[column] / due).to_numpy(float)
        axis.barh(rows, part, left=start, height=0.62, label=name, color=colour, hatch=hatch)
        start += part
    for row, job in zip(rows, by_job.itertuples(), strict=True):
        failed = f", {job.bad:,} failed" if job.bad else ""
        axis.annotate(f"{job.ok:,} / {job.total:,}{failed}", (1, row), (6, 0), textcoords="offset points", va="center",
                      fontsize=9, color=INK, annotation_clip=False)  # fmt: skip
    axis.set(xlim=(0, 1.0), yticks=rows, yticklabels=list(by_job.index))
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"], color=SOFT)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    figure.legend(loc="outside lower left", ncols=3)
    return drawn(figure, finding, "Bars of finished records by job")


@styled
def missing_by_length(strata: pd.DataFrame) -> Drawn:
    """Share of measurements that failed or were quarantined, by length of the response.

    Parameters
    ----------
    strata : `missingness.strata`: `lowest`, `highest` (characters), `rows`, `bad`, `share`.
    """
    spans = [f"{r.lowest:,.0f} to {r.highest:,.0f}" for r in strata.itertuples()]
    finding = "No measurement of a response failed or was quarantined, whatever its length"
    if len(strata) and strata.bad.sum():
        worst, best = (int(k) for k in (strata.share.argmax(), strata.share.argmin()))
        finding = (
            f"{percent(strata.share.iloc[worst])} of measurements of responses of {spans[worst]} characters are bad, "
            f"{percent(strata.share.iloc[best])} at {spans[best]}"
        )
    figure, (axis,) = panels(1, 1, finding, 2.2)
    place = np.arange(len(strata))
    axis.bar(place, strata.share.astype(float), color=looks("a")["a"].colour, width=0.7)
    counts = [f"{r.bad:,.0f} of {r.rows:,.0f}" for r in strata.itertuples()]
    for x, share, words in zip(place, strata.share, counts, strict=True):
        axis.annotate(words, (x, share), (0, 3), textcoords="offset points", ha="center", fontsize=9)
    axis.set_xticks(place, spans)
    axis.set(xlabel="length of the response (characters)", ylabel="bad measurements")
    axis.set_ylim(0, max(0.05, 1.15 * float(strata.share.max() if len(strata) else 0)))
    axis.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    details = "; ".join(f"{span}: {words}" for span, words in zip(spans, counts, strict=True))
    return drawn(figure, finding, "Bad measurements by length of the response in characters", details)


def _pairs(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(first, float), np.asarray(second, float)
    both = np.isfinite(first) & np.isfinite(second)
    return first[both], second[both]


def _groups(score: np.ndarray, label: np.ndarray) -> pd.DataFrame:
    """The reliability curve, with a standard error that is not zero where all labels of a group agree.

    Two labels of each kind are added for it (Agresti and Coull 1998); an upper bound for graded labels.
    """
    groups = pd.DataFrame(reliability_curve(score, label, _BINS))
    near = (groups.label * groups.n + 2) / (groups.n + 4)
    return groups.assign(se=np.sqrt(near * (1 - near) / (groups.n + 4)))


def _reliability_finding(groups: pd.DataFrame) -> str:
    """Where the judge departs most from the oracle, and on how many rows: those that calibrations are trained on."""
    if groups.empty:
        return "None of the logged responses has both a judge score and an oracle label"
    gap = groups.label - groups.judge
    worst, rows = gap.abs().idxmax(), f"{int(groups.n.sum()):,} labelled logged responses"
    if abs(gap[worst]) < 0.05:
        return f"On {rows} the judge agrees with the oracle within 0.05 at every score"
    way = "low" if gap[worst] > 0 else "high"
    at = f"{abs(gap[worst]):.2f} too {way} at scores near {groups.judge[worst]:.2f}"
    return f"On {rows} the judge is furthest off, {at}"


@styled
def reliability(score: np.ndarray, label: np.ndarray, curve: tuple[np.ndarray, np.ndarray] | None = None) -> Drawn:
    """Mean oracle label by judge score on logged responses, with 95% intervals and the number of labels in each group.

    Parameters
    ----------
    score, label : (n,), in [0, 1]; rows with either missing are left out.
    curve : the fitted calibration as grid and values, drawn as a line.
    """
    x, y = _pairs(score, label)
    groups = _groups(x, y) if x.size else pd.DataFrame()
    finding = _reliability_finding(groups)
    figure, (axis, below) = panels(2, 1, finding, 2.35, sharex=True, height_ratios=[3.4, 1])
    look = looks(["labels", "curve"])
    axis.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle="--", label="judge = oracle")
    if curve is not None:
        axis.plot(*curve, color=look["curve"].colour, linewidth=2.2, drawstyle="steps-mid", label="calibration")
    if x.size:
        axis.errorbar(groups.judge, groups.label, 1.96 * groups.se, color=look["labels"].colour, marker="o",
                      linestyle="", capsize=3, linewidth=1.6, label="mean label, 95% interval")  # fmt: skip
        sns.histplot(x=x, bins=np.linspace(0, 1, 41), ax=below, color=look["labels"].colour, alpha=1, linewidth=0.2)
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.04, 1.04), ylabel="oracle label")
    below.set(xlabel="judge score", ylabel="labels")
    axis.grid()
    axis.legend(loc="upper left")
    return drawn(figure, finding, "Logged labels against judge scores")


def _consistency_finding(gap: np.ndarray) -> str:
    if not gap.size:
        return "No response has both a generation and a teacher-forced log-prob"
    beyond = int((gap > _TOLERANCE).sum())
    if not beyond:
        largest = f"largest difference {number(gap.max())} nats"
        return f"Teacher forcing reproduces generation on all {gap.size:,} rows ({largest})"
    return (
        f"Teacher forcing departs from generation by more than {number(_TOLERANCE)} nats on {beyond:,} of "
        f"{gap.size:,} rows (largest difference {number(gap.max())})"
    )


@styled
def self_consistency(generation: np.ndarray, teacher_forced: np.ndarray) -> Drawn:
    """Teacher-forced against generation log-prob of the same responses, and their difference. (n,), in nats."""
    x, y = _pairs(generation, teacher_forced)
    finding, look = _consistency_finding(np.abs(y - x)), looks(["rows"])["rows"]
    figure, (left, right) = panels(2, 2, finding, 2.9)
    if x.size:
        ends = [min(x.min(), y.min()), max(x.max(), y.max())]
        left.plot(ends, ends, color=SOFT, linewidth=1, linestyle="--")
    left.scatter(x, y, s=14, color=look.colour, alpha=0.5, linewidth=0)
    left.set(xlabel="generation log-prob (nats)", ylabel="teacher-forced log-prob (nats)")
    right.axhspan(-_TOLERANCE, _TOLERANCE, color=BAND, zorder=0)
    right.axhline(0, color=SOFT, linewidth=1)
    right.scatter(x, y - x, s=14, color=look.colour, alpha=0.5, linewidth=0)
    reach = max(float(np.abs(y - x).max()) if x.size else 0.0, _TOLERANCE)
    right.set(ylim=(-1.35 * reach, 1.35 * reach), xlabel="generation log-prob (nats)",
              ylabel=f"difference (nats; shaded: {number(_TOLERANCE)})")  # fmt: skip
    right.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=False)
    for axis in (left, right):
        axis.grid()
    return drawn(figure, finding, "Teacher-forced against generation log-probs")
