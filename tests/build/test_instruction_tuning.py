"""Edit pairs from tasks of image processing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from editkit.build.pipeline import build_spec
from editkit.build.tuning_tasks import HELD_OUT_PAIRS, JOINED, JOINED_HELD_OUT, RESTORATIONS, TASKS, pairs_of
from editkit.data.read import open_dataset
from editkit.errors import UserError

PHOTOS = """\
format = 1
name = "photos"
kind = "captioned_images"
licence = "CC0 1.0"
[read]
layout = "images"
path = "photos"
text_from = "name"
[split]
test = 0.5
"""
SPEC = """\
format = 1
name = "{name}"
kind = "{kind}"
[build]
builder = "instruction_tuning"
pictures = "photos.toml"
train = {train}
test = {test}
size = 32
{more}
"""


@pytest.fixture(autouse=True)
def photos(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", str(workplace / "cache"))
    Path("photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        coarse = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8))
        coarse.resize((96, 72), Image.Resampling.BICUBIC).save(f"photos/picture_{number}.png")
    Path("photos.toml").write_text(PHOTOS, encoding="utf-8")


def built(*, kind: str = "edit_pairs", train: int = 40, test: int = 0, more: str = "", name: str = "tuned") -> Path:
    path = Path(f"{name}.toml")
    path.write_text(SPEC.format(name=name, kind=kind, train=train, test=test, more=more), encoding="utf-8")
    return build_spec(path, None)


def rows(folder: Path, split: str = "train") -> list[dict]:
    return [row for path in sorted((folder / "data").glob(f"{split}-*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_the_target_is_the_crop_that_the_provenance_names_and_the_source_is_spoiled() -> None:
    folder = built(more="combined = 0.0")
    originals = {split: {e.key: e for e in open_dataset("photos.toml", split)} for split in ("train", "test")}
    for pair, row in zip(open_dataset(str(folder)), rows(folder), strict=True):
        came = json.loads(row["provenance"])
        x, y, side = came["crop"]
        assert side == 32
        assert came["scale"] == 1.0
        photo = originals["train"][came["parent"]].image.open()
        assert pair.target.open().tobytes() == photo.crop((x, y, x + side, y + side)).tobytes()
        assert pair.source.open().tobytes() != pair.target.open().tobytes()
        assert came["done"][0]["task"] == pair.category
        assert pair.instructions
        assert set(pair.instructions) <= set(TASKS[pair.category].said("train"))
        assert pair.licence == "CC0 1.0"
        assert came["libraries"]["kornia"]


def test_words_and_combinations_are_held_out() -> None:
    folder = built(train=120, test=120, more="combined = 1.0\nseed = 3")
    test = [*open_dataset(str(folder), "test")]
    done = {s: [[d["task"] for d in json.loads(r["provenance"])["done"]] for r in rows(folder, s)] for s in ("train", "test")}
    assert not {tuple(d) for d in done["train"]} & set(HELD_OUT_PAIRS)
    assert {p.category for p in test} == {"combined", "combined, unseen"}
    for pair, tasks in zip(test, done["test"], strict=True):
        assert (pair.category == "combined, unseen") == (tuple(tasks) in HELD_OUT_PAIRS)
    said = {text for pair in open_dataset(str(folder)) for text in pair.instructions}
    held_out = {text for task in TASKS.values() for text in task.said("test")}
    assert not [text for text in said if any(text.startswith(f"{h} and ") or text.endswith(f" and {h}") for h in held_out)]


def test_looks_are_drawn_wide_and_scaled_down() -> None:
    folder = built(train=9, more='tasks = ["cartoonise", "sketch", "stylise"]')
    for pair, row in zip(open_dataset(str(folder)), rows(folder), strict=True):
        came = json.loads(row["provenance"])
        assert came["crop"][2] == 72  # as much of the picture as there is
        assert pair.source.open().size == pair.target.open().size == (32, 32)
        if pair.category == "stylise":
            assert all(came["done"][0]["style"] in text for text in pair.instructions)


def test_pictures_alone_are_clean_and_spoiled_in_turn() -> None:
    folder = built(kind="captioned_images", train=6)
    pairs = built(train=6, name="pairs")
    alone = [e.image.open().tobytes() for e in open_dataset(str(folder))]
    both = [(p.source.open().tobytes(), p.target.open().tobytes()) for p in open_dataset(str(pairs))]
    assert alone == [source if i % 2 else target for i, (source, target) in enumerate(both)]


def test_a_picture_smaller_than_the_crop_is_left_out_with_the_reason() -> None:
    for number in range(8):
        Image.new("RGB", (20, 90), (number * 30, 9, 9)).save(f"photos/small_{number}.png")
    folder = built()
    funnel = json.loads((folder / "dataset.json").read_text())["provenance"]["stages"]["tune"]
    assert funnel["kept"] + funnel["is smaller than 32 px"] == 40
    assert 0 < funnel["kept"] < 40


def test_scales_bring_more_of_the_picture_into_the_crop() -> None:
    folder = built(more="scales = [0.5, 0.6]\ncombined = 0.0")
    assert all(0.5 <= json.loads(row["provenance"])["scale"] <= 0.6 for row in rows(folder))


def test_pictures_are_recoloured_for_training_alone() -> None:
    folder = built(train=12, test=6, more="recoloured = 1.0\ncombined = 0.0")
    came = {split: [json.loads(row["provenance"]) for row in rows(folder, split)] for split in ("train", "test")}
    assert all("hue_rad" in c for c in came["train"])
    assert not any("hue_rad" in c for c in came["test"])
    plain = [p.target.open().tobytes() for p in open_dataset(str(built(train=12, name="plain", more="combined = 0.0")))]
    assert not set(plain) & {p.target.open().tobytes() for p in open_dataset(str(folder))}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('tasks = ["derain", "debblur"]', 'did you mean "deblur"'),
        ("scales = [0.9, 0.4]", "expected [LEAST, MOST]"),
        ("tasks = []", "at least 1"),
    ],
)
def test_mistakes_are_said_in_one_line(more: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("[", r"\[")) as caught:
        built(more=more)
    assert "\n" not in str(caught.value)


def test_pictures_without_captions_and_pairs_are_told_apart() -> None:
    built(train=4, name="pairs")
    path = Path("wrong.toml")
    text = SPEC.format(name="wrong", kind="edit_pairs", train=4, test=0, more="").replace("photos.toml", "pairs.toml")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="found edit_pairs; expected captioned_images"):
        build_spec(path, None)


def test_the_held_out_words_are_others_and_every_combination_has_two_orders() -> None:
    assert not set(JOINED) & set(JOINED_HELD_OUT)
    for task in TASKS.values():
        assert len(set(task.phrasings)) == len(task.phrasings) >= 11
        assert not set(task.said("train")) & set(task.said("test"))
    seen, unseen = pairs_of(RESTORATIONS, "test", unseen=False), pairs_of(RESTORATIONS, "test", unseen=True)
    assert set(unseen) == set(HELD_OUT_PAIRS)
    assert not set(seen) & set(unseen)
    assert pairs_of(RESTORATIONS, "train", unseen=True) == pairs_of(RESTORATIONS, "train", unseen=False) == seen
