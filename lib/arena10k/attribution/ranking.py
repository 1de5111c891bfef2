"""The ranking by SNIPS on judge scores, in tables and sentences: how stable it is, where it is upside down, what is
missing."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd

from arena10k.attribution.companions import rank
from arena10k.attribution.game import CAUSES
from arena10k.attribution.investigation import Investigation
from arena10k.wording import JUDGE_SNIPS, listed, percent, rounded


def rank_frame(inv: Investigation) -> pd.DataFrame:
    """Per policy, best first by published number: `policy`, `rank`, `published`, `rank_first` (probability under the
    bootstrap), `trusted_rank`, `trusted` (NaN or None without a trusted value)."""
    known = {p: f.trusted["value"] for p, f in inv.findings.items() if f.trusted is not None}
    rows = [
        {
            "policy": p,
            "rank": f.rank if np.isfinite(f.published.value) else None,
            "published": f.published.value,
            "rank_first": f.rank_first,
            "trusted_rank": rank(known[p], known.values()) if p in known else None,
            "trusted": known.get(p, float("nan")),
        }
        for p, f in inv.findings.items()
    ]
    return pd.DataFrame(rows).sort_values("published", ascending=False, kind="stable", ignore_index=True)


def flip_sentence(inv: Investigation) -> str:
    """How few logged rows decide who is first."""
    flip = inv.flip
    if flip is None:
        return f"No small set of logged rows decides which policy {JUDGE_SNIPS} ranks first."
    n = len(next(iter(inv.findings.values())).game.prep.logged)
    size = len(flip.rows)
    best = "" if flip.exact else "; no single row does, fewer than these might"
    dropping = f"Dropping {'one' if size == 1 else size} of {n:,} judged rows"
    return f"{dropping} puts {flip.rival} above {flip.winner} by {JUDGE_SNIPS}{best}."


def inversions_frame(inv: Investigation) -> pd.DataFrame:
    """Pairs of policies whose order by SNIPS on judge scores is the reverse of their trusted order, beyond chance."""
    columns = ["above", "below", "published_difference", "trusted_difference", "radius"]
    rows = pd.DataFrame([asdict(i) for i in inv.detection.inversions], columns=columns)
    return rows.sort_values("trusted_difference", ascending=False, kind="stable", ignore_index=True)


def inversions_sentence(inv: Investigation) -> str:
    """How many pairs of policies are in the wrong order."""
    known = [f for f in inv.findings.values() if f.trusted is not None and np.isfinite(f.published.value)]
    pairs, found = len(known) * (len(known) - 1) // 2, inv.detection.inversions
    if not pairs:
        return f"No two policies have both {JUDGE_SNIPS} and a trusted value, so no order can be checked."
    if not found:
        told = f"None of the {pairs} pairs of policies is in the wrong order beyond chance"
        wrong = listed([f.policy for f in inv.anomalies])
        return f"{told}; the number of {wrong} is wrong all the same." if wrong else f"{told}."
    above = listed(list(dict.fromkeys(i.above for i in found)))
    wrong = f"{len(found)} of the {pairs} pairs of policies are in the wrong order beyond chance"
    return f"{wrong}, with {above} on top."


def mass_frame(inv: Investigation) -> pd.DataFrame:
    """Per target whose mass the log misses: `covered` = c = min(1, E[w]), `on` (its value on the logged mass), `off`
    (what the missing mass must be worth for the trusted value to hold), and the bounds `low`, `high` that need no draw
    of its own."""
    rows = [
        {"policy": p, "covered": f.mass.covered, "on": f.mass.on, "off": f.mass.off}
        | {"low": f.mass.low, "high": f.mass.high, "trusted": f.trusted["value"] if f.trusted else float("nan")}
        for p, f in inv.findings.items()
        if p != inv.logging_policy and np.isfinite(f.mass.on) and f.mass.covered < 1
    ]
    return pd.DataFrame(rows, columns=["policy", "covered", "on", "off", "low", "high", "trusted"])


def mass_sentence(inv: Investigation) -> str:
    """What the missing mass of the focus must be worth, and the part of the gap that it is given."""
    f = inv.focus
    if not np.isfinite(f.mass.on):
        return f"{f.policy} has no usable log-weight, so nothing is known of its mass."
    if f.game.mismatch:
        return f"The weights of {f.policy} do not match its draws, so they say nothing of its missing mass."
    if f.mass.covered >= 1:
        return (
            f"The weights of {f.policy} average at least 1: no mass is missing, and none of its gap is put down to it."
        )
    low, high = rounded(f.mass.low), rounded(f.mass.high)
    start = (
        f"The log holds {percent(f.mass.covered)} of what {f.policy} says, worth {rounded(f.mass.on)} on the oracle's "
        f"scale; the rest is worth something between 0 and 1, so by the weights its value lies between {low} and "
        f"{high}."
    )
    if f.trusted is None:
        return start
    worth = (
        f"For the trusted {rounded(f.trusted['value'])} the unseen responses would be worth {rounded(f.mass.off)}"
        + ("" if 0 <= f.mass.off <= 1 else ", which nothing is: missing mass alone does not explain the gap")
    )
    part = rounded(f.parts[CAUSES.index("off_support")])
    return f"{start} {worth}. Of the gap of {rounded(f.gap)}, {part} is put down to them."
