"""Params files: what is wrong with one is said in one line per fault, with file and key."""

from __future__ import annotations

import copy

import pytest
import yaml

from arena10k import paths
from arena10k.analysis import Analysis
from arena10k.errors import ArenaError, ParamsError, section
from arena10k.inputs.policies import policies
from arena10k.params import config
from arena10k.params.sections import EstimationParams

GOOD = {
    "run": "try",
    "providers": {"local": {"kind": "embedded"}},
    "policies": {"p0": {"provider": "local", "model": "m"}, "pi_a": {"provider": "local", "model": "m"}},
}


def write(folder, content, name="try.yaml"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def changed(where, value):
    params = copy.deepcopy(GOOD)
    *parents, last = where.split(".")
    node = params
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = value
    return params


JUDGE = {"form": "chat", "provider": "local", "model": "m", "case": "{prompt}{response}"}
FAULTS = [
    ("polices", {}, "polices: unknown key; did you mean 'policies'"),
    ("policies.p0.temprature", 1.0, "policies.p0.temprature: unknown key; did you mean 'temperature'?"),
    ("judge", JUDGE | {"min_mas": 1}, "judge.min_mas: unknown key; did you mean 'min_mass'?"),
    ("prompts", {"source": "buildin"}, "'arena' (got 'buildin'); did you mean 'builtin'?"),
    ("policies.p0.max_tokens", "many", "policies.p0.max_tokens: "),
    ("policies.p0.max_tokens", 0, "policies.p0.max_tokens: "),
    ("policies.p0.provider", "nowhere", "policies.p0.provider 'nowhere'"),
    ("logging_policy", "p9", "logging_policy 'p9'"),
    ("seed", "12", "seed: "),
    ("providers.local.kind", "openai", "base_url"),
    ("run", "../elsewhere", "run name '../elsewhere'"),
    ("prompts", {"source": "csv"}, "prompts.source: "),
    ("prompts", {"source": "arena"}, "prompts: path "),
    ("prompts", {"path": "a.jsonl"}, "prompts: path "),
    ("prompts", {"language": "English"}, "prompts: language "),
    ("prompts", {"source": "jsonl", "path": "a.json"}, "prompts: path 'a.json': "),
    ("prompts", {"source": "arena", "path": "a.csv"}, "prompts: path 'a.csv': "),
    ("prompts.min_chars", 0, "prompts.min_chars: "),
    ("prompts.max_chars", "9", "prompts.max_chars: "),
    ("prompts", {"min_chars": 9, "max_chars": 8}, "prompts: min_chars 9 "),
    ("prompts", {"source": "arena", "path": "a.json", "language": " "}, "prompts.language: "),
    ("table", {"logged": "a.parquet"}, "policies: {}"),
    ("ablations", {"worst": ["pi_z"]}, "ablations.worst: 'pi_z'"),
]


@pytest.mark.parametrize(("where", "value", "says"), FAULTS)
def test_a_fault_is_one_line_with_file_and_key(tmp_path, where, value, says):
    with pytest.raises(ArenaError) as caught:
        config.load(write(tmp_path, changed(where, value)))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_faults_are_several_lines(tmp_path):
    params = changed("policies.p0.max_tokens", "many") | {"sed": 1}
    with pytest.raises(ParamsError) as caught:
        config.load(write(tmp_path, params))
    assert sorted(line.split(": ")[1] for line in str(caught.value).splitlines()) == ["policies.p0.max_tokens", "sed"]


def test_missing_files_and_bad_yaml_are_named(tmp_path):
    with pytest.raises(ArenaError, match="no params file 'nowhere'"):
        config.load("nowhere")
    with pytest.raises(ParamsError, match=r'try\.yaml: not valid YAML: [^<]* in "try\.yaml", line 1'):
        config.load(write(tmp_path, "run: [unclosed"))
    with pytest.raises(ParamsError, match="mapping"):
        config.load(write(tmp_path, "- a list"))


def test_extends_merges_mappings_and_refuses_circles(tmp_path):
    write(tmp_path, GOOD, "base.yaml")
    child = write(tmp_path, {"extends": "base.yaml", "run": "child", "policies": {"pi_a": {"max_tokens": 7}}})
    params = config.load(child)
    assert (params.run, params.policies["pi_a"].max_tokens, params.policies["pi_a"].model) == ("child", 7, "m")
    with pytest.raises(ParamsError, match="extends itself"):
        config.load(write(tmp_path, {"extends": "try.yaml"}))


def test_every_shipped_params_file_is_valid():
    files = sorted((paths.source_root() / "params").glob("*.yaml"))
    assert files
    for file in files:
        if "imported" in yaml.safe_load(file.read_text()):
            # Its policies come with the data.
            assert config.load_import(file)[0] == "imported"
        else:
            assert config.load(file).policies


def test_the_shipped_variant_differs_by_the_temperature_of_its_targets_alone():
    base, variant = (policies(config.load(name)) for name in ("arena10k", "arena10k_t05"))
    assert not any(p.temperature_mismatch for p in base.values())
    assert base["p0"].fingerprint == base["pi_clone"].fingerprint == variant["p0"].fingerprint
    assert {name for name, p in variant.items() if p.temperature_mismatch} == set(config.load("arena10k_t05").targets)
    for name, policy in variant.items():
        assert policy.params.model_copy(update={"temperature": 1.0}) == base[name].params


def test_fingerprint_sees_every_part_of_the_definition_and_not_the_name_and_seeds_see_all(tmp_path):
    base = policies(config.load(write(tmp_path, GOOD)))
    assert base["p0"].fingerprint == base["pi_a"].fingerprint
    parts = {"model": "other", "system": "Be brief.", "suffix": " Think.", "temperature": 0.5, "top_p": 0.9}
    for where, value in (parts | {"max_tokens": 5, "examples": [{"user": "a", "assistant": "b"}]}).items():
        other = policies(config.load(write(tmp_path, changed(f"policies.pi_a.{where}", value))))
        assert other["pi_a"].fingerprint != base["p0"].fingerprint, where
    seeds = {p.seed(1, prompt, draw) for p in base.values() for prompt in ("a", "b") for draw in range(3)}
    assert len(seeds) == 12


def test_a_params_file_is_named_from_where_it_is_found_again(home, tmp_path, monkeypatch):
    assert paths.shown(paths.params_file("local")) == "params/local.yaml"
    mine = home / "mine.yaml"
    mine.write_text("extends: none.yaml")
    assert paths.shown(mine.resolve()) == "mine.yaml"
    outside = tmp_path / "elsewhere" / "x.yaml"
    monkeypatch.setenv("ARENA10K_HOME", str(tmp_path / "other"))
    assert paths.shown(outside) == str(outside)
    assert paths.params_file(paths.shown(paths.params_file("sample"))) == paths.params_file("sample")


def test_a_params_file_is_found_from_the_working_directory_first(home, tmp_path, monkeypatch):
    here, elsewhere = tmp_path / "here", tmp_path / "data disk"
    monkeypatch.setenv("ARENA10K_HOME", str(elsewhere))
    for folder in (here, elsewhere):
        (folder / "params").mkdir(parents=True)
        write(folder / "params", GOOD, "mine.yaml")
    monkeypatch.chdir(here)
    for name in ("params/mine.yaml", "params/mine", "mine"):
        assert paths.params_file(name) == here / "params" / "mine.yaml"
    (here / "params" / "mine.yaml").unlink()
    assert paths.params_file("params/mine.yaml") == paths.params_file("mine") == elsewhere / "params" / "mine.yaml"


def test_a_params_file_that_is_not_there_is_named_whole_with_where_it_was_looked_for(home, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    name = f"{'deep/' * 30}mien.yaml"
    with pytest.raises(ArenaError) as caught:
        paths.params_file(name)
    assert f"no params file {name!r}" in str(caught.value)
    for folder in (here, home, paths.source_root()):
        assert str(folder) in str(caught.value)


def test_a_part_of_the_params_that_is_needed_and_left_out_is_named():
    assert section("there", "judge") == "there"
    with pytest.raises(ArenaError, match="`ablations`"):
        section(None, "ablations")


def test_params_left_out_ask_for_what_the_statistics_do_by_themselves():
    assert EstimationParams().analysis == Analysis()
    assert EstimationParams(belief="labels", folds=3).analysis == Analysis(belief="labels", folds=3)
