"""The loop by itself: precision, accumulation, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from editkit.data.draws import Draws
from editkit.data.sampler import Planned
from editkit.methods.instruct_edit import InstructEdit
from editkit.models.stable_diffusion.load import Options, load
from editkit.recipe.schema import Optim, Train
from editkit.train.batches import Taken
from editkit.train.loop import Trainer
from editkit.train.parallel import Layout
from tests.methods.test_instruct_edit import batch, recipe

CPU = torch.device("cpu")


class Batches:
    """The same four examples over and over, cut as asked for."""

    def __init__(self, method: InstructEdit, count: int) -> None:
        self._batch = batch(method)
        self._count = count
        self._position = 0

    def take(self) -> Taken:
        positions = tuple(range(self._position, self._position + self._count))
        self._position += self._count
        start = positions[0] % 4
        cut = {k: v[start : start + self._count] for k, v in self._batch.items()}
        return Taken(cut, Draws(0, positions), Planned(0, positions, positions), self._count, 0.0)

    def state_dict(self) -> dict:
        return {"position": self._position}

    def load_state_dict(self, state: dict) -> None:
        self._position = state["position"]


def trainer(tiny_sd: Path, **train: object) -> Trainer:
    chosen = recipe(train=Train(**({"steps": 3, "batch_size": 4} | train)), optim=Optim(lr=1e-3, max_grad_norm=1e9))
    method = InstructEdit(chosen, InstructEdit.Options(conditioning_dropout=0.0), load(str(tiny_sd), Options()))
    return Trainer(chosen, method, Batches(method, chosen.train.batch_size), CPU, Layout(chosen, CPU))


def test_fp16_finds_its_scale_without_touching_the_weights_and_then_trains(tiny_sd: Path) -> None:
    made = trainer(tiny_sd, precision="fp16")
    made._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = [p.detach().clone() for p in made._parameters]
    scale, skipped = made._scaler.get_scale(), 0
    while skipped < 60:
        made.dry_step()
        if made._scaler.get_scale() == scale:
            break
        assert all(torch.equal(p, b) for p, b in zip(made._parameters, before, strict=True)), "an overflow was applied"
        scale, skipped = made._scaler.get_scale(), skipped + 1
    assert 0 < skipped < 60
    assert any(not torch.equal(p, b) for p, b in zip(made._parameters, before, strict=True))
    assert all(p.isfinite().all() for p in made._parameters)


def test_fp16_and_bf16_have_the_gradient_of_fp32(tiny_sd: Path) -> None:
    norms = {}
    for precision in ("fp32", "bf16", "fp16"):
        made = trainer(tiny_sd, precision=precision)
        norms[precision] = made._one_step(None)["grad_norm"]
    assert norms["bf16"] == pytest.approx(norms["fp32"], rel=0.05)
    assert norms["fp16"] == pytest.approx(norms["fp32"], rel=0.02)


def test_the_scale_is_part_of_the_state(tiny_sd: Path) -> None:
    made = trainer(tiny_sd, precision="fp16")
    made._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    made.dry_step()
    again = trainer(tiny_sd, precision="fp16")
    again.load_state_dict(made.state_dict())
    assert again._scaler.get_scale() == made._scaler.get_scale() == 2.0**39


def gradients(made: Trainer) -> list[torch.Tensor]:
    """Of the first step, before they are clipped away."""
    found: list[torch.Tensor] = []
    made._update = lambda _: found.extend(p.grad.clone() for p in made._parameters if p.grad is not None)
    made.dry_step()
    return found


def test_a_step_is_the_same_however_it_is_cut_into_passes(tiny_sd: Path) -> None:
    whole, parts = (trainer(tiny_sd, batch_size=b, accumulate=a) for b, a in ((4, 1), (2, 2)))
    for expected, found in zip(gradients(whole), gradients(parts), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    assert whole.samples == parts.samples == 4
