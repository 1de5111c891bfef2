"""How far a run is and how it looks, read while it is going on."""

from __future__ import annotations

import math

import numpy as np
import pytest

from arena10k import paths
from arena10k.audit import checks, status
from arena10k.collection import judge
from arena10k.collection.jobs import contexts
from arena10k.collection.records import Record
from arena10k.collection.store import Store
from arena10k.inputs.prompts import load, write
from arena10k.run import Run
from arena10k.tables import table
from test_collect import make_params
from test_quality import put


@pytest.fixture
def begun(home):
    """A run of 240 prompts of which nothing is collected yet; its clone is twice as likely on every prompt."""
    params = make_params(home, "http://127.0.0.1:9/v1", n_prompts=240, draws=1)
    frame, _ = load(params)
    write(params, frame)
    return params, Store.open(paths.store_file(params.run)).using(contexts(params).values()), frame


def test_a_run_of_which_nothing_is_measured_has_no_controls_and_no_error(begun):
    params, store, _ = begun
    found, scores = status.controls(params, store)
    assert all(c["value"] is None for c in found)
    assert f"None of the {len(found)} controls of the log-probs was measured" in status.controls_sentence(found, scores)


def test_controls_of_a_small_run_are_those_of_the_whole(begun):
    sample = Run("sample")
    found, scores = status.controls(sample.params, sample.store)
    assert found == checks.measure(sample.params, sample.table(), sample.store)
    assert scores.equals(judge.summary(sample.store))
    weight = np.exp(sample.table().log_weights()["pi_bad"]).mean()
    assert f"pi_bad {weight:.3g}" in status.controls_sentence(found, scores)


def test_controls_look_at_the_first_prompts_only_and_leave_the_store_as_it_is(begun):
    params, store, frame = begun
    for i, prompt_id in enumerate(frame.prompt_id):
        late = i >= status.LOOKED_AT
        for name, value in (("p0", -8.0), ("pi_clone", 30.0 if late else -8.0 + math.log(2))):
            put(store, "responses", name, prompt_id, params, "text", [-0.8, -7.2])
            put(store, "logprobs", name, prompt_id, params, value, [value / 2, value / 2])
    found, _ = status.controls(params, store)
    (mean,) = [c["value"] for c in found if c["check"] == "mean_weight"]
    assert mean == pytest.approx(2)
    assert len(list(store.rows("logprobs"))) == 480
    whole = table.build(params, frame, store).log_weights()["pi_clone"]
    assert len(whole) == 240
    assert whole.max() == 38


def test_models_that_took_turns_are_all_named_and_counted_once(begun):
    params, store, frame = begun
    made = {"fingerprint": "f", "context": contexts(params)["responses", "p0"]}
    for i, model in enumerate(["a", "b", "c", "b"]):
        store.put(Record("responses", frame.prompt_id[i], str(i), "p0", 0, **made, status="ok", value="x", model=model))
    for i in (4, 5):
        row = {"code": "timeout", "model": "ab"[i - 4]}
        store.put(Record("responses", frame.prompt_id[i], str(i), "p0", 0, **made, status="error", **row))
    state = status.progress(params, store)
    (job,) = [j for j in state["jobs"] if (j["job"], j["policy"]) == ("responses", "p0")]
    assert (job["ok"], job["errors"], job["models"]) == (4, {"timeout": 2}, ["a", "b", "c"])
    assert "p0 (a and b and c)" in status.sentence(state)
