"""Run the local server as a subprocess that cannot outlive its parent."""

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from arena10k.errors import ArenaError

_HOST = "127.0.0.1"
_LOG_LINES, _START_SECONDS = 20, 120


class ServerFailed(ArenaError):
    """The local server did not start."""


@contextlib.contextmanager
def running(log: Path | None = None) -> Iterator[str]:
    """Start `python -m arena10k.local_server` and yield its base URL, e.g. `http://127.0.0.1:8000`.

    The log goes to the file `log`, or is thrown away at the end. The child ends when the block does, and when this
    process dies in any way: its standard input then closes. Raises ServerFailed, with the last lines of the log, when
    the server is not up after `_START_SECONDS`.
    """
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "arena10k.local_server", "--port", str(port), "--until-stdin-closes"]
    with contextlib.ExitStack() as stack:
        log = log or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "server.log"
        with log.open("ab") as sink:
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sink, stderr=subprocess.STDOUT)
        try:
            base_url = f"http://{_HOST}:{port}"
            _wait(child, base_url, log)
            yield base_url
        finally:
            try:
                child.communicate(timeout=10)  # closes its standard input
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait(child: subprocess.Popen[bytes], base_url: str, log: Path) -> None:
    # Proxies of the environment are not for loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _START_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, TimeoutError, ConnectionError):
            opener.open(f"{base_url}/health", timeout=5).close()
            return
        time.sleep(0.1)
    why = "timed out" if child.poll() is None else f"ended with code {child.returncode}"
    lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    raise ServerFailed("\n".join([f"the local server {why}; last lines of its log:", *lines]))
