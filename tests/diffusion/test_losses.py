"""Targets and weights against the equations, and against the algebra that ties the prediction types together."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from editkit.diffusion.losses import denoising_target, min_snr_weight, signal_to_noise

TYPES = ("epsilon", "v_prediction", "sample")


def scheduler(kind: str, **changes: object) -> DDPMScheduler:
    return DDPMScheduler(beta_schedule="scaled_linear", prediction_type=kind, **changes)


def draw(seed: int, count: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, count, 4, 4, 4, generator=generator)
    return clean, noise, torch.randint(0, 1000, (count,), generator=generator)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_a_perfect_prediction_of_any_type_gives_the_clean_latents_back(seed: int) -> None:
    clean, noise, timesteps = draw(seed)
    for kind in TYPES:
        chosen = scheduler(kind)
        noisy = chosen.add_noise(clean, noise, timesteps)
        target = denoising_target(chosen, clean, noise, timesteps)
        for i, t in enumerate(timesteps):
            found = chosen.step(target[i : i + 1], t, noisy[i : i + 1]).pred_original_sample
            expected = clean[i : i + 1].clamp(-1, 1)  # the scheduler clips its estimate
            torch.testing.assert_close(found, expected, atol=5e-3, rtol=1e-3)


def test_an_unknown_prediction_type_is_our_mistake() -> None:
    chosen = scheduler("epsilon")
    chosen.register_to_config(prediction_type="score")
    with pytest.raises(ValueError, match="score"):
        denoising_target(chosen, *draw(0))


def test_signal_to_noise_falls_with_time_and_vanishes_with_a_zero_terminal_snr() -> None:
    for zero in (False, True):
        snr = signal_to_noise(scheduler("v_prediction", rescale_betas_zero_snr=zero), torch.arange(1000))
        assert (snr.diff() < 0).all()
        assert (snr[-1] < 1e-6) == zero


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.5, 20))
def test_min_snr_is_one_weight_on_the_clean_error_whatever_is_predicted(seed: int, gamma: float) -> None:
    """Errors of x0 that are equal must weigh the same: min(SNR, gamma) |x0 error|^2 for all three types."""
    clean, _, timesteps = draw(seed)
    snr = signal_to_noise(scheduler("epsilon"), timesteps)
    error = 0.01 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    expected = snr.clamp(max=gamma) * error.square().mean(dim=(1, 2, 3))
    alpha = scheduler("epsilon").alphas_cumprod[timesteps].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - alpha.square()).sqrt()
    # what an error of the clean latents is in each type, from noisy = alpha clean + sigma noise
    in_type = {"sample": error, "epsilon": alpha / sigma * error, "v_prediction": error / sigma}
    for kind, off in in_type.items():
        found = min_snr_weight(scheduler(kind), timesteps, gamma) * off.square().mean(dim=(1, 2, 3))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-9)
