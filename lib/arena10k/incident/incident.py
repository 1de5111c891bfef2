"""An incident reproduced on a clean run: failures of log-probs stored as numbers, what that does to the ranking by
SNIPS, and what the checks say at each step.

Everything happens in copies of the analysis table: nothing is written to the clean run.
"""

from __future__ import annotations

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
_LABEL = "injected"
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
    """One state of the data: `raw` holds the injected `logp_<policy>` of the published number (None: as measured);
    `clip` bounds its log-weights."""

    name: str
    table: Table
    raw: pd.DataFrame | None = None
    clip: float | None = None


def steps(table: Table, params: IncidentParams, failed: dict[str, np.ndarray]) -> list[Step]:
    """Before, during (each stand-in, then the last one clipped) and after the fix."""
    aside = table.logged.copy()
    for policy, rows in failed.items():
        aside.loc[rows, f"logp_{policy}"] = np.nan
    fixed = replace(table, logged=aside)
    found = [Step(CLEAN, table)]
    for value in params.stand_ins:
        raw = table.logged[[f"logp_{p}" for p in failed]].copy()
        for policy, rows in failed.items():
            raw.loc[rows, f"logp_{policy}"] = value
        found.append(Step(f"stored {value:.1f}", fixed, raw))
    found.append(Step(f"clipped at ±{params.clip:g}", fixed, raw, params.clip))
    return [*found, Step(FIXED, fixed)]


def rejected(value: float) -> str | None:
    """The code with which the record checks refuse a number that stands alone, without log-probs of its tokens."""
    try:
        check_structure(check_logprobs([value]), value)
    except CallError as error:
        return error.code
    return None


@dataclass(frozen=True, eq=False)
class Outcome:
    """A step with its investigation and, per policy, the row of estimates.json that SNIPS (calibrated) would have had
    if nothing had been quarantined."""

    geometry: str
    step: Step
    inv: Investigation
    gates: dict[str, dict[str, Any]]

    def __post_init__(self) -> None:
        if set(self.gates) != set(self.inv.findings):
            raise ValueError("gates: one row per policy is needed")

    @property
    def order(self) -> list[Finding]:
        """Policies by published number, best first."""
        return sorted(self.inv.findings.values(), key=lambda f: -np.nan_to_num(f.published.value, nan=-1))

    def rank(self, policy: str) -> int:
        """Place by published number; numbers that are equal as printed share it."""
        return self.inv.findings[policy].rank


def play(run: Run, geometry: str, replicates: int = REPLICATES) -> list[Outcome]:
    """All steps of one geometry."""
    clean, e, told = clean_run(run), run.params.estimation, section(run.params.incident, "incident")
    table = clean.table()
    failed = failures(table, told, geometry, run.params.seed)
    out = []
    for step in steps(table, told, failed):
        cases = attribution.cases(step.table, e.judge, step.raw, step.clip, e.folds)
        options: dict[str, Any] = {"judge_mode": e.judge, "analysis": e.analysis, "replicates": replicates}
        inv = attribution.investigate(cases, table.logging_policy, **options)
        out.append(Outcome(geometry, step, inv, {p: _gate(c, e.analysis) for p, c in cases.items()}))
    return out


def _gate(case: attribution.Case, analysis: Analysis) -> dict[str, Any]:
    """SNIPS (calibrated) with its verdict on the log-weights as they were published, corrupted and clipped."""
    lw = case.raw_log_weight if case.clip is None else np.clip(case.raw_log_weight, -case.clip, case.clip)
    ctx = context(replace(case.data, log_weight=lw), analysis)
    return estimate_row(ctx, ESTIMATORS["snips"]) | {
        "tied": ctx.audit.ceiling,
        "clip_dominated": ctx.audit.clip_dominated,
    }


def frame(outcomes: list[Outcome]) -> pd.DataFrame:
    """One row per geometry, step and policy: the published number and what each gate says of it.

    `injected` corrupted rows of the policy's weights, `injected_share` their share of its weight, `caught` those of
    them the record checks refuse, `calibrated`, `verdict`, `reasons` of SNIPS (calibrated) on the weights as they are,
    `main_cause` of the investigation.
    """
    rows = []
    for o in outcomes:
        for f in o.order:
            gate = o.gates[f.policy]
            row = {"geometry": o.geometry, "step": o.step.name, "policy": f.policy, "rank": o.rank(f.policy)}
            row |= {"published": f.published.value, _LABEL: f.corrupted, f"{_LABEL}_share": f.corrupted_share}
            row |= {"caught": _caught(o, f), "mean_weight": gate["mean_weight"], "ess": gate["ess"]}
            row |= {"tied": gate["tied"], "clip_dominated": gate["clip_dominated"]}
            row |= {"calibrated": gate["value"], "verdict": gate["verdict"]}
            rows.append(row | {"reasons": gate["reasons"], "anomaly": f.anomaly, "main_cause": f.main_cause})
    return pd.DataFrame(rows)


def _caught(o: Outcome, f: Finding) -> int:
    """Corrupted rows of a policy's weights of which either half is a number the record checks refuse."""
    if o.step.raw is None:
        return 0
    halves = [f"logp_{p}" for p in {f.policy, o.inv.logging_policy}]
    held, clean = o.step.raw[halves], o.step.table.logged[halves]
    refused = held.map(lambda v: rejected(v) is not None) & clean.isna()
    judged = ~np.isnan(o.step.table.logged[f"judge_{o.inv.judge_mode}"].to_numpy(float))
    return int((refused.any(axis=1).to_numpy() & judged).sum()) if f.corrupted else 0
