"""What shows only in the whole set: is every policy the one it was, and do log-probs belong to their rows?

A finding names no row that could be quarantined. Each is a dict: ``finding`` (a key of `WORDS`), ``job``, ``policy``,
``rows`` it concerns, ``p_value`` (None where it is certain), ``detail``.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from arena10k.audit.screening import SCORES, Flag, Wide, by_prompt, wide
from arena10k.collection.jobs import LOGPROBS, ORACLE, TRUTH, UNCERTAINTY
from arena10k.collection.judge import CONTINUOUS_SHARE, RUBRIC_SHARE, WATCH_FROM
from arena10k.collection.store import Store
from arena10k.estimation import outliers
from arena10k.estimation.diagnostics import mean_weight_p_value
from arena10k.estimation.logprobs import ENOUGH, set_tests, weight_facts
from arena10k.estimation.pareto import audit_weights
from arena10k.estimation.thresholds import WRONG
from arena10k.frames.records import QUARANTINED, read, usable
from arena10k.frames.table import Table
from arena10k.inputs.policies import policies
from arena10k.inputs.prompts import normalised
from arena10k.params.config import Params
from arena10k.wording import number

#: Codes that compare policies: without the rows that disagree most, the rest of two unrelated columns would agree.
RELATIVE = ("impossible_weight", "another_policys", "nats_per_character_outlier")

WORDS = {
    "definition_drift": "generated and scored under different definitions",
    "model_change": "answered by more than one model",
    "mode_share": "one score covers nearly everything",
    "duplicate_prompts": "duplicate prompts",
    "near_duplicate_prompts": "prompts equal but for case, spaces or character forms",
    "odd_texts": "log-probs unusual for the length of the text (kept)",
    "logprobs_not_summed": "log-probs do not fall with length and are near 0: means per token, not sums",
    "no_length_relation": "log-probs do not fall with length: they may be those of other rows",
    "no_agreement": "log-probs unrelated to the logging policy's, length apart: they are those of other rows",
    "likelier_than_p0": "responses likelier under the target than under their author: the two may be swapped",
    "mean_weight": "mean weights above 1 by more than chance",
}


def findings(params: Params, store: Store, flags: list[Flag], prompts: pd.DataFrame) -> list[dict[str, Any]]:
    """Everything found, the log-probs of `flags` left out of what is compared (but not of `mean_weight`, nor those of
    `RELATIVE` codes)."""
    of_scores = [*_changes(params, store), *_modes(params, store)]
    return of_scores + _duplicates(prompts) + _logprobs(params, store, flags, prompts)


def _finding(
    name: str, job: str | None, policy: str | None, rows: int, p: float | None = None, detail: str = ""
) -> dict[str, Any]:
    return {"finding": name, "job": job, "policy": policy, "rows": int(rows), "p_value": p, "detail": detail}


def _changes(params: Params, store: Store) -> list[dict[str, Any]]:
    """Policies whose records carry different fingerprints, and jobs of a policy that several models answered."""
    prints: dict[str, Counter[str]] = {}
    models: dict[tuple[str, str], Counter[str]] = {}
    for row in store.fingerprints():
        if row["policy"] in params.policies:
            prints.setdefault(row["policy"], Counter())[row["fingerprint"]] += row["n"]
    for row in store.counts():
        if row["model"] is not None:
            models.setdefault((row["job"], row["policy"]), Counter())[row["model"]] += row["n"]
    seen: list[tuple[str, str | None, str, Counter[str], int | None]] = []
    seen += [("definition_drift", None, policy, counts, 8) for policy, counts in prints.items()]
    seen += [("model_change", job, policy, counts, None) for (job, policy), counts in models.items()]
    return [
        _finding(name, job, policy, counts.total() - max(counts.values()), None, detail)
        for name, job, policy, counts, shown in seen
        if len(counts) > 1
        for detail in [", ".join(f"{value[:shown]} {n:,}" for value, n in counts.most_common())]
    ]


def _modes(params: Params, store: Store) -> list[dict[str, Any]]:
    """Scores of which one value covers too much; labels of few values (right or wrong) are judged by spread."""
    out = []
    for job in SCORES:
        values = Counter(usable(read(store, job))["value"])
        if values.total() < WATCH_FROM:
            continue
        grader = params.oracle.grader if job in (ORACLE, TRUTH) else params.judge
        few = grader is None or grader.few_ratings(job == UNCERTAINTY) or len(values) <= 2
        limit = RUBRIC_SHARE if few else CONTINUOUS_SHARE
        value, count = values.most_common(1)[0]
        if count > limit * values.total():
            detail = f"{value:g} in {count / values.total():.0%} of {values.total():,} (limit {limit:.0%})"
            out.append(_finding("mode_share", job, None, count, None, detail))
    return out


def _duplicates(prompts: pd.DataFrame) -> list[dict[str, Any]]:
    exact = prompts.prompt.duplicated()
    near = prompts.prompt[~exact].map(normalised).duplicated()
    counts = {"duplicate_prompts": int(exact.sum()), "near_duplicate_prompts": int(near.sum())}
    return [_finding(name, None, None, n) for name, n in counts.items() if n]


def _logprobs(params: Params, store: Store, flags: list[Flag], prompts: pd.DataFrame) -> list[dict[str, Any]]:
    table, p0 = wide(params, store, prompts), params.logging_policy
    code_of = {(f.prompt_id, f.request_hash): f.code for f in flags if f.job == LOGPROBS}
    keys = table.records[["prompt_id", "request_hash"]].itertuples(index=False, name=None)
    codes = pd.Series([code_of.get(key, "") for key in keys], dtype=object)
    values = table.values(((codes != "") & ~codes.isin(RELATIVE)).to_numpy(bool))
    odd = outliers.lengths(values, table.chars) & table.whole & ~table.cells((codes != "").to_numpy(bool), False)
    out = [] if policies(params)[p0].temperature_mismatch else _mean_weights(table)
    for name, rows in zip(table.policies, odd.sum(axis=0), strict=True):
        out += [_finding("odd_texts", LOGPROBS, name, rows)] * bool(rows)
    for (k, test), p in set_tests(values, table.chars, table.base).items():
        out.append(_finding(test, LOGPROBS, table.policies[k], np.isfinite(values[:, k]).sum(), p))
    return out


def _mean_weights(table: Wide) -> list[dict[str, Any]]:
    """Mean weights of all stored values that the verdicts would call impossible."""
    out, values = [], table.values()
    for k, name in enumerate(table.policies):
        log_weight = values[:, k] - values[:, table.base]
        finite = np.isfinite(log_weight)
        if k == table.base or not finite.any():
            continue
        p = mean_weight_p_value(log_weight[finite], by_prompt(table.prompt[finite]))
        if p < WRONG:
            mean = number(audit_weights(log_weight[finite]).mean_weight)
            detail = f"mean weight {mean} before anything is quarantined"
            out.append(_finding("mean_weight", LOGPROBS, name, finite.sum(), p, detail))
    return out


def facts(params: Params, store: Store, prompts: pd.DataFrame) -> dict[str, list[str]]:
    """What the verdicts have to know of a run's log-probs, by policy: the findings that every weight hangs on, with
    what is quarantined left out."""
    table = wide(params, store, prompts)
    left_out = (table.records.status == QUARANTINED) & ~table.records.reason.isin(RELATIVE)
    return weight_facts(table.values(left_out.to_numpy(bool)), table.chars, table.policies, table.base)


def facts_of_table(table: Table) -> dict[str, list[str]]:
    """The same of a table that was given; nothing where it does not tell how long its responses are."""
    names = table.policies
    chars = table.logged.response_chars.to_numpy(float)
    if not np.isfinite(chars).any():
        chars = table.logged.response.str.len().to_numpy(float, na_value=np.nan)
    values = np.column_stack([table.logged[f"logp_{name}"].to_numpy(float) for name in names])
    return weight_facts(values, chars, names, 0)


def frame(findings: list[dict[str, Any]]) -> pd.DataFrame:
    """The findings for a table, in words."""
    columns = ["what", "job", "policy", "rows", "p_value", "detail"]
    return pd.DataFrame([f | {"what": WORDS[f["finding"]]} for f in findings], columns=columns)


def sentence(findings: list[dict[str, Any]]) -> str:
    """What shows in the whole set, or that nothing does and what could have shown."""
    if not findings:
        return (
            "No set-level check failed. Checked were: definitions and models where the records name them, the spread "
            f"of scores (jobs with at least {WATCH_FROM}), duplicate prompts, mean weights, and how log-probs go with "
            f"length and with those of the logging policy (policies with at least {ENOUGH})."
        )
    where: dict[str, list[str]] = {}
    for f in findings:
        where.setdefault(f["finding"], []).append(str(f["policy"] or f["job"] or f"{f['rows']} prompts"))
    parts = [f"{WORDS[name]} ({', '.join(dict.fromkeys(places))})" for name, places in where.items()]
    return f"{len(findings)} set-level {'check' if len(findings) == 1 else 'checks'} failed: {'; '.join(parts)}."
