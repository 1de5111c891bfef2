"""What an import took and what it did not: the content of `import.json`, and the words for it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from arena10k import paths
from arena10k.collection.jobs import RESPONSES
from arena10k.errors import ArenaError
from arena10k.interchange.layouts import Source
from arena10k.interchange.writer import Taken
from arena10k.params.config import Params

#: Faults that are told on the command line.
TOLD = 5


def previous(run: str, identity: str) -> dict[str, Any] | None:
    """The account of the same import made before, None where the run is free.

    Raises
    ------
    ArenaError
        Where the run has other data.
    """
    folder = paths.data_dir(run)
    if not folder.exists() and not folder.is_symlink():
        return None
    if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
        return None
    account = read(run)
    if account is not None and account.get("digest") == identity and paths.store_file(run).is_file():
        return account | {"new": False}
    raise ArenaError(f"run {run!r} has other data already: use another --run, or remove data/{run}")


def read(run: str) -> dict[str, Any] | None:
    """The account of a run, None where it was not imported."""
    path = paths.import_file(run)
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError as error:
        raise ArenaError(f"data/{run}/import.json is damaged: remove data/{run} and import it again") from error


def summary(
    run: str, form: str, origin: str, sources: list[Source], taken: dict[str, Taken], names: dict[str, str],
    counts: Counter[tuple[str, str, str]], prompts: int, others: list[str],
) -> dict[str, Any]:  # fmt: skip
    """The account of an import.

    ``files``: per file its rows, those taken and left out, values left out of rows that were taken, and all faults by
    field and code. ``malformed``: file, line, field, fault, code and whether the row was taken, for the first
    `writer.LISTED` of each file. ``records``: outcomes by job and policy. ``policies``: name in the run by that in the
    source. ``not_there``: files of the layout that the policies could have; ``not_read``: files that are no part of it.
    """
    records: dict[str, dict[str, dict[str, int]]] = {}
    for (job, policy, outcome), count in sorted(counts.items()):
        if count:
            records.setdefault(job, {}).setdefault(policy, {})[outcome] = count
    files = [
        {"file": name, "rows": t.rows, "taken": t.taken, "left_out": t.left_out}
        | {"values_left_out": t.values_left_out, "faults": dict(sorted(t.by_field.items()))}
        for name, t in taken.items()
    ]
    return {
        "run": run, "form": form, "source": origin, "files": files, "prompts": prompts, "policies": names,
        "records": records, "not_read": others, "not_there": _not_there(form, sources, names),
        "malformed": [fault for t in taken.values() for fault in t.faults],
        "malformed_count": sum(sum(t.by_field.values()) for t in taken.values()),
    }  # fmt: skip


def _not_there(form: str, sources: list[Source], names: dict[str, str]) -> list[str]:
    if form != "cje":
        return []
    there = {source.name for source in sources}
    logging, *targets = names
    wanted = ["logged_data.jsonl", *(f"fresh_draws/{t}_responses.jsonl" for t in (logging, *targets))]
    return [name for name in [*wanted, *(f"probe_slice/{t}_probe.jsonl" for t in targets)] if name not in there]


def lines(account: dict[str, Any]) -> list[str]:
    """The account for the command line."""
    run = account["run"]
    if not account.get("new", True):
        return [f"{run}: the same files are imported already: nothing to do"]
    out = [sentence(account)]
    out += [f"  {f['file']}: {_taken(f)}" for f in account["files"]]
    taken = sum(file["taken"] for file in account["files"])
    if again := taken - _responses(account):
        out.append(f"  {again:,} of the {taken:,} rows taken are responses that a file before has too: counted once")
    out += [f"  policy {name!r} is called {plain} here" for name, plain in account["policies"].items() if name != plain]
    if clones := account["params"]["imported"].get("clones"):
        out.append(f"  taken for the logging policy again, the control of the log-probs: {_listed(clones)}")
    if account["not_there"]:
        out.append(f"  not there: {_listed(account['not_there'])}")
    if account["not_read"]:
        out.append(f"  not read: {_listed(account['not_read'])}")
    if total := account["malformed_count"]:
        first = account["malformed"][:TOLD]
        out.append(f"{total:,} malformed rows or values (data/{run}/import.json lists them):")
        out += [f"  {fault['file']}: {fault_words(fault)}" for fault in first]
        out += [f"  and {total - len(first):,} more"] if total > len(first) else []
    return out


def _taken(file: dict[str, Any]) -> str:
    taken = f"{file['taken']:,} of {file['rows']:,} rows taken" if file["rows"] else "is empty"
    return taken + (f", {file['values_left_out']:,} of their values left out" if file["values_left_out"] else "")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6:,} more" if len(names) > 6 else "")


def fault_words(fault: dict[str, Any]) -> str:
    """One fault in words, without its file."""
    field = f"{fault['field']}: " if fault["field"] else ""
    row = "the value is left out" if fault["row_taken"] else "the row is left out"
    return f"line {fault['line']}: {field}{fault['fault']}: {row}"


def _responses(account: dict[str, Any]) -> int:
    return sum(sum(outcomes.values()) for outcomes in account["records"].get(RESPONSES, {}).values())


def sentence(account: dict[str, Any]) -> str:
    """What was imported."""
    return (
        f"{account['run']}: imported {_responses(account):,} responses to {account['prompts']:,} prompts, of "
        f"{len(account['policies'])} policies ({', '.join(account['policies'].values())})"
    )


def origin(params: Params) -> list[str]:
    """Where a run's prompts and records come from, a line each."""
    account = read(params.run) if params.imported else None
    if account is None:
        return [f"The prompts are those of {params.prompts.path or 'the built-in set'}; nothing was imported."]
    return lines(account)
