"""Populations whose truth is known, each of a kind that once broke a promise: a REPORT covers .95, a CAUTION .90 within
its budget, equal policies are ties. 60 runs each; a coverage of .8 is found out nearly always."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import binom

from arena10k import evaluate

N = 400


def labels(rng, y, k, chance=None):
    """`y` on `k` rows, NaN elsewhere; each row by its own `chance` where that is given."""
    has = rng.permutation(len(y)) < k if chance is None else rng.random(len(y)) < chance
    return np.where(has, y, np.nan)


def coin(rng, chance):
    return (rng.random(np.shape(chance)) < chance).astype(float)


def graded(rng, y, noise=0.15):
    """A judge that sees the outcome through noise, in steps of a tenth."""
    return np.round(np.clip(0.3 + 0.4 * y + noise * rng.standard_normal(len(y)), 0, 1), 1)


def frames(judge, label, log_weight, fresh_judge, fresh_label):
    """The two frames of a target `t`; no fresh one where `fresh_judge` is None."""
    logged = pd.DataFrame({"prompt_id": np.arange(len(judge)), "judge": judge, "label": label})
    if log_weight is not None:
        logged["log_weight_t"] = log_weight
    if fresh_judge is None:
        return logged, None
    draws = {"policy": "t", "prompt_id": np.arange(len(fresh_judge)), "judge": fresh_judge, "label": fresh_label}
    return logged, pd.DataFrame(draws)


def unseen_beside_near_perfect(rng, share=0.1, good=0.99):
    """All that the log shows is good; a tenth of the target, which it does not show, is worth nothing."""
    y, seen = coin(rng, np.full(N, good)), rng.random(N) >= share
    yf = coin(rng, good * seen)
    lw = 0.05 * rng.standard_normal(N) + np.log1p(-share)
    nothing = np.full(N, np.nan)
    return frames(graded(rng, y), labels(rng, y, 60), lw, graded(rng, np.where(seen, yf, 1.0)), nothing), good * (
        1 - share
    )


def rare_mode(rng, n=1000, p0=0.01, target=0.2, good=0.8):
    """What P0 says in 1 % of its answers and the target in 20 % is worth nothing, and the judge likes it."""

    def side(p):
        mode = rng.random(n) < p
        y = coin(rng, good * ~mode)
        return mode, graded(rng, np.where(mode, 1.0, y)), y

    (mode, s, y), (_, sf, yf) = side(p0), side(target)
    lw = np.where(mode, np.log(target / p0), np.log((1 - target) / (1 - p0))) + 0.05 * rng.standard_normal(n)
    return frames(s, labels(rng, y, 200), lw, sf, labels(rng, yf, 0)), good * (1 - target)


def leaning(rng, n=600, mu=0.4, scored=(True, True), weighed=True, k0=300, kt=0):
    """A target that leans to a style which is worth nothing, with right weights; two of five failures lose their score,
    logged or drawn, or their weight."""
    z = rng.standard_normal(n)
    y, yf = coin(rng, np.full(n, 0.75)), coin(rng, np.full(n, 0.75))
    s, sf, lw = graded(rng, y), graded(rng, yf), mu * z - mu**2 / 2
    lost, lost_f = ((outcome == 0) & (rng.random(n) < 0.4) for outcome in (y, yf))
    s, sf = np.where(lost & (not scored[0]), np.nan, s), np.where(lost_f & (not scored[1]), np.nan, sf)
    lw = np.where(lost & (not weighed), np.nan, lw)
    return frames(s, labels(rng, y, k0), lw, sf, labels(rng, yf, kt)), 0.75


def off(rng, by, n=600, kt=8):
    """A judge that is too kind to the target, of which few labels are there and no weights."""

    def side(rate, kind):
        y = coin(rng, np.full(n, rate))
        return y, np.round(np.clip(0.2 + 0.5 * y + kind + 0.15 * rng.standard_normal(n), 0, 1), 2)

    (y, s), (yf, sf) = side(0.6, 0.0), side(0.5, 0.5 * by)
    return frames(s, labels(rng, y, 300), None, sf, labels(rng, yf, kt)), 0.5


def declared(rng, n=1000, where="fresh", rare=0.005, often=0.2):
    """A fifth of the responses fail, the judge does not see it, and they hardly had a chance of a label."""
    bad = rng.random(n) < 0.2
    y, chance = coin(rng, np.where(bad, 0.1, 0.95)), np.where(bad, rare, often)
    label, nothing = labels(rng, y, 0, chance), np.full(n, np.nan)
    judge, lw = np.round(0.5 + 0.1 * rng.standard_normal(n), 2), 0.05 * rng.standard_normal(n)
    of_fresh = where == "fresh"
    logged, fresh = frames(judge, nothing if of_fresh else label, lw, judge, label if of_fresh else nothing)
    chances = {"logged": nothing if of_fresh else chance, "fresh": chance if of_fresh else nothing}
    return (logged.assign(p=chances["logged"]), fresh.assign(p=chances["fresh"])), 0.2 * 0.1 + 0.8 * 0.95


def of(make, **options):
    return lambda rng: make(rng, **options)


def logprobs(rng, fault, n=800, mu=0.6, share=0.3):
    """Log-probs of sums over 20 to 80 tokens, and what a program or a mistake makes of them; quality falls with the
    style that the target leans to."""
    z = rng.standard_normal(n)
    y, tokens = coin(rng, expit(0.3 - z)), rng.integers(20, 81, n)
    p0 = -1.2 * tokens - rng.gamma(4.0, 2.0, n)
    pt, bad = p0 + mu * z - mu**2 / 2, rng.random(n) < share
    p0, pt = FAULTS[fault](p0, pt, bad, tokens)
    logged, _ = frames(graded(rng, y), labels(rng, y, 300), None, None, None)
    return logged.assign(logp_p0=p0, logp_t=pt, response_chars=4 * tokens)


FAULTS = {
    "none": lambda p0, pt, bad, tokens: (p0, pt),
    "means": lambda p0, pt, bad, tokens: (p0 / tokens, pt / tokens),
    "zeros": lambda p0, pt, bad, tokens: (np.where(bad, 0.0, p0), np.where(bad, 0.0, pt)),
    "-50": lambda p0, pt, bad, tokens: (np.where(bad, -50.0, p0), np.where(bad, -50.0, pt)),
    "copied": lambda p0, pt, bad, tokens: (p0, np.where(bad, p0, pt)),
    "swapped": lambda p0, pt, bad, tokens: (pt, p0),
}


@pytest.mark.parametrize(
    ("fault", "verdict", "reason", "width"),
    [
        ("none", "REPORT", None, (0.0, 0.25)),
        ("zeros", "REPORT", None, (0.3, 0.5)),
        ("-50", "REPORT", None, (0.3, 0.5)),
        ("copied", "REPORT", None, (0.3, 0.5)),
        ("means", "REFUSE", "logprobs_not_summed", None),
        ("swapped", "REFUSE", "likelier_than_p0", None),
    ],
)
@pytest.mark.parametrize("lengths", [True, False])
def test_logprobs_that_are_none_are_lost_or_refused(fault, verdict, reason, width, lengths):
    logged = logprobs(np.random.default_rng(0), fault)
    logged = logged if lengths else logged.drop(columns="response_chars")
    if fault == "means" and not lengths:
        verdict, reason = "CAUTION", "logprobs_may_be_means"
    row = evaluate(logged).estimates.query("policy == 't'").set_index("estimator").loc["snips"]
    assert row.verdict == verdict
    assert reason in row.reasons if reason else not row.reasons
    assert width is None or width[0] < row.ci_high - row.ci_low < width[1]


def test_chances_of_a_few_actions_are_no_stand_ins():
    rng, n = np.random.default_rng(0), 600
    p0, target = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.3, 0.3])
    action = rng.choice(3, n, p=p0)
    y = coin(rng, np.array([0.2, 0.5, 0.8])[action])
    logged, _ = frames(np.full(n, 0.5), labels(rng, y, n), None, None, None)
    row = evaluate(logged.assign(logp_p0=np.log(p0)[action], logp_t=np.log(target)[action])).headline.loc["t"]
    assert row.verdict == "REPORT"
    assert row.ci_low < target @ [0.2, 0.5, 0.8] < row.ci_high < row.ci_low + 0.15


POPULATIONS = {
    "unseen beside near-perfect": unseen_beside_near_perfect,
    "rare mode": rare_mode,
    "failures lose their logged score": of(leaning, scored=(False, True)),
    "failures lose the score of their draw": of(leaning, scored=(True, False), kt=60, k0=200),
    "failures lose both scores": of(leaning, scored=(False, False)),
    "failures lose their weight": of(leaning, weighed=False),
    "declared chances": of(declared),
    "declared chances of logged labels": of(declared, where="logged", rare=0.01, often=0.5),
    "judge off by .08, few labels": of(off, by=0.08),
}
#: The column of declared chances, of populations that have one.
CHANCES = {"declared chances": "p", "declared chances of logged labels": "p"}


@pytest.mark.parametrize("name", POPULATIONS)
def test_what_is_reported_covers(name):
    rng, counts, runs = np.random.default_rng(0), {}, 60
    for _ in range(runs):
        (logged, fresh), truth = POPULATIONS[name](rng)
        result = evaluate(logged, fresh, label_propensity=CHANCES.get(name))
        rows = result.estimates[result.estimates.policy == "t"].set_index("estimator").drop("naive")
        heads = result.headline.reindex(["t"]).dropna(subset="value").rename({"t": "headline"})
        for which, row in pd.concat([rows, heads]).iterrows():
            if row.verdict in ("REPORT", "CAUTION"):
                hits, all_ = counts.get((which, row.verdict), (0, 0))
                counts[which, row.verdict] = hits + (row.ci_low <= truth <= row.ci_high), all_ + 1
    assert sum(all_ for (which, _), (_, all_) in counts.items() if which == "headline") >= runs / 6
    for (which, verdict), (hits, all_) in counts.items():
        assert binom.cdf(hits, all_, 0.95 if verdict == "REPORT" else 0.9) >= 0.001, (which, verdict, hits, all_)


def test_a_budget_that_is_assumed_beside_few_labels_is_named():
    (logged, fresh), _ = off(np.random.default_rng(0), by=0.0)
    rows = evaluate(logged, fresh).estimates.query("policy == 't'").set_index("estimator")
    assert rows.verdict["direct"] == "CAUTION"
    assert "judge_shift_assumed" in rows.reasons["direct"]


def test_more_labels_do_not_widen_what_a_few_leave_open():
    wider = []
    for seed in range(12):
        (logged, fresh), _ = off(np.random.default_rng(seed), by=0.0, kt=14)
        fewer = fresh.assign(label=fresh.label.where(fresh.label.notna().cumsum() <= 8))
        heads = [evaluate(logged, draws).headline.loc["t"] for draws in (fewer, fresh)]
        wider.append(heads[1].ci_high - heads[1].ci_low > 1.1 * (heads[0].ci_high - heads[0].ci_low))
    assert sum(wider) <= 4  # where the labels speak against the budget


def test_equal_weights_and_a_judge_that_says_nothing_leave_the_exact_interval():
    """Clopper and Pearson's interval of 14 successes in 25 is .349 to .756."""
    y = (np.arange(60) % 25 < 14).astype(float)
    label = np.where(np.arange(60) < 25, y, np.nan)
    row = evaluate(frames(np.full(60, 0.7), label, np.zeros(60), None, None)[0]).estimates
    row = row[row.policy == "t"].set_index("estimator").loc["snips"]
    assert row.ci_low < 0.3493
    assert row.ci_high > 0.7560


def test_a_few_lost_weights_and_scores_cost_little():
    rng = np.random.default_rng(0)
    (logged, fresh), _ = leaning(rng)
    whole = evaluate(logged, fresh).headline.loc["t"]
    lost = rng.random(len(logged)) < 0.005
    for column in ("log_weight_t", "judge"):
        row = evaluate(logged.assign(**{column: logged[column].mask(lost)}), fresh).headline.loc["t"]
        assert row.verdict == whole.verdict == "REPORT"
        assert row.ci_high - row.ci_low < whole.ci_high - whole.ci_low + 0.01


def test_draws_without_any_score_speak_by_their_labels():
    (logged, fresh), _ = leaning(np.random.default_rng(0), kt=100)
    rows = evaluate(logged, fresh.drop(columns="judge")).estimates.query("policy == 't'").set_index("estimator")
    assert rows.value["ppi_pp"] == pytest.approx(fresh.label.mean())
    assert rows.verdict["ppi_pp"] == "REPORT"
    assert rows.reasons["direct"] == ["no_judge_scores"]


def test_a_constant_judge_and_a_constant_weight_below_one_are_no_contradiction():
    rng = np.random.default_rng(0)
    y = coin(rng, np.full(N, 0.8))
    logged, fresh = frames(np.full(N, 0.7), labels(rng, y, 300), np.full(N, np.log(0.95)), np.full(N, 0.7), y * np.nan)
    row = evaluate(logged, fresh).headline.loc["t"]
    assert row.verdict == "REPORT"
    assert row.ci_low < 0.95 * 0.8 < 0.95 * 0.8 + 0.05 < row.ci_high


def test_few_discrete_weights_of_which_most_rows_share_the_largest_are_not_clipped():
    rng, n = np.random.default_rng(0), 1000
    rare = rng.random(n) < 0.05
    y = coin(rng, np.where(rare, 0.2, 0.8))
    lw = np.where(rare, np.log(0.2), np.log(0.99 / 0.95))
    row = evaluate(frames(graded(rng, y), labels(rng, y, 400), lw, None, None)[0]).headline.loc["t"]
    assert row.verdict == "REPORT"


def test_what_two_beliefs_leave_open_adds_up():
    """Equal policies, three tenths of each unseen: of one worth nothing, of the other everything."""
    rng, n, share, shift = np.random.default_rng(0), 3000, 0.3, (0.9, -0.1)
    covered, runs = 0, 12
    grid = rng.standard_normal(200_000)
    seen = [expit(-1 + 1.4 * grid + m).mean() for m in shift]
    truth = (1 - share) * (seen[0] - seen[1]) - share
    for _ in range(runs):
        q, z = rng.standard_normal(n), rng.standard_normal(n)
        logged = pd.DataFrame({"prompt_id": np.arange(n), "judge": np.round(expit(-1 + q + z), 2)})
        logged["label"] = coin(rng, expit(-1 + q + z))
        for name, m in zip("ab", shift, strict=True):
            logged[f"log_weight_{name}"] = m * z - m**2 / 2 + np.log1p(-share)
        pair = evaluate(logged).contrasts.set_index(["a", "b"]).loc["a", "b"]
        covered += pair.ci_low <= truth <= pair.ci_high
    assert binom.cdf(covered, runs, 0.95) >= 0.001
