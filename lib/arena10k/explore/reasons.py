"""What the reasons of a verdict mean, in words with the policy's own numbers."""

from __future__ import annotations

from arena10k.statistics.context import PolicyContext
from arena10k.statistics.evaluate import PolicyReport
from arena10k.statistics.thresholds import FEW_LABELS, MAX_KHAT, MAX_WIDTH, MEAN_WEIGHT_RANGE, MIN_ESS_FRACTION
from arena10k.wording import number, percent

#: By reason, a sentence that may name: `mean` (of the raw weights), `p`, `ess` and `n` (rows), `share` (ESS of rows),
#: `khat`, `tied`, `labels` (on the policy's own draws), `evidence` (of transport), `residual`, `low`,
#: `high` (transport), `trained` (labels that train the calibration), `effective` (of those, where its own draws score).
WORDS = {
    "no_log_weights": "No logged response has log-probs under the policy and the logging policy: there is no weight.",
    "mean_weight_out_of_range": "The raw weights average {mean}; a log that represents the policy gives 1 "
    "({range_low:g} to {range_high:g} is accepted).",
    "mean_weight_impossible": "The raw weights average {mean}, above 1 by more than chance (p {p}): two real policies "
    "cannot do that, so log-probs are wrong.",
    "off_support": "By its {n:,} weights the log does not show {missing} of what the policy says; no weighting brings "
    "it back.",
    "low_ess": "The weights rest on {ess} of {n:,} rows' worth of evidence ({share}; {min_ess:.0%} is wanted).",
    "khat_high": "The tail of the weights is too heavy for a mean to settle (k-hat {khat}, at least {max_khat:g}).",
    "khat_undefined": "How heavy the tail of the weights is cannot be said: {tied:,} of {n:,} rows share the largest "
    "weight.",
    "clip_dominated": "{tied:,} rows are tied at the largest weight and decide the number: it is their mean.",
    "temperature_mismatch": "Responses were drawn at another temperature than their log-probs were measured at: the "
    "weights are of another distribution.",
    "logprobs_not_summed": "Log-probs do not fall with the length of a response and are near 0: they are means per "
    "token, and a weight takes the sum.",
    "no_length_relation": "Log-probs do not fall with the length of a response: they may be those of other rows.",
    "no_agreement": "Log-probs have nothing to do with the logging policy's of the same responses, length apart: they "
    "are those of other rows.",
    "likelier_than_p0": "The logged responses are likelier under the policy than under the logging policy by more than "
    "chance: the logging policy did not write them, or the two are swapped.",
    "constant_labels": "All labels are one number, of responses that the judge scores differently.",
    "value_outside_interval": "The value lies outside of its own interval: outside of [0, 1], or of what the "
    "weights allow.",
    "no_judge_scores": "No response has a judge score.",
    "no_fresh_draws": "The policy has no responses of its own with a judge score.",
    "no_labels": "No oracle label is of a response that this estimate could use.",
    "not_on_oracle_scale": "The number is on the judge's scale; what that is worth to the oracle is not known.",
    "few_labels": "Labels are few: {labels} on the policy's own draws, {trained} to train the calibration on ({few} "
    "are wanted of each).",
    "transport_failed": "The calibration learned on logged responses is off by {residual} ({low} to {high}) on "
    "{evidence}: the judge errs differently there.",
    "weak_transport_evidence": "Whether the calibration carries over is not settled by {evidence}: it may be off by "
    "{low} to {high}.",
    "no_transport_evidence": "Nothing tests whether the calibration carries over to the policy's own draws.",
    "calibration_extrapolates": "Where the policy's own draws score, the calibration rests on {effective} labels' "
    "worth of evidence: it is extrapolated.",
    "not_finite": "The estimate is not a finite number.",
    "interval_too_wide": "The interval is wider than {max_width:g}: it says nothing.",
}

#: What a transport test was made on.
EVIDENCE = {"target_labels": "the policy's own draws", "weights": "labelled logged responses, re-weighted"}


def sentence(reason: str, ctx: PolicyContext, report: PolicyReport) -> str:
    """The words for one reason; its name where there are none."""
    audit, transport, prep = report.audit, report.transport, ctx.prep
    trained = int(prep.sample(prep.source or "logged").labelled.sum())
    return WORDS.get(reason, reason.replace("_", " ") + ".").format(
        mean=number(audit.mean_weight),
        range_low=MEAN_WEIGHT_RANGE[0],
        range_high=MEAN_WEIGHT_RANGE[1],
        p=number(report.mean_weight_p),
        missing=percent(min(report.missing_mass, 1 - 1e-15)),
        ess=number(audit.ess),
        n=audit.n,
        share=percent(audit.ess / audit.n) if audit.n else "none",
        min_ess=MIN_ESS_FRACTION,
        khat=number(audit.khat),
        max_khat=MAX_KHAT,
        tied=audit.ceiling,
        labels=transport.n_labels,
        evidence=EVIDENCE.get(transport.evidence, transport.evidence),
        few=FEW_LABELS,
        effective=number(report.effective_labels),
        trained=trained,
        residual=f"{transport.residual:+.3f}",
        low=f"{transport.low:+.3f}",
        high=f"{transport.high:+.3f}",
        max_width=MAX_WIDTH,
    )
