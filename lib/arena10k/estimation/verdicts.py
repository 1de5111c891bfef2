"""Verdicts: REPORT, CAUTION or REFUSE for one estimate, with machine-readable reasons.

By inference, never by tolerance: an interval carries what the belief behind its estimate leaves open, a test refuses
what the data contradict, and what nothing tests is CAUTION at best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from arena10k.estimation import ESTIMATORS, Estimator, Score, beliefs, pareto, thresholds
from arena10k.estimation.beliefs import BiasLimits, label_residual
from arena10k.estimation.calibration import enough_labels
from arena10k.estimation.context import DOUBTFUL_DRAWS, LOGPROBS_ASKED, PolicyContext
from arena10k.estimation.intervals import EMPIRICAL_LIKELIHOOD, NO_INTERVAL, Interval, normal, score_interval
from arena10k.estimation.prepare import shared
from arena10k.estimation.thresholds import DOUBT, FEW_LABELS, HEAVY_KHAT, MAX_WIDTH, MIN_LABELS

REPORT, CAUTION, REFUSE = "REPORT", "CAUTION", "REFUSE"
#: Of what was not collected: no verdict, and counted nowhere.
NOT_ASKED = "NOT_ASKED"
#: Of a value that nothing estimates, such as that of a win rate against itself.
BY_DEFINITION = "BY_DEFINITION"
NO_VERDICT = (NOT_ASKED, BY_DEFINITION)
#: The reason of a number that no label puts on the oracle's scale: it is no policy value.
NOT_ON_ORACLE_SCALE = "not_on_oracle_scale"
#: A verdict and its reasons.
Verdict = tuple[str, list[str]]


def _worst(*verdicts: str) -> str:
    return max(verdicts, key=(REPORT, CAUTION, REFUSE).index)


def missing_inputs(ctx: PolicyContext, estimator: Estimator) -> list[str]:
    """Reasons why the estimator has nothing to compute from."""
    prep, fresh = ctx.prep, ctx.prep.fresh
    drawn, logged = len(fresh) > 0, len(prep.logged) > 0
    if not drawn and not logged:  # rows without a score are left out: of those nothing is known to lack
        return ["no_judge_scores"]
    checks = {
        "no_judge_scores": estimator.belief == "judge" and drawn and not fresh.has_score.any(),
        "no_log_weights": estimator.uses_weights and prep.n_weighted == 0,
        "no_fresh_draws": not drawn
        and (not estimator.uses_weights or estimator.doubly_robust)
        # The logging policy's logged responses are its own.
        and not (estimator.judge_scale and prep.is_logging and logged),
        "no_labels": (estimator.uses_target_labels and not fresh.labelled.any())
        or (estimator.label_residual and not prep.weighted_labels.any()),
    }
    return [reason for reason, absent in checks.items() if absent]


def _by_number(n: float, reason: str = "few_labels") -> Verdict:
    """By the number of labels, or of rows in effect, that an estimate rests on."""
    verdict = REFUSE if n < MIN_LABELS else CAUTION if n < FEW_LABELS else REPORT
    return verdict, [reason] * int(n < FEW_LABELS)


@shared
def _label_reasons(ctx: PolicyContext, belief: str, uses_target_labels: bool, label_residual: bool) -> Verdict:
    """From the labels: how many, how chosen, and whether they put the number on their scale."""
    prep = ctx.prep
    if uses_target_labels:
        rows, (verdict, reasons) = prep.fresh, _by_number(beliefs.label_clusters(prep))
    elif label_residual and prep.source is None:
        rows, (verdict, reasons) = prep.logged, _by_number(prep.weighted_labels.sum())
    elif prep.source is None:
        samples = (prep.logged, prep.fresh)
        lacking = [] if any(map(enough_labels, samples)) else ["few_labels"]
        lacking = lacking if any(rows.labelled.any() for rows in samples) else ["no_labels"]
        return CAUTION, [*lacking, NOT_ON_ORACLE_SCALE]
    else:
        rows = prep.sample(prep.source)
        few = bool(rows.labelled.sum() < FEW_LABELS)
        verdict, reasons = CAUTION if few else REPORT, ["few_labels"] * few
    has = rows.labelled > 0
    label, judge = rows.label[has], rows.judge[has]
    # Enough labels of one number, of responses between which the judge sees a difference. At an end of the scale that
    # is what rare failures or rare successes look like, and the interval carries the unseen one.
    if len(label) >= FEW_LABELS and 0 < label.min() == label.max() < 1 and np.ptp(judge) > 0:
        verdict, reasons = _worst(verdict, CAUTION), [*reasons, "constant_labels"]
    chances = rows.label_propensity
    if belief == "judge" and rows.labelling.kind == "declared" and np.nanmin(chances) < np.nanmax(chances):
        # f is trained on labels as they came: what their chances say of the others is in no residual of it.
        return REFUSE, [*reasons, "unequal_chances"]
    if rows.labelling.kind == "by_score":
        # Corrected by chances estimated from the score, on the belief that nothing else decided.
        return _worst(verdict, CAUTION), [*reasons, "labels_not_random"]
    return verdict, reasons


@shared
def _weight_reasons(ctx: PolicyContext, labelled: bool) -> Verdict:
    """Of what rests on the belief that weights are right; on those of the `labelled` rows where their residual is in
    the estimate or they train f."""
    if ctx.wrong_weights or ctx.audit.clip_dominated:
        return REFUSE, [*ctx.wrong_weights, *["clip_dominated"] * ctx.audit.clip_dominated]
    lw = ctx.rests_on(labelled)
    if not len(lw) or not np.isfinite(lw.max()):
        return REFUSE, ["few_weighted_labels"]
    w = np.exp(lw - lw.max())
    verdict, reasons = _by_number(float(w.sum() ** 2 / (w @ w)), "few_weighted_labels")
    if ctx.doubtful_weights:
        verdict, reasons = _worst(verdict, CAUTION), [*ctx.doubtful_weights, *reasons]
    # A tail to judge: few rows hold much of the weight.
    if 1 / ctx.prep.weight.sum() >= thresholds.NO_TAIL_SHARE or ctx.audit.ess <= thresholds.AMPLE_ESS * ctx.audit.n:
        shape = pareto.khat(lw)
        tail = ["khat_high"] if shape >= HEAVY_KHAT else []
        tail += ["khat_undefined"] if np.isnan(shape) and not ctx.audit.constant else []
        verdict, reasons = _worst(verdict, CAUTION) if tail else verdict, [*reasons, *tail]
    return verdict, reasons


def _judge_reasons(ctx: PolicyContext, estimator: Estimator, interval: Interval) -> Verdict:
    """Of what rests on the belief that the judge errs on the target as it does on P0."""
    status, labelled = ctx.transport.status, ctx.transport.n_labels >= MIN_LABELS
    if estimator.uses_weights and ctx.wrong_weights:
        return REFUSE, ctx.wrong_weights
    if status == "own":
        return REPORT, []
    if ctx.prep.source is None:
        return CAUTION, []
    if status == "failed":
        return REFUSE, ["transport_failed"]
    if not labelled and (ctx.wrong_weights or ctx.unseen):
        return REFUSE, [*ctx.wrong_weights, *["off_support"] * ctx.unseen]
    reasons = ["judge_shift_assumed" if interval.method == beliefs.ASSUMED else "transport_limited_by_labels"]
    if labelled or not ctx.effective_labels < min(FEW_LABELS, ctx.prep.sample(ctx.prep.source).labelled.sum() / 2):
        return CAUTION, reasons
    return (REFUSE if ctx.effective_labels < MIN_LABELS else CAUTION), [*reasons, "calibration_extrapolates"]


def accepted(row: Mapping[str, Any]) -> bool:
    """Whether a row of estimates.json is a policy value: known, or reported, if with caution, on the oracle's scale."""
    on_scale = NOT_ON_ORACLE_SCALE not in (row.get("reasons") or ())
    return row["verdict"] in (REPORT, CAUTION, BY_DEFINITION) and row["value"] is not None and on_scale


def width_of(row: Mapping[str, Any]) -> float:
    """Width of a row's interval; infinite where it has none."""
    return float("inf") if row.get("ci_low") is None else float(row["ci_high"] - row["ci_low"])


def _too_wide(ctx: PolicyContext, estimator: Estimator, interval: Interval) -> bool:
    """Whether the interval says nothing. Labels may speak where so many 0/1 ones promise less, before any is seen
    (Wilson 1927 at one half): not the luck of the draw decides that."""
    if interval.width <= MAX_WIDTH:
        return False
    n = ctx.transport.n_labels if ctx.prep.fresh.labelling.at_random else 0
    z = normal(ctx.analysis.confidence)
    return n == 0 or not (estimator.uses_target_labels and z / np.sqrt(n + z * z) <= MAX_WIDTH)


def verdict(ctx: PolicyContext, estimator: Estimator, value: float, interval: Interval) -> Verdict:
    """REPORT, CAUTION or REFUSE for one estimate, and why."""
    belief, by_weights = estimator.belief, estimator.belief == "weights"
    if estimator.judge_scale:
        # Where labels say what a score is worth, the raw mean is no value.
        result, reasons = CAUTION if ctx.prep.source is None else REFUSE, [NOT_ON_ORACLE_SCALE]
    else:
        result, reasons = _label_reasons(ctx, belief, estimator.uses_target_labels, estimator.label_residual)
    if belief != "labels" and not estimator.judge_scale:
        by_belief, more = (
            _weight_reasons(ctx, estimator.label_residual or ctx.prep.source == "logged")
            if by_weights
            else _judge_reasons(ctx, estimator, interval)
        )
        result, reasons = _worst(result, by_belief), [*more, *reasons]
    if estimator.biased:
        result, reasons = _worst(result, CAUTION), [*reasons, "projected_weights"]
    if doubts := [fact for fact in DOUBTFUL_DRAWS if fact in ctx.facts and fact not in reasons]:
        result, reasons = _worst(result, CAUTION), [*reasons, *doubts]
    if not math.isfinite(value):
        return REFUSE, [*reasons, "not_finite"]
    if not interval.low <= value <= interval.high:
        # Chance takes a sound estimate out of [0, 1]; what the weights allow it must not leave.
        sound = interval.method != EMPIRICAL_LIKELIHOOD or interval.low <= np.clip(value, 0, 1) <= interval.high
        result, reasons = _worst(result, CAUTION if sound else REFUSE), [*reasons, "value_outside_interval"]
    if by_weights and not ctx.is_logging:
        own = own_estimate(ctx)
        if own is not None and (interval.high < own["ci_low"] or interval.low > own["ci_high"]):
            result, reasons = REFUSE, [*reasons, "contradicts_labels"]
    if _too_wide(ctx, estimator, interval):
        return REFUSE, [*reasons, *["off_support"] * (by_weights and ctx.unseen), "interval_too_wide"]
    return result, reasons


@shared
def _bias_limits(ctx: PolicyContext) -> list[BiasLimits]:
    """What may be left open under the belief in the judge: the limits that labels give, and a stated budget where they
    are few and do not put the judge beyond it."""
    if ctx.transport.status == "own" or ctx.prep.source is None:
        return [BiasLimits(0.0, 0.0)]
    limits, budget, beyond = [], ctx.analysis.judge_shift, False
    if ctx.transport.n_labels >= MIN_LABELS:
        of_labels = label_residual(ctx.prep)[1]
        low, high = of_labels((1 + ctx.analysis.confidence) / 2)
        limits.append(BiasLimits(max(0.0, -low), max(0.0, high), labels=True))
        low, high = of_labels(DOUBT)
        beyond = ctx.transport.status == "failed" or low > budget or high < -budget
        beyond |= ctx.transport.n_labels >= FEW_LABELS or ctx.prep.source == "fresh"
    if not beyond:
        # Of what the log may not show, and of draws without a score, nothing is believed.
        unseen = 1 - ctx.mean_weight[0] if ctx.audit.n and not ctx.wrong_weights else 0.0
        unscored = 1 - ctx.prep.fresh.has_score.mean() if len(ctx.prep.fresh) else 0.0
        f, share = ctx.prep.fresh_oof if len(ctx.prep.fresh) else ctx.prep.reward_oof, max(0.0, unseen, unscored)
        limits.append(BiasLimits(share * float(f.max()) + budget, share * (1 - float(f.min())) + budget))
    return limits


def interval_of(ctx: PolicyContext, estimator: Estimator, score: Score) -> Interval:
    """The interval that carries what the belief behind the estimator leaves open."""
    confidence = ctx.analysis.confidence
    if estimator.judge_scale:
        return score_interval(ctx.prep, score, confidence)
    if estimator.belief == "labels":
        return beliefs.labelled_interval(ctx.prep, score, confidence)
    if estimator.label_residual:
        return beliefs.el_residual_interval(ctx.prep, score, confidence)
    if estimator.belief == "weights":
        return ctx.el
    return beliefs.transported_interval(ctx.prep, score, _bias_limits(ctx), confidence)


@shared
def judged(ctx: PolicyContext, estimator: Estimator) -> tuple[float, Interval, str, list[str]]:
    """Value, interval, verdict and reasons of one estimator; NOT_ASKED where what it takes was not collected."""
    missing = missing_inputs(ctx, estimator)
    if missing:
        failed = "no_log_weights" in missing and LOGPROBS_ASKED in ctx.facts and len(ctx.data.logged) > 0
        return float("nan"), NO_INTERVAL, REFUSE if failed else NOT_ASKED, missing
    score = estimator.score(ctx.prep)
    interval = interval_of(ctx, estimator, score)
    return score.value, interval, *verdict(ctx, estimator, score.value, interval)


def estimate_row(ctx: PolicyContext, estimator: Estimator, plan: bool = True) -> dict[str, Any]:
    """One estimator on one prepared policy: the row of estimates.json without policy and judge.

    `plan` False leaves `labels_needed` out, which takes longer than the rest together.
    """
    prep, needed, (value, interval, result, reasons) = ctx.prep, None, judged(ctx, estimator)
    if plan and result != NOT_ASKED and (result != REPORT or not interval.width <= ctx.analysis.width):
        needed = ctx.labels_needed
    row: dict[str, Any] = {
        "estimator": estimator.name,
        "value": value,
        "se": interval.se,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "verdict": result,
        "reasons": [*reasons],
        "n_used": prep.n_weighted if estimator.uses_weights else len(prep.fresh) or len(prep.logged),
        "mean_weight": ctx.audit.mean_weight,
        "ess": ctx.audit.ess if ctx.audit.n else None,
        "khat": ctx.audit.khat,
        "labels_needed": needed,
    }
    for key, x in row.items():
        if isinstance(x, float):
            row[key] = float(x) if math.isfinite(x) else None
    return row


@shared
def own_estimate(ctx: PolicyContext) -> dict[str, Any] | None:
    """The narrowest accepted estimate under the belief in labels alone, as a row; None where there is none."""
    rows = (estimate_row(ctx, e, plan=False) for e in ESTIMATORS.values() if e.belief == "labels")
    return min((r for r in rows if accepted(r)), key=width_of, default=None)
