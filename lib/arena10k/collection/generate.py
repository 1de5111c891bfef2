"""Responses: every draw of every policy, with token ids and generation log-probs where the endpoint gives them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pandas as pd

from arena10k.collection.answers import chat_response, text_response
from arena10k.collection.jobs import RESPONSES, contexts
from arena10k.collection.tasks import CHAT, COMPLETIONS, Measurement, Reader, Request, Task, refuse
from arena10k.errors import invalid
from arena10k.inputs.policies import Policy, digest, policies
from arena10k.params.config import Params
from arena10k.params.sections import Provider, sent

#: Answers that are remembered while collecting, to notice one that is given twice.
REMEMBERED = 4096
DUPLICATE = "duplicate_answer"
#: The first response of each policy to so many prompts shows how the endpoint draws.
AUDITED_PROMPTS = 100


def tasks(params: Params, prompts: pd.DataFrame) -> Iterator[Task]:
    """One task per policy, draw and prompt: by the second draw a server that caches prompts knows them all."""
    current, replays, rows = contexts(params), Replays(), prompts[["prompt_id", "prompt"]].astype(object)
    for policy in (p for p in policies(params).values() if not p.is_imported):
        provider = params.providers[policy.params.provider]
        can = provider.capabilities
        context = current[RESPONSES, policy.name]
        for draw in range(params.responses.draws):
            for row in rows.itertuples():
                seed = policy.seed(params.seed, row.prompt_id, draw)
                audited = draw == 0 and row.Index < AUDITED_PROMPTS and can.top_logprobs > 1
                asked, request, read = _asked(policy, provider, row.prompt, seed, audited)
                key = digest([context, policy.name, draw, asked])
                yield Task(
                    RESPONSES, row.prompt_id, key, policy.name, draw,
                    policy.fingerprint, context, policy.params.provider, policy.params.model,
                    (request,) if request else (), partial(replays.read, read, request) if request else read,
                )  # fmt: skip


def _asked(
    policy: Policy, provider: Provider, prompt: str, seed: int, audited: bool
) -> tuple[Any, Request | None, Reader]:
    """What a response is known by, what is sent for it, and what reads the answer."""
    p, can = policy.params, provider.capabilities
    sampling = {"model": p.model, "max_tokens": p.max_tokens, "temperature": p.temperature, "top_p": p.top_p}
    sampling |= {"seed": seed} if can.seed else {}
    if policy.template and (token := policy.control_token(prompt)):
        detail = f"the prompt holds {token}: the model would obey it"
        return prompt, None, partial(refuse, "control_token_in_text", detail)
    path, more, read = CHAT, {}, partial(chat_response, token_ids=can.token_ids)
    if policy.template:
        rendered = policy.rendered(prompt)
        asked = {"prompt": rendered, "logprobs": 1, "stop": [policy.template.end_of_turn]} | sampling
        path, read = COMPLETIONS, partial(text_response, rendered=rendered, template=policy.template)
        more = {"logprobs": can.top_logprobs}
    else:
        asked = {"messages": policy.messages(prompt), "logprobs": True} | sampling
        asked |= {"return_token_ids": True} if can.token_ids else {}
        more = {"top_logprobs": can.top_logprobs}
    body = asked | (more if audited and provider.kind == "openai" else {})
    if provider.kind == "openai" and p.top_p == 1 and "top_p" not in p.model_fields_set:
        del body["top_p"]  # its default, which some endpoints refuse beside a temperature
    return asked, Request(path, sent(provider, p, body, sampled=True), p.model_alias), read


def answer_digest(text: str | float, logprobs: list[float] | None) -> str | None:
    """What two answers share only when one of them is a replay; None where chance could do it (under four tokens, or
    one value throughout)."""
    if not logprobs or len(logprobs) < 4 or len(set(logprobs)) == 1:
        return None
    return digest([text, logprobs])


class Replays:
    """Notices an answer that was given before, to another prompt: the server replays. Remembers `REMEMBERED`."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, str] = OrderedDict()

    def read(self, read: Reader, request: Request, answers: list[dict[str, Any]]) -> Measurement:
        """What `read` makes of the answers. Raises CallError with code ``duplicate_answer``; the detail ends in the
        answer's digest, so that `screening.scan` finds the row that was stored first."""
        measured = read(answers)
        key = answer_digest(measured.value, measured.payload.get("token_logprobs"))
        if key is None:
            return measured
        asked = digest(request.body.get("messages", request.body.get("prompt")))
        if self._seen.setdefault(key, asked) != asked:
            raise invalid(DUPLICATE, f"text and log-probs are those of an answer to another prompt: {key}")
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return measured


def summary(responses: pd.DataFrame) -> pd.DataFrame:
    """Per policy of `run.responses`: how many there are (``ok``) and failed, mean length, share cut off at the token
    limit, share empty."""
    ok = responses[responses.status != "failed"].assign(
        truncated=lambda rows: rows.finish_reason == "length",
        empty=lambda rows: rows.response == "",
    )
    measures = {"ok": ("status", "size"), "mean_tokens": ("tokens", "mean"), "mean_characters": ("chars", "mean")}
    measures |= {"truncated": ("truncated", "mean"), "empty": ("empty", "mean"), "distinct": ("response", "nunique")}
    failed = (responses.status == "failed").groupby(responses.policy, sort=False).sum()
    out = ok.groupby("policy", sort=False).agg(**measures).reindex(failed.index)
    return out.assign(failed=failed).fillna({"ok": 0}).reset_index()


def sentence(summary: pd.DataFrame) -> str:
    """Which policy answers longest and which repeats itself most."""
    measured = summary[summary.ok > 0]
    if measured.empty:
        return "No response has been measured."
    unit = "tokens" if measured.mean_tokens.notna().all() else "characters"
    longest = measured.loc[measured[f"mean_{unit}"].idxmax()]
    same = measured.loc[(measured.distinct / measured.ok).idxmin()]
    return (
        f"{longest.policy} answers longest ({longest[f'mean_{unit}']:.1f} {unit} on average); {same.policy} repeats "
        f"itself most: {int(same.distinct):,} different texts in {int(same.ok):,} responses."
    )


def definitions(all_policies: Mapping[str, Policy]) -> pd.DataFrame:
    """What each policy is: model, example turns, what it stands for, and the start of its fingerprint; of an imported
    policy only its description."""
    rows = []
    for p in all_policies.values():
        more = (p.params.model, len(p.params.examples), p.fingerprint[:8]) if not p.is_imported else (None, None, None)
        rows.append((p.name, p.params.description, *more))
    return pd.DataFrame(rows, columns=["policy", "what it is", "model", "example turns", "fingerprint"])
