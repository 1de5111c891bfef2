"""How a run is stopped: by Ctrl-C or SIGTERM, sent to the command alone or to its whole process group.

The command alone answers. What it starts is deaf to Ctrl-C, which a terminal sends to all of a group, and hears of it
from the command, so that it is told once however the signal was sent: Snakemake starts nothing more, and every stage
interrupts its kernel. The command ends when all of them are gone.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arena10k.errors import ArenaError

if TYPE_CHECKING:
    import psutil

#: In front of a command: it and all that it starts are deaf to Ctrl-C.
DEAF = ("/bin/sh", "-c", 'trap "" INT; exec "$0" "$@"')
#: Seconds after which requests in flight are dropped, a kernel that does not end is killed, and then all that is left.
DROPPED, KILLED, ALL_KILLED = 10.0, 15.0, 20.0
#: What the command tells Snakemake (see `launch`) and the stages.
TOLD = signal.SIGUSR1
_POLL = 0.2


class StoppedOnRequest(ArenaError):
    """A stage that was told to stop."""


@contextmanager
def hearing(answer: Callable[..., Any], *numbers: signal.Signals) -> Iterator[None]:
    """Answer these signals in the block, or SIGINT and SIGTERM: SIGINT too where this process was started to ignore it,
    as a shell without job control does with what it runs in the background. Whoever sends it to a run means the run."""
    before = {number: signal.signal(number, answer) for number in numbers or (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Wish:
    """Answers signals by counting how many `times` a run was asked to stop."""

    times = 0

    def __call__(self, number: int, _: object) -> None:
        self.times += 1


def run(command: list[str], environment: dict[str, str]) -> int:
    """Run the pipeline to its end; its exit code.

    Raises
    ------
    KeyboardInterrupt
        Where it was stopped by a signal; nothing that it started is left then.
    """
    wish = Wish()
    with hearing(wish), subprocess.Popen([*DEAF, *command], env=environment) as pipeline:
        while pipeline.poll() is None and not wish.times:
            time.sleep(_POLL)
        if not wish.times:
            return pipeline.returncode
        _end(pipeline, wish)
    raise KeyboardInterrupt


def _end(pipeline: subprocess.Popen[bytes], wish: Wish) -> None:
    """Tell all that runs to stop, once for every wish, and return when it is gone."""
    import psutil

    begun, known, told = time.monotonic(), set(), dict[psutil.Process, int]()
    with suppress(ProcessLookupError):
        pipeline.send_signal(TOLD)
    while True:
        # A stage may just be starting, and outlive Snakemake.
        known |= set(psutil.Process().children(recursive=True))
        alive = [process for process in known if _is_alive(process)]
        if pipeline.poll() is not None and not alive:
            return
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                if time.monotonic() - begun > ALL_KILLED:
                    process.kill()
                elif told.get(process, 0) < wish.times and _is_stage(process):
                    process.send_signal(TOLD)
                    told[process] = wish.times
        time.sleep(_POLL)


def _is_alive(process: psutil.Process) -> bool:
    import psutil

    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _is_stage(process: psutil.Process) -> bool:
    return process.cmdline()[1:4] == ["-m", "arena10k", "stage"]


class Interrupting(Wish):
    """Answers signals to a stage: interrupts its kernel, which then finishes the requests in flight; a second one, or
    time, drops them. A SIGTERM to the group comes to a stage by itself and from the command, and is one."""

    def __init__(self) -> None:
        self._heard: Counter[int] = Counter()

    def __call__(self, number: int, _: object) -> None:
        self._heard[number] += 1
        if self._heard[number] > self.times:
            self.times += 1
            self._interrupt()
            for seconds, step in ((DROPPED, self._interrupt), (KILLED, self._kill)) if self.times == 1 else ():
                timer = threading.Timer(seconds, step)
                timer.daemon = True
                timer.start()

    def check(self, **_: object) -> None:
        """Before every cell: an interrupt between two cells is heard by none. Raises StoppedOnRequest."""
        if self.times:
            raise StoppedOnRequest("stopped on request; the same command goes on from here")

    def _interrupt(self) -> None:
        self._send(signal.SIGINT)

    def _kill(self) -> None:
        logging.getLogger("papermill").disabled = True  # it would say that the kernel died
        self._send(signal.SIGKILL)

    @staticmethod
    def _send(number: signal.Signals) -> None:
        import psutil

        for kernel in psutil.Process(os.getpid()).children():
            with suppress(psutil.NoSuchProcess):
                kernel.send_signal(number)


class _Progress:
    """Where a kernel's progress bars go. Once it is interrupted, only the collection still has something to say:
    threads of other libraries end in tracebacks then."""

    def __init__(self, wish: Wish, collects: bool):
        self._wish, self._collects, self._within_line = wish, collects, False

    def write(self, text: str) -> None:
        if text and (self._collects or not self._wish.times):
            sys.stderr.write(text)
            self._within_line = not text.endswith("\n")

    def end_line(self) -> None:
        if self._within_line:
            sys.stderr.write("\n")

    def flush(self) -> None:
        sys.stderr.flush()


def run_notebook(source: Path, executed: Path, told: dict[str, str], collects: bool) -> None:
    """Run a stage's notebook with these parameters. It answers what the command tells it, and Ctrl-C where the stage is
    run by hand. `collects`: whether it asks models.

    Raises
    ------
    StoppedOnRequest
        Where it was told to stop, however that ended it; else what papermill raises.
    """
    import papermill

    answer = Interrupting()
    progress = _Progress(answer, collects)
    by_hand = signal.getsignal(signal.SIGINT) != signal.SIG_IGN
    numbers = [TOLD, signal.SIGTERM, *([signal.SIGINT] if by_hand else [])]
    # In a thread of its own: in the main one nbclient would answer signals, by killing the kernel.
    with hearing(answer, *numbers), ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            papermill.execute_notebook,
            str(source),
            str(executed),
            told,
            kernel_name="python3",
            progress_bar=False,
            stderr_file=progress,
            extra_arguments=["--IPKernelApp.log_level=50"],  # says at every start that it uses loopback TCP
            on_cell_start=answer.check,
        )
        try:
            running.result()
        except Exception:
            progress.end_line()
            answer.check()
            raise
