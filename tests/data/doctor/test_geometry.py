"""Whole pictures that were moved: found to a fraction of a pixel, and never where an edit changed a part."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from editkit.data.doctor.geometry import Similarity, find_motion, small, stands, warp
from editkit.data.examples import EditPair
from editkit.lab.avatar_edits import sample_edits
from tests.bench.faults import moved


@pytest.fixture(scope="module")
def pairs() -> list[EditPair]:
    """Edits that leave something as it was; where a whole body is replaced or recoloured, little is left to measure by."""
    return [p for p in sample_edits(30, seed=3, split="train") if p.category in ("add", "expression", "remove")][:8]


def found_in(pair: EditPair, *, masked: bool, **how: float):
    source, target = pair.source.open(), moved(pair.target.open(), **how) if how else pair.target.open()
    mask = pair.mask.open() if masked and pair.mask else None
    return None if stands(source, target, mask) else find_motion(source, target, mask)


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (0, -2), (3, 3)])
def test_whole_pixels_along_an_axis_are_no_hiding_place(pairs: list[EditPair], dx: int, dy: int) -> None:
    for pair in pairs:
        found = found_in(pair, masked=True, dx=dx, dy=dy)
        assert found is not None
        assert (-found.transform.dx, -found.transform.dy) == pytest.approx((dx, dy), abs=0.3)


def test_an_edit_alone_moves_nothing(pairs: list[EditPair]) -> None:
    assert [found_in(p, masked=masked) for p in pairs for masked in (True, False)] == [None] * 2 * len(pairs)


@given(st.floats(0.6, 6), st.floats(0, 2 * np.pi), st.integers(0, 7))
@settings(max_examples=12, derandomize=True)
def test_a_shift_is_measured_below_a_pixel(pairs: list[EditPair], far: float, angle: float, which: int) -> None:
    dx, dy = far * np.cos(angle), far * np.sin(angle)
    found = found_in(pairs[which], masked=True, dx=dx, dy=dy)
    assert found is not None
    assert found.kind == "shift"
    assert (-found.transform.dx, -found.transform.dy) == pytest.approx((dx, dy), abs=0.4)


@given(st.sampled_from([-1, 1]), st.floats(0.025, 0.1), st.integers(0, 7))
@settings(max_examples=8, derandomize=True)
def test_a_zoom_is_told_from_a_shift(pairs: list[EditPair], sign: int, zoom: float, which: int) -> None:
    found = found_in(pairs[which], masked=True, zoom=sign * zoom)
    assert found is not None
    assert found.kind == "zoom"
    assert -found.transform.zoom == pytest.approx(sign * zoom, abs=0.015), "half a pixel at the edge"


@given(st.sampled_from([-1, 1]), st.floats(1.5, 10), st.integers(0, 7))
@settings(max_examples=8, derandomize=True)
def test_a_rotation_is_measured_below_a_degree(pairs: list[EditPair], sign: int, degrees: float, which: int) -> None:
    found = found_in(pairs[which], masked=True, degrees=sign * degrees)
    assert found is not None
    assert found.kind == "rotation"
    assert -np.degrees(found.transform.angle) == pytest.approx(sign * degrees, abs=0.5)


def test_large_pictures_are_measured_in_their_own_pixels() -> None:
    rng = np.random.default_rng(0)
    field = Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).resize((384, 384), Image.Resampling.BICUBIC)
    edited = moved(field, dx=7.5, dy=-4.5)
    edited.paste("red", (100, 100, 200, 220))
    found = find_motion(field, edited)
    assert found is not None
    assert (-found.transform.dx, -found.transform.dy) == pytest.approx((7.5, -4.5), abs=0.5)


def test_pictures_without_edges_say_nothing() -> None:
    assert stands(Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue"))


@given(st.floats(-0.2, 0.2), st.floats(-0.3, 0.3), st.floats(-5, 5), st.floats(-5, 5))
@settings(max_examples=20, derandomize=True)
def test_warping_is_what_its_equation_says(zoom: float, angle: float, dx: float, dy: float) -> None:
    y, x = np.indices((21, 31), dtype=np.float32)
    ramp = np.stack([x, y])  # bilinear reading of a ramp gives the place itself
    warped, inside = warp(ramp, Similarity(zoom, angle, dx, dy))
    cx, cy, grow = 15.0, 10.0, np.exp(zoom)
    from_x = cx + dx + grow * (np.cos(angle) * (x - cx) - np.sin(angle) * (y - cy))
    from_y = cy + dy + grow * (np.sin(angle) * (x - cx) + np.cos(angle) * (y - cy))
    assert np.allclose(warped[0][inside], from_x[inside], atol=0.01)
    assert np.allclose(warped[1][inside], from_y[inside], atol=0.01)


def test_a_picture_is_brought_to_a_bounded_size() -> None:
    assert small(Image.new("RGB", (1000, 500))).shape == (3, 64, 128)
