"""The sections of a params file that say what is asked, what is estimated, what is compared in ablations, and which
incident is reproduced."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Literal

from pydantic import Field, model_validator

from arena10k.analysis import Analysis
from arena10k.params.schema import Name, Section


class Example(Section):
    """One earlier turn shown to the model: what the user said, what the assistant answered."""

    user: str
    assistant: str


class PolicyParams(Section):
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


class PromptsParams(Section):
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


class ResponsesParams(Section):
    draws: Annotated[int, Field(ge=1)] = 1
    logged_draws: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _logged_exist(self) -> ResponsesParams:
        if self.logged_draws > self.draws:
            raise ValueError("logged_draws cannot exceed draws")
        return self


class EstimationParams(Section):
    width: Annotated[float, Field(gt=0, le=1)] = Analysis.width
    folds: Annotated[int, Field(ge=2, le=50)] = Analysis.folds
    confidence: Annotated[float, Field(gt=0, lt=1)] = Analysis.confidence
    judge: Literal["deterministic", "uncertainty"] = Field("uncertainty", description="the mode that headlines use")
    judge_shift: Annotated[float, Field(ge=0, le=1, strict=False)] = Field(
        Analysis.judge_shift, description="how far the judge may be off on a policy of which nothing says how far it is"
    )
    belief: Literal["labels", "weights", "judge"] = Field("weights", description="the most a headline rests on")
    calibration: Literal["isotonic", "two_stage"] = Field("isotonic", description="two_stage also uses response length")
    label_cost: Annotated[float, Field(ge=0, strict=False)] | None = Field(
        None, description="US dollars per oracle label, where no provider has a price for it (people)"
    )
    replicates: Annotated[int, Field(ge=1)] = Field(50, description="simulated data sets per cell of 10_simulation")

    @property
    def analysis(self) -> Analysis:
        """What all pages ask of the statistics."""
        return Analysis(**{field.name: getattr(self, field.name) for field in fields(Analysis)})


class TableParams(Section):
    """The analysis table as Parquet, for data that is there already: see `arena10k.frames.columnar` for the columns.
    Paths are relative to the folder that holds `data/`. Nothing is asked and nothing is stored."""

    logged: str
    fresh: str | None = None
    clones: tuple[Name, ...] = Field((), strict=False, description="policies that are the logging policy again")


Names = Literal["all"] | Annotated[tuple[Name, ...], Field(min_length=1, strict=False)]
Level = Literal["all"] | Annotated[int, Field(gt=0)] | Annotated[float, Field(gt=0)]


class AblationParams(Section):
    """One page for each combination of judge mode, estimator, calibration and treatment of corrupted log-probs.

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

    @model_validator(mode="after")
    def _shares_are_shares(self) -> AblationParams:
        for level in self.sweep.get("labels", ()):
            if level != "all" and level > 1:
                raise ValueError(f"sweep.labels: {level} is not a share: use numbers up to 1, or all")
        return self


Share = Annotated[float, Field(gt=0, lt=1)]


class IncidentParams(Section):
    """Failures are injected into the arrays of a clean run, never into its store."""

    clean: str = Field("sample", description="params file of the clean run")
    logging_failures: Share = Field(140 / 1824, description="share of rows whose log-prob under P0 fails")
    target_failures: Share = Field(0.08, description="share of rows whose log-prob under a target fails")
    short_share: Share = Field(1 / 3, description="failures strike among this share of the rows, the shortest answers")
    stand_ins: tuple[float, ...] = Field(
        (0.0, -50.0), description="numbers put in the place of a failure", strict=False
    )
    clip: Annotated[float, Field(gt=0)] = Field(20.0, description="bound on published log-weights, nats")

    @model_validator(mode="after")
    def _fits(self) -> IncidentParams:
        if self.logging_failures + self.target_failures >= self.short_share:
            raise ValueError(
                f"short_share {self.short_share:g} cannot hold both kinds of failures: it must exceed "
                f"{self.logging_failures + self.target_failures:g}"
            )
        if not self.stand_ins:
            raise ValueError("stand_ins is empty: name the numbers that stood in the place of failures")
        return self
