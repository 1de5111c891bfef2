"""Processes that begin with the libraries loaded, as loading them takes most of the time of a small stage.

They are forked from one process that lives as long as the pipeline (`pool`). Run as a file with `-m MODULE ...`, this
is a light process that stands in for `python -m MODULE ...`: it has one forked, hands it its own streams, folder and
environment, passes signals on, and ends as that one does. Where there is no pool it becomes that command itself.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

#: Where the pool listens.
VARIABLE = "ARENA10K_WARM"
#: The stage that a process belongs to; the system shows it as the process's name.
STAGE = "ARENA10K_STAGE"
#: What nearly every stage and notebook loads.
LOADED = (
    "papermill", "nbconvert", "ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell", "ipykernel.debugger",
    "matplotlib.figure", "pyarrow.dataset", "arena10k.cli", "arena10k.run", "arena10k.plots", "arena10k.report",
    "arena10k.attribution", "arena10k.audit.status", "arena10k.pipeline.first_page",
)  # fmt: skip
#: Coverage begins with a process, and would not see what is forked.
_MEASURED = {"COV_CORE_SOURCE", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"}
#: `stopping.STOP`: whoever sends it finds the forked process, too.
_STOP = signal.SIGUSR1


def command(words: list[str]) -> list[str]:
    """A command of this Python (`python -m MODULE ...`) as one that is forked where there is a pool; another command
    as it is."""
    if VARIABLE not in os.environ or words[:2] != [sys.executable, "-m"]:
        return words
    return [sys.executable, "-S", "-E", __file__, *words[1:]]


@contextmanager
def pool(at_once: Sequence[str] = ()) -> Iterator[None]:
    """Have `command` mean forked processes in the block, also in what this process starts; nothing is loaded before
    the first but the modules `at_once`. The children end with the block."""
    import subprocess
    import tempfile

    if sys.platform != "linux" or _MEASURED & set(os.environ):  # elsewhere libraries do not survive a fork
        yield
        return
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="arena10k-"))
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(place := os.path.join(folder, "pool"))
        except OSError:  # a full disk, or a path that is longer than an address may be
            yield
            return
        listener.listen(128)
        ends, alive = os.pipe()
        numbers = [listener.fileno(), ends]
        words = [*map(str, numbers), *at_once]
        serving = subprocess.Popen([sys.executable, "-m", __spec__.name, *words], pass_fds=numbers)
        os.close(ends)
        outer, os.environ[VARIABLE] = os.environ.get(VARIABLE), place
        try:
            yield
        finally:
            del os.environ[VARIABLE]
            os.environ |= {VARIABLE: outer} if outer else {}
            os.close(alive)
            serving.wait()


def _stand_in(words: list[str]) -> int:
    with socket.socket(socket.AF_UNIX) as line:
        try:
            line.connect(os.environ.get(VARIABLE, ""))
        except OSError:
            os.execv(sys.executable, [sys.executable, *words])
        signal.signal(_STOP, signal.SIG_IGN)
        for passed in (signal.SIGINT, signal.SIGTERM):
            signal.signal(passed, lambda number, _: line.send(bytes([number])))
        leads, parent = os.getsid(0) == os.getpid(), os.getppid()
        message = json.dumps([words, os.getcwd(), dict(os.environ), leads]).encode()
        socket.send_fds(line, [len(message).to_bytes(8, "big")], [0, 1, 2])
        line.sendall(message)
        line.settimeout(1.0)
        while os.getppid() == parent:
            with suppress(TimeoutError):
                return (line.recv(1) or b"\1")[0]
    return 1


class _Pool:
    """The process that is forked from. `serve` returns in each forked process, with its command line."""

    def __init__(self, listener: int, ends: int):
        import selectors
        import warnings

        # Libraries have threads of their own, which Python 3.12 warns of; none holds a lock where nothing is computed.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        self.listener, self.ends = socket.socket(fileno=listener), ends
        self.lines: dict[socket.socket, int] = {}
        self.woken, wake = os.pipe()
        os.set_blocking(wake, False)
        self.wake = wake
        self.waiting = selectors.DefaultSelector()
        for what in (self.listener, self.ends, self.woken):
            self.waiting.register(what, selectors.EVENT_READ)
        self.handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGCHLD, _STOP)}
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(_STOP, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake)

    def serve(self) -> list[str] | None:
        """None where the pipeline has ended."""
        while True:
            for key, _ in self.waiting.select():
                if key.fileobj is self.listener:
                    if words := self._fork(self.listener.accept()[0]):
                        return words
                elif key.fileobj == self.ends:
                    for pid in self.lines.values():
                        os.kill(pid, signal.SIGKILL)
                    return None
                elif key.fileobj == self.woken:
                    os.read(self.woken, 4096)
                    self._bury()
                else:
                    self._pass_on(key.fileobj)  # type: ignore[arg-type]

    def _fork(self, line: socket.socket) -> list[str] | None:
        head, streams, *_ = socket.recv_fds(line, 8, 3)
        with line.makefile("rb") as told:
            message = told.read(int.from_bytes(head, "big"))
        if len(streams) < 3 or not message:
            line.close()
            return None
        words, folder, environment, leads = json.loads(message)
        _load()
        signal.pthread_sigmask(signal.SIG_BLOCK, {_STOP})  # told to stop before it can hear, it hears it then
        if pid := os.fork():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {_STOP})
            for stream in streams:
                os.close(stream)
            self.lines[line] = pid
            self.waiting.register(line, 1)
            return None
        signal.set_wakeup_fd(-1)
        for restored, handler in self.handlers.items():
            signal.signal(restored, handler)
        self.waiting.close()
        for held in (self.listener, line, *self.lines):
            held.close()
        for end in (self.ends, self.woken, self.wake):
            os.close(end)
        for place, stream in enumerate(streams):
            os.dup2(stream, place)
            os.close(stream)
        if leads:
            os.setsid()
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {_STOP})
        return words  # type: ignore[no-any-return]

    def _bury(self) -> None:
        """Say of children that have ended how they did."""
        for line, pid in list(self.lines.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                with suppress(OSError):
                    line.send(bytes([code if code >= 0 else 128 - code]))
                self._forget(line)

    def _pass_on(self, line: socket.socket) -> None:
        """Signals from a stand-in; where it is gone, what it stood in for ends."""
        pid, said = self.lines[line], b""
        with suppress(OSError):
            said = line.recv(64)
        for number in said or [signal.SIGKILL]:
            os.kill(pid, number)
        if not said:
            os.waitpid(pid, 0)
            self._forget(line)

    def _forget(self, line: socket.socket) -> None:
        self.waiting.unregister(line)
        del self.lines[line]
        line.close()


def without_iris() -> None:
    """Have notebooks checked without the grammar of IRIs, which jsonschema takes a second to build where it is
    installed; no notebook holds one."""
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


def _load(names: Sequence[str] = LOADED) -> None:
    import gc
    import importlib

    without_iris()
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # or the debugger of kernels warns of breakpoints it may miss
    for name in names:
        importlib.import_module(name)
    gc.freeze()  # a forked process would copy every page that its collector looks through
    gc.set_threshold(50_000)  # a figure makes that many objects and frees few: at 700 that took a tenth of a page


def main() -> None:
    if sys.argv[1] == "-m":
        os._exit(_stand_in(sys.argv[1:]))
    pool = _Pool(*map(int, sys.argv[1:3]))
    if len(sys.argv) > 3:
        _load(sys.argv[3:])
    words = pool.serve()
    if words:
        import runpy

        if words[1].startswith("ipykernel"):  # it ends with the process that started it: here, that it was forked from
            words.append(f"--IPKernelApp.parent_handle={os.getppid()}")
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is heard when it can be: earlier it ends in a trace
        if words[1:3] == ["arena10k", "stage"]:
            os.environ[STAGE] = words[3]
        with suppress(OSError), open("/proc/self/comm", "w") as shown:
            shown.write(os.environ.get(STAGE, "")[:15])
        sys.argv, sys.path[0] = words[1:], os.getcwd()
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
