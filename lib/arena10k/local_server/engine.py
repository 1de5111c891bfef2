"""Pipelines of the embedded model: one thread each, requests batched while others run."""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np


def openvino_modules() -> tuple[ModuleType, ModuleType]:
    """Return (openvino, openvino_genai).

    `import openvino` sends usage data unless a consent file says no, and the documented opt-out
    (`opt_in_out --opt_out`) itself sends an event and writes to the home folder. openvino falls back to an inert stub
    where `openvino_telemetry` cannot be imported, so its import is blocked in this process, before openvino's.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # None is how Python spells "not importable"
    import openvino
    import openvino_genai

    return openvino, openvino_genai


# Full precision everywhere: with the defaults, sampled and scored log-probs of a sequence differ by up to 1.4 nats.
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
CONTEXT_LENGTH = 8192
CACHE_GIGABYTES = 1
BATCHED_TOKENS = 256
#: Loading finds its tokenizer library through an environment variable that it sets and takes back: one at a time.
_LOADING = threading.Lock()
#: Seconds in which answers may be sent and the requests that follow on them be read, before the next step.
TURN = 0.01
#: Tokens per entry of the prefix cache.
BLOCK = 32


class EngineError(RuntimeError):
    """The engine failed, or returned fewer values than were asked for."""


class CachedAway(EngineError):
    """An echo lacks log-probs that were asked for, because the prefix cache held their positions."""


@dataclass(frozen=True)
class Job:
    """One request: token ids in, `max_tokens` >= 1 new tokens out.

    `seed` None means greedy. `beams` > 1 (with one new token) gives that many next tokens, most probable first. With
    `echo`, log-probs of the first `echo_from` positions are not asked for: a prefix cache may drop them.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    seed: int | None = None
    echo: bool = False
    echo_from: int = 0
    beams: int = 1


@dataclass(frozen=True)
class Sequence:
    """Token ids and their log-probs (nats, temperature 1), equally long; echoed prompts come first.

    None: a leading position of an echo that was not asked for and not measured.
    """

    ids: list[int]
    logprobs: list[float | None]


class _Active:
    def __init__(self, job: Job):
        self.job, self.future, self.handle, self.abandoned = job, Future[list[Sequence]](), cast(Any, None), False
        beginnings = _beginnings(job.prompt)
        # What is scored is not to come from a cache.
        self.prefixes = beginnings[BLOCK - 1 : job.echo_from if job.echo else None : BLOCK]
        #: The beginnings of the prompt that end within a block, and that of them which it goes on from.
        self.parts = [begun for i, begun in enumerate(beginnings, 1) if i % BLOCK]
        self.start: int | None = None

    def ends(self) -> list[int]:
        """What it leaves in the cache: its prompt and what is new but for the last token, which has no entry."""
        answered = self.future.done() and not self.future.exception()
        new = [s.ids[len(self.job.prompt) * self.job.echo : -1] for s in self.future.result()] if answered else [[]]
        return [_beginnings((*self.job.prompt, *ids))[-1] for ids in new]


def _beginnings(tokens: Iterable[int]) -> list[int]:
    """A hash of every beginning of a sequence, the shortest first."""
    return list(accumulate(tokens, lambda begun, token: hash((begun, token)), initial=0))[1:]


class Pipeline:
    """A ContinuousBatchingPipeline and the thread that owns it; it loads when the thread starts.

    Prefix caching drops the echoed log-probs of cached positions: `prefix_cache` False is for scoring whole sequences.
    """

    def __init__(self, gguf: Path, prefix_cache: bool, eos: int):
        self.gguf, self.prefix_cache, self.eos = gguf, prefix_cache, eos
        self._inbox: queue.SimpleQueue[_Active] = queue.SimpleQueue()
        self.alive = True
        threading.Thread(target=self._run, name=f"pipeline-{gguf.stem}", daemon=True).start()

    async def complete(self, job: Job) -> list[Sequence]:
        """Answer a request with one Sequence, or `beams` of them.

        Raises EngineError. Cancelling the caller takes the request out of the batch.
        """
        item = _Active(job)
        item.future.set_running_or_notify_cancel()
        self._inbox.put(item)
        if not self.alive:
            self._fail(self._arrivals(block=False), "its thread has ended")
        try:
            return await asyncio.wrap_future(item.future)
        except asyncio.CancelledError:
            item.abandoned = True
            raise

    def _run(self) -> None:
        active: list[_Active] = []
        waiting: list[_Active] = []
        cached: set[int] = set()
        parts: set[int | None] = set()  # ends of what has ended: whoever goes on from one within a block takes it away
        try:
            self._openvino, self._genai = openvino_modules()
            scheduler = self._genai.SchedulerConfig()
            scheduler.cache_size, scheduler.max_num_batched_tokens = CACHE_GIGABYTES, BATCHED_TOKENS
            scheduler.enable_prefix_caching = self.prefix_cache
            with _LOADING:
                pipeline = self._genai.ContinuousBatchingPipeline(str(self.gguf), scheduler, "CPU", EXACT)
            number = 0
            while True:
                waiting += self._arrivals(block=not (active or waiting))
                admitted, waiting = self._admit(waiting, active, cached, parts)
                for item in admitted:
                    active.append(item)
                    prompt = self._openvino.Tensor(np.array([item.job.prompt], dtype=np.int64))
                    item.handle = pipeline.add_request(number, prompt, self._config(item.job))
                    number += 1
                pipeline.step()
                cached.update(*(item.prefixes for item in active if item.handle.can_read()))  # it has its first token
                ended = [item for item in active if self._settle(item)]
                active = [item for item in active if item not in ended]
                parts.difference_update(item.start for item in ended)
                parts.update(*(item.ends() for item in ended))
                time.sleep(TURN if ended else 0)  # step() holds the interpreter lock: let the event loop have its turn
        finally:  # nobody may wait for a thread that has ended; the next request starts another
            self.alive = False  # before the last arrivals are looked for: whoever comes later sees it
            self._fail([*active, *waiting, *self._arrivals(block=False)], sys.exception())

    def _admit(
        self, waiting: list[_Active], active: list[_Active], cached: set[int], parts: set[int | None]
    ) -> tuple[list[_Active], list[_Active]]:
        """Split `waiting` into what starts now and what waits for a prompt that it begins with.

        The cache holds whole blocks. Those that several requests share and it does not hold are computed first, as a
        request of their own; none starts while blocks of its prompt are being computed. From a part of a block only one
        goes on at a time: the engine would have each of them write over the others.
        """
        waiting = [item for item in waiting if not item.abandoned]
        if not self.prefix_cache:
            return waiting, []
        admitted, later = list[_Active](), list[_Active]()
        running = {prefix for item in active for prefix in item.prefixes}
        starts = {item.start for item in active} - {None}
        sharing = Counter(prefix for item in waiting for prefix in item.prefixes)
        for item in waiting:
            fresh = [prefix for prefix in item.prefixes if prefix not in cached]
            shared = sum(sharing[prefix] > 1 for prefix in fresh)
            if fresh and fresh[0] in running:
                later.append(item)
                continue
            end, echo = BLOCK * (len(item.prefixes) - len(fresh) + shared), item.job.echo
            first = _Active(Job(item.job.prompt[:end], 1, echo=echo, echo_from=end)) if shared else item
            first.start = next((part for part in reversed(first.parts) if part in parts), None)
            waits = first.start in starts
            if waits or shared:
                later.append(item)
            if not waits:
                admitted.append(first)
                running.update(first.prefixes)
                starts |= {first.start} - {None}
        return admitted, later

    def _arrivals(self, block: bool) -> list[_Active]:
        items = [self._inbox.get()] if block else []
        while not self._inbox.empty():
            items.append(self._inbox.get())
        return [item for item in items if not item.abandoned]

    def _config(self, job: Job) -> Any:
        config = self._genai.GenerationConfig()
        config.max_new_tokens, config.echo, config.logprobs = job.max_tokens, job.echo, 1
        config.eos_token_id, config.stop_token_ids, config.apply_chat_template = self.eos, {self.eos}, False
        config.num_beams = config.num_return_sequences = job.beams
        if job.seed is not None:
            config.do_sample, config.rng_seed = True, job.seed
        return config

    def _settle(self, item: _Active) -> bool:
        """Resolve the future of a request that has ended; True when there is nothing more to do for it."""
        status, states = item.handle.get_status(), self._genai.GenerationStatus
        if item.abandoned:
            item.handle.cancel()
        elif status == states.RUNNING:
            return False
        elif status != states.FINISHED:
            item.future.set_exception(EngineError(f"the engine gave up on the request ({status.name})"))
        else:
            try:
                item.future.set_result(_sequences(item.job, item.handle.read_all()))
            except EngineError as problem:
                item.future.set_exception(problem)
        return True

    @staticmethod
    def _fail(items: list[_Active], error: object) -> None:
        for item in items:
            if not item.future.done():
                item.future.set_exception(EngineError(f"the engine failed: {error}"))


def _sequences(job: Job, outputs: list[Any]) -> list[Sequence]:
    """The engine's outputs; a value that is missing is an error, never made up.

    Raises CachedAway where the prefix cache dropped log-probs that were asked for, EngineError for anything else.
    """
    if len(outputs) != job.beams:
        raise EngineError(f"the engine returned {len(outputs)} sequences where {job.beams} were asked for")
    sequences = []
    for output in outputs:
        ids, logprobs = list(output.generated_ids), list(output.generated_log_probs)
        if job.echo and tuple(ids[: len(job.prompt)]) != job.prompt:
            raise EngineError(f"the engine did not echo the {len(job.prompt)} tokens of the prompt")
        if len(ids) <= len(job.prompt) * job.echo:
            raise EngineError("the engine returned no token")
        missing = len(ids) - len(logprobs)
        if missing < 0 or missing > job.echo_from:
            kind = CachedAway if job.echo_from else EngineError
            raise kind(f"the engine returned {len(logprobs)} log-probs for {len(ids)} tokens")
        sequences.append(Sequence(ids, [None] * missing + logprobs))
    return sequences


class Engines:
    """Pipelines by (weights, whether they score, with prefix cache or without), made when first asked for. Those that
    score are apart: beside a prompt that takes several steps, the engine reads an echo's log-probs from wrong places;
    and their cache does not hold what others have generated, which is to be scored."""

    def __init__(self, eos: int):
        self._eos = eos
        self._pipelines: dict[tuple[Path, bool, bool], Pipeline] = {}

    def get(self, gguf: Path, scores: bool = False, prefix_cache: bool = True) -> Pipeline:
        """The pipeline of these weights; a dead one is replaced."""
        pipeline = self._pipelines.get(key := (gguf, scores, prefix_cache))
        if pipeline is None or not pipeline.alive:
            pipeline = self._pipelines[key] = Pipeline(gguf, prefix_cache, self._eos)
        return pipeline
