"""The steps of a collection, and its pilot: the first few measurements of every kind, kept, before the first of them is
made in bulk. An endpoint that cannot score, a judge that cannot be read, a key that is not accepted then cost a few
requests and no stage before them.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import pandas as pd

from arena10k.collection import generate, judge, labels, sampler, teacher_forcing
from arena10k.collection.collect import collect
from arena10k.collection.jobs import LOGPROBS, ORACLE, RESPONSES, SHUFFLED, judging
from arena10k.collection.store import Store
from arena10k.collection.tasks import Tasks, Watch
from arena10k.errors import ArenaError
from arena10k.params.config import Params


class Step(NamedTuple):
    """The tasks of one kind: what they are called, their jobs, what makes them, and what sees every measurement."""

    label: str
    jobs: tuple[str, ...]
    tasks: Tasks
    watch: Watch | None = None


def steps(params: Params, store: Store, prompts: pd.DataFrame) -> list[Step]:
    """All that models are asked for, in the order in which it depends on each other."""
    made = [
        Step("responses", (RESPONSES,), partial(generate.tasks, params, prompts)),
        Step("teacher forcing", (LOGPROBS,), partial(teacher_forcing.tasks, params, store)),
        Step("shuffled-prompt control", (SHUFFLED,), partial(teacher_forcing.control_tasks, params, store)),
        Step("judge", tuple(judging(params)), partial(judge.tasks, params, prompts, store), judge.watch(params)),
        Step("oracle", (ORACLE,), partial(labels.tasks, params, prompts, store), judge.watch(params)),
    ]
    return made if params.oracle.grader else made[:-1]


def run(params: Params, store: Store, prompts: pd.DataFrame) -> None:
    """Ask the first tasks of every kind but the control; nothing where all of them are there. The embedded model needs
    no pilot: it costs nothing. Raises ArenaError as `collect` and `check_prompts` do."""
    if params.recording:
        return
    labels.check_prompts(params, prompts)
    if all(params.providers[name].kind == "embedded" for name in params.asked):
        return
    for step in steps(params, store, prompts):
        if SHUFFLED not in step.jobs:
            collect(params, store, step.tasks, f"pilot: {step.label}", pilot=True)
        if RESPONSES in step.jobs:
            _check_samplers(params, store)


def _check_samplers(params: Params, store: Store) -> None:
    """Raises ArenaError where an endpoint draws from another distribution than it reports: every weight would be
    wrong, and responses those of another policy."""
    for policy, audited in sampler.audits(params, store).items():
        if audited and audited.mismatch:
            where = f"providers.{params.policies[policy].provider}"
            raise ArenaError(
                f"pilot: responses: {policy} is not drawn from the distribution that {where} reports, but as "
                f"by {audited.best} ({audited.tokens:,} tokens, chance {audited.p_value:.1g}): say which `server` "
                f"{where} is (vllm, sglang, llama.cpp, tgi), switch its sampling off there (vLLM: --generation-config "
                "vllm) or in `extra_body`, or declare it there as part of the policy: weights are then refused"
            )
