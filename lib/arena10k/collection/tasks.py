"""Tasks: what is to be measured, by which requests, what came of it, and which of it is still to do.

Nothing here loads the SDK, so that whoever only reads records does not wait for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson

from arena10k.collection.jobs import Key
from arena10k.collection.records import Cell
from arena10k.collection.store import QUARANTINED, Store
from arena10k.errors import invalid

CHAT, COMPLETIONS = "/chat/completions", "/completions"
#: For forecasts of tokens and money only; nothing that is measured depends on it.
CHARACTERS_PER_TOKEN = 4
#: The first tasks of every job, provider and model are tried before any bulk work.
PREFLIGHT = 5
#: Tasks that are made and looked up together; no more, for what is in flight waits meanwhile.
_AHEAD = 32


@dataclass(frozen=True)
class Request:
    """One POST: a path below the base URL and its JSON body."""

    path: str
    body: dict[str, Any]
    #: The name that its answer carries, where it is not that of the model.
    alias: str | None = None

    @property
    def answering(self) -> str:
        """The model that its answer has to name."""
        return self.alias or str(self.body["model"])

    @property
    def prompt_tokens(self) -> int:
        """Tokens sent: exact for token ids, about four characters each for text."""
        prompt = self.body.get("prompt", self.body.get("messages"))
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
            return len(prompt)
        return len(orjson.dumps(prompt)) // CHARACTERS_PER_TOKEN

    @property
    def max_tokens(self) -> int:
        """Tokens of the answer, at most."""
        return int(self.body.get("max_tokens") or self.body.get("max_completion_tokens") or 0)


@dataclass(frozen=True)
class Measurement:
    """A checked value with what it was read from."""

    value: str | float
    payload: dict[str, Any]


#: Turns a task's answers into its measurement, or raises `CallError`.
Reader = Callable[[list[dict[str, Any]]], Measurement]


@dataclass(frozen=True)
class Task(Cell):
    """One measurement to make: requests to send (none where it is known that it cannot be made), and what reads their
    answers. `key` are the columns of its record that say what was to be measured."""

    provider: str
    model: str
    requests: tuple[Request, ...] = field(repr=False)
    read: Reader = field(repr=False)

    @property
    def key(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in Cell.__dataclass_fields__}


#: Sees every new measurement of a collection; an ArenaError that it raises stops the run.
Watch = Callable[[Task, Measurement], None]
#: Gives the tasks anew at each call, so that a hundred thousand of them are never held at once.
Tasks = Callable[[], Iterable[Task]]


def refuse(code: str, detail: str, answers: list[dict[str, Any]]) -> Measurement:
    """What reads the answers of a task that is not to be asked: `partial(refuse, code, detail)`, without requests."""
    raise invalid(code, detail)


@dataclass
class Outcome:
    """What one collection did: tasks in all, already ok, newly ok, and failed by code."""

    total: int = 0
    stored: int = 0
    ok: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    def sentence(self) -> str:
        """What is there now, in words; the same whether it was measured just now or on an earlier run."""
        if not self.total:
            return "Nothing is to be asked."
        codes = ", ".join(f"{code} {n:,}" for code, n in sorted(self.errors.items()))
        failed = f"{self.failed:,} failed: {codes}" if self.failed else "none failed"
        return f"{self.stored + self.ok:,} of {self.total:,} records are there; {failed}."


@dataclass(frozen=True)
class Again:
    """Which rows that were tried are asked again: those that failed, those whose value is quarantined. `asks` tells
    it of a row by its outcome (see `Store.outcome`)."""

    errors: bool = False
    quarantined: bool = False

    def asks(self, outcome: str | None) -> bool:
        if outcome in (None, "ok"):
            return outcome is None
        return self.quarantined if outcome == QUARANTINED else self.errors


@dataclass
class Survey:
    """What is left to do: `pending` tasks by provider, the `models` they need, the first tasks of each kind
    (`probes`), and about how many tokens the rest takes: (provider, model) -> [sent, received at most]. Tasks that are
    in a batch at their provider are pending, but they are paid for: neither probed nor counted again."""

    outcome: Outcome = field(default_factory=Outcome)
    pending: Counter[str] = field(default_factory=Counter)
    models: dict[str, set[str]] = field(default_factory=dict)
    probes: dict[Key, list[Task]] = field(default_factory=dict)
    tokens: dict[Key, list[int]] = field(default_factory=dict)


def survey(store: Store, tasks: Iterable[Task], again: Again) -> Survey:
    """Go through all tasks once, without holding them."""
    out = Survey()
    for task, outcome, batch in looked_up(store, tasks):
        out.outcome.total += 1
        if batch or again.asks(outcome):
            out.pending[task.provider] += 1
            out.models.setdefault(task.provider, set()).add(task.model)
            if not batch:
                probes = out.probes.setdefault((task.job, f"{task.provider} {task.model}"), [])
                if len(probes) < PREFLIGHT:
                    probes.append(task)
                tokens = out.tokens.setdefault((task.provider, task.model), [0, 0])
                tokens[0] += sum(request.prompt_tokens for request in task.requests)
                tokens[1] += sum(request.max_tokens for request in task.requests)
        elif outcome in ("ok", QUARANTINED):
            out.outcome.stored += 1
        elif outcome is not None:
            out.outcome.errors[outcome] += 1
    return out


def pending(store: Store, tasks: Tasks, provider: str, again: Again) -> Iterator[Task]:
    """A provider's tasks that are to be asked and not in a batch: never-tried ones first, then those asked again."""
    tried: set[Key] = set()
    for task, outcome, batch in looked_up(store, (task for task in tasks() if task.provider == provider)):
        if batch:
            continue
        if outcome is None:
            yield task
        elif again.asks(outcome):
            tried.add((task.prompt_id, task.request_hash))
    if tried:
        own = (task for task in tasks() if task.provider == provider)
        yield from (task for task in own if (task.prompt_id, task.request_hash) in tried)


def looked_up(store: Store, tasks: Iterable[Task]) -> Iterator[tuple[Task, str | None, str | None]]:
    """Tasks with their outcome and the batch that owes them, of the next few looked up together."""
    left = iter(tasks)
    while some := list(islice(left, _AHEAD)):
        standing = store.standing([task.row for task in some])
        yield from ((task, *stands) for task, stands in zip(some, standing, strict=True))
