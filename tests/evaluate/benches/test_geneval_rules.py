"""GenEval's rules: golden cases worked out by hand from the description, and what must hold of any boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from editkit.evaluate.benches.geneval_rules import MAX_BOXES, Box, Detection, iou, judge, relations, suppress, usable

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def square(x: float, y: float, side: float = 10) -> Box:
    """The square of that side around a centre."""
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2)


def seen(name: str, score: float = 0.95, box: Box = (0, 0, 10, 10)) -> Detection:
    return Detection(name, box, score)


def blind(_: Sequence[Detection]) -> Sequence[str]:
    raise AssertionError("nobody asked for a colour")


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        # offset 100 across, sizes 10 + 10: (100 - 2) / 100 = 0.98
        (square(100, 0), square(0, 0), {"right of"}),
        (square(-100, 0), square(0, 0), {"left of"}),
        (square(0, -100), square(0, 0), {"above"}),  # y points down
        (square(0, 100), square(0, 0), {"below"}),
        # offset (100, 100): (100 - 2) / 141.4 = 0.69 on both axes
        (square(100, 100), square(0, 0), {"right of", "below"}),
        # offset (100, 55), |o| = 114.1: 98 / 114.1 = 0.86 and 53 / 114.1 = 0.46
        (square(100, 55), square(0, 0), {"right of"}),
        # offset (100, 62), |o| = 117.7: 60 / 117.7 = 0.51
        (square(100, 62), square(0, 0), {"right of", "below"}),
        # sizes 100 + 100 take 20 of each axis; offset (30, 0): 10 / 30 = 0.33, too little
        (square(30, 0, 100), square(0, 0, 100), set()),
        # offset (41, 0): 21 / 41 = 0.512
        (square(41, 0, 100), square(0, 0, 100), {"right of"}),
        # offset (39, 0): 19 / 39 = 0.487
        (square(39, 0, 100), square(0, 0, 100), set()),
        (square(0, 0), square(0, 0), set()),  # no offset at all, and no division by it
        (square(2, 0), square(0, 0), set()),  # offset 2 = 0.1 (10 + 10): nothing is left
        # not square: widths 20 + 60 take 8 across, heights 10 + 10 take 2 down; offset (15, 12), |o| = 19.2: 0.364 and 0.521
        ((5, 7, 25, 17), (-30, -5, 30, 5), {"below"}),
    ],
)
def test_positions_worked_out_by_hand(a: Box, b: Box, expected: set[str]) -> None:
    assert relations(a, b) == expected


boxes = st.builds(
    lambda x, y, w, h: (x, y, x + w, y + h),
    *[st.floats(-500, 500, allow_nan=False)] * 2,
    *[st.floats(1, 300, allow_nan=False)] * 2,
)


@given(boxes, boxes)
def test_seen_from_the_other_side_a_position_is_the_opposite(a: Box, b: Box) -> None:
    assert {OPPOSITE[name] for name in relations(a, b)} == relations(b, a)


@given(boxes, boxes)
def test_at_most_one_position_an_axis(a: Box, b: Box) -> None:
    found = relations(a, b)
    assert not {"left of", "right of"} <= found
    assert not {"above", "below"} <= found


@given(boxes, boxes, st.floats(-100, 100), st.floats(-100, 100), st.sampled_from((0.5, 2.0, 4.0)))
def test_a_position_does_not_depend_on_where_and_how_large_the_picture_is(
    a: Box, b: Box, across: float, down: float, scale: float
) -> None:
    offset = [abs(a[i] + a[i + 2] - b[i] - b[i + 2]) for i in (0, 1)]
    assume(max(offset) > 5)
    moved = [tuple(scale * v + (across, down)[i % 2] for i, v in enumerate(box)) for box in (a, b)]
    ratios = [max(o - 0.1 * (a[i + 2] - a[i] + b[i + 2] - b[i]) * 2, 0) for i, o in enumerate(offset)]
    length = (offset[0] ** 2 + offset[1] ** 2) ** 0.5
    assume(all(abs(r / length - 0.5) > 1e-6 for r in ratios))  # rounding may decide on the border itself
    assert relations(*moved) == relations(a, b)


def test_confidence_must_exceed_three_tenths_or_nine_tenths_for_counting() -> None:
    found = [seen("cat", s) for s in (0.95, 0.9, 0.31, 0.3, 0.1)]
    assert [d.score for d in usable(found, "single_object")["cat"]] == [0.95, 0.9, 0.31]
    assert [d.score for d in usable(found, "counting")["cat"]] == [0.95]


def test_at_most_sixteen_boxes_a_class_the_surest_first() -> None:
    found = [seen("cat", 0.5 + i / 100) for i in range(20)] + [seen("dog")]
    kept = usable(found, "colors")
    assert [round(d.score, 2) for d in kept["cat"]] == [round(0.69 - i / 100, 2) for i in range(MAX_BOXES)]
    assert len(kept["dog"]) == 1


def test_overlapping_boxes_are_two_objects_unless_asked_otherwise() -> None:
    twice = [seen("cat", 0.9), seen("cat", 0.8)]
    assert suppress(twice, 1.0) == twice
    assert suppress(twice, 0.5) == twice[:1]
    assert suppress([seen("cat", 0.9), seen("cat", 0.8, (5, 0, 15, 10))], 0.5) != twice[:1]  # one third in common


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (5, 0, 15, 10), 1 / 3),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),
        ((0, 0, 10, 10), (20, 20, 30, 30), 0.0),
        ((0, 0, 0, 0), (0, 0, 0, 0), 0.0),
    ],
)
def test_overlaps_worked_out_by_hand(a: Box, b: Box, expected: float) -> None:
    assert iou(a, b) == pytest.approx(expected)


def asked(tag: str, *include: dict[str, Any], exclude: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    return {"tag": tag, "include": list(include), "exclude": list(exclude), "prompt": "a photo of something"}


CAT, DOG = {"class": "cat", "count": 1}, {"class": "dog", "count": 1}
TWO_CATS = asked("counting", {"class": "cat", "count": 2}, exclude=[{"class": "cat", "count": 3}])


@pytest.mark.parametrize(
    ("prompt", "found", "right"),
    [
        (asked("single_object", CAT), [seen("cat", 0.31)], True),
        (asked("single_object", CAT), [seen("cat", 0.3)], False),
        (asked("single_object", CAT), [seen("cat"), seen("cat"), seen("dog")], True),  # more than asked for is allowed
        (asked("single_object", CAT), [seen("dog")], False),
        (asked("two_object", CAT, DOG), [seen("cat"), seen("dog")], True),
        (asked("two_object", CAT, DOG), [seen("cat"), seen("cat")], False),
        (TWO_CATS, [seen("cat"), seen("cat")], True),
        (TWO_CATS, [seen("cat")], False),
        (TWO_CATS, [seen("cat")] * 3, False),
        (TWO_CATS, [seen("cat"), seen("cat"), seen("cat", 0.9)], True),  # the third is not sure enough to count
        (TWO_CATS, [seen("cat"), seen("cat", 0.85)], False),
    ],
)
def test_numbers(prompt: dict[str, Any], found: list[Detection], right: bool) -> None:
    verdict = judge(prompt, found, blind)
    assert verdict.correct == right
    assert bool(verdict.reason) != right


def naming(**colours: str) -> Any:
    return lambda detections: [colours[d.name] for d in detections]


def test_each_object_has_its_own_colour() -> None:
    prompt = asked("color_attr", {**CAT, "color": "red"}, {**DOG, "color": "blue"})
    both = [seen("cat"), seen("dog")]
    assert judge(prompt, both, naming(cat="red", dog="blue")).correct
    verdict = judge(prompt, both, naming(cat="blue", dog="red"))
    assert not verdict.correct
    assert "expected red cat" in verdict.reason
    assert "expected blue dog" in verdict.reason
    assert [a.right for a in verdict.atoms] == [True, False, True, False]


def test_only_the_surest_boxes_are_looked_at_for_their_colour() -> None:
    prompt = asked("colors", {**CAT, "color": "red"})
    first, second = seen("cat", 0.9, (0, 0, 5, 5)), seen("cat", 0.5)
    looks = {id(first): "blue", id(second): "red"}
    assert not judge(prompt, [second, first], lambda ds: [looks[id(d)] for d in ds]).correct
    several = asked("colors", {"class": "cat", "count": 2, "color": "red"})
    assert not judge(several, [second, first], lambda ds: [looks[id(d)] for d in ds]).correct
    assert judge(several, [second, first], lambda ds: ["red"] * len(ds)).correct


def test_a_position_is_seen_from_the_entry_that_it_names() -> None:
    prompt = asked("position", CAT, {**DOG, "position": ["left of", 0]})
    left, right = (0, 0, 10, 10), (100, 0, 110, 10)
    assert judge(prompt, [seen("dog", box=left), seen("cat", box=right)], blind).correct
    verdict = judge(prompt, [seen("dog", box=right), seen("cat", box=left)], blind)
    assert not verdict.correct
    assert "expected dog left of cat" in verdict.reason
    missing = judge(prompt, [seen("dog", box=left)], blind)
    assert [a.right for a in missing.atoms] == [False, True, False]


def test_every_asked_object_must_be_beside_every_other() -> None:
    prompt = asked("position", CAT, {"class": "dog", "count": 2, "position": ["left of", 0]})
    cat = seen("cat", box=(100, 0, 110, 10))
    near, far = seen("dog", 0.9, (0, 0, 10, 10)), seen("dog", 0.8, (200, 0, 210, 10))
    assert not judge(prompt, [cat, near, far], blind).correct
    third = seen("dog", 0.5, (200, 0, 210, 10))  # surer ones are enough: it is not looked at
    assert judge(prompt, [cat, near, seen("dog", 0.8, (20, 0, 30, 10)), third], blind).correct


def test_beside_an_object_of_the_wrong_colour_nothing_is_right() -> None:
    prompt = asked("multi", {**CAT, "color": "red"}, {**DOG, "position": ["left of", 0]})
    found = [seen("dog", box=(0, 0, 10, 10)), seen("cat", box=(100, 0, 110, 10))]
    assert judge(prompt, found, naming(cat="red")).correct
    assert [a.right for a in judge(prompt, found, naming(cat="blue")).atoms] == [True, False, True, False]
