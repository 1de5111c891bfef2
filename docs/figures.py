"""The figures of these pages, drawn from the committed sample, and a picture of its report's first page:
`.venv/bin/python docs/figures.py`.

A test draws them again and compares; their text alternatives in the pages are the ones computed here.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from arena10k import Run, paths, plots
from arena10k.attribution import words
from arena10k.estimation.evaluation import Evaluation
from arena10k.frames.table import Table
from arena10k.plots import style
from arena10k.report import findings, weight_findings
from arena10k.report.display import Drawn, svg_text

FOLDER, PICTURE = Path(__file__).parent / "figures", Path(__file__).parent / "report.png"
INDEX = paths.source_root() / "reports" / "sample" / "index.html"
#: The estimators of the small forest plot: a raw judge mean, weights alone, calibration alone, labels.
FEW = ("naive", "snips", "direct", "ppi_pp")


def drawn(run: Run, table: Table, study: Evaluation) -> dict[str, Drawn]:
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
    worst = words.anomaly_row(inv.focus, inv)
    curve = weight_findings.calibration_curve(base)
    return {
        "weights": plots.log_weights(weights),
        "overlap": plots.overlap(weights),
        "calibration": plots.reliability(score, label, curve),
        "verdicts": plots.forest(rows, truth),
        "labels": plots.planning(pilots, width),
        "anomaly": plots.waterfall(worst),
        "growth": growth(),
    }


@style.styled
def growth() -> Drawn:
    """The cost of `evaluate`, from the table of the page that shows it."""
    page = (Path(__file__).parent / "data.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    rows, seconds, memory = np.array([[float(cell.replace(",", "")) for cell in line] for line in lines]).T
    figure, axes = style.panels(2, 2, 2.6)
    for axis, values, unit in zip(axes, (seconds, memory), ("seconds", "memory, GB"), strict=True):
        axis.plot(rows, values, marker="o", color=style.ACCENT)
        axis.set(xscale="log", yscale="log", xlabel="rows", ylabel=unit)
        axis.set_xticks(rows, [f"{n:,.0f}" for n in rows])
        axis.set_yticks(values, [f"{value:.2f}" for value in values])
        axis.minorticks_off()
    least, most = seconds[[0, -1]]
    finding = f"From {rows[0]:,.0f} to {rows[-1]:,.0f} rows the time grows from {least:.2f} to {most:.2f} s"
    return style.drawn(figure, finding, "Seconds and memory of evaluate against rows")


def digest(page: Path) -> str:
    """What the screenshot says it is a picture of."""
    return hashlib.sha256(page.read_bytes()).hexdigest()


def photograph() -> None:
    """A screenshot of the first page of the committed report, where it is another than before."""
    if Image.open(PICTURE).text.get("Source") == digest(INDEX):
        return
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit(f"{INDEX} is new and {PICTURE.name} is not: there is no Chromium to make a screenshot with")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1200,1060"]
    subprocess.run([chromium, *options, f"--screenshot={PICTURE}", INDEX.as_uri()], check=True, capture_output=True)
    source = PngImagePlugin.PngInfo()
    source.add_text("Source", digest(INDEX))
    Image.open(PICTURE).convert("RGB").quantize(128).save(PICTURE, pnginfo=source, optimize=True)


def main() -> None:
    run = Run("sample")
    table = run.table()
    for name, figure in drawn(run, table, run.study(table)).items():
        path = FOLDER / f"{name}.svg"
        path.write_text(svg_text(figure.figure) + "\n", encoding="utf-8")
        print(f"![{figure.alt}](figures/{path.name})")
    photograph()


if __name__ == "__main__":
    main()
