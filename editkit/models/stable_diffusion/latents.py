"""From pictures to latents, whichever autoencoder is behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from editkit.data.prepare import to_image, to_network


@dataclass(frozen=True, slots=True)
class Posterior:
    """What an encoder says of pictures: a Gaussian for each latent number, or a point where it is not variational.

    Attributes:
        mean: its mode, float (B, C, h, w), not multiplied by the scaling factor.
        std: standard deviation, of the same shape; 0 of a point.
        logvar: logarithm of the variance, limited as diffusers does; None of a point.
    """

    mean: torch.Tensor
    std: torch.Tensor
    logvar: torch.Tensor | None

    def sample(self) -> torch.Tensor:
        """A draw from torch's global generator."""
        return self.mean + self.std * torch.randn(self.mean.shape, dtype=self.mean.dtype).to(self.mean.device)


def encode_pictures(vae: Any, images_BCHW: torch.Tensor) -> Posterior:
    """Pictures in [-1, 1] through an AutoencoderKL or an AutoencoderTiny."""
    encoded = vae.encode(images_BCHW)
    if hasattr(encoded, "latents"):
        return Posterior(encoded.latents, torch.zeros_like(encoded.latents), None)
    found = encoded.latent_dist
    return Posterior(found.mean, found.std, found.logvar)


@torch.no_grad()
def reconstruct(vae: Any, pixels_BCHW: torch.Tensor) -> list[Image.Image]:
    """What an autoencoder leaves of uint8 pictures: through the encoder, whose mode is taken, and the decoder."""
    latents = encode_pictures(vae, to_network(pixels_BCHW).to(vae.device)).mean
    return [to_image(x_CHW) for x_CHW in vae.decode(latents).sample]
