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
NOT_IDS = {"echo_logprobs": True, "token_ids": False}
FAULTS = [
    ("polices", {}, "polices: unknown key; did you mean 'policies'"),
    ("policies.p0.temprature", 1.0, "policies.p0.temprature: unknown key; did you mean 'temperature'?"),
    ("judge", JUDGE | {"min_mas": 1}, "judge.min_mas: unknown key; did you mean 'min_mass'?"),
    ("prompts", {"source": "buildin"}, "'arena' (got 'buildin'); did you mean 'builtin'?"),
    ("policies.p0.max_tokens", "many", "policies.p0.max_tokens: "),
    ("policies.p0.max_tokens", 0, "policies.p0.max_tokens: "),
    ("policies.p0.provider", "nowhere", "policies.p0.provider 'nowhere'"),
    ("policies.P0", {"provider": "local", "model": "m"}, "rename one"),
    ("policies.pi a", {"provider": "local", "model": "m"}, "policies.pi a: is no name"),
    ("logging_policy", "p9", "logging_policy 'p9'"),
    ("seed", "12", "seed: "),
    ("providers.local.kind", "openai", "base_url"),
    ("providers.local.prices", {"other": {"prompt": 1, "completion": 1}}, "providers.local.prices has no 'm'"),
    ("providers.local.capabilities", NOT_IDS, "providers.local: echo_logprobs needs "),
    ("providers.local.bos_token", "<s>", "providers.local: bos_token goes with a chat_template"),
    ("providers.local.extra_body", {"stream": True}, "providers.local.extra_body: stream "),
    ("policies.p0.extra_body", {"max_tokens": 5}, "policies.p0.extra_body: max_tokens "),
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
    ("responses", {"logged_draws": 2}, "responses: logged_draws cannot exceed draws"),
    ("table", {"logged": "a.parquet"}, "policies: {}"),
    ("ablations", {"worst": ["pi_z"]}, "ablations.worst: 'pi_z'"),
    ("ablations", {"sweep": {"labels": [2]}}, "ablations: sweep.labels: 2 "),
    ("incident", {"short_share": 0.1}, "incident: short_share 0.1 "),
    ("extends", "gone.yaml", "extends: 'gone.yaml' is not a file beside it"),
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


def test_bad_yaml_is_named_and_extends_merges_mappings_and_refuses_circles(tmp_path):
    with pytest.raises(ParamsError, match=r'try\.yaml: not valid YAML: [^<]* in "try\.yaml", line 1'):
        config.load(write(tmp_path, "run: [unclosed"))
    with pytest.raises(ParamsError, match="mapping"):
        config.load(write(tmp_path, "- a list"))
    write(tmp_path, GOOD, "base.yaml")
    child = write(tmp_path, {"extends": "base.yaml", "run": "child", "policies": {"pi_a": {"max_tokens": 7}}})
    params = config.load(child)
    assert (params.run, params.policies["pi_a"].max_tokens, params.policies["pi_a"].model) == ("child", 7, "m")
    with pytest.raises(ParamsError, match="extends itself"):
        config.load(write(tmp_path, {"extends": "try.yaml"}))


def test_every_shipped_params_file_is_valid():
    for file in sorted((paths.source_root() / "params").glob("*.yaml")):
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
    raw = changed("policies.pi_a.leave_out", ["top_p"])
    own = policies(config.load(write(tmp_path, raw)))["pi_a"].fingerprint
    provider = raw["policies"]["pi_a"]["provider"]
    raw["providers"][provider]["leave_out"] = ["temperature"]
    assert policies(config.load(write(tmp_path, raw)))["pi_a"].fingerprint != own, "its provider's beside its own"
    seeds = {p.seed(1, prompt, draw) for p in base.values() for prompt in ("a", "b") for draw in range(3)}
    assert len(seeds) == 12


def test_a_params_file_is_found_from_the_working_directory_first_and_named_from_where_it_is_found_again(
    home, tmp_path, monkeypatch
):
    mine = write(home, GOOD, "mine.yaml")
    assert paths.shown(mine.resolve()) == "mine.yaml"
    here, elsewhere = tmp_path / "here", tmp_path / "data disk"
    monkeypatch.setenv("ARENA10K_HOME", str(elsewhere))
    assert paths.shown(mine) == str(mine)
    assert paths.shown(paths.params_file("local")) == "params/local.yaml"
    assert paths.params_file(paths.shown(paths.params_file("sample"))) == paths.params_file("sample")
    for folder in (here, elsewhere):
        (folder / "params").mkdir(parents=True)
        write(folder / "params", GOOD, "mine.yaml")
    monkeypatch.chdir(here)
    for name in ("params/mine.yaml", "params/mine", "mine"):
        assert paths.params_file(name) == here / "params" / "mine.yaml"
    (here / "params" / "mine.yaml").unlink()
    assert paths.params_file("params/mine.yaml") == paths.params_file("mine") == elsewhere / "params" / "mine.yaml"
    name = f"{'deep/' * 30}mien.yaml"
    with pytest.raises(ArenaError) as caught:
        paths.params_file(name)
    assert all(str(part) in str(caught.value) for part in (repr(name), here, elsewhere, paths.source_root()))


def test_what_params_leave_out_is_named_where_needed_and_else_as_the_statistics_have_it():
    assert section("there", "judge") == "there"
    with pytest.raises(ArenaError, match="`ablations`"):
        section(None, "ablations")
    assert EstimationParams().analysis == Analysis()
    assert EstimationParams(belief="labels", folds=3).analysis == Analysis(belief="labels", folds=3)


@pytest.mark.parametrize(
    ("field", "off", "on"),
    [
        ("xtc_probability", 0.0, 0.5),
        ("do_sample", True, False),
        ("logit_bias", {}, {"50256": -100}),
        ("mirostat", 0, 2),
        ("min_tokens", 0, 5),
        ("top_k", -1, 1),
    ],
)
def test_a_sampler_that_the_params_declare_is_not_what_log_probs_are_of(tmp_path, field, off, on):
    found = [
        policies(config.load(write(tmp_path, changed("policies.pi_a.extra_body", {field: value}))))["pi_a"]
        for value in (off, on)
    ]
    assert [policy.temperature_mismatch for policy in found] == [False, True]
