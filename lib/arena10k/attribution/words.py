"""The findings in words: numbers as sentences write them, and a sentence per policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from arena10k.attribution.game import CAUSE_WORDS, CAUSES
from arena10k.attribution.investigation import Finding, Investigation
from arena10k.wording import number

_ESTIMATOR = {"ppi_pp": "labels on its own draws", "direct": "its own draws, judged and calibrated"}


def figure(value: float) -> str:
    """A value in a sentence: two decimals near one, three digits for weights far from it."""
    if not np.isfinite(value):
        return "unknown"
    size = abs(value)
    if size >= 1e4 or 0 < size < 1e-3:
        return number(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.2g}" if size < 0.095 else f"{value:.2f}"


def share_words(x: float) -> str:
    """A share in per cent, never rounded to all or nothing."""
    if x in (0, 1):
        return f"{100 * x:.0f} %"
    if 0 < x < 0.001:
        return "under 0.1 %"
    if 0.999 < x < 1:
        return "over 99.9 %"
    return f"{100 * x:.1f} %" if x < 0.1 or x > 0.9 else f"{100 * x:.0f} %"


def place(rank: int, n: int) -> str:
    """`first of 4`."""
    words = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
    return f"{words[rank - 1] if rank <= len(words) else f'number {rank}'} of {n}"


def level(confidence: float) -> str:
    """`95 %`."""
    return f"{100 * confidence:g} %"


def listed(names: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1] if names else "")))


def trusted_words(row: Mapping[str, Any], confidence: float) -> str:
    """The trusted value with interval and origin, from its row (`Finding.trusted`)."""
    origin = _ESTIMATOR[row["estimator"]]
    caution = ", with caution: " + " and ".join(r.replace("_", " ") for r in row["reasons"]) if row["reasons"] else ""
    return (
        f"{row['value']:.3f} ({level(confidence)} interval {row['ci_low']:.3f} to {row['ci_high']:.3f}, from {origin}"
        f"{caution if row['verdict'] == 'CAUTION' else ''})"
    )


def cause_words(f: Finding) -> str:
    """The main cause in plain words, with the fact behind it."""
    mean = f.estimate["mean_weight"]
    if f.main_cause == "corrupted_logprobs":
        rows = f"{f.corrupted} logged rows" if f.corrupted != 1 else "one logged row"
        return (
            f"corrupted log-probabilities: {rows} with a number in place of a measurement carry "
            f"{share_words(f.corrupted_share)} of the weight, so the published number is about them, not the policy"
        )
    if f.main_cause == "clipping":
        return f"clipping of the log-weights at ±{f.clip:g}, which replaces what the heaviest rows say by a constant"
    if f.main_cause == "tail":
        return (
            f"the heavy tail of the weights: {figure(f.published.audit.ess)} rows' worth of evidence decide the number"
        )
    if f.main_cause == "judge_bias":
        return "the judge's bias: on the oracle's scale the same responses are worth something else"
    if mean is not None and mean < 0.8:
        return (
            f"off-support mass: the weights average {figure(mean)} instead of 1, so about {share_words(1 - mean)} of "
            f"what this policy says is never seen in the log; self-normalising hides it by averaging rewards of logged "
            f"responses alone (unnormalised, the same weights give {figure(mean * f.mass.on)})"
        )
    return (
        f"off-support mass: the judge gives the policy's own draws {figure(own_draws(f))}, which no weighting of the "
        f"logged responses reproduces (mean weight {'unknown' if mean is None else figure(mean)})"
    )


def _contribution(f: Finding) -> str:
    j = CAUSES.index(f.main_cause)
    if not np.isfinite(f.parts[j]):
        return ""
    span = f"{level(f.confidence)} interval {f.part_low[j]:.2f} to {f.part_high[j]:.2f}"
    text = f" It contributes {f.parts[j]:.2f} ({span}) to the gap of {f.gap:.2f} between published and trusted"
    others = [i for i in range(len(CAUSES)) if i != j and abs(f.parts[i]) > 0.25 * abs(f.parts[j])]
    clear = [i for i in others if f.part_low[i] > 0 or f.part_high[i] < 0]
    if clear:
        told = [f"{CAUSE_WORDS[CAUSES[i]]} {f.parts[i]:+.2f}" for i in sorted(clear, key=lambda i: -abs(f.parts[i]))]
        text += f"; also {listed(told)}"
    return text + "."


def needs(f: Finding) -> str:
    """What would settle the policy's value."""
    labels = f"{f.labels_needed:,} oracle labels" if f.labels_needed else "oracle labels"
    if not len(f.game.prep.fresh):
        return f"draws from {f.policy} itself, judged, and {labels} on them"
    there, draws = int(f.game.prep.fresh.labelled.sum()), len(f.game.prep.fresh)
    told = f"{labels} on the policy's own draws" + (f" in all, where {there:,} are" if there else "")
    return told + (f", and more draws than the {draws:,} there are" if (f.labels_needed or 0) > draws else "")


def _truth(f: Finding, inv: Investigation) -> str:
    if f.policy not in inv.truth:
        return ""
    value, se = inv.truth[f.policy]
    return f" Its true value, measured, is {value:.3f}" + (f" (standard error {se:.3f})." if np.isfinite(se) else ".")


def _ranked(f: Finding, inv: Investigation) -> str:
    return f"{f.policy} ranks {place(f.rank, len(inv.findings))} by SNIPS on judge scores, at {f.published.value:.3f}"


def _refused(f: Finding) -> str:
    return " (verdict REFUSE)" if f.estimate["verdict"] == "REFUSE" else ""


def _trusted_place(row: Mapping[str, Any], inv: Investigation) -> str:
    known = [g.trusted["value"] for g in inv.findings.values() if g.trusted is not None]
    if len(known) < 2:
        return ""
    rank = 1 + sum(value > row["value"] for value in known)
    return f", last of {len(known)}" if rank == len(known) else f", {place(rank, len(known))}"


def sentence(f: Finding, inv: Investigation) -> str:
    """What is known about one policy."""
    if not np.isfinite(f.published.value):
        return f"{f.policy} has no SNIPS value: no logged row carries a usable log-weight.{_truth(f, inv)}"
    start, verdict = _ranked(f, inv), _refused(f)
    if f.anomaly is None:
        return (
            f"{start}{verdict}; whether that is right cannot be told without a trusted value, which takes {needs(f)}."
            f"{_truth(f, inv)}"
        )
    if f.anomaly:
        return " ".join(filter(None, anomaly_words(f, inv)))
    if f.policy == inv.logging_policy:
        agrees = "; it is the logging policy, so this is the plain mean of the judge's scores"
    else:
        agrees = f"{verdict}, and its own draws do not contradict that: the judge gives them {own_draws(f):.3f}"
    if f.trusted is None:
        return f"{start}{agrees}. Its value on the oracle's scale takes {needs(f)}.{_truth(f, inv)}"
    return (
        f"{start}{agrees}. On the oracle's scale its value is {trusted_words(f.trusted, f.confidence)}.{_truth(f, inv)}"
    )


def own_draws(f: Finding) -> float:
    """The judge's mean score of the policy's own draws; NaN where there is none."""
    return float(f.game.prep.fresh.judge.mean()) if len(f.game.prep.fresh) else float("nan")


def anomaly_words(f: Finding, inv: Investigation) -> tuple[str, str]:
    """What is wrong about the number of a policy with an anomaly, and why; the latter empty where no cause is clear
    and none can be."""
    what, cause = f"{_ranked(f, inv)}{_refused(f)}", ""
    if f.trusted is None:
        what += f". That cannot be right: the judge gives the policy's own draws {own_draws(f):.3f}."
        if f.main_cause:
            cause = f"The main cause is {cause_words(f)}."
        return f"{what}{_truth(f, inv)}", f"{cause} A value on the oracle's scale takes {needs(f)}.".strip()
    value = f"{trusted_words(f.trusted, f.confidence)}{_trusted_place(f.trusted, inv)}"
    what += f". Its trusted value is {value}.{_truth(f, inv)}"
    if f.main_cause is None:
        return what, f"No single cause of the gap of {f.gap:.2f} stands out from its noise."
    return what, f"The main cause is {cause_words(f)}.{_contribution(f)}"


def figure3(value: float) -> str:
    """Three decimals, or the word for a missing value."""
    return f"{value:.3f}" if np.isfinite(value) else "no value"
