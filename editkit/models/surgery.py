"""Operations on a network's first layer."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from editkit.errors import UserError


def widen_conv_in(unet: UNet2DConditionModel, in_channels: int) -> None:
    """Gives `conv_in` more input channels, in place, so that the source latents can be concatenated.

    The weights of the old channels and the bias are copied; the new channels start at zero, so that the first step sees
    exactly the base model (InstructPix2Pix, section 3.2). A base that already has `in_channels` is left as it is.

    Args:
        unet: a network with `in_channels` or fewer input channels.
        in_channels: 8 for Stable Diffusion: 4 noisy and 4 source channels.

    Raises:
        UserError: the base has another number of channels (9 = an inpainting model).
    """
    old: Any = unet.conv_in
    if old.in_channels == in_channels:
        return
    if old.in_channels != in_channels // 2:
        raise UserError(
            f"the base UNet takes {old.in_channels} channels; expected {in_channels // 2} (text-to-image) or "
            f"{in_channels} (an editor)"
        )
    new: Any = nn.Conv2d(in_channels, old.out_channels, old.kernel_size, old.stride, old.padding)
    new.to(device=old.weight.device, dtype=old.weight.dtype)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, : old.in_channels] = old.weight
        new.bias.copy_(old.bias)
    unet.conv_in = new
    unet.register_to_config(in_channels=in_channels)
