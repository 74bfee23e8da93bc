"""What spoils a photograph, for pairs that teach its restoration: the clean picture is the target.

Each is a function of (picture, random numbers) -> (spoiled picture, what was drawn), with the picture as float (3, H, W) in
[0, 1], sRGB. Light adds up in linear intensities, not in sRGB values: blur, exposure and the noise of a sensor are therefore
computed there. Filters and colour spaces are kornia's, the JPEG codec Pillow's.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from importlib import import_module
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from editkit.data.prepare import to_image

Spoil = Callable[[torch.Tensor, Random], tuple[torch.Tensor, Mapping[str, Any]]]


def _kornia(module: str) -> Any:
    return import_module(f"kornia.{module}")


def to_linear(x_CHW: torch.Tensor) -> torch.Tensor:
    """From sRGB values to intensities, both in [0, 1] (IEC 61966-2-1)."""
    return _kornia("color").rgb_to_linear_rgb(x_CHW[None])[0]


def to_srgb(x_CHW: torch.Tensor) -> torch.Tensor:
    """The way back; what the sensor cannot hold is cut off."""
    return _kornia("color").linear_rgb_to_rgb(x_CHW[None].clamp(0, 1))[0]


def haze(x_CHW: torch.Tensor, rng: Random) -> tuple[torch.Tensor, Mapping[str, Any]]:
    """I = J t + A (1 - t), with transmission t = exp(-depth) (He, Sun and Tang 2009, equations 1 and 2).

    The depth grows towards the upper edge, as in most outdoor pictures, with a smooth field upon it.
    """
    airlight, thin, thick = rng.uniform(0.75, 0.95), rng.uniform(0.3, 0.7), rng.uniform(0.8, 1.5)
    height, width = x_CHW.shape[1:]
    bumps = F.interpolate(_normal((1, 1, 4, 4), rng), (height, width), mode="bicubic")[0]
    depth_1HW = torch.linspace(thick, thin, height).view(1, height, 1) * (1 + 0.15 * bumps)
    transmission_1HW = torch.exp(-depth_1HW.clamp_min(0))
    spoiled = x_CHW * transmission_1HW + airlight * (1 - transmission_1HW)
    return spoiled, {"airlight": _round(airlight), "depth": [_round(thin), _round(thick)]}


def rain(x_CHW: torch.Tensor, rng: Random) -> tuple[torch.Tensor, Mapping[str, Any]]:
    """Bright streaks: sparse drops, smeared along the direction in which they fall while the shutter is open."""
    side = min(x_CHW.shape[1:])
    length = _odd(side * rng.uniform(0.12, 0.28))
    angle, density, strength = rng.uniform(-25, 25), rng.uniform(0.006, 0.02), rng.uniform(0.5, 0.9)
    drops_1HW = (_uniform((1, *x_CHW.shape[1:]), rng) < density).float()
    smear = _kornia("filters").motion_blur
    streaks_1HW = smear(drops_1HW[None], length, 90 + angle, 0.0)[0] * length
    streaks_1HW = _kornia("filters").gaussian_blur2d(streaks_1HW[None], (3, 3), (0.5, 0.5))[0].clamp(0, 1)
    spoiled = x_CHW + (0.95 - x_CHW) * strength * streaks_1HW
    return spoiled, {"length_px": length, "angle_deg": _round(angle), "density": _round(density), "strength": _round(strength)}


def low_light(x_CHW: torch.Tensor, rng: Random) -> tuple[torch.Tensor, Mapping[str, Any]]:
    """An exposure that is too short by 2 to 4 stops, with the noise that this leaves."""
    stops = rng.uniform(2.0, 4.0)
    dark, noise = _sensor(to_linear(x_CHW) * 2**-stops, rng, shot=(1e-4, 4e-4), read=(5e-4, 2e-3))
    return to_srgb(dark), {"stops": _round(stops), **noise}


def blur(x_CHW: torch.Tensor, rng: Random) -> tuple[torch.Tensor, Mapping[str, Any]]:
    """A shaking hand or a lens out of focus, in about equal shares."""
    side = min(x_CHW.shape[1:])
    linear = to_linear(x_CHW)[None]
    if rng.random() < 0.5:
        length, angle = _odd(side * rng.uniform(0.07, 0.16)), rng.uniform(0, 180)
        spoiled = _kornia("filters").motion_blur(linear, length, angle, 0.0, border_type="replicate")
        drawn = {"kind": "motion", "length_px": length, "angle_deg": _round(angle)}
    else:
        sigma = side * rng.uniform(0.018, 0.04)
        size = 2 * math.ceil(3 * sigma) + 1
        spoiled = _kornia("filters").gaussian_blur2d(linear, (size, size), (sigma, sigma), border_type="replicate")
        drawn = {"kind": "focus", "sigma_px": _round(sigma)}
    return to_srgb(spoiled[0]), drawn


def noise(x_CHW: torch.Tensor, rng: Random) -> tuple[torch.Tensor, Mapping[str, Any]]:
    """The noise of a small sensor at a high sensitivity."""
    spoiled, drawn = _sensor(to_linear(x_CHW), rng, shot=(0.006, 0.03), read=(0.01, 0.04))
    return to_srgb(spoiled), drawn


def jpeg(x_CHW: torch.Tensor, rng: Random) -> tuple[torch.Tensor, Mapping[str, Any]]:
    """Far too strong a compression, by the real codec."""
    quality = rng.randint(8, 25)
    buffer = io.BytesIO()
    to_image(x_CHW * 2 - 1).save(buffer, "JPEG", quality=quality)
    return from_image(Image.open(buffer)), {"quality": quality}


def small(x_CHW: torch.Tensor, rng: Random) -> tuple[torch.Tensor, Mapping[str, Any]]:
    """A picture of a half to a quarter of the side, enlarged again."""
    factor = rng.uniform(2.0, 4.0)
    picture = to_image(x_CHW * 2 - 1)
    less = picture.resize([max(1, round(n / factor)) for n in picture.size], Image.Resampling.BOX)
    return from_image(less.resize(picture.size, Image.Resampling.BICUBIC)), {"factor": _round(factor)}


def grey(x_CHW: torch.Tensor, rng: Random) -> tuple[torch.Tensor, Mapping[str, Any]]:
    """Without colours."""
    del rng
    return _kornia("color").rgb_to_grayscale(x_CHW[None])[0].expand(3, -1, -1), {}


def recolour(image: Image.Image, rng: Random) -> tuple[Image.Image, Mapping[str, Any]]:
    """No fault but another picture: all hues turned by one angle, all colours paler or stronger by one factor."""
    hue, saturation = rng.uniform(-math.pi, math.pi), rng.uniform(0.6, 1.5)
    enhance = _kornia("enhance")
    x_BCHW = enhance.adjust_saturation(enhance.adjust_hue(from_image(image)[None], hue), saturation)
    return to_image(x_BCHW[0] * 2 - 1), {"hue_rad": _round(hue), "saturation": _round(saturation)}


def from_image(image: Image.Image) -> torch.Tensor:
    """A picture as float (3, H, W) in [0, 1]."""
    data = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return data.view(image.height, image.width, 3).permute(2, 0, 1).float() / 255


def _sensor(
    linear_CHW: torch.Tensor, rng: Random, shot: tuple[float, float], read: tuple[float, float]
) -> tuple[torch.Tensor, Mapping[str, Any]]:
    """Noise whose variance grows with the light, a x + b^2 (Foi et al. 2008, equation 3)."""
    a, b = rng.uniform(*shot), rng.uniform(*read)
    deviation = (a * linear_CHW + b**2).sqrt()
    return linear_CHW + deviation * _normal(tuple(linear_CHW.shape), rng), {"shot": _round(a), "read": _round(b)}


def _generator(rng: Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(63))


def _normal(shape: tuple[int, ...], rng: Random) -> torch.Tensor:
    return torch.randn(shape, generator=_generator(rng))


def _uniform(shape: tuple[int, ...], rng: Random) -> torch.Tensor:
    return torch.rand(shape, generator=_generator(rng))


def _odd(length: float) -> int:
    """The nearest odd number of pixels, three at least: what kernels are made of."""
    return max(3, 2 * round((length - 1) / 2) + 1)


def _round(value: float) -> float:
    return round(value, 5)
