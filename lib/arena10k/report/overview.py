"""The first page of a run: what can be said about each policy, and one row per stage with its numbers and link."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from arena10k.analysis import Analysis
from arena10k.attribution.game import CAUSE_WORDS
from arena10k.audit import checks
from arena10k.estimation.scale import UNIT, Scale
from arena10k.estimation.verdicts import BY_DEFINITION, NOT_ASKED, NOT_ON_ORACLE_SCALE, REFUSE
from arena10k.inputs.prompts import FILTERS
from arena10k.report.display import COLOURS, badge
from arena10k.report.files import write_text
from arena10k.report.page import Outline, environment, footer_facts, page_number
from arena10k.report.summary import LOGGED_ONLY, Row, differences, headline, headline_rows, is_refused, remarks, verdict
from arena10k.wording import (
    ESTIMATOR_WORDS,
    MISSING,
    format_value,
    is_missing,
    level,
    listed,
    number,
    percent,
    rounded,
    settled,
    visible,
)  # fmt: skip

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
    "05_data_quality": {"failed": "measurements that failed", "set_aside": "values quarantined"},
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
        "misranking": "pairs of estimator and judge that put a worse policy first",
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
#: Numbers that are left out where they are zero.
_FEW = {"controls_not_settled", "controls_not_measured"}
#: What is said of a number that is not there; any other is left out.
_ABSENT = {"self_consistency_max_nats": "not measured", "misranking": "not known without the truth"}
#: What a headline may rest on, by the belief asked for.
_RESTS = {
    "labels": "labels alone",
    "weights": "labels or weights (the judge alone where neither answers)",
    "judge": "labels, weights or the judge",
}


def labelled(notebook: str, numbers: Mapping[str, Any]) -> dict[str, str]:
    """The `numbers` of a stage as text by their labels, in the order of `LABELS`; without those that are not there,
    unless it can be said why."""
    written = {
        label: _ABSENT.get(key) if numbers[key] is None else _WRITTEN.get(key, format_value)(numbers[key])
        for key, label in LABELS[notebook].items()
        if key in numbers and (numbers[key] or key not in _FEW)
    }
    return {label: value for label, value in written.items() if value is not None}


#: The pages in the order of a reader's questions, by notebook; ablations are a group of their own.
GROUPS = {
    "The answer": ("06_estimates", "07_pi_bad_anomaly", "11_incident"),
    "Can I believe it?": ("03_teacher_forcing", "05_data_quality", "10_simulation", "09_ablation_summary"),
    "How it was made": ("01_prompts", "02_responses", "04_judge", "00_status"),
    "Ablations": ("08_ablation",),
}


@dataclass(frozen=True)
class Listed:
    """A page as the index lists it: `html` beside the index, `numbers` by label, how many rows have each verdict."""

    stage: str
    title: str
    html: Path
    numbers: Mapping[str, str] = field(default_factory=dict)
    failed: bool = False
    verdicts: Mapping[str, int] = field(default_factory=dict)

    @property
    def number(self) -> str:
        """By which other pages name it."""
        return page_number(self.stage)

    @property
    def place(self) -> tuple[str, int]:
        """The group of the page, and where in it the page stands."""
        notebook = self.stage.split("@")[0]
        group = next((group for group, names in GROUPS.items() if notebook in names), "Ablations")
        return group, GROUPS[group].index(notebook) if notebook in GROUPS[group] else 0

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
    width: float = Analysis.width,
    alarms: Sequence[str] = (),
    notes: Sequence[str] = (),
    about: str = "",
    policies: Mapping[str, str] | None = None,
    measured: Mapping[str, str] | None = None,
    scale: Scale = UNIT,
    judged: bool = True,
    sections: Mapping[str, Sequence[Any]] | None = None,
) -> Path:
    """Write a first page: `reports/<run>/index.html`, or that of data without a run (its name is empty).

    Of the `pages`, one per stage or ablation, those whose file is not there are listed as missing. `estimates` is the
    content of `estimates.json`, where there is one; `provenance` is as for `render`; `truth` has measured values by
    policy, shown beside the estimates, never used; `confidence` is the level of the intervals and `width` the wanted
    one. `title` is what the experiment is, and `about` what a run is for that makes no estimates, in place of a
    verdict. `alarms` come first: what failed; `notes` say what else was found. `policies` says what each policy is,
    `measured` by term what was measured. Values are on the label's `scale`, from a judge's scores unless there are none
    (`judged`). `sections` have, by heading, more texts, tables and figures.
    """
    estimates, groups = estimates or {}, dict[str, list[Listed]]()
    for page in sorted(pages, key=lambda page: (list(GROUPS).index(page.place[0]), page.place[1])):
        groups.setdefault(page.place[0], []).append(page)
    sizes = [page.html.stat().st_size for page in pages if page.html.is_file()]
    size = f"{len(sizes)} {'page' if len(sizes) == 1 else 'pages'}, {sum(sizes) / 1e6:.1f} MB" if sizes else ""
    failed = [page.stage for page in pages if page.failed]
    rows, measured = _values(estimates, truth or {}, scale, judged), dict(measured or {})
    with_logged = any(row["logged"] for row in rows)
    html = (
        environment()
        .overlay(trim_blocks=True)
        .get_template("overview.html.j2")
        .render(
            run=run,
            title=title or run,
            verdict=visible(about) if about else verdict(estimates, confidence),
            alarms=[*([f"Failed, and not up to date: {listed(failed)}."] if failed else []), *alarms],
            notes=[*(remarks(estimates, width) if estimates else ()), *notes],
            level=level(confidence),
            differences=differences(estimates),
            difference_axis=Axis.over([0.0, *_ends(differences(estimates)[1])]),
            pairs=len(estimates.get("contrasts", ())),
            rows=rows,
            colours=_colours(estimates),
            axis=Axis.over([scale.low, scale.high, *_ends(rows)]),
            policies=policies or {},
            with_logged=with_logged,
            rests=_RESTS[estimates.get("belief", Analysis.belief) if judged or with_logged else "labels"],
            with_truth=bool(truth),
            meaning=measured.pop("A value is", ""),
            measured=measured,
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


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, both at a tick; `ticks` in the numbers of the axis."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def over(cls, values: Iterable[float]) -> Axis:
        """The axis that holds all values, with three to seven ticks."""
        low, high = min(values := list(values)), max(values)
        high = max(high, low + 1e-6)
        size = 10.0 ** math.floor(math.log10((high - low) / 2))
        step = next(size * k for k in (1, 2, 5, 10) if (high - low) / (size * k) <= 5)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        return cls(first * step, last * step, tuple(settled(k * step) for k in range(first, last + 1)))

    def place(self, value: float | None) -> float | None:
        """Per cent of the way."""
        return (
            None if value is None or is_missing(value) else round(100 * (value - self.low) / (self.high - self.low), 2)
        )


def _ends(rows: Sequence[Row]) -> list[float]:
    return [row[key] for row in rows for key in ("low", "value", "high", "truth") if not is_missing(row[key])]


def _values(
    estimates: Mapping[str, Any], truth: Mapping[str, float], scale: Scale, judged: bool
) -> list[dict[str, Any]]:
    logged = {r["policy"]: r for r in reversed(headline_rows(estimates)) if r["estimator"] == LOGGED_ONLY}
    counts = {row["policy"]: row for row in estimates.get("policies", ())}
    return [
        {
            "policy": row["policy"],
            "estimate": _shown(row),
            "estimator": _estimator(row, judged),
            "reasons": [r.replace("_", " ") for r in row.get("reasons") or () if row["verdict"] != "REPORT"],
            "labels_needed": _labels_needed(row, estimates.get("n")),
            "low": row["ci_low"],
            # Far from the scale it is none, and an axis that held it would show nothing else.
            "value": None if abs((row["value"] or 0.0) - scale.at(0.5)) > scale.size else row["value"],
            "high": row["ci_high"],
            "truth": truth.get(row["policy"]),
            **{name: counts.get(row["policy"], {}).get(name) for name in ("draws", "labels")},
            "known": row["verdict"] == BY_DEFINITION,
            "logged": _shown(logged[row["policy"]]) if row["policy"] in logged else None,
        }
        for row in headline(estimates)
    ]


def _estimator(row: Row, judged: bool) -> str:
    if row["estimator"] == "ppi_pp" and not judged:
        return "labels alone"
    named = "naive" if NOT_ON_ORACLE_SCALE in (row.get("reasons") or ()) else row["estimator"]  # nothing calibrated it
    return ESTIMATOR_WORDS.get(named, named)


def _colours(estimates: Mapping[str, Any]) -> dict[str, str]:
    """The colour of each policy, which it has in every figure: the logging policy first, the others as they come."""
    own, others = estimates.get("logging_policy"), [row["policy"] for row in estimates.get("policies", ())]
    names = dict.fromkeys([*([own] if own in others else []), *others])
    return {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(names)}


def _labels_needed(row: Row, prompts: int | None) -> str:
    """How many labels would answer for a refused policy, and whether the run has prompts for them."""
    labels = row.get("labels_needed")
    if labels is None or is_missing(labels) or not is_refused(row):
        return ""
    more = f", of more prompts than these {prompts:,}" if prompts is not None and labels > prompts else ""
    return f"at most {int(labels):,} labels would answer it{more}"


def _shown(row: Row) -> dict[str, Any]:
    """Value, interval and verdict of an estimate as HTML, and the class of its row."""
    ends = row["ci_low"], row["ci_high"]
    low, value, high = (MISSING if is_missing(x) else rounded(x, *ends) for x in (ends[0], row["value"], ends[1]))
    around = Markup("<s>{}</s>" if row["verdict"] == REFUSE else "{}")
    return {
        "value": around.format(value),
        "interval": around.format(MISSING if any(map(is_missing, ends)) else f"{low} to {high}"),
        "verdict": Markup(badge(row["verdict"])),
        "kind": {REFUSE: "refused", NOT_ASKED: "unasked"}.get(row["verdict"], ""),
    }
