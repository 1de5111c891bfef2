"""Arena 10K: the value of new LLM policies from logged responses, with an interval or a refusal."""

from typing import Any

from arena10k.errors import ArenaError, DataError, ParamsError

__all__ = ["ArenaError", "DataError", "ParamsError", "Run", "compare", "evaluate"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # pandas loads only for those who ask for it: the command line answers at once.
    if name == "Run":
        from arena10k.run import Run

        return Run
    if name == "evaluate":
        from arena10k.from_frames.values import evaluate

        return evaluate
    if name == "compare":
        from arena10k.from_frames.difference import compare

        return compare
    raise AttributeError(f"module 'arena10k' has no attribute {name!r}")
