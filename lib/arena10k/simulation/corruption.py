"""Faults of known place and kind, planted in a table of log-probs, and how many of them a check finds.

Arrays in, arrays out: `values` (rows, policies) in nats; nothing here knows how they are stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

#: Where faults strike: rows drawn anew for every policy, or the shortest responses, the same for all policies.
GEOMETRIES = ("independent", "short")


#: A kind of fault: (values (rows, policies), rows, policy k, random stream) -> what stands in the values' place.
Fault = Callable[[np.ndarray, np.ndarray, int, np.random.Generator], np.ndarray]


@dataclass(frozen=True, eq=False)
class Planted:
    """A table with faults: `cells` (rows, policies) of numbers, None or text, `hit` True where a cell was changed,
    `copies` the rows that are to stand twice."""

    cells: np.ndarray
    hit: np.ndarray
    copies: np.ndarray


def _constant(value: object) -> Fault:
    return lambda values, rows, k, rng: np.full(len(rows), value, dtype=object)


def _truncated(values: np.ndarray, rows: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    # The same part of a response for every policy: what was cut off was cut off for all.
    part = np.random.default_rng(rows.sum()).uniform(0.1, 0.7, len(rows))
    return np.asarray((values[rows, k] * part).astype(object))


def _swapped(values: np.ndarray, rows: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(values[rows, values.shape[1] - 1 - k].astype(object))


def _shifted(values: np.ndarray, rows: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(values[(rows + 1) % len(values), k].astype(object))


def _incident(values: np.ndarray, rows: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    return np.full(len(rows), 0.0 if k else -50.0, dtype=object)


#: Kind of fault: what stands in the place of the values of policy k on `rows`.
KINDS: dict[str, Fault] = {
    "-50.0": _constant(-50.0),
    "0.0": _constant(0.0),
    "-100.0": _constant(-100.0),
    "unlisted sentinel": _constant(-17.3),
    "-50.0 and 0.0": _incident,
    "NaN string": _constant("NaN"),
    "null": _constant(None),
    "positive": lambda values, rows, k, rng: (rng.exponential(5, len(rows)) + 0.01).astype(object),
    "truncated": _truncated,
    "swapped policies": _swapped,
    "shifted rows": _shifted,
    "duplicated rows": lambda values, rows, k, rng: values[rows, k].astype(object),
}


def plant(values: np.ndarray, chars: np.ndarray, kind: str, geometry: str, rate: float, seed: int = 0) -> Planted:
    """Plant one kind of fault at `rate` of the rows (the nearest whole number of rows, at least one).

    Parameters
    ----------
    values : (rows, policies) clean log-probs in nats, the logging policy first.
    chars : (rows,) length of the responses; the shortest are struck in the geometry "short".
    kind : a key of `KINDS`. Swapped: the first policy's value for the last one's and the other way
        round, and so on inwards, on the same rows. Shifted: the value of the next row.
        "-50.0 and 0.0": the first policy's value is -50.0, all others' 0.0.
    """
    rng = np.random.default_rng(seed)
    n, k = values.shape
    size = max(round(rate * n), 1)
    shortest = np.argsort(chars, kind="stable")[:size]
    cells, hit = values.astype(object), np.zeros((n, k), dtype=bool)
    copies = np.empty(0, dtype=int)
    drawn = [np.sort(rng.choice(n, size, replace=False)) for _ in range(k)]
    for policy in range(k):
        partner = min(policy, k - 1 - policy) if kind == "swapped policies" else policy
        rows = np.sort(shortest) if geometry == "short" else drawn[partner]
        if kind == "duplicated rows":
            copies = rows
            break
        cells[rows, policy] = KINDS[kind](values, rows, policy, rng)
        hit[rows, policy] = [new != old for new, old in zip(cells[rows, policy], values[rows, policy], strict=True)]
    return Planted(cells, hit, copies)


def score(hit: np.ndarray, found: np.ndarray) -> dict[str, float | int | None]:
    """Planted, found, both, precision and recall (None where nothing was found or planted)."""
    planted, told, both = int(hit.sum()), int(found.sum()), int((hit & found).sum())
    return {
        "planted": planted,
        "found": told,
        "right": both,
        "precision": both / told if told else None,
        "recall": both / planted if planted else None,
    }
