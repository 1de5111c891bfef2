"""Imports of broken and hostile files: what can be taken is, the rest is named, and nothing else is ever written."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arena10k import interchange, paths
from arena10k.errors import ArenaError
from arena10k.inputs import faults, files
from arena10k.interchange import rows, staging, writer
from arena10k.params import sections
from arena10k.run import Run
from in_process import arena
from stub_run import forked
from test_interchange import ANSWER, PARAMS, by_key, described, lines, logged

#: Whether this is `make faults`.
MANY = bool(os.environ.get("ARENA10K_FAULT_ITEMS"))
#: Lines of a large broken file.
MALFORMED = 1_000_000 if MANY else 5_000


def put(home, content, name="logged_data.jsonl"):
    path = home / "theirs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return home / "theirs"


def text_of(row):
    return json.dumps(row).encode()


def everything(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


GOOD = text_of(logged(0))
NUMBER, INFINITE, RANGE = "not_a_number", "not_finite", "out_of_range"
LOGPROB, TARGETS = "base_policy_logprob", "target_policy_logprobs"
#: A row (bytes, or what is changed of a good one), the field and words of its fault, and the code of the value where
#: the row is taken without it.
FAULTS = [
    (b"{", "", "JSON", None),
    (b"not json", "", "JSON", None),
    (b"[1, 2]", "", "list", None),
    (b'"text"', "", "'text'", None),
    (b"7", "", "7", None),
    (b"null", "", "None", None),
    (GOOD.replace(b"q0", b"q1").replace(b"Answer", b"Ans\xffwer"), "response", "Unicode", None),
    (b'{"a": ' + b"[" * 100_000, "", "nested", None),
    (b'{"a": ' + b"1" * 5000 + b"}", "", "4300", None),
    ({"metadata": ...}, "prompt_id", "missing", None),
    ({"metadata": {"prompt_id": " "}}, "prompt_id", "empty", None),
    ({"metadata": {"prompt_id": ["q"]}}, "prompt_id", "list", None),
    ({"metadata": [1]}, "prompt_id", "missing", None),
    ({"prompt_id": "other"}, "prompt_id", "metadata", None),
    ({"prompt": 5}, "prompt", "5", None),
    (
        {"response": None, "judge_score": None, "oracle_label": None, LOGPROB: None, TARGETS: ...},
        "response",
        "missing",
        None,
    ),
    ({"response": {"a": 1}}, "response", "object", None),
    (GOOD.replace(b"q0", b"q1").replace(b"Answer", b"\\ud83d"), "response", "Unicode", None),
    (text_of(logged(0, prompt="Another?", draw_idx=1)), "prompt", "earlier", None),
    *[(text_of(logged(0, response=text, draw_idx=0)), "prompt_id", "line 1", None) for text in ("Other.", "Answer 0.")],
    ({"draw_idx": -1}, "draw_idx", "-1", None),
    ({"draw_idx": 10**30}, "draw_idx", "whole", None),
    ({"draw_idx": True}, "draw_idx", "True", None),
    ({TARGETS: [1]}, TARGETS, "object", None),
    ({"judge_score": 1.01}, "judge_score", "1.01", RANGE),
    ({"judge_score": "0.5"}, "judge_score", "'0.5'", NUMBER),
    ({"judge_score": float("nan")}, "judge_score", "nan", INFINITE),
    ({"judge_score": {"mean": 0.5, "variance": -1}}, "judge_score.variance", "-1", RANGE),
    ({"oracle_label": "good"}, "oracle_label", "'good'", NUMBER),
    ({TARGETS: {"base": -3.0}}, f"{TARGETS}.base", LOGPROB, NUMBER),
    *[({LOGPROB: value}, LOGPROB, "finite", INFINITE) for value in ("NaN", "-inf", 10**400, "nan ", float("nan"))],
    (GOOD.replace(b"q0", b"q2").replace(b"Question 0", b"?").replace(b"-10.0", b"1e999"), LOGPROB, "finite", INFINITE),
    *[({LOGPROB: value}, LOGPROB, faults.shown(value), NUMBER) for value in ("-12.5", True, [1], "")],
]


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """All of them after a good row and an empty line, and before a good row, imported once: the account and the run."""
    labelled = {"oracle_label": 0.5}
    texts = [
        row if isinstance(row, bytes) else text_of(logged(n, **labelled | row)) for n, (row, *_) in enumerate(FAULTS, 3)
    ]
    home = tmp_path_factory.mktemp("home")
    folder = put(home, b"\n".join([GOOD, b"", *texts, text_of(logged(len(texts) + 3)), b""]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARENA10K_HOME", str(home))
        account = interchange.import_cje(folder, "mine")
        run = Run(PARAMS, "mine")
        yield account, run
        run.store.close()


@pytest.mark.parametrize(("line", "fault"), list(enumerate(FAULTS, start=3)))
def test_what_cannot_be_taken_is_named_by_file_line_and_field(spoilt, line, fault):
    account, run = spoilt
    (entry,) = [entry for entry in account["malformed"] if entry["line"] == line]
    _, field, says, code = fault
    assert (entry["file"], entry["field"], entry["code"]) == ("logged_data.jsonl", field, code or "malformed")
    assert entry["row_taken"] == (code is not None)
    assert says in entry["fault"]
    if code and field == LOGPROB:
        own = [r for r in by_key(run, "logprobs").values() if r["policy"] == "base" and r["detail"] == entry["fault"]]
        assert {(r["code"], r["value"]) for r in own} == {(code, None)}


def test_the_rows_around_them_are_taken(spoilt):
    account, run = spoilt
    left_out = sum(code is None for *_, code in FAULTS)
    (file,) = account["files"]
    assert (file["rows"], file["left_out"], file["values_left_out"]) == (
        len(FAULTS) + 2, left_out, len(FAULTS) - left_out
    )  # fmt: skip
    assert file["taken"] == len(run.table().logged) == file["rows"] - left_out


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "logged_data.jsonl: has no rows"),
        (b"\n \n\t\n", "logged_data.jsonl: has no rows"),
        (b"\xef\xbb\xbf", "logged_data.jsonl: has no rows"),
        (GOOD.decode().encode("utf-16"), "UTF-16"),
        (GOOD.decode().encode("utf-32"), "UTF-16"),
        (GOOD.decode().encode("utf-16-be"), "logged_data.jsonl: line 1: "),
        (GOOD[:-20], "logged_data.jsonl: line 1: "),
        (b"\x00" * 1000, "logged_data.jsonl: line 1: "),
        (random.Random(1).randbytes(64) + b"\xff", "logged_data.jsonl: line 1: "),
        (
            b"\n".join(
                text_of(logged(n, target_policy_logprobs={f"p{n}": -1.0})) for n in range(rows.MAX_POLICIES + 5)
            ),
            f"policies, beginning with 'base', 'p0', 'p1': at most {rows.MAX_POLICIES} ",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line_and_leaves_nothing(home, content, says):
    folder = put(home, content)
    before = everything(home)
    with pytest.raises(ArenaError) as caught:
        interchange.import_cje(folder, "mine")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert everything(home) - before <= {"data"}


def test_an_empty_or_broken_file_does_not_keep_others_with_a_mark_and_windows_line_ends_out(home):
    put(home, b"\xef\xbb\xbf" + GOOD + b"\r\n" + text_of(logged(1)) + b"\r\n")
    put(home, b"", "fresh_draws/a_responses.jsonl")
    deep = b'{"metadata": {"prompt_id": ' + b"[" * 900 + b"]" * 900 + b'}, "prompt_id": ' + b"[" * 900 + b"]" * 900
    folder = put(home, b"{}\n" * 3 + deep + b"}\n", "fresh_draws/b_responses.jsonl")
    account = interchange.import_cje(folder, "mine")
    assert [(f["rows"], f["taken"]) for f in account["files"]] == [(2, 2), (0, 0), (4, 0)]
    said = interchange.lines(account)
    assert any(line.startswith("  fresh_draws/a_responses.jsonl: ") for line in said)
    assert any("data/mine/import.json" in line for line in said)
    assert any(line.startswith("  fresh_draws/b_responses.jsonl: line 1: prompt_id: ") for line in said)


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
    assert (account["malformed_count"], len(account["malformed"])) == (MALFORMED, writer.LISTED)
    assert any(f"{MALFORMED - 5:,}" in line for line in interchange.lines(account))
    assert peaks["mine"] - peaks["small"] < 20 * MALFORMED


def test_a_line_without_end_is_passed_over_without_being_held(home, monkeypatch):
    monkeypatch.setattr(files, "LINE_LIMIT", 1 << 16)
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


# Names and places


def test_policy_names_are_names_and_never_paths(home):
    names = ["../../evil", "/etc/passwd", "<script>", "a\nb", "x" * 500, "\u202e", ""]
    folder = put(home, text_of(logged(0, target_policy_logprobs=dict.fromkeys(names, -1.0))))
    before = everything(home)
    account = interchange.import_cje(folder, "mine")
    run = Run(PARAMS, "mine")
    assert run.params.targets == [account["policies"][name] for name in names]
    assert all(name.isidentifier() for name in run.params.targets)
    made = {f"data/mine/{file}" for file in ("prompts.parquet", "store.sqlite", "import.json")}
    assert everything(home) - before - {"data/mine/store.sqlite-wal", "data/mine/store.sqlite-shm"} == (
        {"data", "data/mine"} | made
    )


def test_what_is_no_file_of_the_layout_is_not_read(home):
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
    (home / "t.parquet").write_bytes(b"PAR1" + bytes(1000))
    with pytest.raises(ArenaError, match=r"^t\.parquet: "):
        interchange.import_tables(*described(home, ["t.parquet", ANSWER]))
    assert not paths.data_dir("mine").exists()


# Whole or not at all


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
    (home / "elsewhere").mkdir()
    (home / "data" / "linked").symlink_to(home / "elsewhere")
    before = everything(home)
    for run in ("mine", "linked", "sample"):
        with pytest.raises(ArenaError, match=f"run '{run}'"):
            interchange.import_cje(folder, run)
    assert everything(home) == before


# Whatever stands in the files

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3))
KEYS = ["prompt_id", "prompt", "response", "judge_score", "oracle_label", "draw_idx", LOGPROB, TARGETS, "metadata"]
BENT = st.builds(lambda number, changes: logged(number, **changes), st.integers(0, 3),
                 st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3))  # fmt: skip
LINES = st.lists(BENT.map(text_of) | VALUES.map(text_of) | st.binary(max_size=40), max_size=8).map(b"\n".join)


@given(LINES, LINES)
@settings(max_examples=300 if MANY else 15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_stands_in_the_files_is_a_run_or_one_line(tmp_path_factory, monkeypatch, first, second):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("ARENA10K_HOME", str(home))
    put(home, first)
    folder = put(home, second, "fresh_draws/terse_responses.jsonl")
    before = everything(home)
    refused = ""
    try:
        account = interchange.import_cje(folder, "mine")
    except ArenaError as error:
        refused = str(error)
    if refused:
        assert "\n" not in refused
        assert everything(home) - before <= {"data"}
        return
    run = Run(PARAMS, "mine")
    assert {p.split("/")[1] for p in everything(home) - before if "/" in p} == {"mine"}
    assert all(file["rows"] == file["taken"] + file["left_out"] for file in account["files"])
    assert len(account["malformed"]) == account["malformed_count"]
    for line in interchange.lines(account):
        line.encode(errors="replace")
    stored = list(run.store.rows())
    assert {r["policy"] for r in stored} <= set(run.params.policies)
    assert sum(r["job"] == "responses" for r in stored) <= sum(f["taken"] for f in account["files"])
    numbers = [(r["job"], r["value"]) for r in stored if r["job"] != "responses" and r["status"] == "ok"]
    assert all(isinstance(v, float) and v == v and abs(v) != float("inf") for _, v in numbers)
    assert all(0 <= v <= 1 for job, v in numbers if job != "logprobs")
    run.table()
    run.store.close()


@given(st.text(min_size=1, max_size=80))
@settings(max_examples=100, deadline=None)
def test_every_policy_name_becomes_one_that_is_no_path(name):
    plain = rows.plain_names([name])[name]
    assert plain.isascii()
    assert plain.isidentifier()
    assert len(plain) <= 41
    sections.PolicyParams(provider=plain if len(plain) < 41 else "p", model=name)


@given(st.text(max_size=70))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_run_name_is_a_folder_in_data_or_refused(home, name):
    folder = put(home, GOOD)

    def there():  # without what comes and goes as other tests' stores are closed
        return {path for path in everything(home.parent) if not path.endswith(("-shm", "-wal"))}

    before = there()
    for outside in ("../evil", "/tmp/evil", "..", ".hidden", "", "a\x00b", "a" * 65, "c:\\x", "~", f"{name}/x"):
        with pytest.raises(ArenaError, match="run name"):
            interchange.import_cje(folder, outside)
    assert there() == before
    put(home, b"")
    with pytest.raises(ArenaError):
        interchange.import_cje(folder, name)
    assert there() - before <= {f"{home.name}/data"}


@given(VALUES, st.floats(-10, 10), st.floats(0.1, 20))
@settings(max_examples=100, deadline=None)
def test_a_number_is_on_the_scale_or_a_fault(value, low, width):
    scale = (low, low + width)
    share = rows.on_scale("f", rows.number("f", value), scale)
    if isinstance(share, float):
        assert 0 <= share <= 1
        assert share * (scale[1] - scale[0]) + low == pytest.approx(float(value), abs=1e-9)
    else:
        assert (share is None) == (value is None)
