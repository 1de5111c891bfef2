"""From the arrays of policies to rows of estimates.json and the diagnostics beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from arena10k.analysis import DEFAULT, Analysis
from arena10k.estimation import ESTIMATORS, PolicyData, diagnostics, planning
from arena10k.estimation.context import LOGPROBS_ASKED, PolicyContext, context
from arena10k.estimation.diagnostics import Transport
from arena10k.estimation.headline import headline_row
from arena10k.estimation.intervals import Interval, WeightAudit, missing_mass_interval
from arena10k.estimation.verdicts import estimate_row


@dataclass(frozen=True, eq=False)
class PolicyReport:
    """Diagnostics of one policy and judge mode; every weight figure is of the raw weights.

    `typicality` NaN without log-probs of the target; `noise_floor` only for a clone of the logging policy; `auc_*` of
    judge against label on logged rows and on the target's draws.
    """

    policy: str
    judge: str
    n: int
    n_missing_weight: int
    audit: WeightAudit
    mean_weight_p: float
    match_p: float
    missing_mass: float
    missing_mass_interval: tuple[float, float]
    el: Interval
    top_shares: dict[str, float]
    hill: float
    overlap: dict[str, float]
    typicality: float
    permutation: diagnostics.PermutationNull
    transport: Transport
    auc_logged: float
    auc_target: float
    reliability: list[dict[str, float]]
    effective_labels: float
    noise_floor: diagnostics.NoiseFloor | None
    pilot: planning.Pilot
    calibration_source: str | None
    is_logging: bool


def _typicality(data: PolicyData) -> float:
    keep = ~(np.isnan(data.log_weight) | np.isnan(data.logp_target) | np.isnan(data.length))
    return diagnostics.target_typicality(data.logp_target[keep], data.log_weight[keep], data.length[keep])


def report(
    policy: str, judge: str, data: PolicyData, ctx: PolicyContext, clone: bool = False, seed: int = 0
) -> PolicyReport:
    """All diagnostics of one policy. `clone`: the policy is identical to the logging policy by construction."""
    prep, audit = ctx.prep, ctx.audit
    keep = prep.has_weight > 0
    lw = prep.raw_log_weight
    permutation = diagnostics.permutation_null(lw, prep.reward if keep.all() else prep.reward[keep], seed)
    return PolicyReport(
        policy=policy,
        judge=judge,
        n=data.n,
        n_missing_weight=int(np.isnan(data.log_weight).sum()),
        audit=audit,
        mean_weight_p=ctx.mean_weight_p,
        match_p=ctx.match_p,
        missing_mass=diagnostics.missing_mass(audit.mean_weight),
        missing_mass_interval=missing_mass_interval(audit.mean_weight, permutation.value),
        el=ctx.el,
        top_shares=diagnostics.top_shares(lw),
        hill=diagnostics.hill(lw),
        overlap=diagnostics.overlap(lw),
        typicality=_typicality(data),
        permutation=permutation,
        transport=ctx.transport,
        auc_logged=diagnostics.judge_auc(data.judge, data.label),
        auc_target=diagnostics.judge_auc(data.fresh_judge, data.fresh_label),
        reliability=diagnostics.reliability_curve(data.judge, data.label),
        effective_labels=ctx.effective_labels,
        noise_floor=diagnostics.clone_noise_floor(lw) if clone else None,
        pilot=ctx.pilot,
        calibration_source=prep.source,
        is_logging=data.is_logging,
    )


@dataclass(frozen=True, eq=False)
class Study:
    """Rows of estimates.json; diagnostics, and what verdicts share, by (policy, judge mode); what was asked for."""

    rows: list[dict[str, Any]]
    reports: dict[tuple[str, str], PolicyReport]
    contexts: dict[tuple[str, str], PolicyContext]
    analysis: Analysis = DEFAULT

    def of_judge(self, judge: str) -> dict[str, PolicyContext]:
        """By policy the contexts of one judge mode, as `compare.ranking` and `compare.contrasts` take them."""
        return {policy: ctx for (policy, mode), ctx in self.contexts.items() if mode == judge}


def study(
    policies: Mapping[str, Mapping[str, PolicyData]],
    analysis: Analysis = DEFAULT,
    n_quarantined: Mapping[str, int] | None = None,
    flags: Mapping[str, Iterable[str]] | None = None,
    estimators: Iterable[str] | None = None,
    clones: Iterable[str] = (),
    reports: bool = True,
    contexts: Iterable[str] = (),
) -> Study:
    """All estimators and diagnostics for every policy and judge mode.

    Parameters
    ----------
    policies : `{policy: {judge_mode: PolicyData}}`; the logging policy may be among them (log-weights 0).
    n_quarantined : logged rows quarantined per policy.
    flags : facts per policy that arrays do not show (`context.WRONG_WEIGHTS`).
    clones : policies identical to the logging policy; their report carries the noise floor of the log-probs.
    reports : False leaves the diagnostics out.
    contexts : judge modes whose contexts are kept for comparisons; the others' memory is released on the way.
    """
    names = list(ESTIMATORS) if estimators is None else list(estimators)
    clones, kept = set(clones), set(contexts)
    rows, found, compared = [], {}, {}
    for policy, modes in policies.items():
        for judge, data in modes.items():
            quarantined = int((n_quarantined or {}).get(policy, 0))
            facts = [*(flags or {}).get(policy, ()), *[LOGPROBS_ASKED] * (quarantined > 0)]
            ctx = context(data, analysis, facts)
            mine = [estimate_row(ctx, ESTIMATORS[name]) for name in names]
            rows += [{"policy": policy, "judge": judge, "n_quarantined": quarantined, **row} for row in mine]
            if reports:
                found[policy, judge] = report(policy, judge, data, ctx, policy in clones)
            if judge in kept:
                ctx.prep.memo.clear()
                if estimators is None:
                    ctx.prep.memo["headline"] = headline_row(mine, analysis.belief, ctx.prep.is_logging)
                compared[policy, judge] = ctx
    return Study(rows, found, compared, analysis)


def estimates(
    policies: Mapping[str, Mapping[str, PolicyData]],
    analysis: Analysis = DEFAULT,
    n_quarantined: Mapping[str, int] | None = None,
    flags: Mapping[str, Iterable[str]] | None = None,
    estimators: Iterable[str] | None = None,
) -> list[dict[str, Any]]:
    """Rows of estimates.json (see `study`); numbers are floats, ints or None, never NaN."""
    return study(policies, analysis, n_quarantined, flags, estimators, reports=False).rows
