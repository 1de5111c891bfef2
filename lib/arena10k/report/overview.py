"""The first page of a run: what can be said about each policy, and one row per stage with its numbers and link."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from arena10k.analysis import Analysis
from arena10k.attribution.game import CAUSE_WORDS
from arena10k.audit import checks
from arena10k.estimation.scale import UNIT, Scale
from arena10k.estimation.verdicts import NOT_ASKED, REFUSE
from arena10k.inputs.prompts import FILTERS
from arena10k.report.display import badge
from arena10k.report.files import write_text
from arena10k.report.page import Outline, environment, footer_facts
from arena10k.report.summary import LOGGED_ONLY, Row, headline, headline_rows, is_refused, summary
from arena10k.wording import ESTIMATOR_WORDS, format_number, format_value, is_missing, level, number, percent, visible

_CONTROLS = {name: name.replace("_", " ") for name in checks.counts([])} | {"controls_hold": "controls that hold"}
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
    **dict.fromkeys(("coverage", "refused", "misranked"), percent),
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

    def link(self, folder: Path) -> str | None:
        """The page as seen from a folder, so that a report can be moved and served as it is; None where it is not
        there."""
        there = self.html.is_file()
        return quote(Path(os.path.relpath(self.html, folder)).as_posix()) if there else None


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
    scale: Scale = UNIT,
    sections: Mapping[str, Sequence[Any]] | None = None,
) -> Path:
    """Write a first page: `reports/<run>/index.html`, or that of data without a run (its name is empty).

    Of the `pages`, one per stage or ablation, those whose file is not there are listed as missing. `estimates` is the
    content of `estimates.json`, where there is one; `provenance` is as for `render`; `truth` has measured values by
    policy, shown beside the estimates, never used; `confidence` is the level of the intervals. `title` is what the
    experiment is, and `about` what a run is for that makes no estimates, in place of their summary. `controls` says
    below it how the controls of the log-probs came out and what is missing, as an alarm where `alarm`. Values are on
    the label's `scale`. `sections` have, by heading, what follows them: texts, tables and figures.
    """
    estimates = estimates or {}
    groups: dict[str, list[Listed]] = {}
    for page in pages:
        groups.setdefault(page.group, []).append(page)
    sizes = [page.html.stat().st_size for page in pages if page.html.is_file()]
    size = f"{len(sizes)} {'page' if len(sizes) == 1 else 'pages'}, {sum(sizes) / 1e6:.1f} MB" if sizes else ""
    html = (
        environment()
        .overlay(trim_blocks=True)
        .get_template("overview.html.j2")
        .render(
            run=run,
            title=title or run,
            summary=visible(about) if about else summary(estimates, confidence),
            controls=visible(controls),
            alarm=alarm,
            level=level(confidence),
            rows=(rows := _table_rows(estimates, truth or {}, scale)),
            with_logged=any(row["logged"] for row in rows),
            rests=_RESTS[estimates.get("belief", Analysis.belief)],
            with_truth=bool(truth),
            groups=groups,
            sections=sections or {},
            outline=Outline(),
            folder=out.parent,
            provenance=footer_facts(
                {"run": run, "created": estimates.get("created"), **(provenance or {}), "Size": size}
            ),
        )
    )
    return write_text(out, html)


def _table_rows(estimates: Mapping[str, Any], truth: Mapping[str, float], scale: Scale) -> list[dict[str, Any]]:
    best = headline(estimates)
    logged = {r["policy"]: r for r in reversed(headline_rows(estimates)) if r["estimator"] == LOGGED_ONLY}
    ends = [v for r in best for v in (r["ci_low"], r["ci_high"], r["value"]) if not is_missing(v)]
    low, high = min([scale.low, *ends]), max([scale.high, *ends])

    def place(value: Any) -> float | None:
        return None if is_missing(value) else round(100 * (value - low) / (high - low), 2)

    return [
        {
            "policy": row["policy"],
            "estimate": _shown(row),
            "estimator": ESTIMATOR_WORDS.get(row["estimator"], row["estimator"]),
            "reasons": [r.replace("_", " ") for r in row.get("reasons") or () if row["verdict"] != "REPORT"],
            "labels_needed": _labels_needed(row, estimates.get("n")),
            "bar": {"low": place(row["ci_low"]), "high": place(row["ci_high"]), "at": place(row["value"])},
            "truth": format_number(truth.get(row["policy"])),
            "truth_at": place(truth.get(row["policy"])),
            "logged": _shown(logged[row["policy"]]) if row["policy"] in logged else None,
        }
        for row in best
    ]


def _labels_needed(row: Row, prompts: int | None) -> str:
    """How many labels would answer for a refused policy, and whether the run has prompts for them."""
    labels = row.get("labels_needed")
    if labels is None or is_missing(labels) or not is_refused(row):
        return ""
    more = f", of more prompts than these {prompts:,}" if prompts is not None and labels > prompts else ""
    return f"{int(labels):,} labels would answer it{more}"


def _shown(row: Row) -> dict[str, Any]:
    """Value, interval and verdict of an estimate as HTML, and the class of its row."""
    low, high = format_number(row["ci_low"]), format_number(row["ci_high"])
    known = not (is_missing(row["ci_low"]) or is_missing(row["ci_high"]))
    around = Markup("<s>{}</s>" if row["verdict"] == REFUSE else "{}")
    return {
        "value": around.format(format_number(row["value"])),
        "interval": around.format(f"{low} to {high}" if known else format_number(None)),
        "verdict": Markup(badge(row["verdict"])),
        "kind": {REFUSE: "refused", NOT_ASKED: "unasked"}.get(row["verdict"], ""),
    }
