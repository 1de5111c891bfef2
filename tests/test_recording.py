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
from arena10k.inputs.policies import policies
from arena10k.params import config
from arena10k.run import Run

POLITE = {"provider": "local", "model": "smollm2-135m-t0.6", "max_tokens": 16, "system": "You are a polite assistant."}


@pytest.fixture
def changed(home):
    """A repository in which somebody added a policy to params/local.yaml."""
    shutil.copytree(paths.source_root() / "params", home / "params")
    file = home / "params" / "local.yaml"
    content = yaml.safe_load(file.read_text())
    content["policies"]["pi_polite"] = POLITE
    file.write_text(yaml.safe_dump(content))
    return home


def responses_of(run):
    return collect(run.params, run.store, lambda: generate.tasks(run.params, run.prompts), "responses")


def test_the_sample_is_defined_as_it_was_recorded():
    run = Run("sample")
    records = pd.DataFrame(run.store.rows())
    recorded = dict(records.groupby(["job", "policy"]).context.unique().map(list))
    assert recorded == {key: [context] for key, context in contexts(run.params).items()}
    own = records[records.job == "responses"].groupby("policy").fingerprint.unique().map(list)
    assert dict(own) == {name: [policy.fingerprint] for name, policy in policies(run.params).items()}


def test_a_policy_added_to_local_params_leaves_what_was_recorded_alone(changed):
    assert "pi_polite" in config.load(changed / "params" / "local.yaml").policies
    for name in ("sample", "ablations", "incident"):
        file = changed / "params" / f"{name}.yaml"
        assert config.load(file).model_dump() == config.load(name).model_dump()
    run = Run(changed / "params" / "ablations.yaml")
    assert "120/120 rows have all target log-probs" in run.coverage()
    assert responses_of(run).stored == 1440


def test_a_policy_that_the_recording_lacks_is_named(changed):
    file = changed / "params" / "more.yaml"
    file.write_text(yaml.safe_dump({"extends": "sample.yaml", "policies": {"pi_polite": POLITE}}))
    run = Run(file)
    assert "Not in this recording as the params define them: pi_polite." in run.coverage()
    with pytest.raises(ArenaError, match=r"lacks 240 of 1,680 records of .*: pi_polite \(240\)\. Put back"):
        responses_of(run)
