"""What is on a picture of the scenes world, held against prompt and plan: every kind of fault, and what is no fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from editkit.data.traces import Inspection, PlanStep, inspection_text, parse_inspection, plan_text
from editkit.evaluate.arms.looking import Look, inspect, look
from editkit.evaluate.benches.scene_truth import SceneTruth
from editkit.lab.scenes import Scene, Thing, render

RED, BLUE = Thing("star", "red", 2, 10, 8), Thing("circle", "blue", 20, 10, 8)
ASKED: dict[str, Any] = {
    "tag": "multi", "prompt": "a photo of a red star left of a circle",
    "include": [{"class": "circle", "count": 1}, {"class": "star", "count": 1, "color": "red", "position": ["left of", 0]}],
}  # fmt: skip
BOTH = plan_text(PlanStep("draw both", "a red star and a blue circle", None))
STAR = plan_text(PlanStep("draw a red star", "a red star", None))


def seen(things: Sequence[Thing], asked: dict[str, Any] = ASKED) -> Look:
    scene = Scene(tuple(things), 0)
    return look(SceneTruth([scene], 64), render(scene, 64), asked)


def said(things: Sequence[Thing], plan: str, asked: dict[str, Any] = ASKED) -> Inspection:
    found = inspect(seen(things, asked), asked, plan, Random(0))
    assert parse_inspection(inspection_text(found)) == found  # a model could have written it
    return found


def test_what_the_prompt_asks_for_is_right() -> None:
    there = seen([RED, BLUE])
    assert there.correct
    assert there.atoms[0] == there.atoms[1] == 4
    assert there.bag == {("star", "red"): 1, ("circle", "blue"): 1}
    assert said([RED, BLUE], BOTH) == Inspection(True)


def test_what_no_plan_has_told_of_is_to_come_and_no_fault() -> None:
    found = said([RED], STAR)
    assert found.ok
    assert found.deferred == ("a circle",)
    assert not seen([RED]).correct
    assert said([RED], "no plan at all").ok


def test_what_a_plan_told_of_is_missed() -> None:
    found = said([RED], BOTH)
    assert not found.ok
    assert len(found.issues) == 1
    assert "circle" in found.issues[0]
    assert "circle" in found.refine


@pytest.mark.parametrize(
    ("things", "word"),
    [
        ([replace(RED, colour="green"), BLUE], "green"),
        ([replace(RED, x=20), replace(BLUE, x=2)], "right of"),
        ([RED, BLUE, Thing("heart", "pink", 12, 22, 8)], "heart"),
        ([RED, BLUE, replace(RED, y=22)], "two stars"),
    ],
    ids=["colour", "place", "extra", "count"],
)
def test_what_contradicts_the_prompt_is_a_fault(things: list[Thing], word: str) -> None:
    found = said(things, BOTH)
    assert not found.ok
    assert any(word in issue for issue in found.issues)
    assert found.refine


def test_a_place_between_two_directions_is_no_contradiction_along_the_longer_axis() -> None:
    near = [replace(RED, x=12, y=11), replace(BLUE, x=14, y=10)]  # too near for GenEval to say
    assert not seen(near).correct
    assert said(near, BOTH).ok
