"""Which stored values cannot be trusted: the record checks on every row, and the checks that need the whole set.

What can be blamed on a row becomes a `Flag` (the row is quarantined); what shows only in the whole becomes a finding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from arena10k import paths
from arena10k.collection.echo import FLOOR_PER_TOKEN, SENTINELS, check_logprobs, check_structure
from arena10k.collection.generate import DUPLICATE, answer_digest
from arena10k.collection.jobs import DETERMINISTIC, LOGPROBS, ORACLE, RESPONSES, TRUTH, UNCERTAINTY
from arena10k.collection.records import key_of
from arena10k.collection.store import Store
from arena10k.errors import CallError
from arena10k.estimation import outliers
from arena10k.inputs.policies import digest, policies
from arena10k.inputs.prompts import read as read_prompts
from arena10k.params.config import Params

#: Jobs whose values lie in [0, 1].
SCORES = (DETERMINISTIC, UNCERTAINTY, ORACLE, TRUTH)


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
    """The stored log-probs of P0's logged responses as arrays, one row per response, for checks of the whole set.

    `values` (rows, policies) in nats, NaN where there is none; `hashes` the records' keys; `whole` True where a record
    has no log-probs of its tokens; `chars`, `bytes` of the responses, `text` and `prompt` codes of the texts, `copied`
    True where the response is part of the prompt.
    """

    policies: list[str]
    base: int
    ids: list[str]
    values: np.ndarray
    hashes: np.ndarray
    whole: np.ndarray
    chars: np.ndarray
    bytes: np.ndarray
    text: np.ndarray
    prompt: np.ndarray
    copied: np.ndarray
    response_hashes: list[str]


def wide(params: Params, store: Store, prompts: pd.DataFrame | None = None) -> Wide:
    """Read `Wide` from the store, quarantined rows included: what is found does not depend on earlier quarantine."""
    names = list(params.policies)
    p0 = params.logging_policy
    logged = [
        r for r in store.rows(RESPONSES)
        if r["policy"] == p0 and r["draw"] < params.responses.logged_draws and r["status"] == "ok"
    ]  # fmt: skip
    if prompts is None and paths.prompts_file(params.run).is_file():
        prompts = read_prompts(params.run)
    asked = {} if prompts is None else dict(zip(prompts.prompt_id, prompts.prompt.astype(str), strict=True))
    order = {p: i for i, p in enumerate(asked)}
    logged.sort(key=lambda r: (order.get(r["prompt_id"], len(order)), r["prompt_id"], r["draw"]))
    row_of = {(r["prompt_id"], r["draw"]): i for i, r in enumerate(logged)}
    shape = (len(logged), len(names))
    values, hashes, whole = np.full(shape, np.nan), np.full(shape, None, dtype=object), np.zeros(shape, dtype=bool)
    for r in store.rows(LOGPROBS):
        place = row_of.get((r["prompt_id"], r["draw"]))
        if place is not None and r["policy"] in names and r["status"] == "ok":
            cell = place, names.index(r["policy"])
            values[cell], hashes[cell] = r["value"], r["request_hash"]
            whole[cell] = r["payload"].get("token_logprobs") is None
    texts = [r["value"] for r in logged]
    told = [asked.get(r["prompt_id"], r["prompt_id"]) for r in logged]
    return Wide(
        names, names.index(p0), [r["prompt_id"] for r in logged], values, hashes, whole,
        np.array([len(t) for t in texts], dtype=float), np.array([len(t.encode()) for t in texts], dtype=float),
        pd.factorize(pd.Series(texts, dtype=object))[0], pd.factorize(pd.Series(told, dtype=object))[0],
        np.array([bool(t.strip()) and t.strip() in p for t, p in zip(texts, told, strict=True)], dtype=bool),
        [r["request_hash"] for r in logged],
    )  # fmt: skip


def by_prompt(prompt: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """What turns values (rows,) into their means by prompt, which are independent; `prompt` (rows,) are codes."""
    codes = np.unique(prompt, return_inverse=True)[1]
    rows = np.bincount(codes)
    return lambda values: np.asarray(np.bincount(codes, weights=values) / rows)


def scan(params: Params, store: Store, prompts: pd.DataFrame | None = None) -> list[Flag]:
    """Everything that is to be quarantined, in the order of the store, one flag per record; independent of earlier
    quarantine.

    Parameters
    ----------
    prompts : the run's prompts, where they are not in its file.
    """
    flags = {}
    rows = [r for r in store.rows(LOGPROBS) if r["status"] == "ok"]
    for row in rows:
        if code := _structural(row):
            flags[key_of(row)] = Flag(row["prompt_id"], row["policy"], LOGPROBS, row["request_hash"], code)
    table = wide(params, store, prompts)
    for flag in _of_the_whole(params, table, flags):
        flags.setdefault((flag.job, flag.prompt_id, flag.request_hash), flag)
    for flag in [*_outliers([r for r in rows if key_of(r) not in flags]), *_replayed(params, store), *_scores(store)]:
        flags.setdefault((flag.job, flag.prompt_id, flag.request_hash), flag)
    return list(flags.values())


def _structural(row: dict[str, Any]) -> str | None:
    tokens = row["payload"].get("token_logprobs")
    try:
        if tokens is None:
            check_logprobs([row["value"]])
        else:
            check_structure(check_logprobs(tokens), row["value"])
    except CallError as error:
        return error.code
    return None


def _of_the_whole(params: Params, table: Wide, known: dict[tuple[str, str, str], Flag]) -> list[Flag]:
    """Checks that need all rows, from plain structure to comparison; what one finds, the next leaves out."""
    values = table.values.copy()
    for i, k in zip(*np.nonzero(np.isfinite(values)), strict=True):
        if (LOGPROBS, table.ids[i], table.hashes[i, k]) in known:
            values[i, k] = np.nan
    found: list[Flag] = []

    def flag_all(code: str, hit: np.ndarray) -> None:
        for i, k in zip(*np.nonzero(hit & np.isfinite(values)), strict=True):
            found.append(Flag(table.ids[i], table.policies[k], LOGPROBS, table.hashes[i, k], code))
            values[i, k] = np.nan

    whole = table.whole
    listed = outliers.sentinels(values, SENTINELS) | outliers.floor(values, table.bytes, FLOOR_PER_TOKEN)
    flag_all("below_floor", whole & listed)
    flag_all("constant", whole & outliers.zeros(values, table.chars, table.copied))
    flag_all("repeated_value", outliers.repeated(values, table.text))
    flag_all("whole_number", whole & outliers.whole(values))
    flag_all("another_policys", outliers.copied_values(values, table.chars))
    # What follows takes P0's log-probs for the probabilities with which the responses were drawn.
    drawn = not policies(params)[params.logging_policy].temperature_mismatch
    if drawn:
        flag_all("impossible_weight", outliers.impossible_weights(values, table.chars, table.base))
    odd = outliers.lengths(values, table.chars) & outliers.contradicted(values, table.chars)
    flag_all("nats_per_character_outlier", whole & odd)
    twice, replayed = outliers.repeats(values, table.prompt, table.text, table.base)
    for code, rows in (("duplicate_row", twice & drawn), (DUPLICATE, replayed & whole[:, table.base])):
        found += [
            Flag(table.ids[i], params.logging_policy, RESPONSES, table.response_hashes[i], code)
            for i in np.flatnonzero(rows)
        ]
    return found


def _outliers(rows: list[dict[str, Any]]) -> list[Flag]:
    """Rows out of line in nats per token with their policy's other rows."""
    counted = [r for r in rows if (r["payload"].get("response_tokens") or 0) > 0]
    values = np.array([r["value"] for r in counted], dtype=float)
    tokens = np.array([r["payload"]["response_tokens"] for r in counted], dtype=float)
    hit = outliers.rates(values, tokens, np.array([r["policy"] for r in counted], dtype=object))
    return [
        Flag(r["prompt_id"], r["policy"], LOGPROBS, r["request_hash"], "nats_per_token_outlier")
        for r, bad in zip(counted, hit, strict=True)
        if bad
    ]


def _scores(store: Store) -> list[Flag]:
    """Scores and labels that are no number in [0, 1]."""
    return [
        Flag(r["prompt_id"], r["policy"], job, r["request_hash"], "out_of_range")
        for job in SCORES
        for r in store.rows(job)
        if r["status"] == "ok" and not 0 <= r["value"] <= 1
    ]


def _replayed(params: Params, store: Store) -> list[Flag]:
    """Responses with the same text and token log-probs under different prompts. Which of them is the original cannot
    be told, so all are quarantined; so is the one that is left when another was refused while collecting."""
    asked = {name: digest(p.messages("{prompt}")) for name, p in policies(params).items()}
    groups: dict[str, list[tuple[Flag, tuple[str, str]]]] = {}
    refused = set()
    for row in store.rows(RESPONSES):
        if row["code"] == DUPLICATE:
            refused.add(row["detail"].rsplit(" ", 1)[-1])
        key = answer_digest(row["value"], row["payload"].get("token_logprobs")) if row["status"] == "ok" else None
        if key and row["policy"] in asked:
            flag = Flag(row["prompt_id"], row["policy"], RESPONSES, row["request_hash"], DUPLICATE)
            groups.setdefault(key, []).append((flag, (row["prompt_id"], asked[row["policy"]])))
    found = (rows for key, rows in groups.items() if key in refused or len({prompt for _, prompt in rows}) > 1)
    return [flag for rows in found for flag, _ in rows]
