"""Which kernel computes attention: by name, tested on the device before anything long starts.

A diffusers model asks for its kernel in one of two ways. Transformers of the newer kind go through diffusers' dispatcher, which
`set_attention_backend` switches. The UNet's processors call torch's `scaled_dot_product_attention` themselves and know
nothing of that switch; for them torch's own kernels are chosen by the context `attention_kernel`, xformers by a processor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_processor import Attention, AttnProcessor2_0, XFormersAttnProcessor
from diffusers.utils import logging
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from editkit.environment import EXTRAS, is_installed, require_extra
from editkit.errors import UserError


@dataclass(frozen=True, slots=True)
class Backend:
    """A name of `train.attention`."""

    says: str  # for the header
    diffusers: str  # diffusers' name for it
    kernel: SDPBackend | None = None  # the one of torch that it stands for
    extra: str = ""  # what has to be installed


BACKENDS = {
    "sdpa": Backend("torch's choice among its kernels", "native"),
    "math": Backend("plain matrix products", "_native_math", SDPBackend.MATH),
    "flash": Backend("torch's flash kernel", "_native_flash", SDPBackend.FLASH_ATTENTION),
    "efficient": Backend("torch's memory-efficient kernel", "_native_efficient", SDPBackend.EFFICIENT_ATTENTION),
    "cudnn": Backend("cuDNN's kernel", "_native_cudnn", SDPBackend.CUDNN_ATTENTION),
    "xformers": Backend("xformers' memory-efficient attention", "xformers", extra="xformers"),
    "flash-attn": Backend("the flash-attn package", "flash", extra="flash-attn"),
}


def resolve_attention(name: str, device: torch.device) -> str:
    """What "auto" stands for on a device.

    On the CPU the fused kernel's backward pass takes three times as long as plain matrix products at the short sequences of
    latents (64 tokens), so the plain ones are used there; elsewhere torch chooses.
    """
    if name != "auto":
        return name
    return "math" if device.type == "cpu" else "sdpa"


def attention_kernel(device: torch.device, name: str) -> AbstractContextManager[Any]:
    """The context in which torch's `scaled_dot_product_attention` uses the kernel of that name."""
    kernel = BACKENDS[resolve_attention(name, device)].kernel
    if kernel is SDPBackend.MATH and device.type == "cpu":
        return _plain_products()
    return contextlib.nullcontext() if kernel is None else sdpa_kernel(kernel)


@contextlib.contextmanager
def _plain_products() -> Generator[None, None, None]:
    """Plain matrix products in the numbers that they are given, as attention written out under autocast would be.

    By itself torch widens bf16 to fp32 around them, which costs a tenth of a step of the lab's UNet and twice the memory.
    """
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()  # a flag of all devices, whatever its name
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


def check_attention(name: str, device: torch.device, dtype: torch.dtype) -> None:
    """Tries a forward and backward pass of a few tokens.

    Args:
        name: a key of `BACKENDS`, or "auto".
        device: where the training computes.
        dtype: in what the training computes; some kernels know only bf16 and fp16.

    Raises:
        UserError: the package is absent, or the device cannot run it. diffusers finds out at the first forward pass.
    """
    name = resolve_attention(name, device)
    backend = BACKENDS[name]
    if backend.extra:
        require_extra(backend.extra, f'train.attention = "{name}"')
        if device.type != "cuda":  # both packages have kernels for CUDA alone
            raise UserError(f'train.attention: found "{name}" on {device.type}, where it has no kernel; use "auto"')
    try:
        _try(name, device, dtype)
    except (RuntimeError, NotImplementedError, ImportError) as error:
        numbers = str(dtype).removeprefix("torch.")
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f'train.attention: "{name}" does not run on {device.type} in {numbers} ({reason}); use "auto"'
        ) from error


def _try(name: str, device: torch.device, dtype: torch.dtype) -> None:
    q_BNHD = torch.zeros(1, 16, 1, 64, device=device, dtype=dtype, requires_grad=True)
    if name == "xformers":
        result = import_module("xformers.ops").memory_efficient_attention(q_BNHD, q_BNHD, q_BNHD)
    elif name == "flash-attn":
        result = import_module("flash_attn").flash_attn_func(q_BNHD, q_BNHD, q_BNHD)
    else:
        q_BHND = q_BNHD.transpose(1, 2)
        with attention_kernel(device, name):
            result = F.scaled_dot_product_attention(q_BHND, q_BHND, q_BHND)
    result.sum().backward()


def set_attention(network: Any, name: str, device: torch.device) -> None:
    """Makes a diffusers model use a kernel, in place; call `check_attention` first, and compute within `attention_kernel`.

    Raises:
        UserError: the network's attention cannot be computed by this package.
    """
    name = resolve_attention(name, device)
    if any(hasattr(m.processor, "_attention_backend") for m in _with_processor(network)):
        level = logging.get_verbosity()
        logging.set_verbosity_error()  # diffusers says of its switch that it is experimental
        try:
            network.set_attention_backend(BACKENDS[name].diffusers)
        finally:
            logging.set_verbosity(level)
    elif name == "xformers":
        if any(type(m.processor) is not AttnProcessor2_0 for m in _with_processor(network)):
            raise UserError(f'train.attention: {type(network).__name__} has attention of its own; "xformers" cannot compute it')
        network.set_attn_processor(XFormersAttnProcessor())
    elif name == "flash-attn":
        raise UserError(
            f'train.attention: found "flash-attn"; {type(network).__name__} asks torch for its attention: '
            'use "flash", which is the same algorithm in torch'
        )


def _with_processor(network: nn.Module) -> Iterator[Any]:
    return (m for m in network.modules() if isinstance(m, (Attention, AttentionModuleMixin)))


def attention_report(device: torch.device, name: str = "auto") -> list[str]:
    """For the header: which kernel is used, and what each absent package costs on this device."""
    chosen = resolve_attention(name, device)
    lines = [f"attention: {chosen}, {BACKENDS[chosen].says}"]
    for extra in ("xformers", "flash-attn"):
        if not is_installed(extra):
            lines.append(f"  without {extra}: {EXTRAS[extra].costs(device.type)}")
    return lines
