"""The reproduced incident: what is injected, what it does to the ranking, what the checks say, and that the clean run
stays as it is."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import yaml

from arena10k import incident, paths
from arena10k.errors import ArenaError, ParamsError
from arena10k.params import config
from arena10k.pipeline import stages
from arena10k.report.files import plain
from arena10k.run import Run
from arena10k.wording import percent
from statistics_data import two_stage_folds


@pytest.fixture(scope="module")
def run():
    return Run("incident")


@pytest.fixture(scope="module")
def runs(run):
    """Both geometries, step by step, and a clean run that is the same before and after."""
    clean = incident.clean_run(run)
    files = clean.store.content_digest("logprobs", "responses"), paths.records_file("sample").read_bytes()
    played = [incident.play(run, geometry, replicates=20) for geometry in incident.GEOMETRIES]
    assert (clean.store.content_digest("logprobs", "responses"), paths.records_file("sample").read_bytes()) == files
    assert not paths.data_dir(run.name).exists()
    return played


@pytest.fixture(scope="module")
def outcomes(runs):
    return [outcome for steps in runs for outcome in steps]


@pytest.fixture(scope="module")
def failed(run):
    table = incident.clean_run(run).table()
    masks = {g: incident.failures(table, run.params.incident, g, run.params.seed) for g in incident.GEOMETRIES}
    return {"table": table} | masks


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


@pytest.mark.parametrize("index", [0, 1], ids=incident.GEOMETRIES)
def test_numbers_of_every_step_are_those_of_a_naive_computation(runs, failed, index):
    """Clipping makes all targets the mean of the rows at the ceiling."""
    table, rows, steps = failed["table"], failed[incident.GEOMETRIES[index]], runs[index]
    assert steps[0].raw is None
    assert steps[0].table.logged.equals(table.logged)
    judge = table.logged[f"judge_{steps[0].inv.judge}"].to_numpy(float)
    judged, clipped = ~np.isnan(judge), steps[3]
    held = judge[rows["p0"] & judged]
    for target in table.targets:
        halves = table.logged[f"logp_{target}"].to_numpy(float), table.logged.logp_p0.to_numpy(float)
        clean = halves[0] - halves[1]
        stored = {v: np.where(rows[target], v, halves[0]) - np.where(rows["p0"], v, halves[1]) for v in (0.0, -50.0)}
        keep = judged & ~rows[target] & ~rows["p0"]
        expected = [snips(lw[judged], judge[judged]) for lw in (clean, *stored.values(), np.clip(stored[-50], -20, 20))]
        expected.append(snips(clean[keep], judge[keep]))
        assert [o.inv.policies[target].published.value for o in steps] == pytest.approx(expected, abs=1e-12)
        found, gate = clipped.inv.policies[target], clipped.gates[target]
        assert found.published.value == pytest.approx(held.mean(), abs=1e-6)
        assert found.rank == clipped.inv.policies["pi_clone"].rank
        assert (gate["tied"], gate["ess"]) == (len(held), pytest.approx(len(held), abs=1e-4))
        assert (gate["clip_dominated"], gate["verdict"]) == (True, "REFUSE")


def test_the_cause_is_named_and_the_weights_are_refused_while_injected_rows_carry_them(runs, outcomes):
    for clean, *during, fixed in runs:
        for o in (clean, fixed):
            assert (o.inv.focus.policy, o.inv.focus.main_cause) == ("pi_bad", "off_support")
            assert o.inv.focus.parts[0] == 0
        for o in during:
            heavy = [f for f in o.inv.policies.values() if f.corrupted_share > 0.5]
            assert "pi_bad" in {f.policy for f in heavy}
            assert all(o.gates[f.policy]["verdict"] == "REFUSE" for f in heavy)
            assert all(f.main_cause == "corrupted_logprobs" for f in heavy if f.anomaly)
            assert o.inv.policies["pi_bad"].anomaly
    for o in outcomes:
        assert max(abs(f.parts.sum() - f.gap) for f in o.inv.policies.values() if f.trusted is not None) < 1e-12
        # Policies whose numbers print alike share a place.
        places = {p: (float(f"{f.published.value:.3f}"), f.rank) for p, f in o.inv.policies.items()}
        for printed, place in places.values():
            assert place == 1 + sum(other > printed for other, _ in places.values())


def test_record_checks_refuse_what_cannot_be_and_say_what_they_let_pass(run, outcomes):
    assert (incident.rejected(-50.0), incident.rejected(0.0)) == ("below_floor", None)
    rows = incident.frame(outcomes)
    targets = rows[rows.injected > 0]
    assert (targets.caught == targets.injected.where(targets.step != "stored 0.0", 0)).all()
    assert set(targets.step) == {"stored 0.0", "stored -50.0", "clipped at ±20"}
    assert "accept a single 0.0" in incident.checks_sentence(run.params.incident)


def test_what_is_told_is_computed_and_marked_as_made_up(run, runs, outcomes):
    result = plain(incident.incident_json(run, runs))
    json.dumps(result, allow_nan=False)
    assert {row["geometry"] for row in result["rows"]} == set(incident.GEOMETRIES)
    assert len(result["rows"]) == 2 * 5 * len(runs[0][0].inv.policies)
    text = result["paragraph"]
    assert text.startswith("Every injected value")
    assert re.search(r"\b9 of 120 .* p0 and 10 ", text)
    assert "(clipped at ±20" in text
    assert runs[0][4].ranking == "pi_bad, pi_cot, pi_clone, p0, pi_more_shots, pi_terse"
    assert runs[0][0].ranking in text
    unchanged = " ".join(incident.lead([[*runs[0][:4], runs[0][0]]], run.params.incident))
    assert runs[0][0].ranking not in unchanged, "a ranking that is the clean one is not told twice"
    assert re.findall(r"\b9\b", incident.step_sentence(runs[0][3])) == ["9", "9", "9"]
    for o in outcomes:
        leading = o.targets[0]
        assert (percent(leading.corrupted_share) in incident.step_sentence(o)) == bool(leading.corrupted)
    assert incident.ranking_frame(runs[0]).shape == (6, 6)
    gates = incident.gates_frame(runs[1])
    assert list(gates.step) == [o.name for o in runs[1]]
    assert list(gates.caught.isna()) == list(gates.share.isna()) == [True, False, False, False, True]


def test_calibration_and_folds_of_the_params_are_those_of_every_step(run, monkeypatch):
    seen = two_stage_folds(monkeypatch)
    wanted = run.params.estimation.model_copy(update={"calibration": "two_stage", "folds": 3})
    incident.play(Run(run.params.model_copy(update={"estimation": wanted})), "shared", 2)
    assert set(seen) == {3}


def test_params_that_cannot_be_are_refused_in_one_line(tmp_path):
    def params(**changed):
        content = {"extends": "sample.yaml", "run": "x", "incident": changed}
        (tmp_path / "sample.yaml").write_text(paths.params_file("sample").read_text())
        (tmp_path / "x.yaml").write_text(yaml.safe_dump(content))
        return tmp_path / "x.yaml"

    wrong = {
        "short_share 0.1 cannot hold": {"short_share": 0.1},
        "clip": {"clip": -1.0},
        "stand_ins: ": {"stand_ins": []},
    }
    for message, changed in wrong.items():
        with pytest.raises(ParamsError, match=rf"x.yaml: incident.*{message}"):
            config.load(params(**changed))
    with pytest.raises(ArenaError, match="is an incident itself"):
        incident.clean_run(Run(params(clean="incident")))
    with pytest.raises(ArenaError, match="no `incident`"):
        incident.clean_run(Run("sample"))
    table = Run("sample").table()
    with pytest.raises(ArenaError, match="too few to let"):
        incident.failures(replace(table, logged=table.logged.head(4)), config.load(params()).incident, "shared")


def test_the_params_file_selects_its_own_stage_and_reads_the_clean_run():
    params = config.load("incident")
    assert list(stages.of(params)) == ["11_incident"]
    assert "11_incident" not in stages.of(config.load("local"))
    assert stages.measured(params).run == "sample"
