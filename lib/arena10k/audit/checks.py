"""Checks on a run: controls with a known answer that the log-probs must give before any weight is believed.

Each check is measured and compared with its limit; one that could not be measured says so and passes nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from arena10k.audit import quality
from arena10k.collection.jobs import LOGPROBS, SHUFFLED
from arena10k.collection.store import Store
from arena10k.inputs.policies import policies
from arena10k.params.config import Params
from arena10k.statistics.diagnostics import mean_weight_p_value
from arena10k.statistics.thresholds import MEAN_WEIGHT_RANGE, NOISE, WRONG
from arena10k.tables.table import Table
from arena10k.wording import number

#: Nats per sequence by which teacher forcing may typically miss generation: 0.1 moves a weight by a tenth.
CONSISTENT = 0.1
#: A difference that moves a weight by a factor of e, and the share of responses that may have one.
TAIL, TAIL_SHARE = 1.0, 0.05
#: A response does not always read less likely after another question, but three of four times: by chance, one run of
#: 20 responses in 48 gets there.
LOWER_SHARE = 0.75

WORDS = {
    "self_consistency_median": "teacher forcing against generation, median |difference| (nats)",
    "self_consistency_mean": "teacher forcing against generation, |signed mean| (nats)",
    "self_consistency_tail": f"teacher forcing against generation, share over {TAIL:g} nat",
    "shuffled_prompt": "share of responses less likely after another question",
    "clone": "largest difference between the logging policy and its copy (nats)",
    "mean_weight": "mean weight",
}
#: What a failed control has found, and what one that was not measured would have shown.
_FAILED = {
    "self_consistency_median": "the responses of {p0}, scored again, have log-probs that differ from those they were "
    "generated with by {value} nats (median; limit {limit})",
    "self_consistency_mean": "the responses of {p0}, scored again, have log-probs that are off to one side by {value} "
    "nats (mean; limit {limit})",
    "self_consistency_tail": f"the share of responses of {{p0}} that, scored again, have log-probs that differ by over "
    f"{TAIL:g} nat is {{value}} (limit {{limit}})",
    "shuffled_prompt": "the share of responses of {p0} that are less likely after another question is only {value} "
    "({limit} is needed)",
    "clone": "{policy}, meant as a copy of {p0}, differs from it by up to {value} nats (limit {limit})",
}
_AGAIN = "whether the responses of {p0}, scored again, have the log-probs they were generated with"
_UNMEASURED = {
    "self_consistency_median": _AGAIN,
    "self_consistency_mean": _AGAIN,
    "self_consistency_tail": _AGAIN,
    "shuffled_prompt": "whether the responses of {p0} are less likely after another question",
    "clone": "whether {policy}, meant as a copy of {p0}, has its log-probs",
    "mean_weight": "the mean weight of {policy}",
}


def measure(params: Params, table: Table, store: Store) -> list[dict[str, Any]]:
    """Every check: ``check``, ``policy``, ``value``, ``limit``, ``p_value``, ``ok``; value and ok are None
    where nothing could be measured.

    A value must not exceed its limit, except that of `shuffled_prompt`, which must reach it. `mean_weight` has no limit
    of its own: it fails where the verdicts call it impossible, by the ``p_value`` that only this check has; its ``n``
    logged rows are all with a weight, judged or not. There is no such check where the logging policy was sampled at
    another temperature than it was scored at, since 1 is not the mean then.
    """
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
    clones, drawn = quality.clones(params), not policies(params)[p0].temperature_mismatch
    for target, values in table.log_weights().items():
        log_weight = pd.Series(values).dropna()
        if target in clones:
            out.append(_check("clone", target, quality.largest(log_weight), NOISE))
        if drawn:
            out.append(_mean_weight(target, log_weight, table.logged.prompt_id[log_weight.index]))
    return out


def _mean_weight(target: str, log_weight: pd.Series, prompt_id: pd.Series) -> dict[str, Any]:
    if log_weight.empty:
        return _check("mean_weight", target, None, None)
    with np.errstate(over="ignore"):
        weight = np.exp(log_weight).clip(upper=np.finfo(float).max / len(log_weight))
    p = mean_weight_p_value(log_weight.to_numpy(), pd.factorize(prompt_id)[0])
    found = _check("mean_weight", target, float(weight.mean()), None, p >= WRONG)
    return found | {"p_value": p, "n": len(log_weight)}


def _of(values: pd.Series, number: float) -> float | None:
    return float(number) if len(values) else None


def _check(name: str, policy: str, value: float | None, limit: float | None, ok: bool | None = None) -> dict[str, Any]:
    if ok is None and value is not None and limit is not None:
        ok = value <= limit
    return {"check": name, "policy": policy, "value": value, "limit": limit, "p_value": None, "ok": ok}


def shuffled(params: Params, store: Store) -> pd.Series:
    """By how many nats each response of the control is less likely as the answer to another question than to its own,
    by prompt; quarantined records left out."""
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
    """How many controls were measured and failed, and which; those that were not measured, and what one that holds does
    not mean."""
    told = [summary(checks, named=True)]
    if far := [c for c in checks if _is_far(c)]:
        low, high = MEAN_WEIGHT_RANGE
        names = ", ".join(f"{c['policy']} {number(c['value'])}" for c in far)
        rows = " or ".join(f"{n:,}" for n in sorted({c["n"] for c in far}))
        told.append(
            f"Mean weights of the {rows} logged rows outside of {low:g} to {high:g} ({names}) do not contradict the "
            "log-probs, but say that the logged responses do not represent the policy: the verdicts of page 06 judge "
            "them, on the judged rows."
        )
    return " ".join(told)


def summary(checks: list[dict[str, Any]], named: bool = False) -> str:
    """What was measured, what failed of it and by how much, and how many were not; with `named`, which these are."""
    failed, held, missing = counts(checks).values()
    measured = failed + held
    which = Counter(_UNMEASURED[c["check"]].format(**_names(c, checks)) for c in checks if c["ok"] is None)
    told = [f"{words} ({k} checks)" if k > 1 else words for words, k in which.items()]
    names = f": {'; '.join(told)}" if named and told else ""
    if not measured:
        return f"None of the {len(checks)} controls of the log-probs was measured{names}."
    if failed:
        said = f"{failed} of {measured} measured controls of the log-probs failed: {'; '.join(_failures(checks))}."
        said += " What rests on these log-probs is not to be believed."
    elif measured == 1:
        said = "The only measured control of the log-probs holds."
    else:
        said = f"All {measured} measured controls of the log-probs hold."
    return said + (f" {missing} {'was' if missing == 1 else 'were'} not measured{names}." if missing else "")


def counts(checks: list[dict[str, Any]]) -> dict[str, int]:
    """How many checks failed, hold and were not measured, under names for `Run.note`."""
    outcomes = {"controls_failed": False, "controls_hold": True, "controls_not_measured": None}
    return {name: [c["ok"] for c in checks].count(ok) for name, ok in outcomes.items()}


def _names(check: dict[str, Any], checks: list[dict[str, Any]]) -> dict[str, str]:
    p0 = next((c["policy"] for c in checks if c["check"] == "shuffled_prompt"), "the logging policy")
    numbers = {key: number(float("nan") if check[key] is None else check[key]) for key in ("value", "limit")}
    return {"policy": check["policy"], "p0": p0} | numbers


def _failures(checks: list[dict[str, Any]]) -> list[str]:
    failed = [c for c in checks if c["ok"] is False]
    told = [_FAILED[c["check"]].format(**_names(c, checks)) for c in failed if c["check"] in _FAILED]
    if heavy := [
        f"{c['policy']} ({number(c['value'], apart_from=1.0)})" for c in failed if c["check"] == "mean_weight"
    ]:
        told.append(f"the mean weight is above 1 by more than chance for {', '.join(heavy)}")
    return told


def _is_far(check: dict[str, Any]) -> bool:
    """Whether a mean weight that the log-probs may well have is not that of a policy which the log represents."""
    low, high = MEAN_WEIGHT_RANGE
    return check["check"] == "mean_weight" and bool(check["ok"]) and not low <= check["value"] <= high


def frame(checks: list[dict[str, Any]]) -> pd.DataFrame:
    """The checks for a table, in words."""
    says = {True: "holds", False: "FAILED", None: "not measured"}
    rows = [
        {
            "what": WORDS[c["check"]] + (f", {c['n']:,} logged rows" if "n" in c else ""),
            "policy": c["policy"],
            "value": c["value"],
            "must be": _required(c),
        }
        | {"outcome": "not contradicted, but not near 1: see page 06" if _is_far(c) else says[c["ok"]]}
        for c in checks
    ]
    return pd.DataFrame(rows, columns=["what", "policy", "value", "must be", "outcome"])


def _required(check: dict[str, Any]) -> str:
    if check["limit"] is None:
        return "at most 1, up to chance"
    return f"at {'least' if check['check'] == 'shuffled_prompt' else 'most'} {check['limit']:g}"
