"""Responses: every draw of every policy, with token ids and generation log-probs where the endpoint gives them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pandas as pd

from arena10k.client import CHAT, Request
from arena10k.config import Params
from arena10k.errors import invalid
from arena10k.jobs import RESPONSES, contexts
from arena10k.policies import Policy, digest, policies
from arena10k.store import Store
from arena10k.tasks import Measurement, Task


def tasks(params: Params, prompts: pd.DataFrame) -> Iterator[Task]:
    """One task per policy, prompt and draw."""
    current = contexts(params)
    for policy in policies(params).values():
        can = params.providers[policy.params.provider].capabilities
        for row in prompts.itertuples():
            for draw in range(params.responses.draws):
                request = _request(policy, row.prompt, policy.seed(params.seed, row.prompt_id, draw), can)
                context = current[RESPONSES, policy.name]
                yield Task(
                    RESPONSES, row.prompt_id, digest([context, policy.name, draw, request]), policy.name, draw,
                    policy.fingerprint, context, policy.params.provider, policy.params.model,
                    (Request(CHAT, request),), partial(read_answer, token_ids=can.token_ids),
                )  # fmt: skip


def _request(policy: Policy, prompt: str, seed: int, can: Any) -> dict[str, Any]:
    p = policy.params
    request = {
        "model": p.model,
        "messages": policy.messages(prompt),
        "max_tokens": p.max_tokens,
        "temperature": p.temperature,
        "top_p": p.top_p,
        "logprobs": True,
    }
    if can.seed:
        request["seed"] = seed
    if can.token_ids:
        request["return_token_ids"] = True
    return request


def read_answer(answers: list[dict[str, Any]], token_ids: bool) -> Measurement:
    """Check a chat answer (the only one) and read the response from it; the text is never stripped and may be empty.

    Raises CallError (kind ``invalid``) with the code of the check that failed.
    """
    (answer,) = answers
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != 1:
        raise invalid("no_choice", "the answer does not hold exactly one choice")
    choice, usage = choices[0], answer.get("usage") or {}
    text = (choice.get("message") or {}).get("content")
    if not isinstance(text, str):
        raise invalid("no_text", "the answer's message has no text content")
    payload: dict[str, Any] = {"finish_reason": choice.get("finish_reason")}
    entries = (choice.get("logprobs") or {}).get("content")
    if entries is not None:
        payload["token_logprobs"] = check_logprobs([e.get("logprob") for e in entries])
    if token_ids:
        payload |= _token_ids(answer, choice, entries, usage)
    return Measurement(text, payload)


def _token_ids(answer: dict, choice: dict, entries: list | None, usage: dict) -> dict[str, list[int]]:
    prompt_ids, ids = answer.get("prompt_token_ids"), choice.get("token_ids")
    if not prompt_ids or ids is None:
        raise invalid("no_token_ids", "the endpoint is declared to return token ids and did not")
    if len(ids) != (len(ids) if entries is None else len(entries)):
        raise invalid("length_mismatch", f"{len(ids)} token ids with {len(entries)} log-probs")
    if usage.get("prompt_tokens") != len(prompt_ids):
        raise invalid(
            "length_mismatch", f"usage counts {usage.get('prompt_tokens')} prompt tokens, got {len(prompt_ids)} ids"
        )
    return {"prompt_token_ids": prompt_ids, "token_ids": ids}


def check_logprobs(values: list[Any]) -> list[float]:
    """Token log-probs as floats (nats), each present, finite and at most 1e-4.

    Raises CallError with code ``null_in_response``, ``not_finite`` or ``positive``.
    """
    if any(v is None for v in values):
        raise invalid("null_in_response", f"token {values.index(None)} of {len(values)} has no log-prob")
    if any(isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v) for v in values):
        raise invalid("not_finite", "a token's log-prob is not a finite number")
    if any(v > 1e-4 for v in values):
        raise invalid("positive", f"a token's log-prob is {max(values):.4g}, above 0")
    return [float(v) for v in values]


def frame(params: Params, store: Store) -> pd.DataFrame:
    """Every response record: `policy`, `prompt_id`, `draw`, `response`, `status`, `code`, `tokens`, `finish_reason`."""
    rows = [
        {
            **{k: row[k] for k in ("policy", "prompt_id", "draw", "status", "code")},
            "response": row["value"],
            "tokens": len(row["payload"].get("token_logprobs") or ()) or None,
            "finish_reason": row["payload"].get("finish_reason"),
        }
        for row in store.rows(RESPONSES)
        if row["policy"] in params.policies
    ]
    columns = ["policy", "prompt_id", "draw", "status", "code", "response", "tokens", "finish_reason"]
    out = pd.DataFrame(rows, columns=columns)
    rank = {name: i for i, name in enumerate(params.policies)}
    return out.sort_values(["policy", "prompt_id", "draw"], key=lambda c: c.map(rank) if c.name == "policy" else c)


def summary(responses: pd.DataFrame) -> pd.DataFrame:
    """Per policy: records ok and failed, mean length, share cut off at the token limit, share empty."""
    ok = responses[responses.status == "ok"]
    by = ok.groupby("policy", sort=False)
    out = pd.DataFrame(
        {
            "ok": by.size(),
            "mean_tokens": by.tokens.mean(),
            "mean_characters": ok.response.str.len().groupby(ok.policy, sort=False).mean(),
            "truncated": (ok.finish_reason == "length").groupby(ok.policy, sort=False).mean(),
            "empty": (ok.response == "").groupby(ok.policy, sort=False).mean(),
            "distinct": by.response.nunique(),
        }
    )
    failed = (responses.status == "error").groupby(responses.policy, sort=False).sum()
    return out.reindex(failed.index).assign(failed=failed).fillna({"ok": 0}).reset_index()


def sentence(summary: pd.DataFrame) -> str:
    """Which policy answers longest and which repeats itself most."""
    known = summary[summary.ok > 0]
    if known.empty:
        return "No response has been measured."
    long, same = known.loc[known.mean_tokens.fillna(0).idxmax()], known.loc[(known.distinct / known.ok).idxmin()]
    return (
        f"{long.policy} answers longest ({long.mean_tokens:.1f} tokens on average); {same.policy} repeats itself most: "
        f"{int(same.distinct):,} different texts in {int(same.ok):,} responses."
    )


def definitions(all_policies: Mapping[str, Policy]) -> pd.DataFrame:
    """What each policy is: model, example turns, what it stands for, and the start of its fingerprint."""
    return pd.DataFrame(
        [
            {
                "policy": p.name,
                "what it is": p.params.description,
                "model": p.params.model,
                "example turns": len(p.params.examples),
                "fingerprint": p.fingerprint[:8],
            }
            for p in all_policies.values()
        ]
    )
