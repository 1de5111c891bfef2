"""What the reasons of a verdict mean, in words with the policy's own numbers."""

from __future__ import annotations

from arena10k.estimation.context import PolicyContext
from arena10k.estimation.scale import UNIT, Scale
from arena10k.estimation.thresholds import FEW_LABELS, HEAVY_KHAT, MAX_WIDTH, MISSING_SHARE
from arena10k.wording import number, percent

#: By reason, a sentence that may name what `sentence` puts in.
WORDS = {
    "no_log_weights": "No logged response has log-probs under the policy and the logging policy: there is no weight.",
    "mean_weight_impossible": "The raw weights average {mean}, above 1 by more than chance (p {p}): two real policies "
    "cannot do that, so log-probs are wrong.",
    "weights_do_not_match_draws": "Scores of the policy's own draws are not those that the weights foretell, nor "
    "explained by what the log does not show (p {match_p}): weights and draws are of two policies.",
    "off_support": "The raw weights average {mean} ({mean_low} to {mean_high}), below 1: the log does not show "
    "{missing} of what the policy says, and no weighting brings it back.",
    "khat_high": "The tail of the weights is too heavy for a mean to settle (k-hat of all {n:,} {khat}; at least "
    "{max_khat:g} for the rows that the estimate rests on).",
    "khat_undefined": "How heavy the tail of the weights is cannot be said: {tied:,} of {n:,} rows share the largest "
    "weight.",
    "few_weighted_labels": "Few rows decide: the weighted rows that the estimate rests on, of {n:,} with a weight and "
    "{logged:,} with a label, have an effective size below {few}.",
    "clip_dominated": "{tied:,} rows are tied at the largest weight and decide the number: it is their mean.",
    "temperature_mismatch": "Responses were drawn at another temperature than their log-probs were measured at: the "
    "weights are of another distribution.",
    "sampler_mismatch": "Responses were drawn by a sampler of the endpoint's own, and log-probs are of the full "
    "distribution: the weights, and the policy that is valued, are of another distribution.",
    "sampler_not_settled": "Nothing shows that the endpoint draws from the distribution whose log-probs it reports: "
    "its answers hold no, or too few, candidates per token (`capabilities.top_logprobs`).",
    "logprobs_not_summed": "Log-probs do not fall with the length of a response and are near 0: they are means per "
    "token, and a weight takes the sum.",
    "no_length_relation": "Log-probs do not fall with the length of a response: they may be those of other rows.",
    "logprobs_may_be_means": "Log-probs are near 0 and the lengths of the responses are not known: they may be means "
    "per token, and a weight takes the sum.",
    "no_agreement": "Log-probs have nothing to do with the logging policy's of the same responses, length apart: they "
    "are those of other rows.",
    "likelier_than_p0": "The logged responses are likelier under the policy than under the logging policy by more than "
    "chance: the logging policy did not write them, or the two are swapped.",
    "projected_weights": "Weights that are calibrated on the judge's score pull the value towards the logging policy's "
    "mean.",
    "contradicts_labels": "The interval has nothing in common with that of the {labels} labels on the policy's own "
    "draws.",
    "value_outside_interval": "The value lies outside of its own interval: outside of {ends}, or of what the "
    "weights allow.",
    "no_judge_scores": "No response has a judge score.",
    "no_fresh_draws": "The policy has no responses of its own with a judge score.",
    "no_labels": "None of the responses that this estimate could use has an oracle label.",
    "not_on_oracle_scale": "The number is on the judge's scale; what that is worth to the oracle is not known.",
    "few_labels": "Labels are few: {labels} on the policy's own draws, {trained} to train the calibration on ({few} "
    "are wanted of each).",
    "constant_labels": "All labels are one number, of responses that the judge scores differently.",
    "unequal_chances": "Labels were chosen with unequal chances, and the calibration is trained on them as they came.",
    "responses_missing": "More than {missing_share:.0%} of the responses that were asked for gave none (page 02 says "
    "why): the value is that of the others.",
    "labels_not_random": "Labels were chosen by the judge's score. They are corrected for that, as if nothing else "
    "decided.",
    "transport_failed": "The calibration learned on logged responses is off by {residual} ({low} to {high}) on "
    "{evidence}: the judge errs differently there.",
    "transport_limited_by_labels": "Whether the calibration carries over is known from {labels} labels: it may be off "
    "by {low} to {high}, which is in the interval.",
    "judge_shift_assumed": "The interval assumes that the judge is off by at most {shift:g} more on the policy's own "
    "draws than on logged responses: no label is of them, or too few to say how far it is off.",
    "calibration_extrapolates": "Where the policy's own draws score, the calibration rests on {effective} labels' "
    "worth of evidence: it is extrapolated.",
    "not_finite": "The estimate is not a finite number.",
    "interval_too_wide": "The interval is wider than {max_width:g}: it says nothing.",
}

#: What a transport test was made on.
EVIDENCE = {"target_labels": "the policy's own draws", "weights": "labelled logged responses, re-weighted"}


def sentence(reason: str, ctx: PolicyContext, scale: Scale = UNIT) -> str:
    """The words for one reason, numbers on the label's `scale`; its name where there are none."""
    audit, transport, prep = ctx.audit, ctx.transport, ctx.prep
    return WORDS.get(reason, reason.replace("_", " ") + ".").format(
        mean=number(audit.mean_weight),
        mean_low=number(ctx.mean_weight[0]),
        mean_high=number(ctx.mean_weight[1]),
        p=number(ctx.mean_weight_p),
        match_p=number(ctx.match_p),
        missing=percent(min(ctx.missing_mass, 1 - 1e-15)),
        n=audit.n,
        khat=number(audit.khat),
        max_khat=HEAVY_KHAT,
        tied=audit.ceiling,
        labels=transport.n_labels,
        logged=int(prep.weighted_labels.sum()),
        evidence=EVIDENCE.get(transport.evidence, transport.evidence),
        few=FEW_LABELS,
        effective=number(ctx.effective_labels),
        trained=int(prep.sample(prep.source or "logged").labelled.sum()),
        residual=f"{scale.size * transport.residual:+.3f}",
        low=f"{scale.size * transport.low:+.3f}",
        high=f"{scale.size * transport.high:+.3f}",
        shift=scale.size * ctx.analysis.judge_shift,
        max_width=scale.size * MAX_WIDTH,
        missing_share=MISSING_SHARE,
        ends=f"[{scale.low:g}, {scale.high:g}]",
    )
