"""What has been handed to providers in batches and is not read yet: written down before it can cost anything.

It lives in the store's file, so that a record and the end of its batch's debt are one commit.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from arena10k.collection.records import KEY, Row

SCHEMA = """
CREATE TABLE IF NOT EXISTS batches (
  token TEXT PRIMARY KEY, provider TEXT NOT NULL, label TEXT NOT NULL, requests INTEGER NOT NULL,
  input_file_id TEXT, batch_id TEXT, state TEXT NOT NULL, created REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS batch_tasks (
  job TEXT NOT NULL, prompt_id TEXT NOT NULL, request_hash TEXT NOT NULL,
  token TEXT NOT NULL REFERENCES batches, unanswered INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (job, prompt_id, request_hash)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS batch_tasks_by_token ON batch_tasks (token);
"""
#: States of ours, before the provider's own begin: nothing was sent that costs; something may have been.
PREPARED, CREATING = "prepared", "creating"


@dataclass(frozen=True)
class Entry:
    """One batch. `token` is ours and goes with the batch as metadata; `created` is when `state` last was ours."""

    token: str
    provider: str
    label: str
    requests: int
    input_file_id: str | None
    batch_id: str | None
    state: str
    created: float


class Ledger:
    """Batches and the tasks (job, prompt_id, request_hash) they owe."""

    def __init__(self, connection: sqlite3.Connection):
        self._db = connection

    def prepare(self, token: str, provider: str, label: str, requests: int, rows: Iterable[Row]) -> None:
        """Write down a batch that is about to be handed over."""
        batch = (token, provider, label, requests, None, None, PREPARED, time.time())
        self._write(
            ("INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [batch]),
            ("INSERT INTO batch_tasks VALUES (?, ?, ?, ?, 0)", ((*row, token) for row in rows)),
        )

    def note(self, token: str, **columns: Any) -> Entry:
        """Change columns of a batch; the batch as it is then."""
        names = ", ".join(f"{name} = ?" for name in columns)
        self._write((f"UPDATE batches SET {names} WHERE token = ?", [(*columns.values(), token)]))
        return self.entry(token)

    def entry(self, token: str) -> Entry:
        return Entry(*self._db.execute("SELECT * FROM batches WHERE token = ?", (token,)).fetchone())

    def owing(self, provider: str) -> bool:
        """Whether any batch of the provider owes anything."""
        query = "SELECT EXISTS (SELECT 1 FROM batch_tasks JOIN batches USING (token) WHERE provider = ?)"
        return bool(self._db.execute(query, (provider,)).fetchone()[0])

    def settle(self, row: Row) -> None:
        """A task has its record; part of the caller's transaction."""
        self._db.execute(f"DELETE FROM batch_tasks WHERE {KEY}", row)

    def set_unanswered(self, rows: Iterable[Row]) -> None:
        """These tasks' batch ended without them; they stay as they are until `release`."""
        self._write((f"UPDATE batch_tasks SET unanswered = 1 WHERE {KEY}", rows))

    def drop(self, token: str) -> None:
        """The batch gives nothing: its tasks are free again at once."""
        self._write(("DELETE FROM batch_tasks WHERE token = ?", [(token,)]))

    def release(self) -> None:
        """Free the tasks of batches that ended without them, so that they are asked anew."""
        self._write(("DELETE FROM batch_tasks WHERE unanswered", [()]))

    def _write(self, *statements: tuple[str, Iterable[tuple[Any, ...]]]) -> None:
        # A batch forgotten in a power cut would be paid twice: this is worth waiting for the disk.
        self._db.execute("PRAGMA synchronous = FULL")
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                for statement, values in statements:
                    self._db.executemany(statement, values)
        finally:
            self._db.execute("PRAGMA synchronous = NORMAL")
