"""Imports of broken and hostile files: what can be taken is, the rest is named, and nothing else is ever written."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import tracemalloc

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arena10k import interchange, paths
from arena10k.errors import ArenaError
from arena10k.interchange import layouts, rows, staging, writer
from arena10k.params import config, sections
from arena10k.run import Run
from in_process import arena
from stub_run import forked
from test_interchange import PARAMS, fresh, lines, logged

#: Whether this is `make faults`.
MANY = bool(os.environ.get("ARENA10K_FAULT_ITEMS"))
#: Lines of a large broken file.
MALFORMED = 1_000_000 if MANY else 5_000
GOOD = json.dumps(logged(0)).encode()


def put(home, content, name="logged_data.jsonl"):
    path = home / "theirs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return home / "theirs"


def everything(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def text_of(row):
    return json.dumps(row).encode()


@pytest.mark.parametrize(
    ("row", "field", "says"),
    [
        (b"{", "", "JSON"),
        (b"not json", "", "JSON"),
        (b"[1, 2]", "", "list"),
        (b'"text"', "", "'text'"),
        (b"7", "", "7"),
        (b"null", "", "None"),
        (GOOD.replace(b"Answer", b"Ans\xffwer"), "", "UTF-8"),
        (b'{"a": ' + b"[" * 100_000, "", "nested"),
        (b'{"a": ' + b"1" * 5000 + b"}", "", "4300"),
        (text_of(logged(1, metadata=...)), "prompt_id", "missing"),
        (text_of(logged(1, metadata={"prompt_id": " "})), "prompt_id", "empty"),
        (text_of(logged(1, metadata={"prompt_id": ["q"]})), "prompt_id", "list"),
        (text_of(logged(1, metadata=[1])), "prompt_id", "missing"),
        (text_of(logged(1, prompt_id="other")), "prompt_id", "metadata"),
        (text_of(logged(1, prompt=...)), "prompt", "missing"),
        (text_of(logged(1, prompt=5)), "prompt", "5"),
        (text_of(logged(1, response=None)), "response", "missing"),
        (text_of(logged(1, response={"a": 1})), "response", "object"),
        (GOOD.replace(b"q0", b"q1").replace(b"Answer", b"\\ud83d"), "response", "Unicode"),
        (text_of(logged(0, prompt="Another?", draw_idx=1)), "prompt", "earlier"),
        (text_of(logged(0, response="Other.")), "prompt_id", "line 1"),
        (GOOD, "prompt_id", "line 1"),
        (text_of(logged(1, draw_idx=-1)), "draw_idx", "-1"),
        (text_of(logged(1, draw_idx=10**30)), "draw_idx", "whole"),
        (text_of(logged(1, draw_idx=True)), "draw_idx", "True"),
        (text_of(logged(1, target_policy_logprobs=[1])), "target_policy_logprobs", "object"),
    ],
)
def test_a_row_that_cannot_be_taken_is_named_and_the_others_are_taken(home, row, field, says):
    folder = put(home, GOOD + b"\n\n" + row + b"\n" + text_of(logged(9)) + b"\n")
    account = interchange.import_cje(folder, "mine")
    (fault,) = account["malformed"]
    assert (fault["file"], fault["line"], fault["field"], fault["row_taken"]) == ("logged_data.jsonl", 3, field, False)
    assert says in fault["fault"]
    assert (account["files"][0]["rows"], account["files"][0]["taken"]) == (3, 2)
    assert sorted(Run(PARAMS, "mine").table().logged.prompt_id) == ["q0", "q9"]


@pytest.mark.parametrize(
    ("changed", "field", "says"),
    [
        ({"judge_score": 1.01}, "judge_score", "1.01"),
        ({"judge_score": "0.5"}, "judge_score", "'0.5'"),
        ({"judge_score": float("nan")}, "judge_score", "nan"),
        ({"judge_score": {"mean": 0.5, "variance": -1}}, "judge_score.variance", "-1"),
        ({"oracle_label": True}, "oracle_label", "True"),
        ({"target_policy_logprobs": {"base": -3.0}}, "target_policy_logprobs.base", "base_policy_logprob"),
        ({"base_policy_logprob": 10**400}, "base_policy_logprob", "finite"),
    ],
)
def test_a_value_that_cannot_be_taken_is_named_and_its_row_is_taken(home, changed, field, says):
    both = text_of(logged(0, **changed)) + b"\n" + text_of(logged(1))
    account = interchange.import_cje(put(home, both), "mine")
    (fault,) = account["malformed"]
    assert (fault["line"], fault["field"], fault["row_taken"]) == (1, field, True)
    assert says in fault["fault"]
    assert len(Run(PARAMS, "mine").table().logged) == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "logged_data.jsonl: "),
        (b"\n \n\t\n", "logged_data.jsonl: "),
        (b"\xef\xbb\xbf", "logged_data.jsonl: "),
        (GOOD.decode().encode("utf-16"), "UTF-16"),
        (GOOD.decode().encode("utf-32"), "UTF-16"),
        (GOOD.decode().encode("utf-16-be"), "logged_data.jsonl: line 1: "),
        (GOOD[:-20], "logged_data.jsonl: line 1: "),
        (b"\x00" * 1000, "logged_data.jsonl: line 1: "),
        (random.Random(1).randbytes(64) + b"\xff", "logged_data.jsonl: line 1: "),
    ],
)
def test_a_file_without_a_row_is_refused_in_one_line_and_leaves_nothing(home, content, says):
    folder = put(home, content)
    before = everything(home)
    with pytest.raises(ArenaError) as caught:
        interchange.import_cje(folder, "mine")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert everything(home) - before <= {"data"}


def test_utf8_with_a_mark_and_windows_line_ends_are_read(home):
    folder = put(home, b"\xef\xbb\xbf" + GOOD + b"\r\n" + text_of(logged(1)) + b"\r\n")
    assert interchange.import_cje(folder, "mine")["files"][0]["taken"] == 2


def test_an_empty_or_broken_file_does_not_keep_the_others_out(home):
    put(home, GOOD)
    put(home, b"", "fresh_draws/a_responses.jsonl")
    folder = put(home, b"{}\n" * 3, "fresh_draws/b_responses.jsonl")
    account = interchange.import_cje(folder, "mine")
    assert [(f["rows"], f["taken"]) for f in account["files"]] == [(1, 1), (0, 0), (3, 0)]
    told = interchange.lines(account)
    assert any(line.startswith("  fresh_draws/a_responses.jsonl: ") for line in told)
    assert any("data/mine/import.json" in line for line in told)
    assert any(line.startswith("  fresh_draws/b_responses.jsonl: line 1: prompt_id: ") for line in told)


def test_malformed_lines_are_counted_and_the_first_listed(home):
    """No line of many well-formed, one good row at the end; memory does not grow with them."""
    peaks = {}
    for run, n in (("small", 1000), ("mine", MALFORMED)):
        folder = put(home, b"{\xff\xfe\x00[,:]}\n" * n + GOOD, f"{run}/logged_data.jsonl") / run
        tracemalloc.start()
        try:
            account = interchange.import_cje(folder, run)
            peaks[run] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    (file,) = account["files"]
    assert (file["rows"], file["taken"], file["left_out"]) == (MALFORMED + 1, 1, MALFORMED)
    assert file["faults"] == {"row: malformed": MALFORMED}
    assert account["malformed_count"] == MALFORMED
    assert len(account["malformed"]) == writer.LISTED
    assert any(f"{MALFORMED - 5:,}" in line for line in interchange.lines(account))
    assert peaks["mine"] - peaks["small"] < 20 * MALFORMED


def test_a_line_without_end_is_passed_over_without_being_held(home, monkeypatch):
    monkeypatch.setattr(rows, "LINE_LIMIT", 1 << 16)
    huge = b'{"prompt": "' + b"x" * (1 << 24) + b'"}\n'
    folder = put(home, GOOD + b"\n" + huge + text_of(logged(1)) + b"\n" + huge.rstrip(b"\n"))
    tracemalloc.start()
    try:
        account = interchange.import_cje(folder, "mine")
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()
    assert [(f["line"], "65,536" in f["fault"]) for f in account["malformed"]] == [(2, True), (4, True)]
    assert account["files"][0]["taken"] == 2


def test_deep_nesting_that_json_takes_is_no_harm_elsewhere(home):
    deep = b'{"metadata": {"prompt_id": ' + b"[" * 900 + b"]" * 900 + b'}, "prompt_id": ' + b"[" * 900 + b"]" * 900
    account = interchange.import_cje(put(home, GOOD + b"\n" + deep + b"}\n"), "mine")
    assert account["files"][0]["left_out"] == 1


def test_keys_that_are_not_policies_are_refused(home):
    many = [logged(n, target_policy_logprobs={f"p{n}": -1.0}) for n in range(rows.MAX_POLICIES + 5)]
    lines(home / "theirs" / "logged_data.jsonl", many)
    with pytest.raises(ArenaError, match=f"policies.* {rows.MAX_POLICIES} "):
        interchange.import_cje(home / "theirs", "mine")


@pytest.mark.parametrize("name", ["../evil", "a/b", "/tmp/evil", "..", ".hidden", "", "a\x00b", "a" * 65, "c:\\x", "~"])
def test_a_run_is_never_outside_of_its_folder(home, name):
    folder = put(home, GOOD)
    before = everything(home.parent)
    with pytest.raises(ArenaError, match="run name"):
        interchange.import_cje(folder, name)
    assert everything(home.parent) == before


def test_the_committed_sample_is_not_replaced(home):
    with pytest.raises(ArenaError, match="run 'sample'"):
        interchange.import_cje(put(home, GOOD), "sample")


@pytest.mark.parametrize(
    "name", ["..", "../../evil", "/etc/passwd", "a/b", "<script>", "a\nb", "x" * 500, "\u202e", ""]
)
def test_policy_names_are_names_and_never_paths(home, name):
    folder = put(home, text_of(logged(0, target_policy_logprobs={name: -1.0})))
    before = everything(home)
    account = interchange.import_cje(folder, "mine")
    plain = account["policies"][name]
    assert plain.isidentifier()
    run = Run(PARAMS, "mine")
    assert run.params.targets == [plain]
    made = {"prompts.parquet", "store.sqlite", "import.json"}
    assert everything(home) - before <= {"data", "data/mine"} | {f"data/mine/{file}{s}" for file in made
                                                                 for s in ("", "-wal", "-shm")}  # fmt: skip


def test_what_is_no_file_is_not_read(home):
    folder = put(home, GOOD)
    (folder / "fresh_draws").mkdir()
    os.mkfifo(folder / "fresh_draws" / "pipe_responses.jsonl")
    (folder / "fresh_draws" / "dir_responses.jsonl").mkdir()
    (folder / "fresh_draws" / "gone_responses.jsonl").symlink_to("nowhere")
    (folder / "fresh_draws" / "_responses.jsonl").write_text("")
    (folder / "notes.md").write_text("...")
    account = interchange.import_cje(folder, "mine")
    names = ["_responses.jsonl", "dir_responses.jsonl", "gone_responses.jsonl", "pipe_responses.jsonl"]
    assert account["not_read"] == [f"fresh_draws/{name}" for name in names] + ["notes.md"]
    with pytest.raises(ArenaError, match="no folder"):
        interchange.import_cje(home / "nowhere", "other")
    with pytest.raises(ArenaError, match=r"logged_data\.jsonl .*fresh_draws"):
        interchange.import_cje(home, "other")


@pytest.mark.skipif(not os.path.isfile("/proc/self/mem"), reason="needs a file whose reading fails")
def test_a_file_that_cannot_be_read_is_named(home):
    folder = put(home, GOOD)
    (folder / "fresh_draws").mkdir()
    (folder / "fresh_draws" / "a_responses.jsonl").symlink_to("/proc/self/mem")
    with pytest.raises(ArenaError, match=r"a_responses\.jsonl: .*Input/output"):
        interchange.import_cje(folder, "mine")
    assert not (home / "data").exists()


def test_parquet_that_is_none_is_refused(home):
    (home / "t.parquet").write_bytes(b"PAR1" + bytes(1000))
    columns = {"prompt_id": "id", "response": "answer"}
    told = {"run": "mine", "imported": {"tables": [{"path": "t.parquet", "columns": columns}]}}
    (home / "mine.yaml").write_text(yaml.safe_dump(told))
    name, _, declared = config.load_import(home / "mine.yaml")
    with pytest.raises(ArenaError, match=r"^t\.parquet: "):
        interchange.import_tables(name, declared)
    assert not paths.data_dir("mine").exists()


# Whole or not at all


def test_an_import_that_fails_on_the_way_leaves_nothing(home, monkeypatch):
    folder = put(home, GOOD)
    monkeypatch.setattr(staging.Prompts, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(ArenaError, match=r"^data/mine: .*No space"):
        interchange.import_cje(folder, "mine")
    assert list((home / "data").iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(home):
    """A limit on the size of files, as a disk that is full."""
    folder = lines(home / "theirs" / "logged_data.jsonl", [logged(n, response="x" * 2000) for n in range(500)]).parent

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        done = arena("import", "cje", folder, "--run", "mine")
        assert done.returncode == 2
        assert done.stderr.startswith("error: data/mine: ")
        assert done.stderr.count("\n") == 1

    with forked(limited) as child:
        child.join()
    assert child.exitcode == 0
    assert list((home / "data").iterdir()) == []


def _hold(home, entered, leave):
    os.environ["ARENA10K_HOME"] = str(home)
    with staging.staged("mine") as folder:
        (folder / "half").write_text("of a run")
        entered.set()
        leave.wait(60)
        os.kill(os.getpid(), 9)


def test_two_imports_of_a_run_do_not_meet_and_a_killed_one_is_cleared_away(home):
    folder = put(home, GOOD)
    context = multiprocessing.get_context("fork")
    entered, leave = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(home, entered, leave))
    other.start()
    assert entered.wait(60)
    with pytest.raises(ArenaError, match=r"^mine: "):
        interchange.import_cje(folder, "mine")
    assert not paths.data_dir("mine").exists()
    leave.set()
    other.join()
    assert everything(home / "data") == {".mine.importing", ".mine.importing/half"}
    assert interchange.import_cje(folder, "mine")["new"]
    assert not (home / "data" / ".mine.importing").exists()
    assert not (paths.data_dir("mine") / "half").exists()


def test_a_run_that_is_there_is_left_as_it_is(home):
    folder = put(home, GOOD)
    (home / "data" / "mine").mkdir(parents=True)
    (home / "data" / "mine" / "store.sqlite").write_text("precious")
    with pytest.raises(ArenaError, match="run 'mine'"):
        interchange.import_cje(folder, "mine")
    assert everything(home / "data") == {"mine", "mine/store.sqlite"}
    (home / "elsewhere").mkdir()
    (home / "data" / "linked").symlink_to(home / "elsewhere")
    with pytest.raises(ArenaError, match="run 'linked'"):
        interchange.import_cje(folder, "linked")
    assert everything(home / "elsewhere") == set()


# Whatever stands in the files

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3))
KEYS = ["prompt_id", "prompt", "response", "judge_score", "oracle_label", "draw_idx", "base_policy_logprob",
        "target_policy_logprobs", "metadata"]  # fmt: skip
BENT = st.builds(lambda number, changes: logged(number, **changes), st.integers(0, 3),
                 st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3))  # fmt: skip
LINES = st.lists(
    BENT.map(lambda row: json.dumps(row).encode())
    | VALUES.map(lambda v: json.dumps(v).encode())
    | st.binary(max_size=40),
    max_size=8,
).map(b"\n".join)


@pytest.fixture
def fresh_home(tmp_path_factory, monkeypatch):
    """A new home at every call, for properties that are tried many times."""

    def make():
        home = tmp_path_factory.mktemp("home")
        monkeypatch.setenv("ARENA10K_HOME", str(home))
        return home

    return make


@given(LINES, LINES)
@settings(max_examples=300 if MANY else 25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_stands_in_the_files_is_a_run_or_one_line(fresh_home, first, second):
    home = fresh_home()
    put(home, first)
    folder = put(home, second, "fresh_draws/terse_responses.jsonl")
    before = everything(home)
    account, refused = None, ""
    try:
        account = interchange.import_cje(folder, "mine")
    except ArenaError as error:
        refused = str(error)
    if account is None:
        assert refused
        assert "\n" not in refused
        assert everything(home) - before <= {"data"}
        return
    made = {p.split("/")[1] for p in everything(home) - before if "/" in p}
    assert made == {"mine"}
    for file in account["files"]:
        assert file["rows"] == file["taken"] + file["left_out"]
    assert len(account["malformed"]) == account["malformed_count"]
    for line in interchange.lines(account):
        line.encode(errors="replace")
    run = Run(PARAMS, "mine")
    stored = list(run.store.rows())
    assert {r["policy"] for r in stored} <= set(run.params.policies)
    assert sum(r["job"] == "responses" for r in stored) <= sum(f["taken"] for f in account["files"])
    numbers = [r["value"] for r in stored if r["job"] != "responses" and r["status"] == "ok"]
    assert all(isinstance(v, float) and v == v and abs(v) != float("inf") for v in numbers)
    scores = [r["value"] for r in stored if r["job"] not in ("responses", "logprobs") and r["status"] == "ok"]
    assert all(0 <= v <= 1 for v in scores)
    run.table()
    run.store.close()


@given(st.text(min_size=1, max_size=80))
@settings(max_examples=100, deadline=None)
def test_every_policy_name_becomes_one_that_is_no_path(name):
    plain = rows.plain_name(name)
    assert plain.isascii()
    assert plain.isidentifier()
    assert len(plain) <= 41
    sections.PolicyParams(provider=plain if len(plain) < 41 else "p", model=name)


@given(st.text(max_size=70))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_run_name_is_a_folder_in_data_or_refused(home, name):
    folder = put(home, b"")
    with pytest.raises(ArenaError):
        interchange.import_cje(folder, name)
    assert everything(home) <= {"theirs", "theirs/logged_data.jsonl", "data"}


@given(VALUES, st.floats(-10, 10), st.floats(0.1, 20))
@settings(max_examples=100, deadline=None)
def test_a_number_is_on_the_scale_or_a_fault(value, low, width):
    scale = (low, low + width)
    found = rows.on_scale("f", rows.number("f", value), scale)
    if isinstance(found, float):
        assert 0 <= found <= 1
        assert found * (scale[1] - scale[0]) + low == pytest.approx(float(value), abs=1e-9)
    else:
        assert (found is None) == (value is None)


def test_layout_names_are_those_of_the_readme():
    assert (layouts.LOGGED, layouts.FRESH, layouts.PROBES) == ("logged_data.jsonl", "fresh_draws", "probe_slice")
    assert fresh(0)["prompt_id"] == "q0"
