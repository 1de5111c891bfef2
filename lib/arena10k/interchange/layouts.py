"""Which files are read how: those of CJE's layout by their names, others by what the params say or a shipped map."""

from __future__ import annotations

import re
from pathlib import Path

from arena10k.errors import ArenaError
from arena10k.inputs.files import File
from arena10k.interchange import columns, maps
from arena10k.interchange.sides import two_sides
from arena10k.interchange.source import Source
from arena10k.params.imported import Columns, Reading, TableParams

#: CJE's layout (CJE 2025, and 0.6 to 0.9) by file name; `*` is the policy that responds, where it is not the logging
#: policy.
CJE = ("logged_data.jsonl", "fresh_draws/*_responses.jsonl", "probe_slice/*_probe.jsonl",
       "*_responses.jsonl", "responses/*.jsonl", "fresh_draws/*.jsonl")  # fmt: skip
#: What it calls its control: the logging policy's model and prompt again, with another seed.
CLONE = "clone"


def cje(folder: Path, logging_policy: str) -> tuple[list[Source], list[str]]:
    """The files of CJE's layout, logged data first, and what else is there. Raises ArenaError where there are none."""
    if not folder.is_dir():
        raise ArenaError(f"no folder {str(folder)!r}")
    sources, others, reading = [], [], maps.read("cje")
    # The names of its files say whose responses they hold.
    fields = {name: paths for name, paths in _fields(reading).items() if name != "policy"}
    logged = fields | {f"logprobs.{logging_policy}": ("base_policy_logprob",)}
    folders = list(dict.fromkeys(folder / pattern.rpartition("/")[0] for pattern in CJE))
    for path in (path for part in folders if part.is_dir() for path in sorted(part.iterdir())):
        # A file's name need not be Unicode.
        name = path.relative_to(folder).as_posix().encode(errors="replace").decode()
        for pattern in CJE:
            fits = re.fullmatch(re.escape(pattern).replace(r"\*", "([^/]+)"), name, re.DOTALL)
            # "_responses.jsonl" names no policy.
            if fits and path.is_file() and fits.groups()[-1:] != ("_responses",):
                own = (File(path, name), reading, fields if "*" in pattern else logged, frozenset(Columns.model_fields))
                policy = fits[1] if "*" in pattern else logging_policy
                targets = None if "*" in pattern else "target_policy_logprobs"
                sources.append(Source(*own, policy, logged="*" not in pattern, by_policy=targets))
                break
        else:
            others += [name] if path not in folders else []
    if not sources:
        wanted = " nor ".join(pattern.replace("*", "<policy>") for pattern in CJE[:2])
        raise ArenaError(f"{folder}: has neither {wanted}: is it CJE's layout?")
    return sources, sorted(others)


def table(path: Path, name: str, params: TableParams, logging_policy: str | None, by_command: bool) -> Source:
    """A file whose columns the params name (or a command line), or a shipped map. Raises ArenaError."""
    reading, choose, optional = maps.merged(params)
    try:
        fields = _fields(reading)
    except ValueError as error:
        raise ArenaError(f"imported.tables: {path.name}: {error}") from error
    may_lack = frozenset({*reading.allow_missing, *optional})
    file = File(path, name, reading.rows, reading.delimiter, by_command)
    if reading.sides or "winner" in fields:
        if params.policy or not reading.sides:
            raise ArenaError(f"{name}: votes, and answers of two sides, go with sides: [old, new] and without a policy")
        return two_sides(file, reading, fields, may_lack, logging_policy)
    is_fresh = bool(params.policy or "policy" in fields)
    by_file = path.name.split(".")[0] if "policy" in may_lack else None
    policy = params.policy or (by_file if is_fresh else logging_policy or "base")
    return Source(file, reading, fields, may_lack, policy, logged=not is_fresh, choose=choose)


def _fields(reading: Reading) -> dict[str, tuple[str, ...]]:
    """The columns of each field. Raises ValueError for a path that is none."""
    given = reading.columns.model_dump(exclude={"logprobs"}, exclude_none=True)
    given |= {f"logprobs.{policy}": path for policy, path in reading.columns.logprobs.items()}
    fields = {name: (path,) if isinstance(path, str) else tuple(path) for name, path in given.items()}
    for path in [*(path for paths in fields.values() for path in paths), *reading.where]:
        for part in path.removeprefix("@").split(" + "):
            columns.steps(part)
    return fields | ({"label": fields["judge"]} if reading.exact and "judge" in fields else {})
