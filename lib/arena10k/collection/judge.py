"""The judge: a model that grades responses, once deterministically and once with uncertainty.

A completion judge is asked for the next token after a fixed text, and the probabilities of the rating tokens are read;
a chat judge is asked for a number. What is asked is in `grading`, how answers are read in `ratings`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pandas as pd

from arena10k.collection import grading, ratings
from arena10k.collection.jobs import DETERMINISTIC, JUDGE, ORACLE, RESPONSES, UNCERTAINTY, contexts
from arena10k.collection.store import Store
from arena10k.collection.tasks import Measurement, Task
from arena10k.errors import FatalCallError
from arena10k.inputs.policies import digest
from arena10k.params.config import Params
from arena10k.params.judge import ChatGrader, ChatJudge, CompletionJudge

#: One score for more than this share of the first rows, and of all from then on, is not a judgment: of a continuous
#: score, and of a rubric with few values.
WATCH_FROM, CONTINUOUS_SHARE, RUBRIC_SHARE = 50, 0.5, 0.98


def tasks(params: Params, prompts: pd.DataFrame, store: Store) -> Iterator[Task]:
    """One task per response to grade and mode; only the first `judge.draws` draws of each policy are graded."""
    judge = params.judge
    if judge is None:
        return
    by_id, current = prompts.set_index("prompt_id"), contexts(params)
    for row in store.rows(RESPONSES):
        if row["status"] != "ok" or row["draw"] >= judge.draws:
            continue
        texts = case_texts(by_id.loc[row["prompt_id"]], row["value"])
        for job in JUDGE:
            yield task(params, judge, job, current[job, row["policy"]], row, texts)


def case_texts(prompt: pd.Series, response: str) -> dict[str, str]:
    """What a case is filled with; a prompt without a known answer has an empty reference."""
    reference = "" if pd.isna(prompt["answer"]) else prompt["answer"]
    return {"prompt": prompt["prompt"], "response": response, "reference": reference}


def task(
    params: Params, grader: CompletionJudge | ChatGrader, job: str, context: str, row: dict[str, Any],
    texts: grading.Texts,
) -> Task:  # fmt: skip
    """The task of one score or label: `row` is the response's record, `context` that of the score."""
    uncertain = job == UNCERTAINTY
    can = params.providers[grader.provider].capabilities
    requests = grading.requests(grader, texts, can, uncertain, params.seed)
    asked: list[Any] = [request.body for request in requests]
    if isinstance(grader, CompletionJudge):
        asked = [request.body["prompt"] for request in requests]
        read = partial(_read_completions, grader, job)
    elif uncertain and isinstance(grader, ChatJudge):
        read = partial(_read_uncertain, grader)
    else:
        read = partial(_read_rating, grader)
    return Task(
        job, row["prompt_id"], digest([context, row["policy"], row["draw"], asked]), row["policy"], row["draw"],
        row["fingerprint"], context, grader.provider, grader.model, requests, read,
    )  # fmt: skip


def _read_completions(judge: CompletionJudge, job: str, answers: list[dict[str, Any]]) -> Measurement:
    readings = [ratings.read_completion(judge, answer) for answer in answers]
    if job == DETERMINISTIC:
        return Measurement(ratings.mode_of(readings[0]), {"variance": 0.0, "readings": readings})
    value, variance = ratings.mean([ratings.expectation(reading) for reading in readings])
    return Measurement(value, {"variance": variance, "readings": readings})


def _read_rating(grader: ChatGrader, answers: list[dict[str, Any]]) -> Measurement:
    (answer,) = answers
    value, text = ratings.read_rating(grader, answer)
    return Measurement(value, {"variance": 0.0, "texts": [text]})


def _read_uncertain(judge: ChatJudge, answers: list[dict[str, Any]]) -> Measurement:
    if judge.uncertainty == "samples":
        scores, texts = zip(*(ratings.read_rating(judge, answer) for answer in answers), strict=True)
        value, variance = ratings.mean(list(scores))
        return Measurement(value, {"variance": variance, "texts": list(texts)})
    (answer,) = answers
    if judge.uncertainty == "interval":
        value, variance, text = ratings.read_interval(judge, answer)
        return Measurement(value, {"variance": variance, "texts": [text]})
    reading, mass, text = ratings.read_distribution(judge, answer)
    # The expectation is read, not sampled: asked again it is the same.
    payload = {"variance": 0.0, "mass": mass, "readings": [reading], "texts": [text]}
    return Measurement(ratings.expectation(reading), payload)


def watch(params: Params) -> Callable[[Task, Measurement], None]:
    """A watcher for `collect` that stops a run whose grader gives one value whatever it is shown; counts anew at each
    call.

    The watcher raises FatalCallError with job, value and share.
    """
    seen: Counter[tuple[str, str | float]] = Counter()
    totals: Counter[str] = Counter()

    def look(task: Task, result: Measurement) -> None:
        grader = params.oracle.grader if task.job == ORACLE else params.judge
        totals[task.job] += 1
        seen[task.job, result.value] += 1
        total, count = totals[task.job], seen[task.job, result.value]
        few = grader is not None and grader.few_ratings(task.job == UNCERTAINTY)
        limit = RUBRIC_SHARE if few else CONTINUOUS_SHARE
        if total >= WATCH_FROM and count > limit * total:
            told = f"{count} of {total} scores of {task.job} by {task.model} are {result.value:g}"
            raise FatalCallError(f"{told} (more than {limit:.0%}): that is no judgment; mend its model, case or key")

    return look


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
