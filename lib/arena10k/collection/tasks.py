"""Tasks: what is to be measured, by which requests, what came of it, and which of it is still to do.

Nothing here loads the SDK, so that whoever only reads records does not wait for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import orjson

from arena10k.collection.jobs import Key
from arena10k.collection.records import Cell
from arena10k.collection.store import QUARANTINED, Store
from arena10k.errors import invalid

CHAT, COMPLETIONS = "/chat/completions", "/completions"
#: For forecasts of tokens and money only; nothing that is measured depends on it.
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class Request:
    """One POST: a path below the base URL and its JSON body."""

    path: str
    body: dict[str, Any]

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
        return int(self.body.get("max_tokens") or 0)


#: The first tasks of every job, provider and model are tried before any bulk work.
PREFLIGHT = 5


@dataclass(frozen=True)
class Measurement:
    """A checked value with what it was read from."""

    value: str | float
    payload: dict[str, Any]


@dataclass(frozen=True)
class Task(Cell):
    """One measurement to make: requests to send (none where it is known that it cannot be made), and `read`, which
    turns their answers into a `Measurement` or raises `CallError`."""

    provider: str
    model: str
    requests: tuple[Request, ...] = field(repr=False)
    read: Callable[[list[dict[str, Any]]], Measurement] = field(repr=False)

    @property
    def key(self) -> dict[str, Any]:
        """The columns of its record that say what was to be measured."""
        return {column.name: getattr(self, column.name) for column in fields(Cell)}


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
        told = f"{self.stored + self.ok:,} of {self.total:,} records are there"
        if self.failed:
            return f"{told}; {self.failed:,} failed: {', '.join(f'{c} {n:,}' for c, n in sorted(self.errors.items()))}."
        return f"{told}; none failed."


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


@dataclass(frozen=True)
class Again:
    """Which rows that were tried are asked again: those that failed, those whose value is quarantined."""

    errors: bool = False
    quarantined: bool = False

    def asks(self, known: str | None) -> bool:
        """Whether a row of this outcome (see `Store.outcome`) is to be asked."""
        if known in (None, "ok"):
            return known is None
        return self.quarantined if known == QUARANTINED else self.errors


def survey(store: Store, tasks: Iterable[Task], again: Again) -> Survey:
    """Go through all tasks once, without holding them."""
    found = Survey()
    for task in tasks:
        found.outcome.total += 1
        known = store.outcome(*task.row)
        batched = store.batches.holding(task.row) is not None
        if batched or again.asks(known):
            found.pending[task.provider] += 1
            found.models.setdefault(task.provider, set()).add(task.model)
            if not batched:
                _note(found, task)
        elif known in ("ok", QUARANTINED):
            found.outcome.stored += 1
        elif known is not None:
            found.outcome.errors[known] += 1
    return found


def unrecorded(run: str, store: Store, tasks: Iterable[Task], again: Again, label: str) -> str:
    """What a recording lacks of `tasks`, by policy, and what to do about it."""
    lacks, total = Counter[str](), 0
    for task in tasks:
        total += 1
        lacks[task.policy] += again.asks(store.outcome(*task.row))
    told = ", ".join(f"{policy} ({n:,})" for policy, n in lacks.items() if n)
    return (
        f"run {run!r} is a recording, of which nothing is asked, and lacks {lacks.total():,} of {total:,} records of "
        f"{label} as its params define them: {told}. Put back in the params what was recorded; another policy, judge "
        "or oracle needs a run of its own, with a params file without `recording: true`"
    )


def _note(found: Survey, task: Task) -> None:
    probes = found.probes.setdefault((task.job, f"{task.provider} {task.model}"), [])
    if len(probes) < PREFLIGHT:
        probes.append(task)
    tokens = found.tokens.setdefault((task.provider, task.model), [0, 0])
    for request in task.requests:
        tokens[0] += request.prompt_tokens
        tokens[1] += request.max_tokens


def pending(store: Store, tasks: Callable[[], Iterable[Task]], provider: str, again: Again) -> Iterator[Task]:
    """A provider's tasks that are to be asked and not in a batch: never-tried ones first, then those asked again."""
    tried: set[Key] = set()
    for task in _of(tasks(), provider):
        if store.batches.holding(task.row):
            continue
        known = store.outcome(*task.row)
        if known is None:
            yield task
        elif again.asks(known):
            tried.add((task.prompt_id, task.request_hash))
    if tried:
        yield from (task for task in _of(tasks(), provider) if (task.prompt_id, task.request_hash) in tried)


def batched(store: Store, tasks: Callable[[], Iterable[Task]], provider: str) -> Iterator[tuple[str, Task]]:
    """A provider's tasks that are in a batch, each with the batch's token."""
    for task in _of(tasks(), provider):
        token = store.batches.holding(task.row)
        if token:
            yield token, task


def _of(tasks: Iterable[Task], provider: str) -> Iterator[Task]:
    return (task for task in tasks if task.provider == provider)
