"""An incident reproduced on a clean run: failures of log-probs stored as numbers, what that does to the ranking by
SNIPS, and what the checks say at each step.

Everything happens in copies of the analysis table: nothing is written to the clean run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from arena10k.attribution.game import CAUSE_WORDS
from arena10k.attribution.investigation import Attribution, Investigation, investigate_table
from arena10k.collection.echo import check_logprobs, check_structure
from arena10k.errors import ArenaError, CallError, section
from arena10k.estimation import ESTIMATORS
from arena10k.estimation.context import context
from arena10k.estimation.verdicts import estimate_row
from arena10k.frames.table import Table
from arena10k.params.sections import IncidentParams
from arena10k.run import Run
from arena10k.wording import ESTIMATOR_WORDS, JUDGE_SNIPS, listed, number, percent

#: Which rows fail: the same ones for every target, or drawn for each target by itself.
GEOMETRIES = ("shared", "independent")
CLEAN, FIXED = "clean", "quarantined"


def clean_run(run: Run) -> Run:
    """The clean run that the params of an incident name; ArenaError for params without `incident`, or a clean run that
    is an incident itself."""
    if run.params.incident is None:
        raise ArenaError(f"run {run.name!r}: its params have no `incident`; use params/incident.yaml")
    clean = Run(run.params.incident.clean)
    if clean.params.incident is not None:
        raise ArenaError(f"incident.clean: {run.params.incident.clean!r} is an incident itself, not a clean run")
    return clean


def failures(table: Table, params: IncidentParams, geometry: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Which logged rows fail, by policy: masks (n,). ArenaError where the run has too few rows for a failure of each
    kind.

    P0's rows are drawn among the shortest answers; so are a target's, among those left over: the same ones for every
    target (`shared`) or drawn anew for each (`independent`).
    """
    n = len(table.logged)
    length = table.logged.response_chars.to_numpy(float, na_value=np.inf)
    short = np.argsort(length, kind="stable")[: round(params.short_share * n)]
    sizes = [round(share * n) for share in (params.logging_failures, params.target_failures)]
    if min(sizes) < 1 or sum(sizes) > len(short):
        raise ArenaError(f"the clean run has {n} logged rows: too few to let {sizes[0]} and {sizes[1]} of them fail")
    base = np.random.default_rng([seed, 0]).choice(short, sizes[0], replace=False)
    left = np.setdiff1d(short, base)
    drawn = {table.logging_policy: base}
    for k, target in enumerate(table.targets):
        stream = 1 if geometry == "shared" else 2 + k
        drawn[target] = np.random.default_rng([seed, stream]).choice(left, sizes[1], replace=False)
    return {policy: np.isin(np.arange(n), rows) for policy, rows in drawn.items()}


@dataclass(frozen=True, eq=False)
class Step:
    """One state of the data, and what is found in it.

    `raw` holds the injected `logp_<policy>` of the published number (None: as measured), `clip` bounds its log-weights;
    `gates` are by policy the row of estimates.json that SNIPS (calibrated) would have had if nothing had been
    quarantined.
    """

    geometry: str
    name: str
    table: Table
    raw: pd.DataFrame | None
    clip: float | None
    inv: Investigation
    gates: dict[str, dict[str, Any]]

    @property
    def targets(self) -> list[Attribution]:
        """Targets by published number, best first."""
        return [f for f in self.inv.order if f.policy != self.inv.logging_policy]

    @property
    def leading(self) -> str:
        """Who has the first place among the targets; `all targets` where they share it."""
        names = [f.policy for f in self.targets if f.rank == self.targets[0].rank]
        return "all targets" if 1 < len(names) == len(self.targets) else listed(names)

    @property
    def ranking(self) -> str:
        """Policies with a value from first to last, `=` between those that share a place."""
        places: dict[int, list[str]] = {}
        for f in (f for f in self.inv.order if np.isfinite(f.published.value)):
            places.setdefault(f.rank, []).append(f.policy)
        return ", ".join(" = ".join(sorted(names)) for _, names in sorted(places.items()))


def play(run: Run, geometry: str, replicates: int = 300) -> list[Step]:
    """All steps of one geometry: before, during (each stand-in, then the last one clipped) and after the fix;
    `replicates` of the bootstrap of each investigation."""
    params, e = section(run.params.incident, "incident"), run.params.estimation
    table = clean_run(run).table()
    failed = failures(table, params, geometry, run.params.seed)

    def stored(value: float) -> pd.DataFrame:
        logged = table.logged.copy()
        for policy, rows in failed.items():
            logged.loc[rows, f"logp_{policy}"] = value
        return logged

    fixed = replace(table, logged=stored(np.nan))
    states: list[tuple[str, Table, pd.DataFrame | None, float | None]] = [(CLEAN, table, None, None)]
    states += [(f"stored {value:.1f}", fixed, stored(value), None) for value in params.stand_ins]
    states += [(f"clipped at ±{params.clip:g}", fixed, states[-1][2], params.clip), (FIXED, fixed, None, None)]
    steps = []
    for name, seen, raw, clip in states:
        inv, gates = investigate_table(seen, e.judge, raw, clip, e.analysis, replicates=replicates), {}
        for policy, f in inv.policies.items():
            case = f.game.case
            ctx = context(case.data.with_logged(log_weight=case.published_log_weight), e.analysis)
            ceiling = {"tied": ctx.audit.ceiling, "clip_dominated": ctx.audit.clip_dominated}
            gates[policy] = estimate_row(ctx, ESTIMATORS["snips"]) | ceiling
        steps.append(Step(geometry, name, seen, raw, clip, inv, gates))
    return steps


def rejected(value: float) -> str | None:
    """The code with which the record checks refuse a number that stands alone, without log-probs of its tokens."""
    try:
        check_structure(check_logprobs([value]), value)
    except CallError as error:
        return error.code
    return None


def frame(steps: Iterable[Step]) -> pd.DataFrame:
    """One row per geometry, step and policy: the published number and what each gate says of it.

    `injected` corrupted rows of the policy's weights, `injected_share` their share of its weight, `caught` those of
    them of which either half is a number the record checks refuse, `calibrated`, `verdict`, `reasons` of SNIPS
    (calibrated) on the weights as they are, `main_cause` of the investigation.
    """
    rows = []
    for step in steps:
        judged = step.table.logged[f"judge_{step.inv.judge}"].notna()
        for f in step.inv.order:
            gate, halves = step.gates[f.policy], [f"logp_{p}" for p in {f.policy, step.inv.logging_policy}]
            caught = 0
            if step.raw is not None and f.corrupted:
                refused = step.raw[halves].map(lambda v: rejected(v) is not None) & step.table.logged[halves].isna()
                caught = int((refused.any(axis=1) & judged).sum())
            row = {"geometry": step.geometry, "step": step.name, "policy": f.policy, "rank": f.rank}
            row |= {"published": f.published.value, "injected": f.corrupted, "injected_share": f.corrupted_share}
            row |= {"caught": caught}
            row |= {name: gate[name] for name in ("mean_weight", "ess", "tied", "clip_dominated")}
            row |= {"calibrated": gate["value"], "verdict": gate["verdict"], "reasons": gate["reasons"]}
            rows.append(row | {"anomaly": f.anomaly, "main_cause": f.main_cause})
    return pd.DataFrame(rows)


def ranking_frame(steps: Sequence[Step]) -> pd.DataFrame:
    """SNIPS on judge scores and rank of every policy (rows) at every step (columns) of one geometry."""
    columns = {
        step.name: {
            f.policy: f"{f.published.value:.3f} ({f.rank})" if np.isfinite(f.published.value) else "no value"
            for f in step.inv.policies.values()
        }
        for step in steps
    }
    return pd.DataFrame(columns).rename_axis("policy").reset_index()


def gates_frame(steps: Sequence[Step]) -> pd.DataFrame:
    """One row per step, about the policy the investigation looks at: the row of `frame`, with the main cause and the
    reasons in words, and no `caught` and no `share` where nothing is injected."""
    rows = pd.concat([frame([step]).query("policy == @step.inv.focus.policy") for step in steps], ignore_index=True)
    return rows.assign(
        main_cause=[_cause(step.inv.focus) for step in steps],
        reasons=[", ".join(reasons).replace("_", " ") for reasons in rows.reasons],
        share=rows.injected_share.where(rows.injected > 0),
        caught=rows.caught.where(rows.injected > 0),
    )


def _cause(f: Attribution) -> str:
    return CAUSE_WORDS.get(f.main_cause or "", "cause unclear") if f.anomaly else "no anomaly"


def step_sentence(step: Step) -> str:
    """Who is first at a step, and on what it rests."""
    f = step.targets[0]
    text = f"first among the targets: {step.leading} ({f.published.value:.3f})"
    if f.corrupted:
        text += f", on weights of which {percent(f.corrupted_share)} belong to {f.corrupted} injected rows"
        gate, whose = step.gates[f.policy], "their" if step.leading != f.policy else "its"
        if gate["clip_dominated"]:
            text += f"; {whose} effective sample size, {number(gate['ess'])}, is the {gate['tied']} rows at the ceiling"
    return f"{text}."


def gates_sentence(steps: Sequence[Step]) -> str:
    """What the gates say of the numbers while the injected values are in place."""
    hit = frame(step for step in steps if step.name not in (CLEAN, FIXED)).query("injected > 0")
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
    first, again, table = before.targets[0], after.targets[0], during[0].table
    lost = {p: int(table.logged[f"logp_{p}"].isna().sum()) for p in table.policies}
    each = listed([str(n) for n in sorted({lost[target] for target in table.targets})])
    then = "; ".join(f"{s.leading} ({s.name}: {s.targets[0].published.value:.3f})" for s in during)
    left = listed([f"{f.policy} ({_cause(f)})" for f in after.inv.anomalies])
    restored = "The ranking is the clean one; measured again, the failed rows give its numbers back as well."
    if before.ranking != after.ranking:
        restored = (
            f"The ranking is not the clean one, as the rows are not: it is {after.ranking}, and was {before.ranking}. "
            "Only measuring the failed rows again gives that back."
        )
    return [
        f"As measured, {JUDGE_SNIPS} ranks {first.policy} first among the targets ({first.published.value:.3f}). "
        f"Then {lost[table.logging_policy]} of {len(table.logged):,} log-probs of {table.logging_policy} and {each} of "
        "each target fail, all on short answers, and a number is stored in their place. With failures on the same rows "
        f"for every target, the first is then {then}.",
        f"Quarantining the failures puts {again.policy} first{' again' if again.policy == first.policy else ''} "
        f"({again.published.value:.3f}); {f'what remains is {left}' if left else 'no anomaly remains'}. {restored}",
        f"{gates_sentence([step for steps in runs for step in steps])} {checks_sentence(params)}",
        "What to do: store a failure as a failure, and ask again for it; no number in its place is harmless, and "
        "clipping hides it.",
    ]


def incident_json(run: Run, runs: Sequence[Sequence[Step]]) -> dict[str, Any]:
    """The content of incident.json; every number of a step between the clean and the fixed one rests on injected
    values. Whoever takes the words from there does not see the page around them."""
    params = section(run.params.incident, "incident")
    made_up = "Every injected value on this page is made up; the clean run is not touched."
    return {
        "run": run.name,
        "clean_run": clean_run(run).name,
        "injected": params.model_dump(mode="json"),
        "paragraph": " ".join([made_up, *lead(runs, params)]),
        "rows": frame(step for steps in runs for step in steps),
    }
