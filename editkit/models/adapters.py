"""Adapters through peft: added, found again, saved and loaded."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    PeftModel,
    get_peft_model_state_dict,
)
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextModel

from editkit.errors import UserError
from editkit.models.quiet import quiet_files
from editkit.models.surgery import widen_conv_in
from editkit.recipe.schema import Adapter

LORA_FILE = "pytorch_lora_weights.safetensors"  # the LoRA kinds, in diffusers' format
PEFT_CONFIG, PEFT_FILE = CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME  # the others, in peft's
CONV_IN = "conv_in"
CONV_IN_FILE = "conv_in.safetensors"
TEXT_ENCODER = "text_encoder"  # folder beside the adapter, where the run trained the text encoder too
LISTED = 6  # module names in a message


def add_adapter(network: Any, options: Adapter, preset: list[str]) -> None:
    """Freezes a network and adds the layers of an adapter to it, in place. They change nothing before the first step.

    Args:
        network: a diffusers model. Its frozen weights stay in the numbers in which they are; the adapter's are fp32.
        options: the recipe's table.
        preset: the family's targets, where the recipe names none.

    Raises:
        UserError: targets that are not there, or that this kind of adapter cannot stand beside.
    """
    targets = options.targets or preset
    _check_targets(_targeted(network, targets), options)
    network.requires_grad_(False)
    try:
        network.add_adapter(_config(options, targets))
    except (ValueError, TypeError) as error:
        raise UserError(f"adapter.targets: found {_words(targets)}; {str(error).splitlines()[0]}") from error
    for parameter in adapter_parameters(network):  # peft makes them in the numbers of the layer beside them
        parameter.data = parameter.data.float()


def _config(options: Adapter, targets: str | list[str]) -> PeftConfig:
    shared: dict[str, Any] = {"target_modules": targets}
    if options.name == "oft":
        return OFTConfig(**shared, oft_block_size=options.block_size or 0, module_dropout=options.dropout)
    shared["r"] = options.rank
    if options.name in ("lokr", "loha"):
        kind = LoKrConfig if options.name == "lokr" else LoHaConfig
        return kind(**shared, alpha=options.alpha or 0, module_dropout=options.dropout)
    return LoraConfig(
        **shared,
        lora_alpha=options.alpha or 0,
        lora_dropout=options.dropout,
        use_rslora=options.name == "rslora",
        use_dora=options.name == "dora",
    )


def _targeted(network: nn.Module, targets: str | list[str]) -> dict[str, nn.Module]:
    """The modules that peft will find, by name; every ending must find one."""
    modules = dict(network.named_modules())
    if isinstance(targets, str):
        try:
            found = {n: m for n, m in modules.items() if re.fullmatch(targets, n)}
        except re.error as error:
            raise UserError(f'adapter.targets: found "{targets}", which is no regular expression ({error})') from error
        missing = [] if found else [targets]
    else:
        fits = {t: [n for n in modules if n == t or n.endswith(f".{t}")] for t in targets}
        found = {n: modules[n] for names in fits.values() for n in names}
        missing = [t for t, names in fits.items() if not names]
    if missing:
        layers = [n for n, m in modules.items() if isinstance(m, (nn.Linear, nn.Conv2d))]
        some = ", ".join(layers[:: max(1, len(layers) // LISTED)][:LISTED])
        raise UserError(f"adapter.targets: found {_words(missing)}, which fits no module; they are called {some} ...")
    return found


def _check_targets(modules: Mapping[str, nn.Module], options: Adapter) -> None:
    if CONV_IN in modules:
        raise UserError(f"adapter.targets: found {CONV_IN}, which is trained whole beside every adapter; leave it out")
    if options.name != "oft":
        return
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d):  # peft unfolds without padding, so that even no rotation would change the output
            raise UserError(f"adapter.targets: found the convolution {name}; oft stands beside linear layers only")
        width: Any = getattr(module, "in_features", options.block_size)
        if width % (options.block_size or 1):  # peft would take another size
            raise UserError(
                f"adapter.block_size: found {options.block_size}; {name} takes {width} numbers, which it does not divide"
            )


def _words(targets: str | list[str]) -> str:
    return targets if isinstance(targets, str) else ", ".join(targets)


def adapter_parameters(network: Any) -> list[nn.Parameter]:
    """The parameters that the adapter added."""
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING[network.peft_config["default"].peft_type]
    return [p for n, p in network.named_parameters() if f".{prefix}" in n]


def is_adapter(folder: Path) -> bool:
    """Whether `save_adapter` wrote this folder."""
    return (folder / LORA_FILE).is_file() or (folder / PEFT_CONFIG).is_file()


def save_adapter(unet: Any, folder: Path) -> None:
    """Writes an adapter so that the stock libraries load it, and the first layer beside it, which sees the source.

    The LoRA kinds go into diffusers' format, which pipelines read; the others into peft's, because diffusers has none.
    """
    from diffusers import StableDiffusionInstructPix2PixPipeline  # slow, and nothing before the export needs it

    folder.mkdir(parents=True, exist_ok=True)
    config, state = unet.peft_config["default"], get_peft_model_state_dict(unet)
    if isinstance(config, LoraConfig):
        # In peft's names: diffusers' older ones exist for the attention alone, and its loader takes a file to be all in the
        # one or all in the other, so that a file with both would lose the attention's layers without a word.
        layers = {k: v.contiguous() for k, v in state.items()}
        # Without the configuration a loader takes alpha = rank, and the adapter would have another strength.
        facts = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
        StableDiffusionInstructPix2PixPipeline.save_lora_weights(
            folder, unet_lora_layers=layers, unet_lora_adapter_metadata=facts
        )
    else:
        # The names that a layer has below peft's own wrapper.
        tensors = {f"base_model.model.{k}": v.detach().contiguous() for k, v in state.items()}
        save_file(tensors, folder / PEFT_FILE, {"format": "pt"})
        frozen = copy.copy(config)
        frozen.inference_mode = True
        frozen.save_pretrained(folder)
    conv_in = {"weight": unet.conv_in.weight.detach().contiguous(), "bias": unet.conv_in.bias.detach()}
    save_file(conv_in, folder / CONV_IN_FILE)


def load_adapter(pipeline: Any, folder: Path) -> None:
    """Puts a saved adapter of any kind on a pipeline whose UNet is the text-to-image base, in place."""
    conv_in = load_file(folder / CONV_IN_FILE)
    widen_conv_in(pipeline.unet, conv_in["weight"].shape[1])
    with torch.no_grad():
        pipeline.unet.conv_in.weight.copy_(conv_in["weight"])
        pipeline.unet.conv_in.bias.copy_(conv_in["bias"])
    if (folder / LORA_FILE).is_file():
        pipeline.unet.load_lora_adapter(folder, weight_name=LORA_FILE, prefix="unet")
    else:
        PeftModel.from_pretrained(pipeline.unet, folder)  # the wrapper that it returns is not needed
    if (folder / TEXT_ENCODER).is_dir():
        with quiet_files():
            pipeline.text_encoder = CLIPTextModel.from_pretrained(folder / TEXT_ENCODER, dtype=torch.float32)
