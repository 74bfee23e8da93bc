"""Pixel metrics on pictures, in [0, 1] and decibels."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image


def as_unit(image: Image.Image) -> np.ndarray:
    """float64 (H, W, 3) in [0, 1]."""
    return np.asarray(image.convert("RGB"), dtype=np.float64) / 255.0


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal pictures."""
    error = float(np.mean((as_unit(a) - as_unit(b)) ** 2))
    return math.inf if error == 0 else -10 * math.log10(error)
