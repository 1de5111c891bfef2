"""An incident reproduced on a clean run: failures of log-probs stored as numbers, what that does to the ranking by
SNIPS, and what the checks say at each step.

Everything happens in copies of the analysis table: nothing is written to the clean run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from arena10k import attribution
from arena10k.analysis import Analysis
from arena10k.attribution import Finding, Investigation
from arena10k.collection.echo import check_logprobs, check_structure
from arena10k.errors import ArenaError, CallError, section
from arena10k.estimation import ESTIMATORS
from arena10k.estimation.context import context
from arena10k.estimation.verdicts import estimate_row
from arena10k.frames.table import Table
from arena10k.params.sections import IncidentParams
from arena10k.run import Run

#: Which rows fail: the same ones for every target, or drawn for each target by itself.
GEOMETRIES = ("shared", "independent")
CLEAN, FIXED = "clean", "quarantined"
#: Bootstrap resamples of each investigation.
REPLICATES = 300


def clean_run(run: Run) -> Run:
    """The clean run that the params of an incident name.

    Raises
    ------
    ArenaError
        For params without `incident`, or a clean run that is an incident itself.
    """
    if run.params.incident is None:
        raise ArenaError(f"run {run.name!r}: its params have no `incident`; use params/incident.yaml")
    clean = Run(run.params.incident.clean)
    if clean.params.incident is not None:
        raise ArenaError(f"incident.clean: {run.params.incident.clean!r} is an incident itself, not a clean run")
    return clean


def failures(table: Table, params: IncidentParams, geometry: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Which logged rows fail, by policy: masks (n,).

    P0's rows are drawn among the shortest answers; so are a target's, among those left over: the same ones for every
    target (`shared`) or drawn anew for each (`independent`).

    Raises
    ------
    ArenaError
        Where the run has too few rows for a failure of each kind.
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
    def order(self) -> list[Finding]:
        """Policies by published number, best first."""
        return sorted(self.inv.findings.values(), key=lambda f: -np.nan_to_num(f.published.value, nan=-1))


def play(run: Run, geometry: str, replicates: int = REPLICATES) -> list[Step]:
    """All steps of one geometry: before, during (each stand-in, then the last one clipped) and after the fix."""
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
        cases = attribution.cases(seen, e.judge, raw, clip, e.folds)
        inv = attribution.investigate(
            cases, table.logging_policy, judge_mode=e.judge, analysis=e.analysis, replicates=replicates
        )
        gates = {policy: _gate(case, e.analysis) for policy, case in cases.items()}
        steps.append(Step(geometry, name, seen, raw, clip, inv, gates))
    return steps


def _gate(case: attribution.Case, analysis: Analysis) -> dict[str, Any]:
    """SNIPS (calibrated) with its verdict on the log-weights as they were published, corrupted and clipped."""
    ctx = context(case.data.with_logged(log_weight=case.published_log_weight), analysis)
    tied = {"tied": ctx.audit.ceiling, "clip_dominated": ctx.audit.clip_dominated}
    return estimate_row(ctx, ESTIMATORS["snips"]) | tied


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
    them the record checks refuse, `calibrated`, `verdict`, `reasons` of SNIPS (calibrated) on the weights as they are,
    `main_cause` of the investigation.
    """
    rows = []
    for step in steps:
        for f in step.order:
            gate = step.gates[f.policy]
            row = {"geometry": step.geometry, "step": step.name, "policy": f.policy, "rank": f.rank}
            row |= {"published": f.published.value, "injected": f.corrupted, "injected_share": f.corrupted_share}
            row |= {"caught": _caught(step, f)}
            row |= {name: gate[name] for name in ("mean_weight", "ess", "tied", "clip_dominated")}
            row |= {"calibrated": gate["value"], "verdict": gate["verdict"], "reasons": gate["reasons"]}
            rows.append(row | {"anomaly": f.anomaly, "main_cause": f.main_cause})
    return pd.DataFrame(rows)


def _caught(step: Step, f: Finding) -> int:
    """Corrupted rows of a policy's weights of which either half is a number the record checks refuse."""
    if step.raw is None or not f.corrupted:
        return 0
    halves = [f"logp_{p}" for p in {f.policy, step.inv.logging_policy}]
    refused = step.raw[halves].map(lambda v: rejected(v) is not None) & step.table.logged[halves].isna()
    judged = step.table.logged[f"judge_{step.inv.judge_mode}"].notna()
    return int((refused.any(axis=1) & judged).sum())
