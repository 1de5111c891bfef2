"""The records of a run as tidy frames: the one way from a store to rows, and the same frames of a given table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

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
    """One row per record of these jobs, in the order of the store.

    Columns ``job``, those of `KEY`, ``request_hash``, ``value`` (as stored; missing where there is none), ``payload``,
    ``status`` (`OK`, `FAILED`: there is no value, `QUARANTINED`: there is one that is not to be used) and ``reason``.
    """
    names, statuses = ["job", *KEY, "request_hash", "value", "payload"], {"ok": OK, "error": FAILED}
    rows = []
    for row in (row for job in jobs for row in store.rows(job)):
        status = statuses[row["status"]] if row["quarantine"] is None else QUARANTINED
        rows.append((*(row[name] for name in names), status, row["quarantine"] or row["code"]))
    return pd.DataFrame(rows, columns=[*names, "status", "reason"])


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
    columns["finish_reason"] = [payload.get("finish_reason") for payload in rows.payload]
    columns |= {"tokens": tokens(rows.payload), "sd": pd.Series(deviation(rows.payload), dtype=float).where(ok)}
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


def tokens(payloads: Iterable[dict[str, Any]]) -> list[int | None]:
    """How many tokens each payload has, None where it has none."""
    return [len(p.get("token_ids") or p.get("token_logprobs") or ()) or None for p in payloads]


def deviation(payloads: Iterable[dict[str, Any]]) -> list[float | None]:
    """The standard deviation of each judge score, where it has one."""
    return [None if (variance := p.get("variance")) is None else variance**0.5 for p in payloads]
