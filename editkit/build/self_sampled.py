"""Trajectories that a half-trained model sampled, and what a symbolic critic says of their steps.

The interface is a folder of plan traces as `editkit.data.trace_files.write_traces` writes it: `traces.jsonl` and `images/`.
Of each trace:

* `key`: the sampler's own, unique in the folder.
* `prompt` and `scene`: of the multi-turn trace whose prompt the model was given; read are `scene.geneval` and `scene.split`.
* `steps`: `ins`, `des` and picture as the model wrote and drew them. A text without the tags of the grammar stands, as it is,
  for both `ins` and `des`. What it said on inspecting, `need_loss` and `final` are not looked at.
* `licence`: of the pictures; "" = that of the data spec.
* `provenance`: JSON of whatever says how it was sampled (checkpoint, seed, guidance); it goes into the examples as `sampled`.

Steps are judged in order, up to the first that is wrong, for what comes after it started from a mistake; or to the first that
tells of a composition which is held out from training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from editkit.data.trace_files import IMAGES, LINES, read_traces
from editkit.data.traces import PlanTrace
from editkit.errors import UserError
from editkit.lab.scene_art import GLYPHS
from editkit.lab.scene_traces import TEXT_RIGHT, TEXT_WRONG
from editkit.lab.scenes import compositions, held_out_among, related
from editkit.lab.trace_check import NOTHING_YET, PlanVerdict, check_plan
from editkit.lab.trace_reading import UnreadableError, read_description


@dataclass(frozen=True, slots=True)
class Judged:
    """A sampled trace up to a step, and the verdict on that step's plan.

    Attributes:
        trace: the whole of it.
        step: which, from 1.
        verdict: of the critic.
    """

    trace: PlanTrace
    step: int
    verdict: PlanVerdict


class Sampled:
    """The judged steps of a folder by what the verdict is, in an order drawn by the seed.

    Args:
        folder: of the traces.
        seed: of the build.
        split: only trajectories whose prompt is of it.

    Raises:
        UserError: the folder holds no traces, or one that breaks a rule or does not say what was asked for.
    """

    def __init__(self, folder: Path, seed: int, split: str) -> None:
        self._of: dict[str, list[Judged]] = {TEXT_RIGHT: [], TEXT_WRONG: []}
        self.traces = 0
        for trace in read_traces(folder):
            asked = _asked(folder, trace)
            if trace.scene["split"] != split:
                continue
            self.traces += 1
            for judged in _judged(trace, asked, seed):
                self._of[TEXT_WRONG if judged.verdict.faults else TEXT_RIGHT].append(judged)
        for cell, found in self._of.items():
            Random(f"self_sampled/{seed}/{split}/{cell}").shuffle(found)

    def count(self, cell: str) -> int:
        """How many steps have this verdict; `cell` is `TEXT_RIGHT` or `TEXT_WRONG`."""
        return len(self._of[cell])

    def take(self, cell: str, number: int) -> Judged:
        """The step with this number, from 0, of those that have this verdict."""
        return self._of[cell][number]


def _asked(folder: Path, trace: PlanTrace) -> dict[str, Any]:
    asked = trace.scene.get("geneval")
    known = isinstance(asked, dict) and isinstance(asked.get("include"), list) and "split" in trace.scene
    if not known or not all(isinstance(e, dict) and e.get("class") in GLYPHS and "count" in e for e in asked["include"]):
        raise UserError(
            f"{folder / LINES}: {trace.key}: found no scene.split and scene.geneval of the scenes world; "
            "expected the scene of the trace whose prompt was sampled from"
        )
    return asked


def _judged(trace: PlanTrace, asked: dict[str, Any], seed: int) -> Iterator[Judged]:
    before = NOTHING_YET
    for number, step in enumerate(trace.steps, 1):
        rng = Random(f"critique/{seed}/{trace.key}/{number}")
        verdict, before = check_plan(rng, asked, before, step.ins, step.des, held_out=False)
        if (step.sketch is None and verdict.drawable) or _tells_of_held_out(step.des):
            return  # the sampler stopped before it was drawn, or nobody may learn from it
        yield Judged(trace, number, verdict)
        if verdict.faults:
            return


def _tells_of_held_out(des: str) -> bool:
    try:
        told = read_description(des)
    except UnreadableError:
        return False
    objects = [(noun.kind, noun.colour) for noun in told.nouns for _ in range(noun.count)]
    found = [c for c in compositions(objects) if c[0] != "colour" or c[2]]  # a colour that is not said is none
    return bool(held_out_among([*found, *(related(r.kind, r.name, r.other) for r in told.relations)]))


def fingerprint(folder: Path) -> str:
    """A hash over the lines and the pictures of a folder of traces.

    Raises:
        UserError: there are none.
    """
    if not (folder / LINES).is_file():
        raise UserError(f"{folder}: found no {LINES}; expected a folder of plan traces that a model sampled")
    digest = hashlib.sha256((folder / LINES).read_bytes())
    for path in sorted((folder / IMAGES).iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
