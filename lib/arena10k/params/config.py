"""The params schema: one YAML file describes one experiment; unknown keys and wrong types are errors.

`load("local")` reads `params/local.yaml`. A file may say `extends: other.yaml`; mappings are merged key by key,
everything else is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from arena10k import paths
from arena10k.errors import ArenaError, ParamsError, meant, one_line
from arena10k.params import imported
from arena10k.params.imported import ImportedParams
from arena10k.params.judge import FORMS, ChatGrader, JudgeParams, OracleParams
from arena10k.params.sections import (
    AblationParams,
    EstimationParams,
    IncidentParams,
    Name,
    PolicyParams,
    PromptsParams,
    Provider,
    ResponsesParams,
    Section,
    TableParams,
)

S = TypeVar("S", bound=Section)


class Params(Section):
    """One experiment."""

    run: str
    title: str = ""
    seed: int = 1
    recording: bool = Field(False, description="data is a committed recording: nothing is collected or written to it")
    logging_policy: Name = "p0"
    providers: dict[Name, Provider]
    policies: dict[Name, PolicyParams]
    prompts: PromptsParams = PromptsParams()
    responses: ResponsesParams = ResponsesParams()
    judge: JudgeParams | None = None
    oracle: OracleParams = OracleParams()
    estimation: EstimationParams = EstimationParams()
    ablations: AblationParams | None = None
    table: TableParams | None = None
    imported: ImportedParams | None = None
    incident: IncidentParams | None = Field(None, description="reproduce an incident on a clean run, and nothing else")

    @property
    def users(self) -> dict[str, PolicyParams | JudgeParams | ChatGrader]:
        """Who asks a provider's model: by params key, everything with a `provider` and a `model`."""
        graders = {"judge": self.judge, "oracle.grader": self.oracle.grader}
        policies = {f"policies.{name}": policy for name, policy in self.policies.items()}
        return policies | {key: grader for key, grader in graders.items() if grader}

    @property
    def asked(self) -> list[str]:
        """Names of the providers that are asked for anything."""
        return list(dict.fromkeys(user.provider for user in self.users.values()))

    @property
    def targets(self) -> list[str]:
        """Every policy but the logging policy, in the order of the file."""
        return [name for name in self.policies if name != self.logging_policy]

    @model_validator(mode="after")
    def _sections_fit(self) -> Params:
        paths.check_run_name(self.run)
        for fault in _faults(self):
            raise ValueError(fault)
        return self


def _faults(params: Params) -> Iterator[str]:
    """What is wrong between the sections of params that are right in themselves."""
    if params.table and (params.policies or params.judge):
        yield "table brings its own policies and scores: give `policies: {}` and no judge"
    if not params.table and params.logging_policy not in params.policies:
        yield f"logging_policy {params.logging_policy!r} is not among policies: {', '.join(params.policies)}"
    for key, user in params.users.items():
        if user.provider not in params.providers:
            yield f"{key}.provider {user.provider!r} is not among providers: {', '.join(params.providers)}"
        prices = params.providers[user.provider].prices
        if prices and user.model not in prices:  # it would be taken to cost nothing
            yield f"providers.{user.provider}.prices has no {user.model!r}, which {key} asks: give its price, or 0"
    # Ids can be turned into text, and text cannot be turned into ids without the endpoint's own tokenizer.
    if params.policies and params.providers[params.policies[params.logging_policy].provider].chat_template:
        for name, policy in params.policies.items():
            can = params.providers[policy.provider].capabilities
            if can.token_ids and can.echo_logprobs:
                yield (
                    f"policies.{name}.provider {policy.provider!r} scores token ids, and {params.logging_policy} "
                    f"responds in text: give providers.{policy.provider} token_ids: false and a chat_template"
                )
    worst = params.ablations.worst if params.ablations else ()
    clones = params.imported.clones if params.imported else ()
    for key, name in [*(("ablations.worst", n) for n in worst), *(("imported.clones", n) for n in clones)]:
        if name not in params.targets:
            yield f"{key}: {name!r} is not among the targets: {', '.join(params.targets)}"


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def contents(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A params file as it is written, with what it extends. Raises ParamsError where it is no YAML mapping."""
    if path in seen:
        raise ParamsError(f"{path.name}: extends itself through {' -> '.join(p.name for p in seen)}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        fault = one_line(error).replace('"<unicode string>"', f'"{path.name}"')
        raise ParamsError(f"{path.name}: not valid YAML: {fault}") from error
    if not isinstance(raw, dict):
        raise ParamsError(f"{path.name}: expected a mapping of keys at the top")
    parent = raw.pop("extends", None)
    if parent is None:
        return raw
    if not isinstance(parent, str) or not (path.parent / parent).is_file():
        raise ParamsError(f"{path.name}: extends: {parent!r} is not a file beside it")
    return _merge(contents((path.parent / parent).resolve(), (*seen, path)), raw)


def _keys_beside(steps: list[Any]) -> list[str]:
    """The keys that the section may have in which a key stands, whatever the form of the section."""
    models: list[Any] = [Params]
    for step in steps[:-1]:
        hints = [model.model_fields[step].annotation for model in models if step in model.model_fields]
        models = [section for hint in hints for section in _models(hint)] or models  # a name or number is no field
    return list(dict.fromkeys(key for model in models for key in model.model_fields))


def _models(hint: Any) -> list[type[BaseModel]]:
    """The sections that an annotation names."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return [hint]
    return [section for part in get_args(hint) for section in _models(part)]


def _lines(name: str, error: ValidationError) -> str:
    """One line per fault: file, key, what is wrong, what was given."""
    out = []
    for fault in error.errors():
        # The form of the judge is a step of the schema, not of the file.
        steps = [
            part for i, part in enumerate(fault["loc"]) if i != 1 or fault["loc"][0] != "judge" or part not in FORMS
        ]
        where = ".".join(map(str, steps)) or "(top)"
        if fault["type"] == "extra_forbidden":
            out.append(f"{name}: {where}: unknown key{meant(steps[-1], _keys_beside(steps))}")
        elif fault["type"] == "missing":
            out.append(f"{name}: {where}: missing")
        else:
            choices = re.findall(r"'([^']*)'", fault["msg"]) if fault["type"] == "literal_error" else []
            given = "" if isinstance(fault["input"], dict | BaseModel) else f" (got {fault['input']!r:.80})"
            out.append(
                f"{name}: {where}: {fault['msg'].removeprefix('Value error, ')}{given}{meant(fault['input'], choices)}"
            )
    return "\n".join(out)


def load(name: str | Path, run: str | None = None) -> Params:
    """Read and check a params file.

    Parameters
    ----------
    name : params file: `local`, `local.yaml` or a path; or a run that was imported and has none.
    run : replaces the run name in the file, so that one file can serve several data folders.

    Raises ParamsError: one line per fault, each with file, key and what was found.
    """
    path, raw = _of_run(name, run)
    if "imported" in raw:
        raw = _merge(imported.of_data(path.name, raw), {key: value for key, value in raw.items() if value is not None})
    return _validated(Params, path, raw)


def load_import(name: str | Path, run: str | None = None) -> tuple[str, str | None, ImportedParams]:
    """What a params file says of an import that is still to be made: run, logging policy where it names one, and the
    section `imported`.

    Raises ParamsError: as `load`, and for a file without that section.
    """
    path, raw = _of_run(name, run)
    if "imported" not in raw or "run" not in raw:
        raise ParamsError(f"{path.name}: a file that describes an import has `run` and `imported`")
    keys = {"imported": raw["imported"], "run": raw["run"], "logging_policy": raw.get("logging_policy")}
    declared = _validated(_Importing, path, keys)
    return paths.check_run_name(declared.run), declared.logging_policy, declared.imported or ImportedParams()


class _Importing(Section):
    run: str
    logging_policy: Name | None
    imported: ImportedParams | None


def _validated(schema: type[S], path: Path, raw: dict[str, Any]) -> S:
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        raise ParamsError(_lines(path.name, error)) from error


def opened(name: str | Path, run: str | None = None) -> tuple[Path, str | None]:
    """The params file that `name` stands for, and the run where the file does not say it.

    A run in CJE's layout needs no params of its own: its name stands for `params/imported.yaml`. One of tables was made
    with a file of the user's, which is the one to name.

    Raises ArenaError where there is neither.
    """
    try:
        return paths.params_file(name), run
    except ArenaError:
        if str(name) not in paths.made_runs() or not imported.is_of_cje(str(name)):
            raise
        return paths.source_root() / "params" / "imported.yaml", run or str(name)


def _of_run(name: str | Path, run: str | None) -> tuple[Path, dict[str, Any]]:
    path, run = opened(name, run)
    raw = contents(path)
    return path, raw | {"run": run} if run else raw
