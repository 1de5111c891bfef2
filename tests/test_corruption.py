"""Faults planted in the public sample: what is found, what is left alone, and where estimates stand afterwards."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace

import numpy as np
import pytest

from arena10k import paths
from arena10k.audit import consistency, quality, screening
from arena10k.audit.screening import Flag
from arena10k.collection.jobs import LOGPROBS
from arena10k.rescoring import effect
from arena10k.run import Run

# By its path: `benchmarks` on the import path would hide packages of the same names.
_file = importlib.util.spec_from_file_location("corruption_suite", paths.source_root() / "benchmarks" / "corruption.py")
suite = importlib.util.module_from_spec(_file)
sys.modules[_file.name] = suite
_file.loader.exec_module(suite)

#: The place and rate of a real incident; `benchmarks/corruption.py` has every kind at every rate everywhere.
SHORT = ("short", 0.08)
CERTAIN = ("-50.0", "-100.0", "NaN string", "null", "positive", "unlisted sentinel")


@pytest.fixture(scope="module")
def sample(shared_data):
    return suite.read(shared_data / "arena_sample")


def part(sample, rows, columns, change=lambda v: v):
    names = [sample.policies[k] for k in columns]
    values = change(sample.values[np.ix_(rows, columns)])
    fresh = {name: sample.fresh[name] for name in names if name in sample.fresh}
    return suite.Sample([sample.rows[i] for i in rows], names, values, sample.chars[rows], fresh)


def test_no_row_of_the_untouched_sample_is_quarantined(home, sample):
    found, codes, copies = suite.detect(sample, suite.untouched(sample), "clean")
    assert not found.any()
    assert not copies.any()
    assert codes == {}
    certain = sorted({int(n) for n in sample.chars[(sample.values == 0).any(axis=1)]})
    assert certain == [17, 25], "the two certain answers are in the sample and stay"


@pytest.mark.parametrize(
    ("n", "columns", "change"),
    [
        (24, [0, 1, 2, 3], lambda v: v),
        (300, [0, 1, 2, 3], lambda v: np.round(v, 1)),
        (24, [0, 3], lambda v: v.astype(np.float32).astype(float)),
        (300, [0, 3], lambda v: np.round(v * 64) / 64),
        (300, [0], lambda v: np.round(v, 1)),
    ],
)
def test_no_clean_row_is_quarantined_in_parts_of_it_however_it_is_rounded(home, sample, n, columns, change):
    rows = np.sort(np.random.default_rng(len(columns)).choice(len(sample.rows), n, replace=False))
    some = part(sample, rows, columns, change)
    assert suite.detect(some, suite.untouched(some), "part")[1] == {}


def found_of(sample, kinds, each):
    """Recall by kind, and the precision over all: `each` cells of every kind and policy, on rows of their own."""
    rng, n = np.random.default_rng(0), len(sample.rows)
    cells, hits = sample.values.astype(object), {}
    for k in range(len(sample.policies)):
        for kind, rows in zip(kinds, np.split(rng.permutation(n)[: each * len(kinds)], len(kinds)), strict=True):
            cells[rows, k] = suite.KINDS[kind](sample.values, rows, k, rng)
            hits.setdefault(kind, np.zeros(cells.shape, dtype=bool))[rows, k] = True
    found = suite.detect(sample, whole(sample, cells), "kinds")[0]
    return {kind: found[hit].mean() for kind, hit in hits.items()}, (sum(hits.values())[found] > 0).mean()


def test_planted_faults_are_found_all_of_them(home, sample):
    recall, precision = found_of(sample, CERTAIN, 10)
    assert recall == dict.fromkeys(CERTAIN, 1)
    assert precision > 0.98
    case = suite.case(sample, "-50.0", *SHORT, "planted")
    assert (case["recall"], case["precision"] > 0.98) == (1, True), case


def test_planted_zeros_are_found_where_they_are_no_certain_answers(home, sample):
    for place in (SHORT, ("independent", 0.01)):
        zero = suite.case(sample, "0.0", *place, place[0])
        assert zero["recall_over_20"] >= 0.95, zero
        assert zero["planted"] >= 36
        assert zero["found"] - zero["right"] <= 4, "at most the certain answers of the sample with them"


def test_repeated_rows_are_found_unless_they_are_too_likely_to_tell(home, sample):
    case = suite.case(sample, "duplicated rows", "independent", 0.077, "copies")
    assert (case["recall"], case["precision"], case["codes"]) == (1, 1, {"duplicate_row": 77})
    short = suite.case(sample, "duplicated rows", "short", 0.01, "short")
    assert short["recall"] == 0, "the ten shortest are answers that a policy gives again: 'No' twice is no fault"


def test_what_is_found_of_faults_that_look_like_measurements(home, sample):
    """Part of a sum, another policy's or another row's value can be a possible value: less is found."""
    swapped = suite.case(sample, "swapped policies", "short", 0.077, "swapped")
    assert swapped["recall"] > 0.6
    assert swapped["precision"] > 0.95
    recall, precision = found_of(sample, ("truncated", "shifted rows"), 50)
    assert min(recall.values()) > 0.2, recall
    assert precision > 0.75


def whole(sample, cells):
    return suite.Planted(cells.astype(object), np.zeros(cells.shape, dtype=bool), np.empty(0, dtype=int))


def names_of(sample, cells, run):
    params, store, prompts = suite.build(sample, whole(sample, cells), run)
    found = consistency.findings(params, store, screening.scan(params, store, prompts), prompts)
    return {(f["finding"], f["policy"]) for f in found}


def test_an_odd_text_is_told_as_kept_only_where_it_is(home, sample):
    params, store, prompts = suite.build(sample, whole(sample, sample.values), "odd")
    flags = [
        Flag(r["prompt_id"], r["policy"], LOGPROBS, r["request_hash"], "nats_per_character_outlier")
        for r in store.rows(LOGPROBS)
    ]
    odd = [
        {
            f["policy"]: f["rows"]
            for f in consistency.findings(params, store, found, prompts)
            if f["finding"] == "odd_texts"
        }
        for found in ([], flags)
    ]
    assert odd[0]
    assert not odd[1]


def test_shifted_and_swapped_columns_show_in_the_whole(home, sample):
    clean = names_of(sample, sample.values, "clean")
    # Their mean weights are 1.28 and 21.4, which the verdicts call impossible.
    heavy = {("mean_weight", "clone"), ("mean_weight", "parallel_universe_prompt")}
    assert {f for f in clean if f[0] != "odd_texts"} == heavy
    shifted = sample.values.copy()
    shifted[:, 3] = np.roll(shifted[:, 3], 1)
    assert {("no_length_relation", "unhelpful"), ("no_agreement", "unhelpful")} <= names_of(sample, shifted, "shifted")
    swapped = sample.values[:, [3, 1, 2, 0]]
    assert {("likelier_than_p0", p) for p in sample.policies[1:]} <= names_of(sample, swapped, "swapped")


def analysed(sample, planted, run):
    """The run of a planted sample after quarantine."""
    params, store, prompts = suite.build(sample, planted, run, scores=True)
    screening.quarantine(store, screening.scan(params, store, prompts))
    made = Run(params)
    vars(made.source).update(store=store, prompts=prompts)
    return made


@pytest.fixture(scope="module")
def two(sample):
    """P0 and one target, with its draws."""
    return part(sample, np.arange(len(sample.rows)), [0, 3])


@pytest.fixture(scope="module")
def clean(tmp_path_factory, two):
    """The estimates of the untouched sample by policy and estimator, of which nothing is set aside."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARENA10K_HOME", str(tmp_path_factory.mktemp("clean")))
        run = analysed(two, suite.untouched(two), "clean")
        rows = effect.measure(run, effect.failures(run))
    assert all(r["n_set_aside"] == 0 and r["all"]["value"] == r["value"] for r in rows)
    return {(r["policy"], r["estimator"]): r["value"] for r in rows}


@pytest.mark.parametrize(
    ("kind", "geometry"),
    [("-50.0 and 0.0", "short"), ("null", "independent"), ("duplicated rows", "short")],
)
def test_estimates_after_quarantine_hold_the_clean_runs(home, two, clean, kind, geometry):
    run = analysed(two, suite.plant(two.values, two.chars, kind, geometry, 140 / 1824), "planted")
    failures = effect.failures(run)
    rows = effect.measure(run, failures)
    assert {(r["policy"], r["estimator"]) for r in rows} == set(clean)
    for r in rows:
        assert r["ci_low"] <= clean[r["policy"], r["estimator"]] <= r["ci_high"], r
        if r["estimator"] == "snips" and kind != "duplicated rows":
            assert r["n_set_aside"] >= 77
            low, high = r["bounds_by_share"]
            assert low < r["value"] < high
            assert high - low == pytest.approx(r["n_set_aside"] / 1000)
    if geometry == "short" and kind == "-50.0 and 0.0":
        told = effect.randomness(failures, run.params.policies)
        assert told["shared"]["observed"] == 77
        assert told["shared"]["expected"] == pytest.approx(1000 * 0.077**2, rel=0.02)
        assert told["shared"]["p_value"] < 1e-6
        assert [s["bad"] > 0 for s in told["by_length"]] == [True, False, False, False, False]
        assert max(abs(r["value"] - r["all"]["value"]) for r in rows if r["estimator"] == "snips") > 0.001


def test_a_failure_without_a_value_and_one_with_are_both_listed(home, sample):
    cells = sample.values.astype(object)
    cells[3, 0], cells[4, 1], cells[5, 2] = None, "NaN", -50.0
    none = replace(suite.untouched(sample), cells=cells)
    params, store, prompts = suite.build(sample, none, "listed")
    flags = screening.scan(params, store, prompts)
    screening.quarantine(store, flags)
    result = quality.report(params, store, flags, len(prompts))
    ids = [r["metadata"]["prompt_id"] for r in sample.rows]
    assert sorted(tuple(q.values()) for q in result["quarantined"]) == sorted(
        [
            (ids[3], "base", "logprobs", "missing", "failed"),
            (ids[4], "clone", "logprobs", "not_finite", "failed"),
            (ids[5], "parallel_universe_prompt", "logprobs", "below_floor", "quarantined"),
        ]
    )
