"""Estimators: identities and limits, naive re-implementations, and traps that published code fell into."""

from __future__ import annotations

from dataclasses import replace

import joblib
import numpy as np
import pytest
from scipy.special import expit, logit

from arena10k.errors import ArenaError
from arena10k.estimation import ESTIMATORS, Estimator, PolicyData, Score, Term, deviations, estimators, pareto, prepare
from arena10k.estimation.evaluation import study
from arena10k.estimation.intervals import score_interval
from arena10k.estimation.pareto import audit_weights
from arena10k.estimation.score import calibration_variance, judge_variance
from statistics_data import arrays, changed, example

WEIGHTED = ("ips", "snips", "psis", "calibrated_ips")


def score_of(data, name):
    return ESTIMATORS[name].score(prepare(data))


def value(data, name):
    return score_of(data, name).value


def bare(prep, reward):
    """Self-normalised mean of any reward."""
    return Score((Term("logged", prep.weight * reward, prep.weight),))


def variance(prep, score, method="jackknife"):
    dev, _ = deviations(prep, score, method)
    return dev @ dev


def test_the_minimum_set_is_registered_and_one_that_returns_no_score_is_named(monkeypatch):
    names = "naive ips snips calibrated_ips psis direct dr_cpo mrdr tmle stacked_dr dr_oracle ppi_pp"
    assert set(ESTIMATORS) == set(names.split())

    def mine(prep):
        return float(prep.reward.mean())

    monkeypatch.setitem(ESTIMATORS, "mine", Estimator("mine", mine))
    with pytest.raises(ArenaError, match=r"estimator 'mine' \(.*mine in .*\) returned float, not a Score"):
        study({"pi": {"deterministic": example()}}, estimators=["mine"])


def test_a_clone_gives_the_mean_and_its_standard_error():
    data = example(log_weight=np.zeros(400))
    prep = prepare(data)
    for name in WEIGHTED:
        assert value(data, name) == pytest.approx(prep.reward.mean(), abs=1e-14)
    assert audit_weights(prep.raw_log_weight).ess == pytest.approx(400)
    dev, groups = deviations(prep, bare(prep, prep.reward))
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
    plain = bare(prep, prep.reward).value
    assert bare(prep, 3 + 2 * prep.reward).value == pytest.approx(3 + 2 * plain, abs=1e-13)
    assert prep.reward.min() <= plain <= prep.reward.max()
    assert variance(prep, bare(prep, np.full(400, 0.7))) == pytest.approx(0, abs=1e-28)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_influence_has_mean_zero_and_agrees_with_the_jackknife(name):
    prep = prepare(example())
    dev, _ = deviations(prep, ESTIMATORS[name].score(prep), "influence")
    assert dev.sum() == pytest.approx(0, abs=1e-12)
    many = prepare(example(5000))
    score = ESTIMATORS[name].score(many)
    assert variance(many, score) == pytest.approx(variance(many, score, "influence"), rel=0.02)


@pytest.mark.parametrize("clusters", [60, 17])
def test_closed_form_jackknife_equals_leaving_out_by_hand(clusters):
    n, cluster = 60, np.arange(60) % clusters
    prep = prepare(example(n, seed=2, cluster=cluster, fresh_cluster=cluster))
    score = ESTIMATORS["snips"].score(prep)
    w, r = prep.weight / np.bincount(cluster)[cluster], prep.reward
    brute = np.array([np.average(r[cluster != g], weights=w[cluster != g]) for g in range(clusters)])
    dev, groups = deviations(prep, Score(score.terms))
    assert groups == clusters
    assert dev @ dev == pytest.approx((clusters - 1) * brute.var(), rel=1e-9)


def test_standard_errors_are_by_prompt_not_by_row_or_fold():
    """Every row repeated three times under its prompt leaves value and standard error where they were."""
    data, every = example(150), np.tile(np.arange(150), 3)
    tripled = PolicyData(data.logged.take(every), data.fresh.take(every))
    for name in ("snips", "direct", "dr_oracle", "ppi_pp"):
        assert value(tripled, name) == pytest.approx(value(data, name), rel=1e-12)
        a, b = (variance(prepare(d), score_of(d, name)) for d in (data, tripled))
        assert b == pytest.approx(a, rel=1e-9)


def test_rows_without_a_log_weight_take_no_part_in_weighting():
    data, lost = example(200), np.arange(200) % 4 == 0
    partial = changed(data, log_weight=np.where(lost, np.nan, data.logged.log_weight))
    w, r = np.exp(data.logged.log_weight[~lost]), prepare(partial).reward[~lost]
    assert value(partial, "ips") == pytest.approx((w * r).mean(), rel=1e-12)
    assert value(partial, "snips") == pytest.approx(np.average(r, weights=w), rel=1e-12)


def test_calibrated_weights_are_monotone_with_mean_one_and_of_minimal_variance():
    data = example(600, seed=11)
    prep = prepare(data)
    up, down = estimators.monotone_weights(prep)
    for w, sign in ((up, 1), (down, -1)):
        assert w.mean() == pytest.approx(1, abs=1e-12)
        assert (sign * np.diff(w[np.argsort(data.logged.judge, kind="stable")]) >= -1e-12).all()
    r = prep.reward
    a, b = (v * (r - np.average(r, weights=v)) for v in (up, down))
    mixes = np.linspace(0, 1, 2001)
    mix = min(mixes, key=lambda m: ((m * a + (1 - m) * b) ** 2).sum())
    best = np.average(r, weights=mix * up + (1 - mix) * down)
    assert value(data, "calibrated_ips") == pytest.approx(best, abs=1e-4)
    nothing = example(60, log_weight=np.full(60, -np.inf))
    assert np.isnan(value(nothing, "calibrated_ips"))


def test_smoothing_keeps_order_and_never_exceeds_the_largest_weight():
    lw = np.random.default_rng(0).normal(0, 2, 1000)
    w = pareto.smooth(lw, pareto.tail_fit(lw))
    assert w.max() <= 1
    assert (np.diff(w[np.argsort(lw)]) >= 0).all()
    body = np.argsort(lw)[: 1000 - pareto.tail_size(1000)]
    np.testing.assert_allclose(w[body], np.exp(lw[body] - lw.max()))
    ties = np.r_[np.zeros(95), np.full(5, 20.0)]
    np.testing.assert_array_equal(pareto.smooth(ties, pareto.tail_fit(ties)), np.exp(ties - 20))


@pytest.mark.parametrize("name", ["ips", "snips", "psis", "calibrated_ips", "direct", "dr_oracle", "ppi_pp", "mrdr"])
def test_calibration_jackknife_swaps_f_everywhere(name):
    """theta^(-k) by refitting on labels outside fold k, replacing f in rewards and outcome models alike."""
    prep = prepare(example(seed=12))
    score = ESTIMATORS[name].score(prep)
    models = {"f": prep.fit, **score.models}

    def without(k, term):
        swapped = [slope * models[m].values[k][models[m].code[term.sample]] for m, slope in term.slopes.items()]
        return (term.num + sum(swapped)).sum() / term.den.sum()

    brute = np.array([sum(without(k, term) for term in score.all_terms) for k in range(5)])
    assert calibration_variance(prep, score) == pytest.approx(4 * brute.var(), rel=1e-9)


def test_calibration_variance_is_that_of_f_in_all_places_falls_with_labels_and_vanishes_without():
    prep = prepare(example(seed=13))
    score = ESTIMATORS["dr_oracle"].score(prep)
    assert calibration_variance(prep, score) < 0.5 * calibration_variance(prep, Score(score.terms[:1]))
    scarce, rich = (example(4000, seed=1, labelled=share) for share in (0.05, 0.9))
    preps = [prepare(data) for data in (scarce, rich, example(label=None, target_labels=0))]
    few, many, none = (calibration_variance(p, ESTIMATORS["direct"].score(p)) for p in preps)
    assert few > 3 * many > none == 0


@pytest.mark.parametrize("name", ["naive", "snips", "direct", "dr_cpo"])
def test_judge_variance_widens_every_estimate_that_uses_the_judge(name):
    data, noise = example(), np.random.default_rng(0).random(400) / 50
    assert judge_variance(prepare(data), score_of(data, name)) == 0
    loud = prepare(changed(data, judge_var=noise, fresh_judge_var=noise))
    added = judge_variance(loud, ESTIMATORS[name].score(loud))
    assert added > 0
    assert name != "naive" or added == pytest.approx(noise.sum() / 400**2)


@pytest.mark.parametrize("alpha", [0.8, 1.5, 3.0])
def test_khat_of_a_pareto_tail_is_one_over_alpha(alpha):
    rng = np.random.default_rng(0)
    k = np.mean([pareto.khat(np.log(rng.pareto(alpha, 20_000) + 1)) for _ in range(10)])
    assert k == pytest.approx(1 / alpha, abs=0.06)
    assert pareto.hill(np.log(rng.pareto(alpha, 200_000) + 1), 2000) == pytest.approx(alpha, rel=0.08)


def test_khat_ignores_a_shift_and_refuses_ties():
    lw = np.random.default_rng(0).normal(0, 2, 2000)
    assert pareto.khat(lw) == pytest.approx(pareto.khat(lw - 500), abs=1e-9)
    assert np.isnan([pareto.khat(x) for x in (np.minimum(lw, 2.0), np.zeros(100), lw[:10])]).all()
    assert np.isnan([pareto.hill(np.zeros(n)) for n in (100, 10)]).all()


def test_fitted_tail_follows_a_pareto_tail():
    """Weights of P(W > w) = w^-2: the fit begins where the tail begins and gives the exact exceedance inside it."""
    lw = np.random.default_rng(0).exponential(0.5, 20_000)
    fit = pareto.tail_fit(lw)
    assert fit.shape == pareto.khat(lw) == pytest.approx(0.5, abs=0.1)
    assert fit.share == pytest.approx((lw > fit.cut).mean(), abs=1e-4)
    assert fit.exceedance(np.array([fit.cut]))[0] == pytest.approx(fit.share)
    grid = np.linspace(fit.cut, np.quantile(lw, 0.999), 9)
    np.testing.assert_allclose(fit.exceedance(grid), np.exp(-2 * grid), rtol=0.25)
    light = replace(fit, shape=0.0).exceedance(grid)
    np.testing.assert_allclose(light, replace(fit, shape=1e-9).exceedance(grid), rtol=1e-4)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"log_weight": np.zeros(3)}, "log_weight: expected shape"),
        ({"judge": np.array([0.0, 3.0])}, r"judge: .*\[0, 1\]"),
        ({"label_propensity": np.zeros(2)}, r"label_propensity: .*\(0, 1\]"),
        ({"log_weight": np.array([0.0, np.inf])}, "inf"),
    ],
)
def test_input_is_checked(columns, message):
    with pytest.raises(ValueError, match=message):
        arrays(**({"log_weight": np.zeros(2), "judge": np.zeros(2)} | columns))


def test_a_digest_of_the_data_does_not_depend_on_what_was_asked_of_them():
    data = example()
    before = joblib.hash(data)
    study({"pi": {"deterministic": data}})
    assert joblib.hash(data) == before != joblib.hash(example(seed=1))


def test_doubly_robust_limits():
    """With an outcome model that is R the direct method, with none SNIPS."""
    prep = prepare(example())
    same = estimators.doubly_robust(prep, prep.reward, prep.fresh_reward).value
    none = estimators.doubly_robust(prep, np.zeros(400), np.zeros(400)).value
    assert same == pytest.approx(prep.fresh_reward.mean(), abs=1e-14)
    assert none == pytest.approx(ESTIMATORS["snips"].score(prep).value, abs=1e-14)


@pytest.mark.parametrize("name", ["dr_cpo", "mrdr", "tmle", "dr_oracle", "stacked_dr"])
def test_doubly_robust_estimators_correct_and_see_fresh_draws_by_their_own_covariates(name):
    """Shuffling the logged rows against the fresh ones must not change the value; changing fresh scores must. The
    correction is not empty: R and the outcome model are not the same f(S)."""
    data = example(seed=5)
    if name in ("dr_cpo", "mrdr", "dr_oracle"):
        correction = score_of(data, name).terms[1]
        assert np.count_nonzero(np.abs(correction.num) > 1e-9) > 100
        assert abs(correction.value) > 1e-6
    shuffled = replace(data, logged=data.logged.take(np.random.default_rng(0).permutation(400)))
    assert value(shuffled, name) == pytest.approx(value(data, name), abs=1e-9)
    better = changed(data, fresh_judge=np.minimum(data.fresh.judge + 0.2, 1))
    assert value(better, name) > value(data, name) + 0.03
    assert 0 < value(replace(data, fresh=data.fresh.take(np.arange(150))), name) < 1


def test_dr_oracle_and_mrdr_by_hand():
    """mrdr's outcome model is fitted with squared weights."""
    from sklearn.isotonic import IsotonicRegression

    data = example()
    prep, has, w = prepare(data), ~np.isnan(data.logged.label), np.exp(data.logged.log_weight)
    residual = (w * (data.logged.label - prep.reward_oof))[has]
    assert value(data, "dr_oracle") == pytest.approx(prep.fresh_oof.mean() + residual.mean(), abs=1e-12)
    q, q_fresh = np.empty(400), np.empty(400)
    for k in range(5):
        train = has & (data.logged.fold != k)
        model = IsotonicRegression(out_of_bounds="clip")
        model.fit(data.logged.judge[train], data.logged.label[train], w[train] ** 2)
        for out, rows in ((q, data.logged), (q_fresh, data.fresh)):
            out[rows.fold == k] = model.predict(rows.judge[rows.fold == k])
    expected = q_fresh.mean() + np.average(prep.reward - q, weights=w)
    assert value(data, "mrdr") == pytest.approx(expected, abs=1e-10)


def test_tmle_solves_its_score_equation():
    prep = prepare(example())
    score = ESTIMATORS["tmle"].score(prep)
    assert score.terms[1].value == pytest.approx(0, abs=1e-10)
    q, fresh = (np.clip(f, 1e-3, 1 - 1e-3) for f in (prep.reward_oof, prep.fresh_oof))
    eps = estimators.targeting_step(prep.weight, prep.reward, q)
    assert (prep.weight * (prep.reward - expit(logit(q) + eps))).sum() == pytest.approx(0, abs=1e-8)
    assert score.value == pytest.approx(expit(logit(fresh) + eps).mean(), abs=1e-9)


def test_stacking_of_one_alone_is_that_one(monkeypatch):
    """A member without a share says nothing of what the value rests on."""
    monkeypatch.setattr(estimators, "stacking_weights", lambda influence: np.array([0.0, 1.0, 0.0]))
    data = example()
    few = data.fresh.take(np.arange(4))
    prep = prepare(replace(data, fresh=replace(few, label=np.round(few.judge))))
    alone, stacked = (score_interval(prep, ESTIMATORS[name].score(prep)) for name in ("mrdr", "stacked_dr"))
    assert stacked == alone


def test_stacking_has_the_least_variance_among_convex_combinations():
    rng = np.random.default_rng(0)
    base = rng.standard_normal(500)
    influence = np.vstack([base + 0.3 * rng.standard_normal(500), base + 0.5 * rng.standard_normal(500), 3 * base])
    best = estimators.stacking_weights(influence)
    assert (best.min() >= 0, best.sum()) == (True, pytest.approx(1))
    others = ((rng.dirichlet(np.ones(3), 2000) @ influence) ** 2).sum(axis=1)
    assert ((best @ influence) ** 2).sum() <= others.min() * (1 + 1e-5)
    np.testing.assert_allclose(estimators.stacking_weights(np.zeros((3, 10))), 1 / 3)
    members = [value(example(), name) for name in ("dr_cpo", "mrdr", "tmle")]
    assert min(members) - 1e-12 <= value(example(), "stacked_dr") <= max(members) + 1e-12


def test_ppi_is_the_classical_mean_without_power_and_the_mean_of_f_with_a_perfect_judge():
    data = example(target_labels=80, seed=1)
    prep, label = prepare(data), data.fresh.label[:80]
    score = estimators.ppi_score(prep, 0.0)
    assert (score.value, deviations(prep, score)[1]) == (pytest.approx(label.mean(), abs=1e-14), 80)
    assert variance(prep, score) == pytest.approx(label.var(ddof=1) / 80, rel=1e-9)
    f = prep.fresh_oof
    perfect = changed(data, fresh_label=np.where(np.arange(400) < 80, f, np.nan))
    assert estimators.ppi_score(prepare(perfect), 1.0).value == pytest.approx(f.mean(), abs=1e-13)
    assert estimators.power_tuning(f[:80], f[:80]) == pytest.approx(1)


def test_ppi_power_minimises_the_variance():
    data = example(2000, target_labels=400)
    prep = prepare(data)
    power = estimators.power_tuning(data.fresh.label[:400], prep.fresh_oof[:400])
    least, *grid = (variance(prep, estimators.ppi_score(prep, p)) for p in (power, *np.linspace(0, 1, 41)))
    assert least <= min(grid) * 1.01
    assert estimators.power_tuning(np.ones(5), np.ones(5)) == 0.0
