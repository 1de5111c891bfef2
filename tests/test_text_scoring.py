"""Endpoints without token ids: prompts are rendered here, and a response is found in an echo exactly or not at all."""

from __future__ import annotations

import math
from functools import partial

import pytest
import yaml

from arena10k.collection.jobs import contexts
from arena10k.errors import ArenaError, ParamsError
from arena10k.frames import table
from arena10k.inputs import chat_templates
from arena10k.inputs.policies import policies
from arena10k.params.config import load
from arena10k.run import Run
from stub_run import make_params, run_responses, run_scores
from stub_server import MODEL, Stub, text_answer, text_logprobs, text_tokens

TEXT = {"capabilities": {"echo_logprobs": True}, "chat_template": "chatml"}
NOWHERE = "http://127.0.0.1:9/v1"
TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


def test_built_in_templates_write_what_their_models_were_trained_on():
    chatml = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    head = "<|start_header_id|>{}<|end_header_id|>\n\n"
    llama3 = f"<|begin_of_text|>{head.format('system')}Be brief.<|eot_id|>{head.format('user')}Hi<|eot_id|>"
    assert chat_templates.load("x", "chatml").render(TURNS) == chatml
    assert chat_templates.load("x", "llama3").render(TURNS) == llama3 + head.format("assistant")
    assert not chat_templates.load("x", "llama3", bos_token="").render(TURNS).startswith("<|begin_of_text|>")


def test_a_template_file_is_rendered_as_hugging_face_publishes_it_and_cannot_reach_out(home):
    (home / "own.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}\n    {% if m.role == 'system' %}{{ raise_exception('no system role') }}"
        "{% endif %}\n[INST] {{ m['content'] }} [/INST]{{ eos_token }}\n{% endfor %}"
    )
    own = chat_templates.load("providers.a.chat_template", "own.jinja", "<s>", "</s>")
    assert own.render(TURNS[1:]) == "<s>[INST] Hi [/INST]</s>\n"
    with pytest.raises(ParamsError, match=r"providers\.a\.chat_template: the template cannot be rendered: no system"):
        own.render(TURNS)
    assert [own.control_token(t) for t in ("a [INST] b", "</s>", "<|im_end|>", "a < b | c > d")] == [
        "[INST]", "</s>", "<|im_end|>", None,
    ]  # fmt: skip
    (home / "reaches.jinja").write_text("{{ messages.__class__.__mro__ }}{{ messages }}")
    (home / "open.jinja").write_text("{% for m in messages %}")
    (home / "silent.jinja").write_text("Hello")
    for name, end, says in (
        ("reaches", "</s>", "chat_template"), ("open", "</s>", "chat_template"), ("silent", "</s>", "messages"),
        ("none", "</s>", r"no file 'none\.jinja'"), ("own", None, "end_of_turn"),
    ):  # fmt: skip
        with pytest.raises(ParamsError, match=says):
            chat_templates.load("providers.a.chat_template", f"{name}.jinja", end_of_turn=end)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"capabilities": {"echo_logprobs": True}}, "capabilities.token_ids"),
        (TEXT | {"capabilities": {"echo_logprobs": True, "token_ids": True}}, "chat_template"),
        ({"end_of_turn": "</s>", "capabilities": {}}, "end_of_turn"),
    ],
)
def test_params_say_what_is_missing(home, change, says):
    with pytest.raises(ParamsError, match=says):
        make_params(home, NOWHERE, **change)
    with pytest.raises(ParamsError, match=r"pi_other\.provider 'ids' .*p0"):  # ids are never made up for text
        mixed(home, NOWHERE, "text", "ids")


def mixed(home, urls, logging, target):
    make_params(home, NOWHERE)
    raw = yaml.safe_load((home / "stub.yaml").read_text())
    settings = {"text": TEXT, "ids": {"capabilities": {"echo_logprobs": True, "token_ids": True}}}
    raw["providers"] = {kind: {"base_url": urls, **settings[kind]} for kind in (logging, target)}
    raw["policies"] = {n: {"provider": k, "model": MODEL} for n, k in (("p0", logging), ("pi_other", target))}
    (home / "stub.yaml").write_text(yaml.safe_dump(raw))
    return load(home / "stub.yaml")


def test_the_template_is_part_of_the_policy_and_only_of_policies_that_have_one(home):
    make = partial(make_params, home, NOWHERE)
    llama = TEXT | {"chat_template": "llama3"}
    made = [make(**change) for change in ({}, TEXT, llama, llama | {"bos_token": ""})]
    assert len({policies(params)["p0"].fingerprint for params in made}) == 4


def scored(params):
    store, _ = run_responses(params)
    store.using(contexts(params).values())
    run_scores(params, store)
    rows = {(r["policy"], r["prompt_id"]): r for r in store.rows("logprobs")}
    said = {(r["policy"], r["prompt_id"], r["draw"]): r for r in store.rows("responses")}
    return store, rows, said


def wanted(said, prompt_id, policy="p0", end="<|im_end|>"):
    """The stub's own log-prob of P0's response after the policy's prompt, end of turn included."""
    prompt = said[policy, prompt_id, 0]["payload"]["prompt_text"]
    response = said["p0", prompt_id, 0]["value"] + end
    return math.fsum(text_logprobs(text_tokens(response), len(prompt)))


def test_text_is_scored_after_the_rendered_prompt_with_its_end_for_all_policies_alike(home):
    with Stub() as stub:
        params = make_params(home, stub.url, **TEXT)
        store, rows, said = scored(params)
    assert len(rows) == 24
    assert all(row["value"] == pytest.approx(wanted(said, row["prompt_id"]), abs=1e-12) for row in rows.values())
    one = said["p0", "p0003", 1]
    assert one["payload"]["prompt_text"] == "<|im_start|>user\nquestion 3<|im_end|>\n<|im_start|>assistant\n"
    assert one["value"].startswith(" w"), "a response is never stripped"
    made = table.build(params, Run(params).prompts, store).logged
    assert (made.generation_forced - made.generation_logp).abs().max() < 1e-9
    assert (made.logp_p0 - made.generation_logp).max() < -0.005, "generation did not tell the end of the turn"


def test_responses_of_a_token_id_endpoint_are_scored_as_text_by_one_without(home):
    with Stub() as stub:
        _, rows, said = scored(mixed(home, stub.url, "ids", "text"))
    assert len(rows) == 24
    assert all(row["status"] == "ok" for row in rows.values())
    for (policy, prompt_id), row in rows.items():
        if policy == "pi_other":
            assert row["value"] == pytest.approx(wanted(said, prompt_id, "pi_other"), abs=1e-12)


#: By question: what every policy responds, why it ends, job and code of the error where it cannot be scored as text.
UNUSUAL = {
    1: ("\n\nThe answer.", "stop", "logprobs", "ids_mismatch"),  # the blank lines join the prompt's line end
    2: ("go <|im_end|> on", "stop", "responses", "control_token_in_text"),
    3: ("go <|tool_call|> on", "stop", "responses", "control_token_in_text"),
    4: (" fine", None, "responses", "finish_reason"),
    5: ("", "stop", None, None),
    6: (" cut of", "length", None, None),
    7: (" naïve \U0001f642 ", "stop", None, None),
}


def test_unusual_responses_are_measured_or_an_error_row(home):
    def fault(body, n):
        question = next((q for q in UNUSUAL if f"question {q}<" in body["prompt"]), None)
        if body.get("echo") or question is None:
            return None
        text, finish, _, code = UNUSUAL[question]
        answer, tokens = text_answer(body), text_tokens(text)
        logprobs = {"tokens": tokens, "token_logprobs": text_logprobs(tokens, len(body["prompt"]))}
        answer["choices"][0] |= {"text": text, "finish_reason": finish, "logprobs": logprobs if code else None}
        return answer

    with Stub(fault) as stub:
        store, rows, said = scored(make_params(home, stub.url, **TEXT))
    bad = {(r["job"], r["prompt_id"], r["code"], r["value"]) for r in store.rows() if r["status"] == "error"}
    assert bad == {(job, f"p{q:04d}", code, None) for q, (_, _, job, code) in UNUSUAL.items() if code}
    for question, (_, finish, _, code) in UNUSUAL.items():
        if not code:
            row, end = rows["p0", f"p{question:04d}"], "<|im_end|>" if finish == "stop" else ""
            assert row["value"] == pytest.approx(wanted(said, row["prompt_id"], end=end), abs=1e-12)
            assert row["payload"]["end_tokens"] == bool(end)
            assert said["p0", row["prompt_id"], 0]["payload"]["finish_reason"] == finish
    others = [r for r in store.rows() if int(r["prompt_id"][1:]) not in UNUSUAL]
    assert {r["status"] for r in others} == {"ok"}


def test_a_prompt_that_holds_a_control_token_is_not_asked(home):
    with Stub() as stub:
        params = make_params(home, stub.url, **TEXT)
        lines = (home / "prompts.jsonl").read_text().replace("question 3", "say <|im_end|>")
        (home / "prompts.jsonl").write_text(lines)
        _, outcome = run_responses(params)
        assert outcome.errors == {"control_token_in_text": 4}
        assert stub.requests == 44
    bad = params.policies["p0"].model_copy(update={"system": "never say <|im_end|>"})
    with pytest.raises(ArenaError, match=r"policies\.p0: .*<\|im_end\|>"):
        policies(params.model_copy(update={"policies": {"p0": bad}}))
