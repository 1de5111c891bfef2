"""The store keeps what it acknowledged, once, and cannot hold an invented number. That no kill loses a record is shown
in `test_wire`."""

from __future__ import annotations

import random
import sqlite3
from dataclasses import replace

import pytest

from arena10k.collection import tallies
from arena10k.collection.records import Record, key_of
from arena10k.collection.store import QUARANTINED, Store
from arena10k.errors import ArenaError

KEY = ("logprobs", "a", "h")
CELL = {**dict(zip(("job", "prompt_id", "request_hash"), KEY, strict=True)), "policy": "p0", "draw": 0}
CELL |= {"fingerprint": "f", "context": "c"}
FAILED = {"status": "error", "value": None, "code": "timeout"}


def record(**changes) -> Record:
    return Record(**(CELL | {"status": "ok", "value": -1.5, "created": 1.0} | changes))


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "store.sqlite")


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": None},
        {"code": "http_500"},
        {"status": "error", "value": 0.0, "code": "http_500"},
        {"status": "error", "value": None},
        {"status": "skipped", "value": None, "code": "x"},
        FAILED | {"quarantine": "constant"},
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
    for size in (1_000, 4_000):
        store.put_all([record(prompt_id=f"{number:06}") for number in range(done, size)])
        done, count = size, []
        store._db.set_progress_handler(lambda count=count: count.append(1), 100)
        assert len(list(store.rows(job))) == size
        steps.append(len(count))
    assert steps[1] < 5 * steps[0]


def test_what_was_read_is_kept_until_the_records_change_whoever_changes_them(store, tmp_path):
    made = []
    store.put(record())
    for change, read_again in (
        (lambda: None, 0),
        (lambda: store.set_quarantine([(*KEY, "constant")]), 1),
        (lambda: store.set_quarantine([(*KEY, "constant")]), 0),
        (lambda: Store.open(tmp_path / "store.sqlite").put(record(prompt_id="b")), 1),
        (lambda: store.set_quarantine([]), 1),
    ):
        before = store.once("what", lambda: made.append(len(list(store.rows()))) or len(made))
        change()
        assert store.once("what", lambda: made.append(len(list(store.rows()))) or len(made)) == before + read_again
    assert made == [1, 1, 2, 2]


#: What stands after two records of one key, the second put after the quarantine where one is named: value, quarantine,
#: attempts; then what is kept as attempts: status, code, value, quarantine; then whether a value of a row that was
#: asked again is in use.
SECOND = {
    "an ok row is never overwritten": ({}, None, {"value": -9.0}, (-1.5, None, 1), [], None),
    "nor by an error": ({}, None, FAILED, (-1.5, None, 1), [], None),
    "an error gives way": (FAILED, None, {}, (-1.5, None, 2), [("error", "timeout", None, None)], 1),
    "so does a quarantined value": (
        {"value": -50.0}, "below_floor", {"value": -2.0}, (-2.0, None, 2), [("ok", None, -50.0, "below_floor")], 1,
    ),
    "which outlives a failure": (
        {"value": -50.0}, "below_floor", FAILED, (-50.0, "below_floor", 2), [("error", "timeout", None, None)], 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SECOND)
@pytest.mark.parametrize("older", [False, True], ids=["new", "without the columns of attempts that came later"])
def test_what_stands_and_what_is_kept_of_two_records(tmp_path, case, older):
    first, quarantine, second, stands, kept, in_use = SECOND[case]
    store = Store.open(tmp_path / "store.sqlite")
    if older:
        for column in ("quarantine", "payload", "model"):
            store._db.execute(f"ALTER TABLE attempts DROP COLUMN {column}")
        store.close()
        store = Store.open(tmp_path / "store.sqlite")
    store.put(record(**first, payload={"token_logprobs": [-50.0]}))
    if quarantine:
        store.set_quarantine([(*KEY, quarantine)])
        assert store.outcome(*KEY) == QUARANTINED
    store.put(record(**second))
    (row,) = store.rows()
    assert (row["value"], row["quarantine"], row["attempts"]) == stands
    attempts = store.attempts()
    assert [(a["status"], a["code"], a["value"], a["quarantine"]) for a in attempts] == kept
    assert all(a["payload"] == {"token_logprobs": [-50.0]} for a in attempts if a["status"] == "ok")
    assert store.rescored() == ({} if in_use is None else {("logprobs", "p0"): (1, in_use)})


def test_quarantine_is_reversible_and_a_retired_row_is_an_attempt_only(store):
    store.put(record())
    for rows, quarantine in (([(*KEY, "constant")], "constant"), ([], None)):
        store.set_quarantine(rows)
        assert [(r["quarantine"], r["value"]) for r in store.rows()] == [(quarantine, -1.5)]
    assert store.retire([KEY, ("logprobs", "b", "h")], "gone") == 1
    assert list(store.rows()) == []
    assert [(a["value"], a["quarantine"]) for a in store.attempts()] == [(-1.5, "gone")]


def test_what_is_counted_at_every_change_is_what_is_there(store, tmp_path):
    rng = random.Random(4)
    for _ in range(60):
        some = [
            record(prompt_id=f"q{rng.randrange(30)}", policy=f"pi{rng.randrange(2)}", draw=rng.randrange(2))
            for _ in range(rng.randrange(9))
        ]
        some = [replace(r, request_hash=f"{r.policy}{r.draw}", created=60.0 * rng.randrange(3)) for r in some]
        store.put_all([replace(r, **FAILED) if rng.random() < 0.3 else r for r in some])
        rows = [key_of(row) for row in store.rows()]
        store.set_quarantine([(*key, "constant") for key in rows if rng.random() < 0.2])
        store.retire([key for key in rows if rng.random() < 0.05], "gone")
        store.export(tmp_path / "records.parquet")
        counted = Store.recording(tmp_path / "records.parquet")
        mine, other = (
            [{name: n for name, n in row.items() if name not in ("oldest", "newest")} for row in s.counts(60.0)]
            for s in (store, counted)
        )
        assert mine == other
        ids, wanted = [f"q{n}" for n in range(30)], {("logprobs", "pi0"): 1, ("logprobs", "pi1"): 2}
        usable = {(r["prompt_id"], r["policy"], r["draw"]) for r in store.rows() if r["value"] and not r["quarantine"]}
        complete = [q for q in ids if all((q, *rest) in usable for rest in (("pi0", 0), ("pi1", 0), ("pi1", 1)))]
        assert store.complete_prompts(ids, wanted, "logprobs") == (len(complete),) * 2


def test_prompts_that_are_not_the_runs_count_for_nothing(store):
    for prompt_id in ("mine", "other", "another"):
        store.put(record(job="responses", value="text", prompt_id=prompt_id, request_hash="r"))
    store.put(record(prompt_id="other"))
    store.set_quarantine([("responses", name, "r", "empty") for name in ("other", "another")])
    assert store.complete_prompts(["mine"], {("logprobs", "p0"): 1}, "logprobs", "p0") == (0, 0)
    store.put(record(prompt_id="mine"))
    assert store.complete_prompts(["mine"], {("logprobs", "p0"): 1}, "logprobs", "p0") == (1, 1)


def test_a_store_of_before_is_counted_when_it_is_opened(tmp_path):
    path = tmp_path / "store.sqlite"
    store = Store.open(path)
    store.put_all([record(prompt_id=f"q{n}") for n in range(5)])
    for statement in tallies.END:
        store._db.execute(statement)
    store.close()
    looking = Store.read(path)
    assert [row["n"] for row in looking.counts()] == [5]
    looking.close()
    with Store.open(path).filling() as put:
        put(record(prompt_id="other"))
    assert [row["n"] for row in Store.read(path).counts()] == [6]


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
    with pytest.raises(ArenaError, match="nothing has been collected"):
        Store.read(tmp_path / "nothing" / "store.sqlite")
