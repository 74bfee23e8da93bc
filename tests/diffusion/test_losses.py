"""Targets and weights against the equations, and against the algebra that ties the prediction types together."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_loss_weighting_for_sd3
from hypothesis import given, settings
from hypothesis import strategies as st

from editkit.diffusion.losses import (
    denoising_target,
    flow_weight,
    loss_by_noise_level,
    min_snr_flow_weight,
    min_snr_weight,
    signal_to_noise,
)

TYPES = ("epsilon", "v_prediction", "sample")


def scheduler(kind: str, **changes: object) -> DDPMScheduler:
    return DDPMScheduler(beta_schedule="scaled_linear", prediction_type=kind, **changes)


def draw(seed: int, count: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, count, 4, 4, 4, generator=generator)
    return clean, noise, torch.randint(0, 1000, (count,), generator=generator)


@settings(max_examples=30)
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


@settings(max_examples=30)
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


TIMES = torch.tensor([0.01, 0.2, 0.5, 0.9, 0.999])


@pytest.mark.parametrize("name", ["cosmap", "sigma_sqrt", "none"])
def test_flow_weights_are_those_of_diffusers(name: str) -> None:
    torch.testing.assert_close(flow_weight(name, TIMES), compute_loss_weighting_for_sd3(name, TIMES))


def test_an_unknown_flow_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown loss weight"):
        flow_weight("sigma", TIMES)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_on_the_velocity_is_min_snr_on_the_clean_sample(gamma: float) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise, guess = torch.randn(3, len(TIMES), 12, generator=generator).double()
    t = TIMES.double()[:, None]
    noisy = (1 - t) * clean + t * noise
    snr = ((1 - t) / t).square()
    expected = snr.clamp(max=gamma) * ((noisy - t * guess) - clean).square()  # guess is a velocity; the clean sample it says
    found = min_snr_flow_weight(TIMES.double(), gamma)[:, None] * (guess - (noise - clean)).square()
    torch.testing.assert_close(found, expected)
    assert min_snr_flow_weight(torch.zeros(1), gamma).item() == 0


def test_the_loss_by_noise_level_is_the_mean_of_each_range_and_has_no_empty_ones() -> None:
    error = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], requires_grad=True)
    found = loss_by_noise_level(error, torch.tensor([0.0, 0.29, 0.3, 0.6, 1.0]))
    assert {k: v.item() for k, v in found.items()} == {"mse_0_0.3": 1.5, "mse_0.3_0.6": 4.0, "mse_0.6_1": 12.0}
    assert not any(v.requires_grad for v in found.values())
    assert loss_by_noise_level(error[:2], torch.tensor([0.7, 0.8]), bins=(0.5,)).keys() == {"mse_0.5_1"}
