"""Muon for the hidden matrices and AdamW for everything else, as one optimiser."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Generator
from typing import Any
from unittest.mock import patch

import torch
from torch.optim import _muon as torchs_muon

from editkit.models.precision import has_bf16
from editkit.recipe.schema import Optim

# Layers of a block lie below a number in the name, as in "blocks.3.attn.to_q.weight"; the first and the last layer do not.
INSIDE_A_BLOCK = re.compile(r"(^|\.)\d+\..+\.")
# Embeddings of tokens, positions and time; norms and the modulation (adaLN) that time drives them with, which Muon breaks.
EXCLUDED = re.compile(r"emb|norm|ada_?ln|modulation|(^|[._])mod([._]|$)|bias", re.IGNORECASE)


def is_hidden_matrix(name: str, parameter: torch.Tensor) -> bool:
    """Whether Muon takes a parameter: a matrix inside a block that is neither an embedding nor a modulation."""
    return parameter.dim() == 2 and bool(INSIDE_A_BLOCK.search(name)) and not EXCLUDED.search(name)


class _InFp32:
    """What torch's Newton-Schulz iteration asks of a gradient, where it asks for bf16 and is given fp32."""

    def __init__(self, grad: torch.Tensor) -> None:
        self.shape, self.size, self.bfloat16 = grad.shape, grad.size, grad.float().clone


@contextlib.contextmanager
def _where_it_is_quick(device: torch.device) -> Generator[None, None, None]:
    """Lets torch's Muon orthogonalise in fp32 where bf16 is imitated; torch says bf16 in its code, whatever the device."""
    if has_bf16(device):
        yield
        return
    iterate: Any = torchs_muon._zeropower_via_newtonschulz
    with patch.object(torchs_muon, iterate.__name__, lambda grad, *rest: iterate(_InFp32(grad), *rest)):
        yield


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) with the step size of Liu et al. 2025, so that both parts share AdamW's learning rates.

    The two parts work on the groups and the state of this one, so `param_groups`, `state_dict` and `load_state_dict` are those
    of any optimiser: Muon's groups first.
    """

    def __init__(self, matrices: list[dict[str, Any]], others: list[dict[str, Any]], options: Optim) -> None:
        lr, decay = options.lr, options.weight_decay
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr, decay, options.momentum, adjust_lr_fn="match_rms_adamw")
        ]
        if others:
            self._parts.append(torch.optim.AdamW(others, lr, options.betas, options.eps, decay, fused=True))
        self._count = len(self._parts[0].param_groups)
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Makes the parts see our groups and our state; loading a state makes these anew."""
        cuts = (self.param_groups[: self._count], self.param_groups[self._count :])
        for part, groups in zip(self._parts, cuts, strict=False):
            part.param_groups = groups
            part.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with _where_it_is_quick(self.param_groups[0]["params"][0].device):
            for part in self._parts:
                part.step()
        return loss
