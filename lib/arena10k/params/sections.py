"""The sections of a params file: who is asked what, what is estimated, what is compared in ablations, which incident is
reproduced. Graders are in `judge`, imports in `imported`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from arena10k.analysis import Analysis

NAME = r"^[A-Za-z][A-Za-z0-9_]{0,40}$"
Name = Annotated[str, Field(pattern=NAME)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Dollars = Annotated[float, Field(ge=0, strict=False)]


class Section(BaseModel):
    """A mapping of a params file: unknown keys and wrong types are errors, nothing is changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def faults(self) -> Iterable[str]:
        """What is wrong between keys that are right in themselves."""
        return ()

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        for fault in self.faults():
            raise ValueError(fault)
        return self


class Capabilities(Section):
    """What an endpoint can do; the preflight tries each one that is declared."""

    token_ids: bool = Field(False, description="chat answers carry prompt_token_ids and token_ids")
    echo_logprobs: bool = Field(False, description="completions score a given prompt: echo with logprobs")
    echo_from: bool = Field(False, description="echo takes `echo_from`: log-probs before it are not needed")
    seed: bool = Field(True, description="the endpoint takes a sampling seed")
    top_logprobs: Annotated[
        int, Field(ge=0, le=100, description="candidates a token, for the audit of the sampler")
    ] = 20
    json_schema: bool = Field(False, description="a chat judge is held to the form of its answer (response_format)")


class Price(Section):
    """US dollars per million tokens."""

    prompt: Dollars
    completion: Dollars


#: What each server is told so that it draws from the very distribution whose log-probs it reports: a model's
#: generation_config.json and the server's own defaults say otherwise.
_AS_REPORTED: dict[str, dict[str, Any]] = {
    "vllm": {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    "sglang": {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    "llama.cpp": {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "typical_p": 1.0, "repeat_penalty": 1.0}
    | {"xtc_probability": 0.0, "dry_multiplier": 0.0, "samplers": ["temperature"]},
    "tgi": {"frequency_penalty": 0.0, "presence_penalty": 0.0},
}
#: Fields that an endpoint may refuse.
Omittable = Literal["temperature", "top_p", "logprobs", "top_logprobs", "seed", "stop", "max_tokens"]
OMITTABLE: tuple[str, ...] = get_args(Omittable)


#: Fields that say what is read, which no `extra_body` may change: one whole answer, of a length that has its own key.
_FIXED: dict[str, Any] = {"stream": False, "n": 1, "echo": False} | dict.fromkeys(
    ("model", "messages", "prompt", "max_tokens", "max_completion_tokens")
)


class Asked(Section):
    """How the requests of a provider, a policy or a grader differ from what is always sent."""

    extra_body: dict[str, Any] = Field({}, description="more fields of the request: reasoning_effort, top_k, ...")
    leave_out: tuple[Omittable, ...] = Field((), strict=False, description="fields that the endpoint refuses")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"

    @field_validator("extra_body")
    @classmethod
    def _says_nothing_that_is_fixed(cls, extra_body: dict[str, Any]) -> dict[str, Any]:
        for key in (key for key, value in extra_body.items() if key in _FIXED and value != _FIXED[key]):
            raise ValueError(f"{key} is not for extra_body: one whole answer is read; max_tokens is a key of its own")
        return extra_body

    @property
    def asked(self) -> dict[str, Any]:
        """What of it is declared: nothing, where requests are as ever."""
        fields, default = Asked.model_fields, Asked.model_construct()
        return {key: value for key in fields if (value := getattr(self, key)) != getattr(default, key)}


class Asker(Asked):
    """Who asks a provider's model."""

    provider: Name
    model: str
    model_alias: str | None = Field(None, description="the name that answers carry, where it is not that of `model`")


def sent(provider: Provider, asker: Asked, body: dict[str, Any], sampled: bool = False) -> dict[str, Any]:
    """A request's `body` as the endpoint is to get it; of one that is `sampled`, with its own sampling switched off."""
    out = body | (_AS_REPORTED.get(provider.server or "", {}) if sampled else {})
    out |= provider.extra_body | asker.extra_body
    for field in (*provider.leave_out, *asker.leave_out):
        out.pop(field, None)
    if "max_tokens" in out and "max_completion_tokens" in (provider.max_tokens_field, asker.max_tokens_field):
        out["max_completion_tokens"] = out.pop("max_tokens")
    return out


class Provider(Asked):
    """One OpenAI-compatible endpoint. The key is read from the named environment variable and goes nowhere else.
    `imported` stands for whoever made records that were imported: it is never asked."""

    kind: Literal["embedded", "openai", "imported"] = "openai"
    base_url: str | None = None
    api_key_env: str | None = None
    headers: dict[str, str] = Field({}, description="sent with each request; $NAME is that environment variable's")
    server: Literal["vllm", "sglang", "llama.cpp", "tgi"] | None = Field(
        None, description="what software serves it: it is told to draw from the distribution that it reports"
    )
    concurrency: Annotated[int, Field(ge=1, le=512, description="requests in flight, at most")] = 16
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    mode: Literal["requests", "batch"] = Field("requests", description="batch: answers within a day, at half price")
    batch_poll_seconds: Positive = 60.0
    batch_max_requests: Annotated[int, Field(ge=1, le=50_000)] = 50_000
    prices: dict[str, Price] = Field({}, description="by model; a provider without prices is taken to cost nothing")
    timeout_seconds: Positive = 120.0
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 6
    capabilities: Capabilities = Capabilities()
    chat_template: str | None = Field(
        None, description="renders prompts here, for endpoints without token ids: chatml, llama3 or a Jinja file"
    )
    end_of_turn: str | None = Field(None, description="the text that ends an answer; built-in templates have their own")
    bos_token: str | None = Field(None, description='what the template starts with; "" where the endpoint adds it')

    @property
    def endpoint(self) -> str:
        """What stands for it where records are told apart: its address, or its kind."""
        return self.base_url or self.kind

    def faults(self) -> Iterator[str]:
        if self.kind == "openai" and not self.base_url:
            yield "base_url is needed (for the embedded model say kind: embedded)"
        if self.capabilities.echo_logprobs and not self.capabilities.token_ids and not self.chat_template:
            yield (
                "echo_logprobs needs capabilities.token_ids: true (the endpoint returns ids) or a chat_template "
                "(chatml, llama3 or a Jinja file) with which prompts are rendered here"
            )
        if self.chat_template and self.capabilities.token_ids:
            yield "chat_template goes with endpoints without token ids: leave out one of the two"
        for key in ("end_of_turn", "bos_token"):
            if getattr(self, key) is not None and not self.chat_template:
                yield f"{key} goes with a chat_template"


class Example(Section):
    """One earlier turn shown to the model: what the user said, what the assistant answered."""

    user: str
    assistant: str


class PolicyParams(Asker):
    """A policy is its model, its messages and its sampling: everything that decides the distribution of responses."""

    system: str | None = None
    examples: tuple[Example, ...] = Field((), strict=False)
    suffix: str = ""
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Count = 256
    description: str = ""
    stands_for: str | None = None

    def faults(self) -> Iterator[str]:
        for key in ("temperature", "top_p"):
            if key in self.leave_out and getattr(self, key) != 1:
                yield f"{key} {getattr(self, key):g} is not asked for where leave_out has it"


class PromptsParams(Section):
    """Which prompts are asked. `path` is relative to the folder that holds `data/`; `prompts.load` has the filters.

    `jsonl` has `prompt_id` and `prompt` per line; `arena` is the Chatbot Arena conversations export (JSON or Parquet).
    """

    source: Literal["builtin", "jsonl", "arena"] = "builtin"
    path: str | None = None
    language: Annotated[str, Field(pattern=r"\S")] | None = None
    min_chars: Count | None = None
    max_chars: Count | None = None
    max_prompts: Count | None = None

    def faults(self) -> Iterator[str]:
        if self.source == "builtin":
            given = [key for key in ("path", "language") if getattr(self, key) is not None]
            yield from (f"{key} goes with source: jsonl or arena; the built-in set has none" for key in given)
        elif not self.path:
            yield "path is needed for this source"
        else:
            endings = (".jsonl", ".ndjson") if self.source == "jsonl" else (".json", ".jsonl", ".ndjson", ".parquet")
            if not self.path.lower().endswith(endings):
                yield f"path {self.path!r}: source: {self.source} reads files ending in {', '.join(endings)}"
        if self.min_chars and self.max_chars and self.min_chars > self.max_chars:
            yield f"min_chars {self.min_chars} exceeds max_chars {self.max_chars}: no prompt fits"


class ResponsesParams(Section):
    draws: Count = 1
    logged_draws: Count = 1

    def faults(self) -> Iterator[str]:
        if self.logged_draws > self.draws:
            yield "logged_draws cannot exceed draws"


class EstimationParams(Section):
    width: Annotated[float, Field(gt=0, le=1)] = Analysis.width
    folds: Annotated[int, Field(ge=2, le=50)] = Analysis.folds
    confidence: Share = Analysis.confidence
    judge: Name = Field("uncertainty", description="whose scores headlines use; of `judges` the first")
    judge_shift: Annotated[float, Field(ge=0, le=1, strict=False)] = Field(
        Analysis.judge_shift, description="how far the judge may be off on a policy of which nothing says how far it is"
    )
    belief: Literal["labels", "weights", "judge"] = Field("weights", description="the most a headline rests on")
    calibration: Literal["isotonic", "two_stage"] = Field("isotonic", description="two_stage also uses response length")
    label_cost: Dollars | None = Field(
        None, description="US dollars per oracle label, where no provider has a price for it (people)"
    )
    replicates: Count = Field(50, description="simulated data sets per cell of 10_simulation")
    replicate_rows: Annotated[int, Field(ge=50)] = Field(1000, description="rows of a simulated data set, at most")

    @property
    def analysis(self) -> Analysis:
        """What all pages ask of the statistics."""
        return Analysis(**{field.name: getattr(self, field.name) for field in fields(Analysis)})


class TableParams(Section):
    """The analysis table as Parquet, for data that is there already: docs/data.md has the columns.
    Paths are relative to the folder that holds `data/`. Nothing is asked and nothing is stored."""

    logged: str
    fresh: str | None = None
    clones: tuple[Name, ...] = Field((), strict=False, description="policies that are the logging policy again")


Names = Literal["all"] | Annotated[tuple[Name, ...], Field(min_length=1, strict=False)]
Level = Literal["all"] | Annotated[int, Field(gt=0)] | Positive


class AblationParams(Section):
    """One page for each combination of judge, estimator, calibration and treatment of corrupted log-probs.

    Names are those of the registries; "all" is every registered one. `corrupted` is the share of the rows that a
    treatment takes to have failed. `sweep` gives the levels of the factors that need no page, "all" standing for all of
    the data, and `seeds` the replicates at each. `worst` names policies that are below all others by construction,
    which the order of estimates is compared with even where their value is not known.
    """

    judges: Names = "all"
    estimators: Names = "all"
    calibrations: Names = ("isotonic",)
    treatments: Names = ("recorded",)
    corrupted: Annotated[float, Field(ge=0, le=1)] = 0.02
    sweep: dict[Name, Annotated[tuple[Level, ...], Field(min_length=1, strict=False)]] = Field({})
    seeds: Annotated[int, Field(ge=1, le=100_000)] = 20
    worst: Annotated[tuple[Name, ...], Field(strict=False)] = ()

    def faults(self) -> Iterator[str]:
        for level in self.sweep.get("labels", ()):
            if level != "all" and level > 1:
                yield f"sweep.labels: {level} is not a share: use numbers up to 1, or all"


class IncidentParams(Section):
    """Failures are injected into the arrays of a clean run, never into its store; `stand_ins` take their place."""

    clean: str = Field("sample", description="params file of the clean run")
    logging_failures: Share = Field(140 / 1824, description="share of rows whose log-prob under P0 fails")
    target_failures: Share = Field(0.08, description="share of rows whose log-prob under a target fails")
    short_share: Share = Field(1 / 3, description="failures strike among this share of the rows, the shortest answers")
    stand_ins: Annotated[tuple[float, ...], Field(min_length=1, strict=False)] = (0.0, -50.0)
    clip: Positive = Field(20.0, description="bound on published log-weights, nats")

    def faults(self) -> Iterator[str]:
        both = self.logging_failures + self.target_failures
        if both >= self.short_share:
            yield f"short_share {self.short_share:g} cannot hold both kinds of failures: it must exceed {both:g}"
