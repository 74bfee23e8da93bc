"""Labels by hand: what is drawn to be labelled, what a label may say, and how a reader is scored against it."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from editkit.errors import UserError
from editkit.evaluate.benches.geneval import write_prompt_folders, write_sample
from editkit.evaluate.benches.hand_labels import FILE, Label, read_labels, score, score_labels, start
from editkit.lab.scene_prompts import prompts
from editkit.lab.scenes import render
from editkit.models.scene_reader.cells import Found
from tests.models.test_scene_reader import small


def bench(folder: Path, each: int = 4, samples: int = 2) -> Path:
    asked = prompts(0, "test", each)
    for place, (scene, _) in zip(write_prompt_folders(folder, [a for _, a in asked]), asked, strict=True):
        for number in range(samples):
            write_sample(place, number, render(scene, 32))
    return folder


def test_pictures_are_drawn_evenly_and_shown_without_their_prompts(tmp_path: Path) -> None:
    sheets = start(bench(tmp_path), 21)
    rows = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert all(row["label"] is None for row in rows)
    tags = Counter(json.loads((tmp_path / r["file"]).parents[1].joinpath("metadata.jsonl").read_text())["tag"] for r in rows)
    assert set(tags.values()) == {3}
    assert len({r["file"] for r in rows}) == 21
    assert [s.name for s in sheets] == ["labels-01.png", "labels-02.png"]
    assert Image.open(sheets[0]).width > 5 * 160
    with pytest.raises(UserError, match="is there already"):
        start(tmp_path, 21)


def test_the_choice_is_its_seed(tmp_path: Path) -> None:
    files = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        start(bench(tmp_path / name), 10, seed)
        files.append([json.loads(line)["file"] for line in (tmp_path / name / FILE).read_text().splitlines()])
    assert files[0] == files[1] != files[2]


def write_labels(folder: Path, *labels: object) -> Path:
    path = folder / FILE
    path.write_text("".join(json.dumps({"file": f"{i}.png", "label": label}) + "\n" for i, label in enumerate(labels)))
    return path


def test_a_label_says_what_is_seen(tmp_path: Path) -> None:
    found = read_labels(write_labels(tmp_path, "red apple, 2 blue bell", "nothing", "? bell", " red apple,2 star? "))
    assert found == [
        Label("0.png", (("apple", "red"), ("bell", "blue"), ("bell", "blue"))),
        Label("1.png", ()),
        Label("2.png", (("bell", ""),)),
        Label("3.png", (("apple", "red"),), ("star", "star")),
    ]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, ":2: found label = null; write what is seen"),
        ("", ":2: found label = "),
        ("red pear", ':2: found "red pear"; expected a colour'),
        ("mauve apple", 'found "mauve apple"'),
        ("apple", 'found "apple" without a colour; write "\\? apple"'),
        ("red apple,, star", 'found ""'),
        ("red apple star", 'found "red apple star"'),
    ],
)
def test_a_label_that_says_nothing_is_named(tmp_path: Path, label: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_labels(write_labels(tmp_path, "nothing", label))


def test_no_labels_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found no labels"):
        read_labels(tmp_path / FILE)
    (tmp_path / FILE).write_text("[1]\n")
    with pytest.raises(UserError, match=":1: found no label; expected"):
        read_labels(tmp_path / FILE)


def said(*objects: str) -> list[Found]:
    return [Found(*reversed(o.split()), (0, 0, 1, 1), 0.9) for o in objects]  # ty: ignore[invalid-argument-type]


@pytest.mark.parametrize(
    ("objects", "unsure", "read", "categories", "colours"),
    [
        (["red apple"], [], ["red apple"], 1, 1),
        (["red apple"], [], ["blue apple"], 1, 0),
        (["red apple"], [], ["red bell"], 0, math.nan),
        (["red apple", "red apple"], [], ["red apple"], 1 / 2, 1),
        (["red apple"], [], ["red apple", "red apple", "red bell"], 1 / 3, 1),
        (["red apple"], ["bell"], ["red apple", "red bell"], 1, 1),
        (["red apple"], ["bell"], ["red apple"], 1, 1),
        (["red apple"], ["bell"], ["red apple", "red bell", "red bell"], 1 / 2, 1),
        (["? apple"], [], ["red apple"], 1, math.nan),
        (["red apple", "blue apple"], [], ["red apple", "red apple"], 1, 1 / 2),
        ([], [], ["red apple"], 0, math.nan),
    ],
)
def test_agreement_by_hand(objects: list[str], unsure: list[str], read: list[str], categories: float, colours: float) -> None:
    pairs = tuple((kind, "" if colour == "?" else colour) for colour, kind in (o.split() for o in objects))
    result = score_labels([Label("x", pairs, tuple(unsure))], [said(*read)])
    assert result["categories"] == pytest.approx(categories)
    assert result["colours"] == pytest.approx(colours, nan_ok=True)
    assert result["pictures"] == (categories == 1)
    assert bool(result["confusion"]) == (categories != 1)


def test_what_is_not_sure_enough_was_not_read() -> None:
    faint = Found("bell", "red", (0, 0, 1, 1), 0.2)
    assert score_labels([Label("x", (("apple", "red"),))], [[*said("red apple"), faint]])["categories"] == 1


def test_a_reader_is_scored_on_the_labelled_pictures(tmp_path: Path) -> None:
    small().save(tmp_path / "reader")
    start(bench(tmp_path / "bench", 1, 1))
    path = tmp_path / "bench" / FILE
    path.write_text(path.read_text().replace("null", '"2 red apple"'))
    result = score(tmp_path / "bench", str(tmp_path / "reader"))
    assert result["n"] == 7
    assert 0 <= result["categories"] < 0.5  # it was never trained
