"""Prompts chosen by what they are, and the analysis table of those alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import pandas as pd

from arena10k.errors import ArenaError, meant, one_line, unknown
from arena10k.frames.table import Table

#: A query on the prompts (`"category == 'sum' and prompt_chars < 40"`), or a function of their frame; either gives a
#: boolean per prompt, which may be given too. Rows of `run.prompts` and prompt ids choose those prompts.
Where: TypeAlias = str | pd.Series | pd.DataFrame | list[Any] | Callable[[pd.DataFrame], Any] | None

#: What pandas raises for a text that is no query.
_NO_QUERY = (NameError, SyntaxError, TypeError, ValueError, KeyError, AttributeError, NotImplementedError)
#: A single = outside of ==, <=, >= and !=.
_ASSIGNS = re.compile(r"(?<![=<>!])=(?!=)")
#: What a query may ask for beside the columns of the prompts.
CHARS = "prompt_chars"


@dataclass(frozen=True, eq=False)
class Slice:
    """The analysis table of some prompts: `n` of the run's `of`; `words` say which, empty where it is all."""

    table: Table
    n: int
    of: int
    words: str = ""

    @property
    def sentences(self) -> list[str]:
        """What a reader of numbers of a part has to know."""
        if not self.words:
            return []
        return [
            f"On {self.n:,} of the {self.of:,} prompts alone ({self.words}). Intervals hold for a part that was chosen "
            "before looking: of many parts looked at, some miss by chance."
        ]


def choose(prompts: pd.DataFrame, where: Where) -> tuple[pd.DataFrame, str]:
    """The prompts that `where` chooses, in their order, and words for the choice.

    Responses are no part of it: what a policy happened to say decides its log-probs and scores, and among rows chosen
    by it the mean weight of a right log is not 1.

    Raises
    ------
    ArenaError
        For a query that cannot be answered, a mask of another length, a prompt that is not there, and where no prompt
        is chosen.
    """
    frame = prompts.assign(**{CHARS: prompts.prompt.str.len().astype("Int64")})
    if isinstance(where, str):
        chosen, words = _queried(frame, where), where
    else:
        chosen, words = _marked(frame, where(frame) if callable(where) else where), "chosen by hand"
    if not chosen.any():
        raise ArenaError(f"no prompt is chosen by {where if isinstance(where, str) else 'that filter'!r}")
    return prompts[chosen.to_numpy()], words


def _queried(frame: pd.DataFrame, query: str) -> pd.Series:
    try:
        answer = frame.eval(query, engine="python")
    except _NO_QUERY as error:
        strange = getattr(error, "name", None) or (re.findall(r"name '(\w+)' is not defined", str(error)) or [""])[0]
        columns = ", ".join(column for column in frame.columns if column != CHARS)
        close = meant(strange, frame.columns) if strange else ""
        raise ArenaError(
            f"where={query!r}: {one_line(error)}{close}; a filter asks about "
            f"prompts, by the columns of `run.prompts` ({columns}) and {CHARS}, their length, such as "
            f"\"category == 'x' and {CHARS} < 40\""
        ) from error
    if not isinstance(answer, pd.Series) or not pd.api.types.is_bool_dtype(answer):
        hint = "to compare, write == in place of =" if _ASSIGNS.search(query) else f'such as "{CHARS} < 40" is'
        raise ArenaError(f"where={query!r} is no question with yes or no for every prompt: {hint}")
    return answer.fillna(False)


def _marked(frame: pd.DataFrame, marks: Any) -> pd.Series:
    """Prompts by a boolean for each, aligned by index where it has one, or by their ids."""
    marks = marks["prompt_id"] if isinstance(marks, pd.DataFrame) else marks
    values = marks if isinstance(marks, pd.Series) else pd.Series(list(marks), dtype=None if len(marks) else "object")
    if not pd.api.types.is_bool_dtype(values):
        ids = values.astype(str)
        strange = ids[~ids.isin(frame.prompt_id)]
        if len(strange):
            raise unknown("prompt", strange.iloc[0], frame.prompt_id)
        return frame.prompt_id.isin(ids)
    if isinstance(marks, pd.Series):
        values = values.reindex(frame.index)
    if len(values) != len(frame) or values.isna().any():
        raise ArenaError(f"where: {len(marks):,} booleans for {len(frame):,} prompts; `run.prompts` has their order")
    return pd.Series(values.to_numpy(bool), frame.index)


def some(what: str, given: str | Iterable[str] | None, known: Iterable[str]) -> list[str] | None:
    """The given names as a list, None for all. Raises ArenaError for one that is not known."""
    if given is None:
        return None
    names, there = [given] if isinstance(given, str) else list(given), list(known)
    if strange := [name for name in names if name not in there]:
        raise unknown(what, strange[0], there)
    if not names:
        raise ArenaError(f"no {what} is named: there is {', '.join(there)}")
    return names
