"""Counts of a store's records by all that a look at a run asks for, kept up by triggers with every change of a record:
to count hundreds of thousands takes long."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
#: What records are counted by, in terms of a row of SQL: '' where there is no code, quarantine reason or model.
_BY = {
    **{name: f"{{row}}.{name}" for name in ("job", "policy", "fingerprint", "context", "status", "draw")},
    **{name: f"COALESCE({{row}}.{name}, '')" for name in ("code", "quarantine", "model")},
    "minute": "CAST({row}.created / 60 AS INTEGER)",
}
_SUMS = {"n": "1", "attempts": "{row}.attempts"} | {
    name: f"COALESCE({{row}}.{name}, 0)" for name in ("prompt_tokens", "completion_tokens")
}
#: Exact within the minute once one of its records has been superseded.
_ENDS = {"oldest": "MIN", "newest": "MAX"}


def counted(records: str) -> str:
    """The query for the tallies of a table or selection, which counts them now."""
    columns = [f"{of} AS {name}" for name, of in _BY.items()] + [f"SUM({of}) AS {name}" for name, of in _SUMS.items()]
    columns += [f"{end}({{row}}.created) AS {name}" for name, end in _ENDS.items()]
    by = ", ".join(map(str, range(1, len(_BY) + 1)))
    return f"SELECT {', '.join(columns)} FROM {records} AS records GROUP BY {by}".format(row="records")


def _add(row: str, sign: str = "") -> str:
    values = [*_BY.values(), *(f"{sign}{of}" for of in _SUMS.values()), *["{row}.created"] * len(_ENDS)]
    changes = [f"{name} = {name} + excluded.{name}" for name in _SUMS]
    changes += [f"{name} = {end}({name}, excluded.{name})" for name, end in _ENDS.items()]
    put = f"INSERT INTO tallies VALUES ({', '.join(values)}) ON CONFLICT DO UPDATE SET {', '.join(changes)};"
    return put.format(row=row)


_COMES, _GOES = (
    _add("new"),
    _add("old", "-") + "DELETE FROM tallies WHERE n = 0 AND job = old.job AND policy = old.policy;",
)
_TRIGGERS = {"INSERT": _COMES, "DELETE": _GOES, "UPDATE": _GOES + _COMES}
_COLUMNS = ", ".join(f"{name} NOT NULL" for name in (*_BY, *_SUMS, *_ENDS))
#: The statements that have the table `tallies` kept, beginning with the records there are, and those that end it.
_BEGIN = (
    f"CREATE TABLE tallies ({_COLUMNS}, PRIMARY KEY ({', '.join(_BY)})) WITHOUT ROWID",
    f"INSERT INTO tallies {counted('records')}",
    *(f"CREATE TRIGGER tally_{on} AFTER {on} ON records BEGIN {does} END" for on, does in _TRIGGERS.items()),
)
END = (*(f"DROP TRIGGER tally_{on}" for on in _TRIGGERS), "DROP TABLE tallies")


class Counted:
    """What there is of records, without a look at one."""

    def __init__(self, connection: sqlite3.Connection):
        self._db = connection
        self._db.row_factory = sqlite3.Row
        self._live = "records"
        self._every = self._tallies = "tallies" if self._is_tallied() else f"({counted(self._live)})"
        self._kept: dict[Any, Any] = {}
        self._kept_at: tuple[int, int] | None = None

    def _is_tallied(self) -> bool:
        return bool(self._query("SELECT 1 FROM sqlite_master WHERE name = 'tallies'"))

    def _tally(self) -> None:
        """Have the records counted, now and at every change."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")  # another process may be opening the store, too
            for statement in () if self._is_tallied() else _BEGIN:
                self._db.execute(statement)
        self._every = self._tallies = "tallies"

    def once(self, what: Any, make: Callable[[], T]) -> T:
        """What `make()` reads, kept under the name `what` until the records change, whoever changes them."""
        now = self._db.execute("PRAGMA data_version").fetchone()[0], self._db.total_changes
        if self._kept_at != now:
            self._kept, self._kept_at = {}, now
        if what not in self._kept:
            self._kept[what] = make()
        return self._kept[what]  # type: ignore[no-any-return]

    def _query(self, query: str, args: Iterable[Any] = ()) -> list[dict[str, Any]]:
        return [dict(row) for row in self._db.execute(query, tuple(args))]

    def counts(self, since: float = float("inf")) -> list[dict[str, Any]]:
        """Number of records by job, policy, status, code, quarantine reason and the model that answered, with the
        oldest and newest time stamp, how many were made from the minute of `since` (seconds since the epoch) on, and
        their tokens."""
        query = f"""SELECT job, policy, status, NULLIF(code, '') AS code, NULLIF(quarantine, '') AS quarantine,
                    NULLIF(model, '') AS model, SUM(n) AS n, SUM(attempts) AS attempts, MIN(oldest) AS oldest,
                    MAX(newest) AS newest, SUM(n * (minute >= ?)) AS recent, SUM(prompt_tokens) AS prompt_tokens,
                    SUM(completion_tokens) AS completion_tokens FROM {self._tallies}
                    GROUP BY job, policy, status, code, quarantine, model ORDER BY job, policy, status, code"""
        minute = since // 60 if math.isfinite(since) else since
        return self.once(("counts", minute), lambda: self._query(query, (minute,)))

    def fingerprints(self) -> list[dict[str, Any]]:
        """Number of records by job, policy and fingerprint."""
        groups = "job, policy, fingerprint"
        return self._query(f"SELECT {groups}, SUM(n) AS n FROM {self._tallies} GROUP BY {groups}")

    def other_contexts(self) -> list[dict[str, Any]]:
        """The same of records that were made in another context than the current ones."""
        groups, other = "job, policy, fingerprint", "context NOT IN (SELECT context FROM temp.current)"
        return self._query(f"SELECT {groups}, SUM(n) AS n FROM {self._every} WHERE {other} GROUP BY {groups}")

    def complete_prompts(
        self, prompts: Collection[str], wanted: Mapping[tuple[str, str], int], job: str, logging_policy: str = ""
    ) -> tuple[int, int]:
        """How many of `prompts` have every wanted record ok and not quarantined: in all jobs, and in `job` alone.

        `wanted` gives the number of draws by (job, policy); each draw has one record in the current contexts. A
        log-prob is not usable where the response of the `logging_policy` that it is of is quarantined.
        """
        own = {*prompts}
        # Every record is of a response; of prompts that are no longer the run's there may be as many as are lacking.
        foreign = not own.issuperset(
            row[0] for row in self._db.execute("SELECT DISTINCT prompt_id FROM records WHERE job = 'responses'")
        )
        lacking = {cell: self._lacking(own, *cell, draws, foreign) for cell, draws in wanted.items()}
        scored = [cell for cell in wanted if cell[0] == "logprobs"]
        aside = {
            draws: own & self._prompts("responses", logging_policy, draws, "quarantine IS NOT NULL")
            for draws in {wanted[cell] for cell in scored}
        }
        for cell in scored:
            lacking[cell] |= aside[wanted[cell]]
        of_job = [of_cell for (name, _), of_cell in lacking.items() if name == job]
        every, alone = (
            len(prompts) - len(set[str]().union(*part)) if part else 0 for part in (list(lacking.values()), of_job)
        )
        return every, alone

    def _lacking(self, prompts: set[str], job: str, policy: str, draws: int, foreign: bool) -> set[str]:
        """The prompts without a usable record of each draw. Records are looked at only where some are absent or not
        usable."""
        query = f"""SELECT COALESCE(SUM(n), 0), COALESCE(SUM(n * (status = 'ok' AND quarantine = '')), 0)
                    FROM {self._tallies} WHERE job = ? AND policy = ? AND draw < ?"""
        asked, there = self._db.execute(query, (job, policy, draws)).fetchone()
        if asked == draws * len(prompts) and not foreign:
            bad = "(status = 'error' OR quarantine IS NOT NULL)"
            return self._prompts(job, policy, draws, bad) if there < asked else set()
        usable = "status = 'ok' AND quarantine IS NULL GROUP BY prompt_id HAVING COUNT(*) = :draws"
        return prompts - (self._prompts(job, policy, draws, usable) if asked else set())

    def _prompts(self, job: str, policy: str, draws: int, which: str) -> set[str]:
        given = {"job": job, "policy": policy, "draws": draws}
        where = f"job = :job AND policy = :policy AND draw < :draws AND {which}"
        return {row[0] for row in self._db.execute(f"SELECT prompt_id FROM {self._live} WHERE {where}", given)}
