"""One file of rows, and what its columns say of each response."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from arena10k.errors import MOST_LISTED, ArenaError, meant
from arena10k.inputs.faults import Fault, shown, text, text_or_none
from arena10k.inputs.files import File
from arena10k.interchange import columns, rows
from arena10k.interchange.rows import Row, Value
from arena10k.params.imported import Reading
from arena10k.wording import listed

#: How the value of each field of a `Row` that has columns is checked.
_TEXTS = {
    "prompt_id": rows.prompt_id, "response": rows.said, "prompt": rows.asked, "draw": rows.draw,
    "policy": text_or_none, "category": text_or_none, "language": text_or_none,
}  # fmt: skip
#: Fields that hold numbers, and whether true and false are two of them.
_NUMBERS = {"judge": True, "judge_variance": False, "label": True, "label_propensity": False, "logprobs": False}
_NATS = {"nats": 1.0, "bits": math.log(2), "log10": math.log(10)}
#: Values that a message shows, and those of a column that are told apart.
_EXAMPLES, _VALUES = 3, 100


@dataclass
class Source:
    """One file, and whose responses it has where no column says it. What its columns hold is data:

    `fields`: by field of `Row` (and `logprobs.<policy>`) the columns that may hold it, as paths (see `columns`); where
    several do they must agree. `optional`: those that rows may lack. `by_policy`: the column of an object of log-probs
    by policy. Of the views that a column of `choose` tells apart one is to be named (it says why); `parts` are those of
    two sides.

    What is met: `expected` are the fields, and `scored` the policies with a log-prob, that every row should have;
    `met` the columns that were there so far, `as_text` the fields whose numbers are all texts, `used` how many values
    of a field could be used and `unused` how many not, with the first of them; `unclear` the paths that led to several
    values; `first` is a row; `beside` how many rows are neither taken nor left out, in words.
    """

    file: File
    reading: Reading
    fields: dict[str, tuple[str, ...]]
    optional: frozenset[str]
    policy: str | None
    logged: bool
    by_policy: str | None = None
    choose: dict[str, str] = field(default_factory=dict)
    parts: tuple[Source, ...] = ()
    expected: set[str] = field(default_factory=set)
    scored: dict[str, None] = field(default_factory=dict)
    met: set[str] = field(default_factory=set)
    as_text: set[str] = field(default_factory=set)
    used: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Any]] = field(default_factory=dict)
    booleans: set[str] = field(default_factory=set)
    unclear: dict[str, Fault] = field(default_factory=dict)
    beside: Counter[str] = field(default_factory=Counter)
    first: dict[str, Any] = field(default_factory=dict)
    #: By path of `where` the values of rows that are not asked for.
    _others: dict[str, Counter[str]] = field(default_factory=dict)
    #: A row that is not asked for.
    _other: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.file.name

    @cached_property
    def _logprobs(self) -> dict[str, str]:
        """The fields of log-probs by policy."""
        return {name.partition(".")[2]: name for name in self.fields if _of(name) == "logprobs"}

    def called(self, name: str) -> str:
        """The column that messages name for a field of `Row`."""
        return self.fields.get(name, (name,))[0]

    def words(self, name: str) -> dict[str, float | None]:
        """What words stand for in a field's column."""
        if not self.reading.values:
            return {}
        return self.reading.values.get("judge" if name == "label" and self.reading.exact else _of(name), {})

    def read(self, paths: Iterable[str], typed: Iterable[str] = ()) -> Iterator[tuple[int, Any]]:
        """(number, object or Fault) of the rows that are asked for; of a table only the columns of `paths`, and of
        those in `typed` only what is of another type than numbers."""
        wanted, self.beside = self.reading.where, Counter()
        self._others = {path: Counter() for path in wanted}

        def choose(names: dict[str, bool]) -> list[str]:
            every = [path for path in (*paths, *wanted) if not (path in typed and names.get(path))]
            parts = [part for path in every for part in ([path] if path in names else path.split(" + "))]
            first = dict.fromkeys(p if p in names else columns.first_key(p) for p in parts if not self._lacks(p, names))
            return list(first)

        for number, raw in self.file.read(choose):
            row = raw if isinstance(raw, dict) and wanted else {}
            others = [path for path, value in wanted.items() if self.peek(row, path) not in (value, str(value))]
            if row and others:
                self.beside["not asked for"] += 1
                for path in others:
                    value, met, self._other = shown(self.peek(row, path)), self._others[path], row
                    met[value if value in met or len(met) < _VALUES else "another value"] += 1
            else:
                yield number, raw

    def _lacks(self, path: str, names: dict[str, bool]) -> bool:
        """Whether a table lacks a column, and may."""
        is_there = path in names or columns.first_key(path) in names
        may = any(path in own and (len(own) > 1 or f in self.optional) for f, own in self.fields.items())
        return may and not is_there

    def needed(self) -> list[str]:
        """All columns of the map."""
        more = [self.reading.per_token, self.by_policy]
        return [c for own in self.fields.values() for c in own] + [c for c in more if isinstance(c, str)]

    def survey(self) -> list[str]:
        """Look through the file for what its map leaves open; gives the policies that it names, in order. Raises
        ArenaError where it holds several views of the same responses."""
        numeric = [name for name in self.fields if _of(name) in _NUMBERS]
        may_lack = {name for name in self.fields if _of(name) in self.optional}
        self.expected = self.fields.keys() - may_lack
        self.scored = {policy: None for policy, name in self._logprobs.items() if name in self.expected}
        open_ = [path for name in {*may_lack, "policy"} for path in self.fields.get(name, ())]
        open_ += [*self.choose, *filter(None, [self.by_policy])]
        typed = [path for name in numeric for path in self.fields[name] if path not in open_]
        policies, kinds, met = dict[str, None](), {name: set[str]() for name in numeric}, False
        views: dict[str, dict[str, None]] = {path: {} for path in self.choose}
        for _, raw in self.read([*open_, *typed], typed):
            if isinstance(raw, Fault):
                continue
            met = True
            if isinstance(name := self.peek(raw, "policy"), str) and rows.is_unicode(name):
                policies[name] = None
            for name in numeric:
                kinds[name].add(_kind_of_number(self.peek(raw, name), self.words(name)))
            self.expected |= {name for name in may_lack - self.expected if self.peek(raw, name) is not None}
            targets = self.peek(raw, self.by_policy) if self.by_policy else None
            self.scored |= {policy: None for policy, name in self._logprobs.items() if name in self.expected}
            self.scored |= dict.fromkeys(filter(rows.is_unicode, targets if isinstance(targets, dict) else ()))
            for path, values in views.items():
                view = self.peek(raw, path)
                values |= {str(view): None} if view is not None and len(values) < _VALUES else {}
            if len(policies) + len(self.scored) > rows.MAX_POLICIES:
                rows.plain_names([*policies, *self.scored])
        self._check_views(views, met)
        texts = {name for name, kind in kinds.items() if "text" in kind and "other" not in kind}
        self.as_text = set(numeric) if self.file.form in ("csv", "tsv") else texts
        return [*self.scored, *(policies or ([self.policy] if self.policy is not None else []))]

    def _check_views(self, views: dict[str, dict[str, None]], met: bool) -> None:
        """Refuse rows of several views, and a choice that no row is of."""
        for path, values in views.items():
            if len(values) > 1:
                names, first = ", ".join(map(repr, values))[:200], next(iter(values))
                do = self.file.to_say(f"where: {{{path}: {json.dumps(first)}}}", f"where.{path}={first}")
                raise ArenaError(f"{self.name}: {path}: holds {names} {self.choose[path]}: say which: {do}")
        left_out = self.beside["not asked for"]
        if met or not left_out:
            return
        none = {path: others for path, others in self._others.items() if others.total() == left_out}
        for path, others in none.items():
            if set(others) == {"None"}:
                lacks = f"no row has this column{meant(path, self._other)}; rows have {columns.shape(self._other)}"
                raise ArenaError(f"{self.name}: where.{path}: {lacks}")
            there = listed([f"{value} in {rows:,}" for value, rows in others.most_common()], MOST_LISTED)
            what = f"no row has {shown(self.reading.where[path])}; rows have {there}"
            raise ArenaError(f"{self.name}: where.{path}: {what}: write one of them")
        raise ArenaError(f"{self.name}: where: no row has all of {', '.join(self.reading.where)}: leave out one")

    def peek(self, raw: dict[str, Any], name: str) -> Any:
        """The value of a field or a path; None where it is not clear."""
        with suppress(Fault, RecursionError):
            return self._value(raw, name)
        return None

    def rows(self, raw: dict[str, Any]) -> list[tuple[Source, Row]]:
        """The responses of an object of the file, with what its columns are. Raises Fault."""
        return [(self, self.row(raw))]

    def row(self, raw: dict[str, Any], **known: Any) -> Row:
        """What an object of the file says, beside what is `known` of it. Raises Fault."""
        self.first = self.first or raw
        try:
            values: dict[str, Any] = {name: self._checked(raw, name) for name in self.fields} | known
            logprobs = {policy: values.pop(name) for policy, name in self._logprobs.items()}
            logprobs = self._in_nats(raw, self._by_policy(raw, logprobs) if self.by_policy else logprobs)
        except RecursionError as error:
            raise Fault("", "not usable: nested too deeply") from error
        if values.get("prompt_id") is None:
            if "prompt_id" in self.expected or not values.get("prompt"):
                no_prompt = "" if "prompt_id" in self.expected else ", and there is no prompt that would stand for it"
                raise Fault(self.called("prompt_id"), f"is missing{no_prompt}")
            values["prompt_id"] = rows.prompt_id(self.called("prompt"), values["prompt"])
        if values.get("response") is None:
            numbers = (values.get("judge"), values.get("label"), *logprobs.values())
            if ("response" in self.fields and "response" not in self.optional) or not any(
                isinstance(value, float) for value in numbers
            ):
                raise Fault(self.called("response"), "is missing")
        return Row(logprobs=logprobs, **values)

    def _checked(self, raw: dict[str, Any], name: str) -> Any:
        """The value of a field as it can be used; a number that cannot is a Fault, other values raise it."""
        value = self._value(raw, name)
        if name not in _TEXTS:
            if (value is True or value is False) and not self.words(name):
                self.booleans.add(name)
            return None if value is None else self._number(name, self.called(name), value)
        if value is None:
            if name in ("prompt_id", "response"):
                self.unused[name] += name not in self.optional
            return None
        try:
            made = _TEXTS[name](self.called(name), value)
        except Fault:
            self._unused(name, value)
            raise
        self.used[name] += 1
        return made

    def _number(self, name: str, column: str, value: Any) -> Value:
        may_be_true = _NUMBERS.get(name, False)
        made = rows.number(column, value, self.words(name), name in self.as_text, may_be_true)
        if isinstance(made, Fault):
            self._unused(name, value)
        self.used[name] += isinstance(made, float)
        return made

    def _unused(self, name: str, value: Any) -> None:
        # NaN is how others write that there is no value.
        self.unused[name] += not (isinstance(value, float) and math.isnan(value) and self.used[name])
        if len(examples := self.examples.setdefault(name, [])) < _EXAMPLES and value not in examples:
            examples.append(value)

    def _value(self, raw: dict[str, Any], name: str) -> Any:
        """The value of a field of `Row`; an object that the map looks into is none."""
        paths = self.fields.get(name, (name,))
        if len(paths) == 1:
            return self._at(raw, paths[0])
        value = None
        for path in paths:
            other = self._at(raw, path)
            if other is None or (isinstance(other, dict) and any(c.startswith(f"{path}.") for c in paths)):
                continue
            if value is not None and value != other:
                raise Fault(paths[0], f"differs from that in {path}")
            value = other
        return value

    def _by_policy(self, raw: dict[str, Any], made: dict[str, Value]) -> dict[str, Value]:
        """The log-probs of `made` and those of the object that has them by policy."""
        column = str(self.by_policy)
        targets = self._at(raw, column)
        if not isinstance(targets, dict | None):
            raise Fault(column, "is not an object of log-probs by policy")
        for policy, value in (targets or {}).items():
            name = f"{column}.{text(column, policy)[:60]}"
            own, given = made.get(policy), self._number(f"logprobs.{policy}", name, value)
            if isinstance(own, float) and isinstance(given, float) and own != given:
                what = f"differs from {self.called(f'logprobs.{policy}')}, which is of the same policy"
                own = Fault(name, what, rows.NOT_A_NUMBER)
            made[policy] = given if own is None else own
        return made

    def _in_nats(self, raw: dict[str, Any], made: dict[str, Value]) -> dict[str, Value]:
        """Log-probs of the whole response in nats."""
        column, unit = self.reading.per_token, _NATS[self.reading.logprob_unit]
        if not made or (unit == 1 and not column):
            return made
        tokens: Value = 1.0
        if isinstance(column, str):
            tokens = rows.number(column, self._at(raw, column), as_text=self.file.form in ("csv", "tsv"))
            if not isinstance(tokens, Fault) and (tokens is None or tokens < 1):
                tokens = Fault(column, f"{shown(tokens)} is no number of tokens", rows.NOT_A_NUMBER)
        size = tokens * unit if isinstance(tokens, float) else tokens
        scaled = {p: v * size if isinstance(size, float) else size for p, v in made.items() if isinstance(v, float)}
        return made | scaled

    def _at(self, raw: dict[str, Any], path: str) -> Any:
        """What stands in a column, None where it is not there."""
        value = raw.get(path)
        if value is None:
            try:
                is_there, value = columns.at(raw, path)
            except Fault as fault:
                self.unclear.setdefault(path, fault)
                raise
            if not is_there:
                return None
        self.met.add(path)
        return value

    def check(self) -> None:
        """Refuse a file of which a column cannot be read, wholly or mostly. Raises ArenaError with what its values look
        like and what to write."""
        for name, unused in self.unused.items():
            own = _of(name)
            allowed = self.reading.allow_missing if own in _NUMBERS else self.optional
            is_there = self.met.intersection(self.fields.get(name, ())) or self.by_policy
            if unused > self.used[name] and own not in allowed and is_there:
                examples, total = self.examples.get(name, []), unused + self.used[name]
                looks = ", ".join(f"{shown(v)} ({columns.kind(v)})" for v in examples) or "nothing at all"
                which = f"none of {total:,} values can" if unused == total else f"{unused:,} of {total:,} values cannot"
                what = f"{which} be read, such as {looks}: {self._advice(own, examples)}"
                missing = self.file.to_say(f"allow_missing: [{own}]", f"allow_missing=[{own}]")
                more = f"to go on without them, {missing}"
                raise ArenaError(f"{self.name}: {self.called(name)}: {what}; {more}")
        for name, paths in self.fields.items():
            if self.first and _of(name) not in self.optional and not self.met.intersection(paths):
                if fault := next((self.unclear[path] for path in paths if path in self.unclear), None):
                    one = getattr(fault, "one", "")
                    do = self.file.to_say(f"{_of(name)}: {one}", f"columns.{_of(name)}={one}")
                    raise ArenaError(f"{self.name}: {fault}: {f'name one, such as {do}' if one else fault.do}")
                what = f"no row has this column{meant(paths[0], self.first)}; rows have {columns.shape(self.first)}"
                raise ArenaError(
                    f"{self.name}: {paths[0]}: {what}{self.file.is_json * columns.rows_within(self.first)}"
                )

    def _advice(self, field: str, examples: list[Any]) -> str:
        """What to write where values of a field cannot be read."""
        if first := next((v for v in map(columns.opened, examples) if isinstance(v, dict | list)), None):
            inner = columns.shape({"COLUMN": first}, most=1).split(" ")[0]
            do = self.file.to_say(f"{field}: {inner}", f"columns.{field}={inner.replace('COLUMN', self.called(field))}")
            return f"name the path to the value within, such as {do}"
        if any(isinstance(value, str) and not rows.is_unicode(value) for value in examples):
            return "save the file as UTF-8"
        if field not in _NUMBERS:
            return "write a text there, or name the column that has it"
        if all(isinstance(value, str) and re.fullmatch(r"[-+]?[\d.,]+ ?%?", value) for value in examples):
            return "write plain numbers, such as 0.8 or 1000: with a point, no commas and no %"
        words = [value for value in examples if isinstance(value, str)]
        in_params = f"values: {{{field}: {{{', '.join(f'{json.dumps(w)}: NUMBER' for w in words)[:200]}}}}}"
        do = self.file.to_say(in_params, *(f"values.{field}.{word[:60]}=NUMBER" for word in words))
        return f"say what the words stand for, {do}" if words else "write numbers there"


def _of(name: str) -> str:
    """The field without its policy."""
    return "logprobs" if name.startswith("logprobs.") else name


def _kind_of_number(value: Any, words: dict[str, float | None]) -> str:
    """Whether a value is a number written as text, none of the two, or not there."""
    if value is None:
        return "absent"
    return "text" if isinstance(value, str) and rows.is_number(value, words) else "other"
