"""The main job, small: killed in the middle, run again, and looked at from all sides.

`make faults` runs it on the real model, and compares it with the committed recording."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml

from arena10k import paths
from arena10k.audit import checks
from arena10k.collection.store import Store
from arena10k.params import config
from arena10k.pipeline import failures, first_page, runner, stages, stopping
from arena10k.run import Run
from in_process import arena
from stub_run import judge_in_one_token
from stub_server import Stub

WHOLE = bool(os.environ.get("ARENA10K_FAULT_KILLS"))
PROMPTS, POLICIES = 12 if WHOLE else 6, ("p0", "pi_clone")
#: Run here, by kernels that have the libraries loaded, and not at all; `make faults` has the pipeline run all of them.
HERE = ("03_teacher_forcing", "04_judge", "05_data_quality", "06_estimates", "00_status")
LEFT_OUT = () if WHOLE else ("07_pi_bad_anomaly", "09_ablation_summary", "10_simulation")
#: A secret of the user that no stage has to do with.
CANARY = "sk-canary-in-the-environment"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the first prompts of params/sample.yaml as it was recorded: killed with kill -9 while it collected, gone
    on with, and once more, with one stage out of date; when each file of the report was written before that and
    after it."""
    home = tmp_path_factory.mktemp("home")
    params = yaml.safe_load(paths.params_file("sample").read_text())
    params |= {"run": "tiny", "recording": False, "policies": {name: params["policies"][name] for name in POLICIES}}
    params["prompts"]["max_prompts"], params["responses"]["draws"] = PROMPTS, 1
    params["oracle"]["target_labels"], params["estimation"] = 4, {**params.get("estimation", {}), "replicates": 2}
    file = home / "tiny.yaml"
    with ExitStack() as stack:
        if not WHOLE:
            stub = stack.enter_context(Stub(judge_in_one_token, delay=0.2))
            models = [asked["model"] for asked in (*params["policies"].values(), params["judge"])]
            stub.models = {"object": "list", "data": [{"id": model, "object": "model"} for model in models]}
            params["judge"]["ratings"] = {"1": 1, "0": 0}
            params["providers"]["local"] |= {"kind": "openai", "base_url": stub.url, "concurrency": 2}
        file.write_text(yaml.safe_dump(params, sort_keys=False))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("ARENA10K_HOME", str(home))
        patch.setenv("OPENAI_API_KEY", CANARY)
        if not WHOLE:
            stages.execute("01_prompts", str(file), None)
        pipeline = runner.command(str(file), "", 2)
        command = [*pipeline[:3], *([] if WHOLE else [str(stages.stamp_file("tiny", "02_responses"))]), *pipeline[3:]]
        killed_at = _kill_while_collecting(command)
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stderr
        for stage in HERE if not WHOLE else ():
            stages.execute(stage, str(file), None)
        for stage in LEFT_OUT if not WHOLE else ():
            for done in (stages.page_file("tiny", stage), stages.stamp_file("tiny", stage)):
                done.write_text("{}")
        stages.out_of_date("tiny", "00_status")
        before, asked = _written(), _count()
        again = arena("report", "--params", file)
        assert again.returncode == 0, again.stderr
        yield SimpleNamespace(home=home, file=file, params=config.load(file), killed_at=killed_at, asked=asked,
                              output=again.stdout, before=before, after=_written())  # fmt: skip


def _kill_while_collecting(command):
    """Start the pipeline, wait for responses, kill all its processes at once; records until then."""
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as job:
        deadline = time.monotonic() + 600
        while _count() < PROMPTS / 2 and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)]:
            process.kill()
    return _count()


def _written():
    """When each file of the report was written; notebooks and stamps too."""
    files = (p for p in paths.reports_dir("tiny").rglob("*.*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(paths.reports_dir("tiny"))): p.stat().st_mtime_ns for p in files}


def _count():
    if not paths.store_file("tiny").is_file():
        return 0
    with sqlite3.connect(paths.store_file("tiny")) as db:
        try:
            return db.execute("SELECT COUNT(*) FROM records").fetchone()[0]
        except sqlite3.OperationalError:
            return 0


def by_key(store, job):
    return {(r["policy"], r["prompt_id"], r["draw"]): r for r in store.rows(job)}


def test_nothing_is_lost_or_doubled_by_the_kill(run):
    store = Store.open(paths.store_file("tiny"))
    rows = list(store.rows())
    assert PROMPTS / 2 <= run.killed_at < len(rows) == run.asked
    assert len({(r["job"], r["policy"], r["prompt_id"], r["draw"]) for r in rows}) == len(rows)
    assert [len(by_key(store, job)) for job in ("responses", "logprobs")] == [PROMPTS * len(POLICIES)] * 2
    table = Run(run.file).table()
    assert (table.logged.logp_p0 - table.logged.generation_logp).abs().max() < 1e-3
    assert (table.logged.logp_pi_clone - table.logged.logp_p0).abs().max() < 1e-3


@pytest.mark.skipif(not WHOLE, reason="of the real model, in `make faults`")
def test_the_records_are_those_of_the_committed_recording(run):
    """The same prompts, seeds and model gave the recording, uninterrupted; another processor may round differently."""
    mine, sample = Store.open(paths.store_file("tiny")), Run("sample").store
    recorded, measured = by_key(sample, "responses"), by_key(mine, "responses")
    same = [key for key in measured if measured[key]["value"] == recorded[key]["value"]]
    assert len(same) >= 0.9 * len(measured)
    scored, rescored = by_key(sample, "logprobs"), by_key(mine, "logprobs")
    logged = {key[1] for key in same if key[0] == "p0"}
    compared = [key for key in rescored if key[1] in logged]
    assert len(compared) >= 0.8 * PROMPTS * len(POLICIES)
    assert max(abs(scored[key]["value"] - rescored[key]["value"]) for key in compared) < 1e-3


def test_every_stage_has_its_page_and_the_index_links_them(run):
    folder = paths.reports_dir("tiny")
    index = (folder / "index.html").read_text()
    assert f"Report: {folder / 'index.html'}" in run.output
    for name, stage in stages.STAGES.items():
        assert f'href="{name}.html"' in index
        if name in LEFT_OUT:
            continue
        assert "Traceback" not in (folder / f"{name}.html").read_text()
        labels = set(first_page.key_numbers(run.params, stage))
        assert labels
        assert all(f"<span>{label} <b>" in index for label in labels)
    found = json.loads((folder / "quality.json").read_text())["checks"]
    assert checks.summary(found) in index


def test_results_have_their_stable_shapes(run):
    """Beside those that `test_golden.py` holds."""
    folder = paths.reports_dir("tiny")
    estimates, quality, status = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("estimates", "quality", "status")
    )
    row = {"policy", "estimator", "judge", "value", "se", "ci_low", "ci_high", "verdict", "reasons", "n_used"}
    row |= {"n_quarantined", "mean_weight", "ess", "khat", "labels_needed"}
    head = {"run", "n", "created", "judge", "belief", "logging_policy", "policies", "ranking", "contrasts"}
    head |= {"breakdown", "rows"}
    assert set(estimates) == head
    assert all(set(r) == row for r in estimates["rows"])
    assert {r["verdict"] for r in estimates["rows"]} <= {"REPORT", "CAUTION", "REFUSE"}
    job = {"job", "policy", "total", "ok", "errors", "quarantined", "rescored", "merged"}
    assert all(set(j) == job for j in quality["jobs"])
    assert {"jobs", "quarantined", "drift"} <= set(quality)
    failed = {r["prompt_id"] for r in Run(run.file).store.rows() if r["status"] == "error"}
    assert (status["complete_rows"], status["rows_with_all_logprobs"]) == (PROMPTS - len(failed), PROMPTS)


def test_only_what_is_out_of_date_runs_again(run):
    """As after a rescoring: its page is written again between pages that are there, and nothing is asked."""
    written = {name for name, at in run.after.items() if run.before.get(name) != at}
    again = {"00_status.html", "notebooks/00_status.ipynb", "stages/00_status.json", "index.html", "stages/answer.txt"}
    assert again <= written <= again | {"status.json", "stages/00_status.numbers.json"}
    assert _count() == run.asked
    assert stages.unstamped(run.params) == []


def test_a_stage_depends_on_its_notebook_on_what_that_reaches_and_on_params_that_there_are():
    files = {Path(name).name for name in stages.sources("06_estimates")}
    assert {"06_estimates.ipynb", "run.py", "estimators.py", "intervals.py"} <= files
    assert not files & {"first_page.py", "cli.py", "importer.py", "sweep.py"}
    assert "sweep.py" in {Path(name).name for name in stages.sources("08_ablation")}
    assert {name for names in stages.STAGE_PARAMS.values() for name in names} <= set(config.Params.model_fields)


def test_prompts_that_were_removed_are_chosen_again_and_what_failed_is_tried_again(run, monkeypatch):
    """What the command asks Snakemake for; all that rests on them would run after it."""
    commands = []
    monkeypatch.setattr(stopping, "run", lambda command, environment: commands.append(command) or 0)
    paths.prompts_file("tiny").rename(paths.prompts_file("tiny").with_suffix(".aside"))
    failures.note("tiny", "06_estimates", "06_estimates: of before")
    assert arena("report", "--params", run.file).returncode == 0
    (command,) = commands
    assert {stages.rule("01_prompts"), stages.rule("06_estimates")} <= {*command[command.index("--forcerun") :]}


def test_no_stage_writes_down_its_environment(run):
    assert [p.name for p in run.home.rglob("*") if p.is_file() and CANARY.encode() in p.read_bytes()] == []
