"""Checks on a run: controls with a known answer that the log-probs must give before any weight is believed.

Each check is measured and compared with its limit; one that could not be measured says so and passes nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from arena10k.audit import quality
from arena10k.collection.jobs import LOGPROBS, SHUFFLED
from arena10k.collection.store import Store
from arena10k.params.config import Params
from arena10k.statistics.intervals import NOISE
from arena10k.tables.table import Table

#: Nats per sequence by which teacher forcing may typically miss generation: 0.1 moves a weight by a tenth.
CONSISTENT = 0.1
#: A difference that moves a weight by a factor of e, and the share of responses that may have one.
TAIL, TAIL_SHARE = 1.0, 0.05
#: A response does not always read less likely after another question, but three of four times: by chance, one run of
#: 20 responses in 48 gets there.
LOWER_SHARE = 0.75
#: Weights have mean 1 where the log-probs are right, so that a mean of 20 has probability 1/20 (Markov's inequality).
#: Below 1 there is no such bound: the mean misses what P0 never says, which the verdicts judge.
MEAN_WEIGHT = 20.0

WORDS = {
    "self_consistency_median": "teacher forcing against generation, median |difference| (nats)",
    "self_consistency_mean": "teacher forcing against generation, |signed mean| (nats)",
    "self_consistency_tail": f"teacher forcing against generation, share over {TAIL:g} nat",
    "shuffled_prompt": "share of responses less likely after another question (at least)",
    "clone": "largest |log-weight| of a clone (nats)",
    "mean_weight": "mean weight",
}


def measure(params: Params, table: Table, store: Store) -> list[dict[str, Any]]:
    """Every check: ``check``, ``policy``, ``value``, ``limit``, ``ok``; value and ok are None where nothing could be
    measured. A value must not exceed its limit, except that of `shuffled_prompt`, which must reach it."""
    p0, difference = params.logging_policy, quality.self_consistency(table.logged)
    size = difference.abs()
    out = [
        _check("self_consistency_median", p0, _of(size, size.median()), CONSISTENT),
        _check("self_consistency_mean", p0, _of(size, abs(difference.mean())), CONSISTENT),
        _check("self_consistency_tail", p0, _of(size, (size > TAIL).mean()), TAIL_SHARE),
    ]
    drop = shuffled(params, store)
    share = _of(drop, (drop > 0).mean())
    out.append(_check("shuffled_prompt", p0, share, LOWER_SHARE, None if share is None else share >= LOWER_SHARE))
    clones = quality.clones(params)
    for target, values in table.log_weights().items():
        log_weight = pd.Series(values).dropna()
        if target in clones:
            out.append(_check("clone", target, quality.largest(log_weight), NOISE))
        with np.errstate(over="ignore"):
            weight = np.exp(log_weight).clip(upper=np.finfo(float).max / max(len(log_weight), 1))
        out.append(_check("mean_weight", target, _of(weight, weight.mean()), MEAN_WEIGHT))
    return out


def _of(values: pd.Series, number: float) -> float | None:
    return float(number) if len(values) else None


def _check(name: str, policy: str, value: float | None, limit: float, ok: bool | None = None) -> dict[str, Any]:
    if ok is None and value is not None:
        ok = value <= limit
    return {"check": name, "policy": policy, "value": value, "limit": limit, "ok": ok}


def shuffled(params: Params, store: Store) -> pd.Series:
    """By how many nats each response of the control is less likely as the answer to another question than to its own,
    by prompt; set-aside records left out."""
    own, other = (
        {
            (row["prompt_id"], row["draw"]): row["value"]
            for row in store.rows(job)
            if row["policy"] == params.logging_policy and row["status"] == "ok" and row["quarantine"] is None
        }
        for job in (LOGPROBS, SHUFFLED)
    )
    return pd.Series({key[0]: own[key] - value for key, value in other.items() if key in own}, dtype=float)


def shuffled_sentence(drop: pd.Series) -> str:
    """Whether the log-probs depend on the question that is asked."""
    if drop.empty:
        return "Shuffled prompts: not measured in this run."
    lower = int((drop > 0).sum())
    told = (
        f"{lower:,} of {len(drop):,} responses are less likely after another question (median {drop.median():.2f} nats)"
    )
    if lower >= LOWER_SHARE * len(drop):
        return f"{told}: the log-probs are those of answers to their questions."
    return (
        f"FAILED: only {told}; {LOWER_SHARE:.0%} are needed. The log-probs do not depend on the question as they must."
    )


def sentence(checks: list[dict[str, Any]]) -> str:
    """How many checks hold; every one that failed or was not measured is named."""
    failed = [
        f"{c['check']} of {c['policy']} ({c['value']:.3g}, limit {c['limit']:g})" for c in checks if c["ok"] is False
    ]
    missing = [f"{c['check']} of {c['policy']}" for c in checks if c["ok"] is None]
    held = sum(c["ok"] is True for c in checks)
    told = [f"{held} of {len(checks)} checks hold."]
    if failed:
        told.append(f"FAILED: {'; '.join(failed)}. What rests on these log-probs is not to be believed.")
    if missing:
        told.append(f"Not measured: {', '.join(missing)}.")
    return " ".join(told)


def frame(checks: list[dict[str, Any]]) -> pd.DataFrame:
    """The checks for a table, in words."""
    says = {True: "holds", False: "FAILED", None: "not measured"}
    rows = [
        {"what": WORDS[c["check"]], "policy": c["policy"], "value": c["value"], "limit": c["limit"]}
        | {"outcome": says[c["ok"]]}
        for c in checks
    ]
    return pd.DataFrame(rows, columns=["what", "policy", "value", "limit", "outcome"])
