"""Describing the difference: `builder = "describe"` lets a model that sees both pictures say what changes between them.

For pairs that have no instruction it writes one; of those that have one it says whether it is what happens, so that the page of
pairs can show the doubtful ones first and a filter can leave them out. The model is a vision-language model behind a chat
endpoint, or a difference captioner that was trained here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from editkit.build.describers.captioner import CaptionerDescriber, CaptionerOptions
from editkit.build.describers.chat import ChatDescriber, ChatEndpoint
from editkit.build.describers.protocol import Described, Describer, Describing
from editkit.build.generated import GeneratedExamples
from editkit.build.rows import Row, parquet_schema, to_row
from editkit.build.stages import DROPPED, Gathering, Stage
from editkit.data.examples import EditPair
from editkit.data.pictures import PictureError
from editkit.data.read import open_dataset
from editkit.data.spec import DataSpec
from editkit.recipe.schema import NonNegativeInt, Section

VERSION = 1
DESCRIBED = parquet_schema("edit_pairs", generated=True).append(pa.field(DROPPED, pa.string()))


@dataclass(frozen=True)
class Describe:
    """The only stage: looks at both pictures of a pair."""

    describer: Describer
    pairs: str
    sums: Mapping[str, str]  # split -> hash of the data
    write: str
    least: float
    name = "describe"
    schema = DESCRIBED
    releases = False
    part_size = 50

    @property
    def processes(self) -> int:
        return self.describer.processes

    @property
    def accelerated(self) -> bool:
        return self.describer.accelerated

    def identity(self) -> Mapping[str, Any]:
        said = {"name": "describe", "version": VERSION, "pairs": self.pairs, "sha256": dict(self.sums)}
        return {**said, "write": self.write, "least": self.least, **self.describer.identity()}

    def open(self) -> Callable[[list[Row]], list[Row]]:
        return partial(self._describe, self.describer.open())

    def _describe(self, describing: Describing, rows: list[Row]) -> list[Row]:
        splits = {row["split"] for row in rows}
        opened = {split: open_dataset(self.pairs, split) for split in splits}
        pairs: list[EditPair] = [opened[row["split"]][row["index"]] for row in rows]
        seen = {i: found for i, pair in enumerate(pairs) if (found := _look(describing, pair)) is not None}
        described = dict(zip(seen, describing.describe(list(seen.values())), strict=True))
        found = []
        for i, (row, pair) in enumerate(zip(rows, pairs, strict=True)):
            key, said = f"{row['split']}-{row['index']:06d}", described.get(i)
            why = "no usable reply" if i in seen else "a picture cannot be read"
            found.append(self._row(key, pair, said) if said else {**dict.fromkeys(DESCRIBED.names), "key": key, DROPPED: why})
        return found

    def _row(self, key: str, pair: EditPair, described: Described) -> Row:
        said, given = described.instruction, _given(pair)
        own = not given or self.write == "all"
        before = json.loads(pair.provenance) if pair.provenance else {}
        score = {} if described.agreement is None else {"agreement": described.agreement}
        came = before | {
            "parent": pair.key,
            "describer": {**self.identity(), **described.about},
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


def _look(describing: Describing, pair: EditPair) -> Any:
    """What the describer keeps of a pair; None where a picture cannot be read."""
    try:
        return describing.look(pair.source.open(), pair.target.open(), _given(pair))
    except PictureError:
        return None


def _given(pair: EditPair) -> str:
    return next((text for text in pair.instructions if text.strip()), "")


class DescribeBuilder(GeneratedExamples):
    """Of edit pairs, by the stages that the module names."""

    builder = "describe"

    class Options(Section):
        """The keys of `[build]` behind `builder`."""

        pairs: str  # a data set of edit pairs, with instructions or without, as a recipe's data.train has it
        train: NonNegativeInt  # pairs from the beginning of the split
        test: NonNegativeInt
        seed: int = 0  # of the chat model
        write: Literal["missing", "all"] = "missing"  # where the model's instruction is taken
        # Agreement below which a pair is dropped: of a chat model yes 1, partly 0.5, no 0; of a captioner above 0.5 where the
        # words that are there fit the pair better than others.
        least: Annotated[float, Field(ge=0, le=1)] = 0.0
        chat: ChatEndpoint | None = None
        captioner: CaptionerOptions | None = None

        @model_validator(mode="after")
        def _one_describer(self) -> DescribeBuilder.Options:
            tables = ("[build.chat]", self.chat), ("[build.captioner]", self.captioner)
            found = " and ".join(name for name, table in tables if table is not None)
            if found not in dict(tables):
                raise ValueError(
                    f"found {found or 'neither [build.chat] nor [build.captioner]'}; expected one of them: a chat endpoint, or "
                    'a trained captioner such as model = "lab:difference-captioner"'
                )
            return self

    def stages(self, spec: DataSpec) -> Sequence[Stage | Gathering]:
        options = self._options
        sums = self._parents(options.pairs, "edit_pairs", one_each=True)
        stage = Describe(self._describer(), options.pairs, sums, options.write, options.least)
        self._teachers = {"describe": dict(stage.identity())}
        return [stage]

    def _describer(self) -> Describer:
        options = self._options
        if options.captioner is not None:
            return CaptionerDescriber.of(options.captioner)
        return ChatDescriber(options.chat, options.seed)
