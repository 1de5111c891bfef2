"""The noise of log-probs, from what ought to be equal: a response scored again, and copies of the logging policy."""

from __future__ import annotations

import numpy as np
import pandas as pd

from arena10k.estimation.thresholds import NOISE
from arena10k.frames.table import Table
from arena10k.inputs.policies import policies
from arena10k.params.config import Params
from arena10k.wording import factor, number


def self_consistency(table: Table) -> pd.Series:
    """Teacher-forced minus generation log-prob of P0's responses (nats per sequence), rows with both."""
    return (table.logged.generation_forced - table.logged.generation_logp).dropna()


def self_consistency_sentence(difference: pd.Series) -> str:
    """Whether the logging policy's teacher-forced log-probs repeat its generation log-probs."""
    if difference.empty:
        return "Nothing to compare: the endpoint gave no generation log-probs, or none is scored yet."
    size = difference.abs()
    return (
        f"Differences on {len(size):,} responses, in nats per sequence: largest {number(size.max())}, median "
        f"{number(size.median())}, signed mean {number(difference.mean())}; "
        f"{(size > NOISE).mean():.1%} differ by over {NOISE:g}."
    )


def clones(params: Params) -> list[str]:
    """Targets whose definition equals the logging policy's, or is declared to where definitions are not known: their
    log-weights measure the noise floor."""
    defined = policies(params)
    base = defined[params.logging_policy].fingerprint
    declared = params.imported.clones if params.imported else ()
    return [t for t in params.targets if t in declared or defined[t].fingerprint == base]


def clone_control(params: Params, table: Table) -> pd.DataFrame:
    """Noise per copy of the logging policy: rows, rows with log-weight exactly 0, largest |log-weight|, range of the
    weights."""
    rows = []
    for name in clones(params):
        log_weight = pd.Series(table.log_weights()[name]).dropna()
        weight, measured = np.exp(log_weight), len(log_weight) > 0
        rows.append(
            {"copy": name, "rows": len(log_weight), "exactly 0": int((log_weight == 0).sum())}
            | {"max |log-weight|": log_weight.abs().max() if measured else None}
            | {"lowest weight": weight.min() if measured else None}
            | {"highest weight": weight.max() if measured else None}
        )
    columns = ["copy", "rows", "exactly 0", "max |log-weight|", "lowest weight", "highest weight"]
    return pd.DataFrame(rows, columns=columns)


def clone_sentence(control: pd.DataFrame, logging_policy: str) -> str:
    """What the copies of the logging policy (`clone_control`) say about the noise in every weight."""
    measured = control[control.rows > 0]
    if measured.empty:
        return (
            f"No target is meant as a copy of {logging_policy}, or none of its log-probs is there: the noise of "
            "the log-probs is not measured."
        )
    worst = measured.loc[measured["max |log-weight|"].idxmax()]
    noise, copy = worst["max |log-weight|"], f"{worst['copy']}, a copy of {logging_policy},"
    if not noise:
        return f"All {worst['rows']:,} weights of {copy} are exactly 1, as they must be."
    low, high = number(worst["lowest weight"]), number(worst["highest weight"])
    between = "" if low == high == "1" else f" They lie between {low} and {high}."
    return f"The weights of {copy} must be 1.{between} Noise of the log-probs moves a weight by up to {factor(noise)}."
