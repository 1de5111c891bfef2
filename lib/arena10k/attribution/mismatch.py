"""How far each policy is from the one that was logged: how long its answers are, how likely it finds the logged ones,
and which of them it would rather have said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from arena10k.estimation.data import numbers
from arena10k.wording import listed

if TYPE_CHECKING:
    from arena10k.frames.table import Table

#: A rank correlation of log-weights below this says nothing worth a sentence.
WEAK = 0.2
#: Fewest rows of a category that can be named as the one a policy prefers.
_FEW = 5


@dataclass(frozen=True, eq=False)
class Profile:
    """How one policy talks: `chars` lengths of its own responses (m,), `nats` its log-prob per `unit` (token, or
    character where tokens are not known) of the logged responses (n,), `log_weight` (n,); NaN where not known."""

    chars: np.ndarray
    nats: np.ndarray
    log_weight: np.ndarray
    unit: str


def profiles(table: Table) -> dict[str, Profile]:
    """The profile of every policy, the logging policy first."""
    logged, base = table.logged, table.logging_policy
    unit = "token" if (numbers(logged, "response_tokens") > 0).all() else "character"
    size = numbers(logged, "response_tokens" if unit == "token" else "response_chars")
    size = np.where(size > 0, size, np.nan)
    own = {base: logged} | {p: table.fresh[table.fresh.policy == p] for p in table.targets}
    logp = {p: numbers(logged, f"logp_{p}") for p in own}
    return {p: Profile(numbers(own[p], "response_chars"), logp[p] / size, logp[p] - logp[base], unit) for p in own}


def mismatch(table: Table, judge: str = "deterministic") -> pd.DataFrame:
    """One row per policy, the logging policy first.

    Columns: `chars` median length of its own responses; `length_distance` Kolmogorov-Smirnov distance of their lengths
    from the logged ones, in [0, 1]; `nats`, `unit` median of `Profile.nats`; `by_length`, `by_judge`, `by_surprise`
    rank correlations (Spearman) of its log-weight with the response's length, its judge score and how unlikely P0
    found it per unit: what the policy would rather say than P0; `category` the prompt category whose responses it
    prefers most, by median log-weight. NaN or None where not known.
    """
    profile, logged = profiles(table), table.logged
    base = profile[table.logging_policy]
    traits = {"by_length": base.chars, "by_judge": numbers(logged, f"judge_{judge}"), "by_surprise": -base.nats}
    rows = []
    for policy, own in profile.items():
        a, b = own.chars[np.isfinite(own.chars)], base.chars[np.isfinite(base.chars)]
        rows.append(
            {
                "policy": policy,
                "chars": pd.Series(own.chars).median(),
                "length_distance": stats.ks_2samp(a, b, method="asymp").statistic if len(a) and len(b) else np.nan,
                "nats": pd.Series(own.nats).median(),
                "unit": own.unit,
                **{name: _rank_correlation(own.log_weight, trait) for name, trait in traits.items()},
                "category": _category(logged, own.log_weight),
            }
        )
    return pd.DataFrame(rows)


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    both = np.isfinite(x) & np.isfinite(y)
    if both.sum() < 3 or np.ptp(x[both]) < 1e-9 or np.ptp(y[both]) == 0:
        return float("nan")
    return float(stats.spearmanr(x[both], y[both]).statistic)


def _category(logged: pd.DataFrame, log_weight: np.ndarray) -> str | None:
    known = np.isfinite(log_weight)
    if "category" not in logged or not known.any() or np.ptp(log_weight[known]) < 1e-9:
        return None
    by = pd.Series(log_weight[known]).groupby(logged.category.to_numpy()[known])
    middle = by.median()[by.size() >= _FEW]
    return str(middle.idxmax()) if len(middle) > 1 else None


def mismatch_sentence(frame: pd.DataFrame, bigger: Mapping[str, str] | None = None) -> str:
    """Whose response lengths are the least similar to the log, and what the bigger models upweight.

    `bigger` maps policies that are (or stand for) another model to a word for it.
    """
    lengths, likely = (frame.iloc[1:].dropna(subset=[column]) for column in ("length_distance", "nats"))
    parts = ["No target has responses of its own to compare lengths with."]
    if len(lengths):
        worst, base = lengths.loc[lengths.length_distance.idxmax()], frame.iloc[0]
        parts = [
            f"{worst.policy} has the least similar response lengths: {worst.chars:,.0f} characters (median) against "
            f"{base.chars:,.0f}, a Kolmogorov-Smirnov distance of {worst.length_distance:.2f} (0 alike, 1 apart)."
        ]
    if len(likely):
        least = likely.loc[likely.nats.idxmin()]
        parts.append(f"{least.policy} finds the logged responses least likely, {least.nats:.2f} nats per {least.unit}.")
    for policy, word in (bigger or {}).items():
        row = frame[frame.policy == policy].iloc[0]
        traits = [
            (row.by_length, "longer responses", "shorter responses"),
            (row.by_judge, "responses the judge likes", "responses the judge dislikes"),
            (row.by_surprise, "responses P0 found unlikely", "responses P0 found likely"),
        ]
        clear = sorted((trait for trait in traits if abs(trait[0]) >= WEAK), key=lambda trait: -abs(trait[0]))
        prefers = [up if r > 0 else down for r, up, down in clear]
        prefers += [f"prompts of category {row.category!r}"] * pd.notna(row.category)
        parts.append(f"{policy} ({word}) upweights {listed(prefers) or 'no kind of logged responses clearly'}.")
    return " ".join(parts)
