"""The coverage simulation on data like a run's: the truth is known, so what it says of coverage can be checked."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from arena10k.estimation import PolicyData, prepare
from arena10k.plots.performance import coverage as drawn
from arena10k.run import Run
from arena10k.simulation import coverage
from arena10k.simulation.simulate import PLAIN
from arena10k.wording import percent
from statistics_data import changed, example, two_stage_folds

#: Few rows, where their number does not matter.
ROWS = 150


@pytest.fixture(scope="module")
def table():
    own = changed(example(300, target_labels=40), is_logging=True)
    return coverage.simulated({"p0": own, "pi": example(300, target_labels=40)}, replicates=4, seed=1, rows=ROWS)


def test_population_is_the_runs_own_rows_with_weights_of_mean_one():
    data = example(300)
    lw = np.where(np.arange(300) < 7, np.nan, data.logged.log_weight - 2)
    made, prep = coverage.populations(changed(data, log_weight=lw)), prepare(changed(data, log_weight=lw))
    assert list(made) == list(coverage.CASES)
    assert len(made["transports"].score) == 293
    # With a calibrated judge that transports, the truth of this population is the run's own SNIPS value.
    truth, w = {case: population.truth() for case, population in made.items()}, np.exp(lw[7:])
    assert truth["transports"] == pytest.approx(w @ prep.reward[7:] / w.sum(), abs=1e-12)
    assert truth["fooled"] < truth["transports"] - coverage.SHIFT / 2
    assert truth["unseen"] == pytest.approx((1 - coverage.UNSEEN) * truth["transports"])
    weights = np.exp(made["transports"].logged(100_000, np.random.default_rng(0))[0])
    assert weights.mean() == pytest.approx(1, abs=0.02)
    assert coverage.populations(example(20, log_weight=np.full(20, np.nan))) == {}


def test_design_keeps_the_runs_shares_when_scaled_down_and_no_draw_that_nobody_judged():
    data = example(1000, target_labels=60)
    small = coverage.design(data, rows=ROWS)
    assert (small.n, small.m, small.target_labels) == (ROWS, ROWS, 60)
    assert small.label_share == pytest.approx((~np.isnan(data.logged.label)).mean())
    assert coverage.design(example(100)).n == 100
    few = coverage.design(
        example(400, target_labels=40, fresh_judge=np.where(np.arange(400) < 30, 0.5, np.nan)), rows=ROWS
    )
    assert (few.n, few.m, few.target_labels) == (ROWS, 30, 30)


def test_no_fresh_draw_is_invented_for_a_policy_that_has_none():
    alone = PolicyData(example(300).logged)
    assert coverage.design(alone).m == 0
    cells = coverage.simulated({"pi": alone}, replicates=2, seed=1, rows=ROWS)
    cells = cells[cells.own].set_index("estimator")
    for name in ("direct", "dr_cpo", "ppi_pp"):
        assert (cells.refused[name] == 1).all()
        assert cells.loc[name, ["bias", "coverage", "width"]].isna().all(axis=None)
    assert cells.coverage["snips"].notna().all()
    assert cells.truth.notna().all()


def test_every_cell_has_every_estimator_and_the_logging_policy_is_none(table):
    cells = table.groupby(["population", "case"]).estimator.nunique()
    assert len(cells) == len(coverage.CASES) + len(coverage.beside())
    assert set(cells) == {len(coverage.NAMES)}
    assert set(table[table.own].population) == {"pi"}
    assert set(table.n) == {ROWS}
    assert "nothing to simulate" in coverage.sentence(table[~table.own])
    for case in coverage.CASES.values():
        assert f"with {case}, " in coverage.sentence(table)


def test_the_same_seed_gives_the_same_cells_whatever_else_is_simulated(table, monkeypatch):
    monkeypatch.setattr(coverage, "beside", lambda *_: [])
    more = {"pi": example(300, target_labels=40), "pj": example(300, seed=2)}
    again = coverage.simulated(more, replicates=4, seed=1, rows=ROWS)
    mine, first = (cells[cells.population == "pi"].reset_index(drop=True) for cells in (again, table))
    assert mine.equals(first)


def test_reports_and_cautions_are_counted_apart(table):
    pooled = coverage.pooled(table).set_index(["case", "estimator"])
    for key, cells in table.groupby(["case", "estimator"]):
        for verdict in ("report", "caution"):
            given, held = cells[verdict].sum(), (cells[f"held_{verdict}"].fillna(0) * cells[verdict]).sum()
            expected = held / given if given else np.nan
            assert pooled.loc[key, f"held_{verdict}"] == pytest.approx(expected, nan_ok=True)
    claims = coverage.claims(table)
    assert claims.n.sum() == pytest.approx(((table.report + table.caution) * table.replicates).sum())
    assert set(zip(claims.verdict, claims.wanted.round(9), strict=True)) == {("REPORT", 0.95), ("CAUTION", 0.9)}


def of(table, share, n=50, caution=0.0):
    """The table with `n` replicates a cell, of which `share` hold the truth."""
    return table.assign(replicates=n, report=1 - caution, caution=caution, held_report=share, held_caution=share)


def test_shares_that_hold_the_truth_are_told_by_case_and_not_where_all_is_refused(table):
    claims = coverage.claims(table[table.own & (table.case == "transports") & (table.estimator != PLAIN)])
    assert coverage.held(table)["transports"].startswith(percent(claims.held.sum() / claims.n.sum()))
    told = "50% (95% of REPORT and 90% of CAUTION are wanted)"
    assert coverage.held(of(table, 0.5)) == dict.fromkeys(coverage.CASES, told)
    assert coverage.held(of(table, 0.92, caution=1.0)) == dict.fromkeys(coverage.CASES, "92%")
    assert coverage.held(table.assign(report=0.0, caution=0.0)) == dict.fromkeys(coverage.CASES)


def test_too_few_hits_are_found_and_chance_is_not(table):
    row, alpha = coverage.judged(of(table, 0.9, 40)).iloc[0], 0.05 / len(table)
    assert stats.binom.cdf(36, 40, row.high) == pytest.approx(alpha)
    assert stats.binom.sf(35, 40, row.low) == pytest.approx(alpha)
    cells = of(table, 0.93, 100)
    assert not coverage.judged(cells).under.any()
    cells.loc[5, "held_report"] = 0.75
    found = coverage.judged(cells)
    assert list(found[found.under].index) == [5]
    # Of cautions less is wanted.
    assert coverage.judged(of(table, 0.84, 150)).under.all()
    assert not coverage.judged(of(table, 0.84, 150, 1.0)).under.any()


def test_title_and_marks_tell_of_the_same_settings(table):
    """What under-covers has the whole of its interval left of what is wanted; marks pool the settings."""
    rng = np.random.default_rng(0)
    share = rng.binomial(50, rng.choice([0.5, 0.8, 0.9, 0.95], len(table))) / 50
    cells = of(table, share, caution=rng.choice([0.0, 1.0], len(table)))
    found, figure = coverage.judged(cells), drawn(cells)
    assert (found.under == (found.high < found.wanted)).all()
    assert len(found) == len(cells)
    pooled = found.groupby(["estimator", "verdict"])[["held", "n"]].sum()
    marks = [line.get_xdata() for line in figure.figure.axes[0].lines if line.get_linestyle() == "None"]
    assert sorted(x for (x,) in filter(len, marks)) == pytest.approx(sorted(pooled.held / pooled.n))
    usual = found[found.under & (found.estimator == PLAIN)]
    assert f"under-covers in {len(usual)} of {len(cells) // len(coverage.NAMES)} settings" in figure.finding


def test_calibration_and_folds_of_the_params_are_those_that_are_simulated(monkeypatch):
    run, seen = Run("sample"), two_stage_folds(monkeypatch)
    wanted = run.params.estimation.model_copy(update={"calibration": "two_stage", "folds": 3, "replicates": 1})
    Run(run.params.model_copy(update={"estimation": wanted})).simulate(run.table())
    assert set(seen) == {3}
