"""The first page says in a reader's words what notebooks noted, and whether the controls of the log-probs failed."""

from __future__ import annotations

import ast
import html
import json
import re

import pytest

from arena10k import paths
from arena10k.audit import checks
from arena10k.evidence import findings
from arena10k.inputs.prompts import FILTERS
from arena10k.params import config
from arena10k.pipeline import first_page, stages
from arena10k.simulation import rehearsal

#: An estimate that no label puts on the oracle's scale.
RAW = {"estimator": "direct", "judge": "d", "verdict": "CAUTION", "value": 0.5, "reasons": ["not_on_oracle_scale"]}
#: The names behind each `**` that a notebook notes.
UNPACKED = {
    "{name: n for name, n in counts.items() if n}": {"read", "kept", *FILTERS},
    "checks.counts(found)": set(checks.counts([])),
    "rehearsal.held(cells, wanted.confidence)": set(rehearsal.JUDGES),
    "controls": set(checks.counts([])),
    "findings.verdict_counts(result['rows'], judge)": set(findings.verdict_counts([RAW], RAW["judge"])),
    "matrix.key_numbers(result)": {"rmse", "coverage", "refused", "misranked"},
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


@pytest.mark.parametrize("notebook", first_page.LABELS)
def test_every_number_a_notebook_notes_has_words(notebook):
    assert noted(paths.notebook(notebook)) == set(first_page.LABELS[notebook])
    assert not any("_" in label for label in first_page.LABELS[notebook].values())


def test_every_notebook_that_notes_numbers_has_words():
    folder = paths.notebook("00_status").parent
    told = [path.stem for path in sorted(folder.glob("*.ipynb")) if "run.note(" in path.read_text(encoding="utf-8")]
    assert told == sorted(first_page.LABELS)


def test_numbers_come_in_the_order_of_reading_and_words_in_place_of_names():
    cause = {"policy": "pi", "main_cause": "off_support", "anomalies": 1}
    assert list(first_page.labelled("07_pi_bad_anomaly", cause).values()) == [1, "pi", "off-support mass"]
    assert first_page.labelled("03_teacher_forcing", {"self_consistency_max_nats": None, "scored": 4000}) == {
        "log-probs of responses": 4000,
        "largest difference from generation (nats)": "not measured",
    }
    (told,) = first_page.labelled("03_teacher_forcing", {"self_consistency_max_nats": 1.07e-4}).values()
    assert told == "0.000107"
    assert first_page.labelled("10_simulation", {"replicates": 50, "transports": None}) == {
        "data sets of each kind": 50
    }
    assert first_page.labelled("08_ablation", {"coverage": 0.946}) == {"intervals that hold the truth": "94.6%"}


def check(name, policy, value, ok, limit=None):
    return {"check": name, "policy": policy, "value": value, "limit": limit, "p_value": None, "ok": ok}


def estimates(estimators):
    """By policy, or policy and a count, estimator and verdict."""
    rows = [
        {"policy": p[0] if isinstance(p, tuple) else p, "estimator": e, "judge": "d", "value": 0.5, "verdict": v}
        for p, (e, v) in estimators.items()
    ]
    return {"judge": "d", "rows": rows}


UNKNOWN = check("shuffled_prompt", "p0", None, None, 0.75)


def test_controls_that_hold_raise_no_alarm():
    found = [UNKNOWN, check("clone", "copy", 0.0, True, 1e-3)]
    told = first_page.controls(found, estimates({"copy": ("snips", "REPORT")}), "p0")
    assert (re.findall(r"\d+", told[0]), told[1]) == (["1", "03"], False)
    assert first_page.controls([], {}, "p0") == ("", False)


@pytest.mark.parametrize(
    ("rows", "rests"),
    [
        (
            {"p0": ("snips", "REPORT"), "a": ("ppi_pp", "REPORT"), "b": ("snips", "REFUSE")},
            [],
        ),
        (
            {("a", 0): ("ppi_pp", "REPORT"), ("a", 1): ("snips", "CAUTION")},  # beside the headline
            ["a"],
        ),
        ({"a": ("direct", "CAUTION"), "b": ("dr_cpo", "CAUTION")}, ["b"]),
        ({"a": ("dr_cpo", "CAUTION"), "b": ("snips", "REPORT")}, ["b", "a"]),
    ],
)
def test_a_control_that_failed_is_told_with_the_values_that_rest_on_it(rows, rests):
    failed = check("clone", "copy", 4.0067, False, 1e-3)
    told, alarm = first_page.controls([UNKNOWN, failed], estimates(rows), "p0")
    assert alarm
    facts = re.findall(r"\d[\d.]*\d|\d+\b|\bcopy,|\bp0\b", told)
    assert facts[:7] == ["1", "1", "copy,", "p0", "4.01", "0.001", "1"]
    assert re.findall(r"\b[ab]\b(?! copy)", told) == rests


def test_measurements_that_are_missing_by_what_they_measure_are_told():
    test = {"job": "judge", "policy": "a", "bad": 7, "rows": 90, "prompt_chars": 0.5, "language": None}
    found = {"missing": {"tests": [test | {"response_chars": 1e-4}]}}
    told = first_page.missing(found)
    assert re.findall(r"\d+|judge", told) == ["7", "judge", "05"]
    assert first_page.missing({"missing": {"tests": [test | {"response_chars": 0.4}]}}) == first_page.missing({}) == ""


def test_a_control_that_failed_is_told_before_there_are_estimates():
    told, alarm = first_page.controls([check("clone", "copy", 4.0, False, 1e-3)], {}, "p0")
    assert alarm
    assert "below" not in told


def test_a_run_without_estimates_to_come_says_what_it_is_about(home):
    page = first_page.write_index(config.load("incident")).read_text(encoding="utf-8")
    assert html.escape(first_page.about(config.load("incident"))) in page
    assert "sample" in first_page.about(config.load("incident"))
    for name in ("sample", "ablations", "arena10k"):
        assert "06_estimates" in stages.of(config.load(name))
        assert first_page.about(config.load(name)) == ""
