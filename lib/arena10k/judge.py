"""The judge: a model that grades responses, once deterministically and once with uncertainty.

Both modes ask for the next token after a fixed text and read the probabilities of the rating tokens. Response text
goes in as one JSON string, so quotes, line ends and control tokens in it stay data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import pandas as pd

from arena10k.client import COMPLETIONS, Request
from arena10k.config import JudgeParams, Params
from arena10k.errors import invalid
from arena10k.jobs import DETERMINISTIC, JUDGE, RESPONSES, UNCERTAINTY, contexts
from arena10k.policies import digest
from arena10k.store import Store
from arena10k.tasks import Measurement, Task


def tasks(params: Params, prompts: pd.DataFrame, store: Store) -> Iterator[Task]:
    """One task per response to grade and mode; only the first `judge.draws` draws of each policy are graded."""
    judge = params.judge
    if judge is None:
        return
    by_id, current = prompts.set_index("prompt_id"), contexts(params)
    for row in store.rows(RESPONSES):
        if row["status"] != "ok" or row["draw"] >= judge.draws:
            continue
        prompt = by_id.loc[row["prompt_id"]]
        for job, texts in _requests(judge, prompt, row["value"]).items():
            context = current[job, row["policy"]]
            yield Task(
                job, row["prompt_id"], digest([context, row["policy"], row["draw"], texts]), row["policy"], row["draw"],
                row["fingerprint"], context, judge.provider, judge.model,
                tuple(_request(judge, text) for text in texts), partial(_read, judge, job),
            )  # fmt: skip


def _requests(judge: JudgeParams, prompt: pd.Series, response: str) -> dict[str, list[str]]:
    """The texts each mode sends: the worked examples in their own order, and for uncertainty in every listed order."""
    reference = "" if pd.isna(prompt["answer"]) else prompt["answer"]
    texts = {"prompt": prompt["prompt"], "response": response, "reference": reference}
    case = judge.case.format(**{name: _quoted(text, judge.max_response_chars) for name, text in texts.items()})
    orders = judge.orders or (tuple(range(len(judge.examples))),)
    head = [judge.intro] if judge.intro else []
    texts = ["\n".join([*head, *(judge.examples[i] for i in order), case]) for order in orders]
    return {DETERMINISTIC: texts[:1], UNCERTAINTY: texts}


def _quoted(text: str, limit: int) -> str:
    """One line, as a JSON string: quotes and line ends in it cannot pass for the grader's own."""
    return json.dumps(" ".join(text.split())[:limit], ensure_ascii=False)


def _request(judge: JudgeParams, text: str) -> Request:
    body = {"model": judge.model, "prompt": text, "max_tokens": 1, "temperature": 0, "logprobs": judge.top_logprobs}
    return Request(COMPLETIONS, body)


def _read(judge: JudgeParams, job: str, answers: list[dict[str, Any]]) -> Measurement:
    readings = [read_answer(judge, answer) for answer in answers]
    value, variance = (rating(readings[0]), 0.0) if job == DETERMINISTIC else expectation(readings)
    return Measurement(value, {"variance": variance, "readings": readings})


def read_answer(judge: JudgeParams, answer: dict[str, Any]) -> list[tuple[float, float]]:
    """The rating distribution of one answer: pairs (score, probability) over the captured mass, probabilities sum to 1.

    Raises CallError (kind ``invalid``): ``no_ratings`` where no rating token is among the top tokens, ``low_mass``
    where the ratings hold less than `judge.min_mass` of the probability.
    """
    try:
        top = answer["choices"][0]["logprobs"]["top_logprobs"][0]
    except (KeyError, IndexError, TypeError) as error:
        raise invalid("no_ratings", "the answer has no top_logprobs") from error
    found = {token: math.exp(top[token]) for token in judge.ratings if token in top}
    mass = math.fsum(found.values())
    if not found:
        raise invalid("no_ratings", f"none of {sorted(judge.ratings)} is among the top {len(top)} tokens")
    if mass < judge.min_mass:
        raise invalid("low_mass", f"the rating tokens hold {mass:.3f} of the probability, {judge.min_mass} is asked")
    return [(judge.ratings[token], p / mass) for token, p in found.items()]


def rating(reading: list[tuple[float, float]]) -> float:
    """The one rating of a T = 0 answer: the most probable (the lower on a tie)."""
    return max(sorted(reading), key=lambda pair: pair[1])[0]


def expectation(readings: list[list[tuple[float, float]]]) -> tuple[float, float]:
    """Mean score over the rating distributions, and the variance of that mean between them (0 for one reading)."""
    means = [math.fsum(score * p for score, p in reading) for reading in readings]
    mean = math.fsum(means) / len(means)
    if len(means) < 2:
        return mean, 0.0
    return mean, math.fsum((m - mean) ** 2 for m in means) / (len(means) - 1) / len(means)


def summary(store: Store) -> pd.DataFrame:
    """Per mode: records ok and failed, mean score, the most frequent score and its share.

    A mode share near 1 of a continuous score is how an invalid key once looked.
    """
    rows = []
    for job in JUDGE:
        scores = pd.Series([r["value"] for r in store.rows(job) if r["status"] == "ok"], dtype=float)
        failed = sum(1 for r in store.rows(job) if r["status"] == "error")
        most = scores.mode().iloc[0] if len(scores) else None
        share = float((scores == most).mean()) if len(scores) else None
        mode = job.removeprefix("judge_")
        row = {"mode": mode, "ok": len(scores), "failed": failed, "mean": scores.mean() if len(scores) else None}
        rows.append(row | {"distinct": scores.nunique(), "most_frequent": most, "mode_share": share})
    return pd.DataFrame(rows)
