"""The stage "render" by an instruction editor: the source is a picture that is there, the target what the editor makes of it.

Any editing pipeline of diffusers will do that takes a picture and words: InstructPix2Pix (the lab's too), FLUX.1 Kontext,
Qwen-Image-Edit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Literal

from PIL import Image

from editkit.build.editor import EditorModel, InstructionEditor
from editkit.build.render import RENDERS
from editkit.build.rows import Row
from editkit.data.pictures import png_bytes
from editkit.data.prepare import PrepareParams, prepare
from editkit.data.read import open_dataset
from editkit.errors import UserError
from editkit.recipe.schema import PositiveInt

VERSION = 1


class EditorOptions(EditorModel):
    """The keys of `[build.render]` with `renderer = "editor"`."""

    renderer: Literal["editor"]
    samples: PositiveInt = 4  # targets drawn for every proposal
    resolution: PositiveInt | None = None  # px, square; without it, pictures are edited as large as they are
    prompts_per_part: PositiveInt = 16


@dataclass(frozen=True)
class RenderEdits:
    """Edits the pictures whose captions the proposals were made from; numbers are drawn from seed, proposal and sample."""

    options: EditorOptions
    seed: int
    model_version: str
    pictures: str  # the data set of captioned pictures
    name = "render"
    schema = RENDERS
    part_size = 0
    processes = 0
    accelerated = True
    releases = False

    def identity(self) -> Mapping[str, Any]:
        said = {"version": VERSION, "seed": self.seed, "pictures": self.pictures}
        return {**said, "model_sha256": self.model_version, **self.options.model_dump()}

    def open(self) -> Callable[[list[Row]], list[Row]]:
        return partial(self._render, InstructionEditor(self.options, self.model_version))

    def _render(self, editor: InstructionEditor, rows: Sequence[Row]) -> list[Row]:
        opened: dict[str, Any] = {}
        made = []
        for row in rows:
            split, index = row["split"], int(row["key"].rpartition("-")[2])
            if split not in opened:
                opened[split] = open_dataset(self.pictures, split)
            example = opened[split][index]
            if example.key != row["parent"]:
                raise UserError(f"{self.pictures}: changed since its captions were read; build into another folder")
            source = example.image.open()
            if self.options.resolution:
                pixels_CHW = prepare([source], PrepareParams(self.options.resolution))[0]
                source = Image.fromarray(pixels_CHW.permute(1, 2, 0).numpy())
            for sample in range(self.options.samples):
                made.append(self._sample(editor, row, source, sample))
        return made

    def _sample(self, editor: InstructionEditor, row: Row, source: Image.Image, sample: int) -> Row:
        rng = Random(f"render/{self.seed}/{row['key']}/{sample}")
        drawn = editor.edit(source, row["instructions"][sample % len(row["instructions"])], rng)
        how = {"sample": sample, "seed": drawn.seed, "share": 0.0, "guidance": drawn.guidance}
        about = {"renderer": json.dumps({"name": editor.name, "version": VERSION, **editor.about})}
        return {**row, **how, **about, "source": png_bytes(source), "target": png_bytes(drawn.picture)}
