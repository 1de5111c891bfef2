"""The section `ablations` of a params file: the matrix of pages, and what is swept on each of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from arena10k.params.schema import Name, Section

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
