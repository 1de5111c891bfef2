"""Progress of a run, read from the store while another process may be collecting into it."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pandas as pd

from arena10k import paths
from arena10k.audit import checks
from arena10k.collection import costs, judge
from arena10k.collection.echo import IGNORED
from arena10k.collection.jobs import (
    DETERMINISTIC,
    LOGPROBS,
    ORACLE,
    RESPONSES,
    SHUFFLED,
    TRUTH,
    UNCERTAINTY,
    Key,
    can_score,
    contexts,
    expected,
)
from arena10k.collection.store import Store
from arena10k.frames import table
from arena10k.inputs import prompts
from arena10k.params.config import Params
from arena10k.wording import number

#: The rate is measured over this many seconds.
WINDOW = 300.0
#: The controls of a run on its way are measured on this many prompts, the first in its order, so that they cost little.
LOOKED_AT = 200
#: What the records of a job are called.
WORDS = {
    RESPONSES: "responses",
    LOGPROBS: "log-probs",
    SHUFFLED: "log-probs of the control",
    DETERMINISTIC: "deterministic judge scores",
    UNCERTAINTY: "judge scores with uncertainty",
    ORACLE: "oracle labels",
    TRUTH: "labels of the truth",
}
#: The jobs that need an endpoint which scores given text.
_SCORED = (LOGPROBS, SHUFFLED)


def progress(params: Params, store: Store, now: float | None = None) -> dict[str, Any]:
    """The content of `status.json`.

    Parameters
    ----------
    now : seconds since the epoch; where given, rates and remaining times are measured (they are null otherwise, so that
        the page of a finished run does not change from one rendering to the next).

    Returns
    -------
    dict with ``run``, ``prompts``, ``complete_rows`` (prompts whose every record is ok), ``jobs``: per job and policy
    ``total``, ``ok``, ``errors`` {code: n}, ``attempts``, tokens, ``models`` that answered (two or more: it changed
        on the way), ``dollars`` so far and projected, ``rate`` (records per second) and ``eta_seconds``; and
        ``not_measurable``: of the policies whose log-probs their endpoint cannot give, why. They are not due, and
        ``rows_with_all_logprobs`` is null where no policy has any.
    """
    frame = prompts.read(params.run)
    totals, unable = _due(params, store, len(frame))
    out = []
    for (name, policy), job in _counted(store, totals, now).items():
        left = job["total"] - job["ok"] - sum(job["errors"].values())
        recent, begun = job.pop("recent"), job.pop("begun")
        rate = recent / max(1.0, min(WINDOW, now - begun)) if now is not None else None
        eta = 0.0 if left <= 0 else left / rate if rate else None
        spent = costs.spent(params, name, policy, job["prompt_tokens"], job["completion_tokens"])
        measured = job["ok"] + sum(job["errors"].values())
        money = {"dollars": spent, "dollars_projected": spent * job["total"] / measured if measured else None}
        out.append({"job": name, "policy": policy, **job, **money, "rate": rate, "eta_seconds": eta})
    complete, scored = _complete(params, store, _measurable(totals, unable), len(frame))
    return {
        "run": params.run,
        "prompts": len(frame),
        "complete_rows": complete,
        "rows_with_all_logprobs": scored,
        "not_measurable": unable,
        "jobs": out,
    }


def _counted(store: Store, totals: dict[Key, int], now: float | None) -> dict[Key, dict[str, Any]]:
    """What the store has of each job and policy; ``recent`` records of the last `WINDOW`, ``begun`` when the oldest was
    made."""
    jobs: dict[Key, dict[str, Any]] = {
        key: {"total": total, "ok": 0, "errors": Counter(), "attempts": 0, "prompt_tokens": 0, "completion_tokens": 0}
        | {"models": [], "recent": 0, "begun": float("inf")}
        for key, total in totals.items()
    }
    for row in store.counts(float("inf") if now is None else now - WINDOW):
        job = jobs.get((row["job"], row["policy"]))
        if job is None:
            continue
        job["begun"] = min(job["begun"], row["oldest"])
        job["models"] = sorted({*job["models"], row["model"]} - {None})
        for kind in ("attempts", "recent", "prompt_tokens", "completion_tokens"):
            job[kind] += row[kind] or 0
        if row["status"] == "ok":
            job["ok"] += row["n"]
        else:
            job["errors"][row["code"]] += row["n"]
    return jobs


def _due(params: Params, store: Store, n: int) -> tuple[dict[Key, int], dict[str, str]]:
    """What is due of `n` prompts, and by policy why its log-probs are not: its endpoint does not say that it can score,
    or was tried and gave none. Of those no more is due than there is."""
    totals = expected(params, n)
    there: Counter[Key] = Counter()
    codes: dict[str, set[str | None]] = {}
    for row in store.counts():
        if row["job"] in _SCORED:
            there[row["job"], row["policy"]] += row["n"]
        if row["job"] == LOGPROBS:
            codes.setdefault(row["policy"], set()).add(row["code"])
    unable = {}
    for policy, p in params.policies.items():
        declared = params.imported or can_score(params, policy)
        if codes.get(policy, {IGNORED}) == {IGNORED} and not declared:
            unable[policy] = f"providers.{p.provider} does not declare capabilities.echo_logprobs"
        elif codes.get(policy) == {IGNORED}:
            unable[policy] = f"every answer of providers.{p.provider} so far was without them"
        if policy in unable or not declared:
            totals |= {(job, policy): there[job, policy] for job in _SCORED}
    return {key: total for key, total in totals.items() if total}, unable


def _measurable(totals: dict[Key, int], unable: dict[str, str]) -> dict[Key, int]:
    return {(job, p): total for (job, p), total in totals.items() if job not in _SCORED or p not in unable}


def _complete(params: Params, store: Store, totals: dict[Key, int], n: int) -> tuple[int, int | None]:
    """Of `n` prompts, those with every record of every job, and those with every log-prob that is due; None where none
    is."""
    # Labels of a slice and the control are not due for every prompt.
    everywhere = {key: total // n for key, total in totals.items() if total >= n and key[0] != SHUFFLED}
    if params.imported:
        # A source may have fresh draws of more prompts than were logged; their log-probs are missing all the same.
        everywhere |= {key: max(total // n, 1) for key, total in totals.items() if key[0] == LOGPROBS}
    complete, scored = store.complete_prompts(everywhere, LOGPROBS, params.logging_policy)
    return complete, scored if params.imported or any(job == LOGPROBS for job, _ in totals) else None


def coverage(params: Params, store: Store) -> dict[str, Any]:
    """How much of what is due can be used: what failed or is quarantined does not count.

    Returns
    -------
    dict with ``prompts``, ``complete_rows``, ``rows_with_all_logprobs`` and ``not_measurable`` (as in `progress`),
    ``jobs``: ``ok`` of ``total`` by job, ``absent``: the policies by job of which there is no usable record though some
    are due, ``logged_prompts`` (of an imported run, which may have prompts without a logged response; else null), and
    ``sentence``.
    """
    n = len(prompts.read(params.run))
    totals, unable = _due(params, store, n)
    usable: Counter[Key] = Counter()
    for row in store.counts():
        if row["status"] == "ok" and row["quarantine"] is None:
            usable[row["job"], row["policy"]] += row["n"]
    jobs: dict[str, dict[str, int]] = {}
    absent: dict[str, list[str]] = {}
    for (job, policy), total in _measurable(totals, unable).items():
        cell = jobs.setdefault(job, {"ok": 0, "total": 0})
        cell["ok"] += usable[job, policy]
        cell["total"] += total
        if not usable[job, policy]:
            absent.setdefault(job, []).append(policy)
    complete, scored = _complete(params, store, _measurable(totals, unable), n)
    out: dict[str, Any] = {"prompts": n, "complete_rows": complete, "rows_with_all_logprobs": scored}
    out |= {"not_measurable": unable, "jobs": jobs, "absent": absent}
    p0 = (RESPONSES, params.logging_policy)
    out["logged_prompts"] = store.complete_prompts({p0: 1}, RESPONSES)[0] if params.imported else None
    return out | {"sentence": _coverage_sentence(out) + _unrecorded(params, absent)}


def _coverage_sentence(found: dict[str, Any]) -> str:
    n, scored, logged = found["prompts"], found["rows_with_all_logprobs"], found["logged_prompts"]
    what = "rows" if logged is None else "prompts"
    told = [] if n else ["there is no prompt"]
    if n and scored is not None:
        told = [f"{scored:,}/{n:,} {what} have all {_which(found)} log-probs ({scored / n:.0%})"]
    told += _unable(found)
    if logged is not None:
        told += [f"{logged:,} of the prompts have a usable logged response"]
    complete = "nothing that is due is missing" if logged is None else "all that the source has is usable"
    short = [f"{_words(j)} {c['ok']:,}/{c['total']:,}" for j, c in found["jobs"].items() if c["ok"] < c["total"]]
    told += [f"usable {', '.join(short)}" if short else complete]
    gone = [f"{_words(job)} of {', '.join(policies)}" for job, policies in found["absent"].items()]
    text = "; ".join([*told, *([f"none at all: {'; '.join(gone)}"] if gone else [])])
    return f"{text[:1].upper()}{text[1:]}."


def _unrecorded(params: Params, absent: dict[str, list[str]]) -> str:
    """Whom the params of a recording define otherwise than what was recorded: nobody will be asked."""
    names = absent.get(RESPONSES, []) if params.recording else []
    return f" Not in this recording as the params define them: {', '.join(names)}." if names else ""


def _which(found: dict[str, Any]) -> str:
    return "measurable" if found["not_measurable"] else "target"


def _unable(found: dict[str, Any]) -> list[str]:
    """Whose log-probs cannot be had, and why."""
    whose: dict[str, list[str]] = {}
    for policy, why in found["not_measurable"].items():
        whose.setdefault(why, []).append(policy)
    return [f"log-probs of {', '.join(names)} not measurable at this endpoint: {why}" for why, names in whose.items()]


def _words(job: str) -> str:
    return WORDS.get(job, job)


def sentence(status: dict[str, Any]) -> str:
    """The one line that says how far a run is."""
    n, done = status["prompts"], status["rows_with_all_logprobs"]
    errors = sum(sum(job["errors"].values()) for job in status["jobs"])
    etas = [job["eta_seconds"] for job in status["jobs"]]
    parts = [] if done is None else [f"prompts with all {_which(status)} log-probs: {done:,}/{n:,} ({done / n:.0%})"]
    parts += _unable(status)
    parts.append(f"complete in every job: {status['complete_rows']:,}/{n:,}")
    parts.append(f"{errors:,} failed measurements" if errors else "no failed measurement")
    known = [e for e in etas if e]
    if any(e is None for e in etas):
        parts.append("the time left is not known: some jobs have not been asked in the last five minutes")
    elif known:
        parts.append(f"about {max(known) / 60:.0f} min left (slowest job)")
    if spent := sum(job["dollars"] for job in status["jobs"]):
        projected = sum(job["dollars_projected"] or 0.0 for job in status["jobs"])
        parts.append(f"${spent:,.2f} spent, about ${projected:,.2f} for what has begun")
    changed = sorted({f"{j['policy']} ({' and '.join(j['models'])})" for j in status["jobs"] if len(j["models"]) > 1})
    if changed:
        parts.append(f"the model changed on the way: {', '.join(changed)}")
    return f"{status['run']}: {', '.join(parts)}."


def controls(params: Params, store: Store) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """The checks of `checks.measure` and the judge's use of its scale (`judge.summary`) on the first prompts of a run.

    What shows that a run is not worth finishing shows here; `quality.json` has the same on every record.
    """
    first = prompts.read(params.run).head(LOOKED_AT)
    some = store.only(first.prompt_id)
    return checks.measure(params, table.build(params, first, some), some), judge.summary(some)


def controls_sentence(found: list[dict[str, Any]], scores: pd.DataFrame) -> str:
    """What the log-probs and the judge look like so far."""
    told = [f"On the first {LOOKED_AT} prompts at most: {checks.sentence(found)}"]
    known = {(c["check"], c["policy"]): c["value"] for c in found if c["value"] is not None}
    told += [
        f"P0 against itself: median {number(value)} nats."
        for (check, _), value in known.items()
        if check == "self_consistency_median"
    ]
    told += [
        f"Judge, {row.mode}: {row.mode_share:.0%} of {row.ok:,} scores are {row.most_frequent:g}."
        for row in scores.itertuples()
        if row.ok
    ]
    return " ".join(told)


def frame(status: dict[str, Any]) -> pd.DataFrame:
    """One row per job and policy, for a table."""
    rows = [
        j
        | {"failed": sum(j["errors"].values()), "codes": ", ".join(f"{c} {n}" for c, n in sorted(j["errors"].items()))}
        for j in status["jobs"]
    ]
    columns = ["job", "policy", "total", "ok", "failed", "codes", "errors", "attempts", "rate", "eta_seconds"]
    columns += [*(["dollars", "dollars_projected"] if any(j["dollars"] for j in status["jobs"]) else [])]
    # Numbers that are not known are missing in one way, also where none of a column is known.
    unknown = {column: float for column in columns if column in ("rate", "eta_seconds", "dollars_projected")}
    return pd.DataFrame(rows, columns=columns).astype(unknown)


def open_store(params: Params) -> Store:
    """The run's store, read-only. Raises ArenaError where there is none."""
    if params.recording:
        return Store.recording(paths.records_file(params.run)).using(contexts(params).values())
    if not paths.prompts_file(params.run).is_file():
        raise prompts.none_there(params.run)
    return Store.read(paths.store_file(params.run)).using(contexts(params).values())


def now() -> float:
    return time.time()
