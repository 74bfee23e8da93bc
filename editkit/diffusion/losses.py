"""What a denoiser is asked for, and how much each noise level counts."""

from __future__ import annotations

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
