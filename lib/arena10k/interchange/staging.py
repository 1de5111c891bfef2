"""The run that an import makes: a folder that becomes `data/<run>` in one step, or is never seen."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from arena10k import paths
from arena10k.errors import ArenaError
from arena10k.inputs.faults import Fault
from arena10k.inputs.policies import unit_hash
from arena10k.inputs.sources import COLUMNS
from arena10k.interchange.rows import Row

_BATCH = 10_000


@contextmanager
def staged(run: str) -> Iterator[Path]:
    """A folder beside the run's that takes its place when the block ends without an error, and is removed otherwise;
    what a killed import left is removed by the next one of the same run.

    Raises ArenaError while another import of the run is at work, and where the folder cannot be written.
    """
    final = paths.data_dir(run)
    folder = final.with_name(f".{final.name}.importing")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ArenaError(f"{folder.parent}: cannot be written ({error.strerror})") from error
    try:
        try:  # the lock goes with the process
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = folder.stat().st_ino == os.fstat(lock).st_ino
        except OSError:
            is_ours = False
        if not is_ours:
            raise ArenaError(f"{run}: another import of this run is at work")
        for left in folder.iterdir():
            left.unlink()
        try:
            yield folder
            for path in folder.iterdir():
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
            folder.replace(final)
        except (OSError, sqlite3.OperationalError) as error:
            raise ArenaError(f"data/{run}: cannot be written ({error})") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


class Prompts:
    """The prompts of all rows, kept on disk: every id has one text."""

    def __init__(self, folder: Path):
        self._path = folder / "prompts.sqlite"
        self._db = sqlite3.connect(self._path, isolation_level=None)
        self._columns = ", ".join(f'"{name}"' for name in COLUMNS)
        self._db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
        # The order of a run's prompts depends neither on the file's order nor on other prompts.
        self._db.execute(f"CREATE TABLE prompts (place REAL, {self._columns}, PRIMARY KEY (prompt_id)) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def add(self, row: Row, column: str) -> None:
        """Note a row's prompt; none may be known. Raises Fault of its column where the id has another text."""
        prompt_id, prompt = row.prompt_id, row.prompt
        before = self._db.execute("SELECT prompt FROM prompts WHERE prompt_id = ?", (prompt_id,)).fetchone()
        if before is None:
            values = (prompt_id, unit_hash("order", prompt_id), prompt, row.category, row.language)
            self._db.execute(
                "INSERT INTO prompts (prompt_id, place, prompt, category, language) VALUES (?, ?, ?, ?, ?)", values
            )
        elif before[0] is None and prompt is not None:
            self._db.execute("UPDATE prompts SET prompt = ? WHERE prompt_id = ?", (prompt, prompt_id))
        elif prompt not in (None, before[0]):
            do = "give another question another prompt_id"
            raise Fault(column, "is another text than an earlier row gives under the same prompt_id", do=do)

    def write(self, path: Path) -> int:
        """Write the run's prompts file in its order, and drop what it was made from. Returns how many there are."""
        self._db.execute("CREATE INDEX by_place ON prompts (place)")
        cursor = self._db.execute(f"SELECT {self._columns} FROM prompts ORDER BY place, prompt_id")
        schema = pa.Schema.from_pandas(pd.DataFrame(columns=list(COLUMNS), dtype="string"), preserve_index=False)
        count = 0
        with pq.ParquetWriter(path, schema) as writer:
            while rows := cursor.fetchmany(_BATCH):
                count += len(rows)
                writer.write_table(pa.table([list(c) for c in zip(*rows, strict=True)], schema=schema))
        self.close()
        self._path.unlink()
        return count

    def close(self) -> None:
        self._db.close()
