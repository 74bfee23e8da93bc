"""The stage "render" by an instruction editor: the source is a picture that is there, the target what the editor makes of it.

Any editing pipeline of diffusers will do that takes a picture and words: InstructPix2Pix (the lab's too), FLUX.1 Kontext,
Qwen-Image-Edit.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Annotated, Any, Literal

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from pydantic import Field

from editkit.build.render import RENDERS
from editkit.build.rows import Row
from editkit.data.pictures import png_bytes
from editkit.data.prepare import PrepareParams, prepare
from editkit.data.read import open_dataset
from editkit.errors import UserError
from editkit.models.locate import locate_model
from editkit.models.precision import DTYPES, choose_device
from editkit.models.quiet import quiet_files
from editkit.recipe.schema import PositiveFloat, PositiveInt, Section

VERSION = 1
GUIDANCE = ("true_cfg_scale", "guidance_scale")  # what pipelines call it; the first that one has is it


class EditorOptions(Section):
    """The keys of `[build.render]` with `renderer = "editor"`."""

    renderer: Literal["editor"]
    model: str  # an editing pipeline: "lab:tiny-edit", a folder, a run or a Hub id
    samples: PositiveInt = 4  # targets drawn for every proposal
    steps: PositiveInt = 28
    guidance: Annotated[list[PositiveFloat], Field(min_length=2, max_length=2)] = [2.5, 2.5]  # drawn between the two
    image_guidance: PositiveFloat | None = None  # for pipelines that have one, as InstructPix2Pix does
    precision: Literal["fp32", "bf16"] = "bf16"
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
        torch.set_num_threads(1)  # the sums of more threads would round otherwise
        try:
            with quiet_files():
                folder, dtype = locate_model(self.options.model), DTYPES[self.options.precision]
                pipeline = DiffusionPipeline.from_pretrained(folder, dtype=dtype)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"[build.render] model: {self.options.model} is no pipeline of diffusers ({reason})") from error
        takes = inspect.signature(pipeline.__call__).parameters
        if not {"image", "prompt"} <= takes.keys():
            raise UserError(f"[build.render] model: {type(pipeline).__name__} takes no picture and words; expected an editor")
        if self.options.image_guidance is not None and "image_guidance_scale" not in takes:
            raise UserError(f"[build.render] image_guidance: {type(pipeline).__name__} has none; take the key out")
        pipeline.to(choose_device())
        pipeline.set_progress_bar_config(disable=True)
        return partial(self._render, pipeline, next((name for name in GUIDANCE if name in takes), ""))

    def _render(self, pipeline: Any, guidance_name: str, rows: Sequence[Row]) -> list[Row]:
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
                made.append(self._sample(pipeline, guidance_name, row, source, sample))
        return made

    def _sample(self, pipeline: Any, guidance_name: str, row: Row, source: Image.Image, sample: int) -> Row:
        options = self.options
        rng = Random(f"render/{self.seed}/{row['key']}/{sample}")
        guidance, seed = rng.uniform(*options.guidance), rng.getrandbits(62)
        asked: dict[str, Any] = {"prompt": row["instructions"][sample % len(row["instructions"])], "image": source}
        if guidance_name:
            asked[guidance_name] = guidance
        if options.image_guidance is not None:
            asked["image_guidance_scale"] = options.image_guidance
        generator = torch.Generator().manual_seed(seed)  # of the CPU: the same numbers on every device
        target = pipeline(**asked, num_inference_steps=options.steps, generator=generator).images[0].convert("RGB")
        if target.size != source.size:  # some pipelines choose a size that they like
            target = target.resize(source.size, Image.Resampling.LANCZOS)
        said = options.model_dump(include={"model", "steps", "precision", "image_guidance"})
        renderer = {"name": type(pipeline).__name__, "version": VERSION, "model_sha256": self.model_version, **said}
        drawn = {"sample": sample, "seed": seed, "share": 0.0, "guidance": guidance, "renderer": json.dumps(renderer)}
        return {**row, **drawn, "source": png_bytes(source), "target": png_bytes(target)}
