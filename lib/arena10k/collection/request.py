"""What is sent to an endpoint. Nothing here loads the SDK, so that whoever only reads records does not wait for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

CHAT, COMPLETIONS = "/chat/completions", "/completions"
#: For forecasts of tokens and money only; nothing that is measured depends on it.
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class Request:
    """One POST: a path below the base URL and its JSON body."""

    path: str
    body: dict[str, Any]

    @property
    def prompt_tokens(self) -> int:
        """Tokens sent: exact for token ids, about four characters each for text."""
        prompt = self.body.get("prompt", self.body.get("messages"))
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
            return len(prompt)
        return len(orjson.dumps(prompt)) // CHARACTERS_PER_TOKEN

    @property
    def max_tokens(self) -> int:
        """Tokens of the answer, at most."""
        return int(self.body.get("max_tokens") or 0)
