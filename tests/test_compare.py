"""`compare`: the difference of two sides of one frame, what it says of it, and what it refuses by name; and the page
that it and `evaluate` write."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from arena10k import DataError, compare, evaluate
from arena10k.attribution.game import Case
from arena10k.attribution.investigation import investigate
from arena10k.estimation.scale import Scale
from statistics_data import population

SEEDED = np.random.default_rng
STARS = {"judge": "judge", "label": "label", "scale": (1, 5)}


def pairs(rng, n=200, k=60, gain=0.2):
    """Old and new answers to `n` prompts, `k` of them labelled, on a scale of 1 to 5; the judge favours the new ones.
    A prompt is answered right with a chance u, uniform: *new - old* is 2 gain."""
    u, has = rng.random(n), rng.permutation(n) < k
    frame = pd.DataFrame({"prompt": [f"Question {i}" for i in range(n)]})
    for side, chance, favour in (("old", u, 0.0), ("new", gain + (1 - gain) * u, 0.1)):
        right = rng.random(n) < chance
        score = np.clip(0.3 + 0.4 * right + favour + 0.2 * rng.standard_normal(n), 0, 1)
        columns = {"answer": "text", "judge": 1 + 4 * score, "label": np.where(has, 1 + 4.0 * right, np.nan)}
        frame = frame.assign(**{f"{name}_{side}": values for name, values in columns.items()})
    return frame


def versions(frame):
    return frame.rename(columns=lambda c: c.replace("answer", "reply").replace("old", "v1").replace("new", "v2"))


def long_of(frame):
    sides = [
        frame[["prompt", f"judge_{side}", f"label_{side}"]].set_axis(["prompt_id", "judge", "label"], axis=1)
        for side in ("old", "new")
    ]
    return pd.concat([side.assign(policy=name) for side, name in zip(sides, ("old", "new"), strict=True)])


@pytest.mark.parametrize(
    ("gain", "copies"),
    [
        (0.2, lambda d: d),
        (0.0, lambda d: d),
        (0.0, lambda d: pd.concat([d.rename(columns={"prompt": "question"})] * 4)),
        (0.0, lambda d: pd.concat([d.assign(prompt="", topic=["a", "b"] * 100, id=d.prompt.str[9:])] * 4)[
            ["topic", "id", *(c for c in d if c != "prompt")]]),
        (0.0, lambda d: pd.concat([d.rename(columns={"prompt": "case"}).assign(at=range(k, k + 200), by=str(k))
                                   for k in range(4)])),
    ],
)  # fmt: skip
def test_intervals_hold_the_true_difference(gain, copies):
    rng, runs = SEEDED(0), 60
    frames = [copies(pairs(rng, gain=gain)) for _ in range(runs)]
    found = [compare(frame, **STARS, prompt="case" if "case" in frame else None) for frame in frames]
    hits = sum(c.ci_low <= 2 * gain <= c.ci_high for c in found)
    assert binom.cdf(hits, runs, 0.95) >= 0.001
    verdicts = [c.verdict for c in found]
    assert verdicts.count("REPORT") >= 0.8 * runs  # labels look chosen now and then
    assert "REFUSE" not in verdicts
    assert np.mean([c.difference for c in found]) == pytest.approx(2 * gain, abs=0.15)


def test_the_difference_is_that_of_evaluate_whatever_the_form_of_the_frame():
    frame = pairs(SEEDED(1))
    wide, long = compare(frame, **STARS), long_of(frame)
    pair = evaluate(fresh=long, judge_scale=(1, 5), label_scale=(1, 5)).contrasts.iloc[0]
    assert (pair.a, pair.b) == ("old", "new")
    own = wide.evaluation.contrasts.iloc[0]
    assert (own.a, own.difference, own.ci_low) == ("new", wide.difference, wide.ci_low)
    np.testing.assert_allclose([-pair.difference, -pair.ci_high, -pair.ci_low],
                               [wide.difference, wide.ci_low, wide.ci_high])  # fmt: skip
    named = long.sample(frac=1, random_state=0).assign(policy=lambda d: "gpt-" + d.policy)
    others = [
        compare(named, "gpt-old", "gpt-new", **STARS),
        compare(frame.rename(columns=lambda c: c.replace("_", ".")), "answer.old", "answer.new", **STARS),
        compare(frame, judge=("judge_old", "judge_new"), label=["label_old", "label_new"], scale=(1, 5)),
        compare(frame.rename(columns={"answer_old": 0, "answer_new": 1, "judge_old": 2, "judge_new": 3}), 0, 1,
                judge=(2, 3), label=("label_old", "label_new"), scale=(1, 5)),
        *(compare(named.assign(policy=[kind(name == "gpt-new") for name in named.policy]).rename(columns={"judge": 3}),
                  kind(0), kind(1), judge=3, label="label", scale=(1, 5)) for kind in (int, float, bool, np.int8)),
        compare(frame.drop(columns="prompt").rename(columns={"judge_old": "judge_v1", "judge_new": "judge_v2"})
                .assign(label_v1=frame.label_old, label_v2=frame.label_new), "judge_v1", "judge_v2", **STARS),
    ]  # fmt: skip
    for other in others[:-1]:
        assert (other.difference, other.ci_low) == pytest.approx((wide.difference, wide.ci_low))
    # Without a column of prompts each row is one; folds of the calibration go by their names.
    assert others[-1].difference == pytest.approx(wide.difference, abs=0.05)
    swapped = compare(frame, "answer_new", "answer_old", **STARS)
    assert (swapped.difference, swapped.ci_high) == pytest.approx((-wide.difference, -wide.ci_low))


def numbers_of(text):
    return [float(n.replace(",", "")) for n in re.findall(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?", text)]


@pytest.mark.parametrize(("gain", "way"), [(0.6, "better"), (-0.6, "worse"), (0.02, None)])
def test_the_sentence_says_the_difference_and_what_would_settle_it(gain, way):
    frame = pairs(SEEDED(2), gain=abs(gain))
    old, new = ("answer_old", "answer_new") if gain > 0 else ("answer_new", "answer_old")
    found = compare(frame, old, new, **STARS)
    told = numbers_of(found.sentence)
    if way:
        assert f" {way} than " in found.sentence
        low, high = sorted(map(abs, (found.ci_low, found.ci_high)))
        assert told == pytest.approx([abs(found.difference), 1, 5, 95, low, high], abs=0.006)
    else:
        ends = [found.ci_low, found.ci_high]
        assert told[:7] == pytest.approx([200, found.difference, 1, 5, 95, *ends], abs=0.006)
        more = told[7]
        # That many labels and one more scarcely change the width that two values of it would tell apart.
        widths = found.evaluation.plan([np.sqrt(2) * abs(found.difference) * 0.7])
        assert more == pytest.approx(widths.more.max(), rel=0.05)
        assert 200 in told[8:]


def test_scores_alone_are_refused_and_labels_alone_are_not():
    frame = pairs(SEEDED(3))
    scored = compare(frame, judge="judge", scale=(1, 5), width=0.4)
    assert (scored.verdict, np.isnan(scored.difference)) == ("REFUSE", True)
    assert "no_labels" in scored.reasons
    assert numbers_of(scored.sentence)[0] == 200
    assert numbers_of(scored.sentence)[-1] == 0.4
    labelled = compare(frame.drop(columns=["judge_old", "judge_new"]), label="label", scale=(1, 5))
    assert labelled.verdict == "REPORT"
    mean = (frame.label_new - frame.label_old).mean()
    assert labelled.difference == pytest.approx(mean, abs=1e-9)


def test_labels_are_asked_of_the_side_that_lacks_them_and_no_more_than_it_can_take():
    for k in (30, 60):
        frame = pairs(SEEDED(3), k=k)
        both = compare(frame.assign(label_old=np.nan, label_new=np.nan), **STARS)
        one = compare(frame.assign(label_new=np.nan), **STARS)
        assert [len(re.findall(f"labels of {side} answers", one.sentence)) for side in ("old", "new")] == [0, 1]
        most = both.evaluation.plan().set_index("policy")
        assert set(most.pilot) == {"worst_case"}
        for found in (both, one):
            assert numbers_of(found.sentence)[1] == pytest.approx(most.more["new"], rel=0.05)
            # What the most labels are for is as wide at least with those that are there.
            given = compare(pairs(SEEDED(3), n=400, k=int(most.labels["new"])), **STARS).evaluation.headline
            assert (given.ci_high - given.ci_low).max() <= 0.8


def test_rows_that_repeat_a_text_are_one_prompt_and_that_is_told():
    frame = pairs(SEEDED(4)).rename(columns={"prompt": "question"})
    plain, copied = (compare(d, **STARS) for d in (frame, pd.concat([frame] * 3)))
    assert copied.evaluation.prompts() == 200
    assert (copied.difference, copied.ci_low) == pytest.approx((plain.difference, plain.ci_low))
    assert [numbers_of(note)[:2] for note in copied.notes[1:]] == [[400, 600]]
    assert len(plain.notes) == 1
    gone = frame.assign(
        question=frame.question.where(frame.index >= 20), reason_old="Short.", reason_new=frame.question
    )
    assert compare(gone, **STARS).evaluation.prompts() == 200
    named = compare(long_of(frame.rename(columns={"question": "prompt"})).rename(columns={"prompt_id": "case"}),
                    "old", "new", **STARS, prompt="case")  # fmt: skip
    assert named.difference == pytest.approx(plain.difference)


def test_booleans_are_labels_and_what_has_no_answer_is_told():
    frame = pairs(SEEDED(4), k=200)
    right = {f"right_{side}": frame[f"label_{side}"] == 5 for side in ("old", "new")}
    frame = frame.assign(**right)
    ones = compare(frame, label="right")
    assert 4 * ones.difference == pytest.approx(compare(frame, label="label", scale=(1, 5)).difference)
    frame.loc[150:, ["answer_new", "judge_new", "label_new"]] = np.nan
    some = compare(frame, **STARS)
    assert [numbers_of(note)[:2] for note in some.notes[1:]] == [[50, 200]]
    assert some.evaluation.prompts("new") == 150
    missing = frame.assign(right_old=frame.right_old.astype("boolean").mask(frame.index < 20))
    assert compare(missing, label="right").evaluation.prompts() == 200


#: Words of the message -> how `compare` is called on a frame.
WRONG = {
    "'answr_old'.*there is prompt, answer_old, .*did you mean 'answer_old'": lambda d: compare(d, "answr_old", **STARS),
    "no column 'anser'.*did you mean": lambda d: compare(d, "anser", "answer", **STARS),
    "'judg_old'.*did you mean 'judge_old'.*judge=": lambda d: compare(d, judge="judg", scale=(1, 5)),
    "'jugde_new'.*did you mean 'judge_new'": lambda d: compare(d, judge=("judge_old", "jugde_new"), scale=(1, 5)),
    "column 'judge_new', row 3: 7 is outside of 1 to 5": lambda d: compare(
        d.assign(judge_new=d.judge_new.where(d.index != 3, 7)), **STARS
    ),
    "column 'judge_new', row 0.*judge_scale": lambda d: compare(d.assign(judge_new=3.0), judge="judge"),
    "column 'label_new', row 1: 'good'": lambda d: compare(d.assign(label_new=[4.0, *["good"] * 39]), **STARS),
    "label_scale: 3": lambda d: compare(d, **STARS, label_scale=3),
    "_scale: .5, 1.": lambda d: compare(d, **STARS | {"scale": (5, 1)}),
    "judge.*label.*both": compare,
    "both 'answer_old'": lambda d: compare(d, new="answer_old", **STARS),
    "no pair of columns": lambda d: compare(d, judge=("judge_old",), scale=(1, 5)),
    "no column 'topic'": lambda d: compare(d, **STARS, cluster="topic"),
    "dict is no DataFrame": lambda d: compare(d.to_dict(), **STARS),
    "df: column 'topic', row 2: missing .1 of 40": lambda d: compare(
        d.assign(topic=d.prompt.where(d.index != 2)), **STARS, cluster="topic"
    ),
    "df: column 'topic', row 45 .index 5.: missing .1 of 80": lambda d: compare(
        long_of(d).assign(topic=[*range(45), " ", *range(34)]), "old", "new", **STARS, cluster="topic"
    ),
    "no policy '0': there is .*True": lambda d: compare(
        long_of(d).assign(policy=lambda f: f.policy == "new"), 0, 1, **STARS
    ),
    "judge: of 'old' .*parts of 1, of 'new' .*whole": lambda d: compare(
        d.assign(judge_old=np.linspace(0, 1, len(d)), judge_new=d.judge_new.round()), **STARS | {"scale": (0, 5)}
    ),
    "several columns 'judge_old'": lambda d: compare(pd.concat([d, d[["judge_old"]]], axis=1), **STARS),
    "'prompt', row 2: missing": lambda d: compare(d.assign(prompt=d.prompt.where(d.index != 2)), **STARS),
    "no row has.*'new'": lambda d: compare(
        d.assign(answer_new=None, judge_new=np.nan, label_new=np.nan), **STARS
    ),
    "policy 'newer'.*old, new.*did you mean 'new'": lambda d: compare(long_of(d), "old", "newer", **STARS),
    "write old=\"reply_v1\", new=\"reply_v2\"": lambda d: compare(versions(d), judge="judge", label="label"),
    "'v1'.*write old=\"reply_v1\", new=\"reply_v2\"": lambda d: compare(versions(d), old="v1", judge="judge"),
    "argument 'jugde'.*did you mean 'judge'": lambda d: compare(d, jugde="judge", label="label", scale=(1, 5)),
    "argument 'logging_policy'": lambda d: compare(d, **STARS, logging_policy="old"),
    "row 3: 7 is outside of 1 to 5 .1 of 40 rows.;(?!.*declare the scale)": lambda d: compare(
        d.assign(judge_new=d.judge_new.where(d.index != 3, 7)), **STARS
    ),
    "'4/5' is no number; write the number": lambda d: compare(d.assign(judge_new="4/5"), **STARS),
    "no column 'prompt_id'.*prompt=": lambda d: compare(long_of(d).drop(columns="prompt_id"), "old", "new", **STARS),
    "no column 'quest'.*did you mean 'question'": lambda d: compare(
        d.rename(columns={"prompt": "question"}), **STARS, prompt="quest"
    ),
    "80 of 80 rows are equal.*prompt=": lambda d: compare(pd.concat([d.drop(columns="prompt")] * 2), **STARS),
    "'B' is none.*replace.*'A': 'old', 'B': 'new'": lambda d: compare(
        d.assign(winner=["B", "A"] * 20), winner="winner"
    ),
    "arena10k import": lambda d: compare(
        d.assign(winner="model_a", model_a=["x", "y"] * 20, model_b="z"), winner="winner"
    ),
    "no column": lambda d: compare(long_of(d), "old", "new", judge=("judge", "judge"), scale=(1, 5)),
    "column that has 'old' and 'new'": lambda d: compare(
        long_of(d).rename(columns={"policy": "model"}), "old", "new", **STARS
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG)
def test_frames_without_sense_are_named(message):
    with pytest.raises(DataError, match=message):
        WRONG[message](pairs(SEEDED(5), n=40, k=20))


def test_topics_that_share_their_luck_widen_the_difference():
    frame = pairs(SEEDED(6), n=40, k=40)
    repeated = pd.concat([frame] * 5, ignore_index=True).assign(prompt=range(200))
    plain, grouped = (
        compare(repeated.assign(topic=repeated.index % 40), **STARS, cluster=cluster) for cluster in (None, "topic")
    )
    assert grouped.ci_high - grouped.ci_low > 1.5 * (plain.ci_high - plain.ci_low)


# The page


def headings(page):
    return re.findall(r"<h2[^>]*>([^<]+)</h2>", page)


def test_the_page_of_a_comparison_is_one_file_that_says_what_it_found(tmp_path):
    found = compare(pairs(SEEDED(7)), **STARS)
    page = found.report(tmp_path / "deep" / "page.html").read_text(encoding="utf-8")
    assert found.sentence in page
    assert "Weights" not in headings(page)
    assert {f"{found.difference:.3f}", f"{found.ci_low:.3f}", f"{found.ci_high:.3f}"} <= set(
        re.findall(r"-?\d\.\d{3}", page)
    )
    assert not re.search(r"<script|<link[^>]+href=\"(?!data:)|src=\"(?!data:)|https?://(?!www.w3.org/)", page)
    assert 'class="alert"' not in page
    page = (
        compare(pairs(SEEDED(7)), judge="judge", scale=(1, 5)).report(tmp_path / "no.html").read_text(encoding="utf-8")
    )
    assert 'class="alert"' in page


def test_the_page_counts_what_it_shows_and_asks_for_no_labels_that_are_there(tmp_path):
    found = compare(pairs(SEEDED(7), k=90), **STARS)
    page = found.report(tmp_path / "page.html").read_text(encoding="utf-8")
    asked = found.evaluation.estimates.query("verdict != 'NOT_ASKED'")
    (naive, needed), (rows, raw) = (
        (asked.estimator == "naive", asked.labels_needed.dropna()),
        map(int, re.search(r"All (\d+) rows, (\d+) ", page).groups()),
    )
    assert (rows, raw) == (len(asked), naive.sum())
    assert 0 < needed.max() < 90
    assert not re.search(rf"<td[^>]*>{needed.max():.0f}(\.0)?<", page)


def test_names_and_texts_on_the_page_are_shown_and_not_interpreted(tmp_path):
    hostile = long_of(pairs(SEEDED(7))).assign(policy=lambda d: d.policy.map({"old": "<b>old", "new": "<script>x"}))
    page = compare(hostile, "<b>old", "<script>x", **STARS).report(tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|<b>old", page)


def test_the_page_of_an_evaluation_shows_weights_and_the_anomaly_on_the_labels_scale(tmp_path):
    logged, fresh = population(SEEDED(0), kt=60, off=0.5)[0]
    given = logged, fresh.assign(judge=fresh.judge.where(fresh.judge != 0.9, 0.05))
    stars = [f.assign(judge=1 + 4 * f.judge, label=10 + 10 * f.label) for f in given]
    plain = evaluate(*given)
    scaled = evaluate(*stars, judge_scale=(1, 5), label_scale=(10, 20), width=2, judge_shift=1)
    page = scaled.report(tmp_path / "page.html").read_text(encoding="utf-8")
    assert headings(page)[-2:] == ["Weights", "SNIPS on judge scores"]
    head = scaled.headline.loc["t"]
    assert f"{head.ci_low:.2f} to {head.ci_high:.2f}" in page
    unit, wide = (
        investigate({p: Case(ctx.data) for (p, _), ctx in e.contexts.items()}, "p0", analysis=e.analysis, scale=e.scale)
        for e in (plain, scaled)
    )
    a, b = unit.policies["t"], wide.policies["t"]
    assert b.anomaly
    assert b.published.value == pytest.approx(10 + 10 * a.published.value)
    assert (b.gap, b.own_draws) == pytest.approx((10 * a.gap, 10 + 10 * a.own_draws))
    assert b.parts.sum() == pytest.approx(b.gap)
    assert b.mass["off"] == pytest.approx(10 + 10 * a.mass["off"])
    assert (b.main_cause, b.unsettled) == (a.main_cause, a.unsettled)
    alone = (
        evaluate(*(f.drop(columns="judge") for f in given)).report(tmp_path / "alone.html").read_text(encoding="utf-8")
    )
    assert headings(alone)[-1] == "Weights"


def test_a_refused_value_far_from_the_scale_does_not_stretch_the_axis(tmp_path):
    logged = population(SEEDED(0), k0=60)[0][0].assign(logp_p0=-30 - SEEDED(1).random(600))
    found = evaluate(logged.assign(logp_t=(logged.logp_p0 + logged.pop("log_weight_t")) / 30))
    assert found.estimates.query("policy == 't'").value.max() > 1e6
    page = found.report(tmp_path / "page.html").read_text(encoding="utf-8")
    ticks = [float(tick) for tick in re.findall(r'<i style="left:[\d.]+%">([^<]+)</i>', page)]
    assert (min(ticks), max(ticks)) == (0, 1)


def test_numbers_in_place_of_log_probs_are_the_cause_that_the_page_names(tmp_path):
    (logged, fresh), _ = population(SEEDED(0), n=400, kt=80)
    tokens = SEEDED(1).integers(20, 81, len(logged))
    logged = logged.assign(response_chars=4 * tokens, logp_p0=-1.2 * tokens - SEEDED(2).random(len(logged)))
    logged["logp_t"] = logged.logp_p0 + logged.pop("log_weight_t")
    bad = (SEEDED(3).random(len(logged)) < 0.1) & (logged.judge > 0.6)
    logged["logp_t"] = logged.logp_t.where(~bad, 0.0)
    found = evaluate(logged, fresh)
    left = found.contexts["t", "judge"].data.logged.log_weight
    assert (np.isnan(left) == bad).all()
    page = found.report(tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"corrupted log-probabilities: {bad.sum()} logged rows" in page


def test_scales():
    scale = Scale(10, 20)
    row = {"value": 0.5, "ci_low": None, "se": 0.1, "policy": "p"}
    assert scale.row(row) == {"value": 15.0, "ci_low": None, "se": 1.0, "policy": "p"}
