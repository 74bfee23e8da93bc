"""Pictures to look at: contact sheets, frames around objects, rows of source, edit and target; enlarged pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from PIL import Image, ImageChops, ImageDraw, ImageFont

_INK, _SOFT, _PAPER = "#1f2430", "#5f6878", "#f5f4f1"
_MARK = "#d5006d"  # of frames: none of the colours that pictures of the lab have
_SMALLEST_TEXT = 13  # px
_SHOWN_WIDTH = 1100  # px that a wide sheet is likely to be shown at; its text grows so that it can be read there
_GAP = 3  # px between pictures that belong together
_GROUPS = 3  # examples beside each other in a triptych
_PAIRS = 4  # pairs beside each other in a sheet of them
_ROLES = ("source", "edit", "target")

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def enlarge(image: Image.Image, scale: int) -> Image.Image:
    """The picture `scale` times as large, every pixel a square."""
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def difference(source: Image.Image, target: Image.Image, factor: int) -> Image.Image:
    """Where two pictures differ, `factor` times as bright; the second is scaled to the first."""
    scaled = target if source.size == target.size else target.resize(source.size)
    return ImageChops.difference(source, scaled).point(lambda level: min(255, level * factor))


def wrap(text: str, width: int, font: Font) -> list[str]:
    """Breaks a text into lines of at most `width` px, between words, and within a word only where it is longer than a line."""
    lines: list[str] = []
    for word in text.split():
        pieces = _pieces(word, width, font)
        longer = f"{lines[-1]} {pieces[0]}" if lines else pieces[0]
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
            pieces = pieces[1:]
        lines += pieces
    return lines


def contact_sheet(images: Sequence[Image.Image], captions: Sequence[str], columns: int, scale: int = 1) -> Image.Image:
    """Pictures in rows, each with its caption below.

    Args:
        images: at least one; cells take the size of the largest.
        captions: one a picture, wrapped to the cell's width.
        columns: cells a row.
        scale: whole-number enlargement.

    Raises:
        ValueError: no pictures, or not one caption for each.
    """
    if not images or len(images) != len(captions):
        raise ValueError(f"{len(images)} pictures and {len(captions)} captions")
    large = [enlarge(image, scale) for image in images]
    columns = min(columns, len(images))
    cell = max(i.width for i in large)
    font = _font(columns * cell)
    cells = [_labelled(image, caption, cell, font) for image, caption in zip(large, captions, strict=True)]
    return _beneath([_beside(cells[i : i + columns], _margin(font)) for i in range(0, len(cells), columns)], font)


def triptych(
    rows: Sequence[tuple[Image.Image, Image.Image, Image.Image, str]], *, scale: int = 2, columns: int = _GROUPS
) -> Image.Image:
    """Source, edit and target of some examples, `columns` examples beside each other, each with its instruction below.

    Args:
        rows: (source, edit, target, instruction), at least one; the pictures of a row have one size.
        scale: whole-number enlargement.
        columns: examples a line.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("no rows to show")
    panels = [[enlarge(image, scale) for image in row[:3]] for row in rows]
    columns = min(columns, len(rows))
    width = max(sum(p.width for p in trio) + 2 * _GAP for trio in panels)
    font = _font(columns * width)
    groups = [_labelled(_beside(trio, _GAP), row[3], width, font) for trio, row in zip(panels, rows, strict=True)]
    heading = _beside([_heading([p.width + _GAP for p in panels[0]], width, font)] * columns, 2 * _margin(font))
    lines = [_beside(groups[i : i + columns], 2 * _margin(font)) for i in range(0, len(groups), columns)]
    return _beneath([heading, *lines], font)


def pair_sheet(rows: Sequence[tuple[Image.Image, Image.Image, str]], *, columns: int = _PAIRS) -> Image.Image:
    """Source and target of some pairs beside each other, each pair with a text below.

    Args:
        rows: (source, target, text), at least one.
        columns: pairs a line.
    """
    wide = max(source.width + target.width for source, target, _ in rows)
    pairs = [_beside([source, target], _GAP) for source, target, _ in rows]
    return contact_sheet(pairs, [text for *_, text in rows], columns, max(1, round(_SHOWN_WIDTH / columns / wide)))


def mark_boxes(
    image: Image.Image, boxes: Sequence[Sequence[float]], labels: Sequence[str], scale: int, colour: str = _MARK
) -> Image.Image:
    """The picture enlarged, with frames and what is said of each.

    Args:
        image: RGB.
        boxes: left, top, right, bottom in px of `image`.
        labels: one a box, written along its upper edge.
        scale: whole-number enlargement; the frames are one px wide behind it.
        colour: of the frames.
    """
    marked = enlarge(image, scale)
    draw, font = ImageDraw.Draw(marked), ImageFont.load_default(_SMALLEST_TEXT - 3)
    for box, label in zip(boxes, labels, strict=True):
        left, top, right, bottom = (v * scale for v in box)
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour)
        place = (min(left + 2, max(0, marked.width - font.getlength(label) - 2)), max(0, top - _line(font)))
        draw.rectangle(draw.textbbox(place, label, font=font), fill=_PAPER)
        draw.text(place, label, fill=_INK, font=font)
    return marked


def guidance_grid(
    images: Sequence[Sequence[Image.Image]],
    text_scales: Sequence[float],
    image_scales: Sequence[float],
    source: Image.Image,
    instruction: str,
    *,
    scale: int = 2,
) -> Image.Image:
    """Edits of one source: text guidance to the right, image guidance downwards, the source and what was asked in front.

    Args:
        images: `images[row][column]` drawn with `image_scales[row]` and `text_scales[column]`, all of one size.
        text_scales: one a column.
        image_scales: one a row.
        source: the picture that was edited.
        instruction: what was asked.
        scale: whole-number enlargement.

    Raises:
        ValueError: the pictures are not as many as the scales.
    """
    if not images or len(images) != len(image_scales) or {len(row) for row in images} != {len(text_scales)}:
        raise ValueError(f"{[len(row) for row in images]} pictures for {len(image_scales)} rows of {len(text_scales)}")
    cells = [[enlarge(image, scale) for image in row] for row in images]
    shown = enlarge(source, scale)
    cell_w, cell_h = cells[0][0].size
    font = _font((len(text_scales) + 1) * max(cell_w, shown.width))
    margin, line = _margin(font), _line(font)
    side = _labelled(shown, instruction, shown.width, font)
    labels = [f"image {value:g}" for value in image_scales]
    left = side.width + 4 * margin + max(round(font.getlength(label)) for label in labels)
    top = margin + line
    height = max(top + len(cells) * (cell_h + _GAP), top + side.height)
    sheet = Image.new("RGB", (left + len(text_scales) * (cell_w + _GAP) + margin, height + margin), _PAPER)
    sheet.paste(side, (margin, top))
    draw = ImageDraw.Draw(sheet)
    write = partial(draw.text, fill=_SOFT, font=font)
    for column, value in enumerate(text_scales):
        write((left + column * (cell_w + _GAP) + cell_w // 2, top - margin // 2), f"text {value:g}", anchor="ms")
    for row, (label, pictures) in enumerate(zip(labels, cells, strict=True)):
        down = top + row * (cell_h + _GAP)
        write((left - margin, down + cell_h // 2), label, anchor="rm")
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (left + column * (cell_w + _GAP), down))
    return sheet


def _font(width: int) -> Font:
    """A font for a sheet with pictures `width` px wide."""
    return ImageFont.load_default(max(_SMALLEST_TEXT, round(_SMALLEST_TEXT * width / _SHOWN_WIDTH)))


def _line(font: Font) -> int:
    _, top, _, bottom = font.getbbox("Äg")
    return round(1.35 * (bottom - top))


def _margin(font: Font) -> int:
    return _line(font) // 2


def _pieces(word: str, width: int, font: Font) -> list[str]:
    """A word cut so that each piece fits; the word itself where it does."""
    pieces = [""]
    for letter in word:
        if pieces[-1] and font.getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def _labelled(image: Image.Image, caption: str, width: int, font: Font) -> Image.Image:
    """The picture with its caption below."""
    lines, line = wrap(caption, width, font), _line(font)
    cell = Image.new("RGB", (width, image.height + (len(lines) * line + line // 3 if lines else 0)), _PAPER)
    cell.paste(image, (0, 0))
    draw = ImageDraw.Draw(cell)
    for k, text in enumerate(lines):
        draw.text((0, image.height + line // 4 + k * line), text, fill=_INK, font=font)
    return cell


def _heading(widths: Sequence[int], width: int, font: Font) -> Image.Image:
    """The words source, edit and target above their pictures."""
    cell = Image.new("RGB", (width, _line(font)), _PAPER)
    left = 0
    for role, step in zip(_ROLES, widths, strict=True):
        ImageDraw.Draw(cell).text((left, 0), role, fill=_SOFT, font=font)
        left += step
    return cell


def _beside(cells: Sequence[Image.Image], gap: int) -> Image.Image:
    row = Image.new("RGB", (sum(c.width + gap for c in cells) - gap, max(c.height for c in cells)), _PAPER)
    left = 0
    for cell in cells:
        row.paste(cell, (left, 0))
        left += cell.width + gap
    return row


def _beneath(rows: Sequence[Image.Image], font: Font) -> Image.Image:
    """Rows below each other with a margin around."""
    margin = _margin(font)
    size = (max(r.width for r in rows) + 2 * margin, sum(r.height + margin for r in rows) + margin)
    sheet = Image.new("RGB", size, _PAPER)
    top = margin
    for row in rows:
        sheet.paste(row, (margin, top))
        top += row.height + margin
    return sheet
