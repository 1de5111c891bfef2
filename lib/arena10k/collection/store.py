"""The record store: one SQLite file per run, one row per measurement, nothing acknowledged is ever lost.

A row is a measurement (`ok`, with a value) or a typed error (no value); a CHECK constraint makes anything else
impossible. The key is (job, prompt_id, request_hash), so the same row cannot be stored twice and another policy's
answer cannot be mistaken for it. A measurement is never overwritten, unless it is quarantined and a new one has been
made; every superseded attempt is kept.
"""

from __future__ import annotations

import copy
import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from arena10k.collection import tallies
from arena10k.collection.ledger import SCHEMA as LEDGER_SCHEMA
from arena10k.collection.ledger import Ledger
from arena10k.collection.records import ATTEMPT, COLUMNS, INDEXES, KEY, KEYS, LATER, SCHEMA, UPSERT, Record, Row
from arena10k.errors import ArenaError

#: Rows that are read at once.
_PAGE = 256
#: The outcome of a row that has a value which is quarantined.
QUARANTINED = "quarantined"


class Store(tallies.Counted):
    """Records of one run. Use `Store.open` for collecting, `Store.read` for looking on (also while another process
    collects), and `Store.recording` for a committed Parquet export. `batches` are those at providers that are not read
    to the end."""

    def __init__(self, connection: sqlite3.Connection):
        super().__init__(connection)
        self._db.execute("CREATE TEMP TABLE current (context TEXT PRIMARY KEY)")
        self._db.execute("CREATE TEMP TABLE some (prompt_id TEXT PRIMARY KEY)")
        self._place = "(prompt_id, request_hash)"
        self.batches = Ledger(connection)

    @classmethod
    def open(cls, path: Path) -> Store:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Inside Jupyter the collecting event loop runs in a thread of its own; one thread writes at a time.
        db = sqlite3.connect(path, isolation_level=None, timeout=60, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA wal_autocheckpoint = 4000")  # pages: whoever collects waits for the disk meanwhile
        db.executescript(SCHEMA + LEDGER_SCHEMA)
        there = {row[1] for row in db.execute("PRAGMA table_info(attempts)")}
        for column in (column for column in LATER if column not in there):
            db.execute(f"ALTER TABLE attempts ADD COLUMN {column} TEXT")
        for older in ("by_cell", "by_definition", "by_prompt"):
            db.execute(f"DROP INDEX IF EXISTS {older}")
        store = cls(db)
        store._tally()
        return store

    @classmethod
    def read(cls, path: Path) -> Store:
        """Open read-only. Raises ArenaError where there is no store yet."""
        if not path.is_file():
            raise ArenaError(f"no store for run {path.parent.name!r}: nothing has been collected yet")
        return cls(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=60))

    @classmethod
    def recording(cls, path: Path) -> Store:
        """Load a Parquet export into memory; writes to it go nowhere."""
        import pyarrow.parquet as pq

        db = sqlite3.connect(":memory:", isolation_level=None)
        db.executescript(SCHEMA + LEDGER_SCHEMA)
        rows = pq.read_table(path).to_pylist()
        for row in (row for row in rows if row["value"] is not None):
            row["value"] = orjson.loads(row["value"])
        with db:
            db.execute("BEGIN")
            db.executemany(UPSERT, rows)
        return cls(db)

    def close(self) -> None:
        self._db.close()

    def using(self, contexts: Iterable[str]) -> Store:
        """Look only at records made in one of `contexts`; what was measured under other definitions stays unseen."""
        self._fill("current", contexts)
        current = "WHERE context IN (SELECT context FROM temp.current)"
        self._live, self._tallies = f"(SELECT * FROM records {current})", f"(SELECT * FROM {self._every} {current})"
        return self

    def only(self, prompt_ids: Iterable[str]) -> Store:
        """A view of the same records that sees those of the given prompts only; one such view at a time."""
        view = copy.copy(self)
        view._kept = {}
        self._fill("some", prompt_ids)
        view._live = f"(SELECT * FROM {self._live} WHERE prompt_id IN (SELECT prompt_id FROM temp.some))"
        view._tallies = f"({tallies.counted(view._live)})"
        view._place = "(+prompt_id, +request_hash)"  # no range of the index, so that each prompt is looked up in it
        return view

    def _fill(self, table: str, values: Iterable[str]) -> None:
        with self._db:
            self._db.execute("BEGIN")
            self._db.execute(f"DELETE FROM temp.{table}")
            self._db.executemany(f"INSERT OR IGNORE INTO temp.{table} VALUES (?)", [(value,) for value in values])

    # Writing

    def put(self, record: Record) -> bool:
        """Store one record and commit. Returns False where the row that is there stands: see `put_all`."""
        return self.put_all([record]) == 1

    def put_all(self, records: list[Record]) -> int:
        """Store records in one commit; what a batch owed is settled by it.

        An error gives way to whatever comes next, a quarantined value to a new measurement only: where that fails, the
        value stays quarantined and the failure is kept as an attempt. Returns how many records are the row now.
        """
        stored = 0
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for record in records:
                self._keep_attempt(record)
                stored += self._upsert(record)
                self.batches.settle(record.row)
        return stored

    def _upsert(self, record: Record) -> bool:
        row = vars(record) | {"payload": orjson.dumps(record.payload).decode()}
        return self._db.execute(UPSERT, row).rowcount == 1

    def _keep_attempt(self, record: Record) -> None:
        """Keep what `record` supersedes, or the record itself where it fails and a quarantined value stands."""
        key, failed = record.row, record.status != "ok"
        superseded = "status = 'error'" if failed else "(status = 'error' OR quarantine IS NOT NULL)"
        keep = f"INSERT INTO attempts ({ATTEMPT}) SELECT {ATTEMPT} FROM records WHERE {KEY} AND {superseded}"
        self._db.execute(keep, key)
        if failed and self.outcome(*key) == QUARANTINED:
            failure = (*key, "error", None, record.code, record.detail, record.created, None, None, record.model)
            self._db.execute(f"INSERT INTO attempts ({ATTEMPT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", failure)
            self._db.execute(f"UPDATE records SET attempts = attempts + ? WHERE {KEY}", (record.attempts, *key))

    @contextmanager
    def filling(self) -> Iterator[Callable[[Record], bool]]:
        """For a store that nobody else looks at yet: much faster than `put_all`, and worthless when interrupted.

        Gives a function that stores a record and returns False where an ok row already stands. Nothing is committed
        before the block ends; then indexes are made.
        """
        self._db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -131072;")
        self._db.executescript("".join(f"DROP INDEX {name};" for name in INDEXES))
        self._db.executescript(";".join(tallies.END))
        self._db.execute("BEGIN")
        yield self._upsert
        self._db.execute("COMMIT")
        self._db.executescript(SCHEMA)
        self._tally()
        self._db.executescript("PRAGMA synchronous = NORMAL; PRAGMA journal_mode = WAL; PRAGMA cache_size = -2000;")

    def retire(self, rows: Iterable[Row], reason: str) -> int:
        """Move records (job, prompt_id, request_hash) to the attempts, with `reason` where a quarantine reason would
        stand: what they measured is no longer part of the run. Returns how many."""
        keys, select = list(rows), ATTEMPT.replace("quarantine", "?")
        move = f"INSERT INTO attempts ({ATTEMPT}) SELECT {select} FROM records WHERE {KEY}"
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(move, [(reason, *key) for key in keys])
            return self._db.executemany(f"DELETE FROM records WHERE {KEY}", keys).rowcount

    def set_quarantine(self, rows: list[tuple[str, str, str, str]]) -> None:
        """Quarantine exactly the given (job, prompt_id, request_hash, reason); all other rows are released. What is as
        it should be is not written, so that what was read of it stays valid."""
        wanted = {(job, prompt_id, key): reason for job, prompt_id, key, reason in rows}
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            aside = "SELECT job, prompt_id, request_hash, quarantine FROM records WHERE quarantine IS NOT NULL"
            there = {tuple(key): reason for *key, reason in self._db.execute(aside)}
            changes = dict.fromkeys(there.keys() - wanted.keys()) | dict(wanted.items() - there.items())
            quarantine = f"UPDATE records SET quarantine = ? WHERE {KEY} AND status = 'ok'"
            self._db.executemany(quarantine, [(reason, *key) for key, reason in changes.items()])

    # Reading

    def get(self, job: str, prompt_id: str, request_hash: str) -> dict[str, Any] | None:
        """One record as a dict with the payload decoded, or None."""
        return next(
            map(_decoded, self._query(f"SELECT * FROM records WHERE {KEY}", (job, prompt_id, request_hash))), None
        )

    def attempts(self, job: str | None = None) -> list[dict[str, Any]]:
        """What was superseded, of one job or all, oldest first, payload decoded."""
        where, args = ("WHERE job = ?", (job,)) if job else ("", ())
        return list(map(_decoded, self._query(f"SELECT {ATTEMPT} FROM attempts {where} ORDER BY id", args)))

    def outcome(self, job: str, prompt_id: str, request_hash: str) -> str | None:
        """None where there is no record, else the word ok, `QUARANTINED`, or the error's code."""
        return self.standing([(job, prompt_id, request_hash)])[0][0]

    def standing(self, rows: list[Row]) -> list[tuple[str | None, str | None]]:
        """Of each row its `outcome`, and the token of the batch that owes it, None where none does: of many at once, as
        every query takes a while to begin."""
        asked, key = ", ".join(f"({place}, ?, ?, ?)" for place in range(len(rows))), ", ".join(KEYS)
        query = f"""WITH asked (place, {key}) AS (VALUES {asked})
                    SELECT IIF(quarantine IS NULL, COALESCE(code, status), '{QUARANTINED}'), token FROM asked
                    LEFT JOIN records USING ({key}) LEFT JOIN batch_tasks USING ({key}) ORDER BY place"""
        return list(map(tuple, self._db.execute(query, tuple(chain.from_iterable(rows)))))

    def rows(self, job: str | None = None, policy: str = "", holding: str = "") -> Iterator[dict[str, Any]]:
        """Records as dicts with the payload decoded, ordered by job and prompt; of one job or all, and where it is
        given of a `policy` alone, of those alone whose payload has a key `holding`. Streams."""
        where = {"AND policy = ?": policy, "AND instr(payload, ?)": holding and f'"{holding}":'}
        jobs = [job] if job else [row["job"] for row in self._query("SELECT DISTINCT job FROM records ORDER BY job")]
        for page in (page for name in jobs for page in self._pages(name, list(COLUMNS), _PAGE, where)):
            yield from (_decoded(dict(zip(COLUMNS, row, strict=True))) for row in page)

    def columns(self, job: str, names: list[str]) -> list[tuple[Any, ...]]:
        """These columns of a job's records, as they are stored, in the order of `rows`; empty ones without records."""
        pages = self._pages(job, [*names, "prompt_id", "request_hash"], 16 * _PAGE)
        parts = [list(zip(*page, strict=True))[: len(names)] for page in pages]
        return [tuple(chain.from_iterable(part)) for part in zip(*parts, strict=True)] or [()] * len(names)

    def _pages(
        self, job: str, names: list[str], size: int, where: Mapping[str, str] | None = None
    ) -> Iterator[list[tuple[Any, ...]]]:
        """Columns of a job's records, page by page: a query that stays open would keep the write-ahead log from being
        emptied for as long as a run collects."""
        also = {condition: value for condition, value in (where or {}).items() if value}
        query = f"""SELECT {", ".join(names)} FROM {self._live} WHERE job = ? AND {self._place} > (?, ?)
                    {" ".join(also)} ORDER BY prompt_id, request_hash LIMIT {size}"""
        at, last = (names.index("prompt_id"), names.index("request_hash")), ("", "")
        cursor = self._db.cursor()
        cursor.row_factory = None
        while page := cursor.execute(query, (job, *last, *also.values())).fetchall():
            yield page
            last = page[-1][at[0]], page[-1][at[1]]

    def policies_apart(self, job: str, policy: str) -> list[str]:
        """The policies that have no prompt in common with one, of what a job has."""
        own = "SELECT prompt_id FROM records WHERE job = :job AND policy = :policy"
        every = "SELECT DISTINCT policy FROM records WHERE job = :job"
        query = f"{every} AND policy != :policy EXCEPT {every} AND prompt_id IN ({own}) ORDER BY policy"
        return [row[0] for row in self._db.execute(query, {"job": job, "policy": policy})]

    def failed(self) -> list[dict[str, Any]]:
        """The records that hold an error, without payload, ordered by job and prompt."""
        columns = "job, prompt_id, request_hash, policy, draw, code, detail"
        return self._query(f"SELECT {columns} FROM {self._live} WHERE status = 'error' ORDER BY {columns}")

    def rescored(self) -> dict[tuple[str, str], tuple[int, int]]:
        """By (job, policy): rows that were asked again, and those of them that have a value in use now."""
        key = ", ".join(KEYS)
        query = f"""SELECT job, policy, COUNT(*), SUM(status = 'ok' AND quarantine IS NULL)
                    FROM (SELECT DISTINCT {key} FROM attempts) CROSS JOIN {self._live} USING ({key})
                    GROUP BY job, policy"""
        return {(r[0], r[1]): (r[2], r[3]) for r in self._db.execute(query)}

    def content_digest(self, *jobs: str) -> str:
        """Digest of what estimates depend on (keys, values, status), not of times or attempts."""
        query = """SELECT prompt_id, request_hash, policy, draw, status, value, code, quarantine FROM records
                   WHERE job = ? ORDER BY prompt_id, request_hash"""
        sha = hashlib.sha256()
        for row in (row for job in jobs for row in self._db.execute(query, (job,))):
            sha.update(repr(tuple(row)).encode())
        return sha.hexdigest()[:32]

    def export(self, path: Path) -> int:
        """Write all records to Parquet (values as JSON, so that text and numbers share the column). Returns rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        cursor = self._db.cursor()
        cursor.row_factory = None
        rows = cursor.execute(f"SELECT {', '.join(COLUMNS)} FROM records ORDER BY job, prompt_id, request_hash")
        text, number = pa.string(), {"INTEGER": pa.int64(), "REAL": pa.float64()}
        schema = pa.schema([(c, number.get(kind.split(" ")[0], text)) for c, kind in COLUMNS.items()])
        parts = [pa.table({c: [] for c in COLUMNS}, schema=schema)]
        while page := rows.fetchmany(16 * _PAGE):
            columns = dict(zip(COLUMNS, zip(*page, strict=True), strict=True))
            columns["value"] = tuple(None if v is None else orjson.dumps(v).decode() for v in columns["value"])
            parts.append(pa.table({name: pa.array(c, schema.field(name).type) for name, c in columns.items()}))
        temporary, table = path.with_suffix(".tmp"), pa.concat_tables(parts)
        pq.write_table(table, temporary, compression="zstd")
        temporary.replace(path)
        return len(table)


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its payload decoded: None where an older store did not keep it."""
    row["payload"] = orjson.loads(row["payload"]) if row["payload"] else None
    return row
