"""Speed of the statistics on one core: the whole set at 10k, 100k and 1M rows, and two published algorithms.

    python benchmarks/estimators.py [--sizes 10000 100000 1000000] [--cje-python PATH]

`--cje-python` is the interpreter of a throw-away environment that holds cje-eval 0.3.0; without it the comparison with
its dr-cpo is null. The obp bootstrap is written out here as obp does it. The last line is one JSON object.
"""

from __future__ import annotations

# ruff: noqa: E402 - one core means setting thread counts before numpy is imported
import argparse
import dataclasses
import json
import os
import resource
import subprocess
import tempfile
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np

from arena10k.estimation import ESTIMATORS, PolicyData, Prepared, Rows, prepare
from arena10k.estimation.evaluation import study
from arena10k.estimation.intervals import Interval, score_interval

POLICIES = 4
CJE = """
import json, sys, time
from cje import analyze_dataset
start = time.process_time()
result = analyze_dataset(logged_data_path=sys.argv[1], fresh_draws_dir=sys.argv[2], estimator="dr-cpo", verbose=False)
seconds = time.process_time() - start
print(json.dumps({"seconds": seconds, "values": [float(v) for v in result.estimates]}))
"""


def make(n: int, seed: int) -> PolicyData:
    """Rows like the public sample's: 21 score levels, half labelled, log-normal weights, 50 labelled target draws."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal(n)
    judge = np.round(np.clip(0.7 + 0.15 * rng.standard_normal(n) + 0.05 * z, 0, 1) * 20) / 20
    label = np.clip(judge - 0.05 + 0.2 * rng.standard_normal(n), 0, 1)
    fresh = np.round(np.clip(0.72 + 0.15 * rng.standard_normal(n), 0, 1) * 20) / 20
    fresh_label = np.clip(fresh - 0.05 + 0.2 * rng.standard_normal(n), 0, 1)
    sigma = 0.5 + 0.3 * seed
    fold = np.arange(n) % 5
    label = np.where(rng.random(n) < 0.5, label, np.nan)
    fresh_label = np.where(np.arange(n) < 50, fresh_label, np.nan)
    return PolicyData(
        Rows(judge, label=label, fold=fold, log_weight=sigma * z - sigma**2 / 2),
        Rows(fresh, label=fresh_label, fold=fold),
    )


def both_modes(n: int, seed: int) -> dict[str, PolicyData]:
    """The same rows in the two judges: the uncertain scores are a little off, and each has a variance."""
    first = make(n, seed)
    rng = np.random.default_rng(100 + seed)

    def noisy(rows: Rows) -> Rows:
        score = np.clip(rows.judge + 0.05 * rng.integers(-1, 2, n), 0, 1).round(2)
        return dataclasses.replace(rows, judge=score, judge_var=np.full(n, 0.05**2))

    return {"deterministic": first, "uncertainty": PolicyData(noisy(first.logged), noisy(first.fresh))}


def best(work, repeats: int = 3) -> float:
    """Shortest CPU time of `repeats` runs in seconds: what the work costs when nothing else is in the way."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def obp_interval(log_weight: np.ndarray, reward: np.ndarray, replicates: int = 2000) -> np.ndarray:
    """obp 0.5 SNIPS interval: bootstrap the mean of w R / mean(w), the denominator frozen; its generator, its loop."""
    weight = np.exp(log_weight)
    rounds = weight * reward / weight.mean()
    state = np.random.RandomState(0)
    means = [rounds.mean()] + [np.mean(state.choice(rounds, size=rounds.shape[0])) for _ in range(replicates)]
    return np.percentile(means[1:], [2.5, 97.5])


def our_interval(prep: Prepared) -> Interval:
    """SNIPS and its interval by a closed-form jackknife, numerator and denominator left out together."""
    return score_interval(prep, ESTIMATORS["snips"].score(prep))


def write_cje(folder: Path, data: dict[str, PolicyData]) -> None:
    """The data in the layout that cje-eval 0.3.0 reads."""
    first = next(iter(data.values()))
    (folder / "fresh").mkdir()
    with (folder / "logged.jsonl").open("w", encoding="utf-8") as out:
        for i in range(len(first.logged)):
            row = {
                "prompt": f"prompt {i}",
                "response": f"response {i}",
                "base_policy_logprob": -200.0,
                "target_policy_logprobs": {k: -200.0 + float(d.logged.log_weight[i]) for k, d in data.items()},
                "judge_score": float(first.logged.judge[i]),
                "metadata": {"prompt_id": f"p{i}"},
            }
            if not np.isnan(first.logged.label[i]):
                row["oracle_label"] = float(first.logged.label[i])
            out.write(json.dumps(row) + "\n")
    for policy, d in data.items():
        with (folder / "fresh" / f"{policy}_responses.jsonl").open("w", encoding="utf-8") as out:
            for i in range(len(d.fresh)):
                row = {"prompt_id": f"p{i}", "prompt": f"prompt {i}", "response": f"fresh {i}", "draw_idx": 0}
                out.write(json.dumps(row | {"judge_score": float(d.fresh.judge[i])}) + "\n")


def compare_cje(python: str, n: int = 10_000) -> dict[str, float]:
    """Seconds of cje-eval's dr-cpo and of ours on the same rows, and the largest difference of the values."""
    shared = make(n, 0)
    data = {}
    for k in range(POLICIES):
        own = make(n, k)
        unlabelled = dataclasses.replace(own.fresh, label=np.full(n, np.nan))
        logged = dataclasses.replace(shared.logged, log_weight=own.logged.log_weight)
        data[f"pi_{k}"] = PolicyData(logged, unlabelled)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cje(folder, data)
        done = subprocess.run(
            [python, "-c", CJE, str(folder / "logged.jsonl"), str(folder / "fresh")], capture_output=True, text=True
        )
    if done.returncode:
        raise SystemExit(f"cje-eval failed:\n{done.stderr[-2000:]}")
    theirs = json.loads(done.stdout.splitlines()[-1])
    dr_cpo = ESTIMATORS["dr_cpo"].score

    def ours() -> list[float]:
        from arena10k.estimation.intervals import score_interval

        values = []
        for d in data.values():
            prep = prepare(d)
            score = dr_cpo(prep)
            score_interval(prep, score)
            values.append(score.value)
        return values

    seconds = best(ours, 5)
    gap = max(abs(a - b) for a, b in zip(ours(), theirs["values"], strict=True))
    return {"cje_seconds": theirs["seconds"], "our_seconds": seconds, "largest_difference": gap}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--cje-python")
    parser.add_argument("--skip-obp", action="store_true")
    args = parser.parse_args()
    seconds = {}
    for n in args.sizes:
        data = {f"pi_{k}": both_modes(n, k) for k in range(POLICIES)}
        seconds[n] = best(lambda data=data: study(data), 3 if n <= 100_000 else 1)
        del data
        what = f"all estimators, intervals and diagnostics, {POLICIES} policies, both judges"
        print(f"{what}, n = {n:>9,}: {seconds[n]:8.3f} s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    ratio = None
    if not args.skip_obp:
        prep = prepare(make(100_000, 1))
        slow = best(lambda: obp_interval(prep.log_weight, prep.reward), 1)
        fast = best(lambda: our_interval(prep), 5)
        ratio = slow / fast
        print(f"SNIPS with interval, n = 100,000: obp's 2,000 replicates {slow:.2f} s, ours {fast * 1e3:.1f} ms")
    cje = compare_cje(args.cje_python) if args.cje_python else None
    if cje:
        print(f"dr-cpo, {POLICIES} policies, n = 10,000: {cje}")
    result = {
        "dr_cpo_vs_cje": cje and cje["cje_seconds"] / cje["our_seconds"],
        "snips_interval_vs_obp": ratio,
        "all_10k_seconds": seconds.get(10_000),
        "all_100k_seconds": seconds.get(100_000),
        "all_1m_seconds": seconds.get(1_000_000),
        "peak_1m_gb": peak if 1_000_000 in seconds else None,
        "cje": cje,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
