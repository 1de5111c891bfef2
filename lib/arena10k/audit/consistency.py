"""What shows only in the whole set: is every policy the one it was, and do log-probs belong to their rows?

A finding names no row that could be quarantined. Each is a dict: ``finding`` (a key of `WORDS`), ``job``, ``policy``,
``rows`` it concerns, ``p_value`` (None where it is certain), ``detail``.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from arena10k.audit.checks import mean_weight
from arena10k.audit.screening import Flag, Wide
from arena10k.collection.jobs import LOGPROBS, ORACLE, TRUTH, grader_of, judging
from arena10k.collection.judge import CONTINUOUS_SHARE, RUBRIC_SHARE, WATCH_FROM
from arena10k.collection.store import Store
from arena10k.estimation import outliers
from arena10k.estimation.logprobs import ENOUGH, set_tests, weight_facts
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
    texts = prompts.prompt.dropna()
    exact = texts.duplicated()
    near = texts[~exact].map(normalised).duplicated()
    rows = [*_changes(params, store), *_modes(params, store)]
    rows += [("duplicate_prompts", None, None, exact.sum(), None, "")] * bool(exact.any())
    rows += [("near_duplicate_prompts", None, None, near.sum(), None, "")] * bool(near.any())
    rows += _of_logprobs(params, store, flags, prompts)
    columns = ("finding", "job", "policy", "rows", "p_value", "detail")
    return [dict(zip(columns, row, strict=True)) | {"rows": int(row[3])} for row in rows]


def _changes(params: Params, store: Store) -> list[tuple[Any, ...]]:
    """Policies whose records carry different fingerprints, and jobs of a policy that several models answered."""
    counts: dict[tuple[str, str | None, str], Counter[str]] = {}
    for row in store.fingerprints():
        if row["policy"] in params.policies:
            counts.setdefault(("definition_drift", None, row["policy"]), Counter())[row["fingerprint"][:8]] += row["n"]
    for row in store.counts():
        if row["model"] is not None:
            counts.setdefault(("model_change", row["job"], row["policy"]), Counter())[row["model"]] += row["n"]
    return [
        (*place, n.total() - max(n.values()), None, ", ".join(f"{name} {k:,}" for name, k in n.most_common()))
        for place, n in counts.items()
        if len(n) > 1
    ]


def _modes(params: Params, store: Store) -> list[tuple[Any, ...]]:
    """Scores of which one value covers too much; labels of few values (right or wrong) are judged by spread."""
    out: list[tuple[Any, ...]] = []
    for job in (*judging(params), ORACLE, TRUTH):
        values = Counter(usable(read(store, job))["value"])
        if values.total() < WATCH_FROM:
            continue
        grader = grader_of(params, job)
        few = grader is None or grader.few_ratings() or len(values) <= 2
        limit = RUBRIC_SHARE if few else CONTINUOUS_SHARE
        value, count = values.most_common(1)[0]
        share = count / values.total()
        if share > limit:
            detail = f"{value:g} in {share:.0%} of {values.total():,} (limit {limit:.0%})"
            out.append(("mode_share", job, None, count, None, detail))
    return out


def _of_logprobs(params: Params, store: Store, flags: list[Flag], prompts: pd.DataFrame) -> list[tuple[Any, ...]]:
    table = Wide(params, store, prompts)
    out: list[tuple[Any, ...]] = []
    code_of = {(f.prompt_id, f.request_hash): f.code for f in flags if f.job == LOGPROBS}
    keys = table.records[["prompt_id", "request_hash"]].itertuples(index=False, name=None)
    codes = pd.Series([code_of.get(key, "") for key in keys], dtype=object)
    is_flagged = (codes != "").to_numpy(bool)
    values = table.values(is_flagged & ~codes.isin(RELATIVE).to_numpy(bool))
    stored = table.values(np.zeros(len(codes), dtype=bool))
    for k, name in enumerate(table.policies):
        log_weight = stored[:, k] - stored[:, table.base]
        finite = np.isfinite(log_weight)
        mean, p = mean_weight(log_weight[finite], table.prompt[finite])
        # What the verdicts call impossible, where P0's log-probs are those with which its responses were drawn.
        if p < WRONG and k != table.base and not policies(params)[params.logging_policy].temperature_mismatch:
            detail = f"mean weight {number(mean)} before anything is quarantined"
            out.append(("mean_weight", LOGPROBS, name, finite.sum(), p, detail))
    odd = outliers.lengths(values, table.chars) & table.whole & ~table.cells(is_flagged, False)
    for name, rows in zip(table.policies, odd.sum(axis=0), strict=True):
        out += [("odd_texts", LOGPROBS, name, rows, None, "")] * bool(rows)
    for (k, test), p in set_tests(values, table.chars, table.base).items():
        out.append((test, LOGPROBS, table.policies[k], np.isfinite(values[:, k]).sum(), p, ""))
    return out


def facts(params: Params, store: Store, prompts: pd.DataFrame) -> dict[str, list[str]]:
    """What the verdicts have to know of a run's log-probs, by policy: the findings that every weight hangs on, with
    what is quarantined left out."""
    table = Wide(params, store, prompts)
    left_out = (table.records.status == QUARANTINED) & ~table.records.reason.isin(RELATIVE)
    return weight_facts(table.values(left_out.to_numpy(bool)), table.chars, table.policies, table.base)


def facts_of_table(table: Table) -> dict[str, list[str]]:
    """The same of a table that was given; nothing where it does not tell how long its responses are."""
    chars = table.logged.response_chars.to_numpy(float)
    values = np.column_stack([table.logged[f"logp_{name}"].to_numpy(float) for name in table.policies])
    return weight_facts(values, chars, table.policies, 0)


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
