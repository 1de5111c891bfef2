"""Figures of the anomaly: what their titles say is what the data say, and missing values leave a figure that says
so."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from arena10k.attribution import CAUSES, Profile, ceiling_audit, length_strata, shrinkage_paths
from arena10k.estimation.diagnostics import permutation_null
from arena10k.plots import anomaly, estimates, evidence


def row(values=(0.0, 0.0, -0.02, 0.06, 0.36, 0.0), **more) -> dict:
    parts = [
        {"cause": c, "value": v, "ci_low": None if v is None else v - 0.03, "ci_high": None if v is None else v + 0.03}
        for c, v in zip(CAUSES, values, strict=True)
    ]
    base = {
        "policy": "$x_<i>$",
        "published": 0.8,
        "trusted": 0.4,
        "trusted_ci": [0.35, 0.45],
        "confidence": 0.95,
        "gap": 0.4,
        "parts": parts,
    }
    return {**base, "main_cause": "off_support", **more}


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return SimpleNamespace(lw=rng.normal(-1, 1.5, 400), reward=rng.random(400), length=rng.integers(1, 900, 400) * 1.0)


def drawn(figure: Figure) -> Figure:
    figure.canvas.draw()
    return figure


def test_waterfall_names_the_main_cause():
    drawn(anomaly.waterfall(row()))
    assert "off-support mass accounts for +0.36" in anomaly.waterfall_finding(row())
    assert "judge bias +0.060" in anomaly.waterfall_alt(row())
    lost = row((None,) * 6, trusted=None, trusted_ci=None, gap=None, main_cause=None)
    drawn(anomaly.waterfall(lost))
    assert "cannot be taken apart" in anomaly.waterfall_finding(lost)


def test_waterfall_says_why_corrupted_log_probs_come_first_where_another_part_is_larger():
    def told(*values):
        return anomaly.waterfall_finding(row(values, main_cause="corrupted_logprobs", corrupted_weight_share=0.91))

    assert told(0.07, 0.0, 0.0, 0.09, 0.21, 0.0).endswith(
        "; corrupted log-probs hold 91% of the weight and come first, whatever else is wrong: off-support mass is "
        "+0.21 of the gap of +0.40"
    )
    assert told(0.02, 0.0, 0.0, 0.0, 0.01, 0.0).endswith("weight; that this moves the number by +0.02 could be chance")
    assert told(0.3, 0.0, 0.0, 0.0, 0.1, 0.0).endswith("; corrupted log-probs account for +0.30 of the gap of +0.40")
    drawn(
        anomaly.waterfall(
            row((0.07, 0.0, 0.0, 0.09, 0.21, 0.0), main_cause="corrupted_logprobs", corrupted_weight_share=0.91)
        )
    )


def test_shrinkage_says_whether_the_band_is_reached(rows):
    paths = shrinkage_paths(rows.lw, rows.reward)
    drawn(anomaly.shrinkage("a", paths, (0.0, 0.1)))
    assert "However they are shrunk" in anomaly.shrinkage_finding("a", paths, (0.0, 0.1))
    assert "Every shrinkage" in anomaly.shrinkage_finding("a", paths, (0.0, 1.0))
    assert "not known" in anomaly.shrinkage_finding("a", paths, None)
    empty = shrinkage_paths(np.full(3, -np.inf), np.ones(3))
    drawn(anomaly.shrinkage("a", empty, (0.1, 0.2)))
    drawn(anomaly.shrinkage("p0", shrinkage_paths(np.zeros(50), rows.reward[:50]), None))


def test_length_strata_name_where_the_weight_is(rows):
    short = np.where(rows.length < 180, 6.0, rows.lw)
    strata = {"even": length_strata(np.zeros(400), rows.length), "odd": length_strata(short, rows.length)}
    drawn(anomaly.length_weights({**strata, "none": length_strata(rows.lw, np.full(400, np.nan))}))
    found = anomaly.length_weights_finding(strata)
    assert "weight of odd" in found
    assert f"{strata['odd'].weight_share[0]:.0%} of the weight" in found
    assert "as the rows are" in anomaly.length_weights_finding({"even": strata["even"]})


def test_ceiling_names_policies_that_are_the_mean_of_their_ceiling(rows):
    audit = ceiling_audit({"fine": rows.lw, "clipped": np.append(rows.lw, [20.0] * 8), "none": np.full(3, -np.inf)})
    drawn(anomaly.ceiling(audit))
    assert "clipped (8 rows)" in anomaly.ceiling_finding(audit)
    none = "No policy's effective sample size is the number of rows tied at its largest weight"
    assert anomaly.ceiling_finding(audit[audit.policy == "fine"]) == none
    clone = ceiling_audit({"fine": rows.lw, "copy": np.zeros(107)})
    assert anomaly.ceiling_finding(clone) == f"{none}, but for copy, whose weights are all equal"


def test_permutation_names_the_policies_whose_weights_say_nothing(rows):
    nulls = {
        "blind": permutation_null(rows.lw, rows.reward),
        "seeing": permutation_null(8 * rows.reward, rows.reward),
        "p0": permutation_null(np.zeros(400), rows.reward),
        "none": permutation_null(np.empty(0), np.empty(0)),
    }
    drawn(evidence.permutation(nulls))
    found = evidence.permutation_finding(nulls)
    assert "blind" in found
    assert "seeing" not in found


def test_profiles_name_the_policies_of_other_lengths():
    rng = np.random.default_rng(0)
    base = rng.integers(20, 40, 60) * 1.0
    nats = rng.normal(-1, 0.2, 60)

    def profile(chars, nats=nats):
        return Profile(chars, nats, np.zeros(60), "token")

    shown = {"p0": profile(base), "long": profile(9 * base), "none": profile(np.empty(0), np.full(60, np.nan))}
    drawn(evidence.profiles(shown))
    assert "long (" in evidence.profiles_finding(shown)
    assert "none" not in evidence.profiles_finding(shown)
    assert "nats" in evidence.profiles_alt(shown)
    near = evidence.profiles_finding({"p0": profile(base), "a": profile(base + 1)})
    assert "half as long again as those of p0" in near
    low, high = (format(np.median(base + more), ",.0f") for more in (0, 1))
    assert f"{low} to {high} characters, p0 {low}" in near
    assert "No target" in evidence.profiles_finding({"p0": profile(base), "none": shown["none"]})


def test_incident_names_the_first_at_each_step_and_the_ties():
    steps = [
        ("clean", 0, 0.5, 0.6),
        ("stored 0.0", 3, 0.7, 0.6),
        ("clipped", 3, 0.5, 0.5),
        ("fixed", 0, 0.5, 0.6),
    ]
    rows = [
        {"step": step, "policy": policy, "published": value, "injected": n}
        for step, n, *values in steps
        for policy, value in zip("ab", values, strict=True)
    ]
    rows = pd.DataFrame(rows)
    drawn(estimates.incident_steps({"together": rows}))
    assert estimates.incident_steps_finding({"together": rows}).endswith("a (stored 0.0), then all (clipped)")
    told = "together, highest to lowest: clean b 0.600 to a 0.500, stored 0.0 a 0.700 to b 0.600, "
    assert told in estimates.incident_steps_alt({"together": rows})
    assert "No injected value" in estimates.incident_steps_finding({"together": rows[rows.injected == 0]})


def test_shrinkage_ticks_are_plain_numbers(rows):
    figure = drawn(anomaly.shrinkage("a", shrinkage_paths(rows.lw, rows.reward), (0.0, 0.1)))
    labels = [t.get_text() for t in figure.axes[0].get_xticklabels(which="both")]
    assert labels
    assert not [t for t in labels if "$" in t]
