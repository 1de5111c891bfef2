"""What a user sees when something is wrong: one clear line each, an exit code that is not 0, and no traceback."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from arena10k import paths
from arena10k.pipeline import failures, runner
from in_process import arena
from stub_run import make_params

NO_KEY = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key_env": "NO_SUCH"}
#: A file whose columns are named is read once all that is said of it can be meant.
IMPORT = ["import", __file__, "--column", "prompt=q"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ({"judgee": {}}, ["broken.yaml: judgee:", "'judge'"]),
        ({"seed": "one"}, ["broken.yaml: seed:", "'one'"]),
        ({"providers": {"local": NO_KEY}}, ["providers.local:", "NO_SUCH"]),
        (["report", "--params", "nowhere"], ["'nowhere'"]),
        (["status", "local"], ["'local'"]),
        (["report", "--params", "local", "--run", "../x"], ["run name '../x'"]),
        (["report", "--params", "sample", "--profile", "slurn"], ["profiles/ has slurm"]),
        (["stage", "02_response", "--params", "sample"], ["no stage '02_response'", "'02_responses'"]),
        ([*IMPORT, "--column", "lable=x"], ["columns.lable: unknown key; did you mean 'label'?"]),
        ([*IMPORT, "--column", "judge.x=1", "--column", "judge=s"], ["'columns.judge=s'", "'x'"]),
        ([*IMPORT, "--column", "judge=s", "--column", "judge.x=1"], ["'columns.judge.x=1'", "'s'"]),
        ([*IMPORT, "--column", "logprobs.a b=l"], ["columns.logprobs.a b: is no name"]),
        ([*IMPORT, "--set", "delimeter=;"], ["error: delimeter: unknown key; did you mean 'delimiter'?"]),
        ([*IMPORT, "--set", "rows=["], ["'rows=['", "YAML"]),
        ([*IMPORT, "--set", "policy=a b"], ["error: policy: is no name", "'a b'"]),
        ([*IMPORT, "--set", "path=other.csv"], ["error: path: "]),
        ([*IMPORT, "--judge-scale", "5", "0"], ["error: judge_scale: [5, 0] "]),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_no_work(home, words, names):
    """Words of a command, or what is changed of the params of a report."""
    if isinstance(words, dict):
        shutil.copy(paths.params_file("local"), home / "local.yaml")
        (home / "broken.yaml").write_text(yaml.safe_dump({"extends": "local.yaml", "run": "broken"} | words))
        words = ["report", "--params", home / "broken.yaml"]
    result = arena(*words)
    (line,) = result.stderr.splitlines()
    assert result.returncode == 2
    assert line.startswith("error: ")
    assert all(name in line for name in names)
    assert not (home / "data").exists()


def test_a_place_that_cannot_hold_a_report_is_named_in_one_line(home):
    (home / "reports").write_text("a file where a folder should be")
    result = arena("report", "--params", "sample")
    (line,) = result.stderr.splitlines()
    assert result.returncode == 2
    assert line.startswith(f"error: {home / 'reports'}")


def test_a_stage_whose_reason_could_not_be_written_says_that_the_disk_is_full(home):
    file = paths.result_file("stub", "stages/06_estimates.failed")
    file.parent.mkdir(parents=True)
    file.touch()  # as a full disk leaves it
    (line,) = failures.lines("stub")
    assert line.startswith("06_estimates: ")
    assert "full" in line


def test_a_home_that_cannot_be_made_leaves_caches_with_the_pages(home, monkeypatch):
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    found = runner.cache("stub")
    assert set(found) == {"XDG_CACHE_HOME", "MPLCONFIGDIR", "IPYTHONDIR"}
    assert all(Path(folder).is_relative_to(paths.reports_dir("stub")) for folder in found.values())
    monkeypatch.setenv("HOME", str(home))
    assert runner.cache("stub") == {"XDG_CACHE_HOME": str(home / ".cache")}


def test_a_pipeline_that_cannot_be_planned_says_why_and_no_fault_of_the_run_before(home):
    make_params(home, "http://127.0.0.1:9/v1")
    paths.reports_dir("stub").joinpath("stages").mkdir(parents=True)
    failures.note("stub", "02_responses", "the run before")
    (home / "elsewhere").mkdir()
    (home / "elsewhere" / "config.yaml").write_text("executor: nowhere\n")
    result = arena("report", "--params", home / "stub.yaml", "--profile", home / "elsewhere")
    assert result.returncode == 1
    assert "nowhere" in result.stderr
    assert "the run before" not in result.stderr
