"""An exponential moving average of the trained weights."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """Keeps an average of the parameters that are trained; decay 0 switches it off."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self._updates = 0
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._average = [p.detach().float().clone() for p in self._parameters] if decay else []  # bf16 could not move

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average towards the weights; early steps count more, so that it does not remember the start."""
        if not self._decay:
            return
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(self._average, [p.detach().float() for p in self._parameters], 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Generator[None, None, None]:
        """Puts the average in place of the weights while the block runs."""
        if not self._decay:
            yield
            return
        kept = [p.detach().clone() for p in self._parameters]
        self._put(self._average)
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self._updates, "average": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._updates = state["updates"]
        for average, saved in zip(self._average, state["average"], strict=True):
            average.copy_(saved)
