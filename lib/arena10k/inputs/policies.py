"""Policies: how a prompt becomes messages, and the fingerprint that says exactly which policy a record belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import orjson

from arena10k.errors import ArenaError, ParamsError
from arena10k.inputs import chat_templates
from arena10k.inputs.chat_templates import ChatTemplate
from arena10k.params import imported
from arena10k.params.config import Params
from arena10k.params.sections import PolicyParams, sent


def digest(obj: Any) -> str:
    """SHA-256 of the canonical JSON of `obj`, 32 hex digits: equal content, equal digest."""
    return hashlib.sha256(orjson.dumps(obj, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def unit_hash(*parts: object) -> float:
    """A stable pseudo-random number in [0, 1) from `parts`: slices and samples that do not depend on order."""
    raw = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(raw[:8], "big") / 2**64


#: The values of sampling fields, of all kinds of servers, at which the distribution that is reported is the one that is
#: drawn from.
_FULL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("temperature", "top_p", "repetition_penalty", "repeat_penalty", "typical_p"), (1,)),
    **dict.fromkeys(("tfs_z", "do_sample"), (1,)),
    **dict.fromkeys(("min_p", "presence_penalty", "frequency_penalty", "xtc_probability", "dry_multiplier"), (0,)),
    **dict.fromkeys(("mirostat", "top_a", "no_repeat_ngram_size", "min_tokens", "epsilon_cutoff", "eta_cutoff"), (0,)),
    **dict.fromkeys(("logit_bias", "bad_words", "grammar"), ({}, [], "")),
    **dict.fromkeys(("top_k", "top_n_sigma"), (0, -1)),
}


@dataclass(frozen=True)
class Policy:
    """A named policy of one experiment; one with a `template` is asked and scored in text that is rendered here."""

    name: str
    params: PolicyParams
    endpoint: str
    template: ChatTemplate | None = None
    #: Its sampling as the endpoint is sent it, where params change that.
    asked: Mapping[str, Any] = field(default_factory=dict)

    def messages(self, prompt: str) -> list[dict[str, str]]:
        """The chat messages for one prompt: system, earlier turns, then the user's text with the policy's suffix."""
        messages = [{"role": "system", "content": self.params.system}] if self.params.system is not None else []
        for turn in self.params.examples:
            messages += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.assistant}]
        return [*messages, {"role": "user", "content": prompt + self.params.suffix}]

    @property
    def own_template(self) -> ChatTemplate:
        """The template of a policy that is asked in text. Raises ArenaError for one that is not."""
        if self.template is None:
            raise ArenaError(f"policies.{self.name}: its provider has no chat_template")
        return self.template

    def rendered(self, prompt: str) -> str:
        """The text that is sent for one prompt, for a policy with a template."""
        return self.own_template.render(self.messages(prompt))

    def control_token(self, prompt: str) -> str | None:
        """A control token of the template in what the messages say, or None: a model would obey it."""
        contents = (message["content"] for message in self.messages(prompt))
        return next(filter(None, map(self.own_template.control_token, contents)), None)

    @property
    def is_imported(self) -> bool:
        """Whether its records were imported: what the policy is, is not known, and it is not asked."""
        return self.endpoint == imported.PROVIDER

    @cached_property
    def fingerprint(self) -> str:
        """Digest of everything that decides the distribution of responses; the name is not part of it, unless nothing
        else is known of the policy."""
        if self.is_imported:
            return digest({imported.PROVIDER: self.name})
        parts = self.params.model_dump(include={"model", "temperature", "top_p", "max_tokens"})
        parts |= {"endpoint": self.endpoint, "messages": self.messages("{prompt}")}
        parts |= {"asked": self.asked} if self.asked else {}
        if self.template:
            # One rendering does not show what the template does with other prompts.
            parts |= {"rendered": self.rendered("{prompt}"), "template": self.template.source}
            parts |= {"end_of_turn": self.template.end_of_turn}
        return digest(parts)

    @cached_property
    def temperature_mismatch(self) -> bool:
        """Whether log-probs, which are of temperature 1, are of another distribution than the sampled one."""
        sampler = {"temperature": self.params.temperature, "top_p": self.params.top_p, **self.asked}
        return any(sampler.get(key) not in (None, *plain) for key, plain in _FULL.items())

    def seed(self, base: int, prompt_id: str, draw: int) -> int:
        """The sampling seed of one draw: differs by policy, prompt and draw, the same on every run."""
        return int(unit_hash(base, self.name, prompt_id, draw) * 2**31)


def policies(params: Params) -> Mapping[str, Policy]:
    """The experiment's policies by name, in the order of the params file. Raises ParamsError for a chat template that
    cannot be used, and for policies that hold one of its control tokens."""
    out = {}
    for name, p in params.policies.items():
        provider, template = params.providers[p.provider], None
        if provider.chat_template:
            owner = f"providers.{p.provider}.chat_template"
            template = chat_templates.load(owner, provider.chat_template, provider.bos_token, provider.end_of_turn)
        plain: dict[str, Any] = {"temperature": p.temperature, "top_p": p.top_p, "max_tokens": p.max_tokens}
        plain |= {"stop": [template.end_of_turn]} if template else {}
        asked = sent(provider, p, plain, sampled=True)
        out[name] = Policy(name, p, provider.endpoint, template, asked if asked != plain else {})
        if template and (token := out[name].control_token("")):
            raise ParamsError(f"policies.{name}: holds {token}, a control token: the model would obey it; reword it")
    return out


def other_models(params: Params) -> dict[str, str]:
    """Targets that are another model than the logging policy, or stand for one, with the words that say so."""
    if not params.policies or params.imported:  # what models they are is not known
        return {}
    base = params.policies[params.logging_policy].model
    targets = {name: params.policies[name] for name in params.targets}
    words = {name: f"stands for {p.stands_for}" if p.stands_for else f"model {p.model}" for name, p in targets.items()}
    return {name: said for name, said in words.items() if said != f"model {base}"}
