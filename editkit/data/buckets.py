"""Buckets: the sizes to which pictures are brought, so that a batch has one size and little of a picture is cut off.

A bucket is a (width, height) in pixels. Without a table of buckets there is one: the square of `data.resolution`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Size = tuple[int, int]  # width, height in px


@dataclass(frozen=True, slots=True)
class Fit:
    """What happens to one picture.

    Attributes:
        key: the example's.
        picture: which of the example's pictures, in the method's order, from 0; the last is the result.
        size: of the picture, px.
        bucket: number of the bucket, which the result picture decides.
        scale: factor on its sides; above 1 it is made larger than it is.
        cropped: share of its area that is cut off.
    """

    key: str
    picture: int
    size: Size
    bucket: int
    scale: float
    cropped: float


def make_buckets(sides: Sequence[int], step: int, max_aspect: float) -> list[Size]:
    """Sizes of about side² pixels for every side, from upright to lying.

    Args:
        sides: square roots of the areas, px.
        step: both sides are multiples of it, px.
        max_aspect: longer side / shorter side at most; 1 = squares alone.

    Returns:
        Sizes without repetition, by area and then by width. No bucket has more pixels than side², so that a batch that
        fits into memory for the square fits for all.
    """
    found: dict[Size, None] = {}
    for side in sorted(sides):
        if side % step:
            raise ValueError(f"a side of {side} px is no multiple of {step}")
        found[(side, side)] = None
        for width in range(step, side * side // step + 1, step):
            height = side * side // width // step * step
            if height and max(width, height) / min(width, height) <= max_aspect + 1e-9:
                found[(width, height)] = found[(height, width)] = None  # what fits upright fits lying
    return sorted(found, key=lambda size: (_closest_side(size, sides), size[0], size[1]))


def _closest_side(size: Size, sides: Sequence[int]) -> int:
    return min(sides, key=lambda side: abs(side - math.sqrt(size[0] * size[1])))


def fit(size: Size, bucket: Size) -> tuple[float, float]:
    """(scale, share of the area that is cut off) of a picture that is scaled until it covers a bucket."""
    scale = max(bucket[0] / size[0], bucket[1] / size[1])
    covered = (bucket[0] * bucket[1]) / (size[0] * scale * size[1] * scale)
    return scale, max(0.0, 1.0 - covered)


def choose_bucket(size: Size, buckets: Sequence[Size]) -> int:
    """The number of the bucket in which the least of a picture is lost.

    Loss is what is cut off, and what has to be invented where the picture is smaller than the bucket; of equals the one with
    the most pixels is taken, so that detail is kept.
    """

    def loss(number: int) -> tuple[float, int]:
        scale, cropped = fit(size, buckets[number])
        invented = max(0.0, 1.0 - 1.0 / (scale * scale))
        return round(cropped + invented, 6), -buckets[number][0] * buckets[number][1]

    return min(range(len(buckets)), key=loss)


def batch_sizes(buckets: Sequence[Size], resolution: int, batch_size: int) -> list[int]:
    """Examples a batch in every bucket: at most the pixels of `batch_size` squares of `resolution`, but at least one."""
    return [max(1, batch_size * resolution * resolution // (width * height)) for width, height in buckets]
