"""The first page of a run: what can be said about each policy, and one row per stage with its numbers and link."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from arena10k.analysis import Analysis
from arena10k.estimation import ESTIMATORS
from arena10k.estimation.headline import BELIEFS, belief_of, headline_row
from arena10k.estimation.verdicts import CAUTION, NOT_ASKED, REFUSE, REPORT, accepted
from arena10k.report.files import write_text
from arena10k.report.page import TEMPLATES, footer_facts, icon, style_sheet
from arena10k.report.tables import badge
from arena10k.report.text import MISSING, format_number, format_value, is_missing, visible
from arena10k.wording import ESTIMATOR_WORDS, level, listed, percent, rounded, with_interval

#: The estimate that uses logged responses alone, shown beside the trusted one.
LOGGED_ONLY = "snips"

#: What a headline may rest on, by the belief asked for.
_RESTS = {
    "labels": "labels alone",
    "weights": "labels or weights, or, where neither answers, on the judge",
    "judge": "labels, weights or the judge",
}

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
    chosen = [headline_row(mine, belief, p == own) or _stand_in(mine) for p, mine in by_policy.items()]
    return sorted(chosen, key=lambda r: (not accepted(r), -(r["value"] if not is_missing(r["value"]) else -1e300)))


def _stand_in(rows: Sequence[Row]) -> Row:
    """Of rows that are not accepted the one that takes least to be believed; what was not collected, and the raw mean
    of the judge, last."""
    order = (REPORT, CAUTION, REFUSE, NOT_ASKED)

    def place(row: Row) -> tuple[bool, int, int]:
        known = ESTIMATORS.get(row["estimator"])
        return bool(known and known.judge_scale), order.index(row["verdict"]), BELIEFS.index(belief_of(row))

    return min(rows, key=place)


def headline_rows(estimates: Mapping[str, Any]) -> list[Row]:
    """The rows of `estimates.json` in the judge mode that headlines use."""
    judge = estimates.get("judge")
    return [r for r in estimates.get("rows", ()) if judge in (None, r["judge"])]


def _refused(row: Row) -> bool:
    return row["verdict"] != NOT_ASKED and (row["verdict"] == "REFUSE" or is_missing(row["value"]))


def index(
    run: str,
    pages: Iterable[Mapping[str, Any]],
    estimates: Mapping[str, Any] | None,
    out_path: str | os.PathLike[str],
    *,
    provenance: Mapping[str, Any] | None = None,
    truth: Mapping[str, float] | None = None,
    title: str = "",
    confidence: float = 0.95,
    controls: str = "",
    alarm: bool = False,
    about: str = "",
) -> Path:
    """Write `reports/<run>/index.html`.

    Parameters
    ----------
    pages : one per stage or ablation: ``stage``, ``title``, ``html`` (path, absolute or beside `out_path`),
        ``key_numbers`` {label: value}, ``status`` ("done", "failed", "running" or any word); optionally ``sentence``,
        ``verdicts`` {verdict: count} and ``group`` (a heading such as "Ablations"). A page whose file is not there is
        listed as missing, without a link.
    estimates : the content of `estimates.json`, or None where there is none yet.
    provenance : as for `render`; ``created`` falls back to that of `estimates`.
    confidence : the level of the intervals.
    title : what the experiment is, for the heading; the run's name where it is empty.
    truth : measured values by policy, where the run has them; shown beside the estimates, never used.
    about : what a run is for that makes no estimates, in place of their summary.
    controls : what the controls of the log-probs say and what is missing, below the summary; set off as an alarm where
        `alarm`.
    """
    import jinja2

    out, pages = Path(out_path), list(pages)
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True)
    estimates = dict(estimates or {})
    estimates["rows"], best = headline_rows(estimates), headline(estimates)
    facts = {"run": run, "created": estimates.get("created")} | dict(provenance or {})
    html = environment.get_template("overview.html.j2").render(
        run=run,
        title=title or run,
        style=style_sheet(),
        icon=icon(),
        summary=visible(about) if about else summary(estimates, best, confidence),
        controls=visible(controls),
        alarm=alarm,
        level=level(confidence),
        rows=_table_rows(best, estimates.get("rows", ()), truth or {}, estimates.get("n")),
        rests=_RESTS[estimates.get("belief", Analysis.belief)],
        with_truth=bool(truth),
        groups=_groups(pages, out.parent),
        provenance=footer_facts(facts | {"Size": _size(pages, out.parent)}, None),
    )
    return write_text(out, html)


def summary(estimates: Mapping[str, Any], best: Sequence[Row], confidence: float = 0.95) -> str:
    """The paragraph on top: how many prompts, which policies have a value and which are refused."""
    if not best:
        return "There are no estimates yet. The stages below say what has been done."
    count = estimates.get("n")
    over = f" from {format_number(count)} prompts" if not is_missing(count) else ""
    given, refused = [r for r in best if accepted(r)], [r for r in best if _refused(r)]
    unasked = [r for r in best if r["verdict"] == NOT_ASKED]
    raw = [r for r in best if not (accepted(r) or _refused(r) or r["verdict"] == NOT_ASKED)]
    parts = [f"{len(best)} {_plural('policy', len(best))} evaluated{over}."]
    if given:
        parts += [_leaders(estimates, given, confidence), breakdown_sentence(estimates)]
        careful = [r["policy"] for r in given if r["verdict"] == "CAUTION"]
        if careful:
            parts.append(f"With caution: {_names(careful)}.")
    if raw:
        parts.append(f"Only on the judge's scale, which no labels calibrate: {_names([r['policy'] for r in raw])}.")
    if unasked:
        parts.append(f"Not collected, so no value: {_names([r['policy'] for r in unasked])}.")
    parts.append(f"Refused: {_names([r['policy'] for r in refused])}." if refused else "No policy is refused.")
    logged = [r for r in estimates["rows"] if r["estimator"] == LOGGED_ONLY]
    blind = list(dict.fromkeys(r["policy"] for r in logged if _refused(r)))
    if blind:
        parts.append(f"The log alone is not enough to judge {_names(blind)}.")
    if any(r["verdict"] == NOT_ASKED for r in logged):
        parts.append("Log-probs were not collected, so nothing is said from the log alone.")
    return " ".join(filter(None, parts))


def breakdown_sentence(estimates: Mapping[str, Any]) -> str:
    """What would turn round the order of the first policy and its nearest rival; empty where there is no such order."""
    leader = next((r["policy"] for r in estimates.get("ranking", ())), None)
    rivals = [r for r in estimates.get("breakdown", ()) if r["better"] == leader]
    if not rivals:
        return ""
    nearest = min(rivals, key=lambda r: float(r["difference"]))
    better, worse = visible(nearest["better"]), visible(nearest["worse"])
    of, worth = (better, "nothing") if nearest["unseen_of"] == nearest["better"] else (worse, "everything")
    told = [f"{percent(nearest['unseen_mass'])} of {of}'s responses were unlike anything seen and worth {worth}"]
    if not is_missing(nearest["judge_error"]):
        told.insert(0, f"the judge overrated {better} against {worse} by {rounded(nearest['judge_error'])}")
    return f"The order of {better} and {worse} would turn if {', or if '.join(told)}."


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
    below = [r["policy"] for r in ranking if all((r["policy"], name) in worse for name in names)]
    told = f"No clear winner: {_names(names)} are not distinguishable"
    if len(names) > 2 and any((a, b) in worse for a in names for b in names):
        told = f"No clear winner: each of {_names(names)} may be the best"
    if not below:
        return f"{told}."
    verb, every = "is" if len(below) == 1 else "are", {2: "both", 3: "all three", 4: "all four"}.get(len(names), "all")
    return f"{told}; {_names(below)} {verb} worse than {every}{' of them' if every == 'all' else ''}."


def _worth(row: Row, confidence: float) -> str:
    if is_missing(row["ci_low"]) or is_missing(row["ci_high"]):
        return rounded(row["value"])
    return with_interval(row["value"], row["ci_low"], row["ci_high"], confidence)


def _plural(noun: str, n: int) -> str:
    return noun if n == 1 else noun.removesuffix("y") + "ies"


def _names(names: Sequence[str]) -> str:
    return listed([visible(name) for name in names])


def _needed(row: Row, prompts: Any) -> str:
    """How many labels would answer for a policy, and whether the run has prompts for them."""
    labels = row.get("labels_needed")
    if labels is None or is_missing(labels):
        return ""
    more = not is_missing(prompts) and labels > prompts
    return f"{int(labels):,} labels would answer it" + (
        f", of more prompts than these {int(prompts):,}" if more else ""
    )


def _table_rows(
    best: Sequence[Row], rows: Iterable[Row], truth: Mapping[str, float], prompts: Any
) -> list[dict[str, Any]]:
    logged = {r["policy"]: r for r in reversed(list(rows)) if r["estimator"] == LOGGED_ONLY}
    ends = [v for r in best for v in (r["ci_low"], r["ci_high"], r["value"]) if not is_missing(v)]
    low, high = min([0.0, *ends]), max([1.0, *ends])

    def place(value: Any) -> float | None:
        return None if is_missing(value) else round(100 * (value - low) / (high - low), 2)

    return [
        {
            "policy": visible(row["policy"]),
            "estimate": _shown(row),
            "estimator": ESTIMATOR_WORDS.get(row["estimator"], row["estimator"]),
            "reasons": format_value([reason.replace("_", " ") for reason in row.get("reasons") or ()])
            if row["verdict"] != "REPORT"
            else "",
            "labels_needed": _needed(row, prompts) if _refused(row) else "",
            "bar": {"low": place(row["ci_low"]), "high": place(row["ci_high"]), "at": place(row["value"])},
            "truth": format_number(truth.get(row["policy"])),
            "truth_at": place(truth.get(row["policy"])),
            "logged": _shown(logged[row["policy"]]) if row["policy"] in logged else None,
        }
        for row in best
    ]


def _shown(row: Row) -> dict[str, Any]:
    known = not (is_missing(row["ci_low"]) or is_missing(row["ci_high"]))
    return {
        "value": format_number(row["value"]),
        "interval": f"{format_number(row['ci_low'])} to {format_number(row['ci_high'])}" if known else MISSING,
        "verdict": badge(row["verdict"]),
        "kind": {REFUSE: "refused", NOT_ASKED: "unasked"}.get(row["verdict"], ""),
        "refused": row["verdict"] == REFUSE,
    }


def _size(pages: Iterable[Mapping[str, Any]], folder: Path) -> str:
    """How many pages there are, and their bytes together; empty where there is none."""
    files = [folder / page["html"] for page in pages if page.get("html")]
    sizes = [file.stat().st_size for file in files if file.is_file()]
    return f"{len(sizes)} {'page' if len(sizes) == 1 else 'pages'}, {sum(sizes) / 1e6:.1f} MB" if sizes else ""


def _groups(pages: Iterable[Mapping[str, Any]], folder: Path) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for page in pages:
        file = folder / page["html"] if page.get("html") else None
        there = file is not None and file.is_file()
        # Relative links: a report folder can be moved and served as it is.
        link = quote(Path(os.path.relpath(file, folder)).as_posix()) if file is not None and there else None
        numbers = (page.get("key_numbers") or {}).items()
        entry = {
            "stage": page["stage"],
            "title": page.get("title") or page["stage"],
            "link": link,
            "status": (page.get("status") or "done") if there else "missing",
            "sentence": visible(page.get("sentence") or ""),
            "numbers": [(visible(str(label).replace("_", " ")), format_value(value)) for label, value in numbers],
            "verdicts": [(badge(v), n) for v, n in (page.get("verdicts") or {}).items() if n],
        }
        groups.setdefault(page.get("group") or "Stages", []).append(entry)
    return groups
