"""Readings against what can be seen, counted by hand."""

from __future__ import annotations

import math

import pytest

from editkit.evaluate.readings import DEMANDS, Tally, summarise_readings, tally, unmet
from editkit.lab.scene_faults import Seen
from editkit.models.scene_reader.cells import Found

APPLE = Seen("apple", "red", (0, 0, 10, 10))
BELL = Seen("bell", "blue", (20, 0, 30, 10))


def found(kind: str, left: float = 0, score: float = 0.95, colour: str = "red") -> Found:
    return Found(kind, colour, (left, 0, left + 10, 10), score)


def test_what_is_right_is_right() -> None:
    one = tally([([APPLE, BELL], [found("apple", 1), found("bell", 20, colour="blue")])])
    assert one.figures() == pytest.approx({"categories": 1, "colours": 1, "counts": 1, "overlap": (9 / 11 + 1) / 2})
    assert not one.mistakes


@pytest.mark.parametrize(
    ("read", "categories", "counts", "mistakes"),
    [
        ([], 0, 0, {"apple missed": 1}),
        ([found("apple", score=0.2)], 0, 0, {"apple missed": 1}),
        ([found("apple", score=0.5)], 1, 0, {}),  # there, and not sure enough to be counted
        ([found("bell")], 0, 0, {"apple read as bell": 1}),
        ([found("apple"), found("star", 40)], 1 / 2, 1 / 2, {"nothing read as star": 1}),
        ([found("apple"), found("star", 40, 0.5)], 1 / 2, 1, {"nothing read as star": 1}),
        ([found("apple"), found("apple", 2)], 1 / 2, 0, {"nothing read as apple": 1}),
        ([found("apple", 6)], 0, 1, {"apple missed": 1, "nothing read as apple": 1}),  # elsewhere, and one all the same
        ([found("apple", colour="pink")], 1, 1, {"red read as pink": 1}),
    ],
)
def test_one_apple_read_wrongly(read: list[Found], categories: float, counts: float, mistakes: dict[str, int]) -> None:
    one = tally([([APPLE], read)])
    assert one.categories == categories
    assert one.figures()["counts"] == counts
    assert dict(one.mistakes) == mistakes


def test_of_the_doubtful_nobody_is_asked() -> None:
    half = Seen("bell", "blue", (20, 0, 30, 10), 0.4)
    for read in ([found("apple")], [found("apple"), found("bell", 20, colour="blue")], [found("apple"), found("star", 22)]):
        one = tally([([APPLE, half], read)])
        assert one.categories == 1
        assert not one.mistakes
    gone = Seen("bell", "blue", (20, 0, 30, 10), 0.2)
    assert tally([([APPLE, gone], [found("apple"), found("bell", 20)])]).mistakes == {"nothing read as bell": 1}


def test_a_colour_that_nobody_can_name_is_not_asked() -> None:
    one = tally([([Seen("apple", "", (0, 0, 10, 10), 0.7)], [found("apple")])])
    assert one.categories == 1
    assert math.isnan(one.figures()["colours"])


def test_the_calibration_is_the_gap_between_saying_and_being_right() -> None:
    honest = Tally(sureness=[(0.75, True)] * 3 + [(0.75, False)])
    boastful = Tally(sureness=[(0.95, True), (0.95, False)])
    assert honest.calibration_error() == pytest.approx(0)
    assert boastful.calibration_error() == pytest.approx(0.45)
    both = Tally()
    both.merge(honest)
    both.merge(boastful)
    assert both.calibration_error() == pytest.approx(0.9 / 6)


def test_every_condition_but_the_clean_one_counts_alike() -> None:
    right, wrong = tally([([APPLE], [found("apple")])]), tally([([APPLE, BELL], [])])
    result = summarise_readings({"clean": right, "noisy": right, "blurred": wrong})
    assert result["scores"]["categories"] == 1
    assert result["scores"]["corrupted_categories"] == pytest.approx(1 / 2)
    assert result["scores"]["corrupted_colours"] == 1
    assert result["by_attribute"]["blurred: categories"] == 0
    assert "blurred: colours" not in result["by_attribute"]  # none was asked
    assert result["confusion"] == {"blurred": {"apple missed": 1, "bell missed": 1}}


def test_a_demand_that_is_not_met_is_named() -> None:
    assert unmet(DEMANDS) == []
    assert unmet({**DEMANDS, "counts": 0.97}) == ["counts: found 0.9700; expected at least 0.98"]
    assert len(unmet({**DEMANDS, "counts": math.nan})) == 1
