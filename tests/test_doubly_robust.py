"""Doubly robust and prediction-powered estimators: limits, naive re-implementations, published traps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit

from arena10k.estimation import ESTIMATORS, deviations, estimators, prepare
from statistics_data import changed, example


def value(data, name):
    return ESTIMATORS[name].score(prepare(data)).value


def test_doubly_robust_limits():
    """With an outcome model that is R the direct method, with none SNIPS."""
    prep = prepare(example())
    direct, snips = prep.fresh_reward.mean(), ESTIMATORS["snips"].score(prep).value
    assert estimators.doubly_robust(prep, prep.reward, prep.fresh_reward).value == pytest.approx(direct, abs=1e-14)
    assert estimators.doubly_robust(prep, np.zeros(400), np.zeros(400)).value == pytest.approx(snips, abs=1e-14)


@pytest.mark.parametrize("name", ["dr_cpo", "mrdr", "dr_oracle"])
def test_the_correction_of_doubly_robust_estimators_is_not_empty(name):
    """R and the outcome model must not be the same f(S)."""
    prep = prepare(example())
    score = ESTIMATORS[name].score(prep)
    correction = score.terms[1]
    assert np.count_nonzero(np.abs(correction.num) > 1e-9) > 100
    assert abs(correction.value) > 1e-6


@pytest.mark.parametrize("name", ["dr_cpo", "mrdr", "tmle", "dr_oracle", "stacked_dr"])
def test_fresh_draws_enter_through_their_own_covariates(name):
    """Shuffling the logged scores and labels' rows against the fresh rows must not change the fresh term; changing
    fresh scores must."""
    data = example(seed=5)
    order = np.random.default_rng(0).permutation(400)
    shuffled = replace(data, logged=data.logged.take(order))
    assert value(shuffled, name) == pytest.approx(value(data, name), abs=1e-9)
    better = changed(data, fresh_judge=np.minimum(data.fresh.judge + 0.2, 1))
    assert value(better, name) > value(data, name) + 0.03
    assert 0 < value(replace(data, fresh=data.fresh.take(np.arange(150))), name) < 1


def test_dr_oracle_by_hand():
    data = example()
    prep = prepare(data)
    has = ~np.isnan(data.logged.label)
    residual = np.exp(data.logged.log_weight[has]) * (data.logged.label[has] - prep.reward_oof[has])
    assert value(data, "dr_oracle") == pytest.approx(prep.fresh_oof.mean() + residual.mean(), abs=1e-12)


def test_mrdr_outcome_model_is_fitted_with_squared_weights():
    from sklearn.isotonic import IsotonicRegression

    data = example()
    prep = prepare(data)
    w = np.exp(data.logged.log_weight)
    q, q_fresh = np.empty(400), np.empty(400)
    for k in range(5):
        train = ~np.isnan(data.logged.label) & (data.logged.fold != k)
        model = IsotonicRegression(out_of_bounds="clip").fit(
            data.logged.judge[train], data.logged.label[train], w[train] ** 2
        )
        q[data.logged.fold == k] = model.predict(data.logged.judge[data.logged.fold == k])
        q_fresh[data.fresh.fold == k] = model.predict(data.fresh.judge[data.fresh.fold == k])
    expected = q_fresh.mean() + (w * (prep.reward - q)).sum() / w.sum()
    assert value(data, "mrdr") == pytest.approx(expected, abs=1e-10)


def test_tmle_solves_its_score_equation():
    data = example()
    prep = prepare(data)
    score = ESTIMATORS["tmle"].score(prep)
    assert score.terms[1].value == pytest.approx(0, abs=1e-10)
    q = np.clip(prep.reward_oof, 1e-3, 1 - 1e-3)
    eps = estimators.targeting_step(prep.weight, prep.reward, q)
    assert (prep.weight * (prep.reward - expit(logit(q) + eps))).sum() == pytest.approx(0, abs=1e-8)
    fresh_q = expit(logit(np.clip(prep.fresh_oof, 1e-3, 1 - 1e-3)) + eps)
    assert score.value == pytest.approx(fresh_q.mean(), abs=1e-9)


def test_stacking_has_the_least_variance_among_convex_combinations():
    rng = np.random.default_rng(0)
    base = rng.standard_normal(500)
    influence = np.vstack([base + 0.3 * rng.standard_normal(500), base + 0.5 * rng.standard_normal(500), 3 * base])
    best = estimators.stacking_weights(influence)
    assert best.min() >= 0
    assert best.sum() == pytest.approx(1)
    least = ((best @ influence) ** 2).sum()
    for other in rng.dirichlet(np.ones(3), 2000):
        assert least <= ((other @ influence) ** 2).sum() * (1 + 1e-5)
    np.testing.assert_allclose(estimators.stacking_weights(np.zeros((3, 10))), 1 / 3)
    members = [value(example(), name) for name in ("dr_cpo", "mrdr", "tmle")]
    assert min(members) - 1e-12 <= value(example(), "stacked_dr") <= max(members) + 1e-12


def test_ppi_without_power_is_the_classical_mean_and_standard_error():
    data = example(target_labels=80, seed=1)
    prep = prepare(data)
    label = data.fresh.label[:80]
    score = estimators.ppi_score(prep, 0.0)
    dev, groups = deviations(prep, score)
    assert score.value == pytest.approx(label.mean(), abs=1e-14)
    assert groups == 80
    assert np.sqrt(dev @ dev) == pytest.approx(label.std(ddof=1) / np.sqrt(80), rel=1e-9)


def test_ppi_with_a_perfect_judge_is_the_mean_of_f():
    data = example(target_labels=80)
    prep = prepare(data)
    f = prep.fresh_oof
    perfect = changed(data, fresh_label=np.where(np.arange(400) < 80, f, np.nan))
    assert estimators.ppi_score(prepare(perfect), 1.0).value == pytest.approx(f.mean(), abs=1e-13)
    assert estimators.power_tuning(f[:80], f[:80]) == pytest.approx(1)


def test_ppi_power_minimises_the_variance():
    data = example(2000, target_labels=400)
    prep = prepare(data)

    def variance(power):
        dev, _ = deviations(prep, estimators.ppi_score(prep, power))
        return dev @ dev

    power = estimators.power_tuning(data.fresh.label[:400], prep.fresh_oof[:400])
    grid = np.linspace(0, 1, 41)
    assert variance(power) <= min(variance(p) for p in grid) * 1.01
    assert estimators.power_tuning(np.ones(5), np.ones(5)) == 0.0
