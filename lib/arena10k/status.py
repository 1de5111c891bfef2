"""Progress of a run, read from the store while another process may be collecting into it."""

from __future__ import annotations

import time
from typing import Any

import pandas as pd

from arena10k import judge, labels, paths, prompts
from arena10k.config import Params
from arena10k.errors import ArenaError
from arena10k.generate import JOB as RESPONSES
from arena10k.store import Store
from arena10k.teacher_forcing import JOB as LOGPROBS

#: The rate is measured over this many seconds.
WINDOW = 300.0


def expected(params: Params, n_prompts: int) -> dict[tuple[str, str], int]:
    """How many records each job and policy will have when everything is collected, by (job, policy)."""
    totals: dict[tuple[str, str], int] = {}
    for policy in params.policies:
        totals[RESPONSES, policy] = n_prompts * params.responses.draws
        totals[LOGPROBS, policy] = n_prompts * params.responses.logged_draws
        if params.judge:
            graded = n_prompts * min(params.judge.draws, params.responses.draws)
            totals |= {(job, policy): graded for job in judge.JOBS}
    for job, cells in labels.wanted(params, map(str, range(n_prompts))).items():
        for policy in params.policies:
            if count := sum(1 for cell in cells if cell[0] == policy):
                totals[job, policy] = count
    return totals


def progress(params: Params, store: Store, now: float | None = None) -> dict[str, Any]:
    """The content of `status.json`.

    Parameters
    ----------
    now : seconds since the epoch; where given, rates and remaining times are measured (they are null otherwise, so that
        the page of a finished run does not change from one rendering to the next).

    Returns
    -------
    dict with ``run``, ``prompts``, ``complete_rows`` (prompts whose every record is ok), ``jobs``: per job and policy
    ``total``, ``ok``, ``errors`` {code: n}, ``attempts``, ``rate`` (records per second) and ``eta_seconds``.
    """
    frame = prompts.read(params.run)
    totals = expected(params, len(frame))
    recent = store.recent(now - WINDOW) if now is not None else {}
    jobs = {key: {"total": total, "ok": 0, "errors": {}, "attempts": 0} for key, total in totals.items()}
    for row in store.counts():
        job = jobs.get((row["job"], row["policy"]))
        if job is None:
            continue
        job["attempts"] += row["attempts"]
        if row["status"] == "ok":
            job["ok"] += row["n"]
        else:
            job["errors"][row["code"]] = row["n"]
    out = []
    for (name, policy), job in jobs.items():
        left = job["total"] - job["ok"] - sum(job["errors"].values())
        rate = recent.get((name, policy), 0) / WINDOW if now is not None else None
        eta = 0.0 if left <= 0 else left / rate if rate else None
        out.append({"job": name, "policy": policy, **job, "rate": rate, "eta_seconds": eta})
    return {
        "run": params.run,
        "prompts": len(frame),
        "complete_rows": complete_rows(store, totals, len(frame)),
        "rows_with_all_logprobs": complete_rows(
            store, {k: v for k, v in totals.items() if k[0] == LOGPROBS}, len(frame)
        ),
        "jobs": out,
    }


def complete_rows(store: Store, totals: dict[tuple[str, str], int], n_prompts: int) -> int:
    """Prompts that are ok in every job of `totals` (labels count where a prompt is in their slice: see `expected`)."""
    everywhere = {key: total // n_prompts for key, total in totals.items() if n_prompts and total >= n_prompts}
    if not everywhere:
        return 0
    have: dict[str, set] = {}
    for (job, policy, prompt_id), n in store.ok_by_prompt().items():
        if n >= everywhere.get((job, policy), n + 1):
            have.setdefault(prompt_id, set()).add((job, policy))
    return sum(1 for done in have.values() if len(done) == len(everywhere))


def sentence(status: dict[str, Any]) -> str:
    """The one line that says how far a run is."""
    n, done = status["prompts"], status["rows_with_all_logprobs"]
    errors = sum(sum(job["errors"].values()) for job in status["jobs"])
    etas = [job["eta_seconds"] for job in status["jobs"]]
    parts = [f"{status['run']}: prompts with all target log-probs: {done:,}/{n:,} ({done / n:.0%})"]
    parts.append(f"complete in every job: {status['complete_rows']:,}/{n:,}")
    parts.append(f"{errors:,} failed measurements" if errors else "no failed measurement")
    known = [e for e in etas if e]
    if any(e is None for e in etas):
        parts.append("some jobs are not running")
    elif known:
        parts.append(f"about {max(known) / 60:.0f} min left (slowest job)")
    return ", ".join(parts) + "."


def frame(status: dict[str, Any]) -> pd.DataFrame:
    """One row per job and policy, for a table."""
    rows = [
        j
        | {"failed": sum(j["errors"].values()), "codes": ", ".join(f"{c} {n}" for c, n in sorted(j["errors"].items()))}
        for j in status["jobs"]
    ]
    columns = ["job", "policy", "total", "ok", "failed", "codes", "errors", "attempts", "rate", "eta_seconds"]
    return pd.DataFrame(rows, columns=columns)


def open_store(params: Params) -> Store:
    """The run's store, read-only. Raises ArenaError where there is none."""
    if params.recording:
        return Store.recording(paths.records_file(params.run))
    if not paths.prompts_file(params.run).is_file():
        raise ArenaError(f"run {params.run!r} has not started: no prompts and no records")
    return Store.read(paths.store_file(params.run))


def now() -> float:
    return time.time()
