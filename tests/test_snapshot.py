"""Snapshots are what the run was, are never overwritten, and are compared with what it is now."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from arena10k import paths
from arena10k.errors import ArenaError
from arena10k.inputs.policies import unit_hash
from arena10k.pipeline import stages
from arena10k.rescoring import snapshots
from arena10k.run import Run
from in_process import arena, run_cells
from sample_copy import copied

#: The share of the prompts that is there when the snapshot is taken.
SHARE = 0.5


def of_some_prompts(record):
    return record if unit_hash("some", record.prompt_id) < SHARE else None


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A run with a snapshot of half of its prompts, and all of its records now."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARENA10K_HOME", str(home))
        part = copied(home, of_some_prompts, "part")
        then = part.estimates(part.table())
        part.store.close()
        told = arena("snapshot", "part", "half", "--params", home / "part.yaml")
        assert told.returncode == 0, told.stderr
        run = copied(home, name="grown")
        shutil.copytree(paths.snapshots_dir("part"), paths.snapshots_dir("grown"))
        yield {"home": home, "then": then, "run": run, "now": run.estimates(run.table()), "said": told.stdout}


def test_a_snapshot_keeps_estimates_ranking_counts_and_coverage(grown):
    kept = snapshots.load("part", "half")
    assert (kept["rows"], kept["ranking"]) == (grown["then"]["rows"], grown["then"]["ranking"])
    prompts = [p for p in grown["run"].prompts.prompt_id if unit_hash("some", p) < SHARE]
    assert kept["coverage"]["rows_with_all_logprobs"] == len(prompts)
    forced = {j["policy"]: j for j in kept["quality"]["jobs"] if j["job"] == "logprobs"}
    assert {(j["total"], j["ok"]) for j in forced.values()} == {(120, len(prompts))}
    assert "Snapshot half: " in grown["said"]


def test_the_same_state_again_is_no_new_snapshot_and_another_state_does_not_take_the_name(grown):
    path = paths.snapshots_dir("part") / "half" / "snapshot.json"
    before = path.read_bytes()
    told = arena("snapshot", "part", "half", "--params", grown["home"] / "part.yaml")
    assert (told.returncode, path.read_bytes()) == (0, before)
    refused = arena("snapshot", "grown", "half", "--params", grown["home"] / "grown.yaml")
    assert refused.returncode == 2
    assert re.match("error: .*'half'.*'grown'", refused.stderr)
    assert path.read_bytes() == before


def test_the_comparison_is_then_against_now_row_by_row(grown):
    both = snapshots.compare(snapshots.load("grown"), grown["now"])
    then, now = (
        {(r["policy"], r["estimator"], r["judge"]): r for r in s["rows"]} for s in (grown["then"], grown["now"])
    )
    assert len(both) == len(then) == len(now)
    for row in both.to_dict("records"):
        key = row["policy"], row["estimator"], row["judge"]
        for name in ("value", "ci_low", "ci_high", "verdict"):
            for side, state in (("before", then), ("after", now)):
                kept = row[f"{name}_{side}"]
                assert (None if kept != kept else kept) == state[key][name]
        low, high, *values = (state[key][n] for state, n in (
            (then, "ci_low"), (then, "ci_high"), (then, "value"), (now, "value"),
        ))  # fmt: skip
        was, is_now = (None not in (v, low) and not low <= v <= high for v in values)
        assert row["outside"] == (is_now and not was)
        assert row["verdict_changed"] == (then[key]["verdict"] != now[key]["verdict"])
    for side, state in (("before", grown["then"]), ("after", grown["now"])):
        ranks = dict(zip(both.policy, both[f"rank_{side}"], strict=True))
        placed = {p: int(r) for p, r in ranks.items() if r is not None and r == r and str(r) != "<NA>"}
        assert placed == {place["policy"]: place["rank"] for place in state["ranking"]}
    told = snapshots.sentence(snapshots.load("grown"), both)
    facts = [int(both.outside.sum()), len(both), int(both.verdict_changed.sum())]
    assert set(map(str, facts)) <= set(re.findall(r"\d+", told))


def test_a_state_compared_with_itself_has_nothing_to_say(grown):
    state = snapshots.present(grown["run"]) | {"name": "now"}
    both = snapshots.compare(state, grown["now"])
    assert not both[["differs", "outside", "verdict_changed"]].any().any()
    told = snapshots.sentence(state, both)
    assert f" 0 of {len(both)} " in told


def test_a_policy_that_is_new_or_gone_is_missing_on_its_side(grown):
    less = grown["now"] | {"rows": [r for r in grown["now"]["rows"] if r["policy"] != "pi_bad"]}
    both = snapshots.compare(less | {"ranking": less["ranking"]}, grown["now"])
    new = both[both.policy == "pi_bad"]
    assert new.value_before.isna().all()
    assert new.verdict_changed.all()
    assert new.verdict_after.tolist() == [r["verdict"] for r in grown["now"]["rows"] if r["policy"] == "pi_bad"]


def test_the_newest_snapshot_is_the_default_and_unknown_names_are_said(grown):
    folder = paths.snapshots_dir("grown")
    older = json.loads((folder / "half" / "snapshot.json").read_text())
    newer = folder / "a_newer" / "snapshot.json"
    newer.parent.mkdir()
    newer.write_text(json.dumps(older | {"name": "a_newer", "taken": "2999-01-01T00:00:00+00:00"}))
    try:
        assert snapshots.names("grown") == ["half", "a_newer"]
        assert snapshots.load("grown")["name"] == "a_newer"
        assert snapshots.load("grown", "half")["name"] == "half"
        with pytest.raises(ArenaError, match="'other': half, a_newer"):
            snapshots.load("grown", "other")
    finally:
        shutil.rmtree(newer.parent)


@pytest.mark.parametrize("name", ["../out", "/abs", "a/b", ".hidden", "", "x" * 65, "a..b"])
def test_a_snapshot_is_never_written_outside_its_folder(grown, name):
    files = {p for p in grown["home"].rglob("*") if not p.name.startswith("store.sqlite")}
    with pytest.raises(ArenaError, match="snapshot name"):
        snapshots.take(grown["run"], name)
    assert {p for p in grown["home"].rglob("*") if not p.name.startswith("store.sqlite")} == files


def test_recordings_and_runs_that_have_not_begun_have_none(home):
    with pytest.raises(ArenaError, match="'sample'"):
        snapshots.take(Run("sample"), "x")
    run = Run("local")
    with pytest.raises(ArenaError, match="run 'local'"):
        snapshots.take(run, "x")
    assert snapshots.load("sample") is None
    assert snapshots.sentence(None, None)


def test_the_summary_shows_the_snapshot_and_runs_again_when_there_is_a_new_one(grown, capsys):
    run_cells("09_ablation_summary", grown["home"] / "grown.yaml")
    page, stamp = capsys.readouterr().out, stages.stamp_file("grown", "09_ablation_summary")
    both = snapshots.compare(snapshots.load("grown"), grown["now"])
    assert re.search(rf"\b{int(both.verdict_changed.sum())} verdicts? changed", page)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text("{}")
    told = arena("snapshot", "grown", "all", "--params", grown["home"] / "grown.yaml")
    assert told.returncode == 0, told.stderr
    assert not stamp.is_file()
