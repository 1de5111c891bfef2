"""What every section of a params file shares."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,40}$")]


class Section(BaseModel):
    """A mapping of a params file: unknown keys and wrong types are errors, nothing is changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
