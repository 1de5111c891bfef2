"""What quarantine does: are measurements missing at random, and what do estimates say with and without them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from arena10k.collection.jobs import LOGPROBS, ORACLE, RESPONSES, judging
from arena10k.estimation import missingness
from arena10k.frames.records import FAILED, OK, QUARANTINED, read
from arena10k.frames.table import Table
from arena10k.report.files import plain
from arena10k.run import Run
from arena10k.wording import listed, number

#: Estimators that rest on weights alone, and on weights and fresh draws.
SHOWN = ("snips", "dr_cpo")
_FIELDS = ("value", "ci_low", "ci_high", "verdict", "mean_weight")
#: What failures may depend on, as sentences say it.
WHAT = {"response_chars": "response length", "prompt_chars": "prompt length", "language": "language"}


def failures(run: Run) -> pd.DataFrame:
    """Every log-prob, score and label as it is now: `job`, `policy`, `prompt_id`, `draw`, `bad` (1.0 where it failed or
    was quarantined, else 0.0), and of what it measures `response_chars`, `prompt_chars`, `language`.

    Log-probs measure the logged responses, scores and labels the policy's own. A log-prob of a logged response that is
    itself quarantined is bad.
    """
    jobs = [LOGPROBS, *judging(run.params), ORACLE]
    answers, rows = read(run.source.reading, RESPONSES), read(run.source.reading, *jobs)
    answers = answers[answers.status != FAILED].rename(columns={"policy": "measured"})
    answers["response_chars"] = answers["value"].str.len().astype(float)
    rows = rows[rows.policy.isin(run.params.policies)]
    rows["measured"] = rows.policy.where(rows.job != LOGPROBS, run.params.logging_policy)
    measured = ["measured", "prompt_id", "draw"]
    rows = rows.merge(answers[[*measured, "response_chars", "status"]], on=measured, suffixes=("", "_of_response"))
    unusable = (rows.job == LOGPROBS) & (rows.status_of_response == QUARANTINED)
    rows["bad"] = ((rows.status != OK) | unusable).astype(float)
    asked = run.prompts.drop_duplicates("prompt_id").set_index("prompt_id")
    rows["prompt_chars"] = rows.prompt_id.map(asked.prompt.str.len()).astype(float)
    rows["language"] = rows.prompt_id.map(asked.language) if "language" in asked else None
    rank = {name: i for i, name in enumerate([*jobs, *run.params.policies])}
    order = rows[["job", "policy"]].map(rank.get).sort_values(["job", "policy"], kind="stable").index
    return rows.loc[order, ["job", "policy", "prompt_id", "draw", "bad", *WHAT]].reset_index(drop=True)


def _bad_logprobs(failed: pd.DataFrame, policies: list[str]) -> np.ndarray:
    """Which log-probs of `failures` are bad (logged rows, policies): 1.0, 0.0, NaN where there is no record."""
    own = failed[failed.job == LOGPROBS]
    by_row = own.pivot_table(index=["prompt_id", "draw"], columns="policy", values="bad")
    return np.asarray(by_row.reindex(columns=policies).to_numpy())


def randomness(failed: pd.DataFrame, policies: list[str]) -> dict[str, Any]:
    """Tests of missing at random on `failures`: `shared` (see `missingness.Shared`; log-probs), `tests` (p-values per
    job, policy and covariate of `WHAT`, None where there is nothing to compare), `by_length` (see `by_length`)."""
    tests = []
    for (job, policy), rows in failed.groupby(["job", "policy"], sort=False):
        bad = rows.bad.to_numpy()
        test = {"job": job, "policy": policy, "bad": int(bad.sum()), "rows": len(rows)}
        for covariate in ("response_chars", "prompt_chars"):
            test[covariate] = missingness.depends_on_number(bad, rows[covariate].to_numpy(float))
        tests.append(test | {"language": missingness.depends_on_class(bad, rows.language.to_numpy(object))})
    shared = dataclasses.asdict(missingness.shared(_bad_logprobs(failed, policies)))
    missing: dict[str, Any] = plain({"shared": shared, "tests": tests, "by_length": by_length(failed)})
    return missing


def by_length(failed: pd.DataFrame) -> pd.DataFrame:
    """Bad measurements in fifths of the length of what they measure: see `missingness.strata`."""
    return missingness.strata(failed.bad.to_numpy()[:, None], failed.response_chars.to_numpy(float))


def tests_frame(missing: dict[str, Any]) -> pd.DataFrame:
    """The tests for a table."""
    tests = pd.DataFrame(missing["tests"], columns=["job", "policy", "bad", "rows", *WHAT])
    return tests.rename(columns={key: f"p: {name}" for key, name in WHAT.items()})


def dependent(tests: list[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    """The tests that show a dependence, with the covariate; Bonferroni over all that were made."""
    made = [(t, key) for t in tests for key in WHAT if t[key] is not None]
    return [(t, key) for t, key in made if t[key] * len(made) < missingness.DEPENDS]


def randomness_sentence(missing: dict[str, Any]) -> str:
    """Whether measurements are missing at random, as far as length, language and the other policies tell."""
    if not any(t["bad"] for t in missing["tests"]):
        return "No log-prob, score or label failed or was quarantined: nothing is missing."
    found: dict[str, dict[str, list[str]]] = {}
    for t, x in dependent(missing["tests"]):
        found.setdefault(WHAT[x], {}).setdefault(t["job"], []).append(t["policy"])
    causes = [
        f"failures of {listed([f'{job} ({listed(policies)})' for job, policies in jobs.items()])} depend on {what}"
        for what, jobs in found.items()
    ]
    text = "No dependence of failures on response length, prompt length or language shows."
    if causes:
        text = f"Measurements are not missing at random: {'; '.join(causes)}."
    return text if missing["shared"]["p_value"] is None else f"{text} {shared_sentence(missing['shared'])}"


def shared_sentence(shared: dict[str, Any]) -> str:
    """Whether log-probs fail on the same rows for several policies: see `missingness.Shared`."""
    p = shared["p_value"]
    if p is None:
        return "Fewer than two policies were scored on the same rows: whether failures come together is not known."
    if not shared["observed"]:
        return f"No row of {shared['rows']:,} failed for more than one policy."
    return (
        f"{shared['observed']:,} of {shared['rows']:,} rows failed for more than one policy; independent failures give "
        f"{shared['expected']:.1f} (p {number(p)})"
        + (": they have a common cause." if p < missingness.DEPENDS else ".")
    )


def measure(run: Run, failed: pd.DataFrame) -> list[dict[str, Any]]:
    """Per target, judge and estimator of `SHOWN`, `failed` being `failures`: `n_set_aside` (rows that were asked
    for and have no usable weight); `value`, `ci_low`, `ci_high`, `verdict`, `mean_weight` on clean rows; `all`, the
    same on all finite rows; `bounds_by_share` and `bounds_by_weight`, worst-case bounds for SNIPS (see
    `missingness.bounds`)."""

    def estimates(table: Table) -> dict[tuple[str, str, str], dict[str, Any]]:
        study = run.study(table, table.targets, SHOWN)
        judged = {key for key, ctx in study.contexts.items() if np.isfinite(ctx.data.logged.judge).any()}
        rows = (row for row in study.rows if (row["policy"], row["judge"]) in judged)
        return {(row["policy"], row["judge"], row["estimator"]): row for row in rows}

    clean, names = run.table(), list(run.params.policies)
    bad = dict(zip(names, _bad_logprobs(failed, names).T == 1, strict=True))
    on_clean = on_all = estimates(clean)
    if any(clean.quarantined.values()):
        with np.errstate(over="ignore"):  # values that are no log-probs make weights beyond any number
            on_all = estimates(clean.as_stored())
    rows = []
    for (policy, judge, estimator), row in on_clean.items():
        n_out = int((bad[policy] | bad[clean.logging_policy]).sum())
        limits = missingness.Bounds((np.nan, np.nan), None)
        if estimator == "snips" and row["value"] is not None and row["mean_weight"] is not None:
            limits = missingness.bounds(row["value"], row["n_used"], n_out, row["mean_weight"])
        by_share = None if np.isnan(limits.by_share[0]) else list(limits.by_share)
        rows.append(
            {"policy": policy, "judge": judge, "estimator": estimator, "n_used": row["n_used"], "n_set_aside": n_out}
            | {k: row[k] for k in _FIELDS}
            | {"bounds_by_share": by_share, "bounds_by_weight": list(limits.by_weight) if limits.by_weight else None}
            | {"all": {k: on_all[policy, judge, estimator][k] for k in ("n_used", *_FIELDS)}}
        )
    return rows


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The effect for a table: clean and all finite rows side by side, and the bounds of SNIPS."""

    def between(pair: Sequence[float | None] | None) -> str:
        return "" if pair is None or None in pair else f"{pair[0]:.3f} to {pair[1]:.3f}"

    columns = ["policy", "judge", "estimator", "n_set_aside", "value", "verdict"]
    table = pd.DataFrame(rows, columns=columns).rename(columns={"n_set_aside": "rows left out"})
    table.insert(5, "interval", [between((r["ci_low"], r["ci_high"])) for r in rows])
    table["all finite rows"], table["their verdict"] = ([r["all"][x] for r in rows] for x in ("value", "verdict"))
    for kind in ("share", "weight"):
        table[f"bounds by {kind}"] = [between(r[f"bounds_by_{kind}"]) for r in rows]
    return table


def sentence(rows: list[dict[str, Any]], missing: dict[str, Any]) -> str:
    """What quarantine does to the estimates (`measure`), and how much can hide in it; `missing` is `randomness`."""
    tests = missing["tests"]
    if not rows:
        return "Nothing was judged, so that there is no estimate that quarantine could move."
    if not any(r["n_set_aside"] for r in rows):
        bad = sum(t["bad"] for t in tests)
        scores = f"; {bad:,} scores or labels failed or were quarantined, and estimates leave them out" if bad else ""
        return f"No log-prob was quarantined: every estimate rests on all rows that were scored{scores}."
    valued = [r for r in rows if r["value"] is not None and r["all"]["value"] is not None]
    if not valued:
        return "No estimate can be made on what is left, so that the effect of quarantine is not known."
    text = "What the rows left out would do to the estimates is not known: they failed and have no value."
    if any(r["all"]["n_used"] != r["n_used"] for r in valued):
        worst = max(valued, key=lambda r: abs(r["value"] - r["all"]["value"]))
        text = (
            f"Quarantine moves an estimate by at most {abs(worst['value'] - worst['all']['value']):.3f} "
            f"({worst['estimator']} of {worst['policy']}: {worst['value']:.3f} on clean rows, "
            f"{worst['all']['value']:.3f} on all finite ones)."
        )
    bounded = [r for r in valued if r["bounds_by_share"]]
    if not bounded:
        return text
    widest = max(bounded, key=lambda r: r["bounds_by_share"][1] - r["bounds_by_share"][0])
    low, high = widest["bounds_by_share"]
    depends = any(t["job"] == LOGPROBS for t, _ in dependent(tests))
    text += (
        f" If {widest['policy']} says the {widest['n_set_aside']:,} rows as often as the logging policy does, and they "
        f"are all worth 0 or all worth 1, its SNIPS lies between {low:.3f} and {high:.3f}"
        + ("; they are not missing at random." if depends else ": nothing says that they differ from the others.")
    )
    if by_weight := widest["bounds_by_weight"]:
        return f"{text} Without that assumption, between {by_weight[0]:.3f} and {by_weight[1]:.3f}."
    return f"{text} Without that assumption nothing bounds it."
