"""The embedded model (SmolLM2-135M-Instruct on OpenVINO GenAI) behind an OpenAI-compatible endpoint on loopback.

Models: `smollm2-135m`, and exactly tempered ones such as `smollm2-135m-t0.6`.
Start it with `python -m arena10k.local_server`, or with `running()` from Python.
"""

from arena10k.local_server.process import ServerFailed, running, shared

__all__ = ["ServerFailed", "running", "shared"]
