"""Which rows were labelled: at random, with declared chances, or by the judge's score.

The last can be found and, since their chances depend on what every row shows, corrected (AIPW, Robins, Rotnitzky & Zhao
1994). Labels chosen by the outcome itself cannot be found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from arena10k.estimation.calibration import level_codes

#: Chance of calling random labels chosen, that of fewer than `FEW`, of which the test finds out less, and of suspecting
#: it.
LEVEL, LEVEL_OF_FEW, SUSPECT = 0.01, 0.05, 0.2
FEW = 50
#: Fewer labels, or fewer rows without one, test nothing.
MIN_ROWS = 5


@dataclass(frozen=True, eq=False)
class Labelling:
    """`weight` (rows,): 1 / chance of a label where there is one, scaled to mean one over the labelled rows, 0
    elsewhere. `kind`: "random" (assumed, and not contradicted), "declared", "by_score" (contradicted: chances estimated
    from the judge's score), or "suspected" (the same where it may be chance: right either way)."""

    weight: np.ndarray
    kind: str

    @property
    def at_random(self) -> bool:
        """Whether nothing says otherwise beyond chance."""
        return self.kind in ("random", "suspected")


def randomness_p_value(judge: np.ndarray, labelled: np.ndarray, cluster: np.ndarray | None = None) -> float:
    """p-value that labels are at random given the judge's scores; NaN where too few rows have or lack one.

    Score test of no dependence on the rank of the score and on its distance from the middle: (labelled - share) times
    both, summed within a cluster, is zero on average; chi^2 with their rank.
    """
    k = int(labelled.sum())
    if k < MIN_ROWS or len(judge) - k < MIN_ROWS:
        return float("nan")
    levels, (code,) = level_codes(judge)
    count = np.bincount(code, minlength=len(levels))
    rank = ((np.cumsum(count) - count / 2) / len(judge) - 0.5)[code]
    features = np.stack([rank, rank**2], 1)
    features -= features.mean(0)
    u = (labelled - labelled.mean())[:, None] * features
    if cluster is not None:
        u = np.stack([np.bincount(cluster, weights=column) for column in u.T], 1)
    total = u.sum(0)
    values, vectors = np.linalg.eigh(u.T @ u)
    kept = values > 1e-9 * max(values[-1], 1e-300)
    if not kept.any():
        return float("nan")
    return float(stats.chi2.sf(((vectors.T @ total)[kept] ** 2 / values[kept]).sum(), kept.sum()))


def score_propensity(judge: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Chance of a label given the judge's score (rows,): logistic regression on the score and its square, Newton's
    method with a small ridge."""
    z = (judge - judge.mean()) / (judge.std() or 1.0)
    design = np.stack([np.ones(len(z)), z, z**2], 1)
    beta = np.array([np.log(labelled.mean() / (1 - labelled.mean())), 0.0, 0.0])
    ridge = 1e-4 * len(z) * np.diag([0.0, 1.0, 1.0])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
        hessian = (design * (p * (1 - p))[:, None]).T @ design + ridge + 1e-12 * np.eye(3)
        step = np.linalg.solve(hessian, design.T @ (labelled - p) - ridge @ beta)
        beta = beta + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-8:
            break
    return np.asarray(1 / (1 + np.exp(-np.clip(design @ beta, -30, 30))))


def labelling(
    judge: np.ndarray, labelled: np.ndarray, declared: np.ndarray, cluster: np.ndarray | None = None
) -> Labelling:
    """How the rows of a sample were labelled. `judge`, `labelled` (1.0 or 0.0), `declared` chances, NaN where labels
    are at random: all (rows,).

    Raises
    ------
    ValueError
        Where some labelled rows declare a chance and others do not.
    """
    has = labelled > 0
    given = ~np.isnan(declared[has])
    if given.any():
        if not given.all():
            raise ValueError(f"label_propensity is missing on {int((~given).sum())} of {int(has.sum())} labelled rows")
        return Labelling(_scaled(has, declared), "declared")
    p = randomness_p_value(judge, labelled, cluster)
    if p < SUSPECT:
        found = p < (LEVEL if has.sum() >= FEW else LEVEL_OF_FEW)
        return Labelling(_scaled(has, score_propensity(judge, labelled)), "by_score" if found else "suspected")
    return Labelling(labelled, "random")


def _scaled(has: np.ndarray, chance: np.ndarray) -> np.ndarray:
    weight = np.zeros(len(has))
    weight[has] = 1 / chance[has]
    return np.asarray(weight * (has.sum() / weight.sum()))
