"""What changed between two sets of estimates of one run: values, intervals, verdicts, ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from arena10k.estimation.verdicts import NOT_ASKED

_KEY = ["policy", "estimator", "judge"]
_NUMBERS = ["value", "ci_low", "ci_high"]

Rows = Sequence[Mapping[str, Any]]


def estimates(before: Rows, after: Rows) -> pd.DataFrame:
    """Rows of `estimates.json` then and now, one row per policy, estimator and judge mode that is in either, where what
    was not collected is not.

    Columns ``policy``, ``estimator``, ``judge``; ``value``, ``ci_low``, ``ci_high`` and ``verdict`` each with
    ``_before`` and ``_after`` (missing where there was none); ``change`` of the value; ``differs``: value, interval or
    verdict is another; ``verdict_changed``; ``outside``: the value has left the interval of before (where it
    lay in it).
    """
    collected = ([row for row in rows if row["verdict"] != NOT_ASKED] for rows in (before, after))
    then, now = (pd.DataFrame(rows, columns=[*_KEY, *_NUMBERS, "verdict"]) for rows in collected)
    order = pd.concat([now, then])[_KEY].drop_duplicates()
    suffixed = [part.astype(dict.fromkeys(_NUMBERS, float)).set_index(_KEY) for part in (then, now)]
    sides = [part.add_suffix(f"_{side}") for part, side in zip(suffixed, ("before", "after"), strict=True)]
    both = order.set_index(_KEY).join(sides).reset_index()
    both["change"] = both.value_after - both.value_before
    both["verdict_changed"] = both.verdict_before.fillna("") != both.verdict_after.fillna("")
    old, new = (both[[f"{name}_{side}" for name in _NUMBERS]].to_numpy() for side in ("before", "after"))
    both["differs"] = both.verdict_changed | ~np.isclose(old, new, rtol=0, atol=0, equal_nan=True).all(axis=1)
    left = [(both[v] < both.ci_low_before) | (both[v] > both.ci_high_before) for v in ("value_after", "value_before")]
    both["outside"] = left[0] & ~left[1]
    return both


def ranks(before: Rows, after: Rows) -> pd.DataFrame:
    """Rankings of `estimates.json` then and now: ``policy``, ``rank_before``, ``rank_after``; missing: unranked."""
    then, now = (pd.DataFrame(list(rows), columns=["policy", "rank"]) for rows in (before, after))
    both = then.merge(now, on="policy", how="outer", suffixes=("_before", "_after"))
    return both.astype({"rank_before": "Int64", "rank_after": "Int64"})


def sentence(both: pd.DataFrame) -> str:
    """How many estimates are others than before, which verdicts changed, and the largest change of a value."""
    differing = int(both.differs.sum())
    if not differing:
        return f"None of the {len(both):,} estimates changed."
    text = f"{differing:,} of {len(both):,} estimates changed"
    if both.change.abs().max() > 0:
        most = both.loc[both.change.abs().idxmax()]
        text += (
            f"; the largest change of a value is {most.change:+.4f} ({most.estimator} for {most.policy}, {most.judge})"
        )
    return f"{text}; {verdicts_sentence(both)}."


def verdicts_sentence(both: pd.DataFrame) -> str:
    """Which verdicts changed and how, in one clause."""
    changed = both[both.verdict_changed]
    if changed.empty:
        return "no verdict changed"
    kinds = (changed.verdict_before.fillna("none") + " to " + changed.verdict_after.fillna("none")).value_counts()
    ways = ", ".join(f"{n} from {kind}" for kind, n in kinds.items())
    verb = "verdict" if len(changed) == 1 else "verdicts"
    return f"{len(changed):,} {verb} changed ({ways}; {', '.join(dict.fromkeys(changed.policy))})"
