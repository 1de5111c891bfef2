"""One frame with both sides: which columns and rows are whose, what a vote gives to each, and which rows are of one
prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from arena10k.errors import DataError, unknown
from arena10k.estimation.checked import check_columns, names
from arena10k.wording import listed, told_apart

#: A column in both forms of a frame, or one per side.
Named = str | Sequence[str]


def check_votes(frame: pd.DataFrame) -> None:
    """DataError for votes of an arena, where the sides are places and not models."""
    if {"model_a", "model_b"} <= set(frame) and (frame[["model_a", "model_b"]].nunique() > 1).any():
        read = "its votes are read from the file, `arena10k import FILE --logging-policy MODEL`"
        raise DataError(f"df: 'model_a' and 'model_b' are other models in other rows, as in an arena: {read}")


def voted(frame: pd.DataFrame, winner: str, old: str, new: str) -> tuple[pd.DataFrame, list[str]]:
    """The frame with what either side has of each vote, and the columns of that."""
    check_columns("df", frame, [winner, old, new], "; votes stand in rows that hold both answers")
    sides, votes = told_apart(old, new)[2], frame[winner].reset_index(drop=True)
    shares = {"tie": 0.5, old: 0.0, new: 1.0, sides[0]: 0.0, sides[1]: 1.0}
    strange = votes[votes.notna() & ~votes.isin(list(shares))]
    if len(strange):
        words = dict(zip(sorted(strange.unique(), key=str), (*sides, "tie"), strict=False))
        what = f"row {strange.index[0]}: {strange.iloc[0]!r} is none of {', '.join(map(repr, (*sides, 'tie')))}"
        how = f"df[{winner!r}].replace({words}), each word by what it stands for"
        raise DataError(f"df: column {winner!r}, {what}: replace it, such as {how}")
    share = votes.map(shares).to_numpy(dtype=np.float64)
    columns = [f"{winner}: {side}" for side in sides]
    return frame.assign(**dict(zip(columns, (1 - share, share), strict=True))), columns


def sides_of(
    frame: pd.DataFrame, pair: tuple[str, str], measures: dict[str, Named], policy: str
) -> list[tuple[str, Any, dict[str, Any]]]:
    """Of both sides its name, its rows, and by argument its column."""
    if not set(pair) & set(frame):
        if answers := _answers(frame, measures):
            check_columns("df", frame, pair, answers)
        if policy not in frame:
            hint = f"; of a long frame name the column that has {pair[0]!r} and {pair[1]!r}, policy=..."
            check_columns("df", frame, pair, hint)
        which, given = names("df", frame, policy), pd.DataFrame({"old and new": pair})
        pair = tuple(names("compare", given, "old and new"))
        if missing := [name for name in pair if name not in set(which)]:
            raise DataError(f"df: column {policy!r}: {unknown('policy', missing[0], which.unique())}")
        check_columns("df", frame, measures.values())
        return [(name, which == name, measures) for name in pair]
    check_columns("df", frame, pair, _answers(frame, measures))
    _, mark, sides = told_apart(*map(str, pair))
    made = []
    for k, (answer, side) in enumerate(zip(pair, sides, strict=True)):
        columns = {}
        for key, given in measures.items():
            pair_given = isinstance(given, list | tuple)
            if pair_given and len(given) != 2:
                raise DataError(f"{key}: {given!r} is no pair of columns, old and new")
            columns[key] = given[k] if pair_given else f"{given}{mark}{side}"
            check_columns("df", frame, [columns[key]], f"; or give a pair, {key}=(old, new)")
        made.append((side, frame[[answer, *columns.values()]].notna().any(axis=1), columns))
    return made


def _answers(frame: pd.DataFrame, measures: Mapping[str, Named]) -> str:
    """How to name the columns of answers, where those of the measures have two ends and one pair of others has them."""
    columns, bases = [*map(str, frame)], [str(name) for name in measures.values() if isinstance(name, str)]
    ends = [[c.removeprefix(base) for c in columns if c.startswith(base) and c != base] for base in bases]
    if not ends or len(ends[0]) != 2 or any(other != ends[0] for other in ends):
        return ""
    scored = {base + end for base in bases for end in ends[0]}
    found = [[c for c in map(str, _texts(frame)) if c.endswith(end) and c not in scored] for end in ends[0]]
    return f'; write old="{found[0][0]}", new="{found[1][0]}"' if [len(f) for f in found] == [1, 1] else ""


def _texts(frame: pd.DataFrame) -> list[Any]:
    """The columns of texts, or of lists of messages."""
    return [c for c in frame if pd.api.types.infer_dtype(frame[c]) in ("string", "mixed")]


def groups(
    frame: pd.DataFrame, pair: tuple[str, str], prompt: str | None, cluster: str | None, used: Iterable[Any]
) -> tuple[dict[str, Any], str]:
    """The prompt of each row, and its cluster where that is named; and what to tell of prompts that no column names."""
    check_columns("df", frame, [name for name in (prompt, cluster) if name is not None])
    same, note = {"cluster": names("df", frame, cluster)} if cluster else {}, ""
    by = prompt if prompt is not None else next((name for name in ("prompt_id", "prompt") if name in frame), None)
    if by is not None:
        return {"prompt_id": names("df", frame, by), **same}, note
    if pair[0] not in frame:
        check_columns("df", frame, ["prompt_id"], "; name the column that says which prompt a row is of, prompt=...")
    _, mark, sides = told_apart(*map(str, pair))
    ends = tuple(mark + side for side in sides)
    texts = _texts(frame)
    beside = [c for c in texts if c not in {*pair, cluster, *used} and not str(c).endswith(ends)]
    beside = [c for c in beside if (frame[c].astype(str) != str(frame[c].iloc[0])).any()]
    rows = pd.Series(np.arange(len(frame)).astype(str))
    if beside:
        there = frame[beside].notna().any(axis=1).to_numpy()
        first, *others = (frame[c].astype(str).reset_index(drop=True) for c in beside)
        rows = first.str.cat(others, sep="\n").where(there, rows) if others else first.where(there, rows)
        if n := len(rows) - rows.nunique():
            what = f"{n:,} of {len(rows):,} rows repeat the {listed(list(map(str, beside)))} of another"
            note = f"{what}: they count as one prompt with it; prompt=... names another column."
    elif set(pair) & set(texts) and (again := frame.astype(str).duplicated(keep=False)).any():
        what = f"{again.sum():,} of {len(frame):,} rows are equal to others, and no column says which prompt is whose"
        how = "name it, prompt=...; where each row is a prompt, df.assign(prompt_id=range(len(df)))"
        raise DataError(f"df: {what}: {how}")
    return {"prompt_id": rows.to_numpy(), **same}, note
