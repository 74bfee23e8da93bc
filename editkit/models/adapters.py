"""Adapters through peft: added, found again, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
    StableDiffusionInstructPix2PixPipeline,
)
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextModel

from editkit.errors import UserError
from editkit.models.quiet import quiet_files
from editkit.models.surgery import widen_conv_in
from editkit.recipe.schema import Adapter

LORA_FILE = "pytorch_lora_weights.safetensors"
CONV_IN_FILE = "conv_in.safetensors"
TEXT_ENCODER = "text_encoder"  # folder beside the adapter, where the run trained the text encoder too


def add_lora(network: Any, options: Adapter, preset: list[str]) -> None:
    """Freezes a network and adds LoRA layers to it, in place.

    Args:
        network: a diffusers model.
        options: rank, alpha, dropout and targets.
        preset: the family's targets, where the recipe names none.
    """
    targets = options.targets or preset
    network.requires_grad_(False)
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=targets,
        init_lora_weights=True,
    )
    try:
        network.add_adapter(config)
    except ValueError as error:
        raise UserError(f"adapter.targets: found {', '.join(targets)}; {str(error).splitlines()[0]}") from error
    for parameter in adapter_parameters(network):  # peft gives them the dtype of the layer that they stand beside
        parameter.data = parameter.data.float()


def adapter_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that the adapter added."""
    return [p for n, p in network.named_parameters() if "lora_" in n]


def save_lora(unet: Any, folder: Path) -> None:
    """Writes the LoRA in diffusers' format, and the first layer beside it: without it the source would not be seen."""
    folder.mkdir(parents=True, exist_ok=True)
    layers = {k: v.contiguous() for k, v in convert_state_dict_to_diffusers(get_peft_model_state_dict(unet)).items()}
    # Without the configuration a loader takes alpha = rank, and the adapter would have another strength.
    config = {k: sorted(v) if isinstance(v, set) else v for k, v in unet.peft_config["default"].to_dict().items()}
    StableDiffusionInstructPix2PixPipeline.save_lora_weights(folder, unet_lora_layers=layers, unet_lora_adapter_metadata=config)
    conv_in = {"weight": unet.conv_in.weight.detach().contiguous(), "bias": unet.conv_in.bias.detach()}
    save_file(conv_in, folder / CONV_IN_FILE)


def load_lora(pipeline: Any, folder: Path) -> None:
    """Puts a saved adapter on a pipeline whose UNet is the text-to-image base."""
    conv_in = load_file(folder / CONV_IN_FILE)
    widen_conv_in(pipeline.unet, conv_in["weight"].shape[1])
    with torch.no_grad():
        pipeline.unet.conv_in.weight.copy_(conv_in["weight"])
        pipeline.unet.conv_in.bias.copy_(conv_in["bias"])
    pipeline.unet.load_lora_adapter(folder, weight_name=LORA_FILE, prefix="unet")
    if (folder / TEXT_ENCODER).is_dir():
        with quiet_files():
            pipeline.text_encoder = CLIPTextModel.from_pretrained(folder / TEXT_ENCODER, dtype=torch.float32)
