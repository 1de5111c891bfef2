"""The analysis table from Parquet: the same estimates as from records, texts and numbers never as Python objects, and
one line for every fault a user can mend."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arena10k import ArenaError, ParamsError, Run, paths
from arena10k.collection import echo
from arena10k.errors import CallError
from arena10k.frames import columnar
from arena10k.pipeline import stages

N = 60


@pytest.fixture
def columns():
    """Logged and fresh columns of one target."""
    rng = np.random.default_rng(0)
    logged = {
        "prompt_id": np.arange(N),
        "logp_p0": -20 - rng.random(N),
        "logp_pi": -20 - rng.random(N),
        "judge_deterministic": rng.integers(0, 5, N) / 4,
        "label": np.where(rng.random(N) < 0.5, rng.integers(0, 2, N), np.nan),
    }
    fresh = {"policy": ["pi"] * N, "prompt_id": np.arange(N), "judge_deterministic": rng.integers(0, 5, N) / 4}
    return {"logged": logged, "fresh": fresh}


@pytest.fixture
def read(tmp_path, columns):
    """Write the columns, as they are by then, and read them as a table."""

    def write_and_read(**options):
        for name, data in columns.items():
            pq.write_table(pa.table({k: pa.array(v) for k, v in data.items()}), tmp_path / f"{name}.parquet")
        return columnar.read(tmp_path / "logged.parquet", tmp_path / "fresh.parquet", **options)

    return write_and_read


def test_a_runs_table_through_parquet_gives_the_same_estimates(home):
    """The sample's own table, written as the two files, read by a params file that names them."""
    run = Run("sample")
    table = run.table()
    table.logged.to_parquet(home / "logged.parquet")
    table.fresh.to_parquet(home / "fresh.parquet")
    (home / "given.yaml").write_text(
        "run: given\nproviders: {}\npolicies: {}\ntable: {logged: logged.parquet, fresh: fresh.parquet}\n"
    )
    given = Run(home / "given.yaml")
    again = given.table()
    mine, theirs = given.estimates(again), run.estimates(table)
    assert again.targets == table.targets
    assert again.missing == table.missing
    assert mine["rows"] == theirs["rows"]
    assert mine["ranking"] == theirs["ranking"]
    json.dumps(mine, allow_nan=False)
    assert set(given.plans(given.study(again)).policy) == set(run.params.policies)
    assert not paths.store_file("given").exists()


def test_a_clone_of_a_given_table_is_declared(home, columns):
    columns["logged"]["logp_pi"] = columns["logged"]["logp_p0"] + np.where(np.arange(N) % 2, 0.25, 0.0)
    for name, data in columns.items():
        pq.write_table(pa.table({k: pa.array(v) for k, v in data.items()}), home / f"{name}.parquet")

    def given(clones):
        files = f"{{logged: logged.parquet, fresh: fresh.parquet, clones: {clones}}}"
        (home / "given.yaml").write_text(f"run: given\nproviders: {{}}\npolicies: {{}}\ntable: {files}\n")
        run = Run(home / "given.yaml")
        return run.study(run.table()).contexts["pi", "deterministic"].noise_floor

    assert given([]) is None
    assert given(["pi"]).max_abs == pytest.approx(0.25)
    with pytest.raises(ParamsError, match=r"table\.clones: 'qi' is not among the targets: pi"):
        given(["qi"])


def test_nothing_becomes_a_python_object(read, columns):
    columns["logged"]["response"] = ["some text"] * N
    table = read()
    for frame in (table.logged, table.fresh):
        assert all(isinstance(d, pd.StringDtype) or d.kind in "fi" for d in frame.dtypes), frame.dtypes
    assert table.logged.response[0] == "some text"
    assert table.fresh.label.isna().all()


def test_missing_and_impossible_log_probs_are_counted(read, columns):
    columns["logged"]["logp_pi"][:3] = [0.5, np.inf, np.nan]
    table = read()
    assert table.quarantined == {"p0": 0, "pi": 2}
    assert table.missing == {"p0": 0, "pi": 3}
    assert np.isnan(table.log_weights()["pi"][:3]).all()


def spoil(columns, *names, rows=12, value):
    for name in names:
        columns["logged"][f"logp_{name}"][:rows] = value


@pytest.mark.parametrize("value", [-50.0, -100.0, -9999.0, 0.0, -23.5])
@pytest.mark.parametrize("names", [("pi",), ("p0", "pi")])
def test_what_stands_for_a_missing_log_prob_is_quarantined(read, columns, names, value):
    spoil(columns, *names, value=value)
    table = read()
    assert table.quarantined == {name: 12 * (name in names) for name in ("p0", "pi")}
    assert table.missing["pi"] == 12
    assert np.isnan(table.log_weights()["pi"]).tolist() == [True] * 12 + [False] * (N - 12)


def test_the_limit_of_positive_values_is_that_of_answers(read, columns):
    columns["logged"]["logp_pi"][:2] = [echo.CEILING, 2 * echo.CEILING]
    assert read().quarantined == {"p0": 0, "pi": 1}
    assert echo.check_logprobs([echo.CEILING]) == [echo.CEILING]
    with pytest.raises(CallError):
        echo.check_logprobs([2 * echo.CEILING])


@pytest.mark.parametrize(
    ("given", "aside"),
    [
        ({}, 0),
        ({"response_chars": [3.0] * N}, 0),
        ({"response_chars": [500.0] * N}, 1),
        ({"response": ["y" * 500] * N}, 1),
        ({"response": ["y" * 500] * N, "prompt": ["Repeat " + "y" * 500] * N}, 0),
    ],
)
def test_a_lone_zero_stays_where_the_text_may_be_certain(read, columns, given, aside):
    columns["logged"]["logp_pi"][:10] = -np.linspace(0.01, 0.09, 10)
    columns["logged"]["logp_pi"][3] = 0.0
    columns["logged"].update(given)
    assert read().quarantined == {"p0": 0, "pi": aside}


@pytest.mark.parametrize(
    "own",
    [
        {"response": ["Yes."] * 12 + [f"Answer {n}" for n in range(N - 12)]},
        {"prompt_id": [0] * 12 + list(range(12, N))},
    ],
)
def test_rows_of_one_response_may_share_a_value(read, columns, own):
    spoil(columns, "pi", value=-20.25)
    columns["logged"].update(own)
    assert read().quarantined == {"p0": 0, "pi": 0}


def test_other_logging_policy_and_no_fresh_draws(read, columns, tmp_path):
    columns["fresh"]["policy"] = ["p0"] * N
    assert read(logging_policy="pi").targets == ["p0"]
    alone = columnar.read(tmp_path / "logged.parquet")
    assert alone.targets == ["pi"]
    assert len(alone.fresh) == 0


FAULTS = {
    "logged.parquet: no column logp_p0": lambda c: c["logged"].pop("logp_p0"),
    "logged.parquet: no column prompt_id": lambda c: c["logged"].pop("prompt_id"),
    "logged.parquet: no column judge_deterministic": lambda c: c["logged"].pop("judge_deterministic"),
    "logged.parquet: row 8: label is 7, outside": lambda c: c["logged"]["label"].__setitem__(7, 7.0),
    "logged.parquet: row 4: prompt_id is missing (2 such rows)": lambda c: c["logged"].update(
        prompt_id=[None if n in (3, 5) else n for n in range(N)]
    ),
    "fresh.parquet: row 2: prompt_id is missing (1 such rows)": lambda c: c["fresh"].update(
        prompt_id=[0.0, np.nan, *map(float, range(2, N))]
    ),
    "logged.parquet: column logp_pi holds string, not numbers": lambda c: c["logged"].update(logp_pi=["-1.5"] * N),
    "fresh.parquet: no column policy": lambda c: c["fresh"].pop("policy"),
    "fresh.parquet: policy 'pj' has no column logp_pj": lambda c: c["fresh"].update(policy=["pi"] * (N - 1) + ["pj"]),
}


@pytest.mark.parametrize("says", FAULTS)
def test_faults_are_named_in_one_line(read, columns, says):
    FAULTS[says](columns)
    with pytest.raises(ArenaError) as error:
        read()
    assert str(error.value).startswith(says)
    assert "\n" not in str(error.value)


def test_no_file_and_no_parquet(tmp_path):
    with pytest.raises(ArenaError, match="no such file"):
        columnar.read(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("prompt_id,logp_p0\n")
    with pytest.raises(ArenaError, match=r"text\.parquet: not a Parquet file"):
        columnar.read(tmp_path / "text.parquet")


def test_a_table_brings_its_own_policies(home):
    policy = "{provider: x, model: m}"
    (home / "both.yaml").write_text(
        f"run: both\nproviders: {{x: {{kind: embedded}}}}\npolicies: {{p0: {policy}}}\ntable: {{logged: a.parquet}}\n"
    )
    with pytest.raises(ParamsError, match="table brings its own policies"):
        Run(home / "both.yaml")


def test_a_run_of_a_table_has_the_stages_that_need_nothing_else(home):
    (home / "given.yaml").write_text("run: given\nproviders: {}\npolicies: {}\ntable: {logged: a.parquet}\n")
    planned = stages.of(Run(home / "given.yaml").params)
    assert all(set(stage.needs) <= set(planned) and not stage.asks for stage in planned.values())
    assert {"06_estimates", "10_simulation"} <= set(planned)
    assert stages.given(Run(home / "given.yaml").params) == [str(home / "a.parquet")]
    assert stages.of(Run("sample").params) is stages.STAGES
