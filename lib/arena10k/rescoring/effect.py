"""What quarantine does: are measurements missing at random, and what do estimates say with and without them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from arena10k.collection.jobs import DETERMINISTIC, LOGPROBS, ORACLE, RESPONSES, UNCERTAINTY
from arena10k.estimation import evaluate, missingness
from arena10k.frames.table import Table
from arena10k.run import Run
from arena10k.wording import number

#: Estimators that rest on weights alone, and on weights and fresh draws.
SHOWN = ("snips", "dr_cpo")
_FIELDS = ("value", "ci_low", "ci_high", "verdict", "mean_weight")


#: Jobs that measure a response.
JOBS = (LOGPROBS, DETERMINISTIC, UNCERTAINTY, ORACLE)
LENGTHS = ("response_chars", "prompt_chars")
WHAT = dict(zip((*LENGTHS, "language"), ("response length", "prompt length", "language"), strict=True))


def failures(run: Run) -> pd.DataFrame:
    """Every record of `JOBS` as it is now: `job`, `policy`, `prompt_id`, `draw`, `bad` (1.0 where it failed or was
    quarantined, else 0.0), and of what it measures `response_chars`, `prompt_chars`, `language`.

    Log-probs measure the logged responses, scores and labels the policy's own. A log-prob of a logged response that is
    itself quarantined is bad.
    """
    p0 = run.params.logging_policy
    texts = [
        (r["policy"], r["prompt_id"], r["draw"], float(len(r["value"])), r["quarantine"] is not None)
        for r in run.store.rows(RESPONSES)
        if r["status"] == "ok"
    ]
    columns = ["measured", "prompt_id", "draw", "response_chars", "aside"]
    rows = [
        (job, r["policy"], r["prompt_id"], r["draw"], r["status"] == "error" or r["quarantine"] is not None)
        for job in JOBS
        for r in run.store.rows(job)
        if r["policy"] in run.params.policies
    ]
    frame = pd.DataFrame(rows, columns=["job", "policy", "prompt_id", "draw", "bad"])
    frame["measured"] = frame.policy.where(frame.job != LOGPROBS, p0)
    frame = frame.merge(pd.DataFrame(texts, columns=columns), on=columns[:3], how="inner")
    asked = run.prompts.drop_duplicates("prompt_id").set_index("prompt_id")
    frame["prompt_chars"] = frame.prompt_id.map(asked.prompt.str.len()).astype(float)
    frame["language"] = frame.prompt_id.map(asked.language) if "language" in asked else None
    frame["bad"] = (frame.bad | ((frame.job == LOGPROBS) & frame.aside)).astype(float)
    rank = {name: i for i, name in enumerate([*JOBS, *run.params.policies])}
    order = frame[["job", "policy"]].map(rank.get).sort_values(["job", "policy"], kind="stable").index
    return frame.loc[order].drop(columns=["measured", "aside"]).reset_index(drop=True)


def bad_logprobs(found: pd.DataFrame, policies: list[str]) -> np.ndarray:
    """Which log-probs of `failures` are bad (logged rows, policies): 1.0, 0.0, NaN where there is no record."""
    own = found[found.job == LOGPROBS]
    return np.asarray(
        own.pivot_table(index=["prompt_id", "draw"], columns="policy", values="bad")
        .reindex(columns=policies)
        .to_numpy()
    )


def randomness(found: pd.DataFrame, policies: list[str]) -> dict[str, Any]:
    """Tests of missing at random: ``shared`` (see `missingness.Shared`; log-probs), ``tests`` (p-values per job, policy
    and covariate, None where there is nothing to compare), ``by_length`` (fifths of the response length)."""
    tests = [
        {"job": job, "policy": policy, "bad": int(rows.bad.sum()), "rows": len(rows)}
        | {x: _number(missingness.depends_on_number(rows.bad.to_numpy(), rows[x].to_numpy(float))) for x in LENGTHS}
        | {"language": _number(missingness.depends_on_class(rows.bad.to_numpy(), rows.language.to_numpy(object)))}
        for (job, policy), rows in found.groupby(["job", "policy"], sort=False)
    ]
    shared = {k: _number(v) for k, v in dataclasses.asdict(missingness.shared(bad_logprobs(found, policies))).items()}
    return {"shared": shared, "tests": tests, "by_length": by_length(found).to_dict("records")}


def by_length(found: pd.DataFrame) -> pd.DataFrame:
    """Bad measurements in fifths of the length of what they measure: see `missingness.strata`."""
    return missingness.strata(found.bad.to_numpy()[:, None], found.response_chars.to_numpy(float))


def _number(x: float) -> float | int | None:
    return None if isinstance(x, float) and not np.isfinite(x) else x


def tests_frame(found: dict[str, Any]) -> pd.DataFrame:
    """The tests for a table."""
    names = {x: f"p: {x.replace('_chars', ' length')}" for x in LENGTHS} | {"language": "p: language"}
    columns = ["job", "policy", "bad", "rows"]
    return pd.DataFrame(found["tests"], columns=[*columns, *LENGTHS, "language"]).rename(columns=names)


def dependent(tests: list[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    """The tests that show a dependence, with the covariate; Bonferroni over all that were made."""
    made = [(t, key) for t in tests for key in WHAT if t[key] is not None]
    return [(t, key) for t, key in made if t[key] * len(made) < missingness.DEPENDS]


def randomness_sentence(found: dict[str, Any]) -> str:
    """Whether measurements are missing at random, as far as length, language and the other policies tell."""
    tests = found["tests"]
    if not any(t["bad"] for t in tests):
        return "No log-prob, score or label failed or was quarantined: nothing is missing."
    told = [f"{t['job']} of {t['policy']} on {WHAT[key]} (p {number(t[key])})" for t, key in dependent(tests)]
    shared, out = found["shared"], []
    if told:
        out.append(f"Measurements are not missing at random: failures depend on what is measured: {', '.join(told)}.")
    else:
        out.append("No dependence of failures on response length, prompt length or language shows.")
    return " ".join([*out, shared_sentence(shared)] if shared["p_value"] is not None else out)


def shared_sentence(shared: dict[str, Any]) -> str:
    """Whether log-probs fail on the same rows for several policies: see `missingness.Shared`."""
    p = shared["p_value"]
    if p is None:
        return "Fewer than two policies were scored on the same rows: whether failures come together is not known."
    if not shared["observed"]:
        return f"No row of {shared['rows']:,} failed for more than one policy."
    told = (
        f"{shared['observed']:,} of {shared['rows']:,} rows failed for more than one policy; independent failures give "
        f"{shared['expected']:.1f} (p {number(p)})"
    )
    return told + (": they have a common cause." if p < missingness.DEPENDS else ".")


def measure(run: Run, found: pd.DataFrame) -> list[dict[str, Any]]:
    """Per target, judge mode and estimator of `SHOWN`, `found` being `failures`.

    ``n_set_aside``: rows that were asked for and have no usable weight; ``value``, ``ci_low``, ``ci_high``,
    ``verdict``, ``mean_weight`` on clean rows; ``all``: the same on all finite rows; ``bounds_by_share`` and
    ``bounds_by_weight``:
    worst-case bounds for SNIPS (see `missingness.bounds`).
    """
    names = list(run.params.policies)
    bad = bad_logprobs(found, names)
    clean = run.table()
    with_all = clean.as_stored()
    alike, rows = _rows(run, clean), []
    for key, row in alike.items():
        policy, judge, estimator = key
        n_aside = _aside(bad[:, [names.index(policy), names.index(run.params.logging_policy)]])
        limits = None
        if estimator == "snips" and row["value"] is not None and row["mean_weight"] is not None:
            limits = missingness.bounds(row["value"], row["n_used"], n_aside, row["mean_weight"])
        rows.append(
            {"policy": policy, "judge": judge, "estimator": estimator}
            | {"n_used": row["n_used"], "n_set_aside": n_aside}
            | {k: row[k] for k in _FIELDS}
            | {"bounds_by_share": list(limits.by_share) if limits else None}
            | {"bounds_by_weight": list(limits.by_weight) if limits and limits.by_weight else None}
        )
    if n_quarantined(with_all):
        with np.errstate(over="ignore"):  # values that are no log-probs make weights beyond any number
            everything = _rows(run, with_all)
        for row in rows:
            other = everything[row["policy"], row["judge"], row["estimator"]]
            row["all"] = {k: other[k] for k in ("n_used", *_FIELDS)}
    else:
        for row in rows:
            row["all"] = {k: row[k] for k in ("n_used", *_FIELDS)}
    return rows


def n_quarantined(made: Table) -> int:
    """Log-probs that are quarantined with a value."""
    return sum(made.quarantined.values())


def _rows(run: Run, made: Table) -> dict[tuple[str, str, str], dict[str, Any]]:
    arrays = {
        policy: {judge: data for judge, data in modes.items() if np.isfinite(data.judge).any()}
        for policy, modes in run.arrays(made).items()
        if policy != made.logging_policy
    }
    found = evaluate.study(arrays, run.params.estimation.analysis, made.quarantined, run._flags, SHOWN, reports=False)
    return {(r["policy"], r["judge"], r["estimator"]): r for r in found.rows}


def _aside(pair: np.ndarray) -> int:
    return int((pair == 1).any(axis=1).sum())


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The effect for a table: clean and all finite rows side by side, and the bounds of SNIPS."""
    out = [
        {k: r[k] for k in ("policy", "judge", "estimator")}
        | {"rows left out": r["n_set_aside"], "value": r["value"], "verdict": r["verdict"]}
        | {"interval": _range((r["ci_low"], r["ci_high"]))}
        | {"all finite rows": r["all"]["value"], "their verdict": r["all"]["verdict"]}
        | {"bounds by share": _range(r["bounds_by_share"]), "bounds by weight": _range(r["bounds_by_weight"])}
        for r in rows
    ]
    columns = ["policy", "judge", "estimator", "rows left out", "value", "interval", "verdict", "all finite rows"]
    return pd.DataFrame(out, columns=[*columns, "their verdict", "bounds by share", "bounds by weight"])


def _range(pair: tuple[float | None, float | None] | list[float] | None) -> str:
    return "" if pair is None or None in tuple(pair) else f"{pair[0]:.3f} to {pair[1]:.3f}"


def sentence(rows: list[dict[str, Any]], found: dict[str, Any]) -> str:
    """What quarantine does to the estimates, and how much can hide in them."""
    moved = [r for r in rows if r["value"] is not None and r["all"]["value"] is not None]
    if not rows:
        return "Nothing was judged, so that there is no estimate that quarantine could move."
    if not any(r["n_set_aside"] for r in rows):
        bad = sum(t["bad"] for t in found["tests"])
        told = f"; {bad:,} scores or labels failed or were quarantined, and estimates leave them out" if bad else ""
        return f"No log-prob was quarantined: every estimate rests on all rows that were scored{told}."
    if not moved:
        return "No estimate can be made on what is left, so that the effect of quarantine is not known."
    if all(r["all"]["n_used"] == r["n_used"] for r in moved):
        out = "What the rows left out would do to the estimates is not known: they failed and have no value."
    else:
        worst = max(moved, key=lambda r: abs(r["value"] - r["all"]["value"]))
        out = (
            f"Quarantine moves an estimate by at most {abs(worst['value'] - worst['all']['value']):.3f} "
            f"({worst['estimator']} of {worst['policy']}: {worst['value']:.3f} on clean rows, "
            f"{worst['all']['value']:.3f} on all finite ones)."
        )
    bounded = [r for r in moved if r["bounds_by_share"]]
    if not bounded:
        return out
    at_random = not any(t["job"] == LOGPROBS for t, _ in dependent(found["tests"]))
    wide = max(bounded, key=lambda r: r["bounds_by_share"][1] - r["bounds_by_share"][0])
    low, high = wide["bounds_by_share"]
    out += (
        f" If {wide['policy']} says the {wide['n_set_aside']:,} rows as often as the logging policy does, and they are "
        f"all worth 0 or all worth 1, its SNIPS lies between {low:.3f} and {high:.3f}"
        + (": nothing says that they differ from the others." if at_random else "; they are not missing at random.")
    )
    if by_weight := wide["bounds_by_weight"]:
        return f"{out} Without that assumption, between {by_weight[0]:.3f} and {by_weight[1]:.3f}."
    return f"{out} Without that assumption nothing bounds it."
