"""Imports: files of others become an ordinary run, whole or not at all, with an account of what was taken."""

from __future__ import annotations

import datetime
import json
import sys
import time
from pathlib import Path
from typing import Any

from arena10k import paths
from arena10k.collection.jobs import DETERMINISTIC, RESPONSES, UNCERTAINTY
from arena10k.collection.store import Store
from arena10k.errors import MOST_LISTED, ArenaError
from arena10k.inputs.policies import digest
from arena10k.interchange import layouts
from arena10k.interchange.account import fault_words
from arena10k.interchange.rows import MISSING, Range, plain_names
from arena10k.interchange.sides import Votes
from arena10k.interchange.source import Source
from arena10k.interchange.staging import Prompts, staged
from arena10k.interchange.writer import FileAccount, Writer
from arena10k.params import config, imported
from arena10k.params.imported import PROVIDER, ImportedParams
from arena10k.report.files import write_text
from arena10k.wording import listed

#: Changes when the same files would give other records: an import made before is then not identical.
VERSION = 4
UNIT: Range = (0.0, 1.0)
_SCALES = ("judge_scale", "oracle_scale")


def import_cje(
    folder: Path, run: str, logging_policy: str = "base", judge_scale: Range = UNIT, oracle_scale: Range = UNIT
) -> dict[str, Any]:
    """Import CJE's layout (`layouts.CJE`), of which any file may be missing.

    A score or label outside of its scale is malformed, a file with more such values than others is refused: no scale
    is ever guessed. Returns the content of `data/<run>/import.json`, with ``new`` False where the same import stood:

    ``files``: per file its rows, those taken and left out, values left out of rows that were taken, and all faults by
    field and code. ``malformed``: file, line, field, fault, code and whether the row was taken, for the first
    `writer.LISTED` of each file. ``records``: outcomes by job and policy. ``policies``: name in the run by that in the
    source. ``not_there``: files of the layout that the policies could have; ``not_read``: files that are no part of it.

    Raises ArenaError where nothing can be imported, a file cannot be read, or the run has other data; nothing is
    written then.
    """
    declared = {"judge_scale": judge_scale, "oracle_scale": oracle_scale, "logging_policy": logging_policy}
    sources, not_read = layouts.cje(folder, logging_policy)
    return _import(run, "cje", folder.resolve().name, declared, sources, not_read)


def import_tables(
    run: str, params: ImportedParams, logging_policy: str | None = None, form: str = "table"
) -> dict[str, Any]:
    """Import the tables a params file describes (`form` "files": a command line); as `import_cje` otherwise. Where no
    logging policy is said it is "base" if there are logged rows, else the first that the files name."""
    if not params.tables:
        raise ArenaError("imported.tables: names no table")
    sources: dict[str, Source] = {}
    for number, table in enumerate(params.tables, start=1):
        path = paths.home() / table.path
        if path.is_dir():
            raise ArenaError(f"imported.tables: {table.path!r} is a folder: name a file in it")
        if not path.is_file():
            raise ArenaError(f"imported.tables: no file {table.path!r}: relative paths start at the folder of data/")
        name = path.name if path.name not in sources else f"{path.name} (table {number})"
        sources[name] = layouts.table(path, name, table, logging_policy, form == "files")
    tables = [table.model_dump(exclude_defaults=True) for table in params.tables]
    declared = {key: getattr(params, key) or UNIT for key in _SCALES}
    declared |= {"logging_policy": logging_policy, "tables": tables}
    if votes := [source.name for source in sources.values() if isinstance(source, Votes)]:
        parts = (part for source in sources.values() for part in (source, *source.parts))
        if declared["oracle_scale"] != UNIT or any("label" in part.fields for part in parts):
            raise ArenaError(f"{votes[0]}: votes are the labels, from 0 to 1: leave out other labels and their scale")
        declared |= {"votes": True}
    return _import(run, form, ", ".join(sources), declared, list(sources.values()), [])


def _import(
    run: str, form: str, origin: str, declared: dict[str, Any], sources: list[Source], not_read: list[str]
) -> dict[str, Any]:
    for key in _SCALES:
        if not declared[key][0] < declared[key][1]:
            raise ArenaError(f"{key.replace('_', '-')}: {declared[key][0]:g} to {declared[key][1]:g} does not rise")
    contents = {source.name: source.file.digest() for source in sources}
    identity = digest([VERSION, form, declared, contents])
    if (before := _before(run, identity)) is not None:
        return before | {"new": False}
    with staged(run) as folder:
        # What is logged comes first: fresh draws of the logging policy may repeat it.
        sources.sort(key=lambda source: not source.logged)
        found = [policy for source in sources for policy in source.survey()]
        logging_policy = _logging_policy(declared["logging_policy"], sources, found)
        names = plain_names([logging_policy, *found])
        declared |= {"logging_policy": logging_policy}
        store, prompts = Store.open(folder / "store.sqlite"), Prompts(folder)
        try:
            with store.filling() as add:
                has_logged = any(source.logged for source in sources)
                writer = Writer(store, add, prompts, names, declared, time.time(), has_logged)
                files = [_write(writer, source) for source in sources]
            for file, source in zip(files, sources, strict=True):
                _check_scales(file, source, form, declared)
            if not writer.records:
                faults = [f"{f.file}: {fault_words(f.malformed[0]) if f.malformed else 'has no rows'}" for f in files]
                raise ArenaError(f"nothing can be imported: {'; '.join(faults[:5])}")
            rows = {policy: sum(outcomes.values()) for policy, outcomes in writer.records[RESPONSES].items()}
            if form != "cje" and names[logging_policy] not in rows:
                counts = listed([f"{policy!r} in {n:,}" for policy, n in rows.items()], MOST_LISTED)
                how = "logging_policy: NAME" if form == "table" else "--logging-policy NAME"
                raise ArenaError(f"no row is of {logging_policy!r}. The rows hold {counts}: write {how}")
            apart = store.policies_apart(RESPONSES, names[logging_policy]) if names[logging_policy] in rows else []
            n_prompts = prompts.write(folder / "prompts.parquet")
        finally:
            prompts.close()
            store.close()
        keys = ("file", "unit", "rows", "taken", "left_out", "again", "beside", "values_left_out", "faults")
        # Labels of the logging policy are in its logged data. Older and newer CJE have a name for fresh draws each.
        is_one = form == "cje" and any(source.name in layouts.CJE[:1] or "/" in source.name for source in sources)
        patterns = [(p, name) for p in (layouts.CJE[:3] if is_one else ()) for name in names]
        could = [p.replace("*", name) for p, name in patterns if name != logging_policy or not p.startswith("probe_")]
        account = {
            "run": run, "form": form, "source": origin, "prompts": n_prompts, "policies": names,
            "files": [{key: getattr(f, key) for key in keys} | {"policies": sorted(f.policies)} for f in files],
            "records": writer.records, "apart": apart,
            "not_read": not_read, "not_there": [name for name in dict.fromkeys(could) if name not in contents],
            "malformed": [fault for file in files for fault in file.malformed],
            "malformed_count": sum(file.faults.total() for file in files), "digest": identity,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "params": _params(writer, form, names, declared, identity),
        }  # fmt: skip
        # Unsorted: the order of the policies is that of the run.
        write_text(folder / "import.json", json.dumps(account, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return account | {"new": True}


def _logging_policy(said: str | None, sources: list[Source], found: list[str]) -> str:
    """The name that the files have for the logging policy, which may be said as the run calls it."""
    if said is None:
        return next((str(source.policy) for source in sources if source.logged), None) or next(iter(found), "base")
    plain = plain_names([said])[said]
    return said if said in found else next((name for name in found if plain_names([name])[name] == plain), said)


def _before(run: str, identity: str) -> dict[str, Any] | None:
    """The account of the same import made before, None where the run is free. Raises ArenaError where it has other
    data, or its name is that of another experiment: its params file would be taken for that of the import."""
    folder = paths.data_dir(run)
    if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))):
        account = imported.account(run)
        if account and account.get("digest") == identity and paths.store_file(run).is_file():
            return account
        raise ArenaError(f"run {run!r} has other data already: use another --run, or remove data/{run}")
    for path in (paths.source_root() / "params" / f"{run}.yaml", paths.home() / f"{run}.yaml"):
        if path.is_file() and "imported" not in config.contents(path):
            raise ArenaError(f"run {run!r} is the experiment of {path.name}: use another --run")
    return None


def _write(writer: Writer, source: Source) -> FileAccount:
    from tqdm import tqdm

    with tqdm(desc=source.name, unit=" rows", mininterval=1.0, file=sys.stderr, ascii=True, disable=None) as bar:
        file = writer.source(source, bar.update)
    source.check()
    file.beside = dict(source.beside)
    return file


def _check_scales(file: FileAccount, source: Source, form: str, declared: dict[str, Any]) -> None:
    """Refuse a scale that most values of a column lie outside of: those within it would be a biased rest; and one on
    which true and false have no place."""
    wide = dict[str, str]()
    for (key, column), (within, outside, low, high) in file.spreads.items():
        scale = f"the declared scale {declared[key][0]:g} to {declared[key][1]:g}"
        if outside > within and key not in wide:
            option = f"imported.{key} in the params" if form == "table" else f"--{key.replace('_', '-')} LOW HIGH"
            wide[key] = (
                f"{column}: {outside:,} of {outside + within:,} values are outside of {scale}, "
                f"they range from {low:.15g} to {high:.15g}: declare their scale with {option}"
            )
        name = "judge" if key == "judge_scale" else "label"
        booleans = source.booleans.union(*(part.booleans for part in source.parts))
        if name in booleans and tuple(declared[key]) != UNIT:
            low, high = declared[key]
            words = source.file.to_say(f"values: {{{name}: {{true: {high:g}, false: {low:g}}}}}",
                                       f"values.{name}.true={high:g}", f"values.{name}.false={low:g}")  # fmt: skip
            raise ArenaError(f"{file.file}: {column}: is true or false, on {scale}: say what they stand for, {words}")
    if wide:
        raise ArenaError(f"{file.file}: {'; '.join(wide.values())}")


def _params(
    writer: Writer, form: str, names: dict[str, str], declared: dict[str, Any], identity: str
) -> dict[str, Any]:
    """What `config.load` takes from the import: policies, draws, scales, clones, and what is due."""
    records, logging_policy = writer.records, declared["logging_policy"]
    # A text that the source does not have is not due.
    no_text = {policy: n[MISSING] for policy, n in records[RESPONSES].items()}
    due = {job: {policy: sum(n.values()) for policy, n in policies.items()} for job, policies in records.items()}
    due[RESPONSES] = {policy: n - no_text[policy] for policy, n in due[RESPONSES].items()}
    own = {key: value for key, value in declared.items() if key != "logging_policy"} | {"digest": identity, "due": due}
    if form == "cje" and layouts.CLONE in names and logging_policy != layouts.CLONE:
        own["clones"] = [names[layouts.CLONE]]
    # The mode with uncertainty headlines where every score has it.
    twice, once = (
        {policy: n["ok"] for policy, n in records.get(job, {}).items() if n["ok"]}
        for job in (UNCERTAINTY, DETERMINISTIC)
    )
    policies = {}
    for name, plain in names.items():
        description = "imported" if name == plain else f"imported; {name[:80]!r} in the source"
        policies[plain] = {"provider": PROVIDER, "model": plain, "description": description}
    return {
        "logging_policy": names[logging_policy],
        "providers": {PROVIDER: {"kind": PROVIDER}},
        "policies": policies,
        "responses": {"draws": max(writer.draws, 1), "logged_draws": max(writer.logged_draws, 1)},
        "estimation": {"judge": "uncertainty" if twice and twice == once else "deterministic"},
        "imported": own,
    }
