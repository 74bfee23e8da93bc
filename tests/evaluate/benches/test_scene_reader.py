"""The scene reader as a detector of GenEval."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from editkit.evaluate.benches.geneval import score_folder, write_prompt_folders, write_sample
from editkit.evaluate.benches.scene_reader import SceneReaderDetector, agreeing_verdicts
from editkit.lab.scene_prompts import prompts
from editkit.lab.scene_readings import reading, seen_in
from editkit.lab.scenes import render
from editkit.models.scene_reader.cells import Found
from tests.models.test_scene_reader import HUES, KINDS, small


def test_it_is_a_detector_that_geneval_takes(tmp_path: Path) -> None:
    parts = small()
    with torch.no_grad():
        parts.make(KINDS, HUES).head[-1].bias[0].fill_(4.0)
    parts.save(tmp_path / "reader")
    detector = SceneReaderDetector(str(tmp_path / "reader"))
    asked = prompts(0, "test", 2)
    for folder, (scene, _) in zip(write_prompt_folders(tmp_path / "bench", [a for _, a in asked]), asked, strict=True):
        write_sample(folder, 0, render(scene, 64))
    rows = score_folder(tmp_path / "bench", detector)
    assert len(rows) == len(asked)
    assert detector.classes == set(KINDS)
    image = render(asked[0][0], 64)
    found = detector.detect(image)
    assert found
    assert set(detector.colours(image, found)) <= set(HUES)
    assert len(detector.colours(image, found[:1])) == 1


def test_verdicts_agree_with_the_truth_and_not_with_a_blind_reader() -> None:
    examples = [reading(0, "test", i, 0.0) for i in range(80)]
    truth = [[Found(s.kind, s.colour, s.box, 1.0) for s in seen_in(e)] for e in examples]
    assert agreeing_verdicts(examples, truth) == 1
    blind = agreeing_verdicts(examples, [[] for _ in examples])
    assert blind == pytest.approx(0.5, abs=0.05)  # it is right about the prompts that the pictures do not fulfil
    unsure = [[Found(f.kind, f.colour, f.box, 0.5) for f in those] for those in truth]
    assert blind < agreeing_verdicts(examples, unsure) < 1  # there, and not counted
    assert math.isnan(agreeing_verdicts([], []))
