"""InstructPix2Pix (Brooks et al. 2023): latent diffusion of the target, with the source as extra channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from editkit.data.cache import Store
from editkit.data.draws import Draws
from editkit.data.examples import Dataset, EditPair
from editkit.data.pictures import Picture
from editkit.data.prepare import to_network
from editkit.diffusion.losses import denoising_target, loss_by_noise_level, min_snr_weight
from editkit.diffusion.timesteps import Timesteps, draw_timesteps, to_steps
from editkit.evaluate.edits import evaluate_editor, write_preview
from editkit.methods.protocol import Batch, Loss
from editkit.models.adapters import TEXT_ENCODER, adapter_parameters, add_adapter, save_adapter
from editkit.models.autoencoders import encode_pictures
from editkit.models.editor import StableDiffusionEditor
from editkit.models.precision import DTYPES
from editkit.models.quantize import quantize_base
from editkit.models.stable_diffusion.drawn import Drawn, set_drawn
from editkit.models.stable_diffusion.forward import TextStates, concat_source, draw_latents
from editkit.models.stable_diffusion.load import StableDiffusion
from editkit.models.surgery import widen_conv_in
from editkit.recipe.schema import Fraction, Recipe, Section


class InstructEdit:
    """Trains the UNet whole, or adapters in it together with the widened first layer; the text encoder where it has a rate."""

    class Options(Section):
        """The further keys of `[method]`."""

        conditioning_dropout: Fraction = 0.05  # p: text alone, both, and source alone are each dropped with p
        # The picture, as published, or what the edit adds to the source's latents, as SRDiff has it (Li et al. 2021): keeping
        # then needs no learning. The second is for whole models; stock pipelines do not add the source, so cards say how.
        draws: Drawn = "picture"
        timesteps: Timesteps = Timesteps()  # how noise levels are drawn; uniformly, as published
        min_snr_gamma: float = 0.0  # 0 = every noise level counts alike, as published
        # 0 = frozen, as published; CLIP knows the web's language, a tower that learned from captions alone no instructions
        text_encoder_lr: float = 0.0

    kind = "edit_pairs"

    def __init__(self, recipe: Recipe, options: Options, parts: StableDiffusion) -> None:
        self._recipe = recipe
        self._options = options
        self._parts = parts
        parts.vae.requires_grad_(False)
        parts.text_encoder.requires_grad_(options.text_encoder_lr > 0)
        widen_conv_in(parts.unet, 2 * parts.latent_channels)
        set_drawn(parts, options.draws, has_adapter=recipe.adapter is not None)
        if recipe.adapter is not None:
            quantize_base(parts.unet, recipe.train.base, compute=DTYPES[recipe.train.precision], keep=["conv_in"])
            add_adapter(parts.unet, recipe.adapter, ["to_q", "to_k", "to_v", "to_out.0"])
            parts.unet.conv_in.requires_grad_(True)  # it has new channels, which no adapter of low rank could learn
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
        if self._recipe.adapter is not None:
            groups = [
                {"params": adapter_parameters(self._parts.unet), "lr": self._recipe.adapter.lr or self._recipe.optim.lr},
                {"params": list(self._parts.unet.conv_in.parameters())},
            ]
        if self._options.text_encoder_lr:
            groups.append({"params": list(self._parts.text_encoder.parameters()), "lr": self._options.text_encoder_lr})
        return groups

    def pictures_of(self, example: EditPair) -> Sequence[Picture]:
        return example.source, example.target

    def texts_of(self, example: EditPair) -> tuple[str, ...]:
        return example.instructions

    def targets_of(self, example: EditPair) -> Mapping[str, torch.Tensor]:
        return {}

    def encode(self, pixels_BNCHW: torch.Tensor) -> Batch:
        """The source's posterior mode, and the target's posterior, from which every step draws a sample."""
        source = encode_pictures(self._parts.vae, to_network(pixels_BNCHW[:, 0]))
        target = encode_pictures(self._parts.vae, to_network(pixels_BNCHW[:, 1]))
        return {"source": source.mean, "mean": target.mean, "std": target.std}

    def cache_texts(self, texts: Iterable[str], store: Store) -> None:
        self._encoded.fill(texts, store)

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        """Mean squared error of the prediction (eq. 1 of the paper) under the conditioning dropout of section 3.2.1."""
        scheduler: Any = self._parts.scheduler
        clean = draw_latents(batch["mean"], batch["std"], self._parts.scaling_factor, draws)
        if self._options.draws == "difference":
            clean = clean - batch["source"].float() * self._parts.scaling_factor
        noise = draws.normal(clean)
        steps = len(scheduler.alphas_cumprod)
        t_B = draw_timesteps(draws.uniform(), self._options.timesteps)
        timesteps = to_steps(t_B, steps).to(clean.device)
        noisy = scheduler.add_noise(clean, noise, timesteps)
        no_text, no_source = draw_dropout(self._options.conditioning_dropout, draws)
        texts = ["" if drop else text for text, drop in zip(batch["text"], no_text.tolist(), strict=True)]
        keep = (~no_source).to(clean).view(-1, 1, 1, 1)
        inputs = concat_source(noisy, batch["source"] * keep)
        prediction = self._parts.unet(inputs, timesteps, self._encoded(texts)).sample.float()
        error = (prediction - denoising_target(scheduler, clean, noise, timesteps)).square().mean(dim=(1, 2, 3))
        weight = torch.ones_like(error)
        if self._options.min_snr_gamma:
            weight = min_snr_weight(scheduler, timesteps, self._options.min_snr_gamma)
        return Loss((weight * error).mean(), {"mse": error.mean().detach(), **loss_by_noise_level(error.detach(), t_B)})

    def _editor(self) -> StableDiffusionEditor:
        sampling = self._recipe.evaluate
        return StableDiffusionEditor(
            self._parts,
            name=self._recipe.name,
            resolution=self._recipe.data.resolution,
            text_guidance=sampling.text_guidance,
            image_guidance=sampling.image_guidance,
            steps=sampling.steps,
            batch_size=sampling.batch_size,
        )

    def preview(self, dataset: Dataset[EditPair], folder: Path, step: int) -> Mapping[str, Any]:
        return write_preview(self._editor(), dataset, folder, step, self._recipe.evaluate)

    def rehearse_preview(self, batch: Batch) -> None:
        """One sampling step with the guidance's three branches, and the decoding: the most memory that a preview takes."""
        inputs = concat_source(batch["mean"], batch["source"]).repeat(3, 1, 1, 1)
        steps = torch.zeros(len(inputs), dtype=torch.long)
        self._parts.unet(inputs, steps, self._encoded(batch["text"]).repeat(3, 1, 1))
        self._parts.vae.decode(batch["mean"])

    def evaluate(self, dataset: Dataset[EditPair], folder: Path) -> Mapping[str, Any]:
        return evaluate_editor(self._editor(), dataset, folder, self._recipe.evaluate)

    def finish(self, dataset: Dataset[EditPair]) -> None:
        return

    def export(self, folder: Path) -> Path:
        """A full fine-tune as a whole pipeline; an adapter as its own small files."""
        if self._recipe.adapter is None:
            self._editor().save(folder / "model")
            return folder / "model"
        save_adapter(self._parts.unet, folder / "adapter")
        if self._options.text_encoder_lr:
            self._parts.text_encoder.save_pretrained(folder / "adapter" / TEXT_ENCODER)
        return folder / "adapter"


def draw_dropout(probability: float, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
    """Which examples lose their text and which their source: one draw u an example decides both.

    u < 2p drops the text, p <= u < 3p the source: text alone, both, and source alone with probability p each. Two
    independent coins would drop both with p squared, and the unconditional branch of the guidance would hardly be trained.

    Returns:
        Two boolean tensors (count,): text dropped, source dropped.
    """
    u = draws.uniform()
    return u < 2 * probability, (u >= probability) & (u < 3 * probability)
