"""Sweeps: what factors take, where cells run, what is kept of them, and how they are scored."""

from __future__ import annotations

import json
import linecache
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from threadpoolctl import threadpool_info, threadpool_limits

from arena10k.ablations import fingerprint, sweeps
from arena10k.ablations.sweeps import Settings, Truth, Variant, backend
from arena10k.ablations.sweeps.backend import library_digest, one_thread
from arena10k.ablations.sweeps.factors import FACTORS, corrupted_rows, generator, n_prompts, treat
from arena10k.ablations.sweeps.kept import Kept
from arena10k.ablations.sweeps.scores import known_order, score, summary
from arena10k.analysis import Analysis
from arena10k.errors import ArenaError
from arena10k.estimation import ESTIMATORS, Estimator, Score, Term
from arena10k.estimation.evaluate import estimates
from statistics_data import example
from stub_run import forked

LEVELS = {"prompts": [60, None], "labels": [0.3, None]}
VARIANTS = [Variant("snips"), Variant("direct"), Variant("stacked_dr"), Variant("dr_oracle"), Variant("direct", "none")]
SEEDS = 3


@pytest.fixture(scope="module")
def data():
    logged = {"judge": example().judge, "label": example().label}
    return {f"pi_{k}": example(seed=k, sigma=0.4 + k, **logged) for k in range(2)}


@pytest.fixture(scope="module")
def measured(data):
    return sweeps.sweep(data, VARIANTS, LEVELS, SEEDS, Settings(), jobs=1)


def fresh_mean(prep):
    one = np.ones(len(prep.fresh))
    return Score((Term("fresh", prep.fresh.judge, one),))


# Factors and treatments


def test_a_smaller_part_is_in_the_larger_one_for_every_policy(data):
    marked = {p: replace(d, length=d.cluster.astype(float), fresh_length=d.fresh_cluster.astype(float))
              for p, d in data.items()}  # fmt: skip
    small, large = (FACTORS["prompts"](marked, n, generator(1, "prompts", 4)) for n in (50, 120))
    taken = {frozenset(d.length) for d in small.values()} | {frozenset(d.fresh_length) for d in small.values()}
    assert len(taken) == 1
    (prompts,) = taken
    assert len(prompts) == 50 == n_prompts(small)
    assert prompts < set(large["pi_0"].length)
    np.testing.assert_array_equal(small["pi_0"].judge, data["pi_0"].judge[small["pi_0"].length.astype(int)])
    assert FACTORS["prompts"](data, 10_000, generator(1, "prompts", 4)) is data


def test_labels_are_taken_away_by_prompt_and_nothing_else_changes(data):
    few, more = (FACTORS["labels"](data, share, generator(1, "labels", 0))["pi_1"] for share in (0.1, 0.5))
    had = ~np.isnan(data["pi_1"].label)
    assert (~np.isnan(few.label)).sum() == round(0.1 * had.sum())
    assert (~np.isnan(more.fresh_label)).sum() == 30
    assert set(np.flatnonzero(~np.isnan(few.label))) < set(np.flatnonzero(~np.isnan(more.label)))
    kept = ~np.isnan(more.label)
    np.testing.assert_array_equal(more.label[kept], data["pi_1"].label[kept])
    np.testing.assert_array_equal(more.log_weight, data["pi_1"].log_weight)


def test_treatments_change_the_shortest_rows_only(data):
    base = -50.0 - np.arange(400) / 10
    own = replace(data["pi_0"], logp_target=base + data["pi_0"].log_weight)
    hit = corrupted_rows(own, 0.05)
    assert hit.sum() == 20
    assert own.length[hit].max() <= own.length[~hit].min()
    made = {name: treat({"p": own}, name, 0.05)["p"].log_weight for name in sweeps.TREATMENTS}
    np.testing.assert_array_equal(made["recorded"], own.log_weight)
    assert np.isnan(made["quarantined"][hit]).all()
    np.testing.assert_allclose(made["sentinels"][hit], -base[hit], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(made["sentinels_clipped"], np.clip(made["sentinels"], -20, 20))
    for name in ("quarantined", "sentinels"):
        np.testing.assert_array_equal(made[name][~hit], own.log_weight[~hit])
    logp = {name: treat({"p": own}, name, 0.05)["p"].logp_target for name in sweeps.TREATMENTS}
    assert np.isnan(logp["quarantined"][hit]).all()
    assert (logp["sentinels"][hit] == 0).all()
    assert (logp["sentinels_clipped"][hit] == 0).all()
    np.testing.assert_array_equal(logp["sentinels"][~hit], own.logp_target[~hit])


# Cells


def test_all_of_the_data_gives_the_estimates_of_the_run(data, measured):
    rows = estimates({p: {"j": d} for p, d in data.items()})
    wanted = {(r["policy"], r["estimator"]): r for r in rows}
    whole = measured[measured.prompts.isna() & measured.labels.isna() & (measured.calibration == "isotonic")]
    assert len(whole) == 4 * 2 * SEEDS
    for row in whole.itertuples():
        own = wanted[row.policy, row.estimator]
        assert (row.value, row.ci_low, row.ci_high, row.verdict) == (
            own["value"], own["ci_low"], own["ci_high"], own["verdict"])  # fmt: skip


def test_a_cell_does_not_depend_on_what_else_is_measured(data, measured):
    alone = sweeps.sweep(data, [Variant("stacked_dr")], {"prompts": [60], "labels": [0.3]}, 2, Settings(), jobs=1)
    same = measured[(measured.estimator == "stacked_dr") & (measured.prompts == 60) & (measured.labels == 0.3)]
    pd.testing.assert_frame_equal(alone, same[same.seed < 2].reset_index(drop=True), check_exact=True)
    assert measured[(measured.estimator == "snips") & (measured.prompts == 60)].value.nunique() == 2 * 2 * SEEDS


def test_processes_and_a_dask_cluster_give_the_same_digits(data, measured, monkeypatch):
    distributed = pytest.importorskip("distributed")
    two = sweeps.sweep(data, VARIANTS, LEVELS, SEEDS, Settings(), jobs=2)
    pd.testing.assert_frame_equal(two, measured, check_exact=True)
    # Threads of one worker share what a process has one of, such as the number of threads of BLAS.
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster:
        monkeypatch.setenv("SCHEDULER", cluster.scheduler_address)
        there = sweeps.sweep(data, VARIANTS, LEVELS, SEEDS, Settings())
    pd.testing.assert_frame_equal(there, measured, check_exact=True)


def test_a_scheduler_that_is_not_there_is_said_in_one_line(data, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("arena10k.ablations.sweeps.backend.CONNECT_SECONDS", 0.2)
    monkeypatch.setenv("SCHEDULER", "tcp://127.0.0.1:9")
    with pytest.raises(ArenaError, match=r"SCHEDULER=tcp://127\.0\.0\.1:9: no Dask scheduler answers there"):
        sweeps.sweep(data, VARIANTS[:1], LEVELS, 1, Settings())


def long_sweep(folder):
    levels = {"prompts": [100, None], "labels": [0.5, None]}
    variants = [Variant("snips"), Variant("direct")]
    return sweeps.sweep({"pi": example(n=300)}, variants, levels, 60, Settings(), Path(folder), jobs=1)


def test_a_killed_sweep_goes_on_where_it_was(tmp_path):
    def lines():
        return {p.name: p.read_bytes().splitlines(keepends=True) for p in tmp_path.glob("*.jsonl")}

    with forked(long_sweep, tmp_path) as job:
        deadline = time.monotonic() + 120
        while sum(map(len, lines().values())) < 40 and job.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        job.kill()
    before = lines()
    assert 40 <= sum(map(len, before.values())) < 480
    for name in before:
        with (tmp_path / name).open("ab") as torn:
            torn.write(b'[[100, 0.5], 59, [["pi", 0.12')
    frame = long_sweep(tmp_path)
    assert frame.value.notna().all()
    after = lines()
    for name, kept in before.items():
        whole = [line for line in kept if line.endswith(b"\n")]
        assert after[name][: len(whole)] == whole
        points = [json.dumps(json.loads(line)[:2]) for line in after[name]]
        assert len(points) == len(set(points)) == 240


def test_a_line_that_is_not_whole_is_measured_again(data, tmp_path):
    grid = (data, [Variant("direct")], {"labels": [0.3, None]}, 3, Settings(), tmp_path, 1)
    whole = sweeps.sweep(*grid)
    (path,) = tmp_path.iterdir()
    lines = path.read_bytes().splitlines(keepends=True)
    # A full disk in the middle of the file, lines of another form, and no end.
    path.write_bytes(lines[0] + lines[1][:9] + lines[2] + b"[[null], 1]\n" + b"".join(lines[3:])[:-4])
    again = sweeps.sweep(*grid)
    pd.testing.assert_frame_equal(again, whole, check_exact=True)
    measured = [json.loads(line)[:2] for line in path.read_bytes().splitlines()[-3:]]
    assert sorted(measured, key=str) == sorted([json.loads(lines[i])[:2] for i in (1, 2, 5)], key=str)


def test_two_processes_at_the_same_cells_do_not_write_over_each_other(tmp_path):
    one, other = Kept(tmp_path / "snips.none.code.jsonl"), Kept(tmp_path / "snips.none.code.jsonl")
    for seed in range(3):
        one.add(((None,), seed), [["pi", 0.25]], 0.1)
        other.add(((None,), seed + 3), [["pi", 1 / 3]], 0.1)
    one.close()
    other.close()
    both = Kept(tmp_path / "snips.none.code.jsonl")
    both.close()
    assert sorted(seed for _, seed in both.rows) == list(range(6))


def test_what_cells_took_does_not_depend_on_when_they_were_measured(data, tmp_path):
    grid = (data, [Variant("direct"), Variant("snips")], {"labels": [0.3, None]}, 4, Settings(), tmp_path, 1)
    first = sweeps.sweep(*grid)
    assert first.attrs["seconds"] > 0
    assert sweeps.sweep(*grid).attrs["seconds"] == pytest.approx(first.attrs["seconds"], abs=1e-4)


def test_a_failing_cell_leaves_the_others_done_and_a_rerun_does_only_it(data, tmp_path, monkeypatch):
    def fragile(prep):
        if len(prep.logged) == 60 and not (tmp_path / "mended").exists():
            raise RuntimeError("disk full")
        return fresh_mean(prep)

    monkeypatch.setitem(ESTIMATORS, "fragile", Estimator("fragile", fragile, judge_scale=True))
    grid = (data, [Variant("fragile"), Variant("direct")], LEVELS, SEEDS, Settings(), tmp_path / "cells", 1)
    told = "fragile.isotonic: 6 of 12 cells failed, the first at prompts 60, labels 0.3, seed 0: pi_0: RuntimeError: "
    with pytest.raises(ArenaError, match=f"^{told}disk full$"):
        sweeps.sweep(*grid)

    def kept():
        return {p.name.split(".")[0]: p.read_bytes() for p in (tmp_path / "cells").iterdir()}

    before = kept()
    assert {name: text.count(b"\n") for name, text in before.items()} == {"direct": 12, "fragile": 6}
    (tmp_path / "mended").touch()
    frame = sweeps.sweep(*grid)
    after = kept()
    assert after["direct"] == before["direct"]
    assert after["fragile"].startswith(before["fragile"])
    assert after["fragile"].count(b"\n") == 12
    assert len(frame) == 24 * 2


def test_a_changed_estimator_makes_its_own_cells_out_of_date_and_those_that_use_it(monkeypatch):
    before = {name: Variant(name).code() for name in ESTIMATORS}
    monkeypatch.setitem(ESTIMATORS, "mrdr", replace(ESTIMATORS["mrdr"], function=fresh_mean))
    assert {name for name in before if Variant(name).code() != before[name]} == {"mrdr", "stacked_dr"}


def test_shared_code_counts_for_every_estimator_and_comments_for_none(monkeypatch):
    from arena10k.estimation import verdicts

    before = {name: Variant(name).code() for name in ("snips", "direct")}
    monkeypatch.setattr(verdicts, "FEW_LABELS", 21)
    assert all(Variant(name).code() != code for name, code in before.items())
    spaces: dict[str, dict] = {}
    for name, text in {"a": "x + 1", "b": "x + 1  # the same", "c": "x + 2"}.items():
        path = Path(str(name))
        spaces[name] = {"__name__": "toy"}
        source = f'def f(x):\n    """{name}"""\n    return {text}\n'
        linecache.cache[str(path)] = (len(source), None, source.splitlines(keepends=True), str(path))
        exec(compile(source, str(path), "exec"), spaces[name])
    digest = {name: fingerprint.code_digest(space["f"]) for name, space in spaces.items()}
    assert digest["a"] == digest["b"] != digest["c"]


LIMIT = Settings(Analysis(width=0.1))


def reads_a_constant(prep):
    return LIMIT.analysis.width


def reads_a_module(prep):
    from arena10k.estimation import verdicts

    return verdicts.FEW_LABELS


def has_a_default(prep, limit=LIMIT):
    return limit.analysis.width


@pytest.mark.parametrize("change", ["constant", "module", "default"])
def test_values_that_code_reads_count(monkeypatch, change):
    from arena10k.estimation import verdicts

    function = {"constant": reads_a_constant, "module": reads_a_module, "default": has_a_default}[change]
    before, other = fingerprint.code_digest(function), Settings(Analysis(width=0.3))
    assert fingerprint.code_digest(function) == before
    monkeypatch.setattr(sys.modules[__name__], "LIMIT", other)
    monkeypatch.setattr(verdicts, "FEW_LABELS", 21)
    monkeypatch.setattr(has_a_default, "__defaults__", (other,))
    assert fingerprint.code_digest(function) != before


def test_how_a_cell_is_measured_counts(data, tmp_path, monkeypatch):
    grid = (data, [Variant("direct")], {"labels": [None]}, 1, Settings(), tmp_path, 1)
    sweeps.sweep(*grid)
    (before,) = tmp_path.iterdir()
    for module in (sweeps.engine, sweeps.scores):
        monkeypatch.setattr(module, "MEASURES", ("value", "ci_low", "ci_high", "verdict", "khat"))
    assert "khat" in sweeps.sweep(*grid)
    (after,) = tmp_path.iterdir()
    assert after.name != before.name


def test_a_worker_that_loaded_an_older_library_is_known(tmp_path, monkeypatch, request):
    monkeypatch.setattr(backend, "_LIBRARY", tmp_path)
    request.addfinalizer(library_digest.cache_clear)
    library_digest.cache_clear()
    (tmp_path / "module.py").write_text("x = 1")
    loaded = library_digest()
    (tmp_path / "module.py").write_text("x = 2")
    assert library_digest() == loaded
    library_digest.cache_clear()
    assert library_digest() != loaded


def test_blas_has_one_thread_until_the_last_is_done():
    def threads():
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    with threadpool_limits(2):
        with one_thread:
            one_thread.__enter__()
            assert threads() == {1}
        assert threads() == {1}
        one_thread.__exit__()
        assert threads() == {2}


# Scores

TRUTH = [Truth("a", 0.8, 0.01, "t"), Truth("b", 0.6, 0.01, "t"), Truth("bad", None, None, "t", worst=True)]


def rows(values, verdict="REPORT", seed=0):
    return [("x", seed, p, v, v - 0.1, v + 0.1, verdict, [], 9) for p, v in zip(("a", "b", "bad"), values, strict=True)]


def frame_of(some):
    return pd.DataFrame(some, columns=["estimator", "seed", "policy", *sweeps.engine.MEASURES])


def test_scores_by_hand():
    frame = frame_of(rows([0.85, 0.4, 0.1]) + rows([0.5, 0.6, 0.9], "REFUSE", 1))
    found = summary(frame, TRUTH, ["estimator"]).iloc[0]
    assert found.rmse == pytest.approx(np.sqrt((0.05**2 + 0.2**2 + 0.3**2 + 0) / 4))
    assert found.bias == pytest.approx((0.05 - 0.2 - 0.3) / 4)
    assert (found.coverage, found.refused, found.cells) == (0.5, 0.5, 2)
    assert found.coverage_standing == 0.5
    assert found.interval_score == pytest.approx((4 * 0.2 + 40 * 0.1 + 40 * 0.2) / 4)
    # First replicate: all three pairs right; second: none.
    assert (found.kendall, found.pairwise) == (0.0, 0.5)
    assert (found.misranked, found.misranked_standing) == (0.5, 0.0)
    assert score(frame, TRUTH).error.isna().sum() == 2


def test_refusals_that_leave_nothing_to_compare_count_as_prevented():
    wrong = [0.5, 0.6, 0.9]
    some = [*rows(wrong), *(row for seed in range(1, 10) for row in rows(wrong, "REFUSE", seed))]
    found = summary(frame_of(some), TRUTH, ["estimator"]).iloc[0]
    assert (found.misranked, found.misranked_standing) == (1.0, 0.1)


def test_kendall_is_that_of_scipy_and_the_bad_policy_counts_without_a_value():
    rng = np.random.default_rng(3)
    truth = [Truth(f"p{k}", float(v), 0.0, "t") for k, v in enumerate(rng.random(7))]
    values = rng.random(7)
    frame = frame_of([("x", 0, t.policy, v, 0.0, 1.0, "REPORT", [], 1) for t, v in zip(truth, values, strict=True)])
    found = summary(frame, truth, ["estimator"]).iloc[0]
    assert found.kendall == pytest.approx(stats.kendalltau(values, [t.value for t in truth]).statistic)
    np.testing.assert_array_equal(np.nan_to_num(known_order(TRUTH), nan=9), [[9, 1, 1], [-1, 9, 1], [-1, -1, 9]])


def test_truths_within_chance_of_each_other_have_no_order():
    close = [Truth("a", 0.8, 0.05, "t"), Truth("b", 0.72, 0.05, "t")]
    assert np.isnan(known_order(close)).all()
    frame = frame_of([("x", 0, "a", 0.1, 0, 1, "REPORT", [], 1), ("x", 0, "b", 0.9, 0, 1, "REPORT", [], 1)])
    found = summary(frame, close, ["estimator"]).iloc[0]
    assert found[["kendall", "pairwise", "misranked"]].isna().all()
    assert found.rmse > 0
