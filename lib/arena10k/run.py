"""A run: one experiment's params, records and frames, for notebooks and for exploring.

>>> from arena10k import Run
>>> Run("sample").table().logged.shape[0] > 0
True
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from arena10k import paths, plots, report
from arena10k.attribution.investigation import Investigation, investigate_table
from arena10k.collection import generate
from arena10k.collection.jobs import JUDGE, ORACLE, compares
from arena10k.collection.store import Store
from arena10k.errors import ArenaError, NothingToShow, unknown
from arena10k.estimation import ESTIMATORS, PolicyData, evaluation, planning, policies_data
from arena10k.estimation.data import Rows
from arena10k.estimation.evaluation import Evaluation
from arena10k.explore import answers
from arena10k.explore.answers import Diagnosis, Estimates, Examples, Explanation, PromptView
from arena10k.explore.judges import Judges, labelled
from arena10k.explore.source import Chosen, Given, Recorded, Where, part
from arena10k.explore.view import Listing, View
from arena10k.frames.records import COLUMNS, read
from arena10k.frames.table import Table
from arena10k.inputs.policies import Policy, policies
from arena10k.params import config
from arena10k.params.config import Params
from arena10k.simulation import coverage

_FRAMES = ("prompts", *COLUMNS, "table")
_QUESTIONS = {"estimate": "", "diagnose": "policy", "explain": "policy", "prompt": "prompt_id", "heavy_rows": "policy"}
_QUESTIONS |= {"disagreements": "", "compare_judges": ""}


class Run:
    """One experiment, to look at and to ask.

    Frames: `prompts`, `responses`, `logprobs`, `judgments`, `labels`, and `table()`, what is estimated from.
    Questions: `estimate()`, `diagnose(policy)`, `explain(policy)`, `prompt(id)`, `heavy_rows(policy)`,
    `disagreements()`, `compare_judges()`. The answers show themselves in Jupyter and have the numbers as attributes.
    Looking writes nothing and may be done while the run collects; frames are read once, and a new `Run` sees what was
    measured since. Examples are of `run = Run("sample")`.

    `name` is a params file (`sample`, `params/local.yaml`) or params that are loaded already, `run` the data folder,
    where it is not the one the params name. Raises ArenaError for a params file that is not there, and, once data are
    asked for, for a run that has none; ParamsError for a params file that does not fit the schema.
    """

    def __init__(self, name: str | Path | Params = "sample", run: str | None = None):
        self.params = name if isinstance(name, Params) else config.load(name, run or None)
        self.name = self.params.run
        self.source: Recorded | Given = Given(self.params) if self.params.table else Recorded(self.params)
        plots.colour([*filter(None, [self.params.logging_policy]), *self.params.targets])

    def __dir__(self) -> list[str]:
        """What there is to ask, for autocompletion; what only stages use is there too, but not listed."""
        return sorted([*_FRAMES, *_QUESTIONS, "name", "params", "policies", "coverage"])

    def __repr__(self) -> str:
        n = len(self.params.targets)
        about = "a given table" if self.params.table else f"{self.params.logging_policy} and {n} target{'s' * (n != 1)}"
        return (
            f"Run({self.name!r}: {about})\n"
            f"  frames: {', '.join(_FRAMES[:-1])}, table()\n"
            f"  ask:    {', '.join(f'{question}({about})' for question, about in _QUESTIONS.items())}"
        )

    def _repr_html_(self) -> str:
        first, *more = repr(self).splitlines()
        try:
            sentence = self.coverage()
        except ArenaError as error:  # a run without data says so
            sentence = str(error)
        definitions = [report.table(generate.definitions(self.policies))] if self.policies else []
        return View([first, sentence], *definitions, *(line.strip() for line in more))._repr_html_()

    @property
    def policies(self) -> dict[str, Policy]:
        """The policies by name, as they are asked."""
        return dict(policies(self.params))

    @property
    def prompts(self) -> pd.DataFrame:
        """One row per prompt: `prompt_id`, `prompt`, `category`, `language`, `answer`, `check`; of a table that was
        given, the first three."""
        return self.source.prompts

    @cached_property
    def responses(self) -> pd.DataFrame:
        """One row per response, also those that failed: `policy`, `prompt_id`, `draw`, `response`, `tokens`, `chars`,
        `finish_reason`, `status` (ok, failed, quarantined), `reason`.

        >>> len(run.responses) == len(run.prompts) * len(run.policies) * run.params.responses.draws
        True
        """
        return self.source.frame("responses")

    @cached_property
    def logprobs(self) -> pd.DataFrame:
        """One row per teacher-forced log-prob of a logged response under a policy: `policy`, `prompt_id`, `draw`,
        `logp` (nats, of the whole response; missing unless the status is ok), `raw_logp` (as stored), `tokens`,
        `status`, `reason`.

        >>> wide = run.logprobs.pivot(index="prompt_id", columns="policy", values="logp")
        >>> bool(((wide.pi_clone - wide.p0).abs() < 0.001).all())  # a clone's weights are 1
        True
        """
        return self.source.frame("logprobs")

    @cached_property
    def judgments(self) -> pd.DataFrame:
        """One row per judge score: `policy`, `prompt_id`, `draw`, `judge` (its name), `score` (in [0, 1]), `sd`,
        `status`, `reason`.

        >>> bool(run.judgments.score.between(0, 1).all())
        True
        """
        return self.source.frame("judgments")

    @cached_property
    def labels(self) -> pd.DataFrame:
        """One row per oracle label: `policy`, `prompt_id`, `draw`, `kind`, `label` (in [0, 1]), `status`, `reason`.
        Estimators use labels of kind oracle; those of kind truth only measure the true value.

        >>> sorted(run.labels.kind.unique())
        ['oracle', 'truth']
        """
        return self.source.frame("labels")

    def table(self) -> Table:
        """The analysis table, built anew from the records, or read where params name a `table`: see
        `arena10k.frames.table.Table`."""
        return self.source.table()

    def coverage(self) -> str:
        """How much of what is due can be used, in a sentence."""
        return self.source.coverage()

    def estimate(
        self,
        policies: str | Iterable[str] | None = None,
        estimators: str | Iterable[str] | None = None,
        judge: str | Iterable[str] | None = None,
        where: Where = None,
    ) -> Estimates:
        """The value of policies, with interval, verdict and reasons: `.frame` (fields of estimates.json), `.ranking`,
        `.contrasts` and `.figure("forest")`.

        `policies`, `estimators`: a name or several; all where left out. `judge`: the name of a judge or several; the
        one that headlines use where left out. `where`: prompts to use alone, on which everything is estimated anew: a
        query on `run.prompts` with `prompt_chars` (`"category == 'sum' and prompt_chars < 30"`), a boolean per prompt,
        rows of `run.prompts`, prompt ids, or a function of that frame. Choose by what prompts are: among rows chosen by
        what was answered, weights do not average 1. Raises ArenaError for a name that is not there, a query that cannot
        be answered, and where no prompt is chosen.

        >>> run.estimate("pi_bad", "snips").frame.verdict.tolist()  # a plausible number that may not be believed
        ['REFUSE']
        >>> short = run.estimate(where="prompt_chars < 30")
        >>> short.n == len(run.prompts[run.prompts.prompt.str.len() < 30])
        True
        """
        chosen = self._part(where)
        judges = _some("judge", judge, self._judges(chosen.table)) or [self.params.estimation.judge]
        names = _some("policy", policies, chosen.table.policies)
        study = self.study(chosen.table, names, _some("estimator", estimators, ESTIMATORS), judges)
        return Estimates(study, chosen, judges)

    def diagnose(self, policy: str, judge: str | None = None, where: Where = None) -> Diagnosis:
        """What is wrong with a policy's weights or its judge, in words, with what is behind them: `.problems`,
        `.measures`, `.verdicts`, and `.figure(name)` for a name in `.figures`. Parameters and errors as for `estimate`,
        of one policy and judge.

        >>> found = run.diagnose("pi_bad")
        >>> "off_support" in set(found.problems.reason)
        True
        """
        chosen = self._part(where)
        names, by = _some("policy", [policy], chosen.table.policies), self._judge(judge, chosen.table)
        return Diagnosis(policy, by, self.study(chosen.table, policies=names, judges=[by]), chosen)

    def explain(self, policy: str, where: Where = None, top: int = 10) -> Explanation:
        """Why the published (SNIPS) number of a policy is what it is: verdict, parts of the gap to the trusted value,
        and the `top` logged rows that carry its weight. Errors as for `estimate`; `NothingToShow` without judge scores
        or weights.

        >>> run.explain("pi_bad").row["anomaly"]
        True
        """
        chosen = self._part(where)
        _some("policy", [policy], chosen.table.policies)
        investigation = self._investigation if chosen is self._whole else self.investigate(chosen.table)
        return Explanation(policy, investigation, chosen, top)

    def prompt(self, prompt_id: str) -> PromptView:
        """One prompt across policies: every response with its scores and label, and how likely each policy finds the
        logged one. The answer has `.prompt`, `.responses` and `.logged`.

        >>> set(run.prompt("capital_01").responses.policy) == set(run.policies)
        True
        """
        return PromptView(prompt_id, self.prompts, self._frames(), self.params.logging_policy)

    def heavy_rows(self, policy: str, judge: str | None = None, top: int = 10) -> Listing:
        """The logged responses that carry most of a target's weight, heaviest first: `.frame` has prompt, response,
        `log_weight` (nats), `weight`, `share` of the weight, `cumulative` share and `score` (of the judge).

        >>> rows = run.heavy_rows("pi_bad", top=5).frame
        >>> len(rows), bool(rows.share.is_monotonic_decreasing)
        (5, True)
        """
        table = self._whole.table
        return answers.heavy_rows(table, policy, self._judge(judge, table), top)

    def disagreements(self, judge: str | None = None, top: int = 10) -> Listing:
        """Responses where judge and oracle differ, most first: `.frame` has all of them with `score`, `label` and
        `gap` (score minus label); `top` are shown.

        >>> rows = run.disagreements().frame
        >>> bool((rows.gap == rows.score - rows.label).all())
        True
        """
        return answers.disagreements(self._frames(), self.prompts, self._judge(judge, self._whole.table), top)

    def examples(self, judge: str | None = None, top: int = 3) -> Examples:
        """Answers of all policies to the same prompt side by side, prompts on which their scores differ most first:
        `.frame` has all with `prompt`, `policy`, `response`, `score` and `label`; those of `top` prompts are shown.

        >>> first = run.examples().frame.groupby("prompt_id", sort=False).score
        >>> bool((first.max() - first.min()).is_monotonic_decreasing)
        True
        """
        return answers.examples(self._frames(), self.prompts, self._judge(judge, self._whole.table), top)

    def compare_judges(self) -> Judges:
        """The judges of the run against labels and against each other: how far each is off on each policy, what it
        costs, what its scores save in labels, and how it would rank the policies, from scores and labels alone.

        >>> off = run.compare_judges().policies
        >>> bool(((off.off_low <= off.off) & (off.off <= off.off_high)).all())
        True
        """
        table, e = self._whole.table, self.params.estimation
        own = table.logged.drop(columns=[column for column in table.logged if column.startswith("logp_")])
        found = evaluation.study(self.arrays(dataclasses.replace(table, logged=own)), e.analysis, judge=e.judge)
        return Judges(found, self.source, labelled(self._frames(), table.judges))

    def _frames(self) -> dict[str, pd.DataFrame]:
        return {name: getattr(self, name) for name in COLUMNS}

    @cached_property
    def _whole(self) -> Chosen:
        return Chosen(self.table(), len(self.prompts))

    @cached_property
    def _investigation(self) -> Investigation:
        return self.investigate(self._whole.table)

    def _part(self, where: Where) -> Chosen:
        return self._whole if where is None else part(self.source, where)

    def _judges(self, table: Table) -> list[str]:
        first = self.params.estimation.judge
        if first not in table.judges:
            raise unknown("judge", first, table.judges)
        return [judge for judge in table.judges if judge == first or table.is_judged(judge)]

    def _judge(self, judge: str | None, table: Table) -> str:
        return (_some("judge", judge, self._judges(table)) or [self.params.estimation.judge])[0]

    # What stages use.

    @property
    def store(self) -> Store:
        """The record store, opened for collecting (made where there is none); a recording is loaded into memory."""
        return self.source.store

    @property
    def facts(self) -> dict[str, list[str]]:
        """What is known of policies and shows in no array: see `estimation.context`."""
        return self.source.facts

    @property
    def created(self) -> str | None:
        """When the newest record was measured (UTC), so that the same data gives the same report."""
        return self.source.created

    def records(self, *jobs: str) -> pd.DataFrame:
        """Records of jobs as a frame, failed and quarantined ones included: see `frames.records.read`."""
        return read(self.source.reading, *jobs)

    def arrays(self, table: Table) -> dict[str, dict[str, PolicyData]]:
        """What the statistics take: per policy (the logging policy first) and judge, the arrays of one policy.

        A judge without a score is left out, unless it is the one that headlines use."""
        folds, judges = self.params.estimation.folds, self._judges(table)
        logged, fresh = table.logged, table.fresh
        unjudged = self.params.imported and not any(map(table.is_judged, judges))
        if unjudged:
            # Labels without any score speak alone: one that is the same everywhere says nothing.
            same = {JUDGE + judges[0]: 0.5}
            logged, fresh = (part.assign(**same) if part.label.notna().any() else part for part in (logged, fresh))
        made = policies_data(logged, fresh, table.policies, judges, table.logging_policy, folds)
        for own in made.values() if unjudged else ():
            own |= {j: data.unscored() for j, data in own.items()}
        # A win over the logging policy's response is no property of a response that could be weighted.
        paired = [j for j in judges if compares(self.params, JUDGE + j) or compares(self.params, ORACLE)]
        none, p0 = Rows(np.empty(0)), table.logging_policy
        made = {p: own | {j: dataclasses.replace(own[j], logged=none) for j in paired} for p, own in made.items()}
        if compares(self.params, ORACLE):  # against itself every vote is a tie
            made[p0] = {j: dataclasses.replace(data, known=0.5) for j, data in made[p0].items()}
        return made

    def study(
        self,
        table: Table,
        policies: Iterable[str] | None = None,
        estimators: Iterable[str] | None = None,
        judges: Iterable[str] | None = None,
    ) -> Evaluation:
        """Every estimator, interval and verdict, with the diagnostics, for every policy and judge, or for those named
        alone."""
        e, wanted, arrays = self.params.estimation, None if judges is None else list(judges), self.arrays(table)
        names = list(arrays) if policies is None else list(policies)
        chosen = {p: {j: data for j, data in arrays[p].items() if wanted is None or j in wanted} for p in names}
        known = (table.quarantined, self.facts, estimators)
        return evaluation.study(chosen, e.analysis, *known, clones=self.source.clones(), judge=e.judge)

    def estimates(self, table: Table, study: Evaluation | None = None) -> dict[str, Any]:
        """The content of `estimates.json`: one row per policy, estimator and judge; who ranks where (policies
        with an accepted one, ties share a rank), the difference of every two of them and what would turn their order
        round, by the judge of headlines. `study` is that of `table`, where it is there already."""
        head = {"run": self.name, "n": len(table.logged), "created": self.created}
        return head | (study or self.study(table)).result

    def plans(self, study: Evaluation) -> pd.DataFrame:
        """What an interval of each wanted width takes, by policy and estimator (PPI++ and direct): `labels`, `draws`,
        and the cost in US dollars of what is not there yet. The widths are params' `width` times 2, 1, 1/2 and 1/4."""
        e = self.params.estimation
        widths, rows = [w for w in (2 * e.width, e.width, e.width / 2, e.width / 4) if w <= 1], []
        for policy, ctx in study.of_judge(e.judge).items():
            price = self.source.unit_costs(policy)
            plans = planning.plan(ctx.pilot, widths, price, e.confidence)
            plans += planning.direct_plan(ctx.prep, widths, price, e.confidence)
            rows += [{"policy": policy} | row for row in plans]
        return pd.DataFrame(rows)

    def simulate(self, table: Table) -> pd.DataFrame:
        """Whether intervals would have covered on data like this run's, and where they are known to fail: see
        `coverage.simulated`."""
        e = self.params.estimation
        data = {policy: judges[e.judge] for policy, judges in self.arrays(table).items()}
        if len(data) < 2:
            raise NothingToShow(f"run {self.name!r} has one policy: there is no other whose data could be simulated")
        return coverage.simulated(data, e.replicates, self.params.seed, e.analysis, e.replicate_rows)

    def investigate(self, table: Table) -> Investigation:
        """Why published numbers are wrong, where they are: see `arena10k.attribution`. Raises `NothingToShow` where no
        logged response has a judge score, or none has a weight: nothing was published, so nothing can be
        investigated."""
        e, lacks = self.params.estimation, ""
        if not table.logged[f"judge_{e.judge}"].notna().any():
            lacks = "has a judge score, so there is nothing to investigate: add a `judge` to the params"
        elif not any(np.isfinite(values).any() for values in table.log_weights().values()):
            lacks = f"has log-probs of a target and of {table.logging_policy}, so there are no weights to investigate"
        if lacks:
            raise NothingToShow(f"run {self.name!r}: no logged response {lacks}")
        return investigate_table(table, e.judge, analysis=e.analysis, facts=self.facts)

    def write_result(self, name: str, content: dict[str, Any]) -> None:
        """Write a machine-readable result such as `estimates.json` to the run's report folder."""
        report.write_json(paths.result_file(self.name, name), content)

    def note(self, stage: str, **numbers: Any) -> None:
        """Key numbers of a stage, for its row in the run's index."""
        self.write_result(f"stages/{stage}.numbers.json", numbers)


def _some(what: str, given: str | Iterable[str] | None, names: Iterable[str]) -> list[str] | None:
    """The given names as a list, None for all. Raises ArenaError for one that is not there."""
    if given is None:
        return None
    chosen, there = [given] if isinstance(given, str) else list(given), list(names)
    if strange := [name for name in chosen if name not in there]:
        raise unknown(what, strange[0], there)
    if not chosen:
        raise ArenaError(f"no {what} is named: there is {', '.join(there)}")
    return chosen
