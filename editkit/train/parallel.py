"""Several processes that train one model: which layout, and what the loop needs of it.

    ddp     every process has the whole model; gradients are averaged
    fsdp    weights, gradients and optimiser state are cut into as many pieces as there are processes (ZeRO-3)
    hsdp    the same inside groups of `parallel.shard` processes, and averaged across the groups

All are torch's own and work in place, so that a method calls its networks as it always does. accelerate's plugins are not used:
on a machine without accelerator they fall back to DDP without a word.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._composable.replicate import replicate
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from editkit.errors import UserError
from editkit.methods.protocol import Method
from editkit.recipe.schema import Parallel, Recipe

# Ways into a network other than its forward; a sharded one has to gather its weights there too.
ENTRANCES = ("encode", "decode", "get_text_features", "get_image_features")
NORM_TOLERANCE = 1e-4  # relative; gradients that were averaged have the same norm everywhere


class Layout:
    """How the work is divided; without a process group, not at all."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        distributed = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if distributed else 0
        self.world = dist.get_world_size() if distributed else 1
        self._options = recipe.parallel
        self._precision = recipe.train.precision
        self._device = device
        self._networks: list[nn.Module] = []

    @property
    def name(self) -> str:
        """For the header."""
        if self.world == 1:
            return "one process"
        shard = f", {self._options.shard} to a shard group" if self._options.layout == "hsdp" else ""
        return f"{self._options.layout} over {self.world} processes{shard}"

    def shard(self, method: Method) -> None:
        """Brings the trained networks into the layout, in place; before the optimiser is made."""
        if self.world == 1:
            return
        trained = method.trainable
        self._networks = list(trained.children()) if isinstance(trained, nn.ModuleDict) else [trained]
        self._networks = [n for n in self._networks if any(p.requires_grad for p in n.parameters())]
        mesh = make_mesh(self._options, self.world, self._device)
        for network in self._networks:
            if self._options.layout == "ddp":
                replicate(network)
                continue
            for parameter in network.parameters():  # what is in another order, such as channels last, cannot be cut into shards
                parameter.data = parameter.data.contiguous()
            # Autocast would gather fp32 and cast afterwards; gathering what it casts to halves what is sent.
            narrow = torch.bfloat16 if self._precision == "bf16" else None
            policy = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32, cast_forward_inputs=False)
            for block in blocks_of(network):
                fully_shard(block, mesh=mesh, mp_policy=policy)
            fully_shard(network, mesh=mesh, mp_policy=policy)
            for entrance in ENTRANCES:
                if hasattr(network, entrance):
                    register_fsdp_forward_method(network, entrance)

    @contextlib.contextmanager
    def gradients(self, *, synchronise: bool) -> Generator[None, None, None]:
        """Around a forward and backward pass: whether its gradients are exchanged, which only the last of a step needs."""
        for network in self._networks:
            network.set_requires_gradient_sync(synchronise)  # ty: ignore[not-callable]
        yield

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float) -> float:
        """Clips the gradients to a norm over all of them.

        Returns:
            The norm before.
        """
        parameters = list(parameters)
        total = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = (total.full_tensor() if isinstance(total, DTensor) else total).item()
        if norm > max_norm:
            nn.utils.clip_grads_with_norm_(parameters, max_norm, total)
        return norm

    def mean(self, parts: Sequence[Mapping[str, Any]], norm: float) -> dict[str, float]:
        """Means of figures over the passes of a step and over all processes; one exchange with the device.

        Args:
            parts: one mapping a pass; a figure may be absent from some.
            norm: the gradient norm, which must be the same in every process.

        Raises:
            RuntimeError: it is not: the gradients were not exchanged.
        """
        names = sorted({name for part in parts for name in part})
        found = [torch.stack([torch.as_tensor(p[n], dtype=torch.float64).cpu() for p in parts if n in p]) for n in names]
        sums = {n: (float(values.sum()), len(values)) for n, values in zip(names, found, strict=True)}
        if self.world > 1:
            gathered: list[Any] = [None] * self.world
            dist.all_gather_object(gathered, (sums, norm))
            norms = [other for _, other in gathered]
            if max(norms) - min(norms) > NORM_TOLERANCE * max(norms):
                raise RuntimeError(
                    f"the processes have different gradients (norms {', '.join(f'{n:g}' for n in norms)}): this method enters "
                    "its network on a way that the layout does not know"
                )
            every = {name for one, _ in gathered for name in one}
            pairs = {name: [one[name] for one, _ in gathered if name in one] for name in every}
            sums = {name: (sum(s for s, _ in some), sum(n for _, n in some)) for name, some in pairs.items()}
        return {name: total / count for name, (total, count) in sums.items()}

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.world == 1:
            return flag
        flags: list[Any] = [None] * self.world
        dist.all_gather_object(flags, flag)
        return any(flags)


def make_mesh(options: Parallel, world: int, device: torch.device) -> DeviceMesh:
    """One dimension for fsdp, two (replicas, shards) for hsdp.

    Raises:
        UserError: the processes cannot be divided into shard groups.
    """
    if options.layout != "hsdp":
        return init_device_mesh(device.type, (world,))
    if world % options.shard:
        raise UserError(f"parallel.shard: found {options.shard}, which does not divide {world} processes")
    return init_device_mesh(device.type, (world // options.shard, options.shard), mesh_dim_names=("replicate", "shard"))


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The outermost blocks that the network's own class names as units; each is gathered by itself."""
    names = set(getattr(network, "_no_split_modules", None) or []) | set(getattr(network, "_repeated_blocks", None) or [])
    found: list[nn.Module] = []
    inside: set[int] = set()
    for module in network.modules():  # parents come before their children
        if module is not network and type(module).__name__ in names and id(module) not in inside:
            found.append(module)
            inside |= {id(m) for m in module.modules()}
    return found


@contextlib.contextmanager
def process_group(device: torch.device) -> Generator[int, None, None]:
    """Joins the processes that a launcher started (`RANK`, `WORLD_SIZE` ... in the environment); gives this one's rank.

    Only the first one speaks.
    """
    rank = int(os.environ.get("RANK", "0"))
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        with contextlib.ExitStack() as silent:
            if rank:
                os.environ["EDITKIT_QUIET"] = "1"
                silent.enter_context(contextlib.redirect_stdout(silent.enter_context(Path(os.devnull).open("w"))))
            yield rank
    finally:
        dist.destroy_process_group()
