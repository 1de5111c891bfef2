"""Speed of collection against a local server that takes 50 ms for an answer, 64 requests in flight.

    python benchmarks/collection.py [--requests 4000] [--rounds 3] [--lm-eval-python PATH]

Echo scoring of 200 tokens by four clients in turn, round after round: this engine with its store and all checks on,
aiohttp alone, AsyncOpenAI as it comes, and lm-eval's local-completions model (`--lm-eval-python`: the interpreter of a
throw-away environment that holds `lm-eval[api]`; without it the comparison is null). Then peak memory and the time of a
status at several numbers of items (the store holds a response beside each), and a declared limit of 600 requests per
minute against a server that enforces it. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial

import aiohttp
import openai
import orjson

IN_FLIGHT, DELAY, PROMPT, RESPONSE = 64, 0.05, 150, 50
LIMIT_PER_MINUTE, LIMITED_REQUESTS = 600, 600

SERVER = """
import asyncio, sys, time
import orjson
from aiohttp import web
port, delay, per_second = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
tokens, last, answered, refused = per_second, time.monotonic(), 0, 0

def allowed():
    global tokens, last
    now = time.monotonic()
    tokens, last = min(per_second, tokens + (now - last) * per_second), now
    if tokens < 1:
        return False
    tokens -= 1
    return True

async def completions(request):
    global answered, refused
    body = orjson.loads(await request.read())
    if per_second and not allowed():
        refused += 1
        return web.json_response({"error": {"message": "slow down", "code": "rate_limit"}}, status=429)
    await asyncio.sleep(delay)
    answered += 1
    ids = body["prompt"]
    logprobs = [None, *(-0.01 - (i * 7919 + t) % 3990 / 997 for i, t in enumerate(ids) if i), -1.0]
    n = len(ids)
    choice = {"index": 0, "text": "x", "finish_reason": "length", "prompt_token_ids": ids, "logprobs": {
        "token_logprobs": logprobs, "tokens": ["t"] * (n + 1), "top_logprobs": [{"t": 0.0}] * (n + 1),
        "text_offset": list(range(n + 1))}}
    return web.Response(body=orjson.dumps({"id": "e", "object": "text_completion", "created": 1, "model": body["model"],
        "choices": [choice], "usage": {"prompt_tokens": n, "completion_tokens": 1, "total_tokens": n + 1}}),
        content_type="application/json")

async def models(request):
    return web.json_response({"object": "list", "data": [{"id": "stub", "object": "model"}]})

async def counts(request):
    return web.json_response({"answered": answered, "refused": refused})

app = web.Application(client_max_size=2**26)
app.add_routes([web.post("/v1/completions", completions), web.get("/v1/models", models), web.get("/counts", counts)])
web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)
"""

LM_EVAL = """
import json, random, sys, time
from lm_eval.models.openai_completions import LocalCompletionsAPI
url, n, prompt, response, in_flight = sys.argv[1], *map(int, sys.argv[2:6])
chance = random.Random(1)
model = LocalCompletionsAPI(
    base_url=url + "/completions", model="stub", tokenizer_backend=None, num_concurrent=in_flight, max_retries=1,
    batch_size=1, max_length=100_000,
)
model.tokenized_requests, model.tokenizer = True, object()  # ids are given, nothing is tokenized
ids = lambda k: [chance.randrange(5, 30_000) for _ in range(k)]
rows = [(("", ""), ids(prompt), ids(response)) for _ in range(n)]
start, cpu = time.perf_counter(), time.process_time()
answers = model._loglikelihood_tokens(rows)
assert len(answers) == n and all(a is not None for a in answers)
print(json.dumps({"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}))
"""


@contextlib.contextmanager
def server(per_second: float = 0.0):
    """The server in a process of its own; yields its base URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(port), str(DELAY), str(per_second)])
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def sequences(n: int) -> Iterator[list[int]]:
    """Prompts with responses, as token ids."""
    chance = random.Random(1)
    return ([chance.randrange(5, 30_000) for _ in range(PROMPT + RESPONSE)] for _ in range(n))


def body(ids: list[int]) -> dict:
    return {"model": "stub", "prompt": ids, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}


async def pool(texts: list[list[int]], ask) -> None:
    waiting = iter(texts)

    async def work() -> None:
        for ids in waiting:
            await ask(ids)

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


async def raw_aiohttp(url: str, texts: list[list[int]]) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(ids: list[int]) -> None:
            async with session.post(f"{url}/v1/completions", json=body(ids)) as answer:
                orjson.loads(await answer.read())

        await pool(texts, ask)


async def async_openai(url: str, texts: list[list[int]]) -> None:
    async with openai.AsyncOpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0) as client:

        async def ask(ids: list[int]) -> None:
            await client.completions.create(**body(ids))

        await pool(texts, ask)


def engine(url: str, n: int, per_minute: int | None = None) -> dict[str, float]:
    """This project's engine, scoring `n` responses into a fresh store: seconds, CPU seconds, peak memory of the process
    (MB) and the milliseconds that a status takes afterwards (the median of five)."""
    from arena10k import paths
    from arena10k.audit import status
    from arena10k.collection import jobs, teacher_forcing
    from arena10k.collection.collect import collect
    from arena10k.collection.store import Store
    from arena10k.params.config import Params

    provider = {"base_url": f"{url}/v1", "concurrency": IN_FLIGHT, "requests_per_minute": per_minute}
    provider["capabilities"] = {"token_ids": True, "echo_logprobs": True}
    params = Params.model_validate(
        {"run": "bench", "providers": {"stub": provider}, "prompts": {"source": "builtin"}}
        | {"policies": {name: {"provider": "stub", "model": "stub"} for name in ("p0", "pi_clone")}}
    )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ARENA10K_HOME"] = folder
        store = Store.open(paths.store_file("bench")).using(jobs.contexts(params).values())
        store_responses(params, store, n // 2)
        start, cpu = time.perf_counter(), time.process_time()
        outcome = collect(params, store, partial(teacher_forcing.tasks, params, store), "scoring")
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        assert outcome.ok == n, outcome
        looks = [timed(lambda: status.progress(params, status.open_store(params), now=time.time())) for _ in range(5)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "cpu": cpu, "peak_megabytes": peak, "status_ms": 1000 * statistics.median(looks)}


def timed(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def store_responses(params, store, n: int) -> None:
    """Give every policy a response to each of `n` prompts, so that scoring has something to score."""
    import pandas as pd

    from arena10k import paths
    from arena10k.collection import jobs
    from arena10k.collection.records import Record
    from arena10k.inputs.policies import policies

    contexts, known = jobs.contexts(params), policies(params)
    ids = [f"p{i:06}" for i in range(n)]
    frame = pd.DataFrame({"prompt_id": ids}).reindex(columns=["prompt_id", "prompt", "check"]).astype("string")
    frame.to_parquet(paths.prompts_file("bench"))
    for prompt_id, tokens in zip(ids, sequences(n), strict=True):
        payload = {"prompt_token_ids": tokens[:PROMPT], "token_ids": tokens[PROMPT:], "finish_reason": "stop"}
        rows = [
            Record(jobs.RESPONSES, prompt_id, f"{prompt_id}-{name}", name, 0, policy.fingerprint,
                   contexts[jobs.RESPONSES, name], "ok", "text", payload=payload)
            for name, policy in known.items()
        ]  # fmt: skip
        store.put_all(rows)


def client(run, url: str, n: int) -> dict[str, float]:
    texts = list(sequences(n))
    start, cpu = time.perf_counter(), time.process_time()
    asyncio.run(run(url, texts))
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}


def lm_eval(python: str, url: str, n: int) -> dict[str, float]:
    command = [python, "-c", LM_EVAL, f"{url}/v1", *map(str, (n, PROMPT, RESPONSE, IN_FLIGHT))]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OPENAI_API_KEY": "none"}
    )
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def limited() -> dict[str, float]:
    """A declared limit: share of it that is used, and share of answers that are 429."""
    with server(LIMIT_PER_MINUTE / 60) as url:
        took = engine(url, LIMITED_REQUESTS, LIMIT_PER_MINUTE)
        counts = json.loads(subprocess.run(["curl", "-s", f"{url}/counts"], capture_output=True, check=True).stdout)
    share = counts["refused"] / (counts["answered"] + counts["refused"])
    return {"limit_utilisation": LIMITED_REQUESTS / took["seconds"] / (LIMIT_PER_MINUTE / 60), "share_429": share}


def sized(n: int) -> dict[str, float]:
    """The engine on `n` items in a process of its own, whose peak memory is that of this collection alone."""
    told = subprocess.run([sys.executable, __file__, "--alone", str(n)], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(told.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lm-eval-python", default=None)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 50_000, 100_000], help="items scored")
    parser.add_argument("--alone", type=int, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        with server() as url:
            print(json.dumps(engine(url, args.alone)))
        return
    clients = {
        "engine": engine,
        "raw_aiohttp": partial(client, raw_aiohttp),
        "async_openai": partial(client, async_openai),
    }
    if args.lm_eval_python:
        clients["lm_eval"] = partial(lm_eval, args.lm_eval_python)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in clients}
    with server() as url:
        for _ in range(args.rounds):
            for name, run in clients.items():
                rounds[name].append(run(url, args.requests))
                print(name, f"{args.requests / rounds[name][-1]['seconds']:.0f} requests/s", flush=True)
    rate = {name: args.requests / statistics.median(r["seconds"] for r in took) for name, took in rounds.items()}
    result = {f"{name}_per_second": round(value, 1) for name, value in rate.items()}
    for other in ("raw_aiohttp", "async_openai", "lm_eval"):
        result[f"echo_vs_{other}"] = round(rate["engine"] / rate[other], 3) if other in rate else None
    cpu = statistics.median(r["cpu"] for r in rounds["engine"])
    result["cpu_ms_per_request"] = round(1000 * cpu / args.requests, 3)
    for n in args.sizes:
        took = sized(n)
        print(n, took, flush=True)
        result |= {f"peak_megabytes_{n}": round(took["peak_megabytes"])}
        result |= {f"status_ms_{2 * n}_records": round(took["status_ms"], 1)}
    print(json.dumps(result | {k: round(v, 4) for k, v in limited().items()}))


if __name__ == "__main__":
    main()
