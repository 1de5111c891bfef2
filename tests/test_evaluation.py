"""`evaluate` on two frames: what it takes, and intervals and verdicts against populations whose truth is known.

Under P0 a response has a quality q and a style z, independent N(0, 1); the target's style is N(mu, 1), so that
log w = mu z - mu^2 / 2, and Y ~ Bernoulli(expit(q)). With a chance `off` the target says what P0 never says, judged .9
and worth nothing. The judge scores expit(q + liking z + noise).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import binom

from arena10k import DataError, evaluate
from arena10k.estimation.evaluation import study
from arena10k.estimation.headline import headline
from statistics_data import arrays


def labelled(rng, y, k, chance=None):
    out = np.full(len(y), np.nan)
    chosen = rng.choice(len(y), min(k, len(y)), replace=False, p=None if chance is None else chance / chance.sum())
    out[chosen] = y[chosen]
    return out


def population(rng, n=600, mu=0.4, liking=0.0, off=0.0, k0=200, kt=0, chance=lambda s: None, wrong=False):
    """Frames `logged`, `fresh`, and the target's value."""

    def side(shift, rows):
        q, z = rng.standard_normal(rows), shift + rng.standard_normal(rows)
        return z, expit(q + liking * z + 0.5 * rng.standard_normal(rows)), (rng.random(rows) < expit(q)).astype(float)

    z, s, y = side(0.0, n)
    _, sf, yf = side(mu, n)
    unlike = rng.random(n) < off
    sf, yf = np.where(unlike, 0.9, sf), np.where(unlike, 0.0, yf)
    lw = mu * z - mu**2 / 2 + np.log1p(-off)
    if wrong:
        lw = rng.permutation(lw) + 0.15
    logged = pd.DataFrame({"prompt_id": np.arange(n), "judge": s, "label": labelled(rng, y, k0), "log_weight_t": lw})
    fresh = pd.DataFrame({"policy": "t", "prompt_id": np.arange(n), "judge": sf})
    return logged, fresh.assign(label=labelled(rng, yf, kt, chance(sf))), 0.5 * (1 - off)


def answers(replicates, seed=0, **options):
    """Per replicate the estimates of the target by estimator, its headline or None, and the truth."""
    rng = np.random.default_rng(seed)
    for _ in range(replicates):
        logged, fresh, truth = population(rng, **options)
        columns = {"judge": logged.judge, "label": logged.label, "log_weight": logged.log_weight_t}
        found = study({"t": {"judge": arrays(**columns, fresh_judge=fresh.judge, fresh_label=fresh.label)}})
        yield {row["estimator"]: row for row in found.rows}, headline(found.contexts["t", "judge"]), truth


def holds(row, truth):
    return row["ci_low"] <= truth <= row["ci_high"]


def not_short_of(hits, n, wanted):
    return binom.cdf(hits, n, wanted) >= 0.001


@pytest.mark.parametrize(
    "options",
    [{}, {"off": 0.06}, {"off": 0.15}, {"liking": 1.0}, {"liking": 1.0, "kt": 60}, {"k0": 30}, {"off": 0.3, "kt": 25}],
    ids=str,
)
def test_what_is_reported_covers_and_a_caution_does_within_its_budget(options):
    n, counts = 60, {}
    for rows, head, truth in answers(n, **options):
        for name, row in (rows | ({"headline": head} if head else {})).items():
            if row["verdict"] in ("REPORT", "CAUTION") and name != "naive":
                hits, given = counts.get((name, row["verdict"]), (0, 0))
                counts[name, row["verdict"]] = hits + holds(row, truth), given + 1
    assert sum(given for (name, _), (_, given) in counts.items() if name == "headline") > n / 4
    for (name, verdict), (hits, given) in counts.items():
        assert not_short_of(hits, given, 0.95 if verdict == "REPORT" else 0.9), (name, verdict, hits, given)


def test_the_judge_alone_is_never_reported_and_refused_where_the_log_shows_less_than_all():
    for rows, _, _ in answers(3, off=0.15):
        assert rows["direct"]["verdict"] == "REFUSE"
        assert "off_support" in rows["direct"]["reasons"]
    for rows, _, _ in answers(3):
        assert (rows["direct"]["verdict"], rows["direct"]["reasons"]) == ("CAUTION", ["judge_shift_assumed"])


def test_weights_that_are_not_the_draws_refuse_what_rests_on_them():
    """Weights of other rows, with which the judge's scores go too; and of another policy."""
    for rows, head, _ in answers(5, wrong=True):
        assert head is None
        assert {row["verdict"] for name, row in rows.items() if name not in ("ppi_pp", "naive")} == {"REFUSE"}
    rng, found = np.random.default_rng(0), 0
    for _ in range(10):
        logged, fresh, _ = population(rng, liking=1.0, mu=0.8)
        logged["log_weight_t"] = population(rng, mu=0.8)[0].log_weight_t
        reasons = evaluate(logged, fresh).estimates.query("policy == 't'").set_index("estimator").reasons
        found += "weights_do_not_match_draws" in reasons["snips"]
    assert found >= 9


def test_every_draw_labelled_is_as_good_as_all_but_one():
    rng = np.random.default_rng(0)
    logged, fresh, _ = population(rng, n=300, kt=300)
    one_less = fresh.assign(label=fresh.label.where(fresh.index > 0))
    wide = [evaluate(logged, f).headline.loc["t"] for f in (fresh, one_less)]
    assert wide[0].verdict == "REPORT"
    widths = [row.ci_high - row.ci_low for row in wide]
    assert widths[0] == pytest.approx(widths[1], rel=0.05)


def test_few_labels_are_answered_and_say_no_more_than_they_know():
    rng = np.random.default_rng(0)
    for _ in range(5):
        logged, fresh, _ = population(rng, n=40, k0=0, kt=20)
        assert evaluate(logged.drop(columns="log_weight_t"), fresh).headline.verdict["t"] == "REPORT"
    _, fresh, _ = population(rng, k0=0, kt=50)
    fresh["label"] = fresh.label.where(fresh.label.isna(), 1.0)
    assert evaluate(None, fresh).headline.loc["t"].ci_low < 1 - 3 / 60


def test_labels_chosen_by_score_are_found_and_those_with_declared_chances_are_used():
    rng, hits, flagged = np.random.default_rng(1), 0, 0
    for _ in range(30):
        _, fresh, truth = population(rng, n=600, k0=0, kt=120, chance=lambda s: s**3)
        found = evaluate(None, fresh).estimates.set_index("estimator").loc["ppi_pp"]
        flagged += "labels_not_random" in found.reasons
        assert found.verdict != "REPORT" or "labels_not_random" not in found.reasons
        fresh["chance"] = np.minimum(1, 120 * fresh.judge**3 / (fresh.judge**3).sum())
        told = evaluate(None, fresh, label_propensity="chance").estimates.set_index("estimator").loc["ppi_pp"]
        assert "labels_not_random" not in told.reasons
        hits += holds(told, truth)
    assert flagged >= 28
    assert not_short_of(hits, 30, 0.95)


def test_the_estimand_is_the_mean_over_prompts():
    """Prompts of one draw are worth 1, those of nine are worth 0."""
    prompts = np.concatenate([np.arange(100), np.repeat(np.arange(100, 200), 9)])
    good = (prompts < 100).astype(float)
    fresh = pd.DataFrame({"policy": "t", "prompt_id": prompts, "judge": good, "label": good})
    logged = fresh.drop(columns="policy").assign(log_weight_t=0.0)
    rows = evaluate(logged, fresh).estimates
    for value in rows[rows.estimator.isin(["ppi_pp", "snips", "direct", "ips", "dr_oracle"])].value:
        assert value == pytest.approx(0.5, abs=1e-9)


def test_clusters_widen_what_topics_share():
    rng = np.random.default_rng(0)
    topic = np.arange(400) // 20
    y = (rng.random(400) < expit(2 * rng.standard_normal(20))[topic]).astype(float)
    fresh = pd.DataFrame({"policy": "t", "prompt_id": np.arange(400), "judge": 0.5, "label": y, "topic": topic})
    plain, grouped = (evaluate(None, fresh, cluster=c).headline.loc["t"] for c in (None, "topic"))
    assert grouped.value == pytest.approx(plain.value)
    assert grouped.ci_high - grouped.ci_low > 1.5 * (plain.ci_high - plain.ci_low)


def test_scales_are_declared_and_values_come_back_on_the_labels():
    logged, fresh, _ = population(np.random.default_rng(0), kt=60)
    logged, fresh = (frame.assign(noise=0.01) for frame in (logged, fresh))
    stars = [f.assign(judge=1 + 4 * f.judge, label=10 * f.label, noise=16 * f.noise) for f in (logged, fresh)]
    plain = evaluate(logged, fresh, judge_variance="noise")
    scaled = evaluate(*stars, judge_variance="noise", judge_scale=(1, 5), label_scale=(0, 10), width=2, judge_shift=1)
    for name in ("value", "se", "ci_low", "ci_high"):
        np.testing.assert_allclose(scaled.estimates[name], 10 * plain.estimates[name], atol=1e-9)
    for frame, column in (("contrasts", "difference"), ("ranking", "value"), ("breakdown", "judge_error")):
        np.testing.assert_allclose(getattr(scaled, frame)[column], 10 * getattr(plain, frame)[column])
    assert (scaled.estimates.verdict == plain.estimates.verdict).all()
    assert scaled.plan([1.0]).labels.tolist() == plain.plan([0.1]).labels.tolist()
    assert scaled.plan().width.tolist() == [2.0, 2.0]
    assert repr(plain).startswith("p0: 0.")
    assert "by ppi_pp" in repr(evaluate(None, fresh))
    assert "no accepted estimate" in repr(evaluate(None, fresh.drop(columns="label"), belief="labels"))
    assert "REPORT" in plain._repr_html_()
    quiet = evaluate(logged, fresh).estimates.set_index(["policy", "estimator"]).se
    assert plain.estimates.set_index(["policy", "estimator"]).se["t", "snips"] > quiet["t", "snips"]


def test_equal_policies_are_ties_and_a_worse_one_is_not():
    rng, false, found = np.random.default_rng(3), 0, 0
    for _ in range(30):
        n = 200
        frames = []
        for name, rate in (("a", 0.9), ("b", 0.9), ("c", 0.9), ("bad", 0.5)):
            y = (rng.random(n) < rate).astype(float)
            frames.append(pd.DataFrame({"policy": name, "prompt_id": np.arange(n), "judge": 0.5, "label": y}))
        fresh = pd.concat(frames, ignore_index=True)
        fresh["label"] = fresh.label.where(fresh.prompt_id < 40)
        pairs = evaluate(None, fresh).contrasts
        equal = ~(pairs.a.eq("bad") | pairs.b.eq("bad"))
        false += pairs[equal].significant.any()
        found += pairs[~equal].significant.all()
        assert (pairs.significant == ((pairs.ci_low > 0) | (pairs.ci_high < 0))).all()
    assert binom.sf(false - 1, 30, 0.05) > 0.001
    assert found >= 15


def test_what_was_not_collected_is_not_asked():
    logged, fresh, _ = population(np.random.default_rng(0), kt=60)
    without = evaluate(logged.drop(columns="log_weight_t"), fresh).estimates.query("policy == 't'")
    weighted = without[without.estimator.isin(["ips", "snips", "dr_oracle", "dr_cpo"])]
    assert set(weighted.verdict) == {"NOT_ASKED"}
    assert weighted.value.isna().all()
    assert weighted.ess.isna().all()
    failed = evaluate(logged.assign(log_weight_t=np.nan), fresh).estimates.query("policy == 't'")
    assert set(failed[failed.estimator == "snips"].verdict) == {"REFUSE"}


def test_belief_bounds_what_a_headline_rests_on():
    logged, fresh, _ = population(np.random.default_rng(0), kt=30)
    assert evaluate(logged, fresh, belief="labels").headline.estimator["t"] == "ppi_pp"
    assert evaluate(logged, fresh).headline.estimator["t"] != "ppi_pp"  # the log's 200 labels say more
    nothing = evaluate(logged, fresh.drop(columns="label"), belief="labels")
    assert "t" not in nothing.headline.index


def test_breakdown_turns_the_order_round():
    logged, fresh, _ = population(np.random.default_rng(0), kt=60)
    result = evaluate(logged, fresh)
    for row in result.breakdown.itertuples():
        better, worse = (result.headline.value[p] for p in (row.better, row.worse))
        assert better - worse == pytest.approx(row.difference)
        lost = better * (1 - row.unseen_mass)
        gained = worse * (1 - row.unseen_mass) + row.unseen_mass
        assert lost == pytest.approx(worse) or gained == pytest.approx(better)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"judge": 7.0}, ["logged", "judge", "row 0", "7"]),
        ({"label": "good"}, ["logged", "label", "good"]),
        ({"logp_t": 0.5, "logp_p0": -1.0}, ["logged", "logp_t", "log-prob"]),
        ({"logp_t": -0.5}, ["logged", "logp_p0"]),
        ({"logp_t": -0.5, "logp_p0": -np.inf}, ["logged", "of t", "infinite"]),
    ],
)
def test_bad_columns_are_named(change, told):
    logged, fresh, _ = population(np.random.default_rng(0))
    with pytest.raises(DataError) as error:
        evaluate(logged.drop(columns="log_weight_t").assign(**change), fresh)
    for word in told:
        assert word in str(error.value)


def test_draws_of_the_logging_policy_are_its_own_beside_its_log():
    logged, fresh, _ = population(np.random.default_rng(0), k0=50, kt=50)
    both = evaluate(logged, fresh.assign(policy="p0")).estimates.query("policy == 'p0'").set_index("estimator")
    assert both.value["naive"] == pytest.approx(np.mean([logged.judge.mean(), fresh.judge.mean()]))
    labels = np.append(logged.label, fresh.label)
    assert both.value["ppi_pp"] == pytest.approx(np.nanmean(labels), abs=0.05)


ARGUMENTS = {
    "confidence": [0, 1.0, 95, float("nan"), "high"],
    "width": [0, -1, 2.0, "a"],
    "judge_shift": [-0.1, 2, float("nan")],
    "label_scale": [1, (0, 0), (1, 0), (0, float("nan")), ("a", "b")],
    "judge_scale": [(1, 1), ("a", "b")],
    "logging_policy": [None, ""],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ARGUMENTS.items() for value in values])
def test_arguments_without_sense_are_named(name, value):
    logged, fresh, _ = population(np.random.default_rng(0), n=60, k0=30)
    with pytest.raises(DataError, match=name):
        evaluate(logged, fresh, **{name: value})


ROWS = {
    "prompt_id": lambda a, b: (a.assign(prompt_id=a.prompt_id.where(a.index > 3)), b),
    "policy": lambda a, b: (a, b.assign(policy=b.policy.where(b.index > 3))),
    "judge": lambda a, b: (pd.concat([a, a[["judge"]]], axis=1), b),
    "complex": lambda a, b: (a.assign(judge=a.judge + 0j), b),
    "log_weight_t": lambda a, b: (a.assign(logp_t=-5.0, logp_p0=-5.0), b),
    "log_weight_p0": lambda a, b: (a.assign(log_weight_p0=1.0), b),
    "log_weight_": lambda a, b: (a.assign(log_weight_=1.0), b),
    "DataFrame": lambda a, b: (a.to_dict(), b),
    "no row": lambda a, b: (a.head(0), b.head(0)),
}


@pytest.mark.parametrize("word", ROWS)
def test_frames_without_sense_are_named(word):
    logged, fresh, _ = population(np.random.default_rng(0), n=60, k0=30)
    with pytest.raises(DataError, match=word):
        evaluate(*ROWS[word](logged, fresh))


def test_chances_of_labelled_rows_are_there_and_a_row_that_had_none_is_no_error():
    _, fresh, _ = population(np.random.default_rng(0), k0=0, kt=60)
    has = fresh.label.notna()
    for missing in (np.nan, 0.0):
        with pytest.raises(DataError, match="label_propensity"):
            evaluate(None, fresh.assign(p=np.where(has & (fresh.index < 300), missing, 0.1)), label_propensity="p")
    never = evaluate(None, fresh.assign(p=np.where(has | (fresh.index > 60), 0.1, 0.0)), label_propensity="p")
    always = evaluate(None, fresh.assign(p=0.1), label_propensity="p")
    widths = [(r.headline.ci_high - r.headline.ci_low)["t"] for r in (never, always)]
    assert widths[0] > widths[1] + 0.05


def test_prompts_are_the_same_however_their_numbers_are_stored():
    logged, fresh, _ = population(np.random.default_rng(0), kt=30)
    as_float = fresh.assign(prompt_id=fresh.prompt_id.astype(float))
    pd.testing.assert_frame_equal(evaluate(logged, fresh).estimates, evaluate(logged, as_float).estimates)


def test_without_a_judge_labels_speak_alone():
    y = (np.arange(100) < 60).astype(float)
    fresh = pd.DataFrame({"policy": "t", "prompt_id": np.arange(100), "label": y})
    row = evaluate(None, fresh).headline.loc["t"]
    assert row.value == pytest.approx(0.6)
    assert row.ci_low < 0.51 < 0.69 < row.ci_high
    with pytest.raises(DataError, match="grade"):
        evaluate(None, fresh, judge="grade")


def test_neither_frame_and_a_frame_without_prompts_are_errors():
    for options in ({}, {"belief": "hope", "fresh": pd.DataFrame()}):
        with pytest.raises(DataError):
            evaluate(**options)
    with pytest.raises(DataError, match="prompt_id"):
        evaluate(pd.DataFrame({"judge": [0.5]}))
