"""The ablation matrix as a pipeline: cells, their pages, what re-runs, and the summary of all of them."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml

from arena10k import paths
from arena10k.ablations import matrix, summary
from arena10k.ablations.scores import Truth
from arena10k.ablations.sweep import Settings
from arena10k.errors import ArenaError, NothingToShow, ParamsError
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


@pytest.fixture(scope="module")
def sample():
    run = Run("sample")
    return run, run.table()


def test_a_matrix_leaves_out_what_cannot_change_an_estimate_and_more_cells_leave_the_others_up_to_date(home, tiny):
    every = matrix.cells(tiny)
    assert [cell.name for cell in every] == [
        "deterministic.snips.isotonic.recorded",
        "deterministic.snips.isotonic.quarantined",
        "deterministic.direct.isotonic.recorded",
    ]
    shipped = matrix.cells(config.load("ablations"))
    assert len({cell.name for cell in shipped}) == len(shipped) > 30
    assert matrix.cells(config.load("sample")) == []
    before, after = (
        stages.reads(tiny),
        stages.reads(config.load(params_of(home, estimators=["snips", "direct", "ppi_pp"]))),
    )
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"08_ablation@deterministic.ppi_pp.isotonic.recorded", "09_ablation_summary"}
    assert [matrix.cell_named(tiny, name) for name in ("", every[1].name)] == every[:2]
    with pytest.raises(ParamsError, match=r"no ablation cell 'naive': deterministic\.snips"):
        matrix.cell_named(tiny, "naive")
    with pytest.raises(ParamsError, match="no `ablations`"):
        matrix.cell_named(config.load("sample"), "")
    table = sections.TableParams(logged="logged.parquet")
    with pytest.raises(ParamsError, match=r"^ablations: "):
        stages.of(tiny.model_copy(update={"table": table}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimators": ["snip"]}, "ablations.estimators: no estimator 'snip': naive"),
        ({"treatments": ["clipped"]}, "ablations.treatments: no treatment 'clipped': recorded"),
        ({"calibrations": ["spline"]}, "ablations.calibrations: no calibration 'spline': none, isotonic"),
        ({"judges": ["fuzzy"]}, "ablations.judges: no judge 'fuzzy': deterministic"),
        ({"sweep": {"tokens": [5]}}, "ablations.sweep: no factor 'tokens': prompts, labels"),
        ({"worst": ["pi_evil"]}, "ablations.worst: 'pi_evil' is not among the targets"),
        ({"sweep": {"labels": [5]}}, "sweep.labels: 5 is not a share"),
        ({"seed": 3}, "ablations.seed: unknown key"),
    ],
)
def test_names_and_params_that_do_not_fit_are_said(home, changes, message):
    with pytest.raises(ParamsError, match=message):
        stages.of(config.load(params_of(home, **changes)))


# The truth


def test_where_nothing_labels_all_draws_half_of_the_labels_is_held_out(sample):
    table = sample[1]
    unknown = replace(table, truth=table.truth[:0])
    seen, truth = matrix.held_out(unknown, ["pi_bad"])
    assert [(t.policy, t.worst) for t in truth] == [(t, t == "pi_bad") for t in table.targets]
    for t in truth:
        own = (table.fresh.policy == t.policy).to_numpy()
        hidden = (table.fresh.label.notna() & seen.fresh.label.isna()).to_numpy() & own
        left = (seen.fresh.label.notna()).to_numpy() & own
        assert set(table.fresh.prompt_id[hidden]).isdisjoint(table.fresh.prompt_id[left])
        if t.value is not None:
            by_prompt = table.fresh[hidden].groupby("prompt_id").label.mean().astype(float)
            assert t.value == pytest.approx(by_prompt.mean())
            assert t.se == pytest.approx(by_prompt.std(ddof=1) / np.sqrt(len(by_prompt)))
            assert t.source.startswith(f"{len(by_prompt)} ")
    assert any(t.value is not None for t in truth)
    bare = replace(unknown, fresh=table.fresh.assign(label=np.nan))
    assert [(t.value, t.worst) for t in matrix.held_out(bare, ["pi_bad"])[1]] == [(None, t.worst) for t in truth]
    whole, labelled = matrix.held_out(table)
    assert whole.fresh.label.equals(table.fresh.label)
    assert {t.policy: t.value for t in labelled} == dict(
        table.truth.set_index("policy").value.reindex(table.targets).items()
    )


def truths(**values):
    return [Truth(policy, value, 0.01, "t") for policy, value in values.items()]


def estimate(policy, value, verdict="REPORT", interval=True, estimator="snips"):
    ends = (value - 0.1, value + 0.1) if interval else (None, None)
    row = {"policy": policy, "estimator": estimator, "judge": "j", "value": value, "verdict": verdict, "se": 0.1}
    return row | {"ci_low": ends[0], "ci_high": ends[1], "reasons": [], "n_used": 9}


def test_accuracy_counts_intervals_that_are_there_and_orders_beyond_chance():
    rows = [estimate("a", 0.75), estimate("b", 0.9, "REFUSE", interval=False), estimate("c", 0.95, "REFUSE")]
    rows += [estimate(p, v, estimator="direct") for p, v in (("a", 0.8), ("b", 0.65), ("c", 0.1))]
    table = summary.accuracy(rows, truths(a=0.8, b=0.6, c=0.59))
    assert list(table.rmse) == sorted(table.rmse)
    snips = table.set_index("estimator").loc["snips"]
    assert (snips.coverage, snips.refused) == (0.5, pytest.approx(2 / 3))
    assert snips.pairwise == 0.0  # b and c are not apart beyond chance
    assert (snips.misranked, snips.misranked_accepted) == (1.0, 0.0)
    assert "snips" in summary.accuracy_sentence(table).split(";")[1]
    assert "not known" in summary.accuracy_sentence(summary.accuracy(rows, []))
    close = summary.accuracy(rows[:2], truths(a=0.8, b=0.79))
    assert close.misranked.isna().all()
    assert "snips" not in summary.accuracy_sentence(close).split(";")[1]


def test_labels_are_counted_where_estimates_rest_on_them(sample):
    run, table = sample
    arrays = {p: modes["deterministic"] for p, modes in run.arrays(table).items() if p != "p0"}
    logged = max(np.isfinite(d.logged.label).sum() for d in arrays.values())
    own = sum(np.isfinite(d.fresh.label).sum() for d in arrays.values())
    wanted = {
        ("naive", "isotonic"): 0,
        ("direct", "isotonic"): logged + own,  # they bound how far f is off on the policy
        ("direct", "none"): 0,
        ("dr_oracle", "none"): logged,
        ("ppi_pp", "none"): own,
    }
    found = {}
    for estimator, calibration in wanted:
        cell = matrix.Cell("deterministic", estimator, calibration, "recorded")
        rows, _ = matrix.complete(arrays, cell, Settings(), plan=False)
        found[estimator, calibration] = matrix.labels_used(arrays, cell, Settings(), rows)
    assert found == wanted


# Joining cells


def written(run, cell, **scores):
    score = {"prompts": None, "labels": None, "estimator": cell.estimator, "calibration": cell.calibration, "cells": 2}
    names = ("rmse", "bias", "coverage", "interval_score", "refused", "pairwise", "kendall", "misranked")
    score |= dict.fromkeys((*names, "misranked_accepted", "rmse_accepted", "coverage_accepted"), 0.5) | scores
    content = {"cell": cell.name, "judge": cell.judge, "estimator": cell.estimator, "calibration": cell.calibration}
    content |= {"treatment": cell.treatment, "labels": 60, "rows": [], "scores": [score]}
    write_json(matrix.folder(run.name, cell.name) / "estimates.json", content)


def test_a_cell_of_which_a_score_is_not_known_takes_it_from_no_other_and_labels_cost_what_params_say(home, monkeypatch):
    run = Run(params_of(home, extra={"estimation": {"label_cost": 1.5}}))
    monkeypatch.setattr(Run, "prompts", pd.DataFrame({"prompt": ["why"], "answer": ["so"]}))
    first, second, third = matrix.cells(run.params)
    written(run, first, coverage_accepted=None, misranked_accepted=0.25)
    written(run, second, coverage_accepted=0.75, misranked_accepted=0.25)
    written(run, third, coverage_accepted=0.75, misranked=None, misranked_accepted=None)
    table = summary.per_cell(run)
    np.testing.assert_array_equal(table.coverage_accepted, [np.nan, 0.75, 0.75])
    assert list(table.dollars) == [90.0] * 3
    text = summary.misranking_sentence(summary.joined(run, "scores"))
    assert re.findall(r"snips \(\d+%\)|direct", text) == ["snips (50%)", "snips (25%)", "direct"]


def test_a_judge_mode_in_which_nothing_was_scored_has_nothing_to_show(home, sample):
    run, table = Run(params_of(home, judges="all")), sample[1]
    empty = {"judge_uncertainty": np.nan}
    none = replace(table, logged=table.logged.assign(**empty), fresh=table.fresh.assign(**empty))
    cell = next(cell for cell in matrix.cells(run.params) if cell.judge == "uncertainty")
    with pytest.raises(NothingToShow, match="uncertainty"):
        matrix.measure(run, cell, none)


def toy(prep):
    return Score((Term("logged", prep.logged.judge * 0 + 0.25, prep.logged.judge * 0 + 1),))


def test_page_and_summary_pick_up_a_registered_estimator(home, monkeypatch, capsys):
    file = params_of(home, estimators="all")
    cell = "deterministic.toy.isotonic.recorded"
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    monkeypatch.setitem(ESTIMATORS, "toy", Estimator("toy", toy, uses_weights=True))
    run_cells("08_ablation", file, cell=cell)
    run = Run(file)
    assert cell in {c.name for c in matrix.cells(run.params)}
    rows = summary.joined(run, "rows")
    assert set(rows.value) == {0.25}
    assert set(rows.policy) == set(run.params.targets)
    assert (rows.verdict == "REFUSE").any()
    (row,) = summary.per_cell(run).to_dict("records")
    assert (row["estimator"], row["labels"], row["dollars"]) == ("toy", 60, 0.0)
    assert row["seconds"] > 0
    capsys.readouterr()
    run_cells("09_ablation_summary", file)
    page = capsys.readouterr().out
    assert re.search(r"Refused: toy \d+%", page)
    assert "1 combinations" in page


# The pipeline


def test_a_failing_cell_names_itself_and_only_what_failed_runs_again(home):
    params_file = params_of(home, estimators=["snips"])
    params = config.load(params_file)
    cell, broken = (name for name, stage in stages.of(params).items() if stage.cell)
    for name in ("01_prompts", "02_responses", "03_teacher_forcing", "04_judge", "05_data_quality", cell):
        for done in (stages.page_file(params.run, name), stages.stamp_file(params.run, name)):
            done.parent.mkdir(parents=True, exist_ok=True)
            done.write_text("{}")
    folder = stages.page_file(params.run, broken).parent
    folder.mkdir(parents=True)
    (folder / "sweep").write_text("a file in the place of a folder")
    with pytest.raises(ArenaError, match="sweep"):
        stages.execute(broken, str(params_file), None)
    (line,) = failures.lines(params.run)
    assert line.startswith(f"{broken}: ")
    assert not stages.stamp_file(params.run, broken).is_file()
    assert 'href="../../index.html"' in stages.page_file(params.run, broken).read_text()
    command = runner.command(str(params_file), "", 2)
    stamps = [str(stages.stamp_file(params.run, name)) for name in (cell, broken)]
    command = [*command[:3], *stamps, *command[3:], "--dry-run", "--quiet", "host"]
    plan = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^rule (\w+):", plan, re.MULTILINE) == [f"stage_{re.sub(r'[^0-9a-z]', '_', broken)}"]
