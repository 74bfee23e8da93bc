"""Averages of the trained weights: exponential ones of one or several lengths, and those that are chosen afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from editkit.files import whole_file
from editkit.train.post_hoc import power_decay, snapshot_path, to_gamma

SIGMA_REL = (0.05, 0.10)  # of the two averages that snapshots are taken of (Karras et al. 2024, section 3.2)
SNAPSHOTS = 32  # moments over a whole training


class WeightAverage:
    """Keeps averages of the parameters that are trained; without a decay there is none.

    Args:
        module: its parameters with `requires_grad` are averaged, in fp32 or better whatever they are stored in: one in bf16
            would not move (the steps of a decay of 0.999 are below half a unit of its last place).
        decay: one, 0 for none, or several; the first is the one that `applied` takes by itself.
    """

    def __init__(self, module: nn.Module, decay: float | Sequence[float]) -> None:
        decays = [decay] if isinstance(decay, (int, float)) else decay
        self._updates = 0
        self._parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self._averages = {float(d): {n: _copy(p) for n, p in self._parameters.items()} for d in decays if d}

    @property
    def decays(self) -> tuple[float, ...]:
        """Those that are kept; the first is exported."""
        return tuple(self._averages)

    def update(self) -> None:
        """Moves the averages towards the weights; early steps count more, so that they do not remember the start."""
        self._updates += 1
        for decay, average in self._averages.items():
            _move(average, self._parameters, min(decay, (1 + self._updates) / (10 + self._updates)))

    @contextlib.contextmanager
    def applied(self, average: float | Mapping[str, torch.Tensor] | None = None) -> Generator[None, None, None]:
        """Puts an average in place of the weights while the block runs, tensor by tensor.

        Args:
            average: the decay of a kept one, or another one's tensors by parameter name; None = the first that is kept, or the
                weights themselves where there is none.

        Raises:
            ValueError: no average with that decay is kept.
        """
        if average is None:
            average = next(iter(self._averages), None)
        if average is None:
            yield
            return
        if not isinstance(average, Mapping):
            if average not in self._averages:
                raise ValueError(f"no average with decay {average} is kept, but {self.decays}")
            average = self._averages[average]
        with _in_place_of(self._parameters, average):
            yield

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self._updates, "averages": {str(d): dict(a) for d, a in self._averages.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._updates = state["updates"]
        for decay, average in self._averages.items():
            _load(average, state["averages"][str(decay)])


class PostHocAverage:
    """Two averages with power-function profiles, from whose snapshots one of any length is made after the training.

    Karras et al. 2024, section 3. `editkit.train.post_hoc.reconstruct` does the second half.
    """

    def __init__(self, module: nn.Module) -> None:
        self._updates = 0
        self._parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self._averages = {sigma: {n: _copy(p) for n, p in self._parameters.items()} for sigma in SIGMA_REL}

    def update(self) -> None:
        """Moves both averages; call it once after every optimiser step."""
        self._updates += 1
        for sigma, average in self._averages.items():
            _move(average, self._parameters, power_decay(self._updates, to_gamma(sigma)))

    def snapshot_due(self, step: int, steps: int) -> bool:
        """Whether this of all `steps` ends one of the equal spans after which a snapshot is taken; the last one does."""
        return step * SNAPSHOTS // steps > (step - 1) * SNAPSHOTS // steps

    def save_snapshot(self, folder: Path) -> None:
        """Writes both averages to `folder`, fp32, a file each; a file is whole or not there."""
        folder.mkdir(parents=True, exist_ok=True)
        for sigma, average in self._averages.items():
            with whole_file(snapshot_path(folder, self._updates, sigma)) as half:
                save_file({n: a.contiguous() for n, a in average.items()}, half, {"format": "1"})

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self._updates, "averages": {str(s): dict(a) for s, a in self._averages.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._updates = state["updates"]
        for sigma, average in self._averages.items():
            _load(average, state["averages"][str(sigma)])


def _copy(parameter: nn.Parameter) -> torch.Tensor:
    wide = torch.promote_types(parameter.dtype, torch.float32)
    return parameter.detach().to(wide, copy=True)


@torch.no_grad()
def _move(average: Mapping[str, torch.Tensor], parameters: Mapping[str, nn.Parameter], decay: float) -> None:
    weights = [parameters[n].to(a.dtype) for n, a in average.items()]
    torch._foreach_lerp_(list(average.values()), weights, 1 - decay)


@torch.no_grad()
def _load(average: Mapping[str, torch.Tensor], saved: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in average.items():
        tensor.copy_(saved[name])


@contextlib.contextmanager
def _in_place_of(parameters: Mapping[str, nn.Parameter], average: Mapping[str, torch.Tensor]) -> Generator[None, None, None]:
    """Swaps one tensor after the other, so that never more than one is there three times; what comes back is bit-equal."""
    kept: dict[str, torch.Tensor] = {}  # weights in less than fp32, in which the average would lose its last bits

    def swap() -> None:
        with torch.no_grad():
            for name, tensor in average.items():
                before = parameters[name].detach().clone()
                parameters[name].copy_(kept.pop(name, tensor))
                if before.dtype == tensor.dtype:
                    tensor.copy_(before)
                else:
                    kept[name] = before

    swap()
    try:
        yield
    finally:
        swap()
