"""The judge: a model that grades responses, once deterministically and once with uncertainty.

A completion judge is asked for the next token after a fixed text, and the probabilities of the rating tokens are read;
a chat judge is asked for a number. How answers are read is in `ratings`. Text to be graded goes in as one JSON string,
so quotes, line ends and control tokens in it stay data.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pandas as pd

from arena10k.collection import ratings
from arena10k.collection.jobs import DETERMINISTIC, JUDGE, ORACLE, RESPONSES, UNCERTAINTY, contexts
from arena10k.collection.store import Store
from arena10k.collection.tasks import CHAT, COMPLETIONS, Measurement, Reader, Request, Task, Watch
from arena10k.errors import FatalCallError
from arena10k.inputs.policies import digest, unit_hash
from arena10k.params.config import Params
from arena10k.params.judge import MAX_CHARS, ChatGrader, ChatJudge, CompletionJudge
from arena10k.params.sections import Capabilities

#: One score for more than this share of the first rows, and of all from then on, is not a judgment: of a continuous
#: score, and of a rubric with few values.
WATCH_FROM, CONTINUOUS_SHARE, RUBRIC_SHARE = 50, 0.5, 0.98

#: prompt, response and reference of one case.
Texts = Mapping[str, str]


def tasks(params: Params, prompts: pd.DataFrame, store: Store) -> Iterator[Task]:
    """One task per response to grade and mode; only the first `judge.draws` draws of each policy are graded."""
    judge = params.judge
    if judge is None:
        return
    by_id, current = prompts.set_index("prompt_id"), contexts(params)
    for row in store.rows(RESPONSES):
        if row["status"] == "ok" and row["draw"] < judge.draws:
            texts = case_texts(by_id.loc[row["prompt_id"]], row["value"])
            for job in JUDGE:
                yield task(params, judge, job, current[job, row["policy"]], row, texts)


def case_texts(prompt: pd.Series, response: str) -> dict[str, str]:
    """What a case is filled with; a prompt without a known answer has an empty reference."""
    reference = "" if pd.isna(prompt["answer"]) else prompt["answer"]
    return {"prompt": prompt["prompt"], "response": response, "reference": reference}


def task(
    params: Params, grader: CompletionJudge | ChatGrader, job: str, context: str, row: dict[str, Any], texts: Texts
) -> Task:
    """The task of one score or label: `row` is the response's record, `context` that of the score."""
    can = params.providers[grader.provider].capabilities
    asked = requests(grader, texts, can, job == UNCERTAINTY, params.seed)
    bodies = [r.body["prompt"] if isinstance(grader, CompletionJudge) else r.body for r in asked]
    return Task(
        job, row["prompt_id"], digest([context, row["policy"], row["draw"], bodies]), row["policy"], row["draw"],
        row["fingerprint"], context, grader.provider, grader.model, asked, _reader(grader, job),
    )  # fmt: skip


def requests(
    grader: CompletionJudge | ChatGrader, texts: Texts, can: Capabilities, uncertain: bool = False, seed: int = 1
) -> tuple[Request, ...]:
    """The requests whose answers make one score.

    Parameters
    ----------
    texts : whole and as they are.
    uncertain : for a judge, whether its uncertainty mode is asked.
    seed : of the experiment; samples of one case differ in theirs where the endpoint takes a seed.
    """
    if isinstance(grader, ChatGrader):
        return _chat_requests(grader, texts, can, uncertain, seed)
    body = {"model": grader.model, "max_tokens": 1, "temperature": 0, "logprobs": grader.top_logprobs}
    return tuple(Request(COMPLETIONS, body | {"prompt": text}) for text in _completion_texts(grader, texts, uncertain))


def _completion_texts(judge: CompletionJudge, texts: Texts, uncertain: bool) -> list[str]:
    """The case after the worked examples in their own order and, for the uncertainty mode, in every listed order."""
    # One line, cut, as a JSON string: quotes and line ends in it cannot pass for the grader's own.
    lines = {name: " ".join(text.split())[:MAX_CHARS] for name, text in texts.items()}
    case = judge.case.format(**{name: json.dumps(line, ensure_ascii=False) for name, line in lines.items()})
    orders = judge.orders or (tuple(range(len(judge.examples))),)
    asked, head = orders if uncertain else orders[:1], [judge.intro] if judge.intro else []
    return ["\n".join([*head, *(judge.examples[i] for i in order), case]) for order in asked]


def _chat_requests(
    grader: ChatGrader, texts: Texts, can: Capabilities, uncertain: bool, seed: int
) -> tuple[Request, ...]:
    case = grader.case.format(**{name: quoted(text) for name, text in texts.items()})
    messages = [{"role": "system", "content": grader.system}] if grader.system else []
    messages.append({"role": "user", "content": f"{case}\n\n{grader.ask(uncertain)}"})
    body = {"model": grader.model, "messages": messages, "max_tokens": grader.max_tokens, "temperature": 0}
    if not uncertain or not isinstance(grader, ChatJudge) or grader.uncertainty == "interval":
        return (Request(CHAT, body),)
    if grader.uncertainty == "logprobs":
        more = {"max_tokens": 1, "logprobs": True, "top_logprobs": grader.top_logprobs}
        return (Request(CHAT, body | more),)
    sampled = body | {"temperature": grader.sample_temperature}
    seeds = [
        {"seed": int(unit_hash(seed, "judge", case, i) * 2**31)} if can.seed else {} for i in range(grader.samples)
    ]
    return tuple(Request(CHAT, sampled | own) for own in seeds)


def quoted(text: str) -> str:
    """The text as a JSON string that holds no control token of a chat template (`<|eot_id|>` and its like)."""
    return json.dumps(text, ensure_ascii=False).replace("<|", "\\u003c|").replace("|>", "|\\u003e")


def _reader(grader: CompletionJudge | ChatGrader, job: str) -> Reader:
    if isinstance(grader, CompletionJudge):
        return partial(_read_completions, grader, job)
    if job == UNCERTAINTY and isinstance(grader, ChatJudge):
        return partial(_read_uncertain, grader)
    return partial(_read_rating, grader)


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


def watch(params: Params) -> Watch:
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
            scores = f"{count} of {total} scores of {task.job} by {task.model} are {result.value:g}"
            raise FatalCallError(f"{scores} (more than {limit:.0%}): that is no judgment; fix its model, case or key")

    return look


def summary(store: Store) -> pd.DataFrame:
    """Per mode: records ok and failed, mean score, the most frequent score and its share.

    A mode share near 1 of a continuous score is how an invalid key once looked.
    """
    rows = []
    for job in JUDGE:
        records = pd.DataFrame(store.rows(job), columns=["status", "value"])
        scores = records.value[records.status == "ok"].astype(float)
        counts = scores.value_counts().sort_index(kind="stable")
        most = counts.idxmax() if len(counts) else None
        rows.append(
            {
                "mode": job.removeprefix("judge_"),
                "ok": len(scores),
                "failed": len(records) - len(scores),
                "mean": scores.mean() if len(scores) else None,
                "distinct": len(counts),
                "most_frequent": most,
                "mode_share": float(counts.max() / len(scores)) if len(scores) else None,
            }
        )
    return pd.DataFrame(rows)
