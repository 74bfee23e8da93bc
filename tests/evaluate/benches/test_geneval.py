"""GenEval from the prompt file to the figures, in the official forms."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from editkit.errors import UserError
from editkit.evaluate.benches.geneval import (
    read_folder,
    read_prompts,
    read_results,
    score_folder,
    write_prompt_folders,
    write_results,
    write_sample,
)
from editkit.evaluate.benches.geneval_rules import Detection
from editkit.evaluate.benches.geneval_summary import compare, print_summary, summarise
from editkit.evaluate.benches.scene_truth import SceneTruth
from editkit.lab.scene_prompts import TAGS, prompts
from editkit.lab.scenes import Scene, Thing, render

OFFICIAL = [
    {"tag": "counting", "include": [{"class": "clock", "count": 2}], "exclude": [{"class": "clock", "count": 3}],
     "prompt": "a photo of two clocks"},
    {"tag": "position", "include": [{"class": "teddy bear", "count": 1},
                                    {"class": "dog", "count": 1, "position": ["right of", 0]}],
     "prompt": "a photo of a dog right of a teddy bear"},
    {"tag": "color_attr", "include": [{"class": "wine glass", "count": 1, "color": "purple"},
                                      {"class": "apple", "count": 1, "color": "black"}],
     "prompt": "a photo of a purple wine glass and a black apple"},
]  # fmt: skip


class Fixed:
    """A detector that finds the same in every picture."""

    name = "a fixed list"
    classes = frozenset({"clock", "teddy bear", "dog", "wine glass", "apple"})

    def __init__(self, *found: Detection) -> None:
        self._found = list(found)

    def detect(self, image: Image.Image) -> list[Detection]:
        return self._found

    def colours(self, image: Image.Image, detections: Sequence[Detection]) -> list[str]:
        return ["purple" if d.name == "wine glass" else "black" for d in detections]


def prompt_file(folder: Path, *lines: Any) -> Path:
    path = folder / "evaluation_metadata.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_the_official_prompt_file_is_read_as_it_is(tmp_path: Path) -> None:
    assert read_prompts(prompt_file(tmp_path, *OFFICIAL)) == OFFICIAL


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r":2: found no JSON"),
        ("[1]", r":2: found list; expected an object"),
        ({"tag": "colors", "include": [], "prompt": "x"}, r":2: found include = \[\]"),
        ({"tag": "colors", "include": [{"class": "cat"}], "prompt": "x"}, r":2: include\[0\]: found count = None"),
        ({"tag": "colors", "include": [{"class": "cat", "count": 0}], "prompt": "x"}, r"found count = 0; expected"),
        ({"tag": "colors", "include": [{"count": 1}], "prompt": "x"}, r"expected an object with a class"),
        ({"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "mauve"}], "prompt": "x"}, r"color = 'mauve'"),
        ({"tag": "position", "include": [{"class": "a", "count": 1, "position": ["near", 0]}], "prompt": "x"}, "position"),
        ({"tag": "position", "include": [{"class": "a", "count": 1, "position": ["above", 0]}], "prompt": "x"}, "earlier"),
        ({"tag": "counting", "include": [{"class": "a", "count": 1}], "exclude": 3, "prompt": "x"}, r"found exclude = 3"),
        ({"tag": "counting", "include": [{"class": "a", "count": 1}], "exclude": [3], "prompt": "x"}, r"exclude\[0\]: found 3"),
        ({"tag": "colors", "include": [{"class": "a", "count": 1}]}, r'expected a str "prompt"'),
    ],
)  # fmt: skip
def test_a_line_that_is_none_of_genevals_is_named(tmp_path: Path, line: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_prompts(prompt_file(tmp_path, OFFICIAL[0], line))


def test_no_file_and_an_empty_one_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read as a GenEval prompt file"):
        read_prompts(tmp_path / "nothing.jsonl")
    with pytest.raises(UserError, match="found no prompt"):
        read_prompts(prompt_file(tmp_path, ""))


def test_the_folder_has_the_official_layout(tmp_path: Path) -> None:
    samples = write_prompt_folders(tmp_path, OFFICIAL)
    for folder in samples:
        for number in range(4):
            write_sample(folder, number, Image.new("RGB", (8, 8)))
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert names[:5] == ["00000/metadata.jsonl", *(f"00000/samples/000{i}.png" for i in range(4))]
    assert names[-1] == "00002/samples/0003.png"
    found = read_folder(tmp_path)
    assert [p.asked for p in found] == OFFICIAL
    assert [len(p.samples) for p in found] == [4, 4, 4]


def test_a_folder_without_prompts_or_pictures_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found no folder such as 00000"):
        read_folder(tmp_path)
    write_prompt_folders(tmp_path, OFFICIAL[:1])
    with pytest.raises(UserError, match=r"samples: found no picture"):
        read_folder(tmp_path)
    prompt_file(tmp_path, *OFFICIAL).rename(tmp_path / "00000" / "metadata.jsonl")
    with pytest.raises(UserError, match="found 3 lines"):
        read_folder(tmp_path)


def test_results_have_the_official_keys_and_come_back(tmp_path: Path) -> None:
    for folder in write_prompt_folders(tmp_path, OFFICIAL):
        write_sample(folder, 0, Image.new("RGB", (200, 50)))
    glass, apple = Detection("wine glass", (0, 0, 10, 10), 0.8), Detection("apple", (50, 0, 60, 10), 0.7)
    rows = score_folder(tmp_path, Fixed(glass, apple, Detection("apple", (0, 0, 1, 1), 0.2)))
    assert [r["correct"] for r in rows] == [False, False, True]
    assert rows[0]["reason"] == "expected clock>=2, found 0"
    assert rows[2]["filename"] == "00002/samples/0000.png"
    assert json.loads(rows[2]["metadata"]) == OFFICIAL[2]
    assert json.loads(rows[2]["details"]) == {"wine glass": [[0, 0, 10, 10, 0.8]], "apple": [[50, 0, 60, 10, 0.7]]}
    write_results(tmp_path / "results.jsonl", rows)
    assert read_results(tmp_path / "results.jsonl") == rows


def test_a_broken_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text('{"tag": "colors", "prompt": "x", "correct": true}\n{"tag": "colors"}\n')
    with pytest.raises(UserError, match=r"results.jsonl:2: found no result"):
        read_results(tmp_path / "results.jsonl")


def test_a_class_that_the_detector_does_not_know_is_no_failure_of_the_model(tmp_path: Path) -> None:
    for folder in write_prompt_folders(tmp_path, OFFICIAL):
        write_sample(folder, 0, Image.new("RGB", (8, 8)))
    with pytest.raises(UserError, match=r"found prompts on clock, dog, teddy.*the scene graph does not know"):
        score_folder(tmp_path, SceneTruth([], 32))


def rows_of(**tags: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """tag -> for each prompt which of its pictures are right."""
    return [
        {"tag": tag, "prompt": f"{tag} {i}", "filename": f"{i:05d}/samples/{j:04d}.png", "correct": bool(right)}
        for tag, prompts in tags.items()
        for i, pictures in enumerate(prompts)
        for j, right in enumerate(pictures)
    ]


def test_the_summary_worked_out_by_hand() -> None:
    rows = rows_of(counting=[[1, 1], [0, 0], [1, 0], [0, 0]], colors=[[1, 1, 1, 1], [1, 1, 0, 0]])
    found = summarise(rows)
    assert found["tags"]["counting"]["correct"] == 3 / 8
    assert found["tags"]["colors"]["correct"] == 6 / 8
    assert found["overall"] == pytest.approx((3 / 8 + 6 / 8) / 2)  # of tags, not of pictures
    assert found["images"] == 9 / 16
    assert found["prompts"] == 4 / 6
    # means of the prompts 1, 0, 0.5, 0: sd 0.4787, over sqrt(4); and 1, 0.5: sd 0.3536, over sqrt(2)
    assert found["tags"]["counting"]["stderr"] == pytest.approx(0.23936, abs=1e-4)
    assert found["tags"]["colors"]["stderr"] == pytest.approx(0.25)
    assert found["stderr"] == pytest.approx(math.sqrt(0.23936**2 + 0.25**2) / 2, abs=1e-4)


def test_pictures_of_one_prompt_are_not_counted_as_independent() -> None:
    alone = rows_of(colors=[[i % 2] for i in range(20)])
    four_each = rows_of(colors=[[i % 2] * 4 for i in range(20)])
    assert summarise(four_each)["stderr"] == pytest.approx(summarise(alone)["stderr"])


def test_one_prompt_has_no_error_and_nothing_has_no_summary() -> None:
    assert math.isnan(summarise(rows_of(colors=[[1, 0]]))["stderr"])
    with pytest.raises(UserError, match="found no result to summarise"):
        summarise([])


def test_a_prompt_that_the_file_asks_twice_is_two_prompts() -> None:
    rows = rows_of(colors=[[1], [0]])
    for row in rows:
        row["prompt"] = "the same"
    assert summarise(rows)["tags"]["colors"]["prompts"] == 2


def test_the_paired_bootstrap_sees_a_difference_that_the_errors_alone_would_hide() -> None:
    rng = np.random.default_rng(0)
    easy = rng.random(200) < 0.6  # both models get the easy prompts right, and one of them a few more
    more = easy | (rng.random(200) < 0.08)
    theirs, ours = rows_of(colors=[[v] for v in easy]), rows_of(colors=[[v] for v in more])
    found = compare(ours, theirs, draws=2000)
    assert found["difference"] == pytest.approx(more.mean() - easy.mean())
    assert 0 < found["low"] < found["difference"] < found["high"]
    assert found["p"] < 0.05
    assert found["high"] - found["difference"] < 2 * summarise(ours)["stderr"]
    assert compare(ours, theirs, draws=2000) == found
    back = compare(theirs, ours, draws=2000)
    assert back["difference"] == pytest.approx(-found["difference"])


def test_equal_models_do_not_differ_and_others_prompts_are_refused() -> None:
    rows = rows_of(colors=[[1], [0], [1]], counting=[[0], [1]])
    assert compare(rows, rows, draws=100) == {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    with pytest.raises(UserError, match="the same prompt file"):
        compare(rows, rows[1:])


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(1), 0
    for _ in range(60):
        ours, theirs = (rows_of(colors=[[v] for v in rng.random(80) < p]) for p in (0.7, 0.5))
        found = compare(ours, theirs, draws=400)
        hits += found["low"] <= 0.2 <= found["high"]
    assert hits >= 51  # 95 % of 60 is 57; 51 or fewer would come about once in a hundred times


def test_the_printed_summary_names_the_detector_and_every_error(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(counting=[[1], [0]], multi=[[1], [1]])
    print_summary(summarise(rows), "a fixed list")
    text = capsys.readouterr().out
    assert "seen by a fixed list" in text
    assert "50.00 % ± 50.00" in text
    assert "75.00 % ± 25.00" in text


@pytest.mark.parametrize("size", [32, 64])
def test_every_scene_fulfils_its_prompt_under_genevals_rules(tmp_path: Path, size: int) -> None:
    asked = [pair for split in ("train", "test") for pair in prompts(0, split, 8)]
    for folder, (scene, _) in zip(write_prompt_folders(tmp_path, [a for _, a in asked]), asked, strict=True):
        write_sample(folder, 0, render(scene, size))
    rows = score_folder(tmp_path, SceneTruth([scene for scene, _ in asked], size))
    assert {r["tag"] for r in rows} == set(TAGS)
    assert not [(r["prompt"], r["reason"]) for r in rows if not r["correct"]]
    assert summarise(rows)["atoms"] == 1


@pytest.mark.parametrize(
    ("tag", "broken"),
    [
        ("single_object", {"kind": "bell"}),
        ("colors", {"colour": "blue"}),
        ("color_attr", {"colour": "blue"}),
        ("position", {"x": 20}),
    ],
)
def test_a_wrong_scene_is_wrong(tmp_path: Path, tag: str, broken: dict[str, Any]) -> None:
    things = [{"kind": "cat", "colour": "red", "x": 1, "y": 11, "side": 10}]
    include: list[dict[str, Any]] = [{"class": "cat", "count": 1}]
    if tag in ("position", "color_attr"):
        things.insert(0, {"kind": "star", "colour": "green", "x": 11 if tag == "position" else 20, "y": 11, "side": 9})
        include.insert(0, {"class": "star", "count": 1})
    if tag in ("colors", "color_attr"):
        include[-1]["color"] = "red"
    if tag == "position":
        include[-1]["position"] = ["left of", 0]
    metadata = {"tag": tag, "include": include, "prompt": "a photo of a cat"}
    scenes = [Scene(tuple(Thing(**t) for t in [*things[:-1], last]), 0) for last in (things[-1], things[-1] | broken)]
    for folder, scene in zip(write_prompt_folders(tmp_path, [metadata] * 2), scenes, strict=True):
        write_sample(folder, 0, render(scene, 32))
    assert [r["correct"] for r in score_folder(tmp_path, SceneTruth(scenes, 32))] == [True, False]


def test_the_truth_knows_only_its_own_pictures() -> None:
    with pytest.raises(UserError, match="none of these scenes"):
        SceneTruth([], 32).detect(Image.new("RGB", (32, 32)))
