"""Evaluation sets stay out of training, by what the spec says and by what the examples are."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from editkit.data import keep_out
from editkit.data.examples import EditPair
from editkit.data.keep_out import KeptOut, difference, normalised, refuse_evaluation, thumbnail
from editkit.data.pictures import Picture
from editkit.data.read import open_dataset
from editkit.errors import UserError
from tests.data.shapes import parquet
from tests.tiny import encoded

SIZE = (96, 72)


def photo(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Something like a photograph: soft shapes in many colours."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def pair(image: Image.Image, said: str, kind: str = "PNG", key: str = "k") -> EditPair:
    return EditPair(key, Picture(data=encoded(image, kind)), Picture(data=encoded(image)), (said,))


class Few(list):
    info = {"kind": "edit_pairs"}


KEPT = KeptOut({"bench": Few([pair(photo(n), "Make it snow!", key=f"b{n}") for n in range(20)])})


def jpeg(image: Image.Image) -> Image.Image:
    return Picture(data=encoded(image, "JPEG")).open()


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        jpeg,
        lambda image: image.resize((512, 384), Image.Resampling.LANCZOS),
        lambda image: jpeg(image.resize((64, 64))),
        lambda image: image.convert("RGBA"),
    ],
    ids=["same", "jpeg", "larger", "square jpeg", "rgba"],
)
def test_an_example_is_known_in_another_format_size_and_wording(change) -> None:
    for said in ("Make it snow!", "make it  SNOW", "“Make it snow.”"):
        assert KEPT.find(pair(change(photo(7)), said)) == ("bench", "b7")


def test_the_same_words_on_another_picture_and_other_words_are_no_example() -> None:
    assert all(KEPT.find(pair(photo(n), "make it snow")) is None for n in range(100, 300))
    assert KEPT.find(pair(photo(7), "make it rain")) is None
    assert KEPT.find(pair(photo(7), "!?")) is None


def test_only_pictures_whose_words_are_known_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr(keep_out, "thumbnail", lambda picture: looked.append(picture) or thumbnail(picture))
    refuse_evaluation({"mine": Few([pair(photo(n), f"make {n}") for n in range(50)])}, KEPT)
    assert looked == []


@given(st.text())
def test_words_are_the_same_when_they_are_taken_twice(said: str) -> None:
    assert normalised(normalised(said)) == normalised(said)
    assert normalised(f"  {said}!") == normalised(said)


@given(st.integers(0, 2**32), st.sampled_from([50, 75, 95]))
def test_compression_moves_a_thumbnail_less_than_the_limit(seed: int, quality: int) -> None:
    image = photo(seed)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    moved = difference(thumbnail(Picture(data=encoded(image))), thumbnail(Picture(data=data.getvalue())))
    assert moved < keep_out.NEAR / 2


BENCH = """\
format = 1
name = "bench"
kind = "edit_requests"
role = "evaluation"
[read]
layout = "hf"
path = "bench"
[read.columns]
source = "image"
"""
MINE = """\
format = 1
name = "mine"
kind = "edit_pairs"
[split]
test = 0.0
[read]
layout = "folder"
path = "mine"
"""


@pytest.fixture
def leaking(workplace: Path) -> Path:
    """A benchmark as parquet, and a training folder that holds one of its pictures as a smaller JPEG."""
    rows = [{"image": {"bytes": encoded(photo(n)), "path": None}, "instruction": f"Add a {n}."} for n in range(5)]
    parquet(workplace / "bench/data/train.parquet", rows, ("image",))
    (workplace / "bench.toml").write_text(BENCH)
    (workplace / "mine").mkdir()
    names = []
    for n in range(3, 9):
        photo(n if n < 4 else n + 50).resize((64, 48)).save(workplace / f"mine/{n}.jpg")
        names.append({"source": f"{n}.jpg", "target": f"{n}.jpg", "instruction": ["other words", f"add a {n}"]})
    (workplace / "mine/metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in names))
    (workplace / "mine.toml").write_text(MINE)
    return workplace


def test_one_line_names_the_data_set_and_the_evaluation_set(leaking: Path) -> None:
    index = keep_out.open_kept_out(["bench.toml"])
    with pytest.raises(UserError) as refused:
        refuse_evaluation({"mine.toml": open_dataset("mine.toml")}, index)
    said = str(refused.value)
    assert said.startswith(
        "mine.toml: found 1 of its 6 training examples in the evaluation set bench.toml (000000 is its 000003)"
    )
    assert "\n" not in said


RECIPE = """\
format = 1
name = "leak"
[method]
name = "instruct_edit"
[model]
family = "stable_diffusion"
base = "{base}"
[data]
train = "{train}"
test = "mine.toml"
keep_out = ["bench.toml"]
resolution = 32
[optim]
lr = 1e-3
[train]
steps = 1
batch_size = 1
[evaluate]
steps = 1
"""


@pytest.mark.parametrize(
    ("train", "words"),
    [("mine.toml", "in the evaluation set bench.toml"), ("bench.toml", 'bench: found role = "evaluation"')],
)
def test_a_recipe_with_evaluation_examples_is_refused(leaking: Path, tiny_sd: Path, train: str, words: str, capsys) -> None:
    from editkit.cli import main

    Path("leak.toml").write_text(RECIPE.format(base=tiny_sd, train=train))
    for verb in ("check", "train"):
        with pytest.raises(SystemExit) as left:
            main([verb, "leak.toml"])
        assert left.value.code == 2
        said = capsys.readouterr().err.strip()
        assert words in said
        assert "Traceback" not in said
