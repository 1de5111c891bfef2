"""The store keeps what it acknowledged, once, and cannot hold an invented number."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from arena10k.collection.records import Record
from arena10k.collection.store import QUARANTINED, Store
from arena10k.errors import ArenaError


def record(**changes) -> Record:
    base = {
        "job": "logprobs",
        "prompt_id": "a",
        "request_hash": "h",
        "policy": "p0",
        "draw": 0,
        "fingerprint": "f",
        "context": "c",
    }
    return Record(**(base | {"status": "ok", "value": -1.5, "created": 1.0} | changes))


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "store.sqlite")


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": "ok", "value": None},
        {"status": "error", "value": 0.0, "code": "http_500"},
        {"status": "error", "value": None, "code": None},
        {"status": "ok", "value": -1.0, "code": "http_500"},
        {"status": "skipped", "value": None, "code": "x"},
        {"status": "error", "value": None, "code": "x", "quarantine": "constant"},
    ],
)
def test_a_failure_cannot_carry_a_number(store, wrong):
    with pytest.raises(sqlite3.IntegrityError):
        store.put(record(**wrong))
    assert list(store.rows()) == []


@pytest.mark.parametrize("job", [None, "logprobs"])
def test_reading_rows_takes_work_in_proportion_to_them(store, job):
    """Counted in steps of SQLite's virtual machine: a page that began at the first row would make them quadratic."""
    steps, done = [], 0
    for size in (2_000, 8_000):
        for number in range(done, size):
            store.put(record(prompt_id=f"{number:06}"))
        done, count = size, []
        store._db.set_progress_handler(lambda count=count: count.append(1), 100)
        assert len(list(store.rows(job))) == size
        steps.append(len(count))
    assert steps[1] < 5 * steps[0]


def test_an_ok_row_is_never_overwritten(store):
    assert store.put(record())
    assert not store.put(record(value=-9.0))
    assert not store.put(record(status="error", value=None, code="timeout"))
    assert [r["value"] for r in store.rows()] == [-1.5]


def test_an_error_gives_way_to_a_measurement_and_is_kept_as_attempt(store):
    store.put(record(status="error", value=None, code="timeout"))
    assert store.put(record())
    (row,) = store.rows()
    assert (row["status"], row["value"], row["attempts"]) == ("ok", -1.5, 2)
    assert store.rescored() == {("logprobs", "p0"): (1, 1)}


def test_quarantine_is_reversible(store):
    store.put(record())
    store.set_quarantine([("logprobs", "a", "h", "constant")])
    assert [r["quarantine"] for r in store.rows()] == ["constant"]
    store.set_quarantine([])
    assert [(r["quarantine"], r["value"]) for r in store.rows()] == [(None, -1.5)]


def test_export_and_recording_round_trip(store, tmp_path):
    store.put(record(payload={"token_logprobs": [-1.0, -0.5]}))
    store.put(record(job="responses", value="<script>1</script>\n\n  ", request_hash="r"))
    store.put(record(prompt_id="b", status="error", value=None, code="null_in_response", detail="token 3"))
    assert store.export(tmp_path / "records.parquet") == 3
    assert list(Store.recording(tmp_path / "records.parquet").rows()) == list(store.rows())


def test_content_digest_ignores_times_and_sees_values(tmp_path):
    digests = []
    for i, changes in enumerate([{"created": 5.0, "seconds": 2.0}, {"created": 6.0}, {"value": -1.25}]):
        store = Store.open(tmp_path / str(i) / "store.sqlite")
        store.put(record(**changes))
        digests.append(store.content_digest("logprobs"))
    assert digests[0] == digests[1] != digests[2]


def test_reading_before_anything_is_collected_says_so(tmp_path):
    with pytest.raises(ArenaError, match="nothing has been collected"):
        Store.read(tmp_path / "nothing" / "store.sqlite")


WRITER = """
import sys
from pathlib import Path
from arena10k.collection.records import Record
from arena10k.collection.store import QUARANTINED, Store
store = Store.open(Path(sys.argv[1]))
for i in range(100000):
    store.put(Record("logprobs", f"p{i}", "h", "p0", 0, "f", "c", "ok", value=float(-i)))
    print(i, flush=True)
"""


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path):
    path = tmp_path / "store.sqlite"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        acknowledged = [int(writer.stdout.readline()) for _ in range(400)]
        os.kill(writer.pid, signal.SIGKILL)
    stored = {r["prompt_id"]: r["value"] for r in Store.open(path).rows()}
    assert {f"p{i}" for i in acknowledged} <= stored.keys()
    assert all(value == -float(name[1:]) for name, value in stored.items())


def test_a_quarantined_value_gives_way_to_a_measurement_and_is_kept_with_its_reason(store):
    store.put(record(value=-50.0, payload={"token_logprobs": [-50.0]}))
    store.set_quarantine([("logprobs", "a", "h", "below_floor")])
    assert store.outcome("logprobs", "a", "h") == QUARANTINED
    assert store.put(record(value=-2.0))
    (row,) = store.rows()
    assert (row["value"], row["quarantine"], row["attempts"]) == (-2.0, None, 2)
    (kept,) = store.attempts()
    assert (kept["value"], kept["quarantine"], kept["payload"]) == (-50.0, "below_floor", {"token_logprobs": [-50.0]})
    assert store.rescored() == {("logprobs", "p0"): (1, 1)}


def test_a_quarantined_value_outlives_a_failure_which_is_kept(store):
    store.put(record(value=-50.0))
    store.set_quarantine([("logprobs", "a", "h", "below_floor")])
    assert not store.put(record(status="error", value=None, code="timeout"))
    (row,) = store.rows()
    assert (row["value"], row["quarantine"], row["attempts"]) == (-50.0, "below_floor", 2)
    assert [(a["status"], a["code"], a["value"]) for a in store.attempts()] == [("error", "timeout", None)]
    assert store.rescored() == {("logprobs", "p0"): (1, 0)}


def test_a_retired_row_is_kept_as_an_attempt_only(store):
    store.put(record(value=-3.0))
    assert store.retire([("logprobs", "a", "h"), ("logprobs", "b", "h")], "gone") == 1
    assert list(store.rows()) == []
    assert [(a["value"], a["quarantine"]) for a in store.attempts()] == [(-3.0, "gone")]


def test_a_store_of_before_keeps_attempts_with_their_values(tmp_path):
    path = tmp_path / "store.sqlite"
    Store.open(path).close()
    with sqlite3.connect(path) as db:
        for column in ("quarantine", "payload", "model"):
            db.execute(f"ALTER TABLE attempts DROP COLUMN {column}")
    store = Store.open(path)
    store.put(record(value=-50.0))
    store.set_quarantine([("logprobs", "a", "h", "constant")])
    store.put(record(value=-2.0))
    assert [(a["value"], a["quarantine"]) for a in store.attempts()] == [(-50.0, "constant")]
