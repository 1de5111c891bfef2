"""From one policy's arrays to rows of estimates.json: values, intervals, verdicts with reasons, labels needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from arena10k import diagnostics, planning
from arena10k.diagnostics import MIN_TARGET_LABELS, Transport, transport
from arena10k.estimators import ESTIMATORS, Estimator, PolicyData, Prepared, Score, prepare
from arena10k.intervals import (
    MAX_WIDTH,
    NO_INTERVAL,
    Interval,
    WeightAudit,
    audit_weights,
    el_score_interval,
    missing_mass_interval,
    score_interval,
)

REPORT, CAUTION, REFUSE = "REPORT", "CAUTION", "REFUSE"
FEW_LABELS = 20
IMPOSSIBLE = 0.01


@dataclass(frozen=True, eq=False)
class PolicyContext:
    """What the verdicts of one policy and judge mode share."""

    prep: Prepared
    audit: WeightAudit
    mean_weight_p: float
    transport: Transport
    el: Interval
    pilot: planning.Pilot
    flags: frozenset[str]
    width: float
    confidence: float


def context(
    data: PolicyData,
    width: float = 0.2,
    confidence: float = 0.95,
    flags: Iterable[str] = (),
    calibration: str = "isotonic",
    w_max: float = float("inf"),
) -> PolicyContext:
    """Prepare one policy: calibration, weight audit, transport test, EL interval, planning values.

    `flags` are facts about the policy that the arrays do not show: "temperature_mismatch".
    """
    prep = prepare(data, calibration)
    lw = prep.raw_log_weight
    cluster = None if prep.unique["logged"] else prep.logged.cluster[prep.has_weight > 0]
    audit = audit_weights(lw)
    return PolicyContext(
        prep,
        audit,
        diagnostics.mean_weight_p_value(lw, cluster),
        transport(prep, audit, width, confidence),
        el_score_interval(prep, confidence, w_max),
        planning.pilot(prep),
        frozenset(flags),
        width,
        confidence,
    )


def _worst(*verdicts: str) -> str:
    return max(verdicts, key=(REPORT, CAUTION, REFUSE).index)


def _missing(ctx: PolicyContext, estimator: Estimator) -> list[str]:
    """Reasons why the estimator has nothing to compute from."""
    prep = ctx.prep
    checks = {
        "no_judge_scores": estimator.judge_scale and not len(prep.fresh) + len(prep.logged),
        "no_log_weights": estimator.uses_weights and prep.n_weighted == 0,
        "no_fresh_draws": not estimator.judge_scale
        and (not estimator.uses_weights or estimator.doubly_robust)
        and len(prep.fresh) == 0,
        "no_labels": (estimator.uses_target_labels and not prep.fresh.labelled.any())
        or (estimator.name == "dr_oracle" and not (prep.logged.labelled * prep.has_weight).any()),
    }
    return [reason for reason, absent in checks.items() if absent]


def _judge_reasons(ctx: PolicyContext, estimator: Estimator) -> tuple[str, list[str]]:
    """Verdict and reasons from scale, calibration and transport."""
    if estimator.judge_scale:
        return CAUTION, ["not_on_oracle_scale"]
    if estimator.uses_target_labels:
        n = ctx.transport.n_labels
        return (REFUSE if n < MIN_TARGET_LABELS else CAUTION if n < FEW_LABELS else REPORT), ["few_labels"] * (
            n < FEW_LABELS
        )
    if ctx.prep.source is None:
        return CAUTION, ["no_labels", "not_on_oracle_scale"]
    verdict, reasons = REPORT, []
    if ctx.prep.sample(ctx.prep.source).labelled.sum() < FEW_LABELS:
        verdict, reasons = CAUTION, ["few_labels"]
    status = ctx.transport.status
    # dr_oracle carries the label residual in its value; plain weighting carries it in its interval.
    own_residual = estimator.name == "dr_oracle" or (estimator.uses_weights and not estimator.doubly_robust)
    if status == "failed" and estimator.name != "dr_oracle":
        return REFUSE, [*reasons, "transport_failed"]
    if own_residual or status in ("passed", "own"):
        return verdict, reasons
    return CAUTION, [*reasons, "weak_transport_evidence" if status == "weak" else "no_transport_evidence"]


def _weight_reasons(
    ctx: PolicyContext, estimator: Estimator, interval: Interval, value: float
) -> tuple[str, list[str]]:
    """Verdict and reasons from the log-weights."""
    if not estimator.uses_weights:
        return REPORT, []
    reasons = list(ctx.audit.failures)
    if "temperature_mismatch" in ctx.flags and not ctx.prep.is_logging:
        return REFUSE, ["temperature_mismatch", *reasons]
    if ctx.mean_weight_p < IMPOSSIBLE:
        # E[w] = 1 is what every interval here rests on; significantly more cannot come from two real policies.
        return REFUSE, ["mean_weight_impossible", *reasons]
    if not reasons:
        return REPORT, []
    if estimator.doubly_robust:
        one_leg = estimator.name != "dr_oracle" and ctx.transport.status in ("passed", "own")
        return (CAUTION if one_leg else REFUSE), reasons
    if ctx.audit.clip_dominated:
        return REFUSE, reasons
    if not interval.low <= value <= interval.high:
        return REFUSE, [*reasons, "value_outside_interval"]
    return CAUTION, reasons


def verdict(ctx: PolicyContext, estimator: Estimator, value: float, interval: Interval) -> tuple[str, list[str]]:
    """REPORT, CAUTION or REFUSE for one estimate, and why."""
    missing = _missing(ctx, estimator)
    if missing:
        return REFUSE, missing
    by_weight, reasons = _weight_reasons(ctx, estimator, interval, value)
    by_judge, more = _judge_reasons(ctx, estimator)
    result, reasons = _worst(by_weight, by_judge), [*reasons, *more]
    if not np.isfinite(value):
        return REFUSE, [*reasons, "not_finite"]
    if not interval.width <= MAX_WIDTH:
        return REFUSE, [*reasons, "interval_too_wide"]
    return result, reasons


def interval_of(ctx: PolicyContext, estimator: Estimator, score: Score) -> Interval:
    """The composite interval for estimators that only re-weight (EL unless the weights are healthy), else the
    jackknife."""
    if estimator.uses_weights and not estimator.doubly_robust and not ctx.audit.healthy:
        return ctx.el
    return score_interval(ctx.prep, score, ctx.confidence)


def _number(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None


def estimate_row(ctx: PolicyContext, estimator: Estimator) -> dict:
    """One estimator on one prepared policy: the row of estimates.json without policy and judge."""
    value, interval = float("nan"), NO_INTERVAL
    if not _missing(ctx, estimator):
        score = ctx.prep.once(estimator.name, estimator.score)
        value, interval = score.value, interval_of(ctx, estimator, score)
    result, reasons = verdict(ctx, estimator, value, interval)
    weighted = estimator.uses_weights
    wide = result != REPORT or not interval.width <= ctx.width
    return {
        "estimator": estimator.name,
        "value": _number(value),
        "se": _number(interval.se),
        "ci_low": _number(interval.low),
        "ci_high": _number(interval.high),
        "verdict": result,
        "reasons": reasons,
        "n_used": ctx.prep.n_weighted if weighted else len(ctx.prep.fresh) or len(ctx.prep.logged),
        "mean_weight": _number(ctx.audit.mean_weight),
        "ess": _number(ctx.audit.ess) if ctx.audit.n else None,
        "khat": _number(ctx.audit.khat),
        "labels_needed": planning.labels_needed(ctx.pilot, ctx.width, ctx.confidence) if wide else None,
    }


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
    noise_floor: diagnostics.NoiseFloor | None
    pilot: planning.Pilot
    calibration_source: str | None


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
        noise_floor=diagnostics.clone_noise_floor(lw) if clone else None,
        pilot=ctx.pilot,
        calibration_source=prep.source,
    )


@dataclass(frozen=True, eq=False)
class Study:
    """Rows of estimates.json and the diagnostics by (policy, judge mode)."""

    rows: list[dict]
    reports: dict[tuple[str, str], PolicyReport]


def study(
    policies: Mapping[str, Mapping[str, PolicyData]],
    n_quarantined: Mapping[str, int] | None = None,
    flags: Mapping[str, Iterable[str]] | None = None,
    width: float = 0.2,
    confidence: float = 0.95,
    estimators: Iterable[str] | None = None,
    calibration: str = "isotonic",
    clones: Iterable[str] = (),
    reports: bool = True,
) -> Study:
    """All estimators and diagnostics for every policy and judge mode.

    Parameters
    ----------
    policies : `{policy: {judge_mode: PolicyData}}`; the logging policy may be among them (log-weights 0).
    n_quarantined : logged rows quarantined per policy.
    flags : facts per policy that arrays do not show: "temperature_mismatch".
    width : requested total width of an interval; also the margin of the transport test.
    clones : policies identical to the logging policy; their report carries the noise floor of the log-probs.
    reports : False leaves the diagnostics out.
    """
    names = list(ESTIMATORS) if estimators is None else list(estimators)
    clones = set(clones)
    rows, found = [], {}
    for policy, modes in policies.items():
        for judge, data in modes.items():
            ctx = context(data, width, confidence, (flags or {}).get(policy, ()), calibration)
            quarantined = int((n_quarantined or {}).get(policy, 0))
            for name in names:
                row = estimate_row(ctx, ESTIMATORS[name])
                rows.append({"policy": policy, "judge": judge, "n_quarantined": quarantined, **row})
            if reports:
                found[policy, judge] = report(policy, judge, data, ctx, policy in clones)
    return Study(rows, found)


def estimates(
    policies: Mapping[str, Mapping[str, PolicyData]],
    n_quarantined: Mapping[str, int] | None = None,
    flags: Mapping[str, Iterable[str]] | None = None,
    width: float = 0.2,
    confidence: float = 0.95,
    estimators: Iterable[str] | None = None,
    calibration: str = "isotonic",
) -> list[dict]:
    """Rows of estimates.json (see `study`); numbers are floats, ints or None, never NaN."""
    return study(policies, n_quarantined, flags, width, confidence, estimators, calibration, reports=False).rows
