"""What a weak generator does to a scene, drawn so that what can still be seen is known exactly.

A picture is painted layer by layer. Of every object it is counted how much of it is left: what was erased, faded, painted
over or cut off by the edge is not seen, and an object is what one sees of it. Faults of the pixels alone, which leave the
objects where and what they are (blur, noise, blocks ...), are not here but in `editkit.methods.disturbances`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from PIL import Image, ImageFilter

from editkit.lab.scene_art import COLOURS, GLYPHS, Glyph, draw_glyph
from editkit.lab.scenes import UNITS, Scene, Thing, add_thing, ground, pixels_a_unit

FAULTS = ("restyled", "erased", "covered", "cut", "faint", "blended", "scrambled", "smudged", "strangers")
STRETCH = 0.12  # of a side, either way
TINT = 16  # levels of 255 in each channel, either way
RESTYLED_SHARE = 0.5  # of the objects of a faulty picture, whatever its fault
SPOILED_SHARE = 0.6  # of the objects of a picture with a fault of single objects
COLOUR_SURE = 0.75  # opacity from which on the colour of something faint can be named
INK = 0.1  # of an object's densest pixel: what is fainter is not part of its box
HALF_TURN_ALIKE = ("square",)  # whose quarters changed about look like itself

# What is no class of the world, by split: a judge is tried on strangers that it never met.
_OPENMOJI = {
    "train": ("1F697", "1F511", "1F3E0", "1F40C", "1F335", "1F3B8", "1F6B2", "1F422", "1F42B", "1F419", "1F366", "1F955",
              "1F347", "1F3C6", "1F4F7", "1F680", "1F682", "1F456", "231B", "1FA91", "1F986", "2702", "1F58D", "1F6F4",
              "1F3A9", "1F45F"),
    "test": ("1F352", "1F41B", "1F527", "1F4A1", "1F980", "1F382", "1F6AA", "1F40D", "1F576", "1F994"),
}  # fmt: skip
_OUTLINES = {
    "train": ("M10 28H40V12L64 36 40 60V44H10Z", "M10 12H62V30H45V64H27V30H10Z", "M12 8H30V46H62V64H12Z",
              "M42 6 14 42H33L28 66 58 28H38Z", "M28 6H44V66H28Z", "M10 10H28V44H44V10H62V64H10Z"),
    "test": ("M8 50A28 28 0 0 1 64 50Z", "M12 8H60L44 36 60 64H12L28 36Z", "M8 62V44H26V26H44V8H64V62Z"),
}  # fmt: skip
STRANGERS = {
    split: (
        *(Glyph((6, 6, 60, 60), code=code) for code in _OPENMOJI[split]),
        *(Glyph((6, 6, 60, 60), outline=f'<path d="{path}"/>') for path in _OUTLINES[split]),
    )
    for split in ("train", "test")
}


@dataclass(frozen=True, slots=True)
class Seen:
    """An object as it can be seen in a picture.

    Attributes:
        kind: its class; a key of `GLYPHS`.
        colour: a key of `COLOURS`; "" where nobody could name it.
        box: left, top, right, bottom in px.
        visible: how much of it is there, in [0, 1].
    """

    kind: str
    colour: str
    box: tuple[int, int, int, int]
    visible: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """An object before it is painted.

    Attributes:
        rgb: its colours, float32 in [0, 255], shape (H, W, 3).
        alpha: what of it is there, float32 in [0, 1], shape (H, W).
        left, top: px; it may reach beyond the picture.
        ink: sum of the alpha of the whole object.
        kind, colour: what it is; "" = nothing that has a name.
    """

    rgb: np.ndarray
    alpha: np.ndarray
    left: int
    top: int
    ink: float
    kind: str
    colour: str


def spoil(rng: Random, scene: Scene, other: Scene, fault: str, split: str, size: int) -> tuple[Image.Image, list[Seen]]:
    """Draws a scene with a fault.

    Args:
        rng: where all that is drawn comes from.
        scene: what was meant.
        other: what is mixed in where the fault is "blended".
        fault: one of `FAULTS`.
        split: whose `STRANGERS` are met.
        size: px, a multiple of 32.

    Returns:
        The picture, RGB, and every object of which a trace is left.
    """
    layers = _faulty_layers(rng, scene, fault, split, size)
    canvas_HWC, seen = paint(ground(scene.ground, size), layers)
    if fault == "blended":
        share = rng.uniform(0.5, 1)
        mixed_HWC, also = paint(ground(other.ground, size), _faulty_layers(rng, other, "restyled", split, size))
        canvas_HWC = share * canvas_HWC + (1 - share) * mixed_HWC
        seen = [_faded(s, share) for s in seen] + [_faded(s, 1 - share) for s in also]
    return Image.fromarray(canvas_HWC.round().clip(0, 255).astype(np.uint8)), [s for s in seen if s.visible > 0]


def paint(base: Image.Image, layers: Sequence[Layer]) -> tuple[np.ndarray, list[Seen]]:
    """Paints layers over each other, the last one on top.

    Returns:
        The picture, float32 (H, W, 3) in [0, 255], and what is left to be seen of each layer that has a name.
    """
    canvas_HWC = np.asarray(base, dtype=np.float32).copy()
    shown: list[np.ndarray] = []
    for layer in layers:
        rgb_HWC, alpha_HW = _laid_out(layer, canvas_HWC.shape[0])
        canvas_HWC += alpha_HW[..., None] * (rgb_HWC - canvas_HWC)
        shown = [s * (1 - alpha_HW) for s in shown] + [alpha_HW]
    return canvas_HWC, [_seen(layer, s) for layer, s in zip(layers, shown, strict=True) if layer.kind]


def _laid_out(layer: Layer, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The layer's colours and alpha at the size of the picture."""
    height, width = layer.alpha.shape
    rgb_HWC, alpha_HW = np.zeros((size, size, 3), np.float32), np.zeros((size, size), np.float32)
    top, left = max(0, layer.top), max(0, layer.left)
    bottom, right = min(size, layer.top + height), min(size, layer.left + width)
    if top < bottom and left < right:
        own = np.s_[top - layer.top : bottom - layer.top, left - layer.left : right - layer.left]
        rgb_HWC[top:bottom, left:right] = layer.rgb[own]
        alpha_HW[top:bottom, left:right] = layer.alpha[own]
    return rgb_HWC, alpha_HW


def _seen(layer: Layer, shown_HW: np.ndarray) -> Seen:
    there = shown_HW > INK * max(float(shown_HW.max()), 1e-6)
    rows, columns = np.nonzero(there.any(1))[0], np.nonzero(there.any(0))[0]
    if not len(rows):
        return Seen(layer.kind, layer.colour, (0, 0, 0, 0), 0.0)
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return Seen(layer.kind, layer.colour, box, round(min(1.0, float(shown_HW.sum()) / layer.ink), 3))


def _faded(seen: Seen, opacity: float) -> Seen:
    return replace(seen, visible=round(seen.visible * opacity, 3), colour=seen.colour if opacity >= COLOUR_SURE else "")


def _faulty_layers(rng: Random, scene: Scene, fault: str, split: str, size: int) -> list[Layer]:
    scale, things = pixels_a_unit(size), list(scene.things)
    layers = [_layer(rng, t, scale, rng.random() < RESTYLED_SHARE or fault == "restyled") for t in things]
    if fault == "covered" and things:
        layers.insert(rng.choice((0, len(layers))), _over(rng, rng.choice(things), scale))
    if fault == "strangers":
        layers += [_stranger(rng, box, split, scale) for box in _free_places(rng, things)]
    single = {"erased": _erased, "cut": _cut, "faint": _faint, "scrambled": _scrambled, "smudged": _smudged}.get(fault)
    if single is None or not layers:
        return layers
    spoiled = [i for i in range(len(layers)) if rng.random() < SPOILED_SHARE] or [rng.randrange(len(layers))]
    return [single(rng, layer, size) if i in spoiled else layer for i, layer in enumerate(layers)]


def _layer(rng: Random, thing: Thing, scale: int, restyled: bool) -> Layer:
    left, top, right, bottom = thing.box(scale)
    width, height = right - left, bottom - top
    tint = np.zeros(3)
    if restyled:
        width, height = (max(1, round(v * rng.uniform(1 - STRETCH, 1 + STRETCH))) for v in (width, height))
        tint = np.array([rng.uniform(-TINT, TINT) for _ in range(3)])
    return _drawn(GLYPHS[thing.kind], thing, (left, top, width, height), tint)


def _drawn(glyph: Glyph, thing: Thing, place: tuple[int, int, int, int], tint: np.ndarray) -> Layer:
    left, top, width, height = place
    pixels_HWC = np.asarray(draw_glyph(glyph, thing.colour, width, height), dtype=np.float32)
    rgb_HWC = (pixels_HWC[..., :3] + tint).clip(0, 255).astype(np.float32)
    alpha_HW = pixels_HWC[..., 3] / 255
    return Layer(rgb_HWC, alpha_HW, left, top, float(alpha_HW.sum()), thing.kind, thing.colour)


def _over(rng: Random, thing: Thing, scale: int) -> Layer:
    """Another object that stands partly where `thing` does."""
    away = [rng.choice((-1, 1)) * rng.uniform(0.1, 0.9) * thing.side for _ in range(2)]
    x, y = (min(max(0, round(v + d)), UNITS - thing.side) for v, d in zip((thing.x, thing.y), away, strict=True))
    other = Thing(rng.choice(list(GLYPHS)), rng.choice(list(COLOURS)), x, y, thing.side)
    return _layer(rng, other, scale, restyled=True)


def _free_places(rng: Random, things: Sequence[Thing]) -> list[Thing]:
    places: list[Thing] = []
    for _ in range(rng.randint(1, 3)):
        # a square takes all of its side, so that whatever is drawn in its place touches nothing
        free = add_thing(rng, [*things, *places], "square", rng.choice(list(COLOURS)), rng.randint(9, 13))
        places += [free] if free else []
    return places


def _stranger(rng: Random, place: Thing, split: str, scale: int) -> Layer:
    left, top, right, bottom = place.box(scale)
    layer = _drawn(rng.choice(STRANGERS[split]), place, (left, top, right - left, bottom - top), np.zeros(3))
    channels = rng.sample(range(3), 3)  # OpenMoji's own colours would give a stranger away
    return replace(layer, kind="", colour="", rgb=layer.rgb[..., channels])


def _erased(rng: Random, layer: Layer, size: int) -> Layer:
    """The ground shows through on one side of a line, soft or sharp."""
    height, width = layer.alpha.shape
    angle, share = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.95)
    rows_HW, columns_HW = np.mgrid[:height, :width]
    along_HW = np.cos(angle) * columns_HW + np.sin(angle) * rows_HW
    line = np.quantile(along_HW[layer.alpha > 0.5], share)
    kept_HW = 1 / (1 + np.exp((line - along_HW) / (rng.uniform(0.1, 0.8) * pixels_a_unit(size))))
    return replace(layer, alpha=(layer.alpha * kept_HW).astype(np.float32))


def _cut(rng: Random, layer: Layer, size: int) -> Layer:
    """Moved beyond an edge of the picture."""
    height, width = layer.alpha.shape
    share = rng.uniform(0.1, 0.9)
    left, top = rng.choice(
        (
            (-round(share * width), layer.top),
            (size - round((1 - share) * width), layer.top),
            (layer.left, -round(share * height)),
            (layer.left, size - round((1 - share) * height)),
        )
    )
    return replace(layer, left=left, top=top)


def _faint(rng: Random, layer: Layer, size: int) -> Layer:
    opacity = rng.uniform(0.05, 1)
    colour = layer.colour if opacity >= COLOUR_SURE else ""
    return replace(layer, alpha=layer.alpha * np.float32(opacity), colour=colour)


def _scrambled(rng: Random, layer: Layer, size: int) -> Layer:
    """Its quarters change places across the middle: right parts, and no object."""
    if layer.kind in HALF_TURN_ALIKE:
        return layer
    by = tuple(v // 2 for v in layer.alpha.shape)
    rolled = {name: np.roll(getattr(layer, name), by, (0, 1)) for name in ("rgb", "alpha")}
    return replace(layer, kind="", colour="", **rolled)


def _smudged(rng: Random, layer: Layer, size: int) -> Layer:
    """A soft stain of its colour, without a form."""
    height, width = layer.alpha.shape
    radius = max(height, width) * rng.uniform(0.18, 0.3)
    margin = round(2 * radius)
    padded = Image.fromarray((255 * np.pad(layer.alpha, margin)).astype(np.uint8))
    alpha_HW = np.asarray(padded.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 255
    alpha_HW = alpha_HW / max(float(alpha_HW.max()), 1e-6) * rng.uniform(0.6, 1)
    colour = np.average(layer.rgb.reshape(-1, 3), axis=0, weights=layer.alpha.ravel() + 1e-6)
    rgb_HWC = np.broadcast_to(colour.astype(np.float32), (*alpha_HW.shape, 3))
    return Layer(rgb_HWC, alpha_HW.astype(np.float32), layer.left - margin, layer.top - margin, layer.ink, "", "")
