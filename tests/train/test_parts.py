"""The small parts of the loop: schedules, the groups of the optimiser and the weight average."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from editkit.recipe.schema import Optim
from editkit.train.ema import WeightAverage
from editkit.train.optim import lr_factor, make_optimizer, set_lr


@given(st.integers(1, 500), st.integers(0, 100), st.sampled_from(["constant", "cosine", "linear"]))
def test_a_schedule_warms_up_and_never_leaves_its_range(total: int, warmup: int, kind: str) -> None:
    options = Optim(lr=1.0, schedule=kind, warmup=warmup)
    factors = [lr_factor(step, total, options) for step in range(total)]
    assert all(0 <= f <= 1 for f in factors)
    rising = factors[: min(warmup, total)]
    assert rising == sorted(rising)
    falling = factors[warmup:]
    assert falling == sorted(falling, reverse=True)
    if warmup < total:
        assert factors[warmup] == 1.0


def test_cosine_and_linear_end_near_zero_and_constant_does_not() -> None:
    last = {k: lr_factor(999, 1000, Optim(lr=1.0, schedule=k)) for k in ("constant", "cosine", "linear")}
    assert last["constant"] == 1.0
    assert 0 < last["cosine"] < last["linear"] < 0.002


def test_groups_keep_their_own_rates() -> None:
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = make_optimizer([{"params": [a]}, {"params": [b], "lr": 0.5}], Optim(lr=0.1))
    assert set_lr(optimizer, 0.2) == pytest.approx(0.02)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.02, 0.1])


def test_the_average_is_the_recursion_and_the_weights_come_back() -> None:
    module = nn.Linear(2, 1, bias=False)
    average, expected = WeightAverage(module, 0.9), module.weight.detach().clone()
    for update in range(1, 30):
        with torch.no_grad():
            module.weight.copy_(torch.tensor([[float(update), -1.0]]))
        average.update()
        decay = min(0.9, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * module.weight.detach()
    trained = module.weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(module.weight, nn.Parameter(expected))
    assert torch.equal(module.weight, trained)
    again = WeightAverage(module, 0.9)
    again.load_state_dict(average.state_dict())
    with again.applied():
        torch.testing.assert_close(module.weight, nn.Parameter(expected))


def test_without_decay_there_is_no_average() -> None:
    module = nn.Linear(2, 1)
    average = WeightAverage(module, 0.0)
    average.update()
    before = module.weight.detach().clone()
    with average.applied():
        assert torch.equal(module.weight, before)
    assert average.state_dict()["average"] == []
