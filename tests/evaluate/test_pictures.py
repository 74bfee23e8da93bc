"""Sheets, rows and grids: every picture is where it should be, and every word is there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from editkit.evaluate.pictures import contact_sheet, enlarge, guidance_grid, mark_boxes, triptych, wrap

Colour = tuple[int, int, int]
FONT = ImageFont.load_default(13)


def plain(colour: Colour, size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.new("RGB", size, colour)


def colours(count: int) -> list[Colour]:
    """Colours that neither paper nor ink has."""
    return [(250, 10 + 3 * i, 0) for i in range(count)]


def boxes(sheet: Image.Image, wanted: list[Colour]) -> list[tuple[int, int, int, int]]:
    """(left, top, width, height) of every colour; fails where a picture is missing, cut or covered."""
    pixels_HWC = np.asarray(sheet)
    found = []
    for colour in wanted:
        rows, columns = np.nonzero((pixels_HWC == colour).all(2))
        assert rows.size, f"{colour} is not in the sheet"
        left, top = int(columns.min()), int(rows.min())
        width, height = int(columns.max()) - left + 1, int(rows.max()) - top + 1
        assert rows.size == width * height, f"{colour} is covered by something"
        found.append((left, top, width, height))
    return found


def has_ink(sheet: Image.Image, box: tuple[int, int, int, int]) -> bool:
    return int(np.asarray(sheet.convert("L").crop(box)).min()) < 140


def test_pictures_are_enlarged_pixel_by_pixel() -> None:
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    large = np.asarray(enlarge(image, 3))
    assert (large == np.asarray(image).repeat(3, 0).repeat(3, 1)).all()


def test_a_sheet_holds_every_picture_in_order_with_its_caption() -> None:
    shown = colours(5)
    sheet = contact_sheet([plain(c) for c in shown], ["one", "two", "three", "", "five"], columns=2, scale=4)
    places = boxes(sheet, shown)
    assert {p[2:] for p in places} == {(64, 64)}
    assert [p[0] for p in places] == [places[0][0], places[1][0]] * 2 + [places[0][0]]
    assert places == sorted(places, key=lambda p: (p[1], p[0]))
    below = [has_ink(sheet, (x, y + h, x + w, y + h + 14)) for x, y, w, h in places]
    assert below == [True, True, True, False, True]


@pytest.mark.parametrize(("images", "captions"), [([], []), ([plain((0, 0, 0))], [])])
def test_a_sheet_without_pictures_or_captions_is_refused(images: list[Image.Image], captions: list[str]) -> None:
    with pytest.raises(ValueError, match="pictures and"):
        contact_sheet(images, captions, columns=2)


def test_a_long_caption_makes_its_row_higher_and_covers_nothing() -> None:
    shown = colours(4)
    captions = ["make the hair a lot redder and longer " * 3, "b", "c", "d"]
    places = boxes(contact_sheet([plain(c) for c in shown], captions, columns=2, scale=4), shown)
    assert places[2][1] - (places[0][1] + 64) > 8 * 14


def test_rows_are_source_edit_target_under_their_names() -> None:
    shown = colours(12)
    rows = [(*(plain(c) for c in shown[3 * i : 3 * i + 3]), f"make it {i}") for i in range(4)]
    sheet = triptych(rows, scale=8)
    places = boxes(sheet, shown)
    tops = [p[1] for p in places]
    assert tops[:9] == [tops[0]] * 9
    assert tops[9:] == [tops[9]] * 3
    assert tops[9] > tops[0]
    assert places == sorted(places, key=lambda p: (p[1], p[0]))
    for x, y, w, _ in places[:9]:
        assert has_ink(sheet, (x, 0, x + w, y))
        assert not has_ink(sheet, (x + w - 8, 0, x + w, y))
    assert has_ink(sheet, (places[0][0], places[0][1] + 128, places[0][0] + 128, places[0][1] + 145))
    with pytest.raises(ValueError, match="no rows"):
        triptych([])


def test_text_grows_with_the_sheet() -> None:
    def caption_height(size: int) -> int:
        sheet = contact_sheet([plain((250, 0, 0), (size, size))] * 8, ["Hg"] * 8, columns=8)
        inked_H = (np.asarray(sheet.convert("L")) < 60).any(1)  # darker than the red
        return int(np.ptp(np.nonzero(inked_H)[0]))

    assert caption_height(512) > 2.5 * caption_height(128) > 20


def test_the_grid_has_text_to_the_right_and_image_downwards() -> None:
    shown = colours(13)
    cells = [[plain(c) for c in shown[4 * i : 4 * i + 4]] for i in range(3)]
    sheet = guidance_grid(cells, [1.5, 3, 5, 7.5], [1, 1.5, 2], plain(shown[12]), "make it red", scale=8)
    *places, source = boxes(sheet, shown)
    assert {p[2:] for p in [*places, source]} == {(128, 128)}
    for row in range(3):
        assert len({p[1] for p in places[4 * row : 4 * row + 4]}) == 1
    for column in range(4):
        assert len({p[0] for p in places[column::4]}) == 1
    assert places[0][0] < places[1][0]
    assert places[0][1] < places[4][1]
    assert source[0] + 128 < places[0][0]
    for x, y, w, _ in places[:4]:  # a scale above every column, and one beside every row
        assert has_ink(sheet, (x, 0, x + w, y))
    for x, y, _, h in places[::4]:
        assert has_ink(sheet, (source[0] + 130, y, x, y + h))
    assert has_ink(sheet, (source[0], source[1] + 128, source[0] + 128, source[1] + 146))


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (3, 2), (0, 3)])
def test_a_grid_of_another_shape_than_its_scales_is_refused(rows: int, columns: int) -> None:
    cells = [[plain((1, 2, 3))] * columns] * rows
    with pytest.raises(ValueError, match="rows of"):
        guidance_grid(cells, [1, 2, 3], [1, 2, 3], plain((0, 0, 0)), "x")


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cs",))), st.integers(20, 200))
def test_wrapping_loses_no_letter_and_stays_inside(text: str, width: int) -> None:
    lines = wrap(text, width, FONT)
    assert "".join("".join(lines).split()) == "".join(text.split())
    for line in lines:
        assert len(line) == 1 or FONT.getlength(line) <= width


def test_wrapping_breaks_between_words() -> None:
    text = "make the hair red and the background mint"
    lines = wrap(text, 80, FONT)
    assert " ".join(lines) == text
    assert len(lines) > 2
    assert wrap("", 80, FONT) == []


def test_frames_stand_around_what_they_name() -> None:
    marked = np.asarray(mark_boxes(plain((90, 90, 90)), [(4, 8, 12, 14)], ["bell"], 10, "#ff00ff"))
    rows, columns = np.nonzero((marked == (255, 0, 255)).all(2))
    assert (columns.min(), columns.max(), rows.max()) == (40, 119, 139)
    assert rows.min() <= 80
    assert (marked[75:80, 42:60] != 90).any()  # the word above it
    assert (marked[90:130, 50:110] == 90).all()


def test_a_frame_at_the_edge_keeps_its_word() -> None:
    marked = np.asarray(mark_boxes(plain((90, 90, 90)), [(14, 0, 16, 2)], ["a long name"], 10))
    assert (marked[:, :60] == 90).all()
    assert (marked[:16, 70:] != 90).any()
