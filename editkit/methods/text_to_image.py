"""Text-to-image diffusion: the base that everything else is fine-tuned from (Rombach et al. 2022, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from PIL import Image
from torch import nn

from editkit.data.cache import Store
from editkit.data.draws import Draws
from editkit.data.examples import CaptionedImage, Dataset
from editkit.data.pictures import Picture
from editkit.data.prepare import to_image, to_network
from editkit.diffusion.losses import denoising_target, loss_by_noise_level, min_snr_weight
from editkit.diffusion.timesteps import Timesteps, draw_timesteps, to_steps
from editkit.evaluate.judge import load_judge, score_captions
from editkit.evaluate.pictures import contact_sheet
from editkit.methods.protocol import Batch, Loss
from editkit.models.autoencoders import encode_pictures
from editkit.models.stable_diffusion.forward import TextStates, draw_latents, sample_latents
from editkit.models.stable_diffusion.load import StableDiffusion
from editkit.recipe.schema import Fraction, PositiveInt, Recipe, Section

PREVIEW_IMAGES = 24


class TextToImage:
    """Trains the UNet, and the text encoder with it where it has a rate of its own; the VAE stays frozen."""

    class Options(Section):
        """The further keys of `[method]`."""

        caption_dropout: Fraction = 0.1  # share of empty captions, for classifier-free guidance
        first_caption_weight: PositiveInt = 1  # how many times as often as each other caption the first one is drawn
        timesteps: Timesteps = Timesteps()  # how noise levels are drawn
        min_snr_gamma: float = 0.0  # 0 = every noise level counts alike
        text_encoder_lr: float = 0.0  # 0 = the text encoder is frozen

    kind = "captioned_images"

    def __init__(self, recipe: Recipe, options: Options, parts: StableDiffusion) -> None:
        self._recipe = recipe
        self._options = options
        self._parts = parts
        parts.vae.requires_grad_(False)
        parts.text_encoder.requires_grad_(options.text_encoder_lr > 0)
        self._trainable = nn.ModuleDict({"unet": parts.unet, "text_encoder": parts.text_encoder})
        self._encoded = TextStates(parts)

    @property
    def trainable(self) -> nn.Module:
        return self._trainable

    @property
    def frozen_encoders(self) -> dict[str, nn.Module]:
        return {"vae": self._parts.vae}

    @property
    def resting(self) -> list[nn.Module]:
        return [self._parts.vae, *([self._parts.text_encoder] if self._encoded.is_filled else [])]

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = [{"params": list(self._parts.unet.parameters())}]
        if self._options.text_encoder_lr:
            groups.append({"params": list(self._parts.text_encoder.parameters()), "lr": self._options.text_encoder_lr})
        return groups

    def pictures_of(self, example: CaptionedImage) -> Sequence[Picture]:
        return (example.image,)

    def texts_of(self, example: CaptionedImage) -> tuple[str, ...]:
        first, *others = example.captions
        return (first,) * self._options.first_caption_weight + tuple(others)

    def targets_of(self, example: CaptionedImage) -> Mapping[str, torch.Tensor]:
        return {}

    def encode(self, pixels_BNCHW: torch.Tensor) -> Batch:
        posterior = encode_pictures(self._parts.vae, to_network(pixels_BNCHW[:, 0]))
        return {"mean": posterior.mean, "std": posterior.std}

    def cache_texts(self, texts: Iterable[str], store: Store) -> None:
        self._encoded.fill(texts, store)

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        scheduler: Any = self._parts.scheduler
        clean = draw_latents(batch["mean"], batch["std"], self._parts.scaling_factor, draws)
        noise = draws.normal(clean)
        steps = len(scheduler.alphas_cumprod)
        t_B = draw_timesteps(draws.uniform(), self._options.timesteps)
        timesteps = to_steps(t_B, steps).to(clean.device)
        noisy = scheduler.add_noise(clean, noise, timesteps)
        drops = draws.uniform() < self._options.caption_dropout
        texts = ["" if drop else text for text, drop in zip(batch["text"], drops.tolist(), strict=True)]
        states = self._encoded(texts)
        prediction = self._parts.unet(noisy, timesteps, states).sample.float()
        error = (prediction - denoising_target(scheduler, clean, noise, timesteps)).square().mean(dim=(1, 2, 3))
        weight = torch.ones_like(error)
        if self._options.min_snr_gamma:
            weight = min_snr_weight(scheduler, timesteps, self._options.min_snr_gamma)
        return Loss((weight * error).mean(), {"mse": error.mean().detach(), **loss_by_noise_level(error.detach(), t_B)})

    @torch.no_grad()
    def generate(self, captions: Sequence[str], guidance: float, steps: int, seed: int) -> list[Image.Image]:
        """Pictures for captions, with classifier-free guidance, in batches."""
        pipeline = self._parts.pipeline(StableDiffusionPipeline)
        pipeline.set_progress_bar_config(disable=True)
        size = self._recipe.evaluate.batch_size
        made: list[Image.Image] = []
        for start in range(0, len(captions), size):
            chunk = list(captions[start : start + size])
            latents = sample_latents(self._parts, len(chunk), self._recipe.data.resolution, seed, start)
            images = pipeline(
                chunk, num_inference_steps=steps, guidance_scale=guidance, latents=latents, output_type="pt",
                height=self._recipe.data.resolution, width=self._recipe.data.resolution,
            ).images  # fmt: skip
            made += [to_image(x * 2 - 1) for x in images]
        return made

    def _scored(self, dataset: Dataset[CaptionedImage], count: int) -> tuple[list[CaptionedImage], list[Image.Image]]:
        examples = [dataset[i] for i in range(min(count, len(dataset)))]
        options = self._recipe.evaluate
        made = self.generate([e.captions[0] for e in examples], options.text_guidance, options.steps, options.seed)
        return examples, made

    def preview(self, dataset: Dataset[CaptionedImage], folder: Path, step: int) -> Mapping[str, Any]:
        examples, made = self._scored(dataset, max(PREVIEW_IMAGES, self._recipe.evaluate.preview_pairs))
        captions = [e.captions[0] for e in examples[:PREVIEW_IMAGES]]
        contact_sheet(made[:PREVIEW_IMAGES], captions, columns=8, scale=2).save(folder / f"step-{step:06d}.png")
        if not self._recipe.evaluate.preview_pairs:
            return {}
        return {"scores": score_captions(load_judge(self._recipe.evaluate.judge), examples, made)}

    def rehearse_preview(self, batch: Batch) -> None:
        """One sampling step with the guidance's two branches, and the decoding: the most memory that a preview takes."""
        inputs = batch["mean"].repeat(2, 1, 1, 1)
        steps = torch.zeros(len(inputs), dtype=torch.long)
        self._parts.unet(inputs, steps, self._encoded(batch["text"]).repeat(2, 1, 1))
        self._parts.vae.decode(batch["mean"])

    def evaluate(self, dataset: Dataset[CaptionedImage], folder: Path) -> Mapping[str, Any]:
        examples, made = self._scored(dataset, self._recipe.evaluate.pairs)
        return {"scores": score_captions(load_judge(self._recipe.evaluate.judge), examples, made)}

    def finish(self, dataset: Dataset[CaptionedImage]) -> None:
        return

    def export(self, folder: Path) -> Path:
        self._parts.save(folder / "model")
        return folder / "model"
