"""The input of every statistic: the rows of one policy, logged and drawn, and the way from frames to them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from arena10k.analysis import Analysis
from arena10k.estimation.labelling import Labelling, labelling

if TYPE_CHECKING:
    import pandas as pd

N_FOLDS = Analysis.folds
#: What `Rows` fills in when it is made, so that whoever reads its arrays finds arrays.
LEFT_OUT = cast("np.ndarray", None)
_INTEGER = ("cluster", "prompt", "fold")


@dataclass(frozen=True, eq=False)
class Rows:
    """Responses of one kind, logged or drawn from the target; every array (rows,).

    `judge`, `label` in [0, 1], NaN when missing or unlabelled; `judge_var` variance of the judge's score (0 when
    deterministic); `label_propensity` the chance in (0, 1] with which the row was labelled, NaN where labels are at
    random; `prompt` code of the prompt, `cluster` of the group of prompts that are not independent, both the same for
    logged rows and draws; `fold` by cluster; `length` in characters. Of logged rows `log_weight` = log p_target -
    log p_P0, NaN when missing, and `logp_target`, in nats.
    `scored` is 0.0 where the judge gave no score and another stands in for it.
    What is left out is: no label, variance 0, every row its own cluster, prompt = cluster, fold = cluster mod 5.
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
    scored: np.ndarray = LEFT_OUT

    def __post_init__(self) -> None:
        n = len(self.judge)
        cluster = np.arange(n) if self.cluster is None else np.asarray(self.cluster)
        numbered = {"cluster": cluster, "prompt": cluster, "fold": cluster % N_FOLDS}
        for name in (f.name for f in fields(self)):
            value = numbered.get(name) if getattr(self, name) is None else getattr(self, name)
            if value is None:  # one number, seen n times: a column takes 8 MB a million rows
                value = np.broadcast_to({"judge_var": 0.0, "scored": 1.0}.get(name, np.nan), n)
            else:
                value = np.ascontiguousarray(value, dtype=np.int64 if name in _INTEGER else np.float64)
            if value.shape != (n,):
                raise ValueError(f"{name}: expected shape ({n},), got {value.shape}")
            object.__setattr__(self, name, value)
        if np.isposinf(self.log_weight).any():
            raise ValueError("log_weight: +inf is not a log-weight")
        for name in ("judge", "label", "label_propensity"):
            value, chance = getattr(self, name), name == "label_propensity"
            if ((value < 0) | (value > 1) | (chance & (value == 0))).any():
                raise ValueError(f"{name}: values must lie in {'(' if chance else '['}0, 1]")

    def __len__(self) -> int:
        return len(self.judge)

    def __getstate__(self) -> dict[str, np.ndarray]:
        """The arrays alone: a digest of rows does not depend on what was asked of them."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def take(self, rows: np.ndarray) -> Rows:
        """Some of the rows, by mask or by number."""
        return Rows(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @cached_property
    def unique(self) -> bool:
        """Whether every row is a cluster of its own."""
        return len(self) == 0 or bool(np.bincount(self.cluster).max() <= 1)

    @cached_property
    def share(self) -> np.ndarray | None:
        """1 / draws of the row's prompt, scaled to mean one, so that every prompt counts alike; None where every prompt
        has as many draws as the others."""
        draws = np.bincount(self.prompt)
        if self.unique or len(set(draws[draws > 0])) <= 1:
            return None
        share = 1 / draws[self.prompt]
        return np.asarray(share / share.mean())

    def clusters(self, rows: np.ndarray) -> int:
        """How many clusters have any of `rows` (a mask)."""
        return int(rows.sum()) if self.unique else len(np.unique(self.cluster[rows]))

    def by_cluster(self, values: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Values whose plain mean is the mean of `values` over prompts, one per cluster that has any of `rows` (a mask;
        all where None): independent, so that their variance is that of the mean.

        mean + (sum of the cluster - its share of rows * mean) / average share: linearised where clusters differ in
        size. `values` is in the length of the masked rows.
        """
        if self.unique:
            return values
        cluster = self.cluster if rows is None else self.cluster[rows]
        share = np.ones(len(cluster)) if self.share is None else self.share if rows is None else self.share[rows]
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
        """The label where there is one, 0 elsewhere; only ever used multiplied by `label_weight`."""
        return np.asarray(np.nan_to_num(self.label, nan=0.0))

    @cached_property
    def labelling(self) -> Labelling:
        """How the labelled rows were chosen."""
        return labelling(self.judge, self.labelled, self.label_propensity, None if self.unique else self.cluster)

    @property
    def label_weight(self) -> np.ndarray:
        """1 where there is a label, times 1 / its chance of having one where labels are not at random; else 0."""
        return self.labelling.weight


def _no_rows() -> Rows:
    return Rows(np.empty(0))


@dataclass(frozen=True, eq=False)
class PolicyData:
    """One target policy and one judge mode: P0's `logged` rows and the target's own `fresh` draws, of which there may
    be none; `is_logging` where the target is P0. `complete`: every row was asked for its score and its log-weight, so
    that those missing are lost, and may be lost for what they are worth; else rows without are not collected yet, and
    left out."""

    logged: Rows
    fresh: Rows = field(default_factory=_no_rows)
    is_logging: bool = False
    complete: bool = False

    def with_logged(self, **columns: Any) -> PolicyData:
        """The same with other arrays of the logged rows."""
        return replace(self, logged=replace(self.logged, **columns))


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


class _Columns:
    """The arrays of one frame, each made once however many policies and judge modes ask for it."""

    def __init__(self, frame: pd.DataFrame, codes: dict[str, np.ndarray]):
        self._frame, self._codes = frame, codes
        self._made: dict[str, np.ndarray] = {}

    def _number(self, name: str) -> np.ndarray:
        if name not in self._made:
            values = numbers(self._frame, name)
            self._made[name] = np.asarray(np.nan_to_num(values, nan=0.0) ** 2) if name.endswith("_sd") else values
        return self._made[name]

    def rows(self, mode: str, some: np.ndarray | slice = slice(None), **weights: np.ndarray) -> Rows:
        names = {"judge": f"judge_{mode}", "judge_var": f"judge_{mode}_sd", "length": "response_chars"}
        names |= {name: name for name in ("label", "label_propensity")}
        columns = {field: self._number(name) for field, name in names.items()} | self._codes
        return Rows(**{field: values[some] for field, values in columns.items()}, **weights)


def _codes(frames: list[pd.DataFrame], n_folds: int) -> dict[str, np.ndarray]:
    """Prompts and clusters (the column `cluster`, or the prompts) of all rows of the frames as numbers, the same for
    every policy, and their folds."""
    import pandas as pd

    names = ["prompt_id", *["cluster"] * all("cluster" in frame for frame in frames)]
    code = {
        name: pd.factorize(pd.concat([f[name] for f in frames], ignore_index=True).astype("string")) for name in names
    }
    prompt, (cluster, ids) = code["prompt_id"][0], code[names[-1]]
    fold = np.fromiter((prompt_fold(name, n_folds) for name in ids), dtype=np.int64, count=len(ids))[cluster]
    return {"prompt": prompt, "cluster": cluster, "fold": fold}


def policies_data(
    logged: pd.DataFrame,
    fresh: pd.DataFrame,
    policies: Iterable[str],
    judge_modes: Iterable[str],
    logging_policy: str = "p0",
    n_folds: int = N_FOLDS,
    complete: bool = False,
) -> dict[str, dict[str, PolicyData]]:
    """`{policy: {judge_mode: arrays}}` from the two frames of the analysis table.

    The logging policy has log-weight 0 on every row with a log-prob (rows without one stay missing), and its own logged
    responses are among its fresh draws.

    Parameters
    ----------
    logged, fresh : `prompt_id`, per mode `judge_<mode>` and, where present, `judge_<mode>_sd`, `label`,
        `label_propensity`, `cluster`, `response_chars`; logged ones with what `log_weights` takes, fresh ones with
        `policy`.
    judge_modes : "deterministic", "uncertainty" or both.
    complete : see `PolicyData`.
    """
    import pandas as pd

    n, modes, made = len(logged), list(judge_modes), {}
    codes = _codes([logged, fresh], n_folds)
    base, drawn = (_Columns(f, {k: c[part] for k, c in codes.items()})
                   for f, part in ((logged, slice(n)), (fresh, slice(n, None))))  # fmt: skip
    for policy in policies:
        own, draws = np.flatnonzero((fresh["policy"] == policy).to_numpy(dtype=bool)), drawn
        weights = {
            "log_weight": log_weights(logged, policy, logging_policy),
            "logp_target": numbers(logged, f"logp_{policy}"),
        }
        if policy == logging_policy:
            draws = _Columns(pd.concat([logged, fresh], ignore_index=True), codes) if len(own) else base
            own = np.append(np.arange(n), n + own)
        made[policy] = {
            mode: PolicyData(base.rows(mode, **weights), draws.rows(mode, own), policy == logging_policy, complete)
            for mode in modes
        }
    return made
