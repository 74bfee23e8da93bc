"""Figures of an inspector, from trajectories of which everything is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from editkit.data.traces import Inspection
from editkit.evaluate.arms import inference
from editkit.evaluate.arms.inspector import INSPECTOR_ROWS, Sketch, inspector_figures, sketches_of
from editkit.evaluate.arms.looking import Look
from editkit.models.generator import load_planner
from editkit.models.rollouts import Rollouts
from tests.evaluate.arms.stars import Stars, tasks

RIGHT, TO_COME = Inspection(True), Inspection(True, deferred=("a cup",))
WRONG = Inspection(False, "image", ("it is red",), (), "make it blue")


def sketch(truth: Inspection, said: Inspection | None, met: int = 0) -> Sketch:
    return Sketch(Look((), met == 2, (met, 2)), truth, said)


def test_every_share_is_of_what_it_says() -> None:
    found = inspector_figures([
        [sketch(WRONG, WRONG, 0), sketch(RIGHT, RIGHT, 2)],  # found and mended
        [sketch(WRONG, WRONG, 1), sketch(WRONG, RIGHT, 1)],  # found, not mended; then missed
        [sketch(TO_COME, WRONG, 1), sketch(WRONG, None, 0)],  # a false alarm that does harm
        [sketch(TO_COME, TO_COME, 1), sketch(RIGHT, WRONG, 2), sketch(RIGHT, RIGHT, 2)],
    ])  # fmt: skip
    assert found["precision"] == 2 / 4
    assert found["recall"] == 2 / 3
    assert found["false_alarms"] == 2 / 5
    assert found["false_alarms_unfinished"] == 1 / 2
    assert found["false_alarms_finished"] == 1 / 3
    assert found["repair"] == 1 / 2
    assert found["harm"] == 1 / 3
    assert found["harm_rejected"] == 1 / 2
    assert found["gain"] == (1 + 0 + 0 + 1 + 0) / 5
    assert found["gain_rejected"] == (1 + 0 + 0 + 0) / 4
    assert found["demands_gain"] == pytest.approx((1 + 0 - 0.5 + 0.5 + 0) / 5)
    assert found["counts"]["pictures"] == 9
    assert found["counts"]["recall"] == 3
    assert set(INSPECTOR_ROWS) <= set(found)


def test_of_nothing_there_is_no_share() -> None:
    found = inspector_figures([[sketch(RIGHT, None, 2)]])
    assert found["precision"] is None
    assert found["gain"] is None
    assert found["counts"]["precision"] == 0


def test_the_sketches_of_a_trajectory_are_seen_and_heard(by_heart: Path) -> None:
    rollouts = Rollouts(load_planner(str(by_heart)), 4)
    roll = inference.adaptive(rollouts, tasks(1)).rollouts[0]
    first, second = sketches_of(roll, tasks(1)[0], Stars())
    assert (first.rejected, second.rejected) == (True, False)
    assert first.seen.objects[0][1] == "red"
    assert (first.truth.ok, first.truth.issues != ()) == (False, True)
