"""An autoencoder, variational or not: the latent space in which everything else happens (Rombach et al. 2022, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from torch import nn

from editkit.data.cache import Store
from editkit.data.draws import Draws
from editkit.data.examples import CaptionedImage, Dataset
from editkit.data.pictures import Picture
from editkit.data.prepare import PrepareParams, prepare, prepared, to_network
from editkit.evaluate.metrics import psnr
from editkit.evaluate.pictures import contact_sheet
from editkit.methods.protocol import Batch, Loss
from editkit.models.autoencoders import encode_pictures, reconstruct
from editkit.models.stable_diffusion.load import StableDiffusion
from editkit.recipe.schema import Recipe, Section

PREVIEW_IMAGES = 16
LATENT_STD_IMAGES = 1_000
Weight = Annotated[float, Field(ge=0)]


class Autoencoder:
    """Reconstruction in L1 and in the differences of neighbouring pixels, with a small KL term where there is a posterior."""

    class Options(Section):
        """The further keys of `[method]`."""

        kl_weight: Weight = 1e-6  # per latent number, against a loss per pixel value
        edge_weight: Weight = 1.0  # L1 between the finite differences: lines, eyes and mouths
        # Squared error beside L1: the colours of small things on a plain ground are few and large errors, which L1 learns last.
        square_weight: Weight = 0.0

    kind = "captioned_images"

    def __init__(self, recipe: Recipe, options: Options, parts: StableDiffusion) -> None:
        self._recipe = recipe
        self._options = options
        self._parts = parts
        self._vae = parts.vae
        self._params = PrepareParams(recipe.data.resolution, recipe.data.crop)

    @property
    def trainable(self) -> nn.Module:
        return self._vae

    @property
    def frozen_encoders(self) -> dict[str, nn.Module]:
        return {}

    @property
    def resting(self) -> list[nn.Module]:
        return []

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self._vae.parameters())}]

    def pictures_of(self, example: CaptionedImage) -> Sequence[Picture]:
        return (example.image,)

    def texts_of(self, example: CaptionedImage) -> tuple[str, ...]:
        return ("",)

    def targets_of(self, example: CaptionedImage) -> Mapping[str, torch.Tensor]:
        return {}

    def encode(self, pixels_BNCHW: torch.Tensor) -> Batch:
        return {"image": pixels_BNCHW[:, 0]}

    def cache_texts(self, texts: Iterable[str], store: Store) -> None:
        return

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        image_BCHW = to_network(batch["image"])
        posterior = encode_pictures(self._vae, image_BCHW)
        noise = draws.normal(posterior.mean)
        drawn_BCHW = self._vae.decode(posterior.mean + posterior.std * noise).sample.float()
        pixel = F.l1_loss(drawn_BCHW, image_BCHW)
        down, right = (F.l1_loss(a, b) for a, b in zip(_differences(drawn_BCHW), _differences(image_BCHW), strict=True))
        edge = down + right
        value = pixel + self._options.edge_weight * edge
        if self._options.square_weight:
            value = value + self._options.square_weight * F.mse_loss(drawn_BCHW, image_BCHW)
        logs = {"l1": pixel.detach(), "edge": edge.detach()}
        if posterior.logvar is not None:
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
            value, logs["kl"] = value + self._options.kl_weight * kl, kl.detach()
        return Loss(value, logs)

    def reconstruct(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        """Pictures through the encoder (mode) and the decoder."""
        return reconstruct(self._vae, torch.cat([prepare([image], self._params) for image in images]))

    def preview(self, dataset: Dataset[CaptionedImage], folder: Path, step: int) -> Mapping[str, Any]:
        images = [prepared(dataset[i].image.open(), self._params) for i in range(min(PREVIEW_IMAGES, len(dataset)))]
        drawn = self.reconstruct(images)
        rows = [x for pair in zip(images, drawn, strict=True) for x in pair]
        contact_sheet(rows, ["source", "decoded"] * len(images), columns=8, scale=2).save(folder / f"step-{step:06d}.png")
        return {"scores": {"psnr": _mean_psnr(images, drawn), "n": len(images)}}

    def evaluate(self, dataset: Dataset[CaptionedImage], folder: Path) -> Mapping[str, Any]:
        count = min(self._recipe.evaluate.pairs, len(dataset))
        images = [prepared(dataset[i].image.open(), self._params) for i in range(count)]
        size = self._recipe.evaluate.batch_size
        drawn = [x for start in range(0, count, size) for x in self.reconstruct(images[start : start + size])]
        return {"scores": {"psnr": _mean_psnr(images, drawn), "n": count}}

    @torch.no_grad()
    def finish(self, dataset: Dataset[CaptionedImage]) -> None:
        """Sets the scaling factor to 1 / std of the latents, so that diffusion starts from unit variance (section G)."""
        count = min(LATENT_STD_IMAGES, len(dataset))
        pixels = torch.cat([prepare([dataset[i].image.open()], self._params) for i in range(count)])
        latents = torch.cat([encode_pictures(self._vae, to_network(p)).sample() for p in pixels.split(100)])
        self._vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))

    def export(self, folder: Path) -> Path:
        self._parts.save(folder / "model")
        return folder / "model"


def _differences(x_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x_BCHW[..., 1:, :] - x_BCHW[..., :-1, :], x_BCHW[..., 1:] - x_BCHW[..., :-1]


def _mean_psnr(images: Sequence[Image.Image], drawn: Sequence[Image.Image]) -> float:
    values = [psnr(a, b) for a, b in zip(images, drawn, strict=True)]
    return sum(values) / len(values)
