"""The verdict of a run: the answer first, then why, then what to do."""

from __future__ import annotations

import numpy as np

from arena10k.attribution.detection import FALSE_ALARM_RATE, TOLERANCE
from arena10k.attribution.game import CAUSE_WORDS
from arena10k.attribution.investigation import Finding, Investigation
from arena10k.attribution.words import anomaly_words, figure3, listed, needs, trusted_words


def _advice(found: list[Finding]) -> str:
    worst = found[0]
    steps = []
    if any(f.main_cause == "corrupted_logprobs" for f in found):
        steps.append("set the corrupted rows aside and score them again")
    steps.append(
        "leave the SNIPS value out of every ranking"
        if len(found) == 1
        else "leave these SNIPS values out of every ranking"
    )
    if worst.trusted is not None and worst.trusted["verdict"] == "REPORT":
        steps.append(f"use the trusted value of {worst.policy}")
    else:
        steps.append(f"collect {needs(worst)}")
    return f"What to do: {listed(steps)}."


def _best_trusted(findings: list[Finding]) -> str:
    known = {f.policy: f.trusted for f in findings if f.trusted is not None}
    if not known:
        return ""
    best = max(known, key=lambda policy: known[policy]["value"])
    return f"The highest trusted value is that of {best}: {trusted_words(known[best], findings[0].confidence)}."


def _published(order: list[Finding]) -> str:
    ranking = listed([f"{f.policy} ({figure3(f.published.value)})" for f in order])
    return f"The published ranking, by SNIPS on judge scores, is {ranking}."


def _unchecked(order: list[Finding]) -> str:
    unknown = [f.policy for f in order if f.anomaly is None]
    return f"Not checked for lack of draws of their own: {listed(unknown)}." if unknown else ""


def _nothing_found(order: list[Finding], inv: Investigation) -> list[str]:
    if not any(f.anomaly is not None and f.policy != inv.logging_policy for f in order):
        return [f"Whether the published ranking is right cannot be told. {_unchecked(order)}".strip()]
    ordered = sum(f.trusted is not None for f in order) > 1 and not inv.detection.inversions
    order_too = ", and no published order contradicts the trusted one beyond chance" if ordered else ""
    answer = (
        f"No anomaly: no published number differs from what the policy's own draws say by more than {TOLERANCE:g} and "
        f"chance{order_too} (a false alarm in at most {100 * FALSE_ALARM_RATE:.0f} % of such runs)."
    )
    refused = [f.policy for f in order if f.estimate["verdict"] == "REFUSE"]
    still = (
        f"The weight-based value of {listed(refused)} is refused all the same, as the log cannot support it."
        if refused
        else ""
    )
    return [answer, _best_trusted(order), still, _unchecked(order)]


def lead(inv: Investigation) -> list[str]:
    """The verdict of a run as paragraphs of plain text: the answer, why it is so, what to do, the published ranking."""
    order = sorted(inv.findings.values(), key=lambda f: -np.nan_to_num(f.published.value, nan=-1))
    found = inv.anomalies
    if not found:
        told = _nothing_found(order, inv)
    else:
        rest = [f"{f.policy} ({CAUSE_WORDS[f.main_cause] if f.main_cause else 'cause unclear'})" for f in found[1:]]
        more = f"The same test also rejects the published numbers of {listed(rest)}." if rest else ""
        told = [*anomaly_words(found[0], inv), more, _advice(found), _unchecked(order)]
    return [text for text in (*told, _published(order)) if text]


def verdict_paragraph(inv: Investigation) -> str:
    """The paragraphs of `lead` as one."""
    return " ".join(lead(inv))
