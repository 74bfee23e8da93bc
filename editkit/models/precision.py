"""Where and in which numbers the networks compute."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Generator, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from editkit.environment import EXTRAS, is_installed
from editkit.errors import UserError
from editkit.models.attention import attention_kernel, attention_report, check_attention
from editkit.models.quantize import check_base
from editkit.recipe.schema import Train

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

IMITATED_BF16 = 30  # how many times as fast fp32 is on a CPU without bf16: 25 to 60 for matrix products, AMD EPYC of 2021

_WITHOUT_BF16 = f"this processor has no instructions for bf16 and is {IMITATED_BF16} times as fast in fp32"

# A block is compiled for every shape that it meets: a size bucket, a width of the network, training and evaluation mode.
COMPILED_SHAPES = 64


def choose_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies in bf16. Processors without AVX-512 imitate it: see `IMITATED_BF16`."""
    probe = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return device.type != "cpu" or probe is None or probe()


def computed_in(options: Train, device: torch.device) -> tuple[Train, list[str]]:
    """What the device computes well of what `[train]` asks for: fp32, where it has no bf16 and nothing is stored in it.

    Args:
        options: `[train]`.
        device: where it computes.

    Returns:
        `[train]` for this device, and the lines that say what is other than asked.
    """
    if options.precision != "bf16" or has_bf16(device):
        return options, []
    if options.weights == options.base == "fp32":
        return options.model_copy(update={"precision": "fp32"}), [f"  instead of bf16: {_WITHOUT_BF16}"]
    stored = f'train.weights = "{options.weights}" and train.base = "{options.base}"'
    return options, [f"  slow: {_WITHOUT_BF16}, but {stored} need bf16"]


def dtype_of(precision: str, device: torch.device, place: str) -> torch.dtype:
    """What a model is loaded in, where what it makes depends on that; where the device imitates it, that is said.

    Args:
        precision: a key of `DTYPES`.
        device: where it computes.
        place: of the key, for the message.
    """
    if precision == "bf16" and not has_bf16(device):
        print(f'{place} precision: slow: {_WITHOUT_BF16}; found "bf16", expected "fp32" here', file=sys.stderr)
    return DTYPES[precision]


def check_precision(precision: str, device: torch.device) -> None:
    """Raises UserError for what the device cannot do well."""
    if precision == "fp16" and device.type == "cpu":
        raise UserError('train.precision: found "fp16" on the CPU, where it is 100 times slower; use "bf16" or "fp32"')


def check_numerics(options: Train, device: torch.device) -> None:
    """Raises UserError for what the device or the installation cannot do: precision, attention, base. Call before the model."""
    check_precision(options.precision, device)
    check_attention(options.attention, device, DTYPES[options.precision])
    check_base(options.base, device)


@contextlib.contextmanager
def computing(device: torch.device, precision: str, attention: str = "auto") -> Generator[None, None, None]:
    """Autocast, and the attention kernel: the one named, or the quickest on the device (see `resolve_attention`)."""
    dtype = DTYPES[precision]
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32), attention_kernel(device, attention):
        yield


def to_channels_last(module: nn.Module) -> None:
    """Lays convolution weights out with the channels last, in place.

    Tensor cores want it, and wide convolutions on CPUs; the narrow ones of the lab's UNet are slower with it
    (`python -m tests.bench.rates`), so the lab's recipes switch it off.
    """
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def checkpoint_gradients(network: Any, device: torch.device, attention: str = "auto", *, whole: bool = False) -> None:
    """Keeps only what enters each block and computes the rest again in the backward pass, in place.

    The second pass runs after `computing` has ended, so it enters the attention kernel by itself: with another kernel it would
    compute other tensors than those that it replaces. (Autocast is entered again by torch.)

    Args:
        network: a model of diffusers or transformers; its blocks are checkpointed in training mode.
        device: where it computes.
        attention: `train.attention`.
        whole: compute each block to its end, though the last result is not needed: hooks that end a layer's turn must run.

    Raises:
        UserError: the network has no blocks that can be computed again.
    """
    options = {
        "use_reentrant": False,
        "early_stop": not whole,
        "context_fn": lambda: (contextlib.nullcontext(), attention_kernel(device, attention)),
    }
    try:
        if hasattr(network, "enable_gradient_checkpointing"):
            network.enable_gradient_checkpointing(functools.partial(checkpoint, **options))
        else:
            # transformers gave it a new name and warns of the old one
            enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
            enable(options)
    except ValueError as error:
        raise UserError(f"train.gradient_checkpointing: {type(network).__name__} has no blocks to compute again") from error


def compile_blocks(network: Any) -> int:
    """Compiles a network block by block, each for the shapes that it meets, in place; the work begins at the first step.

    Blocks that repeat are compiled once, as diffusers' `compile_repeated_blocks` does; a network that names none is compiled by
    its levels. Wrap previews in `torch.compiler.set_stance("force_eager")`: their batches have other shapes.

    Returns:
        How many blocks were chosen.

    Raises:
        UserError: the network has no blocks.
    """
    dynamo: Any = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, COMPILED_SHAPES)
    # diffusers' and transformers' names for the classes of which a network has many
    names = {*(getattr(network, "_repeated_blocks", None) or ()), *(getattr(network, "_no_split_modules", None) or ())}
    repeated = [m for m in network.modules() if type(m).__name__ in names]
    for block in repeated:
        block.compile(fullgraph=True, dynamic=False)
    if repeated:
        return len(repeated)
    levels = [m for name in ("down_blocks", "up_blocks") for m in getattr(network, name, ())]
    levels += [network.mid_block] if getattr(network, "mid_block", None) is not None else []
    if not levels:
        raise UserError(f"train.compile: {type(network).__name__} has no blocks that could be compiled one by one")
    for level in levels:
        level.compile(dynamic=False)
    return len(levels)


def describe_numerics(options: Train, device: torch.device, notes: Iterable[str] = ()) -> list[str]:
    """Lines for the header of a run.

    Args:
        options: `[train]`.
        device: where it computes.
        notes: further lines, of what was done to the networks.
    """
    autocast = "no autocast (fp32)" if options.precision == "fp32" else f"autocast in {options.precision}"
    lines = [f"numbers: {device}, {autocast}, trained weights in {options.weights}", *notes]
    lines += attention_report(device, options.attention)
    switched = {
        "compiled block by block": options.compile,
        "gradients checkpointed": options.gradient_checkpointing,
        "channels last": options.channels_last,
        f"{options.offload} offloaded": options.offload in ("encoders", "base"),
    }
    if any(switched.values()):
        lines.append("also: " + ", ".join(what for what, on in switched.items() if on))
    for extra in ("bitsandbytes", "torchao"):
        if not is_installed(extra):
            lines.append(f"without {extra}: {EXTRAS[extra].costs(device.type)}")
    return lines
