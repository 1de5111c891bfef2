"""The params schema: one YAML file describes one experiment; unknown keys and wrong types are errors.

`load("local")` reads `params/local.yaml`. A file may say `extends: other.yaml`; mappings are merged key by key,
everything else is replaced.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from arena10k import imported_params, paths
from arena10k.ablation_params import AblationParams
from arena10k.errors import ArenaError, ParamsError, one_line
from arena10k.imported_params import ImportedParams
from arena10k.incident_params import IncidentParams
from arena10k.judge_params import FORMS, ChatGrader, JudgeParams, OracleParams
from arena10k.schema import Name
from arena10k.schema import Section as _Section


class Capabilities(_Section):
    """What an endpoint can do; the preflight tries each one that is declared."""

    token_ids: bool = Field(False, description="chat answers carry prompt_token_ids and token_ids")
    echo_logprobs: bool = Field(False, description="completions score a given prompt: echo with logprobs")
    echo_from: bool = Field(False, description="echo takes `echo_from`: log-probs before it are not needed")
    seed: bool = Field(True, description="the endpoint takes a sampling seed")


class Price(_Section):
    """US dollars per million tokens."""

    prompt: Annotated[float, Field(ge=0, strict=False)]
    completion: Annotated[float, Field(ge=0, strict=False)]


class Provider(_Section):
    """One OpenAI-compatible endpoint. The key is read from the named environment variable and goes nowhere else.

    `imported` stands for whoever made records that were imported: it is never asked."""

    kind: Literal["embedded", "openai", "imported"] = "openai"
    base_url: str | None = None
    api_key_env: str | None = None
    concurrency: Annotated[int, Field(ge=1, le=512, description="requests in flight, at most")] = 16
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    mode: Literal["requests", "batch"] = Field("requests", description="batch: answers within a day, at half price")
    batch_poll_seconds: Annotated[float, Field(gt=0)] = 60.0
    batch_max_requests: Annotated[int, Field(ge=1, le=50_000)] = 50_000
    prices: dict[str, Price] = Field({}, description="by model; a provider without prices is taken to cost nothing")
    timeout_seconds: Annotated[float, Field(gt=0)] = 120.0
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 6
    capabilities: Capabilities = Capabilities()
    logprob_temperature: Annotated[float, Field(gt=0)] = 1.0
    chat_template: str | None = Field(
        None, description="renders prompts here, for endpoints without token ids: chatml, llama3 or a Jinja file"
    )
    end_of_turn: str | None = Field(None, description="the text that ends an answer; built-in templates have their own")
    bos_token: str | None = Field(None, description='what the template starts with; "" where the endpoint adds it')

    @model_validator(mode="after")
    def _has_address(self) -> Provider:
        if self.kind == "openai" and not self.base_url:
            raise ValueError("base_url is needed (for the embedded model say kind: embedded)")
        return self

    @model_validator(mode="after")
    def _can_locate_responses(self) -> Provider:
        can = self.capabilities
        if can.echo_logprobs and not can.token_ids and not self.chat_template:
            raise ValueError(
                "echo_logprobs needs capabilities.token_ids: true (the endpoint returns ids) or a chat_template "
                "(chatml, llama3 or a Jinja file) with which prompts are rendered here"
            )
        if self.chat_template and can.token_ids:
            raise ValueError("chat_template goes with endpoints without token ids: leave out one of the two")
        for key in ("end_of_turn", "bos_token"):
            if getattr(self, key) is not None and not self.chat_template:
                raise ValueError(f"{key} goes with a chat_template")
        return self


class Example(_Section):
    """One earlier turn shown to the model: what the user said, what the assistant answered."""

    user: str
    assistant: str


class PolicyParams(_Section):
    """A policy is its model, its messages and its sampling: everything that decides the distribution of responses."""

    provider: Name
    model: str
    system: str | None = None
    examples: tuple[Example, ...] = Field((), strict=False)
    suffix: str = ""
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Annotated[int, Field(ge=1)] = 256
    description: str = ""
    stands_for: str | None = None


class PromptsParams(_Section):
    """Which prompts are asked. `path` is relative to the folder that holds `data/`; `prompts.load` has the filters.

    `jsonl` has `prompt_id` and `prompt` per line; `arena` is the Chatbot Arena conversations export (JSON or Parquet).
    """

    source: Literal["builtin", "jsonl", "arena"] = "builtin"
    path: str | None = None
    language: Annotated[str, Field(pattern=r"\S")] | None = None
    min_chars: Annotated[int, Field(ge=1)] | None = None
    max_chars: Annotated[int, Field(ge=1)] | None = None
    max_prompts: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _fits_the_source(self) -> PromptsParams:
        if self.source == "builtin":
            for key in ("path", "language"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key} goes with source: jsonl or arena; the built-in set has none")
            return self
        if not self.path:
            raise ValueError("path is needed for this source")
        endings = (".jsonl", ".ndjson") if self.source == "jsonl" else (".json", ".jsonl", ".ndjson", ".parquet")
        if not self.path.lower().endswith(endings):
            raise ValueError(f"path {self.path!r}: source: {self.source} reads files ending in {', '.join(endings)}")
        return self

    @model_validator(mode="after")
    def _lengths_fit(self) -> PromptsParams:
        if self.min_chars and self.max_chars and self.min_chars > self.max_chars:
            raise ValueError(f"min_chars {self.min_chars} exceeds max_chars {self.max_chars}: no prompt fits")
        return self


class ResponsesParams(_Section):
    draws: Annotated[int, Field(ge=1)] = 1
    logged_draws: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _logged_exist(self) -> ResponsesParams:
        if self.logged_draws > self.draws:
            raise ValueError("logged_draws cannot exceed draws")
        return self


class EstimationParams(_Section):
    width: Annotated[float, Field(gt=0, le=1)] = 0.2
    folds: Annotated[int, Field(ge=2, le=50)] = 5
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    judge: Literal["deterministic", "uncertainty"] = Field("uncertainty", description="the mode that headlines use")
    calibration: Literal["isotonic", "two_stage"] = Field("isotonic", description="two_stage also uses response length")
    label_cost: Annotated[float, Field(ge=0, strict=False)] | None = Field(
        None, description="US dollars per oracle label, where no provider has a price for it (people)"
    )
    replicates: Annotated[int, Field(ge=1)] = Field(50, description="simulated data sets per cell of 10_simulation")
    replicate_rows: Annotated[int, Field(ge=50)] = Field(1000, description="rows of a simulated data set, at most")


class TableParams(_Section):
    """The analysis table as Parquet, for data that is there already: see `arena10k.columnar` for the columns. Paths are
    relative to the folder that holds `data/`. Nothing is asked and nothing is stored."""

    logged: str
    fresh: str | None = None
    clones: tuple[Name, ...] = Field((), strict=False, description="policies that are the logging policy again")


class Params(_Section):
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
        found = {f"policies.{name}": policy for name, policy in self.policies.items()}
        return found | {k: v for k, v in (("judge", self.judge), ("oracle.grader", self.oracle.grader)) if v}

    @property
    def asked(self) -> list[str]:
        """Names of the providers that are asked for anything."""
        return list(dict.fromkeys(user.provider for user in self.users.values()))

    @model_validator(mode="after")
    def _references_exist(self) -> Params:
        paths.check_run_name(self.run)
        if self.table:
            if self.policies or self.judge:
                raise ValueError("table brings its own policies and scores: give `policies: {}` and no judge")
            return self
        if self.logging_policy not in self.policies:
            raise ValueError(
                f"logging_policy {self.logging_policy!r} is not among policies: {', '.join(self.policies)}"
            )
        for key, user in self.users.items():
            if user.provider not in self.providers:
                raise ValueError(
                    f"{key}.provider {user.provider!r} is not among providers: {', '.join(self.providers)}"
                )
        return self

    @model_validator(mode="after")
    def _prices_are_complete(self) -> Params:
        """A model that a price list forgets would be taken to cost nothing."""
        for key, user in self.users.items():
            prices = self.providers[user.provider].prices
            if prices and user.model not in prices:
                raise ValueError(
                    f"providers.{user.provider}.prices has no {user.model!r}, which {key} asks: give its price, or 0"
                )
        return self

    @model_validator(mode="after")
    def _responses_can_be_sent(self) -> Params:
        """Ids can be turned into text and text cannot be turned into ids without the endpoint's own tokenizer."""
        if self.table or not self.providers[self.policies[self.logging_policy].provider].chat_template:
            return self
        for name, policy in self.policies.items():
            can = self.providers[policy.provider].capabilities
            if can.token_ids and can.echo_logprobs:
                raise ValueError(
                    f"policies.{name}.provider {policy.provider!r} scores token ids, and {self.logging_policy} "
                    f"responds in text: give providers.{policy.provider} token_ids: false and a chat_template"
                )
        return self

    @model_validator(mode="after")
    def _named_targets_exist(self) -> Params:
        worst = self.ablations.worst if self.ablations else ()
        clones = self.imported.clones if self.imported else ()
        for key, names in {"ablations.worst": worst, "imported.clones": clones}.items():
            for name in names:
                if name not in self.targets:
                    raise ValueError(f"{key}: {name!r} is not among the targets: {', '.join(self.targets)}")
        return self

    @property
    def targets(self) -> list[str]:
        """Every policy but the logging policy, in the order of the file."""
        return [name for name in self.policies if name != self.logging_policy]


#: The params each stage reads: the Snakefile re-runs a stage when one of these changed, and only then.
STAGE_PARAMS = {
    "00_status": ("policies", "responses", "judge", "oracle"),
    "01_prompts": ("prompts", "seed"),
    "02_responses": ("providers", "policies", "responses", "seed"),
    "03_teacher_forcing": ("providers", "policies", "responses", "logging_policy", "seed"),
    "04_judge": ("providers", "policies", "judge", "oracle", "responses", "seed"),
    "05_data_quality": ("policies", "judge", "oracle", "responses", "estimation", "logging_policy"),
    "06_estimates": ("providers", "policies", "judge", "oracle", "estimation", "logging_policy"),
    "07_pi_bad_anomaly": ("policies", "oracle", "estimation", "logging_policy"),
    "08_ablation": ("policies", "oracle", "estimation", "logging_policy", "seed"),
    "10_simulation": ("policies", "estimation", "logging_policy", "seed"),
    "09_ablation_summary": ("policies", "oracle", "estimation", "logging_policy", "ablations"),
    "11_incident": ("policies", "oracle", "estimation", "logging_policy", "incident", "seed"),
}
#: What every stage reads; an import that is made anew counts as a change.
_ALWAYS = {"run", "title", "recording", "imported", "table"}


def stage_params(params: Params, stage: str) -> dict[str, Any]:
    """The part of `params` that `stage` reads, JSON-ready."""
    return params.model_dump(mode="json", include=set(STAGE_PARAMS[stage]) | _ALWAYS)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _read(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path in seen:
        raise ParamsError(f"{path.name}: extends itself through {' -> '.join(p.name for p in seen)}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path.name}: not valid YAML: {one_line(error)}") from error
    if not isinstance(raw, dict):
        raise ParamsError(f"{path.name}: expected a mapping of keys at the top")
    parent = raw.pop("extends", None)
    if parent is None:
        return raw
    if not isinstance(parent, str) or not (path.parent / parent).is_file():
        raise ParamsError(f"{path.name}: extends: {parent!r} is not a file beside it")
    return _merge(_read((path.parent / parent).resolve(), (*seen, path)), raw)


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
            out.append(f"{name}: {where}: unknown key")
        elif fault["type"] == "missing":
            out.append(f"{name}: {where}: missing")
        else:
            given = "" if isinstance(fault["input"], dict | BaseModel) else f" (got {fault['input']!r:.80})"
            out.append(f"{name}: {where}: {fault['msg'].removeprefix('Value error, ')}{given}")
    return "\n".join(out)


def load(name: str | Path, run: str | None = None) -> Params:
    """Read and check a params file.

    Parameters
    ----------
    name : params file: `local`, `local.yaml` or a path; or a run that was imported and has none.
    run : replaces the run name in the file, so that one file can serve several data folders.

    Raises
    ------
    ParamsError
        One line per fault, each with file, key and what was found.
    """
    path, raw = _of_run(name, run)
    if "imported" in raw:
        found = imported_params.found(path.name, raw)
        raw = _merge(found, {key: value for key, value in raw.items() if value is not None})
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise ParamsError(_lines(path.name, error)) from error


def load_import(name: str | Path, run: str | None = None) -> tuple[str, str | None, ImportedParams]:
    """What a params file says of an import that is still to be made: run, logging policy where it names one, and the
    section `imported`.

    Raises
    ------
    ParamsError
        As `load`, and for a file without that section.
    """
    path, raw = _of_run(name, run)
    if "imported" not in raw or "run" not in raw:
        raise ParamsError(f"{path.name}: a file that describes an import has `run` and `imported`")
    told = {"imported": raw["imported"], "run": raw["run"], "logging_policy": raw.get("logging_policy")}
    try:
        declared = _Importing.model_validate(told)
    except ValidationError as error:
        raise ParamsError(_lines(path.name, error)) from error
    return paths.check_run_name(declared.run), declared.logging_policy, declared.imported or ImportedParams()


class _Importing(_Section):
    run: str
    logging_policy: Name | None
    imported: ImportedParams | None


def _of_run(name: str | Path, run: str | None) -> tuple[Path, dict[str, Any]]:
    try:
        path = paths.params_file(name)
    except ArenaError:
        # An imported run needs no params file of its own name.
        if str(name) not in paths.made_runs() or not paths.import_file(str(name)).is_file():
            raise
        path, run = paths.params_file("imported"), run or str(name)
    raw = _read(path)
    return path, raw | {"run": run} if run else raw
