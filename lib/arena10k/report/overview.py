"""The first page of a run: what can be said about each policy, and one row per stage with its numbers and link."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from arena10k.analysis import Analysis
from arena10k.attribution.game import CAUSE_WORDS
from arena10k.estimation.verdicts import NOT_ASKED, REFUSE
from arena10k.inputs.prompts import FILTERS
from arena10k.report.files import write_text
from arena10k.report.page import TEMPLATES, footer_facts, icon, style_sheet
from arena10k.report.summary import LOGGED_ONLY, Row, headline, headline_rows, is_refused, summary
from arena10k.report.tables import badge
from arena10k.wording import (
    ESTIMATOR_WORDS,
    MISSING,
    format_number,
    format_value,
    is_missing,
    level,
    number,
    percent,
    visible,
)

_CONTROLS = {
    "controls_failed": "controls failed",
    "controls_hold": "controls that hold",
    "controls_not_settled": "controls not settled",
    "controls_not_measured": "controls not measured",
}
#: By notebook, what the numbers that it notes are called, in the order they are shown in.
LABELS: dict[str, dict[str, str]] = {
    "00_status": {"prompts": "prompts", "complete_rows": "prompts complete in every job"},
    "01_prompts": {"read": "prompts read", "kept": "prompts kept"} | {k: f"left out: {v}" for k, v in FILTERS.items()},
    "02_responses": {"responses": "responses", "failed": "requests that failed"},
    "03_teacher_forcing": {"scored": "log-probs of responses"}
    | _CONTROLS
    | {"self_consistency_max_nats": "largest difference from generation (nats)"},
    "04_judge": {"graded": "judge scores", "labels": "oracle labels", "auc": "AUC of the judge (0.5 is guessing)"},
    "05_data_quality": {"failed": "measurements that failed", "set_aside": "values quarantined"} | _CONTROLS,
    "06_estimates": {
        "report": "estimates to report",
        "caution": "with caution",
        "refuse": "refused",
        "judges_scale": "on the judge scale only",
    },
    "07_pi_bad_anomaly": {
        "anomalies": "SNIPS values that are wrong",
        "policy": "policy looked at",
        "main_cause": "main cause",
    },
    "08_ablation": {
        "rmse": "root mean squared error",
        "coverage": "intervals that hold the truth",
        "refused": "estimates refused",
        "misranked": "orders with a worse policy first",
    },
    "09_ablation_summary": {
        "estimators": "estimators",
        "misranking": "pairs of estimator and judge mode that put a worse policy first",
    },
    "10_simulation": {
        "replicates": "data sets of each kind",
        "transports": "intervals that hold the truth, with a judge that transports",
        "fooled": "with a judge that overrates the target",
        "unseen": "with a part of the target that no log shows",
    },
    "11_incident": {"steps": "steps", "anomalies": "SNIPS values that are wrong at the last step"},
}
#: How a number is written, where not as in any table.
_WRITTEN: dict[str, Callable[[Any], str]] = {
    "main_cause": CAUSE_WORDS.__getitem__,
    "self_consistency_max_nats": number,
    "coverage": percent,
    "refused": percent,
    "misranked": percent,
}
#: What is said of a number that is not there; any other is left out.
_ABSENT = {"self_consistency_max_nats": "not measured", "misranking": "not known without the truth"}
#: What a headline may rest on, by the belief asked for.
_RESTS = {
    "labels": "labels alone",
    "weights": "labels or weights, or, where neither answers, on the judge",
    "judge": "labels, weights or the judge",
}


def labelled(notebook: str, numbers: Mapping[str, Any]) -> dict[str, str]:
    """The `numbers` of a stage as text by their labels, in the order of `LABELS`; without those that are not there,
    unless it can be said why."""
    written = {
        label: _ABSENT.get(key) if numbers[key] is None else _WRITTEN.get(key, format_value)(numbers[key])
        for key, label in LABELS[notebook].items()
        if key in numbers
    }
    return {label: value for label, value in written.items() if value is not None}


@dataclass(frozen=True)
class Listed:
    """A page as the index lists it: `html` beside the index, `numbers` by label, how many rows have each verdict."""

    stage: str
    title: str
    html: Path
    numbers: Mapping[str, str] = field(default_factory=dict)
    failed: bool = False
    verdicts: Mapping[str, int] = field(default_factory=dict)
    group: str = "Stages"


def index(
    run: str,
    pages: Sequence[Listed],
    estimates: Mapping[str, Any] | None,
    out: Path,
    *,
    provenance: Mapping[str, Any] | None = None,
    truth: Mapping[str, float] | None = None,
    title: str = "",
    confidence: float = 0.95,
    controls: str = "",
    alarm: bool = False,
    about: str = "",
) -> Path:
    """Write `reports/<run>/index.html`.

    Parameters
    ----------
    pages : one per stage or ablation. One whose file is not there is listed as missing, without a link.
    estimates : the content of `estimates.json`, or None where there is none yet.
    provenance : as for `render`; ``created`` falls back to that of `estimates`.
    confidence : the level of the intervals.
    title : what the experiment is, for the heading; the run's name where it is empty.
    truth : measured values by policy, where the run has them; shown beside the estimates, never used.
    about : what a run is for that makes no estimates, in place of their summary.
    controls : what the controls of the log-probs say and what is missing, below the summary; set off as an alarm where
        `alarm`.
    """
    import jinja2

    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True)
    estimates = estimates or {}
    groups: dict[str, list[dict[str, Any]]] = {}
    for page in pages:
        groups.setdefault(page.group, []).append(_entry(page, out.parent))
    facts = {"run": run, "created": estimates.get("created")} | dict(provenance or {}) | {"Size": _size(pages)}
    html = environment.get_template("overview.html.j2").render(
        run=run,
        title=title or run,
        style=style_sheet(),
        icon=icon(),
        summary=visible(about) if about else summary(estimates, confidence),
        controls=visible(controls),
        alarm=alarm,
        level=level(confidence),
        rows=_table_rows(estimates, truth or {}),
        rests=_RESTS[estimates.get("belief", Analysis.belief)],
        with_truth=bool(truth),
        groups=groups,
        provenance=footer_facts(facts),
    )
    return write_text(out, html)


def _table_rows(estimates: Mapping[str, Any], truth: Mapping[str, float]) -> list[dict[str, Any]]:
    best = headline(estimates)
    logged = {r["policy"]: r for r in reversed(headline_rows(estimates)) if r["estimator"] == LOGGED_ONLY}
    ends = [v for r in best for v in (r["ci_low"], r["ci_high"], r["value"]) if not is_missing(v)]
    low, high = min([0.0, *ends]), max([1.0, *ends])

    def place(value: Any) -> float | None:
        return None if is_missing(value) else round(100 * (value - low) / (high - low), 2)

    return [
        {
            "policy": visible(row["policy"]),
            "estimate": _shown(row),
            "estimator": ESTIMATOR_WORDS.get(row["estimator"], row["estimator"]),
            "reasons": format_value([reason.replace("_", " ") for reason in row.get("reasons") or ()])
            if row["verdict"] != "REPORT"
            else "",
            "labels_needed": _needed(row, estimates.get("n")) if is_refused(row) else "",
            "bar": {"low": place(row["ci_low"]), "high": place(row["ci_high"]), "at": place(row["value"])},
            "truth": format_number(truth.get(row["policy"])),
            "truth_at": place(truth.get(row["policy"])),
            "logged": _shown(logged[row["policy"]]) if row["policy"] in logged else None,
        }
        for row in best
    ]


def _needed(row: Row, prompts: int | None) -> str:
    """How many labels would answer for a policy, and whether the run has prompts for them."""
    labels = row.get("labels_needed")
    if labels is None or is_missing(labels):
        return ""
    more = f", of more prompts than these {prompts:,}" if prompts is not None and labels > prompts else ""
    return f"{int(labels):,} labels would answer it{more}"


def _shown(row: Row) -> dict[str, Any]:
    known = not (is_missing(row["ci_low"]) or is_missing(row["ci_high"]))
    return {
        "value": format_number(row["value"]),
        "interval": f"{format_number(row['ci_low'])} to {format_number(row['ci_high'])}" if known else MISSING,
        "verdict": badge(row["verdict"]),
        "kind": {REFUSE: "refused", NOT_ASKED: "unasked"}.get(row["verdict"], ""),
        "refused": row["verdict"] == REFUSE,
    }


def _size(pages: Iterable[Listed]) -> str:
    """How many pages there are, and their bytes together; empty where there is none."""
    sizes = [page.html.stat().st_size for page in pages if page.html.is_file()]
    return f"{len(sizes)} {'page' if len(sizes) == 1 else 'pages'}, {sum(sizes) / 1e6:.1f} MB" if sizes else ""


def _entry(page: Listed, folder: Path) -> dict[str, Any]:
    there = page.html.is_file()
    return {
        "stage": page.stage,
        "title": page.title,
        # Relative links: a report folder can be moved and served as it is.
        "link": quote(Path(os.path.relpath(page.html, folder)).as_posix()) if there else None,
        "status": "missing" if not there else "failed" if page.failed else "done",
        "numbers": [(visible(label), value) for label, value in page.numbers.items()],
        "verdicts": [(badge(verdict), n) for verdict, n in page.verdicts.items() if n],
    }
