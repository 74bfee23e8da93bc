"""The widened first layer, on real UNets: what it keeps, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from editkit.errors import UserError
from editkit.models.stable_diffusion.load import Options, load
from editkit.models.surgery import widen_conv_in


@pytest.fixture
def unet(tiny_sd: Path) -> UNet2DConditionModel:
    return load(str(tiny_sd), Options()).unet


def test_old_channels_and_bias_are_copied_and_new_channels_are_zero(unet: UNet2DConditionModel) -> None:
    weight, bias = unet.conv_in.weight.detach().clone(), unet.conv_in.bias.detach().clone()
    widen_conv_in(unet, 8)
    assert torch.equal(unet.conv_in.weight[:, :4], weight)
    assert not unet.conv_in.weight[:, 4:].any()
    assert torch.equal(unet.conv_in.bias, bias)


def test_the_configuration_follows_so_that_a_saved_model_loads(unet: UNet2DConditionModel, tmp_path: Path) -> None:
    widen_conv_in(unet, 8)
    unet.save_pretrained(tmp_path)
    again = UNet2DConditionModel.from_pretrained(tmp_path)
    assert again.config.in_channels == again.conv_in.in_channels == 8
    assert torch.equal(again.conv_in.weight, unet.conv_in.weight)


def test_a_widened_one_is_not_widened_again(unet: UNet2DConditionModel) -> None:
    widen_conv_in(unet, 8)
    with torch.no_grad():
        unet.conv_in.weight[:, 4:].fill_(0.5)
    layer = unet.conv_in
    widen_conv_in(unet, 8)
    assert unet.conv_in is layer
    assert (unet.conv_in.weight[:, 4:] == 0.5).all()


def test_an_inpainting_base_is_refused(unet: UNet2DConditionModel) -> None:
    widen_conv_in(unet, 8)
    with pytest.raises(UserError, match="takes 8 channels; expected 9 "):
        widen_conv_in(unet, 18)


def test_type_of_the_weights_is_kept(unet: UNet2DConditionModel) -> None:
    unet.to(torch.bfloat16)
    widen_conv_in(unet, 8)
    assert unet.conv_in.weight.dtype == torch.bfloat16
