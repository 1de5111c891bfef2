"""The first page of a run: what can be said about each policy, and one row per stage with its numbers and link."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from arena10k.estimators import ESTIMATORS
from arena10k.report.files import write_text
from arena10k.report.page import TEMPLATES, footer_facts, icon, style_sheet
from arena10k.report.tables import badge
from arena10k.report.text import MISSING, format_number, format_value, is_missing, visible
from arena10k.statistics.headline import BELIEFS, belief_of, headline_row
from arena10k.statistics.verdicts import CAUTION, NOT_ASKED, REFUSE, REPORT, accepted

#: The estimate that uses logged responses alone, shown beside the trusted one.
LOGGED_ONLY = "snips"

Row = Mapping[str, Any]


def headline(rows: Iterable[Row], belief: str = "weights", logging_policy: str | None = None) -> list[Row]:
    """The row that speaks for each policy (`statistics.headline`), or, where none is accepted, one that says why.

    Policies come by value, those without an accepted estimate last: their number has no place in a ranking.
    """
    by_policy: dict[str, list[Row]] = {}
    for row in rows:
        by_policy.setdefault(row["policy"], []).append(row)
    chosen = [headline_row(mine, belief, p == logging_policy) or _stand_in(mine) for p, mine in by_policy.items()]
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
    return row["verdict"] == "REFUSE" or is_missing(row["value"])


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
    estimates["rows"] = headline_rows(estimates)
    best = headline(estimates["rows"], estimates.get("belief", "weights"), estimates.get("logging_policy"))
    facts = {"run": run, "created": estimates.get("created")} | dict(provenance or {})
    html = environment.get_template("overview.html.j2").render(
        run=run,
        title=title or run,
        style=style_sheet(),
        icon=icon(),
        summary=visible(about) if about else summary(estimates, best, confidence),
        controls=visible(controls),
        alarm=alarm,
        level=f"{100 * confidence:g}%",
        rows=_table_rows(best, estimates.get("rows", ()), truth or {}, estimates.get("n")),
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
    raw = [r for r in best if not (accepted(r) or _refused(r))]
    parts = [f"{len(best)} {_plural('policy', len(best))} evaluated{over}."]
    if given:
        parts.append(_leaders(estimates.get("ranking", ()), given, confidence))
        careful = [r["policy"] for r in given if r["verdict"] == "CAUTION"]
        if careful:
            parts.append(f"With caution: {_listed(careful)}.")
    if raw:
        parts.append(f"Only on the judge's scale, which no labels calibrate: {_listed([r['policy'] for r in raw])}.")
    parts.append(f"Refused: {_listed([r['policy'] for r in refused])}." if refused else "No policy is refused.")
    logged = [r for r in estimates["rows"] if r["estimator"] == LOGGED_ONLY and _refused(r)]
    blind = list(dict.fromkeys(r["policy"] for r in logged))
    if blind:
        parts.append(f"Logged responses alone cannot answer for {_listed(blind)}.")
    return " ".join(parts)


def _leaders(ranking: Sequence[Row], given: Sequence[Row], confidence: float) -> str:
    """Who is first, and who cannot be told apart from the first."""
    first = [r for r in ranking if r["rank"] == 1]
    if not first:
        return f"No policy can be ranked; {visible(given[0]['policy'])} stands at {_worth(given[0], confidence)}."
    if len(first) == 1:
        return f"{visible(first[0]['policy'])} ranks first: {_worth(first[0], confidence)}."
    told = _listed([f"{visible(r['policy'])} ({_worth(r, confidence)})" for r in first])
    return f"Any of these may be the best: {told}."


def _worth(row: Row, confidence: float) -> str:
    return f"{format_number(row['value'])}{_interval(row, confidence)}"


def _plural(noun: str, n: int) -> str:
    return noun if n == 1 else noun.removesuffix("y") + "ies"


def _listed(names: Sequence[str]) -> str:
    names = [visible(n) for n in names]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _interval(row: Row, confidence: float) -> str:
    if is_missing(row["ci_low"]) or is_missing(row["ci_high"]):
        return ""
    return f", {100 * confidence:g}% interval {format_number(row['ci_low'])} to {format_number(row['ci_high'])}"


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
            "estimator": " · ".join(filter(None, (row["estimator"], row.get("judge")))),
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
        "refused": row["verdict"] == "REFUSE",
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
