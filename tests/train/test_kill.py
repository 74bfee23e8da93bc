"""Runs that are really killed, stopped or out of disk at any moment end like the one that never was."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from editkit.train.checkpoint import list_checkpoints
from tests.train.kill import LORA, differing, start, train_to_the_end, train_under_kills, write_recipe

Whole = tuple[str, Path, dict[str, float]]  # the recipe's file, a run of it that nothing stopped, how long its moments take


@pytest.fixture(scope="module")
def place(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Path, None, None]:
    """A current folder for all tests, with the data."""
    folder = tmp_path_factory.mktemp("kill")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("EDITKIT_CACHE", str(folder / "cache"))
        write_recipe(folder, tiny_sd)
        yield folder


@pytest.fixture(scope="module")
def full(place: Path) -> Whole:
    return "recipe.toml", *train_to_the_end("recipe.toml")


def test_a_run_that_is_killed_again_and_again_ends_bit_by_bit_like_one_that_never_was(full: Whole) -> None:
    recipe, whole, spent = full
    kinds = ["fill", "save", "step", "preview 6", "report"]
    killed, kills = train_under_kills(recipe, kinds, spent, seed=1)
    assert len(kills) == len(kinds)
    assert differing(killed, whole) == []


def test_an_adapter_with_dropout_too(place: Path) -> None:
    (place / "lora.toml").write_text(Path("recipe.toml").read_text() + LORA)
    whole, spent = train_to_the_end("lora.toml")
    killed, kills = train_under_kills("lora.toml", ["save", "preview 3"], spent, seed=2)
    assert len(kills) == 2
    assert differing(killed, whole) == []


def interrupted(recipe: str, moment: str, after_s: float = 0.0, **options: object) -> tuple[int, float, str, Path]:
    """Stops a run by SIGTERM in a moment, or lets a full disk do it: exit code, seconds to the end, output, folder."""
    before = set(Path("runs").glob("*"))
    child = start([recipe], **options)
    for _, found in child.moments():
        if found == moment:
            break
    time.sleep(after_s)
    began = time.monotonic()
    code = child.end(None if options else signal.SIGTERM)
    (run,) = set(Path("runs").glob("*")) - before
    return code, time.monotonic() - began, child.output.read_text(), run


def resumed(recipe: str, run: Path) -> Path:
    child = start([recipe, "--resume", str(run)])
    assert child.end() == 0, child.output.read_text()
    return run


@pytest.mark.parametrize(("moment", "step"), [("fill", 0), ("preview 3", 3)])
def test_sigterm_loses_nothing(full: Whole, moment: str, step: int) -> None:
    recipe, whole, spent = full
    shutil.rmtree("cache")  # so that there is something to fill
    code, seconds, output, run = interrupted(recipe, moment, 0.2 * spent[moment.partition(" ")[0]])
    assert code == 130, output
    assert seconds < 10, "a machine that is taken away waits no longer"
    assert "Traceback" not in output
    assert json.loads((run / "run.json").read_text())["state"] == "stopped"
    assert list_checkpoints(run)[-1].name == f"step-{step:06d}"
    assert differing(resumed(recipe, run), whole) == []


@pytest.mark.parametrize(("moment", "limit"), [("save 4", 4000), ("step 6", 1500)], ids=["checkpoint", "log"])
def test_a_full_disk_is_one_line_and_loses_nothing(full: Whole, moment: str, limit: int) -> None:
    recipe, whole, _ = full
    code, _, output, run = interrupted(recipe, moment, file_limit=(moment, limit))
    assert code == 2, output
    (said,) = [line for line in output.splitlines() if line.startswith("editkit:")]
    assert "File too large" in said
    assert "--resume" in said
    assert "Traceback" not in output
    assert differing(resumed(recipe, run), whole) == []
