"""Coverage of the composite interval where the truth is known (n = 1,000; log-normal weights; 500 replicates per cell).

Cells: rewards known; half the logged rows labelled and a judge that transports; the same with a judge the target fools.
`plain` is SNIPS with the interval usually printed. Prints a table and one JSON object as the last line.
"""

from __future__ import annotations

import argparse
import json
import math

from arena10k.simulation.simulate import Design, LogNormal, replicate

CASES = {
    "known": (0.0, Design(label_share=0.0)),
    "transports": (0.0, Design()),
    "fooled": (1.0, Design()),
}
SIGMAS = (1.0, 2.0, 3.0, 5.0)


def cell(case: str, sigma: float, replicates: int) -> dict[str, float | str]:
    """One row of the table."""
    shift, design = CASES[case]
    population = LogNormal(sigma, shift)
    table = replicate(population, design, ("plain_snips", "snips", "direct"), replicates, int(sigma))
    plain, snips, direct = table.itertuples()
    return {
        "case": case,
        "sigma": sigma,
        "plain": plain.coverage,
        "composite": snips.coverage,
        "reported_only": snips.held_report,
        "refused": snips.refused,
        "width": snips.width,
        "width_over_best": snips.width / snips.best_width,
        "direct": direct.coverage,
        "direct_refused": direct.refused,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=500)
    replicates = parser.parse_args().replicates
    rows = [cell(case, sigma, replicates) for case in CASES for sigma in SIGMAS]
    heads = list(rows[0])
    print("  ".join(f"{h:>14}" for h in heads))
    for row in rows:
        print("  ".join(f"{v:>14}" if isinstance(v, str) else f"{v:>14.3f}" for v in row.values()))
    clean = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]
    first = [row["width_over_best"] for row in rows if row["sigma"] == SIGMAS[0] and row["case"] != "fooled"]
    summary = {
        "replicates": replicates,
        "composite_min": min(row["composite"] for row in rows),
        "width_over_best_sigma_1": max(first),
        "cells": clean,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
