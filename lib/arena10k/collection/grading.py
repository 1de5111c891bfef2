"""What a grader is asked: the text of a case and the requests that measure one score.

Text to be graded goes in as one JSON string, so quotes, line ends and control tokens in it stay data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from arena10k.collection.tasks import CHAT, COMPLETIONS, Request
from arena10k.inputs.policies import unit_hash
from arena10k.params.judge import MAX_CHARS, ChatGrader, ChatJudge, CompletionJudge
from arena10k.params.provider import Capabilities

#: prompt, response and reference of one case.
Texts = Mapping[str, str]


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
    filled = completion_texts(grader, texts)[uncertain]
    body = {"model": grader.model, "max_tokens": 1, "temperature": 0, "logprobs": grader.top_logprobs}
    return tuple(Request(COMPLETIONS, body | {"prompt": text}) for text in filled)


def completion_texts(judge: CompletionJudge, texts: Texts) -> dict[bool, list[str]]:
    """What a completion judge is to complete, by whether it is for the uncertainty mode: the worked examples in their
    own order, and for uncertainty in every listed order."""
    case = judge.case.format(**{name: _one_line(text) for name, text in texts.items()})
    orders = judge.orders or (tuple(range(len(judge.examples))),)
    head = [judge.intro] if judge.intro else []
    filled = ["\n".join([*head, *(judge.examples[i] for i in order), case]) for order in orders]
    return {False: filled[:1], True: filled}


def _one_line(text: str) -> str:
    """One line, cut, as a JSON string: quotes and line ends in it cannot pass for the grader's own."""
    return json.dumps(" ".join(text.split())[:MAX_CHARS], ensure_ascii=False)


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
