"""A run: one experiment's params, records and frames, for notebooks and for exploring.

>>> from arena10k import Run
>>> Run("sample").table().logged.shape[0] > 0
True
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from arena10k import paths
from arena10k.collection.jobs import contexts
from arena10k.collection.store import Store
from arena10k.errors import ArenaError, NothingToShow, ParamsError
from arena10k.explore import Exploring
from arena10k.frames.table import Table, build, labelled_judgments
from arena10k.inputs import prompts
from arena10k.inputs.policies import Policy, policies
from arena10k.params import config
from arena10k.params.config import Params

if TYPE_CHECKING:
    from arena10k.attribution import Investigation
    from arena10k.estimation import PolicyData
    from arena10k.estimation.evaluate import Study


class Run(Exploring):
    """One experiment, to look at and to ask.

    Frames: `prompts`, `responses`, `logprobs`, `judgments`, `labels`, and `table()`, what is estimated from.
    Questions: `estimate()`, `diagnose(policy)`, `explain(policy)`, `prompt(id)`, `heavy_rows(policy)`,
    `disagreements()`. The answers show themselves in Jupyter and have the numbers as attributes. Looking writes nothing
    and may be done while the run collects; frames are read once, and a new `Run` sees what was measured since.

    Parameters
    ----------
    name : a params file (`sample`, `params/local.yaml`).
    run : the data folder, where it is not the one the params file names.

    Raises
    ------
    ArenaError
        For a params file that is not there, and, once data are asked for, for a run that has none.
    ParamsError
        For a params file that does not fit the schema.
    """

    def __init__(self, name: str | Path = "sample", run: str | None = None):
        self.params: Params = config.load(name, run or None)
        self.name = self.params.run

    @classmethod
    def of(cls, params: Params) -> Run:
        """The run of params that are loaded already."""
        run = cls.__new__(cls)
        run.params, run.name = params, params.run
        return run

    @cached_property
    def store(self) -> Store:
        """The record store, opened for collecting (made where there is none); a recording is loaded into memory."""
        if self.params.recording:
            if not paths.records_file(self.name).is_file():
                raise ArenaError(f"run {self.name!r} is a recording without records.parquet")
            store = Store.recording(paths.records_file(self.name))
        else:
            store = Store.open(paths.store_file(self.name))
        return store.using(contexts(self.params).values())

    @cached_property
    def _read_only(self) -> Store:
        from arena10k.audit import status

        return status.open_store(self.params)

    @property
    def reading(self) -> Store:
        """The record store for reading: the one that is open for collecting, else opened read-only.

        Raises
        ------
        ArenaError
            Where there is none yet.
        """
        return self.store if self.params.recording or "store" in vars(self) else self._read_only

    @property
    def policies(self) -> dict[str, Policy]:
        """The policies by name, as they are asked."""
        return dict(policies(self.params))

    @cached_property
    def prompts(self) -> pd.DataFrame:
        """One row per prompt: `prompt_id`, `prompt`, `category`, `language`, `answer`, `check`; of a table that was
        given, the first three."""
        if self.params.table:
            return self._table.prompts()
        return prompts.read(self.name)

    def records(self, job: str | None = None) -> pd.DataFrame:
        """Records of one job (or all) as a frame, errors and quarantined rows included."""
        rows = list(self.reading.rows(job))
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["job", "prompt_id", "policy", "draw", "value"])

    def table(self) -> Table:
        """The analysis table, built anew from the records, or read where params name a `table`: see
        `arena10k.frames.table.Table`."""
        if self.params.table:
            from arena10k.audit import consistency
            from arena10k.frames import columnar

            given = self.params.table
            fresh = paths.home() / given.fresh if given.fresh else None
            made = columnar.read(paths.home() / given.logged, fresh, self.params.logging_policy)
            # Here, so that a file of a million rows is not read for them again.
            vars(self).setdefault("_facts", consistency.facts_of_table(made))
            return made
        return build(self.params, self.prompts, self.reading)

    def table_of(self, prompt_ids: pd.Series) -> Table:
        """The same of some prompts alone: their rows, what is missing of them, and their true values."""
        if self.params.table:
            return self._table.of_prompts(prompt_ids)
        chosen = self.prompts[self.prompts.prompt_id.isin(prompt_ids)]
        return build(self.params, chosen, self.reading.only(prompt_ids))

    def coverage(self) -> str:
        """How much of what is due can be used, in a sentence."""
        from arena10k.audit import status

        if self.params.table:
            return f"The analysis table was given, with {len(self.table().logged):,} logged rows."
        return str(status.coverage(self.params, self.reading)["sentence"])

    def arrays(self, table: Table) -> dict[str, dict[str, PolicyData]]:
        """What the statistics take: per policy (the logging policy first) and judge mode, the arrays of one policy.

        A mode in which nothing was judged is left out, unless it is the one that headlines use."""
        from arena10k.estimation import policies_data

        names, modes, folds = self._names(table), self._modes(table), self.params.estimation.folds
        return policies_data(table.logged, table.fresh, names, modes, table.logging_policy, folds)

    def study(
        self,
        table: Table,
        reports: bool = True,
        policies: Iterable[str] | None = None,
        estimators: Iterable[str] | None = None,
        judges: Iterable[str] | None = None,
    ) -> Study:
        """Every estimator, interval and verdict for every policy and judge mode, or for those named alone, and with
        `reports` the diagnostics. Contexts are kept of the headline's judge mode, or of `judges`."""
        from arena10k.estimation import evaluate

        e, modes = self.params.estimation, None if judges is None else list(judges)
        arrays = self.arrays(table)
        names = list(arrays) if policies is None else list(policies)
        chosen = {p: {m: data for m, data in arrays[p].items() if modes is None or m in modes} for p in names}
        return evaluate.study(
            chosen,
            e.analysis,
            table.quarantined,
            self.flags,
            estimators,
            clones=self._clones(table),
            reports=reports,
            contexts=[e.judge] if modes is None else modes,
        )

    def estimates(self, table: Table, study: Study | None = None) -> dict[str, Any]:
        """The content of `estimates.json`: one row per policy, estimator and judge mode; who ranks where (policies
        with an accepted one, ties share a rank), the difference of every two of them and what would turn their order
        round, in the headline judge mode.

        `study` is that of `table`, where it is there already.
        """
        from arena10k.estimation import compare

        e, study = self.params.estimation, study or self.study(table, reports=False)
        contexts = study.of_judge(e.judge)
        pairs = compare.contrasts(contexts)
        head = {"run": self.name, "n": len(table.logged), "created": self.created}
        return head | {
            "judge": e.judge,
            "belief": e.belief,
            "logging_policy": table.logging_policy,
            "ranking": [dataclasses.asdict(place) for place in compare.ranking(contexts, pairs)],
            "contrasts": [dataclasses.asdict(pair) for pair in pairs],
            "breakdown": [dataclasses.asdict(row) for row in compare.breakdowns(contexts)],
            "rows": study.rows,
        }

    def plans(self, study: Study) -> pd.DataFrame:
        """What an interval of each wanted width takes, by policy and estimator (PPI++ and direct): `labels`, `draws`,
        and the cost in US dollars of what is not there yet. The widths are params' `width` times 2, 1, 1/2 and 1/4."""
        from arena10k.collection import costs
        from arena10k.estimation import planning

        e = self.params.estimation
        widths = [w for w in (2 * e.width, e.width, e.width / 2, e.width / 4) if w <= 1]
        rows = []
        for policy, ctx in study.of_judge(e.judge).items():
            price = planning.UnitCosts(e.label_cost)
            if not self.params.table:
                price = planning.UnitCosts(**costs.unit_costs(self.params, self.prompts, policy))
            found = planning.plan(ctx.pilot, widths, price, e.confidence)
            found += planning.direct_plan(ctx.prep, widths, price, e.confidence)
            rows += [{"policy": policy} | row for row in found]
        return pd.DataFrame(rows)

    def simulate(self, table: Table) -> pd.DataFrame:
        """Whether intervals would have covered on data like this run's, and where they are known to fail: see
        `coverage.simulated`."""
        from arena10k.simulation import coverage

        e = self.params.estimation
        data = {policy: modes[e.judge] for policy, modes in self.arrays(table).items()}
        if len(data) < 2:
            raise NothingToShow(f"run {self.name!r} has one policy: there is no other whose data could be simulated")
        return coverage.simulated(data, e.replicates, self.params.seed, e.analysis)

    def investigate(self, table: Table) -> Investigation:
        """Why published numbers are wrong, where they are: see `arena10k.attribution`.

        Raises
        ------
        NothingToShow
            Where no logged response has a judge score, or none has a weight: nothing was published, so nothing can be
            investigated.
        """
        from arena10k import attribution

        if not table.logged[f"judge_{self.params.estimation.judge}"].notna().any():
            raise NothingToShow(
                f"run {self.name!r}: no logged response has a judge score, so there is nothing to investigate: "
                "add a `judge` to the params"
            )
        if not any(np.isfinite(values).any() for values in table.log_weights().values()):
            raise NothingToShow(
                f"run {self.name!r}: no logged response has log-probs of a target and of {table.logging_policy}, so "
                "there are no weights to investigate"
            )

        e = self.params.estimation
        return attribution.investigate_table(table, e.judge, analysis=e.analysis, flags=self.flags)

    def _clones(self, table: Table) -> list[str]:
        from arena10k.audit import noise

        if not self.params.table:
            return noise.clones(self.params)
        for name in self.params.table.clones:
            if name not in table.targets:
                raise ParamsError(f"table.clones: {name!r} is not among the targets: {', '.join(table.targets)}")
        return list(self.params.table.clones)

    @property
    def flags(self) -> dict[str, list[str]]:
        """What is known of policies and shows in no array: see `estimation.context`."""
        facts = self._facts
        if self.params.table:
            return facts
        # A weight is a ratio: where the logging policy's half is of another distribution, every weight is wrong.
        everywhere = self.policies[self.params.logging_policy].temperature_mismatch
        flags = {n: ["temperature_mismatch"] * (everywhere or p.temperature_mismatch) for n, p in self.policies.items()}
        return {name: found for name, mine in flags.items() if (found := [*mine, *facts.get(name, ())])}

    @cached_property
    def _facts(self) -> dict[str, list[str]]:
        """What the whole set of log-probs says of each policy, read once as frames are."""
        from arena10k.audit import consistency

        if self.params.table:
            return consistency.facts_of_table(self._table)
        return consistency.facts(self.params, self.reading, self.prompts)

    def labelled_judgments(self) -> pd.DataFrame:
        """Judge scores beside oracle labels, wherever both exist: `policy`, `prompt_id`, `draw`, `judge_*`, `label`."""
        return labelled_judgments(self.reading)

    @property
    def records_file(self) -> Path:
        """Where the store is exported to."""
        return paths.records_file(self.name)

    def write_result(self, name: str, content: dict[str, Any]) -> None:
        """Write a machine-readable result such as `estimates.json` to the run's report folder."""
        from arena10k.report import write_json

        write_json(paths.result_file(self.name, name), content)

    def note(self, stage: str, **numbers: Any) -> None:
        """Key numbers of a stage, for its row in the run's index."""
        self.write_result(f"stages/{stage}.numbers.json", numbers)

    @property
    def created(self) -> str | None:
        """When the newest record was measured (UTC), so that the same data gives the same report."""
        if self.params.table:
            return None
        newest = max((c["newest"] for c in self.reading.counts()), default=None)
        if newest is None:
            return None
        return datetime.datetime.fromtimestamp(newest, datetime.UTC).isoformat(timespec="seconds")
