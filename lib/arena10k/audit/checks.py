"""Controls with a known answer that the log-probs must give before any weight is believed, and the noise they show.

Each is measured and held against what sound log-probs show: it fails where they would show that in one of a hundred
runs at most (`WRONG`), and holds or is not settled otherwise. One that was not measured passes nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from arena10k.collection import sampler
from arena10k.collection.jobs import LOGPROBS, SHUFFLED
from arena10k.collection.store import Store
from arena10k.estimation.diagnostics import mean_weight_p_value
from arena10k.estimation.thresholds import MEAN_WEIGHT_RANGE, NOISE, WRONG
from arena10k.frames.records import read, usable
from arena10k.frames.table import Table
from arena10k.inputs.policies import policies
from arena10k.params.config import Params
from arena10k.wording import factor, number

#: Nats per sequence by which teacher forcing may typically miss generation: 0.1 moves a weight by a tenth.
CONSISTENT = 0.1
#: A difference that moves a weight by a factor of e, and the share of responses that may have one.
TAIL, TAIL_SHARE = 1.0, 0.05
#: The share of responses less likely after another question where log-probs do not depend on it.
CHANCE = 0.5
#: One in so many runs of sound log-probs fails a control.
RUNS = round(1 / WRONG)

HOLDS, NOT_SETTLED, FAILED, NOT_MEASURED = "holds", "not settled", "failed", "not measured"


class Control(NamedTuple):
    """A control in words: `what` is measured, what one that `failed` has found (`unsettled`: where it may be chance),
    what one that was not measured would have shown, and what its value must be."""

    what: str
    failed: str
    unmeasured: str
    must: str = "at most {limit:g}, up to chance"
    unsettled: str = ""


_AGAIN = "the responses of {p0}, scored again, have log-probs that"
_UNKNOWN = "whether the responses of {p0}, scored again, have the log-probs they were generated with"
_BELOW = "the share of responses of {p0} that are less likely after another question is {value}"
CONTROLS = {
    "self_consistency_median": Control(
        "teacher forcing against generation, median |difference| (nats)",
        f"{_AGAIN} differ from those they were generated with by {{value}} nats (median; limit {{limit}})",
        _UNKNOWN,
    ),
    "self_consistency_mean": Control(
        "teacher forcing against generation, |signed mean| (nats)",
        f"{_AGAIN} are off to one side by {{value}} nats (mean; limit {{limit}})",
        _UNKNOWN,
    ),
    "self_consistency_tail": Control(
        f"teacher forcing against generation, share over {TAIL:g} nat",
        f"{_AGAIN} differ by over {TAIL:g} nat for a share of {{value}} (limit {{limit}})",
        _UNKNOWN,
    ),
    "shuffled_prompt": Control(
        "share of responses less likely after another question",
        f"{_BELOW}: they do not change as log-probs of answers to their questions do",
        "whether the responses of {p0} are less likely after another question",
        "above 0.5, beyond chance",
        _BELOW,
    ),
    "clone": Control(
        "largest difference between the logging policy and its copy (nats)",
        "{policy}, meant as a copy of {p0}, differs from it by up to {value} nats (limit {limit})",
        "whether {policy}, meant as a copy of {p0}, has its log-probs",
        "at most {limit:g}",
    ),
    "mean_weight": Control(
        "mean weight",
        "the mean weight of {policy} is {value}, above 1 by more than chance",
        "the mean weight of {policy}",
        "at most 1, up to chance",
    ),
    "sampler": Control(
        "chance of the tokens that were drawn, if from what is scored",
        "the tokens of {policy} are not drawn from the distribution that is scored, but as by {best} (chance {value})",
        "whether {policy} is drawn from the distribution that is scored (its answers show no candidates)",
        f"at least {sampler.LEVEL:g}",
        "whether {policy} is drawn from the distribution that is scored (too few tokens show it)",
    ),
}


def measure(params: Params, table: Table, store: Store) -> list[dict[str, Any]]:
    """Every check: ``check``, ``policy``, ``value``, ``limit``, ``p_value``, ``outcome``, ``ok`` (True where it holds,
    False where it failed, else None); value is None where nothing could be measured.

    ``p_value`` is the chance of such a value at sound log-probs, None where there is no chance in it; a check fails
    below `WRONG`. A value within its limit holds; one over it by no more than chance is not settled.
    `shuffled_prompt` takes evidence to hold, too: see `shuffled_control`. `mean_weight` has no limit of its own; its
    ``n`` logged rows are all with a weight, judged or not. There is no such check where the logging policy was sampled
    at another temperature than it was scored at, since 1 is not the mean then.
    """
    p0, difference = params.logging_policy, self_consistency(table)
    size, n = difference.abs(), len(difference)
    # The chance of so many rows over a limit that each exceeds with a chance of a half, or of TAIL_SHARE, at most.
    over, far = (
        float(stats.binom.sf(int((size > limit).sum()) - 1, n, share))
        for limit, share in ((CONSISTENT, 0.5), (TAIL, TAIL_SHARE))
    )
    excess, error = abs(difference.mean()) - CONSISTENT, difference.std() / np.sqrt(n)
    # A t-test of the nearer end of a mean of at most CONSISTENT in size; 1 for a single row.
    one_side = float(stats.t.sf(excess / error, n - 1)) if error > 0 else float(excess <= 0 or n < 2)
    out = [
        _check("self_consistency_median", p0, size.median(), CONSISTENT, over),
        _check("self_consistency_mean", p0, abs(difference.mean()), CONSISTENT, one_side),
        _check("self_consistency_tail", p0, (size > TAIL).mean(), TAIL_SHARE, far),
        shuffled_control(params, shuffled(params, store)),
    ]
    copies, is_drawn = clones(params), not policies(params)[p0].temperature_mismatch
    for target, values in table.log_weights().items():
        log_weight = pd.Series(values).dropna()
        if target in copies:
            out.append(_check("clone", target, log_weight.abs().max(), NOISE, None))
        if is_drawn:
            mean, p = mean_weight(log_weight.to_numpy(), table.logged.prompt_id[log_weight.index].to_numpy())
            check = _check("mean_weight", target, mean, None, p, HOLDS if p >= WRONG else FAILED)
            out.append(check | ({"n": len(log_weight)} if len(log_weight) else {}))
    for policy, audited in sampler.audits(params, store).items():
        if audited is None:
            out.append(_check("sampler", policy, np.nan, None, None))
        else:
            p, outcome = audited.p_value, FAILED if audited.mismatch else HOLDS if audited.settled else NOT_SETTLED
            out.append(_check("sampler", policy, p, None, p, outcome) | {"best": audited.best})
    return out


def _check(
    name: str, policy: str, value: float, limit: float | None, p: float | None, outcome: str | None = None
) -> dict[str, Any]:
    """A check; where no outcome is given, the value must not exceed its limit, beyond chance where `p` is known."""
    if np.isnan(value):
        outcome, p = NOT_MEASURED, None
    elif outcome is None and limit is not None and value <= limit:
        outcome = HOLDS
    elif outcome is None:
        outcome = FAILED if p is None or p < WRONG else NOT_SETTLED
    row = {"check": name, "policy": policy, "value": None if np.isnan(value) else float(value), "limit": limit}
    return row | {"p_value": p, "outcome": outcome, "ok": {HOLDS: True, FAILED: False}.get(outcome)}


def mean_weight(log_weight: np.ndarray, prompt: np.ndarray) -> tuple[float, float]:
    """The mean weight of rows (rows,), and the p-value for a mean of at most 1; prompts are independent, and the rows
    of one count by their mean. NaN without rows."""
    if not len(log_weight):
        return np.nan, np.nan
    codes = pd.factorize(prompt)[0]
    p = mean_weight_p_value(log_weight, lambda weight: np.bincount(codes, weights=weight) / np.bincount(codes))
    with np.errstate(over="ignore"):
        return float(np.exp(log_weight).clip(max=np.finfo(float).max / len(log_weight)).mean()), p


def self_consistency(table: Table) -> pd.Series:
    """Teacher-forced minus generation log-prob of P0's responses (nats per sequence), rows with both."""
    return (table.logged.generation_forced - table.logged.generation_logp).dropna()


def clones(params: Params) -> list[str]:
    """Targets whose definition equals the logging policy's, or is declared to where definitions are not known: their
    log-weights measure the noise floor."""
    defined = policies(params)
    base = defined[params.logging_policy].fingerprint
    declared = params.imported.clones if params.imported else ()
    return [t for t in params.targets if t in declared or defined[t].fingerprint == base]


def clone_control(params: Params, table: Table) -> pd.DataFrame:
    """Noise per copy of the logging policy: rows, rows with log-weight exactly 0, largest |log-weight|, range of the
    weights."""
    rows = []
    for name in clones(params):
        log_weight = pd.Series(table.log_weights()[name]).dropna()
        low, high = np.exp(log_weight.min()), np.exp(log_weight.max())
        rows.append((name, len(log_weight), int((log_weight == 0).sum()), log_weight.abs().max(), low, high))
    columns = ["copy", "rows", "exactly 0", "max |log-weight|", "lowest weight", "highest weight"]
    return pd.DataFrame(rows, columns=columns)


def clone_sentence(control: pd.DataFrame, logging_policy: str) -> str:
    """What the copies of the logging policy (`clone_control`) say about the noise in every weight."""
    measured = control[control.rows > 0]
    if measured.empty:
        return (
            f"No target is meant as a copy of {logging_policy}, or none of its log-probs is there: the noise of "
            "the log-probs is not measured."
        )
    worst = measured.loc[measured["max |log-weight|"].idxmax()]
    noise, copy = worst["max |log-weight|"], f"{worst['copy']}, a copy of {logging_policy},"
    if not noise:
        return f"All {worst['rows']:,} weights of {copy} are exactly 1, as they must be."
    low, high = number(worst["lowest weight"]), number(worst["highest weight"])
    between = "" if low == high == "1" else f" They lie between {low} and {high}."
    return f"The weights of {copy} must be 1.{between} Noise of the log-probs moves a weight by up to {factor(noise)}."


def shuffled(params: Params, store: Store) -> pd.Series:
    """By how many nats each response of the control is less likely as the answer to another question than to its own,
    by prompt; quarantined records left out."""
    records = usable(read(store, LOGPROBS, SHUFFLED))
    records = records[records.policy == params.logging_policy].astype({"value": float})
    values = records.groupby(["job", "prompt_id", "draw"])["value"].first()
    own, other = (values[values.index.get_level_values("job") == job].droplevel("job") for job in (LOGPROBS, SHUFFLED))
    return (own - other).dropna().droplevel("draw")


def shuffled_control(params: Params, drop: pd.Series) -> dict[str, Any]:
    """The shuffled-prompt control by what `drop` (nats) can show.

    It holds where drops are above 0 by more than chance (signed-rank test: log-probs that have nothing to do with the
    question are as often higher by so much after another one). It fails where P0 after another question would be a
    policy that cannot be (`exp(-drop)` has a mean of at most 1 under P0, as any weight has), or where fewer than
    half of the responses move by over `CONSISTENT`, beyond chance, and nothing says that those fall: no model answers
    all questions alike to a tenth of a nat. Each at half of `WRONG`.
    """
    p0 = params.logging_policy
    if drop.empty:
        return _check("shuffled_prompt", p0, np.nan, CHANCE, None)
    moved = int((drop.abs() > CONSISTENT).sum())
    unrelated = float(stats.wilcoxon(drop, alternative="greater").pvalue) if (drop != 0).any() else 1.0
    same = float(stats.binom.cdf(moved, len(drop), 0.5)) if unrelated >= WRONG else 1.0
    impossible = 1.0 if policies(params)[p0].temperature_mismatch else mean_weight_p_value(-drop.to_numpy())
    p = min(1.0, 2 * min(same, impossible))
    outcome = HOLDS if unrelated < WRONG else NOT_SETTLED
    return _check("shuffled_prompt", p0, (drop > 0).mean(), CHANCE, p, FAILED if p < WRONG else outcome)


def shuffled_sentence(params: Params, store: Store) -> str:
    """Whether the log-probs depend on the question that is asked, and how often chance says so."""
    drop = shuffled(params, store)
    if drop.empty:
        return "Shuffled prompts: not measured in this run."
    outcome, lower = shuffled_control(params, drop)["outcome"], int((drop > 0).sum())
    less = f"are less likely after another question (median {drop.median():.2f} nats)"
    measured = f"{lower:,} of {len(drop):,} responses {less}"
    return {
        HOLDS: f"{measured}: the log-probs depend on the question. Of others this is said in at most 1 of {RUNS} runs.",
        NOT_SETTLED: f"{measured}: too little to say whether the log-probs depend on the question.",
        FAILED: f"FAILED: {measured}. The log-probs do not depend on the question as they must; of sound ones this is "
        f"said in at most 1 of {RUNS} runs.",
    }[outcome]


def counts(checks: list[dict[str, Any]]) -> dict[str, int]:
    """How many checks failed, hold, are not settled and were not measured, under names for `Run.note`."""
    found = Counter(check["outcome"] for check in checks)
    words = {"failed": FAILED, "hold": HOLDS, "not_settled": NOT_SETTLED, "not_measured": NOT_MEASURED}
    return {f"controls_{word}": found[outcome] for word, outcome in words.items()}


def summary(checks: list[dict[str, Any]], named: bool = False) -> str:
    """What was measured, what failed of it and by how much, and how many were not; with `named`, which these are."""
    p0 = next((c["policy"] for c in checks if c["check"] == "shuffled_prompt"), "the logging policy")

    def words(outcome: str, kind: str) -> list[str]:
        """The checks of an outcome in the words of `CONTROLS`; a value as another number than its limit."""
        said = []
        for check in (check for check in checks if check["outcome"] == outcome):
            control = CONTROLS[check["check"]]
            value, limit = (np.nan if x is None else x for x in (check["value"], check["limit"]))
            numbers = {"limit": number(limit), "value": number(value, 1.0 if np.isnan(limit) else limit)}
            said.append(
                (getattr(control, kind) or control.failed).format(
                    policy=check["policy"], p0=p0, best=check.get("best"), **numbers
                )
            )
        return said

    failed, unsettled = words(FAILED, "failed"), words(NOT_SETTLED, "unsettled")
    missing = words(NOT_MEASURED, "unmeasured")
    names = [f"{words} ({k} checks)" if k > 1 else words for words, k in Counter(missing).items()]
    listed = f": {'; '.join(names)}" if named and names else ""
    measured = len(checks) - len(missing)
    if not measured:
        return f"None of the {len(checks)} controls of the log-probs was measured{listed}."
    if failed:
        text = (
            f"{len(failed)} of {measured} measured controls of the log-probs failed: {'; '.join(failed)}. Sound "
            f"log-probs fail each control in at most 1 of {RUNS} runs: what rests on these is not to be believed."
        )
    elif unsettled:
        text = f"{measured - len(unsettled)} of {measured} measured controls of the log-probs hold, none failed."
    elif measured == 1:
        text = "The only measured control of the log-probs holds."
    else:
        text = f"All {measured} measured controls of the log-probs hold."
    if unsettled:
        text += f" Not settled, since it may be chance: {'; '.join(unsettled)}."
    if missing:
        text += f" {len(missing)} {'was' if len(missing) == 1 else 'were'} not measured{listed}."
    return text


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
    rows = []
    for c in checks:
        control, outcome = CONTROLS[c["check"]], "FAILED" if c["outcome"] == FAILED else c["outcome"]
        outcome = "not contradicted, but not near 1: see page 06" if _is_far(c) else outcome
        what = control.what + (f", {c['n']:,} logged rows" if "n" in c else "")
        rows.append((what, c["policy"], c["value"], control.must.format(limit=c["limit"]), outcome))
    return pd.DataFrame(rows, columns=["what", "policy", "value", "must be", "outcome"])
