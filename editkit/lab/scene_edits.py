"""The examples of the scenes world: captioned pictures and edit pairs.

`edit_pair(...)` and `captioned_image(...)` are pure functions of (seed, split, index): any process can make any example, and
the same three numbers give the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from PIL import Image

from editkit.data.examples import CaptionedImage, EditPair
from editkit.data.pictures import Picture, png_bytes
from editkit.lab.scene_art import COLOURS, GLYPHS
from editkit.lab.scene_prompts import TAGS, ask_everything, sample_prompt, unseen_in
from editkit.lab.scene_words import EDITS, beside, caption, count_of, in_place, instruction, noun
from editkit.lab.scenes import (
    GAP,
    MAX_COUNT,
    UNITS,
    Scene,
    Thing,
    add_thing,
    apart,
    draw_texture,
    nothing_held_out,
    place,
    relation,
    render,
)

NUM_CAPTIONS = 6  # of each picture: half of them say what its prompt asks for, the others all that it shows
NUM_PHRASINGS = 8  # instructions of each pair
LEAST = {
    "remove": 2,
    "move": 2,
    "swap": 3,
}  # objects, so that one stays: else the whole picture might have been moved or turned
SIDES = (10, 12)  # of all objects of an edit, so that another one finds room


@dataclass(frozen=True, slots=True)
class SceneEdit:
    """One change of a scene.

    Attributes:
        category: a key of `editkit.lab.scene_words.EDITS`.
        source, target: before and after, on the same ground.
        old: the object in question as it was; of "add" None.
        new: as it is afterwards; of "remove" None. Of "swap" the other object.
    """

    category: str
    source: Scene
    target: Scene
    old: Thing | None
    new: Thing | None


def captioned_image(seed: int, split: str, index: int, size: int, tags: Sequence[str] = TAGS) -> CaptionedImage:
    """Picture `index` of a split, of a category drawn evenly from `tags`.

    Its facts are the category, GenEval's line that it fulfils, which of the compositions asked for training never shows, and
    the scene graph.
    """
    rng = Random(f"scenes/{seed}/{split}/{index}")
    scene, asked = sample_prompt(rng, split, rng.choice(tags))
    told = [asked if i % 2 == 0 else ask_everything(scene) for i in range(NUM_CAPTIONS)]
    return CaptionedImage(
        key=f"{split}-{index:06d}",
        image=_png(render(scene, size)),
        captions=tuple(dict.fromkeys(caption(rng, what, held_out=split == "test") for what in told)),
        facts={
            "tag": asked["tag"],
            "geneval": json.dumps(asked),
            "unseen": "; ".join(unseen_in(asked)),
            "graph": json.dumps(scene.graph(size)),
        },
        licence=scene.licence,
    )


def edit_pair(seed: int, split: str, index: int, size: int) -> EditPair:
    """Pair `index` of a split: two drawings on one ground, the exact mask of what differs, the instruction in many words."""
    rng = Random(f"scene_edits/{seed}/{split}/{index}")
    edit = sample_edit(rng, split, rng.choice(list(EDITS)))
    before, after = render(edit.source, size), render(edit.target, size)
    differs_HW = (np.asarray(before) != np.asarray(after)).any(axis=2)
    held_out = split == "test"
    return EditPair(
        key=f"{split}-{index:06d}",
        source=_png(before),
        target=_png(after),
        instructions=tuple(dict.fromkeys(in_words(rng, edit, held_out) for _ in range(NUM_PHRASINGS))),
        category=edit.category,
        mask=_png(Image.fromarray(np.where(differs_HW, 255, 0).astype(np.uint8))),
        source_caption=caption(rng, ask_everything(edit.source), held_out),
        target_caption=caption(rng, ask_everything(edit.target), held_out),
        source_facts={"graph": json.dumps(edit.source.graph(size))},
        target_facts={"graph": json.dumps(edit.target.graph(size)), "unseen": "; ".join(edit.target.unseen)},
        licence=edit.target.licence if edit.category == "add" else edit.source.licence,
    )


def sample_edit(rng: Random, split: str, category: str) -> SceneEdit:
    """Draws an edit of that kind whose source and target are both of the split."""
    while True:
        kinds = rng.sample(list(GLYPHS), rng.randint(LEAST.get(category, 1), 4))
        if category == "recount":
            kinds = [kinds[0]] * len(kinds)
        colours = [rng.choice(list(COLOURS)) for _ in kinds]
        if category == "recount":
            colours = colours[:1] * len(kinds)
        things = place(rng, list(zip(kinds, colours, strict=True)), nothing_held_out if split == "train" else bool, SIDES)
        if things is None:
            continue
        changed = change(rng, things, category)
        if changed is None:
            continue
        after, old, new = changed
        number = draw_texture(rng)
        edit = SceneEdit(category, Scene(things, number), Scene(after, number), old, new)
        if edit.source.split == edit.target.split == split:
            return edit


def change(
    rng: Random, things: tuple[Thing, ...], category: str
) -> tuple[tuple[Thing, ...], Thing | None, Thing | None] | None:
    """The objects after an edit of that kind, and the one in question before and after it; None where it did not come about."""
    if category == "add":
        new = _another(rng, things, rng.choice([k for k in GLYPHS if k not in {t.kind for t in things}]))
        return ((*things, new), None, new) if new else None
    if category == "recount":
        more = len(things) == 1 or (len(things) < MAX_COUNT and rng.random() < 1 / 2)
        if not more:
            gone = rng.choice(things)
            return tuple(t for t in things if t is not gone), gone, things[0]
        new = _another(rng, things, things[0].kind, things[0].colour)
        return ((*things, new), things[0], new) if new else None
    old = rng.choice(things)
    others = [t for t in things if t is not old]
    if category == "remove":
        return tuple(others), old, None
    if category == "recolour":
        new = replace(old, colour=rng.choice([c for c in COLOURS if c != old.colour]))
        return tuple(new if t is old else t for t in things), old, new
    if category == "move":
        new = add_thing(rng, others, old.kind, old.colour, old.side)
        if new is None or _where(new, others) == _where(old, others):
            return None
        return tuple(new if t is old else t for t in things), old, new
    other = rng.choice(others)
    places = exchanged(things, old, other)
    return (tuple({old: places[0], other: places[1]}.get(t, t) for t in things), old, other) if places else None


def exchanged(things: Sequence[Thing], a: Thing, b: Thing) -> tuple[Thing, Thing] | None:
    """Two objects in each other's places, centre on centre; None where one would touch something, or leave the picture."""
    there, here = _at(a, b.centre), _at(b, a.centre)
    after = tuple({a: there, b: here}.get(t, t) for t in things)
    free = all(apart(s, t) for i, s in enumerate(after) for t in after[:i])
    return (there, here) if free and _inside(there) and _inside(here) else None


def in_words(rng: Random, edit: SceneEdit, held_out: bool) -> str:
    """The instruction of an edit, in words drawn anew."""
    old, new = edit.old, edit.new
    words: dict[str, str] = {}
    if edit.category == "recount" and old:
        before, after = len(edit.source.things), len(edit.target.things)
        words = {"old": count_of(old.kind, before), "new": count_of(old.kind, after)}
    elif edit.category == "recolour" and old and new:
        words = {"old": old.kind, "new": new.colour}
    else:
        words["old"] = _bare(rng, old) if old else ""
        if new:
            words["new"] = _bare(rng, new) if edit.category == "swap" else noun(new.kind, 1, new.colour)
            name, other = _where(new, [t for t in edit.source.things if t != old])
            words["where"] = beside(rng, name, _bare(rng, other), held_out) if other else in_place(new.place)
    return instruction(rng, edit.category, held_out, **words)


def _where(thing: Thing, others: Sequence[Thing]) -> tuple[str, Thing | None]:
    """What places an object best: its relation to the first one that it is clearly beside, else its ninth of the picture."""
    alone = Counter(t.kind for t in others)
    clear = [(name, t) for t in others if alone[t.kind] == 1 and (name := relation(thing, t))]
    return clear[0] if clear else (thing.place, None)


def _another(rng: Random, things: Sequence[Thing], kind: str, colour: str = "") -> Thing | None:
    return add_thing(rng, things, kind, colour or rng.choice(list(COLOURS)), rng.randint(*SIDES))


def _bare(rng: Random, thing: Thing) -> str:
    return thing.kind if rng.random() < 1 / 2 else f"{thing.colour} {thing.kind}"


def _at(thing: Thing, centre: tuple[float, float]) -> Thing:
    _, _, across, down = replace(thing, x=0, y=0).box()
    return replace(thing, x=round(centre[0] - across / 2), y=round(centre[1] - down / 2))


def _inside(thing: Thing) -> bool:
    left, top, right, bottom = thing.box()
    return min(left, top) >= GAP and max(right, bottom) <= UNITS - GAP


def sample_scenes(count: int, *, seed: int, split: str = "test", size: int = 64) -> list[CaptionedImage]:
    """The first `count` captioned pictures of a split."""
    return [captioned_image(seed, split, i, size) for i in range(count)]


def sample_scene_edits(count: int, *, seed: int, split: str = "test", size: int = 64) -> list[EditPair]:
    """The first `count` edit pairs of a split."""
    return [edit_pair(seed, split, i, size) for i in range(count)]


def _png(image: Image.Image) -> Picture:
    return Picture(data=png_bytes(image))
