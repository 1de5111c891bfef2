"""What quarantine does: are measurements missing at random, and what do estimates say with and without them.

`bad` (rows, policies): 1.0 where a measurement failed or was quarantined, 0.0 where it can be used, NaN where it was
never asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from arena10k.collection.jobs import LOGPROBS, ORACLE, RESPONSES, judging
from arena10k.estimation.intervals import missing_mass_interval
from arena10k.frames.records import FAILED, OK, QUARANTINED, read
from arena10k.frames.table import Table
from arena10k.report.files import plain
from arena10k.run import Run
from arena10k.wording import listed, number

#: Estimators that rest on weights alone, and on weights and fresh draws.
SHOWN = ("snips", "dr_cpo")
_FIELDS = ("value", "ci_low", "ci_high", "verdict", "mean_weight")
#: The chance of calling random failures dependent, over all tests of a run; permutations of a test.
DEPENDS, RESAMPLES = 0.05, 1999
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
    """Tests of missing at random on `failures`: `shared` (see `shared`; log-probs), `tests` (p-values per
    job, policy and covariate of `WHAT`, None where there is nothing to compare), `by_length` (see `by_length`)."""
    tests = []
    for (job, policy), rows in failed.groupby(["job", "policy"], sort=False):
        bad = rows.bad.to_numpy()
        test = {"job": job, "policy": policy, "bad": int(bad.sum()), "rows": len(rows)}
        for covariate in ("response_chars", "prompt_chars"):
            test[covariate] = depends_on_number(bad, rows[covariate].to_numpy(float))
        tests.append(test | {"language": depends_on_class(bad, rows.language.to_numpy(object))})
    together = shared(_bad_logprobs(failed, policies))
    missing: dict[str, Any] = plain({"shared": together, "tests": tests, "by_length": by_length(failed)})
    return missing


def shared(bad: np.ndarray) -> dict[str, float]:
    """`rows`, those `observed` to be bad for two or more policies, how many are `expected` of independent failures
    (each policy fails at its own rate, rows are alike), and the chance of as many or more (`p_value`)."""
    asked = bad[:, np.isfinite(bad).any(axis=0)]
    complete = asked[np.isfinite(asked).all(axis=1)]
    n = len(complete)
    if not n or complete.shape[1] < 2:
        return {"rows": 0, "observed": 0, "expected": 0.0, "p_value": float("nan")}
    rate, observed = complete.mean(axis=0), int((complete.sum(axis=1) >= 2).sum())
    one = sum(rate[k] * np.prod(np.delete(1 - rate, k)) for k in range(len(rate)))
    chance = float(np.clip(1 - np.prod(1 - rate) - one, 0, 1))
    p = float(stats.binom.sf(observed - 1, n, chance))
    return {"rows": n, "observed": observed, "expected": n * chance, "p_value": p}


def depends_on_number(bad: np.ndarray, x: np.ndarray) -> float:
    """p-value of bad and good rows (rows,) having the same `x` (Mann-Whitney, two-sided); NaN where there is nothing to
    compare."""
    failed, good = (x[np.isfinite(x) & (bad == is_bad)] for is_bad in (1, 0))
    return float(stats.mannwhitneyu(failed, good).pvalue) if len(failed) and len(good) else float("nan")


def depends_on_class(bad: np.ndarray, group: np.ndarray) -> float:
    """p-value of bad rows being spread over the classes of `group` (rows,) like good ones (chi-squared statistic,
    permutations, seeded); NaN where there is nothing to compare."""
    usable = np.isfinite(bad) & pd.notna(group)
    table = pd.crosstab(group[usable], bad[usable]).to_numpy()
    if min(table.shape, default=0) < 2:
        return float("nan")
    method = stats.PermutationMethod(n_resamples=RESAMPLES, rng=np.random.default_rng(0))
    return float(stats.chi2_contingency(table, correction=False, method=method).pvalue)


def by_length(failed: pd.DataFrame) -> pd.DataFrame:
    """Bad measurements in fifths of the length of what they measure: `lowest`, `highest` (characters), `rows`, `bad`,
    `share`."""
    known = failed[np.isfinite(failed.response_chars)]
    if known.empty:
        return pd.DataFrame(columns=["lowest", "highest", "rows", "bad", "share"])
    by = known.groupby(pd.qcut(known.response_chars, 5, labels=False, duplicates="drop").fillna(0))
    chars, bad = by.response_chars, by.bad.sum().astype(int)
    out = pd.DataFrame({"lowest": chars.min(), "highest": chars.max(), "rows": by.size(), "bad": bad})
    return out.assign(share=out.bad / out.rows).reset_index(drop=True)


def bounds(value: float, n_used: int, n_aside: int, mean_weight: float) -> dict[str, tuple[float, float] | None]:
    """Where the policy value may lie whatever the `n_aside` rows are worth, from the estimate `value` on the `n_used`
    clean rows; rewards in [0, 1].

    `bounds_by_share` (Manski 1990): the target says these rows as often as P0 does; they are worth 0 or 1.
    `bounds_by_weight` assumes no share: since E_P0[w] = 1, what the clean rows do not carry of all n, 1 - sum(w) / n
    (`mean_weight` is theirs), may be worth 0 or 1, what the logs never show included; None where they carry all of it.
    """
    n = n_used + n_aside
    if not n or not np.isfinite(value):
        return {"bounds_by_share": None, "bounds_by_weight": None}
    carried = mean_weight * n_used / n if n_used else 0.0
    by_weight = missing_mass_interval(carried, value) if carried < 1 else None
    return {"bounds_by_share": missing_mass_interval(n_used / n, value), "bounds_by_weight": by_weight}


def tests_frame(missing: dict[str, Any]) -> pd.DataFrame:
    """The tests for a table."""
    tests = pd.DataFrame(missing["tests"], columns=["job", "policy", "bad", "rows", *WHAT])
    return tests.rename(columns={key: f"p: {name}" for key, name in WHAT.items()})


def dependent(tests: list[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    """The tests that show a dependence, with the covariate; Bonferroni over all that were made."""
    made = [(t, key) for t in tests for key in WHAT if t[key] is not None]
    return [(t, key) for t, key in made if t[key] * len(made) < DEPENDS]


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


def shared_sentence(together: dict[str, Any]) -> str:
    """Whether log-probs fail on the same rows for several policies: see `shared`."""
    p = together["p_value"]
    if p is None:
        return "Fewer than two policies were scored on the same rows: whether failures come together is not known."
    if not together["observed"]:
        return f"No row of {together['rows']:,} failed for more than one policy."
    return (
        f"{together['observed']:,} of {together['rows']:,} rows failed for more than one policy; independent failures "
        f"give {together['expected']:.1f} (p {number(p)})" + (": they have a common cause." if p < DEPENDS else ".")
    )


def measure(run: Run, failed: pd.DataFrame) -> list[dict[str, Any]]:
    """Per target, judge and estimator of `SHOWN`, `failed` being `failures`: `n_set_aside` (rows that were asked
    for and have no usable weight); `value`, `ci_low`, `ci_high`, `verdict`, `mean_weight` on clean rows; `all`, the
    same on all finite rows; `bounds_by_share` and `bounds_by_weight`, worst-case bounds for SNIPS (see `bounds`)."""

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
        bounded = estimator == "snips" and row["value"] is not None and row["mean_weight"] is not None
        value, mean = (row["value"], row["mean_weight"]) if bounded else (np.nan, np.nan)
        rows.append(
            {"policy": policy, "judge": judge, "estimator": estimator, "n_used": row["n_used"], "n_set_aside": n_out}
            | {k: row[k] for k in _FIELDS}
            | bounds(value, row["n_used"], n_out, mean)
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
