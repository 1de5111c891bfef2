"""An oracle that cannot label is refused before anything is asked, and a grader's fault names the params to change."""

from __future__ import annotations

import contextlib
import json

import pytest
import yaml
from click.testing import CliRunner

from arena10k import cli, paths
from arena10k.collection import labels, pilot
from arena10k.collection.store import Store
from arena10k.errors import ArenaError
from arena10k.inputs import prompts
from arena10k.params import config
from stub_run import make_params
from stub_server import Stub


def exact(home, url, check=None, **oracle):
    """Params with an exact oracle, and prompts that have an answer; one of them has this check."""
    make_params(home, url)
    rows = [{"prompt_id": f"p{i}", "prompt": f"question {i}", "answer": "Paris"} for i in range(5)]
    rows[3] |= {} if check is None else {"check": check}
    (home / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = home / "stub.yaml"
    content = yaml.safe_load(file.read_text()) | {"oracle": {"kind": "exact", **oracle}}
    file.write_text(yaml.safe_dump(content))
    return config.load(file)


@pytest.mark.parametrize("option", ["--yes", "--cost", None], ids=["report", "cost", "pilot"])
def test_prompts_without_a_check_are_refused_before_anything_is_asked(home, option):
    with Stub() as stub:
        params = exact(home, stub.url)
        if option:
            result = CliRunner().invoke(cli.main, ["report", "--params", str(home / "stub.yaml"), option])
            assert result.exit_code == 2
            assert not paths.data_dir("stub").exists()
            says = result.output.removeprefix("error: ")
        else:
            with pytest.raises(ArenaError) as caught:
                pilot.run(params, Store.open(paths.store_file("stub")), prompts.load(params)[0])
            says = str(caught.value)
        assert stub.requests == 0
    assert says.startswith(f"{home / 'prompts.jsonl'}: none of the 5 prompts has a `check`")
    for needed in ("oracle.kind: exact", '"check": {"kind": "contains_any"', "kind: model", "p0_fraction: 0"):
        assert needed in says


@pytest.mark.parametrize(
    ("check", "oracle", "says"),
    [
        ({"kind": "contains"}, {}, "prompt 'p3': unknown check kind 'contains'; known kinds: contains_all_words"),
        ("Paris", {}, "prompt 'p3': check must be a mapping"),
        ({"kind": "number"}, {}, "prompt 'p3': check 'number' lacks value"),
        ({"kind": "contains_any", "values": ["Paris"]}, {}, None),
        (None, {"p0_fraction": 0, "target_labels": 0}, None),
        (None, None, None),  # the params ask for no oracle
    ],
)
def test_a_check_that_cannot_be_run_is_named_and_what_can_be_labelled_or_shall_not_be_is_taken(
    home, check, oracle, says
):
    url = "http://127.0.0.1:9/v1"
    params = make_params(home, url) if oracle is None else exact(home, url, check, **oracle)
    with pytest.raises(ArenaError, match=f"prompts.jsonl: {says}") if says else contextlib.nullcontext():
        labels.check_prompts(params, prompts.load(params)[0])
