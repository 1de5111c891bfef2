"""Planted failures of a real run, measured again by the model that measured them: they come back, under history.

ARENA10K_PLANTED sets how many of the 720 log-probs are spoiled.
"""

from __future__ import annotations

import os
import random
from contextlib import nullcontext

import numpy as np
import pandas as pd

from arena10k import local_server
from arena10k.rescoring import history
from arena10k.run import Run
from in_process import arena
from sample_copy import copied, failed, scored

PLANTED = int(os.environ.get("ARENA10K_PLANTED", "3"))
#: How each third is spoiled: a sentinel for the whole sequence, a zero for every token, an error without a value.
SPOILED = {
    "below_floor": lambda r: scored(r, [-50.0, *[0.0] * (r.payload["response_tokens"] - 1)]),
    "constant": lambda r: scored(r, [0.0] * r.payload["response_tokens"]),
    "http_500": lambda r: failed(r, "http_500"),
}
VALUES = {"below_floor": -50.0, "constant": 0.0, "http_500": None}


def log_probs(run):
    return {(r["policy"], r["prompt_id"]): r for r in run.store.rows("logprobs")}


def test_planted_failures_come_back_to_a_thousandth_of_a_nat_and_the_audit_has_each(home, model_server, monkeypatch):
    sample = Run("sample")
    recorded = log_probs(sample)
    several = sorted(key for key, row in recorded.items() if row["payload"]["response_tokens"] > 1)
    codes = {key: list(SPOILED)[i % 3] for i, key in enumerate(random.Random(4).sample(several, PLANTED))}

    def spoil(record):
        """The scores that failed by themselves are left out."""
        code = codes.get((record.policy, record.prompt_id)) if record.job == "logprobs" else None
        return SPOILED[code](record) if code else record if record.status == "ok" else None

    monkeypatch.setattr(local_server, "running", lambda log: nullcontext(model_server))
    copied(home, spoil).store.close()
    done = arena("rescore", "copy", "--params", home / "copy.yaml")
    assert done.returncode == 0, done.stderr
    assert f"{PLANTED} restored" in done.stdout

    run = Run(home / "copy.yaml")
    now = log_probs(run)
    assert {(now[key]["status"], now[key]["quarantine"]) for key in codes} == {("ok", None)}
    assert max(abs(now[key]["value"] - recorded[key]["value"]) for key in codes) < 1e-3
    others = set(recorded) - set(codes)
    assert all(now[key]["attempts"] == 1 and now[key]["created"] == recorded[key]["created"] for key in others)

    (entry,) = history.read("copy")
    assert (entry["stopped"], entry["models"]) == (None, ["smollm2-135m-t0.6"])
    before = {(r["policy"], r["prompt_id"]): r["before"] for r in entry["rows"]}
    assert {key: state["code"] or state["quarantine"] for key, state in before.items()} == codes
    assert {key: state["value"] for key, state in before.items()} == {key: VALUES[code] for key, code in codes.items()}

    frames = [
        pd.DataFrame(rows) for rows in (run.estimates(run.table())["rows"], sample.estimates(sample.table())["rows"])
    ]
    restored, right = (frame.set_index(["policy", "judge", "estimator"]) for frame in frames)
    assert restored.verdict.equals(right.verdict)
    np.testing.assert_allclose(restored.value.astype(float), right.value.astype(float), rtol=5e-3)
    before, after = (pd.DataFrame(entry[f"estimates_{side}"]).value.astype(float) for side in ("before", "after"))
    np.testing.assert_array_equal(after, restored.value.astype(float))
    assert not before.equals(after)

    again = arena("rescore", "copy", "--params", home / "copy.yaml")
    assert (again.returncode, again.stdout.count("\n"), history.read("copy")) == (0, 1, [entry])
