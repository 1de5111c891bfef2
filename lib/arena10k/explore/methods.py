"""What one can ask a run: frames, estimates, diagnoses, explanations and single rows. Nothing here writes anything."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

from arena10k.errors import ArenaError, unknown
from arena10k.params.config import Params

if TYPE_CHECKING:
    import pandas as pd

    from arena10k.attribution import Investigation
    from arena10k.collection.store import Store
    from arena10k.estimation.evaluate import Study
    from arena10k.explore.diagnosis import Diagnosis
    from arena10k.explore.estimates import Estimates
    from arena10k.explore.explanation import Explanation
    from arena10k.explore.looking import PromptView
    from arena10k.explore.selection import Slice, Where
    from arena10k.explore.view import Rows
    from arena10k.frames.table import Table
    from arena10k.inputs.policies import Policy

_FRAMES = ("prompts", "responses", "logprobs", "judgments", "labels", "table")
_QUESTIONS = {"estimate": "", "diagnose": "policy", "explain": "policy", "prompt": "prompt_id", "heavy_rows": "policy"}
_QUESTIONS |= {"disagreements": ""}
_FACTS = ("name", "params", "policies", "coverage")


class Exploring(ABC):
    """The part of a run that is for looking. Frames are read once: a new `Run` sees what was measured since.

    Examples are of `run = Run("sample")`.
    """

    params: Params
    name: str

    @property
    @abstractmethod
    def prompts(self) -> pd.DataFrame: ...

    @property
    @abstractmethod
    def reading(self) -> Store: ...

    @property
    @abstractmethod
    def policies(self) -> dict[str, Policy]: ...

    @abstractmethod
    def coverage(self) -> str: ...

    @abstractmethod
    def table(self) -> Table: ...

    @abstractmethod
    def table_of(self, prompt_ids: pd.Series) -> Table: ...

    @abstractmethod
    def study(
        self,
        table: Table,
        reports: bool = True,
        policies: Iterable[str] | None = None,
        estimators: Iterable[str] | None = None,
        judges: Iterable[str] | None = None,
    ) -> Study: ...

    @abstractmethod
    def investigate(self, table: Table) -> Investigation: ...

    def __dir__(self) -> list[str]:
        """What there is to ask, for autocompletion; what only stages use is there too, but not listed."""
        return sorted([*_FRAMES, *_QUESTIONS, *_FACTS])

    def __repr__(self) -> str:
        n = len(self.params.targets)
        about = "a given table" if self.params.table else f"{self.params.logging_policy} and {n} target{'s' * (n != 1)}"
        return (
            f"Run({self.name!r}: {about})\n"
            f"  frames: {', '.join(_FRAMES[:-1])}, table()\n"
            f"  ask:    {', '.join(f'{question}({about})' for question, about in _QUESTIONS.items())}"
        )

    def _repr_html_(self) -> str:
        from arena10k.explore.view import Overview

        return Overview(repr(self), self.coverage, self.policies)._repr_html_()

    @cached_property
    def responses(self) -> pd.DataFrame:
        """One row per response, also those that failed: `policy`, `prompt_id`, `draw`, `response`, `tokens`, `chars`,
        `finish_reason`, `status` (ok, failed, quarantined), `reason`.

        >>> len(run.responses) == len(run.prompts) * len(run.policies) * run.params.responses.draws
        True
        """
        return self._frame("responses")

    @cached_property
    def logprobs(self) -> pd.DataFrame:
        """One row per teacher-forced log-prob of a logged response under a policy: `policy`, `prompt_id`, `draw`,
        `logp` (nats, of the whole response; missing unless the status is ok), `raw_logp` (as stored), `tokens`,
        `status`, `reason`.

        >>> wide = run.logprobs.pivot(index="prompt_id", columns="policy", values="logp")
        >>> bool(((wide.pi_clone - wide.p0).abs() < 0.001).all())  # a clone's weights are 1
        True
        """
        return self._frame("logprobs")

    @cached_property
    def judgments(self) -> pd.DataFrame:
        """One row per judge score: `policy`, `prompt_id`, `draw`, `mode` (deterministic, uncertainty), `score` (in
        [0, 1]), `sd` (uncertainty mode), `status`, `reason`.

        >>> bool(run.judgments.score.between(0, 1).all())
        True
        """
        return self._frame("judgments")

    @cached_property
    def labels(self) -> pd.DataFrame:
        """One row per oracle label: `policy`, `prompt_id`, `draw`, `kind`, `label` (in [0, 1]), `status`, `reason`.
        Estimators use labels of kind oracle; those of kind truth only measure the true value.

        >>> sorted(run.labels.kind.unique())
        ['oracle', 'truth']
        """
        return self._frame("labels")

    def _frame(self, name: str) -> pd.DataFrame:
        from arena10k.frames import records

        if self.params.table:
            return records.of_table(name, self._table)
        return records.tidy(name, self.reading, self.params.policies, self.prompts.prompt_id)

    def estimate(
        self,
        policies: str | Iterable[str] | None = None,
        estimators: str | Iterable[str] | None = None,
        judge: str | Iterable[str] | None = None,
        where: Where = None,
    ) -> Estimates:
        """The value of policies, with interval, verdict and reasons.

        Parameters
        ----------
        policies, estimators : a name or several; all where left out.
        judge : judge mode (deterministic, uncertainty) or several; the one that headlines use where left out.
        where : prompts to use alone; everything is estimated anew on them. A query on `run.prompts` with `prompt_chars`
            (`"category == 'sum' and prompt_chars < 30"`), a boolean per prompt, rows of `run.prompts`, prompt ids, or a
            function of that frame. Choose by what prompts are: among rows chosen by what was answered, weights do not
            average 1.

        Returns
        -------
        Estimates with `.frame` (fields of estimates.json), `.ranking`, `.contrasts` and `.figure("forest")`.

        Raises
        ------
        ArenaError
            For a name that is not there, a query that cannot be answered, and where no prompt is chosen.

        >>> run.estimate("pi_bad", "snips").frame.verdict.tolist()  # a plausible number that may not be believed
        ['REFUSE']
        >>> short = run.estimate(where="prompt_chars < 30")
        >>> short.n == len(run.prompts[run.prompts.prompt.str.len() < 30])
        True
        """
        from arena10k.estimation import ESTIMATORS
        from arena10k.explore.estimates import Estimates

        part = self._slice(where)
        judges = _some("judge mode", judge, self._modes(part.table)) or [self.params.estimation.judge]
        study = self.study(
            part.table,
            reports=False,
            policies=_some("policy", policies, self._names(part.table)),
            estimators=_some("estimator", estimators, ESTIMATORS),
            judges=judges,
        )
        return Estimates(study, part, judges)

    def diagnose(self, policy: str, judge: str | None = None, where: Where = None) -> Diagnosis:
        """What is wrong with a policy's weights or its judge, in words, with the measures behind them.

        Parameters and errors as for `estimate`, of one policy and judge mode. The answer has `.problems`, `.facts`,
        `.verdicts`, and draws `.figure(name)` for a name in `.figures`.

        >>> found = run.diagnose("pi_bad")
        >>> "off_support" in set(found.problems.reason)
        True
        """
        from arena10k.explore.diagnosis import Diagnosis

        part = self._slice(where)
        policies = _some("policy", [policy], self._names(part.table))
        mode = self._mode(judge, part.table)
        return Diagnosis(policy, mode, self.study(part.table, policies=policies, judges=[mode]), part)

    def explain(self, policy: str, where: Where = None, top: int = 10) -> Explanation:
        """Why the published (SNIPS) number of a policy is what it is: verdict, parts of the gap to the trusted value,
        and the `top` logged rows that carry its weight. Errors as for `estimate`; `NothingToShow` without judge scores
        or weights.

        >>> run.explain("pi_bad").row["anomaly"]
        True
        """
        from arena10k.explore.explanation import Explanation

        part = self._slice(where)
        _some("policy", [policy], self._names(part.table))
        inv = self._investigation if part is self._whole else self.investigate(part.table)
        return Explanation(policy, inv, part, top)

    def prompt(self, prompt_id: str) -> PromptView:
        """One prompt across policies: every response with its scores and label, and how likely each policy finds the
        logged one. The answer has `.prompt`, `.responses` and `.logged`.

        >>> set(run.prompt("capital_01").responses.policy) == set(run.policies)
        True
        """
        from arena10k.explore.looking import prompt_view

        return prompt_view(prompt_id, self.prompts, self._frames(), self.params.logging_policy)

    def heavy_rows(self, policy: str, judge: str | None = None, top: int = 10) -> Rows:
        """The logged responses that carry most of a target's weight, heaviest first: `.frame` has prompt, response,
        `log_weight` (nats), `weight`, `share` of the weight, `cumulative` share and `reward` (judge score).

        >>> rows = run.heavy_rows("pi_bad", top=5).frame
        >>> len(rows), bool(rows.share.is_monotonic_decreasing)
        (5, True)
        """
        from arena10k.explore.looking import heavy_rows

        table = self._table
        if policy == table.logging_policy:
            raise ArenaError(f"{policy} is the logging policy: its weight is 1 on every row")
        _some("target", [policy], table.targets)
        return heavy_rows(table, policy, self._mode(judge, table), top)

    def disagreements(self, judge: str | None = None, top: int = 10) -> Rows:
        """Responses where judge and oracle differ, most first: `.frame` has all of them with `score`, `label` and
        `gap` (score minus label); `top` are shown.

        >>> rows = run.disagreements().frame
        >>> bool((rows.gap == rows.score - rows.label).all())
        True
        """
        from arena10k.explore.looking import disagreements

        mode = self._mode(judge, self._table)
        return disagreements(self._frames(), self.prompts, mode, top)

    def _frames(self) -> dict[str, pd.DataFrame]:
        names = ("responses", "logprobs", "judgments", "labels")
        return {name: getattr(self, name) for name in names}

    @cached_property
    def _table(self) -> Table:
        return self.table()

    @cached_property
    def _whole(self) -> Slice:
        from arena10k.explore.selection import Slice

        return Slice(self._table, len(self.prompts), len(self.prompts))

    @cached_property
    def _investigation(self) -> Investigation:
        return self.investigate(self._table)

    def _slice(self, where: Where) -> Slice:
        from arena10k.explore.selection import Slice, choose

        if where is None:
            return self._whole
        chosen, words = choose(self.prompts, where)
        return Slice(self.table_of(chosen.prompt_id), len(chosen), len(self.prompts), words)

    @staticmethod
    def _names(table: Table) -> list[str]:
        return [table.logging_policy, *table.targets]

    def _modes(self, table: Table) -> list[str]:
        from arena10k.frames.records import JUDGE_MODES

        return [mode for mode in JUDGE_MODES if mode == self.params.estimation.judge or table.is_judged(mode)]

    def _mode(self, judge: str | None, table: Table) -> str:
        return (_some("judge mode", judge, self._modes(table)) or [self.params.estimation.judge])[0]


def _some(what: str, given: str | Iterable[str] | None, known: Iterable[str]) -> list[str] | None:
    """The given names as a list, None for all. Raises ArenaError for one that is not known."""
    if given is None:
        return None
    names, there = [given] if isinstance(given, str) else list(given), list(known)
    for name in names:
        if name not in there:
            raise unknown(what, name, there)
    if not names:
        raise ArenaError(f"no {what} is named: there is {', '.join(there)}")
    return names
