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
from arena10k.params import imported, sections
from arena10k.params.imported import ImportedParams
from arena10k.params.judge import (
    FORMS,
    MODES,
    AnyGrader,
    BothModes,
    ChatGrader,
    ChatJudge,
    JudgeParams,
    OracleParams,
    PairGrader,
)
from arena10k.params.sections import Name, PolicyParams, Provider, Section

S = TypeVar("S", bound=Section)


def _in_both_modes(validated: dict[str, Any]) -> dict[str, Any]:
    """What the shorthand `judge` stands for."""
    judge = validated.get("judge")
    return {mode: judge.model_copy(update={"mode": mode}) for mode in MODES} if judge else {}


class Params(Section):
    """One experiment. `judges` by name: those of the file, or the two that the shorthand `judge` stands for."""

    run: str
    title: str = ""
    seed: int = 1
    recording: bool = Field(False, description="data is a committed recording: nothing is collected or written to it")
    logging_policy: Name = "p0"
    providers: dict[Name, Provider]
    policies: dict[Name, PolicyParams]
    prompts: sections.PromptsParams = sections.PromptsParams()
    responses: sections.ResponsesParams = sections.ResponsesParams()
    judge: BothModes | None = Field(None, description="two judges: one named for each mode")
    judges: dict[Name, JudgeParams] = Field(default_factory=_in_both_modes)
    oracle: OracleParams = OracleParams()
    estimation: sections.EstimationParams = sections.EstimationParams()
    ablations: sections.AblationParams | None = None
    table: sections.TableParams | None = None
    imported: ImportedParams | None = None
    incident: sections.IncidentParams | None = Field(
        None, description="reproduce an incident on a clean run, and nothing else"
    )

    @model_validator(mode="before")
    @classmethod
    def _first_judge_speaks(cls, raw: Any) -> Any:
        """Of named judges the first headlines where `estimation` names none; null is none."""
        raw = {key: value for key, value in raw.items() if key != "judges" or value is not None}
        judges, estimation = raw.get("judges"), raw.get("estimation", {})
        if judges and isinstance(judges, dict) and isinstance(estimation, dict):
            first = next(iter(judges))
            raw["estimation"] = ({"judge": first} if re.match(sections.NAME, str(first)) else {}) | estimation
        return raw

    @property
    def judge_names(self) -> list[str]:
        """The names of the run's judges; where none is asked, of those whose scores an import may have brought."""
        return list(self.judges or MODES)

    @property
    def users(self) -> dict[str, PolicyParams | AnyGrader]:
        """Who asks a provider's model: by params key, everything with a `provider` and a `model`."""
        named = {"judge": self.judge} if self.judge else {f"judges.{name}": one for name, one in self.judges.items()}
        graders = {**named, "oracle.grader": self.oracle.grader}
        policies = {f"policies.{name}": policy for name, policy in self.policies.items()}
        return policies | {key: grader for key, grader in graders.items() if grader}

    @property
    def asked(self) -> list[str]:
        """Names of the providers that are asked for anything."""
        return list(dict.fromkeys(user.provider for user in self.users.values()))

    @property
    def is_priced(self) -> bool:
        """Whether any provider has prices: without any, everything is taken to cost nothing."""
        return any(provider.prices for provider in self.providers.values())

    @property
    def targets(self) -> list[str]:
        """Every policy but the logging policy, in the order of the file."""
        return [name for name in self.policies if name != self.logging_policy]

    def faults(self) -> Iterator[str]:
        paths.check_run_name(self.run)
        if self.table and (self.policies or self.judges):
            yield "table brings its own policies and scores: give `policies: {}` and no judge"
        yield from self._judge_faults()
        if not self.table and self.logging_policy not in self.policies:
            yield f"logging_policy {self.logging_policy!r} is not among policies: {', '.join(self.policies)}"
        for key, user in self.users.items():
            if user.provider not in self.providers:
                yield f"{key}.provider {user.provider!r} is not among providers: {', '.join(self.providers)}"
            prices = self.providers[user.provider].prices
            if prices and user.model not in prices:  # it would be taken to cost nothing
                yield f"providers.{user.provider}.prices has no {user.model!r}, which {key} asks: give its price, or 0"
        # Ids can be turned into text, and text cannot be turned into ids without the endpoint's own tokenizer.
        if self.policies and self.providers[self.policies[self.logging_policy].provider].chat_template:
            for name, policy in self.policies.items():
                can = self.providers[policy.provider].capabilities
                if can.token_ids and can.echo_logprobs:
                    yield (
                        f"policies.{name}.provider {policy.provider!r} scores token ids, and {self.logging_policy} "
                        f"responds in text: give providers.{policy.provider} token_ids: false and a chat_template"
                    )
        worst = self.ablations.worst if self.ablations else ()
        clones = self.imported.clones if self.imported else ()
        for key, name in [*(("ablations.worst", n) for n in worst), *(("imported.clones", n) for n in clones)]:
            if name not in self.targets:
                yield f"{key}: {name!r} is not among the targets: {', '.join(self.targets)}"

    def _judge_faults(self) -> Iterator[str]:
        if self.judge and "judges" in self.model_fields_set:
            yield "judge: it stands for two judges and does not go with judges: leave out one (judge: null if extended)"
        if self.judge and "mode" in self.judge.model_fields_set:
            yield "judge.mode: judge is asked in both modes; a judge of one mode stands in judges, under a name"
        for name in (name for name in self.judges if name.endswith("_sd")):
            yield f"judges.{name}: columns that end in _sd are standard deviations: choose another name"
        for key, names in (("policies", self.policies), ("judges", self.judges)):
            alike = {name.casefold(): name for name in names}
            for name in (name for name in names if alike[name.casefold()] != name):
                yield f"{key}.{name}: files and columns cannot tell it from {alike[name.casefold()]}: rename one"
        unused = ChatJudge.model_fields.keys() - ChatGrader.model_fields.keys() - {"form", "mode", "draws"}
        for name, judge in self.judges.items() if "judges" in self.model_fields_set else ():
            if isinstance(judge, ChatJudge) and "mode" not in judge.model_fields_set:
                for key in sorted(unused & judge.model_fields_set):
                    yield f"judges.{name}.{key}: goes with mode: uncertainty: write the mode"
        for key, grader in self.users.items():
            if isinstance(grader, PairGrader) and not (self.targets or self.table):
                yield f"{key}: form: pair compares policies with {self.logging_policy}: name another in policies"
        given = self.estimation.judge
        if not self.table and given not in (judges := self.judge_names):
            yield f"estimation.judge: {given!r} is not among the judges: {', '.join(judges)}{meant(given, judges)}"


class _OnceEach(yaml.SafeLoader):
    """YAML in which a key stands once in its mapping: of two values nobody can tell which is meant."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            name, line = key.value if key.tag != "tag:yaml.org,2002:merge" else id(key), key.start_mark.line + 1
            if isinstance(name, str) and lines.setdefault(name, line) != line:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{name} stands twice, in lines {lines[name]} and {line}: keep one", key.start_mark
                )
        return super().construct_mapping(node, deep)


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
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_OnceEach)  # a SafeLoader
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


def _beside(schema: type[BaseModel], steps: list[Any]) -> list[type[BaseModel]]:
    """What the section in which a key stands may be, in all its forms."""

    def models(hint: Any) -> list[type[BaseModel]]:
        if isinstance(hint, type) and issubclass(hint, BaseModel):
            return [hint]
        return [section for part in get_args(hint) for section in models(part)]

    beside: list[Any] = [schema]
    for step in steps[:-1]:
        hints = [model.model_fields[step].annotation for model in beside if step in model.model_fields]
        beside = [section for hint in hints for section in models(hint)] or beside  # a name or number is no field
    return list(dict.fromkeys(beside))


def _forms(beside: list[type[BaseModel]], key: Any, has: bool) -> str:
    """The forms of a section that have a key, or have it not."""
    fields = [model.model_fields for model in beside]
    return " or ".join(get_args(own["form"].annotation)[0] for own in fields if "form" in own and (key in own) is has)


def _said(fault: Any, schema: type[BaseModel], steps: list[Any]) -> str:
    """What is wrong with a key, and what was given."""
    message, given, kind = str(fault["msg"]).removeprefix("Value error, "), fault["input"], fault["type"]
    if kind in ("extra_forbidden", "missing"):
        beside, key = _beside(schema, steps), steps[-1]
        forms = _forms(beside, key, has=kind == "extra_forbidden")
        if kind == "missing":
            return f"missing{f'; form: {forms} needs none' if forms else ''}"
        keys = {key for model in beside for key in model.model_fields}
        return f"unknown key{f'; it goes with form: {forms}' if forms else meant(key, keys - {key})}"
    choices = re.findall(r"'([^']*)'", message) if kind == "literal_error" else []
    if kind == "string_pattern_mismatch" and fault["ctx"]["pattern"] == sections.NAME:
        message = "is no name: write a letter, then letters, digits or _, 41 of them at most"
    if kind == "form" and isinstance(given, dict):
        given, choices = given.get("form"), list(FORMS)
    message += "" if isinstance(given, dict | BaseModel) else f" (got {given!r:.80})"
    return message + meant(given, [choice for choice in choices if choice != given])


def faults(error: ValidationError, schema: type[BaseModel]) -> list[str]:
    """One line per fault: the key, what is wrong and what was given."""
    lines = []
    for fault in error.errors():
        if fault["type"] == "default_factory_not_called":  # `judges`, where another section is at fault
            continue
        # The form of a judge is a step of the schema, not of the file.
        form = {"judge": 1, "judges": 2, "oracle": 2}.get(str(next(iter(fault["loc"]), "")))
        steps = [s for i, s in enumerate(fault["loc"]) if (i != form or s not in FORMS) and s != "[key]"]
        lines.append(": ".join(filter(None, [".".join(map(str, steps)), _said(fault, schema, steps)])))
    return lines


def validated(schema: type[S], where: str, raw: dict[str, Any]) -> S:
    """Raises ParamsError: one line per fault, each with where, key, what is wrong and what was given."""
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        raise ParamsError("\n".join(f"{where}: {line}" for line in faults(error, schema))) from error


def opened(name: str | Path, run: str | None = None) -> tuple[Path, str | None]:
    """The params file that `name` stands for, and the run where the file does not say it. Raises ArenaError where there
    is neither.

    An imported run needs no params of its own: its name stands for `params/imported.yaml`. One of tables was made with
    a file of the user's, which is the one to name.
    """
    try:
        return paths.params_file(name), run
    except ArenaError:
        account = imported.account(str(name)) if str(name) in paths.made_runs() else None
        if account is None or account["form"] == "table":
            raise
        return paths.source_root() / "params" / "imported.yaml", run or str(name)


def _of_run(name: str | Path, run: str | None) -> tuple[Path, dict[str, Any]]:
    path, run = opened(name, run)
    return path, contents(path) | ({"run": run} if run else {})


def load(name: str | Path, run: str | None = None) -> Params:
    """Read and check a params file: `local`, `local.yaml` or a path, or a run that was imported and has none; `run`
    replaces the run name in the file, so that one file can serve several data folders.

    Raises ParamsError: one line per fault, each with file, key and what was found.
    """
    path, raw = _of_run(name, run)
    if "imported" in raw:
        raw = _merge(imported.of_data(path.name, raw), {key: value for key, value in raw.items() if value is not None})
    return validated(Params, path.name, raw)


class _Importing(Section):
    run: str
    logging_policy: Name | None = None
    imported: ImportedParams | None


def load_import(name: str | Path, run: str | None = None) -> tuple[str, str | None, ImportedParams]:
    """What a params file says of an import that is still to be made: run, logging policy where it names one, and the
    section `imported`. Raises ParamsError as `load`, and for a file without that section."""
    path, raw = _of_run(name, run)
    if "imported" not in raw or "run" not in raw:
        raise ParamsError(f"{path.name}: a file that describes an import has `run` and `imported`")
    declared = validated(_Importing, path.name, {key: raw[key] for key in _Importing.model_fields if key in raw})
    return paths.check_run_name(declared.run), declared.logging_policy, declared.imported or ImportedParams()
