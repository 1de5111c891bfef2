"""What a user sees when something is wrong: one clear line each, an exit code that is not 0, and no traceback."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import yaml

from arena10k import paths
from stub_run import make_params
from stub_server import Stub


def arena(*arguments, **options):
    command = [sys.executable, "-m", "arena10k", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


def report(params):
    return arena("report", "--params", params)


def edited(home, change):
    shutil.copy(paths.params_file("local"), home / "local.yaml")
    (home / "broken.yaml").write_text(yaml.safe_dump({"extends": "local.yaml", "run": "broken"} | change))
    return home / "broken.yaml"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"judgee": {}}, "error: broken.yaml: judgee: unknown key; did you mean 'judge'?"),
        ({"seed": "one"}, "error: broken.yaml: seed: Input should be a valid integer (got 'one')"),
        (
            {"providers": {"local": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key_env": "NO_SUCH"}}},
            "error: providers.local: environment variable NO_SUCH is not set",
        ),
    ],
)
def test_bad_params_are_one_line_and_no_work(home, change, says):
    result = report(edited(home, change))
    assert (result.returncode, result.stderr.strip()) == (2, says)
    assert not (home / "data").exists()


def test_unreachable_server_and_unserved_model_fail_with_one_line(home):
    make_params(home, "http://127.0.0.1:9/v1", max_attempts=1)
    result = report(home / "stub.yaml")
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert result.returncode == 1
    assert len(errors) == 1
    assert errors[0].startswith("error: 02_responses: providers.stub: http://127.0.0.1:9/v1: connection")
    assert "Traceback" not in result.stderr
    with Stub() as stub:
        make_params(home, stub.url)
        text = (home / "stub.yaml").read_text().replace("model: stub", "model: gone")
        (home / "stub.yaml").write_text(text)
        result = report(home / "stub.yaml")
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert (result.returncode, len(errors)) == (1, 1)
    assert "does not serve gone; it serves stub" in errors[0]
    (home / "elsewhere").mkdir()
    (home / "elsewhere" / "config.yaml").write_text("executor: nowhere\n")
    unplanned = arena("report", "--params", home / "stub.yaml", "--profile", home / "elsewhere").stderr
    assert "error: the pipeline could not be planned:" in unplanned
    assert "nowhere" in unplanned
    assert "does not serve" not in unplanned  # that was the run before


def test_unknown_names_are_said(home):
    assert "error: no params file 'nowhere'" in report("nowhere").stderr
    assert "has not started" in arena("status", "local").stderr
    assert "run name '../x'" in arena("report", "--params", "local", "--run", "../x").stderr
