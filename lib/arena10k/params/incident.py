"""The params of a reproduced incident: which clean run, how many log-probs fail, what stands in their place."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from arena10k.params.schema import Section

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
