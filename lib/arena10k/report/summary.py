"""What the first page says of a run: whom its estimates put first, what would turn that round, what is refused, which
controls of the log-probs failed, and what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from arena10k.analysis import Analysis
from arena10k.audit import checks
from arena10k.estimation import ESTIMATORS
from arena10k.estimation.headline import BELIEFS, belief_of, headline_row
from arena10k.estimation.verdicts import BY_DEFINITION, CAUTION, NOT_ASKED, REFUSE, REPORT, accepted
from arena10k.wording import is_missing, listed, percent, rounded, visible, with_interval

#: What a value rests on, by belief.
_RESTS_ON = {
    "labels": "labels",
    "weights": "log-probs of the logged responses",
    "judge": "the judge being off on these policies as on those with labels",
}
#: Why a value is not accepted, by reason; of any other its name says it.
_WHY = {
    "few_labels": "labels are too few",
    "no_labels": "their responses have no labels",
    "not_on_oracle_scale": "no labels say what the judge's scores are worth",
    "interval_too_wide": "intervals are too wide",
    "no_judge_scores": "their responses have neither labels nor scores",
}
#: The estimate that uses logged responses alone, shown beside the trusted one.
LOGGED_ONLY = "snips"
Row = Mapping[str, Any]


def headline(estimates: Mapping[str, Any]) -> list[Row]:
    """The row of `estimates.json` that speaks for each policy (`estimation.headline`), or, where none is accepted, one
    that says why. By value; those without an accepted estimate come last, as their number has no place in a ranking."""
    by_policy: dict[str, list[Row]] = {}
    for row in headline_rows(estimates):
        by_policy.setdefault(row["policy"], []).append(row)
    belief, own = estimates.get("belief", Analysis.belief), estimates.get("logging_policy")

    def disbelief(row: Row) -> tuple[bool, int, int]:
        """Least of the row that takes least to be believed; most of the raw mean of the judge."""
        estimator, verdict = (
            ESTIMATORS.get(row["estimator"]),
            (BY_DEFINITION, REPORT, CAUTION, REFUSE, NOT_ASKED).index(row["verdict"]),
        )
        return bool(estimator and estimator.judge_scale), verdict, BELIEFS.index(belief_of(row))

    best = [headline_row(rows, belief, p == own) or min(rows, key=disbelief) for p, rows in by_policy.items()]
    return sorted(best, key=lambda r: (not accepted(r), 1e300 if is_missing(r["value"]) else -r["value"]))


def differences(estimates: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """The logging policy, or, without that, the first, and every policy's value minus its: the best first. No rows
    without a pair."""
    contrasts = estimates.get("contrasts") or ()
    named = {c[side] for c in contrasts for side in "ab"}
    if not named:
        return "", []
    own = str(estimates.get("logging_policy"))
    others = (row["policy"] for row in reversed(headline(estimates)) if row["policy"] in named)
    baseline: str = own if own in named else next(others)
    rows = []
    for c in contrasts:
        if baseline in (c["a"], c["b"]):
            sign, policy = (1, c["a"]) if c["b"] == baseline else (-1, c["b"])
            low, value, high = sorted((sign * c["low"], sign * c["difference"], sign * c["high"]))
            result = ("better" if value > 0 else "worse") if c["significant"] else "not distinguishable"
            rows.append({"policy": policy, "value": value, "low": low, "high": high, "truth": None, "result": result})
    return baseline, sorted(rows, key=lambda row: -row["value"])


def headline_rows(estimates: Mapping[str, Any]) -> list[Row]:
    """The rows of `estimates.json` in the judge that headlines use."""
    judge = estimates.get("judge")
    return [r for r in estimates.get("rows", ()) if judge in (None, r["judge"])]


def asked(estimates: Mapping[str, Any]) -> dict[str, Any]:
    """The same without rows of what was not collected, unless they are all there is of a policy."""
    rows = estimates.get("rows", ())
    some = {row["policy"] for row in rows if row["verdict"] != NOT_ASKED}
    return {**estimates, "rows": [r for r in rows if r["verdict"] != NOT_ASKED or r["policy"] not in some]}


def is_refused(row: Row) -> bool:
    return row["verdict"] != NOT_ASKED and (row["verdict"] == REFUSE or is_missing(row["value"]))


def verdict(estimates: Mapping[str, Any], confidence: float = 0.95) -> str:
    """The answer in one sentence: who is first, or who cannot be told apart, and whom all of those are better than."""
    best = headline(estimates)
    if not best:
        return "There are no estimates yet. The pages below say what has been done."
    given = [row for row in best if accepted(row) and row["verdict"] != BY_DEFINITION]
    if given:
        return _leaders(estimates, given[0], confidence)
    why = Counter(reason for row in best if not accepted(row) for reason in row.get("reasons") or ())
    reason = next((reason for reason, _ in why.most_common(1)), "")
    return f"No policy has an accepted value{': ' * bool(reason)}{_WHY.get(reason, reason.replace('_', ' '))}."


def remarks(estimates: Mapping[str, Any], width: float = Analysis.width) -> list[str]:
    """What belongs to the verdict: what it rests on, what would settle or reverse it, which values are cautious,
    refused or not there, and what intervals of the wanted `width` take."""
    best = [row for row in headline(estimates) if row["verdict"] != BY_DEFINITION]
    given = [row for row in best if accepted(row)]
    refused = [row for row in best if is_refused(row) and row not in given]
    unasked = [row for row in best if row["verdict"] == NOT_ASKED]
    raw = [row for row in best if row not in (*given, *refused, *unasked)]
    logged = [row for row in headline_rows(estimates) if row["estimator"] == LOGGED_ONLY]
    named = {
        "Values with caution": [row for row in given if row["verdict"] == CAUTION],
        "Only on the judge's scale, which no labels calibrate": raw,
        "Not collected, so without a value": unasked,
        "Refused": refused,
    }
    judged = any(r["estimator"] == "naive" and r["verdict"] != NOT_ASKED for r in headline_rows(estimates))
    out = [_resting(given, len(best), judged), settling(estimates), breakdown_sentence(estimates)] if given else []
    out += [f"{words}: {_names(row['policy'] for row in rows)}." for words, rows in named.items() if rows]
    if blind := [row["policy"] for row in logged if is_refused(row)]:
        out.append(f"The log alone is not enough to judge {_names(blind)}.")
    if reasons := [row["reasons"] for row in logged if row["verdict"] == NOT_ASKED]:
        what = "Scores of a judge" if any("no_judge_scores" in own for own in reasons) else "Log-probs"
        out.append(f"{what} were not collected, so nothing is said from the log alone.")
    labels = {row["policy"]: row["labels"] for row in estimates.get("policies", ())}
    needed = {row["policy"]: (labels.get(row["policy"], 0), int(row["labels_needed"] or 0)) for row in given}
    if lacking := [f"{n:,} of {visible(p)} ({there:,} are there)" for p, (there, n) in needed.items() if n > there]:
        out.append(f"Intervals of width {width:g} take more labels of a policy's own draws: {listed(lacking)}.")
    return [sentence for sentence in out if sentence]


def _resting(given: Sequence[Row], n: int, judged: bool) -> str:
    """How many of `n` values are accepted, and what they rest on; where they are `judged`, what the judge does."""
    by_belief = {belief: [row["policy"] for row in given if belief_of(row) == belief] for belief in BELIEFS}
    on = [(words, by_belief[belief]) for belief, words in _RESTS_ON.items() if by_belief[belief]]
    parts = [f"{words}{f' ({_names(names)})' if len(on) > 1 else ''}" for words, names in on]
    if judged and len(on) == 1 and by_belief["labels"]:
        parts = [f"{parts[0]} (the judge only makes their intervals narrower)"]
    every = {1: "The value", 2: "Both values"}.get(n, f"All {n} values")
    many = every if n == len(given) else f"{len(given)} of {n} values"
    return (
        f"{many} may be believed within {'its interval' if n == 1 else 'their intervals'}, resting on {listed(parts)}."
    )


def settling(estimates: Mapping[str, Any]) -> str:
    """How many more data would tell the first policies apart, by the pair of them that is furthest apart; empty where
    one is first. The width of an interval falls with the root of the data."""
    first = [r["policy"] for r in estimates.get("ranking", ()) if r["rank"] == 1]
    pairs = [c for c in estimates.get("contrasts", ()) if {c["a"], c["b"]} <= set(first) and not c["significant"]]
    if not pairs:
        return ""
    widest = max(pairs, key=lambda c: abs(c["difference"]))
    gap, half = abs(widest["difference"]), (widest["high"] - widest["low"]) / 2
    if not 0 < gap < half:
        return ""
    named, times = _names((widest["a"], widest["b"])), (half / gap) ** 2
    takes = "more than 1,000 times" if times > 1000 else f"about {max(times, 2):,.0f} times"
    more = ", and other pairs of the first more" if len(pairs) > 1 else ""
    return f"To tell {named} apart, {rounded(gap)} from each other, would take {takes} the prompts and labels{more}."


def breakdown_sentence(estimates: Mapping[str, Any]) -> str:
    """What would reverse the order of the first policy and the nearest of the others, unless the two cannot be told
    apart; empty where there is no such order."""
    leader = next((r["policy"] for r in estimates.get("ranking", ())), None)
    close = [{c["a"], c["b"]} for c in estimates.get("contrasts", ()) if not c["significant"]]
    rivals = [r for r in estimates.get("breakdown", ()) if r["better"] == leader and {leader, r["worse"]} not in close]
    if not rivals:
        return ""
    nearest = min(rivals, key=lambda r: float(r["difference"]))
    better, worse = visible(nearest["better"]), visible(nearest["worse"])
    of, worth = (better, "lowest") if nearest["unseen_of"] == nearest["better"] else (worse, "highest")
    unseen = f"{percent(nearest['unseen_mass'])} of {of}'s responses"
    turns = [f"{unseen} were unlike any that were seen and had the {worth} value"]
    if not is_missing(nearest["judge_error"]):
        turns.insert(0, f"the judge overrated {better} against {worse} by {rounded(nearest['judge_error'])}")
    return f"The order of {better} and {worse} would be reversed if {', or if '.join(turns)}."


def _leaders(estimates: Mapping[str, Any], best: Row, confidence: float) -> str:
    """The verdict where some value is accepted, that of `best` the highest."""
    ranking = estimates.get("ranking", ())
    first = [r for r in ranking if r["rank"] == 1]
    baseline = next((r["policy"] for r in ranking if r.get("verdict") == BY_DEFINITION), None)
    if len(first) < 2:
        if baseline is not None:
            return _wins(estimates, baseline, best, confidence)
        row = first[0] if first else best
        value = _value(row, confidence)
        if not first:
            return f"No policy can be ranked; {visible(row['policy'])} has {value}."
        careful = ", with caution" if row.get("verdict") == CAUTION else ""
        own, others = differences(estimates)
        ahead = next((d for d in others if d["policy"] == row["policy"] and d["result"] == "better"), None)
        more = (
            f", better than {visible(own)} by {rounded(ahead['value'], ahead['low'], ahead['high'])}" if ahead else ""
        )
        return f"{visible(row['policy'])} ranks first{careful}: {value}{more}."
    names = [r["policy"] for r in first]
    named = _names(names) if len(names) < 6 else f"{len(names)} of {len(headline(estimates))} policies"
    worse = {
        (c["a"], c["b"]) if c["difference"] < 0 else (c["b"], c["a"])
        for c in estimates.get("contrasts", ())
        if c["significant"]
    }
    start = f"No clear winner: {named} are not distinguishable"
    if len(names) > 2 and any((a, b) in worse for a in names for b in names):
        start = f"No clear winner: each of {named} may be the best"
    if len(ranking) == 2 and baseline is not None:
        return f"{start}; {visible(best['policy'])} wins {_value(best, confidence)}."
    below = [r["policy"] for r in ranking if all((r["policy"], name) in worse for name in names)]
    if not below:
        return f"{start}."
    every = {2: "both", 3: "all three", 4: "all four"}.get(len(names), "all of them")
    whom = _names(below) if len(below) < 4 else f"{len(below)} others"
    return f"{start}; {whom} {'is' if len(below) == 1 else 'are'} worse than {every}."


def _value(row: Row, confidence: float) -> str:
    ends = row["ci_low"], row["ci_high"]
    return rounded(row["value"]) if any(map(is_missing, ends)) else with_interval(row["value"], *ends, confidence)


def _wins(estimates: Mapping[str, Any], baseline: str, best: Row, confidence: float) -> str:
    """The verdict on win rates against a baseline, where one policy is first."""
    ranking, own, value = estimates["ranking"], visible(baseline), _value(best, confidence)
    if ranking[0]["policy"] == baseline:
        return f"No policy wins more than half against {own}; {visible(best['policy'])} comes closest: {value}."
    pairs = [c for c in estimates["contrasts"] if baseline in (c["a"], c["b"]) and not c["significant"]]
    tied = [c["b"] if c["a"] == baseline else c["a"] for c in pairs]
    whom = _names(tied) if len(tied) < 4 else f"{len(tied)} others"
    beside = f"; {whom} {'is' if len(tied) == 1 else 'are'} not distinguishable from {own}" if tied else ""
    most, careful = " most" * (len(ranking) > 2), ", with caution," * (best["verdict"] == CAUTION)
    return f"{visible(best['policy'])} wins{most}{careful} against {own}: {value}{beside}."


def _names(names: Iterable[str]) -> str:
    return listed([visible(name) for name in dict.fromkeys(names)])


#: What is said of measurements of a job that are missing.
_LOST = {
    "logprobs": "Log-probs are missing for {bad:,} of {rows:,} logged responses and policies",
    "judge": "The judge failed on {bad:,} of {rows:,} ratings",
    "oracle": "Labels are missing for {bad:,} of {rows:,} responses",
}


def missing(found: Mapping[str, Any], dependent: Sequence[tuple[Mapping[str, Any], str]]) -> str:
    """Which measurements are missing in a way that depends on what was measured; nothing where none shows. `found` is
    `missing` of `quality.json`; `dependent` are its tests that show a dependence, each with what it is on."""
    lost = []
    for kind in dict.fromkeys(test["job"].split("_")[0] for test, _ in dependent):
        tests = [test for test in found["tests"] if test["job"].split("_")[0] == kind]
        lost.append(_LOST[kind].format(bad=sum(t["bad"] for t in tests), rows=sum(t["rows"] for t in tests)))
    if not lost:
        return ""
    bad = [part["bad"] for part in found.get("by_length", ())]
    long_ = bad and 2 * bad[-1] > sum(bad) and any(key == "response_chars" for _, key in dependent)
    return f"{'; '.join(lost)}{', mostly long answers' if long_ else ', not at random'}. See page 05."


def controls(outcomes: list[dict[str, Any]], estimates: Mapping[str, Any], logging_policy: str) -> tuple[str, bool]:
    """What the controls (`checks` of `quality.json`) say, and which values rest on the log-probs where one failed (the
    logging policy's own weights are 1 whatever its log-probs); and whether one did."""
    if not outcomes:
        return "", False
    text, failed = checks.summary(outcomes), bool(checks.counts(outcomes)["controls_failed"])
    if failed and (best := headline(estimates)):
        shown = [*best, *(r for r in headline_rows(estimates) if r["estimator"] == LOGGED_ONLY)]
        standing = [r for r in shown if r["verdict"] in (REPORT, CAUTION) and r["policy"] != logging_policy]
        resting = list(dict.fromkeys(r["policy"] for r in standing if ESTIMATORS[r["estimator"]].uses_weights))
        values = (
            f"values of {listed(resting)} below rest" if len(resting) > 1 else f"value of {listed(resting)} below rests"
        )
        text += f" The {values} on log-probs." if resting else " All values below that rest on log-probs are refused."
    return f"{text} Page 03 shows each.", failed
