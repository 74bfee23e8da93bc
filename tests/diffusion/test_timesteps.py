"""Every distribution of times against its closed form, a large sample of its definition, and diffusers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from diffusers.training_utils import compute_density_for_timestep_sampling
from hypothesis import given
from hypothesis import strategies as st
from torch.special import ndtr

from editkit.diffusion.timesteps import (
    Timesteps,
    cosmap,
    draw_timesteps,
    logit_normal,
    mode,
    prx,
    resolution_shift,
    shifted,
    to_steps,
    uniform,
)

COUNT = 20_000
Distribution = Callable[[torch.Tensor], torch.Tensor]


def drawn() -> torch.Tensor:
    return torch.rand(COUNT, generator=torch.Generator().manual_seed(4))


def logit(t: float) -> float:
    return math.log(t / (1 - t))


def agrees(t_B: torch.Tensor, distribution: Distribution) -> bool:
    """The test of Kolmogorov and Smirnov at 1 %: the largest distance of the two distribution functions."""
    expected = distribution(t_B.double().sort().values)
    ranks = torch.arange(len(t_B) + 1, dtype=torch.float64) / len(t_B)
    distance = torch.maximum(ranks[1:] - expected, expected - ranks[:-1]).max().item()
    return distance < 1.63 / math.sqrt(len(t_B))


def agree(a_B: torch.Tensor, b_B: torch.Tensor) -> bool:
    """The same of two samples."""
    both = torch.cat([a_B, b_B]).sort().values
    shares = [torch.searchsorted(x.sort().values, both, right=True) / len(x) for x in (a_B, b_B)]
    return (shares[0] - shares[1]).abs().max().item() < 1.63 * math.sqrt(1 / len(a_B) + 1 / len(b_B))


def cosmap_distribution(t_B: torch.Tensor) -> torch.Tensor:
    """The integral of 2 / (pi (1 - 2 s + 2 s^2)) from 0 to t."""
    return 2 / math.pi * (torch.atan(2 * t_B - 1) + math.pi / 4)


@pytest.mark.parametrize(
    ("sample", "distribution"),
    [
        (uniform, lambda t: t),
        (lambda u: logit_normal(u, 0.5, 0.8), lambda t: ndtr((t.logit() - 0.5) / 0.8)),
        (cosmap, cosmap_distribution),
        (lambda u: shifted(logit_normal(u), 3.0), lambda t: ndtr(t.logit() - math.log(3))),
    ],
    ids=["uniform", "logit_normal", "cosmap", "shifted"],
)
def test_a_sample_has_the_distribution_of_its_closed_form(sample: Distribution, distribution: Distribution) -> None:
    assert agrees(sample(drawn()), distribution)
    assert not agrees(sample(drawn()) * 0.98, distribution)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 1.29, 2 / (math.pi - 2)])
def test_mode_is_the_equation_of_diffusers(scale: float) -> None:
    expected = compute_density_for_timestep_sampling(
        "mode", COUNT, mode_scale=scale, generator=torch.Generator().manual_seed(4)
    )
    torch.testing.assert_close(mode(drawn(), scale), expected, atol=1e-6, rtol=0)
    ordered = mode(torch.linspace(0, 1, 1001), scale)
    assert (ordered.diff() <= 1e-6).all(), "one to one"


def test_logit_normal_has_the_distribution_of_diffusers() -> None:
    expected = compute_density_for_timestep_sampling(
        "logit_normal", COUNT, logit_mean=-0.4, logit_std=1.3, generator=torch.Generator().manual_seed(9)
    )
    assert agree(logit_normal(drawn(), -0.4, 1.3), expected)
    assert not agree(logit_normal(drawn(), -0.35, 1.3), expected)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("t_min", [1e-3, 0.2])
def test_prx_is_rejection_and_a_second_draw(shift: float, t_min: float) -> None:
    generator = torch.Generator().manual_seed(5)
    t = shifted(torch.randn(2 * COUNT, generator=generator).sigmoid(), shift)
    t = t[(t >= t_min) & (t < 1)][:COUNT]
    even = torch.rand(len(t), generator=generator) < 0.1
    t[even] = t_min + (1 - t_min) * torch.rand(int(even.sum()), generator=generator)
    found = prx(drawn(), shift=shift, t_min=t_min)
    assert agree(found, t)
    assert found.min() >= t_min
    assert found.max() < 1
    assert not agree(prx(drawn(), shift=shift, t_min=t_min, uniform_share=0.4), t)


def test_the_medians_of_prx_are_those_that_follow_from_its_equations() -> None:
    u = torch.linspace(0, 1, 400_001, dtype=torch.float64)
    assert prx(u, shift=3.0, uniform_share=0.0, t_min=0.0).median().item() == pytest.approx(0.75, abs=1e-3)
    assert prx(u, shift=3.0).median().item() == pytest.approx(0.737, abs=1e-3)


@given(st.floats(1e-4, 1 - 1e-4), st.floats(0.05, 20))
def test_a_shift_adds_its_logarithm_to_the_logit(t: float, shift: float) -> None:
    found = shifted(torch.tensor([t], dtype=torch.float64), shift).item()
    assert logit(found) == pytest.approx(logit(t) + math.log(shift), abs=1e-6)
    assert shifted(torch.tensor([found], dtype=torch.float64), 1 / shift).item() == pytest.approx(t, abs=1e-9)


def test_the_resolution_shift_is_the_published_one() -> None:
    assert resolution_shift(1024 * 1024, 256 * 256) == 4.0
    assert resolution_shift(512 * 512, 512 * 512) == 1.0


@pytest.mark.parametrize("name", ["uniform", "logit_normal", "mode", "cosmap", "prx"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_no_uniform_number_leads_out_of_the_open_interval(name: str, shift: float) -> None:
    u = torch.tensor([0.0, 2.0**-24, 0.05, 0.1, 0.5, 1 - 2.0**-24])
    t = draw_timesteps(u, Timesteps(name=name, shift=shift))
    assert t.dtype == torch.float32
    assert t.shape == u.shape
    assert ((t > 0) & (t < 1)).all(), t
    assert len(draw_timesteps(drawn(), Timesteps(name=name, shift=shift)).unique()) > 0.9 * COUNT


def test_uniform_times_give_every_step_alike() -> None:
    middles = (torch.arange(1000) + 0.5) / 1000
    assert torch.equal(to_steps(middles, 1000), torch.arange(1000))
    assert to_steps(torch.tensor([1e-9, 1 - 2.0**-24, 1.0]), 1000).tolist() == [0, 999, 999]
    counts = to_steps(uniform(drawn()), 10).bincount(minlength=10)
    assert counts.max() - counts.min() < 250  # 2000 each, standard deviation 42
