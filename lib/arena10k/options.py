"""What the user told the command that started this process; notebooks run in processes of their own."""

from __future__ import annotations

import os

from arena10k.errors import ArenaError

#: Options of `arena10k report` and the environment variables that carry them to the stages.
VARIABLES = {"yes": "ARENA10K_YES", "retry_errors": "ARENA10K_RETRY_ERRORS"}


def is_on(option: str) -> bool:
    """Whether an option of `VARIABLES` is on."""
    return os.environ.get(VARIABLES[option], "") not in ("", "0")


def secret(where: str, variable: str) -> str:
    """What an environment variable holds. Raises ArenaError where it is not set: it names the variable, never a
    value."""
    value = os.environ.get(variable, "").strip()
    if not value:
        raise ArenaError(f"{where}: environment variable {variable} is not set")
    return value


def environment(**options: bool) -> dict[str, str]:
    """This process's environment with the given options switched on or off."""
    return {**os.environ} | {VARIABLES[name]: "1" if on else "" for name, on in options.items()}
