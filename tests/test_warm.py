"""A forked process is what the command would be: its streams, its exit code, its signals; nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time

import psutil
import pytest

from arena10k.pipeline import warm

COMMAND = [sys.executable, "-m"]


@pytest.fixture(scope="module", params=["forked", "no pool"])
def python(request):
    """A command that stands in for `python -m`, with a pool and where it is gone."""
    with warm.pool():
        if (standing_in := warm.command(COMMAND)) == COMMAND:
            pytest.skip("nothing is forked here")
        environment = {**os.environ} | ({warm.VARIABLE: "/nowhere"} if request.param == "no pool" else {})
        yield standing_in, environment


def run(python, *words, text="", **options):
    command, environment = python
    return subprocess.run([*command, *words], input=text, capture_output=True, text=True, env=environment, **options)


@pytest.mark.parametrize(("text", "code", "out"), [("[1,\n2]", 0, "[\n    1,\n    2\n]\n"), ("[1", 1, "")])
def test_streams_and_exit_codes_are_its_own(python, text, code, out):
    done = run(python, "json.tool", text=text)
    assert (done.returncode, done.stdout, bool(done.stderr)) == (code, out, bool(code))


def test_folder_arguments_and_environment_are_its_own(python, tmp_path):
    (tmp_path / "told.py").write_text("import os, sys; print(os.getcwd(), sys.argv[1:], os.environ['TOLD'], __name__)")
    command, environment = python
    done = run((command, environment | {"TOLD": "so"}), "told", "a b", cwd=tmp_path)
    assert done.stdout.split("\n")[0] == f"{tmp_path} ['a b'] so __main__", done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it_and_nothing_is_left(python, number, tmp_path):
    (tmp_path / "waits.py").write_text("import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)")
    command, environment = python
    with subprocess.Popen([*command, "waits"], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL) as process:
        said = tmp_path / "pid"
        while not (said.is_file() and said.read_text()):
            time.sleep(0.01)
        waiting = psutil.Process(int(said.read_text()))
        process.send_signal(number)
        assert process.wait(10) not in (None, 0)
        psutil.wait_procs([waiting], timeout=10)
    assert not waiting.is_running() or waiting.status() == psutil.STATUS_ZOMBIE


def test_the_pool_ends_what_is_left_of_it(tmp_path):
    (tmp_path / "waits.py").write_text("import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)")
    with warm.pool():
        process = subprocess.Popen([*warm.command(COMMAND), "waits"], cwd=tmp_path)
        while not (tmp_path / "pid").is_file():
            time.sleep(0.01)
    assert process.wait(10) != 0


def test_without_a_place_for_it_nothing_is_forked(tmp_path, monkeypatch):
    (tmp_path / "long" / ("n" * 100)).mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "long" / ("n" * 100)))  # longer than an address may be
    monkeypatch.delenv(warm.VARIABLE, raising=False)
    with warm.pool():
        assert warm.command(COMMAND) == COMMAND
