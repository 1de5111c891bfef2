"""The params of an endpoint: where it is, what it can do, and what it costs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from arena10k.params.schema import Section


class Capabilities(Section):
    """What an endpoint can do; the preflight tries each one that is declared."""

    token_ids: bool = Field(False, description="chat answers carry prompt_token_ids and token_ids")
    echo_logprobs: bool = Field(False, description="completions score a given prompt: echo with logprobs")
    echo_from: bool = Field(False, description="echo takes `echo_from`: log-probs before it are not needed")
    seed: bool = Field(True, description="the endpoint takes a sampling seed")


class Price(Section):
    """US dollars per million tokens."""

    prompt: Annotated[float, Field(ge=0, strict=False)]
    completion: Annotated[float, Field(ge=0, strict=False)]


class Provider(Section):
    """One OpenAI-compatible endpoint. The key is read from the named environment variable and goes nowhere else.

    `imported` stands for whoever made records that were imported: it is never asked."""

    kind: Literal["embedded", "openai", "imported"] = "openai"
    base_url: str | None = None
    api_key_env: str | None = None
    concurrency: Annotated[int, Field(ge=1, le=512, description="requests in flight, at most")] = 16
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    mode: Literal["requests", "batch"] = Field("requests", description="batch: answers within a day, at half price")
    batch_poll_seconds: Annotated[float, Field(gt=0)] = 60.0
    batch_max_requests: Annotated[int, Field(ge=1, le=50_000)] = 50_000
    prices: dict[str, Price] = Field({}, description="by model; a provider without prices is taken to cost nothing")
    timeout_seconds: Annotated[float, Field(gt=0)] = 120.0
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 6
    capabilities: Capabilities = Capabilities()
    chat_template: str | None = Field(
        None, description="renders prompts here, for endpoints without token ids: chatml, llama3 or a Jinja file"
    )
    end_of_turn: str | None = Field(None, description="the text that ends an answer; built-in templates have their own")
    bos_token: str | None = Field(None, description='what the template starts with; "" where the endpoint adds it')

    @model_validator(mode="after")
    def _has_address(self) -> Provider:
        if self.kind == "openai" and not self.base_url:
            raise ValueError("base_url is needed (for the embedded model say kind: embedded)")
        return self

    @model_validator(mode="after")
    def _can_locate_responses(self) -> Provider:
        can = self.capabilities
        if can.echo_logprobs and not can.token_ids and not self.chat_template:
            raise ValueError(
                "echo_logprobs needs capabilities.token_ids: true (the endpoint returns ids) or a chat_template "
                "(chatml, llama3 or a Jinja file) with which prompts are rendered here"
            )
        if self.chat_template and can.token_ids:
            raise ValueError("chat_template goes with endpoints without token ids: leave out one of the two")
        for key in ("end_of_turn", "bos_token"):
            if getattr(self, key) is not None and not self.chat_template:
                raise ValueError(f"{key} goes with a chat_template")
        return self
