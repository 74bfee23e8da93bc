"""Pictures for the judge that reads scenes: what can be seen in them is true, and test graphs are never in training."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest

from editkit.build import build
from editkit.data.examples import CaptionedImage
from editkit.data.read import open_dataset
from editkit.lab.scene_art import COLOURS, GLYPHS
from editkit.lab.scene_faults import FAULTS, STRANGERS, Layer, Seen, paint, spoil
from editkit.lab.scene_readings import clean, reading, seen_in
from editkit.lab.scenes import Scene, Thing, compositions, ground, held_out_among, object_masks, render

SCENE = Scene((Thing("circle", "red", 3, 4, 14), Thing("square", "blue", 19, 18, 10)), 7)
OTHER = Scene((Thing("star", "green", 2, 20, 10), Thing("lock", "black", 20, 2, 10)), 9)


@pytest.fixture(scope="module")
def train() -> list[CaptionedImage]:
    return [reading(0, "train", i) for i in range(300)]


@pytest.fixture(scope="module")
def test() -> list[CaptionedImage]:
    return [reading(0, "test", i) for i in range(150)]


def test_an_example_is_its_number_alone(train: list[CaptionedImage]) -> None:
    again = reading(0, "train", 17)
    assert again.image.read_bytes() == train[17].image.read_bytes()
    assert (again.facts, again.captions) == (train[17].facts, train[17].captions)
    assert reading(1, "train", 17).facts != again.facts


def test_both_sizes_and_every_fault_occur_and_half_are_clean(train: list[CaptionedImage]) -> None:
    assert set(Counter(e.facts["fault"] for e in train)) == {"", *FAULTS}
    for values in (Counter(e.facts["size"] for e in train), Counter(bool(e.facts["fault"]) for e in train)):
        assert all(110 <= n <= 190 for n in values.values()), values
    for example in train[:40]:
        assert example.image.open().size == (int(example.facts["size"]),) * 2


def test_the_judge_is_shown_the_compositions_that_generators_are_not(train: list[CaptionedImage]) -> None:
    shown = [held_out_among(compositions([(s.kind, s.colour) for s in seen_in(e)])) for e in train if not e.facts["fault"]]
    assert sum(bool(s) for s in shown) > 0.3 * len(shown)


def graph_of(example: CaptionedImage) -> tuple[tuple[str, str, str], ...]:
    side = int(example.facts["size"])
    names = []
    for s in seen_in(example):
        centre = ((s.box[0] + s.box[2]) / 2 / side, (s.box[1] + s.box[3]) / 2 / side)
        names.append((s.kind, s.colour, str([min(int(3 * v), 2) for v in centre])))
    return tuple(sorted(names))


def test_no_graph_is_in_both_splits(train: list[CaptionedImage], test: list[CaptionedImage]) -> None:
    graphs = [{graph_of(e) for e in those if not e.facts["fault"]} - {()} for those in (train, test)]
    assert not graphs[0] & graphs[1]
    assert not set(STRANGERS["train"]) & set(STRANGERS["test"])


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_graph_belongs_to_one_split_of_the_world(split: str, request: pytest.FixtureRequest) -> None:
    for example in request.getfixturevalue(split):
        if example.facts["fault"] or not seen_in(example):
            continue
        scale = int(example.facts["size"]) // 32
        things = tuple(
            Thing(
                s.kind, s.colour, s.box[0] // scale, s.box[1] // scale, max(s.box[2] - s.box[0], s.box[3] - s.box[1]) // scale
            )
            for s in seen_in(example)
        )
        assert Scene(things, 0).kept_back == (split == "test")


@pytest.mark.parametrize("size", [32, 64])
def test_a_scene_without_a_fault_is_the_worlds_own_picture(size: int) -> None:
    seen = clean(SCENE, size)
    assert [s.box for s in seen] == [t.box(size // 32) for t in SCENE.things]
    for one, mask_HW in zip(seen, object_masks(SCENE, size), strict=True):
        rows, columns = np.nonzero(mask_HW)
        assert one.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def square(left: int, top: int, side: int = 10, kind: str = "square", alpha: float = 1.0) -> Layer:
    alpha_HW = np.full((side, side), alpha, np.float32)
    return Layer(np.full((side, side, 3), 200, np.float32), alpha_HW, left, top, float(side * side), kind, "red")


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([square(4, 6)], [Seen("square", "red", (4, 6, 14, 16))]),
        ([square(-5, 6)], [Seen("square", "red", (0, 6, 5, 16), 0.5)]),
        ([square(40, 6)], [Seen("square", "red", (0, 0, 0, 0), 0.0)]),
        ([square(4, 6, alpha=0.3)], [Seen("square", "red", (4, 6, 14, 16), 0.3)]),
        ([square(4, 6), square(4, 12, kind="")], [Seen("square", "red", (4, 6, 14, 12), 0.6)]),
        ([square(4, 6), square(8, 6)], [Seen("square", "red", (4, 6, 8, 16), 0.4), Seen("square", "red", (8, 6, 18, 16))]),
    ],
    ids=["whole", "cut by the edge", "outside", "faint", "under a stranger", "under another"],
)
def test_what_is_left_of_an_object_is_counted_by_hand(layers: list[Layer], expected: list[Seen]) -> None:
    assert paint(ground(0, 32), layers)[1] == expected


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_changes_the_picture_and_what_is_said_stays_true(fault: str) -> None:
    untouched, changed = 0, []
    for i in range(12):
        image, seen = spoil(Random(i), SCENE, OTHER, fault, "train", 64)
        assert image.size == (64, 64)
        changed.append(np.abs(np.asarray(image).astype(int) - np.asarray(render(SCENE, 64)).astype(int)).max())
        pixels_HWC, ground_HWC = (np.asarray(x).astype(int) for x in (image, ground(SCENE.ground, 64)))
        for one in seen:
            left, top, right, bottom = one.box
            assert 0 <= left < right <= 64
            assert 0 <= top < bottom <= 64
            assert one.kind in GLYPHS
            assert one.colour in {"", *COLOURS}
            if one.visible > 0.6:
                part = np.s_[top:bottom, left:right]
                assert np.abs(pixels_HWC[part] - ground_HWC[part]).max() > 20, "said to be there, and it is not"
            untouched += one.visible == 1 and fault != "blended"
    assert sum(c > 20 for c in changed) >= 10
    if fault in ("scrambled", "smudged", "erased", "cut", "faint"):
        assert 0 < untouched < 24


def test_a_built_set_has_its_credits_and_its_facts(workplace: Path) -> None:
    Path("small.toml").write_text(
        'format = 1\nname = "small"\nkind = "captioned_images"\nlicence = "as stated"\n'
        '[build]\nbuilder = "scene_readings"\ntrain = 12\ntest = 4\nfaulty = 1.0\n'
    )
    facts = json.loads((build("small.toml") / "dataset.json").read_text())
    assert facts["counts"] == {"train": 12, "test": 4}
    assert "OpenMoji" in facts["licences"]["CC BY-SA 4.0"]["credit"]
    dataset = open_dataset("small.toml")
    assert all(dataset[i].facts["fault"] in FAULTS for i in range(12))
