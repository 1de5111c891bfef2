"""What the statistics say, as frames and as sentences computed from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from arena10k.estimation import ESTIMATORS
from arena10k.estimation.verdicts import BY_DEFINITION, CAUTION, NO_VERDICT, NOT_ASKED, REFUSE, accepted
from arena10k.report.display import Table, table
from arena10k.report.summary import headline
from arena10k.wording import ESTIMATOR_WORDS, VERDICTS, listed

#: Columns of an estimate, beside its policy.
ESTIMATE = ["estimator", "value", "ci_low", "ci_high", "verdict", "reasons", "labels_needed"]


def agreement_sentence(found: pd.DataFrame, logging_policy: str) -> str:
    """How well the judge tells right from wrong."""
    if found.auc.isna().all():
        same = "All labels beside a judge's score are equal: that says nothing of whether it tells right from wrong."
        return same if found.rows.any() else "No response has both a judge score and an oracle label: it is untested."
    best = found.loc[found.auc.idxmax()]
    within = "" if pd.isna(best.auc_within_p0) else f", {best.auc_within_p0:.2f} within {logging_policy}"
    text = f"The judge {best.judge} agrees best with the oracle: AUC {best.auc:.2f} over all policies"
    return f"{text}{within} (0.5 is guessing)."


def estimates_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows of `estimates.json` as a frame, reasons as one text."""
    frame = pd.DataFrame(rows, columns=None if rows else ["reasons"])
    return frame.assign(reasons=[", ".join(reasons).replace("_", " ") for reasons in frame.reasons])


def headline_frame(estimates: Mapping[str, Any]) -> pd.DataFrame:
    """The estimate that speaks for each policy (of the content of `estimates.json`), as `estimates_frame`."""
    return estimates_frame([dict(row) for row in headline(estimates)])


def estimates_table(frame: pd.DataFrame, caption: str, first: Iterable[str] = ()) -> Table:
    """Estimates (see `estimates_frame`) with interval, verdict and reasons; other columns `first`."""
    return table(frame, columns=[*first, "policy", *ESTIMATE], caption=caption)


def counted(rows: Iterable[dict[str, Any]], judge: str | None = None) -> list[dict[str, Any]]:
    """The rows that sentences count: of one judge, without raw judge means, which are no policy values, and
    without what is no estimate: inputs were not collected, or the value is known."""
    raw = {name for name, estimator in ESTIMATORS.items() if estimator.judge_scale}
    rows = [r for r in rows if r["estimator"] not in raw and r["verdict"] not in NO_VERDICT]
    return [r for r in rows if judge is None or r["judge"] == judge]


def verdict_counts(rows: Iterable[dict[str, Any]], judge: str | None = None) -> dict[str, int]:
    """How many of the `counted` estimates have each verdict; those on the judge's scale apart, where there are any."""
    rows = counted(rows, judge)
    counts = {v.lower(): sum(r["verdict"] == v and (v == REFUSE or accepted(r)) for r in rows) for v in VERDICTS}
    return counts | ({"judges_scale": raw} if (raw := len(rows) - sum(counts.values())) else {})


def estimates_sentence(rows: list[dict[str, Any]], judge: str | None = None) -> str:
    """How many of the `counted` estimates are accepted, and which policies have none."""
    chosen, counts = counted(rows, judge), verdict_counts(rows, judge)
    if not chosen:
        return "There is no estimate to count."
    parts = {
        f"of {len(chosen):,} estimates {{}} accepted": counts["report"] + counts["caution"],
        "{} refused": counts["refuse"],
        "{} on the judge's scale, as no labels calibrate it": counts.get("judges_scale"),
    }
    text = ", ".join(f"{n:,} {part.format('is' if n == 1 else 'are')}" for part, n in parts.items() if n is not None)
    unasked = sum(r["verdict"] == NOT_ASKED and judge in (None, r["judge"]) for r in rows)
    if unasked:
        text += f"; the inputs of {unasked:,} more were not collected"
    weights = [r["policy"] for r in chosen if r["estimator"] == "snips" and r["verdict"] == REFUSE]
    if weights:
        text += f". {ESTIMATOR_WORDS['snips']} is refused for {listed(list(dict.fromkeys(weights)))}"
    some = {r["policy"] for r in chosen if accepted(r)}
    none = [policy for policy in dict.fromkeys(r["policy"] for r in chosen) if policy not in some]
    every = "; every policy has at least one accepted."
    return text + (f". No estimate is accepted for {listed(none)}." if none else every)


def truth_sentence(rows: list[dict[str, Any]], truth: Mapping[str, float], judge: str | None = None) -> str:
    """How often the intervals of `counted` estimates that are accepted hold the true value."""
    if not truth:
        return "The true values of this run are not known."
    measured = [r for r in counted(rows, judge) if r["policy"] in truth and r["value"] is not None]
    standing = [r for r in measured if accepted(r)]
    holds = [r["ci_low"] is not None and r["ci_low"] <= truth[r["policy"]] <= r["ci_high"] for r in standing]
    text = "No estimate of a policy whose true value is known is accepted"
    if holds:
        text = f"{sum(holds)} of {len(holds)} accepted intervals hold the true value"
    errors = [(abs(r["value"] - truth[r["policy"]]), r) for r in measured if r["verdict"] == REFUSE]
    if errors:
        error, worst = max(errors, key=lambda pair: pair[0])
        text += f"; the refused ones are off by up to {error:.2f} ({worst['estimator']} for {worst['policy']})"
    return f"{text}."


def contrasts_sentence(contrasts: list[dict[str, Any]], ranking: list[dict[str, Any]]) -> str:
    """How many policies can be told apart, and which may be the best."""
    if all(r.get("verdict") == BY_DEFINITION for r in ranking):
        return "No policy has an accepted estimate: there is no ranking."
    if not contrasts:
        return f"Only {ranking[0]['policy']} has an accepted estimate: there is nothing to compare it with."
    apart = sum(c["significant"] for c in contrasts)
    text = f"{apart} of {len(contrasts)} pairs of policies differ by more than chance"
    if len(contrasts) == 1:
        do = "differ" if apart else "do not differ"
        text = f"{contrasts[0]['a']} and {contrasts[0]['b']} {do} by more than chance"
    first = [r["policy"] + " (with caution)" * (r.get("verdict") == CAUTION) for r in ranking if r["rank"] == 1]
    if len(first) > 1:
        some = "either" if len(first) == 2 else "any"
        return f"{text}; there is no clear winner: {some} of {listed(first)} may be the best."
    return f"{text}; {first[0]} alone is first."


def breakdown_frame(breakdown: list[dict[str, Any]]) -> pd.DataFrame:
    """What would reverse the order of any two policies, the easiest to reverse first."""
    columns = ["better", "worse", "difference", "judge_error", "unseen_mass", "unseen_of"]
    frame = pd.DataFrame(breakdown, columns=columns).sort_values("unseen_mass", kind="stable", ignore_index=True)
    return frame.assign(worth=(frame.unseen_of == frame.better).map({True: "nothing", False: "everything"}))


def contrasts_frame(contrasts: list[dict[str, Any]]) -> pd.DataFrame:
    """Every pair of ranked policies: difference of values with its interval, and whether it is a tie."""
    frame = pd.DataFrame(contrasts, columns=["a", "b", "difference", "se", "low", "high", "significant"])
    better = frame.a.where(frame.difference > 0, frame.b) + " is better"
    return frame.assign(result=better.where(frame.significant.astype(bool), "tie")).drop(columns="significant")


def contrasts_table(contrasts: list[dict[str, Any]]) -> Table:
    """The same for readers."""
    caption = "Differences of values" + "; intervals hold together for all pairs (Holm)" * (len(contrasts) > 1)
    return table(contrasts_frame(contrasts), caption=caption)


def published_table(policies: pd.DataFrame, logged: int) -> Table:
    """SNIPS on judge scores against the trusted value, of the policies of anomaly.json (`attribution.words.frame`),
    from so many `logged` rows."""
    columns = {"policy": "policy", "published": "SNIPS on judge scores", "on_own_draws": "judge on own draws"}
    columns |= {"trusted": "trusted", "trusted_low": "low", "trusted_high": "high"}
    columns |= {"measured": "measured"} if policies.measured.notna().any() else {}
    columns |= {"anomaly": "anomaly", "mean_weight": "mean weight"}
    columns |= {"calibrated": "SNIPS (calibrated)", "verdict": "its verdict"}
    caption = f"SNIPS and mean weight are of the judged rows with a weight, of {logged:,} logged rows"
    return table(policies, columns=columns, strike=["calibrated"], caption=caption)
