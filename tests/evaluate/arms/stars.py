"""Eyes for the one trace that `tests.planners.run_by_heart` knows: every picture is a star, red or blue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from editkit.evaluate.arms.inference import Task
from editkit.evaluate.benches.geneval_rules import Detection
from editkit.lab.scene_art import GLYPHS
from editkit.lab.scenes import Scene, Thing
from tests.planners import LEARNED

ASKED = {"tag": "colors", "include": [{"class": "star", "count": 1, "color": "blue"}], "prompt": LEARNED.prompt}
SCENE = Scene((Thing("star", "blue", 8, 8, 16),), 0)


class Stars:
    """A detector."""

    name = "stars"
    classes = frozenset(GLYPHS)

    def detect(self, image: Image.Image) -> list[Detection]:
        red, _, blue = np.asarray(image).mean((0, 1))
        return [] if abs(red - blue) < 5 else [Detection("star", (8.0, 8.0, 24.0, 24.0), 1.0)]

    def colours(self, image: Image.Image, detections: Sequence[Detection]) -> list[str]:
        red, _, blue = np.asarray(image).mean((0, 1))
        return ["red" if red > blue else "blue"] * len(detections)


def tasks(number: int = 2) -> list[Task]:
    return [Task(0, n, ASKED, SCENE, 5 + n) for n in range(number)]
