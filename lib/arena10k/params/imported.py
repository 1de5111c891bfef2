"""The params of a run whose records were imported: what the user declares, and what the import found.

A params file with a section `imported` describes such a run. Its policies, draws and headline judge mode are those of
the data: `of_data` takes them in from `data/<run>/import.json`. They are never asked anything.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field, model_validator

from arena10k import paths
from arena10k.errors import ParamsError
from arena10k.params.judge import Score
from arena10k.params.sections import Name, Section

Scale = Annotated[tuple[Score, Score], Field(strict=False)]
#: The provider of policies that were imported.
PROVIDER = "imported"
#: What decides how a source was read: declared otherwise afterwards, it would no longer describe the records.
_DECLARED = ("judge_scale", "oracle_scale", "tables")


class Columns(Section):
    """Which column holds what; `a.b` is the key `b` within `a`. What has no column is not there."""

    prompt_id: str
    response: str
    prompt: str | None = None
    draw: str | None = None
    policy: str | None = None
    judge: str | None = None
    judge_variance: str | None = Field(None, description="variance of the judge's score, in squared units of its scale")
    label: str | None = None
    category: str | None = None
    language: str | None = None
    logprobs: dict[Name, str] = Field({}, description="nats of the whole response, by policy")


class TableParams(Section):
    """One file of rows: logged responses of the logging policy, or fresh draws of `policy` (or `columns.policy`)."""

    path: str
    columns: Columns
    policy: Name | None = None

    @model_validator(mode="after")
    def _is_one_kind(self) -> TableParams:
        if not self.path.lower().endswith((".jsonl", ".ndjson", ".parquet")):
            raise ValueError(f"path {self.path!r}: tables end in .jsonl, .ndjson or .parquet")
        if self.policy and self.columns.policy:
            raise ValueError("policy and columns.policy both say whose responses these are: leave out one")
        if self.is_fresh and self.columns.logprobs:
            raise ValueError("columns.logprobs goes with logged responses: leave it out, or leave out the policy")
        if self.columns.judge_variance and not self.columns.judge:
            raise ValueError("columns.judge_variance goes with columns.judge")
        return self

    @property
    def is_fresh(self) -> bool:
        return bool(self.policy or self.columns.policy)


class ImportedParams(Section):
    """Scales, clones and tables are the user's to declare; `digest` and `due` (records by job and policy) are the
    import's."""

    judge_scale: Scale | None = None
    oracle_scale: Scale | None = None
    clones: tuple[Name, ...] = Field((), strict=False, description="policies that are the logging policy again")
    tables: tuple[TableParams, ...] = Field((), strict=False)
    digest: str = ""
    due: dict[str, dict[Name, int]] = Field({}, description="records by job and policy")

    @model_validator(mode="after")
    def _scales_rise(self) -> ImportedParams:
        for name in ("judge_scale", "oracle_scale"):
            scale = getattr(self, name)
            if scale and scale[0] >= scale[1]:
                raise ValueError(f"{name}: [{scale[0]:g}, {scale[1]:g}] does not rise")
        return self


def of_data(name: str, raw: dict[str, Any]) -> dict[str, Any]:
    """What the import of the run in `raw` (a params file called `name`) found, as params.

    Raises ParamsError where nothing was imported, and where the file declares other scales or columns than were used.
    """
    run = str(raw.get("run"))
    path = paths.import_file(run)
    if not path.is_file():
        raise ParamsError(f"{name}: run {run!r} has not been imported: arena10k import cje DIR --run {run} (or table)")
    try:
        params: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["params"]
        used = params["imported"] | {"logging_policy": params["logging_policy"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ParamsError(
            f"{name}: data/{run}/import.json is damaged: remove data/{run} and import it again"
        ) from error
    declared = raw["imported"] if isinstance(raw["imported"], dict) else {}
    checked = {key: declared[key] for key in _DECLARED if declared.get(key) is not None}
    if "logging_policy" in raw:
        checked["logging_policy"] = raw["logging_policy"]
    for key, value in checked.items():
        if not _same(key, value, used.get(key)):
            raise ParamsError(
                f"{name}: {key} is not what data/{run} was imported with: remove data/{run}, import again"
            )
    return params


def is_of_cje(run: str) -> bool:
    """Whether a run was imported from CJE's layout."""
    path = paths.import_file(run)
    try:
        return path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("form") == "cje"
    except (ValueError, AttributeError):
        return False


def _same(key: str, declared: Any, used: Any) -> bool:
    if key == "logging_policy":
        return bool(declared == used)
    try:
        own, other = (getattr(ImportedParams.model_validate({key: value}), key) for value in (declared, used))
    except ValueError:  # the schema names the key of what is declared wrongly
        return True
    return bool(own == other)
