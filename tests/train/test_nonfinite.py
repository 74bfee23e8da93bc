"""A loss that is no number: the weights stay as they were, the batch is written down, and the recipe is followed."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from editkit.errors import UserError
from editkit.train.checkpoint import list_checkpoints, read_checkpoint
from editkit.train.loop import Trainer
from editkit.train.run import train
from tests.train import parallel_runs
from tests.train.kill import differing
from tests.train.parallel_runs import write_recipe

POISONED = 9  # position in the stream; step 3 has 8 to 11
STEP = 3
CHANGES = ["train.steps=5", "train.accumulate=2", "train.save_every=1"]


@pytest.fixture(scope="module")
def recipe(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[str, None, None]:
    folder = tmp_path_factory.mktemp("nonfinite")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("EDITKIT_CACHE", str(folder / "cache"))
        yield write_recipe(folder, tiny_sd, "lora")


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Multiplies the loss of the batch with the poisoned example."""
    return lambda factor: parallel_runs.poison(POISONED, factor, monkeypatch.setattr)


@pytest.fixture(scope="module")
def passed_over(recipe: str) -> Path:
    """A run without poison that does not apply the step."""
    original = Trainer._update

    def update(trainer: Trainer, *args: Any) -> None:
        if trainer.step + 1 == STEP:
            trainer._optimizer.zero_grad(set_to_none=True)
        else:
            original(trainer, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_update", update)
        return train(recipe, CHANGES)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Everything trained in the last checkpoint."""
    state = read_checkpoint(list_checkpoints(run)[-1])
    moments = {f"{n}/{k}": t for n, of in state["optimizer"]["state"].items() for k, t in of.items()}
    averages = {f"{d}/{n}": t for d, average in state["averages"].items() for n, t in average.items()}
    return {**state["weights"], **averages, **moments}


def assert_equal(found: Path, expected: Path) -> None:
    a, b = weights(found), weights(expected)
    assert a.keys() == b.keys()
    assert [name for name in b if not torch.equal(a[name], b[name])] == []


def failed_run() -> Path:
    """The newest one."""
    return max(Path("runs").iterdir(), key=lambda p: p.stat().st_mtime_ns)


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_stop_leaves_the_weights_writes_the_batch_down_and_goes_on_as_told(
    recipe: str, poison: Callable[[float], None], passed_over: Path, factor: float
) -> None:
    poison(factor)
    before: list[dict[str, torch.Tensor]] = []
    original = Trainer._handle

    def handle(trainer: Trainer, *args: Any) -> None:
        before.append({n: p.detach().clone() for n, p in trainer._method.trainable.named_parameters()})
        try:
            original(trainer, *args)
        finally:
            after = dict(trainer._method.trainable.named_parameters())
            assert all(torch.equal(after[n], p) for n, p in before[-1].items())
            assert all(p.grad is None for p in after.values())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_handle", handle)
        with pytest.raises(UserError, match=rf"^step {STEP}: .*the weights were not touched.*failures/"):
            train(recipe, CHANGES)
    assert len(before) == 1
    run = failed_run()
    saved = read_checkpoint(list_checkpoints(run)[-1])
    assert saved["step"] == STEP - 1
    assert all(torch.equal(before[0][n], t) for n, t in saved["weights"].items()), "they are those of the step before"
    folder = run / "failures" / f"step-{STEP:06d}"
    said = json.loads((folder / "batch.json").read_text())
    assert said["action"] == "stop"
    assert [e["position"] for e in said["examples"]] == [8, 9, 10, 11]
    assert all(e["text"] or e["text"] == "" for e in said["examples"])
    pictures = {f"{n:03d}-{role}.png" for n in range(4) for role in ("source", "target", "mask")}
    assert {p.name for p in folder.glob("*.png")} == pictures

    train(recipe, [*CHANGES, 'train.on_nonfinite="skip"'], resume=str(run))
    assert_equal(run, passed_over)


@pytest.mark.parametrize("action", ["skip", "rollback"])
def test_going_on_equals_a_run_that_never_applied_the_step(
    recipe: str, poison: Callable[[float], None], passed_over: Path, action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(float("nan"))
    chosen = [*CHANGES, f'train.on_nonfinite="{action}"', "train.save_every=2"]
    run = train(recipe, chosen)
    assert capsys.readouterr().err.count(f": {action}") == 1, "it happened, once"
    assert_equal(run, passed_over)
    lines = [json.loads(x, parse_constant=pytest.fail) for x in (run / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == [1, 2, 3, 4, 5], "a line for every step, and no NaN, which is no JSON"
    assert ["loss" in x for x in lines] == [True, True, False, True, True]

    # Stopped behind the bad step and resumed, it ends the same.
    original = Trainer._one_step

    def interrupted(trainer: Trainer, *args: Any) -> dict[str, Any]:
        if trainer.step == STEP:
            trainer.stop_requested = True
        return original(trainer, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_one_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, chosen)
    stopped = failed_run()
    train(recipe, chosen, resume=str(stopped))
    assert differing(stopped, run) == []


def test_a_spike_is_passed_over(
    recipe: str, poison: Callable[[float], None], passed_over: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("editkit.train.loop.SPIKE_HISTORY", 2)
    poison(1e6)
    run = train(recipe, [*CHANGES, "train.spike_factor=1000", 'train.on_nonfinite="skip"'])
    assert "times the usual" in json.loads((run / "failures" / f"step-{STEP:06d}" / "batch.json").read_text())["why"]
    assert_equal(run, passed_over)
