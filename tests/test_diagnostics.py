"""Diagnostics against closed forms, scikit-learn and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score

from arena10k.analysis import Analysis
from arena10k.estimation import diagnostics, prepare
from arena10k.estimation.context import context
from arena10k.simulation.simulate import Design, LogNormal
from arena10k.simulation.simulate import draw as drawn
from statistics_data import example


def test_mean_weight_p_value_is_valid_under_the_null_and_small_when_weights_are_too_large():
    rng = np.random.default_rng(0)
    for sigma in (0.5, 2.0):
        p = [diagnostics.mean_weight_p_value(rng.normal(-(sigma**2) / 2, sigma, 300)) for _ in range(150)]
        assert np.mean(np.array(p) <= 0.05) <= 0.05
    assert diagnostics.mean_weight_p_value(rng.normal(0.5, 0.5, 300)) < 1e-6
    assert diagnostics.mean_weight_p_value(np.full(100, -3.0)) == 1
    assert np.isnan(diagnostics.mean_weight_p_value(np.empty(0)))


def test_mean_weight_p_value_by_hand_and_for_huge_weights():
    w = np.array([1.5, 0.5, 2.5])
    wealth = np.mean([np.prod(1 + b * (w - 1)) for b in np.linspace(0.05, 0.95, 10)])
    assert diagnostics.mean_weight_p_value(np.log(w)) == pytest.approx(min(1, 1 / ((wealth + w.mean()) / 2)))
    assert diagnostics.mean_weight_p_value(np.array([1000.0, -1000.0])) == pytest.approx(0, abs=1e-300)
    grouped = diagnostics.mean_weight_p_value(np.log([3.0, 1.0, 0.5, 0.7]), lambda w: w.reshape(2, 2).mean(1))
    assert grouped == pytest.approx(diagnostics.mean_weight_p_value(np.log([2.0, 0.6])))


@pytest.mark.parametrize("calibration", ["isotonic", "two_stage"])
def test_effective_labels_are_kishs_size_of_the_labels_that_the_draws_lean_on(calibration):
    """Naively: every draw shares its weight out among the labels of its block."""
    data = example(120, seed=3, labelled=0.3, target_labels=0, fresh_judge=np.linspace(0, 1, 120) ** 2)
    has = ~np.isnan(data.logged.label)
    s, y = data.logged.judge[has], data.logged.label[has]
    fitted = IsotonicRegression().fit(s, y).predict(s)
    leaned = np.zeros(len(s))
    for draw in data.fresh.judge:
        block = np.isclose(fitted, fitted[np.abs(s - draw).argmin()], atol=1e-12, rtol=0)
        leaned[block] += 1 / block.sum()
    expected = leaned.sum() ** 2 / (leaned**2).sum()
    assert context(data, Analysis(calibration=calibration)).effective_labels == pytest.approx(expected, rel=1e-9)


def test_effective_labels_where_the_draws_score_as_the_labels_do_and_where_they_do_not():
    judge, label = np.repeat([0.0, 0.8], [3, 57]), np.r_[0.0, 0.1, 0.2, np.full(57, 0.9)]
    for fresh, expected in ((judge, 60), (np.full(60, 0.1), 3)):
        data = example(60, judge=judge, label=label, fresh_judge=fresh, target_labels=0)
        assert context(data).effective_labels == pytest.approx(expected)
    assert np.isnan(context(example(60, label=None, target_labels=0)).effective_labels)


def test_overlap_of_log_normal_weights_and_typicality_of_equal_policies():
    """E[sqrt w] = exp(-sigma^2 / 8); the typical share is the quantile."""
    sigma, rng = 1.2, np.random.default_rng(0)
    lw = rng.normal(-(sigma**2) / 2, sigma, 400_000)
    assert diagnostics.overlap(lw) == pytest.approx(np.exp(-(sigma**2) / 8), rel=5e-3)
    assert diagnostics.overlap(lw - 5) == pytest.approx(diagnostics.overlap(lw) * np.exp(-2.5), rel=1e-9)
    logp, ten, nothing = -rng.random(1000) * 100, np.full(1000, 10.0), np.empty(0)
    assert diagnostics.target_typicality(logp, np.zeros(1000), ten) == pytest.approx(0.9, abs=2e-3)
    assert np.isnan([diagnostics.overlap(nothing), diagnostics.target_typicality(nothing, nothing, nothing)]).all()


@pytest.mark.parametrize("n", [300, 5000])
def test_permutation_null_is_uniform_without_and_small_with_dependence(n):
    rng = np.random.default_rng(0)
    draws = ((rng.normal(0, 1, n), rng.random(n), seed, 199) for seed in range(40))
    assert stats.kstest([diagnostics.permutation_null(*draw).p_value for draw in draws], "uniform").pvalue > 1e-3
    z = rng.standard_normal(n)
    assert diagnostics.permutation_null(z, stats.norm.cdf(z)).p_value < 0.01
    assert np.isnan(diagnostics.permutation_null(np.empty(0), np.empty(0)).p_value)


def test_fast_permutation_agrees_with_permuting_rows():
    rng = np.random.default_rng(0)
    w, r = rng.lognormal(0, 1.5, 3000), rng.random(3000)
    fast = diagnostics.permute_ratio(w, r, rng, 4000)
    slow = np.array([(rng.permutation(w) * r).sum() for _ in range(1000)]) / w.sum()
    assert fast.mean() == pytest.approx(slow.mean(), abs=4 * slow.std() / np.sqrt(1000))
    assert fast.std() == pytest.approx(slow.std(), rel=0.06)


def test_judge_auc_matches_scikit_learn_and_counting_pairs():
    rng = np.random.default_rng(0)
    judge, label = rng.integers(0, 8, 200) / 8, rng.integers(0, 2, 200).astype(float)
    assert diagnostics.judge_auc(judge, label) == pytest.approx(roc_auc_score(label, judge))
    graded = rng.integers(0, 5, 60) / 4
    a, pairs = judge[:60, None] - judge[None, :60], graded[:, None] > graded[None, :]
    expected = ((a > 0) + 0.5 * (a == 0))[pairs].mean()
    assert diagnostics.judge_auc(judge[:60], graded) == pytest.approx(expected)
    assert np.isnan(diagnostics.judge_auc(judge, np.ones(200)))
    assert diagnostics.judge_auc(np.ones(200), label) == 0.5


def test_reliability_curve_uses_every_labelled_row_once():
    rows = example(500).logged
    curve = diagnostics.reliability_curve(rows.judge, rows.label)
    assert sum(g["n"] for g in curve) == rows.labelled.sum()
    assert sum(g["n"] * g["label"] for g in curve) == pytest.approx(rows.label_or_zero.sum())
    assert [g["judge"] for g in curve] == sorted(g["judge"] for g in curve)
    assert diagnostics.reliability_curve(rows.judge, np.full(500, np.nan)) == []
    assert len(diagnostics.reliability_curve(np.full(9, 0.5), np.ones(9))) == 1


def test_clone_control():
    assert diagnostics.clone_noise_floor(np.zeros(50)).exact
    noise = diagnostics.clone_noise_floor(np.array([0.0, -0.1, 0.2]))
    assert (noise.exact, noise.max_abs, noise.median_abs) == (False, pytest.approx(0.2), pytest.approx(0.1))
    assert (diagnostics.clone_noise_floor(np.empty(0)).n, diagnostics.clone_noise_floor(np.empty(0)).exact) == (
        0,
        False,
    )


def transported(data, margin=0.2, facts=()):
    return context(data, Analysis(judge_shift=margin), facts).transport


def test_transport_by_target_labels():
    f = prepare(example(600, target_labels=0)).fresh_oof
    noise = 0.1 * np.random.default_rng(0).standard_normal(600)
    label = np.where(np.arange(600) < 60, np.clip(f + noise, 0, 1), np.nan)
    passed = transported(example(600, fresh_label=label))
    assert (passed.status, passed.evidence, passed.n_labels) == ("passed", "target_labels", 60)
    assert passed.low < 0 < passed.high
    failed = transported(example(600, fresh_label=np.clip(label - 0.3, 0, 1)))
    assert failed.status == "failed"
    assert failed.residual < -0.2
    assert transported(example(600, fresh_label=label), margin=0.001).status == "weak"


def test_transport_by_weights_finds_a_judge_that_the_target_fools():
    data = example(3000, target_labels=0, sigma=0.7)
    assert (transported(data).evidence, transported(data).status) == ("weights", "passed")
    fooled = transported(drawn(LogNormal(0.5, shift=1.0), Design(4000, 1000, 1.0), np.random.default_rng(0)))
    assert fooled.status == "failed"
    assert fooled.residual < -0.05
    assert transported(example(3000, target_labels=0, sigma=3.0)).status == "weak"
    assert transported(data, facts=["temperature_mismatch"]).status == "none"
    assert transported(example(300, label=None, target_labels=60)).status == "own"
