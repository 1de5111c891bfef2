"""The public sample: figures of published estimators and plain-numpy constants, and what this library says instead."""

from __future__ import annotations

import json

import numpy as np
import pytest

from arena10k.estimation import ESTIMATORS, compare, diagnostics, pareto, prepare
from arena10k.estimation.context import context
from arena10k.estimation.evaluation import study
from arena10k.estimation.pareto import audit_weights
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
    audit = audit_weights(data.logged.log_weight)
    assert audit.mean_weight == pytest.approx(ref["mean_raw_w"], rel=1e-9)
    assert audit.ess == pytest.approx(ref["ess"], rel=1e-9)
    shares = diagnostics.top_shares(data.logged.log_weight)
    assert shares["top_1"] == pytest.approx(ref["max_share"], rel=1e-9)
    assert shares["top_10"] == pytest.approx(ref["top10_share"], rel=1e-9)
    assert pareto.hill(data.logged.log_weight, 50) == pytest.approx(ref["hill_k50"], rel=1e-9)
    overlap = diagnostics.overlap(data.logged.log_weight)
    assert overlap == pytest.approx(ref["hellinger_affinity_raw"], rel=1e-9)
    typicality = diagnostics.target_typicality(data.logged.logp_target, data.logged.log_weight, data.logged.length)
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
    assert snips(data.logged.log_weight, data.logged.judge) == pytest.approx(ref["snips_judge"], abs=1e-9)
    assert snips(np.clip(data.logged.log_weight, -20, 20), data.logged.judge) == pytest.approx(
        ref["snips_judge_logclip20"], abs=1e-9
    )
    # The published clip is on weights scaled to mean one.
    w = np.exp(data.logged.log_weight) / np.exp(data.logged.log_weight).mean()
    for ceiling, key in ((10, "snips_iso_clip10"), (100, "snips_iso_clip100")):
        c = np.minimum(w, ceiling)
        assert (c * prep.reward).sum() / c.sum() == pytest.approx(ref[key], abs=1e-9)


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
def found(shared_data):
    data = {name: {"deterministic": public_sample(shared_data, name)} for name in POLICIES}
    return study(data, clones=["clone"], judge="deterministic")


def test_unhelpful_is_refused_by_every_weighting_and_the_clone_for_its_mean(found):
    rows = {(r["policy"], r["estimator"]): r for r in found.rows}
    for name in (
        "ips",
        "snips",
        "psis",
        "calibrated_ips",
        "direct",
        "dr_cpo",
        "mrdr",
        "tmle",
        "stacked_dr",
        "dr_oracle",
    ):
        assert rows["unhelpful", name]["verdict"] == REFUSE
        assert "off_support" in rows["unhelpful", name]["reasons"]
    assert rows["unhelpful", "snips"]["labels_needed"] > 0
    assert rows["clone", "snips"]["verdict"] == REFUSE
    assert "mean_weight_impossible" in rows["clone", "snips"]["reasons"]


def test_raw_weights_are_audited_and_those_of_unhelpful_are_noise(found, reference):
    contexts, ref = found.of_judge("deterministic"), reference["numpy_reference"]["policies"]
    for name, ctx in contexts.items():
        assert ctx.audit.mean_weight == pytest.approx(ref[name]["mean_raw_w"], rel=1e-9)
        assert (ctx.noise_floor is not None) == (name == "clone")
        assert ctx.typicality == pytest.approx(ref[name]["ttc_chars_q0.9"], abs=1e-12)
        assert (ctx.n_missing_weight, ctx.missing_mass_interval[0] <= ctx.permutation.value) == (0, True)
    noise, unhelpful = contexts["clone"].noise_floor, contexts["unhelpful"]
    assert (noise.exact, noise.median_abs, noise.max_abs > 1) == (False, 0, True)
    assert unhelpful.permutation.p_value > 0.05
    assert unhelpful.missing_mass == pytest.approx(1 - ref["unhelpful"]["mean_raw_w"], rel=1e-9)
    assert unhelpful.el.width > 0.9
    told = weight_findings.noise_sentence(contexts.values(), "deterministic")
    assert f"{noise.max_abs:.2f} nats" in told
    assert f"{ref['clone']['mean_raw_w']:.2f}" in told
    told = weight_findings.audit_sentence(contexts.values(), "deterministic")
    assert "unhelpful (0.00429, 1,000" in told
    assert "99.6%" in told


def test_ranking_and_contrasts_leave_out_what_cannot_be_reported(shared_data):
    contexts = {name: context(public_sample(shared_data, name, probes=name != "unhelpful")) for name in POLICIES}
    ranked = compare.ranking(contexts)
    assert {(r.policy, r.rank, r.estimator) for r in ranked} == {(name, 1, "ppi_pp") for name in POLICIES[:2]}
    (only,) = compare.contrasts(contexts)
    assert {only.a, only.b} == set(POLICIES[:2])
    assert not only.significant
    assert only.low < 0 < only.high


def test_target_labels_make_ppi_report_and_hold_the_probe_mean(shared_data, reference):
    for name in ("clone", "parallel_universe_prompt"):
        data = public_sample(shared_data, name, probes=True)
        row = next(r for r in study({name: {"d": data}}).rows if r["estimator"] == "ppi_pp")
        assert row["verdict"] == REPORT
        assert row["ci_low"] <= reference["numpy_reference"]["policies"][name]["probe_oracle_mean"] <= row["ci_high"]
