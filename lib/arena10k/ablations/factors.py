"""What an ablation varies: treatments of corrupted log-probs, and factors that take a part of the data.

Adding one is one function under `@treatment("name")` or `@factor("name")`; params then may name it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from arena10k.estimation import PolicyData, Rows
from arena10k.estimation.calibration import adder

#: One policy's arrays by policy; all policies share their logged rows.
Data = Mapping[str, PolicyData]
Treatment = Callable[[PolicyData, np.ndarray], PolicyData]
Factor = Callable[[Data, float | None, np.random.Generator], Data]
TREATMENTS: dict[str, Treatment] = {}
FACTORS: dict[str, Factor] = {}


def treatment(name: str) -> Callable[[Treatment], Treatment]:
    """Add a function (one policy's arrays, corrupted rows as a mask (n,)) -> arrays to `TREATMENTS` under `name`."""
    return adder(TREATMENTS, name, "treatment")


def factor(name: str) -> Callable[[Factor], Factor]:
    """Add a function (data by policy, level, random generator) -> data to `FACTORS` under `name`.

    The level None stands for all of the data. The generator's stream depends on the seed and on the factor's name and
    not on the level, so that what a smaller level takes is part of what a larger one takes.
    """
    return adder(FACTORS, name, "factor")


def treat(data: Data, name: str, share: float) -> dict[str, PolicyData]:
    """The data of every target under a treatment; the logging policy's weights are 1 whatever its log-probs are.

    The log-probs of a `share` of the rows are taken to have failed, of at least one where it is not 0: the shortest
    responses, the same for every policy, as in the incident that the treatments are about.
    """

    def treated(d: PolicyData) -> PolicyData:
        n = len(d.logged)
        rows = np.zeros(n, dtype=bool)
        rows[np.argsort(d.logged.length, kind="stable")[: min(max(round(share * n), 1), n) if share else 0]] = True
        return TREATMENTS[name](d, rows)

    return {p: d if d.is_logging else treated(d) for p, d in data.items()}


@treatment("recorded")
def recorded(data: PolicyData, rows: np.ndarray) -> PolicyData:
    """The log-probs as they were recorded: nothing is corrupted."""
    return data


def _with(data: PolicyData, rows: np.ndarray, value: float) -> PolicyData:
    """The data with the target's log-prob of `rows` replaced by `value`, and their log-weights as that makes them."""
    logp, log_weight = data.logged.logp_target, data.logged.log_weight
    changed = np.where(rows, value - (logp - log_weight), log_weight)
    return data.with_logged(logp_target=np.where(rows, value, logp), log_weight=changed)


@treatment("sentinels")
def sentinels(data: PolicyData, rows: np.ndarray) -> PolicyData:
    """Failed log-probs stand as the sentinel and are believed."""
    return _with(data, rows, 0.0)


@treatment("sentinels_clipped")
def sentinels_clipped(data: PolicyData, rows: np.ndarray) -> PolicyData:
    """Failed log-probs stand as the sentinel, log-weights are clipped: the published procedure."""
    believed = _with(data, rows, 0.0)
    return believed.with_logged(log_weight=np.clip(believed.logged.log_weight, -20.0, 20.0))


@treatment("quarantined")
def quarantined(data: PolicyData, rows: np.ndarray) -> PolicyData:
    """Failed log-probs are missing."""
    return _with(data, rows, np.nan)


def apply(data: Data, levels: Mapping[str, float | None], seed: int, replicate: int) -> Data:
    """The part of the data that `levels` say, factor after factor in their order."""
    for name, level in levels.items():
        data = FACTORS[name](data, level, np.random.default_rng([seed, zlib.crc32(name.encode()), replicate]))
    return data


def _ranks(data: Data, rng: np.random.Generator) -> np.ndarray:
    """The place (0 first) of each prompt in a random order, of all that any policy has a row of."""
    codes = [c for d in data.values() for c in (d.logged.cluster, d.fresh.cluster) if len(c)]
    size = 1 + max((int(c.max()) for c in codes), default=-1)
    return np.argsort(rng.permutation(size))


@factor("prompts")
def prompts(data: Data, level: float | None, rng: np.random.Generator) -> Data:
    """`level` prompts, drawn without replacement, with all their rows; None, or more than there are, is all."""
    ranks = _ranks(data, rng)
    if level is None or level >= len(ranks):
        return data
    keep = ranks < level
    number = np.cumsum(keep) - 1

    def part(rows: Rows) -> Rows:
        some = rows.take(np.flatnonzero(keep[rows.cluster]))
        return replace(some, cluster=number[some.cluster])

    return {p: replace(d, logged=part(d.logged), fresh=part(d.fresh)) for p, d in data.items()}


@factor("labels")
def labels(data: Data, level: float | None, rng: np.random.Generator) -> Data:
    """The share `level` of the prompts that carry a label keep it (at least one), logged rows and each policy's own
    draws counted apart; the other labels are taken away. None is all."""
    ranks = _ranks(data, rng)
    if level is None:
        return data

    def some(rows: Rows) -> Rows:
        has = np.sort(ranks[np.unique(rows.cluster[rows.labelled > 0])])
        if not len(has):
            return rows
        last = has[min(max(round(level * len(has)), 1), len(has)) - 1]
        return replace(rows, label=np.where(ranks[rows.cluster] <= last, rows.label, np.nan))

    return {p: replace(d, logged=some(d.logged), fresh=some(d.fresh)) for p, d in data.items()}
