"""Imports: files of others become an ordinary run, whole or not at all, with an account of what was taken."""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from arena10k import paths
from arena10k.collection.jobs import DETERMINISTIC, UNCERTAINTY
from arena10k.collection.store import Store
from arena10k.errors import ArenaError
from arena10k.inputs.policies import digest
from arena10k.interchange import layouts
from arena10k.interchange.account import fault_words, previous, summary
from arena10k.interchange.layouts import Source
from arena10k.interchange.rows import Range, digest_of, plain_names
from arena10k.interchange.staging import Prompts, staged
from arena10k.interchange.writer import Taken, Writer
from arena10k.params import config
from arena10k.params.imported import PROVIDER, ImportedParams
from arena10k.report.files import write_text

#: Changes when the same files would give other records: an import made before is then not identical.
VERSION = 1
UNIT: Range = (0.0, 1.0)


def import_cje(
    folder: Path, run: str, logging_policy: str = "base", judge_scale: Range = UNIT, oracle_scale: Range = UNIT
) -> dict[str, Any]:
    """Import CJE's layout.

    `logged_data.jsonl`, `fresh_draws/<policy>_responses.jsonl`, `probe_slice/<policy>_probe.jsonl`: any may be missing.
    A score or label outside of its scale is malformed, a file with more such values than others is refused: no scale
    is ever guessed.

    Returns
    -------
    the content of `data/<run>/import.json` (see `account.summary`), with ``new`` False where the same import stood.

    Raises
    ------
    ArenaError
        Where nothing can be imported, a file cannot be read, or the run has other data; nothing is written then.
    """
    declared = {"judge_scale": judge_scale, "oracle_scale": oracle_scale, "logging_policy": logging_policy}
    files, others = layouts.cje_files(folder, logging_policy)
    contents = {file.name: digest_of(file.path) for file in files}
    opened = (layouts.cje_source(file, logging_policy) for file in files)
    return _import(run, "cje", folder.resolve().name, declared, contents, opened, others)


def import_tables(run: str, params: ImportedParams, logging_policy: str = "base") -> dict[str, Any]:
    """Import the tables a params file describes; as `import_cje` otherwise."""
    if not params.tables:
        raise ArenaError("imported.tables: names no table")
    declared = {
        "judge_scale": params.judge_scale or UNIT,
        "oracle_scale": params.oracle_scale or UNIT,
        "logging_policy": logging_policy,
        "tables": [table.model_dump(exclude_none=True) for table in params.tables],
    }
    contents, opened = {}, []
    for number, table in enumerate(params.tables, start=1):
        path = paths.home() / table.path
        if not path.is_file():
            raise ArenaError(f"imported.tables: no file {table.path!r}: relative paths start at the folder of data/")
        name = path.name if path.name not in contents else f"{path.name} (table {number})"
        contents[name] = digest_of(path)
        opened.append(layouts.table(path, name, table, logging_policy))
    return _import(run, "table", ", ".join(contents), declared, contents, opened, [])


def _import(
    run: str, form: str, origin: str, declared: dict[str, Any], contents: dict[str, str],
    sources: Iterable[Source], others: list[str],
) -> dict[str, Any]:  # fmt: skip
    for key in ("judge_scale", "oracle_scale"):
        if not declared[key][0] < declared[key][1]:
            raise ArenaError(f"{key.replace('_', '-')}: {declared[key][0]:g} to {declared[key][1]:g} does not rise")
    identity = digest([VERSION, form, declared, contents])
    if (before := previous(run, identity)) is not None:
        return before
    _check_name(run)
    with staged(run) as folder:
        # What is logged comes first: fresh draws of the logging policy may repeat it.
        opened = sorted(sources, key=lambda source: not source.logged)
        names = _names(opened, declared["logging_policy"])
        store, prompts = Store.open(folder / "store.sqlite"), Prompts(folder)
        try:
            with store.filling() as add:
                writer = Writer(store, add, prompts, names, declared, created=time.time())
                taken = {source.name: _read(writer, source) for source in opened}
            _check_scales(taken, form, declared)
            if not writer.counts:
                raise ArenaError(_nothing(taken))
            n_prompts = prompts.write(folder / "prompts.parquet")
        finally:
            prompts.close()
            store.close()
        account = summary(run, form, origin, opened, taken, names, writer.counts, n_prompts, others)
        account |= {"digest": identity, "created": _now(), "params": _params(writer, form, names, declared, identity)}
        # Unsorted: the order of the policies is that of the run.
        write_text(folder / "import.json", json.dumps(account, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return account | {"new": True}


def _names(sources: list[Source], logging_policy: str) -> dict[str, str]:
    """Every policy by the name it has in the source, the logging policy first."""
    names = [logging_policy]
    for source in sources:
        names += source.policies
        if source.policy is not None:
            names.append(source.policy)
        else:
            names += source.policies_of_rows()
    return plain_names(names)


def _read(writer: Writer, source: Source) -> Taken:
    from tqdm import tqdm

    with tqdm(desc=source.name, unit=" rows", mininterval=1.0, file=sys.stderr, ascii=True, disable=None) as bar:
        taken = writer.source(source, bar.update)
    if absent := [c for c in source.columns if c not in source.used] if taken.taken else []:
        raise ArenaError(f"{source.name}: {absent[0]}: no row has this column: mend imported.tables")
    return taken


def _check_name(run: str) -> None:
    """Refuse the name of another experiment: its params file would be taken for that of the import."""
    paths.check_run_name(run)
    for path in (paths.source_root() / "params" / f"{run}.yaml", paths.home() / f"{run}.yaml"):
        if path.is_file() and "imported" not in config.contents(path):
            raise ArenaError(f"run {run!r} is the experiment of {path.name}: use another --run")


def _check_scales(taken: dict[str, Taken], form: str, declared: dict[str, Any]) -> None:
    """Refuse a scale that most values of a field lie outside of: those within it would be a biased rest."""
    for file, found in taken.items():
        for (key, name), spread in found.spreads.items():
            if spread.outside > spread.within:
                option = f"--{key.replace('_', '-')} LOW HIGH" if form == "cje" else f"imported.{key} in the params"
                low, high = declared[key]
                raise ArenaError(
                    f"{file}: {name}: {spread.outside:,} of {spread.outside + spread.within:,} values are outside of "
                    f"the declared scale {low:g} to {high:g}, they range from {spread.low:g} to {spread.high:g}: "
                    f"declare their scale with {option}"
                )


def _nothing(taken: dict[str, Taken]) -> str:
    """Why an import took nothing: the first fault of every file."""
    lines = []
    for name, file in taken.items():
        lines.append(name + (": " + fault_words(file.faults[0]) if file.faults else ": has no rows"))
    return "nothing can be imported: " + "; ".join(lines[:5])


def _params(
    writer: Writer, form: str, names: dict[str, str], declared: dict[str, Any], identity: str
) -> dict[str, Any]:
    """What `config.load` takes from the import: policies, draws, scales, clones, and what is due."""
    due: dict[str, dict[str, int]] = {}
    for (job, policy, _), count in writer.counts.items():
        if count:
            by_policy = due.setdefault(job, {})
            by_policy[policy] = by_policy.get(policy, 0) + count
    imported = {key: value for key, value in declared.items() if key != "logging_policy"}
    if form == "cje" and layouts.CLONE in names and declared["logging_policy"] != layouts.CLONE:
        imported["clones"] = [names[layouts.CLONE]]
    # The mode with uncertainty headlines where every score has it.
    twice, once = (
        {k[1]: n for k, n in writer.counts.items() if k[0] == job and k[2] == "ok" and n}
        for job in (UNCERTAINTY, DETERMINISTIC)
    )
    return {
        "logging_policy": names[declared["logging_policy"]],
        "providers": {PROVIDER: {"kind": PROVIDER}},
        "policies": {plain: _policy(name, plain) for name, plain in names.items()},
        "responses": {"draws": max(writer.draws, 1), "logged_draws": max(writer.logged_draws, 1)},
        "estimation": {"judge": "uncertainty" if twice and twice == once else "deterministic"},
        "imported": imported | {"digest": identity, "due": due},
    }


def _policy(name: str, plain: str) -> dict[str, Any]:
    unknown = "imported: its definition is not known"
    own = unknown if name == plain else f"{unknown}; named {name[:80]!r} in the source"
    return {"provider": PROVIDER, "model": plain, "description": own}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
