"""Coverage where the truth is known. V(target) is a quadrature or an exact sum; intervals must hold it."""

from __future__ import annotations

import numpy as np
import pytest

from arena10k.simulation.simulate import CLIP, Design, LogNormal, Resampled, draw, replicate

REPLICATES = 150
#: The lower 1 % point of the share of hits in REPLICATES trials of probability .94.
FLOOR = 0.893


@pytest.mark.parametrize("transports", [True, False])
@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_truth_is_the_mean_outcome_of_fresh_draws(sigma, transports):
    population = LogNormal(sigma, transports)
    _, outcome, _ = population.fresh(400_000, np.random.default_rng(0))
    assert population.truth() == pytest.approx(outcome.mean(), abs=4 * 0.5 / np.sqrt(400_000))


def test_weights_have_mean_one_and_carry_the_truth():
    rng = np.random.default_rng(0)
    for population in (LogNormal(1.0), LogNormal(1.0, False)):
        lw, _, outcome, _ = population.logged(400_000, rng)
        w = np.exp(lw)
        assert w.mean() == pytest.approx(1, abs=0.02)
        assert (w * outcome).mean() == pytest.approx(population.truth(), abs=0.02)


@pytest.mark.parametrize("transports", [True, False])
@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0, 5.0])
def test_composite_interval_covers_at_every_tail_weight(sigma, transports):
    snips, plain = replicate(
        LogNormal(sigma, transports), Design(), ["snips", "plain_snips"], REPLICATES, seed=int(sigma)
    )
    assert snips.coverage >= FLOOR
    assert plain.coverage < 0.9
    if sigma >= 3:
        assert snips.refused > 0.9


def test_light_tails_are_reported_with_an_interval_close_to_the_best():
    (snips,) = replicate(LogNormal(0.5), Design(label_share=1.0), ["snips"], REPLICATES)
    assert snips.reported > 0.8
    assert snips.width_reported < 1.3 * snips.best_width
    assert abs(snips.bias) < 0.2 * snips.best_width


def test_a_fooled_judge_biases_direct_and_is_caught_by_weights_or_labels():
    population = LogNormal(1.0, transports=False)
    direct, oracle = replicate(population, Design(), ["direct", "dr_oracle"], 60)
    assert direct.bias > 0.08
    assert direct.reported == 0
    assert direct.refused > 0.4
    assert abs(oracle.bias) < 0.02
    direct, ppi = replicate(LogNormal(3.0, transports=False), Design(target_labels=60), ["direct", "ppi_pp"], 60)
    assert direct.refused > 0.8
    assert ppi.reported > 0.9
    assert ppi.coverage > 0.86


def test_weights_that_are_a_function_of_the_score_do_not_hide_a_fooled_judge():
    """SIMCal-W cannot see what f(S) leaves out; its interval has to."""
    (calibrated,) = replicate(LogNormal(0.5, transports=False), Design(), ["calibrated_ips"], REPLICATES)
    assert abs(calibrated.bias) > 0.04
    assert calibrated.coverage >= FLOOR


def test_corrupted_log_probs_never_report():
    snips, ips = replicate(LogNormal(1.0), Design(corrupted=0.01), ["snips", "ips"], 60)
    assert snips.reported == 0
    assert ips.reported == 0
    assert snips.refused == 1


def test_corruption_puts_rows_at_the_clip():
    data = draw(LogNormal(1.0), Design(n=5000, corrupted=0.1), np.random.default_rng(0))
    assert (data.log_weight == CLIP).mean() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("transports", [True, False])
def test_weights_shaped_like_a_run(transports):
    rng = np.random.default_rng(1)
    lw = rng.normal(0, 1, 500) - 3
    score = np.round(np.clip(0.5 + 0.2 * lw + 0.6, 0, 1), 1)
    population = Resampled(lw, score, transports)
    big, _, outcome, _ = population.logged(200_000, rng)
    assert np.exp(big).mean() == pytest.approx(1, abs=0.03)
    assert (np.exp(big) * outcome).mean() == pytest.approx(population.truth(), abs=0.02)
    _, fresh, _ = population.fresh(200_000, rng)
    assert fresh.mean() == pytest.approx(population.truth(), abs=0.006)
    snips, ppi = replicate(population, Design(n=500, m=500, target_labels=60), ["snips", "ppi_pp"], 80)
    assert snips.coverage >= 0.86
    assert ppi.coverage >= 0.86


def test_direct_intervals_need_the_calibration_variance():
    """With 60 labels the calibration is most of the uncertainty; without it the interval would cover far less."""
    (direct,) = replicate(LogNormal(0.5), Design(label_share=0.06), ["direct"], REPLICATES)
    assert direct.coverage >= FLOOR


def test_replicates_are_reproducible():
    a, b = (replicate(LogNormal(1.0), Design(n=200, m=200), ["snips"], 5, seed=3) for _ in range(2))
    assert a == b
