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

#: The place and rate of a real incident, and a far lower rate; `benchmarks/corruption.py` has every rate everywhere.
SHORT, INDEPENDENT = ("short", 0.08), ("independent", 0.01)
CERTAIN = {"-50.0": SHORT, "-100.0": INDEPENDENT, "NaN string": SHORT, "null": INDEPENDENT, "positive": SHORT}
CERTAIN |= {"unlisted sentinel": INDEPENDENT}


@pytest.fixture(scope="module")
def sample(shared_data):
    return suite.read(shared_data / "arena_sample")


def part(sample, rows, columns, change=lambda v: v):
    return suite.Sample(
        [sample.rows[i] for i in rows],
        [sample.policies[k] for k in columns],
        change(sample.values[np.ix_(rows, columns)]),
        sample.chars[rows],
        {},
    )


def test_no_row_of_the_untouched_sample_is_quarantined(home, sample):
    found, codes, copies = suite.detect(sample, suite.untouched(sample), "clean")
    assert not found.any()
    assert not copies.any()
    assert codes == {}
    certain = sorted({int(n) for n in sample.chars[(sample.values == 0).any(axis=1)]})
    assert certain == [17, 25], "the two certain answers are in the sample and stay"


@pytest.mark.parametrize(
    ("columns", "change"),
    [
        ([0, 1, 2, 3], lambda v: v),
        ([0, 1, 2, 3], lambda v: np.round(v, 1)),
        ([0, 3], lambda v: v.astype(np.float32).astype(float)),
        ([0, 3], lambda v: np.round(v * 64) / 64),
        ([0], lambda v: np.round(v, 1)),
    ],
)
def test_no_clean_row_is_quarantined_in_parts_of_it_however_it_is_rounded(home, sample, columns, change):
    rng = np.random.default_rng(len(columns))
    for n in (24, 300):
        rows = np.sort(rng.choice(len(sample.rows), n, replace=False))
        some = part(sample, rows, columns, change)
        assert suite.detect(some, suite.untouched(some), f"part{n}")[1] == {}


@pytest.mark.parametrize("kind", CERTAIN)
def test_planted_faults_are_found(home, sample, kind):
    geometry, rate = CERTAIN[kind]
    case = suite.case(sample, kind, geometry, rate, "planted")
    assert case["recall"] == 1, case
    assert case["precision"] > 0.98, case


@pytest.mark.parametrize(("geometry", "rate"), [SHORT, INDEPENDENT])
def test_planted_zeros_are_found_where_they_are_no_certain_answers(home, sample, geometry, rate):
    zero = suite.case(sample, "0.0", geometry, rate, "zero")
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
    for kind in ("truncated", "shifted rows"):
        case = suite.case(sample, kind, "independent", 0.077, kind[:5])
        assert case["recall"] > 0.2, case
        assert case["precision"] > 0.75, case


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
    made = Run.of(params)
    vars(made.source).update(store=store, prompts=prompts)
    return made


@pytest.fixture(scope="module")
def clean(tmp_path_factory, sample):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARENA10K_HOME", str(tmp_path_factory.mktemp("clean")))
        return snips_and_dr(sample)


def snips_and_dr(sample):
    made = analysed(sample, suite.untouched(sample), "clean")
    rows = effect.measure(made, effect.failures(made))
    assert all(r["n_set_aside"] == 0 and r["all"]["value"] == r["value"] for r in rows)
    return {(r["policy"], r["estimator"]): r["value"] for r in rows}


@pytest.mark.parametrize(
    ("kind", "geometry"),
    [
        ("-50.0 and 0.0", "short"),
        ("-50.0 and 0.0", "independent"),
        ("null", "independent"),
        ("duplicated rows", "short"),
    ],
)
def test_estimates_after_quarantine_hold_the_clean_runs(home, sample, clean, kind, geometry):
    planted = suite.plant(sample.values, sample.chars, kind, geometry, 140 / 1824)
    run = analysed(sample, planted, "planted")
    found = effect.failures(run)
    rows = effect.measure(run, found)
    assert {(r["policy"], r["estimator"]) for r in rows} == set(clean)
    for r in rows:
        assert r["ci_low"] <= clean[r["policy"], r["estimator"]] <= r["ci_high"], r
        if r["estimator"] == "snips" and kind != "duplicated rows":
            assert r["n_set_aside"] >= 77
            low, high = r["bounds_by_share"]
            assert low < r["value"] < high
            assert high - low == pytest.approx(r["n_set_aside"] / 1000)
    if geometry == "short" and kind == "-50.0 and 0.0":
        told = effect.randomness(found, run.params.policies)
        assert told["shared"]["observed"] == 77
        assert told["shared"]["expected"] == pytest.approx(1000 * (1 - 0.923**4 - 4 * 0.077 * 0.923**3), rel=0.02)
        assert told["shared"]["p_value"] < 1e-6
        assert [s["bad"] > 0 for s in told["by_length"]] == [True, False, False, False, False]
        moved = max(abs(r["value"] - r["all"]["value"]) for r in rows if r["estimator"] == "snips")
        assert moved > 0.001


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
