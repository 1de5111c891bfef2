"""Rehearsals on data like a run's: the truth is known, so what they say of coverage can be checked."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from arena10k.estimators import PolicyData, prepare
from arena10k.simulation import rehearsal
from statistics_data import example

#: Few rows, where their number does not matter.
ROWS = 150
FRESH = [f for f in dataclasses.fields(PolicyData) if f.name.startswith("fresh_")]


@pytest.fixture(scope="module", autouse=True)
def few_rows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rehearsal, "MAX_ROWS", ROWS)
        yield


@pytest.fixture(scope="module")
def table():
    own = dataclasses.replace(example(300, target_labels=40), is_logging=True)
    return rehearsal.rehearse({"p0": own, "pi": example(300, target_labels=40)}, replicates=4, seed=1)


def test_population_is_the_runs_own_rows_with_weights_of_mean_one():
    data = example(300)
    lw = np.where(np.arange(300) < 7, np.nan, data.log_weight - 2)
    population = rehearsal.populations(dataclasses.replace(data, log_weight=lw), True)
    prep = prepare(dataclasses.replace(data, log_weight=lw))
    assert len(population.score) == 293
    # With a calibrated judge that transports, the truth of this population is the run's own SNIPS value.
    w = np.exp(lw[7:])
    assert population.truth() == pytest.approx(w @ prep.reward[7:] / w.sum(), abs=1e-12)
    rng = np.random.default_rng(0)
    assert np.exp(population.logged(200_000, rng)[0]).mean() == pytest.approx(1, abs=0.02)
    assert rehearsal.populations(example(20, log_weight=np.full(20, np.nan)), True) is None


def test_design_keeps_the_runs_shares_when_scaled_down():
    data = example(1000, target_labels=60)
    small = rehearsal.design(data, 0.02)
    assert (small.n, small.m, small.target_labels, small.corrupted) == (ROWS, ROWS, 60, 0.02)
    assert small.label_share == pytest.approx((~np.isnan(data.label)).mean())
    assert rehearsal.design(example(100), 0.0).n == 100


def test_design_keeps_few_draws_of_a_large_run_and_none_that_nobody_judged():
    few = example(4000, target_labels=40, fresh_judge=np.where(np.arange(4000) < 30, 0.5, np.nan))
    small = rehearsal.design(few, 0.0)
    assert (small.n, small.m, small.target_labels) == (ROWS, 30, 30)
    unjudged = example(400, fresh_judge=np.full(400, np.nan))
    assert (rehearsal.design(unjudged, 0.0).m, rehearsal.design(unjudged, 0.0).target_labels) == (0, 0)


def test_no_fresh_draw_is_invented_for_a_policy_that_has_none():
    alone = dataclasses.replace(example(300), **{f.name: None for f in FRESH})
    assert rehearsal.design(alone, 0.0).m == 0
    cells = rehearsal.rehearse({"pi": alone}, replicates=3, seed=1).set_index("estimator")
    for name in ("direct", "dr_cpo", "ppi_pp"):
        assert (cells.refused[name] == 1).all()
        assert cells.loc[name, ["bias", "coverage", "width"]].isna().all(axis=None)
    assert cells.coverage["snips"].notna().all()


def test_every_cell_has_every_estimator_and_the_logging_policy_is_none(table):
    cells = table.groupby(["population", "case"]).estimator.nunique()
    assert len(cells) == 9
    assert set(cells) == {len(rehearsal.NAMES)}
    assert set(table[table.own].population) == {"pi"}
    assert set(table.n) == {150}
    json.dumps(rehearsal.json_rows(table), allow_nan=False)


def test_the_same_seed_gives_the_same_cells_whatever_else_is_rehearsed(table):
    more = {"pi": example(300, target_labels=40), "pj": example(300, seed=2)}
    again = rehearsal.rehearse(more, replicates=4, seed=1)
    mine = [row for row in rehearsal.json_rows(again) if row["population"] == "pi"]
    assert mine == [row for row in rehearsal.json_rows(table) if row["population"] == "pi"]


def test_pooled_coverage_counts_intervals_that_stand(table):
    pooled = rehearsal.pooled(table).set_index(["case", "estimator"])
    some = table[(table.case == "transports") & (table.estimator == "snips") & table.coverage_reported.notna()]
    stand = (1 - some.refused) * some.replicates
    expected = (some.coverage_reported * stand).sum() / stand.sum()
    assert pooled.coverage_reported["transports", "snips"] == pytest.approx(expected)
    held, standing, fine = rehearsal.covered(table[table.own])
    assert 0 < held <= standing
    assert fine == (held / standing > 0.93)


def test_shares_that_hold_the_truth_are_told_by_judge_and_not_where_all_is_refused(table):
    own = table[table.own & (table.case == "transports")]
    hits, standing, _ = rehearsal.covered(own)
    assert rehearsal.held(table)["transports"].startswith(f"{hits / standing:.1%}")
    poor = rehearsal.held(table.assign(coverage_reported=0.5, refused=0.0, replicates=50))
    assert poor == dict.fromkeys(rehearsal.JUDGES, "50.0% (95% is wanted)")
    assert rehearsal.held(table.assign(refused=1.0)) == {"transports": None, "fooled": None}


def test_sentence_says_when_there_is_nothing_to_rehearse(table):
    assert "of the" in rehearsal.sentence(table)
    assert "nothing to rehearse" in rehearsal.sentence(table[~table.own])


def test_too_few_hits_are_found_and_chance_is_not(table):
    cells = table.assign(replicates=100, refused=0.0, coverage_reported=0.93)
    assert rehearsal.short_of(cells).empty
    cells.loc[5, "coverage_reported"] = 0.75
    assert list(rehearsal.short_of(cells).index) == [5]
