"""The analysis table: the records of a run as two tidy frames, rows that are bad left out and counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from arena10k.collection.jobs import DETERMINISTIC, LOGPROBS, ORACLE, RESPONSES, TRUTH, UNCERTAINTY
from arena10k.collection.store import Store
from arena10k.estimation.data import log_weights
from arena10k.frames.records import FAILED, KEY, OK, QUARANTINED, deviation, in_order, read, tokens, usable
from arena10k.params.config import Params

#: By job the column of its scores.
_SCORES = {DETERMINISTIC: "judge_deterministic", UNCERTAINTY: "judge_uncertainty", ORACLE: "label"}
#: In place of a policy: a logged response itself.
_RESPONSE = ""


@dataclass(frozen=True)
class Table:
    """What is estimated from.

    `logged`: one row per logged response of P0 with `prompt_id`, `draw`, `prompt`, `response`, `category`,
    `response_tokens`, `response_chars`, `generation_logp` (nats, of the tokens the endpoint gave log-probs for) and
    `generation_forced` (P0's teacher-forced log-prob of the same tokens), `logp_<policy>` (nats; NaN where missing,
    failed or quarantined), `raw_logp_<policy>` (nats, as stored: quarantined values too) for policies with a
    quarantined one,
    `judge_deterministic`, `judge_uncertainty`, `judge_uncertainty_sd` (in [0, 1]) and `label` (NaN outside the slice).
    `fresh`: the same for fresh draws of the targets, with `policy`.
    `truth`: `policy`, `value`, `se`, `prompts`, `draws`: mean label over all draws, clustered by prompt; empty unless
    the oracle labels everything. Never an input of an estimator.
    `missing`: logged rows without a usable log-ratio, by policy; `quarantined`: those of them where a value is
    quarantined: the response, its log-prob under the policy or the one under the logging policy.
    """

    logged: pd.DataFrame
    fresh: pd.DataFrame
    truth: pd.DataFrame
    missing: dict[str, int]
    quarantined: dict[str, int]
    logging_policy: str
    targets: list[str]

    @property
    def policies(self) -> list[str]:
        """The logging policy, then the targets."""
        return [self.logging_policy, *self.targets]

    def is_judged(self, mode: str) -> bool:
        """Whether any response has a score in a judge mode."""
        return any(frame[f"judge_{mode}"].notna().any() for frame in (self.logged, self.fresh))

    def __repr__(self) -> str:
        return (
            f"Table({len(self.logged):,} logged rows of {self.logging_policy}, {len(self.fresh):,} fresh draws of "
            f"{', '.join(self.targets) or 'no target'}; frames: logged, fresh, truth)"
        )

    def prompts(self) -> pd.DataFrame:
        """The prompts of the logged rows, then of others: `prompt_id`, `prompt`, `category` (missing where not
        told)."""
        columns = ["prompt_id", "prompt", "category"]
        rows = pd.concat([frame.reindex(columns=columns) for frame in (self.logged, self.fresh)], ignore_index=True)
        return rows.astype("string").drop_duplicates("prompt_id", ignore_index=True)

    def of_prompts(self, prompt_ids: Iterable[str]) -> Table:
        """The rows of some prompts; how many of those were quarantined is not known of a table that was given."""
        wanted = set(prompt_ids)
        logged, fresh = (
            f[f.prompt_id.astype(str).isin(wanted)].reset_index(drop=True) for f in (self.logged, self.fresh)
        )
        base = logged[f"logp_{self.logging_policy}"]
        missing = {p: int((logged[f"logp_{p}"].isna() | base.isna()).sum()) for p in self.missing}
        return replace(self, logged=logged, fresh=fresh, truth=self.truth.head(0), missing=missing, quarantined={})

    def log_weights(self) -> dict[str, np.ndarray]:
        """Raw log-weights of each target on the logged rows (n,), NaN where missing."""
        return {t: log_weights(self.logged, t, self.logging_policy) for t in self.targets}

    def as_stored(self) -> Table:
        """The table with the log-probs that are quarantined in their places, to show what using them would do."""
        raw = {c: self.logged[f"raw_{c}"] for c in self.logged.columns if f"raw_{c}" in self.logged}
        return replace(self, logged=self.logged.assign(**raw))


def build(params: Params, prompts: pd.DataFrame, store: Store) -> Table:
    """Join the records of a run; what is not there stays NaN."""
    p0, answers, logprobs = params.logging_policy, read(store, RESPONSES), read(store, LOGPROBS)
    responses = rows = in_order(_responses(usable(answers), prompts), params.policies, prompts.prompt_id)
    for job, column in _SCORES.items():
        rows = rows.merge(_values(store, job, column), on=KEY, how="left")
    is_logged = (rows.policy == p0) & (rows.draw < params.responses.logged_draws)
    judged_draws = params.judge.draws if params.judge else params.responses.draws
    is_fresh = (rows.policy != p0) & (rows.draw < judged_draws)
    logged = _with_logprobs(params, rows[is_logged].drop(columns="policy"), logprobs)
    quarantined = _quarantined(params, logprobs, answers)
    gone = len(quarantined[_RESPONSE])  # no longer among the rows
    base = logged[f"logp_{p0}"]
    return Table(
        logged.drop(columns="end_scored"),
        rows[is_fresh].drop(columns="end_scored").reset_index(drop=True),
        _truth(params, store, responses),
        {p: gone + int((logged[f"logp_{p}"].isna() | base.isna()).sum()) for p in params.policies},
        {p: len(quarantined[p] | quarantined[p0] | quarantined[_RESPONSE]) for p in params.policies},
        p0,
        params.targets,
    )


def _responses(records: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    payload = list(records.payload)
    frame = records[KEY].assign(response=records["value"].astype("string"))
    frame["response_chars"] = frame.response.str.len()
    frame["response_tokens"] = tokens(payload)
    frame["generation_logp"] = [sum(p["token_logprobs"]) if "token_logprobs" in p else None for p in payload]
    frame["end_scored"] = [bool(p.get("end_scored", True)) for p in payload]
    frame["finish_reason"] = [p.get("finish_reason") for p in payload]
    frame = frame.astype({"generation_logp": float})
    return frame.merge(prompts[["prompt_id", "prompt", "category"]], on="prompt_id", how="inner")


def _values(store: Store, job: str, column: str) -> pd.DataFrame:
    """The usable scores or labels of one job under the name `column`, with their standard deviation."""
    records = usable(read(store, job))
    values = records[KEY].assign(**{column: records["value"].astype(float)})
    if job == UNCERTAINTY:
        values[f"{column}_sd"] = pd.Series(deviation(records.payload), records.index, dtype=float)
    return values


def _with_logprobs(params: Params, logged: pd.DataFrame, logprobs: pd.DataFrame) -> pd.DataFrame:
    """Add ``logp_<policy>``, ``generation_forced``, and ``raw_logp_<policy>`` where values are quarantined: what a
    reader without the quality stage would have used."""
    row = ["prompt_id", "draw"]
    cells = logprobs[logprobs.status != FAILED].astype({"value": float})
    by_status = {status: part.groupby([*row, "policy"])["value"].first() for status, part in cells.groupby("status")}
    none = pd.Series(dtype=float, index=pd.MultiIndex.from_arrays([[], [], []], names=[*row, "policy"]))
    clean = by_status.get(OK, none).unstack("policy").reindex(columns=list(params.policies))
    logged = logged.merge(clean.astype(float).add_prefix("logp_"), left_on=row, right_index=True, how="left")
    if QUARANTINED in by_status:
        stored = by_status[QUARANTINED].unstack("policy")
        stored = stored[[p for p in params.policies if p in stored]].add_prefix("raw_logp_")
        logged = logged.merge(stored, left_on=row, right_index=True, how="left")
        for column in stored:
            logged[column] = logged[column].fillna(logged[column.removeprefix("raw_")])
    # The end of the turn is scored, and not every endpoint tells its log-prob where it generates.
    own = cells[(cells.policy == params.logging_policy) & (cells.status == OK)]
    ends = pd.Series([_end_logp(p) for p in own.payload], pd.MultiIndex.from_frame(own[row]), dtype=float)
    unseen = ends.reindex(pd.MultiIndex.from_frame(logged[row])).fillna(0.0).to_numpy()
    logged["generation_forced"] = logged[f"logp_{params.logging_policy}"] - np.where(logged.end_scored, 0.0, unseen)
    return logged.reset_index(drop=True)


def _end_logp(payload: dict[str, Any]) -> float:
    """The part of a teacher-forced log-prob that is the end of the turn, in nats."""
    ends = payload.get("end_tokens", 0)
    return sum(payload["token_logprobs"][-ends:]) if ends else 0.0


def _quarantined(params: Params, logprobs: pd.DataFrame, answers: pd.DataFrame) -> dict[str, set[tuple[str, int]]]:
    """The rows (prompt and draw) with a quarantined log-prob, by policy, and those whose logged response is."""
    p0, draws = params.logging_policy, params.responses.logged_draws
    parts = {policy: logprobs[logprobs.policy == policy] for policy in params.policies}
    parts[_RESPONSE] = answers[(answers.policy == p0) & (answers.draw < draws)]
    parts = {name: records[records.status == QUARANTINED] for name, records in parts.items()}
    return {name: set(zip(records.prompt_id, records.draw, strict=True)) for name, records in parts.items()}


def _truth(params: Params, store: Store, responses: pd.DataFrame) -> pd.DataFrame:
    labels = _values(store, TRUTH, "label").merge(responses[KEY], on=KEY)
    means = labels.groupby(["policy", "prompt_id"]).label.mean().groupby("policy")
    truth = pd.DataFrame({"value": means.mean(), "se": means.sem(), "prompts": means.size()})
    truth["draws"] = labels.groupby("policy").size()
    return truth.reindex([p for p in params.policies if p in truth.index]).rename_axis("policy").reset_index()


def labelled_judgments(store: Store) -> pd.DataFrame:
    """Judge scores beside oracle labels, wherever both exist (labels that only measure the truth included)."""
    labels = pd.concat([_values(store, job, "label") for job in (ORACLE, TRUTH)]).drop_duplicates(KEY)
    frame = labels.merge(usable(read(store, RESPONSES))[KEY], on=KEY)
    for job in (DETERMINISTIC, UNCERTAINTY):
        frame = frame.merge(_values(store, job, job)[[*KEY, job]], on=KEY, how="left")
    return frame.dropna(subset=[DETERMINISTIC, UNCERTAINTY], how="all").reset_index(drop=True)
