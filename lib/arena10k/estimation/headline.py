"""The one rule for the estimate that speaks for a policy: of the accepted ones within the wanted belief, a REPORT
before a CAUTION, then the narrowest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from arena10k.analysis import Analysis
from arena10k.estimation import ESTIMATORS
from arena10k.estimation.context import PolicyContext
from arena10k.estimation.prepare import shared
from arena10k.estimation.verdicts import BY_DEFINITION, REPORT, accepted, estimate_row, width_of

#: What an estimate takes to be believed, least first.
BELIEFS = ("labels", "weights", "judge")


def belief_of(row: Mapping[str, Any]) -> str:
    """The belief behind a row of estimates.json; the most where its estimator is not registered here."""
    if row["verdict"] == BY_DEFINITION:
        return BELIEFS[0]
    estimator = ESTIMATORS.get(row["estimator"])
    return estimator.belief if estimator else BELIEFS[-1]


def headline_row(
    rows: Iterable[Mapping[str, Any]], belief: str = Analysis.belief, is_logging: bool = False
) -> dict[str, Any] | None:
    """The row that speaks for a policy, of its rows in one judge; None where none is accepted.

    Of the accepted ones up to `belief` (labels alone, or also weights, or also the judge): one to REPORT before one
    with CAUTION, then the narrowest interval, so that more labels never widen it. Of those that share an interval the
    value nearest to its middle. What rests on the judge beyond `belief` speaks only where nothing else does, or nothing
    but a wider interval of few labels. The logging policy (`is_logging`) needs no weights: its log is labelled.
    """
    usable = [row for row in rows if accepted(row)]
    trusted = [row for row in usable if BELIEFS.index(belief_of(row)) <= BELIEFS.index(belief)]
    if belief == "labels":
        usable = trusted
    if is_logging:
        trusted = [row for row in trusted if belief_of(row) == "labels"] or trusted
    elif all(row["verdict"] != REPORT and belief_of(row) == "labels" for row in trusted):
        trusted = usable

    def place(row: Mapping[str, Any]) -> tuple[bool, float, bool, float]:
        estimator, width = ESTIMATORS.get(row["estimator"]), width_of(row)
        off = abs(row["value"] - (row["ci_low"] + row["ci_high"]) / 2) if np.isfinite(width) else 0.0
        return row["verdict"] != REPORT, round(width, 9), bool(estimator and estimator.biased), off

    best = min(trusted or usable, key=place, default=None)
    return None if best is None else dict(best)


def known_row(value: float) -> dict[str, Any]:
    """The row of estimates.json, without policy and judge, of a value that is known: it has no interval."""
    row: dict[str, Any] = {"estimator": "definition", "value": value, "verdict": BY_DEFINITION, "reasons": []}
    lacks = ("se", "ci_low", "ci_high", "mean_weight", "ess", "khat", "labels_needed")
    return row | dict.fromkeys(lacks) | {"n_used": 0}


@shared
def headline(ctx: PolicyContext) -> dict[str, Any] | None:
    """The same from a policy's context, as a row of estimates.json."""
    if ctx.data.known is not None:
        return known_row(ctx.data.known)
    rows = [estimate_row(ctx, e, plan=False) for e in ESTIMATORS.values() if not e.judge_scale]
    return headline_row(rows, ctx.analysis.belief, ctx.prep.is_logging)
