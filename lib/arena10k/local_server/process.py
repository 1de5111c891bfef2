"""Run the local server as a subprocess that cannot outlive its parent."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from arena10k.errors import ArenaError

_HOST = "127.0.0.1"
#: Base URL and process id of a server that has been started.
SHARED = "ARENA10K_LOCAL_SERVER"
_LOG_LINES, _START_SECONDS = 20, 120


class ServerFailed(ArenaError):
    """The local server did not start."""


@contextlib.contextmanager
def running(log: Path | None = None) -> Iterator[str]:
    """Yield the base URL of a server, e.g. `http://127.0.0.1:8000`: of the one that `shared` has started, or of
    `python -m arena10k.local_server`, started for the block.

    The log goes to the file `log`, or is thrown away at the end. The child ends when the block does, and when this
    process dies in any way: its standard input then closes. Raises ServerFailed, with the last lines of the log, when
    the server is not up after `_START_SECONDS`.
    """
    base_url, _, pid = os.environ.get(SHARED, "").partition(" ")
    if base_url and _is_up(base_url, lambda: psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE):
        yield base_url
        return
    with contextlib.ExitStack() as stack:
        log = log or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "server.log"
        child, base_url = stack.enter_context(_started(log))
        if not _is_up(base_url, lambda: child.poll() is None):
            why = "timed out" if child.poll() is None else f"ended with code {child.returncode}"
            lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
            raise ServerFailed("\n".join([f"the local server {why}; last lines of its log:", *lines]))
        yield base_url


@contextlib.contextmanager
def shared(log: Path) -> Iterator[None]:
    """Have `running` mean one server in the block, also in what this process starts: it loads its model once."""
    with _started(log) as (child, base_url):
        os.environ[SHARED] = f"{base_url} {child.pid}"
        try:
            yield
        finally:
            del os.environ[SHARED]


@contextlib.contextmanager
def _started(log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "arena10k.local_server", "--port", str(port), "--until-stdin-closes"]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:  # in a session of its own, where no signal reaches it that stops a pipeline in order
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield child, f"http://{_HOST}:{port}"
    finally:
        try:
            child.communicate(timeout=10)  # closes its standard input
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _is_up(base_url: str, lives: Callable[[], bool]) -> bool:
    """Wait until the server answers; False where it does not live, or takes too long."""
    # Proxies of the environment are not for loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _START_SECONDS
    with contextlib.suppress(psutil.NoSuchProcess):
        while lives() and time.monotonic() < deadline:
            with contextlib.suppress(urllib.error.URLError, TimeoutError, ConnectionError):
                opener.open(f"{base_url}/health", timeout=5).close()
                return True
            time.sleep(0.1)
    return False
