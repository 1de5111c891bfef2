"""Verdicts, reasons, planning, contrasts and ranking: from arrays to rows of estimates.json."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from arena10k.analysis import Analysis
from arena10k.estimation import ESTIMATORS, PolicyData, compare, planning, policy_data, prepare, prompt_fold
from arena10k.estimation.context import context
from arena10k.estimation.evaluate import estimates, report
from arena10k.estimation.intervals import score_interval
from arena10k.estimation.verdicts import CAUTION, NOT_ASKED, REFUSE, REPORT, accepted, estimate_row
from arena10k.report import findings, weight_findings
from statistics_data import example

KEYS = {
    "policy",
    "estimator",
    "judge",
    "value",
    "se",
    "ci_low",
    "ci_high",
    "verdict",
    "reasons",
    "n_used",
    "n_quarantined",
    "mean_weight",
    "ess",
    "khat",
    "labels_needed",
}
WEIGHTED = ("ips", "snips", "psis", "calibrated_ips")


def rows(data, **options):
    return {r["estimator"]: r for r in estimates({"target": {"deterministic": data}}, **options)}


def test_rows_are_json_without_nan_for_any_data():
    n = 40
    hard = [
        example(n),
        example(n, log_weight=np.full(n, np.nan)),
        example(n, log_weight=np.full(n, -np.inf)),
        example(n, log_weight=np.linspace(0, 3000, n)),
        example(n, judge=np.full(n, np.nan)),
        example(n, label=np.full(n, np.nan), target_labels=0),
        example(n, label=np.zeros(n), judge=np.zeros(n), fresh_judge=np.zeros(n), fresh_label=np.zeros(n)),
        PolicyData(log_weight=np.zeros(n), judge=np.full(n, 0.5)),
        PolicyData(log_weight=np.empty(0), judge=np.empty(0)),
        PolicyData(log_weight=np.zeros(1), judge=np.ones(1)),
    ]
    for data in hard:
        for row in rows(data).values():
            assert set(row) == KEYS
            json.dumps(row, allow_nan=False)
            assert row["verdict"] in (REPORT, CAUTION, REFUSE, NOT_ASKED)
            assert (row["verdict"] == REPORT) == (not row["reasons"])
            if row["value"] is None:
                assert row["verdict"] in (REFUSE, NOT_ASKED)


def test_one_row_per_policy_judge_and_estimator_with_quarantine_counts():
    data = {"a": {"deterministic": example(), "uncertainty": example(seed=1)}, "b": {"deterministic": example(seed=2)}}
    got = estimates(data, n_quarantined={"a": 7})
    assert len(got) == 3 * len(ESTIMATORS)
    assert {(r["policy"], r["n_quarantined"]) for r in got} == {("a", 7), ("b", 0)}


def test_healthy_policy_with_labels_reports():
    got = rows(example(1000, target_labels=200))
    for name in ("snips", "psis", "dr_oracle", "ppi_pp"):
        assert got[name]["verdict"] == REPORT, (name, got[name]["reasons"])
    assert (got["naive"]["verdict"], got["naive"]["reasons"]) == (REFUSE, ["not_on_oracle_scale"])
    assert got["calibrated_ips"]["verdict"] != REPORT
    for name in ("direct", "dr_cpo", "mrdr", "tmle", "stacked_dr"):
        assert (got[name]["verdict"], got[name]["reasons"]) == (CAUTION, ["transport_limited_by_labels"])


@pytest.mark.parametrize(("near", "verdict", "told"), [(3, REFUSE, True), (12, CAUTION, True), (30, CAUTION, False)])
def test_a_calibration_needs_labels_where_the_targets_draws_score(near, verdict, told):
    """All draws score 0.2; of the 200 labels, all but `near` lie at 0.8. Nothing tests transport."""
    n = 200
    judge = np.where(np.arange(n) < near, 0.2, 0.8)
    nothing = np.full(n, np.nan)
    data = PolicyData(log_weight=nothing, judge=judge, label=judge, fresh_judge=np.full(n, 0.2))
    row = rows(data)["direct"]
    assert row["value"] == pytest.approx(0.2)
    assert row["verdict"] == verdict
    assert ("calibration_extrapolates" in row["reasons"]) == told


def test_a_clone_with_the_rounding_of_an_endpoint_is_as_good_as_an_exact_one():
    exact = example(400, log_weight=np.zeros(400))
    rounded = dataclasses.replace(exact, log_weight=np.random.default_rng(0).normal(0, 1e-5, 400))
    mine, theirs = rows(rounded), rows(exact)
    for name, row in theirs.items():
        assert (mine[name]["verdict"], mine[name]["reasons"]) == (row["verdict"], row["reasons"]), name
        assert mine[name]["value"] == pytest.approx(row["value"], abs=1e-4)


def test_off_support_policy_is_refused_by_every_weighting_and_says_how_many_labels_would_do():
    data = example(1000, target_labels=0)
    got = rows(dataclasses.replace(data, log_weight=data.log_weight * 8 - 60))
    for name in WEIGHTED:
        assert got[name]["verdict"] == REFUSE
        assert {"few_weighted_labels", "off_support", "interval_too_wide"} <= set(got[name]["reasons"])
        assert got[name]["labels_needed"] > 0
    for name in ("direct", "dr_cpo", "mrdr", "tmle", "stacked_dr", "dr_oracle"):
        assert got[name]["verdict"] == REFUSE
        assert "off_support" in got[name]["reasons"]
    assert (got["ppi_pp"]["verdict"], got["ppi_pp"]["reasons"]) == (NOT_ASKED, ["no_labels"])


def test_target_labels_make_ppi_reportable_when_weights_are_useless():
    data = example(1000, target_labels=100, sigma=12.0)
    got = rows(data)
    assert got["ppi_pp"]["verdict"] == REPORT
    assert got["snips"]["verdict"] == REFUSE


def test_a_judge_that_does_not_transport_refuses_what_rests_on_it():
    data = example(1000, target_labels=100)
    fooled = dataclasses.replace(data, fresh_label=np.clip(data.fresh_label - 0.35, 0, 1))
    got = rows(fooled)
    for name in ("direct", "dr_cpo", "mrdr", "tmle", "stacked_dr"):
        assert got[name]["verdict"] == REFUSE
        assert "transport_failed" in got[name]["reasons"]
    for name in (*WEIGHTED, "dr_oracle"):  # labels of the log and weights cannot be right beside those of the draws
        assert got[name]["verdict"] == REFUSE
        assert "contradicts_labels" in got[name]["reasons"]
    assert got["ppi_pp"]["verdict"] == REPORT


def test_clipped_sentinels_are_refused_as_clip_dominated():
    data = example(1000)
    lw = np.where(np.arange(1000) % 60 == 0, 20.0, data.log_weight - 20)
    got = rows(dataclasses.replace(data, log_weight=lw))
    for name in WEIGHTED:
        assert got[name]["verdict"] == REFUSE
        assert {"clip_dominated", "mean_weight_impossible"} <= set(got[name]["reasons"])


def test_weights_whose_mean_cannot_be_one_are_refused_however_narrow_the_interval():
    data = example(2000, sigma=0.2)
    got = rows(dataclasses.replace(data, log_weight=data.log_weight + 0.3))
    assert got["snips"]["verdict"] == REFUSE
    assert got["snips"]["reasons"][0] == "mean_weight_impossible"


def test_temperature_mismatch_refuses_weighting_and_leaves_the_rest():
    got = rows(example(1000, target_labels=200), flags={"target": ["temperature_mismatch"]})
    for name in (*WEIGHTED, "dr_cpo", "dr_oracle", "tmle"):
        assert got[name]["verdict"] == REFUSE
        assert got[name]["reasons"][0] == "temperature_mismatch"
    assert got["ppi_pp"]["verdict"] == REPORT


def test_few_labels_are_said():
    got = rows(example(1000, target_labels=12))
    assert got["ppi_pp"]["verdict"] in (CAUTION, REFUSE)
    assert "few_labels" in got["ppi_pp"]["reasons"]
    assert rows(example(1000, target_labels=3))["ppi_pp"]["verdict"] == REFUSE


@pytest.mark.parametrize(("labels", "reason"), [(0, "no_labels"), (4, "few_labels")])
def test_without_labels_to_calibrate_nothing_that_needs_them_stands(labels, reason):
    data = example(100, target_labels=labels)
    few = np.where(np.cumsum(~np.isnan(data.label)) <= labels, data.label, np.nan)
    got = rows(dataclasses.replace(data, label=few, fresh_label=np.full(100, np.nan)))
    for name in ("direct", "snips", "dr_cpo"):
        assert got[name]["value"] is not None
        assert not accepted(got[name])
        assert [r for r in got[name]["reasons"] if "label" in r] == [reason]
    assert got["dr_oracle"]["verdict"] == (REFUSE if labels else NOT_ASKED)
    assert reason in got["dr_oracle"]["reasons"]
    assert "not_on_oracle_scale" not in got["dr_oracle"]["reasons"]


def test_labels_that_are_not_used_are_not_said_to_be_missing():
    ctx = context(example(1000, target_labels=100), Analysis(calibration="none"))
    got = {name: estimate_row(ctx, ESTIMATORS[name]) for name in ("direct", "dr_oracle", "ppi_pp")}
    assert got["direct"]["reasons"] == ["not_on_oracle_scale"]
    assert got["dr_oracle"]["verdict"] == got["ppi_pp"]["verdict"] == REPORT


def test_a_value_outside_of_its_own_interval_is_never_reported():
    data = example(100, target_labels=0, judge=np.full(100, 0.5), fresh_judge=np.full(100, 0.5), labelled=1)
    wrong = data.fold == 0  # where the calibration of the other folds says 1
    far = dataclasses.replace(data, label=1.0 - wrong, log_weight=np.where(wrong, 3.0, 0.0))
    row = rows(far)["dr_oracle"]
    assert row["value"] < 0
    assert row["verdict"] != REPORT
    assert "value_outside_interval" in row["reasons"]


def test_a_sound_estimate_that_chance_takes_above_1_is_not_refused():
    """Refusing those alone that err upwards would leave the low ones standing."""
    n = 400
    lucky = example(n, judge=np.ones(n), fresh_judge=np.ones(n), label=np.ones(n), sigma=0.2, target_labels=0)
    lucky = dataclasses.replace(lucky, log_weight=lucky.log_weight + 0.01)
    row = rows(lucky)["ips"]
    assert row["value"] > 1
    assert (row["verdict"], row["reasons"]) == (CAUTION, ["value_outside_interval"])


def test_a_policy_without_draws_of_its_own_is_not_given_the_logging_policys_mean():
    n = 50
    data = PolicyData(log_weight=np.full(n, np.nan), judge=np.full(n, 0.7))
    row = rows(data)["naive"]
    assert (row["value"], row["verdict"], row["reasons"]) == (None, NOT_ASKED, ["no_fresh_draws"])
    own = rows(dataclasses.replace(data, log_weight=np.zeros(n), is_logging=True))["naive"]
    assert own["value"] == pytest.approx(0.7)


def test_the_logging_policy_and_a_clone():
    data = example(400, log_weight=np.zeros(400))
    own = {f"fresh_{f}": getattr(data, f) for f in ("judge", "label", "cluster", "fold", "length")}
    got = rows(dataclasses.replace(data, **own, is_logging=True))
    for name, row in got.items():
        assert row["verdict"] == {"naive": REFUSE, "calibrated_ips": CAUTION}.get(name, REPORT)
        assert row["mean_weight"] == 1
        assert row["ess"] == pytest.approx(400)
        assert row["khat"] is None
    assert got["snips"]["value"] == pytest.approx(got["direct"]["value"])
    assert got["ppi_pp"]["value"] == pytest.approx(np.nanmean(data.label), abs=0.02)
    clone = report("clone", "deterministic", data, context(data), clone=True)
    assert clone.noise_floor.exact
    assert report("t", "deterministic", data, context(data)).noise_floor is None


def test_wider_confidence_widens_every_interval():
    narrow, wide = (rows(example(600, target_labels=100), analysis=Analysis(confidence=c)) for c in (0.8, 0.99))
    for name in ESTIMATORS:
        a, b = (r[name]["ci_high"] - r[name]["ci_low"] for r in (narrow, wide))
        assert a < b


def test_planned_labels_bring_the_interval_under_the_width():
    """Plan from a pilot of 40 labels, label that many, look at the width."""
    data = example(4000, target_labels=40)
    for width in (0.1, 0.04):
        n = planning.labels_needed(planning.pilot(prepare(data)), width)
        labelled = prepare(example(4000, target_labels=n))
        got = score_interval(labelled, ESTIMATORS["ppi_pp"].score(labelled))
        assert 0.6 * width < got.width < 1.25 * width


def test_labels_needed_grow_as_the_width_shrinks_and_never_vanish():
    p = planning.pilot(prepare(example(400, target_labels=60)))
    needed = [planning.labels_needed(p, w) for w in (0.4, 0.2, 0.1, 0.05)]
    assert needed == sorted(needed)
    assert needed[-1] > 3 * needed[-2] > 0
    assert planning.ppi_width(p, needed[1]) <= 0.2 < planning.ppi_width(p, needed[1] - 1)
    worst = planning.pilot(prepare(PolicyData(log_weight=np.zeros(50), judge=np.full(50, 0.5))))
    assert worst.source == "worst_case"
    assert planning.labels_needed(worst, 0.2) > 90
    silent = planning.pilot(prepare(example(200, fresh_label=np.where(np.arange(200) < 30, 0.0, np.nan))))
    assert planning.labels_needed(silent, 0.05) > 40


def test_direct_plan_foretells_the_width_with_more_data():
    """From 800 rows to 8,000 with ten times the labels, averaged because a five-fold jackknife is noisy: never promised
    narrower than it turns out, and at most half as wide again."""

    def mean_square(n):
        """Of the widths with 2,400 labels: labels planned for a width grow as its inverse square."""
        preps = [prepare(example(n, seed=seed, labelled=0.3)) for seed in range(20)]
        return np.mean([planning.direct_plan(p, [0.01])[0]["labels"] / 2400 * 0.01**2 for p in preps])

    assert 0.95 < np.sqrt(mean_square(800) / mean_square(8000)) < 1.5
    few, many = planning.direct_plan(prepare(example(800)), [0.1, 0.05])
    assert few["draws"] < many["draws"]
    assert few["labels"] < many["labels"]


def test_plan_is_a_table_with_cost():
    p = planning.pilot(prepare(example(100, target_labels=60)))
    table = planning.plan(p, [0.2, 0.02], planning.UnitCosts(label=0.5, draw=0.1))
    assert table[1]["labels"] > 100
    assert table[1]["draws"] == table[1]["labels"]
    assert table[1]["more"] == table[1]["labels"] - 60
    assert table[1]["cost"] == pytest.approx(0.5 * table[1]["more"] + 0.1 * (table[1]["draws"] - 100))
    assert table[0]["draws"] == 100
    assert table[0]["cost"] == 0.5 * table[0]["more"]
    (unknown,) = planning.plan(p, [0.02], planning.UnitCosts(label=None, draw=0.1))
    assert unknown["cost"] is None


def test_plan_of_the_direct_method_keeps_its_promise():
    """As many draws and labels as planned, from a pilot of 500 rows: the interval is as narrow as wanted."""
    pilot = prepare(example(500, labelled=0.4))
    (row,) = planning.direct_plan(pilot, [0.04], planning.UnitCosts(1.0, 0.0))
    assert row["draws"] / row["labels"] == pytest.approx(1 / 0.4, rel=0.15)
    assert row["cost"] == row["more"] > 0
    later = prepare(example(row["draws"], seed=5, labelled=row["labels"] / row["draws"]))
    assert 0.4 * 0.04 < score_interval(later, ESTIMATORS["direct"].score(later)).width < 1.3 * 0.04
    assert planning.direct_plan(prepare(example(50, label=None, target_labels=0)), [0.1]) == []


def three_policies():
    good = example(1000, seed=1, target_labels=150)
    same = dataclasses.replace(good, fresh_label=np.roll(good.fresh_label, 0))
    bad = example(1000, seed=3, target_labels=0, sigma=10.0)
    worse = dataclasses.replace(
        good, fresh_judge=np.clip(good.fresh_judge - 0.3, 0, 1), fresh_label=np.clip(good.fresh_label - 0.25, 0, 1)
    )
    return {name: context(d) for name, d in {"good": good, "same": same, "bad": bad, "worse": worse}.items()}


def test_ranking_shows_ties():
    ranked = {r.policy: r for r in compare.ranking(three_policies())}
    assert set(ranked) == {"good", "same", "worse"}
    assert ranked["good"].rank == ranked["same"].rank == 1
    assert ranked["good"].worst_rank == 2
    assert ranked["worse"].rank == 3


def test_contrasts_pair_prompts_and_cancel_what_policies_share():
    found = {(c.a, c.b): c for c in compare.contrasts(three_policies())}
    assert set(found) == {("good", "same"), ("good", "worse"), ("same", "worse")}
    assert found["good", "same"].difference == 0
    assert found["good", "same"].se < 1e-12
    assert not found["good", "same"].significant
    gap = found["good", "worse"]
    assert gap.significant
    assert gap.low < gap.difference < gap.high


def test_contrast_by_hand():
    """Two labelled samples on the same prompts: the paired t standard error."""
    a = example(100, target_labels=100)
    b = dataclasses.replace(a, fresh_label=np.clip(a.fresh_label + np.random.default_rng(0).normal(0, 0.1, 100), 0, 1))
    from arena10k.estimation.fresh import ppi_score

    pa, pb = prepare(a), prepare(b)
    got = compare.paired((pa, ppi_score(pa, 0.0)), (pb, ppi_score(pb, 0.0)))
    difference = a.fresh_label - b.fresh_label
    assert got.value == pytest.approx(difference.mean())
    assert got.se == pytest.approx(difference.std(ddof=1) / 10, rel=1e-6)


def frames():
    logged = pd.DataFrame(
        {
            "prompt_id": ["a", "b", "c"],
            "draw": 0,
            "response_chars": [3, 4, 5],
            "logp_p0": [-1.0, np.nan, -3.0],
            "logp_pi": [-2.0, -2.0, np.nan],
            "judge_deterministic": [0.0, 0.5, 1.0],
            "label": [0.0, np.nan, 1.0],
            "judge_uncertainty": [0.1, 0.2, np.nan],
            "judge_uncertainty_sd": [0.1, 0.2, np.nan],
        }
    )
    fresh = pd.DataFrame(
        {
            "policy": ["pi", "pi", "other"],
            "prompt_id": ["c", "a", "z"],
            "response_chars": [1, 2, 3],
            "judge_deterministic": [0.3, 0.4, 0.9],
            "judge_uncertainty": [0.3, 0.4, 0.9],
            "judge_uncertainty_sd": [0.0, 0.3, 0.1],
            "label": [np.nan, 1.0, np.nan],
        }
    )
    return logged, fresh


def test_arrays_from_the_analysis_table():
    got = policy_data(*frames(), "pi", "uncertainty")
    np.testing.assert_array_equal(got.log_weight, [-1.0, np.nan, np.nan])
    np.testing.assert_array_equal(got.fresh_cluster, [2, 0])
    np.testing.assert_allclose(got.fresh_judge_var, [0.0, 0.09])
    np.testing.assert_array_equal(got.fold, [prompt_fold(p) for p in "abc"])
    np.testing.assert_array_equal(got.fresh_fold, [prompt_fold("c"), prompt_fold("a")])
    np.testing.assert_array_equal(got.fresh_label, [np.nan, 1.0])
    own = policy_data(*frames(), "p0", "deterministic")
    np.testing.assert_array_equal(own.log_weight, [0.0, np.nan, 0.0])
    np.testing.assert_array_equal(own.fresh_judge, own.judge)
    assert own.is_logging
    assert (own.judge_var == 0).all()


def test_prompt_folds_are_fixed_for_ever():
    """SHA-256 of the id modulo 5; `sha256sum` gives the same. A change would move every stored estimate."""
    assert [prompt_fold(p) for p in ("arena_0", "arena_1", "x")] == [0, 4, 1]
    assert np.bincount([prompt_fold(f"arena_{i}") for i in range(5000)]).min() > 900


def test_two_stage_calibration_runs_through_every_estimator():
    for row in rows(example(500, target_labels=100), analysis=Analysis(calibration="two_stage")).values():
        assert row["value"] is not None
        assert row["ci_low"] < row["ci_high"]


@pytest.mark.parametrize(("logged", "target"), [(True, False), (False, True), (True, True)])
def test_oracle_labels_anywhere(logged, target):
    """On the logged responses, on the target's own draws, or on both: what can be said with each, and what cannot."""
    data = example(1000, target_labels=100 if target else 0)
    got = rows(data if logged else dataclasses.replace(data, label=np.full(1000, np.nan)))
    assert (got["ppi_pp"]["verdict"] == REPORT) == target
    assert (got["dr_oracle"]["verdict"] == REPORT) == logged
    for name in ("direct", "dr_cpo", "mrdr", "tmle", "stacked_dr", "snips"):
        assert got[name]["verdict"] in (REPORT, CAUTION), (name, got[name])
        assert "not_on_oracle_scale" not in got[name]["reasons"]


def test_judge_variance_widens_every_interval_and_every_contrast():
    """On the target's side and on P0's; beside wilder weights an unseen label may decide the width."""
    for sigma in (0.4, 0.7):
        sure = example(1000, sigma=sigma, target_labels=200)
        unsure = dataclasses.replace(sure, judge_var=np.full(1000, 0.04), fresh_judge_var=np.full(1000, 0.04))
        a, b = rows(sure), rows(unsure)
        for name in ESTIMATORS:
            assert a[name]["value"] == b[name]["value"]
            assert a[name]["se"] < b[name]["se"], (sigma, name)
    narrow, wide = (
        compare.contrasts({"x": context(d), "y": context(dataclasses.replace(d, fresh_judge=d.fresh_judge[::-1]))})
        for d in (example(1000, target_labels=200), dataclasses.replace(unsure, log_weight=example(1000).log_weight))
    )
    assert narrow[0].se < wide[0].se


def test_no_policy_stands_by_the_judges_scale_alone():
    rows = [
        {"policy": p, "estimator": e, "verdict": v, "reasons": reasons, "value": 0.5}
        for p, e, v, reasons in [
            ("a", "naive", CAUTION, ["not_on_oracle_scale"]),
            ("a", "snips", REFUSE, []),
            ("a", "direct", CAUTION, ["few_labels", "not_on_oracle_scale"]),
            ("b", "naive", CAUTION, ["not_on_oracle_scale"]),
            ("b", "direct", REPORT, []),
        ]
    ]
    told = findings.estimates_sentence(rows)
    assert told.startswith("1 of 3 estimates is accepted")
    assert "1 is refused, 1 is on the judge's scale" in told
    assert told.endswith("No estimate is accepted for a.")
    assert findings.estimates_sentence(rows[3:]).endswith("every policy has at least one accepted.")


def reports(data, name="target"):
    return [report(name, "deterministic", data, context(data))]


def test_missing_mass_is_told_only_where_there_is_some():
    (tiny,) = reports(example(400, log_weight=np.full(400, -60.0)))
    assert tiny.missing_mass == 1
    said = weight_findings.audit_sentence([tiny], "deterministic")
    assert "400 judged rows" in said
    assert "about over 99.9%" not in said
    assert "over 99.9% of its probability" in said
    same = weight_findings.audit_sentence(reports(example(400, log_weight=np.zeros(400))), "deterministic")
    assert same == "No mean weight is above 1 by more than chance."
    unjudged = reports(example(400, judge=np.full(400, np.nan)))
    assert weight_findings.audit_sentence(unjudged, "deterministic").startswith("No judged row has a log-weight")


def test_transport_is_told_for_every_status_and_names_the_calibration():
    data = example(400, label=np.full(400, np.nan), target_labels=200)
    (own,) = reports(data)
    assert own.transport.status == "own"
    told = weight_findings.transport_sentence([own], "deterministic")
    assert told == "The calibration is trained on the policy's own labels for target."
    (none,) = reports(example(400, label=np.full(400, np.nan), target_labels=0))
    assert none.transport.status == "none"
    told = weight_findings.transport_sentence([none], "deterministic")
    assert told == "Nothing tests whether the calibration carries over to target."


@pytest.mark.parametrize("cost", [planning.UnitCosts(), planning.UnitCosts(0, 0)])
def test_without_prices_no_cost_is_told_and_none_is_shown(cost):
    plans = pd.DataFrame(planning.plan(planning.pilot(prepare(example(100, target_labels=60))), [0.02], cost))
    assert weight_findings.plan_sentence(plans, 0.02, priced=False, prompts=1).endswith(
        "no price, so no cost is shown."
    )
    assert "take more prompts or several draws" in weight_findings.plan_sentence(plans, 0.02, priced=False, prompts=1)
    assert "more prompts" not in weight_findings.plan_sentence(plans, 0.02, priced=False, prompts=10**8)


def test_with_prices_costs_are_shown():
    cost = planning.UnitCosts(label=2.0, draw=0.0)
    plans = pd.DataFrame(planning.plan(planning.pilot(prepare(example(100, target_labels=60))), [0.02], cost))
    assert "$" in weight_findings.plan_sentence(plans, 0.02, priced=True, prompts=1)


def test_labels_that_are_one_number_are_a_caution_unless_they_are_at_an_end():
    """At an end they are what a rare failure looks like, and the interval holds the one that was not seen."""
    data = example(400, target_labels=100)
    for constant, told in ((0.5, True), (1.0, False), (0.0, False)):
        same = np.where(np.isnan(data.fresh_label), np.nan, constant)
        row = rows(dataclasses.replace(data, fresh_label=same))["ppi_pp"]
        assert ("constant_labels" in row["reasons"]) == told
        assert row["ci_high"] - row["ci_low"] > 0.02
