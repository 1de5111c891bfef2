"""Measuring again on a real server: what gives way, what stays, what is refused, and what is written down."""

from __future__ import annotations

import copy
import os
import re
import sqlite3
import time
from collections import Counter
from functools import partial

import pytest
import yaml

from arena10k import options, paths
from arena10k.collection import teacher_forcing
from arena10k.collection.collect import collect
from arena10k.errors import ArenaError, FatalCallError
from arena10k.pipeline import stages
from arena10k.rescoring import history
from arena10k.rescoring.rescore import REPLACED, rescore
from arena10k.run import Run
from in_process import arena
from stub_run import forked
from stub_server import MODEL, Stub, chat_answer, echo_answer, error
from test_judge import CHAT, grade, make_params, respond

#: Values that cannot be measurements: the sentinel of a whole sequence.
SENTINEL = '{"token_logprobs": [-50.0, 0.0, 0.0], "response_tokens": 3}'
P = tuple(f"p{i:04d}" for i in range(60))


@pytest.fixture
def stub():
    with Stub() as server:
        yield server


def collected(home, stub, n_prompts=12, **sections):
    """A run of two policies with its responses and log-probs; judge scores only where `sections` name a judge."""
    run = respond(make_params(home, stub.url, n_prompts, **({"judge": None} | sections)))
    collect(run.params, run.store, partial(teacher_forcing.tasks, run.params, run.store), "teacher forcing")
    if sections:
        grade(run)
    return run


def edit(run, change, job="logprobs", policy="pi_clone", prompts=P[3:4]):
    """Change columns of records behind the library's back, as a broken tool would."""
    with sqlite3.connect(paths.store_file(run.name)) as db:
        marks = ", ".join("?" * len(prompts))
        where = f"WHERE job = ? AND policy = ? AND prompt_id IN ({marks})"
        assert db.execute(f"UPDATE records SET {change} {where}", (job, policy, *prompts)).rowcount == len(prompts)


def fail(run, code="http_500", **where):
    edit(run, f"status = 'error', value = NULL, payload = '{{}}', code = '{code}'", **where)


def plant(run, **where):
    edit(run, f"value = -50.0, payload = '{SENTINEL}'", **where)


def values(run, *jobs):
    rows = (row for job in jobs or ("logprobs",) for row in run.store.rows(job))
    return {(r["job"], r["policy"], r["prompt_id"], r["draw"]): r["value"] for r in rows}


def of_clone(run):
    return {r["prompt_id"]: r for r in run.store.rows("logprobs") if r["policy"] == "pi_clone"}


def digest(run):
    return run.store.content_digest("responses", "logprobs", "judge_deterministic", "judge_uncertainty")


def outcomes(entry):
    return {(r["policy"], r["prompt_id"]): r["outcome"] for r in entry["rows"]}


def test_bad_rows_give_way_to_measurements_and_the_audit_says_what_that_did(home, stub):
    run = collected(home, stub, judge=CHAT)
    right, estimates, asked = values(run), run.estimates(run.table())["rows"], stub.requests
    fail(run, prompts=P[1:3])
    plant(run)
    entry = rescore(run)
    assert (stub.requests, values(run)) == (asked + 3, right), "clean rows are not asked for"
    assert outcomes(entry) == dict.fromkeys([("pi_clone", p) for p in P[1:4]], "restored")
    attempts = run.store.attempts()
    assert {(a["code"], a["quarantine"], a["value"]) for a in attempts} == {
        ("http_500", None, None), (None, "below_floor", -50.0)
    }  # fmt: skip
    assert [a["payload"]["token_logprobs"] for a in attempts if a["quarantine"]] == [[-50.0, 0.0, 0.0]]
    assert history.read("stub") == [entry]
    assert entry["by"]
    assert entry["at"].startswith("20")
    assert (entry["asked"], entry["models"], entry["stopped"]) == ({"policy": None, "code": None}, [MODEL], None)
    (row,) = (row for row in entry["rows"] if row["prompt_id"] == P[3])
    restored = of_clone(run)[P[3]]["value"]
    assert (row["before"]["value"], row["after"]["value"], row["difference"]) == (-50.0, restored, restored + 50.0)
    assert entry["estimates_after"] == estimates
    table = history.estimates([entry])
    assert table.differs.any()
    assert "snips" not in set(table[(table.policy == "p0") & table.differs].estimator)
    head = {"at": entry["at"], "by": entry["by"], "job": "logprobs", "policy": "pi_clone"}
    merged = [head | {"reason": code, "rows": n, "restored": n} for code, n in (("http_500", 2), ("below_floor", 1))]
    assert history.merged([entry]).to_dict("records") == merged
    assert "3 restored" in history.sentence([entry])
    done, asked = digest(run), stub.requests
    assert (rescore(run), stub.requests, digest(run), history.read("stub")) == (None, asked, done, [entry])


def test_a_row_that_fails_again_stays_failed_and_a_sentinel_that_cannot_be_replaced_stays_aside(home, stub):
    run = collected(home, stub)
    ids = {r["prompt_id"]: r["payload"] for r in run.store.rows("responses") if r["policy"] == "p0"}
    broken = {str(ids[p]["prompt_token_ids"] + ids[p]["token_ids"]) for p in P[3:5]}
    plant(run)
    fail(run, prompts=P[4:5])
    stub.fault = lambda body, _: error(400, "long", "context_length") if str(body.get("prompt")) in broken else None
    assert outcomes(rescore(run)) == {("pi_clone", P[3]): "still quarantined", ("pi_clone", P[4]): "failed again"}
    columns = ("status", "value", "quarantine", "code", "attempts")
    assert [of_clone(run)[P[3]][c] for c in columns] == ["ok", -50.0, "below_floor", None, 2]
    assert [of_clone(run)[P[4]][c] for c in columns] == ["error", None, None, "context_length", 2]
    assert [(a["prompt_id"], a["code"]) for a in run.store.attempts()] == [(P[3], "context_length"), (P[4], "http_500")]
    before = digest(run)
    rescore(run)
    assert digest(run) == before, "the same failures again are the same content"
    stub.fault = None
    assert set(outcomes(rescore(run)).values()) == {"restored"}


def test_many_rows_that_fail_as_before_do_not_stop_the_others(home, stub):
    """Two thirds of sixty rows are refused for what they are: that says nothing against the server."""
    run = collected(home, stub, n_prompts=60)
    fail(run, code="content_filter", prompts=P)
    asked = stub.requests
    stub.fault = lambda body, _: error(400, "no", "content_filter") if sum(body["prompt"]) % 3 else None
    counts = Counter(outcomes(rescore(run)).values())
    assert stub.requests == asked + 60, "each row is asked once"
    assert counts["failed again"] > 30
    assert set(counts) == {"failed again", "restored"}


def test_a_bad_answer_again_is_quarantined_again(home, stub):
    """Each answer passes the checks; beside the policy's other values it is far off."""

    def far(body, _):
        good = copy.deepcopy(echo_answer(body))
        logprobs = good["choices"][0]["logprobs"]
        logprobs["token_logprobs"] = [v and v - 40.0 for v in logprobs["token_logprobs"]]
        return good

    run = collected(home, stub)
    plant(run)
    stub.fault = far
    assert outcomes(rescore(run)) == {("pi_clone", P[3]): "quarantined again"}
    (row,) = [r for r in run.store.rows("logprobs") if r["quarantine"]]
    assert row["quarantine"] != "below_floor"
    assert row["value"] < -50.0
    assert [a["value"] for a in run.store.attempts()] == [-50.0]


def test_only_the_named_policy_and_code_are_asked(home, stub):
    run = collected(home, stub)
    fail(run, "http_500", prompts=P[1:2])
    fail(run, "timeout", prompts=P[2:3])
    fail(run, "timeout", policy="p0", prompts=P[2:3])
    assert outcomes(rescore(run, "pi_clone", "timeout")) == {("pi_clone", P[2]): "restored"}
    assert rescore(run, "pi_clone", "no_such_code") is None
    with pytest.raises(ArenaError, match=r"no policy 'pi_x'.*p0, pi_clone"):
        rescore(run, "pi_x")
    left = {(r["policy"], r["code"]) for r in run.store.rows() if r["code"]}
    assert left == {("pi_clone", "http_500"), ("p0", "timeout")}


def by_another(changes):
    return lambda body, _: {**(echo_answer if "prompt" in body else chat_answer)(body), **changes}


@pytest.mark.parametrize("usable", ["most rows", "no row", "no row, the attempts are"])
def test_another_model_is_refused_and_nothing_is_stored(home, stub, usable):
    run = collected(home, stub)
    bad = P[1:4] if usable == "most rows" else P[:12]
    plant(run, prompts=bad)
    if "attempts" in usable:
        with sqlite3.connect(paths.store_file(run.name)) as db:
            columns = "job, prompt_id, request_hash, status, value, code, detail, created, payload, model"
            mine = "FROM records WHERE job = 'logprobs' AND policy = 'pi_clone'"
            db.execute(f"INSERT INTO attempts ({columns}) SELECT {columns} {mine}")
        fail(run, prompts=bad)
        edit(run, "model = NULL", prompts=bad)
    before = run.store.attempts()
    for changes, says in (
        ({"system_fingerprint": "fp_2"}, "another_model: .*stub fp_2"),
        ({"model": "other"}, "wrong_model: .*other"),
    ):
        stub.fault = by_another(changes)
        with pytest.raises(FatalCallError, match=says) as raised:
            rescore(run)
        assert "\n" not in str(raised.value)
    assert {of_clone(run)[p]["attempts"] for p in bad} == {1}
    assert (run.store.attempts(), history.read("stub")) == (before, [])
    stub.fault = None
    assert set(outcomes(rescore(run)).values()) == {"restored"}


def edited(home, section, **keys):
    raw = yaml.safe_load((home / "stub.yaml").read_text())
    raw[section[0]][section[1]] |= keys
    (home / "stub.yaml").write_text(yaml.safe_dump(raw))
    return Run(home / "stub.yaml")


def test_another_definition_and_rows_that_cannot_be_asked_for_are_refused(home, stub):
    for nothing in (Run("sample"), Run(make_params(home, stub.url, run="none"))):
        with pytest.raises(ArenaError, match=f"run '{nothing.name}'"):
            rescore(nothing)
    run = collected(home, stub)
    fail(run)
    asked = stub.requests
    with pytest.raises(ArenaError, match=r"logprobs of pi_clone were .*scored with, by or against"):
        rescore(edited(home, ("policies", "p0"), temperature=0.5), "pi_clone")
    edited(home, ("policies", "p0"), temperature=1.0)
    with pytest.raises(ArenaError, match=r"logprobs of pi_clone .*fingerprint \w+ \w{8}"):
        rescore(edited(home, ("policies", "pi_clone"), max_tokens=99))
    edit(run, "request_hash = 'from elsewhere'")
    with pytest.raises(ArenaError, match=r" 1 .*responses"):
        rescore(run)
    (paths.data_dir("stub") / "import.json").write_text("{}")
    with pytest.raises(ArenaError, match=r" 1 .*imported"):
        rescore(run)
    assert stub.requests == asked


SCORED = ("responses", "logprobs", "judge_deterministic", "judge_uncertainty")


def test_a_response_that_comes_back_is_scored_and_scores_of_a_replaced_one_go_with_it(home, stub):
    """Where another text was answered in its place its scores are kept, but are not those of the new one."""
    run = collected(home, stub, judge=CHAT)
    right = values(run, *SCORED)
    fail(run, job="responses", policy="p0", prompts=P[5:6])
    with sqlite3.connect(paths.store_file("stub")) as db:
        db.execute("DELETE FROM records WHERE job != 'responses' AND prompt_id = 'p0005'")
    rescore(run)
    assert values(run, *SCORED) == right
    # p0007 got the whole answer to p0006, and was scored and graded on it.
    replayed = next(r for r in run.store.rows("responses") if r["policy"] == "p0" and r["prompt_id"] == P[6])
    payload = [str(replayed["payload"][name]) for name in ("token_ids", "token_logprobs")]
    with sqlite3.connect(paths.store_file("stub")) as db:
        db.execute(
            "UPDATE records SET value = ?, payload = json_set(payload, '$.token_ids', json(?), "
            "'$.token_logprobs', json(?)) WHERE job = 'responses' AND policy = 'p0' AND prompt_id = 'p0007'",
            (replayed["value"], *payload),
        )
        of_it = "job != 'responses' AND prompt_id = 'p0007' AND (policy = 'p0' OR job = 'logprobs')"
        db.execute(
            f"UPDATE records SET request_hash = 'of the replay ' || policy, created = created - 60 WHERE {of_it}"
        )
    entry = rescore(run)
    assert {(r["prompt_id"], r["outcome"]) for r in entry["rows"]} == {(P[6], "restored"), (P[7], "restored")}
    assert values(run, *SCORED) == right
    assert not any(r["request_hash"].startswith("of the replay") for r in run.store.rows())
    retired = Counter((a["job"], a["prompt_id"]) for a in run.store.attempts() if a["quarantine"] == REPLACED)
    assert retired == {("judge_deterministic", P[7]): 1, ("judge_uncertainty", P[7]): 1, ("logprobs", P[7]): 2}
    assert len(run.table().logged) == 12


def test_money_is_spent_only_when_agreed_to_and_the_pages_are_out_of_date_only_then(home, stub, monkeypatch):
    fail(collected(home, stub))
    edited(home, ("providers", "stub"), prices={MODEL: {"prompt": 1e6, "completion": 0.0}})
    asked = stub.requests
    stamps = {name: stages.stamp_file("stub", name) for name in stages.STAGES}
    for stamp in stamps.values():
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text("{}")
    monkeypatch.delenv(options.VARIABLES["yes"], raising=False)
    refused = arena("rescore", "stub", "--params", home / "stub.yaml")
    assert (refused.returncode, stub.requests, history.read("stub")) == (2, asked, [])
    assert re.match(r"error: teacher forcing: 1 measurements .*\$.*--yes", refused.stderr)
    assert all(stamp.is_file() for stamp in stamps.values())
    agreed = arena("rescore", "stub", "--params", home / "stub.yaml", "--yes")
    os.environ.pop(options.VARIABLES["yes"])
    assert (agreed.returncode, stub.requests) == (0, asked + 1)
    assert "1 restored" in agreed.stdout
    again = {name for name, stamp in stamps.items() if not stamp.is_file()}
    assert again == {"00_status", "02_responses", "03_teacher_forcing", "04_judge", "05_data_quality"}


def test_a_kill_loses_nothing_of_what_was_measured_nor_of_the_audit(home, stub):
    run = collected(home, stub, n_prompts=40)
    right = values(run)
    fail(run, prompts=P[:40])
    stub.delay, before = 0.3, stub.requests
    with forked(arena, "rescore", "stub", "--params", home / "stub.yaml") as job:
        while stub.requests < before + 20 and job.is_alive():
            time.sleep(0.02)
        job.kill()
    stub.delay = 0.0
    first = sum(r["attempts"] == 2 for r in run.store.rows("logprobs"))
    assert 0 < first < 40
    rescore(run)
    assert values(run) == right
    killed, second = history.read("stub")
    assert list(outcomes(killed).values()).count("restored") == first
    assert outcomes(second) == dict.fromkeys((k for k, v in outcomes(killed).items() if v == "not asked"), "restored")
    assert killed["estimates_after"] == second["estimates_before"]
