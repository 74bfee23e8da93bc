"""The scenes world: objects with a class, a colour and a place on a grey ground, and all that is true of them.

A scene is its graph: the objects, where they are, and the relations that follow. It can be drawn at 32 px and at 64 px. What
a model can be tested on is held back here: a quarter of the combinations of class and colour, of class and number, of two
classes, and of the directions in which two classes that do meet may meet (with the pairs, 46 % of all relations). No training
picture shows any of them, mentioned or not.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from editkit.lab.scene_art import GLYPHS, OPENMOJI_LICENCE, SHAPES_LICENCE, draw

UNITS = 32  # the side of a scene; what is placed lies on whole units, so that it lies on whole pixels
PATCHES = 16  # of the ground, a side
GAP = 1  # units between two objects, and to the edge
CLEARLY = 1.5  # "left of" is said of objects at least this many times as far apart across as down
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
MAX_COUNT = 4  # of GenEval's prompts
SIDES = {1: (14, 20), 2: (11, 14), 3: (10, 12)}  # number of objects -> longer side in units
SMALLEST = (9, 10)  # the same for more objects: below 9 px people begin to guess
HELD_OUT_SHARE = 1 / 4  # of the combinations of each kind
TEST_SHARE = 1 / 8  # of the scene graphs that hold no such combination


@dataclass(frozen=True, slots=True)
class Thing:
    """One object: a class of `GLYPHS`, a colour of `COLOURS`, and in units where its top left corner is and how long it is."""

    kind: str
    colour: str
    x: int
    y: int
    side: int

    def box(self, scale: int = 1) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in whole px, `scale` px a unit; the picture of the object fills it to its edges."""
        across, down = GLYPHS[self.kind].reach
        left, top = self.x * scale, self.y * scale
        return left, top, left + round(self.side * scale * across), top + round(self.side * scale * down)

    @property
    def centre(self) -> tuple[float, float]:
        left, top, right, bottom = self.box()
        return (left + right) / 2, (top + bottom) / 2

    @property
    def place(self) -> str:
        """Which ninth of the picture its centre is in: "top left", "centre" ..."""
        across, down = (min(int(3 * v / UNITS), 2) for v in self.centre)
        words = [("top", "", "bottom")[down], ("left", "", "right")[across]]
        return " ".join(w for w in words if w) or "centre"


@dataclass(frozen=True, slots=True)
class Scene:
    """Objects in the order in which they were placed, and the number that the texture of the ground is drawn from."""

    things: tuple[Thing, ...]
    ground: int

    @property
    def relations(self) -> list[tuple[int, str, int]]:
        """(i, relation, j) for each i < j whose relation is clear: object i is `relation` object j."""
        pairs = combinations(range(len(self.things)), 2)
        found = [(i, relation(self.things[i], self.things[j]), j) for i, j in pairs]
        return [(i, name, j) for i, name, j in found if name]

    @property
    def unseen(self) -> tuple[str, ...]:
        """The held-out compositions in it, in words; none in any training picture."""
        placed = [related(self.things[i].kind, name, self.things[j].kind) for i, name, j in self.relations]
        return held_out_among([*compositions([(t.kind, t.colour) for t in self.things]), *placed])

    @property
    def kept_back(self) -> bool:
        """Whether the graph is one of those that no training set has, whatever compositions are in it."""
        graph = sorted((t.kind, t.colour, t.place) for t in self.things)
        return _drawn(TEST_SHARE, json.dumps(graph))

    @property
    def split(self) -> str:
        """ "train" or "test": decided by the graph itself, so that the two never share one."""
        return "test" if self.unseen or self.kept_back else "train"

    @property
    def licence(self) -> str:
        """Of its picture: that of OpenMoji as soon as one glyph is in it."""
        return OPENMOJI_LICENCE if any(GLYPHS[t.kind].code for t in self.things) else SHAPES_LICENCE

    def graph(self, size: int) -> dict[str, Any]:
        """All that is true of its picture at `size` px, for JSON; boxes in px."""
        objects = [
            {"class": t.kind, "color": t.colour, "box": list(t.box(pixels_a_unit(size))), "place": t.place} for t in self.things
        ]
        return {"objects": objects, "relations": [list(r) for r in self.relations]}


def relation(a: Thing, b: Thing) -> str:
    """Where `a` is, seen from `b`: "left of", "right of", "above", "below", or "" where nobody could say for certain.

    Stricter than GenEval's rule, under which a diagonal is two relations at once: whatever is stated here, GenEval finds.
    """
    across, down = (v - w for v, w in zip(a.centre, b.centre, strict=True))
    if abs(across) >= CLEARLY * abs(down):
        return "left of" if across < 0 else "right of"
    if abs(down) >= CLEARLY * abs(across):
        return "above" if down < 0 else "below"
    return ""


def related(a: str, name: str, b: str) -> tuple[str, str, str, str]:
    """The one way to write a relation that can be said in two: ("relation", class, "left of" or "above", class)."""
    return ("relation", a, name, b) if name in ("left of", "above") else ("relation", b, OPPOSITE[name], a)


def compositions(objects: Sequence[tuple[str, str]]) -> list[tuple[str, ...]]:
    """What objects, (class, colour) each, make up wherever they stand: class and colour, class and number, two classes."""
    numbers = Counter(kind for kind, _ in objects)
    found: list[tuple[str, ...]] = [("colour", *thing) for thing in objects]
    found += [("count", kind, str(n)) for kind, n in numbers.items() if n > 1]
    return found + [("pair", a, b) for a, b in combinations(sorted(numbers), 2)]


def held_out_among(found: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Those of these compositions that are held out, in words."""
    return tuple(dict.fromkeys(": ".join((c[0], " ".join(c[1:]))) for c in found if is_held_out(*c)))


@cache
def is_held_out(*composition: str) -> bool:
    """Whether a composition, ("colour", "apple", "red") or the like, is kept from training."""
    if composition[0] == "relation" and composition[1] == composition[3]:
        return False  # two apples beside each other
    return _drawn(HELD_OUT_SHARE, "/".join(composition))


def _drawn(share: float, text: str) -> bool:
    return hashlib.sha256(f"scenes/{text}".encode()).digest()[0] < 256 * share


def apart(a: Thing, b: Thing) -> bool:
    """Whether two objects leave a gap between them."""
    (l1, t1, r1, b1), (l2, t2, r2, b2) = a.box(), b.box()
    return r1 + GAP <= l2 or r2 + GAP <= l1 or b1 + GAP <= t2 or b2 + GAP <= t1


def place(
    rng: Random,
    wanted: Sequence[tuple[str, str]],
    fits: Callable[[Sequence[Thing]], bool] = bool,
    sides: tuple[int, int] | None = None,
) -> tuple[Thing, ...] | None:
    """Puts objects, (class, colour) each, into free places; None where that fails.

    Args:
        rng: where the draws come from.
        wanted: the objects, in order.
        fits: asked after each object, with those that are there.
        sides: shortest and longest side in units; None = as `SIDES` says.
    """
    low, high = sides or SIDES.get(len(wanted), SMALLEST)
    things: list[Thing] = []
    for kind, colour in wanted:
        added = add_thing(rng, things, kind, colour, rng.randint(low, high), fits)
        if added is None:
            return None
        things.append(added)
    return tuple(things)


def add_thing(
    rng: Random, things: Sequence[Thing], kind: str, colour: str, side: int, fits: Callable[[Sequence[Thing]], bool] = bool
) -> Thing | None:
    """One more object in a free place, or None where twenty places were taken or did not fit."""
    _, _, across, down = Thing(kind, colour, 0, 0, side).box()
    for _ in range(20):
        x, y = rng.randint(GAP, UNITS - GAP - across), rng.randint(GAP, UNITS - GAP - down)
        added = Thing(kind, colour, x, y, side)
        if all(apart(added, t) for t in things) and fits([*things, added]):
            return added
    return None


def nothing_held_out(things: Sequence[Thing]) -> bool:
    """For `place`: whether these could be part of a training picture."""
    return not Scene(tuple(things), 0).unseen


def draw_texture(rng: Random) -> int:
    """A number for `Scene.ground`."""
    return rng.randrange(2**16)


def ground(number: int, size: int) -> Image.Image:
    """Grey with soft lighter and darker patches, RGB.

    They are fine enough to show that the ground stays where it was when objects move.
    """
    rng = Random(f"ground/{number}")
    level = rng.randint(172, 196)
    patches = Image.frombytes("L", (PATCHES, PATCHES), bytes(level + rng.randint(-9, 9) for _ in range(PATCHES**2)))
    return patches.resize((size, size), Image.Resampling.BILINEAR).convert("RGB")


def _layers(scene: Scene, scale: int) -> Iterator[tuple[Image.Image, tuple[int, int]]]:
    for thing in scene.things:
        left, top, right, bottom = thing.box(scale)
        yield draw(thing.kind, thing.colour, right - left, bottom - top), (left, top)


def pixels_a_unit(size: int) -> int:
    """Pixels a unit of a picture of `size` px, which must be a multiple of 32."""
    if size % UNITS or size < UNITS:
        raise ValueError(f"found a picture of {size} px; a scene is drawn at a multiple of {UNITS} px")
    return size // UNITS


def render(scene: Scene, size: int) -> Image.Image:
    """Draws the scene, RGB, `size` x `size` px; `size` a multiple of 32."""
    scale = pixels_a_unit(size)
    canvas = ground(scene.ground, size).convert("RGBA")
    for layer, corner in _layers(scene, scale):
        canvas.alpha_composite(layer, corner)
    return canvas.convert("RGB")


def object_masks(scene: Scene, size: int) -> list[np.ndarray]:
    """For each object the pixels that it touches, bool, shape (size, size); objects never overlap."""
    masks = []
    for layer, (left, top) in _layers(scene, pixels_a_unit(size)):
        mask_HW = np.zeros((size, size), dtype=bool)
        mask_HW[top : top + layer.height, left : left + layer.width] = np.asarray(layer)[:, :, 3] > 0
        masks.append(mask_HW)
    return masks
