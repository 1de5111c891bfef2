"""Are measurements missing at random? Tests, strata, and what the answer may hide.

`bad` (rows, policies): 1.0 where a measurement failed or was quarantined, 0.0 where it can be used, NaN where it was
never asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from arena10k.estimation.intervals import missing_mass_interval

#: The chance of calling random failures dependent, over all tests of a run.
DEPENDS = 0.05
RESAMPLES = 1999


@dataclass(frozen=True)
class Shared:
    """Rows that are bad in two or more policies at once: how many, how many independent failures would give, and the
    chance of as many or more."""

    rows: int
    observed: int
    expected: float
    p_value: float


def shared(bad: np.ndarray) -> Shared:
    """Count rows bad in several policies against independence: each policy fails at its own rate, rows are alike."""
    asked = bad[:, np.isfinite(bad).any(axis=0)]
    complete = asked[np.isfinite(asked).all(axis=1)]
    n = len(complete)
    if not n or complete.shape[1] < 2:
        return Shared(0, 0, 0.0, float("nan"))
    rate = complete.mean(axis=0)
    one = sum(rate[k] * np.prod(np.delete(1 - rate, k)) for k in range(len(rate)))
    chance = float(np.clip(1 - np.prod(1 - rate) - one, 0, 1))
    observed = int((complete.sum(axis=1) >= 2).sum())
    return Shared(n, observed, n * chance, float(stats.binom.sf(observed - 1, n, chance)))


def depends_on_number(bad: np.ndarray, x: np.ndarray) -> float:
    """p-value (rows,) of bad and good rows having the same `x` (Mann-Whitney, two-sided); NaN where there is nothing to
    compare."""
    usable = np.isfinite(bad) & np.isfinite(x)
    failed, good = x[usable & (bad == 1)], x[usable & (bad == 0)]
    return float(stats.mannwhitneyu(failed, good).pvalue) if len(failed) and len(good) else float("nan")


def depends_on_class(bad: np.ndarray, group: np.ndarray) -> float:
    """p-value of bad rows being spread over the classes of `group` (rows,) like good ones (chi-squared statistic,
    permutations, seeded); NaN where there is nothing to compare."""
    usable = np.isfinite(bad) & pd.notna(group)
    table = pd.crosstab(group[usable], bad[usable]).to_numpy()
    if min(table.shape, default=0) < 2:
        return float("nan")
    method = stats.PermutationMethod(n_resamples=RESAMPLES, rng=np.random.default_rng(0))
    return float(stats.chi2_contingency(table, correction=False, method=method).pvalue)


def strata(bad: np.ndarray, x: np.ndarray, parts: int = 5) -> pd.DataFrame:
    """Rows and bad rows (any policy) in `parts` equal parts of `x`: `lowest`, `highest`, `rows`, `bad`, `share`."""
    usable = np.isfinite(x) & np.isfinite(bad).any(axis=1)
    if not usable.any():
        return pd.DataFrame(columns=["lowest", "highest", "rows", "bad", "share"])
    frame = pd.DataFrame({"x": x[usable], "bad": (bad[usable] == 1).any(axis=1)})
    by = frame.groupby(pd.qcut(frame.x, parts, labels=False, duplicates="drop").fillna(0))
    out = pd.DataFrame({"lowest": by.x.min(), "highest": by.x.max(), "rows": by.size(), "bad": by.bad.sum()})
    return out.assign(share=out.bad / out.rows).reset_index(drop=True)


@dataclass(frozen=True)
class Bounds:
    """Where the policy value may lie when nothing is known of the quarantined rows; rewards in [0, 1]."""

    by_share: tuple[float, float]
    by_weight: tuple[float, float] | None


def bounds(value: float, n_used: int, n_aside: int, mean_weight: float) -> Bounds:
    """Bounds on a policy value from the estimate `value` on the `n_used` clean rows.

    `by_share` (Manski 1990): the target says the `n_aside` rows as often as P0 does; they are worth 0 or 1.
    `by_weight` assumes no share: since E_P0[w] = 1, what the clean rows do not carry of all n, 1 - sum(w) / n
    (`mean_weight` is theirs), may be worth 0 or 1, what the logs never show included; None where they carry all of it.
    """
    n = n_used + n_aside
    if not n or not np.isfinite(value):
        return Bounds((float("nan"),) * 2, None)
    carried = mean_weight * n_used / n if n_used else 0.0
    by_weight = missing_mass_interval(carried, value) if carried < 1 else None
    return Bounds(missing_mass_interval(n_used / n, value), by_weight)
