"""Chat templates: messages become the text an endpoint is sent, here and once, where it returns no token ids.

Templates are Jinja as Hugging Face publishes them; they run in jinja2's immutable sandbox. A tokenizer turns control
tokens of the model into control whoever wrote them, so text that holds one must not be rendered: `control_token`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from arena10k import paths
from arena10k.errors import ParamsError, one_line

#: Built-in templates: (BOS, end of turn) of the models that use them.
BUILTIN = {"chatml": ("", "<|im_end|>"), "llama3": ("<|begin_of_text|>", "<|eot_id|>")}
#: What control tokens look like in every family that writes them so; never inert in text.
_BARRED = re.compile("<[|\uff5c][^<>|\uff5c\\s]{1,64}[|\uff5c]>")
#: Other control tokens are known only by standing in what the template writes: `<start_of_turn>`, `[INST]`, `</s>`.
_BRACKETED = re.compile(r"</?[a-z_]{1,40}>|\[/?[A-Z_]{2,20}\]|<</?[A-Z]{2,10}>>")
_PROBE = ({"role": "user", "content": "Ask1"}, {"role": "assistant", "content": "Say1"})
_FAULTS = (jinja2.TemplateError, TypeError, ValueError, KeyError)


@dataclass(frozen=True)
class ChatTemplate:
    """A template with the tokens it takes as variables; `owner` is the params key that errors name."""

    owner: str
    source: str
    bos_token: str
    end_of_turn: str

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """The text up to where the assistant's answer begins. Raises ParamsError where the template refuses the
        messages (`raise_exception`) or is not valid."""
        values = {"bos_token": self.bos_token, "eos_token": self.end_of_turn, "add_generation_prompt": True}
        try:
            return _compiled(self.source).render(messages=[dict(m) for m in messages], **values)
        except _FAULTS as error:
            raise ParamsError(f"{self.owner}: the template cannot be rendered: {one_line(error)}") from error

    @cached_property
    def _control_tokens(self) -> re.Pattern[str]:
        written = self.render([*_PROBE, _PROBE[0]])
        tokens = {*_BARRED.findall(self.source), *_BRACKETED.findall(written), self.bos_token, self.end_of_turn} - {""}
        return re.compile("|".join([*(re.escape(t) for t in sorted(tokens, key=len, reverse=True)), _BARRED.pattern]))

    def control_token(self, text: str) -> str | None:
        """The first control token in `text` that a model would obey, or None."""
        match = self._control_tokens.search(text)
        return match.group() if match else None


def load(owner: str, name: str, bos_token: str | None = None, end_of_turn: str | None = None) -> ChatTemplate:
    """The template called `name`: a built-in one, or a Jinja file (relative paths start at the folder with `data/`).
    `owner` is the params key, for errors. `bos_token` and `end_of_turn`: None takes the built-in's own; a file has no
    BOS then, and must be told its end of turn. Raises ParamsError for what is missing, and for a file that is no chat
    template."""
    bos, end = BUILTIN.get(name, ("", None))
    bos, end = bos if bos_token is None else bos_token, end_of_turn or end
    path = Path(__file__).parents[1] / "builtin" / f"{name}.jinja" if name in BUILTIN else paths.home() / name
    if not path.is_file():
        raise ParamsError(
            f"{owner}: no file {name!r}: give {' or '.join(BUILTIN)}, or a Jinja file (relative paths start at the "
            f"folder that holds data/: {paths.home()})"
        )
    if not end:
        raise ParamsError(f"{owner}: end_of_turn is needed beside a template file: the text that ends a turn (</s>)")
    try:
        template = ChatTemplate(owner, path.read_text(encoding="utf-8"), bos, end)
    except UnicodeDecodeError as error:
        raise ParamsError(f"{owner}: {name}: not UTF-8 text") from error
    if any(message["content"] not in template.render([*_PROBE, _PROBE[0]]) for message in _PROBE):
        raise ParamsError(f"{owner}: {name}: the template leaves messages out; it is not a chat template")
    return template


@lru_cache(maxsize=32)
def _compiled(source: str) -> jinja2.Template:
    """Compiled with the settings and helpers that Hugging Face compiles chat templates with. `strftime_now` is left
    undefined, so that published templates write their fixed date and not today's."""

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)  # jinja's own escapes HTML

    extensions = ["jinja2.ext.loopcontrols"]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    return environment.from_string(source)
