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
GIVEN = "run: given\nproviders: {}\npolicies: {}\ntable: {logged: logged.parquet, fresh: fresh.parquet"


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
def read(home, columns):
    """Write the columns, as they are by then, and read them as a table."""

    def write_and_read(**options):
        for name, data in columns.items():
            pq.write_table(pa.table({k: pa.array(v) for k, v in data.items()}), home / f"{name}.parquet")
        return columnar.read(home / "logged.parquet", home / "fresh.parquet", **options)

    return write_and_read


def given(home, more=""):
    (home / "given.yaml").write_text(f"{GIVEN}{more}}}\n")
    return Run(home / "given.yaml")


def test_a_runs_table_through_parquet_gives_the_same_estimates(home):
    """The sample's own table, written as the two files, read by a params file that names them."""
    run = Run("sample")
    table = run.table()
    table.logged.to_parquet(home / "logged.parquet")
    table.fresh.to_parquet(home / "fresh.parquet")
    again = given(home)
    study = again.study(again.table())
    mine, theirs = again.estimates(again.table(), study), run.estimates(table)
    assert (again.table().targets, again.table().missing) == (table.targets, table.missing)
    assert (mine["rows"], mine["ranking"]) == (theirs["rows"], theirs["ranking"])
    json.dumps(mine, allow_nan=False)
    assert set(again.plans(study).policy) == set(run.params.policies)
    assert not paths.store_file("given").exists()
    with pytest.raises(ArenaError, match="'given' is a table that was given: it has no records"):
        again.records("responses")


def test_a_clone_of_a_given_table_is_declared(home, columns, read):
    columns["logged"]["logp_pi"] = columns["logged"]["logp_p0"] + np.where(np.arange(N) % 2, 0.25, 0.0)
    read()

    def noise_floor(clones):
        run = given(home, f", clones: {clones}")
        return run.study(run.table()).contexts["pi", "deterministic"].noise_floor

    assert noise_floor([]) is None
    assert noise_floor(["pi"]).max_abs == pytest.approx(0.25)
    with pytest.raises(ParamsError, match=r"table\.clones: 'qi' is not among the targets: pi"):
        noise_floor(["qi"])


def test_nothing_becomes_a_python_object(read, columns):
    columns["logged"]["response"] = ["some text"] * N
    table = read()
    for frame in (table.logged, table.fresh):
        assert all(isinstance(d, pd.StringDtype) or d.kind in "fi" for d in frame.dtypes), frame.dtypes
    assert table.logged.response[0] == "some text"
    assert table.fresh.label.isna().all()


@pytest.mark.parametrize("value", [-50.0, -100.0, -9999.0, 0.0, -23.5, 0.5, np.inf])
@pytest.mark.parametrize("names", [("pi",), ("p0", "pi")])
def test_what_is_no_log_prob_is_quarantined_and_counted(read, columns, names, value):
    columns["logged"]["logp_pi"][12] = np.nan
    for name in names:
        columns["logged"][f"logp_{name}"][:12] = value
    table = read()
    assert table.quarantined == {name: 12 * (name in names) for name in ("p0", "pi")}
    assert table.missing == {"p0": 12 * ("p0" in names), "pi": 13}
    assert np.isnan(table.log_weights()["pi"]).tolist() == [True] * 13 + [False] * (N - 13)


def test_the_limit_of_positive_values_is_that_of_answers(read, columns):
    columns["logged"]["logp_pi"][:2] = [echo.CEILING, 2 * echo.CEILING]
    assert read().quarantined == {"p0": 0, "pi": 1}
    assert echo.check_logprobs([echo.CEILING]) == [echo.CEILING]
    with pytest.raises(CallError):
        echo.check_logprobs([2 * echo.CEILING])


LONG = {"response": ["y" * 500] * N}
NEAR_ZERO = [*-np.linspace(0.01, 0.03, 3), 0.0, *-np.linspace(0.05, 0.09, 6)]


@pytest.mark.parametrize(
    ("values", "told", "aside"),
    [
        (NEAR_ZERO, {}, 0),
        (NEAR_ZERO, {"response_chars": [3.0] * N}, 0),
        (NEAR_ZERO, {"response_chars": [500.0] * N}, 1),
        (NEAR_ZERO, LONG, 1),
        (NEAR_ZERO, LONG | {"prompt": ["Repeat " + "y" * 500] * N}, 0),
        ([-20.25] * 12, {}, 12),
        ([-20.25] * 12, {"response": ["Yes."] * 12 + [f"Answer {n}" for n in range(N - 12)]}, 0),
        ([-20.25] * 12, {"prompt_id": [0] * 12 + list(range(12, N))}, 0),
    ],
)
def test_a_zero_or_a_shared_value_stays_where_the_text_explains_it(read, columns, values, told, aside):
    columns["logged"]["logp_pi"][: len(values)] = values
    columns["logged"].update(told)
    assert read().quarantined == {"p0": 0, "pi": aside}


def test_other_logging_policy_and_no_fresh_draws(read, columns, home):
    columns["fresh"]["policy"] = ["p0"] * N
    assert read(logging_policy="pi").targets == ["p0"]
    alone = columnar.read(home / "logged.parquet")
    assert (alone.targets, len(alone.fresh)) == (["pi"], 0)


FAULTS = {
    "logged.parquet: no column logp_p0": lambda c: c["logged"].pop("logp_p0"),
    "logged.parquet: no column prompt_id": lambda c: c["logged"].pop("prompt_id"),
    "logged.parquet: no column judge_<name>": lambda c: c["logged"].pop("judge_deterministic"),
    "logged.parquet: row 8: label is 7, outside": lambda c: c["logged"]["label"].__setitem__(7, 7.0),
    "logged.parquet: row 8: label is 1.000001, outside": lambda c: c["logged"]["label"].__setitem__(7, 1.000001),
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


def test_no_file_and_no_parquet(home):
    with pytest.raises(ArenaError, match="no such file"):
        columnar.read(home / "absent.parquet")
    (home / "text.parquet").write_text("prompt_id,logp_p0\n")
    with pytest.raises(ArenaError, match=r"text\.parquet: not a Parquet file"):
        columnar.read(home / "text.parquet")


def test_a_run_of_a_table_has_no_other_policies_and_the_stages_that_need_nothing_else(home):
    run = given(home)
    planned = stages.of(run.params)
    assert all(set(stage.needs) <= set(planned) and not stage.asks for stage in planned.values())
    assert {"06_estimates", "10_simulation"} <= set(planned)
    assert stages.given(run.params) == [str(home / "logged.parquet"), str(home / "fresh.parquet")]
    own = GIVEN.replace("policies: {}", "policies: {p0: {provider: x, model: m}}").replace(
        "{}", "{x: {kind: embedded}}"
    )
    (home / "both.yaml").write_text(f"{own}}}\n")
    with pytest.raises(ParamsError, match="table brings its own policies"):
        Run(home / "both.yaml")
