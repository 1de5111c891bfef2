"""What changed between two sets of estimates of one run: values, intervals, verdicts, ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from arena10k.estimation.verdicts import NOT_ASKED

_KEY = ["policy", "estimator", "judge"]
_KEPT = ["value", "ci_low", "ci_high", "verdict"]

Rows = Sequence[Mapping[str, Any]]


def estimates(before: Rows, after: Rows) -> pd.DataFrame:
    """Rows of `estimates.json` then and now, one row per policy, estimator and judge mode that is in either, where what
    was not collected is not.

    Columns ``policy``, ``estimator``, ``judge``; ``value``, ``ci_low``, ``ci_high`` and ``verdict`` each with
    ``_before`` and ``_after`` (missing where there was none); ``change`` of the value; ``differs``: value, interval or
    verdict is another; ``verdict_changed``; ``outside``: the value has left the interval of before (where it
    lay in it).
    """
    asked = ([row for row in rows if row["verdict"] != NOT_ASKED] for rows in (before, after))
    then, now = (pd.DataFrame(rows, columns=_KEY + _KEPT) for rows in asked)
    order = {key: i for i, key in enumerate(dict.fromkeys(map(tuple, pd.concat([now, then])[_KEY].to_numpy())))}
    both = then.merge(now, on=_KEY, how="outer", suffixes=("_before", "_after"))
    both = both.sort_values(_KEY, key=lambda _: [order[tuple(row)] for row in both[_KEY].to_numpy()], kind="stable")
    numbers = [f"{name}_{side}" for name in _KEPT[:3] for side in ("before", "after")]
    both = both.astype(dict.fromkeys(numbers, float)).reset_index(drop=True)
    both["change"] = both.value_after - both.value_before
    both["verdict_changed"] = both.verdict_before.fillna("") != both.verdict_after.fillna("")
    same = [both[f"{n}_before"].eq(both[f"{n}_after"]) | both[[f"{n}_before", f"{n}_after"]].isna().all(axis=1)
            for n in _KEPT[:3]]  # fmt: skip
    both["differs"] = both.verdict_changed | ~(same[0] & same[1] & same[2])
    out = [(both[v] < both.ci_low_before) | (both[v] > both.ci_high_before) for v in ("value_after", "value_before")]
    both["outside"] = out[0] & ~out[1]
    return both


def ranks(before: Rows, after: Rows) -> pd.DataFrame:
    """Rankings of `estimates.json` then and now: ``policy``, ``rank_before``, ``rank_after``; missing: unranked."""
    then, now = (pd.DataFrame(list(rows), columns=["policy", "rank"]) for rows in (before, after))
    both = then.merge(now, on="policy", how="outer", suffixes=("_before", "_after"))
    both = both.astype({"rank_before": "Int64", "rank_after": "Int64"})
    return both.sort_values(["rank_after", "rank_before", "policy"]).reset_index(drop=True)


def sentence(both: pd.DataFrame) -> str:
    """How many estimates are others than before, which verdicts changed, and the largest change of a value."""
    differing = both[both.differs]
    if differing.empty:
        return f"None of the {len(both):,} estimates changed."
    told = f"{len(differing):,} of {len(both):,} estimates changed"
    known = both.dropna(subset=["change"])
    if len(known) and known.change.abs().max() > 0:
        most = known.loc[known.change.abs().idxmax()]
        told += (
            f"; the largest change of a value is {most.change:+.4f} ({most.estimator} for {most.policy}, {most.judge})"
        )
    return f"{told}; {verdicts_sentence(both)}."


def verdicts_sentence(both: pd.DataFrame) -> str:
    """Which verdicts changed and how, in one clause."""
    changed = both[both.verdict_changed]
    if changed.empty:
        return "no verdict changed"
    kinds = (changed.verdict_before.fillna("none") + " to " + changed.verdict_after.fillna("none")).value_counts()
    ways = ", ".join(f"{n} from {kind}" for kind, n in kinds.items())
    policies = ", ".join(dict.fromkeys(changed.policy))
    verb = "verdict" if len(changed) == 1 else "verdicts"
    return f"{len(changed):,} {verb} changed ({ways}; {policies})"
