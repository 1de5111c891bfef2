"""A run that is told to stop: by either signal, to the command alone or to its group, at work or on its way there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest

from arena10k import paths
from arena10k.collection.store import Store
from arena10k.pipeline import failures, stages, stopping
from stub_run import make_params, past_the_prompts
from stub_server import Stub


@contextmanager
def command(*words, deaf=False):
    """`arena10k` in a process group of its own; with `deaf` started to ignore SIGINT, as by `&` in a script."""
    line = [sys.executable, "-m", "arena10k", *map(str, words)]
    if deaf:
        line = [*stopping.DEAF, *line]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, process_group=0) as child:
        yield child


def report(params, **options):
    return command("report", "--params", params, **options)


def until(found, child, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not found() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found(), child.stderr.read() if child.poll() is not None else "too slow"


def stop(child, *signals, group=True):
    """Send the signals, a second apart; what the command said, how long it took, its processes and which are left."""
    family = psutil.Process(child.pid).children(recursive=True)
    begun = time.monotonic()
    for number in signals:
        (os.killpg if group else os.kill)(child.pid, number)
        if len(signals) > 1:
            time.sleep(1)
    told = child.communicate(timeout=60)[1]
    took = time.monotonic() - begun
    left = [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    return told, took, family, left


@contextmanager
def collecting(home, *words):
    """A command that has got some way with its responses, and goes on."""
    with Stub(delay=0.3) as stub:
        past_the_prompts(make_params(home, stub.url, n_prompts=300, concurrency=2))
        with command(*words, "--params", home / "stub.yaml") as child:
            until(lambda: stub.requests >= 12, child)
            yield child


def kernel(child):
    (found,) = [p for p in psutil.Process(child.pid).children(recursive=True) if "ipykernel_launcher" in p.cmdline()]
    return found


def check_stopped(child, told, params):
    assert child.returncode == 130
    assert told.splitlines()[-1].endswith(f"python -m arena10k report --params {params}")
    assert "Traceback" not in told
    assert "Error" not in told
    assert "Aborted" not in told


def records():
    return {
        (r["job"], r["prompt_id"], r["request_hash"]): r["value"] for r in Store.read(paths.store_file("stub")).rows()
    }


def test_every_signal_however_it_comes_stops_a_collection_which_the_command_takes_up_again(home):
    """Ctrl-C in a terminal and SIGTERM to the command alone are in the two tests below."""
    ways = [(signal.SIGTERM, True, False), (signal.SIGINT, False, True)]
    before = {}
    with Stub(delay=0.3) as stub:
        past_the_prompts(make_params(home, stub.url, n_prompts=300, concurrency=2))
        for number, group, deaf in ways:
            asked = stub.requests
            with report(home / "stub.yaml", deaf=deaf) as child:
                until(lambda: stub.requests >= asked + 10, child)  # noqa: B023
                told, took, family, left = stop(child, number, group=group)
            check_stopped(child, told, home / "stub.yaml")
            assert took < 15
            assert len(family) == 3, "Snakemake, the stage and its kernel"
            assert left == []
            after, kept = stub.requests, records()
            assert before.items() <= kept.items()
            assert len(kept) >= len(before) + 8
            time.sleep(0.5)
            assert stub.requests == after
            before = kept
        # What was in flight was waited for: no request was made for nothing.
        assert sum(stub.ledger.values()) == stub.requests == len(before)
    assert failures.lines("stub") == []


def test_requests_that_take_long_are_dropped_at_a_second_ctrl_c(home):
    with Stub(delay=300) as stub:
        past_the_prompts(make_params(home, stub.url, n_prompts=50, timeout_seconds=600))
        with report(home / "stub.yaml") as child:
            until(lambda: stub.requests >= 5, child)
            told, took, _, left = stop(child, signal.SIGINT, signal.SIGINT)
        check_stopped(child, told, home / "stub.yaml")
        assert took < stopping.DROPPED
        assert left == []


def test_a_kernel_is_told_again_after_a_while_and_then_killed(monkeypatch):
    sent = []
    monkeypatch.setattr(stopping, "DROPPED", 0.1)
    monkeypatch.setattr(stopping, "KILLED", 0.3)
    monkeypatch.setattr(stopping.Interrupting, "_send", staticmethod(sent.append))
    answer = stopping.Interrupting()
    answer(signal.SIGTERM, None)
    answer(stopping.TOLD, None)  # the same wish, by the command
    assert sent == [signal.SIGINT]
    with pytest.raises(stopping.StoppedOnRequest):
        answer.check()
    deadline = time.monotonic() + 10
    while len(sent) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sent == [signal.SIGINT, signal.SIGINT, signal.SIGKILL]


def test_a_kernel_that_hears_nothing_is_killed(home):
    with collecting(home, "report") as child:
        kernel(child).suspend()
        told, took, _, left = stop(child, signal.SIGTERM, group=False)
    check_stopped(child, told, home / "stub.yaml")
    assert took < 25
    assert left == []
    assert len(records()) >= 10


def test_a_kernel_that_dies_is_the_fault_that_is_told(home):
    with collecting(home, "stage", "02_responses") as child:
        kernel(child).kill()
        told = child.communicate(timeout=60)[1]
    assert child.returncode == 2
    assert told.splitlines()[-1].startswith("error: 02_responses: DeadKernelError")
    (failed,) = failures.lines("stub")
    assert failed.startswith("02_responses: DeadKernelError")


def test_a_run_is_stopped_while_it_starts(home):
    """As soon as Snakemake is there, which has nothing planned by then."""
    make_params(home, "http://127.0.0.1:9/v1")
    with report(home / "stub.yaml") as child:
        until(lambda: psutil.Process(child.pid).children(recursive=True), child)
        told, took, _, left = stop(child, signal.SIGINT)
    check_stopped(child, told, home / "stub.yaml")
    assert took < 15
    assert left == []


def test_a_page_that_computes_and_is_run_by_hand_is_stopped(home):
    with command("stage", "10_simulation", "--params", "sample") as child:
        until(lambda: stages.executed_file("sample", "10_simulation").is_file(), child)
        time.sleep(3)
        told, took, _, left = stop(child, signal.SIGINT)
    assert child.returncode == 2
    assert told.startswith("error: stopped on request")
    assert told.count("\n") == 1
    assert took < 15
    assert left == []
    assert failures.lines("sample") == []
