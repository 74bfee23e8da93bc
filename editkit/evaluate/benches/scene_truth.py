"""A detector that knows: what is on a picture of the scenes world, from the scene that it was drawn from.

It recognises its own renders by their pixels and refuses everything else. With it the bench itself is tested, and what the
builders write is checked against GenEval's rules; outputs of a model need a detector that can see.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from PIL import Image

from editkit.errors import UserError
from editkit.evaluate.benches.geneval_rules import Box, Detection
from editkit.lab.scene_art import GLYPHS
from editkit.lab.scenes import Scene, object_masks, pixels_a_unit, render


class SceneTruth:
    """The detector of these scenes at this size; `editkit.evaluate.benches.geneval.Detector`."""

    name = "the scene graph"
    classes = frozenset(GLYPHS)

    def __init__(self, scenes: Iterable[Scene], size: int) -> None:
        self._scenes = {_digest(render(scene, size)): scene for scene in scenes}

    def detect(self, image: Image.Image) -> list[Detection]:
        scene = self._scene_of(image)
        masks = object_masks(scene, image.width)
        boxes = [t.box(pixels_a_unit(image.width)) for t in scene.things]
        return [Detection(t.kind, box, 1.0, mask) for t, box, mask in zip(scene.things, boxes, masks, strict=True)]

    def colours(self, image: Image.Image, detections: Sequence[Detection]) -> list[str]:
        scale = pixels_a_unit(image.width)
        known: dict[tuple[str, Box], str] = {(t.kind, t.box(scale)): t.colour for t in self._scene_of(image).things}
        return [known[d.name, d.box] for d in detections]

    def _scene_of(self, image: Image.Image) -> Scene:
        scene = self._scenes.get(_digest(image))
        if scene is None:
            raise UserError("found a picture that is none of these scenes; the scene graph knows only what was drawn from it")
        return scene


def _digest(image: Image.Image) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()
