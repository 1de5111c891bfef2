"""Ratings: what a grader's answer says, read strictly. An answer that is not a rating is an error, never a number."""

from __future__ import annotations

import json
import math
import re
from statistics import NormalDist
from typing import Any

from arena10k.collection.answers import chat_response
from arena10k.collection.echo import check_logprobs
from arena10k.errors import CallError, invalid
from arena10k.params.judge import ChatGrader, ChatJudge, CompletionJudge

#: Pairs (score in [0, 1], probability) whose probabilities sum to 1.
Reading = list[tuple[float, float]]

_NUMBER = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?")
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)


def read_completion(judge: CompletionJudge, answer: dict[str, Any]) -> Reading:
    """The rating distribution of the token that follows a completion judge's text.

    Raises CallError (kind ``invalid``): ``no_ratings`` where no rating token is among the top tokens, ``low_mass``
    where the ratings hold less than `judge.min_mass` of the probability, and a code of `check_logprobs`.
    """
    try:
        top = answer["choices"][0]["logprobs"]["top_logprobs"][0]
        named = [token for token in judge.ratings if token in top]
        logprobs = check_logprobs([top[token] for token in named])
    except (KeyError, IndexError, TypeError) as error:
        raise invalid("no_ratings", "the answer has no top_logprobs") from error
    pairs = [(judge.ratings[token], math.exp(value)) for token, value in zip(named, logprobs, strict=True)]
    return _normalised(pairs, judge.min_mass, sorted(judge.ratings), len(top))[0]


def read_rating(grader: ChatGrader, answer: dict[str, Any]) -> tuple[float, str]:
    """The score in [0, 1] of an answer of the form `{"rating": n}` or `n`, and its raw text.

    Raises CallError (kind ``invalid``): ``unparsable_rating`` for every other form (prose, several numbers, a number
    cut off at the token limit), ``rating_out_of_scale`` for a number that is not on the scale.
    """
    text, cut = _text(answer)
    numbers = _numbers(text, ("rating",))
    if numbers is None:
        bare = _NUMBER.fullmatch(text.strip())
        if not bare or cut:
            raise _unparsable(grader, text, cut)
        numbers = {"rating": float(bare.group())}
    return _on_scale(grader, numbers["rating"], text, grader.numbers == "whole"), text


def read_interval(judge: ChatJudge, answer: dict[str, Any]) -> tuple[float, float, str]:
    """Score, variance and raw text of an answer of the form `{"rating": n, "low": l, "high": h}`: the interval is taken
    for the central `judge.interval_confidence` of a normal distribution.

    Raises CallError as `read_rating` does, with ``unparsable_rating`` also for an interval without the rating.
    """
    text, cut = _text(answer)
    numbers = _numbers(text, ("rating", "low", "high"))
    if numbers is None:
        raise _unparsable(judge, text, cut)
    rating = _on_scale(judge, numbers["rating"], text, judge.numbers == "whole")
    low, high = (_on_scale(judge, numbers[end], text, False) for end in ("low", "high"))
    if not low <= rating <= high:
        raise invalid("unparsable_rating", f"the interval does not hold the rating: {text!r:.200}")
    width_in_sd = 2 * NormalDist().inv_cdf((1 + judge.interval_confidence) / 2)
    return rating, ((high - low) / width_in_sd) ** 2, text


def read_distribution(judge: ChatJudge, answer: dict[str, Any]) -> tuple[Reading, float, str]:
    """The distribution over the rating tokens at the first position of a chat answer, the mass they hold, and the text.

    Raises CallError (kind ``invalid``) with ``no_ratings`` or ``low_mass`` as `read_completion` does, and with a code
    of `check_logprobs`.
    """
    text, _ = _text(answer)
    try:
        top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        tokens, logprobs = [entry["token"].strip() for entry in top], [entry["logprob"] for entry in top]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise invalid("no_ratings", f"the answer has no top_logprobs: {text!r:.200}") from error
    pairs = list(zip(tokens, map(math.exp, check_logprobs(logprobs)), strict=True))
    low, high = judge.scale
    ratings = {str(n): (n - low) / (high - low) for n in range(int(low), int(high) + 1)}
    by_rating: dict[str, list[float]] = {}
    for token, p in pairs:  # "7" and " 7" are two tokens of one rating
        by_rating.setdefault(token, []).append(p)
    pooled = [(score, math.fsum(by_rating[rating])) for rating, score in ratings.items() if rating in by_rating]
    return *_normalised(pooled, judge.min_mass, list(ratings), len(top)), text


def _normalised(pairs: Reading, min_mass: float, ratings: list[str], size: int) -> tuple[Reading, float]:
    mass = math.fsum(p for _, p in pairs)
    if not pairs:
        raise invalid("no_ratings", f"none of {ratings} is among the top {size} tokens")
    if not mass >= min_mass:
        raise invalid(
            "low_mass",
            f"the rating tokens hold {mass:.3f} of the probability, {min_mass} is asked: lower judge.min_mass, or word "
            "judge.case so that the next token is a rating",
        )
    return [(score, p / mass) for score, p in pairs], mass


def mode_of(reading: Reading) -> float:
    """The one rating of a T = 0 answer: the most probable (the lower on a tie)."""
    return max(sorted(reading), key=lambda pair: pair[1])[0]


def expectation(reading: Reading) -> float:
    """Mean score of a rating distribution."""
    return math.fsum(score * p for score, p in reading)


def mean(scores: list[float]) -> tuple[float, float]:
    """Mean of repeated scores, and the variance of that mean (0 for one score)."""
    centre = math.fsum(scores) / len(scores)
    if len(scores) < 2:
        return centre, 0.0
    return centre, math.fsum((s - centre) ** 2 for s in scores) / (len(scores) - 1) / len(scores)


def _text(answer: dict[str, Any]) -> tuple[str, bool]:
    """The answer's text, and whether it was cut off at the token limit."""
    response = chat_response([answer], token_ids=False)
    return str(response.value), response.payload["finish_reason"] == "length"


def _numbers(text: str, keys: tuple[str, ...]) -> dict[str, float] | None:
    """The numbers of a JSON object (alone or fenced) that has exactly these keys, each once; None for anything else."""
    fenced = _FENCE.fullmatch(text.strip())
    try:
        pairs = json.loads(fenced.group(1) if fenced else text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None
    # A JSON object is now a list of pairs; a JSON array is told from it by its items.
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        return None
    if sorted(key for key, _ in pairs) != sorted(keys) or any(type(n) not in (int, float) for _, n in pairs):
        return None
    return dict(pairs)


def _on_scale(grader: ChatGrader, number: float, text: str, whole: bool) -> float:
    low, high = grader.scale
    if not low <= number <= high or (whole and number != int(number)):
        raise invalid("rating_out_of_scale", f"{number!r:.40} is not {grader.range_words}: {text!r:.200}")
    return (number - low) / (high - low)


def _unparsable(grader: ChatGrader, text: str, cut: bool) -> CallError:
    if not cut:
        return invalid("unparsable_rating", f"the answer is not in the form that was asked for: {text!r:.200}")
    key = "judge" if isinstance(grader, ChatJudge) else "oracle.grader"
    return invalid(
        "unparsable_rating",
        f"the answer is cut off at max_tokens: raise {key}.max_tokens ({grader.max_tokens} now), or name a {key}.model "
        f"that answers in the form that is asked for: {text!r:.200}",
    )
