"""Which noise levels a training step sees: pure functions from a uniform number to a time.

Time t is in (0, 1): 0 = the clean picture, 1 = noise. Every function here is one inverse distribution function (or, for the
mixture of PRX, one per part, and the number itself chooses the part), so that one uniform number an example is all the
randomness that any of them needs: u_B has the shape (B,) and lies in [0, 1), as `torch.rand` draws it.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field

from editkit.recipe.schema import Fraction, PositiveFloat, Section


class Timesteps(Section):
    """How times are drawn; a method that draws them has this as its table `timesteps`."""

    name: Literal["uniform", "logit_normal", "mode", "cosmap", "prx"] = "uniform"
    mean: float = 0.0  # of logit(t), for logit_normal and prx; above 0 = more noise
    std: PositiveFloat = 1.0  # of logit(t), for logit_normal and prx
    scale: Annotated[float, Field(ge=-1, le=2 / (math.pi - 2))] = 1.29  # of mode; above 0 = more of the middle, 0 = uniform
    shift: PositiveFloat = 1.0  # t -> shift t / (1 + (shift - 1) t); above 1 = more noise; sample with the same
    uniform_share: Fraction = 0.1  # of prx: share drawn evenly, and not shifted, so that no noise level is forgotten
    t_min: Annotated[float, Field(ge=0, lt=1)] = 1e-3  # of prx: the smallest time


def draw_timesteps(u_B: torch.Tensor, options: Timesteps) -> torch.Tensor:
    """Times of the distribution that a recipe names, shape (B,), in (0, 1).

    Args:
        u_B: uniform numbers in [0, 1), shape (B,).
        options: the recipe's table.
    """
    if options.name == "prx":
        return prx(u_B, options.mean, options.std, options.shift, options.uniform_share, options.t_min)
    if options.name == "logit_normal":
        t_B = logit_normal(u_B, options.mean, options.std)
    elif options.name == "mode":
        t_B = mode(u_B, options.scale)
    elif options.name == "cosmap":
        t_B = cosmap(u_B)
    else:
        t_B = uniform(u_B)
    return shifted(t_B, options.shift)


def uniform(u_B: torch.Tensor) -> torch.Tensor:
    """Every noise level alike: density 1."""
    return _inside(u_B)


def logit_normal(u_B: torch.Tensor, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    """logit(t) ~ N(mean, std^2) (Esser et al. 2024, section 3.1)."""
    return torch.sigmoid(mean + std * torch.special.ndtri(_inside(u_B)))


def mode(u_B: torch.Tensor, scale: float = 1.29) -> torch.Tensor:
    """Heavy-tailed mode sampling, t = 1 - u - scale (cos(pi u / 2)^2 - 1 + u) (Esser et al. 2024, section 3.1).

    Args:
        u_B: uniform numbers, shape (B,).
        scale: from -1 to 2 / (pi - 2), where the function stays monotone; it falls as u rises, as published.
    """
    return _inside(1 - u_B - scale * (torch.cos(math.pi * u_B / 2).square() - 1 + u_B))


def cosmap(u_B: torch.Tensor) -> torch.Tensor:
    """Density 2 / (pi (1 - 2 t + 2 t^2)): the log-SNR of the cosine schedule (Esser et al. 2024, section 3.1)."""
    return _inside(1 - 1 / (torch.tan(math.pi * _inside(u_B) / 2) + 1))


def prx(
    u_B: torch.Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    shift: float = 1.0,
    uniform_share: float = 0.1,
    t_min: float = 1e-3,
) -> torch.Tensor:
    """The sampler of PRX: a shifted logit-normal, cut off below `t_min`, with a floor of uniform draws.

    What PRX does by rejection and a second draw is here one function of u: u below `uniform_share` is stretched over
    [t_min, 1); the rest goes through the inverse of the truncated distribution.

    Args:
        u_B: uniform numbers, shape (B,).
        mean: of logit(t) before the shift.
        std: the same.
        shift: see `shifted`; it does not act on the uniform draws.
        uniform_share: share of uniform draws.
        t_min: the smallest time.
    """
    u_B = u_B.double()  # stretching a tenth of [0, 1) would leave a tenth of the float32 numbers
    even_B = t_min + (1 - t_min) * u_B / max(uniform_share, 1e-12)
    below = 0.0  # the probability that the cut takes away
    if t_min > 0:
        logit = math.log(t_min / (1 - t_min)) - math.log(shift)
        below = 0.5 * math.erfc((mean - logit) / (std * math.sqrt(2)))
    rest_B = ((u_B - uniform_share) / max(1 - uniform_share, 1e-12)).clamp(min=0)
    curved_B = shifted(logit_normal(below + (1 - below) * rest_B, mean, std), shift)
    return _inside(torch.where(u_B < uniform_share, even_B, curved_B).float()).clamp(min=t_min)


def shifted(t_B: torch.Tensor, shift: float) -> torch.Tensor:
    """The time shift t / (1 + (shift - 1) t), which adds ln(shift) to logit(t) (Esser et al. 2024, section 5.3.2)."""
    return _inside(shift * t_B / (1 + (shift - 1) * t_B))


def resolution_shift(pixels: int, base_pixels: int) -> float:
    """The shift sqrt(m / n) that makes m pixels as uncertain as n were (Esser et al. 2024, section 5.3.2).

    Args:
        pixels: of the training resolution, width times height.
        base_pixels: of the resolution at which no shift is needed.
    """
    return math.sqrt(pixels / base_pixels)


def to_steps(t_B: torch.Tensor, steps: int) -> torch.Tensor:
    """Times as indices into the `steps` levels of a discrete schedule, 0 = the least noise: int64, shape (B,).

    Uniform times give each index with probability 1 / steps.
    """
    return (t_B * steps).long().clamp(0, steps - 1)


def _inside(t_B: torch.Tensor) -> torch.Tensor:
    """Keeps 0 and 1 out, which `torch.rand` and rounding reach, and where a noise level is not defined."""
    edge = torch.finfo(t_B.dtype).eps / 2  # of the largest number below 1
    return t_B.clamp(edge / 2, 1 - edge)
