"""Small data sets for the tests of the statistics, and the public sample as arrays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

from arena10k.estimation import PolicyData, Rows, prompt_fold
from arena10k.estimation.calibration import CALIBRATIONS


def _apart(columns) -> tuple[dict, dict]:
    fresh = {name.removeprefix("fresh_"): v for name, v in columns.items() if name.startswith("fresh_")}
    return {name: v for name, v in columns.items() if not name.startswith("fresh_")}, fresh


def arrays(is_logging=False, complete=False, **columns) -> PolicyData:
    """One policy of flat columns: those of the target's own draws begin with `fresh_`."""
    logged, fresh = _apart(columns)
    return PolicyData(Rows(**logged), Rows(**({"judge": np.empty(0)} | fresh)), is_logging, complete)


def changed(data: PolicyData, is_logging=False, **columns) -> PolicyData:
    """The same policy with other columns."""
    logged, fresh = _apart(columns)
    return PolicyData(replace(data.logged, **logged), replace(data.fresh, **fresh), is_logging)


def example(n=400, seed=0, sigma=0.7, target_labels=60, labelled=0.5, **changes) -> PolicyData:
    """Log-normal weights that depend on the score, graded labels, fresh draws on the same prompts; every field
    varied."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal(n)
    judge = np.round(np.clip(0.5 + 0.2 * z + 0.1 * rng.standard_normal(n), 0, 1) * 10) / 10
    label = np.clip(0.7 * judge + 0.15 * rng.standard_normal(n) + 0.1, 0, 1)
    fresh = np.round(np.clip(0.6 + 0.25 * rng.standard_normal(n), 0, 1) * 10) / 10
    fresh_label = np.clip(0.6 * fresh + 0.15 * rng.standard_normal(n) + 0.15, 0, 1)
    fields = {"log_weight": sigma * z - sigma**2 / 2, "judge": judge}
    fields["label"] = np.where(rng.random(n) < labelled, label, np.nan)
    fields["fold"] = fields["fresh_fold"] = rng.integers(0, 5, n)
    fields["length"] = rng.integers(1, 900, n)
    fields |= {"fresh_judge": fresh, "fresh_label": np.where(np.arange(n) < target_labels, fresh_label, np.nan)}
    fields["fresh_length"] = rng.integers(1, 900, n)
    return arrays(**(fields | changes))


def coin(rng, chance):
    return (rng.random(np.shape(chance)) < chance).astype(float)


def labels(rng, y, k, chance=None):
    """`y` on `k` rows, NaN elsewhere; each row by its own `chance` where that is given."""
    has = rng.permutation(len(y)) < k if chance is None else rng.random(len(y)) < chance
    return np.where(has, y, np.nan)


def frames(judge, label, log_weight=None, fresh_judge=None, fresh_label=None):
    """The two frames of a target `t`; no fresh one where `fresh_judge` is None."""
    logged = pd.DataFrame({"prompt_id": np.arange(len(judge)), "judge": judge, "label": label})
    if log_weight is not None:
        logged["log_weight_t"] = log_weight
    if fresh_judge is None:
        return logged, None
    draws = {"policy": "t", "prompt_id": np.arange(len(fresh_judge)), "judge": fresh_judge, "label": fresh_label}
    return logged, pd.DataFrame(draws)


def population(rng, n=600, mu=0.4, liking=0.0, off=0.0, k0=200, kt=0, chance=None, wrong=False):
    """Two frames and the target's value. Under P0 a response has a quality q and a style z, independent N(0, 1); the
    target's style is N(mu, 1), so that log w = mu z - mu^2 / 2, and Y ~ Bernoulli(expit(q)). With a chance `off` the
    target says what P0 never says, judged .9 and worth nothing. The judge scores expit(q + liking z + noise)."""

    def side(shift):
        q, z = rng.standard_normal(n), shift + rng.standard_normal(n)
        return z, expit(q + liking * z + 0.5 * rng.standard_normal(n)), coin(rng, expit(q))

    (z, s, y), (_, sf, yf) = side(0.0), side(mu)
    unlike = rng.random(n) < off
    sf, yf = np.where(unlike, 0.9, sf), np.where(unlike, 0.0, yf)
    lw = mu * z - mu**2 / 2 + np.log1p(-off)
    lw = rng.permutation(lw) + 0.15 if wrong else lw
    by_score = None if chance is None else chance(sf)
    return frames(s, labels(rng, y, k0), lw, sf, labels(rng, yf, kt, by_score)), 0.5 * (1 - off)


def two_stage_folds(monkeypatch) -> list[int]:
    """Fills with the number of folds of every two-stage calibration that is made; an isotonic one cannot be."""
    real, seen = CALIBRATIONS["two_stage"], []

    def spy(samples, source):
        seen.append(1 + max(int(rows.fold.max()) for rows in samples.values()))
        return real(samples, source)

    monkeypatch.setitem(CALIBRATIONS, "two_stage", spy)
    monkeypatch.setitem(CALIBRATIONS, "isotonic", None)
    return seen


def public_sample(data: Path, policy: str, probes: bool = False) -> PolicyData:
    """The public sample: one policy, judge scores as they are; `probes` adds the oracle labels of its probe slice."""

    def read(path):
        return pd.DataFrame(map(json.loads, (data / "arena_sample" / path).read_text(encoding="utf-8").splitlines()))

    logged, fresh = read("logged_data.jsonl"), read(f"fresh_draws/{policy}_responses.jsonl")
    code = {row["prompt_id"]: i for i, row in enumerate(logged.metadata)}
    fold, own = np.array([prompt_fold(prompt_id) for prompt_id in code]), fresh.prompt_id.map(code).to_numpy()
    labelled = read(f"probe_slice/{policy}_probe.jsonl").set_index("prompt_id").oracle_label if probes else {}
    target = logged.target_policy_logprobs.str[policy].to_numpy(float)
    return arrays(
        log_weight=target - logged.base_policy_logprob.to_numpy(),
        judge=logged.judge_score,
        label=logged.oracle_label,
        fold=fold,
        length=logged.response.str.len(),
        logp_target=target,
        fresh_judge=fresh.judge_score,
        fresh_label=fresh.prompt_id.map(labelled),
        fresh_cluster=own,
        fresh_fold=fold[own],
        fresh_length=fresh.response.str.len(),
    )
