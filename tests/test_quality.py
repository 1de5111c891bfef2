"""Bad values are found by structure and quarantined; estimates change only by the rows left out."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from arena10k.audit import checks, consistency, quality, screening, status
from arena10k.collection.records import Record
from arena10k.frames import table
from arena10k.rescoring import effect
from arena10k.run import Run
from arena10k.wording import factor
from stub_run import made, make_params, opened

#: The clone of `filled` has log-probs of its own, so that the mean of its weights is not 1.
OF_ITS_OWN = ("mean_weight", "pi_clone", 60)


@pytest.fixture
def filled(home):
    """A run of 60 prompts with clean log-probs: about -1 nat per token, ten tokens each."""
    params = make_params(home, "http://127.0.0.1:9/v1", n_prompts=60, draws=1)
    frame, store = opened(params)
    rng, records = np.random.default_rng(0), []
    for name in params.policies:
        for prompt_id in frame.prompt_id:
            tokens = (-rng.gamma(4, 0.25, 10)).tolist()
            records.append(made(params, "responses", name, prompt_id, "text", tokens))
            records.append(made(params, "logprobs", name, prompt_id, sum(tokens), tokens))
    store.put_all(records)
    return params, store, frame


def found(params, store, frame):
    """What `consistency` finds: its name, policy and rows."""
    return {(f["finding"], f["policy"], f["rows"]) for f in consistency.findings(params, store, [], frame)}


def test_clean_data_has_no_flag_and_is_counted_complete(filled):
    params, store, frame = filled
    ids = list(frame.prompt_id)
    assert screening.scan(params, store) == []
    assert quality.drift(params, store) == []
    assert re.findall("definition", quality.drift_sentence([]))
    state = status.progress(params, store)
    (job,) = [j for j in state["jobs"] if (j["job"], j["policy"]) == ("logprobs", "p0")]
    assert state["rows_with_all_logprobs"] == job["ok"] == job["total"] == 60
    assert job["eta_seconds"] == 0.0
    assert store.complete_prompts(ids, {("logprobs", "p0"): 1, ("logprobs", "pi_clone"): 1}, "logprobs") == (60, 60)
    assert store.complete_prompts(ids, {("logprobs", "p0"): 2}, "logprobs") == (0, 0)


FAULTS = [
    ("constant", [0.0] * 10),
    ("constant", [-1.5] * 10),
    ("below_floor", [-5.0, -10.0, -15.0, -20.0]),
    ("below_floor", [-61.0, -1.0]),
    ("positive", [-1.0, 0.5]),
    ("nats_per_token_outlier", [-30.0, -29.0, -31.0, -30.5]),
]


def test_each_fault_is_quarantined_under_its_code_and_can_be_released(filled):
    params, store, frame = filled
    for i, (_, tokens) in enumerate(FAULTS):
        store.put(made(params, "logprobs", "pi_clone", f"q{i}", sum(tokens), tokens))
    for policy, score in (("p0", 1.2), ("pi_clone", 0.0)):
        store.put(made(params, "oracle", policy, frame.prompt_id[0], score, []))
    flags = screening.scan(params, store)
    bad = [(f"q{i}", "pi_clone", "logprobs", code) for i, (code, _) in enumerate(FAULTS)]
    bad.append((frame.prompt_id[0], "p0", "oracle", "out_of_range"))
    assert [(f.prompt_id, f.policy, f.job, f.code) for f in flags] == bad
    screening.quarantine(store, flags)
    assert screening.scan(params, store) == flags, "a second look must find the same"
    result = quality.report(params, store, flags, len(frame))
    entry = next(j for j in result["jobs"] if (j["job"], j["policy"]) == ("logprobs", "pi_clone"))
    assert entry["quarantined"] == Counter(code for code, _ in FAULTS)
    told = screening.reasons_sentence(result["quarantined"])
    assert set(re.findall(r"(\d) (\w+) \(", told)) == {(str(n), code) for code, n in Counter(b[3] for b in bad).items()}
    shown = screening.quarantined(store, flags)
    assert shown.value.tolist() == [sum(tokens) for _, tokens in FAULTS] + [1.2]
    screening.quarantine(store, [])
    assert all(r["quarantine"] is None for r in store.rows())


def test_a_quarantined_row_is_missing_in_the_table_and_nothing_else_changes(filled):
    params, store, frame = filled
    before = table.build(params, frame, store)
    row = next(r for r in store.rows("logprobs") if r["policy"] == "pi_clone")
    screening.quarantine(store, [screening.Flag(row["prompt_id"], "pi_clone", "logprobs", row["request_hash"], "x")])
    after = table.build(params, frame, store)
    hit = after.logged.prompt_id == row["prompt_id"]
    assert after.logged.logp_pi_clone[hit].isna().all()
    assert after.logged.loc[~hit, before.logged.columns].equals(before.logged[~hit])
    assert after.as_stored().logged.logp_pi_clone.equals(before.logged.logp_pi_clone)
    assert (after.missing["pi_clone"], after.quarantined["pi_clone"]) == (1, 1)


def test_a_logged_row_whose_response_is_quarantined_is_counted_as_missing_everywhere():
    run = Run("sample")
    rows = [r for r in run.store.rows("responses") if (r["policy"], r["draw"]) == ("p0", 0)]
    flag = screening.Flag(rows[0]["prompt_id"], "p0", "responses", rows[0]["request_hash"], "duplicate_row")
    screening.quarantine(run.store, [flag])
    logged = run.table()
    assert flag.prompt_id not in set(logged.logged.prompt_id)
    assert set(logged.missing.values()) == set(logged.quarantined.values()) == {1}
    assert {row["n_quarantined"] for row in run.study(logged, estimators=["snips"]).rows} == {1}
    covered, state = status.coverage(run.params, run.store), status.progress(run.params, run.store)
    assert covered["rows_with_all_logprobs"] == state["rows_with_all_logprobs"] == 119
    assert {row["n_set_aside"] for row in effect.measure(run, effect.failures(run))} == {1}
    assert [q["job"] for q in quality.report(run.params, run.store, [flag], 120)["quarantined"][:1]] == ["responses"]


def test_records_of_another_definition_are_kept_told_and_not_used(filled):
    params, store, frame = filled
    before = table.build(params, frame, store)
    other = made(params, "logprobs", "pi_clone", frame.prompt_id[0], -8.0, [-0.8], key="drifted", context="another")
    store.put(other)
    (entry,) = quality.drift(params, store)
    assert (entry["job"], entry["policy"], entry["records"]) == ("logprobs", "pi_clone", 1)
    assert re.findall(r"\b1\b|pi_clone", quality.drift_sentence([entry])) == ["1", "pi_clone"]
    assert table.build(params, frame, store).logged.equals(before.logged)


def test_self_consistency_and_clone_control_measure_what_is_stored(filled):
    params, store, frame = filled
    built = table.build(params, frame, store)
    assert checks.self_consistency(built).abs().max() == pytest.approx(0, abs=1e-12)
    control = checks.clone_control(params, built)
    noise = control.iloc[0]["max |log-weight|"]
    assert noise == np.abs(built.log_weights()["pi_clone"]).max() > 1
    assert control.iloc[0]["exactly 0"] == 0
    told = checks.clone_sentence(control, "p0")
    assert {"pi_clone", "p0"} <= set(re.findall(r"\w+", told))
    assert told.endswith(f" {factor(noise)}.")
    exact = checks.clone_sentence(control.assign(**{"max |log-weight|": 0.0}), "p0")
    assert re.findall(r"\d+", exact) == ["60", "0", "1"]
    assert "not measured" in checks.clone_sentence(control.head(0), "p0")


def test_what_changes_within_the_whole_set_is_told(filled):
    params, store, frame = filled
    assert found(params, store, frame) == {OF_ITS_OWN}
    assert f"policies with at least {consistency.ENOUGH}" in consistency.sentence([])
    logged = next(r for r in store.rows("logprobs") if r["policy"] == "pi_clone")
    for i, (model, fingerprint) in enumerate([("first", None), ("second", None), ("first", "another")]):
        own = {"fingerprint": fingerprint or logged["fingerprint"], "context": logged["context"], "model": model}
        store.put(Record("logprobs", "p9", f"new{i}", "pi_clone", 0, **own, status="error", code="truncated"))
    for i, prompt_id in enumerate(frame.prompt_id):
        store.put(made(params, "oracle", "p0", prompt_id, 0.5 if i else 0.4, []))
    again = pd.concat([frame, frame.head(2).assign(prompt=[frame.prompt[0], frame.prompt[1].upper()])])
    again = again.reset_index(drop=True)
    assert found(params, store, again) == {
        OF_ITS_OWN,
        ("definition_drift", "pi_clone", 1),
        ("model_change", "pi_clone", 1),
        ("mode_share", None, 59),
        ("duplicate_prompts", None, 1),
        ("near_duplicate_prompts", None, 1),
    }
    findings = consistency.findings(params, store, [], again)
    assert consistency.sentence(findings).startswith("6 set-level checks failed")
    assert consistency.frame(findings).what.tolist() == [consistency.WORDS[f["finding"]] for f in findings]
