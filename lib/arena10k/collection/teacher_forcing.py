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

Prompt = list[int] | str
#: What is scored, the request where there is something to ask, and what reads the answer.
_Asked = tuple[Any, Request | None, Reader]


def tasks(params: Params, store: Store) -> Iterator[Task]:
    """One task per logged response and policy.

    Rows that are errors, or whose prompt a policy has not rendered yet, give no task: they stay visibly missing.
    """
    able = [p for p in policies(params).values() if can_score(params, p.name)]
    current = contexts(params)
    for _, rows in groupby(_usable(store), key=itemgetter("prompt_id")):
        responses = sorted(rows, key=itemgetter("draw"))
        rendered: dict[str, Prompt] = {}
        for row in responses:
            if (prompt := _prompt(row)) is not None:
                rendered.setdefault(row["policy"], prompt)
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

    def first_draws() -> Iterator[dict[str, Any]]:
        return (r for r in _usable(store) if r["policy"] == policy.name and r["draw"] == 0)

    # Of ten thousand responses with their log-probs, a hundred are held.
    able = (r["prompt_id"] for r in first_draws())
    chosen = sorted(able, key=lambda prompt_id: unit_hash(params.seed, SHUFFLED, prompt_id))[:SHUFFLED_ROWS]
    logged = {r["prompt_id"]: r for r in first_draws() if r["prompt_id"] in chosen}
    context = contexts(params)[SHUFFLED, policy.name]
    if len(chosen) > 1:
        groups = [chosen[i : i + SHUFFLED_GROUP] for i in range(0, len(chosen), SHUFFLED_GROUP)]
        pairs = (zip(ids, [*ids[1:], (ids if len(ids) > 1 else chosen)[0]], strict=True) for ids in groups)
        for prompt_id, other in chain.from_iterable(pairs):
            if (prompt := _prompt(logged[other])) is not None:
                yield _task(params, SHUFFLED, context, policy, prompt, logged[prompt_id])


def _usable(store: Store) -> Iterator[dict[str, Any]]:
    return (r for r in store.rows(RESPONSES) if r["status"] == "ok" and _prompt(r) is not None)


def _prompt(row: dict[str, Any]) -> Prompt | None:
    """What a response was generated from: token ids, or the rendered text."""
    prompt: Prompt | None = row["payload"].get("prompt_token_ids", row["payload"].get("prompt_text"))
    return prompt


def _task(params: Params, job: str, context: str, policy: Policy, prompt: Prompt, row: dict[str, Any]) -> Task:
    if isinstance(prompt, str):
        scored, request, read = _by_text(params, policy, prompt, row)
    else:
        scored, request, read = _by_ids(params, policy, prompt, row)
    key = digest([context, policy.name, row["draw"], prompt, scored])
    return Task(
        job, row["prompt_id"], key, policy.name, row["draw"], policy.fingerprint, context,
        policy.params.provider, policy.params.model, (request,) if request else (), read,
    )  # fmt: skip


def _by_ids(params: Params, policy: Policy, prompt: list[int], row: dict[str, Any]) -> _Asked:
    ids = row["payload"]["token_ids"]
    body = _body(policy, prompt + ids) | {"return_token_ids": True}
    if params.providers[policy.params.provider].capabilities.echo_from:
        body["echo_from"] = len(prompt)
    request = Request(COMPLETIONS, body) if ids else None
    return ids, request, partial(read_ids, prompt_ids=prompt, response_ids=ids)


def _by_text(params: Params, policy: Policy, prompt: str, row: dict[str, Any]) -> _Asked:
    text, reason = row["value"], row["payload"].get("finish_reason")
    end = policy.own_template.end_of_turn if reason in ENDED else ""
    if refused := _not_text(policy, text, reason):
        return [text, end], None, partial(refuse, *refused)
    request = Request(COMPLETIONS, _body(policy, prompt + text + end)) if text + end else None
    return [text, end], request, partial(read_text, prompt=prompt, response=text, end=end)


def _not_text(policy: Policy, text: str, reason: str | None) -> tuple[str, str] | None:
    """Code and detail of why a response cannot be sent as text, or None."""
    if token := policy.own_template.control_token(text):
        return "control_token_in_text", f"the response holds {token}: the model would obey it"
    if "\ufffd" in text:
        return "ids_mismatch", "the response holds U+FFFD: it may not be what was generated"
    if reason not in (*ENDED, "length"):
        return "finish_reason", f"finish_reason {reason!r} does not say whether the response ended"
    return None


def _body(policy: Policy, prompt: Prompt) -> dict[str, Any]:
    model = policy.params.model
    return {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
