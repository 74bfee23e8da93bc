"""Describing the difference: `builder = "describe"` lets a vision-language model say what changes between two pictures.

For pairs that have no instruction it writes one; of those that have one it says whether it is what happens, so that the page of
pairs can show the doubtful ones first and a filter can leave them out.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import pyarrow as pa
from PIL import Image
from pydantic import Field

from editkit.build.generated import GeneratedPairs
from editkit.build.rows import Row, parquet_schema, png_bytes, to_row
from editkit.build.stages import DROPPED, Gathering, Stage
from editkit.build.teachers.chat_client import Reply
from editkit.build.teachers.endpoint import Endpoint, Questions, as_json
from editkit.data.examples import EditPair
from editkit.data.pictures import PictureError
from editkit.data.read import open_dataset
from editkit.data.spec import DataSpec
from editkit.errors import UserError
from editkit.recipe.schema import NonNegativeInt, PositiveInt, Section

VERSION = 1
AGREEMENT = {"yes": 1.0, "partly": 0.5, "no": 0.0}  # of the given instruction with the pictures, as a score
PROMPT = """\
You are shown two pictures, before and after an edit. Say what was asked for, as a person would type it to an editor: one \
short instruction that turns the first into the second and names nothing that stays. {given}"""
GIVEN = 'Then say whether this instruction describes the same change: "{text}". Answer yes, partly or no.'
NONE_GIVEN = "Then answer yes."
FIELDS = {"instruction": (), "agrees": tuple(AGREEMENT)}
DESCRIBED = parquet_schema("edit_pairs", generated=True).append(pa.field(DROPPED, pa.string()))


class ChatEndpoint(Endpoint):
    """The keys of `[build.chat]`: a model that looks at pictures."""

    prompt: str = PROMPT  # with {given} where the question about the instruction that is there belongs
    temperature: Annotated[float, Field(ge=0)] = 0.0
    side: PositiveInt = 512  # px; larger pictures are sent that large


@dataclass(frozen=True)
class Describe:
    """The only stage: looks at both pictures of a pair."""

    options: ChatEndpoint
    pairs: str
    sums: Mapping[str, str]  # split -> hash of the data
    write: str
    least: float
    seed: int
    name = "describe"
    schema = DESCRIBED
    processes = 1  # limits of rate hold for one process
    accelerated = False
    releases = False
    part_size = 50

    def identity(self) -> Mapping[str, Any]:
        asked = self.options.model_dump(include={"model", "prompt", "temperature", "max_tokens", "side"})
        said = {"name": "describe", "version": VERSION, "pairs": self.pairs, "sha256": dict(self.sums)}
        return {**said, "write": self.write, "least": self.least, "seed": self.seed, **asked}

    def open(self) -> Callable[[list[Row]], list[Row]]:
        return partial(self._describe, Questions(self.options, "[build.chat]"))

    def _describe(self, questions: Questions, rows: list[Row]) -> list[Row]:
        splits = {row["split"] for row in rows}
        opened = {split: open_dataset(self.pairs, split) for split in splits}
        pairs: list[EditPair] = [opened[row["split"]][row["index"]] for row in rows]
        bodies = {i: body for i, pair in enumerate(pairs) if (body := self._body(pair)) is not None}
        replies = dict(zip(bodies, questions.answers(list(bodies.values()), tuple(FIELDS)), strict=True))
        return [self._row(row, pair, replies.get(i)) for i, (row, pair) in enumerate(zip(rows, pairs, strict=True))]

    def _body(self, pair: EditPair) -> dict[str, Any] | None:
        """The question about a pair; None where its pictures cannot be read."""
        try:
            pictures = [self._shown(picture.open()) for picture in (pair.source, pair.target)]
        except PictureError:
            return None
        text = _given(pair)
        asked = self.options.prompt.replace("{given}", GIVEN.replace("{text}", text) if text else NONE_GIVEN)
        urls = [f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in pictures]
        content = [{"type": "text", "text": asked}, *({"type": "image_url", "image_url": {"url": url}} for url in urls)]
        return {
            "model": self.options.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": self.options.temperature,
            "max_tokens": self.options.max_tokens,
            "seed": self.seed,
            "response_format": as_json("difference", FIELDS),
        }

    def _shown(self, picture: Image.Image) -> bytes:
        picture.thumbnail((self.options.side, self.options.side), Image.Resampling.LANCZOS)
        return png_bytes(picture)

    def _row(self, row: Row, pair: EditPair, reply: Reply | None) -> Row:
        key = f"{row['split']}-{row['index']:06d}"
        if reply is None or reply.answer is None:
            why = "no usable reply" if reply else "a picture cannot be read"
            return {**dict.fromkeys(DESCRIBED.names), "key": key, DROPPED: why}
        said, agrees = " ".join(reply.answer["instruction"].split()), AGREEMENT.get(reply.answer["agrees"])
        given = _given(pair)
        own = not given or self.write == "all"
        before = json.loads(pair.provenance) if pair.provenance else {}
        score = {"agreement": agrees} if given and agrees is not None else {}
        served = {"served_by": reply.model, "tokens_in": reply.tokens_in, "tokens_out": reply.tokens_out}
        came = before | {
            "parent": pair.key,
            "describer": {**self.identity(), **served},
            "described_as": said,
            "given": given,
            "scores": before.get("scores", {}) | score,
        }
        dropped = ""
        if own and not said:
            dropped = "no usable reply"
        elif not own and score.get("agreement", 1.0) < self.least:
            dropped = "another edit"
        kept = to_row(pair) | {"key": key, "provenance": json.dumps(came), DROPPED: dropped}
        return kept | ({"instructions": [said]} if own else {})


def _given(pair: EditPair) -> str:
    return next((text for text in pair.instructions if text.strip()), "")


class DescribeBuilder(GeneratedPairs):
    """Of edit pairs, by the stages that the module names."""

    builder = "describe"

    class Options(Section):
        """The keys of `[build]` behind `builder`."""

        pairs: str  # a data set of edit pairs, with instructions or without, as a recipe's data.train has it
        train: NonNegativeInt  # pairs from the beginning of the split
        test: NonNegativeInt
        seed: int = 0
        write: Literal["missing", "all"] = "missing"  # where the model's instruction is taken
        least: Annotated[float, Field(ge=0, le=1)] = 0.0  # agreement (yes 1, partly 0.5, no 0) below which a pair is dropped
        chat: ChatEndpoint

    def stages(self, spec: DataSpec) -> Sequence[Stage | Gathering]:
        options, sums = self._options, {}
        for split, count in self.counts().items():
            if not count:
                continue
            dataset = open_dataset(options.pairs, split)
            if dataset.info["kind"] != "edit_pairs":
                raise UserError(f"{options.pairs}: found {dataset.info['kind']}; expected edit_pairs")
            if len(dataset) < count:
                raise UserError(f'{options.pairs}: found {len(dataset)} examples of "{split}"; [build] asks for {count}')
            sums[split] = str(dataset.info.get("sha256", ""))
            said = dataset.info.get("licences", {})
            self._credits |= {name: str(about.get("credit", "")) for name, about in said.items()}
        stage = Describe(options.chat, options.pairs, sums, options.write, options.least, options.seed)
        self._teachers = {"describe": dict(stage.identity())}
        return [stage]
