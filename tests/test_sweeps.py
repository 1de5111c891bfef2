"""Sweeps: what factors take, where cells run, what is kept of them, and how they are scored."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from arena10k.ablations import sweep as engine
from arena10k.ablations.factors import FACTORS, TREATMENTS, treat
from arena10k.ablations.scores import MEASURES, Truth, known_order, summary
from arena10k.ablations.sweep import Settings, Variant, sweep
from arena10k.errors import ArenaError
from arena10k.estimation import ESTIMATORS, Estimator, Score, Term
from arena10k.estimation.evaluation import study
from statistics_data import changed, example
from stub_run import forked

LEVELS = {"prompts": [60, None], "labels": [0.3, None]}
VARIANTS = [Variant("snips"), Variant("direct"), Variant("stacked_dr"), Variant("dr_oracle"), Variant("direct", "none")]
SEEDS = 2


@pytest.fixture(scope="module")
def data():
    logged = {"judge": example().logged.judge, "label": example().logged.label}
    return {f"pi_{k}": example(seed=k, sigma=0.4 + k, **logged) for k in range(2)}


@pytest.fixture(scope="module")
def measured(data):
    return sweep(data, VARIANTS, LEVELS, SEEDS, Settings(), jobs=1)


def taken(name, data, level):
    return FACTORS[name](data, level, np.random.default_rng(4))


# Factors and treatments


def test_a_smaller_part_is_in_the_larger_one_for_every_policy(data):
    marked = {p: changed(d, length=d.logged.cluster.astype(float), fresh_length=d.fresh.cluster.astype(float))
              for p, d in data.items()}  # fmt: skip
    small, large = (taken("prompts", marked, n) for n in (50, 120))
    (prompts,) = {frozenset(rows.length) for d in small.values() for rows in (d.logged, d.fresh)}
    assert len(prompts) == 50
    assert prompts < set(large["pi_0"].logged.length)
    part = small["pi_0"].logged
    assert set(part.cluster) == set(range(50))
    np.testing.assert_array_equal(part.judge, data["pi_0"].logged.judge[part.length.astype(int)])
    assert taken("prompts", data, 10_000) is data


def test_labels_are_taken_away_by_prompt_and_nothing_else_changes(data):
    whole = data["pi_1"]
    few, more = (taken("labels", data, share)["pi_1"] for share in (0.1, 0.5))
    has, has_few, has_more = (~np.isnan(d.logged.label) for d in (whole, few, more))
    assert has_few.sum() == round(0.1 * has.sum())
    assert (~np.isnan(more.fresh.label)).sum() == 30
    assert set(np.flatnonzero(has_few)) < set(np.flatnonzero(has_more))
    np.testing.assert_array_equal(more.logged.label[has_more], whole.logged.label[has_more])
    np.testing.assert_array_equal(more.logged.log_weight, whole.logged.log_weight)
    none = {"pi": changed(whole, label=np.full(400, np.nan))}
    assert np.isnan(taken("labels", none, 0.5)["pi"].logged.label).all()


def test_treatments_change_the_shortest_rows_only(data):
    base = -50.0 - np.arange(400) / 10
    data = data["pi_0"].with_logged(logp_target=base + data["pi_0"].logged.log_weight)
    made = {name: treat({"p": data}, name, 0.05)["p"].logged for name in TREATMENTS}
    lw, logp = ({name: getattr(d, kind) for name, d in made.items()} for kind in ("log_weight", "logp_target"))
    own, hit = data.logged, np.isnan(lw["quarantined"])
    assert hit.sum() == 20
    assert own.length[hit].max() <= own.length[~hit].min()
    np.testing.assert_array_equal(lw["recorded"], own.log_weight)
    assert np.isnan(logp["quarantined"][hit]).all()
    np.testing.assert_allclose(lw["sentinels"][hit], -base[hit], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(lw["sentinels_clipped"], np.clip(lw["sentinels"], -20, 20))
    for name in ("quarantined", "sentinels"):
        np.testing.assert_array_equal(lw[name][~hit], own.log_weight[~hit])
        np.testing.assert_array_equal(logp[name][~hit], own.logp_target[~hit])
    assert not [name for name in ("sentinels", "sentinels_clipped") if logp[name][hit].any()]
    np.testing.assert_array_equal(treat({"p": data}, "sentinels", 0.0)["p"].logged.log_weight, own.log_weight)
    logging = {"p": replace(data, is_logging=True)}
    assert treat(logging, "sentinels", 0.05)["p"] is logging["p"]


# Cells


def test_all_of_the_data_gives_the_estimates_of_the_run_and_cells_do_not_depend_on_each_other(data, measured):
    by_name = {(r["policy"], r["estimator"]): r for r in study({p: {"j": d} for p, d in data.items()}).rows}
    whole = measured[measured.prompts.isna() & measured.labels.isna() & (measured.calibration == "isotonic")]
    assert len(whole) == 4 * 2 * SEEDS
    for row in whole.itertuples():
        own = by_name[row.policy, row.estimator]
        assert [getattr(row, x) for x in MEASURES[:4]] == [own[x] for x in MEASURES[:4]]
    alone = sweep(data, [Variant("stacked_dr")], {"prompts": [60], "labels": [0.3]}, 1, Settings(), jobs=1)
    same = measured[(measured.estimator == "stacked_dr") & (measured.prompts == 60) & (measured.labels == 0.3)]
    pd.testing.assert_frame_equal(alone, same[same.seed < 1].reset_index(drop=True), check_exact=True)
    assert measured[(measured.estimator == "snips") & (measured.prompts == 60)].value.nunique() == 2 * 2 * SEEDS


class Other:
    """As the function where it is sent to, another digest here."""

    def __init__(self, function):
        self.function = function

    def __call__(self):
        return "another"

    def __reduce__(self):
        return getattr, (engine, "code_digest")


def test_processes_and_a_dask_cluster_give_the_same_digits(data, measured, monkeypatch):
    distributed = pytest.importorskip("distributed")
    two = sweep(data, VARIANTS, LEVELS, SEEDS, Settings(), jobs=2)
    pd.testing.assert_frame_equal(two, measured, check_exact=True)
    # Threads of one worker share what a process has one of, such as the number of threads of BLAS.
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster:
        monkeypatch.setenv("SCHEDULER", cluster.scheduler_address)
        there = sweep(data, VARIANTS, LEVELS, SEEDS, Settings())
        pd.testing.assert_frame_equal(there, measured, check_exact=True)
        # This process says that it has other code than the worker loaded.
        monkeypatch.setattr(engine, "code_digest", Other(engine.code_digest))
        with pytest.raises(ArenaError, match="another version of the library"):
            sweep(data, VARIANTS[:1], LEVELS, 1, Settings())


def test_a_scheduler_that_is_not_there_or_has_no_worker_is_said_in_one_line(data, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(engine, "CONNECT_SECONDS", 0.2)
    monkeypatch.setenv("SCHEDULER", "tcp://127.0.0.1:9")
    with pytest.raises(ArenaError, match=r"SCHEDULER=tcp://127\.0\.0\.1:9: no Dask scheduler answers there"):
        sweep(data, VARIANTS[:1], LEVELS, 1, Settings())
    with distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=None) as cluster:
        monkeypatch.setenv("SCHEDULER", cluster.scheduler_address)
        with pytest.raises(ArenaError, match="the scheduler has no workers"):
            sweep(data, VARIANTS[:1], LEVELS, 1, Settings())


def test_code_that_changes_while_a_process_runs_is_not_what_it_runs(tmp_path, monkeypatch, request):
    monkeypatch.setattr(engine, "_LIBRARY", tmp_path)
    request.addfinalizer(engine.code_digest.cache_clear)
    engine.code_digest.cache_clear()
    (tmp_path / "analysis.py").write_text("x = 1")
    loaded = engine.code_digest()
    (tmp_path / "analysis.py").write_text("x = 2")
    assert engine.code_digest() == loaded
    engine.code_digest.cache_clear()
    assert engine.code_digest() != loaded


# What is kept


def long_sweep(folder):
    variants, levels = [Variant("snips"), Variant("direct")], {"prompts": [100, None], "labels": [0.5, None]}
    return sweep({"pi": example(n=300)}, variants, levels, 15, Settings(), Path(folder), jobs=1)


def kept(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("output.pkl")}


@pytest.mark.filterwarnings("ignore:Exception while loading")
def test_a_killed_sweep_goes_on_where_it_was_and_what_is_torn_is_measured_again(tmp_path):
    with forked(long_sweep, tmp_path) as job:
        deadline = time.monotonic() + 120
        while len(kept(tmp_path)) < 20 and job.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        job.kill()
    before = kept(tmp_path)
    assert 20 <= len(before) < 120
    whole = long_sweep(tmp_path)
    assert whole.value.notna().all()
    after = kept(tmp_path)
    assert len(after) == 120
    assert {path: after[path] for path in before} == before
    torn, emptied, *rest = after
    torn.write_bytes(torn.read_bytes()[:-4])
    emptied.write_bytes(b"")
    again = long_sweep(tmp_path)
    pd.testing.assert_frame_equal(again, whole, check_exact=True)
    assert {path: kept(tmp_path)[path] for path in rest} == {path: after[path] for path in rest}
    assert long_sweep(tmp_path).attrs["seconds"] == again.attrs["seconds"] > 0


def test_a_failing_cell_leaves_the_others_done_and_a_rerun_does_only_it(data, tmp_path, monkeypatch):
    def fragile(prep):
        if len(prep.logged) == 60 and not (tmp_path / "fixed").exists():
            raise RuntimeError("disk full")
        return Score((Term("fresh", prep.fresh.judge, np.ones(len(prep.fresh))),))

    monkeypatch.setitem(ESTIMATORS, "fragile", Estimator("fragile", fragile, judge_scale=True))
    grid = (data, [Variant("fragile"), Variant("direct")], LEVELS, 3, Settings(), tmp_path / "cells", 1)
    fault = "fragile.isotonic: 6 of 12 cells failed, the first at prompts 60, labels 0.3, seed 0: pi_0: RuntimeError: "
    with pytest.raises(ArenaError, match=f"^{fault}disk full$"):
        sweep(*grid)
    before = kept(tmp_path)
    assert len(before) == 12 + 6
    (tmp_path / "fixed").touch()
    assert len(sweep(*grid)) == 24 * 2
    after = kept(tmp_path)
    assert len(after) == 24
    assert {path: after[path] for path in before} == before


@pytest.mark.parametrize("what", ["code", "data", "settings", "estimator"])
def test_cells_of_other_code_data_or_settings_are_not_taken_and_go(data, tmp_path, monkeypatch, what):
    def grid(data=data, seed=1):
        sweep(data, [Variant("snips")], {"labels": [None]}, 1, Settings(seed=seed), tmp_path, 1)
        (path,) = kept(tmp_path)
        return path

    def other(prep):
        return Score((Term("logged", prep.logged.judge, np.ones(len(prep.logged))),))

    before = grid()
    assert grid() == before
    if what == "code":
        monkeypatch.setattr(engine, "code_digest", lambda: "edited")
    if what == "estimator":
        monkeypatch.setitem(ESTIMATORS, "snips", replace(ESTIMATORS["snips"], function=other))
    turned = {p: changed(d, judge=d.logged.judge[::-1].copy()) for p, d in data.items()} if what == "data" else data
    assert grid(turned, 2 if what == "settings" else 1) != before


# Scores

TRUTH = [Truth("a", 0.8, 0.01, "t"), Truth("b", 0.6, 0.01, "t"), Truth("bad", None, None, "t", worst=True)]


def scored(truth, *replicates):
    """The summary of one estimator: per replicate the verdict and the values, intervals of 0.1 either way."""
    rows = [
        ("x", seed, t.policy, value, value - 0.1, value + 0.1, verdict, [], 9)
        for seed, (verdict, values) in enumerate(replicates)
        for t, value in zip(truth, values, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["estimator", "seed", "policy", *MEASURES])
    return summary(frame, truth, ["estimator"]).iloc[0]


def test_scores_by_hand():
    found = scored(TRUTH, ("REPORT", [0.85, 0.4, 0.1]), ("REFUSE", [0.5, 0.6, 0.9]))
    assert found.rmse == pytest.approx(np.sqrt((0.05**2 + 0.2**2 + 0.3**2 + 0) / 4))
    assert found.bias == pytest.approx((0.05 - 0.2 - 0.3) / 4)
    assert (found.coverage, found.refused, found.cells, found.coverage_accepted) == (0.5, 0.5, 2, 0.5)
    assert found.interval_score == pytest.approx((4 * 0.2 + 40 * 0.1 + 40 * 0.2) / 4)
    # First replicate: all three pairs right; second: none.
    assert (found.kendall, found.pairwise, found.misranked, found.misranked_accepted) == (0.0, 0.5, 0.5, 0.0)
    # Refusals that leave nothing to compare count as prevented.
    wrong = [0.5, 0.6, 0.9]
    found = scored(TRUTH, ("REPORT", wrong), *[("REFUSE", wrong)] * 9)
    assert (found.misranked, found.misranked_accepted) == (1.0, 0.1)


def test_kendall_is_that_of_scipy_and_only_an_order_beyond_chance_is_known():
    values, truth = np.random.default_rng(3).random((2, 7))
    found = scored([Truth(f"p{k}", v, 0.0, "t") for k, v in enumerate(truth)], ("REPORT", values))
    assert found.kendall == pytest.approx(stats.kendalltau(values, truth).statistic)
    # The bad policy counts without a value.
    np.testing.assert_array_equal(np.nan_to_num(known_order(TRUTH), nan=9), [[9, 1, 1], [-1, 9, 1], [-1, -1, 9]])
    close = [Truth("a", 0.8, 0.05, "t"), Truth("b", 0.72, 0.05, "t")]
    assert np.isnan(known_order(close)).all()
    found = scored(close, ("REPORT", [0.1, 0.9]))
    assert found[["kendall", "pairwise", "misranked"]].isna().all()
    assert found.rmse > 0
