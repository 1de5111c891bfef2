"""The whole experiment at full size, prompts to pages, against a provider whose truth is known.

    python benchmarks/full.py --prompts 10000 [--policies 5] [--kills 2] [--home FOLDER] [--rates 4000]

The experiment is params/arena10k.yaml with this provider in the place of its own. A policy is a distribution over 32
words, given prompt and place in the answer; log-probs are exact. What an answer is worth is the mean worth of its first
four words, so that the value of a policy is a sum. The oracle is that worth with an error of at most .05 and mean 0;
the judge rates 10 times its power .7, with an error of standard deviation 1 of 10. `arena10k report` runs it in a
process of its own, is killed (-9, all of it) on the way and goes on. Then a report with nothing changed, a status, and
the same requests by this engine and by aiohttp alone, a provider answering in 50 ms to 64 in flight and in 200 ms to
256. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import orjson
import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("p0", "pi_clone", "pi_cot", "pi_bigger_model", "pi_bad")
WORDS, END, HEAD = 32, 32, 4
#: How far a policy prefers words that are worth more; all but the first four words do so less.
TASTE = {"p0": 0.0, "pi_cot": 1.0, "pi_bigger_model": 2.0, "pi_bad": -4.0}
TAIL, SHORTEST, LONGEST, ENDS = 0.3, 20, 60, 0.05
KINDS = list(TASTE)
WORTH = np.linspace(0.1, 0.9, WORDS)
TOKENS = [f" w{i:02}" for i in range(WORDS)] + ["<|end|>"]


def normalised(logits: np.ndarray) -> np.ndarray:
    """Log-probs of words (..., WORDS)."""
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


class World:
    """The policies on `n` prompts: log-probs of words (n, kinds, head or tail, WORDS)."""

    def __init__(self, n: int):
        habit = np.random.default_rng(20262).normal(0, 0.5, (n, 1, 1, WORDS))
        taste = (
            np.array([TASTE[kind] for kind in KINDS])[None, :, None, None] * np.array([1, TAIL])[None, None, :, None]
        )
        self.logp = normalised(habit + taste * (WORTH - WORTH.mean()))
        self.chance = random.Random(1)

    def truth(self, numbers: list[int]) -> dict[str, float]:
        """The exact value of every kind of policy on these prompts."""
        means = (np.exp(self.logp[numbers, :, 0]) @ WORTH).mean(axis=0)
        return dict(zip(KINDS, means.tolist(), strict=True))

    def at(self, number: int, kind: int, place: int) -> np.ndarray:
        """Log-probs of the words and the end (WORDS + 1,) at one place of an answer."""
        words = self.logp[number, kind, int(place >= HEAD)]
        end = 0.0 if place < SHORTEST else ENDS if place < LONGEST else 1.0
        with np.errstate(divide="ignore"):
            return np.append(words + np.log(1 - end), np.log(end))

    def scored(self, number: int, kind: int, ids: list[int]) -> list[float]:
        goes_on, ends = math.log(1 - ENDS), math.log(ENDS)
        head, tail = self.logp[number, kind].tolist()
        out = []
        for place, word in enumerate(ids):
            if word == END:
                out.append(ends if place < LONGEST else 0.0)
            else:
                out.append((head if place < HEAD else tail)[word] + (goes_on if place >= SHORTEST else 0.0))
        return out

    def drawn(self, number: int, kind: int) -> list[int]:
        size = SHORTEST
        while size < LONGEST and self.chance.random() >= ENDS:
            size += 1
        head, tail = np.exp(self.logp[number, kind]).tolist()
        words = range(WORDS)
        return [*self.chance.choices(words, head, k=HEAD), *self.chance.choices(words, tail, k=size - HEAD), END]

    def rating(self, text: str, is_oracle: bool, is_sampled: bool) -> int:
        """What a grader says of an answer; asked again at temperature 0 it says the same."""
        worth = sum(WORTH[int(word[1:])] for word in text.split()[:HEAD]) / HEAD
        chance = self.chance if is_sampled else random.Random(f"{is_oracle} {text}")
        if is_oracle:  # rounded by chance, so that its mean is the worth
            return math.floor(100 * worth + chance.uniform(-5, 5) + chance.random())
        return min(max(round(10 * worth**0.7 + chance.gauss(0, 1)), 0), 10)


# The provider


def policy_of(body: dict) -> int:
    said = body["messages"][-1]["content"]
    system = body["messages"][0]["content"]
    kind = "pi_bad" if "unhelpful" in system else "pi_cot" if "step by step" in said else "p0"
    return KINDS.index("pi_bigger_model" if "maverick" in body["model"] else kind)


def chat(world: World, body: dict) -> dict:
    said = body["messages"][-1]["content"]
    if "logprobs" not in body:
        text = said.split("\nAnswer: ", 1)[1].split("\n", 1)[0].strip('"')
        rating = world.rating(text, "deepseek" in body["model"], body["temperature"] > 0)
        return answer(body, len(said) // 4, 6, message={"role": "assistant", "content": f'{{"rating": {rating}}}'})
    number, kind = int(said[9:15]), policy_of(body)
    ids = world.drawn(number, kind)
    entries = [
        {"token": TOKENS[i], "logprob": nats} for i, nats in zip(ids, world.scored(number, kind, ids), strict=True)
    ]
    for place, entry in enumerate(entries) if body.get("top_logprobs") else ():
        nats = world.at(number, kind, place)
        likeliest = [i for i in np.argsort(-nats)[: body["top_logprobs"]] if np.isfinite(nats[i])]
        entry["top_logprobs"] = [{"token": TOKENS[i], "logprob": float(nats[i])} for i in likeliest]
    prompt = [100 + kind, 1000 + number // 1000, 2000 + number % 1000, *range(3000, 3000 + len(said) // 4)]
    text = "".join(TOKENS[i] for i in ids[:-1])
    made = answer(body, len(prompt), len(ids), message={"role": "assistant", "content": text}, token_ids=ids,
                  logprobs={"content": entries})  # fmt: skip
    return made | {"prompt_token_ids": prompt}


def echo(world: World, body: dict) -> dict:
    ids = body["prompt"]
    start = next(i for i, token in enumerate(ids) if token < 100)  # words have the lowest ids
    number = 1000 * (ids[1] - 1000) + ids[2] - 2000
    values = [None, *[-1.0] * (start - 1), *world.scored(number, ids[0] - 100, ids[start:]), -1.0]
    said = {"token_logprobs": values, "tokens": [], "top_logprobs": None}
    return answer(body, len(ids), 1, text="", logprobs=said, prompt_token_ids=ids)


def answer(body: dict, sent: int, received: int, **choice: object) -> dict:
    usage = {"prompt_tokens": sent, "completion_tokens": received, "total_tokens": sent + received}
    choices = [{"index": 0, "finish_reason": "stop", **choice}]
    return {"id": "a", "model": body["model"], "choices": choices, "usage": usage}


def serve(port: int, n: int, delay: float) -> None:
    from aiohttp import web

    world = World(n)

    def handler(made):
        async def handle(request: web.Request) -> web.Response:
            body = orjson.loads(await request.read())
            await asyncio.sleep(delay)
            return web.Response(body=orjson.dumps(made(world, body)), content_type="application/json")

        return handle

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "*", "object": "model"}]})

    app = web.Application(client_max_size=2**26)
    app.add_routes([web.post("/v1/chat/completions", handler(chat)), web.post("/v1/completions", handler(echo))])
    app.add_routes([web.get("/v1/models", models)])
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


@contextlib.contextmanager
def provider(n: int, delay: float):
    """The provider in a process of its own: its process and base URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, __file__, "--serve", str(port), str(n), str(delay)])
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.05)
        yield psutil.Process(process.pid), f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


# The experiment


def questions(n: int, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    chance, rows = random.Random(2), []
    for i in range(n):
        text = f"Question {i:06}: " + " ".join(chance.choices(["what", "why", "is", "the", "sea", "blue"], k=30))
        turns = [{"role": "user", "content": text}]
        rows.append(
            {"question_id": f"q{i:06}", "conversation_a": turns, "conversation_b": turns, "language": "English"}
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def experiment(url: str, n: int, policies: int, concurrency: int) -> dict:
    """params/arena10k.yaml with this provider, without key, limits and prices."""
    params = yaml.safe_load((ROOT / "params" / "arena10k.yaml").read_text())
    (own,) = params["providers"].values()
    for key in ("api_key_env", "requests_per_minute", "tokens_per_minute", "prices"):
        del own[key]
    own |= {"base_url": url, "concurrency": concurrency}
    params["prompts"] |= {"path": "prompts.parquet", "max_prompts": n}
    params["policies"] = {name: params["policies"][name] for name in NAMES[:policies]}
    return params | {"run": "full"}


def records(home: Path) -> int:
    file = home / "data" / "full" / "store.sqlite"
    with contextlib.suppress(sqlite3.Error):
        return sqlite3.connect(f"file:{file}?mode=ro", uri=True).execute("SELECT COUNT(*) FROM records").fetchone()[0]
    return 0


class Watched:
    """A report as a process: CPU seconds, seconds and peak memory (MB) of its stages, as they are seen."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, float]] = {}

    def look(self, process: subprocess.Popen) -> list[psutil.Process]:
        seen, now = [], time.monotonic()
        with contextlib.suppress(psutil.Error):
            seen = psutil.Process(process.pid).children(recursive=True)
        stages: dict[str, list[psutil.Process]] = {}
        for one in seen:
            with contextlib.suppress(OSError):
                name = Path(f"/proc/{one.pid}/comm").read_text().strip()
                stages.setdefault(name, []).append(one)
        for name, processes in stages.items():
            if name[:2].isdigit():
                self._note(name, processes, now)
        return seen

    def _note(self, name: str, processes: list[psutil.Process], now: float) -> None:
        """`processes`: the stage and its kernel; a stage that was killed runs again, with others."""
        stage = self.stages.setdefault(name, {"seconds": 0.0, "cpu": 0.0, "megabytes": 0.0})
        memory = 0
        for one in processes:
            with contextlib.suppress(psutil.Error):
                used = one.cpu_times()
                memory += one.memory_info().rss
                stage[f"_{one.pid}"] = used.user + used.system
        stage["megabytes"] = max(stage["megabytes"], memory / 2**20)
        stage["seconds"] += min(now - stage.get("_seen", now), 1.0)
        stage["_seen"] = now
        stage["cpu"] = sum(spent for key, spent in stage.items() if key[1:].isdigit())

    def figures(self) -> dict[str, dict[str, float]]:
        return {n: {k: round(v, 1) for k, v in s.items() if k[0] != "_"} for n, s in sorted(self.stages.items())}


def report(home: Path, params: Path, watched: Watched | None = None, kill_at: int | None = None) -> float:
    """Run `arena10k report`; where `kill_at` records are stored it is killed with all it started."""
    start = time.monotonic()
    with (home / "report.log").open("a") as log:
        process = command(home, "report", "--params", str(params), "--yes", stdout=log, stderr=log)
        seen: list[psutil.Process] = []
        while process.poll() is None:
            seen = (watched.look(process) if watched else []) or seen
            if kill_at is not None and records(home) >= kill_at:
                for one in (psutil.Process(process.pid), *seen):
                    with contextlib.suppress(psutil.Error):
                        one.send_signal(signal.SIGKILL)
                process.wait()
                return time.monotonic() - start
            time.sleep(0.3)
    assert process.returncode == 0, (home / "report.log").read_text()[-3000:]
    assert kill_at is None, "it was through before it was killed"
    return time.monotonic() - start


def command(home: Path, *words: str, **pipes) -> subprocess.Popen:
    environment = os.environ | {"ARENA10K_HOME": str(home)}
    return subprocess.Popen([sys.executable, "-m", "arena10k", *words], env=environment, cwd=home, **pipes)


def outcome(home: Path, n: int) -> dict[str, object]:
    """Which accepted headlines hold the truth, and what the files take."""
    import pandas as pd

    data, pages = home / "data" / "full", sorted((home / "reports" / "full").glob("*.html"))
    numbers = [int(i[1:]) for i in pd.read_parquet(data / "prompts.parquet").prompt_id]
    truth = World(n).truth(numbers)
    ranking = json.loads((home / "reports" / "full" / "estimates.json").read_text())["ranking"]
    held = {r["policy"]: r["ci_low"] <= truth[r["policy"].replace("pi_clone", "p0")] <= r["ci_high"] for r in ranking}
    largest = max(pages, key=lambda page: page.stat().st_size)
    return {
        "records": records(home), "store_megabytes": round((data / "store.sqlite").stat().st_size / 2**20, 1),
        "page_kilobytes": {page.stem: page.stat().st_size // 1024 for page in pages}, "largest_page": largest.stem,
        "accepted": len(held), "share_holding_truth": sum(held.values()) / len(held) if held else None,
        "truth": truth,
    }  # fmt: skip


# The same requests by the engine and by aiohttp alone


async def raw(url: str, requests: list, in_flight: int) -> None:
    import aiohttp

    waiting = iter(requests)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def work() -> None:
            for request in waiting:
                async with session.post(url + request.path, json=request.body) as said:
                    orjson.loads(await said.read())

        await asyncio.gather(*(work() for _ in range(in_flight)))


def rates(url: str, n: int, in_flight: int) -> dict[str, float]:
    """Chat and echo of `n` requests each: seconds and CPU seconds of this engine (checks and store on), and of aiohttp
    right after it."""
    from arena10k import paths
    from arena10k.collection import generate, jobs, teacher_forcing
    from arena10k.collection.collect import collect
    from arena10k.collection.store import Store
    from arena10k.inputs import prompts
    from arena10k.params.config import Params

    out = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ARENA10K_HOME"] = folder
        questions(n // 2, Path(folder) / "prompts.parquet")
        params = Params.model_validate(experiment(url, n // 2, 2, in_flight))
        store = Store.open(paths.store_file("full")).using(jobs.contexts(params).values())
        frame, _ = prompts.load(params)
        of_kind = {
            "chat": partial(generate.tasks, params, frame),
            "echo": partial(teacher_forcing.tasks, params, store),
        }
        for kind, tasks in of_kind.items():
            start, cpu = time.perf_counter(), time.process_time()
            assert collect(params, store, tasks, kind).ok == n
            engine, used = time.perf_counter() - start, time.process_time() - cpu
            requests = [request for task in tasks() for request in task.requests]
            start, cpu = time.perf_counter(), time.process_time()
            asyncio.run(raw(url, requests, in_flight))
            alone, spent = time.perf_counter() - start, time.process_time() - cpu
            out |= {f"{kind}_{in_flight}": round(n / engine), f"{kind}_{in_flight}_raw": round(n / alone)}
            out |= {f"{kind}_{in_flight}_share": round(alone / engine, 3)}
            out |= {f"{kind}_{in_flight}_cpu_ms": round(1000 * used / n, 3)}
            out |= {f"{kind}_{in_flight}_raw_cpu_ms": round(1000 * spent / n, 3)}
    return out


def in_own_process(*words: str) -> dict:
    told = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(told.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--policies", type=int, default=5, choices=range(2, 6))
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--home", type=Path, default=None, help="where data and pages are kept (else thrown away)")
    parser.add_argument("--rates", type=int, default=4000, help="requests of each comparison with aiohttp; 0: none")
    parser.add_argument("--serve", nargs=3, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--compare", nargs=3, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(int(args.serve[0]), int(args.serve[1]), float(args.serve[2]))
    if args.compare:
        return print(json.dumps(rates(args.compare[0], int(args.compare[1]), int(args.compare[2]))))
    with contextlib.ExitStack() as stack:
        home = args.home or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        questions(args.prompts, home / "prompts.parquet")
        server, url = stack.enter_context(provider(args.prompts, 0.02))
        params, watched = home / "full.yaml", Watched()
        params.write_text(yaml.safe_dump(experiment(url, args.prompts, args.policies, 128), sort_keys=False))
        due, seconds = args.prompts * args.policies * 4, 0.0
        for kill in range(args.kills):
            seconds += report(home, params, watched, kill_at=due * (kill + 1) // (args.kills + 1))
        seconds += report(home, params, watched)
        result = {"prompts": args.prompts, "policies": args.policies, "kills": args.kills}
        result |= {"seconds": round(seconds, 1), "stages": watched.figures()}
        result |= {"provider_cpu": round(sum(server.cpu_times()[:2]), 1)} | outcome(home, args.prompts)
        result["nothing_changed_seconds"] = round(report(home, params), 2)
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        command(home, "status", "full", "--params", str(params), stdout=subprocess.DEVNULL).wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        result["status_seconds"] = round(time.monotonic() - start, 2)
        result["status_cpu"] = round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2)
    for in_flight in (64, 256) if args.rates else ():
        # A provider takes longer where it is asked more at once: 1,280 answers a second at most.
        with provider(args.rates, in_flight / 1280) as (_, url):
            result |= in_own_process("--compare", url, str(args.rates), str(in_flight))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
