"""Snapshots are what the run was, are never overwritten, and are compared with what it is now."""

from __future__ import annotations

import json
import re
import shutil
from types import SimpleNamespace

import pytest

from arena10k import paths
from arena10k.errors import ArenaError
from arena10k.inputs.policies import unit_hash
from arena10k.pipeline import stages
from arena10k.rescoring import snapshots
from arena10k.run import Run
from in_process import arena, run_cells
from sample_copy import copied


def is_early(prompt_id):
    """Whether a prompt, one in two, is there when the snapshot is taken."""
    return unit_hash("some", prompt_id) < 0.5


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A run with a snapshot of half of its prompts, and all of its records now."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARENA10K_HOME", str(home))
        part = copied(home, lambda record: record if is_early(record.prompt_id) else None, "part")
        then = part.estimates(part.table())
        part.store.close()
        done = arena("snapshot", "part", "half", "--params", home / "part.yaml")
        assert done.returncode == 0, done.stderr
        assert "Snapshot half: " in done.stdout
        run = copied(home, name="grown")
        shutil.copytree(paths.snapshots_dir("part"), paths.snapshots_dir("grown"))
        yield SimpleNamespace(home=home, then=then, run=run, now=run.estimates(run.table()))


def test_a_snapshot_keeps_estimates_ranking_counts_and_coverage_and_another_state_does_not_take_its_name(grown):
    kept = snapshots.load("part", "half")
    assert (kept["rows"], kept["ranking"]) == (grown.then["rows"], grown.then["ranking"])
    early = sum(map(is_early, grown.run.prompts.prompt_id))
    assert kept["coverage"]["rows_with_all_logprobs"] == early
    forced = {j["policy"]: j for j in kept["quality"]["jobs"] if j["job"] == "logprobs"}
    assert {(j["total"], j["ok"]) for j in forced.values()} == {(120, early)}
    path = paths.snapshots_dir("part") / "half" / "snapshot.json"
    before = path.read_bytes()
    assert arena("snapshot", "part", "half", "--params", grown.home / "part.yaml").returncode == 0
    refused = arena("snapshot", "grown", "half", "--params", grown.home / "grown.yaml")
    assert refused.returncode == 2
    assert re.match("error: .*'half'.*'grown'", refused.stderr)
    assert path.read_bytes() == before


def state(ranking, **rows):
    """The content of estimates.json and of a snapshot: by policy value, ends of the interval and verdict."""
    columns = ("value", "ci_low", "ci_high", "verdict")
    made = [{"policy": p, "estimator": "e", "judge": "j"} | dict(zip(columns, r, strict=True)) for p, r in rows.items()]
    places = [{"policy": policy, "rank": rank} for policy, rank in ranking.items()]
    return {"rows": made, "ranking": places, "name": "then", "coverage": {"sentence": "All."}}


def test_the_comparison_is_then_against_now_row_by_row():
    none, a, odd = (None, None, None), (0.5, 0.4, 0.6, "REPORT"), (0.9, 0.4, 0.6, "REPORT")
    gone, never = (0.2, 0.1, 0.3, "REPORT"), (*none, "NOT_ASKED")
    then = state({"a": 1, "b": 2}, a=a, b=(0.3, None, None, "REFUSE"), gone=gone, odd=odd, never=never)
    b, odd = (0.3, 0.2, 0.4, "CAUTION"), (0.95, 0.4, 0.6, "REPORT")
    now = state({"a": 2, "b": 1}, a=(0.7, 0.6, 0.8, "REPORT"), b=b, new=(*none, "REFUSE"), odd=odd)
    both = snapshots.compare(then, now)
    assert list(both.policy) == ["a", "b", "new", "odd", "gone"]
    assert both.value_before.fillna(-1).tolist() == [0.5, 0.3, -1, 0.9, 0.2]
    assert both.ci_low_after.fillna(-1).tolist() == [0.6, 0.2, -1, 0.4, -1]
    assert both.change.fillna(0).tolist() == pytest.approx([0.2, 0, 0, 0.05, 0])
    assert list(both.policy[both.outside]) == ["a"], "the value of odd lay outside before"
    assert list(both.policy[both.verdict_changed]) == ["b", "new", "gone"]
    assert both.differs.all()
    assert both.rank_before.fillna(0).tolist() == [1, 2, 0, 0, 0]
    assert both.rank_after.fillna(0).tolist() == [2, 1, 0, 0, 0]
    text = snapshots.sentence(then, both)
    assert " 1 of 5 values" in text
    assert "3 verdicts changed" in text
    assert "a 1 to 2, b 2 to 1" in text
    same = snapshots.compare(then, then)
    assert not same[["differs", "outside", "verdict_changed"]].any().any()
    assert " 0 of 4 " in snapshots.sentence(then, same)


def test_the_newest_snapshot_is_the_default_and_unknown_names_are_said(grown):
    folder = paths.snapshots_dir("grown")
    older = json.loads((folder / "half" / "snapshot.json").read_text())
    newer = folder / "a_newer" / "snapshot.json"
    newer.parent.mkdir()
    newer.write_text(json.dumps(older | {"name": "a_newer", "taken": "2999-01-01T00:00:00+00:00"}))
    try:
        assert [snapshots.load("grown", name)["name"] for name in ("", "half")] == ["a_newer", "half"]
        with pytest.raises(ArenaError, match="'other': half, a_newer"):
            snapshots.load("grown", "other")
    finally:
        shutil.rmtree(newer.parent)


def test_a_snapshot_is_never_written_outside_its_folder(grown):
    files = {p for p in grown.home.rglob("*") if not p.name.startswith("store.sqlite")}
    for name in ("../out", "/abs", "a/b", ".hidden", "", "x" * 65, "a..b"):
        with pytest.raises(ArenaError, match="snapshot name"):
            snapshots.take(grown.run, name)
    assert {p for p in grown.home.rglob("*") if not p.name.startswith("store.sqlite")} == files


def test_recordings_and_runs_that_have_not_begun_have_none(home):
    for name in ("sample", "local"):
        with pytest.raises(ArenaError, match=f"run '{name}'"):
            snapshots.take(Run(name), "x")
    assert snapshots.load("sample") is None
    assert snapshots.sentence(None, None)


def test_the_summary_shows_the_snapshot_and_runs_again_when_there_is_a_new_one(grown, capsys):
    run_cells("09_ablation_summary", grown.home / "grown.yaml")
    page, stamp = capsys.readouterr().out, stages.stamp_file("grown", "09_ablation_summary")
    both = snapshots.compare(snapshots.load("grown"), grown.now)
    assert re.search(rf"\b{int(both.outside.sum())} of {len(both)} values", page)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text("{}")
    assert arena("snapshot", "grown", "all", "--params", grown.home / "grown.yaml").returncode == 0
    assert not stamp.is_file()
