"""Rows that hold the answers of two sides, and votes on which of both is better."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from arena10k.errors import MOST_LISTED, ArenaError
from arena10k.inputs.faults import Fault, shown, text
from arena10k.inputs.files import File
from arena10k.interchange import rows
from arena10k.interchange.rows import Row
from arena10k.interchange.source import Source
from arena10k.params.imported import Reading
from arena10k.wording import listed

_UNDECLARED = "undeclared"


@dataclass
class Sides(Source):
    """A file of which each row is one of either of `parts`, whose columns differ by the names of the sides."""

    def _lacks(self, path: str, names: dict[str, bool]) -> bool:
        return any(part._lacks(path, names) for part in self.parts)

    def needed(self) -> list[str]:
        return super().needed() + [path for part in self.parts for path in part.needed()]

    def survey(self) -> list[str]:
        return [policy for part in self.parts for policy in part.survey()]

    def rows(self, raw: dict[str, Any]) -> list[tuple[Source, Row]]:
        """Of both sides what is there: one without answer, score and label is not."""
        first, second = self.parts
        own = [name for name in first.fields if first.fields[name] != second.fields[name] and name != "policy"]
        there = [part for part in self.parts if any(part.peek(raw, name) is not None for name in own)]
        if not there:
            raise Fault(first.called("response"), "is missing, and so is all else of both sides")
        return [(part, part.row(raw)) for part in there]

    def check(self) -> None:
        super().check()
        for part in self.parts:
            part.check()


@dataclass
class Votes(Sides):
    """Sides with a vote in each row, the label of the answer that is not the logging policy's (`policy`, None where it
    was not said); of the other one only the text is kept."""

    _seen: set[tuple[str, str | None]] = field(default_factory=set)

    def survey(self) -> list[str]:
        """The logging policy, and those that were compared with it. Raises ArenaError for words that stand for no vote,
        and where no row is of the logging policy."""
        super().survey()
        met, rivals = Counter[str](), dict[str, None]()
        for number, raw in self.read(Source.needed(self)):
            try:
                if isinstance(raw, Fault):
                    raise raw
                names = self._names(raw)
                met.update(names)
                rivals |= dict.fromkeys(names if self.policy in names else ())
                self._share(raw, names)
            except Fault as fault:
                if fault.code == _UNDECLARED:
                    raise ArenaError(f"{self.name}: {self.file.unit} {number}: {fault}: {fault.do}") from fault
        if met and self.policy not in met:
            has = f"no row is of {self.policy!r}." if self.policy else "against which policy?"
            counts = listed([f"{name!r} in {rows:,}" for name, rows in met.most_common()], MOST_LISTED)
            do = "write --logging-policy NAME (in a params file logging_policy: NAME)"
            raise ArenaError(f"{self.name}: {has} The rows hold {counts}: {do}")
        return list(dict.fromkeys([str(self.policy), *rivals]))

    def rows(self, raw: dict[str, Any]) -> list[tuple[Source, Row]]:
        """The answer that was voted on, and the one it was compared with, where that is new."""
        self.first = self.first or raw
        names = self._names(raw)
        share = self._share(raw, names)
        if self.policy not in names:
            self.beside[f"votes between others than {self.policy}, which do not say how often one wins against it"] += 1
            return []
        base = names.index(self.policy)
        part, other = self.parts[1 - base], self.parts[base]
        self.beside["without a vote"] += share is None
        row = part.row(raw, policy=names[1 - base], label=share if base or share is None else 1 - share)
        texts = {name: other._checked(raw, name) for name in ("prompt", "response") if name in other.fields}
        answer = row.prompt_id, texts.get("response")
        if answer in self._seen:
            return [(part, row)]
        self._seen.add(answer)
        return [(part, row), (self, Row(row.prompt_id, {}, policy=self.policy, **texts))]

    def _names(self, raw: dict[str, Any]) -> list[str]:
        """Whose answers a row compares."""
        if "policy.0" not in self.fields:
            return list(self.reading.sides or ())
        both = [text(self.called(name), self._value(raw, name)) for name in ("policy.0", "policy.1")]
        # The logging policy may be said as the run calls it.
        both = [str(self.policy) if self.policy in rows.plain_names([name]).values() else name for name in both]
        if both[0] == both[1]:
            what = f"{shown(both[0])} is also that in {self.called('policy.1')}"
            raise Fault(self.called("policy.0"), what, do="leave out rows that compare a policy with itself")
        return both

    def _share(self, raw: dict[str, Any], names: list[str]) -> float | None:
        """How much of the vote the first side has; None where there is none."""
        column = self.called("winner.0")
        votes = [self._at(raw, self.called(name)) for name in self.fields if name.startswith("winner.")]
        if all(vote is None or vote != vote for vote in votes):
            if any("judge" in part.fields for part in self.parts):
                return None  # it may be one of those that only a judge has seen
            raise Fault(column, "is missing", do="write whose answer is better, or leave out the row")
        if len(votes) > 1:
            shares = [rows.number(column, vote, as_text=True, booleans=True) for vote in votes]
            if sorted(map(str, shares)) != ["0.0", "0.0", "1.0"]:
                called = ", ".join(self.called(f"winner.{k}") for k in range(3))
                what = f"of {called} one has to be 1 and the others 0, not {', '.join(map(shown, votes))}"
                raise Fault(column, what, do="mend them, or leave out the row")
            return (1.0, 0.0, 0.5)[shares.index(1.0)]
        words: dict[str, float | None] = {names[0]: 1.0, names[1]: 0.0, "tie": 0.5}
        words |= self.reading.values.get("winner", {})
        word = shown(votes[0]) if isinstance(votes[0], dict | list) else str(votes[0])
        share = rows.number(column, word, words)
        if isinstance(share, Fault):
            do = "say what share of the win it gives the first answer (a tie 0.5, no vote null), --set values.winner."
            do += f"{word[:60]}=SHARE (in a params file values: {{winner: {{{json.dumps(word[:60])}: SHARE}}}})"
            raise Fault(column, f"{shown(votes[0])} is none of {', '.join(map(shown, words))}", _UNDECLARED, do)
        return share


def two_sides(
    file: File, reading: Reading, fields: dict[str, tuple[str, ...]], may_lack: frozenset[str], policy: str | None
) -> Sides:
    """The sides of a file; with a column of winners the votes against `policy`."""
    votes, made, sides = fields.pop("winner", ()), [], list(reading.sides or ())
    own: dict[str, tuple[str, ...]] = {f"winner.{number}": (path,) for number, path in enumerate(votes)}
    for number, side in enumerate(sides):
        named = {name: tuple(path.replace("{side}", side) for path in paths) for name, paths in fields.items()}
        own |= {f"policy.{number}": named.pop("policy")} if votes and "policy" in named else {}
        made.append(Source(file, reading, named, may_lack, None if votes or "policy" in named else side, False))
    parts = tuple(made)
    if not votes:
        return Sides(file, reading, {}, frozenset(), None, False, parts=parts)
    policy = policy or (None if "policy.0" in own else sides[0])
    return Votes(file, reading, own, frozenset(), policy, False, parts=parts)
