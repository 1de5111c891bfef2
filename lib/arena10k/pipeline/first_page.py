"""The index of a run: estimates, the controls of the log-probs, and the numbers that notebooks noted, in a reader's
words and order."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from arena10k import paths, report
from arena10k.attribution.game import CAUSE_WORDS
from arena10k.audit import checks
from arena10k.estimation import ESTIMATORS
from arena10k.estimation.verdicts import CAUTION, NOT_ASKED, REPORT
from arena10k.inputs.prompts import FILTERS
from arena10k.params.config import Params
from arena10k.pipeline import failures, stages
from arena10k.rescoring import effect
from arena10k.wording import listed, number


def _share(value: float) -> str:
    return f"{value:.1%}"


#: By notebook, what its numbers are called, in the order they are shown in.
LABELS: dict[str, dict[str, str]] = {
    "00_status": {"prompts": "prompts", "complete_rows": "prompts complete in every job"},
    "01_prompts": {"read": "prompts read", "kept": "prompts kept"} | {k: f"left out: {v}" for k, v in FILTERS.items()},
    "02_responses": {"responses": "responses", "failed": "requests that failed"},
    "03_teacher_forcing": {
        "scored": "log-probs of responses",
        "controls_failed": "controls failed",
        "controls_hold": "controls that hold",
        "controls_not_settled": "controls not settled",
        "controls_not_measured": "controls not measured",
        "self_consistency_max_nats": "largest difference from generation (nats)",
    },
    "04_judge": {"graded": "judge scores", "labels": "oracle labels", "auc": "AUC of the judge (0.5 is guessing)"},
    "05_data_quality": {
        "failed": "measurements that failed",
        "set_aside": "values quarantined",
        "controls_failed": "controls failed",
        "controls_hold": "controls that hold",
        "controls_not_settled": "controls not settled",
        "controls_not_measured": "controls not measured",
    },
    "06_estimates": {"report": "estimates to report", "caution": "with caution", "refuse": "refused"}
    | {"judges_scale": "on the judge scale only"},
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
#: How a value is written, where not as in any table.
_WRITTEN: dict[str, Callable[[Any], str]] = {
    "main_cause": CAUSE_WORDS.__getitem__,
    "self_consistency_max_nats": number,
    "coverage": _share,
    "refused": _share,
    "misranked": _share,
}
#: What is said of a number that is not there; any other is left out.
_ABSENT = {
    "self_consistency_max_nats": "not measured",
    "misranking": "not known without the truth",
}


def labelled(notebook: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The `numbers` of a stage by their labels, in the order of `LABELS`; without those that are not there, unless it
    can be said why."""
    told = {label: _written(key, numbers[key]) for key, label in LABELS[notebook].items() if key in numbers}
    return {label: value for label, value in told.items() if value is not None}


def _written(key: str, value: Any) -> Any:
    if value is None:
        return _ABSENT.get(key)
    return _WRITTEN[key](value) if key in _WRITTEN else value


#: What is said of measurements of a job that are missing.
_LOST = {
    "logprobs": "Log-probs are missing for {bad:,} of {rows:,} logged responses and policies",
    "judge": "The judge failed on {bad:,} of {rows:,} ratings",
    "oracle": "Labels are missing for {bad:,} of {rows:,} responses",
}


def missing(quality: Mapping[str, Any]) -> str:
    """Which measurements are missing in a way that depends on what was measured; nothing where none shows."""
    found = quality.get("missing") or {}
    tests = found.get("tests", [])
    dependent = effect.dependent(tests)
    told = []
    for kind in dict.fromkeys(test["job"].split("_")[0] for test, _ in dependent):
        mine = [test for test in tests if test["job"].split("_")[0] == kind]
        told.append(_LOST[kind].format(bad=sum(t["bad"] for t in mine), rows=sum(t["rows"] for t in mine)))
    if not told:
        return ""
    by_length = found.get("by_length", [])
    total = sum(part["bad"] for part in by_length)
    long_ = by_length and 2 * by_length[-1]["bad"] > total and any(key == "response_chars" for _, key in dependent)
    most = ", mostly long answers" if long_ else ", not at random"
    return f"{'; '.join(told)}{most}. See page 05."


def controls(found: list[dict[str, Any]], estimates: Mapping[str, Any], logging_policy: str) -> tuple[str, bool]:
    """What the index says of the controls `found` (of `quality.json`), and which of its values rest on the log-probs
    where one failed; and whether one did."""
    if not found:
        return "", False
    told, failed = checks.summary(found), bool(checks.counts(found)["controls_failed"])
    rows = report.headline_rows(estimates)
    if failed and (best := report.headline(estimates)):
        told += f" {_resting([*best, *(r for r in rows if r['estimator'] == report.LOGGED_ONLY)], logging_policy)}"
    return f"{told} Page 03 shows each.", failed


def _resting(shown: Sequence[Mapping[str, Any]], logging_policy: str) -> str:
    resting = [
        row["policy"]
        for row in shown
        # The logging policy's own weights are 1 whatever its log-probs are.
        if ESTIMATORS[row["estimator"]].uses_weights
        and row["verdict"] in (REPORT, CAUTION)
        and row["policy"] != logging_policy
    ]
    names = list(dict.fromkeys(resting))
    if not names:
        return "All values below that rest on log-probs are refused."
    words = (
        "The values of {} below rest on log-probs." if len(names) > 1 else "The value of {} below rests on log-probs."
    )
    return words.format(listed(names))


def write_index(params: Params) -> Path:
    """Write the run's `index.html` from the pages and results that are there."""
    estimates, quality = _result(params.run, "estimates.json"), _result(params.run, "quality.json") or {}
    pages = [_row(params, stage) for stage in stages.of(params).values()]
    told, alarm = controls(quality.get("checks", []), estimates or {}, params.logging_policy)
    truth = {row["policy"]: row["value"] for row in (_result(params.run, "truth.json") or {}).get("rows", ())}
    out = paths.reports_dir(params.run) / "index.html"
    return report.index(
        params.run,
        pages,
        estimates,
        out,
        truth=truth,
        provenance=stages.provenance(params),
        title=params.title,
        confidence=params.estimation.confidence,
        about=about(params),
        controls=" ".join(filter(None, (told, missing(quality)))),
        alarm=alarm,
    )


def about(params: Params) -> str:
    """What a run is for that has no stage of estimates, an incident alone; empty for any other."""
    if params.incident is None:
        return ""
    return (
        f"This run values no policy. It lets log-probs of the run {params.incident.clean} fail, in copies of its "
        "table, and puts a number in their place; the page below shows what that does to the ranking by SNIPS, and "
        f"what the checks say. What the policies are worth is on the first page of {params.incident.clean}."
    )


def _row(params: Params, stage: stages.Stage) -> Mapping[str, Any]:
    """The row of a stage in the index; an ablation's has its verdicts."""
    rows = (_result(params.run, f"ablations/{stage.cell}/estimates.json") or {}).get("rows", ()) if stage.cell else ()
    given = [row["verdict"] for row in rows if row["verdict"] != NOT_ASKED]
    return {
        "stage": stage.name,
        "title": stage.cell.replace(".", " · ") or title(stage.notebook),
        "html": stages.page_file(params.run, stage.name),
        "key_numbers": key_numbers(params, stage),
        "status": "failed" if failures.is_noted(params.run, stage.name) else "done",
        "verdicts": {verdict: given.count(verdict) for verdict in dict.fromkeys(given)},
        "group": "Ablations" if stage.cell else "Stages",
    }


def title(notebook: str) -> str:
    """The first heading of a notebook."""
    cells = json.loads(paths.notebook(notebook).read_text(encoding="utf-8"))["cells"]
    text = "".join(cells[0]["source"]).splitlines()
    return text[0].removeprefix("# ").strip()


def _result(run: str, name: str) -> dict[str, Any] | None:
    path = paths.result_file(run, name)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def key_numbers(params: Params, stage: stages.Stage) -> dict[str, Any]:
    """The few numbers the index shows beside a stage, by their labels; empty where it has not run."""
    return labelled(stage.notebook, _result(params.run, f"stages/{stage.name}.numbers.json") or {})
