"""The pilot: the first few measurements of every kind, kept, before the first of them is made in bulk. An endpoint that
cannot score, a judge that cannot be read, a key that is not accepted then cost a few requests and no stage before them.
"""

from __future__ import annotations

from functools import partial

import pandas as pd

from arena10k.collection import generate, judge, labels, teacher_forcing
from arena10k.collection.collect import collect
from arena10k.collection.store import Store
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
