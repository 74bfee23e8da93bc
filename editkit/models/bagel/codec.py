"""Between pixels and the latents that are drawn: an autoencoder, or the pixels themselves; and what the ViT sees."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from editkit.models.autoencoders import Autoencoder, encode_pictures, is_variational, latent_px
from editkit.models.bagel.config import LatentConfig, VitConfig


class Codec:
    """Pixels in [-1, 1] to latents and back.

    Args:
        config: of the latents.
        vae: the autoencoder; None = latents are pixels.

    Raises:
        ValueError: the configuration asks for other latents.
    """

    def __init__(self, config: LatentConfig, vae: Autoencoder | None = None) -> None:
        found = (3, 1)
        if vae is not None:
            found = vae.config["latent_channels"], latent_px(vae)
        if found != (config.channels, config.px):
            raise ValueError(
                f"found latents of {found[0]} channels and {found[1]} px; the network draws {config.channels} of {config.px}"
            )
        self.vae = vae
        self._shift = (vae.config.get("shift_factor") or 0.0) if vae is not None else 0.0  # FLUX.1's has one

    @property
    def draws_nothing(self) -> bool:
        """Whether an autoencoder gives a picture one latent and no distribution of them, so that it can be kept."""
        return self.vae is not None and not is_variational(self.vae)

    def encode(self, pixels_BCHW: torch.Tensor, noise_BCHW: torch.Tensor | None = None) -> torch.Tensor:
        """Latents: (B, channels, H / px, W / px).

        Args:
            pixels_BCHW: in [-1, 1].
            noise_BCHW: standard normal, of the latents' shape, to draw from the posterior with, as the released training does;
                None = its mean.
        """
        if self.vae is None:
            return pixels_BCHW
        posterior = encode_pictures(self.vae, pixels_BCHW)
        latents = posterior.mean if noise_BCHW is None else posterior.mean + posterior.std * noise_BCHW
        return (latents - self._shift) * self.vae.config["scaling_factor"]

    def decode(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """Pixels, held in [-1, 1]."""
        if self.vae is None:
            return latents_BCHW.clamp(-1, 1)
        stock: Any = self.vae
        latents = latents_BCHW / self.vae.config["scaling_factor"] + self._shift
        return stock.decode(latents).sample.clamp(-1, 1)


def vit_view(pixels_CHW: torch.Tensor, config: VitConfig) -> torch.Tensor:
    """The picture at the nearest size that the ViT takes: sides are multiples of its patch, and none is longer than its table.

    Args:
        pixels_CHW: in [-1, 1].
        config: of the ViT.
    """
    sides = pixels_CHW.shape[1:]
    shrink = min(1.0, config.max_px / max(sides))
    height, width = (max(1, round(side * shrink / config.patch)) * config.patch for side in sides)
    if (height, width) == tuple(sides):
        return pixels_CHW
    resized = F.interpolate(pixels_CHW[None].float(), (height, width), mode="bicubic", antialias=True)[0]
    return resized.clamp(-1, 1).to(pixels_CHW)
