"""Snakemake as a run starts it: `python -m arena10k.pipeline.launch`, with the options of `snakemake`.

At the signal `stopping.STOP` it starts nothing more, cancels what a cluster has of it, and says nothing.
"""

from __future__ import annotations

import signal
import sys

from arena10k.pipeline.stopping import STOP


def _interrupt(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> None:
    from snakemake.cli import main as snakemake

    try:
        signal.signal(STOP, _interrupt)  # before this the signal ends the process, which has begun nothing
        snakemake()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
