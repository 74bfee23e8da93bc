"""Checkpoints: whole or not there, whatever happens to the disk or the process; which of them stay."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickle
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO, Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from editkit.errors import UserError
from editkit.train import sealed
from editkit.train.checkpoint import (
    Keep,
    checkpoint_folder,
    list_checkpoints,
    load_checkpoint,
    newest_whole,
    note_metrics,
    read_checkpoint,
    save_checkpoint,
)
from tests.train.processes import run_processes

IDENTITY = {"data": "a", "optim.lr": "0.1"}
ALL = Keep(last=100)


def state_at(step: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    return {
        "step": step,
        "weights": {"a.weight": torch.randn(8, 4, generator=generator), "b": torch.tensor(float(step))},
        "optimizer": {"groups": [{"lr": 1e-3 / 3, "betas": (0.9, 0.999), "fused": True, "foreach": None, "params": ["b"]}]},
        "rng": torch.randint(0, 255, (16,), generator=generator, dtype=torch.uint8),
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)


def save(run: Path, step: int, keep: Keep = ALL, **metrics: float) -> Path:
    return save_checkpoint(run, step, state_at(step), IDENTITY, keep, metrics)


def steps(run: Path) -> list[int]:
    return [int(p.name[5:]) for p in list_checkpoints(run)]


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    odd = {
        "numbers": [float("inf"), float("nan"), -0.0, 5e-324, 2**70, True, None, "é"],
        "by number": {0: {"exp_avg": torch.arange(3.0)}, 1: ()},
        "halves": torch.randn(3, 2).bfloat16(),
        "strided": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "part": torch.arange(100)[10:20:2],
        "empty": torch.empty(0, 3),
    }
    save_checkpoint(tmp_path, 3, odd, IDENTITY, ALL)
    loaded = load_checkpoint(tmp_path, IDENTITY)
    assert same(loaded, odd)
    assert loaded["strided"].stride() == odd["strided"].stride(), "fused AdamW depends on the order in memory"


def test_what_cannot_come_back_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a/b: a PosixPath cannot be part of a checkpoint"):
        save_checkpoint(tmp_path, 1, {"a": {"b": tmp_path}}, IDENTITY, ALL)
    assert steps(tmp_path) == []


def test_tensors_are_loaded_where_they_are_asked_for(tmp_path: Path) -> None:
    save(tmp_path, 1)
    target = torch.zeros(8, 4)
    loaded = load_checkpoint(tmp_path, IDENTITY, place=lambda path, *_: target if path == ("weights", "a.weight") else None)
    assert loaded["weights"]["a.weight"] is target
    assert torch.equal(target, state_at(1)["weights"]["a.weight"])


def files_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file())


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("two")
    save(run, 1)
    save(run, 2)
    return run


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_in_any_file_is_seen(two: Path, data: st.DataObject, capsys: pytest.CaptureFixture[str]) -> None:
    path = data.draw(st.sampled_from(files_of(checkpoint_folder(two, 2))))
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        path.write_bytes(changed)
        capsys.readouterr()
        assert same(load_checkpoint(two, IDENTITY), state_at(1))
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "step-000002: damaged" in said
        assert path.name in said
    finally:
        path.write_bytes(whole)
    assert same(load_checkpoint(two, IDENTITY), state_at(2))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_cut_or_missing_file_is_seen(two: Path, data: st.DataObject, capsys: pytest.CaptureFixture[str]) -> None:
    path = data.draw(st.sampled_from(files_of(checkpoint_folder(two, 2))))
    whole = path.read_bytes()
    kept = data.draw(st.one_of(st.none(), st.integers(0, len(whole) - 1)))
    try:
        path.unlink() if kept is None else path.write_bytes(whole[:kept])
        capsys.readouterr()
        assert same(load_checkpoint(two, IDENTITY), state_at(1))
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert f"damaged ({path.name}" in said
    finally:
        path.write_bytes(whole)


def test_a_checkpoint_under_the_name_of_another_step_is_seen(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2).rename(checkpoint_folder(tmp_path, 3))
    assert same(load_checkpoint(tmp_path, IDENTITY), state_at(1))


def test_without_a_whole_checkpoint_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found no whole checkpoint to resume from; start a new run"):
        load_checkpoint(tmp_path, IDENTITY)


@pytest.mark.parametrize(("manifest", "match"), [
    ({"format": 1, "step": 1, "identity": {}, "sha256": "0"}, "format 1 of an older editkit"),
    ({"format": 3, "step": 1}, "this version knows 2; update editkit"),
])  # fmt: skip
def test_other_formats_are_refused_not_skipped(tmp_path: Path, manifest: dict[str, Any], match: str) -> None:
    folder = save(tmp_path, 1)
    if manifest["format"] == 1:
        (folder / "manifest.json").write_text(json.dumps(manifest))
    else:
        sealed.write_manifest(folder, manifest)
    with pytest.raises(UserError, match=match):
        load_checkpoint(tmp_path, IDENTITY)


def test_another_identity_is_refused_line_by_line_unless_it_is_overridden(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(UserError, match=r"\noptim\.lr: 0\.1 in the run, 0\.2 now\n"):
        load_checkpoint(tmp_path, IDENTITY | {"optim.lr": "0.2"})
    assert same(load_checkpoint(tmp_path, IDENTITY | {"optim.lr": "0.2"}, despite=["optim.lr"]), state_at(1))


def test_a_strangers_index_runs_nothing(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "sprung"),)

    folder = save(tmp_path, 1)
    (folder / ".metadata").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="which no checkpoint holds"):
        read_checkpoint(folder)
    assert not (tmp_path / "sprung").exists()


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    keep = Keep(last=2, best=2, metric="followed")
    for step, followed in enumerate([0.1, 0.9, float("nan"), 0.5, 0.9, 0.2, 0.3, 0.1], 1):
        save(tmp_path, step, keep, followed=followed)
    assert steps(tmp_path) == [2, 5, 7, 8]
    save(tmp_path, 9, Keep(last=1, best=1, metric="-followed"), loss=0.0)
    assert steps(tmp_path) == [8, 9]


def test_figures_measured_later_count_too(tmp_path: Path) -> None:
    keep = Keep(last=1, best=1, metric="followed")
    for step, followed in enumerate([0.5, 0.8, 0.6], 1):
        save(tmp_path, step, keep, loss=1.0)
        note_metrics(tmp_path, step, {"followed": followed}, keep)
    assert steps(tmp_path) == [2, 3]
    assert sealed.read_manifest(checkpoint_folder(tmp_path, 2))["metrics"] == {"loss": 1.0, "followed": 0.8}
    assert newest_whole(tmp_path)[0].name == "step-000003"


def test_more_best_than_there_are_keeps_all(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, Keep(last=1, best=9, metric="-loss"), loss=step)
    assert steps(tmp_path) == [1, 2, 3]


def test_damaged_ones_after_the_newest_whole_take_nobodys_place(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    for step in (2, 3):
        (checkpoint_folder(tmp_path, step) / "facts.json").write_text("{}")
    assert load_checkpoint(tmp_path, IDENTITY)["step"] == 1
    save(tmp_path, 2, Keep(last=1))
    assert steps(tmp_path) == [2]
    assert same(load_checkpoint(tmp_path, IDENTITY), state_at(2))


def test_steps_are_numbers_not_texts(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000):
        save(tmp_path, step, Keep(last=1))
    assert steps(tmp_path) == [1_000_000]


def test_what_a_killed_process_left_is_cleaned_by_the_next(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    parent = folder.parent
    (parent / "step-000002.staging").mkdir()
    (parent / "step-000002.staging" / "facts.json").write_text("{")
    (parent / "step-000000.doomed").mkdir()
    folder.rename(parent / "step-000001.replaced")  # killed between the two renames of a step that was saved again
    assert steps(tmp_path) == []
    assert same(load_checkpoint(tmp_path, IDENTITY), state_at(1))
    assert [p.name for p in parent.iterdir()] == ["step-000001"]


@contextlib.contextmanager
def child(action: Callable[[], None]) -> Generator[tuple[int, IO[str]], None, None]:
    """A process of its own that runs `action`, and what it prints; it is forked, which spares the import of torch."""
    reader, writer = os.pipe()
    number = os.fork()
    if number == 0:
        try:
            os.dup2(writer, 1)
            sys.stdout = os.fdopen(1, "w")
            action()
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        try:
            yield number, said
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)


def test_a_process_killed_at_any_moment_leaves_whole_checkpoints(tmp_path: Path) -> None:
    def save_on_and_on() -> None:
        print("ready", flush=True)
        for step in itertools.count(max([1, *steps(tmp_path)])):  # the newest is saved once more, in its own place
            save(tmp_path, step, Keep(last=2))
            print(step, flush=True)

    draw, reached, unfinished = random.Random(0), 0, 0
    for _ in range(25):
        with child(save_on_and_on) as (number, said):
            assert said.readline() == "ready\n"
            for _ in range(draw.randrange(6)):  # counted in saves, for what time they take is the machine's business
                said.readline()
            time.sleep(draw.uniform(0.0, 0.03))
            os.kill(number, signal.SIGKILL)
            reached = max([reached, *(int(line) for line in said if line.endswith("\n"))])
        reached = max([reached, *steps(tmp_path)])
        unfinished += any((tmp_path / "checkpoints").glob("*.*"))
        if reached:
            state = load_checkpoint(tmp_path, IDENTITY)
            assert state["step"] >= reached, "a checkpoint that was reported as saved is lost"
            assert same(state, state_at(state["step"]))
            assert len(steps(tmp_path)) <= 3
    assert reached > 20
    assert unfinished >= 10, "the kills hit moments between two checkpoints"


TOUCHES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")  # what Python reports of a process's files


def test_a_process_killed_before_any_touch_of_the_disk_leaves_whole_checkpoints(tmp_path: Path) -> None:
    """Every moment in turn: saving step 2 once more, then 3, and dropping 1 and 2."""
    moments = 0
    finished = False
    while not finished:
        run = tmp_path / str(moments)
        run.mkdir()
        for step in (1, 2):
            save(run, step)

        def save_until(moment: int, run: Path = run) -> None:
            left = itertools.count(moment, -1)

            def watch(event: str, _: Any) -> None:
                if event in TOUCHES and next(left) == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(watch)
            save(run, 2)
            print(2, flush=True)
            save(run, 3, Keep(last=1))
            print(3, flush=True)

        with child(lambda moment=moments: save_until(moment)) as (_, said):
            reached = max([2, *(int(line) for line in said)])
        finished = steps(run) == [3] and reached == 3
        state = load_checkpoint(run, IDENTITY)
        assert state["step"] >= reached, f"moment {moments}"
        assert same(state, state_at(state["step"]))
        assert not list((run / "checkpoints").glob("*.*")), "what was left is cleaned"
        moments += 1
    assert moments > 40


def test_a_disk_that_takes_no_more_leaves_the_earlier_checkpoints(tmp_path: Path) -> None:
    """The system's own limit on a file's size stands for a full disk: the very write that is too much fails."""
    save(tmp_path, 1)
    states = {"tensor": torch.zeros(100_000), "many tensors": [torch.zeros(500)] * 50, "facts": "y" * 200_000}

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        for name, value in states.items():
            try:
                save_checkpoint(tmp_path, 2, {"x": value}, IDENTITY, ALL)
            except UserError as error:
                left = [p.name for p in (tmp_path / "checkpoints").iterdir()]
                print(name, left, error, sep="|", flush=True)

    with child(fill) as (_, said):
        lines = said.read().splitlines()
    assert [line.partition("|")[0] for line in lines] == list(states)
    for line in lines:
        assert "|['step-000001']|" in line
        assert "step 2 was not saved: File too large" in line
        assert "make space and go on with --resume" in line
    assert same(load_checkpoint(tmp_path, IDENTITY), state_at(1))


def test_what_will_not_fit_is_not_begun(tmp_path: Path) -> None:
    save(tmp_path, 1)
    huge = torch.zeros(1).expand(2**60)
    with pytest.raises(UserError, match=r"No space left on device \(4,611,686,018,427\.4 MB needed, [0-9,.]+ MB free\)"):
        save_checkpoint(tmp_path, 2, {"x": huge}, IDENTITY, ALL)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]


def fail_on_one(run: Path) -> str:
    """In every process: saves once, then again with a limit on the files of rank 1 alone."""
    state = {"x": {str(i): torch.full((20_000,), float(i)) for i in range(8)}}  # shared among the processes
    save_checkpoint(run, 1, state, IDENTITY, ALL)
    if dist.get_rank() == 1:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    with pytest.raises(UserError) as caught:
        save_checkpoint(run, 2, state, IDENTITY, ALL)
    return str(caught.value)


def test_a_failure_in_one_process_fails_all_with_one_message(tmp_path: Path) -> None:
    said = run_processes(fail_on_one, 2, tmp_path)
    assert "step 2 was not saved: File too large" in said[0]
    assert said[0] == said[1]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
    assert load_checkpoint(tmp_path, IDENTITY)["x"]["7"].eq(7).all()


def load_in_each(run: Path, identity: dict[str, str]) -> Any:
    try:
        return load_checkpoint(run, identity)["step"]
    except UserError as error:
        return str(error)


def test_all_processes_choose_the_same_checkpoint(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    (checkpoint_folder(tmp_path, 2) / "facts.json").write_text("{}")
    assert run_processes(load_in_each, 2, tmp_path, IDENTITY) == [1, 1]
    refused = run_processes(load_in_each, 2, tmp_path, {"data": "b"})
    assert "data: a in the run, b now" in refused[0]
    assert refused[0] == refused[1]
