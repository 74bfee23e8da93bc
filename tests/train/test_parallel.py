"""Several real processes over gloo take the steps that one takes, share everything they should, and end together."""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from editkit.train.checkpoint import list_checkpoints
from tests.train.kill import differing
from tests.train.parallel_runs import BATCHES, KINDS, begin, differences, divided, poison, train, write_recipe

CLOSE = 1e-5


@pytest.fixture(scope="module")
def place(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Path, None, None]:
    """A current folder with both recipes, whose data and cache all tests share."""
    folder = tmp_path_factory.mktemp("parallel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("EDITKIT_CACHE", str(folder / "cache"))
        for kind in KINDS:
            write_recipe(folder, tiny_sd, kind)
        yield folder


@pytest.fixture(scope="module")
def alone(place: Path) -> dict[str, tuple[Path, list[dict[str, Any]]]]:
    """Each recipe in one process."""
    return {kind: train(f"{kind}.toml") for kind in KINDS}


@pytest.mark.parametrize(
    ("kind", "layout", "processes", "shard"), [("full", "ddp", 2, 1), ("lora", "fsdp", 2, 1), ("full", "hsdp", 4, 2)]
)
def test_several_processes_take_the_steps_of_one(
    alone: dict[str, tuple[Path, list[dict[str, Any]]]], kind: str, layout: str, processes: int, shard: int
) -> None:
    expected, (single,) = alone[kind]
    run, seen = train(f"{kind}.toml", divided(layout, processes, shard))
    assert len(seen) == processes
    assert max(differences(run, expected).values()) < CLOSE

    # Every rank has other examples, and together they are those of the one process, step by step.
    passes = BATCHES // processes
    for step in range(len(single["positions"]) // BATCHES):
        together = [p for one in seen for batch in one["positions"][step * passes : (step + 1) * passes] for p in batch]
        wanted = [p for batch in single["positions"][step * BATCHES : (step + 1) * BATCHES] for p in batch]
        assert sorted(together) == wanted
        assert len(set(together)) == len(wanted)

    for one in seen:
        for held in one["held"].values():
            assert held["sharded"] == (layout != "ddp")
            pieces = {"ddp": 1, "fsdp": processes, "hsdp": shard}[layout]
            assert held["local"] == pytest.approx(held["full"] / pieces, rel=0.05)

    local = [one["local_norms"] for one in seen]
    assert len(local[0]) == len(single["norms"]) * (passes - 1)
    if layout == "ddp" and passes > 1:
        assert all(a != b for a, b in zip(*local, strict=True)), "exchanged before the last pass of a step"
        assert all(a == b for a, b in zip(*(one["norms"] for one in seen), strict=True))
    else:
        assert all(norm is None for norms in local for norm in norms), "there is no shard of a gradient before the last pass"


def test_a_checkpoint_of_two_processes_is_resumed_by_four_and_then_by_one(
    alone: dict[str, tuple[Path, list[dict[str, Any]]]],
) -> None:
    expected, _ = alone["full"]
    run, _ = train("full.toml", ["train.steps=1", *divided("fsdp", 2)])
    _, seen = train("full.toml", ["train.steps=2", *divided("fsdp", 4)], resume=run)
    assert len(seen) == 4
    train("full.toml", resume=run)
    assert max(differences(run, expected).values()) < CLOSE


def test_half_precision_trains_with_sharded_weights(
    alone: dict[str, tuple[Path, list[dict[str, Any]]]],
) -> None:
    expected, _ = alone["lora"]
    run, seen = train("lora.toml", ['train.precision="bf16"', *divided("fsdp", 2)])
    assert 0 < differences(run, expected)["loss"] < 0.05
    assert all(held["sharded"] for one in seen for held in one["held"].values())


def test_a_killed_process_ends_the_job_with_one_line_and_the_job_resumes(
    alone: dict[str, tuple[Path, list[dict[str, Any]]]],
) -> None:
    whole, _ = train("lora.toml", divided("ddp", 2))
    before = set(Path("runs").glob("*"))
    child = begin("lora.toml", divided("ddp", 2))
    for _, moment in child.moments():
        if moment == "step 3":
            break
    began = time.monotonic()
    os.kill(int(Path("pid-1").read_text()), signal.SIGKILL)
    assert child.end() == 2
    assert time.monotonic() - began < 20
    lines = child.output.read_text().splitlines()
    assert "Traceback" not in "\n".join(lines)
    said = [line for line in lines if line.startswith("editkit:")]
    assert len(said) == 1
    assert "process 1 of 2 was killed by SIGKILL" in said[0]
    (run,) = set(Path("runs").glob("*")) - before
    train("lora.toml", divided("ddp", 2), resume=run)
    assert differing(run, whole) == []


def test_processes_that_are_asked_to_end_save_the_same_step_and_go_on(place: Path) -> None:
    changes = [*divided("fsdp", 2), "train.save_every=0", "train.steps=30"]  # so that the signal finds it at work
    whole, _ = train("lora.toml", changes)
    before = set(Path("runs").glob("*"))
    child = begin("lora.toml", changes)
    for _, moment in child.moments():
        if moment == "step 2":
            break
    assert child.end(signal.SIGTERM) == 130, child.output.read_text()
    (run,) = set(Path("runs").glob("*")) - before
    (saved,) = list_checkpoints(run)
    assert f"stopped at step {int(saved.name.removeprefix('step-'))}, saved" in child.output.read_text()
    assert json.loads((run / "run.json").read_text())["state"] == "stopped"
    train("lora.toml", changes, resume=run)
    assert differing(run, whole) == []


def test_a_loss_that_is_no_number_in_one_process_is_passed_over_by_all(place: Path) -> None:
    poisoned = functools.partial(poison, 9, float("nan"))
    changes = ['train.on_nonfinite="skip"']
    alone, _ = train("full.toml", changes, in_child=poisoned)
    run, _ = train("full.toml", [*changes, *divided("fsdp", 2)], in_child=poisoned)
    losses = ["loss" in json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert losses == [True, False, True]
    assert max(differences(run, alone).values()) < CLOSE


def test_a_mistake_that_the_processes_find_is_one_line(place: Path) -> None:
    child = begin("lora.toml", divided("hsdp", 2, 3))
    for _ in child.moments():
        pass
    assert child.end() == 2
    lines = child.output.read_text().splitlines()
    assert "Traceback" not in "\n".join(lines)
    assert [line for line in lines if line.startswith("editkit:")] == [
        "editkit: parallel.shard: found 3, which does not divide 2 processes"
    ]
