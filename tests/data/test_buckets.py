"""Buckets: which sizes there are, and what a picture loses in the one that is chosen for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from editkit.data.buckets import Size, batch_sizes, choose_bucket, fit, make_buckets
from editkit.data.prepare import PrepareParams, prepare


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[int], int, float]:
    """(sides, step, largest aspect)."""
    step = draw(st.sampled_from([8, 16, 32, 64]))
    sides = draw(st.lists(st.integers(1, 16), min_size=1, max_size=3))
    return [side * step for side in sides], step, draw(st.floats(1, 4))


SIZES = st.tuples(st.integers(8, 3000), st.integers(8, 3000))


@given(tables())
def test_buckets_are_multiples_within_the_limits_with_the_squares(table: tuple[list[int], int, float]) -> None:
    sides, step, limit = table
    buckets = make_buckets(sides, step, limit)
    assert len(set(buckets)) == len(buckets)
    assert {(side, side) for side in sides} <= set(buckets)
    for width, height in buckets:
        assert width % step == height % step == 0
        assert max(width, height) <= limit * min(width, height) + 1e-6
        assert width * height <= max(sides) ** 2
        assert (height, width) in buckets, "what there is upright there is lying"


@given(tables())
def test_no_bucket_could_be_larger_both_ways(table: tuple[list[int], int, float]) -> None:
    """Of one area each bucket is as wide as its height allows, or as high as its width allows."""
    (side, *_), step, limit = table
    for width, height in make_buckets([side], step, limit):
        assert (width + step) * height > side * side or width * (height + step) > side * side


def test_the_buckets_of_512() -> None:
    assert make_buckets([512], 64, 2.0) == [
        (384, 640), (448, 576), (512, 512), (576, 448), (640, 384),
    ]  # fmt: skip
    assert make_buckets([512], 64, 1.0) == [(512, 512)]
    with pytest.raises(ValueError, match="no multiple"):
        make_buckets([500], 64, 2.0)


@given(SIZES, tables())
def test_the_chosen_bucket_loses_least(size: Size, table: tuple[list[int], int, float]) -> None:
    buckets = make_buckets(*table)

    def loss(bucket: Size) -> float:
        """Share of the picture that is not shown, and share of the bucket's pixels that the picture does not have."""
        ratio, wanted = size[0] / size[1], bucket[0] / bucket[1]
        unseen = 1 - min(ratio, wanted) / max(ratio, wanted)
        shown = size[0] * size[1] * (1 - unseen)
        return unseen + max(0.0, 1 - shown / (bucket[0] * bucket[1]))

    chosen = buckets[choose_bucket(size, buckets)]
    least = min(loss(b) for b in buckets)
    assert loss(chosen) <= least + 2e-6
    equals = [b for b in buckets if loss(b) <= least + 1e-7]
    assert chosen[0] * chosen[1] >= max(w * h for w, h in equals), "of equals the one with the most detail"


@given(st.integers(1, 16))
def test_mixed_resolutions_take_a_picture_as_large_as_it_is(side: int) -> None:
    buckets = make_buckets([256, 512, 1024], 64, 1.0)
    assert buckets[choose_bucket((side * 64, side * 64), buckets)][0] <= max(256, side * 64)
    assert buckets[choose_bucket((1500, 1500), buckets)] == (1024, 1024)
    assert buckets[choose_bucket((700, 700), buckets)] == (512, 512)
    assert buckets[choose_bucket((100, 100), buckets)] == (256, 256), "the smallest, where all would enlarge it"


@given(st.tuples(st.integers(8, 90), st.integers(8, 90)), st.sampled_from([(16, 16), (32, 16), (16, 48), (48, 32)]))
def test_fit_says_what_prepare_does(size: Size, bucket: Size) -> None:
    scale, cropped = fit(size, bucket)
    covered = (size[0] * scale, size[1] * scale)
    assert covered[0] >= bucket[0] - 1e-9
    assert covered[1] >= bucket[1] - 1e-9
    assert min(covered[0] - bucket[0], covered[1] - bucket[1]) < 1e-9
    assert cropped == pytest.approx(1 - bucket[0] * bucket[1] / (covered[0] * covered[1]), abs=1e-9)
    # A picture whose colour is its place: what is left of both ramps is the share that was not cut off.
    ramps = np.zeros((size[1], size[0], 3), np.uint8)
    ramps[..., 0] = np.linspace(0, 255, size[0])[None, :]
    ramps[..., 1] = np.linspace(0, 255, size[1])[:, None]
    made = prepare([Image.fromarray(ramps)], PrepareParams(16), size=bucket)[0].numpy().astype(float)
    assert made.shape == (3, bucket[1], bucket[0])
    kept = (np.ptp(made[0]) / 255) * (np.ptp(made[1]) / 255)
    # Ramps end at the centres of the outermost pixels, and Lanczos rounds corners.
    assert kept == pytest.approx(1 - cropped, abs=2.5 / min(*size, *bucket) + 0.02)


@given(tables(), st.integers(1, 64))
def test_a_batch_has_the_pixels_of_its_squares_and_not_more(table: tuple[list[int], int, float], batch: int) -> None:
    sides, step, limit = table
    resolution = max(sides)
    buckets = make_buckets(sides, step, limit)
    for (width, height), size in zip(buckets, batch_sizes(buckets, resolution, batch), strict=True):
        limit_px = batch * resolution * resolution
        assert size >= 1
        assert size == 1 or size * width * height <= limit_px
        assert (size + 1) * width * height > limit_px, "one more would not fit"
    assert batch_sizes([(resolution, resolution)], resolution, batch) == [batch]
