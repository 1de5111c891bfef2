"""The records of a run as tidy frames: everything that was measured, what failed and what is quarantined included."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from arena10k.collection.jobs import DETERMINISTIC, LOGPROBS, ORACLE, RESPONSES, TRUTH, UNCERTAINTY
from arena10k.collection.store import Store
from arena10k.frames.table import JUDGE_MODES, Table
from arena10k.params.config import Params

_KEY = {
    "policy": "whose it is, in the order of the params",
    "prompt_id": "the prompt, in the run's order",
    "draw": "0 for a policy's first response to the prompt",
}
_STATUS = {
    "status": "ok, failed (there is no value) or quarantined (there is one that may not be used)",
    "reason": "why it failed or is quarantined",
}
#: The columns of each frame, with what they hold.
COLUMNS: dict[str, dict[str, str]] = {
    "responses": _KEY
    | {
        "response": "the text as it came; missing where the request failed",
        "tokens": "how many the endpoint counted",
        "chars": "characters of the text",
        "finish_reason": "stop, or length where it was cut off",
    }
    | _STATUS,
    "logprobs": _KEY
    | {
        "logp": "log-prob of P0's response under the policy, in nats; missing unless the status is ok",
        "raw_logp": "the same as it is stored, also where it is quarantined",
        "tokens": "how many were scored",
    }
    | _STATUS,
    "judgments": _KEY
    | {
        "mode": "deterministic or uncertainty",
        "score": "the judge's, in [0, 1]; missing unless the status is ok",
        "sd": "its standard deviation, in uncertainty mode",
    }
    | _STATUS,
    "labels": _KEY
    | {
        "kind": "oracle (estimators may use it) or truth (it only measures the true value)",
        "label": "the oracle's, in [0, 1]; missing unless the status is ok",
    }
    | _STATUS,
}
_JOBS: dict[str, dict[str, str | None]] = {
    "responses": {RESPONSES: None},
    "logprobs": {LOGPROBS: None},
    "judgments": {DETERMINISTIC: "deterministic", UNCERTAINTY: "uncertainty"},
    "labels": {ORACLE: "oracle", TRUTH: "truth"},
}
_KINDS: dict[str, Any] = {"draw": "int64", "tokens": "Int64", "chars": "Int64", "logp": float, "raw_logp": float}
_KINDS |= {"score": float, "sd": float, "label": float, "response": "string"}

Row = Mapping[str, Any]


def read(name: str, params: Params, prompts: pd.DataFrame, store: Store) -> pd.DataFrame:
    """The frame of a name in `COLUMNS`, from the store: one row per record of the run's policies."""
    made: list[dict[str, Any]] = []
    for job, variant in _JOBS[name].items():
        rows = (row for row in store.rows(job) if row["policy"] in params.policies)
        made += [_KINDS_OF[name](row, variant) | _told(row) for row in rows]
    return _tidy(name, made, params.policies, prompts.prompt_id)


def _told(row: Row) -> dict[str, Any]:
    aside = row["quarantine"] is not None
    status = "quarantined" if aside else "ok" if row["status"] == "ok" else "failed"
    return {c: row[c] for c in _KEY} | {"status": status, "reason": row["quarantine"] if aside else row["code"]}


def _usable(row: Row) -> Any:
    return row["value"] if row["status"] == "ok" and row["quarantine"] is None else None


def _tokens(row: Row) -> int | None:
    return len(row["payload"].get("token_ids") or row["payload"].get("token_logprobs") or ()) or None


def _response(row: Row, _: str | None) -> dict[str, Any]:
    text = row["value"]
    known = {"response": text, "chars": None if text is None else len(text), "tokens": _tokens(row)}
    return known | {"finish_reason": row["payload"].get("finish_reason")}


def _logprob(row: Row, _: str | None) -> dict[str, Any]:
    return {"logp": _usable(row), "raw_logp": row["value"], "tokens": _tokens(row)}


def _judgment(row: Row, mode: str | None) -> dict[str, Any]:
    variance = row["payload"].get("variance") if _usable(row) is not None else None
    return {"mode": mode, "score": _usable(row), "sd": None if variance is None else variance**0.5}


def _label(row: Row, kind: str | None) -> dict[str, Any]:
    return {"kind": kind, "label": _usable(row)}


_KINDS_OF: dict[str, Callable[[Row, str | None], dict[str, Any]]] = {
    "responses": _response,
    "logprobs": _logprob,
    "judgments": _judgment,
    "labels": _label,
}


def _tidy(
    name: str, rows: list[dict[str, Any]] | pd.DataFrame, policies: Iterable[str], prompt_ids: Iterable[str]
) -> pd.DataFrame:
    """Rows in the order of policies, prompts and draws, each column with its type."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS[name])).reset_index(drop=True)
    frame = frame.astype({c: kind for c, kind in _KINDS.items() if c in frame})
    order = {"policy": _places(policies), "prompt_id": _places(prompt_ids)}
    by = [*_KEY, *(c for c in ("mode", "kind") if c in frame)]
    ranks = {c: frame[c].map(order[c]) if c in order else frame[c] for c in by}
    return frame.loc[pd.DataFrame(ranks).sort_values(by, kind="stable").index].reset_index(drop=True)


def _places(names: Iterable[str]) -> dict[str, int]:
    return {name: i for i, name in enumerate(names)}


def of_table(name: str, table: Table) -> pd.DataFrame:
    """The same frame from an analysis table that was given, where there are no records: only what is usable."""
    logged = table.logged.assign(policy=table.logging_policy)
    rows = pd.concat([logged, table.fresh], ignore_index=True)
    counted = rows.groupby(["policy", "prompt_id"]).cumcount()
    rows["draw"] = rows.draw.fillna(counted) if "draw" in rows else counted
    rows = rows.assign(prompt_id=rows.prompt_id.astype(str))
    names = [table.logging_policy, *table.targets]
    made = _FROM_TABLE[name](rows, len(logged), names)
    made = made.assign(status="ok", reason=None)
    return _tidy(name, made, names, dict.fromkeys(rows.prompt_id))


def _responses_of(rows: pd.DataFrame, n: int, policies: list[str]) -> pd.DataFrame:
    return rows.rename(columns={"response_chars": "chars"}).assign(tokens=None)


def _logprobs_of(rows: pd.DataFrame, n: int, policies: list[str]) -> pd.DataFrame:
    parts = [
        rows.head(n)[["prompt_id", "draw"]].assign(policy=p, logp=rows.head(n)[f"logp_{p}"].astype(float))
        for p in policies
    ]
    known = pd.concat(parts).dropna(subset=["logp"])
    return known.assign(raw_logp=known.logp, tokens=None)


def _judgments_of(rows: pd.DataFrame, n: int, policies: list[str]) -> pd.DataFrame:
    parts = [
        rows[list(_KEY)].assign(mode=mode, score=rows[f"judge_{mode}"], sd=rows.get(f"judge_{mode}_sd"))
        for mode in JUDGE_MODES
        if f"judge_{mode}" in rows
    ]
    return pd.concat(parts).dropna(subset=["score"])


def _labels_of(rows: pd.DataFrame, n: int, policies: list[str]) -> pd.DataFrame:
    return rows[[*_KEY, "label"]].assign(kind="oracle").dropna(subset=["label"])


_FROM_TABLE: dict[str, Callable[[pd.DataFrame, int, list[str]], pd.DataFrame]] = {
    "responses": _responses_of,
    "logprobs": _logprobs_of,
    "judgments": _judgments_of,
    "labels": _labels_of,
}
