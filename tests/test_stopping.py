"""A run that is told to stop: by any signal, to the command alone or to its group, at work or on its way there.

`make faults` goes through all ways to stop it, each at three random moments.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil
import pytest
from jupyter_client import launcher
from jupyter_client.provisioning import local_provisioner

from arena10k import paths
from arena10k.collection.store import Store
from arena10k.errors import ArenaError
from arena10k.pipeline import failures, stages, stopping
from in_process import arena
from stub_run import forked, make_params, past_the_prompts
from stub_server import Stub

KILLS = min(int(os.environ.get("ARENA10K_FAULT_KILLS", "0")), 3)
#: Signal, whether the whole group gets it, and whether the command was started to ignore SIGINT, as by `&` in a script.
WAYS = [(signal.SIGTERM, False, False), (signal.SIGINT, True, False), (signal.SIGTERM, True, False),
        (signal.SIGINT, False, True), (signal.SIGHUP, True, False)][: 5 if KILLS else 1]  # fmt: skip
#: In front of a command: it is deaf to Ctrl-C.
DEAF = ("/bin/sh", "-c", 'trap "" INT; exec "$0" "$@"')


@contextmanager
def report(params, deaf=False):
    """The command in a process group of its own."""
    line = [*(DEAF if deaf else ()), sys.executable, "-m", "arena10k", "report", "--params", str(params)]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, process_group=0) as child:
        yield child


def until(happened, alive=lambda: True, seconds=300.0):
    deadline = time.monotonic() + seconds
    while not happened() and alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert happened()


def left_of(family):
    return [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def stop(child, params, number, group):
    """Send the signal; the processes that the command had. It says how to go on, and nothing of it is left."""
    family = psutil.Process(child.pid).children(recursive=True)
    (os.killpg if group else os.kill)(child.pid, number)
    stderr = child.communicate(timeout=300)[1]
    assert child.returncode == 130
    assert stderr.splitlines()[-1].endswith(f"python -m arena10k report --params {params}")
    assert not any(word in stderr for word in ("Traceback", "Error", "Aborted"))
    assert left_of(family) == []
    return family


def records():
    rows = Store.read(paths.store_file("stub")).rows()
    return {(r["job"], r["prompt_id"], r["request_hash"]): r["value"] for r in rows}


@pytest.mark.parametrize(("number", "group", "deaf"), WAYS)
def test_a_collection_that_is_stopped_keeps_what_was_asked(home, number, group, deaf):
    kept = {}
    with Stub(delay=0.3) as stub:
        past_the_prompts(make_params(home, stub.url, n_prompts=300 + 300 * KILLS, concurrency=2))
        for _ in range(max(KILLS, 1)):
            more = stub.requests + random.randint(8, 30 if KILLS else 12)
            with report(home / "stub.yaml", deaf) as child:
                until(lambda: stub.requests >= more, lambda: child.poll() is None)  # noqa: B023
                family = stop(child, home / "stub.yaml", number, group)
            assert len(family) >= 3, "Snakemake, the stage and its kernel; more where these are forked"
            asked, before, kept = stub.requests, kept, records()
            assert before.items() <= kept.items()
            assert len(kept) >= len(before) + 6
            time.sleep(0.5)
            assert stub.requests == asked
        # What was in flight was waited for: no request was made for nothing.
        assert sum(stub.ledger.values()) == stub.requests == len(kept)
    assert failures.lines("stub") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP][: 3 if KILLS else 1])
def test_a_run_is_stopped_while_it_starts(home, number):
    """As soon as Snakemake is there, which has nothing planned by then; or at any moment of its first seconds."""
    make_params(home, "http://127.0.0.1:9/v1")
    for _ in range(max(KILLS, 1)):
        with report(home / "stub.yaml") as child:
            until(lambda: psutil.Process(child.pid).children(recursive=True), lambda: child.poll() is None)
            time.sleep(random.uniform(0, 4) if KILLS else 0)
            stop(child, home / "stub.yaml", number, group=True)


def book(home, monkeypatch, *codes):
    """The notebook of every stage: these cells."""
    kernel = {"kernelspec": {"display_name": "", "language": "python", "name": "python3"}}
    one = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in codes], metadata=kernel)
    nbformat.write(one, home / "book.ipynb")
    monkeypatch.setattr(paths, "notebook", lambda _: home / "book.ipynb")


def _stage(home):
    done = arena("stage", "02_responses", "--params", "sample")
    (home / "stderr").write_text(f"{done.returncode} {done.stderr}")


LONG = "import pathlib, signal, time\npathlib.Path('at_work').touch()\n"
BUSY = "try:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    time.sleep(600)"


@pytest.mark.parametrize(
    ("code", "times"),
    [(BUSY, 2), ("signal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(600)", 1)],
    ids=["a cell that finishes what it has begun", "a cell that hears nothing"],
)
def test_a_stage_that_is_run_by_hand_is_stopped(home, monkeypatch, code, times):
    """At a second signal what is in flight is dropped; a kernel that does not end is killed."""
    monkeypatch.chdir(home)
    book(home, monkeypatch, LONG + code)
    monkeypatch.setattr(local_provisioner, "launch_kernel", launcher.launch_kernel)
    monkeypatch.setattr(stopping, "DROPPED", 600.0)
    monkeypatch.setattr(stopping, "KILLED", 600.0 if times > 1 else 1.0)
    with forked(_stage, home) as process:
        until((home / "at_work").exists, process.is_alive)
        family = psutil.Process(process.pid).children(recursive=True)
        for _ in range(times):
            time.sleep(0.5)
            os.kill(process.pid, signal.SIGINT)
        process.join(300)
    code, stderr = (home / "stderr").read_text().split(" ", 1)
    assert (code, stderr.count("\n")) == ("2", 1)
    assert stderr.startswith("error: stopped on request")
    assert left_of(family) == []
    assert failures.lines("sample") == []


def test_a_kernel_is_told_again_after_a_while_and_then_killed(monkeypatch):
    sent = []
    monkeypatch.setattr(stopping, "DROPPED", 0.1)
    monkeypatch.setattr(stopping, "KILLED", 0.3)
    monkeypatch.setattr(stopping.Interrupting, "_send", staticmethod(sent.append))
    answer = stopping.Interrupting()
    answer(signal.SIGTERM, None)
    with pytest.raises(stopping.StoppedOnRequest):
        answer.check()
    until(lambda: len(sent) >= 3)
    assert sent == [signal.SIGINT, signal.SIGINT, signal.SIGKILL]


def test_a_kernel_that_dies_is_the_fault_that_is_told(home, monkeypatch):
    book(home, monkeypatch, "print('here')", "import os\nos.kill(os.getpid(), 9)", "print('never')")
    with pytest.raises(ArenaError, match=r"^02_responses: DeadKernelError"):
        stages.execute("02_responses", "sample", None)
    (failed,) = failures.lines("sample")
    assert failed.startswith("02_responses: DeadKernelError")
    left = nbformat.read(stages.executed_file("sample", "02_responses"), as_version=4).cells
    assert [output.text for cell in left for output in cell.outputs] == ["here\n"]


def test_a_kernel_takes_no_port_and_leaves_no_file(home, monkeypatch):
    code = "from ipykernel.kernelapp import IPKernelApp\napp = IPKernelApp.instance()\nprint(app.transport, app.ip)"
    book(home, monkeypatch, code)
    done, addresses = home / "done.ipynb", set()
    for _ in range(2):
        stopping.run_notebook(home / "book.ipynb", done, {}, False)
        transport, address = nbformat.read(done, as_version=4).cells[-1].outputs[0].text.split()
        addresses.add(address)
        assert transport == "ipc"
        assert not Path(address).parent.exists()
    assert len(addresses) == 2, "each has one of its own"
