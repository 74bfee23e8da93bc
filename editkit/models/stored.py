"""Trained weights that are stored in bf16: half the memory of weights and gradients, and what it loses.

bf16 has 8 significant bits: a weight in [2^k, 2^(k+1)) can only move in steps of 2^(k-7). An optimiser's step of less than half
of that is rounded away, every time, and fine-tuning learning rates lie there. Stochastic rounding (Gupta et al. 2015) takes the
neighbour above or below with the probability that makes the expectation right, so that small steps count on average.
torchao's AdamW rounds that way too, but keeps both moments in bf16, where a second moment with beta 0.999 cannot decay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

ROUNDED_STEPS = "rounded_steps"  # kept in the optimiser's first group, and with it in every checkpoint


def round_stochastically(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Rounds to bf16 without bias: one of the two neighbours, so that the expectation is `x`.

    Args:
        x: fp32, any shape; what is not finite stays as it is.
        generator: on the device of `x`.
    """
    bits = x.contiguous().view(torch.int32)
    noise = torch.randint(0, 1 << 16, x.shape, generator=generator, device=x.device, dtype=torch.int32)
    # bf16 is the upper half of fp32. Noise below the cut carries into it with the probability of what is cut off; sign and
    # magnitude are apart, so this holds on both sides of zero.
    rounded = ((bits + noise) & -(1 << 16)).view(torch.float32)
    return torch.where(x.isfinite(), rounded, x).to(torch.bfloat16)


def store_in_bf16(module: nn.Module) -> None:
    """Stores the trained weights of linear and convolution layers in bf16, in place.

    Norms, embeddings and biases are small and stay in fp32, as autocast computes them. So do adapters: they are small too, and
    begin at zero.
    """
    for layer in _matrix_layers(module):
        if layer.weight.requires_grad:
            layer.weight.data = layer.weight.data.to(torch.bfloat16)


def _matrix_layers(module: nn.Module) -> Iterator[Any]:
    adapted = tuple(f"{name}." for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer))
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) and not name.startswith(adapted):
            yield layer


class Bf16Weights:
    """Lets an optimiser see its bf16 parameters in fp32 while it steps or loads, so that its own state is in fp32.

    The fp32 copies exist during the step alone. Any `torch.optim.Optimizer` will do. The noise depends on the seed and on the
    number of steps, which is kept in the optimiser's state: a resumed run rounds as the uninterrupted one would have.

    Args:
        optimizer: some of its parameters may be bf16.
        stochastic: round by chance; else to the nearest.
        seed: of the noise.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, stochastic: bool, seed: int) -> None:
        self._parameters = [p for g in optimizer.param_groups for p in g["params"] if p.dtype == torch.bfloat16]
        self._stochastic = stochastic
        self._seed = seed
        optimizer.param_groups[0].setdefault(ROUNDED_STEPS, 0)
        optimizer.register_step_pre_hook(lambda *_: self._widen())
        optimizer.register_step_post_hook(self._after_step)
        optimizer.register_load_state_dict_pre_hook(lambda *_: self._widen())
        optimizer.register_load_state_dict_post_hook(lambda *_: self._narrow())

    def _widen(self) -> None:
        for p in self._parameters:
            p.data = p.data.float()
            p.grad = None if p.grad is None else p.grad.float()

    def _narrow(self) -> None:
        for p in self._parameters:
            p.grad = None
            p.data = p.data.to(torch.bfloat16)

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        group = optimizer.param_groups[0]
        if self._stochastic:
            generators: dict[torch.device, torch.Generator] = {}
            for p in self._parameters:
                if p.device not in generators:
                    seed = (self._seed * 1_000_003 + group[ROUNDED_STEPS]) % 2**63
                    generators[p.device] = torch.Generator(p.device).manual_seed(seed)
                p.grad = None
                p.data = round_stochastically(p.data, generators[p.device])
        self._narrow()
        group[ROUNDED_STEPS] += 1


def vanishing_share(weights: Iterable[torch.Tensor], lr: float) -> float:
    """Share of the weights that a step of +-lr, the size of Adam's, leaves unchanged when it is rounded to the nearest bf16.

    For normally distributed weights with standard deviation 0.02 it is 0.12 at 1e-4, 0.85 at 1e-5 and 0.98 at 1e-6.
    """
    stuck, count = 0.0, 0
    for weight in weights:
        w = weight.detach().to(torch.bfloat16)
        up, down = ((w.float() + step).to(torch.bfloat16) == w for step in (lr, -lr))
        stuck += (up.sum() + down.sum()).item() / 2
        count += w.numel()
    return stuck / count if count else 0.0


def loss_of_storing(groups: Iterable[Mapping[str, Any]], lr: float, weights: str) -> str:
    """One line: what bf16 storage loses with these weights and rates.

    Args:
        groups: the optimiser's groups; one without "lr" has `lr`.
        lr: the recipe's.
        weights: `train.weights`.
    """
    stored: dict[float, list[torch.Tensor]] = {}
    for group in groups:
        chosen = [p for p in group["params"] if p.dtype == torch.bfloat16]
        if chosen:
            stored.setdefault(group.get("lr", lr), []).extend(chosen)
    if not stored:
        return f'train.weights = "{weights}": no trained weight is stored in bf16; adapters, norms and biases stay in fp32'
    shares = ", ".join(f"{vanishing_share(tensors, rate):.1%} at lr {rate:g}" for rate, tensors in stored.items())
    count = sum(p.numel() for tensors in stored.values() for p in tensors)
    what = (
        f'train.weights = "{weights}": of {count / 1e6:.1f} M weights in bf16 a step of the size of lr is lost in rounding for'
    )
    if weights == "bf16":
        return f'{what} {shares}; "bf16-stochastic" keeps them on average'
    return f"{what} {shares} when rounded to the nearest; stochastic rounding keeps them on average and adds noise"
