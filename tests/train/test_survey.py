"""What a run says about its pictures, against the pictures themselves."""

from __future__ import annotations

import csv
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from editkit.data.buckets import make_buckets
from editkit.data.read import open_dataset
from editkit.methods.instruct_edit import InstructEdit
from editkit.recipe.schema import Data
from editkit.train.survey import CHUNK, Survey, survey
from tests.train.photos import SHAPES, method_of, photo, recipe_of, write_photos


@pytest.fixture
def method(tiny_sd: Path) -> InstructEdit:
    return method_of(tiny_sd, recipe_of())


def look(where: str, method: Any, **data: Any) -> Survey:
    dataset = open_dataset(where)
    return survey(dataset, range(len(dataset)), method, recipe_of(**data).data)


def test_the_table_says_of_every_picture_what_happens_to_it(method: InstructEdit, tmp_path: Path) -> None:
    found = look(write_photos(tmp_path), method)
    found.write(tmp_path / "data.csv")
    rows = list(csv.DictReader((tmp_path / "data.csv").open()))
    assert len(rows) == 2 * len(SHAPES)
    buckets = make_buckets([32], 8, 2.0)
    for number, shapes in enumerate(SHAPES):
        for picture, size in enumerate(shapes):
            row = rows[2 * number + picture]
            assert (row["key"], int(row["picture"])) == (f"{number:02d}", picture)
            assert (int(row["width_px"]), int(row["height_px"])) == size
            bucket = int(row["bucket_width_px"]), int(row["bucket_height_px"])
            assert bucket in buckets
            assert bucket == found.buckets[found.bucket_of[number]], "both pictures go where the result goes"
            scale = max(bucket[0] / size[0], bucket[1] / size[1])
            seen = (bucket[0] / scale) * (bucket[1] / scale) / (size[0] * size[1])
            assert float(row["scale"]) == pytest.approx(scale, abs=6e-5)
            assert float(row["cropped"]) == pytest.approx(1 - seen, abs=6e-5)
    assert (found.buckets[found.bucket_of[1]], found.buckets[found.bucket_of[2]]) == ((24, 40), (40, 24))
    assert float(rows[2 * 8]["cropped"]) > 0.7, "a source that is cut to its target's shape is said too"


def test_the_lines_count_what_the_table_lists(method: InstructEdit, tmp_path: Path) -> None:
    found = look(write_photos(tmp_path), method)
    sizes, losses = found.lines()
    counts = [int(n) for n in re.findall(r"\d+ x \d+: (\d+)", sizes)]
    assert sum(counts) == len(SHAPES)
    assert len(counts) == len(set(found.bucket_of)), "sizes without examples are not listed"
    assert f"32 x 32: {sum(found.buckets[b] == (32, 32) for b in found.bucket_of)}" in sizes
    cut, of, enlarged = (int(n) for n in re.match(r"(\d+) of (\d+) .* (\d+) are made larger", losses).groups())
    assert of == 2 * len(SHAPES)
    assert cut == sum(f.cropped > 0.001 for f in found.fits)
    assert enlarged == sum(f.scale > 1 for f in found.fits) > 0
    assert f"at most {max(f.cropped for f in found.fits):.1%}" in losses


def test_hashes_are_of_the_bytes_in_the_order_of_the_pictures(method: InstructEdit, tmp_path: Path) -> None:
    found = look(write_photos(tmp_path), method)
    for number, content in enumerate(found.content):
        files = [tmp_path / side / f"{number:02d}.png" for side in ("before", "after")]
        assert content == tuple(hashlib.sha256(f.read_bytes()).digest() for f in files)


def test_without_buckets_all_go_into_the_square(method: InstructEdit, tmp_path: Path) -> None:
    found = look(write_photos(tmp_path), method, buckets=None)
    assert found.buckets == [(32, 32)]
    assert set(found.bucket_of) == {0}
    assert len(found.lines()) == 2, "and what that costs is said"


def test_nothing_is_said_where_nothing_is_lost(method: InstructEdit, tmp_path: Path) -> None:
    where = write_photos(tmp_path)
    for path in [*tmp_path.glob("*/*.png")]:
        photo(0, (32, 32)).save(path)
    assert look(where, method).lines() == [f"sizes (px: examples): 32 x 32: {len(SHAPES)}"]


def test_a_photo_that_a_phone_has_turned_goes_where_it_is_shown(method: InstructEdit, tmp_path: Path) -> None:
    where = write_photos(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    photo(3, (80, 48)).save(tmp_path / "after" / "00.png", exif=exif)
    found = look(where, method)
    assert found.fits[1].size == (48, 80)
    assert found.buckets[found.bucket_of[0]] == (24, 40)


def test_only_usable_examples_count_and_their_numbers_stay(method: InstructEdit, tmp_path: Path) -> None:
    dataset = open_dataset(write_photos(tmp_path))
    whole = survey(dataset, range(len(dataset)), method, recipe_of().data)
    found = survey(dataset, [9, 2, 4], method, recipe_of().data)
    assert found.usable == [9, 2, 4]
    assert found.content == tuple(whole.content[i] for i in (9, 2, 4))
    assert [f.key for f in found.fits] == ["09", "09", "02", "02", "04", "04"]


def test_many_examples_stay_in_their_order(method: InstructEdit, tmp_path: Path) -> None:
    dataset = open_dataset(write_photos(tmp_path))
    order = [(7 * i) % len(dataset) for i in range(20 * CHUNK + 5)]
    found = survey(dataset, order, method, Data(train="", resolution=32))
    assert [int(f.key) for f in found.fits[::2]] == order
