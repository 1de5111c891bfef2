"""The findings as anomaly.json, and as a frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from arena10k.attribution.detection import FALSE_ALARM_RATE, TOLERANCE
from arena10k.attribution.game import CAUSE_WORDS, CAUSES
from arena10k.attribution.investigation import Finding, Investigation
from arena10k.attribution.words import sentence, verdict_paragraph


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
        "paragraph": verdict_paragraph(inv),
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
        told = {True: cause, False: "not settled" if row["unsettled"] else "no", None: "not testable"}[row["anomaly"]]
        rows.append(row | {"trusted_low": low, "trusted_high": high, "anomaly": told})
    return pd.DataFrame(rows)


def parts_frame(row: Mapping[str, Any]) -> pd.DataFrame:
    """What the gap of one policy is made of: `cause` in words, `value`, `ci_low`, `ci_high`."""
    return pd.DataFrame([part | {"cause": CAUSE_WORDS[part["cause"]]} for part in row["parts"]])
