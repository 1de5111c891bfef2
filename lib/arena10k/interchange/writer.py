"""From checked rows to records: what each row of a source adds to the run, and what of it cannot be taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from arena10k.collection.jobs import DETERMINISTIC, LOGPROBS, ORACLE, RESPONSES, UNCERTAINTY, imported_context
from arena10k.collection.records import Record
from arena10k.collection.store import Store
from arena10k.inputs.policies import digest
from arena10k.interchange.layouts import Source
from arena10k.interchange.rows import MISSING, Fault, Range, Row, RowFault, on_scale, variance_on_scale
from arena10k.interchange.staging import Prompts
from arena10k.params.imported import PROVIDER

#: Faults listed for each file; beyond them only counts are kept, by field and kind.
LISTED = 1000


@dataclass
class Spread:
    """The numbers of one field of a file: how many lie within the declared scale and outside of it, and their range."""

    within: int = 0
    outside: int = 0
    low: float = float("inf")
    high: float = float("-inf")

    def add(self, value: float, *, inside: bool) -> None:
        self.within, self.outside = self.within + inside, self.outside + (not inside)
        self.low, self.high = min(self.low, value), max(self.high, value)


@dataclass
class Taken:
    """What became of one file: rows read, taken, left out; the first faults, and how many there are by field; its
    numbers by the scale they are declared on and their field."""

    rows: int = 0
    taken: int = 0
    left_out: int = 0
    values_left_out: int = 0
    faults: list[dict[str, Any]] = field(default_factory=list)
    by_field: Counter[str] = field(default_factory=Counter)
    spreads: dict[tuple[str, str], Spread] = field(default_factory=dict)

    def note(self, file: str, line: int, fault: Fault, row_taken: bool) -> None:
        self.by_field[f"{fault.field or 'row'}: {fault.code}"] += 1
        if len(self.faults) < LISTED:
            where = {"file": file, "line": line, "field": fault.field}
            self.faults.append(where | {"fault": fault.what, "code": fault.code, "row_taken": row_taken})


class Writer:
    """Writes the rows of sources, logged data first, into a store that is being filled.

    A measurement that is no finite number within its scale becomes an error record; one that the source does not have
    becomes one of code `missing` only where the rest of its file has it.
    """

    def __init__(
        self, store: Store, add: Callable[[Record], bool], prompts: Prompts, names: dict[str, str],
        declared: dict[str, Any], created: float,
    ):  # fmt: skip
        self._store, self._add, self._prompts, self._names = store, add, prompts, names
        self._logging = names[declared["logging_policy"]]
        self._judge_scale: Range = declared["judge_scale"]
        self._oracle_scale: Range = declared["oracle_scale"]
        self._record = partial(Record, attempts=1, created=created)
        #: Records by job, policy and outcome (the word ok, or the code).
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.logged_draws = self.draws = 0
        self._logged_before = 0

    def source(self, source: Source, step: Callable[[], Any]) -> Taken:
        """Write one file; says what became of it. `step` is called for every row."""
        taken = Taken()
        if not source.logged:
            self._logged_before = self.logged_draws
        for line, raw in source.rows():
            taken.rows += 1
            step()
            try:
                if isinstance(raw, Fault):
                    raise RowFault(raw.field, raw.what)
                row = source.read(raw)
                faults = self._row(source, line, row)
            except (RowFault, RecursionError) as caught:
                deep = Fault("", "not usable: nested too deeply")
                taken.left_out += 1
                fault = caught.fault if isinstance(caught, RowFault) else deep
                taken.note(source.name, line, fault, row_taken=False)
            else:
                taken.taken += 1
                self._spread(taken, source, row)
                taken.values_left_out += len(faults)
                for fault in faults:
                    taken.note(source.name, line, fault, row_taken=True)
        return taken

    def _row(self, source: Source, line: int, row: Row) -> list[Fault]:
        policy = self._policy(source, row)
        self._prompts.add(row.prompt_id, row.prompt, row.category, row.language)
        draw, known = self._place(source, line, row, policy)
        put = partial(self._put, row.prompt_id, policy, draw)
        faults: list[Fault] = []
        if not known:
            put(RESPONSES, row.response, {"file": source.name, "line": line})
            self.draws = max(self.draws, draw + 1)
            if source.logged:
                self.logged_draws = max(self.logged_draws, draw + 1)
        for job, value, payload in self._measured(source, row):
            faults += self._measure(put, job, value, payload, partial(self._there, row.prompt_id, policy, draw, known))
        for name in source.policies:
            value = (row.logprobs or {}).get(name)
            value = Fault(name, "is missing", MISSING) if value is None else value
            one = partial(self._put, row.prompt_id, self._names[name], draw)
            faults += self._measure(one, LOGPROBS, value, {}, lambda job: None)
        return faults

    def _spread(self, taken: Taken, source: Source, row: Row) -> None:
        scaled = (("judge_scale", source.fields[0], row.judge, self._judge_scale),
                ("oracle_scale", source.fields[2], row.label, self._oracle_scale))  # fmt: skip
        for key, name, value, scale in scaled:
            if isinstance(value, float):
                inside = isinstance(on_scale(name, value, scale), float)
                taken.spreads.setdefault((key, name), Spread()).add(value, inside=inside)

    def _policy(self, source: Source, row: Row) -> str:
        name = source.policy if source.policy is not None else row.policy
        if name not in self._names:
            raise RowFault("policy", f"{str(name)[:60]!r} is not among the policies of this import")
        return self._names[name]

    def _place(self, source: Source, line: int, row: Row, policy: str) -> tuple[int, bool]:
        """The draw that a response is kept as, and whether it is there already, from another file.

        Fresh draws of the logging policy may be its logged responses; those that are not come after them.
        """
        own = policy == self._logging and not source.logged and self._logged_before
        place, found = row.draw, None
        for place in [row.draw, self._logged_before + row.draw] if own else [row.draw]:
            found = self._store.get(RESPONSES, row.prompt_id, _key(RESPONSES, policy, place))
            if found and found["value"] == row.response and found["payload"]["file"] != source.name:
                return place, True
        if found is None:
            return place, False
        where = found["payload"]
        if where["file"] == source.name:
            same = f"{row.prompt_id[:60]!r} draw {row.draw} is also that of line {where['line']}"
            raise RowFault("prompt_id", same)
        before = f"{where['file']} line {where['line']}, which has the same prompt_id and draw"
        raise RowFault("response", f"is another one than that of {before}")

    def _measured(self, source: Source, row: Row) -> list[tuple[str, Any, dict[str, Any]]]:
        judge = on_scale(source.fields[0], row.judge, self._judge_scale)
        variance = variance_on_scale(source.fields[1], row.judge_variance, self._judge_scale)
        label = on_scale(source.fields[2], row.label, self._oracle_scale)
        if judge is None and source.judged:
            judge = Fault(source.fields[0], "is missing", MISSING)
        out: list[tuple[str, Any, dict[str, Any]]] = [(DETERMINISTIC, judge, {})]
        if source.judged_twice:
            if variance is None:
                variance = Fault(source.fields[1], "is missing", MISSING)
            both = variance if isinstance(judge, float) and isinstance(variance, Fault) else judge
            out.append((UNCERTAINTY, both, {"variance": variance}))
        return [*out, (ORACLE, label, {})]

    def _measure(self, put: Any, job: str, value: Any, payload: dict[str, Any], there: Any) -> list[Fault]:
        """Store one value as what it is; gives the fault to be listed, if any."""
        if value is None:
            return []
        before = there(job)
        if before is not None:
            return self._merge(put, job, value, payload, before)
        put(job, value, payload)
        return [value] if isinstance(value, Fault) and value.code != MISSING else []

    def _there(self, prompt_id: str, policy: str, draw: int, known: bool, job: str) -> dict[str, Any] | None:
        return self._store.get(job, prompt_id, _key(job, policy, draw)) if known else None

    def _merge(self, put: Any, job: str, value: Any, payload: dict[str, Any], before: dict[str, Any]) -> list[Fault]:
        """The same response in two files: what both have must agree; what one lacks the other may have."""
        if isinstance(value, Fault):
            return [value] if value.code != MISSING else []
        if before["value"] is None:
            put(job, value, payload)
            self.counts[job, before["policy"], before["code"]] -= 1
        elif before["value"] != value:
            return [Fault(job, f"{value:g} here and {before['value']:g} in a file read before, which stays", "differs")]
        return []

    def _put(self, prompt_id: str, policy: str, draw: int, job: str, value: Any, payload: dict[str, Any]) -> None:
        fingerprint, context = _definition(job, policy)
        bad = isinstance(value, Fault)
        outcome: dict[str, Any] = {"status": "ok", "value": value, "payload": payload}
        if bad:
            outcome = {"status": "error", "code": value.code, "detail": value.what}
        record = self._record(job, prompt_id, _key(job, policy, draw), policy, draw, fingerprint, context, **outcome)
        if not self._add(record):
            raise AssertionError(f"{job} of {policy} for {prompt_id!r} is there already")
        self.counts[job, policy, value.code if bad else "ok"] += 1


@cache
def _definition(job: str, policy: str) -> tuple[str, str]:
    fingerprint = digest({PROVIDER: policy})
    return fingerprint, imported_context(job, fingerprint)


@cache
def _key(job: str, policy: str, draw: int) -> str:
    """The key of a record beside its prompt: a response has one record of each job and policy."""
    return digest([job, PROVIDER, policy, draw])
