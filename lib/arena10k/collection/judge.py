"""Judges: models that grade responses, each under a name, deterministically or with uncertainty.

A completion judge is asked for the next token after a fixed text, and the probabilities of the rating tokens are read;
a chat judge is asked for a number. Text to be graded goes in as one JSON string, so quotes, line ends and control
tokens in it stay data. An answer that is not a rating is an error (CallError of kind ``invalid``), never a number.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from statistics import NormalDist
from typing import Any

import pandas as pd

from arena10k.collection import ratings
from arena10k.collection.answers import chat_response
from arena10k.collection.echo import check_logprobs, generated, only_choice
from arena10k.collection.jobs import JUDGE, RESPONSES, compares, contexts, grader_of, judging
from arena10k.collection.store import Store
from arena10k.collection.tasks import CHAT, COMPLETIONS, Measurement, Reader, Request, Task, Watch
from arena10k.errors import CallError, FatalCallError, invalid
from arena10k.inputs.policies import digest, unit_hash
from arena10k.params.config import Params
from arena10k.params.judge import MAX_CHARS, AnyGrader, ChatGrader, ChatJudge, CompletionJudge, PairGrader, PairJudge
from arena10k.params.sections import Capabilities, sent

#: One score for more than this share of the first rows, and of all from then on, is not a judgment: of a continuous
#: score, and of a rubric with few values.
WATCH_FROM, CONTINUOUS_SHARE, RUBRIC_SHARE = 50, 0.5, 0.98

#: What the first answer gets.
_FIRST_WINS = {"A": 1.0, "tie": 0.5, "B": 0.0}
#: prompt, response, reference and the other response of one case.
Texts = Mapping[str, str]
#: Pairs (score in [0, 1], probability) whose probabilities sum to 1.
Reading = list[tuple[float, float]]


# What is asked


def tasks(params: Params, prompts: pd.DataFrame, store: Store) -> Iterator[Task]:
    """One task per response and judge; a judge grades only the first `draws` draws of each policy."""
    by_id, current = prompts.set_index("prompt_id").to_dict("index"), contexts(params)
    for row in responses(params, store, *judging(params)):
        for name, judge in params.judges.items():
            if row["draw"] < judge.draws and can_grade(params, judge, row):
                context = current[JUDGE + name, row["policy"]]
                yield task(params, judge, JUDGE + name, context, row, by_id[row["prompt_id"]])


def responses(params: Params, store: Store, *jobs: str) -> Iterator[dict[str, Any]]:
    """The records of responses that there are to grade; with ``other``, the logging policy's response to the prompt
    that one of `jobs` compares with, None where there is none."""
    others: dict[str, Any] = {}
    if any(compares(params, job) for job in jobs):
        first = (r for r in store.rows(RESPONSES) if r["policy"] == params.logging_policy and r["draw"] == 0)
        others = {row["prompt_id"]: row["value"] for row in first if row["status"] == "ok"}
    for row in store.rows(RESPONSES):
        # A copy of a policy shares its definition, also where the params have one of the two no longer.
        if row["status"] == "ok" and row["policy"] in params.policies:
            yield row | {"other": others.get(row["prompt_id"])}


def can_grade(params: Params, grader: AnyGrader, row: dict[str, Any]) -> bool:
    """Whether a row of `responses` has what the grader compares it with, where it compares."""
    is_pair = row["policy"] != params.logging_policy and row["other"] is not None
    return is_pair or not isinstance(grader, PairGrader)


def task(
    params: Params, grader: AnyGrader, job: str, context: str, row: dict[str, Any], prompt: dict[str, Any]
) -> Task:
    """The task of one score or label: `row` is one of `responses`, `context` that of the score. A `prompt` without a
    known answer has an empty reference."""
    reference = "" if pd.isna(prompt["answer"]) else prompt["answer"]
    texts = {"prompt": prompt["prompt"], "response": row["value"], "reference": reference}
    texts |= {"other": row["other"]} if isinstance(grader, PairGrader) else {}
    provider = params.providers[grader.provider]
    asked = requests(grader, texts, provider.capabilities, params.seed)
    read: Reader
    if isinstance(grader, CompletionJudge):
        read = partial(read_completions, grader)
    elif isinstance(grader, PairGrader):
        read = partial(read_pair, grader)
    elif isinstance(grader, ChatJudge) and grader.uncertain:
        read = partial(UNCERTAIN[grader.uncertainty], grader)
    else:
        read = partial(read_rating, grader)
    bodies = [r.body["prompt"] if isinstance(grader, CompletionJudge) else r.body for r in asked]
    return Task(
        job, row["prompt_id"], digest([context, row["policy"], row["draw"], bodies]), row["policy"], row["draw"],
        row["fingerprint"], context, grader.provider, grader.model,
        tuple(Request(r.path, sent(provider, grader, r.body), grader.model_alias) for r in asked), read,
    )  # fmt: skip


def requests(grader: AnyGrader, texts: Texts, can: Capabilities, seed: int = 1) -> tuple[Request, ...]:
    """The requests whose answers make one score of whole `texts`. Samples of one case differ in their seed, made of the
    experiment's, where the endpoint takes one."""
    if isinstance(grader, CompletionJudge):
        # One line, cut, as a JSON string: quotes and line ends in it cannot pass for the grader's own.
        lines = {name: " ".join(text.split())[:MAX_CHARS] for name, text in texts.items()}
        case = grader.case.format(**{name: json.dumps(line, ensure_ascii=False) for name, line in lines.items()})
        orders, head = grader.orders or (tuple(range(len(grader.examples))),), [grader.intro] if grader.intro else []
        asked = orders if grader.uncertain else orders[:1]
        prompts = ("\n".join([*head, *(grader.examples[i] for i in order), case]) for order in asked)
        body: dict[str, Any] = {
            "model": grader.model,
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": grader.top_logprobs,
        }
        return tuple(Request(COMPLETIONS, body | {"prompt": prompt}) for prompt in prompts)
    if isinstance(grader, PairGrader):
        swapped = {**texts, "response": texts["other"], "other": texts["response"]}
        return tuple(Request(CHAT, _asked_in_chat(grader, order, can)[1]) for order in (texts, swapped))
    case, body = _asked_in_chat(grader, texts, can)
    if not grader.uncertain or not isinstance(grader, ChatJudge) or grader.uncertainty == "interval":
        return (Request(CHAT, body),)
    if grader.uncertainty == "logprobs":
        more = {"max_tokens": 1, "logprobs": True, "top_logprobs": grader.top_logprobs}
        return (Request(CHAT, body | more),)
    body["temperature"] = grader.sample_temperature
    seeds = (int(unit_hash(seed, "judge", case, i) * 2**31) for i in range(grader.samples))
    return tuple(Request(CHAT, body | ({"seed": own} if can.seed else {})) for own in seeds)


def _asked_in_chat(grader: ChatGrader | PairGrader, texts: Texts, can: Capabilities) -> tuple[str, dict[str, Any]]:
    """The case of whole texts, and the body of its request at temperature 0."""
    case = grader.case.format(**{name: _quoted(text) for name, text in texts.items()})
    messages = [{"role": "system", "content": grader.system}] if grader.system else []
    messages.append({"role": "user", "content": f"{case}\n\n{grader.ask()}"})
    body: dict[str, Any] = {"model": grader.model, "messages": messages}
    body |= {"max_tokens": grader.max_tokens, "temperature": 0}
    if can.json_schema and "JSON" in grader.ask():
        body["response_format"] = {"type": "json_schema", "json_schema": grader.answer_schema()}
    return case, body


def _quoted(text: str) -> str:
    """The text as a JSON string that holds no control token of a chat template (`<|eot_id|>` and its like)."""
    return json.dumps(text, ensure_ascii=False).replace("<|", "\\u003c|").replace("|>", "|\\u003e")


# What an answer says


def read_completions(judge: CompletionJudge, answers: list[dict[str, Any]]) -> Measurement:
    """The rating distributions of the token that follows each text: the most probable rating (the lower on a tie), or
    the mean of the expectations with its variance. Codes: ``no_ratings`` where no rating token is among the top tokens,
    ``low_mass`` where they hold less than `judge.min_mass` of the probability, and those of `check_logprobs`."""
    readings = []
    for answer in answers:
        top = _first_candidates(answer)
        named = [token for token in judge.ratings if token in top]
        logprobs = check_logprobs([top[token] for token in named])
        pairs = [(judge.ratings[token], math.exp(value)) for token, value in zip(named, logprobs, strict=True)]
        readings.append(_normalised(pairs, judge.min_mass, sorted(judge.ratings), len(top))[0])
    if not judge.uncertain:
        mode, _ = max(sorted(readings[0]), key=lambda pair: pair[1])
        return Measurement(mode, {"variance": 0.0, "readings": readings})
    return _mean([_expectation(reading) for reading in readings], {"readings": readings})


def read_rating(grader: ChatGrader, answers: list[dict[str, Any]]) -> Measurement:
    """The score of an answer that holds one rating (see `ratings`).

    ``unparsable_rating`` where it holds none or several, or a number that may be cut off at the token limit,
    ``rating_out_of_scale`` for a number that is not on the scale.
    """
    (answer,) = answers
    text, cut = _text(answer)
    numbers = ratings.numbers(text, ("rating",), grader, cut)
    if numbers is None:
        raise _unparsable(grader, text, cut)
    score = _on_scale(grader, numbers["rating"], text, grader.numbers == "whole")
    return Measurement(score, {"variance": 0.0, "texts": [text]})


def read_pair(grader: PairGrader, answers: list[dict[str, Any]]) -> Measurement:
    """The share of both orders that the policy's response wins, a tie being a half. ``winners``: what was said in each,
    first with the policy's response as A; ``first_leads``: by how much more often the first answer wins. Codes as of
    `read_rating`."""
    winners, said = [], [_text(answer) for answer in answers]
    for text, cut in said:
        if (winner := ratings.winner(text, cut)) is None:
            raise _unparsable(grader, text, cut)
        winners.append(winner)
    first, second = (_FIRST_WINS[winner] for winner in winners)
    more = {"winners": winners, "first_leads": first + second - 1}
    return Measurement((1 + first - second) / 2, {"variance": 0.0, "texts": [text for text, _ in said], **more})


def read_samples(judge: ChatJudge, answers: list[dict[str, Any]]) -> Measurement:
    """The mean of ratings, each as by `read_rating`, with the variance of that mean."""
    rated = [read_rating(judge, [answer]) for answer in answers]
    return _mean([float(r.value) for r in rated], {"texts": [text for r in rated for text in r.payload["texts"]]})


def read_interval(judge: ChatJudge, answers: list[dict[str, Any]]) -> Measurement:
    """Score and variance of an answer of the form `{"rating": n, "low": l, "high": h}`: the interval is taken for the
    central `judge.interval_confidence` of a normal distribution. Codes as of `read_rating`, with ``unparsable_rating``
    also for an interval without the rating."""
    (answer,) = answers
    text, cut = _text(answer)
    numbers = ratings.numbers(text, ("rating", "low", "high"), judge, cut)
    if numbers is None:
        raise _unparsable(judge, text, cut)
    rating = _on_scale(judge, numbers["rating"], text, judge.numbers == "whole")
    low, high = (_on_scale(judge, numbers[end], text, False) for end in ("low", "high"))
    if not low <= rating <= high:
        raise invalid("unparsable_rating", f"the interval does not hold the rating: {text!r:.200}")
    width_in_sd = 2 * NormalDist().inv_cdf((1 + judge.interval_confidence) / 2)
    return Measurement(rating, {"variance": ((high - low) / width_in_sd) ** 2, "texts": [text]})


def read_distribution(judge: ChatJudge, answers: list[dict[str, Any]]) -> Measurement:
    """The expectation over the rating tokens at the first position of a chat answer, and the mass they hold. Codes as
    of `read_completions`."""
    (answer,) = answers
    text, _ = _text(answer)
    top, by_token = _first_candidates(answer), dict[str, list[float]]()
    if top and not any(token.strip() and text.strip().startswith(token.strip()) for token in top):
        raise invalid("no_ratings", f"the candidates {list(top)!r:.80} are not those of the answer {text!r:.80}")
    for token, value in zip(top, check_logprobs(list(top.values())), strict=True):
        by_token.setdefault(token.strip(), []).append(math.exp(value))  # "7" and " 7" are two tokens of one rating
    low, high = judge.scale
    scores = {str(n): (n - low) / (high - low) for n in range(int(low), int(high) + 1)}
    pooled = [(score, math.fsum(by_token[rating])) for rating, score in scores.items() if rating in by_token]
    reading, mass = _normalised(pooled, judge.min_mass, list(scores), len(top))
    # The expectation is read, not sampled: asked again it is the same.
    payload = {"variance": 0.0, "mass": mass, "readings": [reading], "texts": [text]}
    return Measurement(_expectation(reading), payload)


#: What reads the answers of each uncertainty mode of a chat judge.
UNCERTAIN = {"samples": read_samples, "interval": read_interval, "logprobs": read_distribution}


def _first_candidates(answer: dict[str, Any]) -> dict[str, Any]:
    """Candidates for the first token of an answer (token -> nats), one that is listed twice once."""
    try:
        return dict(generated(only_choice(answer))[2][0])
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        detail = "the answer has no top_logprobs: `form: chat` with `uncertainty: samples` or `interval` needs none"
        raise invalid("no_ratings", detail) from error


def _normalised(pairs: Reading, min_mass: float, ratings: list[str], size: int) -> tuple[Reading, float]:
    mass = math.fsum(p for _, p in pairs)
    if not pairs:
        raise invalid("no_ratings", f"none of {ratings} is among the top {size} tokens")
    if mass > 1.001:
        detail = f"the probabilities of the rating tokens add up to {mass:.3g}: what stands for log-probs are none"
        raise invalid("no_ratings", detail)
    if not mass >= min_mass:
        raise invalid(
            "low_mass",
            f"the rating tokens hold {mass:.3f} of the probability, {min_mass} is asked: lower judge.min_mass, or word "
            "judge.case so that the next token is a rating",
        )
    return [(score, p / mass) for score, p in pairs], mass


def _expectation(reading: Reading) -> float:
    return math.fsum(score * p for score, p in reading)


def _mean(scores: list[float], payload: dict[str, Any]) -> Measurement:
    """Mean of repeated scores, and the variance of that mean (0 for one score)."""
    n = len(scores)
    centre = math.fsum(scores) / n
    variance = math.fsum((s - centre) ** 2 for s in scores) / (n - 1) / n if n > 1 else 0.0
    return Measurement(centre, {"variance": variance, **payload})


def _text(answer: dict[str, Any]) -> tuple[str, bool]:
    """The answer's text, and whether it was cut off at the token limit."""
    response = chat_response([answer], token_ids=False)
    return str(response.value), response.payload["finish_reason"] == "length"


def _on_scale(grader: ChatGrader, number: float, text: str, whole: bool) -> float:
    low, high = grader.scale
    if not low <= number <= high or (whole and number != int(number)):
        raise invalid("rating_out_of_scale", f"{number!r:.40} is not {grader.range_words}: {text!r:.200}")
    return (number - low) / (high - low)


def _unparsable(grader: ChatGrader | PairGrader, text: str, cut: bool) -> CallError:
    what = "the answer is not in the form that was asked for"
    if cut:
        key = "judge" if isinstance(grader, ChatJudge | PairJudge) else "oracle.grader"
        what = f"the answer is cut off at max_tokens: raise {key}.max_tokens ({grader.max_tokens} now), or name a "
        what += f"{key}.model that answers in the form that is asked for"
    return invalid("unparsable_rating", f"{what}: {text!r:.200}")


# What the scores look like


def watch(params: Params) -> Watch:
    """A watcher for `collect` that stops a run whose grader gives one value whatever it is shown; counts anew at each
    call. It raises FatalCallError with job, value and share."""
    seen: Counter[tuple[str, str | float]] = Counter()
    totals: Counter[str] = Counter()

    def look(task: Task, result: Measurement) -> None:
        grader = grader_of(params, task.job)
        totals[task.job] += 1
        seen[task.job, result.value] += 1
        total, count = totals[task.job], seen[task.job, result.value]
        few = grader is not None and grader.few_ratings()
        limit = RUBRIC_SHARE if few else CONTINUOUS_SHARE
        if total >= WATCH_FROM and count > limit * total:
            scores = f"{count} of {total} scores of {task.job} by {task.model} are {result.value:g}"
            raise FatalCallError(f"{scores} (more than {limit:.0%}): that is no judgment; fix its model, case or key")

    return look


def summary(params: Params, store: Store) -> pd.DataFrame:
    """Per judge: records ok and failed, mean score, the most frequent score and its share. A share near 1 of a
    continuous score is how an invalid key once looked."""
    rows: list[dict[str, Any]] = []
    for job in judging(params):
        (values,) = store.columns(job, ["value"])  # an error has none
        scores = pd.Series(values, dtype=float).dropna()
        n, counts = len(scores), scores.value_counts().sort_index(kind="stable")
        rows.append({"judge": job.removeprefix(JUDGE), "ok": n, "failed": len(values) - n})
        rows[-1] |= {"mean": scores.mean() if n else None, "distinct": len(counts)}
        rows[-1] |= {"most_frequent": counts.idxmax() if n else None, "its_share": counts.max() / n if n else None}
    return pd.DataFrame(rows)
