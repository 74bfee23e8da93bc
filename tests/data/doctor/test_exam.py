"""One pair at a time: sizes, colours, orientations, likeness."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from editkit.data.doctor.exam import examine
from editkit.data.doctor.findings import Finding
from editkit.data.doctor.orientation import INVERSE, TURNS, find_turn, turn, undoing
from editkit.data.examples import CaptionedImage, EditPair
from editkit.data.pictures import Picture
from editkit.lab.avatar_edits import sample_edits
from tests.bench.faults import other_profile, png
from tests.tiny import picture


def small_pair(**parts: object) -> EditPair:
    plain = EditPair("k", png(picture("red")), png(picture("blue")), ("make it blue",))
    return replace(plain, **parts)


def found(pair: EditPair) -> list[tuple[str, str]]:
    return [(f.kind, f.severity) for f in examine(pair, 0).findings]


@pytest.fixture(scope="module")
def face() -> EditPair:
    return next(p for p in sample_edits(20, seed=4, split="train") if p.category == "expression")


def test_a_sound_pair(face: EditPair) -> None:
    assert found(small_pair()) == found(face) == []


def test_sizes_and_aspects(face: EditPair) -> None:
    assert found(small_pair(target=png(picture("blue", (64, 64))))) == [("size mismatch", "warning")]
    assert found(small_pair(target=png(picture("blue", (32, 24))))) == [("aspect mismatch", "error")]
    odd = replace(face, source=png(face.source.open().resize((301, 200))), target=png(face.target.open().resize((150, 100))))
    assert found(replace(odd, mask=None)) == [("size mismatch", "warning")]  # an odd pixel is rounding


def test_colour_spaces() -> None:
    wide = png(picture("blue"), icc_profile=other_profile())
    assert found(small_pair(target=wide)) == [("colour profile", "warning")]
    assert found(small_pair(source=png(picture("red"), icc_profile=other_profile()), target=wide)) == [
        ("colour profile", "note")
    ]
    assert found(small_pair(target=png(picture("blue").convert("RGBA")))) == [("colour profile", "note")]


def test_missing_and_broken_pictures() -> None:
    assert found(small_pair(target=Picture(data=b"", label="x"))) == [("orphan", "error")]
    assert found(small_pair(target=Picture(path="/nowhere/x.png"))) == [("orphan", "error")]
    assert found(small_pair(target=Picture(data=b"no picture"))) == [("unreadable", "error")]


def test_identical_pairs_unless_they_are_meant_to_be() -> None:
    same = small_pair(target=png(picture("red")))
    assert found(same) == [("identical pair", "error")]
    assert found(replace(same, category="keep")) == []


@pytest.mark.parametrize("orientation", range(2, 9))
def test_undoing_an_orientation_gives_the_pixels_back(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = png(picture("red", (40, 24)), exif=exif)
    assert turn(stored.open(), undoing(orientation)).tobytes() == picture("red", (40, 24)).tobytes()


@pytest.mark.parametrize("operation", [name for name in TURNS if name != "FLIP_LEFT_RIGHT"])
def test_a_turned_target_is_found_and_turned_back(face: EditPair, operation: str) -> None:
    source, target = face.source.open(), face.target.open()
    assert find_turn(source, target) == ""
    back = find_turn(source, turn(target, operation))
    # Of a symmetrical face a mirrored turn is the plain one.
    assert find_turn(source, turn(turn(target, operation), back)) == ""
    if operation.startswith("ROTATE"):
        assert back == INVERSE.get(operation, operation)


def test_a_wrong_orientation_is_told_from_a_right_one(face: EditPair) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    wrong = replace(face, target=png(face.target.open(), exif=exif))
    (finding,) = examine(wrong, 0).findings
    assert (finding.kind, finding.severity) == ("orientation", "error")
    assert "its EXIF orientation 6 is wrong" in finding.why
    right = replace(face, target=png(face.target.open().transpose(Image.Transpose.ROTATE_90), exif=exif))
    assert found(right) == [("orientation", "warning")]


def test_an_edit_that_asks_for_it_may_turn_the_picture(face: EditPair) -> None:
    upside_down = replace(face, target=png(face.target.open().transpose(Image.Transpose.ROTATE_180)))
    assert [kind for kind, _ in found(upside_down)] == ["orientation"]
    assert found(replace(upside_down, instructions=("rotate it by 180 degrees",))) == []


def test_captioned_images() -> None:
    assert examine(CaptionedImage("k", png(picture("red")), ("a red square",)), 0).findings == []
    (finding,) = examine(CaptionedImage("k", Picture(data=b"x"), ("",)), 0).findings[1:]
    assert finding == Finding("empty text", "k", "has no caption", 0)
