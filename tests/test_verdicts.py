"""Verdicts, reasons, planning, contrasts and ranking: from arrays to rows of estimates.json."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from arena10k.analysis import Analysis
from arena10k.estimation import ESTIMATORS, PolicyData, compare, planning, policies_data, prepare, prompt_fold
from arena10k.estimation.context import context
from arena10k.estimation.estimators import ppi_score
from arena10k.estimation.evaluation import study
from arena10k.estimation.intervals import bounded_mean_radii, score_interval
from arena10k.estimation.verdicts import CAUTION, NOT_ASKED, REFUSE, REPORT, accepted
from arena10k.report import weight_findings
from statistics_data import arrays, changed, example

KEYS = {"policy", "estimator", "judge", "value", "se", "ci_low", "ci_high", "verdict", "reasons", "n_used"}
KEYS |= {"n_quarantined", "mean_weight", "ess", "khat", "labels_needed"}
WEIGHTED = ("ips", "snips", "psis", "calibrated_ips")
JUDGED = ("direct", "dr_cpo", "mrdr", "tmle", "stacked_dr")


def nothing(n):
    return np.full(n, np.nan)


def rows(data, **options):
    return {r["estimator"]: r for r in study({"target": {"deterministic": data}}, **options).rows}


def width(row):
    return row["ci_high"] - row["ci_low"]


def test_rows_are_json_without_nan_for_any_data():
    n = 40
    hard = [
        example(n),
        example(n, log_weight=None),
        example(n, log_weight=np.full(n, -np.inf)),
        example(n, log_weight=np.linspace(0, 3000, n)),
        example(n, judge=nothing(n)),
        example(n, label=None, target_labels=0),
        example(n, label=np.zeros(n), judge=np.zeros(n), fresh_judge=np.zeros(n), fresh_label=np.zeros(n)),
        arrays(log_weight=np.zeros(n), judge=np.full(n, 0.5)),
        arrays(log_weight=np.empty(0), judge=np.empty(0)),
        arrays(log_weight=np.zeros(1), judge=np.ones(1)),
    ]
    for row in (row for data in hard for row in rows(data).values()):
        assert set(row) == KEYS
        json.dumps(row, allow_nan=False)
        assert row["verdict"] in (REPORT, CAUTION, REFUSE, NOT_ASKED)
        assert (row["verdict"] == REPORT) == (not row["reasons"])
        assert row["value"] is not None or row["verdict"] in (REFUSE, NOT_ASKED)


def test_one_row_per_policy_judge_and_estimator_with_quarantine_counts():
    data = {"a": {"deterministic": example(), "uncertainty": example(seed=1)}, "b": {"deterministic": example(seed=2)}}
    got = study(data, n_quarantined={"a": 7}).rows
    assert len(got) == 3 * len(ESTIMATORS)
    assert {(r["policy"], r["n_quarantined"]) for r in got} == {("a", 7), ("b", 0)}


def fooled():
    data = example(1000, target_labels=100)
    return changed(data, fresh_label=np.clip(data.fresh.label - 0.35, 0, 1))


def shifted(by, times=1.0, **options):
    data = example(**options)
    return changed(data, log_weight=data.logged.log_weight * times + by)


def clipped():
    data = example(1000)
    return changed(data, log_weight=np.where(np.arange(1000) % 60 == 0, 20.0, data.logged.log_weight - 20))


def labelled_where(near):
    """All draws score 0.2; of the 200 labels, all but `near` lie at 0.8. Nothing tests transport."""
    judge = np.where(np.arange(200) < near, 0.2, 0.8)
    return arrays(judge=judge, label=judge, fresh_judge=np.full(200, 0.2))


def with_few(labels):
    data = example(100, target_labels=0)
    return changed(data, label=np.where(data.logged.labelled.cumsum() <= labels, data.logged.label, np.nan))


def one_number(value, own):
    """Of 1,000 logged responses 334 are labelled, or 40 of the target's own, all with one value."""
    if not own:
        return example(1000, target_labels=0, label=np.where(np.arange(1000) % 3, np.nan, value))
    return example(1000, fresh_label=np.where(np.arange(1000) < 40, value, np.nan))


def beyond_below():
    """The calibration of the other folds says 1 where the labels are 0 and weights are large."""
    data = example(100, target_labels=0, judge=np.full(100, 0.5), fresh_judge=np.full(100, 0.5), labelled=1)
    wrong = data.logged.fold == 0
    return changed(data, label=1.0 - wrong, log_weight=np.where(wrong, 3.0, 0.0))


def lucky(n=400):
    """A sound estimate that chance takes above 1: refusing those alone would let the low ones be accepted."""
    one = np.ones(n)
    return shifted(0.01, n=n, judge=one, fresh_judge=one, label=one, sigma=0.2, target_labels=0)


NO_SCALE = {"not_on_oracle_scale"}
MISMATCH = {"facts": {"target": ["temperature_mismatch"]}}
#: What the data are like -> the data, options, and by estimators the verdicts they may have and reasons among theirs.
VERDICTS = {
    "healthy with labels": (lambda: example(1000, target_labels=200), {}, {
        ("snips", "psis", "dr_oracle", "ppi_pp"): ({REPORT}, set()),
        ("naive",): ({REFUSE}, NO_SCALE),
        ("calibrated_ips",): ({CAUTION, REFUSE}, {"projected_weights"}),
        JUDGED: ({CAUTION}, {"transport_limited_by_labels"}),
    }),
    "off support": (lambda: shifted(-60, 8, n=1000, target_labels=0), {}, {
        WEIGHTED: ({REFUSE}, {"few_weighted_labels", "off_support", "interval_too_wide"}),
        (*JUDGED, "dr_oracle"): ({REFUSE}, {"off_support"}),
        ("ppi_pp",): ({NOT_ASKED}, {"no_labels"}),
    }),
    "useless weights": (lambda: example(1000, target_labels=100, sigma=12.0), {}, {
        ("ppi_pp",): ({REPORT}, set()), ("snips",): ({REFUSE}, set()),
    }),
    "a judge that does not transport": (fooled, {}, {
        JUDGED: ({REFUSE}, {"transport_failed"}),
        # Labels of the log and weights cannot be right beside those of the draws.
        (*WEIGHTED, "dr_oracle"): ({REFUSE}, {"contradicts_labels"}),
        ("ppi_pp",): ({REPORT}, set()),
    }),
    "clipped sentinels": (clipped, {}, {WEIGHTED: ({REFUSE}, {"clip_dominated", "mean_weight_impossible"})}),
    "a mean that cannot be": (lambda: shifted(0.3, n=2000, sigma=0.2), {}, {
        ("snips",): ({REFUSE}, {"mean_weight_impossible"}),
    }),
    "another temperature": (lambda: example(1000, target_labels=200), MISMATCH, {
        (*WEIGHTED, "dr_cpo", "dr_oracle", "tmle"): ({REFUSE}, {"temperature_mismatch"}),
        ("ppi_pp",): ({REPORT}, set()),
    }),
    "twelve labels": (lambda: example(1000, target_labels=12), {}, {("ppi_pp",): ({CAUTION, REFUSE}, {"few_labels"})}),
    "three labels": (lambda: example(1000, target_labels=3), {}, {("ppi_pp",): ({REFUSE}, {"few_labels"})}),
    "no label to calibrate": (lambda: with_few(0), {}, {
        ("direct", "snips", "dr_cpo"): ({CAUTION, REFUSE}, {"no_labels"} | NO_SCALE),
        ("dr_oracle",): ({NOT_ASKED}, {"no_labels"}),
    }),
    "four labels to calibrate": (lambda: with_few(4), {}, {
        ("direct", "snips", "dr_cpo"): ({CAUTION, REFUSE}, {"few_labels"} | NO_SCALE),
        ("dr_oracle",): ({REFUSE}, {"few_labels"}),
    }),
    "labels that are not used": (lambda: example(1000, target_labels=100), {"analysis": Analysis(calibration="none")}, {
        ("direct",): ({CAUTION}, NO_SCALE), ("dr_oracle", "ppi_pp"): ({REPORT}, set()),
    }),
    "outside of its interval": (beyond_below, {}, {("dr_oracle",): ({CAUTION, REFUSE}, {"value_outside_interval"})}),
    "above 1 by chance": (lucky, {}, {("ips",): ({CAUTION}, {"value_outside_interval"})}),
    "three labels where draws score": (lambda: labelled_where(3), {}, {
        ("direct",): ({REFUSE}, {"calibration_extrapolates"}),
    }),
    "twelve labels where draws score": (lambda: labelled_where(12), {}, {
        ("direct",): ({CAUTION}, {"calibration_extrapolates"}),
    }),
    "thirty labels where draws score": (lambda: labelled_where(30), {}, {("direct",): ({CAUTION}, set())}),
    "labels of the log alone": (lambda: example(1000, target_labels=0), {}, {
        ("dr_oracle",): ({REPORT}, set()), ("ppi_pp",): ({NOT_ASKED}, {"no_labels"}),
        (*JUDGED, "snips"): ({REPORT, CAUTION}, set()),
    }),
    "labels of the draws alone": (lambda: example(1000, label=None, target_labels=100), {}, {
        ("dr_oracle",): ({NOT_ASKED}, {"no_labels"}), ("ppi_pp",): ({REPORT}, set()),
        (*JUDGED, "snips"): ({REPORT, CAUTION}, set()),
    }),
    "labels of one number within the scale": (lambda: one_number(0.7, False), {}, {
        # At an end of the scale it is what rare failures look like, and the interval holds the one that was not seen.
        ("snips", "ips", "dr_cpo"): ({CAUTION, REFUSE}, {"constant_labels"}),
    }),
    "own labels of one number": (lambda: one_number(0.7, True), {}, {("ppi_pp",): ({CAUTION}, {"constant_labels"})}),
    "labels that are all 1": (lambda: one_number(1.0, False), {}, {("snips", "ips"): ({REPORT}, set())}),
    "own labels that are all 0": (lambda: one_number(0.0, True), {}, {("ppi_pp",): ({REPORT}, set())}),
    "no draw of its own": (lambda: arrays(judge=np.full(50, 0.7)), {}, {
        ("naive",): ({NOT_ASKED}, {"no_fresh_draws"}),
    }),
    "no judge": (lambda: example(100, judge=np.full(100, np.nan), fresh_judge=np.full(100, np.nan)), {}, {
        ("naive", "direct", "ppi_pp", "snips", "dr_oracle"): ({NOT_ASKED}, {"no_judge_scores"}),
    }),
}  # fmt: skip


@pytest.mark.parametrize("kind", VERDICTS)
def test_verdicts_and_their_reasons(kind):
    make, options, wanted = VERDICTS[kind]
    got = rows(make(), **options)
    for names, (verdicts, reasons) in wanted.items():
        for row in (got[name] for name in names):
            assert row["verdict"] in verdicts, row
            assert reasons <= set(row["reasons"]), row
            # What an exact set of reasons is asked of: labels are said to lack, or to be unused, only where they are.
            for about in NO_SCALE | {"calibration_extrapolates", "no_labels", "few_labels", "constant_labels"}:
                assert (about in row["reasons"]) == (about in reasons), row
            assert not accepted(row) or not NO_SCALE & reasons


def test_off_support_says_how_many_labels_would_do_and_a_mismatch_comes_first():
    assert all(rows(shifted(-60, 8, n=1000, target_labels=0))[name]["labels_needed"] > 0 for name in WEIGHTED)
    assert rows(example(1000), **MISMATCH)["snips"]["reasons"][0] == "temperature_mismatch"
    assert rows(lucky())["ips"]["value"] > 1
    assert rows(beyond_below())["dr_oracle"]["value"] < 0
    assert width(rows(one_number(0.0, True))["ppi_pp"]) > 0.02


def test_a_clone_with_the_rounding_of_an_endpoint_is_as_good_as_an_exact_one():
    exact = example(400, log_weight=np.zeros(400))
    rounded = rows(changed(exact, log_weight=np.random.default_rng(0).normal(0, 1e-5, 400)))
    for name, row in rows(exact).items():
        assert (rounded[name]["verdict"], rounded[name]["reasons"]) == (row["verdict"], row["reasons"]), name
        assert rounded[name]["value"] == pytest.approx(row["value"], abs=1e-4)


def test_the_logging_policy_and_a_clone():
    data = example(400, log_weight=np.zeros(400))
    got = rows(PolicyData(data.logged, data.logged, is_logging=True))
    for name, row in got.items():
        assert row["verdict"] == {"naive": REFUSE, "calibrated_ips": CAUTION}.get(name, REPORT)
        assert (row["mean_weight"], row["ess"], row["khat"]) == (1, pytest.approx(400), None)
    assert got["snips"]["value"] == pytest.approx(got["direct"]["value"])
    assert got["ppi_pp"]["value"] == pytest.approx(np.nanmean(data.logged.label), abs=0.02)
    assert context(data, clone=True).noise_floor.exact
    assert context(data).noise_floor is None
    alone = arrays(log_weight=np.zeros(50), judge=np.full(50, 0.7), is_logging=True)
    assert rows(alone)["naive"]["value"] == pytest.approx(0.7)


def test_confidence_and_the_judges_variance_widen_every_interval_and_every_contrast():
    """On the target's side and on P0's; beside wilder weights an unseen label may decide the width."""
    narrow, wide = (rows(example(600, target_labels=100), analysis=Analysis(confidence=c)) for c in (0.8, 0.99))
    assert all(width(narrow[name]) < width(wide[name]) for name in ESTIMATORS)
    noise = {"judge_var": np.full(1000, 0.04), "fresh_judge_var": np.full(1000, 0.04)}
    for sigma in (0.4, 0.7):
        sure = example(1000, sigma=sigma, target_labels=200)
        a, b = rows(sure), rows(changed(sure, **noise))
        for name in ESTIMATORS:
            assert a[name]["value"] == b[name]["value"]
            assert a[name]["se"] < b[name]["se"], (sigma, name)
    pairs = ((d, changed(d, fresh_judge=d.fresh.judge[::-1])) for d in (sure, changed(sure, **noise)))
    quiet, loud = (compare.contrasts({"x": context(x), "y": context(y)})[0] for x, y in pairs)
    assert quiet.se < loud.se


def test_two_stage_calibration_runs_through_every_estimator():
    for row in rows(example(500, target_labels=100), analysis=Analysis(calibration="two_stage")).values():
        assert row["ci_low"] < row["ci_high"]


def test_planned_labels_bring_the_interval_under_the_width():
    """Plan from a pilot of 40 labels, label that many, look at the width."""
    pilot = planning.pilot(prepare(example(4000, target_labels=40)))
    for wanted in (0.1, 0.04):
        labelled = prepare(example(4000, target_labels=planning.labels_needed(pilot, wanted)))
        got = score_interval(labelled, ESTIMATORS["ppi_pp"].score(labelled))
        assert 0.6 * wanted < got.width < 1.25 * wanted


def test_labels_needed_grow_as_the_width_shrinks_and_never_vanish():
    p = planning.pilot(prepare(example(400, target_labels=60)))
    needed = [planning.labels_needed(p, w) for w in (0.4, 0.2, 0.1, 0.05)]
    assert needed == sorted(needed)
    assert needed[-1] > 3 * needed[-2] > 0
    assert planning.ppi_width(p, needed[1]) <= 0.2 < planning.ppi_width(p, needed[1] - 1)
    assert planning.labels_needed(p, 1e-9) == planning.MAX_LABELS
    worst = planning.pilot(prepare(arrays(judge=np.full(50, 0.5))))
    assert (worst.source, planning.labels_needed(worst, 0.2) > 90) == ("worst_case", True)
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
    assert planning.direct_plan(prepare(example(50, label=None, target_labels=0)), [0.1]) == []


def test_plan_is_a_table_with_cost():
    p = planning.pilot(prepare(example(100, target_labels=60)))
    wide, narrow = planning.plan(p, [0.2, 0.02], planning.UnitCosts(label=0.5, draw=0.1))
    assert (narrow["draws"], narrow["more"]) == (narrow["labels"], narrow["labels"] - 60)
    assert narrow["labels"] > wide["draws"] == 100
    assert narrow["cost"] == pytest.approx(0.5 * narrow["more"] + 0.1 * (narrow["draws"] - 100))
    assert wide["cost"] == 0.5 * wide["more"]
    assert planning.plan(p, [0.02], planning.UnitCosts(label=None, draw=0.1))[0]["cost"] is None
    (row,) = planning.direct_plan(prepare(example(500, labelled=0.4)), [0.04], planning.UnitCosts(1.0, 0.0))
    assert row["draws"] / row["labels"] == pytest.approx(1 / 0.4, rel=0.15)
    assert row["cost"] == row["more"] > 0
    for priced in (True, False):
        cost = planning.UnitCosts(2.0, 0.0) if priced else planning.UnitCosts()
        plans = pd.DataFrame(planning.plan(p, [0.02], cost)).assign(policy="a")
        short, enough = (weight_findings.plan_sentence(plans, 0.02, priced, prompts=n) for n in (1, 10**8))
        assert ("$" in short) == priced
        assert ("more prompts" in short, "more prompts" in enough) == (True, False)


def test_ranking_shows_ties_and_contrasts_cancel_what_policies_share():
    good = example(1000, seed=1, target_labels=150)
    bad = example(1000, seed=3, target_labels=0, sigma=10.0)
    less = {"fresh_judge": np.clip(good.fresh.judge - 0.3, 0, 1), "fresh_label": np.clip(good.fresh.label - 0.25, 0, 1)}
    data = {"good": good, "same": changed(good), "bad": bad, "worse": changed(good, **less)}
    policies = {name: context(d) for name, d in data.items()}
    ranked = {r.policy: (r.rank, r.worst_rank) for r in compare.ranking(policies)}
    assert ranked == {"good": (1, 2), "same": (1, 2), "worse": (3, 3)}
    pairs = {(c.a, c.b): c for c in compare.contrasts(policies)}
    assert set(pairs) == {("good", "same"), ("good", "worse"), ("same", "worse")}
    alike, gap = pairs["good", "same"], pairs["good", "worse"]
    assert (alike.difference, alike.significant, alike.se < 1e-12) == (0, False, True)
    assert gap.significant
    assert gap.low < gap.difference < gap.high


@pytest.mark.parametrize("labels", [60, 100])
def test_contrast_by_hand(labels):
    """Two samples labelled on the same prompts, all of them or some: the paired t standard error."""
    a = example(100, target_labels=labels)
    b = changed(a, fresh_label=np.clip(a.fresh.label + np.random.default_rng(0).normal(0, 0.1, 100), 0, 1))
    got = compare.paired(*((p, ppi_score(p, 0.0)) for p in (prepare(a), prepare(b))))
    difference = (a.fresh.label - b.fresh.label)[:labels]
    assert got.value == pytest.approx(difference.mean())
    assert got.se == pytest.approx(difference.std(ddof=1) / np.sqrt(labels), rel=1e-6)
    assert got.guard(0.95) == pytest.approx(bounded_mean_radii(difference, -1.0, 1.0)(0.95))


def test_arrays_from_the_analysis_table():
    logged = pd.DataFrame({"prompt_id": ["a", "b", "c"], "logp_p0": [-1.0, np.nan, -3.0], "logp_pi": [-2, -2, np.nan]})
    logged = logged.assign(judge_deterministic=[0.0, 0.5, 1.0], judge_uncertainty=[0.1, 0.2, np.nan])
    fresh = pd.DataFrame({"policy": ["pi", "pi", "other"], "prompt_id": ["c", "a", "z"], "label": [np.nan, 1, np.nan]})
    fresh = fresh.assign(judge_uncertainty=[0.3, 0.4, 0.9], judge_uncertainty_sd=[0.0, 0.3, 0.1])
    made = policies_data(logged, fresh, ["p0", "pi"], ["deterministic", "uncertainty"])
    got, own = made["pi"]["uncertainty"], made["p0"]["deterministic"]
    assert own.is_logging
    for array, expected in (
        (got.logged.log_weight, [-1.0, np.nan, np.nan]),
        (got.logged.fold, [prompt_fold(p) for p in "abc"]),
        (got.fresh.cluster, [2, 0]),
        (got.fresh.judge_var, [0.0, 0.3**2]),
        (got.fresh.fold, [prompt_fold("c"), prompt_fold("a")]),
        (got.fresh.label, [np.nan, 1.0]),
        (own.logged.log_weight, [0.0, np.nan, 0.0]),
        (own.fresh.judge, own.logged.judge),
        (own.logged.judge_var, np.zeros(3)),
    ):
        np.testing.assert_array_equal(array, expected)


def test_prompt_folds_are_fixed_for_ever():
    """SHA-256 of the id modulo 5; `sha256sum` gives the same. A change would move every stored estimate."""
    assert [prompt_fold(p) for p in ("arena_0", "arena_1", "x")] == [0, 4, 1]
    assert np.bincount([prompt_fold(f"arena_{i}") for i in range(5000)]).min() > 900


def test_missing_mass_is_told_of_judged_rows_and_transport_by_what_trained_the_judge():
    def judged(**options):
        return context(example(400, **options), policy="target", judge="deterministic")

    tiny = judged(log_weight=np.full(400, -60.0))
    assert tiny.missing_mass == 1
    assert "400 judged rows" in weight_findings.audit_sentence([tiny], "deterministic")
    assert "400" not in weight_findings.audit_sentence([judged(judge=nothing(400))], "deterministic")
    for labels, status in ((200, "own"), (0, "none")):
        ctx = judged(label=None, target_labels=labels)
        assert ctx.transport.status == status
        assert "target" in weight_findings.transport_sentence([ctx], "deterministic")
