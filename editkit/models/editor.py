"""Editing pictures with a trained model: what `editkit edit`, the evaluation and the demo share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from editkit.data.prepare import PrepareParams, prepare, to_image, to_network
from editkit.errors import UserError
from editkit.models import METADATA
from editkit.models.adapters import is_adapter, load_adapter
from editkit.models.autoencoders import encode_pictures, reconstruct
from editkit.models.callbacks import on_step_end
from editkit.models.locate import locate_trained, read_metadata
from editkit.models.quiet import quiet_files
from editkit.models.stable_diffusion.drawn import finish_latents
from editkit.models.stable_diffusion.forward import sample_latents
from editkit.models.stable_diffusion.load import Options, StableDiffusion, load

Progress = Callable[[int, int], None]  # (steps done, steps in all)


class StableDiffusionEditor:
    """An InstructPix2Pix model with its preprocessing and its default guidance.

    Sampling is the stock pipeline's: three branches a step and the two-way guidance of the paper, eq. 3.
    """

    def __init__(
        self,
        parts: StableDiffusion,
        *,
        name: str,
        resolution: int,
        text_guidance: float = 7.5,
        image_guidance: float = 1.5,
        steps: int = 20,
        batch_size: int = 16,
    ) -> None:
        self.name = name
        self.defaults: dict[str, Any] = {
            "text_guidance": text_guidance,
            "image_guidance": image_guidance,
            "steps": steps,
            "resolution": resolution,
        }
        self._parts = parts
        self._params = PrepareParams(resolution)
        self._batch_size = batch_size
        self._pipeline = _pipeline(parts)
        self._pipeline.set_progress_bar_config(disable=True)

    def describe(self) -> str:
        """One line for headers."""
        parameters = sum(p.numel() for p in self._parts.unet.parameters())
        return f"{self.name}: {parameters / 1e6:.1f} M parameters in the UNet, {self.defaults['resolution']} px"

    def edit(
        self,
        images: Sequence[Image.Image],
        instructions: Sequence[str],
        *,
        text_guidance: float | None = None,
        image_guidance: float | None = None,
        steps: int | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        source_weight: float = 1.0,
    ) -> list[Image.Image]:
        """Edits pictures.

        Args:
            images: sources of any size; they go through the one preprocessing path.
            instructions: one a picture.
            text_guidance: s_T, how strongly the instruction counts; 1 = not at all beyond the prediction itself.
            image_guidance: s_I, how strongly the source counts.
            steps: sampling steps.
            seed: of the whole series; picture i gets its own noise.
            progress: called with (steps done, steps in all) over all batches.
            source_weight: 0 hides the source, for the baseline that draws from the text alone.

        Returns:
            RGB pictures of the model's resolution.
        """
        steps = steps or self.defaults["steps"]
        text_guidance = self.defaults["text_guidance"] if text_guidance is None else text_guidance
        image_guidance = self.defaults["image_guidance"] if image_guidance is None else image_guidance
        if len(images) != len(instructions):
            raise ValueError(f"{len(images)} images and {len(instructions)} instructions")
        batches = -(-len(images) // self._batch_size)
        edited: list[Image.Image] = []
        for number in range(batches):
            start = number * self._batch_size
            chunk = slice(start, start + self._batch_size)

            def report(done: int, number: int = number) -> None:
                if progress is not None:
                    progress(number * steps + done, batches * steps)

            pixels = torch.cat([prepare([image], self._params) for image in images[chunk]])
            edited += self._edit_batch(
                pixels,
                list(instructions[chunk]),
                text_guidance,
                image_guidance,
                steps,
                seed,
                start,
                source_weight,
                report,
            )
        return edited

    @torch.no_grad()
    def _edit_batch(
        self,
        pixels: torch.Tensor,
        instructions: list[str],
        text_guidance: float,
        image_guidance: float,
        steps: int,
        seed: int,
        first: int,
        source_weight: float,
        report: Callable[[int], None],
    ) -> list[Image.Image]:
        device = self._parts.unet.device
        source = encode_pictures(self._parts.vae, to_network(pixels).to(device)).mean * source_weight
        noise = sample_latents(self._parts, len(pixels), self.defaults["resolution"], seed, first)
        drawn = self._pipeline(
            prompt=instructions,
            image=source,
            latents=noise,
            num_inference_steps=steps,
            guidance_scale=text_guidance,
            image_guidance_scale=image_guidance,
            output_type="latent",
            callback_on_step_end=on_step_end(report),
        ).images
        decoded = self._parts.vae.decode(finish_latents(self._parts, drawn, source), return_dict=False)[0]
        return [to_image(x) for x in decoded]

    def reconstruct(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        """What the VAE leaves of pictures: RGB pictures of the model's resolution."""
        batches = (images[start : start + self._batch_size] for start in range(0, len(images), self._batch_size))
        prepared = (torch.cat([prepare([image], self._params) for image in batch]) for batch in batches)
        return [picture for pixels in prepared for picture in reconstruct(self._parts.vae, pixels)]

    def save(self, folder: Path) -> None:
        """Writes the stock pipeline."""
        with quiet_files():
            self._pipeline.save_pretrained(folder)


def load_editor(run: str, *, device: torch.device | None = None) -> StableDiffusionEditor:
    """Loads an editor.

    Args:
        run: a run, "latest", "lab:NAME", a folder in the stock layout, or a Hub id.
        device: where it computes; None = the CPU.

    Raises:
        UserError: there is no editor.
    """
    folder = locate_trained(run, ("adapter", "model"))
    facts = read_metadata(folder)
    parts = _load_adapter(folder, facts) if is_adapter(folder) else load(str(folder), Options())
    channels = parts.unet.config["in_channels"]
    if channels != 2 * parts.latent_channels:
        raise UserError(
            f"{run}: its UNet takes {channels} channels, so it draws from text and cannot edit; "
            'expected an editor, such as "lab:tiny-edit" or a run of recipes/instructpix2pix.toml'
        )
    for module in parts.modules.values():
        module.to(device or "cpu").eval()
    resolution = facts.get("prepare", {}).get("resolution") or parts.unet.config["sample_size"] * parts.vae_scale
    return StableDiffusionEditor(parts, name=facts.get("name") or run, resolution=resolution, **facts.get("sampling", {}))


def _pipeline(parts: StableDiffusion) -> Any:
    from diffusers import StableDiffusionInstructPix2PixPipeline  # slow, and nothing before the first preview needs it

    return parts.pipeline(StableDiffusionInstructPix2PixPipeline)


def _load_adapter(folder: Path, facts: dict[str, Any]) -> StableDiffusion:
    if "base" not in facts:
        raise UserError(f"{folder}: found no {METADATA}, so it is not known which model the adapter belongs to")
    parts = load(facts["base"], Options())
    pipeline = _pipeline(parts)
    load_adapter(pipeline, folder)
    parts.put("text_encoder", pipeline.text_encoder)
    return parts
