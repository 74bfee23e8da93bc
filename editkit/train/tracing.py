"""A pass of a method's loss without its numbers: what memory it takes, how much it computes, how much it moves.

Networks are made on the meta device and then stand as torch's fake tensors of the CPU, which have shapes and types alone,
so that autocast, attention and gradient checkpointing go the ways that they go in a run. Every storage that an operation
makes is followed from its birth to its end.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

Events = list[tuple[int, int]]  # (number of a storage, its bytes or - its bytes), in their order


@dataclass(frozen=True, slots=True)
class Work:
    """What a stretch of operations costs.

    Attributes:
        flops: multiplications and additions of matrix products, convolutions and attention, by the type of their numbers.
        moved: bytes that all operations read and write.
        operations: how many there are.
    """

    flops: dict[str, int]
    moved: int
    operations: int

    def __add__(self, other: Work) -> Work:
        flops = {k: self.flops.get(k, 0) + other.flops.get(k, 0) for k in self.flops | other.flops}
        return Work(flops, self.moved + other.moved, self.operations + other.operations)


class Ledger(TorchDispatchMode):
    """Follows memory and work while it is on, inside a `FakeTensorMode`.

    What only real tensors take part in, such as the drawn noise levels, is computed for real; so is every decision that depends
    on it. A mask over fake tensors is real then, and what it picks is counted exactly.

    Args:
        there: tensors that exist already and are counted elsewhere.
    """

    def __init__(self, there: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._flops: dict[str, int] = {}
        self._moved = 0
        self._operations = 0
        self.events: Events = []
        self._known: dict[int, tuple[weakref.ref, int]] = {}  # address -> storage, its number
        self._storages = 0
        self._there = {t.untyped_storage()._cdata for t in there}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, torch.Tensor)]
        if given and not any(isinstance(t, FakeTensor) or t.is_meta for t in given):
            with _disable_current_modes():
                return func(*args, **(kwargs or {}))
        if any(t.dtype == torch.bool and not isinstance(t, FakeTensor) for t in given):
            args = tree_map_only(list, _to_numbers, args, is_leaf=lambda x: isinstance(x, list))
        out = func(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(out) if isinstance(t, FakeTensor)]
        for tensor in made:
            self._follow(tensor.untyped_storage())
        if not func.is_view:
            self._count(func, args, kwargs or {}, out, given, made)
        return out

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any, given: list[Any], made: list[Any]) -> None:
        self._operations += 1
        self._moved += sum(t.numel() * t.element_size() for t in (*given, *made))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            dtype = str(made[0].dtype).removeprefix("torch.")
            self._flops[dtype] = self._flops.get(dtype, 0) + formula(*args, **kwargs, out_val=out)

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known or key in self._there:
            return
        nbytes, number = storage.nbytes(), self._storages
        self._storages += 1

        def ended(_: Any) -> None:
            del self._known[key]
            self.live -= nbytes
            if nbytes:
                self.events.append((number, -nbytes))

        self._known[key] = (weakref.ref(storage, ended), number)
        self.live += nbytes
        self.peak = max(self.peak, self.live)
        if nbytes:
            self.events.append((number, nbytes))

    def work(self) -> Work:
        """Of everything since the ledger was made."""
        return Work(dict(self._flops), self._moved, self._operations)

    def at_peak(self, tensors: Iterable[torch.Tensor]) -> tuple[int, int]:
        """The most bytes that were alive at once, and those of them that belonged to these living tensors (the gradients)."""
        chosen = {self._known[t.untyped_storage()._cdata][1] for t in tensors}
        live = most = theirs = of_these = 0
        for number, nbytes in self.events:
            live += nbytes
            theirs += nbytes if number in chosen else 0
            if live > most:
                most, of_these = live, theirs
        return most, of_these


def _to_numbers(indices: list[Any]) -> list[Any]:
    """Real masks in the place of indices as the numbers that they pick."""

    def numbers(index: Any) -> Any:
        if not isinstance(index, torch.Tensor) or isinstance(index, FakeTensor) or index.dtype != torch.bool:
            return index
        with _disable_current_modes():
            return index.nonzero().squeeze(1)

    return [numbers(i) for i in indices]


def to_fake(modules: Iterable[nn.Module], mode: FakeTensorMode) -> None:
    """Puts fake tensors of the CPU into the place of all parameters and buffers, in place; tied ones stay tied."""
    made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # the old one too, so that its id is not given again

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            with mode:
                new: torch.Tensor = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
            if isinstance(tensor, nn.Parameter):
                new = nn.Parameter(new, requires_grad=tensor.requires_grad)
            made[id(tensor)] = (new, tensor)
        return made[id(tensor)][0]

    for module in (m for root in modules for m in root.modules()):
        for place in (module._parameters, module._buffers):
            for name, tensor in place.items():
                if tensor is not None:
                    place[name] = fake(tensor)  # ty: ignore[invalid-assignment]
