"""The paper-size grid of ablations on the public sample: on the cores of this machine, and on a local Dask cluster.

    python benchmarks/ablations.py DATA [--seeds 50] [--workers 2]

DATA is the folder that holds `arena_sample`. 13 estimators and variants x 5 shares of the labels x 5 numbers of prompts
x `--seeds` seeds, each cell on all three policies. Both runs keep their cells as they come; the second one sets nothing
but SCHEDULER. Then what misranks and what is refused, and one JSON object as the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import pandas as pd

from arena10k.ablations.matrix import held_out, truth_sentence
from arena10k.ablations.scores import order_sentence, summary
from arena10k.ablations.sweep import Settings, Variant, sweep
from arena10k.estimation import ESTIMATORS, policies_data
from arena10k.frames.table import Table

POLICIES = ("clone", "parallel_universe_prompt", "unhelpful")
VARIANTS = [*(Variant(name) for name in ESTIMATORS), Variant("direct", "two_stage")]
LEVELS = {"prompts": [250, 400, 600, 800, None], "labels": [0.05, 0.1, 0.25, 0.5, None]}


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def read(folder: Path) -> Table:
    """The public sample as an analysis table; labels of the probe slices belong to the targets' own draws."""
    logged = [
        {"prompt_id": row["metadata"]["prompt_id"], "response_chars": len(row["response"])}
        | {"label": row.get("oracle_label"), "judge_deterministic": row["judge_score"]}
        | {"logp_base": row["base_policy_logprob"]}
        | {f"logp_{p}": row["target_policy_logprobs"][p] for p in POLICIES}
        for row in _lines(folder / "logged_data.jsonl")
    ]
    fresh = []
    for policy in POLICIES:
        probes = {r["prompt_id"]: r["oracle_label"] for r in _lines(folder / "probe_slice" / f"{policy}_probe.jsonl")}
        fresh += [
            {"policy": policy, "prompt_id": row["prompt_id"], "draw": row["draw_idx"]}
            | {"judge_deterministic": row["judge_score"], "response_chars": len(row["response"])}
            | {"label": probes.get(row["prompt_id"])}
            for row in _lines(folder / "fresh_draws" / f"{policy}_responses.jsonl")
        ]
    truth = pd.DataFrame(columns=["policy", "value", "se", "prompts", "draws"])
    return Table(pd.DataFrame(logged), pd.DataFrame(fresh), truth, {}, {}, "base", list(POLICIES))


def timed(*args, folder: Path, jobs: int) -> tuple[pd.DataFrame, float]:
    start = time.perf_counter()
    frame = sweep(*args, folder=folder, jobs=jobs)
    return frame, time.perf_counter() - start


def show(scores: pd.DataFrame) -> None:
    """Which variants misrank, and which of them are refused there, over all sizes and shares of the labels."""
    columns = ["refused", "rmse", "coverage", "interval_score", "kendall", "pairwise", "misranked"]
    table = scores.set_index(["estimator", "calibration"])[[*columns, "misranked_accepted"]]
    print(table.to_string(float_format="{:.3f}".format))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--skip-dask", action="store_true")
    args = parser.parse_args()
    os.environ.pop("SCHEDULER", None)
    seen, truth = held_out(read(args.data / "arena_sample"), worst=["unhelpful"])
    arrays = policies_data(seen.logged, seen.fresh, POLICIES, ["deterministic"], "base")
    data = {p: modes["deterministic"] for p, modes in arrays.items()}
    grid = (data, VARIANTS, LEVELS, args.seeds, Settings())
    with tempfile.TemporaryDirectory() as name:
        here, seconds = timed(*grid, folder=Path(name) / "here", jobs=args.workers)
        _, again = timed(*grid, folder=Path(name) / "here", jobs=args.workers)
        equal, dask_seconds = None, None
        if not args.skip_dask:
            from distributed import LocalCluster

            with LocalCluster(n_workers=args.workers, threads_per_worker=1, dashboard_address=None) as cluster:
                os.environ["SCHEDULER"] = cluster.scheduler_address
                there, dask_seconds = timed(*grid, folder=Path(name) / "there", jobs=args.workers)
            pd.testing.assert_frame_equal(here, there, check_exact=True)
            equal = bool(here.equals(there))
    print(truth_sentence(truth), order_sentence(truth))
    show(summary(here, truth, ["estimator", "calibration"]))
    cells = len(here) // len(POLICIES)
    print(f"{cells:,} cells: {seconds:.1f} s on {args.workers} cores; read back in {again:.1f} s")
    result = {"cells": cells, "seconds": round(seconds, 1), "read_again_seconds": round(again, 1)}
    print(json.dumps(result | {"dask_seconds": dask_seconds and round(dask_seconds, 1), "dask_equal": equal}))


if __name__ == "__main__":
    main()
