"""Where a sweep runs: the cores of this machine, or a Dask cluster named by SCHEDULER; the results are the same."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from arena10k.errors import ArenaError

#: Address of a Dask scheduler, such as tcp://10.0.0.1:8786.
VARIABLE = "SCHEDULER"
CONNECT_SECONDS = 20


_LIBRARY = Path(__file__).resolve().parents[2]


@cache
def library_digest() -> str:
    """Digest of every module of the library as this process found it at its first sweep: workers must run the same
    code, and what is edited later is not what runs."""
    import hashlib

    state = hashlib.sha256()
    for path in sorted(_LIBRARY.rglob("*.py")):
        state.update(str(path.relative_to(_LIBRARY)).encode() + b"\0" + path.read_bytes())
    return state.hexdigest()


def run_tasks(
    function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], shared: tuple[Any, ...] = (), jobs: int = -1
) -> Iterator[Any]:
    """`function(*task, *shared)` for every task, in the order they end.

    Parameters
    ----------
    shared : arguments all tasks have in common; sent to a cluster once.
    jobs : processes on this machine, -1 for every core (LOKY_MAX_CPU_COUNT caps them); not used with a cluster.

    Raises
    ------
    ArenaError
        Where the scheduler cannot be reached, has no workers, or workers have another version of the library.
    """
    from joblib import Parallel, delayed, parallel_config

    with contextlib.ExitStack() as stack:
        address = os.environ.get(VARIABLE)
        if address:
            client = stack.enter_context(_cluster(address))
            stack.enter_context(parallel_config("dask", client=client, scatter=list(shared)))
        else:
            stack.enter_context(parallel_config("loky", n_jobs=jobs))
        parallel = Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch="3*n_jobs")
        yield from parallel(delayed(function)(*task, *shared) for task in tasks)


class _OneThread:
    """Holds BLAS to one thread while anything is within: a sum in another order has other last digits.

    The limit is one for the process, and a worker may have threads: the first sets it and the last lifts it.
    """

    def __init__(self) -> None:
        self._lock, self._within = threading.Lock(), 0
        self._limits: Any = None

    def __enter__(self) -> None:
        from threadpoolctl import threadpool_limits

        with self._lock:
            if not self._within:
                self._limits = threadpool_limits(1)
            self._within += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            if not self._within:
                self._limits.restore_original_limits()


one_thread = _OneThread()


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """A client of the scheduler, whose workers have been checked."""
    try:
        from distributed import Client
    except ImportError as error:
        raise ArenaError(f"{VARIABLE} is set, and Dask is not installed: pip install 'arena10k[cluster]'") from error
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise ArenaError(f"{VARIABLE}={address}: no Dask scheduler answers there: {error}") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
            found = client.run(library_digest, on_error="return")
        except TimeoutError as error:
            raise ArenaError(f"{VARIABLE}={address}: the scheduler has no workers: start `dask worker`") from error
        mine = library_digest()
        for worker, digest in found.items():
            if digest != mine:
                told = "another version of the library" if isinstance(digest, str) else f"no library ({digest})"
                told += ": install this one there and start the worker anew"
                raise ArenaError(f"{VARIABLE}={address}: worker {worker} has {told}")
        yield client
