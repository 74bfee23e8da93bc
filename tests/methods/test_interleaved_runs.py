"""Runs of the methods that train a BAGEL: stopped and resumed they are what was never stopped; kinds are mixed and refused."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from editkit.errors import UserError
from editkit.train.loop import Trainer
from editkit.train.run import train
from tests.recipes.test_lab_recipes import SCENES
from tests.train.kill import differing

RECIPE = """\
format = 1
name = "small"
[method]
name = "{method}"
drop_text = 0.3
[model]
family = "bagel"
base = "{base}"
[data]
train = "{data}.toml"
resolution = 32
{mix}
[optim]
lr = 1e-3
[train]
steps = 4
batch_size = 4
ema_decay = 0.9
log_every = 1
save_every = 1
preview_every = 0
[evaluate]
judge = ""
steps = 1
"""
MIX = 'mix = [{ train = "scene_edits.toml", weight = 1.0 }]'
LIMITS = ["method.max_text=4", "method.max_pictures=1"]


@pytest.fixture
def worlds(workplace: Path) -> Path:
    for name, kind in (("scenes", "captioned_images"), ("scene_edits", "edit_pairs"), ("plan_traces", "plan_traces")):
        builder = "plan_refine" if kind == "plan_traces" else "scenes"
        (workplace / f"{name}.toml").write_text(SCENES.format(name=name, kind=kind, builder=builder))
    return workplace


@pytest.mark.parametrize("method", ["unified", "plan_refine"])
def test_a_stopped_and_resumed_run_equals_the_one_that_was_never_stopped(worlds: Path, tiny_bagel: Path, method: str) -> None:
    chosen = {"data": "plan_traces", "mix": ""} if method == "plan_refine" else {"data": "scenes", "mix": MIX}
    (worlds / "recipe.toml").write_text(RECIPE.format(method=method, base=tiny_bagel, **chosen))
    more = LIMITS if method == "plan_refine" else []
    whole = train("recipe.toml", more)
    original = Trainer._one_step

    def interrupted(self: Trainer, *args: Any) -> dict:
        if self.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_one_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train("recipe.toml", more)
    stopped = max(Path("runs").iterdir(), key=lambda p: p.stat().st_mtime_ns)
    train("recipe.toml", more, resume=stopped.name)
    assert differing(stopped, whole) == []
    facts = json.loads((whole / "run.json").read_text())["data"]
    assert facts["kind"] == ("plan_traces" if method == "plan_refine" else "captioned_images + edit_pairs")


def test_what_may_not_be_mixed_is_refused_with_its_place(worlds: Path, tiny_bagel: Path) -> None:
    wrong = MIX.replace("scene_edits", "plan_traces")
    (worlds / "recipe.toml").write_text(RECIPE.format(method="unified", base=tiny_bagel, data="scenes", mix=wrong))
    with pytest.raises(UserError, match=r'found plan_traces; the method "unified" learns from captioned_images and edit_pairs'):
        train("recipe.toml", [])
    (worlds / "recipe.toml").write_text(RECIPE.format(method="unified", base=tiny_bagel, data="scene_edits", mix=""))
    with pytest.raises(UserError, match=r'found edit_pairs; the method "unified" learns from captioned_images$'):
        train("recipe.toml", [])
