"""What a denoiser is asked for, and how much each noise level counts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch


def denoising_target(scheduler: Any, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """The regression target for the scheduler's prediction type.

    "epsilon": the noise (Ho et al. 2020, eq. 14). "v_prediction": sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) clean
    (Salimans and Ho 2022, appendix D). "sample": the clean latents.
    """
    kind = scheduler.config["prediction_type"]
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(clean, noise, timesteps)
    if kind == "sample":
        return clean
    raise ValueError(f"unknown prediction type {kind!r}")


def signal_to_noise(scheduler: Any, timesteps: torch.Tensor) -> torch.Tensor:
    """SNR(t) = alpha_bar / (1 - alpha_bar), shape of `timesteps`."""
    alpha_bar = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    return alpha_bar / (1 - alpha_bar)


def min_snr_weight(scheduler: Any, timesteps: torch.Tensor, gamma: float) -> torch.Tensor:
    """Min-SNR-gamma weights (Hang et al. 2023, section 3.4), shape of `timesteps`.

    min(SNR, gamma) is the weight on the error in the clean sample; divided by what the prediction type carries already:
    SNR for epsilon, SNR + 1 for v.
    """
    snr = signal_to_noise(scheduler, timesteps)
    clipped = snr.clamp(max=gamma)
    kind = scheduler.config["prediction_type"]
    if kind == "epsilon":
        return clipped / snr.clamp(min=1e-8)
    if kind == "v_prediction":
        return clipped / (snr + 1)
    return clipped


def flow_weight(name: str, t_B: torch.Tensor) -> torch.Tensor:
    """Weights of the flow-matching loss by noise level (Esser et al. 2024, section 3.1), shape (B,).

    Args:
        name: "none": 1. "cosmap": 2 / (pi (1 - 2 t + 2 t^2)), the density of the cosine schedule. "sigma_sqrt": t^-2.
        t_B: times in (0, 1), 1 = noise.

    Raises:
        ValueError: another name.
    """
    if name == "none":
        return torch.ones_like(t_B)
    if name == "cosmap":
        return 2 / (math.pi * (1 - 2 * t_B + 2 * t_B.square()))
    if name == "sigma_sqrt":
        return t_B**-2.0
    raise ValueError(f"unknown loss weight {name!r}")


def min_snr_flow_weight(t_B: torch.Tensor, gamma: float) -> torch.Tensor:
    """Min-SNR-gamma (Hang et al. 2023, section 3.4) for the loss on the velocity of a rectified flow, shape (B,).

    x_t = (1 - t) x_0 + t eps has SNR = ((1 - t) / t)^2, and an error in v is one of t times its size in x_0: the loss on v
    carries the weight 1 / t^2 = (1 + sqrt(SNR))^2 already. So min(SNR, gamma) on x_0 is min(SNR, gamma) t^2 on v, here
    without a division, so that it is exact at t = 0.

    Args:
        t_B: times in [0, 1], 1 = noise.
        gamma: the largest weight on the error in the clean sample; 5 as published.
    """
    return torch.minimum((1 - t_B).square(), gamma * t_B.square())


def loss_by_noise_level(
    error_B: torch.Tensor, t_B: torch.Tensor, bins: Sequence[float] = (0.3, 0.6)
) -> dict[str, torch.Tensor]:
    """The mean error of each range of noise levels, because the mean over all hides that one of them gets worse.

    Args:
        error_B: the unweighted error of every example, shape (B,), on any device.
        t_B: its time in [0, 1]; on the CPU, where it was drawn, so that what to leave out is known without waiting for an
            accelerator.
        bins: the inner edges; an edge belongs to the range above it.

    Returns:
        "mse_0.3_0.6" -> scalar tensor on the device of `error_B`, detached; ranges that no example fell into are left out.
    """
    edges = [0.0, *bins, 1.0]
    range_B = torch.bucketize(t_B, torch.tensor(bins, dtype=t_B.dtype, device=t_B.device), right=True)
    means = {}
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        rows = (range_B == number).nonzero().squeeze(1)
        if len(rows):
            chosen = error_B.detach().index_select(0, rows.to(error_B.device, non_blocking=True))
            means[f"mse_{low:g}_{high:g}"] = chosen.mean()
    return means
