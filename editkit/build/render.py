"""The stage "render": several pairs of pictures for every pair of prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Annotated, Any, Literal

import pyarrow as pa
import torch
from pydantic import Field, model_validator

from editkit.build.rows import Row
from editkit.build.teachers.protocol import PROPOSALS
from editkit.data.pictures import png_bytes
from editkit.data.prepare import to_image
from editkit.errors import UserError
from editkit.models.precision import choose_device, dtype_of
from editkit.models.stable_diffusion.load import Options as ModelOptions
from editkit.models.stable_diffusion.load import load
from editkit.models.stable_diffusion.prompt_to_prompt import PromptPair, sample_pairs
from editkit.recipe.schema import Fraction, PositiveFloat, PositiveInt, Section

VERSION = 1
RENDERS = PROPOSALS.remove(PROPOSALS.get_field_index("dropped"))
for name, type_ in (
    ("sample", pa.int32()), ("source", pa.binary()), ("target", pa.binary()), ("seed", pa.int64()),
    ("share", pa.float64()), ("guidance", pa.float64()), ("renderer", pa.string()),
):  # fmt: skip
    RENDERS = RENDERS.append(pa.field(name, type_))

_Two = Field(min_length=2, max_length=2)


class RenderOptions(Section):
    """The keys of `[build.render]`; the ranges are the paper's."""

    renderer: Literal["prompt_to_prompt"] = "prompt_to_prompt"
    model: str  # a whole Stable Diffusion: "lab:tiny-sd", a folder, a run or a Hub id
    samples: PositiveInt = 100  # pairs of pictures drawn for every pair of prompts
    share: Annotated[list[Fraction], _Two] = [0.1, 0.9]  # of the steps, in which the target looks as the source does; drawn
    guidance: Annotated[list[PositiveFloat], _Two] = [7.5, 15.0]  # drawn, too
    steps: PositiveInt = 100
    sampler: Literal["euler_ancestral", "ddim"] = "euler_ancestral"
    precision: Literal["fp32", "bf16"] = "fp32"  # of the UNet
    resolution: PositiveInt | None = None  # px; without it, what the model was trained at
    batch_size: PositiveInt = 16  # pairs that are sampled at once
    prompts_per_part: PositiveInt = 16  # of which a part on disk is made: what a kill costs at most, a process

    @model_validator(mode="after")
    def _ranges(self) -> RenderOptions:
        for name in ("share", "guidance"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: found [{low}, {high}]; expected [LOWEST, HIGHEST]")
        return self


@dataclass(frozen=True)
class RenderPairs:
    """Prompt-to-Prompt with a Stable Diffusion; a sample's numbers are drawn from seed, proposal and its own number."""

    options: RenderOptions
    seed: int
    model_version: str
    name = "render"
    schema = RENDERS
    part_size = 0
    processes = 0
    accelerated = True
    releases = False

    def identity(self) -> Mapping[str, Any]:
        return {"version": VERSION, "seed": self.seed, "model_sha256": self.model_version, **self.options.model_dump()}

    def open(self) -> Callable[[list[Row]], list[Row]]:
        torch.set_num_threads(1)  # the sums of more threads would round otherwise
        parts = load(self.options.model, ModelOptions())
        channels = parts.unet.config["in_channels"]
        if channels != parts.latent_channels:
            raise UserError(f"[build.render] model: found {self.options.model}, an editor; expected one that draws from text")
        device = choose_device()
        for module in parts.modules.values():
            module.to(device).eval()
        resolution = self.options.resolution or parts.unet.config["sample_size"] * parts.vae_scale
        dtype = dtype_of(self.options.precision, device, "[build.render]")
        return lambda rows: self._render(parts, resolution, dtype, rows)

    def _render(self, parts: Any, resolution: int, dtype: torch.dtype, rows: Sequence[Row]) -> list[Row]:
        asked = [(row, sample, self.request(row, sample)) for row in rows for sample in range(self.options.samples)]
        made: list[Row] = []
        size = self.options.batch_size
        for start in range(0, len(asked), size):
            chunk = asked[start : start + size]
            sources, targets = sample_pairs(
                parts,
                [pair for _, _, pair in chunk],
                steps=self.options.steps,
                resolution=resolution,
                sampler=self.options.sampler,
                dtype=dtype,
            )
            for (row, sample, pair), source, target in zip(chunk, sources.cpu(), targets.cpu(), strict=True):
                made.append(self._row(row, sample, pair, png_bytes(to_image(source)), png_bytes(to_image(target))))
        return made

    def request(self, row: Row, sample: int) -> PromptPair:
        """What sample number `sample` of a proposal is drawn from."""
        rng = Random(f"render/{self.seed}/{row['key']}/{sample}")
        share, guidance = rng.uniform(*self.options.share), rng.uniform(*self.options.guidance)
        return PromptPair(row["caption"], row["edited_caption"], rng.getrandbits(62), share, guidance)

    def _row(self, row: Row, sample: int, pair: PromptPair, source: bytes, target: bytes) -> Row:
        renderer = {
            "name": "prompt-to-prompt",
            "version": VERSION,
            "model": self.options.model,
            "model_sha256": self.model_version,
            "steps": self.options.steps,
            "sampler": self.options.sampler,
            "precision": self.options.precision,
        }
        drawn = {"sample": sample, "seed": pair.seed, "share": pair.share, "guidance": pair.guidance}
        return {**row, **drawn, "source": source, "target": target, "renderer": json.dumps(renderer)}
