"""Where and in which numbers the networks compute."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from editkit.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def check_precision(precision: str, device: torch.device) -> None:
    """Raises UserError for what the device cannot do well."""
    if precision == "fp16" and device.type == "cpu":
        raise UserError('train.precision: found "fp16" on the CPU, where it is 100 times slower; use "bf16" or "fp32"')


@contextlib.contextmanager
def computing(device: torch.device, precision: str) -> Generator[None, None, None]:
    """Autocast, and the attention kernel that is quickest on the device.

    On the CPU the fused kernel's backward pass takes three times as long as plain matrix products at the short sequences of
    latents (64 tokens), so the plain ones are used there.
    """
    dtype = DTYPES[precision]
    kernel = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32), kernel:
        yield


def to_channels_last(module: nn.Module) -> None:
    """Lays convolution weights out with the channels last, in place.

    Tensor cores want it, and wide convolutions on CPUs; the narrow ones of the lab's UNet are slower with it
    (`python -m tests.bench.rates`), so the lab's recipes switch it off.
    """
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
