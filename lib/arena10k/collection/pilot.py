"""The pilot: the first few measurements of every kind, kept, before the first of them is made in bulk. An endpoint that
cannot score, a judge that cannot be read, a key that is not accepted then cost a few requests and no stage before them.
"""

from __future__ import annotations

from functools import partial

import pandas as pd

from arena10k.collection import generate, judge, labels, sampler, teacher_forcing
from arena10k.collection.collect import collect
from arena10k.collection.store import Store
from arena10k.errors import ArenaError
from arena10k.params.config import Params


def run(params: Params, store: Store, prompts: pd.DataFrame) -> None:
    """Ask the first tasks of every kind, in the order in which they need each other; nothing where all of them are
    there. The embedded model needs no pilot: it costs nothing. Raises ArenaError as `collect` and `check_prompts` do.
    """
    if params.recording:
        return
    labels.check_prompts(params, prompts)
    if all(params.providers[name].kind == "embedded" for name in params.asked):
        return
    kinds = {
        "responses": partial(generate.tasks, params, prompts),
        "teacher forcing": partial(teacher_forcing.tasks, params, store),
        "judge": partial(judge.tasks, params, prompts, store),
    }
    kinds |= {"oracle": partial(labels.tasks, params, prompts, store)} if params.oracle.grader else {}
    for label, tasks in kinds.items():
        collect(params, store, tasks, f"pilot: {label}", pilot=True)
        if label == "responses":
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
