"""Data quality: what was measured, what failed and why, and which stored values cannot be trusted.

A bad value is found by structure and quarantined (a reason beside the record, reversible); it is never
deleted and never replaced by another number.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from arena10k.audit.screening import Flag, scan
from arena10k.collection.jobs import expected
from arena10k.collection.store import Store
from arena10k.estimation.thresholds import NOISE
from arena10k.frames.table import Table
from arena10k.inputs.policies import policies
from arena10k.params.config import Params
from arena10k.wording import factor, number

__all__ = [
    "Flag",
    "clone_control",
    "clone_sentence",
    "clones",
    "drift",
    "drift_sentence",
    "frame",
    "jobs",
    "largest",
    "quarantine",
    "quarantined",
    "reasons_sentence",
    "report",
    "scan",
    "self_consistency",
    "self_consistency_sentence",
    "sentence",
]  # fmt: skip


def quarantine(store: Store, flags: list[Flag]) -> None:
    """Set the run's quarantine to exactly `flags`: what is no longer flagged is released."""
    store.set_quarantine([(f.job, f.prompt_id, f.request_hash, f.code) for f in flags])


def jobs(store: Store, totals: dict[tuple[str, str], int]) -> list[dict[str, Any]]:
    """Per job and policy: how many records were due, ok, failed by code, quarantined by reason."""
    out: dict[tuple[str, str], dict[str, Any]] = {
        key: {"job": key[0], "policy": key[1], "total": total, "ok": 0, "errors": Counter(), "quarantined": Counter()}
        | {"rescored": 0, "merged": 0}
        for key, total in totals.items()
    }
    for row in store.counts():
        entry = out.get((row["job"], row["policy"]))
        if entry is None:
            continue
        if row["status"] == "error":
            entry["errors"][row["code"]] += row["n"]
        elif row["quarantine"]:
            entry["quarantined"][row["quarantine"]] += row["n"]
        else:
            entry["ok"] += row["n"]
    rescored = store.rescored()
    for key, entry in out.items():
        entry["rescored"], entry["merged"] = rescored.get(key, (0, 0))
    return list(out.values())


def drift(params: Params, store: Store) -> list[dict[str, Any]]:
    """Records made under another definition than the params now describe: they are kept, and not used.

    Each entry: ``job``, ``policy``, ``fingerprint`` of the policy then and ``current`` now, ``records``. Imported
    policies have no definition to compare: their entries are of all jobs and have neither fingerprint (all null).
    """
    current = {name: p.fingerprint for name, p in policies(params).items()}
    counts = store.counts()
    unknown = [
        {"job": None, "policy": name, "fingerprint": None, "current": None}
        | {"records": sum(row["n"] for row in counts if row["policy"] == name)}
        for name, p in policies(params).items()
        if p.is_imported
    ]
    return unknown + [
        {k: row[k] for k in ("job", "policy", "fingerprint")}
        | {"current": current.get(row["policy"]), "records": row["n"]}
        for row in store.other_contexts()
    ]


def self_consistency(table_logged: pd.DataFrame) -> pd.Series:
    """Teacher-forced minus generation log-prob of P0's responses (nats per sequence), rows with both."""
    return (table_logged.generation_forced - table_logged.generation_logp).dropna()


def clones(params: Params) -> list[str]:
    """Targets whose definition equals the logging policy's, or is declared to where definitions are not known: their
    log-weights measure the noise floor."""
    all_policies = policies(params)
    base = all_policies[params.logging_policy].fingerprint
    declared = params.imported.clones if params.imported else ()
    return [t for t in params.targets if t in declared or all_policies[t].fingerprint == base]


def largest(difference: pd.Series) -> float | None:
    """The largest absolute difference, or None where nothing was compared."""
    return float(difference.abs().max()) if len(difference) else None


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


def clone_control(params: Params, table: Table) -> pd.DataFrame:
    """Noise per copy of the logging policy: rows, rows with log-weight exactly 0, largest |log-weight|, range of the
    weights."""
    rows = []
    for name in clones(params):
        lw = pd.Series(table.log_weights()[name]).dropna()
        weight = np.exp(lw)
        low, high = (weight.min(), weight.max()) if len(lw) else (None, None)
        exact = int((lw == 0).sum())
        rows.append({"copy": name, "rows": len(lw), "exactly 0": exact, "max |log-weight|": largest(lw)})
        rows[-1] |= {"lowest weight": low, "highest weight": high}
    return pd.DataFrame(
        rows, columns=["copy", "rows", "exactly 0", "max |log-weight|", "lowest weight", "highest weight"]
    )


def clone_sentence(params: Params, table: Table) -> str:
    """What the copies of the logging policy say about the noise in every weight."""
    control = clone_control(params, table)
    known = control[control.rows > 0]
    if known.empty:
        return (
            f"No target is meant as a copy of {params.logging_policy}, or none of its log-probs is there: the noise of "
            "the log-probs is not measured."
        )
    worst = known.loc[known["max |log-weight|"].idxmax()]
    noise, copy = worst["max |log-weight|"], f"{worst['copy']}, a copy of {params.logging_policy},"
    if not noise:
        return f"All {worst['rows']:,} weights of {copy} are exactly 1, as they must be."
    low, high = number(worst["lowest weight"]), number(worst["highest weight"])
    between = "" if low == high == "1" else f" They lie between {low} and {high}."
    return f"The weights of {copy} must be 1.{between} Noise of the log-probs moves a weight by up to {factor(noise)}."


def report(params: Params, store: Store, flags: list[Flag], n_prompts: int) -> dict[str, Any]:
    """The content of `quality.json` that the records alone decide. `quarantined` lists every measurement that is not to
    be used: with ``status`` "quarantined" where there is a value, "failed" where there is none."""
    keys = ("prompt_id", "policy", "job", "code")
    aside = [{k: getattr(f, k) for k in keys} | {"status": "quarantined"} for f in flags]
    failed = [{k: r[k] for k in keys} | {"status": "failed"} for r in store.failed() if r["policy"] in params.policies]
    return {
        "run": params.run,
        "jobs": jobs(store, expected(params, n_prompts)),
        "quarantined": aside + failed,
        "drift": drift(params, store),
    }


def frame(result: dict[str, Any]) -> pd.DataFrame:
    """The jobs of `quality.json` for tables and figures."""
    rows = []
    for job in result["jobs"]:
        reasons = {**job["errors"], **job["quarantined"]}
        counts = {"failed": sum(job["errors"].values()), "quarantined": sum(job["quarantined"].values())}
        rows.append(job | counts | {"reasons": ", ".join(f"{c} {n:,}" for c, n in sorted(reasons.items()))})
    return pd.DataFrame(rows)


def quarantined(store: Store, flags: list[Flag]) -> pd.DataFrame:
    """The quarantined rows, each with its reason and the value it had."""
    jobs = sorted({flag.job for flag in flags})
    values = {(job, r["prompt_id"], r["request_hash"]): r["value"] for job in jobs for r in store.rows(job)}
    rows = [
        {"policy": f.policy, "prompt_id": f.prompt_id, "reason": f.code}
        | {"value": values[f.job, f.prompt_id, f.request_hash]}
        for f in flags
    ]
    return pd.DataFrame(rows, columns=["policy", "prompt_id", "reason", "value"])


def sentence(result: dict[str, Any]) -> str:
    """How much of what was due can be used."""
    due = sum(j["total"] for j in result["jobs"])
    ok = sum(j["ok"] for j in result["jobs"])
    failed = sum(sum(j["errors"].values()) for j in result["jobs"])
    aside = sum(sum(j["quarantined"].values()) for j in result["jobs"])
    return (
        f"{ok:,} of {due:,} records can be used ({ok / due:.1%}); {failed:,} failed with a code, "
        f"{aside:,} are quarantined, {due - ok - failed - aside:,} have not been asked."
    )


#: What a reason to quarantine a value means.
REASONS = {
    "below_floor": "a known sentinel, or less than any token can have",
    "constant": "one value for every token, or 0.0 where the text cannot be certain",
    "positive": "a probability above 1",
    "repeated_value": "a value that unrelated rows share beyond chance",
    "whole_number": "a whole number among values that never are",
    "another_policys": "another policy's value",
    "impossible_weight": "a weight that P0's own responses cannot have",
    "nats_per_token_outlier": "out of line with the policy's other nats per token",
    "nats_per_character_outlier": "out of line with the length and with the other policies' values of the same text",
    "duplicate_answer": "one answer under several prompts",
    "duplicate_row": "a duplicate row",
    "out_of_range": "a score outside 0 to 1",
}


def reasons_sentence(result: dict[str, Any]) -> str:
    """Why values were quarantined, most frequent reason first."""
    counts = Counter(q["code"] for q in result["quarantined"] if q["status"] == "quarantined")
    if not counts:
        return "No stored value was quarantined."
    told = [f"{n:,} {code} ({REASONS.get(code, code)})" for code, n in counts.most_common()]
    return f"Quarantined, each with its value and free to be released: {'; '.join(told)}."


def drift_sentence(found: list[dict[str, Any]]) -> str:
    """Whether every policy's records were made under one definition, the one in the params file."""
    unknown = [entry["policy"] for entry in found if entry["fingerprint"] is None]
    drifted = [entry for entry in found if entry["fingerprint"] is not None]
    told = []
    if drifted:
        names = ", ".join(dict.fromkeys(entry["policy"] for entry in drifted))
        total = sum(entry["records"] for entry in drifted)
        told = [
            f"Definition drift: {total:,} records of {names} were made under another definition; they are not used."
        ]
    if unknown:
        told.append(
            f"Not known of {', '.join(unknown)}: imported policies have no definition, so nothing shows whether the "
            "policy that was scored is the one that answered."
        )
    return " ".join(told) or "Every record of every policy was made under the definition in the params file."
