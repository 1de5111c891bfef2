"""What a user sees when something is wrong: one clear line each, an exit code that is not 0, and no traceback."""

from __future__ import annotations

import shutil

import pytest
import yaml

from arena10k import paths
from arena10k.pipeline import failures
from in_process import arena
from stub_run import make_params


def report(params, *options):
    return arena("report", "--params", params, *options)


def edited(home, change):
    shutil.copy(paths.params_file("local"), home / "local.yaml")
    (home / "broken.yaml").write_text(yaml.safe_dump({"extends": "local.yaml", "run": "broken"} | change))
    return home / "broken.yaml"


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"judgee": {}}, ["broken.yaml: judgee:", "'judge'"]),
        ({"seed": "one"}, ["broken.yaml: seed:", "'one'"]),
        (
            {"providers": {"local": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key_env": "NO_SUCH"}}},
            ["providers.local:", "NO_SUCH"],
        ),
    ],
)
def test_bad_params_are_one_line_and_no_work(home, change, names):
    result = report(edited(home, change))
    (line,) = result.stderr.splitlines()
    assert result.returncode == 2
    assert line.startswith("error: ")
    assert all(name in line for name in names)
    assert not (home / "data").exists()


def test_a_pipeline_that_cannot_be_planned_tells_why_and_no_fault_of_the_run_before(home):
    make_params(home, "http://127.0.0.1:9/v1")
    paths.reports_dir("stub").joinpath("stages").mkdir(parents=True)
    failures.note("stub", "02_responses", "the run before")
    (home / "elsewhere").mkdir()
    (home / "elsewhere" / "config.yaml").write_text("executor: nowhere\n")
    told = report(home / "stub.yaml", "--profile", home / "elsewhere")
    assert told.returncode == 1
    assert "nowhere" in told.stderr
    assert "the run before" not in told.stderr


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["report", "--params", "nowhere"], "'nowhere'"),
        (["status", "local"], "'local'"),
        (["report", "--params", "local", "--run", "../x"], "run name '../x'"),
        (["report", "--params", "sample", "--profile", "slurn"], "profiles/ has default, slurm"),
    ],
)
def test_unknown_names_are_said(home, words, names):
    told = arena(*words)
    assert told.returncode == 2
    assert names in told.stderr
