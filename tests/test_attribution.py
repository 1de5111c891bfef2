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

from arena10k import attribution as at
from arena10k.attribution.detection import detect, published
from arena10k.attribution.game import STATES, game_values, gap_parts, make_game, normalised, point_parts
from arena10k.attribution.resample import bootstrap, calibration_shift, prompt_counts
from arena10k.attribution.weights import mass_identity, rank_first, rows_to_flip
from arena10k.audit import screening
from arena10k.estimation import ESTIMATORS, Rows, pareto, prepare
from arena10k.run import Run
from statistics_data import arrays, changed

POLICIES = ["clone", "parallel_universe_prompt", "unhelpful"]


def run(seed: int, n: int = 300, tilt=(0.3, -0.5, 0.8), labels: float = 0.4, target_labels: float = 0.2) -> dict:
    """A run with correct weights. A response is z ~ N(0, I) under P0 and z ~ N(tilt_k e_k, I) under target k; outcome
    and judge depend on z, so log w = tilt z_k - tilt^2 / 2 exactly and every true value is the mean over shifted
    draws."""
    rng = np.random.default_rng(seed)
    k = len(tilt)
    prompt = 0.5 * rng.standard_normal(n)

    def respond(shift: np.ndarray) -> tuple[np.ndarray, ...]:
        z = rng.standard_normal((n, k)) + shift
        y = (rng.random(n) < expit(0.4 + prompt + 0.6 * z.sum(axis=1))).astype(float)
        judge = np.clip(np.round(20 * (0.45 + 0.35 * y + 0.1 * rng.standard_normal(n))) / 20, 0, 1)
        return z, y, judge

    def some(y: np.ndarray, share: float) -> np.ndarray:
        return np.where(rng.random(n) < share, y, np.nan)

    z, y, judge = respond(np.zeros(k))
    label = some(y, labels)
    own = {"judge": judge, "label": label, "cluster": np.arange(n), "length": np.arange(n) + 5.0}
    fresh = {"fresh_judge": judge, "fresh_label": label, "fresh_cluster": np.arange(n)}
    out = {"p0": at.Case(arrays(log_weight=np.zeros(n), **own, **fresh, is_logging=True))}
    for j, t in enumerate(tilt):
        _, y_new, s_new = respond(t * np.eye(k)[j])
        fresh = {"fresh_judge": s_new, "fresh_label": some(y_new, target_labels), "fresh_cluster": np.arange(n)}
        out[f"t{j}"] = at.Case(arrays(log_weight=t * z[:, j] - t**2 / 2, **own, **fresh))
    return out


def corrupted(case: at.Case, seed: int, rows: int = 20, clip: float | None = 3.0) -> at.Case:
    rng = np.random.default_rng(seed)
    bad = np.zeros(len(case.data.logged), bool)
    bad[rng.choice(len(case.data.logged), rows, replace=False)] = True
    raw = np.where(bad, rng.normal(6, 3, len(case.data.logged)), case.data.logged.log_weight)
    return at.Case(changed(case.data, log_weight=np.where(bad, np.nan, raw)), raw, clip)


def game_of(case: at.Case, estimator: str = "ppi_pp"):
    prep = prepare(case.data)
    return make_game(case, prep, ESTIMATORS[estimator].score(prep))


def snips(log_weight: np.ndarray, reward: np.ndarray) -> float:
    w = np.exp(log_weight - log_weight.max())
    return float((w * reward).sum() / w.sum())


def point_values(game) -> np.ndarray:
    """The values (2, 5) of a game: the judge's and the oracle's scale, by states."""
    prep = game.prep
    ends = np.array([prep.fresh.judge.mean()]), np.array([game.trusted.value])
    return game_values(game, np.ones((1, len(prep.logged))), prep.reward, *ends)[0]


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
        parts = dict(zip(at.CAUSES, gap_parts(np.stack([judge, oracle]), cap), strict=True))
        assert abs(sum(parts.values()) - (judge[0] - oracle[-1])) < 1e-12
        lows, highs = -cap * (1 - np.array([judge[3], oracle[3]])), cap * np.array([judge[3], oracle[3]])
        assert lows.mean() - 1e-12 <= parts["off_support"] <= highs.mean() + 1e-12
        fall = judge[3] - judge[4]
        assert parts["weights_do_not_match_draws"] == pytest.approx(fall - np.clip(fall, lows[0], highs[0]))
    nothing = dict(zip(at.CAUSES, gap_parts(np.stack([judge, oracle]), 0.0), strict=True))
    assert nothing["off_support"] == 0
    assert nothing["judge_bias"] == pytest.approx(judge[4] - oracle[4])


@pytest.mark.parametrize("seed", range(4))
def test_values_of_states_match_a_naive_recomputation_and_parts_sum_to_the_gap(seed):
    case = corrupted(run(seed)["t2"], seed)
    game, data, prep = game_of(case), case.data, prepare(case.data)
    ends = point_values(game)
    assert abs(point_parts(game).sum() - (ends[0, 0] - ends[1, -1])) < 1e-12
    values = dict(zip(STATES, point_values(game).T, strict=True))
    clean = ~np.isnan(data.logged.log_weight)
    lw, judge, reward = data.logged.log_weight[clean], data.logged.judge[clean], prep.reward[clean]
    smooth = np.log(pareto.smooth(lw))
    published = np.clip(case.raw_log_weight, -3, 3)
    assert values["published"] == pytest.approx(
        [snips(published, data.logged.judge), snips(published, prep.reward)], abs=1e-13
    )
    assert values["S"] == pytest.approx([snips(np.clip(lw, -3, 3), r) for r in (judge, reward)], abs=1e-13)
    assert values["C"] == pytest.approx([snips(lw, r) for r in (judge, reward)], abs=1e-13)
    assert values["T"] == pytest.approx([snips(smooth, r) for r in (judge, reward)], abs=1e-13)
    assert values["M"] == pytest.approx([data.fresh.judge.mean(), game.trusted.value], abs=1e-13)


def test_a_repair_with_nothing_to_repair_contributes_exactly_zero():
    clean = run(1)["t1"]
    assert (point_parts(game_of(at.Case(clean.data, clip=50.0)))[:2] == 0.0).all()
    drawn = bootstrap(game_of(clean), prompt_counts(len(clean.data.logged), 20, 0))
    assert (drawn.parts[:, :2] == 0.0).all()


def shifted(seed: int, tilt: float, n: int = 500, overrated: float = 0.0, unseen: float = 0.0) -> dict:
    """P0 and one target, log w = tilt z - tilt^2 / 2 + log(1 - unseen). `unseen` is the share of the target's responses
    that P0 never gives, all wrong; the judge adds `overrated` to wrong responses of z > -1, whoever gave them."""
    rng = np.random.default_rng(seed)

    def respond(shift: float, new: np.ndarray) -> tuple[np.ndarray, ...]:
        z = rng.standard_normal(n) + shift
        y = ((rng.random(n) < expit(1.2 * z - 0.4)) & ~new).astype(float)
        judge = 0.1 + 0.8 * y + overrated * (z > -1) * (1 - y) + 0.05 * rng.standard_normal(n)
        return z, y, np.clip(np.round(20 * judge) / 20, 0, 1)

    def some(y: np.ndarray) -> np.ndarray:
        return np.where(rng.random(n) < 0.4, y, np.nan)

    z, y, judge = respond(0.0, np.zeros(n, bool))
    own = {"judge": judge, "label": some(y), "cluster": np.arange(n)}
    fresh = {"fresh_judge": judge, "fresh_label": own["label"], "fresh_cluster": np.arange(n)}
    out = {"p0": at.Case(arrays(log_weight=np.zeros(n), **own, **fresh, is_logging=True))}
    _, y_new, s_new = respond(tilt, rng.random(n) < unseen)
    fresh = {"fresh_judge": s_new, "fresh_label": some(y_new), "fresh_cluster": np.arange(n)}
    lw = tilt * z - tilt**2 / 2 + np.log1p(-unseen)
    return out | {"t": at.Case(arrays(log_weight=lw, **own, **fresh))}


def clipped(seed: int) -> dict:
    cases = shifted(seed, 1.5)
    return cases | {"t": replace(cases["t"], clip=0.3)}


def permuted(seed: int) -> dict:
    """Weights of another policy than the one that was drawn from: the same numbers, dealt to other rows."""
    cases = shifted(seed, 1.0)
    data = cases["t"].data
    lw = np.random.default_rng(seed).permutation(data.logged.log_weight)
    return cases | {"t": at.Case(changed(data, log_weight=lw))}


@pytest.mark.parametrize(
    ("make", "mismatch", "cause"),
    [
        (clipped, False, "clipping"),
        (permuted, True, "weights_do_not_match_draws"),
        (lambda seed: shifted(seed, 0.5, overrated=0.8), False, "judge_bias"),
        (lambda seed: shifted(seed, 0.3, unseen=0.6), False, "off_support"),
    ],
)
def test_the_cause_that_was_put_in_is_the_one_that_is_named(make, mismatch, cause):
    causes = []
    for seed in range(12):
        finding = at.investigate(make(seed), "p0", replicates=100, mismatch={"t": mismatch}).findings["t"]
        causes.append(finding.main_cause)
        assert abs(finding.parts.sum() - finding.gap) < 1e-12
    assert causes.count(cause) >= 11


def test_a_part_and_the_sentence_of_the_mass_do_not_contradict_each_other():
    """Where no mass is missing, none of the gap is put down to it, whatever else is wrong."""
    for seed in range(4):
        inv = at.investigate(clipped(seed), "p0", replicates=20)
        part = inv.focus.parts[at.CAUSES.index("off_support")]
        assert ("no mass is missing" in at.mass_sentence(inv)) == (inv.focus.mass.covered >= 1)
        if inv.focus.mass.covered >= 1:
            assert part == 0
        else:
            assert f"{part:.2f} is put down to them" in at.mass_sentence(inv)
    flagged = at.investigate(permuted(0), "p0", replicates=20, mismatch={"t": True})
    assert flagged.focus.parts[at.CAUSES.index("off_support")] == 0
    assert "say nothing of its missing mass" in at.mass_sentence(flagged)


def test_weights_that_no_test_calls_wrong_are_not_called_wrong():
    causes = [
        at.investigate(permuted(seed), "p0", replicates=50, mismatch={"t": False}).findings["t"].main_cause
        for seed in range(8)
    ]
    assert "weights_do_not_match_draws" not in causes
    assert causes.count("off_support") <= 1


def test_a_gap_to_the_trusted_value_is_an_anomaly_where_the_judge_agrees_with_itself():
    """The judge overrates the target in the log and in its own draws alike: SNIPS and the mean score of the draws
    agree, and both are far from the labels."""
    found = at.investigate(shifted(0, 0.5, overrated=0.8), "p0", replicates=50).findings["t"]
    data = found.game.prep
    assert abs(found.published.value - data.fresh.judge.mean()) < 0.05
    assert found.gap > 0.15
    assert (found.anomaly, found.main_cause) == (True, "judge_bias")


@pytest.fixture(scope="module")
def recorded() -> SimpleNamespace:
    """The committed recording, its table and its investigation."""
    run = Run("sample")
    table = run.table()
    return SimpleNamespace(run=run, table=table, inv=run.investigate(table))


def test_no_anomaly_is_not_said_beside_a_gap_that_counts(recorded):
    inv = recorded.inv
    found = inv.findings["pi_terse"]
    assert found.anomaly is False
    assert found.gap > at.detection.TOLERANCE
    assert found.unsettled
    shown = at.frame(at.anomaly_json(inv)).set_index("policy").anomaly
    assert shown["pi_clone"] == "no"
    assert shown["pi_terse"] != "no"


def test_pi_bad_of_the_recording_is_explained_and_its_measured_value_is_held(recorded):
    inv = recorded.inv
    found = inv.findings["pi_bad"]
    assert [f.policy for f in inv.anomalies] == ["pi_bad"]
    assert (found.rank, found.main_cause, found.estimate["verdict"]) == (1, "off_support", "REFUSE")
    assert found.parts[0] == found.parts[1] == 0
    assert abs(found.parts.sum() - found.gap) < 1e-12
    assert found.trusted["ci_low"] <= inv.truth["pi_bad"][0] <= found.trusted["ci_high"]
    parts = at.parts_frame(rows_of(at.anomaly_json(inv))["pi_bad"])
    np.testing.assert_array_equal(parts.value, found.parts)


def test_each_snips_has_its_own_value_and_the_verdict_is_that_of_the_calibrated_one(recorded):
    table, inv = recorded.table, recorded.inv
    every = recorded.run.estimates(table)["rows"]
    rows = {r["policy"]: r for r in every if (r["estimator"], r["judge"]) == ("snips", inv.judge_mode)}
    for policy, row in rows_of(at.anomaly_json(inv)).items():
        assert (row["calibrated"], row["verdict"]) == (rows[policy]["value"], rows[policy]["verdict"])
        lw = {**table.log_weights(), "p0": np.zeros(len(table.logged))}[policy]
        judge = table.logged[f"judge_{inv.judge_mode}"].to_numpy(float)
        assert row["published"] == pytest.approx(snips(lw[~np.isnan(judge)], judge[~np.isnan(judge)]))


def rows_of(result: dict) -> dict:
    return {r["policy"]: r for r in result["policies"]}


def test_off_support_mass_takes_the_whole_error_where_nothing_else_is_wrong():
    data = run(2, n=2000)["t0"].data
    low = {"fresh_judge": np.full(2000, 0.1), "fresh_label": np.full(2000, np.nan)}
    far = changed(data, log_weight=data.logged.log_weight - 9, **low)
    game = game_of(at.Case(far), "naive")
    parts = dict(zip(at.CAUSES, point_parts(game), strict=True))
    assert parts["off_support"] / sum(parts.values()) > 0.9


def test_mass_identity():
    case = run(0)["t2"]
    lw, reward = case.data.logged.log_weight - 1.5, prepare(case.data).reward
    mass = mass_identity(np.exp(lw).mean(), snips(lw, reward), 0.2)
    assert abs((snips(lw, reward) - 0.2) - (1 - mass.covered) * (mass.on - mass.off)) < 1e-12
    assert (mass.low, mass.high) == (mass.covered * mass.on, mass.covered * mass.on + 1 - mass.covered)
    assert np.isnan(mass_identity(1.2, 0.5, 0.2).off)


def test_resampled_values_equal_those_of_the_resampled_rows():
    case = corrupted(run(4)["t1"], 4)
    game = game_of(case, "direct")
    counts = prompt_counts(game.prep.n_clusters, 3, 7)
    drawn = bootstrap(game, counts)
    for times, published_value, parts in zip(counts, drawn.published, drawn.parts, strict=True):
        rows = np.repeat(np.arange(len(case.data.logged)), times.astype(int))
        d = case.data
        same = prepare(replace(d, logged=d.logged.take(rows), fresh=d.fresh.take(rows)))
        assert published_value == pytest.approx(
            snips(np.clip(case.raw_log_weight, -3, 3)[rows], d.logged.judge[rows]), abs=1e-12
        )
        assert parts.sum() == pytest.approx(published_value - same.fresh_reward.mean(), abs=1e-12)
    assert np.abs(calibration_shift(game.prep, np.ones((1, game.prep.n_clusters)))).max() < 1e-12


def test_bootstrap_spread_is_the_jackknife_standard_error_where_both_hold():
    case = run(5, n=1500)["t0"]
    drawn = bootstrap(game_of(case), prompt_counts(len(case.data.logged), 800, 0))
    pub = published(game_of(case))
    assert drawn.published.std() == pytest.approx(np.sqrt(pub.deviation @ pub.deviation), rel=0.12)


def test_weights_hundreds_of_nats_apart_survive_resampling():
    lw = np.array([0.0, -900.0, -901.0, -np.inf])
    counts = np.array([[1.0, 1, 1, 1], [0, 2, 1, 1], [0, 0, 0, 4]])
    w = normalised(counts, lw)
    assert w[0, 0] == 1
    assert np.allclose(w[1], np.array([0, 2, np.exp(-1), 0]) / (2 + np.exp(-1)))
    assert np.isnan(w[2]).all()


def test_rank_first_probabilities_share_ties():
    values = np.array([[0.5, 0.5, 0.1], [0.2, 0.2, 0.9], [np.nan, 1, 1]])
    assert np.allclose(rank_first(values), [0.25, 0.25, 0.5])


@pytest.mark.parametrize("seed", range(6))
def test_rows_to_flip_changes_the_winner_and_one_row_is_the_smallest(seed):
    cases = run(seed, n=60)
    weights = {p: c.data.logged.log_weight for p, c in cases.items()}
    judge = cases["p0"].data.logged.judge
    flip = rows_to_flip(weights, judge)
    kept = np.setdiff1d(np.arange(60), flip.rows)
    after = {p: snips(lw[kept], judge[kept]) for p, lw in weights.items()}
    assert after[flip.rival] > after[flip.winner]

    def winner(rows):
        values = {p: snips(lw[rows], judge[rows]) for p, lw in weights.items()}
        return max(values, key=values.get)

    assert flip.winner == winner(np.arange(60))
    single = any(winner(np.delete(np.arange(60), i)) != flip.winner for i in range(60))
    assert flip.exact == single


def test_shrinkage_runs_from_the_raw_weights_to_equal_ones():
    case = run(6)["t2"]
    paths = at.shrinkage_paths(case.data.logged.log_weight, case.data.logged.judge)
    for method in ("clip", "power"):
        path = paths[paths.method == method]
        rows = case.data.logged
        assert path.value.iloc[0] == pytest.approx(snips(rows.log_weight, rows.judge), abs=1e-12)
        assert path.value.iloc[-1] == pytest.approx(rows.judge.mean(), abs=1e-12)
        assert (path.ess_share.diff().dropna() > -1e-12).all()
    assert paths[paths.method == "dros"].value.iloc[0] == pytest.approx(
        snips(case.data.logged.log_weight, case.data.logged.judge), abs=0.01
    )


def test_strata_and_heavy_rows_account_for_all_the_weight():
    case = run(7)["t2"]
    strata = at.length_strata(case.data.logged.log_weight, case.data.logged.length)
    assert strata.weight_share.sum() == pytest.approx(1)
    assert strata.rows.sum() == len(case.data.logged)
    w = np.exp(case.data.logged.log_weight)
    first = case.data.logged.length <= strata.high[0]
    assert strata.weight_share[0] == pytest.approx(w[first].sum() / w.sum())
    frame = pd.DataFrame({"prompt_id": [f"q{i}" for i in range(len(case.data.logged))], "response": "<b>"})
    heavy = at.heavy_rows(frame, case.data.logged.log_weight, case.data.logged.judge, top=len(case.data.logged))
    assert heavy.cumulative.iloc[-1] == pytest.approx(1)
    assert heavy.prompt_id[0] == f"q{w.argmax()}"


def test_ceiling_count_is_the_effective_sample_size_when_clipped_rows_hold_the_weight():
    lw = np.concatenate([np.full(8, 20.0), np.random.default_rng(0).normal(-3, 2, 500)])
    row = at.ceiling_audit({"a": lw}).iloc[0]
    assert row.tied == 8
    assert row.ceiling == pytest.approx(8, abs=1e-4)
    assert row.ess == pytest.approx(8, abs=1e-3)
    assert row.clip_dominated


def test_false_alarms_on_clean_runs_stay_below_the_stated_rate():
    runs = 200
    alarms = 0
    for seed in range(runs):
        games = {p: game_of(c) for p, c in run(seed).items()}
        found = detect(games, {p: published(g) for p, g in games.items()}, "p0")
        alarms += any(found.anomaly.values())
    assert alarms <= stats.binom.ppf(0.99, runs, 0.05)


def overrated(seed: int) -> dict:
    """A run of which t0 gets a far too high number: nearly all that it says is unseen, and worth nothing."""
    cases = run(seed)
    data = cases["t0"].data
    low = {"fresh_judge": np.round(data.fresh.judge * 6) / 20, "fresh_label": 0 * data.fresh.label}
    return cases | {"t0": at.Case(changed(data, log_weight=data.logged.log_weight - 5, **low))}


def test_a_wrong_number_is_found_and_a_missing_one_is_not_invented():
    cases = overrated(8)
    data = cases["t0"].data
    unlabelled = changed(cases["t1"].data, label=np.full(len(data.logged), np.nan))
    cases["t1"] = at.Case(replace(unlabelled, fresh=Rows(np.empty(0))))
    inv = at.investigate(cases, "p0", truth={"t0": (0.0, 0.01)}, replicates=100)
    result = at.anomaly_json(inv)
    rows = rows_of(result)
    json.dumps(result, allow_nan=False)
    assert rows["t0"]["main_cause"] == "off_support"
    assert "0.000" in rows["t0"]["sentence"]
    assert rows["t0"]["sentence"] in result["paragraph"]
    assert rows["t2"]["main_cause"] is None
    lost = rows["t1"]
    assert lost["trusted"] is None
    assert lost["anomaly"] is None
    assert lost["main_cause"] is None
    assert [p["cause"] for p in lost["parts"]] == list(at.CAUSES)
    assert all(p["value"] is None and p["ci_low"] is None for p in lost["parts"])
    assert "draws from t1 itself" in lost["sentence"]
    assert at.frame(result).set_index("policy").anomaly["t1"] == "not testable"


def test_no_anomaly_reads_as_such_and_names_play_no_part():
    cases = run(9)
    inv = at.investigate(cases, "p0", replicates=50)
    assert not inv.anomalies
    assert at.lead(inv)[0].startswith("No anomaly")
    assert "no order of two policies contradicts" in at.lead(inv)[0]
    renamed = at.investigate({{"t2": "pi_bad"}.get(p, p): c for p, c in cases.items()}, "p0", replicates=50)
    assert at.lead(renamed) == [text.replace("t2", "pi_bad") for text in at.lead(inv)]
    assert at.anomaly_json(inv) == at.anomaly_json(at.investigate(cases, "p0", replicates=50))


def test_an_order_that_nothing_checks_is_not_told_to_be_right():
    cases = {
        policy: at.Case(changed(case.data, label=np.full(len(case.data.logged.label), np.nan),
                                fresh_label=np.full(len(case.data.fresh.label), np.nan)))
        for policy, case in run(9).items()
    }  # fmt: skip
    inv = at.investigate(cases, "p0", replicates=20)
    assert all(f.trusted is None for f in inv.findings.values())
    assert at.lead(inv)[0].startswith("No anomaly")
    assert "order" not in at.lead(inv)[0]


def test_log_weights_without_a_usable_row_do_not_break_the_run():
    cases = run(10)
    cases["t1"] = at.Case(changed(cases["t1"].data, log_weight=np.full(300, np.nan)))
    inv = at.investigate(cases, "p0", replicates=20)
    assert "no SNIPS value" in rows_of(at.anomaly_json(inv))["t1"]["sentence"]
    json.dumps(at.anomaly_json(inv), allow_nan=False)
    assert sum(f.rank_first for p, f in inv.findings.items() if p != "t1") == pytest.approx(1)


@pytest.fixture(scope="module")
def sample(shared_data) -> SimpleNamespace:
    """The public sample as an analysis table."""
    folder = shared_data / "arena_sample"
    lines = [json.loads(line) for line in (folder / "logged_data.jsonl").read_text().splitlines()]
    logged = pd.DataFrame({
        "prompt_id": [r["metadata"]["prompt_id"] for r in lines],
        "response_chars": [len(r["response"]) for r in lines],
        "logp_p0": [r["base_policy_logprob"] for r in lines],
        **{f"logp_{p}": [r["target_policy_logprobs"][p] for r in lines] for p in POLICIES},
        "judge_deterministic": [r["judge_score"] for r in lines],
        "label": [r.get("oracle_label", np.nan) for r in lines],
    })  # fmt: skip
    draws = []
    for policy in POLICIES:
        text = (folder / "fresh_draws" / f"{policy}_responses.jsonl").read_text()
        rows = pd.DataFrame([json.loads(line) for line in text.splitlines()])
        draws.append(rows.assign(policy=policy).rename(columns={"judge_score": "judge_deterministic"}))
    fresh = pd.concat(draws, ignore_index=True).assign(response_chars=lambda f: f.response.str.len(), label=np.nan)
    truth = pd.DataFrame(columns=["policy", "value", "se"])
    return SimpleNamespace(logged=logged, fresh=fresh, truth=truth, logging_policy="p0", targets=POLICIES)


def talking(n: int = 400) -> SimpleNamespace:
    """P0 and two targets: `short` says half as much and prefers short answers, `same` is P0."""
    rng = np.random.default_rng(3)
    chars = rng.integers(20, 200, n).astype(float)
    logged = pd.DataFrame({
        "prompt_id": np.arange(n).astype(str), "category": np.where(np.arange(n) % 2, "odd", "even"),
        "response_chars": chars, "response_tokens": chars / 4, "judge_deterministic": rng.random(n),
        "logp_p0": -chars / 8, "logp_same": -chars / 8, "logp_short": -chars / 8 - chars / 10 + np.arange(n) % 2,
    })  # fmt: skip
    draws = [pd.DataFrame({"policy": p, "response_chars": c}) for p, c in (("same", chars), ("short", chars / 2))]
    return SimpleNamespace(logged=logged, fresh=pd.concat(draws), logging_policy="p0", targets=["same", "short"])


def test_mismatch_finds_what_a_policy_prefers():
    table = talking()
    found = at.mismatch(table).set_index("policy")
    assert list(found.index) == ["p0", "same", "short"]
    assert found.length_distance["same"] == 0
    chars = table.logged.response_chars
    assert found.length_distance["short"] == pytest.approx(stats.ks_2samp(chars / 2, chars).statistic)
    assert (found.unit == "token").all()
    assert found.nats["p0"] == pytest.approx(-0.5)
    assert found.by_length["short"] == pytest.approx(-1, abs=0.05)
    assert found.category["short"] == "odd"
    assert np.isnan(found.by_length["same"])
    told = at.mismatch_sentence(at.mismatch(table), {"short": "model big", "same": "model big"})
    assert "short (model big) upweights shorter responses" in told
    assert "same (model big) upweights no kind" in told
    bare = table.logged.drop(columns=["response_tokens", "category"])
    assert (at.mismatch(SimpleNamespace(**{**vars(table), "logged": bare})).unit == "character").all()


def test_the_ranking_in_tables_and_sentences():
    cases = overrated(8)
    inv = at.investigate(cases, "p0", replicates=100)
    ranks = at.rank_frame(inv)
    assert ranks.published.is_monotonic_decreasing
    assert ranks.rank_first.sum() == pytest.approx(1)
    assert ranks.set_index("policy").trusted_rank["t0"] == len(cases)
    pairs = at.inversions_frame(inv)
    assert set(pairs.above) == {"t0"}
    assert f"{len(pairs)} of the 6 pairs" in at.inversions_sentence(inv)
    mass = at.mass_frame(inv).set_index("policy").loc["t0"]
    assert mass.covered * mass.on + (1 - mass.covered) * mass.off == pytest.approx(mass.trusted, abs=1e-12)
    assert (mass.low, mass.high) == (mass.covered * mass.on, mass.covered * mass.on + 1 - mass.covered)
    assert "unseen responses would be worth" in at.mass_sentence(inv)
    assert inv.flip.rival in at.flip_sentence(inv)


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
    stored = sample.investigate(sample.table()).findings["pi_bad"]
    screening.quarantine(sample.store, flags)
    table = sample.table()
    quarantined = table.logged[table.logged.prompt_id.isin(short)]
    assert quarantined.logp_p0.isna().all()
    assert (quarantined.raw_logp_p0 == -50).all()
    assert table.logged.raw_logp_p0.notna().all()
    found = sample.investigate(table).findings["pi_bad"]
    # What was published does not change by finding out that it was wrong; what is known of it does.
    assert found.published.value == stored.published.value
    assert (stored.corrupted, stored.main_cause) != (found.corrupted, found.main_cause)
    assert found.main_cause == "corrupted_logprobs"
    assert found.corrupted_share > 0.99
    assert found.estimate["verdict"] == "REFUSE"
    assert abs(found.parts.sum() - found.gap) < 1e-12


def test_the_public_sample_decomposes_into_off_support_mass(sample):
    rows = rows_of(at.anomaly_json(at.investigate_table(sample)))
    row = rows["unhelpful"]
    parts = {p["cause"]: p["value"] for p in row["parts"]}
    assert parts["corrupted_logprobs"] == 0
    assert parts["clipping"] == 0
    assert parts["off_support"] / row["gap"] > 0.8
    assert max(parts, key=lambda c: abs(parts[c])) == "off_support"
    assert abs(sum(parts.values()) - row["gap"]) < 1e-12
    assert row["published"] == pytest.approx(0.844, abs=5e-4)
    assert (row["main_cause"], row["verdict"]) == ("off_support", "REFUSE")
    assert [p for p, r in rows.items() if r["main_cause"]] == ["unhelpful"]


@pytest.mark.parametrize("sentinel", [0.0, -50.0])
@pytest.mark.parametrize("same_rows", [True, False])
@pytest.mark.parametrize("clip", [None, 20.0])
def test_sentinels_that_carry_the_weight_are_the_main_cause(sample, sentinel, same_rows, clip):
    rng = np.random.default_rng(1)
    n = len(sample.logged)
    shared = rng.choice(n, 80, replace=False)
    raw, clean = sample.logged.copy(), sample.logged.copy()
    for policy in POLICIES:
        rows = shared if same_rows else rng.choice(n, 80, replace=False)
        raw.loc[rows, f"logp_{policy}"] = sentinel
        clean.loc[rows, f"logp_{policy}"] = np.nan
    table = SimpleNamespace(**{**vars(sample), "logged": clean})
    result = rows_of(at.anomaly_json(at.investigate_table(table, raw_logp=raw, clip=clip, replicates=100)))
    row = result["unhelpful"]
    assert row["corrupted_weight_share"] > 0.9
    assert row["main_cause"] == "corrupted_logprobs"
    assert row["verdict"] == "REFUSE"
    assert abs(sum(p["value"] for p in row["parts"]) - row["gap"]) < 1e-12
    if same_rows and clip is None:
        assert np.ptp([result[p]["published"] for p in POLICIES]) < 1e-9
