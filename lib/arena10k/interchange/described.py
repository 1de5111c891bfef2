"""Tables as a command line describes them: files, each with a policy, a map and what goes before it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from arena10k import paths
from arena10k.errors import ArenaError
from arena10k.inputs.files import File
from arena10k.interchange import maps
from arena10k.interchange.rows import Range, plain_names
from arena10k.params import config
from arena10k.params.imported import ImportedParams
from arena10k.wording import told_apart

#: Keys of a table whose values are no YAML.
_TEXTS = ("old", "new", "delimiter")


def files(
    given: tuple[str, ...], run: str, map_name: str, settings: list[str], scales: dict[str, Range]
) -> tuple[str, ImportedParams, list[str]]:
    """The run and what is imported into it, and which maps were taken. `given` are files, or POLICY=FILE; `settings`
    are KEY=VALUE of a table, `a.b` being the key `b` within `a`; `old` and `new` the columns of two answers. Raises
    ArenaError."""
    own = _two_sided(_mapping(settings))
    if "path" in own:
        raise ArenaError("path: the files are named by themselves: leave it out")
    tables: list[dict[str, Any]] = []
    said = []
    for entry in given:
        policy, _, name = entry.rpartition("=") if not Path(entry).exists() else ("", "", entry)
        path = Path(name).resolve()
        if path.is_dir():
            raise ArenaError(f"{name!r} is a folder: name its files (one in CJE's layout: arena10k import cje {name})")
        if not path.is_file():
            raise ArenaError(f"no file {name!r}")
        stem = re.split(r"\.", path.name)[0] or path.name
        table = own | {"path": str(path)}
        # A file whose columns are all named needs no map.
        if map_name or not {"prompt", "prompt_id"} & own.get("columns", {}).keys():
            mark = own.get("delimiter")
            file = File(path, path.name, own.get("rows"), "\t" if mark == r"\t" else mark, by_command=True)
            table["map"] = map_name or maps.guess(file)
            said.append(f"{path.name} is read as {table['map']}: {maps.read(table['map']).about}")
        reading = maps.read(table["map"]) if "map" in table else None
        says_whose = own.keys() & {"sides", "policy"} or own.get("columns", {}).keys() & {"policy", "logprobs"}
        if policy or not (says_whose or (reading and (reading.columns.policy or reading.sides))):
            table["policy"] = plain_names([policy or stem])[policy or stem]
            other = next((t["path"] for t in tables if t.get("policy") == table["policy"]), None)
            # Who says it twice means one policy; who does not may mean two.
            if other and not policy:
                both = f"{other} and {path} would both be of policy {table['policy']!r}"
                raise ArenaError(f"{both}: write POLICY=FILE for each")
        tables.append(table)
        run = run or re.sub(r"[^A-Za-z0-9_-]", "-", stem)[:64].lstrip("-_") or "imported"
    try:
        declared = ImportedParams.model_validate({"tables": tables} | scales)
    except ValidationError as error:
        lines = (re.sub(r"^tables\.\d+(\.|: )", "", line) for line in config.faults(error, ImportedParams))
        raise ArenaError("\n".join(dict.fromkeys(lines))) from error
    return paths.check_run_name(run), declared, said


def _two_sided(own: dict[str, Any]) -> dict[str, Any]:
    """A table in whose rows are two answers: scores and labels end as their columns do."""
    old, new, columns = own.pop("old", ""), own.pop("new", ""), own.get("columns", {})
    if old == new == "":
        return own
    start, mark, sides = told_apart(old, new)
    if not old or not new or old == new:
        raise ArenaError("--old and --new go together: write the columns of both answers")
    for name in {"judge", "judge_variance", "label", "label_propensity"} & columns.keys():
        if side := next((side for side in sides if columns[name].endswith(f"{mark}{side}")), ""):
            short = columns[name].removesuffix(f"{mark}{side}")
            raise ArenaError(f"--column {name}={columns[name]}: write {name}={short}: --old and --new say how it ends")
        columns[name] += "" if "{side}" in columns[name] else f"{mark}{{side}}"
    return own | {"sides": sides, "columns": columns | {"response": f"{start}{{side}}"}}


def _mapping(settings: list[str]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for setting in settings:
        key, mark, value = setting.partition("=")
        if key.startswith("values."):  # a word may hold = too
            key, mark, value = setting.rpartition("=")
        # What follows `where.` is a path, and what follows the column of `values.` a word.
        *above, last = key.split(".", {"where": 1, "values": 2}.get(key.partition(".")[0], -1))
        if not mark or not last:
            raise ArenaError(f"{setting!r}: write KEY=VALUE, such as columns.judge=score")
        within = made
        for part in above:
            within = within.setdefault(part, {})
            if not isinstance(within, dict):
                raise ArenaError(f"{setting!r}: {part} has a value, {within!r:.80}, and no keys")
        if last in within:
            raise ArenaError(f"{setting!r}: {key} is said twice, also as {within[last]!r:.80}: keep one")
        try:
            read = value if above[:1] == ["columns"] or key in _TEXTS else yaml.safe_load(value)
        except yaml.YAMLError as error:
            if above != ["where"]:
                raise ArenaError(f"{setting!r}: not valid YAML: put the value in quotes") from error
            read = None
        # A text that is looked for may read as something else in YAML.
        within[last] = value if above == ["where"] and not isinstance(read, str | int | float) else read
    return made
