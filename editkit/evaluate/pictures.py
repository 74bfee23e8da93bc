"""Pictures to look at: contact sheets, before/edit/after rows, guidance grids. Small pictures are enlarged pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_MARGIN = 6
_FONT_SIZE = 12
_INK = "#1f2430"
_PAPER = "#ffffff"


def enlarge(image: Image.Image, scale: int) -> Image.Image:
    """The picture `scale` times as large, every pixel a square."""
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def wrap(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Breaks a text into lines of at most `width` px; a word that is longer stands alone."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def contact_sheet(images: Sequence[Image.Image], captions: Sequence[str], columns: int, scale: int = 1) -> Image.Image:
    """Pictures in rows, each with its caption below.

    Args:
        images: at least one; cells take the size of the largest.
        captions: one a picture, wrapped to the cell's width.
        columns: cells a row.
        scale: whole-number enlargement.
    """
    font = ImageFont.load_default(_FONT_SIZE)
    cell_w = max(i.width for i in images) * scale
    cell_h = max(i.height for i in images) * scale
    texts = [wrap(c, cell_w, font) for c in captions]
    line_h = _FONT_SIZE + 3
    columns = min(columns, len(images))
    rows = [range(start, min(start + columns, len(images))) for start in range(0, len(images), columns)]
    heights = [cell_h + line_h * max(len(texts[i]) for i in row) + 2 * _MARGIN for row in rows]
    sheet = Image.new("RGB", (columns * (cell_w + _MARGIN) + _MARGIN, sum(heights) + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            left = _MARGIN + column * (cell_w + _MARGIN)
            sheet.paste(enlarge(images[i], scale), (left, top))
            for k, line in enumerate(texts[i]):
                draw.text((left, top + cell_h + 2 + k * line_h), line, fill=_INK, font=font)
        top += height
    return sheet


def triptych(rows: Sequence[tuple[Image.Image, Image.Image, Image.Image, str]], scale: int = 2) -> Image.Image:
    """Rows of source, edit and target, two examples beside each other, each with its instruction."""
    font = ImageFont.load_default(_FONT_SIZE)
    groups = []
    for source, edit, target, caption in rows:
        panels = [enlarge(image, scale) for image in (source, edit, target)]
        width = sum(p.width for p in panels) + 2 * 2
        lines = wrap(caption, width, font)
        group = Image.new("RGB", (width, panels[0].height + (_FONT_SIZE + 3) * max(2, len(lines)) + 2), _PAPER)
        left = 0
        for panel in panels:
            group.paste(panel, (left, 0))
            left += panel.width + 2
        draw = ImageDraw.Draw(group)
        for k, line in enumerate(lines):
            draw.text((0, panels[0].height + 2 + k * (_FONT_SIZE + 3)), line, fill=_INK, font=font)
        groups.append(group)
    return contact_sheet(groups, [""] * len(groups), columns=3)


def guidance_grid(
    images: Sequence[Sequence[Image.Image]],
    text_scales: Sequence[float],
    image_scales: Sequence[float],
    source: Image.Image,
    instruction: str,
    scale: int = 2,
) -> Image.Image:
    """Edits of one source, a row for every image guidance and a column for every text guidance, the source in front."""
    cells = [source, *[Image.new("RGB", source.size, _PAPER)] * (len(image_scales) - 1)]
    flat, captions = [], []
    for row, image_scale in enumerate(image_scales):
        flat.append(cells[row])
        captions.append(instruction if row == 0 else "")
        for column, text_scale in enumerate(text_scales):
            flat.append(images[row][column])
            captions.append(f"text {text_scale:g}, image {image_scale:g}")
    return contact_sheet(flat, captions, columns=len(text_scales) + 1, scale=scale)
