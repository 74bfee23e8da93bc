"""The detector of the scenes world for pictures that a model drew: the trained scene reader.

It is a judge: no training, no filter and no critic of a model that is scored with it may use it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from editkit.data.examples import CaptionedImage
from editkit.evaluate.benches.geneval_rules import Detection, judge
from editkit.lab.scene_faults import Seen
from editkit.lab.scene_readings import seen_in
from editkit.models.scene_reader.cells import Found
from editkit.models.scene_reader.reader import SceneReader, load_scene_reader

READER = "lab:judges/scene_reader"


class SceneReaderDetector:
    """Objects and colours by a scene reader; `editkit.evaluate.benches.geneval.Detector`.

    Its confidences are probabilities (see the calibration in its card), so GenEval's thresholds are kept as they are: more than
    0.3 for an object to be there, and more than 0.9 for it to be counted.
    """

    def __init__(self, base: str = READER) -> None:
        """Loads the reader.

        Args:
            base: "lab:judges/scene_reader", a run, or a folder.
        """
        self.name = base
        self._reader: SceneReader = load_scene_reader(base)

    @property
    def classes(self) -> frozenset[str]:
        return frozenset(self._reader.kinds)

    def detect(self, image: Image.Image) -> list[Detection]:
        return [Detection(f.kind, f.box, f.score) for f in self._read(image)]

    def colours(self, image: Image.Image, detections: Sequence[Detection]) -> list[str]:
        known = {(f.kind, f.box): f.colour for f in self._read(image)}
        return [known[d.name, d.box] for d in detections]

    def _read(self, image: Image.Image) -> list[Found]:
        return self._reader.read([image])[0]


def agreeing_verdicts(examples: Sequence[CaptionedImage], read: Sequence[Sequence[Found]]) -> float:
    """How often GenEval's verdict is the same with what was read as with what is true; NaN where nothing was asked.

    Every picture is held against the prompt that it was drawn for, and against the next one of the same category, which it
    mostly does not fulfil.

    Args:
        examples: of `editkit.lab.scene_readings`; those without a prompt are passed over.
        read: what was read in each.
    """
    asked: dict[str, list[tuple[CaptionedImage, Sequence[Found], Mapping[str, Any]]]] = {}
    for example, found in zip(examples, read, strict=True):
        if line := example.facts.get("geneval"):
            prompt = json.loads(line)
            asked.setdefault(prompt["tag"], []).append((example, found, prompt))
    same: list[bool] = []
    for those in asked.values():
        for i, (example, found, prompt) in enumerate(those):
            truth = [_certain(s) for s in seen_in(example)]
            for line in (prompt, those[(i + 1) % len(those)][2]):
                same.append(_verdict(line, truth) == _verdict(line, found))
    return sum(same) / len(same) if same else float("nan")


def _certain(seen: Seen) -> Found:
    left, top, right, bottom = seen.box
    return Found(seen.kind, seen.colour, (left, top, right, bottom), 1.0)


def _verdict(asked: Mapping[str, Any], objects: Sequence[Found]) -> bool:
    detections = [Detection(f.kind, f.box, f.score) for f in objects]
    colour_of = {id(d): f.colour for d, f in zip(detections, objects, strict=True)}
    return judge(asked, detections, lambda chosen: [colour_of[id(d)] for d in chosen]).correct
