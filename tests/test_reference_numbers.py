"""The public sample: figures of published estimators and plain-numpy constants, and what this library says instead."""

from __future__ import annotations

import json

import numpy as np
import pytest

from arena10k.estimation import ESTIMATORS, compare, diagnostics, evaluate, prepare
from arena10k.estimation.context import context
from arena10k.estimation.evaluate import estimates
from arena10k.estimation.intervals import audit_weights
from arena10k.estimation.resampling import bootstrap_ratio
from arena10k.estimation.verdicts import REFUSE, REPORT
from arena10k.report import weight_findings
from statistics_data import public_sample

POLICIES = ("clone", "parallel_universe_prompt", "unhelpful")


@pytest.fixture(scope="module")
def reference(shared_data):
    return json.loads((shared_data / "reference_numbers.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=POLICIES)
def case(request, shared_data, reference):
    return public_sample(shared_data, request.param), reference["numpy_reference"]["policies"][request.param]


def snips(log_weight, reward):
    w = np.exp(log_weight - log_weight.max())
    return (w * reward).sum() / w.sum()


def test_weights(case):
    data, ref = case
    audit = audit_weights(data.log_weight)
    assert audit.mean_weight == pytest.approx(ref["mean_raw_w"], rel=1e-9)
    assert audit.ess == pytest.approx(ref["ess"], rel=1e-9)
    shares = diagnostics.top_shares(data.log_weight)
    assert shares["top_1"] == pytest.approx(ref["max_share"], rel=1e-9)
    assert shares["top_10"] == pytest.approx(ref["top10_share"], rel=1e-9)
    assert diagnostics.hill(data.log_weight, 50) == pytest.approx(ref["hill_k50"], rel=1e-9)
    overlap = diagnostics.overlap(data.log_weight)
    assert overlap["raw"] == pytest.approx(ref["hellinger_affinity_raw"], rel=1e-9)
    assert overlap["hajek"] == pytest.approx(ref["hellinger_affinity_hajek"], rel=1e-9)
    typicality = diagnostics.target_typicality(data.logp_target, data.log_weight, data.length)
    assert typicality == pytest.approx(ref["ttc_chars_q0.9"], abs=1e-12)


def test_values_on_the_calibrated_scale(case, reference):
    data, ref = case
    prep = prepare(data)
    assert prep.reward.mean() == pytest.approx(reference["numpy_reference"]["iso_reward_mean_logged"], abs=1e-12)
    values = {name: ESTIMATORS[name].score(prep).value for name in ("ips", "snips", "direct", "naive")}
    assert values["ips"] == pytest.approx(ref["ips_iso"], rel=1e-9)
    assert values["snips"] == pytest.approx(ref["snips_iso"], abs=1e-9)
    assert values["direct"] == pytest.approx(ref["direct_iso"], abs=1e-9)
    assert values["naive"] == pytest.approx(ref["direct_judge"], abs=1e-12)


def test_values_on_the_judge_scale_and_with_clipped_weights(case):
    data, ref = case
    prep = prepare(data)
    assert snips(data.log_weight, data.judge) == pytest.approx(ref["snips_judge"], abs=1e-9)
    assert snips(np.clip(data.log_weight, -20, 20), data.judge) == pytest.approx(ref["snips_judge_logclip20"], abs=1e-9)
    # The published clip is on weights scaled to mean one.
    w = np.exp(data.log_weight) / np.exp(data.log_weight).mean()
    for ceiling, key in ((10, "snips_iso_clip10"), (100, "snips_iso_clip100")):
        c = np.minimum(w, ceiling)
        assert (c * prep.reward).sum() / c.sum() == pytest.approx(ref[key], abs=1e-9)


def test_fast_bootstrap_on_real_weights(case):
    """Against resampling every row; the sample's own snips_iso_boot_sd has no stated number of replicates."""
    data, _ = case
    prep = prepare(data)
    rng = np.random.default_rng(0)
    fast = bootstrap_ratio(prep.weight, prep.reward, rng, 20_000)
    counts = rng.multinomial(data.n, np.full(data.n, 1 / data.n), size=5000)
    slow = counts @ (prep.weight * prep.reward) / (counts @ prep.weight)
    assert fast.std() == pytest.approx(slow.std(), rel=0.05)
    np.testing.assert_allclose(np.quantile(fast, [0.05, 0.95]), np.quantile(slow, [0.05, 0.95]), atol=0.1 * slow.std())


def test_published_raw_ips_is_our_snips(shared_data, reference):
    rows = [r for r in reference["published_estimators"] if r["label"] == "raw-ips clip=1e12"]
    assert len(rows) == 3
    for row in rows:
        prep = prepare(public_sample(shared_data, row["policy"]))
        assert ESTIMATORS["snips"].score(prep).value == pytest.approx(row["estimate"], abs=1e-9)


def test_published_direct_and_dr_agree_with_ours_where_nothing_is_wrong(shared_data, reference):
    """Same direct value; dr-cpo differs by its calibrated weights and folds, which move a near-empty correction."""
    rows = {(r["label"], r["policy"]): r["estimate"] for r in reference["published_estimators"]}
    for policy in POLICIES:
        prep = prepare(public_sample(shared_data, policy))
        ours = ESTIMATORS["dr_cpo"].score(prep).value
        assert ours == pytest.approx(rows["dr-cpo", policy], abs=0.02)
        direct = rows["direct calibration_data_path=logged", policy]
        assert ESTIMATORS["direct"].score(prep).value == pytest.approx(direct, abs=1e-4)


@pytest.fixture(scope="module")
def verdicts(shared_data):
    data = {name: {"deterministic": public_sample(shared_data, name)} for name in POLICIES}
    return {(r["policy"], r["estimator"]): r for r in estimates(data)}


def test_unhelpful_is_refused_by_every_weighting(verdicts):
    for name in ("ips", "snips", "psis", "calibrated_ips"):
        row = verdicts["unhelpful", name]
        assert row["verdict"] == REFUSE
        assert "off_support" in row["reasons"]
        assert row["labels_needed"] > 0
    for name in ("direct", "dr_cpo", "mrdr", "tmle", "stacked_dr", "dr_oracle"):
        assert verdicts["unhelpful", name]["verdict"] == REFUSE
        assert "off_support" in verdicts["unhelpful", name]["reasons"]


def test_the_clone_shows_the_noise_of_its_log_probs(shared_data, verdicts):
    noise = diagnostics.clone_noise_floor(public_sample(shared_data, "clone").log_weight)
    assert not noise.exact
    assert noise.median_abs == 0
    assert noise.max_abs > 1
    assert verdicts["clone", "snips"]["verdict"] == REFUSE
    assert "mean_weight_impossible" in verdicts["clone", "snips"]["reasons"]


def test_weights_of_unhelpful_are_noise_to_the_permutation_null(shared_data):
    data = public_sample(shared_data, "unhelpful")
    assert diagnostics.permutation_null(data.log_weight, prepare(data).reward).p_value > 0.05


def test_ranking_leaves_out_what_cannot_be_reported(shared_data):
    contexts = {name: context(public_sample(shared_data, name, probes=name != "unhelpful")) for name in POLICIES}
    ranked = {r.policy: r for r in compare.ranking(contexts)}
    assert set(ranked) == {"clone", "parallel_universe_prompt"}
    assert {r.rank for r in ranked.values()} == {1}
    assert all(r.estimator == "ppi_pp" for r in ranked.values())


def test_a_refused_policy_is_compared_with_none(shared_data):
    contexts = {name: context(public_sample(shared_data, name, probes=name != "unhelpful")) for name in POLICIES}
    (only,) = compare.contrasts(contexts)
    assert {only.a, only.b} == {"clone", "parallel_universe_prompt"}
    assert not only.significant
    assert only.low < 0 < only.high


def test_reports_audit_the_raw_weights_of_the_sample(shared_data, reference):
    data = {name: {"deterministic": public_sample(shared_data, name)} for name in POLICIES}
    study = evaluate.study(data, clones=["clone"])
    ref = reference["numpy_reference"]["policies"]
    for name in POLICIES:
        found = study.reports[name, "deterministic"]
        assert found.audit.mean_weight == pytest.approx(ref[name]["mean_raw_w"], rel=1e-9)
        assert (found.noise_floor is not None) == (name == "clone")
    unhelpful = study.reports["unhelpful", "deterministic"]
    assert unhelpful.missing_mass == pytest.approx(1 - ref["unhelpful"]["mean_raw_w"], rel=1e-9)
    assert unhelpful.el.width > 0.9
    said = weight_findings.noise_sentence(study.reports.values(), "deterministic")
    largest = np.abs(public_sample(shared_data, "clone").log_weight).max()
    assert f"and {largest:.2f} nats (largest), its mean weight is {ref['clone']['mean_raw_w']:.2f}" in said
    said = weight_findings.audit_sentence(study.reports.values(), "deterministic")
    assert "The mean weight of unhelpful (0.00429, 1,000 judged rows) implies that 99.6% of its probability" in said


def test_target_labels_make_ppi_report_and_hold_the_probe_mean(shared_data, reference):
    for name in ("clone", "parallel_universe_prompt"):
        data = public_sample(shared_data, name, probes=True)
        row = next(r for r in estimates({name: {"d": data}}) if r["estimator"] == "ppi_pp")
        assert row["verdict"] == REPORT
        assert row["ci_low"] <= reference["numpy_reference"]["policies"][name]["probe_oracle_mean"] <= row["ci_high"]
