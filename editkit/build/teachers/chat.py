"""A chat model as a teacher: from a caption to an instruction and the edited caption (InstructPix2Pix, section 3.1.1).

The paper fine-tuned GPT-3 on 700 triples; models of today follow a prompt. Replies are kept by content, so that a build that
was stopped, or one with another filter, asks nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field

from editkit.build.rows import Row
from editkit.build.teachers.captions import Captions, proposal
from editkit.models.chat.client import Reply
from editkit.models.chat.endpoint import Endpoint, Questions, as_json
from editkit.recipe.schema import PositiveInt

VERSION = 1
PROMPT = """\
You write training examples for a model that edits pictures. You are given the caption of a picture. Think of one edit that \
a person might ask for and that can be seen in the picture: something added, removed or replaced, another colour, material, \
place, season, time of day or style. Answer with the instruction, as a person would type it, and with the caption of the \
edited picture, which is the given caption changed as little as the edit allows."""
FIELDS = ("instruction", "edited_caption")


class ChatOptions(Endpoint):
    """The keys of `[build.propose]` with `teacher = "chat"`; temperature and penalty are the paper's."""

    teacher: Literal["chat"]
    captions: str  # a text file with a caption a line, or a data set of captioned pictures, as a recipe's data.train has it
    prompt: str = PROMPT
    temperature: Annotated[float, Field(ge=0)] = 0.7
    frequency_penalty: float = 0.1
    part_size: PositiveInt = 200


@dataclass(frozen=True)
class ChatTeacher:
    """Asks for all captions of a part at once, within what `concurrency` and `per_minute` allow."""

    options: ChatOptions
    seed: int
    captions: Captions
    processes = 1  # limits of rate hold for one process
    accelerated = False

    @classmethod
    def of(cls, options: ChatOptions, seed: int, counts: Mapping[str, int]) -> ChatTeacher:
        """Looks whether the captions are there and enough."""
        return cls(options, seed, Captions.of(options.captions, counts))

    def identity(self) -> Mapping[str, Any]:
        facts = self.options.model_dump(include={"model", "prompt", "temperature", "frequency_penalty", "max_tokens"})
        return {"name": "chat", "version": VERSION, "seed": self.seed, "captions_sha256": self.captions.sha256, **facts}

    def open(self) -> Callable[[list[Row]], list[Row]]:
        return partial(self._propose, Questions(self.options, "[build.propose]"), self.captions.reader())

    def _propose(self, questions: Questions, read: Callable[[Row], tuple[str, str]], rows: list[Row]) -> list[Row]:
        found = [read(row) for row in rows]  # one after the other: a data set reads whole groups
        replies = questions.answers([self._body(caption) for _, caption in found], FIELDS)
        return [self._row(*each) for each in zip(rows, found, replies, strict=True)]

    def _body(self, caption: str) -> dict[str, Any]:
        return {
            "model": self.options.model,
            "messages": [{"role": "system", "content": self.options.prompt}, {"role": "user", "content": caption}],
            "temperature": self.options.temperature,
            "frequency_penalty": self.options.frequency_penalty,
            "max_tokens": self.options.max_tokens,
            "seed": self.seed,
            "response_format": as_json("edit", dict.fromkeys(FIELDS, ())),
        }

    def _row(self, row: Row, found: tuple[str, str], reply: Reply) -> Row:
        served = {"served_by": reply.model, "tokens_in": reply.tokens_in, "tokens_out": reply.tokens_out}
        return proposal(row, *found, reply.answer, {**self.identity(), **served})
