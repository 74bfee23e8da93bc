"""Pictures that were made in steps, a strip each: every step with what it was to do, what it should show, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from editkit.evaluate.pictures import Font, enlarge, wrap

_INK, _SOFT, _PAPER, _CARD = "#1f2430", "#5f6878", "#f5f4f1", "#ffffff"
_GOOD, _BAD = "#1d7a3e", "#b3261e"
_SIDE, _GAP, _PAD, _TEXT = 192, 12, 8, 13  # px
_CELL = _SIDE + 2 * _PAD + _GAP


@dataclass(frozen=True, slots=True)
class Frame:
    """One step.

    Attributes:
        picture: None = nothing was drawn.
        instruction, description: what the step was to do, and what there should be then.
        verdict: what was said of it; "" = nothing.
        good: whether the verdict is that it is right.
        note: what else is to be known of it.
    """

    picture: Image.Image | None
    instruction: str
    description: str
    verdict: str = ""
    good: bool = True
    note: str = ""


def filmstrips(strips: Sequence[tuple[str, Sequence[Frame]]]) -> Image.Image:
    """Strips below each other, each under its title.

    Args:
        strips: (title, frames), at least one of each.

    Raises:
        ValueError: there are none.
    """
    if not strips or not all(frames for _, frames in strips):
        raise ValueError(f"found {len(strips)} strips, {sum(not frames for _, frames in strips)} of them without frames")
    font = ImageFont.load_default(_TEXT)
    most = max(len(frames) for _, frames in strips)
    shelves: list[list[Image.Image]] = [[]]
    free = most
    for title, frames in strips:
        if len(frames) > free:
            shelves.append([])
            free = most
        shelves[-1].append(_strip(title, frames, font))
        free -= len(frames)
    heights = [max(strip.height for strip in shelf) for shelf in shelves]
    sheet = Image.new("RGB", (most * _CELL + _GAP, sum(heights) + _GAP), _PAPER)
    top = 0
    for shelf, height in zip(shelves, heights, strict=True):
        left = 0
        for strip in shelf:
            sheet.paste(strip, (left, top))
            left += strip.width
        top += height
    return sheet


def _strip(title: str, frames: Sequence[Frame], font: Font) -> Image.Image:
    heading = wrap(title, len(frames) * _CELL - _GAP, font)
    cells = [_cell(frame, font) for frame in frames]
    top = 2 * _GAP + len(heading) * _line(font)
    strip = Image.new("RGB", (len(frames) * _CELL, top + max(cell.height for cell in cells)), _PAPER)
    for k, text in enumerate(heading):
        ImageDraw.Draw(strip).text((_GAP, 1.5 * _GAP + k * _line(font)), text, fill=_INK, font=font)
    for k, cell in enumerate(cells):
        strip.paste(cell, (_GAP + k * _CELL, top))
    return strip


def _cell(frame: Frame, font: Font) -> Image.Image:
    said = [(frame.instruction, _INK), (frame.description, _SOFT), (frame.verdict, _GOOD if frame.good else _BAD)]
    lines = [(line, ink) for text, ink in [*said, (frame.note, _SOFT)] for line in wrap(text, _SIDE, font)]
    cell = Image.new("RGB", (_SIDE + 2 * _PAD, _SIDE + 3 * _PAD + len(lines) * _line(font)), _CARD)
    draw = ImageDraw.Draw(cell)
    if frame.picture is None:
        draw.rectangle((_PAD, _PAD, _PAD + _SIDE, _PAD + _SIDE), outline=_SOFT)
        draw.text((2 * _PAD, _PAD + _SIDE // 2), "not drawn", fill=_SOFT, font=font)
    else:
        large = enlarge(frame.picture, max(1, _SIDE // max(frame.picture.size)))
        large.thumbnail((_SIDE, _SIDE))
        cell.paste(large, (_PAD, _PAD))
    for k, (line, ink) in enumerate(lines):
        draw.text((_PAD, 2 * _PAD + _SIDE + k * _line(font)), line, fill=ink, font=font)
    return cell


def _line(font: Font) -> int:
    _, top, _, bottom = font.getbbox("Äg")
    return round(1.35 * (bottom - top))
