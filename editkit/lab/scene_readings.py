"""Pictures for the judge that reads scenes, with what can be seen in each: `builder = "scene_readings"` in a data spec.

A judge must not be blind to what it judges. So, unlike every set that a generator learns from, its training pictures show the
held-out compositions too; and half of the pictures are as a weak generator draws (`editkit.lab.scene_faults`). What it never
sees in training is any scene graph of its test split, which is part of the test split of the world: `Scene.kept_back`.

For judges alone: a generator that learned from these would be tested on what it knows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from random import Random
from typing import Any

from PIL import Image

from editkit.data.examples import CaptionedImage, Example
from editkit.data.pictures import Picture, png_bytes
from editkit.errors import UserError
from editkit.lab.scene_art import COLOURS, CREDITS, GLYPHS, OPENMOJI_LICENCE
from editkit.lab.scene_faults import FAULTS, Seen, spoil
from editkit.lab.scene_prompts import TAGS, Metadata, ask, draw_objects
from editkit.lab.scene_words import join, noun
from editkit.lab.scenes import Scene, draw_texture, pixels_a_unit, place, render
from editkit.recipe.schema import Fraction, NonNegativeInt, Section

SIZES = (32, 64)  # px
CLEAR, GONE = 0.6, 0.25  # visible from the first on it is an object, up to the second it is none; nobody is asked in between
EMPTY_SHARE, CROWD_SHARE = 0.05, 0.1  # of the scenes: what no prompt asks for, and generators draw
CROWD = (5, 6)  # objects of one class


class SceneReadingBuilder:
    """Makes pictures to read, half at 32 px and half at 64 px; holds options only, so that any process can make any example."""

    class Options(Section):
        """The keys of `[build]` behind `builder`."""

        train: NonNegativeInt  # examples of the "train" split
        test: NonNegativeInt  # of the "test" split, whose scene graphs and strangers are new
        faulty: Fraction = 0.5  # of both
        seed: int = 0

    def __init__(self, kind: str, options: Options) -> None:
        self._options = options

    def counts(self) -> Mapping[str, int]:
        return {"train": self._options.train, "test": self._options.test}

    def make(self, split: str, index: int) -> Example:
        return reading(self._options.seed, split, index, self._options.faulty)

    def credits(self) -> Mapping[str, str]:
        return CREDITS


def reading(seed: int, split: str, index: int, faulty: float = 0.5) -> CaptionedImage:
    """Picture `index` of a split; pure in its arguments.

    Its facts are the size in px, the fault ("" = none), GenEval's line that the scene was drawn for ("" where there is none, or
    where a fault may have broken it), and the graph of what can be seen (`seen_in`).
    """
    rng = Random(f"scene_readings/{seed}/{split}/{index}")
    scene, asked = _sample(rng, split)
    size = rng.choice(SIZES)
    fault = rng.choice(FAULTS) if rng.random() < faulty else ""
    if fault:
        other, _ = _sample(rng, split)
        image, seen = spoil(rng, scene, other, fault, split, size)
    else:
        image, seen = render(scene, size), clean(scene, size)
    return CaptionedImage(
        key=f"{split}-{index:06d}",
        image=_png(image),
        captions=(_caption(seen),),
        facts={
            "size": str(size),
            "fault": fault,
            "geneval": "" if fault or asked is None else json.dumps(asked),
            "graph": json.dumps({"objects": [_entry(s) for s in seen]}),
        },
        licence=OPENMOJI_LICENCE if fault in ("blended", "covered", "strangers") else scene.licence,
    )


def clean(scene: Scene, size: int) -> list[Seen]:
    """What is seen in a picture of the scene that nothing happened to."""
    scale = pixels_a_unit(size)
    return [Seen(t.kind, t.colour, t.box(scale)) for t in scene.things]


def seen_in(example: CaptionedImage) -> list[Seen]:
    """The objects of an example of the scenes world, of this builder's or of `builder = "scenes"`; boxes in px of its picture.

    Raises:
        UserError: the example is of another world.
    """
    if "graph" not in example.facts:
        raise UserError(f"{example.key}: found no scene graph; expected scenes, such as data_specs/scene_readings.toml")
    objects = json.loads(example.facts["graph"])["objects"]
    return [Seen(o["class"], o["color"], tuple(o["box"]), o.get("visible", 1.0)) for o in objects]


def side_of(example: CaptionedImage) -> int:
    """Side of its picture, px."""
    return int(example.facts.get("size", 0)) or example.image.open().width


def fault_of(example: CaptionedImage) -> str:
    """One of `FAULTS`; "" = none."""
    return example.facts.get("fault", "")


def _sample(rng: Random, split: str) -> tuple[Scene, Metadata | None]:
    """A scene of any composition whose graph belongs to the split, and what is asked of it."""
    chance = rng.random()
    if chance < EMPTY_SHARE:
        return Scene((), draw_texture(rng)), None
    crowded = chance < EMPTY_SHARE + CROWD_SHARE
    while True:
        tag = rng.choice(TAGS)
        things = place(rng, _crowd(rng) if crowded else draw_objects(rng, tag))
        if things is None:
            continue
        scene = Scene(things, draw_texture(rng))
        if scene.kept_back == (split == "test"):
            return scene, None if crowded else ask(rng, things, tag)


def _crowd(rng: Random) -> list[tuple[str, str]]:
    kind = rng.choice(list(GLYPHS))
    return [(kind, rng.choice(list(COLOURS))) for _ in range(rng.randint(*CROWD))]


def _entry(seen: Seen) -> dict[str, Any]:
    entry = asdict(seen)
    return {"class": entry.pop("kind"), "color": entry.pop("colour"), **entry, "box": list(seen.box)}


def _caption(seen: Sequence[Seen]) -> str:
    """What is clearly there, for people who look at the data."""
    nouns = [noun(s.kind, 1, s.colour) for s in seen if s.visible >= CLEAR]
    return join(nouns) if nouns else "nothing"


def _png(image: Image.Image) -> Picture:
    return Picture(data=png_bytes(image))
