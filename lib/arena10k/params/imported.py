"""The params of a run whose records were imported: what the user declares, and what the import found.

A params file with a section `imported` describes such a run. Its policies, draws and headline judge are those of
the data: `of_data` takes them in from `data/<run>/import.json`. They are never asked anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from arena10k import paths
from arena10k.errors import ParamsError
from arena10k.params.judge import Score
from arena10k.params.sections import Name, Section

Scale = Annotated[tuple[Score, Score], Field(strict=False)]
#: The provider of policies that were imported.
PROVIDER = "imported"


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

    @property
    def is_fresh(self) -> bool:
        return bool(self.policy or self.columns.policy)

    def faults(self) -> Iterator[str]:
        if not self.path.lower().endswith((".jsonl", ".ndjson", ".parquet")):
            yield f"path {self.path!r}: tables end in .jsonl, .ndjson or .parquet"
        if self.policy and self.columns.policy:
            yield "policy and columns.policy both say whose responses these are: leave out one"
        if self.is_fresh and self.columns.logprobs:
            yield "columns.logprobs goes with logged responses: leave it out, or leave out the policy"
        if self.columns.judge_variance and not self.columns.judge:
            yield "columns.judge_variance goes with columns.judge"


class ImportedParams(Section):
    """Scales, clones and tables are the user's to declare; `digest` and `due` (records by job and policy) are the
    import's."""

    judge_scale: Scale | None = None
    oracle_scale: Scale | None = None
    clones: tuple[Name, ...] = Field((), strict=False, description="policies that are the logging policy again")
    tables: tuple[TableParams, ...] = Field((), strict=False)
    digest: str = ""
    due: dict[str, dict[Name, int]] = Field({}, description="records by job and policy")

    def faults(self) -> Iterator[str]:
        for name, scale in (("judge_scale", self.judge_scale), ("oracle_scale", self.oracle_scale)):
            if scale and scale[0] >= scale[1]:
                yield f"{name}: [{scale[0]:g}, {scale[1]:g}] does not rise"


def account(run: str) -> dict[str, Any] | None:
    """What the import of a run took (`data/<run>/import.json`, see `interchange.import_cje`), with its scales, tables
    and logging policy as ``declared``; None where the run was not imported. Raises ParamsError where that cannot be
    read."""
    path = paths.import_file(run)
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        params = content["params"]
        return content | {"declared": params["imported"] | {"logging_policy": params["logging_policy"]}}
    except (ValueError, KeyError, TypeError) as error:
        raise ParamsError(f"data/{run}/import.json is damaged: remove data/{run} and import it again") from error


def of_data(name: str, raw: dict[str, Any]) -> dict[str, Any]:
    """What the import of the run in `raw` (a params file called `name`) found, as params.

    Raises ParamsError where nothing was imported, and where the file declares other scales or columns than were used.
    """
    run = str(raw.get("run"))
    content = account(run)
    if content is None:
        raise ParamsError(f"{name}: run {run!r} has not been imported: arena10k import cje DIR --run {run} (or table)")
    declared, used = raw["imported"] if isinstance(raw["imported"], dict) else {}, content["declared"]
    keys = [key for key in ("judge_scale", "oracle_scale", "tables") if declared.get(key) is not None]
    other = ["logging_policy"] if raw.get("logging_policy", used["logging_policy"]) != used["logging_policy"] else []
    try:
        own, read = (ImportedParams.model_validate({k: d[k] for k in keys if k in d}) for d in (declared, used))
        other += [key for key in keys if getattr(own, key) != getattr(read, key)]
    except ValueError:
        pass  # the schema names the key of what is declared wrongly
    if other:
        how = f"data/{run} was imported with: remove data/{run}, import again"
        raise ParamsError(f"{name}: {other[0]} is not what {how}")
    params: dict[str, Any] = content["params"]
    if raw.get("judges"):  # they take the place of the scores that were imported
        params.pop("estimation", None)
    return params
