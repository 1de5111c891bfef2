"""Prompts: which of a source's are asked, and the one file of a run that fixes which they are and in what order."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Any

import pandas as pd

from arena10k import paths
from arena10k.errors import ArenaError, one_line
from arena10k.inputs import sources
from arena10k.inputs.policies import unit_hash
from arena10k.inputs.sources import COLUMNS
from arena10k.params.config import Params

#: The filters in the order in which they are applied, each to what those before it left, and how a reader is told.
FILTERS = {
    "conversations_differ": "with two different first prompts",
    "no_language": "without a language",
    "other_language": "in another language",
    "empty": "empty",
    "exact_duplicate": "exact duplicates",
    "normalised_duplicate": "duplicates but for case, spaces or character forms",
    "too_short": "too short",
    "too_long": "too long",
    "not_sampled": "not sampled",
}


def load(params: Params) -> tuple[pd.DataFrame, dict[str, int]]:
    """The experiment's prompts in the order fixed by its seed, and how many each filter removed: a frame with columns
    `COLUMNS` (text; missing where the source has none; `check` is JSON), and the counts ``read``, one per filter,
    ``kept``. The filters of `FILTERS`, in their order:

    1. ``conversations_differ``: an arena row whose conversations begin with different prompts has no one prompt that
       was asked. The file is not at fault and its user cannot fix it, so the row is counted instead of refused.
    2. ``no_language``, ``other_language``: only where `prompts.language` is set, compared as it is written.
    3. ``empty``: nothing but white space.
    4. ``exact_duplicate``, then ``normalised_duplicate`` (equal after NFKC, case folding and collapsing of white
       space): the first in the file stays.
    5. ``too_short``, ``too_long``: characters (code points) of the prompt as it is, against `min_chars`, `max_chars`.
    6. ``not_sampled``: beyond the first `max_prompts` of the order.

    The order is that of a hash of seed and `prompt_id`: it depends neither on the file's order nor on other prompts.
    The prompts of an imported run were fixed by the import: none is left out. Raises ArenaError for sources that cannot
    be used (see `sources.read`), and where no prompt is left.
    """
    if params.imported:
        frame = read(params.run)
        return frame, dict.fromkeys(FILTERS, 0) | {"read": len(frame), "kept": len(frame)}
    wanted = params.prompts
    frame = pd.DataFrame(sources.read(wanted)).astype({column: "string" for column in COLUMNS})
    counts, languages = {"read": len(frame)}, Counter(frame.language.dropna())
    steps: dict[str, Callable[[pd.DataFrame], Any]] = {
        "conversations_differ": lambda left: left.differs,
        "no_language": lambda left: bool(wanted.language) & left.language.fillna("").map(str.strip).eq(""),
        "other_language": lambda left: bool(wanted.language) & left.language.ne(wanted.language),
        "empty": lambda left: left.prompt.map(str.strip).eq(""),
        "exact_duplicate": lambda left: left.prompt.duplicated(),
        "normalised_duplicate": lambda left: left.prompt.map(normalised).duplicated(),
        "too_short": lambda left: left.prompt.str.len() < (wanted.min_chars or 0),
        "too_long": lambda left: left.prompt.str.len() > (wanted.max_chars or math.inf),
    }
    for name, leaves_out in steps.items():
        out = leaves_out(frame).to_numpy(dtype=bool)
        counts[name], frame = int(out.sum()), frame[~out]
    order = frame.prompt_id.map(lambda prompt_id: unit_hash(params.seed, "order", prompt_id)).sort_values(kind="stable")
    frame = frame.loc[order.index[: wanted.max_prompts], list(COLUMNS)].reset_index(drop=True)
    counts |= {"not_sampled": len(order) - len(frame), "kept": len(frame)}
    if frame.empty:
        common = ", ".join(f"{language!r:.40} ({n:,})" for language, n in languages.most_common(5))
        hint = f" Most common languages: {common}." if counts["other_language"] else ""
        raise ArenaError(f"no prompt is left after the filters: {sentence(counts)}{hint}")
    return frame, counts


def normalised(prompt: str) -> str:
    """The prompt but for case, spaces and character forms (NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


def write(params: Params, frame: pd.DataFrame) -> None:
    """Fix the run's prompts. A run that has others already is refused: its records belong to those."""
    path = paths.prompts_file(params.run)
    if path.is_file():
        if read(params.run).equals(frame):
            return
        raise ArenaError(
            f"run {params.run!r} already has other prompts: use another run name, or remove data/{params.run}"
        )
    if params.recording:
        raise ArenaError(f"run {params.run!r} is a recording without prompts.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    frame.to_parquet(temporary, index=False)
    temporary.replace(path)


def read(run: str) -> pd.DataFrame:
    """The run's prompts, in order. Raises ArenaError where stage 01 has not run, and for a file that is damaged."""
    path = paths.prompts_file(run)
    if not path.is_file():
        raise none_there(run)
    import pyarrow as pa

    try:
        return pd.read_parquet(path)
    except (pa.ArrowException, OSError) as error:
        why = f"cannot be read as Parquet ({one_line(error):.80})"
        raise ArenaError(f"{paths.shown(path)}: {why}: {_again(run)}") from error


def none_there(run: str) -> ArenaError:
    """The error for a run without prompts: one that has not begun, or whose file was removed."""
    path = paths.prompts_file(run)
    if any(file.is_file() for file in (paths.store_file(run), paths.records_file(run))):
        return ArenaError(f"{paths.shown(path)}: is not there, though records of the run are: {_again(run)}")
    made = ", ".join(name for name in paths.made_runs() if name != run) or "none"
    return ArenaError(
        f"run {run!r} has not started, it has no prompts yet: `make report` with its params makes it; there is {made}"
    )


def _again(run: str) -> str:
    """What to do where the prompts of a run are lost."""
    if run in paths.RESERVED:
        return f"restore it with `git checkout -- data/{run}`"
    if paths.import_file(run).is_file():
        return f"restore it from a copy, or remove data/{run} and import it again"
    return (
        "restore it from a copy, or leave no such file there: `make report` with the params and prompts of before then "
        "writes it again, and keeps what was measured"
    )


def steps(counts: dict[str, int]) -> pd.DataFrame:
    """One row per filter, in order: ``filter`` (words), ``left_out`` and ``left`` (prompts)."""
    removed = pd.Series({words: counts[name] for name, words in FILTERS.items()})
    left = counts["read"] - removed.cumsum()
    return pd.DataFrame({"filter": removed.index, "left_out": removed.to_numpy(), "left": left.to_numpy()})


def sentence(counts: dict[str, int]) -> str:
    """What the filters left, in words."""
    why = ", ".join(f"{counts[name]:,} {words}" for name, words in FILTERS.items() if counts[name]) or "none"
    return f"{counts['kept']:,} of {counts['read']:,} prompts are kept; left out: {why}."
