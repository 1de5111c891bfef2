"""What a run is made of, records in a store or an analysis table that was given: both answer the same questions. And
parts of it: prompts chosen by what they are, and the analysis table of those alone."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import pandas as pd

from arena10k import paths
from arena10k.audit import checks, consistency, status
from arena10k.collection import costs, sampler
from arena10k.collection.jobs import contexts
from arena10k.collection.store import Store
from arena10k.errors import ArenaError, ParamsError, meant, one_line, section, unknown
from arena10k.estimation.planning import UnitCosts
from arena10k.estimation.thresholds import MISSING_SHARE
from arena10k.frames import columnar, records
from arena10k.frames.table import Table, build
from arena10k.inputs import prompts
from arena10k.inputs.policies import policies
from arena10k.params.config import Params

#: A query on the prompts (`"category == 'sum' and prompt_chars < 40"`), or a function of their frame; either gives a
#: boolean per prompt, which may be given too. Rows of `run.prompts` and prompt ids choose those prompts.
Where: TypeAlias = str | pd.Series | pd.DataFrame | list[Any] | Callable[[pd.DataFrame], Any] | None

#: What pandas raises for a text that is no query.
_NO_QUERY = (NameError, SyntaxError, TypeError, ValueError, KeyError, AttributeError, NotImplementedError)
#: A single = outside of ==, <=, >= and !=.
_ASSIGNS = re.compile(r"(?<![=<>!])=(?!=)")
#: What a query may ask for beside the columns of the prompts.
CHARS = "prompt_chars"


class Recorded:
    """Records in a store: collected, recorded or imported."""

    def __init__(self, params: Params):
        self.params = params

    @cached_property
    def store(self) -> Store:
        """The record store, opened for collecting (made where there is none); a recording is loaded into memory."""
        if self.params.recording:
            return self._read_only
        return Store.open(paths.store_file(self.params.run)).using(contexts(self.params).values())

    @cached_property
    def _read_only(self) -> Store:
        return status.open_store(self.params)

    @property
    def reading(self) -> Store:
        """The record store for reading: the one that is open for collecting, else opened read-only. Raises ArenaError
        where there is none yet."""
        return self.store if "store" in vars(self) else self._read_only

    @cached_property
    def prompts(self) -> pd.DataFrame:
        return prompts.read(self.params.run)

    def frame(self, name: str) -> pd.DataFrame:
        """One of `records.COLUMNS`."""
        return records.tidy(name, self.params, self.reading, self.prompts.prompt_id)

    def table(self, prompt_ids: Iterable[str] | None = None) -> Table:
        """The analysis table, of all prompts or of some, built anew."""
        if prompt_ids is None:
            return build(self.params, self.prompts, self.reading)
        chosen = self.prompts[self.prompts.prompt_id.isin(list(prompt_ids))]
        return build(self.params, chosen, self.reading.only(chosen.prompt_id))

    def coverage(self) -> str:
        """How much of what is due can be used, in a sentence."""
        return str(status.coverage(self.params, self.reading)["sentence"])

    @cached_property
    def facts(self) -> dict[str, list[str]]:
        """What is known of policies and shows in no array, by `estimation.context`; read once, as frames are."""
        of_logprobs, defined = consistency.facts(self.params, self.reading, self.prompts), policies(self.params)
        # A weight is a ratio: where the logging policy's half is of another distribution, every weight is wrong.
        everywhere = defined[self.params.logging_policy].temperature_mismatch
        drawn = sampler.facts(sampler.audits(self.params, self.reading), self.params.logging_policy)
        missing = status.missing_responses(self.reading)
        facts = {
            name: ["temperature_mismatch"] * (everywhere or policy.temperature_mismatch)
            + drawn.get(name, [])
            + ["responses_missing"] * (missing.get(name, 0) > MISSING_SHARE)
            + of_logprobs.get(name, [])
            for name, policy in defined.items()
        }
        return {name: of_policy for name, of_policy in facts.items() if of_policy}

    def clones(self) -> list[str]:
        """Targets that are the logging policy by another name."""
        return checks.clones(self.params)

    def unit_costs(self, policy: str) -> UnitCosts:
        """What one more label and one more draw of a policy cost, in US dollars."""
        return UnitCosts(**costs.unit_costs(self.params, self.prompts, policy))

    @property
    def created(self) -> str | None:
        """When the newest record was measured (UTC), so that the same data gives the same report."""
        newest = max((row["newest"] for row in self.reading.counts()), default=None)
        return newest and datetime.datetime.fromtimestamp(newest, datetime.UTC).isoformat(timespec="seconds")


class Given:
    """An analysis table as Parquet (see `columnar`); `Recorded` says what the answers are."""

    created = None

    def __init__(self, params: Params):
        self.params, self.given = params, section(params.table, "table")

    @property
    def store(self) -> Store:
        raise ArenaError(f"run {self.params.run!r} is a table that was given: it has no records")

    reading = store

    @cached_property
    def _whole(self) -> Table:
        fresh = paths.home() / self.given.fresh if self.given.fresh else None
        return columnar.read(paths.home() / self.given.logged, fresh, self.params.logging_policy)

    @cached_property
    def prompts(self) -> pd.DataFrame:
        return self._whole.prompts()

    def frame(self, name: str) -> pd.DataFrame:
        return records.of_table(name, self._whole)

    def table(self, prompt_ids: Iterable[str] | None = None) -> Table:
        return self._whole if prompt_ids is None else self._whole.of_prompts(prompt_ids)

    def coverage(self) -> str:
        return f"The analysis table was given, with {len(self._whole.logged):,} logged rows."

    @cached_property
    def facts(self) -> dict[str, list[str]]:
        return consistency.facts_of_table(self._whole)

    def clones(self) -> list[str]:
        for name in self.given.clones:
            if name not in self._whole.targets:
                raise ParamsError(f"table.clones: {name!r} is not among the targets: {', '.join(self._whole.targets)}")
        return list(self.given.clones)

    def unit_costs(self, policy: str) -> UnitCosts:
        return UnitCosts(self.params.estimation.label_cost)


@dataclass(frozen=True, eq=False)
class Chosen:
    """The analysis table of some prompts: `n` of the run's, and the `sentences` that a reader of numbers of a part has
    to know."""

    table: Table
    n: int
    sentences: tuple[str, ...] = ()


def part(source: Recorded | Given, where: Where) -> Chosen:
    """The analysis table of the prompts that `where` chooses, in their order.

    Responses are no part of the choice: what a policy happened to say decides its log-probs and scores, and among rows
    chosen by it the mean weight of a right log is not 1. Raises ArenaError for a query that cannot be answered, a mask
    of another length, a prompt that is not there, and where no prompt is chosen.
    """
    prompts = source.prompts
    frame = prompts.assign(**{CHARS: prompts.prompt.str.len().astype("Int64")})
    if isinstance(where, str):
        chosen, words, by = _queried(frame, where), where, where
    else:
        chosen, words, by = _marked(frame, where(frame) if callable(where) else where), "chosen by hand", "that filter"
    if not chosen.any():
        raise ArenaError(f"no prompt is chosen by {by!r}")
    sentence = (
        f"On {chosen.sum():,} of the {len(prompts):,} prompts alone ({words}). Intervals hold for a part that was "
        "chosen before looking: of many parts looked at, some miss by chance."
    )
    return Chosen(source.table(prompts.prompt_id[chosen.to_numpy()]), int(chosen.sum()), (sentence,))


def _queried(frame: pd.DataFrame, query: str) -> pd.Series:
    try:
        answer = frame.eval(query, engine="python")
    except _NO_QUERY as error:
        strange = getattr(error, "name", None) or (re.findall(r"name '(\w+)' is not defined", str(error)) or [""])[0]
        columns = ", ".join(column for column in frame.columns if column != CHARS)
        close = meant(strange, frame.columns) if strange else ""
        raise ArenaError(
            f"where={query!r}: {one_line(error)}{close}; a filter asks about "
            f"prompts, by the columns of `run.prompts` ({columns}) and {CHARS}, their length, such as "
            f"\"category == 'x' and {CHARS} < 40\""
        ) from error
    if not isinstance(answer, pd.Series) or not pd.api.types.is_bool_dtype(answer):
        hint = "to compare, write == in place of =" if _ASSIGNS.search(query) else f'such as "{CHARS} < 40" is'
        raise ArenaError(f"where={query!r} is no question with yes or no for every prompt: {hint}")
    return answer.fillna(False)


def _marked(frame: pd.DataFrame, marks: Any) -> pd.Series:
    """Prompts by a boolean for each, aligned by index where it has one, or by their ids."""
    marks = marks["prompt_id"] if isinstance(marks, pd.DataFrame) else marks
    values = marks if isinstance(marks, pd.Series) else pd.Series(list(marks), dtype=None if len(marks) else "object")
    if not pd.api.types.is_bool_dtype(values):
        ids = values.astype(str)
        strange = ids[~ids.isin(frame.prompt_id)]
        if len(strange):
            raise unknown("prompt", strange.iloc[0], frame.prompt_id)
        return frame.prompt_id.isin(ids)
    if isinstance(marks, pd.Series):
        values = values.reindex(frame.index)
    if len(values) != len(frame) or values.isna().any():
        raise ArenaError(f"where: {len(marks):,} booleans for {len(frame):,} prompts; `run.prompts` has their order")
    return pd.Series(values.to_numpy(bool), frame.index)
