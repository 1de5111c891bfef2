"""What the rows of a source mean: the layout of CJE, and tables whose columns the params name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from arena10k.errors import ArenaError
from arena10k.interchange import rows
from arena10k.interchange.rows import Fault, Row, RowFault
from arena10k.params.imported import TableParams

LOGGED, FRESH, PROBES = "logged_data.jsonl", "fresh_draws", "probe_slice"
#: What the layout calls its control: the logging policy's model and prompt again, with another seed (CJE 2025).
CLONE = "clone"
_ENDINGS = {FRESH: "_responses.jsonl", PROBES: "_probe.jsonl"}


@dataclass(frozen=True)
class Source:
    """One file: whose responses it has (None: each row says), how a row is read, and which measurements are expected
    of every row: `judged`, `judged_twice` (with a variance), and log-probs under `policies`. `fields` are the names of
    score, variance and label; of a table, `columns` are those that are needed and `used` those that have been met."""

    path: Path
    name: str
    policy: str | None
    logged: bool
    read: Callable[[dict[str, Any]], Row]
    judged: bool = False
    judged_twice: bool = False
    policies: tuple[str, ...] = ()
    fields: tuple[str, str, str] = ("judge_score", "judge_score.variance", "oracle_label")
    columns: tuple[str, ...] = ()
    policy_column: str | None = None
    used: set[str] = field(default_factory=set)

    def rows(self) -> Iterator[tuple[int, Any]]:
        """(line, object or Fault), of Parquet only the columns that are needed."""
        return rows.read(self.path, self.name, self._choose if self.columns else None)

    def policies_of_rows(self) -> list[str]:
        """The policies that the rows name, in the order of the file."""
        column = self.policy_column
        if column is None:
            return []
        found: dict[str, None] = {}
        for _, raw in rows.read(self.path, self.name, lambda names: self._choose(names, (column,))):
            name = None if isinstance(raw, Fault) else _within(raw, column, self.used)
            if isinstance(name, str):
                found[name] = None
                if len(found) > rows.MAX_POLICIES:
                    rows.plain_names(found)
        return list(found)

    def _choose(self, names: list[str], columns: tuple[str, ...] | None = None) -> list[str]:
        columns = columns or self.columns
        wanted = list(dict.fromkeys(column if column in names else column.split(".")[0] for column in columns))
        for column in wanted:
            if names.count(column) != 1:
                what = "is there more than once" if column in names else "is not a column"
                raise ArenaError(f"{self.name}: {column}: {what}: it has {', '.join(names)[:200]}")
        return wanted


# CJE


@dataclass(frozen=True)
class Found:
    """A file of the layout: its name in messages, and whose responses it has."""

    path: Path
    name: str
    policy: str


def cje_files(folder: Path, logging_policy: str) -> tuple[list[Found], list[str]]:
    """The files of CJE's layout, logged data first, and the names of what else is there.

    Raises
    ------
    ArenaError
        Where none of them is there.
    """
    if not folder.is_dir():
        raise ArenaError(f"no folder {str(folder)!r}")
    out, others = [], []
    if (folder / LOGGED).is_file():
        out.append(Found(folder / LOGGED, LOGGED, logging_policy))
    for part, ending in _ENDINGS.items():
        for path in sorted((folder / part).iterdir()) if (folder / part).is_dir() else ():
            plain = _plain(path)
            name, policy = f"{part}/{plain}", plain.removesuffix(ending)
            if policy and plain.endswith(ending) and path.is_file():
                out.append(Found(path, name, policy))
            else:
                others.append(name)
    others += [_plain(p) for p in sorted(folder.iterdir()) if p.name not in (LOGGED, *_ENDINGS)]
    if not out:
        raise ArenaError(f"{folder}: has neither {LOGGED} nor {FRESH}/<policy>{_ENDINGS[FRESH]}: is it CJE's layout?")
    return out, others


def _plain(path: Path) -> str:
    """A file's name as text: it need not be Unicode."""
    return path.name.encode(errors="replace").decode()


def cje_source(found: Found, logging_policy: str) -> Source:
    """Look through a file for what its rows have: a measurement is missing where other rows have it."""
    logged, judged, twice, policies = found.name == LOGGED, False, False, dict[str, None]()
    for _, raw in rows.read(found.path, found.name):
        if isinstance(raw, Fault):
            continue
        score = _either(raw, "judge_score")
        judged |= score is not None
        twice |= isinstance(score, dict) and score.get("variance") is not None
        targets = raw.get("target_policy_logprobs") if logged else None
        if logged and "base_policy_logprob" in raw:
            policies[logging_policy] = None
        if isinstance(targets, dict):
            policies |= dict.fromkeys(targets)
            if len(policies) > rows.MAX_POLICIES:
                rows.plain_names(policies)
    read = partial(_logged, logging_policy) if logged else _fresh
    return Source(found.path, found.name, found.policy, logged, read, judged, twice, tuple(policies))


def _either(raw: dict[str, Any], key: str) -> Any:
    """A key of the row, else of its metadata."""
    metadata = raw.get("metadata")
    inner = metadata.get(key) if isinstance(metadata, dict) else None
    outer = raw.get(key)
    return inner if outer is None else outer


def _fresh(raw: dict[str, Any]) -> Row:
    get = partial(_either, raw)
    metadata = raw.get("metadata")
    if isinstance(metadata, dict):
        for key in ("prompt_id", "judge_score", "oracle_label", "draw_idx"):
            if None not in (raw.get(key), metadata.get(key)) and raw[key] != metadata[key]:
                raise RowFault(key, "differs from that in metadata")
    score: Any = get("judge_score")
    variance = None
    if isinstance(score, dict):
        score, variance = score.get("mean"), score.get("variance")
    return Row(
        rows.prompt_id("prompt_id", get("prompt_id")),
        rows.text("response", raw.get("response")),
        rows.text_or_none("prompt", raw.get("prompt")),
        rows.draw("draw_idx", get("draw_idx")),
        judge=rows.number("judge_score", score),
        judge_variance=rows.number("judge_score.variance", variance),
        label=rows.number("oracle_label", get("oracle_label")),
    )


def _logged(logging_policy: str, raw: dict[str, Any]) -> Row:
    row, targets = _fresh(raw), raw.get("target_policy_logprobs")
    if targets is not None and not isinstance(targets, dict):
        raise RowFault("target_policy_logprobs", "is not an object of log-probs by policy")
    logprobs = {logging_policy: rows.number("base_policy_logprob", raw.get("base_policy_logprob"))}
    for name, value in (targets or {}).items():
        at = f"target_policy_logprobs.{name[:60]}"
        if name == logging_policy:
            logprobs[name] = _same(at, logprobs[name], rows.number(at, value))
        else:
            logprobs[name] = rows.number(at, value)
    return Row(**vars(row) | {"logprobs": logprobs})


def _same(at: str, one: Any, other: Any) -> Any:
    if isinstance(one, float) and isinstance(other, float) and one != other:
        return Fault(at, "differs from base_policy_logprob, which is of the same policy", rows.NOT_A_NUMBER)
    return other if one is None else one


# Tables with named columns


def table(path: Path, name: str, params: TableParams, logging_policy: str) -> Source:
    """A file whose columns the params name."""
    columns = params.columns
    logprobs = tuple(columns.logprobs)
    by_meaning = columns.model_dump(exclude={"logprobs"})
    used: set[str] = set()
    named = [column for column in by_meaning.values() if column] + list(columns.logprobs.values())
    fields = (columns.judge or "", columns.judge_variance or "", columns.label or "")
    return Source(
        path, name, params.policy or (None if columns.policy else logging_policy), not params.is_fresh,
        partial(_table_row, by_meaning, columns.logprobs, used), bool(columns.judge), bool(columns.judge_variance),
        logprobs, fields, tuple(named), columns.policy, used,
    )  # fmt: skip


def _table_row(by_meaning: dict[str, str | None], logprobs: dict[str, str], used: set[str], raw: dict[str, Any]) -> Row:
    def name(key: str) -> str:
        return by_meaning[key] or key

    def get(key: str) -> Any:
        return _within(raw, name(key), used) if by_meaning[key] else None

    def number(key: str) -> Any:
        return rows.number(name(key), get(key))

    return Row(
        rows.prompt_id(name("prompt_id"), get("prompt_id")),
        rows.text(name("response"), get("response")),
        rows.text_or_none(name("prompt"), get("prompt")),
        rows.draw(name("draw"), get("draw")),
        rows.text(name("policy"), get("policy")) if by_meaning["policy"] else None,
        number("judge"), number("judge_variance"), number("label"),
        rows.text_or_none(name("category"), get("category")),
        rows.text_or_none(name("language"), get("language")),
        {policy: rows.number(column, _within(raw, column, used)) for policy, column in logprobs.items()},
    )  # fmt: skip


def _within(raw: dict[str, Any], column: str, used: set[str]) -> Any:
    """The value of a column, or of a key within it; `used` remembers which columns there are."""
    if column in raw:
        used.add(column)
        return raw[column]
    value: Any = raw
    for key in column.split("."):
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    used.add(column)
    return value
