"""A vision-language model behind a chat endpoint as a describer: `[build.chat]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from PIL import Image
from pydantic import Field

from editkit.build.describers.protocol import Described, Describing
from editkit.models.chat.client import Reply
from editkit.models.chat.endpoint import Endpoint, Questions, as_json
from editkit.models.chat.pictures import picture_content
from editkit.recipe.schema import PositiveInt

AGREEMENT = {"yes": 1.0, "partly": 0.5, "no": 0.0}  # of the given instruction with the pictures, as a score
PROMPT = """\
You are shown two pictures, before and after an edit. Say what was asked for, as a person would type it to an editor: one \
short instruction that turns the first into the second and names nothing that stays. {given}"""
GIVEN = 'Then say whether this instruction describes the same change: "{text}". Answer yes, partly or no.'
NONE_GIVEN = "Then answer yes."
FIELDS = {"instruction": (), "agrees": tuple(AGREEMENT)}


class ChatEndpoint(Endpoint):
    """The keys of `[build.chat]`: a model that looks at pictures."""

    prompt: str = PROMPT  # with {given} where the question about the instruction that is there belongs
    temperature: Annotated[float, Field(ge=0)] = 0.0
    side: PositiveInt = 512  # px; larger pictures are sent that large


@dataclass(frozen=True)
class ChatDescriber:
    """Asks once about every pair."""

    options: ChatEndpoint
    seed: int
    processes = 1  # limits of rate hold for one process
    accelerated = False

    def identity(self) -> Mapping[str, Any]:
        asked = self.options.model_dump(include={"model", "prompt", "temperature", "max_tokens", "side"})
        return {"seed": self.seed, **asked}

    def open(self) -> Describing:
        return _Asking(self.options, self.seed)


class _Asking:
    """Makes the question about a pair when it looks at it."""

    def __init__(self, options: ChatEndpoint, seed: int) -> None:
        self._options, self._seed = options, seed
        self._questions = Questions(options, "[build.chat]")

    def look(self, source: Image.Image, target: Image.Image, given: str) -> _Question:
        asked = self._options.prompt.replace("{given}", GIVEN.replace("{text}", given) if given else NONE_GIVEN)
        shown = [picture_content(p, self._options.side) for p in (source, target)]
        content = [{"type": "text", "text": asked}, *shown]
        body = {
            "model": self._options.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": self._options.temperature,
            "max_tokens": self._options.max_tokens,
            "seed": self._seed,
            "response_format": as_json("difference", FIELDS),
        }
        return _Question(body, bool(given))

    def describe(self, seen: Sequence[_Question]) -> list[Described | None]:
        replies = self._questions.answers([question.body for question in seen], tuple(FIELDS))
        return [_read(reply, question.about_given) for reply, question in zip(replies, seen, strict=True)]


@dataclass(frozen=True, slots=True)
class _Question:
    body: Mapping[str, Any]
    about_given: bool  # whether the pair has an instruction to agree with


def _read(reply: Reply, about_given: bool) -> Described | None:
    if reply.answer is None:
        return None
    agrees = AGREEMENT.get(reply.answer["agrees"]) if about_given else None
    served = {"served_by": reply.model, "tokens_in": reply.tokens_in, "tokens_out": reply.tokens_out}
    return Described(" ".join(reply.answer["instruction"].split()), agrees, served)
