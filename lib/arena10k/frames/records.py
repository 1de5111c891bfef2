"""The records of a run as tidy frames: the one way from a store to rows, and the same frames of a given table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pandas as pd

from arena10k.collection.jobs import JUDGE, LOGPROBS, ORACLE, RESPONSES, TRUTH, judging
from arena10k.collection.store import Store
from arena10k.params.config import Params

if TYPE_CHECKING:
    from arena10k.frames.table import Table

KEY = ["policy", "prompt_id", "draw"]
OK, FAILED, QUARANTINED = "ok", "failed", "quarantined"
#: The columns of each tidy frame; `Run` says what they hold.
COLUMNS = {
    "responses": [*KEY, "response", "tokens", "chars", "finish_reason", "status", "reason"],
    "logprobs": [*KEY, "logp", "raw_logp", "tokens", "status", "reason"],
    "judgments": [*KEY, "judge", "score", "sd", "status", "reason"],
    "labels": [*KEY, "kind", "label", "status", "reason"],
}
#: The jobs whose records each frame holds, beside that of the judges.
_JOBS = {"responses": [RESPONSES], "logprobs": [LOGPROBS], "labels": [ORACLE, TRUTH]}
_TYPES = {"draw": "int64", "tokens": "Int64", "chars": "Int64", "response": "string"}
_TYPES |= dict.fromkeys(("logp", "raw_logp", "score", "sd", "label"), "float64")


def read(store: Store, *jobs: str) -> pd.DataFrame:
    """One row per record of these jobs, in the order of the store; of each job read once, until its records change.

    Columns ``job``, those of `KEY`, ``request_hash``, ``value`` (as stored; missing where there is none), ``status``
    (`OK`, `FAILED`: there is no value, `QUARANTINED`: there is one that is not to be used), ``reason``, and of what the
    value was read from: ``tokens`` (how many), ``sd`` (of a judge score), ``token_logprobs`` (an array, nats),
    ``generation_logp`` (their sum), ``finish_reason``, ``end_scored``, ``end_tokens``, ``response_tokens``,
    ``propensity`` (the chance of a label); None where it has none.
    """
    parts = [store.once(("frame", job), lambda job=job: _of_job(store, job)) for job in jobs]  # type: ignore[misc]
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def _of_job(store: Store, job: str) -> pd.DataFrame:
    names = [*KEY, "request_hash", "value", "status", "code", "quarantine", "payload"]
    columns = dict(zip(names, store.columns(job, names), strict=True))
    payloads = columns.pop("payload")
    codes, aside = (pd.Series(columns.pop(name), dtype="str") for name in ("code", "quarantine"))
    frame = pd.DataFrame({name: list(values) for name, values in columns.items()})
    frame = frame.astype(dict.fromkeys(["policy", "prompt_id", "request_hash"], "str"))
    frame.insert(0, "job", pd.Series(job, frame.index, dtype="str"))
    frame["status"] = np.where(aside.notna(), QUARANTINED, np.where(frame.status == "ok", OK, FAILED))
    of_payload = [_of_payload(payload) for payload in payloads]
    read_from = pd.DataFrame(of_payload, columns=list(_PAYLOAD), dtype=object)
    return frame.assign(reason=aside.fillna(codes), **{name: read_from[name] for name in _PAYLOAD})


#: What `read` takes of a payload.
_PAYLOAD = (
    *("tokens", "sd", "token_logprobs", "generation_logp"),
    *("finish_reason", "end_scored", "end_tokens", "response_tokens", "propensity"),
)


def _of_payload(text: str | None) -> tuple[Any, ...]:
    p = orjson.loads(text) if text else {}
    nats, variance = p.get("token_logprobs"), p.get("variance")
    n = len(p.get("token_ids") or nats or ()) or None
    return (
        n, None if variance is None else variance**0.5, None if nats is None else np.array(nats, dtype=float),
        None if nats is None else sum(nats), p.get("finish_reason"), p.get("end_scored"), p.get("end_tokens"),
        p.get("response_tokens"), p.get("propensity"),
    )  # fmt: skip


def usable(records: pd.DataFrame) -> pd.DataFrame:
    """Those of `read` with a value that may be used."""
    return records[records.status == OK]


def tidy(name: str, params: Params, store: Store, prompt_ids: Iterable[str]) -> pd.DataFrame:
    """The frame of a name in `COLUMNS`: one row per record of the policies, failed and quarantined ones included."""
    rows = read(store, *_JOBS.get(name, judging(params)))
    rows = rows[rows.policy.isin(list(params.policies))].reset_index(drop=True)
    values, ok = rows["value"], rows.status == OK
    columns = {"response": values, "raw_logp": values, "judge": rows.job.str.removeprefix(JUDGE), "kind": rows.job}
    columns |= dict.fromkeys(("logp", "score", "label"), values.where(ok))
    columns["chars"] = [len(value) if isinstance(value, str) else None for value in values]
    columns["sd"] = rows.sd.astype(float).where(ok)
    return _finished(name, rows.assign(**columns), params.policies, prompt_ids)


def of_table(name: str, table: Table) -> pd.DataFrame:
    """The same frame of an analysis table that was given, where there are no records: only what is usable."""
    rows = pd.concat([table.logged.assign(policy=table.logging_policy), table.fresh], ignore_index=True)
    counted = rows.groupby(["policy", "prompt_id"]).cumcount()
    rows["draw"] = rows.draw.fillna(counted) if "draw" in rows else counted
    rows["prompt_id"] = rows.prompt_id.astype(str)
    rows = rows.rename(columns={"response_chars": "chars"}).assign(status=OK, reason=None, kind="oracle")
    prompt_ids = dict.fromkeys(rows.prompt_id)
    if name == "logprobs":
        logged = rows.head(len(table.logged))
        logps = {policy: logged[f"logp_{policy}"] for policy in table.policies}
        parts = [logged.assign(policy=policy, logp=logp, raw_logp=logp) for policy, logp in logps.items()]
        rows = pd.concat(parts).dropna(subset="logp")
    elif name == "judgments":
        parts = [rows.assign(judge=j, score=rows[JUDGE + j], sd=rows.get(f"{JUDGE}{j}_sd")) for j in table.judges]
        rows = pd.concat(parts).dropna(subset="score")
    elif name == "labels":
        rows = rows.dropna(subset="label")
    return _finished(name, rows, table.policies, prompt_ids)


def _finished(name: str, rows: pd.DataFrame, policies: Iterable[str], prompt_ids: Iterable[str]) -> pd.DataFrame:
    frame = rows.reset_index(drop=True).reindex(columns=COLUMNS[name])
    frame = frame.astype({column: kind for column, kind in _TYPES.items() if column in frame})
    return in_order(frame, policies, prompt_ids)


def in_order(rows: pd.DataFrame, policies: Iterable[str], prompt_ids: Iterable[str]) -> pd.DataFrame:
    """Rows in the order of policies, prompts and draws (and of judges or kinds of labels)."""
    by = [*KEY, *(c for c in ("judge", "kind") if c in rows)]
    ranks = rows[by].copy()
    for column, names in (("policy", policies), ("prompt_id", prompt_ids)):
        ranks[column] = rows[column].map({name: rank for rank, name in enumerate(names)})
    return rows.loc[ranks.sort_values(by, kind="stable").index].reset_index(drop=True)
