"""Verdicts: REPORT, CAUTION or REFUSE for one estimate, with machine-readable reasons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from arena10k.estimators import Estimator, PolicyData, Prepared, Score, prepare
from arena10k.estimators.calibration import enough_labels
from arena10k.statistics import diagnostics, planning
from arena10k.statistics.diagnostics import MIN_TARGET_LABELS, Transport, transport
from arena10k.statistics.intervals import (
    EMPIRICAL_LIKELIHOOD,
    MAX_WIDTH,
    Interval,
    WeightAudit,
    audit_weights,
    el_score_interval,
    score_interval,
)

REPORT, CAUTION, REFUSE = "REPORT", "CAUTION", "REFUSE"
NOT_ASKED = "NOT_ASKED"
FEW_LABELS = 20
IMPOSSIBLE = 0.01
#: The reason of a number that no label puts on the oracle's scale: it is no policy value.
NOT_ON_ORACLE_SCALE = "not_on_oracle_scale"


@dataclass(frozen=True, eq=False)
class PolicyContext:
    """What the verdicts of one policy and judge mode share."""

    prep: Prepared
    audit: WeightAudit
    mean_weight_p: float
    transport: Transport
    el: Interval
    pilot: planning.Pilot
    effective_labels: float
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
    flags = frozenset(flags)
    return PolicyContext(
        prep,
        audit,
        diagnostics.mean_weight_p_value(lw, cluster),
        transport(prep, audit, width, confidence, weights_hold=not _mismatched(prep, flags)),
        el_score_interval(prep, confidence, w_max),
        planning.pilot(prep),
        diagnostics.effective_labels(prep),
        flags,
        width,
        confidence,
    )


def _mismatched(prep: Prepared, flags: frozenset[str]) -> bool:
    """Whether the weights are of another distribution than the one that was sampled; P0's own are 1 whatever it is."""
    return "temperature_mismatch" in flags and not prep.is_logging


def _worst(*verdicts: str) -> str:
    return max(verdicts, key=(REPORT, CAUTION, REFUSE).index)


def missing_inputs(ctx: PolicyContext, estimator: Estimator) -> list[str]:
    """Reasons why the estimator has nothing to compute from."""
    prep = ctx.prep
    checks = {
        "no_judge_scores": not len(prep.fresh) + len(prep.logged),
        "no_log_weights": estimator.uses_weights and prep.n_weighted == 0,
        "no_fresh_draws": (not estimator.uses_weights or estimator.doubly_robust)
        and len(prep.fresh) == 0
        # The logging policy's logged responses are its own.
        and not (estimator.judge_scale and prep.is_logging and len(prep.logged)),
        "no_labels": (estimator.uses_target_labels and not prep.fresh.labelled.any())
        or (estimator.name == "dr_oracle" and not (prep.logged.labelled * prep.has_weight).any()),
    }
    return [reason for reason, absent in checks.items() if absent]


def _extrapolates(ctx: PolicyContext) -> bool:
    """Whether f rests on few labels where the target's draws score, though there are more elsewhere."""
    prep = ctx.prep
    if prep.source is None:
        return False
    return bool(ctx.effective_labels < min(FEW_LABELS, prep.sample(prep.source).labelled.sum() / 2))


def _by_labels(n: int) -> tuple[str, list[str]]:
    """Verdict and reasons of an estimate that labels themselves put on the oracle's scale, by their number."""
    verdict = REFUSE if n < MIN_TARGET_LABELS else CAUTION if n < FEW_LABELS else REPORT
    return verdict, ["few_labels"] * (n < FEW_LABELS)


def _lacking_labels(ctx: PolicyContext) -> list[str]:
    """Why nothing calibrates the judge, where it is for lack of labels."""
    logged, fresh = ctx.prep.logged, ctx.prep.fresh
    if not (logged.labelled.any() or fresh.labelled.any()):
        return ["no_labels"]
    enough = any(enough_labels(rows.label, rows.fold) for rows in (logged, fresh))
    return [] if enough else ["few_labels"]


def _judge_reasons(ctx: PolicyContext, estimator: Estimator) -> tuple[str, list[str]]:
    """Verdict and reasons from scale, calibration and transport."""
    if estimator.judge_scale:
        return CAUTION, [NOT_ON_ORACLE_SCALE]
    if estimator.uses_target_labels:
        return _by_labels(ctx.transport.n_labels)
    if ctx.prep.source is None and estimator.name == "dr_oracle":
        return _by_labels(int((ctx.prep.logged.labelled * ctx.prep.has_weight).sum()))
    if ctx.prep.source is None:
        return CAUTION, [*_lacking_labels(ctx), NOT_ON_ORACLE_SCALE]
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
    reasons = [*reasons, "weak_transport_evidence" if status == "weak" else "no_transport_evidence"]
    if not _extrapolates(ctx):
        return CAUTION, reasons
    handful = ctx.effective_labels < MIN_TARGET_LABELS
    return (REFUSE if handful else CAUTION), [*reasons, "calibration_extrapolates"]


def _weight_reasons(ctx: PolicyContext, estimator: Estimator) -> tuple[str, list[str]]:
    """Verdict and reasons from the log-weights."""
    if not estimator.uses_weights:
        return REPORT, []
    reasons = list(ctx.audit.failures)
    if _mismatched(ctx.prep, ctx.flags):
        return REFUSE, ["temperature_mismatch", *reasons]
    if ctx.mean_weight_p < IMPOSSIBLE:
        # E[w] = 1 is what every interval here rests on; significantly more cannot come from two real policies.
        return REFUSE, ["mean_weight_impossible", *reasons]
    if not reasons:
        return REPORT, []
    if estimator.doubly_robust:
        one_leg = estimator.name != "dr_oracle" and ctx.transport.status in ("passed", "own")
        return (CAUTION if one_leg else REFUSE), reasons
    return (REFUSE if ctx.audit.clip_dominated else CAUTION), reasons


def stands(row: Mapping[str, Any]) -> bool:
    """Whether a row of estimates.json is a policy value: not refused, and on the oracle's scale."""
    return (
        row["verdict"] != REFUSE and row["value"] is not None and NOT_ON_ORACLE_SCALE not in (row.get("reasons") or ())
    )


def verdict(ctx: PolicyContext, estimator: Estimator, value: float, interval: Interval) -> tuple[str, list[str]]:
    """REPORT, CAUTION or REFUSE for one estimate, and why."""
    missing = missing_inputs(ctx, estimator)
    if missing:
        return REFUSE, missing
    by_weight, reasons = _weight_reasons(ctx, estimator)
    by_judge, more = _judge_reasons(ctx, estimator)
    result, reasons = _worst(by_weight, by_judge), [*reasons, *more]
    if not np.isfinite(value):
        return REFUSE, [*reasons, "not_finite"]
    if value < interval.low or value > interval.high:
        # Chance takes a sound estimate out of [0, 1]; what the weights allow it must not leave.
        outside = REFUSE if interval.method == EMPIRICAL_LIKELIHOOD else CAUTION
        result, reasons = _worst(result, outside), [*reasons, "value_outside_interval"]
    if not interval.width <= MAX_WIDTH:
        return REFUSE, [*reasons, "interval_too_wide"]
    return result, reasons


def interval_of(ctx: PolicyContext, estimator: Estimator, score: Score) -> Interval:
    """The composite interval for estimators that only re-weight (EL unless the weights are healthy), else the
    jackknife."""
    if estimator.uses_weights and not estimator.doubly_robust and not ctx.audit.healthy:
        return ctx.el
    return score_interval(ctx.prep, score, ctx.confidence)
