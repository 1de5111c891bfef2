"""Intervals against independent implementations and brute force; behaviour where there is little or no information."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from arena10k.estimation import ESTIMATORS, prepare
from arena10k.estimation.beliefs import el_score_interval
from arena10k.estimation.context import context
from arena10k.estimation.intervals import bounded_mean_radii, el_interval, missing_mass_interval, score_interval
from arena10k.estimation.pareto import audit_weights
from arena10k.estimation.verdicts import interval_of
from statistics_data import arrays, coin, example, labels


def vw_interval(w, r, alpha=0.05, wmax=np.inf):
    from estimators.bandits.cressieread import Interval

    interval = Interval(wmin=0, wmax=wmax, rmin=0, rmax=1)
    for wi, ri in zip(w, r, strict=True):
        interval.add_example(1.0, float(ri), float(wi))
    return interval.get(alpha)


@pytest.mark.parametrize("wmax", [np.inf, 5.0, 1000.0])
@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0])
@pytest.mark.parametrize(("sigma", "alpha"), [(0.01, 0.05), (1.5, 0.01), (1.5, 0.2), (3.0, 0.05)])
def test_el_interval_matches_vw_estimators(sigma, alpha, scale, wmax):
    """To six digits, also where the mean weight is far from one on either side."""
    rng = np.random.default_rng(int(100 * sigma + 10 * scale))
    z = rng.standard_normal(300)
    lw = sigma * z - sigma**2 / 2 + np.log(scale)
    r = rng.beta(2 + 2 * (z > 0), 2)
    expected = vw_interval(np.exp(lw), r, alpha, wmax)
    np.testing.assert_allclose(el_interval(lw, r, w_max=wmax)(1 - alpha), expected, atol=1e-6)


def exact_upper_bound(w, r, confidence=0.95):
    """The same bound from raw moments, in exact rational arithmetic (no weight limit, no row of too little weight)."""
    w, r, n = [Fraction(x) for x in w], [Fraction(x) for x in r], len(w)
    assert sum(w) > n
    mean = sum(w) / (n + 1)
    best = (n + 1) * (mean - 1) ** 2 / (sum(x * x for x in w) / (n + 1) - mean**2)
    phi = (-best - Fraction(stats.f.isf(1 - confidence, 1, n))) / (2 * (n + 1))
    wr = [a * b for a, b in zip(w, r, strict=True)]
    var, mean_r = sum(x * x for x in w) / (n + 1) - mean**2, sum(wr) / (n + 1)
    cov = sum(a * b for a, b in zip(w, wr, strict=True)) / (n + 1) - mean * mean_r
    y = cov**2 / var - (sum(x * x for x in wr) / (n + 1) - mean_r**2)
    z = phi + (1 - mean) ** 2 / (2 * var)
    return float(mean_r + (1 - mean) * cov / var) + float(2 * y * z) ** 0.5


def test_el_interval_beside_one_weight_of_the_clip_is_no_rounding():
    """As in the incident: one log-weight of 20 among ordinary ones, on a row whose reward is 1."""
    rng = np.random.default_rng(3)
    lw = np.append(rng.normal(-0.005, 0.1, 120), 20.0)
    r = np.append(np.round(rng.random(120) / 2, 2), 1.0)
    low, high = el_interval(lw, r, w_max=float(np.exp(20)))(0.95)
    assert low < high < 1
    assert high == pytest.approx(exact_upper_bound(np.exp(lw), r), abs=1e-6)
    order = rng.permutation(121)
    assert el_interval(lw[order], r[order], w_max=float(np.exp(20)))(0.95) == pytest.approx((low, high), abs=1e-6)


def test_el_interval_averages_prompts_first():
    rng = np.random.default_rng(1)
    lw, r = rng.normal(-0.5, 1, 200), rng.random(200)
    once = el_interval(lw, r)(0.95)
    twice = el_interval(np.tile(lw, 2), np.tile(r, 2), by_cluster=lambda x: (x[:200] + x[200:]) / 2)(0.95)
    np.testing.assert_allclose(twice, once, atol=1e-12)
    assert np.diff(el_interval(np.tile(lw, 2), np.tile(r, 2))(0.95)) < np.diff(once)


def test_el_interval_knows_nothing_when_weights_say_nothing():
    assert el_interval(np.full(50, 900.0), np.full(50, 0.5))(0.95) == (0.0, 1.0)
    assert el_interval(np.empty(0), np.empty(0))(0.95) == (0.0, 1.0)
    low, high = el_interval(np.full(50, -900.0), np.full(50, 0.5))(0.95)
    assert high - low > 0.99
    assert missing_mass_interval(0.25, 0.8) == pytest.approx((0.2, 0.95))
    assert missing_mass_interval(3.0, 0.8) == (0.8, 0.8)


def test_bounded_mean_is_close_to_rule_of_three_without_variation_and_to_t_with_it():
    down, up = bounded_mean_radii(np.zeros(30), 0.0, 1.0)(0.95)
    assert down == 0
    assert 0.09 < up < 0.12
    x = np.random.default_rng(0).random(2000)
    t = stats.t.ppf(0.975, 1999) * x.std(ddof=1) / np.sqrt(2000)
    assert bounded_mean_radii(x, 0.0, 1.0)(0.95) == pytest.approx((t, t), rel=0.05)
    assert bounded_mean_radii(np.empty(0), 0.0, 1.0)(0.95) == (1.0, 1.0)


def interval(prep, name):
    return score_interval(prep, ESTIMATORS[name].score(prep))


def test_interval_of_a_mean_is_the_t_interval():
    data = example(5000)
    got, se = interval(prepare(data), "naive"), data.fresh.judge.std(ddof=1) / np.sqrt(5000)
    low, high = stats.t.interval(0.95, 4999, data.fresh.judge.mean(), se)
    assert got.width == pytest.approx(high - low, rel=0.02)
    assert (got.low + got.high) / 2 == pytest.approx((low + high) / 2, abs=1e-4)
    assert (got.se, got.df) == (pytest.approx(se, rel=0.02), pytest.approx(4999))


@pytest.mark.parametrize("name", ["ppi_pp", "direct", "snips", "dr_oracle", "naive"])
def test_labels_without_variation_are_not_certainty(name):
    """Thirty labels of 0 leave room for a rate of several percent."""
    label, zero = np.where(np.arange(110) < 30, 0.0, np.nan), np.zeros(110)
    data = arrays(log_weight=zero, judge=zero, label=label, fresh_judge=zero, fresh_label=label)
    got = interval(prepare(data), name)
    assert got.low == 0
    assert got.high > (0.02 if name == "naive" else 0.08)
    assert got.se > 0


def test_small_label_samples_cover():
    """Truth: Bernoulli(.05), 30 labels. A plain t interval covers 79 %, because 21 % of samples are all zero."""
    rng, n, hits = np.random.default_rng(0), 60, 0
    for _ in range(200):
        y = labels(rng, coin(rng, np.full(n, 0.05)), 30)
        s = np.round(rng.random(n), 1)
        got = interval(prepare(arrays(log_weight=np.zeros(n), judge=s, fresh_judge=s, fresh_label=y)), "ppi_pp")
        hits += got.low <= 0.05 <= got.high
    assert hits / 200 >= 0.92


@pytest.mark.parametrize("sigma", [0.1, 0.5, 3.0])
def test_what_rests_on_weights_carries_the_unseen_part_however_healthy_they_look(sigma):
    ctx = context(example(1000, sigma=sigma))
    for name in ("snips", "ips", "dr_oracle"):
        got = interval_of(ctx, ESTIMATORS[name], ESTIMATORS[name].score(ctx.prep))
        assert got.method == "empirical_likelihood"


def test_weight_audit_tells_healthy_weights_and_is_stable_for_extreme_ones():
    rng = np.random.default_rng(0)
    lw, clipped = rng.normal(-0.02, 0.2, 2000), np.minimum(rng.normal(0, 30, 1000), 20.0)
    few, heavy = rng.normal(-4.5, 3, 2000), np.append(lw, [3.0, 4.0])
    assert audit_weights(lw).healthy
    assert audit_weights(np.zeros(50)).healthy
    assert not any(audit_weights(x).healthy for x in (lw + 1, lw - 3, clipped, few, heavy, np.empty(0)))
    audit = audit_weights(clipped)
    assert audit.clip_dominated
    assert audit.ess == pytest.approx(audit.ceiling, rel=0.1)
    assert audit.ceiling > 100
    for start, end, mean in ((0, 5000, np.inf), (-9000, -8000, 0)):
        assert audit_weights(np.linspace(start, end, 100)).mean_weight == mean


def test_el_interval_of_a_policy_covers_the_label_residual_of_a_fooled_judge():
    """The judge says 1 on everything; the labels are .4."""
    data = example(600, sigma=2.5, judge=np.ones(600), label=np.where(np.arange(600) % 2, 0.4, np.nan))
    got = el_score_interval(prepare(data))
    assert got.low <= 0.4 <= got.high


def test_interval_contains_its_value_and_stays_in_range():
    for prep in (prepare(example(150, seed=seed)) for seed in range(5)):
        for name, estimator in ESTIMATORS.items():
            got = interval(prep, name)
            assert 0 <= got.low <= np.clip(estimator.score(prep).value, 0, 1) <= got.high <= 1
    got = interval(prepare(example(50, target_labels=1)), "ppi_pp")
    assert (got.low, got.high, got.se) == (0.0, 1.0, np.inf)


@pytest.mark.parametrize("weights", [[0.5], [0.1, 0.1], [1.0, 0.2]])
def test_a_row_or_two_say_next_to_nothing_whatever_their_weights(weights):
    rewards = np.full(len(weights), 0.244)
    got = el_score_interval(prepare(arrays(log_weight=np.array(weights), judge=rewards)))
    down, up = bounded_mean_radii(rewards, 0.0, 1.0)(0.95)
    assert got.low <= max(0.0, 0.244 - down) + 1e-12
    assert got.high >= min(1.0, 0.244 + up) - 1e-12
    assert got.width > 0.5
