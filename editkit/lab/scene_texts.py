"""Texts of the scenes world beyond captions and instructions, for a tokenizer that is trained on it."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from editkit.data.pictures import Picture
from editkit.data.traces import PREFIX, PlanStep, inspection_text, plan_text
from editkit.lab.scene_prompts import TAGS, sample_prompt
from editkit.lab.scene_questions import ask_about, ask_whether_it_fits
from editkit.lab.scene_traces import CELLS, draw_trace
from editkit.lab.scenes import UNITS

SEED = 0
OFTEN = 20  # times that each is told: beside a hundred thousand captions a few thousand texts would get no tokens of their own


def world_texts(count: int) -> Iterator[str]:
    """Questions, their answers, and all that is written in plan traces, of the training split.

    Args:
        count: traces, and scenes that are asked about.
    """
    told: list[str] = []
    rng, nothing = Random(f"world_texts/{SEED}"), Picture(data=b"")
    for i in range(count):
        scene, asked = sample_prompt(rng, "train", rng.choice(TAGS))
        graph = scene.graph(UNITS)
        told += [*ask_about(rng, graph, False), *ask_whether_it_fits(rng, asked, graph, False)]
        draft = draw_trace(SEED, "train", i, rng.choice(list(CELLS)))
        told.append(PREFIX + draft.prompt)
        for step in draft.steps:
            told.append(plan_text(PlanStep(step.ins, step.des, nothing)))
            if step.inspection is not None:
                told.append(inspection_text(step.inspection))
    for _ in range(OFTEN):
        yield from told
