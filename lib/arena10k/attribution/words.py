"""The findings in words and tables: a sentence per policy; the verdict of a run: answer, why, what to do; anomaly.json;
and what stands beside it: how few rows decide, which pairs are in the wrong order, what the missing mass must be
worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from arena10k.attribution.game import CAUSE_WORDS, CAUSES
from arena10k.attribution.investigation import FALSE_ALARM_RATE, TOLERANCE, Attribution, Investigation
from arena10k.attribution.weights import rank
from arena10k.wording import ESTIMATOR_WORDS, JUDGE_SNIPS, listed, number, percent, rounded, with_interval

_ORIGIN = ESTIMATOR_WORDS | {"ppi_pp": "labels on its own draws", "direct": "its own draws, judged and calibrated"}
_PLACES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_MASS, _BEYOND = CAUSES.index("off_support"), CAUSES.index("weights_do_not_match_draws")


def _place(rank: int, n: int) -> str:
    """`first of 4`."""
    return f"{_PLACES[rank - 1] if rank <= len(_PLACES) else f'number {rank}'} of {n}"


def _reasons(row: Mapping[str, Any]) -> list[str]:
    return [reason.replace("_", " ") for reason in row["reasons"]]


def _trusted(f: Attribution) -> str:
    """The trusted value with interval and origin; nothing where there is none."""
    if (row := f.trusted) is None:
        return ""
    value = with_interval(row["value"], row["ci_low"], row["ci_high"], f.confidence).removesuffix(")")
    cautious = row["verdict"] == "CAUTION" and row["reasons"]
    caution = f", with caution: {' and '.join(_reasons(row))}" if cautious else ""
    return f"{value}, from {_ORIGIN.get(row['estimator'], row['estimator'])}{caution})"


def _cause(f: Attribution) -> str:
    """The main cause in plain words, with the fact behind it, and what it contributes to the gap."""
    rows = f"{f.corrupted} logged rows" if f.corrupted != 1 else "one logged row"
    covered, own_draws = f.mass["covered"], f"the judge gives the policy's own draws {rounded(f.own_draws)}"
    cause = {
        "corrupted_logprobs": f"corrupted log-probabilities: {rows} with a number in place of a measurement carry "
        f"{percent(f.corrupted_share)} of the weight, so the number is about them, not the policy",
        "clipping": f"clipping of the log-weights at ±{f.game.case.clip or 0:g}, which replaces what the heaviest rows "
        "say by a constant",
        "tail": f"the heavy tail of the weights: {number(f.published.audit.ess)} rows' worth of evidence decide the "
        "number",
        "judge_bias": f"the judge's bias: {own_draws}",
        "weights_do_not_match_draws": f"weights that do not match the draws: {own_draws}, which the weights do not "
        "explain; they are of another policy or another definition of it",
        "off_support": f"off-support mass: the weights average {number(covered)} instead of 1, so about "
        f"{percent(1 - covered)} of what this policy says is never seen in the log; self-normalising hides it by "
        "averaging scores of logged responses alone (not normalised, the same weights give "
        f"{rounded(covered * f.mass['on'])})",
    }[str(f.main_cause)]
    j, size = CAUSES.index(str(f.main_cause)), np.abs(f.parts)
    if not np.isfinite(f.parts[j]):
        return f"The main cause is {cause}."
    part = with_interval(f.parts[j], f.part_low[j], f.part_high[j], f.confidence)
    against = "what the judge gives its own draws" if f.trusted is None else "the trusted value"
    clear = ((f.part_low > 0) | (f.part_high < 0)) & (size > 0.25 * size[j]) & (np.arange(len(CAUSES)) != j)
    others = [f"{CAUSE_WORDS[CAUSES[i]]} {f.parts[i]:+.2f}" for i in np.argsort(-size, kind="stable") if clear[i]]
    return (
        f"The main cause is {cause}. It contributes {part} to the gap of {rounded(f.gap)} between {JUDGE_SNIPS} and "
        f"{against}{f'; also in the gap: {listed(others)}' if others else ''}."
    )


def _needs(f: Attribution) -> str:
    """What would settle the policy's value."""
    labels = f"{f.labels_needed:,} oracle labels" if f.labels_needed else "oracle labels"
    if not len(f.game.prep.fresh):
        return f"draws from {f.policy} itself, judged, and {labels} on them"
    there, draws = int(f.game.prep.fresh.labelled.sum()), len(f.game.prep.fresh)
    existing = f" in total, {there:,} existing ones included" if there else ""
    more = f", and more draws than the {draws:,} there are" if (f.labels_needed or 0) > draws else ""
    return f"{labels} on the policy's own draws{existing}{more}"


def _refused(f: Attribution) -> str:
    """That the weights are refused. The verdict is that of SNIPS (calibrated), whose value is another."""
    if f.estimate["verdict"] != "REFUSE":
        return ""
    why = f" ({listed(_reasons(f.estimate))})" if f.estimate["reasons"] else ""
    return f" {ESTIMATOR_WORDS['snips']} is refused for it{why}."


def sentence(f: Attribution, inv: Investigation) -> str:
    """What is known about one policy."""
    return " ".join(filter(None, _what_and_why(f, inv)))


def _what_and_why(f: Attribution, inv: Investigation) -> tuple[str, str]:
    """What is known of the number of a policy, and the cause where it is an anomaly; empty where no cause is clear and
    none can be."""
    truth = ""
    if f.policy in inv.truth:
        value, se = inv.truth[f.policy]
        truth = f" Its true value, measured, is {value:.3f}{f' (standard error {se:.3f})' if np.isfinite(se) else ''}."
    if not np.isfinite(f.published.value):
        return f"{f.policy} has no SNIPS value: no logged row carries a usable log-weight.{truth}", ""
    known = truth
    if f.estimate["verdict"] == "REFUSE":  # that of SNIPS (calibrated), whose value is another
        why = f": {listed(_reasons(f.estimate))}" if f.estimate["reasons"] else ""
        known = f" Its weights are not accepted: {ESTIMATOR_WORDS['snips']} is refused{why}.{truth}"
    start = f"{f.policy} ranks {_place(f.rank, len(inv.policies))} by {JUDGE_SNIPS}, at {rounded(f.published.value)}"
    if f.anomaly is None:
        start += "; whether that is right cannot be told without a trusted value, which takes"
        return f"{start} {_needs(f)}.{known}", ""
    if f.anomaly and f.trusted is None:
        what = f"{start}. That cannot be right: the judge gives the policy's own draws {rounded(f.own_draws)}.{known}"
        takes = f"A value on the oracle's scale takes {_needs(f)}."
        return what, f"{_cause(f)} {takes}" if f.main_cause else takes
    if f.anomaly and f.trusted is not None:
        values = [g.trusted["value"] for g in inv.policies.values() if g.trusted is not None]
        at = rank(f.trusted["value"], values)
        last = f"last of {at}" if at == len(values) else _place(at, len(values))
        what = f"{start}. Its trusted value is {_trusted(f)}{f', {last}' if len(values) > 1 else ''}.{known}"
        rest = f.parts[_BEYOND]
        beyond = f" {rounded(rest)} of it is more than missing mass explains." if abs(rest) > 0.5 * abs(f.gap) else ""
        unclear = f"No single cause of the gap of {rounded(f.gap)} is clear from its noise.{beyond}"
        return what, _cause(f) if f.main_cause else unclear
    if f.policy == inv.logging_policy:
        start += "; it is the logging policy, so this is the plain mean of the judge's scores"
    elif len(f.game.prep.fresh):
        start += f"; the judge gives its own draws {rounded(f.own_draws)}"
    if f.trusted is None:
        return f"{start}. Its value on the oracle's scale takes {_needs(f)}.{known}", ""
    chance = f" The gap of {rounded(f.gap)} could be chance; it takes {_needs(f)} to tell." if f.unsettled else ""
    return f"{start}. Its trusted value is {_trusted(f)}.{chance}{known}", ""


def lead(inv: Investigation) -> list[str]:
    """The verdict of a run as paragraphs of plain text: the answer, why it is so, what to do, the ranking."""
    order, anomalies = inv.order, sorted(inv.anomalies, key=lambda f: f is not inv.focus)
    untested = [f.policy for f in order if f.anomaly is None]
    unchecked = f"Not checked for lack of draws of their own: {listed(untested)}." if untested else ""
    gaps = [f"{f.policy} ({rounded(f.gap)})" for f in order if f.unsettled]
    unsettled = f"Not settled, as chance could explain the gap to the trusted value: {listed(gaps)}." if gaps else ""
    if anomalies:
        others = [f"{f.policy} ({CAUSE_WORDS.get(f.main_cause or '', 'cause unclear')})" for f in anomalies[1:]]
        more = f"Found by the same tests: {listed(others)}." if others else ""
        texts = [*_what_and_why(anomalies[0], inv), more, unsettled, _advice(anomalies), unchecked]
    elif any(f.anomaly is not None and f.policy != inv.logging_policy for f in order):
        trusted = {f.policy: f.trusted["value"] for f in order if f.trusted is not None}
        ordered = len(trusted) > 1 and inv.inversions.empty
        order_too = ", and no order of two policies contradicts the trusted one beyond chance" if ordered else ""
        best = max(trusted, key=lambda policy: trusted[policy], default="")
        refused = [f.policy for f in order if f.estimate["verdict"] == "REFUSE"]
        texts = [
            f"No anomaly is shown: no value of {JUDGE_SNIPS} differs from what the policy's own draws say by more than "
            f"{TOLERANCE * inv.focus.scale.size:g} and chance{order_too} (a false alarm in at most "
            f"{percent(FALSE_ALARM_RATE)} of such runs).",
            unsettled,
            f"The highest trusted value is that of {best}: {_trusted(inv.policies[best])}." if best else "",
            f"{ESTIMATOR_WORDS['snips']} is refused all the same for {listed(refused)}." if refused else "",
            unchecked,
        ]
    else:
        texts = [f"Whether the ranking by {JUDGE_SNIPS} is right cannot be told.", unchecked]
    ranking = listed([f"{f.policy} ({rounded(f.published.value)})" for f in order])
    return [text for text in (*texts, f"The ranking by {JUDGE_SNIPS} is {ranking}.") if text]


def _advice(anomalies: list[Attribution]) -> str:
    worst, these = anomalies[0], "this number" if len(anomalies) == 1 else "these numbers"
    corrupted = any(f.main_cause == "corrupted_logprobs" for f in anomalies)
    steps = ["quarantine the corrupted rows and score them again"] * corrupted
    settled = worst.trusted is not None and worst.trusted["verdict"] == "REPORT"
    value = f"use the trusted value of {worst.policy}" if settled else f"collect {_needs(worst)}"
    return f"What to do: {listed([*steps, f'leave {these} out of every ranking', value])}."


def flip_sentence(inv: Investigation) -> str:
    """How few logged rows decide who is first."""
    if inv.flip is None:
        return f"No small set of logged rows decides which policy {JUDGE_SNIPS} ranks first."
    flip, n = inv.flip, len(next(iter(inv.policies.values())).game.prep.logged)
    dropping = f"Dropping {'one' if flip.exact else len(flip.rows)} of {n:,} judged rows"
    least = "" if flip.exact else "; no single row does, fewer than these might"
    return f"{dropping} puts {flip.rival} above {flip.winner} by {JUDGE_SNIPS}{least}."


def inversions_sentence(inv: Investigation) -> str:
    """How many pairs of policies are in the wrong order."""
    both = sum(f.trusted is not None and np.isfinite(f.published.value) for f in inv.policies.values())
    pairs, inverted = both * (both - 1) // 2, len(inv.inversions)
    if not pairs:
        return f"No two policies have both {JUDGE_SNIPS} and a trusted value, so no order can be checked."
    if not inverted:
        wrong = listed([f.policy for f in inv.anomalies])
        still = f"; the number of {wrong} is wrong all the same" if wrong else ""
        return f"None of the {pairs} pairs of policies is in the wrong order beyond chance{still}."
    above = listed(list(inv.inversions.above.unique()))
    return f"{inverted} of the {pairs} pairs of policies are in the wrong order beyond chance: {above} ranks too high."


def mass_sentence(inv: Investigation) -> str:
    """What the missing mass of the focus must be worth, and the part of the gap that it is given."""
    f, mass = inv.focus, {name: rounded(value) for name, value in inv.focus.mass.items()}
    if not np.isfinite(f.mass["on"]):
        return f"{f.policy} has no usable log-weight, so nothing is known of its mass."
    if f.game.mismatch:
        return f"The weights of {f.policy} do not match its draws, so they say nothing of its missing mass."
    if f.mass["covered"] >= 1:
        return (
            f"The weights of {f.policy} average at least 1: no mass is missing, and none of its gap is put down to it."
        )
    start = (
        f"The log holds {percent(f.mass['covered'])} of what {f.policy} says, worth {mass['on']} on the oracle's "
        f"scale; the rest is worth something between {f.scale.low:g} and {f.scale.high:g}, so by the weights its value "
        f"lies between {mass['low']} and {mass['high']}."
    )
    if f.trusted is None:
        return start
    possible = f.scale.low <= f.mass["off"] <= f.scale.high
    impossible = "" if possible else ", which nothing is: missing mass alone does not explain the gap"
    return (
        f"{start} At the trusted {rounded(f.trusted['value'])} the unseen responses would be worth {mass['off']}"
        f"{impossible}. Of the gap of {rounded(f.gap)}, {rounded(f.parts[_MASS])} is put down to them."
    )


def anomaly_row(f: Attribution, inv: Investigation) -> dict[str, Any]:
    """The row of one policy in anomaly.json; numbers are numbers or None. `published` is SNIPS on judge scores;
    `calibrated` and `verdict` are those of SNIPS (calibrated)."""

    def known(x: float) -> float | None:
        return float(x) if np.isfinite(x) else None

    row, parts = f.trusted, zip(CAUSES, f.parts, f.part_low, f.part_high, strict=True)
    return {
        "policy": f.policy,
        "published": known(f.published.value),
        "trusted": row["value"] if row else None,
        "trusted_ci": [row["ci_low"], row["ci_high"]] if row else None,
        "trusted_estimator": row["estimator"] if row else None,
        "confidence": f.confidence,
        "on_own_draws": known(f.own_draws),
        "measured": inv.truth.get(f.policy, (None,))[0],
        "gap": known(f.gap),
        "parts": [{"cause": c, "value": known(v), "ci_low": known(a), "ci_high": known(b)} for c, v, a, b in parts],
        "main_cause": f.main_cause,
        "anomaly": f.anomaly,
        "unsettled": f.unsettled,
        "rank": f.rank,
        "rank_first_probability": known(f.rank_first),
        "mean_weight": f.estimate["mean_weight"],
        "corrupted_rows": f.corrupted,
        "corrupted_weight_share": known(f.corrupted_share),
        "calibrated": f.estimate["value"],
        "verdict": f.estimate["verdict"],
        "sentence": sentence(f, inv),
    }


def anomaly_json(inv: Investigation) -> dict[str, Any]:
    """anomaly.json of an investigation."""
    flip, named = inv.flip, {"above": "published_above", "below": "trusted_above"}
    rows = flip and {"winner": flip.winner, "rival": flip.rival, "rows": len(flip.rows), "exact": flip.exact}
    pairs = inv.inversions[["above", "below", "trusted_difference", "beyond_noise"]].rename(columns=named)
    return {
        "judge": inv.judge,
        "false_alarm_rate": FALSE_ALARM_RATE,
        "tolerance": TOLERANCE,
        "paragraph": " ".join(lead(inv)),
        "rows_to_change_winner": rows,
        "inversions": pairs.to_dict("records"),
        "policies": [anomaly_row(f, inv) for f in inv.policies.values()],
    }


def frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """The policies of anomaly.json as a frame, the trusted interval in two columns; `anomaly` in words: its main cause,
    "no", or that chance or lack of data does not let it be told."""
    rows = []
    for row in result["policies"]:
        low, high = row["trusted_ci"] or (None, None)
        cause = CAUSE_WORDS[row["main_cause"]] if row["main_cause"] else "cause unclear"
        words = {True: cause, False: "not settled" if row["unsettled"] else "no", None: "not testable"}[row["anomaly"]]
        rows.append(row | {"trusted_low": low, "trusted_high": high, "anomaly": words})
    return pd.DataFrame(rows)


def parts_frame(row: Mapping[str, Any]) -> pd.DataFrame:
    """What the gap of one policy is made of: `cause` in words, `value`, `ci_low`, `ci_high`."""
    parts = pd.DataFrame(row["parts"])
    return parts.assign(cause=parts.cause.map(CAUSE_WORDS))


def rank_frame(inv: Investigation) -> pd.DataFrame:
    """Per policy, best first by published number: `policy`, `rank`, `published`, `rank_first` (probability under the
    bootstrap), `trusted_rank`, `trusted` (NaN without a trusted value)."""
    rows = [
        (f.policy, f.rank, f.published.value, f.rank_first, f.trusted["value"] if f.trusted else np.nan)
        for f in inv.order
    ]
    ranks = pd.DataFrame(rows, columns=["policy", "rank", "published", "rank_first", "trusted"])
    trusted = ranks.trusted.dropna()
    places = pd.Series({i: rank(value, trusted) for i, value in trusted.items()}, dtype="Int64")
    return ranks.assign(rank=ranks["rank"].where(ranks.published.notna()).astype("Int64"), trusted_rank=places)


def mass_frame(inv: Investigation) -> pd.DataFrame:
    """Per target whose mass the log misses: the fields of `mass_identity` and the `trusted` value."""
    rows = [
        {"policy": p, **f.mass, "trusted": f.trusted["value"] if f.trusted else float("nan")}
        for p, f in inv.policies.items()
        if p != inv.logging_policy and np.isfinite(f.mass["on"]) and f.mass["covered"] < 1
    ]
    return pd.DataFrame(rows)
