"""Small data sets for the tests of the statistics, and the public sample as arrays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from arena10k.estimation import PolicyData, Rows, prompt_fold
from arena10k.estimation.calibration import CALIBRATIONS


def _apart(columns) -> tuple[dict, dict]:
    fresh = {name.removeprefix("fresh_"): v for name, v in columns.items() if name.startswith("fresh_")}
    return {name: v for name, v in columns.items() if not name.startswith("fresh_")}, fresh


def arrays(is_logging=False, **columns) -> PolicyData:
    """One policy of flat columns: those of the target's own draws begin with `fresh_`."""
    logged, fresh = _apart(columns)
    return PolicyData(Rows(**logged), Rows(**({"judge": np.empty(0)} | fresh)), is_logging)


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
    fields = {
        "log_weight": sigma * z - sigma**2 / 2,
        "judge": judge,
        "label": np.where(rng.random(n) < labelled, label, np.nan),
        "cluster": np.arange(n),
        "fold": rng.integers(0, 5, n),
        "length": rng.integers(1, 900, n).astype(float),
        "fresh_judge": fresh,
        "fresh_label": np.where(np.arange(n) < target_labels, fresh_label, np.nan),
        "fresh_cluster": np.arange(n),
        "fresh_length": rng.integers(1, 900, n).astype(float),
    }
    fields["fresh_fold"] = fields["fold"]
    return arrays(**(fields | changes))


def two_stage_folds(monkeypatch) -> list[int]:
    """Fills with the number of folds of every two-stage calibration that is made; an isotonic one cannot be."""
    real, seen = CALIBRATIONS["two_stage"], []

    def spy(samples, source):
        seen.append(1 + max(int(rows.fold.max()) for rows in samples.values()))
        return real(samples, source)

    monkeypatch.setitem(CALIBRATIONS, "two_stage", spy)
    monkeypatch.setitem(CALIBRATIONS, "isotonic", None)
    return seen


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def public_sample(data: Path, policy: str, probes: bool = False) -> PolicyData:
    """The public sample: one policy, judge scores as they are; `probes` adds the oracle labels of its probe slice."""
    folder = data / "arena_sample"
    logged, fresh = _rows(folder / "logged_data.jsonl"), _rows(folder / "fresh_draws" / f"{policy}_responses.jsonl")
    code = {row["metadata"]["prompt_id"]: i for i, row in enumerate(logged)}
    fold = np.array([prompt_fold(prompt_id) for prompt_id in code])
    own = np.array([code[row["prompt_id"]] for row in fresh])
    labels = {}
    if probes:
        labels = {r["prompt_id"]: r["oracle_label"] for r in _rows(folder / "probe_slice" / f"{policy}_probe.jsonl")}
    target = np.array([row["target_policy_logprobs"][policy] for row in logged])
    oracle = [row.get("oracle_label") for row in logged]
    return arrays(
        log_weight=target - np.array([row["base_policy_logprob"] for row in logged]),
        judge=np.array([row["judge_score"] for row in logged]),
        label=np.array([np.nan if y is None else y for y in oracle]),
        cluster=np.arange(len(logged)),
        fold=fold,
        length=np.array([len(row["response"]) for row in logged], dtype=float),
        logp_target=target,
        fresh_judge=np.array([row["judge_score"] for row in fresh]),
        fresh_label=np.array([labels.get(row["prompt_id"], np.nan) for row in fresh]),
        fresh_cluster=own,
        fresh_fold=fold[own],
        fresh_length=np.array([len(row["response"]) for row in fresh], dtype=float),
    )
