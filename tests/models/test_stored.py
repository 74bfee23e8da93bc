"""bf16 storage: unbiased rounding, what is lost without it, and a resume that is exact."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from editkit.models.stored import Bf16Weights, loss_of_storing, round_stochastically, store_in_bf16, vanishing_share

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=200)
@given(finite, st.integers(0, 2**31))
def test_rounding_takes_one_of_the_two_neighbours_with_the_right_expectation(value: float, seed: int) -> None:
    count = 4096
    x = torch.full((count,), value)
    rounded = round_stochastically(x, torch.Generator().manual_seed(seed)).double()
    nearest = x[0].to(torch.bfloat16)
    if nearest.item() == value:
        assert (rounded == value).all()
        return
    other = torch.nextafter(nearest, torch.tensor(math.copysign(math.inf, value - nearest.item()), dtype=torch.bfloat16))
    low, high = sorted((nearest.item(), other.item()))
    assert low < value < high
    assert set(rounded.tolist()) <= {low, high}
    if math.isfinite(high - low):
        error = (rounded.mean().item() - value) / (high - low)
        assert abs(error) < 6 * 0.5 / math.sqrt(count)  # six standard deviations of a share


def test_what_is_not_finite_stays_so() -> None:
    x = torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0])
    rounded = round_stochastically(x, torch.Generator().manual_seed(0)).float()
    assert rounded[:2].tolist() == [math.inf, -math.inf]
    assert rounded[2].isnan()
    assert torch.equal(rounded[3:].signbit(), torch.tensor([False, True]))


@pytest.mark.parametrize(("lr", "share"), [(1e-4, 0.118), (1e-5, 0.845), (1e-6, 0.981)])
def test_the_share_that_vanishes_is_the_published_one(lr: float, share: float) -> None:
    weights = torch.randn(400_000, generator=torch.Generator().manual_seed(0)) * 0.02
    assert vanishing_share([weights], lr) == pytest.approx(share, abs=0.003)
    assert vanishing_share([], lr) == 0.0


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(32, 4))


def test_matrices_are_stored_in_bf16_and_the_line_says_what_that_loses() -> None:
    network = small()
    network[3].requires_grad_(False)
    store_in_bf16(network)
    assert {n for n, p in network.named_parameters() if p.dtype == torch.bfloat16} == {"0.weight"}
    line = loss_of_storing([{"params": list(network.parameters()), "lr": 1e-6}], 1.0, "bf16")
    assert f"{vanishing_share([network[0].weight], 1e-6):.1%} at lr 1e-06" in line
    assert "no trained weight is stored in bf16" in loss_of_storing([{"params": list(small().parameters())}], 1.0, "bf16")


def trained(steps: int, *, stochastic: bool, lr: float = 1e-6, stop_at: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Every weight is pushed the same way, by a gradient of one."""

    def begin() -> tuple[nn.Module, torch.optim.Optimizer]:
        network = small()
        store_in_bf16(network)
        optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.0, fused=True)
        Bf16Weights(optimizer, stochastic=stochastic, seed=7)
        return network, optimizer

    network, optimizer = begin()
    for step in range(steps):
        if stop_at and step == stop_at:
            weights, state = network.state_dict(), optimizer.state_dict()
            network, optimizer = begin()
            network.load_state_dict(weights)
            optimizer.load_state_dict(state)
        for p in network.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        optimizer.zero_grad()
    return network, optimizer


def test_small_steps_vanish_to_the_nearest_and_count_by_chance() -> None:
    start = small()[0].weight.detach().to(torch.bfloat16).float()
    nearest, optimizer = trained(100, stochastic=False)
    by_chance, _ = trained(100, stochastic=True)
    assert (nearest[0].weight.float() == start).float().mean() > 0.95
    moved = (by_chance[0].weight.float() - start).mean().item()
    assert moved == pytest.approx(-100 * 1e-6, rel=0.5)
    assert by_chance[0].weight.dtype == torch.bfloat16
    assert {v.dtype for s in optimizer.state.values() for v in s.values()} == {torch.float32}


@pytest.mark.parametrize("stochastic", [False, True])
def test_a_resumed_optimiser_rounds_as_the_uninterrupted_one(stochastic: bool, tmp_path: Path) -> None:
    whole, expected = trained(8, stochastic=stochastic, lr=1e-3)
    resumed, found = trained(8, stochastic=stochastic, lr=1e-3, stop_at=5)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(expected.state.values(), found.state.values(), strict=True):
        assert all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)
