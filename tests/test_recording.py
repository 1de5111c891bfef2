"""The committed recording is described by a params file of its own, which no other file can change."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest
import yaml

from arena10k import paths
from arena10k.collection import generate
from arena10k.collection.collect import collect
from arena10k.collection.jobs import contexts
from arena10k.errors import ArenaError
from arena10k.params import config
from arena10k.pipeline import stages
from arena10k.run import Run

POLITE = {"provider": "local", "model": "smollm2-135m-t0.6", "max_tokens": 16, "system": "You are a polite assistant."}


def responses_of(run):
    return collect(run.params, run.store, lambda: generate.tasks(run.params, run.prompts), "responses")


def test_the_sample_is_defined_as_it_was_recorded():
    run = Run("sample")
    records = pd.DataFrame(run.store.rows())
    recorded = dict(records.groupby(["job", "policy"]).context.unique().map(list))
    assert recorded == {key: [context] for key, context in contexts(run.params).items()}
    own = records[records.job == "responses"].groupby("policy").fingerprint.unique().map(list)
    assert dict(own) == {name: [policy.fingerprint] for name, policy in run.policies.items()}


def test_a_policy_added_to_other_params_leaves_what_was_recorded_alone_and_one_that_it_lacks_is_named(home):
    shutil.copytree(paths.source_root() / "params", home / "params")
    local = home / "params" / "local.yaml"
    content = yaml.safe_load(local.read_text())
    content["policies"]["pi_polite"] = POLITE
    local.write_text(yaml.safe_dump(content))
    assert "pi_polite" in config.load(local).policies
    for name in ("sample", "ablations", "incident"):
        assert config.load(home / "params" / f"{name}.yaml").model_dump() == config.load(name).model_dump()
    run = Run(home / "params" / "ablations.yaml")
    assert run.coverage().startswith("120/120 ")
    assert responses_of(run).stored == 1440

    more = home / "params" / "more.yaml"
    more.write_text(yaml.safe_dump({"extends": "sample.yaml", "policies": {"pi_polite": POLITE}}))
    run = Run(more)
    assert run.coverage().endswith(": pi_polite.")
    with pytest.raises(ArenaError, match=r" 240 of 1,680 .*: pi_polite \(240\)"):
        responses_of(run)


def test_stages_of_a_recording_ask_nothing_and_are_made_of_all_that_would_ask():
    planned, asking = stages.of(config.load("sample")), [n for n, stage in stages.STAGES.items() if stage.asks]
    assert planned.keys() == stages.STAGES.keys()
    assert not any(stage.asks for stage in planned.values())
    assert {planned[name].needs for name in asking} == {("01_prompts",)}
    assert set(planned["05_data_quality"].needs) == set(planned["00_status"].needs) == set(asking)
    assert planned["07_pi_bad_anomaly"] == stages.STAGES["07_pi_bad_anomaly"]
    assert stages.of(config.load("local")) is stages.STAGES
