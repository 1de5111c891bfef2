"""The page of an evaluation or a comparison: the first page of a run, and below it what pages 06 and 07 would say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from arena10k import plots, report
from arena10k.attribution import words
from arena10k.attribution.game import Case
from arena10k.attribution.investigation import investigate
from arena10k.estimation.context import PolicyContext
from arena10k.estimation.verdicts import NO_VERDICT, REPORT
from arena10k.from_frames.values import Evaluated
from arena10k.report import findings, reasons, weight_findings
from arena10k.wording import level, visible

Parts = list[Any]


def write(found: Evaluated, path: str | os.PathLike[str], title: str = "Policy values", about: str = "",
          warning: str = "", alarm: bool = False) -> Path:  # fmt: skip
    """Write the page to `path`. `about` takes the place of the summary on top; `warning` is below it, as an alarm where
    `alarm`."""
    shown = report.asked(found.result | {"n": found.prompts()})
    return report.index(
        "",
        (),
        shown,
        Path(path),
        title=visible(title),
        confidence=found.analysis.confidence,
        width=found.analysis.width * found.scale.size,
        about=about,
        alarms=[warning] if warning and alarm else [],
        notes=[warning] if warning and not alarm else [],
        scale=found.scale,
        judged=found.judge_scale is not None,
        sections={
            "Differences": [
                findings.contrasts_sentence(shown["contrasts"], shown["ranking"]),
                *([findings.contrasts_table(shown["contrasts"])] if shown["contrasts"] else []),
            ],
            "What was measured": _measured(found),
            "Estimates": _estimates(found, shown),
            **_weights(found),
        },
    )


def _measured(found: Evaluated) -> Parts:
    scales = [f"Labels are on a scale of {found.scale.low:g} to {found.scale.high:g}"]
    if (judge := found.judge_scale) is not None:
        scales.append(f"judge scores on one of {judge.low:g} to {judge.high:g}")
    text = f"{', '.join(scales)}; values and differences are on that of the labels, intervals at "
    text += f"{level(found.analysis.confidence)}. There are {found.prompts():,} prompts."
    rows = []
    for policy, ctx in found.of_judge(found.judge).items():
        own, logged = ctx.data.fresh, ctx.data.logged
        row = {"policy": policy, "prompts": found.prompts(policy), "answers": len(own)}
        row |= {} if judge is None else {"judged": int(np.isfinite(own.judge).sum())}
        row["labelled"] = int(own.labelled.sum())
        if found.as_given:
            row[f"weights of the {len(logged):,} logged"] = int(np.isfinite(logged.log_weight).sum())
        rows.append(row)
    return [text, report.table(rows, caption="Answers of each policy's own, and the scores and labels of those")]


def _estimates(found: Evaluated, shown: dict[str, Any]) -> Parts:
    plots.colour(found.of_judge(found.judge))
    best, every = findings.headline_frame(shown), findings.estimates_frame(shown["rows"])
    doubts = [
        {"policy": row["policy"], "verdict": row["verdict"], "why": reasons.sentence(reason, ctx, found.scale)}
        for row in report.headline(shown)
        for ctx in [found.contexts[row["policy"], found.judge]]
        for reason in row["reasons"]
        if row["verdict"] != REPORT
    ]
    there = {row["policy"]: row["labels"] for row in shown["policies"]}
    every["labels_needed"] = every.labels_needed.where(every.labels_needed > every.policy.map(there))
    needed = f"labels needed for an interval of width {found.analysis.width * found.scale.size:g}: of the policy's own "
    needed += "answers in total, those that are there included; nothing where there are as many"
    raw = sum(row["verdict"] not in NO_VERDICT for row in shown["rows"]) - len(findings.counted(shown["rows"]))
    whole = f"All {len(every)} rows" + f", {raw} of them raw means of the judge, which count as no estimate" * bool(raw)
    return [
        findings.estimates_sentence(shown["rows"]),
        plots.forest(best, scale=found.scale),
        *([report.table(doubts, text=["why"], caption="Why the headline is not simply reported")] if doubts else []),
        report.Folded(whole, findings.estimates_table(every, needed.capitalize())),
    ]


def _weights(found: Evaluated) -> dict[str, Parts]:
    """Nothing without weights; without a judge no SNIPS on judge scores."""
    contexts = found.of_judge(found.judge)
    targets = {p: ctx for p, ctx in contexts.items() if p in found.as_given}
    weights = {p: ctx.data.logged.log_weight[~np.isnan(ctx.data.logged.judge)] for p, ctx in targets.items()}
    if not any(np.isfinite(values).any() for values in weights.values()):
        return {}
    audited = list(contexts.values())
    said = [say(audited, found.judge) for say in (weight_findings.audit_sentence, weight_findings.match_sentence)]
    parts: dict[str, Parts] = {"Weights": [*said, plots.overlap(weights), plots.log_weights(weights)]}
    if found.judge_scale is not None:
        parts["SNIPS on judge scores"] = _anomaly(found, contexts)
    return parts


def _anomaly(found: Evaluated, contexts: dict[str, PolicyContext]) -> Parts:
    cases = {p: Case(ctx.data, found.as_given.get(p)) for p, ctx in contexts.items()}
    logging_policy, *_ = [p for p, ctx in contexts.items() if ctx.is_logging]
    facts = {p: ctx.facts for p, ctx in contexts.items()}
    inv = investigate(cases, logging_policy, None, facts, found.judge, found.analysis, scale=found.scale)
    result = words.anomaly_json(inv)
    rows = {row["policy"]: row for row in result["policies"]}
    return [
        *words.lead(inv),
        findings.published_table(words.frame(result), len(cases[logging_policy].data.logged)),
        *(plots.waterfall(rows[f.policy], found.scale.low) for f in inv.anomalies),
        words.mass_sentence(inv),
    ]
