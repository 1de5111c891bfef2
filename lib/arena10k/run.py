"""A run: one experiment's params, records and frames, for notebooks and for exploring.

>>> from arena10k import Run
>>> Run("sample").table().logged.shape[0] > 0
True
"""

from __future__ import annotations

import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from arena10k import config, paths, prompts
from arena10k.config import Params
from arena10k.errors import ArenaError
from arena10k.policies import Policy, policies
from arena10k.store import Store


class Run:
    """One experiment.

    Parameters
    ----------
    name : a params file (`sample`, `params/local.yaml`).
    run : the data folder, where it is not the one the params file names.

    Raises
    ------
    ParamsError
        For a params file that does not fit the schema.
    """

    def __init__(self, name: str | Path = "sample", run: str | None = None):
        self.params: Params = config.load(name, run or None)
        self.name = self.params.run

    def __repr__(self) -> str:
        return f"Run({self.name!r}: {len(self.params.policies)} policies)"

    @cached_property
    def store(self) -> Store:
        """The record store, opened for collecting; a recording is loaded from Parquet into memory."""
        if self.params.recording:
            if not paths.records_file(self.name).is_file():
                raise ArenaError(f"run {self.name!r} is a recording without records.parquet")
            return Store.recording(paths.records_file(self.name))
        return Store.open(paths.store_file(self.name))

    @property
    def policies(self) -> dict[str, Policy]:
        return dict(policies(self.params))

    @cached_property
    def prompts(self) -> pd.DataFrame:
        """One row per prompt: `prompt_id`, `prompt`, `category`, `language`, `answer`, `check`."""
        return prompts.read(self.name)

    def records(self, job: str | None = None) -> pd.DataFrame:
        """Records of one job (or all) as a frame, errors and quarantined rows included."""
        rows = list(self.store.rows(job))
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["job", "prompt_id", "policy", "draw", "value"])

    def table(self) -> Any:
        """The analysis table: see `arena10k.table.Table`."""
        from arena10k import table

        return table.build(self.params, self.prompts, self.store)

    @property
    def created(self) -> str | None:
        """When the newest record was measured (UTC), so that the same data gives the same report."""
        newest = max((c["newest"] for c in self.store.counts()), default=None)
        if newest is None:
            return None
        return datetime.datetime.fromtimestamp(newest, datetime.UTC).isoformat(timespec="seconds")
