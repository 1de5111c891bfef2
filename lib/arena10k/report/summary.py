"""What the first page says of a run in a paragraph: whom its estimates put first, what is refused and why that may be,
which controls of the log-probs failed, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from arena10k.analysis import Analysis
from arena10k.audit import checks
from arena10k.estimation import ESTIMATORS
from arena10k.estimation.headline import BELIEFS, belief_of, headline_row
from arena10k.estimation.verdicts import CAUTION, NOT_ASKED, REFUSE, REPORT, accepted
from arena10k.wording import format_number, is_missing, listed, percent, rounded, visible, with_interval

#: The estimate that uses logged responses alone, shown beside the trusted one.
LOGGED_ONLY = "snips"

Row = Mapping[str, Any]


def headline(estimates: Mapping[str, Any]) -> list[Row]:
    """The row of `estimates.json` that speaks for each policy (`estimation.headline`), or, where none is accepted, one
    that says why.

    Policies come by value, those without an accepted estimate last: their number has no place in a ranking.
    """
    by_policy: dict[str, list[Row]] = {}
    for row in headline_rows(estimates):
        by_policy.setdefault(row["policy"], []).append(row)
    belief, own = estimates.get("belief", Analysis.belief), estimates.get("logging_policy")
    chosen = [headline_row(rows, belief, p == own) or _stand_in(rows) for p, rows in by_policy.items()]
    return sorted(chosen, key=lambda r: (not accepted(r), -(r["value"] if not is_missing(r["value"]) else -1e300)))


def headline_rows(estimates: Mapping[str, Any]) -> list[Row]:
    """The rows of `estimates.json` in the judge mode that headlines use."""
    judge = estimates.get("judge")
    return [r for r in estimates.get("rows", ()) if judge in (None, r["judge"])]


def _stand_in(rows: Sequence[Row]) -> Row:
    """Of rows that are not accepted the one that takes least to be believed; what was not collected, and the raw mean
    of the judge, last."""
    order = (REPORT, CAUTION, REFUSE, NOT_ASKED)

    def place(row: Row) -> tuple[bool, int, int]:
        known = ESTIMATORS.get(row["estimator"])
        return bool(known and known.judge_scale), order.index(row["verdict"]), BELIEFS.index(belief_of(row))

    return min(rows, key=place)


def is_refused(row: Row) -> bool:
    return row["verdict"] != NOT_ASKED and (row["verdict"] == REFUSE or is_missing(row["value"]))


def summary(estimates: Mapping[str, Any], confidence: float = 0.95) -> str:
    """The paragraph on top: how many prompts, which policies have a value and which are refused."""
    best = headline(estimates)
    if not best:
        return "There are no estimates yet. The stages below say what has been done."
    of: dict[str, list[Row]] = {"given": [], "raw": [], "unasked": [], "refused": []}
    for row in best:
        kind = "unasked" if row["verdict"] == NOT_ASKED else "refused" if is_refused(row) else "raw"
        of["given" if accepted(row) else kind].append(row)
    names = {kind: _names([r["policy"] for r in rows]) for kind, rows in of.items()}
    count = estimates.get("n")
    over = f" from {format_number(count)} prompts" if not is_missing(count) else ""
    parts = [f"{len(best)} {'policy' if len(best) == 1 else 'policies'} evaluated{over}."]
    if of["given"]:
        parts += [_leaders(estimates, of["given"], confidence), breakdown_sentence(estimates)]
    careful = [r["policy"] for r in of["given"] if r["verdict"] == CAUTION]
    logged = [r for r in headline_rows(estimates) if r["estimator"] == LOGGED_ONLY]
    blind = list(dict.fromkeys(r["policy"] for r in logged if is_refused(r)))
    said = {
        f"With caution: {_names(careful)}.": careful,
        f"Only on the judge's scale, which no labels calibrate: {names['raw']}.": of["raw"],
        f"Not collected, so no value: {names['unasked']}.": of["unasked"],
        f"Refused: {names['refused']}.": of["refused"],
        "No policy is refused.": not of["refused"],
        f"The log alone is not enough to judge {_names(blind)}.": blind,
        "Log-probs were not collected, so nothing is said from the log alone.": any(
            r["verdict"] == NOT_ASKED for r in logged
        ),
    }
    return " ".join([*filter(None, parts), *(sentence for sentence, holds in said.items() if holds)])


def breakdown_sentence(estimates: Mapping[str, Any]) -> str:
    """What would turn round the order of the first policy and its nearest rival; empty where there is no such order."""
    leader = next((r["policy"] for r in estimates.get("ranking", ())), None)
    rivals = [r for r in estimates.get("breakdown", ()) if r["better"] == leader]
    if not rivals:
        return ""
    nearest = min(rivals, key=lambda r: float(r["difference"]))
    better, worse = visible(nearest["better"]), visible(nearest["worse"])
    of, worth = (better, "nothing") if nearest["unseen_of"] == nearest["better"] else (worse, "everything")
    turns = [f"{percent(nearest['unseen_mass'])} of {of}'s responses were unlike anything seen and worth {worth}"]
    if not is_missing(nearest["judge_error"]):
        turns.insert(0, f"the judge overrated {better} against {worse} by {rounded(nearest['judge_error'])}")
    return f"The order of {better} and {worse} would turn if {', or if '.join(turns)}."


def _leaders(estimates: Mapping[str, Any], given: Sequence[Row], confidence: float) -> str:
    """Who is first, or who cannot be told apart, and whom all of those are better than."""
    ranking = estimates.get("ranking", ())
    first = [r for r in ranking if r["rank"] == 1]
    if not first:
        return f"No policy can be ranked; {visible(given[0]['policy'])} has {_worth(given[0], confidence)}."
    if len(first) == 1:
        careful = ", with caution" if first[0].get("verdict") == CAUTION else ""
        return f"{visible(first[0]['policy'])} ranks first{careful}: {_worth(first[0], confidence)}."
    names = [r["policy"] for r in first]
    worse = {
        (c["a"], c["b"]) if c["difference"] < 0 else (c["b"], c["a"])
        for c in estimates.get("contrasts", ())
        if c["significant"]
    }
    start = f"No clear winner: {_names(names)} are not distinguishable"
    if len(names) > 2 and any((a, b) in worse for a in names for b in names):
        start = f"No clear winner: each of {_names(names)} may be the best"
    below = [r["policy"] for r in ranking if all((r["policy"], name) in worse for name in names)]
    if not below:
        return f"{start}."
    every = {2: "both", 3: "all three", 4: "all four"}.get(len(names), "all of them")
    return f"{start}; {_names(below)} {'is' if len(below) == 1 else 'are'} worse than {every}."


def _worth(row: Row, confidence: float) -> str:
    if is_missing(row["ci_low"]) or is_missing(row["ci_high"]):
        return rounded(row["value"])
    return with_interval(row["value"], row["ci_low"], row["ci_high"], confidence)


def _names(names: Sequence[str]) -> str:
    return listed([visible(name) for name in names])


#: What is said of measurements of a job that are missing.
_LOST = {
    "logprobs": "Log-probs are missing for {bad:,} of {rows:,} logged responses and policies",
    "judge": "The judge failed on {bad:,} of {rows:,} ratings",
    "oracle": "Labels are missing for {bad:,} of {rows:,} responses",
}


def missing(found: Mapping[str, Any], dependent: Sequence[tuple[Mapping[str, Any], str]]) -> str:
    """Which measurements are missing in a way that depends on what was measured; nothing where none shows.

    Parameters
    ----------
    found : `missing` of `quality.json`.
    dependent : its tests that show a dependence, each with what the failures depend on.
    """
    lost = []
    for kind in dict.fromkeys(test["job"].split("_")[0] for test, _ in dependent):
        tests = [test for test in found["tests"] if test["job"].split("_")[0] == kind]
        lost.append(_LOST[kind].format(bad=sum(t["bad"] for t in tests), rows=sum(t["rows"] for t in tests)))
    if not lost:
        return ""
    by_length = found.get("by_length", [])
    total = sum(part["bad"] for part in by_length)
    long_ = by_length and 2 * by_length[-1]["bad"] > total and any(key == "response_chars" for _, key in dependent)
    return f"{'; '.join(lost)}{', mostly long answers' if long_ else ', not at random'}. See page 05."


def controls(outcomes: list[dict[str, Any]], estimates: Mapping[str, Any], logging_policy: str) -> tuple[str, bool]:
    """What the controls (`checks` of `quality.json`) say, and which values rest on the log-probs where one failed; and
    whether one did."""
    if not outcomes:
        return "", False
    parts, failed = [checks.summary(outcomes)], bool(checks.counts(outcomes)["controls_failed"])
    if failed and (best := headline(estimates)):
        shown = [*best, *(r for r in headline_rows(estimates) if r["estimator"] == LOGGED_ONLY)]
        parts.append(_resting(shown, logging_policy))
    return " ".join([*parts, "Page 03 shows each."]), failed


def _resting(shown: Sequence[Row], logging_policy: str) -> str:
    """Which of the values shown rest on log-probs; the logging policy's own weights are 1 whatever its log-probs."""
    resting = [
        row["policy"]
        for row in shown
        if ESTIMATORS[row["estimator"]].uses_weights
        and row["verdict"] in (REPORT, CAUTION)
        and row["policy"] != logging_policy
    ]
    names = list(dict.fromkeys(resting))
    if not names:
        return "All values below that rest on log-probs are refused."
    values = "values of {} below rest" if len(names) > 1 else "value of {} below rests"
    return f"The {values.format(listed(names))} on log-probs."
