"""The first page says in a reader's words what notebooks noted, and whether the controls of the log-probs failed."""

from __future__ import annotations

import ast
import html
import json
import re
from itertools import combinations
from operator import itemgetter

import numpy as np
import pandas as pd
import pytest

from arena10k import Run, paths, plots, report
from arena10k.ablations.scores import Truth
from arena10k.ablations.scores import summary as scores
from arena10k.attribution import words
from arena10k.audit import checks
from arena10k.estimation.context import context
from arena10k.estimation.headline import headline as of_context
from arena10k.estimation.verdicts import NOT_ASKED, accepted
from arena10k.inputs.prompts import FILTERS
from arena10k.params import config
from arena10k.pipeline import first_page, stages
from arena10k.plots import style
from arena10k.report import findings, headline, index
from arena10k.report.overview import Axis
from arena10k.report.summary import remarks, verdict
from arena10k.report.weight_findings import audit_frame, concentration_frame, match_sentence
from arena10k.rescoring import effect, snapshots
from arena10k.simulation import coverage
from statistics_data import example

#: An estimate that no label puts on the oracle's scale.
RAW = {"estimator": "direct", "judge": "d", "verdict": "CAUTION", "value": 0.5, "reasons": ["not_on_oracle_scale"]}
#: The names behind each `**` that a notebook notes.
UNPACKED = {
    "{name: n for name, n in counts.items() if n}": {"read", "kept", *FILTERS},
    "checks.counts(found)": set(checks.counts([])),
    "coverage.held(cells, wanted.confidence)": set(coverage.CASES),
    "findings.verdict_counts(result['rows'], judge)": set(findings.verdict_counts([RAW], RAW["judge"])),
    "result.key_numbers()": {"rmse", "coverage", "refused", "misranked"},
}


def noted(path):
    """The names under which a notebook notes its numbers."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    (call,) = [
        node
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "run.note"
    ]
    return set().union(*({k.arg} if k.arg else UNPACKED[ast.unparse(k.value)] for k in call.keywords))


def test_every_number_a_notebook_notes_has_words():
    books = sorted(paths.notebook("00_status").parent.glob("*.ipynb"))
    numbers = {path.stem: noted(path) for path in books if "run.note(" in path.read_text(encoding="utf-8")}
    assert numbers == {notebook: set(labels) for notebook, labels in report.LABELS.items()}
    assert not any("_" in label for labels in report.LABELS.values() for label in labels.values())


def test_a_policy_has_the_colour_of_its_figures_on_the_first_page(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "_policies", [])
    plots.colour(["p0", "pi_bad", "pi_cot"])
    found = {"rows": ROWS, "ranking": [], "logging_policy": "p0"}
    found["policies"] = [{"policy": p, "draws": 9, "labels": 9} for p in ("pi_bad", "p0", "pi_cot")]
    page = index("local", [], found, tmp_path / "index.html").read_text(encoding="utf-8")
    hues = dict(reversed(pair) for pair in re.findall(r'--hue:(#\w+)"><th scope="row">(\w+)<', page.replace("\n", "")))
    assert hues == {policy: style.looks([policy])[policy].colour for policy in ("pi_bad", "pi_cot")}


def test_numbers_come_in_the_order_of_reading_and_words_in_place_of_names():
    cause = {"policy": "pi", "main_cause": "off_support", "anomalies": 1}
    assert list(report.labelled("07_pi_bad_anomaly", cause).values()) == ["1", "pi", "off-support mass"]
    assert report.labelled("03_teacher_forcing", {"self_consistency_max_nats": None, "scored": 4000}) == {
        "log-probs of responses": "4,000",
        "largest difference from generation (nats)": "not measured",
    }
    (told,) = report.labelled("03_teacher_forcing", {"self_consistency_max_nats": 1.07e-4}).values()
    assert told == "0.000107"
    assert report.labelled("10_simulation", {"replicates": 50, "transports": None}) == {"data sets of each kind": "50"}
    assert report.labelled("08_ablation", {"coverage": 0.946}) == {"intervals that hold the truth": "94.6%"}


def check(name, policy, value, ok, limit=None):
    outcome = {True: checks.HOLDS, False: checks.FAILED, None: checks.NOT_MEASURED}[ok]
    measured = {"check": name, "policy": policy, "value": value, "limit": limit}
    return measured | {"p_value": None, "outcome": outcome, "ok": ok}


UNKNOWN = check("shuffled_prompt", "p0", None, None, 0.5)
FAILED = check("clone", "copy", 4.0067, False, 1e-3)


def test_controls_that_hold_raise_no_alarm_and_one_that_failed_is_told_before_there_are_estimates():
    holds = [UNKNOWN, check("clone", "copy", 0.0, True, 1e-3)]
    told, alarm = report.controls(holds, {"rows": [row("copy", "snips", "REPORT")]}, "p0")
    assert (re.findall(r"\d+", told), alarm) == (["1", "03"], False)
    assert report.controls([], {}, "p0") == ("", False)
    told, alarm = report.controls([FAILED], {}, "p0")
    assert ("below" in told, alarm) == (False, True)


@pytest.mark.parametrize(
    ("rows", "rests"),
    [
        ([("p0", "snips", "REPORT"), ("a", "ppi_pp", "REPORT"), ("b", "snips", "REFUSE")], []),
        ([("a", "ppi_pp", "REPORT"), ("a", "snips", "CAUTION")], ["a"]),  # beside the headline
        ([("a", "direct", "CAUTION"), ("b", "dr_cpo", "CAUTION")], ["b"]),
        ([("a", "dr_cpo", "CAUTION"), ("b", "snips", "REPORT")], ["a", "b"]),
    ],
)
def test_a_control_that_failed_is_told_with_the_values_that_rest_on_it(rows, rests):
    told, alarm = report.controls([UNKNOWN, FAILED], {"rows": [row(*named) for named in rows]}, "p0")
    assert alarm
    facts = re.findall(r"\d[\d.]*\d|\d+\b|\bcopy,|\bp0\b", told)
    assert facts[:7] == ["1", "1", "copy,", "p0", "4.01", "0.001", "1"]
    assert re.findall(r"\b[ab]\b(?! copy)", told) == rests


def test_measurements_that_are_missing_by_what_they_measure_are_told():
    test = {"job": "judge_uncertainty", "policy": "a", "bad": 7, "rows": 90, "prompt_chars": 0.5, "language": None}
    tests = [test | {"response_chars": 1e-4}, test | {"policy": "b", "bad": 2, "response_chars": 0.6}]
    long_, even = ([{"bad": 1}, {"bad": 8}], [{"bad": 4}, {"bad": 4}, {"bad": 1}])
    for by_length, most in ((long_, True), (even, False)):
        found = {"tests": tests, "by_length": by_length}
        told = report.missing(found, effect.dependent(tests))
        assert re.findall(r"\d+", told) == ["9", "180", "05"]
        assert ("long" in told) == most
    assert effect.dependent([test | {"response_chars": 0.4}]) == []
    assert report.missing({}, []) == ""


def test_a_run_without_estimates_to_come_says_what_it_is_about(home):
    page = first_page.write_index(config.load("incident")).read_text(encoding="utf-8")
    assert html.escape(first_page.about(config.load("incident"))) in page
    assert "sample" in first_page.about(config.load("incident"))
    for name in ("sample", "ablations", "arena10k"):
        assert "06_estimates" in stages.of(config.load(name))
        assert first_page.about(config.load(name)) == ""


def row(policy, estimator, verdict, value=0.5, **more):
    ends = (None, None) if value is None else (value - 0.1, value + 0.1)
    return {"policy": policy, "estimator": estimator, "judge": "deterministic", "verdict": verdict, "value": value,
            "ci_low": ends[0], "ci_high": ends[1], "reasons": [], "labels_needed": None} | more  # fmt: skip


def test_no_winner_is_named_by_chance_and_who_is_worse_is_read_off_the_contrasts():
    tied = [ROWS[1] | {"rank": 1}, ROWS[3] | {"rank": 1}]
    assert "No clear winner: pi_bad and pi_cot " in told_of(ROWS, tied)
    assert "No policy can be ranked; pi_cot has 0.61 " in told_of(ROWS, [])
    values = {"a": 0.7, "b": 0.69, "c": 0.5, "d": 0.2}
    rows = [row(p, "ppi_pp", "REPORT", v) for p, v in values.items()]
    ranking = [{"policy": p, "rank": 1 if p in "ab" else 2} for p in values]
    worse = {("a", "c"), ("a", "d"), ("b", "d")}
    contrasts = [
        {"a": p, "b": q, "difference": values[p] - values[q], "low": -1, "high": 1, "significant": (p, q) in worse}
        for p, q in combinations(values, 2)
    ]
    told = told_of(rows, ranking, contrasts=contrasts)
    assert "a and b are not distinguishable; d is worse than both." in told


ROWS = [
    row("pi_bad", "snips", "REFUSE", 0.844, reasons=["low_ess"], labels_needed=180.0),
    row("pi_bad", "ppi_pp", "REPORT", 0.312),
    row("pi_cot", "naive", "REPORT", 0.99),
    row("pi_cot", "snips", "CAUTION", 0.61),
    row("pi_cot", "ppi_pp", "REFUSE", None),
    row("pi_<b>", "snips", "REFUSE", 0.95, reasons=["low_ess"], labels_needed=180.0),
]


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        (ROWS, [("pi_cot", "snips"), ("pi_bad", "ppi_pp"), ("pi_<b>", "snips")]),
        ([row("a", "ppi_pp", "CAUTION"), row("a", "dr_oracle", "REPORT")], [("a", "dr_oracle")]),
        ([row("a", "ppi_pp", "CAUTION")], [("a", "ppi_pp")]),
    ],
)
def test_the_headline_is_the_most_trusted_estimate_that_is_not_refused(rows, chosen):
    assert [(r["policy"], r["estimator"]) for r in headline({"rows": rows})] == chosen
    raw = row("a", "direct", "CAUTION", 0.96, reasons=["no_labels", "not_on_oracle_scale"])
    assert not accepted(headline({"rows": [row("a", "snips", "REFUSE", 0.95), raw]})[0])


def test_the_index_says_what_is_known_and_links_what_is_there(tmp_path):
    here, gone = tmp_path / "06_estimates.html", tmp_path / "nowhere.html"
    here.write_text("page")
    pages = [
        report.Listed("08_ablation@cell", "An ablation", here),
        report.Listed(
            "06_estimates", "Worth & <i>more</i>", here, {"rows": "1,234"}, failed=True, verdicts={"REFUSE": 3}
        ),
        report.Listed("07_pi_bad_anomaly", "Missing page", gone),
    ]
    found = {"n": 120, "rows": ROWS, "ranking": [ROWS[1] | {"rank": 1}]}
    page = index("local", pages, found, tmp_path / "index.html", truth={"pi_bad": 0.3}).read_text(encoding="utf-8")
    assert "pi_bad ranks first: 0.31 (95% interval 0.21 to 0.41)." in page
    assert "Values with caution: pi_cot." in page
    assert "Refused: pi_&lt;b&gt;." in page
    assert '<p class="alert">Failed, and not up to date: 06_estimates.</p>' in page
    assert re.findall(r"<h2[^>]*>([^<]+)</h2>", page)[-2:] == ["The answer", "Ablations"]
    assert re.findall(r'<h3><a href="([^"]+)">', page) == ["06_estimates.html", "06_estimates.html"]
    assert "<h3>Missing page</h3>" in page
    assert {"failed", "missing"} <= set(re.findall(r'<span class="badge \w+">(\w+)</span>', page))
    assert re.findall(r"<s>(0.\d+)</s>", page) == ["0.84", "0.95", "0.95"]
    assert "180 labels would answer it" in page
    assert "Worth &amp; &lt;i&gt;more&lt;/i&gt;" in page
    assert not re.search("<script|https://", page)
    assert ("1 page" in page, "2 pages, 0.0 MB" in page) == (False, True)


@pytest.mark.parametrize(("kind", "element"), [("alarms", '<p class="alert">'), ("notes", "<li>")])
def test_an_index_without_estimates_says_so_and_what_the_controls_say(tmp_path, kind, element):
    bare = index("local", [], None, tmp_path / "index.html").read_text()
    assert not re.search('<table|<p class="note">|class="alert"', bare)
    page = index("local", [], None, tmp_path / "index.html", **{kind: ["1 < 2 failed"]}).read_text()
    assert f"{element}1 &lt; 2 failed<" in page


def told_of(rows, ranking, **more):
    found = {"n": 9, "rows": rows, "ranking": ranking} | more
    return " ".join([verdict(found), *remarks(found)])


def test_differences_are_to_the_baseline_on_an_axis_with_its_zero_and_sorted(tmp_path):
    rows = [row(p, "ppi_pp", "REPORT", v) for p, v in (("base", 0.5), ("good", 0.7), ("bad", 0.12))]
    pairs = [
        {"a": "base", "b": "good", "difference": -0.2, "low": -0.4, "high": 0.0, "significant": False},
        {"a": "bad", "b": "base", "difference": -0.38, "low": -0.62, "high": -0.13, "significant": True},
        {"a": "bad", "b": "good", "difference": -0.58, "low": -0.8, "high": -0.3, "significant": True},
    ]
    found = {"rows": rows, "ranking": [], "contrasts": pairs, "logging_policy": "base"}
    page = index("local", [], found, tmp_path / "index.html").read_text(encoding="utf-8").replace("\u2212", "-")
    table = page[page.index("Difference from base") : page.index("Policy values")]
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", table)[4:]
    assert [c for c in cells if c] == [
        "good", "+0.20", "0.00 to +0.40", "not distinguishable", "bad", "-0.38", "-0.62 to -0.13", "worse",
    ]  # fmt: skip
    (zero,) = set(re.findall(r"--zero:([\d.]+)%", table))
    ticks = {float(t): at for at, t in re.findall(r'left:([\d.]+)%">([-\d.]+)</i>', table)}
    assert ticks[0] == zero
    assert min(ticks) <= -0.62 < 0.4 <= max(ticks)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-0.62, 0.4), (0.003, 0.0041), (-12.0, 88.0), (0.0, 0.0)])
def test_an_axis_holds_what_it_is_of_between_a_few_round_ticks(ends):
    axis = Axis.over(ends)
    assert 2 <= len(axis.ticks) <= 7
    assert (axis.ticks[0], axis.ticks[-1]) == pytest.approx((axis.low, axis.high))
    assert axis.low <= ends[0] <= ends[1] <= axis.high
    assert axis.place(axis.low) == 0
    assert axis.place(axis.high) == 100


def test_why_no_value_is_accepted_is_said_by_the_most_frequent_reason():
    few, wide = {"reasons": ["few_labels", "interval_too_wide"]}, {"reasons": ["interval_too_wide"]}
    rows = [row("a", "ppi_pp", "REFUSE", **few), row("b", "ppi_pp", "REFUSE", **wide)]
    assert "too wide" in verdict({"rows": rows})
    assert "too few" in verdict({"rows": rows[:1]})
    raw = row("a", "direct", "CAUTION", reasons=["no_labels", "not_on_oracle_scale"])
    assert "no labels" in verdict({"rows": [raw]})


def test_a_verdict_has_at_most_25_words_however_many_policies_there_are():
    names = [f"pi_{k}" for k in range(14)]
    rows = [row(p, "ppi_pp", "REPORT", 0.5 if k < 9 else 0.1) for k, p in enumerate(names)]
    ranking = [{"policy": p, "rank": 1 if k < 9 else 10} for k, p in enumerate(names)]
    contrasts = [{"a": a, "b": b, "difference": 0.4, "significant": True} for a in names[:9] for b in names[9:]]
    found = {"rows": rows, "ranking": ranking, "contrasts": contrasts}
    assert "9 of 14" in verdict(found)
    assert len(verdict(found).split()) <= 25
    for few in (rows[:3], []):
        assert len(verdict({"rows": few, "ranking": ranking[:3]}).split()) <= 25


def test_what_would_turn_the_order_of_the_first_and_its_nearest_rival_is_said():
    rows = [row(p, "snips", "CAUTION", v) for p, v in (("a", 0.6), ("b", 0.56), ("c", 0.2))]
    ranking = [{"policy": r["policy"], "rank": 1 + (r["policy"] == "c"), "verdict": r["verdict"]} for r in rows]
    turned = {"worse": "b", "difference": 0.04, "judge_error": 0.04, "unseen_mass": 0.0667, "unseen_of": "a"}
    far = {"worse": "c", "difference": 0.4, "judge_error": 0.4, "unseen_mass": 0.5, "unseen_of": "c"}
    breakdown = [{"better": "a"} | far, {"better": "a"} | turned, {"better": "b"} | far]
    told = told_of(rows, ranking, breakdown=breakdown)
    assert "overrated a against b by 0.04," in told
    assert "6.7% of a's responses" in told
    assert "the lowest value" in told
    # Labels alone: no judge that could be wrong.
    alone = report.breakdown_sentence({"ranking": ranking, "breakdown": [breakdown[0] | {"judge_error": None}]})
    assert "overrated" not in alone
    assert "50% of c's responses" in alone
    assert "the highest value" in alone
    pairs = [{"a": "a", "b": "b", "difference": 0.04, "low": -0.06, "high": 0.14, "significant": False}]
    told = told_of(rows, ranking, breakdown=breakdown, contrasts=pairs)
    assert ("against b" in told, "against c by 0.4" in told) == (False, True)
    assert "about 6 times the prompts and labels" in told  # half the width is 2.5 times the difference
    assert report.breakdown_sentence({"ranking": ranking[:1], "breakdown": []}) == report.breakdown_sentence({}) == ""


@pytest.mark.parametrize(("verdict", "careful"), [("REPORT", False), ("CAUTION", True)])
def test_a_leader_with_caution_is_named_so(verdict, careful):
    rows = [row("a", "snips", verdict, 0.8), row("b", "ppi_pp", "REPORT", 0.2)]
    ranking = [r | {"rank": k} for k, r in enumerate(rows, 1)]
    pairs = [{"a": "a", "b": "b", "difference": 0.6, "significant": True}]
    assert ("with caution" in told_of(rows, ranking).split("ranks first")[1].split(":")[0]) == careful
    assert ("with caution" in findings.contrasts_sentence(pairs, ranking)) == careful


def test_whether_weights_match_the_draws_is_shown_and_a_mismatch_is_told():
    data = example(400)
    shuffled = data.with_logged(log_weight=np.random.default_rng(1).permutation(data.logged.log_weight))
    of = {"right": data, "none": example(200, log_weight=np.full(200, np.nan)), "wrong": shuffled}
    found = [context(d, policy=name, judge="d") for name, d in of.items()]
    wrong = found[-1]
    vars(wrong)["match_p"] = 0.0004
    audit = audit_frame(found, "d").set_index("policy").match
    assert audit["none"] == "not testable"
    assert 0.01 < float(audit["right"]) <= 1
    assert audit["wrong"] == "no, under 0.001"
    told = match_sentence(found, "d")
    assert told.startswith("The weights of wrong do not match its draws")
    assert "not testable: none" in told
    assert "wrong" not in match_sentence([f for f in found if f is not wrong], "d")


def test_rows_that_were_not_collected_are_grey_and_count_nowhere():
    rows = [row("a", "snips", NOT_ASKED, None), row("a", "ppi_pp", "REPORT"), row("b", "snips", "REFUSE")]
    assert report.table(rows)._repr_html_().count('<tr class="unasked">') == 1
    assert len(snapshots.changes(rows, rows)) == 2
    truth = [Truth("a", 0.5, 0.01, "measured"), Truth("b", 0.4, 0.01, "measured")]
    for some, refused in ((rows, 1.0), (rows[:1], np.nan)):
        scored = scores(pd.DataFrame(some).assign(seed=0), truth, ["estimator"]).set_index("estimator")
        assert scored.refused["snips"] == pytest.approx(refused, nan_ok=True)


def test_every_page_names_the_same_headline_of_every_policy():
    run = Run("sample")
    table = run.table()
    study = run.study(table)
    result = run.estimates(table, study)
    ranked = {r["policy"]: (r["estimator"], r["value"]) for r in result["ranking"]}
    places = {
        "first page": [(r["policy"], r["estimator"], r["value"]) for r in headline(result)],
        "page 06": findings.headline_frame(result)[["policy", "estimator", "value"]].itertuples(index=False, name=None),
        "page 07": [
            (r["policy"], r["trusted_estimator"], r["trusted"])
            for r in words.anomaly_json(run.investigate(table))["policies"]
        ],
        "ablations and figures": [
            (p, *itemgetter("estimator", "value")(of_context(ctx)))
            for p, ctx in study.of_judge(result["judge"]).items()
        ],
    }
    assert len(ranked) == 6
    for place, shown in places.items():
        assert {p: (estimator, pytest.approx(value)) for p, estimator, value in shown} == ranked, place


def test_what_was_not_collected_is_named_so_and_counted_nowhere(tmp_path):
    """Draws with labels, and no log-probs: weights were never asked for."""
    rows = [row(p, "ppi_pp", "REPORT") for p in "ab"] + [row(p, "snips", NOT_ASKED, None) for p in "ab"]
    told = " ".join(remarks({"n": 80, "rows": rows, "ranking": []}))
    assert "The log alone is not enough" not in told
    assert "Refused" not in told
    assert "Log-probs were not collected" in told
    unjudged = [one | {"reasons": ["no_judge_scores"]} for one in rows]
    assert "Log-probs" not in " ".join(remarks({"n": 80, "rows": unjudged, "ranking": []}))
    page = index("run", [], {"n": 80, "rows": rows}, tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.count('<span class="badge other">not collected</span>') == 2
    assert 'class="badge refuse"' not in page
    assert findings.verdict_counts(rows) == {"report": 2, "caution": 0, "refuse": 0}
    counted = findings.estimates_sentence(rows)
    assert counted.startswith("2 of 2 estimates are accepted, 0 are refused")
    assert "2 more were not collected" in counted
    assert plots.forest(rows).finding.startswith("None of 2 estimates are refused")
    assert "not collected" in repr(report.table(rows))


def test_numbers_of_weights_that_are_not_there_are_none():
    no_weights = example(200, log_weight=np.full(200, np.nan))
    found = [context(no_weights, policy="pi", judge="deterministic")]
    audit, tails = (f(found, "deterministic").iloc[0] for f in (audit_frame, concentration_frame))
    for name in ("mean_weight", "missing_mass"):
        assert pd.isna(audit[name])
    for name in ("ess", "ess_share", "khat", "at_ceiling", "clip_dominated"):
        assert pd.isna(tails[name])
