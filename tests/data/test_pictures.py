"""Pictures as users have them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from editkit.data import pictures
from editkit.data.pictures import Picture, PictureError
from tests.tiny import encoded, picture


def test_wrong_exif_orientation_is_put_right(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    picture("red", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    opened = Picture(path=tmp_path / "turned.jpg").open()
    assert opened.size == (20, 40)
    assert sum(opened.getpixel((18, 2))) < 60  # the black corner, turned to the right


def test_transparency_lies_over_white() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert Picture(data=encoded(image)).open().getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([9, 9, 9] * 256)
    stream = io.BytesIO()
    palette.save(stream, "PNG", transparency=0)
    assert Picture(data=stream.getvalue()).open().getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    image = Image.fromarray(np.full((4, 4), 32896, dtype=np.uint16))
    assert Picture(data=encoded(image)).open().getpixel((0, 0)) == (128, 128, 128)


def test_grey_and_cmyk_become_rgb() -> None:
    assert Picture(data=encoded(Image.new("L", (4, 4), 70))).open().getpixel((1, 1)) == (70, 70, 70)
    red, green, blue = Picture(data=encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")).open().getpixel((1, 1))
    assert red > 200
    assert green < 60
    assert blue < 60


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    assert Picture(path=tmp_path / "two.gif").open().getpixel((0, 0))[0] > 200


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is empty"),
        (b"these are notes, no picture", "is not an image"),
        (encoded(picture("red", (64, 64)))[:90], "damaged or cut short"),
        (encoded(picture("red", (64, 64)), "JPEG")[:400], "damaged"),
    ],
)
def test_a_broken_picture_is_refused_with_its_reason(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(data)
    with pytest.raises(PictureError, match=why) as caught:
        Picture(path=path).open()
    assert str(path) in str(caught.value)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="is missing"):
        Picture(path=tmp_path / "none.png").open()
    with pytest.raises(PictureError, match="is a folder"):
        Picture(path=tmp_path).open()


def test_a_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1_000)
    with pytest.raises(PictureError, match="100 x 100 px"):
        Picture(data=encoded(picture("red", (100, 100)))).open()


def test_a_real_bomb_is_refused() -> None:
    image = Image.new("1", (40_000, 40_000))
    with pytest.raises(PictureError, match="million pixels"):
        Picture(data=encoded(image)).open()


def turned_png(tmp_path: Path, after_the_pixels: bool) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 8
    stream = io.BytesIO()
    picture("red", (40, 20)).save(stream, "PNG", exif=exif)
    data = stream.getvalue()
    if after_the_pixels:
        start = data.index(b"eXIf") - 4
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        last = data.index(b"IEND") - 4
        data = data[:start] + data[end:last] + data[start:end] + data[last:]
    return data


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_size_is_that_of_the_opened_picture(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    picture("red", (40, 20)).save(stream, kind, exif=exif)
    found = Picture(data=stream.getvalue())
    assert found.size() == found.open().size == ((20, 40) if orientation > 4 else (40, 20))


@pytest.mark.parametrize("after_the_pixels", [False, True])
def test_a_png_that_says_its_orientation_anywhere_is_upright(tmp_path: Path, after_the_pixels: bool) -> None:
    found = Picture(data=turned_png(tmp_path, after_the_pixels))
    assert found.size() == found.open().size == (20, 40)


def test_the_size_of_a_plain_png_takes_no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Picture(data=encoded(picture("red", (400, 300))))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("pixels were decoded"))
    assert found.size() == (400, 300)
