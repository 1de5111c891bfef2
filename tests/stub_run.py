"""A run of two policies on the stub server: its params file, and its collections."""

from __future__ import annotations

import math
import multiprocessing
import os
import warnings
from contextlib import contextmanager
from functools import partial

import yaml

from arena10k import paths
from arena10k.collection import generate, teacher_forcing
from arena10k.collection.collect import collect
from arena10k.collection.jobs import contexts
from arena10k.collection.records import Record
from arena10k.collection.store import Store
from arena10k.inputs import prompts
from arena10k.inputs.policies import policies
from arena10k.params.config import load
from arena10k.pipeline import stages
from stub_server import MODEL, unit


def make_params(folder, url, n_prompts=12, draws=2, **provider):
    """A params file of two policies on the stub, with a prompts file of its own."""
    lines = [f'{{"prompt_id": "p{i:04d}", "prompt": "question {i}"}}' for i in range(n_prompts)]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    can = {"token_ids": True, "echo_logprobs": True}
    params = {
        "run": "stub",
        "providers": {"stub": {"base_url": url, "capabilities": can, "timeout_seconds": 5.0, **provider}},
        "policies": {name: {"provider": "stub", "model": MODEL} for name in ("p0", "pi_clone")},
        "prompts": {"source": "jsonl", "path": str(folder / "prompts.jsonl")},
        "responses": {"draws": draws},
    }
    path = folder / "stub.yaml"
    path.write_text(yaml.safe_dump(params))
    return load(path)


def judge_in_one_token(body, _=0):
    """A fault for the stub: asked for a completion, it answers with the probabilities of the ratings 1 and 0."""
    if not isinstance(body.get("prompt"), str):
        return None
    top = {"1": math.log(p := 0.1 + 0.8 * unit(body["prompt"])), "0": math.log(1 - p)}
    choice = {"index": 0, "text": "1", "finish_reason": "length", "logprobs": {"top_logprobs": [top]}}
    return {"object": "text_completion", "model": body["model"], "choices": [choice]}


def prepared(params):
    """The run's prompts, written, and its store."""
    frame, _ = prompts.load(params)
    prompts.write(params, frame)
    return frame, Store.open(paths.store_file(params.run))


def opened(params):
    """The run's prompts, written, and its store as stages use it: only records made under its definitions."""
    frame, store = prepared(params)
    return frame, store.using(contexts(params).values())


def made(params, job, policy, prompt_id, value, tokens, key=None, context=None):
    """A record of a measurement with these log-probs of its tokens."""
    payload = {"token_logprobs": tokens, "response_tokens": len(tokens)}
    own = {"fingerprint": policies(params)[policy].fingerprint, "context": context or contexts(params)[job, policy]}
    key = key or f"{policy}-{prompt_id}"
    return Record(job, prompt_id, key, policy, 0, **own, status="ok", value=value, payload=payload)


def past_the_prompts(params):
    """The run as its pipeline has it after the stage that chooses the prompts."""
    prepared(params)[1].close()
    for done in (stages.page_file(params.run, "01_prompts"), stages.stamp_file(params.run, "01_prompts")):
        done.parent.mkdir(parents=True, exist_ok=True)
        done.write_text("{}")


def run_responses(params, **options):
    frame, store = prepared(params)
    return store, collect(params, store, partial(generate.tasks, params, frame), "responses", **options)


def run_scores(params, store, **options):
    return collect(params, store, partial(teacher_forcing.tasks, params, store), "teacher forcing", **options)


@contextmanager
def forked(work, *args):
    """`work(*args)` in a process of its own, which tests may kill; it has all modules loaded already."""
    process = multiprocessing.get_context("fork").Process(target=_quietly, args=(work, args), daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads of this process are not needed there
        process.start()
    try:
        yield process
    finally:
        process.join(120)
        process.kill()


def _quietly(work, args):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    work(*args)
