"""The public sample: figures of published estimators and plain-numpy constants, and what this library says instead."""

from __future__ import annotations

import json

import numpy as np
import pytest

from arena10k.estimation import ESTIMATORS, compare, diagnostics, pareto, prepare
from arena10k.estimation.context import context
from arena10k.estimation.evaluation import study
from arena10k.estimation.verdicts import REFUSE, REPORT
from arena10k.report import weight_findings
from statistics_data import public_sample

POLICIES = ("clone", "parallel_universe_prompt", "unhelpful")


@pytest.fixture(scope="module")
def reference(shared_data):
    return json.loads((shared_data / "reference_numbers.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def sample(shared_data):
    return {name: public_sample(shared_data, name) for name in POLICIES}


@pytest.fixture(scope="module")
def study_of(sample):
    return study(
        {name: {"deterministic": data} for name, data in sample.items()}, clones=["clone"], judge="deterministic"
    )


def snips(log_weight, reward, ceiling=np.inf):
    """The published clip is on weights scaled to mean one."""
    w = np.exp(log_weight - log_weight.max())
    return np.average(reward, weights=np.minimum(w / w.mean(), ceiling))


@pytest.mark.parametrize("policy", POLICIES)
def test_weights_and_values(sample, reference, policy):
    data, ref = sample[policy], reference["numpy_reference"]["policies"][policy]
    rows, prep = data.logged, prepare(data)
    lw, audit, shares = rows.log_weight, pareto.audit_weights(rows.log_weight), diagnostics.top_shares(rows.log_weight)
    values = {name: ESTIMATORS[name].score(prep).value for name in ("ips", "snips", "direct", "naive")}
    found = {
        "mean_raw_w": audit.mean_weight,
        "ess": audit.ess,
        "max_share": shares["top_1"],
        "top10_share": shares["top_10"],
        "hill_k50": pareto.hill(lw, 50),
        "hellinger_affinity_raw": diagnostics.overlap(lw),
        "ttc_chars_q0.9": diagnostics.target_typicality(rows.logp_target, lw, rows.length),
        "ips_iso": values["ips"],
        "snips_iso": values["snips"],
        "direct_iso": values["direct"],
        "direct_judge": values["naive"],
        "snips_judge": snips(lw, rows.judge),
        "snips_judge_logclip20": snips(np.clip(lw, -20, 20), rows.judge),
        "snips_iso_clip10": snips(lw, prep.reward, 10),
        "snips_iso_clip100": snips(lw, prep.reward, 100),
    }
    for name, value in found.items():
        assert value == pytest.approx(ref[name], rel=1e-9, abs=1e-9 if "iso" in name or "judge" in name else 0), name
    assert prep.reward.mean() == pytest.approx(reference["numpy_reference"]["iso_reward_mean_logged"], abs=1e-12)


@pytest.mark.parametrize("policy", POLICIES)
def test_published_values_agree_with_ours_where_nothing_is_wrong(sample, reference, policy):
    """dr-cpo differs by its calibrated weights and folds, which move a near-empty correction."""
    rows, prep = (
        {(r["label"], r["policy"]): r["estimate"] for r in reference["published_estimators"]},
        prepare(sample[policy]),
    )
    published = [("snips", "raw-ips clip=1e12", 1e-9), ("dr_cpo", "dr-cpo", 0.02)]
    for name, label, within in (*published, ("direct", "direct calibration_data_path=logged", 1e-4)):
        assert ESTIMATORS[name].score(prep).value == pytest.approx(rows[label, policy], abs=within), name


def test_unhelpful_is_refused_by_every_weighting_and_the_clone_for_its_mean(study_of):
    rows = {(r["policy"], r["estimator"]): r for r in study_of.rows}
    for name in set(ESTIMATORS) - {"naive", "ppi_pp"}:
        assert rows["unhelpful", name]["verdict"] == REFUSE
        assert "off_support" in rows["unhelpful", name]["reasons"]
    assert rows["unhelpful", "snips"]["labels_needed"] > 0
    assert rows["clone", "snips"]["verdict"] == REFUSE
    assert "mean_weight_impossible" in rows["clone", "snips"]["reasons"]


def test_raw_weights_are_audited_and_those_of_unhelpful_are_noise(study_of, reference):
    contexts, ref = study_of.of_judge("deterministic"), reference["numpy_reference"]["policies"]
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
    sentence = weight_findings.noise_sentence(contexts.values(), "deterministic")
    assert f"{noise.max_abs:.2f} nats" in sentence
    assert f"{ref['clone']['mean_raw_w']:.2f}" in sentence
    sentence = weight_findings.audit_sentence(contexts.values(), "deterministic")
    assert "unhelpful (0.00429, 1,000" in sentence
    assert "99.6%" in sentence


def test_target_labels_are_reported_hold_the_probe_mean_and_rank_alone(shared_data, reference, sample):
    probed = {name: public_sample(shared_data, name, probes=True) for name in POLICIES[:2]}
    for name, data in probed.items():
        row = next(r for r in study({name: {"d": data}}, estimators=["ppi_pp"]).rows)
        assert row["verdict"] == REPORT
        assert row["ci_low"] <= reference["numpy_reference"]["policies"][name]["probe_oracle_mean"] <= row["ci_high"]
    contexts = {name: context(data) for name, data in (probed | {"unhelpful": sample["unhelpful"]}).items()}
    assert {(r.policy, r.rank, r.estimator) for r in compare.ranking(contexts)} == {
        (name, 1, "ppi_pp") for name in probed
    }
    (only,) = compare.contrasts(contexts)
    assert {only.a, only.b} == set(probed)
    assert not only.significant
    assert only.low < 0 < only.high
