"""The reproduced incident as tables, sentences and the content of incident.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from arena10k.attribution import Finding
from arena10k.attribution.game import CAUSE_WORDS
from arena10k.incident.incident import CLEAN, FIXED, Step, frame, rejected
from arena10k.params.sections import IncidentParams
from arena10k.wording import ESTIMATOR_WORDS, JUDGE_SNIPS, listed, number, percent


def ranking_frame(steps: Sequence[Step]) -> pd.DataFrame:
    """SNIPS on judge scores and rank of every policy (rows) at every step (columns) of one geometry."""
    columns = {
        step.name: {
            f.policy: f"{f.published.value:.3f} ({f.rank})" if np.isfinite(f.published.value) else "no value"
            for f in step.inv.findings.values()
        }
        for step in steps
    }
    return pd.DataFrame(columns).rename_axis("policy").reset_index()


def gates_frame(steps: Sequence[Step]) -> pd.DataFrame:
    """One row per step, about the policy the investigation looks at: the row of `frame`, with the main cause and the
    reasons in words, and no `caught` and no `share` where nothing is injected."""
    rows = []
    for step in steps:
        f = step.inv.focus
        row = next(row for row in frame([step]).to_dict("records") if row["policy"] == f.policy)
        row |= {"main_cause": _cause(f), "reasons": ", ".join(row["reasons"]).replace("_", " ")}
        row["share"] = row["injected_share"] if row["injected"] else None
        rows.append(row | {"caught": row["caught"] if row["injected"] else None})
    return pd.DataFrame(rows)


def _cause(f: Finding) -> str:
    return CAUSE_WORDS.get(f.main_cause or "", "cause unclear") if f.anomaly else "no anomaly"


def _first_target(step: Step) -> Finding:
    return next(f for f in step.order if f.policy != step.inv.logging_policy)


def _leading(step: Step) -> str:
    """Who has the first place among the targets; `all targets` where they share it."""
    best = _first_target(step).rank
    names = [f.policy for f in step.order if f.policy != step.inv.logging_policy and f.rank == best]
    return "all targets" if 1 < len(names) == len(step.inv.findings) - 1 else listed(names)


def step_sentence(step: Step) -> str:
    """Who is first at a step, and on what it rests."""
    f, who = _first_target(step), _leading(step)
    text = f"first among the targets: {who} ({f.published.value:.3f})"
    if f.corrupted:
        text += f", on weights of which {percent(f.corrupted_share)} belong to {f.corrupted} injected rows"
        gate, whose = step.gates[f.policy], "their" if who != f.policy else "its"
        if gate["clip_dominated"]:
            text += f"; {whose} effective sample size, {number(gate['ess'])}, is the {gate['tied']} rows at the ceiling"
    return f"{text}."


def gates_sentence(steps: Sequence[Step]) -> str:
    """What the gates say of the numbers while the injected values are in place."""
    during = frame([step for step in steps if step.name not in (CLEAN, FIXED)])
    hit = during[during.injected > 0]
    refused, heavy = int((hit.verdict == "REFUSE").sum()), int((hit.injected_share > 0.5).sum())
    many = f"all {len(hit)}" if refused == len(hit) else f"{refused} of {len(hit)}"
    return (
        f"With injected values in place, {ESTIMATOR_WORDS['snips']} is refused in {many} cases (targets by step); in "
        f"{heavy} of them the injected rows hold over half of the weight."
    )


def checks_sentence(params: IncidentParams) -> str:
    """What the record checks make of each stand-in."""
    passed = "which a certain token legitimately has, so that only its weight gives it away,"
    verdicts = [
        f"refuse {value:.1f} ({code})" if (code := rejected(value)) else f"accept a single {value:.1f}, {passed}"
        for value in params.stand_ins
    ]
    return f"The checks of single records {listed(verdicts).rstrip(',')}."


def lead(runs: Sequence[Sequence[Step]], params: IncidentParams) -> list[str]:
    """The incident in paragraphs: what the numbers did, what quarantine does, what the checks say, what to do.
    One sequence of steps per geometry, the first of them told step by step."""
    before, *during, after = runs[0]
    first, again = _first_target(before), _first_target(after)
    left = listed([f"{f.policy} ({_cause(f)})" for f in after.inv.anomalies])
    then = "; ".join(f"{_leading(s)} ({s.name}: {_first_target(s).published.value:.3f})" for s in during)
    return [
        f"As measured, {JUDGE_SNIPS} ranks {first.policy} first among the targets ({first.published.value:.3f}). "
        f"{_failed(during[0])} With failures on the same rows for every target, the first is then {then}.",
        f"Quarantining the failures puts {again.policy} first{' again' if again.policy == first.policy else ''} "
        f"({again.published.value:.3f}); {f'what remains is {left}' if left else 'no anomaly remains'}. "
        f"{_restored(before, after)}",
        f"{gates_sentence([step for steps in runs for step in steps])} {checks_sentence(params)}",
        "What to do: store a failure as a failure, and ask again for it; no number in its place is harmless, and "
        "clipping hides it.",
    ]


def _restored(before: Step, after: Step) -> str:
    """Whether the rows that are left rank the policies as all of them did, and what gives the clean ranking back."""
    was, now = _order(before), _order(after)
    if was == now:
        return "The ranking is the clean one; measured again, the failed rows give its numbers back as well."
    return (
        f"The ranking is not the clean one, as the rows are not: it is {now}, and was {was}. Only measuring the failed "
        "rows again gives that back."
    )


def _order(step: Step) -> str:
    """Policies with a value from first to last, `=` between those that share a place."""
    places: dict[int, list[str]] = {}
    for f in (f for f in step.order if np.isfinite(f.published.value)):
        places.setdefault(f.rank, []).append(f.policy)
    return ", ".join(" = ".join(sorted(names)) for _, names in sorted(places.items()))


def _failed(step: Step) -> str:
    """How many log-probs of each policy fail."""
    lost = {p: int(step.table.logged[f"logp_{p}"].isna().sum()) for p in step.inv.findings}
    base = lost.pop(step.inv.logging_policy)
    each = listed([str(n) for n in sorted(set(lost.values()))])
    return (
        f"Then {base} of {len(step.table.logged):,} log-probs of {step.inv.logging_policy} and {each} of each target "
        f"fail, all on short answers, and a number is stored in their place."
    )


def incident_json(name: str, clean: str, runs: Sequence[Sequence[Step]], params: IncidentParams) -> dict[str, Any]:
    """The content of incident.json; every number of a step between the clean and the fixed one rests on injected
    values. Whoever takes the words from there does not see the page around them."""
    rows = frame(step for steps in runs for step in steps)
    made_up = "Every injected value on this page is made up; the clean run is not touched."
    return {
        "run": name,
        "clean_run": clean,
        "injected": params.model_dump(mode="json"),
        "paragraph": " ".join([made_up, *lead(runs, params)]),
        "rows": rows.astype(object).where(rows.notna(), None).to_dict("records"),
    }
