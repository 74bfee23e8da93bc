"""A chat model as a teacher: from a caption to an instruction and the edited caption (InstructPix2Pix, section 3.1.1).

The paper fine-tuned GPT-3 on 700 triples; models of today follow a prompt. Replies are kept by content, so that a build that
was stopped, or one with another filter, asks nothing twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field

from editkit.build.rows import Row
from editkit.build.teachers.captions import Captions, proposal
from editkit.build.teachers.chat_client import ChatClient, Price, Reply
from editkit.build.teachers.replies import Replies, replies_folder
from editkit.recipe.schema import NonNegativeInt, PositiveFloat, PositiveInt, Section

VERSION = 1
PROMPT = """\
You write training examples for a model that edits pictures. You are given the caption of a picture. Think of one edit that \
a person might ask for and that can be seen in the picture: something added, removed or replaced, another colour, material, \
place, season, time of day or style. Answer with the instruction, as a person would type it, and with the caption of the \
edited picture, which is the given caption changed as little as the edit allows."""
ANSWER = {
    "name": "edit",
    "strict": True,
    "schema": {
        "type": "object",
        "properties": {"instruction": {"type": "string"}, "edited_caption": {"type": "string"}},
        "required": ["instruction", "edited_caption"],
        "additionalProperties": False,
    },
}


class ChatOptions(Section):
    """The keys of `[build.propose]` with `teacher = "chat"`; temperature and penalty are the paper's."""

    teacher: Literal["chat"]
    url: Annotated[str, Field(pattern=r"^https?://")]  # up to and with /v1: vLLM, llama.cpp, a vendor
    model: str
    captions: str  # a text file with a caption a line, or a data set of captioned pictures, as a recipe's data.train has it
    key_env: str = ""  # the environment variable that holds the key; keys stand in no spec
    prompt: str = PROMPT
    temperature: Annotated[float, Field(ge=0)] = 0.7
    frequency_penalty: float = 0.1
    max_tokens: PositiveInt = 256
    concurrency: PositiveInt = 8  # requests at once
    per_minute: NonNegativeInt = 0  # requests at most; 0 = as many as it takes
    attempts: PositiveInt = 6  # for one caption
    timeout_s: PositiveFloat = 60.0
    price_in: Annotated[float, Field(ge=0)] = 0.0  # for a million tokens, in whatever currency; for the ledger
    price_out: Annotated[float, Field(ge=0)] = 0.0
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
        options = self.options
        folder = replies_folder()
        price = Price(options.price_in, options.price_out)
        client = ChatClient(
            options.url,
            key_env=options.key_env,
            per_minute=options.per_minute,
            attempts=options.attempts,
            timeout_s=options.timeout_s,
            price=price,
            ledger=folder / "ledger.jsonl",
        )
        return partial(self._propose, client, Replies(folder / "replies.sqlite"), self.captions.reader())

    def _propose(
        self, client: ChatClient, replies: Replies, read: Callable[[Row], tuple[str, str]], rows: list[Row]
    ) -> list[Row]:
        read_rows = [read(row) for row in rows]  # one after the other: a data set reads whole groups
        pool = ThreadPoolExecutor(self.options.concurrency)
        try:
            answers = list(pool.map(lambda found: self._answer(client, replies, found[1]), read_rows))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return [self._row(*each) for each in zip(rows, read_rows, answers, strict=True)]

    def _answer(self, client: ChatClient, replies: Replies, caption: str) -> Reply:
        body = self._body(caption)
        key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        known = replies.get(key)
        if known is None:
            known = client.ask(body, key, ("instruction", "edited_caption"))
            replies.put(key, known)
        return known

    def _body(self, caption: str) -> dict[str, Any]:
        return {
            "model": self.options.model,
            "messages": [{"role": "system", "content": self.options.prompt}, {"role": "user", "content": caption}],
            "temperature": self.options.temperature,
            "frequency_penalty": self.options.frequency_penalty,
            "max_tokens": self.options.max_tokens,
            "seed": self.seed,
            "response_format": {"type": "json_schema", "json_schema": ANSWER},
        }

    def _row(self, row: Row, found: tuple[str, str], reply: Reply) -> Row:
        served = {"served_by": reply.model, "tokens_in": reply.tokens_in, "tokens_out": reply.tokens_out}
        return proposal(row, *found, reply.answer, {**self.identity(), **served})
