"""Calibration against scikit-learn and against refitting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.isotonic import IsotonicRegression

from arena10k.estimation import PolicyData, Rows, calibration, prepare
from statistics_data import arrays, changed, example


def sklearn_fit(score, label, weight=None, **options):
    return IsotonicRegression(**({"out_of_bounds": "clip"} | options)).fit(score, label, sample_weight=weight)


@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_pava_on_levels_is_isotonic_regression_on_rows(seed, increasing):
    rng = np.random.default_rng(seed)
    score, label, weight = rng.integers(0, 12, 300) / 12, rng.random(300), rng.random(300)
    levels, code = calibration.level_codes(score)
    fit = calibration.pava(levels, np.bincount(code, weight * label), np.bincount(code, weight), increasing=increasing)
    reference = sklearn_fit(score, label, weight, increasing=increasing)
    np.testing.assert_allclose(fit[code], reference.predict(score), rtol=0, atol=1e-12)
    assert np.isnan(calibration.pava(levels, np.zeros(len(levels)), np.zeros(len(levels)))).all()


def test_predictions_match_refitting_without_the_fold_also_on_unseen_levels():
    data = example(300, seed=4, fresh_judge=np.random.default_rng(1).random(300))
    prep, slope = prepare(data), np.random.default_rng(0).random(300)
    labelled, sums = data.logged.labelled > 0, prep.fit.fold_sums("fresh", slope)
    for k in range(6):  # fold 5 has no rows: the pooled fit
        train = labelled & (data.logged.fold != k)
        predict = sklearn_fit(data.logged.judge[train], data.logged.label[train]).predict
        logged, fresh = (prep.reward_oof, prep.fresh_oof) if k < 5 else (prep.reward, prep.fresh_reward)
        own, drawn = ((rows.fold == k) | (k == 5) for rows in (data.logged, data.fresh))
        np.testing.assert_allclose(logged[own], predict(data.logged.judge[own]), atol=1e-12)
        np.testing.assert_allclose(fresh[drawn], predict(data.fresh.judge[drawn]), atol=1e-12)
        assert k == 5 or sums[k] == pytest.approx(slope @ predict(data.fresh.judge), abs=1e-10)
    # Isotonic regression preserves the mean of its training labels.
    assert prep.reward[labelled].mean() == pytest.approx(data.logged.label[labelled].mean(), abs=1e-13)


def test_rows_and_folds_stay_together_after_a_filter():
    """Missing scores in the middle of the data must change nothing for the other rows."""
    data = example(200, seed=6, target_labels=0)
    holes = np.sort(np.random.default_rng(0).choice(200, 40, replace=False))

    def wide(rows):
        columns = {name: np.insert(getattr(rows, name), holes, 0.5) for name in ("log_weight", "label", "length")}
        columns |= {name: np.insert(getattr(rows, name), holes, 3) for name in ("cluster", "fold")}
        return Rows(judge=np.insert(rows.judge, holes, np.nan), **columns)

    a, b = prepare(data), prepare(PolicyData(wide(data.logged), wide(data.fresh)))
    np.testing.assert_array_equal(a.reward_oof, b.reward_oof)
    np.testing.assert_array_equal(a.fresh_oof, b.fresh_oof)
    np.testing.assert_array_equal(a.logged.log_weight, b.logged.log_weight)


def test_a_score_of_zero_is_a_score_and_a_label_without_a_log_weight_trains():
    judge, label = np.repeat([0.0, 1.0], 20), np.repeat([0.2, 0.9], 20)
    prep = prepare(arrays(log_weight=np.zeros(40), judge=judge, label=label, fresh_judge=np.zeros(7)))
    np.testing.assert_allclose(prep.fresh_reward, 0.2)
    assert len(prep.logged) == 40
    data = example(200, seed=7)
    lost = changed(data, log_weight=np.where(np.arange(200) < 50, np.nan, data.logged.log_weight))
    np.testing.assert_array_equal(prepare(data).reward, prepare(lost).reward)
    assert prepare(lost).n_weighted == 150


def test_labels_on_the_target_train_the_calibration_when_the_logged_rows_have_none():
    data = example(200, seed=9, label=None, target_labels=60)
    prep, has = prepare(data), ~np.isnan(data.fresh.label)
    assert prep.source == "fresh"
    reference = sklearn_fit(data.fresh.judge[has], data.fresh.label[has])
    np.testing.assert_allclose(prep.reward, reference.predict(data.logged.judge), atol=1e-12)
    none = prepare(changed(data, fresh_label=None))
    assert none.source is None
    np.testing.assert_array_equal(none.reward, data.logged.judge)


@pytest.mark.parametrize(("missing", "stand_in"), [(0.9, 1.0), (0.1, 0.0), (np.nan, 0.5)])
def test_the_score_that_stands_in_for_lost_ones_is_that_of_like_labels(missing, stand_in):
    judge = np.r_[np.repeat([0.0, 0.5, 1.0], 20), np.full(10, np.nan)]
    label = np.r_[np.repeat([0.1, 0.5, 0.9], 20), np.full(10, missing)]
    prep = prepare(arrays(judge=judge, label=label, complete=True))
    assert set(prep.logged.judge[60:]) == {stand_in}
    assert prep.logged.has_score.sum() == 60
    nothing = prepare(arrays(judge=judge * np.nan, label=np.full(70, 0.5), complete=True))
    assert set(nothing.logged.judge) == {0.5}


def test_few_labels_are_not_a_calibration():
    least = calibration.MIN_TRAINING_LABELS
    for n, fold, enough in ((least - 1, None, False), (least, None, True), (least, np.zeros(50), False)):
        label = np.where(np.arange(50) < n, 0.5, np.nan)
        assert calibration.enough_labels(Rows(np.zeros(50), label=label, fold=fold)) == enough


def test_two_stage_learns_what_the_judge_gives_for_length():
    """A judge that rewards length: the two-stage fit recovers the label better than the score alone can."""
    rng = np.random.default_rng(0)
    quality, length = rng.random(2000), np.exp(rng.normal(5, 1, 2000))
    judge = np.round(np.clip(0.6 * quality + 0.08 * (np.log(length) - 5) + 0.2, 0, 1), 2)
    label = np.where(rng.random(2000) < 0.5, quality, np.nan)
    data = arrays(judge=judge, length=length, label=label, fresh_judge=judge, fresh_length=length)
    off = {k: np.abs(prepare(data, k).reward - quality)[np.isnan(label)].mean() for k in ("isotonic", "two_stage")}
    assert off["two_stage"] < 0.7 * off["isotonic"]
    assert spearmanr(prepare(data, "two_stage").reward, quality).statistic > 0.9


def test_two_stage_needs_every_length_and_a_calibration_its_name():
    with pytest.raises(ValueError, match="length"):
        prepare(example(100, length=None), "two_stage")
    with pytest.raises(ValueError, match="three_stage"):
        prepare(example(100), "three_stage")
    with pytest.raises(ValueError, match="already registered"):
        calibration.register_calibration("isotonic")(calibration.fit_levels)


def test_noise_variance_is_the_slope_of_the_calibration_squared():
    levels = np.linspace(0, 1, 11)
    for variance in (0.05**2, 0.0):
        fit = calibration.identity_fit({"logged": Rows(levels, judge_var=np.full(11, variance))})
        np.testing.assert_allclose(fit.noise_variance("logged")[1:-1], variance)
