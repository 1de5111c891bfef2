"""The params of whoever grades responses: a judge that completes a text, a judge that chats, an oracle."""

from __future__ import annotations

import re
from collections.abc import Iterator
from string import Formatter
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from arena10k.params.sections import Asked, Asker, Count, Section, Share

Score = Annotated[float, Field(strict=False, allow_inf_nan=False)]
MinMass = Annotated[float, Field(gt=0, le=1)]
FORMS = ("completion", "chat", "pair")
#: What each judge of the shorthand `judge` does, and is called.
MODES = ("deterministic", "uncertainty")
Mode = Literal["deterministic", "uncertainty"]
#: What a completion judge is shown of a text, at most.
MAX_CHARS = 2000
#: A scale of whole numbers with more values than this is in effect continuous.
FEW_RATINGS = 21


#: Part of what decides a rating only where they are declared.
_HOW_ASKED = {*Asked.model_fields, "model_alias"}


class Grader(Asker):
    """A model that is shown a `case`: a text that holds {response}, and {prompt} and {reference} where wanted."""

    #: What it grades, in the order in which it has to stand in the `case`.
    shown: ClassVar[tuple[str, ...]] = ("response",)
    case: str

    @property
    def uncertain(self) -> bool:
        """Whether it is a judge whose scores have a variance."""
        return getattr(self, "mode", "") == "uncertainty"

    @field_validator("case")
    @classmethod
    def _case_can_be_filled(cls, case: str) -> str:
        try:
            parts = [(name, spec, how) for _, name, spec, how in Formatter().parse(case) if name is not None]
        except ValueError as error:
            raise ValueError(f"{error}; a literal brace is written twice") from error
        fields = ("prompt", *cls.shown, "reference")
        for name, spec, how in parts:
            if name not in fields or spec or how:
                other = "; {other} goes with form: pair" if name == "other" else ""
                raise ValueError(
                    f"{{{name}}} is not among {', '.join(fields)}; a literal brace is written twice{other}"
                )
        names = list(dict.fromkeys(name for name, _, _ in parts if name in cls.shown))
        for name in (name for name in cls.shown if name not in names):
            raise ValueError(f"{{{name}}} is not in it: the grader would not see what it grades")
        if names != [*cls.shown]:
            raise ValueError("{response} has to stand before {other}: answers call them A and B in this order")
        if "other" in names and not {"prompt", "reference"} & {name for name, _, _ in parts}:
            raise ValueError("{prompt} is not in it, nor {reference}: the grader would not see what was asked")
        return case


class CompletionJudge(Grader):
    """The judge completes `intro`, worked `examples` and the `case` with a rating token.

    `orders` are the orders of the examples that the uncertainty mode averages over; the deterministic mode uses the
    first.
    """

    form: Literal["completion"] = "completion"
    mode: Mode = "deterministic"
    uncertainty: Literal["orders"] = "orders"
    intro: str = ""
    examples: tuple[str, ...] = Field((), strict=False)
    orders: tuple[Annotated[tuple[int, ...], Field(strict=False)], ...] = Field((), strict=False)
    ratings: dict[str, Annotated[float, Field(ge=0, le=1, strict=False)]]
    draws: Count = 1
    top_logprobs: Annotated[int, Field(ge=2, le=100)] = 20
    min_mass: MinMass = 0.9

    def faults(self) -> Iterator[str]:
        for order in self.orders:
            if sorted(order) != list(range(len(self.examples))):
                yield f"orders: {list(order)} is not an order of the {len(self.examples)} examples"

    def definition(self) -> dict[str, Any]:
        """What decides a rating; the same in both modes, which ask the same questions."""
        definition = self.model_dump(mode="json", exclude={"draws", "form", "mode", "uncertainty", *_HOW_ASKED})
        return definition | {"max_response_chars": MAX_CHARS} | self.asked

    def few_ratings(self) -> bool:
        """Whether scores can take a few values only."""
        return not self.uncertain


class ChatGrader(Grader):
    """A chat model that is asked for one number on `scale`; the request to answer in JSON is added to the `case`."""

    system: str = ""
    scale: tuple[Score, Score] = Field((0.0, 10.0), strict=False)
    numbers: Literal["whole", "continuous"] = "whole"
    max_tokens: Count = 64

    def faults(self) -> Iterator[str]:
        low, high = self.scale
        if low >= high:
            yield f"scale: [{low:g}, {high:g}] does not rise"
        if self.numbers == "whole" and not (low.is_integer() and high.is_integer()):
            yield f"scale: [{low:g}, {high:g}] does not begin and end on whole numbers (see numbers)"

    @property
    def range_words(self) -> str:
        """The scale, for the grader."""
        low, high = self.scale
        return f"{'a whole number' if self.numbers == 'whole' else 'a number'} from {low:g} to {high:g}"

    def ask(self) -> str:
        """The line that ends every request: the form of the answer."""
        return f'Answer with JSON only: {{"rating": n}}, where n is {self.range_words}.'

    def answer_schema(self) -> dict[str, Any]:
        """The form of the answer as a JSON schema, strict."""
        keys = re.findall(r'"(\w+)":', self.ask())
        kind: dict[str, Any] = {"type": "integer" if self.numbers == "whole" else "number"}
        if ChatGrader.few_ratings(self):  # else small models leave the scale
            kind["enum"] = list(range(int(self.scale[0]), int(self.scale[1]) + 1))
        form = {"type": "object", "properties": dict.fromkeys(keys, kind), "required": keys}
        return {"name": "rating", "strict": True, "schema": form | {"additionalProperties": False}}

    def few_ratings(self) -> bool:
        """Whether scores can take a few values only."""
        low, high = self.scale
        return self.numbers == "whole" and high - low < FEW_RATINGS

    def definition(self) -> dict[str, Any]:
        """What decides a rating."""
        include = set(ChatGrader.model_fields) - _HOW_ASKED
        return self.model_dump(mode="json", include=include) | {"ask": self.ask()} | self.asked


class ChatJudge(ChatGrader):
    """The deterministic mode is one rating at temperature 0; the uncertainty mode is one of

    `samples`: the mean of that many ratings at `sample_temperature`, with the variance of the mean.
    `interval`: a rating at temperature 0 with an interval that the judge states and that holds the rating with
    probability `interval_confidence`.
    `logprobs`: the expectation over the rating tokens at temperature 0, which hold at least `min_mass`.
    """

    form: Literal["chat"]
    mode: Mode = "deterministic"
    uncertainty: Literal["samples", "interval", "logprobs"] = "samples"
    draws: Count = 1
    samples: Annotated[int, Field(ge=2, le=100)] = 5
    sample_temperature: Annotated[float, Field(gt=0, le=2, strict=False)] = 1.0
    interval_confidence: Share = 0.9
    top_logprobs: Annotated[int, Field(ge=2, le=20)] = 20
    min_mass: MinMass = 0.9

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        low, high = self.scale
        if self.uncertainty == "logprobs" and not (self.numbers == "whole" and low >= 0 and high <= 9):
            yield (
                f"scale: uncertainty: logprobs needs whole numbers within 0 to 9, not [{low:g}, {high:g}] "
                f"({self.numbers}): the first token of a longer number can be that of another"
            )

    def ask(self) -> str:
        """The line that ends every request of the mode: the form of the answer."""
        if not self.uncertain or self.uncertainty == "samples":
            return super().ask()
        if self.uncertainty == "logprobs":
            return f"Answer with the number only: {self.range_words}."
        return (
            f'Answer with JSON only: {{"rating": n, "low": l, "high": h}}, where n is {self.range_words}, and l and h '
            f"are the ends of an interval on the same scale that holds the right rating with probability "
            f"{self.interval_confidence:g}."
        )

    def few_ratings(self) -> bool:
        """Whether scores can take a few values only. A mean of a few ratings is taken for a rating: a good judge is
        of one mind about easy cases."""
        return super().few_ratings() and not (self.uncertain and self.uncertainty == "logprobs")

    def definition(self) -> dict[str, Any]:
        """What decides a rating in the deterministic or the uncertainty mode."""
        keys = {"samples": ("samples", "sample_temperature"), "interval": ("interval_confidence",),
                "logprobs": ("top_logprobs", "min_mass")}[self.uncertainty]  # fmt: skip
        include = {"uncertainty", *keys} if self.uncertain else set[str]()
        return super().definition() | self.model_dump(mode="json", include=include)


class PairGrader(Grader):
    """A chat model that is shown a policy's {response} and the logging policy's {other} to the same prompt, in both
    orders, and says which is better. The score is the share of the two that the policy's wins, a tie being a half; that
    of the logging policy is 0.5 by definition, and not asked."""

    shown = ("response", "other")
    form: Literal["pair"]
    system: str = ""
    max_tokens: Count = 64

    def ask(self) -> str:
        """The line that ends every request: the form of the answer."""
        return (
            'Answer with JSON only: {"winner": w}, where w is "A" if the first answer is better, "B" if the second one '
            'is, and "tie" if neither is.'
        )

    def answer_schema(self) -> dict[str, Any]:
        """The form of the answer as a JSON schema, strict."""
        form = {"type": "object", "properties": {"winner": {"type": "string", "enum": ["A", "B", "tie"]}}}
        schema = form | {"required": ["winner"], "additionalProperties": False}
        return {"name": "winner", "strict": True, "schema": schema}

    def few_ratings(self) -> bool:
        """Whether scores can take a few values only."""
        return True

    def definition(self) -> dict[str, Any]:
        """What decides a score, beside the answers that it compares with."""
        include = set(PairGrader.model_fields) - _HOW_ASKED
        return self.model_dump(mode="json", include=include) | {"ask": self.ask()} | self.asked


class PairJudge(PairGrader):
    mode: Literal["deterministic"] = "deterministic"
    draws: Count = 1


def _one_of(default: str, *forms: str) -> Discriminator:
    """The form of a grader, by which its keys are known; `default` where it names none."""

    def form(grader: Any) -> str | None:
        known = grader.get("form", default) if isinstance(grader, dict) else None
        return getattr(grader, "form", default) if isinstance(grader, Grader) else known

    message = f"Input should be a mapping with form: {' or '.join(forms)}"
    return Discriminator(form, custom_error_type="form", custom_error_message=message)


_Rating = Annotated[CompletionJudge, Tag("completion")] | Annotated[ChatJudge, Tag("chat")]
#: A judge that can be asked in both modes, and one of any form.
BothModes = Annotated[_Rating, _one_of("completion", "completion", "chat (form: pair stands in judges)")]
JudgeParams = Annotated[_Rating | Annotated[PairJudge, Tag("pair")], _one_of("completion", *FORMS)]
OracleGrader = Annotated[
    Annotated[ChatGrader, Tag("chat")] | Annotated[PairGrader, Tag("pair")], _one_of("chat", "pair, or none")
]
AnyGrader = CompletionJudge | ChatGrader | PairGrader


class OracleParams(Section):
    """Which responses get an oracle label, and whose: `exact` checkers of the prompts, or a better `grader` model.
    `truth` labels every fresh draw, for runs whose checkers cost nothing."""

    kind: Literal["exact", "model"] = "exact"
    grader: OracleGrader | None = None
    p0_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5
    target_labels: Annotated[int, Field(ge=0)] = 30
    truth: bool = False

    def faults(self) -> Iterator[str]:
        if self.kind == "model" and self.grader is None:
            yield "kind: model needs a grader (provider, model, case, scale)"
        if self.kind == "exact" and self.grader is not None:
            yield "grader goes with kind: model"
        if self.kind == "model" and self.truth:
            yield "truth: true would pay a model for a label of every draw; it goes with kind: exact"
