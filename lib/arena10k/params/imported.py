"""The params of a run whose records were imported: what the user declares, and what the import found.

A params file with a section `imported` describes such a run. Its policies, draws and headline judge are those of
the data: `of_data` takes them in from `data/<run>/import.json`. They are never asked anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from arena10k import paths
from arena10k.errors import ParamsError
from arena10k.params.judge import Score
from arena10k.params.sections import Name, Section

Scale = Annotated[tuple[Score, Score], Field(strict=False)]
#: The provider of policies that were imported.
PROVIDER = "imported"


def _words(values: Any) -> Any:
    """YAML reads `yes: 1` as `true: 1`: what the file has is any of the words that it reads so."""
    if not isinstance(values, dict):
        return values
    spelled = {True: ("true", "yes", "on"), False: ("false", "no", "off")}
    keys = {key: spelled[key] if isinstance(key, bool) else (str(key),) for key in values}
    return {word: values[key] for key, words in keys.items() for word in words}


#: Where in a row a value stands; of several places any may hold it, and where more do they agree.
Path = str | Annotated[tuple[str, ...], Field(strict=False)]
#: Numbers by the words that stand for them; None says that there is no value.
Words = Annotated[dict[str, Annotated[float, Field(strict=False)] | None], BeforeValidator(_words)]


Delimiter = Annotated[
    str, Field(min_length=1, max_length=1), BeforeValidator(lambda mark: "\t" if mark == r"\t" else mark)
]


class Columns(Section):
    """Which column holds what, by path: `a.b` is the key `b` within `a`, `messages[-1].content` that of the last item,
    `scores.*.value` the one of whatever key is alone there, `task + id` two of them. What has no column is not there;
    without one for `prompt_id` the text of the prompt is its id."""

    prompt_id: Path | None = None
    response: Path | None = None
    prompt: Path | None = None
    draw: Path | None = Field(None, description="from 0; without it draws of a prompt are numbered as they stand")
    policy: Path | None = None
    judge: Path | None = None
    judge_variance: Path | None = Field(
        None, description="variance of the judge's score, in squared units of its scale"
    )
    label: Path | None = None
    label_propensity: Path | None = Field(None, description="the chance of a label, where labels are not at random")
    winner: Path | None = Field(
        None, description="of two sides whose answer a vote is for; or columns of 1 and 0 of the first, second and none"
    )
    category: Path | None = None
    language: Path | None = None
    logprobs: dict[Name, Path] = Field({}, description="of the whole response, by policy")


class Reading(Section):
    """How the rows of a file are read: what a table of a params file and a shipped map say alike."""

    columns: Columns = Columns()
    rows: str | None = Field(
        None, description="of one JSON object the key that holds the rows, of a zip file the folder"
    )
    delimiter: Delimiter | None = Field(None, description="of the cells of CSV; \\t is a tab")
    sides: tuple[str, str] | None = Field(
        None, strict=False, description="of rows with two answers what stands for {side} in the columns of each"
    )
    where: dict[str, str | int | float | bool] = Field({}, description="only rows that have these values, by path")
    values: dict[str, Words] = Field({}, description="what words of a column of numbers stand for: {label: {good: 1}}")
    exact: bool = Field(False, description="the judge compared with known answers: its scores are the labels")
    label_design: Literal["representative", "known_propensity", "targeted_unknown"] | None = None
    logprob_unit: Literal["nats", "bits", "log10"] = "nats"
    per_token: Path | None = Field(None, description="log-probs are means per token: the column of their tokens")
    allow_missing: tuple[str, ...] = Field((), strict=False, description="columns that most rows may lack")

    def faults(self) -> Iterator[str]:
        numeric = ("judge", "judge_variance", "label", "label_propensity", "logprobs", "winner")
        for key, names, may in (
            ("values", self.values, numeric), ("allow_missing", self.allow_missing, Columns.model_fields)
        ):  # fmt: skip
            for name in names:
                if name not in may:
                    yield f"{key}: {name!r} is not among {', '.join(sorted(may))}"
        if self.columns.judge_variance and not self.columns.judge:
            yield "columns.judge_variance goes with columns.judge"
        if self.columns.label_propensity and not self.columns.label:
            yield "columns.label_propensity goes with columns.label"
        if self.label_design == "targeted_unknown":
            yield "label_design: labels chosen by an unknown rule say nothing of other rows: leave out columns.label"
        if self.label_design == "known_propensity" and not self.columns.label_propensity:
            yield "label_design: known_propensity goes with columns.label_propensity, the chance of each label"
        if self.sides and self.sides[0] == self.sides[1]:
            yield f"sides: both are {self.sides[0]!r}"
        if winner := self.columns.winner:
            others = [name for name in ("label", "label_propensity", "draw") if getattr(self.columns, name)]
            for name in [*others, *["exact"] * self.exact]:
                yield f"{name} goes not with columns.winner: a vote is the label of an answer of its own"
            if isinstance(winner, tuple) and len(winner) != 3:
                yield "columns.winner: name one column, or three of 1 and 0: the first side's, the second's, a tie's"
        if self.exact and self.columns.label:
            yield "exact says that the judge's scores are the labels: leave it out, or columns.label"


class TableParams(Reading):
    """One file of rows: logged responses of the logging policy, or fresh draws of `policy` (or `columns.policy`)."""

    path: str
    policy: Name | None = None
    map: str | None = Field(
        None, description="a shipped map (arena10k import --list): what is said here goes before it"
    )

    @property
    def is_fresh(self) -> bool:
        return bool(self.policy or self.columns.policy or self.sides)

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if not (self.map or self.columns.prompt_id or self.columns.prompt):
            yield "columns: name prompt_id or prompt"
        if self.policy and self.columns.policy:
            yield "policy and columns.policy both say whose responses these are: leave out one"
        if self.is_fresh and self.columns.logprobs:
            yield "columns.logprobs goes with logged responses: leave it out, or leave out the policy"


class ImportedParams(Section):
    """Scales, clones and tables are the user's to declare; `digest` and `due` (records by job and policy) are the
    import's."""

    judge_scale: Scale | None = None
    oracle_scale: Scale | None = None
    clones: tuple[Name, ...] = Field((), strict=False, description="policies that are the logging policy again")
    tables: tuple[TableParams, ...] = Field((), strict=False)
    votes: bool = Field(False, description="the import's: labels are votes against the logging policy's answers")
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
