"""What a server does to a request, and what the record of it shows: one table, one collection, killed on its way.

`make faults` runs it at the size of a real experiment (ARENA10K_FAULT_ITEMS records, ARENA10K_FAULT_KILLS kills).
"""

from __future__ import annotations

import asyncio
import copy
import json
import math
import os
import random
import shutil
import signal
from collections import Counter

import pytest
from aiohttp import web

from arena10k import paths
from arena10k.audit import screening
from arena10k.collection import generate
from arena10k.collection.echo import read_ids, read_text
from arena10k.collection.jobs import contexts
from arena10k.collection.store import Store
from arena10k.errors import CallError
from arena10k.inputs import prompts
from stub_run import forked, make_params, run_responses, run_scores
from stub_server import MODEL, Stub, chat_answer, echo_answer, error, text_answer, text_logprobs, token_logprob


def odd(where, value):
    """A change of an answer at a place such as `choices.0.message`."""

    def change(answer):
        *way, last = [int(step) if step.isdigit() else step for step in where.split(".")]
        part = answer
        for step in way:
            part = part[step]
        part[last] = value
        return answer

    return change


def as_python_writes_it(change):
    """JSON may hold NaN and Infinity then."""
    return lambda a: web.Response(text=json.dumps(change(a)), content_type="application/json")


def values(change, keep=("usage", "ids"), **counts):
    """An echo whose log-probs are changed, and its usage; what else would tell their order may be left out."""

    def said(good):
        choice = good["choices"][0]
        choice["logprobs"]["token_logprobs"] = change(choice["logprobs"]["token_logprobs"])
        good["usage"] |= {name: good["usage"][name] + more for name, more in counts.items()}
        if "usage" not in keep:
            del good["usage"]
        if "ids" not in keep:
            del choice["prompt_token_ids"]
        return good

    return said


def first(*head):
    """Other values at the beginning of the response, which follows eight prompt tokens."""
    return values(lambda tokens: [*tokens[:8], *head, *tokens[8 + len(head) :]])


def bos(tokens):
    return [None, -9.0, *tokens[1:]]


def saying(ids, finish="stop"):
    """A response of these tokens, which are no text."""

    def change(answer):
        content = [{"token": f"t{t}", "logprob": token_logprob(8 + i, t)} for i, t in enumerate(ids)]
        said = {"message": {"content": ""}, "token_ids": ids, "logprobs": {"content": content}}
        answer["choices"][0] |= said | {"finish_reason": finish}
        return answer

    return change


def tops(nats):
    """Candidates of every token."""

    def change(answer):
        for entry in answer["choices"][0]["logprobs"]["content"]:
            entry["top_logprobs"] = [{"token": token, "logprob": v} for token, v in nats.items()]
        return answer

    return change


#: At the first attempt only: the measurement is there in the end.
PASSING = {
    "429 Retry-After": lambda a: error(429, "slow down", **{"Retry-After": "0.05"}),
    **{status: lambda a, status=status: error(int(status), "not now") for status in ("429", "500", "503", "408")},
    "hang": lambda a: asyncio.sleep(2.0, result=error(500, "too late")),
    "disconnect": lambda a: "disconnect",
    "cut off": lambda a: web.Response(body=json.dumps(a).encode()[:-40], content_type="application/json"),
    "not JSON": lambda a: web.Response(text="<html>gateway</html>"),
}
#: At every attempt, and the code of the record.
LASTING = {
    "content filter": ("content_filter", lambda a: error(400, "blocked", "content_filter")),
    "context length": ("context_length", lambda a: error(400, "long", "context_length_exceeded")),
    "another model": ("wrong_model", odd("model", "other")),
    "no choice": ("no_choice", odd("choices", [])),
    "two choices": ("no_choice", lambda a: a | {"choices": a["choices"] * 2}),
    "a list": ("not_an_object", lambda a: web.json_response([a])),
    "half an answer": ("malformed_json", lambda a: web.Response(text='{"choices": [', content_type="application/json")),
    "no usage": ("malformed_answer", odd("usage", "none")),
    "no count": ("malformed_answer", odd("usage.prompt_tokens", "8")),
    "list of models": ("malformed_answer", odd("model", ["stub"])),
    "fingerprint": ("malformed_answer", odd("system_fingerprint", 5)),
}
CHAT = LASTING | {
    "no text": ("no_text", odd("choices.0.message.content", None)),
    "no message": ("malformed_answer", odd("choices.0.message", "text")),
    "no end": ("finish_reason", odd("choices.0.finish_reason", None)),
    "filtered": ("content_filter", odd("choices.0.finish_reason", "content_filter")),
    "no ids": ("no_token_ids", lambda a: a["choices"][0].pop("token_ids") and a),
    "ids of text": ("no_token_ids", odd("choices.0.token_ids", ["x"])),
    "number of ids": ("malformed_answer", odd("choices.0.token_ids", 3)),
    "number of prompt ids": ("malformed_answer", odd("prompt_token_ids", 1)),
    "token null": ("malformed_answer", odd("choices.0.logprobs.content", [None])),
    "token text": ("malformed_answer", odd("choices.0.logprobs.content.0", "x")),
    "sentinel": ("below_floor", odd("choices.0.logprobs.content.0.logprob", -9999.0)),
    "ids below 0": ("no_token_ids", odd("choices.0.token_ids.0", -1)),
    "a tool beside the text": ("no_text", odd("choices.0.message.tool_calls", [{"function": {"name": "f"}}])),
    "an error beside the text": ("content_filter", odd("error", {"message": "no", "code": "content_filter"})),
    "an error for an answer": ("BadRequestError", lambda a: {"object": "error", "type": "BadRequestError"}),
    "list of log-probs": ("malformed_answer", odd("choices.0.logprobs", ["x"])),
    "number of log-probs": ("malformed_answer", odd("choices.0.logprobs", 7)),
    "null": ("null_in_response", odd("choices.0.logprobs.content.0.logprob", None)),
    "NaN in JSON": ("malformed_json", as_python_writes_it(odd("choices.0.logprobs.content.0.logprob", math.nan))),
}
#: Answers of an unusual kind that are measurements, and the code of the score of what they say.
UNUSUAL = {
    "nothing but the end": (None, saying([2])),
    "cut at once": (None, saying([5, 6], "length")),
    "no token": ("empty_response", saying([])),
    "empty list of log-probs": (None, odd("choices.0.logprobs", {"content": []})),
    "candidates without log-probs": (None, tops({"a": None, "b": -1.0, "c": -2.0})),
    "candidates with text": (None, tops({"a": "-inf", "b": -1.0, "c": -2.0})),
    "candidates that are certain, both": (None, tops({"a": 0.0, "b": 0.0, "c": -2.0})),
    "impossible candidates": (None, tops({"a": -9999.0, "b": -9999.0, "c": -9999.0})),
    "an error that says nothing": (None, odd("error", {"message": None, "code": None})),
}
ECHO = {
    "content filter": LASTING["content filter"],
    "half an answer": LASTING["half an answer"],
    "echo ignored": ("echo_ignored", values(lambda v: v[-1:])),
    "no log-probs": ("echo_ignored", odd("choices", [{"text": "", "logprobs": None}])),
    "cut": ("length_mismatch", values(lambda v: v[:-3])),
    "BOS in front": ("length_mismatch", values(bos)),
    "BOS with its id": ("length_mismatch", lambda a: values(lambda v: [None, *v], prompt_tokens=1)(led(a))),
    "BOS counted": ("length_mismatch", values(lambda v: bos(v)[:-1], prompt_tokens=1)),
    "BOS only": ("length_mismatch", values(lambda v: bos(v)[:-1], keep=["usage"], completion_tokens=-1)),
    "BOS or generated, not told": ("length_mismatch", values(lambda v: v, keep=[])),
    "first missing, one generated": ("length_mismatch", values(lambda v: v[1:])),
    "zeros in the middle": ("constant", values(lambda v: [*v[:8], *[0.0] * (len(v) - 10), *v[-2:]])),
    "certain and not": ("positive", odd("choices.0.logprobs.top_logprobs", [None] * 8 + [{"a": 0.0, "b": -0.1}])),
    "other ids": ("ids_mismatch", odd("choices.0.prompt_token_ids.8", 9999)),
    "another echo": ("ids_mismatch", lambda a: echo_answer({"model": a["model"], "prompt": [7] * len(sent(a))})),
    "null": ("null_in_response", first(-0.1, None)),
    "NaN as text": ("not_finite", first("NaN")),
    "positive": ("positive", first(0.3)),
    "all zero": ("constant", values(lambda v: [None, *[0.0] * (len(v) - 1)])),
    "one value": ("constant", values(lambda v: [None, *[-1.5] * (len(v) - 1)])),
    "impossible": ("below_floor", first(-75.0)),
    "sentinel": ("below_floor", values(lambda v: [*v[:8], -100.0, *[-0.0] * (len(v) - 10), -1.0])),
    "NaN in JSON": ("malformed_json", as_python_writes_it(first(math.nan))),
    "infinity in JSON": ("malformed_json", as_python_writes_it(first(-math.inf))),
}


def sent(echo):
    return echo["choices"][0]["prompt_token_ids"]


def led(echo):
    return odd("choices.0.prompt_token_ids", [1, *sent(echo)])(echo)


#: By question: the first ten are answered well, as what is tried first has to be; then every third goes wrong.
TABLE = [("chat", name) for name in (*PASSING, *CHAT, *UNUSUAL)] + [("echo", name) for name in ("500", *ECHO)]
GOOD, EVERY = 10, 3
ITEMS = int(os.environ.get("ARENA10K_FAULT_ITEMS", 4 * (GOOD + EVERY * len(TABLE))))
KILLS = int(os.environ.get("ARENA10K_FAULT_KILLS", "2"))
CONCURRENCY = 32


def fault_of(question):
    place = question - GOOD
    return TABLE[place // EVERY % len(TABLE)] if place >= 0 and place % EVERY == 0 else ("", "")


def question_of(body):
    return int(body["messages"][-1]["content"].split()[-1])


class Faults:
    """The server's misbehaviour; `only` of the lasting faults where it is given."""

    def __init__(self):
        self.seen: Counter[str] = Counter()
        self.asked: dict[tuple[int, ...], int] = {}
        self.only: tuple[str, ...] | None = None

    def __call__(self, body, n):
        key = json.dumps(body, sort_keys=True)
        self.seen[key] += 1
        if "messages" in body:
            kind, question, answer = "chat", question_of(body), chat_answer(body)
            self.asked[tuple(answer["prompt_token_ids"])] = question
        else:
            kind, question, answer = "echo", self.asked[tuple(body["prompt"][:8])], echo_answer(body)
        of, name = fault_of(question)
        if of != kind:
            return answer
        if name in UNUSUAL:
            return UNUSUAL[name][1](answer)
        if name in PASSING:
            return PASSING[name](answer) if self.seen[key] == 1 else answer
        if self.only and name not in self.only:
            return answer
        return (CHAT if kind == "chat" else ECHO)[name][1](copy.deepcopy(answer))


def collect_both(params, tell):
    """Responses and scores; every record is told when it is committed: no kill may lose it from there on."""

    def telling(self, records, put=Store.put_all):
        stored = put(self, records)
        os.write(tell, "".join(f"{r.job} {r.prompt_id} {r.request_hash}\n" for r in records).encode())
        return stored

    Store.put_all = telling
    store, _ = run_responses(params)
    run_scores(params, store)
    store.close()


def collect_and_kill(stub, params, pauses):
    """Collect, killed after so many more requests each time, then to the end; keys that were acknowledged."""
    acknowledged: set[tuple[str, ...]] = set()
    for pause in [*pauses, None]:
        before = stub.requests
        read, tell = os.pipe()
        with forked(collect_both, params, tell) as child:
            os.close(tell)
            with os.fdopen(read) as told:
                for line in told:
                    acknowledged |= {tuple(line.split())} if line.endswith("\n") else set()
                    if pause is not None and stub.requests - before >= pause:
                        child.kill()
                        pause = math.inf
        assert child.exitcode == (0 if pause is None else -signal.SIGKILL)
    return acknowledged


@pytest.fixture(scope="module")
def survived(tmp_path_factory):
    """(params, stub, faults, acknowledged keys) of a collection that was killed and then finished."""
    home = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch, Stub(faults := Faults()) as stub:
        patch.setenv("ARENA10K_HOME", str(home))
        limits = {"concurrency": CONCURRENCY, "timeout_seconds": 1.5, "max_attempts": 3}
        params = make_params(home, stub.url, ITEMS // 4, draws=1, **limits)
        chance = random.Random(7)
        pauses = [chance.randrange(ITEMS // (8 * KILLS), ITEMS // (2 * KILLS)) for _ in range(KILLS)]
        yield params, stub, faults, collect_and_kill(stub, params, pauses)


@pytest.fixture(scope="module")
def records(survived):
    """Records by job and question."""
    made = {}
    for row in Store.open(paths.store_file(survived[0].run)).rows():
        made.setdefault((row["job"], int(row["prompt_id"][1:])), []).append(row)
    return made


def check_question(params, records, question):
    """That both responses to a question and both scores are the truth, or the error that the server made."""
    kind, name = fault_of(question)
    said, scored = records["responses", question], records.get(("logprobs", question), [])
    assert len(said) == 2
    if kind == "chat" and name in CHAT:
        assert {(r["status"], r["code"], r["value"]) for r in said} == {("error", CHAT[name][0], None)}
        assert scored == []
        return
    policies, text = generate.policies(params), f"question {question}"
    for row in said:
        policy = policies[row["policy"]]
        seed = policy.seed(params.seed, row["prompt_id"], row["draw"])
        truth = chat_answer({"model": "stub", "messages": policy.messages(text), "seed": seed})
        if kind == "chat" and name in UNUSUAL:
            truth = UNUSUAL[name][1](truth)
        choice = truth["choices"][0]
        assert (row["status"], row["value"]) == ("ok", choice["message"]["content"])
        assert row["payload"]["finish_reason"] == choice["finish_reason"]
        generated = [token["logprob"] for token in choice["logprobs"]["content"]]
        assert row["payload"].get("token_logprobs", []) == generated
        assert "candidates" not in row["payload"], "none of them would be a distribution"
        if row["policy"] == "p0":
            ids = choice["token_ids"]
    code = ECHO[name][0] if kind == "echo" and name in ECHO else UNUSUAL.get(name, [None])[0]
    right = None if code else math.fsum(token_logprob(8 + i, t) for i, t in enumerate(ids))
    if (kind, name, len(ids) < 4) == ("echo", "one value", True):  # of so few tokens it may be one by chance
        code, right = None, -1.5 * len(ids)
    shown = {(r["policy"], r["status"], r["value"], r["code"]) for r in scored}
    assert shown == {(policy, "error" if code else "ok", right, code) for policy in params.policies}


@pytest.mark.parametrize("fault", TABLE, ids=" ".join)
def test_what_the_server_does_is_what_the_record_shows(survived, records, fault):
    for question in range(GOOD + EVERY * TABLE.index(fault), ITEMS // 4, EVERY * len(TABLE)):
        check_question(survived[0], records, question)


def test_every_other_record_is_what_the_server_said(survived, records):
    params, _, faults, _ = survived
    for question in range(ITEMS // 4):
        if fault_of(question) == ("", ""):
            check_question(params, records, question)
    assert len(faults.asked) == ITEMS // 4


def test_a_kill_loses_nothing_that_was_acknowledged_and_doubles_nothing(survived, records):
    _, stub, _, acknowledged = survived
    rows = [r for some in records.values() for r in some]
    keys = [(r["job"], r["prompt_id"], r["request_hash"]) for r in rows]
    assert len(keys) == len(set(keys)) == len({(r["job"], r["prompt_id"], r["policy"], r["draw"]) for r in rows})
    assert acknowledged <= set(keys)
    assert len(acknowledged) > ITEMS // 2
    # Only what was in flight at a kill is asked twice; scores of p0 and its clone are the same request.
    scored = sum(r["job"] == "logprobs" for r in rows)
    lost = sum(stub.ledger.values()) - len(stub.ledger) - scored // 2
    assert lost <= KILLS * CONCURRENCY + 2 * len(PASSING)


def test_a_second_run_asks_nothing_and_failed_rows_only_on_request(survived, tmp_path, monkeypatch):
    params, stub, faults, _ = survived
    shutil.copytree(paths.home(), tmp_path / "home")
    monkeypatch.setenv("ARENA10K_HOME", str(tmp_path / "home"))
    asked = stub.requests
    store, found = run_responses(params)
    run_scores(params, store)
    assert stub.requests == asked
    failed = sum(found.errors.values())
    assert failed == sum(r["status"] == "error" for r in store.rows("responses")) >= 2 * len(CHAT)
    monkeypatch.setattr(faults, "only", ("content filter",))
    _, again = run_responses(params, retry_errors=True)
    refused = 2 * sum(fault_of(question) == ("chat", "content filter") for question in range(ITEMS // 4))
    assert (again.ok, again.errors) == (failed - refused, {"content_filter": refused})
    assert stub.requests == asked + failed, "each row is asked once"
    tried = {r["status"]: r["attempts"] for r in store.rows("responses") if r["attempts"] > 1}
    assert tried == {"ok": 2, "error": 2}
    assert len(prompts.read("stub")) == ITEMS // 4


@pytest.mark.parametrize("tokens", [[0.0], [0.0, -1e-7], [-0.0, 5e-5], [-49.0], [-30.0, -25.0]])
def test_certain_and_unlikely_answers_are_measurements(tokens):
    good = values(lambda v: [*v[:2], *tokens])(echo_answer({"model": "stub", "prompt": [1, 2, *range(len(tokens))]}))
    assert read_ids([good], [1, 2], [*range(len(tokens))]).value == math.fsum(tokens)


# Echoes of ids, whose entries have to be placed

IDS = [1, 5, 6, 7, 5, 8, 9, 5, 10, 20, 21, 5, 2]
TEXTS, NATS = [f"t{i}" for i in IDS], [None, *(-0.5 - i / 64 for i in range(12))]
ALL, LED, LATE = (TEXTS, NATS), (["<s>", *TEXTS], [None, -9.0, *NATS[1:]]), (TEXTS[1:], NATS[1:])
CERTAIN, MORE = (TEXTS, [0.0, *NATS[1:]]), (["more"], [-1.0])


def placed(entries, generated=None, counted=13, known=None, more=None, block=None):
    """An echo of IDS, of which nine are the prompt, with texts or ids of its entries where `known`."""
    texts, nats = ([*a, *b] for a, b in zip(entries, more or ([], []), strict=True))
    ids = [int(t[1:]) if t[1:].isdigit() else 0 for t in texts]
    said = {"token_logprobs": nats} | {None: {}, "texts": {"tokens": texts}, "ids": {"token_ids": ids}}[known]
    own = {"logprobs": {"token_logprobs": [-1.0]}} if block else {"logprobs": said}
    answer = {"choices": [own], "usage": {"prompt_tokens": counted, "completion_tokens": generated}}
    return answer | ({"prompt": [{"logprobs": said}]} if block else {})


SHIFTED = {
    "first missing": placed(LATE, 1, more=MORE),
    "first missing, not told": placed(LATE, more=MORE),
    "first missing, texts": placed(LATE, 0, more=MORE, known="texts"),
    "first certain": placed(CERTAIN, 1),
    "more, not told": placed(ALL, more=MORE),
    "BOS": placed(LED),
    "BOS, texts": placed(LED, 1, known="texts"),
    "BOS, ids": placed(LED, 1, known="ids"),
    "BOS in a block": placed(LED, 1, block=True),
    "first missing in a block": placed(LATE, 1, block=True),
    "nothing counted": placed(ALL, 1, None, more=MORE),
}
IN_PLACE = {
    "as usual": placed(ALL, 1, more=MORE),
    "nothing generated": placed(ALL, 0),
    "first certain, texts": placed(CERTAIN, 1, known="texts"),
    "first certain, ids": placed(CERTAIN, 1, known="ids"),
    "first certain, one more": placed(CERTAIN, 1, more=MORE),
    "not told, texts": placed(ALL, None, None, more=MORE, known="texts"),
    "not told, ids": placed(ALL, None, None, more=MORE, known="ids"),
    "parts of characters": placed((["\ufffd"] * 13, NATS), 1, more=MORE, known="texts"),
    "a block": placed(ALL, 1, block=True),
}


@pytest.mark.parametrize("case", [*SHIFTED, *IN_PLACE])
def test_entries_of_an_echo_are_those_of_its_ids_or_refused(case):
    if case in IN_PLACE:
        assert read_ids([IN_PLACE[case]], IDS[:9], IDS[9:]).value == math.fsum(NATS[9:])
        return
    with pytest.raises(CallError) as caught:
        read_ids([SHIFTED[case]], IDS[:9], IDS[9:])
    assert caught.value.code in ("length_mismatch", "ids_mismatch")


# Echoes of text, in which the response has to be found

PROMPT, RESPONSE, END = "<|im_start|>q\n", " yes no", "<|im_end|>"


def echo(text=PROMPT + RESPONSE + END, lead=(), **changes):
    answer = text_answer({"prompt": text, "echo": True, "model": MODEL})
    logprobs = answer["choices"][0]["logprobs"]
    for token in lead:
        shift = [0, *(o + len(token) for o in logprobs["text_offset"])]
        logprobs |= {"tokens": [token, *logprobs["tokens"]], "text_offset": shift}
        logprobs["token_logprobs"] = [None, -3.0, *logprobs["token_logprobs"][1:]]
        answer["usage"]["prompt_tokens"] += 1
    logprobs |= {k: v for k, v in changes.items() if k in logprobs}
    return answer | {k: v for k, v in changes.items() if k not in logprobs}


@pytest.mark.parametrize("lead", [(), ("<s>",), ("",)])
def test_a_token_put_in_front_by_the_endpoint_shifts_nothing(lead):
    measured = read_text([echo(lead=lead)], PROMPT, RESPONSE, END)
    assert measured.value == math.fsum(text_logprobs([" yes", " no", END], len(PROMPT)))
    assert (measured.payload["response_tokens"], measured.payload["end_tokens"]) == (3, 1)


def merged(answer, i):
    """Tokens i and i + 1 become one."""
    logprobs = answer["choices"][0]["logprobs"]
    logprobs["tokens"][i : i + 2] = ["".join(logprobs["tokens"][i : i + 2])]
    for key in ("token_logprobs", "text_offset"):
        del logprobs[key][i + 1]
    answer["usage"]["prompt_tokens"] -= 1
    return answer


WHOLE = echo()["choices"][0]["logprobs"]
OFFSETS, VALUES = WHOLE["text_offset"], WHOLE["token_logprobs"]
WRONG = {
    "one entry": ("echo_ignored", echo(token_logprobs=[-0.1])),
    "no tokens": ("ids_mismatch", echo(tokens=None)),
    "offsets of another text": ("ids_mismatch", echo(text_offset=[o + (o > 12) for o in OFFSETS])),
    "offsets that are no numbers": ("ids_mismatch", echo(text_offset=["0"] * len(OFFSETS))),
    "straddles the boundary": ("ids_mismatch", merged(echo(), 2)),
    "straddles the end": ("ids_mismatch", merged(echo(), 4)),
    "BOS twice": ("ids_mismatch", echo(lead=("<|im_start|>",))),
    "two in front": ("ids_mismatch", echo(lead=("<s>", "<s>"))),
    "another text": ("ids_mismatch", echo(PROMPT + " yes yes" + END)),
    "cut": ("length_mismatch", echo(**{k: v[:4] for k, v in WHOLE.items()})),
    "counted otherwise": ("length_mismatch", echo(usage={"prompt_tokens": 7})),
    "too many": ("length_mismatch", echo(**{k: [*v, *v[-1:] * 2] for k, v in WHOLE.items()})),
    "null": ("null_in_response", echo(token_logprobs=[*VALUES[:4], None, *VALUES[5:]])),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_an_echo_that_cannot_be_located_is_refused(fault):
    code, answer = WRONG[fault]
    with pytest.raises(CallError) as caught:
        read_text([answer], PROMPT, RESPONSE, END)
    assert (caught.value.kind, caught.value.code) == ("invalid", code)


# Answers that were given before


@pytest.fixture(scope="module")
def stub():
    """One server; every test says what it does."""
    with Stub() as made:
        yield made


def test_an_answer_to_another_prompt_is_refused_and_the_one_it_repeats_set_aside(home, stub):
    """Within a session a replay is refused, between two it is found among the stored rows. That all draws of a prompt
    have one answer is no replay."""

    def said(question):
        return chat_answer({"model": "stub", "messages": [{"role": "user", "content": f"question {question}"}]})

    def flagged(store):
        store.using(contexts(params).values())
        return {(flag.job, flag.code, int(flag.prompt_id[1:])) for flag in screening.scan(params, store)}

    one, two, late, old = [q for q in range(12) if len(said(q)["choices"][0]["token_ids"]) >= 4][:4]
    params, instead = make_params(home, stub.url, concurrency=1), {two: one, late: None}

    def replay(body, n):
        question = instead.get(question_of(body), question_of(body))
        return error(400, "no", "blocked") if question is None else said(question)

    stub.fault = replay
    store, outcome = run_responses(params)
    assert outcome.errors == {"duplicate_answer": 4, "blocked": 4}
    (found,) = flagged(store)
    assert found in {("responses", "duplicate_answer", question) for question in (one, two)}
    instead.clear()
    instead[late] = old
    store, outcome = run_responses(params, retry_errors=True)
    assert outcome.errors == {}
    assert flagged(store) == {("responses", "duplicate_answer", question) for question in (late, old)}
