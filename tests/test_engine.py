"""The engine's pace, its manners towards the provider and the user's purse, and Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel

from arena10k import options, paths
from arena10k.collection import costs
from arena10k.collection.client import check_model
from arena10k.collection.store import Store
from arena10k.collection.tasks import Request
from arena10k.errors import ArenaError, CallError
from arena10k.params.config import load
from stub_server import Stub, error
from test_collect import RESUMABLE, make_params, run_responses


class Crowd:
    """Refuses whatever exceeds `most` requests at a time, and remembers what it saw."""

    def __init__(self, most: int):
        self.most, self.now, self.peak, self.refused = most, 0, 0, 0

    async def __call__(self, body, n):
        self.now += 1
        self.peak = max(self.peak, self.now)
        try:
            await asyncio.sleep(0.02)
            if self.now > self.most:
                self.refused += 1
                return error(429, "too many at once")
            return None
        finally:
            self.now -= 1


def test_without_declared_limits_concurrency_follows_what_the_provider_bears(home):
    crowd = Crowd(most=12)
    with Stub(crowd) as stub:
        params = make_params(home, stub.url, n_prompts=300, concurrency=128, max_attempts=20)
        _, outcome = run_responses(params)
    assert (outcome.ok, outcome.errors) == (1200, {})
    assert 12 <= crowd.peak < 64
    assert crowd.refused < 0.2 * stub.requests


def test_a_declared_limit_is_not_exceeded(home):
    with Stub() as stub:
        params = make_params(home, stub.url, n_prompts=20, concurrency=64, requests_per_minute=1200)
        start = time.monotonic()
        _, outcome = run_responses(params)
        took = time.monotonic() - start
    assert outcome.ok == 80
    assert took >= (80 - 20) / 20  # 20 per second after a first second's worth


def test_a_declared_token_limit_is_not_exceeded(home):
    with Stub() as stub:
        params = make_params(home, stub.url, n_prompts=5, concurrency=64, tokens_per_minute=60_000)
        each = Request("/chat/completions", {"model": "stub", "messages": [], "max_tokens": 256}).max_tokens
        start = time.monotonic()
        _, outcome = run_responses(params)
        took = time.monotonic() - start
    assert outcome.ok == 20
    assert took >= (20 * each - 1000) / 1000


def test_a_retry_after_holds_back_every_request(home):
    arrivals = []

    def fault(body, n):
        arrivals.append(time.monotonic())
        return error(429, "later", **{"Retry-After": "1"}) if n == 1 else None

    with Stub(fault) as stub:
        _, outcome = run_responses(make_params(home, stub.url, n_prompts=50, concurrency=4))
    assert outcome.ok == 200
    # Those sent together with the refused one may arrive; nothing else does for a second.
    assert sum(a - arrivals[0] < 0.9 for a in arrivals) <= 5


@pytest.mark.parametrize(
    ("asked", "told", "same"),
    [
        ("gpt-x", "gpt-x", True),
        ("gpt-x", "gpt-x-2026-01-31", True),
        ("accounts/a/models/llama-8b", "llama-8b", True),
        ("llama-8b", "accounts/a/models/Llama-8B", True),
        ("llama-70b", "llama-8b", False),
        ("gpt-x-large", "gpt-x", False),
    ],
)
def test_the_answer_must_come_from_the_model_that_was_asked(asked, told, same):
    if same:
        check_model(asked, {"model": told})
    else:
        with pytest.raises(CallError, match="wrong_model"):
            check_model(asked, {"model": told})


def test_money_is_spent_only_on_agreement(home, monkeypatch):
    prices = {"stub": {"prompt": 1.0, "completion": 2.0}}
    with Stub() as stub:
        params = make_params(home, stub.url, prices=prices)
        with pytest.raises(ArenaError, match=r"48 measurements would cost up to \$0\.0\d: confirm with"):
            run_responses(params)
        assert stub.requests == 0
        monkeypatch.setenv(options.VARIABLES["yes"], "1")
        _, outcome = run_responses(params)
    assert outcome.ok == 48
    # Two dollars per million of 2 policies x 12 prompts x 2 draws x 256 tokens, and what is sent.
    bill = costs.forecast(params)
    (row,) = [r for r in bill.rows if r["job"] == "responses"]
    assert row["received at most"] == 48 * 256
    assert row["dollars"] == pytest.approx((row["tokens sent"] + 2 * 48 * 256) / 1e6, rel=1e-3)


def test_the_command_asks_before_it_spends(home):
    with Stub() as stub:
        make_params(home, stub.url, prices={"stub": {"prompt": 1e6, "completion": 1e6}})
        program = Path(sys.executable).with_name("arena10k")
        command = [program, "report", "--params", home / "stub.yaml"]
        done = subprocess.run(command, input="n\n", capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "Spend up to $" in done.stderr
        assert "nothing was asked" in done.stderr
        assert stub.requests == 0


def test_ctrl_c_stores_what_is_in_flight_and_the_same_command_goes_on(home):
    with Stub(delay=0.3) as stub:
        params = make_params(home, stub.url, n_prompts=50, concurrency=8)
        command = [sys.executable, "-c", RESUMABLE, str(home / "stub.yaml")]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
            while stub.requests < 20:
                time.sleep(0.01)
            child.send_signal(signal.SIGINT)
            told = child.communicate()[1]
        assert child.returncode == 1
        assert "stopped on request; the same command goes on from here" in told
        kept = {r["status"] for r in Store.open(paths.store_file(params.run)).rows()}
        assert kept == {"ok"}
        assert len(list(Store.open(paths.store_file(params.run)).rows())) == sum(stub.ledger.values())
        stub.delay = 0.0
        _, outcome = run_responses(params)
        assert outcome.stored + outcome.ok == 200
        assert set(stub.ledger.values()) == {1}


def test_a_bad_prompt_price_names_its_key(home):
    with Stub() as stub, pytest.raises(ArenaError, match=r"providers\.stub\.prices\.stub\.prompt"):
        make_params(home, stub.url, prices={"stub": {"prompt": "cheap", "completion": 2.0}})
    with pytest.raises(ArenaError, match="requests_per_minute"):
        make_params(home, stub.url, requests_per_minute=0)
    assert load(make_yaml(home)).providers["stub"].mode == "requests"


def make_yaml(home):
    make_params(home, "http://127.0.0.1:9/v1")
    return home / "stub.yaml"


@contextlib.contextmanager
def closing_kernel(manager, kernel):
    try:
        yield
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)


def test_interrupting_a_notebook_stores_what_is_in_flight_and_the_kernel_lives_on(home):
    manager, kernel = start_new_kernel(env={**os.environ, "ARENA10K_HOME": str(home)})
    code = RESUMABLE.replace("sys.argv[1]", repr(str(home / "stub.yaml")))

    def reply(asked):
        """The kernel may still owe answers to what was asked while it started."""
        while (message := kernel.get_shell_msg(timeout=120))["parent_header"]["msg_id"] != asked:
            pass
        return message["content"]

    with Stub(delay=0.3) as stub, closing_kernel(manager, kernel):
        make_params(home, stub.url, n_prompts=50, concurrency=8)
        asked = kernel.execute(code)
        while stub.requests < 20:
            time.sleep(0.01)
        manager.interrupt_kernel()
        stopped = reply(asked)
        assert stopped["ename"] == "ArenaError"
        assert "stopped on request; the same command goes on from here" in stopped["evalue"]
        rows = list(Store.open(paths.store_file("stub")).rows())
        assert {row["status"] for row in rows} == {"ok"}
        assert len(rows) == sum(stub.ledger.values()) < 200
        stub.delay = 0.0
        assert reply(kernel.execute(code))["status"] == "ok"
        assert set(stub.ledger.values()) == {1}
        assert sum(stub.ledger.values()) == 200
