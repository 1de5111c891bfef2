"""What the words of the pages mean: the first of each on a page explains itself where it is pointed at, focused or
tapped."""

from __future__ import annotations

import re
from html import escape

#: By term, of which a plural with -s is one, too.
TERMS = {
    "SNIPS": "Self-normalised importance sampling: the mean of logged scores, weighted by how much more often the "
    "policy would have given each response.",
    "PPI++": "Prediction-powered inference: the judge's mean over the policy's own draws, corrected by the oracle "
    "labels of some of them.",
    "ESS": "Effective sample size: how many equally weighted rows would be as informative as these.",
    "effective sample size": "How many equally weighted rows would be as informative as these.",
    "importance weight": "How much more often the policy would give a response than the logging policy did.",
    "log-weight": "The natural logarithm of an importance weight; 0 where both policies are equally likely to say it.",
    "mean weight": "The mean importance weight; 1 where the logged responses represent the policy.",
    "log-prob": "The natural logarithm of the probability a policy gives a response.",
    "nat": "The unit of natural logarithms: one nat is a factor of 2.72.",
    "oracle": "What gives the labels that count as true: a person, a test or a stronger model.",
    "label": "The oracle's answer on one response.",
    "judge": "A model that scores every response, cheaply and not always rightly.",
    "calibration": "The fitted curve from the judge's score to the expected oracle label.",
    "transport": "Whether a calibration learnt on logged responses also fits those of another policy.",
    "draw": "One response a policy gave to one prompt.",
    "logging policy": "The policy whose responses were logged and re-weighted for all others.",
    "teacher forcing": "Scoring a given response token by token under a policy instead of letting it write one.",
    "quarantined": "Set aside with a reason; neither deleted nor used.",
    "AUC": "The chance that the judge scores a good response above a bad one; 0.5 is guessing.",
    "RMSE": "Root mean squared error: the typical distance from the truth.",
    "k-hat": "The fitted tail index of the weights; from about 0.5 a few rows decide the result.",
    "Shapley value": "The part of a gap that is due to one cause, averaged over all orders of repairing them.",
}
_ANY = re.compile(
    rf"(?<![\w/-])({'|'.join(map(re.escape, sorted(TERMS, key=len, reverse=True)))})(s?)(?![\w-])", re.IGNORECASE
)
_BY_LOWER = {term.lower(): term for term in TERMS}


def explained(text: str, seen: set[str]) -> str:
    """Plain text as HTML in which each term that is not `seen` yet carries its meaning; it is, from then on."""
    parts, at = [], 0
    for match in _ANY.finditer(text):
        term = _BY_LOWER[match[1].lower()]
        if term not in seen:
            seen.add(term)
            parts += [escape(text[at : match.start()], quote=False), _term(match[0], TERMS[term], len(seen))]
            at = match.end()
    return "".join([*parts, escape(text[at:], quote=False)])


def _term(word: str, meaning: str, number: int) -> str:
    return (
        f'<span class="term" tabindex="0" aria-describedby="term-{number}">{escape(word, quote=False)}'
        f'<span class="meaning" role="tooltip" id="term-{number}">{escape(meaning, quote=False)}</span></span>'
    )
