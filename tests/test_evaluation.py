"""`evaluate` on two frames: what it takes, what it refuses by name, and what its frames say (see `population`)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import binom

from arena10k import DataError, evaluate
from statistics_data import coin, population

SEEDED = np.random.default_rng


def of_target(*given, **options):
    """The estimates of `t`, index estimator."""
    return evaluate(*given, **options).estimates.query("policy == 't'").set_index("estimator")


def width(row):
    return row.ci_high - row.ci_low


def test_the_judge_alone_is_never_reported_and_refused_where_the_log_shows_less_than_all():
    rng = SEEDED(0)
    for _ in range(3):
        rows = of_target(*population(rng, off=0.15)[0])
        assert (rows.verdict["direct"], "off_support" in rows.reasons["direct"]) == ("REFUSE", True)
        rows = of_target(*population(rng)[0])
        assert (rows.verdict["direct"], rows.reasons["direct"]) == ("CAUTION", ["judge_shift_assumed"])


def test_weights_that_are_not_the_draws_refuse_what_rests_on_them():
    """Weights of other rows, with which the judge's scores go too; and of another policy."""
    rng, flagged = SEEDED(0), 0
    for _ in range(3):
        result = evaluate(*population(rng, wrong=True)[0])
        rows = result.estimates.query("policy == 't' and estimator not in ('ppi_pp', 'naive')")
        assert ("t" in result.headline.index, set(rows.verdict)) == (False, {"REFUSE"})
    for _ in range(6):
        (logged, fresh), _ = population(rng, liking=1.0, mu=0.8)
        logged["log_weight_t"] = population(rng, mu=0.8)[0][0].log_weight_t
        flagged += "weights_do_not_match_draws" in of_target(logged, fresh).reasons["snips"]
    assert flagged >= 5


def test_every_draw_labelled_is_as_good_as_all_but_one():
    (logged, fresh), _ = population(SEEDED(0), n=300, kt=300)
    one_less = fresh.assign(label=fresh.label.where(fresh.index > 0))
    whole, less = (evaluate(logged, draws).headline.loc["t"] for draws in (fresh, one_less))
    assert whole.verdict == "REPORT"
    assert width(whole) == pytest.approx(width(less), rel=0.05)


def test_few_labels_are_answered_and_say_no_more_than_they_know():
    rng = SEEDED(1)
    for _ in range(5):
        (logged, fresh), _ = population(rng, n=40, k0=0, kt=20)
        assert evaluate(logged.drop(columns="log_weight_t"), fresh).headline.verdict["t"] == "REPORT"
    (_, fresh), _ = population(rng, k0=0, kt=50)
    fresh["label"] = fresh.label.where(fresh.label.isna(), 1.0)
    assert evaluate(None, fresh).headline.loc["t"].ci_low < 1 - 3 / 60


def test_labels_chosen_by_score_are_noticed_and_those_with_declared_chances_are_used():
    rng, hits, flagged, runs = SEEDED(1), 0, 0, 20

    def chance(s):
        return np.minimum(1, 120 * s**3 / (s**3).sum())

    for _ in range(runs):
        (_, fresh), truth = population(rng, k0=0, chance=chance)
        row = of_target(None, fresh).loc["ppi_pp"]
        flagged += "labels_not_random" in row.reasons
        assert row.verdict != "REPORT" or "labels_not_random" not in row.reasons
        row = of_target(None, fresh.assign(p=chance(fresh.judge)), label_propensity="p").loc["ppi_pp"]
        assert "labels_not_random" not in row.reasons
        hits += row.ci_low <= truth <= row.ci_high
    assert flagged >= runs - 2
    assert binom.cdf(hits, runs, 0.95) >= 0.001


def test_the_estimand_is_the_mean_over_prompts():
    """Prompts of one draw are worth 1, those of nine are worth 0."""
    prompts = np.concatenate([np.arange(100), np.repeat(np.arange(100, 200), 9)])
    good = (prompts < 100).astype(float)
    fresh = pd.DataFrame({"policy": "t", "prompt_id": prompts, "judge": good, "label": good})
    rows = of_target(fresh.drop(columns="policy").assign(log_weight_t=0.0), fresh)
    values = rows.value[["ppi_pp", "snips", "direct", "ips", "dr_oracle", "stacked_dr"]]
    np.testing.assert_allclose(values, 0.5, atol=1e-9)


def test_clusters_widen_what_topics_share():
    rng, topic = SEEDED(0), np.arange(400) // 20
    y = coin(rng, expit(2 * rng.standard_normal(20))[topic])
    fresh = pd.DataFrame({"policy": "t", "prompt_id": np.arange(400), "judge": 0.5, "label": y, "topic": topic})
    plain, grouped = (evaluate(None, fresh, cluster=c).headline.loc["t"] for c in (None, "topic"))
    assert grouped.value == pytest.approx(plain.value)
    assert width(grouped) > 1.5 * width(plain)


def test_scales_are_declared_and_values_come_back_on_the_labels():
    given = [frame.assign(noise=0.01) for frame in population(SEEDED(0), kt=60)[0]]
    stars = [f.assign(judge=1 + 4 * f.judge, label=10 * f.label, noise=16 * f.noise) for f in given]
    plain = evaluate(*given, judge_variance="noise")
    scaled = evaluate(*stars, judge_variance="noise", judge_scale=(1, 5), label_scale=(0, 10), width=2, judge_shift=1)
    for name in ("value", "se", "ci_low", "ci_high"):
        np.testing.assert_allclose(scaled.estimates[name], 10 * plain.estimates[name], atol=1e-9)
    for frame, column in (("contrasts", "difference"), ("ranking", "value"), ("breakdown", "judge_error")):
        np.testing.assert_allclose(getattr(scaled, frame)[column], 10 * getattr(plain, frame)[column])
    assert (scaled.estimates.verdict == plain.estimates.verdict).all()
    assert scaled.plan([1.0]).labels.tolist() == plain.plan([0.1]).labels.tolist()
    assert scaled.plan().width.tolist() == [2.0, 2.0]
    assert repr(plain).startswith("p0: 0.")
    assert "REPORT" in plain._repr_html_()
    quiet, noisy = (e.estimates.set_index(["policy", "estimator"]).se["t", "snips"] for e in (evaluate(*given), plain))
    assert noisy > quiet


def test_equal_policies_are_ties_and_a_worse_one_is_not():
    rng, n, false, told_apart = SEEDED(3), 200, 0, 0
    for _ in range(20):
        rates = {"a": 0.9, "b": 0.9, "c": 0.9, "bad": 0.5}
        draws = [pd.DataFrame({"policy": p, "label": coin(rng, np.full(n, rate))}) for p, rate in rates.items()]
        fresh = pd.concat([d.assign(prompt_id=np.arange(n), judge=0.5) for d in draws], ignore_index=True)
        fresh["label"] = fresh.label.where(fresh.prompt_id < 40)
        pairs = evaluate(None, fresh).contrasts
        equal = ~(pairs.a.eq("bad") | pairs.b.eq("bad"))
        false += pairs[equal].significant.any()
        told_apart += pairs[~equal].significant.all()
        assert (pairs.significant == ((pairs.ci_low > 0) | (pairs.ci_high < 0))).all()
    assert binom.sf(false - 1, 20, 0.05) > 0.001
    assert told_apart >= 10


def test_what_was_not_collected_is_not_asked():
    (logged, fresh), _ = population(SEEDED(0), kt=60)
    weighted = of_target(logged.drop(columns="log_weight_t"), fresh).loc[["ips", "snips", "dr_oracle", "dr_cpo"]]
    assert set(weighted.verdict) == {"NOT_ASKED"}
    assert weighted[["value", "ess"]].isna().all(axis=None)
    assert of_target(logged.assign(log_weight_t=np.nan), fresh).verdict["snips"] == "REFUSE"


def test_a_policy_without_a_value_says_why():
    logged, fresh = population(SEEDED(0), k0=0, kt=0)[0]
    for given in ((logged, fresh), (logged.assign(log_weight_t=logged.log_weight_t + 5), fresh)):
        found = evaluate(*given)
        lines = dict(line.split(": ", 1) for line in repr(found).splitlines())
        for policy, own in found.estimates.groupby("policy"):
            assert policy in found.headline.index or any(
                row and all(reason in lines[policy] for reason in row) for row in own.reasons
            )


def test_belief_bounds_what_a_headline_rests_on():
    (logged, fresh), _ = population(SEEDED(0), kt=30)
    assert evaluate(logged, fresh, belief="labels").headline.estimator["t"] == "ppi_pp"
    assert evaluate(logged, fresh).headline.estimator["t"] != "ppi_pp"  # the log's 200 labels say more
    nothing = evaluate(logged, fresh.drop(columns="label"), belief="labels")
    assert "t" not in nothing.headline.index
    assert "t: no accepted estimate" in repr(nothing)


def test_breakdown_turns_the_order_round():
    result = evaluate(*population(SEEDED(0), kt=60)[0])
    assert len(result.breakdown) == 1
    for row in result.breakdown.itertuples():
        better, worse = result.headline.value[[row.better, row.worse]]
        assert better - worse == pytest.approx(row.difference)
        lost, gained = better * (1 - row.unseen_mass), worse * (1 - row.unseen_mass) + row.unseen_mass
        assert lost == pytest.approx(worse) or gained == pytest.approx(better)


def test_draws_of_the_logging_policy_are_its_own_beside_its_log():
    (logged, fresh), _ = population(SEEDED(0), k0=50, kt=50)
    both = evaluate(logged, fresh.assign(policy="p0")).estimates.query("policy == 'p0'").set_index("estimator")
    assert both.value["naive"] == pytest.approx(np.mean([logged.judge.mean(), fresh.judge.mean()]))
    assert both.value["ppi_pp"] == pytest.approx(np.nanmean(np.append(logged.label, fresh.label)), abs=0.05)


@pytest.mark.parametrize(
    "stored",
    [
        lambda f: f.assign(prompt_id=f.prompt_id.astype(float)),
        lambda f: f.assign(prompt_id=f.prompt_id.astype("category"), label=f.label.astype("Int64")),
        lambda f: f.assign(label=f.label * (1 + 1e-12), judge=f.judge.astype("string[pyarrow]")),
        lambda f: f.set_axis(f.index % 7),
    ],
)
def test_values_are_the_same_however_they_are_stored(stored):
    (logged, fresh), _ = population(SEEDED(0), kt=30)
    given = [frame.assign(label=frame.label.round()) for frame in (logged, fresh)]
    pd.testing.assert_frame_equal(evaluate(*given).estimates, evaluate(*map(stored, given)).estimates)
    number = [frame.rename(columns={"judge": 3}) for frame in given]
    pd.testing.assert_frame_equal(evaluate(*given).estimates, evaluate(*number, judge=3).estimates)


def test_lengths_are_those_of_responses_where_they_are_not_told():
    (logged, _), _ = population(SEEDED(0))
    tokens = SEEDED(1).integers(20, 81, len(logged))
    logged = logged.assign(logp_p0=-1.2 * tokens, logp_t=-1.2 * tokens + logged.pop("log_weight_t") - 1e-3)
    texts = logged.assign(response=["word" * k for k in tokens])
    for with_lengths in (texts, logged.assign(response_chars=4 * tokens)):
        assert "no_agreement" not in of_target(with_lengths).reasons["snips"]
    pd.testing.assert_frame_equal(of_target(texts), of_target(with_lengths))


def test_without_a_judge_labels_speak_alone():
    y = (np.arange(100) < 60).astype(float)
    fresh = pd.DataFrame({"policy": "t", "prompt_id": np.arange(100), "label": y})
    row = evaluate(None, fresh).headline.loc["t"]
    assert row.value == pytest.approx(0.6)
    assert row.ci_low < 0.51 < 0.69 < row.ci_high
    with pytest.raises(DataError, match="grade"):
        evaluate(None, fresh, judge="grade")


def test_chances_of_labelled_rows_are_there_and_a_row_that_had_none_is_no_error():
    (_, fresh), _ = population(SEEDED(0), k0=0, kt=60)
    has = fresh.label.notna()
    for missing in (np.nan, 0.0):
        with pytest.raises(DataError, match="label_propensity"):
            evaluate(None, fresh.assign(p=np.where(has & (fresh.index < 300), missing, 0.1)), label_propensity="p")
    chances = (np.where(has | (fresh.index > 60), 0.1, 0.0), 0.1)
    never, always = (evaluate(None, fresh.assign(p=p), label_propensity="p").headline.loc["t"] for p in chances)
    assert width(never) > width(always) + 0.05


ARGUMENTS = {
    "confidence": [0, 1.0, 95, float("nan"), "high"],
    "width": [0, -1, 2.0, "a", "0.1"],
    "judge_shift": [-0.1, 2, float("nan")],
    "label_scale": [1, (0, 0), (1, 0), (0, float("nan")), ("a", "b"), ("0", "1")],
    "judge_scale": [(1, 1), ("a", "b")],
    "logging_policy": [None, ""],
    "belief": ["hope"],
    "cluster": ["topic"],
    "judge": [None, ["judge"]],
    "label": [None],
}
#: Words of the message -> what becomes of the two frames.
FRAMES = {
    "logged.*'judge', row 0: 7": lambda a, b: (a.assign(judge=7.0), b),
    "logged.*'label', row 1: 'good'": lambda a, b: (a.assign(label=[0.5] + ["good"] * (len(a) - 1)), b),
    "logged.*logp_t.*log-prob": lambda a, b: (a.assign(logp_t=0.5, logp_p0=-1.0), b),
    "logged.*logp_p0": lambda a, b: (a.assign(logp_t=-0.5), b),
    "logged.*of t.*infinite": lambda a, b: (a.drop(columns="log_weight_t").assign(logp_t=-0.5, logp_p0=-np.inf), b),
    "prompt_id.*row 0: missing": lambda a, b: (a.assign(prompt_id=a.prompt_id.where(a.index > 3)), b),
    "no column 'prompt_id'.*df.rename": lambda a, b: (a.drop(columns="prompt_id"), b),
    "logging_policy='t' or 'prod'$": lambda a, b: (a.assign(logp_t=-5.0, logp_prod=-5.0), b),
    "logging_policy='prod'$": lambda a, b: (a.assign(logp_prod=-5.0), b),
    "logp_p0.*of probabilities.*np.log": lambda a, b: (a.assign(logp_p0=np.linspace(1e-15, 1e-12, len(a))), b),
    "0.5 is no log-prob(?!.*np.log)": lambda a, b: (a.assign(logp_p0=np.where(a.index < 9, 0.5, -5.0)), b),
    "policy.*row 0: missing": lambda a, b: (a, b.assign(policy=b.policy.where(b.index > 3))),
    "several columns 'judge'": lambda a, b: (pd.concat([a, a[["judge"]]], axis=1), b),
    "logged.*'judge', row 0: 1.000001 is": lambda a, b: (a.assign(judge=1.000001), b),
    "logged.*'judge', row 1 .index b.: 7 ": lambda a, b: (
        a.assign(judge=[0.5, *[7.0] * 59]).set_axis(list("ab") * 30),
        b,
    ),
    "logged.*'judge', row 0 .index .*: 7 ": lambda a, b: (
        a.assign(judge=7.0, n=a.index).set_index(["n", "prompt_id"], drop=False),
        b,
    ),
    "logged.*'policy' names 2": lambda a, b: (a.assign(policy=a.index % 2), b),
    "logged.*'judge' holds datetime64": lambda a, b: (a.assign(judge=pd.Timestamp("2026-01-01")), b),
    "prompt_id.*row 3: missing": lambda a, b: (a.assign(prompt_id=a.prompt_id.astype(str).where(a.index != 3, " ")), b),
    "complex": lambda a, b: (a.assign(judge=a.judge + 0j), b),
    "log_weight_t.*says it too": lambda a, b: (a.assign(logp_t=-5.0, logp_p0=-5.0), b),
    "log_weight_p0": lambda a, b: (a.assign(log_weight_p0=1.0), b),
    "log_weight_'.*no target": lambda a, b: (a.assign(log_weight_=1.0), b),
    "dict is no DataFrame": lambda a, b: (a.to_dict(), b),
    "no row": lambda a, b: (a.head(0), b.head(0)),
    "neither": lambda a, b: (),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ARGUMENTS.items() for value in values])
def test_arguments_without_sense_are_named(name, value):
    with pytest.raises(DataError, match=name if name != "cluster" else value):
        evaluate(*population(SEEDED(0), n=60, k0=30)[0], **{name: value})


@pytest.mark.parametrize("message", FRAMES)
def test_frames_without_sense_are_named(message):
    with pytest.raises(DataError, match=message):
        evaluate(*FRAMES[message](*population(SEEDED(0), n=60, k0=30)[0]))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.98, 1.0])
def test_stand_ins_in_both_columns_are_no_weights_of_one(share):
    rng = np.random.default_rng(0)
    style, failed = rng.standard_normal(600), rng.random(600) < share
    frame = pd.DataFrame({"prompt_id": np.arange(600), "judge": 0.5 + 0.1 * style.clip(-3, 3)})
    frame["label"] = frame.judge.where(rng.random(600) < 0.5)
    frame["logp_p0"] = -30 - 5 * rng.random(600)
    frame["logp_terse"] = frame.logp_p0 + 0.8 * style - 0.32
    frame.loc[failed, ["logp_p0", "logp_terse"]] = -50.0
    left = evaluate(frame).contexts["terse", "judge"].data.logged.log_weight
    assert np.isfinite(left).sum() == (~failed).sum()
