"""Imports: what others have becomes an ordinary run, with every number as it came."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from arena10k import interchange, paths
from arena10k.audit import checks, quality, status
from arena10k.cli import main
from arena10k.collection import generate, labels, teacher_forcing
from arena10k.collection.jobs import DETERMINISTIC, LOGPROBS, ORACLE, RESPONSES, UNCERTAINTY
from arena10k.errors import ArenaError, NothingToShow, ParamsError
from arena10k.inputs import prompts
from arena10k.params import config
from arena10k.pipeline import failures, stages
from arena10k.run import Run
from in_process import run_cells

POLICIES = ("clone", "parallel_universe_prompt", "unhelpful")
PARAMS = paths.source_root() / "params" / "imported.yaml"


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def logged(number, **changed):
    row = {
        "prompt": f"Question {number}?",
        "response": f"Answer {number}.",
        "base_policy_logprob": -10.0 - number,
        "target_policy_logprobs": {"terse": -11.5 - number},
        "metadata": {"prompt_id": f"q{number}"},
        "judge_score": 0.5,
    }
    return {key: value for key, value in (row | changed).items() if value is not ...}


def fresh(number, **changed):
    row = {"prompt_id": f"q{number}", "prompt": f"Question {number}?", "response": f"Fresh {number}.", "draw_idx": 0}
    return {key: value for key, value in (row | {"judge_score": 0.25} | changed).items() if value is not ...}


@pytest.fixture
def bring(home):
    """Write a folder in CJE's layout, import it, and open the run."""

    def make(files, run="mine", **options):
        folder = home / "theirs"
        for name, rows in files.items():
            lines(folder / name, rows)
        account = interchange.import_cje(folder, run, **options)
        return Run(PARAMS, run), account

    return make


def by_key(run, job):
    return {(r["policy"], r["prompt_id"], r["draw"]): r for r in run.store.rows(job)}


@pytest.fixture(scope="module")
def public(shared_data, tmp_path_factory):
    """The public sample, imported as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARENA10K_HOME", str(tmp_path_factory.mktemp("home")))
        account = interchange.import_cje(shared_data / "arena_sample", "arena_sample")
        run = Run(PARAMS, "arena_sample")
        yield run, account
        run.store.close()


def test_the_public_sample_gives_the_reference_numbers(public, shared_data):
    """Raw SNIPS on calibrated rewards, mean weight and ESS against plain-numpy constants."""
    reference = json.loads((shared_data / "reference_numbers.json").read_text())["numpy_reference"]["policies"]
    run, _ = public
    rows = {(r["policy"], r["estimator"]): r for r in run.estimates(run.table())["rows"]}
    for name in POLICIES:
        row, ref = rows[name, "snips"], reference[name]
        assert row["judge"] == "deterministic"
        assert row["value"] == pytest.approx(ref["snips_iso"], abs=1e-9)
        assert row["mean_weight"] == pytest.approx(ref["mean_raw_w"], rel=1e-9)
        assert row["ess"] == pytest.approx(ref["ess"], rel=1e-9)


def test_the_control_of_the_layout_shows_the_noise_floor_of_the_log_probs(public, shared_data):
    run, account = public
    rows = [json.loads(s) for s in (shared_data / "arena_sample" / "logged_data.jsonl").open()]
    size = np.abs([r["target_policy_logprobs"]["clone"] - r["base_policy_logprob"] for r in rows])
    floor = run.study(run.table()).contexts["clone", "deterministic"].noise_floor
    assert (floor.n, floor.exact) == (1000, False)
    assert (floor.median_abs, floor.max_abs) == (np.median(size), size.max())
    assert checks.clones(run.params) == ["clone"]
    assert any(line.endswith(": clone") for line in interchange.lines(account))
    responses = sum(account["records"]["responses"][name]["ok"] for name in account["records"]["responses"])
    taken = sum(file["taken"] for file in account["files"])
    assert taken > responses
    assert any({f"{taken - responses:,}", f"{taken:,}"} <= set(line.split()) for line in interchange.lines(account))


def test_who_is_a_clone_is_the_users_to_say(public, tmp_path):
    def declared(names):
        params_file = tmp_path / "mine.yaml"
        params_file.write_text(f"run: arena_sample\nimported: {{clones: {names}}}\n")
        return checks.clones(Run(params_file).params)

    assert declared([]) == []
    assert declared(["unhelpful"]) == ["unhelpful"]
    with pytest.raises(ParamsError, match=r"imported\.clones: 'nobody' is not among the targets: clone, "):
        declared(["nobody"])


def test_the_public_sample_is_taken_whole_and_exactly(public, shared_data):
    run, account = public
    assert account["malformed_count"] == 0
    assert all(file["taken"] == file["rows"] for file in account["files"])
    assert account["not_there"] == ["probe_slice/unhelpful_probe.jsonl"]
    source = [json.loads(line) for line in (shared_data / "arena_sample" / "logged_data.jsonl").open()]
    scored, judged, labelled = by_key(run, LOGPROBS), by_key(run, DETERMINISTIC), by_key(run, ORACLE)
    answers = by_key(run, RESPONSES)
    for row in source:
        key = (row["metadata"]["prompt_id"], 0)
        assert scored["base", *key]["value"] == row["base_policy_logprob"]
        assert {n: scored[n, *key]["value"] for n in POLICIES} == row["target_policy_logprobs"]
        assert judged["base", *key]["value"] == row["judge_score"]
        assert answers["base", *key]["value"] == row["response"]
        assert (labelled[("base", *key)]["value"] if ("base", *key) in labelled else None) == row.get("oracle_label")
    for name in ("clone", "parallel_universe_prompt"):
        probes = [json.loads(s) for s in (shared_data / f"arena_sample/probe_slice/{name}_probe.jsonl").open()]
        own = {p: r["value"] for (policy, p, _), r in labelled.items() if policy == name}
        assert own == {row["prompt_id"]: row["oracle_label"] for row in probes}
    assert {p: sum(k[0] == p for k in answers) for p in run.params.policies} == dict.fromkeys(run.params.policies, 1000)


def test_nothing_is_ever_asked_for_an_imported_run(public):
    run, _ = public
    assert list(generate.tasks(run.params, run.prompts)) == []
    assert list(teacher_forcing.tasks(run.params, run.store)) == []
    assert list(teacher_forcing.control_tasks(run.params, run.store)) == []
    assert labels.label(run.params, run.store, run.prompts) == 0


def test_a_run_is_complete_when_its_source_is(public):
    run, _ = public
    assert all(j["ok"] == j["total"] for j in quality.jobs(run.params, run.store, len(run.prompts)))
    frame, counts = prompts.load(run.params)
    assert counts["kept"] == len(frame) == 1000
    prompts.write(run.params, frame)


def test_prompts_that_were_never_logged_are_no_rows(bring):
    run, _ = bring(
        {
            "logged_data.jsonl": [logged(n) for n in range(12)],
            "fresh_draws/terse_responses.jsonl": map(fresh, range(36)),
        }
    )
    assert run.coverage().startswith("12/36 ")
    assert "(33%)" in run.coverage()


def test_no_definition_is_known_and_that_is_said(public):
    run, _ = public
    found = quality.drift(run.params, run.store)
    assert {entry["policy"] for entry in found} == {"base", *POLICIES}
    assert "base, clone, parallel_universe_prompt, unhelpful" in quality.drift_sentence(found)
    shown = generate.definitions(run.policies)
    assert shown[["model", "example turns", "fingerprint"]].isna().all(axis=None)


def judged(number, **changed):
    return logged(number, judge_score=round(0.05 * (number % 20), 2), **changed)


def spoilt(number):
    """Rows as they are met: log-probs missing, sentinels, not numbers, scores out of range."""
    changed = {0: {"base_policy_logprob": -50.0}, 1: {"target_policy_logprobs": {"terse": None}}}
    changed |= {2: {"target_policy_logprobs": {"terse": "NaN"}}, 3: {"judge_score": 7}}
    return judged(number) | changed.get(number % 9, {})


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_stage_runs_on_an_imported_run(bring, home, capsys):
    draws = [fresh(n, judge_score=n / 40) for n in range(40)]
    bring({
        "logged_data.jsonl": [spoilt(n) | {"oracle_label": float(n % 2)} for n in range(40)],
        "fresh_draws/terse_responses.jsonl": draws,
        "probe_slice/terse_probe.jsonl": [row | {"oracle_label": 0.5} for row in draws[:20]],
    })  # fmt: skip
    (home / "own.yaml").write_text(yaml.safe_dump({"run": "mine", "imported": None, "estimation": {"replicates": 2}}))
    for stage in stages.STAGES:
        run_cells(stage, home / "own.yaml")
    shown = capsys.readouterr().out
    assert "mine: imported " in shown
    assert " nan " not in shown
    assert {"quality.json", "estimates.json", "anomaly.json"} <= {p.name for p in paths.reports_dir("mine").iterdir()}


def test_stages_without_log_probs_run_or_say_in_a_line_why_not(bring):
    base = [fresh(n, oracle_label=n % 2, judge_score=n / 40) for n in range(40)]
    run, _ = bring({"fresh_draws/base_responses.jsonl": base, "fresh_draws/terse_responses.jsonl": base})
    for stage in ("03_teacher_forcing", "05_data_quality", "06_estimates"):
        run_cells(stage, PARAMS, "mine")
    with pytest.raises(NothingToShow, match="base"):
        run.investigate(run.table())
    paths.result_file("mine", "anomaly.json").write_text("{}")
    stages.execute("07_pi_bad_anomaly", str(PARAMS), "mine")
    page = stages.page_file("mine", "07_pi_bad_anomaly").read_text()
    assert "Traceback" not in page
    assert "<img" not in page
    assert not paths.result_file("mine", "anomaly.json").exists(), "what an earlier state said does not stay"
    assert json.loads(stages.stamp_file("mine", "07_pi_bad_anomaly").read_text())["anomaly.json"] is None
    assert failures.lines("mine") == []


# What may be absent


def test_logged_data_alone_are_a_run(bring):
    run, account = bring({"logged_data.jsonl": [logged(n) for n in range(3)]})
    assert list(run.params.policies) == ["base", "terse"]
    assert run.params.logging_policy == "base"
    assert run.table().log_weights()["terse"].tolist() == [-1.5, -1.5, -1.5]
    assert "fresh_draws/terse_responses.jsonl" in account["not_there"]


def test_fresh_draws_alone_are_a_run(bring):
    run, _ = bring({"fresh_draws/a_responses.jsonl": [fresh(0)], "fresh_draws/b_responses.jsonl": [fresh(0)]})
    assert run.params.targets == ["a", "b"]
    table = run.table()
    assert len(table.logged) == 0
    assert table.fresh.response.tolist() == ["Fresh 0.", "Fresh 0."]


def test_a_missing_log_prob_is_an_error_record_only_where_the_policy_occurs(bring):
    rows = [logged(0), logged(1, target_policy_logprobs={"terse": None}), logged(2, target_policy_logprobs=...)]
    rows += [logged(3, target_policy_logprobs={"late": -3.0}), logged(4, base_policy_logprob=...)]
    run, account = bring({"logged_data.jsonl": rows, "fresh_draws/judged_responses.jsonl": [fresh(0)]})
    scored = by_key(run, LOGPROBS)
    missing = {key[:2] for key, r in scored.items() if r["status"] == "error"}
    assert missing == {("terse", f"q{n}") for n in (1, 2, 3)} | {("late", f"q{n}") for n in (0, 1, 2, 4)} | {
        ("base", "q4")
    }
    assert {r["code"] for r in scored.values() if r["status"] == "error"} == {"missing"}
    assert not any(policy == "judged" for policy, *_ in scored)
    assert account["malformed_count"] == 0
    assert run.table().missing == {"base": 1, "terse": 4, "late": 4, "judged": 5}


def test_an_imported_run_is_opened_by_its_name(bring):
    run, _ = bring({"logged_data.jsonl": [logged(n) for n in range(3)]})
    assert Run("mine").params == run.params
    assert CliRunner().invoke(main, ["status", "mine"]).exit_code == 0
    (paths.home() / "imported.yaml").write_text("run: zzz\n")  # a namesake of the user's
    assert Run("mine").params == run.params
    with pytest.raises(ArenaError, match="no params file 'mine2'"):
        Run("mine2")


def test_a_run_of_tables_is_opened_by_the_params_it_was_made_with(home):
    lines(home / "rows.jsonl", [{"id": f"q{n}", "q": "?", "answer": "a"} for n in range(3)])
    tables = [{"path": "rows.jsonl", "columns": {"prompt_id": "id", "prompt": "q", "response": "answer"}}]
    (home / "theirs.yaml").write_text(yaml.safe_dump({"run": "mytab", "imported": {"tables": tables}}))
    told = CliRunner().invoke(main, ["import", "table", str(home / "theirs.yaml")])
    assert told.exit_code == 0, told.output
    with pytest.raises(ArenaError, match="params"):
        Run("mytab")


def test_an_import_does_not_take_the_name_of_an_experiment(bring):
    with pytest.raises(ArenaError, match=r"run 'local' .*local\.yaml.*--run"):
        bring({"logged_data.jsonl": [logged(0)]}, run="local")
    assert not (paths.home() / "data").exists()


def test_coverage_counts_the_prompts_that_have_every_log_prob(bring):
    draws = [fresh(n) for n in range(5)]
    run, _ = bring({"logged_data.jsonl": [logged(n) for n in range(3)], "fresh_draws/terse_responses.jsonl": draws})
    told = status.sentence(status.progress(run.params, run.store))
    assert "3/5 (60%)" in told


def test_what_is_no_finite_number_has_a_code_and_no_value(bring):
    given = ["NaN", "-inf", "-12.5", True, [1], 10**400, "nan ", ""]
    text = "".join(json.dumps(logged(n, base_policy_logprob=v)) + "\n" for n, v in enumerate(given))
    text += json.dumps(logged(8)).replace("-18.0", "NaN") + "\n" + json.dumps(logged(9)).replace("-19.0", "1e999")
    run, account = bring({"logged_data.jsonl": []} | {"fresh_draws/terse_responses.jsonl": [fresh(0)]}, run="first")
    folder = paths.home() / "theirs"
    (folder / "logged_data.jsonl").write_text(text)
    account = interchange.import_cje(folder, "second")
    run = Run(PARAMS, "second")
    codes = [by_key(run, LOGPROBS)["base", f"q{n}", 0]["code"] for n in range(10)]
    bad, infinite = "not_a_number", "not_finite"
    assert codes == [infinite, infinite, bad, bad, bad, infinite, infinite, bad, infinite, infinite]
    assert "-12.5" in by_key(run, LOGPROBS)["base", "q2", 0]["detail"]
    told = account["malformed"]
    assert [(f["line"], f["field"], f["row_taken"]) for f in told] == [
        (n, "base_policy_logprob", True) for n in range(1, 11)
    ]


@pytest.mark.parametrize("value", [-50.0, 0.0, -100.0, 3.2, -9999, -0.0])
def test_finite_numbers_are_stored_exactly_as_they_came(bring, value):
    run, account = bring({"logged_data.jsonl": [logged(0, base_policy_logprob=value)]})
    record = by_key(run, LOGPROBS)["base", "q0", 0]
    assert (record["status"], record["value"], record["quarantine"]) == ("ok", value, None)
    assert account["malformed_count"] == 0


def test_a_score_of_zero_is_a_score_and_null_beside_scores_is_missing(bring):
    rows = [logged(0, judge_score=0.0, oracle_label=0), logged(1, judge_score=None), logged(2)]
    run, _ = bring({"logged_data.jsonl": rows})
    judged, labelled = by_key(run, DETERMINISTIC), by_key(run, ORACLE)
    assert [judged["base", f"q{n}", 0]["value"] for n in range(3)] == [0.0, None, 0.5]
    assert judged["base", "q1", 0]["code"] == "missing"
    assert {key[1]: r["value"] for key, r in labelled.items()} == {"q0": 0.0}


def test_scales_are_declared_and_what_lies_outside_is_named(bring):
    rows = [logged(0, judge_score=1, oracle_label=5), logged(1, judge_score=7.5), logged(2, judge_score=11)]
    rows.append(logged(3, judge_score=0, oracle_label=0))
    run, account = bring({"logged_data.jsonl": rows}, judge_scale=(0, 10), oracle_scale=(1, 5))
    judged = by_key(run, DETERMINISTIC)
    assert [judged["base", f"q{n}", 0]["value"] for n in range(4)] == [0.1, 0.75, None, 0.0]
    assert judged["base", "q2", 0]["code"] == "out_of_range"
    assert {k[1]: r["value"] for k, r in by_key(run, ORACLE).items()} == {"q0": 1.0, "q3": None}
    assert [(f["line"], f["field"], f["fault"].split()[0]) for f in account["malformed"]] == [
        (3, "judge_score", "11"),
        (4, "oracle_label", "0"),
    ]
    assert run.params.imported.judge_scale == (0.0, 10.0)


@pytest.mark.parametrize(("field", "option"), [("judge_score", "--judge-scale"), ("oracle_label", "--oracle-scale")])
def test_a_scale_that_most_values_are_outside_of_is_refused(bring, home, field, option):
    files = {"logged_data.jsonl": [logged(n) for n in range(3)]}
    files["fresh_draws/terse_responses.jsonl"] = [fresh(n, **{field: value}) for n, value in enumerate([1, 7.5, 10])]
    with pytest.raises(ArenaError) as error:
        bring(files)
    assert str(error.value).startswith(f"fresh_draws/terse_responses.jsonl: {field}: 2 of 3 ")
    assert option in str(error.value)
    assert not (home / "data" / "mine").exists()
    _, account = bring(files, **{option[2:].replace("-", "_"): (0, 10)})
    assert account["malformed_count"] == 0


def test_a_variance_gives_the_uncertainty_mode(bring):
    rows = [logged(n, judge_score={"mean": 5 + n, "variance": 4.0}) for n in range(3)]
    run, _ = bring({"logged_data.jsonl": rows}, judge_scale=(0, 10))
    assert run.params.estimation.judge == "uncertainty"
    table = run.table()
    assert table.logged.judge_uncertainty.tolist() == table.logged.judge_deterministic.tolist()
    assert set(table.logged.judge_uncertainty_sd) == {0.2}
    run, _ = bring({"logged_data.jsonl": [*rows, logged(3)]}, run="mixed", judge_scale=(0, 10))
    assert run.params.estimation.judge == "deterministic"
    assert by_key(run, UNCERTAINTY)["base", "q3", 0]["code"] == "missing"


def test_modes_without_a_score_have_no_estimate(bring):
    rows = [logged(n, judge_score=n / 20, oracle_label=n / 20) for n in range(20)]
    run, _ = bring({"logged_data.jsonl": rows})
    assert {r["judge"] for r in run.estimates(run.table())["rows"]} == {"deterministic"}


# Draws, and the same response in two files


def test_draws_of_the_logging_policy_are_its_logged_responses_or_come_after_them(bring):
    base = [fresh(0, response="Answer 0.", judge_score=0.5, oracle_label=1.0), fresh(1, response="Another.")]
    rows = [logged(0), logged(1), logged(1, response="Second.", draw_idx=1)]
    run, account = bring({"logged_data.jsonl": rows, "fresh_draws/base_responses.jsonl": base})
    answers = by_key(run, RESPONSES)
    assert {k: r["value"] for k, r in answers.items()} == {
        ("base", "q0", 0): "Answer 0.", ("base", "q1", 0): "Answer 1.", ("base", "q1", 1): "Second.",
        ("base", "q1", 2): "Another.",
    }  # fmt: skip
    assert by_key(run, ORACLE)["base", "q0", 0]["value"] == 1.0
    assert run.params.responses.logged_draws == 2
    assert sorted(run.table().logged.response) == ["Answer 0.", "Answer 1.", "Second."]
    assert account["malformed_count"] == 0


def test_probes_label_the_draws_they_are_of(bring):
    probes = [fresh(0, oracle_label=0.75), fresh(1, response="Not that.", oracle_label=0.5), fresh(2, oracle_label=0.0)]
    draws = [fresh(0), fresh(1), fresh(0, draw_idx=1, response="Fresh, again.")]
    run, account = bring(
        {"fresh_draws/terse_responses.jsonl": draws, "probe_slice/terse_probe.jsonl": probes, "logged_data.jsonl": []}
    )
    assert {k: r["value"] for k, r in by_key(run, ORACLE).items()} == {
        ("terse", "q0", 0): 0.75, ("terse", "q2", 0): 0.0,
    }  # fmt: skip
    (fault,) = account["malformed"]
    assert (fault["file"], fault["line"], fault["field"]) == ("probe_slice/terse_probe.jsonl", 2, "response")
    assert len(run.table().fresh) == 4


def test_files_that_disagree_on_a_score_are_told_and_the_first_stays(bring):
    base = [fresh(0, response="Answer 0.", judge_score=0.75)]
    run, account = bring({"logged_data.jsonl": [logged(0)], "fresh_draws/base_responses.jsonl": base})
    assert by_key(run, DETERMINISTIC)["base", "q0", 0]["value"] == 0.5
    assert {"0.75", "0.5"} <= set(account["malformed"][0]["fault"].split())


def test_a_score_that_one_file_lacks_comes_from_the_other(bring):
    base = [fresh(0, response="Answer 0.", judge_score=0.75)]
    rows = [logged(0, judge_score=None), logged(1)]
    run, account = bring({"logged_data.jsonl": rows, "fresh_draws/base_responses.jsonl": base})
    assert by_key(run, DETERMINISTIC)["base", "q0", 0]["value"] == 0.75
    assert account["records"][DETERMINISTIC] == {"base": {"ok": 2}}
    assert account["malformed_count"] == 0


# Policies and params


def test_any_policy_name_is_kept_in_a_form_that_params_can_hold(bring):
    rows = [logged(0, target_policy_logprobs={"gpt-4o mini": -1.0, "\u03c0_bad": -2.0, "1st": -3.0})]
    run, account = bring({"logged_data.jsonl": rows, "fresh_draws/gpt-4o mini_responses.jsonl": [fresh(0)]})
    assert run.params.targets == ["gpt_4o_mini", "p___bad", "p_1st"]
    assert "'gpt-4o mini'" in run.params.policies["gpt_4o_mini"].description
    assert run.table().log_weights()["gpt_4o_mini"].tolist() == [9.0]
    assert any("'gpt-4o mini'" in line and "gpt_4o_mini" in line for line in interchange.lines(account))


def test_names_that_would_become_one_are_refused(bring):
    with pytest.raises(ArenaError, match=r"'a-b' .*'a b' .*'a_b'"):
        bring({"logged_data.jsonl": [logged(0, target_policy_logprobs={"a-b": -1.0, "a b": -1.0})]})
    assert not paths.data_dir("mine").exists()


def test_another_name_of_the_logging_policy_can_be_given(bring):
    rows = {"logged_data.jsonl": [logged(0)], "fresh_draws/prod_responses.jsonl": [fresh(0, response="Answer 0.")]}
    run, _ = bring(rows, logging_policy="prod")
    assert list(run.params.policies) == ["prod", "terse"]
    assert by_key(run, LOGPROBS)["prod", "q0", 0]["value"] == -10.0


def test_params_of_an_imported_run_need_its_import_and_agree_with_it(bring, home):
    with pytest.raises(ParamsError, match=r"run 'nothing' .*arena10k import cje .*--run nothing"):
        config.load(PARAMS, "nothing")
    bring({"logged_data.jsonl": [logged(0)]}, judge_scale=(0, 10))
    own = {"run": "mine", "imported": {"judge_scale": [0, 5]}, "estimation": {"width": 0.1}}
    (home / "own.yaml").write_text(yaml.safe_dump(own))
    with pytest.raises(ParamsError, match=r"^own\.yaml: judge_scale .*data/mine"):
        config.load(home / "own.yaml")
    (home / "own.yaml").write_text(yaml.safe_dump(own | {"imported": {"judge_scale": [0, 10]}}))
    assert config.load(home / "own.yaml").estimation.width == 0.1
    other = own | {"imported": None, "policies": {"terse": {"description": "one word", "temperature": 0.5}}}
    (home / "own.yaml").write_text(yaml.safe_dump(other))
    # What the user knows of a policy is believed, and its records stay its own.
    run = Run(home / "own.yaml")
    assert run.policies["terse"].temperature_mismatch
    assert len(by_key(run, LOGPROBS)) == 2


# The command line


def test_the_same_import_again_changes_nothing_and_another_is_refused(bring):
    files = {"logged_data.jsonl": [logged(0), logged(1)]}
    _, account = bring(files)
    before = {p: p.read_bytes() for p in paths.data_dir("mine").iterdir() if p.suffix in (".json", ".parquet")}
    run, again = bring(files)
    assert (account["new"], again["new"]) == (True, False)
    assert len(interchange.lines(again)) == 1
    assert {p: p.read_bytes() for p in before} == before
    for options in ({"judge_scale": (0, 2)}, {"logging_policy": "other"}):
        with pytest.raises(ArenaError, match=r"run 'mine' .*--run.* data/mine"):
            bring(files, **options)
    with pytest.raises(ArenaError, match="run 'mine'"):
        bring({"logged_data.jsonl": [logged(0)]})
    assert len(by_key(run, RESPONSES)) == 2


def test_pages_are_made_anew_when_the_import_is(bring):
    run, _ = bring({"logged_data.jsonl": [logged(0)]})
    other, _ = bring({"logged_data.jsonl": [logged(1)]}, run="other")
    reads = [stages.reads(r.params)["06_estimates"] | {"run": ""} for r in (run, other)]
    assert reads[0] != reads[1]


# Tables with named columns

COLUMNS = {
    "prompt_id": "id", "prompt": "question", "response": "answer.text", "judge": "score", "label": "human",
    "category": "topic", "logprobs": {"base": "lp_base", "terse": "lp_terse"},
}  # fmt: skip


def table_rows():
    return [
        {"id": 7 * n, "question": f"Q{n}", "answer": {"text": f"A{n}"}, "score": 1 + n % 5, "topic": "sums"}
        | {"human": 100.0 * (n % 2) if n < 3 else None, "lp_base": -5.0 - n, "lp_terse": -6.0 if n else None}
        for n in range(6)
    ]


def fresh_rows():
    return [{"id": str(7 * n), "answer": {"text": f"F{n}"}, "score": 5, "who": "terse"} for n in range(6)]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("whose", ["told", "by_row"])
def test_tables_with_a_column_map(home, kind, whose):
    for name, rows in (("logged", table_rows()), ("fresh", fresh_rows())):
        if kind == "jsonl":
            lines(home / f"{name}.jsonl", rows)
        else:
            pq.write_table(pa.Table.from_pylist(rows), home / f"{name}.parquet")
    own = {"prompt_id": "id", "response": "answer.text", "judge": "score"}
    second = {"policy": "terse", "columns": own} if whose == "told" else {"columns": own | {"policy": "who"}}
    tables = [{"path": f"fresh.{kind}"} | second, {"path": f"logged.{kind}", "columns": COLUMNS}]
    told = {"run": "mine", "imported": {"judge_scale": [1, 5], "oracle_scale": [0, 100], "tables": tables}}
    (home / "mine.yaml").write_text(yaml.safe_dump(told))
    name, logging_policy, declared = config.load_import(home / "mine.yaml")
    account = interchange.import_tables(name, declared)
    assert (logging_policy, account["malformed_count"]) == (None, 0)
    run = Run(home / "mine.yaml")
    table = run.table()
    frame = table.logged.set_index("prompt_id").loc[[str(7 * n) for n in range(6)]]
    assert frame.response.tolist() == [f"A{n}" for n in range(6)]
    assert frame.judge_deterministic.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 0.0]
    assert frame.label.dropna().to_dict() == {"0": 0.0, "7": 1.0, "14": 0.0}
    assert frame.logp_base.tolist() == [-5.0 - n for n in range(6)]
    assert set(frame.category) == {"sums"}
    assert table.missing["terse"] == 1
    assert by_key(run, LOGPROBS)["terse", "0", 0]["code"] == "missing"
    assert set(table.fresh.judge_deterministic) == {1.0}
    assert sorted(table.fresh.prompt) == [f"Q{n}" for n in range(6)]
    assert not interchange.import_tables(name, declared)["new"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_column_that_is_not_there_is_named(home, kind):
    frame = pd.DataFrame({"id": ["a"], "answer": ["x"], "question": ["y"]})
    frame.to_parquet(home / "t.parquet")
    lines(home / "t.jsonl", frame.to_dict("records"))
    columns = {"prompt_id": "id", "response": "answer", "prompt": "question", "judge": "scroe"}
    told = {"run": "mine", "imported": {"tables": [{"path": f"t.{kind}", "columns": columns}]}}
    (home / "mine.yaml").write_text(yaml.safe_dump(told))
    name, _, declared = config.load_import(home / "mine.yaml")
    with pytest.raises(ArenaError, match=rf"^t\.{kind}: scroe: "):
        interchange.import_tables(name, declared)
    assert not paths.data_dir("mine").exists()


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"path": "a.csv", "columns": {}}, "imported.tables.0.columns.prompt_id: missing"),
        (
            {"path": "a.csv", "columns": {"prompt_id": "i", "response": "r"}},
            "tables end in .jsonl, .ndjson or .parquet",
        ),
        (
            {"path": "a.jsonl", "policy": "x", "columns": {"prompt_id": "i", "response": "r", "logprobs": {"x": "l"}}},
            "columns.logprobs goes with logged responses",
        ),
        (
            {"path": "a.jsonl", "columns": {"prompt_id": "i", "response": "r", "scroe": "s"}},
            "columns.scroe: unknown key",
        ),
    ],
)
def test_tables_that_cannot_be_meant_are_refused_by_key(home, table, says):
    (home / "mine.yaml").write_text(yaml.safe_dump({"run": "mine", "imported": {"tables": [table]}}))
    with pytest.raises(ParamsError, match=r"^mine\.yaml: imported\.tables\.0") as caught:
        config.load_import(home / "mine.yaml")
    assert says in str(caught.value)
