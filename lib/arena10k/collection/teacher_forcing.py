"""Teacher forcing: the log-probability of P0's logged responses under every policy.

By token ids where the endpoint returns them: the prompt ids are those the policy itself generated from (kept with its
own responses), so the policy that is scored is the policy that generated; the response ids are P0's, end-of-sequence
token included, never re-tokenised.

By text where it does not: the rendered prompt the policy itself generated from, the response as it came, and the
policy's own end of turn where the response ended (`finish_reason` stop), for all policies alike: ending is a choice
the policy made, and a response that was cut off made none. Text of P0 may be scored although P0's own log-prob is of
its token ids: what is measured is then the text in the target's own tokens, which is the only event two vocabularies
share. It is refused where the text may not be what was generated (U+FFFD) or would be obeyed (control tokens).
Ids for text that P0 gave are never made up: `config` refuses such params.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from functools import partial
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

from arena10k.collection.answers import ENDED
from arena10k.collection.echo import read_ids, read_text
from arena10k.collection.jobs import LOGPROBS, RESPONSES, SHUFFLED, SHUFFLED_GROUP, SHUFFLED_ROWS, can_score, contexts
from arena10k.collection.store import Store
from arena10k.collection.tasks import COMPLETIONS, Reader, Request, Task, refuse
from arena10k.inputs.policies import Policy, digest, policies, unit_hash
from arena10k.params.config import Params
from arena10k.params.sections import sent

Prompt = list[int] | str


def tasks(params: Params, store: Store) -> Iterator[Task]:
    """One task per logged response and policy.

    Rows that are errors, or whose prompt a policy has not rendered yet, give no task: they stay visibly missing.
    """
    able = [p for p in policies(params).values() if can_score(params, p.name)]
    current = contexts(params)
    for _, rows in groupby(_usable(store), key=itemgetter("prompt_id")):
        responses = sorted(rows, key=itemgetter("draw"))
        rendered = {row["policy"]: _prompt(row) for row in reversed(responses)}
        logged = [r for r in responses if r["policy"] == params.logging_policy]
        for row in logged[: params.responses.logged_draws]:
            for policy in (p for p in able if p.name in rendered):
                yield _task(params, LOGPROBS, current[LOGPROBS, policy.name], policy, rendered[policy.name], row)


def control_tasks(params: Params, store: Store) -> Iterator[Task]:
    """The shuffled-prompt control: up to `SHUFFLED_ROWS` responses of P0 scored by P0 as answers to another question,
    that of the next response in their group: more rows change no pair. A recording is not asked: it has the control or
    it does not."""
    if params.recording or not can_score(params, params.logging_policy):
        return
    policy = policies(params)[params.logging_policy]

    # Of ten thousand responses with their log-probs, a hundred are held.
    able = (r for r in _usable(store, policy.name) if r["draw"] == 0)
    rows = heapq.nsmallest(SHUFFLED_ROWS, able, key=lambda r: unit_hash(params.seed, SHUFFLED, r["prompt_id"]))
    logged = {row["prompt_id"]: row for row in rows}
    chosen = list(logged)
    context = contexts(params)[SHUFFLED, policy.name]
    if len(chosen) > 1:
        groups = [chosen[i : i + SHUFFLED_GROUP] for i in range(0, len(chosen), SHUFFLED_GROUP)]
        pairs = (zip(ids, [*ids[1:], (ids if len(ids) > 1 else chosen)[0]], strict=True) for ids in groups)
        for prompt_id, other in chain.from_iterable(pairs):
            yield _task(params, SHUFFLED, context, policy, _prompt(logged[other]), logged[prompt_id])


def _usable(store: Store, policy: str = "") -> Iterator[dict[str, Any]]:
    return (r for r in store.rows(RESPONSES, policy) if r["status"] == "ok" and _prompt(r) is not None)


def _prompt(row: dict[str, Any]) -> Any:
    """What a response was generated from: a `Prompt`, token ids or the rendered text; None where it is not known."""
    return row["payload"].get("prompt_token_ids", row["payload"].get("prompt_text"))


def _task(params: Params, job: str, context: str, policy: Policy, prompt: Prompt, row: dict[str, Any]) -> Task:
    asked = _by_text(policy, prompt, row) if isinstance(prompt, str) else _by_ids(params, policy, prompt, row)
    scored, body, read = asked
    body |= {"model": policy.params.model, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
    provider = params.providers[policy.params.provider]
    request = Request(COMPLETIONS, sent(provider, policy.params, body), policy.params.model_alias)
    return Task(
        job, row["prompt_id"], digest([context, policy.name, row["draw"], prompt, scored]), policy.name, row["draw"],
        policy.fingerprint, context, policy.params.provider, policy.params.model,
        (request,) if "prompt" in body else (), read,
    )  # fmt: skip


def _by_ids(
    params: Params, policy: Policy, prompt: list[int], row: dict[str, Any]
) -> tuple[Any, dict[str, Any], Reader]:
    """What is scored, its own part of the request (no prompt where there is nothing to ask), what reads the answer."""
    ids = row["payload"]["token_ids"]
    body = {"prompt": prompt + ids, "return_token_ids": True} if ids else {}
    if params.providers[policy.params.provider].capabilities.echo_from:
        body["echo_from"] = len(prompt)
    again = prompt == row["payload"].get("prompt_token_ids") and policy.fingerprint == row["fingerprint"]
    drawn = row["payload"].get("token_logprobs") if again and not policy.temperature_mismatch else None
    return ids, body, partial(read_ids, prompt_ids=prompt, response_ids=ids, drawn=drawn)


def _by_text(policy: Policy, prompt: str, row: dict[str, Any]) -> tuple[Any, dict[str, Any], Reader]:
    text, reason = row["value"], row["payload"].get("finish_reason")
    end = policy.own_template.end_of_turn if reason in ENDED else ""
    refused = None
    if token := policy.own_template.control_token(text):
        refused = "control_token_in_text", f"the response holds {token}: the model would obey it"
    elif "\ufffd" in text:
        within = text.endswith("\ufffd") and reason == "length"
        what = "is cut off within a character" if within else "holds U+FFFD"
        refused = "ids_mismatch", f"the response {what}: its text is not what was generated"
    elif row["payload"].get("reasoning"):
        refused = "reasoning_left_out", "what was generated is the reasoning and the answer, of which the text has one"
    elif reason not in (*ENDED, "length"):
        refused = "finish_reason", f"finish_reason {reason!r} does not say whether the response ended"
    if refused:
        return [text, end], {}, partial(refuse, *refused)
    body = {"prompt": prompt + text + end} if text + end else {}
    return [text, end], body, partial(read_text, prompt=prompt, response=text, end=end)
