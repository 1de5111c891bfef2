"""What providers answer, and what is made of it: a value, or an error that says which.

The files of `tests/answers` hold answers of servers and after providers' published schemas (each says which), one an
entry: `what` was asked (which decides the reader), `path`, `request`, `status`, `answer`, and what is `expected` of it.
Answers go the whole way: through the SDK and the checks of `Endpoint.send` into the reader. `answers/record.py` records
a server's anew.
"""

from __future__ import annotations

import asyncio
import errno
import json
import math
import subprocess
import sys
from pathlib import Path

import httpx2
import openai
import pytest
import yaml
from aiohttp import web

from arena10k import paths
from arena10k.collection import answers, judge, pilot
from arena10k.collection.answers import chat_response, text_response
from arena10k.collection.client import Endpoint, classify
from arena10k.collection.echo import read_ids, read_text
from arena10k.collection.jobs import LOGPROBS, ORACLE, RESPONSES, contexts, judging
from arena10k.collection.store import Store
from arena10k.collection.tasks import Request
from arena10k.errors import ArenaError, CallError
from arena10k.inputs import chat_templates, prompts
from arena10k.params import config
from arena10k.params.judge import ChatJudge, CompletionJudge
from arena10k.params.sections import Provider
from stub_server import MODEL, Stub, error

FOLDER = Path(__file__).parent / "answers"
PROVIDERS = {file.stem: json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json")) if file.stem != "draws"}
ENTRIES = [
    pytest.param(entry, id=": ".join(filter(None, (provider, entry["what"], entry.get("case")))))
    for provider, recorded in PROVIDERS.items()
    for entry in recorded["answers"]
]
CHATML = chat_templates.load("contract", "chatml")
MARK, END = "<|im_start|>assistant\n", "<|im_end|>"
GRADER = {"provider": "p", "model": "m", "case": "{response}"}
RATING = ChatJudge.model_validate(GRADER | {"form": "chat", "scale": (0, 10)})
TOKEN = CompletionJudge.model_validate(GRADER | {"ratings": {str(n): n / 10 for n in range(10)}})


def asked(entry, ask):
    """What `ask(endpoint)` returns where the entry's answer is the server's."""

    async def ask_it():
        endpoint = Endpoint("p", Provider(base_url="http://p/v1", max_attempts=1), "http://p/v1", asyncio.Event())
        await endpoint.client.close()
        served = httpx2.MockTransport(lambda _: httpx2.Response(entry["status"], json=entry["answer"]))
        async with httpx2.AsyncClient(transport=served) as endpoint.http:
            endpoint.client = endpoint.client.copy(http_client=endpoint.http)
            return await ask(endpoint)

    return asyncio.run(ask_it())


def spoken(response):
    """A response: its text, what it ended by, and what came with it."""
    payload = response.payload
    ids = {name: len(payload[name]) for name in ("prompt_token_ids", "token_ids") if name in payload}
    nats = {"nats": math.fsum(payload["token_logprobs"])} if "token_logprobs" in payload else {}
    kept = {name: payload[name] for name in ("reasoning", "end_scored") if name in payload}
    return {"text": response.value, "finish_reason": payload["finish_reason"], **ids, **nats, **kept}


def scored(measured):
    return {"nats": measured.value, "tokens": measured.payload["response_tokens"]}


def echoed(request, answers):
    """An echo of text: the request says which part of it is the response, and whether its end was sent."""
    prompt, mark, rest = request["prompt"].rpartition(MARK)
    response = rest.removesuffix(END)
    return scored(read_text(answers, prompt + mark, response, rest[len(response) :]))


def made_of(entry):
    """What comes out: the names of models, a response, a score, or the kind and code of an error."""
    request = entry["request"] or {"model": "any"}
    try:
        if entry["what"] == "models":
            return asked(entry, lambda endpoint: endpoint.models())
        sent = Request(entry["path"], request, entry.get("model_alias"))
        answers = [asked(entry, lambda endpoint: endpoint.send(sent))]
        match entry["what"]:
            case "chat_json":
                return {"rating": judge.read_rating(RATING, answers).value}
            case "rating_token":
                return {"rating": judge.read_completions(TOKEN, answers).value}
            case "text":
                return spoken(text_response(answers, request["prompt"], CHATML))
            case "echo_text":
                return echoed(request, answers)
            case "echo_ids":
                at = len(request["prompt"]) - entry["response_ids"]
                return scored(read_ids(answers, request["prompt"][:at], request["prompt"][at:]))
            case _:
                return spoken(chat_response(answers, token_ids=bool(request.get("return_token_ids"))))
    except CallError as error:
        return {"error": error.kind, "code": error.code}


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_answer_is_the_value_it_holds_or_an_error(entry):
    expected = entry["expected"]
    if isinstance(expected, dict):
        expected = {key: pytest.approx(v, abs=1e-9) if isinstance(v, float) else v for key, v in expected.items()}
    assert made_of(entry) == expected


@pytest.mark.parametrize("entry", [e for e in ENTRIES if "nats" in (e.values[0]["expected"] or {})])
def test_a_log_prob_that_is_no_number_is_never_counted(entry):
    """The same answers, the last log-prob of the response taken from each."""
    changed = json.loads(json.dumps(entry))
    choice = changed["answer"]["choices"][0]
    block = changed["answer"].get("prompt")
    where = block[0]["logprobs"] if block else choice["logprobs"]
    if "content" in where:
        where["content"][-1]["logprob"] = None
    else:
        # An echo ends in the token that had to be generated, except where that stands elsewhere.
        last = -2 if changed["what"].startswith("echo") and not block else -1
        where["token_logprobs"][last] = None
    assert made_of(changed) == {"error": "invalid", "code": "null_in_response"}


def test_every_file_says_what_it_is_made_after():
    assert set(PROVIDERS) >= {"vllm", "llama_cpp", "litellm", "sglang", "openai", "azure", "together", "fireworks"}
    assert all(p["source"].startswith(("recorded from ", "made after ")) for p in PROVIDERS.values())


@pytest.mark.parametrize(
    ("kind", "code", "detail", "says"),
    [
        ("invalid", "null_in_response", "token 0 of 9 has no log-prob", "leave echo_logprobs out of providers.p"),
        ("retry", "http_500", "Unmapped prompt format", "leave echo_logprobs out of providers.p"),
        ("permanent", "invalid_request_error", "no logprobs with echo", "leave echo_logprobs out of providers.p"),
        ("permanent", "unsupported_parameter", "no seed here", "leave_out: [seed]"),
        ("permanent", "http_422", "[{'loc': ['body', 'seed'], 'msg': 'not permitted'}]", "leave_out: [seed]"),
        ("permanent", "unsupported_parameter", "'max_tokens' is not supported; use 'x' instead", "max_tokens_field"),
        ("permanent", "invalid_value", "max_tokens is too large: 4096. The model takes at most 2048", "`max_tokens`"),
        ("permanent", "http_400", "max_tokens: 8192 > 4096, the maximum of output tokens", "`max_tokens`"),
        ("permanent", "context_length", "the prompt is too long", "prompts.max_chars"),
        ("invalid", "ids_mismatch", "the generated tokens do not spell the response", "leave_out: [logprobs]"),
    ],
)
def test_an_endpoint_that_refuses_is_told_with_what_to_write(kind, code, detail, says):
    async def advice():
        endpoint = Endpoint("p", Provider(base_url="http://p/v1"), "http://p/v1", asyncio.Event())
        await endpoint.client.close()
        job = RESPONSES if code == "ids_mismatch" else LOGPROBS
        return endpoint.advice(CallError(kind, code, detail), job)

    assert says in asyncio.run(advice())


@pytest.mark.parametrize(
    ("status", "answer", "code", "tells"),
    [
        (422, {"detail": [{"loc": ["body", "seed"], "msg": "extra fields not permitted"}]}, "http_422", "seed"),
        (400, {"detail": "seed is not supported"}, "http_400", "seed"),
        (400, [{"error": {"code": 400, "message": "seed is not supported"}}], "http_400", "seed"),
        (400, {"error": "seed is not supported"}, "http_400", "seed"),
        (200, {"object": "error", "message": "down for a moment", "code": 503}, "http_503", "down"),
        (200, {"error": {"message": "slow down", "type": "rate_limit_error"}}, "http_503", "slow"),
        (422, {"error": {"message": "`inputs` must have less than 1024 tokens"}}, "context_length", "1024"),
        (400, {"message": "The input token count exceeds the maximum number"}, "context_length", "count"),
        (400, {"message": "logprobs of the prompt must be <= 5"}, "http_400", "logprobs"),
        (400, {"message": "max_tokens is too large: 9", "param": "max_tokens"}, "http_400", "large"),
    ],
)
def test_an_error_is_what_it_says_wherever_it_says_it(status, answer, code, tells):
    entry = {"status": status, "answer": answer}
    with pytest.raises(CallError, match=tells) as caught:
        asked(entry, lambda endpoint: endpoint.send(Request("/completions", {"model": "m"})))
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ({"response": {"status_code": 200, "body": {"model": "m"}}, "error": {"message": "no", "code": "why"}}, "why"),
        ({"response": {"status_code": 400, "body": [{"error": {"message": "no", "code": "why"}}]}}, "why"),
        ({"response": {"status_code": 422, "body": None}, "error": {"message": "no"}}, "http_422"),
        ({"response": {"status_code": True, "body": {}}}, "malformed_answer"),
        ({"response": None, "error": {"code": None, "message": None}}, "batch_error"),
    ],
)
def test_an_error_in_a_line_of_a_batch_is_what_it_says(line, code):
    with pytest.raises(CallError) as caught:
        answers.batch_line(line)
    assert caught.value.code == code


@pytest.mark.parametrize(("said", "seconds"), [("2", 2.0), ("-3", 0.0), ("inf", 86_400.0), ("soon", None)])
def test_a_time_to_wait_is_a_time(said, seconds):
    refusal = httpx2.Response(429, headers={"Retry-After": said}, request=httpx2.Request("POST", "http://p"))
    assert classify(openai.RateLimitError("slow", response=refusal, body=None)).retry_after == seconds


def test_a_server_is_recorded_anew_and_what_was_expected_stays(tmp_path):
    file, rating = tmp_path / "stub.json", {"what": "rating_token", "case": "kept", "expected": {"rating": 0.5}}
    models = {"what": "models", "status": 500, "answer": None, "expected": ["stub"]}
    file.write_text(json.dumps({"source": "recorded from a stub", "answers": [models, rating]}))
    with Stub() as stub:
        command = [sys.executable, str(FOLDER / "record.py"), stub.url, MODEL, str(file)]
        subprocess.run(command, check=True, timeout=60)
    entries = {entry["what"]: entry for entry in json.loads(file.read_text())["answers"]}
    assert (entries["models"]["status"], entries["models"]["expected"]) == (200, ["stub"])
    assert entries["rating_token"] == rating
    assert entries["chat"]["expected"] is None
    said = made_of(entries["chat"])
    echo = made_of(entries["echo_ids"])
    assert echo["tokens"] == said["token_ids"]
    assert echo["nats"] == pytest.approx(said["nats"])


def plays(recorded):
    """The stub in a provider's place: to each question the recorded answer to one of its kind, or that there is none.
    A response has the number of its request in its first log-prob: the same twice would be refused."""
    said = {entry["what"]: entry for entry in recorded["answers"] if not entry.get("case")}

    def answer(body, n):
        if "messages" in body:
            what = "chat_json" if '"rating"' in str(body["messages"]) else "chat"
        else:
            what = "echo_ids" if isinstance(body["prompt"], list) else "echo_text"
        if not (entry := said.get(what)):
            return error(404, "no such route")
        if entry["status"] != 200:
            return web.json_response(entry["answer"], status=entry["status"])
        made = json.loads(json.dumps(entry["answer"] | {"model": body["model"]}))
        if what == "chat" and (nats := (made["choices"][0].get("logprobs") or {}).get("content")):
            nats[0]["logprob"] -= n / 1e6
        return made

    return answer


@pytest.mark.parametrize(
    ("provider", "stops_at"),
    [
        ("vllm", None),
        ("sglang", None),
        ("fireworks", None),
        ("litellm", ("teacher forcing", "providers.fireworks.capabilities; where it takes no token ids")),
        *[
            (name, ("responses", "say `token_ids: false` in providers.fireworks.capabilities"))
            for name in ("llama_cpp", "together", "openai", "azure", "openrouter", "deepseek")
        ],
    ],
)
def test_the_pilot_of_the_full_experiment_at_each_provider(provider, stops_at, home, monkeypatch):
    monkeypatch.setenv("ARENA10K_YES", "1")
    raw = config.contents(paths.source_root() / "params" / "arena10k.yaml")
    with Stub(plays(PROVIDERS[provider])) as stub:
        raw["providers"]["fireworks"] |= {"base_url": stub.url, "api_key_env": None, "max_attempts": 1}
        raw["prompts"] = {"source": "builtin", "max_prompts": 20}
        file = home / "pilot.yaml"
        file.write_text(yaml.safe_dump(raw))
        params = config.load(file)
        frame, _ = prompts.load(params)
        prompts.write(params, frame)
        store = Store.open(paths.store_file(params.run)).using(contexts(params).values())
        stopped = ""
        try:
            pilot.run(params, store, frame)
        except ArenaError as told:
            stopped = str(told)
    scores = {row["value"] for row in store.rows(LOGPROBS) if row["status"] == "ok"}
    assert stub.requests < 150
    if stops_at:
        stage, key = stops_at
        assert (stage in stopped, key in stopped, scores) == (True, True, set()), stopped
    else:
        score = next(e for e in PROVIDERS[provider]["answers"] if e["what"] == "echo_ids")["expected"]["nats"]
        assert (stopped, list(scores)) == ("", [pytest.approx(score)])
        assert {row["status"] for job in (*judging(params), ORACLE) for row in store.rows(job)} == {"ok"}


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"NOT HTTP AT ALL\r\n\r\n", "connection"),
        (b"", "connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n{}", "connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", "connection"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde", "connection"),
        (b"HTTP/1.1 307 Go\r\nLocation: /v1/completions\r\nContent-Length: 0\r\n\r\n", "connection"),
        (b"HTTP/1.1 204 No\r\n\r\n", "malformed_json"),
        (b"HTTP/1.1 502 Bad\r\nContent-Length: 6\r\n\r\n<html>", "http_502"),
    ],
)
def test_what_is_no_answer_is_asked_again(sent, code):
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        writer.close()

    async def ask():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        endpoint = Endpoint("p", Provider(base_url=url, max_attempts=1), url, asyncio.Event())
        async with server, endpoint.client:
            await endpoint.send(Request("/completions", {"model": "m"}))

    with pytest.raises(CallError) as told:
        asyncio.run(ask())
    assert (told.value.kind, told.value.code) == ("retry", code)


def test_a_full_disk_is_no_connection_that_broke():
    with pytest.raises(OSError, match="full"):
        classify(OSError(errno.ENOSPC, "full"))
