"""What a record is, and the tables of SQLite that hold it: a number or a typed error, never both and never neither."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: The primary key of a record: job, prompt_id, request_hash.
Row = tuple[str, str, str]
KEYS = ("job", "prompt_id", "request_hash")
KEY = " AND ".join(f"{name} = ?" for name in KEYS)
COLUMNS = {
    "job": "TEXT NOT NULL", "prompt_id": "TEXT NOT NULL", "request_hash": "TEXT NOT NULL",
    "policy": "TEXT NOT NULL", "draw": "INTEGER NOT NULL", "fingerprint": "TEXT NOT NULL", "context": "TEXT NOT NULL",
    "status": "TEXT NOT NULL", "value": "", "code": "TEXT", "detail": "TEXT", "payload": "TEXT NOT NULL",
    "model": "TEXT", "prompt_tokens": "INTEGER", "completion_tokens": "INTEGER",
    "attempts": "INTEGER NOT NULL", "seconds": "REAL", "created": "REAL NOT NULL", "quarantine": "TEXT",
}  # fmt: skip
#: What is kept of a superseded record; a store of an older version lacks the `LATER` columns until it is opened.
LATER = ("quarantine", "payload", "model")
ATTEMPT = f"job, prompt_id, request_hash, status, value, code, detail, created, {', '.join(LATER)}"
INDEXES = {
    "by_policy": "records (job, policy, prompt_id, context, status, quarantine, draw)",
    "failures": "records (job, policy) WHERE status = 'error'",
    "quarantined": "records (job, prompt_id, request_hash, quarantine) WHERE quarantine IS NOT NULL",
    "attempts_by_key": "attempts (job, prompt_id, request_hash)",
}
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS records (
  {", ".join(f"{name} {kind}".strip() for name, kind in COLUMNS.items())},
  PRIMARY KEY (job, prompt_id, request_hash),
  CHECK ((status = 'ok' AND value IS NOT NULL AND code IS NULL)
      OR (status = 'error' AND value IS NULL AND code IS NOT NULL)),
  CHECK (quarantine IS NULL OR status = 'ok')
);
CREATE TABLE IF NOT EXISTS attempts (
  id INTEGER PRIMARY KEY, job TEXT NOT NULL, prompt_id TEXT NOT NULL, request_hash TEXT NOT NULL,
  status TEXT NOT NULL, value, code TEXT, detail TEXT, created REAL NOT NULL,
  quarantine TEXT, payload TEXT, model TEXT
);
{"".join(f"CREATE INDEX IF NOT EXISTS {name} ON {on};" for name, on in INDEXES.items())}
"""
#: What a row has cost in all its attempts: the sum of what stands and what comes, missing where neither is known.
_ADDED_UP = {
    c: f"CASE WHEN records.{c} IS NULL THEN excluded.{c} ELSE records.{c} + COALESCE(excluded.{c}, 0) END"
    for c in ("attempts", "prompt_tokens", "completion_tokens")
}
_CHANGES = {c: _ADDED_UP.get(c, f"excluded.{c}") for c in COLUMNS if c not in KEYS}
UPSERT = f"""
INSERT INTO records ({", ".join(COLUMNS)}) VALUES ({", ".join(":" + c for c in COLUMNS)})
ON CONFLICT (job, prompt_id, request_hash) DO UPDATE SET {", ".join(f"{c} = {to}" for c, to in _CHANGES.items())}
WHERE records.status = 'error' OR (records.quarantine IS NOT NULL AND excluded.status = 'ok')
"""


def key_of(row: Mapping[str, Any]) -> Row:
    """The primary key of a record that was read from the store."""
    return row["job"], row["prompt_id"], row["request_hash"]


@dataclass(frozen=True)
class Cell:
    """What is to be measured. `fingerprint` is the policy's; `context` that of the whole measurement
    (`jobs.contexts`); `row` the primary key of its record."""

    job: str
    prompt_id: str
    request_hash: str
    policy: str
    draw: int
    fingerprint: str
    context: str

    @property
    def row(self) -> Row:
        return self.job, self.prompt_id, self.request_hash


@dataclass(frozen=True)
class Record(Cell):
    """One measurement or typed error. `value` is what was measured: the response text, a log-probability in nats, a
    score or a label in [0, 1]; `payload` is what it was read from (token ids, token log-probs, raw judge text)."""

    status: str
    value: str | float | None = None
    code: str | None = None
    detail: str | None = None
    payload: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    attempts: int = 1
    seconds: float | None = None
    created: float = field(default_factory=time.time)
    quarantine: str | None = None
