"""Identities of estimators, naive re-implementations, and traps that published code fell into."""

from __future__ import annotations

import joblib
import numpy as np
import pytest

from arena10k.errors import ArenaError
from arena10k.estimation import (
    ESTIMATORS,
    Estimator,
    PolicyData,
    Score,
    Term,
    deviations,
    pareto,
    prepare,
    estimators,
)
from arena10k.estimation.evaluation import study
from arena10k.estimation.pareto import audit_weights
from arena10k.estimation.score import calibration_variance, judge_variance
from statistics_data import arrays, changed, example

WEIGHTED = ("ips", "snips", "psis", "calibrated_ips")


def value(data, name):
    return ESTIMATORS[name].score(prepare(data)).value


def bare(prep, weight, reward):
    """Self-normalised mean of any reward."""
    return Score((Term("logged", weight * reward, weight),))


def test_the_minimum_set_is_registered():
    known = "naive ips snips calibrated_ips psis direct dr_cpo mrdr tmle stacked_dr dr_oracle ppi_pp"
    assert set(ESTIMATORS) == set(known.split())


def test_an_estimator_that_returns_no_score_is_named(monkeypatch):
    def mine(prep):
        return float(prep.reward.mean())

    monkeypatch.setitem(ESTIMATORS, "mine", Estimator("mine", mine))
    with pytest.raises(ArenaError, match=r"estimator 'mine' \(.*mine in .*\) returned float, not a Score"):
        study({"pi": {"deterministic": example()}}, estimators=["mine"])


def test_a_clone_gives_the_mean_and_its_standard_error():
    data = example(log_weight=np.zeros(400))
    prep = prepare(data)
    mean = prep.reward.mean()
    for name in WEIGHTED:
        assert value(data, name) == pytest.approx(mean, abs=1e-14)
    assert audit_weights(prep.raw_log_weight).ess == pytest.approx(400)
    dev, groups = deviations(prep, bare(prep, prep.weight, prep.reward))
    assert groups == 400
    assert np.sqrt(dev @ dev) == pytest.approx(prep.reward.std(ddof=1) / 20, rel=1e-12)


def test_snips_does_not_see_a_constant_in_the_log_weights_and_ips_does():
    data = example()
    assert value(data, "ips") == pytest.approx(np.exp(data.logged.log_weight).mean() * value(data, "snips"), rel=1e-12)
    for c in (-600.0, 3.0, 600.0):
        moved = changed(data, log_weight=data.logged.log_weight + c)
        for name, factor in (("snips", 1.0), ("psis", 1.0), ("ips", np.exp(c))):
            assert value(moved, name) == pytest.approx(value(data, name) * factor, rel=1e-9)
    huge = example(log_weight=np.linspace(0, 2000, 400))
    assert value(huge, "ips") == np.inf
    assert 0 <= value(huge, "snips") <= 1
    assert value(example(log_weight=np.linspace(-3000, -2000, 400)), "ips") == 0.0


def test_snips_is_linear_in_the_reward_and_stays_among_the_rewards():
    prep = prepare(example())
    plain = bare(prep, prep.weight, prep.reward).value
    assert bare(prep, prep.weight, 3 + 2 * prep.reward).value == pytest.approx(3 + 2 * plain, abs=1e-13)
    assert prep.reward.min() <= plain <= prep.reward.max()
    dev, _ = deviations(prep, bare(prep, prep.weight, np.full(400, 0.7)))
    assert dev @ dev == pytest.approx(0, abs=1e-28)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_influence_has_mean_zero(name):
    prep = prepare(example())
    dev, _ = deviations(prep, ESTIMATORS[name].score(prep), "influence")
    assert dev.sum() == pytest.approx(0, abs=1e-12)
    assert np.abs(dev).sum() > 1e-3


@pytest.mark.parametrize("clusters", [60, 17])
def test_closed_form_jackknife_equals_leaving_out_by_hand(clusters):
    n = 60
    data = example(n, seed=2, cluster=np.arange(n) % clusters, fresh_cluster=np.arange(n) % clusters)
    prep = prepare(data)
    score = ESTIMATORS["snips"].score(prep)
    rows_of_prompt = np.bincount(data.logged.cluster)[data.logged.cluster]
    w, r = prep.weight / rows_of_prompt, prep.reward

    def leave_out(g):
        keep = data.logged.cluster != g
        return (w * r)[keep].sum() / w[keep].sum()

    brute = np.array([leave_out(g) for g in range(clusters)])
    expected = (clusters - 1) / clusters * ((brute - brute.mean()) ** 2).sum()
    dev, groups = deviations(prep, Score(score.terms))
    assert groups == clusters
    assert dev @ dev == pytest.approx(expected, rel=1e-9)


def test_standard_errors_are_by_prompt_not_by_row_or_fold():
    """Every row repeated three times under its prompt leaves value and standard error where they were."""
    data = example(150)
    every = np.tile(np.arange(150), 3)
    tripled = PolicyData(data.logged.take(every), data.fresh.take(every))
    for name in ("snips", "direct", "dr_oracle", "ppi_pp"):
        a, b = (ESTIMATORS[name].score(prepare(d)) for d in (data, tripled))
        assert a.value == pytest.approx(b.value, rel=1e-12)
        (da, _), (db, _) = deviations(prepare(data), a), deviations(prepare(tripled), b)
        assert db @ db == pytest.approx(da @ da, rel=1e-9)


def test_rows_without_a_log_weight_take_no_part_in_weighting():
    data = example(200)
    lost = np.arange(200) % 4 == 0
    partial = changed(data, log_weight=np.where(lost, np.nan, data.logged.log_weight))
    prep = prepare(partial)
    w = np.exp(data.logged.log_weight[~lost])
    assert value(partial, "ips") == pytest.approx((w * prep.reward[~lost]).mean(), rel=1e-12)
    assert value(partial, "snips") == pytest.approx((w * prep.reward[~lost]).sum() / w.sum(), rel=1e-12)


def test_calibrated_weights_are_monotone_with_mean_one_and_of_minimal_variance():
    data = example(600, seed=11)
    prep = prepare(data)
    up, down = estimators.monotone_weights(prep)
    for w, sign in ((up, 1), (down, -1)):
        assert w.mean() == pytest.approx(1, abs=1e-12)
        assert (sign * np.diff(w[np.argsort(data.logged.judge, kind="stable")]) >= -1e-12).all()
    r = prep.reward

    def spread(mix):
        w = mix * up + (1 - mix) * down
        a, b = (v * (r - (v * r).sum() / v.sum()) for v in (up, down))
        return ((mix * a + (1 - mix) * b) ** 2).sum(), (w * r).sum() / w.sum()

    best = min(spread(m) for m in np.linspace(0, 1, 2001))[1]
    assert ESTIMATORS["calibrated_ips"].score(prep).value == pytest.approx(best, abs=1e-4)


def test_smoothing_keeps_order_and_never_exceeds_the_largest_weight():
    lw = np.random.default_rng(0).normal(0, 2, 1000)
    w = pareto.smooth(lw)
    assert w.max() <= 1
    assert (np.diff(w[np.argsort(lw)]) >= 0).all()
    body = np.argsort(lw)[: 1000 - pareto.tail_size(1000)]
    np.testing.assert_allclose(w[body], np.exp(lw[body] - lw.max()))
    ties = np.r_[np.zeros(95), np.full(5, 20.0)]
    np.testing.assert_array_equal(pareto.smooth(ties), np.exp(ties - 20))


@pytest.mark.parametrize("name", ["ips", "snips", "psis", "calibrated_ips", "direct", "dr_oracle", "ppi_pp", "mrdr"])
def test_calibration_jackknife_swaps_f_everywhere(name):
    """theta^(-k) by refitting on labels outside fold k, replacing f in rewards and outcome models alike."""
    data = example(seed=12)
    prep = prepare(data)
    score = ESTIMATORS[name].score(prep)
    models = {"f": prep.fit, **score.models}
    brute = []
    for k in range(5):
        total = 0.0
        for term in score.all_terms:
            num = term.num.copy()
            for model, slope in term.slopes.items():
                fit = models[model]
                without = fit.values[k][fit.code[term.sample]]
                num = num + slope * without
            total += num.sum() / term.den.sum()
        brute.append(total)
    expected = 4 / 5 * ((np.array(brute) - np.mean(brute)) ** 2).sum()
    assert calibration_variance(prep, score) == pytest.approx(expected, rel=1e-9)


def test_swapping_f_in_the_reward_alone_would_inflate_the_oracle_variance():
    prep = prepare(example(seed=13))
    score = ESTIMATORS["dr_oracle"].score(prep)
    half = Score(score.terms[:1])
    assert calibration_variance(prep, score) < 0.5 * calibration_variance(prep, half)


def test_calibration_variance_falls_with_the_labels_and_vanishes_without():
    few, many = (prepare(example(4000, seed=1, labelled=share)) for share in (0.05, 0.9))
    v = [calibration_variance(p, ESTIMATORS["direct"].score(p)) for p in (few, many)]
    assert v[0] > 3 * v[1] > 0
    none = prepare(example(label=np.full(400, np.nan), target_labels=0))
    assert calibration_variance(none, ESTIMATORS["direct"].score(none)) == 0


@pytest.mark.parametrize("name", ["naive", "snips", "direct", "dr_cpo"])
def test_judge_variance_widens_every_estimate_that_uses_the_judge(name):
    data, noise = example(), np.random.default_rng(0).random(400) / 50
    quiet, loud = prepare(data), prepare(changed(data, judge_var=noise, fresh_judge_var=noise))
    assert judge_variance(quiet, ESTIMATORS[name].score(quiet)) == 0
    found = judge_variance(loud, ESTIMATORS[name].score(loud))
    assert found > 0
    assert name != "naive" or found == pytest.approx(noise.sum() / 400**2)


@pytest.mark.parametrize("alpha", [0.8, 1.5, 3.0])
def test_khat_of_a_pareto_tail_is_one_over_alpha(alpha):
    rng = np.random.default_rng(0)
    k = np.mean([pareto.khat(np.log(rng.pareto(alpha, 20_000) + 1)) for _ in range(10)])
    assert k == pytest.approx(1 / alpha, abs=0.06)
    hill = pareto.hill(np.log(rng.pareto(alpha, 200_000) + 1), 2000)
    assert hill == pytest.approx(alpha, rel=0.08)


def test_khat_ignores_a_shift_and_refuses_ties():
    lw = np.random.default_rng(0).normal(0, 2, 2000)
    assert pareto.khat(lw) == pytest.approx(pareto.khat(lw - 500), abs=1e-9)
    assert np.isnan(pareto.khat(np.minimum(lw, 2.0)))
    assert np.isnan(pareto.khat(np.zeros(100)))
    assert np.isnan(pareto.khat(lw[:10]))
    assert np.isnan(pareto.hill(np.zeros(100)))
    assert np.isnan(pareto.hill(np.zeros(10)))


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"log_weight": np.zeros(3)}, "log_weight: expected shape"),
        ({"judge": np.array([0.0, 3.0])}, r"judge: .*\[0, 1\]"),
        ({"label_propensity": np.zeros(2)}, r"label_propensity: .*\(0, 1\]"),
        ({"log_weight": np.array([0.0, np.inf])}, "inf"),
    ],
)
def test_input_is_checked(columns, told):
    with pytest.raises(ValueError, match=told):
        arrays(**({"log_weight": np.zeros(2), "judge": np.zeros(2)} | columns))


def test_a_digest_of_the_data_does_not_depend_on_what_was_asked_of_them():
    data = example()
    before = joblib.hash(data)
    study({"pi": {"deterministic": data}})
    assert joblib.hash(data) == before
    assert joblib.hash(example(seed=1)) != before


def test_fitted_tail_follows_a_pareto_tail():
    """Weights of P(W > w) = w^-2: the fit begins where the tail begins and gives the exact exceedance inside it."""
    rng = np.random.default_rng(0)
    lw = rng.exponential(0.5, 20_000)
    fit = pareto.tail_fit(lw)
    assert fit.shape == pareto.khat(lw) == pytest.approx(0.5, abs=0.1)
    assert fit.share == pytest.approx((lw > fit.cut).mean(), abs=1e-4)
    assert fit.exceedance(np.array([fit.cut]))[0] == pytest.approx(fit.share)
    grid = np.linspace(fit.cut, np.quantile(lw, 0.999), 9)
    np.testing.assert_allclose(fit.exceedance(grid), np.exp(-2 * grid), rtol=0.25)
    assert pareto.tail_fit(np.zeros(100)) is None
