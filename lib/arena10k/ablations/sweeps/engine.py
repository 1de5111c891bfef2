"""The engine: every variant on every part of the data and seed; finished cells are kept as they come.

A cell is one variant at one point (a level per factor, and a seed) on all policies. Its random numbers come from its
own factors and seed, so neither the backend nor the number of workers nor an interruption can change a digit.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from arena10k.ablations.fingerprint import code_digest, digest_of
from arena10k.ablations.sweeps import factors
from arena10k.ablations.sweeps.backend import one_thread, run_tasks
from arena10k.ablations.sweeps.factors import FACTORS, Data
from arena10k.ablations.sweeps.kept import Kept, Point
from arena10k.ablations.sweeps.scores import MEASURES
from arena10k.analysis import DEFAULT, Analysis
from arena10k.errors import ArenaError, one_line
from arena10k.estimation import ESTIMATORS, Estimator, PolicyData
from arena10k.estimation.context import PolicyContext, context
from arena10k.estimation.prepare import CALIBRATIONS, Calibration
from arena10k.estimation.verdicts import estimate_row

#: Points a worker does before it answers: what a kill loses, against what an answer costs.
POINTS_PER_TASK = 5


@dataclass(frozen=True)
class Variant:
    """An estimator with the calibration of its rewards."""

    estimator: str
    calibration: str = Analysis.calibration

    @property
    def name(self) -> str:
        return f"{self.estimator}.{self.calibration}"

    def code(self) -> str:
        """Digest of the code its numbers come from."""
        parts = [context, estimate_row, ESTIMATORS[self.estimator].function]
        fit = CALIBRATIONS[self.calibration]
        properties = {k: v for k, v in vars(ESTIMATORS[self.estimator]).items() if k != "function"}
        return digest_of(code_digest(*parts, *([fit] if fit else [])), properties)


@dataclass(frozen=True)
class Settings:
    """What all cells of a sweep share; the calibration is the variant's. `flags`: facts about policies that arrays do
    not show."""

    analysis: Analysis = DEFAULT
    seed: int = 1
    flags: Mapping[str, Sequence[str]] | None = None


def points(levels: Mapping[str, Sequence[float | None]], seeds: int) -> list[Point]:
    """Every combination of levels, and of seeds 0 to `seeds` - 1."""
    return [(combination, seed) for combination in itertools.product(*levels.values()) for seed in range(seeds)]


def sweep(
    data: Data,
    variants: Sequence[Variant],
    levels: Mapping[str, Sequence[float | None]],
    seeds: int,
    settings: Settings,
    folder: Path | None = None,
    jobs: int = -1,
) -> pd.DataFrame:
    """Measure every cell, or read it where `folder` has it.

    Parameters
    ----------
    data : arrays by policy.
    levels : the levels of each factor of `FACTORS`, in the order they are applied; None is all of the data.
    seeds : replicates per combination of levels.
    folder : keeps finished cells: one file per variant, named by what its numbers depend on.
    jobs : processes on this machine; SCHEDULER in the environment names a Dask cluster instead.

    Returns
    -------
    One row per variant, point and policy: `estimator`, `calibration`, a column per factor (NaN: all), `seed`, `policy`
    and `MEASURES`. `attrs["seconds"]`: what the cells took, one core each, whenever and wherever they were measured.

    Raises
    ------
    ArenaError
        One line per kind of failure, after all other cells were measured and kept.
    """
    wanted = points(levels, seeds)
    cells = {variant: Kept(_file(folder, variant, data, levels, settings)) for variant in variants}
    due: dict[Point, list[Variant]] = {}
    for variant, point in itertools.product(variants, wanted):
        if point not in cells[variant].rows:
            due.setdefault(point, []).append(variant)
    failed: list[Measured] = []
    try:
        for cell in _progress(_measured(data, due, levels, settings, jobs), due):
            if cell.fault:
                failed.append(cell)
            else:
                cells[cell.variant].add(cell.point, cell.rows, cell.seconds)
    finally:
        for kept in cells.values():
            kept.close()
    if failed:
        raise ArenaError(_told(failed, list(levels), len(wanted)))
    return _frame(cells, wanted, list(levels))


@dataclass(frozen=True)
class Measured:
    """A cell: policy and `MEASURES` of each policy, what that took on one core, and what went wrong if anything did."""

    variant: Variant
    point: Point
    rows: list[list[Any]]
    seconds: float
    fault: str = ""


def _progress(found: Iterable[list[Measured]], due: Mapping[Point, Sequence[Variant]]) -> Iterator[Measured]:
    from tqdm import tqdm

    total = sum(map(len, due.values()))
    if total:
        with tqdm(total=total, desc="sweep", mininterval=1.0, file=sys.stderr, ascii=True, unit="cell") as bar:
            for some in found:
                yield from some
                bar.update(len(some))


def _measured(
    data: Data,
    due: Mapping[Point, Sequence[Variant]],
    levels: Mapping[str, Sequence[float | None]],
    settings: Settings,
    jobs: int,
) -> Iterator[list[Measured]]:
    todo = list(due.items())
    batches = [todo[start : start + POINTS_PER_TASK] for start in range(0, len(todo), POINTS_PER_TASK)]
    # Functions travel with the task: what is registered in a notebook is not registered in a worker.
    names = {variant for some in due.values() for variant in some}
    code = {v: (ESTIMATORS[v.estimator], CALIBRATIONS[v.calibration]) for v in names}
    used = {name: FACTORS[name] for name in levels}
    shared = (dict(data), list(levels), code, used, settings)
    return run_tasks(measure, [(batch,) for batch in batches], shared, jobs)


def measure(
    batch: Sequence[tuple[Point, Sequence[Variant]]],
    data: Data,
    names: Sequence[str],
    code: Mapping[Variant, tuple[Estimator, Calibration | None]],
    used: Mapping[str, factors.Factor],
    settings: Settings,
) -> list[Measured]:
    """What a worker does: the cells of some points. A cell that fails says so, and the others are done."""
    for variant, (estimator, fit) in code.items():
        ESTIMATORS[variant.estimator], CALIBRATIONS[variant.calibration] = estimator, fit
    FACTORS.update(used)
    out = []
    with one_thread, np.errstate(all="ignore"):
        for point, variants in batch:
            out += _at_point(point, variants, data, names, settings)
    return out


def _at_point(
    point: Point, variants: Sequence[Variant], data: Data, names: Sequence[str], settings: Settings
) -> list[Measured]:
    part = _Part(data, dict(zip(names, point[0], strict=True)), point[1], settings)
    out = []
    for variant in variants:
        start, rows, fault = time.perf_counter(), [], ""
        for policy in data:
            try:
                rows.append([policy, *part.row(variant, policy)])
            except Exception as error:  # noqa: BLE001 - an estimator may raise anything, and it is this cell's alone
                fault = fault or f"{policy}: {type(error).__name__}: {one_line(error)[:300]}"
        out.append(Measured(variant, point, rows, time.perf_counter() - start, fault))
    return out


class _Part:
    """A part of the data, and what the variants measured on it share: each is made when it is first asked for."""

    def __init__(self, data: Data, levels: Mapping[str, float | None], replicate: int, settings: Settings):
        self._take = partial(factors.apply, data, levels, settings.seed, replicate)
        self._settings = settings
        self._contexts: dict[tuple[str, str], PolicyContext] = {}

    @cached_property
    def _data(self) -> Data:
        return self._take()

    def row(self, variant: Variant, policy: str) -> list[Any]:
        """`MEASURES` of one policy."""
        row = estimate_row(self._context(policy, variant.calibration), ESTIMATORS[variant.estimator], plan=False)
        return [row[name] for name in MEASURES]

    def _context(self, policy: str, calibration: str) -> PolicyContext:
        if (policy, calibration) not in self._contexts:
            s, flags = self._settings, (self._settings.flags or {}).get(policy, ())
            made = context(self._data[policy], replace(s.analysis, calibration=calibration), flags)
            self._contexts[policy, calibration] = made
        return self._contexts[policy, calibration]


def _told(failed: Sequence[Measured], names: Sequence[str], total: int) -> str:
    """One line per variant and fault, with the first cell that shows it; `total` cells of each variant."""
    lines: dict[tuple[Variant, str], list[Point]] = {}
    for cell in failed:
        lines.setdefault((cell.variant, cell.fault), []).append(cell.point)
    out = []
    for (variant, fault), where in sorted(lines.items(), key=lambda item: (item[0][0].name, item[0][1])):
        levels, seed = min(where, key=repr)
        first = ", ".join([*(f"{n} {'all' if v is None else v}" for n, v in zip(names, levels, strict=True))])
        out.append(f"{variant.name}: {len(where)} of {total} cells failed, the first at {first}, seed {seed}: {fault}")
    return "\n".join(out)


def _file(
    folder: Path | None, variant: Variant, data: Data, levels: Mapping[str, Any], settings: Settings
) -> Path | None:
    if folder is None:
        return None
    parts = [_at_point, PolicyData, *(FACTORS[name] for name in levels)]
    key = digest_of(variant.code(), code_digest(*parts), dict(data), settings, list(levels))
    return folder / f"{variant.name}.{key}.jsonl"


def _frame(cells: Mapping[Variant, Kept], wanted: Sequence[Point], names: Sequence[str]) -> pd.DataFrame:
    rows = [
        (variant.estimator, variant.calibration, *levels, seed, *row)
        for variant, kept in cells.items()
        for levels, seed in wanted
        for row in kept.rows[levels, seed]
    ]
    columns = ["estimator", "calibration", *names, "seed", "policy", *MEASURES]
    frame = pd.DataFrame(rows, columns=columns)
    frame = frame.astype({name: float for name in (*names, "value", "ci_low", "ci_high")})
    frame.attrs["seconds"] = sum(kept.seconds[point] for kept in cells.values() for point in wanted)
    return frame
