"""Sweeps: estimators measured over and over on parts of the data, on the cores of this machine or on a Dask cluster.

A cell is one variant at one point (a level per factor, and a seed) on all policies. Its random numbers come from its
own factors and seed and each process computes on one thread, so neither the backend nor the number of workers nor an
interruption can change a digit. Finished cells are kept as they come.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from arena10k.ablations.factors import FACTORS, Data, apply
from arena10k.ablations.scores import MEASURES
from arena10k.analysis import DEFAULT, Analysis
from arena10k.errors import ArenaError, one_line
from arena10k.estimation import ESTIMATORS
from arena10k.estimation.calibration import CALIBRATIONS
from arena10k.estimation.context import context
from arena10k.estimation.verdicts import estimate_row

if TYPE_CHECKING:
    from distributed import Client
    from joblib import Memory

#: Names a Dask scheduler, such as tcp://10.0.0.1:8786; and how long it may take to answer.
VARIABLE, CONNECT_SECONDS = "SCHEDULER", 20
#: Points a worker does before it answers: what a kill loses, against what an answer costs.
POINTS_PER_TASK = 5
_LIBRARY = Path(__file__).parents[1]

#: A level per factor (None: all of the data), and a seed.
Point = tuple[tuple[float | None, ...], int]
#: Policy and `MEASURES` of every policy, and what that took on one core in seconds.
Measured = tuple[list[list[Any]], float]


class Variant(NamedTuple):
    """An estimator with the calibration of its rewards."""

    estimator: str
    calibration: str = Analysis.calibration


@dataclass(frozen=True)
class Settings:
    """What all cells of a sweep share; the calibration is the variant's. `facts`: what is known of policies and
    shows in no array."""

    analysis: Analysis = DEFAULT
    seed: int = 1
    facts: Mapping[str, Sequence[str]] | None = None

    def of(self, policy: str, calibration: str) -> tuple[Analysis, Sequence[str]]:
        """The analysis and the facts of one policy."""
        return replace(self.analysis, calibration=calibration), (self.facts or {}).get(policy, ())


def sweep(
    data: Data,
    variants: Sequence[Variant],
    levels: Mapping[str, Sequence[float | None]],
    seeds: int,
    settings: Settings,
    folder: Path | None = None,
    jobs: int = -1,
) -> pd.DataFrame:
    """Measure every cell, or read it where `folder` has it: that keeps finished cells, under a name that changes with
    all their numbers depend on.

    `levels` of each factor of `FACTORS`, in the order they are applied (None is all of the data); `seeds` replicates
    per combination of them; `jobs` processes on this machine, -1 for every core (LOKY_MAX_CPU_COUNT caps them);
    SCHEDULER in the environment names a Dask cluster instead.

    Returns one row per variant, point and policy: `estimator`, `calibration`, a column per factor (NaN: all), `seed`,
    `policy` and `MEASURES`. `attrs["seconds"]`: what the cells took, one core each, whenever and wherever they were
    measured. Raises ArenaError with one line per kind of failure, after all other cells were measured and kept; or
    where the scheduler cannot be reached, has no workers, or these have another version of the library.
    """
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    points = [(some, seed) for some in itertools.product(*levels.values()) for seed in range(seeds)]
    wanted = list(itertools.product(variants, points))
    keep = _memory(folder, data, variants, levels, settings).cache(_kept, ignore=["rows"])
    done, due, failed = dict[Any, Measured](), dict[Point, list[Variant]](), dict[tuple[Variant, str], list[Point]]()
    for variant, point in wanted:
        try:
            done[variant, point] = keep(variant, point)
        except LookupError:
            due.setdefault(point, []).append(variant)
    if due:
        size = sum(map(len, due.values()))
        with threadpool_limits(1), tqdm(total=size, desc="sweep", mininterval=1.0, file=sys.stderr, ascii=True) as bar:
            for variant, point, rows, fault in _measured(data, due, levels, settings, jobs):
                if fault:
                    failed.setdefault((variant, fault), []).append(point)
                else:
                    done[variant, point] = keep(variant, point, rows)
                bar.update()
    lines = []
    for (variant, fault), where in sorted(failed.items()):
        some, seed = min(where, key=repr)
        first = "".join(f"{n} {'all' if v is None else v}, " for n, v in zip(levels, some, strict=True))
        cells = f"{len(where)} of {len(points)} cells failed, the first at {first}seed {seed}"
        lines.append(f"{variant.estimator}.{variant.calibration}: {cells}: {fault}")
    if lines:
        raise ArenaError("\n".join(lines))
    out = [(*variant, *point[0], point[1], *row) for variant, point in wanted for row in done[variant, point][0]]
    frame = pd.DataFrame(out, columns=["estimator", "calibration", *levels, "seed", "policy", *MEASURES])
    frame = frame.astype(dict.fromkeys((*levels, "value", "ci_low", "ci_high"), float))
    frame.attrs["seconds"] = sum(done[key][1] for key in wanted)
    return frame


def _kept(variant: Variant, point: Point, rows: Measured | None = None) -> Measured:
    """What joblib keeps by variant and point: the rows, once they are known."""
    if rows is None:
        raise LookupError(point)
    return rows


def _memory(
    folder: Path | None, data: Data, variants: Sequence[Variant], levels: Mapping[str, Any], settings: Settings
) -> Memory:
    """The store of finished cells of this code, data and settings; those of others in the same folder go."""
    import joblib
    from joblib.func_inspect import get_func_code

    if folder is None:
        return joblib.Memory(None)
    functions = [f for v in variants for f in (ESTIMATORS[v.estimator].function, CALIBRATIONS[v.calibration]) if f]
    sources = [get_func_code(function)[0] for function in (*functions, *(FACTORS[name] for name in levels))]
    own = folder / joblib.hash([code_digest(), sources, dict(data), list(levels), settings])
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.iterdir():
        if other != own:
            shutil.rmtree(other, ignore_errors=True)  # another run may have been quicker
    return joblib.Memory(own, verbose=0)


@cache
def code_digest() -> str:
    """Digest of the code that numbers come from, as this process found it first: what is edited later is not what
    runs, and workers must have the same."""
    state = hashlib.sha256()
    rooms = (path for room in ("ablations", "estimation") for path in (_LIBRARY / room).rglob("*.py"))
    for path in sorted([*_LIBRARY.glob("analysis.py"), *rooms]):
        state.update(str(path.relative_to(_LIBRARY)).encode() + b"\0" + path.read_bytes())
    return state.hexdigest()


def _measured(
    data: Data, due: Mapping[Point, Sequence[Variant]], levels: Mapping[str, Any], settings: Settings, jobs: int
) -> Iterator[tuple[Variant, Point, Measured, str]]:
    """The cells that are due as `measure` has them, in the order they end."""
    from joblib import Parallel, delayed, parallel_config

    # Functions travel with the task: what is registered in a notebook is not registered in a worker.
    variants = {variant for some in due.values() for variant in some}
    estimators = {v.estimator: ESTIMATORS[v.estimator] for v in variants}
    calibrations = {v.calibration: CALIBRATIONS[v.calibration] for v in variants}
    shared = dict(data), (estimators, calibrations, {name: FACTORS[name] for name in levels}), settings
    todo = list(due.items())
    batches = [todo[start : start + POINTS_PER_TASK] for start in range(0, len(todo), POINTS_PER_TASK)]
    with contextlib.ExitStack() as stack:
        if address := os.environ.get(VARIABLE):
            client = stack.enter_context(_cluster(address))
            stack.enter_context(parallel_config("dask", client=client, scatter=list(shared)))
        else:
            stack.enter_context(parallel_config("loky", n_jobs=jobs if len(batches) > 1 else 1))
        parallel = Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch="3*n_jobs")
        yield from itertools.chain.from_iterable(parallel(delayed(measure)(batch, *shared) for batch in batches))


def measure(
    batch: Sequence[tuple[Point, Sequence[Variant]]],
    data: Data,
    registered: Sequence[dict[str, Any]],
    settings: Settings,
) -> list[tuple[Variant, Point, Measured, str]]:
    """What a worker does: the cells of some points, each with its variant, point, rows, and what went wrong. A cell
    that fails says so, and the others are done. `registered`: the estimators, calibrations and factors it needs."""
    _compute_on_one_thread()
    registries: tuple[dict[str, Any], ...] = (ESTIMATORS, CALIBRATIONS, FACTORS)
    for registry, functions in zip(registries, registered, strict=True):
        registry.update(functions)
    names = list(registered[-1])
    with np.errstate(all="ignore"):
        return [cell for point, variants in batch for cell in _at(point, variants, data, names, settings)]


@cache
def _compute_on_one_thread() -> None:
    """Once for the whole process, whose threads share its BLAS: a sum in another order has other last digits."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)


def _at(
    point: Point, variants: Sequence[Variant], data: Data, names: Sequence[str], settings: Settings
) -> Iterator[tuple[Variant, Point, Measured, str]]:
    """The cells of one point, which share its part of the data and what is prepared of that."""

    @cache
    def part() -> Data:
        return apply(data, dict(zip(names, point[0], strict=True)), settings.seed, point[1])

    @cache
    def prepared(policy: str, calibration: str) -> Any:
        return context(part()[policy], *settings.of(policy, calibration))

    for variant in variants:
        start, rows, fault = time.perf_counter(), [], ""
        for policy in data:
            try:
                row = estimate_row(prepared(policy, variant.calibration), ESTIMATORS[variant.estimator], plan=False)
                rows.append([policy, *(row[name] for name in MEASURES)])
            except Exception as error:  # noqa: BLE001 - an estimator may raise anything, and it is this cell's alone
                fault = fault or f"{policy}: {type(error).__name__}: {one_line(error)[:300]}"
        yield variant, point, (rows, time.perf_counter() - start), fault


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[Client]:
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
        except TimeoutError as error:
            raise ArenaError(f"{VARIABLE}={address}: the scheduler has no workers: start `dask worker`") from error
        for worker, digest in client.run(code_digest, on_error="return").items():
            if digest != code_digest():
                what = "another version of the library" if isinstance(digest, str) else f"no library ({digest})"
                raise ArenaError(
                    f"{VARIABLE}={address}: worker {worker} has {what}: install this one there and start it anew"
                )
        yield client
