"""Tests of missing at random against known truths and brute force; bounds hold whatever the missing rows are worth."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pandas as pd
import pytest

from arena10k.estimation import outliers
from arena10k.rescoring import effect


def test_the_expected_count_under_independence_is_that_of_all_outcomes():
    rng = np.random.default_rng(0)
    bad = (rng.random((500, 3)) < [0.1, 0.2, 0.05]).astype(float)
    rate, outcomes = bad.mean(axis=0), [o for o in product([0, 1], repeat=3) if sum(o) >= 2]
    got = effect.shared(bad)
    assert got["expected"] == pytest.approx(500 * sum(np.prod(np.where(o, rate, 1 - rate)) for o in outcomes))
    assert got["observed"] == (bad.sum(axis=1) >= 2).sum()
    assert got["p_value"] > 0.01
    together = effect.shared(np.repeat(bad[:, :1], 3, axis=1))
    assert (together["observed"], together["p_value"] < 1e-6) == (int(bad[:, 0].sum()), True)
    clean = effect.shared(np.zeros((5, 2)))
    assert re.findall(r"\d+", effect.shared_sentence(clean)) == ["5"]
    assert np.isnan(effect.shared(np.empty((0, 1)))["p_value"])


def test_a_policy_that_was_never_asked_does_not_hide_what_the_others_share():
    bad = np.zeros((500, 3))
    bad[:100, :2], bad[:, 2] = 1.0, np.nan
    got = effect.shared(bad)
    assert (got["rows"], got["observed"]) == (500, 100)
    assert got["p_value"] < 1e-6
    assert np.isnan(effect.shared(bad[:, 1:])["p_value"]), "one policy alone shares nothing"


def test_p_values_are_uniform_where_failures_are_random_and_small_where_they_are_not(monkeypatch):
    monkeypatch.setattr(effect, "RESAMPLES", 99)
    rng = np.random.default_rng(1)
    length, language = rng.gamma(2, 300, 400), rng.choice(["English", "German", "Dutch"], 400).astype(object)
    random = [(rng.random(400) < 0.1).astype(float) for _ in range(200)]
    by_length = np.array([effect.depends_on_number(bad, length) for bad in random])
    assert 0.01 < np.mean(by_length < 0.05) < 0.1
    by_class = np.array([effect.depends_on_class(bad, language) for bad in random[:30]])
    assert np.mean(by_class < 0.05) < 0.2
    short = (length < np.quantile(length, 0.1)).astype(float)
    assert effect.depends_on_number(short, length) < 1e-9
    assert effect.depends_on_class((language == "Dutch").astype(float), language) <= 1 / effect.RESAMPLES
    assert np.isnan(effect.depends_on_class(np.zeros(400), language))
    assert list(effect.by_length(pd.DataFrame({"bad": short, "response_chars": length})).bad) == [40, 0, 0, 0, 0]
    assert effect.by_length(pd.DataFrame({"bad": short, "response_chars": np.nan})).empty


def bounds(*given):
    return tuple(effect.bounds(*given).values())


def test_bounds_hold_the_value_whatever_the_missing_rows_are_worth():
    rng = np.random.default_rng(2)
    weight, aside, reward = rng.lognormal(-0.5, 1, 1000), rng.random(1000) < 0.1, rng.random(1000)
    weight, clean = weight / weight.mean(), ~aside
    for w in (weight, np.ones(1000)):
        value = np.average(reward[clean], weights=w[clean])
        by_share, by_weight = bounds(value, clean.sum(), aside.sum(), w[clean].mean())
        worst, best = (w @ np.where(aside, worth, reward) / 1000 for worth in (0.0, 1.0))
        assert by_weight[0] - 1e-12 <= worst <= best <= by_weight[1] + 1e-12
    assert by_share == pytest.approx((worst, best))
    assert bounds(0.5, 50, 50, 1.0)[1] == (0.25, 0.75)
    assert bounds(0.5, 90, 10, 1.28)[1] is None
    assert bounds(np.nan, 90, 10, 1.0) == (None, None)


def test_values_on_a_grid_repeat_as_they_must_and_a_sentinel_beyond_that():
    values = np.round(-np.random.default_rng(3).gamma(2, 30, (2000, 1)), 1)
    text = np.arange(2000)
    assert len(np.unique(values)) < 1500
    assert not outliers.repeated(values, text).any()
    values[:40] = -37.5
    assert set(values[outliers.repeated(values, text)]) == {-37.5}
    assert not outliers.repeated(values, np.where(np.arange(2000) < 40, 0, text)).any(), "one text, one value"


def test_certain_answers_stay_and_a_spike_at_zero_does_not():
    rng = np.random.default_rng(4)
    chars, none = np.repeat([5.0, 500.0], [50, 150]), np.zeros(200, dtype=bool)
    sure = np.concatenate([-rng.exponential(0.02, 50), -rng.gamma(20, 5, 150)])[:, None]
    sure[:10] = 0.0
    assert not outliers.zeros(sure, chars, none).any(), "ten certain answers among forty nearly certain ones"
    unsure = np.where(sure > -1, sure - 2.0, sure)
    unsure[:10] = 0.0
    assert outliers.zeros(unsure, chars, none)[:, 0].tolist() == [True] * 10 + [False] * 190
    sure[100] = 0.0
    assert np.flatnonzero(outliers.zeros(sure, chars, none)) == [100]
    assert not outliers.zeros(sure, chars, np.arange(200) == 100).any(), "a copy of the prompt can be certain"


def test_weights_that_are_right_are_never_impossible():
    rng, flagged = np.random.default_rng(5), 0
    for _ in range(60):
        z, base = rng.standard_normal(300), -rng.gamma(20, 3, 300)
        values = np.column_stack([base, base + 3 * z - 4.5])
        flagged += outliers.impossible_weights(values, np.full(300, 200.0), 0).any()
    assert flagged <= 1
    values[7, 0] -= 40
    assert np.argwhere(outliers.impossible_weights(values, np.arange(300.0), 0)).tolist() == [[7, 0]]


@pytest.mark.parametrize("wrong", [0, 1])
def test_an_impossible_weight_among_few_rows_is_blamed_on_both_log_probs(wrong):
    values = np.tile(-np.linspace(30, 40, outliers.FEW - 1)[:, None], (1, 2))
    values[7, wrong] += 30 if wrong else -30
    hit = outliers.impossible_weights(values, np.full(len(values), 200.0), 0)
    assert np.argwhere(hit).tolist() == [[7, 0], [7, 1]]
