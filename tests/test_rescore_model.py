"""Planted failures of a real run, measured again by the model that measured them: they come back, under audit.

ARENA10K_PLANTED sets how many of the 720 log-probs are spoiled.
"""

from __future__ import annotations

import os
import random
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest

from arena10k import local_server, paths
from arena10k.collection.store import Store
from arena10k.rescoring import rescore_audit
from arena10k.run import Run
from in_process import arena
from sample_copy import copied, failed, scored

PLANTED = int(os.environ.get("ARENA10K_PLANTED", "18"))
#: How each third is spoiled: a sentinel for the whole sequence, a zero for every token, an error without a value.
SPOILED = {
    "below_floor": lambda r: scored(r, [-50.0, *[0.0] * (r.payload["response_tokens"] - 1)]),
    "constant": lambda r: scored(r, [0.0] * r.payload["response_tokens"]),
    "http_500": lambda r: failed(r, "http_500"),
}


def log_probs(store):
    return {(r["policy"], r["prompt_id"]): r for r in store.rows("logprobs")}


def rescore(home):
    return arena("rescore", "copy", "--params", home / "copy.yaml")


@pytest.fixture(scope="module")
def recorded():
    return log_probs(Run("sample").store)


@pytest.fixture(scope="module")
def restored(tmp_path_factory, recorded, model_server):
    """What the command made of a copy of the recording with planted failures (its failed scores are left out)."""
    home = tmp_path_factory.mktemp("home")
    several = sorted(key for key, row in recorded.items() if row["payload"]["response_tokens"] > 1)
    codes = {key: list(SPOILED)[i % 3] for i, key in enumerate(random.Random(4).sample(several, PLANTED))}

    def spoil(record):
        code = codes.get((record.policy, record.prompt_id)) if record.job == "logprobs" else None
        return SPOILED[code](record) if code else record if record.status == "ok" else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARENA10K_HOME", str(home))
        patch.setattr(local_server, "running", lambda log: nullcontext(model_server))
        copied(home, spoil).store.close()
        done = rescore(home)
        assert done.returncode == 0, done.stderr
        yield {"home": home, "codes": codes, "said": done.stdout, "run": Run(home / "copy.yaml")}


def test_planted_failures_come_back_to_a_thousandth_of_a_nat(restored, recorded):
    now = log_probs(restored["run"].store)
    assert {(now[key]["status"], now[key]["quarantine"]) for key in restored["codes"]} == {("ok", None)}
    apart = [abs(now[key]["value"] - recorded[key]["value"]) for key in restored["codes"]]
    assert max(apart) < 1e-3
    others = set(recorded) - set(restored["codes"])
    assert all(now[key]["attempts"] == 1 and now[key]["created"] == recorded[key]["created"] for key in others)


def test_every_planted_failure_is_in_the_audit_with_what_it_was_and_is(restored, recorded):
    (entry,) = rescore_audit.read("copy")
    asked = {"policy": None, "code": None}
    assert (entry["stopped"], entry["asked"], entry["models"]) == (None, asked, ["smollm2-135m-t0.6"])
    rows = {(r["policy"], r["prompt_id"]): r for r in entry["rows"]}
    assert {key: row["before"]["code"] or row["before"]["quarantine"] for key, row in rows.items()} == restored["codes"]
    for key, row in rows.items():
        was = {"below_floor": -50.0, "constant": 0.0, "http_500": None}[restored["codes"][key]]
        assert (row["outcome"], row["before"]["value"]) == ("restored", was)
        assert row["after"]["value"] == pytest.approx(recorded[key]["value"], abs=1e-3)
        assert row["difference"] == (None if was is None else row["after"]["value"] - was)
    assert f"{PLANTED} restored" in restored["said"]
    kept = [a["value"] for a in restored["run"].store.attempts() if a["quarantine"] == "below_floor"]
    assert kept == [-50.0] * list(restored["codes"].values()).count("below_floor")


def test_the_estimates_are_those_of_the_recording_again(restored):
    estimates = [pd.DataFrame(run.estimates(run.table())["rows"]) for run in (restored["run"], Run("sample"))]
    now, right = (frame.set_index(["policy", "judge", "estimator"]) for frame in estimates)
    assert now.verdict.equals(right.verdict)
    np.testing.assert_allclose(now.value.astype(float), right.value.astype(float), rtol=5e-3)
    (entry,) = rescore_audit.read("copy")
    before, after = (pd.DataFrame(entry[f"estimates_{side}"]).value.astype(float) for side in ("before", "after"))
    np.testing.assert_array_equal(after, now.value.astype(float))
    assert not before.equals(after)


def test_the_same_command_again_asks_nothing_and_changes_nothing(restored):
    def state():
        store = Store.read(paths.store_file("copy"))
        audit = paths.result_file("copy", rescore_audit.FILE).read_bytes()
        return store.content_digest("responses", "logprobs", "judge_uncertainty"), len(store.attempts()), audit

    before = state()
    done = rescore(restored["home"])
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert state() == before
