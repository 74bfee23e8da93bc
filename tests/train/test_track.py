"""What trackers were told, read back from what they wrote: beside a run that fails and goes on, and on a full disk."""

from __future__ import annotations

import json
import resource
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trackio.sqlite_storage import SQLiteStorage
from wandb.proto import wandb_internal_pb2

from editkit.errors import UserError
from editkit.recipe.schema import Recipe
from editkit.train.loop import Trainer
from editkit.train.run import train
from editkit.train.track import Tracking, check_tracking
from tests.train.test_run import RECIPE, SPEC

TO = 'tracking.to=["tensorboard", "trackio", "wandb"]'


@pytest.fixture
def recipe(workplace: Path, tiny_sd: Path) -> str:
    (workplace / "small.toml").write_text(SPEC)
    (workplace / "recipe.toml").write_text(RECIPE.format(base=tiny_sd))
    return "recipe.toml"


def small(to: list[str], project: str) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "small",
            "method": {"name": "instruct_edit"},
            "model": {"family": "stable_diffusion"},
            "data": {"train": "small.toml", "resolution": 32},
            "optim": {"lr": 1e-3},
            "train": {"steps": 6, "batch_size": 4},
            "tracking": {"to": to, "project": project},
        }
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def in_tensorboard(run: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    return [(e.step, e.value) for e in events.Scalars(name)]


def in_trackio(project: str, run: str, name: str) -> list[tuple[int, float]]:
    return [(entry["step"], entry[name]) for entry in SQLiteStorage.get_logs(project, run) if name in entry]


def in_wandb(run: Path, name: str) -> list[tuple[int, float]]:
    found = []
    for path in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        for record in whole_wandb_file(path):
            values = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            if name in values:
                found.append((record.history.step.num, json.loads(values[name])))
    return found


def whole_wandb_file(path: Path) -> list[Any]:
    """Its writer is a process of its own, which ends a file some time after the run has finished."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        records = list(wandb_records(path.read_bytes()))
        if any(record.HasField("exit") for record in records):
            return records
        time.sleep(0.05)
    raise AssertionError(f"{path} is not finished")


def wandb_records(data: bytes) -> Iterator[Any]:
    """The file is a LevelDB log: blocks of 32 KiB of pieces, each with a checksum, a length and a kind."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 2**15 - at % 2**15 < 7:
            at += 2**15 - at % 2**15
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def test_a_run_that_failed_and_goes_on_has_every_step_once_in_every_tracker(recipe: str) -> None:
    changes = [TO, 'tracking.project="goes-on"', "train.save_every=4", "train.preview_every=3"]
    original = Trainer._one_step

    def fails(self: Trainer, *args: Any) -> dict:
        if self.step == 5:
            raise RuntimeError("lost")
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_one_step", fails)
        with pytest.raises(RuntimeError, match="lost"):
            train(recipe, changes)
    (run,) = Path("runs").iterdir()
    assert [line["step"] for line in lines(run / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    train(recipe, changes, resume=run.name)
    for file, stream, name in (
        ("metrics.jsonl", "train", "loss"),
        ("metrics.jsonl", "train", "lr"),
        ("pace.jsonl", "pace", "time_s"),
    ):
        told = [(line["step"], line[name]) for line in lines(run / file)]
        assert [step for step, _ in told] == [1, 2, 3, 4, 5, 6]
        tag = f"{stream}/{name}"
        assert in_tensorboard(run, tag) == [(step, pytest.approx(value)) for step, value in told]
        if stream == "train":  # the paces of a step that was taken twice differ
            assert in_trackio("goes-on", run.name, tag) == told
            assert in_wandb(run, tag) == told
        else:
            assert (
                [s for s, _ in in_trackio("goes-on", run.name, tag)] == [s for s, _ in in_wandb(run, tag)] == [1, 2, 3, 4, 5, 6]
            )
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [e.step for e in events.Images("preview/edits")] == [3, 6]
    assert [e["step"] for e in SQLiteStorage.get_logs("goes-on", run.name) if "preview/grid" in e] == [3, 6]
    assert len(list(run.glob("wandb/offline-run-*/files/media/images/preview/edits_*.png"))) == 2
    assert json.loads((run / "tracking.json").read_text())["wandb"]["id"] in str(next(run.glob("wandb/offline-run-*")))


def test_tensorboard_forgets_steps_that_are_rolled_back_and_the_others_keep_what_they_saw(tmp_path: Path) -> None:
    run = tmp_path / "rolled-back"
    run.mkdir()
    tracking = Tracking(small(["tensorboard", "trackio"], "rolled-back"), run)
    tracking.begin()
    for step, loss in ((1, 0.5), (2, 0.25), (3, 8.0)):
        tracking.line("train", {"kind": "train", "step": step, "loss": loss, "note": "text", "ok": True})
    tracking.cut(1)
    for step, loss in ((2, 0.125), (3, 0.0625), (4, 0.5)):
        tracking.line("train", {"kind": "train", "step": step, "loss": loss, "scores": {"followed": 0.5}})
    tracking.close()
    assert in_tensorboard(run, "train/loss") == [(1, 0.5), (2, 0.125), (3, 0.0625), (4, 0.5)]
    assert in_tensorboard(run, "train/scores/followed") == [(2, 0.5), (3, 0.5), (4, 0.5)]
    assert in_trackio("rolled-back", "rolled-back", "train/loss") == [(1, 0.5), (2, 0.25), (3, 8.0), (4, 0.5)]


def test_a_tracker_that_is_new_to_a_resumed_run_begins_there(tmp_path: Path) -> None:
    run = tmp_path / "later"
    run.mkdir()
    tracking = Tracking(small(["trackio"], "later"), run)
    tracking.begin(resumed_at=2, seen={"train": 3})
    tracking.line("train", {"step": 3, "loss": 0.5})
    tracking.close()
    assert in_trackio("later", "later", "train/loss") == [(3, 0.5)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of the library's own thread
def test_a_full_disk_ends_a_tracker_with_one_line_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tracking = Tracking(small(["tensorboard", "wandb"], "full"), tmp_path)
    tracking.begin()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # of this process: wandb writes in one of its own
    try:
        for step in range(1, 40):
            tracking.line("train", {"step": step, "loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    tracking.line("train", {"step": 40, "loss": 0.5})
    tracking.close()
    shown = capsys.readouterr().err
    assert shown.count("tracking: tensorboard failed") == 1
    assert "goes on without it" in shown
    assert [step for step, _ in in_wandb(tmp_path, "train/loss")] == [*range(1, 41)]


@pytest.mark.parametrize(("name", "extra"), [("tensorboard", "tracking"), ("trackio", "tracking"), ("wandb", "wandb")])
def test_a_missing_package_is_said_before_anything_is_done(
    name: str, extra: str, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [m for m in sys.modules if m.partition(".")[0] == name or m.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf'"{name}" cannot be imported .*; pip install "editkit\[{extra}\]"'):
        train(recipe, [f'tracking.to=["{name}"]'])
    assert not Path("runs").exists()


def test_a_tracker_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(UserError, match="tensorboard cannot be opened"):
        Tracking(small(["tensorboard"], "x"), tmp_path).begin()


def test_trackio_that_would_send_its_figures_away_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_SPACE_ID", "me/mine")
    with pytest.raises(UserError, match=r"\$TRACKIO_SPACE_ID is set; unset it"):
        check_tracking(small(["trackio"], "x").tracking)
