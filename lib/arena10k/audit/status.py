"""How far a run is and how it looks, read from the store while another process may be collecting into it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd

from arena10k import paths
from arena10k.audit import checks, quality
from arena10k.collection import costs, jobs, judge
from arena10k.collection.echo import IGNORED
from arena10k.collection.jobs import LOGPROBS, RESPONSES, SHUFFLED, Key
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
    jobs.DETERMINISTIC: "deterministic judge scores",
    jobs.UNCERTAINTY: "judge scores with uncertainty",
    jobs.ORACLE: "oracle labels",
    jobs.TRUTH: "labels of the truth",
}
#: The jobs that need an endpoint which scores given text.
_TEACHER_FORCED = (LOGPROBS, SHUFFLED)
#: What `progress` keeps of the counts of a job and policy.
_COUNTED = ("total", "ok", "errors", "attempts", "prompt_tokens", "completion_tokens", "models")


def open_store(params: Params) -> Store:
    """The run's store, read-only; a recording is loaded into memory. Raises ArenaError where there is none."""
    if params.recording:
        return Store.recording(paths.recorded_file(params.run)).using(jobs.contexts(params).values())
    if not paths.prompts_file(params.run).is_file():
        raise prompts.none_there(params.run)
    return Store.read(paths.store_file(params.run)).using(jobs.contexts(params).values())


def progress(params: Params, store: Store, now: float | None = None) -> dict[str, Any]:
    """The content of `status.json`: ``run``, ``prompts``, ``complete_rows`` (prompts whose every record is ok),
    ``jobs``: per job and policy ``total``, ``ok``, ``errors`` {code: n}, ``attempts``, tokens, ``models`` that answered
    (two or more: it changed on the way), ``dollars`` so far and projected, ``rate`` (records per second) and
    ``eta_seconds``; and ``not_measurable``: of the policies whose log-probs their endpoint cannot give, why. They are
    not due, and ``rows_with_all_logprobs`` is null where no policy has any.

    Rates and remaining times are measured where `now` (seconds since the epoch) is given, and null otherwise, so that
    the page of a finished run does not change from one rendering to the next.
    """
    cells, since = [], float("inf") if now is None else 60 * ((now - WINDOW) // 60)  # as minutes are counted
    totals, _, rows = _due(params, store, since)
    for (job, policy), cell in quality.count(store, totals, since).items():
        measured = cell["ok"] + cell["errors"].total()
        left, rate, eta = max(0, cell["total"] - measured), None, None
        if now is not None:
            rate = cell["recent"] / max(1.0, now - max(since, cell["begun"]))
        if rate or not left:
            eta = left / (rate or 1.0)
        spent = costs.spent(params, job, policy, cell["prompt_tokens"], cell["completion_tokens"])
        cells.append(
            {"job": job, "policy": policy, **{name: cell[name] for name in _COUNTED}, "dollars": spent}
            | {"dollars_projected": spent * cell["total"] / measured if measured else None}
            | {"rate": rate, "eta_seconds": eta}
        )
    return {"run": params.run, **rows, "jobs": cells}


def coverage(params: Params, store: Store) -> dict[str, Any]:
    """How much of what is due can be used, without what failed or is quarantined: ``prompts``, ``complete_rows``,
    ``rows_with_all_logprobs`` and ``not_measurable`` (as in `progress`), ``jobs``: ``ok`` of ``total`` by job,
    ``absent``: the policies by job of which there is no usable record though some are due, ``logged_prompts`` (of an
    imported run, which may have prompts without a logged response; else null), and ``sentence``."""
    _, measurable, rows = _due(params, store)
    usable: dict[str, dict[str, int]] = {}
    absent: dict[str, list[str]] = {}
    for (job, policy), cell in quality.count(store, measurable).items():
        of_job = usable.setdefault(job, {"ok": 0, "total": 0})
        of_job["ok"] += cell["usable"]
        of_job["total"] += cell["total"]
        if not cell["usable"]:
            absent.setdefault(job, []).append(policy)
    of_p0 = {(RESPONSES, params.logging_policy): 1}
    logged = store.complete_prompts(_ids(params), of_p0, RESPONSES)[0] if params.imported else None
    out: dict[str, Any] = rows | {"jobs": usable, "absent": absent, "logged_prompts": logged}
    n, scored = out["prompts"], out["rows_with_all_logprobs"]
    parts = [] if n else ["there is no prompt"]
    if n and scored is not None:
        what = "rows" if logged is None else "prompts"
        parts = [f"{scored:,}/{n:,} {what} have all {_which(out)} log-probs ({scored / n:.0%})"]
    parts += _unable(out)
    if logged is not None:
        parts.append(f"{logged:,} of the prompts have a usable logged response")
    complete = "nothing that is due is missing" if logged is None else "all that the source has is usable"
    short = [f"{WORDS.get(job, job)} {c['ok']:,}/{c['total']:,}" for job, c in usable.items() if c["ok"] < c["total"]]
    parts.append(f"usable {', '.join(short)}" if short else complete)
    if absent:
        none = [f"{WORDS.get(job, job)} of {', '.join(names)}" for job, names in absent.items()]
        parts.append(f"none at all: {'; '.join(none)}")
    text = "; ".join(parts)
    text = f"{text[:1].upper()}{text[1:]}."
    if params.recording and RESPONSES in absent:  # nobody will be asked
        text += f" Not in this recording as the params define them: {', '.join(absent[RESPONSES])}."
    return out | {"sentence": text}


def _ids(params: Params) -> list[str]:
    return list(prompts.read(params.run).prompt_id)


def _due(
    params: Params, store: Store, since: float = float("inf")
) -> tuple[dict[Key, int], dict[Key, int], dict[str, Any]]:
    """What is due by job and policy, that of it which is measurable, and of the prompts how many there are, how many
    are complete, and by policy why its log-probs are not measurable: its endpoint does not say that it can score, or
    was tried and gave none. Of those no more is due than there is."""
    n = len(ids := _ids(params))
    totals = jobs.expected(params, n)
    there: Counter[Key] = Counter()
    codes: dict[str, set[str | None]] = {}
    for row in store.counts(since):  # read once with what is asked of them next
        there[row["job"], row["policy"]] += row["n"]
        if row["job"] == LOGPROBS:
            codes.setdefault(row["policy"], set()).add(row["code"])
    unable = {}
    for policy, p in params.policies.items():
        declared = params.imported or jobs.can_score(params, policy)
        if codes.get(policy, {IGNORED}) == {IGNORED} and not declared:
            unable[policy] = f"providers.{p.provider} does not declare capabilities.echo_logprobs"
        elif codes.get(policy) == {IGNORED}:
            unable[policy] = f"every answer of providers.{p.provider} so far was without them"
        if policy in unable or not declared:
            totals |= {(job, policy): there[job, policy] for job in _TEACHER_FORCED}
    totals = {key: total for key, total in totals.items() if total}
    measurable = {key: n for key, n in totals.items() if key[0] not in _TEACHER_FORCED or key[1] not in unable}
    # Labels of a slice and the control are not due for every prompt.
    everywhere = {key: total // n for key, total in measurable.items() if total >= n and key[0] != SHUFFLED}
    if params.imported:
        # A source may have fresh draws of more prompts than were logged; their log-probs are missing all the same.
        everywhere |= {key: max(total // n, 1) for key, total in measurable.items() if key[0] == LOGPROBS}
    complete, scored = store.complete_prompts(ids, everywhere, LOGPROBS, params.logging_policy)
    scores_due = params.imported or any(job == LOGPROBS for job, _ in measurable)
    rows = {"prompts": n, "complete_rows": complete, "rows_with_all_logprobs": scored if scores_due else None}
    return totals, measurable, rows | {"not_measurable": unable}


def _which(counted: dict[str, Any]) -> str:
    return "measurable" if counted["not_measurable"] else "target"


def _unable(counted: dict[str, Any]) -> list[str]:
    """Whose log-probs cannot be had, and why."""
    whose: dict[str, list[str]] = {}
    for policy, why in counted["not_measurable"].items():
        whose.setdefault(why, []).append(policy)
    return [f"log-probs of {', '.join(names)} not measurable at this endpoint: {why}" for why, names in whose.items()]


def sentence(status: dict[str, Any]) -> str:
    """The one line that says how far a run is."""
    n, scored, cells = status["prompts"], status["rows_with_all_logprobs"], status["jobs"]
    errors = sum(sum(job["errors"].values()) for job in cells)
    parts = []
    if scored is not None:
        parts.append(f"prompts with all {_which(status)} log-probs: {scored:,}/{n:,} ({scored / n:.0%})")
    parts += _unable(status)
    parts.append(f"complete in every job: {status['complete_rows']:,}/{n:,}")
    parts.append(f"{errors:,} failed measurements" if errors else "no failed measurement")
    etas = [job["eta_seconds"] for job in cells]
    if None in etas:
        parts.append("the time left is not known: some jobs have not been asked in the last five minutes")
    elif any(etas):
        parts.append(f"about {max(etas) / 60:.0f} min left (slowest job)")
    if spent := sum(job["dollars"] for job in cells):
        projected = sum(job["dollars_projected"] or 0.0 for job in cells)
        parts.append(f"${spent:,.2f} spent, about ${projected:,.2f} for what has begun")
    if changed := sorted({f"{j['policy']} ({' and '.join(j['models'])})" for j in cells if len(j["models"]) > 1}):
        parts.append(f"the model changed on the way: {', '.join(changed)}")
    return f"{status['run']}: {', '.join(parts)}."


def controls(params: Params, store: Store) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """The checks of `checks.measure` and the judge's use of its scale (`judge.summary`) on the first prompts of a run.

    What shows that a run is not worth finishing shows here; `quality.json` has the same on every record.
    """
    first = prompts.read(params.run).head(LOOKED_AT)
    some = store.only(first.prompt_id)
    return checks.measure(params, table.build(params, first, some), some), judge.summary(params, some)


def controls_sentence(measured: list[dict[str, Any]], scores: pd.DataFrame) -> str:
    """What the log-probs and the judge look like so far."""
    parts = [f"On the first {LOOKED_AT} prompts at most: {checks.sentence(measured)}"]
    parts += [
        f"P0 against itself: median {number(check['value'])} nats."
        for check in measured
        if check["check"] == "self_consistency_median" and check["value"] is not None
    ]
    parts += [
        f"Judge, {row.judge}: {row.its_share:.0%} of {row.ok:,} scores are {row.most_frequent:g}."
        for row in scores[scores.ok > 0].itertuples()
    ]
    return " ".join(parts)


def frame(status: dict[str, Any]) -> pd.DataFrame:
    """One row per job and policy, for a table."""
    columns = ["job", "policy", "total", "ok", "failed", "codes", "errors", "attempts", "rate", "eta_seconds"]
    columns += ["dollars", "dollars_projected"] if any(job["dollars"] for job in status["jobs"]) else []
    rows = pd.DataFrame(status["jobs"], columns=columns)
    rows["failed"] = [sum(errors.values()) for errors in rows.errors]
    rows["codes"] = [", ".join(f"{code} {n}" for code, n in sorted(errors.items())) for errors in rows.errors]
    # Numbers that are not known are missing in one way, also where none of a column is known.
    return rows.astype({column: float for column in columns if column in ("rate", "eta_seconds", "dollars_projected")})


def missing_responses(store: Store) -> dict[str, float]:
    """The share of each policy's responses, of those that were asked for, that ended in an error. What an import has no
    text of is not among them: there was a response."""
    asked, failed = Counter[str](), Counter[str]()
    for row in store.counts():
        if row["job"] == RESPONSES:
            asked[row["policy"]] += row["n"]
            failed[row["policy"]] += row["n"] * (row["status"] == "error" and row["code"] != "missing")
    return {policy: failed[policy] / n for policy, n in asked.items()}
