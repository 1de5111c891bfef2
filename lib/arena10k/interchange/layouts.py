"""What the rows of a file mean is data: a column map. CJE's layout is three, a table's is what the params say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from arena10k.errors import ArenaError
from arena10k.interchange import rows
from arena10k.interchange.rows import Fault, Row, Value
from arena10k.params.imported import TableParams

#: How the value of each field of a `Row` that has columns is checked.
_CHECKS = {
    "prompt_id": rows.prompt_id, "response": rows.text, "prompt": rows.text_or_none, "draw": rows.draw,
    "policy": rows.text, "judge": rows.number, "judge_variance": rows.number, "label": rows.number,
    "category": rows.text_or_none, "language": rows.text_or_none,
}  # fmt: skip


@dataclass(frozen=True)
class ColumnMap:
    """Which columns hold what; `a.b` is the key `b` within `a`.

    `fields`: by field of `Row` the columns that may hold it; where several do they must agree. `logprobs`: by policy
    ("" is the logging policy) the column of its log-prob. `by_policy`: the column of an object of log-probs by policy.
    `declared`: every column must be there and every row is expected to have it, else what some rows of a file have.
    """

    fields: dict[str, tuple[str, ...]]
    logprobs: dict[str, str] = field(default_factory=dict)
    by_policy: str | None = None
    declared: bool = False


_RESPONSE = {
    "prompt_id": ("prompt_id", "metadata.prompt_id"),
    "response": ("response",),
    "prompt": ("prompt",),
    "draw": ("draw_idx", "metadata.draw_idx"),
    "judge": ("judge_score", "judge_score.mean", "metadata.judge_score", "metadata.judge_score.mean"),
    "judge_variance": ("judge_score.variance", "metadata.judge_score.variance"),
    "label": ("oracle_label", "metadata.oracle_label"),
}
#: CJE's layout (CJE 2025) by file name; `*` is the policy that responds, where it is not the logging policy.
CJE = {
    "logged_data.jsonl": ColumnMap(_RESPONSE, {"": "base_policy_logprob"}, "target_policy_logprobs"),
    "fresh_draws/*_responses.jsonl": ColumnMap(_RESPONSE),
    "probe_slice/*_probe.jsonl": ColumnMap(_RESPONSE),
}
#: What it calls its control: the logging policy's model and prompt again, with another seed.
CLONE = "clone"


@dataclass
class Source:
    """One file, called `name` in messages, and whose responses it has (`policy` None: each row says).

    `expected` are the fields of `Row`, and `scored` the policies with a log-prob, that every row should have; `met` are
    the columns that were there so far.
    """

    path: Path
    name: str
    columns: ColumnMap
    policy: str | None
    logged: bool
    expected: set[str] = field(default_factory=set)
    scored: dict[str, None] = field(default_factory=dict)
    met: set[str] = field(default_factory=set)

    def called(self, name: str) -> str:
        """The column that messages name for a field of `Row`."""
        return self.columns.fields.get(name, (name,))[0]

    def needed(self) -> list[str]:
        """All columns of the map."""
        return [c for columns in self.columns.fields.values() for c in columns] + list(self.columns.logprobs.values())

    def read(self, needed: list[str]) -> Iterator[tuple[int, Any]]:
        """(line, object or Fault); of Parquet only the `needed` columns."""

        def choose(names: list[str]) -> list[str]:
            chosen = list(dict.fromkeys(c if c in names else c.split(".")[0] for c in needed))
            for column in chosen:
                if names.count(column) != 1:
                    what = "is there more than once" if column in names else "is not a column"
                    raise ArenaError(f"{self.name}: {column}: {what}: it has {', '.join(names)[:200]}")
            return chosen

        return rows.read(self.path, self.name, choose)

    def survey(self) -> list[str]:
        """Look through the file for what its map leaves open; gives the policies that it names, in order."""
        columns, policies = self.columns, dict[str, None]()
        if columns.declared:
            self.expected, self.scored = set(columns.fields), dict.fromkeys(columns.logprobs)
        if columns.declared and self.policy is not None:
            return [*self.scored, self.policy]
        for _, raw in self.read([self.called("policy")]):
            if isinstance(raw, Fault):
                continue
            if columns.declared:
                name = self._at(raw, self.called("policy"))
                policies |= {name: None} if isinstance(name, str) else {}
            else:
                judged = ("judge", "judge_variance")
                self.expected |= {f for f in judged if any(self._at(raw, c) is not None for c in columns.fields[f])}
                self.scored |= {p: None for p, c in columns.logprobs.items() if self._at(raw, c) or c in self.met}
                targets = self._at(raw, columns.by_policy)
                self.scored |= dict.fromkeys(targets if isinstance(targets, dict) else ())
            if len(policies) + len(self.scored) > rows.MAX_POLICIES:
                rows.plain_names([*policies, *self.scored])
        return [*self.scored, *([self.policy] if self.policy is not None else policies)]

    def row(self, raw: dict[str, Any]) -> Row:
        """What an object of the file says. Raises Fault."""
        try:
            values: dict[str, Any] = {
                name: check(self.called(name), self._value(raw, name))
                for name, check in _CHECKS.items()
                if name in self.columns.fields
            }
            return Row(logprobs=self._logprobs(raw), **values)
        except RecursionError as error:
            raise Fault("", "not usable: nested too deeply") from error

    def _value(self, raw: dict[str, Any], name: str) -> Any:
        """The value of a field of `Row`; an object that the map looks into is none."""
        columns = self.columns.fields[name]
        value = None
        for column in columns:
            other = self._at(raw, column)
            if other is None or (isinstance(other, dict) and any(c.startswith(f"{column}.") for c in columns)):
                continue
            if value is not None and value != other:
                raise Fault(columns[0], f"differs from that in {column}")
            value = other
        return value

    def _logprobs(self, raw: dict[str, Any]) -> dict[str, Value]:
        columns = self.columns.logprobs
        logprobs = {policy: rows.number(column, self._at(raw, column)) for policy, column in columns.items()}
        targets = self._at(raw, self.columns.by_policy)
        if not isinstance(targets, dict | None):
            raise Fault(str(self.columns.by_policy), "is not an object of log-probs by policy")
        for policy, value in (targets or {}).items():
            column, own = f"{self.columns.by_policy}.{policy[:60]}", logprobs.get(policy)
            given = rows.number(column, value)
            if isinstance(own, float) and isinstance(given, float) and own != given:
                what = f"differs from {columns[policy]}, which is of the same policy"
                given = Fault(column, what, rows.NOT_A_NUMBER)
                logprobs[policy] = given
            elif own is None:
                logprobs[policy] = given
        return logprobs

    def _at(self, raw: dict[str, Any], column: str | None) -> Any:
        """What stands in a column, None where it is not there."""
        if column is None:
            return None
        value: Any = raw
        for key in [column] if column in raw else column.split("."):
            if not isinstance(value, dict) or key not in value:
                return None
            value = value[key]
        self.met.add(column)
        return value


def cje(folder: Path, logging_policy: str) -> tuple[list[Source], list[str]]:
    """The files of CJE's layout, logged data first, and what else is there. Raises ArenaError where there are none."""
    if not folder.is_dir():
        raise ArenaError(f"no folder {str(folder)!r}")
    sources, others = [], []
    folders = [folder, *(folder / pattern.split("/")[0] for pattern in CJE if "/" in pattern)]
    for path in (path for part in folders if part.is_dir() for path in sorted(part.iterdir())):
        # A file's name need not be Unicode.
        name = path.relative_to(folder).as_posix().encode(errors="replace").decode()
        for pattern, columns in CJE.items():
            fits = re.fullmatch(re.escape(pattern).replace(r"\*", "(.+)"), name, re.DOTALL)
            if fits and path.is_file():
                own = replace(columns, logprobs={p or logging_policy: c for p, c in columns.logprobs.items()})
                policy = fits[1] if "*" in pattern else logging_policy
                sources.append(Source(path, name, own, policy, logged="*" not in pattern))
                break
        else:
            others += [name] if path not in folders else []
    if not sources:
        wanted = " nor ".join(pattern.replace("*", "<policy>") for pattern in list(CJE)[:2])
        raise ArenaError(f"{folder}: has neither {wanted}: is it CJE's layout?")
    return sources, sorted(others)


def table(path: Path, name: str, params: TableParams, logging_policy: str) -> Source:
    """A file whose columns the params name."""
    columns = params.columns.model_dump(exclude={"logprobs"}, exclude_none=True)
    declared = ColumnMap({f: (column,) for f, column in columns.items()}, params.columns.logprobs, declared=True)
    policy = params.policy or (None if params.columns.policy else logging_policy)
    return Source(path, name, declared, policy, logged=not params.is_fresh)
