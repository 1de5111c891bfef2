"""The ablation matrix as a pipeline: cells, their pages, what re-runs, and the summary of all of them."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml

from arena10k import paths
from arena10k.ablations import ablation_summary, matrix
from arena10k.ablations.sweeps import Settings, Truth
from arena10k.errors import NothingToShow, ParamsError
from arena10k.estimation import ESTIMATORS, Estimator, Score, Term
from arena10k.params import config, sections
from arena10k.pipeline import failures, runner, stages
from arena10k.report.files import write_json
from arena10k.run import Run
from in_process import run_cells

MATRIX = {
    "judges": ["deterministic"],
    "estimators": ["snips", "direct"],
    "treatments": ["recorded", "quarantined"],
    "sweep": {"prompts": [60, "all"], "labels": ["all"]},
    "seeds": 2,
    "worst": ["pi_bad"],
}


def params_of(home, extra=None, **changes):
    file = home / "few.yaml"
    text = yaml.safe_load(paths.params_file("sample").read_text()) | {"ablations": MATRIX | changes} | (extra or {})
    file.write_text(yaml.safe_dump(text))
    return file


@pytest.fixture
def tiny(home):
    return config.load(params_of(home))


def test_a_matrix_leaves_out_what_cannot_change_an_estimate(tiny):
    names = [cell.name for cell in matrix.cells(tiny)]
    assert names == [
        "deterministic.snips.isotonic.recorded",
        "deterministic.snips.isotonic.quarantined",
        "deterministic.direct.isotonic.recorded",
    ]
    every = config.load("ablations")
    assert len({cell.name for cell in matrix.cells(every)}) == len(matrix.cells(every)) > 30
    assert matrix.cells(config.load("sample")) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"estimators": ["snip"]}, "ablations.estimators: no estimator 'snip': naive"),
        ({"treatments": ["clipped"]}, "ablations.treatments: no treatment 'clipped': recorded"),
        ({"calibrations": ["spline"]}, "ablations.calibrations: no calibration 'spline': none, isotonic"),
        ({"judges": ["fuzzy"]}, "ablations.judges: no judge mode 'fuzzy': deterministic"),
        ({"sweep": {"tokens": [5]}}, "ablations.sweep: no factor 'tokens': prompts, labels"),
    ],
)
def test_names_that_are_not_registered_are_said(home, changes, told):
    with pytest.raises(ParamsError, match=told):
        stages.of(config.load(params_of(home, **changes)))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"worst": ["pi_evil"]}, "ablations.worst: 'pi_evil' is not among the targets"),
        ({"sweep": {"labels": [5]}}, "sweep.labels: 5 is not a share"),
        ({"seed": 3}, "ablations.seed: unknown key"),
    ],
)
def test_params_that_do_not_fit_are_said(home, changes, told):
    with pytest.raises(ParamsError, match=told):
        config.load(params_of(home, **changes))


def changed(before, params):
    after = stages.reads(params)
    return {name for name in after if after[name] != before.get(name)}


def test_more_cells_leave_those_that_are_there_up_to_date(home, tiny):
    before = stages.reads(tiny)
    more = config.load(params_of(home, estimators=["snips", "direct", "ppi_pp"]))
    assert changed(before, more) == {"08_ablation@deterministic.ppi_pp.isotonic.recorded", "09_ablation_summary"}


# The truth


def test_where_nothing_labels_all_draws_half_of_the_labels_is_held_out():
    run = Run("sample")
    table = run.table()
    unknown = replace(table, truth=table.truth[:0])
    seen, truth = matrix.held_out(unknown, ["pi_bad"])
    assert [t.policy for t in truth] == table.targets
    assert [t.worst for t in truth] == [t == "pi_bad" for t in table.targets]
    for t in truth:
        mine = (table.fresh.policy == t.policy).to_numpy()
        aside = (table.fresh.label.notna() & seen.fresh.label.isna()).to_numpy() & mine
        left = (seen.fresh.label.notna()).to_numpy() & mine
        assert set(table.fresh.prompt_id[aside]).isdisjoint(table.fresh.prompt_id[left])
        if t.value is not None:
            by_prompt = table.fresh[aside].groupby("prompt_id").label.mean().astype(float)
            assert t.value == pytest.approx(by_prompt.mean())
            assert t.se == pytest.approx(by_prompt.std(ddof=1) / np.sqrt(len(by_prompt)))
            assert t.source.startswith(f"{len(by_prompt)} ")
    assert any(t.value is not None for t in truth)
    whole, known = matrix.held_out(table)
    assert whole.fresh.label.equals(table.fresh.label)
    assert {t.policy: t.value for t in known} == {
        r.policy: r.value for r in table.truth.itertuples() if r.policy in table.targets
    }


def truths(**values):
    return [Truth(policy, value, 0.01, "t") for policy, value in values.items()]


def estimate(policy, value, verdict="REPORT", interval=True, estimator="snips"):
    ends = (value - 0.1, value + 0.1) if interval else (None, None)
    row = {"policy": policy, "estimator": estimator, "judge": "j", "value": value, "verdict": verdict, "se": 0.1}
    return row | {"ci_low": ends[0], "ci_high": ends[1], "reasons": [], "n_used": 9}


def test_accuracy_counts_intervals_that_are_there_and_orders_beyond_chance():
    rows = [estimate("a", 0.75), estimate("b", 0.9, "REFUSE", interval=False), estimate("c", 0.95, "REFUSE")]
    rows += [estimate(p, v, estimator="direct") for p, v in (("a", 0.8), ("b", 0.65), ("c", 0.1))]
    table = ablation_summary.accuracy(rows, truths(a=0.8, b=0.6, c=0.59))
    assert list(table.rmse) == sorted(table.rmse)
    snips = table.set_index("estimator").loc["snips"]
    assert (snips.coverage, snips.refused) == (0.5, pytest.approx(2 / 3))
    assert snips.pairwise == 0.0  # b and c are not apart beyond chance
    assert (snips.misranked, snips.misranked_standing) == (1.0, 0.0)
    said = ablation_summary.accuracy_sentence(table)
    assert "snips" in said.split(";")[1]
    assert "not known" in ablation_summary.accuracy_sentence(ablation_summary.accuracy(rows, []))
    close = ablation_summary.accuracy(rows[:2], truths(a=0.8, b=0.79))
    assert close.misranked.isna().all()
    assert "snips" not in ablation_summary.accuracy_sentence(close).split(";")[1]


def test_labels_are_counted_where_estimates_rest_on_them():
    run = Run("sample")
    arrays = {p: modes["deterministic"] for p, modes in run.arrays(run.table()).items() if p != "p0"}
    logged = max(np.isfinite(d.label).sum() for d in arrays.values())
    own = sum(np.isfinite(d.fresh_label).sum() for d in arrays.values())
    wanted = {
        ("naive", "isotonic"): 0,
        ("direct", "isotonic"): logged + own,  # they bound how far f is off on the policy
        ("direct", "none"): 0,
        ("dr_oracle", "none"): logged,
        ("ppi_pp", "isotonic"): logged + own,
        ("ppi_pp", "none"): own,
    }
    found = {}
    for estimator, calibration in wanted:
        cell = matrix.Cell("deterministic", estimator, calibration, "recorded")
        rows, _ = matrix.complete(arrays, cell, Settings())
        found[estimator, calibration] = matrix.labels_used(arrays, cell, Settings(), rows)
    assert found == wanted


# Joining cells


def written(run, cell, **scores):
    score = {"prompts": None, "labels": None, "estimator": cell.estimator, "calibration": cell.calibration, "cells": 2}
    names = ("rmse", "bias", "coverage", "interval_score", "refused", "pairwise", "kendall", "misranked")
    score |= dict.fromkeys((*names, "misranked_standing", "rmse_standing", "coverage_standing"), 0.5) | scores
    head = {"cell": cell.name, "judge": cell.judge, "estimator": cell.estimator, "calibration": cell.calibration}
    own = matrix.folder(run.name, cell.name)
    write_json(
        own / "estimates.json", head | {"treatment": cell.treatment, "labels": 60, "rows": [], "scores": [score]}
    )


def test_a_cell_of_which_a_score_is_not_known_takes_it_from_no_other(tiny, home, monkeypatch):
    run = Run.of(tiny)
    monkeypatch.setattr(Run, "prompts", pd.DataFrame({"prompt": ["why"], "answer": ["so"]}))
    first, second, third = matrix.cells(tiny)
    written(run, first, coverage_standing=None, misranked_standing=0.25)
    written(run, second, coverage_standing=0.75, misranked_standing=0.25)
    written(run, third, coverage_standing=0.75, misranked=None, misranked_standing=None)
    table = ablation_summary.per_cell(run)
    np.testing.assert_array_equal(table.coverage_standing, [np.nan, 0.75, 0.75])
    assert list(table.dollars) == [0.0, 0.0, 0.0]
    said = ablation_summary.misranking_sentence(ablation_summary.joined(run, "scores"))
    assert re.findall(r"snips \(\d+%\)|direct", said) == ["snips (50%)", "snips (25%)", "direct"]


def test_labels_of_people_cost_what_params_say(home, monkeypatch):
    params = config.load(params_of(home, extra={"estimation": {"label_cost": 1.5}}))
    monkeypatch.setattr(Run, "prompts", pd.DataFrame({"prompt": ["why"], "answer": ["so"]}))
    written(Run.of(params), matrix.cells(params)[0])
    assert list(ablation_summary.per_cell(Run.of(params)).dollars) == [90.0]


def test_a_judge_mode_in_which_nothing_was_scored_has_nothing_to_show(home):
    run = Run(params_of(home, judges="all"))
    table = Run("sample").table()
    empty = {"judge_uncertainty": np.nan}
    none = replace(table, logged=table.logged.assign(**empty), fresh=table.fresh.assign(**empty))
    cell = next(cell for cell in matrix.cells(run.params) if cell.judge == "uncertainty")
    with pytest.raises(NothingToShow, match="uncertainty"):
        matrix.measure(run, cell, none)


def test_records_of_a_recording_make_its_stages_out_of_date():
    given = stages.given(config.load("sample"))
    assert given == [str(paths.prompts_file("sample")), str(paths.records_file("sample"))]
    assert stages.given(config.load("local")) == []


def test_ablations_of_a_given_table_are_not_left_out_in_silence(tiny):
    table = sections.TableParams(logged="logged.parquet")
    with pytest.raises(ParamsError, match=r"^ablations: "):
        stages.of(tiny.model_copy(update={"table": table}))


# A toy estimator is one registered function


def toy(prep):
    return Score((Term("logged", prep.logged.judge * 0 + 0.25, prep.logged.judge * 0 + 1),))


def test_page_and_summary_pick_up_a_registered_estimator(home, monkeypatch):
    file = params_of(home, estimators="all")
    cell = "deterministic.toy.isotonic.recorded"
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    monkeypatch.setitem(ESTIMATORS, "toy", Estimator("toy", toy, uses_weights=True))
    run_cells("08_ablation", file, cell=cell)
    run = Run(file)
    assert cell in {c.name for c in matrix.cells(run.params)}
    rows, per_cell = ablation_summary.joined(run, "rows"), ablation_summary.per_cell(run)
    assert set(rows.value) == {0.25}
    assert (rows.verdict == "REFUSE").any()
    (mine,) = per_cell.to_dict("records")
    assert (mine["estimator"], mine["labels"], mine["dollars"]) == ("toy", 60, 0.0)
    assert mine["seconds"] > 0
    assert "toy" in ablation_summary.refusal_sentence(ablation_summary.joined(run, "scores"))


# The pipeline


@pytest.fixture
def pipeline(home):
    """The commands of a run whose earlier stages are done."""
    file = params_of(home, estimators=["snips"])
    params = config.load(file)
    for name in ("01_prompts", "02_responses", "03_teacher_forcing", "04_judge", "05_data_quality"):
        for done in (stages.page_file(params.run, name), stages.stamp_file(params.run, name)):
            done.parent.mkdir(parents=True, exist_ok=True)
            done.write_text("{}")
    cells = [name for name, stage in stages.of(params).items() if stage.cell]
    targets = [str(stages.stamp_file(params.run, name)) for name in cells]
    command = runner.command(str(file), "", 2)

    return params, [*command[:3], *targets, *command[3:]], cells


def test_a_failing_cell_names_itself_and_only_it_runs_again(pipeline):
    params, command, cells = pipeline
    broken = cells[1]
    folder = stages.page_file(params.run, broken).parent
    folder.mkdir(parents=True)
    (folder / "sweep").write_text("a file in the place of a folder")
    failed = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert failed.returncode, failed.stderr
    done = {name: stages.stamp_file(params.run, name) for name in cells}
    assert [name for name, stamp in done.items() if not stamp.is_file()] == [broken]
    (told,) = failures.lines(params.run)
    assert told.startswith(f"{broken}: ")
    assert "sweep" in told
    assert stages.executed_file(params.run, broken).is_file()
    page = stages.page_file(params.run, cells[0]).read_text()
    assert 'href="../../index.html"' in page
    assert "Traceback" not in page
    times = {name: stamp.stat().st_mtime_ns for name, stamp in done.items() if name != broken}
    (folder / "sweep").unlink()
    subprocess.run(command, capture_output=True, timeout=300, check=True)
    assert failures.lines(params.run) == []
    assert {name: done[name].stat().st_mtime_ns for name in times} == times
    rows = json.loads((folder / "estimates.json").read_text())
    assert {row["policy"] for row in rows["rows"]} == set(params.targets)
    assert rows["treatment"] == "quarantined"
