"""The findings in words: a sentence per policy; the verdict of a run: answer, why, what to do; and what stands beside
it: how few rows decide, which pairs are in the wrong order, what the missing mass must be worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from arena10k.attribution.detection import FALSE_ALARM_RATE, TOLERANCE
from arena10k.attribution.game import CAUSE_WORDS, CAUSES
from arena10k.attribution.investigation import Finding, Investigation
from arena10k.attribution.weights import rank
from arena10k.wording import ESTIMATOR_WORDS, JUDGE_SNIPS, listed, number, percent, rounded, with_interval

_ORIGIN = {"ppi_pp": "labels on its own draws", "direct": "its own draws, judged and calibrated"}


def place(rank: int, n: int) -> str:
    """`first of 4`."""
    words = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
    return f"{words[rank - 1] if rank <= len(words) else f'number {rank}'} of {n}"


def _reasons(row: Mapping[str, Any]) -> list[str]:
    return [reason.replace("_", " ") for reason in row["reasons"]]


def trusted_words(row: Mapping[str, Any], confidence: float) -> str:
    """The trusted value with interval and origin, from its row (`Finding.trusted`)."""
    value = with_interval(row["value"], row["ci_low"], row["ci_high"], confidence).removesuffix(")")
    origin = _ORIGIN.get(row["estimator"], ESTIMATOR_WORDS.get(row["estimator"], row["estimator"]))
    cautious = row["verdict"] == "CAUTION" and row["reasons"]
    return f"{value}, from {origin}{', with caution: ' + ' and '.join(_reasons(row)) if cautious else ''})"


def cause_words(f: Finding) -> str:
    """The main cause in plain words, with the fact behind it."""
    if f.main_cause == "corrupted_logprobs":
        rows = f"{f.corrupted} logged rows" if f.corrupted != 1 else "one logged row"
        return (
            f"corrupted log-probabilities: {rows} with a number in place of a measurement carry "
            f"{percent(f.corrupted_share)} of the weight, so the number is about them, not the policy"
        )
    if f.main_cause == "clipping":
        return f"clipping of the log-weights at ±{f.clip:g}, which replaces what the heaviest rows say by a constant"
    if f.main_cause == "tail":
        return (
            f"the heavy tail of the weights: {number(f.published.audit.ess)} rows' worth of evidence decide the number"
        )
    if f.main_cause == "judge_bias":
        return f"the judge's bias: the judge gives the policy's own draws {rounded(f.own_draws)}"
    if f.main_cause == "weights_do_not_match_draws":
        return (
            f"weights that do not match the draws: the judge gives the policy's own draws {rounded(f.own_draws)}, "
            "which the weights do not explain; they are of another policy or another definition of it"
        )
    covered = f.mass.covered
    return (
        f"off-support mass: the weights average {number(covered)} instead of 1, so about {percent(1 - covered)} of "
        f"what this policy says is never seen in the log; self-normalising hides it by averaging scores of logged "
        f"responses alone (not normalised, the same weights give {rounded(covered * f.mass.on)})"
    )


def _contribution(f: Finding) -> str:
    j = CAUSES.index(f.main_cause)
    if not np.isfinite(f.parts[j]):
        return ""
    part = with_interval(f.parts[j], f.part_low[j], f.part_high[j], f.confidence)
    against = "what the judge gives its own draws" if f.trusted is None else "the trusted value"
    text = f" It contributes {part} to the gap of {rounded(f.gap)} between {JUDGE_SNIPS} and {against}"
    others = [i for i in range(len(CAUSES)) if i != j and abs(f.parts[i]) > 0.25 * abs(f.parts[j])]
    clear = sorted((i for i in others if f.part_low[i] > 0 or f.part_high[i] < 0), key=lambda i: -abs(f.parts[i]))
    also = listed([f"{CAUSE_WORDS[CAUSES[i]]} {f.parts[i]:+.2f}" for i in clear])
    return f"{text}; also {also}." if clear else f"{text}."


def needs(f: Finding) -> str:
    """What would settle the policy's value."""
    labels = f"{f.labels_needed:,} oracle labels" if f.labels_needed else "oracle labels"
    if not len(f.game.prep.fresh):
        return f"draws from {f.policy} itself, judged, and {labels} on them"
    there, draws = int(f.game.prep.fresh.labelled.sum()), len(f.game.prep.fresh)
    existing = f" in total, {there:,} existing ones included" if there else ""
    more = f", and more draws than the {draws:,} there are" if (f.labels_needed or 0) > draws else ""
    return f"{labels} on the policy's own draws{existing}{more}"


def _truth(f: Finding, inv: Investigation) -> str:
    if f.policy not in inv.truth:
        return ""
    value, se = inv.truth[f.policy]
    return f" Its true value, measured, is {value:.3f}" + (f" (standard error {se:.3f})." if np.isfinite(se) else ".")


def _ranked(f: Finding, inv: Investigation) -> str:
    return f"{f.policy} ranks {place(f.rank, len(inv.findings))} by {JUDGE_SNIPS}, at {rounded(f.published.value)}"


def _refused(f: Finding) -> str:
    """That the weights are refused. The verdict is that of SNIPS (calibrated), whose value is another."""
    if f.estimate["verdict"] != "REFUSE":
        return ""
    why = f": {listed(_reasons(f.estimate))}" if f.estimate["reasons"] else ""
    return f" Its weights are not accepted: {ESTIMATOR_WORDS['snips']} is refused{why}."


def _trusted_place(row: Mapping[str, Any], inv: Investigation) -> str:
    values = [g.trusted["value"] for g in inv.findings.values() if g.trusted is not None]
    if len(values) < 2:
        return ""
    at = rank(row["value"], values)
    return f", last of {len(values)}" if at == len(values) else f", {place(at, len(values))}"


def sentence(f: Finding, inv: Investigation) -> str:
    """What is known about one policy."""
    if not np.isfinite(f.published.value):
        return f"{f.policy} has no SNIPS value: no logged row carries a usable log-weight.{_truth(f, inv)}"
    start = _ranked(f, inv)
    if f.anomaly is None:
        return (
            f"{start}; whether that is right cannot be told without a trusted value, which takes {needs(f)}."
            f"{_refused(f)}{_truth(f, inv)}"
        )
    if f.anomaly:
        return " ".join(filter(None, anomaly_words(f, inv)))
    if f.policy == inv.logging_policy:
        start += "; it is the logging policy, so this is the plain mean of the judge's scores"
    elif len(f.game.prep.fresh):
        start += f"; the judge gives its own draws {rounded(f.own_draws)}"
    if f.trusted is None:
        return f"{start}. Its value on the oracle's scale takes {needs(f)}.{_refused(f)}{_truth(f, inv)}"
    start += f". Its trusted value is {trusted_words(f.trusted, f.confidence)}."
    if f.unsettled:
        start += f" The gap of {rounded(f.gap)} could be chance; it takes {needs(f)} to tell."
    return f"{start}{_refused(f)}{_truth(f, inv)}"


def anomaly_words(f: Finding, inv: Investigation) -> tuple[str, str]:
    """What is wrong about the number of a policy with an anomaly, and why; the latter empty where no cause is clear
    and none can be."""
    what, cause = _ranked(f, inv), ""
    if f.trusted is None:
        what += f". That cannot be right: the judge gives the policy's own draws {rounded(f.own_draws)}."
        if f.main_cause:
            cause = f"The main cause is {cause_words(f)}.{_contribution(f)}"
        cause = f"{cause} A value on the oracle's scale takes {needs(f)}.".strip()
        return f"{what}{_refused(f)}{_truth(f, inv)}", cause
    value = f"{trusted_words(f.trusted, f.confidence)}{_trusted_place(f.trusted, inv)}"
    what += f". Its trusted value is {value}.{_refused(f)}{_truth(f, inv)}"
    if f.main_cause:
        return what, f"The main cause is {cause_words(f)}.{_contribution(f)}"
    rest = f.parts[CAUSES.index("weights_do_not_match_draws")]
    beyond = f" {rounded(rest)} of it is more than missing mass explains." if abs(rest) > 0.5 * abs(f.gap) else ""
    return what, f"No single cause of the gap of {rounded(f.gap)} is clear from its noise.{beyond}"


def _advice(anomalies: list[Finding]) -> str:
    worst, steps = anomalies[0], []
    if any(f.main_cause == "corrupted_logprobs" for f in anomalies):
        steps.append("quarantine the corrupted rows and score them again")
    steps.append(f"leave {'this number' if len(anomalies) == 1 else 'these numbers'} out of every ranking")
    if worst.trusted is not None and worst.trusted["verdict"] == "REPORT":
        steps.append(f"use the trusted value of {worst.policy}")
    else:
        steps.append(f"collect {needs(worst)}")
    return f"What to do: {listed(steps)}."


def _best_trusted(findings: list[Finding]) -> str:
    trusted = {f.policy: f.trusted for f in findings if f.trusted is not None}
    if not trusted:
        return ""
    best = max(trusted, key=lambda policy: trusted[policy]["value"])
    return f"The highest trusted value is that of {best}: {trusted_words(trusted[best], findings[0].confidence)}."


def _unchecked(order: list[Finding]) -> str:
    unknown = [f.policy for f in order if f.anomaly is None]
    return f"Not checked for lack of draws of their own: {listed(unknown)}." if unknown else ""


def _unsettled(order: list[Finding]) -> str:
    open_ = [f"{f.policy} ({rounded(f.gap)})" for f in order if f.unsettled]
    return f"Not settled, as chance could explain the gap to the trusted value: {listed(open_)}." if open_ else ""


def _nothing_found(order: list[Finding], inv: Investigation) -> list[str]:
    if not any(f.anomaly is not None and f.policy != inv.logging_policy for f in order):
        return [f"Whether the ranking by {JUDGE_SNIPS} is right cannot be told.", _unchecked(order)]
    ordered = sum(f.trusted is not None for f in order) > 1 and not inv.detection.inversions
    order_too = ", and no order of two policies contradicts the trusted one beyond chance" if ordered else ""
    answer = (
        f"No anomaly is shown: no value of {JUDGE_SNIPS} differs from what the policy's own draws say by more than "
        f"{TOLERANCE:g} and chance{order_too} (a false alarm in at most {percent(FALSE_ALARM_RATE)} of such runs)."
    )
    refused = [f.policy for f in order if f.estimate["verdict"] == "REFUSE"]
    still = f"{ESTIMATOR_WORDS['snips']} is refused all the same for {listed(refused)}." if refused else ""
    return [answer, _unsettled(order), _best_trusted(order), still, _unchecked(order)]


def lead(inv: Investigation) -> list[str]:
    """The verdict of a run as paragraphs of plain text: the answer, why it is so, what to do, the ranking."""
    order = sorted(inv.findings.values(), key=lambda f: -np.nan_to_num(f.published.value, nan=-1))
    anomalies = sorted(inv.anomalies, key=lambda f: f is not inv.focus)
    if not anomalies:
        texts = _nothing_found(order, inv)
    else:
        others = [f"{f.policy} ({CAUSE_WORDS.get(f.main_cause or '', 'cause unclear')})" for f in anomalies[1:]]
        more = f"Found by the same tests: {listed(others)}." if others else ""
        texts = [*anomaly_words(anomalies[0], inv), more, _unsettled(order), _advice(anomalies), _unchecked(order)]
    ranking = listed([f"{f.policy} ({rounded(f.published.value)})" for f in order])
    return [text for text in (*texts, f"The ranking by {JUDGE_SNIPS} is {ranking}.") if text]


# Beside the verdict


def flip_sentence(inv: Investigation) -> str:
    """How few logged rows decide who is first."""
    if inv.flip is None:
        return f"No small set of logged rows decides which policy {JUDGE_SNIPS} ranks first."
    flip, n = inv.flip, len(next(iter(inv.findings.values())).game.prep.logged)
    dropping = f"Dropping {len(flip.rows) if len(flip.rows) > 1 else 'one'} of {n:,} judged rows"
    least = "" if flip.exact else "; no single row does, fewer than these might"
    return f"{dropping} puts {flip.rival} above {flip.winner} by {JUDGE_SNIPS}{least}."


def inversions_sentence(inv: Investigation) -> str:
    """How many pairs of policies are in the wrong order."""
    both = sum(f.trusted is not None and np.isfinite(f.published.value) for f in inv.findings.values())
    pairs, inverted = both * (both - 1) // 2, inv.detection.inversions
    if not pairs:
        return f"No two policies have both {JUDGE_SNIPS} and a trusted value, so no order can be checked."
    if not inverted:
        wrong = listed([f.policy for f in inv.anomalies])
        still = f"; the number of {wrong} is wrong all the same" if wrong else ""
        return f"None of the {pairs} pairs of policies is in the wrong order beyond chance{still}."
    above = listed(list(dict.fromkeys(i.above for i in inverted)))
    return (
        f"{len(inverted)} of the {pairs} pairs of policies are in the wrong order beyond chance, with {above} on top."
    )


def mass_sentence(inv: Investigation) -> str:
    """What the missing mass of the focus must be worth, and the part of the gap that it is given."""
    f = inv.focus
    if not np.isfinite(f.mass.on):
        return f"{f.policy} has no usable log-weight, so nothing is known of its mass."
    if f.game.mismatch:
        return f"The weights of {f.policy} do not match its draws, so they say nothing of its missing mass."
    if f.mass.covered >= 1:
        return (
            f"The weights of {f.policy} average at least 1: no mass is missing, and none of its gap is put down to it."
        )
    low, high = rounded(f.mass.low), rounded(f.mass.high)
    start = (
        f"The log holds {percent(f.mass.covered)} of what {f.policy} says, worth {rounded(f.mass.on)} on the oracle's "
        f"scale; the rest is worth something between 0 and 1, so by the weights its value lies between {low} and "
        f"{high}."
    )
    if f.trusted is None:
        return start
    worth = (
        f"For the trusted {rounded(f.trusted['value'])} the unseen responses would be worth {rounded(f.mass.off)}"
        + ("" if 0 <= f.mass.off <= 1 else ", which nothing is: missing mass alone does not explain the gap")
    )
    part = rounded(f.parts[CAUSES.index("off_support")])
    return f"{start} {worth}. Of the gap of {rounded(f.gap)}, {part} is put down to them."
