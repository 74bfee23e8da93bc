"""What of a training is tensors, by fully qualified names (FQN): weights, optimiser, averages; taken and put back in place.

The names are those of the plain module, whatever wraps it (DDP, `torch.compile`, activation checkpoints), so that a state
fits one process and many. Optimisers are read and written as they are, not through `torch`'s own helpers: those take a step
with a rate of 0 to make the state appear, which moves the counters of Prodigy or of a schedule-free optimiser, and cast a
state to its parameter's dtype.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from editkit.errors import UserError
from editkit.train.checkpoint import Place

Averages = Mapping[str, Mapping[str, torch.Tensor]]  # name -> FQN -> tensor

WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")  # torch.compile, activation checkpoints
HOW = ("params", "fused", "foreach", "capturable", "differentiable")  # which kernel steps: the machine's, not the run's


def capture(module: nn.Module, optimizer: torch.optim.Optimizer, averages: Averages) -> dict[str, Any]:
    """The state of a training, as references to the live tensors: nothing is copied.

    Args:
        module: whose parameters with `requires_grad` are trained; they may be `DTensor`s.
        optimizer: of exactly such parameters, in the mode in which it trains (schedule-free: `optimizer.train()`).
        averages: of the trained weights.

    Returns:
        "weights" (trained parameters) and "buffers" (running statistics beside them), FQN -> tensor; "optimizer" with "state",
        FQN -> name -> tensor or number, and "groups", the options of each and its "params" as FQNs; "averages".

    Raises:
        ValueError: the optimiser has a parameter that `module` does not train.
        UserError: the optimiser keeps a state that cannot be sharded.
    """
    weights = trained(module)
    names = {parameter: name for name, parameter in weights.items()}
    state, groups = {}, []
    for group in optimizer.param_groups:
        missing = [tuple(p.shape) for p in group["params"] if p not in names]
        if missing:
            raise ValueError(f"the optimiser has parameters that the module does not train, of shapes {missing[:3]}")
        params = [names[p] for p in group["params"]]
        groups.append({**{k: v for k, v in group.items() if k != "params"}, "params": params})
        for name, parameter in zip(params, group["params"], strict=True):
            if entries := optimizer.state.get(parameter):
                _check_sharding(name, parameter, entries)
                state[name] = dict(entries)
    return {
        "weights": {name: p.detach() for name, p in weights.items()},
        "buffers": dict(_buffers(module)),
        "optimizer": {"state": state, "groups": groups},
        "averages": {name: dict(average) for name, average in averages.items()},
    }


def places(module: nn.Module, optimizer: torch.optim.Optimizer, averages: Averages) -> Place:
    """Where `load_checkpoint` puts what `capture` gave: weights and averages in place, the optimiser's into new tensors.

    A tensor of a parameter's shape is sharded like the parameter. The captured mapping is the state itself or merged into it.

    Raises:
        UserError: (when called) the checkpoint holds a weight that is not trained now, or of another shape.
    """
    weights = trained(module)
    live = {"weights": {name: p.detach() for name, p in weights.items()}, "buffers": dict(_buffers(module))}
    on_device = {p for g in optimizer.param_groups if g.get("fused") or g.get("capturable") for p in g["params"]}

    def place(path: tuple[str, ...], shape: torch.Size, dtype: torch.dtype) -> torch.Tensor | None:
        match path:
            case ("weights" | "buffers" as kind, name):
                return _same_shape(name, live[kind].get(name), shape)
            case ("averages", average, name):
                return _same_shape(name, averages.get(average, {}).get(name), shape)
            case ("optimizer", "state", name, entry, *_):
                parameter = weights.get(name)
                if parameter is None:
                    raise _foreign(name)
                if shape == parameter.shape:
                    return torch.empty_like(parameter, dtype=dtype, requires_grad=False)
                stays = entry == "step" and parameter not in on_device
                return torch.empty(shape, dtype=dtype, device="cpu" if stays else parameter.device)
        return None

    return place


@torch.no_grad()
def restore(
    saved: Mapping[str, Any],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    averages: Averages,
    released: Collection[str] = (),
) -> None:
    """Puts a captured state back, in place; the optimiser takes over the tensors of `saved`.

    Args:
        saved: what `capture` gave and `load_checkpoint` brought back (further keys are ignored).
        module: as in `capture`.
        optimizer: made anew from the recipe, with the same groups.
        averages: as in `capture`.
        released: options of the groups that stay as they are now (see `identity.released_options`).

    Raises:
        UserError: the trained weights, the groups or the averages are others than those saved.
    """
    weights = trained(module)
    for kind, live in (("weights", weights), ("buffers", dict(_buffers(module))), *averages.items()):
        stored = saved[kind] if kind in ("weights", "buffers") else saved["averages"].get(kind, {})
        if stored.keys() != live.keys():
            raise _foreign(*sorted(stored.keys() ^ live.keys()), kind=kind)
        for name, tensor in live.items():
            tensor.copy_(stored[name])
    if dropped := sorted(saved["averages"].keys() - averages.keys()):
        raise UserError(f"the checkpoint has averages that the recipe does not: {', '.join(dropped)}")
    _restore_optimizer(saved["optimizer"], weights, optimizer, released)


def _restore_optimizer(
    saved: Mapping[str, Any], weights: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, released: Collection[str]
) -> None:
    names = {parameter: name for name, parameter in weights.items()}
    before = [group["params"] for group in saved["groups"]]
    now = [[names.get(p, "?") for p in group["params"]] for group in optimizer.param_groups]
    if before != now:
        raise UserError(f"the optimiser has {len(now)} groups with other weights than the {len(before)} of the checkpoint")
    for group, stored in zip(optimizer.param_groups, saved["groups"], strict=True):
        group.update({k: v for k, v in stored.items() if k not in HOW and k not in released})
    optimizer.state.clear()
    for name, entries in saved["state"].items():
        optimizer.state[weights[name]] = dict(entries)


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """The trained parameters by FQN; one that is shared has the first of its names."""
    if isinstance(module, DistributedDataParallel):
        module = module.module
    return {_plain(name): p for name, p in module.named_parameters() if p.requires_grad}


def _buffers(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Buffers that training changes: those that are saved and stand beside trained parameters, such as running means."""
    if isinstance(module, DistributedDataParallel):
        module = module.module
    for prefix, part in module.named_modules():
        if any(p.requires_grad for p in part.parameters(recurse=False)):
            for name, buffer in part.named_buffers(prefix, recurse=False):
                if name.rpartition(".")[2] not in part._non_persistent_buffers_set:
                    yield _plain(name), buffer


def _plain(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _check_sharding(name: str, parameter: torch.Tensor, entries: Mapping[str, Any]) -> None:
    """A plain tensor beside a sharded parameter differs from process to process, and one of them would be taken for all."""
    if not isinstance(parameter, DTensor):
        return
    for key, value in entries.items():
        sharded = isinstance(value, DTensor) and value.shape == parameter.shape
        if isinstance(value, torch.Tensor) and not sharded and value.numel() > 1:
            raise UserError(
                f'the optimiser keeps "{key}" of {name} apart in every process; with sharded weights use an optimiser whose '
                'state is sharded too, such as "adamw"'
            )


def _same_shape(name: str, live: torch.Tensor | None, shape: torch.Size) -> torch.Tensor:
    if live is None:
        raise _foreign(name)
    if live.shape != shape:
        raise UserError(f"{name}: found shape {tuple(shape)} in the checkpoint; the model has {tuple(live.shape)} now")
    return live


def _foreign(*names: str, kind: str = "weights") -> UserError:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return UserError(f"the checkpoint and the recipe differ in their {kind}: {', '.join(names[:3])}{more}; start a new run")
