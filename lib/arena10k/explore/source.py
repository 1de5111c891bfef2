"""What a run is made of: records in a store, or an analysis table that was given. Both answer the same questions."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from functools import cached_property

import pandas as pd

from arena10k import paths
from arena10k.audit import consistency, noise, status
from arena10k.collection import costs
from arena10k.collection.jobs import contexts
from arena10k.collection.store import Store
from arena10k.errors import ArenaError, ParamsError, section
from arena10k.estimation.planning import UnitCosts
from arena10k.frames import columnar, records
from arena10k.frames.table import Table, build
from arena10k.inputs import prompts
from arena10k.inputs.policies import policies
from arena10k.params.config import Params


class Recorded:
    """Records in a store: collected, recorded or imported."""

    def __init__(self, params: Params):
        self.params = params

    @cached_property
    def store(self) -> Store:
        """The record store, opened for collecting (made where there is none); a recording is loaded into memory."""
        if self.params.recording:
            if not paths.records_file(self.params.run).is_file():
                raise ArenaError(f"run {self.params.run!r} is a recording without records.parquet")
            store = Store.recording(paths.records_file(self.params.run))
        else:
            store = Store.open(paths.store_file(self.params.run))
        return store.using(contexts(self.params).values())

    @cached_property
    def _read_only(self) -> Store:
        return status.open_store(self.params)

    @property
    def reading(self) -> Store:
        """The record store for reading: the one that is open for collecting, else opened read-only. Raises ArenaError
        where there is none yet."""
        return self.store if self.params.recording or "store" in vars(self) else self._read_only

    @cached_property
    def prompts(self) -> pd.DataFrame:
        return prompts.read(self.params.run)

    def frame(self, name: str) -> pd.DataFrame:
        """One of `records.COLUMNS`."""
        return records.tidy(name, self.reading, self.params.policies, self.prompts.prompt_id)

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
    def flags(self) -> dict[str, list[str]]:
        """What is known of policies and shows in no array, by `estimation.context`; read once, as frames are."""
        facts, defined = consistency.facts(self.params, self.reading, self.prompts), policies(self.params)
        # A weight is a ratio: where the logging policy's half is of another distribution, every weight is wrong.
        everywhere = defined[self.params.logging_policy].temperature_mismatch
        flags = {
            name: ["temperature_mismatch"] * (everywhere or policy.temperature_mismatch) + facts.get(name, [])
            for name, policy in defined.items()
        }
        return {name: of_policy for name, of_policy in flags.items() if of_policy}

    def clones(self, table: Table) -> list[str]:
        """Targets that are the logging policy by another name."""
        return noise.clones(self.params)

    def unit_costs(self, policy: str, label_cost: float | None) -> UnitCosts:
        """What one more label and one more draw of a policy cost, in US dollars."""
        return UnitCosts(**costs.unit_costs(self.params, self.prompts, policy))

    @property
    def created(self) -> str | None:
        """When the newest record was measured (UTC), so that the same data gives the same report."""
        newest = max((row["newest"] for row in self.reading.counts()), default=None)
        return newest and datetime.datetime.fromtimestamp(newest, datetime.UTC).isoformat(timespec="seconds")


class Given:
    """An analysis table as Parquet (see `columnar`); `Recorded` says what the answers are."""

    def __init__(self, params: Params):
        self.params = params
        self.created = None

    @property
    def store(self) -> Store:
        raise ArenaError(f"run {self.params.run!r} is a table that was given: it has no records")

    reading = store

    @cached_property
    def _whole(self) -> Table:
        given = section(self.params.table, "table")
        fresh = paths.home() / given.fresh if given.fresh else None
        return columnar.read(paths.home() / given.logged, fresh, self.params.logging_policy)

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
    def flags(self) -> dict[str, list[str]]:
        return consistency.facts_of_table(self._whole)

    def clones(self, table: Table) -> list[str]:
        declared = section(self.params.table, "table").clones
        for name in declared:
            if name not in table.targets:
                raise ParamsError(f"table.clones: {name!r} is not among the targets: {', '.join(table.targets)}")
        return list(declared)

    def unit_costs(self, policy: str, label_cost: float | None) -> UnitCosts:
        return UnitCosts(label_cost)
