"""Imports: what others have becomes an ordinary run, with every number as it came."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from arena10k import interchange, paths
from arena10k.audit import checks, quality
from arena10k.collection import generate, labels, teacher_forcing
from arena10k.collection.jobs import DETERMINISTIC, LOGPROBS, ORACLE, RESPONSES, UNCERTAINTY
from arena10k.errors import ArenaError, NothingToShow, ParamsError
from arena10k.inputs import prompts
from arena10k.params import config
from arena10k.pipeline import failures, stages
from arena10k.run import Run
from in_process import arena, run_cells

POLICIES = ("clone", "parallel_universe_prompt", "unhelpful")
PARAMS = paths.source_root() / "params" / "imported.yaml"
LOGGED, TERSE, BASE = "logged_data.jsonl", "fresh_draws/terse_responses.jsonl", "fresh_draws/base_responses.jsonl"


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
        for name, rows in files.items():
            lines(home / "theirs" / name, rows)
        account = interchange.import_cje(home / "theirs", run, **options)
        return Run(PARAMS, run), account

    return make


def by_key(run, job):
    return {(r["policy"], r["prompt_id"], r["draw"]): r for r in run.store.rows(job)}


def values(run, job):
    return {key: record["value"] for key, record in by_key(run, job).items()}


@pytest.fixture(scope="module")
def public(shared_data, tmp_path_factory):
    """The public sample, imported as it is, its account, and its logged rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARENA10K_HOME", str(tmp_path_factory.mktemp("home")))
        account = interchange.import_cje(shared_data / "arena_sample", "arena_sample")
        run = Run(PARAMS, "arena_sample")
        yield run, account, [json.loads(line) for line in (shared_data / "arena_sample" / LOGGED).open()]
        run.store.close()


def test_the_public_sample_gives_the_reference_numbers(public, shared_data):
    """Raw SNIPS on calibrated rewards, mean weight and ESS against plain-numpy constants."""
    reference = json.loads((shared_data / "reference_numbers.json").read_text())["numpy_reference"]["policies"]
    run, _, _ = public
    rows = {(r["policy"], r["estimator"]): r for r in run.estimates(run.table())["rows"]}
    assert {row["judge"] for row in rows.values()} == {"deterministic"}, "a mode without a score has no estimate"
    for name in POLICIES:
        row, ref = rows[name, "snips"], reference[name]
        assert row["value"] == pytest.approx(ref["snips_iso"], abs=1e-9)
        assert row["mean_weight"] == pytest.approx(ref["mean_raw_w"], rel=1e-9)
        assert row["ess"] == pytest.approx(ref["ess"], rel=1e-9)


def test_the_control_of_the_layout_shows_the_noise_floor_and_who_is_a_clone_is_the_users_to_say(public, tmp_path):
    run, account, rows = public
    size = np.abs([r["target_policy_logprobs"]["clone"] - r["base_policy_logprob"] for r in rows])
    floor = run.study(run.table()).contexts["clone", "deterministic"].noise_floor
    assert (floor.n, floor.exact) == (1000, False)
    assert (floor.median_abs, floor.max_abs) == (np.median(size), size.max())
    assert checks.clones(run.params) == ["clone"]
    assert any(line.endswith(": clone") for line in interchange.lines(account))
    params_file = tmp_path / "mine.yaml"
    for names in ([], ["unhelpful"]):
        params_file.write_text(f"run: arena_sample\nimported: {{clones: {names}}}\n")
        assert checks.clones(Run(params_file).params) == names
    params_file.write_text("run: arena_sample\nimported: {clones: [nobody]}\n")
    with pytest.raises(ParamsError, match=r"imported\.clones: 'nobody' is not among the targets: clone, "):
        config.load(params_file)


def test_the_public_sample_is_taken_whole_and_exactly(public, shared_data):
    run, account, rows = public
    assert account["malformed_count"] == 0
    assert all(file["taken"] == file["rows"] for file in account["files"])
    assert account["not_there"] == ["probe_slice/unhelpful_probe.jsonl"]
    scored, judged, labelled, answers = (values(run, job) for job in (LOGPROBS, DETERMINISTIC, ORACLE, RESPONSES))
    for row in rows:
        key = (row["metadata"]["prompt_id"], 0)
        assert scored["base", *key] == row["base_policy_logprob"]
        assert {n: scored[n, *key] for n in POLICIES} == row["target_policy_logprobs"]
        assert (judged["base", *key], answers["base", *key]) == (row["judge_score"], row["response"])
        assert labelled.get(("base", *key)) == row.get("oracle_label")
    for name in ("clone", "parallel_universe_prompt"):
        probes = [json.loads(s) for s in (shared_data / f"arena_sample/probe_slice/{name}_probe.jsonl").open()]
        own = {p: value for (policy, p, _), value in labelled.items() if policy == name}
        assert own == {row["prompt_id"]: row["oracle_label"] for row in probes}
    assert {p: sum(k[0] == p for k in answers) for p in run.params.policies} == dict.fromkeys(run.params.policies, 1000)
    taken = sum(file["taken"] for file in account["files"])
    assert any({f"{taken - 4000:,}", f"{taken:,}"} <= set(line.split()) for line in interchange.lines(account))


def test_an_imported_run_is_complete_when_its_source_is_and_nothing_is_ever_asked_for_it(public):
    run, _, _ = public
    assert list(generate.tasks(run.params, run.prompts)) == []
    assert list(teacher_forcing.tasks(run.params, run.store)) == []
    assert list(teacher_forcing.control_tasks(run.params, run.store)) == []
    assert labels.label(run.params, run.store, run.prompts) == 0
    assert all(j["ok"] == j["total"] for j in quality.jobs(run.params, run.store, len(run.prompts)))
    frame, counts = prompts.load(run.params)
    assert counts["kept"] == len(frame) == 1000
    prompts.write(run.params, frame)


def test_no_definition_is_known_and_that_is_said(public):
    run, _, _ = public
    drift = quality.drift(run.params, run.store)
    assert {entry["policy"] for entry in drift} == {"base", *POLICIES}
    assert "base, clone, parallel_universe_prompt, unhelpful" in quality.drift_sentence(drift)
    shown = generate.definitions(run.policies)
    assert shown[["model", "example turns", "fingerprint"]].isna().all(axis=None)


def spoilt(number):
    """Rows as they are met: log-probs missing, sentinels, not numbers, scores out of range."""
    changed = {0: {"base_policy_logprob": -50.0}, 1: {"target_policy_logprobs": {"terse": None}}}
    changed |= {2: {"target_policy_logprobs": {"terse": "NaN"}}, 3: {"judge_score": 7}}
    return logged(number, judge_score=round(0.05 * (number % 20), 2)) | changed.get(number % 9, {})


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_stage_runs_on_an_imported_run(bring, home, capsys):
    draws = [fresh(n, judge_score=n / 40) for n in range(40)]
    bring({
        LOGGED: [spoilt(n) | {"oracle_label": float(n % 2)} for n in range(40)],
        TERSE: draws, "probe_slice/terse_probe.jsonl": [row | {"oracle_label": 0.5} for row in draws[:20]],
    })  # fmt: skip
    (home / "own.yaml").write_text(yaml.safe_dump({"run": "mine", "imported": None, "estimation": {"replicates": 1}}))
    for stage in stages.STAGES:
        run_cells(stage, home / "own.yaml")
    shown = capsys.readouterr().out
    assert "mine: imported " in shown
    assert " nan " not in shown
    assert {"quality.json", "estimates.json", "anomaly.json"} <= {p.name for p in paths.reports_dir("mine").iterdir()}


def test_stages_without_log_probs_run_or_say_in_a_line_why_not(bring):
    base = [fresh(n, oracle_label=n % 2, judge_score=n / 40) for n in range(40)]
    run, _ = bring({BASE: base, TERSE: base})
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


def test_logged_data_alone_are_a_run_and_fresh_draws_alone(bring, home):
    run, account = bring({LOGGED: [logged(n) for n in range(3)]})
    assert (list(run.params.policies), run.params.logging_policy) == (["base", "terse"], "base")
    assert run.table().log_weights()["terse"].tolist() == [-1.5, -1.5, -1.5]
    assert TERSE in account["not_there"]
    (home / "theirs" / LOGGED).unlink()
    run, _ = bring({"fresh_draws/a_responses.jsonl": [fresh(0)], TERSE: [fresh(0)]}, run="fresh")
    assert run.params.targets == ["a", "terse"]
    assert len(run.table().logged) == 0
    assert run.table().fresh.response.tolist() == ["Fresh 0.", "Fresh 0."]


def test_a_missing_log_prob_is_an_error_record_only_where_the_policy_occurs(bring):
    rows = [logged(0), logged(1, target_policy_logprobs={"terse": None}), logged(2, target_policy_logprobs=...)]
    rows += [logged(3, target_policy_logprobs={"late": -3.0}), logged(4, base_policy_logprob=...)]
    run, account = bring({LOGGED: rows, "fresh_draws/judged_responses.jsonl": [fresh(0)]})
    missing = {key[:2]: r["code"] for key, r in by_key(run, LOGPROBS).items() if r["status"] == "error"}
    absent = {"terse": (1, 2, 3), "late": (0, 1, 2, 4), "base": (4,)}
    assert missing == {(policy, f"q{n}"): "missing" for policy, numbers in absent.items() for n in numbers}
    assert account["malformed_count"] == 0
    assert run.table().missing == {"base": 1, "terse": 4, "late": 4, "judged": 5}


def test_prompts_that_were_never_logged_are_no_rows(bring):
    run, _ = bring({LOGGED: [logged(n) for n in range(12)], TERSE: map(fresh, range(36))})
    assert run.coverage().startswith("12/36 ")
    assert "(33%)" in run.coverage()


def test_an_imported_run_is_opened_by_its_name_and_one_of_tables_by_its_params(bring, home):
    run, _ = bring({LOGGED: [logged(n) for n in range(3)]})
    assert arena("status", "mine").returncode == 0
    (home / "imported.yaml").write_text("run: zzz\n")  # a namesake of the user's
    assert Run("mine").params == run.params
    with pytest.raises(ArenaError, match="no params file 'mine2'"):
        Run("mine2")
    lines(home / "rows.jsonl", [{"id": f"q{n}", "q": "?", "answer": "a"} for n in range(3)])
    described(home, ["rows.jsonl", {"prompt_id": "id", "prompt": "q", "response": "answer"}], run="mytab")
    assert arena("import", "table", (home / "mytab.yaml").rename(home / "theirs.yaml")).returncode == 0
    with pytest.raises(ArenaError, match="params"):
        Run("mytab")


# Numbers and scales


def test_finite_numbers_are_stored_exactly_as_they_came(bring):
    numbers = [-50.0, 0.0, -100.0, 3.2, -9999, -0.0]
    run, account = bring({LOGGED: [logged(n, base_policy_logprob=value) for n, value in enumerate(numbers)]})
    records = [by_key(run, LOGPROBS)["base", f"q{n}", 0] for n in range(6)]
    assert [(r["status"], str(r["value"]), r["quarantine"]) for r in records] == [
        ("ok", str(float(value)), None) for value in numbers
    ]
    assert account["malformed_count"] == 0


def test_scores_are_shares_of_the_declared_scale_zero_is_one_and_null_beside_others_is_missing(bring):
    scores = [(1, 5), (7.5, None), (11, ...), (0, 0), (None, ...)]
    rows = [logged(n, judge_score=score, oracle_label=label) for n, (score, label) in enumerate(scores)]
    run, account = bring({LOGGED: rows}, judge_scale=(0, 10), oracle_scale=(1, 5))
    judged = by_key(run, DETERMINISTIC)
    assert [judged["base", f"q{n}", 0]["value"] for n in range(5)] == [0.1, 0.75, None, 0.0, None]
    assert [judged["base", f"q{n}", 0]["code"] for n in (2, 4)] == ["out_of_range", "missing"]
    assert {k[1]: value for k, value in values(run, ORACLE).items()} == {"q0": 1.0, "q3": None}
    places = [(f["line"], f["field"], f["fault"].split()[0]) for f in account["malformed"]]
    assert places == [(3, "judge_score", "11"), (4, "oracle_label", "0")]
    assert run.params.imported.judge_scale == (0.0, 10.0)


@pytest.mark.parametrize(("field", "option"), [("judge_score", "--judge-scale"), ("oracle_label", "--oracle-scale")])
def test_a_scale_that_most_values_are_outside_of_is_refused(bring, home, field, option):
    files = {LOGGED: [logged(n) for n in range(3)]}
    files[TERSE] = [fresh(n, **{field: value}) for n, value in enumerate([1, 7.5, 10])]
    with pytest.raises(ArenaError) as error:
        bring(files)
    assert str(error.value).startswith(f"{TERSE}: {field}: 2 of 3 ")
    assert option in str(error.value)
    assert not (home / "data" / "mine").exists()
    _, account = bring(files, **{option[2:].replace("-", "_"): (0, 10)})
    assert account["malformed_count"] == 0


def test_a_variance_gives_the_uncertainty_mode(bring):
    rows = [logged(n, judge_score={"mean": 5 + n, "variance": 4.0}) for n in range(3)]
    run, _ = bring({LOGGED: rows}, judge_scale=(0, 10))
    assert run.params.estimation.judge == "uncertainty"
    frame = run.table().logged
    assert frame.judge_uncertainty.tolist() == frame.judge_deterministic.tolist()
    assert set(frame.judge_uncertainty_sd) == {0.2}
    run, _ = bring({LOGGED: [*rows, logged(3)]}, run="mixed", judge_scale=(0, 10))
    assert run.params.estimation.judge == "deterministic"
    assert by_key(run, UNCERTAINTY)["base", "q3", 0]["code"] == "missing"


# Draws, and the same response in two files


def test_draws_of_the_logging_policy_are_its_logged_responses_or_come_after_them(bring):
    base = [fresh(0, response="Answer 0.", judge_score=0.5, oracle_label=1.0), fresh(1, response="Another.")]
    rows = [logged(0), logged(1), logged(1, response="Second.", draw_idx=1)]
    run, account = bring({LOGGED: rows, BASE: base})
    assert values(run, RESPONSES) == {
        ("base", "q0", 0): "Answer 0.", ("base", "q1", 0): "Answer 1.", ("base", "q1", 1): "Second.",
        ("base", "q1", 2): "Another.",
    }  # fmt: skip
    assert values(run, ORACLE)["base", "q0", 0] == 1.0
    assert run.params.responses.logged_draws == 2
    assert sorted(run.table().logged.response) == ["Answer 0.", "Answer 1.", "Second."]
    assert account["malformed_count"] == 0


def test_probes_label_the_draws_they_are_of(bring):
    probes = [fresh(0, oracle_label=0.75), fresh(1, response="Not that.", oracle_label=0.5), fresh(2, oracle_label=0.0)]
    draws = [fresh(0), fresh(1), fresh(0, draw_idx=1, response="Fresh, again.")]
    run, account = bring({TERSE: draws, "probe_slice/terse_probe.jsonl": probes, LOGGED: []})
    assert values(run, ORACLE) == {("terse", "q0", 0): 0.75, ("terse", "q2", 0): 0.0}
    (fault,) = account["malformed"]
    assert (fault["file"], fault["line"], fault["field"]) == ("probe_slice/terse_probe.jsonl", 2, "response")
    assert len(run.table().fresh) == 4


def test_of_a_response_in_two_files_the_first_score_stays_and_one_that_is_lacking_comes_from_the_other(bring):
    base = [fresh(n, response=f"Answer {n}.", judge_score=0.75) for n in range(2)]
    run, account = bring({LOGGED: [logged(0), logged(1, judge_score=None)], BASE: base})
    assert values(run, DETERMINISTIC) == {("base", "q0", 0): 0.5, ("base", "q1", 0): 0.75}
    assert account["records"][DETERMINISTIC] == {"base": {"ok": 2}}
    (fault,) = account["malformed"]
    assert {"0.75", "0.5"} <= set(fault["fault"].split())


# Policies and params


def test_any_policy_name_is_in_a_form_that_params_can_hold_and_the_logging_policy_may_have_another(bring):
    rows = [logged(0, target_policy_logprobs={"gpt-4o mini": -1.0, "\u03c0_bad": -2.0, "1st": -3.0})]
    run, account = bring(
        {LOGGED: rows, "fresh_draws/gpt-4o mini_responses.jsonl": [fresh(0)]}, logging_policy="production"
    )
    assert list(run.params.policies) == ["production", "gpt_4o_mini", "p___bad", "p_1st"]
    assert values(run, LOGPROBS)["production", "q0", 0] == -10.0
    assert "'gpt-4o mini'" in run.params.policies["gpt_4o_mini"].description
    assert run.table().log_weights()["gpt_4o_mini"].tolist() == [9.0]
    assert any("'gpt-4o mini'" in line and "gpt_4o_mini" in line for line in interchange.lines(account))


@pytest.mark.parametrize(
    ("changed", "run", "says"),
    [
        ({"target_policy_logprobs": {"a-b": -1.0, "a b": -1.0}}, "mine", r"'a-b' .*'a b' .*'a_b'"),
        ({"target_policy_logprobs": {"gpt": -1.0, "GPT": -1.0}}, "mine", r"'gpt' .*'GPT' "),
        ({}, "local", r"run 'local' .*local\.yaml.*--run"),
    ],
)
def test_names_that_stand_for_something_else_are_refused(bring, changed, run, says):
    with pytest.raises(ArenaError, match=says):
        bring({LOGGED: [logged(0, **changed)]}, run=run)
    assert not paths.data_dir(run).exists()


def test_params_of_an_imported_run_need_its_import_and_agree_with_it(bring, home):
    with pytest.raises(ParamsError, match=r"run 'nothing' .*arena10k import cje .*--run nothing"):
        config.load(PARAMS, "nothing")
    bring({LOGGED: [logged(0)]}, judge_scale=(0, 10))

    def own(**keys):
        (home / "own.yaml").write_text(yaml.safe_dump({"run": "mine", "estimation": {"width": 0.1}} | keys))
        return config.load(home / "own.yaml")

    table = {"path": "a.jsonl", "columns": {"prompt_id": "i", "response": "r"}}
    for imported, key in (({"judge_scale": [0, 5]}, "judge_scale"), ({"tables": [table]}, "tables")):
        with pytest.raises(ParamsError, match=rf"^own\.yaml: {key} .*data/mine"):
            own(imported=imported)
    with pytest.raises(ParamsError, match=r"^own\.yaml: logging_policy .*data/mine"):
        own(imported=None, logging_policy="other")
    assert own(imported={"judge_scale": [0, 10]}).estimation.width == 0.1
    # What the user knows of a policy is believed, and its records stay its own.
    own(imported=None, policies={"terse": {"description": "one word", "temperature": 0.5}})
    run = Run(home / "own.yaml")
    assert run.policies["terse"].temperature_mismatch
    assert len(by_key(run, LOGPROBS)) == 2
    paths.import_file("mine").write_text("{")
    with pytest.raises(ParamsError, match=r"data/mine/import\.json is damaged: remove"):
        own(imported=None)


def test_the_same_import_again_changes_nothing_and_another_is_refused(bring):
    files = {LOGGED: [logged(0), logged(1)]}
    run, account = bring(files)
    before = {p: p.read_bytes() for p in paths.data_dir("mine").iterdir() if p.suffix in (".json", ".parquet")}
    other, _ = bring(files, run="other", judge_scale=(0, 2))
    _, again = bring(files)
    assert (account["new"], again["new"], len(interchange.lines(again))) == (True, False, 1)
    assert {p: p.read_bytes() for p in before} == before
    for changed, options in ((files, {"judge_scale": (0, 2)}), ({LOGGED: [logged(0)]}, {})):
        with pytest.raises(ArenaError, match=r"run 'mine' .*--run.* data/mine"):
            bring(changed, **options)
    assert len(by_key(run, RESPONSES)) == 2
    reads = [stages.reads(r.params)["06_estimates"] | {"run": ""} for r in (run, other)]
    assert reads[0] != reads[1], "pages are made anew when the import is"


# Tables with named columns

COLUMNS = {
    "prompt_id": "id", "prompt": "question", "response": "answer.text", "judge": "score", "label": "human",
    "category": "topic", "logprobs": {"base": "lp_base", "terse": "lp_terse"},
}  # fmt: skip


def described(home, *tables, run="mine", **scales):
    """A params file of tables, each (path, columns, policy where it is of one), and what it says of their import."""
    keys = [dict(zip(("path", "columns", "policy"), table, strict=False)) for table in tables]
    (home / f"{run}.yaml").write_text(yaml.safe_dump({"run": run, "imported": {"tables": keys} | scales}))
    name, logging_policy, declared = config.load_import(home / f"{run}.yaml")
    assert logging_policy is None
    return name, declared


@pytest.mark.parametrize(("kind", "by_row"), [("jsonl", False), ("parquet", True)])
def test_tables_with_a_column_map(home, kind, by_row):
    logged_rows = [
        {"id": 7 * n, "question": f"Q{n}", "answer": {"text": f"A{n}"}, "score": 1 + n % 5, "topic": "sums"}
        | {"human": 100.0 * (n % 2) if n < 3 else None, "lp_base": -5.0 - n, "lp_terse": -6.0 if n else None}
        for n in range(6)
    ]
    fresh_rows = [{"id": str(7 * n), "answer": {"text": f"F{n}"}, "score": 5, "who": "terse"} for n in range(6)]
    for name, rows in (("logged", logged_rows), ("again", logged_rows), ("fresh", fresh_rows)):
        lines(home / f"{name}.jsonl", rows)
        pd.DataFrame(rows).to_parquet(home / f"{name}.parquet")
    own = {"prompt_id": "id", "response": "answer.text", "judge": "score"}
    third = [own | {"policy": "who"}] if by_row else [own, "terse"]
    tables = [[f"fresh.{kind}", *third], *([f"{name}.{kind}", COLUMNS] for name in ("logged", "again"))]
    name, declared = described(home, *tables, judge_scale=[1, 5], oracle_scale=[0, 100])
    account = interchange.import_tables(name, declared)
    assert (account["malformed_count"], [f["taken"] for f in account["files"]]) == (0, [6, 6, 6])
    assert account["records"][RESPONSES] == {"base": {"ok": 6}, "terse": {"ok": 6}}, "one file twice is counted once"
    run = Run(home / "mine.yaml")
    table = run.table()
    frame = table.logged.set_index("prompt_id").loc[[str(7 * n) for n in range(6)]]
    assert frame.response.tolist() == [f"A{n}" for n in range(6)]
    assert frame.judge_deterministic.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 0.0]
    assert frame.label.dropna().to_dict() == {"0": 0.0, "7": 1.0, "14": 0.0}
    assert frame.logp_base.tolist() == [-5.0 - n for n in range(6)]
    assert set(frame.category) == {"sums"}
    assert (table.missing["terse"], by_key(run, LOGPROBS)["terse", "0", 0]["code"]) == (1, "missing")
    assert set(table.fresh.judge_deterministic) == {1.0}
    assert sorted(table.fresh.prompt) == [f"Q{n}" for n in range(6)]
    assert not interchange.import_tables(name, declared)["new"]


def test_a_fault_of_a_table_names_its_column(home):
    lines(home / "t.jsonl", [{"id": "a", "q": "?", "a": "x"}, {"id": "a", "q": "!", "a": "y"}, {"id": "a", "a": 1}])
    columns = {"prompt_id": "id", "prompt": "q", "response": "a"}
    account = interchange.import_tables(*described(home, ["t.jsonl", columns]))
    assert [(f["line"], f["field"], f["row_taken"]) for f in account["malformed"]] == [(2, "q", False), (3, "a", False)]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_column_that_is_not_there_is_named(home, kind):
    frame = pd.DataFrame({"id": ["a"], "answer": ["x"], "question": ["y"]})
    frame.to_parquet(home / "t.parquet")
    lines(home / "t.jsonl", frame.to_dict("records"))
    columns = {"prompt_id": "id", "response": "answer", "prompt": "question", "judge": "scroe"}
    with pytest.raises(ArenaError, match=rf"^t\.{kind}: scroe: "):
        interchange.import_tables(*described(home, [f"t.{kind}", columns]))
    assert not paths.data_dir("mine").exists()


ANSWER = {"prompt_id": "i", "response": "r"}


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (["a.csv", {}], "columns: name prompt_id or prompt"),
        (["a.csv", ANSWER | {"label_propensity": "p"}], "goes with columns.label"),
        (["a.jsonl", ANSWER | {"logprobs": {"x": "l"}}, "x"], "columns.logprobs goes with logged responses"),
        (["a.jsonl", ANSWER | {"policy": "p"}, "x"], "policy and columns.policy both"),
        (["a.jsonl", ANSWER | {"judge_variance": "v"}], "goes with columns.judge"),
        (["a.jsonl", ANSWER | {"scroe": "s"}], "columns.scroe: unknown key"),
    ],
)
def test_tables_that_cannot_be_meant_are_refused_by_key(home, table, says):
    with pytest.raises(ParamsError, match=r"^mine\.yaml: imported\.tables\.0") as caught:
        described(home, table)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("tables", "scales", "says"),
    [
        ([], {}, r"imported\.tables: names no table"),
        ([["gone.jsonl", ANSWER]], {}, r"imported\.tables: no file 'gone\.jsonl'"),
        ([], {"judge_scale": [5, 1]}, r"mine\.yaml: imported: judge_scale: \[5, 1\] does not rise"),
    ],
)
def test_an_import_without_a_table_or_a_scale_is_refused(home, tables, scales, says):
    with pytest.raises(ArenaError, match=says):
        interchange.import_tables(*described(home, *tables, **scales))
