"""The figures of these pages, drawn from the committed sample: `.venv/bin/python docs/figures.py`.

A test draws them again and compares; their text alternatives in the pages are the ones computed here.
"""

from __future__ import annotations

import re
from pathlib import Path

from arena10k import Run, attribution, plots
from arena10k.estimation.evaluate import Study
from arena10k.evidence import findings, weight_findings
from arena10k.frames.table import Table
from arena10k.report.display import Drawn, rounded, svg_text

FOLDER = Path(__file__).parent / "figures"
#: The estimators of the small forest plot: a raw judge mean, weights alone, calibration alone, labels.
FEW = ("naive", "snips", "direct", "ppi_pp")


def compact(svg: str) -> str:
    """A figure of a page in fewer characters: coordinates to a tenth of a point, no line breaks."""
    svg = rounded(svg[svg.index("<svg") :].replace("xlink:href", "href"), 1)
    svg = re.sub(r'(<use [^>]*)transform="translate\((\S+) 0\)"', r'\1x="\2"', svg)
    return re.sub(r"\s+", " ", svg).replace("> <", "><")


def drawn(run: Run, table: Table, study: Study) -> dict[str, Drawn]:
    """Every figure of the pages, by name."""
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
        "weights": plots.log_weights(weights),
        "overlap": plots.overlap(weights),
        "calibration": plots.reliability(score, label, curve),
        "verdicts": plots.forest(rows, truth),
        "labels": plots.planning(pilots, width),
        "anomaly": plots.waterfall(worst),
    }


def main() -> None:
    run = Run("sample")
    table = run.table()
    for name, figure in drawn(run, table, run.study(table)).items():
        path = FOLDER / f"{name}.svg"
        path.write_text(compact(svg_text(figure.figure)) + "\n", encoding="utf-8")
        print(f"![{figure.alt}](figures/{path.name})")


if __name__ == "__main__":
    main()
