"""The index of a run, from the pages and results that are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from arena10k import paths, report
from arena10k.collection.jobs import JUDGE, LOGPROBS, ORACLE, compares, judging
from arena10k.estimation.scale import UNIT, Scale
from arena10k.estimation.verdicts import NO_VERDICT
from arena10k.explore import answers
from arena10k.params.config import Params
from arena10k.params.judge import PairGrader
from arena10k.pipeline import failures, stages
from arena10k.report import summary
from arena10k.report.files import write_text
from arena10k.rescoring import effect
from arena10k.wording import listed


def write_index(params: Params) -> Path:
    """Write the run's `index.html` from the pages and results that are there."""
    run = params.run
    estimates, quality = _estimates(params), _result(run, "quality.json")
    lost, due = quality.get("missing") or {}, params.imported.due if params.imported else None
    # Of log-probs that a source does not have there is nothing to control.
    controlled = quality.get("checks", []) if due is None or due.get(LOGPROBS) else []
    text, alarm = report.controls(controlled, estimates, params.logging_policy)
    scale, beside = _scales(params)[ORACLE], _beside(params)
    said = about(params) or summary.verdict(estimates, params.estimation.confidence)
    write_text(stages.answer_file(run), f"{said}\n")
    return report.index(
        run,
        [_listed(params, stage) for stage in stages.of(params).values()],
        estimates or None,
        paths.reports_dir(run) / "index.html",
        truth={row["policy"]: scale.at(row["value"]) for row in _result(run, "truth.json").get("rows", ())},
        provenance=stages.provenance(params),
        title=params.title,
        confidence=params.estimation.confidence,
        width=params.estimation.width * scale.size,
        about=said,
        alarms=[text] if alarm else [],
        notes=[*filter(None, ["" if alarm else text, report.missing(lost, effect.dependent(lost.get("tests", [])))])],
        policies={
            name: policy.description if _model(params) or params.imported else f"{policy.description} ({policy.model})"
            for name, policy in params.policies.items()
        },
        measured=_measured(params, estimates),
        scale=scale,
        judged=due is None or any(due.get(job) for job in judging(params)),
        sections={"Answers side by side": beside} if beside else {},
    )


def _scales(params: Params) -> dict[str, Scale]:
    """The scales that an import declares of its judge's scores and of its labels, by job; any other is a share."""
    own, graded = params.imported, params.oracle.grader
    judge = own.judge_scale if own and not params.judges else None
    oracle = own.oracle_scale if own and own.due.get(ORACLE) and not own.votes and not graded else None
    return {job: Scale(*ends) if ends else UNIT for job, ends in ((JUDGE, judge), (ORACLE, oracle))}


def _estimates(params: Params) -> dict[str, Any]:
    """What the page says of `estimates.json`, on the label's scale; empty where it is not there."""
    found, scale = _result(params.run, "estimates.json"), _scales(params)[ORACLE]
    scaled = {k: list(map(scale.row, found[k])) for k in ("rows", "ranking", "contrasts", "breakdown") if k in found}
    # Log-probs and scores that others do not have, or a win rate does not take, are not missed.
    return report.asked(found | scaled) if found and (params.imported or compares(params, ORACLE)) else found


def _beside(params: Params) -> list[Any]:
    """Answers side by side, where scores differ."""
    found, scales = _result(params.run, "examples.json"), _scales(params)
    if not found.get("apart"):
        return []
    of = {"score": scales[JUDGE], "label": scales[ORACLE]}
    rows = [row | {k: scale.at(row[k]) for k, scale in of.items() if row[k] is not None} for row in found["rows"]]
    return [answers.examples_sentence(found, scales[JUDGE].size), *answers.examples_tables(rows)]


def _model(params: Params) -> str | None:
    """The model of all policies; None where they have several."""
    models = {policy.model for policy in params.policies.values()}
    return models.pop() if len(models) == 1 else None


def _measured(params: Params, estimates: dict[str, Any]) -> dict[str, str]:
    """By term what the numbers of the first page are of; of what is not known nothing."""
    oracle, imported = params.oracle, params.imported
    value = "the share of answers that an exact checker calls right, from 0 (none) to 1 (all)"
    if isinstance(oracle.grader, PairGrader):
        value = f"the win rate against {params.logging_policy}, by {oracle.grader.model}; a tie is a half"
    elif oracle.grader:
        low, high = oracle.grader.scale
        value = f"the mean grade by {oracle.grader.model}, from {low:g} to {high:g}, as a share of that scale"
    elif imported or params.table:
        low, high = (imported and imported.oracle_scale) or UNIT
        value = f"the mean label of the data, from {low:g} to {high:g}"
        value += f"{'; the other pages show it' if _scales(params)[ORACLE] != UNIT else ','} as a share of that scale"
    if imported and imported.votes and not oracle.grader:
        value = f"the win rate against {params.logging_policy}, by the votes of the data; a tie is a half"
    said = {
        "A value is": value,
        "Model": _model(params) or "",
        "Judge": ", ".join(f"{judge.model} ({name})" for name, judge in params.judges.items()),
    }
    if {judge.model for judge in params.judges.values()} == {_model(params)}:
        said["Judge"] = f"the same model ({listed(list(params.judges))})"
    said["Prompts"] = f"{estimates['n']:,}" if estimates.get("n") else ""
    labels = sum(row["labels"] for row in estimates.get("policies", ()))
    said["Votes" if imported and imported.votes else "Labels"] = f"{labels:,}" if estimates else ""
    spent = sum(job["dollars"] for job in _result(params.run, "status.json").get("jobs", ()))
    said["Cost"] = f"${spent:,.2f} so far" if params.is_priced and not params.recording else ""
    return {term: text for term, text in said.items() if text}


def about(params: Params) -> str:
    """What a run is for that has no stage of estimates, an incident alone; empty for any other."""
    if params.incident is None:
        return ""
    return (
        f"This run values no policy. It lets log-probs of the run {params.incident.clean} fail, in copies of its "
        "table, and puts a number in their place; the page below shows what that does to the ranking by SNIPS, and "
        f"what the checks say. What the policies are worth is on the first page of {params.incident.clean}."
    )


def _listed(params: Params, stage: stages.Stage) -> report.Listed:
    """A stage as the index lists it: with the first heading of its notebook, an ablation with its verdicts."""
    cells = json.loads(paths.notebook(stage.notebook).read_text(encoding="utf-8"))["cells"]
    heading = "".join(cells[0]["source"]).splitlines()[0].removeprefix("# ").strip()
    rows = _result(params.run, f"ablations/{stage.cell}/estimates.json").get("rows", ()) if stage.cell else ()
    verdicts = [row["verdict"] for row in rows if row["verdict"] not in NO_VERDICT]
    return report.Listed(
        stage.name,
        stage.cell.replace(".", " · ") or heading,
        stages.page_file(params.run, stage.name),
        key_numbers(params, stage),
        failures.is_noted(params.run, stage.name),
        {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)},
    )


def _result(run: str, name: str) -> dict[str, Any]:
    """A result; empty where it is not there."""
    path = paths.result_file(run, name)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def key_numbers(params: Params, stage: stages.Stage) -> dict[str, str]:
    """The few numbers the index shows beside a stage, by their labels; empty where it has not run."""
    return report.labelled(stage.notebook, _result(params.run, f"stages/{stage.name}.numbers.json"))
