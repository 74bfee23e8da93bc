"""A frozen base in fewer bits, to train an adapter beside it (QLoRA, Dettmers et al. 2023).

The layers are swapped by hand: diffusers' own quantisation configuration refuses to work without a GPU, the layers of
bitsandbytes do not. Only linear layers have quantised kernels; convolutions, norms and embeddings stay in fp32.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection
from importlib import import_module
from typing import Any

import torch
from torch import nn

from editkit.environment import require_extra
from editkit.errors import UserError

PACKAGES = {"int8": "bitsandbytes", "nf4": "bitsandbytes", "fp8": "torchao"}


def check_base(kind: str, device: torch.device) -> None:
    """Raises UserError where the package of `train.base` is absent, or the device cannot hold such numbers."""
    if kind not in PACKAGES:
        return
    require_extra(PACKAGES[kind], f'train.base = "{kind}"')
    if kind != "fp8":
        return
    try:
        torch.ones(2, device=device).to(torch.float8_e4m3fn).float()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f'train.base: "fp8" needs float8_e4m3fn, which {device.type} lacks ({reason}); use "int8"') from error


def quantize_base(module: Any, kind: str, *, compute: torch.dtype = torch.float32, keep: Collection[str] = ()) -> None:
    """Freezes a network and stores its weights in fewer bits, in place; an adapter is added afterwards.

    Args:
        module: a diffusers model, on the CPU.
        kind: "fp32" (nothing changes), "bf16" (linear layers and convolutions), "int8", "nf4" or "fp8" (linear layers).
        compute: in what nf4 layers multiply, the dtype of the autocast.
        keep: names of layers that stay as they are, because they are trained.

    Raises:
        UserError: see `check_base`; or there is no layer to store in fewer bits.
    """
    check_base(kind, torch.device("cpu"))
    module.requires_grad_(False)
    # The classes themselves: what is derived from them may compute in its own way.
    types = {"fp32": (), "bf16": (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)}.get(kind, (nn.Linear,))
    chosen = [(name, layer) for name, layer in module.named_modules() if type(layer) in types and name not in keep]
    if kind != "fp32" and not chosen:
        raise UserError(f'train.base: found "{kind}", but {type(module).__name__} has no layer that could be stored so')
    if kind == "fp8":
        _to_float8([layer for _, layer in chosen])
    for name, layer in chosen:
        if kind == "bf16":
            layer.weight.data = layer.weight.data.to(torch.bfloat16)
        elif kind in ("nf4", "int8"):
            module.set_submodule(name, _bitsandbytes(layer, kind, compute))
    # peft asks the network which of its own layers fit.
    module.is_loaded_in_4bit, module.is_loaded_in_8bit = kind == "nf4", kind == "int8"


def describe_base(network: nn.Module) -> str:
    """One line for the header: what the frozen weights take, and what it would be in fp32."""
    fewer, before, after, rest = 0, 0, 0, 0
    for layer in network.modules():
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.requires_grad:
            continue
        numbers = layer.in_features * layer.out_features if isinstance(layer, nn.Linear) else weight.numel()
        in_fp32, stored = 4 * numbers, _stored_bytes(weight)
        if stored < in_fp32:
            fewer, before, after = fewer + 1, before + in_fp32, after + stored
        else:
            rest += stored
    mib = 2**20
    return (
        f"frozen base: {fewer} layers in fewer bits, {before / mib:.2f} MiB of fp32 in {after / mib:.2f} MiB; "
        f"the other weights in fp32, {rest / mib:.2f} MiB"
    )


def _bitsandbytes(layer: nn.Linear, kind: str, compute: torch.dtype) -> nn.Module:
    bnb: Any = import_module("bitsandbytes")
    sizes = {"input_features": layer.in_features, "output_features": layer.out_features, "bias": layer.bias is not None}
    if kind == "nf4":
        swapped = bnb.nn.Linear4bit(**sizes, compute_dtype=compute, quant_type="nf4")
        # On some CPUs it would lay its weights out anew at the first preview, for inference, and could not be trained any more.
        swapped.support_avx512bf16_for_cpu = False
        swapped.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
    else:
        swapped = bnb.nn.Linear8bitLt(**sizes, has_fp16_weights=False)
        swapped.weight = bnb.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
    swapped.bias = layer.bias
    swapped.train(layer.training)
    return swapped.to(layer.weight.device)  # the move is what quantises


def _to_float8(layers: list[nn.Linear]) -> None:
    logging.getLogger("torchao").setLevel(logging.ERROR)  # it names each compiled kernel that this machine cannot load
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torchao: Any = import_module("torchao.quantization")

        for layer in layers:
            torchao.quantize_(layer, torchao.Float8WeightOnlyConfig())
            layer.weight.requires_grad_(False)


def _stored_bytes(weight: Any) -> int:
    """With the scales that belong to the numbers."""
    if hasattr(weight, "qdata"):  # torchao
        return weight.qdata.nbytes + weight.scale.nbytes
    scales = [getattr(getattr(weight, "quant_state", None), "absmax", None), getattr(weight, "SCB", None)]
    return weight.nbytes + sum(s.nbytes for s in scales if isinstance(s, torch.Tensor))
