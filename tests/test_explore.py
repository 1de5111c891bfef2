"""Exploring a run: frames against the store, answers against the statistics they come from, and nothing written."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import importlib
import inspect
import json
import re
import textwrap
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell

from arena10k import paths
from arena10k.attribution import words
from arena10k.collection.store import Store
from arena10k.errors import ArenaError
from arena10k.estimation import context, diagnostics, evaluation, verdicts
from arena10k.explore import source
from arena10k.explore.judges import labelled
from arena10k.explore.view import View
from arena10k.frames import records
from arena10k.params.judge import MODES
from arena10k.report import reasons
from arena10k.run import Run
from sample_copy import copied, failed

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> | **bold** \u202e"
FRAMES = ("responses", "logprobs", "judgments", "labels")


@pytest.fixture(scope="module")
def run() -> Run:
    return Run("sample")


@pytest.fixture(scope="module")
def table(run):
    return run.table()


@pytest.fixture(scope="module")
def content(run, table):
    return run.estimates(table)


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory):
    """A live run whose first prompt has a hostile response by every policy, with failures and quarantined values."""
    home = tmp_path_factory.mktemp("home")

    def change(record):
        if record.job == "responses" and record.prompt_id == "copy_05":
            return dataclasses.replace(record, value=HOSTILE)
        if record.job == "logprobs" and (record.policy, record.prompt_id[:3]) == ("pi_cot", "sum"):
            return failed(record, "http_500")
        return record

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARENA10K_HOME", str(home))
        made = copied(home, change)
        rows = [r for r in made.store.rows("logprobs") if r["policy"] == "pi_terse" and r["prompt_id"] == "copy_01"]
        made.store.set_quarantine([(r["job"], r["prompt_id"], r["request_hash"], "planted") for r in rows])
        made.store.close()
        yield Run(home / "copy.yaml")


def files(folder: Path) -> dict[Path, bytes]:
    """What every file holds; SQLite's own files for readers beside a store are there and empty."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-shm")]
    return {path: path.read_bytes() for path in paths if not path.name.endswith("-wal") or path.stat().st_size}


def test_frames_have_every_record_of_the_store(spoiled):
    stored = Counter()
    for row in spoiled.source.reading.rows():
        status = "quarantined" if row["quarantine"] else {"ok": "ok", "error": "failed"}[row["status"]]
        stored[row["job"], row["policy"], status, row["quarantine"] or row["code"]] += 1
    assert stored["logprobs", "pi_cot", "failed", "http_500"]
    assert stored["logprobs", "pi_terse", "quarantined", "planted"]
    jobs = {"oracle": "oracle", "truth": "truth"} | {mode: f"judge_{mode}" for mode in MODES}
    framed = Counter()
    for name in FRAMES:
        frame = getattr(spoiled, name)
        variant = frame.get("judge", frame.get("kind"))
        job = [name] * len(frame) if variant is None else variant.map(jobs)
        reason = frame.reason.astype(object).where(frame.reason.notna(), None)
        framed.update(zip(job, frame.policy, frame.status, reason, strict=True))
        assert not frame.duplicated([c for c in frame if c in ("policy", "prompt_id", "draw", "judge", "kind")]).any()
    assert framed == Counter({key: n for key, n in stored.items() if key[0] != "logprobs_shuffled"})


def test_what_failed_or_is_quarantined_has_no_value_to_average(spoiled):
    aside, gone = (spoiled.logprobs[spoiled.logprobs.status == status] for status in ("quarantined", "failed"))
    assert (aside.logp.isna().tolist(), aside.raw_logp.notna().tolist()) == ([True], [True])
    assert gone.raw_logp.isna().tolist() == [True] * 10
    usable = spoiled.logprobs.pivot(index="prompt_id", columns="policy", values="logp")
    logged = spoiled.table().logged.set_index("prompt_id")
    for policy in spoiled.policies:
        np.testing.assert_array_equal(usable[policy].loc[logged.index], logged[f"logp_{policy}"])


def test_frames_are_in_the_runs_order_and_documented_column_by_column(run):
    places = {p: i for i, p in enumerate(run.prompts.prompt_id)}
    ranks = {p: i for i, p in enumerate(run.policies)}
    for name in FRAMES:
        frame = getattr(run, name)
        assert list(frame.columns) == list(records.COLUMNS[name])
        told = getattr(Run, name).__doc__.split(">>>")[0]
        assert [c for c in re.findall(r"`(\w+)`", told) if c in frame] == list(frame.columns)
        keys = list(zip(frame.policy.map(ranks), frame.prompt_id.map(places), frame.draw, strict=True))
        assert keys == sorted(keys)


def test_estimates_without_a_filter_are_the_rows_of_estimates_json(run, content):
    both = run.estimate(judge=["deterministic", "uncertainty"])
    assert sorted(map(repr, both.rows)) == sorted(map(repr, content["rows"]))
    headline = run.estimate()
    assert headline.rows == [row for row in content["rows"] if row["judge"] == run.params.estimation.judge]
    assert headline.frame.value.tolist() == pytest.approx([r["value"] for r in headline.rows])
    assert headline.ranking.policy.tolist() == [place["policy"] for place in content["ranking"]]
    chosen = run.estimate(["pi_bad", "p0"], ["snips", "ppi_pp"]).rows
    of = {(r["policy"], r["estimator"]): r for r in headline.rows}
    assert chosen == [of[p, e] for p in ("pi_bad", "p0") for e in ("snips", "ppi_pp")]


def by_hand(run, table, ids) -> list[dict]:
    """The rows of a study of the table's rows of some prompts, for `pi_bad`."""
    logged, fresh = (f[f.prompt_id.isin(ids)].reset_index(drop=True) for f in (table.logged, table.fresh))
    judge = run.params.estimation.judge
    arrays = run.arrays(dataclasses.replace(table, logged=logged, fresh=fresh))
    return evaluation.study({"pi_bad": {judge: arrays["pi_bad"][judge]}}, run.params.estimation.analysis).rows


def test_a_part_is_estimated_as_if_the_run_had_no_other_prompt(run, table):
    ids = [p for p, text in zip(run.prompts.prompt_id, run.prompts.prompt, strict=True) if len(text) < 30]
    part = run.estimate("pi_bad", where="prompt_chars < 30")
    assert 0 < part.n == len(ids) < len(run.prompts)
    assert part.rows == by_hand(run, table, ids)
    assert f"{len(ids)} of the 120 prompts" in repr(part)


def test_every_way_to_choose_prompts_chooses_the_same(run):
    mask = run.prompts.category == "sum"
    ids = run.prompts.prompt_id[mask]
    asked = [mask, mask.tolist(), mask.to_numpy(), run.prompts[mask], ids, list(ids)]
    asked += [lambda frame: frame.category == "sum", mask.sample(frac=1, random_state=1)]
    first = source.part(run.source, "category == 'sum'").table
    assert set(first.logged.prompt_id) == set(ids)
    assert all(source.part(run.source, where).table.logged.equals(first.logged) for where in asked)
    labels = run.labels[(run.labels.kind == "truth") & run.labels.prompt_id.isin(ids)]
    means = labels.groupby(["policy", "prompt_id"]).label.mean().groupby("policy").mean()
    assert dict(zip(first.truth.policy, first.truth.value, strict=True)) == pytest.approx(means.to_dict())


def test_a_part_of_one_prompt_gets_no_number_that_may_be_reported(run):
    first = run.prompts.prompt_id.head(1)
    views = [ask("pi_bad", where=first) for ask in (run.estimate, run.diagnose, run.explain)]
    assert "REPORT" not in set(views[0].frame.verdict)
    assert all("1 of the 120 prompts" in repr(view) and view._repr_html_() for view in views)


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda run: run.diagnose("pi_bda"), "'pi_bda'.*p0, pi_clone.*'pi_bad'"),
        (lambda run: run.estimate(["p0", "nobody"]), "no policy 'nobody'"),
        (lambda run: run.estimate(estimators="snip"), "'snip'.*ppi_pp.*'snips'"),
        (lambda run: run.estimate(estimators=[]), "estimator"),
        (lambda run: run.estimate(judge="determinist"), "'deterministic'"),
        (lambda run: run.heavy_rows("p0"), "p0"),
        (lambda run: run.heavy_rows("pi_terze"), "no target 'pi_terze'.*'pi_terse'"),
        (lambda run: run.prompt("capital_1"), "'capital_1'.*120 .*'capital_"),
        (lambda run: run.diagnose("pi_bad").figure("log_weight"), "'log_weights'"),
        (lambda run: run.estimate(where="response_chars < 9"), "prompts"),
        (lambda run: run.estimate(where="category =="), "where="),
        (lambda run: run.estimate(where="category == 'nothing'"), "nothing"),
        (lambda run: run.estimate(where=[True, False]), "2 booleans for 120 prompts"),
        (lambda run: run.estimate(where=["capital_01", "gone"]), "no prompt 'gone'"),
        (lambda run: Run("lcoal"), "'lcoal'.*'local'"),
        (lambda run: run.estimate(where="category = 'capital'"), "=="),
        (lambda run: run.estimate(where="prompt_chars"), '"prompt_chars < 40"'),
        (lambda run: run.estimate(where="categry == 'sum'"), r"'category'\?.*language, answer, check.* prompt_chars"),
    ],
)  # fmt: skip
def test_a_name_that_is_not_there_is_told_with_those_that_are(run, ask, told):
    with pytest.raises(ArenaError, match=told):
        ask(run)


def test_jupyter_shows_an_error_as_its_message_alone(capsys, home, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(home))
    InteractiveShell().run_cell("from arena10k import Run\nRun('sample').diagnose('pi_bda')")
    shown = capsys.readouterr()
    (line,) = (shown.out + shown.err).strip().splitlines()
    assert line.startswith("ArenaError: no policy 'pi_bda'")


def test_measures_of_a_diagnosis_are_those_of_its_rows(run, table):
    found = run.diagnose("pi_bad")
    judged = table.logged.dropna(subset=[f"judge_{found.judge}"])
    weight = np.exp((judged.logp_pi_bad - judged.logp_p0).to_numpy())
    told = {name.split(" (")[0]: value for name, value in found.measures.items()}
    assert told["mean weight"] == pytest.approx(weight.mean())
    assert told["effective sample size"] == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    assert told["weight of the ten heaviest rows"] == pytest.approx(np.sort(weight)[-10:].sum() / weight.sum())
    assert f"average {weight.mean():.2f}" in " ".join(found.problems["what is wrong"])
    assert found.verdicts.value.tolist() == run.estimate("pi_bad").frame.value.tolist()


def test_problems_are_the_reasons_of_the_estimates_in_words(run):
    for policy in ("p0", "pi_bad"):
        found, wanted = run.diagnose(policy), {}
        for row in (row for row in found.verdicts.itertuples() if row.estimator != "naive" and row.reasons):
            for reason in row.reasons.split(", "):
                wanted.setdefault(reason.replace(" ", "_"), set()).add(row.estimator)
        assert {r.reason: set(r.concerns.split(", ")) for r in found.problems.itertuples()} == wanted
        assert set(wanted) <= set(reasons.WORDS)
    weighted = {"off_support", "few_weighted_labels", "khat_high", "weights_do_not_match_draws"}
    assert not weighted & set(run.diagnose("pi_clone").problems.reason)  # a clone's weights are 1
    for told in (reasons.sentence(reason, found.context) for reason in reasons.WORDS):
        assert told.endswith(".")
        assert not re.search(r"\{|nan", told)


def test_every_reason_a_verdict_can_have_has_words():
    """Reasons are the words of several parts that stand in the code of verdicts and of what they share."""
    makers = [f for f in vars(verdicts).values() if inspect.isfunction(f) and f.__module__ == verdicts.__name__]
    makers = [f for f in makers if f not in (verdicts.estimate_row, verdicts.accepted, verdicts.width_of)]
    code = "".join(textwrap.dedent(inspect.getsource(f)) for f in makers)
    constants = {node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)}
    found = {c for c in constants if isinstance(c, str) and re.fullmatch("[a-z]+(_[a-z]+)+", c)}
    found -= {"by_score", "ci_low", "ci_high"}
    shared = inspect.getsource(context.PolicyContext.wrong_weights.func)
    found |= set(re.findall(r'\["(\w+)"\]', shared)) | {
        *context.WRONG_WEIGHTS,
        *context.DOUBTFUL_WEIGHTS,
        *context.DOUBTFUL_DRAWS,
    }
    assert found | {verdicts.NOT_ON_ORACLE_SCALE} == set(reasons.WORDS)


def test_every_figure_that_is_offered_can_be_drawn(run):
    views = [run.explain("p0"), run.estimate("pi_bad"), run.diagnose("pi_bad"), run.explain("pi_bad")]
    assert {"reliability", "log_weights", "overlap", "ccdf", "permutation"} <= set(views[2].figures)
    for view in views:
        for drawn in map(view.figure, view.figures):
            assert drawn.alt in repr(drawn)
            assert "<img " in drawn._repr_html_()


def test_explanations_are_the_rows_of_anomaly_json(run, table):
    rows = {row["policy"]: row for row in words.anomaly_json(run.investigate(table))["policies"]}
    found = [run.explain(policy) for policy in run.policies]
    assert json.dumps([view.row for view in found]) == json.dumps([rows[view.policy] for view in found])
    assert all(rows[view.policy]["sentence"] in repr(view) for view in found)
    assert found[-1].parts.value.sum() == pytest.approx(rows[found[-1].policy]["gap"])


def test_heavy_rows_are_those_with_the_largest_weights(run, table):
    judged = table.logged.dropna(subset=["judge_uncertainty"]).assign(lw=lambda f: f.logp_pi_terse - f.logp_p0)
    found = run.heavy_rows("pi_terse", top=7).frame
    assert found.prompt_id.tolist() == judged.nlargest(7, "lw").prompt_id.tolist()
    share = np.exp(judged.lw) / np.exp(judged.lw).sum()
    assert found.cumulative.iloc[-1] == pytest.approx(share.nlargest(7).sum())
    labels = judged.set_index("prompt_id").label
    np.testing.assert_array_equal(found.label, labels.loc[found.prompt_id])


def test_disagreements_are_all_labelled_scores_the_furthest_first(run, table):
    both = labelled(run._frames(), table.judges).dropna(subset=["judge_uncertainty"])
    found = run.disagreements(top=3)
    key = ["policy", "prompt_id", "draw"]
    merged = both.merge(found.frame, on=key, suffixes=("", "_told"))
    assert len(merged) == len(both) == len(found)
    assert (merged.label == merged.label_told).all()
    assert (merged.judge_uncertainty == merged.score).all()
    assert found.frame.gap.abs().is_monotonic_decreasing
    assert f"AUC {diagnostics.judge_auc(both.judge_uncertainty.to_numpy(), both.label.to_numpy()):.2f}" in repr(found)
    assert f"{len(both) - 3:,} more rows." in repr(found)


def test_one_prompt_has_every_response_and_weight(spoiled):
    found = spoiled.prompt("copy_01")
    assert len(found.responses) == len(spoiled.policies) * spoiled.params.responses.draws
    one = spoiled.table().logged.set_index("prompt_id").loc["copy_01"]
    weight = found.logged.set_index("policy").weight
    assert weight["pi_bad"] == pytest.approx(np.exp(one.logp_pi_bad - one.logp_p0))
    assert np.isnan(weight["pi_terse"])
    assert "quarantined" in repr(found)


def test_what_a_model_wrote_stays_text(spoiled):
    part = ["copy_05", *spoiled.prompts.prompt_id.head(40)]
    views = [spoiled.prompt("copy_05"), spoiled.heavy_rows("pi_bad", top=200), spoiled.disagreements(top=10**6)]
    views += [spoiled.explain("pi_bad", part, top=50), View([HOSTILE])]
    for html in (view._repr_html_() for view in views):
        assert not re.search(r"<script|<[^>]*onerror", html)
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
        assert "[U+202E]" in html
    assert not any("\u202e" in view._repr_html_() + repr(view) for view in views)


def test_asking_writes_nothing_and_works_beside_a_writer(spoiled):
    home, run = paths.home(), Run(paths.home() / "copy.yaml")
    writer = Store.open(paths.store_file("copy"))
    before = files(home)
    with writer._db:
        writer._db.execute("BEGIN IMMEDIATE")  # as while a collection stores a record
        answers = [run.estimate(estimators="snips", where="category == 'sum'"), run.diagnose("pi_bad")]
        answers += [run.explain("pi_bad"), run.prompt("copy_01"), run.heavy_rows("pi_bad"), run.disagreements()]
        answers += [run._repr_html_(), run.created, run.coverage(), run.records("logprobs")]
        assert all(len(repr(answer)) for answer in answers)
    assert files(home) == before
    writer.close()


def test_a_run_that_is_not_there_is_said_and_not_made(home):
    run = Run("local")
    for ask in (lambda: run.prompts, lambda: run.responses, run.table, run.estimate, lambda: run.explain("pi_bad")):
        with pytest.raises(ArenaError, match=r"'local' .*sample"):
            ask()
    assert "sample" in run._repr_html_()
    assert "Run('local'" in repr(run)
    assert not list(home.iterdir())


def test_a_run_with_prompts_alone_says_what_it_lacks(home):
    copied(home, lambda record: None)
    run = Run(home / "copy.yaml")
    assert all(getattr(run, name).empty for name in FRAMES)
    assert set(run.estimate().frame.verdict) == {"NOT_ASKED"}
    for ask in (run.disagreements, lambda: run.explain("pi_bad"), lambda: run.heavy_rows("pi_bad")):
        with pytest.raises(ArenaError):
            ask()
    assert "none" in repr(run.diagnose("pi_bad"))
    assert "sum_04" in repr(run.prompt("sum_04"))


def test_a_given_table_can_be_explored_too(home, table):
    (home / "data").mkdir()
    columns = [c for c in table.logged if c.startswith(("logp_", "judge_")) or c in ("prompt_id", "label")]
    columns += ["prompt", "response", "category", "response_chars"]
    table.logged[columns].to_parquet(home / "data/logged.parquet")
    table.fresh.drop(columns=["finish_reason"]).to_parquet(home / "data/fresh.parquet")
    given = {name: f"data/{name}.parquet" for name in ("logged", "fresh")}
    (home / "mine.yaml").write_text(json.dumps({"run": "mine", "providers": {}, "policies": {}, "table": given}))
    run = Run(home / "mine.yaml")
    assert len(run.prompts) == table.logged.prompt_id.nunique()
    assert len(run.logprobs) == 120 * 6
    assert len(run.responses) == len(table.logged) + len(table.fresh)
    assert len(run.labels) == table.logged.label.notna().sum() + table.fresh.label.notna().sum()
    categories = ["sum", "color", "copy", "next"]
    ids = table.logged.prompt_id[table.logged.category.isin(categories)]
    assert run.estimate("pi_bad", where=f"category in {categories}").rows == by_hand(run, table, ids)
    views = [run, run.diagnose("pi_bad"), run.explain("pi_bad"), run.prompt("sum_04"), run.disagreements()]
    assert all(view._repr_html_() for view in views)


def test_autocompletion_lists_what_there_is_and_everything_is_explained(run):
    assert [name for name in dir(run) if name.startswith("_")] == []
    for name in set(dir(run)) - {"name", "params"}:
        assert getattr(Run, name).__doc__, name
    assert {"estimate", "diagnose", "explain", "prompts", *FRAMES, "table"} <= set(dir(run))
    assert all(word in repr(run) for word in ("responses", "estimate()", "diagnose(policy)"))


@pytest.mark.parametrize("module", ["arena10k.run", "arena10k.explore.view", "arena10k.errors"])
def test_examples_in_docstrings_hold(run, module):
    tried = doctest.testmod(importlib.import_module(module), extraglobs={"run": run})
    assert tried.attempted
    assert not tried.failed
