"""What `[train]` asks of the networks of a method, done to them once before the first step."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from transformers import PreTrainedModel

from editkit.models.attention import set_attention
from editkit.models.offload import offload_base, park, unparked
from editkit.models.precision import checkpoint_gradients, compile_blocks
from editkit.models.quantize import describe_base
from editkit.models.stored import loss_of_storing, store_in_bf16
from editkit.recipe.schema import Train


def prepare_networks(
    options: Train, trainable: nn.Module, groups: Sequence[Mapping[str, Any]], lr: float, device: torch.device
) -> list[str]:
    """Stores, offloads, checkpoints and compiles as the recipe says, in place; the networks are on the device already.

    Args:
        options: `[train]`.
        trainable: the method's networks; those without a trained parameter stay as they are.
        groups: the optimiser's, to say what a choice loses.
        lr: of the groups that have none.
        device: where it computes.

    Returns:
        Lines for the header.
    """
    notes = []
    if options.weights != "fp32":
        store_in_bf16(trainable)
        notes.append(loss_of_storing(groups, lr, options.weights))
    for network in trained_networks(trainable):
        if isinstance(network, ModelMixin):
            set_attention(network, options.attention, device)
        if options.gradient_checkpointing:
            checkpoint_gradients(network, device, options.attention, whole=options.offload == "base")
        if options.base != "fp32" and getattr(network, "peft_config", None):
            notes.append(describe_base(network))
        if options.offload == "base" and getattr(network, "peft_config", None):
            notes.append(
                f"offloaded base: {offload_base(network, device) / 2**20:.2f} MiB in a file, a layer at a time in memory"
            )
        if options.compile:
            compile_blocks(network)
    return notes


def trained_networks(trainable: nn.Module) -> list[nn.Module]:
    """The models of diffusers and transformers in it that have a trained parameter; not the models within them."""
    if isinstance(trainable, (ModelMixin, PreTrainedModel)) and any(p.requires_grad for p in trainable.parameters()):
        return [trainable]
    found = [network for child in trainable.children() for network in trained_networks(child)]
    return list(dict.fromkeys(found))  # what is shared is there once


@contextlib.contextmanager
def awake(encoders: Iterable[nn.Module], device: torch.device) -> Generator[None, None, None]:
    """Parked encoders on the device while the block runs."""
    with contextlib.ExitStack() as stack:
        for encoder in encoders:
            stack.enter_context(unparked(encoder, device))
        yield


def park_all(encoders: Iterable[nn.Module]) -> None:
    """Parks the encoders; their latents are cached by now, and only previews need them again."""
    for encoder in encoders:
        park(encoder)
