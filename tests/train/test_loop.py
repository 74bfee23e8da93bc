"""The loop by itself: precision, accumulation, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from editkit.methods.instruct_edit import InstructEdit
from editkit.models.stable_diffusion.load import Options, load
from editkit.recipe.schema import Optim, Train
from editkit.train.loop import Trainer, _Window
from tests.methods.test_instruct_edit import batch, recipe

CPU = torch.device("cpu")


class Batches:
    """The same examples, cut as asked for."""

    def __init__(self, method: InstructEdit) -> None:
        self._batch = batch(method)

    def take(self, position: int, count: int, generator: torch.Generator) -> dict:
        start = position % 4
        return {k: v[start : start + count] for k, v in self._batch.items()}


def trainer(tiny_sd: Path, **train: object) -> tuple[Trainer, Batches]:
    chosen = recipe(train=Train(**({"steps": 3, "batch_size": 4} | train)), optim=Optim(lr=1e-3, max_grad_norm=1e9))
    method = InstructEdit(chosen, InstructEdit.Options(conditioning_dropout=0.0), load(str(tiny_sd), Options()))
    return Trainer(chosen, method, CPU), Batches(method)


def test_fp16_finds_its_scale_without_touching_the_weights_and_then_trains(tiny_sd: Path) -> None:
    made, batches = trainer(tiny_sd, precision="fp16")
    made._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = [p.detach().clone() for p in made._parameters]
    scale, skipped = made._scaler.get_scale(), 0
    while skipped < 60:
        made.dry_step(batches)
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
        made, batches = trainer(tiny_sd, precision=precision)
        norms[precision] = made._one_step(batches, _Window())["grad_norm"]
    assert norms["bf16"] == pytest.approx(norms["fp32"], rel=0.05)
    assert norms["fp16"] == pytest.approx(norms["fp32"], rel=0.02)


def test_the_scale_is_part_of_the_state(tiny_sd: Path) -> None:
    made, batches = trainer(tiny_sd, precision="fp16")
    made._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    made.dry_step(batches)
    again, _ = trainer(tiny_sd, precision="fp16")
    again.load_state_dict(made.state_dict())
    assert again._scaler.get_scale() == made._scaler.get_scale() == 2.0**39


def test_the_position_in_the_data_counts_samples(tiny_sd: Path) -> None:
    made, batches = trainer(tiny_sd, batch_size=2, accumulate=2)
    taken: list[tuple[int, int]] = []
    original = batches.take
    batches.take = lambda position, count, generator: (  # type: ignore[method-assign]
        taken.append((position, count)) or original(position, count, generator)
    )
    made.dry_step(batches)
    made.step += 1
    made.dry_step(batches)
    assert taken == [(0, 2), (2, 2), (4, 2), (6, 2)]
