"""Checks on a run: controls with a known answer that the log-probs must give before any weight is believed.

Each check is measured and held against what sound log-probs show: it fails where they would show that in one of a
hundred runs at most (`WRONG`), and holds or is not settled otherwise. One that was not measured passes nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from arena10k.audit import quality
from arena10k.audit.screening import by_prompt
from arena10k.collection.jobs import LOGPROBS, SHUFFLED
from arena10k.collection.store import Store
from arena10k.estimation.diagnostics import mean_weight_p_value
from arena10k.estimation.thresholds import MEAN_WEIGHT_RANGE, NOISE, WRONG
from arena10k.frames.table import Table
from arena10k.inputs.policies import policies
from arena10k.params.config import Params
from arena10k.wording import number

#: Nats per sequence by which teacher forcing may typically miss generation: 0.1 moves a weight by a tenth.
CONSISTENT = 0.1
#: A difference that moves a weight by a factor of e, and the share of responses that may have one.
TAIL, TAIL_SHARE = 1.0, 0.05
#: The share of responses less likely after another question where log-probs do not depend on it.
CHANCE = 0.5

HOLDS, NOT_SETTLED, FAILED, NOT_MEASURED = "holds", "not settled", "failed", "not measured"
_OK = {HOLDS: True, FAILED: False}

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
    "shuffled_prompt": "the share of responses of {p0} that are less likely after another question is {value}: they do "
    "not change as log-probs of answers to their questions do",
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


#: What is told of a control that is neither shown to hold nor to fail.
_UNSETTLED = _FAILED | {
    "shuffled_prompt": "the share of responses of {p0} that are less likely after another question is {value}",
}
RUNS = round(1 / WRONG)


def measure(params: Params, table: Table, store: Store) -> list[dict[str, Any]]:
    """Every check: ``check``, ``policy``, ``value``, ``limit``, ``p_value``, ``outcome``, ``ok`` (True where it holds,
    False where it failed, else None); value is None where nothing could be measured.

    ``p_value`` is the chance of such a value at sound log-probs, None where there is no chance in it; a check fails
    below `WRONG`. A value within its limit holds; one over it by no more than chance is not settled.
    `shuffled_prompt` takes evidence to hold, too: see `_shuffled`. `mean_weight` has no limit of its own; its ``n``
    logged rows are all with a weight, judged or not. There is no such check where the logging policy was sampled at
    another temperature than it was scored at, since 1 is not the mean then.
    """
    p0, difference = params.logging_policy, quality.self_consistency(table.logged)
    size, n = difference.abs(), len(difference)
    over, far = (int((size > limit).sum()) for limit in (CONSISTENT, TAIL))
    out = [
        _limited("self_consistency_median", p0, _of(size, size.median()), CONSISTENT, _over(over, n, 0.5)),
        _limited("self_consistency_mean", p0, _of(size, abs(difference.mean())), CONSISTENT, _off(difference)),
        _limited("self_consistency_tail", p0, _of(size, (size > TAIL).mean()), TAIL_SHARE, _over(far, n, TAIL_SHARE)),
        _shuffled(p0, shuffled(params, store), _drawn(params)),
    ]
    clones = quality.clones(params)
    for target, values in table.log_weights().items():
        log_weight = pd.Series(values).dropna()
        if target in clones:
            out.append(_limited("clone", target, quality.largest(log_weight), NOISE, None))
        if _drawn(params):
            out.append(_mean_weight(target, log_weight, table.logged.prompt_id[log_weight.index]))
    return out


def _drawn(params: Params) -> bool:
    """Whether P0's log-probs are the probabilities its responses were drawn with."""
    return not policies(params)[params.logging_policy].temperature_mismatch


def _over(k: int, n: int, share: float) -> float:
    """The chance of at least `k` of `n` rows where each has at most the chance `share`."""
    return float(stats.binom.sf(k - 1, n, share))


def _off(difference: pd.Series) -> float:
    """p-value for a mean of at most `CONSISTENT` in size (t-test of the nearer end); 1 for a single row."""
    error = difference.std() / np.sqrt(len(difference))
    excess = abs(difference.mean()) - CONSISTENT
    if not error > 0:
        return float(excess <= 0 or len(difference) < 2)
    return float(stats.t.sf(excess / error, len(difference) - 1))


def _mean_weight(target: str, log_weight: pd.Series, prompt_id: pd.Series) -> dict[str, Any]:
    if log_weight.empty:
        return _check("mean_weight", target, None, None, None, NOT_MEASURED)
    with np.errstate(over="ignore"):
        weight = np.exp(log_weight).clip(upper=np.finfo(float).max / len(log_weight))
    p = mean_weight_p_value(log_weight.to_numpy(), by_prompt(pd.factorize(prompt_id)[0]))
    outcome = HOLDS if p >= WRONG else FAILED
    return _check("mean_weight", target, float(weight.mean()), None, p, outcome) | {"n": len(log_weight)}


def _shuffled(p0: str, drop: pd.Series, drawn: bool) -> dict[str, Any]:
    """The shuffled-prompt control by what `drop` (nats) can show.

    It holds where drops are above 0 by more than chance (signed-rank test: log-probs that have nothing to do with the
    question are as often higher by so much after another one). It fails where P0 after another question would be a
    policy that cannot be (`exp(-drop)` has a mean of at most 1 under P0, as any weight has), or where fewer than
    half of the responses move by over `CONSISTENT`, beyond chance, and nothing says that those fall: no model answers
    all questions alike to a tenth of a nat. Each at half of `WRONG`.
    """
    if drop.empty:
        return _check("shuffled_prompt", p0, None, CHANCE, None, NOT_MEASURED)
    moved = int((drop.abs() > CONSISTENT).sum())
    unrelated = float(stats.wilcoxon(drop, alternative="greater").pvalue) if (drop != 0).any() else 1.0
    same = float(stats.binom.cdf(moved, len(drop), 0.5)) if unrelated >= WRONG else 1.0
    impossible = mean_weight_p_value(-drop.to_numpy()) if drawn else 1.0
    p = min(1.0, 2 * min(same, impossible))
    outcome = FAILED if p < WRONG else HOLDS if unrelated < WRONG else NOT_SETTLED
    return _check("shuffled_prompt", p0, float((drop > 0).mean()), CHANCE, p, outcome)


def _of(values: pd.Series, number: float) -> float | None:
    return float(number) if len(values) else None


def _limited(name: str, policy: str, value: float | None, limit: float, p: float | None) -> dict[str, Any]:
    """A check whose value must not exceed its limit, beyond chance where `p` is known."""
    if value is None:
        return _check(name, policy, None, limit, None, NOT_MEASURED)
    failed = p is None or p < WRONG
    return _check(name, policy, value, limit, p, HOLDS if value <= limit else FAILED if failed else NOT_SETTLED)


def _check(
    name: str, policy: str, value: float | None, limit: float | None, p: float | None, outcome: str
) -> dict[str, Any]:
    row = {"check": name, "policy": policy, "value": value, "limit": limit, "p_value": p}
    return row | {"outcome": outcome, "ok": _OK.get(outcome)}


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


def shuffled_sentence(params: Params, store: Store) -> str:
    """Whether the log-probs depend on the question that is asked, and how often chance says so."""
    drop = shuffled(params, store)
    outcome = _shuffled(params.logging_policy, drop, _drawn(params))["outcome"]
    if drop.empty:
        return "Shuffled prompts: not measured in this run."
    told = (
        f"{int((drop > 0).sum()):,} of {len(drop):,} responses are less likely after another question (median "
        f"{drop.median():.2f} nats)"
    )
    if outcome == HOLDS:
        return f"{told}: the log-probs depend on the question. Of others this is said in at most 1 of {RUNS} runs."
    if outcome == FAILED:
        return (
            f"FAILED: {told}. The log-probs do not depend on the question as they must; of sound ones this is said in "
            f"at most 1 of {RUNS} runs."
        )
    return f"{told}: too little to say whether the log-probs depend on the question."


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
    failed, held, open_, missing = ([c["outcome"] for c in checks].count(o) for o in _COUNTED.values())
    measured = failed + held + open_
    which = Counter(_UNMEASURED[c["check"]].format(**_names(c, checks)) for c in checks if c["outcome"] == NOT_MEASURED)
    told = [f"{words} ({k} checks)" if k > 1 else words for words, k in which.items()]
    names = f": {'; '.join(told)}" if named and told else ""
    if not measured:
        return f"None of the {len(checks)} controls of the log-probs was measured{names}."
    if failed:
        said = f"{failed} of {measured} measured controls of the log-probs failed: {'; '.join(_failures(checks))}."
        said += f" Sound log-probs fail each control in at most 1 of {RUNS} runs: what rests on these is not to be "
        said += "believed."
    elif open_:
        said = f"{held} of {measured} measured controls of the log-probs hold, none failed."
    elif measured == 1:
        said = "The only measured control of the log-probs holds."
    else:
        said = f"All {measured} measured controls of the log-probs hold."
    if open_:
        unsettled = [_UNSETTLED[c["check"]].format(**_names(c, checks)) for c in checks if c["outcome"] == NOT_SETTLED]
        said += f" Not settled, since it may be chance: {'; '.join(unsettled)}."
    return said + (f" {missing} {'was' if missing == 1 else 'were'} not measured{names}." if missing else "")


_COUNTED = {
    "controls_failed": FAILED,
    "controls_hold": HOLDS,
    "controls_not_settled": NOT_SETTLED,
    "controls_not_measured": NOT_MEASURED,
}


def counts(checks: list[dict[str, Any]]) -> dict[str, int]:
    """How many checks failed, hold, are not settled and were not measured, under names for `Run.note`."""
    return {name: [c["outcome"] for c in checks].count(outcome) for name, outcome in _COUNTED.items()}


def _names(check: dict[str, Any], checks: list[dict[str, Any]]) -> dict[str, str]:
    p0 = next((c["policy"] for c in checks if c["check"] == "shuffled_prompt"), "the logging policy")
    numbers = {key: number(float("nan") if check[key] is None else check[key]) for key in ("value", "limit")}
    return {"policy": check["policy"], "p0": p0} | numbers


def _failures(checks: list[dict[str, Any]]) -> list[str]:
    failed = [c for c in checks if c["outcome"] == FAILED]
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
    rows = [
        {
            "what": WORDS[c["check"]] + (f", {c['n']:,} logged rows" if "n" in c else ""),
            "policy": c["policy"],
            "value": c["value"],
            "must be": _required(c),
            "outcome": _says(c),
        }
        for c in checks
    ]
    return pd.DataFrame(rows, columns=["what", "policy", "value", "must be", "outcome"])


def _says(check: dict[str, Any]) -> str:
    if _is_far(check):
        return "not contradicted, but not near 1: see page 06"
    return "FAILED" if check["outcome"] == FAILED else str(check["outcome"])


def _required(check: dict[str, Any]) -> str:
    if check["limit"] is None:
        return "at most 1, up to chance"
    if check["check"] == "shuffled_prompt":
        return "above 0.5, beyond chance"
    return f"at most {check['limit']:g}" + ("" if check["check"] == "clone" else ", up to chance")
