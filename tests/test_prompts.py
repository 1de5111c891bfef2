"""Prompts: where they come from is checked, their order is stable, and a run keeps the ones it has."""

from __future__ import annotations

import json

import pytest

from arena10k import oracle, prompts
from arena10k.config import load
from arena10k.errors import ArenaError
from test_collect import make_params


def with_lines(home, lines):
    params = make_params(home, "http://127.0.0.1:9/v1")
    (home / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return params


def line(prompt_id, prompt):
    return json.dumps({"prompt_id": prompt_id, "prompt": prompt})


def test_order_depends_on_ids_and_seed_only(home):
    lines = [line(f"p{i}", f"question {i}") for i in range(30)]
    first, _ = prompts.load(with_lines(home, lines))
    again, _ = prompts.load(with_lines(home, lines[::-1]))
    assert list(first.prompt_id) == list(again.prompt_id) != sorted(first.prompt_id)


def test_equal_prompts_are_kept_once_and_counted(home):
    frame, counts = prompts.load(
        with_lines(home, [line("a", "Hello there"), line("b", " hello   THERE"), line("c", "x")])
    )
    assert sorted(frame.prompt_id) == ["a", "c"]
    assert counts == {"read": 3, "duplicate_text": 1, "not_sampled": 0, "kept": 2}


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("not json", "prompts.jsonl:2: not valid JSON"),
        ('{"prompt_id": "b"}', "prompts.jsonl:2: 'prompt' is missing or not a text"),
        ('{"prompt_id": 7, "prompt": "x"}', "prompts.jsonl:2: 'prompt_id' is missing or not a text"),
        ("[1]", "prompts.jsonl:2: 'prompt_id' is missing or not a text"),
        (line("a", "other"), "prompt_id 'a' occurs more than once"),
    ],
)
def test_bad_rows_are_named_by_file_line_and_field(home, bad, says):
    with pytest.raises(ArenaError, match=says):
        prompts.load(with_lines(home, [line("a", "x"), bad]))


def test_a_run_keeps_its_prompts(home):
    params = with_lines(home, [line("a", "x")])
    frame, _ = prompts.load(params)
    prompts.write(params, frame)
    assert prompts.read("stub").equals(frame)
    other, _ = prompts.load(with_lines(home, [line("b", "y")]))
    with pytest.raises(ArenaError, match="already has other prompts"):
        prompts.write(params, other)


def test_every_built_in_prompt_has_a_checker_that_accepts_its_answer():
    frame, counts = prompts.load(load("local"))
    assert 100 <= counts["kept"] <= 150
    for row in frame.itertuples():
        spec = json.loads(row.check)
        assert oracle.check(spec, row.answer, prompt_id=row.prompt_id) in (0.0, 1.0)
        assert oracle.check(spec, "I do not know.", prompt_id=row.prompt_id) == 0.0
        assert oracle.check(spec, "", prompt_id=row.prompt_id) == 0.0
