"""The findings as anomaly.json, and as tables: policies, parts of a gap, ranks, inversions, missing mass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from arena10k.attribution.detection import FALSE_ALARM_RATE, TOLERANCE
from arena10k.attribution.game import CAUSE_WORDS, CAUSES
from arena10k.attribution.investigation import Finding, Investigation
from arena10k.attribution.weights import rank
from arena10k.attribution.words import lead, sentence


def _number(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None


def anomaly_row(f: Finding, inv: Investigation) -> dict[str, Any]:
    """The row of one policy in anomaly.json; numbers are numbers or None. `published` is SNIPS on judge scores;
    `calibrated` and `verdict` are those of SNIPS (calibrated)."""
    row = f.trusted
    parts = zip(CAUSES, f.parts, f.part_low, f.part_high, strict=True)
    return {
        "policy": f.policy,
        "published": _number(f.published.value),
        "trusted": row["value"] if row else None,
        "trusted_ci": [row["ci_low"], row["ci_high"]] if row else None,
        "trusted_estimator": row["estimator"] if row else None,
        "confidence": f.confidence,
        "on_own_draws": _number(f.own_draws),
        "measured": inv.truth.get(f.policy, (None,))[0],
        "gap": _number(f.gap),
        "parts": [
            {"cause": c, "value": _number(v), "ci_low": _number(lo), "ci_high": _number(hi)} for c, v, lo, hi in parts
        ],
        "main_cause": f.main_cause,
        "anomaly": f.anomaly,
        "unsettled": f.unsettled,
        "rank": f.rank,
        "rank_first_probability": _number(f.rank_first),
        "mean_weight": f.estimate["mean_weight"],
        "corrupted_rows": f.corrupted,
        "corrupted_weight_share": _number(f.corrupted_share),
        "calibrated": f.estimate["value"],
        "verdict": f.estimate["verdict"],
        "sentence": sentence(f, inv),
    }


def anomaly_json(inv: Investigation) -> dict[str, Any]:
    """anomaly.json of an investigation."""
    flip = inv.flip
    return {
        "judge": inv.judge_mode,
        "false_alarm_rate": FALSE_ALARM_RATE,
        "tolerance": TOLERANCE,
        "paragraph": " ".join(lead(inv)),
        "rows_to_change_winner": None
        if flip is None
        else {"winner": flip.winner, "rival": flip.rival, "rows": len(flip.rows), "exact": flip.exact},
        "inversions": [
            {"published_above": i.above, "trusted_above": i.below}
            | {"trusted_difference": i.trusted_difference, "beyond_noise": i.beyond_noise}
            for i in inv.detection.inversions
        ],
        "policies": [anomaly_row(f, inv) for f in inv.findings.values()],
    }


def frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """The policies of anomaly.json as a frame, the trusted interval in two columns; `anomaly` in words: its main cause,
    "no", or that chance or lack of data does not let it be told."""
    rows = []
    for row in result["policies"]:
        low, high = row["trusted_ci"] or (None, None)
        cause = CAUSE_WORDS[row["main_cause"]] if row["main_cause"] else "cause unclear"
        words = {True: cause, False: "not settled" if row["unsettled"] else "no", None: "not testable"}[row["anomaly"]]
        rows.append(row | {"trusted_low": low, "trusted_high": high, "anomaly": words})
    return pd.DataFrame(rows)


def parts_frame(row: Mapping[str, Any]) -> pd.DataFrame:
    """What the gap of one policy is made of: `cause` in words, `value`, `ci_low`, `ci_high`."""
    return pd.DataFrame([part | {"cause": CAUSE_WORDS[part["cause"]]} for part in row["parts"]])


def rank_frame(inv: Investigation) -> pd.DataFrame:
    """Per policy, best first by published number: `policy`, `rank`, `published`, `rank_first` (probability under the
    bootstrap), `trusted_rank`, `trusted` (NaN or None without a trusted value)."""
    trusted = {p: f.trusted["value"] for p, f in inv.findings.items() if f.trusted is not None}
    rows = [
        {
            "policy": p,
            "rank": f.rank if np.isfinite(f.published.value) else None,
            "published": f.published.value,
            "rank_first": f.rank_first,
            "trusted_rank": rank(trusted[p], trusted.values()) if p in trusted else None,
            "trusted": trusted.get(p, float("nan")),
        }
        for p, f in inv.findings.items()
    ]
    return pd.DataFrame(rows).sort_values("published", ascending=False, kind="stable", ignore_index=True)


def inversions_frame(inv: Investigation) -> pd.DataFrame:
    """Pairs of policies whose order by SNIPS on judge scores is the reverse of their trusted order, beyond chance."""
    columns = ["above", "below", "published_difference", "trusted_difference", "radius"]
    rows = pd.DataFrame([asdict(i) for i in inv.detection.inversions], columns=columns)
    return rows.sort_values("trusted_difference", ascending=False, kind="stable", ignore_index=True)


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
