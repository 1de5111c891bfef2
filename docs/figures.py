"""The figures of these pages, drawn from the committed sample: `.venv/bin/python docs/figures.py`.

A test draws them again and compares; their text alternatives in the pages are the ones computed here.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from arena10k import Run, attribution, plots
from arena10k.evidence import findings, weight_findings
from arena10k.statistics.evaluate import Study
from arena10k.tables.table import Table

FOLDER = Path(__file__).parent / "figures"
#: The estimators of the small forest plot: a raw judge mean, weights alone, calibration alone, labels.
FEW = ("naive", "snips", "direct", "ppi_pp")


def compact(svg: str) -> str:
    """The same picture in about half of the characters: coordinates to a tenth of a point, short ids, no comments."""
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r"(?<!scale\()-?\d+\.\d{2,}", lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), svg)
    short = {name: f"{i:x}" for i, name in enumerate(dict.fromkeys(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)))}
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{short[found[1]]}"' if found[1] in short else "", svg)
    svg = re.sub(r'(href="#|url\(#)([^")]+)', lambda found: found[1] + short[found[2]], svg).replace(
        "xlink:href", "href"
    )
    svg = re.sub(r'(<use [^>]*)transform="translate\((\S+) 0\)"', r'\1x="\2"', svg)
    return re.sub(r"\s+", " ", svg).replace("> <", "><")


def svg_of(figure: Figure) -> str:
    """A figure as compact SVG, the same characters on every run."""
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "arena10k", "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", metadata={"Date": None}, facecolor="white")
    return compact(stream.getvalue()) + "\n"


def drawn(run: Run, table: Table, study: Study) -> dict[str, tuple[Figure, str]]:
    """Every figure of the pages with its text alternative, by name."""
    judge = run.params.estimation.judge
    contexts = study.of_judge(judge)
    weights, base = table.log_weights(), contexts[table.logging_policy]
    rows = findings.estimates_frame([r for r in study.rows if r["judge"] == judge and r["estimator"] in FEW])
    truth = dict(zip(table.truth.policy, table.truth.value, strict=True))
    score, label = table.logged[f"judge_{judge}"], table.logged.label
    pilots = {policy: ctx.pilot for policy, ctx in contexts.items()}
    width = run.params.estimation.width
    inv = run.investigate(table)
    worst = attribution.anomaly_row(inv.focus, inv)
    curve = weight_findings.calibration_curve(base)
    return {
        "weights": (plots.log_weights(weights), f"Histograms of log-weights. {plots.log_weights_finding(weights)}."),
        "overlap": (plots.overlap(weights), f"Bars of ESS and mean weight. {plots.overlap_finding(weights)}."),
        "calibration": (
            plots.reliability(score, label, curve=curve),
            f"Labels against judge scores. {plots.reliability_finding(score, label)}.",
        ),
        "verdicts": (
            plots.forest(rows, truth),
            f"Four estimates of each policy, with intervals. {plots.forest_finding(rows, truth)}.",
        ),
        "labels": (plots.planning(pilots, width), plots.planning_alt(pilots, width)),
        "anomaly": (plots.waterfall(worst), plots.waterfall_alt(worst)),
    }


def main() -> None:
    run = Run("sample")
    table = run.table()
    for name, (figure, alt) in drawn(run, table, run.study(table)).items():
        path = FOLDER / f"{name}.svg"
        path.write_text(svg_of(figure), encoding="utf-8")
        print(f"![{alt}](figures/{path.name})")


if __name__ == "__main__":
    main()
