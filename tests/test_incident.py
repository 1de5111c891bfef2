"""The reproduced incident: what is injected, what it does to the ranking, what the checks say, and that the clean run
stays as it is."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import yaml

from arena10k import paths
from arena10k.errors import ArenaError, ParamsError
from arena10k.incident import incident, words
from arena10k.params import config
from arena10k.pipeline import stages
from arena10k.run import Run
from statistics_data import two_stage_folds


@pytest.fixture(scope="module")
def run() -> Run:
    return Run("incident")


@pytest.fixture(scope="module")
def runs(run) -> list:
    """Both geometries, step by step, and a clean run that is the same before and after."""
    clean = incident.clean_run(run)
    files = clean.store.content_digest("logprobs", "responses"), paths.records_file("sample").read_bytes()
    played = [incident.play(run, geometry, replicates=50) for geometry in incident.GEOMETRIES]
    assert (clean.store.content_digest("logprobs", "responses"), paths.records_file("sample").read_bytes()) == files
    return played


@pytest.fixture(scope="module")
def failed(run) -> dict:
    table = incident.clean_run(run).table()
    found = {g: incident.failures(table, run.params.incident, g, run.params.seed) for g in incident.GEOMETRIES}
    return {"table": table} | found


def snips(log_weight, reward):
    w = np.exp(log_weight - log_weight.max())
    return float((w * reward).sum() / w.sum())


@pytest.mark.parametrize("geometry", incident.GEOMETRIES)
def test_the_original_rates_strike_short_answers(failed, geometry):
    table, rows = failed["table"], failed[geometry]
    n = len(table.logged)
    assert rows["p0"].sum() == round(140 / 1824 * n)
    shortest = np.sort(table.logged.response_chars)[: round(n / 3)]
    for target in table.targets:
        assert rows[target].sum() == round(0.08 * n)
        assert not (rows[target] & rows["p0"]).any()
        assert table.logged.response_chars[rows[target]].max() <= shortest[-1]
    same = [np.array_equal(rows[target], rows["pi_clone"]) for target in table.targets]
    assert all(same) if geometry == "shared" else same.count(True) == 1


def test_the_clean_run_is_the_first_step_and_nothing_is_written(run, runs, failed):
    assert runs[0][0].raw is None
    assert runs[0][0].table.logged.equals(failed["table"].logged)
    assert not paths.data_dir(run.name).exists()


@pytest.mark.parametrize("index", [0, 1], ids=incident.GEOMETRIES)
def test_numbers_of_every_step_are_those_of_a_naive_computation(runs, failed, index):
    table, rows = failed["table"], failed[incident.GEOMETRIES[index]]
    judge = table.logged[f"judge_{runs[index][0].inv.judge_mode}"].to_numpy(float)
    judged = ~np.isnan(judge)
    for target in table.targets:
        halves = table.logged[f"logp_{target}"].to_numpy(float), table.logged.logp_p0.to_numpy(float)
        clean = halves[0] - halves[1]
        stored = {v: np.where(rows[target], v, halves[0]) - np.where(rows["p0"], v, halves[1]) for v in (0.0, -50.0)}
        keep = judged & ~rows[target] & ~rows["p0"]
        expected = [
            snips(clean[judged], judge[judged]),
            snips(stored[0.0][judged], judge[judged]),
            snips(stored[-50.0][judged], judge[judged]),
            snips(np.clip(stored[-50.0][judged], -20, 20), judge[judged]),
            snips(clean[keep], judge[keep]),
        ]
        assert [o.inv.findings[target].published.value for o in runs[index]] == pytest.approx(expected, abs=1e-12)


def test_clipping_makes_all_targets_the_mean_of_the_rows_at_the_ceiling(runs, failed):
    table = failed["table"]
    for outcomes in runs:
        clipped = outcomes[3]
        judge = table.logged[f"judge_{clipped.inv.judge_mode}"].to_numpy(float)
        held = judge[failed[clipped.geometry]["p0"] & ~np.isnan(judge)]
        for target in table.targets:
            found, gate = clipped.inv.findings[target], clipped.gates[target]
            assert found.published.value == pytest.approx(held.mean(), abs=1e-6)
            assert gate["tied"] == len(held)
            assert gate["ess"] == pytest.approx(len(held), abs=1e-4)
            assert (gate["clip_dominated"], gate["verdict"]) == (True, "REFUSE")
            assert clipped.inv.findings[target].rank == clipped.inv.findings["pi_clone"].rank


def test_the_cause_is_named_and_the_weights_are_refused_while_injected_rows_carry_them(runs):
    for outcomes in runs:
        clean, *during, fixed = outcomes
        for o in (clean, fixed):
            assert (o.inv.focus.policy, o.inv.focus.main_cause) == ("pi_bad", "off_support")
            assert o.inv.focus.parts[0] == 0
        for o in during:
            heavy = [f for f in o.inv.findings.values() if f.corrupted_share > 0.5]
            assert "pi_bad" in {f.policy for f in heavy}
            assert all(o.gates[f.policy]["verdict"] == "REFUSE" for f in heavy)
            assert all(f.main_cause == "corrupted_logprobs" for f in heavy if f.anomaly)
            assert o.inv.findings["pi_bad"].anomaly
        for o in outcomes:
            known = [f for f in o.inv.findings.values() if f.trusted is not None]
            assert max(abs(f.parts.sum() - f.gap) for f in known) < 1e-12


def test_record_checks_refuse_what_cannot_be_and_say_what_they_let_pass(run, runs):
    assert incident.rejected(-50.0) == "below_floor"
    assert incident.rejected(0.0) is None
    rows = incident.frame([o for outcomes in runs for o in outcomes])
    targets = rows[rows.injected > 0]
    assert (targets[targets.step == "stored 0.0"].caught == 0).all()
    assert (targets[targets.step != "stored 0.0"].caught == targets[targets.step != "stored 0.0"].injected).all()
    assert set(targets.step) == {"stored 0.0", "stored -50.0", "clipped at ±20"}
    assert "accept a single 0.0" in words.checks_sentence(run.params.incident)


def test_what_is_told_is_computed_and_marked_as_made_up(run, runs):
    result = words.incident_json("incident", "sample", runs, run.params.incident)
    json.dumps(result, allow_nan=False)
    assert {row["geometry"] for row in result["rows"]} == set(incident.GEOMETRIES)
    assert len(result["rows"]) == 2 * 5 * len(runs[0][0].inv.findings)
    text = result["paragraph"]
    assert re.search(r"\b9 of 120 .* p0 and 10 ", text)
    assert "(clipped at ±20" in text
    assert "pi_bad, pi_cot, pi_clone, p0, pi_more_shots" in text
    assert "pi_bad, p0 = pi_clone, pi_cot, pi_more_shots, pi_terse" in text
    clean = [runs[0][0]]
    unchanged = " ".join(words.lead([[*clean, *runs[0][1:4], *clean]], run.params.incident))
    assert "pi_bad, p0 = pi_clone" not in unchanged, "a ranking that is the clean one is not told twice"
    assert re.findall(r"\b9\b", words.step_sentence(runs[0][3])) == ["9", "9", "9"]
    first = max(runs[0][2].inv.findings.values(), key=lambda f: f.published.value)
    assert f"{first.policy} (stored -50.0: {first.published.value:.3f})" in text
    for o in (o for outcomes in runs for o in outcomes):
        leading = words._first_target(o)
        assert (words.percent(leading.corrupted_share) in words.step_sentence(o)) == bool(leading.corrupted)
    assert words.ranking_frame(runs[0]).shape == (6, 6)
    assert list(words.gates_frame(runs[1]).step) == [o.name for o in runs[1]]


def test_policies_whose_numbers_print_alike_share_a_place(runs):
    for o in (o for outcomes in runs for o in outcomes):
        places = {p: (f"{f.published.value:.3f}", f.rank) for p, f in o.inv.findings.items()}
        assert len(set(places.values())) == len({printed for printed, _ in places.values()})
        for printed, place in places.values():
            assert place == 1 + sum(float(other) > float(printed) for other, _ in places.values())


def test_calibration_and_folds_of_the_params_are_those_of_every_step(run, monkeypatch):
    seen = two_stage_folds(monkeypatch)
    wanted = run.params.estimation.model_copy(update={"calibration": "two_stage", "folds": 3})
    incident.play(Run.of(run.params.model_copy(update={"estimation": wanted})), "shared", 5)
    assert set(seen) == {3}


def test_params_that_cannot_be_are_refused_in_one_line(tmp_path):
    def params(**changed):
        content = {"extends": "sample.yaml", "run": "x", "incident": changed}
        (tmp_path / "sample.yaml").write_text(paths.params_file("sample").read_text())
        (tmp_path / "x.yaml").write_text(yaml.safe_dump(content))
        return tmp_path / "x.yaml"

    with pytest.raises(ParamsError, match=r"x.yaml: incident: short_share 0.1 cannot hold"):
        config.load(params(short_share=0.1))
    with pytest.raises(ParamsError, match=r"x.yaml: incident.clip"):
        config.load(params(clip=-1.0))
    with pytest.raises(ParamsError, match="stand_ins: "):
        config.load(params(stand_ins=[]))
    with pytest.raises(ArenaError, match="is an incident itself"):
        incident.clean_run(Run(params(clean="incident")))
    with pytest.raises(ArenaError, match="no `incident`"):
        incident.clean_run(Run("sample"))
    table = Run("sample").table()
    few = replace(table, logged=table.logged.head(4))
    with pytest.raises(ArenaError, match="too few to let"):
        incident.failures(few, config.load(params()).incident, "shared")


def test_the_params_file_selects_its_own_stage_and_reads_the_clean_run():
    params = config.load("incident")
    assert list(stages.of(params)) == ["11_incident"]
    assert "11_incident" not in stages.of(config.load("local"))
    assert stages.measured(params).run == "sample"
