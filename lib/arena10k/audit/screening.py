"""Which stored values cannot be trusted: the record checks on every row, and the checks that need the whole set.

A bad value is found by structure and quarantined (a reason beside the record, reversible); it is never deleted and
never replaced by another number. What shows only in the whole set becomes a finding (`consistency`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from arena10k import paths
from arena10k.collection.echo import FLOOR_PER_TOKEN, SENTINELS, check_logprobs, check_structure
from arena10k.collection.generate import DUPLICATE, answer_digest
from arena10k.collection.jobs import DETERMINISTIC, LOGPROBS, ORACLE, RESPONSES, TRUTH, UNCERTAINTY
from arena10k.collection.store import Store
from arena10k.errors import CallError
from arena10k.estimation import outliers
from arena10k.frames import records
from arena10k.inputs import prompts as run_prompts
from arena10k.inputs.policies import digest, policies
from arena10k.params.config import Params

#: Jobs whose values lie in [0, 1].
SCORES = (DETERMINISTIC, UNCERTAINTY, ORACLE, TRUTH)
_ROW = ["prompt_id", "request_hash"]
#: What a reason to quarantine a value means.
REASONS = {
    "below_floor": "a known sentinel, or less than any token can have",
    "constant": "one value for every token, or 0.0 where the text cannot be certain",
    "positive": "a probability above 1",
    "repeated_value": "a value that unrelated rows share beyond chance",
    "whole_number": "a whole number among values that never are",
    "another_policys": "another policy's value",
    "impossible_weight": "a weight that P0's own responses cannot have",
    "nats_per_token_outlier": "out of line with the policy's other nats per token",
    "nats_per_character_outlier": "out of line with the length and with the other policies' values of the same text",
    "duplicate_answer": "one answer under several prompts",
    "duplicate_row": "a duplicate row",
    "out_of_range": "a score outside 0 to 1",
}


@dataclass(frozen=True)
class Flag:
    """One stored value that is not to be used, and why."""

    prompt_id: str
    policy: str
    job: str
    request_hash: str
    code: str


@dataclass(frozen=True, eq=False)
class Wide:
    """The log-probs of P0's logged responses as arrays, quarantined ones included: what is found of the whole set does
    not depend on earlier quarantine.

    `records` and `responses`: all log-probs and responses with a value, as `records.read` has them; `logged` (rows,)
    the responses in question; `place` (rows, policies): where their log-probs are among `records`, -1 where there is
    none. Of each response `chars`, `bytes`, codes of its `text` and of its `prompt`, and `copied`: it is part of the
    prompt.
    """

    policies: list[str]
    base: int
    records: pd.DataFrame
    responses: pd.DataFrame
    logged: pd.DataFrame
    place: np.ndarray
    chars: np.ndarray
    bytes: np.ndarray
    text: np.ndarray
    prompt: np.ndarray
    copied: np.ndarray

    def values(self, left_out: np.ndarray | None = None) -> np.ndarray:
        """Log-probs (rows, policies) in nats, NaN where there is none or where `left_out` (records,) is True."""
        values = self.records["value"].to_numpy(float)
        return self.cells(values if left_out is None else np.where(left_out, np.nan, values), np.nan)

    def cells(self, of_records: np.ndarray, none: float | bool) -> np.ndarray:
        """Something of each record (records,) as (rows, policies), `none` where there is no record."""
        return np.asarray(np.append(of_records, none)[self.place])

    @property
    def whole(self) -> np.ndarray:
        """Whether a record has no log-probs of its tokens (rows, policies)."""
        of_text = [payload.get("token_logprobs") is None for payload in self.records.payload]
        return self.cells(np.array(of_text, dtype=bool), False).astype(bool)


def wide(params: Params, store: Store, prompts: pd.DataFrame | None = None) -> Wide:
    """Read `Wide` from the store; `prompts`: the run's, where they are not in its file."""
    names, p0 = list(params.policies), params.logging_policy
    responses, logprobs = (_with_value(records.read(store, job)) for job in (RESPONSES, LOGPROBS))
    logged = responses[(responses.policy == p0) & (responses.draw < params.responses.logged_draws)]
    if prompts is None and paths.prompts_file(params.run).is_file():
        prompts = run_prompts.read(params.run)
    asked = {} if prompts is None else dict(zip(prompts.prompt_id, prompts.prompt.astype(str), strict=True))
    order = {p: i for i, p in enumerate(asked)}
    rank = logged.prompt_id.map(order).fillna(len(order))
    logged = logged.assign(rank=rank).sort_values(["rank", "prompt_id", "draw"], ignore_index=True)
    keys = pd.MultiIndex.from_frame(logged[["prompt_id", "draw"]])
    place = np.full((len(logged), len(names)), -1)
    rows = keys.get_indexer(pd.MultiIndex.from_frame(logprobs[["prompt_id", "draw"]]))
    columns = pd.Index(names).get_indexer(logprobs.policy)
    there = (rows >= 0) & (columns >= 0)
    place[rows[there], columns[there]] = np.flatnonzero(there)
    texts = [str(text) for text in logged["value"]]
    questions = [asked.get(prompt_id, prompt_id) for prompt_id in logged.prompt_id]
    copied = [bool(t.strip()) and t.strip() in q for t, q in zip(texts, questions, strict=True)]
    return Wide(
        names,
        names.index(p0),
        logprobs,
        responses,
        logged,
        place,
        chars=np.array([len(t) for t in texts], dtype=float),
        bytes=np.array([len(t.encode()) for t in texts], dtype=float),
        text=pd.factorize(pd.Series(texts, dtype=object))[0],
        prompt=pd.factorize(pd.Series(questions, dtype=object))[0],
        copied=np.array(copied, dtype=bool),
    )


def _with_value(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows.status != records.FAILED].reset_index(drop=True)


def by_prompt(prompt: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """What turns values (rows,) into their means by prompt, which are independent; `prompt` (rows,) are codes."""
    codes = np.unique(prompt, return_inverse=True)[1]
    rows = np.bincount(codes)
    return lambda values: np.asarray(np.bincount(codes, weights=values) / rows)


def scan(params: Params, store: Store, prompts: pd.DataFrame | None = None) -> list[Flag]:
    """Everything that is to be quarantined, in the order of the store, one flag per record; independent of earlier
    quarantine. `prompts`: the run's, where they are not in its file."""
    table = wide(params, store, prompts)
    codes = np.array([_structural(*row) for row in table.records[["value", "payload"]].to_numpy()], dtype=object)
    duplicates = _of_the_whole(params, table, codes)
    _rates(table.records, codes)
    duplicates |= {key: DUPLICATE for key in _replayed(params, store, table.responses) if key not in duplicates}
    keys = table.responses[_ROW].itertuples(index=False, name=None)
    scores = _with_value(records.read(store, *SCORES))
    outside = np.where(scores["value"].astype(float).between(0, 1), "", "out_of_range")
    return [
        *_flags(table.records, codes),
        *_flags(table.responses, [duplicates.get(key, "") for key in keys]),
        *_flags(scores, outside),
    ]


def _flags(rows: pd.DataFrame, codes: Iterable[str]) -> list[Flag]:
    """A flag of each record that has a code."""
    found = zip(rows.prompt_id, rows.policy, rows.job, rows.request_hash, codes, strict=True)
    return [Flag(*row) for row in found if row[-1]]


def _structural(value: float, payload: dict[str, Any]) -> str:
    """The code of a log-prob that cannot be a measurement by itself; empty for one that can."""
    tokens = payload.get("token_logprobs")
    try:
        if tokens is None:
            check_logprobs([value])
        else:
            check_structure(check_logprobs(tokens), value)
    except CallError as error:
        return error.code
    return ""


def _of_the_whole(params: Params, table: Wide, codes: np.ndarray) -> dict[tuple[str, str], str]:
    """Checks that need all rows, from plain structure to comparison; what one finds, the next leaves out. Fills in
    `codes` (records,) and returns those of responses, by prompt and request hash."""
    values, whole, chars = table.values(codes != ""), table.whole, table.chars

    def quarantine(code: str, hit: np.ndarray) -> None:
        hit = hit & np.isfinite(values)
        codes[table.place[hit]] = code
        values[hit] = np.nan

    listed = outliers.sentinels(values, SENTINELS) | outliers.floor(values, table.bytes, FLOOR_PER_TOKEN)
    quarantine("below_floor", whole & listed)
    quarantine("constant", whole & outliers.zeros(values, chars, table.copied))
    quarantine("repeated_value", outliers.repeated(values, table.text))
    quarantine("whole_number", whole & outliers.whole(values))
    quarantine("another_policys", outliers.copied_values(values, chars))
    # What follows takes P0's log-probs for the probabilities with which the responses were drawn.
    drawn = not policies(params)[params.logging_policy].temperature_mismatch
    if drawn:
        quarantine("impossible_weight", outliers.impossible_weights(values, chars, table.base))
    odd = outliers.lengths(values, chars) & outliers.contradicted(values, chars)
    quarantine("nats_per_character_outlier", whole & odd)
    twice, replayed = outliers.repeats(values, table.prompt, table.text, table.base)
    found = {DUPLICATE: replayed & whole[:, table.base], "duplicate_row": twice & drawn}
    rows = {code: table.logged[_ROW][hit].itertuples(index=False, name=None) for code, hit in found.items()}
    return {row: code for code, hit in rows.items() for row in hit}


def _rates(rows: pd.DataFrame, codes: np.ndarray) -> None:
    """Rows out of line in nats per token with their policy's other rows, among those without a code."""
    tokens = np.array([payload.get("response_tokens") or 0 for payload in rows.payload], dtype=float)
    counted = np.flatnonzero((codes == "") & (tokens > 0))
    some = rows.iloc[counted]
    hit = outliers.rates(some["value"].to_numpy(float), tokens[counted], some.policy.to_numpy(object))
    codes[counted[hit]] = "nats_per_token_outlier"


def _replayed(params: Params, store: Store, rows: pd.DataFrame) -> set[tuple[str, str]]:
    """Responses, by prompt and request hash, with the same text and token log-probs under different prompts. Which of
    them is the original cannot be told, so all are quarantined; so is the one that is left when another was refused
    while collecting."""
    template = {name: digest(p.messages("{prompt}")) for name, p in policies(params).items()}
    groups: dict[str, list[tuple[tuple[str, str], tuple[str, str]]]] = {}
    for row in rows[rows.policy.isin(list(template))].itertuples():
        if key := answer_digest(row.value, row.payload.get("token_logprobs")):
            groups.setdefault(key, []).append(
                ((row.prompt_id, row.request_hash), (row.prompt_id, template[row.policy]))
            )
    refused = {row["detail"].rsplit(" ", 1)[-1] for row in store.failed() if row["code"] == DUPLICATE}
    repeated = (group for key, group in groups.items() if key in refused or len({asked for _, asked in group}) > 1)
    return {row for group in repeated for row, _ in group}


def quarantine(store: Store, flags: list[Flag]) -> None:
    """Set the run's quarantine to exactly `flags`: what is no longer flagged is released."""
    store.set_quarantine([(f.job, f.prompt_id, f.request_hash, f.code) for f in flags])


def quarantined(store: Store, flags: list[Flag]) -> pd.DataFrame:
    """The quarantined rows, each with its reason and the value it had."""
    rows = [
        {"policy": f.policy, "prompt_id": f.prompt_id, "reason": f.code}
        | {"value": (store.get(f.job, f.prompt_id, f.request_hash) or {}).get("value")}
        for f in flags
    ]
    return pd.DataFrame(rows, columns=["policy", "prompt_id", "reason", "value"])


def reasons_sentence(rows: list[dict[str, Any]]) -> str:
    """Why values were quarantined, most frequent reason first; `rows` are the ``quarantined`` of `quality.json`."""
    counts = Counter(row["code"] for row in rows if row["status"] == "quarantined")
    if not counts:
        return "No stored value was quarantined."
    reasons = [f"{n:,} {code} ({REASONS.get(code, code)})" for code, n in counts.most_common()]
    return f"Quarantined, each with its value and free to be released: {'; '.join(reasons)}."
