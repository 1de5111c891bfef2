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
from arena10k.audit import screening
from arena10k.collection import teacher_forcing
from arena10k.collection.collect import collect
from arena10k.errors import ArenaError, FatalCallError
from arena10k.params import config
from arena10k.pipeline import stages
from arena10k.rescoring import rescore_audit
from arena10k.rescoring.rescore import REPLACED, rescore
from arena10k.run import Run
from in_process import arena
from stub_run import forked
from stub_server import MODEL, Stub, chat_answer, echo_answer, error
from test_judge import CHAT, grade, make_params, respond

#: Values that cannot be measurements: the sentinel of a whole sequence.
SENTINEL = '{"token_logprobs": [-50.0, 0.0, 0.0], "response_tokens": 3}'


def collected(home, url, n_prompts=12, **sections):
    """A run of two policies with its responses and log-probs; judge scores only where `sections` name a judge."""
    run = respond(make_params(home, url, n_prompts, **({"judge": None} | sections)))
    collect(run.params, run.store, partial(teacher_forcing.tasks, run.params, run.store), "teacher forcing")
    return run


def edit(run, change, job="logprobs", policy="pi_clone", prompts=("p0003",)):
    """Change columns of records behind the library's back, as a broken tool would."""
    with sqlite3.connect(paths.store_file(run.name)) as db:
        marks = ", ".join("?" * len(prompts))
        where = f"WHERE job = ? AND policy = ? AND prompt_id IN ({marks})"
        assert db.execute(f"UPDATE records SET {change} {where}", (job, policy, *prompts)).rowcount == len(prompts)


def fail(run, code="http_500", **where):
    edit(run, f"status = 'error', value = NULL, payload = '{{}}', code = '{code}'", **where)


def plant(run, **where):
    edit(run, f"value = -50.0, payload = '{SENTINEL}'", **where)


def values(run, job="logprobs"):
    return {(r["policy"], r["prompt_id"], r["draw"]): r["value"] for r in run.store.rows(job)}


def state(run):
    jobs = {row["job"] for row in run.store.rows()}
    audit = paths.result_file(run.name, rescore_audit.FILE)
    return run.store.content_digest(*sorted(jobs)), len(run.store.attempts()), audit.is_file() and audit.read_bytes()


def asked_since(stub, run, work):
    before = stub.requests
    out = work(run)
    return out, stub.requests - before


def outcomes(entry):
    return {(r["policy"], r["prompt_id"]): r["outcome"] for r in entry["rows"]}


def test_errors_and_sentinels_give_way_to_measurements_and_clean_rows_are_not_asked(home):
    with Stub() as stub:
        run = collected(home, stub.url)
        right = values(run)
        fail(run, prompts=("p0001", "p0002"))
        plant(run, policy="p0", prompts=("p0003",))
        entry, asked = asked_since(stub, run, rescore)
        assert (asked, values(run)) == (3, right)
        keys = [("pi_clone", "p0001"), ("pi_clone", "p0002"), ("p0", "p0003")]
        assert outcomes(entry) == dict.fromkeys(keys, "restored")
        done = state(run)
        assert (*asked_since(stub, run, rescore), state(run)) == (None, 0, done)
    attempts = run.store.attempts()
    assert {(a["code"], a["quarantine"], a["value"]) for a in attempts} == {
        ("http_500", None, None), (None, "below_floor", -50.0)
    }  # fmt: skip
    assert [a["payload"]["token_logprobs"] for a in attempts if a["quarantine"]] == [[-50.0, 0.0, 0.0]]


def test_the_audit_says_who_when_what_and_what_it_did_to_the_estimates(home):
    with Stub() as stub:
        run = collected(home, stub.url, judge=CHAT)
        grade(run)
        right = run.estimates(run.table())["rows"]
        plant(run, prompts=("p0003",))
        rescore(run, code="below_floor")
    (entry,) = rescore_audit.read("stub")
    asked = {"policy": None, "code": "below_floor"}
    assert entry["by"]
    assert (entry["at"][:2], entry["asked"], entry["models"], entry["stopped"]) == ("20", asked, [MODEL], None)
    (row,) = entry["rows"]
    restored = values(run)["pi_clone", "p0003", 0]
    assert (row["before"]["value"], row["after"]["value"], row["difference"]) == (-50.0, restored, restored + 50.0)
    assert entry["estimates_after"] == right
    table = rescore_audit.estimates([entry])
    assert table.differs.any()
    assert "snips" not in set(table[(table.policy == "p0") & table.differs].estimator)
    assert rescore_audit.merged([entry]).to_dict("records") == [
        {"at": entry["at"], "by": entry["by"], "job": "logprobs", "policy": "pi_clone", "reason": "below_floor"}
        | {"rows": 1, "restored": 1}
    ]
    assert "1 restored" in rescore_audit.sentence([entry])


def test_a_row_that_fails_again_stays_failed_and_a_sentinel_that_cannot_be_replaced_stays_aside(home):
    broken = set()

    def fault(body, n):
        return error(400, "too long", "context_length") if str(body.get("prompt")) in broken else None

    with Stub(fault) as stub:
        run = collected(home, stub.url)
        ids = {r["prompt_id"]: r["payload"] for r in run.store.rows("responses") if r["policy"] == "p0"}
        plant(run, prompts=("p0003",))
        fail(run, prompts=("p0004",))
        broken |= {str(ids[p]["prompt_token_ids"] + ids[p]["token_ids"]) for p in ("p0003", "p0004")}
        assert outcomes(rescore(run)) == {
            ("pi_clone", "p0003"): "still quarantined", ("pi_clone", "p0004"): "failed again"
        }  # fmt: skip
        rows = {r["prompt_id"]: r for r in run.store.rows("logprobs") if r["policy"] == "pi_clone"}
        columns = ("status", "value", "quarantine", "code", "attempts")
        assert [rows["p0003"][c] for c in columns] == ["ok", -50.0, "below_floor", None, 2]
        assert [rows["p0004"][c] for c in columns] == ["error", None, None, "context_length", 2]
        kept = [(a["prompt_id"], a["code"]) for a in run.store.attempts()]
        assert kept == [("p0003", "context_length"), ("p0004", "http_500")]
        digest = state(run)[0]
        rescore(run)
        assert state(run)[0] == digest, "the same failures again are the same content"
        broken.clear()
        assert set(outcomes(rescore(run)).values()) == {"restored"}


def test_many_rows_that_fail_as_before_do_not_stop_the_others(home):
    """Two thirds of sixty rows are refused for what they are: that says nothing against the server."""

    def fault(body, n):
        refused = "messages" not in body and int(str(sum(body["prompt"]))) % 3
        return error(400, "no", "content_filter") if refused and stub.refusing else None

    with Stub(fault) as stub:
        stub.refusing = False
        run = collected(home, stub.url, n_prompts=60)
        fail(run, code="content_filter", prompts=tuple(f"p{i:04d}" for i in range(60)))
        stub.refusing = True
        entry, asked = asked_since(stub, run, rescore)
    counts = Counter(outcomes(entry).values())
    assert asked == 60, "each row is asked once"
    assert counts["failed again"] > 30
    assert set(counts) == {"failed again", "restored"}


def test_a_bad_answer_again_is_quarantined_again(home):
    """Each answer passes the checks; beside the policy's other values it is far off."""

    def far(body, n):
        good = copy.deepcopy(echo_answer(body))
        logprobs = good["choices"][0]["logprobs"]
        logprobs["token_logprobs"] = [v and v - 40.0 for v in logprobs["token_logprobs"]]
        return good

    with Stub() as stub:
        run = collected(home, stub.url)
        plant(run, prompts=("p0003",))
        stub.fault = far
        assert outcomes(rescore(run)) == {("pi_clone", "p0003"): "quarantined again"}
    (row,) = [r for r in run.store.rows("logprobs") if r["quarantine"]]
    assert row["quarantine"] != "below_floor"
    assert row["value"] < -50.0
    assert [a["value"] for a in run.store.attempts()] == [-50.0]


def test_only_the_named_policy_and_code_are_asked(home):
    with Stub() as stub:
        run = collected(home, stub.url)
        fail(run, "http_500", prompts=("p0001",))
        fail(run, "timeout", prompts=("p0002",))
        fail(run, "timeout", policy="p0", prompts=("p0002",))
        assert outcomes(rescore(run, "pi_clone", "timeout")) == {("pi_clone", "p0002"): "restored"}
        assert rescore(run, "pi_clone", "no_such_code") is None
        with pytest.raises(ArenaError, match=r"no policy 'pi_x'.*p0, pi_clone"):
            rescore(run, "pi_x")
    left = {(r["policy"], r["code"]) for r in run.store.rows() if r["code"]}
    assert left == {("pi_clone", "http_500"), ("p0", "timeout")}


def by_another(changes):
    return lambda body, n: {**(echo_answer if "prompt" in body else chat_answer)(body), **changes}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"system_fingerprint": "fp_2"}, "another_model: .*stub fp_2"),
        ({"model": "other"}, "wrong_model: .*other"),
    ],
)
def test_another_model_is_refused_and_nothing_is_stored(home, changes, says):
    with Stub() as stub:
        run = collected(home, stub.url)
        fail(run, prompts=("p0001", "p0002"))
        plant(run, prompts=("p0003",))
        run.store.set_quarantine([])
        stub.fault = by_another(changes)
        with pytest.raises(FatalCallError, match=says) as told:
            rescore(run)
        assert len(str(told.value).splitlines()) == 1
        rows = {r["prompt_id"]: r for r in run.store.rows("logprobs") if r["policy"] == "pi_clone"}
        assert [rows[p]["attempts"] for p in ("p0001", "p0002", "p0003")] == [1, 1, 1]
        assert (run.store.attempts(), rescore_audit.read("stub")) == ([], [])
        stub.fault = None
        assert set(outcomes(rescore(run)).values()) == {"restored"}


@pytest.mark.parametrize("kept", ["quarantined rows", "attempts"])
def test_another_model_is_refused_where_no_row_is_usable(home, kept):
    everyone = tuple(f"p{n:04d}" for n in range(12))
    with Stub() as stub:
        run = collected(home, stub.url)
        plant(run, prompts=everyone)
        assert len(screening.scan(run.params, run.store)) == len(everyone)
        if kept == "attempts":
            with sqlite3.connect(paths.store_file(run.name)) as db:
                columns = "job, prompt_id, request_hash, status, value, code, detail, created, payload, model"
                mine = "FROM records WHERE job = 'logprobs' AND policy = 'pi_clone'"
                db.execute(f"INSERT INTO attempts ({columns}) SELECT {columns} {mine}")
            fail(run, prompts=everyone)
            edit(run, "model = NULL", prompts=everyone)
        stub.fault = by_another({"system_fingerprint": "fp_2"})
        with pytest.raises(FatalCallError, match="stub fp_2"):
            rescore(run)
        stub.fault = None
        assert set(outcomes(rescore(run)).values()) == {"restored"}


def edited(home, change):
    raw = yaml.safe_load((home / "stub.yaml").read_text())
    change(raw)
    (home / "stub.yaml").write_text(yaml.safe_dump(raw))
    return Run(home / "stub.yaml")


def longer(raw):
    raw["policies"]["pi_clone"]["max_tokens"] = 99


def colder(raw):
    raw["policies"]["p0"]["temperature"] = 0.5


@pytest.mark.parametrize(
    ("change", "policy", "says"),
    [(longer, None, r"logprobs of pi_clone .*fingerprint \w+ \w{8}"), (colder, "pi_clone", "logprobs of pi_clone")],
)
def test_another_definition_is_refused(home, change, policy, says):
    with Stub() as stub:
        run = collected(home, stub.url)
        fail(run, policy="pi_clone")
        asked = stub.requests
        with pytest.raises(ArenaError, match=says):
            rescore(edited(home, change), policy)
        assert stub.requests == asked


def test_a_recording_and_a_run_without_requests_behind_its_rows_are_refused(home):
    with pytest.raises(ArenaError, match="run 'sample'"):
        rescore(Run("sample"))
    with Stub() as stub:
        run = collected(home, stub.url)
        fail(run)
        edit(run, "request_hash = 'from elsewhere'", policy="pi_clone")
        with pytest.raises(ArenaError, match=r" 1 .*responses"):
            rescore(run)
        (paths.data_dir("stub") / "import.json").write_text("{}")
        with pytest.raises(ArenaError, match=r" 1 .*imported"):
            rescore(run)
    with pytest.raises(ArenaError, match="run 'none'"):
        rescore(Run.of(config.load(home / "stub.yaml", "none")))


def graded(home, url):
    """A run with scores in every job, and their values."""
    run = collected(home, url, judge=CHAT)
    grade(run)
    jobs = ("responses", "logprobs", "judge_deterministic", "judge_uncertainty")
    return run, {job: values(run, job) for job in jobs}


def test_a_response_that_comes_back_is_scored_and_graded(home):
    with Stub() as stub:
        run, right = graded(home, stub.url)
        fail(run, job="responses", policy="p0", prompts=("p0005",))
        with sqlite3.connect(paths.store_file("stub")) as db:
            db.execute("DELETE FROM records WHERE job != 'responses' AND prompt_id = 'p0005'")
        rescore(run)
    assert {job: values(run, job) for job in right} == right


def test_scores_of_a_replaced_response_go_with_it(home):
    """Another text was answered in its place: its scores are kept, but are not those of the new one."""
    with Stub() as stub:
        run, right = graded(home, stub.url)
        # p0007 got the whole answer to p0006, and was scored and graded on it.
        rows = [r for r in run.store.rows("responses") if r["policy"] == "p0"]
        replayed = next(r for r in rows if r["prompt_id"] == "p0006")
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
    assert {(r["prompt_id"], r["outcome"]) for r in entry["rows"]} == {("p0006", "restored"), ("p0007", "restored")}
    assert {job: values(run, job) for job in right} == right
    assert not any(r["request_hash"].startswith("of the replay") for r in run.store.rows())
    retired = Counter((a["job"], a["prompt_id"]) for a in run.store.attempts() if a["quarantine"] == REPLACED)
    assert retired == {
        ("judge_deterministic", "p0007"): 1, ("judge_uncertainty", "p0007"): 1, ("logprobs", "p0007"): 2
    }  # fmt: skip
    assert len(run.table().logged) == 12


def test_money_is_spent_only_when_agreed_to_and_the_pages_are_out_of_date_only_then(home, monkeypatch):
    with Stub() as stub:
        run = collected(home, stub.url)
        fail(run)
        run = edited(
            home, lambda raw: raw["providers"]["stub"].update(prices={MODEL: {"prompt": 1e6, "completion": 0.0}})
        )
        asked = stub.requests
        stamps = {name: stages.stamp_file("stub", name) for name in stages.STAGES}
        for stamp in stamps.values():
            stamp.parent.mkdir(parents=True, exist_ok=True)
            stamp.write_text("{}")
        monkeypatch.delenv(options.VARIABLES["yes"], raising=False)
        refused = arena("rescore", "stub", "--params", home / "stub.yaml")
        assert (refused.returncode, stub.requests) == (2, asked)
        assert re.match(r"error: teacher forcing: 1 measurements .*\$.*--yes", refused.stderr)
        assert rescore_audit.read("stub") == []
        assert all(stamp.is_file() for stamp in stamps.values())
        agreed = arena("rescore", "stub", "--params", home / "stub.yaml", "--yes")
        os.environ.pop(options.VARIABLES["yes"])
    assert (agreed.returncode, stub.requests) == (0, asked + 1)
    assert "1 restored" in agreed.stdout
    again = {name for name, stamp in stamps.items() if not stamp.is_file()}
    assert again == {"00_status", "02_responses", "03_teacher_forcing", "04_judge", "05_data_quality"}


def test_a_kill_loses_nothing_of_what_was_measured_nor_of_the_audit(home):
    with Stub() as stub:
        run = collected(home, stub.url, n_prompts=40)
        right = values(run)
        fail(run, prompts=tuple(f"p{i:04d}" for i in range(40)))
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
    killed, second = rescore_audit.read("stub")
    assert list(outcomes(killed).values()).count("restored") == first
    assert outcomes(second) == dict.fromkeys((k for k, v in outcomes(killed).items() if v == "not asked"), "restored")
    assert killed["estimates_after"] == second["estimates_before"]
