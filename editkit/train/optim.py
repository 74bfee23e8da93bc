"""The optimiser and its learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import torch

from editkit.recipe.schema import Optim


def make_optimizer(groups: list[dict[str, Any]], options: Optim) -> torch.optim.Optimizer:
    """AdamW in its fused form; every group keeps its base rate under "base_lr"."""
    groups = [{"lr": options.lr, **group} for group in groups]
    optimizer = torch.optim.AdamW(groups, betas=options.betas, eps=options.eps, weight_decay=options.weight_decay, fused=True)
    for group in optimizer.param_groups:
        group.setdefault("base_lr", group["lr"])
    return optimizer


def lr_factor(step: int, total: int, options: Optim) -> float:
    """What the base rate is multiplied with at `step` (0 = the first) of `total`: warm-up, then the schedule."""
    if step < options.warmup:
        return (step + 1) / options.warmup
    progress = (step - options.warmup) / max(1, total - options.warmup)
    if options.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    if options.schedule == "linear":
        return max(0.0, 1 - progress)
    return 1.0


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Sets every group's rate; returns the first one's."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return optimizer.param_groups[0]["lr"]
