"""What stopped the stages of a run: a note beside each stage's stamp, until the stage or the whole run goes through."""

from __future__ import annotations

import datetime
import re
from contextlib import suppress
from pathlib import Path

from arena10k import paths

#: How a reason ends that says how to go on.
_GOES_ON = re.compile(r"(;|,? and)? the same command goes on from here$", re.IGNORECASE)


def _file(run: str, stage: str) -> Path:
    return paths.result_file(run, f"stages/{stage}.failed")


def _by_age(run: str) -> list[tuple[int, Path]]:
    """When each failure was noted (ns since the epoch, by the clock of the disk), the latest first."""
    files = _file(run, "*").parent.glob(_file(run, "*").name)
    return sorted(((file.stat().st_mtime_ns, file) for file in files), reverse=True)


def note(run: str, stage: str, line: str) -> None:
    with suppress(OSError):  # of a full disk, where the file is there and empty; `_read` says so
        _file(run, stage).write_text(line, encoding="utf-8")


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") or f"{file.stem}: the disk is too full to write anything on it"


def is_noted(run: str, stage: str) -> bool:
    return _file(run, stage).is_file()


def forget(run: str, stage: str = "") -> None:
    """The stage went through; or all of the run did, with stages that failed before and are not part of it any more."""
    for file in [_file(run, stage)] if stage else [file for _, file in _by_age(run)]:
        file.unlink(missing_ok=True)


def lines(run: str, since: int = 0) -> list[str]:
    """One line per stage that failed in its last attempt, where that ended after `since` (ns), in the stages' order."""
    return [_read(file) for file in sorted(file for at, file in _by_age(run) if at > since)]


def latest(run: str) -> int:
    """When the latest failure of a stage was noted (ns); 0 without any."""
    return max((at for at, _ in _by_age(run)), default=0)


def explained(run: str, command: str, at_work: bool) -> list[str]:
    """For whoever asks how far a run is: what stopped it, when, and which command goes on; the latest first."""
    out = []
    for nanoseconds, file in _by_age(run):
        at = datetime.datetime.fromtimestamp(nanoseconds / 1e9, datetime.UTC)
        # A reason that says that the same command goes on has it named, not said twice.
        reason, goes_on = _GOES_ON.subn("", _read(file).rstrip("."))
        then = "this goes on" if goes_on else "once that is fixed, this goes on"
        then = "it is at work again now" if at_work else f"{then}: {command}"
        then = f" {then[0].upper()}{then[1:]}" if reason.endswith("?") else f"; {then}"
        out.append(f"stopped at {at:%Y-%m-%d %H:%M} UTC: {reason}{then}")
    return out
