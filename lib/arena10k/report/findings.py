"""What the statistics say, as frames and as sentences computed from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from arena10k.estimation import ESTIMATORS, diagnostics
from arena10k.estimation.verdicts import CAUTION, NOT_ASKED, REFUSE, accepted
from arena10k.report import VERDICTS, headline
from arena10k.wording import ESTIMATOR_WORDS, listed, rounded


def agreement(both: pd.DataFrame, logging_policy: str) -> pd.DataFrame:
    """AUC of the judge against the oracle, per judge mode, over all policies and within the logging policy.

    The pooled figure is flattered by policies that are easy to tell apart; the figure within one policy is not.
    """
    rows = []
    for job in [c for c in both.columns if c.startswith("judge_")]:
        known = both.dropna(subset=[job])
        own = known[known.policy == logging_policy]
        rows.append(
            {
                "mode": job.removeprefix("judge_"),
                "rows": len(known),
                "auc": diagnostics.judge_auc(known[job].to_numpy(float), known.label.to_numpy(float)),
                "auc_within_p0": diagnostics.judge_auc(own[job].to_numpy(float), own.label.to_numpy(float)),
            }
        )
    return pd.DataFrame(rows, columns=["mode", "rows", "auc", "auc_within_p0"])


def agreement_sentence(table: pd.DataFrame, logging_policy: str) -> str:
    """How well the judge tells right from wrong."""
    known = table.dropna(subset=["auc"])
    if known.empty:
        return "No response has both a judge score and an oracle label: the judge is untested."
    best = known.loc[known.auc.idxmax()]
    return (
        f"The {best['mode']} mode agrees best with the oracle: AUC {best.auc:.2f} over all policies, "
        f"{best.auc_within_p0:.2f} within {logging_policy} (.5 is guessing)."
    )


def estimates_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows of `estimates.json` as a frame, reasons as one text."""
    frame = pd.DataFrame(rows, columns=None if rows else ["reasons"])
    frame["reasons"] = [", ".join(r).replace("_", " ") for r in frame.reasons]
    return frame


def headline_frame(estimates: Mapping[str, Any]) -> pd.DataFrame:
    """The estimate that speaks for each policy (of the content of `estimates.json`), as `estimates_frame`."""
    return estimates_frame([dict(row) for row in headline(estimates)])


def counted(rows: Iterable[dict[str, Any]], judge: str | None = None) -> list[dict[str, Any]]:
    """The rows that sentences count: of one judge mode, without raw judge means, which are no policy values, and
    without estimates whose inputs were not collected."""
    raw = {name for name, estimator in ESTIMATORS.items() if estimator.judge_scale}
    kept = [r for r in rows if r["estimator"] not in raw and r["verdict"] != NOT_ASKED]
    return [r for r in kept if judge is None or r["judge"] == judge]


def verdict_counts(rows: Iterable[dict[str, Any]], judge: str | None = None) -> dict[str, int]:
    """How many of the `counted` estimates have each verdict; those on the judge's scale apart, where there are any."""
    kept = counted(rows, judge)
    counts = {v.lower(): sum(r["verdict"] == v and (v == REFUSE or accepted(r)) for r in kept) for v in VERDICTS}
    return counts | ({"judges_scale": raw} if (raw := len(kept) - sum(counts.values())) else {})


def estimates_sentence(rows: list[dict[str, Any]], judge: str | None = None) -> str:
    """How many of the `counted` estimates are accepted, and which policies have none."""
    kept = counted(rows, judge)
    if not kept:
        return "There is no estimate to count."
    counts = verdict_counts(rows, judge)
    taken, refused, raw = counts["report"] + counts["caution"], counts["refuse"], counts.get("judges_scale", 0)
    told = f"{taken:,} of {len(kept):,} estimates {'is' if taken == 1 else 'are'} accepted"
    told += f", {refused:,} {'is' if refused == 1 else 'are'} refused"
    if raw:
        told += f", {raw:,} {'is' if raw == 1 else 'are'} on the judge's scale, as no labels calibrate it"
    unasked = sum(r["verdict"] == NOT_ASKED and judge in (None, r["judge"]) for r in rows)
    if unasked:
        told += f"; the inputs of {unasked:,} more were not collected"
    weights = [r["policy"] for r in kept if r["estimator"] == "snips" and r["verdict"] == "REFUSE"]
    if weights:
        told += f". {ESTIMATOR_WORDS['snips']} is refused for {listed(list(dict.fromkeys(weights)))}"
    some = {r["policy"] for r in kept if accepted(r)}
    none = [p for p in dict.fromkeys(r["policy"] for r in kept) if p not in some]
    return told + (
        f". No estimate is accepted for {listed(none)}." if none else "; every policy has at least one accepted."
    )


def against_truth(rows: list[dict[str, Any]], truth: Mapping[str, float]) -> pd.DataFrame:
    """Estimates beside the measured value of their policy: error, and whether the interval holds it."""
    frame = pd.DataFrame(rows, columns=["policy", "estimator", "verdict", "value", "ci_low", "ci_high"])
    frame = frame[frame.policy.isin(truth) & frame.value.notna()].copy()
    frame["truth"] = frame.policy.map(truth).astype(float)
    frame["error"] = frame.value.astype(float) - frame.truth
    frame["covers"] = (frame.ci_low.astype(float) <= frame.truth) & (frame.truth <= frame.ci_high.astype(float))
    return frame


def truth_sentence(rows: list[dict[str, Any]], truth: Mapping[str, float], judge: str | None = None) -> str:
    """How often the intervals of `counted` estimates that are accepted hold the true value."""
    if not truth:
        return "The true values of this run are not known."
    kept = counted(rows, judge)
    standing = against_truth([r for r in kept if accepted(r)], truth)
    refused = against_truth([r for r in kept if r["verdict"] == "REFUSE"], truth)
    told = "No estimate of a policy whose true value is known is accepted"
    if len(standing):
        told = f"{int(standing.covers.sum())} of {len(standing)} accepted intervals hold the true value"
    if len(refused):
        worst = refused.loc[refused.error.abs().idxmax()]
        told += f"; the refused ones are off by up to {abs(worst.error):.2f} ({worst.estimator} for {worst.policy})"
    return told + "."


def contrasts_sentence(contrasts: list[dict[str, Any]], ranking: list[dict[str, Any]]) -> str:
    """How many policies can be told apart, and which may be the best."""
    if not ranking:
        return "No policy has an accepted estimate: there is no ranking."
    careful = {r["policy"]: " (with caution)" * (r.get("verdict") == CAUTION) for r in ranking}
    if not contrasts:
        return f"Only {ranking[0]['policy']} has an accepted estimate: there is nothing to compare it with."
    apart = [c for c in contrasts if c["significant"]]
    told = f"{len(apart)} of {len(contrasts)} pairs of policies differ by more than chance"
    first = [r["policy"] for r in ranking if r["rank"] == 1]
    if len(first) > 1:
        return f"{told}; there is no clear winner: any of {listed([p + careful[p] for p in first])} may be the best."
    return f"{told}; {first[0]}{careful[first[0]]} alone is first."


def breakdown_frame(breakdown: list[dict[str, Any]]) -> pd.DataFrame:
    """What would turn round the order of each two policies, the easiest to turn first."""
    columns = ["better", "worse", "difference", "judge_error", "unseen_mass", "unseen_of"]
    frame = pd.DataFrame(breakdown, columns=columns).sort_values("unseen_mass", kind="stable", ignore_index=True)
    return frame.assign(worth=["nothing" if r.unseen_of == r.better else "everything" for r in frame.itertuples()])


def contrasts_frame(contrasts: list[dict[str, Any]]) -> pd.DataFrame:
    """Every pair of ranked policies: difference of values with its interval, and whether it is a tie."""
    columns = ["a", "b", "difference", "se", "low", "high", "significant"]
    frame = pd.DataFrame(contrasts, columns=columns)
    frame["result"] = [
        "tie" if not c["significant"] else f"{c['a'] if c['difference'] > 0 else c['b']} is better" for c in contrasts
    ]
    return frame.drop(columns="significant")


def judge_noise_sentence(rows: list[dict[str, Any]]) -> str:
    """How wide the intervals of the two judge modes are, the judge's own variance included where it has one."""
    frame = pd.DataFrame(
        [r for r in counted(rows) if accepted(r)], columns=["policy", "estimator", "judge", "ci_low", "ci_high"]
    )
    frame["width"] = (frame.ci_high - frame.ci_low).astype(float)
    pairs = frame.pivot_table(index=["policy", "estimator"], columns="judge", values="width").dropna()
    if pairs.shape[1] < 2 or pairs.empty:
        return "Only one judge mode has accepted estimates."
    told = listed([f"{rounded(pairs[mode].median())} ({mode})" for mode in pairs])
    return f"Where an estimate is accepted in both judge modes, the median width of its interval is {told}."
