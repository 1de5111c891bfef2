"""The analysis table: the records of a run as two tidy frames, rows that are bad left out and counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from arena10k.collection.jobs import JUDGE, LOGPROBS, ORACLE, RESPONSES, TRUTH, compares, judging
from arena10k.collection.store import Store
from arena10k.estimation.data import log_weights
from arena10k.frames.records import FAILED, KEY, OK, QUARANTINED, in_order, read, usable
from arena10k.params.config import Params

_ROW = ["prompt_id", "draw"]


@dataclass(frozen=True)
class Table:
    """What is estimated from.

    `logged`: one row per logged response of P0 with `prompt_id`, `draw`, `prompt`, `response`, `category`,
    `response_tokens`, `response_chars`, `generation_logp` (nats, of the tokens the endpoint gave log-probs for) and
    `generation_forced` (P0's teacher-forced log-prob of the same tokens), `logp_<policy>` (nats; NaN where missing,
    failed or quarantined), `raw_logp_<policy>` (nats, as stored: quarantined values too) for policies with a
    quarantined one,
    `judge_<name>`, `judge_<name>_sd` for each judge (in [0, 1]) and `label` (NaN outside the slice).
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

    @property
    def judges(self) -> list[str]:
        """The judges that have a column."""
        columns = dict.fromkeys(str(c) for frame in (self.logged, self.fresh) for c in frame)
        return [c.removeprefix(JUDGE) for c in columns if c.startswith(JUDGE) and not c.endswith("_sd")]

    def is_judged(self, judge: str) -> bool:
        """Whether any response has a score of a judge."""
        return any(frame[JUDGE + judge].notna().any() for frame in (self.logged, self.fresh) if JUDGE + judge in frame)

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
        missing = without_log_ratio(logged, self.missing, self.logging_policy)
        return replace(self, logged=logged, fresh=fresh, truth=self.truth.head(0), missing=missing, quarantined={})

    def log_weights(self) -> dict[str, np.ndarray]:
        """Raw log-weights of each target on the logged rows (n,), NaN where missing."""
        return {t: log_weights(self.logged, t, self.logging_policy) for t in self.targets}

    def as_stored(self) -> Table:
        """The table with the log-probs that are quarantined in their places, to show what using them would do."""
        raw = {c: self.logged[f"raw_{c}"] for c in self.logged.columns if f"raw_{c}" in self.logged}
        return replace(self, logged=self.logged.assign(**raw))


def without_log_ratio(logged: pd.DataFrame, policies: Iterable[str], logging_policy: str) -> dict[str, int]:
    """By policy the logged rows without its log-prob or without that of the logging policy."""
    base = logged[f"logp_{logging_policy}"].isna()
    return {policy: int((logged[f"logp_{policy}"].isna() | base).sum()) for policy in policies}


def build(params: Params, prompts: pd.DataFrame, store: Store) -> Table:
    """Join the records of a run; what is not there stays NaN."""
    p0, answers, logprobs = params.logging_policy, read(store, RESPONSES), read(store, LOGPROBS)
    # Of a response whose text the source did not have there are scores all the same.
    there = answers[(answers.status == OK) | ((answers.status == FAILED) & (answers.reason == "missing"))]
    responses = rows = in_order(_responses(there, prompts), params.policies, prompts.prompt_id)
    beside = responses.prompt_id[(responses.policy == p0) & (responses.draw == 0)]
    for job in (*judging(params), ORACLE):
        values = _values(store, job, "label" if job == ORACLE else job)
        if compares(params, job):  # a win over a response that is quarantined is none
            values = values[values.prompt_id.isin(beside)]
        rows = rows.merge(values, on=KEY, how="left")
    judged_draws = max((judge.draws for judge in params.judges.values()), default=params.responses.draws)
    is_fresh = (rows.policy != p0) & (rows.draw < judged_draws)
    is_logged = (rows.policy == p0) & (rows.draw < params.responses.logged_draws)
    logged = _with_logprobs(params, rows[is_logged].reset_index(drop=True), logprobs)
    quarantined = {policy: _quarantined(logprobs[logprobs.policy == policy]) for policy in params.policies}
    # Responses that are quarantined are no longer among the rows.
    gone = _quarantined(answers[(answers.policy == p0) & (answers.draw < params.responses.logged_draws)])
    missing = without_log_ratio(logged, params.policies, p0)
    return Table(
        logged.drop(columns=["policy", "end_scored"]),
        rows[is_fresh].drop(columns="end_scored").reset_index(drop=True),
        _truth(params, store, responses),
        {policy: len(gone) + n for policy, n in missing.items()},
        {policy: len(aside | quarantined[p0] | gone) for policy, aside in quarantined.items()},
        p0,
        params.targets,
    )


def _quarantined(records: pd.DataFrame) -> set[tuple[str, int]]:
    """The prompts and draws of those that are quarantined."""
    return set(records[records.status == QUARANTINED][_ROW].itertuples(index=False, name=None))


def _responses(records: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    frame = records[KEY].assign(response=records["value"].astype("string"))
    frame["response_chars"] = frame.response.str.len()
    frame["response_tokens"] = records.tokens.tolist()
    frame["generation_logp"] = records.generation_logp.astype(float)
    frame["end_scored"] = (records.end_scored != False).to_numpy(bool)  # noqa: E712 (None where it is not said)
    frame["finish_reason"] = records.finish_reason.tolist()
    return frame.merge(prompts[["prompt_id", "prompt", "category"]], on="prompt_id", how="inner")


def _values(store: Store, job: str, column: str) -> pd.DataFrame:
    """The usable scores or labels of one job under the name `column`, with their standard deviation."""
    records = usable(read(store, job))
    values = records[KEY].assign(**{column: records["value"].astype(float)})
    if job.startswith(JUDGE):
        values[f"{column}_sd"] = records.sd.astype(float)
    if records.propensity.notna().any():
        values[f"{column}_propensity"] = records.propensity.astype(float)
    return values


def _with_logprobs(params: Params, logged: pd.DataFrame, logprobs: pd.DataFrame) -> pd.DataFrame:
    """Add ``logp_<policy>``, ``generation_forced``, and ``raw_logp_<policy>`` where values are quarantined: what a
    reader without the quality stage would have used."""
    cells, at = logprobs[logprobs.status != FAILED], pd.MultiIndex.from_frame(logged[_ROW])
    for policy in params.policies:
        own = cells[cells.policy == policy].drop_duplicates(_ROW).set_index(_ROW).reindex(at).reset_index(drop=True)
        stored, is_ok = own["value"].astype(float), own.status == OK
        logged[f"logp_{policy}"] = stored.where(is_ok)
        if (own.status == QUARANTINED).any():
            logged[f"raw_logp_{policy}"] = stored
        if policy == params.logging_policy:
            # The end of the turn is scored, and not every endpoint tells its log-prob where it generates.
            unseen = np.zeros(len(logged))
            for row in np.flatnonzero(is_ok & ~logged.end_scored):
                ends = own.end_tokens[row] or 0
                unseen[row] = sum(own.token_logprobs[row][-ends:]) if ends else 0.0
            logged["generation_forced"] = logged[f"logp_{policy}"] - unseen
    return logged


def _truth(params: Params, store: Store, responses: pd.DataFrame) -> pd.DataFrame:
    labels = _values(store, TRUTH, "label").merge(responses[KEY], on=KEY)
    means = labels.groupby(["policy", "prompt_id"]).label.mean().groupby("policy")
    truth = pd.DataFrame({"value": means.mean(), "se": means.sem(), "prompts": means.size()})
    truth["draws"] = labels.groupby("policy").size()
    return truth.reindex([p for p in params.policies if p in truth.index]).rename_axis("policy").reset_index()
