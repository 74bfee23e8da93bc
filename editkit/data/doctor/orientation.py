"""Pictures that lie on their side: an EXIF orientation that is wrong, or one that was lost."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from editkit.data.doctor.geometry import channels, small
from editkit.data.pictures import PNG_ORIENTATION, Picture

Map = npt.NDArray[np.float32]

# Operation of Pillow -> in words; what turns the one picture as its partner is.
TURNS: dict[str, str] = {
    "ROTATE_90": "turned by 90 degrees clockwise",
    "ROTATE_180": "upside down",
    "ROTATE_270": "turned by 90 degrees anticlockwise",
    "FLIP_LEFT_RIGHT": "mirrored",
    "FLIP_TOP_BOTTOM": "mirrored upside down",
    "TRANSPOSE": "turned by 90 degrees and mirrored",
    "TRANSVERSE": "turned by 90 degrees and mirrored",
}
_ARRAYS = {
    "ROTATE_90": lambda a: np.rot90(a),
    "ROTATE_180": lambda a: np.rot90(a, 2),
    "ROTATE_270": lambda a: np.rot90(a, 3),
    "FLIP_LEFT_RIGHT": lambda a: a[:, ::-1],
    "FLIP_TOP_BOTTOM": lambda a: a[::-1],
    "TRANSPOSE": lambda a: np.swapaxes(a, 0, 1),
    "TRANSVERSE": lambda a: np.swapaxes(np.rot90(a, 2), 0, 1),
}
SIDE, CELLS = 64, 16  # px to which pictures are brought, and cells in which their layouts are compared
CLEARER = 0.1  # by which the correlation of the layouts must be better when turned
AGREEING = 0.3  # and what it must be then
SUSPECTED = 0.05  # the first, for a turn that EXIF gives a reason to look for
UNLIKELY = 0.05  # by which a mirrored turn must be better than a plain one
# An edit that asks for it is no fault; nor is one that asks to move the whole picture.
_ASKED = re.compile(
    r"\b(?:rotat\w*|turn(?:ed)? (?:it|the (?:image|picture|photo))|flip\w*|mirror\w*|upside|orient\w*|revers\w*)\b", re.I
)


@dataclass(frozen=True, slots=True)
class Stored:
    """How a picture is stored, beside its pixels.

    Attributes:
        orientation: the EXIF orientation, 1 = none.
        profile: the ICC profile, b"" = none.
        mode: Pillow's name of the pixels' layout, "RGB", "CMYK" ...
    """

    orientation: int
    profile: bytes
    mode: str


def how_stored(picture: Picture) -> Stored:
    """Reads the header; the picture must be one that `open` can read."""
    data = picture.read_bytes()
    image = Image.open(io.BytesIO(data))
    orientation = 1
    # Pillow decodes a whole PNG to look for EXIF behind the pixels; most have none at all.
    if image.format != "PNG" or any(mark in data for mark in PNG_ORIENTATION):
        orientation = int(image.getexif().get(ExifTags.Base.Orientation) or 1)
    return Stored(orientation if 1 <= orientation <= 8 else 1, image.info.get("icc_profile") or b"", image.mode)


def layout(image: Image.Image) -> Map:
    """Where a picture has edges, whatever their contrast, and where which colours: (4, CELLS, CELLS).

    The edges on the one hand and the colours on the other have mean 0 and together length 1, so that products are correlations:
    an edit of colours leaves the first, one of shapes the second.
    """
    pixels = small(image, (SIDE, SIDE))
    step = SIDE // CELLS
    cells = np.concatenate([channels(pixels)[1:], pixels]).reshape(4, CELLS, step, CELLS, step).mean((2, 4))
    cells -= cells.mean((1, 2), keepdims=True)
    for part in (cells[:1], cells[1:]):
        part /= max(float(np.linalg.norm(part)), 1e-6) * np.sqrt(2)
    return cells


def find_turn(source: Image.Image, target: Image.Image, *, quarter: bool = False, suspected: str = "") -> str:
    """The operation that turns the target as the source is; "" where it is so already, or where nothing can be said.

    Args:
        source, target: in RGB, as they are shown.
        quarter: look for quarter turns only, because the one is as wide as the other is high.
        suspected: an operation that EXIF gives a reason to look for; less evidence is enough for it.
    """
    first, second = layout(source), layout(target)
    now = AGREEING - CLEARER if quarter else float((first * second).sum())
    if now >= 1 - SUSPECTED:
        return ""
    names = [n for n in TURNS if not quarter or n not in ("ROTATE_180", "FLIP_LEFT_RIGHT", "FLIP_TOP_BOTTOM")]
    shares = {name: float((first * np.stack([_ARRAYS[name](part) for part in second])).sum()) for name in names}
    # Of a symmetrical picture a mirrored turn looks the same: the plain one is likelier.
    best = max(names, key=lambda name: shares[name] - (0.0 if name.startswith("ROTATE") else UNLIKELY))
    if suspected in shares and shares[suspected] >= max(shares[best] - UNLIKELY, now + SUSPECTED):
        return suspected
    return best if shares[best] >= max(AGREEING, now + CLEARER) else ""


def is_asked_for(texts: tuple[str, ...]) -> bool:
    """Whether an instruction asks for a turn."""
    return any(_ASKED.search(t) for t in texts)


def undoing(orientation: int) -> str:
    """The operation that gives an upright picture back as its pixels lay before EXIF was applied; "" for none."""
    return _UNDOING.get(orientation, "")


_UNDOING = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE",
            8: "ROTATE_270"}  # fmt: skip
INVERSE = {"ROTATE_90": "ROTATE_270", "ROTATE_270": "ROTATE_90"}  # of an operation that is not its own


def turn(image: Image.Image, operation: str) -> Image.Image:
    """The picture after an operation of `TURNS`."""
    return image.transpose(Image.Transpose[operation])
