"""Errors that end in one clear line for the user, and the typed outcomes of a request."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")
#: An error lists the names there are up to this many; of more it gives the first.
MOST_LISTED = 20


class ArenaError(Exception):
    """Something the user can fix; the message names what, where and how. Shown without a traceback."""

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class NothingToShow(ArenaError):
    """The data have no answer to the question of a page: the page says so, and that is no failure."""


class ParamsError(ArenaError):
    """A params file that does not fit the schema."""


class DataError(ArenaError):
    """A value of the user's own frames that cannot be used."""


class CallError(Exception):
    """A request that gave no measurement.

    `kind` decides what happens next: ``fatal`` stops the run, ``retry`` is tried again with back-off,
    ``permanent`` and ``invalid`` become error rows. `code` is the machine-readable reason that is stored.
    """

    KINDS = ("fatal", "retry", "permanent", "invalid")

    def __init__(self, kind: str, code: str, detail: str, retry_after: float | None = None):
        if kind not in self.KINDS:
            raise ValueError(f"unknown error kind {kind!r}")
        super().__init__(f"{code}: {detail}")
        self.kind, self.code, self.detail, self.retry_after = kind, code, detail, retry_after


class Stopped(Exception):
    """A request that was not sent, because the collection is stopping. Nothing is stored for it."""


class FatalCallError(ArenaError):
    """A request failed in a way that every further request would share (key, quota, model, our own bug)."""


def invalid(code: str, detail: str) -> CallError:
    """A 200 answer whose content cannot be used as a measurement."""
    return CallError("invalid", code, detail)


def section(value: T | None, name: str) -> T:
    """What the params may leave out, where nothing can be done without it. Raises ArenaError."""
    if value is None:
        raise ArenaError(f"the params have no `{name}`")
    return value


def one_line(message: object) -> str:
    return " ".join(str(message).split())


def meant(name: object, names: Iterable[str]) -> str:
    """``; did you mean 'category'?`` for the one of `names` that `name` is close to; empty where none is."""
    by_folded = {n.casefold(): n for n in names}
    close = difflib.get_close_matches(str(name)[:80].casefold(), by_folded, n=1)
    return f"; did you mean {by_folded[close[0]]!r}?" if close else ""


def unknown(what: str, name: object, names: Iterable[str], most: int = 80) -> ArenaError:
    """The error for a name (of which `most` characters are shown) that is not among `names`: says which there are, and
    which one may have been meant.

    >>> print(unknown("policy", "pi_bda", ["p0", "pi_bad"]))
    no policy 'pi_bda': there is p0, pi_bad; did you mean 'pi_bad'?
    """
    every = list(names)
    listed = every if len(every) <= MOST_LISTED else [*every[:3], f"... ({len(every):,} in all)"]
    return ArenaError(f"no {what} {str(name)[:most]!r}: there is {', '.join(listed) or 'none'}{meant(name, every)}")
