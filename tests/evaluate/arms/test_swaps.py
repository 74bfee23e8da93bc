"""Swapped sketches and critiques: the control comes to what it was, and the others go on from something else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from editkit.data.prepare import PrepareParams, prepare, to_image, to_network
from editkit.evaluate.arms import inference
from editkit.evaluate.arms.inference import Arm, Task, is_rejection
from editkit.evaluate.arms.swaps import with_critique, with_sketch
from editkit.evaluate.trajectories import EMPTY
from editkit.lab.scenes import render
from editkit.models.generator import Drawn, load_planner
from editkit.models.rollouts import Rollouts
from tests.evaluate.arms.stars import ASKED, SCENE, tasks


@pytest.fixture(scope="module")
def rollouts(by_heart: Path) -> Rollouts:
    return Rollouts(load_planner(str(by_heart)), 4)


OTHER = Task(1, 0, {**ASKED, "prompt": "a star that is blue"}, SCENE, 9)
TASKS = [*tasks(2), OTHER]


@pytest.fixture(scope="module")
def made(rollouts: Rollouts) -> Arm:
    return inference.adaptive(rollouts, TASKS)


def sketch(arm: Arm, number: int) -> np.ndarray:
    return np.asarray(next(p for p in arm.rollouts[number].parts if isinstance(p, Drawn)).picture)


def test_its_own_sketch_leads_to_its_own_picture(rollouts: Rollouts, made: Arm) -> None:
    numbers, arm = with_sketch(rollouts, TASKS, made.rollouts, "own")
    assert numbers == [i for i, r in enumerate(made.rollouts) if r.pictures]
    for n, i in enumerate(numbers):
        expected, got = made.rollouts[i], arm.rollouts[n]
        assert [type(p) for p in got.parts] == [type(p) for p in expected.parts]
        assert np.abs(np.asarray(made.pictures[i], int) - np.asarray(arm.pictures[n], int)).max() <= 1


def test_another_sketch_stands_in_its_place(rollouts: Rollouts, made: Arm) -> None:
    numbers, blank = with_sketch(rollouts, TASKS, made.rollouts, "blank")
    assert (sketch(blank, 0) == EMPTY[0]).all()
    _, right = with_sketch(rollouts, TASKS, made.rollouts, "right")
    shown = to_image(to_network(prepare([render(SCENE, 64)], PrepareParams(32)))[0])
    assert np.array_equal(sketch(right, 0), np.asarray(shown))
    _, other = with_sketch(rollouts, TASKS, made.rollouts, "other")
    of_prompt = [TASKS[i].asked["prompt"] for i in numbers]
    last = len(numbers) - 1
    assert of_prompt[last] != of_prompt[0]
    assert np.array_equal(sketch(other, 0), sketch(made, numbers[last]))  # the next one of another prompt
    assert np.array_equal(sketch(other, last), sketch(made, numbers[0]))
    assert np.array_equal(np.asarray(blank.rollouts[0].parts[0].text), np.asarray(made.rollouts[0].parts[0].text))  # ty: ignore


def test_only_rejected_pictures_have_a_critique_to_shuffle(rollouts: Rollouts, made: Arm) -> None:
    never = replace(made.rollouts[1], parts=[p for p in made.rollouts[1].parts if not is_rejection(p)])
    rolls = [made.rollouts[0], never, made.rollouts[2]]
    numbers, own = with_critique(rollouts, TASKS, rolls, "own")
    assert 0 in numbers
    assert 1 not in numbers
    assert [type(p) for p in own.rollouts[0].parts] == [type(p) for p in made.rollouts[0].parts]
    _, shuffled = with_critique(rollouts, TASKS, rolls, "shuffled")
    first = [
        next(p for n, p in enumerate(r.parts) if is_rejection(p) and isinstance(r.parts[n - 1], Drawn)) for r in own.rollouts
    ]
    places = [made.rollouts[i].parts.index(p) for i, p in zip(numbers, first, strict=True)]
    swapped = [r.parts[n] for r, n in zip(shuffled.rollouts, places, strict=True)]
    assert swapped == (first[::-1] if len(first) == 2 else first)  # that of the other prompt; its own where there is none
