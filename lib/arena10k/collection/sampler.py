"""Sampled from what is scored? Servers add top-k, top-p, min-p or penalties of their own and report log-probs of the
full distribution all the same: weights are then of another policy than the one that answered.

Of every token the log-probs of the likeliest candidates are known; what was drawn is one of them or one of the rest. If
sampling is honest its chance is known exactly, given all that came before. Against it stands what each usual sampler
makes of the same distribution: the ratio of the two, multiplied up over tokens and draws, has mean 1 under honest
sampling (a test martingale) and so exceeds 1/level with a chance of at most `level`, however many tokens there are
(Ville 1939; Shafer, Shen, Vereshchagin and Vovk 2011, Statistical Science 26:84, section 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from arena10k.collection.jobs import RESPONSES
from arena10k.collection.store import Store
from arena10k.inputs.policies import policies
from arena10k.params.config import Params

#: The share of honest runs that may be called dishonest, at most.
LEVEL = 0.001
#: The share of honest sampling in every alternative: no single token speaks against one without limit.
_HONEST = 0.1
#: Honest sampling is settled where it is likelier than every alternative by this factor.
_SETTLED = 100
#: Rounded log-probs can leave out this much of the mass; nothing is concluded from less.
_ROUNDING = 1e-3


def _alternatives(p: np.ndarray, rest: np.ndarray, seen: np.ndarray) -> dict[str, np.ndarray]:
    """What servers do beside what they report, as weights (tokens, K + 1) over candidates and the rest."""

    def kept(which: np.ndarray, with_rest: np.ndarray) -> np.ndarray:
        return np.column_stack([np.where(which, p, 0), np.where(with_rest, rest, 0)])

    place, before, none = np.arange(p.shape[1]), np.cumsum(p, axis=1) - p, np.zeros(len(p), dtype=bool)
    last, full = np.where(p > 0, p, 1).min(axis=1), p.sum(axis=1)
    out = {f"top_k {k}": kept(np.broadcast_to(place < k, p.shape), none) for k in (1, 5, 10)}
    out["a top_k"] = kept(p > 0, none)
    for share in (0.8, 0.9, 0.95):
        out[f"top_p {share:g}"] = kept(before < share, full < share)
    for share in (0.05, 0.1):
        out[f"min_p {share:g}"] = kept(p >= share * p[:, :1], last >= share * p[:, 0])
    for t in (0.5, 0.7, 0.85, 1.2, 1.5):
        # The rest is taken as tokens like the last that is known.
        out[f"temperature {t:g}"] = np.column_stack([p ** (1 / t), rest * last ** (1 / t - 1)])
    out["a repetition penalty"] = np.column_stack([np.where(seen, 0.3 * p, p), rest])
    return out


@dataclass(frozen=True)
class SamplerAudit:
    """How many tokens spoke, log10 of the evidence against honest sampling, and which sampler explains them best."""

    tokens: int
    log10_evidence: float
    best: str
    #: Whether every one of the others is less likely than honest sampling by so much that it is out of the question.
    settled: bool

    @property
    def p_value(self) -> float:
        """At most this is the chance of such evidence under honest sampling."""
        return float(10.0 ** min(0.0, -self.log10_evidence))

    @property
    def mismatch(self) -> bool:
        return self.p_value < LEVEL


def audit(logprobs: np.ndarray, drawn: np.ndarray, seen: np.ndarray) -> SamplerAudit:
    """The mean over the alternatives of their ratios, each multiplied up over all tokens.

    `logprobs` (tokens, K): nats of the candidates, the likeliest first, -inf behind the last; `drawn` (tokens,): the
    place of the token that came, K for one of the rest; `seen` (tokens, K): whether the response already holds it.
    """
    p = np.exp(logprobs)
    rest = 1 - p.sum(axis=1)
    rest[rest < _ROUNDING] = 0
    honest, rows = np.column_stack([p, rest]), np.arange(len(p))
    informative = honest[rows, drawn] > 0  # of what came within rounding of nothing no ratio can be told
    honest, rows, drawn = honest / honest.sum(axis=1, keepdims=True), rows[informative], drawn[informative]
    ratios = {}
    for name, weights in _alternatives(p, rest, seen).items():
        share = weights[rows, drawn] / weights[rows].sum(axis=1) / honest[rows, drawn]
        ratios[name] = float(np.log(_HONEST + (1 - _HONEST) * share).sum())
    evidence = np.logaddexp.reduce(list(ratios.values())) - np.log(len(ratios))
    best = max(ratios, key=ratios.__getitem__)
    return SamplerAudit(len(rows), float(evidence / np.log(10)), best, bool(ratios[best] < -np.log(_SETTLED)))


def audits(params: Params, store: Store) -> dict[str, SamplerAudit | None]:
    """By policy that an endpoint of others answered for: the audit of its responses, None where none can be audited.
    The embedded model draws from what it reports, and of imported responses nobody can tell."""
    asked = {name: p for name, p in policies(params).items() if params.providers[p.params.provider].kind == "openai"}
    payloads: dict[str, list[dict[str, Any]]] = {name: [] for name in asked}
    for row in store.rows(RESPONSES, holding="candidates") if asked else ():
        if row["status"] == "ok" and row["policy"] in payloads:
            payloads[row["policy"]].append(row["payload"])
    # What the params say of the sampler is no surprise: the mismatch is declared.
    return {name: of_responses(payloads[name]) for name, policy in asked.items() if not policy.temperature_mismatch}


def facts(found: Mapping[str, SamplerAudit | None], logging_policy: str) -> dict[str, list[str]]:
    """What audits say of each policy's weights, by `estimation.context`: a ratio is as good as its worse half."""
    base = found.get(logging_policy)
    out = {}
    for name, own in found.items():
        halves = [own, base] if logging_policy in found else [own]
        if any(half is not None and half.mismatch for half in halves):
            out[name] = ["sampler_mismatch"]
        elif not all(half is not None and half.settled for half in halves):
            out[name] = ["sampler_not_settled"]
    return out


def of_responses(payloads: Iterable[Mapping[str, Any]]) -> SamplerAudit | None:
    """The audit of responses whose payload has `candidates` (see `collection.answers`); None where none has."""
    tokens = [token for payload in payloads for token in payload.get("candidates") or ()]
    if not tokens:
        return None
    width = max(len(nats) for _, nats, _ in tokens)
    logprobs, seen = np.full((len(tokens), width), -np.inf), np.zeros((len(tokens), width), dtype=bool)
    for row, (_, nats, said) in enumerate(tokens):
        logprobs[row, : len(nats)], seen[row, said] = nats, True
    drawn = np.array([width if place < 0 else place for place, _, _ in tokens])
    return audit(logprobs, drawn, seen)
