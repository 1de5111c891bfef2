"""The main job on the real model, small: killed in the middle, run again, and compared with the committed recording."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
import yaml

from arena10k import paths
from arena10k.audit import checks
from arena10k.collection.store import Store
from arena10k.params import config
from arena10k.pipeline import first_page, stages, stopping
from arena10k.run import Run
from in_process import arena

PROMPTS = 6
#: A secret of the user that no stage has to do with.
CANARY = "sk-canary-in-the-environment"
REPORT = [sys.executable, "-m", "arena10k", "report", "--params"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the first prompts of params/local.yaml, killed with kill -9 while it collected, then finished."""
    home = tmp_path_factory.mktemp("home")
    shutil.copy(paths.params_file("local"), home / "local.yaml")
    tiny = {"extends": "local.yaml", "run": "tiny", "prompts": {"max_prompts": PROMPTS}, "responses": {"draws": 1}}
    tiny |= {"oracle": {"target_labels": 4}, "estimation": {"replicates": 4}}
    (home / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    environment = os.environ | {"ARENA10K_HOME": str(home), "OPENAI_API_KEY": CANARY}
    command = [*REPORT, str(home / "tiny.yaml")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARENA10K_HOME", str(home))
        killed_at = _kill_while_collecting(command, environment)
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
        assert finished.returncode == 0, finished.stderr
        yield {
            "home": home,
            "killed_at": killed_at,
            "params": config.load(home / "tiny.yaml"),
            "environment": environment,
            "command": command,
            "said": finished.stdout,
        }


def _kill_while_collecting(command, environment):
    """Start the pipeline, wait for the first scored responses, kill its whole process group; records until then."""
    with subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL) as job:
        store = paths.store_file("tiny")
        deadline = time.monotonic() + 300
        while _count(store) < PROMPTS * 6 + 3 and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(job.pid, signal.SIGKILL)
    return _count(store)


def _count(store):
    if not store.is_file():
        return 0
    with sqlite3.connect(store) as db:
        try:
            return db.execute("SELECT COUNT(*) FROM records").fetchone()[0]
        except sqlite3.OperationalError:
            return 0


def by_key(store, job):
    return {(r["policy"], r["prompt_id"], r["draw"]): r for r in store.rows(job)}


def test_nothing_is_lost_or_doubled_by_the_kill(run):
    store = Store.open(paths.store_file("tiny"))
    rows = list(store.rows())
    assert PROMPTS * 6 <= run["killed_at"] < len(rows)
    keys = [(r["job"], r["policy"], r["prompt_id"], r["draw"]) for r in rows]
    assert len(keys) == len(set(keys))
    assert [len(by_key(store, job)) for job in ("responses", "logprobs")] == [PROMPTS * 6] * 2


def test_the_records_are_those_of_the_committed_recording(run):
    """The same prompts, seeds and model gave the recording, uninterrupted; another processor may round differently."""
    mine, sample = Store.open(paths.store_file("tiny")), Run("sample").store
    recorded, measured = by_key(sample, "responses"), by_key(mine, "responses")
    same = [key for key in measured if measured[key]["value"] == recorded[key]["value"]]
    assert len(same) >= 0.9 * len(measured)
    scored, rescored = by_key(sample, "logprobs"), by_key(mine, "logprobs")
    logged = {key[1] for key in same if key[0] == "p0"}
    compared = [key for key in rescored if key[1] in logged]
    assert len(compared) >= 0.8 * PROMPTS * 6
    assert max(abs(scored[key]["value"] - rescored[key]["value"]) for key in compared) < 1e-3


def test_p0_repeats_itself_and_the_clone_weighs_one(run):
    table = Run(run["home"] / "tiny.yaml").table()
    assert (table.logged.logp_p0 - table.logged.generation_logp).abs().max() < 1e-3
    assert (table.logged.logp_pi_clone - table.logged.logp_p0).abs().max() < 1e-3


def test_every_stage_has_its_page_and_the_index_links_them(run):
    folder = paths.reports_dir("tiny")
    index = (folder / "index.html").read_text()
    assert f"Report: {folder / 'index.html'}" in run["said"]
    for stage in stages.STAGES:
        page = (folder / f"{stage}.html").read_text()
        assert "Traceback" not in page
        assert f'href="{stage}.html"' in index
        labels = set(first_page.key_numbers(run["params"], stages.of(run["params"])[stage]))
        assert labels
        assert all(f"<dt>{label}</dt>" in index for label in labels)
    found = json.loads((folder / "quality.json").read_text())["checks"]
    assert checks.summary(found) in index


def test_results_have_their_stable_shapes(run):
    folder = paths.reports_dir("tiny")
    results = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("estimates", "quality", "status")}
    row = {"policy", "estimator", "judge", "value", "se", "ci_low", "ci_high", "verdict", "reasons", "n_used"}
    row |= {"n_quarantined", "mean_weight", "ess", "khat", "labels_needed"}
    known = {"run", "n", "created", "judge", "belief", "logging_policy", "ranking", "contrasts", "breakdown", "rows"}
    assert known == set(results["estimates"])
    assert all(set(r) == row for r in results["estimates"]["rows"])
    assert {r["verdict"] for r in results["estimates"]["rows"]} <= {"REPORT", "CAUTION", "REFUSE"}
    job = {"job", "policy", "total", "ok", "errors", "quarantined", "rescored", "merged"}
    assert all(set(j) == job for j in results["quality"]["jobs"])
    assert {"jobs", "quarantined", "drift"} <= set(results["quality"])
    rows = list(Run(run["home"] / "tiny.yaml").store.rows())
    failed = {r["prompt_id"] for r in rows if r["status"] == "error"}
    assert results["status"]["complete_rows"] == PROMPTS - len(failed)
    assert results["status"]["rows_with_all_logprobs"] == PROMPTS
    anomaly = json.loads((folder / "anomaly.json").read_text())
    wanted = {"policy", "published", "trusted", "trusted_ci", "gap", "parts", "main_cause", "rank_first_probability"}
    assert all(wanted | {"verdict", "sentence"} <= set(p) for p in anomaly["policies"])
    causes = ["corrupted_logprobs", "clipping", "tail", "judge_bias", "off_support", "weights_do_not_match_draws"]
    assert all([part["cause"] for part in p["parts"]] == causes for p in anomaly["policies"])


def test_nothing_runs_again_when_nothing_changed(run):
    pages = sorted(p for p in paths.reports_dir("tiny").rglob("*.*") if p.name != ".lock")
    before = {p: p.stat().st_mtime_ns for p in pages}
    subprocess.run(run["command"], env=run["environment"], check=True, capture_output=True, timeout=120)
    assert {p: p.stat().st_mtime_ns for p in pages} == before


def test_a_stage_that_is_out_of_date_runs_again_between_pages_that_are_there(run):
    """As after a rescoring: its page is written again, and nothing is asked."""
    before, asked = stages.page_file("tiny", "00_status").stat().st_mtime_ns, _count(paths.store_file("tiny"))
    stages.out_of_date("tiny", "00_status")
    again = subprocess.run(
        run["command"], env=run["environment"], capture_output=True, text=True, timeout=600, check=False
    )
    assert again.returncode == 0, again.stderr
    assert stages.stamp_file("tiny", "00_status").is_file()
    assert stages.page_file("tiny", "00_status").stat().st_mtime_ns > before
    assert _count(paths.store_file("tiny")) == asked
    assert stages.unstamped(run["params"]) == []


def test_prompts_that_were_removed_are_chosen_again(run, monkeypatch):
    """What the command asks Snakemake for; all that rests on the prompts would run after it."""
    commands = []
    monkeypatch.setattr(stopping, "run", lambda command, environment: commands.append(command) or 0)
    paths.prompts_file("tiny").rename(paths.prompts_file("tiny").with_suffix(".aside"))
    assert arena("report", "--params", run["home"] / "tiny.yaml").returncode == 0
    (command,) = commands
    assert stages.rule("01_prompts") in command[command.index("--forcerun") :]


def test_no_stage_writes_down_its_environment(run):
    assert [p.name for p in run["home"].rglob("*") if p.is_file() and CANARY.encode() in p.read_bytes()] == []
