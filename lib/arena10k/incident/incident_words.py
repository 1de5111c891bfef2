"""The reproduced incident as tables, sentences and the content of incident.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from arena10k.attribution import Finding
from arena10k.attribution.game import CAUSE_WORDS
from arena10k.incident.incident import CLEAN, FIXED, Outcome, frame, rejected
from arena10k.params.sections import IncidentParams
from arena10k.wording import ESTIMATOR_WORDS, JUDGE_SNIPS, listed, number, percent


def ranking_frame(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """SNIPS on judge scores and rank of every policy (rows) at every step (columns) of one geometry."""
    return pd.DataFrame(
        [
            {"policy": p} | {o.step.name: _placed(o, p) for o in outcomes}
            for p in outcomes[0].inv.findings
        ]
    )  # fmt: skip


def _placed(o: Outcome, policy: str) -> str:
    f = o.inv.findings[policy]
    return f"{f.published.value:.3f} ({o.rank(policy)})" if np.isfinite(f.published.value) else "no value"


def gates_frame(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """One row per step, about the policy the investigation looks at: `injected` rows of its weights, how many the
    record checks `caught`, their `share` of the weight, the audit of the weights as they stand, value, verdict
    and reasons of SNIPS (calibrated) on them, and the main cause the investigation names."""
    rows = []
    for o in outcomes:
        f = o.inv.focus
        mine = next(row for row in frame([o]).itertuples() if row.policy == f.policy)
        hit = mine.injected > 0
        rows.append(
            {"step": o.step.name, "policy": f.policy, "published": f.published.value, "verdict": mine.verdict}
            | {"calibrated": mine.calibrated}
            | {"injected": mine.injected, "caught": mine.caught if hit else None}
            | {"share": mine.injected_share if hit else None, "main_cause": _cause(f)}
            | {"mean_weight": mine.mean_weight, "ess": mine.ess, "tied": mine.tied}
            | {"reasons": ", ".join(mine.reasons).replace("_", " ")}
        )
    return pd.DataFrame(rows)


def _cause(f: Finding) -> str:
    return (CAUSE_WORDS[f.main_cause] if f.main_cause else "cause unclear") if f.anomaly else "no anomaly"


def _first_target(o: Outcome) -> Finding:
    return next(f for f in o.order if f.policy != o.inv.logging_policy)


def _leading(o: Outcome) -> str:
    """Who has the first place among the targets; `all targets` where they share it."""
    best = o.rank(_first_target(o).policy)
    names = [f.policy for f in o.order if f.policy != o.inv.logging_policy and f.rank == best]
    return "all targets" if 1 < len(names) == len(o.inv.findings) - 1 else listed(names)


def step_sentence(o: Outcome) -> str:
    """Who is first at a step, and on what it rests."""
    f, who = _first_target(o), _leading(o)
    first = f"first among the targets: {who} ({f.published.value:.3f})"
    if not f.corrupted:
        return f"{first}."
    whose = "their" if who != f.policy else "its"
    text = f"{first}, on weights of which {percent(f.corrupted_share)} belong to {f.corrupted} injected rows"
    gate = o.gates[f.policy]
    if gate["clip_dominated"]:
        text += f"; {whose} effective sample size, {number(gate['ess'])}, is the {gate['tied']} rows at the ceiling"
    return f"{text}."


def gates_sentence(outcomes: Sequence[Outcome]) -> str:
    """What the gates say of the numbers while the injected values are in place."""
    during = frame([o for o in outcomes if o.step.name not in (CLEAN, FIXED)])
    hit = during[during.injected > 0]
    refused = int((hit.verdict == "REFUSE").sum())
    heavy = int((hit.injected_share > 0.5).sum())
    many = f"all {len(hit)}" if refused == len(hit) else f"{refused} of {len(hit)}"
    return (
        f"With injected values in place, {ESTIMATOR_WORDS['snips']} is refused in {many} cases (targets by step); in "
        f"{heavy} of them the injected rows hold over half of the weight."
    )


def checks_sentence(params: IncidentParams) -> str:
    """What the record checks make of each stand-in."""
    told = []
    for stand_in in params.stand_ins:
        code = rejected(stand_in)
        told.append(
            f"refuse {stand_in:.1f} ({code})"
            if code
            else f"accept a single {stand_in:.1f}, which a certain token legitimately has, so that only its weight "
            "gives it away,"
        )
    return f"The checks of single records {listed(told).rstrip(',')}."


#: Whoever takes the words from incident.json does not see the page around them.
_MADE_UP = "Every injected value on this page is made up; the clean run is not touched."


def lead(runs: Sequence[Sequence[Outcome]], params: IncidentParams) -> list[str]:
    """The incident in paragraphs: what the numbers did, what quarantine does, what the checks say, what to do.
    One sequence of outcomes per geometry, the first of them told step by step."""
    before, *during, after = runs[0]
    first, again = _first_target(before), _first_target(after)
    same = " again" if again.policy == first.policy else ""
    left = listed([f"{f.policy} ({_cause(f)})" for f in after.inv.anomalies])
    return [
        f"As measured, {JUDGE_SNIPS} ranks {first.policy} first among the targets ({first.published.value:.3f}). "
        f"{_failed(during[0])} With failures on the same rows for every target, the first is then "
        f"{'; '.join(map(_first, during))}.",
        f"Quarantining the failures puts {again.policy} first{same} ({again.published.value:.3f}); "
        f"{f'what remains is {left}' if left else 'no anomaly remains'}. {_restored(before, after)}",
        f"{gates_sentence([o for outcomes in runs for o in outcomes])} {checks_sentence(params)}",
        "What to do: store a failure as a failure, and ask again for it; no number in its place is harmless, and "
        "clipping hides it.",
    ]


def _restored(before: Outcome, after: Outcome) -> str:
    """Whether the rows that are left rank the policies as all of them did, and what gives the clean ranking back."""
    was, now = _order(before), _order(after)
    if was == now:
        return "The ranking is the clean one; measured again, the failed rows give its numbers back as well."
    return (
        f"The ranking is not the clean one, as the rows are not: it is {now}, and was {was}. Only measuring the failed "
        "rows again gives that back."
    )


def _order(o: Outcome) -> str:
    """Policies with a value from first to last, `=` between those that share a place."""
    places: dict[int, list[str]] = {}
    for f in (f for f in o.order if np.isfinite(f.published.value)):
        places.setdefault(o.rank(f.policy), []).append(f.policy)
    return ", ".join(" = ".join(sorted(names)) for _, names in sorted(places.items()))


def _failed(o: Outcome) -> str:
    """How many log-probs of each policy fail."""
    lost = {p: int(o.step.table.logged[f"logp_{p}"].isna().sum()) for p in o.inv.findings}
    base = lost.pop(o.inv.logging_policy)
    each = listed([str(n) for n in sorted(set(lost.values()))])
    return (
        f"Then {base} of {len(o.step.table.logged):,} log-probs of {o.inv.logging_policy} and {each} of each target "
        f"fail, all on short answers, and a number is stored in their place."
    )


def _first(o: Outcome) -> str:
    return f"{_leading(o)} ({o.step.name}: {_first_target(o).published.value:.3f})"


def incident_json(name: str, clean: str, runs: Sequence[Sequence[Outcome]], params: IncidentParams) -> dict[str, Any]:
    """The content of incident.json; every number of a step between the clean and the fixed one rests on injected
    values."""
    rows = frame([o for outcomes in runs for o in outcomes])
    known = rows.astype(object).where(rows.notna(), None)
    return {
        "run": name,
        "clean_run": clean,
        "injected": params.model_dump(mode="json"),
        "paragraph": " ".join([_MADE_UP, *lead(runs, params)]),
        "rows": known.to_dict("records"),
    }
