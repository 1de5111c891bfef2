"""What collecting costs: before it begins, as far as it can be known, and what has been spent, from the records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import orjson
import pandas as pd

from arena10k import options
from arena10k.collection import judge
from arena10k.collection.jobs import LOGPROBS, ORACLE, RESPONSES, SHUFFLED, Key, expected, grader_of, judging
from arena10k.collection.tasks import CHARACTERS_PER_TOKEN, Survey
from arena10k.errors import ArenaError
from arena10k.inputs import prompts
from arena10k.params.config import Params

#: What asking in batches costs, as a share of the price of single requests.
BATCH_SHARE = 0.5


@dataclass(frozen=True)
class Bill:
    """What an experiment costs if every answer is as long as it may be: one row per job, provider and model."""

    rows: tuple[dict[str, Any], ...]

    @property
    def dollars(self) -> float:
        return sum(float(row["dollars"]) for row in self.rows)

    def table(self) -> str:
        return str(pd.DataFrame(self.rows).to_string(index=False, float_format="{:,.2f}".format))


def dollars(params: Params, provider: str, model: str, prompt_tokens: float, completion_tokens: float) -> float:
    """The price of so many tokens, US dollars; 0 for a model without a price."""
    price = params.providers[provider].prices.get(model)
    if price is None:
        return 0.0
    share = BATCH_SHARE if params.providers[provider].mode == "batch" else 1.0
    return share * (price.prompt * prompt_tokens + price.completion * completion_tokens) / 1e6


def spent(params: Params, job: str, policy: str, prompt_tokens: int, completion_tokens: int) -> float:
    """What the measurements of a job and policy have cost, from the tokens the provider counted, US dollars."""
    provider, model = _served(params, job, policy)
    return dollars(params, provider, model, prompt_tokens, completion_tokens) if provider else 0.0


def at_most(params: Params, todo: Survey) -> float:
    """What the pending tasks cost if every answer is as long as it may be, US dollars."""
    return sum(dollars(params, *served, *tokens) for served, tokens in todo.tokens.items())


def check_confirmed(params: Params, todo: Survey, label: str) -> None:
    """Refuse to spend money that nobody agreed to: ArenaError with the amount and how to agree, where the tasks cost
    something and it was not confirmed."""
    cost = at_most(params, todo)
    if cost and not options.is_on("yes"):
        raise ArenaError(
            f"{label}: {todo.pending.total():,} measurements would cost up to ${cost:,.2f}: confirm with "
            f"`--yes`, or in a notebook with %env {options.VARIABLES['yes']}=1"
        )


def forecast(params: Params, measured: Mapping[Key, int] = MappingProxyType({})) -> Bill:
    """The bill of what is left of an experiment, of which `measured` records of each (job, policy) are there and will
    not be asked for again. Text is counted at four characters per token. Raises ArenaError where the prompts cannot be
    read."""
    if params.recording or not params.is_priced:
        return Bill(())
    frame, _ = prompts.load(params)
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for (job, policy), total in expected(params, len(frame)).items():
        n = max(0, total - measured.get((job, policy), 0))
        provider, model = _served(params, job, policy)
        if provider and n:
            own = {"job": job, "provider": provider, "model": model, "measurements": 0}
            own |= {"tokens sent": 0.0, "received at most": 0.0}
            row = rows.setdefault((job, provider, model), own)
            sent, received = _size(params, job, policy, frame)
            for column, more in (("measurements", n), ("tokens sent", n * sent), ("received at most", n * received)):
                row[column] += more
    for row in rows.values():
        sent, received = row["tokens sent"], row["received at most"]
        row |= {"tokens sent": round(sent), "received at most": round(received)}
        row["dollars"] = dollars(params, row["provider"], row["model"], sent, received)
    return Bill(tuple(rows.values()))


def unit_costs(params: Params, frame: pd.DataFrame, policy: str) -> dict[str, float | None]:
    """US dollars of one more `label` and one more `draw` of `policy` at most: the draw's response and its judge scores.

    `frame` are the run's prompts, whose mean length stands for those to come. A grader or model that names no price is
    free in a run that names none anywhere, and unknown in a run that does; `estimation.label_cost` prices labels of
    people.
    """

    def price(job: str) -> float | None:
        provider, model = _served(params, job, policy)
        if not provider or not params.is_priced:
            return 0.0
        if model not in params.providers[provider].prices and params.providers[provider].kind != "embedded":
            return None
        return dollars(params, provider, model, *_size(params, job, policy, frame))

    prices = [price(RESPONSES), *(price(job) for job in judging(params) if params.judges)]
    label = params.estimation.label_cost
    return {
        "label": price(ORACLE) if label is None else label,
        "draw": None if None in prices else float(sum(filter(None, prices))),
    }


def _served(params: Params, job: str, policy: str) -> tuple[str, str]:
    """Who is asked: (provider, model); exact checkers ask nobody."""
    if job not in (RESPONSES, LOGPROBS, SHUFFLED):
        grader = grader_of(params, job)
        return (grader.provider, grader.model) if grader else ("", "")
    return params.policies[policy].provider, params.policies[policy].model


def _size(params: Params, job: str, policy: str, frame: pd.DataFrame) -> tuple[float, float]:
    """Tokens sent and received at most by one measurement on a prompt and known answer of mean length."""
    p, grader = params.policies[policy], grader_of(params, job)
    question, reference = (float(frame[name].str.len().fillna(0).mean()) for name in ("prompt", "answer"))
    if grader:
        # The requests are made as they will be, of texts of these lengths.
        response, other = (q.max_tokens * CHARACTERS_PER_TOKEN for q in (p, params.policies[params.logging_policy]))
        characters = {"prompt": question, "response": response, "reference": reference, "other": other}
        texts = {name: "x" * round(size) for name, size in characters.items()}
        asked = judge.requests(grader, texts, params.providers[grader.provider].capabilities)
        return float(sum(r.prompt_tokens for r in asked)), float(sum(r.max_tokens for r in asked))
    definition = p.model_dump(include={"system", "examples", "suffix"})
    prompt = (question + len(orjson.dumps(definition))) / CHARACTERS_PER_TOKEN
    if job in (LOGPROBS, SHUFFLED):  # prompt and response are sent, and one token is generated
        return prompt + params.policies[params.logging_policy].max_tokens, 1.0
    return prompt, float(p.max_tokens)
