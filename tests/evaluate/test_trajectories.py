"""What was said and drawn: true captions, readable steps, and GenEval in the lab on pictures whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from editkit.data.traces import Inspection, inspection_text
from editkit.errors import UserError
from editkit.evaluate.benches.scene_bench import bench_prompts, load_scene_judge, score_scenes
from editkit.evaluate.benches.scene_truth import SceneTruth
from editkit.evaluate.captions import count_true_captions, is_true
from editkit.evaluate.trajectories import Trajectory, frames_of, score_trajectories
from editkit.lab.scene_edits import sample_scenes
from editkit.lab.scene_prompts import prompts
from editkit.lab.scenes import render

GRAPH = {
    "objects": [{"class": "star", "color": "red"}, {"class": "cat", "color": "blue"}, {"class": "cat", "color": "green"}],
    "relations": [[0, "left of", 1]],
}


@pytest.mark.parametrize(
    ("text", "true"),
    [
        ("a photo of a red star", True),
        ("a red star", True),
        ("a photo of a star and two cats", True),
        ("a photo of a cat", False),  # there are two
        ("a photo of a blue cat", True),
        ("a photo of a blue star", False),
        ("a photo of a star left of a blue cat", True),
        ("a photo of a star left of a green cat", False),  # that is the other one
        ("a star of red", False),
        ("", False),
    ],
)
def test_a_caption_is_true_when_all_that_it_states_is_so(text: str, true: bool) -> None:
    assert is_true(text, GRAPH) == true


def test_relations_are_part_of_the_truth() -> None:
    graph = {"objects": GRAPH["objects"][:2], "relations": GRAPH["relations"]}
    assert is_true("a photo of a star left of a cat", graph)
    assert is_true("a photo of a cat to the right of a star", graph)
    assert not is_true("a photo of a cat to the left of a star", graph)
    examples = sample_scenes(40, seed=5, split="train", size=32)
    graphs = [json.loads(e.facts["graph"]) for e in examples]
    assert count_true_captions([e.captions[-1] for e in examples], graphs) == 40
    assert count_true_captions([e.captions[-1] for e in examples], [*graphs[1:], graphs[0]]) < 8


def made(*parts: str, by_itself: bool = True) -> Trajectory:
    found = Trajectory(why="said so", by_itself=by_itself)
    for part in parts:
        found.add_picture(torch.zeros(3, 8, 8)) if part == "*" else found.add_text(part)
    return found


PLAN, GOOD = "<ins>draw a star</ins><des>a star</des>", "The image is correct."
BAD = inspection_text(Inspection(False, "image", ("the star is red",), (), "make it blue"))


def test_the_form_of_trajectories_in_figures() -> None:
    whole = made(PLAN, "*", BAD, PLAN, "*", GOOD)
    unfinished, garbled, nothing = made(PLAN, "*", PLAN, by_itself=False), made("hello", "*"), made()
    assert [t.well_formed for t in (whole, unfinished, garbled, nothing)] == [True, False, False, False]
    assert score_trajectories([whole, unfinished, garbled, nothing]) == {
        "well_formed": 0.25, "stopped": 0.75, "pictures": 1.0, "inspected": 0.5, "rejected": 0.5,
    }  # fmt: skip
    assert nothing.last_picture(8).size == (8, 8)
    assert whole.last_picture(8) is whole.pictures[-1]


def test_frames_show_all_that_came_in_its_order() -> None:
    frames = frames_of(made(PLAN, "*", BAD, PLAN, "*", GOOD))
    assert [(f.instruction, f.verdict, f.good, f.picture is not None) for f in frames] == [
        ("draw a star", "The image is wrong: the star is red. To do: make it blue", False, True),
        ("draw a star", GOOD, True, True),
    ]  # fmt: skip
    odd = frames_of(made("hello", "*", "*", GOOD, GOOD))
    assert [(f.instruction, f.note, f.verdict, f.picture is not None) for f in odd] == [
        ("hello", "cannot be read", "", True), ("", "", GOOD, True), ("", "", GOOD, False),
    ]  # fmt: skip
    assert frames_of(made())[0].note == "nothing was written"
    by_hand = Trajectory()
    for text in ("hello", GOOD):
        by_hand.add_text(text, by_hand=True)
    assert frames_of(by_hand)[0].note == "cannot be read, plan by hand, verdict by hand"


def test_geneval_in_the_lab_gives_truth_full_marks_and_others_pictures_few(tmp_path: Path) -> None:
    asked = bench_prompts(21)
    scenes = [scene for scene, _ in prompts(0, "test", 3)]
    assert asked == [a for _, a in prompts(0, "test", 3)]
    truth = SceneTruth(scenes, 32)
    images = [render(scene, 32) for scene in scenes]
    scores, by_category = score_scenes(tmp_path, asked, images, truth)
    assert scores == {
        "demands_met": 1.0, "multi": 1.0, "geneval": 1.0, "geneval_stderr": 0.0, "geneval_seen": 1.0, "geneval_unseen": 1.0,
    }  # fmt: skip
    assert len(by_category) == 7
    scores, _ = score_scenes(tmp_path, asked, [*images[1:], images[0]], truth)
    assert scores["geneval"] < 0.4
    long = [i for i, a in enumerate(asked) if a["tag"] == "multi"]
    others = [images[long[0] - 1] if i in long else image for i, image in enumerate(images)]
    scores, _ = score_scenes(tmp_path, asked, others, truth)
    assert (scores["geneval"], scores["multi"]) == (1.0, 0.0), "GenEval's own six categories, and ours apart"
    with Image.open(tmp_path / "geneval" / "00000" / "samples" / "0000.png") as first:
        assert first.size == (32, 32)
    assert len((tmp_path / "geneval" / "results.jsonl").read_text().splitlines()) == len(asked)


def test_a_judge_of_another_world_is_refused() -> None:
    assert load_scene_judge("") is None
    with pytest.raises(UserError, match='found "lab:judges", which reads avatars'):
        load_scene_judge("lab:judges")
    with pytest.raises(UserError):
        load_scene_judge("runs/nowhere")
