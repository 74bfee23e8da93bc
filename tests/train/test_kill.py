"""Runs that are really killed, stopped or out of disk at any moment end like the one that never was."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from editkit.train.checkpoint import list_checkpoints
from tests.train.kill import LORA, differing, start, train_to_the_end, train_under_kills, write_recipe


@pytest.mark.parametrize("more", ["", LORA], ids=["full", "lora"])
def test_a_run_that_is_killed_again_and_again_ends_bit_by_bit_like_one_that_never_was(
    workplace: Path, tiny_sd: Path, more: str
) -> None:
    recipe = write_recipe(workplace, tiny_sd, more)
    whole, spent = train_to_the_end(recipe)
    kinds = ["fill", "save", "preview"] if more else ["step", "save", "fill", "preview", "save"]
    killed, kills = train_under_kills(recipe, kinds, spent, seed=len(more))
    assert len(kills) == len(kinds)
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


def test_sigterm_and_a_full_disk_lose_nothing(workplace: Path, tiny_sd: Path) -> None:
    recipe = write_recipe(workplace, tiny_sd)
    whole, spent = train_to_the_end(recipe)
    for moment, step in (("fill", 0), ("preview 3", 3), ("step 5", 5)):
        code, seconds, output, run = interrupted(recipe, moment, 0.5 * spent[moment.partition(" ")[0]])
        assert code == 130, output
        assert seconds < 10, "a machine that is taken away waits no longer"
        assert "Traceback" not in output
        assert json.loads((run / "run.json").read_text())["state"] == "stopped"
        assert list_checkpoints(run)[-1].name == f"step-{step:06d}"
        assert differing(resumed(recipe, run), whole) == [], moment
    # The checkpoint does not fit; the log does not.
    for moment, limit in (("save 4", 4000), ("step 6", 200)):
        code, _, output, run = interrupted(recipe, moment, file_limit=(moment, limit))
        assert code == 2, output
        assert len([line for line in output.splitlines() if line.startswith("editkit:")]) == 1
        assert "File too large" in output and "--resume" in output and "Traceback" not in output
        assert differing(resumed(recipe, run), whole) == [], moment
