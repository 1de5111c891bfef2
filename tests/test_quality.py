"""Bad values are found by structure and quarantined; estimates change only by the rows left out."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from arena10k.audit import checks, consistency, quality, screening, status
from arena10k.audit.status import progress
from arena10k.collection.jobs import contexts
from arena10k.collection.records import Record
from arena10k.collection.store import Store
from arena10k.frames import table
from arena10k.inputs.policies import policies
from arena10k.inputs.prompts import load, write
from arena10k.rescoring import effect
from arena10k.run import Run
from arena10k.wording import factor
from stub_run import make_params

#: The clone of `filled` has log-probs of its own, so that the mean of its weights is not 1.
OF_ITS_OWN = ("mean_weight", "pi_clone")


@pytest.fixture
def filled(home):
    """A run of 60 prompts with clean log-probs: about -1 nat per token, ten tokens each."""
    params = make_params(home, "http://127.0.0.1:9/v1", n_prompts=60, draws=1)
    frame, _ = load(params)
    write(params, frame)
    store = Store.open(home / "data" / "stub" / "store.sqlite").using(contexts(params).values())
    rng = np.random.default_rng(0)
    for name in params.policies:
        for prompt_id in frame.prompt_id:
            tokens = (-rng.gamma(4, 0.25, 10)).tolist()
            put(store, "responses", name, prompt_id, params, "text", tokens)
            put(store, "logprobs", name, prompt_id, params, sum(tokens), tokens)
    return params, store, frame


def put(store, job, policy, prompt_id, params, value, tokens, request_hash=None, context=None):
    payload = {"token_logprobs": tokens, "response_tokens": len(tokens)}
    made = {"fingerprint": policies(params)[policy].fingerprint, "context": context or contexts(params)[job, policy]}
    key = request_hash or f"{policy}-{prompt_id}"
    store.put(Record(job, prompt_id, key, policy, 0, **made, status="ok", value=value, payload=payload))


def test_clean_data_has_no_flag(filled):
    params, store, _ = filled
    assert screening.scan(params, store) == []
    assert quality.drift(params, store) == []


@pytest.mark.parametrize(
    ("code", "tokens"),
    [
        ("constant", [0.0] * 10),
        ("constant", [-1.5] * 10),
        ("below_floor", [-5.0, -10.0, -15.0, -20.0]),
        ("below_floor", [-61.0, -1.0]),
        ("positive", [-1.0, 0.5]),
        ("nats_per_token_outlier", [-30.0, -29.0, -31.0, -30.5]),
    ],
)
def test_each_fault_is_quarantined_under_its_code_and_can_be_released(filled, code, tokens):
    params, store, frame = filled
    bad = "p9999"
    put(store, "logprobs", "pi_clone", bad, params, sum(tokens), tokens, "bad")
    flags = screening.scan(params, store)
    assert [(f.prompt_id, f.policy, f.code) for f in flags] == [(bad, "pi_clone", code)]
    screening.quarantine(store, flags)
    assert screening.scan(params, store) == flags, "a second look must find the same"
    result = quality.report(params, store, flags, len(frame))
    entry = next(j for j in result["jobs"] if (j["job"], j["policy"]) == ("logprobs", "pi_clone"))
    assert entry["quarantined"] == {code: 1}
    screening.quarantine(store, [])
    assert all(r["quarantine"] is None for r in store.rows())


def test_a_quarantined_row_is_missing_in_the_table_and_nothing_else_changes(filled):
    params, store, frame = filled
    before = table.build(params, frame, store)
    row = next(r for r in store.rows("logprobs") if r["policy"] == "pi_clone")
    flag = screening.Flag(row["prompt_id"], "pi_clone", "logprobs", row["request_hash"], "constant")
    screening.quarantine(store, [flag])
    after = table.build(params, frame, store)
    hit = after.logged.prompt_id == row["prompt_id"]
    assert after.logged.logp_pi_clone[hit].isna().all()
    assert after.logged.loc[~hit, before.logged.columns].equals(before.logged[~hit])
    assert (after.missing["pi_clone"], after.quarantined["pi_clone"]) == (1, 1)


def test_a_logged_row_whose_response_is_quarantined_is_counted_as_missing_everywhere():
    run = Run("sample")
    flag = next(
        screening.Flag(r["prompt_id"], "p0", "responses", r["request_hash"], "duplicate_row")
        for r in run.store.rows("responses")
        if (r["policy"], r["draw"]) == ("p0", 0)
    )
    screening.quarantine(run.store, [flag])
    made = run.table()
    assert flag.prompt_id not in set(made.logged.prompt_id)
    assert set(made.missing.values()) == set(made.quarantined.values()) == {1}
    assert {row["n_quarantined"] for row in run.estimates(made)["rows"]} == {1}
    found = status.coverage(run.params, run.store)
    assert found["rows_with_all_logprobs"] == status.progress(run.params, run.store)["rows_with_all_logprobs"] == 119
    measured = effect.measure(run, effect.failures(run))
    assert {row["n_set_aside"] for row in measured} == {1}
    assert [q["job"] for q in quality.report(run.params, run.store, [flag], 120)["quarantined"][:1]] == ["responses"]


def test_records_of_another_definition_are_kept_told_and_not_used(filled):
    params, store, frame = filled
    before = table.build(params, frame, store)
    row = frame.prompt_id[0]
    put(store, "logprobs", "pi_clone", row, params, -8.0, [-0.8, -0.9], "drifted", context="another definition")
    (found,) = quality.drift(params, store)
    assert (found["job"], found["policy"], found["records"]) == ("logprobs", "pi_clone", 1)
    assert re.findall(r"\b1\b|pi_clone", quality.drift_sentence([found])) == ["1", "pi_clone"]
    assert table.build(params, frame, store).logged.equals(before.logged)


def test_progress_counts_what_is_there(filled):
    params, store, _ = filled
    state = progress(params, store)
    assert state["rows_with_all_logprobs"] == 60
    by = {(j["job"], j["policy"]): j for j in state["jobs"]}
    assert by["logprobs", "p0"]["ok"] == by["logprobs", "p0"]["total"] == 60
    assert by["logprobs", "p0"]["eta_seconds"] == 0.0
    assert store.complete_prompts({("logprobs", "p0"): 1, ("logprobs", "pi_clone"): 1}, "logprobs") == (60, 60)
    assert store.complete_prompts({("logprobs", "p0"): 2}, "logprobs") == (0, 0)


def test_self_consistency_and_clone_control_measure_what_is_stored(filled):
    params, store, frame = filled
    made = table.build(params, frame, store)
    assert checks.self_consistency(made).abs().max() == pytest.approx(0, abs=1e-12)
    # The control must say what `OF_ITS_OWN` says.
    control = checks.clone_control(params, made).iloc[0]
    lw = made.log_weights()["pi_clone"]
    assert control["max |log-weight|"] == np.abs(lw).max() > 1
    assert control["exactly 0"] == 0
    told = checks.clone_sentence(checks.clone_control(params, made), "p0")
    assert {"pi_clone", "p0"} <= set(re.findall(r"\w+", told))
    assert told.endswith(f" {factor(control['max |log-weight|'])}.")


def test_scores_outside_the_scale_are_quarantined(filled):
    params, store, frame = filled
    key = frame.prompt_id[0]
    for policy, value in (("p0", 1.2), ("pi_clone", 0.0)):
        put(store, "oracle", policy, key, params, value, [])
    flags = screening.scan(params, store)
    assert [(f.job, f.policy, f.code) for f in flags] == [("oracle", "p0", "out_of_range")]


def test_models_definitions_and_prompts_that_change_are_told(filled):
    params, store, frame = filled
    assert [(f["finding"], f["policy"]) for f in consistency.findings(params, store, [], frame)] == [OF_ITS_OWN]
    assert f"policies with at least {consistency.ENOUGH}" in consistency.sentence([])
    logged = next(r for r in store.rows("logprobs") if r["policy"] == "pi_clone")
    for i, (model, fingerprint) in enumerate([("first", None), ("second", None), ("first", "another")]):
        made = {"fingerprint": fingerprint or logged["fingerprint"], "context": logged["context"], "model": model}
        store.put(Record("logprobs", "p9", f"new{i}", "pi_clone", 0, **made, status="error", code="truncated"))
    again = pd.concat([frame, frame.head(2).assign(prompt=[frame.prompt[0], frame.prompt[1].upper()])])
    found = consistency.findings(params, store, [], again.reset_index(drop=True))
    assert {(f["finding"], f["policy"], f["rows"]) for f in found} == {
        (*OF_ITS_OWN, 60),
        ("definition_drift", "pi_clone", 1),
        ("model_change", "pi_clone", 1),
        ("duplicate_prompts", None, 1),
        ("near_duplicate_prompts", None, 1),
    }
    assert consistency.sentence(found).startswith("5 set-level checks failed")


def test_one_score_for_everything_is_told(filled):
    params, store, frame = filled
    for i, prompt_id in enumerate(frame.prompt_id):
        put(store, "oracle", "p0", prompt_id, params, 0.5 if i else 0.4, [])
    found, own = consistency.findings(params, store, [], frame)
    assert (own["finding"], own["policy"]) == OF_ITS_OWN
    assert (found["finding"], found["job"], found["rows"]) == ("mode_share", "oracle", 59)
