"""Prompts: what is asked is what the filters say, the order is stable, and a run keeps the prompts it has."""

from __future__ import annotations

import json
import re
import unicodedata

import pytest

from arena10k import paths
from arena10k.collection.store import Store
from arena10k.errors import ArenaError
from arena10k.inputs import prompts
from arena10k.inputs.policies import unit_hash
from arena10k.params.config import load
from arena10k.params.sections import PromptsParams
from arena10k.run import Run
from arena_export import as_json, conversation, row, write_parquet
from in_process import arena
from stub_run import make_params


def with_lines(home, lines, **wanted):
    params = make_params(home, "http://127.0.0.1:9/v1")
    (home / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return asking(params, path="prompts.jsonl", **wanted)


def asking(params, source="jsonl", **wanted):
    return params.model_copy(update={"prompts": PromptsParams(source=source, **wanted)})


def line(prompt_id, prompt, **more):
    return json.dumps({"prompt_id": prompt_id, "prompt": prompt, **more})


def removed(counts):
    return {name: n for name, n in counts.items() if n and name not in ("read", "kept")}


def test_the_order_depends_on_ids_and_seed_only_and_new_rows_leave_it(home):
    old = [line(f"p{i}", f"question {i}") for i in range(60)]
    new = [line(f"n{i}", f"new question {i}") for i in range(40)]
    before, _ = prompts.load(with_lines(home, old))
    other_seed, _ = prompts.load(with_lines(home, old).model_copy(update={"seed": 2}))
    assert sorted(other_seed.prompt_id) == sorted(before.prompt_id)
    assert len({tuple(order) for order in (sorted(before.prompt_id), before.prompt_id, other_seed.prompt_id)}) == 3
    for lines in (old[::-1], old + new, new + old):
        after, _ = prompts.load(with_lines(home, lines))
        assert [p for p in after.prompt_id if p.startswith("p")] == list(before.prompt_id)
        sampled, counts = prompts.load(with_lines(home, lines, max_prompts=25))
        assert list(sampled.prompt_id) == list(after.prompt_id)[:25]
        assert removed(counts) == {"not_sampled": len(lines) - 25}


MIXED = [
    row("differs", "one prompt", conversation_b=conversation("another prompt"), language=None),
    row("no language", "x", language=None),
    row("blank language", "x", language=" "),
    row("german", "Hallo", language="German"),
    row("lower", "hello", language="english"),
    row("empty", ""),
    row("blank", " \n\u3000"),
    row("kept 1", "Stra\u00dfe  \ufb01nden"),
    row("exact", "Stra\u00dfe  \ufb01nden"),
    row("folded", "STRASSE finden"),
    row("spaces", "\tstrasse \n FINDEN "),
    row("forms", "\uff33trasse\u00a0finden"),
    row("short", "abc"),
    row("short too", "ABC"),
    row("long", "x" * 41),
    row("kept 2", "x" * 40),
    row("kept 3", "four"),
]
COUNTED = (17, 1, 2, 2, 2, 1, 4, 1, 1, 0, 3)
MIXED_COUNTS = dict(zip(("read", *prompts.FILTERS, "kept"), COUNTED, strict=True))


@pytest.mark.parametrize("name", ["arena.json", "arena.parquet"])
def test_every_filter_counts_what_it_removes_in_the_order_that_is_documented(home, name):
    if name.endswith("parquet"):
        write_parquet(home / name, MIXED)
    else:
        (home / name).write_text(as_json(MIXED), encoding="utf-8")
    wanted = {"path": name, "language": "English", "min_chars": 4, "max_chars": 40}
    params = asking(make_params(home, "http://127.0.0.1:9/v1"), "arena", **wanted)
    frame, counts = prompts.load(params)
    assert sorted(frame.prompt_id) == ["kept 1", "kept 2", "kept 3"]
    assert list(counts.items()) == list(MIXED_COUNTS.items())
    assert frame.set_index("prompt_id").prompt["kept 1"] == "Stra\u00dfe  \ufb01nden"
    assert set(frame.language) == {"English"}
    assert frame[["category", "answer", "check"]].isna().all(axis=None)
    sampled, counts = prompts.load(asking(params, "arena", **wanted, max_prompts=2))
    assert (counts["not_sampled"], counts["kept"], len(sampled)) == (1, 2, 2)
    assert sampled.equals(frame[:2])
    _, unasked = prompts.load(asking(params, "arena", path=name))
    assert removed(unasked) == {"conversations_differ": 1, "empty": 2, "exact_duplicate": 2, "normalised_duplicate": 4}


def test_what_was_left_out_is_said_and_tabled(home):
    assert re.findall(r"\d+", prompts.sentence(MIXED_COUNTS)) == [*"3", "17", *"12221411"]
    steps = prompts.steps(MIXED_COUNTS)
    assert list(steps["filter"]) == list(prompts.FILTERS.values())
    assert list(steps.left_out) == [1, 2, 2, 2, 1, 4, 1, 1, 0]
    assert list(steps.left) == [16, 14, 12, 10, 9, 5, 4, 3, 3]


def test_where_nothing_is_left_the_reasons_are_said(home):
    lines = [line("a", "x", language="German"), line("b", "y", language="German"), line("c", "z", language="French")]
    with pytest.raises(ArenaError) as caught:
        prompts.load(with_lines(home, lines, language="english"))
    assert re.findall(r"'\w+'|\d", str(caught.value)) == ["0", "3", "3", "'German'", "2", "'French'", "1"]


def test_optional_fields_are_kept_and_line_separators_within_a_prompt_end_no_row(home):
    check = {"values": ["4"], "kind": "contains_any"}
    full = {
        "prompt_id": "a",
        "prompt": "2 +\u20282?",
        "category": "sum",
        "language": "en",
        "answer": "4",
        "check": check,
    }
    frame, _ = prompts.load(with_lines(home, [json.dumps(full, ensure_ascii=False), line("b", "y")]))
    by_id = frame.set_index("prompt_id")
    assert by_id.loc["a"].to_dict() == {k: v for k, v in full.items() if k != "prompt_id"} | {
        "check": '{"kind": "contains_any", "values": ["4"]}'
    }
    assert by_id.loc["b"].isna().to_dict() == dict.fromkeys(by_id, True) | {"prompt": False}


def test_the_recorded_prompts_are_what_is_loaded_today():
    params = load("sample")
    frame, counts = prompts.load(params)
    assert frame.equals(prompts.read("sample"))
    assert removed(counts) == {}


def test_real_prompts_are_the_same_from_every_source(home, shared_data):
    lines = (shared_data / "arena_prompts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(text) for text in lines]
    params = with_lines(home, lines, language="English", min_chars=5, max_chars=2000, max_prompts=1000)
    frame, counts = prompts.load(params)

    texts = {r["prompt"] for r in rows}
    unique = {" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts}
    assert counts["exact_duplicate"] == len(rows) - len(texts)
    assert counts["normalised_duplicate"] == len(texts) - len(unique) > 0
    assert frame.prompt.str.len().between(5, 2000).all()
    order = sorted(frame.prompt_id, key=lambda p: unit_hash(params.seed, "order", p))
    assert (list(frame.prompt_id), len(frame)) == (order, 1000)
    assert counts["read"] == counts["kept"] + sum(removed(counts).values()) == 5000
    exported = [row(r["prompt_id"], r["prompt"], language=r["language"]) for r in rows]
    (home / "arena.json").write_text(as_json(exported), encoding="utf-8")
    write_parquet(home / "arena.parquet", exported)
    for path in ("arena.json", "arena.parquet"):
        again = asking(params, **params.prompts.model_dump() | {"source": "arena", "path": path})
        from_export, export_counts = prompts.load(again)
        assert from_export.equals(frame)
        assert export_counts == counts


def test_a_run_keeps_its_prompts(home):
    params = with_lines(home, [line("a", "x")])
    frame, _ = prompts.load(params)
    prompts.write(params, frame)
    assert prompts.read("stub").equals(frame)
    other, _ = prompts.load(with_lines(home, [line("b", "y")]))
    with pytest.raises(ArenaError, match="other prompts"):
        prompts.write(params, other)


@pytest.mark.parametrize("cut", [1.0, 0.5, 0.0])
def test_a_damaged_or_removed_file_of_prompts_is_named_with_what_to_do(home, cut):
    make_params(home, "http://127.0.0.1:9/v1")
    params = with_lines(home, [line(f"p{i}", f"question {i}") for i in range(40)])
    frame, _ = prompts.load(params)
    prompts.write(params, frame)
    Store.open(paths.store_file("stub")).close()
    file = paths.prompts_file("stub")
    whole = file.read_bytes()
    file.unlink()
    if cut < 1:
        file.write_bytes(whole[: int(cut * len(whole))])
    says = "data/stub/prompts.parquet: "
    with pytest.raises(ArenaError, match=re.escape(says)) as caught:
        Run(home / "stub.yaml").prompts  # noqa: B018 - it is read when it is asked for
    assert "sample" not in str(caught.value)
    told = arena("status", "stub", "--params", home / "stub.yaml")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == f"error: {caught.value}\n"
    # What the message says to do mends it.
    file.unlink(missing_ok=True)
    prompts.write(params, frame)
    assert Run(home / "stub.yaml").prompts.equals(frame)


def test_a_recording_without_prompts_is_not_among_those_that_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "source_root", lambda: tmp_path)
    with pytest.raises(ArenaError, match="'sample'"):
        prompts.read("sample")
    folder = paths.data_dir("sample")
    folder.mkdir(parents=True)
    (folder / "records.parquet").write_bytes(b"")
    with pytest.raises(ArenaError, match="git checkout"):
        prompts.read("sample")
