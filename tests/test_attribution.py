"""Attribution of the gap between a published and a trusted value: identities, naive re-computation, simulated runs."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import expit

from arena10k.attribution import game as games
from arena10k.attribution import weights, words
from arena10k.attribution.game import CAUSES, STATES, Case, bootstrap, gap_parts, make_game, state_values
from arena10k.attribution.investigation import TOLERANCE, detect, investigate, published
from arena10k.attribution.mismatch import mismatch, mismatch_sentence
from arena10k.audit import screening
from arena10k.estimation import ESTIMATORS, PolicyData, Rows, pareto, prepare
from arena10k.run import Run
from statistics_data import arrays, changed, public_sample

POLICIES = ["clone", "parallel_universe_prompt", "unhelpful"]
OFF_SUPPORT = CAUSES.index("off_support")


def some(rng, y, share):
    """Labels of about that share of the rows."""
    return np.where(rng.random(len(y)) < share, y, np.nan)


def run(seed, n=300, tilt=(0.3, -0.5, 0.8)):
    """A run with correct weights. A response is z ~ N(0, I) under P0 and z ~ N(tilt_k e_k, I) under target k; outcome
    and judge depend on z, so log w = tilt z_k - tilt^2 / 2 exactly and every true value is the mean over shifted
    draws."""
    rng, k = np.random.default_rng(seed), len(tilt)
    prompt = 0.5 * rng.standard_normal(n)

    def respond(shift):
        z = rng.standard_normal((n, k)) + shift
        y = (rng.random(n) < expit(0.4 + prompt + 0.6 * z.sum(axis=1))).astype(float)
        return z, y, np.clip(np.round(20 * (0.45 + 0.35 * y + 0.1 * rng.standard_normal(n))) / 20, 0, 1)

    z, y, judge = respond(np.zeros(k))
    label = some(rng, y, 0.4)
    own = {"judge": judge, "label": label, "cluster": np.arange(n), "length": np.arange(n) + 5.0}
    fresh = {"fresh_judge": judge, "fresh_label": label, "fresh_cluster": np.arange(n)}
    out = {"p0": Case(arrays(log_weight=np.zeros(n), **own, **fresh, is_logging=True))}
    for j, t in enumerate(tilt):
        _, y_new, s_new = respond(t * np.eye(k)[j])
        fresh = {"fresh_judge": s_new, "fresh_label": some(rng, y_new, 0.2), "fresh_cluster": np.arange(n)}
        out[f"t{j}"] = Case(arrays(log_weight=t * z[:, j] - t**2 / 2, **own, **fresh))
    return out


def shifted(seed, tilt, n=500, overrated=0.0, unseen=0.0, clip=None):
    """P0 and one target, log w = tilt z - tilt^2 / 2 + log(1 - unseen). `unseen` is the share of the target's responses
    that P0 never gives, all wrong; the judge adds `overrated` to wrong responses of z > -1, whoever gave them."""
    rng = np.random.default_rng(seed)

    def respond(shift, new):
        z = rng.standard_normal(n) + shift
        y = ((rng.random(n) < expit(1.2 * z - 0.4)) & ~new).astype(float)
        judge = 0.1 + 0.8 * y + overrated * (z > -1) * (1 - y) + 0.05 * rng.standard_normal(n)
        return z, y, np.clip(np.round(20 * judge) / 20, 0, 1)

    z, y, judge = respond(0.0, np.zeros(n, bool))
    own = {"judge": judge, "label": some(rng, y, 0.4), "cluster": np.arange(n)}
    fresh = {"fresh_judge": judge, "fresh_label": own["label"], "fresh_cluster": np.arange(n)}
    out = {"p0": Case(arrays(log_weight=np.zeros(n), **own, **fresh, is_logging=True))}
    _, y_new, s_new = respond(tilt, rng.random(n) < unseen)
    fresh = {"fresh_judge": s_new, "fresh_label": some(rng, y_new, 0.4), "fresh_cluster": np.arange(n)}
    lw = tilt * z - tilt**2 / 2 + np.log1p(-unseen)
    return out | {"t": Case(arrays(log_weight=lw, **own, **fresh), clip=clip)}


def permuted(seed):
    """Weights of another policy than the one that was drawn from: the same numbers, dealt to other rows."""
    cases = shifted(seed, 1.0)
    data = cases["t"].data
    lw = np.random.default_rng(seed).permutation(data.logged.log_weight)
    return cases | {"t": Case(changed(data, log_weight=lw))}


def corrupted(case, seed):
    rng, n = np.random.default_rng(seed), len(case.data.logged)
    bad = np.isin(np.arange(n), rng.choice(n, 20, replace=False))
    raw = np.where(bad, rng.normal(6, 3, n), case.data.logged.log_weight)
    return Case(changed(case.data, log_weight=np.where(bad, np.nan, raw)), raw, 3.0)


def unlabelled(case):
    data = case.data
    return Case(changed(data, label=np.full(len(data.logged), np.nan), fresh_label=np.full(len(data.fresh), np.nan)))


def game_of(case, estimator="ppi_pp"):
    prep = prepare(case.data)
    return make_game(case, prep, ESTIMATORS[estimator].score(prep))


def as_is(game):
    """The counts of prompts that are the data themselves."""
    return np.ones((1, game.prep.n_clusters))


def prompt_counts(n, replicates, seed):
    rng = np.random.default_rng(seed)
    return np.array([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(replicates)], dtype=float)


def snips(log_weight, reward):
    w = np.exp(log_weight - log_weight.max())
    return float((w * reward).sum() / w.sum())


def rows_of(inv):
    """The rows of anomaly.json by policy; it is strict JSON."""
    return {row["policy"]: row for row in json.loads(json.dumps(words.anomaly_json(inv), allow_nan=False))["policies"]}


def test_parts_are_the_average_over_all_orders_that_repair_weights_first():
    """Asymmetric Shapley values by brute force: all orders of S, C, T, M and J in which S, C and T come first, in that
    order."""
    values = np.random.default_rng(0).random((2, 5))
    orders = [o for o in permutations("SCTJM") if "".join(o).startswith("SCT")]
    expected = dict.fromkeys("SCTJM", 0.0)
    for order in orders:
        scale = state = 0
        for repair in order:
            before = values[scale, state]
            scale, state = (1, state) if repair == "J" else (scale, state + 1)
            expected[repair] += (before - values[scale, state]) / len(orders)
    assert np.allclose(gap_parts(values, 1.0), [*expected.values(), 0.0], atol=1e-14)


def test_off_support_is_credited_with_what_the_missing_mass_can_explain():
    cap = 0.3
    for seed in range(20):
        judge, oracle = np.random.default_rng(seed).random((2, 5))
        parts = dict(zip(CAUSES, gap_parts(np.stack([judge, oracle]), cap), strict=True))
        assert abs(sum(parts.values()) - (judge[0] - oracle[-1])) < 1e-12
        lows, highs = -cap * (1 - np.array([judge[3], oracle[3]])), cap * np.array([judge[3], oracle[3]])
        assert lows.mean() - 1e-12 <= parts["off_support"] <= highs.mean() + 1e-12
        fall = judge[3] - judge[4]
        assert parts["weights_do_not_match_draws"] == pytest.approx(fall - np.clip(fall, lows[0], highs[0]))
    nothing = dict(zip(CAUSES, gap_parts(np.stack([judge, oracle]), 0.0), strict=True))
    assert nothing["off_support"] == 0
    assert nothing["judge_bias"] == pytest.approx(judge[4] - oracle[4])


@pytest.mark.parametrize("seed", range(2))
def test_values_of_states_match_a_naive_recomputation_and_parts_sum_to_the_gap(seed):
    case = corrupted(run(seed)["t2"], seed)
    game, data, prep = game_of(case), case.data, prepare(case.data)
    values = state_values(game, as_is(game))[0]
    assert abs(bootstrap(game, as_is(game))[1].sum() - (values[0, 0] - values[1, -1])) < 1e-12
    clean = ~np.isnan(data.logged.log_weight)
    lw, judge, reward = data.logged.log_weight[clean], data.logged.judge[clean], prep.reward[clean]
    every, raw = (data.logged.judge, prep.reward), np.clip(case.raw_log_weight, -3, 3)
    expected = {
        "published": [snips(raw, r) for r in every],
        "S": [snips(np.clip(lw, -3, 3), r) for r in (judge, reward)],
        "C": [snips(lw, r) for r in (judge, reward)],
        "T": [snips(np.log(pareto.smooth(lw, pareto.tail_fit(lw))), r) for r in (judge, reward)],
        "M": [data.fresh.judge.mean(), game.trusted.value],
    }
    assert dict(zip(STATES, values.T.tolist(), strict=True)) == {k: pytest.approx(v) for k, v in expected.items()}


def test_a_repair_with_nothing_to_repair_contributes_exactly_zero():
    game = game_of(Case(run(1)["t1"].data, clip=50.0))
    for counts in (as_is(game), prompt_counts(300, 20, 0)):
        assert (bootstrap(game, counts)[1][:, :2] == 0.0).all()


@pytest.mark.parametrize(
    ("make", "mismatch", "cause"),
    [
        (lambda seed: shifted(seed, 1.5, clip=0.3), False, "clipping"),
        (permuted, True, "weights_do_not_match_draws"),
        (lambda seed: shifted(seed, 0.5, overrated=0.8), False, "judge_bias"),
        (lambda seed: shifted(seed, 0.3, unseen=0.6), False, "off_support"),
    ],
)
def test_the_cause_that_was_put_in_is_named_and_no_part_contradicts_the_sentence_of_the_mass(make, mismatch, cause):
    causes = []
    for seed in range(6):
        inv = investigate(make(seed), "p0", replicates=60, mismatch={"t": mismatch})
        finding, told, part = inv.policies["t"], words.mass_sentence(inv), inv.focus.parts[OFF_SUPPORT]
        causes.append(finding.main_cause)
        assert abs(finding.parts.sum() - finding.gap) < 1e-12
        assert finding.anomaly
        assert words.sentence(finding, inv) in " ".join(words.lead(inv))
        whole = mismatch or inv.focus.mass["covered"] >= 1
        assert part == 0 if whole else f"{part:.2f} is put down to them" in told
        assert ("say nothing of its missing mass" in told) == mismatch
        assert ("no mass is missing" in told) == (whole and not mismatch)
    assert causes.count(cause) >= 5


def test_weights_that_no_test_calls_wrong_are_not_called_wrong():
    cases = [investigate(permuted(seed), "p0", replicates=30, mismatch={"t": False}) for seed in range(4)]
    causes = [inv.policies["t"].main_cause for inv in cases]
    assert "weights_do_not_match_draws" not in causes
    assert causes.count("off_support") <= 1


def test_a_gap_to_the_trusted_value_is_an_anomaly_where_the_judge_agrees_with_itself():
    """The judge overrates the target in the log and in its own draws alike: SNIPS and the mean score of the draws
    agree, and both are far from the labels. Without labels nothing is found."""
    cases = shifted(0, 0.5, overrated=0.8)
    found = investigate(cases, "p0", replicates=50).policies["t"]
    assert abs(found.published.value - found.own_draws) < 0.05
    assert found.gap > 0.15
    assert (found.anomaly, found.main_cause) == (True, "judge_bias")
    blind = investigate({p: unlabelled(case) for p, case in cases.items()}, "p0", replicates=20).policies["t"]
    assert (blind.trusted, blind.anomaly, blind.main_cause) == (None, False, None)


@pytest.fixture(scope="module")
def recorded():
    """The committed recording, its table and its investigation."""
    run = Run("sample")
    table = run.table()
    return SimpleNamespace(run=run, table=table, inv=run.investigate(table))


def test_pi_bad_of_the_recording_is_explained_and_a_gap_that_counts_is_not_called_right(recorded):
    inv = recorded.inv
    found, terse = inv.policies["pi_bad"], inv.policies["pi_terse"]
    assert [f.policy for f in inv.anomalies] == ["pi_bad"]
    assert (found.rank, found.main_cause, found.estimate["verdict"]) == (1, "off_support", "REFUSE")
    assert found.parts[0] == found.parts[1] == 0
    assert abs(found.parts.sum() - found.gap) < 1e-12
    assert found.trusted["ci_low"] <= inv.truth["pi_bad"][0] <= found.trusted["ci_high"]
    np.testing.assert_array_equal(words.parts_frame(rows_of(inv)["pi_bad"]).value, found.parts)
    assert (terse.anomaly, terse.unsettled, terse.gap > TOLERANCE) == (False, True, True)
    shown = words.frame(words.anomaly_json(inv)).set_index("policy").anomaly
    assert (shown["pi_clone"], shown["pi_terse"]) == ("no", "not settled")


def test_each_snips_has_its_own_value_and_the_verdict_is_that_of_the_calibrated_one(recorded):
    table, inv = recorded.table, recorded.inv
    every = recorded.run.estimates(table)["rows"]
    rows = {r["policy"]: r for r in every if (r["estimator"], r["judge"]) == ("snips", inv.judge)}
    judge = table.logged[f"judge_{inv.judge}"].to_numpy(float)
    for policy, row in rows_of(inv).items():
        assert (row["calibrated"], row["verdict"]) == (rows[policy]["value"], rows[policy]["verdict"])
        lw = {**table.log_weights(), "p0": np.zeros(len(table.logged))}[policy]
        assert row["published"] == pytest.approx(snips(lw[~np.isnan(judge)], judge[~np.isnan(judge)]))


def test_mass_identity():
    case = run(0)["t2"]
    lw, reward = case.data.logged.log_weight - 1.5, prepare(case.data).reward
    mass = weights.mass_identity(np.exp(lw).mean(), snips(lw, reward), 0.2)
    c, on = mass["covered"], mass["on"]
    assert abs((snips(lw, reward) - 0.2) - (1 - c) * (on - mass["off"])) < 1e-12
    assert (mass["low"], mass["high"]) == (c * on, c * on + 1 - c)
    assert np.isnan(weights.mass_identity(1.2, 0.5, 0.2)["off"])


def test_resampled_values_equal_those_of_the_resampled_rows():
    case = corrupted(run(4)["t1"], 4)
    game, d = game_of(case, "direct"), case.data
    counts = prompt_counts(game.prep.n_clusters, 3, 7)
    for times, value, parts in zip(counts, *bootstrap(game, counts), strict=True):
        rows = np.repeat(np.arange(len(d.logged)), times.astype(int))
        same = prepare(replace(d, logged=d.logged.take(rows), fresh=d.fresh.take(rows)))
        expected = snips(np.clip(case.raw_log_weight, -3, 3)[rows], d.logged.judge[rows])
        assert value == pytest.approx(expected, abs=1e-12)
        assert parts.sum() == pytest.approx(value - same.fresh_reward.mean(), abs=1e-12)
    assert np.abs(games.calibration_change(game.prep, as_is(game))).max() < 1e-12


def test_bootstrap_spread_is_the_jackknife_standard_error_where_both_hold():
    game = game_of(run(5, n=1000)["t0"])
    deviation = published(game).deviation
    drawn, _ = bootstrap(game, prompt_counts(1000, 600, 0))
    assert drawn.std() == pytest.approx(np.sqrt(deviation @ deviation), rel=0.12)


def test_weights_hundreds_of_nats_apart_survive_resampling():
    lw = np.array([0.0, -900.0, -901.0, -np.inf])
    w = games.normalised(np.array([[1.0, 1, 1, 1], [0, 2, 1, 1], [0, 0, 0, 4]]), lw)
    assert w[0, 0] == 1
    assert np.allclose(w[1], np.array([0, 2, np.exp(-1), 0]) / (2 + np.exp(-1)))
    assert np.isnan(w[2]).all()


def test_rank_first_probabilities_share_ties():
    values = np.array([[0.5, 0.5, 0.1], [0.2, 0.2, 0.9], [np.nan, 1, 1]])
    assert np.allclose(weights.rank_first(values), [0.25, 0.25, 0.5])
    assert np.isnan(weights.rank_first(values[2:])).all()


@pytest.mark.parametrize("seed", range(3))
def test_rows_to_flip_changes_the_winner_and_one_row_is_the_smallest(seed):
    cases, every = run(seed, n=60), np.arange(60)
    log_weight = {p: c.data.logged.log_weight for p, c in cases.items()}
    judge = cases["p0"].data.logged.judge

    def values(rows):
        return {p: snips(lw[rows], judge[rows]) for p, lw in log_weight.items()}

    def winner(rows):
        return max(values(rows), key=values(rows).get)

    flip = weights.rows_to_flip(log_weight, judge)
    after = values(np.setdiff1d(every, flip.rows))
    assert after[flip.rival] > after[flip.winner]
    assert flip.winner == winner(every)
    assert flip.exact == any(winner(np.delete(every, i)) != flip.winner for i in every)


def test_shrinkage_runs_from_the_raw_weights_to_equal_ones():
    rows = run(6)["t2"].data.logged
    paths = weights.shrinkage_paths(rows.log_weight, rows.judge)
    for method, path in paths.groupby("method"):
        precision = 0.01 if method == "dros" else 1e-12
        assert path.value.iloc[0] == pytest.approx(snips(rows.log_weight, rows.judge), abs=precision)
        assert (path.ess_share.diff().dropna() > -1e-8).all()
        if method != "dros":
            assert path.value.iloc[-1] == pytest.approx(rows.judge.mean(), abs=1e-12)


def test_strata_and_heavy_rows_account_for_all_the_weight():
    rows = run(7)["t2"].data.logged
    strata, w = weights.length_strata(rows.log_weight, rows.length), np.exp(rows.log_weight)
    assert (strata.weight_share.sum(), strata.rows.sum()) == (pytest.approx(1), len(rows))
    assert strata.weight_share[0] == pytest.approx(w[rows.length <= strata.high[0]].sum() / w.sum())
    assert weights.length_strata(rows.log_weight, np.full(len(rows), np.nan)).empty
    frame = pd.DataFrame({"prompt_id": [f"q{i}" for i in range(len(rows))], "response": "<b>"})
    heavy = weights.heavy_rows(frame, rows.log_weight, rows.judge, top=len(rows))
    assert heavy.cumulative.iloc[-1] == pytest.approx(1)
    assert heavy.prompt_id[0] == f"q{w.argmax()}"


def test_ceiling_count_is_the_effective_sample_size_when_clipped_rows_hold_the_weight():
    lw = np.concatenate([np.full(8, 20.0), np.random.default_rng(0).normal(-3, 2, 500)])
    row = weights.ceiling_audit({"a": lw}).iloc[0]
    assert (row.tied, row.clip_dominated) == (8, True)
    assert (row.ceiling, row.ess) == (pytest.approx(8, abs=1e-4), pytest.approx(8, abs=1e-3))


def test_false_alarms_on_clean_runs_stay_below_the_stated_rate():
    runs, alarms = 100, 0
    for seed in range(runs):
        cases = {p: game_of(c) for p, c in run(seed).items()}
        anomaly, _ = detect(cases, {p: published(game) for p, game in cases.items()}, "p0")
        alarms += any(anomaly.values())
    assert alarms <= stats.binom.ppf(0.99, runs, 0.05)


@pytest.fixture(scope="module")
def wrong():
    """A run of which t0 gets a far too high number: nearly all that it says is unseen, and worth nothing. t1 has no
    draws."""
    cases = run(8)
    data = cases["t0"].data
    low = {"fresh_judge": np.round(data.fresh.judge * 6) / 20, "fresh_label": 0 * data.fresh.label}
    cases["t0"] = Case(changed(data, log_weight=data.logged.log_weight - 5, **low))
    cases["t1"] = Case(replace(unlabelled(cases["t1"]).data, fresh=Rows(np.empty(0))))
    return investigate(cases, "p0", truth={"t0": (0.0, 0.01)}, replicates=100)


def test_a_wrong_number_is_found_and_a_missing_one_is_not_invented(wrong):
    result, rows = words.anomaly_json(wrong), rows_of(wrong)
    assert (rows["t0"]["main_cause"], rows["t2"]["main_cause"]) == ("off_support", None)
    assert "0.000" in rows["t0"]["sentence"]
    assert rows["t0"]["sentence"] in result["paragraph"]
    lost = rows["t1"]
    assert (lost["trusted"], lost["anomaly"], lost["main_cause"]) == (None, None, None)
    assert [p["cause"] for p in lost["parts"]] == list(CAUSES)
    assert all(p["value"] is None and p["ci_low"] is None for p in lost["parts"])
    assert "draws from t1 itself" in lost["sentence"]
    assert words.frame(result).set_index("policy").anomaly["t1"] == "not testable"


def test_the_ranking_in_tables_and_sentences(wrong):
    ranks = words.rank_frame(wrong)
    assert ranks.published.is_monotonic_decreasing
    assert ranks.rank_first.sum() == pytest.approx(1)
    places = ranks.set_index("policy").trusted_rank
    assert (places["t0"], bool(pd.isna(places["t1"]))) == (3, True)
    assert set(wrong.inversions.above) == {"t0"}
    assert f"{len(wrong.inversions)} of the 3 pairs" in words.inversions_sentence(wrong)
    mass = words.mass_frame(wrong).set_index("policy").loc["t0"]
    assert (mass.off, mass.trusted) == (wrong.policies["t0"].mass["off"], wrong.policies["t0"].trusted["value"])
    assert "unseen responses would be worth" in words.mass_sentence(wrong)
    assert wrong.flip.rival in words.flip_sentence(wrong)


def test_no_anomaly_reads_as_such_and_names_play_no_part():
    cases = run(9)
    inv = investigate(cases, "p0", replicates=20)
    assert not inv.anomalies
    assert words.lead(inv)[0].startswith("No anomaly")
    assert "no order of two policies contradicts" in words.lead(inv)[0]
    renamed = investigate({{"t2": "pi_bad"}.get(p, p): c for p, c in cases.items()}, "p0", replicates=20)
    assert words.lead(renamed) == [text.replace("t2", "pi_bad") for text in words.lead(inv)]
    assert rows_of(inv) == rows_of(investigate(cases, "p0", replicates=20))


def test_what_nothing_checks_is_not_told_to_be_right():
    cases = {policy: unlabelled(case) for policy, case in run(9).items()}
    inv = investigate(cases, "p0", replicates=20)
    assert all(f.trusted is None for f in inv.policies.values())
    assert words.lead(inv)[0].startswith("No anomaly")
    assert "order" not in words.lead(inv)[0]
    assert "no order can be checked" in words.inversions_sentence(inv)
    alone = {p: Case(replace(c.data, fresh=Rows(np.empty(0)))) if p != "p0" else c for p, c in cases.items()}
    assert "cannot be told" in words.lead(investigate(alone, "p0", replicates=20))[0]


def test_log_weights_without_a_usable_row_do_not_break_the_run():
    cases = run(10)
    cases["t1"] = Case(changed(cases["t1"].data, log_weight=np.full(300, np.nan)))
    inv = investigate(cases, "p0", replicates=20)
    assert "no SNIPS value" in rows_of(inv)["t1"]["sentence"]
    assert sum(f.rank_first for p, f in inv.policies.items() if p != "t1") == pytest.approx(1)


def test_mismatch_finds_what_a_policy_prefers():
    """P0 and two targets: `short` says half as much and prefers short answers, `same` is P0."""
    rng, n = np.random.default_rng(3), 400
    chars, odd = rng.integers(20, 200, n).astype(float), np.arange(n) % 2
    logged = pd.DataFrame({
        "prompt_id": np.arange(n).astype(str), "category": np.where(odd, "odd", "even"),
        "response_chars": chars, "response_tokens": chars / 4, "judge_deterministic": rng.random(n),
        "logp_p0": -chars / 8, "logp_same": -chars / 8, "logp_short": -chars / 8 - chars / 10 + odd,
    })  # fmt: skip
    draws = [pd.DataFrame({"policy": p, "response_chars": c}) for p, c in (("same", chars), ("short", chars / 2))]
    table = SimpleNamespace(logged=logged, fresh=pd.concat(draws), logging_policy="p0", targets=["same", "short"])
    found = mismatch(table).set_index("policy")
    assert list(found.index) == ["p0", "same", "short"]
    assert found.length_distance["same"] == 0
    assert found.length_distance["short"] == pytest.approx(stats.ks_2samp(chars / 2, chars).statistic)
    assert (found.unit == "token").all()
    assert found.nats["p0"] == pytest.approx(-0.5)
    assert found.by_length["short"] == pytest.approx(-1, abs=0.05)
    assert found.category["short"] == "odd"
    assert np.isnan(found.by_length["same"])
    told = mismatch_sentence(mismatch(table), {"short": "model big", "same": "model big"})
    assert "short (model big) upweights shorter responses" in told
    assert "same (model big) upweights no kind" in told
    table.logged = logged.drop(columns=["response_tokens", "category"])
    assert (mismatch(table).unit == "character").all()


def test_a_stored_sentinel_that_was_quarantined_still_reaches_the_attribution(home):
    """Real records: P0's log-probs on ten rows are overwritten by -50.0 in a copy of the recording."""
    sample = Run("sample")
    short = sample.table().logged.nsmallest(10, "response_chars").prompt_id
    for prompt_id in short:
        sample.store._db.execute(
            "UPDATE records SET value = -50.0 WHERE job = ? AND policy = 'p0' AND prompt_id = ?",
            ("logprobs", prompt_id),
        )
    flags = screening.scan(sample.params, sample.store)
    assert {f.prompt_id for f in flags if f.policy == "p0"} == set(short)
    stored = sample.investigate(sample.table()).policies["pi_bad"]
    screening.quarantine(sample.store, flags)
    table = sample.table()
    quarantined = table.logged[table.logged.prompt_id.isin(short)]
    assert quarantined.logp_p0.isna().all()
    assert (quarantined.raw_logp_p0 == -50).all()
    assert table.logged.raw_logp_p0.notna().all()
    found = sample.investigate(table).policies["pi_bad"]
    # What was published does not change by finding out that it was wrong; what is known of it does.
    assert found.published.value == stored.published.value
    assert (stored.corrupted, stored.main_cause) != (found.corrupted, found.main_cause)
    assert (found.main_cause, found.estimate["verdict"]) == ("corrupted_logprobs", "REFUSE")
    assert found.corrupted_share > 0.99
    assert abs(found.parts.sum() - found.gap) < 1e-12


def test_the_public_sample_decomposes_into_off_support_mass(shared_data):
    cases = {policy: Case(public_sample(shared_data, policy)) for policy in POLICIES}
    logged = cases["clone"].data.logged
    cases["p0"] = Case(PolicyData(replace(logged, log_weight=np.zeros(len(logged))), logged, is_logging=True))
    rows = rows_of(investigate(cases, "p0", replicates=100))
    row = rows["unhelpful"]
    parts = {p["cause"]: p["value"] for p in row["parts"]}
    assert parts["corrupted_logprobs"] == parts["clipping"] == 0
    assert parts["off_support"] / row["gap"] > 0.8
    assert abs(sum(parts.values()) - row["gap"]) < 1e-12
    assert row["published"] == pytest.approx(0.844, abs=5e-4)
    assert (row["main_cause"], row["verdict"]) == ("off_support", "REFUSE")
    assert [p for p, r in rows.items() if r["main_cause"]] == ["unhelpful"]
