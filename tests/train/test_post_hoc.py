"""Post-hoc averages against averages computed directly, and the equations against integrals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from editkit.errors import UserError
from editkit.train.ema import PostHocAverage
from editkit.train.post_hoc import power_decay, profile_products, reconstruct, to_gamma, to_sigma_rel

STEPS = 960


@given(st.floats(0.01, 0.25))
def test_the_exponent_gives_the_relative_deviation_that_was_asked_for(sigma_rel: float) -> None:
    gamma = to_gamma(sigma_rel)
    assert to_sigma_rel(gamma) == pytest.approx(sigma_rel, rel=1e-9)
    tau = (np.arange(200_000) + 0.5) / 200_000
    profile = (gamma + 1) * tau**gamma
    mean = (profile * tau).mean()
    assert np.sqrt((profile * (tau - mean) ** 2).mean()) == pytest.approx(sigma_rel, rel=1e-3)


def test_the_published_exponents() -> None:
    assert to_gamma(0.05) == pytest.approx(16.97, abs=0.01)
    assert to_gamma(0.10) == pytest.approx(6.94, abs=0.01)
    with pytest.raises(ValueError, match="at most"):
        to_gamma(0.3)


@pytest.mark.parametrize(("step_a", "step_b"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.4)])
def test_a_product_of_profiles_is_its_integral(step_a: float, step_b: float) -> None:
    gamma_a, gamma_b = 16.97, 6.94
    tau = (np.arange(400_000) + 0.5) / 400_000

    def profile(gamma: float, end: float) -> np.ndarray:
        return np.where(tau <= end, (gamma + 1) * (tau / end) ** gamma / end, 0.0)

    expected = (profile(gamma_a, step_a) * profile(gamma_b, step_b)).mean()
    found = profile_products(*map(np.float64, (step_a, gamma_a, step_b, gamma_b)))
    assert found == pytest.approx(expected, rel=1e-3)


def test_the_recursion_has_the_weights_of_the_profile() -> None:
    gamma, weights = to_gamma(0.1), np.zeros(50)
    for step in range(1, 51):
        kept = power_decay(step, gamma)
        weights *= kept
        weights[step - 1] += 1 - kept
    ends = np.arange(51) / 50
    np.testing.assert_allclose(weights, np.diff(ends ** (gamma + 1)), atol=1e-12)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """Snapshots of weights that drift and shake, and the weights of every step."""
    folder = tmp_path_factory.mktemp("snapshots")
    module = nn.Linear(8, 4, bias=False)
    generator = torch.Generator().manual_seed(1)
    goal = torch.randn(4, 8, generator=generator)
    average, seen = PostHocAverage(module), []
    for step in range(1, STEPS + 1):
        with torch.no_grad():
            shaking = torch.randn(4, 8, generator=generator)
            module.weight.copy_(goal * (1 - (1 - step / STEPS) ** 2) + 0.3 * shaking)
        average.update()
        seen.append(module.weight.detach().double().clone())
        if average.snapshot_due(step, STEPS):
            average.save_snapshot(folder)
    return folder, torch.stack(seen)


@pytest.mark.parametrize(
    ("sigma_rel", "step", "largest"),
    [(0.05, STEPS, 1e-6), (0.1, STEPS, 1e-6), (0.07, STEPS, 1e-3), (0.03, STEPS, 4e-3), (0.2, STEPS, 2e-3), (0.1, 600, 1e-6),
     (0.08, 615, 2e-2)],
)  # fmt: skip
def test_the_reconstructed_average_is_the_one_computed_directly(
    trained: tuple[Path, torch.Tensor], sigma_rel: float, step: int, largest: float
) -> None:
    folder, weights = trained
    ends = torch.arange(step + 1, dtype=torch.float64) / step
    shares = (ends ** (to_gamma(sigma_rel) + 1)).diff()
    expected = torch.einsum("t,tab->ab", shares, weights[:step])
    found = reconstruct(folder, sigma_rel, step)["weight"].double()
    error = ((found - expected).norm() / expected.norm()).item()
    assert error < largest


def test_what_cannot_be_reconstructed_is_said(trained: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    folder, _ = trained
    for arguments, words in (
        ((tmp_path, 0.1), "found no snapshots"),
        ((folder, 0.3), "at most 0.25"),
        ((folder, 0.1, STEPS + 1), f"from 1 to {STEPS}"),
    ):
        with pytest.raises(UserError, match=words):
            reconstruct(*arguments)
