"""The input of every statistic: the rows of one policy, logged and drawn, how they were labelled, and the way to them
from frames."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from scipy import special

from arena10k.analysis import Analysis
from arena10k.estimation.calibration import level_codes

if TYPE_CHECKING:
    import pandas as pd

N_FOLDS = Analysis.folds
#: What `Rows` fills in when it is made, so that whoever reads its arrays finds arrays.
LEFT_OUT = cast("np.ndarray", None)
#: What lies in [0, 1], and the least it may be: of a chance the least number above 0.
_LEAST = {"judge": 0.0, "label": 0.0, "label_propensity": 5e-324}
#: Chance of calling random labels chosen, that of fewer than `FEW`, of which the test finds out less, and of suspecting
#: it; fewer than `MIN_ROWS` labels, or rows without one, test nothing.
LEVEL, LEVEL_OF_FEW, SUSPECT = 0.01, 0.05, 0.2
FEW, MIN_ROWS = 50, 5


@dataclass(frozen=True, eq=False)
class Rows:
    """Responses of one kind, logged or drawn from the target; every array (rows,).

    `judge`, `label` in [0, 1], NaN when missing or unlabelled; `judge_var` variance of the judge's score (0 when
    deterministic); `label_propensity` the chance in (0, 1] with which the row was labelled, NaN where labels are at
    random; `prompt` code of the prompt, `cluster` of the group of prompts that are not independent, both the same for
    logged rows and draws; `fold` by cluster; `length` in characters. Of logged rows `log_weight` = log p_target -
    log p_P0, NaN when missing, and `logp_target`, in nats. `has_score` is 0.0 where the judge gave no score and another
    stands in for it. What is left out is: no label, variance 0, every row its own cluster, prompt = cluster, fold =
    cluster mod 5. ValueError for another shape, and for values outside of their range.
    """

    judge: np.ndarray
    judge_var: np.ndarray = LEFT_OUT
    label: np.ndarray = LEFT_OUT
    label_propensity: np.ndarray = LEFT_OUT
    cluster: np.ndarray = LEFT_OUT
    prompt: np.ndarray = LEFT_OUT
    fold: np.ndarray = LEFT_OUT
    length: np.ndarray = LEFT_OUT
    log_weight: np.ndarray = LEFT_OUT
    logp_target: np.ndarray = LEFT_OUT
    has_score: np.ndarray = LEFT_OUT

    def __post_init__(self) -> None:
        n = len(self.judge)
        cluster = np.arange(n) if self.cluster is None else np.asarray(self.cluster)
        numbered = {"cluster": cluster, "prompt": cluster, "fold": cluster % N_FOLDS if self.fold is None else None}
        for name in (f.name for f in fields(self)):
            value = numbered.get(name) if getattr(self, name) is None else getattr(self, name)
            if value is None:  # one number, seen n times: a column takes 8 MB a million rows
                value = np.broadcast_to({"judge_var": 0.0, "has_score": 1.0}.get(name, np.nan), n)
            else:
                value = np.ascontiguousarray(value, dtype=np.int64 if name in numbered else np.float64)
                least = _LEAST.get(name)
                if least is not None and ((value < least) | (value > 1)).any():
                    raise ValueError(f"{name}: values must lie in {'(' if least else '['}0, 1]")
            if value.shape != (n,):
                raise ValueError(f"{name}: expected shape ({n},), got {value.shape}")
            object.__setattr__(self, name, value)
        if np.isposinf(self.log_weight).any():
            raise ValueError("log_weight: +inf is not a log-weight")

    def __len__(self) -> int:
        return len(self.judge)

    def __getstate__(self) -> dict[str, np.ndarray]:
        """The arrays alone: a digest of rows does not depend on what was asked of them."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def take(self, rows: np.ndarray) -> Rows:
        """Some of the rows, by mask or by number."""
        return Rows(**{name: values[rows] for name, values in self.__getstate__().items()})

    @cached_property
    def levels(self) -> tuple[np.ndarray, np.ndarray]:
        """`level_codes` of the judge's scores."""
        return level_codes(self.judge)

    @cached_property
    def unique(self) -> bool:
        """Whether every row is a cluster of its own."""
        return len(self) == 0 or bool(np.bincount(self.cluster).max() <= 1)

    @cached_property
    def share(self) -> np.ndarray | None:
        """1 / draws of the row's prompt, scaled to mean one, so that every prompt counts alike; None where every prompt
        has as many draws as the others."""
        if self.unique or len(set((draws := np.bincount(self.prompt))[draws > 0])) <= 1:
            return None
        share = 1 / draws[self.prompt]
        return np.asarray(share / share.mean())

    def clusters(self, rows: np.ndarray) -> int:
        """How many clusters have any of `rows` (a mask)."""
        return int(rows.sum()) if self.unique else len(np.unique(self.cluster[rows]))

    def by_cluster(self, values: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Values whose plain mean is the mean over prompts of `values`, which belong to `rows`: one per cluster that
        has any of these, independent, so that their variance is that of the mean.

        mean + (sum of the cluster - its share of rows * mean) / average share: linearised where clusters differ in
        size.
        """
        if self.unique:
            return values
        cluster = self.cluster[rows]
        share = np.ones(len(cluster)) if self.share is None else self.share[rows]
        size, total = np.bincount(cluster, weights=share), np.bincount(cluster, weights=share * values)
        size, total = size[size > 0], total[size > 0]
        if not len(size):
            return values
        mean = total.sum() / size.sum()
        return np.asarray(mean + (total - mean * size) / size.mean())

    @cached_property
    def labelled(self) -> np.ndarray:
        """1.0 where there is a label, else 0.0: for counting; in means `label_weight` takes its place."""
        return np.asarray((~np.isnan(self.label)).astype(np.float64))

    @cached_property
    def label_or_zero(self) -> np.ndarray:
        """The label where there is one, 0 elsewhere: for sums over the labelled rows."""
        return np.where(self.labelled > 0, self.label, 0.0)

    @cached_property
    def labelling(self) -> Labelling:
        """How the labelled rows were chosen. ValueError where some of them declare a chance and others do not."""
        has = self.labelled > 0
        missing = np.isnan(self.label_propensity[has])
        if not missing.all():
            if missing.any():
                raise ValueError(f"label_propensity is missing on {missing.sum()} of {has.sum()} labelled rows")
            return Labelling(_inverse(has, self.label_propensity), "declared")
        p = randomness_p_value(self)
        if p < SUSPECT:
            beyond_chance = p < (LEVEL if has.sum() >= FEW else LEVEL_OF_FEW)
            chance = score_propensity(self.judge, self.labelled)
            return Labelling(_inverse(has, chance), "by_score" if beyond_chance else "suspected")
        return Labelling(self.labelled, "random")

    @property
    def label_weight(self) -> np.ndarray:
        """1 where there is a label, times 1 / its chance of having one where labels are not at random, scaled to mean
        one over the labelled rows; else 0."""
        return self.labelling.weight


@dataclass(frozen=True, eq=False)
class Labelling:
    """Which rows were labelled. `weight` (rows,): 1 / chance of a label where there is one, scaled to mean one over the
    labelled rows, 0 elsewhere. `kind`: "random" (assumed, and not contradicted), "declared", "by_score" (contradicted:
    chances estimated from the judge's score, which every row shows; AIPW, Robins, Rotnitzky & Zhao 1994), or
    "suspected" (the same where it may be chance: right either way). Labels chosen by the outcome cannot be found."""

    weight: np.ndarray
    kind: str

    @property
    def at_random(self) -> bool:
        """Whether nothing says otherwise beyond chance."""
        return self.kind in ("random", "suspected")


def _inverse(has: np.ndarray, chance: np.ndarray) -> np.ndarray:
    weight = np.divide(1.0, chance, out=np.zeros(len(has)), where=has)
    return np.asarray(weight * (has.sum() / weight[has].sum()))


def randomness_p_value(rows: Rows) -> float:
    """p-value that labels are at random given the judge's scores; NaN where too few rows have or lack one.

    Score test of no dependence on the rank of the score and on its distance from the middle: (labelled - share) times
    both, summed within a cluster, is zero on average; chi^2 with their rank.
    """
    k = int(rows.labelled.sum())
    if k < MIN_ROWS or len(rows) - k < MIN_ROWS:
        return float("nan")
    code = rows.levels[1]
    count = np.bincount(code)
    rank = ((np.cumsum(count) - count / 2) / len(rows) - 0.5)[code]
    features = np.array([rank, rank**2])
    features -= features.sum(axis=1, keepdims=True) / len(rows)
    u = (rows.labelled - k / len(rows)) * features
    if not rows.unique:
        u = np.stack([np.bincount(rows.cluster, weights=feature) for feature in u])
    values, vectors = np.linalg.eigh(u @ u.T)
    positive = values > 1e-9 * max(values[-1], 1e-300)
    if not positive.any():
        return float("nan")
    distance = ((vectors.T @ u.sum(axis=1))[positive] ** 2 / values[positive]).sum()
    return float(special.chdtrc(positive.sum(), distance))


def score_propensity(judge: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Chance of a label given the judge's score (rows,): logistic regression on the score and its square, Newton's
    method with a small ridge."""
    z = (judge - judge.mean()) / (judge.std() or 1.0)
    design = np.stack([np.ones(len(z)), z, z**2], 1)
    beta = np.array([np.log(labelled.mean() / (1 - labelled.mean())), 0.0, 0.0])
    ridge, least = 1e-4 * len(z) * np.array([0.0, 1.0, 1.0]), 1e-12 * np.eye(3)
    for _ in range(50):
        p = special.expit((design @ beta).clip(-30, 30))
        hessian = (design.T * (p * (1 - p))) @ design + np.diag(ridge) + least
        step = np.linalg.solve(hessian, (labelled - p) @ design - ridge * beta)
        beta = beta + step.clip(-2, 2)
        if np.abs(step).max() < 1e-8:
            break
    return np.asarray(special.expit((design @ beta).clip(-30, 30)))


@dataclass(frozen=True, eq=False)
class PolicyData:
    """One target policy and one judge: P0's `logged` rows and the target's own `fresh` draws, of which there may
    be none; `is_logging` where the target is P0. `complete`: every row was asked for its score and its log-weight, so
    that those missing are lost, and may be lost for what they are worth; else rows without are not collected yet, and
    left out. `known`: the value, where it is one by definition, as a win rate against itself is."""

    logged: Rows
    fresh: Rows = field(default_factory=lambda: Rows(np.empty(0)))
    is_logging: bool = False
    complete: bool = False
    known: float | None = None

    def with_logged(self, **columns: Any) -> PolicyData:
        """The same with other arrays of the logged rows."""
        return replace(self, logged=replace(self.logged, **columns))

    def unscored(self) -> PolicyData:
        """The same where every score stands in for one that there is not."""
        logged, fresh = (replace(rows, has_score=np.zeros(len(rows))) for rows in (self.logged, self.fresh))
        return replace(self, logged=logged, fresh=fresh)


def prompt_fold(prompt_id: str, n_folds: int = N_FOLDS) -> int:
    """The fold of a prompt: SHA-256 of its id, modulo `n_folds`; the same in every run and for every statistic."""
    return int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:8], "big") % n_folds


def numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    """A column as float64, NaN where missing and where there is no such column."""
    if column not in frame:
        return np.full(len(frame), np.nan)
    return np.asarray(frame[column].to_numpy(dtype=np.float64, na_value=np.nan))


def log_weights(logged: pd.DataFrame, policy: str, logging_policy: str) -> np.ndarray:
    """log p_policy - log p_P0 of the logged responses (n,) in nats, NaN where a log-prob is missing: the column
    `log_weight_<policy>` where there is one, else from `logp_<policy>` and the logging policy's."""
    if f"log_weight_{policy}" in logged:
        return numbers(logged, f"log_weight_{policy}")
    return np.asarray(numbers(logged, f"logp_{policy}") - numbers(logged, f"logp_{logging_policy}"))


class _Columns(dict[str, np.ndarray]):
    """The arrays of one frame, each made once however many policies and judges ask for it."""

    def __init__(self, frame: pd.DataFrame, codes: dict[str, np.ndarray]):
        super().__init__(codes)
        self.frame = frame

    def __missing__(self, name: str) -> np.ndarray:
        values = numbers(self.frame, name)
        self[name] = np.nan_to_num(values, nan=0.0) ** 2 if name.endswith("_sd") else values
        return self[name]

    def rows(self, judge: str, some: np.ndarray | slice = slice(None), **weights: np.ndarray) -> Rows:
        names = {name: name for name in ("label", "label_propensity", "cluster", "prompt", "fold")}
        names |= {"judge": f"judge_{judge}", "judge_var": f"judge_{judge}_sd", "length": "response_chars"}
        return Rows(**{name: self[column][some] for name, column in names.items()}, **weights)


def policies_data(
    logged: pd.DataFrame,
    fresh: pd.DataFrame,
    policies: Iterable[str],
    judges: Iterable[str],
    logging_policy: str = "p0",
    n_folds: int = N_FOLDS,
    complete: bool = False,
) -> dict[str, dict[str, PolicyData]]:
    """`{policy: {judge: arrays}}` from the two frames of the analysis table: `prompt_id`, per
    judge `judge_<name>` and, where present, `judge_<name>_sd`, `label`, `label_propensity`,
    `cluster`, `response_chars`; `logged` with what `log_weights` takes, `fresh` with `policy`.

    The logging policy has log-weight 0 on every row with a log-prob (rows without one stay missing), and its own logged
    responses are among its fresh draws. `complete` as in `PolicyData`.
    """
    import pandas as pd

    def codes(column: str) -> tuple[np.ndarray, Any]:
        both = pd.concat([logged[column], fresh[column]], ignore_index=True)
        code, ids = pd.factorize(both.astype("string"))
        return code, ids

    n, judges, made = len(logged), list(judges), {}
    prompt, ids = codes("prompt_id")
    cluster, ids = codes("cluster") if "cluster" in logged and "cluster" in fresh else (prompt, ids)
    fold = np.array([prompt_fold(name, n_folds) for name in ids.tolist()], dtype=np.int64)[cluster]
    code = {"prompt": prompt, "cluster": cluster, "fold": fold}
    base = _Columns(logged, {name: values[:n] for name, values in code.items()})
    drawn = _Columns(fresh, {name: values[n:] for name, values in code.items()})
    for policy in policies:
        own, draws = np.flatnonzero((fresh["policy"] == policy).to_numpy(dtype=bool)), drawn
        weights = {
            "log_weight": log_weights(logged, policy, logging_policy),
            "logp_target": numbers(logged, f"logp_{policy}"),
        }
        if policy == logging_policy:
            draws = _Columns(pd.concat([logged, fresh], ignore_index=True), code) if len(own) else base
            own = np.append(np.arange(n), n + own)
        made[policy] = {
            judge: PolicyData(base.rows(judge, **weights), draws.rows(judge, own), policy == logging_policy, complete)
            for judge in judges
        }
    return made
