"""How a run is stopped: by Ctrl-C or SIGTERM to the command, or by a terminal that is closed.

The command starts the pipeline in a session of its own, which hears of neither, and tells each of its processes once:
Snakemake then starts nothing more, and every stage interrupts its kernel. The command ends when all of them are gone.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from arena10k.errors import ArenaError

#: Seconds after which requests in flight are dropped, a kernel that does not end is killed, and then all that is left.
DROPPED, KILLED, ALL_KILLED = 10.0, 15.0, 20.0
#: What the command sends to Snakemake (see `runner`) and to the stages; it ends one that is only starting.
STOP = signal.SIGUSR1
_POLL = 0.2


class StoppedOnRequest(ArenaError):
    """A stage that was told to stop."""


@contextmanager
def hearing(answer: Callable[..., Any]) -> Iterator[None]:
    """Answer signals to stop in the block; Ctrl-C too where this process was started to ignore it, as a shell without
    job control does with what it runs in the background: whoever sends it to a run means the run."""
    numbers = [signal.SIGINT, signal.SIGTERM, STOP]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as `nohup` has it
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, answer) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(command: list[str], environment: dict[str, str]) -> int:
    """Run the pipeline to its end; its exit code. Raises KeyboardInterrupt where it was stopped by a signal; nothing
    that it started is left then."""
    asked: list[float] = []  # when it was asked to stop
    sent: dict[int, int] = {}  # how many of these requests a process has been sent
    with (
        hearing(lambda *_: asked.append(time.monotonic())),
        subprocess.Popen(command, env=environment, start_new_session=True) as pipeline,
    ):
        while pipeline.poll() is None or (asked and _alive(pipeline.pid)):
            # A stage may just be starting, and outlive Snakemake.
            for process in _alive(pipeline.pid) if asked else ():
                with suppress(psutil.NoSuchProcess):
                    if time.monotonic() - asked[0] > ALL_KILLED:
                        process.kill()
                    elif sent.get(process.pid, 0) < len(asked):
                        sent[process.pid] = len(asked)
                        process.send_signal(STOP)
            time.sleep(_POLL)
    if asked:
        raise KeyboardInterrupt
    return pipeline.returncode


def _alive(session: int) -> list[psutil.Process]:
    """The processes of the pipeline's session; kernels have their own, and end with their stage."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


class Interrupting:
    """Answers signals to a stage: interrupts its kernel, which then finishes the requests in flight; a second one, or
    time, drops them.

    Progress bars of the kernel go here too. Once it is interrupted, only a collection (`collects`) still has something
    to say: threads of other libraries end in tracebacks then.
    """

    def __init__(self, collects: bool = False) -> None:
        self.times, self._collects, self._within_line = 0, collects, False

    def __call__(self, *_: object) -> None:
        self.times += 1
        self._send(signal.SIGINT)
        for seconds, number in ((DROPPED, signal.SIGINT), (KILLED, signal.SIGKILL)) if self.times == 1 else ():
            timer = threading.Timer(seconds, self._send, [number])
            timer.daemon = True
            timer.start()

    def check(self, **_: object) -> None:
        """Before every cell: an interrupt between two cells is heard by none. Raises StoppedOnRequest."""
        if self.times:
            raise StoppedOnRequest("stopped on request; the same command goes on from here")

    @staticmethod
    def _send(number: signal.Signals) -> None:
        if number == signal.SIGKILL:
            logging.getLogger("papermill").disabled = True  # it would say that the kernel died
        for kernel in psutil.Process(os.getpid()).children():
            with suppress(psutil.NoSuchProcess):
                kernel.send_signal(number)

    def write(self, text: str) -> None:
        if text and (self._collects or not self.times):
            sys.stderr.write(text)
            self._within_line = not text.endswith("\n")

    def flush(self) -> None:
        sys.stderr.flush()


def run_notebook(source: Path, executed: Path, parameters: dict[str, str], collects: bool) -> None:
    """Run a stage's notebook with these parameters. `collects`: whether it asks models. Raises StoppedOnRequest where
    it was told to stop, however that ended it; else what papermill raises."""
    import nbformat
    import papermill
    from jupyter_client.manager import AsyncKernelManager
    from traitlets.config import Config

    from arena10k.pipeline import warm

    class Kernels(AsyncKernelManager):
        def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
            # A kernel that ends is interrupted first, and would say so.
            return warm.command(super().format_kernel_cmd([*(extra_arguments or ()), "--IPKernelApp.log_level=50"]))

    answer, begun = Interrupting(collects), list[Any]()

    def starting(cell: Any, **_: object) -> None:
        answer.check()
        begun.append(cell)

    # In a thread of its own: in the main one nbclient would answer signals, by killing the kernel.
    # A kernel is reached through files of its own: another process may take a free port before the kernel has it.
    with hearing(answer), ThreadPoolExecutor(1) as pool, tempfile.TemporaryDirectory() as folder:
        running = pool.submit(
            papermill.execute_notebook,
            str(source),
            str(executed),
            parameters,
            kernel_name="python3",
            progress_bar=False,
            request_save_on_cell_execute=False,
            stderr_file=answer,
            kernel_manager_class=Kernels,
            config=Config(KernelManager={"transport": "ipc", "connection_file": f"{folder}/kernel.json"}),
            on_cell_start=starting,
        )
        try:
            running.result()
        except Exception:
            if answer._within_line:
                sys.stderr.write("\n")
            answer.check()
            if begun and not (executed.is_file() and executed.stat().st_size):  # its kernel died
                nbformat.write(nbformat.v4.new_notebook(cells=begun), executed)
            raise
