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
from arena10k.params.config import Params

JUDGE_MODES = ("deterministic", "uncertainty")
KEY = ["policy", "prompt_id", "draw"]


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
    `missing`: logged rows without a usable log-ratio, by policy; `quarantined`: those of them with a value, see
    `quarantined_rows`.
    """

    logged: pd.DataFrame
    fresh: pd.DataFrame
    truth: pd.DataFrame
    missing: dict[str, int]
    quarantined: dict[str, int]
    logging_policy: str
    targets: list[str]

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
        kept = set(prompt_ids)
        logged, fresh = (
            f[f.prompt_id.astype(str).isin(kept)].reset_index(drop=True) for f in (self.logged, self.fresh)
        )
        base = logged[f"logp_{self.logging_policy}"]
        missing = {p: int((logged[f"logp_{p}"].isna() | base.isna()).sum()) for p in self.missing}
        return replace(self, logged=logged, fresh=fresh, truth=self.truth.head(0), missing=missing, quarantined={})

    def log_weights(self) -> dict[str, np.ndarray]:
        """Raw log-weights of each target on the logged rows (n,), NaN where missing."""
        return {t: log_weights(self.logged, t, self.logging_policy) for t in self.targets}


def _records(store: Store, job: str, quarantined: bool = False) -> pd.DataFrame:
    """Records of one job with a value: the clean ones, or those that are quarantined."""
    rows = [r for r in store.rows(job) if r["status"] == "ok" and (r["quarantine"] is not None) == quarantined]
    return pd.DataFrame(rows, columns=["policy", "prompt_id", "draw", "value", "payload"])


def build(params: Params, prompts: pd.DataFrame, store: Store) -> Table:
    """Join the records of a run; what is not there stays NaN."""
    responses = _responses(store, prompts)
    scored = responses
    for job in (DETERMINISTIC, UNCERTAINTY, ORACLE):
        scored = scored.merge(_values(store, job), on=KEY, how="left")
    scored = scored.rename(columns={ORACLE: "label"}).merge(_judge_sd(store), on=KEY, how="left")
    is_logged = (scored.policy == params.logging_policy) & (scored.draw < params.responses.logged_draws)
    logged = _with_logprobs(params, scored[is_logged], store)
    judged = params.judge.draws if params.judge else params.responses.draws
    fresh = scored[(scored.policy != params.logging_policy) & (scored.draw < judged)].drop(columns="end_scored")
    order = {p: i for i, p in enumerate(prompts.prompt_id)}
    rank = {p: i for i, p in enumerate(params.policies)}
    fresh = fresh.sort_values(
        KEY, key=lambda c: c.map(rank) if c.name == "policy" else c.map(order) if c.name == "prompt_id" else c
    )
    logged = logged.sort_values(["prompt_id", "draw"], key=lambda c: c.map(order) if c.name == "prompt_id" else c)
    base, aside = logged[f"logp_{params.logging_policy}"], quarantined_rows(params, store)
    gone = len(_quarantined_responses(params, store))  # no longer among the rows
    missing = {t: gone + int((logged[f"logp_{t}"].isna() | base.isna()).sum()) for t in params.policies}
    return Table(
        logged.drop(columns="policy").reset_index(drop=True),
        fresh.reset_index(drop=True),
        _truth(params, store),
        missing,
        {policy: len(rows) for policy, rows in aside.items()},
        params.logging_policy,
        params.targets,
    )


def _responses(store: Store, prompts: pd.DataFrame) -> pd.DataFrame:
    frame = _records(store, RESPONSES).rename(columns={"value": "response"})
    frame["response"] = frame.response.astype("string")
    frame["response_chars"] = frame.response.str.len()
    frame["response_tokens"] = [len(p.get("token_ids") or p.get("token_logprobs") or ()) or None for p in frame.payload]
    frame["generation_logp"] = [sum(p["token_logprobs"]) if "token_logprobs" in p else None for p in frame.payload]
    frame["end_scored"] = [p.get("end_scored", True) for p in frame.payload]
    frame["finish_reason"] = [p.get("finish_reason") for p in frame.payload]
    frame = frame.drop(columns="payload").astype({"generation_logp": float})
    return frame.merge(prompts[["prompt_id", "prompt", "category"]], on="prompt_id", how="inner")


def _values(store: Store, job: str) -> pd.DataFrame:
    frame = _records(store, job).drop(columns="payload").rename(columns={"value": job})
    return frame.astype({job: float})


def _judge_sd(store: Store) -> pd.DataFrame:
    frame = _records(store, UNCERTAINTY)
    frame["judge_uncertainty_sd"] = [p["variance"] ** 0.5 for p in frame.pop("payload")]
    return frame.drop(columns="value").astype({"judge_uncertainty_sd": float})


def _with_logprobs(params: Params, logged: pd.DataFrame, store: Store) -> pd.DataFrame:
    scores = _records(store, LOGPROBS)
    own = scores[scores.policy == params.logging_policy]
    ends = {(r.prompt_id, r.draw): _end_logp(r.payload) for r in own.itertuples()}
    for policy in params.policies:
        name = f"logp_{policy}"
        mine = scores[scores.policy == policy][["prompt_id", "draw", "value"]].rename(columns={"value": name})
        logged = logged.merge(mine.astype({name: float}), on=["prompt_id", "draw"], how="left")
    logged = _with_stored(logged, _records(store, LOGPROBS, quarantined=True))
    # The end of the turn is scored, and not every endpoint tells its log-prob where it generates.
    unseen = [0.0 if r.end_scored else ends.get((r.prompt_id, r.draw), 0.0) for r in logged.itertuples()]
    logged["generation_forced"] = logged[f"logp_{params.logging_policy}"] - unseen
    return logged.drop(columns="end_scored")


def _with_stored(logged: pd.DataFrame, aside: pd.DataFrame) -> pd.DataFrame:
    """Add `raw_logp_<policy>` where values are quarantined: what a reader without the quality stage would have used."""
    for policy, mine in aside.groupby("policy", sort=False):
        clean = f"logp_{policy}"
        if clean not in logged:
            continue
        name = f"raw_{clean}"
        stored = mine[["prompt_id", "draw", "value"]].rename(columns={"value": name}).astype({name: float})
        logged = logged.merge(stored, on=["prompt_id", "draw"], how="left")
        logged[name] = logged[name].fillna(logged[clean])
    return logged


def as_stored(made: Table) -> Table:
    """The table with the log-probs that are quarantined in their places, to show what using them would do."""
    raw = {c: made.logged[f"raw_{c}"] for c in made.logged.columns if f"raw_{c}" in made.logged}
    return replace(made, logged=made.logged.assign(**raw))


def _end_logp(payload: dict[str, Any]) -> float:
    """The part of a teacher-forced log-prob that is the end of the turn, in nats."""
    ends = payload.get("end_tokens", 0)
    return sum(payload["token_logprobs"][-ends:]) if ends else 0.0


def quarantined_rows(params: Params, store: Store) -> dict[str, set[tuple[str, int]]]:
    """By policy the logged rows (prompt and draw) that have no log-ratio because a value is quarantined: the response,
    its log-prob under the policy or the one under the logging policy."""
    rows: dict[str, set[tuple[str, int]]] = {policy: set() for policy in params.policies}
    for r in store.rows(LOGPROBS):
        if r["quarantine"] is not None and r["policy"] in rows:
            rows[r["policy"]].add((r["prompt_id"], r["draw"]))
    everywhere = rows[params.logging_policy] | _quarantined_responses(params, store)
    return {policy: own | everywhere for policy, own in rows.items()}


def _quarantined_responses(params: Params, store: Store) -> set[tuple[str, int]]:
    mine = _records(store, RESPONSES, quarantined=True)
    mine = mine[(mine.policy == params.logging_policy) & (mine.draw < params.responses.logged_draws)]
    return set(zip(mine.prompt_id, mine.draw, strict=True))


def labelled_judgments(store: Store) -> pd.DataFrame:
    """Judge scores beside oracle labels, wherever both exist (labels that only measure the truth included)."""
    labels = pd.concat([_values(store, job).rename(columns={job: "label"}) for job in (ORACLE, TRUTH)])
    frame = labels.drop_duplicates(KEY).merge(_records(store, RESPONSES)[KEY], on=KEY)
    for job in (DETERMINISTIC, UNCERTAINTY):
        frame = frame.merge(_values(store, job), on=KEY, how="left")
    return frame.dropna(subset=[DETERMINISTIC, UNCERTAINTY], how="all").reset_index(drop=True)


def _truth(params: Params, store: Store) -> pd.DataFrame:
    labels = _records(store, TRUTH).astype({"value": float}).merge(_records(store, RESPONSES)[KEY], on=KEY)
    by_prompt = labels.groupby(["policy", "prompt_id"]).value.mean()
    rows = []
    for policy in params.policies:
        if policy not in by_prompt:
            continue
        means = by_prompt[policy]
        rows.append(
            {
                "policy": policy,
                "value": means.mean(),
                "se": means.sem(),
                "prompts": len(means),
                "draws": int((labels.policy == policy).sum()),
            }
        )
    return pd.DataFrame(rows, columns=["policy", "value", "se", "prompts", "draws"])
