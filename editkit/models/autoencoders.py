"""From pictures to latents and back, whichever autoencoder is behind them."""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from PIL import Image

from editkit.data.prepare import to_image, to_network

Autoencoder = AutoencoderKL | AutoencoderTiny


def _is_no_mistake(record: logging.LogRecord) -> bool:
    """Of AutoencoderTiny: it writes a key into its configuration that diffusers warns of whenever it reads it."""
    said = record.getMessage()
    return not ("block_out_channels" in said and AutoencoderTiny.__name__ in said)


logging.getLogger("diffusers.configuration_utils").addFilter(_is_no_mistake)


def autoencoder_class(folder: Path) -> type[Autoencoder]:
    """Of what lies in a folder of the stock layout; what cannot be read is for its class to say."""
    with contextlib.suppress(OSError, ValueError):
        said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if said.get("_class_name") == AutoencoderTiny.__name__:
            return AutoencoderTiny
    return AutoencoderKL


def latent_px(vae: Autoencoder) -> int:
    """Pixels along one side of a latent."""
    channels = vae.config["encoder_block_out_channels" if isinstance(vae, AutoencoderTiny) else "block_out_channels"]
    return 2 ** (len(channels) - 1)


def is_variational(vae: Autoencoder) -> bool:
    """Whether it gives a picture a distribution of latents, and not one point."""
    return not isinstance(vae, AutoencoderTiny)


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
