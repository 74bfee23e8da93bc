"""An editing pipeline of diffusers as a renderer of builds: what it needs, and one picture edited by words.

Any that takes a picture and words will do: InstructPix2Pix (the lab's too), FLUX.1 Kontext, Qwen-Image-Edit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Annotated, Any, Literal

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from pydantic import Field

from editkit.errors import UserError
from editkit.models.callbacks import on_step_end
from editkit.models.locate import locate_model
from editkit.models.precision import choose_device, dtype_of
from editkit.models.quiet import quiet_files
from editkit.models.stable_diffusion.drawn import drawn_by
from editkit.recipe.schema import PositiveFloat, PositiveInt, Section

GUIDANCE = ("true_cfg_scale", "guidance_scale")  # what pipelines call it; the first that one has is it


class EditorModel(Section):
    """The keys of `[build.render]` that say which editor, and how it is asked."""

    model: str  # an editing pipeline: "lab:tiny-edit", a folder, a run or a Hub id
    steps: PositiveInt = 28
    guidance: Annotated[list[PositiveFloat], Field(min_length=2, max_length=2)] = [2.5, 2.5]  # drawn between the two
    image_guidance: PositiveFloat | None = None  # for pipelines that have one, as InstructPix2Pix does
    precision: Literal["fp32", "bf16"] = "bf16"


@dataclass(frozen=True, slots=True)
class Edited:
    """What an editor made, and the numbers that it was drawn with."""

    picture: Image.Image
    seed: int
    guidance: float


class InstructionEditor:
    """A pipeline that is loaded.

    Args:
        options: which, and how it is asked.
        version: hash of its weights, for provenance.
        place: the table that has the options, for messages.

    Raises:
        UserError: it is no pipeline, or none that edits as the options say.
    """

    def __init__(self, options: EditorModel, version: str, place: str = "[build.render]") -> None:
        torch.set_num_threads(1)  # the sums of more threads would round otherwise
        device = choose_device()
        dtype = dtype_of(options.precision, device, place)
        try:
            with quiet_files():
                folder = locate_model(options.model)
                pipeline = DiffusionPipeline.from_pretrained(folder, dtype=dtype)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{place} model: {options.model} is no pipeline of diffusers ({reason})") from error
        takes = inspect.signature(pipeline.__call__).parameters
        if not {"image", "prompt"} <= takes.keys():
            raise UserError(f"{place} model: {type(pipeline).__name__} takes no picture and words; expected an editor")
        if "unet" in pipeline.components and drawn_by(pipeline.unet.config) == "difference":
            raise UserError(
                f"{place} model: {options.model} draws what is to be added to a picture; expected one that draws it"
            )
        self._place, self._takes = place, takes
        self.name = type(pipeline).__name__
        self._check_guidance(options)
        pipeline.to(device)
        pipeline.set_progress_bar_config(disable=True)
        said = options.model_dump(include={"model", "steps", "precision", "image_guidance"})
        self.about = {"model_sha256": version, **said}
        self._pipeline: Any = pipeline
        self._options = options
        self._guidance = next((name for name in GUIDANCE if name in takes), "")

    def edit(
        self,
        source: Image.Image,
        instruction: str,
        rng: Random,
        options: EditorModel | None = None,
        after_step: Callable[[], None] | None = None,
    ) -> Edited:
        """Edits a picture.

        Args:
            source: RGB.
            instruction: what to do.
            rng: gives the guidance and the seed of the noise.
            options: how it is asked this time; None = as it was opened with.
            after_step: called after each sampling step, by pipelines that tell of them.

        Returns:
            A picture of the source's size.

        Raises:
            UserError: an image guidance that the pipeline does not have.
        """
        options = options or self._options
        self._check_guidance(options)
        guidance, seed = rng.uniform(*options.guidance), rng.getrandbits(62)
        asked: dict[str, Any] = {"prompt": instruction, "image": source}
        if self._guidance:
            asked[self._guidance] = guidance
        if options.image_guidance is not None:
            asked["image_guidance_scale"] = options.image_guidance
        if after_step is not None and "callback_on_step_end" in self._takes:
            asked["callback_on_step_end"] = on_step_end(lambda _: after_step())
        generator = torch.Generator().manual_seed(seed)  # of the CPU: the same numbers on every device
        target = self._pipeline(**asked, num_inference_steps=options.steps, generator=generator).images[0].convert("RGB")
        if target.size != source.size:  # some pipelines choose a size that they like
            target = target.resize(source.size, Image.Resampling.LANCZOS)
        return Edited(target, seed, guidance)

    def _check_guidance(self, options: EditorModel) -> None:
        if options.image_guidance is not None and "image_guidance_scale" not in self._takes:
            raise UserError(f"{self._place} image_guidance: {self.name} has none; take the key out")
