"""Many trajectories at once are those of one at a time, from any beginning, and cost what torch counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from editkit.data.prepare import PrepareParams, prepare, to_image, to_network
from editkit.data.traces import inspection_text, plan_text
from editkit.models.bagel.generate import SAID_SO
from editkit.models.generator import BagelGenerator, Drawn, Said, load_planner
from editkit.models.rollouts import Beginning, Made, Rollouts
from tests.planners import LEARNED, SAMPLING

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
OTHER = "a red circle above a star"


@pytest.fixture(scope="module")
def planner(by_heart: Path) -> BagelGenerator:
    return load_planner(str(by_heart))


@pytest.fixture(scope="module")
def rollouts(planner: BagelGenerator) -> Rollouts:
    return Rollouts(planner, 2)


def same(found: Sequence[Made], expected: Sequence[Made]) -> None:
    assert [type(p) for p in found] == [type(p) for p in expected]
    for got, wanted in zip(found, expected, strict=True):
        if isinstance(got, Said):
            assert got == wanted
        elif isinstance(wanted, Drawn):
            torch.testing.assert_close(got.pixels_CHW, wanted.pixels_CHW, **CLOSE)


def sketch(step: int) -> Drawn:
    picture = LEARNED.steps[step].sketch
    assert picture is not None
    pixels_CHW = to_network(prepare([picture.open()], PrepareParams(32)))[0]
    return Drawn(to_image(pixels_CHW), pixels_CHW)


def test_each_of_many_is_what_it_would_be_alone(planner: BagelGenerator, rollouts: Rollouts) -> None:
    asked = [(LEARNED.prompt, 5), (OTHER, 6), (LEARNED.prompt, 7)]  # two batches
    found = rollouts.roll([Beginning(prompt, seed) for prompt, seed in asked])
    for (prompt, seed), roll in zip(asked, found, strict=True):
        alone = [e for e in planner.steps(prompt, **SAMPLING, seed=seed) if isinstance(e, (Said, Drawn))]
        same(roll.parts, alone)
    assert (found[0].why, found[0].by_itself) == (SAID_SO, True)
    assert len(found[0].pictures) == 2


def test_from_each_of_its_own_beginnings_it_goes_on_the_same(rollouts: Rollouts) -> None:
    whole = rollouts.roll([Beginning(LEARNED.prompt, 5)])[0]
    begun = [replace(whole.begun, parts=tuple(whole.parts[:n])) for n in range(len(whole.parts) + 1)]
    for again in rollouts.roll(begun):
        same(again.parts, whole.parts)
    first = rollouts.roll([replace(whole.begun, then="image")], lambda _, wanted, parts: "stop" if parts else wanted)[0]
    assert [type(p) for p in first.parts] == [Drawn]
    assert (first.why, first.by_itself) == ("was stopped", False)


def test_who_decides_stops_it_or_drives_it_on_up_to_its_pictures(rollouts: Rollouts) -> None:
    numbers: list[int] = []

    def on(number: int, wanted: str, parts: Sequence[Made]) -> str:
        numbers.append(number)
        return "text" if wanted == "stop" or not parts else "image"

    found = rollouts.roll([Beginning(LEARNED.prompt, seed) for seed in range(3)], on, images=3)  # ty: ignore
    assert [len(r.pictures) for r in found] == [3, 3, 3]
    assert {r.why for r in found} == {"as many pictures as it may have"}
    assert set(numbers) == {0, 1, 2}
    capped = rollouts.roll([replace(found[0].begun, parts=tuple(found[0].parts[:2]))], on, images=1)[0]  # ty: ignore
    assert len(capped.pictures) == 1  # the one that it began with


def test_a_text_can_be_begun_for_it(planner: BagelGenerator, rollouts: Rollouts) -> None:
    said = rollouts.write([Beginning(LEARNED.prompt, 5)], "<ins>draw")[0]
    assert said.text == plan_text(LEARNED.steps[0])
    assert said.ids is not None
    assert rollouts.write([Beginning(LEARNED.prompt, 5)], "<ins>make")[0].text.startswith("<ins>make")
    short = Rollouts(planner, 2)
    short._writing = replace(short._writing, max_tokens=1)
    assert short.write([Beginning(LEARNED.prompt, 5)], "<ins>draw")[0].text == "<ins>draw"  # longer than a text may be


def test_its_inspection_approves_of_the_right_picture_and_not_of_the_wrong_one(rollouts: Rollouts) -> None:
    steps, seen = LEARNED.steps, LEARNED.steps[0].inspection
    assert seen is not None
    draft = Beginning(LEARNED.prompt, 5, (Said(plan_text(steps[0])), sketch(0)))
    mended = replace(draft, parts=(*draft.parts, Said(inspection_text(seen)), Said(plan_text(steps[1])), sketch(1)))
    wrong, right = rollouts.approve([draft, mended])
    assert 0 <= wrong < 0.5 < right <= 1


def counted(action) -> int:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


def test_the_cost_is_what_is_computed(rollouts: Rollouts) -> None:
    begun = Beginning(LEARNED.prompt, 5)
    found = []
    flops = counted(lambda: found.extend(rollouts.roll([begun])))
    cost = rollouts.cost(found[0])
    assert cost.flops == flops
    assert (cost.pictures, cost.steps) == (2, 2 * SAMPLING["steps"])
    how = rollouts.drawing
    assert rollouts.cost_at_once(OTHER, how).flops == counted(lambda: rollouts.draw([Beginning(OTHER, 1)], how))
    several = rollouts.cost(found[0], candidates=3)
    assert several.pictures == 6
    assert several.writing == cost.writing
    assert several.flops > 2 * cost.drawing + cost.flops
    by_hand = replace(found[0], parts=[Said(p.text) if isinstance(p, Said) else p for p in found[0].parts])
    assert rollouts.cost(by_hand).writing == 0


def test_steps_are_found_for_a_budget(rollouts: Rollouts) -> None:
    prompts = [LEARNED.prompt, OTHER]
    for steps in (1, 7, 30):
        budget = sum(rollouts.cost_at_once(p, replace(rollouts.drawing, steps=steps)).flops for p in prompts) / 2
        assert rollouts.steps_for(prompts, 1.001 * budget) == steps
