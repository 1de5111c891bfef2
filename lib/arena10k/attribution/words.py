"""The findings in words: one sentence per policy, one paragraph per run, and the rows of anomaly.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from arena10k.attribution.game import CAUSES
from arena10k.attribution.investigation import Finding, Investigation, investigate_table
from arena10k.wording import number

if TYPE_CHECKING:
    import pandas as pd

    from arena10k.tables.table import Table

_ESTIMATOR = {"ppi_pp": "labels on its own draws", "direct": "its own draws, judged and calibrated"}


def figure(value: float) -> str:
    """A value in a sentence: two decimals near one, three digits for weights far from it."""
    if not np.isfinite(value):
        return "unknown"
    size = abs(value)
    if size >= 1e4 or 0 < size < 1e-3:
        return number(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.2g}" if size < 0.095 else f"{value:.2f}"


def share_words(x: float) -> str:
    """A share in per cent, never rounded to all or nothing."""
    if x in (0, 1):
        return f"{100 * x:.0f} %"
    if 0 < x < 0.001:
        return "under 0.1 %"
    if 0.999 < x < 1:
        return "over 99.9 %"
    return f"{100 * x:.1f} %" if x < 0.1 or x > 0.9 else f"{100 * x:.0f} %"


def place(rank: int, n: int) -> str:
    """`first of 4`."""
    words = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
    return f"{words[rank - 1] if rank <= len(words) else f'number {rank}'} of {n}"


def level(confidence: float) -> str:
    """`95 %`."""
    return f"{100 * confidence:g} %"


def listed(names: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1] if names else "")))


def trusted_words(row: Mapping[str, Any], confidence: float) -> str:
    """The trusted value with interval and origin, from its row (`Finding.trusted`)."""
    origin = _ESTIMATOR[row["estimator"]]
    caution = ", with caution: " + " and ".join(r.replace("_", " ") for r in row["reasons"]) if row["reasons"] else ""
    return (
        f"{row['value']:.3f} ({level(confidence)} interval {row['ci_low']:.3f} to {row['ci_high']:.3f}, from {origin}"
        f"{caution if row['verdict'] == 'CAUTION' else ''})"
    )


def cause_words(f: Finding) -> str:
    """The main cause in plain words, with the fact behind it."""
    mean = f.estimate["mean_weight"]
    fresh = f.game.prep.fresh.judge.mean() if len(f.game.prep.fresh) else float("nan")
    if f.main_cause == "corrupted_logprobs":
        rows = f"{f.corrupted} logged rows" if f.corrupted != 1 else "one logged row"
        return (
            f"corrupted log-probabilities: {rows} with a number in place of a measurement carry "
            f"{share_words(f.corrupted_share)} of the weight, so the published number is about them, not the policy"
        )
    if f.main_cause == "clipping":
        return f"clipping of the log-weights at ±{f.clip:g}, which replaces what the heaviest rows say by a constant"
    if f.main_cause == "tail":
        return (
            f"the heavy tail of the weights: {figure(f.published.audit.ess)} rows' worth of evidence decide the number"
        )
    if f.main_cause == "judge_bias":
        return "the judge's bias: on the oracle's scale the same responses are worth something else"
    if mean is not None and mean < 0.8:
        return (
            f"off-support mass: the weights average {figure(mean)} instead of 1, so about {share_words(1 - mean)} of "
            f"what this policy says is never seen in the log; self-normalising hides it by averaging rewards of logged "
            f"responses alone (unnormalised, the same weights give {figure(mean * f.mass.on)})"
        )
    return (
        f"off-support mass: the judge gives the policy's own draws {figure(fresh)}, which no weighting of the logged "
        f"responses reproduces (mean weight {'unknown' if mean is None else figure(mean)})"
    )


def _contribution(f: Finding) -> str:
    j = CAUSES.index(f.main_cause)
    if not np.isfinite(f.parts[j]):
        return ""
    span = f"{level(f.confidence)} interval {f.part_low[j]:.2f} to {f.part_high[j]:.2f}"
    text = f" It contributes {f.parts[j]:.2f} ({span}) to the gap of {f.gap:.2f} between published and trusted"
    others = [i for i in range(len(CAUSES)) if i != j and abs(f.parts[i]) > 0.25 * abs(f.parts[j])]
    clear = [i for i in others if f.part_low[i] > 0 or f.part_high[i] < 0]
    if clear:
        told = [
            f"{CAUSES[i].replace('_', ' ')} {f.parts[i]:+.2f}" for i in sorted(clear, key=lambda i: -abs(f.parts[i]))
        ]
        text += f"; also {listed(told)}"
    return text + "."


def needs(f: Finding) -> str:
    """What would settle the policy's value."""
    labels = f"{f.labels_needed:,} oracle labels" if f.labels_needed else "oracle labels"
    if not len(f.game.prep.fresh):
        return f"draws from {f.policy} itself, judged, and {labels} on them"
    return f"{labels} on the policy's own draws"


def _truth(f: Finding, inv: Investigation) -> str:
    if f.policy not in inv.truth:
        return ""
    value, se = inv.truth[f.policy]
    return f" Its true value, measured, is {value:.3f}" + (f" (standard error {se:.3f})." if np.isfinite(se) else ".")


def _ranked(f: Finding, inv: Investigation) -> str:
    return f"{f.policy} ranks {place(f.rank, len(inv.findings))} by SNIPS on judge scores, at {f.published.value:.3f}"


def _trusted_place(row: Mapping[str, Any], inv: Investigation) -> str:
    known = [g.trusted["value"] for g in inv.findings.values() if g.trusted is not None]
    if len(known) < 2:
        return ""
    rank = 1 + sum(value > row["value"] for value in known)
    return f", last of {len(known)}" if rank == len(known) else f", {place(rank, len(known))}"


def sentence(f: Finding, inv: Investigation) -> str:
    """What is known about one policy."""
    if not np.isfinite(f.published.value):
        return f"{f.policy} has no SNIPS value: no logged row carries a usable log-weight.{_truth(f, inv)}"
    start, refused = _ranked(f, inv), f.estimate["verdict"] == "REFUSE"
    verdict = " (verdict REFUSE)" if refused else ""
    if f.anomaly is None:
        return (
            f"{start}{verdict}; whether that is right cannot be told without a trusted value, which takes {needs(f)}."
            f"{_truth(f, inv)}"
        )
    if f.anomaly:
        return f"{start}{verdict}. {_anomaly(f, inv)}{_truth(f, inv)}"
    if f.policy == inv.logging_policy:
        agrees = "; it is the logging policy, so this is the plain mean of the judge's scores"
    else:
        agrees = f"{verdict}, and its own draws do not contradict that: the judge gives them {_fresh(f):.3f}"
    if f.trusted is None:
        return f"{start}{agrees}. Its value on the oracle's scale takes {needs(f)}.{_truth(f, inv)}"
    return (
        f"{start}{agrees}. On the oracle's scale its value is {trusted_words(f.trusted, f.confidence)}.{_truth(f, inv)}"
    )


def _fresh(f: Finding) -> float:
    return float(f.game.prep.fresh.judge.mean())


def _anomaly(f: Finding, inv: Investigation) -> str:
    if f.trusted is None:
        cause = f" The main cause is {cause_words(f)}." if f.main_cause else ""
        return (
            f"That cannot be right: the judge gives the policy's own draws {_fresh(f):.3f}.{cause} "
            f"A value on the oracle's scale takes {needs(f)}."
        )
    text = f"Its trusted value is {trusted_words(f.trusted, f.confidence)}{_trusted_place(f.trusted, inv)}."
    if f.main_cause is None:
        return f"{text} No single cause of the gap of {f.gap:.2f} stands out from its noise."
    return f"{text} The main cause is {cause_words(f)}.{_contribution(f)}"


def _advice(found: list[Finding]) -> str:
    worst = found[0]
    steps = []
    if any(f.main_cause == "corrupted_logprobs" for f in found):
        steps.append("set the corrupted rows aside and score them again")
    steps.append(
        "leave the SNIPS value out of every ranking"
        if len(found) == 1
        else "leave these SNIPS values out of every ranking"
    )
    if worst.trusted is not None and worst.trusted["verdict"] == "REPORT":
        steps.append(f"use the trusted value of {worst.policy}")
    else:
        steps.append(f"collect {needs(worst)}")
    return f"What to do: {listed(steps)}."


def _best_trusted(findings: list[Finding]) -> str:
    known = {f.policy: f.trusted for f in findings if f.trusted is not None}
    if not known:
        return ""
    best = max(known, key=lambda policy: known[policy]["value"])
    return f" The highest trusted value is that of {best}: {trusted_words(known[best], findings[0].confidence)}."


def verdict_paragraph(inv: Investigation) -> str:
    """The verdict of a run in one paragraph: ranking by SNIPS, trusted value, main cause, what to do."""
    order = sorted(inv.findings.values(), key=lambda f: -np.nan_to_num(f.published.value, nan=-1))
    ranking = listed([f"{f.policy} ({figure3(f.published.value)})" for f in order])
    start = f"The published ranking, by SNIPS on judge scores, is {ranking}."
    unknown = [f.policy for f in order if f.anomaly is None]
    open_ = f" Not checked for lack of draws of their own: {listed(unknown)}." if unknown else ""
    found = inv.anomalies
    if not found:
        rate, tolerance = inv.detection.rate, inv.detection.tolerance
        checked = len([f for f in order if f.anomaly is not None and f.policy != inv.logging_policy])
        if not checked:
            return f"{start} Whether it is right cannot be told:{open_.replace(' Not', ' not')}"
        refused = [f.policy for f in order if f.estimate["verdict"] == "REFUSE"]
        still = (
            f" The weight-based value of {listed(refused)} is refused all the same, as the log cannot support it."
            if refused
            else ""
        )
        return (
            f"{start} No anomaly: no published number differs from what the policy's own draws say by more than "
            f"{tolerance:g} and chance, and no published order contradicts the trusted one beyond chance (a false "
            f"alarm in at most {100 * rate:.0f} % of such runs).{_best_trusted(order)}{still}{open_}"
        )
    lead = found[0]
    rest = [f"{f.policy} ({f.main_cause.replace('_', ' ') if f.main_cause else 'cause unclear'})" for f in found[1:]]
    more = f" The same test also rejects the published numbers of {listed(rest)}." if rest else ""
    return f"{start} {sentence(lead, inv)}{more}{open_} {_advice(found)}"


def figure3(value: float) -> str:
    """Three decimals, or the word for a missing value."""
    return f"{value:.3f}" if np.isfinite(value) else "no value"


def _number(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None


def anomaly_row(f: Finding, inv: Investigation) -> dict[str, Any]:
    """The row of one policy in anomaly.json; numbers are numbers or None."""
    row = f.trusted
    parts = zip(CAUSES, f.parts, f.part_low, f.part_high, strict=True)
    return {
        "policy": f.policy,
        "published": _number(f.published.value),
        "trusted": row["value"] if row else None,
        "trusted_ci": [row["ci_low"], row["ci_high"]] if row else None,
        "trusted_estimator": row["estimator"] if row else None,
        "confidence": f.confidence,
        "gap": _number(f.gap),
        "parts": [
            {"cause": c, "value": _number(v), "ci_low": _number(lo), "ci_high": _number(hi)} for c, v, lo, hi in parts
        ],
        "main_cause": f.main_cause,
        "anomaly": f.anomaly,
        "rank": f.rank,
        "rank_first_probability": _number(f.rank_first),
        "mean_weight": f.estimate["mean_weight"],
        "corrupted_rows": f.corrupted,
        "corrupted_weight_share": _number(f.corrupted_share),
        "verdict": f.estimate["verdict"],
        "sentence": sentence(f, inv),
    }


def anomaly_json(inv: Investigation) -> dict[str, Any]:
    """anomaly.json of an investigation."""
    flip = inv.flip
    return {
        "judge": inv.judge_mode,
        "false_alarm_rate": inv.detection.rate,
        "tolerance": inv.detection.tolerance,
        "paragraph": verdict_paragraph(inv),
        "rows_to_change_winner": None
        if flip is None
        else {"winner": flip.winner, "rival": flip.rival, "rows": len(flip.rows), "exact": flip.exact},
        "inversions": [
            {
                "published_above": i.above,
                "trusted_above": i.below,
                "trusted_difference": i.trusted_difference,
                "beyond_noise": i.beyond_noise,
            }
            for i in inv.detection.inversions
        ],
        "policies": [anomaly_row(f, inv) for f in inv.findings.values()],
    }


def anomaly(
    table: Table,
    judge_mode: str = "deterministic",
    raw_logp: pd.DataFrame | None = None,
    clip: float | None = None,
    **options: Any,
) -> dict[str, Any]:
    """anomaly.json of a table: `investigate_table`, then `anomaly_json`."""
    return anomaly_json(investigate_table(table, judge_mode, raw_logp, clip, **options))


def frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """The policies of anomaly.json as a frame, the trusted interval in two columns, the main cause in words."""
    import pandas as pd

    rows = []
    for row in result["policies"]:
        low, high = row["trusted_ci"] or (None, None)
        cause = row["main_cause"].replace("_", " ") if row["main_cause"] else None
        told = {True: "yes", False: "no", None: "not testable"}[row["anomaly"]]
        rows.append(row | {"trusted_low": low, "trusted_high": high, "main_cause": cause, "anomaly": told})
    return pd.DataFrame(rows)
