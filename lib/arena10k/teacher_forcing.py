"""Teacher forcing: the log-probability of P0's logged responses under every policy, by token ids.

The prompt ids are those the policy itself generated from (kept with its own responses), so the policy that is scored
is the policy that generated; the response ids are P0's, end-of-sequence token included, never re-tokenised.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

from arena10k.client import COMPLETIONS, Request
from arena10k.config import Capabilities, Params
from arena10k.errors import invalid
from arena10k.generate import check_logprobs
from arena10k.jobs import LOGPROBS, RESPONSES, contexts
from arena10k.policies import Policy, digest, policies
from arena10k.store import Store
from arena10k.tasks import Measurement, Task

#: Whole-sequence values that other software writes in place of a missing measurement.
SENTINELS = (-50.0, -100.0, -9999.0)
FLOOR_PER_TOKEN = -60.0


def tasks(params: Params, store: Store) -> Iterator[Task]:
    """One task per logged response and policy.

    Rows that are errors, or whose prompt a policy has not rendered yet, give no task: they stay visibly missing.
    """
    able = [p for p in policies(params).values() if params.providers[p.params.provider].capabilities.echo_logprobs]
    current = contexts(params)
    usable = (r for r in store.rows(RESPONSES) if r["status"] == "ok" and "prompt_token_ids" in r["payload"])
    for prompt_id, rows in groupby(usable, key=itemgetter("prompt_id")):
        responses = sorted(rows, key=itemgetter("draw"))
        rendered: dict[str, list[int]] = {}
        for row in responses:
            rendered.setdefault(row["policy"], row["payload"]["prompt_token_ids"])
        logged = [r for r in responses if r["policy"] == params.logging_policy]
        for row in logged[: params.responses.logged_draws]:
            for policy in (p for p in able if p.name in rendered):
                can = params.providers[policy.params.provider].capabilities
                yield _task(policy, current[LOGPROBS, policy.name], prompt_id, row, rendered[policy.name], can)


def _task(
    policy: Policy, context: str, prompt_id: str, row: dict[str, Any], prompt_ids: list[int], can: Capabilities
) -> Task:
    response_ids = row["payload"]["token_ids"]
    key = [context, policy.name, row["draw"], prompt_ids, response_ids]
    request = _request(policy.params.model, prompt_ids, response_ids, can.echo_from)
    read = partial(read_answer, prompt_ids=prompt_ids, response_ids=response_ids)
    return Task(
        LOGPROBS, prompt_id, digest(key), policy.name, row["draw"], policy.fingerprint, context,
        policy.params.provider, policy.params.model, (request,), read,
    )  # fmt: skip


def _request(model: str, prompt_ids: list[int], response_ids: list[int], echo_from: bool) -> Request:
    body = {"model": model, "prompt": prompt_ids + response_ids, "max_tokens": 1, "temperature": 0, "logprobs": 1}
    body |= {"echo": True, "return_token_ids": True}
    return Request(COMPLETIONS, body | ({"echo_from": len(prompt_ids)} if echo_from else {}))


def read_answer(answers: list[dict[str, Any]], prompt_ids: list[int], response_ids: list[int]) -> Measurement:
    """Check an echo answer (the only one) and sum the response's token log-probs (nats).

    Raises CallError (kind ``invalid``) with the code of the first check of COLLECTION section 1 that fails.
    """
    (answer,) = answers
    n, m = len(prompt_ids), len(response_ids)
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != 1:
        raise invalid("no_choice", "the answer does not hold exactly one choice")
    logprobs = (choices[0].get("logprobs") or {}).get("token_logprobs")
    usage = answer.get("usage") or {}
    _check_lengths(logprobs, n, m, usage.get("prompt_tokens"))
    echoed = choices[0].get("prompt_token_ids") or answer.get("prompt_token_ids")
    if echoed is not None and list(echoed) != prompt_ids + response_ids:
        raise invalid("ids_mismatch", "the echoed token ids are not the ones that were sent")
    tokens = check_logprobs(logprobs[n : n + m])
    total = math.fsum(tokens)
    check_structure(tokens, total)
    return Measurement(total, {"token_logprobs": tokens, "prompt_tokens": n, "response_tokens": m})


def _check_lengths(logprobs: list | None, n: int, m: int, counted: int | None) -> None:
    if not isinstance(logprobs, list):
        raise invalid("echo_ignored", "the answer has no log-probs")
    if len(logprobs) <= 1 < n + m:
        raise invalid("echo_ignored", f"{len(logprobs)} log-prob where {n + m} were expected: echo was ignored")
    if len(logprobs) not in (n + m, n + m + 1):
        raise invalid("length_mismatch", f"{len(logprobs)} log-probs where {n + m} were expected")
    if counted is not None and counted != n + m:
        raise invalid("length_mismatch", f"the endpoint counted {counted} prompt tokens where {n + m} were sent")


def check_structure(tokens: list[float], total: float) -> None:
    """Refuse values that are finite but cannot be measurements: one value for every token, sentinels, impossible lows.

    A single certain token (0.0) is legitimate, several that are all exactly 0.0 are not: the decision is by structure,
    never by one value alone.
    """
    if len(set(tokens)) == 1 and (len(tokens) >= 4 or (len(tokens) >= 2 and tokens[0] == 0)):
        raise invalid("constant", f"all {len(tokens)} tokens have log-prob {tokens[0]:g}")
    if total in SENTINELS or (tokens and min(tokens) < FLOOR_PER_TOKEN):
        raise invalid("below_floor", f"sequence log-prob {total:g}, lowest token {min(tokens):g}")
