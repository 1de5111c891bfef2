"""Controls with a known answer that the log-probs must give before any weight is believed.

Each is measured and held against what sound log-probs show: it fails where they would show that in one of a hundred
runs at most (`WRONG`), and holds or is not settled otherwise. One that was not measured passes nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from arena10k.audit.noise import clones, self_consistency
from arena10k.audit.screening import by_prompt
from arena10k.collection.jobs import LOGPROBS, SHUFFLED
from arena10k.collection.store import Store
from arena10k.estimation.diagnostics import mean_weight_p_value
from arena10k.estimation.thresholds import MEAN_WEIGHT_RANGE, NOISE, WRONG
from arena10k.frames.records import read, usable
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
#: One in so many runs of sound log-probs fails a control.
RUNS = round(1 / WRONG)

HOLDS, NOT_SETTLED, FAILED, NOT_MEASURED = "holds", "not settled", "failed", "not measured"
#: Names of the outcomes in `Run.note`.
_COUNTED = {
    "controls_failed": FAILED,
    "controls_hold": HOLDS,
    "controls_not_settled": NOT_SETTLED,
    "controls_not_measured": NOT_MEASURED,
}


@dataclass(frozen=True)
class Control:
    """A control in words: `what` is measured, what one that `failed` has found (`unsettled`: where it may be chance),
    and what one that was not measured would have shown."""

    what: str
    failed: str
    unmeasured: str
    unsettled: str = ""


_AGAIN = "whether the responses of {p0}, scored again, have the log-probs they were generated with"
_BELOW = "the share of responses of {p0} that are less likely after another question is {value}"
CONTROLS = {
    "self_consistency_median": Control(
        "teacher forcing against generation, median |difference| (nats)",
        "the responses of {p0}, scored again, have log-probs that differ from those they were generated with by "
        "{value} nats (median; limit {limit})",
        _AGAIN,
    ),
    "self_consistency_mean": Control(
        "teacher forcing against generation, |signed mean| (nats)",
        "the responses of {p0}, scored again, have log-probs that are off to one side by {value} nats (mean; limit "
        "{limit})",
        _AGAIN,
    ),
    "self_consistency_tail": Control(
        f"teacher forcing against generation, share over {TAIL:g} nat",
        "the share of responses of {p0} that, scored again, have log-probs that differ by over "
        f"{TAIL:g} nat is {{value}} (limit {{limit}})",
        _AGAIN,
    ),
    "shuffled_prompt": Control(
        "share of responses less likely after another question",
        f"{_BELOW}: they do not change as log-probs of answers to their questions do",
        "whether the responses of {p0} are less likely after another question",
        _BELOW,
    ),
    "clone": Control(
        "largest difference between the logging policy and its copy (nats)",
        "{policy}, meant as a copy of {p0}, differs from it by up to {value} nats (limit {limit})",
        "whether {policy}, meant as a copy of {p0}, has its log-probs",
    ),
    "mean_weight": Control(
        "mean weight",
        "the mean weight of {policy} is {value}, above 1 by more than chance",
        "the mean weight of {policy}",
    ),
}


def measure(params: Params, table: Table, store: Store) -> list[dict[str, Any]]:
    """Every check: ``check``, ``policy``, ``value``, ``limit``, ``p_value``, ``outcome``, ``ok`` (True where it holds,
    False where it failed, else None); value is None where nothing could be measured.

    ``p_value`` is the chance of such a value at sound log-probs, None where there is no chance in it; a check fails
    below `WRONG`. A value within its limit holds; one over it by no more than chance is not settled.
    `shuffled_prompt` takes evidence to hold, too: see `_shuffled`. `mean_weight` has no limit of its own; its ``n``
    logged rows are all with a weight, judged or not. There is no such check where the logging policy was sampled at
    another temperature than it was scored at, since 1 is not the mean then.
    """
    p0, difference = params.logging_policy, self_consistency(table)
    size, n = difference.abs(), len(difference)
    over, far = (int((size > limit).sum()) for limit in (CONSISTENT, TAIL))
    # Whether P0's log-probs are the probabilities its responses were drawn with.
    drawn = not policies(params)[p0].temperature_mismatch
    out = [
        _limited("self_consistency_median", p0, size.median(), CONSISTENT, _over(over, n, 0.5)),
        _limited("self_consistency_mean", p0, abs(difference.mean()), CONSISTENT, _off(difference)),
        _limited("self_consistency_tail", p0, (size > TAIL).mean(), TAIL_SHARE, _over(far, n, TAIL_SHARE)),
        _shuffled(p0, shuffled(params, store), drawn),
    ]
    copies = clones(params)
    for target, values in table.log_weights().items():
        log_weight = pd.Series(values).dropna()
        if target in copies:
            out.append(_limited("clone", target, log_weight.abs().max(), NOISE, None))
        if drawn:
            out.append(_mean_weight(target, log_weight, table.logged.prompt_id[log_weight.index]))
    return out


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


def _limited(name: str, policy: str, value: float, limit: float, p: float | None) -> dict[str, Any]:
    """A check whose value must not exceed its limit, beyond chance where `p` is known; NaN where nothing is there."""
    if np.isnan(value):
        return _check(name, policy, None, limit, None, NOT_MEASURED)
    failed = p is None or p < WRONG
    return _check(name, policy, float(value), limit, p, HOLDS if value <= limit else FAILED if failed else NOT_SETTLED)


def _check(
    name: str, policy: str, value: float | None, limit: float | None, p: float | None, outcome: str
) -> dict[str, Any]:
    row = {"check": name, "policy": policy, "value": value, "limit": limit, "p_value": p}
    return row | {"outcome": outcome, "ok": {HOLDS: True, FAILED: False}.get(outcome)}


def shuffled(params: Params, store: Store) -> pd.Series:
    """By how many nats each response of the control is less likely as the answer to another question than to its own,
    by prompt; quarantined records left out."""
    records = usable(read(store, LOGPROBS, SHUFFLED))
    records = records[records.policy == params.logging_policy].astype({"value": float})
    values = records.groupby(["job", "prompt_id", "draw"])["value"].first()
    own, other = (values[values.index.get_level_values("job") == job].droplevel("job") for job in (LOGPROBS, SHUFFLED))
    return (own - other).dropna().droplevel("draw")


def shuffled_sentence(params: Params, store: Store) -> str:
    """Whether the log-probs depend on the question that is asked, and how often chance says so."""
    drop = shuffled(params, store)
    if drop.empty:
        return "Shuffled prompts: not measured in this run."
    p0 = params.logging_policy
    outcome = _shuffled(p0, drop, not policies(params)[p0].temperature_mismatch)["outcome"]
    measured = (
        f"{int((drop > 0).sum()):,} of {len(drop):,} responses are less likely after another question (median "
        f"{drop.median():.2f} nats)"
    )
    if outcome == HOLDS:
        return f"{measured}: the log-probs depend on the question. Of others this is said in at most 1 of {RUNS} runs."
    if outcome == FAILED:
        return (
            f"FAILED: {measured}. The log-probs do not depend on the question as they must; of sound ones this is said "
            f"in at most 1 of {RUNS} runs."
        )
    return f"{measured}: too little to say whether the log-probs depend on the question."


def counts(checks: list[dict[str, Any]]) -> dict[str, int]:
    """How many checks failed, hold, are not settled and were not measured, under names for `Run.note`."""
    return {name: len(_of(checks, outcome)) for name, outcome in _COUNTED.items()}


def _of(checks: list[dict[str, Any]], outcome: str) -> list[dict[str, Any]]:
    return [check for check in checks if check["outcome"] == outcome]


def summary(checks: list[dict[str, Any]], named: bool = False) -> str:
    """What was measured, what failed of it and by how much, and how many were not; with `named`, which these are."""
    failed, held, unsettled, missing = (_of(checks, outcome) for outcome in _COUNTED.values())
    measured = len(checks) - len(missing)
    which = Counter(_words(check, "unmeasured", checks) for check in missing)
    names = [f"{words} ({k} checks)" if k > 1 else words for words, k in which.items()]
    listed = f": {'; '.join(names)}" if named and names else ""
    if not measured:
        return f"None of the {len(checks)} controls of the log-probs was measured{listed}."
    if failed:
        text = (
            f"{len(failed)} of {measured} measured controls of the log-probs failed: "
            f"{'; '.join(_words(check, 'failed', checks) for check in failed)}. Sound log-probs fail each control in "
            f"at most 1 of {RUNS} runs: what rests on these is not to be believed."
        )
    elif unsettled:
        text = f"{len(held)} of {measured} measured controls of the log-probs hold, none failed."
    elif measured == 1:
        text = "The only measured control of the log-probs holds."
    else:
        text = f"All {measured} measured controls of the log-probs hold."
    if unsettled:
        text += f" Not settled, since it may be chance: {'; '.join(_words(c, 'unsettled', checks) for c in unsettled)}."
    if missing:
        text += f" {len(missing)} {'was' if len(missing) == 1 else 'were'} not measured{listed}."
    return text


def _words(check: dict[str, Any], kind: str, checks: list[dict[str, Any]]) -> str:
    """A check in the words of `CONTROLS` of a kind; its value as another number than its limit."""
    control = CONTROLS[check["check"]]
    p0 = next((c["policy"] for c in checks if c["check"] == "shuffled_prompt"), "the logging policy")
    value, limit = (float("nan") if x is None else x for x in (check["value"], check["limit"]))
    return (getattr(control, kind) or control.failed).format(
        policy=check["policy"], p0=p0, limit=number(limit), value=number(value, 1.0 if np.isnan(limit) else limit)
    )


def sentence(checks: list[dict[str, Any]]) -> str:
    """How many controls were measured and failed, and which; those that were not measured, and what one that holds does
    not mean."""
    far = [c for c in checks if _is_far(c)]
    if not far:
        return summary(checks, named=True)
    low, high = MEAN_WEIGHT_RANGE
    names = ", ".join(f"{c['policy']} {number(c['value'])}" for c in far)
    rows = " or ".join(f"{n:,}" for n in sorted({c["n"] for c in far}))
    return (
        f"{summary(checks, named=True)} Mean weights of the {rows} logged rows outside of {low:g} to {high:g} "
        f"({names}) do not contradict the log-probs, but say that the logged responses do not represent the policy: "
        "the verdicts of page 06 judge them, on the judged rows."
    )


def _is_far(check: dict[str, Any]) -> bool:
    """Whether a mean weight that the log-probs may well have is not that of a policy which the log represents."""
    low, high = MEAN_WEIGHT_RANGE
    return check["check"] == "mean_weight" and bool(check["ok"]) and not low <= check["value"] <= high


def frame(checks: list[dict[str, Any]]) -> pd.DataFrame:
    """The checks for a table, in words."""
    far = "not contradicted, but not near 1: see page 06"
    rows = [
        {"what": CONTROLS[c["check"]].what + (f", {c['n']:,} logged rows" if "n" in c else "")}
        | {"policy": c["policy"], "value": c["value"], "must be": _required(c)}
        | {"outcome": far if _is_far(c) else "FAILED" if c["outcome"] == FAILED else c["outcome"]}
        for c in checks
    ]
    return pd.DataFrame(rows, columns=["what", "policy", "value", "must be", "outcome"])


def _required(check: dict[str, Any]) -> str:
    if check["limit"] is None:
        return "at most 1, up to chance"
    if check["check"] == "shuffled_prompt":
        return "above 0.5, beyond chance"
    return f"at most {check['limit']:g}" + ("" if check["check"] == "clone" else ", up to chance")
