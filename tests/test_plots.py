"""Figures: drawn from any data a run may have, the finding in words that the data bear out."""

from __future__ import annotations

import re
from html import escape
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from arena10k import paths, plots
from arena10k.attribution.game import CAUSES
from arena10k.attribution.mismatch import Profile
from arena10k.attribution.weights import ceiling_audit, length_strata, shrinkage_paths
from arena10k.estimation.diagnostics import permutation_null
from arena10k.estimation.planning import Pilot, labels_needed
from arena10k.plots import style
from arena10k.report import Drawn
from arena10k.report.display import svg_text
from arena10k.wording import percent

N = 120


def random(seed=0):
    return np.random.default_rng(seed)


def weights():
    rng = random()
    far = rng.normal(-20, 5, N)
    far[:3] = np.nan
    far[3:5] = -np.inf
    return {"pi_clone": np.zeros(N), "pi_near": rng.normal(-0.125, 0.5, N), "pi_$far$": far}


def jobs():
    errors, quarantined = [{}, {"timeout": 4}, {}], [{}, {"zero": 3}, {}]
    rows = [("responses", "p0", 100, 100), ("logprobs", "p0", 100, 90), ("logprobs", "pi_bad", 100, 40)]
    frame = pd.DataFrame(rows, columns=["job", "policy", "total", "ok"])
    return frame.assign(errors=errors, quarantined=quarantined)


def estimates(**more):
    rows = [("pi_a", "snips", 0.5, 0.4, 0.6, "REPORT"), ("pi_a", "ppi_pp", 0.52, 0.5, 0.54, "CAUTION")]
    rows += [("pi_b", "snips", 0.84, None, None, "REFUSE"), ("pi_b", "ppi_pp", None, None, None, "REFUSE")]
    keys = ["policy", "estimator", "value", "ci_low", "ci_high", "verdict"]
    return [dict(zip(keys, row, strict=True)) | {"judge": "deterministic"} | more for row in rows]


def simulated():
    """Two estimators in two cells: the usual interval fails in one, the other is refused in one."""
    columns = ["population", "case", "estimator", "report", "held_report", "caution", "held_caution"]
    rows = [
        ("pi_near", "transports", "plain_snips", 1.0, 0.5, 0.0, np.nan),
        ("pi_near", "transports", "ppi_pp", 0.5, 0.96, 0.4, 0.9),
        ("pi_near", "fooled", "plain_snips", 1.0, 0.92, 0.0, np.nan),
        ("pi_near", "fooled", "ppi_pp", 0.0, np.nan, 0.0, np.nan),
    ]
    return pd.DataFrame(rows, columns=columns).assign(own=True, replicates=50)


def compared():
    rows = [("pi_a", 0.02, -0.1, 0.15, "not distinguishable"), ("pi_b", -0.4, -0.6, -0.2, "worse")]
    return [dict(zip(("policy", "value", "low", "high", "result"), row, strict=True)) for row in rows]


def scored():
    columns = ["estimator", "judge", "rmse", "refused"]
    rows = [("ppi_pp", "a", 0.04, 0.0), ("ppi_pp", "b", 0.05, 0.0), ("snips", "a", 0.2, 0.5)]
    return pd.DataFrame(rows, columns=columns)


def swept():
    return pd.DataFrame({"estimator": list("abcdef"), "prompts": 1, "rmse": np.linspace(0, 0.5, 6)})


def gap(values=(0.0, 0.0, -0.02, 0.06, 0.36, 0.0), **more):
    """A row of anomaly.json with a part of the gap for each cause."""
    ends = [(None, None) if v is None else (v - 0.03, v + 0.03) for v in values]
    parts = [
        {"cause": c, "value": v, "ci_low": low, "ci_high": high}
        for c, v, (low, high) in zip(CAUSES, values, ends, strict=True)
    ]
    base = {"policy": "$x_<i>$", "published": 0.8, "trusted": 0.4, "trusted_ci": [0.35, 0.45], "confidence": 0.95}
    return base | {"gap": 0.4, "parts": parts, "main_cause": "off_support"} | more


def profile(chars, nats=None):
    return Profile(chars, random().normal(-1, 0.2, 60) if nats is None else nats, np.zeros(60), "token")


def incident():
    steps = [("clean", 0, 0.5, 0.6), ("stored 0.0", 3, 0.7, 0.6), ("clipped", 3, 0.5, 0.5), ("fixed", 0, 0.5, 0.6)]
    rows = [(step, policy, value, n) for step, n, *values in steps for policy, value in zip("ab", values, strict=True)]
    return pd.DataFrame(rows, columns=["step", "policy", "published", "injected"])


def both_states():
    frame = pd.DataFrame(estimates())
    sides = {f"{name}_{side}": frame[name] for name in ("value", "ci_low", "ci_high") for side in ("before", "after")}
    sides = {name: column.astype(float) for name, column in sides.items()}
    verdicts = {"verdict_before": ["CAUTION", *frame.verdict[1:3], np.nan], "verdict_after": frame.verdict}
    changed = {"outside": [True, False, False, False], "verdict_changed": [True, False, False, True]}
    return frame[["policy", "estimator"]].assign(**sides, **verdicts, **changed)


def drawings():
    log_weight, rng = weights(), random(1)
    score, label = rng.random(N), rng.integers(0, 2, N).astype(float)
    label[:50] = np.nan
    lp, length = -rng.gamma(3, 10, N), rng.integers(1, 900, N) * 1.0
    lengths = {p: length_strata(log_weight[p], length) for p in ("pi_clone", "pi_near")}
    return {
        "log_weights": plots.log_weights(log_weight),
        "overlap": plots.overlap(log_weight),
        "reward_by_weight": plots.reward_by_weight(log_weight, {p: rng.integers(0, 3, N) / 2 for p in log_weight}),
        "ccdf": plots.ccdf(log_weight),
        "ceiling": plots.ceiling(ceiling_audit(log_weight)),
        "permutation": plots.permutation({"pi_near": permutation_null(log_weight["pi_near"], score)}),
        "planning": plots.planning({"pi_near": Pilot(0.4, 0.0, 0.45, 0.0, 0.1, 0.5, "target", 100)}, 0.2),
        "differences": plots.differences("p0", compared()),
        "accuracy": plots.accuracy(scored()),
        "coverage": plots.coverage(simulated()),
        "forest": plots.forest(estimates(), {"pi_a": 0.45}),
        "then_and_now": plots.then_and_now(both_states()),
        "incident_steps": plots.incident_steps({"together": incident()}),
        "reliability": plots.reliability(score, label, curve=(np.array([0.0, 1.0]), np.array([0.2, 0.8]))),
        "self_consistency": plots.self_consistency(lp, lp + 1e-5),
        "missing_heatmap": plots.missing_heatmap(jobs()),
        "missing_by_length": plots.missing_by_length(by_length([1, 30])),
        "progress": plots.progress(jobs()),
        "heat": plots.heat(swept(), ["estimator"], ["prompts"], "rmse"),
        "waterfall": plots.waterfall(gap()),
        "shrinkage": plots.shrinkage("pi_near", shrinkage_paths(log_weight["pi_near"], score), (0.0, 0.1)),
        "length_weights": plots.length_weights(lengths | {"none": length_strata(lp, np.full(N, np.nan))}),
        "profiles": plots.profiles({"p0": profile(length), "none": profile(np.empty(0), np.full(60, np.nan))}),
    }


def by_length(bad):
    frame = pd.DataFrame({"lowest": [1.0, 200.0], "highest": [199.0, 900.0], "rows": 100, "bad": bad})
    return frame.assign(share=frame.bad / frame.rows)


@pytest.fixture(scope="module")
def every():
    before = dict(mpl.rcParams)
    made = drawings()
    assert dict(mpl.rcParams) == before
    return made


def words_of(figure):
    return " ".join(" ".join(text.get_text().split()) for text in figure.findobj(Text))


def test_a_figure_that_is_shown_twice_is_the_same(every):
    for name, shown in every.items():
        assert shown._repr_html_() == shown._repr_html_(), name


def test_every_figure_has_its_finding_as_title_and_within_its_words(every):
    assert set(every) == set(plots.__all__) - {"with_levels", "colour"}
    for name, shown in every.items():
        assert isinstance(shown, Drawn), name
        assert shown.finding not in words_of(shown.figure), name
        assert shown.finding in shown.alt, name
        assert len(shown.alt) > len(shown.finding) + 10, name
        assert f"{shown.alt}]" in repr(shown), name


def test_the_finding_stands_above_the_picture_as_text():
    shown = plots.progress(jobs()).with_caption("of <today>")
    title, _, picture = shown._repr_html_().partition("<img")
    assert f"<strong>{escape(shown.finding)}</strong>" in title
    assert "of &lt;today&gt;" in picture


def test_figures_are_the_same_when_drawn_again(every):
    again = drawings()
    assert {name: shown.alt for name, shown in every.items()} == {name: shown.alt for name, shown in again.items()}
    for name in ("reward_by_weight", "permutation"):
        assert svg_text(again[name].figure) == svg_text(every[name].figure)


def grounds(figure):
    """Every visible text with the colour most pixels behind it have."""
    figure.set_dpi(72)
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    boxes = [t.get_window_extent() for t in texts]
    for text in texts:
        text.set_alpha(0)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[::-1, :, :3]
    for text, box in zip(texts, boxes, strict=True):
        part = pixels[int(box.y0) : int(box.y1) + 1, int(box.x0) : int(box.x1) + 1].reshape(-1, 3)
        text.set_alpha(None)
        if len(part):
            _, first, count = np.unique(part @ (65536, 256, 1), return_index=True, return_counts=True)
            yield text, part[first[count.argmax()]] / 255


def test_words_in_figures_can_be_read(every):
    for name, shown in every.items():
        texts = list(grounds(shown.figure))
        assert len(texts) > 3, name
        for text, ground in texts:
            assert style.contrast(text.get_color(), ground) >= 4.5, (name, text.get_text())


def test_marks_stand_out_from_white_and_series_differ_without_colour():
    """WCAG 2.1, 1.4.11: 3:1 for what a figure is read by."""
    assert all(style.contrast(colour, "white") >= 3 for colour in (*style.COLOURS, style.INK, style.SOFT))
    looks = list(style.looks([f"p{i}" for i in range(16)]).values())
    assert len({(k.marker, k.hatch, str(k.line), k.colour) for k in looks}) == 16
    assert len({k.marker for k in looks[:8]}) == len({k.hatch for k in looks[:8]}) == 8


def test_words_have_9_pt_on_a_phone_and_a_policy_keeps_its_colour(every):
    """The narrow figure fits a screen of 390 px as it is."""
    for name, shown in every.items():
        assert shown.narrow.get_size_inches()[0] * 96 <= 390 - 2 * 16 - 2 * 8 - 2, name
        for figure in (shown.figure, shown.narrow):
            small = {t.get_text() for t in figure.findobj(Text) if t.get_text().strip() and t.get_fontsize() < 9}
            assert not small, name
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "_policies", [])
        plots.colour(["p0", "pi_a", "pi_b"])
        assert style.looks(["pi_b"])["pi_b"] == style.looks(["p0", "pi_a", "pi_b"])["pi_b"]
        assert style.looks(["pi_b"])["pi_b"].colour == style.COLOURS[2]
        assert style.looks(["x"])["x"].colour == style.COLOURS[0]


def test_no_word_is_cut_off_at_the_edge_of_a_figure(every):
    for name, shown in every.items():
        for figure in (shown.figure, shown.narrow):
            figure.set_dpi(72)
            figure.draw_without_rendering()
            ticks = {
                label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in axis.get_ticklabels()
            }
            for text in figure.findobj(lambda x: isinstance(x, Text) and x.get_visible() and x.get_text().strip()):
                box = text.get_window_extent()
                if text not in ticks and "\\mathdefault" not in text.get_text():
                    inside = box.x0 > -1 and box.y0 > -1 and box.x1 < figure.bbox.x1 + 1 and box.y1 < figure.bbox.y1 + 1
                    assert inside, (name, text.get_text())


def test_differences_are_told_apart_from_chance(every):
    assert re.findall(r"pi_\w+ is \w+", every["differences"].finding) == ["pi_b is worse"]
    tie = plots.differences("p0", [compared()[0]])
    assert "pi_a" not in tie.finding
    assert "p0" in tie.finding


def test_accuracy_names_the_closest_and_its_refusals(every):
    assert re.findall(r"\w+_pp|[\d.]+%?", every["accuracy"].finding) == ["ppi_pp", "0.04", "0%"]


EMPTY = {
    f"{name}, {len(values)} of {values[:1]}": (getattr(plots, name), ({"pi_empty": values},))
    for name in ("log_weights", "overlap", "ccdf")
    for values in (np.array([]), np.full(5, -np.inf), np.array([0.0]))
} | {
    "no reward": (plots.reward_by_weight, ({"pi_empty": np.zeros(5)}, {"pi_empty": np.full(5, np.nan)})),
    "no labels": (plots.reliability, (np.array([0.5, 0.7]), np.array([np.nan, np.nan]))),
    "no scores": (plots.reliability, (np.array([]), np.array([]))),
    "labels alike": (plots.reliability, (np.array([0.5, 0.5]), np.array([1.0, 1.0]))),
    "no generation": (plots.self_consistency, (np.array([]), np.array([]))),
    "no ceiling": (plots.ceiling, (ceiling_audit({"none": np.full(3, -np.inf)}),)),
    "no shrinkage": (plots.shrinkage, ("a", shrinkage_paths(np.full(3, -np.inf), np.ones(3)), (0.1, 0.2))),
    "equal weights": (plots.shrinkage, ("p0", shrinkage_paths(np.zeros(50), random().random(50)), None)),
    "no gap": (plots.waterfall, (gap((None,) * 6, trusted=None, trusted_ci=None, gap=None, main_cause=None),)),
    "no truth": (plots.heat, (swept().assign(rmse=np.nan), ["estimator"], ["prompts"], "rmse")),
    "no shuffles": (plots.permutation, ({"none": permutation_null(np.empty(0), np.empty(0))},)),
    "no policies": (plots.permutation, ({},)),
    "no plan": (plots.planning, ({}, 0.2)),
    "no lengths": (plots.length_weights, ({"none": length_strata(np.zeros(3), np.full(3, np.nan))},)),
    "no rows": (plots.forest, (pd.DataFrame(columns=list(estimates(reasons=[])[0])),)),
    "nothing bad": (plots.missing_by_length, (by_length([0, 0]),)),
}


@pytest.mark.parametrize("case", EMPTY)
def test_figures_of_what_is_not_there_are_drawn_and_say_so(case):
    draw, data = EMPTY[case]
    shown = draw(*data)
    FigureCanvasAgg(shown.figure).draw()
    assert shown.finding


def test_weight_findings_follow_the_data(every):
    words = words_of(every["log_weights"].figure)
    assert all(fact in words for fact in ("E[w] 1, ESS 120 of 120", "3 rows missing", "2 rows of weight 0"))
    far = {name: every[name].finding for name in ("log_weights", "overlap")}
    assert "pi_$far$" in far["log_weights"]
    assert "pi_$far$" not in far["overlap"]
    assert all(name in far["overlap"] for name in ("pi_clone", "pi_near"))
    near = {"pi_clone": np.zeros(N)}
    assert {plots.log_weights(near).finding, plots.overlap(near).finding}.isdisjoint(far.values())
    one_heavy, even = {"pi_x": np.r_[np.log(300.0), np.zeros(100)]}, {"pi_x": np.zeros(5000)}
    assert "75% of the weight of pi_x" in plots.ccdf(one_heavy).finding
    assert "under 0.1% of the weight of pi_x" in plots.ccdf(even).finding
    rewards = {"pi_x": np.ones(101)}
    assert " 77% " in plots.reward_by_weight(one_heavy, rewards).finding
    rewards["pi_x"][0] = np.nan  # the heavy row is not judged, so it is not in the figure
    assert " 10% " in plots.reward_by_weight(one_heavy, rewards).finding
    many = plots.reward_by_weight(even, {"pi_x": np.ones(5000)})
    assert (many.kind, every["reward_by_weight"].kind) == ("png", "svg")


def test_ceiling_names_policies_that_are_the_mean_of_their_ceiling():
    lw = random().normal(-1, 1.5, 400)
    audit = ceiling_audit({"fine": lw, "clipped": np.append(lw, [20.0] * 8), "none": np.full(3, -np.inf)})
    assert "clipped (8 rows)" in plots.ceiling(audit).finding
    none = plots.ceiling(audit[audit.policy == "fine"]).finding
    clone = plots.ceiling(ceiling_audit({"fine": lw, "copy": np.zeros(107)})).finding
    assert clone.startswith(none)
    assert "copy" in clone.removeprefix(none)


def test_coverage_finding_names_what_chance_cannot_explain(every):
    first, _, ours = every["coverage"].finding.partition(";")
    assert re.findall(r"\d+", first) == ["1", "2"]
    assert not re.search(r"\d|ppi_pp", ours)
    cells = simulated()
    cells.loc[1, "held_caution"] = 0.4
    worse = plots.coverage(cells).finding
    assert worse.startswith(first)
    assert "ppi_pp, CAUTION: 40% (pi_near, judge transports)" in worse


def test_planning_finding_counts_labels_and_a_pilot_without_labels_needs_most():
    worst = Pilot(0.25, 0.0, 0.25, 0.0, 0.0, 0.5, "worst_case", 100)
    pilots = {"pi_a": Pilot(0.2, 0.0, 0.24, 0.0, 0.0, 0.5, "target", 100), "pi_b": worst}
    fewest, most = (labels_needed(pilots[name], 0.2) for name in ("pi_a", "pi_b"))
    assert 10 < fewest < most
    assert re.findall(r"[\d.]*\d+|pi_\w", plots.planning(pilots, 0.2).finding) == [
        "0.2", str(fewest), str(most), "80", "pi_b",
    ]  # fmt: skip


RAW = {"reasons": ["no_labels", "not_on_oracle_scale"]}


@pytest.mark.parametrize(
    ("rows", "truth", "facts"),
    [
        (estimates(), None, ["2", "4", "pi_b"]),
        (estimates(), {"pi_a": 0.45}, ["2", "4", "pi_b", "1", "2"]),
        (estimates(**RAW), {"pi_a": 0.45}, ["2", "2", "pi_b"]),
        ([*estimates(reasons=[]), estimates(**RAW)[0]], {"pi_a": 0.45}, ["2", "4", "pi_b", "1", "2"]),
        ([estimates()[0] | {"value": 3.15, "verdict": "REFUSE"}], {"pi_a": 0.45}, ["1", "1", "pi_a"]),
        ([*estimates(), estimates()[0] | {"verdict": "NOT_ASKED"}], None, ["2", "4", "pi_b"]),
    ],
)
def test_forest_finding_counts_refusals_and_coverage(rows, truth, facts):
    assert re.findall(r"\d+|pi_\w", plots.forest(rows, truth).finding) == facts


def test_forest_shows_verdicts_by_shape_and_a_missing_value_in_words(every):
    figure = every["forest"].figure
    assert "no value" in words_of(figure)
    marks = [line for line in figure.axes[0].lines if line.get_marker() in "os" and np.isfinite(line.get_xdata()).any()]
    assert [m.get_fillstyle() for m in marks] == ["full", "left", "none"]
    labels = {t.get_text() for t in figure.axes[0].get_legend().get_texts()}
    assert labels == {"REPORT", "CAUTION", "REFUSE", "measured"}


def test_a_value_far_outside_is_an_arrow_with_its_number_and_leaves_the_others_their_room():
    refused = [row | {"value": 3.15, "verdict": "REFUSE"} for row in estimates()[:1]]
    figure = plots.forest(estimates()[1:2] + refused, {"pi_a": 0.45}).figure
    assert "3.15" in words_of(figure)
    assert ">" in {line.get_marker() for line in figure.axes[0].lines}
    assert figure.axes[0].get_xlim()[1] < 1.5


def test_then_and_now_counts_what_moved(every):
    shown = every["then_and_now"]
    assert re.findall(r"\d+|pi_\w", shown.finding) == ["1", "4", "pi_a", "2", "pi_a", "pi_b"]
    assert "CAUTION to REPORT" in words_of(shown.figure)
    same = both_states().assign(outside=False, verdict_changed=False)
    assert re.findall(r"\d+|pi_\w", plots.then_and_now(same).finding) == ["0", "4"]


def test_incident_names_the_first_at_each_step_and_the_ties(every):
    shown, rows = every["incident_steps"], incident()
    assert re.findall(r"(\w+) \((.*?)\)", shown.finding) == [("a", "stored 0.0"), ("all", "clipped")]
    assert "clean b 0.600 to a 0.500, stored 0.0 a 0.700 to b 0.600" in shown.alt
    assert "(" not in plots.incident_steps({"together": rows[rows.injected == 0]}).finding


def test_heat_maps_name_the_levels_they_speak_of():
    scores = pd.DataFrame({"estimator": ["snips", "snips", "direct"], "prompts": [40, np.nan, np.nan]})
    scores = scores.assign(rmse=[9.0, 0.2, 0.1], refused=[0.5, 0.25, 0.25])
    maps = {value: plots.heat(scores, ["estimator"], ["prompts"], value) for value in ("rmse", "refused")}
    assert "0.1 (direct; prompts all) to 9 (snips; prompts 40)" in maps["rmse"].finding
    assert list(plots.with_levels(scores, ["prompts"]).prompts) == ["40", "all", "all"]
    limits = {value: shown.figure.axes[0].images[0].get_clim() for value, shown in maps.items()}
    assert limits == {"rmse": (0.0, pytest.approx(0.6)), "refused": (0.0, 1.0)}
    assert plots.heat(scores, ["prompts"], ["estimator"], "rmse").figure.axes[0].get_ylabel() == "prompts"


def test_judge_findings_follow_the_data():
    score = np.repeat([0.2, 0.8], 100)
    honest = np.r_[np.zeros(80), np.ones(20), np.ones(80), np.zeros(20)]
    assert "0.05" in plots.reliability(score, honest).finding
    assert "0.80 too high at scores near 0.80" in plots.reliability(score, np.zeros(200)).finding
    lp = -np.arange(1.0, 11.0)
    for moved, facts in ((1e-4, ["10", "0.0001"]), (np.r_[0.5, np.zeros(9)], ["0.001", "1", "10", "0.5"])):
        assert re.findall(r"[\d.]*\d", plots.self_consistency(lp, lp + moved).finding) == facts


def test_progress_findings_name_what_is_behind(every):
    assert re.findall(r"\d+%?|\w+probs", every["progress"].finding) == ["1", "2", "logprobs", "65%"]
    assert "130 / 200, 7 failed" in words_of(every["progress"].figure)
    done = jobs().assign(ok=100, errors=[{}] * 3, quarantined=[{}] * 3)
    assert re.findall(r"\d+", plots.progress(done).finding) == ["2"]
    assert re.findall(r"\d+", plots.missing_heatmap(done).finding) == ["300"]


@pytest.mark.parametrize("first", [60, 20])
def test_most_are_missing_in_one_place_only_where_more_than_half_are(first):
    places = [(job, policy) for job in "ab" for policy in ("p0", "p1", "p2")]
    bad = dict.fromkeys(places, 0) | {("a", "p1"): first, ("b", "p0"): 20}
    frame = pd.DataFrame([(*place, 120, 120 - n) for place, n in bad.items()], columns=["job", "policy", "total", "ok"])
    finding, most = plots.missing_heatmap(frame.assign(errors=frame.total - frame.ok)).finding, max(bad.values())
    assert ("most of them" in finding) == (2 * most > sum(bad.values()))
    assert all(f"{job} of {policy}" in finding for (job, policy), n in bad.items() if n == most)


@pytest.mark.parametrize("stage", ["04_judge", "06_estimates"])
def test_one_statement_of_the_judges_errors_is_made_of_one_set_of_rows(stage):
    """Both pages say it of the labelled logged responses, whose number it names."""
    source = paths.notebook(stage).read_text(encoding="utf-8")
    assert re.search(r"plots.reliability\((table\.)?logged\[.*\], (table\.)?logged\.label", source)


def test_shuffled_weights_tell_what_weights_add_and_not_what_a_value_is():
    """Few rows with uneven weights: a value far from the logging policy's mean, which shuffled weights give as well."""
    rng = random()
    made = (permutation_null(rng.normal(0, 1.5, 20), rng.random(20)) for _ in range(50))
    null = next(n for n in made if n.p_value > 0.05 and abs(n.value - n.logging_mean) > 0.05)
    reward = rng.random(400)
    seeing, clone = permutation_null(8 * reward, reward), permutation_null(np.zeros(400), reward)
    finding = plots.permutation({"blind": null, "seeing": seeing, "p0": clone}).finding
    assert "blind" in finding
    assert "seeing" not in finding


def test_waterfall_names_the_main_cause(every):
    shown = every["waterfall"]
    assert "off-support mass accounts for +0.36" in shown.finding
    assert "judge bias +0.060" in shown.alt


@pytest.mark.parametrize(
    ("values", "facts"),
    [
        ((0.07, 0.0, 0.0, 0.09, 0.21, 0.0), ["91%", "+0.21", "+0.40"]),
        ((0.02, 0.0, 0.0, 0.0, 0.01, 0.0), ["91%", "+0.02"]),
        ((0.3, 0.0, 0.0, 0.0, 0.1, 0.0), ["+0.30", "+0.40"]),
    ],
)
def test_waterfall_says_why_corrupted_log_probs_come_first_where_another_part_is_larger(values, facts):
    finding = plots.waterfall(gap(values, main_cause="corrupted_logprobs", corrupted_weight_share=0.91)).finding
    assert re.findall(r"\+[\d.]*\d|\d+%", finding) == facts


def test_shrinkage_says_whether_the_band_is_reached(every):
    rng = random()
    paths = shrinkage_paths(rng.normal(-1, 1.5, 400), rng.random(400))
    bands = [(0.0, 0.1), (0.0, 1.0), (paths.value.min(), float(paths.value.median())), None]
    findings = [plots.shrinkage("a", paths, band).finding for band in bands]
    starts = ["However they are shrunk", "Every shrinkage", "Shrinking", "Shrinking"]
    assert [f.startswith(s) for f, s in zip(findings, starts, strict=True)] == [True] * 4
    assert "part of it" in findings[2]
    labels = [t.get_text() for t in every["shrinkage"].figure.axes[0].get_xticklabels(which="both")]
    assert labels
    assert not [t for t in labels if "$" in t]


def test_length_strata_name_where_the_weight_is():
    rng = random()
    length = rng.integers(1, 900, 400) * 1.0
    odd = length_strata(np.where(length < 180, 6.0, rng.normal(-1, 1.5, 400)), length)
    even = length_strata(np.zeros(400), length)
    finding = plots.length_weights({"even": even, "odd": odd}).finding
    assert f"{percent(odd.weight_share[0])} of the weight of odd" in finding
    assert "%" not in plots.length_weights({"even": even}).finding


def test_profiles_name_the_policies_of_other_lengths():
    base = random().integers(20, 40, 60) * 1.0
    none = profile(np.empty(0), np.full(60, np.nan))
    shown = plots.profiles({"p0": profile(base), "long": profile(9 * base), "none": none})
    assert "long (" in shown.finding
    assert "none" not in shown.finding
    near = plots.profiles({"p0": profile(base), "a": profile(base + 1)}).finding
    low, high = (format(np.median(base + more), ",.0f") for more in (0, 1))
    assert f"{low} to {high} characters, p0 {low}" in near
    alone = SimpleNamespace(p0=profile(base), none=none)
    assert not re.search(r"\d", plots.profiles(vars(alone)).finding)
