"""Which stored values cannot be trusted: the record checks on every row, and the checks that need the whole set.

A bad value is found by structure and quarantined (a reason beside the record, reversible); it is never deleted and
never replaced by another number. What shows only in the whole set becomes a finding (`consistency`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from arena10k import paths
from arena10k.collection.echo import FLOOR_PER_TOKEN, SENTINELS, check_logprobs, check_structure
from arena10k.collection.generate import DUPLICATE, answer_digest
from arena10k.collection.jobs import LOGPROBS, ORACLE, RESPONSES, TRUTH, judging
from arena10k.collection.store import Store
from arena10k.errors import CallError
from arena10k.estimation import outliers
from arena10k.frames import records
from arena10k.inputs import prompts as run_prompts
from arena10k.inputs.policies import digest, policies
from arena10k.params.config import Params

_KEY = ["prompt_id", "request_hash"]
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


class Wide:
    """The log-probs of P0's logged responses as arrays, quarantined ones included: what is found of the whole set does
    not depend on earlier quarantine.

    `records` and `responses`: all log-probs and responses with a value, as `records.read` has them; `logged` (rows,)
    the responses in question, in the order of `prompts` (the run's; read from its file where they are not given);
    `place` (rows, policies): where their log-probs are among `records`, -1 where there is none; `base`: P0's column. Of
    each response `chars`, `bytes`, codes of its `text` and of its `prompt`, and `copied`: it is part of the prompt.
    """

    def __init__(self, params: Params, store: Store, prompts: pd.DataFrame | None = None):
        self.policies, row = list(params.policies), ["prompt_id", "draw"]
        self.base = self.policies.index(params.logging_policy)
        self.records, self.responses = _with_value(store, LOGPROBS), _with_value(store, RESPONSES)
        if prompts is None and paths.prompts_file(params.run).is_file():
            prompts = run_prompts.read(params.run)
        texts = () if prompts is None else prompts.prompt.fillna(prompts.prompt_id).astype(str)
        asked = {} if prompts is None else dict(zip(prompts.prompt_id, texts, strict=True))
        order = {prompt_id: rank for rank, prompt_id in enumerate(asked)}
        logged = self.responses[self.responses.policy == params.logging_policy]
        logged = logged[logged.draw < params.responses.logged_draws]
        logged = logged.assign(rank=logged.prompt_id.map(order).fillna(len(order)))
        self.logged = logged.sort_values(["rank", *row], ignore_index=True)
        rows = pd.MultiIndex.from_frame(self.logged[row]).get_indexer(pd.MultiIndex.from_frame(self.records[row]))
        columns = pd.Index(self.policies).get_indexer(self.records.policy)
        there = (rows >= 0) & (columns >= 0)
        self.place = np.full((len(logged), len(self.policies)), -1)
        self.place[rows[there], columns[there]] = np.flatnonzero(there)
        texts = [str(text) for text in self.logged["value"]]
        questions = [asked.get(prompt_id, prompt_id) for prompt_id in self.logged.prompt_id]
        copied = [bool(t.strip()) and t.strip() in q for t, q in zip(texts, questions, strict=True)]
        self.copied = np.array(copied, dtype=bool)
        self.chars = np.array([len(text) for text in texts], dtype=float)
        self.bytes = np.array([len(text.encode()) for text in texts], dtype=float)
        self.text, self.prompt = (pd.factorize(pd.Series(of, dtype=object))[0] for of in (texts, questions))

    def values(self, left_out: np.ndarray) -> np.ndarray:
        """Log-probs (rows, policies) in nats, NaN where there is none or where `left_out` (records,) is True."""
        return self.cells(np.where(left_out, np.nan, self.records["value"].to_numpy(float)), np.nan)

    def cells(self, of_records: np.ndarray, none: float | bool) -> np.ndarray:
        """Something of each record (records,) as (rows, policies), `none` where there is no record."""
        return np.asarray(np.append(of_records, none)[self.place])

    @property
    def whole(self) -> np.ndarray:
        """Whether a record has no log-probs of its tokens (rows, policies)."""
        return self.cells(self.records.token_logprobs.isna().to_numpy(), False)


def _with_value(store: Store, *jobs: str) -> pd.DataFrame:
    rows = records.read(store, *jobs)
    return rows[rows.status != records.FAILED].reset_index(drop=True)


def scan(params: Params, store: Store, prompts: pd.DataFrame | None = None) -> list[Flag]:
    """Everything that is to be quarantined, in the order of the store, one flag per record; independent of earlier
    quarantine. `prompts`: the run's, where they are not in its file."""
    table, scores = Wide(params, store, prompts), _with_value(store, *judging(params), ORACLE, TRUTH)
    logprobs, responses = table.records, table.responses
    codes = _structural(logprobs)
    duplicates = _of_the_whole(params, table, codes)
    tokens = logprobs.response_tokens.fillna(0).to_numpy(float)
    rest = np.flatnonzero((codes == "") & (tokens > 0))
    values, policy = logprobs["value"].to_numpy(float), logprobs.policy.to_numpy(object)
    codes[rest[outliers.rates(values[rest], tokens[rest], policy[rest])]] = "nats_per_token_outlier"
    duplicates = dict.fromkeys(_replayed(params, store, responses), DUPLICATE) | duplicates
    of_responses = np.full(len(responses), "", dtype=object)
    if duplicates:
        of_responses[:] = [duplicates.get(key, "") for key in responses[_KEY].itertuples(index=False, name=None)]
    of_scores = np.where(scores["value"].astype(float).between(0, 1), "", "out_of_range")
    return [
        Flag(*row)
        for rows, found in ((logprobs, codes), (responses, of_responses), (scores, of_scores))
        for row in rows.assign(code=found)[np.asarray(found, dtype=object) != ""][
            ["prompt_id", "policy", "job", "request_hash", "code"]
        ].itertuples(index=False, name=None)
    ]


def _structural(logprobs: pd.DataFrame) -> np.ndarray:
    """The codes (records,) of log-probs that cannot be measurements by themselves; empty for those that can."""
    values, codes = logprobs["value"].to_numpy(float), np.full(len(logprobs), "", dtype=object)
    parts = [np.array([v]) if t is None else t for v, t in zip(values, logprobs.token_logprobs, strict=True)]
    filled = [part if len(part) else np.array([np.nan]) for part in parts]
    ends = np.cumsum([len(part) for part in filled], dtype=int)
    nats, starts = np.concatenate([*filled, np.zeros(0)]), np.insert(ends, 0, 0)[:-1]
    low, high = (extreme.reduceat(nats, starts) if parts else nats for extreme in (np.minimum, np.maximum))
    # What is within the usual is a measurement; of the rest the checks of collecting tell what is wrong.
    usual = (low >= FLOOR_PER_TOKEN) & (high <= 0) & (low < high) & ~np.isin(values, SENTINELS)
    for row in np.flatnonzero(~usual):
        try:
            tokens = check_logprobs(parts[row].tolist())
            if logprobs.token_logprobs.iat[row] is not None:
                check_structure(tokens, values[row])
        except CallError as error:
            codes[row] = error.code
    return codes


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
    found = np.where(twice & drawn, "duplicate_row", np.where(replayed & whole[:, table.base], DUPLICATE, ""))
    keys = table.logged[_KEY].itertuples(index=False, name=None)
    return {key: str(code) for key, code in zip(keys, found, strict=True) if code}


def _replayed(params: Params, store: Store, responses: pd.DataFrame) -> list[tuple[str, str]]:
    """Responses, by prompt and request hash, with the same text and token log-probs under different prompts. Which of
    them is the original cannot be told, so all are quarantined; so is the one that is left when another was refused
    while collecting."""
    template = {name: digest(p.messages("{prompt}")) for name, p in policies(params).items()}
    rows = responses[responses.policy.isin(list(template))]
    refused = [row["detail"].rsplit(" ", 1)[-1] for row in store.failed() if row["code"] == DUPLICATE]
    if not refused:  # then only what stands twice can be a replay
        rows = rows[rows.assign(nats=rows.generation_logp.astype(float)).duplicated(["value", "nats"], keep=False)]
    answers = zip(rows["value"], rows.token_logprobs, strict=True)
    rows = rows.assign(
        answer=[answer_digest(value, None if nats is None else nats.tolist()) for value, nats in answers],
        asked=rows.policy.map(template).astype(object) + rows.prompt_id,
    ).dropna(subset="answer")
    repeated = (rows.groupby("answer").asked.transform("nunique") > 1) | rows.answer.isin(refused)
    return list(rows[repeated][_KEY].itertuples(index=False, name=None))


def quarantine(store: Store, flags: list[Flag]) -> None:
    """Set the run's quarantine to exactly `flags`: what is no longer flagged is released."""
    store.set_quarantine([(f.job, f.prompt_id, f.request_hash, f.code) for f in flags])


def quarantined(store: Store, flags: list[Flag]) -> pd.DataFrame:
    """The quarantined rows, each with its reason and the value it had."""
    stored = [store.get(f.job, f.prompt_id, f.request_hash) or {} for f in flags]
    rows = [(f.policy, f.prompt_id, f.code, row.get("value")) for f, row in zip(flags, stored, strict=True)]
    return pd.DataFrame(rows, columns=["policy", "prompt_id", "reason", "value"])


def reasons_sentence(rows: list[dict[str, Any]]) -> str:
    """Why values were quarantined, most frequent reason first; `rows` are the ``quarantined`` of `quality.json`."""
    counts = Counter(row["code"] for row in rows if row["status"] == "quarantined")
    if not counts:
        return "No stored value was quarantined."
    reasons = [f"{n:,} {code} ({REASONS.get(code, code)})" for code, n in counts.most_common()]
    return f"Quarantined, each with its value and free to be released: {'; '.join(reasons)}."
