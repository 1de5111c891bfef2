"""The input of every statistic: one policy's arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, cast

import numpy as np

from arena10k.analysis import Analysis

if TYPE_CHECKING:
    import pandas as pd

N_FOLDS = Analysis.folds
#: The arrays of `PolicyData` by the rows they are of.
LOGGED = (
    "log_weight", "judge", "judge_var", "label", "label_propensity", "cluster", "prompt", "fold", "length",
    "logp_target",
)  # fmt: skip
FRESH = tuple(f"fresh_{name}" for name in LOGGED if name not in ("log_weight", "logp_target"))
#: What `PolicyData` fills in when it is made, so that whoever reads its arrays finds arrays.
LEFT_OUT = cast("np.ndarray", None)
_INTEGER = ("cluster", "prompt", "fold", "fresh_cluster", "fresh_prompt", "fresh_fold")


@dataclass(frozen=True, eq=False)
class PolicyData:
    """One target policy and one judge mode.

    Logged rows (n,): `log_weight` = log p_target - log p_P0 of the logged response, NaN when missing; `judge` and
    `label` in [0, 1], NaN when missing or unlabelled; `judge_var` variance of the judge's score (0 when deterministic);
    `label_propensity` the chance in (0, 1] with which the row was labelled, NaN where labels are at random; `prompt`
    prompt code, shared with the fresh rows; `cluster` code of the group of prompts that are not independent; `fold` by
    cluster; `length` in characters; `logp_target` in nats.
    Fresh draws of the target (m,): the same with the prefix `fresh_`; m may be 0.
    What is left out is: no label, variance 0, every row its own cluster, prompt = cluster, fold = cluster mod 5.
    """

    log_weight: np.ndarray
    judge: np.ndarray
    judge_var: np.ndarray = LEFT_OUT
    label: np.ndarray = LEFT_OUT
    label_propensity: np.ndarray = LEFT_OUT
    cluster: np.ndarray = LEFT_OUT
    prompt: np.ndarray = LEFT_OUT
    fold: np.ndarray = LEFT_OUT
    length: np.ndarray = LEFT_OUT
    logp_target: np.ndarray = LEFT_OUT
    fresh_judge: np.ndarray = LEFT_OUT
    fresh_judge_var: np.ndarray = LEFT_OUT
    fresh_label: np.ndarray = LEFT_OUT
    fresh_label_propensity: np.ndarray = LEFT_OUT
    fresh_cluster: np.ndarray = LEFT_OUT
    fresh_prompt: np.ndarray = LEFT_OUT
    fresh_fold: np.ndarray = LEFT_OUT
    fresh_length: np.ndarray = LEFT_OUT
    is_logging: bool = False

    def __post_init__(self) -> None:
        n = len(self.log_weight)
        m = 0 if self.fresh_judge is None else len(self.fresh_judge)
        for prefix, rows in (("", n), ("fresh_", m)):
            self._fill(prefix, rows)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "is_logging":
                continue
            dtype = np.int64 if field.name in _INTEGER else np.float64
            value = np.ascontiguousarray(value, dtype=dtype)
            expected = n if field.name in LOGGED else m
            if value.shape != (expected,):
                raise ValueError(f"{field.name}: expected shape ({expected},), got {value.shape}")
            object.__setattr__(self, field.name, value)
        self._check()

    def _fill(self, prefix: str, rows: int) -> None:
        def default(name: str, value: np.ndarray) -> None:
            if getattr(self, prefix + name, value) is None:
                object.__setattr__(self, prefix + name, value)

        default("judge", np.empty(0))
        default("judge_var", np.zeros(rows))
        default("label", np.full(rows, np.nan))
        default("label_propensity", np.full(rows, np.nan))
        default("cluster", np.arange(rows))
        default("prompt", getattr(self, prefix + "cluster"))
        default("fold", np.asarray(getattr(self, prefix + "cluster")) % N_FOLDS)
        default("length", np.full(rows, np.nan))
        default("logp_target", np.full(rows, np.nan))

    def _check(self) -> None:
        if np.isposinf(self.log_weight).any():
            raise ValueError("log_weight: +inf is not a log-weight")
        for name in ("judge", "label", "fresh_judge", "fresh_label"):
            value = getattr(self, name)
            if ((value < 0) | (value > 1)).any():
                raise ValueError(f"{name}: values must lie in [0, 1]")
        for name in ("label_propensity", "fresh_label_propensity"):
            value = getattr(self, name)
            if ((value <= 0) | (value > 1)).any():
                raise ValueError(f"{name}: the chance of a label must lie in (0, 1]")

    @property
    def n(self) -> int:
        """Logged rows."""
        return len(self.log_weight)

    @property
    def m(self) -> int:
        """Fresh draws."""
        return len(self.fresh_judge)


def prompt_fold(prompt_id: str, n_folds: int = N_FOLDS) -> int:
    """The fold of a prompt: SHA-256 of its id, modulo `n_folds`; the same in every run and for every statistic."""
    return int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:8], "big") % n_folds


class _Columns:
    """The numbers of one frame as arrays, each made once however many policies and judge modes ask for it."""

    def __init__(self, frame: pd.DataFrame, code: np.ndarray, fold: np.ndarray):
        self._frame = frame
        self._made: dict[str | tuple[str, str], np.ndarray] = {}
        self.code, self.fold = code, fold[code]

    def __getitem__(self, name: str) -> np.ndarray:
        """A column as float64, NaN where missing. Raises KeyError where the frame has none."""
        if name not in self._made:
            self._made[name] = self._frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
        return self._made[name]

    def optional(self, name: str) -> np.ndarray:
        """The same, all NaN where the frame has no such column."""
        if name not in self._frame and name not in self._made:
            self._made[name] = np.full(len(self._frame), np.nan)
        return self[name]

    def variance(self, name: str) -> np.ndarray:
        """Variance from a column of standard deviations, 0 where missing."""
        if (name, "variance") not in self._made:
            self._made[name, "variance"] = np.nan_to_num(self.optional(name), nan=0.0) ** 2
        return self._made[name, "variance"]


def _number_prompts(logged: pd.DataFrame, fresh: pd.DataFrame, n_folds: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompt codes of logged and then fresh rows in one numbering, the same for every policy, and the fold of every
    code."""
    import pandas as pd

    ids = pd.concat([logged["prompt_id"], fresh["prompt_id"]], ignore_index=True).astype("string")
    code, names = pd.factorize(ids)
    return code, np.fromiter((prompt_fold(name, n_folds) for name in names), dtype=np.int64, count=len(names))


def _one_mode(logged: _Columns, own: _Columns, policy: str, mode: str, logging_policy: str) -> PolicyData:
    return PolicyData(
        log_weight=logged[f"logp_{policy}"] - logged[f"logp_{logging_policy}"],
        judge=logged.optional(f"judge_{mode}"),
        judge_var=logged.variance(f"judge_{mode}_sd"),
        label=logged.optional("label"),
        cluster=logged.code,
        fold=logged.fold,
        length=logged.optional("response_chars"),
        logp_target=logged[f"logp_{policy}"],
        fresh_judge=own.optional(f"judge_{mode}"),
        fresh_judge_var=own.variance(f"judge_{mode}_sd"),
        fresh_label=own.optional("label"),
        fresh_cluster=own.code,
        fresh_fold=own.fold,
        fresh_length=own.optional("response_chars"),
        is_logging=policy == logging_policy,
    )


def policies_data(
    logged: pd.DataFrame,
    fresh: pd.DataFrame,
    policies: Iterable[str],
    judge_modes: Iterable[str],
    logging_policy: str = "p0",
    n_folds: int = N_FOLDS,
) -> dict[str, dict[str, PolicyData]]:
    """`{policy: {judge_mode: arrays}}` from the two frames of the analysis table; see `policy_data`."""
    code, fold = _number_prompts(logged, fresh, n_folds)
    base, modes, found = _Columns(logged, code[: len(logged)], fold), list(judge_modes), {}
    for policy in policies:
        if policy == logging_policy:
            own = base
        else:
            mine = (fresh["policy"] == policy).to_numpy(dtype=bool)
            own = _Columns(fresh[mine], code[len(logged) :][mine], fold)
        found[policy] = {mode: _one_mode(base, own, policy, mode, logging_policy) for mode in modes}
    return found


def policy_data(
    logged: pd.DataFrame,
    fresh: pd.DataFrame,
    policy: str,
    judge_mode: str,
    logging_policy: str = "p0",
    n_folds: int = N_FOLDS,
) -> PolicyData:
    """The arrays of one policy and judge mode from the two frames of the analysis table.

    The logging policy has log-weight 0 on every row with a log-prob (rows without one stay missing), and its own logged
    responses are its fresh draws.

    Parameters
    ----------
    judge_mode : "deterministic" or "uncertainty"; the column `judge_<mode>` and, where present, `judge_<mode>_sd`.
    """
    found = policies_data(logged, fresh, [policy], [judge_mode], logging_policy, n_folds)
    return found[policy][judge_mode]
