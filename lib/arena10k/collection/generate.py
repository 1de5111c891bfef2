"""Responses: every draw of every policy, with token ids and generation log-probs where the endpoint gives them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pandas as pd

from arena10k.collection.echo import check_logprobs, only_choice, token_bytes
from arena10k.collection.jobs import RESPONSES, contexts
from arena10k.collection.store import Store
from arena10k.collection.tasks import CHAT, COMPLETIONS, Measurement, Request, Task, refuse
from arena10k.errors import invalid
from arena10k.inputs.chat_templates import ChatTemplate
from arena10k.inputs.policies import Policy, digest, policies
from arena10k.params.config import Params
from arena10k.params.provider import Capabilities

#: What endpoints say of an answer that ended by itself; one that was cut off says ``length``.
ENDED = ("stop", "eos")
#: Answers that are remembered while collecting, to notice one that is given twice.
REMEMBERED = 4096
DUPLICATE = "duplicate_answer"


def tasks(params: Params, prompts: pd.DataFrame) -> Iterator[Task]:
    """One task per policy, draw and prompt: by the second draw a server that caches prompts knows them all."""
    current, seen = contexts(params), Replays()
    for policy in (p for p in policies(params).values() if not p.is_imported):
        can = params.providers[policy.params.provider].capabilities
        context = current[RESPONSES, policy.name]
        for draw in range(params.responses.draws):
            for row in prompts.itertuples():
                seed = policy.seed(params.seed, row.prompt_id, draw)
                request, read = _asked(policy, row.prompt, seed, can)
                key = digest([context, policy.name, draw, request.body if request else row.prompt])
                yield Task(
                    RESPONSES, row.prompt_id, key, policy.name, draw,
                    policy.fingerprint, context, policy.params.provider, policy.params.model,
                    (request,) if request else (), partial(seen.read, read, request) if request else read,
                )  # fmt: skip


def _asked(policy: Policy, prompt: str, seed: int, can: Capabilities) -> tuple[Request | None, Any]:
    """What is sent for a response, and what reads the answer."""
    if not policy.template:
        body = {"messages": policy.messages(prompt), "logprobs": True} | _sampling(policy, seed, can)
        if can.token_ids:
            body["return_token_ids"] = True
        return Request(CHAT, body), partial(read_answer, token_ids=can.token_ids)
    if found := policy.control_token(prompt):
        return None, partial(refuse, "control_token_in_text", f"the prompt holds {found}: the model would obey it")
    rendered = policy.rendered(prompt)
    body = {"prompt": rendered, "logprobs": 1, "stop": [policy.template.end_of_turn]}
    read = partial(read_text_answer, rendered=rendered, template=policy.template)
    return Request(COMPLETIONS, body | _sampling(policy, seed, can)), read


def _sampling(policy: Policy, seed: int, can: Capabilities) -> dict[str, Any]:
    p = policy.params
    sampling = {"model": p.model, "max_tokens": p.max_tokens, "temperature": p.temperature, "top_p": p.top_p}
    return sampling | ({"seed": seed} if can.seed else {})


def read_answer(answers: list[dict[str, Any]], token_ids: bool) -> Measurement:
    """Check a chat answer (the only one) and read the response from it; the text is never stripped and may be empty.

    Raises CallError (kind ``invalid``) with the code of the check that failed.
    """
    (answer,) = answers
    choice, usage = only_choice(answer), answer.get("usage") or {}
    text = (choice.get("message") or {}).get("content")
    if not isinstance(text, str):
        raise invalid("no_text", "the answer's message has no text content")
    payload: dict[str, Any] = {"finish_reason": _finished(choice)}
    entries = (choice.get("logprobs") or {}).get("content") or None  # an empty list says nothing of a text
    if entries is not None:
        payload["token_logprobs"] = check_logprobs([e.get("logprob") for e in entries])
    if token_ids:
        payload |= _token_ids(answer, choice, entries, usage)
    return Measurement(text, payload)


def read_text_answer(answers: list[dict[str, Any]], rendered: str, template: ChatTemplate) -> Measurement:
    """Check an answer (the only one) to text that was rendered here; the response is kept as it came.

    The rendered prompt is stored with it: it is what the response is scored after. `end_scored` says whether the
    log-probs include that of the end of the turn.

    Raises CallError (kind ``invalid``) with the code of the check that failed.
    """
    (answer,) = answers
    choice = only_choice(answer)
    text = choice.get("text")
    if not isinstance(text, str):
        raise invalid("no_text", "the answer's choice has no text")
    why = _finished(choice)
    if found := template.control_token(text):
        raise invalid("control_token_in_text", f"the response holds {found}: in text it cannot be scored as what it is")
    spelled = _spelled(choice.get("logprobs") or {}, text, template.end_of_turn)
    return Measurement(text, {"finish_reason": why, "prompt_text": rendered, **spelled})


def _finished(choice: dict[str, Any]) -> str:
    """Why an answer ended: by itself (`ENDED`) or at its length; a filter, for one, leaves a text that nobody said."""
    why = choice.get("finish_reason")
    if why not in (*ENDED, "length"):
        raise invalid("finish_reason", f"finish_reason {why!r} does not say whether the response ended or was cut off")
    return str(why)


def _spelled(logprobs: dict[str, Any], text: str, end: str) -> dict[str, Any]:
    """The log-probs of the tokens that spell the response, with or without the end of the turn."""
    values, tokens = logprobs.get("token_logprobs"), logprobs.get("tokens")
    if values is None or tokens is None or any("\ufffd" in token for token in tokens):
        return {}
    if len(values) != len(tokens):
        raise invalid("length_mismatch", f"{len(tokens)} tokens with {len(values)} log-probs")
    said = b"".join(token_bytes(tokens))
    if said not in (text.encode(), (text + end).encode()):
        raise invalid("ids_mismatch", "the generated tokens do not spell the response: its text was changed")
    # An end of turn that is not shown is a last token without text.
    ended = said != text.encode() or (bool(tokens) and not tokens[-1])
    return {"token_logprobs": check_logprobs(values), "end_scored": ended}


def answer_digest(text: str | float, logprobs: list[float] | None) -> str | None:
    """What two answers share only when one of them is a replay; None where chance could do it (under four tokens, or
    one value throughout)."""
    if not logprobs or len(logprobs) < 4 or len(set(logprobs)) == 1:
        return None
    return digest([text, logprobs])


class Replays:
    """Notices an answer that was given before, to another prompt: the server replays. Remembers a bounded number."""

    def __init__(self, size: int = REMEMBERED):
        self._size = size
        self._seen: OrderedDict[str, str] = OrderedDict()

    def read(
        self, read: Callable[[list[dict[str, Any]]], Measurement], request: Request, answers: list[dict[str, Any]]
    ) -> Measurement:
        """What `read` makes of the answers. Raises CallError with code ``duplicate_answer``; the detail ends in the
        answer's digest, so that `screening.scan` finds the row that was stored first."""
        measured = read(answers)
        key = answer_digest(measured.value, measured.payload.get("token_logprobs"))
        if key is None:
            return measured
        asked = digest(request.body.get("messages", request.body.get("prompt")))
        if self._seen.setdefault(key, asked) != asked:
            raise invalid(DUPLICATE, f"text and log-probs are those of an answer to another prompt: {key}")
        if len(self._seen) > self._size:
            self._seen.popitem(last=False)
        return measured


def _token_ids(
    answer: dict[str, Any], choice: dict[str, Any], entries: list[Any] | None, usage: dict[str, Any]
) -> dict[str, list[int]]:
    prompt_ids, ids = answer.get("prompt_token_ids"), choice.get("token_ids")
    if not prompt_ids or ids is None:
        raise invalid("no_token_ids", "the endpoint is declared to return token ids and did not")
    if any(type(i) is not int for i in (*prompt_ids, *ids)):
        raise invalid("no_token_ids", "what stands for token ids are not whole numbers")
    if entries is not None and len(ids) != len(entries):
        raise invalid("length_mismatch", f"{len(ids)} token ids with {len(entries)} log-probs")
    if usage.get("prompt_tokens") != len(prompt_ids):
        raise invalid(
            "length_mismatch", f"usage counts {usage.get('prompt_tokens')} prompt tokens, got {len(prompt_ids)} ids"
        )
    return {"prompt_token_ids": prompt_ids, "token_ids": ids}


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
    unit = "tokens" if known.mean_tokens.notna().all() else "characters"
    long, same = known.loc[known[f"mean_{unit}"].idxmax()], known.loc[(known.distinct / known.ok).idxmin()]
    length = f"{long[f'mean_{unit}']:.1f} {unit}"
    return (
        f"{long.policy} answers longest ({length} on average); {same.policy} repeats itself most: "
        f"{int(same.distinct):,} different texts in {int(same.ok):,} responses."
    )


def definitions(all_policies: Mapping[str, Policy]) -> pd.DataFrame:
    """What each policy is: model, example turns, what it stands for, and the start of its fingerprint; of an imported
    policy only its description."""
    return pd.DataFrame(
        [
            {
                "policy": p.name,
                "what it is": p.params.description,
                "model": None if p.is_imported else p.params.model,
                "example turns": None if p.is_imported else len(p.params.examples),
                "fingerprint": None if p.is_imported else p.fingerprint[:8],
            }
            for p in all_policies.values()
        ]
    )
