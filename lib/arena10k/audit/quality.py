"""How much of what was due can be used, why the rest cannot, and whether all was made under one definition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from arena10k.audit.screening import Flag
from arena10k.collection.jobs import Key, expected
from arena10k.collection.store import Store
from arena10k.inputs.policies import policies
from arena10k.params.config import Params

_SUMS = ("attempts", "recent", "prompt_tokens", "completion_tokens")


def count(store: Store, totals: Mapping[Key, int], since: float = float("inf")) -> dict[Key, dict[str, Any]]:
    """What the store has of each job and policy of `totals`: ``total``, ``ok`` (records with a value), ``usable`` ones,
    ``errors`` and ``quarantined`` by reason, ``attempts``, ``prompt_tokens``, ``completion_tokens``, ``models``,
    ``recent`` (made after `since`, seconds since the epoch) and ``begun`` (when the oldest was made)."""
    cells: dict[Key, dict[str, Any]] = {}
    for key, total in totals.items():
        cells[key] = {"total": total, "ok": 0, "usable": 0, "errors": Counter(), "quarantined": Counter()}
        cells[key] |= {"models": [], "begun": float("inf"), **dict.fromkeys(_SUMS, 0)}
    for row in store.counts(since):
        if cell := cells.get((row["job"], row["policy"])):
            if row["status"] == "error":
                cell["errors"][row["code"]] += row["n"]
            elif row["quarantine"]:
                cell["quarantined"][row["quarantine"]] += row["n"]
            else:
                cell["usable"] += row["n"]
            cell["ok"] += row["n"] * (row["status"] == "ok")
            cell["begun"] = min(cell["begun"], row["oldest"])
            cell["models"] = sorted({*cell["models"], row["model"]} - {None})
            cell |= {name: cell[name] + (row[name] or 0) for name in _SUMS}
    return cells


def jobs(params: Params, store: Store, n_prompts: int) -> list[dict[str, Any]]:
    """Per job and policy: how many records were due, can be used (``ok``), failed by code, are quarantined by reason,
    were asked again (``rescored``) and have a value since (``merged``)."""
    again, out = store.rescored(), []
    for (job, policy), cell in count(store, expected(params, n_prompts)).items():
        rescored, merged = again.get((job, policy), (0, 0))
        row = {"job": job, "policy": policy, "total": cell["total"], "ok": cell["usable"], "errors": cell["errors"]}
        out.append(row | {"quarantined": cell["quarantined"], "rescored": rescored, "merged": merged})
    return out


def report(params: Params, store: Store, flags: list[Flag], n_prompts: int) -> dict[str, Any]:
    """The content of `quality.json` that the records alone decide. `quarantined` lists every measurement that is not to
    be used: with ``status`` "quarantined" where there is a value, "failed" where there is none."""
    keys = ("prompt_id", "policy", "job", "code")
    unusable = [{k: getattr(f, k) for k in keys} | {"status": "quarantined"} for f in flags]
    failed = [{k: r[k] for k in keys} | {"status": "failed"} for r in store.failed() if r["policy"] in params.policies]
    rows = {"jobs": jobs(params, store, n_prompts), "quarantined": unusable + failed}
    return {"run": params.run, **rows, "drift": drift(params, store)}


def frame(result: dict[str, Any]) -> pd.DataFrame:
    """The jobs of `quality.json` for tables and figures."""
    rows = []
    for job in result["jobs"]:
        reasons = {**job["errors"], **job["quarantined"]}
        counts = {"failed": sum(job["errors"].values()), "quarantined": sum(job["quarantined"].values())}
        rows.append(job | counts | {"reasons": ", ".join(f"{c} {n:,}" for c, n in sorted(reasons.items()))})
    return pd.DataFrame(rows)


def drift(params: Params, store: Store) -> list[dict[str, Any]]:
    """Records made under another definition than the params now describe: they are kept, and not used.

    Each entry: ``job``, ``policy``, ``fingerprint`` of the policy then and ``current`` now, ``records``. Imported
    policies have no definition to compare: their entries are of all jobs and have neither fingerprint (all null).
    """
    defined, counts = policies(params), store.counts()
    rows: list[tuple[Any, ...]] = [
        (None, name, None, None, sum(row["n"] for row in counts if row["policy"] == name))
        for name, policy in defined.items()
        if policy.is_imported
    ]
    for row in store.other_contexts():
        current = defined[row["policy"]].fingerprint if row["policy"] in defined else None
        rows.append((row["job"], row["policy"], row["fingerprint"], current, row["n"]))
    return [dict(zip(("job", "policy", "fingerprint", "current", "records"), row, strict=True)) for row in rows]


def drift_sentence(entries: list[dict[str, Any]]) -> str:
    """Whether every policy's records were made under one definition, the one in the params file."""
    without = [entry["policy"] for entry in entries if entry["fingerprint"] is None]
    drifted = [entry for entry in entries if entry["fingerprint"] is not None]
    sentences = []
    if drifted:
        names = ", ".join(dict.fromkeys(entry["policy"] for entry in drifted))
        sentences.append(
            f"Definition drift: {sum(entry['records'] for entry in drifted):,} records of {names} were made under "
            "another definition; they are not used."
        )
    if without:
        sentences.append(
            f"Not known of {', '.join(without)}: imported policies have no definition, so nothing shows whether the "
            "policy that was scored is the one that answered."
        )
    return " ".join(sentences) or "Every record of every policy was made under the definition in the params file."
