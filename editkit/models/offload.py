"""Frozen weights that lie in a mapped file until they are needed.

A file that is mapped into memory is read when it is touched, and the system may drop it again when memory is short: on a
machine without an accelerator such weights no longer count as the process's own. With one, they leave the accelerator besides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from safetensors.torch import load_file, save_file
from torch import nn

from editkit.data.cache import cache_root, entry_key, weights_hash
from editkit.files import whole_file


def map_weights(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors from a file in the cache folder, mapped and not read; equal ones share a file.

    Args:
        tensors: on any device; they may not be written to afterwards.
    """
    layout = {name: [str(t.dtype), *t.shape] for name, t in tensors.items()}
    path = cache_root() / f"parked-{entry_key(content=[], layout=layout, weights=weights_hash(tensors))}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, shared=True) as half:
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, half)
    return load_file(path)


def park(module: nn.Module) -> None:
    """Puts a frozen network's weights into a mapped file, in place, off the accelerator; it computes on the CPU as before."""
    frozen = {name: p for name, p in module.named_parameters() if not p.requires_grad}
    mapped = map_weights({name: p.detach() for name, p in frozen.items()})
    for name, p in frozen.items():
        p.data = mapped[name]
    for buffer in module.buffers():
        buffer.data = buffer.data.cpu()


@contextlib.contextmanager
def unparked(module: nn.Module, device: torch.device) -> Generator[None, None, None]:
    """A parked network on `device` while the block runs; its weights must not change. On the CPU there is nothing to do."""
    kept = [(owner, name, t, t.data) for owner in _owners(module) for name, t in owner.items() if t is not None]
    if all(data.device == device for *_, data in kept):
        yield
        return
    module.to(device)
    try:
        yield
    finally:
        for owner, name, tensor, data in kept:
            tensor.data = data
            owner[name] = tensor  # between some kinds of device a module gets new tensors when it moves


def _owners(module: nn.Module) -> Iterator[dict[str, Any]]:
    for inner in module.modules():
        yield from (inner._parameters, inner._buffers)


def offload_base(network: nn.Module, device: torch.device) -> int:
    """Brings each frozen layer of a network onto the device for its own forward pass alone, from a mapped file.

    Between the passes the layer is on the "meta" device and holds nothing. The backward pass needs what the forward pass
    multiplied with and keeps it; with gradient checkpointing that is one block at a time. diffusers' group offloading moves
    the weights under autograd's feet instead, and is for inference.

    Args:
        network: frozen but for its adapter; layers with trained parameters stay where they are.
        device: where it computes.

    Returns:
        Bytes that lie in the file.
    """
    layers = {name: m for name, m in network.named_modules() if _is_frozen_leaf(m)}
    found = {f"{n}.{k}": p.detach() for n, m in layers.items() for k, p in m.named_parameters(recurse=False)}
    mapped = map_weights(found)
    for name, layer in layers.items():
        own = {k: mapped[f"{name}.{k}"] for k, _ in layer.named_parameters(recurse=False)}
        hook: Any = AlignDevicesHook(execution_device=device, offload=True, weights_map=own, offload_buffers=False)
        add_hook_to_module(layer, hook)
    return sum(t.nbytes for t in mapped.values())


def _is_frozen_leaf(module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(module.children()) and not any(p.requires_grad for p in own)
