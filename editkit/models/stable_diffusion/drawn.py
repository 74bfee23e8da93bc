"""What an editor's diffusion draws: the edited picture, or what is to be added to the source for it.

The UNet's configuration says so, because the weights mean nothing without it; diffusers keeps the key and ignores it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from editkit.errors import UserError
from editkit.models.stable_diffusion.load import StableDiffusion

Drawn = Literal["picture", "difference"]

KEY = "editkit_draws"


def drawn_by(config: Mapping[str, Any]) -> Drawn:
    """What the UNet of that configuration was trained to draw."""
    return config.get(KEY, "picture")


def drawn_in(model: Path) -> Drawn:
    """The same of a model in the stock layout, without loading it."""
    config = model / "unet" / "config.json"
    return drawn_by(json.loads(config.read_text(encoding="utf-8"))) if config.is_file() else "picture"


def set_drawn(parts: StableDiffusion, drawn: Drawn, *, has_adapter: bool) -> None:
    """Notes in the UNet what it is trained to draw.

    Raises:
        UserError: the base draws differences already and is to be trained on pictures, or only an adapter is trained.
    """
    if drawn == "picture" and drawn_by(parts.unet.config) == "difference":
        raise UserError(f'{parts.base}: its UNet draws differences from the source; expected [method] draws = "difference"')
    if drawn == "picture":
        return
    if has_adapter:
        raise UserError(
            'found [method] draws = "difference" beside [adapter]; an adapter cannot say what its base draws, so '
            'train the whole model (no [adapter]) or draw the "picture"'
        )
    parts.unet.register_to_config(**{KEY: drawn})


def finish_latents(parts: StableDiffusion, drawn_BCHW: torch.Tensor, source_BCHW: torch.Tensor) -> torch.Tensor:
    """From what was sampled to the edited picture's latents as the VAE's decoder takes them.

    Args:
        parts: the editor.
        drawn_BCHW: sampled, times the scaling factor.
        source_BCHW: the source's, not times the scaling factor.
    """
    latents = drawn_BCHW / parts.scaling_factor
    return latents + source_BCHW if drawn_by(parts.unet.config) == "difference" else latents
