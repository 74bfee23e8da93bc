"""Averages of the weights: the recursion, several at once, what comes back, and the snapshots."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from editkit.recipe.schema import Train
from editkit.train.ema import SIGMA_REL, SNAPSHOTS, PostHocAverage, WeightAverage
from editkit.train.post_hoc import reconstruct


def walk(module: nn.Linear, update: int) -> torch.Tensor:
    """Sets the weights that a training would have at this update."""
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[float(update), -1.0 / update]]))
    return module.weight.detach().clone()


def test_the_averages_are_the_recursion_and_the_weights_come_back() -> None:
    module = nn.Linear(2, 1, bias=False)
    average = WeightAverage(module, [0.9, 0.5])
    expected = {d: module.weight.detach().clone() for d in (0.9, 0.5)}
    for update in range(1, 30):
        weight = walk(module, update)
        average.update()
        for decay in expected:
            kept = min(decay, (1 + update) / (10 + update))
            expected[decay] = kept * expected[decay] + (1 - kept) * weight
    trained = module.weight.detach().clone()
    again = WeightAverage(module, [0.9, 0.5])
    again.load_state_dict(average.state_dict())
    for one in (average, again):
        for decay, values in (*expected.items(), (None, expected[0.9])):
            with one.applied(decay):
                torch.testing.assert_close(module.weight.detach(), values)
            assert torch.equal(module.weight, trained)
    walk(module, 99)
    average.update()
    again.update()
    assert torch.equal(*(x.state_dict()["averages"]["0.5"]["weight"] for x in (average, again)))


def test_the_state_is_named_and_of_trained_parameters_alone() -> None:
    module = nn.Linear(2, 1)
    module.bias.requires_grad_(False)
    state = WeightAverage(module, 0.999).state_dict()
    assert state["updates"] == 0
    assert {d: list(a) for d, a in state["averages"].items()} == {"0.999": ["weight"]}


@pytest.mark.parametrize("decay", [0.0, []])
def test_without_decay_there_is_no_average(decay: float | list[float]) -> None:
    module = nn.Linear(2, 1)
    average = WeightAverage(module, decay)
    average.update()
    before = module.weight.detach().clone()
    with average.applied():
        assert torch.equal(module.weight, before)
    assert average.state_dict()["averages"] == {}
    with pytest.raises(ValueError, match="no average with decay"), average.applied(0.9):
        pass


def test_the_weights_come_back_after_an_error() -> None:
    module = nn.Linear(2, 1, bias=False)
    average = WeightAverage(module, 0.9)
    before = walk(module, 7)
    averaged = average.applied()
    averaged.__enter__()
    assert not torch.equal(module.weight, before)
    assert not averaged.__exit__(KeyError, KeyError("preview"), None), "the error is not swallowed"
    assert torch.equal(module.weight, before)


def test_an_average_of_bf16_weights_keeps_the_digits_that_they_have_not() -> None:
    module = nn.Linear(2, 1, bias=False).to(torch.bfloat16)
    average = WeightAverage(module, 0.9999)
    for update in range(1, 200):
        walk(module, update)
        average.update()
    kept = {d: {n: t.clone() for n, t in a.items()} for d, a in average.state_dict()["averages"].items()}
    trained = module.weight.detach().clone()
    with average.applied():
        assert torch.equal(module.weight, kept["0.9999"]["weight"].bfloat16())
    assert torch.equal(module.weight, trained)
    assert torch.equal(average.state_dict()["averages"]["0.9999"]["weight"], kept["0.9999"]["weight"])
    assert kept["0.9999"]["weight"].dtype == torch.float32


def test_a_recipe_names_decays_that_differ_and_average() -> None:
    assert Train(steps=1, batch_size=1, ema_decay=[0.999, 0.9999]).ema_decay == [0.999, 0.9999]
    for wrong in ([0.9, 0.9], [0.9, 0.0], [1.5]):
        with pytest.raises(ValidationError):
            Train(steps=1, batch_size=1, ema_decay=wrong)


@pytest.mark.parametrize("steps", [SNAPSHOTS, 100, 6001])
def test_snapshots_are_evenly_spread_and_the_last_step_has_one(steps: int) -> None:
    average = PostHocAverage(nn.Linear(1, 1))
    due = [s for s in range(1, steps + 1) if average.snapshot_due(s, steps)]
    assert len(due) == SNAPSHOTS
    assert due[-1] == steps
    spans = [b - a for a, b in zip([0, *due], due, strict=False)]
    assert max(spans) - min(spans) <= 1


def test_a_resumed_average_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    module = nn.Linear(2, 1, bias=False)
    average, again = PostHocAverage(module), None
    for update in range(1, 41):
        walk(module, update)
        average.update()
        if again is not None:
            again.update()
        if update == 20:
            average.save_snapshot(tmp_path)
            again = PostHocAverage(module)
            again.load_state_dict(average.state_dict())
    average.save_snapshot(tmp_path / "one")
    again.save_snapshot(tmp_path / "two")
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert files == [f"step-0000040-sigma_rel-{s:g}.safetensors" for s in SIGMA_REL]
    assert all((tmp_path / "one" / n).read_bytes() == (tmp_path / "two" / n).read_bytes() for n in files)
    found = reconstruct(tmp_path / "one", SIGMA_REL[0])
    torch.testing.assert_close(found["weight"], average.state_dict()["averages"]["0.05"]["weight"], rtol=1e-5, atol=1e-6)
