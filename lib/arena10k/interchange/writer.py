"""From checked rows to records: what each row of a source adds to the run, and what of it cannot be taken."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from arena10k.collection.jobs import DETERMINISTIC, LOGPROBS, ORACLE, RESPONSES, UNCERTAINTY, imported_context
from arena10k.collection.records import Record
from arena10k.collection.store import Store
from arena10k.inputs.faults import Fault
from arena10k.inputs.policies import digest
from arena10k.interchange.rows import MAX_DRAWS, MISSING, Range, Row, Value, on_scale, variance_on_scale
from arena10k.interchange.source import Source
from arena10k.interchange.staging import Prompts
from arena10k.params.imported import PROVIDER

#: Faults listed for each file; beyond them only counts are kept, by field and kind.
LISTED = 1000


@dataclass
class FileAccount:
    """What became of one file: rows read, taken, left out; how many responses another file has `again`, what other rows
    are `beside` these; how many faults there are by field, and the first of them; the `policies` of what is taken; by
    scale and column its numbers: how many lie within the scale and outside of it, and their range."""

    file: str
    unit: str
    rows: int = 0
    taken: int = 0
    left_out: int = 0
    again: int = 0
    beside: dict[str, int] = field(default_factory=dict)
    values_left_out: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    malformed: list[dict[str, Any]] = field(default_factory=list)
    policies: set[str] = field(default_factory=set)
    spreads: dict[tuple[str, str], tuple[int, int, float, float]] = field(default_factory=dict)

    def note(self, line: int, fault: Fault, row_taken: bool) -> None:
        self.faults[f"{fault.field or 'row'}: {fault.code}"] += 1
        if len(self.malformed) < LISTED:
            where = {"file": self.file, "unit": self.unit, "line": line, "field": fault.field, "fault": fault.what}
            self.malformed.append(where | {"do": fault.do, "code": fault.code, "row_taken": row_taken})

    def spread(self, scale: str, bounds: Range, column: str, value: Value) -> None:
        """Count a number of a column that has a declared scale."""
        if isinstance(value, float):
            inside = not isinstance(on_scale(column, value, bounds), Fault)
            within, outside, low, high = self.spreads.get((scale, column), (0, 0, math.inf, -math.inf))
            self.spreads[scale, column] = (within + inside, outside + (not inside), min(low, value), max(high, value))


class Writer:
    """Writes the rows of sources, logged data first, into a store that is being filled.

    A measurement that is no finite number within its scale becomes an error record; one that the source does not have
    becomes one of code `missing` only where it is expected.
    """

    def __init__(
        self, store: Store, add: Callable[[Record], bool], prompts: Prompts, names: dict[str, str],
        declared: dict[str, Any], created: float, has_logged: bool,
    ):  # fmt: skip
        self._store, self._add, self._prompts, self._names, self._declared = store, add, prompts, names, declared
        self._logging = names[declared["logging_policy"]]
        self._created, self._has_logged = created, has_logged
        #: How many records there are by job, policy and outcome (the word ok, or the code).
        self.records: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
        self.logged_draws = self.draws = 0
        self._logged_before = 0
        #: By policy and prompt the draw up to which a file's rows without text and number are placed.
        self._next: dict[tuple[str, str], int] = {}

    def source(self, source: Source, step: Callable[[], Any]) -> FileAccount:
        """Write one file; says what became of it. `step` is called for every row."""
        account = FileAccount(source.name, source.file.unit)
        if not source.logged and self._has_logged:
            self._logged_before = self.logged_draws
        self._next = {}
        for line, raw in source.read(source.needed()):
            account.rows += 1
            step()
            taken = False
            try:
                if isinstance(raw, Fault):
                    raise raw
                for part, row in source.rows(raw):
                    self._row(account, part, line, row)
                    taken = True
            except Fault as error:
                account.left_out += not taken
                account.values_left_out += taken
                account.note(line, error, row_taken=taken)
            account.taken += taken
        return account

    def _row(self, account: FileAccount, source: Source, line: int, row: Row) -> None:
        """Store a response. Raises Fault where it cannot be taken."""
        name = source.policy if row.policy is None else row.policy
        if name not in self._names:
            raise Fault(source.called("policy"), "is missing")
        policy = self._names[str(name)]
        self._prompts.add(row, source.called("prompt"))
        draw, is_there = self._place(source, line, row, policy)
        text = row.response if row.response is not None else Fault("", "is not in the source", MISSING)
        self._keep(RESPONSES, row.prompt_id, policy, draw, is_there, text, {"file": source.name, "line": line})
        account.again += is_there
        account.policies.add(policy)
        if not is_there:
            self.draws = max(self.draws, draw + 1)
            if source.logged or (policy == self._logging and not self._has_logged):
                self.logged_draws = max(self.logged_draws, draw + 1)
        faults = {}
        for job, whose, value, payload in self._values(source, row, policy):
            fault = value is not None and self._keep(job, row.prompt_id, whose, draw, is_there, value, payload)
            if fault:
                faults[fault.field] = fault  # two modes of the judge may share one
        for scale, name, number in (("judge_scale", "judge", row.judge), ("oracle_scale", "label", row.label)):
            account.spread(scale, self._declared[scale], source.called(name), number)
        account.values_left_out += len(faults)
        for fault in faults.values():
            account.note(line, fault, row_taken=True)

    def _place(self, source: Source, line: int, row: Row, policy: str) -> tuple[int, bool]:
        """The draw that a response is kept as, and whether it is there already, from another file.

        Fresh draws of the logging policy may be its logged responses; those that are not come after them. Responses
        without a number are numbered as they stand; one that another file has too is that one.
        """
        after = self._logged_before if policy == self._logging and not source.logged else 0
        draws: Sequence[int] = range(self._next.get((policy, row.prompt_id), 0), MAX_DRAWS)
        if row.draw is not None:
            draws = [row.draw, after + row.draw] if after else [row.draw]
        other: dict[str, Any] | None = None
        for draw in draws:
            before = self._store.get(RESPONSES, row.prompt_id, _cell(RESPONSES, policy, draw)[0])
            alike = before and (before["value"] is None or row.response in (None, before["value"]))
            if before and alike and before["payload"]["file"] != source.name:
                if row.response is None:
                    self._next[policy, row.prompt_id] = draw + 1
                return draw, True
            may_be = row.draw is None or draw == draws[-1]
            if before is None and draw >= after and may_be and (other is None or other["draw"] < after):
                return draw, False
            if before is None and row.draw is None and draw >= after:
                break
            other = before if before and (row.draw is not None or before["payload"]["file"] != source.name) else other
        if other is None:
            raise Fault(source.called("draw"), f"{row.prompt_id[:60]!r} has more than {MAX_DRAWS:,} draws")
        where = other["payload"]
        if where["file"] == source.name:
            same = f"{row.prompt_id[:60]!r} draw {row.draw} is also that of line {where['line']}"
            raise Fault(source.called("prompt_id"), same, do="number the draws, or leave their column out")
        what = f"{where['file']} line {where['line']}, which has the same prompt_id, draw and policy"
        do = "number further draws in a column draw, or give each file its policy"
        raise Fault(source.called("response"), f"is another one than that of {what}", do=do)

    def _values(self, source: Source, row: Row, policy: str) -> Iterator[tuple[str, str, Value, dict[str, Any]]]:
        """Job, policy, value and payload of what is measured of a row."""
        scale, score, spread = self._declared["judge_scale"], source.called("judge"), source.called("judge_variance")
        judge = on_scale(score, row.judge, scale)
        if judge is None and "judge" in source.expected:
            judge = Fault(score, "is missing", MISSING)
        yield DETERMINISTIC, policy, judge, {}
        if "judge_variance" in source.expected:
            variance = variance_on_scale(spread, row.judge_variance, scale)
            variance = Fault(spread, "is missing", MISSING) if variance is None else variance
            fails = isinstance(judge, float) and isinstance(variance, Fault)
            yield UNCERTAINTY, policy, variance if fails else judge, {"variance": variance}
        label, chance = (
            on_scale(source.called("label"), row.label, self._declared["oracle_scale"]),
            row.label_propensity,
        )
        if isinstance(label, float) and "label_propensity" in source.expected and not _is_chance(chance):
            what = "is missing" if chance is None else f"{chance} is no chance, above 0 and at most 1"
            label = Fault(source.called("label_propensity"), what, "no_chance", "give every label its chance")
        yield ORACLE, policy, label, {"propensity": chance} if _is_chance(chance) else {}
        for name in source.scored:
            logprob = row.logprobs.get(name)
            yield LOGPROBS, self._names[name], Fault(name, "is missing", MISSING) if logprob is None else logprob, {}

    def _keep(
        self, job: str, prompt_id: str, policy: str, draw: int, is_there: bool, value: str | float | Fault,
        payload: dict[str, Any],
    ) -> Fault | None:  # fmt: skip
        """Store one value as what it is; gives the fault to be listed, if any. Of a response that is there from another
        file, what both have must agree; what one lacks the other may have."""
        key, fingerprint, context = _cell(job, policy, draw)
        fault = value if isinstance(value, Fault) and value.code != MISSING else None
        before = self._store.get(job, prompt_id, key) if is_there else None
        if before and (before["value"] == value or isinstance(value, Fault)):
            return fault
        if before and before["value"] is not None:
            other = f"{value:g} here and {before['value']:g} in a file read before, which stays"
            return Fault(job, other, "differs")
        if before:
            self.records[job][policy] -= Counter([before["code"]])
        outcome: dict[str, Any] = {"status": "ok", "value": value, "payload": payload}
        if isinstance(value, Fault):
            outcome = {"status": "error", "code": value.code, "detail": value.what}
            outcome |= {"payload": payload} if job == RESPONSES else {}
        cell = (job, prompt_id, key, policy, draw, fingerprint, context)
        if not self._add(Record(*cell, **outcome, attempts=1, created=self._created)):
            raise AssertionError(f"{job} of {policy} for {prompt_id!r} is there already")
        self.records[job][policy][outcome.get("code", "ok")] += 1
        return fault


def _is_chance(value: Value) -> bool:
    return isinstance(value, float) and 0 < value <= 1


@cache
def _cell(job: str, policy: str, draw: int) -> tuple[str, str, str]:
    """Key beside the prompt (a response has one record of each job and policy), fingerprint and context of a record."""
    fingerprint = digest({PROVIDER: policy})
    return digest([job, PROVIDER, policy, draw]), fingerprint, imported_context(job, fingerprint)
