"""The ways to a picture: what each does to a trajectory, what it chooses, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from editkit.data.traces import Inspection, inspection_text, plan_text
from editkit.evaluate.arms import inference
from editkit.evaluate.arms.inference import AT_ONCE, Arm, is_rejection, plan_before, verdict_of
from editkit.models.generator import Drawn, Said, load_planner
from editkit.models.rollouts import Rollouts
from tests.evaluate.arms.stars import Stars, tasks
from tests.planners import LEARNED


@pytest.fixture(scope="module")
def rollouts(by_heart: Path) -> Rollouts:
    return Rollouts(load_planner(str(by_heart)), 4)


@pytest.fixture(scope="module")
def adaptive(rollouts: Rollouts) -> Arm:
    return inference.adaptive(rollouts, tasks())


def kinds(arm: Arm) -> list[list[str]]:
    return [
        ["picture" if isinstance(p, Drawn) else "verdict" if verdict_of(p) else "plan" for p in r.parts] for r in arm.rollouts
    ]


def same(a: Any, b: Any) -> bool:
    return bool(np.array_equal(np.asarray(a), np.asarray(b)))


def test_adaptive_is_what_it_learned_and_its_last_picture_counts(adaptive: Arm) -> None:
    assert kinds(adaptive)[0] == ["plan", "picture", "verdict", "plan", "picture", "verdict"]
    for roll, picture, cost in zip(adaptive.rollouts, adaptive.pictures, adaptive.costs, strict=True):
        assert same(picture, roll.pictures[-1].picture)
        assert cost.pictures == len(roll.pictures)
    assert plan_before(adaptive.rollouts[0].parts) == plan_text(LEARNED.steps[1])


def test_at_once_with_as_many_operations(rollouts: Rollouts, adaptive: Arm) -> None:
    prompts = [task.asked["prompt"] for task in tasks()]
    steps = rollouts.steps_for(prompts, adaptive.mean_flops)
    arm = inference.direct(rollouts, tasks(), steps)
    assert steps > 2
    assert arm.mean_flops == pytest.approx(adaptive.mean_flops, rel=0.05)
    assert not same(arm.pictures[0], arm.pictures[1])  # each under its own seed


@pytest.mark.parametrize("pictures", [1, 2, 3])
def test_forced_ones_have_so_many_pictures(rollouts: Rollouts, pictures: int) -> None:
    arm = inference.forced(rollouts, tasks(), pictures)
    assert [len(r.pictures) for r in arm.rollouts] == [pictures] * 2
    assert all(isinstance(r.parts[-1], Drawn) for r in arm.rollouts)  # nothing is said of the last one
    if pictures == 1:
        assert plan_before(arm.rollouts[0].parts).startswith(AT_ONCE)


def test_without_rejections_each_becomes_an_approval(rollouts: Rollouts, adaptive: Arm) -> None:
    assert is_rejection(adaptive.rollouts[0].parts[2])
    arm = inference.no_rejection(rollouts, tasks())
    parts = arm.rollouts[0].parts
    assert parts[2] == Said(inspection_text(Inspection(True)))
    assert not any(is_rejection(p) for r in arm.rollouts for p in r.parts)
    assert same(parts[1].picture, adaptive.rollouts[0].pictures[0].picture)  # ty: ignore


def test_an_oracle_says_what_is_true_of_every_picture(rollouts: Rollouts) -> None:
    arm = inference.oracle(rollouts, tasks(), Stars())
    for roll in arm.rollouts:
        for n, part in enumerate(roll.parts):
            if isinstance(part, Drawn):
                seen = verdict_of(roll.parts[n + 1])
                assert seen is not None
                assert roll.parts[n + 1].ids is None  # ty: ignore
                red, _, blue = np.asarray(part.picture).mean((0, 1))
                assert seen.ok == (blue > red)
        last = verdict_of(roll.parts[-1])
        assert last is None or last.ok or len(roll.pictures) == rollouts.limits.images


def test_candidates_fit_the_budget_and_the_best_one_is_chosen(
    rollouts: Rollouts, adaptive: Arm, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = inference.candidates_for(rollouts, tasks(), 3 * adaptive.mean_flops)
    arm = inference.best_of(rollouts, tasks(), number)
    more = inference.best_of(rollouts, tasks(), number + 1)
    assert number > 1
    assert arm.mean_flops <= 3 * adaptive.mean_flops < more.mean_flops
    assert arm.costs[0].pictures == number
    asked: list[Any] = []

    def approve(begun: list[Any]) -> list[float]:
        asked.extend(begun)
        return [float(n % 3 == 2) for n in range(len(begun))]

    monkeypatch.setattr(rollouts, "approve", approve)
    chosen = inference.best_of(rollouts, tasks(), 3)
    assert [same(p, asked[n].parts[-1].picture) for p, n in zip(chosen.pictures, (2, 5), strict=True)] == [True, True]
    assert inference.candidates_for(rollouts, tasks(), 0.0) == 1


def test_a_judge_chooses_what_meets_most(rollouts: Rollouts) -> None:
    class Bluest(Stars):
        """Finds the star only on the bluest picture that it was shown."""

        def __init__(self) -> None:
            self.shown: list[float] = []

        def detect(self, image: Any) -> list[Any]:
            self.shown.append(float(np.asarray(image)[..., 2].mean()))
            return super().detect(image) if self.shown[-1] == self.wanted else []

        wanted = -1.0

    eyes = Bluest()
    inference.best_direct(rollouts, tasks(1), 4, eyes)
    eyes.wanted = eyes.shown[3]
    arm = inference.best_direct(rollouts, tasks(1), 4, eyes)
    alone = inference.direct(rollouts, tasks(1), rollouts.drawing.steps)
    assert float(np.asarray(arm.pictures[0])[..., 2].mean()) in (eyes.shown[3], eyes.shown[0])
    assert arm.costs[0].flops == 4 * alone.costs[0].flops
    assert eyes.shown[0] == float(np.asarray(alone.pictures[0])[..., 2].mean())  # the first one is that of the prompt alone


def test_the_search_draws_several_of_each_step(rollouts: Rollouts, adaptive: Arm) -> None:
    arm = inference.search(rollouts, tasks(), 2)
    for roll, cost in zip(arm.rollouts, arm.costs, strict=True):
        assert 1 <= len(roll.pictures) <= rollouts.limits.images
        assert cost.pictures == 2 * len(roll.pictures)
    first = inference.search(rollouts, tasks(), 1)
    assert kinds(first) == kinds(adaptive)  # of one candidate nothing is chosen
    assert replace(first.costs[0]) == adaptive.costs[0]
