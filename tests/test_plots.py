"""Figures: drawn from any data a run may have, the finding in words that the data bear out."""

from __future__ import annotations

import io
import json
import re

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from arena10k import paths, plots
from arena10k.estimation.diagnostics import permutation_null
from arena10k.estimation.planning import Pilot, labels_needed
from arena10k.plots import style
from arena10k.run import Run

N = 200


@pytest.fixture
def log_weight() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    far = rng.normal(-20, 5, N)
    far[:3] = np.nan
    far[3:5] = -np.inf
    return {"pi_clone": np.zeros(N), "pi_near": rng.normal(-0.125, 0.5, N), "pi_$far$": far}


@pytest.fixture
def jobs() -> pd.DataFrame:
    rows = [
        {"job": "responses", "policy": "p0", "total": 100, "ok": 100, "errors": {}, "quarantined": {}},
        {
            "job": "logprobs",
            "policy": "p0",
            "total": 100,
            "ok": 90,
            "errors": {"timeout": 4},
            "quarantined": {"zero": 3},
        },
        {"job": "logprobs", "policy": "pi_bad", "total": 100, "ok": 40, "errors": {}, "quarantined": {}},
    ]
    return pd.DataFrame(rows)


def _texts(figure: Figure) -> str:
    found = figure.findobj(mpl.text.Text)
    return " ".join(" ".join(t.get_text().split()) for t in found)


def _estimates() -> list[dict]:
    rows = [("pi_a", "snips", 0.5, 0.4, 0.6, "REPORT"), ("pi_a", "ppi_pp", 0.52, 0.5, 0.54, "CAUTION")]
    rows += [("pi_b", "snips", 0.84, None, None, "REFUSE"), ("pi_b", "ppi_pp", None, None, None, "REFUSE")]
    keys = ["policy", "estimator", "value", "ci_low", "ci_high", "verdict"]
    return [dict(zip(keys, row, strict=True)) | {"judge": "deterministic"} for row in rows]


def _cells() -> pd.DataFrame:
    """Two estimators in two cells: the usual interval fails in one, the other is refused in one."""
    columns = ["population", "case", "estimator", "report", "held_report", "caution", "held_caution"]
    rows = [
        ("pi_near", "transports", "plain_snips", 1.0, 0.5, 0.0, np.nan),
        ("pi_near", "transports", "ppi_pp", 0.5, 0.96, 0.4, 0.9),
        ("pi_near", "fooled", "plain_snips", 1.0, 0.92, 0.0, np.nan),
        ("pi_near", "fooled", "ppi_pp", 0.0, np.nan, 0.0, np.nan),
    ]
    return pd.DataFrame(rows, columns=columns).assign(own=True, replicates=50)


def _drawings(log_weight, jobs) -> dict[str, Figure]:
    rng = np.random.default_rng(1)
    score, label = rng.random(N), rng.integers(0, 2, N).astype(float)
    label[:50] = np.nan
    lp = -rng.gamma(3, 10, N)
    return {
        "log_weights": plots.log_weights(log_weight),
        "overlap": plots.overlap(log_weight),
        "reward_by_weight": plots.reward_by_weight(log_weight, {p: rng.integers(0, 3, N) / 2 for p in log_weight}),
        "ccdf": plots.ccdf(log_weight),
        "permutation": plots.permutation({"pi_near": permutation_null(log_weight["pi_near"], score)}),
        "planning": plots.planning({"pi_near": Pilot(0.4, 0.0, 0.45, 0.0, 0.1, 0.5, "target", 100)}, 0.2),
        "coverage": plots.coverage(_cells()),
        "forest": plots.forest(_estimates(), {"pi_a": 0.45}),
        "reliability": plots.reliability(score, label, curve=(np.array([0.0, 1.0]), np.array([0.2, 0.8]))),
        "self_consistency": plots.self_consistency(lp, lp + 1e-5),
        "missing_heatmap": plots.missing_heatmap(jobs),
        "progress": plots.progress(jobs),
    }


def test_every_figure_draws_has_its_finding_and_keeps_settings(log_weight, jobs):
    before = dict(mpl.rcParams)
    drawings = _drawings(log_weight, jobs)
    assert {f"{name}_finding" for name in drawings} | set(drawings) <= set(plots.__all__)
    for name, figure in drawings.items():
        figure.savefig(io.BytesIO(), format="svg")
        assert len(figure.texts[0].get_text()) > 20, name
    assert dict(mpl.rcParams) == before


def _shown(figure):
    """The words of a figure, and where its lines and points are."""
    words = [text.get_text() for text in figure.findobj(Text)]
    lines = [line.get_xydata() for line in figure.findobj(Line2D)]
    points = [np.ma.filled(dots.get_offsets(), np.nan) for dots in figure.findobj(PathCollection)]
    return words, np.concatenate([np.asarray(xy, float).ravel() for xy in lines + points])


def test_figures_show_the_same_when_drawn_again(log_weight, jobs):
    first, second = _drawings(log_weight, jobs), _drawings(log_weight, jobs)
    for name in first:
        (words, places), (again, there) = _shown(first[name]), _shown(second[name])
        assert words == again, name
        np.testing.assert_allclose(places, there, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("values", [np.array([]), np.full(5, np.nan), np.full(5, -np.inf), np.array([0.0])])
def test_weight_figures_cope_with_policies_without_weights(values):
    data = {"pi_empty": values}
    for draw in (plots.log_weights, plots.overlap, plots.ccdf):
        draw(data).savefig(io.BytesIO(), format="svg")
    plots.reward_by_weight(data, {"pi_empty": np.ones(len(values))}).savefig(io.BytesIO(), format="svg")


def test_judge_figures_cope_with_nothing_and_with_one_kind():
    for score, label in [([], []), ([0.5, 0.7], [np.nan, np.nan]), ([0.5, 0.5], [1.0, 1.0])]:
        for draw in (plots.reliability, plots.self_consistency):
            draw(np.array(score), np.array(label)).savefig(io.BytesIO(), format="svg")


def test_weight_findings_follow_the_data(log_weight):
    assert "pi_$far$" in plots.log_weights_finding(log_weight)
    assert "far from one" in plots.log_weights_finding(log_weight)
    assert "Only pi_clone and pi_near pass" in plots.overlap_finding(log_weight)
    near = {"pi_clone": np.zeros(N)}
    assert "every policy is near one" in plots.log_weights_finding(near)
    assert "Every policy passes" in plots.overlap_finding(near)
    one_heavy = {"pi_x": np.r_[np.log(300.0), np.zeros(100)]}
    assert "holds 75% of the weight of pi_x" in plots.ccdf_finding(one_heavy)
    even = {"pi_x": np.zeros(5000)}
    assert "One row alone holds under 0.1% of the weight of pi_x" in plots.ccdf_finding(even)
    assert plots.ccdf_finding({"pi_x": np.full(3, np.nan)}) == "No policy has a usable log-weight"
    assert plots.permutation_alt({}).endswith("No policy has weights to shuffle.")
    assert plots.planning_alt({}, 0.2).endswith("There is no policy to plan for.")
    rewards = {"pi_x": np.ones(101)}
    assert "10 heaviest rows hold 77%" in plots.reward_by_weight_finding(one_heavy, rewards)
    rewards["pi_x"][0] = np.nan  # the heavy row is not judged, so it is not in the figure
    assert "10 heaviest rows hold 10%" in plots.reward_by_weight_finding(one_heavy, rewards)


def test_coverage_finding_names_what_chance_cannot_explain():
    cells = _cells()
    told = plots.coverage_finding(cells)
    usual = "The usual SNIPS interval under-covers in 1 of 2 settings"
    assert told == f"{usual}; no REPORT and no CAUTION does in any, beyond chance"
    cells.loc[1, "held_caution"] = 0.4
    told = plots.coverage_finding(cells)
    assert "of the accepted ones ppi_pp in 1, worst ppi_pp, CAUTION: 40% (pi_near, judge transports)" in told


def test_planning_finding_counts_labels_and_a_pilot_without_labels_needs_most():
    worst = Pilot(0.25, 0.0, 0.25, 0.0, 0.0, 0.5, "worst_case", 100)
    pilots = {"pi_a": Pilot(0.2, 0.0, 0.24, 0.0, 0.0, 0.5, "target", 100), "pi_b": worst}
    fewest, most = (labels_needed(pilots[name], 0.2) for name in ("pi_a", "pi_b"))
    assert 10 < fewest < most
    told = f"A PPI++ interval of width 0.2 takes {fewest} to {most} labels (assurance 80%), most for pi_b"
    assert plots.planning_finding(pilots, 0.2) == told


def test_histograms_state_mean_weight_ess_and_what_is_missing(log_weight):
    words = _texts(plots.log_weights(log_weight))
    assert "E[w] 1, ESS 200 of 200" in words
    assert "3 rows missing" in words
    assert "2 rows of weight 0" in words


def test_forest_finding_counts_refusals_and_coverage():
    assert plots.forest_finding(_estimates()) == "2 of 4 estimates are refused (pi_b)"
    with_truth = plots.forest_finding(_estimates(), {"pi_a": 0.45})
    assert with_truth.endswith("1 of the 2 other intervals hold the measured value")
    raw = [row | {"reasons": ["no_labels", "not_on_oracle_scale"]} for row in _estimates()]
    assert plots.forest_finding(raw, {"pi_a": 0.45}) == "2 of 2 estimates are refused (pi_b)"
    both = plots.forest_finding([*(row | {"reasons": []} for row in _estimates()), raw[0]], {"pi_a": 0.45})
    assert both.endswith(
        "1 of the 2 other intervals hold the measured value (those on the judge's scale are not counted)"
    )
    assert plots.forest_finding(pd.DataFrame(columns=list(raw[0]))) == "0 of 0 estimates are refused"


def test_forest_shows_verdicts_by_shape_and_a_missing_value_in_words():
    figure = plots.forest(_estimates(), {"pi_a": 0.45})
    assert "no value" in _texts(figure)
    marks = [line for line in figure.axes[0].lines if line.get_marker() not in ("None", None, "")]
    assert [m.get_fillstyle() for m in marks] == ["full", "left", "none"]
    labels = {t.get_text() for t in figure.axes[0].get_legend().get_texts()}
    assert labels == {"REPORT", "CAUTION", "REFUSE", "measured"}


def test_a_value_far_outside_is_an_arrow_with_its_number_and_leaves_the_others_their_room():
    refused = [row | {"value": 3.15, "verdict": "REFUSE"} for row in _estimates()[:1]]
    figure = plots.forest(_estimates()[1:2] + refused, {"pi_a": 0.45})
    assert "3.15" in _texts(figure)
    assert ">" in {line.get_marker() for line in figure.axes[0].lines}
    assert figure.axes[0].get_xlim()[1] < 1.5
    assert plots.forest_finding(refused, {"pi_a": 0.45}) == "1 of 1 estimates are refused (pi_a)"


def test_heat_maps_name_the_levels_they_speak_of():
    scores = pd.DataFrame({"estimator": ["snips", "snips", "direct"], "prompts": [40, np.nan, np.nan]})
    scores = scores.assign(rmse=[9.0, 0.2, 0.1], refused=[0.5, 0.25, 0.25])
    told = plots.heat_finding(scores, ["estimator"], ["prompts"], "rmse")
    assert told == "The RMSE goes from 0.1 (direct; prompts all) to 9 (snips; prompts 40)"
    assert list(plots.with_levels(scores, ["prompts"]).prompts) == ["40", "all", "all"]
    limits = {
        v: plots.heat(scores, ["estimator"], ["prompts"], v).axes[0].images[0].get_clim() for v in ("rmse", "refused")
    }
    assert limits == {"rmse": (0.0, pytest.approx(0.6)), "refused": (0.0, 1.0)}
    figure = plots.heat(scores, ["prompts"], ["estimator"], "rmse")
    assert figure.axes[0].get_ylabel() == "prompts"


def test_judge_findings_follow_the_data():
    score = np.repeat([0.2, 0.8], 100)
    honest = np.r_[np.zeros(80), np.ones(20), np.ones(80), np.zeros(20)]
    assert "agrees with the oracle" in plots.reliability_finding(score, honest)
    assert "0.80 too high at scores near 0.80" in plots.reliability_finding(score, np.zeros(200))


def test_self_consistency_finding_counts_rows_beyond_the_tolerance():
    lp = -np.arange(1.0, 11.0)
    assert "reproduces generation on all 10 rows" in plots.self_consistency_finding(lp, lp + 1e-4)
    worse = lp + np.r_[0.5, np.zeros(9)]
    assert "on 1 of 10 rows (largest difference 0.5)" in plots.self_consistency_finding(lp, worse)


def test_progress_findings_name_what_is_behind(jobs):
    assert plots.progress_finding(jobs) == "1 of 2 jobs are complete; logprobs 65%"
    assert plots.missing_heatmap_finding(jobs).startswith(
        "70 of 300 measurements are missing, most of them in logprobs of pi_bad"
    )
    done = jobs.assign(ok=100, errors=[{}] * 3, quarantined=[{}] * 3)
    assert plots.progress_finding(done) == "All 2 jobs are complete"
    assert plots.missing_heatmap_finding(done).startswith("Nothing is missing: all 300")
    assert "130 / 200, 7 failed" in _texts(plots.progress(jobs))


def _behind(figure: Figure) -> list[tuple[mpl.text.Text, np.ndarray]]:
    """Every visible text with the colour most pixels behind it have."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [t for t in figure.findobj(mpl.text.Text) if t.get_visible() and t.get_text().strip()]
    boxes = [t.get_window_extent() for t in texts]
    for text in texts:
        text.set_alpha(0)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[::-1, :, :3]
    found = []
    for text, box in zip(texts, boxes, strict=True):
        part = pixels[int(box.y0) : int(box.y1) + 1, int(box.x0) : int(box.x1) + 1].reshape(-1, 3)
        text.set_alpha(None)
        if len(part):
            colours, count = np.unique(part, axis=0, return_counts=True)
            found.append((text, colours[count.argmax()] / 255))
    return found


def test_words_in_figures_can_be_read(log_weight, jobs):
    cells = pd.DataFrame({"estimator": list("abcdef"), "prompts": 1, "rmse": np.linspace(0, 0.5, 6)})
    drawings = _drawings(log_weight, jobs) | {"heat": plots.heat(cells, ["estimator"], ["prompts"], "rmse")}
    for name, figure in drawings.items():
        found = _behind(figure)
        assert len(found) > 3, name
        for text, ground in found:
            assert style.contrast(text.get_color(), ground) >= 4.5, (name, text.get_text())


def test_marks_stand_out_from_white():
    """WCAG 2.1, 1.4.11: 3:1 for what a figure is read by."""
    for colour in (*style.COLOURS, style.INK, style.SOFT):
        assert style.contrast(colour, "white") >= 3


def test_series_differ_without_colour():
    looks = list(style.looks([f"p{i}" for i in range(16)]).values())
    assert len({(k.marker, k.hatch, str(k.line), k.colour) for k in looks}) == 16
    assert len({k.marker for k in looks[:8]}) == len({k.hatch for k in looks[:8]}) == 8


def test_long_titles_are_wrapped_inside_the_figure_without_losing_words():
    figure, _ = style.panels(1, 1, "Wide WORDS " * 30, 2.0)
    box = figure.texts[0].get_window_extent(FigureCanvasAgg(figure).get_renderer())
    assert box.x1 <= figure.bbox.x1
    assert len(re.findall("Wide WORDS", " ".join(figure.texts[0].get_text().split()))) == 30


def jobs_with(bad: dict[tuple[str, str], int]) -> pd.DataFrame:
    rows = [(job, policy, 120, 120 - bad.get((job, policy), 0)) for job in "ab" for policy in ("p0", "p1", "p2")]
    frame = pd.DataFrame(rows, columns=["job", "policy", "total", "ok"])
    return frame.assign(errors=frame.total - frame.ok)


@pytest.mark.parametrize("seed", range(30))
def test_most_are_missing_in_one_place_only_where_more_than_half_are(seed):
    rng = np.random.default_rng(seed)
    bad = {(job, policy): int(rng.integers(0, 4) ** 3) for job in "ab" for policy in ("p0", "p1", "p2")}
    total, most = sum(bad.values()), max(bad.values())
    told = plots.missing_heatmap_finding(jobs_with(bad))
    assert ("most of them" in told) == (2 * most > total)
    if total:
        named = [f"{job} of {policy}" for (job, policy), n in bad.items() if n == most][:3]
        assert all(name in told for name in named)


def test_one_statement_of_the_judges_errors_is_made_of_one_set_of_rows():
    """Pages 04 and 06 say it of the labelled logged responses, whose number it names."""
    logged = Run("sample").table().logged
    score, label = logged.judge_uncertainty, logged.label
    both = int((score.notna() & label.notna()).sum())
    assert f"{both} labelled logged responses" in plots.reliability_finding(score, label)
    for stage in ("04_judge", "06_estimates"):
        cells = json.loads(paths.notebook(stage).read_text(encoding="utf-8"))["cells"]
        source = "\n".join("".join(c["source"]) for c in cells)
        assert re.search(r"score, label = (table\.)?logged\[.*\], (table\.)?logged\.label", source)
        assert re.findall(r"reliability_finding\((.*)\)", source) == ["score, label"]


def test_shuffled_weights_tell_what_weights_add_and_not_what_a_value_is():
    """Few rows with uneven weights: a value far from the logging policy's mean, which shuffled weights give as well."""
    rng = np.random.default_rng(0)
    made = (permutation_null(rng.normal(0, 1.5, 20), rng.random(20)) for _ in range(50))
    null = next(n for n in made if n.p_value > 0.05 and abs(n.value - n.logging_mean) > 0.05)
    found = plots.permutation_finding({"pi": null})
    assert "pi: the weights add no visible information" in found or "every policy" in found
    assert "is the logging policy's mean" not in found
