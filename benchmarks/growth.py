"""How the cost of `evaluate` grows with the number of rows, on one core: the table of docs/data.md.

    python benchmarks/growth.py [--sizes 1000 10000 100000 1000000]

Each size is a process of its own: a frame of logged answers with scores, labels on half of them and log-probs of four
policies (log-normal weights). The time is of `evaluate` alone, CPU seconds; the memory is the peak of the process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"


def measure(n: int) -> tuple[float, float]:
    """CPU seconds of `evaluate` on `n` rows, and the peak memory of this process in GB."""
    import numpy as np
    import pandas as pd

    from arena10k import evaluate

    rng = np.random.default_rng(0)
    z, judge = rng.standard_normal((2, n))
    judge = np.round(np.clip(0.7 + 0.15 * judge + 0.05 * z, 0, 1) * 20) / 20
    label = np.where(rng.random(n) < 0.5, np.clip(judge - 0.05 + 0.2 * rng.standard_normal(n), 0, 1), np.nan)
    logged = pd.DataFrame(
        {"prompt_id": np.arange(n), "judge": judge, "label": label, "logp_p0": -30 - 5 * rng.random(n)}
    )
    for sigma in (0.5, 0.8, 1.1, 1.4):
        logged[f"logp_pi_{sigma:g}"] = logged.logp_p0 + sigma * z - sigma**2 / 2
    evaluate(logged.head(500))  # what is loaded at the first call
    start = time.process_time()
    evaluate(logged)
    return time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    print("| rows | seconds | memory, GB |\n|--:|--:|--:|")
    for n in parser.parse_args().sizes:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, memory = pool.apply(measure, (n,))
        print(f"| {n:,} | {seconds:.2f} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
