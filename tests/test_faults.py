"""Collection through a server with every fault, killed ten times: nothing lost, nothing twice, nothing invented.

`ARENA10K_FAULT_ITEMS=10000 pytest tests/test_faults.py` runs it at the size of a real experiment.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections import Counter

import pytest
from aiohttp import web

from arena10k import paths
from arena10k.collection import generate, teacher_forcing
from arena10k.collection.store import Store
from stub_server import Stub, chat_answer, echo_answer, error, unit
from test_collect import make_params

ITEMS = int(os.environ.get("ARENA10K_FAULT_ITEMS", "2000"))
KILLS = 10

#: Faults of the first attempt only: the measurement is there in the end.
TRANSIENT = ("429 Retry-After", "429", "500", "503", "408", "hang", "disconnect", "cut off", "not JSON")
#: Faults that stay, and the code they are stored with.
LASTING = {
    "content filter": "content_filter",
    "context length": "context_length_exceeded",
    "wrong model": "wrong_model",
    "two choices": "no_choice",
}
LASTING_CHAT = LASTING | {"no text": "no_text", "no ids": "no_token_ids", "chat null": "null_in_response"}
LASTING_ECHO = LASTING | {
    "ignored echo": "echo_ignored",
    "null": "null_in_response",
    "NaN": "malformed_json",
    "infinite": "malformed_json",
    "positive": "positive",
    "constant": "constant",
    "sentinel": "below_floor",
    "BOS": "length_mismatch",
    "other ids": "ids_mismatch",
    "replayed": "ids_mismatch",
}
SHARE = 0.01


def fault_of(body: dict) -> str | None:
    """The fault of a request: decided by its content, so that it is the same in every run of the collection."""
    lasting = LASTING_CHAT if "messages" in body else LASTING_ECHO
    names = [*TRANSIENT, *lasting, "empty"] if "messages" in body else [*TRANSIENT, *lasting]
    place = int(unit("fault", json.dumps(body, sort_keys=True)) / SHARE)
    return names[place] if place < len(names) else None


def truth(body: dict) -> dict:
    """What the server says where it does not misbehave."""
    answer = chat_answer(body) if "messages" in body else echo_answer(body)
    if fault_of(body) == "empty":
        choice = answer["choices"][0]
        choice["message"]["content"] = ""
        choice["logprobs"]["content"], choice["token_ids"] = choice["logprobs"]["content"][:1], choice["token_ids"][:1]
    return answer


class Faults:
    """The server's misbehaviour; counts what it did by fault."""

    def __init__(self):
        self.seen: Counter[str] = Counter()
        self.done: Counter[str] = Counter()

    def __call__(self, body: dict, n: int):
        name, key = fault_of(body), json.dumps(body, sort_keys=True)
        self.seen[key] += 1
        if name is None or name == "empty" or (name in TRANSIENT and self.seen[key] > 1):
            return truth(body)
        self.done[name] += 1
        return self.misbehave(name, truth(body))

    def misbehave(self, name: str, answer: dict):
        choice = answer["choices"][0]
        logprobs = (choice["logprobs"] or {}).get("token_logprobs")
        match name:
            case "429 Retry-After":
                return error(429, "slow down", **{"Retry-After": "0.05"})
            case "429" | "500" | "503" | "408":
                return error(int(name), "not now")
            case "hang":
                return asyncio.sleep(2.5, result=error(500, "too late"))
            case "disconnect":
                return name
            case "cut off":
                return web.Response(body=json.dumps(answer).encode()[:-40], content_type="application/json")
            case "not JSON":
                return web.Response(text="<html>gateway</html>")
            case "content filter":
                return error(400, "blocked", "content_filter")
            case "context length":
                return error(400, "too long", "context_length_exceeded")
            case "wrong model":
                answer["model"] = "another"
            case "two choices":
                answer["choices"] *= 2
            case "no text":
                choice["message"]["content"] = None
            case "no ids":
                del choice["token_ids"]
            case "chat null":
                choice["logprobs"]["content"][-1]["logprob"] = None
            case "ignored echo":
                choice["logprobs"]["token_logprobs"] = [-1.0]
            case "null" | "NaN" | "infinite" | "positive":
                bad = {"null": None, "NaN": float("nan"), "infinite": float("-inf"), "positive": 0.5}
                logprobs[-2] = bad[name]
                return web.Response(text=json.dumps(answer), content_type="application/json")
            case "constant" | "sentinel":
                n, constant = len(logprobs) - 1, 0.0 if len(logprobs) < 13 else -2.5
                choice["logprobs"]["token_logprobs"] = [None, *([constant if name == "constant" else -70.0] * n)]
                if name == "sentinel":
                    choice["logprobs"]["token_logprobs"][-2] = -71.0
            case "BOS":
                logprobs.insert(0, None)
                choice["prompt_token_ids"] = [1, *choice["prompt_token_ids"]]
                answer["usage"]["prompt_tokens"] += 1
            case "other ids":
                choice["prompt_token_ids"] = [*choice["prompt_token_ids"][:-1], 999_999]
            case "replayed":
                return echo_answer({"model": answer["model"], "prompt": [7] * len(choice["prompt_token_ids"])})
        return answer


COLLECT = """
import os, sys
from functools import partial
from arena10k import paths
from arena10k.collection import generate, teacher_forcing
from arena10k.inputs import prompts
from arena10k.collection.collect import collect
from arena10k.params.config import load
from arena10k.collection.store import Store

class Telling(Store):
    def put_all(self, records):
        stored = super().put_all(records)
        # Committed: from here on no kill may lose it.
        os.write(1, "".join(f"{r.job} {r.prompt_id} {r.request_hash}\\n" for r in records).encode())
        return stored

params = load(sys.argv[1])
frame, _ = prompts.load(params)
prompts.write(params, frame)
store = Telling.open(paths.store_file(params.run))
collect(params, store, partial(generate.tasks, params, frame), "responses")
collect(params, store, partial(teacher_forcing.tasks, params, store), "teacher forcing")
"""


def collect_and_kill(stub: Stub, command: list[str], pauses: list[int]) -> set[tuple[str, ...]]:
    """Run the collection, killing it after so many more requests each time, then to the end; keys it acknowledged."""
    acknowledged: set[tuple[str, ...]] = set()
    for pause in [*pauses, None]:
        before = stub.requests
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            for line in child.stdout:
                acknowledged.add(tuple(line.decode().split()))
                if pause is not None and stub.requests - before >= pause:
                    child.kill()
                    break
            rest, told = child.communicate()
            acknowledged |= {tuple(line.split()) for line in rest.decode().splitlines()[:-1]}
        assert pause is not None or child.returncode == 0, told.decode()[-2000:]
    return acknowledged


@pytest.fixture(scope="module")
def survived(tmp_path_factory):
    """(params, stub, faults, acknowledged keys) of a collection that was killed ten times and then finished."""
    home = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch, Stub(faults := Faults()) as stub:
        patch.setenv("ARENA10K_HOME", str(home))
        prompts = ITEMS // 4
        params = make_params(home, stub.url, prompts, draws=1, concurrency=32, timeout_seconds=1.5, max_attempts=3)
        chance = random.Random(7)
        pauses = [chance.randrange(ITEMS // 40, ITEMS // 12) for _ in range(KILLS)]
        keys = collect_and_kill(stub, [sys.executable, "-c", COLLECT, str(home / "stub.yaml")], pauses)
        yield params, stub, faults, keys


def bodies(params):
    """Every task of the run with the body of its request."""
    store = Store.open(paths.store_file(params.run))
    from arena10k.inputs import prompts

    frame = prompts.read(params.run)
    for task in [*generate.tasks(params, frame), *teacher_forcing.tasks(params, store)]:
        yield (task.job, task.prompt_id, task.request_hash), task.requests[0].body


def test_every_record_is_the_truth_or_the_error_that_the_server_made(survived):
    params, _, faults, _ = survived
    rows = {(r["job"], r["prompt_id"], r["request_hash"]): r for r in Store.open(paths.store_file(params.run)).rows()}
    asked = dict(bodies(params))
    assert set(rows) == set(asked)
    codes = LASTING_CHAT | LASTING_ECHO
    for key, body in asked.items():
        row, fault = rows[key], fault_of(body)
        if fault in codes:
            assert (row["status"], row["code"], row["value"]) == ("error", codes[fault], None), fault
        else:
            choice = truth(body)["choices"][0]
            assert row["status"] == "ok", (fault, row["code"])
            if "messages" in body:
                assert row["value"] == choice["message"]["content"]
            else:
                m = row["payload"]["response_tokens"]
                assert row["value"] == pytest.approx(sum(choice["logprobs"]["token_logprobs"][-m - 1 : -1]), abs=1e-9)
    assert set(faults.done) == {*TRANSIENT, *LASTING_CHAT, *LASTING_ECHO} or ITEMS < 2000


def test_no_acknowledged_record_is_lost_and_none_is_there_twice(survived):
    params, stub, _, acknowledged = survived
    store = Store.open(paths.store_file(params.run))
    keys = [(r["job"], r["prompt_id"], r["request_hash"]) for r in store.rows()]
    assert len(keys) == len(set(keys))
    assert acknowledged <= set(keys)
    assert len(acknowledged) > ITEMS // 2
    cells = Counter((r["job"], r["prompt_id"], r["policy"], r["draw"]) for r in store.rows())
    assert set(cells.values()) == {1}
    assert stub.requests >= len(keys)
