"""What the rows of a file mean is data: a column map. Shipped ones are in `maps`, a table's is what the params say."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arena10k.errors import ArenaError, meant
from arena10k.inputs.files import Fault, File, shown
from arena10k.interchange import columns, maps, rows
from arena10k.interchange.rows import Row, Value
from arena10k.params.imported import Columns, Reading, TableParams

#: How the value of each field of a `Row` that has columns is checked.
_TEXTS = {
    "prompt_id": rows.prompt_id, "response": rows.said, "prompt": rows.asked, "draw": rows.draw,
    "policy": rows.text_or_none, "category": rows.text_or_none, "language": rows.text_or_none,
}  # fmt: skip
#: Fields that hold numbers, and whether true and false are two of them.
_NUMBERS = {"judge": True, "judge_variance": False, "label": True, "label_propensity": False}
_NATS = {"nats": 1.0, "bits": math.log(2), "log10": math.log(10)}
#: CJE's layout (CJE 2025, and 0.6 to 0.9) by file name; `*` is the policy that responds, where it is not the logging
#: policy.
CJE = ("logged_data.jsonl", "fresh_draws/*_responses.jsonl", "probe_slice/*_probe.jsonl",
       "*_responses.jsonl", "responses/*.jsonl", "fresh_draws/*.jsonl")  # fmt: skip
#: What it calls its control: the logging policy's model and prompt again, with another seed.
CLONE = "clone"
#: Values that a message shows.
_EXAMPLES = 3


@dataclass(frozen=True)
class ColumnMap:
    """Which columns hold what, by path (see `columns`).

    `fields`: by field of `Row` the columns that may hold it; where several do they must agree. `optional`: those of
    them that some rows of a file may lack, or all. `logprobs`: by policy the column of its log-prob. `by_policy`: the
    column of an object of log-probs by policy. `reading`: how values are read.
    """

    fields: dict[str, tuple[str, ...]]
    optional: frozenset[str]
    reading: Reading
    logprobs: dict[str, str] = field(default_factory=dict)
    by_policy: str | None = None

    @classmethod
    def of(cls, reading: Reading, optional: Iterable[str] = (), **more: Any) -> ColumnMap:
        """Raises ValueError for a path that is none."""
        given = reading.columns.model_dump(exclude={"logprobs"}, exclude_none=True)
        fields = {name: (path,) if isinstance(path, str) else tuple(path) for name, path in given.items()}
        logprobs = {policy: str(path) for policy, path in reading.columns.logprobs.items()}
        for path in [*(path for paths in fields.values() for path in paths), *logprobs.values(), *reading.where]:
            for part in path.removeprefix("@").split(" + "):
                columns.steps(part)
        if reading.exact and "judge" in fields:
            fields["label"] = fields["judge"]
        return cls(fields, frozenset({*reading.allow_missing, *optional}), reading, **({"logprobs": logprobs} | more))

    def words(self, name: str) -> dict[str, float | None]:
        """What words stand for in a field's column."""
        return self.reading.values.get("judge" if name == "label" and self.reading.exact else name, {})


@dataclass
class Source:
    """One file, and whose responses it has where no column says it.

    `expected` are the fields of `Row`, and `scored` the policies with a log-prob, that every row should have; `met` are
    the columns that were there so far, `as_text` the fields whose numbers are all texts, `used` how many values of a
    field could be used and `unused` how many not, with the first of them; `first` is a row.
    """

    file: File
    columns: ColumnMap
    policy: str | None
    logged: bool
    choose: str | None = None
    expected: set[str] = field(default_factory=set)
    scored: dict[str, None] = field(default_factory=dict)
    met: set[str] = field(default_factory=set)
    as_text: set[str] = field(default_factory=set)
    used: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Any]] = field(default_factory=dict)
    booleans: set[str] = field(default_factory=set)
    passed_over: int = 0
    first: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.file.name

    def called(self, name: str) -> str:
        """The column that messages name for a field of `Row`."""
        return self.columns.fields.get(name, (name,))[0]

    def read(self, paths: list[str], typed: Iterable[str] = ()) -> Iterator[tuple[int, Any]]:
        """(number, object or Fault) of the rows that are asked for; of a table only the columns of `paths`, and of
        those in `typed` only what is of another type than numbers."""
        wanted, self.passed_over = self.columns.reading.where, 0

        def choose(names: dict[str, bool]) -> list[str]:
            needed = [
                p for p in (*paths, *wanted) if not (p in typed and names.get(p)) and not self._may_lack(p, names)
            ]
            parts = [part for path in needed for part in ([path] if path in names else path.split(" + "))]
            return list(dict.fromkeys(p if p in names else columns.first_key(p) for p in parts))

        for number, raw in self.file.read(choose):
            if wanted and not isinstance(raw, Fault):
                try:
                    if any(self._at(raw, path) not in (value, str(value)) for path, value in wanted.items()):
                        self.passed_over += 1
                        continue
                except Fault as fault:
                    raw = fault
            yield number, raw

    def _may_lack(self, path: str, names: dict[str, bool]) -> bool:
        """Whether a table lacks a column, and may."""
        if path in names or columns.first_key(path) in names:
            return False
        return any(path in p and (len(p) > 1 or f in self.columns.optional) for f, p in self.columns.fields.items())

    def needed(self) -> list[str]:
        """All columns of the map."""
        own = [c for paths in self.columns.fields.values() for c in paths] + list(self.columns.logprobs.values())
        more = [self.columns.reading.per_token, self.columns.by_policy]
        return own + [c for c in more if isinstance(c, str)]

    def survey(self) -> list[str]:
        """Look through the file for what its map leaves open; gives the policies that it names, in order."""
        fields, logprobs, by_policy = self.columns.fields, self.columns.logprobs, self.columns.by_policy
        may_lack = {name: paths for name, paths in fields.items() if name in self.columns.optional}
        numeric = {name: paths for name, paths in fields.items() if name in _NUMBERS}
        numeric |= {f"logprobs.{policy}": (path,) for policy, path in logprobs.items()}
        self.expected = fields.keys() - may_lack
        self.scored = {} if "logprobs" in self.columns.optional else dict.fromkeys(logprobs)
        open_ = [*(p for name in {*may_lack, "policy"} for p in fields.get(name, ())), *filter(None, [self.choose])]
        typed = [path for paths in numeric.values() for path in paths if path not in open_]
        policies, views, kinds = dict[str, None](), dict[str, None](), {name: Counter[str]() for name in numeric}
        for _, raw in self.read([*open_, *typed], typed):
            if isinstance(raw, Fault):
                continue
            if isinstance(name := self._peek(raw, fields.get("policy", ())), str):
                policies |= {name: None} if rows.is_unicode(name) else {}
            for name, paths in numeric.items():
                kinds[name][_kind_of_number(self._peek(raw, paths), self.columns.words(name))] += 1
            self.expected |= {f for f in may_lack.keys() - self.expected if self._peek(raw, may_lack[f]) is not None}
            self.scored |= {p: None for p, c in logprobs.items() if self._peek(raw, (c,)) is not None}
            targets = self._at(raw, by_policy) if by_policy else None
            self.scored |= dict.fromkeys(filter(rows.is_unicode, targets if isinstance(targets, dict) else ()))
            views |= {str(self._at(raw, self.choose)): None} if self.choose else {}
            if len(policies) + len(self.scored) > rows.MAX_POLICIES:
                rows.plain_names([*policies, *self.scored])
        if len(views) > 1:
            names, one = ", ".join(map(repr, views))[:200], f"where.{self.choose}={next(iter(views))}"
            raise ArenaError(f"{self.name}: {self.choose}: holds {names} of the same responses: say which: --set {one}")
        texts = {name for name, kind in kinds.items() if kind["text"] and not kind["other"]}
        self.as_text = set(numeric) if self.file.form in ("csv", "tsv") else texts
        return [*self.scored, *(policies or ([self.policy] if self.policy is not None else []))]

    def _peek(self, raw: dict[str, Any], paths: tuple[str, ...]) -> Any:
        for path in paths:
            try:
                value = self._at(raw, path)
            except Fault:
                continue
            if value is not None and not isinstance(value, dict):
                return value
        return None

    def row(self, raw: dict[str, Any]) -> Row:
        """What an object of the file says. Raises Fault."""
        self.first = self.first or raw
        try:
            values: dict[str, Any] = {name: self._checked(raw, name) for name in self.columns.fields}
            logprobs = self._logprobs(raw)
        except RecursionError as error:
            raise Fault("", "not usable: nested too deeply") from error
        if values.get("prompt_id") is None:
            if "prompt_id" in self.expected or not values.get("prompt"):
                do = "" if "prompt_id" in self.expected else f", and so is {self.called('prompt')}, which would be it"
                raise Fault(self.called("prompt_id"), f"is missing{do}")
            values["prompt_id"] = rows.prompt_id(self.called("prompt"), values["prompt"])
        if values.get("response") is None:
            if "response" in self.columns.fields and "response" not in self.columns.optional:
                raise Fault(self.called("response"), "is missing")
            if not any(isinstance(v, float) for v in (values.get("judge"), values.get("label"), *logprobs.values())):
                raise Fault(self.called("response"), "is missing, and there is no score, label or log-prob either")
        return Row(logprobs=logprobs, **values)

    def _checked(self, raw: dict[str, Any], name: str) -> Any:
        """The value of a field as it can be used; a number that cannot is a Fault, other values raise it."""
        value = self._value(raw, name)
        if name in _NUMBERS:
            self.booleans |= {name} if isinstance(value, bool) else set()
            return self._number(name, self.called(name), value, name, _NUMBERS[name])
        if value is None and name in ("prompt_id", "response"):
            self.unused[name] += name not in self.columns.optional
            return None
        try:
            made = _TEXTS[name](self.called(name), value)
        except Fault:
            self._unused(name, value)
            raise
        self.used[name] += value is not None
        return made

    def _number(self, name: str, column: str, value: Any, field: str, booleans: bool) -> Value:
        made = rows.number(column, value, self.columns.words(field), name in self.as_text, booleans)
        if isinstance(made, Fault):
            self._unused(name, value)
        elif made is not None:
            self.used[name] += 1
        return made

    def _unused(self, name: str, value: Any) -> None:
        # NaN is how others write that there is no value.
        self.unused[name] += not (isinstance(value, float) and math.isnan(value) and self.used[name])
        if len(examples := self.examples.setdefault(name, [])) < _EXAMPLES and value not in examples:
            examples.append(value)

    def _value(self, raw: dict[str, Any], name: str) -> Any:
        """The value of a field of `Row`; an object that the map looks into is none."""
        paths = self.columns.fields[name]
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

    def _logprobs(self, raw: dict[str, Any]) -> dict[str, Value]:
        paths, reading = self.columns.logprobs, self.columns.reading
        made = {p: self._number(f"logprobs.{p}", c, self._at(raw, c), "logprobs", False) for p, c in paths.items()}
        targets = self._at(raw, self.columns.by_policy) if self.columns.by_policy else None
        if not isinstance(targets, dict | None):
            raise Fault(str(self.columns.by_policy), "is not an object of log-probs by policy")
        for policy, value in (targets or {}).items():
            name = f"{self.columns.by_policy}.{rows.text(str(self.columns.by_policy), policy)[:60]}"
            own, given = made.get(policy), self._number(f"logprobs.{policy}", name, value, "logprobs", False)
            if isinstance(own, float) and isinstance(given, float) and own != given:
                what = f"differs from {paths[policy]}, which is of the same policy"
                own = Fault(name, what, rows.NOT_A_NUMBER)
            made[policy] = given if own is None else own
        unit, tokens = _NATS[reading.logprob_unit], self._tokens(raw) if reading.per_token else 1.0
        for policy, value in made.items() if unit != 1 or reading.per_token else ():
            if isinstance(value, float):
                made[policy] = value * unit * tokens if isinstance(tokens, float) else tokens
        return made

    def _tokens(self, raw: dict[str, Any]) -> float | Fault:
        """How many tokens a row's means are over."""
        column = str(self.columns.reading.per_token)
        tokens = rows.number(column, self._at(raw, column), as_text=self.file.form in ("csv", "tsv"))
        if isinstance(tokens, float) and tokens >= 1:
            return tokens
        what = "is missing" if tokens is None else f"{tokens} is no number of tokens"
        return tokens if isinstance(tokens, Fault) else Fault(column, what, rows.NOT_A_NUMBER)

    def _at(self, raw: dict[str, Any], path: str) -> Any:
        """What stands in a column, None where it is not there."""
        value = raw.get(path)
        if value is None:
            is_there, value = columns.at(raw, path)
            if not is_there:
                return None
        self.met.add(path)
        return value

    def check(self) -> None:
        """Refuse a file of which a column cannot be read, wholly or mostly. Raises ArenaError with what its values look
        like and what to write."""
        required = {name: paths for name, paths in self.columns.fields.items() if name not in self.columns.optional}
        if "logprobs" not in self.columns.optional:
            required |= {policy: (path,) for policy, path in self.columns.logprobs.items()}
        for paths in required.values():
            if self.first and not self.met.intersection(paths):
                what = f"no row has this column{meant(paths[0], self.first)}; rows have {columns.shape(self.first)}"
                raise ArenaError(f"{self.name}: {paths[0]}: {what}")
        for name, unused in self.unused.items():
            own, _, policy = name.partition(".")
            is_number = own in _NUMBERS or own == "logprobs"
            allowed = self.columns.reading.allow_missing if is_number else self.columns.optional
            if unused > self.used[name] and own not in allowed:
                examples, total = self.examples.get(name, []), unused + self.used[name]
                looks = ", ".join(f"{shown(v)} ({columns.kind(v)})" for v in examples) or "nothing at all"
                column = self.columns.logprobs.get(policy) or self.called(own)
                which = f"none of {total:,} values can" if unused == total else f"{unused:,} of {total:,} values cannot"
                what = f"{which} be read, such as {looks}: {_advice(own, examples)}"
                raise ArenaError(f"{self.name}: {column}: {what}; to go on without them, allow_missing: [{own}]")


def _kind_of_number(value: Any, words: dict[str, float | None]) -> str:
    """Whether a value is a number written as text, none of the two, or not there."""
    if value is None:
        return "absent"
    return "text" if isinstance(value, str) and rows.is_number(value, words) else "other"


def _advice(field: str, examples: list[Any]) -> str:
    """What to write where values of a field cannot be read."""
    first = next(iter(examples), None)
    if isinstance(first, dict | list):
        inner = columns.shape({"COLUMN": first}, most=1).split(" ")[0]
        return f"name the path to the value within, such as {field}: {inner}"
    if field not in _NUMBERS and field != "logprobs":
        return "write a text there, or name the column that has it"
    words = ", ".join(f"{json.dumps(value)}: NUMBER" for value in examples if isinstance(value, str))
    return f"say what the words stand for, values: {{{field}: {{{words[:200]}}}}}" if words else "write numbers there"


def cje(folder: Path, logging_policy: str) -> tuple[list[Source], list[str]]:
    """The files of CJE's layout, logged data first, and what else is there. Raises ArenaError where there are none."""
    if not folder.is_dir():
        raise ArenaError(f"no folder {str(folder)!r}")
    sources, others, reading = [], [], maps.read("cje")
    # The names of its files say whose responses they hold.
    reading = reading.model_copy(update={"columns": reading.columns.model_copy(update={"policy": None})})
    folders = list(dict.fromkeys(folder / pattern.rpartition("/")[0] for pattern in CJE))
    for path in (path for part in folders if part.is_dir() for path in sorted(part.iterdir())):
        # A file's name need not be Unicode.
        name = path.relative_to(folder).as_posix().encode(errors="replace").decode()
        for pattern in CJE:
            fits = re.fullmatch(re.escape(pattern).replace(r"\*", "([^/]+)"), name, re.DOTALL)
            # "_responses.jsonl" names no policy.
            if fits and path.is_file() and fits.groups()[-1:] != ("_responses",):
                logged = {"logprobs": {logging_policy: "base_policy_logprob"}, "by_policy": "target_policy_logprobs"}
                own = ColumnMap.of(reading, Columns.model_fields, **({} if "*" in pattern else logged))
                policy = fits[1] if "*" in pattern else logging_policy
                sources.append(Source(File(path, name), own, policy, logged="*" not in pattern))
                break
        else:
            others += [name] if path not in folders else []
    if not sources:
        wanted = " nor ".join(pattern.replace("*", "<policy>") for pattern in CJE[:2])
        raise ArenaError(f"{folder}: has neither {wanted}: is it CJE's layout?")
    return sources, sorted(others)


def table(path: Path, name: str, params: TableParams, logging_policy: str) -> Source:
    """A file whose columns the params name, or a shipped map. Raises ArenaError."""
    reading, choose, optional = maps.merged(params)
    try:
        own = ColumnMap.of(reading, optional)
    except ValueError as error:
        raise ArenaError(f"imported.tables: {path.name}: {error}") from error
    is_fresh = bool(params.policy or "policy" in own.fields)
    policy = params.policy or (None if is_fresh else logging_policy)
    return Source(File(path, name, reading.rows, reading.delimiter), own, policy, logged=not is_fresh, choose=choose)
