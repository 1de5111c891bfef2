"""Snakemake as a run starts it: `python -m arena10k.pipeline.launch`, with the options of `snakemake`.

It is deaf to Ctrl-C and hears one signal instead (`stopping.TOLD`): then it starts nothing more, cancels what a
cluster has of it, and says nothing.
"""

from __future__ import annotations

import signal
import sys

from arena10k.pipeline.stopping import TOLD


def _interrupt(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> None:
    from snakemake.cli import main as snakemake

    try:
        signal.signal(TOLD, _interrupt)  # before this the signal ends the process, which has begun nothing
        snakemake()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
